//! A whole node in this process on a clock that the test moves: the proxy before an upstream that does as each call says, the
//! embedded store, and the account `a` under a provider's preset. What a billing backend asks of it is in [`super::backend`].

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tollgate::app;
use tollgate::clock::{Clock, Timestamp};
use tollgate::config;
use tollgate::id::AccountId;
use tollgate::proto::v1;
use tonic::transport::{Channel, Endpoint};

use crate::support::http::{self, Message, Wire};
use crate::support::until;

/// One nano-second: the distance from which every deadline is looked at.
pub(crate) const NS: i64 = 1;
pub(crate) const SECOND: i64 = 1_000_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// What [`World::check`] expects of a call that is let through.
pub(crate) const PASSES: &str = "PASSES";

/// When each world begins: not the first instant of an hour, a day or a month.
const BEGINNING: &str = "2026-03-10T22:15:00.000000007Z";

/// `flat`, `face-detect` and `ocr-read` cost 1 a call and are held for 1. `metered` costs 0.01 for each token of its answer and is held
/// for one, so a call can cost more than it was held for. The waits are longer than a busy machine takes: no case is about them.
const CONFIG: &str = r#"
store.data_dir = "DATA_DIR"
proxy.listen = "127.0.0.1:0"
proxy.workers = 1
control.listen = "127.0.0.1:0"
admin.listen = "127.0.0.1:0"
sync.interval = "20ms"
sync.refill_wait = "5s"
engine.load_wait = "5s"

[[upstreams]]
name = "model"
url = "http://UPSTREAM"

[[routes]]
path = "/"
upstream = "model"

[[prices]]
pattern = "flat"
unit = "USD"
rates.request = "1"

[[prices]]
pattern = "face-detect"
unit = "USD"
rates.request = "1"

[[prices]]
pattern = "ocr-read"
unit = "USD"
rates.request = "1"

[[prices]]
pattern = "metered"
unit = "USD"
max_output = 1
rates.output = "0.01"

[[prices]]
pattern = "free"
unit = "USD"
rates.request = "0"
"#;

/// The node and all that is around it.
pub(crate) struct World {
    pub(crate) running: app::Running,
    pub(super) channel: Channel,
    /// Makes request and order ids.
    pub(super) numbers: AtomicU64,
    preset: String,
    clock: Clock,
    mark: Cell<Timestamp>,
    upstream: Upstream,
    // Last, so that the node has let go of it.
    _dir: TempDir,
}

/// What a caller sees of a call.
#[derive(Debug)]
pub(crate) struct Seen(pub(crate) Message);

/// A call that the upstream has not answered yet.
pub(crate) struct InFlight(JoinHandle<Message>);

impl World {
    /// The account `a` with no money and the key `sk-caller-a`, under a preset.
    pub(crate) async fn under(preset: &str) -> Self {
        Self::configured(preset, "").await
    }

    /// The same with more in the configuration.
    pub(crate) async fn configured(preset: &str, more: &str) -> Self {
        let world = Self::empty(preset, more).await;
        world.open("a").await;
        world
    }

    /// A node without any account.
    pub(super) async fn empty(preset: &str, more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let upstream = Upstream::start().await;
        let written = CONFIG
            .replace("DATA_DIR", dir.path().to_str().unwrap())
            .replace("UPSTREAM", &upstream.address.to_string());
        let config = config::parse(&format!("{written}{more}"), std::iter::empty()).unwrap();
        let clock = Clock::manual(BEGINNING.parse().unwrap());
        let running = app::start(config, clock.clone()).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", running.control_addr)).unwrap();
        Self {
            channel: endpoint.connect().await.unwrap(),
            mark: Cell::new(clock.now().wall),
            numbers: AtomicU64::new(1),
            preset: preset.into(),
            running,
            clock,
            upstream,
            _dir: dir,
        }
    }

    /// Opens an account under the preset, with a key whose secret is `sk-caller-NAME`.
    pub(crate) async fn open(&self, name: &str) {
        let account = v1::Account {
            account_id: name.into(),
            unit: "USD".into(),
            policy_id: self.preset.clone(),
            ..v1::Account::default()
        };
        self.create(account).await.unwrap();
        self.key(name, &format!("k-{name}"), &format!("sk-caller-{name}"))
            .await;
    }

    /// Now.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    /// From here on [`World::at`] counts.
    pub(crate) fn mark(&self) {
        self.mark.set(self.now());
    }

