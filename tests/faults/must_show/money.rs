//! Money for exactly so many calls, and three times as many offered at once, unevenly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tollgate::clock::Monotonic;
use tollgate::money::Amount;

use crate::faults::api::nanos;
use crate::faults::fleet::{Fleet, Plan};
use crate::faults::load::{End, Seen};

/// Calls of price 1.
const MONEY: i64 = 10_000;

/// What each replica is offered.
const OFFERED: [usize; 3] = [18_000, 9_000, 3_000];

/// Calls under way at once at each replica.
const AT_ONCE: usize = 64;

const REFILL_WAIT: Duration = Duration::from_secs(2);

/// What it takes to answer them all on a busy machine. It is some 3 s on two free cores, most calls being refused at once: one in
/// some hundred may wait for a lease, and a last few in vain.
const OFFER_MAX: Duration = Duration::from_secs(25);

/// Where the money is, for the reader of a failure.
async fn leases(fleet: &Fleet) -> String {
    let mut text = String::new();
    for (number, replica) in fleet.replicas.iter().enumerate() {
        let leased = replica.process().metric("tollgate_leased_units").await;
        text += &format!("replica {number}: {leased} leased and not spent\n");
    }
    text
}

/// Offers them all.
async fn offer(fleet: &Fleet) -> Seen {
    let seen = Seen::default();
    let began = fleet.clock.now().mono;
    let mut clients = Vec::new();
    for (number, offered) in OFFERED.iter().enumerate() {
        let left = Arc::new(AtomicUsize::new(*offered));
        for _ in 0..AT_ONCE {
            let (left, seen) = (Arc::clone(&left), seen.clone());
            let mut caller = fleet.caller(number, "exact", "flat");
            clients.push(tokio::spawn(async move {
                let one_less = |left: usize| left.checked_sub(1);
                while left.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
                    seen.add(caller.call().await);
                }
            }));
        }
    }
    // The balance as it is told while they call.
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    while seen.count(|_| true) < OFFERED.iter().sum() {
        looks.tick().await;
        let took = fleet.clock.now().mono.since(began);
        if took > OFFER_MAX {
            let (leases, calls) = (leases(fleet).await, seen.summary());
            panic!("not all are answered after {took:?}\n{leases}{calls}");
        }
        for number in fleet.numbers() {
            let account = fleet.account(number, "exact").await.unwrap();
            let balance = nanos(&account.balance);
            assert!(!balance.is_negative(), "replica {number} tells {balance}");
        }
        if clients.iter().all(tokio::task::JoinHandle::is_finished) {
            break;
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    seen
}

/// No call was refused while there was money left, but one that had waited as long as a call may: some later call was sent after
/// its answer, and served. Returns how many were.
fn refused_early(seen: &Seen) -> usize {
    let calls = seen.calls();
    let served = calls.iter().filter(|call| call.is_charged());
    let last: Monotonic = served.map(|call| call.sent).max().unwrap();
    let early = calls
        .iter()
        .filter(|call| !call.is_charged() && call.answered < last);
    let mut count = 0;
    for call in early {
        assert!(
            call.took() >= REFILL_WAIT,
            "refused while there was money left: {call:?}, where one sent {:?} later was served",
            last.since(call.answered)
        );
        count += 1;
    }
    count
}

async fn exactly_what_is_paid_for(interval: &'static str) {
    let plan = Plan {
        interval,
        refill_wait: "2s",
        response_timeout: "2s",
        sync_age_max: "60s",
        ..Plan::default()
    };
    let mut fleet = Fleet::start(plan).await;
    fleet.open(0, "exact", "default", MONEY).await;
    let began = fleet.clock.now().mono;
    let seen = offer(&fleet).await;
    let took = fleet.clock.now().mono.since(began);
    let (served, spent) = seen.charged("exact");
    eprintln!("at {interval}: {served} served, in {took:?}");
    assert_eq!(served, MONEY as u64, "{}", seen.summary());
    assert_eq!(spent, Amount::from_units(MONEY).unwrap());
    let no_money = End::Refused(429, "INSUFFICIENT_BALANCE".into());
    let otherwise = seen.count(|call| !call.is_charged() && call.end != no_money);
    assert_eq!(otherwise, 0, "{}", seen.summary());
    assert_eq!(seen.count(|_| true), OFFERED.iter().sum::<usize>());

    let early = refused_early(&seen);
    let mut waits = 0;
    for replica in &fleet.replicas {
        waits += replica.metric("tollgate_refill_waits_total").await;
    }
    eprintln!("at {interval}: {early} refused early, {waits} waits for a lease");
    assert!(
        early as u64 <= waits,
        "{early} refused early, {waits} counted"
    );
    fleet.agree("exact", &seen).await;
    for number in fleet.numbers() {
        fleet.terminate(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_what_is_paid_for_at_10_ms() {
    exactly_what_is_paid_for("10ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_what_is_paid_for_at_100_ms() {
    exactly_what_is_paid_for("100ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_what_is_paid_for_at_5_s() {
    exactly_what_is_paid_for("5s").await;
}
