//! One server: its connection, made when first needed and again after any failure, with the history it tells; commands out,
//! replies in, each with a bound on its time.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use redis::{ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

use super::super::super::StoreError;
use super::super::scripts::load_all;
use super::Means;
use super::ask::{Ask, Reply, take};
use super::dial::{Address, Wire, lost};
use super::history::{self, History, Standing};
use super::sentinel::Sentinels;

/// How often a connection is asked again for its history: well within the seconds that a failover takes. Of a thousand replicas this
/// takes Redis less than a hundredth of its time.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Which server it is.
pub(super) enum Target {
    Server(Address),
    /// Whichever the sentinels name when it is connected to.
    Master(Sentinels),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(address) => write!(f, "{address}"),
            Self::Master(sentinels) => write!(f, "the master `{}`", sentinels.master),
        }
    }
}

/// A server, and the connection to it.
pub(super) struct Node {
    target: Target,
    /// It is one of several: whoever comes while it does not answer is told so at once, so that the others are not held up.
    one_of_many: bool,
    slot: Mutex<Slot>,
    /// One connects, the others wait for what comes of it: the last failure.
    connecting: tokio::sync::Mutex<StoreError>,
    failures: AtomicU64,
    /// It did not answer in time, and has not been connected to since.
    silent: AtomicBool,
    /// Tells of each connection that is made.
    made: watch::Sender<()>,
}

#[derive(Default)]
struct Slot {
    line: Option<Line>,
    /// Which connection it is, so that a late failure of an old one does not drop its successor.
    number: u64,
}

/// A connection, and the history behind it.
#[derive(Clone)]
struct Line {
    address: Address,
    wire: Wire,
    history: History,
    number: u64,
}

/// Commands failed together.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// They may have been carried out; if not, they certainly were not.
    pub(super) sent: bool,
}

impl Node {
    pub(super) fn new(target: Target, one_of_many: bool) -> Self {
        let never = StoreError::Unavailable("not connected yet".into());
        Self {
            target,
            one_of_many,
            slot: Mutex::default(),
            connecting: tokio::sync::Mutex::new(never),
            failures: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            made: watch::Sender::new(()),
        }
    }

    /// Sends commands in one go; those whose scripts were lost once more, which is told by `true`. With `asking`, also those of a
    /// slot that is only on its way here.
    pub(super) async fn send(
        self: &Arc<Self>,
        means: &Arc<Means>,
        asks: &[&Ask],
        asking: bool,
        until: Instant,
    ) -> Result<(Vec<Reply>, bool), Failure> {
        let mut replies = self.exchange(means, asks, asking, until).await?;
        let lost = |reply: &Reply| is(&reply.value, ServerErrorKind::NoScript);
        if !replies.iter().any(lost) {
            return Ok((replies, false));
        }
        let load: Vec<Ask> = load_all().into_iter().map(Ask::anywhere).collect();
        let load: Vec<&Ask> = load.iter().collect();
        // Whatever fails from here on: some of the commands were carried out.
        let sent = |failure: Failure| Failure {
            sent: true,
            ..failure
        };
        let loaded = self.exchange(means, &load, false, until).await;
        for loaded in loaded.map_err(sent)? {
            take::<String>(loaded).map_err(|error| Failure { error, sent: true })?;
        }
        let again = asks.iter().zip(&replies).filter(|(_, reply)| lost(reply));
        let again: Vec<&Ask> = again.map(|(ask, _)| *ask).collect();
        let late = self.exchange(means, &again, asking, until).await;
        let slots = replies.iter_mut().filter(|reply| lost(reply));
        for (slot, reply) in slots.zip(late.map_err(sent)?) {
            *slot = reply;
        }
        Ok((replies, true))
    }

    /// How it stands with the history that a command would be sent on now.
    pub(super) async fn standing(
        self: &Arc<Self>,
        means: &Arc<Means>,
        until: Instant,
    ) -> Result<Standing, StoreError> {
        let line = self.line_in_time(means, until).await?;
        Ok(means.histories.standing(&line.history))
    }

    /// Connects, unless it is.
    pub(super) async fn connect(&self, means: &Means) {
        if !self.is_connected() {
            // Its failure is told to whoever asks next.
            let _ = self.connected(means, later(means.connect_timeout)).await;
        }
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.current().is_some()
    }

    /// The connection there is.
    pub(super) fn wire(&self) -> Option<Wire> {
        self.current().map(|line| line.wire)
    }

    /// Its address, if it is always the same.
    pub(super) const fn address(&self) -> Option<&Address> {
        match &self.target {
            Target::Server(address) => Some(address),
            Target::Master(_) => None,
        }
    }

