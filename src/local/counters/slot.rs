//! Handles of slots: what others count with. A handle keeps its slot from being freed, so nobody counts into a slot that belongs
//! to somebody else by then.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64 as HeapCount, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
    fence,
};

use super::chunk::Place;
use super::record::{RowId, TotalsRecord, UsageRecord, UsageWords};
use super::region::{Kept, Region};
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::primitive::AtomicU64;
use crate::usage::{Certainty, Counts, Tally};

/// A usage slot: the calls of one key, model and hour. Cheap to clone; all clones count into the same.
#[derive(Clone)]
pub struct Slot {
    words: Kept<UsageWords>,
    about: Arc<About>,
}

/// What is seldom looked at.
pub(super) struct About {
    row: RowId,
    home: Home,
    /// The held words are what an earlier run left open, and have not been ended yet.
    left_open: AtomicBool,
}

enum Home {
    /// In the file.
    File {
        place: Place,
        record: Kept<UsageRecord>,
        generation: u64,
    },
    /// Not crash-proof. Freed with its last handle.
    Heap {
        published_calls: AtomicU64,
        _one: OneMore,
    },
}

/// One more on the heap, as long as it is there.
struct OneMore(Arc<HeapCount>);

impl OneMore {
    fn of(count: &Arc<HeapCount>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Slot {
    /// A slot on the heap, one more of `count`.
    pub(super) fn heap(row: RowId, count: &Arc<HeapCount>) -> Self {
        let about = About {
            row,
            home: Home::Heap {
                published_calls: AtomicU64::new(0),
                _one: OneMore::of(count),
            },
            left_open: AtomicBool::new(false),
        };
        Self {
            words: Region::heap(),
            about: Arc::new(about),
        }
    }

    /// A used slot of the file.
    pub(super) fn filed(
        (words, record): (Kept<UsageWords>, Kept<UsageRecord>),
        place: Place,
        row: RowId,
    ) -> Self {
        let about = About {
            row,
            left_open: AtomicBool::new(false),
            home: Home::File {
                place,
                generation: record.state.load(Relaxed),
                record,
            },
        };
        Self {
            words,
            about: Arc::new(about),
        }
    }

    /// Where its words are, as a number: for [`super::fetch_ahead`].
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref::<UsageWords>(&self.words).addr()
    }

    /// Which calls it counts, within its account.
    pub fn row(&self) -> &RowId {
        &self.about.row
    }

    /// Counts one settled call. The cost comes last and is sequentially consistent.
    pub(crate) fn count(&self, cost: Amount, certainty: Certainty, counts: &Counts) {
        self.words.add(cost, certainty, counts);
    }

    /// What it has counted. While calls settle, a call's counts may be in it before its cost.
    pub fn tally(&self) -> Tally {
        self.words.tally()
    }

    /// Notes an open hold, to be charged if the process does not live to end it.
    pub(crate) fn hold(&self, amount: Amount) {
        self.words.hold(amount);
    }

    /// Takes back what [`Slot::hold`] noted, before the call is counted: a process killed between the two has lost one call that
    /// had not settled, rather than charged it twice.
    pub(crate) fn end_hold(&self, amount: Amount) {
        self.words.end_hold(amount);
    }

    /// The store has this of it.
    pub fn acknowledge(&self, tally: &Tally) {
        self.words.publish(tally.cost_nanos);
        self.published_calls().store(tally.calls(), Relaxed);
    }

    /// Whether the store has all of it.
    pub fn is_published(&self) -> bool {
        let tally = self.tally();
        let nanos = self.words.published_nanos();
        let calls = self.published_calls().load(Relaxed);
        (tally.cost_nanos, tally.calls()) == (nanos, calls)
    }

    /// What it costs beyond what the store has acknowledged.
    pub fn unpublished(&self) -> Amount {
        let published = Amount::from_nanos(self.words.published_nanos());
        Amount::from_nanos(self.tally().cost_nanos).saturating_sub(published)
    }

    /// Goes on from what the store has of it. Nobody counts meanwhile.
    pub(crate) fn go_on_from(&self, stored: &Tally) {
        self.words.raise(stored);
        self.acknowledge(stored);
    }

    /// Whether it notes open holds.
    pub fn has_holds(&self) -> bool {
        self.words.holds()
    }

    /// Whether a kill -9 leaves it.
    pub fn is_protected(&self) -> bool {
        matches!(self.about.home, Home::File { .. })
    }

    fn published_calls(&self) -> &AtomicU64 {
        match &self.about.home {
            Home::File { record, .. } => record.published_calls(),
            Home::Heap {
                published_calls, ..
            } => published_calls,
        }
    }

    /// Where it is in the file.
    pub(super) fn place(&self) -> Option<&Place> {
        match &self.about.home {
            Home::File { place, .. } => Some(place),
            Home::Heap { .. } => None,
        }
    }

    /// What tells this use of its place in the file from every other.
    pub(in crate::local) fn generation(&self) -> Option<u64> {
        match &self.about.home {
            Home::File { generation, .. } => Some(*generation),
            Home::Heap { .. } => None,
        }
    }

    /// How many handles there are, of which the table of slots has one. Whoever sees that there are no others sees what was counted
    /// with those that were.
    pub(super) fn handles(&self) -> usize {
        let handles = Arc::strong_count(&self.about);
        // Pairs with the Release with which an `Arc` is dropped.
        fence(Acquire);
        handles
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.about, &other.about)
    }

