//! X: what holds under every preset.

use tollgate::proto::v1;
use tonic::Code;

use super::acts::lasts;
use super::backend::{money, nanos, refused, said, text};
use super::world::{DAY, HOUR, NS, PASSES, SECOND, World};

const NO_MONEY: &str = "INSUFFICIENT_BALANCE";
const OVERDUE: &str = "ACCOUNT_OVERDUE";

/// A token of `tiny` costs half of the smallest amount there is. Points are ten for what costs 1.
const PRICES: &str = r#"
[[prices]]
pattern = "tiny"
unit = "USD"
rates.input = { price = "0.0005", per = "million" }
rates.output = { price = "0.0005", per = "million" }

[[prices]]
pattern = "flat"
unit = "points"
rates.request = "10"
"#;

async fn plain() -> World {
    World::configured("default", PRICES).await
}

#[tokio::test]
async fn x_1_money_is_an_integer_rounded_once_per_request() {
    let world = plain().await;
    world.recharge("1").await;
    // Tokens in and out, and what the call costs in nano-units: half up, of the sum.
    let mut left = 1_000_000_000;
    for (input, output, cost) in [
        (0, 1, 1),
        (1, 1, 1),
        (1, 2, 2),
        (3, 4, 4),
        (0, 0, 0),
        (2, 0, 1),
    ] {
        let seen = world.call_with("sk-caller-a", "tiny", input, output).await;
        assert_eq!(seen.said(), PASSES);
        left -= cost;
        let balance = nanos(&world.a().await.balance);
        assert_eq!(balance, left, "{input} in, {output} out");
    }
    for wrong in ["0", "-1"] {
        let status = world.order("o-wrong", wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong}");
    }
    let most = |order: &str| v1::RechargeRequest {
        order_id: order.into(),
        amount: Some(v1::Amount {
            unit: "USD".into(),
            nanos: i64::MAX,
        }),
        ..v1::RechargeRequest::default()
    };
    let beyond = said(Code::OutOfRange, "AMOUNT_OUT_OF_RANGE");
    assert_eq!(refused(world.recharge_with(most("o-1")).await), beyond);
    assert_eq!(nanos(&world.a().await.balance), left, "it left no trace");
    world.verify().await;
}

#[tokio::test]
async fn x_2_the_burn_order_and_a_correction_that_unwinds_it() {
    let world = plain().await;
    world.mark();
    // In the order in which they are put in: paid or given, when it expires, its priority.
    let blocks = [
        ("last", true, None, 1),
        ("paid-none", true, None, 0),
        ("gift-none", false, None, 0),
        ("paid-late", true, Some(2 * DAY), 0),
        ("paid-soon", true, Some(DAY), 0),
        ("gift-soon", false, Some(DAY), 0),
        ("first", true, None, -1),
    ];
    for (n, (order, paid, expires, priority)) in (0_i64..).zip(blocks) {
        world.at(n * SECOND);
        let expires = expires.and_then(|offset| world.instant(offset));
        if paid {
            let request = v1::RechargeRequest {
                order_id: order.into(),
                amount: money("1"),
                expire_time: expires,
                priority,
                ..v1::RechargeRequest::default()
            };
            world.recharge_with(request).await.unwrap();
        } else {
            let request = v1::GrantRequest {
                order_id: order.into(),
                amount: money("1"),
                expire_time: expires,
                priority,
                ..v1::GrantRequest::default()
            };
            world.grant_with(request).await.unwrap();
        }
    }
    // Two alike: the earlier one first.
    world.at(10 * SECOND);
    world.order("paid-none-2", "1").await.unwrap();
    let orders = async || -> Vec<String> {
        let blocks = world.blocks().await;
        blocks.iter().map(|block| block.order_id.clone()).collect()
    };
    let expected = [
        "first",
        "gift-soon",
        "paid-soon",
        "paid-late",
        "gift-none",
        "paid-none",
        "paid-none-2",
        "last",
    ];
    assert_eq!(orders().await, expected);

    // Plans go before all of it, for what is in their scope: of two by priority, not by name or by when they were bought.
    let plan = |plan: &str, priority, model: &str| v1::BuyPlanRequest {
        plan_id: plan.into(),
        priority,
        models: vec![model.into()],
        amount: Some(v1::Amount {
            unit: "points".into(),
            nanos: 10_000_000_000,
        }),
        ..v1::BuyPlanRequest::default()
    };
    for request in [
        plan("a-late", 1, "fl*"),
        plan("none", -1, "other"),
        plan("z-early", 0, "flat"),
    ] {
        world.buy_plan_with(request).await.unwrap();
    }
    for left in [["10.00", "0.00"], ["0.00", "0.00"]] {
        world.check_now("flat", PASSES).await;
        let plans = [world.left("a-late").await, world.left("z-early").await];
        assert_eq!(plans, left);
    }
    assert_eq!(world.left("none").await, "10.00", "out of its scope");
    assert_eq!(world.balance().await, "8.00");

    let before = world.blocks().await;
    let entry = world.late("2.5").await;
    let taken: Vec<_> = entry
        .allocations
        .iter()
        .map(|part| (part.block_id, text(&part.amount)))
        .collect();
    let id = |n: usize| before[n].block_id;
    assert_eq!(
        taken,
        [
            (id(0), "1.00".into()),
            (id(1), "1.00".into()),
            (id(2), "0.50".into())
        ]
    );
    assert_eq!(orders().await, expected[2..]);
    // It goes back to where it came from, the last first; what has expired meanwhile expires at once.
    world.correct(entry.sequence, "1").await.unwrap();
    let left: Vec<_> = world
        .blocks()
        .await
        .iter()
        .map(|block| (block.order_id.clone(), text(&block.remaining)))
        .take(2)
        .collect();
    assert_eq!(
        left,
        [
            ("gift-soon".into(), "0.50".into()),
            ("paid-soon".to_owned(), "1.00".to_owned())
        ]
    );
    world.at(DAY);
    world.told("credit.expired", 2).await;
    assert_eq!(world.balance().await, "5.00");
    let corrected = world.correct(entry.sequence, "1.5").await.unwrap();
    let account = corrected.account.unwrap();
    assert_eq!(text(&account.balance), "6.00", "half of it expires at once");
    assert_eq!(world.balance().await, "6.00");
    assert_eq!(orders().await[0], "first");
    assert!(
        world.correct(entry.sequence, "0.01").await.is_err(),
        "all of it went back"
    );
    world.verify().await;
}

