//! What a Redis pays for tollgate's words, and a replica for saying them: the constants of the planner
//! (`tollgate simulate`, `src/plan/costs.rs`), measured on a real `redis-server` with the real scripts.
//!
//! `cargo bench --bench redis`, about a minute. The server keeps an append-only file, as a store of money does
//! (`appendfsync everysec`), and is reached over TCP on loopback. CPU is what its main thread used, user and system, by its own
//! `INFO cpu`: the other threads (fsync, freeing) run beside it and are no bound. Rounds of all kinds are interleaved, and figures are
//! the least of the rounds': what disturbs a server (its neighbours, its caches) only adds to what it uses. Memory is the growth of
//! `used_memory`; of a replica, the growth of this process' resident memory.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench measures in floats and may end with a panic"
)]

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
use tollgate::gate::{Call, End, Outcome};
use tollgate::id::{AccountId, KeyId, ModelName, ReplicaId};
use tollgate::ledger::{Action, Command as Order};
use tollgate::local::Local;
use tollgate::meter::Reading;
use tollgate::money::Amount;
use tollgate::policy::{Overrides, Policy};
use tollgate::pricing::{Per, Price, Rate};
use tollgate::route::{OnDisconnect, OnMissingUsage, OnUpstreamError, Terms};
use tollgate::store::redis::{Reach, RedisStore, Settings};
use tollgate::store::{KeyRecord, Publish, Scarce, Sought, Standing, Store, UsageRow};
use tollgate::sync;
use tollgate::telemetry::Metrics;
use tollgate::usage::{Counts, Meter, Tally};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ACCOUNTS: usize = 20_000;
/// Accounts that many replicas speak of.
const SHARED: usize = 500;
const REPLICAS: usize = 20;
const HOURS: i64 = 48;
const SUBSCRIBERS: usize = 200;
const ROUNDS: usize = 7;

struct Server {
    child: Child,
    _dir: tempfile::TempDir,
    url: String,
    line: redis::Connection,
}

