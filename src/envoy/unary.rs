//! gRPC methods of one message each way, as [gRPC over HTTP/2] has them: a question that lies in one piece, as Envoy sends all but the
//! largest, is read where it lies, and an answer is one buffer and its trailers.
//!
//! [gRPC over HTTP/2]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Either};
use tonic::Status;

use super::MESSAGE_BYTES_MAX;

/// An answer of this, or of the services behind.
pub(super) type Answer = Either<Said, tonic::body::Body>;

/// Room for nearly all answers.
const ANSWER_BYTES: usize = 1024;

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A message, and that all is well.
pub(super) struct Said {
    message: Option<Bytes>,
    status: Option<HeaderMap>,
}

/// Reads the one message of a request's body.
///
/// # Errors
///
/// As gRPC has them: `INTERNAL` for what is not one whole message, `OUT_OF_RANGE` for one beyond what is taken.
pub(super) async fn question<B>(mut body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut read = match next(&mut body).await? {
        Some(first) => first,
        None => return Err(Status::internal("there is no message")),
    };
    let mut wanted = wanted(&read)?;
    while wanted.is_none_or(|wanted| read.len() < wanted) {
        // It comes in pieces: they are put together once the length is known.
        let mut joined = BytesMut::with_capacity(wanted.unwrap_or(PREFIX_BYTES));
        joined.put(read);
        loop {
            let piece = next(&mut body).await?;
            let piece = piece.ok_or_else(|| Status::internal("the message ends too early"))?;
            joined.put(piece);
            if joined.len() >= wanted.unwrap_or(PREFIX_BYTES) {
                break;
            }
        }
        read = joined.freeze();
        wanted = self::wanted(&read)?;
    }
    if wanted != Some(read.len()) || next(&mut body).await?.is_some() {
        return Err(Status::internal("there is more than one message"));
    }
    read.advance(PREFIX_BYTES);
    Ok(read)
}

/// The next piece that says anything; `None` at the end.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else {
            return Ok(None);
        };
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        // Trailers of a request say nothing.
        if let Some(piece) = frame.into_data().ok().filter(|piece| !piece.is_empty()) {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}

/// How long a message is with its prefix, if that has come.
fn wanted(begun: &[u8]) -> Result<Option<usize>, Status> {
    let Some((&[compressed, ref length @ ..], _)) = begun.split_first_chunk::<PREFIX_BYTES>()
    else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(Status::internal("messages are not taken compressed"));
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(Status::out_of_range(format!(
            "a message of {length} bytes; at most {MESSAGE_BYTES_MAX} are taken"
        )));
    }
    Ok(length.checked_add(PREFIX_BYTES))
}

/// What a question is answered: a message as [`message`] makes it, or why there is none.
pub(super) fn answer(answered: Result<Bytes, Status>) -> Response<Answer> {
    let message = match answered {
        Ok(message) => message,
        Err(status) => return status.into_http().map(Either::Right),
    };
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let said = Said {
        message: Some(message),
        status: Some(trailers),
    };
    let mut response = Response::new(Either::Left(said));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

/// Makes a message of what `write` writes.
///
/// # Errors
///
/// If that is longer than gRPC can say.
pub(super) fn message(write: impl FnOnce(&mut Vec<u8>)) -> Result<Bytes, Status> {
    let mut buffer = Vec::with_capacity(ANSWER_BYTES);
    buffer.extend_from_slice(&[0; PREFIX_BYTES]);
    write(&mut buffer);
    let length = buffer.len().saturating_sub(PREFIX_BYTES);
    let length = u32::try_from(length).map_err(|_| Status::internal("the answer is too long"))?;
    if let Some([_, place @ ..]) = buffer.first_chunk_mut::<PREFIX_BYTES>() {
        *place = length.to_be_bytes();
    }
    Ok(buffer.into())
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let message = self.message.take().map(Frame::data);
        let frame = message.or_else(|| self.status.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.status.is_none()
    }
}

#[cfg(test)]
mod tests;
