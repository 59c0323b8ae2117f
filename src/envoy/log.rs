//! `AccessLogService/StreamAccessLogs`: how calls ended, told after the fact. Lines may be lost on the way, and nobody sends them
//! again: what is not told of expires by policy, and is listed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3 as data;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsResponse;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use futures_util::StreamExt as _;
use http::Response;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{ClientStreamingService, Grpc};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{Envoy, MESSAGE_BYTES_MAX, wire};
use crate::gate::{CallTerms, End, Outcome};
use crate::meter::Reading;

/// `envoy.service.accesslog.v3.StreamAccessLogsMessage`, as far as it is read: a line tells much more, and making strings and maps of all
/// of it costs more than what is done with it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    #[prost(message, optional, tag = "2")]
    http: Option<Entries>,
}

/// `StreamAccessLogsMessage.HTTPAccessLogEntries`.
#[derive(Clone, PartialEq, prost::Message)]
struct Entries {
    #[prost(message, repeated, tag = "1")]
    lines: Vec<Line>,
}

/// `envoy.data.accesslog.v3.HTTPAccessLogEntry`.
#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(message, optional, tag = "1")]
    common: Option<Common>,
    #[prost(message, optional, tag = "3")]
    request: Option<Asked>,
    #[prost(message, optional, tag = "4")]
    response: Option<Answered>,
}

/// `AccessLogCommon`.
#[derive(Clone, PartialEq, prost::Message)]
struct Common {
    #[prost(message, optional, tag = "8")]
    time_to_last_upstream_tx_byte: Option<Duration>,
    #[prost(message, optional, tag = "16")]
    response_flags: Option<data::ResponseFlags>,
    #[prost(message, optional, tag = "17")]
    metadata: Option<Metadata>,
    #[prost(enumeration = "data::AccessLogType", tag = "33")]
    access_log_type: i32,
}

/// `HTTPRequestProperties`.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(uint64, tag = "12")]
    body_bytes: u64,
}

/// `HTTPResponseProperties`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answered {
    #[prost(message, optional, tag = "1")]
    code: Option<UInt32Value>,
    #[prost(uint64, tag = "3")]
    body_bytes: u64,
    #[prost(map = "string, string", tag = "4")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "6")]
    code_details: String,
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
    ) -> BoxFuture<Response<Body>, Infallible> {
        let service = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<StreamAccessLogsResponse, Message>::default();
            let largest = Some(MESSAGE_BYTES_MAX);
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(largest, None);
            Ok(grpc.client_streaming(service, request).await)
        })
    }
}

impl ClientStreamingService<Message> for Log {
    type Response = StreamAccessLogsResponse;
    type Future = BoxFuture<tonic::Response<StreamAccessLogsResponse>, Status>;

    fn call(&mut self, request: Request<Streaming<Message>>) -> Self::Future {
        let envoy = Arc::clone(&self.0);
        Box::pin(async move {
            envoy.read(request.into_inner()).await;
            Ok(tonic::Response::new(StreamAccessLogsResponse {}))
        })
    }
}

impl Envoy {
    async fn read(&self, mut stream: Streaming<Message>) {
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
            for line in message.http.iter().flat_map(|entries| &entries.lines) {
                self.line(line);
            }
        }
    }

    fn line(&self, line: &Line) {
        let common = line.common.as_ref();
        let Some(common) = common.filter(|common| is_last(common)) else {
            return;
        };
        let Some(hold) = wire::hold(common.metadata.as_ref()) else {
            return;
        };
        let call = self.gateway.gate.carried(hold);
        self.settle(hold, &outcome(line, common, call.as_ref()));
    }
}

/// Whether a line is about a whole call: there may be others while it lasts.
fn is_last(common: &Common) -> bool {
    matches!(
        common.access_log_type(),
        data::AccessLogType::NotSet | data::AccessLogType::DownstreamEnd
    )
}

/// What a line says of a call's end.
fn outcome(line: &Line, common: &Common, call: Option<&CallTerms>) -> Outcome {
    let response = line.response.as_ref();
    let (usage, complete) = match call {
        None => (None, false),
        Some(call) => {
            let headers = response.map(|response| &response.headers);
            match headers.and_then(|headers| crate::gateway::usage_said(headers, &call.terms)) {
                Some(said) => (Some(said), true),
                None => wire::usage(common.metadata.as_ref(), call.api),
            }
        }
    };
    Outcome {
        end: end(response, common),
        reading: Reading {
            usage,
            complete,
            error: false,
            text_bytes: 0,
        },
        bytes_in: line
            .request
            .as_ref()
            .map_or(0, |request| request.body_bytes),
        bytes_out: response.map_or(0, |response| response.body_bytes),
    }
}

/// How a call ended, by its status, what Envoy says of where that came from, and its flags.
fn end(response: Option<&Answered>, common: &Common) -> End {
    let code = response.and_then(|response| response.code.as_ref());
    let code = code.map_or(0, |code| code.value);
    let details = response.map_or("", |response| response.code_details.as_str());
    let flags = common.response_flags.unwrap_or_default();
    if flags.downstream_connection_termination || flags.downstream_remote_reset {
        // An upstream that never got the whole request did no work.
        return match common.time_to_last_upstream_tx_byte {
            Some(_) => End::ClientGone,
            None => End::ClientFailed,
        };
    }
    match (details, code) {
        ("via_upstream", 400..) => End::ErrorStatus,
        ("via_upstream", _) => End::Complete,
        // Not the upstream's own words: either it never answered, or it broke off after it had begun to.
        ("direct_response", _) | (_, 0 | 400..) => End::NoAnswer,
        _ => End::Cut,
    }
}

#[cfg(test)]
mod tests;
