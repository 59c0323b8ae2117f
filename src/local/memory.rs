//! What a replica remembers, in a small redb database: what was folded of each account, key and model, over all time; the newest
//! documents of accounts (opaque here); and named documents. Everything blocks: callers use blocking threads.
//!
//! A write is durable (fsync) before its call returns. After an I/O error redb refuses further work until the process is started
//! again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Bound;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    StorageError, TableDefinition, TableError, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::counters::{RowId, Slot};
use crate::clock::Hour;
use crate::id::{AccountId, KeyId, ModelName, ReplicaId};
use crate::store::UsageRow;
use crate::usage::Tally;

/// The file's name in its data directory.
const FILE: &str = "replica.redb";

/// A file that is being made; it has its name only once it is whole.
const NEW_FILE: &str = "replica.redb.new";

/// What the tables mean. Raised whenever an older tollgate could not read them.
const FORMAT: u64 = 1;

/// What a redb file begins with.
const REDB_MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// The database is read at a start and seldom after that, so its cache need not be redb's own, which is much larger.
const CACHE_BYTES: usize = 16 << 20;

/// By name, as JSON: the format, the replica, the hour before which all is closed.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// By account, key and model (empty: none), as JSON: a tally over all time, without what is still in slots.
const LIFETIME: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("lifetime");
/// By counter file and generation: a slot that is in [`LIFETIME`].
const MARKS: TableDefinition<'_, (u128, u64), ()> = TableDefinition::new("folded");
/// By account: a document's format and bytes.
const KEPT: TableDefinition<'_, &str, (u32, &[u8])> = TableDefinition::new("kept");
/// By name: a document's format and bytes.
const NAMED: TableDefinition<'_, &str, (u32, &[u8])> = TableDefinition::new("named");

/// Sorts after every name: names are made of characters below it.
const LAST: &str = "\u{7f}";

/// Why what a replica remembers cannot be read or written. Each names the file and says what would work.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Another process has it.
    #[error(
        "{path} is in use by another tollgate: stop that one, or give this one a data directory of its own"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Not what a replica remembers.
    #[error("{path} is not what a replica remembers: move it away, or name another data directory")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It has another format.
    #[error(
        "{path} has format {found}, and this tollgate reads {FORMAT}: use a tollgate that reads {found}"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format, as it says.
        found: String,
    },
    /// It belongs to another replica than the counters beside it.
    #[error(
        "{path} is of replica {theirs}, and the counters beside it are of {ours}: both files of a data directory belong together; restore them from one copy, or move this one away and have it filled from the store again"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        theirs: ReplicaId,
        /// Whose the counters are.
        ours: ReplicaId,
    },
    /// What is in it cannot be what was written.
    #[error(
        "{path} is damaged ({what}): restore the data directory from a copy, or move this file away and have it filled from the store again"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not add up.
        what: String,
    },
    /// The operating system, or the disk, refuses something.
    #[error("{path}: {what}")]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What came of it.
        what: String,
    },
}

/// A document: bytes that mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What the bytes mean: its writer's number, for its reader.
    pub format: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A slot's part of a fold.
#[derive(Clone, Debug)]
pub(super) struct Tallied {
    account: AccountId,
    row: RowId,
    tally: Tally,
    /// `None` of a slot that dies with the process: nobody can fold it again.
    generation: Option<u64>,
}

impl Tallied {
    pub(super) fn of((account, slot): &(AccountId, Slot)) -> Self {
        Self {
            account: account.clone(),
            row: slot.row().clone(),
            tally: slot.tally(),
            generation: slot.generation(),
        }
    }
}

/// What a replica remembers. See the module.
pub struct Memory {
    db: Database,
    path: PathBuf,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({})", self.path.display())
    }
}

