//! Which history a Redis tells. A Redis that was restarted or failed over may have lost what it had acknowledged; so one that is
//! not known yet is fenced for a lease time, while every replica says what it knows.
//!
//! The name of a history is the server's run id and replication id, asked for before anything else on each new connection. How
//! long it has been known stands in Redis itself, by its own clock, so that all replicas agree; each asks for that once and counts
//! on by its own running clock, so that no step of Redis' clock shortens a fence.

use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Value};
use siphasher::sip::SipHasher24;

use super::super::super::StoreError;
use super::super::scripts::HISTORY;
use super::ask::take;
use crate::clock::{Clock, Monotonic};

/// How many histories Redis keeps: a restart or failover makes one, and those of a cluster's nodes are all in one place.
const HISTORIES_MAX: usize = 64;

/// On what history a command is sent, at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Standing {
    /// Its name; empty is nobody's.
    pub(in super::super) history: Arc<str>,
    /// How long it has been known. [`Duration::MAX`] if from the start.
    pub(in super::super) age: Duration,
    /// It is younger than a lease time.
    pub(in super::super) fenced: bool,
    /// For how much longer.
    pub(in super::super) wait: Duration,
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
}

impl Histories {
    pub(super) fn new(keys: [String; 2], fence: Duration, clock: Clock) -> Self {
        Self {
            keys,
            fence,
            clock,
            met: Mutex::default(),
        }
    }

    /// The history of that name, if it was met before.
    pub(super) fn find(&self, id: &str) -> Option<History> {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.iter().find(|history| *history.id == *id).cloned()
    }

    /// Asks how long a history has been known. `accounts`: there were some.
    pub(super) fn question(&self, id: &str, accounts: bool) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(HISTORY).arg(self.keys.len()).arg(&self.keys);
        command.arg(id).arg(HISTORIES_MAX).arg(u8::from(accounts));
        command
    }

    /// Takes up the answer.
    pub(super) fn learn(&self, id: &str, answer: Value) -> Result<History, StoreError> {
        let age: i64 = take(answer)?;
        let history = History {
            id: id.into(),
            // Below zero: from the start.
            known_for: u64::try_from(age).map_or(Duration::MAX, Duration::from_millis),
            asked: self.clock.now().mono,
        };
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// How it stands with a history now.
    pub(super) fn standing(&self, history: &History) -> Standing {
        let since = self.clock.now().mono.since(history.asked);
        let age = history.known_for.saturating_add(since);
        Standing {
            history: Arc::clone(&history.id),
            age,
            fenced: age < self.fence,
            wait: self.fence.saturating_sub(age),
        }
    }
}

/// The name of the history that a server tells, and whether it is a replica; from its `INFO server` and `INFO replication`.
pub(super) fn name(server: &str, replication: &str) -> Result<(String, bool), StoreError> {
    let field = |info: &str, name: &str| {
        let line = info.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim().to_owned())
        });
        line.ok_or_else(|| StoreError::Corrupt(format!("Redis' INFO has no `{name}`")))
    };
    let run = field(server, "run_id")?;
    let replication_id = field(replication, "master_replid")?;
    let replica = field(replication, "role")? != "master";
    Ok((format!("{run}:{replication_id}"), replica))
}
