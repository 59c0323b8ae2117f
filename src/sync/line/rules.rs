//! What an account's calls go by, worked out from its book, its policy and the time. Pure.

use crate::clock::{Now, Timestamp};
use crate::engine::{PlanRule, Rules, Special};
use crate::ledger::{Book, PlanRef};
use crate::money::Amount;
use crate::policy::{Enforcement, Policy, WhileOverdue};
use crate::refusal::Reason;

/// What an account's calls go by, from now on: what changes by itself is in it with its instants.
pub fn rules(book: &Book, total: Amount, policy: Policy, now: Now) -> Rules {
    let at = now.wall;
    let mut rules = Rules {
        unit: book.unit.clone(),
        standing: book.standing(total, &policy, at),
        special: None,
        policy,
    };
    let overdue = book.overdue_since(book.debt(total), &rules.policy, at);
    let special = Special {
        lease_ends: book.money_deadline(total, &rules.policy, at),
        rates: rates(book, overdue.is_some(), &rules.policy, at),
        reactivated: if book.needs_reactivation(&rules.policy) {
            book.reactivated.clone()
        } else {
            Default::default()
        },
        plans: plans(book, overdue.is_some(), &rules.policy),
        budgets: rules.policy.budgets.clone(),
    };
    let waits = rules.standing.at(at) == Some(Reason::ReactivationRequired);
    let turns = waits || rules.standing.ahead().next().is_some();
    let live = rules.policy.enforcement == Enforcement::Enforce || rules.policy.enforced(at);
    if special != Special::default() || turns || !live {
        rules.special = Some(Box::new(special));
    }
    if !book.qps_plans.is_empty() {
        let rate = book.rate(overdue.is_some(), &rules.policy, at);
        rules.policy.qps = rate.map(|(qps, _)| qps);
        rules.policy.burst = rate.map(|(_, burst)| burst);
    }
    rules
}

/// The rates that hold from later instants on, where they change.
fn rates(
    book: &Book,
    overdue: bool,
    policy: &Policy,
    at: Timestamp,
) -> Vec<(Timestamp, Option<(u32, u32)>)> {
    let plans = book.qps_plans.iter();
    let instants = plans.flat_map(|plan| [Some(plan.effective), plan.expires]);
    let mut instants: Vec<_> = instants.flatten().filter(|instant| *instant > at).collect();
    instants.sort_unstable();
    let mut last = book.rate(overdue, policy, at);
    let mut rates = Vec::new();
    for instant in instants {
        let rate = book.rate(overdue, policy, instant);
        if rate != last {
            rates.push((instant, rate));
            last = rate;
        }
    }
    rates
}

/// The plans that pay now: none of an account that is overdue, unless its policy says otherwise (A1-5).
fn plans(book: &Book, overdue: bool, policy: &Policy) -> Vec<PlanRule> {
    if overdue && policy.plans_while_overdue == WhileOverdue::Unavailable {
        return Vec::new();
    }
    let rule = |plan: &PlanRef| {
        Some(PlanRule {
            id: book.account.inner(&plan.name).ok()?,
            unit: plan.unit.clone(),
            scope: plan.scope.clone(),
        })
    };
    // In the order of the book: by priority, then by name.
    book.plans.iter().filter_map(rule).collect()
}

/// The policy of an account inside an account: its owner's word on what is left open and on the store's outages; no limits of its own,
/// and nothing below zero.
pub fn inner_policy(owner: &Policy) -> Policy {
    Policy {
        unsettled: owner.unsettled,
        ..Policy::default()
    }
}

#[cfg(test)]
mod tests;
