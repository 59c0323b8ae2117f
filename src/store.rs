//! The shared truth behind the replicas: a trait, and what goes through it. [`embedded`] keeps it in one file on this machine,
//! [`redis`] in a Redis that many replicas share. Both pass the suite in `tests/store.rs`.
//!
//! Per account a store keeps the book with a version; the keys; for each replica `spend`, `committed` and `seq`; the total of
//! spend; and `unleased = lifetime credit + floor − Σ committed`. It knows no billing rule: books are changed by reading one,
//! running [`crate::ledger::apply`], and writing the result if the version still stands ([`Store::commit`]).
//!
//! Every method is safe to repeat. None of them is called on a request's path once an account is loaded and has a lease.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, KeyId, ModelName, ReplicaId};
use crate::ledger::{Book, Claim, Entry, Event};
use crate::money::Amount;
use crate::usage::Tally;

pub mod embedded;
mod message;
pub mod redis;

/// The largest amount that one message may ask for. Lua computes in doubles, which are exact to 2^53.
pub const LEASE_MAX: Amount = Amount::from_nanos(9_007_199_254_740_991);

/// How many changes may wait for a slow listener before it is told that it missed some (and reads everything again).
pub const CHANGES_MAX: usize = 4_096;

/// How many events the global feed keeps; older ones stay in no listing. A backend that is away for longer reads the ledger.
pub const EVENTS_MAX: usize = 100_000;

/// Why a store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away, too slow, or refuses for now: the same call may succeed later. It may or may not have been carried out.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What it holds cannot be read.
    #[error("the store holds what cannot be read: {0}")]
    Corrupt(String),
    /// No account of that name.
    #[error("there is no account `{0}` in the store")]
    NoAccount(AccountId),
}

/// A book as read, with all that is needed to run a command on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Changes with every write of the book or of a key; 1 after the first.
    pub version: u64,
    /// The book.
    pub book: Book,
    /// The spend of all replicas, as far as published.
    pub spend: Amount,
    /// What replicas may still lease; below zero if more was taken than there is.
    pub unleased: Amount,
    /// What stands under each claim that was asked for, in that order.
    pub claims: Vec<Option<Claim>>,
}

/// An account as a replica takes it up.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The book and its totals. Without claims.
    pub snapshot: Snapshot,
    /// What this replica has published before (zeros if never).
    pub row: Row,
    /// This replica's own usage rows, over all time (`hour: None`) and for the hour asked for.
    pub usage: Vec<UsageRow>,
    /// All keys of the account.
    pub keys: Vec<KeyRecord>,
}

/// What the store holds for one replica of one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its spend: only grows.
    pub spend: Amount,
    /// `max(lease ceiling, spend)`.
    pub committed: Amount,
    /// The highest sequence number seen from it.
    pub seq: u64,
    /// What it held when it last spoke.
    pub held: Amount,
    /// When it last spoke, by the store's clock, in ms since 1970.
    pub seen_ms: u64,
}

/// A change of a book, carried out only if the version is still the expected one.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The version that was read; 0 for an account that must not exist yet.
    pub expected: u64,
    /// The new book.
    pub book: Book,
    /// Added to `unleased`.
    pub credit_delta: Amount,
    /// Appended to the ledger. Their sequence numbers go on where the old book's ended.
    pub entries: Vec<Entry>,
    /// Appended to the event feed.
    pub events: Vec<Event>,
    /// Set with the effect, never before it.
    pub claims: Vec<(String, Claim)>,
}

/// How a compare-and-set ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is written, under this version.
    At(u64),
    /// Somebody else wrote first; read again.
    Conflict,
}

/// A replica's message about one account: what is, in absolute values, so that a repeat changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The account.
    pub account: AccountId,
    /// Ascending in each replica and account; an older one than the store has seen is a straggler.
    pub seq: u64,
    /// What the replica believes is stored for it: compared.
    pub believed: Standing,
    /// What is to be stored.
    pub new: Standing,
    /// The holds open now, for whoever must judge a silent replica.
    pub held: Amount,
    /// How much more to lease, at most [`LEASE_MAX`].
    pub want: Amount,
    /// How much of that waiting calls need: granted first, if that much is left.
    pub need: Amount,
    /// This replica's own usage rows that changed, absolute.
    pub usage: Vec<UsageRow>,
}

/// A replica's spend and committed value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its spend.
    pub spend: Amount,
    /// `max(lease ceiling, spend)`.
    pub committed: Amount,
}

/// What stands after a [`Publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The message was carried out. If not, `row` says what stands, and the replica sends again from there.
    pub applied: bool,
    /// What is stored for the replica now, with what was granted.
    pub standing: Standing,
    /// The highest sequence number seen from it.
    pub seq: u64,
    /// The spend of all replicas.
    pub total: Amount,
    /// What may still be leased.
    pub unleased: Amount,
    /// The account's version; if newer than known, the book or a key has changed.
    pub version: u64,
}

/// This many rows of usage: one replica's, or summed over all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The UTC hour, or `None` for all time.
    pub hour: Option<Hour>,
    /// Whose calls.
    pub key: KeyId,
    /// Of which model; empty for calls of a free route that name none.
    pub model: Option<ModelName>,
    /// How much.
    pub tally: Tally,
}

