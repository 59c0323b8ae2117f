//! What can be read off a book at an instant, its configuration, and its stored form.

use super::*;
use crate::refusal::Reason;

/// An account with 10 of credit, a debt of `debt` and a credit limit of `limit`, read when `spent` is not absorbed yet.
fn check(debt: i64, limit: i64, spent: i64, want: (i64, i64, State, Option<Reason>)) {
    let mut desk = Desk::new();
    desk.policy.credit_limit = n(limit);
    if debt > 0 {
        desk.run(late(debt));
    }
    desk.run(grant(10));
    let spend = n(spent);
    let book = &desk.book;
    let got = (
        book.balance(spend).nanos(),
        book.debt(spend).nanos(),
        book.state(spend, &desk.policy, at(0)),
        book.standing(spend, &desk.policy, at(0)).at(at(0)),
    );
    assert_eq!(got, want, "debt {debt}, limit {limit}, spent {spent}");
    // Absorbing it changes no answer.
    desk.spent(spent).observe();
    let book = &desk.book;
    assert_eq!(
        (book.balance(spend).nanos(), book.debt(spend).nanos()),
        (want.0, want.1)
    );
    let read = (
        book.state(spend, &desk.policy, at(0)),
        book.standing(spend, &desk.policy, at(0)).at(at(0)),
    );
    assert_eq!(read, (want.2, want.3));
}

#[test]
fn spend_counts_before_it_is_absorbed() {
    use State::{Active, Overdue};
    let stopped = Some(Reason::AccountOverdue);
    check(0, 0, 0, (10, 0, Active, None));
    check(0, 0, 9, (1, 0, Active, None));
    check(0, 0, 10, (0, 0, Active, None));
    check(0, 0, 11, (-1, 1, Overdue, stopped));
    check(0, 5, 14, (-4, 4, Overdue, None));
    check(0, 5, 15, (-5, 5, Overdue, None));
    check(0, 5, 16, (-6, 6, Overdue, stopped));
    // A gift does not lift a debt, however large it is.
    check(3, 0, 0, (7, 3, Overdue, stopped));
    check(3, 3, 10, (-3, 3, Overdue, None));
    check(3, 3, 11, (-4, 4, Overdue, stopped));
}

/// An account with 10 of credit of which 5 end at 100, a threshold of 4 and no alert sent.
fn check_wants(now: i64, spent: i64, low_balance: Option<i64>, limit: i64, want: bool) {
    let mut desk = Desk::new();
    desk.run(recharge(5));
    desk.run(until(100, grant(5)));
    desk.policy.low_balance = low_balance.map(n);
    desk.policy.credit_limit = n(limit);
    let (book, policy) = (&desk.book, &desk.policy);
    let spent_all = Spent {
        spend: n(spent),
        held: n(0),
    };
    let wants = book.wants_observing(spent_all, policy, at(now));
    assert_eq!(
        wants, want,
        "at {now}, spent {spent}, low {low_balance:?}, limit {limit}"
    );
}

#[test]
fn a_book_is_written_by_itself_only_for_a_reason() {
    check_wants(0, 0, None, 0, false);
    check_wants(0, 10, None, 0, false);
    check_wants(0, 11, None, 0, true);
    check_wants(99, 3, None, 0, false);
    check_wants(100, 0, None, 0, true);
    check_wants(101, 0, None, 0, true);
    check_wants(0, 6, Some(4), 0, false);
    check_wants(0, 7, Some(4), 0, true);
    check_wants(0, 0, None, 1, true);
}

#[test]
fn a_book_is_written_again_when_an_episode_is_over() {
    let mut desk = Desk::new();
    desk.policy.low_balance = Some(n(4));
    desk.run(late(3));
    let wants = |desk: &Desk, low: Option<i64>| {
        let policy = Policy {
            low_balance: low.map(n),
            ..desk.policy.clone()
        };
        desk.book.wants_observing(Spent::default(), &policy, at(0))
    };
    assert!(!wants(&desk, Some(4)));
    assert!(wants(&desk, Some(-3)));
    assert!(!wants(&desk, Some(-2)));
}

