//! What is refundable, and what a frozen or closed account takes (A3-6 to A3-10).

use super::*;
use crate::policy::Refunds;

fn complete(id: &str, close: bool) -> Action {
    Action::CompleteRefund {
        refund_id: id.into(),
        close,
    }
}

fn order(id: &str, nanos: i64) -> Action {
    let mut action = recharge(nanos);
    if let Action::Recharge { order_id, .. } = &mut action {
        *order_id = id.into();
    }
    action
}

fn invoiced(id: &str, nanos: i64) -> Action {
    Action::SetInvoicedAmount {
        order_id: id.into(),
        amount: n(nanos),
    }
}

/// Two orders of 10 and 20, of which 4 were spent and 15 of the second were invoiced, and a gift.
fn bought() -> Desk {
    let mut desk = Desk::new();
    desk.run(order("a", 10));
    desk.run(order("b", 20));
    desk.run(rank(9, grant(7)));
    desk.run(invoiced("b", 15));
    desk.spent(4);
    desk
}

#[test]
fn what_is_paid_and_left_and_not_invoiced_is_refundable() {
    let desk = bought();
    let all = desk.book.refundable(n(4), &desk.policy, at(0));
    let read: Vec<_> = all
        .iter()
        .map(|order| {
            (
                order.order_id.as_str(),
                order.remaining.nanos(),
                order.amount.nanos(),
            )
        })
        .collect();
    assert_eq!(read, [("a", 6, 6), ("b", 20, 5)]);
    for (orders, amount, left) in [
        (&[][..], 11, vec![(2, 15), (3, 7)]),
        (&["a"], 6, vec![(2, 20), (3, 7)]),
        (&["b"], 5, vec![(1, 6), (2, 15), (3, 7)]),
    ] {
        let mut desk = bought();
        let accepted = desk.run(begin("r", orders));
        assert_eq!(accepted.events[0].amount, n(amount));
        let done = desk.run(complete("r", false));
        assert_eq!(done.answer().unwrap().amount, n(-amount));
        assert_eq!((desk.left(), &desk.book.refund), (left, &None));
        assert_eq!(desk.book.cumulative_recharge, n(30));
    }
}

#[test]
fn the_amount_is_computed_after_what_was_in_flight_has_landed() {
    let mut desk = bought();
    desk.held = 3;
    desk.run(begin("r", &["a"]));
    let waits = desk.attempt(complete("r", true)).unwrap_err();
    assert_eq!(waits, Rejected::CallsInFlight(n(3)));
    desk.held = 0;
    desk.spent(2).run(late(1));
    let done = desk.run(complete("r", true));
    assert_eq!(done.answer().unwrap().amount, n(-3));
    assert_eq!(desk.book.closed, Some(at(0)));
    let kinds: Vec<_> = done.events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [EventKind::RefundCompleted, EventKind::AccountClosed]
    );
}

#[test]
fn a_frozen_account_takes_what_is_owed_and_no_purchase() {
    let mut desk = bought();
    desk.run(begin("r", &[]));
    let frozen = Rejected::Frozen("r".into());
    for action in [
        order("c", 1),
        begin("r2", &[]),
        buy_plan("p", 5),
        add_plan("p", "tok"),
    ] {
        assert_eq!(desk.attempt(action).unwrap_err(), frozen);
    }
    for action in [grant(1), late(1), adjust(-1), configure(), Action::Observe] {
        desk.run(action);
    }
    let cancel = |id: &str| Action::CancelRefund {
        refund_id: id.into(),
        note: String::new(),
    };
    let unknown = Rejected::UnknownRefund {
        given: "x".into(),
        open: Some("r".into()),
    };
    assert_eq!(desk.attempt(cancel("x")).unwrap_err(), unknown);
    assert_eq!(desk.attempt(complete("x", false)).unwrap_err(), unknown);
    desk.run(cancel("r"));
    desk.run(order("c", 1));
    let none = Rejected::UnknownRefund {
        given: "r".into(),
        open: None,
    };
    assert_eq!(desk.attempt(cancel("r")).unwrap_err(), none);
}

