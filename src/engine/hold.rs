//! A hold: money, a place and a right to be counted, taken for one call. Whoever has it ends it exactly once; dropping it ends
//! it by policy.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cell::{Cell, ModelId};
use super::special::uncovered;
use super::{Account, Ask, Key};
use crate::clock::{Hour, Now};
use crate::id::AccountId;
use crate::money::Amount;
use crate::pricing::Price;
use crate::refusal::Reason;
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
    /// What few calls have.
    extra: Option<Box<Extra>>,
}

/// What few calls have beside a hold of money.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// What the whole call is expected to cost in money, had it no plan.
    pub(super) estimate: Amount,
    /// In which epoch of the account's leases it was taken: what a later one leased is not given what this gives back.
    pub(super) epoch: Option<u32>,
    /// In which outage of the store it was taken beyond the lease, if it was.
    pub(super) beyond: Option<u32>,
    /// Why it would have been refused, were its account live.
    pub(super) would: Option<Reason>,
    /// The plan that pays for it, or for a part of it.
    pub(super) plan: Option<PlanHold>,
    /// The budgets that it counts to.
    pub(super) budgets: Vec<Hold>,
    /// Its account is not live: it is counted and costs nothing.
    pub(super) shadow: bool,
    /// For a call that came in without asking whether its account is let go of.
    pub(super) awaited: Option<Awaited>,
}

/// A hold in a plan's account.
#[derive(Debug)]
pub(super) struct PlanHold {
    pub(super) hold: Hold,
    /// What the call costs in the plan's unit.
    pub(super) price: Arc<Price>,
    /// What it is expected to.
    pub(super) estimate: Amount,
    /// It is over, and its charge comes late: so much was held.
    pub(super) late: Option<Amount>,
}

/// What a hold stood on beside money, for a charge that comes when it is over: that goes where the hold's would have gone.
#[derive(Debug)]
pub struct Stood {
    /// What the whole call was expected to cost in money.
    estimate: Amount,
    plan: Option<StoodPlan>,
    /// The budgets, each with the owner's key in it.
    budgets: Vec<Arc<Key>>,
    shadow: bool,
}

#[derive(Debug)]
struct StoodPlan {
    /// The owner's key in the plan's account.
    key: Arc<Key>,
    price: Arc<Price>,
    estimate: Amount,
    held: Amount,
}

impl Stood {
    /// The plan's account, and how much of it a charge takes: what these counts cost in its unit, or what was held, if there are none.
    pub fn plan(&self, counts: Option<&Counts>) -> Option<(&Arc<Account>, Amount)> {
        let plan = self.plan.as_ref()?;
        let cost = counts.and_then(|counts| plan.price.cost(counts).ok());
        Some((plan.key.account(), cost.unwrap_or(plan.held)))
    }

    /// A hold of nothing on the same.
    pub(super) fn again(&self, counted_as: ModelId, now: Now) -> Extra {
        let nothing = |key: &Arc<Key>| {
            let account = key.account();
            account.enter_anyway();
            let extra = Extra {
                epoch: Some(account.epoch()),
                ..Extra::default()
            };
            Hold::new(Arc::clone(key), Ask::nothing(counted_as), now.wall.hour()).with(extra)
        };
        // Of a lease whose time is over, nothing may be used: the plan has nothing here then.
        let usable = |plan: &&StoodPlan| plan.key.account().usable(now);
        let plan = self.plan.as_ref().filter(usable).map(|plan| PlanHold {
            hold: nothing(&plan.key),
            price: Arc::clone(&plan.price),
            estimate: plan.estimate,
            late: Some(plan.held),
        });
        Extra {
            estimate: self.estimate,
            plan,
            budgets: self.budgets.iter().map(nothing).collect(),
            shadow: self.shadow,
            ..Extra::default()
        }
    }
}

/// What a call needs beside what is set aside for it.
#[derive(Debug, Default)]
pub struct Needs {
    /// The plan's account, and how much it has too little, if the plan cannot pay its part.
    pub plan: Option<(Arc<Account>, Amount)>,
    /// Of money, for what the plan leaves.
    pub money: Amount,
}

/// What a call cost in money, had it no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Worked out from its counts, so its cost in another unit is, too.
    Metered(Amount),
    /// Given, or taken from the hold: a plan pays the part that it holds.
    Flat(Amount),
}

