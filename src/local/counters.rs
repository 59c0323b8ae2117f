//! Where usage is counted: slots of atomics in a memory-mapped file. A call that has settled is in the file, so a `kill -9` loses
//! nothing of it: the pages belong to the kernel.
//!
//! # What a slot is
//!
//! A *usage slot* counts the calls of one account, key, model and hour: 128 bytes of words that settlements add to, and apart from
//! them 512 bytes that say whose it is. A slot is free, or used by a generation, a number that no other use of any slot of this
//! file ever has. Whose it is stands there, with a checksum, before the slot is marked used. *Totals* are kept per account, for its
//! sync alone.
//!
//! Nobody has a slot but through a handle ([`Slot`]), and a slot that anybody but the table of slots has a handle of is not freed.
//! So nobody counts into a slot that belongs to somebody else by then.
//!
//! # One life
//!
//! ```text
//! free ──► used: counted into, published ──► let go of ──► folded ──► free
//!            ▲                                 │ its account is taken up again,
//!            └─────────────────────────────────┘ in this process or after a crash
//! ```
//!
//! A slot whose account is not loaded is *parked*: it stays in the file, published or not, until its account is taken up
//! ([`Counters::take_up`]) or until its hour is over and it is folded ([`super::Local::fold`]).
//!
//! # What is lost, and when
//!
//! - **`kill -9`, a panic, running out of memory**: nothing. What a settlement stored before the process ended, is in the file.
//!   A call that was being settled in that very moment may have its counts in it and not its cost.
//! - **A power loss, or a crash of the kernel**: at most what came after the last [`Counters::flush`] that succeeded. Each 4 KiB page
//!   of the file is then as some moment after that flush left it, and not all pages of the same: one slot's words lie in one page and
//!   are of one moment, two slots' may not be. The checksums cover whose a slot is, not what it has counted: they find a record that
//!   was written in part, or changed by somebody else; they do not find that counts are older than they were. The store does, when
//!   it has acknowledged more than the file has ([`TakenUp::raise`]). A slot is used again only after its zeroes were flushed,
//!   so old counts never come back under a new name.
//! - **A full disk, or the file's bound**: nothing that is counted in the file. New slots are made on the heap then; they work like
//!   others but die with the process. [`Counters::unprotected`] says how many there are.
//!
//! # What waits
//!
//! Counting does not lock or allocate. A new slot takes a few short locks; if the file has no free one, it grows then and there,
//! which writes 0.7 MB and syncs it. [`Counters::make_room`], on a schedule, sees to it that there is always room for as many slots
//! as an hour begins, which is what the turn of the hour asks for. The kernel writes changed pages back when it wants to and at each
//! flush; on a busy disk, a store to a page that is being written may wait for that. Where that is worse than what a power loss
//! takes, put the data directory on a tmpfs: what `kill -9` cannot take is safe there too.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher as _;
use std::path::Path;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::Release,
    Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use siphasher::sip::SipHasher24;

use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, ReplicaId};
use crate::money::Amount;
use crate::usage::Tally;

mod account;
mod chunk;
mod error;
mod file;
mod header;
mod record;
#[cfg_attr(all(test, feature = "model"), path = "counters/modelled.rs")]
mod region;
mod scan;
mod slot;

pub use account::{AccountCounters, TakenUp};
pub use error::CountersError;
pub use record::RowId;
pub use slot::{Charged, Slot, Totals};

pub(crate) use region::fetch_ahead;

use chunk::{Chunk, Place, SLOTS, TOTALS};
use file::CounterFile;
use header::Kind;

/// How many chunks a file may have: 4 million slots, and 2.7 GB that a start has to look through. More than a million keys,
/// models and hours at once are more than one replica serves; so this is a brake on a flood of names, not on growth.
pub(super) const CHUNKS_MAX: u32 = 4_096;

