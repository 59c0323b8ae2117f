//! Every metric: what counts it, under which name it is told. One [`Metrics`] belongs to one running tollgate and is handed to
//! whoever counts; there is no global registry, so that several can run in one process.
//!
//! Counting takes no lock and looks nothing up. What is counted on every call lies in the calling thread's own stripe.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::labels::{
    Drained, Label, LoadEnd, Refill, StatusClass, StoreOp, SyncEnd, UpstreamError, WayOut,
};
use super::render::Page;
use super::stripes::{Count, Histogram, Striped};
use crate::money::Amount;
use crate::refusal::Reason;
use crate::usage::Certainty;

/// How many units are told apart. Accounts in others are told under [`UnitId::OTHER`]: units are chosen by whoever opens
/// accounts, so without a bound they would be a way to fill the memory of this process and of Prometheus.
const UNITS_MAX: usize = 16;

/// One decision of so many has its time taken: a second reading of the clock costs 30 ns of a decision's few hundred. A power of
/// two.
const TIMED_ONE_IN: u64 = 16;

/// The certainties, in the order they are counted in.
const CERTAINTIES: [Certainty; 3] = [Certainty::Exact, Certainty::Estimated, Certainty::None];

/// The counters of one tollgate. Cheap to share; every method may be called from any thread.
#[derive(Debug)]
pub struct Metrics {
    calls: Striped<CallCounts>,
    units: RwLock<Vec<String>>,
    overshoot_seen: [AtomicU64; UNITS_MAX],
    unknown_key_hits: Striped<Count>,
    holds_refused: Count,
    loads: [Count; LoadEnd::COUNT],
    refills: [Count; Refill::COUNT],
    refill_time: Histogram,
    syncs: [Count; SyncEnd::COUNT],
    sync_time: Histogram,
    sync_restarts: Count,
    store_errors: [Count; StoreOp::COUNT],
    events: Count,
    drains: [Count; Drained::COUNT],
    drains_open: AtomicI64,
    connections: Count,
    connections_open: AtomicI64,
    routes: BTreeMap<String, Arc<RouteMetrics>>,
    upstreams: BTreeMap<String, Arc<UpstreamMetrics>>,
}

/// What every call counts: one thread's share.
#[derive(Debug, Default)]
struct CallCounts {
    admitted: Count,
    refused: [Count; Reason::COUNT],
    decision_time: Histogram,
    timed: Count,
    charges: [[Count; WayOut::COUNT]; CERTAINTIES.len()],
    /// In nano-units. Wraps after 18 thousand million units, which Prometheus takes for a restart.
    spent: [Count; UNITS_MAX],
}

/// Which unit an amount is in. Got once per account from [`Metrics::unit`], not per call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitId(u8);

impl UnitId {
    /// Units beyond the bound, all together.
    pub const OTHER: Self = Self(0);
}

/// One route's counters.
#[derive(Debug, Default)]
pub struct RouteMetrics(Striped<[Count; StatusClass::COUNT]>);

impl RouteMetrics {
    /// A request was answered, or given up by its client.
    pub fn request(&self, class: StatusClass) {
        if let Some(count) = self.0.mine().get(class.index()) {
            count.add(1);
        }
    }
}

/// One upstream's counters.
#[derive(Debug, Default)]
pub struct UpstreamMetrics([Count; UpstreamError::COUNT]);

impl UpstreamMetrics {
    /// Something went wrong with it.
    pub fn error(&self, error: UpstreamError) {
        bump(&self.0, error);
    }
}

/// What is not counted but read when somebody asks: the state of this replica now.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// How long ago the store last took everything; `None` if it never did.
    pub sync_age: Option<Duration>,
    /// Accounts whose spend the store has not seen yet.
    pub accounts_dirty: u64,
    /// Accounts in memory.
    pub accounts: u64,
    /// Calls and API holds that are open.
    pub holds_open: u64,
    /// Unknown keys that are remembered.
    pub unknown_keys: u64,
    /// Sums over the accounts of one unit.
    pub money: Vec<(UnitId, MoneyLevels)>,
}

/// Sums over the accounts of one unit, in nano-units: of many accounts at once they may lie beyond an [`Amount`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoneyLevels {
    /// Set aside for open calls.
    pub held: i128,
    /// Leased and neither held nor spent.
    pub lease: i128,
    /// Spent and not yet published.
    pub unpublished: i128,
    /// By how much open calls can take balances below their floors at most.
    pub overshoot_bound: i128,
}

