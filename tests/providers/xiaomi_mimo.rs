//! A3: the rules of the Xiaomi MiMo open platform, under the preset `xiaomi-mimo`.

use tollgate::proto::v1;
use tonic::Code;

use super::backend::{money, nanos, refused, said, text};
use super::world::{DAY, HOUR, NS, PASSES, World};

const OVERDUE: &str = "ACCOUNT_OVERDUE";
const NO_MONEY: &str = "INSUFFICIENT_BALANCE";
const FROZEN: &str = "REFUND_IN_PROGRESS";

/// A token plan is counted in points: `flat` costs ten of them, `metered` has no price in them.
const POINTS: &str = r#"
[[prices]]
pattern = "flat"
unit = "points"
rates.request = "10"
"#;

async fn mimo() -> World {
    World::configured("xiaomi-mimo", POINTS).await
}

#[tokio::test]
async fn a3_01_a_recharge_is_spendable_at_once_and_adds_up() {
    let world = mimo().await;
    world.check_now("flat", NO_MONEY).await;
    let first = world.order("o-1", "2").await.unwrap();
    world.check_now("flat", PASSES).await;
    assert_eq!(text(&first.account.unwrap().cumulative_recharge), "2.00");
    world.grant("5").await;
    world.order("o-2", "3").await.unwrap();
    let account = world.a().await;
    assert_eq!(text(&account.cumulative_recharge), "5.00", "no gift in it");
    assert_eq!(text(&account.balance), "9.00");
    let kinds = vec![v1::EntryKind::Recharge.into()];
    let records = world
        .list_entries(v1::ListEntriesRequest {
            account_id: "a".into(),
            kinds,
            ..v1::ListEntriesRequest::default()
        })
        .await
        .entries;
    let records: Vec<_> = records
        .iter()
        .map(|entry| (entry.order_id.as_str(), text(&entry.amount)))
        .collect();
    let expected = [("o-1", "2.00".to_owned()), ("o-2", "3.00".to_owned())];
    assert_eq!(records, expected);
}

#[tokio::test]
async fn a3_02_a_token_plan_is_not_paid_from_the_balance_nor_the_other_way_round() {
    let world = mimo().await;
    world.recharge("0.5").await;
    world.buy_plan("tokens", 20, None).await;
    assert_eq!(world.balance().await, "0.50", "no money went into it");
    world.check_now("flat", PASSES).await;
    world.check_now("flat", PASSES).await;
    let left = (world.left("tokens").await, world.balance().await);
    assert_eq!(left, ("0.00".to_owned(), "0.50".to_owned()));
    world.check_now("flat", NO_MONEY).await;
    // And plan credit pays nothing that has no price in it.
    world.buy_plan("tokens", 1_000, None).await;
    world.call_as("sk-caller-a", "metered", 60).await;
    let left = (world.left("tokens").await, world.balance().await);
    assert_eq!(left, ("1000.00".to_owned(), "-0.10".to_owned()));
    let mut points = v1::RechargeRequest {
        order_id: "o-points".into(),
        amount: money("5"),
        ..v1::RechargeRequest::default()
    };
    points.amount.as_mut().unwrap().unit = "points".into();
    let other = refused(world.recharge_with(points).await);
    assert_eq!(other, said(Code::InvalidArgument, "UNIT_MISMATCH"));
}

#[tokio::test]
async fn a3_03_plan_purchases_do_not_count_towards_cumulative_recharge() {
    let world = mimo().await;
    world.recharge("2").await;
    let bought = world
        .buy_plan_with(v1::BuyPlanRequest {
            plan_id: "tokens".into(),
            amount: Some(v1::Amount {
                unit: "points".into(),
                nanos: 100_000_000_000,
            }),
            price: money("49"),
            ..v1::BuyPlanRequest::default()
        })
        .await
        .unwrap();
    let account = world.a().await;
    assert_eq!(text(&account.cumulative_recharge), "2.00");
    assert_eq!(text(&account.lifetime_credit), "2.00");
    let plan = world.get(&bought.plan.unwrap().purse_account_id).await;
    assert_eq!(text(&plan.cumulative_recharge), "0.00", "nor in its own");
}

#[tokio::test]
async fn a3_04_an_unpaid_order_closes_by_itself_because_only_settled_ones_count() {
    let world = mimo().await;
    let unnamed = refused(world.order("", "5").await);
    assert_eq!(unnamed.0, Code::InvalidArgument, "which order was paid?");
    // An order that is open, or that ran out, is the backend's alone: nothing here can be spent, and nothing here must be undone.
    world.mark();
    world
        .check(&[(0, "flat", NO_MONEY), (HOUR, "flat", NO_MONEY)])
        .await;
    assert_eq!(world.entries().await.len(), 1, "opened, and nothing else");
    world.order("o-1", "5").await.unwrap();
    world.check_now("flat", PASSES).await;
    let again = refused(world.order("o-1", "5").await);
    assert_eq!(again, said(Code::AlreadyExists, "ORDER_REUSED"));
    assert_eq!(world.balance().await, "4.00");
}

