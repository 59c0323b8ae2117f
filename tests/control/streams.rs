//! EventService and SyncService: what is followed, resumed, and ends when the server does.

use std::time::Duration;

use tollgate::proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use v1::event_service_client::EventServiceClient;
use v1::sync_service_client::SyncServiceClient;

use super::{Api, recharge, refused, said, usd, violations};

/// What takes longer than this is not coming.
const PATIENCE: Duration = Duration::from_secs(10);

fn events(api: &Api) -> EventServiceClient<Channel> {
    EventServiceClient::new(api.channel.clone())
}

fn sync(api: &Api) -> SyncServiceClient<Channel> {
    SyncServiceClient::new(api.channel.clone())
}

async fn follow(api: &Api, after: u64) -> Streaming<v1::StreamEventsResponse> {
    let request = v1::StreamEventsRequest {
        after_sequence: after,
        ..v1::StreamEventsRequest::default()
    };
    events(api)
        .stream_events(request)
        .await
        .unwrap()
        .into_inner()
}

async fn next<T>(stream: &mut Streaming<T>) -> Option<T> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    next.expect("something comes in time").unwrap()
}

async fn event(stream: &mut Streaming<v1::StreamEventsResponse>) -> v1::Event {
    next(stream).await.unwrap().event.unwrap()
}

#[tokio::test]
async fn events_come_as_they_happen_and_a_stream_is_resumed() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let mut stream = follow(&api, 0).await;
    let opened = event(&mut stream).await;
    assert_eq!(
        (opened.kind(), opened.account_id.as_str()),
        (v1::EventKind::AccountOpened, "a")
    );
    // Nothing more yet: the next one is made while the stream is open.
    api.credit()
        .recharge(recharge("a", "r1", "o1", 5))
        .await
        .unwrap();
    let added = event(&mut stream).await;
    assert_eq!(
        (added.kind(), added.amount.clone(), added.balance.clone()),
        (v1::EventKind::CreditAdded, usd(5), usd(5))
    );
    assert!(added.sequence > opened.sequence);
    drop(stream);
    api.credit()
        .recharge(recharge("a", "r2", "o2", 1))
        .await
        .unwrap();
    let mut resumed = follow(&api, opened.sequence).await;
    assert_eq!(
        event(&mut resumed).await,
        added,
        "the same event, with the same id"
    );
    assert_eq!(event(&mut resumed).await.amount, usd(1));
}

#[tokio::test]
async fn events_are_filtered_and_come_in_pages() {
    let api = Api::start().await;
    for name in ["a", "b"] {
        api.open(name).await.unwrap();
        for n in 0..3 {
            let request = recharge(name, &format!("r{n}"), &format!("o{n}"), 1);
            api.credit().recharge(request).await.unwrap();
        }
    }
    let page = async |token: String, account: &str| {
        let request = v1::ListEventsRequest {
            account_id: account.into(),
            kinds: vec![v1::EventKind::CreditAdded.into()],
            page_size: 2,
            page_token: token,
            ..v1::ListEventsRequest::default()
        };
        events(&api).list_events(request).await
    };
    let first = page(String::new(), "b").await.unwrap().into_inner();
    let second = page(first.next_page_token.clone(), "b")
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            first.events.len(),
            second.events.len(),
            second.next_page_token.as_str()
        ),
        (2, 1, "")
    );
    assert!(
        first
            .events
            .iter()
            .chain(&second.events)
            .all(|event| event.account_id == "b")
    );
    let other = page(first.next_page_token, "a").await;
    assert_eq!(
        refused(other),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
    let request = v1::StreamEventsRequest {
        account_id: "b".into(),
        kinds: vec![v1::EventKind::AccountOpened.into()],
        after_sequence: 0,
    };
    let mut stream = events(&api)
        .stream_events(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(event(&mut stream).await.account_id, "b");
    let wrong = v1::StreamEventsRequest {
        kinds: vec![77],
        ..request
    };
    assert_eq!(
        violations(events(&api).stream_events(wrong).await),
        ["kinds[0]"]
    );
}

fn spend(after: u64, until_current: bool) -> v1::StreamSpendRequest {
    v1::StreamSpendRequest {
        after_sequence: after,
        account_id: String::new(),
        until_current,
    }
}

async fn current(api: &Api, after: u64) -> Vec<v1::AccountSpend> {
    let mut stream = sync(api)
        .stream_spend(spend(after, true))
        .await
        .unwrap()
        .into_inner();
    let mut all = Vec::new();
    while let Some(answer) = next(&mut stream).await {
        all.push(answer.spend.unwrap());
    }
    all
}

#[tokio::test]
async fn spend_is_followed_as_totals_and_resumed() {
    let api = Api::start().await;
    api.account("a", 9).await;
    api.account("b", 9).await;
    api.call("a").await;
    api.call("b").await;
    let published = sync(&api)
        .sync_now(v1::SyncNowRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(published.as_of.is_some());
    let all = current(&api, 0).await;
    let mut seen: Vec<_> = all
        .iter()
        .map(|spend| (spend.account_id.as_str(), spend.total.clone()))
        .collect();
    seen.sort_by_key(|(account, _)| account.to_owned());
    assert_eq!(seen, [("a", usd(1)), ("b", usd(1))]);
    let row = &all[0].rows[0];
    assert_eq!(
        (row.model.as_str(), row.tally.as_ref().unwrap().cost.clone()),
        ("flat", usd(1))
    );
    let last = all.iter().map(|spend| spend.sequence).max().unwrap();
    assert_eq!(current(&api, last).await, [], "nothing is new");

    // An open stream hears of the next call as soon as it is published.
    let mut stream = sync(&api)
        .stream_spend(spend(last, false))
        .await
        .unwrap()
        .into_inner();
    api.call("a").await;
    sync(&api).sync_now(v1::SyncNowRequest {}).await.unwrap();
    let more = next(&mut stream).await.unwrap().spend.unwrap();
    assert_eq!(
        (more.account_id.as_str(), more.total, more.more),
        ("a", usd(2), false)
    );
    assert!(more.sequence > last);
    let resumed = current(&api, last).await;
    assert_eq!(resumed.len(), 1, "the other account has not changed");
    assert_eq!(
        (resumed[0].account_id.as_str(), resumed[0].total.clone()),
        ("a", usd(2))
    );
}

#[tokio::test]
async fn streams_end_when_the_server_stops_and_it_has_drained_then() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let mut stream = follow(&api, 0).await;
    let mut idle = sync(&api)
        .stream_spend(spend(0, false))
        .await
        .unwrap()
        .into_inner();
    event(&mut stream).await;
    api.stop.send(true).unwrap();
    assert!(
        next(&mut stream).await.is_none(),
        "it ends, and not with an error"
    );
    assert!(next(&mut idle).await.is_none());
    let Api {
        running, channel, ..
    } = api;
    drop(channel);
    tokio::time::timeout(PATIENCE, running.join)
        .await
        .expect("drained")
        .unwrap();
}

#[tokio::test]
async fn followers_are_bounded_and_one_that_leaves_makes_room() {
    let api = Api::start().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(follow(&api, 0).await);
    }
    let one_more = events(&api)
        .stream_events(v1::StreamEventsRequest::default())
        .await;
    assert_eq!(
        refused(one_more),
        said(Code::ResourceExhausted, "FOLLOWERS_LIMIT")
    );
    open.pop();
    crate::support::until("the place of the one that left", async || {
        let request = v1::StreamEventsRequest::default();
        events(&api).stream_events(request).await.ok()
    })
    .await;
}
