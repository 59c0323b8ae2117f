use super::*;
use crate::clock::Monotonic;
use crate::id::AccountId;
use crate::ledger::{CreditBlock, CreditKind, QpsPlan};
use crate::policy::{Deadline, End, Resume};

const SECOND: i64 = 1_000_000_000;

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn nanos(n: i64) -> Amount {
    Amount::from_nanos(n)
}

fn now(wall: i64) -> Now {
    Now {
        wall: at(wall),
        mono: Monotonic::from_nanos(1),
    }
}

fn book() -> Book {
    Book::new(
        AccountId::new("a").unwrap(),
        "USD".into(),
        "default".into(),
        at(0),
    )
}

fn block(amount: i64, expires: Option<i64>) -> CreditBlock {
    CreditBlock {
        id: 1,
        kind: CreditKind::Paid,
        priority: 0,
        effective: at(0),
        expires: expires.map(at),
        granted: nanos(amount),
        remaining: nanos(amount),
        order_id: None,
        expired: false,
        expiring_sent: false,
    }
}

fn plan(id: &str, qps: u32, effective: i64, expires: i64) -> QpsPlan {
    QpsPlan {
        id: id.into(),
        qps,
        burst: None,
        effective: at(effective),
        expires: Some(at(expires)),
        order_id: id.into(),
        price: None,
    }
}

#[test]
fn an_account_of_money_and_a_policy_is_not_special() {
    let mut book = book();
    book.blocks.push(block(10, None));
    let policy = Policy {
        qps: Some(10),
        ..Policy::default()
    };
    let rules = rules(&book, Amount::ZERO, policy.clone(), now(5));
    assert_eq!(rules, Rules::plain("USD".into(), policy));
}

#[test]
fn credit_that_expires_ends_the_lease_at_its_instant() {
    let mut book = book();
    book.blocks = vec![block(10, None), block(10, Some(700)), block(10, Some(500))];
    let special = rules(&book, Amount::ZERO, Policy::default(), now(5)).special;
    assert_eq!(special.unwrap().lease_ends, Some(at(500)));
}

#[test]
fn the_rate_is_that_of_the_best_plan_that_runs_and_then_the_default_again() {
    let mut book = book();
    book.qps_plans = vec![
        plan("p", 100, 10, 50),
        plan("q", 40, 30, 70),
        plan("r", 5, 20, 90),
    ];
    let policy = Policy {
        qps: Some(10),
        ..Policy::default()
    };
    let rules_at = |wall| rules(&book, Amount::ZERO, policy.clone(), now(wall));
    let qps = |wall| rules_at(wall).policy.qps;
    for (wall, want) in [
        (9, 10),
        (10, 100),
        (49, 100),
        (50, 40),
        (69, 40),
        (70, 10),
        (95, 10),
    ] {
        assert_eq!(qps(wall), Some(want), "{wall}");
    }
    let steps = rules_at(9).special.unwrap().rates;
    let steps: Vec<_> = steps
        .into_iter()
        .map(|(from, rate)| (from.nanos(), rate.unwrap().0))
        .collect();
    assert_eq!(
        steps,
        [(10, 100), (50, 40), (70, 10)],
        "the slow plan is never the best"
    );
    assert_eq!(rules_at(95).special, None, "nothing is ahead any more");
}

#[test]
fn plans_do_not_count_while_overdue_unless_the_policy_says_so() {
    let mut book = book();
    book.qps_plans = vec![plan("p", 100, 0, 50)];
    book.plans = vec![PlanRef {
        name: "points".into(),
        unit: "POINTS".into(),
        scope: Vec::new(),
        priority: 0,
    }];
    let mut policy = Policy {
        qps: Some(10),
        ..Policy::default()
    };
    let check = |policy: &Policy, spend: i64, plans: usize, qps: u32| {
        let rules = rules(&book, nanos(spend), policy.clone(), now(5));
        let special = rules.special.unwrap_or_default();
        assert_eq!(
            (special.plans.len(), rules.policy.qps),
            (plans, Some(qps)),
            "{spend}"
        );
    };
    check(&policy, 0, 1, 100);
    check(&policy, 1, 0, 10);
    policy.plans_while_overdue = WhileOverdue::Available;
    policy.qps_plans_while_overdue = WhileOverdue::Available;
    check(&policy, 1, 1, 100);
    let rules = rules(&book, Amount::ZERO, policy, now(5));
    assert_eq!(rules.special.unwrap().plans[0].id.as_str(), "a!points");
}

#[test]
fn grace_and_suspension_are_ahead_with_their_instants() {
    let mut book = book();
    (book.debt, book.absorbed) = (nanos(5), nanos(5));
    book.overdue_since = Some(at(SECOND));
    let policy = Policy {
        grace: Some(Deadline {
            ms: 1_000,
            end: End::Included,
        }),
        suspend_after: Some(Deadline {
            ms: 2_000,
            end: End::Excluded,
        }),
        resume: Resume::Reactivate,
        ..Policy::default()
    };
    let rules = rules(&book, nanos(5), policy, now(SECOND));
    for (wall, want) in [
        (SECOND, None),
        (2 * SECOND, None),
        (2 * SECOND + 1, Some(Reason::AccountOverdue)),
        (3 * SECOND - 1, Some(Reason::AccountOverdue)),
        (3 * SECOND, Some(Reason::AccountSuspended)),
    ] {
        assert_eq!(rules.standing.at(at(wall)), want, "{wall}");
    }
    // The grace is how far below zero holds may go, so the lease ends with it.
    assert_eq!(rules.special.unwrap().lease_ends, Some(at(2 * SECOND + 1)));
}

#[test]
fn an_account_that_is_not_live_is_special_until_it_is() {
    let shadow = |live_from| Policy {
        enforcement: Enforcement::Shadow,
        live_from,
        ..Policy::default()
    };
    let special = |policy| {
        rules(&book(), Amount::ZERO, policy, now(5))
            .special
            .is_some()
    };
    assert!(special(shadow(None)));
    assert!(special(shadow(Some(at(6)))));
    assert!(!special(shadow(Some(at(5)))));
}