fn deadline(desk: &Desk) -> Option<Timestamp> {
    let (spend, now) = (n(desk.spend), at(desk.now));
    desk.book.next_deadline(spend, &desk.policy, now)
}

#[test]
fn the_next_deadline_is_the_earliest() {
    let mut desk = Desk::new();
    let mut deadlines = Vec::new();
    for credit in [
        recharge(1),
        until(50, rank(9, grant(1))),
        until(40, rank(10, recharge(1))),
        until(60, rank(-1, grant(1))),
    ] {
        desk.run(credit);
        deadlines.push(deadline(&desk).map(Timestamp::nanos));
    }
    assert_eq!(deadlines, [None, Some(50), Some(40), Some(40)]);
    desk.at(40).observe();
    assert_eq!(deadline(&desk), Some(at(50)));
}

#[test]
fn configuration_changes_what_it_names_and_moves_no_money() {
    let mut desk = Desk::new();
    desk.run(recharge(5));
    let overrides = Overrides {
        qps: Some(7),
        ..Overrides::default()
    };
    for (name, policy, over) in [
        (None, None, None),
        (Some("Acme Inc."), None, None),
        (None, Some("gold"), None),
        (None, None, Some(overrides)),
        (None, None, Some(Overrides::default())),
    ] {
        let mut want = desk.book.clone();
        want.entries += 1;
        want.name = name.map_or(want.name, Into::into);
        want.policy = policy.map_or(want.policy, Into::into);
        want.overrides = over.clone().unwrap_or(want.overrides);
        let applied = desk.run(Action::Configure(Configure {
            name: name.map(Into::into),
            policy: policy.map(Into::into),
            overrides: over,
            ..Default::default()
        }));
        assert_eq!(desk.book, want);
        assert_eq!(kinds(&applied), [EntryKind::Configuration]);
        assert_eq!((applied.events, applied.credit_delta), (vec![], n(0)));
    }
}

#[test]
fn the_floor_follows_the_policy_with_any_command() {
    let mut desk = Desk::new();
    desk.run(recharge(5));
    for limit in [0, 7, 7, 3, 0] {
        desk.policy.credit_limit = n(limit);
        // `Desk` checks that the change of the floor is passed on to the store.
        desk.observe();
        assert_eq!(desk.book.floor, n(limit));
    }
}

#[test]
fn what_is_stored_reads_back() {
    let mut desk = Desk::new();
    desk.run(until(100, rank(-3, recharge(5))));
    desk.run(grant(i64::MAX - 5));
    desk.at(100).spent(3).run(late(i64::MAX - 2));
    let text = serde_json::to_string(&desk.book).unwrap();
    assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), desk.book);
    for entry in &desk.entries {
        let text = serde_json::to_string(entry).unwrap();
        assert_eq!(&serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }
    for event in &desk.events {
        let text = serde_json::to_string(event).unwrap();
        assert_eq!(&serde_json::from_str::<Event>(&text).unwrap(), event);
        assert!(text.contains(event.kind.name()), "{text}");
    }
}

#[test]
fn a_book_that_does_not_add_up_is_told() {
    let mut desk = Desk::new();
    desk.run(recharge(5));
    desk.run(late(7));
    desk.run(grant(4));
    let good = desk.book;
    let breaks: [fn(&mut Book); 6] = [
        |book| book.debt = n(3),
        |book| book.absorbed = n(1),
        |book| book.lifetime_credit = n(3),
        |book| book.blocks[0].remaining = n(3),
        |book| book.blocks[0].granted = n(3),
        |book| {
            book.debt = n(-1);
            book.lifetime_credit = n(5);
        },
    ];
    for (index, spoil) in breaks.iter().enumerate() {
        let mut book = good.clone();
        spoil(&mut book);
        assert!(book.invariants().is_err(), "break {index}");
    }
}
