//! A2: the rules of Tencent Cloud API Gateway, under the preset `tencent-apigw`.

use tollgate::proto::v1;
use tonic::Code;

use super::acts::lasts;
use super::backend::{money, nanos, refused, text};
use super::world::{DAY, HOUR, MINUTE, NS, PASSES, SECOND, World};

const SUSPENDED: &str = "ACCOUNT_SUSPENDED";

/// `gateway` is billed by the call and by its traffic.
const TRAFFIC: &str = r#"
[[prices]]
pattern = "gateway"
unit = "USD"
rates.request = "0.01"
rates.byte_in = "0.0001"
rates.byte_out = "0.001"
"#;

async fn gateway() -> World {
    World::configured("tencent-apigw", TRAFFIC).await
}

/// Overdue by 3 from the mark on.
async fn overdue_by_3() -> World {
    let world = gateway().await;
    world.recharge("1").await;
    world.spend("4").await;
    world.mark();
    world
}

/// The first instant at which an account overdue since the mark is suspended: 24 hours inclusive are over.
const SUSPENSION: i64 = DAY + NS;

#[tokio::test]
async fn a2_01_calls_and_traffic_are_billed_by_the_hour_and_late() {
    let world = gateway().await;
    world.recharge("1").await;
    world.to("2026-03-10T22:59:59.999999999Z");
    world.mark();
    world
        .check(&[
            (0, "gateway", PASSES),
            (NS, "gateway", PASSES),
            (HOUR, "gateway", PASSES),
        ])
        .await;
    let usage = world.usage(v1::QueryUsageRequest::default()).await;
    let hours: Vec<_> = usage.rows.iter().map(|row| row.start_time).collect();
    let expected = [world.instant(NS - HOUR), world.instant(NS)];
    assert_eq!(
        hours, expected,
        "an hour has its first instant, not its last"
    );
    let mut cost = 0;
    for (row, calls) in usage.rows.iter().zip([1, 2]) {
        let tally = row.tally.as_ref().unwrap();
        assert_eq!(tally.calls, calls);
        let count = |meter: v1::Meter| {
            let mut counts = tally.counts.iter();
            counts.find(|each| each.meter() == meter).unwrap().count as i64
        };
        let (in_, out) = (count(v1::Meter::ByteIn), count(v1::Meter::ByteOut));
        assert!(in_ > 0 && out > 0);
        let row = calls as i64 * 10_000_000 + in_ * 100_000 + out * 1_000_000;
        assert_eq!(nanos(&tally.cost), row);
        cost += row;
    }
    let balance = nanos(&world.a().await.balance);
    assert_eq!(balance, 1_000_000_000 - cost);

    // The bill of an hour comes after it, and may be more than there is.
    let late = world.late("5").await;
    assert_eq!(nanos(&late.balance), balance - 5_000_000_000);
    assert_eq!(world.state().await, "OVERDUE");
    world.verify().await;
}

#[tokio::test]
async fn a2_02_usable_for_24_hours_inclusive() {
    let world = overdue_by_3().await;
    assert_eq!(world.state().await, "OVERDUE");
    world
        .check(&[
            (0, "flat", PASSES),
            (DAY - NS, "flat", PASSES),
            (DAY, "flat", PASSES),
            (DAY + NS, "flat", SUSPENDED),
        ])
        .await;
    assert_eq!(world.balance().await, "-6.00");
}

#[tokio::test]
async fn a2_03_the_creator_and_all_collaborators_are_told_of_the_suspension() {
    let world = overdue_by_3().await;
    let all = [
        "creator@example.com",
        "sms:+861",
        "collaborator@example.com",
    ];
    world
        .update(v1::Account {
            notification_recipients: all.iter().map(ToString::to_string).collect(),
            ..v1::Account::default()
        })
        .await
        .unwrap();
    world.at(DAY);
    world.quiet().await;
    assert_eq!(world.events("account.suspended").await, []);
    // Nobody calls: it is told all the same.
    world.at(SUSPENSION);
    let told = world.told("account.suspended", 1).await;
    assert_eq!(told[0].recipients, all);
    assert_eq!(told[0].time, world.instant(SUSPENSION));
    world.at(2 * DAY);
    world.told("account.suspended", 1).await;
}

#[tokio::test]
async fn a2_04_paid_within_180_days_it_resumes_by_itself() {
    let world = overdue_by_3().await;
    world
        .check(&[(SUSPENSION + 180 * DAY - NS, "flat", SUSPENDED)])
        .await;
    world.recharge("2").await;
    world.check_now("flat", SUSPENDED).await;
    world.recharge("11").await;
    world.check_now("flat", PASSES).await;
    assert_eq!(world.state().await, "ACTIVE");
    assert_eq!(world.story(&["account.resumed"]).await.len(), 1);
}

