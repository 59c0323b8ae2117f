//! The shared truth behind the replicas: a trait, and what goes through it. [`embedded`] keeps it in one file on this machine,
//! [`redis`] in a Redis that many replicas share. Both pass the suite in `tests/store.rs`.
//!
//! Per account a store keeps the book with a version; the keys; for each replica `spend`, `committed`, its shares and `seq`; the
//! total of spend; and `unleased = lifetime credit + floor − Σ committed − lost`. What a message makes of these is [`shared`], the same
//! for every store. It knows no billing rule: books are changed by reading one, running [`crate::ledger::apply`], and writing the
//! result if the version still stands ([`Store::commit`]).
//!
//! Every method is safe to repeat. None of them is called on a request's path once an account is loaded and has a lease.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, KeyId, ModelName, ReplicaId};
use crate::ledger::{Book, Claim, Entry, Event, Spent};
use crate::money::Amount;
use crate::policy::Budget;
use crate::usage::Tally;

pub mod desk;
pub mod embedded;
mod message;
pub mod redis;
pub mod shared;

/// The largest amount that one message may ask for. Lua computes in doubles, which are exact to 2^53.
pub const LEASE_MAX: Amount = Amount::from_nanos(9_007_199_254_740_991);

/// How many changes may wait for a slow listener before it is told that it missed some (and reads everything again).
pub const CHANGES_MAX: usize = 4_096;

/// How many events the global feed keeps; older ones stay in no listing. A backend that is away for longer reads the ledger.
pub const EVENTS_MAX: usize = 100_000;

/// How the names of documents begin that are the webhooks' own: written every other second, and no concern of whoever follows prices
/// and policies.
pub const WEBHOOK_DOCUMENTS: &str = "webhook:";

/// Why a store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away, too slow, or refuses for now: the same call may succeed later. It may or may not have been carried out.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It may have lost history (it was restarted, or failed over, or emptied), so for one lease time it takes no changes of books
    /// while every replica says what it knows. Nothing was carried out.
    #[error("the store may have lost history and takes no changes for another {} ms", .0.as_millis())]
    Fenced(Duration),
    /// What it holds cannot be read.
    #[error("the store holds what cannot be read: {0}")]
    Corrupt(String),
    /// No account of that name.
    #[error("there is no account `{0}` in the store")]
    NoAccount(AccountId),
    /// It was purged: neither opened again nor put back.
    #[error("account `{0}` was purged; its id is never used again")]
    Purged(AccountId),
}

/// A book as read, with all that is needed to run a command on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Changes with every write of the book or of a key; 1 after the first.
    pub version: u64,
    /// The book.
    pub book: Book,
    /// The spend of all replicas, as far as published, with what is `lost`.
    pub spend: Amount,
    /// What replicas may still lease; below zero if more was taken than there is.
    pub unleased: Amount,
    /// Spend that replicas saw in the store, and that is not in it since it lost history: it counts as spent, and nobody can lease
    /// it, until the replicas it belongs to publish it again.
    pub lost: Amount,
    /// What stands under each claim that was asked for, in that order.
    pub claims: Vec<Option<Claim>>,
}

impl Snapshot {
    /// What the replicas have done: what a command is carried out with.
    pub fn spent(&self) -> Spent {
        Spent::of(&self.book, self.spend, self.unleased)
    }
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
    /// Its part in the rate limit, in thousandths of a call per second.
    #[serde(default)]
    pub rate: Share,
    /// Its part in the limit of calls in flight.
    #[serde(default)]
    pub places: Share,
}

impl Row {
    /// What a message must believe to be applied.
    pub const fn standing(&self) -> Standing {
        Standing {
            spend: self.spend,
            committed: self.committed,
            rate: self.rate.share,
            places: self.places.share,
        }
    }
}

/// A replica's part in one limit of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// What it may use.
    pub share: u64,
    /// What its callers asked for.
    pub demand: u64,
}

/// A change of a book, carried out only if the version is still the expected one.
#[derive(Clone, Debug, PartialEq)]
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
    /// Not a command's effect but what a replica remembers and the store lost.
    pub restore: Option<Restore>,
}

