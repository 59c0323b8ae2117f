//! One rate limit over three replicas, in virtual time: the real engine, the real line, the store's real rules, and a network that takes
//! a millisecond. Callers wander from replica to replica, and jump. Over every second, together they get the limit: no more, and, while
//! they ask for enough, hardly less.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::{Clock, Hour, Timestamp};
use tollgate::engine::{Account, Ask, Bounds, Denied, Engine, Key, ModelId};
use tollgate::id::{AccountId, KeyId, ReplicaId};
use tollgate::ledger::{Book, QpsPlan};
use tollgate::local::counters::Counters;
use tollgate::money::Amount;
use tollgate::policy::Policy;
use tollgate::store::desk::Desk;
use tollgate::store::shared::Ground;
use tollgate::store::{Commit, KeyRecord, Published};
use tollgate::sync::Times;
use tollgate::sync::line::{Give, Line, Need, Own, rules};

const LIMIT: u32 = 1_000;

/// Every replica has a share whose part in the burst may be less than a call: so much more than the burst can pass at once.
const REPLICAS: usize = 3;

/// One way to the store and back, in ms.
const ROUND_TRIP: u64 = 1;

/// How long a call that finds no share waits, in ms: `refill_wait`.
const PATIENCE: u64 = 250;

fn times(interval: Duration) -> Times {
    Times {
        interval,
        lease: Duration::from_secs(30),
        margin: Duration::from_secs(1),
        ahead: Duration::from_secs(10),
        idle: Duration::from_secs(10),
        retire: Duration::from_secs(3_600),
    }
}

/// A replica, with what is on its way to it.
struct Replica {
    name: ReplicaId,
    engine: Arc<Engine>,
    account: Arc<Account>,
    key: Arc<Key>,
    line: Line,
    answer: Option<(u64, Published)>,
    told: Option<(u64, u64, u64)>,
    last_told: u64,
    /// Calls that wait for a share: until when.
    waiting: Vec<u64>,
    messages: u64,
}

struct World {
    desk: Desk,
    replicas: Vec<Replica>,
    policy: Policy,
    /// The highest limit that there ever was.
    limit_before: u64,
    times: Times,
    clock: Clock,
    now: u64,
    admitted: Vec<u64>,
}

impl World {
    fn new(policy: Policy, interval: Duration) -> Self {
        Self::bought(policy, interval, Vec::new())
    }

    /// The same with rates that were bought for a time.
    fn bought(policy: Policy, interval: Duration, qps_plans: Vec<QpsPlan>) -> Self {
        let clock = Clock::manual(Timestamp::from_nanos(1_790_000_000_000_000_000));
        clock.advance(Duration::from_secs(1));
        let id = AccountId::new("a").unwrap();
        let mut book = Book::new(id.clone(), "USD".into(), "default".into(), clock.now().wall);
        book.lifetime_credit = Amount::from_units(1_000_000).unwrap();
        let bought = qps_plans.iter().map(|plan| u64::from(plan.qps) * 1_000);
        let limit_before = bought.fold(policy.rate_limit(), u64::max);
        book.qps_plans = qps_plans;
        let commit = Commit {
            expected: 0,
            credit_delta: book.lifetime_credit,
            book,
            entries: Vec::new(),
            events: Vec::new(),
            claims: Vec::new(),
            restore: None,
        };
        let mut desk = Desk::default();
        desk.commit(&commit, &Ground::default()).unwrap();
        let replica = |n: usize| {
            let engine = Engine::new([7; 16], Bounds::default(), Counters::in_memory());
            let name = ReplicaId::new(&format!("r-{n}")).unwrap();
            let opened = desk.open(&name, Hour(0)).unwrap();
            let rules = rules(
                &opened.snapshot.book,
                Amount::ZERO,
                policy.clone(),
                clock.now(),
            );
            let taken = engine.counters().take_up(&id);
            let account = engine.load(taken, rules, std::iter::empty());
            let record = KeyRecord {
                id: KeyId::new("k").unwrap(),
                account: id.clone(),
                digest: String::new(),
                name: String::new(),
                hint: String::new(),
                created: Timestamp::default(),
                expires: None,
                revoked: None,
                qps: None,
                models: Vec::new(),
                service: String::new(),
                budgets: Vec::new(),
            };
            let key = engine.load_key(None, &account, record);
            Replica {
                name,
                engine,
                account,
                key,
                line: Line::new(&opened, Own::default(), clock.now()),
                answer: None,
                told: None,
                last_told: 0,
                waiting: Vec::new(),
                messages: 0,
            }
        };
        Self {
            replicas: (0..REPLICAS).map(replica).collect(),
            desk,
            limit_before,
            policy,
            times: times(interval),
            clock,
            now: 0,
            admitted: Vec::new(),
        }
    }

