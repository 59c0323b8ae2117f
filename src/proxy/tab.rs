//! The running tab of one call: what it holds, what was seen of it, and that it is settled exactly once. What is charged for
//! each way it can end is up to the gate.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::response::Parts;

use super::access::Line;
use super::upload::Progress;
use crate::gate::{End, Outcome, Ticket};
use crate::meter::{Api, Reading, ResponseScan};
use crate::route::Terms;
use crate::usage::Counts;

/// One admitted call. Settled by [`Tab::settle`], or, if it is dropped before that, by how far it had come.
pub(super) struct Tab {
    /// `None` once settled.
    ticket: Option<Ticket>,
    /// How the request's body fares, if it did not come whole.
    upload: Option<Arc<Progress>>,
    /// The bytes of a request's body that came whole.
    bytes_whole: u64,
    /// The request was handed to the upstream, which may work on it from then on.
    sent: bool,
    /// The upstream said an error status.
    error_status: bool,
    /// The usage that response headers said.
    said: Option<Counts>,
    /// Reads the response's body; `None` where it cannot or need not be read.
    scan: Option<ResponseScan>,
    bytes_out: u64,
    /// What is logged of it, if that is.
    line: Option<Box<Line>>,
}

impl Tab {
    /// Opens the tab of an admitted call whose request's body has so many bytes, or fares as `upload` says.
    ///
    /// Boxed: it goes from hand to hand until the call is over.
    pub(super) fn open(
        ticket: Ticket,
        bytes_whole: u64,
        upload: Option<Arc<Progress>>,
        line: Option<Box<Line>>,
    ) -> Box<Self> {
        Box::new(Self {
            ticket: Some(ticket),
            upload,
            bytes_whole,
            sent: false,
            error_status: false,
            said: None,
            scan: None,
            bytes_out: 0,
            line,
        })
    }

    /// The request goes out: from here on, a client that leaves leaves work behind.
    pub(super) const fn sent(&mut self) {
        self.sent = true;
    }

    /// Takes in the head of the response. `strip`: the usage event was asked for by the proxy, not by the client. True if
    /// the body that the client gets may be shorter than the upstream's.
    pub(super) fn answered(&mut self, parts: &Parts, terms: &Terms, api: Api, strip: bool) -> bool {
        self.error_status = parts.status.is_client_error() || parts.status.is_server_error();
        if let Some(line) = &mut self.line {
            line.answered(parts.status);
        }
        self.said = usage_said(&parts.headers, terms);
        let event_stream = is_event_stream(&parts.headers);
        // A client that asked to be spared the usage event is spared it even where a header says the usage.
        let strip = strip && event_stream;
        let readable = api != Api::Opaque && !is_encoded(&parts.headers);
        if readable && (self.said.is_none() || strip) {
            self.scan = Some(ResponseScan::new(api, event_stream, strip));
        }
        strip && self.scan.is_some()
    }

    /// Takes in a piece of the response, and returns what the client gets of it now.
    pub(super) fn piece(&mut self, piece: Bytes) -> Bytes {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.bytes_out = self.bytes_out.saturating_add(length);
        match &mut self.scan {
            Some(scan) => scan.feed(piece),
            None => piece,
        }
    }

    /// The response's body is over: what the client still gets of it.
    pub(super) fn rest(&mut self) -> Bytes {
        self.scan
            .as_mut()
            .map_or_else(Bytes::new, ResponseScan::end)
    }

    /// Counts bytes that pass without being read: those of an upgraded connection.
    pub(super) const fn passed(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes_whole = self.bytes_whole.saturating_add(bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(bytes_out);
    }

    /// How the request's body fares, if it passes through.
    pub(super) fn upload(&self) -> Option<&Progress> {
        self.upload.as_deref()
    }

    /// Bytes of the response so far.
    pub(super) const fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// Whether it is settled.
    pub(super) const fn is_settled(&self) -> bool {
        self.ticket.is_none()
    }

    /// Whether the response's own end marker was seen: nothing that follows changes the charge.
    pub(super) fn is_complete(&self) -> bool {
        let scan = self.scan.as_ref();
        scan.is_some_and(|scan| scan.reading().complete)
    }

    /// Settles a call whose response came to its end.
    pub(super) fn settle_ended(&mut self) {
        self.settle(if self.error_status {
            End::ErrorStatus
        } else {
            End::Complete
        });
    }

    /// Settles a call whose response broke off.
    pub(super) fn settle_cut(&mut self) {
        let client_failed = self
            .upload
            .as_ref()
            .is_some_and(|upload| upload.failed().is_some());
        self.settle(match (client_failed, self.bytes_out) {
            (false, _) => End::Cut,
            (true, 0) => End::ClientFailed,
            (true, _) => End::ClientGone,
        });
    }

    /// Settles the call; does nothing the second time.
    pub(super) fn settle(&mut self, end: End) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut reading = self
            .scan
            .as_ref()
            .map_or_else(Reading::default, ResponseScan::reading);
        reading.usage = self.said.or(reading.usage);
        let streamed = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        let outcome = Outcome {
            end,
            reading,
            bytes_in: self.bytes_whole.saturating_add(streamed),
            bytes_out: self.bytes_out,
        };
        let charge = ticket.settle(outcome);
        if let Some(line) = &self.line {
            line.write(&outcome, &charge);
        }
    }

    /// Whether the upstream has the whole request, so that it can finish without the client.
    pub(super) fn is_delivered(&self) -> bool {
        self.sent && self.upload.as_ref().is_none_or(|upload| upload.is_done())
    }
}

impl Drop for Tab {
    /// The client left, the worker ends, or something panicked.
    fn drop(&mut self) {
        // An upstream that never got the whole request, and said nothing, did no work.
        let idle = !self.is_delivered() && self.bytes_out == 0;
        self.settle(if idle {
            End::ClientFailed
        } else {
            End::ClientGone
        });
    }
}

/// The usage that a response's headers say, of the meters that the route names; `None` if none does.
fn usage_said(headers: &HeaderMap, terms: &Terms) -> Option<Counts> {
    let mut counts = None;
    for (meter, name) in &terms.usage_headers {
        let Some(value) = headers.get(name) else {
            continue;
        };
        let count = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        match count {
            Some(count) => counts
                .get_or_insert_with(Counts::default)
                .set(*meter, count),
            None => {
                tracing::warn!(route = terms.route, header = %name, ?value, "usage is not a whole number")
            }
        }
    }
    counts
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    let kind = kind.and_then(|kind| kind.split(|&byte| byte == b';').next());
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes());
    encoding.is_some_and(|name| !name.trim_ascii().eq_ignore_ascii_case(b"identity"))
}
