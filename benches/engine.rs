//! What a decision costs, beside what it is made of, in one run:
//!
//! - `bare`: a DashMap look-up of a 16-byte account by an integer, and the three atomic steps of a hold and a settlement;
//! - `parts`: what tollgate's decision is made of, without its rules: the fingerprint of the same 51-byte key, a DashMap look-up,
//!   a reference count, a clock read, and the same eleven atomic steps on the same cache lines;
//! - `governor`: its keyed limiter with the same 51-byte key, its clock read included;
//! - `tollgate`: identify + admit + settle from the same 51-byte key, the clock read included, counted on the heap: under no limit but
//!   its money, and under a share of a rate and of calls in flight as well, as all that follow;
//! - `with a deadline`: the same for accounts whose credit expires, which are judged by the time of day too;
//! - `with a plan`: the same for accounts whose calls a plan pays, which is an account of its own;
//! - `in its file`: without these, counted in a mapped file, which is flushed every second by a thread of its own, as when it serves.
//!
//! `cargo bench --bench engine`. The file is in the system's directory for temporary files. 100,000 accounts, calls spread over them by
//! Zipf's law; then one hot account, on one thread and on two. Rounds of all contestants are interleaved; figures are medians over the rounds of CPU nanoseconds per operation, and
//! ratios are medians of the rounds' own ratios, as a machine's speed drifts between rounds.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench measures time in floats and may end with a panic"
)]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tollgate::clock::{Clock, Monotonic, Timestamp};
use tollgate::engine::{
    Ask, Bounds, Engine, Fingerprint, Fingerprints, Identified, Inner, ModelId, More, PlanAsk,
    PlanRule, Rules, Special,
};
use tollgate::id::{AccountId, KeyId, ReplicaId};
use tollgate::local::Local;
use tollgate::local::counters::Counters;
use tollgate::money::Amount;
use tollgate::policy::Policy;
use tollgate::pricing::{Per, Price, Rate};
use tollgate::store::KeyRecord;
use tollgate::usage::{Certainty, Counts, Meter};

const ACCOUNTS: usize = 100_000;
const OPERATIONS: usize = 1_000_000;
const ROUNDS: usize = 7;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let secrets: Vec<String> = (0..ACCOUNTS).map(secret).collect();
    let spread = zipf();
    let hot = vec![0; OPERATIONS];
    let dir = tempfile::tempdir().unwrap();
    let fresh = || ReplicaId::new("bench").unwrap();
    let local = Local::open(dir.path(), Timestamp::from_nanos(0), fresh).unwrap();
    let (heap, file) = (Counters::in_memory(), Arc::clone(local.counters()));
    let flushing = Flushing::of(&file);
    let tollgate = |counters, kind| Box::new(Tollgate::new(&secrets, counters, kind));
    let on_heap = |kind| tollgate(Counters::in_memory(), kind);
    let contestants: [(&str, Box<dyn Contestant>); 8] = [
        ("bare dashmap + atomics", Box::new(Bare::new())),
        ("its own parts, no rules", Box::new(Parts::new(&secrets))),
        ("governor, keyed", Box::new(Governor::new())),
        ("tollgate, money alone", on_heap(Kind::Money)),
        ("tollgate, with shares", tollgate(heap, Kind::Plain)),
        ("the same, in its file", tollgate(file, Kind::Plain)),
        ("tollgate, with a deadline", on_heap(Kind::Deadline)),
        ("tollgate, with a plan", on_heap(Kind::Plan)),
    ];
    println!(
        "{} bytes of memory for each loaded account with one key, not yet called",
        loaded_bytes(&secrets)
    );
    println!(
        "{ACCOUNTS} accounts, {OPERATIONS} operations a round, median of {ROUNDS} rounds, ns per operation\n"
    );
    println!(
        "{:<26}{:>12}{:>12}{:>14}{:>10}",
        "", "1 thread", "hot, 1", "hot, 2 cpus", "2 / 1"
    );
    let mut table = vec![[const { Vec::new() }; 3]; contestants.len()];
    for _ in 0..ROUNDS {
        for (row, (_, contestant)) in contestants.iter().enumerate() {
            table[row][0].push(time(&**contestant, &spread, &secrets, 1));
            table[row][1].push(time(&**contestant, &hot, &secrets, 1));
            table[row][2].push(time(&**contestant, &hot, &secrets, 2));
        }
    }
    for ((name, _), times) in contestants.iter().zip(&table) {
        let [one, hot, two] = times;
        let growth = median(two.iter().zip(hot).map(|(two, hot)| two / hot).collect());
        let (one, hot, two) = (
            median(one.clone()),
            median(hot.clone()),
            median(two.clone()),
        );
        println!("{name:<26}{one:>12.1}{hot:>12.1}{two:>14.1}{growth:>9.2}x");
    }
    println!();
    for (row, against, name) in [
        (4, 0, "tollgate / bare"),
        (4, 1, "tollgate / parts"),
        (4, 2, "tollgate / governor"),
        (4, 3, "shares: with / without"),
        (5, 4, "counter file: with / without"),
        (6, 4, "deadline: with / without"),
        (7, 4, "plan: with / without"),
    ] {
        let ratio = |column: usize| {
            median(
                table[row][column]
                    .iter()
                    .zip(&table[against][column])
                    .map(|(a, b)| a / b)
                    .collect(),
            )
        };
        println!(
            "{name:<30} spread {:.2}x   hot {:.2}x   hot on 2 cpus {:.2}x",
            ratio(0),
            ratio(1),
            ratio(2)
        );
    }
    drop(flushing);
}

