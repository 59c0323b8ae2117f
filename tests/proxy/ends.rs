//! Every way a call can end: the hold ends exactly once, and what is charged is what the route says.

use std::time::Duration;

use tollgate::route::{OnDisconnect, OnMissingUsage};

use super::passing::{ASK, ASK_STREAM, CHAT, DELTA, DONE, SAID, USAGE};
use crate::support::edge::{Edge, Plan};
use crate::support::http::{Wire, call, post};
use crate::support::upstream::{Reply, Upstream, chunk};

/// What the hold of [`ASK_STREAM`] comes to: a third of its bytes in, 10 tokens out.
fn hold() -> String {
    format!("0.{:03}", ASK_STREAM.len().div_ceil(3) + 20)
}

#[tokio::test]
async fn an_upstream_that_refuses_is_a_502_and_free() {
    let mut plan = Plan::before(([127, 0, 0, 1], 0).into());
    plan.upstream.port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let edge = plan.start().await;
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!(got.status(), 502);
    assert_eq!(got.json()["error"]["type"], "server_error");
    edge.check_spent("0").await;
}

#[tokio::test]
async fn an_upstream_that_says_nothing_in_time_is_a_504_and_free() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.first_byte_timeout = Duration::from_millis(50);
    let edge = plan.start().await;
    upstream.then(Reply::Hang);
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!(got.status(), 504);
    edge.check_spent("0").await;
    upstream.has_closed(1).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_it_answers_is_a_502_and_free() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::Reset(Vec::new()));
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!(got.status(), 502);
    let made = upstream.seen().len();
    assert_eq!(made, 1, "a call that may have run is not made twice");
    edge.check_spent("0").await;
}

#[tokio::test]
async fn an_error_of_the_upstream_passes_and_is_free() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let body = r#"{"error":{"message":"no"}}"#;
    let status = "500 Internal Server Error";
    upstream.then(Reply::whole(status, "application/json", body));
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!((got.status(), got.text().as_str()), (500, body));
    assert_eq!(got.header("x-tollgate-reason"), None);
    edge.check_spent("0").await;
}

#[tokio::test]
async fn a_response_that_breaks_off_does_not_look_whole() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK_STREAM)).await;
    let mut got = client.head().await.unwrap();
    pieces.send(chunk(DELTA)).unwrap();
    assert_eq!(client.chunk().await.unwrap(), DELTA.as_bytes());
    drop(pieces);
    client.body(&mut got).await;
    assert!(!got.whole, "{got:?}");
    edge.check_spent("0").await;
}

#[tokio::test]
async fn a_response_that_is_reset_does_not_look_whole() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"id\":";
    upstream.then(Reply::Reset(head.into()));
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert!(got.status() == 502 || !got.whole, "{got:?}");
    edge.check_spent("0").await;
}

#[tokio::test]
async fn a_response_that_pauses_too_long_is_cut() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.idle_timeout = Duration::from_millis(80);
    let edge = plan.start().await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    pieces.send(chunk(DELTA)).unwrap();
    let got = call(edge.address, post(CHAT, ASK_STREAM)).await;
    assert_eq!(got.text(), DELTA);
    assert!(!got.whole);
    edge.check_spent("0").await;
    upstream.has_closed(1).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_pays_for_it() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let (reply, pieces) = Reply::begun(Reply::Bytes(Vec::new()));
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK)).await;
    upstream.has_seen(1).await;
    drop(client);
    let Reply::Bytes(answer) = Reply::json(SAID) else {
        unreachable!()
    };
    pieces.send(answer).unwrap();
    edge.check_spent("0.114").await;
}

/// A client that leaves once it has seen the first event.
async fn leaves_in_the_middle(
    plan: Plan,
    upstream: &Upstream,
) -> (Edge, tokio::sync::mpsc::UnboundedSender<Vec<u8>>) {
    let edge = plan.start().await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK_STREAM)).await;
    client.head().await.unwrap();
    pieces.send(chunk(DELTA)).unwrap();
    client.chunk().await.unwrap();
    (edge, pieces)
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_pays_for_all_where_the_route_drains() {
    let upstream = Upstream::start().await;
    let plan = Plan::before(upstream.address);
    let (edge, pieces) = leaves_in_the_middle(plan, &upstream).await;
    for event in [DELTA, DELTA, USAGE, DONE] {
        pieces.send(chunk(event)).unwrap();
    }
    pieces.send(b"0\r\n\r\n".to_vec()).unwrap();
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_cuts_the_call_where_the_route_aborts() {
    for (missing, spent) in [
        (OnMissingUsage::Hold, hold()),
        (OnMissingUsage::Free, "0".to_owned()),
    ] {
        let upstream = Upstream::start().await;
        let mut plan = Plan::before(upstream.address);
        plan.terms.on_disconnect = OnDisconnect::Abort;
        plan.terms.on_missing_usage = missing;
        let (edge, _pieces) = leaves_in_the_middle(plan, &upstream).await;
        upstream.has_closed(1).await;
        edge.check_spent(&spent).await;
    }
}

#[tokio::test]
async fn a_drain_has_its_bounds() {
    let bounds: [fn(&mut Plan); 3] = [
        |plan| plan.terms.drain_time_max = Duration::from_millis(50),
        |plan| plan.terms.drain_bytes_max = 10,
        |plan| plan.settings.drains_max = 0,
    ];
    for bound in bounds {
        let upstream = Upstream::start().await;
        let mut plan = Plan::before(upstream.address);
        bound(&mut plan);
        let (edge, pieces) = leaves_in_the_middle(plan, &upstream).await;
        let _ = pieces.send(chunk(DELTA));
        upstream.has_closed(1).await;
        edge.check_spent(&hold()).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_after_the_last_frame_pays_once() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK_STREAM)).await;
    client.head().await.unwrap();
    for event in [DELTA, USAGE, DONE] {
        pieces.send(chunk(event)).unwrap();
    }
    let mut text = String::new();
    while !text.contains("[DONE]") {
        text.push_str(&String::from_utf8(client.chunk().await.unwrap()).unwrap());
    }
    // The stream's own end was seen, though the body has not ended: the books are right already.
    edge.nothing_is_held_now();
    drop(client);
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_request_pays_nothing() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    // The rest of the body passes through once this much was seen.
    plan.terms.inspect_bytes_max = 16;
    let edge = plan.start().await;
    let mut client = Wire::connect(edge.address).await;
    let request = post(CHAT, r#"{"model":"tokens","messages":["and so on"]}"#);
    client.send(&request[..request.len() - 5]).await;
    upstream.has_begun(1).await;
    drop(client);
    upstream.has_closed(1).await;
    assert!(upstream.seen().is_empty());
    edge.check_spent("0").await;
}
