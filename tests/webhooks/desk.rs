//! What people see and ask for, by the command line: over the embedded store, where one process sends.

use super::receiver::Mode;
use super::{Rig, numbered};
use crate::support::within;
use crate::system::process::Process;

async fn rig(give_up: &'static str) -> Rig {
    let rig = Rig::new(None, 1, give_up).await;
    rig.open(0, "a").await;
    rig.each_was_taken_once().await;
    rig
}

async fn endpoint(process: &Process) -> serde_json::Value {
    let all = process.cli("webhooks list").await;
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    all[0].clone()
}

async fn is(process: &Process, state: &str) -> serde_json::Value {
    within(super::TAKE_OVER_MAX, state, async || {
        let endpoint = endpoint(process).await;
        (endpoint["state"] == state).then_some(endpoint)
    })
    .await
}

#[tokio::test]
async fn what_is_given_up_is_listed_and_sent_again_under_its_id() {
    let mut rig = rig("1s").await;
    let process = &rig.replica(0).process;
    let well = is(process, "healthy").await;
    assert_eq!(well["dead"], 0, "{well}");
    rig.receiver.set(Mode::Say("503 Service Unavailable"));
    rig.pay(0, "a", 2).await;
    is(process, "failing").await;
    let dead = within(super::TAKE_OVER_MAX, "both are given up", async || {
        let dead = process.cli("webhooks dead billing").await;
        (dead.as_array().unwrap().len() == 2).then_some(dead)
    })
    .await;
    let ids = [0, 1].map(|place| dead[place]["id"].as_str().unwrap().to_owned());
    assert_eq!(ids.each_ref().map(|id| numbered(id)), ["a/2", "a/3"]);
    assert!(dead[0]["error"].as_str().unwrap().contains("503"), "{dead}");
    assert!(dead[0]["attempts"].as_u64().unwrap() > 1, "{dead}");
    assert_eq!(dead[0]["amount"], "1.00", "{dead}");
    rig.receiver.set(Mode::Take);
    taken(&rig, &["a/1"]).await;

    let unknown = process.run("webhooks redeliver billing a/9", "").await;
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    let nowhere = process.run("webhooks dead elsewhere", "").await;
    assert_eq!(nowhere.status.code(), Some(3), "{nowhere:?}");
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("billing"));
    let line = format!("webhooks redeliver billing {}", ids[1]);
    let asked = process.cli(&line).await;
    assert_eq!(asked["sent_again"], 1);
    taken(&rig, &["a/1", "a/3"]).await;
    process.cli("webhooks redeliver billing --all").await;
    taken(&rig, &["a/1", "a/3", "a/2"]).await;
    within(super::TAKE_OVER_MAX, "no letter is left", async || {
        (endpoint(process).await["dead"] == 0).then_some(())
    })
    .await;
    // Over a restart, too, nothing comes again.
    rig.terminate(0).await;
    rig.run(0).await;
    rig.pay(0, "a", 1).await;
    taken(&rig, &["a/1", "a/3", "a/2", "a/4"]).await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_left_alone_until_it_is_enabled() {
    let mut rig = rig("1h").await;
    rig.receiver.set(Mode::Say("410 Gone"));
    rig.pay(0, "a", 1).await;
    let gone = is(&rig.replica(0).process, "disabled").await;
    assert!(gone["disabled_since"].is_string(), "{gone}");
    rig.receiver.set(Mode::Take);
    rig.terminate(0).await;
    rig.run(0).await;
    rig.pay(0, "a", 1).await;
    let process = &rig.replica(0).process;
    is(process, "disabled").await;
    taken(&rig, &["a/1"]).await;
    process.cli("webhooks enable billing").await;
    taken(&rig, &["a/1", "a/2", "a/3"]).await;
    is(process, "healthy").await;
}

async fn taken(rig: &Rig, ids: &[&str]) {
    within(
        super::TAKE_OVER_MAX,
        "the receiver takes them",
        async || {
            let taken = rig.receiver.taken();
            let taken = taken.iter().map(|id| numbered(id));
            taken.eq(ids.iter().copied()).then_some(())
        },
    )
    .await;
}