/// Keeps a counter file as a process that serves does: flushed, and with room.
struct Flushing {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flushing {
    fn of(counters: &Arc<Counters>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let counters = Arc::clone(counters);
        let flush = move || {
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                counters.make_room().unwrap();
                counters.flush().unwrap();
            }
        };
        Self {
            stop: Some(stop),
            thread: Some(std::thread::spawn(flush)),
        }
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The growth of this process, as the kernel counts it, by an engine of all accounts.
fn loaded_bytes(secrets: &[String]) -> u64 {
    let resident = || -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
    };
    let before = resident();
    let engine = Tollgate::new(secrets, Counters::in_memory(), Kind::Plain);
    let grown = resident().saturating_sub(before);
    drop(black_box(engine));
    grown / ACCOUNTS as u64
}

/// 51 bytes, as long as a key of a known provider.
fn secret(account: usize) -> String {
    format!("sk-{account:048}")
}

/// Indices of accounts, the k-th drawn in proportion to 1/k, from a fixed seed.
fn zipf() -> Vec<usize> {
    let mut sums = Vec::with_capacity(ACCOUNTS);
    let mut sum = 0.0;
    for k in 1..=ACCOUNTS {
        sum += 1.0 / k as f64;
        sums.push(sum);
    }
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 * sum
    };
    // Account numbers are scattered, or popular ones would be neighbours in memory.
    (0..OPERATIONS)
        .map(|_| sums.partition_point(|s| *s < draw()) * 7_919 % ACCOUNTS)
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Wall nanoseconds per operation and thread: with two threads on two free processors, their CPU time.
fn time(
    contestant: &dyn Contestant,
    accounts: &[usize],
    secrets: &[String],
    threads: usize,
) -> f64 {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| contestant.run(accounts, secrets));
        }
    });
    begin.elapsed().as_nanos() as f64 / accounts.len() as f64
}

trait Contestant: Sync {
    fn run(&self, accounts: &[usize], secrets: &[String]);
}

struct Bare(DashMap<u64, (AtomicI64, AtomicI64), foldhash::fast::RandomState>);

impl Bare {
    fn new() -> Self {
        let map = DashMap::default();
        for account in 0..ACCOUNTS as u64 {
            map.insert(account, (AtomicI64::new(i64::MAX / 2), AtomicI64::new(0)));
        }
        Self(map)
    }
}

