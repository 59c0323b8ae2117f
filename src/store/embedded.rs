//! The store for one machine: one redb file in a data directory. No Redis needed to try tollgate, or to run one node for good.
//! The protocol's rules are in `accounts`, what is only read in `listings`, the end of an account in `purge`, the tables in `tables`.
//!
//! redb blocks, so every call runs on tokio's blocking threads. One transaction per call; a write is durable (fsync) before its
//! call returns. Writers wait in line without holding a thread. A call whose future is dropped may still be carried out.
//!
//! After an I/O error (a full disk, say) redb refuses further work: every call is [`StoreError::Unavailable`] until the process
//! is started again.

mod accounts;
mod listings;
mod purge;
mod tables;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _};
use tokio::sync::{Mutex, broadcast};

use super::{
    AccountSpend, CHANGES_MAX, Change, Commit, History, KeyRecord, Lapsed, Opened, Publish,
    Published, Scarce, Snapshot, Store, StoreError, Stored, UsageRow,
};
use crate::clock::{Clock, Hour, Timestamp};
use crate::id::{AccountId, KeyId, ReplicaId};
use crate::ledger::{Entry, Event};
use tables::{DIGESTS, DOCUMENTS, META, PURGED, Writer, away, look};

/// The file's name in its data directory.
const FILE: &str = "tollgate.redb";

/// What the tables mean. Raised whenever an older tollgate could not read them.
const FORMAT: u64 = 1;

/// The embedded store. See the module.
#[derive(Debug)]
pub struct Embedded {
    db: Arc<Database>,
    clock: Clock,
    replica: ReplicaId,
    changes: broadcast::Sender<Change>,
    /// Held by the one writer, so that those who wait for it do not fill tokio's blocking threads.
    writing: Arc<Mutex<()>>,
}

impl Embedded {
    /// Opens the store in a data directory, or makes both. Blocks while it reads.
    ///
    /// The leases of all other replicas lapse: only one process at a time has the file open. A directory that another process
    /// uses is [`StoreError::Unavailable`]; a file that is no store of this format is [`StoreError::Corrupt`].
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        make_private(dir).map_err(|error| {
            StoreError::Unavailable(format!("data directory {}: {error}", dir.display()))
        })?;
        let db = Database::create(dir.join(FILE)).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                StoreError::Unavailable(format!(
                    "data directory {} is in use by another tollgate",
                    dir.display()
                ))
            }
            error => away(error),
        })?;
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let replica = write(&db, &changes, |writer| {
            writer.dirty = true;
            make_tables(writer)?;
            check_format(writer)?;
            let replica = own_name(writer)?;
            accounts::lapse_others(writer, &replica, ms(&clock))?;
            Ok(replica)
        })?;
        Ok(Self {
            db: Arc::new(db),
            clock,
            replica,
            changes,
            writing: Arc::new(Mutex::new(())),
        })
    }

    /// Who this replica is: made once, kept in the file.
    pub fn replica(&self) -> ReplicaId {
        self.replica.clone()
    }

    async fn read_with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let db = Arc::clone(&self.db);
        blocking(move || work(&db.begin_read().map_err(away)?)).await
    }

    async fn write_with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let (db, changes) = (Arc::clone(&self.db), self.changes.clone());
        blocking(move || {
            let _turn = turn;
            write(&db, &changes, work)
        })
        .await
    }

    fn now_ms(&self) -> u64 {
        ms(&self.clock)
    }
}

fn ms(clock: &Clock) -> u64 {
    let nanos = clock.now().wall.nanos();
    u64::try_from(nanos.div_euclid(1_000_000)).unwrap_or(0)
}

/// Runs on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
}

/// One write transaction: all of it is durable on return, or none.
fn write<T>(
    db: &Database,
    changes: &broadcast::Sender<Change>,
    work: impl FnOnce(&mut Writer) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut writer = Writer {
        txn: db.begin_write().map_err(away)?,
        changes: Vec::new(),
        dirty: false,
    };
    let done = work(&mut writer)?;
    if writer.dirty {
        writer.txn.commit().map_err(away)?;
    }
    for change in writer.changes {
        // An error means that nobody listens.
        let _ = changes.send(change);
    }
    Ok(done)
}