/// How many slots are folded in one transaction: enough to share its fsync, and short enough that a take-up can wait for it.
const FOLD_MAX: usize = 2_048;

/// Bits of a generation that count within one run; the others count the runs. At four million slots an hour, 30 years.
const GENERATION_BITS: u32 = 40;

/// All slots of a replica. See the module.
#[derive(Debug)]
pub struct Counters {
    /// `None` if slots are kept on the heap alone.
    home: Option<Home>,
    /// Every used slot of the file, and every one on the heap in its stead, by account.
    accounts: DashMap<AccountId, Rows, foldhash::fast::RandomState>,
    /// Slots of hours before this are folded, or being folded: none is begun any more.
    since: AtomicI64,
    /// Held while slots move from here to what the replica remembers, and while both are read together.
    moving: Mutex<()>,
    /// How many slots are on the heap.
    heap: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Rows {
    slots: HashMap<RowId, Slot>,
    totals: Option<Totals>,
}

impl Rows {
    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.totals.is_none()
    }
}

/// The file, and what is free in it.
#[derive(Debug)]
struct Home {
    id: u128,
    created: Timestamp,
    file: Mutex<CounterFile>,
    free: Mutex<Vec<Place>>,
    free_totals: Mutex<Vec<Place>>,
    /// Freed, but not flushed yet: a power loss could bring their old counts back.
    cooling: Mutex<Vec<Place>>,
    used: AtomicUsize,
    begun: Mutex<Begun>,
    next_generation: AtomicU64,
    /// The file could not grow, so that a new slot need not find that out again.
    stuck: AtomicBool,
    refused: Vec<Refused>,
}

/// How many slots were begun in the latest hour, and in those before it: of the latter, what the fullest had, less by half with
/// each hour, so that one full hour is not provided for for ever.
#[derive(Debug, Default)]
struct Begun {
    hour: Hour,
    latest: usize,
    before: usize,
}

impl Begun {
    fn note(&mut self, hour: Hour) {
        if hour > self.hour {
            (self.hour, self.before, self.latest) = (hour, self.latest.max(self.before / 2), 0);
        }
        self.latest = self.latest.saturating_add(1);
    }

    fn most(&self) -> usize {
        self.latest.max(self.before)
    }
}

/// A slot that was found used and is not what was once written there. It is left as it is, and counted nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "slot {slot} of part {chunk} of the counter file {why}; it says {calls} calls for {cost}, which are counted nowhere",
    calls = tally.calls(), cost = Amount::from_nanos(tally.cost_nanos)
)]
pub struct Refused {
    /// Its part of the file.
    pub chunk: u32,
    /// Its number there.
    pub slot: u32,
    /// What is wrong.
    pub why: Why,
    /// What it says.
    pub tally: Tally,
}

/// What is wrong with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Its record was not written whole, or was changed.
    #[error("has a damaged name")]
    Torn,
    /// Another slot has the same account, key, model and hour.
    #[error("is there twice")]
    Twice,
}

/// An account with slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The account.
    pub account: AccountId,
    /// How many slots it has.
    pub slots: usize,
    /// Whether the store has acknowledged all that is in them.
    pub is_published: bool,
    /// What they cost beyond what the store has acknowledged.
    pub unpublished: Amount,
    /// Whether they note open holds.
    pub has_holds: bool,
}

impl Counters {
    /// Slots on the heap alone: for a replica without a data directory, and for tests. They go with their last handle.
    pub fn in_memory() -> Arc<Self> {
        Arc::new(Self::over(None))
    }

    fn over(home: Option<Home>) -> Self {
        Self {
            home,
            accounts: DashMap::default(),
            since: AtomicI64::new(i64::MIN),
            moving: Mutex::default(),
            heap: Arc::default(),
        }
    }

