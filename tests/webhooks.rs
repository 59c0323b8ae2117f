//! Webhooks from the outside: real processes over a real Redis, and a receiver on loopback that is away, slow, wrong or hangs as a test
//! says. What the receiver took is compared with the feed: every event, once, in its account's order.

mod desk;
mod faults;
mod panics;
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tempfile::TempDir;
use tollgate::proto::v1;
use tonic::transport::{Channel, Endpoint};
use v1::account_service_client::AccountServiceClient;
use v1::credit_service_client::CreditServiceClient;
use v1::event_service_client::EventServiceClient;

use self::receiver::Receiver;
use crate::support::redis::Server;
use crate::support::within;
use crate::system::process::Process;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECRET_BEFORE: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A term (six seconds with a timeout of one), some looks at the document, and the rest for a busy machine.
const TAKE_OVER_MAX: Duration = Duration::from_secs(25);

/// What opening the accounts of a case with one payment each tells.
const BEFORE_ALL: &[&str] = &["a/1", "a/2", "b/1", "b/2", "c/1", "c/2"];

const CONFIG: &str = r#"
[store]
STORE
data_dir = "DATA_DIR"

[sync]
interval = "50ms"
lease = "2s"
lease_margin = "200ms"

[admin]
listen = "127.0.0.1:0"
sync_age_max = "2s"

[control]
listen = "127.0.0.1:0"

[proxy]
listen = "127.0.0.1:0"
workers = 1

[log]
format = "json"

[shutdown]
drain_max = "1s"

[policies.default]

[[webhooks]]
name = "billing"
url = "http://RECEIVER/hook?token=t"
secret = "SECRET"
previous_secret = "BEFORE"
from = "beginning"
timeout = "1s"
concurrency = 4
retry_min = "20ms"
retry_max = "200ms"
give_up_after = "GIVE_UP"
"#;

/// Some replicas, their store, and the receiver.
struct Rig {
    redis: Option<Server>,
    receiver: Receiver,
    replicas: Vec<Option<Replica>>,
    give_up: &'static str,
    dir: TempDir,
    orders: AtomicU64,
}

struct Replica {
    process: Process,
    channel: Channel,
}

impl Rig {
    /// Over Redis.
    async fn with_replicas(count: usize) -> Self {
        let redis = Server::start().await;
        Self::new(Some(redis), count, "1h").await
    }

    async fn new(redis: Option<Server>, count: usize, give_up: &'static str) -> Self {
        let mut rig = Self {
            redis,
            receiver: Receiver::start().await,
            replicas: Vec::new(),
            give_up,
            dir: TempDir::new().unwrap(),
            orders: AtomicU64::new(0),
        };
        for number in 0..count {
            rig.replicas.push(None);
            rig.run(number).await;
        }
        rig
    }

    fn redis(&self) -> &Server {
        self.redis.as_ref().expect("this case runs over Redis")
    }

    fn config(&self, number: usize) -> PathBuf {
        let store = match &self.redis {
            None => "kind = \"embedded\"".to_owned(),
            Some(redis) => format!(
                "kind = \"redis\"\nurl = \"{}\"\nresponse_timeout = \"300ms\"",
                redis.url()
            ),
        };
        let data_dir = self.dir.path().join(format!("data-{number}"));
        let written = CONFIG
            .replace("STORE", &store)
            .replace("DATA_DIR", data_dir.to_str().unwrap())
            .replace("RECEIVER", &self.receiver.address.to_string())
            .replace("SECRET", SECRET)
            .replace("BEFORE", SECRET_BEFORE)
            .replace("GIVE_UP", self.give_up);
        let path = self.dir.path().join(format!("replica-{number}.toml"));
        std::fs::write(&path, written).unwrap();
        path
    }

    /// Starts a replica, also again.
    async fn run(&mut self, number: usize) {
        let process = Process::serve(&self.config(number), &[]).await;
        let endpoint = Endpoint::from_shared(process.control.clone()).unwrap();
        let channel = endpoint.timeout(Duration::from_secs(8)).connect_lazy();
        self.replicas[number] = Some(Replica { process, channel });
    }

    fn replica(&self, number: usize) -> &Replica {
        self.replicas[number].as_ref().expect("it runs")
    }

    async fn kill(&mut self, number: usize) {
        let replica = self.replicas[number].take().expect("it runs");
        replica.process.kill().await;
    }

