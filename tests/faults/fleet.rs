//! One Redis and some replicas, each behind a wire of its own; the endpoint that they stand before; and their control APIs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::money::Amount;
use tollgate::proto::v1;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use v1::account_service_client::AccountServiceClient;
use v1::credit_service_client::CreditServiceClient;
use v1::key_service_client::KeyServiceClient;

use super::load::{Caller, Load};
use crate::support::node::amount;
use crate::support::redis::{Keeps, Server};
use crate::support::tap::{Mode, Tap, To};
use crate::support::upstream::{Reply, Upstream};
use crate::support::within;
use crate::system::process::Process;

/// What healing may take: a fence of one lease where there is one (2 s, or it is said), the longest pause between two tries to
/// connect (1 s), and the rest for a busy machine.
pub(super) const HEAL_MAX: Duration = Duration::from_secs(20);

/// What the control API may take to answer, whatever is away: what the store may take to connect and to answer, some rounds of
/// it, and the rest for a busy machine.
const CONTROL_MAX: Duration = Duration::from_secs(8);

/// What a process may take to end: nothing is in flight, and Redis is there.
const END_MAX: Duration = Duration::from_secs(8);

/// What differs from the usual.
pub(super) struct Plan {
    pub(super) replicas: usize,
    pub(super) keeps: Keeps,
    pub(super) interval: &'static str,
    pub(super) lease: &'static str,
    pub(super) lease_margin: &'static str,
    pub(super) refill_wait: &'static str,
    /// Redis is given up sooner than a default has it, to have more tries within a test; and not where a busy machine counts.
    pub(super) response_timeout: &'static str,
    pub(super) unload_after: &'static str,
    /// How long a replica has not heard the store when it is no longer ready: more than ten intervals.
    pub(super) sync_age_max: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            replicas: 3,
            keeps: Keeps::Everything,
            interval: "50ms",
            lease: "30s",
            lease_margin: "1s",
            refill_wait: "500ms",
            response_timeout: "300ms",
            unload_after: "10m",
            sync_age_max: "1500ms",
        }
    }
}

impl Plan {
    /// With a lease that a test can wait for.
    pub(super) fn short_lease() -> Self {
        Self {
            lease: "2s",
            lease_margin: "200ms",
            ..Self::default()
        }
    }
}

/// [`Plan::short_lease`]'s, as a duration.
pub(super) const SHORT_LEASE: Duration = Duration::from_secs(2);

/// What one call of a model costs. `tokens` costs by its 7 tokens in and 11 out, and holds more than that.
pub(super) fn price(model: &str) -> Amount {
    match model {
        "flat" => amount("1"),
        "odd" => amount("0.001234567"),
        "tokens" => amount("0.000127668"),
        _ => panic!("no price: {model}"),
    }
}

const CONFIG: &str = r#"
[store]
kind = "redis"
url = "REDIS"
data_dir = "DATA_DIR"
connect_timeout = "RESPONSE_TIMEOUT"
response_timeout = "RESPONSE_TIMEOUT"

[sync]
interval = "INTERVAL"
lease = "LEASE"
lease_margin = "MARGIN"
refill_wait = "REFILL_WAIT"

[engine]
load_wait = "500ms"
unload_after = "UNLOAD_AFTER"

[proxy]
listen = "127.0.0.1:0"
workers = 1

[control]
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"
sync_age_max = "SYNC_AGE_MAX"

[log]
format = "json"

[shutdown]
drain_max = "5s"

[[upstreams]]
name = "upstream"
url = "http://UPSTREAM"

[[routes]]
path = "/"
upstream = "upstream"

[[prices]]
pattern = "flat"
unit = "USD"
rates.request = "1"

[[prices]]
pattern = "odd"
unit = "USD"
rates.request = "0.001234567"

[[prices]]
pattern = "tokens"
unit = "USD"
max_output = 1000
rates.input = { price = "2.513", per = "million" }
rates.output = { price = "10.007", per = "million" }

[policies.default]

[policies.paced]
qps = 1000
burst = 10
"#;

const ANSWER: &str = concat!(
    r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"#,
    r#""message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":7,"completion_tokens":11,"total_tokens":18}}"#
);

/// One replica: its wire to Redis, its configuration, and the process while it runs.
pub(super) struct Replica {
    pub(super) tap: Tap,
    pub(super) data_dir: PathBuf,
    config: PathBuf,
    /// With a channel to its control API.
    process: Option<(Process, Channel)>,
}

impl Replica {
    pub(super) fn process(&self) -> &Process {
        &self.process.as_ref().expect("it runs").0
    }

    /// Its control API.
    pub(super) fn channel(&self) -> Channel {
        self.process.as_ref().expect("it runs").1.clone()
    }

    /// Takes the process out, and leaves its control API.
    fn take(&mut self) -> Process {
        self.process.take().expect("it runs").0
    }

