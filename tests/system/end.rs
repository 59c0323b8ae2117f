//! The end of a process, asked for and not, under load; and its return: what was answered is in the store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tollgate::clock::{Clock, Monotonic};
use tollgate::money::Amount;

use super::process::{Process, Standing};
use super::wire::{CHAT, HELLO_COST, ask, chat, hello, post, secret};
use super::{Kind, System, on_both_stores};
use crate::support::http::{Wire, call};
use crate::support::node::amount as units;
use crate::support::until;

on_both_stores! {
    sigterm_under_load_loses_no_answered_call
    calls_that_outlast_the_drain_are_cut_and_settled
}

/// What some clients saw of their calls.
#[derive(Clone, Default)]
struct Seen {
    answered: Arc<AtomicU64>,
    cut: Arc<AtomicU64>,
}

impl Seen {
    fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }
}

/// Calls on one connection until it is gone, plain or streamed, each of some 50 ms: at any moment, most are in the middle of one.
async fn client(proxy: SocketAddr, stream: bool, seen: Seen) {
    let slow = ["x-standin-delay-ms: 30", "x-standin-token-delay-ms: 5"];
    let request = hello("a", stream, &slow);
    let mut wire = Wire::connect(proxy).await;
    loop {
        wire.send(&request).await;
        let Some(mut answer) = wire.head().await else {
            return;
        };
        assert_eq!(answer.status(), 200, "{answer:?}");
        wire.body(&mut answer).await;
        if !answer.whole {
            seen.cut.fetch_add(1, SeqCst);
            return;
        }
        seen.answered.fetch_add(1, SeqCst);
        if answer.header("connection") == Some("close") {
            return;
        }
    }
}

fn times(amount: &str, count: u64) -> Amount {
    Amount::from_nanos(units(amount).nanos() * i64::try_from(count).unwrap())
}

/// Nothing is held, and the balance is what was paid in less what was spent.
fn assert_adds_up(standing: &Standing, paid: &str, spent: Amount) {
    assert_eq!(standing.balance, units(paid).checked_sub(spent).unwrap());
    assert_eq!(standing.spend, spent);
    assert_eq!(standing.held, units("0"));
    assert_eq!(standing.available, standing.balance);
}

async fn sigterm_under_load_loses_no_answered_call(kind: Kind) {
    let system = System::new(kind, &[]).await;
    let process = system.serve().await;
    process.account("a", "5", "default").await;
    let seen = Seen::default();
    let clients = (0..16).map(|n| tokio::spawn(client(process.proxy, n % 2 == 0, seen.clone())));
    let clients: Vec<_> = clients.collect();
    until("the load is there", async || {
        (seen.answered() >= 200).then_some(())
    })
    .await;
    process.terminate().await;
    for client in clients {
        client.await.unwrap();
    }

    // Every call in flight was let finish, so what the clients saw is all there is: no call more, none less.
    assert_eq!(seen.cut.load(SeqCst), 0);
    let spent = times(HELLO_COST, seen.answered());
    let process = system.serve().await;
    assert_eq!(process.used("a").await, (seen.answered(), spent));
    let standing = process.show("a").await;
    assert_adds_up(&standing, "5", spent);
    process.verify("a").await;

    // The next process has the same, and the one after it too, also with a call in between.
    process.terminate().await;
    let process = system.serve().await;
    assert_eq!(process.show("a").await, standing);
    let answer = call(process.proxy, ask("a", "flat")).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    process.terminate().await;
    let process = system.serve().await;
    let spent = spent.checked_add(units("1")).unwrap();
    assert_adds_up(&process.show("a").await, "5", spent);
    process.verify("a").await;
    process.terminate().await;
}

async fn calls_that_outlast_the_drain_are_cut_and_settled(kind: Kind) {
    let system = System::new(kind, &[("TOLLGATE_SHUTDOWN__DRAIN_MAX", "300ms")]).await;
    let process = system.serve().await;
    process.account("a", "5", "default").await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::connect(process.proxy).await;
        let slow = [
            "x-standin-output-tokens: 50",
            "x-standin-token-delay-ms: 1000",
        ];
        wire.send(hello("a", true, &slow)).await;
        let head = wire.head().await.expect("an answer");
        assert_eq!(head.status(), 200, "{head:?}");
        wire.chunk().await.expect("a first event");
        streams.push(wire);
    }
    let mut plain = Wire::connect(process.proxy).await;
    plain
        .send(hello("a", false, &["x-standin-delay-ms: 50000"]))
        .await;
    let open = async || (process.metric("tollgate_holds_open").await == "4").then_some(());
    until("all four are under way", open).await;
    let held = process.show("a").await.held;
    assert!(held.is_positive());

    process.terminate().await;
    for mut wire in streams {
        while wire.chunk().await.is_some() {}
        assert!(wire.head().await.is_none(), "the stream goes on");
    }
    assert!(plain.head().await.is_none(), "the call was answered");

    // The upstream works on, and will bill it: as the route says of calls without usage, each costs what it held.
    let process = system.serve().await;
    assert_eq!(process.used("a").await, (4, held));
    assert_adds_up(&process.show("a").await, "5", held);
    process.verify("a").await;
    process.terminate().await;
}

