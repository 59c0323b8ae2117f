//! What counts once: idempotency keys, orders, and the fingerprint of a request.

use std::collections::HashSet;

use super::*;

fn keyed(key: &str, action: Action) -> Command {
    Command {
        idempotency_key: (!key.is_empty()).then(|| key.into()),
        action,
    }
}

fn ordered(order: &str, nanos: i64) -> Action {
    Action::Recharge {
        amount: n(nanos),
        order_id: order.into(),
        priority: 0,
        expires: None,
        note: String::new(),
    }
}

fn gift(order: Option<&str>) -> Action {
    Action::Grant {
        amount: n(5),
        order_id: order.map(Into::into),
        priority: 0,
        expires: None,
        note: String::new(),
    }
}

#[test]
fn a_command_counts_once_under_its_key_and_its_order() {
    for (command, want) in [
        (keyed("a", ordered("b", 5)), &["k:a", "o:b"][..]),
        (keyed("", ordered("b", 5)), &["o:b"]),
        (keyed("a", gift(Some("b"))), &["k:a", "o:b"]),
        (keyed("a", gift(None)), &["k:a"]),
        (keyed("a", adjust(5)), &["k:a"]),
        (keyed("a", late(5)), &["k:a"]),
        (keyed("", configure()), &[]),
        (Command::observe(), &[]),
    ] {
        assert_eq!(command.claims(), want, "{command:?}");
    }
}

/// What a command finds after another was carried out, in a store that keeps claims by name.
fn check(first: &Command, then: &Command, want: &str) {
    let mut desk = Desk::new();
    let entry = desk.command(first).unwrap().entries.pop().unwrap();
    let fingerprint = first.fingerprint();
    let kept = first.claims();
    let standing = then.claims().into_iter().map(|name| {
        kept.contains(&name).then(|| Claim {
            fingerprint: fingerprint.clone(),
            entry: entry.clone(),
        })
    });
    let got = match then.seen_before(&standing.collect::<Vec<_>>()) {
        Seen::Never => "never",
        Seen::Before(answer) => {
            assert_eq!(*answer, entry, "the first answer again");
            "before"
        }
        Seen::KeyReused => "key reused",
        Seen::OrderReused => "order reused",
    };
    assert_eq!(got, want, "{first:?} {then:?}");
}

#[test]
fn a_repeat_is_told_from_another_use_of_a_key_or_an_order() {
    let first = keyed("a", ordered("b", 5));
    check(&first, &first, "before");
    check(&first, &keyed("a", ordered("b", 6)), "key reused");
    check(&first, &keyed("a", ordered("c", 5)), "key reused");
    check(&first, &keyed("a", gift(None)), "key reused");
    check(&first, &keyed("a", adjust(5)), "key reused");
    check(&first, &keyed("x", ordered("b", 5)), "order reused");
    check(&first, &keyed("", ordered("b", 5)), "order reused");
    check(&first, &keyed("x", gift(Some("b"))), "order reused");
    check(&first, &keyed("x", ordered("c", 5)), "never");
    check(&first, &keyed("x", gift(None)), "never");
    // A key and an order may have the same name.
    check(&first, &keyed("b", ordered("a", 5)), "never");
    check(&keyed("a", late(5)), &keyed("a", late(5)), "before");
    check(&keyed("a", late(5)), &keyed("b", late(5)), "never");
    check(&keyed("a", configure()), &keyed("a", configure()), "before");
}

#[test]
fn a_repeat_is_known_whatever_became_of_the_book() {
    let command = keyed("a", ordered("b", 5));
    let mut desk = Desk::new();
    let entry = desk.command(&command).unwrap().entries.pop().unwrap();
    let fingerprint = command.fingerprint();
    desk.at(99).spent(50).run(late(7));
    desk.policy.low_balance = Some(n(3));
    desk.run(grant(70));
    let claim = Some(Claim {
        fingerprint,
        entry: entry.clone(),
    });
    let again = keyed("a", ordered("b", 5));
    let seen = again.seen_before(&[claim.clone(), claim]);
    assert_eq!(seen, Seen::Before(Box::new(entry)));
}

#[test]
fn the_fingerprint_is_of_all_that_is_asked_and_not_of_the_key() {
    let whole = Action::LateCharge {
        amount: n(5),
        key: Some(KeyId::new("k").unwrap()),
        model: None,
        note: "invoice".into(),
    };
    let other_model = Action::LateCharge {
        amount: n(5),
        key: None,
        model: Some(ModelName::new("k").unwrap()),
        note: "invoice".into(),
    };
    let named = Action::Configure(Configure {
        name: Some("x".into()),
        policy: None,
        overrides: None,
        ..Default::default()
    });
    let ruled = Action::Configure(Configure {
        name: None,
        policy: Some("x".into()),
        overrides: None,
        ..Default::default()
    });
    let limited = Action::Configure(Configure {
        name: None,
        policy: None,
        overrides: Some(Overrides::default()),
        ..Default::default()
    });
    let all = [
        recharge(5),
        recharge(6),
        ordered("order", 5),
        rank(1, recharge(5)),
        until(9, recharge(5)),
        until(10, recharge(5)),
        grant(5),
        gift(None),
        gift(Some("order")),
        rank(1, grant(5)),
        until(9, grant(5)),
        adjust(5),
        adjust(-5),
        late(5),
        whole,
        other_model,
        configure(),
        named,
        ruled,
        limited,
    ];
    let prints = all.iter().map(|action| {
        let one = keyed("a", action.clone()).fingerprint();
        assert_eq!(one, keyed("b", action.clone()).fingerprint());
        assert_eq!(one, keyed("", action.clone()).fingerprint());
        one
    });
    assert_eq!(prints.collect::<HashSet<_>>().len(), all.len());
}
