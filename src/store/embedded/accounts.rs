//! What changes an account: commits, messages of replicas, keys, lapses. Each function is one step of a write transaction.

use redb::ReadableTable as _;
use redb::ReadableTableMetadata as _;

use super::super::message::{Differences, differences, entries_before, grant, kept};
use super::super::{
    Change, Commit, EVENTS_MAX, KeyRecord, Publish, Published, Standing, StoreError, Stored,
    UsageRow,
};
use super::tables::{
    BOOKS, CLAIMS, DIGESTS, ENTRIES, EVENTS, HEADS, HOURS, Head, KEYS, LAST, LIFETIME, LiveRow,
    ROWS, SPENT, SPENT_AT, Writer, away, parse,
};
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
    let last = last_entry(writer, account)?;
    if last != before {
        return Err(StoreError::Corrupt(format!(
            "the ledger of `{id}` ends at {last}, the commit goes on from {before}"
        )));
    }
    let unleased = head.unleased.checked_add(commit.credit_delta);
    head.unleased = unleased.ok_or_else(|| range(id))?;
    head.version = head.version.saturating_add(1);
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
    Ok(last.map_or(0, |(key, _)| key.value().1))
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
    let row: Option<LiveRow> = writer.get(ROWS, (account.as_str(), replica.as_str()))?;
    let step = carry_out(head, row.unwrap_or_default(), message, &differences, now_ms);
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
    let (head, row) = (&step.head, &step.row.row);
    if step.spoke {
        writer.put(ROWS, (account, replica), &step.row)?;
        writer.put(HEADS, account, head)?;
    }
    if step.applied {
        for usage in &message.usage {
            set_usage(writer, account, replica, usage)?;
        }
    }
    if step.applied && message.new.spend != message.believed.spend {
        touch(writer, account)?;
    }
    Ok(Published {
        applied: step.applied,
        standing: Standing {
            spend: row.spend,
            committed: row.committed,
        },
        seq: row.seq,
        total: head.total,
        unleased: head.unleased,
        version: head.version,
    })
}

/// What a message makes of an account's figures.
struct Step {
    head: Head,
    row: LiveRow,
    /// The message was newer than the last.
    spoke: bool,
    /// What stood was what it believed.
    applied: bool,
}

/// The protocol itself, pure. `None` if a sum would leave the range.
fn carry_out(
    mut head: Head,
    mut live_row: LiveRow,
    message: &Publish,
    differences: &Differences,
    now_ms: u64,
) -> Option<Step> {
    let row = &mut live_row.row;
    let spoke = message.seq > row.seq;
    let mut applied = false;
    if spoke {
        (row.seq, row.seen_ms) = (message.seq, now_ms);
        if !live_row.live {
            live_row.live = true;
            head.live = head.live.saturating_add(1);
        }
        let standing = Standing {
            spend: row.spend,
            committed: row.committed,
        };
        if standing == message.believed {
            applied = true;
            head.total = head.total.checked_add(differences.spend)?;
            let free = head.unleased.checked_sub(differences.committed)?;
            let granted = grant(free, head.live, differences.want, differences.need);
            head.unleased = free.checked_sub(granted)?;
            row.spend = message.new.spend;
            row.committed = message.new.committed.checked_add(granted)?;
            row.held = message.held;
        }
    }
    Some(Step {
        head,
        row: live_row,
        spoke,
        applied,
    })
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
    now_ms: u64,
) -> Result<Amount, StoreError> {
    let account = id.as_str();
    let Some(mut head) = writer.get::<_, Head>(HEADS, account)? else {
        return Ok(Amount::ZERO);
    };
    let mut back = Amount::ZERO;
    for (replica, mut live_row) in rows(writer, account)? {
        let silent = now_ms.saturating_sub(live_row.row.seen_ms) > silence_ms;
        if !silent || !live_row.live {
            continue;
        }
        let keeps = kept(&live_row.row);
        let freed = live_row.row.committed.saturating_sub(keeps);
        back = back.saturating_add(freed);
        head.unleased = head.unleased.checked_add(freed).ok_or_else(|| range(id))?;
        head.live = head.live.saturating_sub(1);
        live_row.live = false;
        live_row.row.committed = keeps;
        writer.put(ROWS, (account, replica.as_str()), &live_row)?;
        writer.put(HEADS, account, &head)?;
    }
    Ok(back)
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
pub(super) fn lapse_others(writer: &mut Writer, own: &ReplicaId) -> Result<(), StoreError> {
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
        let row = &mut live_row.row;
        let freed = row.committed.checked_sub(row.spend);
        let unleased = freed.and_then(|freed| head.unleased.checked_add(freed));
        head.unleased = unleased.ok_or_else(|| {
            StoreError::Corrupt(format!("a sum of `{account}` would leave the range"))
        })?;
        if live_row.live {
            head.live = head.live.saturating_sub(1);
        }
        (row.committed, row.held) = (row.spend, Amount::ZERO);
        live_row.live = false;
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
