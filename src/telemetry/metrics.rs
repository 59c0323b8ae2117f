//! Every metric: what counts it, under which name it is told. One [`Metrics`] belongs to one running tollgate and is handed to
//! whoever counts; nothing is registered globally, so that several can run in one process.
//!
//! Every series is registered at the start and counted by its handle: counting takes no lock and looks nothing up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::labels::{Drained, Label, LicenceOutcome, Passage, StatusClass, StoreOp, UpstreamError};
use super::registry::{Named, Registry, count, units};
use super::webhooks::WebhookMetrics;
use crate::gate::{Charge, End};
use crate::money::Amount;
use crate::refusal::Reason;
use crate::usage::Certainty;

/// The certainties, in the order they are counted in.
const CERTAINTIES: [Certainty; 3] = [Certainty::Exact, Certainty::Estimated, Certainty::None];

const SYNC_AGE: Named = (
    "tollgate_sync_age_seconds",
    "How long ago the store last answered.",
);

/// The counters of one tollgate. Cheap to clone, and all clones count as one; every method may be called from any thread.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Handles>);

#[derive(Debug)]
struct Handles {
    calls: CallHandles,
    store: StoreHandles,
    edges: EdgeHandles,
    levels: LevelHandles,
    routes: BTreeMap<String, Arc<RouteMetrics>>,
    upstreams: BTreeMap<String, Arc<UpstreamMetrics>>,
    registry: Registry,
}

/// What calls count.
#[derive(Debug)]
struct CallHandles {
    admitted: Counter,
    refused: Box<[Counter]>,
    decision_time: Histogram,
    unknown_key_hits: Counter,
    abandoned: Counter,
    would_refuse: Box<[Counter]>,
    licences: Box<[Counter]>,
    licences_uncounted: Counter,
    /// By certainty, then by end.
    charges: [Box<[Counter]>; CERTAINTIES.len()],
    /// In nano-units: the registry's counters are whole numbers and its gauges floats, so money is summed here and only told
    /// there. Wraps after 18 thousand million units, which Prometheus takes for a restart.
    spent: AtomicU64,
    spent_told: Gauge,
}

#[derive(Debug)]
struct StoreHandles {
    errors: Box<[Counter]>,
    time: Box<[Histogram]>,
    events: Counter,
}

#[derive(Debug)]
struct EdgeHandles {
    drains: Box<[Counter]>,
    drains_open: Gauge,
    connections: Counter,
    connections_open: Gauge,
    passages: Box<[Counter]>,
}

/// What is set when somebody asks, from [`Levels`].
#[derive(Debug)]
struct LevelHandles {
    sync_failing: Gauge,
    sync_errors: Counter,
    refill_waits: Counter,
    healed: Counter,
    restored: Counter,
    lapsed: Counter,
    retired: Counter,
    unremembered: Counter,
    fenced: Gauge,
    lost: Gauge,
    stalest: Gauge,
    beyond: Gauge,
    beyond_bound: Gauge,
    unprotected: Gauge,
    exposure: Gauge,
    accounts: Gauge,
    holds_open: Gauge,
    held: Gauge,
    leased: Gauge,
    overshoot_bound: Gauge,
    overshoot_seen: Gauge,
}

/// One route's counters.
#[derive(Debug)]
pub struct RouteMetrics(Box<[Counter]>);

impl RouteMetrics {
    /// A request was answered, or given up by its client.
    pub fn request(&self, class: StatusClass) {
        bump(&self.0, class.index());
    }
}

/// One upstream's counters.
#[derive(Debug)]
pub struct UpstreamMetrics(Box<[Counter]>);

impl UpstreamMetrics {
    /// Something went wrong with it.
    pub fn error(&self, error: UpstreamError) {
        bump(&self.0, error.index());
    }
}

