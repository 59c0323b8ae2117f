//! What `benches/redis.rs` stands on: a server, accounts in it, and replicas that speak of them.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tollgate::app::{Core, Parts};
use tollgate::catalog::Layer;
use tollgate::clock::{Clock, Hour, Timestamp};
use tollgate::engine::{Bounds, digest};
use tollgate::id::{AccountId, KeyId, ModelName, ReplicaId};
use tollgate::ledger::{Action, Command as Order};
use tollgate::local::Local;
use tollgate::money::Amount;
use tollgate::policy::{Overrides, Policy};
use tollgate::pricing::{Per, Price, Rate};
use tollgate::store::redis::{Reach, RedisStore, Settings};
use tollgate::store::{KeyRecord, Publish, Sought, Standing, Store, UsageRow};
use tollgate::sync;
use tollgate::telemetry::Metrics;
use tollgate::usage::{Counts, Meter, Tally};

pub(crate) struct Server {
    child: Child,
    _dir: tempfile::TempDir,
    url: String,
    pub(crate) line: redis::Connection,
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Another process could take it between the two; then this one ends with an error.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--daemonize", "no", "--maxclients", "20000"])
            .args(["--appendonly", "yes", "--appendfsync", "everysec"])
            .args(["--auto-aof-rewrite-percentage", "0"])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("redis://127.0.0.1:{port}");
        let client = redis::Client::open(url.as_str()).unwrap();
        let mut tries = 0;
        let line = loop {
            match client.get_connection_with_timeout(Duration::from_secs(1)) {
                Ok(line) => break line,
                Err(error) if tries > 2_000 => panic!("redis-server: {error}"),
                Err(_) => tries += 1,
            }
            std::thread::yield_now();
        };
        Self {
            child,
            _dir: dir,
            url,
            line,
        }
    }

    pub(crate) fn info(&mut self, section: &str) -> HashMap<String, String> {
        let text: String = redis::cmd("INFO")
            .arg(section)
            .query(&mut self.line)
            .unwrap();
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// Microseconds of CPU that the main thread has used.
    pub(crate) fn cpu(&mut self) -> f64 {
        let info = self.info("cpu");
        ["used_cpu_user_main_thread", "used_cpu_sys_main_thread"]
            .iter()
            .map(|name| info[*name].parse::<f64>().unwrap())
            .sum::<f64>()
            * 1e6
    }

    pub(crate) fn memory(&mut self) -> f64 {
        self.info("memory")["used_memory"].parse().unwrap()
    }

    pub(crate) fn network(&mut self) -> (f64, f64) {
        let info = self.info("stats");
        let figure = |name: &str| info[name].parse::<f64>().unwrap();
        (
            figure("total_net_input_bytes"),
            figure("total_net_output_bytes"),
        )
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        client.get_connection().unwrap()
    }

    pub(crate) fn store(&self) -> Arc<RedisStore> {
        let settings = Settings {
            reach: Reach::Server(self.url.clone()),
            response_timeout: Duration::from_secs(30),
            ..Settings::default()
        };
        Arc::new(RedisStore::connect(settings, Clock::system()).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) fn least(of: &[f64]) -> f64 {
    of.iter().copied().fold(f64::INFINITY, f64::min)
}

pub(crate) fn account(number: usize) -> AccountId {
    // As long as a UUID.
    AccountId::new(&format!("acct-{number:031}")).unwrap()
}

pub(crate) fn replica(number: usize) -> ReplicaId {
    ReplicaId::new(&format!("replica-{number:028}")).unwrap()
}

pub(crate) fn key(number: usize) -> KeyId {
    KeyId::new(&format!("key-{number:016}")).unwrap()
}

pub(crate) fn secret(number: usize) -> String {
    format!("sk-proj-{number:043}")
}

pub(crate) fn say(name: &str, value: f64, unit: &str) {
    println!("{name:<52}{value:>12.2} {unit}");
}

pub(crate) fn core(store: Arc<dyn Store>, local: Option<Arc<Local>>, policy: Policy) -> Arc<Core> {
    let price = Price {
        pattern: "*".into(),
        unit: "USD".into(),
        rates: [(
            Meter::Request,
            Rate {
                price: "0.000001".parse().unwrap(),
                per: Per::Unit,
            },
        )]
        .into(),
        max_output: None,
    };
    let layer = Layer {
        prices: vec![price],
        policies: [("default".to_owned(), policy)].into(),
        ..Layer::default()
    };
    Core::new(Parts {
        store,
        replica: replica(0),
        layer,
        local,
        clock: Clock::system(),
        // Nothing is refused on a machine that has other things to do.
        sync: sync::Settings {
            refill_wait: Duration::from_secs(30),
            load_wait: Duration::from_secs(30),
            ..sync::Settings::default()
        },
        bounds: Bounds::default(),
        holds_max: 1_000,
        metrics: Metrics::default(),
    })
    .unwrap()
}

/// Opens an account with money and a key, as a billing backend does.
pub(crate) async fn open(core: &Core, number: usize) {
    let id = account(number);
    let overrides = Overrides::default();
    let books = &core.books;
    books
        .open(id.clone(), "USD".into(), None, None, overrides, None)
        .await
        .unwrap();
    recharge(core, number, 0).await;
    let record = KeyRecord {
        id: key(number),
        account: id.clone(),
        digest: digest(secret(number).as_bytes()),
        name: "production".into(),
        hint: "sk-proj-1".into(),
        created: Timestamp::from_nanos(1_790_000_000_000_000_000),
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        budgets: Vec::new(),
        service: String::new(),
    };
    core.store.put_key(2, record).await.unwrap();
}

pub(crate) async fn recharge(core: &Core, number: usize, order: usize) {
    let action = Action::Recharge {
        amount: "100".parse().unwrap(),
        order_id: format!("order-{number:010}-{order:010}"),
        priority: 0,
        expires: None,
        note: String::new(),
    };
    run_command(core, number, order, action).await;
}

pub(crate) async fn adjust(core: &Core, number: usize, order: usize, by: &str) {
    let action = Action::Adjust {
        amount: by.parse().unwrap(),
        note: "bench".into(),
    };
    run_command(core, number, order, action).await;
}

pub(crate) async fn run_command(core: &Core, number: usize, order: usize, action: Action) {
    let command = Order {
        idempotency_key: Some(format!("command-{number:013}-{order:014}")),
        action,
    };
    core.books.run(&account(number), command).await.unwrap();
}

/// Does something for each number, some at once.
pub(crate) async fn each<F: Future<Output = ()>>(
    numbers: std::ops::Range<usize>,
    act: impl Fn(usize) -> F,
) {
    stream::iter(numbers).for_each_concurrent(32, act).await;
}

/// A replica that says things, and what stands for it by the last answers.
pub(crate) struct Speaker {
    store: Arc<RedisStore>,
    replica: ReplicaId,
    stands: HashMap<usize, (Standing, u64)>,
    pub(crate) hour: Hour,
    calls: u64,
}

/// What a message brings.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum What {
    /// Spend, with rows of so many models.
    Spend(usize),
    /// Rows, and the spend as before: no word in the feed.
    Rows(usize),
    /// That the replica lives.
    Beat,
    /// Spend of one model, and a share of a rate.
    Shares,
}

impl Speaker {
    pub(crate) fn new(store: &Arc<RedisStore>, number: usize, hour: i64) -> Self {
        Self {
            store: Arc::clone(store),
            replica: replica(number),
            stands: HashMap::new(),
            hour: Hour(hour),
            calls: 0,
        }
    }

    pub(crate) fn rows(&self, number: usize, models: usize) -> Vec<UsageRow> {
        let tally = Tally {
            exact: self.calls,
            counts: Counts::default()
                .with(Meter::Request, self.calls)
                .with(Meter::Input, 1_234 * self.calls)
                .with(Meter::Output, 567 * self.calls),
            cost_nanos: i64::try_from(self.calls).unwrap() * 10_000,
            ..Tally::default()
        };
        let rows = (0..models).flat_map(|model| {
            let model = ModelName::new(&format!("model-of-a-kind-{model}")).unwrap();
            [Some(self.hour), None].map(|hour| UsageRow {
                hour,
                key: key(number),
                model: Some(model.clone()),
                tally,
            })
        });
        rows.collect()
    }

    pub(crate) async fn publish(
        &mut self,
        accounts: std::ops::Range<usize>,
        batch: usize,
        what: What,
    ) {
        self.calls += 7;
        let numbers: Vec<usize> = accounts.collect();
        for chunk in numbers.chunks(batch) {
            let messages = chunk.iter().map(|number| {
                let (believed, seq) = self.stands.get(number).copied().unwrap_or_default();
                let spent = matches!(what, What::Spend(_) | What::Shares);
                let spend = Amount::from_nanos(believed.spend.nanos() + i64::from(spent) * 70_000);
                let usage = match what {
                    What::Spend(models) | What::Rows(models) => self.rows(*number, models),
                    What::Shares => self.rows(*number, 1),
                    What::Beat => Vec::new(),
                };
                let limit = if what == What::Shares { 10_000 } else { 0 };
                Publish {
                    account: account(*number),
                    seq: seq + 1,
                    history: None,
                    believed,
                    new: Standing {
                        spend,
                        committed: believed.committed.max(spend),
                        ..believed
                    },
                    held: Amount::from_nanos(1_000_000),
                    want: Amount::from_nanos(100_000),
                    need: Amount::ZERO,
                    least: Amount::ZERO,
                    seen: believed.spend,
                    total: believed.spend,
                    rate: Sought {
                        limit,
                        demand: limit / 2,
                        want: limit / 10,
                    },
                    places: Sought::default(),
                    usage,
                }
            });
            let answers = self.store.publish(&self.replica, messages.collect()).await;
            for (number, answer) in chunk.iter().zip(answers) {
                let answer = answer.unwrap();
                assert!(answer.applied, "{answer:?}");
                self.stands.insert(*number, (answer.standing, answer.seq));
            }
        }
    }
}
