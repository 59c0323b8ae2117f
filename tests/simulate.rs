//! What `tollgate simulate` foretells, beside what happens: real replicas in this process over a real `redis-server`, driven by calls
//! at random, and Redis' own counts. Only counts are compared that do not depend on the machine's speed.

#![expect(clippy::float_arithmetic, reason = "counts are compared with figures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::gate::{End, Outcome};
use tollgate::id::ReplicaId;
use tollgate::meter::Reading;
use tollgate::plan::{Deployment, Plan, Spread, plan};
use tollgate::policy::Policy;
use tollgate::store::redis::{Reach, RedisStore, Settings};
use tollgate::sync;

use crate::support::node::{Node, amount, call, terms};
use crate::support::redis::Server;

const ACCOUNTS: u32 = 50;
const REPLICAS: u32 = 3;
const SECONDS: u64 = 5;

/// What is foretold and what is seen may differ by so much. Half of it is chance: the calls are some hundreds.
const PERCENT: f64 = 25.0;

fn deployment(rps: u64, money: &str) -> Deployment {
    Deployment {
        replicas: REPLICAS,
        accounts: ACCOUNTS.into(),
        rps,
        spread: Spread::Zipf(1.0),
        price: amount("1"),
        price_spread: 0,
        money: amount(money),
        money_for: Duration::ZERO,
        recharge_at: None,
        call_time: Duration::from_millis(30),
        seconds: SECONDS,
        cold_start: true,
        ..Deployment::default()
    }
}

/// The replicas of a deployment over one Redis, with its accounts.
struct Scene {
    server: Server,
    nodes: Vec<Node>,
}

impl Scene {
    async fn new(deployment: &Deployment) -> Self {
        let server = Server::start().await;
        let nodes = (0..REPLICAS).map(|number| {
            // A machine with other things to do answers late, and still answers.
            let patient = sync::Settings {
                load_wait: Duration::from_secs(10),
                ..deployment.sync
            };
            let redis = Settings {
                reach: Reach::Server(server.url()),
                response_timeout: Duration::from_secs(10),
                ..Settings::default()
            };
            let store = RedisStore::connect(redis, Clock::system()).unwrap();
            let replica = ReplicaId::new(&format!("r-{number}")).unwrap();
            let policy = Policy {
                qps: deployment.qps,
                ..Policy::default()
            };
            Node::over(Arc::new(store), replica, Clock::system(), policy, patient)
        });
        let nodes: Vec<Node> = nodes.collect();
        for number in 0..deployment.accounts {
            let money = deployment.money.to_string();
            nodes[0].account(&format!("a-{number}"), &money).await;
        }
        Self { server, nodes }
    }

    /// Calls at random for so many seconds, after which counting begins, and for so many more. Returns what was counted.
    async fn drive(&self, deployment: &Deployment, before: u64, seconds: u64) -> Counts {
        let mut chance = Chance(11);
        self.calls(deployment, &mut chance, before).await;
        let waits = self.refill_waits();
        let _: String = self.server.command(&["CONFIG", "RESETSTAT"]);
        let (calls, refused) = self.calls(deployment, &mut chance, seconds).await;
        Counts {
            calls,
            refused,
            scripts: self.count("evalsha"),
            gets: self.count("get"),
            told: self.count("publish"),
            waits: self.refill_waits() - waits,
        }
    }

    async fn calls(
        &self,
        deployment: &Deployment,
        chance: &mut Chance,
        seconds: u64,
    ) -> (f64, f64) {
        let accounts = u32::try_from(deployment.accounts).unwrap();
        let refused = Arc::new(AtomicU64::new(0));
        let mut calls = Vec::new();
        let begin = tokio::time::Instant::now();
        let (mut at, end) = (0.0, seconds as f64);
        loop {
            at += chance.until_next() / deployment.rps as f64;
            if at >= end {
                break;
            }
            tokio::time::sleep_until(begin + Duration::from_secs_f64(at)).await;
            let account = match deployment.spread {
                Spread::Uniform => chance.below(accounts),
                Spread::Zipf(_) => chance.zipf(accounts),
            };
            let node = &self.nodes[chance.below(REPLICAS) as usize];
            let (gate, refused) = (Arc::clone(&node.core.gate), Arc::clone(&refused));
            let time = deployment.call_time;
            calls.push(tokio::spawn(async move {
                let terms = terms();
                let secret = format!("sk-a-{account}");
                let Ok(ticket) = gate.admit(&call(&secret, "flat", &terms)).await else {
                    refused.fetch_add(1, Relaxed);
                    return;
                };
                tokio::time::sleep(time).await;
                ticket.settle(Outcome {
                    end: End::Complete,
                    reading: Reading::default(),
                    bytes_in: 0,
                    bytes_out: 0,
                });
            }));
        }
        tokio::time::sleep_until(begin + Duration::from_secs(seconds)).await;
        let count = calls.len() as f64;
        for call in calls {
            call.await.unwrap();
        }
        (count, refused.load(Relaxed) as f64)
    }

