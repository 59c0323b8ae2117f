//! A hold: money, a place and a right to be counted, taken for one call. Whoever has it ends it exactly once; dropping it ends
//! it by policy.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cell::Cell;
use super::{Engine, Key};
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::usage::{Certainty, Counts, Meter};

/// What is set aside for one call.
#[must_use = "dropping a hold ends it"]
#[derive(Debug)]
pub struct Hold {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    engine: Arc<Engine>,
    key: Arc<Key>,
    cell: Arc<Cell>,
    amount: Amount,
    /// The most the call can cost beyond the hold, as far as that is known.
    excess: Amount,
    unsettled: Unsettled,
}

impl Hold {
    pub(super) fn new(
        engine: Arc<Engine>,
        key: Arc<Key>,
        cell: Arc<Cell>,
        amounts: super::Ask<'_>,
        unsettled: Unsettled,
    ) -> Self {
        let excess = amounts.worst.saturating_sub(amounts.amount).or_zero();
        if excess.is_positive() {
            engine.exposure.fetch_add(excess.nanos(), Relaxed);
        }
        Self {
            open: Some(Open {
                engine,
                key,
                cell,
                amount: amounts.amount,
                excess,
                unsettled,
            }),
        }
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
        match open.unsettled {
            Unsettled::Release => open.release(),
            Unsettled::Charge => {
                let (cost, counts) = (open.amount, Counts::default().with(Meter::Request, 1));
                open.settle(cost, Certainty::Estimated, &counts);
            }
        }
    }
}

impl Open {
    fn settle(self, cost: Amount, certainty: Certainty, counts: &Counts) {
        let account = self.key.account();
        account.purse().settle(self.amount, cost);
        if self.cell.count(cost, certainty, counts) && account.queue(Arc::clone(&self.cell)) {
            self.engine.queue(Arc::clone(account));
        }
        let over = cost.saturating_sub(self.amount);
        if over.is_positive() {
            self.engine.overshoot.fetch_add(over.nanos(), Relaxed);
        }
        self.end();
    }

    fn release(self) {
        self.key.account().purse().release(self.amount);
        self.end();
    }

    fn end(self) {
        self.key.account().leave();
        if self.excess.is_positive() {
            self.engine.exposure.fetch_sub(self.excess.nanos(), Relaxed);
        }
    }
}
