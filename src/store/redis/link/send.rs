//! Sending commands to a cluster: each to the node that has its slot, all nodes at once, and where a node says that it is another,
//! there. A node that does not answer holds up nobody else's commands.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::super::super::StoreError;
use super::Means;
use super::ask::{Ask, Reply, Round};
use super::cluster::Cluster;
use super::node::{Failure, Node, later};
use super::slots::{Verdict, verdict};

/// How many redirects a command follows. One is usual; a slot that moves on while it is followed, or a node that knows less than
/// another, may make it a few.
const REDIRECTS_MAX: u8 = 5;

/// The first wait for keys that are on their way, or for a cluster that cannot serve; doubled after each further one. Keys are on
/// their way for milliseconds.
const WAIT_MIN: Duration = Duration::from_millis(5);

/// How often a command waits: for some 300 ms in all, within the time for a reply by default.
const WAITS_MAX: u8 = 6;

/// A command on its way, and what it has been through.
struct Trip<'a> {
    place: usize,
    ask: &'a Ask,
    redirects: u8,
    waits: u8,
}

/// Why commands wait before they are sent again. In each case they were not carried out.
enum Why {
    /// Their keys are moving.
    Moving,
    /// What is known of the cluster is wrong, or it cannot serve.
    Stale,
    /// Their node could not be connected to.
    Unreached(Arc<Node>, StoreError),
}

enum Landed<'a> {
    /// They were sent to that node.
    Answered(
        Vec<Trip<'a>>,
        Arc<Node>,
        Result<(Vec<Reply>, bool), Failure>,
    ),
    /// They waited.
    Waited(Vec<Trip<'a>>, Why),
    /// Nobody tells who has them.
    Lost(Vec<Trip<'a>>, StoreError),
}

/// One sending.
struct Sending<'a> {
    means: &'a Arc<Means>,
    cluster: &'a Arc<Cluster>,
    until: Instant,
    replies: Vec<Option<Result<Reply, StoreError>>>,
    reordered: bool,
    flights: FuturesUnordered<BoxFuture<'a, Landed<'a>>>,
}

/// Sends commands. They run in their order only as far as they go to one node.
pub(super) async fn send(
    means: &Arc<Means>,
    cluster: &Arc<Cluster>,
    asks: &[Ask],
    until: Instant,
) -> Round {
    let mut sending = Sending {
        means,
        cluster,
        until,
        replies: asks.iter().map(|_| None).collect(),
        reordered: false,
        flights: FuturesUnordered::new(),
    };
    let trip = |(place, ask)| Trip {
        place,
        ask,
        redirects: 0,
        waits: 0,
    };
    let trips = asks.iter().enumerate().map(trip).collect();
    match cluster.reading() {
        0 => sending.wait(trips, Why::Stale, Duration::ZERO),
        _ => sending.depart(trips, None),
    }
    while let Some(landed) = sending.flights.next().await {
        match landed {
            Landed::Answered(trips, node, outcome) => sending.answered(trips, node, outcome),
            Landed::Waited(trips, Why::Unreached(node, error)) => {
                sending.depart(trips, Some((node, error)));
            }
            Landed::Waited(trips, _) => sending.depart(trips, None),
            Landed::Lost(trips, error) => {
                for trip in trips {
                    sending.end(&trip, Err(error.clone()));
                }
            }
        }
    }
    let none = || Err(StoreError::Unavailable("a command was not sent".into()));
    let replies = sending.replies.into_iter();
    Round {
        replies: replies.map(|reply| reply.unwrap_or_else(none)).collect(),
        reordered: sending.reordered,
    }
}

impl<'a> Sending<'a> {
    /// Sends commands to whoever has them, by what is known; but not again to the node that could not be reached.
    fn depart(&mut self, trips: Vec<Trip<'a>>, unreached: Option<(Arc<Node>, StoreError)>) {
        let mut groups = Groups::default();
        for trip in trips {
            let avoided = unreached.as_ref().map(|(node, _)| node);
            let node = self.cluster.node_for(trip.ask.key.as_deref(), avoided);
            let node = node.filter(|node| avoided.is_none_or(|other| !Arc::ptr_eq(node, other)));
            match (node, &unreached) {
                (Some(node), _) => groups.add(node, trip),
                (None, Some((_, error))) => self.end(&trip, Err(error.clone())),
                (None, None) => {
                    let error = "no node of the cluster has its slot";
                    self.end(&trip, Err(StoreError::Unavailable(error.into())));
                }
            }
        }
        self.reordered |= groups.0.len() > 1;
        self.fly(groups, false);
    }

