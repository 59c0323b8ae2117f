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

#[test]
fn of_an_account_inside_another_one_only_what_happens_to_its_plan_is_told() {
    let inner = |name: &str| {
        let owner = AccountId::new("acme").unwrap();
        let account = owner.inner(name).unwrap();
        Book::new(account, "USD".into(), "default".into(), at(0))
    };
    let run = |book: &mut Book, action: Action, spend: i64, now: i64| {
        let command = Command {
            idempotency_key: None,
            action,
        };
        // Whatever is asked of the account's own policy: it is for money.
        let policy = Policy {
            low_balance: Some(n(1_000)),
            ..Policy::default()
        };
        let spent = Spent {
            spend: n(spend),
            held: n(0),
        };
        let applied = apply(book, spent, &command, &policy, at(now)).unwrap();
        *book = applied.book;
        let told = applied.events.into_iter();
        told.map(|event| (event.kind, event.id, event.about.unwrap()))
            .collect::<Vec<_>>()
    };
    let told = |kind, id: &str, about: &str| vec![(kind, id.to_owned(), about.to_owned())];
    let mut budget = inner("key:k:2026-11");
    for (action, spend) in [
        (configure(), 0),
        (adjust(10), 0),
        (Action::Observe, 10),
        (Action::Observe, 12),
        (adjust(10), 12),
    ] {
        assert_eq!(run(&mut budget, action, spend, 1), []);
    }
    assert_eq!(budget.events, 0);

    let mut plan = inner("points");
    let (buy, more) = (buy_plan("o1", 10), until(9, buy_plan("o2", 5)));
    assert_eq!(run(&mut plan, configure(), 0, 1), []);
    let added = told(CreditAdded, "acme!points/1/2", "o1");
    assert_eq!(run(&mut plan, buy, 0, 2), added);
    let used = told(EventKind::PlanExhausted, "acme!points/2/3", "points");
    assert_eq!(run(&mut plan, Action::Observe, 10, 3), used);
    let added = told(CreditAdded, "acme!points/3/4", "o2");
    assert_eq!(run(&mut plan, more, 10, 4), added);
    let over = told(EventKind::PlanExpired, "acme!points/4/9", "o2");
    assert_eq!(run(&mut plan, Action::Observe, 10, 9), over);
}

#[test]
fn an_event_of_the_same_number_in_a_store_that_lost_one_is_another_event() {
    let mut desk = Desk::new();
    desk.run(recharge(1));
    let mut after_a_loss = desk.clone();
    let lost = desk.at(5).run(grant(2)).events;
    let next = after_a_loss.at(6).attempt(recharge(7)).unwrap().events;
    let numbers = [&lost, &next].map(|events| events[0].id.rsplit_once('/').unwrap().0);
    assert_eq!(numbers[0], numbers[1]);
    assert_ne!(lost[0].id, next[0].id);
}
