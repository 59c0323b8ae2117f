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
    assert_eq!(row.hour_start.unwrap().seconds % 3_600, 0);
    let total = answer.total.unwrap();
    assert_eq!((total.calls, total.exact_calls, total.cost), (2, 2, usd(2)));
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
