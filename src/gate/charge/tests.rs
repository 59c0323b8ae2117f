use super::*;
use crate::pricing::{Per, Rate};

fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

fn price(rates: &[(Meter, &str)]) -> Price {
    let rate = |price: &str| Rate {
        price: amount(price),
        per: Per::Unit,
    };
    Price {
        pattern: "m".into(),
        unit: "USD".into(),
        rates: rates
            .iter()
            .map(|(meter, price)| (*meter, rate(price)))
            .collect(),
        max_output: Some(100),
    }
}

fn tokens() -> Price {
    price(&[(Meter::Input, "1"), (Meter::Output, "2")])
}

fn said(input: u64, output: u64) -> Option<Counts> {
    Some(
        Counts::default()
            .with(Meter::Input, input)
            .with(Meter::Output, output),
    )
}

fn seen(end: End, usage: Option<Counts>, complete: bool) -> Outcome {
    let reading = Reading {
        usage,
        complete,
        error: false,
        text_bytes: 40,
    };
    Outcome {
        end,
        reading,
        bytes_in: 80,
        bytes_out: 400,
    }
}

/// Charges under a route's two choices, and expects an amount with its certainty, or nothing.
fn check(
    price: &Price,
    (on_missing_usage, on_upstream_error): (OnMissingUsage, OnUpstreamError),
    outcome: Outcome,
    want: Option<(&str, Certainty)>,
) {
    let foreseen = Foreseen {
        request_bytes: 80,
        input: None,
        max_output: Some(50),
        choices: 1,
        calls: 1,
    };
    let terms = Terms {
        price: Some(price),
        needs_usage: price.needs_usage(),
        held: amount("77"),
        foreseen,
        on_missing_usage,
        on_upstream_error,
    };
    let got = charge(&terms, &outcome).map(|charge| (charge.amount, charge.certainty));
    let want = want.map(|(text, certainty)| (amount(text), certainty));
    assert_eq!(
        got, want,
        "{on_missing_usage:?} {on_upstream_error:?} {outcome:?}"
    );
}

use Certainty::{Estimated, Exact};
use OnMissingUsage::{Estimate, Free, Hold as Held};
use OnUpstreamError::{Free as Forgive, Metered};

#[test]
fn what_was_said_is_charged_exactly() {
    for terms in [(Held, Metered), (Estimate, Forgive), (Free, Metered)] {
        check(
            &tokens(),
            terms,
            seen(End::Complete, said(10, 5), true),
            Some(("20", Exact)),
        );
        check(
            &tokens(),
            terms,
            seen(End::Complete, said(0, 0), true),
            Some(("0", Exact)),
        );
        check(
            &tokens(),
            terms,
            seen(End::ClientGone, said(10, 5), true),
            Some(("20", Exact)),
        );
    }
}

#[test]
fn missing_usage_is_charged_as_the_route_says() {
    // 80 bytes in are 20 tokens, 40 bytes of text are 10.
    for end in [End::Complete, End::ClientGone] {
        check(
            &tokens(),
            (Held, Metered),
            seen(end, None, true),
            Some(("77", Estimated)),
        );
        check(
            &tokens(),
            (Estimate, Metered),
            seen(end, None, true),
            Some(("40", Estimated)),
        );
        check(
            &tokens(),
            (Free, Metered),
            seen(end, None, true),
            Some(("0", Certainty::None)),
        );
    }
}

#[test]
fn a_stream_that_was_left_is_never_charged_less_than_it_said() {
    let left = |usage| seen(End::ClientGone, usage, false);
    check(
        &tokens(),
        (Estimate, Metered),
        left(said(100, 3)),
        Some(("120", Estimated)),
    );
    check(
        &tokens(),
        (Estimate, Metered),
        left(said(100, 30)),
        Some(("160", Estimated)),
    );
    check(
        &tokens(),
        (Held, Metered),
        left(said(100, 30)),
        Some(("77", Estimated)),
    );
}

#[test]
fn an_estimate_stays_below_what_was_asked_for() {
    let mut outcome = seen(End::Complete, None, true);
    outcome.reading.text_bytes = 1_000_000;
    check(
        &tokens(),
        (Estimate, Metered),
        outcome,
        Some(("120", Estimated)),
    );
}