/// How a remembered book is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The version to write it under: above every one that anybody has seen of it.
    pub version: u64,
    /// How many of the first entries are gone for good: the ledger's list begins after them. Only counts where there is no account.
    pub entries_gone: u64,
}

impl Commit {
    /// The version it is written under.
    pub fn version(&self) -> u64 {
        let next = self.expected.saturating_add(1);
        self.restore
            .map_or(next, |restore| restore.version.max(next))
    }
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
    /// In which history it believes that; `None` if it has not heard from any. In another one nothing is applied: it is told what stands
    /// there, and then knows what it said before and may be lost.
    pub history: Option<History>,
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
    /// The least that lets one of them pass: less helps nobody here, and may be what another replica lacks, so it is not granted.
    pub least: Amount,
    /// How much of its own spend a store may have had before it lost history, answered or not: what of it is not there any more was
    /// lost, and is now said again.
    pub seen: Amount,
    /// The highest total of spend that it ever saw.
    pub total: Amount,
    /// What it seeks of the rate limit, in thousandths of a call per second.
    pub rate: Sought,
    /// What it seeks of the limit of calls in flight.
    pub places: Sought,
    /// This replica's own usage rows that changed, absolute.
    pub usage: Vec<UsageRow>,
}

/// What a replica has of an account: compared and set as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its spend.
    pub spend: Amount,
    /// `max(lease ceiling, spend)`.
    pub committed: Amount,
    /// Its share of the rate, in thousandths of a call per second.
    pub rate: u64,
    /// Its share of the calls in flight.
    pub places: u64,
}

/// What a replica seeks of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sought {
    /// The limit as the replica knows it: the shares together never exceed it. Below 2^53.
    pub limit: u64,
    /// What its callers ask for, in the limit's unit.
    pub demand: u64,
    /// How much more it wants.
    pub want: u64,
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
    /// The spend of all replicas, with what is lost.
    pub total: Amount,
    /// What may still be leased.
    pub unleased: Amount,
    /// The account's version; if newer than known, the book or a key has changed; if older, the store has lost it.
    pub version: u64,
    /// See [`Snapshot::lost`].
    pub lost: Amount,
    /// How the rate limit stands.
    pub rate: Pool,
    /// How the limit of calls in flight stands.
    pub places: Pool,
    /// Which history of the store this was said in: another one may lack what was said before.
    pub history: History,
    /// The history is younger than a lease: nothing is granted.
    pub fenced: bool,
}

/// How one limit stands over all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// All shares together.
    pub shared: u64,
    /// All demand together.
    pub demand: u64,
    /// For how long what was granted now had been free, in ms: it earned calls meanwhile. Zero if nothing was granted.
    pub rested_ms: u64,
}

/// Which history of a store: the same number, the same history. A Redis that is restarted or failed over begins another one, as it may
/// have lost what it acknowledged. A digest of its own ids, so that it fits in a word; 0 is the one history of a store that loses none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(pub u64);

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
    /// The service that its calls belong to, for whoever looks at usage; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// What its calls may cost in a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Budget>,
}

impl KeyRecord {
    /// A key that is good for ever, for everything, and that no secret belongs to.
    pub(crate) const fn unlimited(id: KeyId, account: AccountId) -> Self {
        Self {
            id,
            account,
            digest: String::new(),
            name: String::new(),
            hint: String::new(),
            created: Timestamp::from_nanos(0),
            expires: None,
            revoked: None,
            qps: None,
            models: Vec::new(),
            service: String::new(),
            budgets: Vec::new(),
        }
    }
}

/// Something changed that replicas keep in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An account's book or keys are at this version.
    Account(AccountId, u64),
    /// An account has nothing left to lease or share: give back what is not used.
    Scarce(AccountId, Scarce),
    /// A document changed, by name.
    Document(String),
    /// The store's own connection for changes was cut or is new: some may have been missed, so read everything again.
    All,
}

/// What an account has nothing left of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// Money.
    Money,
    /// Its rate, or its calls in flight; with the demand of all replicas for the one and the other.
    Shares(u64, u64),
}

