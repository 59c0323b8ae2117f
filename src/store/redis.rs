//! The store in Redis (7 or newer), which many replicas share. Books, keys and events are in `books`, replicas' messages in
//! `publish`, listings in `listings`, the end of an account in `purge`, the connections in `link` and `listen`, the scripts beside them as `*.lua`.
//!
//! Every change is one script on one account's keys, which Redis carries out whole or not at all; so a lost reply leaves a
//! change made or not made, never half. What concerns all accounts (the feeds of events and of spend, the index of accounts, the
//! digests of keys) lives in other slots and follows or precedes in a step of its own, in an order in which a crash between the
//! two loses nothing; that step is mended by the account's next commit, reading, message or opening.
//!
//! # Which history
//!
//! Redis may come back older than it was: it acknowledges before it has written to its disk or told its replica. So the first
//! word on each new connection asks which history this is (run id and replication id), and a history that has been known for less
//! than a lease time is fenced ([`Settings::fence`], [`Standing`]). Since when each is known stands in Redis, so that all replicas
//! agree. A restart, a failover and a promotion make a new history; so does `FLUSHALL`, which is noticed within a second, or by the first
//! account that is not there any more, which is fenced on its own then. In a cluster that second is kept by the node that has the
//! histories; accounts of another node that is emptied while it runs are found one by one, as they are called. A Redis without any
//! account is simply new and not fenced, unless whoever asks has seen accounts there.
//!
//! # What each topology promises, and what it can lose
//!
//! | | promises | can lose |
//! |---|---|---|
//! | one server | one order of all changes | at a crash, what its append-only file had not taken: all since the last snapshot without one, a second with `appendfsync everysec`, nothing with `always` |
//! | sentinels | goes on at the promoted replica, seconds after the master died ([`Reach::Sentinels`]); it is left at a sentinel's word, not only when it refuses | what the master acknowledged and the replica had not heard: milliseconds of work, or, when the master is cut off and not dead, all that was written until `min-replicas-to-write` stopped it |
//! | cluster | the same for each shard by its own replica; slots may move while it serves ([`Reach::Cluster`]) | as with sentinels, for each shard |
//!
//! Lost spend heals by itself, as every message says what *is*; lost books are what the fence is for. How much can be lost is
//! decided in Redis, at a price: one message of a replica about one account (`publish.lua`) took, one at a time on a Unix socket of a
//! busy machine with two cores,
//!
//! | | p50 | |
//! |---|---|---|
//! | no append-only file | 50 µs | |
//! | `appendfsync no` | 59 µs | |
//! | `appendfsync everysec` | 58 µs | the one to take |
//! | `appendfsync always` | 4.2 ms | a disk's flush; messages that come together share one: with 256 of them, a third to a half as many in a second as with `everysec` |
//! | `everysec` and a replica | 110 µs | |
//! | the same, `WAIT 1 100` after each | 140 to 170 µs | a round trip to the replica more |
//! | the same, `min-replicas-to-write 1` | 160 to 170 µs | no more than the replica itself, within the noise |
//! | `always` on both, `WAIT` | 6 to 8 ms | two flushes |
//!
//! `WAIT` is not sent: it holds up all that is behind it on the connection, and says only afterwards that a change may be lost.
//! `min-replicas-to-write 1` with `min-replicas-max-lag 10` costs nothing to speak of and refuses beforehand: a master that is cut
//! off stops within ten seconds, and what it is asked to do then is [`StoreError::Unavailable`]. It is advised with sentinels and in a
//! cluster, wherever a shard has two replicas; with one, its failure stops the shard.
//!
//! In a cluster, beyond that:
//!
//! - All keys of an account are on one node. A node that does not answer makes its accounts unavailable and holds up no others;
//!   but the index of accounts, each feed and the histories are one key or two on one node each. While the feed of spend is away,
//!   messages with new spend are carried out and answered as failed, and said again until they are told; while the index is away no
//!   account is opened; events wait in their accounts' outboxes.
//! - A slot that is being moved answers scripts with `TRYAGAIN` until it has arrived, as some keys of an account need not exist. A
//!   command waits for that for some 300 ms, then its account is unavailable until the move ends.
//! - A node that joins is fenced for a lease time from when a first replica has met it, slots or no slots, which takes five seconds:
//!   whoever adds one waits a lease time before moving slots there, and nobody notices.
//! - Changes are told through any node to all; those of different nodes may overtake each other.
//!
//! # What it needs
//!
//! No eviction: `maxmemory-policy noeviction`. A Redis that is full refuses writes, and nothing is lost. As user (of `aclfile`; with
//! its password added, and `+select` for a database other than 0):
//!
//! ```text
#![doc = include_str!("../../deploy/redis.acl")]
//! ```
//!
//! To sentinels, a user of theirs needs `+ping +subscribe +sentinel|master &+switch-master`.
//!
//! Memory, by `MEMORY USAGE` for an account with one recharge, one key, one replica and one model: 4.3 kB in all, of which its book
//! and totals 0.9 kB, its key 0.6 kB, a replica's row 0.2 kB and tallies 0.35 kB. Each further recharge takes 1.1 kB (an entry, an
//! idempotency key, a credit block while it lasts), the first two for good; each replica, hour, key and model that was used
//! 0.35 kB, also for good.

