//! Calls of accounts that have more than money and a policy: deadlines ahead, plans, budgets, rates bought for a time, shadow. One
//! flag says that an account is one of these; the calls of all others do not come here.
//!
//! The order is the same, with steps of its own in their places:
//!
//! ```text
//! key → standing by the call's own time → model → concurrency → rate → the key's own rate
//!     → the first plan in scope that has anything → money for what that leaves → every budget
//! ```
//!
//! All or nothing: what one step took goes back if a later one refuses. A plan and a budget are accounts inside the account
//! ([`crate::id::AccountId::inner`]) with leases of their own, so nothing here is shared between replicas otherwise than money is.

use std::sync::Arc;

use dashmap::DashMap;

use super::account::Account;
use super::hold::{Extra, PlanHold};
use super::{Ask, Denied, Hold, Key, Leg, Rules};
use crate::clock::{Hour, Now, Timestamp};
use crate::engine::ModelId;
use crate::id::KeyId;
use crate::money::Amount;
use crate::policy::{PlanShortfall, StoreOutage};
use crate::pricing::Price;
use crate::refusal::{Reason, Refusal};
use crate::store::KeyRecord;

/// What such a call asks beside the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct More<'a> {
    /// What it is a call of, for what must be reactivated.
    pub capability: Option<&'a str>,
    /// No price in money is known: only a plan can pay.
    pub plans_only: bool,
    /// The plans that may pay, in their order.
    pub plans: &'a [PlanAsk],
    /// The budgets that it counts to.
    pub budgets: &'a [BudgetAsk],
    /// The plans were asked for more: what they have now is all.
    pub plans_final: bool,
    /// The budgets were.
    pub budgets_final: bool,
    /// The store is away: go on as far as the policy says.
    pub beyond: bool,
    /// Of an account that is not live yet: let it pass without money, and say so.
    pub waive: bool,
}

/// A plan that may pay for a call.
#[derive(Clone, Debug)]
pub struct PlanAsk {
    /// Its account.
    pub inner: Arc<Inner>,
    /// What the model costs in its unit.
    pub price: Arc<Price>,
    /// What the whole call is expected to cost in it.
    pub amount: Amount,
}

/// A budget that a call counts to.
#[derive(Clone, Debug)]
pub struct BudgetAsk {
    /// Its account.
    pub inner: Arc<Inner>,
    /// When it begins anew, if it does.
    pub ends: Option<Timestamp>,
}

/// An account inside an account, and the owner's keys as its usage is counted by.
#[derive(Debug)]
pub struct Inner {
    account: Arc<Account>,
    /// As many as the owner has keys that were used.
    keys: DashMap<KeyId, Arc<Key>, foldhash::fast::RandomState>,
}

impl Inner {
    /// An account that was loaded.
    pub fn new(account: Arc<Account>) -> Arc<Self> {
        Arc::new(Self {
            account,
            keys: DashMap::default(),
        })
    }

    /// The account.
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// A key of the owner, in this account.
    fn key(&self, of: &Key) -> Arc<Key> {
        if let Some(key) = self.keys.get(of.id()) {
            return Arc::clone(&key);
        }
        let fresh = || {
            let record = KeyRecord::unlimited(of.id().clone(), self.account.id().clone());
            Arc::new(Key::new(Arc::clone(&self.account), record))
        };
        Arc::clone(&self.keys.entry(of.id().clone()).or_insert_with(fresh))
    }

    /// A hold of what was taken here for one of the owner's keys. The owner's call is in flight, so this account stays.
    fn hold(&self, of: &Key, taken: Part, counted_as: ModelId, hour: Hour) -> Hold {
        self.account.enter_anyway();
        let ask = Ask {
            model: None,
            counted_as,
            priced: true,
            amount: taken.amount,
            worst: taken.amount,
            more: None,
        };
        let extra = Extra {
            epoch: Some(taken.epoch),
            ..Extra::default()
        };
        Hold::new(self.key(of), ask, hour).with(extra).noted()
    }
}

/// What was taken from one account, and in which epoch of its leases.
#[derive(Clone, Copy, Debug)]
struct Part {
    amount: Amount,
    epoch: u32,
}

/// What was taken for a call.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// From money.
    money: Amount,
    epoch: u32,
    beyond: Option<u32>,
    plan: Option<(usize, Part)>,
    budgets: Vec<Part>,
    would: Option<Reason>,
}