impl Cost {
    const fn amount(self) -> Amount {
        match self {
            Self::Metered(amount) | Self::Flat(amount) => amount,
        }
    }
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
                extra: None,
            }),
        }
    }

    /// The same with what few calls have.
    pub(super) fn with(mut self, extra: Extra) -> Self {
        if let Some(open) = &mut self.open {
            open.extra = Some(Box::new(extra));
        }
        self
    }

    /// The same, with what keeps its account until its end.
    pub(super) fn awaited(self, awaited: Awaited) -> Self {
        self.with(Extra {
            awaited: Some(awaited),
            ..Extra::default()
        })
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

    /// How much money is set aside.
    pub fn amount(&self) -> Amount {
        self.open.as_ref().map_or(Amount::ZERO, |open| open.amount)
    }

    /// What the call is expected to cost in money, had it no plan: as much as is set aside, if it has none.
    pub fn estimate(&self) -> Amount {
        match self.extra().filter(|extra| extra.plan.is_some()) {
            Some(extra) => extra.estimate,
            None => self.amount(),
        }
    }

    /// How much of a plan is set aside, and of which; `None` if no plan pays.
    pub fn plan(&self) -> Option<(Amount, &AccountId)> {
        let plan = self.extra()?.plan.as_ref()?;
        Some((plan.hold.amount(), plan.hold.key()?.account().id()))
    }

    /// What the call costs in the unit of the plan that pays.
    pub fn plan_price(&self) -> Option<&Price> {
        Some(&self.extra()?.plan.as_ref()?.price)
    }

    /// What it stands on beside money; `None` if on nothing.
    pub fn stood(&self) -> Option<Stood> {
        let extra = self.extra()?;
        let plan = extra.plan.as_ref().and_then(|plan| {
            Some(StoodPlan {
                key: Arc::clone(plan.hold.key()?),
                price: Arc::clone(&plan.price),
                estimate: plan.estimate,
                held: plan.hold.amount(),
            })
        });
        let budgets = extra.budgets.iter();
        let stood = Stood {
            estimate: extra.estimate,
            plan,
            budgets: budgets.filter_map(|hold| hold.key().cloned()).collect(),
            shadow: extra.shadow,
        };
        let beside = stood.plan.is_some() || !stood.budgets.is_empty() || stood.shadow;
        beside.then_some(stood)
    }

    /// What it would take beside what is set aside, were it settled now: of its plan what that cannot pay, and of money.
    pub fn needs(&self, cost: Cost, counts: &Counts) -> Needs {
        let extra = self.extra();
        if extra.is_some_and(|extra| extra.shadow) {
            return Needs::default();
        }
        let plan = extra.and_then(|extra| extra.plan.as_ref());
        let (plan, left) = match plan.map(|plan| plan.missing(cost, counts)) {
            None => (None, cost.amount()),
            Some((missing, left)) => (missing, left),
        };
        Needs {
            plan,
            money: left.saturating_sub(self.amount()).or_zero(),
        }
    }

    /// Why it would have been refused, if its account were live.
    pub fn would_refuse(&self) -> Option<Reason> {
        self.extra()?.would
    }

    fn extra(&self) -> Option<&Extra> {
        self.open.as_ref()?.extra.as_deref()
    }

    /// Ends it with what the call cost: always applies, also below zero.
    pub fn settle(self, cost: Amount, certainty: Certainty, counts: &Counts) {
        self.settle_as(Cost::Metered(cost), certainty, counts);
    }

    /// The same. Returns what it cost in money, once a plan has paid its part.
    pub fn settle_as(mut self, cost: Cost, certainty: Certainty, counts: &Counts) -> Amount {
        match self.open.take() {
            Some(open) => open.end_as(cost, certainty, counts),
            None => Amount::ZERO,
        }
    }

    /// Ends it with as much of a cost as was set aside and is free beside it, and never more. Returns how much that was.
    fn settle_up_to(mut self, most: Amount, certainty: Certainty, counts: &Counts) -> Amount {
        match self.open.take() {
            Some(open) => open.settle_up_to(most, certainty, counts),
            None => Amount::ZERO,
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
            let extra = open.extra.as_deref();
            let planned = extra.filter(|extra| extra.plan.is_some());
            let estimate = planned.map(|extra| extra.estimate);
            let cost = Cost::Flat(estimate.unwrap_or(open.amount));
            let counts = Counts::default().with(Meter::Request, 1);
            open.end_as(cost, Certainty::Estimated, &counts);
        } else {
            open.release();
        }
    }
}

