//! A4: the rules of OpenAI's prepaid billing, under the preset `openai-prepaid`.

use tollgate::proto::v1;
use tonic::Code;

use super::acts::duration;
use super::backend::{money, refused, said, text};
use super::world::{DAY, HOUR, NS, PASSES, World};

const NO_MONEY: &str = "INSUFFICIENT_BALANCE";

async fn openai() -> World {
    World::under("openai-prepaid").await
}

/// With credit first and up to 5 on invoices.
async fn invoiced() -> World {
    let world = openai().await;
    world
        .otherwise(|o| {
            o.set_mode(v1::BillingMode::CreditThenInvoice);
            o.invoice_limit = money("5");
        })
        .await;
    world
}

#[tokio::test]
async fn a4_01_credits_first_and_the_excess_is_invoiced() {
    let world = invoiced().await;
    world.recharge("5").await;
    world.spend("8").await;
    assert_eq!(world.balance().await, "-3.00", "credits first");
    assert_eq!(
        world.state().await,
        "ACTIVE",
        "what is invoiced is not overdue"
    );
    world.check_now("flat", PASSES).await;
    let invoice = world.close_period("inv-1").await;
    assert_eq!(text(&invoice.amount), "4.00", "the excess");
    let account = world.a().await;
    let figures = (text(&account.balance), text(&account.invoiced_outstanding));
    assert_eq!(figures, ("0.00".to_owned(), "4.00".to_owned()));
    world.check_now("flat", PASSES).await;
    world.check_now("flat", NO_MONEY).await;
    // What comes late is on the next invoice.
    world.late("0.5").await;
    assert_eq!(world.state().await, "OVERDUE", "beyond the limit");
    world.settle_invoice("inv-1").await;
    assert_eq!(world.state().await, "ACTIVE");
    world.check_now("flat", PASSES).await;
    assert_eq!(text(&world.close_period("inv-2").await.amount), "2.50");
    world.verify().await;

    let prepaid = openai().await;
    prepaid.recharge("5").await;
    prepaid.spend("8").await;
    prepaid.check_now("flat", "ACCOUNT_OVERDUE").await;
}

#[tokio::test]
async fn a4_02_a_minimum_purchase_and_a_maximum_by_trust_tier() {
    let world = openai().await;
    let check = async |amount: &str, fits: bool| {
        let done = world.order(&world.id("o"), amount).await;
        if fits {
            done.unwrap();
        } else {
            let out = said(Code::OutOfRange, "PURCHASE_OUT_OF_BOUNDS");
            assert_eq!(refused(done), out, "{amount}");
        }
    };
    check("4.999999999", false).await;
    check("5", true).await;
    check("100", true).await;
    check("100.000000001", false).await;
    let tier = |tier: &str| v1::Account {
        tier: tier.into(),
        ..v1::Account::default()
    };
    world.update(tier("tier-2")).await.unwrap();
    check("4.999999999", false).await;
    check("500", true).await;
    check("500.000000001", false).await;
    assert_eq!(world.balance().await, "605.00");
    world.grant("1000").await;
}

/// The rule of A4-3, which is A5-2 too: `world` asks for 20 below 10, not more often than once an hour, and for 40 a month.
pub(crate) async fn asks_for_recharges(world: &World) {
    let rule = v1::AutoRecharge {
        below: money("10"),
        amount: money("20"),
        cool_down: duration(HOUR),
        monthly_max: money("40"),
    };
    world.otherwise(|o| o.auto_recharge = Some(rule)).await;
    let asked = async || world.events("recharge.requested").await;
    assert_eq!(
        asked().await.len(),
        0,
        "an account that opens has not fallen below anything"
    );
    world.recharge("11").await;
    world.mark();
    world.check_now("flat", PASSES).await;
    assert_eq!(
        asked().await.len(),
        0,
        "at the threshold it is not below it"
    );
    world.check_now("flat", PASSES).await;
    let first = world.told("recharge.requested", 1).await.remove(0);
    assert_eq!(text(&first.amount), "20.00");
    assert!(!first.idempotency_key.is_empty());
    world.at(2 * HOUR);
    world.spend("1").await;
    assert_eq!(asked().await.len(), 1, "one outstanding at a time");

    // The backend charges the card and recharges, under the key it was given.
    let paid = v1::RechargeRequest {
        request_id: first.idempotency_key.clone(),
        order_id: "card-1".into(),
        amount: money("20"),
        ..v1::RechargeRequest::default()
    };
    world.recharge_with(paid.clone()).await.unwrap();
    assert!(world.recharge_with(paid).await.unwrap().replayed);
    assert_eq!(world.balance().await, "28.00");
    world.spend("19").await;
    let second = world.told("recharge.requested", 2).await.remove(1);
    assert_ne!(second.idempotency_key, first.idempotency_key);
    world.recharge("20").await;
    world.spend("20").await;
    world.at(3 * HOUR - NS);
    world.quiet().await;
    assert_eq!(asked().await.len(), 2, "not twice within an hour");
    world.at(4 * HOUR);
    world.quiet().await;
    assert_eq!(
        asked().await.len(),
        2,
        "nor more than 40 a month, all of which was asked for"
    );
    world.to("2026-03-31T23:59:59.999999999Z");
    world.quiet().await;
    assert_eq!(asked().await.len(), 2);
    world.to("2026-04-01T00:00:00Z");
    world.told("recharge.requested", 3).await;
}

