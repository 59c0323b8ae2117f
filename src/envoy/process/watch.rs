//! What was seen of one call that passes, and that it is settled exactly once: when its answer ends, or when this is dropped. No
//! message of Envoy's is known here.

use bytes::{Bytes, BytesMut};

use crate::envoy::Envoy;
use crate::gate::{CallTerms, End, Outcome, dialect};
use crate::gateway::headers::{is_encoded, is_of_type, length};
use crate::gateway::{Lines, usage_said};
use crate::meter::{Api, Reading, ResponseScan};
use crate::refusal::{Reason, Refusal};
use crate::route::Dialect;
use crate::usage::Counts;

/// One call.
pub(super) struct Watch {
    envoy: Envoy,
    /// `None` while nothing is held for it, and once it is settled.
    hold: Option<String>,
    /// What it is metered by. `None` if the hold is not known here.
    call: Option<CallTerms>,
    settled: bool,
    /// The usage event was asked for by us, not by the client.
    strip: bool,
    error_status: bool,
    event_stream: bool,
    /// The usage that the answer's headers said.
    said: Option<Counts>,
    scan: Option<ResponseScan>,
    dialect: Dialect,
    bytes_in: u64,
    bytes_out: u64,
    cut: bool,
}

impl Watch {
    pub(super) const fn new(envoy: Envoy) -> Self {
        Self {
            envoy,
            hold: None,
            call: None,
            settled: false,
            strip: false,
            error_status: false,
            event_stream: false,
            said: None,
            scan: None,
            dialect: Dialect::Openai,
            bytes_in: 0,
            bytes_out: 0,
            cut: false,
        }
    }

    /// Takes charge of a call's hold; does nothing the second time.
    pub(super) fn adopt(&mut self, hold: &str) {
        if self.hold.is_none() && !self.settled {
            self.call = self.envoy.gateway.gate.carried(hold);
            if let Some(call) = &self.call
                && call.api == Api::AnthropicMessages
            {
                self.dialect = Dialect::Anthropic;
            }
            self.hold = Some(hold.to_owned());
        }
    }

    /// In which words the client is told of a cut.
    pub(super) const fn speaks(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    /// The stream was made to say its usage.
    pub(super) const fn asks_usage(&mut self) {
        self.strip = true;
    }

    /// Whether something is held for the call.
    pub(super) const fn watches(&self) -> bool {
        self.hold.is_some() || self.settled
    }

    pub(super) const fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether what goes on is not to pass.
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn request_body(&mut self, piece: &[u8]) {
        self.bytes_in = self.bytes_in.saturating_add(length(piece));
    }

    /// The head of the answer. True if the client may get less of its body than the upstream sends.
    pub(super) fn answer_head(&mut self, lines: &impl Lines, status: u16) -> bool {
        let Some(call) = &self.call else {
            return false;
        };
        self.error_status = status >= 400;
        self.said = usage_said(lines, &call.terms);
        self.event_stream = is_of_type(lines, "text/event-stream");
        let strip = self.strip && self.event_stream;
        let readable = call.api != Api::Opaque && !is_encoded(lines);
        if readable && (self.said.is_none() || strip) {
            self.scan = Some(ResponseScan::new(call.api, self.event_stream, strip));
        }
        strip && self.scan.is_some()
    }

    /// A piece of the answer's body, and whether it is the last one. What the client gets of it, if that is not all.
    pub(super) async fn answer_body(&mut self, piece: Vec<u8>, last: bool) -> Option<Bytes> {
        self.bytes_out = self.bytes_out.saturating_add(length(&piece));
        let mut changed = None;
        if let Some(scan) = &mut self.scan {
            let before = piece.len();
            let passed = scan.feed(piece.into());
            let rest = if last { scan.end() } else { Bytes::new() };
            if self.strip && (passed.len() != before || !rest.is_empty()) {
                changed = Some(joined(passed.clone(), rest));
            }
            if !last && self.event_stream && !self.is_paid().await {
                self.settle(End::Overrun);
                self.cut = true;
                return Some(joined(changed.unwrap_or(passed), self.last_words()));
            }
            if self
                .scan
                .as_ref()
                .is_some_and(|scan| scan.reading().complete)
            {
                // `data: [DONE]`: many clients look no further, and may ask for their balance at once.
                self.end();
            }
        }
        if last {
            self.end();
        }
        changed
    }

    /// Whether what was seen so far is covered, where that matters.
    async fn is_paid(&self) -> bool {
        match &self.hold {
            Some(hold) if self.envoy.cut_overrun => {
                let seen = self.outcome(End::Overrun);
                self.envoy.gateway.gate.covers(hold, &seen).await
            }
            _ => true,
        }
    }

    /// An event that says why the stream ends here.
    fn last_words(&self) -> Bytes {
        let refusal = Refusal::new(Reason::InsufficientBalance);
        let words = dialect::refusal(self.dialect, &refusal, "").into_body();
        let name: &[u8] = match self.dialect {
            Dialect::Anthropic => b"event: error\n",
            _ => b"",
        };
        [name, b"data: ", &words, b"\n\n"].concat().into()
    }

    /// The answer came to its end.
    pub(super) fn end(&mut self) {
        self.settle(if self.error_status {
            End::ErrorStatus
        } else {
            End::Complete
        });
    }

    fn outcome(&self, end: End) -> Outcome {
        let scan = self.scan.as_ref();
        let mut reading = scan.map_or_else(Reading::default, ResponseScan::reading);
        reading.usage = self.said.or(reading.usage);
        Outcome {
            end,
            reading,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }

    /// Settles the call; does nothing the second time.
    fn settle(&mut self, end: End) {
        if let Some(hold) = self.hold.take() {
            self.settled = true;
            self.envoy.settle(&hold, &self.outcome(end));
        }
    }
}

impl Drop for Watch {
    /// The client left, Envoy did, or this process ends.
    fn drop(&mut self) {
        self.settle(End::ClientGone);
    }
}

fn joined(one: Bytes, other: Bytes) -> Bytes {
    if other.is_empty() {
        return one;
    }
    let mut both = BytesMut::from(one);
    both.extend_from_slice(&other);
    both.freeze()
}
