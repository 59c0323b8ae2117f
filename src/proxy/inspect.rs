//! Reads a request's body as far as pricing needs, and turns it into what goes upstream. It holds back no more than the route's
//! bound; what is done with the facts is up to the exchange.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::headers;
use super::quiet::Quiet;
use super::upload::{Failed, Progress, Start, Streaming, Upload, broken, malformed};
use crate::gate::dialect::Problem;
use crate::meter::{Api, Edit, RequestFacts, RequestScan};
use crate::route::Terms;

/// A request's body, read as far as it had to be.
pub(super) struct Inspected {
    /// `None` if it is not read. Boxed: what is read is handed on by value.
    scan: Option<Box<RequestScan>>,
    held: VecDeque<Frame<Bytes>>,
    bytes_held: usize,
    rest: Incoming,
    /// Nothing comes after what is held.
    ended: bool,
    /// The declared length.
    length: Option<u64>,
}

/// A body that goes upstream, and what is to be known of it.
pub(super) struct Outgoing {
    /// The body.
    pub(super) body: Upload,
    /// Its client's bytes, if it came whole.
    pub(super) bytes_whole: u64,
    /// How it fares, if it did not.
    pub(super) progress: Option<Arc<Progress>>,
    /// The upstream is asked for usage that the client did not ask for.
    pub(super) asks_usage: bool,
}

/// How much of a body is held back for a caller that nobody knows yet: most requests are smaller, and the most that strangers
/// can make us hold is this for each of theirs.
pub(super) const STRANGERS_BYTES_MAX: usize = 64 * 1024;

/// Whether the bodies of such requests are read.
pub(super) fn reads(method: &Method, api: Api) -> bool {
    *method == Method::POST && api.has_json_request()
}

/// A body of which nothing is read yet.
pub(super) fn begin(
    method: &Method,
    rest: Incoming,
    api: Api,
    terms: &Terms,
) -> Result<Inspected, Failed> {
    let bytes_max = terms.body_bytes_max;
    let length = rest.size_hint().exact();
    if length.is_some_and(|length| length > bytes_max) {
        return Err(Failed::Wrong(Problem::TooLarge { bytes_max }));
    }
    Ok(Inspected {
        scan: reads(method, api).then(|| Box::new(RequestScan::new(api))),
        held: VecDeque::new(),
        bytes_held: 0,
        ended: rest.is_end_stream(),
        rest,
        length,
    })
}

impl Inspected {
    /// Reads on until the facts are settled, the body ends, or `most` bytes, or as many as the route allows, are held. True if
    /// it ought to be read on. Waits for the client, at most the route's idle time for each piece. Dropping the future leaves
    /// the rest unread.
    pub(super) async fn read(&mut self, most: usize, terms: &Terms) -> Result<bool, Failed> {
        let Some(scan) = self.scan.take() else {
            return Ok(false);
        };
        let scan = self
            .fill(scan, most.min(terms.inspect_bytes_max), terms)
            .await?;
        let full = self.bytes_held >= terms.inspect_bytes_max;
        let more = !self.ended && !scan.settled() && !full;
        self.scan = Some(scan);
        if !more {
            self.check_model(terms)?;
        }
        Ok(more)
    }

    async fn fill(
        &mut self,
        mut scan: Box<RequestScan>,
        most: usize,
        terms: &Terms,
    ) -> Result<Box<RequestScan>, Failed> {
        let mut quiet = Quiet::new(terms.idle_timeout);
        let wrong = |wrong: crate::meter::Malformed| Failed::Wrong(malformed(&wrong));
        while !self.ended && !scan.settled() && self.bytes_held < most {
            let Some(frame) = self.next(&mut quiet).await? else {
                self.ended = true;
                break;
            };
            if let Some(data) = frame.data_ref() {
                scan.feed(data).map_err(wrong)?;
                self.bytes_held = self.bytes_held.saturating_add(data.len());
            }
            self.held.push_back(frame);
            self.ended = self.rest.is_end_stream();
            let bytes_max = terms.body_bytes_max;
            if self.bytes() > bytes_max {
                return Err(Failed::Wrong(Problem::TooLarge { bytes_max }));
            }
        }
        if self.ended {
            scan.end().map_err(wrong)?;
        }
        Ok(scan)
    }

