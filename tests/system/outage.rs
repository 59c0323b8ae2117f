//! The store goes away and comes back: calls go on within the lease, whoever asks is told, and in the end the books agree.

use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::money::Amount;

use super::process::Process;
use super::wire::{HELLO_COST, ask, hello};
use super::{Kind, System};
use crate::support::http::call;
use crate::support::node::amount as units;
use crate::support::redis::Server;
use crate::support::{until, within};

/// How the store goes away.
#[derive(Clone, Copy)]
enum Outage {
    /// Connections stay and nothing is answered.
    Frozen,
    /// Connections break and none is taken.
    Stopped,
}

impl Outage {
    fn begin(self, redis: &mut Server) {
        match self {
            Self::Frozen => redis.freeze(),
            Self::Stopped => redis.shut_down(),
        }
    }

    async fn end(self, redis: &mut Server) {
        match self {
            Self::Frozen => redis.thaw(),
            Self::Stopped => redis.run().await,
        }
    }
}

const LOAD_WAIT: Duration = Duration::from_millis(500);
/// What everything but the wait takes, on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// For so long nothing new is granted after a restart, which is another history: what it lost is said again meanwhile. Longer than
/// an outage here, during which calls go on by their lease.
const LEASE: Duration = Duration::from_secs(10);

/// A store that is away is told of soon.
const ENV: [(&str, &str); 6] = [
    ("TOLLGATE_SYNC__LEASE", "10s"),
    ("TOLLGATE_ENGINE__LOAD_WAIT", "500ms"),
    ("TOLLGATE_SYNC__INTERVAL", "50ms"),
    ("TOLLGATE_STORE__RESPONSE_TIMEOUT", "200ms"),
    ("TOLLGATE_STORE__CONNECT_TIMEOUT", "200ms"),
    ("TOLLGATE_ADMIN__SYNC_AGE_MAX", "700ms"),
];

/// A call of the account that is loaded passes.
async fn passes(process: &Process, calls: &mut i64) {
    let answer = call(process.proxy, hello("a", *calls % 2 == 0, &[])).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(answer.whole, "{answer:?}");
    *calls += 1;
}

