//! What a response's body says was used, read as it streams out, and what of it the client sees.
//! What stands where in the JSON is the answer's business, how events are cut the events'.

use bytes::{Bytes, BytesMut};

use super::Api;
use super::answer::{Answer, Choices, NAME_MAX, Name, Usage};
use super::events::{Events, Token};
use super::said::Said;
use super::short::Short;
use crate::usage::Counts;

/// The longest event that is held back to see whether it is to be stripped, in bytes. The chunks
/// that are stripped have a few hundred.
pub const EVENT_MAX: usize = 64 * 1024;

const DONE: &[u8] = b"[DONE]";

/// What a response said was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The token meters, disjoint; the others, [`Request`](crate::usage::Meter::Request) among
    /// them, are left at 0. None if no usage was said, or one that cannot be read. While the
    /// response is not `complete` these are running totals.
    pub usage: Option<Counts>,
    /// The body came to its end: the API's last event was seen, or the whole JSON text.
    pub complete: bool,
    /// An error was seen in the body.
    pub error: bool,
    /// Bytes of generated text seen, unescaped; the basis of an estimate. None of it is from error
    /// bodies.
    pub text_bytes: u64,
}

/// Reads a response's body as it streams out.
///
/// Memory is bounded: a few hundred bytes, and at most [`EVENT_MAX`] of an event held back.
pub struct ResponseScan {
    api: Api,
    body: Body,
    total: Total,
}

/// How the body is read.
enum Body {
    Unread,
    Json(Answer),
    Events(EventReader),
    Stripped(EventReader, Strip),
}

impl ResponseScan {
    /// A reader of one body. `event_stream`: its content type is `text/event-stream`.
    /// `strip_usage`: an event with nothing but the usage was asked for by the proxy only, so the
    /// client must not see it.
    pub fn new(api: Api, event_stream: bool, strip_usage: bool) -> Self {
        let strips = strip_usage && matches!(api, Api::OpenAiChat | Api::OpenAiCompletions);
        let body = match (api, event_stream) {
            (Api::Opaque, _) => Body::Unread,
            (_, false) => Body::Json(Answer::new(api, false)),
            (_, true) if strips => Body::Stripped(EventReader::new(api), Strip::new()),
            (_, true) => Body::Events(EventReader::new(api)),
        };
        Self {
            api,
            body,
            total: Total::default(),
        }
    }

    /// Reads a chunk and returns what to pass on now: the chunk itself, unless stripping holds
    /// part of it back or something before it was held. It may be empty.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        match &mut self.body {
            Body::Unread => chunk,
            Body::Json(answer) => {
                answer.feed(&chunk);
                chunk
            }
            Body::Events(reader) => {
                let mut bytes: &[u8] = &chunk;
                while reader.next(&mut bytes, &mut self.total).is_some() {}
                chunk
            }
            Body::Stripped(reader, strip) => {
                let mut bytes: &[u8] = &chunk;
                let mut cut = Cut::new();
                while let Some(end) = reader.next(&mut bytes, &mut self.total) {
                    let at = chunk.len().saturating_sub(bytes.len());
                    strip.decide(&mut cut, &chunk, at, end);
                }
                strip.pass(cut, &chunk, reader.is_choice())
            }
        }
    }

    /// The body has ended, or will not be read on: returns what was held back. An event that was
    /// not closed by a blank line is taken as it is.
    pub fn end(&mut self) -> Bytes {
        match &mut self.body {
            Body::Unread | Body::Json(_) => Bytes::new(),
            Body::Events(reader) => {
                reader.finish(&mut self.total);
                Bytes::new()
            }
            Body::Stripped(reader, strip) => {
                let end = reader.finish(&mut self.total);
                strip.finish(end)
            }
        }
    }

    /// What was said so far.
    pub fn reading(&self) -> Reading {
        let mut total = self.total;
        match &self.body {
            Body::Unread => {}
            Body::Json(answer) => {
                total.add(answer, self.api);
                total.complete = answer.done();
            }
            Body::Events(reader) | Body::Stripped(reader, _) => total.add(&reader.answer, self.api),
        }
        Reading {
            usage: total.usage.map(|said| said.counts(self.api)),
            complete: total.complete,
            error: total.error,
            text_bytes: total.text_bytes,
        }
    }
}

/// What the texts so far came to.
#[derive(Clone, Copy, Default)]
struct Total {
    usage: Option<Said>,
    /// A running total could not be read: what is missing of it is not known any more.
    lost: bool,
    complete: bool,
    error: bool,
    text_bytes: u64,
}

impl Total {
    fn add(&mut self, answer: &Answer, api: Api) {
        let found = &answer.found;
        match found.usage {
            None => {}
            // Anthropic says its totals in parts, the others all of them each time.
            Some(Usage::Said(said)) if api == Api::AnthropicMessages => {
                self.usage = (!self.lost).then(|| self.usage.unwrap_or_default().then(said));
            }
            Some(Usage::Said(said)) => self.usage = Some(said),
            Some(Usage::Unreadable) => {
                self.usage = None;
                self.lost = true;
            }
        }
        self.error |= found.failed();
        self.text_bytes = self.text_bytes.saturating_add(found.text_bytes());
        self.complete |= answer.done() && found.name.last();
    }
}

