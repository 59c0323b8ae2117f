//! What can happen on the way: nothing is lost, and nothing is sent twice that was written down.

use std::time::Duration;

use serde_json::json;
use tollgate::clock::Clock;

use super::receiver::{Mode, id};
use super::{Rig, SECRET, SECRET_BEFORE, TAKE_OVER_MAX, in_order, twice};
use crate::sdk::verified;
use crate::support::within;

const ACCOUNTS: [&str; 3] = ["a", "b", "c"];

/// Two replicas, some accounts, and the first events taken.
async fn rig() -> Rig {
    let rig = Rig::with_replicas(2).await;
    for account in ACCOUNTS {
        rig.open(0, account).await;
        rig.pay(1, account, 2).await;
    }
    rig.each_was_taken_once().await;
    rig
}

async fn pay_all(rig: &Rig, number: usize, count: usize) {
    for account in ACCOUNTS {
        rig.pay(number, account, count).await;
    }
}

#[tokio::test]
async fn each_event_comes_once_and_the_official_package_takes_it() {
    let mut rig = rig().await;
    pay_all(&rig, 0, 10).await;
    rig.each_was_taken_once().await;
    let messages = rig.receiver.messages();
    let message = messages
        .iter()
        .find(|message| id(message).starts_with("a/2/"))
        .unwrap();
    assert!(
        message.start.starts_with("POST /hook?token=t HTTP/1.1"),
        "{message:?}"
    );
    for secret in [SECRET, SECRET_BEFORE] {
        let seen = verified(secret, &message.headers, &message.text()).await;
        assert_eq!(seen["ok"], true, "{secret}: {seen}");
        let data = &seen["payload"]["data"];
        assert_eq!(seen["payload"]["type"], "credit.added");
        let (account, amount, unit) = (&data["account_id"], &data["amount"], &data["unit"]);
        assert_eq!(
            (account, amount, unit),
            (&json!("a"), &json!("1.00"), &json!("USD"))
        );
    }
    let forged = verified(
        SECRET,
        &message.headers,
        &message.text().replace("1.00", "9.00"),
    )
    .await;
    assert_eq!(forged["ok"], false, "{forged}");
    for number in 0..2 {
        rig.terminate(number).await;
    }
}

#[tokio::test]
async fn a_receiver_that_is_away_and_comes_back_misses_nothing() {
    let mut rig = rig().await;
    rig.receiver.down().await;
    pay_all(&rig, 0, 5).await;
    let sender = rig.sender().await;
    within(TAKE_OVER_MAX, "it is tried in vain", async || {
        let series = "tollgate_webhook_deliveries_total{endpoint=\"billing\",result=\"failed\"}";
        let failed = rig.replica(sender).process.metric(series).await;
        (failed.parse::<u64>().unwrap() >= 10).then_some(())
    })
    .await;
    rig.receiver.up().await;
    rig.each_was_taken_once().await;
}

#[tokio::test]
async fn errors_then_success_and_slow_answers_are_one_delivery_each() {
    let rig = rig().await;
    rig.receiver.set(Mode::Say("500 Internal Server Error"));
    let before = rig.receiver.seen();
    pay_all(&rig, 1, 3).await;
    rig.receiver.sees(before, 12).await;
    rig.receiver.set(Mode::Slow(Duration::from_millis(300)));
    pay_all(&rig, 0, 3).await;
    rig.each_was_taken_once().await;
}

#[tokio::test]
async fn one_that_ends_leaves_to_the_other_at_once() {
    let mut rig = rig().await;
    rig.receiver.set(Mode::Slow(Duration::from_millis(50)));
    let sender = rig.sender().await;
    let other = 1 - sender;
    pay_all(&rig, other, 4).await;
    let clock = Clock::system();
    rig.terminate(sender).await;
    let ended = clock.now().mono;
    assert_eq!(rig.sender().await, other);
    // A look, and no term.
    let took = clock.now().mono.since(ended);
    assert!(took < Duration::from_secs(5), "{took:?}");
    pay_all(&rig, other, 4).await;
    rig.each_was_taken_once().await;
}

#[tokio::test]
async fn a_replica_that_is_killed_is_followed_and_only_what_was_under_way_may_come_twice() {
    let mut rig = rig().await;
    let sender = rig.sender().await;
    let other = 1 - sender;
    rig.receiver.set(Mode::Hold);
    pay_all(&rig, other, 4).await;
    within(TAKE_OVER_MAX, "deliveries are under way", async || {
        (rig.receiver.held().len() >= ACCOUNTS.len()).then_some(())
    })
    .await;
    rig.kill(sender).await;
    let under_way = rig.receiver.held();
    rig.receiver.set(Mode::Take);
    assert_eq!(rig.sender().await, other);
    rig.all_taken().await;
    let taken = rig.receiver.taken();
    for id in twice(&taken) {
        assert!(
            under_way.contains(&id),
            "{id} was not under way: {under_way:?}"
        );
    }
    // The next life of the one that was killed takes nothing from the one that sends.
    rig.run(sender).await;
    let before = rig.receiver.taken().len();
    pay_all(&rig, sender, 4).await;
    rig.all_taken().await;
    assert_eq!(rig.sender().await, other);
    let after = rig.receiver.taken().split_off(before);
    assert_eq!(twice(&after), Default::default());
    in_order(&after);
}

#[tokio::test]
async fn a_redis_that_stands_still_makes_nothing_come_twice() {
    let rig = rig().await;
    rig.receiver.set(Mode::Slow(Duration::from_millis(300)));
    pay_all(&rig, 0, 4).await;
    let before = rig.receiver.taken().len();
    within(TAKE_OVER_MAX, "some are taken", async || {
        (rig.receiver.taken().len() > before).then_some(())
    })
    .await;
    rig.redis().freeze();
    // Longer than a term: whoever sends may not go on, and nobody may take over.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let still = rig.receiver.seen();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.receiver.seen(), still, "it went on without its claim");
    rig.redis().thaw();
    rig.all_taken().await;
    pay_all(&rig, 1, 2).await;
    rig.each_was_taken_once().await;
}

#[tokio::test]
async fn what_a_redis_that_was_emptied_had_not_told_yet_is_told() {
    let mut rig = rig().await;
    rig.receiver.down().await;
    for number in 0..2 {
        pay_all(&rig, number, 2).await;
    }
    let due = rig.feed().await;
    let _: String = rig.redis().command(&["FLUSHALL"]);
    rig.receiver.up().await;
    within(
        Duration::from_secs(40),
        "all events are taken",
        async || {
            let taken = rig.receiver.taken();
            due.iter().all(|id| taken.contains(id)).then_some(())
        },
    )
    .await;
}
