//! Each kind of value: what is read, and what is said of the rest.

use super::*;

/// Reads a text, and each hint must name what would work.
fn check<T: PartialEq + std::fmt::Debug>(
    parse: impl FnOnce(&Value) -> Result<T, String>,
    written: impl Into<Value>,
    expected: Result<T, &str>,
) {
    let written = written.into();
    match (parse(&written), expected) {
        (Err(hint), Err(part)) => assert!(hint.contains(part), "{written}: {hint}"),
        (got, expected) => assert_eq!(got, expected.map_err(str::to_owned), "{written}"),
    }
}

#[test]
fn durations() {
    let range = Duration::from_millis(10)..=Duration::from_secs(86_400);
    for (written, expected) in [
        ("100ms", Ok(Duration::from_millis(100))),
        ("10ms", Ok(Duration::from_millis(10))),
        ("30s", Ok(Duration::from_secs(30))),
        ("30 s", Ok(Duration::from_secs(30))),
        ("5m", Ok(Duration::from_secs(300))),
        ("2h", Ok(Duration::from_secs(7_200))),
        ("1d", Ok(Duration::from_secs(86_400))),
        ("9ms", Err("10ms to 1d")),
        ("25h", Err("10ms to 1d")),
        ("30", Err("such as")),
        ("s", Err("such as")),
        ("", Err("such as")),
        ("1.5s", Err("such as")),
        ("-1s", Err("such as")),
        ("1S", Err("such as")),
        ("99999999999999999999s", Err("such as")),
        ("9999999999999999999d", Err("such as")),
    ] {
        check(duration(range.clone()), written, expected);
    }
    check(duration(range), 30, Err("such as"));
    for (millis, shown) in [(0, "0s"), (1, "1ms"), (1_500, "1500ms"), (90_000, "90s")] {
        assert_eq!(show_duration(Duration::from_millis(millis)), shown);
    }
}

#[test]
fn sizes() {
    for (written, expected) in [
        ("1", Ok(1)),
        ("10B", Ok(10)),
        ("64KiB", Ok(65_536)),
        ("1 MiB", Ok(1 << 20)),
        ("2MB", Ok(2_000_000)),
        ("1GiB", Ok(1 << 30)),
        ("2GiB", Err("1 to 1073741824 bytes")),
        ("0", Err("1 to 1073741824 bytes")),
        ("64K", Err("64KiB")),
        ("-1", Err("64KiB")),
        ("99999999999GiB", Err("64KiB")),
    ] {
        check(size::<u64>(1..=1 << 30), written, expected);
    }
    check(size::<u64>(1..=10), 7, Ok(7));
    check(size::<u64>(1..=10), -7, Err("bytes"));
}

#[test]
fn numbers_flags_and_words() {
    check(count::<u32>(1..=10), 10, Ok(10));
    check(count::<u32>(1..=10), "10", Ok(10));
    check(count::<u32>(1..=10), 11, Err("1 to 10"));
    check(count::<u32>(1..=10), -1, Err("1 to 10"));
    check(count::<u32>(1..=10), 1.5, Err("1 to 10"));
    check(count::<u64>(1..=u64::MAX), 0, Err("from 1 on"));
    check(count::<u8>(0..=u64::MAX), 256, Err("from 0 on"));
    check(flag, true, Ok(true));
    check(flag, "false", Ok(false));
    check(flag, "yes", Err("true or false"));
    check(text, "", Err("not an empty one"));
    check(text, 5, Err("in quotes"));
    check(
        choice::<super::super::LogFormat>,
        "jsn",
        Err("expected `text` or `json`"),
    );
}

#[test]
fn amounts_are_texts() {
    check(amount, "2.50", Ok(Amount::from_nanos(2_500_000_000)));
    check(amount, "-1", Ok(Amount::from_nanos(-1_000_000_000)));
    check(amount_or_zero, "-1", Err("zero or more"));
    check(amount, "0.0000000001", Err("9 places"));
    check(amount, 2.5, Err("in quotes"));
    check(amount, 2, Err("in quotes"));
    check(amount, "1e3", Err("decimal number"));
}

#[test]
fn addresses() {
    let tcp = |text: &str| Ok(Listen::Tcp(text.parse().unwrap()));
    check(listen, "127.0.0.1:1", tcp("127.0.0.1:1"));
    check(listen, "[::1]:1", tcp("[::1]:1"));
    check(listen, "unix:/run/t", Ok(Listen::Unix("/run/t".into())));
    check(listen, "unix:run/t", Err("absolute"));
    check(
        listen,
        format!("unix:/{}", "a".repeat(107)),
        Err("107 bytes"),
    );
    check(listen, "localhost:1", Err("127.0.0.1:8080"));
    check(address, "127.0.0.1", Err("and a port"));
    for (text, local) in [
        ("127.0.0.1:1", true),
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
    ] {
        assert_eq!(
            Listen::Tcp(text.parse().unwrap()).is_local(),
            local,
            "{text}"
        );
    }
}

#[test]
fn urls() {
    let at = |tls, host: &str, port, base_path: &str| {
        Ok(Url {
            tls,
            host: host.into(),
            port,
            base_path: base_path.into(),
        })
    };
    for (written, expected) in [
        ("http://a", at(false, "a", 80, "")),
        ("https://A.example/", at(true, "a.example", 443, "")),
        (
            "https://a.example:8443/x/v1/",
            at(true, "a.example", 8443, "/x/v1"),
        ),
        ("http://[::1]:8000", at(false, "[::1]", 8000, "")),
        ("http://a:0", Err("1 to 65535")),
        ("http://a:99999", Err("")),
        ("ftp://a", Err("https://")),
        ("a.example", Err("https://")),
        ("//a", Err("https://")),
        ("https://u:p@a", Err("headers")),
        ("https://a/?x=1", Err("query")),
        ("https://a/#x", Err("fragment")),
        ("https://", Err("https://")),
    ] {
        check(url, written, expected);
    }
}

#[test]
fn hosts_and_paths() {
    check(host, "API.example", Ok("api.example".into()));
    check(host, "[::1]", Ok("[::1]".into()));
    for wrong in ["", "*.example", "http://a", "a:80", "a/b", "[x]"] {
        check(host, wrong, Err("api.example.com"));
    }
    check(path, "/", Ok("/".into()));
    check(path, "/v1/chat", Ok("/v1/chat".into()));
    check(path, "v1", Err("begins with a slash"));
    check(path, "/v1/", Err("\"/v1\""));
    for wrong in ["/a/../b", "/a//b", "/a?b", "/a b", "/a*", "/.", "//"] {
        check(path, wrong, Err(""));
    }
}

#[test]
fn headers_that_frame_a_message_are_not_set() {
    let parse = |name: &str, value: &str| header(name, &value.into());
    assert!(parse("Authorization", "Bearer x").unwrap().1.is_sensitive());
    for name in [
        "Host",
        "content-length",
        "Connection",
        "x-tollgate-reason",
        "a b",
        "",
    ] {
        assert!(parse(name, "x").is_err(), "{name}");
    }
    for value in ["", "a\nb"] {
        assert!(parse("x-a", value).is_err(), "{value:?}");
    }
}