    /// Where it is now: asks the sentinels, if it is theirs.
    pub(super) async fn locate(&self, until: Instant) -> Result<Address, StoreError> {
        match &self.target {
            Target::Server(address) => Ok(address.clone()),
            Target::Master(sentinels) => sentinels.find(until).await,
        }
    }

    /// Tells of each connection that is made.
    pub(super) fn made(&self) -> watch::Receiver<()> {
        self.made.subscribe()
    }

    /// Whether there is a connection, and to another place than that.
    pub(super) fn is_elsewhere(&self, than: &Address) -> bool {
        self.current().is_some_and(|line| line.address != *than)
    }

    /// Leaves a connection whose server tells another history than it did, for as long as it is polled: it may have become a
    /// replica, taken all from its master, and been promoted, while the connection stood, which takes seconds; or it was emptied.
    pub(super) async fn watch(&self, means: &Means) {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let checks = async {
            loop {
                ticks.tick().await;
                self.check(means).await;
            }
        };
        join(checks, self.follow_master(means)).await;
    }

    /// One such look.
    pub(super) async fn check(&self, means: &Means) {
        let Some(mut line) = self.current() else {
            return;
        };
        let limit = later(means.response_timeout);
        let look = means.histories.look(&line.history);
        let asked = line.wire.exchange(vec![info("replication"), look]);
        // One that does not answer is left by whoever needs it.
        let Ok(Ok(said)) = timeout_at(limit, asked).await else {
            return;
        };
        let mut said = said.into_iter();
        let told = take::<String>(said.next().unwrap_or_default());
        let is_another = told
            .and_then(|told| history::replicated(&told))
            .is_ok_and(|(id, is_replica)| is_replica || !line.history.goes_on(&id));
        let is_emptied = said.next().is_some_and(|since| !line.history.stands(since));
        if is_emptied {
            means.histories.forget(&line.history);
        }
        if is_another || is_emptied {
            self.give_up(line.number);
        }
    }

    /// Leaves a master that is none any more as soon as a sentinel says so, for as long as it is polled.
    async fn follow_master(&self, means: &Means) {
        if let Target::Master(sentinels) = &self.target {
            let found = |master: &Address| {
                let mut slot = self.slot();
                slot.line = slot.line.take().filter(|line| line.address == *master);
            };
            sentinels.watch(means.connect_timeout, found).await;
        }
    }