    /// Publishes, unless a message is on its way: what the driver does.
    fn publish(&mut self, i: usize) {
        let now = self.clock.now();
        let replica = &mut self.replicas[i];
        replica.line.collect(&replica.account, &replica.engine, now);
        let need = Need {
            all: Amount::from_nanos(replica.waiting.len() as i64),
            least: Amount::from_nanos(replica.waiting.len().min(1) as i64),
        };
        replica.account.turn(now);
        let rules = replica.account.rules().clone();
        let message = replica.line.message(
            &replica.account,
            need,
            Give::Spare,
            &rules.policy,
            &self.times,
            now,
        );
        let Some(message) = message else { return };
        replica.messages += 1;
        let ground = Ground {
            now_ms: 1_000_000 + self.now,
            ..Ground::default()
        };
        let answer = self.desk.publish(&replica.name, &message, &ground).unwrap();
        replica.answer = Some((self.now + ROUND_TRIP, answer));
        self.desk.invariants().unwrap();
        // Of a limit that was turned down, what was given out before comes back with each one's next word.
        let limit = self.limit_before.max(rules.policy.rate_limit());
        assert!(
            self.desk.head.rate.shared <= limit,
            "P4: {:?}",
            self.desk.head
        );
    }

    fn hear(&mut self, i: usize) {
        let Some((due, answer)) = self.replicas[i].answer else {
            return;
        };
        if due > self.now {
            return;
        }
        let now = self.clock.now();
        let replica = &mut self.replicas[i];
        replica.answer = None;
        let (account, line) = (&replica.account, &mut replica.line);
        let next = line.answer(account, Some(&answer), &self.policy, &self.times, now);
        if next.again {
            self.publish(i);
            return;
        }
        let pause = (self.times.interval.as_millis() as u64).min(100) / 8;
        if let Some((rate, places)) = next.crowded
            && self.now >= replica.last_told + pause
        {
            replica.last_told = self.now;
            let due = self.now + ROUND_TRIP;
            for (j, other) in self.replicas.iter_mut().enumerate() {
                if j != i {
                    other.told = Some((due, rate, places));
                }
            }
        }
        // Those that waited try again; where there is nothing at all, they wait for the others to give back.
        let waited = std::mem::take(&mut self.replicas[i].waiting);
        for until in waited {
            self.call(i, until);
        }
    }

    fn call(&mut self, i: usize, until: u64) {
        let replica = &mut self.replicas[i];
        let ask = Ask {
            model: None,
            counted_as: ModelId::NONE,
            priced: true,
            amount: Amount::from_nanos(1),
            worst: Amount::from_nanos(1),
            more: None,
        };
        let admitted = replica
            .engine
            .admit(Arc::clone(&replica.key), ask, self.clock.now());
        match admitted {
            Ok(hold) => {
                hold.release();
                self.admitted.push(self.now);
            }
            Err((_, Denied::Refused(_))) => {}
            Err((_, Denied::Lease | Denied::Short(_))) => {
                if until > self.now {
                    replica.waiting.push(until);
                    self.publish(i);
                }
            }
        }
    }

    fn step(&mut self, offered: &[usize]) {
        let interval = self.times.interval.as_millis() as u64;
        for (i, offered) in offered.iter().enumerate() {
            self.hear(i);
            if let Some((due, rate, places)) = self.replicas[i].told
                && due <= self.now
            {
                self.replicas[i].told = None;
                let rules = self.replicas[i].account.rules().clone();
                self.replicas[i].line.heard(rate, places, &rules.policy);
                self.publish(i);
            }
            // Their schedules are not in step.
            if (self.now + i as u64 * interval / 3).is_multiple_of(interval) {
                self.publish(i);
            }
            for _ in 0..*offered {
                self.call(i, self.now + PATIENCE);
            }
        }
        self.now += 1;
        self.clock.advance(Duration::from_millis(1));
    }
}

/// How many calls come to each replica in this millisecond: 1.4 times the limit in all. Their weights turn in seven seconds, and every
/// five seconds they are dealt anew.
fn offered(due: &mut [u64; REPLICAS], now: u64) -> Vec<usize> {
    /// A turn in sixteenths: nothing here is a float, so that it is the same on every machine.
    const TURN: [u64; 16] = [20, 19, 17, 14, 10, 6, 3, 1, 0, 1, 3, 6, 10, 14, 17, 19];
    let deal = now / 5_000;
    (0..REPLICAS)
        .map(|i| {
            let seat = (i as u64 + deal) % 3;
            let place = (now * 16 / 7_000 + seat * 16 / 3) % 16;
            // Three of them add up to 30 or so; in thousandths of a call.
            due[i] += TURN[place as usize] * 14 * u64::from(LIMIT) / 300;
            let calls = due[i] / 1_000;
            due[i] %= 1_000;
            calls as usize
        })
        .collect()
}

