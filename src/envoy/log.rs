//! `AccessLogService/StreamAccessLogs`: how calls ended, told after the fact. Lines may be lost on the way, and nobody sends them
//! again: what is not told of expires by policy, and is listed.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use envoy_types::pb::envoy::data::accesslog::v3::AccessLogType;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsResponse;
use envoy_types::pb::google::protobuf::Struct;
use futures_util::StreamExt as _;
use http::Response;
use http_body_util::Either;
use hyper::body::Incoming;
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::codegen::BoxFuture;
use tonic::server::{ClientStreamingService, Grpc};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::fields::{Entry, Fields, Headers, Held, Malformed};
use super::unary::Answer;
use super::{Envoy, MESSAGE_BYTES_MAX, wire};
use crate::gate::{CallTerms, End, Outcome};
use crate::meter::Reading;

/// What is read of `envoy.data.accesslog.v3.HTTPAccessLogEntry`, where it lies.
#[derive(Debug, Default)]
struct Line<'a> {
    common: Common<'a>,
    /// Of the request's body.
    bytes_in: u64,
    answered: Answered<'a>,
}

/// `AccessLogCommon`.
#[derive(Debug, Default)]
struct Common<'a> {
    /// Whether the request has gone to an upstream to its end.
    is_sent: bool,
    /// The client is gone.
    is_left: bool,
    /// One of `AccessLogType`.
    kind: u64,
    /// The hold's id, from the metadata of whichever filter put it there.
    hold: Option<&'a str>,
    /// `google.protobuf.Struct`: what filters have read of the answer.
    usage: Option<&'a [u8]>,
}

/// `HTTPResponseProperties`.
#[derive(Debug, Default)]
struct Answered<'a> {
    /// Zero if there is none.
    code: u64,
    body_bytes: u64,
    headers: Headers<'a>,
    code_details: &'a [u8],
}

/// Reads the lines of an `envoy.service.accesslog.v3.StreamAccessLogsMessage`, up to one that cannot be read.
fn lines<'a>(message: &'a [u8], mut each: impl FnMut(&Line<'a>)) -> Result<(), Malformed> {
    for entries in Fields::of(message) {
        let (2, Held::Bytes(entries)) = entries? else {
            continue;
        };
        for line in Fields::of(entries) {
            if let (1, Held::Bytes(line)) = line? {
                each(&Line::read(line)?);
            }
        }
    }
    Ok(())
}

impl<'a> Line<'a> {
    fn read(line: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        for field in Fields::of(line) {
            match field? {
                (1, Held::Bytes(common)) => read.common.read(common)?,
                (3, Held::Bytes(request)) => {
                    for field in Fields::of(request) {
                        if let (12, Held::Number(bytes)) = field? {
                            read.bytes_in = bytes;
                        }
                    }
                }
                (4, Held::Bytes(response)) => read.answered.read(response)?,
                _ => {}
            }
        }
        Ok(read)
    }
}

