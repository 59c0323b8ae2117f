//! Messages in pieces, messages that are none, and how an answer ends.

use futures_util::{FutureExt as _, stream};
use http_body_util::StreamBody;
use tonic::Code;

use super::*;

fn read(pieces: &[&[u8]]) -> Result<Bytes, (Code, String)> {
    // An empty one is a piece too.
    let pieces = pieces.iter().map(|piece| {
        let piece = Bytes::copy_from_slice(piece);
        Ok::<_, Infallible>(Frame::data(piece))
    });
    let body = StreamBody::new(stream::iter(pieces));
    let read = question(body).now_or_never();
    let read = read.expect("all is there");
    read.map_err(|status| (status.code(), status.message().to_owned()))
}

fn framed(message: &[u8]) -> Vec<u8> {
    super::message(|to| to.extend_from_slice(message))
        .unwrap()
        .to_vec()
}

#[test]
fn a_message_is_the_same_in_whatever_pieces_it_comes() {
    let message = b"a question";
    let framed = framed(message);
    assert_eq!(framed[..5], [0, 0, 0, 0, 10]);
    for first in 0..=framed.len() {
        for second in first..=framed.len() {
            let pieces = [&framed[..first], &framed[first..second], &framed[second..]];
            assert_eq!(
                read(&pieces).as_deref(),
                Ok(&message[..]),
                "{first} {second}"
            );
        }
    }
    let bytes: Vec<&[u8]> = framed.chunks(1).collect();
    assert_eq!(read(&bytes).as_deref(), Ok(&message[..]));
    assert_eq!(read(&[&[0; 5]]).as_deref(), Ok(&b""[..]));
}

#[test]
fn what_is_not_one_whole_message_is_an_error() {
    let framed = framed(b"a question");
    let twice = [&framed[..], &framed[..]].concat();
    let check = |pieces: &[&[u8]], code: Code, says: &str| {
        let (found, message) = read(pieces).unwrap_err();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message}");
    };
    check(&[], Code::Internal, "no message");
    for end in 1..framed.len() {
        check(&[&framed[..end]], Code::Internal, "too early");
    }
    check(&[&twice], Code::Internal, "more than one");
    check(&[&framed, &[0]], Code::Internal, "more than one");
    check(
        &[&framed[..3], &twice[3..]],
        Code::Internal,
        "more than one",
    );
    check(&[&[1, 0, 0, 0, 0]], Code::Internal, "compressed");
    // Refused by its length, before any of it has come.
    let length = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
    let [a, b, c, d] = length.to_be_bytes();
    check(&[&[0, a, b, c, d]], Code::OutOfRange, &length.to_string());
}

#[test]
fn an_answer_is_its_message_and_then_its_status() {
    let answered = answer(message(|to| to.push(7)));
    assert_eq!(answered.headers()["content-type"], "application/grpc");
    let mut body = answered.into_body();
    let mut frame = || body.frame().now_or_never().unwrap();
    let message = frame().unwrap().unwrap().into_data().unwrap();
    assert_eq!(message[..], [0, 0, 0, 0, 1, 7]);
    let trailers = frame().unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(frame().is_none());
}

#[test]
fn an_error_has_no_message() {
    let answered = answer(Err(Status::invalid_argument("why")));
    assert_eq!(answered.headers()["grpc-status"], "3");
    assert_eq!(answered.headers()["grpc-message"], "why");
    assert!(answered.into_body().is_end_stream());
}