/// What silent replicas left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lapsed {
    /// Free rights that came back.
    pub freed: Amount,
    /// Their reported holds, which stay set aside until they are retired.
    pub held: Amount,
    /// Replicas whose lease is over.
    pub lapsed: u64,
    /// Replicas that were retired.
    pub retired: u64,
}

/// An account's spend by key and model, over all replicas and all time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSpend {
    /// Ascending over all accounts; where a reader goes on.
    pub sequence: u64,
    /// The account.
    pub account: AccountId,
    /// Its total, without what is lost.
    pub total: Amount,
    /// Its rows, `hour: None`; they add up to the total.
    pub rows: Vec<UsageRow>,
}

/// The shared truth. See the module.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Whether it answers at all.
    async fn ping(&self) -> Result<(), StoreError>;

    /// In which history what concerns an account would be said now.
    async fn history(&self, account: &AccountId) -> Result<History, StoreError>;

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

    /// Writes a book if its version is still the expected one; with it, or not at all, entries, events and claims. While the store's
    /// history is younger than a lease only what is put back ([`Commit::restore`]) is taken; the rest is [`StoreError::Fenced`]. Of an
    /// account that was purged nothing is ever taken: [`StoreError::Purged`].
    async fn commit(&self, commit: Commit) -> Result<Stored, StoreError>;

    /// Removes an account with all that is its own (book, keys, claims, entries, replicas' rows, usage) if its version is still the
    /// expected one, and leaves a mark, so that nobody opens it again or puts it back. What the feed of events says of it stays there
    /// until it is crowded out. Of one that was purged before, what is left is removed, whatever the version that is expected.
    async fn purge(
        &self,
        account: &AccountId,
        expected: u64,
        now: Timestamp,
    ) -> Result<Stored, StoreError>;

    /// When an account was purged; `None` if it was not.
    async fn purged(&self, account: &AccountId) -> Result<Option<Timestamp>, StoreError>;

    /// Carries out a replica's messages, each on its own; the answers in the same order.
    ///
    /// Each is carried out as [`shared::publish`] says, whole or not at all, and its usage rows are set if it is applied.
    ///
    /// A message that contradicts itself (spend that falls, `committed` below spend, a sum beyond the range) is
    /// [`StoreError::Corrupt`] and changes nothing.
    async fn publish(
        &self,
        replica: &ReplicaId,
        batch: Vec<Publish>,
    ) -> Vec<Result<Published, StoreError>>;

    /// Takes back the free rights of replicas that have been silent for longer than `silence`, as [`shared::lapse`] says, and retires
    /// those silent for longer than `retired`, as [`shared::retire`] says. What was silent before the store's present history began is
    /// silent since then. Returns what came back.
    async fn lapse(
        &self,
        account: &AccountId,
        silence: Duration,
        retired: Duration,
    ) -> Result<Lapsed, StoreError>;

    /// Tells the other replicas that an account has nothing left to lease, or to share.
    async fn tell_scarce(&self, account: &AccountId, what: Scarce) -> Result<(), StoreError>;

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

    /// Events of all accounts after a sequence number of the feed, ascending, with theirs. Numbers ascend for ever, with gaps: also
    /// over a loss of history, so that a reader goes on after the last one that it has.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, StoreError>;

    /// Puts events that were written before into the feed again, as far as it does not have them: each under a new place, and the id
    /// that it had. For a store that lost history; one that loses none has them all.
    async fn announce(&self, events: &[Event]) -> Result<(), StoreError> {
        let _ = events;
        Ok(())
    }

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

    /// Writes a document if its version is still the expected one (0: it must not exist). While the store's history is younger than a
    /// lease only what it `lost` is taken; anything else is [`StoreError::Fenced`].
    async fn put_document(
        &self,
        name: &str,
        expected: u64,
        body: Vec<u8>,
        lost: bool,
    ) -> Result<Stored, StoreError>;

    /// What changes from now on, this process' own changes included. A listener that lags reads everything again, as it does
    /// on [`Change::All`].
    fn changes(&self) -> broadcast::Receiver<Change>;
}