#[test]
fn a_failed_upstream_costs_what_it_said_or_nothing() {
    for terms in [(Held, Metered), (Estimate, Metered), (Held, Forgive)] {
        for end in [End::NoAnswer, End::ClientFailed] {
            check(&tokens(), terms, seen(end, None, false), None);
            check(&tokens(), terms, seen(end, said(1, 1), true), None);
        }
        for end in [End::ErrorStatus, End::Cut] {
            check(&tokens(), terms, seen(end, None, false), None);
        }
    }
    check(
        &tokens(),
        (Held, Metered),
        seen(End::Cut, said(100, 3), false),
        Some(("120", Estimated)),
    );
    check(
        &tokens(),
        (Held, Metered),
        seen(End::Cut, said(100, 3), true),
        Some(("106", Exact)),
    );
    check(
        &tokens(),
        (Held, Forgive),
        seen(End::Cut, said(100, 3), true),
        None,
    );
    check(
        &tokens(),
        (Held, Metered),
        seen(End::ErrorStatus, said(9, 0), true),
        Some(("9", Exact)),
    );
    check(
        &tokens(),
        (Held, Forgive),
        seen(End::ErrorStatus, said(9, 0), true),
        None,
    );
}

#[test]
fn an_error_in_an_answer_that_began_well_is_an_upstream_error() {
    let mut outcome = seen(End::Complete, None, false);
    outcome.reading.error = true;
    check(&tokens(), (Held, Metered), outcome, None);
    outcome.reading.usage = said(5, 0);
    check(&tokens(), (Held, Metered), outcome, Some(("5", Exact)));
    check(&tokens(), (Held, Forgive), outcome, None);
}

#[test]
fn what_needs_no_usage_is_exact_without_it() {
    let flat = price(&[(Meter::Request, "3"), (Meter::ByteOut, "0.01")]);
    for terms in [(Held, Metered), (Estimate, Metered), (Free, Metered)] {
        check(
            &flat,
            terms,
            seen(End::Complete, None, false),
            Some(("7", Exact)),
        );
        check(
            &flat,
            terms,
            seen(End::ClientGone, None, false),
            Some(("7", Exact)),
        );
        check(&flat, terms, seen(End::ErrorStatus, None, false), None);
    }
}

#[test]
fn a_count_beyond_reason_charges_the_hold() {
    check(
        &tokens(),
        (Free, Metered),
        seen(End::Complete, said(u64::MAX, 0), true),
        Some(("77", Estimated)),
    );
}

#[test]
fn holds_follow_their_rule() {
    // 80 bytes are 27 tokens held, 80 at worst; 50 tokens out at 2.
    let foreseen = Foreseen {
        request_bytes: 80,
        input: None,
        max_output: Some(50),
        choices: 1,
        calls: 1,
    };
    let hold = |foreseen: Foreseen, rule| foreseen.hold(&tokens(), rule).unwrap();
    let both = |held: &str, worst: &str| (amount(held), amount(worst));
    assert_eq!(hold(foreseen, HoldRule::Max), both("127", "180"));
    assert_eq!(
        hold(foreseen, HoldRule::Capped(amount("100"))),
        both("100", "180")
    );
    assert_eq!(
        hold(foreseen, HoldRule::Capped(amount("500"))),
        both("127", "180")
    );
    assert_eq!(
        hold(foreseen, HoldRule::Fixed(amount("5"))),
        both("5", "180")
    );
    assert_eq!(
        hold(foreseen, HoldRule::Fixed(amount("500"))),
        both("500", "500")
    );
    assert_eq!(hold(foreseen, HoldRule::None), both("0", "180"));
    let known = Foreseen {
        input: Some(10),
        ..foreseen
    };
    assert_eq!(hold(known, HoldRule::Max), both("110", "110"));
    let many = Foreseen {
        choices: 3,
        input: Some(0),
        ..foreseen
    };
    assert_eq!(hold(many, HoldRule::Max), both("300", "300"));
    let boundless = Foreseen {
        max_output: None,
        input: Some(0),
        ..foreseen
    };
    assert_eq!(
        hold(boundless, HoldRule::Max),
        both("200", "200"),
        "the price's own bound"
    );
    let greedy = Foreseen {
        max_output: Some(u64::MAX),
        choices: u64::MAX,
        ..foreseen
    };
    assert_eq!(
        greedy.hold(&tokens(), HoldRule::Max),
        None,
        "more than money can say"
    );
}
