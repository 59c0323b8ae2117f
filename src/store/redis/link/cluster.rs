//! A cluster: which node has a slot, as far as is known, and finding out anew. What is known may be wrong at any time; a node that is
//! asked for what it does not have says where that is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

use super::super::super::StoreError;
use super::Means;
use super::dial::{Address, Wire, lost};
use super::node::{Node, Target, WATCH_INTERVAL, later};
use super::slots::{Range, Told, slot, told};

/// The least time between two readings of the topology: a failover takes seconds, and each slot that moved meanwhile is learnt from
/// the node that had it.
const READING_PAUSE: Duration = Duration::from_millis(100);

/// How many nodes are asked at once. Most are in good health most of the time, so a few are enough; the next reading asks others.
const ASKED_MAX: usize = 5;

/// How often the topology is read without need: so that a node that has joined is known, and its history with it, before slots come
/// to it.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A cluster. See the module.
pub(super) struct Cluster {
    seeds: Vec<Address>,
    known: Mutex<Known>,
    /// One reads, the others wait for what comes of it: when it was tried last, and how that failed.
    reading: tokio::sync::Mutex<Option<(Instant, Result<(), StoreError>)>>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Known {
    nodes: HashMap<Address, Arc<Node>>,
    /// By their first slot, ascending.
    ranges: Vec<Range>,
    /// Slots that were learnt of since.
    moved: HashMap<u16, Address>,
    /// Which reading it is; zero is none.
    reading: u64,
}

impl Known {
    /// Whether a node has slots, as far as is known. One that had none may have been another's replica meanwhile: its server takes up
    /// that one's history then, and keeps the connections it has, so what was asked on them says nothing any more.
    fn serves(&self, address: &Address) -> bool {
        let ranges = self.ranges.iter().map(|(.., served)| served);
        ranges
            .chain(self.moved.values())
            .any(|other| other == address)
    }
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Address>) -> Self {
        Self {
            seeds,
            known: Mutex::default(),
            reading: tokio::sync::Mutex::new(None),
            turn: AtomicUsize::new(0),
        }
    }

    /// The node for a key, or for none: the next one then, connected if there is one, but not `avoided`.
    pub(super) fn node_for(
        &self,
        key: Option<&[u8]>,
        avoided: Option<&Arc<Node>>,
    ) -> Option<Arc<Node>> {
        let known = self.known();
        let Some(key) = key else {
            let turn = self.turn.fetch_add(1, Relaxed);
            let nodes = known.nodes.values();
            let other =
                |node: &&Arc<Node>| avoided.is_none_or(|avoided| !Arc::ptr_eq(node, avoided));
            let nodes: Vec<&Arc<Node>> = nodes.filter(other).collect();
            let from = turn.checked_rem(nodes.len())?;
            let (after, first) = nodes.split_at_checked(from)?;
            let mut nodes = first.iter().chain(after).copied();
            let any = nodes.clone().next();
            return nodes.find(|node| node.is_connected()).or(any).cloned();
        };
        let slot = slot(key);
        let address = match known.moved.get(&slot) {
            Some(address) => address,
            None => {
                let end = known.ranges.partition_point(|(first, ..)| *first <= slot);
                let (_, last, address) = known.ranges.get(end.checked_sub(1)?)?;
                (slot <= *last).then_some(address)?
            }
        };
        known.nodes.get(address).cloned()
    }

    /// The node at an address that another one named.
    pub(super) fn node_at(&self, address: &Address) -> Arc<Node> {
        node(&mut self.known().nodes, address)
    }

    /// A node said who has a slot now.
    pub(super) fn learn(&self, slot: u16, address: Address) -> Arc<Node> {
        let mut known = self.known();
        let node = node(&mut known.nodes, &address);
        if !known.serves(&address) {
            node.forget();
        }
        known.moved.insert(slot, address);
        node
    }

    /// Which reading of the topology stands.
    pub(super) fn reading(&self) -> u64 {
        self.known().reading
    }