    /// The instant from which [`World::at`] counts.
    pub(super) fn marked(&self) -> Timestamp {
        self.mark.get()
    }

    /// Moves the clock to so many nano-seconds after the mark.
    pub(crate) fn at(&self, offset: i64) {
        let by = self.mark.get().nanos() + offset - self.now().nanos();
        let by = u64::try_from(by).expect("time only goes on");
        self.clock.advance(Duration::from_nanos(by));
    }

    /// Moves the clock to an instant.
    pub(crate) fn to(&self, instant: &str) {
        let instant: Timestamp = instant.parse().unwrap();
        self.at(instant.nanos() - self.mark.get().nanos());
    }

    /// A call through the proxy with the key of `a`. If it passed, what it cost has been published on return, and what follows from
    /// that has been written down.
    pub(crate) async fn call(&self, model: &str) -> Seen {
        self.call_as("sk-caller-a", model, 0).await
    }

    /// The same with another secret, for an answer of so many tokens.
    pub(crate) async fn call_as(&self, secret: &str, model: &str, tokens: u64) -> Seen {
        self.call_with(secret, model, 0, tokens).await
    }

    /// The same with so many tokens in the question too.
    pub(crate) async fn call_with(
        &self,
        secret: &str,
        model: &str,
        input: u64,
        output: u64,
    ) -> Seen {
        let charges = self.charges().await;
        let request = request(secret, model, (input, output), false);
        let seen = Seen(http::call(self.running.proxy_addr, request).await);
        if seen.0.status() == 200 {
            self.charged(charges + 1).await;
        }
        seen
    }

    /// A call that costs this much, though it was held for 0.01.
    pub(crate) async fn spend(&self, cost: &str) {
        let cents = crate::support::node::amount(cost).nanos() / 10_000_000;
        let tokens = u64::try_from(cents).unwrap();
        let seen = self.call_as("sk-caller-a", "metered", tokens).await;
        assert_eq!(seen.said(), PASSES);
    }

    /// A call that the upstream has and does not answer before [`World::answer`].
    pub(crate) async fn begin(&self, model: &str, tokens: u64) -> InFlight {
        let waiting = self.upstream.waiting();
        let (to, request) = (
            self.running.proxy_addr,
            request("sk-caller-a", model, (0, tokens), true),
        );
        let call = tokio::spawn(async move { http::call(to, request).await });
        until("the upstream has the call", async || {
            (self.upstream.waiting() > waiting).then_some(())
        })
        .await;
        InFlight(call)
    }

    /// Lets the upstream answer all calls that it has; waits for this one's end, as [`World::call`] does.
    pub(crate) async fn answer(&self, call: InFlight) -> Seen {
        let charges = self.charges().await;
        self.upstream.answer_all();
        let seen = Seen(call.0.await.unwrap());
        assert_eq!(seen.said(), PASSES, "it was admitted");
        self.charged(charges + 1).await;
        seen
    }

    /// At each offset from the mark, a call of a model, and what its caller is told: [`PASSES`] or the reason of the refusal.
    pub(crate) async fn check(&self, cases: &[(i64, &str, &str)]) {
        for (offset, model, want) in cases {
            self.at(*offset);
            let seen = self.call(model).await;
            let hours = offset / HOUR;
            assert_eq!(
                seen.said(),
                *want,
                "{model} at {offset} ns ({hours} h): {seen:?}"
            );
        }
    }

    /// The same for one call, now.
    pub(crate) async fn check_now(&self, model: &str, want: &str) {
        let seen = self.call(model).await;
        assert_eq!(seen.said(), want, "{model}: {seen:?}");
    }

    /// How many of so many calls in one instant pass; the others are too many for the rate.
    pub(crate) async fn passes(&self, model: &str, calls: usize) -> usize {
        let mut passed = 0;
        for _ in 0..calls {
            match self.call(model).await.said() {
                PASSES => passed += 1,
                // A rate that nobody asked for is elsewhere, and comes with the next word of the store.
                "QPS_EXCEEDED" => self.sync_now().await,
                "INSUFFICIENT_BALANCE" => {}
                other => panic!("{other}"),
            }
        }
        passed
    }

    /// Waits until so many events of a kind were sent, without any call: the node sees to it by itself. There are no more then.
    pub(crate) async fn told(&self, kind: &str, times: usize) -> Vec<v1::Event> {
        let what = format!("{times} x {kind}");
        let events = until(&what, async || {
            let events = self.events(kind).await;
            (events.len() >= times).then_some(events)
        })
        .await;
        assert_eq!(events.len(), times, "{kind}: {events:?}");
        events
    }

