//! Each way to put tollgate behind Envoy: the official client gets its answers and its refusals, and the charge is usage × price to
//! the nano-unit.

use serde_json::{Value, json};
use tollgate::control;
use tollgate::money::Amount;
use tollgate::policy::Policy;
use tollgate::proto::v1;

use v1::hold_service_client::HoldServiceClient;

use crate::sdk::Sdk;
use crate::support::beside::{Beside, Plan, cost};
use crate::support::gateway::Gateway;
use crate::support::http::{call, post};
use crate::support::upstream::{Reply, Upstream};

fn client(at: &Gateway, key: &'static str) -> Sdk {
    Sdk { at: at.at, key }
}

const PLAIN: [&str; 2] = ["--model", "tokens"];
const STREAM: [&str; 5] = ["--model", "tokens", "--mode", "stream", "--include-usage"];

/// Runs a script that succeeds, and gives what its usage costs.
async fn paid(sdk: &Sdk, script: &str, options: &[&str]) -> Amount {
    let seen = sdk.run(script, options).await;
    assert_eq!(seen["ok"], true, "{script} {options:?}: {seen}");
    let answer = "Hello from the stand-in model. You said: Say hello";
    assert_eq!(seen["text"], answer, "{seen}");
    cost(&seen["usage"])
}

fn sum(one: Amount, other: Amount) -> Amount {
    one.checked_add(other).unwrap()
}

async fn refused(sdk: &Sdk, options: &[&str], expected: Value) {
    let seen = sdk.run("chat.py", options).await;
    for (field, value) in expected.as_object().unwrap() {
        let got = seen.pointer(field).unwrap_or(&Value::Null);
        assert_eq!(got, value, "{options:?} {field} in {seen}");
    }
}

/// A refusal in the client's own exceptions, by status.
async fn check_refusals(beside: &Beside, envoy: &Gateway, by_status: bool) {
    let stranger = client(envoy, "sk-nobody");
    let expected = match by_status {
        true => json!({
            "/exception": "AuthenticationError", "/status": 401, "/code": "invalid_api_key",
            "/headers/x-tollgate-reason": "KEY_UNKNOWN",
        }),
        false => {
            json!({"/exception": "RateLimitError", "/headers/x-tollgate-reason": "KEY_UNKNOWN"})
        }
    };
    refused(&stranger, &PLAIN, expected).await;
    beside.node.account("poor", "0.001").await;
    let expected = match by_status {
        true => json!({
            "/exception": "RateLimitError", "/status": 429, "/code": "insufficient_quota",
            "/headers/x-should-retry": "false", "/headers/x-tollgate-reason": "INSUFFICIENT_BALANCE",
        }),
        false => json!({
            "/exception": "RateLimitError", "/status": 429,
            "/headers/x-should-retry": "false", "/headers/x-tollgate-reason": "INSUFFICIENT_BALANCE",
        }),
    };
    refused(&client(envoy, "sk-poor"), &PLAIN, expected).await;
    if by_status {
        let expected = json!({"/exception": "NotFoundError", "/code": "model_not_found"});
        refused(&client(envoy, "sk-a"), &["--model", "unpriced"], expected).await;
    }
}

async fn check_anthropic(file: &str) {
    let beside = Beside::start().await;
    let envoy = Gateway::envoy(file, beside.envoy, beside.model, &[]).await;
    let sdk = client(&envoy, "sk-a");
    let mut spent = Amount::ZERO;
    for options in [&PLAIN[..], &STREAM[..4]] {
        spent = sum(spent, paid(&sdk, "messages.py", options).await);
        beside.check_spent(spent).await;
    }
    assert_eq!((beside.calls("taken"), beside.calls("settled")), (2, 2));
}

pub(super) async fn limited() -> Beside {
    let plan = Plan {
        policy: Policy {
            qps: Some(100),
            ..Policy::default()
        },
        ..Plan::default()
    };
    plan.start().await
}

async fn check_way(file: &str) {
    let beside = limited().await;
    let envoy = Gateway::envoy(file, beside.envoy, beside.model, &[]).await;
    check_calls(&beside, &envoy).await;
}

/// A call and a stream through an Envoy, of an account with a rate limit of 100.
pub(super) async fn check_calls(beside: &Beside, envoy: &Gateway) {
    let sdk = client(envoy, "sk-a");
    let mut spent = paid(&sdk, "chat.py", &STREAM).await;
    beside.check_spent(spent).await;
    let seen = sdk.run("chat.py", &PLAIN).await;
    assert_eq!(
        seen["headers"]["x-ratelimit-limit-requests"], "100",
        "{seen}"
    );
    assert_eq!(seen["headers"]["ratelimit-policy"], "\"qps\";q=100;w=1");
    spent = sum(spent, cost(&seen["usage"]));
    beside.check_spent(spent).await;
    assert_eq!((beside.calls("taken"), beside.calls("settled")), (2, 2));
}

