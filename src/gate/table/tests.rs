//! Which path takes which route.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::route::{HttpVersion, OnDisconnect, OnMissingUsage, OnUpstreamError, Upstream};

pub(crate) fn terms() -> Terms {
    Terms {
        route: "r".into(),
        api: None,
        dialect: None,
        model: None,
        capability: None,
        free: false,
        usage_headers: BTreeMap::new(),
        on_disconnect: OnDisconnect::Drain,
        on_missing_usage: OnMissingUsage::Hold,
        on_upstream_error: OnUpstreamError::Metered,
        drain_time_max: Duration::from_secs(5),
        drain_bytes_max: 1 << 20,
        inspect_bytes_max: 1 << 16,
        body_bytes_max: 1 << 20,
        first_byte_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
    }
}

fn route(name: &str, host: Option<&str>, path: &str) -> (Route, ()) {
    let upstream = Upstream {
        name: "u".into(),
        tls: false,
        host: "h".into(),
        port: 1,
        base_path: String::new(),
        http: HttpVersion::Http1,
        ca_file: None,
        headers: Vec::new(),
        forward_key: false,
        connect_timeout: Duration::from_secs(1),
        idle_connections_max: 1,
        idle_connection_time: Duration::from_secs(1),
    };
    let route = Route {
        name: name.into(),
        host: host.map(Into::into),
        path: path.into(),
        upstream: Some(Arc::new(upstream)),
        terms: Arc::new(terms()),
    };
    (route, ())
}

#[test]
fn a_route_is_found_by_host_then_by_the_longest_path() {
    let table = Table::new(vec![
        route("v1", None, "/v1"),
        route("chat", None, "/v1/chat/"),
        route("own", Some("API.example"), "/"),
        route("own-v1", Some("api.example"), "/v1"),
    ]);
    for (host, path, name) in [
        ("x", "/v1", Some("v1")),
        ("x", "/v1/models", Some("v1")),
        ("x", "/v1x", None),
        ("x", "/", None),
        ("x", "/v1/chat", Some("chat")),
        ("x", "/v1/chat/completions", Some("chat")),
        ("x", "/v1/chats", Some("v1")),
        ("api.example", "/v2", Some("own")),
        ("api.EXAMPLE:8080", "/v1/chat", Some("own-v1")),
        ("api.example.", "/v1", Some("own-v1")),
        ("", "/v1", Some("v1")),
    ] {
        let found = table
            .find(host, path)
            .map(|(route, ())| route.name.as_str());
        assert_eq!(found, name, "{host} {path}");
    }
}

#[test]
fn a_port_is_no_part_of_a_host() {
    for (host, name) in [
        ("a", "a"),
        ("a:1", "a"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]"),
        ("a.:80", "a"),
    ] {
        assert_eq!(without_port(host), name);
    }
}

#[test]
fn every_spelling_of_a_path_is_one_path() {
    for (path, expected) in [
        ("/v1/chat", Ok("/v1/chat")),
        ("//v1///chat", Ok("/v1/chat")),
        ("/v1%2Fch%61t", Ok("/v1/chat")),
        ("/v1\\chat", Ok("/v1/chat")),
        ("/%zz/%4", Ok("/%zz/%4")),
        ("/.well-known/x", Ok("/.well-known/x")),
        ("/a/.b/..c", Ok("/a/.b/..c")),
        ("/free/../v1", Err(DotSegment)),
        ("/free/%2e%2E/v1", Err(DotSegment)),
        ("/free%2f..%2fv1", Err(DotSegment)),
        ("/free/..\\v1", Err(DotSegment)),
        ("/v1/.", Err(DotSegment)),
        ("/..", Err(DotSegment)),
        ("/free/..;/v1", Err(DotSegment)),
        ("/free/..;a=b/v1", Err(DotSegment)),
        ("/free/%2e.%3bx/v1", Err(DotSegment)),
    ] {
        let got = canonical(path);
        assert_eq!(got.as_deref(), expected.as_deref(), "{path}");
    }
}

#[test]
fn the_route_narrows_what_the_path_says() {
    for (given, path, api_expected, dialect_expected) in [
        (
            None,
            "/v1/chat/completions",
            Api::OpenAiChat,
            Dialect::Openai,
        ),
        (
            None,
            "/v1/messages",
            Api::AnthropicMessages,
            Dialect::Anthropic,
        ),
        (None, "/x", Api::Opaque, Dialect::Problem),
        (
            Some(ApiName::Openai),
            "/v1/messages",
            Api::Opaque,
            Dialect::Anthropic,
        ),
        (Some(ApiName::Openai), "/v1/x", Api::Opaque, Dialect::Openai),
        (
            Some(ApiName::Anthropic),
            "/v1/x",
            Api::Opaque,
            Dialect::Anthropic,
        ),
        (
            Some(ApiName::Opaque),
            "/v1/chat/completions",
            Api::Opaque,
            Dialect::Openai,
        ),
    ] {
        let terms = Terms {
            api: given,
            ..terms()
        };
        assert_eq!(api(&terms, path), api_expected, "{given:?} {path}");
        assert_eq!(dialect(&terms, path), dialect_expected, "{given:?} {path}");
    }
    let terms = Terms {
        dialect: Some(Dialect::Gemini),
        ..terms()
    };
    assert_eq!(dialect(&terms, "/v1/messages"), Dialect::Gemini);
}
