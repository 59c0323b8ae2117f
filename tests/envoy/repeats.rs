//! What Envoy says twice, or never: asked as the wire has it, by the generated clients.

use std::collections::HashMap;
use std::time::Duration;

use auth::attribute_context::{HttpRequest, Request};
use auth::authorization_client::AuthorizationClient;
use auth::check_response::HttpResponse;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3 as data;
use envoy_types::pb::envoy::service::accesslog::v3 as log;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::google::protobuf::{Struct, Timestamp, UInt32Value, Value, value::Kind};
use log::access_log_service_client::AccessLogServiceClient;
use log::stream_access_logs_message::{HttpAccessLogEntries, LogEntries};
use serde_json::json;
use tollgate::policy::{Policy, Unsettled};
use tonic::transport::Channel;

use crate::support::beside::{Beside, Plan, cost};
use crate::support::node::amount;
use crate::support::{until, within};

async fn channel(beside: &Beside) -> Channel {
    let at = format!("http://{}", beside.envoy);
    Channel::from_shared(at).unwrap().connect().await.unwrap()
}

/// The question that Envoy asks about the request of this number.
fn question(number: &str, request_id: &str) -> auth::CheckRequest {
    let body = r#"{"model":"tokens","max_tokens":9,"messages":[]}"#;
    let headers = [
        ("authorization", "Bearer sk-a"),
        ("content-type", "application/json"),
        ("x-envoy-auth-partial-body", "false"),
        ("x-request-id", request_id),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let http = HttpRequest {
        id: number.into(),
        method: "POST".into(),
        host: "ai.example".into(),
        path: "/v1/chat/completions".into(),
        headers: HashMap::from(headers),
        raw_body: body.into(),
        ..Default::default()
    };
    let time = Timestamp {
        seconds: 1_790_000_000,
        nanos: 5,
    };
    auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            request: Some(Request {
                time: Some(time),
                http: Some(http),
            }),
            ..Default::default()
        }),
    }
}

/// The hold of a call that passes.
fn passed(answer: &auth::CheckResponse) -> (String, Struct) {
    assert!(
        matches!(answer.http_response, Some(HttpResponse::OkResponse(_))),
        "{answer:?}"
    );
    let metadata = answer.dynamic_metadata.clone().unwrap();
    match &metadata.fields["hold"].kind {
        Some(Kind::StringValue(hold)) => (hold.clone(), metadata),
        other => panic!("{other:?}"),
    }
}

async fn ask(beside: &Beside, number: &str, request_id: &str) -> (String, Struct) {
    let mut client = AuthorizationClient::new(channel(beside).await);
    let answer = client.check(question(number, request_id)).await.unwrap();
    passed(answer.get_ref())
}

/// The line that tells the end of a call with this metadata.
fn line(metadata: Struct, output: f64) -> log::StreamAccessLogsMessage {
    let number = |number: f64| Value {
        kind: Some(Kind::NumberValue(number)),
    };
    let usage = HashMap::from([
        ("prompt_tokens".to_owned(), number(5.0)),
        ("completion_tokens".to_owned(), number(output)),
    ]);
    let spaces = HashMap::from([
        ("envoy.filters.http.ext_authz".to_owned(), metadata),
        ("tollgate.usage".to_owned(), Struct { fields: usage }),
    ]);
    let entry = data::HttpAccessLogEntry {
        common_properties: Some(data::AccessLogCommon {
            metadata: Some(Metadata {
                filter_metadata: spaces,
                ..Default::default()
            }),
            ..Default::default()
        }),
        response: Some(data::HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_code_details: "via_upstream".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    log::StreamAccessLogsMessage {
        identifier: None,
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries {
            log_entry: vec![entry],
        })),
    }
}

async fn tell(beside: &Beside, lines: Vec<log::StreamAccessLogsMessage>) {
    let mut client = AccessLogServiceClient::new(channel(beside).await);
    client
        .stream_access_logs(tokio_stream::iter(lines))
        .await
        .unwrap();
}

#[tokio::test]
async fn asked_again_about_one_request_the_hold_is_one() {
    let beside = Beside::start().await;
    let (first, _) = ask(&beside, "17", "r").await;
    let held = beside.held();
    let (again, _) = ask(&beside, "17", "r").await;
    assert_eq!((first, beside.held()), (again, held));
    assert_eq!((beside.calls("taken"), beside.calls("repeated")), (1, 1));
}

#[tokio::test]
async fn asked_again_at_once_the_hold_is_one() {
    let beside = Beside::start().await;
    let mut client = AuthorizationClient::new(channel(&beside).await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut client = client.clone();
        asking.spawn(async move {
            client
                .check(question("17", "r"))
                .await
                .unwrap()
                .into_inner()
        });
    }
    let holds = asking.join_all().await;
    let first = passed(&holds[0]).0;
    assert!(holds.iter().all(|answer| passed(answer).0 == first));
    let other = client
        .check(question("18", "r"))
        .await
        .unwrap()
        .into_inner();
    let (held, one) = (beside.held(), amount("0.034"));
    assert_eq!(held, one.checked_add(one).unwrap(), "one for each request");
    assert_ne!(passed(&other).0, first);
}

