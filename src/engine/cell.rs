//! Usage of one key, model and hour, added up without a lock. The cells are where spend is counted: what a replica publishes
//! as its spend is the sum over its cells, so usage always adds up to spend.

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};

use super::primitive::{AtomicBool, AtomicI64, AtomicU64};
use crate::clock::Hour;
use crate::id::KeyId;
use crate::money::Amount;
use crate::usage::{Certainty, Counts, Meter, Tally};

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

/// One row of usage, growing. What most calls look at and add to comes first, on one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Cell {
    hour: Hour,
    model: ModelId,
    /// Whether the cell waits in its account's list of cells to publish.
    dirty: AtomicBool,
    cost_nanos: AtomicI64,
    exact: AtomicU64,
    /// Without the first, [`Meter::Request`]: every settled call is one request, and calls are counted by certainty already.
    counts: [AtomicU64; Meter::COUNT - 1],
    estimated: AtomicU64,
    none: AtomicU64,
    key: KeyId,
}

impl Cell {
    /// A cell that goes on from what was published before.
    pub(super) fn new(id: CellId, from: &Tally) -> Self {
        Self {
            hour: id.hour,
            model: id.model,
            dirty: AtomicBool::new(false),
            cost_nanos: from.cost_nanos.into(),
            exact: from.exact.into(),
            counts: std::array::from_fn(|i| {
                from.counts
                    .0
                    .iter()
                    .skip(1)
                    .nth(i)
                    .copied()
                    .unwrap_or(0)
                    .into()
            }),
            estimated: from.estimated.into(),
            none: from.none.into(),
            key: id.key,
        }
    }

    /// Which calls it counts.
    pub fn id(&self) -> CellId {
        CellId {
            hour: self.hour,
            key: self.key.clone(),
            model: self.model,
        }
    }

    /// Whether it counts these calls of its key.
    pub(super) fn is_for(&self, model: ModelId, hour: Hour) -> bool {
        self.hour == hour && self.model == model
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
        for (sum, count) in self.counts.iter().zip(counts.0.into_iter().skip(1)) {
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
        let mut tally = Tally {
            exact: self.exact.load(Relaxed),
            estimated: self.estimated.load(Relaxed),
            none: self.none.load(Relaxed),
            cost_nanos,
            counts: Counts::default(),
        };
        for (sum, count) in tally.counts.0.iter_mut().skip(1).zip(&self.counts) {
            *sum = count.load(Relaxed);
        }
        tally.counts.set(Meter::Request, tally.calls());
        tally
    }
}

const _: () = assert!(
    Meter::Request.index() == 0,
    "counts are added up without the first"
);