/// What is not counted here but read when somebody asks: how this replica stands. Sums of money go over the accounts of all
/// units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// How long ago the store last answered; `None` if it never did.
    pub sync_age: Option<Duration>,
    /// The last message to the store failed.
    pub sync_failing: bool,
    /// Messages of the sync that failed, since the start.
    pub sync_errors: u64,
    /// Calls that waited for an empty lease, since the start.
    pub refill_waits: u64,
    /// Answers that showed that the store had lost this replica's spend, since the start.
    pub healed: u64,
    /// Commands put back into a store that had lost them, since the start.
    pub restored: u64,
    /// Replicas whose lease was taken back by this one, since the start.
    pub lapsed: u64,
    /// Replicas that were retired by this one, since the start.
    pub retired: u64,
    /// Accounts that nothing is granted for yet, as the store's history is too young.
    pub fenced: u64,
    /// Spend that the store has lost and nobody has published again yet.
    pub lost: Amount,
    /// How long ago the longest silent of the leased accounts was heard of.
    pub stalest: Duration,
    /// Taken beyond leases while the store is away.
    pub beyond: Amount,
    /// The most that may be.
    pub beyond_bound: Amount,
    /// Usage slots that a `kill -9` would take.
    pub unprotected: u64,
    /// Books that were not written to disk to be remembered, since the start.
    pub unremembered: u64,
    /// Accounts in memory.
    pub accounts: u64,
    /// Calls and API holds that are open.
    pub holds_open: u64,
    /// Set aside for them.
    pub held: Amount,
    /// Leased and not spent.
    pub leased: Amount,
    /// By how much open calls can exceed their holds at most.
    pub overshoot_bound: Amount,
    /// By how much settled calls have exceeded theirs, since the start.
    pub overshoot_seen: Amount,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new([], [])
    }
}

