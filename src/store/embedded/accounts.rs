//! What changes an account: commits, messages of replicas, keys, lapses. Each function is one step of a write transaction.

use redb::ReadableTable as _;
use redb::ReadableTableMetadata as _;

use super::super::message::entries_before;
use super::super::shared::{self, Ground, Step, Tombstone, differences};
use super::super::{
    Change, Commit, EVENTS_MAX, KeyRecord, Lapsed, Publish, Published, StoreError, Stored, UsageRow,
};
use super::tables::{
    BOOKS, CLAIMS, DIGESTS, ENTRIES, ENTRIES_GONE, EVENTS, HEADS, HOURS, Head, KEYS, LAST,
    LIFETIME, LiveRow, PURGED, ROWS, SPENT, SPENT_AT, TOMBSTONES, Writer, away, parse,
};
use crate::clock::Timestamp;
use crate::id::{AccountId, KeyId, ReplicaId};
use crate::ledger::Claim;
use crate::money::Amount;

/// A sum that would leave the range.
pub(super) fn range(account: &AccountId) -> StoreError {
    StoreError::Corrupt(format!("a sum of `{account}` would leave the range"))
}

/// See [`super::super::Store::commit`].
pub(super) fn commit(writer: &mut Writer, commit: &Commit) -> Result<Stored, StoreError> {
    let before = entries_before(commit)?;
    let id = &commit.book.account;
    let account = id.as_str();
    let mut head: Head = writer.get(HEADS, account)?.unwrap_or_default();
    if head.version == 0 && writer.get::<_, Timestamp>(PURGED, account)?.is_some() {
        return Err(StoreError::Purged(id.clone()));
    }
    if head.version != commit.expected {
        return Ok(Stored::Conflict);
    }
    for (name, _) in &commit.claims {
        // Whoever asked for its claims would not have come here: let it ask again.
        if writer
            .get::<_, Claim>(CLAIMS, (account, name.as_str()))?
            .is_some()
        {
            return Ok(Stored::Conflict);
        }
    }
    // Never fenced, also not what is put back: one process has the file, so there are no rights that it does not know of.
    if let (0, Some(restore)) = (head.version, commit.restore) {
        writer.put(ENTRIES_GONE, account, &restore.entries_gone)?;
    }
    let last = last_entry(writer, account)?;
    if last != before {
        return Err(StoreError::Corrupt(format!(
            "the ledger of `{id}` ends at {last}, the commit goes on from {before}"
        )));
    }
    let unleased = head.unleased.checked_add(commit.credit_delta);
    head.unleased = unleased.ok_or_else(|| range(id))?;
    head.version = commit.version();
    writer.put(HEADS, account, &head)?;
    writer.put(BOOKS, account, &commit.book)?;
    for entry in &commit.entries {
        writer.put(ENTRIES, (account, entry.sequence), entry)?;
    }
    for (name, claim) in &commit.claims {
        writer.put(CLAIMS, (account, name.as_str()), claim)?;
    }
    for event in &commit.events {
        writer.append(EVENTS, event)?;
    }
    trim_events(writer)?;
    let change = Change::Account(id.clone(), head.version);
    writer.changes.push(change);
    Ok(Stored::At(head.version))
}

fn last_entry(writer: &Writer, account: &str) -> Result<u64, StoreError> {
    let table = writer.txn.open_table(ENTRIES).map_err(away)?;
    let mut range = table
        .range((account, 0)..=(account, u64::MAX))
        .map_err(away)?;
    let last = range.next_back().transpose().map_err(away)?;
    match last {
        Some((key, _)) => Ok(key.value().1),
        None => Ok(writer.get(ENTRIES_GONE, account)?.unwrap_or_default()),
    }
}

fn trim_events(writer: &Writer) -> Result<(), StoreError> {
    let most = u64::try_from(EVENTS_MAX).unwrap_or(u64::MAX);
    let mut table = writer.txn.open_table(EVENTS).map_err(away)?;
    while table.len().map_err(away)? > most {
        table.pop_first().map_err(away)?;
    }
    Ok(())
}