impl Server {
    fn start() -> Self {
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

    fn info(&mut self, section: &str) -> HashMap<String, String> {
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
    fn cpu(&mut self) -> f64 {
        let info = self.info("cpu");
        ["used_cpu_user_main_thread", "used_cpu_sys_main_thread"]
            .iter()
            .map(|name| info[*name].parse::<f64>().unwrap())
            .sum::<f64>()
            * 1e6
    }

    fn memory(&mut self) -> f64 {
        self.info("memory")["used_memory"].parse().unwrap()
    }

    fn network(&mut self) -> (f64, f64) {
        let info = self.info("stats");
        let figure = |name: &str| info[name].parse::<f64>().unwrap();
        (
            figure("total_net_input_bytes"),
            figure("total_net_output_bytes"),
        )
    }

    fn store(&self) -> Arc<RedisStore> {
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

fn least(of: &[f64]) -> f64 {
    of.iter().copied().fold(f64::INFINITY, f64::min)
}

fn account(number: usize) -> AccountId {
    // As long as a UUID.
    AccountId::new(&format!("acct-{number:031}")).unwrap()
}

fn replica(number: usize) -> ReplicaId {
    ReplicaId::new(&format!("replica-{number:028}")).unwrap()
}

fn key(number: usize) -> KeyId {
    KeyId::new(&format!("key-{number:016}")).unwrap()
}

fn secret(number: usize) -> String {
    format!("sk-proj-{number:043}")
}

fn say(name: &str, value: f64, unit: &str) {
    println!("{name:<52}{value:>12.2} {unit}");
}

fn core(store: Arc<dyn Store>, local: Option<Arc<Local>>, policy: Policy) -> Arc<Core> {
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
async fn open(core: &Core, number: usize) {
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
    };
    core.store.put_key(2, record).await.unwrap();
}

async fn recharge(core: &Core, number: usize, order: usize) {
    let action = Action::Recharge {
        amount: "100".parse().unwrap(),
        order_id: format!("order-{number:010}-{order:010}"),
        priority: 0,
        expires: None,
        note: String::new(),
    };
    run_command(core, number, order, action).await;
}

async fn adjust(core: &Core, number: usize, order: usize, by: &str) {
    let action = Action::Adjust {
        amount: by.parse().unwrap(),
        note: "bench".into(),
    };
    run_command(core, number, order, action).await;
}

async fn run_command(core: &Core, number: usize, order: usize, action: Action) {
    let command = Order {
        idempotency_key: Some(format!("command-{number:013}-{order:014}")),
        action,
    };
    core.books.run(&account(number), command).await.unwrap();
}

/// Does something for each number, some at once.
async fn each<F: Future<Output = ()>>(numbers: std::ops::Range<usize>, act: impl Fn(usize) -> F) {
    stream::iter(numbers).for_each_concurrent(32, act).await;
}

/// A replica that says things, and what stands for it by the last answers.
struct Speaker {
    store: Arc<RedisStore>,
    replica: ReplicaId,
    stands: HashMap<usize, (Standing, u64)>,
    hour: Hour,
    calls: u64,
}

/// What a message brings.
#[derive(Clone, Copy, PartialEq)]
enum What {
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
    fn new(store: &Arc<RedisStore>, number: usize, hour: i64) -> Self {
        Self {
            store: Arc::clone(store),
            replica: replica(number),
            stands: HashMap::new(),
            hour: Hour(hour),
            calls: 0,
        }
    }

    fn rows(&self, number: usize, models: usize) -> Vec<UsageRow> {
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

    async fn publish(&mut self, accounts: std::ops::Range<usize>, batch: usize, what: What) {
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

/// CPU of the server for one account's message, at this size of batch.
async fn per_message(server: &mut Server, speaker: &mut Speaker, batch: usize, what: What) -> f64 {
    let accounts = (batch * 100).clamp(1_000, ACCOUNTS);
    let before = server.cpu();
    speaker.publish(0..accounts, batch, what).await;
    (server.cpu() - before) / accounts as f64
}

/// CPU of the server for one call of something.
async fn per_call<F: Future<Output = ()>>(server: &mut Server, act: impl Fn(usize) -> F) -> f64 {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let before = server.cpu();
        for number in 0..1_000 {
            act(number).await;
        }
        rounds.push((server.cpu() - before) / 1_000.0);
    }
    least(&rounds)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let mut server = Server::start();
    let info = server.info("server");
    println!("redis {}\n", info["redis_version"]);
    let store = server.store();
    let books = core(
        Arc::clone(&store) as Arc<dyn Store>,
        None,
        Policy::default(),
    );

    let empty = server.memory();
    each(0..ACCOUNTS, |number| open(&books, number)).await;
    let opened = server.memory();
    say(
        "memory: an account",
        (opened - empty) / ACCOUNTS as f64,
        "bytes",
    );

    let mut speaker = Speaker::new(&store, 1, 500_000);
    println!("\nCPU of Redis for a message, by the number of messages in a pipeline");
    let kinds = [
        ("spend, 1 model", What::Spend(1)),
        ("rows of 1 model, no spend", What::Rows(1)),
        ("rows of 3 models, no spend", What::Rows(3)),
        ("heartbeat", What::Beat),
        ("spend, 1 model, shares", What::Shares),
    ];
    speaker.publish(0..ACCOUNTS, 256, What::Spend(3)).await;
    let batches = [1, 4, 16, 64, 256];
    let mut rounds = vec![[const { Vec::new() }; 5]; kinds.len()];
    for _ in 0..ROUNDS {
        for (of_kind, (_, what)) in rounds.iter_mut().zip(kinds) {
            for (of_batch, batch) in of_kind.iter_mut().zip(batches) {
                of_batch.push(per_message(&mut server, &mut speaker, batch, what).await);
            }
        }
    }
    for (of_kind, (name, _)) in rounds.iter().zip(kinds) {
        let at: Vec<f64> = of_kind.iter().map(|rounds| least(rounds)).collect();
        let shown: Vec<String> = at.iter().map(|each| format!("{each:>8.1}")).collect();
        println!("{name:<40}{} us", shown.join(""));
        // Of two sizes: total = a + b × n.
        let slope = (at[4] * 256.0 - at[0]) / 255.0;
        println!(
            "{:<40}{:>8.2} us a message + {:.2} us a pipeline",
            "",
            slope,
            at[0] - slope
        );
    }

    let before = server.network();
    speaker.publish(0..ACCOUNTS, 256, What::Spend(1)).await;
    let after = server.network();
    say(
        "network in, spend of 1 model",
        (after.0 - before.0) / ACCOUNTS as f64,
        "bytes",
    );
    say(
        "network out, spend of 1 model",
        (after.1 - before.1) / ACCOUNTS as f64,
        "bytes",
    );

    println!("\nCPU of Redis for other words, one at a time");
    let hour = Hour(500_000);
    let one = replica(1);
    let (s, r) = (&store, &one);
    let opens = async |n| drop(s.open(&account(n), r, hour).await.unwrap());
    say(
        "taking an account up (READ, TOUCH)",
        per_call(&mut server, opens).await,
        "us",
    );
    let finds = async |n| drop(s.find_key(&digest(secret(n).as_bytes())).await.unwrap());
    say(
        "finding a key (GET, HEXISTS)",
        per_call(&mut server, finds).await,
        "us",
    );
    let keys = async |n| drop(s.keys(&account(n)).await.unwrap());
    say(
        "an account's keys (HVALS)",
        per_call(&mut server, keys).await,
        "us",
    );
    let reads = async |n| drop(s.read(&account(n), &[]).await.unwrap());
    say(
        "reading a book (READ)",
        per_call(&mut server, reads).await,
        "us",
    );
    let entries = async |n| drop(s.entries(&account(n), 0, 64).await.unwrap());
    say(
        "the end of a ledger (HGET, LRANGE)",
        per_call(&mut server, entries).await,
        "us",
    );
    let pings = async |_| s.ping().await.unwrap();
    say("PING", per_call(&mut server, pings).await, "us");
    let scarce = async |n| s.tell_scarce(&account(n), Scarce::Money).await.unwrap();
    let alone = per_call(&mut server, scarce).await;
    say("telling that money is scarce, 1 listener", alone, "us");
    let before = server.memory();
    let (mut rounds, mut order) = (Vec::new(), 1);
    for _ in 0..ROUNDS {
        speaker.publish(0..2_000, 256, What::Spend(1)).await;
        let before = server.cpu();
        for number in 0..2_000 {
            recharge(&books, number, order).await;
        }
        rounds.push((server.cpu() - before) / 2_000.0);
        order += 1;
    }
    say("a recharge (READ, COMMIT)", least(&rounds), "us");
    let grown = (server.memory() - before) / (2_000 * ROUNDS) as f64;
    say(
        "memory: a recharge, with the spend before it",
        grown,
        "bytes",
    );

    events(&mut server).await;
    println!("\nmemory of replicas' rows");
    let mut others: Vec<Speaker> = (0..REPLICAS)
        .map(|number| Speaker::new(&store, 100 + number, 600_000))
        .collect();
    // A heartbeat makes the row alone.
    let before = server.memory();
    for other in &mut others {
        other.publish(0..SHARED, 256, What::Beat).await;
    }
    let rows = (SHARED * REPLICAS) as f64;
    let beat = server.memory();
    say(
        "memory: a replica's row of an account",
        (beat - before) / rows,
        "bytes",
    );
    for other in &mut others {
        other.publish(0..SHARED, 256, What::Spend(1)).await;
    }
    let first = server.memory();
    for hour in 1..=HOURS {
        for other in &mut others {
            other.hour = Hour(600_000 + hour);
            other.publish(0..SHARED, 256, What::Spend(1)).await;
        }
    }
    let hours = (server.memory() - first) / (rows * HOURS as f64);
    say("memory: an hour of it, 1 model", hours, "bytes");
    say(
        "memory: usage of all time, 1 model",
        (first - beat) / rows - hours,
        "bytes",
    );
    let before = server.memory();
    for hour in 1..=HOURS {
        for other in &mut others {
            other.hour = Hour(610_000 + hour);
            other.publish(0..SHARED, 256, What::Spend(3)).await;
        }
    }
    let three = (server.memory() - before) / (rows * HOURS as f64);
    say("memory: an hour of it, 3 models", three, "bytes");

    silent(&mut server, &store).await;
    println!("\nlisteners");
    let before = server.memory();
    let mut listeners = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let listener = server.store();
        listener.ping().await.unwrap();
        listeners.push(listener);
    }
    let listening = async || {
        let text: Vec<redis::Value> = redis::cmd("PUBSUB")
            .arg("NUMSUB")
            .arg("tg:changes")
            .query(&mut server.line)
            .unwrap();
        matches!(text.get(1), Some(redis::Value::Int(n)) if *n as usize > SUBSCRIBERS)
    };
    wait_for(listening).await;
    let connected = (server.memory() - before) / SUBSCRIBERS as f64;
    say("memory: a replica's two connections", connected, "bytes");
    let many = per_call(&mut server, scarce).await;
    say("telling that money is scarce, 201 listeners", many, "us");
    say(
        "a delivery to one listener",
        (many - alone) / SUBSCRIBERS as f64,
        "us",
    );
    drop(listeners);
    replica_side(&server).await;
}

/// An event that is relayed: a command that makes one, less one that makes none.
async fn events(server: &mut Server) {
    let policy = Policy {
        low_balance: Some("1000000".parse().unwrap()),
        ..Policy::default()
    };
    let core = core(server.store(), None, policy);
    let pairs = [("2000000", "-1500000"), ("10", "-10")];
    let mut took = [0.0, 0.0];
    for (place, (up, down)) in pairs.into_iter().enumerate() {
        let before = server.cpu();
        for number in 2_000..4_000 {
            adjust(&core, number, 1_000 + 2 * place, up).await;
            adjust(&core, number, 1_001 + 2 * place, down).await;
        }
        took[place] = (server.cpu() - before) / 2_000.0;
    }
    say(
        "an event that is relayed (LRANGE, RELAY, DRAIN)",
        took[0] - took[1],
        "us",
    );
}

/// Looking for silent replicas, among few and among many; and taking back what they have.
async fn silent(server: &mut Server, store: &Arc<RedisStore>) {
    let (hour, none) = (Duration::from_secs(3_600), Duration::ZERO);
    let mut took = Vec::new();
    for from in [0, SHARED] {
        let before = server.cpu();
        for number in from..from + SHARED {
            store.lapse(&account(number), hour, hour).await.unwrap();
        }
        took.push((server.cpu() - before) / SHARED as f64);
    }
    say(
        "a look for silent replicas (TIME, SMEMBERS, READ)",
        took[1],
        "us",
    );
    say(
        "each row it reads more",
        (took[0] - took[1]) / REPLICAS as f64,
        "us",
    );
    let before = server.cpu();
    let mut lapsed = 0;
    for number in 0..SHARED {
        lapsed += store
            .lapse(&account(number), none, hour)
            .await
            .unwrap()
            .lapsed;
    }
    let all = server.cpu() - before - took[0] * SHARED as f64;
    say(
        "taking back what a silent replica has (LAPSE)",
        all / lapsed as f64,
        "us",
    );
}

async fn wait_for(mut ask: impl AsyncFnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..1_000 {
        ticks.tick().await;
        if ask().await {
            return;
        }
    }
    panic!("waited in vain for the listeners");
}

/// What a replica pays for an account that it has loaded, and for publishing it.
async fn replica_side(server: &Server) {
    println!("\na replica's side");
    let dir = tempfile::tempdir().unwrap();
    let local = Local::open(dir.path(), Clock::system().now().wall, || replica(0)).unwrap();
    let core = core(server.store(), Some(Arc::new(local)), Policy::default());
    let terms = terms();
    let resident = || -> f64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4_096.0
    };
    // Ticks of 10 ms.
    let cpu = || -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let words: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
        (words[12].parse::<f64>().unwrap() + words[13].parse::<f64>().unwrap()) * 10_000.0
    };
    let call_all = async || {
        each(0..ACCOUNTS, |number| {
            let (core, terms) = (&core, &terms);
            async move {
                let secret = secret(number);
                let call = Call {
                    secret: Some(secret.as_bytes()),
                    terms,
                    model: Some("model-of-a-kind-0"),
                    max_output: Some(10),
                    choices: 1,
                    request_bytes: 30,
                };
                let ticket = core.gate.admit(&call).await.unwrap();
                ticket.settle(Outcome {
                    end: End::Complete,
                    reading: Reading::default(),
                    bytes_in: 0,
                    bytes_out: 0,
                });
            }
        })
        .await;
    };
    let before = resident();
    call_all().await;
    core.sync.sync_now().await.unwrap();
    say(
        "memory: an account that is loaded",
        (resident() - before) / ACCOUNTS as f64,
        "bytes",
    );
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        call_all().await;
        let before = cpu();
        let report = core.sync.sync_now().await.unwrap();
        assert_eq!(report.accounts, ACCOUNTS);
        rounds.push((cpu() - before) / ACCOUNTS as f64);
    }
    say(
        "CPU: publishing an account in a round",
        least(&rounds),
        "us",
    );
}

fn terms() -> Terms {
    Terms {
        route: "bench".into(),
        api: None,
        dialect: None,
        model: None,
        free: false,
        usage_headers: Default::default(),
        on_disconnect: OnDisconnect::Drain,
        on_missing_usage: OnMissingUsage::Hold,
        on_upstream_error: OnUpstreamError::Metered,
        drain_time_max: Duration::from_secs(5),
        drain_bytes_max: 1 << 20,
        inspect_bytes_max: 1 << 16,
        body_bytes_max: 1 << 20,
        first_byte_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
    }
}
