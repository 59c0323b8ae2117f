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

#[path = "redis/ground.rs"]
mod ground;

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::{Clock, Hour};
use tollgate::engine::digest;
use tollgate::gate::{Call, End, Outcome};
use tollgate::local::Local;
use tollgate::meter::Reading;
use tollgate::policy::Policy;
use tollgate::route::{OnDisconnect, OnMissingUsage, OnUpstreamError, Terms};
use tollgate::store::redis::RedisStore;
use tollgate::store::{Scarce, Store};

use ground::{
    Server, Speaker, What, account, adjust, core, each, least, open, recharge, replica, say, secret,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ACCOUNTS: usize = 20_000;
/// Accounts that many replicas speak of.
const SHARED: usize = 500;
const REPLICAS: usize = 20;
const HOURS: i64 = 48;
const SUBSCRIBERS: usize = 200;
const ROUNDS: usize = 7;

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
    let mut watcher = server.connect();
    let before = server.cpu();
    for _ in 0..1_000 {
        let _: String = redis::cmd("INFO")
            .arg("replication")
            .query(&mut watcher)
            .unwrap();
    }
    let watch = (server.cpu() - before) / 1_000.0;
    say("whether it goes on (INFO replication)", watch, "us");
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
        capability: None,
    }
}
