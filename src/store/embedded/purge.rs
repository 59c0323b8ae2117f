//! The end of an account: everything of it leaves the file in one transaction, and a mark stays.

use redb::{Key, ReadableTable as _};

use super::super::{Change, KeyRecord, StoreError, Stored};
use super::tables::{
    BOOKS, CLAIMS, DIGESTS, ENTRIES, ENTRIES_GONE, HEADS, HOURS, Head, Json, KEYS, LAST, LIFETIME,
    PURGED, ROWS, SPENT, SPENT_AT, TOMBSTONES, Table, Writer, away, parse,
};
use crate::clock::Timestamp;
use crate::id::AccountId;

/// See [`super::super::Store::purge`].
pub(super) fn purge(
    writer: &mut Writer,
    id: &AccountId,
    expected: u64,
    now: Timestamp,
) -> Result<Stored, StoreError> {
    let account = id.as_str();
    if writer.get::<_, Timestamp>(PURGED, account)?.is_some() {
        // It was one transaction: nothing can be left.
        return Ok(Stored::At(0));
    }
    let head: Option<Head> = writer.get(HEADS, account)?;
    let head = head.ok_or_else(|| StoreError::NoAccount(id.clone()))?;
    if head.version != expected {
        return Ok(Stored::Conflict);
    }
    writer.put(PURGED, account, &now)?;
    for digest in digests(writer, account)? {
        writer.remove(DIGESTS, digest.as_str())?;
    }
    forget_spend(writer, account)?;
    writer.remove(HEADS, account)?;
    writer.remove(BOOKS, account)?;
    writer.remove(ENTRIES_GONE, account)?;
    clear(writer, ROWS, (account, "")..=(account, LAST))?;
    clear(writer, TOMBSTONES, (account, "")..=(account, LAST))?;
    clear(writer, KEYS, (account, "")..=(account, LAST))?;
    clear(writer, CLAIMS, (account, "")..=(account, LAST))?;
    clear(writer, ENTRIES, (account, 0)..=(account, u64::MAX))?;
    let names = (account, "", "", "")..=(account, LAST, "", "");
    clear(writer, LIFETIME, names)?;
    let hours = (account, i64::MIN, "", "", "")..=(account, i64::MAX, LAST, "", "");
    clear(writer, HOURS, hours)?;
    // Above every version that anybody has seen: whoever hears of it looks, and finds nothing.
    writer.changes.push(Change::Account(id.clone(), u64::MAX));
    Ok(Stored::At(0))
}

fn digests(writer: &Writer, account: &str) -> Result<Vec<String>, StoreError> {
    let table = writer.txn.open_table(KEYS).map_err(away)?;
    let range = table.range((account, "")..=(account, LAST)).map_err(away)?;
    range
        .map(|item| {
            let (_, record) = item.map_err(away)?;
            Ok(parse::<KeyRecord>(record.value())?.digest)
        })
        .collect()
}

/// Takes an account out of the feed of spend. The last row stays, without an account behind it: the feed's next number follows from it.
fn forget_spend(writer: &mut Writer, account: &str) -> Result<(), StoreError> {
    let Some(at) = writer.get::<_, u64>(SPENT_AT, account)? else {
        return Ok(());
    };
    let last = {
        let table = writer.txn.open_table(SPENT).map_err(away)?;
        let last = table.last().map_err(away)?;
        last.map(|(sequence, _)| sequence.value())
    };
    if last != Some(at) {
        writer.remove(SPENT, at)?;
    }
    writer.remove(SPENT_AT, account)
}

fn clear<'a, K: Key + 'static>(
    writer: &mut Writer,
    table: Table<K>,
    range: std::ops::RangeInclusive<K::SelfType<'a>>,
) -> Result<(), StoreError>
where
    K::SelfType<'a>: std::borrow::Borrow<K::SelfType<'a>>,
{
    let mut table: redb::Table<'_, K, Json> = writer.txn.open_table(table).map_err(away)?;
    table.retain_in(range, |_, _| false).map_err(away)?;
    writer.dirty = true;
    Ok(())
}