async fn check_refused(file: &str) {
    let beside = Beside::start().await;
    let envoy = Gateway::envoy(file, beside.envoy, beside.model, &[]).await;
    check_refusals(&beside, &envoy, true).await;
    assert_eq!(beside.calls("taken"), 0);
}

#[tokio::test]
async fn asked_before_and_told_by_the_access_log() {
    check_way("ext-authz-access-log.yaml").await;
}

#[tokio::test]
async fn asked_before_and_watching_the_answer() {
    check_way("ext-authz-ext-proc.yaml").await;
}

#[tokio::test]
async fn in_the_path_of_all() {
    check_way("ext-proc.yaml").await;
}

#[tokio::test]
async fn refused_before_and_in_the_clients_words() {
    check_refused("ext-authz-access-log.yaml").await;
}

#[tokio::test]
async fn refused_in_the_path_and_in_the_clients_words() {
    check_refused("ext-proc.yaml").await;
}

#[tokio::test]
async fn messages_of_anthropic_told_by_the_access_log() {
    check_anthropic("ext-authz-access-log.yaml").await;
}

#[tokio::test]
async fn messages_of_anthropic_watched_as_they_pass() {
    check_anthropic("ext-authz-ext-proc.yaml").await;
}

#[tokio::test]
async fn messages_of_anthropic_in_the_path() {
    check_anthropic("ext-proc.yaml").await;
}

#[tokio::test]
async fn in_the_path_a_stream_is_made_to_say_its_usage_and_its_client_does_not_see_it() {
    let beside = Beside::start().await;
    let envoy = Gateway::envoy("ext-proc.yaml", beside.envoy, beside.model, &[]).await;
    let seen = client(&envoy, "sk-a").run("chat.py", &STREAM[..4]).await;
    assert_eq!(
        (&seen["ok"], &seen["usage_chunks"]),
        (&json!(true), &json!(0)),
        "{seen}"
    );
    assert_eq!(seen["usage"], Value::Null, "{seen}");
    beside
        .check_spent(cost(&json!({"prompt_tokens": 5, "completion_tokens": 9})))
        .await;
}

#[tokio::test]
async fn in_the_place_of_a_rate_limit_service() {
    let plan = Plan {
        policy: Policy {
            qps: Some(100),
            ..Policy::default()
        },
        ..Plan::default()
    };
    let beside = plan.start().await;
    let envoy = Gateway::envoy("rate-limit.yaml", beside.envoy, beside.model, &[]).await;
    let sdk = client(&envoy, "sk-a");
    let mut spent = paid(&sdk, "chat.py", &PLAIN).await;
    beside.check_spent(spent).await;
    spent = sum(spent, paid(&sdk, "chat.py", &STREAM).await);
    beside.check_spent(spent).await;
    check_refusals(&beside, &envoy, false).await;
    // Without a key, and without a model, nobody passes.
    let ask = r#"{"model":"tokens","messages":[{"role":"user","content":"hi"}]}"#;
    let keyless = post("/v1/chat/completions", ask).replace("authorization", "x-other");
    let got = call(envoy.at, keyless).await;
    assert_eq!(got.status(), 429, "{got:?}");
    assert_eq!(got.header("x-tollgate-reason"), Some("KEY_UNKNOWN"));
    let got = call(envoy.at, post("/v1/chat/completions", "{}")).await;
    assert_eq!(
        got.header("x-tollgate-reason"),
        Some("MODEL_NOT_PRICED"),
        "{got:?}"
    );
    beside.check_spent(spent).await;
}