#[tokio::test]
async fn x_3_intervals_are_half_open_to_the_nanosecond() {
    let world = plain().await;
    world.mark();
    // Credit, a key, an hour of usage: each ends at its end exactly.
    let credit = v1::RechargeRequest {
        order_id: "o-1".into(),
        amount: money("10"),
        expire_time: world.instant(HOUR),
        ..v1::RechargeRequest::default()
    };
    world.recharge_with(credit).await.unwrap();
    world
        .check(&[
            (HOUR - NS, "flat", PASSES),
            (HOUR, "flat", NO_MONEY),
            (HOUR + NS, "flat", NO_MONEY),
        ])
        .await;

    world.recharge("10").await;
    let key = v1::CreateKeyRequest {
        key: Some(v1::Key {
            account_id: "a".into(),
            key_id: "k-short".into(),
            expire_time: world.instant(2 * HOUR),
            ..v1::Key::default()
        }),
        secret: "sk-caller-short".into(),
    };
    world.keys().create_key(key).await.unwrap();
    for (offset, want) in [
        (2 * HOUR - NS, PASSES),
        (2 * HOUR, "KEY_EXPIRED"),
        (2 * HOUR + NS, "KEY_EXPIRED"),
    ] {
        world.at(offset);
        let seen = world.call_as("sk-caller-short", "flat", 0).await;
        assert_eq!(seen.said(), want, "a key at {offset}");
    }

    world.to("2026-03-11T11:59:59.999999999Z");
    world.check_now("flat", PASSES).await;
    world.to("2026-03-11T12:00:00Z");
    world.check_now("flat", PASSES).await;
    // The query ends before now, so before its first instant an hour is not in it.
    world.to("2026-03-11T12:00:00.000000001Z");
    let usage = world.usage(v1::QueryUsageRequest::default()).await;
    let hours: Vec<_> = usage
        .rows
        .iter()
        .map(|row| row.start_time.unwrap().seconds)
        .collect();
    let noon = 1_773_230_400;
    assert_eq!(hours[hours.len() - 2..], [noon - 3_600, noon], "{hours:?}");

    // The same deadline with its end and without it.
    for (inclusive, at_the_end) in [(true, PASSES), (false, OVERDUE)] {
        let world = plain().await;
        world.otherwise(|o| o.grace = lasts(HOUR, inclusive)).await;
        world.recharge("1").await;
        world.spend("2").await;
        world.mark();
        world
            .check(&[
                (HOUR - NS, "flat", PASSES),
                (HOUR, "flat", at_the_end),
                (HOUR + NS, "flat", OVERDUE),
            ])
            .await;
    }
}