impl Contestant for Bare {
    fn run(&self, accounts: &[usize], _: &[String]) {
        for account in accounts {
            let account = self.0.get(&(*account as u64)).unwrap();
            let held = account
                .0
                .fetch_update(Relaxed, Relaxed, |left| (left >= 10).then_some(left - 10));
            black_box(held.is_ok());
            account.0.fetch_add(3, Relaxed);
            account.1.fetch_add(7, Relaxed);
        }
    }
}

/// What a decision touches, in the same places: a key, its account, the cell it counts into.
struct Parts {
    fingerprints: Fingerprints,
    keys: DashMap<Fingerprint, Arc<Part>, foldhash::fast::RandomState>,
    clock: Clock,
}

#[repr(align(64))]
#[derive(Default)]
struct Line([AtomicI64; 8]);

struct Part {
    account: Box<Line>,
    cell: Box<Line>,
}

impl Parts {
    fn new(secrets: &[String]) -> Self {
        let fingerprints = Fingerprints::new([7; 16]);
        let keys = DashMap::default();
        for secret in secrets {
            let part = Part {
                account: Box::default(),
                cell: Box::default(),
            };
            part.account.0[0].store(i64::MAX / 2, Relaxed);
            keys.insert(fingerprints.of(secret.as_bytes()), Arc::new(part));
        }
        Self {
            fingerprints,
            keys,
            clock: Clock::system(),
        }
    }
}

impl Contestant for Parts {
    fn run(&self, accounts: &[usize], secrets: &[String]) {
        for account in accounts {
            let now = i64::try_from(self.clock.now().mono.nanos()).unwrap();
            let fingerprint = self.fingerprints.of(secrets[*account].as_bytes());
            let part = Arc::clone(&self.keys.get(&fingerprint).unwrap());
            let [headroom, in_flight, arrival, ..] = &part.account.0;
            let [exact, input, output, cost, ..] = &part.cell.0;
            let took = in_flight.fetch_update(Relaxed, Relaxed, |n| n.checked_add(1));
            let paced = arrival.fetch_update(Relaxed, Relaxed, |at| Some(at.max(now) + 1));
            let held =
                headroom.fetch_update(Relaxed, Relaxed, |left| (left >= 10).then_some(left - 10));
            black_box((took.is_ok(), paced.is_ok(), held.is_ok()));
            headroom.fetch_add(3, Relaxed);
            exact.fetch_add(1, Relaxed);
            input.fetch_add(100, Relaxed);
            output.fetch_add(20, Relaxed);
            cost.fetch_add(7, SeqCst);
            in_flight.fetch_sub(1, Relaxed);
        }
    }
}

struct Governor(DefaultKeyedRateLimiter<String>);

impl Governor {
    fn new() -> Self {
        let limiter = RateLimiter::keyed(Quota::per_second(NonZeroU32::MAX));
        for account in 0..ACCOUNTS {
            limiter.check_key(&secret(account)).unwrap();
        }
        Self(limiter)
    }
}

impl Contestant for Governor {
    fn run(&self, accounts: &[usize], secrets: &[String]) {
        for account in accounts {
            black_box(self.0.check_key(&secrets[*account]).is_ok());
        }
    }
}

/// What its accounts have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Money and limits.
    /// No limit but its money.
    Money,
    /// Under a share of a rate and of calls in flight.
    Plain,
    /// Credit that expires.
    Deadline,
    /// A plan that pays.
    Plan,
}

struct Tollgate {
    engine: Arc<Engine>,
    clock: Clock,
    model: ModelId,
    kind: Kind,
    /// By account.
    plans: Vec<PlanAsk>,
}

