//! Every metric: what counts it, under which name it is told. One [`Metrics`] belongs to one running tollgate and is handed to
//! whoever counts; there is no global registry, so that several can run in one process.
//!
//! Counting takes no lock and looks nothing up. What is counted on every call lies in the calling thread's own stripe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use super::labels::{Drained, Label, StatusClass, StoreOp, UpstreamError};
use super::render::Page;
use super::stripes::{Count, Histogram, Striped};
use crate::gate::{Charge, End};
use crate::money::Amount;
use crate::refusal::Reason;
use crate::usage::Certainty;

/// The certainties, in the order they are counted in.
const CERTAINTIES: [Certainty; 3] = [Certainty::Exact, Certainty::Estimated, Certainty::None];

/// The counters of one tollgate. Cheap to clone, and all clones count as one; every method may be called from any thread.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    calls: Striped<CallCounts>,
    unknown_key_hits: Striped<Count>,
    abandoned: Count,
    store_errors: [Count; StoreOp::COUNT],
    store_time: [Histogram; StoreOp::COUNT],
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
    charges: [[Count; End::ALL.len()]; CERTAINTIES.len()],
    /// In nano-units. Wraps after 18 thousand million units, which Prometheus takes for a restart.
    spent: Count,
}

/// One route's counters.
#[derive(Debug, Default)]
pub struct RouteMetrics(Striped<[Count; StatusClass::COUNT]>);

impl RouteMetrics {
    /// A request was answered, or given up by its client.
    pub fn request(&self, class: StatusClass) {
        bump(self.0.mine(), class);
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

impl Metrics {
    /// The counters for some routes and upstreams, by name, all at zero.
    pub fn new<'n>(
        routes: impl IntoIterator<Item = &'n str>,
        upstreams: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        fn named<'n, T: Default>(
            names: impl IntoIterator<Item = &'n str>,
        ) -> BTreeMap<String, Arc<T>> {
            let fresh = |name: &str| (name.to_owned(), Arc::default());
            names.into_iter().map(fresh).collect()
        }
        Self(Arc::new(Counters {
            routes: named(routes),
            upstreams: named(upstreams),
            ..Counters::default()
        }))
    }

    /// A call was admitted, or refused for a reason.
    pub fn decided(&self, refused: Option<Reason>) {
        let mine = self.0.calls.mine();
        let count = match refused {
            None => Some(&mine.admitted),
            Some(reason) => mine.refused.get(reason.index()),
        };
        if let Some(count) = count {
            count.add(1);
        }
    }

    /// How long a decision took, from the key to the hold. Not of every one: that takes a second reading of the clock.
    pub fn decision_time(&self, took: Duration) {
        self.0.calls.mine().decision_time.record(took);
    }

    /// A call came to its charge.
    pub fn charged(&self, end: End, charge: &Charge) {
        let mine = self.0.calls.mine();
        let ends = mine.charges.get(place_of(charge.certainty));
        let place = End::ALL.iter().position(|other| *other == end);
        if let Some(count) = ends.and_then(|ends| ends.get(place?)) {
            count.add(1);
        }
        if let Ok(nanos) = u64::try_from(charge.amount.nanos()) {
            mine.spent.add(nanos);
        }
    }

    /// An unknown key was refused from memory.
    pub fn unknown_key_hit(&self) {
        self.0.unknown_key_hits.mine().add(1);
    }

    /// A call ended without a settlement: its hold was released or charged by policy.
    pub fn abandoned(&self) {
        self.0.abandoned.add(1);
    }

    /// The store did not do something.
    pub fn store_error(&self, op: StoreOp) {
        bump(&self.0.store_errors, op);
    }

    /// The store answered, or failed, after a while.
    pub fn store_took(&self, op: StoreOp, took: Duration) {
        if let Some(time) = self.0.store_time.get(op.index()) {
            time.record(took);
        }
    }

    /// Events were written to the feed.
    pub fn events(&self, count: u64) {
        self.0.events.add(count);
    }

    /// An answer is read on for a client that left. Call [`Metrics::drain_ended`] once.
    pub fn drain_began(&self) {
        self.0.drains_open.fetch_add(1, Relaxed);
    }

    /// It is over.
    pub fn drain_ended(&self, end: Drained) {
        self.0.drains_open.fetch_sub(1, Relaxed);
        bump(&self.0.drains, end);
    }

    /// A client connected. Call [`Metrics::connection_closed`] once.
    pub fn connection_opened(&self) {
        self.0.connections.add(1);
        self.0.connections_open.fetch_add(1, Relaxed);
    }

    /// It is gone.
    pub fn connection_closed(&self) {
        self.0.connections_open.fetch_sub(1, Relaxed);
    }

    /// A route's counters; `None` for one that was not named at the start. Got once per route, not per call.
    pub fn route(&self, name: &str) -> Option<Arc<RouteMetrics>> {
        self.0.routes.get(name).cloned()
    }

    /// An upstream's counters; `None` for one that was not named at the start.
    pub fn upstream(&self, name: &str) -> Option<Arc<UpstreamMetrics>> {
        self.0.upstreams.get(name).cloned()
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self, levels: &Levels) -> String {
        let mut page = Page::default();
        self.0.decisions(&mut page);
        self.0.charges(&mut page);
        money(&mut page, levels);
        replica(&mut page, levels);
        self.0.store(&mut page);
        self.0.edges(&mut page);
        page.finish()
    }
}

