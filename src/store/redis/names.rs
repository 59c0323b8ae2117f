//! The names of keys in Redis, and of the one channel. All keys of an account carry the hash tag `{account}`, so that a script
//! finds them on one node of a cluster; what belongs to all accounts has the tag `{feed}` or stands alone. Names of accounts,
//! replicas and keys have neither braces nor `|` in them (see [`crate::id`]).

use crate::clock::Hour;
use crate::id::AccountId;

/// Makes names under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = prefix.to_owned();
        Self { prefix }
    }

    fn of(&self, account: &AccountId, what: &str) -> String {
        format!("{}a:{{{account}}}:{what}", self.prefix)
    }

    /// Hash: version, total, unleased, lost, live, the shares with their demand, book, entries_gone; or, of an account that was purged, only
    /// when that was.
    pub(super) fn head(&self, account: &AccountId) -> String {
        self.of(account, "head")
    }

    /// Set: the replicas that have a row.
    pub(super) fn replicas(&self, account: &AccountId) -> String {
        self.of(account, "replicas")
    }

    /// Hash: spend, committed, seq, held, seen, live, the shares with their demand.
    pub(super) fn row(&self, account: &AccountId, replica: &str) -> String {
        self.of(account, &format!("row:{replica}"))
    }

    /// Hash: what retired replicas left, as `spend|seq`.
    pub(super) fn tombstones(&self, account: &AccountId) -> String {
        self.of(account, "gone")
    }

    /// List of entries; an entry's index is its sequence number less one, and less the head's `entries_gone`.
    pub(super) fn ledger(&self, account: &AccountId) -> String {
        self.of(account, "ledger")
    }

    /// Hash: what stands under each claim.
    pub(super) fn claims(&self, account: &AccountId) -> String {
        self.of(account, "claims")
    }

    /// List of events not yet in the feed.
    pub(super) fn outbox(&self, account: &AccountId) -> String {
        self.of(account, "outbox")
    }

    /// Hash: the record of each key.
    pub(super) fn keys(&self, account: &AccountId) -> String {
        self.of(account, "keys")
    }

    /// Hash: a replica's tallies over all time, by `key|model`.
    pub(super) fn lifetime(&self, account: &AccountId, replica: &str) -> String {
        self.of(account, &format!("usage:{replica}"))
    }

    /// Hash: a replica's tallies of one hour, by `key|model`.
    pub(super) fn hour(&self, account: &AccountId, hour: Hour, replica: &str) -> String {
        self.of(account, &format!("hour:{}:{replica}", hour.0))
    }

    /// Sorted set: the hours that have a hash, as `hour|replica`.
    pub(super) fn hours(&self, account: &AccountId) -> String {
        self.of(account, "hours")
    }

    /// Sorted set: all accounts.
    pub(super) fn accounts(&self) -> String {
        format!("{}accounts", self.prefix)
    }

    /// Hash: since when each history is known; and the index of accounts, which is in the same slot by the name in its braces.
    pub(super) fn histories(&self) -> [String; 2] {
        let accounts = self.accounts();
        [format!("{}{{{accounts}}}:histories", self.prefix), accounts]
    }

    /// String: the `account|key` behind a digest.
    pub(super) fn digest(&self, digest: &str) -> String {
        format!("{}k:{digest}", self.prefix)
    }

    /// Hash: a document's version and body.
    pub(super) fn document(&self, name: &str) -> String {
        format!("{}d:{name}", self.prefix)
    }

    /// Sorted set: events by sequence number; and the counter.
    pub(super) fn events(&self) -> [String; 2] {
        self.feed("events")
    }

    /// Sorted set: accounts by the sequence number of their last spend; and the counter.
    pub(super) fn spend(&self) -> [String; 2] {
        self.feed("spend")
    }

    fn feed(&self, what: &str) -> [String; 2] {
        let name = format!("{}f:{{feed}}:{what}", self.prefix);
        [name.clone(), format!("{name}:sequence")]
    }

    /// The channel on which changes are told.
    pub(super) fn channel(&self) -> String {
        format!("{}changes", self.prefix)
    }
}