#[tokio::test]
async fn a3_05_an_alert_below_the_threshold_once_per_crossing() {
    let world = mimo().await;
    world.otherwise(|o| o.low_balance = money("5")).await;
    let low = async || world.events("balance.low").await.len();
    world.recharge("6").await;
    world.check_now("flat", PASSES).await;
    assert_eq!(low().await, 0, "at the threshold it is not below it");
    world.check_now("flat", PASSES).await;
    let told = world.events("balance.low").await;
    assert_eq!(
        (text(&told[0].balance), text(&told[0].amount)),
        ("4.00".into(), "5.00".into())
    );
    world.check_now("flat", PASSES).await;
    world.late("0.5").await;
    assert_eq!(low().await, 1, "once");
    world.recharge("1").await;
    world.late("0.1").await;
    assert_eq!(low().await, 1, "it has not been back");
    world.recharge("1.6").await;
    assert_eq!(world.balance().await, "5.00", "back at it: armed again");
    world.late("0.000000001").await;
    assert_eq!(low().await, 2);
}

#[tokio::test]
async fn a3_06_refundable_is_what_was_paid_and_is_left_less_what_was_invoiced() {
    let world = mimo().await;
    world.order("o-1", "10").await.unwrap();
    world.order("o-2", "20").await.unwrap();
    world.grant("5").await;
    // What was given is not what was paid, also where it has an order, and where it is spent last.
    world
        .grant_with(v1::GrantRequest {
            order_id: "coupon".into(),
            amount: money("4"),
            priority: 1,
            ..v1::GrantRequest::default()
        })
        .await
        .unwrap();
    world.invoiced("o-2", "8").await;
    world.spend("12").await;
    let refundable = world.refundable().await;
    let orders: Vec<_> = refundable
        .orders
        .iter()
        .map(|o| {
            [
                o.order_id.clone(),
                text(&o.remaining),
                text(&o.invoiced),
                text(&o.refundable),
            ]
        })
        .collect();
    // The gift went first, then 7 of the first order: also what no entry says yet.
    let expected = [
        ["o-1", "3.00", "0.00", "3.00"],
        ["o-2", "20.00", "8.00", "12.00"],
    ];
    assert_eq!(orders, expected);
    assert_eq!(text(&refundable.total), "15.00");
    world.begin_refund(&["o-2"]).await.unwrap();
    let paid = world.complete_refund("refund-1", false).await.unwrap();
    assert_eq!(paid, "12.00", "of that order alone");
    assert_eq!(world.balance().await, "15.00");
    assert_eq!(text(&world.refundable().await.total), "3.00");
    world.invoiced("o-1", "10").await;
    let none = text(&world.refundable().await.total);
    assert_eq!(none, "0.00", "never below zero");
    world.verify().await;
}

#[tokio::test]
async fn a3_07_from_the_accepted_refund_on_no_calls_and_no_recharges() {
    let world = mimo().await;
    world.order("o-1", "10").await.unwrap();
    let call = world.begin("metered", 300).await;
    world.begin_refund(&[]).await.unwrap();
    assert_eq!(world.state().await, "FROZEN");
    world.check_now("flat", FROZEN).await;
    let recharge = refused(world.order("o-2", "5").await);
    assert_eq!(recharge, said(Code::FailedPrecondition, FROZEN));
    let plan = v1::BuyPlanRequest {
        plan_id: "tokens".into(),
        amount: Some(v1::Amount {
            unit: "points".into(),
            nanos: 1_000_000_000,
        }),
        ..v1::BuyPlanRequest::default()
    };
    let plan = refused(world.buy_plan_with(plan).await);
    assert_eq!(plan, said(Code::FailedPrecondition, FROZEN));
    assert!(world.plans().await.is_empty(), "and left nothing behind");
    let early = refused(world.complete_refund("refund-1", false).await);
    assert_eq!(early, said(Code::FailedPrecondition, "CALLS_IN_FLIGHT"));
    world.answer(call).await;
    world.late("1").await;
    assert_eq!(world.balance().await, "6.00", "what was under way lands");
    let paid = world.complete_refund("refund-1", false).await.unwrap();
    assert_eq!(paid, "6.00", "worked out after they have");
    assert_eq!(world.balance().await, "0.00");
    let kinds = ["refund.accepted", "refund.completed"];
    assert_eq!(world.story(&kinds).await, kinds);
    world.verify().await;
}