    /// Opens the counter file of a data directory, or makes both, for this process alone; takes up the slots that are used.
    /// `fresh_name` is asked for the replica's name if the file is new. Blocks. Whoever opens it also frees what is folded:
    /// [`super::Local::open`] does.
    pub(super) fn open(
        dir: &Path,
        chunks_max: u32,
        now: Timestamp,
        fresh_name: impl FnOnce() -> ReplicaId,
    ) -> Result<(Arc<Self>, ReplicaId), CountersError> {
        let file = CounterFile::open(dir, chunks_max, now, fresh_name)?;
        let found = scan::scan(file.chunks());
        let before = found.most_in_an_hour();
        let header = file.header();
        let replica = header.replica.clone();
        let counters = Self::over(Some(Home {
            id: header.id,
            created: header.created,
            free: Mutex::new(found.free),
            free_totals: Mutex::new(found.free_totals),
            cooling: Mutex::new(found.cleared),
            used: AtomicUsize::new(found.used),
            begun: Mutex::new(Begun {
                before,
                ..Begun::default()
            }),
            next_generation: AtomicU64::new(u64::from(header.opens) << GENERATION_BITS),
            stuck: AtomicBool::new(false),
            refused: found.refused,
            file: Mutex::new(file),
        }));
        for (account, rows) in found.accounts {
            counters.accounts.insert(account, rows);
        }
        counters.flush()?;
        Ok((Arc::new(counters), replica))
    }

    /// When the file was made; `None` on the heap.
    pub fn created(&self) -> Option<Timestamp> {
        self.home.as_ref().map(|home| home.created)
    }

    /// What tells this file from every other, also from one that was made in its place.
    pub(super) fn file_id(&self) -> u128 {
        self.home.as_ref().map_or(0, |home| home.id)
    }

    /// Slots that were found damaged when the file was opened, with what they say.
    pub fn refused(&self) -> &[Refused] {
        self.home.as_ref().map_or(&[], |home| &home.refused)
    }

    /// How many slots a `kill -9` would take now: those that are on the heap, as there is no file or it could not grow.
    pub fn unprotected(&self) -> u64 {
        self.heap.load(Relaxed)
    }

    /// How many slots of the file are used.
    pub fn used(&self) -> usize {
        self.home.as_ref().map_or(0, |home| home.used.load(Relaxed))
    }

    /// Every account that has slots, loaded or not, in no order.
    pub fn accounts(&self) -> Vec<Recorded> {
        let recorded = self.accounts.iter().filter_map(|entry| {
            let slots = entry.value().slots.values();
            let mut recorded = Recorded {
                account: entry.key().clone(),
                slots: slots.len(),
                is_published: true,
                unpublished: Amount::ZERO,
                has_holds: false,
            };
            for slot in slots {
                recorded.is_published &= slot.is_published();
                recorded.has_holds |= slot.has_holds();
                recorded.unpublished = recorded.unpublished.saturating_add(slot.unpublished());
            }
            (recorded.slots > 0).then_some(recorded)
        });
        recorded.collect()
    }

    /// Makes durable what was counted until now: what a power loss then leaves. Blocks; to be called on a schedule.
    pub fn flush(&self) -> Result<(), CountersError> {
        let Some(home) = &self.home else {
            return Ok(());
        };
        let cooled = std::mem::take(&mut *locked(&home.cooling));
        let flusher = locked(&home.file).flusher();
        let flushed = flusher.and_then(|flusher| flusher.flush());
        let to = if flushed.is_ok() {
            &home.free
        } else {
            &home.cooling
        };
        locked(to).extend(cooled);
        flushed
    }

    /// Sees to it that there is room for the next hour: for as many slots as the fuller of the last two began, and at least for a
    /// chunk. Blocks while the file grows; to be called on a schedule. An error means that new slots may come to be on the heap.
    pub fn make_room(&self) -> Result<(), CountersError> {
        let Some(home) = &self.home else {
            return Ok(());
        };
        let least = |chunk: u32| usize::try_from(chunk).unwrap_or(usize::MAX);
        let room = locked(&home.begun).most().max(least(SLOTS));
        while locked(&home.free).len() < room {
            home.grow(&mut locked(&home.file), Kind::Usage)?;
        }
        while locked(&home.free_totals).len() < least(TOTALS / 4) {
            home.grow(&mut locked(&home.file), Kind::Totals)?;
        }
        home.stuck.store(false, Relaxed);
        Ok(())
    }

