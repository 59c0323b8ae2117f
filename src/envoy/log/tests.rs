//! Which line of an access log is which end.

use envoy_types::pb::google::protobuf::{Duration, UInt32Value};

use super::*;

fn check(details: &str, code: u32, flags: data::ResponseFlags, sent: bool, expected: End) {
    let response = data::HttpResponseProperties {
        response_code: (code > 0).then_some(UInt32Value { value: code }),
        response_code_details: details.into(),
        ..Default::default()
    };
    let common = data::AccessLogCommon {
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
fn lines_while_a_call_lasts_end_nothing() {
    for (kind, expected) in [
        (data::AccessLogType::NotSet, true),
        (data::AccessLogType::DownstreamEnd, true),
        (data::AccessLogType::DownstreamStart, false),
        (data::AccessLogType::DownstreamPeriodic, false),
        (data::AccessLogType::UpstreamEnd, false),
    ] {
        let common = data::AccessLogCommon {
            access_log_type: kind.into(),
            ..Default::default()
        };
        assert_eq!(is_last(&common), expected, "{kind:?}");
    }
}
