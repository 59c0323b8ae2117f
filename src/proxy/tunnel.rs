//! An upgraded connection, such as a WebSocket: bytes pass both ways uninterpreted, are counted, and the call is settled when
//! both sides have closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::interval;

use super::client::Client;
use super::tab::Tab;
use crate::gate::End;
use crate::route::Terms;

/// Looks per idle time.
const TICKS: u32 = 4;

/// Passes bytes between two connections that are about to be upgraded. It stands in a task of its own, which keeps the client's
/// place among the connections and ends with both sides, or when neither sent anything for the route's idle time.
pub(super) fn start(
    client: OnUpgrade,
    upstream: OnUpgrade,
    tab: Box<Tab>,
    terms: &Terms,
    from: &Arc<Client>,
) {
    let Some(alive) = from.worker.alive() else {
        return;
    };
    let (idle, from) = (terms.idle_timeout, Arc::clone(from));
    tokio::spawn(async move {
        let mut tunnel = Tunnel {
            tab,
            seen: Arc::default(),
        };
        let end = match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => tunnel.pass(client, upstream, idle).await,
            // One of them left between the answer and the switch.
            Err(_) => End::ClientGone,
        };
        tunnel.count();
        tunnel.tab.settle(end);
        drop((from, alive));
    });
}

#[derive(Default)]
struct Seen {
    from_client: AtomicU64,
    from_upstream: AtomicU64,
}

struct Tunnel {
    tab: Box<Tab>,
    seen: Arc<Seen>,
}

impl Tunnel {
    /// How it ended: whichever side closed, what the call was for is done.
    async fn pass(&self, client: Upgraded, upstream: Upgraded, idle: Duration) -> End {
        let seen = &*self.seen;
        let mut client = Counted(TokioIo::new(client), &seen.from_client);
        let mut upstream = Counted(TokioIo::new(upstream), &seen.from_upstream);
        tokio::select! {
            passed = copy_bidirectional(&mut client, &mut upstream) => match passed {
                Ok(_) => End::Complete,
                // Which side broke is not told. A client must not get a call for nothing by resetting its connection.
                Err(_) => End::ClientGone,
            },
            () = seen.quiet(idle) => End::Complete,
        }
    }

    fn count(&mut self) {
        let Seen {
            from_client,
            from_upstream,
        } = &*self.seen;
        self.tab
            .passed(from_client.swap(0, Relaxed), from_upstream.swap(0, Relaxed));
    }
}

impl Drop for Tunnel {
    /// The worker's time is over: what passed so far counts.
    fn drop(&mut self) {
        self.count();
    }
}

impl Seen {
    /// Returns once nothing passed for the idle time.
    async fn quiet(&self, idle: Duration) {
        let mut ticks = interval(
            idle.checked_div(TICKS)
                .unwrap_or(idle)
                .max(Duration::from_millis(1)),
        );
        let (mut last, mut still) = ((0, 0), 0);
        while still <= TICKS {
            ticks.tick().await;
            let now = (
                self.from_client.load(Relaxed),
                self.from_upstream.load(Relaxed),
            );
            still = if now == last {
                u32::saturating_add(still, 1)
            } else {
                0
            };
            last = now;
        }
    }
}

/// A connection that counts what is read from it.
struct Counted<'a>(TokioIo<Upgraded>, &'a AtomicU64);

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        let more = buf.filled().len().saturating_sub(before);
        self.1
            .fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Relaxed);
        read
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
