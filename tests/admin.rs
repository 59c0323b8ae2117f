//! The admin edge over a running core: what calls did is what it tells.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tollgate::admin;
use tollgate::config::AdminSettings;
use tollgate::gate::{End, Outcome};
use tollgate::meter::Reading;
use tollgate::usage::{Counts, Meter};

use crate::support::node::{Node, call, terms};
use crate::support::until;

async fn get(running: &admin::Running, path: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(running.local_addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn it_tells_what_calls_did() {
    let node = Node::embedded();
    node.account("a", "5").await;
    let settings = AdminSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        sync_age_max: Duration::from_secs(60),
    };
    let (_draining, drains) = tokio::sync::watch::channel(false);
    let running = admin::serve(&settings, node.core.clone(), drains)
        .await
        .unwrap();
    let told = async |series: &str| {
        let page = get(&running, "/metrics").await.unwrap();
        let line = format!("\n{series}\n");
        assert!(page.contains(&line), "{series}\n{page}");
    };
    // An idle replica asks the store how it is, so it gets ready without a call.
    until("the store has been heard", async || {
        let ready = get(&running, "/readyz").await.unwrap();
        ready.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;

    let terms = terms();
    let gate = &node.core.gate;
    let ticket = gate.admit(&call("sk-a", "tokens", &terms)).await.unwrap();
    let refused = gate.admit(&call("sk-nobody", "tokens", &terms)).await;
    assert!(refused.is_err());
    told("tollgate_decisions_total{outcome=\"admitted\"} 1").await;
    told("tollgate_decisions_total{outcome=\"KEY_UNKNOWN\"} 1").await;
    told("tollgate_accounts 1").await;
    told("tollgate_holds_open 1").await;
    until("a round of the sync has seen the hold", async || {
        let page = get(&running, "/metrics").await.unwrap();
        page.contains("\ntollgate_held_units 0.03\n").then_some(())
    })
    .await;

    let usage = Counts::default().with(Meter::Output, 100);
    let reading = Reading {
        usage: Some(usage),
        complete: true,
        error: false,
        text_bytes: 0,
    };
    ticket.settle(Outcome {
        end: End::Complete,
        reading,
        bytes_in: 30,
        bytes_out: 100,
    });
    told("tollgate_holds_open 0").await;
    told("tollgate_charges_total{certainty=\"exact\",end=\"complete\"} 1").await;
    told("tollgate_spent_units_total 0.2").await;
    // 100 tokens out where 10 were foreseen.
    told("tollgate_overshoot_units_total 0.17").await;
    running.stop().await;
}