impl Metrics {
    /// The counters for some routes and upstreams, by name, all at zero.
    pub fn new<'n>(
        routes: impl IntoIterator<Item = &'n str>,
        upstreams: impl IntoIterator<Item = &'n str>,
    ) -> Arc<Self> {
        let named = |name: &str| (name.to_owned(), Arc::default());
        Arc::new(Self {
            calls: Striped::default(),
            units: RwLock::new(vec!["other".into()]),
            overshoot_seen: Default::default(),
            unknown_key_hits: Striped::default(),
            holds_refused: Count::default(),
            loads: Default::default(),
            refills: Default::default(),
            refill_time: Histogram::default(),
            syncs: Default::default(),
            sync_time: Histogram::default(),
            sync_restarts: Count::default(),
            store_errors: Default::default(),
            events: Count::default(),
            drains: Default::default(),
            drains_open: AtomicI64::new(0),
            connections: Count::default(),
            connections_open: AtomicI64::new(0),
            routes: routes.into_iter().map(named).collect(),
            upstreams: upstreams
                .into_iter()
                .map(|name| (name.to_owned(), Arc::default()))
                .collect(),
        })
    }

    /// A call was admitted.
    pub fn admitted(&self) {
        self.calls.mine().admitted.add(1);
    }

    /// A call was refused.
    pub fn refused(&self, reason: Reason) {
        if let Some(count) = self.calls.mine().refused.get(reason.index()) {
            count.add(1);
        }
    }

    /// Whether this decision's time is to be taken and given to [`Metrics::decided_in`]: so of one in sixteen.
    pub fn times_this_decision(&self) -> bool {
        self.calls.mine().timed.every(TIMED_ONE_IN)
    }

    /// How long a decision took, from the key to the hold.
    pub fn decided_in(&self, took: Duration) {
        self.calls.mine().decision_time.record(took);
    }

    /// A call came to its charge.
    pub fn charged(&self, unit: UnitId, amount: Amount, certainty: Certainty, way: WayOut) {
        let mine = self.calls.mine();
        let place = match certainty {
            Certainty::Exact => 0,
            Certainty::Estimated => 1,
            Certainty::None => 2,
        };
        if let Some(ways) = mine.charges.get(place) {
            bump(ways, way);
        }
        if let (Some(spent), Ok(nanos)) = (
            mine.spent.get(usize::from(unit.0)),
            u64::try_from(amount.nanos()),
        ) {
            spent.add(nanos);
        }
    }

    /// The number of a unit, the same for the same name. Waits for a lock: for when an account is loaded.
    pub fn unit(&self, name: &str) -> UnitId {
        let place = |units: &[String]| units.iter().position(|unit| unit == name);
        let id = |place: usize| UnitId(u8::try_from(place).unwrap_or(0));
        // A panic elsewhere leaves a list of names whole.
        let known = place(&self.units.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(known) = known {
            return id(known);
        }
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
        match place(&units) {
            Some(known) => id(known),
            None if units.len() < UNITS_MAX => {
                units.push(name.into());
                id(units.len().saturating_sub(1))
            }
            None => UnitId::OTHER,
        }
    }

    /// A balance was seen below its floor by so much.
    pub fn overshot(&self, unit: UnitId, by: Amount) {
        let seen = self.overshoot_seen.get(usize::from(unit.0));
        if let (Some(seen), Ok(nanos)) = (seen, u64::try_from(by.nanos())) {
            seen.fetch_max(nanos, Relaxed);
        }
    }

    /// An unknown key was refused from memory.
    pub fn unknown_key_hit(&self) {
        self.unknown_key_hits.mine().add(1);
    }

    /// An API hold was refused because too many are open.
    pub fn hold_table_full(&self) {
        self.holds_refused.add(1);
    }

    /// An account was looked for in the store.
    pub fn loaded(&self, end: LoadEnd) {
        bump(&self.loads, end);
    }

    /// A call waited for its lease to be filled.
    pub fn refill_waited(&self, end: Refill, waited: Duration) {
        bump(&self.refills, end);
        self.refill_time.record(waited);
    }

    /// A round of publication is over.
    pub fn synced(&self, end: SyncEnd, took: Duration) {
        bump(&self.syncs, end);
        self.sync_time.record(took);
    }

    /// The sync task had died and was started again.
    pub fn sync_restarted(&self) {
        self.sync_restarts.add(1);
    }

    /// The store did not do something.
    pub fn store_error(&self, op: StoreOp) {
        bump(&self.store_errors, op);
    }

    /// Events were written to the feed.
    pub fn events(&self, count: u64) {
        self.events.add(count);
    }

    /// An answer is read on for a client that left. Call [`Metrics::drain_ended`] once.
    pub fn drain_began(&self) {
        self.drains_open.fetch_add(1, Relaxed);
    }

    /// It is over.
    pub fn drain_ended(&self, end: Drained) {
        self.drains_open.fetch_sub(1, Relaxed);
        bump(&self.drains, end);
    }

    /// A client connected. Call [`Metrics::connection_closed`] once.
    pub fn connection_opened(&self) {
        self.connections.add(1);
        self.connections_open.fetch_add(1, Relaxed);
    }

    /// It is gone.
    pub fn connection_closed(&self) {
        self.connections_open.fetch_sub(1, Relaxed);
    }

    /// A route's counters; `None` for one that was not named at the start.
    pub fn route(&self, name: &str) -> Option<Arc<RouteMetrics>> {
        self.routes.get(name).cloned()
    }

    /// An upstream's counters; `None` for one that was not named at the start.
    pub fn upstream(&self, name: &str) -> Option<Arc<UpstreamMetrics>> {
        self.upstreams.get(name).cloned()
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self, levels: &Levels) -> String {
        let mut page = Page::default();
        self.render_decisions(&mut page);
        self.render_money(&mut page, levels);
        self.render_replica(&mut page, levels);
        self.render_edges(&mut page);
        page.finish()
    }

    fn render_decisions(&self, page: &mut Page) {
        page.counter(
            "tollgate_decisions_total",
            "Calls decided on, by outcome: admitted, or the reason of the refusal.",
        );
        page.sample(
            &[("outcome", "admitted")],
            self.calls.sum(|calls| calls.admitted.get()),
        );
        for reason in Reason::ALL {
            let count = self.calls.sum(|calls| at(&calls.refused, reason.index()));
            page.sample(&[("outcome", reason.name())], count);
        }
        page.histogram(
            "tollgate_decision_seconds",
            "Time from the key to the hold or the refusal, of one decision in sixteen.",
            |bucket| self.calls.sum(|calls| calls.decision_time.bucket(bucket)),
            self.calls.sum(|calls| calls.decision_time.nanos()),
        );
        page.counter(
            "tollgate_unknown_key_hits_total",
            "Calls with an unknown key that were refused from memory.",
        );
        page.sample(&[], self.unknown_key_hits.sum(Count::get));
        page.counter(
            "tollgate_holds_table_full_total",
            "Holds through the API that were refused because too many were open.",
        );
        page.sample(&[], self.holds_refused.get());
    }

    fn render_money(&self, page: &mut Page, levels: &Levels) {
        page.counter(
            "tollgate_charges_total",
            "Settled calls, by how sure their usage is and how they ended.",
        );
        for (place, certainty) in CERTAINTIES.into_iter().enumerate() {
            for way in WayOut::ALL {
                let count = self.calls.sum(|calls| {
                    let ways = calls.charges.get(place);
                    ways.map_or(0, |ways| at(ways, way.index()))
                });
                page.sample(
                    &[("certainty", certainty.name()), ("end", way.name())],
                    count,
                );
            }
        }
        let units = self.units.read().unwrap_or_else(PoisonError::into_inner);
        page.counter(
            "tollgate_spent_units_total",
            "What calls were charged, in units of money.",
        );
        for (place, unit) in units.iter().enumerate() {
            let nanos = self.calls.sum(|calls| at(&calls.spent, place));
            page.nanos(&[("unit", unit)], nanos.into());
        }
        page.gauge(
            "tollgate_overshoot_seen_units",
            "The furthest that a balance was seen below its floor since the start, in units of money.",
        );
        for (place, unit) in units.iter().enumerate() {
            let nanos = self.overshoot_seen.get(place);
            let nanos = nanos.map_or(0, |nanos| nanos.load(Relaxed));
            page.nanos(&[("unit", unit)], nanos.into());
        }
        for (name, help, level) in MONEY_LEVELS {
            page.gauge(name, help);
            for (unit, money) in &levels.money {
                if let Some(unit) = units.get(usize::from(unit.0)) {
                    page.nanos(&[("unit", unit)], level(money));
                }
            }
        }
    }

    fn render_replica(&self, page: &mut Page, levels: &Levels) {
        // Without a sample until the store was reached: an age of zero would look healthy.
        page.gauge(
            "tollgate_sync_age_seconds",
            "How long ago the store last took everything that was to be published.",
        );
        if let Some(age) = levels.sync_age {
            page.nanos(&[], i128::try_from(age.as_nanos()).unwrap_or(i128::MAX));
        }
        for (name, help, level) in [
            ("tollgate_accounts", "Accounts in memory.", levels.accounts),
            (
                "tollgate_accounts_dirty",
                "Accounts whose spend the store has not seen yet.",
                levels.accounts_dirty,
            ),
            (
                "tollgate_holds_open",
                "Calls and API holds that are open.",
                levels.holds_open,
            ),
            (
                "tollgate_unknown_keys",
                "Unknown keys that are remembered.",
                levels.unknown_keys,
            ),
        ] {
            page.gauge(name, help);
            page.sample(&[], level);
        }
        page.family::<SyncEnd>(
            "tollgate_syncs_total",
            "Rounds of publication.",
            "result",
            &self.syncs,
        );
        page.plain_histogram(
            "tollgate_sync_seconds",
            "Time that a round of publication took.",
            &self.sync_time,
        );
        page.counter(
            "tollgate_sync_restarts_total",
            "Times the sync task died and was started again.",
        );
        page.sample(&[], self.sync_restarts.get());
        page.family::<StoreOp>(
            "tollgate_store_errors_total",
            "What the store was asked and did not do.",
            "op",
            &self.store_errors,
        );
        page.family::<LoadEnd>(
            "tollgate_loads_total",
            "Accounts looked for in the store.",
            "result",
            &self.loads,
        );
        page.family::<Refill>(
            "tollgate_refill_waits_total",
            "Calls that waited for an empty lease.",
            "result",
            &self.refills,
        );
        page.plain_histogram(
            "tollgate_refill_wait_seconds",
            "Time that calls waited for an empty lease.",
            &self.refill_time,
        );
        page.counter("tollgate_events_total", "Events written to the feed.");
        page.sample(&[], self.events.get());
    }

    fn render_edges(&self, page: &mut Page) {
        page.counter(
            "tollgate_requests_total",
            "Proxied requests, by route and class of the status.",
        );
        for (route, counts) in &self.routes {
            for class in StatusClass::ALL {
                let count = counts.0.sum(|counts| at(counts, class.index()));
                page.sample(&[("route", route), ("status", class.name())], count);
            }
        }
        page.counter(
            "tollgate_upstream_errors_total",
            "What went wrong with upstreams.",
        );
        for (upstream, counts) in &self.upstreams {
            for error in UpstreamError::ALL {
                let count = at(&counts.0, error.index());
                page.sample(&[("upstream", upstream), ("error", error.name())], count);
            }
        }
        page.family::<Drained>(
            "tollgate_drains_total",
            "Answers that were read on for clients that left.",
            "result",
            &self.drains,
        );
        for (name, help, open) in [
            (
                "tollgate_drains_open",
                "Answers being read on for clients that left.",
                &self.drains_open,
            ),
            (
                "tollgate_connections_open",
                "Client connections.",
                &self.connections_open,
            ),
        ] {
            page.gauge(name, help);
            page.sample(&[], open.load(Relaxed));
        }
        page.counter(
            "tollgate_connections_total",
            "Client connections since the start.",
        );
        page.sample(&[], self.connections.get());
    }
}

/// A gauge of money: its name, what it tells, where it stands.
type MoneyLevel = (&'static str, &'static str, fn(&MoneyLevels) -> i128);

const MONEY_LEVELS: [MoneyLevel; 4] = [
    (
        "tollgate_held_units",
        "Money set aside for open calls, in units of money.",
        |money| money.held,
    ),
    (
        "tollgate_lease_units",
        "Money leased from the store and neither held nor spent, in units of money.",
        |money| money.lease,
    ),
    (
        "tollgate_unpublished_units",
        "Spend that the store has not seen yet, in units of money.",
        |money| money.unpublished,
    ),
    (
        "tollgate_overshoot_bound_units",
        "By how much open calls can take balances below their floors at most, in units of money.",
        |money| money.overshoot_bound,
    ),
];

fn bump<L: Label>(counts: &[Count], label: L) {
    if let Some(count) = counts.get(label.index()) {
        count.add(1);
    }
}

fn at(counts: &[Count], place: usize) -> u64 {
    counts.get(place).map_or(0, Count::get)
}

#[cfg(test)]
mod tests;
