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
    let running = admin::serve(&settings, node.core.clone(), None, drains)
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

/// An answer's status line and its JSON.
async fn page(running: &admin::Running, path: &str, headers: &str) -> (String, serde_json::Value) {
    let mut stream = tokio::net::TcpStream::connect(running.local_addr)
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn the_page_shows_accounts_and_their_usage_to_who_may_see_them() {
    let policy = tollgate::policy::Policy {
        low_balance: Some(crate::support::node::amount("9")),
        ..tollgate::policy::Policy::default()
    };
    let node = Node::embedded_with(policy);
    node.account("org/a", "5").await;
    let terms = terms();
    let ticket = node
        .core
        .gate
        .admit(&call("sk-org/a", "flat", &terms))
        .await;
    ticket.unwrap().settle(Outcome {
        end: End::Complete,
        reading: Reading {
            usage: Some(Counts::default().with(Meter::Input, 7)),
            complete: true,
            error: false,
            text_bytes: 0,
        },
        bytes_in: 1,
        bytes_out: 1,
    });
    let settings = AdminSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        sync_age_max: Duration::from_secs(60),
    };
    let serve = async |token: Option<&str>| {
        let (draining, drains) = tokio::sync::watch::channel(false);
        let view = tollgate::control::View::new(node.core.clone(), token);
        let running = admin::serve(&settings, node.core.clone(), Some(view), drains).await;
        (running.unwrap(), draining)
    };
    let (open, _draining) = serve(None).await;
    let local = "host: 127.0.0.1\r\n";
    let html = get(&open, "/page").await.unwrap();
    assert!(
        html.contains("content-security-policy") && html.contains("<title>tollgate"),
        "{html}"
    );
    let (status, list) = page(&open, "/page/accounts", local).await;
    assert_eq!(status, "200");
    let one = &list["accounts"][0];
    assert_eq!(
        (&one["account"], &one["balance"]),
        (&"org/a".into(), &"4.00".into())
    );
    assert_eq!(
        (&one["low_balance"], &one["state"]),
        (&"9.00".into(), &"ACTIVE".into())
    );
    let series = "/page/usage?account=org%2Fa&step=day&by=model";
    let (status, usage) = page(&open, series, local).await;
    assert_eq!(
        (status.as_str(), &usage["rows"][0]["name"]),
        ("200", &"flat".into())
    );
    assert_eq!(
        (&usage["total"]["tokens"], &usage["total"]["cost"]),
        (&7.into(), &"1.00".into())
    );
    let (_, ledger) = page(&open, "/page/entries?account=org%2Fa", local).await;
    assert_eq!(ledger["entries"][0]["kind"], "USAGE");
    for (path, status) in [
        ("/page/account?account=nobody", "404"),
        ("/page/usage?account=org%2Fa&step=year&by=model", "400"),
        ("/page/none", "404"),
    ] {
        assert_eq!(page(&open, path, local).await.0, status, "{path}");
    }
    // A name that was pointed here by somebody else is not this machine.
    let (status, _) = page(&open, "/page/accounts", "host: rebound.example.com\r\n").await;
    assert_eq!(status, "403");

    let (guarded, _draining) = serve(Some("t0ken")).await;
    for (headers, status) in [
        ("", "401"),
        ("authorization: Bearer wrong\r\n", "401"),
        ("authorization: Bearer t0ken\r\n", "200"),
    ] {
        let headers = format!("{local}{headers}");
        assert_eq!(
            page(&guarded, "/page/accounts", &headers).await.0,
            status,
            "{headers}"
        );
    }
}