#[tokio::test]
async fn a4_03_a_recharge_is_asked_for_below_a_threshold() {
    let world = openai().await;
    asks_for_recharges(&world).await;

    // The cool-down alone.
    let world = openai().await;
    let rule = v1::AutoRecharge {
        below: money("10"),
        amount: money("20"),
        cool_down: duration(HOUR),
        monthly_max: None,
    };
    world.otherwise(|o| o.auto_recharge = Some(rule)).await;
    world.recharge("11").await;
    world.mark();
    world.spend("2").await;
    world.told("recharge.requested", 1).await;
    world.recharge("20").await;
    world.spend("20").await;
    world.at(HOUR - NS);
    world.quiet().await;
    world.told("recharge.requested", 1).await;
    world.at(HOUR);
    world.told("recharge.requested", 2).await;
}

#[tokio::test]
async fn a4_04_credits_expire_after_one_year_and_are_not_refundable() {
    let world = openai().await;
    world.mark();
    world
        .recharge_with(v1::RechargeRequest {
            order_id: "o-1".into(),
            amount: money("10"),
            expire_time: world.instant(40 * DAY),
            ..v1::RechargeRequest::default()
        })
        .await
        .unwrap();
    world.recharge("20").await;
    let ends: Vec<_> = world
        .blocks()
        .await
        .iter()
        .map(|block| block.expire_time)
        .collect();
    let expected = [world.instant(40 * DAY), world.instant(365 * DAY)];
    assert_eq!(ends, expected, "as the backend says, else after a year");
    // Told thirty days ahead, once, also where nobody calls.
    world.at(10 * DAY - NS);
    world.quiet().await;
    assert!(world.events("credit.expiring").await.is_empty());
    world.at(10 * DAY);
    world.told("credit.expiring", 1).await;
    world.check(&[(40 * DAY - NS, "flat", PASSES)]).await;
    assert_eq!(world.balance().await, "29.00");
    world.at(40 * DAY);
    world.told("credit.expired", 1).await;
    assert_eq!(world.balance().await, "20.00", "9 are gone");
    world
        .check(&[
            (365 * DAY - NS, "flat", PASSES),
            (365 * DAY, "flat", NO_MONEY),
        ])
        .await;
    world.told("credit.expired", 2).await;
    world.told("credit.expiring", 2).await;
    let entries = world.entries().await;
    let expiries = entries
        .iter()
        .filter(|entry| entry.kind() == v1::EntryKind::Expiry);
    let expiries: Vec<_> = expiries.map(|entry| text(&entry.amount)).collect();
    assert_eq!(expiries, ["-9.00", "-19.00"]);

    world.recharge("20").await;
    assert_eq!(text(&world.refundable().await.total), "0.00");
    let refund = refused(world.begin_refund(&[]).await);
    assert_eq!(refund, said(Code::FailedPrecondition, "NOT_REFUNDABLE"));
    world.verify().await;
}

#[tokio::test]
async fn a4_05_every_balance_says_as_of_when_it_is() {
    let world = openai().await;
    world.mark();
    let paid = world.recharge("20").await;
    let account = paid.account.unwrap();
    assert_eq!(account.as_of, world.instant(0));
    assert_eq!(account.last_entry_sequence, paid.entry.unwrap().sequence);
    world.check(&[(HOUR, "flat", PASSES)]).await;
    let late = world.late("1").await;
    let account = world.a().await;
    assert_eq!(account.as_of, world.instant(HOUR));
    assert_eq!(account.last_entry_sequence, late.sequence);
    assert_eq!(text(&account.balance), "18.00");
    let usage = world.usage(v1::QueryUsageRequest::default()).await;
    assert_eq!(usage.as_of, world.instant(HOUR));
}

#[tokio::test]
async fn a4_06_when_all_credit_is_consumed_calls_return_a_quota_error() {
    let world = openai().await;
    world.recharge("5").await;
    assert_eq!(world.passes("flat", 6).await, 5);
    assert_eq!(world.balance().await, "0.00");
    for model in ["flat", "free"] {
        let seen = world.call(model).await;
        assert_eq!((seen.0.status(), seen.said()), (429, NO_MONEY), "{model}");
        let error = seen.0.json()["error"].clone();
        assert_eq!(error["code"], "insufficient_quota");
        assert_eq!(error["type"], "insufficient_quota");
    }
    world.recharge("5").await;
    world.check_now("flat", PASSES).await;
}

#[tokio::test]
async fn a4_07_a_delayed_cut_off_is_deducted_from_the_next_purchase() {
    let world = openai().await;
    world.recharge("5").await;
    let call = world.begin("metered", 700).await;
    world.spend("1").await;
    world.answer(call).await;
    assert_eq!(world.balance().await, "-3.00", "shown as it is");
    world.check_now("flat", "ACCOUNT_OVERDUE").await;
    let paid = world.recharge("10").await;
    assert_eq!(text(&paid.entry.unwrap().debt_paid), "3.00");
    assert_eq!(world.balance().await, "7.00");
    world.check_now("flat", PASSES).await;
}

#[tokio::test]
async fn a4_08_switching_to_prepaid_requires_that_arrears_are_settled() {
    let world = invoiced().await;
    world.recharge("5").await;
    world.spend("7").await;
    let prepaid = async || {
        let mode = |o: &mut v1::Overrides| o.set_mode(v1::BillingMode::PrepaidOnly);
        world.try_otherwise(mode).await
    };
    let refusal = said(Code::FailedPrecondition, "ARREARS_OPEN");
    assert_eq!(refused(prepaid().await), refusal, "it owes");
    world.close_period("inv-1").await;
    assert_eq!(refused(prepaid().await), refusal, "an invoice is open");
    world.settle_invoice("inv-1").await;
    prepaid().await.unwrap();
    world.recharge("5").await;
    world.check_now("flat", PASSES).await;
}
