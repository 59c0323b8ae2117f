//! Where a replica keeps what it remembers of accounts: [`Remembered`] as it stands, in its data directory, or in memory for as long as
//! the process lives. No protocol here.
//!
//! On disk, what is read is written behind, in batches, and what this replica itself wrote to the store before its caller is answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::DashMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};

use super::remember::Remembered;
use crate::id::AccountId;
use crate::ledger::{Entry, Event};
use crate::local::Local;
use crate::local::memory::Document;
use crate::store::{History, Snapshot, StoreError};

/// What documents of [`Remembered`] mean. Raised when an older tollgate could not read them.
const FORMAT: u32 = 1;

/// How many documents may wait to be written; more are dropped, and kept at their account's next change.
const WAITING_MAX: usize = 4_096;

/// How many documents one transaction writes: each is some kilobytes.
const BATCH: usize = 256;

/// What a replica remembers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Recall(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Of the accounts that were looked at since the start: what is newest. The whole of it where there is no disk.
    known: DashMap<AccountId, Known, foldhash::fast::RandomState>,
    disk: Option<Disk>,
    dropped: AtomicU64,
    /// The store may lack what is remembered: it is to be compared.
    doubted: Notify,
    /// Raised whenever the store turns out to have lost an account without having begun another history: it may have lost any.
    epoch: AtomicU64,
}

#[derive(Clone)]
struct Known {
    version: u64,
    /// In which history, and epoch, it was last compared or written.
    history: Option<History>,
    epoch: u64,
    /// See [`Remembered::partial`].
    partial: bool,
    /// `None` if it stands on disk alone.
    whole: Option<Arc<Remembered>>,
}

struct Disk {
    local: Arc<Local>,
    writer: mpsc::Sender<Job>,
}

struct Job {
    remembered: Arc<Remembered>,
    done: Option<oneshot::Sender<()>>,
}

/// A document that belongs to no account, as it was read from the store.
#[derive(Serialize, Deserialize)]
struct Named<T> {
    version: u64,
    body: T,
}

impl Recall {
    /// In a data directory. Must be called on a tokio runtime: it writes behind.
    pub fn on_disk(local: Arc<Local>) -> Self {
        let (writer, jobs) = mpsc::channel(WAITING_MAX);
        let recall = Self(Arc::new(Inner {
            disk: Some(Disk {
                local: Arc::clone(&local),
                writer,
            }),
            ..Inner::default()
        }));
        tokio::spawn(write_behind(local, Arc::downgrade(&recall.0), jobs));
        recall
    }

    /// The data directory, if there is one.
    pub fn local(&self) -> Option<&Arc<Local>> {
        self.0.disk.as_ref().map(|disk| &disk.local)
    }

    /// The store may lack what is remembered: whoever compares the two, is woken.
    pub(crate) fn doubt(&self) {
        self.0.doubted.notify_one();
    }

    /// The store has lost an account that it had: it may have lost all.
    pub(crate) fn doubt_all(&self) {
        self.0.epoch.fetch_add(1, Relaxed);
        self.doubt();
    }

    /// How often the store was doubted.
    fn epoch(&self) -> u64 {
        self.0.epoch.load(Relaxed)
    }

    /// Waits until the store is doubted.
    pub(crate) async fn doubted(&self) {
        self.0.doubted.notified().await;
    }

    /// Why an account is not in the store: because there is none, or because the store has lost it.
    pub(crate) fn missing(&self, account: &AccountId) -> StoreError {
        if self.version(account).is_none() {
            return StoreError::NoAccount(account.clone());
        }
        self.doubt_all();
        StoreError::Unavailable(format!(
            "the store has lost account `{account}`, which is being put back"
        ))
    }

    /// Documents that were not written behind as too many waited, since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// The newest that is remembered of an account.
    pub(crate) async fn get(&self, account: &AccountId) -> Option<Remembered> {
        if let Some(known) = self.0.known.get(account)
            && let Some(whole) = &known.whole
        {
            return Some((**whole).clone());
        }
        let (local, id) = (Arc::clone(self.local()?), account.clone());
        let read = tokio::task::spawn_blocking(move || local.memory().kept(&id)).await;
        let document = match read {
            Ok(Ok(document)) => document?,
            Ok(Err(error)) => {
                tracing::warn!(%account, %error, "what is remembered cannot be read");
                return None;
            }
            Err(_) => return None,
        };
        let remembered: Remembered = read_document(account.as_str(), &document)?;
        let mut known = self
            .0
            .known
            .entry(account.clone())
            .or_insert_with(|| Known {
                version: remembered.version,
                history: remembered.history,
                epoch: 0,
                partial: remembered.partial,
                whole: None,
            });
        known.version = known.version.max(remembered.version);
        Some(remembered)
    }

