//! One account in memory: the words that every call touches on one cache line, and beside it what only changes and syncs touch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release,
    Ordering::SeqCst,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::Shared;
use super::cell::{Cell, CellId, ModelId};
use super::gcra::{Gcra, Rate};
use super::purse::Purse;
use crate::clock::{Hour, Monotonic};
use crate::id::AccountId;
use crate::local::counters::{AccountCounters, RowId, Totals};
use crate::policy::Policy;
use crate::refusal::Reason;
use crate::usage::Tally;

/// What every call reads or changes. 64 bytes on one cache line: cache misses are most of what a decision costs.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Hot {
    purse: Purse,
    /// In running time: from then on the lease must not be used.
    lease_until: AtomicU64,
    rate: Gcra,
    /// Nanoseconds between calls; 0 is no limit.
    rate_interval: AtomicU64,
    /// While the running time is below it, asking the store for more is known to be useless.
    dry_until: AtomicU64,
    rate_burst: AtomicU32,
    in_flight: AtomicU32,
    /// 0 is no limit.
    concurrency: AtomicU32,
    /// 0 is good standing; else the index of a [`Reason`] plus one.
    standing: AtomicU8,
    /// Whether a hold that nobody settles is charged.
    charge_unsettled: AtomicBool,
    /// Whether an account with nothing left is refused also what costs nothing.
    needs_something: AtomicBool,
    /// Whether the account waits in the engine's list of accounts to publish.
    dirty: AtomicBool,
    /// Taken out of the table; whoever still has it looks the account up again.
    retired: AtomicBool,
}

/// One account.
#[derive(Debug)]
pub struct Account {
    hot: Hot,
    counters: AccountCounters,
    rules: ArcSwap<Rules>,
    cells: Mutex<Cells>,
    /// Calls whose hold is over and whose charge may still come.
    awaited: AtomicU32,
    shared: Arc<Shared>,
}

/// What an account's calls go by, beyond the words above. Replaced whole when the book or the policy changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The unit it pays in.
    pub unit: String,
    /// Its policy, with its own overrides.
    pub policy: Policy,
    /// Why all its calls are refused, if they are.
    pub standing: Option<Reason>,
}

#[derive(Debug, Default)]
struct Cells {
    all: HashMap<CellId, Arc<Cell>>,
    dirty: Vec<Arc<Cell>>,
    /// Cells before this hour were let go of. If the clock is set back, calls count into this hour: a cell begun anew would
    /// overwrite what was published.
    since: Hour,
}

impl Account {
    pub(super) fn new(
        counters: AccountCounters,
        rules: Rules,
        shared: Arc<Shared>,
        cells: Vec<Arc<Cell>>,
    ) -> Self {
        let cells = Cells {
            all: cells.into_iter().map(|cell| (cell.id(), cell)).collect(),
            ..Cells::default()
        };
        let account = Self {
            hot: Hot::default(),
            counters,
            rules: ArcSwap::new(shared.rules(rules.clone())),
            cells: Mutex::new(cells),
            awaited: AtomicU32::new(0),
            shared,
        };
        account.follow(rules);
        account
    }

    /// Its name.
    pub const fn id(&self) -> &AccountId {
        self.counters.account()
    }

    /// What its sync keeps of it.
    pub fn totals(&self) -> &Totals {
        self.counters.totals()
    }

    /// The store has this much of a row, whether its cell is still here or not.
    pub fn acknowledge(&self, row: &RowId, tally: &Tally) {
        self.counters.acknowledge(row, tally);
    }