#[tokio::test]
async fn a3_08_the_refund_takes_days_and_ends_by_the_backends_word() {
    let world = mimo().await;
    world.recharge("10").await;
    world.mark();
    world.begin_refund(&[]).await.unwrap();
    world.check(&[(5 * DAY, "flat", FROZEN)]).await;
    world.cancel_refund().await;
    world.check_now("flat", PASSES).await;
    assert_eq!(world.balance().await, "9.00");

    world.begin_refund(&[]).await.unwrap();
    let twice = refused(world.begin_refund(&[]).await);
    assert_eq!(twice, said(Code::FailedPrecondition, FROZEN));
    let other = refused(world.complete_refund("refund-2", false).await);
    assert_eq!(other.1, "REFUND_NOT_FOUND");
    world.check(&[(9 * DAY, "flat", FROZEN)]).await;
    let paid = world.complete_refund("refund-1", true).await.unwrap();
    assert_eq!(paid, "9.00");
    assert_eq!(world.state().await, "CLOSED");
    world.check_now("flat", "ACCOUNT_CLOSED").await;
}

#[tokio::test]
async fn a3_09_a_token_plan_is_not_refundable() {
    let world = mimo().await;
    let plan = v1::BuyPlanRequest {
        plan_id: "tokens".into(),
        order_id: "p-1".into(),
        amount: Some(v1::Amount {
            unit: "points".into(),
            nanos: 100_000_000_000,
        }),
        ..v1::BuyPlanRequest::default()
    };
    world.buy_plan_with(plan).await.unwrap();
    assert_eq!(text(&world.refundable().await.total), "0.00");
    let alone = refused(world.begin_refund(&[]).await);
    assert_eq!(alone, said(Code::FailedPrecondition, "NOT_REFUNDABLE"));
    world.order("o-1", "5").await.unwrap();
    let named = refused(world.begin_refund(&["p-1"]).await);
    assert_eq!(named.1, "ORDER_NOT_FOUND", "of no money");
    world.begin_refund(&[]).await.unwrap();
    let paid = world.complete_refund("refund-1", false).await.unwrap();
    assert_eq!(paid, "5.00");
    assert_eq!(world.left("tokens").await, "100.00", "it is still there");
    world.check_now("flat", PASSES).await;
}

#[tokio::test]
async fn a3_10_what_may_be_invoiced_is_told_by_order_and_kind() {
    let world = mimo().await;
    world.order("o-1", "10").await.unwrap();
    world
        .grant_with(v1::GrantRequest {
            amount: money("5"),
            order_id: "coupon-1".into(),
            ..v1::GrantRequest::default()
        })
        .await
        .unwrap();
    world.order("o-2", "20").await.unwrap();
    world.begin_refund(&["o-2"]).await.unwrap();
    world.complete_refund("refund-1", false).await.unwrap();
    world.invoiced("o-1", "10").await;
    // Paid money is what came by recharges, less refunds; gifts are another kind.
    let entries = world.entries().await;
    let moved = entries.iter().filter(|entry| nanos(&entry.amount) != 0);
    let lines: Vec<_> = moved
        .map(|entry| (entry.kind(), entry.order_id.as_str(), text(&entry.amount)))
        .collect();
    let line = |kind, order, amount: &str| (kind, order, amount.to_owned());
    assert_eq!(
        lines,
        [
            line(v1::EntryKind::Recharge, "o-1", "10.00"),
            line(v1::EntryKind::Grant, "coupon-1", "5.00"),
            line(v1::EntryKind::Recharge, "o-2", "20.00"),
            line(v1::EntryKind::Refund, "o-2", "-20.00"),
        ]
    );
    let kinds: Vec<_> = world
        .blocks()
        .await
        .iter()
        .map(|block| (block.order_id.clone(), block.kind()))
        .collect();
    let coupon = ("coupon-1".to_owned(), v1::CreditKind::Bonus);
    assert_eq!(kinds, [coupon, ("o-1".to_owned(), v1::CreditKind::Paid)]);
    assert_eq!(
        text(&world.refundable().await.total),
        "0.00",
        "all of it was invoiced"
    );
}