impl Metrics {
    /// The counters for some routes and upstreams, by name, all at zero.
    pub fn new<'n>(
        routes: impl IntoIterator<Item = &'n str>,
        upstreams: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let registry = Registry::new();
        let route = |name: &str| {
            let metrics = RouteMetrics::new(&registry, name);
            (name.to_owned(), Arc::new(metrics))
        };
        let upstream = |name: &str| {
            let metrics = UpstreamMetrics::new(&registry, name);
            (name.to_owned(), Arc::new(metrics))
        };
        Self(Arc::new(Handles {
            calls: CallHandles::new(&registry),
            store: StoreHandles::new(&registry),
            edges: EdgeHandles::new(&registry),
            levels: LevelHandles::new(&registry),
            routes: routes.into_iter().map(route).collect(),
            upstreams: upstreams.into_iter().map(upstream).collect(),
            registry,
        }))
    }

    /// A call was admitted, or refused for a reason.
    pub fn decided(&self, refused: Option<Reason>) {
        let calls = &self.0.calls;
        match refused {
            None => calls.admitted.increment(1),
            Some(reason) => bump(&calls.refused, reason.index()),
        }
    }

    /// How long a decision took, from the key to the hold. Not of every one: that takes a second reading of the clock.
    pub fn decision_time(&self, took: Duration) {
        self.0.calls.decision_time.record(took);
    }

    /// A call came to its charge.
    pub fn charged(&self, end: End, charge: &Charge) {
        let calls = &self.0.calls;
        let [exact, estimated, none] = &calls.charges;
        let ends = match charge.certainty {
            Certainty::Exact => exact,
            Certainty::Estimated => estimated,
            Certainty::None => none,
        };
        bump(ends, end.index());
        if let Ok(nanos) = u64::try_from(charge.amount.nanos()) {
            // Relaxed: it guards no other memory.
            calls.spent.fetch_add(nanos, Relaxed);
        }
    }

    /// An unknown key was refused from memory.
    pub fn unknown_key_hit(&self) {
        self.0.calls.unknown_key_hits.increment(1);
    }

    /// A call ended without a settlement: its hold was released or charged by policy.
    pub fn abandoned(&self) {
        self.0.calls.abandoned.increment(1);
    }

    /// A call of an account that is not live yet passed, and would have been refused.
    pub fn would_refuse(&self, reason: Reason) {
        bump(&self.0.calls.would_refuse, reason.index());
    }

    /// A call presented a licence.
    pub fn licence(&self, outcome: LicenceOutcome) {
        bump(&self.0.calls.licences, outcome.index());
    }

    /// A licence's call stands in no account's usage, as its account was not loaded.
    pub fn licence_uncounted(&self) {
        self.0.calls.licences_uncounted.increment(1);
    }

    /// The store did not do something.
    pub fn store_error(&self, op: StoreOp) {
        bump(&self.0.store.errors, op.index());
    }

    /// The store answered, or failed, after a while.
    pub fn store_took(&self, op: StoreOp, took: Duration) {
        if let Some(time) = self.0.store.time.get(op.index()) {
            time.record(took);
        }
    }

    /// Events were written to the feed.
    pub fn events(&self, count: u64) {
        self.0.store.events.increment(count);
    }

    /// An answer is read on for a client that left. Call [`Metrics::drain_ended`] once.
    pub fn drain_began(&self) {
        self.0.edges.drains_open.increment(1);
    }

    /// It is over.
    pub fn drain_ended(&self, end: Drained) {
        self.0.edges.drains_open.decrement(1);
        bump(&self.0.edges.drains, end.index());
    }

    /// Something became of a call that another gateway carries.
    pub fn passage(&self, passage: Passage) {
        bump(&self.0.edges.passages, passage.index());
    }

    /// A client connected. Call [`Metrics::connection_closed`] once.
    pub fn connection_opened(&self) {
        self.0.edges.connections.increment(1);
        self.0.edges.connections_open.increment(1);
    }

    /// It is gone.
    pub fn connection_closed(&self) {
        self.0.edges.connections_open.decrement(1);
    }

    /// A route's counters; `None` for one that was not named at the start. Got once per route, not per call.
    pub fn route(&self, name: &str) -> Option<Arc<RouteMetrics>> {
        self.0.routes.get(name).cloned()
    }

    /// An upstream's counters; `None` for one that was not named at the start.
    pub fn upstream(&self, name: &str) -> Option<Arc<UpstreamMetrics>> {
        self.0.upstreams.get(name).cloned()
    }

    /// The counters of a webhook endpoint. Got once for each, when sending to it begins.
    pub fn webhook(&self, endpoint: &str) -> WebhookMetrics {
        WebhookMetrics::new(&self.0.registry, endpoint)
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self, levels: &Levels) -> String {
        let Handles {
            calls, registry, ..
        } = &*self.0;
        let spent = calls.spent.load(Relaxed);
        calls.spent_told.set(units(spent.into()));
        self.0.levels.set(levels);
        if let Some(age) = levels.sync_age {
            // Without a sample until the store was reached: an age of zero would look healthy.
            registry.gauge(SYNC_AGE).set(age);
        }
        registry.render()
    }

    /// Puts what was timed into its buckets. Until this or [`Metrics::render`] every sample is kept: call it once a second, for
    /// memory to stay bounded when nobody reads the page. Nothing that counts waits for it.
    ///
    /// Counters are exact; histograms nearly: samples whose taking is interrupted in the very moment that this or `render` collects
    /// them can be missed by the exporter, and those behind them.
    pub fn upkeep(&self) {
        self.0.registry.upkeep();
    }
}

