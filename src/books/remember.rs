//! What a replica remembers of an account beyond its own counters, and what it puts back into a store that lost history. Pure: where
//! it is kept is [`super::recall`], who reads and writes the store is the sync.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ledger::{
    Book, Entry, Event, Healed, Rejected, Spent, TAIL_MAX, Told, cut, first, heal, join, lacks,
    refill,
};
use crate::money::Amount;
use crate::policy::Policy;
use crate::store::{Commit, History, KeyRecord, Restore, Snapshot};

/// How many events of an account a replica remembers. An account makes a handful in an hour; older ones were read long ago.
pub const EVENTS_MAX: usize = 32;

/// The newest that this replica knows of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The version of book and keys.
    pub version: u64,
    /// The book.
    pub book: Book,
    /// Entries of its end, ascending: see [`Told::tail`].
    pub tail: Vec<Entry>,
    /// From this sequence number on no command is missing in `tail`: see [`Told::since`].
    pub since: u64,
    /// The last events that this replica itself wrote of it, at most [`EVENTS_MAX`]: a feed that lost them is told again.
    #[serde(default)]
    pub events: Vec<Event>,
    /// All keys.
    pub keys: Vec<KeyRecord>,
    /// The highest total of spend seen.
    pub total: Amount,
    /// In which history of the store it was last compared with what is there.
    #[serde(default)]
    pub history: Option<History>,
    /// It was written over a book that was not known here: entries before its own, and keys, may be missing, and are to be read.
    #[serde(default)]
    pub partial: bool,
}

/// What stands in a store, as far as it matters for what it lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    /// The book and its totals, with what stands under [`Remembered::claims`].
    pub snapshot: Snapshot,
    /// Its last entries, as far back as ours go.
    pub tail: Vec<Entry>,
    /// All keys.
    pub keys: Vec<KeyRecord>,
}

/// What to put back.
#[derive(Clone, Debug, PartialEq)]
pub struct PutBack {
    /// The book; `None` if the store has all that was commanded.
    pub commit: Option<Commit>,
    /// Keys that the store lacks, or that are revoked here and not there; written after the book.
    pub keys: Vec<KeyRecord>,
    /// How many commands were put back.
    pub commands: usize,
    /// Commands that may be lost for good: older than what is remembered, and not in the store.
    pub forgotten: u64,
}

impl Remembered {
    /// As it was read: a book, the entries at its end, its keys. Commands from before those entries are kept, where they are `known`.
    pub fn read(
        known: Option<&Self>,
        snapshot: &Snapshot,
        mut tail: Vec<Entry>,
        keys: Vec<KeyRecord>,
    ) -> Self {
        let book = &snapshot.book;
        let since = match known {
            Some(known) => join(known.told(), book, &mut tail),
            None => {
                let since = first(book, tail.len());
                cut(&mut tail, since)
            }
        };
        Self {
            version: snapshot.version,
            book: book.clone(),
            tail,
            since,
            events: Vec::new(),
            keys,
            total: snapshot.spend,
            history: None,
            partial: false,
        }
    }

    /// What is remembered once a book was written with these entries, in place of what was `known`; `None` if that is as new. `over` is the
    /// version that was read for it: where that was not known, others may have written keys and entries meanwhile.
    pub fn wrote(
        known: Option<Self>,
        over: u64,
        snapshot: &Snapshot,
        entries: &[Entry],
    ) -> Option<Self> {
        let goes_on = match &known {
            Some(known) if known.version >= snapshot.version => return None,
            Some(known) => known.version == over && !known.partial,
            None => over == 0,
        };
        let own = first(&snapshot.book, entries.len());
        let (mut tail, mut since, events, keys, total, history) = match known {
            Some(known) => (
                known.tail,
                known.since,
                known.events,
                known.keys,
                known.total,
                known.history,
            ),
            None => Default::default(),
        };
        if !goes_on {
            tail.clear();
        }
        if tail.is_empty() {
            since = own;
        }
        tail.extend_from_slice(entries);
        let since = cut(&mut tail, since);
        Some(Self {
            version: snapshot.version,
            book: snapshot.book.clone(),
            tail,
            since,
            events,
            keys,
            total: total.max(snapshot.spend),
            history,
            partial: !goes_on,
        })
    }

