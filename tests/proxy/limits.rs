//! What is refused, in whose words, and that nothing is charged for it.

use std::time::Duration;

use tollgate::policy::Policy;

use super::passing::{ASK, CHAT, SAID};
use crate::support::edge::{Edge, Plan};
use crate::support::http::{Message, Wire, call, post};
use crate::support::upstream::{Reply, Upstream};

/// A request that never reaches the upstream: its status, and words of its error.
async fn check(
    edge: &Edge,
    upstream: &Upstream,
    request: impl AsRef<[u8]>,
    status: u16,
    words: &str,
) {
    let got = call(edge.address, request).await;
    let said = got.text();
    assert_eq!(got.status(), status, "{words}: {said}");
    assert!(said.contains(words), "{words}: {said}");
    assert!(got.header("x-request-id").is_some(), "{words}");
    assert!(upstream.seen().is_empty(), "{words}");
    edge.check_spent("0").await;
}

#[tokio::test]
async fn what_is_no_request_for_a_model_is_told_so() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let not_utf8 = [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n".as_slice(),
        b"{\"model\":\"\xff\"}",
    ]
    .concat();
    let garbage = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\
                   transfer-encoding: chunked\r\n\r\nzz\r\nno chunk";
    check(&edge, &upstream, not_utf8, 400, "UTF-8").await;
    check(&edge, &upstream, garbage, 400, "framed").await;
    for (path, body, status, words) in [
        (CHAT, "{\"model\":", 400, "byte 9"),
        (CHAT, "[]", 400, "object"),
        (CHAT, "", 400, "byte 0"),
        (CHAT, "{}", 400, "needs a `model`"),
        (CHAT, "{\"model\":5}", 400, "model"),
        (CHAT, "{\"model\":\"nope\"}", 404, "model_not_found"),
        ("/v1/x/../chat/completions", ASK, 400, "segment"),
        ("/v1/%2e%2e/chat/completions", ASK, 400, "segment"),
    ] {
        check(&edge, &upstream, post(path, body), status, words).await;
    }
    let bad_key = post(CHAT, ASK).replace("sk-a", "sk-x");
    check(&edge, &upstream, bad_key, 401, "invalid_api_key").await;
    let no_key = post(CHAT, ASK).replace("authorization", "x-none");
    check(&edge, &upstream, no_key, 401, "invalid_api_key").await;
    let opaque = "GET /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: sk-a\r\n\r\n";
    check(&edge, &upstream, opaque, 404, "MODEL_NOT_PRICED").await;
    let connect = "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n";
    check(&edge, &upstream, connect, 405, "method").await;
}

#[tokio::test]
async fn the_words_are_those_of_the_api_that_was_called() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.money = "0";
    let edge = plan.start().await;
    let refused = async |path: &str| {
        let got = call(edge.address, post(path, ASK)).await;
        assert_eq!(
            got.header("x-tollgate-reason"),
            Some("INSUFFICIENT_BALANCE")
        );
        assert_eq!(got.header("x-should-retry"), Some("false"));
        assert_eq!(got.header("retry-after"), None);
        got
    };
    let openai: Message = refused(CHAT).await;
    assert_eq!(openai.status(), 429);
    assert_eq!(openai.json()["error"]["code"], "insufficient_quota");
    let anthropic = refused("/v1/messages").await;
    assert_eq!(anthropic.status(), 402);
    assert_eq!(anthropic.json()["error"]["type"], "billing_error");
    let id = anthropic.header("x-request-id").unwrap();
    assert_eq!(anthropic.json()["request_id"], id);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn the_rate_is_told_and_kept() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.policy = Policy {
        qps: Some(1),
        burst: Some(3),
        ..Policy::default()
    };
    let edge = plan.start().await;
    for left in ["2", "1", "0"] {
        upstream.then(Reply::json(SAID));
        let got = call(edge.address, post(CHAT, ASK)).await;
        if left == "2" {
            // The first call waits for its account to be loaded, so its figures are of a moment before.
            continue;
        }
        assert_eq!(got.header("x-ratelimit-limit-requests"), Some("1"));
        assert_eq!(got.header("x-ratelimit-remaining-requests"), Some(left));
        assert_eq!(got.header("ratelimit-policy"), Some("\"qps\";q=1;w=1"));
    }
    let got = call(edge.address, post(CHAT, ASK)).await;
    assert_eq!(got.status(), 429);
    assert_eq!(got.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(got.header("x-tollgate-reason"), Some("QPS_EXCEEDED"));
    assert_eq!(got.header("retry-after"), Some("1"));
    assert_eq!(got.header("x-should-retry"), None);
    edge.check_spent("0.342").await;
}