/// The share of a cost in money that a plan leaves: `money × (cost − paid) / cost`, rounded once, half up. A plan that a call costs
/// nothing pays it whole.
pub fn uncovered(money: Amount, cost: Amount, paid: Amount) -> Amount {
    if !cost.is_positive() {
        return Amount::ZERO;
    }
    let (money, cost) = (i128::from(money.nanos()), i128::from(cost.nanos()));
    let left = cost.saturating_sub(paid.nanos().into()).max(0);
    // Each is below 2^63, so the product is below 2^126.
    let twice = money
        .saturating_mul(left)
        .saturating_mul(2)
        .saturating_add(cost);
    let share = twice.div_euclid(cost.saturating_mul(2).max(1));
    Amount::from_nanos(i64::try_from(share).unwrap_or(i64::MAX))
}

pub(super) fn admit(key: Arc<Key>, ask: Ask<'_>, now: Now) -> Result<Hold, (Arc<Key>, Denied)> {
    let more = ask.more.copied().unwrap_or_default();
    match check(&key, ask, &more, now) {
        Ok(taken) => Ok(made(key, ask, &more, now, taken)),
        Err(denied) => Err((key, denied)),
    }
}

fn check(key: &Key, ask: Ask<'_>, more: &More<'_>, now: Now) -> Result<Taken, Denied> {
    let account = key.account();
    account.turn(now);
    let rules = account.rules();
    let live = rules.policy.enforced(now.wall);
    let standing = rules.refused(more.capability, now.wall);
    super::come_in(key, ask, standing.filter(|_| live), now)?;
    let taken = super::check_rates(key, now, || take(account, &rules, ask, more, now));
    let mut taken = taken.inspect_err(|_| account.leave())?;
    taken.would = standing.filter(|_| !live).or(taken.would);
    Ok(taken)
}

/// The plan, money and the budgets.
fn take(
    account: &Account,
    rules: &Rules,
    ask: Ask<'_>,
    more: &More<'_>,
    now: Now,
) -> Result<Taken, Denied> {
    let mut taken = Taken {
        plan: take_plan(rules, more, now)?,
        ..Taken::default()
    };
    let plan = taken
        .plan
        .and_then(|(index, part)| Some((more.plans.get(index)?, part)));
    let whole = plan.is_some_and(|(plan, part)| part.amount >= plan.amount);
    if !whole {
        let left = |(plan, part): (&PlanAsk, Part)| uncovered(ask.amount, plan.amount, part.amount);
        let need = plan.map_or(ask.amount, left);
        let money = take_money(account, rules, need, more, now);
        let money = if more.plans_only {
            // A plan pays or nothing does.
            Err(Denied::Refused(Refusal::new(Reason::InsufficientBalance)))
        } else {
            money
        };
        match money {
            Ok(money) => {
                (taken.money, taken.epoch) = (money.amount, money.epoch);
                (taken.beyond, taken.would) = (money.beyond, money.would);
            }
            Err(denied) => {
                taken.give_back(account, more);
                return Err(denied);
            }
        }
    }
    for (index, budget) in more.budgets.iter().enumerate() {
        match take_budget(budget, index, taken.money, whole, more, now) {
            Ok(part) => taken.budgets.push(part),
            Err(denied) => {
                taken.give_back(account, more);
                return Err(denied);
            }
        }
    }
    Ok(taken)
}

/// From the first plan that has anything: all that the call is expected to cost, or a part of it if the policy splits.
fn take_plan(rules: &Rules, more: &More<'_>, now: Now) -> Result<Option<(usize, Part)>, Denied> {
    for (index, plan) in more.plans.iter().enumerate() {
        let account = plan.inner.account();
        // Before anything is taken: what is taken of a lease that ends meanwhile is of the lease before.
        let epoch = account.epoch();
        let leased = account.usable(now);
        // A plan with nothing left does not pay, also not for what it would cost nothing.
        let least = plan.amount.max(Amount::from_nanos(1));
        if leased && account.purse().hold(plan.amount, least).is_ok() {
            let amount = plan.amount;
            return Ok(Some((index, Part { amount, epoch })));
        }
        let all = leased && account.dry(now.mono);
        if !(all || more.plans_final) {
            return Err(Denied::Short(Leg::Plan(index)));
        }
        if !leased {
            continue;
        }
        if rules.policy.plan_shortfall == PlanShortfall::Whole {
            if account.purse().headroom().is_positive() {
                return Ok(None);
            }
            continue;
        }
        let amount = account.purse().take_up_to(plan.amount);
        if amount.is_positive() {
            return Ok(Some((index, Part { amount, epoch })));
        }
    }
    Ok(None)
}