#[tokio::test]
async fn a_client_that_repeats_its_request_id_pays_for_each_call() {
    let beside = Beside::start().await;
    let (first, metadata) = ask(&beside, "17", "chosen").await;
    let (second, other) = ask(&beside, "18", "chosen").await;
    assert_ne!(first, second);
    tell(&beside, vec![line(metadata, 9.0), line(other, 9.0)]).await;
    let one = cost(&json!({"prompt_tokens": 5, "completion_tokens": 9}));
    beside.check_spent(one.checked_add(one).unwrap()).await;
    // Nor does the same request pass again once it is over.
    let (third, _) = ask(&beside, "17", "chosen").await;
    assert_ne!(first, third);
    assert!(beside.held().is_positive());
}

#[tokio::test]
async fn a_log_that_is_cut_and_sent_again_charges_nothing_twice() {
    let beside = Beside::start().await;
    let (_, one) = ask(&beside, "1", "r").await;
    let (_, two) = ask(&beside, "2", "r").await;
    // Cut in the middle: the stream goes without its end.
    let mut client = AccessLogServiceClient::new(channel(&beside).await);
    let (sender, lines) = tokio::sync::mpsc::channel(1);
    let lines = tokio_stream::wrappers::ReceiverStream::new(lines);
    let telling = tokio::spawn(async move { client.stream_access_logs(lines).await });
    sender.send(line(one.clone(), 9.0)).await.unwrap();
    until("the line is read", async || {
        (beside.calls("settled") == 1).then_some(())
    })
    .await;
    telling.abort();
    tell(
        &beside,
        vec![line(one, 9.0), line(two.clone(), 3.0), line(two, 700.0)],
    )
    .await;
    let nine = cost(&json!({"prompt_tokens": 5, "completion_tokens": 9}));
    let three = cost(&json!({"prompt_tokens": 5, "completion_tokens": 3}));
    beside.check_spent(nine.checked_add(three).unwrap()).await;
    assert_eq!((beside.calls("settled"), beside.calls("again")), (2, 2));
}

async fn unheard(unsettled: Unsettled) -> (Beside, Struct) {
    let plan = Plan {
        policy: Policy {
            hold_ms_max: 1_000,
            unsettled,
            ..Policy::default()
        },
        ..Plan::default()
    };
    let beside = plan.start().await;
    let (hold, metadata) = ask(&beside, "1", "r").await;
    let gate = &beside.node.core.gate;
    assert!(gate.unheard_calls().is_empty());
    within(Duration::from_secs(10), "the hold expires", async || {
        (gate.expire_holds() == 1).then_some(())
    })
    .await;
    let listed = gate.unheard_calls();
    assert_eq!((listed.len(), &listed[0].hold.id), (1, &hold));
    assert_eq!(listed[0].charged, unsettled == Unsettled::Charge);
    assert_eq!(beside.calls("expired"), 1);
    (beside, metadata)
}

#[tokio::test]
async fn a_call_that_is_not_told_of_ends_by_policy_and_is_listed_until_it_is() {
    let (beside, metadata) = unheard(Unsettled::Release).await;
    beside.check_spent(amount("0")).await;
    tell(&beside, vec![line(metadata, 9.0)]).await;
    let said = cost(&json!({"prompt_tokens": 5, "completion_tokens": 9}));
    beside.check_spent(said).await;
    assert_eq!(beside.calls("late"), 1);
    assert!(beside.node.core.gate.unheard_calls().is_empty());

    let (beside, metadata) = unheard(Unsettled::Charge).await;
    let held = amount("0.034");
    beside.check_spent(held).await;
    tell(&beside, vec![line(metadata, 9.0)]).await;
    beside.check_spent(held).await;
    assert_eq!(beside.node.core.gate.unheard_calls().len(), 1);
}

#[tokio::test]
async fn an_end_of_an_unknown_call_changes_nothing() {
    let beside = Beside::start().await;
    let hold = Value {
        kind: Some(Kind::StringValue("a~0badcafe.1".into())),
    };
    let fields = HashMap::from([("hold".to_owned(), hold)]);
    tell(&beside, vec![line(Struct { fields }, 9.0)]).await;
    assert_eq!(beside.calls("stray"), 1);
    beside.check_spent(amount("0")).await;
}

#[tokio::test]
async fn who_has_no_token_is_not_answered() {
    let plan = Plan {
        token: Some("0123456789abcdef"),
        ..Plan::default()
    };
    let beside = plan.start().await;
    let mut client = AuthorizationClient::new(channel(&beside).await);
    let error = client.check(question("1", "r")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unauthenticated, "{error}");
    let mut request = tonic::Request::new(question("1", "r"));
    let bearer = "Bearer 0123456789abcdef".parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    passed(client.check(request).await.unwrap().get_ref());
}