    async fn exchange(
        self: &Arc<Self>,
        means: &Arc<Means>,
        asks: &[&Ask],
        asking: bool,
        until: Instant,
    ) -> Result<Vec<Reply>, Failure> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let line = self.line_in_time(means, until).await;
        let mut line = line.map_err(|error| Failure { error, sent: false })?;
        let standing = means.histories.standing(&line.history);
        let mut commands = Vec::with_capacity(asks.len());
        for ask in asks {
            if asking {
                commands.push(redis::cmd("ASKING"));
            }
            commands.push(ask.make(&standing));
        }
        let expected = commands.len();
        let failed = |error| Failure { error, sent: true };
        let limit = later(means.response_timeout);
        let replies = match timeout_at(limit.min(until), line.wire.exchange(commands)).await {
            Ok(Ok(replies)) if replies.len() == expected => replies,
            Ok(Ok(replies)) => {
                self.give_up(line.number);
                let text = format!("{} replies to {expected} commands", replies.len());
                return Err(failed(StoreError::Corrupt(text)));
            }
            Ok(Err(error)) => {
                self.give_up(line.number);
                return Err(failed(lost(&self.target, &error)));
            }
            Err(_) => {
                // It may be cut off without a word: the next call tries another. One that had less than its time says nothing.
                if limit <= until {
                    self.silent.store(true, Relaxed);
                    self.give_up(line.number);
                }
                return Err(failed(self.too_slow("answering", means.response_timeout)));
            }
        };
        if replies.iter().any(is_demoted) {
            self.give_up(line.number);
        }
        let reply = |value| Reply {
            value,
            standing: standing.clone(),
        };
        // Each command's reply comes after that to its ASKING.
        let own = replies.into_iter().skip(usize::from(asking));
        let own = own.step_by(if asking { 2 } else { 1 });
        Ok(own.map(reply).collect())
    }

    fn too_slow(&self, doing: &str, limit: Duration) -> StoreError {
        let limit = limit.as_millis();
        lost(
            &self.target,
            &format!("took longer than {limit} ms {doing}"),
        )
    }

    async fn line_in_time(
        self: &Arc<Self>,
        means: &Arc<Means>,
        until: Instant,
    ) -> Result<Line, StoreError> {
        if let Some(line) = self.current() {
            return Ok(line);
        }
        if self.one_of_many && self.silent.load(Relaxed) {
            // One tries on, and nobody waits for it.
            if self.connecting.try_lock().is_ok() {
                let (this, means) = (Arc::clone(self), Arc::clone(means));
                tokio::spawn(async move { this.connect(&means).await });
            }
            return Err(self.too_slow("answering the last time", means.response_timeout));
        }
        self.connected(means, until).await
    }

    async fn connected(&self, means: &Means, until: Instant) -> Result<Line, StoreError> {
        let full = later(means.connect_timeout);
        let limit = full.min(until);
        match timeout_at(limit, self.line(means, limit)).await {
            Ok(connected) => connected,
            Err(_) => {
                if full <= until {
                    self.silent.store(true, Relaxed);
                }
                Err(self.too_slow("connecting", means.connect_timeout))
            }
        }
    }

    async fn line(&self, means: &Means, until: Instant) -> Result<Line, StoreError> {
        let before = self.failures.load(Relaxed);
        let mut failure = self.connecting.lock().await;
        if let Some(line) = self.current() {
            return Ok(line);
        }
        if self.failures.load(Relaxed) != before {
            // Whoever waited here fails with the one it waited for, instead of trying in its turn.
            return Err(failure.clone());
        }
        match self.open(means, until).await {
            Ok((address, wire, history)) => {
                self.silent.store(false, Relaxed);
                let mut slot = self.slot();
                slot.number = slot.number.saturating_add(1);
                let line = Line {
                    address,
                    wire,
                    history,
                    number: slot.number,
                };
                slot.line = Some(line.clone());
                drop(slot);
                self.made.send_replace(());
                Ok(line)
            }
            Err(error) => {
                *failure = error;
                self.failures.fetch_add(1, Relaxed);
                Err(failure.clone())
            }
        }
    }

    /// Connects, and asks which history this is before anything else is sent.
    async fn open(
        &self,
        means: &Means,
        until: Instant,
    ) -> Result<(Address, Wire, History), StoreError> {
        let half = half_way(until);
        let address = self.locate(half).await?;
        let mut wire = means.dialer.wire(&address).await?;
        let (id, is_replica) = tell(means, &address, &mut wire).await?;
        if is_replica {
            // What it has is another's, and may be old; and should it be promoted, that is a new history.
            return Err(lost(&address, &"it is a replica; its master is needed"));
        }
        let history = means
            .histories
            .meet(&means.dialer, &mut wire, &address, &id, half);
        let history = history.await?;
        Ok((address, wire, history))
    }

    fn current(&self) -> Option<Line> {
        let slot = self.slot();
        let open = slot.line.as_ref().filter(|line| !line.wire.is_closed());
        open.cloned()
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the connection: the next word is on a new one, which asks first which history this is.
    pub(super) fn forget(&self) {
        self.slot().line = None;
    }

    fn give_up(&self, number: u64) {
        let mut slot = self.slot();
        if slot.number == number {
            slot.line = None;
        }
    }
}

/// The first words on a connection: the name of the server's history, and whether it is a replica.
async fn tell(
    means: &Means,
    address: &Address,
    wire: &mut Wire,
) -> Result<(String, bool), StoreError> {
    let words = vec![info("server"), info("replication")];
    let said = wire.exchange(words).await;
    let said = said.map_err(|error| means.dialer.cut_off(address, &error));
    let mut said = said?.into_iter();
    let mut next = || {
        let text = take::<String>(said.next().unwrap_or_default());
        text.map_err(|error| lost(address, &error))
    };
    history::name(&next()?, &next()?)
}

fn info(section: &str) -> redis::Cmd {
    redis::cmd("INFO").arg(section).to_owned()
}

/// So long from now.
pub(super) fn later(by: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(by).unwrap_or(now)
}

/// Half of the time that is left: for whom others are asked about, so that time is left to ask the one itself.
fn half_way(until: Instant) -> Instant {
    let left = until.saturating_duration_since(Instant::now());
    later(left.checked_div(2).unwrap_or_default())
}

/// Whether a reply is that error.
pub(super) fn is(reply: &Value, kind: ServerErrorKind) -> bool {
    match reply {
        Value::ServerError(error) => error.kind() == Some(kind),
        _ => false,
    }
}

/// After a failover the old master refuses to be written to, and to be read once it knows the new one: a new connection may find
/// that.
fn is_demoted(reply: &Value) -> bool {
    is(reply, ServerErrorKind::ReadOnly) || is(reply, ServerErrorKind::MasterDown)
}
