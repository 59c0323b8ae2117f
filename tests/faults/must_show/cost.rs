//! What Redis is asked does not depend on how many calls there are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::faults::fleet::{Fleet, Plan};
use crate::faults::load::Paced;

const INTERVAL: Duration = Duration::from_millis(500);

/// Calls a second at each replica: two in each interval, so that there is something to say in each.
const BASE: u64 = 4;

/// As many intervals as are counted at each rate.
const INTERVALS: u32 = 8;

/// Until a replica has leased what the new rate needs.
const WARM: u32 = 4;

fn commands(fleet: &Fleet) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for replica in &fleet.replicas {
        for (name, count) in replica.tap.commands() {
            *all.entry(name).or_default() += count;
        }
    }
    all
}

/// Commands in [`INTERVALS`] at so many times the base rate, over all replicas, and the calls meanwhile.
async fn at(fleet: &Fleet, times: u64) -> (u64, u64) {
    let caller = |number| fleet.caller(number, "rich", "odd");
    let paced = Paced::start(&fleet.clock, 3, caller, move |_| vec![BASE * times; 3]);
    tokio::time::sleep(INTERVAL * WARM).await;
    let (before, called) = (commands(fleet), paced.seen.count(|_| true));
    tokio::time::sleep(INTERVAL * INTERVALS).await;
    let (after, calls) = (commands(fleet), paced.seen.count(|_| true) - called);
    let seen = paced.stop().await;
    assert_eq!(
        seen.count(|call| !call.is_charged()),
        0,
        "{}",
        seen.summary()
    );
    let mut by_name = after;
    for (name, count) in &before {
        *by_name.get_mut(name).unwrap() -= count;
    }
    let sum = by_name.values().sum();
    eprintln!(
        "at {times} × {BASE}/s: {calls} calls, {sum} commands in {INTERVALS} intervals: {by_name:?}"
    );
    (sum, calls as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_asked_no_more_the_more_calls_there_are() {
    let plan = Plan {
        interval: "500ms",
        response_timeout: "2s",
        sync_age_max: "6s",
        ..Plan::default()
    };
    let mut fleet = Fleet::start(plan).await;
    fleet.open(0, "rich", "default", 1_000_000).await;
    let (base, few) = at(&fleet, 1).await;
    let (tenfold, _) = at(&fleet, 10).await;
    let (hundredfold, many) = at(&fleet, 100).await;
    // The machine kept up, so that the comparison means something.
    assert!(many > 50 * few, "{many} calls where {few} were made before");
    // Each replica publishes once an interval; a third more for what is leased in between and for where the intervals fall.
    assert!(base >= u64::from(INTERVALS), "{base} at the base rate");
    for (times, count) in [(10, tenfold), (100, hundredfold)] {
        assert!(
            10 * count <= 13 * base,
            "{count} commands at {times} times the calls, {base} before"
        );
    }
    for number in fleet.numbers() {
        fleet.terminate(number).await;
    }
}
