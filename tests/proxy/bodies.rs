//! Requests' bodies and trailers on their way through.

use std::time::Duration;

use super::passing::{ASK, CHAT, DELTA, DONE, SAID, USAGE};
use crate::support::edge::{Edge, Plan};
use crate::support::http::{Wire, call, post};
use crate::support::upstream::{Reply, Upstream, chunk};

/// A chat request of about so many bytes, its model first.
fn long_ask(bytes: usize) -> String {
    let text = "a".repeat(bytes);
    format!(r#"{{"model":"tokens","max_tokens":10,"messages":["{text}"]}}"#)
}

#[tokio::test]
async fn a_long_body_streams_through_as_it_is() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.money = "1000";
    let edge = plan.start().await;
    let ask = long_ask(900_000);
    upstream.then(Reply::json(SAID));
    let got = call(edge.address, post(CHAT, &ask)).await;
    assert_eq!(got.status(), 200, "{}", got.text());
    let seen = &upstream.seen()[0];
    assert_eq!(seen.body.len(), ask.len());
    assert_eq!(seen.body, ask.as_bytes());
    let length = ask.len().to_string();
    assert_eq!(seen.header("content-length"), Some(length.as_str()));
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn a_chunked_body_is_read_whatever_its_chunks() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    for size in [1, 7, 1000] {
        upstream.then(Reply::events(&[DELTA, USAGE, DONE]));
        let ask = r#"{"model":"tokens","stream":true,"messages":["ü"]}"#;
        let mut request = post(CHAT, "")
            .replace("content-length: 0", "transfer-encoding: chunked")
            .into_bytes();
        for piece in ask.as_bytes().chunks(size) {
            request.extend(format!("{:x}\r\n", piece.len()).as_bytes());
            request.extend(piece);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        let got = call(edge.address, request).await;
        assert_eq!(got.text(), [DELTA, DONE].concat(), "{size}");
        let seen = upstream.seen().pop().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(body["stream_options"]["include_usage"], true, "{size}");
    }
    edge.check_spent("0.342").await;
}

#[tokio::test]
async fn a_body_that_turns_out_malformed_is_cut_off_and_free() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.inspect_bytes_max = 64;
    plan.money = "1000";
    let edge = plan.start().await;
    let ask = long_ask(500_000).replace("]}", "]]");
    upstream.then(Reply::json(SAID));
    let got = call(edge.address, post(CHAT, &ask)).await;
    assert_eq!(got.status(), 400, "{}", got.text());
    assert!(upstream.seen().is_empty());
    upstream.has_closed(upstream.connections()).await;
    edge.check_spent("0").await;
}

