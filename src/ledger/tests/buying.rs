//! Purchases and their bounds, plans, invoices, and the recharge that is asked for (A3, A4).

use super::*;
use crate::policy::{AutoRecharge, Mode};
use crate::refusal::Reason;

#[test]
fn a_purchase_is_within_the_bounds_of_its_tier() {
    let mut desk = Desk::new();
    desk.policy.purchase_min = Some(n(5));
    desk.policy.purchase_max = Some(n(10));
    desk.policy.purchase_max_by_tier = [("gold".to_owned(), n(100))].into();
    let above = |amount, max, tier: &str| Rejected::AboveMaximum {
        amount: n(amount),
        max: n(max),
        tier: tier.into(),
    };
    for (tier, amount, want) in [
        (
            "",
            4,
            Err(Rejected::BelowMinimum {
                amount: n(4),
                min: n(5),
            }),
        ),
        ("", 5, Ok(())),
        ("", 10, Ok(())),
        ("", 11, Err(above(11, 10, ""))),
        ("gold", 100, Ok(())),
        ("gold", 101, Err(above(101, 100, "gold"))),
        ("tin", 11, Err(above(11, 10, "tin"))),
    ] {
        desk.run(Action::Configure(Configure {
            tier: Some(tier.into()),
            ..Configure::default()
        }));
        let got = desk.attempt(recharge(amount)).map(|_| ());
        assert_eq!(got, want, "{tier} {amount}");
        // A gift has no bounds, and a plan's are those of its price.
        desk.run(grant(1));
        let mut plan = buy_plan("p", 1_000_000);
        if let Action::BuyPlan { price, .. } = &mut plan {
            *price = Some(n(amount));
        }
        assert_eq!(desk.attempt(plan).map(|_| ()), want, "{tier} {amount}");
        let before = desk.book.balance(n(0));
        let rate = desk.attempt(buy_rate(Some(amount)));
        let paid = rate.as_ref().ok().and_then(|rate| rate.answer()?.price());
        assert_eq!(paid, want.is_ok().then(|| n(amount)), "it is recorded");
        assert_eq!(rate.map(|_| ()), want, "{tier} {amount}");
        assert_eq!(desk.book.balance(n(0)), before, "and moves nothing");
    }
    // What is not said is not bounded.
    let free = desk.run(buy_rate(None));
    assert_eq!(free.answer().unwrap().price(), None);
    let negative = desk.attempt(buy_rate(Some(-1))).unwrap_err();
    assert_eq!(negative, Rejected::Negative("price", n(-1)));
}

fn buy_rate(price: Option<i64>) -> Action {
    Action::BuyQpsPlan {
        plan_id: "fast".into(),
        qps: 5,
        burst: None,
        effective: None,
        expires: None,
        order_id: "q".into(),
        price: price.map(n),
    }
}

#[test]
fn plan_credit_is_of_its_own_kind_and_no_recharge() {
    let mut desk = Desk::new();
    desk.run(until(100, buy_plan("p", 5)));
    assert_eq!(desk.book.blocks[0].kind, CreditKind::Plan);
    assert_eq!(desk.book.cumulative_recharge, n(0));
    assert_eq!(desk.spent(4).observe().events, []);
    let used = desk.spent(1).observe();
    assert_eq!(used.events[0].kind, EventKind::PlanExhausted);
    assert_eq!(desk.observe().events, []);
    let again = desk.run(until(100, buy_plan("q", 5)));
    assert_eq!(again.answer().unwrap().kind, EntryKind::PlanPurchase);
    let over = desk.at(100).observe();
    let kinds: Vec<_> = over.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::PlanExpired]);
}