impl Memory {
    /// Opens the file of a data directory, or makes it for this replica.
    pub(super) fn open(dir: &Path, replica: &ReplicaId) -> Result<Self, MemoryError> {
        let path = dir.join(FILE);
        if !path
            .try_exists()
            .map_err(|error| unavailable(&path, &error))?
        {
            make(dir, replica)?;
        }
        check_magic(&path)?;
        // Of a damaged file redb says so, or, in a build with its assertions, panics.
        let opened = catch_unwind(|| builder().open(&path));
        let opened = opened.unwrap_or(Err(DatabaseError::Storage(StorageError::Corrupted(
            "its pages do not fit together".into(),
        ))));
        let db = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                MemoryError::InUse { path: path.clone() }
            }
            error => away(&path, error),
        })?;
        let memory = Self { db, path };
        memory.check(replica)?;
        Ok(memory)
    }

    /// What was folded of an account by key and model, over all time; all that this replica counted but for what is in slots.
    pub fn lifetime(&self, account: &AccountId) -> Result<Vec<UsageRow>, MemoryError> {
        let txn = self.read()?;
        let table = txn.open_table(LIFETIME).map_err(self.away())?;
        let name = account.as_str();
        let range = table.range((name, "", "")..(name, LAST, ""));
        let mut rows = Vec::new();
        for entry in range.map_err(self.away())? {
            let (id, tally) = entry.map_err(self.away())?;
            let (_, key, model) = id.value();
            rows.push(UsageRow {
                hour: None,
                key: self.name(key, KeyId::new)?,
                model: match model {
                    "" => None,
                    model => Some(self.name(model, ModelName::new)?),
                },
                tally: self.parse(tally.value())?,
            });
        }
        Ok(rows)
    }

    /// Raises what was folded of an account to at least these rows.
    pub(super) fn raise(&self, account: &AccountId, rows: &[UsageRow]) -> Result<(), MemoryError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            for row in rows {
                self.change(txn, account, &row.key, row.model.as_ref(), |stands| {
                    *stands = stands.highest(&row.tally);
                })?;
            }
            Ok(())
        })
    }

    /// Adds the tallies of slots to what was folded and marks their generations, in one transaction; drops the marks of
    /// generations that were freed before.
    pub(super) fn fold(
        &self,
        file: u128,
        hour: Hour,
        slots: &[Tallied],
        freed: &[u64],
    ) -> Result<(), MemoryError> {
        // Each row is written once, however many slots it is in.
        let mut sums: BTreeMap<(&AccountId, &KeyId, Option<&ModelName>), Tally> = BTreeMap::new();
        for slot in slots {
            let RowId { key, model, .. } = &slot.row;
            let sum = sums.entry((&slot.account, key, model.as_ref()));
            sum.or_default().add(&slot.tally);
        }
        self.write(|txn| {
            for ((account, key, model), sum) in sums {
                self.change(txn, account, key, model, |stands| stands.add(&sum))?;
            }
            let mut marks = txn.open_table(MARKS).map_err(self.away())?;
            for generation in freed {
                marks.remove((file, *generation)).map_err(self.away())?;
            }
            for generation in slots.iter().filter_map(|slot| slot.generation) {
                marks.insert((file, generation), ()).map_err(self.away())?;
            }
            let mut meta = txn.open_table(META).map_err(self.away())?;
            let stands = meta.get("closed").map_err(self.away())?;
            let stands: Option<Hour> = stands.map(|json| self.parse(json.value())).transpose()?;
            let closed = stands.map_or(hour, |stands| stands.max(hour));
            let closed = self.json(&closed)?;
            meta.insert("closed", closed.as_slice())
                .map_err(self.away())?;
            Ok(())
        })
    }

    /// The marks that stand: counter file and generation.
    pub(super) fn marks(&self) -> Result<Vec<(u128, u64)>, MemoryError> {
        let txn = self.read()?;
        let table = txn.open_table(MARKS).map_err(self.away())?;
        let marks = table.iter().map_err(self.away())?;
        marks
            .map(|entry| entry.map(|(mark, _)| mark.value()))
            .collect::<Result<_, _>>()
            .map_err(self.away())
    }

    /// Drops marks: their slots are free, durably.
    pub(super) fn drop_marks(&self, marks: &[(u128, u64)]) -> Result<(), MemoryError> {
        if marks.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let mut table = txn.open_table(MARKS).map_err(self.away())?;
            for mark in marks {
                table.remove(*mark).map_err(self.away())?;
            }
            Ok(())
        })
    }

    /// The hour before which all is closed, if anything was ever folded.
    pub(super) fn closed_before(&self) -> Result<Option<Hour>, MemoryError> {
        self.meta("closed")
    }

    /// Keeps the newest documents of accounts, all of them or none.
    pub fn keep(&self, batch: &[(AccountId, Document)]) -> Result<(), MemoryError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let mut table = txn.open_table(KEPT).map_err(self.away())?;
            for (account, document) in batch {
                let value = (document.format, document.bytes.as_slice());
                table.insert(account.as_str(), value).map_err(self.away())?;
            }
            Ok(())
        })
    }

    /// The document kept of an account.
    pub fn kept(&self, account: &AccountId) -> Result<Option<Document>, MemoryError> {
        self.document(KEPT, account.as_str())
    }

    /// Documents of the accounts after a name, in ascending order, at most so many.
    pub fn kept_after(
        &self,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, Document)>, MemoryError> {
        let txn = self.read()?;
        let table = txn.open_table(KEPT).map_err(self.away())?;
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_str()));
        let range = table.range::<&str>((from, Bound::Unbounded));
        let mut page = Vec::new();
        for entry in range.map_err(self.away())?.take(limit) {
            let (account, document) = entry.map_err(self.away())?;
            let account = self.name(account.value(), AccountId::stored)?;
            page.push((account, owned(document.value())));
        }
        Ok(page)
    }

    /// Forgets the document of an account.
    pub(super) fn forget(&self, account: &AccountId) -> Result<(), MemoryError> {
        self.write(|txn| {
            let mut table = txn.open_table(KEPT).map_err(self.away())?;
            table.remove(account.as_str()).map_err(self.away())?;
            Ok(())
        })
    }

    /// Keeps a document that belongs to no account.
    pub fn keep_named(&self, name: &str, document: &Document) -> Result<(), MemoryError> {
        self.write(|txn| {
            let mut table = txn.open_table(NAMED).map_err(self.away())?;
            let value = (document.format, document.bytes.as_slice());
            table.insert(name, value).map_err(self.away())?;
            Ok(())
        })
    }

    /// The document kept under a name.
    pub fn named(&self, name: &str) -> Result<Option<Document>, MemoryError> {
        self.document(NAMED, name)
    }

    fn document(
        &self,
        table: TableDefinition<'_, &str, (u32, &[u8])>,
        name: &str,
    ) -> Result<Option<Document>, MemoryError> {
        let txn = self.read()?;
        let table = txn.open_table(table).map_err(self.away())?;
        let found = table.get(name).map_err(self.away())?;
        Ok(found.map(|found| owned(found.value())))
    }

    /// That it is of this format and of this replica.
    fn check(&self, ours: &ReplicaId) -> Result<(), MemoryError> {
        let path = || self.path.clone();
        let txn = self.read()?;
        let found = match txn.open_table(META) {
            Ok(table) => {
                let found = table.get("format").map_err(self.away())?;
                found.map(|found| String::from_utf8_lossy(found.value()).into_owned())
            }
            Err(TableError::Storage(error)) => return Err(self.away()(error)),
            // A database, but not one of ours.
            Err(_) => None,
        };
        let found = found.ok_or_else(|| MemoryError::Foreign { path: path() })?;
        if found != FORMAT.to_string() {
            return Err(MemoryError::Version {
                path: path(),
                found,
            });
        }
        let theirs: Option<ReplicaId> = self.meta("replica")?;
        match theirs {
            Some(theirs) if theirs == *ours => Ok(()),
            Some(theirs) => Err(MemoryError::NotOurs {
                path: path(),
                theirs,
                ours: ours.clone(),
            }),
            None => Err(self.corrupt("it does not say whose it is")),
        }
    }

    fn meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, MemoryError> {
        let txn = self.read()?;
        let table = txn.open_table(META).map_err(self.away())?;
        let found = table.get(name).map_err(self.away())?;
        found.map(|json| self.parse(json.value())).transpose()
    }

    /// Changes one row of what was folded.
    fn change(
        &self,
        txn: &WriteTransaction,
        account: &AccountId,
        key: &KeyId,
        model: Option<&ModelName>,
        edit: impl FnOnce(&mut Tally),
    ) -> Result<(), MemoryError> {
        let mut table = txn.open_table(LIFETIME).map_err(self.away())?;
        let model = model.map_or("", ModelName::as_str);
        let id = (account.as_str(), key.as_str(), model);
        let stands = table.get(id).map_err(self.away())?;
        let stands = stands.map(|json| self.parse(json.value())).transpose()?;
        let mut tally: Tally = stands.unwrap_or_default();
        edit(&mut tally);
        let json = self.json(&tally)?;
        table.insert(id, json.as_slice()).map_err(self.away())?;
        Ok(())
    }

    fn read(&self) -> Result<ReadTransaction, MemoryError> {
        self.db.begin_read().map_err(self.away())
    }

    /// One transaction: all of it is durable on return, or none.
    fn write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let txn = self.db.begin_write().map_err(self.away())?;
        work(&txn)?;
        txn.commit().map_err(self.away())
    }

    fn parse<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T, MemoryError> {
        serde_json::from_slice(json).map_err(|error| self.corrupt(&error.to_string()))
    }

    fn json(&self, value: &impl Serialize) -> Result<Vec<u8>, MemoryError> {
        serde_json::to_vec(value).map_err(|error| self.corrupt(&error.to_string()))
    }

    fn name<T, E: std::fmt::Display>(
        &self,
        text: &str,
        new: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, MemoryError> {
        new(text).map_err(|error| self.corrupt(&error.to_string()))
    }

    fn corrupt(&self, what: &str) -> MemoryError {
        MemoryError::Corrupt {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    fn away<E: Into<redb::Error>>(&self) -> impl Fn(E) -> MemoryError {
        |error| away(&self.path, error)
    }
}

fn owned((format, bytes): (u32, &[u8])) -> Document {
    Document {
        format,
        bytes: bytes.to_vec(),
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// What went wrong in redb, in our words.
fn away(path: &Path, error: impl Into<redb::Error>) -> MemoryError {
    let (path, error) = (path.to_owned(), error.into());
    let what = error.to_string();
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => MemoryError::Corrupt { path, what },
        _ => MemoryError::Unavailable { path, what },
    }
}

fn unavailable(path: &Path, error: &std::io::Error) -> MemoryError {
    MemoryError::Unavailable {
        path: path.to_owned(),
        what: error.to_string(),
    }
}

/// Whether it is a redb file at all: what redb itself says of others is about their inside.
fn check_magic(path: &Path) -> Result<(), MemoryError> {
    let mut magic = Vec::new();
    let most = u64::try_from(REDB_MAGIC.len()).unwrap_or(0);
    let file = File::open(path).map_err(|error| unavailable(path, &error))?;
    file.take(most)
        .read_to_end(&mut magic)
        .map_err(|error| unavailable(path, &error))?;
    if magic != REDB_MAGIC {
        return Err(MemoryError::Foreign {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Makes a file with all of its tables. It has its name only when it is whole, so a process killed here leaves a file behind that
/// the next one makes again.
fn make(dir: &Path, replica: &ReplicaId) -> Result<(), MemoryError> {
    let (new, path) = (dir.join(NEW_FILE), dir.join(FILE));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(unavailable(&new, &error));
        }
        _ => {}
    }
    let db = builder().create(&new).map_err(|error| away(&new, error))?;
    let memory = Memory { db, path: new };
    memory.write(|txn| {
        // Readers do not make tables, so they must stand.
        txn.open_table(LIFETIME).map_err(memory.away())?;
        txn.open_table(MARKS).map_err(memory.away())?;
        txn.open_table(KEPT).map_err(memory.away())?;
        txn.open_table(NAMED).map_err(memory.away())?;
        let mut meta = txn.open_table(META).map_err(memory.away())?;
        for (name, json) in [
            ("format", memory.json(&FORMAT)?),
            ("replica", memory.json(replica)?),
        ] {
            meta.insert(name, json.as_slice()).map_err(memory.away())?;
        }
        Ok(())
    })?;
    let Memory { db, path: new } = memory;
    drop(db);
    std::fs::rename(&new, &path)
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|error| unavailable(&path, &error))
}

#[cfg(test)]
mod tests;
