//! Which headers pass, and which do not.

use std::time::Duration;

use super::*;
use crate::route::HttpVersion;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string()))
        .collect();
    lines.sort();
    lines
}

fn upstream() -> Upstream {
    Upstream {
        name: "u".into(),
        tls: false,
        host: "api.example".into(),
        port: 80,
        base_path: String::new(),
        http: HttpVersion::Http1,
        ca_file: None,
        headers: Vec::new(),
        forward_key: false,
        connect_timeout: Duration::from_secs(1),
        idle_connections_max: 1,
        idle_connection_time: Duration::from_secs(1),
    }
}

#[test]
fn the_key_is_taken_from_the_first_header_that_has_one() {
    let check = |given: &[(&str, &str)], expected: Option<&str>| {
        let headers = map(given);
        assert_eq!(secret(&headers), expected.map(str::as_bytes), "{given:?}");
    };
    check(&[], None);
    check(&[("authorization", "Bearer sk-1")], Some("sk-1"));
    check(&[("authorization", "bearer  sk-1 ")], Some("sk-1"));
    check(&[("authorization", "Bearer ")], None);
    check(&[("authorization", "Basic abc")], None);
    check(&[("authorization", "Bear")], None);
    check(
        &[("x-api-key", "a"), ("authorization", "Bearer b")],
        Some("b"),
    );
    check(
        &[("authorization", "Basic b"), ("x-api-key", "a")],
        Some("a"),
    );
    check(&[("api-key", "c"), ("x-goog-api-key", "d")], Some("c"));
    check(&[("x-goog-api-key", "d"), ("x-api-key", "")], Some("d"));
}

#[test]
fn a_request_id_is_taken_if_it_is_visible_and_short() {
    let long = "x".repeat(129);
    for (id, taken) in [
        ("abc-1", true),
        (&long[..128], true),
        (&long, false),
        ("", false),
        ("a b", false),
    ] {
        let headers = map(&[("x-request-id", id)]);
        assert_eq!(request_id(&headers).is_some(), taken, "{id:?}");
    }
}

#[test]
fn what_is_for_one_hop_stays_on_it() {
    let mut headers = map(&[
        ("connection", "close, X-Hop"),
        ("connection", "keep-alive, upgrade, te"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip, trailers"),
        ("trailer", "x-sum"),
        ("x-tollgate-reason", "FORGED"),
        ("X-Tollgate-Account", "other"),
        ("x-kept", "1"),
    ]);
    assert_eq!(
        upgrade(&headers),
        Some(HeaderValue::from_static("websocket"))
    );
    strip(&mut headers);
    let left = [("te", "trailers"), ("trailer", "x-sum"), ("x-kept", "1")];
    assert_eq!(lines(&headers), left.map(|(n, v)| (n.into(), v.into())));
    assert_eq!(upgrade(&headers), None);
}

#[test]
fn a_connection_is_not_turned_into_http_that_nobody_decides_on() {
    for (to, passed) in [
        ("websocket", true),
        ("WebSocket/13", true),
        ("h2c", false),
        ("H2C", false),
        ("websocket, h2c", false),
        ("HTTP/2.0", false),
        ("TLS/1.0, HTTP/1.1", false),
        ("h2c/1", false),
    ] {
        let mut headers = map(&[
            ("connection", "upgrade"),
            ("upgrade", to),
            ("http2-settings", "AAMAAABk"),
        ]);
        assert_eq!(upgrade(&headers).is_some(), passed, "{to}");
        strip(&mut headers);
        assert_eq!(lines(&headers), [], "{to}");
    }
}

#[test]
fn the_upstream_sees_its_own_credentials_and_whence_the_call_came() {
    let mut own = upstream();
    own.headers = vec![(
        AUTHORIZATION,
        HeaderValue::from_static("Bearer of-the-upstream"),
    )];
    let mut headers = map(&[
        ("host", "tollgate.example"),
        ("authorization", "Bearer sk-1"),
        ("x-api-key", "sk-2"),
        ("expect", "100-continue"),
        ("content-length", "7"),
        ("accept-encoding", "gzip"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
    ]);
    let from = From {
        address: &HeaderValue::from_static("10.0.0.3"),
        proto: &HeaderValue::from_static("https"),
        host: Some(HeaderValue::from_static("tollgate.example")),
        request_id: &HeaderValue::from_static("r-1"),
    };
    forward(&mut headers, &own, from, true);
    let expected = [
        ("accept-encoding", "identity"),
        ("authorization", "Bearer of-the-upstream"),
        ("host", "tollgate.example"),
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 10.0.0.3"),
        ("x-forwarded-host", "tollgate.example"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "r-1"),
    ];
    assert_eq!(lines(&headers), expected.map(|(n, v)| (n.into(), v.into())));
}

#[test]
fn cookies_are_put_in_one_line() {
    for (given, joined) in [
        (&[][..], None),
        (&[("cookie", "a=1; b=2")][..], Some("a=1; b=2")),
        (
            &[("cookie", "a=1"), ("cookie", "b=2")][..],
            Some("a=1; b=2"),
        ),
    ] {
        let mut headers = map(given);
        join_cookies(&mut headers);
        assert!(headers.get_all(COOKIE).iter().nth(1).is_none());
        let line = headers.get(COOKIE).map(|line| line.to_str().unwrap());
        assert_eq!(line, joined);
    }
}

#[test]
fn a_key_is_forwarded_where_the_upstream_asks_for_it() {
    let mut own = upstream();
    own.forward_key = true;
    let mut headers = map(&[("x-api-key", "sk-2"), ("accept-encoding", "gzip")]);
    let from = From {
        address: &HeaderValue::from_static("::1"),
        proto: &HeaderValue::from_static("http"),
        host: None,
        request_id: &HeaderValue::from_static("r-1"),
    };
    forward(&mut headers, &own, from, false);
    assert_eq!(headers["x-api-key"], "sk-2");
    assert_eq!(headers["accept-encoding"], "gzip");
    assert_eq!(headers["x-forwarded-for"], "::1");
}
