//! What the client gets: the upstream's response, metered as it passes and settled when it ends, or words of tollgate's own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::client::Busy;
use super::headers;
use super::pool::{Lease, Pool};
use super::quiet::Quiet;
use super::tab::Tab;
use super::worker::Worker;
use crate::route::{OnDisconnect, Terms};
use crate::telemetry::{Drained, UpstreamError};

/// A response's body.
pub(super) struct Answer {
    kind: Kind,
    /// While it stands, the client's connection counts as busy.
    _busy: Busy,
}

enum Kind {
    /// Tollgate's own words, then nothing.
    Own(Bytes),
    /// The upstream's body. Boxed: bodies are moved around by value.
    Live(Box<Live>),
}

impl Answer {
    /// Tollgate's own words.
    pub(super) const fn own(bytes: Bytes, busy: Busy) -> Self {
        let kind = Kind::Own(bytes);
        Self { kind, _busy: busy }
    }

    /// The upstream's body; settled at once if there is none.
    pub(super) fn live(mut live: Box<Live>, busy: Busy) -> Self {
        if live.upstream.is_end_stream() {
            live.end();
        }
        let kind = Kind::Live(live);
        Self { kind, _busy: busy }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.kind {
            Kind::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Live(live) => live.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_empty(),
            Kind::Live(live) => live.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Kind::Live(live) => live.size_hint(),
        }
    }
}

impl Drop for Answer {
    /// Dropped before its end, the client left: the call goes on without it, if its terms say so.
    fn drop(&mut self) {
        let own = Kind::Own(Bytes::new());
        if let Kind::Live(live) = std::mem::replace(&mut self.kind, own)
            && !live.tab.is_settled()
        {
            live.leave();
        }
    }
}

/// Why a response's body broke off; the client's connection is cut then, so that it does not take what it got for all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The upstream's connection broke.
    #[error("the upstream broke off: {0}")]
    Upstream(hyper::Error),
    /// The upstream paused for too long.
    #[error("the upstream paused for too long")]
    Quiet,
}

impl Broken {
    /// What it counts as.
    fn kind(&self) -> UpstreamError {
        match self {
            Self::Quiet => UpstreamError::IdleTimeout,
            Self::Upstream(error) if error.is_parse() => UpstreamError::Protocol,
            Self::Upstream(_) => UpstreamError::Reset,
        }
    }
}

/// A response's body as it comes from the upstream, and its call's tab.
pub(super) struct Live {
    upstream: Incoming,
    tab: Box<Tab>,
    terms: Arc<Terms>,
    worker: Arc<Worker>,
    /// The connection, to be kept for the next call when the body has ended.
    lease: Option<(Lease, Arc<Pool>)>,
    quiet: Quiet,
    /// The upstream's body has ended or broken; what follows is left to pass on.
    ended: bool,
    rest: Bytes,
    trailers: Option<HeaderMap>,
    /// The client may get less than the upstream sends.
    shortened: bool,
}

impl Live {
    /// A body that begins. `shortened`: the client may get less of it than the upstream sends.
    pub(super) fn new(
        upstream: Incoming,
        tab: Box<Tab>,
        terms: Arc<Terms>,
        worker: Arc<Worker>,
        lease: (Lease, Arc<Pool>),
        shortened: bool,
    ) -> Self {
        Self {
            quiet: Quiet::new(terms.idle_timeout),
            upstream,
            tab,
            terms,
            worker,
            lease: Some(lease),
            ended: false,
            rest: Bytes::new(),
            trailers: None,
            shortened,
        }
    }

    /// The next piece for the client. The call is settled before the last one is handed out, so that the books are right when
    /// the client sees the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if self.ended {
                if !self.rest.is_empty() {
                    let rest = std::mem::take(&mut self.rest);
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
                return Poll::Ready(self.trailers.take().map(Frame::trailers).map(Ok));
            }
            let Poll::Ready(next) = Pin::new(&mut self.upstream).poll_frame(cx) else {
                ready!(self.quiet.poll_over(cx));
                return Poll::Ready(Some(Err(self.cut(Broken::Quiet))));
            };
            self.quiet.moved();
            match next {
                None => self.end(),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(self.cut(Broken::Upstream(error)))));
                }
                Some(Ok(frame)) => {
                    if let Some(frame) = self.take_in(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
            }
        }
    }

    /// Takes in a frame, and gives what of it goes on now.
    fn take_in(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                headers::strip_trailers(&mut trailers);
                self.trailers = Some(trailers);
                // Nothing comes after trailers.
                self.end();
                return None;
            }
        };
        let data = self.tab.piece(data);
        if self.upstream.is_end_stream() {
            self.end();
        } else if self.tab.is_complete() {
            // `data: [DONE]`: many clients look no further, and may ask for their balance at once.
            self.tab.settle_ended();
        }
        (!data.is_empty()).then(|| Frame::data(data))
    }

    /// The upstream's body came to its end.
    fn end(&mut self) {
        self.ended = true;
        self.rest = self.tab.rest();
        self.tab.settle_ended();
        // An answer may come before the request is over; then the connection is not free yet.
        if let Some((lease, pool)) = self.lease.take()
            && self.tab.is_delivered()
        {
            pool.give_back(lease);
        }
    }

    fn cut(&mut self, broken: Broken) -> Broken {
        tracing::warn!(route = self.terms.route, error = %broken, "response cut");
        self.ended = true;
        if let Some((_, pool)) = self.lease.take() {
            pool.failed(broken.kind());
        }
        self.tab.settle_cut();
        broken
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.rest.is_empty() && self.trailers.is_none()
    }

    /// Whether the client may get less than the upstream sends.
    pub(super) const fn is_shortened(&self) -> bool {
        self.shortened
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended {
            return SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX));
        }
        if self.shortened {
            return SizeHint::default();
        }
        self.upstream.size_hint()
    }

    /// The client is gone: the rest is read for its usage, or the call is cut, as the terms say.
    pub(super) fn leave(self: Box<Self>) {
        match self.terms.on_disconnect {
            // Dropping it closes the upstream's connection and settles the tab.
            OnDisconnect::Abort => drop(self),
            OnDisconnect::Drain => {
                let (worker, limit) = (Arc::clone(&self.worker), self.terms.drain_time_max);
                worker.drain(limit, self.drain());
            }
        }
    }

    /// Reads the rest for a client that has left. Dropped before its end, the tab settles as it stands.
    pub(super) async fn drain(mut self: Box<Self>) -> Drained {
        let most = self.terms.drain_bytes_max;
        let start = self.tab.bytes_out();
        std::future::poll_fn(|cx| {
            while !self.ended {
                if self.tab.bytes_out().saturating_sub(start) > most {
                    return Poll::Ready(Drained::Bounded);
                }
                if let Some(Err(_)) = ready!(self.poll_next(cx)) {
                    return Poll::Ready(Drained::Cut);
                }
            }
            Poll::Ready(Drained::Whole)
        })
        .await
    }
}