    /// Whether a node belongs to it.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.known().nodes.contains_key(address)
    }

    /// Some address to subscribe at: each time another node's.
    pub(super) fn next_address(&self) -> Option<Address> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let known = self.known();
        let of = match known.nodes.len() {
            0 => self.seeds.iter().collect::<Vec<_>>(),
            _ => known.nodes.keys().collect(),
        };
        of.get(turn.checked_rem(of.len())?).copied().cloned()
    }

    /// Reads the topology, unless somebody has since the reading that was `seen`, or tried a moment ago.
    pub(super) async fn read(
        &self,
        means: &Arc<Means>,
        seen: u64,
        until: Instant,
    ) -> Result<(), StoreError> {
        let reading = async {
            let mut last = self.reading.lock().await;
            if self.reading() != seen {
                return Ok(());
            }
            if let Some((at, outcome)) = last.as_ref()
                && at.elapsed() < READING_PAUSE
            {
                return outcome.clone();
            }
            let limit = later(means.connect_timeout).min(until);
            let told = self.ask_nodes(means, limit).await;
            if let (0, Ok(told)) = (seen, &told) {
                // Before anything is written to any of them: of a node that is met when there are accounts already, nobody can tell
                // whether it is new or has lost its own.
                for address in told.served() {
                    self.node_at(address);
                }
                self.meet_all(means, limit).await;
            }
            let outcome = told.map(|told| self.take_up(told));
            *last = Some((Instant::now(), outcome.clone()));
            outcome
        };
        let late = || {
            StoreError::Unavailable("the cluster's nodes take too long to tell its slots".into())
        };
        timeout_at(until, reading).await.map_err(|_| late())?
    }

    /// Reads the topology while nobody waits for it, unless that is being done or was a moment ago.
    pub(super) fn read_soon(self: &Arc<Self>, means: &Arc<Means>) {
        let recent = match self.reading.try_lock() {
            Ok(last) => last
                .as_ref()
                .is_some_and(|(at, _)| at.elapsed() < READING_PAUSE),
            Err(_) => true,
        };
        if !recent {
            let (this, means) = (Arc::clone(self), Arc::clone(means));
            tokio::spawn(async move {
                let until = later(means.connect_timeout);
                // Whoever needs it and has none is told.
                let _ = this.read(&means, this.reading(), until).await;
            });
        }
    }

    /// Asks some nodes at once; the first one that sees all slots served is believed, or else any.
    async fn ask_nodes(&self, means: &Means, limit: Instant) -> Result<Told, StoreError> {
        let mut nodes: Vec<(Address, Option<Wire>)> = {
            let known = self.known();
            known
                .nodes
                .iter()
                .map(|(address, node)| (address.clone(), node.wire()))
                .collect()
        };
        // Those that are connected first, each time another of them; then the seeds.
        let turn = self.turn.fetch_add(1, Relaxed).checked_rem(nodes.len());
        nodes.rotate_left(turn.unwrap_or_default());
        nodes.sort_by_key(|(_, wire)| wire.is_none());
        nodes.truncate(ASKED_MAX);
        let strangers = self
            .seeds
            .iter()
            .filter(|seed| !nodes.iter().any(|(known, _)| known == *seed));
        let strangers: Vec<_> = strangers
            .take(ASKED_MAX)
            .map(|seed| (seed.clone(), None))
            .collect();
        nodes.extend(strangers);
        let mut asked: FuturesUnordered<_> = nodes
            .into_iter()
            .map(|(address, wire)| ask(means, address, wire))
            .collect();
        let (mut partial, mut failure) = (None, None);
        loop {
            match timeout_at(limit, asked.next()).await {
                Ok(Some(Ok(told))) if told.whole => return Ok(told),
                Ok(Some(Ok(told))) => partial = Some(told),
                Ok(Some(Err(error))) => failure = Some(error),
                Ok(None) | Err(_) => break,
            }
        }
        partial.ok_or_else(|| {
            let none = || StoreError::Unavailable("no node of the cluster answers in time".into());
            failure.unwrap_or_else(none)
        })
    }

    /// Takes a reading up. Nodes that stay keep their connections.
    fn take_up(&self, told: Told) {
        let mut known = self.known();
        let mut nodes = HashMap::new();
        for address in told.served().chain(&told.others) {
            let node = node(&mut known.nodes, address);
            nodes.insert(address.clone(), node);
        }
        // Of the first reading nobody was met as anything else before.
        if known.reading > 0 {
            let new = told.served().filter(|address| !known.serves(address));
            new.filter_map(|address| nodes.get(address))
                .for_each(|node| node.forget());
        }
        let mut ranges = told.ranges;
        ranges.sort_unstable_by_key(|(first, ..)| *first);
        *known = Known {
            nodes,
            ranges,
            moved: HashMap::new(),
            reading: known.reading.saturating_add(1),
        };
    }

    /// Looks after the cluster for as long as it is polled: reads the topology now and then, and connects to every node, so that its
    /// history is known before it is needed; and whether each goes on telling it, more often.
    pub(super) async fn look_after(&self, means: &Arc<Means>) {
        join(self.look(means), self.watch(means)).await;
    }

    async fn look(&self, means: &Arc<Means>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            ticks.tick().await;
            let until = later(means.connect_timeout);
            if let Err(error) = self.read(means, self.reading(), until).await {
                tracing::debug!(%error, "the cluster's slots were not read");
            }
            self.meet_all(means, later(means.connect_timeout)).await;
        }
    }

    /// Connects to every node. What fails is tried by whoever needs it.
    async fn meet_all(&self, means: &Arc<Means>, until: Instant) {
        let nodes = self.nodes();
        join_all(nodes.iter().map(|node| node.standing(means, until))).await;
    }

    async fn watch(&self, means: &Means) {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let nodes = self.nodes();
            join_all(nodes.iter().map(|node| node.check(means))).await;
        }
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.known().nodes.values().cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn node(nodes: &mut HashMap<Address, Arc<Node>>, address: &Address) -> Arc<Node> {
    let fresh = || Arc::new(Node::new(Target::Server(address.clone()), true));
    Arc::clone(nodes.entry(address.clone()).or_insert_with(fresh))
}

async fn ask(means: &Means, address: Address, wire: Option<Wire>) -> Result<Told, StoreError> {
    let mut wire = match wire {
        Some(wire) => wire,
        // For this alone: what a cluster tells of itself is of no history.
        None => means.dialer.wire(&address).await?,
    };
    let cluster = |what: &str| redis::cmd("CLUSTER").arg(what).to_owned();
    let words = ["INFO", "SLOTS", "NODES"].map(cluster).to_vec();
    let said = wire.exchange(words).await;
    let said = said.map_err(|error| lost(&address, &error))?;
    told(&address, said).map_err(|error| lost(&address, &error))
}