/// See [`super::super::Store::publish`]. The outer error is the file's and undoes the whole batch; an inner one is a message's
/// own, of which nothing was written.
pub(super) fn publish(
    writer: &mut Writer,
    replica: &ReplicaId,
    batch: &[Publish],
    now_ms: u64,
) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
    let mut answers = Vec::with_capacity(batch.len());
    for message in batch {
        let answer = match plan(writer, replica, message, now_ms) {
            Ok(step) => Ok(store(writer, replica, message, &step)?),
            Err(error) => Err(error),
        };
        answers.push(answer);
    }
    Ok(answers)
}

/// What a message will change. Reads only.
fn plan(
    writer: &Writer,
    replica: &ReplicaId,
    message: &Publish,
    now_ms: u64,
) -> Result<Step, StoreError> {
    let differences = differences(message)?;
    let account = &message.account;
    let head: Option<Head> = writer.get(HEADS, account.as_str())?;
    let head = head.ok_or_else(|| StoreError::NoAccount(account.clone()))?;
    let place = (account.as_str(), replica.as_str());
    let row = match writer.get(ROWS, place)? {
        Some(row) => row,
        None => writer
            .get::<_, Tombstone>(TOMBSTONES, place)?
            .map_or_else(LiveRow::default, LiveRow::from),
    };
    // Nothing is ever fenced: see `commit`.
    let ground = Ground {
        now_ms,
        ..Ground::default()
    };
    let step = shared::publish(head, row, message, &differences, &ground);
    step.ok_or_else(|| range(account))
}

/// Writes what was planned.
fn store(
    writer: &mut Writer,
    replica: &ReplicaId,
    message: &Publish,
    step: &Step,
) -> Result<Published, StoreError> {
    let (account, replica) = (message.account.as_str(), replica.as_str());
    if step.spoke {
        writer.put(ROWS, (account, replica), &step.row)?;
        writer.put(HEADS, account, &step.head)?;
        writer.remove(TOMBSTONES, (account, replica))?;
    }
    if step.applied {
        for usage in &message.usage {
            set_usage(writer, account, replica, usage)?;
        }
    }
    if step.applied && message.new.spend != message.believed.spend {
        touch(writer, account)?;
    }
    Ok(step.answer)
}

fn set_usage(
    writer: &mut Writer,
    account: &str,
    replica: &str,
    usage: &UsageRow,
) -> Result<(), StoreError> {
    let key = usage.key.as_str();
    let model = usage.model.as_ref().map_or("", |model| model.as_str());
    match usage.hour {
        None => writer.put(LIFETIME, (account, replica, key, model), &usage.tally),
        Some(hour) => writer.put(HOURS, (account, hour.0, replica, key, model), &usage.tally),
    }
}

/// Moves an account to the end of the feed of spend.
fn touch(writer: &mut Writer, account: &str) -> Result<(), StoreError> {
    if let Some(old) = writer.get::<_, u64>(SPENT_AT, account)? {
        // Only after the new one stands: the next number follows the largest in the table.
        let new = writer.append(SPENT, &account)?;
        let mut table = writer.txn.open_table(SPENT).map_err(away)?;
        table.remove(old).map_err(away)?;
        drop(table);
        return writer.put(SPENT_AT, account, &new);
    }
    let new = writer.append(SPENT, &account)?;
    writer.put(SPENT_AT, account, &new)
}