impl<'a> Common<'a> {
    fn read(&mut self, common: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(common) {
            match field? {
                // `time_to_last_upstream_tx_byte`.
                (8, Held::Bytes(_)) => self.is_sent = true,
                // `response_flags`.
                (16, Held::Bytes(flags)) => {
                    for flag in Fields::of(flags) {
                        // `downstream_connection_termination`, `downstream_remote_reset`.
                        if let (15 | 28, Held::Number(set)) = flag? {
                            self.is_left |= set != 0;
                        }
                    }
                }
                // `metadata`.
                (17, Held::Bytes(metadata)) => self.read_metadata(metadata)?,
                (33, Held::Number(kind)) => self.kind = kind,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_metadata(&mut self, metadata: &'a [u8]) -> Result<(), Malformed> {
        let mut rank = wire::HOLD_SPACES.len();
        for space in Fields::of(metadata) {
            // `filter_metadata`.
            let (1, Held::Bytes(space)) = space? else {
                continue;
            };
            let Entry { name, value } = Entry::read(space)?;
            if name == wire::USAGE.as_bytes() {
                self.usage = Some(value);
            }
            let place = wire::HOLD_SPACES.iter();
            let place = place.take(rank).position(|it| it.as_bytes() == name);
            if let Some(place) = place
                && let Some(hold) = hold(value)?
            {
                (rank, self.hold) = (place, Some(hold));
            }
        }
        Ok(())
    }
}

/// The hold in a `google.protobuf.Struct`.
fn hold(fields: &[u8]) -> Result<Option<&str>, Malformed> {
    for entry in Fields::of(fields) {
        let (1, Held::Bytes(entry)) = entry? else {
            continue;
        };
        let Entry { name, value } = Entry::read(entry)?;
        if name != wire::HOLD.as_bytes() {
            continue;
        }
        for kind in Fields::of(value) {
            // `string_value`.
            if let (3, Held::Bytes(text)) = kind? {
                let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
                return Ok((!text.is_empty()).then_some(text));
            }
        }
    }
    Ok(None)
}

impl<'a> Answered<'a> {
    fn read(&mut self, response: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(response) {
            match field? {
                // `google.protobuf.UInt32Value`.
                (1, Held::Bytes(code)) => {
                    for field in Fields::of(code) {
                        if let (1, Held::Number(code)) = field? {
                            self.code = code;
                        }
                    }
                }
                (3, Held::Number(bytes)) => self.body_bytes = bytes,
                (4, Held::Bytes(header)) => self.headers.0.push(Entry::read(header)?),
                (6, Held::Bytes(details)) => self.code_details = details,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The path of `envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs`.
pub(super) const STREAM: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// `envoy.service.accesslog.v3.AccessLogService`.
#[derive(Clone)]
pub(super) struct Log(pub(super) Arc<Envoy>);

impl Log {
    /// Reads a stream of lines to its end.
    pub(super) fn answer(
        &self,
        request: http::Request<Incoming>,
    ) -> BoxFuture<Response<Answer>, Infallible> {
        let service = self.clone();
        Box::pin(async move {
            let largest = Some(MESSAGE_BYTES_MAX);
            let mut grpc = Grpc::new(Whole::default()).apply_max_message_size_config(largest, None);
            Ok(grpc
                .client_streaming(service, request)
                .await
                .map(Either::Right))
        })
    }
}

/// Messages as they come, to be read where they lie.
#[derive(Default)]
struct Whole(ProstCodec<StreamAccessLogsResponse, ()>);

impl Codec for Whole {
    type Encode = StreamAccessLogsResponse;
    type Decode = Bytes;
    type Encoder = <ProstCodec<StreamAccessLogsResponse, ()> as Codec>::Encoder;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl Decoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

impl ClientStreamingService<Bytes> for Log {
    type Response = StreamAccessLogsResponse;
    type Future = BoxFuture<tonic::Response<StreamAccessLogsResponse>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let envoy = Arc::clone(&self.0);
        Box::pin(async move {
            envoy.read(request.into_inner()).await;
            Ok(tonic::Response::new(StreamAccessLogsResponse {}))
        })
    }
}

impl Envoy {
    async fn read(&self, mut stream: Streaming<Bytes>) {
        let told_to_end = self.gateway.heard_out(self.stop.clone());
        let mut told_to_end = std::pin::pin!(told_to_end);
        loop {
            let message = tokio::select! {
                // What has come is read before anything ends.
                biased;
                message = stream.next() => message,
                () = &mut told_to_end => return,
            };
            // Cut: Envoy opens another one. What it had sent was read.
            let Some(Ok(message)) = message else {
                return;
            };
            if let Err(error) = lines(&message, |line| self.line(line)) {
                // What stood before it was heard; what follows cannot be told apart.
                return tracing::warn!(%error, "an access log is given up");
            }
        }
    }

    fn line(&self, line: &Line<'_>) {
        if let Some(hold) = line.common.hold.filter(|_| line.common.is_last()) {
            let call = self.gateway.gate.carried(hold);
            self.settle(hold, &outcome(line, call.as_ref()));
        }
    }
}

impl Common<'_> {
    /// Whether a line is about a whole call: there may be others while it lasts.
    fn is_last(&self) -> bool {
        let kind = i32::try_from(self.kind).map(AccessLogType::try_from);
        matches!(
            kind,
            Ok(Ok(AccessLogType::NotSet | AccessLogType::DownstreamEnd))
        )
    }
}

/// What a line says of a call's end.
fn outcome(line: &Line<'_>, call: Option<&CallTerms>) -> Outcome {
    let (usage, complete) = match call {
        None => (None, false),
        Some(call) => match crate::gateway::usage_said(&line.answered.headers, &call.terms) {
            Some(said) => (Some(said), true),
            None => {
                let said = line.common.usage.map(Struct::decode);
                // What cannot be read says nothing.
                let said = said.and_then(Result::ok);
                wire::usage(said.as_ref(), call.api)
            }
        },
    };
    Outcome {
        end: end(line),
        reading: Reading {
            usage,
            complete,
            error: false,
            text_bytes: 0,
        },
        bytes_in: line.bytes_in,
        bytes_out: line.answered.body_bytes,
    }
}

/// How a call ended, by its status, what Envoy says of where that came from, and its flags.
fn end(line: &Line<'_>) -> End {
    if line.common.is_left {
        // An upstream that never got the whole request did no work.
        return match line.common.is_sent {
            true => End::ClientGone,
            false => End::ClientFailed,
        };
    }
    let Answered {
        code, code_details, ..
    } = line.answered;
    match (code_details, code) {
        (b"via_upstream", 400..) => End::ErrorStatus,
        (b"via_upstream", _) => End::Complete,
        // Not the upstream's own words: either it never answered, or it broke off after it had begun to.
        (b"direct_response", _) | (_, 0 | 400..) => End::NoAnswer,
        _ => End::Cut,
    }
}

#[cfg(test)]
mod tests;
