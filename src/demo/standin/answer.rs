//! Bodies of answers: one JSON document, or server-sent events with pauses between them, and either broken off on demand.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;

use super::knobs::{Knobs, Say};

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// A status and a body of some type.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Body,
}

/// One server-sent event.
#[derive(Debug)]
pub(super) struct Event {
    /// Its `event:` line, which OpenAI's have not.
    pub(super) name: Option<&'static str>,
    /// Its `data:`.
    pub(super) data: String,
    /// Whether it carries a token, and so waits for the token delay.
    pub(super) token: bool,
}

impl Event {
    fn to_bytes(&self) -> Bytes {
        match self.name {
            Some(name) => format!("event: {name}\ndata: {}\n\n", self.data).into(),
            None => format!("data: {}\n\n", self.data).into(),
        }
    }
}

impl Answer {
    /// A JSON document, broken off in its middle if the knob says so.
    pub(super) fn json(status: StatusCode, value: &Value, knobs: Option<&Knobs>) -> Self {
        let bytes = Bytes::from(value.to_string());
        let body = match knobs.and_then(|knobs| knobs.cut_after) {
            None => Full::new(bytes).map_err(|never| match never {}).boxed(),
            Some(_) => {
                let half = bytes.slice(..bytes.len() / 2);
                cut_body(stream::iter([(Duration::ZERO, half)]))
            }
        };
        Self {
            status,
            content_type: "application/json",
            body,
        }
    }

    /// Events in turn. They are made as they are sent, so a long answer holds no memory and a slow reader slows it.
    pub(super) fn events(
        events: impl Iterator<Item = Event> + Send + Sync + 'static,
        knobs: &Knobs,
    ) -> Self {
        let token_delay = knobs.token_delay;
        let frames = events.map(move |event| {
            let pause = if event.token {
                token_delay
            } else {
                Duration::ZERO
            };
            (pause, event.to_bytes())
        });
        let body = match knobs.cut_after {
            None => paced(stream::iter(frames)),
            Some(events) => {
                let events = usize::try_from(events).unwrap_or(usize::MAX);
                cut_body(stream::iter(frames.take(events)))
            }
        };
        Self {
            status: StatusCode::OK,
            content_type: "text/event-stream",
            body,
        }
    }
}

/// Says the usage in an object, or does not.
pub(super) fn put_usage(object: &mut Value, usage: Value, say: Say) {
    let usage = match say {
        Say::Usage => usage,
        Say::Null => Value::Null,
        Say::Nothing => return,
    };
    if let Some(fields) = object.as_object_mut() {
        fields.insert("usage".into(), usage);
    }
}

trait Pieces: stream::Stream<Item = (Duration, Bytes)> + Send + Sync + 'static {}
impl<S: stream::Stream<Item = (Duration, Bytes)> + Send + Sync + 'static> Pieces for S {}

fn paced(pieces: impl Pieces) -> Body {
    let frames = pieces.then(|piece| async { Ok(frame(piece).await) });
    BodyExt::boxed(StreamBody::new(frames))
}

/// An error at the end of a body makes the server break the connection (HTTP/1.1) or reset the stream (HTTP/2).
fn cut_body(pieces: impl Pieces) -> Body {
    let broken = stream::once(async {
        // The pieces before are still on their way to the socket: an error in the same turn would drop them.
        tokio::time::sleep(FLUSH_PAUSE).await;
        Err(io::Error::other("cut, as asked for"))
    });
    let frames = pieces.then(|piece| async { Ok(frame(piece).await) });
    BodyExt::boxed(StreamBody::new(frames.chain(broken)))
}

/// Longer than a turn of the runtime takes to write to a loopback socket.
const FLUSH_PAUSE: Duration = Duration::from_millis(20);

async fn frame((pause, bytes): (Duration, Bytes)) -> Frame<Bytes> {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    Frame::data(bytes)
}
