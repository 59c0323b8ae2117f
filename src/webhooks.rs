//! Webhooks: every event of the feed is posted to the endpoints of the configuration, signed as
//! [Standard Webhooks](https://www.standardwebhooks.com) has it. A backend that would rather ask has `EventService`.
//!
//! # What is promised
//!
//! - **At least once.** An event that is in the feed reaches an endpoint that takes it (any 2xx), or ends among its dead letters, where
//!   people see it and can have it sent again. That holds through receivers that are away, slow or wrong, replicas that are killed, and a
//!   store that stands still or is emptied.
//! - **Rarely more than once, and then under the same id.** `webhook-id` is the event's id, `ACCOUNT/NUMBER/NANOSECONDS`, which no other
//!   event ever has, also not in a store that lost some: whoever has seen it, ignores it. An event is
//!   sent again after it arrived only if its answer was lost, or if the replica that sent it was killed, or cut off from the store for
//!   longer than a term, before it could write down that it had arrived; or if the store lost that.
//! - **In order, account by account**, but for what comes again late: see [`queue`]. `timestamp` is the event's own time.
//! - **One replica sends** for an endpoint at a time ([`claim`]); when it ends, another goes on at once, when it is killed, after a term
//!   (the endpoint's `timeout` and five seconds).
//!
//! # What an endpoint sees
//!
//! A `POST` with `content-type: application/json` and the headers `webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature`
//! (one `v1,…` per secret: two while one is being replaced). It answers 2xx in `timeout`, or the event comes again: after a second, then
//! two, four, … and five minutes at the most (half of it by chance), for three days. Short at first, as most failures are a restart; no
//! longer than five minutes, as it is how long news takes once the receiver is back, and a request in five minutes hurts nobody; three
//! days, as a weekend ends. All three are configuration. `Retry-After` of a 429 or 503 makes the whole endpoint wait, an hour at the most.
//! **410 Gone** switches the endpoint off until somebody switches it on again (`tollgate webhooks enable`); nothing is lost meanwhile as
//! long as the feed has it: the last 100,000 events.
//!
//! A new endpoint begins with what happens from then on, or with all that the feed has (`from = "beginning"`).
//!
//! **Redirects are not followed**: what was signed for one place is not for another to have. **Where an address leads is not checked**:
//! operators write it, and may well mean a private network; nobody else can. So there is no defence here against an address that reaches
//! what it should not: whoever may write the configuration may also read the tollgate's secrets.
//!
//! | module | what lives there | I/O |
//! |---|---|---|
//! | [`sign`], [`payload`] | the signature; the body | no |
//! | [`queue`] | what is sent, in which order, and when again | no |
//! | [`claim`] | who sends | no |
//! | [`state`] | what the store keeps of an endpoint | no |
//! | `post` | one try | yes |
//! | `run` | the task that does it all | yes |
//! | [`desk`] | what people see of it, and ask for | yes |

pub mod claim;
pub mod desk;
pub mod payload;
mod post;
pub mod queue;
mod run;
pub mod sign;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::desk::Desk;
use self::post::Post;
use self::run::Sender;
use crate::app::Core;
use crate::ledger::EventKind;
use crate::proxy;
use crate::route::Upstream;

/// How long a task that died waits before it is started again.
const RESTART_WAIT: Duration = Duration::from_millis(500);

/// How long deliveries under way may take at the end. What has not ended then is sent again by whoever goes on.
const END_MAX: Duration = Duration::from_secs(5);

/// How long writing down the last of it may take, and leaving the claim to others.
const LAST_WORD_MAX: Duration = Duration::from_secs(2);

/// Where events are posted, and how.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// For people, metrics and the store; unique, and the same on every replica.
    pub name: String,
    /// Its host.
    pub receiver: Arc<Upstream>,
    /// What is posted to there. May hold a token of the receiver's: not shown.
    pub path_and_query: String,
    /// Where it is, as people are told: without the query.
    pub url: String,
    /// What is signed with: the secret, and the one before while it is being replaced.
    pub keys: Vec<sign::Key>,
    /// Which events; none is all.
    pub kinds: Vec<Kinds>,
    /// What a new endpoint begins with.
    pub from: From,
    /// For a whole try, from the connection to the answer.
    pub timeout: Duration,
    /// How many tries at once.
    pub concurrency: usize,
    /// When an event is tried again.
    pub times: queue::Times,
}

/// Kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// This one, by name.
    One(String),
    /// All that begin so: `account.`.
    Beginning(String),
}

impl Kinds {
    /// Whether a kind of that name is among them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Beginning(beginning) => name.starts_with(beginning.as_str()),
        }
    }
}

impl std::fmt::Display for Kinds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(one) => f.write_str(one),
            Self::Beginning(beginning) => write!(f, "{beginning}*"),
        }
    }
}

/// What a new endpoint begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// What happens from now on: news of last week would send people mail about it.
    #[default]
    Now,
    /// All that the feed has.
    Beginning,
}

impl Endpoint {
    /// Whether it is to hear of events of that kind.
    pub fn wants(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|kinds| kinds.has(kind.name()))
    }
}

/// The tasks that send. They end with it.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// Checks what [`start`] would need of an endpoint: its files. Nothing is started.
pub fn check(endpoint: &Endpoint) -> Result<(), proxy::StartError> {
    proxy::Outbound::new(&endpoint.receiver).map(drop)
}

/// Starts a task for each endpoint, and shows them on the core's desk. `alone`: the store is this process' own. Must be called on a tokio
/// runtime.
pub fn start(
    core: &Arc<Core>,
    endpoints: &[Arc<Endpoint>],
    alone: bool,
) -> Result<Running, proxy::StartError> {
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for endpoint in endpoints {
        let metrics = core.gate.metrics().webhook(&endpoint.name);
        let post = Post::new(
            Arc::clone(endpoint),
            Arc::clone(&core.store),
            core.clock.clone(),
        )?;
        let sender = Arc::new(Sender {
            post,
            metrics,
            me: core.replica.clone(),
            recall: core.books.recall.clone(),
            alone,
        });
        tasks.spawn(supervise(sender, stopped.clone()));
    }
    core.webhooks.show(endpoints);
    Ok(Running { tasks, stop })
}

impl Running {
    /// Ends them: what is under way may end, what was done is written down, and another replica goes on at once.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let bound = END_MAX.saturating_add(LAST_WORD_MAX.saturating_mul(2));
        let ended = tokio::time::timeout(bound, async {
            while self.tasks.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::warn!(
                "webhooks: the store did not take the last word; some may be sent again"
            );
        }
    }
}

/// Starts the task again whenever it panics, until it ends by itself: when it was told to.
async fn supervise(sender: Arc<Sender>, stopped: watch::Receiver<bool>) {
    loop {
        // Dropped with this one, and its deliveries with it.
        let mut task = JoinSet::new();
        let (once, stop) = (Arc::clone(&sender), stopped.clone());
        task.spawn(async move { once.run(stop).await });
        if let Some(Ok(())) = task.join_next().await {
            return;
        }
        sender.metrics.restarted();
        sender.metrics.standing(false, 0, false, Duration::ZERO);
        let endpoint = &sender.post.endpoint.name;
        tracing::error!(
            endpoint,
            "webhooks: the sender panicked and is started again"
        );
        tokio::time::sleep(RESTART_WAIT).await;
    }
}
