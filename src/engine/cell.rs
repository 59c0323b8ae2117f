//! Usage of one key, model and hour, added up without a lock. The slots behind the cells are where spend is counted: what a replica
//! publishes as its spend is the sum over them, so usage always adds up to spend. A cell is what a loaded account has of a slot.

use std::sync::atomic::Ordering::SeqCst;

use crate::clock::Hour;
use crate::id::KeyId;
use crate::local::counters::{RowId, Slot};
use crate::money::Amount;
use crate::primitive::AtomicBool;
use crate::usage::{Certainty, Counts, Tally};

/// A model by number: what calls carry instead of a name. [`super::Engine::model_name`] has the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(pub(super) u32);

impl ModelId {
    /// Calls that name no model.
    pub const NONE: Self = Self(0);
}

/// Which calls a cell counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId {
    /// The hour they were admitted in.
    pub hour: Hour,
    /// Whose they are.
    pub key: KeyId,
    /// Of which model.
    pub model: ModelId,
}

/// One row of usage, growing. One cache line: what tells it from others, whether it waits, and where it counts; what it counts is
/// on the slot's own.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Cell {
    hour: Hour,
    model: ModelId,
    /// Whether the cell waits in its account's list of cells to publish.
    dirty: AtomicBool,
    slot: Slot,
}

#[cfg(not(all(test, feature = "model")))]
const _: () = assert!(size_of::<Cell>() == 64, "a call looks at one line of it");

impl Cell {
    /// What counts into a slot. `model` is the number of its model.
    pub(super) fn new(model: ModelId, hour: Hour, slot: Slot) -> Self {
        Self {
            hour,
            model,
            dirty: AtomicBool::new(false),
            slot,
        }
    }

    /// Which calls it counts.
    pub fn id(&self) -> CellId {
        CellId {
            hour: self.hour,
            key: self.row().key.clone(),
            model: self.model,
        }
    }

    /// The same, with the model's name.
    pub fn row(&self) -> &RowId {
        self.slot.row()
    }

    /// Where it counts, as a number: for [`crate::local::counters::fetch_ahead`].
    pub(super) fn address(&self) -> usize {
        self.slot.address()
    }

    /// Whether it counts these calls of its key.
    pub(super) fn is_for(&self, model: ModelId, hour: Hour) -> bool {
        self.hour == hour && self.model == model
    }

    /// Counts one settled call. Returns whether the cell must now be queued for publishing: true for the first call since it
    /// last was.
    ///
    /// The slot's counts are relaxed and its cost comes last, so that whoever sees the cost sees its counts. The cost and the flag
    /// are sequentially consistent: either this sees the flag that [`Cell::collect`] took down and queues the cell again, or
    /// `collect` sees this call. With anything weaker a call could fall between the two and wait for the next one.
    pub(super) fn count(&self, cost: Amount, certainty: Certainty, counts: &Counts) -> bool {
        self.slot.count(cost, certainty, counts);
        self.raise_flag()
    }

    /// Says that it waits for publishing. Returns whether it must be queued for that.
    pub(super) fn raise_flag(&self) -> bool {
        !self.dirty.load(SeqCst) && !self.dirty.swap(true, SeqCst)
    }

    /// Takes the flag down and reads the cell: what is added from now on raises the flag again.
    pub(crate) fn collect(&self) -> Tally {
        self.dirty.store(false, SeqCst);
        self.read()
    }

    /// What has been counted. While calls settle, a call's counts may be in it before its cost.
    pub fn read(&self) -> Tally {
        self.slot.tally()
    }

    /// Whether the store has acknowledged all that has been counted.
    pub fn is_published(&self) -> bool {
        self.slot.is_published()
    }

    /// Notes a hold, to be charged if this process does not live to end it.
    pub(super) fn hold(&self, amount: Amount) {
        self.slot.hold(amount);
    }

    /// Takes it back.
    pub(super) fn end_hold(&self, amount: Amount) {
        self.slot.end_hold(amount);
    }
}