/// A call of an account that is not loaded is refused, in time.
async fn cannot_load(process: &Process) {
    let clock = Clock::system();
    let sent = clock.now().mono;
    let answer = call(process.proxy, hello("b", false, &[])).await;
    let took = clock.now().mono.since(sent);
    assert_eq!(answer.status(), 503, "{answer:?}");
    let reason = answer.header("x-tollgate-reason");
    assert_eq!(reason, Some("STATE_UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.json()["error"]["code"], "state_unavailable");
    assert!(took < LOAD_WAIT + SLACK, "{took:?}");
}

async fn the_store_goes_and_comes_back(outage: Outage) {
    let mut system = System::new(Kind::Redis, &ENV).await;
    let process = system.serve().await;
    process.account("a", "5", "default").await;
    process.account("b", "5", "default").await;
    let mut calls = 0;
    passes(&process, &mut calls).await;
    let ready = async || process.ready().await.0.then_some(());
    until("it is ready", ready).await;
    assert_eq!(process.metric("tollgate_sync_failing").await, "0");

    outage.begin(system.redis());
    let noticed = async || {
        passes(&process, &mut calls).await;
        (!process.ready().await.0).then_some(())
    };
    until("it is told that it is not ready", noticed).await;
    let (_, said) = process.ready().await;
    assert!(said.contains(r#""name":"sync","ok":false"#), "{said}");
    assert_eq!(process.metric("tollgate_sync_failing").await, "1");
    let errors = process.metric("tollgate_sync_errors_total").await;
    assert_ne!(errors, "0");
    assert!(process.lives().await);
    cannot_load(&process).await;
    // The control API says so too, and does not hang.
    let asked = process.run("account get a", "").await;
    assert_eq!(asked.status.code(), Some(5), "{asked:?}");
    for _ in 0..20 {
        passes(&process, &mut calls).await;
    }

    outage.end(system.redis()).await;
    until("it is ready again", ready).await;
    assert_eq!(process.metric("tollgate_sync_failing").await, "0");
    process.cli("sync now").await;
    let spent = Amount::from_nanos(units(HELLO_COST).nanos() * calls);
    let counted = u64::try_from(calls).unwrap();
    assert_eq!(process.used("a").await, (counted, spent));
    let standing = process.show("a").await;
    assert_eq!(standing.spend, spent);
    assert_eq!(standing.balance, units("5").checked_sub(spent).unwrap());
    assert_eq!(standing.held, units("0"));
    process.verify("a").await;
    let loads = async || {
        let answer = call(process.proxy, hello("b", false, &[])).await;
        (answer.status() == 200).then_some(())
    };
    within(LEASE * 3, "the other account loads", loads).await;
    process.terminate().await;
}

#[tokio::test]
async fn a_frozen_store_and_its_return() {
    the_store_goes_and_comes_back(Outage::Frozen).await;
}

#[tokio::test]
async fn a_stopped_store_and_its_restart() {
    the_store_goes_and_comes_back(Outage::Stopped).await;
}

/// Calls of `a` pass until one does not; how many passed.
async fn until_refused(process: &Process, at_most: Duration) -> i64 {
    let clock = Clock::system();
    let began = clock.now().mono;
    let mut passed = 0;
    loop {
        let answer = call(process.proxy, ask("a", "flat")).await;
        let took = clock.now().mono.since(began);
        assert!(took < at_most, "after {took:?}, {passed} have passed");
        if answer.status() == 200 {
            passed += 1;
            continue;
        }
        assert_eq!(answer.status(), 503, "{answer:?}");
        let reason = answer.header("x-tollgate-reason");
        assert_eq!(reason, Some("STATE_UNAVAILABLE"));
        return passed;
    }
}

/// What is leased to a process and neither spent nor held, as of its last look.
async fn leased(process: &Process) -> Amount {
    units(&process.metric("tollgate_leased_units").await)
}

/// After an outage in which calls of `a` passed: they pass again, and all are in the books.
async fn returns(system: &mut System, process: Process, money: &str, passed: i64) {
    system.redis().thaw();
    let passes = async || {
        let answer = call(process.proxy, ask("a", "flat")).await;
        (answer.status() == 200).then_some(())
    };
    until("calls pass again", passes).await;
    process.cli("sync now").await;
    let spent = Amount::from_units(passed + 1).unwrap();
    let calls = u64::try_from(passed + 1).unwrap();
    assert_eq!(process.used("a").await, (calls, spent));
    let balance = units(money).checked_sub(spent).unwrap();
    assert_eq!(process.show("a").await.balance, balance);
    process.verify("a").await;
    process.terminate().await;
}

#[tokio::test]
async fn without_a_store_no_more_is_spent_than_was_leased() {
    let mut system = System::new(Kind::Redis, &ENV).await;
    let process = system.serve().await;
    process.account("a", "1000000", "default").await;
    let first = call(process.proxy, ask("a", "flat")).await;
    assert_eq!(first.status(), 200, "{first:?}");
    process.cli("sync now").await;
    // A message on its way may still come back with more.
    let most = leased(&process).await;
    assert!(most.is_positive(), "{most}");
    system.redis().freeze();
    let passed = until_refused(&process, Duration::from_secs(9)).await;
    assert!(
        (1..=2 * most.nanos() / 1_000_000_000).contains(&passed),
        "{passed} of {most}"
    );
    returns(&mut system, process, "1000000", 1 + passed).await;
}

#[tokio::test]
async fn without_a_store_calls_stop_before_the_lease_is_over() {
    const LEASE: Duration = Duration::from_secs(2);
    let env = [
        ("TOLLGATE_SYNC__LEASE", "2s"),
        ("TOLLGATE_SYNC__LEASE_MARGIN", "500ms"),
    ];
    let mut system = System::new(Kind::Redis, &[&ENV[..], &env].concat()).await;
    let process = system.serve().await;
    process.account("a", "1000000", "default").await;
    let first = call(process.proxy, ask("a", "flat")).await;
    assert_eq!(first.status(), 200, "{first:?}");
    // As much is leased as many large calls need: more than flat ones can spend in that time.
    let large = "hold take --account a --key a --amount 10000";
    let hold = process.cli(large).await;
    let hold = hold["hold"].as_str().unwrap();
    process.cli(&format!("hold release {hold}")).await;
    process.cli("sync now").await;
    system.redis().freeze();
    let passed = until_refused(&process, LEASE + SLACK).await;
    assert!(passed > 0);
    let left = leased(&process).await;
    assert!(left > units("1000"), "{left} is left of the lease");
    returns(&mut system, process, "1000000", 1 + passed).await;
}