    /// A number of its metrics.
    pub(super) async fn metric(&self, series: &str) -> u64 {
        let text = self.process().metric(series).await;
        text.parse()
            .unwrap_or_else(|_| panic!("{series} is {text}"))
    }
}

/// Money that was sent to an account.
struct Paid {
    request: v1::RechargeRequest,
    acknowledged: bool,
}

/// All of it.
pub(super) struct Fleet {
    pub(super) redis: Server,
    pub(super) upstream: Upstream,
    pub(super) replicas: Vec<Replica>,
    pub(super) clock: Clock,
    plan: Plan,
    dir: TempDir,
    paid: Mutex<Vec<Paid>>,
}

impl Fleet {
    /// Starts Redis and the replicas, and waits until all are ready.
    pub(super) async fn start(plan: Plan) -> Self {
        let mut fleet = Self {
            redis: Server::start_with(plan.keeps).await,
            upstream: Upstream::always(Reply::json(ANSWER)).await,
            replicas: Vec::new(),
            clock: Clock::system(),
            dir: TempDir::new().unwrap(),
            paid: Mutex::default(),
            plan,
        };
        for _ in 0..fleet.plan.replicas {
            fleet.add().await;
        }
        for number in fleet.numbers() {
            fleet.is_ready(number).await;
        }
        fleet
    }

    /// Those that run.
    pub(super) fn numbers(&self) -> Vec<usize> {
        let all = self.replicas.iter().enumerate();
        let running = all.filter(|(_, replica)| replica.process.is_some());
        running.map(|(number, _)| number).collect()
    }

    /// One more replica, with a data directory of its own; its number.
    pub(super) async fn add(&mut self) -> usize {
        let number = self.replicas.len();
        let tap = Tap::start(To::Unix(self.redis.socket())).await;
        let config = self.dir.path().join(format!("replica-{number}.toml"));
        let data_dir = self.dir.path().join(format!("data-{number}"));
        let written = [
            ("REDIS", tap.url().as_str()),
            ("DATA_DIR", data_dir.to_str().unwrap()),
            ("UPSTREAM", &self.upstream.address.to_string()),
            ("RESPONSE_TIMEOUT", self.plan.response_timeout),
            ("INTERVAL", self.plan.interval),
            ("LEASE", self.plan.lease),
            ("MARGIN", self.plan.lease_margin),
            ("REFILL_WAIT", self.plan.refill_wait),
            ("UNLOAD_AFTER", self.plan.unload_after),
            ("SYNC_AGE_MAX", self.plan.sync_age_max),
        ]
        .iter()
        .fold(CONFIG.to_owned(), |text, (word, value)| {
            text.replace(&format!("\"{word}\""), &format!("\"{value}\""))
                .replace(&format!("//{word}\""), &format!("//{value}\""))
        });
        std::fs::write(&config, written).unwrap();
        self.replicas.push(Replica {
            tap,
            data_dir,
            config,
            process: None,
        });
        self.run(number).await;
        number
    }

    /// Starts a replica's process, also again.
    pub(super) async fn run(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let process = Process::serve(&replica.config, &[]).await;
        let endpoint = Endpoint::from_shared(process.control.clone()).unwrap();
        let channel = endpoint.timeout(CONTROL_MAX).connect_lazy();
        replica.process = Some((process, channel));
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, number: usize) {
        self.replicas[number].take().kill().await;
    }

    /// SIGTERM, and its end in time, with exit code 0 and without a panic before.
    pub(super) async fn terminate(&mut self, number: usize) {
        let process = self.replicas[number].take();
        let began = self.clock.now().mono;
        process.terminate().await;
        let took = self.clock.now().mono.since(began);
        assert!(took < END_MAX, "replica {number} took {took:?} to end");
    }

    /// Every wire.
    pub(super) fn set_all(&self, mode: Mode) {
        for replica in &self.replicas {
            replica.tap.set(mode);
        }
    }

    /// An account with money, and a key with the secret `sk-of-NAME`.
    pub(super) async fn open(&self, number: usize, name: &str, policy: &str, units: i64) {
        let channel = self.replicas[number].channel();
        let request = v1::CreateAccountRequest {
            account: Some(v1::Account {
                account_id: name.into(),
                unit: "USD".into(),
                policy_id: policy.into(),
                ..v1::Account::default()
            }),
            request_id: format!("open-{name}"),
        };
        let mut accounts = AccountServiceClient::new(channel.clone());
        accounts.create_account(request).await.unwrap();
        self.recharge(number, name, "first", units).await.unwrap();
        let request = v1::CreateKeyRequest {
            key: Some(v1::Key {
                account_id: name.into(),
                key_id: name.into(),
                ..v1::Key::default()
            }),
            secret: format!("sk-of-{name}"),
        };
        let mut keys = KeyServiceClient::new(channel);
        keys.create_key(request).await.unwrap();
    }

