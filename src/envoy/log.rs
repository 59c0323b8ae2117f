//! `AccessLogService/StreamAccessLogs`: how calls ended, told after the fact. Lines may be lost on the way, and nobody sends them
//! again: what is not told of expires by policy, and is listed.

use envoy_types::pb::envoy::data::accesslog::v3 as data;
use envoy_types::pb::envoy::service::accesslog::v3 as api;
use futures_util::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::{Envoy, wire};
use crate::gate::{CallTerms, End, Outcome};
use crate::meter::Reading;

#[tonic::async_trait]
impl api::access_log_service_server::AccessLogService for Envoy {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<api::StreamAccessLogsMessage>>,
    ) -> Result<Response<api::StreamAccessLogsResponse>, Status> {
        let mut stream = request.into_inner();
        let told_to_end = self.gateway.heard_out(self.stop.clone());
        let mut told_to_end = std::pin::pin!(told_to_end);
        loop {
            let message = tokio::select! {
                // What has come is read before anything ends.
                biased;
                message = stream.next() => message,
                () = &mut told_to_end => break,
            };
            match message {
                Some(Ok(message)) => self.lines(message),
                // Cut: Envoy opens another one. What it had sent was read.
                Some(Err(_)) | None => break,
            }
        }
        Ok(Response::new(api::StreamAccessLogsResponse {}))
    }
}

impl Envoy {
    fn lines(&self, message: api::StreamAccessLogsMessage) {
        use api::stream_access_logs_message::LogEntries;
        let Some(LogEntries::HttpLogs(lines)) = message.log_entries else {
            return;
        };
        for line in &lines.log_entry {
            self.line(line);
        }
    }

    fn line(&self, line: &data::HttpAccessLogEntry) {
        let common = line.common_properties.as_ref();
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
fn is_last(common: &data::AccessLogCommon) -> bool {
    matches!(
        common.access_log_type(),
        data::AccessLogType::NotSet | data::AccessLogType::DownstreamEnd
    )
}

/// What a line says of a call's end.
fn outcome(
    line: &data::HttpAccessLogEntry,
    common: &data::AccessLogCommon,
    call: Option<&CallTerms>,
) -> Outcome {
    let response = line.response.as_ref();
    let (usage, complete) = match call {
        None => (None, false),
        Some(call) => {
            let headers = response.map(|response| &response.response_headers);
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
            .map_or(0, |request| request.request_body_bytes),
        bytes_out: response.map_or(0, |response| response.response_body_bytes),
    }
}

/// How a call ended, by its status, what Envoy says of where that came from, and its flags.
fn end(response: Option<&data::HttpResponseProperties>, common: &data::AccessLogCommon) -> End {
    let code = response.and_then(|response| response.response_code.as_ref());
    let code = code.map_or(0, |code| code.value);
    let details = response.map_or("", |response| response.response_code_details.as_str());
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
