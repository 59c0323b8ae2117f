//! A5: the rules of ai12z, under the preset `ai12z`.

use tollgate::proto::v1;
use tonic::Code;

use super::backend::{money, nanos, text};
use super::openai_prepaid::asks_for_recharges;
use super::world::{HOUR, PASSES, World};

async fn ai12z() -> World {
    World::under("ai12z").await
}

#[tokio::test]
async fn a5_01_how_many_requests_an_amount_buys_by_model() {
    let world = ai12z().await;
    world.recharge("100").await;
    let estimate = async |amount: &str, model: &str| {
        let estimate = world.estimate(amount, &[model]).await.remove(0);
        let basis = estimate.basis().as_str_name().to_owned();
        let basis = basis.trim_start_matches("ESTIMATE_BASIS_").to_owned();
        (
            estimate.requests,
            estimate.unbounded,
            basis,
            estimate.samples,
        )
    };
    let by = |basis: &str| basis.to_owned();
    assert_eq!(estimate("10.5", "flat").await, (10, false, by("PRICE"), 0));
    world.spend("2").await;
    world.spend("5").await;
    // The mean is 3.50.
    assert_eq!(
        estimate("10.5", "metered").await,
        (3, false, by("HISTORY"), 2)
    );
    assert_eq!(estimate("10.499999999", "metered").await.0, 2);
    assert!(estimate("1", "free").await.1, "as many as one likes");
}

#[tokio::test]
async fn a5_02_auto_charge_below_an_amount() {
    asks_for_recharges(&ai12z().await).await;
}

#[tokio::test]
async fn a5_03_cards_are_the_backends_which_is_asked_and_answers_with_an_order() {
    let world = ai12z().await;
    world.recharge("11").await;
    // The preset asks below 10.00, for 50.00.
    world.spend("2").await;
    let asked = world.told("recharge.requested", 1).await.remove(0);
    assert_eq!(text(&asked.amount), "50.00");
    // No card is known here, and none is needed: the backend charges its own, and says so.
    world
        .recharge_with(v1::RechargeRequest {
            request_id: asked.idempotency_key,
            order_id: "charge-77".into(),
            amount: asked.amount,
            note: "card ending in 4242".into(),
            ..v1::RechargeRequest::default()
        })
        .await
        .unwrap();
    let entry = world.entries().await.pop().unwrap();
    assert_eq!(
        (entry.order_id.as_str(), entry.note.as_str()),
        ("charge-77", "card ending in 4242")
    );
    assert_eq!(world.balance().await, "59.00");
}

#[tokio::test]
async fn a5_04_invoices_are_listed_with_date_amount_name_payment_type_and_order() {
    let world = ai12z().await;
    let named = v1::Account {
        display_name: "Ada's shop".into(),
        ..v1::Account::default()
    };
    world.update(named).await.unwrap();
    world.mark();
    for n in 1..=5_i64 {
        world.at(n * HOUR);
        world
            .recharge_with(v1::RechargeRequest {
                order_id: format!("o-{n}"),
                amount: money(&n.to_string()),
                note: "card".into(),
                ..v1::RechargeRequest::default()
            })
            .await
            .unwrap();
    }
    let first = v1::ListEntriesRequest {
        account_id: "a".into(),
        kinds: vec![v1::EntryKind::Recharge.into()],
        newest_first: true,
        page_size: 2,
        ..v1::ListEntriesRequest::default()
    };
    let (mut lines, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let request = v1::ListEntriesRequest {
            page_token: token,
            ..first.clone()
        };
        let page = world.list_entries(request).await;
        assert!(page.entries.len() <= 2);
        pages += 1;
        lines.extend(page.entries);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert!(pages >= 3, "{pages}");
    let expected: Vec<_> = (1..=5)
        .rev()
        .map(|n| (format!("o-{n}"), n * 1_000_000_000))
        .collect();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.order_id.clone(), nanos(&line.amount)))
        .collect();
    assert_eq!(seen, expected);
    for (line, n) in lines.iter().zip([5, 4, 3, 2, 1]) {
        assert_eq!(line.time, world.instant(n * HOUR));
        assert_eq!(
            (line.kind(), line.note.as_str()),
            (v1::EntryKind::Recharge, "card")
        );
    }
    assert_eq!(world.a().await.display_name, "Ada's shop");
    let token = world.list_entries(first.clone()).await.next_page_token;
    let other = v1::ListEntriesRequest {
        page_token: token,
        newest_first: false,
        ..first
    };
    let other = world.ledger().list_entries(other).await;
    assert_eq!(
        other.unwrap_err().code(),
        Code::InvalidArgument,
        "another question's page"
    );
}

#[tokio::test]
async fn a5_05_balance_threshold_and_usage_by_model_and_service_as_a_series() {
    let world = ai12z().await;
    for (key, service) in [("k-chat", "chat"), ("k-search", "search")] {
        let request = v1::CreateKeyRequest {
            key: Some(v1::Key {
                account_id: "a".into(),
                key_id: key.into(),
                service: service.into(),
                ..v1::Key::default()
            }),
            secret: format!("sk-caller-{service}"),
        };
        world.keys().create_key(request).await.unwrap();
    }
    world.recharge("100").await;
    world.mark();
    for (offset, service, model, tokens) in [
        (0, "chat", "metered", 100),
        (0, "search", "flat", 0),
        (HOUR, "chat", "metered", 50),
        (HOUR, "chat", "flat", 0),
    ] {
        world.at(offset);
        let secret = format!("sk-caller-{service}");
        let seen = world.call_as(&secret, model, tokens).await;
        assert_eq!(seen.said(), PASSES);
    }
    let account = world.a().await;
    let threshold = account.effective_policy.unwrap().low_balance;
    assert_eq!(
        (text(&account.balance), text(&threshold)),
        ("96.50".into(), "10.00".into())
    );

    let by = async |dimension: v1::UsageDimension| {
        let request = v1::QueryUsageRequest {
            group_by: vec![dimension.into()],
            ..v1::QueryUsageRequest::default()
        };
        let answer = world.usage(request).await;
        let total = answer.total.unwrap();
        assert_eq!((total.calls, text(&total.cost)), (4, "3.50".into()));
        let row = |row: &v1::UsageRow| {
            let tally = row.tally.as_ref().unwrap();
            let hour = (row.start_time.unwrap().seconds - account_hour(&answer.rows)) / 3_600;
            let tokens = tally
                .counts
                .iter()
                .find(|each| each.meter() == v1::Meter::Output);
            let tokens = tokens.map_or(0, |each| each.count);
            (
                hour,
                format!("{}{}", row.model, row.service),
                tally.calls,
                tokens,
            )
        };
        answer.rows.iter().map(row).collect::<Vec<_>>()
    };
    let row = |hour, name: &str, calls, tokens| (hour, name.to_owned(), calls, tokens);
    assert_eq!(
        by(v1::UsageDimension::Model).await,
        [
            row(0, "flat", 1, 0),
            row(0, "metered", 1, 100),
            row(1, "flat", 1, 0),
            row(1, "metered", 1, 50)
        ]
    );
    assert_eq!(
        by(v1::UsageDimension::Service).await,
        [
            row(0, "chat", 1, 100),
            row(0, "search", 1, 0),
            row(1, "chat", 2, 50)
        ]
    );
}

fn account_hour(rows: &[v1::UsageRow]) -> i64 {
    rows[0].start_time.unwrap().seconds
}
