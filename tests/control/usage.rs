//! UsageService.

use std::time::Duration;

use prost_types::Timestamp;
use tollgate::proto::v1;
use tonic::Code;
use tonic::transport::Channel;
use v1::usage_service_client::UsageServiceClient;

use super::{Api, refused, said, usd, violations};

fn client(api: &Api) -> UsageServiceClient<Channel> {
    UsageServiceClient::new(api.channel.clone())
}

fn query(edit: impl FnOnce(&mut v1::QueryUsageRequest)) -> v1::QueryUsageRequest {
    let mut request = v1::QueryUsageRequest {
        account_id: "a".into(),
        ..v1::QueryUsageRequest::default()
    };
    edit(&mut request);
    request
}

#[tokio::test]
async fn usage_is_there_as_soon_as_the_call_is_over_and_adds_up_to_the_spend() {
    let api = Api::start().await;
    api.account("a", 9).await;
    api.call("a").await;
    api.call("a").await;
    let answer = client(&api)
        .query_usage(query(|_| ()))
        .await
        .unwrap()
        .into_inner();
    // The hour may turn between the two calls.
    let calls: u64 = answer
        .rows
        .iter()
        .map(|row| row.tally.as_ref().unwrap().calls)
        .sum();
    assert_eq!(calls, 2);
    let row = &answer.rows[0];
    assert_eq!((row.key_id.as_str(), row.model.as_str()), ("k-a", "flat"));
    assert_eq!(row.start_time.unwrap().seconds % 3_600, 0);
    let total = answer.total.unwrap();
    assert_eq!(
        (total.calls, total.exact_calls, total.cost.clone()),
        (2, 2, usd(2))
    );
    assert_eq!(api.get("a").await.spend, usd(2));
    let none = client(&api)
        .query_usage(query(|request| request.models = vec!["other".into()]))
        .await;
    let none = none.unwrap().into_inner();
    assert_eq!((none.rows.len(), none.total.unwrap().calls), (0, 0));
    let mine = client(&api)
        .query_usage(query(|request| request.key_ids = vec!["k-a".into()]))
        .await;
    assert_eq!(mine.unwrap().into_inner().rows, answer.rows);
}

#[tokio::test]
async fn rows_come_in_pages_and_the_total_on_the_first() {
    let api = Api::start().await;
    api.account("a", 99).await;
    for name in ["m1", "m2", "m3", "m4", "m5"] {
        let key = v1::CreateKeyRequest {
            key: Some(v1::Key {
                account_id: "a".into(),
                key_id: name.into(),
                ..v1::Key::default()
            }),
            secret: format!("sk-secret-{name}"),
        };
        api.keys().create_key(key).await.unwrap();
        api.call(name).await;
    }
    // A fixed end, beyond the hour in which the calls were made whichever that is.
    let now = api
        .node
        .core
        .clock
        .now()
        .wall
        .plus(Duration::from_secs(3_600))
        .nanos();
    let end = Timestamp {
        seconds: now / 1_000_000_000,
        nanos: 0,
    };
    let (mut seen, mut token, mut totals) = (Vec::new(), String::new(), Vec::new());
    loop {
        let request = query(|request| {
            (request.page_size, request.end_time) = (2, Some(end));
            request.page_token = token;
        });
        let page = client(&api)
            .query_usage(request)
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.rows.iter().map(|row| row.key_id.clone()));
        totals.push(page.total.map(|total| total.calls));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["m1", "m2", "m3", "m4", "m5"]);
    assert_eq!(totals, [Some(5), None, None]);
}

#[tokio::test]
async fn wrong_times_are_named() {
    let api = Api::start().await;
    api.account("a", 1).await;
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let check = async |start, end, field: &str| {
        let request = query(|request| (request.start_time, request.end_time) = (start, end));
        assert_eq!(violations(client(&api).query_usage(request).await), [field]);
    };
    check(at(100), at(100), "start_time").await;
    check(at(200), at(100), "start_time").await;
    check(at(0), at(101 * 86_400), "start_time").await;
    check(
        None,
        Some(Timestamp {
            seconds: 0,
            nanos: -1,
        }),
        "end_time",
    )
    .await;
    let unknown = query(|request| request.account_id = "b".into());
    assert_eq!(
        refused(client(&api).query_usage(unknown).await),
        said(Code::NotFound, "ACCOUNT_NOT_FOUND")
    );
    let first = query(|request| request.page_token = "AAAA".into());
    assert_eq!(
        refused(client(&api).query_usage(first).await).0,
        Code::InvalidArgument
    );
}

/// Two keys of two services, one call in each of three hours over two days.
async fn spread() -> Api {
    let (api, clock) = Api::under(tollgate::policy::Policy::default()).await;
    api.account("a", 99).await;
    for (name, service) in [("w", "web"), ("b", "batch")] {
        let key = v1::CreateKeyRequest {
            key: Some(v1::Key {
                account_id: "a".into(),
                key_id: name.into(),
                service: service.into(),
                ..v1::Key::default()
            }),
            secret: format!("sk-secret-{name}"),
        };
        api.keys().create_key(key).await.unwrap();
    }
    // 14:13, 15:13 and, the day after, 15:13.
    api.call("w").await;
    clock.advance(Duration::from_secs(3_600));
    api.call("b").await;
    clock.advance(Duration::from_secs(86_400));
    api.call("w").await;
    api
}

fn dimension(by: v1::UsageDimension) -> Vec<i32> {
    vec![by.into()]
}

