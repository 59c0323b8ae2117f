//! The tables of the file, and the way JSON goes in and out of them. No rules here.

use std::borrow::Borrow;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) use super::super::shared::{Head, LiveRow};
use super::super::{Change, StoreError};

/// Values are JSON, so that books can be read with redb's own tools.
pub(super) type Json = &'static [u8];

/// A table of JSON values.
pub(super) type Table<K> = TableDefinition<'static, K, Json>;

/// By name: the format, and who this replica is.
pub(super) const META: Table<&str> = TableDefinition::new("meta");
/// By account: [`Head`].
pub(super) const HEADS: Table<&str> = TableDefinition::new("heads");
/// By account: the book. Apart from its head, which is written at every publish.
pub(super) const BOOKS: Table<&str> = TableDefinition::new("books");
/// By account and replica: [`LiveRow`].
pub(super) const ROWS: Table<(&str, &str)> = TableDefinition::new("rows");
/// By account and replica: what a retired replica left, a [`super::super::shared::Tombstone`].
pub(super) const TOMBSTONES: Table<(&str, &str)> = TableDefinition::new("tombstones");
/// By account: how many of its first entries are gone for good; nothing for none.
pub(super) const ENTRIES_GONE: Table<&str> = TableDefinition::new("entries_gone");
/// By account: when it was purged. Kept for good: some 100 bytes a row.
pub(super) const PURGED: Table<&str> = TableDefinition::new("purged");
/// By account and key: the key's record.
pub(super) const KEYS: Table<(&str, &str)> = TableDefinition::new("keys");
/// By digest: the account and the key.
pub(super) const DIGESTS: Table<&str> = TableDefinition::new("digests");
/// By account and claim: what stands under it.
pub(super) const CLAIMS: Table<(&str, &str)> = TableDefinition::new("claims");
/// By account and sequence number: the ledger.
pub(super) const ENTRIES: Table<(&str, u64)> = TableDefinition::new("entries");
/// By sequence number of the feed: the event.
pub(super) const EVENTS: Table<u64> = TableDefinition::new("events");
/// By account, replica, key and model: a tally over all time.
pub(super) const LIFETIME: Table<(&str, &str, &str, &str)> = TableDefinition::new("lifetime");
/// By account, hour, replica, key and model: a tally of that hour. Kept for good: some 150 bytes a row.
pub(super) const HOURS: Table<(&str, i64, &str, &str, &str)> = TableDefinition::new("hours");
/// By sequence number: the account whose spend changed; each account stands once.
pub(super) const SPENT: Table<u64> = TableDefinition::new("spent");
/// By account: its sequence number in [`SPENT`].
pub(super) const SPENT_AT: Table<&str> = TableDefinition::new("spent_at");
/// By name: a document's version and bytes.
pub(super) const DOCUMENTS: TableDefinition<'static, &str, (u64, &'static [u8])> =
    TableDefinition::new("documents");

/// Sorts after every name: names are made of characters below it.
pub(super) const LAST: &str = "\u{7f}";

/// What went wrong in redb, in the store's words.
pub(super) fn away(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Reads a value.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Reads one value of a table.
pub(super) fn get<'k, K: Key + 'static, T: DeserializeOwned>(
    table: &impl ReadableTable<K, Json>,
    key: impl Borrow<K::SelfType<'k>>,
) -> Result<Option<T>, StoreError> {
    let guard = table.get(key).map_err(away)?;
    guard.map(|guard| parse(guard.value())).transpose()
}

/// Reads one value of a table in a read transaction.
pub(super) fn look<'k, K: Key + 'static, T: DeserializeOwned>(
    txn: &ReadTransaction,
    table: Table<K>,
    key: impl Borrow<K::SelfType<'k>>,
) -> Result<Option<T>, StoreError> {
    get(&txn.open_table(table).map_err(away)?, key)
}

/// A write transaction, and what it will have changed.
pub(super) struct Writer {
    pub(super) txn: WriteTransaction,
    /// Told to listeners once it is durable.
    pub(super) changes: Vec<Change>,
    /// Whether anything was written: a transaction without is dropped, which saves the fsync.
    pub(super) dirty: bool,
}

impl Writer {
    /// Reads one value.
    pub(super) fn get<'k, K: Key + 'static, T: DeserializeOwned>(
        &self,
        table: Table<K>,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<T>, StoreError> {
        get(&self.txn.open_table(table).map_err(away)?, key)
    }

    /// Writes one value.
    pub(super) fn put<'k, K: Key + 'static>(
        &mut self,
        table: Table<K>,
        key: impl Borrow<K::SelfType<'k>>,
        value: &impl Serialize,
    ) -> Result<(), StoreError> {
        let json =
            serde_json::to_vec(value).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        self.dirty = true;
        let mut table = self.txn.open_table(table).map_err(away)?;
        table.insert(key, json.as_slice()).map_err(away)?;
        Ok(())
    }

    /// Takes one value away, if it is there.
    pub(super) fn remove<'k, K: Key + 'static>(
        &mut self,
        table: Table<K>,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<(), StoreError> {
        let mut table = self.txn.open_table(table).map_err(away)?;
        if table.remove(key).map_err(away)?.is_some() {
            self.dirty = true;
        }
        Ok(())
    }

    /// Appends a value under the next number; returns that.
    pub(super) fn append(
        &mut self,
        table: Table<u64>,
        value: &impl Serialize,
    ) -> Result<u64, StoreError> {
        let last = {
            let table = self.txn.open_table(table).map_err(away)?;
            table
                .last()
                .map_err(away)?
                .map_or(0, |(key, _)| key.value())
        };
        let next = last.saturating_add(1);
        self.put(table, next, value)?;
        Ok(next)
    }
}