mod books;
mod link;
mod listen;
mod listings;
mod names;
mod publish;
mod purge;
mod rows;
mod scripts;
mod settings;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::Value;
use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::{
    AccountSpend, CHANGES_MAX, Change, Commit, History, KeyRecord, Lapsed, Opened, Publish,
    Published, Scarce, Snapshot, Store, StoreError, Stored, UsageRow,
};
use crate::clock::{Clock, Hour, Timestamp};
use crate::id::{AccountId, KeyId, ModelName, ReplicaId};
use crate::ledger::{Entry, Event};
use crate::money::Amount;
use crate::usage::Tally;
pub use link::Standing;
use link::{Ask, Link, take};
use names::Names;
pub use settings::{Login, Reach, Settings, TlsFiles};

/// The store in Redis. See the module.
pub struct RedisStore {
    redis: Redis,
    changes: broadcast::Sender<Change>,
    listener: JoinHandle<()>,
}

/// The connection with the names of things.
struct Redis {
    link: Arc<Link>,
    names: Names,
    /// See [`Settings::fence`].
    fence: Duration,
}

impl RedisStore {
    /// Prepares the store; nothing is sent yet. A Redis that is away is no error here: calls are [`StoreError::Unavailable`] until
    /// it is there, each within the timeouts. An error means that the settings cannot work. Must be called on a tokio runtime.
    pub fn connect(settings: Settings, clock: Clock) -> Result<Self, StoreError> {
        let names = Names::new(&settings.prefix);
        let link = Arc::new(Link::new(&settings, &names, clock)?);
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let patience = settings
            .connect_timeout
            .saturating_add(settings.response_timeout);
        let listening = listen::run(
            Arc::clone(&link),
            names.channel(),
            patience,
            changes.clone(),
        );
        Ok(Self {
            redis: Redis {
                link,
                names,
                fence: settings.fence,
            },
            changes,
            listener: tokio::spawn(listening),
        })
    }

    /// How it stands with the history that an account's changes would be written to now: in a cluster, that of its node.
    pub async fn standing_of(&self, account: &AccountId) -> Result<Standing, StoreError> {
        let head = self.redis.names.head(account);
        self.redis.link.standing_of(&head).await
    }

