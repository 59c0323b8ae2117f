//! What a replica keeps on its own disk, in its data directory: where it counts ([`counters`]), and what it remembers
//! ([`memory`]). No protocol here: what is done with it is the sync's business.
//!
//! The two together hold all that this replica has ever spent: what was counted in an hour lies in a slot until the hour is over
//! and the store has all of it, and then in the memory's totals. It moves from one to the other exactly once:
//!
//! 1. one transaction adds the slots' tallies to the totals and marks the slots' generations as folded;
//! 2. the slots are freed;
//! 3. a later transaction drops the marks.
//!
//! A process that is killed after 1 finds the marks at its next start and frees those slots without adding them again. Marks and
//! slots are matched by the file's random identity and the slot's generation, neither of which ever comes again.
//!
//! How it is used, by one process at a time:
//!
//! - at the start: [`Local::open`], then [`Counters::make_room`]; then every account of [`crate::engine::Engine::parked`] that is not
//!   published or has holds is loaded, so that it is published;
//! - when an account is loaded: [`Local::take_up`], then [`Local::raise`] with this replica's own rows as the store has them, then
//!   [`TakenUp::end_holds`], then [`crate::engine::Engine::load`]. [`TakenUp::lifetime`] and [`TakenUp::spend`] are then what the
//!   cells and the memory have together;
//! - when the store acknowledges a row: [`crate::engine::Account::acknowledge`], with the tally that was sent;
//! - on a schedule, on a blocking thread: [`Counters::flush`], [`Counters::make_room`], and, for hours that no call is admitted in any
//!   more, [`crate::engine::Account::forget_before`] and then [`Local::fold`] with the same hour.
//!
//! A copy of a directory is for restoring it, not for a second replica: both would count under one name.

pub mod counters;
pub mod memory;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use counters::{Counters, CountersError, TakenUp};
use memory::{Memory, MemoryError, Tallied};

use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, ReplicaId};
use crate::store::UsageRow;

/// A data directory, in use by this process alone.
#[derive(Debug)]
pub struct Local {
    counters: Arc<Counters>,
    memory: Memory,
    replica: ReplicaId,
    /// Generations whose slots are free again, durably, and whose marks still stand.
    freed: Mutex<Vec<u64>>,
}

/// Why a data directory cannot be used, or not written to.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The counter file.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// The memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Local {
    /// Opens a data directory, or makes it, for this process alone. `fresh_name` is asked for the replica's name if there is none
    /// yet; [`Local::replica`] has the one that stands. Finishes what an earlier run was killed at. Blocks.
    pub fn open(
        dir: &Path,
        now: Timestamp,
        fresh_name: impl FnOnce() -> ReplicaId,
    ) -> Result<Self, LocalError> {
        Self::open_bounded(dir, counters::CHUNKS_MAX, now, fresh_name)
    }

    fn open_bounded(
        dir: &Path,
        chunks_max: u32,
        now: Timestamp,
        fresh_name: impl FnOnce() -> ReplicaId,
    ) -> Result<Self, LocalError> {
        let (counters, replica) = Counters::open(dir, chunks_max, now, fresh_name)?;
        let local = Self {
            memory: Memory::open(dir, &replica)?,
            counters,
            replica,
            freed: Mutex::default(),
        };
        local.free_what_is_folded()?;
        Ok(local)
    }

    /// Whose it is, as it says itself.
    pub const fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// What this replica counts with.
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What it remembers.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes up an account: its slots, and what was folded of it, as of one moment. Blocks.
    pub fn take_up(&self, account: &AccountId) -> Result<TakenUp, MemoryError> {
        let _in_place = self.counters.keep_in_place();
        let folded = self.memory.lifetime(account)?;
        Ok(self.counters.taken_up(account, folded))
    }

    /// The store has more of this replica's rows than the replica itself: the data directory is an older copy. Raises what is here
    /// to that. `stored` are this replica's own rows, those of all time and those of the current hour. Blocks; nobody counts into
    /// the account yet.
    pub fn raise(&self, taken: &mut TakenUp, stored: &[UsageRow]) -> Result<(), MemoryError> {
        let raised = taken.raise(stored);
        self.memory.raise(taken.account(), &raised)
    }

    /// Moves what was counted in hours before `hour` from slots to the memory: of those slots whose counts the store has and that
    /// nobody has a handle of. What is still to be counted for such an hour is counted in `hour`. Returns how many. Blocks.
    pub fn fold(&self, hour: Hour) -> Result<usize, LocalError> {
        let mut count = 0_usize;
        loop {
            // In batches, so that a take-up waits for one of them at most.
            let _in_place = self.counters.keep_in_place();
            self.counters.close_before(hour);
            let due = self.counters.due(hour);
            if due.is_empty() {
                return Ok(count);
            }
            let tallied: Vec<Tallied> = due.iter().map(Tallied::of).collect();
            let mut freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
            self.memory
                .fold(self.counters.file_id(), hour, &tallied, &freed)?;
            freed.clear();
            count = count.saturating_add(due.len());
            freed.extend(self.counters.free(due)?);
        }
    }

    /// Forgets the document of an account, and its totals if it has no slots and is not loaded. What was folded of it stays: it was
    /// spent. Blocks.
    pub fn forget(&self, account: &AccountId) -> Result<(), MemoryError> {
        self.counters.forget(account);
        self.memory.forget(account)
    }

    /// What an earlier run had folded and not freed, is freed; what it had closed, stays closed.
    fn free_what_is_folded(&self) -> Result<(), LocalError> {
        if let Some(hour) = self.memory.closed_before()? {
            self.counters.close_before(hour);
        }
        let marks = self.memory.marks()?;
        let id = self.counters.file_id();
        let ours = marks.iter().filter(|(file, _)| *file == id);
        let ours: HashSet<u64> = ours.map(|(_, generation)| *generation).collect();
        self.counters.free(self.counters.folded(&ours))?;
        // Those of another file belong to one that is gone.
        Ok(self.memory.drop_marks(&marks)?)
    }
}

#[cfg(test)]
mod tests;
