//! One account in memory: the words that every call touches on one cache line, and beside it what only changes and syncs touch.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;

use super::Shared;
use super::cell::{Cell, CellId, ModelId};
use super::gcra::{Earned, Gcra, Rate, TooSoon};
use super::places::{Full, Places};
use super::purse::Purse;
use super::rules::Rules;
use super::special::Inner;
use crate::clock::{Hour, Monotonic, Now, Timestamp};
use crate::id::AccountId;
use crate::local::counters::{AccountCounters, RowId, Totals, fetch_ahead};
use crate::money::Amount;
use crate::policy::Policy;
use crate::primitive::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Mutex};
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
    /// Nanoseconds between calls by this replica's share: [`UNLIMITED`], [`NO_SHARE`], or a share.
    rate_interval: AtomicU64,
    rate_tolerance: AtomicU64,
    /// While the running time is below it, asking the store for more is known to be useless.
    dry_until: AtomicU64,
    places: Places,
    /// Calls admitted under a rate limit, wrapping: what the demand is told from.
    admitted: AtomicU32,
    /// 0 is good standing; else the index of a [`Reason`] plus one.
    standing: AtomicU8,
    /// [`CHARGE_UNSETTLED`], [`NEEDS_SOMETHING`] and [`SPECIAL`].
    flags: AtomicU8,
    /// Whether the account waits in the engine's list of accounts to publish.
    dirty: AtomicBool,
    /// Taken out of the table; whoever still has it looks the account up again.
    retired: AtomicBool,
}

#[cfg(not(all(test, feature = "model")))]
const _: () = assert!(size_of::<Hot>() == 64, "one cache line");

/// A `rate_interval`: no limit.
const UNLIMITED: u64 = 0;

/// A `rate_interval`: a limit of which this replica has no share.
const NO_SHARE: u64 = u64::MAX;

/// How often a call takes again because the share was cut under it. A share moves at most once in some milliseconds.
const TAKES_MAX: u32 = 3;

/// A flag: a hold that nobody settles is charged.
const CHARGE_UNSETTLED: u8 = 1;

/// A flag: an account with nothing left is refused also what costs nothing.
const NEEDS_SOMETHING: u8 = 2;

/// A flag: its calls are judged by [`Rules::special`] too.
const SPECIAL: u8 = 4;

/// What only special calls and the sync touch.
#[derive(Debug, Default)]
struct Turned {
    /// Which leases these are. A lease that ends at an instant of the day is given back whole; what calls held of it and give back
    /// later is not given to the next one.
    epoch: AtomicU32,
    /// What calls of earlier epochs gave back, in nano-units: to be taken off the ceiling.
    stale: AtomicI64,
    /// Which outage of the store this is, or was.
    outage: AtomicU32,
    /// What was taken beyond the lease in it, in nano-units.
    beyond: AtomicI64,
    /// Rules are changed by one at a time: by the sync, or by a call that finds that an instant has come.
    changing: Mutex<()>,
}

/// What only calls under a limit touch, and only when it is reached or counted.
#[derive(Debug, Default)]
struct Sought {
    /// In running time: before, asking for more of a limit is known to be useless.
    asked_until: AtomicU64,
    /// Calls refused for the rate, wrapping.
    rate_refused: AtomicU32,
    /// Calls refused for concurrency, wrapping.
    places_refused: AtomicU32,
    /// The most calls in flight since it was last asked.
    peak: AtomicU32,
}

/// What callers asked of an account's limits, counted since its loading (wrapping) or, the peak, since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Calls that came under the rate limit, admitted or refused.
    pub calls: u32,
    /// Those refused for the rate.
    pub rate_refused: u32,
    /// Calls refused for concurrency.
    pub places_refused: u32,
    /// The most calls in flight.
    pub peak: u32,
}

/// The accounts inside an account, as far as they are loaded.
#[derive(Debug, Default)]
struct Inners {
    loaded: DashMap<AccountId, Arc<Inner>, foldhash::fast::RandomState>,
    /// Those that there are not, as was found; until when that is not looked at again, in running time.
    absent: DashMap<AccountId, Monotonic, foldhash::fast::RandomState>,
}

/// One account.
#[derive(Debug)]
pub struct Account {
    hot: Hot,
    sought: Sought,
    turned: Turned,
    /// The accounts inside it, if it has any.
    inners: OnceLock<Box<Inners>>,
    counters: AccountCounters,
    rules: ArcSwap<Rules>,
    cells: Mutex<Cells>,
    /// Calls whose hold is over and whose charge may still come.
    awaited: AtomicU32,
    shared: Arc<Shared>,
}

