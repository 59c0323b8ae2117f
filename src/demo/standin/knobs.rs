//! The `x-standin-*` request headers as checked values. What they do is said in the parent.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::Fault;

/// The longest wait that a request may ask for: longer than any timeout that a test sets.
const DELAY_MS_MAX: u64 = 60_000;

/// The longest answer that a request may ask for: each word is an event of about 200 bytes.
const OUTPUT_TOKENS_MAX: u64 = 100_000;

/// What to say of the usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Say {
    #[default]
    Usage,
    Null,
    Nothing,
}

/// What a request asks of the stand-in beyond its API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Knobs {
    pub(super) delay: Duration,
    pub(super) token_delay: Duration,
    pub(super) status: Option<StatusCode>,
    pub(super) say: Say,
    pub(super) output_tokens: Option<u64>,
    pub(super) cached_tokens: Option<u64>,
    pub(super) cut_after: Option<u64>,
}

impl Knobs {
    pub(super) fn read(headers: &HeaderMap, token_delay: Duration) -> Result<Self, Fault> {
        let millis =
            |name| bounded(headers, name, DELAY_MS_MAX).map(|ms| ms.map(Duration::from_millis));
        Ok(Self {
            delay: millis("x-standin-delay-ms")?.unwrap_or_default(),
            token_delay: millis("x-standin-token-delay-ms")?.unwrap_or(token_delay),
            status: number(headers, "x-standin-status")?,
            say: match text(headers, "x-standin-usage")? {
                None => Say::Usage,
                Some("none") => Say::Nothing,
                Some("null") => Say::Null,
                Some(other) => {
                    let what = format!("x-standin-usage is `{other}`; it is none or null");
                    return Err(Fault::bad(what));
                }
            },
            output_tokens: bounded(headers, "x-standin-output-tokens", OUTPUT_TOKENS_MAX)?,
            cached_tokens: number(headers, "x-standin-cached-tokens")?,
            cut_after: number(headers, "x-standin-cut-after")?,
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Fault> {
    let value = headers.get(name).map(|value| value.to_str());
    value
        .transpose()
        .map_err(|_| Fault::bad(format!("{name} is not text")))
}

fn number<T: FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, Fault> {
    let value = text(headers, name)?.map(str::parse);
    value
        .transpose()
        .map_err(|_| Fault::bad(format!("{name} is out of range")))
}

fn bounded(headers: &HeaderMap, name: &str, max: u64) -> Result<Option<u64>, Fault> {
    match number(headers, name)? {
        Some(value) if value > max => Err(Fault::bad(format!("{name} is at most {max}"))),
        value => Ok(value),
    }
}
