//! Where a replica keeps what it remembers of accounts: [`Remembered`] as it stands, in its data directory, or in memory for as long as
//! the process lives. No protocol here.

use std::sync::Arc;

use dashmap::DashMap;

use super::remember::Remembered;
use crate::id::AccountId;
use crate::ledger::{Entry, TAIL_MAX};
use crate::store::{History, Snapshot};

/// What a replica remembers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Recall(Arc<DashMap<AccountId, Remembered, foldhash::fast::RandomState>>);

impl Recall {
    /// The newest that is remembered of an account.
    pub fn get(&self, account: &AccountId) -> Option<Remembered> {
        self.0.get(account).map(|kept| kept.clone())
    }

    /// Everything that is remembered, by name.
    pub fn accounts(&self) -> Vec<AccountId> {
        let mut accounts: Vec<_> = self.0.iter().map(|kept| kept.key().clone()).collect();
        accounts.sort_unstable();
        accounts
    }

    /// The history that an account was last compared in.
    pub fn history(&self, account: &AccountId) -> Option<History> {
        self.0.get(account).and_then(|kept| kept.history)
    }

    /// An account was compared in this history.
    pub fn in_history(&self, account: &AccountId, history: History) {
        if let Some(mut kept) = self.0.get_mut(account) {
            kept.history = Some(history);
        }
    }

    /// Remembers what was read, unless something newer is.
    pub fn keep(&self, fresh: Remembered) {
        let account = fresh.book.account.clone();
        let mut kept = self.0.entry(account).or_insert_with(|| fresh.clone());
        if kept.version <= fresh.version {
            let total = kept.total.max(fresh.total);
            *kept = Remembered { total, ..fresh };
        }
    }

    /// Remembers what was just written: a book, and the entries that were appended with it. Done before the writer is answered, so that
    /// a store that loses it then is told.
    pub fn wrote(&self, snapshot: &Snapshot, entries: &[Entry]) {
        let account = &snapshot.book.account;
        let first = entries.first().map(|entry| entry.sequence);
        let (mut tail, keys, total, history) = match self.get(account) {
            Some(known) if known.version >= snapshot.version => return,
            Some(known) => (known.tail, known.keys, known.total, known.history),
            None => Default::default(),
        };
        let goes_on = tail.last().map(|last| last.sequence.saturating_add(1)) == first;
        if !goes_on {
            tail.clear();
        }
        tail.extend_from_slice(entries);
        let more = tail.len().saturating_sub(TAIL_MAX);
        tail.drain(..more);
        self.keep(Remembered {
            version: snapshot.version,
            book: snapshot.book.clone(),
            tail,
            keys,
            total: total.max(snapshot.spend),
            history,
        });
    }
}