#[test]
fn a_closed_account_takes_what_lands_late_and_nothing_else() {
    let mut desk = bought();
    let close = || Action::CloseAccount {
        note: "gone".into(),
    };
    desk.at(9).run(close());
    for action in [
        order("c", 1),
        grant(1),
        configure(),
        close(),
        begin("r", &[]),
        add_plan("p", "tok"),
    ] {
        assert_eq!(desk.attempt(action).unwrap_err(), Rejected::Closed(at(9)));
    }
    for action in [late(2), adjust(1), adjust(-1), Action::Observe] {
        desk.run(action);
    }
    let usage = desk
        .entries
        .iter()
        .find(|entry| entry.kind == EntryKind::Usage);
    let sequence = usage.unwrap().sequence;
    desk.run(correct(sequence, 1));
    assert_eq!(desk.book.closed, Some(at(9)));
}

#[test]
fn what_cannot_be_refunded_is_told() {
    let mut desk = bought();
    desk.run(buy_plan("p", 5));
    for (action, why) in [
        (begin("r", &["z"]), Rejected::UnknownOrder("z".into())),
        (
            begin("r", &["a", "p"]),
            Rejected::PlanNotRefundable("p".into()),
        ),
        (begin("", &[]), Rejected::Missing("refund_id")),
        (invoiced("z", 1), Rejected::UnknownOrder("z".into())),
        (invoiced("a", -1), Rejected::Negative("amount", n(-1))),
    ] {
        assert_eq!(desk.attempt(action).unwrap_err(), why);
    }
    desk.run(invoiced("a", 50));
    desk.run(invoiced("b", 20));
    assert_eq!(
        desk.attempt(begin("r", &[])).unwrap_err(),
        Rejected::NothingToRefund
    );
    desk.policy.refunds = Refunds::Never;
    assert_eq!(
        desk.attempt(begin("r", &[])).unwrap_err(),
        Rejected::NotRefundable
    );
    assert_eq!(desk.book.refundable(n(4), &desk.policy, at(0)), []);
}

#[test]
fn an_order_that_is_voided_gives_back_what_is_left_of_it() {
    let void = |id: &str| Action::Void {
        order_id: id.into(),
        note: "stolen card".into(),
    };
    let mut desk = bought();
    let done = desk.run(void("a"));
    assert_eq!(done.answer().unwrap().amount, n(-6));
    assert_eq!(desk.left(), [(2, 20), (3, 7)]);
    let gone = Rejected::UnknownOrder("a".into());
    assert_eq!(desk.attempt(void("a")).unwrap_err(), gone);
    let why = Action::Void {
        order_id: "b".into(),
        note: " ".into(),
    };
    assert_eq!(desk.attempt(why).unwrap_err(), Rejected::NoNote);
}

#[test]
fn a_refund_of_several_orders_says_what_was_paid_back_of_each() {
    let mut desk = bought();
    desk.run(begin("r", &[]));
    let done = desk.run(complete("r", false));
    let entry = done.answer().unwrap();
    let parts = entry.allocations.iter();
    let parts: Vec<_> = parts
        .map(|part| (part.order().unwrap(), part.amount.nanos()))
        .collect();
    assert_eq!(parts, [("a", 6), ("b", 5)]);
    assert_eq!(entry.order_id, None);
    let of = ["a", "b", "c"].map(|order| entry.is_of(order));
    assert_eq!(of, [true, true, false]);

    // Put back into a store that lost it and took more meanwhile, the same is paid back of each.
    let mut store = bought();
    store.run(order("c", 50));
    store.run(rank(-1, order("a2", 3)));
    let command = Command {
        idempotency_key: None,
        action: complete("r", false),
    };
    let given = store.given();
    let (policy, now) = (&store.policy, at(store.now));
    let again = apply::apply_again(&store.book, given, &command, policy, now, entry);
    let again = again.unwrap();
    let parts: Vec<_> = taken(again.answer().unwrap());
    assert_eq!(parts, [(1, 6), (2, 5)]);
}
