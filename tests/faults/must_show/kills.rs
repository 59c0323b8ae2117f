//! A replica is killed on the spot under load, again and again, over the same data directory; and over none.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tollgate::money::Amount;

use crate::faults::api::nanos;
use crate::faults::fleet::{Fleet, HEAL_MAX, Plan, price};
use crate::faults::load::{End, Seen};
use crate::support::within;

const KILLS: u64 = 100;

/// A sequence that is the same in each run: where each kill hits must not repeat, and must not be chance either.
struct Spread(u64);

impl Spread {
    fn below(&mut self, most: u64) -> u64 {
        // Knuth's; the low digits are the poor ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Clients that call as fast as they are answered, until their connections are cut.
fn clients(fleet: &Fleet, seen: &Seen) -> Vec<JoinHandle<()>> {
    let client = |number: usize| {
        let model = ["odd", "tokens"][number % 2];
        let mut caller = fleet.caller(0, "rich", model);
        let seen = seen.clone();
        tokio::spawn(async move {
            loop {
                let call = caller.call().await;
                let cut = call.end == End::Cut;
                seen.add(call);
                if cut {
                    return;
                }
            }
        })
    };
    (0..8).map(client).collect()
}

/// The spend as the replica that is back tells it, once it is at least so much.
async fn comes_to(fleet: &Fleet, least: Amount, seen: &Seen) -> Amount {
    let mut last = None;
    let told = tokio::time::timeout(HEAL_MAX, async {
        loop {
            if let Ok(account) = fleet.account(0, "rich").await {
                let spend = nanos(&account.spend);
                if spend >= least {
                    return spend;
                }
                last = Some(spend);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    told.unwrap_or_else(|_| {
        let all = seen.summary();
        panic!("answered calls are lost: {last:?} of {least} are told\n{all}")
    })
}

/// The file is gone, and all that is beside it.
fn forget(data_dir: &Path) {
    match std::fs::remove_dir_all(data_dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
}

fn cost(seen: &Seen, which: impl Fn(&End) -> bool) -> Amount {
    let calls = seen.calls();
    let nanos = calls
        .iter()
        .filter(|call| which(&call.end))
        .map(|call| price(call.model).nanos());
    Amount::from_nanos(nanos.sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_100_times_nothing_answered_is_lost() {
    let mut fleet = Fleet::start(Plan {
        replicas: 1,
        ..Plan::default()
    })
    .await;
    fleet.open(0, "rich", "default", 1_000_000).await;
    let mut spread = Spread(1);
    let (mut stood, mut calls) = (Amount::ZERO, 0);
    for kill in 0..KILLS {
        let seen = Seen::default();
        let clients = clients(&fleet, &seen);
        // From none at all, in the middle of its start, to some intervals' worth.
        let enough = if kill % 5 == 4 { 0 } else { spread.below(250) };
        let answered = || seen.count(|call| call.is_charged()) as u64;
        let called = async || (answered() >= enough).then_some(());
        within(HEAL_MAX, "calls are answered", called).await;
        fleet.kill(0).await;
        for client in clients {
            client.await.unwrap();
        }
        fleet.run(0).await;

        let known = cost(&seen, |end| matches!(end, End::Charged(_)));
        let unknown = cost(&seen, |end| *end == End::Cut);
        let least = stood.checked_add(known).unwrap();
        let told = comes_to(&fleet, least, &seen).await;
        let most = least.checked_add(unknown).unwrap();
        assert!(
            told <= most,
            "kill {kill}: {told} are told, where {least} were answered and {unknown} under way"
        );
        calls += answered();
        stood = told;
    }
    eprintln!("{KILLS} kills, {calls} calls answered, {stood} spent");
    let (counted, spent) = fleet.usage(0, "rich").await.unwrap();
    assert_eq!(spent, stood);
    assert!(counted >= calls, "{counted} counted of {calls}");
    assert!(fleet.proof(0, "rich").await.unwrap().ok);
    fleet.terminate(0).await;
    // Also for one that has never heard of it.
    let witness = fleet.add().await;
    let account = fleet.account(witness, "rich").await.unwrap();
    assert_eq!(nanos(&account.spend), stood);
    fleet.terminate(witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_without_its_file_it_loses_one_interval_at_most() {
    const INTERVAL: Duration = Duration::from_millis(250);
    // What a publication takes, from its beginning to the store's word, on a busy machine.
    const SYNC_MAX: Duration = Duration::from_millis(300);
    let plan = Plan {
        replicas: 1,
        interval: "250ms",
        sync_age_max: "3s",
        ..Plan::default()
    };
    let mut fleet = Fleet::start(plan).await;
    fleet.open(0, "rich", "default", 1_000_000).await;
    let mut stood = Amount::ZERO;
    for kill in 0..5 {
        let seen = Seen::default();
        let clients = clients(&fleet, &seen);
        // Not at the same place of an interval each time.
        tokio::time::sleep(INTERVAL * 5 + INTERVAL * kill / 5).await;
        let killed = fleet.clock.now().mono;
        fleet.kill(0).await;
        for client in clients {
            client.await.unwrap();
        }
        forget(&fleet.replicas[0].data_dir);
        fleet.run(0).await;

        let known = cost(&seen, |end| matches!(end, End::Charged(_)));
        let unknown = cost(&seen, |end| *end == End::Cut);
        let safe = seen
            .calls()
            .into_iter()
            .filter(|call| call.is_charged() && killed.since(call.answered) > INTERVAL + SYNC_MAX);
        let safe = safe.map(|call| price(call.model).nanos());
        let safe = Amount::from_nanos(safe.sum());
        assert!(safe.is_positive(), "too few to tell\n{}", seen.summary());
        let least = stood.checked_add(safe).unwrap();
        let told = comes_to(&fleet, least, &seen).await;
        let most = stood
            .checked_add(known)
            .unwrap()
            .checked_add(unknown)
            .unwrap();
        assert!(told <= most, "kill {kill}: {told} are told of {most}");
        let lost = most.checked_sub(told).unwrap();
        eprintln!(
            "kill {kill}: {known} answered, of which {safe} long before; at most {lost} lost"
        );
        stood = told;
    }
    let (_, spent) = fleet.usage(0, "rich").await.unwrap();
    assert_eq!(spent, stood);
    assert!(fleet.proof(0, "rich").await.unwrap().ok);
    fleet.terminate(0).await;
}