#[tokio::test]
async fn a_body_of_100_mb_is_told_it_is_too_large_also_to_who_sends_it_all_first() {
    const SIZE: usize = 100 << 20;
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let head = post(CHAT, "").replace("content-length: 0", &format!("content-length: {SIZE}"));
    let mut client = Wire::connect(edge.address).await;
    client.send(head).await;
    let piece = vec![b' '; 1 << 20];
    for _ in 0..SIZE / piece.len() {
        client.send(&piece).await;
    }
    let got = client.message().await.expect("an answer");
    assert_eq!(got.status(), 413);
    assert!(got.text().contains("1048576 bytes"), "{got:?}");
    assert_eq!(upstream.connections(), 0);
    edge.check_spent("0").await;
}

#[tokio::test]
async fn a_chunked_body_that_grows_too_large_is_stopped() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.body_bytes_max = 100_000;
    let edge = plan.start().await;
    let head = post(CHAT, "").replace("content-length: 0", "transfer-encoding: chunked");
    let mut client = Wire::connect(edge.address).await;
    client.send(head).await;
    client
        .send(crate::support::upstream::chunk(
            r#"{"model":"tokens","messages":["#,
        ))
        .await;
    for _ in 0..30 {
        client
            .send(crate::support::upstream::chunk(&" ".repeat(10_000)))
            .await;
    }
    let got = client.message().await.expect("an answer");
    assert_eq!(got.status(), 413);
    edge.check_spent("0").await;
    assert!(upstream.seen().is_empty());
    upstream.has_closed(upstream.connections()).await;
}

#[tokio::test]
async fn headers_of_1_mb_are_told_they_are_too_large() {
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let large = format!("x-large: {}\r\nhost:", "a".repeat(1 << 20));
    let many = format!("{}host:", "x-many: 1\r\n".repeat(200));
    for more in [large, many] {
        let request = post(CHAT, ASK).replacen("host:", &more, 1);
        let got = call(edge.address, request).await;
        assert_eq!(got.status(), 431);
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_model_that_stands_too_far_back_is_asked_for_at_the_front() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.inspect_bytes_max = 1000;
    let edge = plan.start().await;
    let body = format!(
        r#"{{"messages":["{}"],"model":"tokens"}}"#,
        "a".repeat(500_000)
    );
    check(&edge, &upstream, post(CHAT, &body), 400, "first 1000 bytes").await;
}

#[tokio::test]
async fn a_client_that_pauses_in_its_body_is_told_so() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.terms.idle_timeout = Duration::from_millis(60);
    let edge = plan.start().await;
    let request = post(CHAT, ASK);
    check(
        &edge,
        &upstream,
        &request[..request.len() - 1],
        408,
        "in time",
    )
    .await;
}

#[tokio::test]
async fn connections_held_for_nothing_are_closed() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.settings.client_timeout = Duration::from_millis(80);
    let edge = plan.start().await;
    for begin in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "POST / HTTP/1.1\r\nhost:",
        "GET /nowhere/.. HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut client = Wire::connect(edge.address).await;
        client.send(begin).await;
        client.closed().await;
    }
}

#[tokio::test]
async fn a_slow_answer_is_no_reason_to_close_its_connection() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.settings.client_timeout = Duration::from_millis(20);
    let edge = plan.start().await;
    let (reply, pieces) = Reply::begun(Reply::Bytes(Vec::new()));
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK)).await;
    upstream.has_seen(1).await;
    // Another connection that is idle is closed meanwhile, several times over.
    for _ in 0..5 {
        Wire::connect(edge.address).await.closed().await;
    }
    let Reply::Bytes(answer) = Reply::json(SAID) else {
        unreachable!()
    };
    pieces.send(answer).unwrap();
    assert_eq!(client.message().await.unwrap().status(), 200);
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.settings.connections_max = 1;
    let edge = plan.start().await;
    let mut first = Wire::connect(edge.address).await;
    first.send(post("/", "")).await;
    assert_eq!(first.message().await.unwrap().status(), 404);
    let mut second = Wire::connect(edge.address).await;
    second.send(post("/", "")).await;
    let waiting = tokio::time::timeout(Duration::from_millis(50), second.head()).await;
    assert!(waiting.is_err(), "there is one place only");
    drop(first);
    assert_eq!(second.message().await.unwrap().status(), 404);
}
