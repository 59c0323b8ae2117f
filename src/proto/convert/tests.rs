//! Unit tests of the conversions: what is accepted, what is refused and in which words, and that values come back.

use super::*;
use crate::policy::{HoldRule, Overrides, Policy};
use crate::usage::{Counts, Meter};

fn wire(unit: &str, nanos: i64) -> v1::Amount {
    v1::Amount {
        unit: unit.into(),
        nanos,
    }
}

#[test]
fn an_amount_is_in_the_unit_of_its_context() {
    let check = |given: Option<v1::Amount>, unit: &str, expected: Result<i64, &str>| {
        let read = amount_from("amount", given.as_ref(), unit);
        let read = read.map(Amount::nanos).map_err(|error| error.to_string());
        match expected {
            Ok(nanos) => assert_eq!(read, Ok(nanos)),
            Err(part) => assert!(
                read.clone().is_err_and(|e| e.contains(part)),
                "{read:?} {part}"
            ),
        }
    };
    check(Some(wire("USD", 5)), "USD", Ok(5));
    check(Some(wire("", -5)), "USD", Ok(-5));
    check(Some(wire("", 5)), "", Ok(5));
    check(Some(wire("", i64::MAX)), "USD", Ok(i64::MAX));
    check(Some(wire("", -i64::MAX)), "USD", Ok(-i64::MAX));
    check(
        Some(wire("EUR", 5)),
        "USD",
        Err("amount.unit: unit is `EUR`; it must be `USD`"),
    );
    check(Some(wire("EUR", 5)), "", Err("leave it out"));
    check(
        Some(wire("", i64::MIN)),
        "USD",
        Err("amount.nanos: -9223372036854775808 is beyond"),
    );
    check(None, "USD", Err("amount: required"));
}

#[test]
fn a_wrong_unit_is_told_apart_from_a_wrong_value() {
    let error = amount_from("a", Some(&wire("EUR", 1)), "USD").unwrap_err();
    assert_eq!(error.kind, FieldErrorKind::Unit);
    assert_eq!(
        amount_from("a", None, "USD").unwrap_err().kind,
        FieldErrorKind::Missing
    );
}

#[test]
fn instants_come_back_to_the_nanosecond_also_before_1970() {
    for nanos in [
        0,
        1,
        -1,
        1_790_000_000_123_456_789,
        i64::MAX,
        -1_000_000_000,
        -1_500_000_001,
    ] {
        let time = Timestamp::from_nanos(nanos);
        let wire = timestamp(time);
        assert!((0..1_000_000_000).contains(&wire.nanos), "{wire:?}");
        assert_eq!(timestamp_from("t", Some(&wire)), Ok(Some(time)), "{nanos}");
    }
    assert_eq!(timestamp_from("t", None), Ok(None));
}

#[test]
fn what_is_no_instant_is_refused() {
    for (seconds, nanos) in [
        (0, -1),
        (0, 1_000_000_000),
        (i64::MAX, 0),
        (9_223_372_037, 0),
    ] {
        let wire = prost_types::Timestamp { seconds, nanos };
        let error = timestamp_from("expire_time", Some(&wire)).unwrap_err();
        assert_eq!(error.field, "expire_time", "{wire:?}");
    }
}

#[test]
fn a_length_of_time_is_above_zero() {
    let check = |seconds, nanos, expected: Option<Duration>| {
        let wire = prost_types::Duration { seconds, nanos };
        assert_eq!(
            duration_from("ttl", Some(&wire)).ok().flatten(),
            expected,
            "{wire:?}"
        );
    };
    check(1, 500_000_000, Some(Duration::from_millis(1500)));
    check(0, 1, Some(Duration::from_nanos(1)));
    check(0, 0, None);
    check(-1, 0, None);
    check(0, -1, None);
    check(0, 1_000_000_000, None);
    let length = Duration::from_millis(1500);
    assert_eq!(
        duration_from("ttl", Some(&duration(length))),
        Ok(Some(length))
    );
}

#[test]
fn texts_are_bounded_and_plain() {
    let long = "x".repeat(129);
    for (text, good) in [
        ("a", true),
        ("550e8400-e29b", true),
        ("", false),
        ("a b", false),
        ("ü", false),
        (long.as_str(), false),
    ] {
        assert_eq!(token("request_id", text).is_ok(), good, "{text:?}");
    }
    for (text, good) in [
        ("USD", true),
        ("gpu-hours_1", true),
        ("", false),
        ("US D", false),
        ("12345678901234567", false),
    ] {
        assert_eq!(unit("unit", text).is_ok(), good, "{text:?}");
    }
    for (text, good) in [("", true), ("müde Noten", true), ("two\nlines", false)] {
        assert_eq!(note("note", text).is_ok(), good, "{text:?}");
    }
    assert!(note("note", &"ü".repeat(1_000)).is_ok());
    assert!(note("note", &"ü".repeat(1_001)).is_err());
    assert!(policy_id("policy_id", "a b").is_err());
    assert_eq!(policy_id("policy_id", "gold").as_deref(), Ok("gold"));
}

#[test]
fn every_meter_has_a_number_of_its_own_and_comes_back() {
    for known in Meter::ALL {
        assert_eq!(meter_from("m", meter(known).into()), Ok(known));
    }
    assert!(meter_from("m", 0).is_err());
    assert!(
        meter_from("m", 99)
            .unwrap_err()
            .problem
            .contains("METER_INPUT")
    );
}

