//! Calls that go well: what the upstream sees, what the client gets, what it costs.

use http::{HeaderName, HeaderValue};
use tollgate::usage::Meter;

use crate::support::edge::{Edge, Plan};
use crate::support::http::{Wire, call, post};
use crate::support::upstream::{Reply, Upstream};

pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const ASK: &str = r#"{"model":"tokens","max_tokens":10,"messages":[]}"#;
pub(super) const ASK_STREAM: &str =
    r#"{"model":"tokens","max_tokens":10,"stream":true,"messages":[]}"#;
/// 100 tokens in and 7 out: 0.114.
pub(super) const SAID: &str = r#"{"id":"1","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107}}"#;
pub(super) const DELTA: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n";
pub(super) const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":7,\"total_tokens\":107}}\n\n";
pub(super) const DONE: &str = "data: [DONE]\n\n";

#[tokio::test]
async fn a_call_passes_and_costs_what_the_upstream_says() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::json(SAID));
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!((got.status(), got.text().as_str()), (200, SAID));
    let length = SAID.len().to_string();
    assert_eq!(got.header("content-length"), Some(length.as_str()));
    assert_eq!(got.header("x-request-id").map(str::len), Some(32));
    // The books are right when the client sees the end: no waiting here.
    edge.nothing_is_held_now();
    edge.check_spent("0.114").await;

    let seen = &upstream.seen()[0];
    let host = upstream.address.to_string();
    assert_eq!(seen.start, format!("POST {CHAT} HTTP/1.1"));
    assert_eq!(seen.body, ASK.as_bytes());
    for (name, value) in [
        ("host", Some(host.as_str())),
        ("authorization", None),
        ("accept-encoding", Some("identity")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("tollgate.test")),
        ("x-request-id", got.header("x-request-id")),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_stream_is_asked_for_its_usage_and_the_client_does_not_see_it() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::events(&[DELTA, USAGE, DONE]));
    let got = call(edge.address, post(CHAT, ASK_STREAM)).await;
    assert_eq!(got.text(), [DELTA, DONE].concat());
    assert!(got.whole);
    edge.check_spent("0.114").await;
    let seen = &upstream.seen()[0];
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body["stream_options"]["include_usage"], true);
    let length = seen.body.len().to_string();
    assert_eq!(seen.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn a_client_that_asks_for_usage_sees_it() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::events(&[DELTA, USAGE, DONE]));
    let ask = r#"{"stream_options":{"include_usage":true},"model":"tokens","stream":true}"#;
    let got = call(edge.address, post(CHAT, ask)).await;
    assert_eq!(got.text(), [DELTA, USAGE, DONE].concat());
    edge.check_spent("0.114").await;
    assert_eq!(upstream.seen()[0].body, ask.as_bytes());
}

#[tokio::test]
async fn a_flat_price_asks_the_upstream_for_nothing() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::events(&[DELTA, DONE]));
    let ask = r#"{"model":"flat","stream":true}"#;
    let got = call(edge.address, post(CHAT, ask)).await;
    assert_eq!(got.text(), [DELTA, DONE].concat());
    edge.check_spent("1").await;
    assert_eq!(upstream.seen()[0].body, ask.as_bytes());
}

#[tokio::test]
async fn usage_in_response_headers_wins_over_the_body() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    let header = HeaderName::from_static("x-usage-input");
    plan.terms.usage_headers = [(Meter::Input, header)].into();
    let edge = plan.start().await;
    let length = SAID.len();
    let head = format!("HTTP/1.1 200 OK\r\nx-usage-input: 3000\r\ncontent-length: {length}\r\n");
    upstream.then(Reply::Bytes(format!("{head}\r\n{SAID}").into()));
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!(got.status(), 200);
    edge.check_spent("3").await;
}

#[tokio::test]
async fn one_connection_serves_many_calls_both_ways() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let mut client = Wire::connect(edge.address).await;
    for _ in 0..5 {
        upstream.then(Reply::json(SAID));
        client.send(post(CHAT, ASK)).await;
        assert_eq!(client.message().await.unwrap().status(), 200);
    }
    assert_eq!(upstream.connections(), 1);
    edge.check_spent("0.57").await;
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_closed_is_replaced() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    for round in 1..=3 {
        let (reply, pieces) = Reply::begun(Reply::json(SAID));
        upstream.then(reply);
        let got = call(edge.address, post(CHAT, ASK)).await;
        assert_eq!(got.status(), 200, "{round}");
        drop(pieces);
        upstream.has_closed(round).await;
    }
    edge.check_spent("0.342").await;
}

#[tokio::test]
async fn the_upstream_has_its_own_path_and_credentials() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.upstream.base_path = "/base".into();
    let own = HeaderValue::from_static("Bearer own");
    plan.upstream.headers = vec![(http::header::AUTHORIZATION, own)];
    let edge = plan.start().await;
    upstream.then(Reply::json(SAID));
    let path = format!("{CHAT}?a=%2F..&b");
    let got = call(edge.address, post(&path, ASK)).await;
    assert_eq!(got.status(), 200);
    let seen = &upstream.seen()[0];
    assert_eq!(seen.start, format!("POST /base{path} HTTP/1.1"));
    assert_eq!(seen.header("authorization"), Some("Bearer own"));
}

#[tokio::test]
async fn internal_and_one_hop_headers_do_not_pass_either_way() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let length = SAID.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nx-tollgate-reason: FORGED\r\nconnection: x-hop\r\nx-hop: 1\r\n\
         keep-alive: timeout=1\r\nx-kept: 1\r\ncontent-length: {length}\r\n"
    );
    upstream.then(Reply::Bytes(format!("{head}\r\n{SAID}").into()));
    let more = "x-tollgate-account: other\r\nx-request-id: mine-1\r\n\
                connection: keep-alive, x-hop\r\nx-hop: 1\r\nx-kept: 1\r\nhost:";
    let request = post(CHAT, ASK).replacen("host:", more, 1);
    let got = call(edge.address, request).await;
    let seen = &upstream.seen()[0];
    for message in [&got, seen] {
        assert_eq!(message.header("x-kept"), Some("1"), "{message:?}");
        assert_eq!(
            message.header("x-request-id"),
            Some("mine-1"),
            "{message:?}"
        );
        for name in [
            "x-tollgate-account",
            "x-tollgate-reason",
            "x-hop",
            "keep-alive",
        ] {
            assert_eq!(message.header(name), None, "{message:?}");
        }
    }
}
