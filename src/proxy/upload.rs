//! The request's body on its way to the upstream: what was held back first, then the rest as it comes, counted, bounded and
//! read on. It never waits for more than one piece.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::headers;
use super::quiet::Quiet;
use crate::gate::dialect::Problem;
use crate::meter::RequestScan;

/// A request's body.
pub(super) enum Upload {
    /// None.
    Empty,
    /// All of it was in hand before the request went out.
    Whole(Bytes),
    /// It passes through.
    Streaming(Box<Streaming>),
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Bodies are not for logs.
        f.write_str("Upload")
    }
}

/// What is known of a body that passes through; shared with the exchange, which outlives it or not.
#[derive(Default)]
pub(super) struct Progress {
    bytes: AtomicU64,
    done: AtomicBool,
    failed: OnceLock<Failed>,
}

/// Why a request's body broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// The client left, or its connection broke.
    #[error("the client left")]
    Gone,
    /// What came cannot be passed on.
    #[error("{0:?}")]
    Wrong(Problem),
}

impl Progress {
    /// Bytes of the client's body so far.
    pub(super) fn bytes(&self) -> u64 {
        // Relaxed, here and below: each says something about itself only, and one thread runs both sides.
        self.bytes.load(Relaxed)
    }

    /// Whether all of it was handed on.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Relaxed)
    }

    /// Why it broke, if it did.
    pub(super) fn failed(&self) -> Option<&Failed> {
        self.failed.get()
    }

    fn count(&self, more: usize) -> u64 {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        self.bytes.fetch_add(more, Relaxed).saturating_add(more)
    }
}

/// A body that passes through.
pub(super) struct Streaming {
    /// Held back for inspection, edited; goes first.
    held: VecDeque<Frame<Bytes>>,
    /// Nothing comes after what is held.
    ended: bool,
    rest: Incoming,
    /// Reads on while the rest passes; `None` where nothing is read.
    scan: Option<Box<RequestScan>>,
    /// How many bytes go out in all, if it is known.
    length: Option<u64>,
    bytes_max: u64,
    quiet: Quiet,
    progress: Arc<Progress>,
}

/// What a [`Streaming`] body starts with.
pub(super) struct Start {
    /// Held back for inspection, edited.
    pub(super) held: VecDeque<Frame<Bytes>>,
    /// Nothing comes after it.
    pub(super) ended: bool,
    /// The bytes that the client sent of them.
    pub(super) bytes_held: usize,
    /// The scanner, if it is to read on.
    pub(super) scan: Option<Box<RequestScan>>,
    /// How many bytes go out in all, if it is known.
    pub(super) length: Option<u64>,
    /// The most that the client may send.
    pub(super) bytes_max: u64,
    /// How long it may pause.
    pub(super) quiet: Quiet,
}

impl Streaming {
    /// A body that starts with what was held, and goes on with the rest.
    pub(super) fn new(start: Start, rest: Incoming) -> Self {
        let progress = Arc::new(Progress::default());
        progress.count(start.bytes_held);
        // All of it was held, and read to its end.
        progress.done.store(start.ended, Relaxed);
        Self {
            held: start.held,
            ended: start.ended,
            rest,
            scan: start.scan,
            length: start.length,
            bytes_max: start.bytes_max,
            quiet: start.quiet,
            progress,
        }
    }

    /// What is known of it.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let Poll::Ready(next) = Pin::new(&mut self.rest).poll_frame(cx) else {
            ready!(self.quiet.poll_over(cx));
            return Poll::Ready(Some(Err(Failed::Wrong(Problem::ClientTimeout))));
        };
        self.quiet.moved();
        Poll::Ready(match next {
            None => {
                self.ended = true;
                self.end().err().map(Err)
            }
            Some(Ok(frame)) => Some(self.take_in(frame)),
            Some(Err(error)) => Some(Err(broken(&error))),
        })
    }

    fn take_in(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Failed> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                headers::strip_trailers(&mut trailers);
                return Ok(Frame::trailers(trailers));
            }
        };
        if self.progress.count(data.len()) > self.bytes_max {
            let bytes_max = self.bytes_max;
            return Err(Failed::Wrong(Problem::TooLarge { bytes_max }));
        }
        if let Some(scan) = &mut self.scan {
            scan.feed(&data)
                .map_err(|wrong| Failed::Wrong(malformed(&wrong)))?;
        }
        if self.rest.is_end_stream() {
            // Known before the last piece goes out, so that a body of known length ends done.
            self.ended = true;
            self.end()?;
        }
        Ok(Frame::data(data))
    }

    fn end(&mut self) -> Result<(), Failed> {
        if let Some(mut scan) = self.scan.take() {
            scan.end()
                .map_err(|wrong| Failed::Wrong(malformed(&wrong)))?;
        }
        self.progress.done.store(true, Relaxed);
        Ok(())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Streaming(body) => {
                let next = match body.held.pop_front() {
                    Some(held) => Some(Ok(held)),
                    None if body.ended => None,
                    None => ready!(body.poll_rest(cx)),
                };
                if let (Some(left), Some(Ok(frame))) = (&mut body.length, &next) {
                    let sent = frame.data_ref().map_or(0, Bytes::len);
                    *left = left.saturating_sub(u64::try_from(sent).unwrap_or(u64::MAX));
                }
                if let Some(Err(failed)) = &next {
                    // Only the first word counts; a body is not read on after it.
                    let _ = body.progress.failed.set(failed.clone());
                }
                Poll::Ready(next)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(_) => false,
            Self::Streaming(body) => body.held.is_empty() && body.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Self::Streaming(body) => body
                .length
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// What an error of a client's body means: it left, or sent what is not HTTP.
pub(super) fn broken(error: &hyper::Error) -> Failed {
    let left = error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || std::error::Error::source(error)
            .is_some_and(|source| source.is::<std::io::Error>() && !is_garbage(source));
    if left {
        return Failed::Gone;
    }
    Failed::Wrong(Problem::BadRequest {
        message: "The request's body is not framed as HTTP says.".into(),
        param: None,
    })
}

/// hyper reports a chunk that is none as an I/O error of these kinds.
fn is_garbage(source: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let source = source.downcast_ref::<std::io::Error>();
    source.is_some_and(|error| matches!(error.kind(), InvalidData | InvalidInput))
}

/// A malformed body as the client is told.
pub(super) fn malformed(wrong: &crate::meter::Malformed) -> Problem {
    wrong.into()
}
