//! What is announced, and how often.

use super::*;
use EventKind::{
    AccountOpened, AccountOverdue, AccountResumed, BalanceLow, CreditAdded, CreditExpired,
};

/// One step of a history, and what it announces: kind, amount, balance.
type Step<'a> = (i64, Action, &'a [(EventKind, i64, i64)]);

/// Runs one command after another, each after so much more was spent, a nanosecond apart.
fn check(low_balance: Option<i64>, steps: &[Step<'_>]) {
    let mut desk = Desk::new();
    desk.policy.low_balance = low_balance.map(n);
    for (index, (spent, action, want)) in steps.iter().enumerate() {
        let now = desk.now + 1;
        let applied = desk.at(now).spent(*spent).run(action.clone());
        let got = applied.events.iter();
        let got: Vec<_> = got
            .map(|event| (event.kind, event.amount.nanos(), event.balance.nanos()))
            .collect();
        assert_eq!(got, *want, "step {index}");
    }
}

#[test]
fn credit_is_announced_and_a_correction_is_not() {
    check(
        None,
        &[
            (0, configure(), &[(AccountOpened, 0, 0)]),
            (0, configure(), &[]),
            (0, recharge(5), &[(CreditAdded, 5, 5)]),
            (0, grant(3), &[(CreditAdded, 3, 8)]),
            (0, adjust(2), &[]),
            (0, adjust(-2), &[]),
            (0, until(8, grant(3)), &[(CreditAdded, 3, 11)]),
            (1, adjust(1), &[(CreditExpired, 2, 8)]),
        ],
    );
}

#[test]
fn an_account_that_opens_with_nothing_has_not_fallen() {
    check(
        Some(3),
        &[
            (0, configure(), &[(AccountOpened, 0, 0)]),
            (0, recharge(2), &[(CreditAdded, 2, 2)]),
            (0, recharge(3), &[(CreditAdded, 3, 5)]),
            (3, Action::Observe, &[(BalanceLow, 3, 2)]),
        ],
    );
}

#[test]
fn overdue_is_announced_once_per_episode() {
    check(
        None,
        &[
            (0, recharge(5), &[(CreditAdded, 5, 5)]),
            (5, Action::Observe, &[]),
            (1, Action::Observe, &[(AccountOverdue, 1, -1)]),
            (1, Action::Observe, &[]),
            (0, late(2), &[]),
            (0, recharge(3), &[(CreditAdded, 3, -1)]),
            (0, grant(9), &[(CreditAdded, 9, 8)]),
            (
                0,
                recharge(1),
                &[(CreditAdded, 1, 9), (AccountResumed, 0, 9)],
            ),
            (0, recharge(1), &[(CreditAdded, 1, 10)]),
            (0, late(11), &[(AccountOverdue, 1, -1)]),
            (0, adjust(1), &[(AccountResumed, 0, 0)]),
        ],
    );
}

#[test]
fn low_balance_is_announced_once_per_crossing() {
    check(
        Some(10),
        &[
            (0, recharge(20), &[(CreditAdded, 20, 20)]),
            (10, Action::Observe, &[]),
            (1, Action::Observe, &[(BalanceLow, 10, 9)]),
            (1, Action::Observe, &[]),
            (0, recharge(1), &[(CreditAdded, 1, 9)]),
            (0, late(1), &[]),
            (0, recharge(2), &[(CreditAdded, 2, 10)]),
            (0, late(1), &[(BalanceLow, 10, 9)]),
            (10, Action::Observe, &[(AccountOverdue, 1, -1)]),
        ],
    );
}

#[test]
fn a_threshold_that_comes_back_speaks_of_a_balance_that_is_below_it() {
    let mut desk = Desk::new();
    desk.run(recharge(5));
    let mut alerts = Vec::new();
    for threshold in [10, 10, 0, 10, 0, 10] {
        desk.policy.low_balance = (threshold != 0).then_some(n(threshold));
        let wanted = desk
            .book
            .wants_observing(Spent::default(), &desk.policy, at(0));
        alerts.push((wanted, desk.observe().events.len()));
    }
    let want = [
        (true, 1),
        (false, 0),
        (true, 0),
        (true, 1),
        (true, 0),
        (true, 1),
    ];
    assert_eq!(alerts, want);
}

#[test]
fn an_account_is_overdue_since_it_was_seen_to_be() {
    let mut desk = Desk::new();
    desk.at(3).spent(5).observe();
    desk.at(4).run(recharge(4));
    desk.at(5).run(grant(4));
    assert_eq!(desk.book.overdue_since, Some(at(3)));
    desk.at(6).run(recharge(1));
    assert_eq!(desk.book.overdue_since, None);
    desk.at(7).run(late(5));
    assert_eq!(desk.book.overdue_since, Some(at(7)));
}