impl CallHandles {
    fn new(registry: &Registry) -> Self {
        const DECISIONS: Named = (
            "tollgate_decisions_total",
            "Calls decided on, by outcome: admitted, or the reason of the refusal.",
        );
        const CHARGES: Named = (
            "tollgate_charges_total",
            "Settled calls, by how sure their usage is and how they ended.",
        );
        const WOULD_REFUSE: Named = (
            "tollgate_would_refuse_total",
            "Calls of accounts that are not live yet which passed and would have been refused, by reason.",
        );
        const LICENCES: Named = (
            "tollgate_licence_calls_total",
            "Calls that presented an offline licence, by outcome.",
        );
        let ended = |certainty: Certainty| {
            let sure = [("certainty", certainty.name())];
            registry.counters::<End>(CHARGES, &sure, "end")
        };
        Self {
            admitted: registry.counter(DECISIONS, &[("outcome", "admitted")]),
            refused: registry.counters::<Reason>(DECISIONS, &[], "outcome"),
            decision_time: registry.histogram(
                (
                    "tollgate_decision_seconds",
                    "Time from the key to the hold or the refusal, of a sample of all decisions.",
                ),
                &[],
            ),
            unknown_key_hits: registry.counter(
                (
                    "tollgate_unknown_key_hits_total",
                    "Calls with an unknown key that were refused from memory.",
                ),
                &[],
            ),
            abandoned: registry.counter(
                (
                    "tollgate_calls_abandoned_total",
                    "Calls that ended without a settlement; their holds went by policy.",
                ),
                &[],
            ),
            would_refuse: registry.counters::<Reason>(WOULD_REFUSE, &[], "reason"),
            licences: registry.counters::<LicenceOutcome>(LICENCES, &[], "outcome"),
            licences_uncounted: registry.counter(
                (
                    "tollgate_licence_calls_uncounted_total",
                    "Calls by a licence that stand in no usage, as their account was not loaded.",
                ),
                &[],
            ),
            charges: CERTAINTIES.map(ended),
            spent: AtomicU64::new(0),
            spent_told: registry.gauge((
                "tollgate_spent_units_total",
                "What settled calls were charged, in units of money.",
            )),
        }
    }
}

impl StoreHandles {
    fn new(registry: &Registry) -> Self {
        const TIME: Named = (
            "tollgate_store_seconds",
            "Time that the store took for what it was asked.",
        );
        const ERRORS: Named = (
            "tollgate_store_errors_total",
            "What the store was asked and did not do.",
        );
        let time = |op: &StoreOp| registry.histogram(TIME, &[("op", op.name())]);
        Self {
            errors: registry.counters::<StoreOp>(ERRORS, &[], "op"),
            time: StoreOp::ALL.iter().map(time).collect(),
            events: registry.counter(
                (
                    "tollgate_events_total",
                    "Events that this replica wrote to the feed.",
                ),
                &[],
            ),
        }
    }
}

impl EdgeHandles {
    fn new(registry: &Registry) -> Self {
        const DRAINS: Named = (
            "tollgate_drains_total",
            "Answers that were read on for clients that left.",
        );
        const PASSAGES: Named = (
            "tollgate_gateway_calls_total",
            "What became of calls that another gateway carries.",
        );
        Self {
            passages: registry.counters::<Passage>(PASSAGES, &[], "result"),
            drains: registry.counters::<Drained>(DRAINS, &[], "result"),
            drains_open: registry.gauge((
                "tollgate_drains_open",
                "Answers being read on for clients that left.",
            )),
            connections: registry.counter(
                (
                    "tollgate_connections_total",
                    "Client connections since the start.",
                ),
                &[],
            ),
            connections_open: registry.gauge(("tollgate_connections_open", "Client connections.")),
        }
    }
}