impl PlanHold {
    /// What the plan would be short of, were this settled now, and what that leaves to money. As [`Self::settle`], and nothing ends.
    fn missing(&self, cost: Cost, counts: &Counts) -> (Option<(Arc<Account>, Amount)>, Amount) {
        let held = self.hold.amount();
        let key = self.hold.key();
        match (self.metered(cost, counts), key) {
            (Some(whole), Some(key)) => {
                let account = key.account();
                let there = held.saturating_add(account.purse().headroom().or_zero());
                let missing = whole.saturating_sub(there);
                let missing = missing
                    .is_positive()
                    .then(|| (Arc::clone(account), missing));
                (missing, uncovered(cost.amount(), whole, whole.min(there)))
            }
            _ if self.estimate.is_positive() => {
                (None, uncovered(cost.amount(), self.estimate, held))
            }
            _ => (None, cost.amount()),
        }
    }

    /// What the call costs in the plan's unit, where its cost is worked out from its counts.
    fn metered(&self, cost: Cost, counts: &Counts) -> Option<Amount> {
        match cost {
            Cost::Metered(_) => self.price.cost(counts).ok(),
            Cost::Flat(_) => None,
        }
    }

    /// Ends it: the plan pays what it can. Returns what that leaves to money.
    fn settle(self, cost: Cost, certainty: Certainty, counts: &Counts) -> Amount {
        let metered = self.metered(cost, counts);
        let Self {
            hold,
            estimate,
            late,
            ..
        } = self;
        let held = hold.amount();
        match metered {
            Some(whole) => {
                let paid = hold.settle_up_to(whole, certainty, counts);
                uncovered(cost.amount(), whole, paid)
            }
            None => {
                let held = match late {
                    // It went back, and the plan pays of it what it still has.
                    Some(held) => hold.settle_up_to(held, certainty, counts),
                    None => {
                        hold.settle(held, certainty, counts);
                        held
                    }
                };
                if estimate.is_positive() {
                    uncovered(cost.amount(), estimate, held)
                } else {
                    // Nothing was set aside, so nothing says how much of it the plan would pay.
                    cost.amount()
                }
            }
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

    fn end_as(mut self, cost: Cost, certainty: Certainty, counts: &Counts) -> Amount {
        self.key.last_cell.fetch_ahead();
        let Some(extra) = self.extra.take() else {
            self.key
                .account()
                .purse()
                .settle(self.amount, cost.amount());
            self.count(cost.amount(), certainty, counts);
            return cost.amount();
        };
        let Extra {
            epoch,
            beyond,
            plan,
            budgets,
            shadow,
            awaited,
            ..
        } = *extra;
        let money = match plan {
            _ if shadow => Amount::ZERO,
            Some(plan) => plan.settle(cost, certainty, counts),
            None => cost.amount(),
        };
        for budget in budgets {
            budget.settle(money, certainty, counts);
        }
        let account = self.key.account();
        account.end_hold(self.amount, money, epoch, beyond);
        self.count(money, certainty, counts);
        drop(awaited);
        money
    }

    fn settle_up_to(mut self, most: Amount, certainty: Certainty, counts: &Counts) -> Amount {
        let epoch = self.extra.take().and_then(|extra| extra.epoch);
        let account = self.key.account();
        let paid = account.end_hold_up_to(self.amount, most, epoch);
        self.count(paid, certainty, counts);
        paid
    }

    /// Counts what it cost, once that is out of the purse, and ends it.
    fn count(self, cost: Amount, certainty: Certainty, counts: &Counts) {
        let account = self.key.account();
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

    fn release(mut self) {
        let account = self.key.account();
        match self.extra.take() {
            None => account.purse().release(self.amount),
            Some(extra) => {
                let Extra {
                    epoch,
                    beyond,
                    plan,
                    budgets,
                    ..
                } = *extra;
                let inner = plan.map(|plan| plan.hold).into_iter().chain(budgets);
                inner.for_each(Hold::release);
                account.end_hold(self.amount, Amount::ZERO, epoch, beyond);
            }
        }
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