#[tokio::test]
async fn x_4_what_moves_money_counts_once_by_its_key_and_its_order() {
    let world = plain().await;
    let recharge = |amount: &str, request: &str, order: &str| v1::RechargeRequest {
        request_id: request.into(),
        order_id: order.into(),
        amount: money(amount),
        ..v1::RechargeRequest::default()
    };
    let first = world
        .recharge_with(recharge("5", "pay-1", "order-1"))
        .await
        .unwrap();
    let again = world
        .recharge_with(recharge("5", "pay-1", "order-1"))
        .await
        .unwrap();
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(first.entry, again.entry, "the first answer");
    let reused = said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(
        refused(world.recharge_with(recharge("6", "pay-1", "order-1")).await),
        reused
    );
    let counted = said(Code::AlreadyExists, "ORDER_REUSED");
    assert_eq!(
        refused(world.recharge_with(recharge("5", "pay-2", "order-1")).await),
        counted
    );

    let charge = |amount: &str| v1::LateChargeRequest {
        account_id: "a".into(),
        request_id: "late-1".into(),
        amount: money(amount),
        ..v1::LateChargeRequest::default()
    };
    world.credit().late_charge(charge("1")).await.unwrap();
    let again = world.credit().late_charge(charge("1")).await.unwrap();
    assert!(again.into_inner().replayed);
    assert_eq!(
        refused(world.credit().late_charge(charge("2")).await),
        reused
    );
    let adjust = v1::AdjustRequest {
        account_id: "a".into(),
        request_id: "late-1".into(),
        amount: money("1"),
        note: "another act under the same key".into(),
    };
    assert_eq!(refused(world.credit().adjust(adjust).await), reused);

    let plan = |points: i64| v1::BuyPlanRequest {
        request_id: "plan-1".into(),
        order_id: "plan-1".into(),
        plan_id: "pack".into(),
        amount: Some(v1::Amount {
            unit: "points".into(),
            nanos: points * 1_000_000_000,
        }),
        ..v1::BuyPlanRequest::default()
    };
    world.buy_plan_with(plan(10)).await.unwrap();
    assert!(world.buy_plan_with(plan(10)).await.unwrap().replayed);
    assert_eq!(refused(world.buy_plan_with(plan(20)).await), reused);
    assert_eq!(world.left("pack").await, "10.00");
    assert_eq!(world.balance().await, "4.00");
    // However much later.
    world.at(400 * DAY);
    assert!(
        world
            .recharge_with(recharge("5", "pay-1", "order-1"))
            .await
            .unwrap()
            .replayed
    );
    assert_eq!(world.balance().await, "4.00");
}

#[tokio::test]
async fn x_5_alerts_are_told_once_per_crossing() {
    let world = plain().await;
    let alerts = v1::Amounts {
        amounts: vec![money("5").unwrap(), money("2").unwrap()],
    };
    world.otherwise(|o| o.alerts = Some(alerts)).await;
    world.recharge("6").await;
    let told = async || -> Vec<String> {
        let events = world.events("balance.low").await;
        events.iter().map(|event| text(&event.amount)).collect()
    };
    // What is taken or paid, and which thresholds are told of.
    for (taken, crossed) in [
        ("1", &[][..]),
        ("0.5", &["5.00"]),
        ("0.5", &[]),
        ("2.5", &["2.00"]),
        ("1", &[]),
        ("-1.5", &[]),
        ("1", &["2.00"]),
        ("-5", &[]),
        ("2", &["5.00"]),
        ("4", &["2.00"]),
    ] {
        let before = told().await.len();
        match taken.strip_prefix('-') {
            Some(paid) => drop(world.recharge(paid).await),
            None => drop(world.late(taken).await),
        }
        assert_eq!(told().await[before..], *crossed, "after {taken}");
    }
    // Overdue and back, twice.
    world.late("5").await;
    world.recharge("10").await;
    world.late("20").await;
    let kinds = ["account.overdue", "account.resumed"];
    assert_eq!(world.story(&kinds).await, [kinds[0], kinds[1], kinds[0]]);
}