    /// What was found in it is of an earlier run: its holds have nobody who ends them.
    pub(super) fn mark_left_open(&self) {
        self.about.left_open.store(self.has_holds(), Relaxed);
    }

    /// Whether holds of an earlier run are in it.
    pub(super) fn is_left_open(&self) -> bool {
        self.about.left_open.load(Relaxed)
    }

    /// Finishes what an earlier run was killed at.
    pub(super) fn finish_ending(&self) {
        if let Home::File { record, .. } = &self.about.home
            && record.is_ending()
        {
            // The policy does not matter for what is begun.
            self.make_steps(record, Unsettled::Release);
        }
    }

    /// Ends the holds of an earlier run. Returns what was charged: nothing if they are released, or there are none.
    ///
    /// The caller keeps others from doing the same, and from counting, meanwhile.
    pub(super) fn end_left_open(&self, unsettled: Unsettled) -> Charged {
        let Home::File { record, .. } = &self.about.home else {
            return Charged::default();
        };
        if !self.is_left_open() {
            return Charged::default();
        }
        let before = self.tally();
        self.make_steps(record, unsettled);
        self.about.left_open.store(false, Relaxed);
        let after = self.tally().since(&before);
        Charged {
            amount: Amount::from_nanos(after.cost_nanos),
            calls: after.calls(),
        }
    }

    fn make_steps(&self, record: &UsageRecord, unsettled: Unsettled) {
        for step in record.steps(&self.words, unsettled) {
            record.make(&self.words, step);
        }
    }

    /// Makes the first `stores` stores of ending what an earlier run left open, and no more: as if killed there. Returns how many
    /// there are in all.
    #[cfg(test)]
    pub(in crate::local) fn end_left_open_killed_after(
        &self,
        unsettled: Unsettled,
        stores: usize,
    ) -> usize {
        let Home::File { record, .. } = &self.about.home else {
            return 0;
        };
        let steps = record.steps(&self.words, unsettled);
        for step in steps.iter().take(stores) {
            record.make(&self.words, *step);
        }
        steps.len()
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("row", &self.about.row)
            .field("protected", &self.is_protected())
            .field("tally", &self.tally())
            .finish_non_exhaustive()
    }
}

/// What was charged for holds that nobody ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charged {
    /// How much.
    pub amount: Amount,
    /// For how many calls, counted as estimated.
    pub calls: u64,
}

impl Charged {
    pub(super) fn add(&mut self, other: Self) {
        self.amount = self.amount.saturating_add(other.amount);
        self.calls = self.calls.saturating_add(other.calls);
    }
}

/// Totals of an account, written by its sync alone.
#[derive(Clone)]
pub struct Totals(Arc<(Kept<TotalsRecord>, Option<Place>)>);

impl Totals {
    /// Totals on the heap.
    pub(super) fn heap() -> Self {
        Self(Arc::new((Region::heap(), None)))
    }

    /// Totals of the file.
    pub(super) fn filed(record: Kept<TotalsRecord>, place: Place) -> Self {
        Self(Arc::new((record, Some(place))))
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.0.1.as_ref()
    }

    /// How many handles there are, of which the table of slots has one.
    pub(super) fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Marks them free and empties them.
    pub(super) fn release(&self) {
        self.words().state.store(0, Release);
        self.words().clear();
    }

    fn words(&self) -> &TotalsRecord {
        &self.0.0
    }

    /// How much of this replica's own spend the store has ever acknowledged.
    pub fn acked(&self) -> Amount {
        Amount::from_nanos(self.words().acked_nanos.load(Relaxed))
    }

    /// The highest total of spend, over all replicas, that was ever seen.
    pub fn total(&self) -> Amount {
        Amount::from_nanos(self.words().total_nanos.load(Relaxed))
    }

    /// The newest version of the book that was seen.
    pub fn version(&self) -> u64 {
        self.words().version.load(Relaxed)
    }

    /// The store has answered. Each of the three only rises.
    pub fn saw(&self, acked: Amount, total: Amount, version: u64) {
        self.words().acked_nanos.fetch_max(acked.nanos(), Relaxed);
        self.words().total_nanos.fetch_max(total.nanos(), Relaxed);
        self.words().version.fetch_max(version, Relaxed);
    }
}

impl std::fmt::Debug for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Totals")
            .field("acked", &self.acked())
            .field("total", &self.total())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}
