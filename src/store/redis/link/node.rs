//! One server: its connection, made when first needed and again after any failure, with the history it tells; commands out,
//! replies in, each with a bound on its time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, ServerErrorKind, Value};
use tokio::time::timeout;

use super::super::super::StoreError;
use super::super::scripts::load_all;
use super::Means;
use super::ask::{Ask, Reply, take};
use super::dial::{Address, Wire, lost};
use super::history::{self, History, Standing};

/// A server, and the connection to it.
pub(super) struct Node {
    address: Address,
    slot: Mutex<Slot>,
    /// One connects, the others wait for what comes of it: the last failure.
    connecting: tokio::sync::Mutex<StoreError>,
    failures: AtomicU64,
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
    wire: Wire,
    history: History,
    number: u64,
}

impl Node {
    pub(super) fn new(address: Address) -> Self {
        let never = StoreError::Unavailable("not connected yet".into());
        Self {
            address,
            slot: Mutex::default(),
            connecting: tokio::sync::Mutex::new(never),
            failures: AtomicU64::new(0),
        }
    }

    /// Sends commands in one go; those whose scripts were lost once more, which is told by `true`. An error means that all of them
    /// may or may not have been carried out.
    pub(super) async fn send(
        &self,
        means: &Means,
        asks: &[&Ask],
    ) -> Result<(Vec<Reply>, bool), StoreError> {
        let mut replies = self.exchange(means, asks).await?;
        let lost = |reply: &Reply| is(&reply.value, ServerErrorKind::NoScript);
        if !replies.iter().any(lost) {
            return Ok((replies, false));
        }
        let load: Vec<Ask> = load_all().into_iter().map(Ask::anywhere).collect();
        for loaded in self
            .exchange(means, &load.iter().collect::<Vec<_>>())
            .await?
        {
            take::<String>(loaded)?;
        }
        let again = asks.iter().zip(&replies).filter(|(_, reply)| lost(reply));
        let again: Vec<&Ask> = again.map(|(ask, _)| *ask).collect();
        let late = self.exchange(means, &again).await?;
        let slots = replies.iter_mut().filter(|reply| lost(reply));
        for (slot, reply) in slots.zip(late) {
            *slot = reply;
        }
        Ok((replies, true))
    }

    /// How it stands with the history that a command would be sent on now.
    pub(super) async fn standing(&self, means: &Means) -> Result<Standing, StoreError> {
        let line = self.line_in_time(means).await?;
        Ok(means.histories.standing(&line.history))
    }

    async fn exchange(&self, means: &Means, asks: &[&Ask]) -> Result<Vec<Reply>, StoreError> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let mut line = self.line_in_time(means).await?;
        let standing = means.histories.standing(&line.history);
        let commands: Vec<Cmd> = asks.iter().map(|ask| ask.make(&standing)).collect();
        let sent = line.wire.exchange(commands);
        let replies = match timeout(means.response_timeout, sent).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(error)) => {
                self.give_up(line.number);
                return Err(lost(&self.address, &error));
            }
            Err(_) => {
                // It may be cut off without a word: the next call tries another.
                self.give_up(line.number);
                return Err(self.too_slow("answering", means.response_timeout));
            }
        };
        if replies
            .iter()
            .any(|reply| is(reply, ServerErrorKind::ReadOnly))
        {
            // After a failover the old master refuses to be written to: a new connection may find the new one.
            self.give_up(line.number);
        }
        if replies.len() != asks.len() {
            self.give_up(line.number);
            return Err(StoreError::Corrupt(format!(
                "{} replies to {} commands",
                replies.len(),
                asks.len()
            )));
        }
        let reply = |value| Reply {
            value,
            standing: standing.clone(),
        };
        Ok(replies.into_iter().map(reply).collect())
    }

    fn too_slow(&self, doing: &str, limit: Duration) -> StoreError {
        let limit = limit.as_millis();
        lost(
            &self.address,
            &format!("took longer than {limit} ms {doing}"),
        )
    }

    async fn line_in_time(&self, means: &Means) -> Result<Line, StoreError> {
        match timeout(means.connect_timeout, self.line(means)).await {
            Ok(connected) => connected,
            Err(_) => Err(self.too_slow("connecting", means.connect_timeout)),
        }
    }

    async fn line(&self, means: &Means) -> Result<Line, StoreError> {
        if let Some(line) = self.current() {
            return Ok(line);
        }
        let before = self.failures.load(Relaxed);
        let mut failure = self.connecting.lock().await;
        if let Some(line) = self.current() {
            return Ok(line);
        }
        if self.failures.load(Relaxed) != before {
            // Whoever waited here fails with the one it waited for, instead of trying in its turn.
            return Err(failure.clone());
        }
        match open(means, &self.address).await {
            Ok((wire, history)) => {
                let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
                slot.number = slot.number.saturating_add(1);
                let number = slot.number;
                let line = Line {
                    wire,
                    history,
                    number,
                };
                slot.line = Some(line.clone());
                Ok(line)
            }
            Err(error) => {
                *failure = error;
                self.failures.fetch_add(1, Relaxed);
                Err(failure.clone())
            }
        }
    }

    fn current(&self) -> Option<Line> {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.line.clone()
    }

    fn give_up(&self, number: u64) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.number == number {
            slot.line = None;
        }
    }
}

/// Connects, and asks which history this is before anything else is sent.
async fn open(means: &Means, address: &Address) -> Result<(Wire, History), StoreError> {
    let mut wire = means.dialer.wire(address).await?;
    let info = |section: &str| redis::cmd("INFO").arg(section).to_owned();
    let words = vec![info("server"), info("replication")];
    let said = wire.exchange(words).await;
    let mut said = said.map_err(|error| lost(address, &error))?.into_iter();
    let mut next = || take::<String>(said.next().unwrap_or_default());
    let (id, _) = history::name(&next()?, &next()?)?;
    if let Some(history) = means.histories.find(&id) {
        return Ok((wire, history));
    }
    let question = means
        .histories
        .question(&id, means.seen_accounts.load(Relaxed));
    let said = wire.exchange(vec![question]).await;
    let said = said.map_err(|error| lost(address, &error))?;
    let history = means
        .histories
        .learn(&id, said.into_iter().next().unwrap_or_default())?;
    Ok((wire, history))
}

/// Whether a reply is that error.
pub(super) fn is(reply: &Value, kind: ServerErrorKind) -> bool {
    match reply {
        Value::ServerError(error) => error.kind() == Some(kind),
        _ => false,
    }
}