impl Counters {
    fn decisions(&self, page: &mut Page) {
        page.counter(
            "tollgate_decisions_total",
            "Calls decided on, by outcome: admitted, or the reason of the refusal.",
        );
        let admitted = self.calls.sum(|calls| calls.admitted.get());
        page.sample(&[("outcome", "admitted")], admitted);
        for reason in Reason::ALL {
            let count = self.calls.sum(|calls| at(&calls.refused, reason.index()));
            page.sample(&[("outcome", reason.name())], count);
        }
        page.histogram(
            "tollgate_decision_seconds",
            "Time from the key to the hold or the refusal, of a sample of all decisions.",
        );
        page.buckets(
            None,
            |place| self.calls.sum(|calls| calls.decision_time.bucket(place)),
            self.calls.sum(|calls| calls.decision_time.nanos()),
        );
        page.counter(
            "tollgate_unknown_key_hits_total",
            "Calls with an unknown key that were refused from memory.",
        );
        page.sample(&[], self.unknown_key_hits.sum(Count::get));
        page.counter(
            "tollgate_calls_abandoned_total",
            "Calls that ended without a settlement; their holds went by policy.",
        );
        page.sample(&[], self.abandoned.get());
    }

    fn charges(&self, page: &mut Page) {
        page.counter(
            "tollgate_charges_total",
            "Settled calls, by how sure their usage is and how they ended.",
        );
        for certainty in CERTAINTIES {
            for (place, end) in End::ALL.into_iter().enumerate() {
                let count = self.calls.sum(|calls| {
                    let ends = calls.charges.get(place_of(certainty));
                    ends.map_or(0, |ends| at(ends, place))
                });
                let labels = [("certainty", certainty.name()), ("end", end.name())];
                page.sample(&labels, count);
            }
        }
        page.counter(
            "tollgate_spent_units_total",
            "What settled calls were charged, in units of money.",
        );
        let spent = self.calls.sum(|calls| calls.spent.get());
        page.nanos(&[], spent.into());
    }

    fn store(&self, page: &mut Page) {
        page.family::<StoreOp>(
            "tollgate_store_errors_total",
            "What the store was asked and did not do.",
            "op",
            &self.store_errors,
        );
        page.histogram(
            "tollgate_store_seconds",
            "Time that the store took for what it was asked.",
        );
        for (op, time) in StoreOp::ALL.iter().zip(&self.store_time) {
            let bucket = |place| time.bucket(place);
            page.buckets(Some(("op", op.name())), bucket, time.nanos());
        }
        page.counter(
            "tollgate_events_total",
            "Events that this replica wrote to the feed.",
        );
        page.sample(&[], self.events.get());
    }

    fn edges(&self, page: &mut Page) {
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
                let labels = [("upstream", upstream.as_str()), ("error", error.name())];
                page.sample(&labels, at(&counts.0, error.index()));
            }
        }
        page.family::<Drained>(
            "tollgate_drains_total",
            "Answers that were read on for clients that left.",
            "result",
            &self.drains,
        );
        page.gauge(
            "tollgate_drains_open",
            "Answers being read on for clients that left.",
        );
        page.sample(&[], self.drains_open.load(Relaxed));
        page.gauge("tollgate_connections_open", "Client connections.");
        page.sample(&[], self.connections_open.load(Relaxed));
        page.counter(
            "tollgate_connections_total",
            "Client connections since the start.",
        );
        page.sample(&[], self.connections.get());
    }
}

fn money(page: &mut Page, levels: &Levels) {
    for (name, help, amount) in [
        (
            "tollgate_held_units",
            "Money set aside for open calls, in units of money.",
            levels.held,
        ),
        (
            "tollgate_leased_units",
            "Money leased from the store and not spent, in units of money.",
            levels.leased,
        ),
        (
            "tollgate_overshoot_bound_units",
            "By how much open calls can exceed their holds at most, in units of money.",
            levels.overshoot_bound,
        ),
    ] {
        page.gauge(name, help);
        page.nanos(&[], amount.nanos().into());
    }
    page.counter(
        "tollgate_overshoot_units_total",
        "By how much settled calls have exceeded their holds, in units of money.",
    );
    page.nanos(&[], levels.overshoot_seen.nanos().into());
}

fn replica(page: &mut Page, levels: &Levels) {
    // Without a sample until the store was reached: an age of zero would look healthy.
    page.gauge(
        "tollgate_sync_age_seconds",
        "How long ago the store last answered.",
    );
    if let Some(age) = levels.sync_age {
        page.nanos(&[], i128::try_from(age.as_nanos()).unwrap_or(i128::MAX));
    }
    page.gauge(
        "tollgate_sync_failing",
        "1 while the last message to the store failed.",
    );
    page.sample(&[], u8::from(levels.sync_failing));
    page.counter(
        "tollgate_sync_errors_total",
        "Messages of the sync that the store did not take.",
    );
    page.sample(&[], levels.sync_errors);
    page.counter(
        "tollgate_refill_waits_total",
        "Calls that waited for an empty lease.",
    );
    page.sample(&[], levels.refill_waits);
    page.gauge("tollgate_accounts", "Accounts in memory.");
    page.sample(&[], levels.accounts);
    page.gauge("tollgate_holds_open", "Calls and API holds that are open.");
    page.sample(&[], levels.holds_open);
}

const fn place_of(certainty: Certainty) -> usize {
    match certainty {
        Certainty::Exact => 0,
        Certainty::Estimated => 1,
        Certainty::None => 2,
    }
}

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