/// What was taken of money.
struct Money {
    amount: Amount,
    epoch: u32,
    beyond: Option<u32>,
    would: Option<Reason>,
}

fn take_money(
    account: &Account,
    rules: &Rules,
    amount: Amount,
    more: &More<'_>,
    now: Now,
) -> Result<Money, Denied> {
    let epoch = account.epoch();
    let taken = |amount, beyond, would| Money {
        amount,
        epoch,
        beyond,
        would,
    };
    let leased = account.usable(now);
    let denied = match super::hold(account, leased, amount, now) {
        Ok(()) => return Ok(taken(amount, None, None)),
        Err(denied) => denied,
    };
    if let (true, StoreOutage::UpTo(most)) = (more.beyond, rules.policy.store_outage)
        && let Some(outage) = account.take_beyond(amount, most)
    {
        return Ok(taken(amount, Some(outage), None));
    }
    // Before it is live, an account's calls pass whatever it has; once it is known that it has too little.
    let sure = more.waive || matches!(denied, Denied::Refused(_));
    if sure && !rules.policy.enforced(now.wall) {
        let would = Some(Reason::InsufficientBalance);
        return Ok(taken(Amount::ZERO, None, would));
    }
    Err(denied)
}

fn take_budget(
    budget: &BudgetAsk,
    index: usize,
    amount: Amount,
    paid_by_plan: bool,
    more: &More<'_>,
    now: Now,
) -> Result<Part, Denied> {
    let account = budget.inner.account();
    let epoch = account.epoch();
    let leased = account.usable(now);
    // One that is used up lets nothing pass that costs money, whatever is set aside for it.
    let least = if paid_by_plan {
        Amount::ZERO
    } else {
        amount.max(Amount::from_nanos(1))
    };
    if leased && account.purse().hold(amount, least).is_ok() {
        return Ok(Part { amount, epoch });
    }
    let all = leased && account.dry(now.mono);
    if !(all || more.budgets_final) {
        return Err(Denied::Short(Leg::Budget(index)));
    }
    let wait = budget.ends.map(|ends| {
        let nanos = ends.nanos().saturating_sub(now.wall.nanos()).max(0);
        std::time::Duration::from_nanos(nanos.unsigned_abs())
    });
    Err(Denied::Refused(Refusal {
        reason: Reason::KeyLimitExceeded,
        retry_after: wait,
    }))
}

impl Taken {
    fn give_back(&self, account: &Account, more: &More<'_>) {
        let back = |account: &Account, part: &Part| {
            account.end_hold(part.amount, Amount::ZERO, Some(part.epoch), None);
        };
        if let Some((index, part)) = &self.plan
            && let Some(plan) = more.plans.get(*index)
        {
            back(plan.inner.account(), part);
        }
        for (part, budget) in self.budgets.iter().zip(more.budgets) {
            back(budget.inner.account(), part);
        }
        account.end_hold(self.money, Amount::ZERO, Some(self.epoch), self.beyond);
    }
}

/// The hold of all that was taken.
fn made(key: Arc<Key>, ask: Ask<'_>, more: &More<'_>, now: Now, taken: Taken) -> Hold {
    let hour = now.wall.hour();
    let plan = taken.plan.and_then(|(index, part)| {
        let plan = more.plans.get(index)?;
        Some(PlanHold {
            hold: plan.inner.hold(&key, part, ask.counted_as, hour),
            price: Arc::clone(&plan.price),
            estimate: plan.amount,
            late: None,
        })
    });
    let budgets = taken.budgets.iter().zip(more.budgets);
    let budgets = budgets
        .map(|(part, budget)| budget.inner.hold(&key, *part, ask.counted_as, hour))
        .collect();
    let shadow = !key.account().rules().policy.enforced(now.wall);
    let extra = Extra {
        estimate: ask.amount,
        epoch: Some(taken.epoch),
        beyond: taken.beyond,
        would: taken.would,
        plan,
        budgets,
        shadow,
        awaited: None,
    };
    let excess = ask.worst.saturating_sub(ask.amount).or_zero();
    let money = Ask {
        amount: taken.money,
        worst: if shadow {
            // It moves no money.
            taken.money
        } else {
            taken.money.saturating_add(excess)
        },
        ..ask
    };
    Hold::new(key, money, hour).with(extra).noted()
}

#[cfg(test)]
mod tests;