    /// Waits until a hold has ended by itself: its time is over.
    pub(crate) async fn expired(&self, hold: &str) {
        let core = &self.running.core;
        until(&format!("hold {hold} expires"), async || {
            let account = AccountId::new("a").unwrap();
            let held = core.sync.live(&account).held;
            (held == tollgate::money::Amount::ZERO).then_some(())
        })
        .await;
        self.quiet().await;
    }

    /// Publishes, and waits until all that follows is written down and known here. The node does it by itself; here it is awaited.
    pub(crate) async fn quiet(&self) {
        self.sync_now().await;
        let core = &self.running.core;
        until("all that is due is observed", async || {
            for account in self.all_accounts().await {
                let snapshot = core.store.read(&account, &[]).await.unwrap().unwrap();
                let policy = core.catalog.policy_of(&snapshot.book);
                let now = self.now();
                let spent = snapshot.spent();
                if snapshot.book.wants_observing(spent, &policy, now) {
                    return None;
                }
            }
            Some(())
        })
        .await;
        for account in self.all_accounts().await {
            core.sync.refresh(&account).await.unwrap();
        }
    }

    async fn all_accounts(&self) -> Vec<AccountId> {
        self.running.core.store.accounts(None, 1_000).await.unwrap()
    }

    async fn charged(&self, charges: u64) {
        until("the call is settled", async || {
            (self.charges().await >= charges).then_some(())
        })
        .await;
        self.quiet().await;
    }

    /// How many calls were settled, as the metrics say.
    async fn charges(&self) -> u64 {
        self.metric("tollgate_charges_total").await
    }

    /// The sum of a counter over all its labels, as the admin edge says it.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let request = "GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n";
        let page = http::call(self.running.admin_addr, request).await.text();
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest.starts_with(['{', ' ']).then_some(rest)?;
            value.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.sum::<f64>() as u64
    }
}

impl Seen {
    /// [`PASSES`], or the reason of the refusal.
    pub(crate) fn said(&self) -> &str {
        match self.0.header("x-tollgate-reason") {
            Some(reason) => reason,
            None if self.0.status() == 200 => PASSES,
            None => panic!("neither an answer nor a refusal: {:?}", self.0),
        }
    }
}

/// A call of a chat. The upstream does as its body says: an answer of so many tokens, at once or when it is told to.
pub(crate) fn request(secret: &str, model: &str, tokens: (u64, u64), waits: bool) -> String {
    let message = json!({"role": "user", "content": "hi"});
    let body = json!({"model": model, "messages": [message], "input": tokens.0, "output": tokens.1, "waits": waits});
    let (body, path) = (body.to_string(), "/v1/chat/completions");
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: tollgate.test\r\nauthorization: Bearer {secret}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// A model that answers each call as it asks to be answered.
struct Upstream {
    address: SocketAddr,
    waiting: std::sync::Arc<AtomicU64>,
    answers: watch::Sender<u64>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, answered) = watch::channel(0);
        let waiting = std::sync::Arc::new(AtomicU64::new(0));
        let seen = waiting.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let wire = Wire::over(stream);
                tokio::spawn(serve(wire, seen.clone(), answered.clone()));
            }
        });
        Self {
            address,
            waiting,
            answers,
        }
    }

    /// How many calls were ever made to wait.
    fn waiting(&self) -> u64 {
        self.waiting.load(SeqCst)
    }

    fn answer_all(&self) {
        self.answers.send_replace(self.waiting());
    }
}

async fn serve(
    mut wire: Wire,
    waiting: std::sync::Arc<AtomicU64>,
    mut answered: watch::Receiver<u64>,
) {
    while let Some(request) = wire.message().await {
        let asked = request.json();
        if asked["waits"] == true {
            let turn = waiting.fetch_add(1, SeqCst) + 1;
            if answered.wait_for(|upto| *upto >= turn).await.is_err() {
                return;
            }
        }
        let [input, output] = ["input", "output"].map(|name| asked[name].as_u64().unwrap());
        let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
        let message = json!({"role": "assistant", "content": "hello"});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let body = json!({"object": "chat.completion", "model": asked["model"], "choices": [choice], "usage": usage})
            .to_string();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        wire.send(head + &body).await;
    }
}