    async fn next(&mut self, quiet: &mut Quiet) -> Result<Option<Frame<Bytes>>, Failed> {
        quiet.moved();
        let next = poll_fn(|cx| match Pin::new(&mut self.rest).poll_frame(cx) {
            Poll::Ready(next) => Poll::Ready(Ok(next)),
            Poll::Pending => {
                ready!(quiet.poll_over(cx));
                Poll::Ready(Err(Failed::Wrong(Problem::ClientTimeout)))
            }
        });
        let frame = match next.await? {
            None => return Ok(None),
            Some(frame) => frame.map_err(|error| broken(&error))?,
        };
        Ok(Some(match frame.into_trailers() {
            Err(frame) => frame,
            Ok(mut trailers) => {
                headers::strip_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
        }))
    }

    fn check_model(&self, terms: &Terms) -> Result<(), Failed> {
        let named = self.facts().is_some_and(|facts| facts.model.is_some());
        if named || terms.model.is_some() || terms.free {
            return Ok(());
        }
        let message = if self.ended {
            "The request needs a `model`: the name of the model that is called.".into()
        } else {
            let most = terms.inspect_bytes_max;
            format!("The request's `model` must stand within its first {most} bytes. Put it first.")
                .into()
        };
        let param = Some("model");
        Err(Failed::Wrong(Problem::BadRequest { message, param }))
    }

    /// What was read, if the body is one that is read.
    pub(super) fn facts(&self) -> Option<&RequestFacts> {
        self.scan.as_deref().map(RequestScan::facts)
    }

    /// The body's size as far as it is known.
    pub(super) fn bytes(&self) -> u64 {
        let held = u64::try_from(self.bytes_held).unwrap_or(u64::MAX);
        self.length.map_or(held, |length| length.max(held))
    }

    /// The body that goes upstream. `usage`: the call's cost depends on it, so a stream is made to say it.
    pub(super) fn into_outgoing(mut self, usage: bool, terms: &Terms) -> Outgoing {
        let edit = if usage {
            self.scan.as_deref().and_then(RequestScan::usage_edit)
        } else {
            None
        };
        let asks_usage = edit.is_some();
        let bytes_whole = u64::try_from(self.bytes_held).unwrap_or(u64::MAX);
        let trailers = self.held.iter().any(Frame::is_trailers);
        if self.ended && !trailers {
            let body = match self.joined(edit) {
                held if held.is_empty() => Upload::Empty,
                held => Upload::Whole(held),
            };
            return Outgoing {
                body,
                bytes_whole,
                progress: None,
                asks_usage,
            };
        }
        let mut length = self.length.filter(|_| !trailers);
        if let Some(edit) = edit {
            length = length.map(|length| edited(length, &edit));
            let joined = self.joined(Some(edit));
            self.held.retain(Frame::is_trailers);
            self.held.push_front(Frame::data(joined));
        }
        let start = Start {
            held: self.held,
            ended: self.ended,
            bytes_held: self.bytes_held,
            scan: self.scan.filter(|_| !self.ended),
            length,
            bytes_max: terms.body_bytes_max,
            quiet: Quiet::new(terms.idle_timeout),
        };
        let body = Streaming::new(start, self.rest);
        let progress = Some(body.progress());
        Outgoing {
            body: Upload::Streaming(Box::new(body)),
            bytes_whole: 0,
            progress,
            asks_usage,
        }
    }

    /// What is held, in one piece; not copied if it is one already and nothing is changed.
    fn joined(&self, edit: Option<Edit>) -> Bytes {
        let mut pieces = self.held.iter().filter_map(Frame::data_ref);
        if edit.is_none() && self.held.len() <= 1 {
            return pieces.next().cloned().unwrap_or_default();
        }
        let room = edit.as_ref().map_or(0, |edit| edit.insert.len());
        let mut whole = BytesMut::with_capacity(self.bytes_held.saturating_add(room));
        for piece in pieces {
            whole.extend_from_slice(piece);
        }
        match edit {
            None => whole.freeze(),
            Some(edit) => {
                // An edit stands within what was fed; if it did not, the body would go out as it came.
                let end = edit.at.saturating_add(edit.remove);
                let (Some(before), Some(after)) = (whole.get(..edit.at), whole.get(end..)) else {
                    return whole.freeze();
                };
                [before, edit.insert, after].concat().into()
            }
        }
    }
}

/// The length of an edited body.
fn edited(length: u64, edit: &Edit) -> u64 {
    let bytes = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    length
        .saturating_sub(bytes(edit.remove))
        .saturating_add(bytes(edit.insert.len()))
}
