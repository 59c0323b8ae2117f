//! Usage of one key, model and hour, added up without a lock. The cells are where spend is counted: what a replica publishes
//! as its spend is the sum over its cells, so usage always adds up to spend.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::clock::Hour;
use crate::id::{KeyId, ModelName};
use crate::money::Amount;
use crate::usage::{Certainty, Counts, Meter, Tally};

/// Which calls a cell counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId {
    /// The hour they were admitted in.
    pub hour: Hour,
    /// Whose they are.
    pub key: KeyId,
    /// Of which model.
    pub model: Option<ModelName>,
}

/// One row of usage, growing.
#[derive(Debug)]
pub struct Cell {
    id: CellId,
    exact: AtomicU64,
    estimated: AtomicU64,
    none: AtomicU64,
    cost_nanos: AtomicI64,
    counts: [AtomicU64; Meter::COUNT],
    /// Whether the cell waits in its account's list of cells to publish.
    dirty: AtomicBool,
}

impl Cell {
    /// A cell that goes on from what was published before.
    pub(super) fn new(id: CellId, from: &Tally) -> Self {
        Self {
            id,
            exact: from.exact.into(),
            estimated: from.estimated.into(),
            none: from.none.into(),
            cost_nanos: from.cost_nanos.into(),
            counts: from.counts.0.map(Into::into),
            dirty: AtomicBool::new(false),
        }
    }

    /// Which calls it counts.
    pub const fn id(&self) -> &CellId {
        &self.id
    }

    /// Counts one settled call. Returns whether the cell must now be queued for publishing: true for the first call since it
    /// last was.
    ///
    /// The counts are relaxed and the cost comes last, so that whoever sees the cost sees its counts. The cost and the flag are
    /// sequentially consistent: either this sees the flag that [`Cell::collect`] took down and queues the cell again, or
    /// `collect` sees this call. With anything weaker a call could fall between the two and wait for the next one.
    pub(super) fn count(&self, cost: Amount, certainty: Certainty, counts: &Counts) -> bool {
        let calls = match certainty {
            Certainty::Exact => &self.exact,
            Certainty::Estimated => &self.estimated,
            Certainty::None => &self.none,
        };
        calls.fetch_add(1, Relaxed);
        for (sum, count) in self.counts.iter().zip(counts.0) {
            if count > 0 {
                sum.fetch_add(count, Relaxed);
            }
        }
        self.cost_nanos.fetch_add(cost.nanos(), SeqCst);
        !self.dirty.load(SeqCst) && !self.dirty.swap(true, SeqCst)
    }

    /// Takes the flag down and reads the cell: what is added from now on raises the flag again.
    pub(crate) fn collect(&self) -> Tally {
        self.dirty.store(false, SeqCst);
        self.read()
    }

    /// What has been counted. While calls settle, a call's counts may be in it before its cost.
    pub fn read(&self) -> Tally {
        let cost_nanos = self.cost_nanos.load(SeqCst);
        Tally {
            exact: self.exact.load(Relaxed),
            estimated: self.estimated.load(Relaxed),
            none: self.none.load(Relaxed),
            cost_nanos,
            counts: Counts(std::array::from_fn(|i| {
                self.counts.get(i).map_or(0, |count| count.load(Relaxed))
            })),
        }
    }
}
