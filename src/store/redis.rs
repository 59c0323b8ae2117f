//! The store in Redis (7 or newer), which many replicas share. Books, keys and events are in `books`, replicas' messages in
//! `publish`, listings in `listings`, the connections in `link` and `listen`, the scripts beside them as `*.lua`.
//!
//! Every change is one script on one account's keys, which Redis carries out whole or not at all; so a lost reply leaves a
//! change made or not made, never half. What concerns all accounts (the feeds of events and of spend, the index of accounts, the
//! digests of keys) lives in other slots and follows or precedes in a step of its own, in an order in which a crash between the
//! two loses nothing; that step is mended by the account's next commit, reading, message or opening.
//!
//! Memory: some 2 kB an account with one replica, 300 bytes a ledger entry (kept for good), and for each replica, hour, key and
//! model that was used some 250 bytes, also kept for good. Redis must not evict (`maxmemory-policy noeviction`).

mod books;
mod link;
mod listen;
mod listings;
mod names;
mod publish;
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
use crate::clock::{Clock, Hour};
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
            redis: Redis { link, names },
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
