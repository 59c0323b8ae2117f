//! A wrong charge goes back where it came from: debt first, newest first.

use super::*;

/// Two purchases and a gift, of which an entry took all, and 5 on credit.
fn charged() -> (Desk, u64) {
    let mut desk = Desk::new();
    desk.run(rank(-1, until(100, grant(3))));
    desk.run(recharge(10));
    desk.run(rank(1, recharge(10)));
    desk.at(1).spent(28).observe();
    let entry = desk.entries.last().unwrap();
    assert_eq!(taken(entry), [(1, 3), (2, 10), (3, 10)]);
    let sequence = entry.sequence;
    (desk, sequence)
}

#[test]
fn what_was_taken_last_goes_back_first() {
    for (amount, debt, left) in [
        (5, 0, vec![]),
        (8, 0, vec![(3, 3)]),
        (16, 0, vec![(2, 1), (3, 10)]),
        (28, 0, vec![(1, 3), (2, 10), (3, 10)]),
        (4, 1, vec![]),
    ] {
        let (mut whole, sequence) = charged();
        let done = whole.run(correct(sequence, amount));
        assert_eq!(done.answer().unwrap().amount, n(amount));
        assert_eq!((whole.book.debt, whole.left()), (n(debt), left), "{amount}");
        // In parts it comes to the same.
        let (mut parts, sequence) = charged();
        for _ in 0..amount {
            parts.run(correct(sequence, 1));
        }
        assert_eq!(
            (parts.book.debt, parts.left()),
            (n(debt), whole.left()),
            "{amount}"
        );
        let left = whole.attempt(correct(sequence, 29 - amount)).unwrap_err();
        let beyond = Rejected::CorrectedBeyond {
            sequence,
            amount: n(29 - amount),
            left: n(28 - amount),
        };
        assert_eq!(left, beyond);
    }
}

#[test]
fn what_goes_back_to_expired_credit_expires_at_once() {
    let (mut desk, sequence) = charged();
    desk.at(100).run(recharge(5));
    let done = desk.run(correct(sequence, 28));
    assert_eq!(kinds(&done), [EntryKind::Correction, EntryKind::Expiry]);
    assert_eq!(done.answer().unwrap().amount, n(28));
    assert_eq!(done.entries[1].amount, n(-3));
    // The debt was paid meanwhile, so what went into it is credit again.
    assert_eq!(desk.left(), [(2, 10), (4, 5), (3, 10)]);
}

#[test]
fn without_the_charge_paid_credit_would_have_paid_what_came_after() {
    let mut desk = Desk::new();
    desk.run(recharge(10));
    desk.run(late(10));
    let sequence = desk.entries.last().unwrap().sequence;
    desk.run(late(4));
    desk.run(correct(sequence, 10));
    assert_eq!((desk.book.debt, desk.left()), (n(0), vec![(1, 6)]));
    // A gift would not have paid a debt.
    let mut desk = Desk::owing(4);
    desk.run(grant(10));
    desk.run(late(10));
    let sequence = desk.entries.last().unwrap().sequence;
    desk.run(correct(sequence, 10));
    assert_eq!((desk.book.debt, desk.left()), (n(4), vec![(1, 10)]));
}

#[test]
fn only_charges_are_corrected_and_with_a_reason() {
    let (mut desk, sequence) = charged();
    let blank = Action::Correct {
        sequence,
        amount: n(1),
        note: String::new(),
    };
    for (action, why) in [
        (correct(99, 1), Rejected::UnknownEntry(99)),
        (correct(0, 1), Rejected::UnknownEntry(0)),
        (correct(sequence, 0), Rejected::NotPositive(n(0))),
        (
            correct(1, 1),
            Rejected::NotCorrectable {
                sequence: 1,
                kind: EntryKind::Grant,
            },
        ),
        (blank, Rejected::NoNote),
    ] {
        assert_eq!(desk.attempt(action).unwrap_err(), why);
    }
    desk.run(adjust(50));
    let up = desk.entries.last().unwrap().sequence;
    assert!(matches!(
        desk.attempt(correct(up, 1)),
        Err(Rejected::NotCorrectable { .. })
    ));
}

#[test]
fn so_many_corrected_entries_are_kept_in_mind_and_no_more() {
    let mut desk = Desk::new();
    desk.run(recharge(100_000));
    let mut charges = Vec::new();
    for _ in 0..=CORRECTED_MAX {
        desk.run(late(2));
        charges.push(desk.entries.last().unwrap().sequence);
    }
    for sequence in &charges {
        desk.run(correct(*sequence, 1));
    }
    let old = Rejected::CorrectionTooOld {
        sequence: charges[0],
        before: charges[0],
    };
    assert_eq!(desk.attempt(correct(charges[0], 1)).unwrap_err(), old);
    desk.run(correct(charges[1], 1));
}
