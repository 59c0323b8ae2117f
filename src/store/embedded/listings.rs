//! What is only read: books, keys, ledger, events, usage, the feed of spend. Each function works on one read transaction, so
//! what it returns was true at one instant.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use redb::{AccessGuard, Key, ReadTransaction, StorageError};
use serde::de::DeserializeOwned;

use super::super::shared::Tombstone;
use super::super::{AccountSpend, KeyRecord, Opened, Snapshot, StoreError, UsageRow};
use super::tables::{
    BOOKS, CLAIMS, ENTRIES, EVENTS, HEADS, HOURS, Head, Json, KEYS, LAST, LIFETIME, LiveRow, ROWS,
    SPENT, TOMBSTONES, away, get, look, parse,
};
use crate::clock::Hour;
use crate::id::{AccountId, KeyId, ModelName, NameError, ReplicaId};
use crate::ledger::{Entry, Event};
use crate::usage::Tally;

/// One item of a range.
type Item<'a, K> = Result<(AccessGuard<'a, K>, AccessGuard<'a, Json>), StorageError>;

fn value<K: Key + 'static, T: DeserializeOwned>(item: Item<'_, K>) -> Result<T, StoreError> {
    let (_, value) = item.map_err(away)?;
    parse(value.value())
}

fn unreadable(error: NameError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

/// See [`super::super::Store::read`].
pub(super) fn snapshot(
    txn: &ReadTransaction,
    account: &AccountId,
    claims: &[String],
) -> Result<Option<Snapshot>, StoreError> {
    let Some(head) = look::<_, Head>(txn, HEADS, account.as_str())? else {
        return Ok(None);
    };
    let book = look(txn, BOOKS, account.as_str())?
        .ok_or_else(|| StoreError::Corrupt(format!("`{account}` has no book")))?;
    let table = txn.open_table(CLAIMS).map_err(away)?;
    let claims = claims
        .iter()
        .map(|name| get(&table, (account.as_str(), name.as_str())));
    Ok(Some(Snapshot {
        version: head.version,
        book,
        spend: head.total,
        unleased: head.unleased,
        lost: head.lost,
        claims: claims.collect::<Result<_, _>>()?,
    }))
}

/// See [`super::super::Store::open`].
pub(super) fn open(
    txn: &ReadTransaction,
    account: &AccountId,
    replica: &ReplicaId,
    hour: Hour,
) -> Result<Option<Opened>, StoreError> {
    let Some(snapshot) = snapshot(txn, account, &[])? else {
        return Ok(None);
    };
    let (name, own) = (account.as_str(), replica.as_str());
    let row: LiveRow = match look(txn, ROWS, (name, own))? {
        Some(row) => row,
        None => look::<_, Tombstone>(txn, TOMBSTONES, (name, own))?
            .map_or_else(LiveRow::default, LiveRow::from),
    };
    let mut usage = Vec::new();
    let lifetime = txn.open_table(LIFETIME).map_err(away)?;
    let range = (name, own, "", "")..=(name, own, LAST, "");
    for item in lifetime.range(range).map_err(away)? {
        let (at, tally) = item.map_err(away)?;
        let (_, _, key, model) = at.value();
        usage.push(usage_row(None, key, model, parse(tally.value())?)?);
    }
    let hours = txn.open_table(HOURS).map_err(away)?;
    let range = (name, hour.0, own, "", "")..=(name, hour.0, own, LAST, "");
    for item in hours.range(range).map_err(away)? {
        let (at, tally) = item.map_err(away)?;
        let (_, _, _, key, model) = at.value();
        usage.push(usage_row(Some(hour), key, model, parse(tally.value())?)?);
    }
    Ok(Some(Opened {
        snapshot,
        row: row.row,
        usage,
        keys: keys(txn, account)?,
    }))
}

fn usage_row(
    hour: Option<Hour>,
    key: &str,
    model: &str,
    tally: Tally,
) -> Result<UsageRow, StoreError> {
    Ok(UsageRow {
        hour,
        key: KeyId::new(key).map_err(unreadable)?,
        model: model_name(model)?,
        tally,
    })
}

fn model_name(model: &str) -> Result<Option<ModelName>, StoreError> {
    if model.is_empty() {
        return Ok(None);
    }
    ModelName::new(model).map(Some).map_err(unreadable)
}

/// See [`super::super::Store::accounts`].
pub(super) fn accounts(
    txn: &ReadTransaction,
    after: Option<&AccountId>,
    limit: usize,
) -> Result<Vec<AccountId>, StoreError> {
    let table = txn.open_table(HEADS).map_err(away)?;
    let from = after.map_or("", |after| after.as_str());
    let range = table
        .range::<&str>((Excluded(from), Unbounded))
        .map_err(away)?;
    range
        .take(limit)
        .map(|item| AccountId::stored(item.map_err(away)?.0.value()).map_err(unreadable))
        .collect()
}

/// See [`super::super::Store::keys`].
pub(super) fn keys(
    txn: &ReadTransaction,
    account: &AccountId,
) -> Result<Vec<KeyRecord>, StoreError> {
    let table = txn.open_table(KEYS).map_err(away)?;
    let range = (account.as_str(), "")..=(account.as_str(), LAST);
    table.range(range).map_err(away)?.map(value).collect()
}

/// See [`super::super::Store::entries`].
pub(super) fn entries(
    txn: &ReadTransaction,
    account: &AccountId,
    after: u64,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let table = txn.open_table(ENTRIES).map_err(away)?;
    let name = account.as_str();
    let range = (name, after.saturating_add(1))..=(name, u64::MAX);
    let entries = table.range(range).map_err(away)?;
    entries.take(limit).map(value).collect()
}

/// See [`super::super::Store::events`].
pub(super) fn events(
    txn: &ReadTransaction,
    after: u64,
    limit: usize,
) -> Result<Vec<(u64, Event)>, StoreError> {
    let table = txn.open_table(EVENTS).map_err(away)?;
    let range = table.range((Excluded(after), Unbounded)).map_err(away)?;
    range
        .take(limit)
        .map(|item| {
            let (at, event) = item.map_err(away)?;
            Ok((at.value(), parse(event.value())?))
        })
        .collect()
}

/// See [`super::super::Store::usage`].
pub(super) fn usage(
    txn: &ReadTransaction,
    account: &AccountId,
    from: Hour,
    to: Hour,
) -> Result<Vec<UsageRow>, StoreError> {
    if from >= to {
        return Ok(Vec::new());
    }
    let table = txn.open_table(HOURS).map_err(away)?;
    let name = account.as_str();
    let range = (name, from.0, "", "", "")..(name, to.0, "", "", "");
    let mut sums = BTreeMap::<_, Tally>::new();
    for item in table.range(range).map_err(away)? {
        let (at, tally) = item.map_err(away)?;
        let (_, hour, _, key, model) = at.value();
        let key = KeyId::new(key).map_err(unreadable)?;
        let sum = sums
            .entry((Hour(hour), key, model_name(model)?))
            .or_default();
        sum.add(&parse(tally.value())?);
    }
    Ok(sums
        .into_iter()
        .map(|((hour, key, model), tally)| UsageRow {
            hour: Some(hour),
            key,
            model,
            tally,
        })
        .collect())
}

/// See [`super::super::Store::spend_since`].
pub(super) fn spend_since(
    txn: &ReadTransaction,
    after: u64,
    limit: usize,
) -> Result<Vec<AccountSpend>, StoreError> {
    let table = txn.open_table(SPENT).map_err(away)?;
    let range = table.range((Excluded(after), Unbounded)).map_err(away)?;
    let spend = |item: Item<'_, u64>| {
        let (at, account) = item.map_err(away)?;
        let account: AccountId = parse(account.value())?;
        // One that was purged may stand there, for its number.
        let Some(head) = look::<_, Head>(txn, HEADS, account.as_str())? else {
            return Ok(None);
        };
        Ok(Some(AccountSpend {
            sequence: at.value(),
            total: head.total.saturating_sub(head.lost),
            rows: lifetime(txn, &account)?,
            account,
        }))
    };
    range
        .map(spend)
        .filter_map(Result::transpose)
        .take(limit)
        .collect()
}

/// An account's rows over all time, summed over replicas.
fn lifetime(txn: &ReadTransaction, account: &AccountId) -> Result<Vec<UsageRow>, StoreError> {
    let table = txn.open_table(LIFETIME).map_err(away)?;
    let name = account.as_str();
    let mut sums = BTreeMap::<_, Tally>::new();
    let range = (name, "", "", "")..=(name, LAST, "", "");
    for item in table.range(range).map_err(away)? {
        let (at, tally) = item.map_err(away)?;
        let (_, _, key, model) = at.value();
        let key = KeyId::new(key).map_err(unreadable)?;
        let sum = sums.entry((key, model_name(model)?)).or_default();
        sum.add(&parse(tally.value())?);
    }
    Ok(sums
        .into_iter()
        .map(|((key, model), tally)| UsageRow {
            hour: None,
            key,
            model,
            tally,
        })
        .collect())
}