/// The first word after a freeze at the very end: the last charges wait for the store.
#[tokio::test]
async fn the_last_charges_wait_for_a_store_that_comes_back() {
    // One failed answer is told after 200 ms.
    let env = [("TOLLGATE_STORE__RESPONSE_TIMEOUT", "200ms")];
    let mut system = System::new(Kind::Redis, &env).await;
    let process = system.serve().await;
    process.account("a", "5", "default").await;
    assert_eq!(call(process.proxy, ask("a", "flat")).await.status(), 200);
    process.cli("sync now").await;
    let failures = async |process: &Process| {
        let text = process.metric("tollgate_sync_errors_total").await;
        text.parse::<u64>().unwrap()
    };
    system.redis().freeze();
    assert_eq!(call(process.proxy, ask("a", "flat")).await.status(), 200);
    process.signal("-TERM").await;
    let before = failures(&process).await;
    let failed = async || (failures(&process).await > before + 1).then_some(());
    until("the store does not take them", failed).await;
    system.redis().thaw();
    process.ended().await;

    let process = system.serve().await;
    assert_adds_up(&process.show("a").await, "5", units("2"));
    process.verify("a").await;
    process.terminate().await;
}

/// Calls one after the other until it is over, and when each was answered.
async fn call_until_gone(proxy: SocketAddr, clock: Clock) -> (u64, Vec<Monotonic>) {
    let request = post(
        CHAT,
        &secret("a"),
        &["x-standin-delay-ms: 2"],
        &chat("flat").to_string(),
    );
    let mut wire = Wire::connect(proxy).await;
    let (mut sent, mut answered) = (0, Vec::new());
    loop {
        sent += 1;
        wire.send(&request).await;
        match wire.message().await {
            Some(answer) if answer.whole => {
                assert_eq!(answer.status(), 200, "{answer:?}");
                answered.push(clock.now().mono);
            }
            _ => return (sent, answered),
        }
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_answered_and_strands_nothing() {
    const INTERVAL: Duration = Duration::from_millis(250);
    let env = [("TOLLGATE_SYNC__INTERVAL", "250ms")];
    let system = System::new(Kind::Embedded, &env).await;
    let process = system.serve().await;
    process.account("a", "100000", "default").await;
    let clock = Clock::system();
    let began = clock.now().mono;
    let calls = tokio::spawn(call_until_gone(process.proxy, clock.clone()));
    let run = async || (clock.now().mono.since(began) >= INTERVAL * 6).then_some(());
    until("there is something to lose", run).await;
    process.kill().await;
    let (sent, answered) = calls.await.unwrap();

    let process = system.serve().await;
    let safe = answered.len() as u64;
    assert!(safe > 20, "too few to tell: {safe} of {sent}");
    let told = until("what was answered is counted", async || {
        let (counted, spent) = process.used("a").await;
        (counted >= safe).then_some((counted, spent))
    });
    let (counted, spent) = told.await;
    assert!(counted <= sent, "{counted} of {sent} sent");
    assert_eq!(spent, times("1", counted));
    let standing = process.show("a").await;
    assert_adds_up(&standing, "100000", spent);
    process.verify("a").await;

    // Nothing of it is still leased to the process that is gone: all can be held at once, and not a nano-unit more.
    let take = |amount: Amount| format!("hold take --account a --key a --amount {amount}");
    let one_more = standing.balance.checked_add(Amount::from_nanos(1)).unwrap();
    let refused = process.run(&take(one_more), "").await;
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    process.cli(&take(standing.balance)).await;
    assert_eq!(process.show("a").await.held, standing.balance);
    assert_eq!(call(process.proxy, ask("a", "flat")).await.status(), 429);
    process.terminate().await;
}