#[tokio::test]
async fn usage_is_a_series_of_days_and_months_by_what_is_told_apart() {
    let api = spread().await;
    let series = async |step: v1::UsageStep, by: v1::UsageDimension| {
        let request = query(|request| {
            request.start_time = super::at(-86_400);
            (request.step, request.group_by) = (step.into(), dimension(by));
        });
        let rows = client(&api)
            .query_usage(request)
            .await
            .unwrap()
            .into_inner()
            .rows;
        let row = |row: v1::UsageRow| {
            let start = row.start_time.unwrap().seconds;
            (start, row.service, row.key_id, row.tally.unwrap().calls)
        };
        rows.into_iter().map(row).collect::<Vec<_>>()
    };
    let (day, none) = (1_789_948_800, String::new());
    let total = series(v1::UsageStep::Day, v1::UsageDimension::Total).await;
    assert_eq!(
        total,
        [
            (day, none.clone(), none.clone(), 2),
            (day + 86_400, none.clone(), none.clone(), 1)
        ]
    );
    let service = series(v1::UsageStep::Month, v1::UsageDimension::Service).await;
    // From the first of September 2026.
    let month = 1_788_220_800;
    assert_eq!(
        service,
        [
            (month, "batch".into(), none.clone(), 1),
            (month, "web".into(), none.clone(), 2)
        ]
    );
    let key = series(v1::UsageStep::Hour, v1::UsageDimension::Key).await;
    assert_eq!(key.len(), 3);
    let web = query(|request| {
        request.start_time = super::at(-86_400);
        request.services = vec!["web".into()];
    });
    let web = client(&api).query_usage(web).await.unwrap().into_inner();
    assert_eq!(web.total.unwrap().calls, 2);
}

#[tokio::test]
async fn the_pages_of_a_series_belong_to_one_question() {
    let api = spread().await;
    let page = async |token: &str, step: v1::UsageStep| {
        let request = query(|request| {
            (request.start_time, request.page_size) = (super::at(-86_400), 1);
            (request.step, request.page_token) = (step.into(), token.into());
        });
        client(&api).query_usage(request).await
    };
    let (mut token, mut calls, mut totals) = (String::new(), Vec::new(), 0);
    loop {
        let answer = page(&token, v1::UsageStep::Day).await.unwrap().into_inner();
        totals += usize::from(answer.total.is_some());
        calls.extend(
            answer
                .rows
                .into_iter()
                .map(|row| (row.key_id, row.tally.unwrap().calls)),
        );
        if answer.next_page_token.is_empty() {
            break;
        }
        token = answer.next_page_token;
    }
    let expected = [("b", 1), ("w", 1), ("w", 1)].map(|(key, calls)| (key.to_owned(), calls));
    assert_eq!((calls.as_slice(), totals), (expected.as_slice(), 1));
    let changed = page(&token, v1::UsageStep::Month).await;
    assert_eq!(
        refused(changed),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
    let check = async |edit: &dyn Fn(&mut v1::QueryUsageRequest), field: &str| {
        let request = query(|request| edit(request));
        assert_eq!(violations(client(&api).query_usage(request).await), [field]);
    };
    check(&|request| request.step = 9, "step").await;
    check(&|request| request.group_by = vec![9], "group_by[0]").await;
    check(&|request| request.group_by = vec![4, 1], "group_by[0]").await;
    check(
        &|request| request.services = vec!["x".into(); 101],
        "services",
    )
    .await;
}

#[tokio::test]
async fn an_amount_buys_so_many_requests() {
    let api = spread().await;
    let free = v1::SetPriceRequest {
        price: Some(v1::Price {
            pattern: "gift".into(),
            unit: "USD".into(),
            ..v1::Price::default()
        }),
        etag: String::new(),
    };
    let mut prices = v1::price_service_client::PriceServiceClient::new(api.channel.clone());
    prices.set_price(free).await.unwrap();
    let ask = async |amount, models: &[&str]| {
        let request = v1::EstimateRequestsRequest {
            account_id: "a".into(),
            amount,
            models: models.iter().map(ToString::to_string).collect(),
            input_tokens: Some(500),
            output_tokens: Some(250),
            ..v1::EstimateRequestsRequest::default()
        };
        client(&api).estimate_requests(request).await
    };
    let answer = ask(usd(10), &["tokens", "gift", "flat"])
        .await
        .unwrap()
        .into_inner();
    let got: Vec<_> = answer
        .estimates
        .iter()
        .map(|one| {
            (
                one.model.as_str(),
                one.requests,
                one.unbounded,
                one.basis(),
                one.samples,
            )
        })
        .collect();
    let (history, price) = (v1::EstimateBasis::History, v1::EstimateBasis::Price);
    assert_eq!(
        got,
        [
            ("flat", 10, false, history, 3),
            ("gift", 0, true, price, 0),
            ("tokens", 10, false, price, 0)
        ]
    );
    assert_eq!(answer.estimates[0].mean_cost.clone(), usd(1));
    // Without an amount, what is there; without models, those that were used.
    let own = ask(None, &[]).await.unwrap().into_inner();
    assert_eq!(
        (
            own.amount.clone(),
            own.estimates.len(),
            own.estimates[0].requests
        ),
        (usd(96), 1, 96)
    );
    assert_eq!(violations(ask(usd(-1), &[]).await), ["amount"]);
    let unknown = ask(usd(1), &["nobody-knows"]).await;
    assert_eq!(
        refused(unknown),
        said(Code::FailedPrecondition, "MODEL_NOT_PRICED")
    );
}
