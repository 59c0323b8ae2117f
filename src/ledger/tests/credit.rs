//! What comes in and what goes out: debt, corrections, expiry, burn order, the range. Events are in `alerts`.

use super::*;

/// What becomes of a debt of 10, seen at 0, when this comes at 5.
#[derive(Debug, PartialEq)]
struct Repaid {
    debt: i64,
    paid: i64,
    left: Vec<(u64, i64)>,
    overdue_since: Option<i64>,
    recharged: i64,
}

fn check_repaid(action: Action, debt: i64, left: &[(u64, i64)], recharged: i64) {
    let mut desk = Desk::owing(10);
    let entry = desk.at(5).run(action.clone()).entries.pop().unwrap();
    let got = Repaid {
        debt: desk.book.debt.nanos(),
        paid: entry.debt_paid.nanos(),
        left: desk.left(),
        overdue_since: desk.book.overdue_since.map(Timestamp::nanos),
        recharged: desk.book.cumulative_recharge.nanos(),
    };
    let want = Repaid {
        debt,
        paid: 10 - debt,
        left: left.to_vec(),
        overdue_since: (debt > 0).then_some(0),
        recharged,
    };
    assert_eq!(got, want, "{action:?}");
    assert_eq!(entry.block, left.first().map(|block| block.0), "{action:?}");
    assert_eq!(
        desk.book.blocks.iter().map(|b| b.granted).next(),
        left.first().map(|b| n(b.1))
    );
}

#[test]
fn money_pays_debt_first_and_a_gift_does_not() {
    check_repaid(recharge(1), 9, &[], 1);
    check_repaid(recharge(9), 1, &[], 9);
    check_repaid(recharge(10), 0, &[], 10);
    check_repaid(recharge(11), 0, &[(1, 1)], 11);
    check_repaid(until(6, recharge(15)), 0, &[(1, 5)], 15);
    check_repaid(grant(4), 10, &[(1, 4)], 0);
    check_repaid(grant(25), 10, &[(1, 25)], 0);
    check_repaid(adjust(4), 6, &[], 0);
    check_repaid(adjust(12), 0, &[(1, 2)], 0);
}

#[test]
fn debt_is_of_all_that_was_spent_before_the_money_came() {
    let mut desk = Desk::new();
    desk.run(recharge(10));
    let applied = desk.spent(17).run(recharge(20));
    assert_eq!(kinds(&applied), [EntryKind::Usage, EntryKind::Recharge]);
    assert_eq!(applied.entries[0].debt_made, n(7));
    assert_eq!(applied.entries[1].debt_paid, n(7));
    assert_eq!(desk.left(), [(2, 13)]);
    assert_eq!(desk.book.cumulative_recharge, n(30));
}

#[test]
fn what_was_spent_is_taken_once() {
    let mut desk = Desk::new();
    desk.run(recharge(10));
    assert_eq!(taken(&desk.spent(4).observe().entries[0]), [(1, 4)]);
    let before = desk.book.clone();
    assert_eq!(desk.observe().entries, []);
    assert_eq!(desk.book, before);
    // A total read from a store that fell behind: what was taken stays taken, and is not taken again afterwards.
    desk.spent(-3).observe();
    assert_eq!(desk.book, before);
    desk.spent(3).observe();
    assert_eq!(desk.book, before);
}

#[test]
fn a_gift_in_debt_is_spent_before_more_debt_is_made() {
    let mut desk = Desk::owing(10);
    desk.run(grant(6));
    let usage = desk.spent(8).observe().entries.remove(0);
    assert_eq!((taken(&usage), usage.debt_made), (vec![(1, 6)], n(2)));
    assert_eq!(desk.book.debt, n(12));
}

fn check_taken(credit: &[Action], action: Action, took: &[(u64, i64)], debt_made: i64) {
    let mut desk = Desk::new();
    for credit in credit {
        desk.run(credit.clone());
    }
    let entry = desk.run(action.clone()).entries.pop().unwrap();
    assert_eq!(taken(&entry), took, "{action:?}");
    assert_eq!(entry.debt_made, n(debt_made), "{action:?}");
    let took: i64 = took.iter().map(|part| part.1).sum();
    assert_eq!(entry.amount, n(-took - debt_made), "{action:?}");
    assert_eq!(desk.book.debt, n(debt_made), "{action:?}");
}

