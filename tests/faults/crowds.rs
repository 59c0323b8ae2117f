//! More than any cache holds, with Redis away in the middle: accounts by the thousand, and keys that nobody has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tollgate::money::Amount;
use tollgate::proto::v1::Account;

use super::api::nanos;
use super::books::check_calls;
use super::fleet::{Fleet, HEAL_MAX, Plan};
use super::load::{Call, Caller, End, Load, Seen};
use crate::support::within;

const ACCOUNTS: usize = 2_000;

fn name(number: usize) -> String {
    format!("a-{number:04}")
}

/// Opens all accounts, some at once.
async fn open_all(fleet: &Fleet) {
    use futures_util::StreamExt as _;
    let opening = futures_util::stream::iter(0..ACCOUNTS).map(async |number| {
        fleet.open(number % 3, &name(number), "default", 3).await;
    });
    opening.buffer_unordered(24).for_each(async |()| ()).await;
}

/// One call of each account, of which those that are refused are not repeated; some at once at each replica.
async fn sweep(fleet: &Fleet, shift: usize, seen: &Seen) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    let proxies: Vec<_> = fleet
        .replicas
        .iter()
        .map(|replica| replica.process().proxy)
        .collect();
    for _ in 0..48 {
        let (next, seen) = (Arc::clone(&next), seen.clone());
        let (proxies, clock) = (proxies.clone(), fleet.clock.clone());
        clients.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, SeqCst);
                if number >= ACCOUNTS {
                    return;
                }
                let at = (number + shift) % proxies.len();
                let mut caller = Caller::new(proxies[at], at, &name(number), "odd", &clock);
                seen.add(caller.call().await);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_accounts_than_are_kept_in_memory() {
    let plan = Plan {
        unload_after: "1s",
        ..Plan::default()
    };
    let mut fleet = Fleet::start(plan).await;
    open_all(&fleet).await;
    let seen = Seen::default();
    // Each account at one replica, then at another, then at a third; what is let go in between was published before.
    sweep(&fleet, 0, &seen).await;
    assert_eq!(seen.count(|call| call.is_charged()), ACCOUNTS);
    let kept = async || {
        let mut most = 0;
        for replica in &fleet.replicas {
            most = most.max(replica.metric("tollgate_accounts").await);
        }
        (most < ACCOUNTS as u64 / 3).then_some(())
    };
    within(HEAL_MAX, "accounts are let go", kept).await;

    let sweeping = sweep(&fleet, 1, &seen);
    let freezing = async {
        let half = async || (seen.count(|_| true) > ACCOUNTS * 3 / 2).then_some(());
        within(HEAL_MAX, "half are called", half).await;
        fleet.redis.freeze();
        let refused = |call: &Call| matches!(call.end, End::Refused(..));
        let noticed = async || (seen.count(refused) > 0).then_some(());
        within(HEAL_MAX, "somebody notices that Redis is away", noticed).await;
        fleet.redis.thaw();
    };
    tokio::join!(sweeping, freezing);
    let before = seen.count(|call| call.is_charged());
    sweep(&fleet, 2, &seen).await;
    let passed = seen.count(|call| call.is_charged()) - before;
    assert_eq!(passed, ACCOUNTS, "all pass again");
    check_calls(&seen, Amount::ZERO);
    all_agree(&fleet, &seen).await;
    for number in fleet.numbers() {
        fleet.is_well(number).await;
        fleet.terminate(number).await;
    }
    let witness = fleet.add().await;
    for number in [0, ACCOUNTS / 2, ACCOUNTS - 1] {
        fleet.agree_at(&[witness], &name(number), &seen).await;
    }
    fleet.terminate(witness).await;
}