/// The rate limit of a policy, not shared.
fn whole(policy: &Policy) -> Option<Rate> {
    let burst = policy.effective_burst();
    policy.qps.map(|qps| Rate::per_second(qps, burst))
}

/// The same part of a limit as `share` was of the limit `before`, if that was higher; the share itself, if not.
pub(crate) fn part_of(share: u64, before: u64, limit: u64) -> u64 {
    if before <= limit {
        return share.min(limit);
    }
    let product = u128::from(share).saturating_mul(limit.into());
    let part = product.checked_div(before.into()).unwrap_or(0);
    u64::try_from(part).unwrap_or(limit).min(limit)
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
            sought: Sought::default(),
            turned: Turned::default(),
            inners: OnceLock::new(),
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
        let _alone = self.changing();
        self.go_by(rules);
    }

    fn changing(&self) -> impl Drop + '_ {
        let changing = &self.turned.changing;
        changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_by(&self, rules: Rules) {
        let policy = &rules.policy;
        let whole = whole(policy);
        let limited = self.hot.rate_interval.load(Relaxed) != UNLIMITED;
        match whole {
            None => self.hot.rate_interval.store(UNLIMITED, Relaxed),
            Some(whole) => {
                // A share of the limit before is cut to the new one by whoever knows it: the sync, in its next step.
                self.hot.rate_tolerance.store(whole.parts().1, Relaxed);
                if !limited {
                    self.hot.rate_interval.store(NO_SHARE, Relaxed);
                }
            }
        }
        self.hot.places.limit(policy.concurrency.is_some());
        let mut flags = 0;
        if policy.block_when == crate::policy::BlockWhen::ZeroOrLess {
            flags |= NEEDS_SOMETHING;
        }
        if policy.unsettled == crate::policy::Unsettled::Charge {
            flags |= CHARGE_UNSETTLED;
        }
        if rules.special.is_some() {
            flags |= SPECIAL;
        }
        self.hot.flags.store(flags, Relaxed);
        // One that changes by itself is special, and then this is not looked at.
        let standing = rules
            .standing
            .at(Timestamp::default())
            .map_or(0, |reason| reason.index().saturating_add(1));
        self.hot
            .standing
            .store(u8::try_from(standing).unwrap_or(u8::MAX), Relaxed);
        self.rules.store(self.shared.rules(rules));
    }

    /// Takes up the rate that holds at an instant, if it is another than until then: by the call that finds so, without the store. Of a
    /// lower one this replica has the same part as of the one before, so that all replicas together have no more than it.
    pub fn turn(&self, now: Now) {
        if self.rules().turned(now.wall).is_none() {
            return;
        }
        let _alone = self.changing();
        let rules = self.rules();
        let Some(turned) = rules.turned(now.wall) else {
            return;
        };
        let (before, limit) = (rules.policy.rate_limit(), turned.policy.rate_limit());
        let share = self.shares().0;
        self.go_by(turned);
        if let Some(share) = share
            && limit > 0
        {
            self.share_rate(part_of(share, before, limit), Earned::default(), now.mono);
        }
    }

    /// Whether its calls are judged by more than its first cache line.
    pub(super) fn is_special(&self) -> bool {
        self.flag(SPECIAL)
    }

    /// Whether what is leased may be used by a call of this time.
    pub(super) fn usable(&self, now: Now) -> bool {
        self.leased(now.mono) && !(self.is_special() && self.rules().lease_over(now.wall))
    }

    /// Whether what was leased ended at an instant that has come: let the ledger look before more is leased.
    pub(crate) fn lease_over(&self, now: Now) -> bool {
        self.is_special() && self.rules().lease_over(now.wall)
    }

    /// Which leases these are.
    pub(super) fn epoch(&self) -> u32 {
        // Acquire: who sees a new epoch sees what was given back before it began.
        self.turned.epoch.load(Acquire)
    }

    /// Other leases from now on: those before were given back.
    pub(crate) fn next_epoch(&self) {
        self.turned.epoch.fetch_add(1, Release);
    }

    /// What calls of earlier epochs gave back since the last time.
    pub(crate) fn take_stale(&self) -> Amount {
        Amount::from_nanos(self.turned.stale.swap(0, Relaxed))
    }

    /// Takes out of the purse what is not there, if no more than `most` was taken so in this outage of the store. Returns which outage
    /// that is.
    pub(super) fn take_beyond(&self, amount: Amount, most: Amount) -> Option<u32> {
        let outage = self.turned.outage.load(Acquire);
        let take = |taken: i64| {
            let next = taken.checked_add(amount.nanos())?;
            (next <= most.nanos()).then_some(next)
        };
        self.turned
            .beyond
            .fetch_update(Relaxed, Relaxed, take)
            .ok()?;
        self.hot.purse.settle(Amount::ZERO, amount);
        Some(outage)
    }

    /// The store is back, and knows what was spent meanwhile.
    pub(crate) fn end_outage(&self) {
        if self.turned.beyond.load(Relaxed) != 0 {
            self.turned.outage.fetch_add(1, Release);
            self.turned.beyond.store(0, Relaxed);
        }
    }

    /// What was taken beyond the lease in this outage of the store.
    pub fn beyond(&self) -> Amount {
        Amount::from_nanos(self.turned.beyond.load(Relaxed))
    }

    /// Ends what was held, in an epoch, and beyond the lease or not.
    pub(super) fn end_hold(
        &self,
        hold: Amount,
        actual: Amount,
        epoch: Option<u32>,
        beyond: Option<u32>,
    ) {
        let back = hold.saturating_sub(actual);
        if beyond.is_some_and(|outage| outage == self.turned.outage.load(Acquire)) {
            self.turned.beyond.fetch_sub(back.nanos(), Relaxed);
        }
        if self.is_stale(epoch) && back.is_positive() {
            self.turned.stale.fetch_add(back.nanos(), Relaxed);
        } else {
            self.hot.purse.settle(hold, actual);
        }
    }

    /// Ends what was held with as much of a cost as was held and is there beside it. Returns how much that is.
    pub(super) fn end_hold_up_to(&self, hold: Amount, most: Amount, epoch: Option<u32>) -> Amount {
        if !self.is_stale(epoch) {
            return self.hot.purse.settle_up_to(hold, most);
        }
        let paid = most.min(hold).or_zero();
        let back = hold.saturating_sub(paid);
        self.turned.stale.fetch_add(back.nanos(), Relaxed);
        paid
    }

    fn is_stale(&self, epoch: Option<u32>) -> bool {
        epoch.is_some_and(|epoch| epoch != self.epoch())
    }

    /// An account inside it that is loaded.
    pub(crate) fn inner(&self, id: &AccountId) -> Option<Arc<Inner>> {
        let inner = self.inners.get()?.loaded.get(id)?;
        (!inner.account().retired()).then(|| Arc::clone(&inner))
    }

    /// Takes up an account inside it that was loaded; the one that is there, if it is that.
    pub(crate) fn put_inner(&self, account: &Arc<Self>) -> Arc<Inner> {
        let inners = self.inners.get_or_init(Box::default);
        inners.absent.remove(account.id());
        let inners = &inners.loaded;
        let mut place = inners
            .entry(account.id().clone())
            .or_insert_with(|| Inner::new(Arc::clone(account)));
        if !Arc::ptr_eq(place.account(), account) {
            *place = Inner::new(Arc::clone(account));
        }
        Arc::clone(&place)
    }

    /// An account inside it is gone for good. Calls in flight there end as they would have.
    pub(crate) fn drop_inner(&self, id: &AccountId) {
        if let Some(inners) = self.inners.get() {
            inners.loaded.remove(id);
        }
    }

    /// There is no such account inside it, as was found just now.
    pub(crate) fn no_inner(&self, id: &AccountId, until: Monotonic) {
        let inners = self.inners.get_or_init(Box::default);
        inners.absent.insert(id.clone(), until);
    }

    /// Whether it was found not long ago that there is no such account inside it.
    pub(crate) fn lacks_inner(&self, id: &AccountId, now: Monotonic) -> bool {
        let inners = self.inners.get();
        inners.is_some_and(|inners| inners.absent.get(id).is_some_and(|until| now < *until))
    }

    pub(super) fn standing(&self) -> Option<Reason> {
        let index = usize::from(self.hot.standing.load(Relaxed));
        Reason::ALL.get(index.checked_sub(1)?).copied()
    }

    /// This replica's share of the rate limit: `Ok(None)` if there is no limit, `Err` if there is one and no share of it.
    pub(super) fn rate(&self) -> Result<Option<Rate>, ()> {
        // Acquire: a larger share that is seen here was paid for.
        match self.hot.rate_interval.load(Acquire) {
            UNLIMITED => Ok(None),
            NO_SHARE => Err(()),
            interval => {
                let tolerance = self.hot.rate_tolerance.load(Relaxed);
                // The two words are read apart; a share always has room for one call.
                Ok(Some(Rate::from_parts(interval, tolerance.max(interval))))
            }
        }
    }

    /// The shares that are in force here: of the rate, in thousandths of a call per second, and of the calls in flight; `None` is no
    /// limit.
    pub fn shares(&self) -> (Option<u64>, Option<u64>) {
        let rate = match self.rate() {
            Ok(None) => None,
            Ok(Some(rate)) => Some(rate.milli()),
            Err(()) => Some(0),
        };
        (rate, self.hot.places.limited_to())
    }

    /// How many calls this replica would admit now by its share of the rate, and how long until its whole burst would pass; `None`
    /// if there is no limit.
    pub fn rate_view(&self, now: Monotonic) -> Option<(u32, Duration)> {
        match self.rate() {
            Ok(None) => None,
            Ok(Some(rate)) => Some(self.hot.rate.view(rate, now)),
            Err(()) => Some((0, Duration::ZERO)),
        }
    }

    /// Takes one call's worth of this replica's share of the rate. Returns what it was taken by; `None` if there is no limit. `Err` is
    /// how long to wait, if there is a share to wait for.
    ///
    /// The share may be cut between the look at it and the taking. Who took after that, by the old price, sees the new one now and
    /// pays that too: when a share is cut fewer calls may pass, never more.
    pub(super) fn take_rate(&self, now: Monotonic) -> Result<Option<Rate>, Option<TooSoon>> {
        for _ in 0..TAKES_MAX {
            let Some(rate) = self.rate().map_err(|()| None)? else {
                return Ok(None);
            };
            self.hot.rate.take(rate, now).map_err(Some)?;
            if self.hot.rate_interval.load(Relaxed) <= rate.parts().0 {
                return Ok(Some(rate));
            }
        }
        Err(None)
    }

    /// Gives back what a call took that a later check refused: by the lower price, if the share has moved meanwhile.
    pub(super) fn give_rate_back(&self, taken: Rate) {
        let now = self.rate().ok().flatten();
        let cheaper = now.filter(|now| now.parts().0 < taken.parts().0);
        self.hot.rate.give_back(cheaper.unwrap_or(taken));
    }

    /// Goes on under another share of the rate limit, in thousandths of a call per second, with what it earned before anybody had it.
    pub fn share_rate(&self, milli: u64, earned: Earned, now: Monotonic) {
        let (Some(whole), Ok(old)) = (
            whole(&self.rules().policy),
            self.rate().or(Ok::<_, ()>(None)),
        ) else {
            return;
        };
        let Some(new) = Rate::share(whole, milli) else {
            self.hot.rate_interval.store(NO_SHARE, Relaxed);
            return;
        };
        let (interval, tolerance) = new.parts();
        // A larger share is paid for before it is used, a smaller one used before it is paid for: a call that comes between finds
        // fewer calls, never more.
        let grows = old.is_none_or(|old| old.parts().0 > interval);
        if !grows {
            self.hot.rate_interval.store(interval, Relaxed);
        }
        self.hot.rate.reshare(old, new, earned, now);
        self.hot.rate_tolerance.store(tolerance, Relaxed);
        self.hot.rate_interval.store(interval, Release);
    }

    /// Goes on under another share of the calls in flight. Returns how many places are taken: never fewer than calls are in flight, which
    /// keep theirs; but none comes in until there are fewer than the share.
    pub fn share_places(&self, share: u64) -> u64 {
        self.hot.places.share(share)
    }

    /// Takes the whole of its limits: for who is alone, without a store to share them through.
    pub fn share_all(&self, now: Monotonic) {
        let (rate, places) = {
            let policy = &self.rules().policy;
            (policy.rate_limit(), policy.places_limit())
        };
        if rate > 0 {
            let earned = Earned {
                milli: rate,
                rested_nanos: u64::MAX,
            };
            self.share_rate(rate, earned, now);
        }
        if places > 0 {
            self.share_places(places);
        }
        self.asked_until(Monotonic::from_nanos(u64::MAX));
    }

    /// What callers asked of its limits. Takes the peak.
    pub(crate) fn asked(&self) -> Asked {
        let refused = self.sought.rate_refused.load(Relaxed);
        let in_flight = self.in_flight();
        Asked {
            calls: self.hot.admitted.load(Relaxed).wrapping_add(refused),
            rate_refused: refused,
            places_refused: self.sought.places_refused.load(Relaxed),
            peak: self.sought.peak.swap(in_flight, Relaxed).max(in_flight),
        }
    }

    /// Asking for more of a limit is useless until then.
    pub(crate) fn asked_until(&self, until: Monotonic) {
        self.sought.asked_until.store(until.nanos(), Relaxed);
    }

    /// Whether asking the store may bring more of a limit.
    pub(super) fn may_ask(&self, now: Monotonic) -> bool {
        now.nanos() >= self.sought.asked_until.load(Relaxed)
    }

    /// A call was admitted under the rate limit.
    pub(super) fn count_rated(self: &Arc<Self>) {
        self.hot.admitted.fetch_add(1, Relaxed);
        self.announce();
    }

    /// A call was refused for the rate.
    pub(super) fn count_rate_refused(self: &Arc<Self>) {
        self.sought.rate_refused.fetch_add(1, Relaxed);
        self.announce();
    }

    /// There is something to tell the store: what was spent, or what callers ask of a limit.
    fn announce(self: &Arc<Self>) {
        if !self.hot.dirty.load(Relaxed) && !self.hot.dirty.swap(true, Relaxed) {
            self.shared.enqueue(Arc::clone(self));
        }
    }

    /// Counts a call in, if there is room. Whoever is in looks at [`Account::retired`] next: either it sees that the account is
    /// let go of, or [`Account::try_retire`] sees the call.
    pub(super) fn enter(&self) -> Result<(), Full> {
        let entered = self.hot.places.enter();
        match entered {
            Ok(None) => {}
            Ok(Some(n)) => {
                self.sought.peak.fetch_max(n, Relaxed);
            }
            Err(Full) => {
                self.sought.places_refused.fetch_add(1, Relaxed);
            }
        }
        entered.map(drop)
    }

    /// Counts a call in, room or not.
    pub(super) fn enter_anyway(&self) {
        self.hot.places.enter_anyway();
    }

    /// Counts a call out. Whoever sees that it has left sees what it counted.
    pub(super) fn leave(&self) {
        self.hot.places.leave();
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.hot.places.in_flight()
    }

    fn flag(&self, flag: u8) -> bool {
        self.hot.flags.load(Relaxed) & flag != 0
    }

    pub(super) fn charges_unsettled(&self) -> bool {
        self.flag(CHARGE_UNSETTLED)
    }

    /// What all accounts of an engine share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn needs_something(&self) -> bool {
        self.flag(NEEDS_SOMETHING)
    }

    /// Whether the lease may be used.
    pub(crate) fn leased(&self, now: Monotonic) -> bool {
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
    pub fn dry_until(&self, until: Monotonic) {
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
        let quiet = self.hot.places.is_empty() && self.awaited.load(SeqCst) == 0;
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
        self.announce();
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
    pub fn forget_before(&self, hour: Hour) -> Vec<CellId> {
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
pub(super) struct LastCell {
    cell: ArcSwapOption<Cell>,
    /// Where that cell counts. The cell itself says it too, but to ask the cell takes a look at its cache line: a call is to wait
    /// for the two at once, and not for one after the other.
    counts_at: AtomicUsize,
}

impl LastCell {
    /// A call is about to count: what it will touch is fetched while it does something else.
    pub(super) fn fetch_ahead(&self) {
        fetch_ahead(self.counts_at.load(Relaxed));
    }

    /// Does something with the cell of a model and hour, from here or from the account.
    pub(super) fn with<T>(
        &self,
        key: &super::Key,
        model: ModelId,
        hour: Hour,
        act: impl FnOnce(&Arc<Cell>) -> T,
    ) -> T {
        if let Some(cell) = self.cell.load().as_ref()
            && cell.is_for(model, hour)
        {
            return act(cell);
        }
        let cell = key.account().cell(CellId {
            hour,
            key: key.id().clone(),
            model,
        });
        self.counts_at.store(cell.address(), Relaxed);
        self.cell.store(Some(Arc::clone(&cell)));
        act(&cell)
    }
}
