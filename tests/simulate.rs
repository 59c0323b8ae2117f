//! What `tollgate simulate` foretells, beside what happens: real replicas in this process over a real `redis-server`, driven by calls
//! at random, and Redis' own counts. Only counts are compared that do not depend on the machine's speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::gate::{End, Outcome};
use tollgate::id::ReplicaId;
use tollgate::meter::Reading;
use tollgate::money::Amount;
use tollgate::plan::{Deployment, Plan, Spread, plan};
use tollgate::policy::Policy;
use tollgate::store::redis::{RedisStore, Settings};
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
                url: server.url(),
                response_timeout: Duration::from_secs(10),
                ..Settings::default()
            };
            let store = RedisStore::connect(redis, Clock::system()).unwrap();
            let replica = ReplicaId::new(&format!("r-{number}")).unwrap();
            let clock = Clock::system();
            Node::over(Arc::new(store), replica, clock, Policy::default(), patient)
        });
        let nodes: Vec<Node> = nodes.collect();
        for number in 0..ACCOUNTS {
            let money = deployment.money.to_string();
            nodes[0].account(&format!("a-{number}"), &money).await;
        }
        Self { server, nodes }
    }

    /// Calls at random for some seconds. Returns how many there were, and how many of them were refused.
    async fn drive(&self, deployment: &Deployment) -> (u64, u64) {
        let _: String = self.server.command(&["CONFIG", "RESETSTAT"]);
        let mut chance = Chance(11);
        let refused = Arc::new(AtomicU64::new(0));
        let mut calls = Vec::new();
        let begin = tokio::time::Instant::now();
        let (mut at, end) = (0.0, SECONDS as f64);
        loop {
            at += chance.until_next() / deployment.rps as f64;
            if at >= end {
                break;
            }
            tokio::time::sleep_until(begin + Duration::from_secs_f64(at)).await;
            let account = chance.zipf(ACCOUNTS);
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
        tokio::time::sleep_until(begin + Duration::from_secs(SECONDS)).await;
        let count = calls.len() as u64;
        for call in calls {
            call.await.unwrap();
        }
        (count, refused.load(Relaxed))
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

/// As many per call: the calls that came are not exactly those that were foretold.
fn compare(what: &str, seen: f64, calls: u64, foretold: f64, plan: &Plan) {
    let foretold = foretold / plan.totals.rates.calls * calls as f64;
    let off = (seen / foretold - 1.0) * 100.0;
    println!("{what}: {seen} seen, {foretold:.1} foretold, {off:+.1} %");
    assert!(off.abs() <= PERCENT, "{what}: {seen} is not {foretold}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_foretold_is_what_redis_counts() {
    let deployment = deployment(120, "1000000");
    let plan = plan(&deployment).unwrap();
    let scene = Scene::new(&deployment).await;
    let (calls, refused) = scene.drive(&deployment).await;
    let rates = &plan.totals.rates;
    let compare = |what, seen, foretold| compare(what, seen, calls, foretold, &plan);
    compare(
        "calls of scripts",
        scene.count("evalsha"),
        plan.totals.evalsha(),
    );
    compare("keys looked up", scene.count("get"), rates.finds);
    compare("waits for a lease", scene.refill_waits(), rates.turns);
    assert_eq!(refused, 0);
    assert!(
        rates.refused_with_money + rates.refused_without < 1e-9,
        "{rates:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_foretold_where_money_runs_out() {
    let deployment = deployment(120, "4");
    let plan = plan(&deployment).unwrap();
    let scene = Scene::new(&deployment).await;
    let (calls, refused) = scene.drive(&deployment).await;
    let rates = &plan.totals.rates;
    let foretold = rates.refused_with_money + rates.refused_without + rates.refused_unanswered;
    compare("refusals", refused as f64, calls, foretold, &plan);
    assert!(plan.deployment.money < Amount::from_nanos(5_000_000_000));
}
