//! `tollgate demo` as its first page promises it: the addresses, the commands to try, and balances that are kept.

use serde_json::Value;
use tokio::process::Command;
use tollgate::money::Amount;

use super::process::{Process, amount};
use super::wire::{CHAT, chat, get, post};
use crate::support::http::{Message, call};
use crate::support::node::amount as units;
use crate::support::until;

const KEY: &str = "sk-demo";

async fn say_hello(process: &Process, stream: bool) -> Message {
    let mut body = chat("demo-model");
    body["stream"] = stream.into();
    if stream {
        body["stream_options"] = serde_json::json!({"include_usage": true});
    }
    let answer = call(process.proxy, post(CHAT, KEY, &[], &body.to_string())).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(answer.whole, "{answer:?}");
    answer
}

/// What the demo's prices make of a usage object.
fn cost(usage: &Value) -> Amount {
    let count = |name: &str| usage[name].as_i64().unwrap();
    let cost = count("prompt_tokens") * 2_500 + count("completion_tokens") * 10_000;
    assert!(cost > 0, "{usage}");
    Amount::from_nanos(cost)
}

/// The usage that the last event but `[DONE]` says.
fn streamed_usage(answer: &Message) -> Value {
    let text = answer.text();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut events = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let last = events.next_back().unwrap();
    last["usage"].clone()
}

/// The account as it is once everything is published, each amount a decimal string.
async fn account(process: &Process) -> Value {
    process.cli("sync now").await;
    let shown = process.cli("account get demo").await;
    for name in ["balance", "held", "available", "debt"] {
        amount(&shown[name]);
    }
    assert_eq!(shown["state"], "ACTIVE");
    let as_of = shown["as_of"].as_str().unwrap();
    as_of.parse::<tollgate::clock::Timestamp>().unwrap();
    shown
}

#[tokio::test]
async fn it_charges_to_the_nano_unit_and_keeps_what_it_is_told_to_keep() {
    let dir = tempfile::tempdir().unwrap();
    let kept = ["--data-dir", dir.path().to_str().unwrap()];
    let process = Process::demo(&kept).await;
    let ready = async || process.ready().await.0.then_some(());
    until("it is ready", ready).await;
    let before = account(&process).await;
    assert_eq!(amount(&before["balance"]), units("5"));

    let plain = say_hello(&process, false).await;
    let streamed = say_hello(&process, true).await;
    let spent = cost(&plain.json()["usage"]);
    let spent = spent.checked_add(cost(&streamed_usage(&streamed))).unwrap();
    let after = account(&process).await;
    let left = units("5").checked_sub(spent).unwrap();
    for (name, value) in [
        ("balance", left),
        ("available", left),
        ("held", Amount::ZERO),
        ("debt", Amount::ZERO),
    ] {
        assert_eq!(amount(&after[name]), value, "{name}");
    }
    assert_eq!(process.used("demo").await, (2, spent));
    let ledger = process.cli("ledger list demo").await.to_string();
    assert!(
        ledger.contains("\"usage\""),
        "what was settled has its entry: {ledger}"
    );
    process.verify("demo").await;
    process.terminate().await;

    let process = Process::demo(&kept).await;
    let again = account(&process).await;
    assert_eq!(again["balance"], after["balance"]);
    say_hello(&process, false).await;
    process.terminate().await;
}

#[tokio::test]
async fn the_commands_that_it_prints_work_as_they_stand() {
    let process = Process::demo(&[]).await;
    let lines = process.stdout();
    let start = lines.iter().position(|line| line == "Try:").unwrap();
    let commands = lines[start + 1..]
        .iter()
        .filter(|line| line.starts_with("  "));
    let commands: Vec<_> = commands.map(|line| line.trim()).collect();
    assert_eq!(commands.len(), 3, "{lines:#?}");
    // The first is for curl, which need not be here: its address, key and body are sent as they stand.
    let (curl, commands) = commands.split_first().unwrap();
    let url = format!("curl http://{}{CHAT} ", process.proxy);
    assert!(curl.starts_with(&url), "{curl}");
    assert!(
        curl.contains(&format!("-H 'authorization: Bearer {KEY}'")),
        "{curl}"
    );
    let (_, body) = curl.split_once("-d '").unwrap();
    let answer = call(
        process.proxy,
        post(CHAT, KEY, &[], body.trim_end_matches('\'')),
    )
    .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let said = answer.text();
    assert!(
        said.contains("You said: Hello, who pays for this?"),
        "{said}"
    );
    for (command, expected) in commands.iter().zip(["balance", "demo-model"]) {
        // As a person pastes them.
        let done = Command::new("sh").args(["-c", command]).output().await;
        let done = done.unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{command}: {done:?}");
        assert!(said.contains(expected), "{command}: {said}");
    }
    let models = call(process.proxy, get("/v1/models")).await;
    assert_eq!(models.status(), 401, "without a key: {models:?}");
    process.terminate().await;
}