    /// How often Redis was asked for something since the driving began.
    fn count(&self, command: &str) -> f64 {
        let stats: String = self.server.command(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0.0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    fn refill_waits(&self) -> f64 {
        let waits = self.nodes.iter();
        waits
            .map(|node| node.core.sync.status().refill_waits as f64)
            .sum()
    }
}

/// What Redis and the replicas have counted.
struct Counts {
    calls: f64,
    refused: f64,
    scripts: f64,
    gets: f64,
    told: f64,
    waits: f64,
}

impl Counts {
    /// Compares by call: the calls that came are not exactly as many as were foretold.
    fn compare(&self, plan: &Plan, what: &[(&str, f64, f64)]) {
        let calls = self.calls / plan.totals.rates.calls;
        let mut wrong = Vec::new();
        for (name, seen, foretold) in what {
            let foretold = foretold * calls;
            let off = (seen / foretold - 1.0) * 100.0;
            let said = format!("{name}: {seen} seen, {foretold:.1} foretold, {off:+.1} %");
            println!("{said}");
            if off.is_nan() || off.abs() > PERCENT {
                wrong.push(said);
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

/// Chance that repeats.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, most: u32) -> u32 {
        (self.unit() * f64::from(most)) as u32
    }

    fn until_next(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    fn zipf(&mut self, accounts: u32) -> u32 {
        let all: f64 = (1..=accounts).map(|rank| 1.0 / f64::from(rank)).sum();
        let mut at = self.unit() * all;
        for rank in 1..accounts {
            at -= 1.0 / f64::from(rank);
            if at < 0.0 {
                return rank - 1;
            }
        }
        accounts - 1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_seconds_are_foretold() {
    let deployment = deployment(120, "1000000");
    let plan = plan(&deployment).unwrap();
    let scene = Scene::new(&deployment).await;
    let seen = scene.drive(&deployment, 0, SECONDS).await;
    let rates = &plan.totals.rates;
    let what = [
        ("calls of scripts", seen.scripts, plan.totals.evalsha()),
        (
            "keys looked up, and places in the feed of spend",
            seen.gets,
            rates.finds + plan.totals.touches,
        ),
        ("waits for a lease", seen.waits, rates.turns),
    ];
    seen.compare(&plan, &what);
    assert_eq!(seen.refused, 0.0);
    let refused = rates.refused_with_money + rates.refused_without;
    assert_eq!(refused + rates.refused_unanswered, 0.0, "{rates:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_steady_state_is_foretold() {
    // Leases go back and accounts are let go of within the seconds that a test has.
    let mut steady = Deployment {
        cold_start: false,
        days: 0,
        ..deployment(60, "1000000")
    };
    steady.sync.times.idle = Duration::from_secs(1);
    steady.sync.unload_after = Duration::from_secs(3);
    let plan = plan(&steady).unwrap();
    let scene = Scene::new(&steady).await;
    let seen = scene.drive(&steady, 4, 8).await;
    let rates = &plan.totals.rates;
    let what = [
        ("calls of scripts", seen.scripts, plan.totals.evalsha()),
        (
            "keys looked up, and places in the feed of spend",
            seen.gets,
            rates.finds + plan.totals.touches,
        ),
        ("waits for a lease", seen.waits, rates.turns),
    ];
    seen.compare(&plan, &what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_foretold_where_money_runs_out() {
    let deployment = deployment(120, "4");
    let plan = plan(&deployment).unwrap();
    let scene = Scene::new(&deployment).await;
    let seen = scene.drive(&deployment, 0, SECONDS).await;
    let rates = &plan.totals.rates;
    let refused = rates.refused_with_money + rates.refused_without + rates.refused_unanswered;
    let what = [
        ("refusals", seen.refused, refused),
        ("calls of scripts", seen.scripts, plan.totals.evalsha()),
    ];
    seen.compare(&plan, &what);
    println!(
        "told: {} seen, {} foretold",
        seen.told,
        plan.totals.told * SECONDS as f64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_foretold_where_a_rate_is_exceeded() {
    let limited = Deployment {
        accounts: 4,
        spread: Spread::Uniform,
        qps: Some(20),
        ..deployment(160, "1000000")
    };
    let plan = plan(&limited).unwrap();
    let scene = Scene::new(&limited).await;
    let seen = scene.drive(&limited, 0, SECONDS).await;
    let rates = &plan.totals.rates;
    let refused = rates.refused_above_rate + rates.refused_below_rate;
    let what = [
        ("refusals", seen.refused, refused),
        ("calls of scripts", seen.scripts, plan.totals.evalsha()),
    ];
    seen.compare(&plan, &what);
    println!(
        "told: {} seen, {} foretold",
        seen.told,
        plan.totals.told * SECONDS as f64
    );
}