    fn fly(&mut self, groups: Groups<'a>, asking: bool) {
        let (means, until) = (self.means, self.until);
        for (node, trips) in groups.0 {
            let flight = async move {
                let asks: Vec<&Ask> = trips.iter().map(|trip| trip.ask).collect();
                let outcome = node.send(means, &asks, asking, until).await;
                Landed::Answered(trips, node, outcome)
            };
            self.flights.push(flight.boxed());
        }
    }

    fn wait(&mut self, trips: Vec<Trip<'a>>, why: Why, pause: Duration) {
        let (means, cluster, until) = (self.means, self.cluster, self.until);
        let seen = cluster.reading();
        let flight = async move {
            if !matches!(why, Why::Moving) {
                let read = cluster.read(means, seen, until).await;
                if let Err(error) = read
                    && cluster.reading() == 0
                {
                    return Landed::Lost(trips, error);
                }
            }
            sleep_until(later(pause).min(until)).await;
            Landed::Waited(trips, why)
        };
        self.flights.push(flight.boxed());
    }

    fn answered(
        &mut self,
        trips: Vec<Trip<'a>>,
        node: Arc<Node>,
        outcome: Result<(Vec<Reply>, bool), Failure>,
    ) {
        match outcome {
            Ok((replies, reordered)) => {
                self.reordered |= reordered;
                self.read_replies(trips, &node, replies);
            }
            Err(Failure { error, sent: false }) if self.goes_on() => {
                self.reordered = true;
                self.wait(trips, Why::Unreached(node, error), Duration::ZERO);
            }
            Err(Failure { error, .. }) => {
                self.cluster.read_soon(self.means);
                for trip in trips {
                    self.end(&trip, Err(error.clone()));
                }
            }
        }
    }

    /// Ends the commands that were carried out, and sends the others where they were told to go.
    fn read_replies(&mut self, trips: Vec<Trip<'a>>, node: &Arc<Node>, replies: Vec<Reply>) {
        let (mut moved, mut asking) = (Groups::default(), Groups::default());
        let (mut moving, mut stale) = (Vec::new(), Vec::new());
        for (mut trip, reply) in trips.into_iter().zip(replies) {
            let verdict = match node.address() {
                Some(address) if self.goes_on() => verdict(address, &reply.value),
                _ => Verdict::Done,
            };
            match verdict {
                Verdict::Moved(slot, address) if trip.redirects < REDIRECTS_MAX => {
                    trip.redirects = trip.redirects.saturating_add(1);
                    moved.add(self.cluster.learn(slot, address), trip);
                }
                Verdict::Ask(address) if trip.redirects < REDIRECTS_MAX => {
                    trip.redirects = trip.redirects.saturating_add(1);
                    asking.add(self.cluster.node_at(&address), trip);
                }
                Verdict::Later if trip.waits < WAITS_MAX => moving.push(trip),
                Verdict::Stale if trip.waits < WAITS_MAX => stale.push(trip),
                // It says itself what is wrong.
                _ => self.end(&trip, Ok(reply)),
            }
        }
        if !moved.0.is_empty() {
            // A slot seldom moves alone.
            self.cluster.read_soon(self.means);
        }
        self.reordered |= !moved.0.is_empty() || !asking.0.is_empty();
        self.fly(moved, false);
        self.fly(asking, true);
        self.wait_again(moving, || Why::Moving);
        self.wait_again(stale, || Why::Stale);
    }

    fn wait_again(&mut self, mut trips: Vec<Trip<'a>>, why: impl FnOnce() -> Why) {
        // Those that came together have waited alike.
        let Some(waits) = trips.iter().map(|trip| trip.waits).max() else {
            return;
        };
        for trip in &mut trips {
            trip.waits = trip.waits.saturating_add(1);
        }
        self.reordered = true;
        let factor = 2_u32.saturating_pow(waits.into());
        self.wait(trips, why(), WAIT_MIN.saturating_mul(factor));
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    fn end(&mut self, trip: &Trip<'a>, reply: Result<Reply, StoreError>) {
        if let Some(place) = self.replies.get_mut(trip.place) {
            *place = Some(reply);
        }
    }
}

/// Commands by the node they go to, in their order.
#[derive(Default)]
struct Groups<'a>(Vec<(Arc<Node>, Vec<Trip<'a>>)>);

impl<'a> Groups<'a> {
    fn add(&mut self, node: Arc<Node>, trip: Trip<'a>) {
        let group = self
            .0
            .iter_mut()
            .find(|(other, _)| Arc::ptr_eq(other, &node));
        match group {
            Some((_, trips)) => trips.push(trip),
            None => self.0.push((node, vec![trip])),
        }
    }
}