/// What the end of an event means for stripping.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has nothing but the usage.
    Usage,
    /// It has something else.
    Other,
    /// The rest of the event before: its last line feed.
    Tail,
}

/// Reads events, one at a time.
struct EventReader {
    api: Api,
    events: Events,
    answer: Answer,
    /// Whether the event has data, and how much of [`DONE`] it begins with.
    data: bool,
    done: usize,
    name: Short<NAME_MAX>,
}

impl EventReader {
    fn new(api: Api) -> Self {
        Self {
            api,
            events: Events::new(),
            answer: Answer::new(api, true),
            data: false,
            done: 0,
            name: Short::new(),
        }
    }

    /// Reads up to the next end of an event, if there is one in the bytes.
    fn next(&mut self, bytes: &mut &[u8], total: &mut Total) -> Option<End> {
        loop {
            match self.events.next(bytes)? {
                Token::DataLine if self.data => self.feed(b"\n", total),
                Token::DataLine => self.data = true,
                Token::Data(piece) => self.feed(piece, total),
                Token::NameLine => self.name.clear(),
                Token::Name(piece) => self.name.push(piece),
                Token::End => return Some(self.finish(total)),
                Token::Tail => return Some(End::Tail),
            }
        }
    }

    fn feed(&mut self, piece: &[u8], total: &mut Total) {
        // Only while all data so far was the beginning of `[DONE]`, which is not JSON.
        if let Some(left) = DONE.get(self.done..).filter(|left| !left.is_empty()) {
            let same = left
                .iter()
                .zip(piece)
                .take_while(|(one, other)| one == other)
                .count();
            self.done = match self.done.saturating_add(same) {
                done if done == DONE.len() => done,
                done if same == piece.len() => done,
                // Never again in this event.
                _ => usize::MAX,
            };
            total.complete |= self.done == DONE.len();
        }
        self.answer.feed(piece);
    }

    /// The event is over.
    fn finish(&mut self, total: &mut Total) -> End {
        if !self.data {
            self.name.clear();
            return End::Other;
        }
        let name = Name::of(self.name.get());
        total.add(&self.answer, self.api);
        total.complete |= name.last();
        total.error |= name.error();
        let end = if self.answer.is_usage_only() {
            End::Usage
        } else {
            End::Other
        };
        self.answer = Answer::new(self.api, true);
        self.name.clear();
        self.data = false;
        self.done = 0;
        end
    }

    /// Whether the open event has a choice, so that it is not one to strip.
    fn is_choice(&self) -> bool {
        self.answer.found.choices == Choices::Some
    }
}

/// Holds back events that may have to be stripped.
struct Strip {
    /// The open event so far, unless it is passed on.
    held: BytesMut,
    /// The open event's length so far, and whether it is passed on as it comes.
    length: usize,
    passing: bool,
    /// Whether the last event was stripped.
    stripped: bool,
}

/// The chunk now read: what of it is decided to be passed on.
struct Cut {
    /// What goes before the span.
    out: BytesMut,
    /// The span of the chunk that is to be passed on as it is, and how far events were decided.
    from: usize,
    to: usize,
}

impl Cut {
    fn new() -> Self {
        Self {
            out: BytesMut::new(),
            from: 0,
            to: 0,
        }
    }
}

impl Strip {
    fn new() -> Self {
        Self {
            held: BytesMut::new(),
            length: 0,
            passing: false,
            stripped: false,
        }
    }

    /// An event ends before byte `at` of the chunk: keeps or strips it.
    fn decide(&mut self, cut: &mut Cut, chunk: &[u8], at: usize, end: End) {
        let length = self.length.saturating_add(at.saturating_sub(cut.to));
        self.stripped = match end {
            End::Usage => !self.passing && length <= EVENT_MAX,
            End::Other => false,
            End::Tail => self.stripped,
        };
        if self.stripped {
            cut.out
                .extend_from_slice(chunk.get(cut.from..cut.to).unwrap_or_default());
            cut.from = at;
            self.held.clear();
        } else if !self.held.is_empty() {
            // Nothing of this chunk was decided before what was held.
            cut.out = self.held.split();
        }
        cut.to = at;
        self.length = 0;
        self.passing = false;
    }

    /// The chunk is read; holds back the event that is open at its end, or passes it on if it has
    /// a choice or is too long to be stripped.
    fn pass(&mut self, mut cut: Cut, chunk: &Bytes, is_choice: bool) -> Bytes {
        let open = chunk.get(cut.to..).unwrap_or_default();
        self.length = self.length.saturating_add(open.len());
        self.passing |= is_choice || self.length > EVENT_MAX;
        if self.passing {
            if !self.held.is_empty() {
                cut.out = self.held.split();
            }
            cut.to = chunk.len();
        } else {
            self.held.extend_from_slice(open);
        }
        if cut.out.is_empty() {
            return chunk.slice(cut.from..cut.to);
        }
        cut.out
            .extend_from_slice(chunk.get(cut.from..cut.to).unwrap_or_default());
        cut.out.freeze()
    }

    /// The stream is over, and with it the open event.
    fn finish(&mut self, end: End) -> Bytes {
        if end == End::Usage {
            self.held.clear();
        }
        self.held.split().freeze()
    }
}