/// The fullest and the emptiest of all windows of a second.
fn windows(times: &[u64], from: u64, to: u64) -> (usize, usize) {
    let (mut most, mut least) = (0, usize::MAX);
    for start in from..to - 1_000 {
        let before = times.partition_point(|at| *at < start);
        let count = times.partition_point(|at| *at < start + 1_000) - before;
        (most, least) = (most.max(count), least.min(count));
    }
    (most, least)
}

fn run(interval: Duration) -> (usize, usize, u64) {
    let policy = Policy {
        qps: Some(LIMIT),
        burst: Some(15),
        ..Policy::default()
    };
    let mut world = World::new(policy, interval);
    let (mut due, length) = ([0; REPLICAS], 60_000);
    for now in 0..length {
        let calls = offered(&mut due, now);
        world.step(&calls);
    }
    let (most, least) = windows(&world.admitted, 1_000, length);
    let messages = world.replicas.iter().map(|replica| replica.messages).sum();
    (most, least, messages)
}

#[test]
fn every_second_of_a_minute_gets_the_limit_and_hardly_less() {
    // With a sync a second, what moves between two is only what callers that are refused ask for.
    for (interval, enough) in [(10, 950), (100, 950), (1_000, 920)] {
        let (most, least, messages) = run(Duration::from_millis(interval));
        println!(
            "interval {interval} ms: {least} to {most} in a second; {messages} messages in a minute"
        );
        assert!(most <= 1_020, "interval {interval} ms: {most}");
        assert!(least >= enough, "interval {interval} ms: {least}");
    }
}

/// Σ over three replicas of what a limit of few admits: also less than one call a second each.
#[test]
fn a_small_limit_is_somebodys() {
    let policy = Policy {
        qps: Some(2),
        burst: Some(2),
        concurrency: Some(2),
        ..Policy::default()
    };
    let mut world = World::new(policy, Duration::from_millis(100));
    for now in 0..20_000_u64 {
        // Five a second at each.
        let calls = usize::from(now.is_multiple_of(200));
        world.step(&[calls; REPLICAS]);
    }
    let passed = world.admitted.len();
    // Twenty seconds of two, a burst of two, and for each of three a call saved up.
    assert!((30..=45).contains(&passed), "{passed}");
}

/// When a rate that was bought ends, in ms.
const BOUGHT: u64 = 5_000;

#[test]
fn a_rate_that_was_bought_ends_on_every_replica_at_its_last_instant() {
    let policy = Policy {
        qps: Some(30),
        burst: Some(6),
        ..Policy::default()
    };
    // From the instant of a call to the end, in nanoseconds, and whether it still counts for that call.
    for (rest, counts) in [(-1, false), (0, false), (1, true)] {
        let begins = 1_790_000_001_000_000_000;
        let ends = begins + BOUGHT as i64 * 1_000_000 + rest;
        let plan = QpsPlan {
            id: "fast".into(),
            qps: LIMIT,
            burst: Some(15),
            effective: Timestamp::from_nanos(begins),
            expires: Some(Timestamp::from_nanos(ends)),
            order_id: "o-1".into(),
            price: None,
        };
        let mut world = World::bought(policy.clone(), Duration::from_millis(100), vec![plan]);
        let mut due = [0; REPLICAS];
        for now in 0..BOUGHT {
            let calls = offered(&mut due, now);
            world.step(&calls);
            let fast = |replica: &Replica| replica.account.rules().policy.qps == Some(LIMIT);
            assert!(world.replicas.iter().all(fast), "{rest} ns: at {now} ms");
        }
        // Each judges a call by that very instant, and has heard nothing of it from anybody.
        for i in 0..REPLICAS {
            world.call(i, world.now);
            let now = world.replicas[i].account.rules().policy.clone();
            let want = if counts { LIMIT } else { 30 };
            assert_eq!(now.qps, Some(want), "{rest} ns: replica {i}");
        }
        let over = BOUGHT + u64::from(counts);
        for now in BOUGHT..BOUGHT + 20_000 {
            let calls = offered(&mut due, now);
            world.step(&calls);
        }
        let fast = world
            .admitted
            .iter()
            .filter(|at| (4_000..BOUGHT).contains(*at))
            .count();
        assert!(
            (950..=1_020).contains(&fast),
            "{rest} ns: {fast} in its last second"
        );
        // Not even in the first second afterwards do the three have more than one limit, its burst, and a call saved up each.
        let (most, least) = windows(&world.admitted, over, BOUGHT + 20_000);
        assert!(most <= 30 + 6 + 3, "{rest} ns: {most} in a second");
        assert!(least >= 25, "{rest} ns: {least} in a second");
        let shared = world.desk.head.rate.shared;
        assert!(
            shared <= policy.rate_limit(),
            "{rest} ns: {shared} are given out"
        );
    }
}