    /// Every cell that is here, in no order.
    pub fn cells(&self) -> Vec<Arc<Cell>> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.all.values().map(Arc::clone).collect()
    }

    /// What its calls go by.
    pub fn rules(&self) -> arc_swap::Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// What its calls spend from.
    pub const fn purse(&self) -> &Purse {
        &self.hot.purse
    }

    /// Takes up changed rules. Calls in flight end by the ones they began with.
    pub(crate) fn follow(&self, rules: Rules) {
        let policy = &rules.policy;
        let rate = policy
            .qps
            .map(|qps| Rate::per_second(qps, policy.effective_burst()));
        let (interval, burst) = rate.map_or((0, 0), Rate::parts);
        // Two words that are read apart: between the two stores a call may see the new interval with the old burst, which is a
        // limit between the two limits or shorter than a call.
        self.hot.rate_interval.store(interval, Relaxed);
        self.hot.rate_burst.store(burst, Relaxed);
        self.hot
            .concurrency
            .store(policy.concurrency.unwrap_or(0), Relaxed);
        let needs_something = policy.block_when == crate::policy::BlockWhen::ZeroOrLess;
        self.hot.needs_something.store(needs_something, Relaxed);
        let charge = policy.unsettled == crate::policy::Unsettled::Charge;
        self.hot.charge_unsettled.store(charge, Relaxed);
        let standing = rules
            .standing
            .map_or(0, |reason| reason.index().saturating_add(1));
        self.hot
            .standing
            .store(u8::try_from(standing).unwrap_or(u8::MAX), Relaxed);
        self.rules.store(self.shared.rules(rules));
    }

    pub(super) fn standing(&self) -> Option<Reason> {
        let index = usize::from(self.hot.standing.load(Relaxed));
        Reason::ALL.get(index.checked_sub(1)?).copied()
    }

    /// The rate that applies, if any.
    pub(super) fn rate(&self) -> Option<Rate> {
        Rate::from_parts(
            self.hot.rate_interval.load(Relaxed),
            self.hot.rate_burst.load(Relaxed),
        )
    }

    /// The rate that applies, with how many calls would pass now and how long until the whole burst would.
    pub fn rate_view(&self, now: Monotonic) -> Option<(Rate, u32, std::time::Duration)> {
        let rate = self.rate()?;
        let (calls, reset) = self.hot.rate.view(rate, now);
        Some((rate, calls, reset))
    }

    pub(super) const fn gcra(&self) -> &Gcra {
        &self.hot.rate
    }

    /// Counts a call in, if there is room. Whoever is in looks at [`Account::retired`] next: either it sees that the account is
    /// let go of, or [`Account::try_retire`] sees the call.
    pub(super) fn enter(&self) -> Result<(), ()> {
        let limit = match self.hot.concurrency.load(Relaxed) {
            0 => u32::MAX,
            limit => limit,
        };
        let enter = |n: u32| if n < limit { n.checked_add(1) } else { None };
        self.hot
            .in_flight
            .fetch_update(SeqCst, Relaxed, enter)
            .map(|_| ())
            .map_err(|_| ())
    }

    /// Counts a call in, room or not.
    pub(super) fn enter_anyway(&self) {
        self.hot.in_flight.fetch_add(1, Relaxed);
    }

    /// Counts a call out. Whoever sees that it has left sees what it counted.
    pub(super) fn leave(&self) {
        self.hot.in_flight.fetch_sub(1, Release);
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.hot.in_flight.load(Relaxed)
    }

    pub(super) fn charges_unsettled(&self) -> bool {
        self.hot.charge_unsettled.load(Relaxed)
    }

    /// What all accounts of an engine share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn needs_something(&self) -> bool {
        self.hot.needs_something.load(Relaxed)
    }

    /// Whether the lease may be used.
    pub(super) fn leased(&self, now: Monotonic) -> bool {
        now.nanos() < self.hot.lease_until.load(Relaxed)
    }

    /// The lease may be used until then, and not after.
    pub fn lease_until(&self, until: Monotonic) {
        self.hot.lease_until.store(until.nanos(), Relaxed);
    }

    /// Whether asking for more is known to be useless for now.
    pub(super) fn dry(&self, now: Monotonic) -> bool {
        now.nanos() < self.hot.dry_until.load(Relaxed)
    }

    /// Asking for more is useless until then; zero forgets that.
    pub(crate) fn dry_until(&self, until: Monotonic) {
        self.hot.dry_until.store(until.nanos(), Relaxed);
    }

    /// Whether the engine has let it go: look it up again.
    pub fn retired(&self) -> bool {
        self.hot.retired.load(SeqCst)
    }

    /// Lets no more calls in, if none is in flight or awaited. All that was spent is then in the cells.
    pub(crate) fn try_retire(&self) -> bool {
        self.hot.retired.store(true, SeqCst);
        // In this order: a call is awaited from before it leaves until its charge is counted.
        let quiet = self.hot.in_flight.load(SeqCst) == 0 && self.awaited.load(SeqCst) == 0;
        if !quiet {
            self.stay();
        }
        quiet
    }

    /// It is not let go of after all.
    pub(crate) fn stay(&self) {
        self.hot.retired.store(false, SeqCst);
    }

    pub(super) fn expect_charge(&self) {
        self.awaited.fetch_add(1, SeqCst);
    }

    pub(super) fn expect_no_charge(&self) {
        self.awaited.fetch_sub(1, Release);
    }

    pub(super) fn retire(&self) {
        self.hot.retired.store(true, SeqCst);
        self.lease_until(Monotonic::default());
    }

    /// The cell of a key, model and hour; made if there is none yet. One account has at most keys × models × the hours that
    /// [`Account::forget_before`] leaves, and models are bounded by [`super::MODELS_MAX`].
    pub(super) fn cell(&self, mut id: CellId) -> Arc<Cell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        id.hour = id.hour.max(cells.since);
        if let Some(cell) = cells.all.get(&id) {
            return Arc::clone(cell);
        }
        let model = self.shared.model_name(id.model);
        let slot = self.counters.slot(&id.key, model.as_ref(), id.hour);
        // A later one, if that hour was closed meanwhile.
        id.hour = slot.row().hour;
        let (model, hour) = (id.model, id.hour);
        let fresh = || Arc::new(Cell::new(model, hour, slot));
        Arc::clone(cells.all.entry(id).or_insert_with(fresh))
    }

    /// Queues a cell for publishing, and the account with it.
    pub(super) fn queue(self: &Arc<Self>, cell: Arc<Cell>) {
        self.cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dirty
            .push(cell);
        if !self.hot.dirty.swap(true, Relaxed) {
            self.shared.enqueue(Arc::clone(self));
        }
    }

    /// The cells that changed since the last time.
    pub(crate) fn take_dirty(&self) -> Vec<Arc<Cell>> {
        // The flag first: a cell that is queued after this raises it again, and one queued before is taken now.
        self.hot.dirty.store(false, Relaxed);
        std::mem::take(
            &mut self
                .cells
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .dirty,
        )
    }

    /// Lets go of cells of earlier hours that no call in flight counts into. Returns which. Their slots stay where they are.
    pub(crate) fn forget_before(&self, hour: Hour) -> Vec<CellId> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let Cells { all, dirty, since } = &mut *cells;
        *since = hour.max(*since);
        let waits = |cell: &Arc<Cell>| dirty.iter().any(|other| Arc::ptr_eq(other, cell));
        let over = |id: &CellId, cell: &Arc<Cell>| {
            id.hour < hour && Arc::strong_count(cell) == 1 && !waits(cell)
        };
        let gone: Vec<CellId> = all
            .iter()
            .filter(|(id, cell)| over(id, cell))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            all.remove(id);
        }
        gone
    }
}

/// The cell that a key's last call counted into: the next one most often counts into the same.
#[derive(Debug, Default)]
pub(super) struct LastCell(ArcSwapOption<Cell>);

impl LastCell {
    /// Does something with the cell of a model and hour, from here or from the account.
    pub(super) fn with<T>(
        &self,
        key: &super::Key,
        model: ModelId,
        hour: Hour,
        act: impl FnOnce(&Arc<Cell>) -> T,
    ) -> T {
        if let Some(cell) = self.0.load().as_ref()
            && cell.is_for(model, hour)
        {
            return act(cell);
        }
        let cell = key.account().cell(CellId {
            hour,
            key: key.id().clone(),
            model,
        });
        self.0.store(Some(Arc::clone(&cell)));
        act(&cell)
    }
}