    /// The accounts after a name that are remembered, in ascending order: at most so many of them.
    pub(crate) async fn accounts(&self, after: Option<AccountId>, limit: usize) -> Vec<AccountId> {
        let Some(local) = self.local() else {
            let later = |id: &AccountId| after.as_ref().is_none_or(|after| id > after);
            let known = self.0.known.iter().map(|known| known.key().clone());
            let mut ids: Vec<_> = known.filter(later).collect();
            ids.sort_unstable();
            ids.truncate(limit);
            return ids;
        };
        let local = Arc::clone(local);
        let read = tokio::task::spawn_blocking(move || {
            let page = local.memory().kept_after(after.as_ref(), limit)?;
            Ok::<_, crate::local::memory::MemoryError>(page)
        });
        match read.await {
            Ok(Ok(page)) => page
                .into_iter()
                .map(|(id, document)| {
                    if let Some(read) = read_document::<Remembered>(id.as_str(), &document) {
                        self.0.known.entry(id.clone()).or_insert(Known {
                            version: read.version,
                            history: read.history,
                            epoch: 0,
                            partial: read.partial,
                            whole: None,
                        });
                    }
                    id
                })
                .collect(),
            Ok(Err(error)) => {
                tracing::error!(%error, "what is remembered cannot be read");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// The history that an account was last compared in.
    pub(crate) fn history(&self, account: &AccountId) -> Option<History> {
        self.0.known.get(account).and_then(|known| known.history)
    }

    /// Whether an account was compared in this history, or written, since the store was last doubted.
    pub(crate) fn is_compared(&self, account: &AccountId, history: History) -> bool {
        let known = self.0.known.get(account);
        known.is_some_and(|known| known.history == Some(history) && known.epoch == self.epoch())
    }

    /// Whether a book of this version says nothing new: see [`Remembered::knows`].
    pub(crate) fn knows(&self, account: &AccountId, version: u64) -> bool {
        let known = self.0.known.get(account);
        known.is_some_and(|known| {
            known.version > version || (known.version == version && !known.partial)
        })
    }

    /// The version that is remembered, as far as it was looked at.
    pub(crate) fn version(&self, account: &AccountId) -> Option<u64> {
        self.0.known.get(account).map(|known| known.version)
    }

    /// An account was compared in this history.
    pub(crate) async fn in_history(&self, account: &AccountId, history: History) {
        if let Some(remembered) = self.get(account).await {
            self.keep(Remembered {
                history: Some(history),
                ..remembered
            });
        }
    }

    /// Remembers what was read, unless something newer is. On disk, soon.
    pub(crate) fn keep(&self, fresh: Remembered) {
        if let Some(job) = self.note(fresh, None)
            && let Some(disk) = &self.0.disk
            && disk.writer.try_send(job).is_err()
        {
            self.0.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Notes what is newest; `None` if it is known already.
    fn note(&self, fresh: Remembered, done: Option<oneshot::Sender<()>>) -> Option<Job> {
        let account = fresh.book.account.clone();
        let remembered = Arc::new(fresh);
        let fresh = Known {
            version: remembered.version,
            history: remembered.history,
            epoch: self.epoch(),
            partial: remembered.partial,
            whole: Some(Arc::clone(&remembered)),
        };
        let mut known = self.0.known.entry(account).or_insert_with(|| fresh.clone());
        if known.version > fresh.version {
            return None;
        }
        let history = fresh.history.or(known.history);
        *known = Known { history, ..fresh };
        Some(Job { remembered, done })
    }

    /// Remembers what was just written: a book, and the entries and events that were appended with it. Done before the writer is
    /// answered, so that a store that loses it then is told.
    pub(crate) async fn wrote(
        &self,
        over: u64,
        snapshot: &Snapshot,
        entries: &[Entry],
        events: &[Event],
        history: History,
    ) {
        let known = self.get(&snapshot.book.account).await;
        let Some(remembered) = Remembered::wrote(known, over, snapshot, entries) else {
            return;
        };
        let remembered = Remembered {
            history: remembered.history.or(Some(history)),
            ..remembered.and_announced(events)
        };
        let (done, written) = oneshot::channel();
        if let Some(job) = self.note(remembered, Some(done))
            && let Some(disk) = &self.0.disk
            && disk.writer.send(job).await.is_ok()
        {
            // Told once it is on disk; if that fails, it was logged, and the store has it all the same.
            let _ = written.await;
        }
    }

    /// Forgets what is kept in memory of an account that is let go of; on disk it stays.
    pub(crate) fn let_go(&self, account: &AccountId) {
        if self.0.disk.is_some()
            && let Some(mut known) = self.0.known.get_mut(account)
        {
            known.whole = None;
        }
    }

    /// Forgets an account for good, in memory and on disk.
    pub(crate) async fn forget(&self, account: &AccountId) {
        self.0.known.remove(account);
        let Some(local) = self.local().map(Arc::clone) else {
            return;
        };
        let id = account.clone();
        let gone = tokio::task::spawn_blocking(move || local.forget(&id)).await;
        if let Ok(Err(error)) = gone {
            tracing::warn!(%account, %error, "what is remembered of a purged account stays on disk; it is never put back");
        }
    }

    /// Remembers a document that belongs to no account. Blocks.
    pub(crate) fn keep_named(&self, name: &str, version: u64, body: &impl Serialize) {
        let Some(local) = self.local() else { return };
        let document = Document {
            format: FORMAT,
            bytes: serde_json::to_vec(&Named { version, body }).unwrap_or_default(),
        };
        if let Err(error) = local.memory().keep_named(name, &document) {
            tracing::error!(name, %error, "a document cannot be remembered");
        }
    }

    /// A document that belongs to no account, with its version. Blocks.
    pub(crate) fn named<T: DeserializeOwned>(&self, name: &str) -> Option<(u64, T)> {
        match self.local()?.memory().named(name) {
            Ok(document) => {
                let Named { version, body } = read_document(name, &document?)?;
                Some((version, body))
            }
            Err(error) => {
                tracing::error!(name, %error, "a remembered document cannot be read");
                None
            }
        }
    }
}

fn read_document<T: DeserializeOwned>(name: &str, document: &Document) -> Option<T> {
    if document.format != FORMAT {
        let format = document.format;
        tracing::error!(
            name,
            format,
            "a remembered document is of another tollgate's format"
        );
        return None;
    }
    match serde_json::from_slice(&document.bytes) {
        Ok(read) => Some(read),
        Err(error) => {
            tracing::error!(name, %error, "a remembered document cannot be read");
            None
        }
    }
}

/// Writes what comes, many in one transaction, until nobody can send any more.
async fn write_behind(
    local: Arc<Local>,
    inner: std::sync::Weak<Inner>,
    mut jobs: mpsc::Receiver<Job>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        // Of two for one account the later one counts.
        let mut latest = HashMap::new();
        for job in &batch {
            latest.insert(job.remembered.book.account.clone(), &job.remembered);
        }
        let documents: Vec<_> = latest
            .into_iter()
            .filter_map(|(account, remembered)| {
                let bytes = serde_json::to_vec(&**remembered).ok()?;
                let format = FORMAT;
                Some((account, Document { format, bytes }))
            })
            .collect();
        let writer = Arc::clone(&local);
        let written = tokio::task::spawn_blocking(move || {
            writer.memory().keep(&documents).map(|()| documents)
        });
        match written.await {
            Ok(Ok(documents)) => {
                // What stands on disk need not be in memory, too.
                if let Some(inner) = inner.upgrade() {
                    for (account, _) in &documents {
                        drop_written(&inner, account, &batch);
                    }
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "books cannot be remembered on disk"),
            Err(error) => tracing::error!(%error, "books cannot be remembered on disk"),
        }
        for job in batch.drain(..) {
            if let Some(done) = job.done {
                // Whoever waited may have left.
                let _ = done.send(());
            }
        }
    }
}

fn drop_written(inner: &Inner, account: &AccountId, batch: &[Job]) {
    if let Some(mut known) = inner.known.get_mut(account)
        && let Some(whole) = &known.whole
        && batch.iter().any(|job| Arc::ptr_eq(&job.remembered, whole))
    {
        known.whole = None;
    }
}
