//! A hold: money, a place and a right to be counted, taken for one call. Whoever has it ends it exactly once; dropping it ends
//! it by policy.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cell::{Cell, ModelId};
use super::{Ask, Key};
use crate::clock::Hour;
use crate::money::Amount;
use crate::usage::{Certainty, Counts, Meter};

/// What is set aside for one call.
#[must_use = "dropping a hold ends it"]
#[derive(Debug)]
pub struct Hold {
    /// `None` once it has ended.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    key: Arc<Key>,
    amount: Amount,
    /// The most the call can cost beyond the hold, as far as that is known.
    excess: Amount,
    /// The hour it was admitted in: its usage stands under it.
    hour: Hour,
    model: ModelId,
    /// The cell that notes the hold, if its account had unsettled holds charged when it was taken: what was noted is taken back
    /// there, whatever the policy says by then.
    noted_in: Option<Arc<Cell>>,
    /// For a call that came in without asking whether its account is let go of.
    _awaited: Option<Awaited>,
}

/// A call whose hold is over and whose charge may still come: its account is not let go of. Made while the hold is open, and
/// dropped once the charge is counted, or cannot come any more.
#[derive(Debug)]
pub struct Awaited(Arc<Key>);

impl Awaited {
    /// A call of a key.
    pub fn new(key: Arc<Key>) -> Self {
        key.account().expect_charge();
        Self(key)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.account().expect_no_charge();
    }
}

impl Hold {
    pub(super) fn new(key: Arc<Key>, ask: Ask<'_>, hour: Hour) -> Self {
        let excess = ask.worst.saturating_sub(ask.amount).or_zero();
        if excess.is_positive() {
            key.account()
                .shared()
                .exposure
                .fetch_add(excess.nanos(), Relaxed);
        }
        Self {
            open: Some(Open {
                key,
                amount: ask.amount,
                excess,
                hour,
                model: ask.counted_as,
                noted_in: None,
                _awaited: None,
            }),
        }
    }

    /// The same, with what keeps its account until its end.
    pub(super) fn awaited(mut self, awaited: Awaited) -> Self {
        if let Some(open) = &mut self.open {
            open._awaited = Some(awaited);
        }
        self
    }

    /// The same, noted where a killed process leaves it, if the account has unsettled holds charged.
    pub(super) fn noted(mut self) -> Self {
        if let Some(open) = &mut self.open
            && open.key.account().charges_unsettled()
        {
            open.note();
        }
        self
    }

    /// Whose call it is. `None` only after the end.
    pub fn key(&self) -> Option<&Arc<Key>> {
        self.open.as_ref().map(|open| &open.key)
    }

    /// How much is set aside.
    pub fn amount(&self) -> Amount {
        self.open.as_ref().map_or(Amount::ZERO, |open| open.amount)
    }

    /// Ends it with what the call cost: always applies, also below zero.
    pub fn settle(mut self, cost: Amount, certainty: Certainty, counts: &Counts) {
        if let Some(open) = self.open.take() {
            open.settle(cost, certainty, counts);
        }
    }

    /// Ends it: the call never took place and is not counted.
    pub fn release(mut self) {
        if let Some(open) = self.open.take() {
            open.release();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.key.account().charges_unsettled() {
            let (cost, counts) = (open.amount, Counts::default().with(Meter::Request, 1));
            open.settle(cost, Certainty::Estimated, &counts);
        } else {
            open.release();
        }
    }
}

impl Open {
    fn note(&mut self) {
        let note = |cell: &Arc<Cell>| {
            cell.hold(self.amount);
            Arc::clone(cell)
        };
        let (model, hour) = (self.model, self.hour);
        self.noted_in = Some(self.key.last_cell.with(&self.key, model, hour, note));
    }

    fn settle(self, cost: Amount, certainty: Certainty, counts: &Counts) {
        let account = self.key.account();
        account.purse().settle(self.amount, cost);
        let count = |cell: &Arc<Cell>| {
            if cell.count(cost, certainty, counts) {
                account.queue(Arc::clone(cell));
            }
        };
        if let Some(cell) = &self.noted_in {
            // Before the call is counted: killed between the two, it is not charged, rather than twice.
            cell.end_hold(self.amount);
            count(cell);
        } else {
            let (model, hour) = (self.model, self.hour);
            self.key.last_cell.with(&self.key, model, hour, count);
        }
        let over = cost.saturating_sub(self.amount);
        if over.is_positive() {
            account.shared().overshoot.fetch_add(over.nanos(), Relaxed);
        }
        self.end();
    }

    fn release(self) {
        self.key.account().purse().release(self.amount);
        if let Some(cell) = &self.noted_in {
            cell.end_hold(self.amount);
        }
        self.end();
    }

    fn end(self) {
        let account = self.key.account();
        account.leave();
        if self.excess.is_positive() {
            account
                .shared()
                .exposure
                .fetch_sub(self.excess.nanos(), Relaxed);
        }
    }
}
