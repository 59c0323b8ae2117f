//! Rate headers: where an admitted caller stands, in the words its client library reads. Pure; which calls carry them is up to
//! the edges.

use std::fmt::{self, Write};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::RateView;
use crate::clock::Timestamp;
use crate::route::Dialect;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const OPENAI_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const OPENAI_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const OPENAI_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const ANTHROPIC_LIMIT: HeaderName = HeaderName::from_static("anthropic-ratelimit-requests-limit");
const ANTHROPIC_REMAINING: HeaderName =
    HeaderName::from_static("anthropic-ratelimit-requests-remaining");
const ANTHROPIC_RESET: HeaderName = HeaderName::from_static("anthropic-ratelimit-requests-reset");

/// Puts the rate headers of a dialect, and always the IETF draft's, in place of any of the same names. `now` is the time of day
/// that resets are counted from.
pub fn rate(dialect: Dialect, view: &RateView, now: Timestamp, headers: &mut HeaderMap) {
    let limit = &mut itoa::Buffer::new();
    let limit = limit.format(view.limit);
    join(headers, POLICY, &["\"qps\";q=", limit, ";w=1"]);
    let (remaining, reset) = (&mut itoa::Buffer::new(), &mut itoa::Buffer::new());
    let remaining = remaining.format(view.remaining);
    let reset = reset.format(whole_seconds(view.reset));
    join(headers, LIMIT, &["\"qps\";r=", remaining, ";t=", reset]);
    match dialect {
        Dialect::Openai => {
            headers.insert(OPENAI_LIMIT, view.limit.into());
            headers.insert(OPENAI_REMAINING, view.remaining.into());
            put(
                headers,
                OPENAI_RESET,
                format_args!("{}", GoDuration(view.reset)),
            );
        }
        Dialect::Anthropic => {
            headers.insert(ANTHROPIC_LIMIT, view.limit.into());
            headers.insert(ANTHROPIC_REMAINING, view.remaining.into());
            put(
                headers,
                ANTHROPIC_RESET,
                format_args!("{}", now.plus(view.reset)),
            );
        }
        Dialect::Gemini | Dialect::Problem => {}
    }
}

/// Sets a header to a short text of parts: rate headers are on every answer, and formatting costs more than the rest of them.
fn join(headers: &mut HeaderMap, name: HeaderName, parts: &[&str]) {
    let mut line = Line::default();
    if parts.iter().all(|part| line.write_str(part).is_ok())
        && let Ok(value) = HeaderValue::from_bytes(line.text())
    {
        headers.insert(name, value);
    }
}

/// Sets a header to a short text.
pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, text: fmt::Arguments<'_>) {
    let mut line = Line::default();
    // A text that does not fit, or is not a header value, is left out: no number or instant is.
    if line.write_fmt(text).is_ok()
        && let Ok(value) = HeaderValue::from_bytes(line.text())
    {
        headers.insert(name, value);
    }
}

/// Seconds, rounded up: a caller that comes back after them is not too early.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs()
        .saturating_add(u64::from(wait.subsec_nanos() > 0))
}

/// Milliseconds, rounded up.
pub(super) fn whole_millis(wait: Duration) -> u128 {
    wait.as_nanos().div_ceil(1_000_000)
}

/// The longest text that is put: twice an RFC 3339 instant with nanoseconds.
const LINE_BYTES_MAX: usize = 64;

/// A text on the stack: these are written on every answer.
struct Line {
    bytes: [u8; LINE_BYTES_MAX],
    used: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; LINE_BYTES_MAX],
            used: 0,
        }
    }
}

impl Line {
    fn text(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.used.saturating_add(text.len());
        let room = self.bytes.get_mut(self.used..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

/// A duration as Go writes it, in whole milliseconds, rounded up: `120ms`, `1.5s`, `6m0s`, `1h0m0s`.
struct GoDuration(Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = whole_millis(self.0);
        if millis == 0 {
            return f.write_str("0s");
        }
        if millis < 1000 {
            return write!(f, "{millis}ms");
        }
        let (seconds, rest) = (millis / 1000, millis % 1000);
        let (minutes, hours) = (seconds / 60, seconds / 3600);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}", seconds % 60)?;
        if rest > 0 {
            let digits = format!("{rest:03}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (120_000_000, "120ms"),
            (999_000_001, "1s"),
            (1_500_000_000, "1.5s"),
            (1_050_000_000, "1.05s"),
            (59_999_000_000, "59.999s"),
            (360_000_000_000, "6m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_001_000_000, "25h1m1.001s"),
        ] {
            let go = GoDuration(Duration::from_nanos(nanos));
            assert_eq!(go.to_string(), text, "{nanos}");
        }
    }

    fn check(dialect: Dialect, expected: &[(&str, &str)]) {
        let view = RateView {
            limit: 100,
            burst: 200,
            remaining: 50,
            reset: Duration::from_millis(120),
        };
        let now = Timestamp::from_nanos(1_790_000_000_000_000_000);
        let mut headers = HeaderMap::new();
        headers.insert(OPENAI_LIMIT, HeaderValue::from_static("of the upstream"));
        if dialect != Dialect::Openai {
            headers.clear();
        }
        rate(dialect, &view, now, &mut headers);
        let common = [
            ("ratelimit-policy", "\"qps\";q=100;w=1"),
            ("ratelimit", "\"qps\";r=50;t=1"),
        ];
        for (name, value) in common.iter().chain(expected) {
            assert_eq!(headers.get(*name).unwrap(), value, "{dialect:?} {name}");
        }
        assert_eq!(
            headers.len(),
            expected.len().saturating_add(2),
            "{dialect:?}"
        );
    }

    #[test]
    fn every_dialect_says_where_the_caller_stands() {
        check(
            Dialect::Openai,
            &[
                ("x-ratelimit-limit-requests", "100"),
                ("x-ratelimit-remaining-requests", "50"),
                ("x-ratelimit-reset-requests", "120ms"),
            ],
        );
        check(
            Dialect::Anthropic,
            &[
                ("anthropic-ratelimit-requests-limit", "100"),
                ("anthropic-ratelimit-requests-remaining", "50"),
                (
                    "anthropic-ratelimit-requests-reset",
                    "2026-09-21T14:13:20.12Z",
                ),
            ],
        );
        check(Dialect::Gemini, &[]);
        check(Dialect::Problem, &[]);
    }
}