    /// Keeps slots where they are until it is dropped: none is folded meanwhile, and what the replica remembers of folded ones
    /// fits what is here.
    pub(super) fn keep_in_place(&self) -> MutexGuard<'_, ()> {
        locked(&self.moving)
    }

    /// No slot of an earlier hour is begun any more: what is counted in one, is counted in this hour.
    pub(super) fn close_before(&self, hour: Hour) {
        self.since.fetch_max(hour.0, SeqCst);
    }

    fn since(&self) -> Hour {
        Hour(self.since.load(SeqCst))
    }

    /// Whether nothing of an hour is begun any more.
    fn is_closed(&self, hour: Hour) -> bool {
        hour < self.since()
    }

    /// Slots of hours before `hour` that are published, have no holds and are let go of: some of them, for one transaction. The
    /// hours are closed, so nobody gets hold of one while it is folded.
    pub(super) fn due(&self, hour: Hour) -> Vec<(AccountId, Slot)> {
        let due = |slot: &Slot| {
            slot.row().hour < hour
                && slot.handles() == 1
                && slot.is_published()
                && !slot.has_holds()
        };
        let mut found = Vec::new();
        for entry in &self.accounts {
            let slots = entry.value().slots.values().filter(|slot| due(slot));
            let left = FOLD_MAX.saturating_sub(found.len());
            found.extend(
                slots
                    .take(left)
                    .map(|slot| (entry.key().clone(), slot.clone())),
            );
            if left == 0 {
                break;
            }
        }
        found
    }

    /// Frees slots that are folded, durably: they are in no account any more. Nobody can have a handle of one; if somebody had, its
    /// place would stay used until its mark frees it at the next start. Returns the generations whose places are free.
    pub(super) fn free(&self, folded: Vec<(AccountId, Slot)>) -> Result<Vec<u64>, CountersError> {
        let mut freed = Vec::with_capacity(folded.len());
        for (account, slot) in folded {
            let Some(mut rows) = self.accounts.get_mut(&account) else {
                continue;
            };
            let same = |found: &Slot| found.is_same(&slot);
            if !rows.slots.get(slot.row()).is_some_and(same) {
                continue;
            }
            rows.slots.remove(slot.row());
            let over = rows.is_empty();
            drop(rows);
            if over {
                self.accounts.remove_if(&account, |_, rows| rows.is_empty());
            }
            if slot.handles() > 1 {
                continue;
            }
            if let Some(home) = &self.home {
                home.release(&slot);
            }
            freed.extend(slot.generation());
        }
        self.flush()?;
        Ok(freed)
    }

    /// Every used slot that is folded, by the generations that are marked so.
    pub(super) fn folded(&self, marks: &HashSet<u64>) -> Vec<(AccountId, Slot)> {
        let marked = |slot: &&Slot| {
            let generation = slot.generation();
            generation.is_some_and(|generation| marks.contains(&generation))
        };
        let mut found = Vec::new();
        for entry in &self.accounts {
            let slots = entry.value().slots.values().filter(marked);
            found.extend(slots.map(|slot| (entry.key().clone(), slot.clone())));
        }
        found
    }

    /// Forgets the totals of an account that has no slots and is not loaded. Returns whether it did.
    pub(super) fn forget(&self, account: &AccountId) -> bool {
        let unused = |_: &AccountId, rows: &Rows| {
            let totals = rows.totals.as_ref();
            rows.slots.is_empty() && totals.is_none_or(|totals| totals.handles() == 1)
        };
        let Some((_, rows)) = self.accounts.remove_if(account, unused) else {
            return false;
        };
        if let (Some(home), Some(totals)) = (&self.home, rows.totals) {
            totals.release();
            if let Some(place) = totals.place() {
                locked(&home.free_totals).push(place.clone());
            }
        }
        true
    }

    /// A slot that nobody has: in the file, or on the heap if there is no room.
    fn fresh_slot(&self, account: &AccountId, row: &RowId) -> Slot {
        let in_file = |home: &Home| home.fresh_slot(account, row);
        let filed = self.home.as_ref().and_then(in_file);
        filed.unwrap_or_else(|| Slot::heap(row.clone(), &self.heap))
    }

    fn fresh_totals(&self, account: &AccountId) -> Totals {
        let in_file = |home: &Home| home.fresh_totals(account);
        let filed = self.home.as_ref().and_then(in_file);
        filed.unwrap_or_else(Totals::heap)
    }

    #[cfg(test)]
    fn break_writes(&self) {
        locked(&self.home.as_ref().unwrap().file).break_writes();
    }

    #[cfg(test)]
    fn mend_writes(&self) {
        locked(&self.home.as_ref().unwrap().file).mend_writes();
    }
}