#[test]
fn a_late_charge_always_lands() {
    check_taken(&[], late(5), &[], 5);
    check_taken(&[recharge(9)], late(5), &[(1, 5)], 0);
    check_taken(&[recharge(5)], late(5), &[(1, 5)], 0);
    check_taken(&[recharge(3), grant(1)], late(5), &[(2, 1), (1, 3)], 1);
    check_taken(&[], late(i64::MAX), &[], i64::MAX);
    check_taken(&[recharge(3)], adjust(-5), &[(1, 3)], 2);

    let mut desk = Desk::owing(10);
    let action = Action::LateCharge {
        amount: n(5),
        key: Some(KeyId::new("k1").unwrap()),
        model: Some(ModelName::new("m1").unwrap()),
        note: "invoice".into(),
    };
    let entry = desk.at(7).run(action).entries.pop().unwrap();
    assert_eq!(desk.book.debt, n(15));
    assert_eq!(desk.book.overdue_since, Some(at(0)));
    assert_eq!(entry.key.unwrap().as_str(), "k1");
    assert_eq!(entry.model.unwrap().as_str(), "m1");
    assert_eq!(entry.idempotency_key.as_deref(), Some("key"));
    assert_eq!(
        (entry.kind, entry.note.as_str()),
        (EntryKind::LateCharge, "invoice")
    );
}

/// At 100, with 3 of credit that is over at 100, and 4 that were spent but not absorbed.
fn check_rejected(action: Action, want: &Rejected) {
    let mut desk = Desk::new();
    desk.run(until(100, recharge(3)));
    desk.at(100).spent(4);
    let before = desk.book.clone();
    assert_eq!(
        desk.attempt(action.clone()).as_ref(),
        Err(want),
        "{action:?}"
    );
    assert_eq!(desk.book, before);
    // Its order and its place in the sequence are free: the next command is as if it never came.
    let next = desk.run(recharge(2));
    assert_eq!(kinds(&next), [EntryKind::Usage, EntryKind::Recharge]);
    assert_eq!(
        (desk.book.cumulative_recharge, desk.book.last_block),
        (n(5), 2)
    );
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    for nanos in [0, -1, -i64::MAX] {
        for action in [recharge(nanos), grant(nanos), late(nanos)] {
            check_rejected(action, &Rejected::NotPositive(n(nanos)));
        }
    }
    check_rejected(adjust(0), &Rejected::NoAmount);
    for note in ["", " \t\n"] {
        let amount = n(5);
        let note = note.into();
        check_rejected(Action::Adjust { amount, note }, &Rejected::NoNote);
    }
    for time in [i64::MIN, 0, 99, 100] {
        for action in [recharge(5), grant(5)] {
            check_rejected(until(time, action), &Rejected::Expired(at(time)));
        }
    }
    // 3 was put in, 3 + MAX is too much; -4 owed and MAX more is too much as well.
    for action in [recharge(i64::MAX), grant(i64::MAX), adjust(i64::MAX)] {
        check_rejected(action, &Rejected::OutOfRange);
    }
    check_rejected(late(i64::MAX), &Rejected::OutOfRange);
    check_rejected(adjust(-i64::MAX), &Rejected::OutOfRange);
}

fn check_range(history: &[Action], action: Action, want: Result<i64, Rejected>) {
    let mut desk = Desk::new();
    for action in history {
        desk.run(action.clone());
    }
    let got = desk.attempt(action.clone());
    let got = got.map(|done| done.book.balance(n(0)).nanos());
    assert_eq!(got, want, "{history:?} {action:?}");
}

#[test]
fn the_last_nano_of_the_range_is_good_and_the_next_is_not() {
    let max = i64::MAX;
    check_range(&[], recharge(max), Ok(max));
    check_range(&[recharge(max - 1)], grant(1), Ok(max));
    check_range(&[recharge(max)], grant(1), Err(Rejected::OutOfRange));
    check_range(&[recharge(max)], adjust(1), Err(Rejected::OutOfRange));
    check_range(&[], adjust(-max), Ok(-max));
    check_range(&[late(max - 1)], late(1), Ok(-max));
    check_range(&[late(max)], late(1), Err(Rejected::OutOfRange));
    check_range(&[late(max)], adjust(-1), Err(Rejected::OutOfRange));
    // -2^63 is no amount: it has no opposite, and no store could read it back.
    check_range(&[], adjust(i64::MIN), Err(Rejected::OutOfRange));
    // The sum of what was paid in is beyond the range, though the balance is not.
    let history = [recharge(max), late(max)];
    check_range(&history, recharge(1), Err(Rejected::OutOfRange));
    check_range(&history, grant(1), Ok(1));

    let mut desk = Desk::new();
    desk.policy.credit_limit = n(max - 5);
    assert_eq!(desk.run(recharge(5)).credit_delta, n(max));
    assert_eq!(desk.attempt(recharge(1)), Err(Rejected::OutOfRange));
}

