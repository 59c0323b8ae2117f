//! Which line of an access log is which end.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::data::accesslog::v3 as data;
use envoy_types::pb::envoy::service::accesslog::v3 as api;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value, value::Kind};

use super::*;
use crate::envoy::fields as write;
use crate::envoy::wire::tests::fields;

fn check(details: &str, code: u64, is_left: bool, is_sent: bool, expected: End) {
    let line = Line {
        common: Common {
            is_left,
            is_sent,
            ..Default::default()
        },
        answered: Answered {
            code,
            code_details: details.as_bytes(),
            ..Default::default()
        },
        ..Default::default()
    };
    assert_eq!(end(&line), expected, "{line:?}");
}

#[test]
fn every_line_is_an_end() {
    check("via_upstream", 200, false, true, End::Complete);
    check("via_upstream", 304, false, true, End::Complete);
    check("via_upstream", 400, false, true, End::ErrorStatus);
    check("via_upstream", 503, false, true, End::ErrorStatus);
    check(
        "upstream_reset_before_response_started{connection_failure}",
        503,
        false,
        false,
        End::NoAnswer,
    );
    check("upstream_response_timeout", 504, false, true, End::NoAnswer);
    check(
        "upstream_reset_after_response_started{connection_termination}",
        200,
        false,
        true,
        End::Cut,
    );
    check("stream_idle_timeout", 200, false, true, End::Cut);
    check("direct_response", 200, false, false, End::NoAnswer);
    check("rbac_access_denied", 403, false, false, End::NoAnswer);
    check(
        "downstream_remote_disconnect",
        200,
        true,
        true,
        End::ClientGone,
    );
    check(
        "downstream_remote_disconnect",
        0,
        true,
        true,
        End::ClientGone,
    );
    check(
        "downstream_remote_disconnect",
        0,
        true,
        false,
        End::ClientFailed,
    );
}

