//! What one worker thread shares among its connections: the gate, the routes with their pools, ids, and the calls that go on
//! without their clients.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::pool::Pool;
use crate::clock::Clock;
use crate::gate::Gate;
use crate::gate::table::Table;
use crate::telemetry::{Drained, RouteMetrics};

/// Where a route leads.
pub(super) struct Way {
    /// The upstream's connections.
    pub(super) pool: Arc<Pool>,
    /// The route's counters, if it was named at the start.
    pub(super) metrics: Option<Arc<RouteMetrics>>,
}

/// What one worker thread shares among its connections.
pub(super) struct Worker {
    /// Decides.
    pub(super) gate: Arc<Gate>,
    /// The time of day, for headers.
    pub(super) clock: Clock,
    /// Where requests go.
    pub(super) routes: Table<Way>,
    ids: Ids,
    /// Room for calls that go on without their clients; shared by all workers.
    drains: Arc<Semaphore>,
    /// Held by all that must end before the worker does. Weak, for the worker is no such thing itself.
    alive: mpsc::WeakSender<Infallible>,
    /// The worker takes on nothing new.
    closing: AtomicBool,
}

impl Worker {
    /// A worker that `alive` stands for while anything of it must not be cut off yet.
    pub(super) fn new(
        gate: Arc<Gate>,
        clock: Clock,
        routes: Table<Way>,
        drains: Arc<Semaphore>,
        alive: &mpsc::Sender<Infallible>,
    ) -> Result<Self, getrandom::Error> {
        Ok(Self {
            gate,
            clock,
            routes,
            ids: Ids::new()?,
            drains,
            alive: alive.downgrade(),
            closing: AtomicBool::new(false),
        })
    }

    /// An id for a request that came with none.
    pub(super) fn next_id(&self) -> HeaderValue {
        self.ids.next()
    }

    /// Something that must end before the worker does; `None` once the worker's time is over.
    pub(super) fn alive(&self) -> Option<mpsc::Sender<Infallible>> {
        self.alive.upgrade()
    }

    /// Lets a call go on without its client, for at most `limit`. If there is no room for it, or the worker is ending, it is
    /// dropped, and so settled, at once.
    pub(super) fn drain<F>(&self, limit: Duration, call: F)
    where
        F: Future<Output = Drained> + Send + 'static,
    {
        if self.is_closing() {
            return;
        }
        let metrics = self.gate.metrics().clone();
        metrics.drain_began();
        let room = Arc::clone(&self.drains).try_acquire_owned();
        let (Ok(room), Some(alive)) = (room, self.alive()) else {
            metrics.drain_ended(Drained::Bounded);
            tracing::warn!("no room to read on for a client that has left");
            return;
        };
        tokio::spawn(async move {
            // Past the limit the call is dropped, which settles it as it stands.
            let drained = timeout(limit, call).await;
            metrics.drain_ended(drained.unwrap_or(Drained::Bounded));
            drop((room, alive));
        });
    }

    /// From here on, what is dropped is settled and not drained: the worker's time is over.
    pub(super) fn close(&self) {
        self.closing.store(true, Relaxed);
    }

    /// Whether the worker's time is over.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }
}

/// How many ids are written at once. A call that is slow to end keeps the whole block, of 2 KiB.
const IDS: usize = 64;
/// Characters of an id.
const ID_BYTES: usize = 32;

/// Request ids: unlike each other and hard to guess, but no secrets. They are pieces of one allocation, so that taking and
/// cloning one allocates nothing.
struct Ids {
    seed: [u64; 2],
    block: Mutex<Block>,
}

#[derive(Default)]
struct Block {
    count: u64,
    left: Bytes,
}

impl Ids {
    fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            seed: [getrandom::u64()?, getrandom::u64()?],
            block: Mutex::default(),
        })
    }

    fn next(&self) -> HeaderValue {
        // One thread's own, so nobody ever waits here.
        let mut block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        if block.left.len() < ID_BYTES {
            self.fill(&mut block);
        }
        let end = block.left.len().min(ID_BYTES);
        let id = block.left.split_to(end);
        // Digits are a header's value.
        HeaderValue::from_maybe_shared(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }

    #[cold]
    fn fill(&self, block: &mut Block) {
        let mut text = BytesMut::with_capacity(IDS.saturating_mul(ID_BYTES));
        for _ in 0..IDS {
            for seed in self.seed {
                let digits = mix(seed.wrapping_add(block.count)).to_be_bytes();
                text.extend_from_slice(digits.map(hex).as_flattened());
            }
            block.count = block.count.wrapping_add(1);
        }
        block.left = text.freeze();
    }
}

fn hex(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| match digit {
        0..=9 => digit.saturating_add(b'0'),
        _ => digit.saturating_add(b'a' - 10),
    })
}

/// One step of splitmix64: every input has an output of its own.
const fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_and_read_as_hex() {
        let ids = Ids::new().unwrap();
        let all: HashSet<String> = (0..1000)
            .map(|_| ids.next().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(all.len(), 1000);
        let plain = |id: &String| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(all.iter().all(plain));
    }
}