/// See [`super::super::Store::lapse`].
pub(super) fn lapse(
    writer: &mut Writer,
    id: &AccountId,
    silence_ms: u64,
    retired_ms: u64,
    now_ms: u64,
) -> Result<Lapsed, StoreError> {
    let account = id.as_str();
    let mut done = Lapsed::default();
    let Some(mut head) = writer.get::<_, Head>(HEADS, account)? else {
        return Ok(done);
    };
    for (replica, mut live_row) in rows(writer, account)? {
        let silent_ms = now_ms.saturating_sub(live_row.row.seen_ms);
        if live_row.live && silent_ms > silence_ms {
            let freed = shared::lapse(&mut head, &mut live_row, now_ms);
            done.freed = done.freed.saturating_add(freed.ok_or_else(|| range(id))?);
            done.held = done.held.saturating_add(live_row.row.held);
            done.lapsed = done.lapsed.saturating_add(1);
            writer.put(ROWS, (account, replica.as_str()), &live_row)?;
        }
        if !live_row.live && silent_ms > retired_ms {
            let retired = shared::retire(&mut head, live_row, now_ms);
            let (tombstone, freed) = retired.ok_or_else(|| range(id))?;
            done.freed = done.freed.saturating_add(freed);
            done.retired = done.retired.saturating_add(1);
            writer.put(TOMBSTONES, (account, replica.as_str()), &tombstone)?;
            writer.remove(ROWS, (account, replica.as_str()))?;
        }
    }
    if done != Lapsed::default() {
        writer.put(HEADS, account, &head)?;
    }
    Ok(done)
}

fn rows(writer: &Writer, account: &str) -> Result<Vec<(String, LiveRow)>, StoreError> {
    let table = writer.txn.open_table(ROWS).map_err(away)?;
    let range = table.range((account, "")..=(account, LAST)).map_err(away)?;
    range
        .map(|item| {
            let (key, value) = item.map_err(away)?;
            Ok((key.value().1.to_owned(), parse(value.value())?))
        })
        .collect()
}

/// The lease of every replica but this one is over: one process at a time opens the file, so nobody else can be alive. What
/// they had open died with them.
pub(super) fn lapse_others(
    writer: &mut Writer,
    own: &ReplicaId,
    now_ms: u64,
) -> Result<(), StoreError> {
    let mut others = Vec::new();
    {
        let table = writer.txn.open_table(ROWS).map_err(away)?;
        for item in table.iter().map_err(away)? {
            let (key, value) = item.map_err(away)?;
            let (account, replica) = key.value();
            let row: LiveRow = parse(value.value())?;
            if replica != own.as_str() && (row.live || row.row.committed != row.row.spend) {
                others.push((account.to_owned(), replica.to_owned(), row));
            }
        }
    }
    for (account, replica, mut live_row) in others {
        let mut head: Head = writer.get(HEADS, account.as_str())?.unwrap_or_default();
        live_row.row.held = Amount::ZERO;
        shared::lapse(&mut head, &mut live_row, now_ms).ok_or_else(|| {
            StoreError::Corrupt(format!("a sum of `{account}` would leave the range"))
        })?;
        writer.put(HEADS, account.as_str(), &head)?;
        writer.put(ROWS, (account.as_str(), replica.as_str()), &live_row)?;
    }
    Ok(())
}

/// See [`super::super::Store::put_key`].
pub(super) fn put_key(
    writer: &mut Writer,
    expected: u64,
    key: &KeyRecord,
) -> Result<Stored, StoreError> {
    let account = key.account.as_str();
    let head: Option<Head> = writer.get(HEADS, account)?;
    let mut head = head.ok_or_else(|| StoreError::NoAccount(key.account.clone()))?;
    let owner: Option<(AccountId, KeyId)> = writer.get(DIGESTS, key.digest.as_str())?;
    let foreign = owner.is_some_and(|(account, id)| account != key.account || id != key.id);
    let known: Option<KeyRecord> = writer.get(KEYS, (account, key.id.as_str()))?;
    let other_secret = known.is_some_and(|known| known.digest != key.digest);
    if head.version != expected || foreign || other_secret {
        return Ok(Stored::Conflict);
    }
    head.version = head.version.saturating_add(1);
    writer.put(HEADS, account, &head)?;
    writer.put(KEYS, (account, key.id.as_str()), key)?;
    writer.put(DIGESTS, key.digest.as_str(), &(&key.account, &key.id))?;
    let change = Change::Account(key.account.clone(), head.version);
    writer.changes.push(change);
    Ok(Stored::At(head.version))
}
