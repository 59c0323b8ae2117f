//! Which line of an access log is which end.

use super::*;

fn check(details: &str, code: u32, flags: data::ResponseFlags, sent: bool, expected: End) {
    let response = Answered {
        code: (code > 0).then_some(UInt32Value { value: code }),
        code_details: details.into(),
        ..Default::default()
    };
    let common = Common {
        response_flags: Some(flags),
        time_to_last_upstream_tx_byte: sent.then(Duration::default),
        ..Default::default()
    };
    let found = end(Some(&response), &common);
    assert_eq!(found, expected, "{details} {code} {flags:?} {sent}");
}

#[test]
fn every_line_is_an_end() {
    let none = data::ResponseFlags::default;
    let gone = || data::ResponseFlags {
        downstream_connection_termination: true,
        ..none()
    };
    let reset = || data::ResponseFlags {
        downstream_remote_reset: true,
        ..none()
    };
    check("via_upstream", 200, none(), true, End::Complete);
    check("via_upstream", 304, none(), true, End::Complete);
    check("via_upstream", 400, none(), true, End::ErrorStatus);
    check("via_upstream", 503, none(), true, End::ErrorStatus);
    check(
        "upstream_reset_before_response_started{connection_failure}",
        503,
        none(),
        false,
        End::NoAnswer,
    );
    check(
        "upstream_response_timeout",
        504,
        none(),
        true,
        End::NoAnswer,
    );
    check(
        "upstream_reset_after_response_started{connection_termination}",
        200,
        none(),
        true,
        End::Cut,
    );
    check("stream_idle_timeout", 200, none(), true, End::Cut);
    check("direct_response", 200, none(), false, End::NoAnswer);
    check("rbac_access_denied", 403, none(), false, End::NoAnswer);
    check(
        "downstream_remote_disconnect",
        200,
        gone(),
        true,
        End::ClientGone,
    );
    check(
        "downstream_remote_disconnect",
        0,
        gone(),
        true,
        End::ClientGone,
    );
    check(
        "downstream_remote_disconnect",
        0,
        gone(),
        false,
        End::ClientFailed,
    );
    check("http2.remote_reset", 200, reset(), true, End::ClientGone);
}

#[test]
fn a_line_is_read_as_envoy_writes_it() {
    use envoy_types::pb::envoy::service::accesslog::v3 as api;
    use prost::Message as _;
    let space = (wire::OWN.to_owned(), Default::default());
    let whole = data::HttpAccessLogEntry {
        common_properties: Some(data::AccessLogCommon {
            sample_rate: 1.0,
            route_name: "r".into(),
            time_to_last_upstream_tx_byte: Some(Duration {
                seconds: 1,
                nanos: 2,
            }),
            response_flags: Some(data::ResponseFlags {
                downstream_remote_reset: true,
                ..Default::default()
            }),
            metadata: Some(Metadata {
                filter_metadata: HashMap::from([space]),
                ..Default::default()
            }),
            access_log_type: data::AccessLogType::DownstreamEnd.into(),
            ..Default::default()
        }),
        request: Some(data::HttpRequestProperties {
            path: "/v1".into(),
            request_body_bytes: 11,
            ..Default::default()
        }),
        response: Some(data::HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_body_bytes: 12,
            response_headers: HashMap::from([("a".into(), "b".into())]),
            response_code_details: "via_upstream".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let entries = api::stream_access_logs_message::HttpAccessLogEntries {
        log_entry: vec![whole.clone()],
    };
    let log = api::StreamAccessLogsMessage {
        log_entries: Some(api::stream_access_logs_message::LogEntries::HttpLogs(
            entries,
        )),
        ..Default::default()
    };
    let read = Message::decode(log.encode_to_vec().as_slice()).unwrap();
    let [line] = &read.http.unwrap().lines[..] else {
        panic!("one line");
    };
    let (common, told) = (
        line.common.as_ref().unwrap(),
        whole.common_properties.unwrap(),
    );
    assert_eq!(
        common.time_to_last_upstream_tx_byte,
        told.time_to_last_upstream_tx_byte
    );
    assert_eq!(common.response_flags, told.response_flags);
    assert_eq!(common.metadata, told.metadata);
    assert_eq!(common.access_log_type, told.access_log_type);
    assert_eq!(line.request.as_ref().unwrap().body_bytes, 11);
    let (answered, told) = (line.response.as_ref().unwrap(), whole.response.unwrap());
    assert_eq!(answered.code, told.response_code);
    assert_eq!(answered.body_bytes, 12);
    assert_eq!(answered.headers, told.response_headers);
    assert_eq!(answered.code_details, told.response_code_details);
}

#[test]
fn lines_while_a_call_lasts_end_nothing() {
    for (kind, expected) in [
        (data::AccessLogType::NotSet, true),
        (data::AccessLogType::DownstreamEnd, true),
        (data::AccessLogType::DownstreamStart, false),
        (data::AccessLogType::DownstreamPeriodic, false),
        (data::AccessLogType::UpstreamEnd, false),
    ] {
        let common = Common {
            access_log_type: kind.into(),
            ..Default::default()
        };
        assert_eq!(is_last(&common), expected, "{kind:?}");
    }
}