impl Tollgate {
    fn new(secrets: &[String], counters: Arc<Counters>, kind: Kind) -> Self {
        let engine = Engine::new([7; 16], Bounds::default(), counters);
        let clock = Clock::system();
        let policy = match kind {
            Kind::Money => Policy::default(),
            // Limited so that the rate and the concurrency are really checked, and never reached.
            Kind::Plain | Kind::Deadline | Kind::Plan => Policy {
                qps: Some(1_000_000_000),
                burst: Some(1_000_000_000),
                concurrency: Some(1_000),
                ..Policy::default()
            },
        };
        let price = Arc::new(Price {
            pattern: "gpt-4o".into(),
            unit: "POINTS".into(),
            rates: [(Meter::Request, points(7))].into(),
            max_output: None,
        });
        let mut plans = Vec::new();
        let load = |id: &AccountId, rules: Rules| {
            let taken = engine.counters().take_up(id);
            let account = engine.load(taken, rules, std::iter::empty());
            account.purse().grant(Amount::from_nanos(i64::MAX / 4));
            account.lease_until(Monotonic::from_nanos(u64::MAX));
            account.share_all(clock.now().mono);
            account
        };
        for (number, secret) in secrets.iter().enumerate() {
            let id = AccountId::new(&format!("a{number}")).unwrap();
            let plan = id.inner("plan").unwrap();
            let mut rules = Rules::plain("USD".into(), policy.clone());
            rules.special = match kind {
                Kind::Money | Kind::Plain => None,
                Kind::Deadline => Some(Box::new(Special {
                    lease_ends: Some(Timestamp::from_nanos(i64::MAX)),
                    ..Special::default()
                })),
                Kind::Plan => {
                    let unit = "POINTS".to_owned();
                    let inner = load(&plan, Rules::plain(unit.clone(), Policy::default()));
                    plans.push(PlanAsk {
                        inner: Inner::new(inner),
                        price: Arc::clone(&price),
                        amount: Amount::from_nanos(10),
                    });
                    Some(Box::new(Special {
                        plans: vec![PlanRule {
                            id: plan,
                            unit,
                            scope: Vec::new(),
                        }],
                        ..Special::default()
                    }))
                }
            };
            let account = load(&id, rules);
            account.share_all(clock.now().mono);
            let Identified::NotLoaded(fingerprint) =
                engine.identify(secret.as_bytes(), clock.now())
            else {
                unreachable!("no key is loaded yet")
            };
            engine.load_key(Some(fingerprint), &account, record(id, number));
        }
        Self {
            model: engine.model("gpt-4o").unwrap(),
            engine,
            clock,
            kind,
            plans,
        }
    }
}

fn points(n: i64) -> Rate {
    Rate {
        price: Amount::from_nanos(n),
        per: Per::Unit,
    }
}

fn record(account: AccountId, number: usize) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(&format!("k{number}")).unwrap(),
        account,
        digest: String::new(),
        name: String::new(),
        hint: String::new(),
        created: Timestamp::from_nanos(0),
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        service: String::new(),
        budgets: Vec::new(),
    }
}

impl Contestant for Tollgate {
    fn run(&self, accounts: &[usize], secrets: &[String]) {
        let counts = Counts::default()
            .with(Meter::Request, 1)
            .with(Meter::Input, 100)
            .with(Meter::Output, 20);
        let ask = Ask {
            model: Some("gpt-4o"),
            counted_as: self.model,
            priced: true,
            amount: Amount::from_nanos(10),
            worst: Amount::from_nanos(10),
            more: None,
        };
        for account in accounts {
            let more = More {
                plans: self.plans.get(*account).map_or(&[], std::slice::from_ref),
                ..More::default()
            };
            let ask = Ask {
                more: (self.kind != Kind::Plain).then_some(&more),
                ..ask
            };
            let now = self.clock.now();
            let Identified::Key(key) = self.engine.identify(secrets[*account].as_bytes(), now)
            else {
                unreachable!("every key is loaded")
            };
            match self.engine.admit(key, ask, now) {
                Ok(hold) => hold.settle(Amount::from_nanos(7), Certainty::Exact, &counts),
                Err(denied) => unreachable!("{denied:?}"),
            }
        }
    }
}