    async fn terminate(&mut self, number: usize) {
        let replica = self.replicas[number].take().expect("it runs");
        replica.process.terminate().await;
    }

    /// Which replica sends.
    async fn sender(&self) -> usize {
        within(TAKE_OVER_MAX, "a replica sends", async || {
            for (number, replica) in self.replicas.iter().enumerate() {
                if let Some(replica) = replica
                    && self.metric(replica, "sending").await == 1
                {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    async fn metric(&self, replica: &Replica, name: &str) -> u64 {
        let series = format!("tollgate_webhook_{name}{{endpoint=\"billing\"}}");
        replica.process.metric(&series).await.parse().unwrap()
    }

    async fn open(&self, number: usize, account: &str) {
        let request = v1::CreateAccountRequest {
            account: Some(v1::Account {
                account_id: account.into(),
                unit: "USD".into(),
                ..v1::Account::default()
            }),
            request_id: format!("open-{account}"),
        };
        let mut accounts = AccountServiceClient::new(self.replica(number).channel.clone());
        accounts.create_account(request).await.unwrap();
    }

    /// Makes this many events of an account.
    async fn pay(&self, number: usize, account: &str, count: usize) {
        let mut credit = CreditServiceClient::new(self.replica(number).channel.clone());
        for _ in 0..count {
            let order = self.orders.fetch_add(1, SeqCst);
            let request = v1::RechargeRequest {
                account_id: account.into(),
                request_id: format!("request-{order}"),
                order_id: format!("order-{order}"),
                amount: Some(v1::Amount {
                    unit: "USD".into(),
                    nanos: 1_000_000_000,
                }),
                ..v1::RechargeRequest::default()
            };
            credit.recharge(request).await.unwrap();
        }
    }

    /// Every event of the feed, by id.
    async fn feed(&self) -> BTreeSet<String> {
        let running = self.replicas.iter().flatten().next().expect("one runs");
        let mut events = EventServiceClient::new(running.channel.clone());
        let request = v1::ListEventsRequest {
            page_size: 1_000,
            ..v1::ListEventsRequest::default()
        };
        let page = events.list_events(request).await.unwrap().into_inner();
        assert_eq!(page.next_page_token, "");
        page.events
            .into_iter()
            .map(|event| event.event_id)
            .collect()
    }

    /// Waits until the receiver has taken all that is in the feed.
    async fn all_taken(&self) {
        let feed = self.feed().await;
        within(TAKE_OVER_MAX, "all events are taken", async || {
            let taken: BTreeSet<_> = self.receiver.taken().into_iter().collect();
            feed.is_subset(&taken).then_some(())
        })
        .await;
    }

    /// Each event was taken once, in its account's order; nothing else was taken.
    async fn each_was_taken_once(&self) {
        self.all_taken().await;
        // Whoever sends has written it down, and has nothing left to send.
        let sender = self.sender().await;
        within(TAKE_OVER_MAX, "nothing waits", async || {
            let waiting = self.metric(self.replica(sender), "waiting").await;
            (waiting == 0).then_some(())
        })
        .await;
        let taken = self.receiver.taken();
        let once: BTreeSet<_> = taken.iter().cloned().collect();
        assert_eq!(once.len(), taken.len(), "twice: {:?}", twice(&taken));
        assert_eq!(once, self.feed().await);
        in_order(&taken);
    }
}

/// What stands more than once.
fn twice(taken: &[String]) -> BTreeSet<String> {
    let mut counts = BTreeMap::new();
    for id in taken {
        *counts.entry(id.clone()).or_insert(0) += 1;
    }
    let more = counts.into_iter().filter(|(_, count)| *count > 1);
    more.map(|(id, _)| id).collect()
}

/// Which one it is of its account's: an id ends with the event's time.
fn numbered(id: &str) -> &str {
    id.rsplit_once('/').unwrap().0
}

/// Each account's events ascend: an id is `ACCOUNT/NUMBER…`.
fn in_order(taken: &[String]) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for id in taken {
        let (account, number) = id.split_once('/').unwrap();
        let number = number.split('/').next().unwrap().parse().unwrap();
        let before = last.insert(account, number);
        assert!(
            before.is_none_or(|before| before < number),
            "{id} after {before:?}: {taken:?}"
        );
    }
}