#[test]
fn an_account_has_so_many_blocks_and_no_more() {
    let mut desk = Desk::owing(5);
    for _ in 0..CREDIT_BLOCKS_MAX {
        desk.run(grant(1));
    }
    for action in [grant(1), recharge(6), adjust(6)] {
        assert_eq!(desk.attempt(action), Err(Rejected::TooManyBlocks));
    }
    // What needs no block still passes; and one that is used up makes room.
    desk.run(recharge(5));
    desk.run(late(1));
    desk.run(grant(1));
    assert_eq!(desk.attempt(grant(1)), Err(Rejected::TooManyBlocks));
}

fn check_expiry(now: i64, spent: i64, wrote: &[EntryKind], left: &[(u64, i64)], balance: i64) {
    let mut desk = Desk::new();
    desk.run(until(1_000, recharge(10)));
    desk.run(recharge(5));
    let applied = desk.at(now).spent(spent).observe();
    assert_eq!(kinds(&applied), wrote, "{now} {spent}");
    assert_eq!(desk.left(), left, "{now} {spent}");
    assert_eq!(
        desk.book.balance(n(desk.spend)),
        n(balance),
        "{now} {spent}"
    );
    assert_eq!(desk.book.cumulative_recharge, n(15));
    let expired = applied.entries.iter().find(|e| e.kind == EntryKind::Expiry);
    if let Some(entry) = expired {
        assert_eq!(taken(entry), [(1, 10 - spent)]);
        assert_eq!(entry.amount, n(spent - 10));
        assert_eq!(entry.order_id.as_deref(), Some("order"));
    }
}

#[test]
fn credit_is_over_at_its_last_instant_and_not_before() {
    use EntryKind::{Expiry, Usage};
    check_expiry(999, 0, &[], &[(1, 10), (2, 5)], 15);
    check_expiry(1_000, 0, &[Expiry], &[(2, 5)], 5);
    check_expiry(1_001, 0, &[Expiry], &[(2, 5)], 5);
    check_expiry(999, 4, &[Usage], &[(1, 6), (2, 5)], 11);
    // What was spent meanwhile came from the credit that is over now: only the rest is written off.
    check_expiry(1_000, 4, &[Usage, Expiry], &[(2, 5)], 5);
    check_expiry(1_001, 10, &[Usage], &[(2, 5)], 5);
    check_expiry(1_001, 12, &[Usage], &[(2, 3)], 3);
}

#[test]
fn expired_credit_pays_no_charge_that_comes_later() {
    let mut desk = Desk::new();
    desk.run(until(1_000, recharge(10)));
    let applied = desk.at(1_000).run(late(4));
    assert_eq!(kinds(&applied), [EntryKind::Expiry, EntryKind::LateCharge]);
    assert_eq!((desk.book.debt, desk.left()), (n(4), vec![]));
}

/// `sooner` is burnt before `later`, whichever was put in first, if not for that alone.
fn check_order(sooner: (i64, Action), later: (i64, Action), either_way: bool) {
    let credit = [sooner, later];
    let ways: &[[usize; 2]] = if either_way {
        &[[0, 1], [1, 0]]
    } else {
        &[[0, 1]]
    };
    for way in ways {
        let mut desk = Desk::new();
        for index in way {
            let (time, action) = credit[*index].clone();
            desk.at(time).run(action);
        }
        let ids = if way[0] == 0 { [1, 2] } else { [2, 1] };
        let usage = desk.spent(3).observe().entries.remove(0);
        assert_eq!(taken(&usage), [(ids[0], 2), (ids[1], 1)], "{credit:?}");
        assert_eq!(desk.left(), [(ids[1], 1)], "{credit:?}");
    }
}

#[test]
fn credit_is_burnt_in_order() {
    // Each line differs in one thing, and in all that counts less the other way round.
    check_order((9, rank(-1, recharge(2))), (5, until(99, grant(2))), true);
    check_order((9, until(99, recharge(2))), (5, grant(2)), true);
    check_order((9, until(98, recharge(2))), (5, until(99, grant(2))), true);
    check_order((9, grant(2)), (5, recharge(2)), true);
    check_order((9, until(99, grant(2))), (5, until(99, recharge(2))), true);
    // The clock may be set back: the instant counts, then the number.
    check_order((5, recharge(2)), (9, recharge(2)), true);
    check_order((5, recharge(2)), (5, recharge(2)), false);
    check_order((5, adjust(2)), (5, recharge(2)), false);
    check_order((5, recharge(2)), (5, adjust(2)), false);
}