/// A line with all that is read of it, and some more.
fn told(
    flags: data::ResponseFlags,
    spaces: impl IntoIterator<Item = (&'static str, Struct)>,
) -> data::HttpAccessLogEntry {
    let spaces = spaces
        .into_iter()
        .map(|(name, fields)| (name.to_owned(), fields));
    data::HttpAccessLogEntry {
        common_properties: Some(data::AccessLogCommon {
            sample_rate: 1.0,
            route_name: "r".into(),
            time_to_last_upstream_tx_byte: Some(Duration {
                seconds: 1,
                nanos: 2,
            }),
            response_flags: Some(flags),
            metadata: Some(core::Metadata {
                filter_metadata: spaces.collect(),
                ..Default::default()
            }),
            access_log_type: AccessLogType::DownstreamEnd.into(),
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
    }
}

fn message(lines: Vec<data::HttpAccessLogEntry>) -> Vec<u8> {
    let entries = api::stream_access_logs_message::HttpAccessLogEntries { log_entry: lines };
    let entries = api::stream_access_logs_message::LogEntries::HttpLogs(entries);
    let message = api::StreamAccessLogsMessage {
        identifier: Some(api::stream_access_logs_message::Identifier {
            log_name: "calls".into(),
            ..Default::default()
        }),
        log_entries: Some(entries),
    };
    message.encode_to_vec()
}

/// Reads the one line that there is.
fn one<T>(line: data::HttpAccessLogEntry, mut look: impl FnMut(&Line<'_>) -> T) -> T {
    let message = message(vec![line]);
    let mut seen = Vec::new();
    lines(&message, |line| seen.push(look(line))).unwrap();
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.into())
}

#[test]
fn a_line_is_read_as_envoy_writes_it() {
    let flags = data::ResponseFlags {
        downstream_remote_reset: true,
        ..Default::default()
    };
    let usage = fields(&[("prompt_tokens", Kind::NumberValue(5.0))]);
    let spaces = [
        (wire::USAGE, usage.clone()),
        (
            wire::CHECK,
            fields(&[("account", text("a")), ("hold", text("a~1"))]),
        ),
        ("other", fields(&[("hold", text("no"))])),
    ];
    one(told(flags, spaces), |line| {
        let common = &line.common;
        assert!(common.is_left && common.is_sent && common.is_last());
        assert_eq!(common.hold, Some("a~1"));
        assert_eq!(common.usage.map(Struct::decode), Some(Ok(usage.clone())));
        assert_eq!((line.bytes_in, line.answered.body_bytes), (11, 12));
        assert_eq!(line.answered.code, 200);
        assert_eq!(line.answered.code_details, b"via_upstream");
        let header = Entry {
            name: b"a",
            value: b"b",
        };
        assert_eq!(line.answered.headers.0, [header]);
    });
}

#[test]
fn a_client_is_gone_by_either_flag_and_by_no_other() {
    let is_left = |flags| one(told(flags, []), |line| line.common.is_left);
    let none = data::ResponseFlags::default;
    assert!(is_left(data::ResponseFlags {
        downstream_connection_termination: true,
        ..none()
    }));
    assert!(is_left(data::ResponseFlags {
        downstream_remote_reset: true,
        ..none()
    }));
    assert!(!is_left(data::ResponseFlags {
        upstream_connection_termination: true,
        upstream_remote_reset: true,
        local_reset: true,
        ..none()
    }));
    assert!(!is_left(none()));
}

#[test]
fn the_hold_is_where_one_of_our_filters_put_it() {
    let hold = |spaces: &[(&'static str, &str)]| {
        let spaces = spaces.iter();
        let spaces = spaces.map(|(space, hold)| (*space, fields(&[("hold", text(hold))])));
        let told = told(data::ResponseFlags::default(), spaces);
        one(told, |line| line.common.hold.map(str::to_owned))
    };
    for space in wire::HOLD_SPACES {
        assert_eq!(hold(&[(space, "a~1")]).as_deref(), Some("a~1"), "{space}");
    }
    assert_eq!(hold(&[("other", "a~1")]), None);
    assert_eq!(hold(&[(wire::CHECK, "")]), None);
    // Check's, whichever is told first: maps have no order.
    let all = [
        (wire::RATE_LIMIT, "l"),
        (wire::OWN, "o"),
        (wire::CHECK, "c"),
    ];
    assert_eq!(hold(&all).as_deref(), Some("c"));
    assert_eq!(
        hold(&[(wire::CHECK, ""), (wire::OWN, "o")]).as_deref(),
        Some("o")
    );
}

#[test]
fn lines_before_one_that_cannot_be_read_are_heard() {
    let good = || told(data::ResponseFlags::default(), []);
    let mut message = message(vec![good(), good()]);
    message.pop();
    // The length of all lines is wrong now: none is taken for whole.
    let mut heard = 0;
    assert_eq!(lines(&message, |_| heard += 1), Err(Malformed));
    assert_eq!(heard, 0);
    let line = good().encode_to_vec();
    let message = fields_of_lines(&[&line, &line, &line[..line.len() - 1]]);
    assert_eq!(lines(&message, |_| heard += 1), Err(Malformed));
    assert_eq!(heard, 2);
}

fn fields_of_lines(lines: &[&[u8]]) -> Vec<u8> {
    let mut to = Vec::new();
    write::message(&mut to, 2, |to| {
        for line in lines {
            write::message(to, 1, |to| to.extend_from_slice(line));
        }
    });
    to
}

#[test]
fn lines_while_a_call_lasts_end_nothing() {
    for (kind, expected) in [
        (AccessLogType::NotSet, true),
        (AccessLogType::DownstreamEnd, true),
        (AccessLogType::DownstreamStart, false),
        (AccessLogType::DownstreamPeriodic, false),
        (AccessLogType::UpstreamEnd, false),
    ] {
        let line = data::HttpAccessLogEntry {
            common_properties: Some(data::AccessLogCommon {
                access_log_type: kind.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            one(line, |line| line.common.is_last()),
            expected,
            "{kind:?}"
        );
    }
    let unknown = Common {
        kind: u64::MAX,
        ..Default::default()
    };
    assert!(!unknown.is_last());
}