/// A key as it is stored: the digest of its secret, never the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Unique in all the store; never used again.
    pub id: KeyId,
    /// Who pays for it.
    pub account: AccountId,
    /// SHA-256 of the secret, in hex.
    pub digest: String,
    /// The name that people see.
    #[serde(default)]
    pub name: String,
    /// The secret's first characters, for people to tell keys apart.
    #[serde(default)]
    pub hint: String,
    /// When it was made.
    pub created: Timestamp,
    /// From this instant on it is refused.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// Since when it is deleted. The record stays (A3-14).
    #[serde(default)]
    pub revoked: Option<Timestamp>,
    /// Calls per second of this key on its own.
    #[serde(default)]
    pub qps: Option<u32>,
    /// Model patterns it may use, as in the price book; empty is all.
    #[serde(default)]
    pub models: Vec<String>,
}

/// Something changed that replicas keep in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An account's book or keys are at this version.
    Account(AccountId, u64),
    /// An account has nothing left to lease: give back what is not held.
    Scarce(AccountId),
    /// A document changed, by name.
    Document(String),
    /// The store's own connection for changes was cut or is new: some may have been missed, so read everything again.
    All,
}

/// An account's spend by key and model, over all replicas and all time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSpend {
    /// Ascending over all accounts; where a reader goes on.
    pub sequence: u64,
    /// The account.
    pub account: AccountId,
    /// Its total.
    pub total: Amount,
    /// Its rows, `hour: None`; they add up to the total.
    pub rows: Vec<UsageRow>,
}

/// The shared truth. See the module.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Whether it answers at all.
    async fn ping(&self) -> Result<(), StoreError>;

    /// An account as this replica takes it up; `None` if there is none. `hour` is the one whose usage rows the replica goes on
    /// adding to.
    async fn open(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        hour: Hour,
    ) -> Result<Option<Opened>, StoreError>;

    /// A book with what stands under some claims; `None` if there is no such account.
    async fn read(
        &self,
        account: &AccountId,
        claims: &[String],
    ) -> Result<Option<Snapshot>, StoreError>;

    /// Writes a book if its version is still the expected one; with it, or not at all, entries, events and claims.
    async fn commit(&self, commit: Commit) -> Result<Stored, StoreError>;

    /// Carries out a replica's messages, each on its own; the answers in the same order.
    ///
    /// For each: an older or equal `seq` is ignored (`applied: false`). Otherwise, if what stands is `believed`, `new` is
    /// stored, the total and `unleased` follow, the usage rows are set, and of `want` is granted
    /// `min(want, max(need, unleased / (2 × live replicas)), unleased)`; the middle term is left out if this is the only live
    /// replica or more than [`LEASE_MAX`] is left. If what stands is not `believed`, nothing is stored but that the replica spoke
    /// (sequence number and time). A replica is live from its first message until it lapses.
    ///
    /// A message that contradicts itself (spend that falls, `committed` below spend, a sum beyond the range) is
    /// [`StoreError::Corrupt`] and changes nothing.
    async fn publish(
        &self,
        replica: &ReplicaId,
        batch: Vec<Publish>,
    ) -> Vec<Result<Published, StoreError>>;

    /// Takes back the free rights of replicas that have been silent for longer than `silence`: `committed` falls back to their
    /// spend and reported holds. Returns what came back.
    async fn lapse(&self, account: &AccountId, silence: Duration) -> Result<Amount, StoreError>;

    /// Tells the other replicas that an account has nothing left to lease.
    async fn tell_scarce(&self, account: &AccountId) -> Result<(), StoreError>;

    /// The accounts after a name, in ascending order.
    async fn accounts(
        &self,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError>;

    /// The account and key behind a digest, revoked ones too.
    async fn find_key(&self, digest: &str) -> Result<Option<(AccountId, KeyId)>, StoreError>;

    /// All keys of an account, in the order of their ids.
    async fn keys(&self, account: &AccountId) -> Result<Vec<KeyRecord>, StoreError>;

    /// Writes a key of an existing account and raises the account's version, if that is still the expected one. A digest that
    /// belongs to another key is refused as a conflict.
    async fn put_key(&self, expected: u64, key: KeyRecord) -> Result<Stored, StoreError>;

    /// Ledger entries after a sequence number, ascending.
    async fn entries(
        &self,
        account: &AccountId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError>;

    /// Events of all accounts after a sequence number of the feed, ascending, with theirs.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, StoreError>;

    /// Usage rows of an account, summed over replicas: by hour in `[from, to)`, ordered by hour, key and model.
    async fn usage(
        &self,
        account: &AccountId,
        from: Hour,
        to: Hour,
    ) -> Result<Vec<UsageRow>, StoreError>;

    /// Accounts whose spend changed after a sequence number, ascending; each stands once, at its last change. One may be listed
    /// again without a change: its values are totals, so that says nothing new.
    async fn spend_since(&self, after: u64, limit: usize) -> Result<Vec<AccountSpend>, StoreError>;

    /// A document that belongs to no account (the price book, the policies), with its version.
    async fn document(&self, name: &str) -> Result<Option<(u64, Vec<u8>)>, StoreError>;

    /// Writes a document if its version is still the expected one (0: it must not exist).
    async fn put_document(
        &self,
        name: &str,
        expected: u64,
        body: Vec<u8>,
    ) -> Result<Stored, StoreError>;

    /// What changes from now on, this process' own changes included. A listener that lags reads everything again, as it does
    /// on [`Change::All`].
    fn changes(&self) -> broadcast::Receiver<Change>;
}