    /// Money for an account, under an id of its own, also of the order. It is remembered, to be asked for again.
    pub(super) async fn recharge(
        &self,
        number: usize,
        account: &str,
        id: &str,
        units: i64,
    ) -> Result<v1::RechargeResponse, Status> {
        let request = v1::RechargeRequest {
            account_id: account.into(),
            request_id: format!("{id}-of-{account}"),
            order_id: format!("order-{id}"),
            amount: Some(v1::Amount {
                unit: "USD".into(),
                nanos: units * 1_000_000_000,
            }),
            ..v1::RechargeRequest::default()
        };
        let answer = self.send(number, request.clone()).await;
        let acknowledged = answer.is_ok();
        let mut paid = self.paid.lock().unwrap();
        paid.push(Paid {
            request,
            acknowledged,
        });
        answer
    }

    async fn send(
        &self,
        number: usize,
        request: v1::RechargeRequest,
    ) -> Result<v1::RechargeResponse, Status> {
        let mut client = CreditServiceClient::new(self.replicas[number].channel());
        Ok(client.recharge(request).await?.into_inner())
    }

    /// Each recharge is there once: asked for again at any replica, it is told as it was carried out; one that was not
    /// acknowledged is carried out now, or had been.
    pub(super) async fn recharges_count_once(&self) {
        let paid: Vec<_> = {
            let paid = self.paid.lock().unwrap();
            let each = |paid: &Paid| (paid.request.clone(), paid.acknowledged);
            paid.iter().map(each).collect()
        };
        let numbers = self.numbers();
        for (at, (request, acknowledged)) in paid.into_iter().enumerate() {
            let number = numbers[at % numbers.len()];
            let what = format!("{request:?} is carried out, at last, at replica {number}");
            let answer = within(HEAL_MAX, &what, async || {
                match self.send(number, request.clone()).await {
                    Ok(answer) => Some(answer),
                    Err(status) if status.code() == tonic::Code::Unavailable => None,
                    Err(status) => panic!("{request:?}: {status:?}"),
                }
            });
            let answer = answer.await;
            if acknowledged {
                assert!(answer.replayed, "lost, and carried out again: {request:?}");
            }
        }
        for paid in self.paid.lock().unwrap().iter_mut() {
            paid.acknowledged = true;
        }
    }

    /// All that was sent to an account.
    pub(super) fn paid(&self, account: &str) -> Amount {
        let paid = self.paid.lock().unwrap();
        let of = paid
            .iter()
            .filter(|paid| paid.request.account_id == account);
        let nanos = of.map(|paid| paid.request.amount.as_ref().unwrap().nanos);
        Amount::from_nanos(nanos.sum())
    }

    /// A client of an account at a replica.
    pub(super) fn caller(&self, number: usize, account: &str, model: &'static str) -> Caller {
        let to = self.replicas[number].process().proxy;
        Caller::new(to, number, account, model, &self.clock)
    }

    /// Load on two accounts at a replica: some 50 calls a second of `rich`, as `odd` and `tokens`, and some 25 of `tight`, as
    /// `flat`. As many as show what goes wrong, and few enough for a debug build on two cores.
    pub(super) fn load(&self, number: usize, load: &mut Load) {
        for (account, model) in [("rich", "odd"), ("rich", "tokens"), ("tight", "flat")] {
            let caller = self.caller(number, account, model);
            load.client(caller, Duration::from_millis(40));
        }
    }

    /// A replica is ready.
    pub(super) async fn is_ready(&self, number: usize) {
        let process = self.replicas[number].process();
        let what = format!("replica {number} is ready");
        let ready = async || process.ready().await.0.then_some(());
        within(HEAL_MAX, &what, ready).await;
    }

    /// A replica is ready and its sync goes on: the time since it heard the store is seen to fall, which it does not once a task
    /// of it is dead.
    pub(super) async fn is_well(&self, number: usize) {
        self.is_ready(number).await;
        let process = self.replicas[number].process();
        let age = async || {
            let age = process.metric("tollgate_sync_age_seconds").await;
            age.parse::<f64>().unwrap()
        };
        let mut before = age().await;
        let what = format!("replica {number} hears the store");
        within(HEAL_MAX, &what, async || {
            let now = age().await;
            let fell = now < before;
            before = now;
            (fell && process.metric("tollgate_sync_failing").await == "0").then_some(())
        })
        .await;
        process.has_not_panicked();
    }
}

impl Drop for Fleet {
    /// What the replicas complained of, for the reader of a failure.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut said = String::new();
        for (number, replica) in self.replicas.iter().enumerate() {
            let (made, open) = replica.tap.connections();
            let _ = writeln!(
                said,
                "replica {number}: {made} connections to Redis, {open} open, {} answers lost, {:?}",
                replica.tap.lost(),
                replica.tap.commands()
            );
            let complaints = replica
                .process
                .iter()
                .flat_map(|(process, _)| process.complaints());
            for line in complaints {
                let _ = writeln!(said, "  {line}");
            }
        }
        eprintln!("{said}");
    }
}