#[tokio::test]
async fn a3_11_before_billing_goes_live_calls_work_at_zero() {
    let world = mimo().await;
    world.mark();
    let live = world.instant(DAY);
    world
        .otherwise(|o| {
            o.set_enforcement(v1::Enforcement::Shadow);
            o.live_time = live;
        })
        .await;
    let would = async || world.metric("tollgate_would_refuse_total").await;
    world
        .check(&[
            (0, "flat", PASSES),
            (HOUR, "metered", PASSES),
            (DAY - NS, "flat", PASSES),
        ])
        .await;
    assert_eq!(world.balance().await, "0.00", "no money moved");
    assert_eq!(would().await, 3, "it is told what would have been refused");
    let usage = world
        .usage(v1::QueryUsageRequest {
            start_time: world.instant(0),
            ..Default::default()
        })
        .await;
    assert_eq!(usage.total.unwrap().calls, 3, "and all was metered");
    world.check(&[(DAY, "flat", NO_MONEY)]).await;
    assert_eq!(
        text(&world.a().await.debt),
        "0.00",
        "what came before is no debt"
    );
    assert_eq!(would().await, 3);
    world.recharge("2").await;
    world.check(&[(DAY + NS, "flat", PASSES)]).await;
    assert_eq!(world.balance().await, "1.00");
    world.verify().await;
}

#[tokio::test]
async fn a3_12_the_balance_may_reach_zero_and_once_it_is_negative_there_are_no_calls() {
    let world = mimo().await;
    world.recharge("1").await;
    world.check_now("flat", PASSES).await;
    assert_eq!(world.balance().await, "0.00");
    world.check_now("free", PASSES).await;
    world.late("0.000000001").await;
    world.check_now("free", OVERDUE).await;
    world.recharge("1").await;
    // Delay: what a call costs beyond its hold lands, also below zero.
    world.spend("1.5").await;
    assert_eq!(world.balance().await, "-0.500000001");
    world.check_now("free", OVERDUE).await;

    world.recharge("0.500000001").await;
    world.check_now("free", PASSES).await;
    let at_zero = |o: &mut v1::Overrides| o.set_block_when(v1::BlockWhen::ZeroOrLess);
    world.otherwise(at_zero).await;
    world.check_now("free", NO_MONEY).await;
}

#[tokio::test]
async fn a3_13_the_next_recharge_first_pays_the_overdue_amount() {
    let world = mimo().await;
    world.recharge("1").await;
    world.spend("4").await;
    world.mark();
    world.at(HOUR);
    let part = world.recharge("1").await;
    assert_eq!(text(&part.entry.unwrap().debt_paid), "1.00");
    let account = world.a().await;
    assert_eq!(text(&account.debt), "2.00");
    assert_eq!(account.overdue_time, world.instant(0), "the same clock");
    world.check_now("flat", OVERDUE).await;

    world.grant("5").await;
    assert_eq!(text(&world.a().await.debt), "2.00", "a gift pays no debt");
    world.check_now("flat", OVERDUE).await;
    let rest = world.recharge("3").await.entry.unwrap();
    assert_eq!(text(&rest.debt_paid), "2.00", "debt first");
    let blocks: Vec<_> = world
        .blocks()
        .await
        .iter()
        .map(|block| text(&block.remaining))
        .collect();
    assert_eq!(blocks, ["5.00", "1.00"], "then credit");
    world.check_now("flat", PASSES).await;

    world.otherwise(|o| o.gifts_pay_debt = Some(true)).await;
    world.late("7").await;
    assert_eq!(text(&world.a().await.debt), "2.00");
    let gift = world.grant("3").await.entry.unwrap();
    assert_eq!(text(&gift.debt_paid), "2.00", "if the policy says so");
    world.check_now("flat", PASSES).await;
    world.verify().await;
}

#[tokio::test]
async fn a3_14_a_deleted_key_calls_no_more_and_its_history_stays() {
    let world = mimo().await;
    world.recharge("10").await;
    world.check_now("flat", PASSES).await;
    let call = world.begin("flat", 0).await;
    world.revoke("k-a").await;
    world.check_now("flat", "KEY_REVOKED").await;
    assert_eq!(world.balance().await, "9.00", "no charge for that");
    world.answer(call).await;
    assert_eq!(world.balance().await, "8.00", "what was admitted settles");
    let usage = world
        .usage(v1::QueryUsageRequest {
            key_ids: vec!["k-a".into()],
            ..Default::default()
        })
        .await;
    let total = usage.total.unwrap();
    assert_eq!((total.calls, text(&total.cost)), (2, "2.00".to_owned()));
    let again = v1::CreateKeyRequest {
        key: Some(v1::Key {
            account_id: "a".into(),
            key_id: "k-a".into(),
            ..v1::Key::default()
        }),
        secret: "sk-another-a".into(),
    };
    let again = refused(world.keys().create_key(again).await);
    assert_eq!(again.0, Code::AlreadyExists, "the id is never used again");
    world.key("a", "k-2", "sk-second-a").await;
    let seen = world.call_as("sk-second-a", "flat", 0).await;
    assert_eq!(seen.said(), PASSES);
}