#[test]
fn counts_come_back_and_a_meter_stands_once() {
    let given = Counts::default()
        .with(Meter::Request, 1)
        .with(Meter::Input, 7);
    assert_eq!(counts_from("counts", &counts(&given)), Ok(given));
    let one = v1::MeterCount {
        meter: v1::Meter::Input.into(),
        count: 7,
    };
    assert_eq!(
        counts_from("counts", &[one]),
        Ok(given),
        "a request is counted by itself"
    );
    let error = counts_from("counts", &[one, one]).unwrap_err();
    assert_eq!(error.field, "counts[1]");
}

#[test]
fn overrides_come_back() {
    let given = Overrides {
        credit_limit: Some(Amount::from_nanos(5)),
        hold: Some(HoldRule::Capped(Amount::from_nanos(7))),
        qps: Some(3),
        low_balance: Some(Amount::from_nanos(-1)),
        ..Overrides::default()
    };
    assert_eq!(
        overrides_from("o", &overrides(&given, "USD"), "USD"),
        Ok(given)
    );
}

#[test]
fn wrong_overrides_name_their_field() {
    let check = |wrong: v1::Overrides, field: &str| {
        assert_eq!(overrides_from("o", &wrong, "USD").unwrap_err().field, field);
    };
    let none = v1::Overrides::default();
    check(
        v1::Overrides {
            qps: Some(0),
            ..none.clone()
        },
        "o.qps",
    );
    check(
        v1::Overrides {
            credit_limit: Some(wire("", -1)),
            ..none.clone()
        },
        "o.credit_limit",
    );
    check(
        v1::Overrides {
            low_balance: Some(wire("EUR", 1)),
            ..none.clone()
        },
        "o.low_balance.unit",
    );
    let rule = |mode: v1::HoldMode, amount| {
        Some(v1::HoldRule {
            mode: mode.into(),
            amount,
        })
    };
    check(
        v1::Overrides {
            hold: rule(v1::HoldMode::Capped, None),
            ..none.clone()
        },
        "o.hold.amount",
    );
    check(
        v1::Overrides {
            hold: rule(v1::HoldMode::Max, Some(wire("", 1))),
            ..none.clone()
        },
        "o.hold.amount",
    );
    check(
        v1::Overrides {
            hold: rule(v1::HoldMode::Unspecified, None),
            ..none
        },
        "o.hold.mode",
    );
}

#[test]
fn a_policy_takes_the_named_fields_only() {
    let base = Policy {
        qps: Some(10),
        hold_ms_max: 5,
        ..Policy::default()
    };
    assert_eq!(
        policy_from("p", &policy("x", &base, ""), Policy::default(), |_| true),
        Ok(base.clone())
    );
    let sent = v1::Policy {
        qps: Some(20),
        ..v1::Policy::default()
    };
    let changed = policy_from("p", &sent, base.clone(), |name| name == "qps");
    assert_eq!(
        changed,
        Ok(Policy {
            qps: Some(20),
            ..base.clone()
        })
    );
    let cleared = policy_from("p", &v1::Policy::default(), base, |_| true);
    assert_eq!(cleared, Ok(Policy::default()));
    let fine = v1::Policy {
        hold_ttl: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1,
        }),
        ..v1::Policy::default()
    };
    let error = policy_from("p", &fine, Policy::default(), |_| true).unwrap_err();
    assert_eq!(error.field, "p.hold_ttl");
}

#[test]
fn a_price_comes_back_and_its_mistakes_are_named() {
    let rate = |meter: v1::Meter, nanos| v1::Rate {
        meter: meter.into(),
        price: Some(wire("", nanos)),
        per: v1::Per::Million.into(),
    };
    let sent = v1::Price {
        pattern: "gpt-4o*".into(),
        unit: "USD".into(),
        rates: vec![rate(v1::Meter::Input, 2), rate(v1::Meter::Output, 3)],
        max_output_tokens: Some(9),
        origin: 0,
    };
    let read = price_from("price", &sent).unwrap();
    let back = price(&read, v1::Origin::Store);
    assert_eq!(price_from("price", &back).as_ref(), Ok(&read));
    assert_eq!(back.origin(), v1::Origin::Store);
    let check = |wrong: v1::Price, field: &str| {
        assert_eq!(price_from("price", &wrong).unwrap_err().field, field);
    };
    check(
        v1::Price {
            pattern: String::new(),
            ..sent.clone()
        },
        "price.pattern",
    );
    check(
        v1::Price {
            unit: String::new(),
            ..sent.clone()
        },
        "price.unit",
    );
    check(
        v1::Price {
            rates: vec![rate(v1::Meter::Input, -1)],
            ..sent.clone()
        },
        "price.rates[0].price",
    );
    check(
        v1::Price {
            rates: vec![rate(v1::Meter::Unspecified, 1)],
            ..sent.clone()
        },
        "price.rates[0].meter",
    );
    let twice = vec![rate(v1::Meter::Input, 1), rate(v1::Meter::Input, 1)];
    check(
        v1::Price {
            rates: twice,
            ..sent
        },
        "price.rates[1]",
    );
}