/// An application's answers, as the client asks for them.
const ANSWER: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"tokens","choices":[{"index":0,
"finish_reason":"stop","message":{"role":"assistant","content":"Hello from the stand-in model. You said: Say hello"}}],
"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const PIECES: [&str; 3] = [
    concat!(
        r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"tokens","choices":[{"index":0,"#,
        r#""delta":{"content":"Hello from the stand-in model. You said: Say hello"},"finish_reason":"stop"}]}"#,
        "\n\n"
    ),
    concat!(
        r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"tokens","choices":[],"#,
        r#""usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}"#,
        "\n\n"
    ),
    "data: [DONE]\n\n",
];

#[tokio::test]
async fn the_official_client_and_an_application_that_tells_itself() {
    let beside = Beside::start().await;
    let application = Upstream::start().await;
    let file = "ext-authz-holds.yaml";
    let envoy = Gateway::envoy(file, beside.envoy, application.address, &[]).await;
    let sdk = client(&envoy, "sk-a");
    let (_stop, mut api) = holds_api(&beside).await;
    let mut spent = Amount::ZERO;
    let answers = [
        (&PLAIN[..], Reply::json(ANSWER)),
        (&STREAM[..], Reply::events(&PIECES)),
    ];
    for (at, (options, reply)) in answers.into_iter().enumerate() {
        application.then(reply);
        let seen = sdk.run("chat.py", options).await;
        assert_eq!(seen["ok"], true, "{options:?}: {seen}");
        let request = application.seen().remove(at);
        let usage = &seen["usage"];
        let count = |name: &str| usage[name].as_u64().unwrap();
        let counts = counts(count("prompt_tokens"), count("completion_tokens"));
        let hold = request.header("x-tollgate-hold").unwrap();
        let settled = settle(&mut api, hold, counts).await;
        assert!(!settled.replayed);
        spent = sum(spent, cost(usage));
        beside.check_spent(spent).await;
    }
    check_refusals(&beside, &envoy, true).await;
    beside.check_spent(spent).await;
}

fn counts(input: u64, output: u64) -> v1::MeterCounts {
    let count = |meter: v1::Meter, count| v1::MeterCount {
        meter: meter.into(),
        count,
    };
    v1::MeterCounts {
        counts: vec![
            count(v1::Meter::Input, input),
            count(v1::Meter::Output, output),
        ],
    }
}

/// The control API of the replica, for an application.
async fn holds_api(
    beside: &Beside,
) -> (
    tokio::sync::watch::Sender<bool>,
    HoldServiceClient<tonic::transport::Channel>,
) {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let settings = control::Settings {
        listen: control::Listen::Tcp(([127, 0, 0, 1], 0).into()),
        token: None,
        signing: None,
        tls: None,
        drain: std::time::Duration::from_secs(5),
    };
    let api = control::serve(beside.node.core.clone(), settings, stopped);
    let at = api.await.unwrap().local_addr.unwrap();
    let client = HoldServiceClient::connect(format!("http://{at}")).await;
    (stop, client.unwrap())
}

async fn settle(
    api: &mut HoldServiceClient<tonic::transport::Channel>,
    hold: &str,
    counts: v1::MeterCounts,
) -> v1::SettleResponse {
    let settle = v1::SettleRequest {
        hold_id: hold.to_owned(),
        cost: Some(v1::settle_request::Cost::Counts(counts)),
    };
    api.settle(settle).await.unwrap().into_inner()
}

#[tokio::test]
async fn asked_before_and_told_by_the_application() {
    let beside = Beside::start().await;
    let application = Upstream::start().await;
    let file = "ext-authz-holds.yaml";
    let envoy = Gateway::envoy(file, beside.envoy, application.address, &[]).await;
    application.then(Reply::json("{}"));
    let ask = r#"{"model":"tokens","messages":[]}"#;
    // What a client says of tollgate's own headers is nothing.
    let forged =
        "x-tollgate-hold: a~forged\r\nx-tollgate-account: b\r\naccept-encoding: gzip\r\n\r\n";
    let request =
        post("/v1/chat/completions", ask).replacen("\r\n\r\n", &format!("\r\n{forged}"), 1);
    assert_eq!(call(envoy.at, request).await.status(), 200);
    let seen = application.seen().remove(0);
    assert_eq!(seen.header("authorization"), None, "{seen:?}");
    assert_eq!(seen.header("x-tollgate-account"), None, "{seen:?}");
    assert_eq!(seen.header("accept-encoding"), Some("identity"), "{seen:?}");
    let hold = seen.header("x-tollgate-hold").unwrap();
    assert!(beside.held().is_positive());
    let (_stop, mut client) = holds_api(&beside).await;
    for replayed in [false, true] {
        let settled = settle(&mut client, hold, counts(7, 3)).await;
        assert_eq!(settled.replayed, replayed);
    }
    beside
        .check_spent(cost(&json!({"prompt_tokens": 7, "completion_tokens": 3})))
        .await;
}

#[tokio::test]
async fn over_a_unix_socket() {
    let beside = Beside::start().await;
    let path = beside.socket.display();
    let edits = [(
        format!(
            "socket_address: {{ address: 127.0.0.1, port_value: {} }}",
            beside.envoy.port()
        ),
        format!("pipe: {{ path: {path} }}"),
    )];
    let edits = edits
        .each_ref()
        .map(|(from, to)| (from.as_str(), to.clone()));
    let file = "ext-authz-access-log.yaml";
    let envoy = Gateway::envoy(file, beside.envoy, beside.model, &edits).await;
    let spent = paid(&client(&envoy, "sk-a"), "chat.py", &STREAM).await;
    beside.check_spent(spent).await;
}