    /// The same with events that were written, too.
    pub fn and_announced(mut self, events: &[Event]) -> Self {
        self.events.extend_from_slice(events);
        let more = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..more);
        self
    }

    /// Whether a book of this version, as it was read, says nothing new.
    pub const fn knows(&self, version: u64) -> bool {
        self.version > version || (self.version == version && !self.partial)
    }

    /// Whether a command or a key is remembered that is not in what stands: it was lost there, or carried out once more under another
    /// name. Who took what stands in place of what is remembered would forget it; it is to be compared first.
    pub fn is_more_than(&self, stands: &Stands) -> bool {
        let Stands { snapshot, tail, .. } = stands;
        lacks(Told::whole(&snapshot.book, tail), self.told())
            || !self.missing_keys(Some(stands)).is_empty()
    }

    const fn told(&self) -> Told<'_> {
        Told {
            book: &self.book,
            tail: self.tail.as_slice(),
            since: self.since,
        }
    }

    /// The sequence number after which the entries that are remembered begin.
    pub fn tail_after(book: &Book) -> u64 {
        let tail = u64::try_from(TAIL_MAX).unwrap_or(u64::MAX);
        book.entries.saturating_sub(tail)
    }

    /// The claims of all commands that could be put back: to be read with the store's book.
    pub fn claims(&self) -> Vec<String> {
        let name = |prefix: &str, name: &Option<String>| {
            name.as_ref().map(|name| format!("{prefix}:{name}"))
        };
        let of = |entry: &Entry| {
            [
                name("k", &entry.idempotency_key),
                name("o", &entry.order_id),
            ]
        };
        self.tail.iter().flat_map(of).flatten().collect()
    }

    /// What a store lacks of this: `stands` is what it has, `None` if it has nothing of the account.
    ///
    /// # Errors
    ///
    /// If the ledger refuses a command that it took before.
    pub fn put_back(
        &self,
        stands: Option<&Stands>,
        policy_of: impl Fn(&Book) -> Policy,
        now: Timestamp,
    ) -> Result<PutBack, Rejected> {
        let ours = self.told();
        let healed = match stands {
            None => Some(refill(ours)),
            Some(stands) => {
                let Stands { snapshot, tail, .. } = stands;
                let theirs = Told::whole(&snapshot.book, tail);
                let claims = self.claims();
                let claimed = |claim: &str| {
                    let mut standing = claims.iter().zip(&snapshot.claims);
                    standing.any(|(name, found)| name == claim && found.is_some())
                };
                // What is lost was spent all the same.
                let spent = Spent {
                    spend: snapshot.spend.max(self.total),
                    ..snapshot.spent()
                };
                heal(theirs, ours, spent, claimed, policy_of, now)?
            }
        };
        let theirs = stands.map_or(0, |stands| stands.snapshot.version);
        let keys = self.missing_keys(stands);
        Ok(PutBack {
            commands: healed.as_ref().map_or(0, |healed| healed.commands),
            forgotten: healed.as_ref().map_or(0, |healed| healed.forgotten),
            commit: healed
                .map(|healed| self.commit(healed, theirs))
                .or_else(|| self.raise(stands?)),
            keys,
        })
    }

    /// Writes a store's book again, as it is, above every version that is known of it. Versions begin where the store fell back to: who
    /// knows a later one would take the next that it writes for older, or for the one that it knows.
    fn raise(&self, stands: &Stands) -> Option<Commit> {
        let Snapshot { version, book, .. } = &stands.snapshot;
        let same = *version == self.version && *book == self.book;
        (*version <= self.version && !same).then(|| Commit {
            expected: *version,
            book: book.clone(),
            credit_delta: Amount::ZERO,
            entries: Vec::new(),
            events: Vec::new(),
            claims: Vec::new(),
            restore: Some(Restore {
                version: self.version.saturating_add(1),
                entries_gone: 0,
            }),
        })
    }

    fn commit(&self, healed: Healed, theirs: u64) -> Commit {
        let Healed {
            book,
            entries,
            events,
            claims,
            credit_delta,
            forgotten,
            ..
        } = healed;
        let restore = Restore {
            version: self.version.max(theirs).saturating_add(1),
            entries_gone: forgotten,
        };
        Commit {
            expected: theirs,
            book,
            credit_delta,
            entries,
            events,
            claims,
            restore: Some(restore),
        }
    }

    fn missing_keys(&self, stands: Option<&Stands>) -> Vec<KeyRecord> {
        let there = stands.map_or(&[][..], |stands| &stands.keys);
        let lacks = |key: &&KeyRecord| match there.iter().find(|other| other.id == key.id) {
            None => true,
            Some(other) => key.revoked.is_some() && other.revoked.is_none(),
        };
        self.keys.iter().filter(lacks).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
