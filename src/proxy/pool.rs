//! One worker's connections to one upstream: idle HTTP/1.1 ones to take again, one HTTP/2 one to share. How a connection is made
//! is up to `dial`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use http::uri::Authority;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::alarm::Alarm;
use super::dial::{DialError, Dialer};
use super::upload::Upload;
use crate::route::{HttpVersion, Upstream};
use crate::telemetry::{UpstreamError, UpstreamMetrics};

/// An answer that is on its way. Boxed, so that it can go on without the client that waited for it.
pub(super) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> + Send>>;

/// The right to send a request on a connection.
pub(super) struct Lease {
    connection: Connection,
    /// When an answer is late; kept with the connection.
    pub(super) alarm: Alarm,
}

enum Connection {
    /// A whole connection.
    Http1(http1::SendRequest<Upload>),
    /// A stream of a shared one.
    Http2(http2::SendRequest<Upload>),
}

impl Lease {
    /// A connection that speaks HTTP/1.1.
    pub(super) const fn http1(connection: http1::SendRequest<Upload>) -> Self {
        Self {
            connection: Connection::Http1(connection),
            alarm: Alarm::new(),
        }
    }

    /// A stream of a connection that speaks HTTP/2.
    pub(super) const fn http2(connection: http2::SendRequest<Upload>) -> Self {
        Self {
            connection: Connection::Http2(connection),
            alarm: Alarm::new(),
        }
    }

    /// Whether HTTP/2 is spoken.
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self.connection, Connection::Http2(_))
    }

    /// Hands a request over. What comes back on an error was not sent at all.
    pub(super) fn send(&mut self, request: Request<Upload>) -> Answering {
        match &mut self.connection {
            Connection::Http1(connection) => Box::pin(connection.try_send_request(request)),
            Connection::Http2(connection) => Box::pin(connection.try_send_request(request)),
        }
    }
}

/// Sweeps per idle time: a connection is closed within a quarter of it after it is over.
pub(super) const SWEEPS: u32 = 4;

struct Idle {
    connection: http1::SendRequest<Upload>,
    alarm: Alarm,
    /// The sweep before which it was given back.
    since: u64,
}

/// One worker's connections to one upstream. In use there are at most as many as clients and their streams.
pub(super) struct Pool {
    /// Where they lead.
    pub(super) upstream: Arc<Upstream>,
    /// Its host and port, as HTTP/2 says them.
    pub(super) authority: Authority,
    /// The same as HTTP/1.1 does.
    pub(super) host: HeaderValue,
    dialer: Dialer,
    /// Its counters, if it was named at the start.
    metrics: Option<Arc<UpstreamMetrics>>,
    /// The last one given back is taken first, so that a quiet hour empties the rest. Never locked across an await, nor by a
    /// second thread.
    idle: Mutex<VecDeque<Idle>>,
    sweep: AtomicU64,
    /// Held while connecting, so that a burst of first calls opens one connection, not many.
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Upload>>>,
    /// The upstream may speak HTTP/2: not yet asked, or it did.
    maybe_http2: AtomicBool,
}

impl Pool {
    /// No connections yet.
    pub(super) fn new(
        upstream: Arc<Upstream>,
        authority: Authority,
        host: HeaderValue,
        dialer: Dialer,
        metrics: Option<Arc<UpstreamMetrics>>,
    ) -> Self {
        let maybe_http2 = match upstream.http {
            HttpVersion::Auto => upstream.tls,
            HttpVersion::Http1 => false,
            HttpVersion::Http2 => true,
        };
        Self {
            upstream,
            authority,
            host,
            dialer,
            metrics,
            idle: Mutex::default(),
            sweep: AtomicU64::new(0),
            shared: tokio::sync::Mutex::new(None),
            maybe_http2: AtomicBool::new(maybe_http2),
        }
    }

    /// Counts something that went wrong with the upstream.
    pub(super) fn failed(&self, error: UpstreamError) {
        if let Some(metrics) = &self.metrics {
            metrics.error(error);
        }
    }

    /// A connection to send on, an idle one if there is; and whether it was used before. Waits for a connection and its
    /// handshakes, at most `connect_timeout` in all. Dropping the future gives up; nothing was sent.
    pub(super) async fn take(&self) -> Result<(Lease, bool), DialError> {
        if let Some(lease) = self.take_idle() {
            return Ok((lease, true));
        }
        let limit = self.upstream.connect_timeout;
        // Boxed, here and below: dialling is rare and its future large, and every call's would have room for it.
        let lease = Box::pin(tokio::time::timeout(limit, async {
            if self.maybe_http2.load(Relaxed) {
                self.share().await
            } else {
                Ok((self.dialer.http1().await?, false))
            }
        }));
        lease.await.unwrap_or(Err(DialError::Timeout))
    }

    /// A connection that nobody used before and that speaks HTTP/1.1: for an upgrade, or a second try.
    pub(super) async fn fresh_http1(&self) -> Result<Lease, DialError> {
        let limit = self.upstream.connect_timeout;
        let lease = Box::pin(tokio::time::timeout(limit, self.dialer.http1()));
        lease.await.unwrap_or(Err(DialError::Timeout))
    }

    async fn share(&self) -> Result<(Lease, bool), DialError> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = shared.as_ref().filter(|shared| !shared.is_closed()) {
            return Ok((Lease::http2(connection.clone()), true));
        }
        // Whoever waited for the lock may have learnt by now that there is no HTTP/2 to share.
        if !self.maybe_http2.load(Relaxed) {
            drop(shared);
            return Ok((self.dialer.http1().await?, false));
        }
        let lease = self.dialer.negotiated().await?;
        match &lease.connection {
            Connection::Http2(connection) => *shared = Some(connection.clone()),
            Connection::Http1(_) => self.maybe_http2.store(false, Relaxed),
        }
        Ok((lease, false))
    }

    fn take_idle(&self) -> Option<Lease> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One given back a moment ago may not have seen the end of its answer yet: it is left for the next call.
        let at = idle.iter().rposition(|kept| kept.connection.is_ready())?;
        let kept = idle.remove(at)?;
        Some(Lease {
            connection: Connection::Http1(kept.connection),
            alarm: kept.alarm,
        })
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn give_back(&self, lease: Lease) {
        let Connection::Http1(connection) = lease.connection else {
            return;
        };
        let most = self.upstream.idle_connections_max;
        if connection.is_closed() || most == 0 {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= most {
            idle.pop_front();
        }
        let since = self.sweep.load(Relaxed);
        idle.push_back(Idle {
            connection,
            alarm: lease.alarm,
            since,
        });
    }

    /// Closes what has been idle for too long; called [`SWEEPS`] times per idle time.
    pub(super) fn sweep(&self) {
        let now = self.sweep.fetch_add(1, Relaxed).saturating_add(1);
        let oldest = now.saturating_sub(u64::from(SWEEPS));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| kept.since >= oldest && !kept.connection.is_closed());
    }
}