impl Home {
    fn fresh_slot(&self, account: &AccountId, row: &RowId) -> Option<Slot> {
        let place = self.place(&self.free, Kind::Usage)?;
        let (words, record) = place.usage()?;
        let generation = self.next_generation.fetch_add(1, Relaxed);
        record.write(generation, account, row);
        self.used.fetch_add(1, Relaxed);
        locked(&self.begun).note(row.hour);
        Some(Slot::filed((words, record), place, row.clone()))
    }

    fn fresh_totals(&self, account: &AccountId) -> Option<Totals> {
        let place = self.place(&self.free_totals, Kind::Totals)?;
        let record = place.totals()?;
        record.write(account);
        Some(Totals::filed(record, place))
    }

    /// A free place; the file grows if there is none, unless it could not the last time.
    fn place(&self, free: &Mutex<Vec<Place>>, kind: Kind) -> Option<Place> {
        loop {
            if let Some(place) = locked(free).pop() {
                return Some(place);
            }
            if self.stuck.load(Relaxed) {
                return None;
            }
            let mut file = locked(&self.file);
            // Another may have been faster between the look and the lock.
            if locked(free).is_empty() && self.grow(&mut file, kind).is_err() {
                return None;
            }
        }
    }

    fn grow(&self, file: &mut CounterFile, kind: Kind) -> Result<(), CountersError> {
        let grown = file.grow(kind);
        self.stuck.store(grown.is_err(), Relaxed);
        let chunk: Arc<Chunk> = grown?;
        let free = match kind {
            Kind::Usage => &self.free,
            Kind::Totals => &self.free_totals,
        };
        // The first place is taken first.
        let mut places: Vec<Place> = chunk.places().collect();
        places.reverse();
        locked(free).extend(places);
        Ok(())
    }

    /// Marks a slot free and empties it. It is given out again once that is flushed.
    fn release(&self, slot: &Slot) {
        let Some(place) = slot.place() else {
            return;
        };
        if let Some((words, record)) = place.usage() {
            // Release: whatever was done to the slot before comes first.
            record.state.store(0, Release);
            words.clear();
            self.used.fetch_sub(1, Relaxed);
            locked(&self.cooling).push(place.clone());
        }
    }
}

/// A lock whose holder panicked guards nothing half done here: each change under it is one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A checksum that is the same in every process: SipHash-2-4 under a fixed key. 64 bits: what is damaged by chance passes once in
/// 2^64 times. It keeps nobody out who means to change something.
fn checksum(words: impl Iterator<Item = u64>) -> u64 {
    let mut hasher = SipHasher24::new_with_key(b"tollgate counter");
    for word in words {
        hasher.write(&word.to_ne_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