/// Every account is in the listing of every replica and in the feed with what was answered; and of some, all the rest agrees.
async fn all_agree(fleet: &Fleet, seen: &Seen) {
    let mut truth = BTreeMap::new();
    for call in seen.calls() {
        let spent = truth
            .entry(call.account.to_string())
            .or_insert(Amount::ZERO);
        if let End::Charged(amount) = call.end {
            *spent = spent.checked_add(amount).unwrap();
        }
    }
    assert_eq!(truth.len(), ACCOUNTS);
    let began = fleet.clock.now().mono;
    for number in fleet.numbers() {
        loop {
            for each in fleet.numbers() {
                let _ = fleet.sync(each).await;
            }
            let listed = fleet.accounts(number).await.map(|all| {
                let spend = |(name, account): (String, Account)| (name, nanos(&account.spend));
                all.into_iter().map(spend).collect::<BTreeMap<_, _>>()
            });
            let fed = fleet.spend_feed(number).await;
            let wrong: Vec<_> = match (&listed, &fed) {
                (Ok(listed), Ok(fed)) => truth
                    .iter()
                    .filter(|(name, spent)| {
                        listed.get(*name) != Some(*spent) || fed.get(*name) != Some(*spent)
                    })
                    .take(5)
                    .collect(),
                _ => truth.iter().take(1).collect(),
            };
            if wrong.is_empty() {
                break;
            }
            let waited = fleet.clock.now().mono.since(began);
            assert!(
                waited < HEAL_MAX,
                "replica {number} tells otherwise of {wrong:?} and others; {:?} {:?}",
                listed.err(),
                fed.err()
            );
        }
    }
    for number in (0..ACCOUNTS).step_by(ACCOUNTS / 20) {
        fleet.agree(&name(number), seen).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_keys_while_redis_is_away() {
    const FLOOD: usize = 1_500;
    let mut fleet = Fleet::start(Plan::default()).await;
    fleet.open(0, "rich", "default", 1_000_000).await;
    fleet.open(1, "tight", "default", super::TIGHT).await;
    fleet.open(2, "cold", "default", 10).await;
    let all = fleet.numbers();
    let mut load = Load::new(&fleet.clock);
    for number in &all {
        fleet.load(*number, &mut load);
    }
    load.passes("rich", &all, 5, load.now(), HEAL_MAX).await;

    fleet.redis.freeze();
    let from = load.now();
    let next = Arc::new(AtomicUsize::new(0));
    let flood = Seen::default();
    let mut clients = Vec::new();
    for number in 0..192 {
        let at = number % all.len();
        let to = fleet.replicas[at].process().proxy;
        let (next, flood, clock) = (Arc::clone(&next), flood.clone(), fleet.clock.clone());
        clients.push(tokio::spawn(async move {
            loop {
                let guess = next.fetch_add(1, SeqCst);
                if guess >= FLOOD {
                    return;
                }
                let mut caller = Caller::new(to, at, &format!("guess-{guess}"), "flat", &clock);
                flood.add(caller.call().await);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let to = load.now();
    // None is let in; and as nobody can know whether there is such a key, none is told that there is not.
    let unknown = End::Refused(503, "STATE_UNAVAILABLE".into());
    for call in flood.calls() {
        assert_eq!(call.end, unknown, "{call:?}");
    }
    // Whoever was loaded is served meanwhile, on the lease of before.
    let passed = load
        .seen
        .count(|call| call.is_charged() && call.sent > from && call.answered < to);
    assert!(passed > 0, "{}", load.seen.summary());
    fleet.redis.thaw();

    load.passes("rich", &all, 10, load.now(), HEAL_MAX).await;
    let seen = load.stop().await;
    check_calls(&seen, fleet.paid("tight"));
    let mut caller = fleet.caller(0, "guess-0", "flat");
    let unknown = async || {
        let end = caller.call().await.end;
        (end == End::Refused(401, "KEY_UNKNOWN".into())).then_some(())
    };
    within(HEAL_MAX, "a guess is known to be one", unknown).await;
    super::rest(&mut fleet, &seen, Amount::ZERO).await;
}
