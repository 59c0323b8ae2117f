//! One client's connection, as its requests and its watchdog see it. How bytes get on and off it is up to the wire.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;

use super::worker::Worker;

/// One client's connection. One thread runs all that touches it; the atomics are there because futures must be `Send`, and
/// are relaxed because each guards nothing but itself.
pub(super) struct Client {
    /// The worker that serves it.
    pub(super) worker: Arc<Worker>,
    /// The client's address, as it is forwarded.
    pub(super) address: HeaderValue,
    /// `http` or `https`.
    pub(super) proto: HeaderValue,
    busy: AtomicU32,
    requests: AtomicU32,
    blocked: AtomicBool,
    moved: AtomicBool,
    /// What its connection is told from outside.
    pub(super) told: Told,
    /// Its place among the connections that are let in.
    _place: OwnedSemaphorePermit,
}

impl Client {
    /// A connection that was let in.
    pub(super) fn new(
        worker: Arc<Worker>,
        peer: SocketAddr,
        tls: bool,
        place: OwnedSemaphorePermit,
    ) -> Self {
        worker.gate.metrics().connection_opened();
        // An address as text is a header's value.
        let address = peer.ip().to_canonical().to_string();
        let address = HeaderValue::from_str(&address);
        Self {
            worker,
            address: address.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
            busy: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            blocked: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            told: Told::default(),
            _place: place,
        }
    }

    /// A write went through, or did not because the client takes nothing.
    pub(super) fn wrote(&self, through: bool) {
        self.blocked.store(!through, Relaxed);
        if through {
            self.moved.store(true, Relaxed);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.worker.gate.metrics().connection_closed();
    }
}

/// What a connection may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing.
    GoOn,
    /// To end once what is in flight has.
    Finish,
    /// To end at once.
    End,
}

/// The last word to a connection, and who runs it.
#[derive(Default)]
pub(super) struct Told {
    finish: AtomicBool,
    end: AtomicBool,
    runner: AtomicWaker,
}

impl Told {
    /// Says it, and wakes the connection.
    pub(super) fn tell(&self, word: Word) {
        match word {
            Word::GoOn => {}
            Word::Finish => self.finish.store(true, Relaxed),
            Word::End => self.end.store(true, Relaxed),
        }
        self.runner.wake();
    }

    /// What was said.
    pub(super) fn word(&self) -> Word {
        match (self.end.load(Relaxed), self.finish.load(Relaxed)) {
            (true, _) => Word::End,
            (false, true) => Word::Finish,
            (false, false) => Word::GoOn,
        }
    }

    /// Whom to wake; to be called before [`Told::word`].
    pub(super) fn register(&self, runner: &Waker) {
        self.runner.register(runner);
    }
}

/// A request of a client that is being served, until its answer is over.
pub(super) struct Busy(Arc<Client>);

impl Busy {
    /// Counts a request in.
    pub(super) fn new(client: &Arc<Client>) -> Self {
        client.busy.fetch_add(1, Relaxed);
        client.requests.fetch_add(1, Relaxed);
        Self(Arc::clone(client))
    }
}

impl Clone for Busy {
    /// The same request, held by another of its parts.
    fn clone(&self) -> Self {
        self.0.busy.fetch_add(1, Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

/// Looks, tick by tick, for a connection that is held for nothing: one whose client sends no whole head while nothing is
/// served, or takes nothing of what is written. One timer per connection and none per request.
#[derive(Default)]
pub(super) struct Watchdog {
    requests: u32,
    idle_ticks: u32,
    stuck_ticks: u32,
}

/// Ticks per limit: a connection is closed within a quarter of the limit after it is over.
pub(super) const TICKS: u32 = 4;

impl Watchdog {
    /// Another tick: whether the connection should be closed.
    pub(super) fn tick(&mut self, client: &Client) -> bool {
        let requests = client.requests.load(Relaxed);
        let idle = client.busy.load(Relaxed) == 0 && requests == self.requests;
        self.requests = requests;
        self.idle_ticks = if idle {
            self.idle_ticks.saturating_add(1)
        } else {
            0
        };
        let stuck = client.blocked.load(Relaxed) && !client.moved.swap(false, Relaxed);
        self.stuck_ticks = if stuck {
            self.stuck_ticks.saturating_add(1)
        } else {
            0
        };
        self.idle_ticks > TICKS || self.stuck_ticks > TICKS
    }
}