    async fn tell(&self, change: &Change) -> Result<(), StoreError> {
        let mut command = ::redis::cmd("PUBLISH");
        command
            .arg(self.redis.names.channel())
            .arg(listen::text(change));
        let told = self.redis.link.ask::<u64>(Ask::anywhere(command));
        told.await.map(drop)
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn ping(&self) -> Result<(), StoreError> {
        let pong: Result<String, _> = self
            .redis
            .link
            .ask(Ask::anywhere(::redis::cmd("PING")))
            .await;
        pong.map(drop)
    }

    async fn history(&self, account: &AccountId) -> Result<History, StoreError> {
        let standing = self
            .redis
            .link
            .standing_of(&self.redis.names.head(account))
            .await?;
        Ok(standing.number())
    }

    async fn open(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        hour: Hour,
    ) -> Result<Option<Opened>, StoreError> {
        self.redis.take_up(account, replica, hour).await
    }

    async fn read(
        &self,
        account: &AccountId,
        claims: &[String],
    ) -> Result<Option<Snapshot>, StoreError> {
        self.redis.snapshot(account, claims).await
    }

    async fn commit(&self, commit: Commit) -> Result<Stored, StoreError> {
        self.redis.write_book(&commit).await
    }

    async fn purge(
        &self,
        account: &AccountId,
        expected: u64,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        self.redis.end(account, expected, now).await
    }

    async fn purged(&self, account: &AccountId) -> Result<Option<Timestamp>, StoreError> {
        self.redis.ended(account).await
    }

    async fn publish(
        &self,
        replica: &ReplicaId,
        batch: Vec<Publish>,
    ) -> Vec<Result<Published, StoreError>> {
        self.redis.publish_all(replica, &batch).await
    }

    async fn lapse(
        &self,
        account: &AccountId,
        silence: Duration,
        retired: Duration,
    ) -> Result<Lapsed, StoreError> {
        self.redis.lapse_silent(account, silence, retired).await
    }

    async fn tell_scarce(&self, account: &AccountId, what: Scarce) -> Result<(), StoreError> {
        self.tell(&Change::Scarce(account.clone(), what)).await
    }

    async fn accounts(
        &self,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        self.redis.list_accounts(after, limit).await
    }

    async fn find_key(&self, digest: &str) -> Result<Option<(AccountId, KeyId)>, StoreError> {
        self.redis.owner(digest).await
    }

    async fn keys(&self, account: &AccountId) -> Result<Vec<KeyRecord>, StoreError> {
        self.redis.all_keys(account).await
    }

    async fn put_key(&self, expected: u64, key: KeyRecord) -> Result<Stored, StoreError> {
        self.redis.write_key(expected, &key).await
    }

    async fn entries(
        &self,
        account: &AccountId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.redis.list_entries(account, after, limit).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, StoreError> {
        self.redis.list_events(after, limit).await
    }

    async fn announce(&self, events: &[Event]) -> Result<(), StoreError> {
        self.redis.announce_again(events).await
    }

    async fn usage(
        &self,
        account: &AccountId,
        from: Hour,
        to: Hour,
    ) -> Result<Vec<UsageRow>, StoreError> {
        self.redis.list_usage(account, from, to).await
    }

    async fn spend_since(&self, after: u64, limit: usize) -> Result<Vec<AccountSpend>, StoreError> {
        self.redis.list_spend(after, limit).await
    }

    async fn document(&self, name: &str) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let mut get = ::redis::cmd("HMGET");
        get.arg(self.redis.names.document(name))
            .arg("version")
            .arg("body");
        let found: (Option<u64>, Option<Vec<u8>>) = self.redis.link.ask(get).await?;
        Ok(found.0.zip(found.1))
    }

    async fn put_document(
        &self,
        name: &str,
        expected: u64,
        body: Vec<u8>,
        lost: bool,
    ) -> Result<Stored, StoreError> {
        self.redis.write_document(name, expected, body, lost).await
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// An amount as Redis keeps it: its count of nano-units. Nothing there is zero.
fn amount(text: Option<&str>) -> Result<Amount, StoreError> {
    let nanos = text.map_or(Ok(0), str::parse);
    let nanos = nanos.map_err(|_| StoreError::Corrupt(format!("{text:?} is not an amount")))?;
    Ok(Amount::from_nanos(nanos))
}

/// A count. Nothing there is zero.
fn number(text: Option<&str>) -> Result<u64, StoreError> {
    let number = text.map_or(Ok(0), str::parse);
    number.map_err(|_| StoreError::Corrupt(format!("{text:?} is not a count")))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// A sum that would leave the range.
fn range(account: &AccountId) -> StoreError {
    StoreError::Corrupt(format!("a sum of `{account}` would leave the range"))
}

/// Whose calls a tally counts: a key's, of a model.
type Whose = (KeyId, Option<ModelName>);

/// Reads a hash of tallies by `key|model`.
fn tallies(reply: Value) -> Result<Vec<(Whose, Tally)>, StoreError> {
    let fields: Vec<(String, Vec<u8>)> = take(reply)?;
    let read = |(field, tally): (String, Vec<u8>)| {
        let whose = field.split_once('|').and_then(|(key, model)| {
            let named = !model.is_empty();
            let model = named.then(|| ModelName::new(model).ok());
            // A model that is named must be a name.
            Some((
                KeyId::new(key).ok()?,
                model.map_or(Some(None), |model| model.map(Some))?,
            ))
        });
        let whose =
            whose.ok_or_else(|| StoreError::Corrupt(format!("`{field}` is not key|model")))?;
        Ok((whose, parse(&tally)?))
    };
    fields.into_iter().map(read).collect()
}