/// Makes the directory, for its owner only: it holds balances and digests of keys.
fn make_private(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Readers do not make tables, so they must stand.
fn make_tables(writer: &Writer) -> Result<(), StoreError> {
    macro_rules! make {
        ($($table:ident)*) => {$(
            writer.txn.open_table(tables::$table).map_err(away)?;
        )*};
    }
    make!(META HEADS BOOKS ROWS TOMBSTONES ENTRIES_GONE PURGED KEYS DIGESTS CLAIMS ENTRIES EVENTS LIFETIME HOURS SPENT SPENT_AT DOCUMENTS);
    Ok(())
}

fn check_format(writer: &mut Writer) -> Result<(), StoreError> {
    match writer.get(META, "format")? {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(StoreError::Corrupt(format!(
            "the store has format {other}; this tollgate reads {FORMAT}"
        ))),
        None => writer.put(META, "format", &FORMAT),
    }
}

fn own_name(writer: &mut Writer) -> Result<ReplicaId, StoreError> {
    if let Some(name) = writer.get(META, "replica")? {
        return Ok(name);
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let text = format!("r-{:016x}", u64::from_be_bytes(bytes));
    let name = ReplicaId::new(&text).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    writer.put(META, "replica", &name)?;
    Ok(name)
}

#[async_trait]
impl Store for Embedded {
    async fn ping(&self) -> Result<(), StoreError> {
        self.read_with(|txn| look::<_, u64>(txn, META, "format").map(drop))
            .await
    }

    async fn history(&self, _: &AccountId) -> Result<History, StoreError> {
        // It is one file of this process alone: what it took, it has.
        Ok(History::default())
    }

    async fn open(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        hour: Hour,
    ) -> Result<Option<Opened>, StoreError> {
        let (account, replica) = (account.clone(), replica.clone());
        self.read_with(move |txn| listings::open(txn, &account, &replica, hour))
            .await
    }

    async fn read(
        &self,
        account: &AccountId,
        claims: &[String],
    ) -> Result<Option<Snapshot>, StoreError> {
        let (account, claims) = (account.clone(), claims.to_vec());
        self.read_with(move |txn| listings::snapshot(txn, &account, &claims))
            .await
    }

    async fn commit(&self, commit: Commit) -> Result<Stored, StoreError> {
        self.write_with(move |writer| accounts::commit(writer, &commit))
            .await
    }

    async fn purge(
        &self,
        account: &AccountId,
        expected: u64,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        let account = account.clone();
        self.write_with(move |writer| purge::purge(writer, &account, expected, now))
            .await
    }

    async fn purged(&self, account: &AccountId) -> Result<Option<Timestamp>, StoreError> {
        let account = account.clone();
        self.read_with(move |txn| look(txn, PURGED, account.as_str()))
            .await
    }

    async fn publish(
        &self,
        replica: &ReplicaId,
        batch: Vec<Publish>,
    ) -> Vec<Result<Published, StoreError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let (count, replica, now_ms) = (batch.len(), replica.clone(), self.now_ms());
        let carried_out =
            self.write_with(move |writer| accounts::publish(writer, &replica, &batch, now_ms));
        match carried_out.await {
            Ok(answers) => answers,
            Err(error) => vec![Err(error); count],
        }
    }

    async fn lapse(
        &self,
        account: &AccountId,
        silence: Duration,
        retired: Duration,
    ) -> Result<Lapsed, StoreError> {
        let (account, now_ms) = (account.clone(), self.now_ms());
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (silence_ms, retired_ms) = (ms(silence), ms(retired));
        self.write_with(move |writer| {
            accounts::lapse(writer, &account, silence_ms, retired_ms, now_ms)
        })
        .await
    }

    async fn tell_scarce(&self, account: &AccountId, what: Scarce) -> Result<(), StoreError> {
        // An error means that nobody listens.
        let _ = self.changes.send(Change::Scarce(account.clone(), what));
        Ok(())
    }

    async fn accounts(
        &self,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        let after = after.cloned();
        self.read_with(move |txn| listings::accounts(txn, after.as_ref(), limit))
            .await
    }

    async fn find_key(&self, digest: &str) -> Result<Option<(AccountId, KeyId)>, StoreError> {
        let digest = digest.to_owned();
        self.read_with(move |txn| look(txn, DIGESTS, digest.as_str()))
            .await
    }

    async fn keys(&self, account: &AccountId) -> Result<Vec<KeyRecord>, StoreError> {
        let account = account.clone();
        self.read_with(move |txn| listings::keys(txn, &account))
            .await
    }

    async fn put_key(&self, expected: u64, key: KeyRecord) -> Result<Stored, StoreError> {
        self.write_with(move |writer| accounts::put_key(writer, expected, &key))
            .await
    }

    async fn entries(
        &self,
        account: &AccountId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let account = account.clone();
        self.read_with(move |txn| listings::entries(txn, &account, after, limit))
            .await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, StoreError> {
        self.read_with(move |txn| listings::events(txn, after, limit))
            .await
    }

    async fn usage(
        &self,
        account: &AccountId,
        from: Hour,
        to: Hour,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let account = account.clone();
        self.read_with(move |txn| listings::usage(txn, &account, from, to))
            .await
    }

    async fn spend_since(&self, after: u64, limit: usize) -> Result<Vec<AccountSpend>, StoreError> {
        self.read_with(move |txn| listings::spend_since(txn, after, limit))
            .await
    }

    async fn document(&self, name: &str) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let name = name.to_owned();
        self.read_with(move |txn| {
            let table = txn.open_table(DOCUMENTS).map_err(away)?;
            let found = table.get(name.as_str()).map_err(away)?;
            Ok(found.map(|found| (found.value().0, found.value().1.to_vec())))
        })
        .await
    }

    async fn put_document(
        &self,
        name: &str,
        expected: u64,
        body: Vec<u8>,
        _: bool,
    ) -> Result<Stored, StoreError> {
        let name = name.to_owned();
        self.write_with(move |writer| {
            let mut table = writer.txn.open_table(DOCUMENTS).map_err(away)?;
            let stands = table
                .get(name.as_str())
                .map_err(away)?
                .map_or(0, |d| d.value().0);
            if stands != expected {
                return Ok(Stored::Conflict);
            }
            let version = stands.saturating_add(1);
            table
                .insert(name.as_str(), (version, body.as_slice()))
                .map_err(away)?;
            drop(table);
            writer.dirty = true;
            writer.changes.push(Change::Document(name));
            Ok(Stored::At(version))
        })
        .await
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}
