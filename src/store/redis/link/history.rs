//! Which history a Redis tells. A Redis that was restarted or failed over may have lost what it had acknowledged; so one that is
//! not known yet is fenced for a lease time, while every replica says what it knows.
//!
//! A server is known by its run id and replication id, asked for before anything else on each new connection. Since when that is known
//! stands in Redis itself, by its own clock, so that all replicas agree; each asks for that once and counts on by its own running
//! clock, so that no step of Redis' clock shortens a fence. All three are the name of a history: one that was emptied while it ran
//! has forgotten since when, and is told a new time.

use std::fmt::Display;
use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Cmd;
use siphasher::sip::SipHasher24;
use tokio::time::{Instant, timeout_at};

use super::super::super::StoreError;
use super::super::scripts::HISTORY;
use super::ask::take;
use super::dial::{Address, Dialer, Wire, lost};
use super::slots::{self, Verdict};
use crate::clock::{Clock, Monotonic};

/// How many histories Redis keeps: a restart or failover makes one, and those of a cluster's nodes are all in one place.
const HISTORIES_MAX: usize = 64;

/// How many nodes are asked for the histories, each having named the next: two while their slot moves, and one more.
const KEEPERS_MAX: usize = 3;

/// On what history a command is sent, at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name: the server's run id and replication id, and since when they are known.
    pub history: Arc<str>,
    /// How long it has been known. [`Duration::MAX`] if from the start.
    pub age: Duration,
    /// It is younger than a lease time ([`super::Settings::fence`]).
    pub fenced: bool,
    /// For how much longer.
    pub wait: Duration,
}

impl Standing {
    /// The history as a number: see [`crate::store::History`].
    pub(in super::super) fn number(&self) -> crate::store::History {
        let mut hasher = SipHasher24::new();
        hasher.write(self.history.as_bytes());
        crate::store::History(hasher.finish())
    }
}

/// A history, and how long it had been known when it was asked for.
#[derive(Clone, Debug)]
pub(super) struct History {
    id: Arc<str>,
    name: Arc<str>,
    /// In ms of Redis' clock, as it stands there; below zero if from the start.
    since: i64,
    known_for: Duration,
    asked: Monotonic,
}

/// The histories that were met, newest last, and what it takes to judge their age.
pub(super) struct Histories {
    /// Where Redis keeps them, and the index of accounts, which has the same slot.
    keys: [String; 2],
    fence: Duration,
    clock: Clock,
    met: Mutex<Vec<History>>,
    /// There were accounts: a Redis without any has lost them.
    seen_accounts: AtomicBool,
}

impl History {
    /// Whether a server of this history that tells this replication id now, on the same connection, goes on telling it. Its run id
    /// it cannot change without ending the connection.
    pub(super) fn goes_on(&self, replication: &str) -> bool {
        self.id
            .rsplit_once(':')
            .is_some_and(|(_, id)| id == replication)
    }

    /// Whether it still stands where the histories are kept, as it was met there; `said` is the answer to [`Histories::look`].
    pub(super) fn stands(&self, said: redis::Value) -> bool {
        match take::<Option<i64>>(said) {
            Ok(since) => since == Some(self.since),
            // Another node of the cluster keeps them.
            Err(_) => true,
        }
    }
}

impl Histories {
    pub(super) fn new(keys: [String; 2], fence: Duration, clock: Clock) -> Self {
        Self {
            keys,
            fence,
            clock,
            met: Mutex::default(),
            seen_accounts: AtomicBool::new(false),
        }
    }

    /// The history of that name, which the server at `address` tells on a new connection: as it was met before, or as Redis knows
    /// it. In a cluster, where another node may keep the histories, that one has until `patience`.
    pub(super) async fn meet(
        &self,
        dialer: &Dialer,
        wire: &mut Wire,
        address: &Address,
        id: &str,
        patience: Instant,
    ) -> Result<History, StoreError> {
        let met = self
            .met()
            .iter()
            .find(|history| *history.id == *id)
            .cloned();
        if let Some(history) = met {
            return Ok(history);
        }
        let said = wire.exchange(vec![self.question(id)]).await;
        let said = said.map_err(|error| lost(address, &error))?;
        let said = said.into_iter().next().unwrap_or_default();
        let keeper = match slots::verdict(address, &said) {
            Verdict::Moved(_, keeper) => (keeper, false),
            Verdict::Ask(keeper) => (keeper, true),
            _ => return self.learn(id, take(said).map_err(|error| lost(address, &error))?),
        };
        let asking = self.ask_keeper(dialer, keeper, id);
        let age = match timeout_at(patience, asking).await {
            Ok(Ok(age)) => age,
            Ok(Err(error)) => unknown(address, &error),
            Err(late) => unknown(address, &late),
        };
        self.learn(id, age)
    }