#[tokio::test]
async fn nothing_is_read_before_a_refusal_that_needs_no_body() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let expect = |path: &str, key: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
             expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            ASK.len()
        )
    };
    // Not told to go on, but refused.
    let got = call(edge.address, expect("/v1/files", "sk-x")).await;
    assert_eq!(got.status(), 401);
    // Told to go on, since the model stands in the body.
    upstream.then(Reply::json(SAID));
    let mut client = Wire::connect(edge.address).await;
    client.send(expect(CHAT, "sk-a")).await;
    assert_eq!(client.head().await.unwrap().status(), 100);
    client.send(ASK).await;
    assert_eq!(client.message().await.unwrap().status(), 200);
    assert_eq!(upstream.seen()[0].header("expect"), None);
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn no_more_of_a_body_is_held_than_a_little_for_whom_nobody_knows() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.inspect_bytes_max = 1 << 20;
    let edge = plan.start().await;
    // The model stands at the end, where only who is known is followed to.
    let text = "a".repeat(200_000);
    let ask = format!(r#"{{"messages":["{text}"],"max_tokens":10,"model":"tokens"}}"#);
    let (begin, _) = ask.split_at(100_000);
    for head in [
        post(CHAT, "").replace("sk-a", "sk-x"),
        post(CHAT, "").replace("authorization", "x-none"),
    ] {
        let head = head.replace(
            "content-length: 0",
            &format!("content-length: {}", ask.len()),
        );
        let got = call(edge.address, [head.as_str(), begin].concat()).await;
        assert_eq!(got.status(), 401, "{}", got.text());
        assert_eq!(got.header("x-tollgate-reason"), Some("KEY_UNKNOWN"));
    }
    upstream.then(Reply::json(SAID));
    let got = call(edge.address, post(CHAT, &ask)).await;
    assert_eq!(got.status(), 200, "{}", got.text());
    assert_eq!(upstream.seen()[0].body, ask.as_bytes());
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn what_is_priced_as_json_cannot_be_read_as_anything_else() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let given = "content-type: application/json\r\n";
    let json = "application/json";
    for (lines, said) in [
        (given, json),
        ("", json),
        (
            "content-type: Application/JSON; charset=\"UTF-8\"\r\n",
            "Application/JSON; charset=\"UTF-8\"",
        ),
        ("content-type: application/json; charset=utf-16\r\n", json),
        ("content-type: application/x-www-form-urlencoded\r\n", json),
        (
            "content-type: application/json\r\ncontent-type: application/x-www-form-urlencoded\r\n",
            json,
        ),
        ("content-encoding: identity\r\n", json),
    ] {
        upstream.then(Reply::json(SAID));
        let got = call(edge.address, post(CHAT, ASK).replace(given, lines)).await;
        assert_eq!(got.status(), 200, "{lines} {}", got.text());
        let seen = upstream.seen().pop().unwrap();
        let kinds = seen
            .headers
            .iter()
            .filter(|(name, _)| name == "content-type");
        let kinds: Vec<_> = kinds.map(|(_, value)| value.as_str()).collect();
        assert_eq!(kinds, [said], "{lines}");
    }
    let seen = upstream.seen().len();
    for lines in [
        "content-encoding: deflate\r\n",
        "content-encoding: identity, br\r\n",
        "content-encoding: identity\r\ncontent-encoding: gzip\r\n",
    ] {
        let got = call(edge.address, post(CHAT, ASK).replace(given, lines)).await;
        assert_eq!(got.status(), 400, "{lines} {}", got.text());
        assert!(got.text().contains("compressed"), "{}", got.text());
    }
    assert_eq!(upstream.seen().len(), seen);
    edge.check_spent("0.798").await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    upstream.then(Reply::Bytes(
        [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n".to_vec(),
            chunk(SAID),
            b"0\r\nx-sum: 7\r\n\r\n".to_vec(),
        ]
        .concat(),
    ));
    let head = post(CHAT, "").replace(
        "content-length: 0",
        "transfer-encoding: chunked\r\ntrailer: x-check, x-tollgate-a, x-api-key\r\nte: trailers",
    );
    let mut request = head.into_bytes();
    request.extend(chunk(ASK));
    request.extend(b"0\r\nx-check: 5\r\nx-tollgate-a: 1\r\nx-api-key: sk-a\r\n\r\n");
    let got = call(edge.address, request).await;
    assert_eq!(got.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let seen = &upstream.seen()[0];
    assert_eq!(seen.trailers, [("x-check".to_owned(), "5".to_owned())]);
    assert_eq!(seen.body, ASK.as_bytes());
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_over() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.model = Some("flat".parse().unwrap());
    let edge = plan.start().await;
    let mut client = Wire::connect(edge.address).await;
    let request = post("/upload", "0123456789");
    client.send(&request[..request.len() - 5]).await;
    upstream.has_begun(1).await;
    client.send(&request[request.len() - 5..]).await;
    let got = client.message().await.unwrap();
    assert_eq!(got.status(), 404, "passed through, and unscripted");
    assert_eq!(upstream.seen()[0].body, b"0123456789");
    edge.check_spent("0").await;
}

#[tokio::test]
async fn an_encoded_answer_passes_unread() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.on_missing_usage = tollgate::route::OnMissingUsage::Free;
    let edge = plan.start().await;
    let length = SAID.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n";
    let answer = format!("{head}content-length: {length}\r\n\r\n{SAID}");
    upstream.then(Reply::Bytes(answer.into()));
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!(got.text(), SAID);
    edge.check_spent("0").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_the_upstream_back_and_is_let_go() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.settings.client_timeout = Duration::from_millis(200);
    plan.terms.on_disconnect = tollgate::route::OnDisconnect::Abort;
    plan.terms.on_missing_usage = tollgate::route::OnMissingUsage::Free;
    let edge = plan.start().await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK)).await;
    client.head().await.unwrap();
    // More than all buffers on the way hold; the client reads none of it.
    let piece = chunk(&format!("data: {}\n\n", "a".repeat(1 << 20)));
    for _ in 0..64 {
        pieces.send(piece.clone()).unwrap();
    }
    upstream.has_closed(1).await;
    edge.check_spent("0").await;
}