#[tokio::test]
async fn a2_05_after_180_days_the_data_may_be_cleared_and_is_not_by_itself() {
    let world = overdue_by_3().await;
    let eligible = SUSPENSION + 180 * DAY;
    world.at(eligible - NS);
    world.told("account.suspended", 1).await;
    assert_eq!(world.state().await, "SUSPENDED");
    let early = refused(world.purge("a").await);
    assert_eq!(early, (Code::FailedPrecondition, "NOT_PURGEABLE".into()));
    world.at(eligible);
    assert_eq!(world.state().await, "PURGE_ELIGIBLE");
    assert_eq!(world.a().await.purge_time, world.instant(eligible));
    world.told("account.purge_eligible", 1).await;
    world.at(eligible + 365 * DAY);
    world.quiet().await;
    assert_eq!(world.state().await, "PURGE_ELIGIBLE", "it is still there");
    world.told("account.purge_eligible", 1).await;
    world.check_now("flat", SUSPENDED).await;

    world.purge("a").await.unwrap();
    let request = v1::GetAccountRequest {
        account_id: "a".into(),
    };
    let gone = world.accounts().get_account(request).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    world.check_now("flat", "KEY_UNKNOWN").await;
    let again = v1::Account {
        account_id: "a".into(),
        unit: "USD".into(),
        ..v1::Account::default()
    };
    assert!(world.create(again).await.is_err(), "its id is used up");
}

#[tokio::test]
async fn a2_06_a_partners_agreement_overrides() {
    let world = gateway().await;
    let for_hours = |hours: i64| v1::Overrides {
        grace: lasts(hours * HOUR, true),
        suspend_after: lasts(hours * HOUR, true),
        ..v1::Overrides::default()
    };
    world
        .set_tenant(v1::Tenant {
            tenant_id: "partner".into(),
            policy_id: "tencent-apigw".into(),
            overrides: Some(for_hours(48)),
            ..v1::Tenant::default()
        })
        .await;
    world
        .set_policy(v1::Policy {
            policy_id: "agreed".into(),
            grace: lasts(6 * HOUR, true),
            suspend_after: lasts(6 * HOUR, true),
            hold: Some(v1::HoldRule {
                mode: v1::HoldMode::None.into(),
                amount: None,
            }),
            ..v1::Policy::default()
        })
        .await;
    // What each has of its own, the account's overrides first, and for how many hours it goes on.
    let cases = [
        ("own", "tencent-apigw", "partner", Some(for_hours(1)), 1),
        ("both", "", "partner", Some(for_hours(2)), 2),
        ("policy", "agreed", "partner", None, 6),
        ("preset", "tencent-apigw", "", None, 24),
        ("tenant", "", "partner", None, 48),
    ];
    for (name, policy, tenant, overrides, _) in cases.clone() {
        let account = v1::Account {
            account_id: name.into(),
            unit: "USD".into(),
            policy_id: policy.into(),
            tenant_id: tenant.into(),
            overrides,
            ..v1::Account::default()
        };
        world.create(account).await.unwrap();
        world.key(name, "k", &format!("sk-caller-{name}")).await;
        world.late_for(name, "1").await;
    }
    world.quiet().await;
    world.mark();
    for (name, _, _, _, hours) in cases {
        let secret = format!("sk-caller-{name}");
        for (offset, want) in [(hours * HOUR, PASSES), (hours * HOUR + NS, SUSPENDED)] {
            world.at(offset);
            let seen = world.call_as(&secret, "flat", 0).await;
            assert_eq!(seen.said(), want, "{name} after {hours} h");
        }
    }
}

#[tokio::test]
async fn a2_07_overdue_alarms_and_bill_details() {
    let world = gateway().await;
    let alerts = v1::Amounts {
        amounts: vec![money("5").unwrap(), money("0").unwrap()],
    };
    world.order("o-1", "6").await.unwrap();
    world.otherwise(|o| o.alerts = Some(alerts)).await;
    world.mark();
    world
        .check(&[(MINUTE, "flat", PASSES), (2 * MINUTE, "flat", PASSES)])
        .await;
    world.spend("4").await;
    world.at(HOUR);
    world.late("1").await;
    let low = world.events("balance.low").await;
    let low: Vec<_> = low
        .iter()
        .map(|e| (text(&e.amount), text(&e.balance)))
        .collect();
    let expected = [("5.00", "4.00"), ("0.00", "-1.00")];
    assert_eq!(low, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    world.told("account.overdue", 1).await;

    // The details: every line with its time, kind, amount, order and the balance after it, and the usage behind it by hour.
    let entries = world.entries().await;
    let moved = entries.iter().filter(|entry| nanos(&entry.amount) != 0);
    let lines: Vec<_> = moved
        .map(|entry| (entry.kind(), text(&entry.amount), entry.order_id.as_str()))
        .collect();
    let first = (v1::EntryKind::Recharge, "6.00".to_owned(), "o-1");
    let last = (v1::EntryKind::LateCharge, "-1.00".to_owned(), "");
    assert_eq!((lines.first(), lines.last()), (Some(&first), Some(&last)));
    let usage = world.usage(v1::QueryUsageRequest::default()).await;
    let total = usage.total.unwrap();
    assert_eq!((total.calls, text(&total.cost)), (3, "6.00".to_owned()));
    world.at(HOUR + SECOND);
    world.verify().await;
}