    /// Asks the node that keeps the histories, on a connection for that alone.
    async fn ask_keeper(
        &self,
        dialer: &Dialer,
        (mut keeper, mut asking): (Address, bool),
        id: &str,
    ) -> Result<(i64, i64), StoreError> {
        for _ in 0..KEEPERS_MAX {
            let mut wire = dialer.wire(&keeper).await?;
            let mut commands = vec![self.question(id)];
            if asking {
                commands.insert(0, redis::cmd("ASKING"));
            }
            let said = wire.exchange(commands).await;
            let said = said.map_err(|error| lost(&keeper, &error))?;
            let said = said.into_iter().next_back().unwrap_or_default();
            (keeper, asking) = match slots::verdict(&keeper, &said) {
                Verdict::Moved(_, next) => (next, false),
                Verdict::Ask(next) => (next, true),
                _ => return take(said).map_err(|error| lost(&keeper, &error)),
            };
        }
        Err(lost(&keeper, &"the histories keep moving"))
    }

    /// Asks since when a history is known.
    pub(super) fn look(&self, history: &History) -> Cmd {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.first()).arg(&*history.id);
        command
    }

    /// A history that does not stand any more is asked for again.
    pub(super) fn forget(&self, history: &History) {
        self.met().retain(|met| met.name != history.name);
    }

    fn question(&self, id: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(HISTORY).arg(self.keys.len()).arg(&self.keys);
        let accounts = self.seen_accounts.load(Relaxed);
        command.arg(id).arg(HISTORIES_MAX).arg(u8::from(accounts));
        command
    }

    /// Takes up an age in ms, below zero if it has been known from the start, and since when that is.
    fn learn(&self, id: &str, (age, since): (i64, i64)) -> Result<History, StoreError> {
        let history = History {
            id: id.into(),
            name: format!("{id}@{since}").into(),
            since,
            known_for: u64::try_from(age).map_or(Duration::MAX, Duration::from_millis),
            asked: self.clock.now().mono,
        };
        let mut met = self.met();
        // Two connections may have asked at once; the first answer stays.
        if let Some(known) = met.iter().find(|known| known.id == history.id) {
            return Ok(known.clone());
        }
        if met.len() >= HISTORIES_MAX {
            met.remove(0);
        }
        met.push(history.clone());
        Ok(history)
    }

    /// There are accounts: should Redis be without any later on, then it has lost them, and is not simply new.
    pub(super) fn saw_accounts(&self) {
        self.seen_accounts.store(true, Relaxed);
    }

    fn met(&self) -> MutexGuard<'_, Vec<History>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands with a history now.
    pub(super) fn standing(&self, history: &History) -> Standing {
        let since = self.clock.now().mono.since(history.asked);
        let age = history.known_for.saturating_add(since);
        Standing {
            history: Arc::clone(&history.name),
            age,
            fenced: age < self.fence,
            wait: self.fence.saturating_sub(age),
        }
    }
}

/// Nobody says how long a history has been known: for no time at all then. It is fenced for a whole lease time, and not held up.
fn unknown(address: &Address, why: &dyn Display) -> (i64, i64) {
    tracing::warn!(%address, %why, "the age of its history cannot be asked for");
    (0, 0)
}

/// What a server is known by, and whether it is a replica; from its `INFO server` and `INFO replication`.
pub(super) fn name(server: &str, replication: &str) -> Result<(String, bool), StoreError> {
    let run = field(server, "run_id")?;
    let (id, is_replica) = replicated(replication)?;
    Ok((format!("{run}:{id}"), is_replica))
}

/// The second half of that, and whether it is a replica; from its `INFO replication`.
pub(super) fn replicated(replication: &str) -> Result<(String, bool), StoreError> {
    let id = field(replication, "master_replid")?;
    Ok((id, field(replication, "role")? != "master"))
}

fn field(info: &str, name: &str) -> Result<String, StoreError> {
    let line = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().to_owned())
    });
    line.ok_or_else(|| StoreError::Corrupt(format!("Redis' INFO has no `{name}`")))
}
