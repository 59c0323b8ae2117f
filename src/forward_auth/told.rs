//! What gateways tell in headers and JSON: the request that they ask about, and how a call ended. Pure.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde::Deserialize;

use crate::gate::{End, Outcome};
use crate::gateway::headers::{number, text};
use crate::gateway::{HOLD_HEADER, Head, Lines};
use crate::meter::{Api, Reading, usage_of};

/// The longest hold that is looked at: an account's name and a request's.
const HOLD_BYTES_MAX: usize = 512;

/// The beginning of the headers that tell usage: `x-usage-output`.
const USAGE: &str = "x-usage-";

/// What nginx calls a client that left.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The request that is asked about.
pub(super) fn head(headers: &HeaderMap) -> Head<'_> {
    let either = |one: &str, other: &str| text(headers, one).or_else(|| text(headers, other));
    Head {
        method: either("x-forwarded-method", "x-original-method").unwrap_or("GET"),
        host: either("x-forwarded-host", "x-original-host").unwrap_or_default(),
        path: either("x-forwarded-uri", "x-original-uri").unwrap_or("/"),
        route: text(headers, "x-tollgate-route"),
    }
}

/// How a call ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Told {
    /// The hold.
    pub(super) hold: String,
    /// The status that the client got; 0 or 499 if it left before.
    pub(super) status: u16,
    /// The upstream's own; without it, that of the client's answer. 0 if there was none.
    upstream_status: Option<u16>,
    bytes_in: u64,
    bytes_out: u64,
    /// By the API's name of the number, or by the name of the meter.
    usage: BTreeMap<String, u64>,
}

/// Why what is told cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("hold is missing; send what /auth gave as x-tollgate-hold")]
    NoHold,
    #[error("hold is not one that /auth gave")]
    Hold,
    #[error("{0} is `{1}`; send a whole number")]
    Number(String, String),
    #[error(
        "{0}; send {{\"hold\": \"…\", \"status\": 200, \"usage\": {{\"prompt_tokens\": 5, \"completion_tokens\": 9}}}}"
    )]
    Json(String),
}

impl Told {
    fn checked(self) -> Result<Self, Wrong> {
        match self.hold.len() {
            0 => Err(Wrong::NoHold),
            1..=HOLD_BYTES_MAX => Ok(self),
            _ => Err(Wrong::Hold),
        }
    }

    /// What that comes to.
    pub(super) fn outcome(&self, api: Option<Api>) -> Outcome {
        let number = |name: &str| self.usage.get(name).copied();
        let usage = api.and_then(|api| usage_of(api, number));
        let usage = usage.or_else(|| usage_of(Api::Opaque, number));
        let gone = matches!(self.status, 0 | CLIENT_CLOSED_REQUEST);
        let end = match self.upstream_status.unwrap_or(self.status) {
            _ if gone => End::ClientGone,
            0 => End::NoAnswer,
            400.. => End::ErrorStatus,
            _ => End::Complete,
        };
        Outcome {
            end,
            reading: Reading {
                usage,
                complete: usage.is_some(),
                ..Reading::default()
            },
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }
}

pub(super) fn in_json(body: &[u8]) -> Result<Told, Wrong> {
    let told: Told =
        serde_json::from_slice(body).map_err(|error| Wrong::Json(error.to_string()))?;
    told.checked()
}

/// From headers, as a gateway can set them; `-` is what nginx and others write for nothing.
pub(super) fn in_headers(headers: &HeaderMap) -> Result<Told, Wrong> {
    let count = |name: &str| match text(headers, name) {
        None | Some("-") => Ok(0),
        Some(text) => number(headers, name).ok_or_else(|| Wrong::Number(name.into(), text.into())),
    };
    // nginx tells each attempt: `502, 200`. The last one is the one that counts.
    let status = |name: &str| {
        let text = text(headers, name)?;
        let last = text.rsplit([',', ':']).next().unwrap_or(text).trim();
        Some(last.parse().unwrap_or(0))
    };
    let mut usage = BTreeMap::new();
    for name in Lines::names(headers) {
        if let Some(meter) = name.strip_prefix(USAGE) {
            match text(headers, name) {
                None | Some("-") => {}
                Some(_) => {
                    usage.insert(meter.replace('-', "_"), count(name)?);
                }
            }
        }
    }
    let told = Told {
        hold: text(headers, HOLD_HEADER).unwrap_or_default().into(),
        status: status("x-status").unwrap_or(200),
        upstream_status: status("x-upstream-status"),
        bytes_in: count("x-bytes-in")?,
        bytes_out: count("x-bytes-out")?,
        usage,
    };
    told.checked()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Meter;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        };
        lines.iter().map(pair).collect()
    }

    #[test]
    fn the_request_is_told_as_each_gateway_tells_it() {
        let traefik = map(&[
            ("x-forwarded-method", "POST"),
            ("x-forwarded-host", "ai.example:443"),
            ("x-forwarded-uri", "/v1/x?a=b"),
        ]);
        let nginx = map(&[
            ("x-original-method", "POST"),
            ("x-original-host", "ai.example:443"),
            ("x-original-uri", "/v1/x?a=b"),
        ]);
        for headers in [traefik, nginx] {
            let head = head(&headers);
            let seen = (head.method, head.host, head.path);
            assert_eq!(seen, ("POST", "ai.example:443", "/v1/x?a=b"));
        }
    }

    fn check(lines: &[(&'static str, &'static str)], end: End, output: Option<u64>) {
        let all = [&[("x-tollgate-hold", "a~1")], lines].concat();
        let told = in_headers(&map(&all)).unwrap();
        let outcome = told.outcome(Some(Api::OpenAiChat));
        let seen = outcome
            .reading
            .usage
            .map(|counts| counts.get(Meter::Output));
        assert_eq!((outcome.end, seen), (end, output), "{lines:?}");
    }

    #[test]
    fn every_way_of_telling_is_an_end() {
        check(&[], End::Complete, None);
        let usage = ("x-usage-completion-tokens", "9");
        check(&[("x-status", "200"), usage], End::Complete, Some(9));
        check(&[("x-usage-output", "7")], End::Complete, Some(7));
        check(&[("x-usage-output", "-")], End::Complete, None);
        check(
            &[("x-status", "499"), ("x-upstream-status", "200")],
            End::ClientGone,
            None,
        );
        check(
            &[("x-status", "502"), ("x-upstream-status", "-")],
            End::NoAnswer,
            None,
        );
        check(
            &[("x-status", "200"), ("x-upstream-status", "502, 200")],
            End::Complete,
            None,
        );
        check(
            &[("x-status", "429"), ("x-upstream-status", "429")],
            End::ErrorStatus,
            None,
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert_eq!(in_headers(&HeaderMap::new()), Err(Wrong::NoHold));
        let odd = [("x-tollgate-hold", "a~1"), ("x-bytes-in", "many")];
        let wrong = in_headers(&map(&odd)).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "x-bytes-in is `many`; send a whole number"
        );
        assert!(in_json(b"{}").is_err() && in_json(b"[]").is_err());
        assert!(in_json(br#"{"hold":"a~1","usages":{}}"#).is_err());
        let told = in_json(br#"{"hold":"a~1","status":200,"usage":{"prompt_tokens":5}}"#).unwrap();
        assert_eq!((told.status, told.usage["prompt_tokens"]), (200, 5));
    }
}
