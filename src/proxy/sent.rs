//! A request that was sent and not answered yet. If its client leaves meanwhile, the wait goes on without it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::response::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

use super::answer::Live;
use super::dial::DialError;
use super::pool::{Answering, Lease, Pool};
use super::tab::Tab;
use super::upload::{Progress, Upload};
use super::worker::Worker;
use crate::gate::End;
use crate::meter::Api;
use crate::route::{OnDisconnect, Terms};
use crate::telemetry::{Drained, UpstreamError};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// No connection.
    #[error(transparent)]
    Dial(DialError),
    /// The connection was closed before any of the request was written to it.
    #[error("the connection was closed")]
    Unsent(Box<Request<Upload>>),
    /// The connection broke.
    #[error("broke off: {0}")]
    Broke(hyper::Error),
    /// Nothing came in time.
    #[error("no first byte in time")]
    Timeout,
}

impl NoAnswer {
    /// What it counts as.
    pub(super) fn kind(&self) -> UpstreamError {
        match self {
            Self::Dial(DialError::Tls(_)) => UpstreamError::Tls,
            Self::Dial(_) => UpstreamError::Connect,
            Self::Timeout => UpstreamError::FirstByteTimeout,
            Self::Broke(error) if error.is_parse() => UpstreamError::Protocol,
            Self::Unsent(_) | Self::Broke(_) => UpstreamError::Reset,
        }
    }

    /// Whether time ran out.
    pub(super) const fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout | Self::Dial(DialError::Timeout))
    }
}

/// A request that was handed to a connection.
pub(super) struct Sent {
    /// Its answer.
    pub(super) answering: Answering,
    /// What it holds.
    pub(super) tab: Box<Tab>,
    /// The connection, and where it belongs.
    pub(super) lease: (Lease, Arc<Pool>),
    /// The route's terms.
    pub(super) terms: Arc<Terms>,
    /// The worker.
    pub(super) worker: Arc<Worker>,
    /// The API that is called.
    pub(super) api: Api,
}

impl Sent {
    /// The body of the answer that came. `strip`: the usage event was asked for by the proxy, not by the client.
    pub(super) fn into_live(self, head: &Parts, body: Incoming, strip: bool) -> Box<Live> {
        let mut tab = self.tab;
        let shortened = tab.answered(head, &self.terms, self.api, strip);
        let live = Live::new(body, tab, self.terms, self.worker, self.lease, shortened);
        Box::new(live)
    }

    /// The client left. An upstream that has the whole request is waited for, if the terms say so; another is cut off.
    fn leave(self) {
        if self.terms.on_disconnect == OnDisconnect::Abort || !self.tab.is_delivered() {
            return;
        }
        let (worker, limit) = (Arc::clone(&self.worker), self.terms.drain_time_max);
        worker.drain(limit, async move {
            let (answer, mut sent) = Head::alone(self).await;
            match answer {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    sent.into_live(&head, body, false).drain().await
                }
                Err(error) => {
                    sent.lease.1.failed(error.kind());
                    sent.tab.settle(End::NoAnswer);
                    Drained::Cut
                }
            }
        });
    }
}

/// Waits for the head of a response, for at most the route's first-byte time after the request's last byte. Dropped while
/// it waits, the client left.
pub(super) struct Head {
    /// `None` once answered.
    sent: Option<Sent>,
    /// The client is gone already.
    alone: bool,
    /// How far the request's body had come when the alarm was set; `None` once it had ended.
    uploaded: Option<u64>,
}

impl Drop for Head {
    fn drop(&mut self) {
        if let Some(sent) = self.sent.take()
            && !self.alone
        {
            sent.leave();
        }
    }
}

impl Head {
    /// For a client that waits.
    pub(super) fn new(mut sent: Sent) -> Self {
        sent.lease.0.alarm.set(sent.terms.first_byte_timeout);
        Self {
            uploaded: uploaded(&sent.tab),
            sent: Some(sent),
            alone: false,
        }
    }

    /// For a client that has left; dropped, the call is settled as it stands.
    fn alone(sent: Sent) -> Self {
        let mut head = Self::new(sent);
        head.alone = true;
        head
    }
}

impl Future for Head {
    type Output = (Result<Response<Incoming>, NoAnswer>, Sent);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(sent) = &mut this.sent else {
            return Poll::Pending;
        };
        let answer = loop {
            if let Poll::Ready(answer) = sent.answering.as_mut().poll(cx) {
                break answer.map_err(|mut error| match error.take_message() {
                    Some(unsent) => NoAnswer::Unsent(Box::new(unsent)),
                    None => NoAnswer::Broke(error.into_error()),
                });
            }
            ready!(sent.lease.0.alarm.poll_over(cx));
            // While the request goes out, its pauses on the client's side are watched by its body; here, the upstream's.
            let now = uploaded(&sent.tab);
            if now == this.uploaded {
                break Err(NoAnswer::Timeout);
            }
            this.uploaded = now;
            sent.lease.0.alarm.set(sent.terms.first_byte_timeout);
        };
        match this.sent.take() {
            Some(sent) => Poll::Ready((answer, sent)),
            None => Poll::Pending,
        }
    }
}

/// How far the request's body has come; `None` once it has ended.
fn uploaded(tab: &Tab) -> Option<u64> {
    tab.upload()
        .filter(|upload| !upload.is_done())
        .map(Progress::bytes)
}