#[tokio::test]
async fn x_6_a_late_charge_always_lands() {
    let world = plain().await;
    world
        .otherwise(|o| o.suspend_after = lasts(DAY, false))
        .await;
    world.recharge("10").await;
    let lands = async |when: &str| {
        let before = nanos(&world.a().await.balance);
        world.late("1").await;
        let after = nanos(&world.a().await.balance);
        assert_eq!(after, before - 1_000_000_000, "{when}");
    };
    let hold = world.hold("3").await.unwrap();
    lands("while money is held").await;
    world.revoke("k-a").await;
    lands("after its key was deleted").await;
    world.mark();
    // Holds live for ten minutes.
    world.at(HOUR / 6);
    world.expired(&hold).await;
    lands("after its hold expired").await;
    // The real cost of that call still comes, and is counted once.
    world.settle(&hold, "9").await;
    assert_eq!(world.balance().await, "-2.00");
    lands("while overdue").await;
    world.at(3 * DAY);
    world.told("account.suspended", 1).await;
    lands("after the suspension").await;
    world.recharge("20").await;
    world.begin_refund(&[]).await.unwrap();
    lands("while a refund is in progress").await;
    world.complete_refund("refund-1", false).await.unwrap();
    assert_eq!(world.balance().await, "0.00");
    lands("after the refund").await;
    world.close().await;
    lands("after the account was closed").await;
    world.verify().await;
}

#[tokio::test]
async fn x_7_a_credit_that_expires_still_pays_what_holds_it() {
    let world = plain().await;
    world.mark();
    let credit = v1::RechargeRequest {
        order_id: "o-1".into(),
        amount: money("10"),
        expire_time: world.instant(HOUR),
        ..v1::RechargeRequest::default()
    };
    world.recharge_with(credit).await.unwrap();
    // By the proxy: a call that is held for 1, and one of an application for 4.
    let call = world.begin("flat", 0).await;
    world.at(HOUR - MINUTES_5);
    let hold = world.hold("4").await.unwrap();
    world.at(HOUR);
    world.quiet().await;
    world.check_now("flat", NO_MONEY).await;
    world.answer(call).await;
    world.settle(&hold, "3").await;
    let account = world.a().await;
    assert_eq!(
        (text(&account.balance), text(&account.debt)),
        ("0.00".into(), "0.00".into())
    );
    let entries = world.entries().await;
    let sum = |kind: v1::EntryKind| {
        let of_kind = entries.iter().filter(|entry| entry.kind() == kind);
        of_kind.map(|entry| nanos(&entry.amount)).sum::<i64>()
    };
    assert_eq!(
        sum(v1::EntryKind::Usage),
        -4_000_000_000,
        "both are paid from it"
    );
    assert_eq!(
        sum(v1::EntryKind::Expiry),
        -6_000_000_000,
        "and the rest is gone"
    );
    world.verify().await;
}

const MINUTES_5: i64 = 300 * SECOND;

#[tokio::test]
async fn x_8_prices_and_policies_never_touch_the_ledger() {
    let world = plain().await;
    world.recharge("100").await;
    world.check_now("flat", PASSES).await;
    let call = world.begin("flat", 0).await;
    let before = (world.entries().await, world.balance().await);
    for (pattern, price) in [("flat*", "50"), ("flat", "7")] {
        let dear = v1::SetPriceRequest {
            price: Some(v1::Price {
                pattern: pattern.into(),
                unit: "USD".into(),
                rates: vec![v1::Rate {
                    meter: v1::Meter::Request.into(),
                    price: money(price),
                    per: v1::Per::Unit.into(),
                }],
                ..v1::Price::default()
            }),
            etag: String::new(),
        };
        world.price_service().set_price(dear).await.unwrap();
    }
    world
        .set_policy(v1::Policy {
            policy_id: "default".into(),
            qps: Some(1_000),
            low_balance: money("1"),
            ..v1::Policy::default()
        })
        .await;
    world.quiet().await;
    assert_eq!((world.entries().await, world.balance().await), before);
    let wrong = world.call("flat-2").await;
    assert_eq!(wrong.said(), PASSES);
    world.answer(call).await;
    assert_eq!(
        world.balance().await,
        "48.00",
        "50, and 1 of the call under way, at the price it was admitted at"
    );
    // The price was wrong: what it took goes back by entries, and none is changed.
    let entry = world.entries().await.pop().unwrap();
    world
        .adjust("49", "flat-2 was priced 50 instead of 1")
        .await;
    assert_eq!(world.balance().await, "97.00");
    let entries = world.entries().await;
    assert_eq!(entries[entries.len() - 2], entry);
    assert_eq!(entries.last().unwrap().kind(), v1::EntryKind::Adjustment);
    world.verify().await;
}