impl LevelHandles {
    fn new(registry: &Registry) -> Self {
        let counter = |name, help| registry.counter((name, help), &[]);
        let gauge = |name, help| registry.gauge((name, help));
        Self {
            sync_failing: gauge(
                "tollgate_sync_failing",
                "1 while the last message to the store failed.",
            ),
            sync_errors: counter(
                "tollgate_sync_errors_total",
                "Messages of the sync that the store did not take.",
            ),
            refill_waits: counter(
                "tollgate_refill_waits_total",
                "Calls that waited for an empty lease.",
            ),
            healed: counter(
                "tollgate_store_healed_total",
                "Answers that showed that the store had lost spend of this replica, which was published again.",
            ),
            restored: counter(
                "tollgate_store_restored_total",
                "Commands that this replica put back into a store that had lost them.",
            ),
            lapsed: counter(
                "tollgate_replicas_lapsed_total",
                "Leases of silent replicas that this one took back, by account.",
            ),
            retired: counter(
                "tollgate_replicas_retired_total",
                "Replicas that this one retired, by account.",
            ),
            unremembered: counter(
                "tollgate_books_unremembered_total",
                "Books that were not written to disk to be remembered, as too many waited.",
            ),
            fenced: gauge(
                "tollgate_accounts_fenced",
                "Accounts that nothing is granted for yet, as the store may have lost history.",
            ),
            lost: gauge(
                "tollgate_lost_units",
                "Spend that the store has lost and that nobody has published again yet, in units of money.",
            ),
            beyond: gauge(
                "tollgate_beyond_lease_units",
                "Taken beyond leases by calls while the store is away, as policies allow.",
            ),
            beyond_bound: gauge(
                "tollgate_beyond_lease_bound_units",
                "The most that this replica may take beyond leases in one outage, over the accounts loaded here.",
            ),
            stalest: gauge(
                "tollgate_stalest_lease_seconds",
                "How long ago the longest silent of the leased accounts was heard of.",
            ),
            unprotected: gauge(
                "tollgate_counters_unprotected",
                "Usage counters that are not in the counter file: a killed process loses them.",
            ),
            exposure: gauge(
                "tollgate_exposure_units",
                "What this replica may still spend without the store: leased and not spent, holds included, in units of money.",
            ),
            accounts: gauge("tollgate_accounts", "Accounts in memory."),
            holds_open: gauge("tollgate_holds_open", "Calls and API holds that are open."),
            held: gauge(
                "tollgate_held_units",
                "Money set aside for open calls, in units of money.",
            ),
            leased: gauge(
                "tollgate_leased_units",
                "Money leased from the store and not spent, in units of money.",
            ),
            overshoot_bound: gauge(
                "tollgate_overshoot_bound_units",
                "By how much open calls can exceed their holds at most, in units of money.",
            ),
            overshoot_seen: gauge(
                "tollgate_overshoot_units_total",
                "By how much settled calls have exceeded their holds, in units of money.",
            ),
        }
    }

    fn set(&self, levels: &Levels) {
        self.sync_failing.set(u8::from(levels.sync_failing));
        self.sync_errors.absolute(levels.sync_errors);
        self.refill_waits.absolute(levels.refill_waits);
        for (counter, count) in [
            (&self.healed, levels.healed),
            (&self.restored, levels.restored),
            (&self.lapsed, levels.lapsed),
            (&self.retired, levels.retired),
            (&self.unremembered, levels.unremembered),
        ] {
            counter.absolute(count);
        }
        self.fenced.set(count(levels.fenced));
        self.unprotected.set(count(levels.unprotected));
        self.stalest.set(levels.stalest);
        self.beyond.set(units(levels.beyond.nanos().into()));
        self.beyond_bound
            .set(units(levels.beyond_bound.nanos().into()));
        self.accounts.set(count(levels.accounts));
        self.holds_open.set(count(levels.holds_open));
        for (gauge, amount) in [
            (&self.held, levels.held),
            (&self.leased, levels.leased),
            (&self.lost, levels.lost),
            (
                &self.exposure,
                levels.leased.saturating_add(levels.overshoot_bound),
            ),
            (&self.overshoot_bound, levels.overshoot_bound),
            (&self.overshoot_seen, levels.overshoot_seen),
        ] {
            gauge.set(units(amount.nanos().into()));
        }
    }
}

impl RouteMetrics {
    fn new(registry: &Registry, route: &str) -> Self {
        const REQUESTS: Named = (
            "tollgate_requests_total",
            "Proxied requests, by route and class of the status.",
        );
        Self(registry.counters::<StatusClass>(REQUESTS, &[("route", route)], "status"))
    }
}

impl UpstreamMetrics {
    fn new(registry: &Registry, upstream: &str) -> Self {
        const ERRORS: Named = (
            "tollgate_upstream_errors_total",
            "What went wrong with upstreams.",
        );
        Self(registry.counters::<UpstreamError>(ERRORS, &[("upstream", upstream)], "error"))
    }
}

fn bump(counters: &[Counter], index: usize) {
    if let Some(counter) = counters.get(index) {
        counter.increment(1);
    }
}

#[cfg(test)]
mod tests;
