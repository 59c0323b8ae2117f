//! Starting and stopping.

use std::time::Duration;

use tollgate::proxy::StartError;

use super::passing::{ASK, ASK_STREAM, CHAT, DELTA, DONE, SAID, USAGE};
use crate::support::edge::{Edge, Plan};
use crate::support::http::{Wire, call, post};
use crate::support::upstream::{Reply, Upstream, chunk};

#[tokio::test]
async fn what_is_in_flight_ends_before_the_proxy_does() {
    let upstream = Upstream::start().await;
    let mut edge = Edge::before(&upstream).await;
    let idle = Wire::connect(edge.address).await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK_STREAM)).await;
    let mut got = client.head().await.unwrap();
    edge.stop.send(true).unwrap();
    // An idle connection is closed at once; one in use is not.
    let mut idle = idle;
    idle.closed().await;
    for event in [DELTA, USAGE, DONE] {
        pieces.send(chunk(event)).unwrap();
    }
    pieces.send(b"0\r\n\r\n".to_vec()).unwrap();
    client.body(&mut got).await;
    assert!(got.whole);
    assert_eq!(got.text(), [DELTA, DONE].concat());
    drop(client);
    edge.running.take().unwrap().join().await.unwrap();
    assert!(tokio::net::TcpStream::connect(edge.address).await.is_err());
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn a_client_that_left_is_waited_for_as_well() {
    let upstream = Upstream::start().await;
    let mut edge = Edge::before(&upstream).await;
    let (reply, pieces) = Reply::begun(Reply::Bytes(Vec::new()));
    upstream.then(reply);
    let mut client = Wire::connect(edge.address).await;
    client.send(post(CHAT, ASK)).await;
    upstream.has_seen(1).await;
    drop(client);
    edge.stop.send(true).unwrap();
    let Reply::Bytes(answer) = Reply::json(SAID) else {
        unreachable!()
    };
    pieces.send(answer).unwrap();
    edge.running.take().unwrap().join().await.unwrap();
    edge.nothing_is_held_now();
    edge.check_spent("0.114").await;
}

#[tokio::test]
async fn what_does_not_end_is_cut_and_settled() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.drain_max = Duration::from_millis(50);
    let mut edge = plan.start().await;
    let (reply, _pieces) = Reply::stream();
    upstream.then(reply).then(Reply::Hang);
    let mut streaming = Wire::connect(edge.address).await;
    streaming.send(post(CHAT, ASK_STREAM)).await;
    streaming.head().await.unwrap();
    let mut waiting = Wire::connect(edge.address).await;
    waiting.send(post(CHAT, ASK)).await;
    upstream.has_seen(2).await;
    edge.stop.send(true).unwrap();
    edge.running.take().unwrap().join().await.unwrap();
    edge.nothing_is_held_now();
    let held = |ask: &str| ask.len().div_ceil(3) + 20;
    edge.check_spent(&format!("0.{:03}", held(ASK) + held(ASK_STREAM)))
        .await;
}

#[tokio::test]
async fn workers_share_a_port_and_other_processes_do_not() {
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.settings.workers = 3;
    let edge = plan.start().await;
    for _ in 0..12 {
        upstream.then(Reply::json(SAID));
    }
    let calls = (0..12).map(|_| tokio::spawn(call(edge.address, post(CHAT, ASK))));
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().status(), 200);
    }
    edge.check_spent("1.368").await;

    let (gate, clock) = (&edge.node.core.gate, &edge.node.core.clock);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    for workers in [1, 2] {
        let settings = tollgate::proxy::Settings {
            listen: edge.address,
            workers,
            ..Default::default()
        };
        let again = tollgate::proxy::serve(gate, clock, &settings, &[], &stopped, Duration::ZERO);
        let error = again.unwrap_err();
        assert!(matches!(error, StartError::Bind { .. }), "{error}");
        assert!(
            error.to_string().contains(&edge.address.to_string()),
            "{error}"
        );
    }
}