#[test]
fn an_account_has_each_plan_once_in_one_unit() {
    let mut desk = Desk::new();
    desk.run(add_plan("b", "tok"));
    desk.run(add_plan("a", "tok"));
    desk.run(add_plan("b", "tok"));
    let names: Vec<_> = desk
        .book
        .plans
        .iter()
        .map(|plan| plan.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let unit = Rejected::PlanUnit {
        name: "a".into(),
        given: "img".into(),
        unit: "tok".into(),
    };
    assert_eq!(desk.attempt(add_plan("a", "img")).unwrap_err(), unit);
    let remove = |name: &str| Action::RemovePlan { name: name.into() };
    desk.run(remove("a"));
    assert_eq!(
        desk.attempt(remove("a")).unwrap_err(),
        Rejected::UnknownPlan("a".into())
    );
    for index in 1..PLANS_MAX {
        desk.run(add_plan(&format!("p{index}"), "tok"));
    }
    let most = Rejected::TooMany {
        field: "plans",
        count: PLANS_MAX + 1,
        most: PLANS_MAX,
    };
    assert_eq!(desk.attempt(add_plan("more", "tok")).unwrap_err(), most);
}

#[test]
fn what_is_owed_moves_to_an_invoice_and_comes_back_when_it_is_paid() {
    let mut desk = Desk::new();
    desk.policy.mode = Mode::CreditThenInvoice;
    desk.policy.invoice_limit = n(100);
    let close = |id: &str| Action::CloseInvoicePeriod {
        invoice_id: id.into(),
        lines: Vec::new(),
    };
    let settle = |id: &str| Action::SettleInvoice {
        invoice_id: id.into(),
    };
    let standing = |desk: &Desk| {
        let standing = desk.book.standing(n(desk.spend), &desk.policy, at(0));
        standing.at(at(0))
    };
    desk.run(recharge(10));
    desk.spent(70).observe();
    assert_eq!((desk.book.debt, desk.book.floor), (n(60), n(100)));
    assert_eq!((desk.book.overdue_since, standing(&desk)), (None, None));
    let done = desk.run(close("i1"));
    assert_eq!(done.answer().unwrap().amount, n(60));
    assert_eq!(done.credit_delta, n(0), "what may be leased stays the same");
    assert_eq!((desk.book.debt, desk.book.floor), (n(0), n(40)));
    assert_eq!(
        desk.attempt(close("i1")).unwrap_err(),
        Rejected::InvoiceExists("i1".into())
    );
    // Late usage is on the next one; beyond the limit the account is overdue.
    desk.spent(40).observe();
    assert_eq!((desk.book.overdue_since, standing(&desk)), (None, None));
    desk.spent(1).observe();
    assert_eq!(standing(&desk), Some(Reason::AccountOverdue));
    desk.run(settle("i1"));
    assert_eq!((desk.book.floor, standing(&desk)), (n(100), None));
    assert_eq!(
        desk.attempt(settle("i1")).unwrap_err(),
        Rejected::InvoicePaid("i1".into())
    );
    assert_eq!(
        desk.attempt(settle("i9")).unwrap_err(),
        Rejected::UnknownInvoice("i9".into())
    );
    // Arrears are settled before the account pays in advance.
    desk.policy.mode = Mode::PrepaidOnly;
    let arrears = |debt, outstanding| Rejected::ArrearsOpen {
        debt: n(debt),
        outstanding: n(outstanding),
    };
    assert_eq!(desk.attempt(configure()).unwrap_err(), arrears(41, 0));
    desk.policy.mode = Mode::CreditThenInvoice;
    desk.run(close("i2"));
    desk.policy.mode = Mode::PrepaidOnly;
    assert_eq!(desk.attempt(configure()).unwrap_err(), arrears(0, 41));
    desk.policy.mode = Mode::CreditThenInvoice;
    desk.run(settle("i2"));
    desk.policy.mode = Mode::PrepaidOnly;
    desk.run(configure());
    assert_eq!(
        desk.attempt(close("i3")).unwrap_err(),
        Rejected::NotInvoiced
    );
}

/// What was asked for, step by step: when, after how much was spent or paid.
fn check_asked(monthly_max: Option<i64>, steps: &[(&str, i64, bool)]) -> Desk {
    let mut desk = Desk::new();
    desk.policy.auto_recharge = Some(AutoRecharge {
        below: n(10),
        amount: n(20),
        cool_down_ms: 60_000,
        monthly_max: monthly_max.map(n),
    });
    for (time, change, asked) in steps {
        let time: Timestamp = time.parse().unwrap();
        desk.at(time.nanos());
        let applied = if *change > 0 {
            desk.run(recharge(*change))
        } else {
            desk.spent(-change).observe()
        };
        let event = applied
            .events
            .iter()
            .find(|event| event.kind == EventKind::RechargeRequested);
        assert_eq!(event.is_some(), *asked, "{time} {change}");
        assert_eq!(
            event.map(|event| event.idempotency_key.is_some()),
            asked.then_some(true)
        );
    }
    desk
}

#[test]
fn one_recharge_is_asked_for_at_a_time_and_not_again_too_soon() {
    let desk = check_asked(
        None,
        &[
            ("2026-01-31T10:00:00Z", 10, false),
            ("2026-01-31T10:00:00Z", -1, true),
            ("2026-01-31T12:00:00Z", -1, false),
            ("2026-01-31T12:00:01Z", 1, true),
            ("2026-01-31T12:00:02Z", 20, false),
            ("2026-01-31T12:00:03Z", -25, false),
            ("2026-01-31T12:01:00.999999999Z", 0, false),
            ("2026-01-31T12:01:01Z", 0, true),
        ],
    );
    let keys = desk
        .events
        .iter()
        .filter_map(|event| event.idempotency_key.as_ref());
    let keys: std::collections::BTreeSet<_> = keys.collect();
    assert_eq!(keys.len(), 3, "each request has a key of its own");
}

#[test]
fn a_month_has_its_sum() {
    let desk = check_asked(
        Some(50),
        &[
            ("2026-01-31T09:00:00Z", 0, false),
            ("2026-01-31T09:30:00Z", 10, false),
            ("2026-01-31T10:00:00Z", -10, true),
            ("2026-01-31T11:00:00Z", 1, true),
            ("2026-01-31T12:00:00Z", 1, false),
        ],
    );
    let next = desk.book.next_deadline(n(0), &desk.policy, at(desk.now));
    assert_eq!(next.unwrap().to_string(), "2026-02-01T00:00:00Z");
    check_asked(
        Some(50),
        &[
            ("2026-01-31T09:30:00Z", 10, false),
            ("2026-01-31T10:00:00Z", -10, true),
            ("2026-01-31T11:00:00Z", 1, true),
            ("2026-01-31T23:59:59.999999999Z", 1, false),
            ("2026-02-01T00:00:00Z", 0, true),
        ],
    );
}

#[test]
fn further_thresholds_are_announced_once_each() {
    let mut desk = Desk::new();
    desk.policy.alerts = vec![n(8), n(4)];
    let mut heard = Vec::new();
    for change in [10, -3, -1, -4, 5, -5, 9] {
        let applied = if change > 0 {
            desk.run(recharge(change))
        } else {
            desk.spent(-change).observe()
        };
        let low = applied
            .events
            .iter()
            .filter(|event| event.kind == EventKind::BalanceLow);
        heard.push(low.map(|event| event.amount.nanos()).collect::<Vec<_>>());
    }
    // Below both at the start, and heard once.
    let want: [&[i64]; 7] = [&[], &[8], &[], &[4], &[], &[4], &[]];
    assert_eq!(heard, want);
}

#[test]
fn events_carry_everybody_who_is_told() {
    let mut desk = Desk::new();
    desk.run(Action::Configure(Configure {
        recipients: Some(vec!["a@x".into(), "b@x".into()]),
        ..Configure::default()
    }));
    let told = desk.run(late(1));
    assert_eq!(told.events[0].recipients, ["a@x", "b@x"]);
    let many = Action::Configure(Configure {
        recipients: Some(vec![String::new(); RECIPIENTS_MAX + 1]),
        ..Configure::default()
    });
    assert!(matches!(desk.attempt(many), Err(Rejected::TooMany { .. })));
}

#[test]
fn a_book_of_an_earlier_version_loads() {
    let old = r#"{"account":"acme","unit":"USD","name":"acme","created":"2026-01-01T00:00:00Z","policy":"default",
        "blocks":[{"id":1,"kind":"paid","priority":0,"effective":"2026-01-01T00:00:00Z","expires":null,"granted":"5.00",
        "remaining":"4.00","order_id":"o"}],"debt":"0.00","lifetime_credit":"4.00","cumulative_recharge":"5.00",
        "absorbed":"0.00","floor":"0.00","overdue_since":null,"low_balance_sent":true,"entries":2,"events":2,"last_block":1}"#;
    let book: Book = serde_json::from_str(old).unwrap();
    assert_eq!(book.invariants(), Ok(()));
    let text = serde_json::to_string(&book).unwrap();
    for field in [
        "tenant",
        "refund",
        "plans",
        "invoices",
        "expired",
        "corrected",
    ] {
        assert!(
            !text.contains(field),
            "{field} is not written while it says nothing: {text}"
        );
    }
    // The fingerprint of a command that could be given then is the one that stands in the store.
    let command = Command {
        idempotency_key: None,
        action: configure(),
    };
    let json = serde_json::to_string(&command.action).unwrap();
    assert_eq!(
        json,
        r#"{"configure":{"name":null,"policy":null,"overrides":null}}"#
    );
}
