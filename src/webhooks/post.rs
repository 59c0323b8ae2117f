//! One try: an event is put into words, signed, posted, and the answer judged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::timeout;

use super::queue::Outcome;
use super::{Endpoint, payload, sign};
use crate::clock::{Clock, Timestamp};
use crate::ledger::Event;
use crate::proxy::{Answered, Outbound, StartError};
use crate::store::{Store, StoreError};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

/// How often an event waits for its account to be in the store, which may be about to get it back; then it goes without its unit.
const UNKNOWN_MAX: u32 = 3;

/// How much of an answer that is no success is kept.
const SHOWN_CHARS_MAX: usize = 120;

/// What tries need. Cheap to clone.
#[derive(Clone)]
pub(super) struct Post {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    outbound: Arc<Outbound>,
}

impl Post {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        store: Arc<dyn Store>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let outbound = Arc::new(Outbound::new(&endpoint.receiver)?);
        Ok(Self {
            endpoint,
            store,
            clock,
            outbound,
        })
    }

    /// Sends an event, once. Ends within the endpoint's time. `attempts`: how often it was tried before.
    pub(super) async fn send(&self, event: &Event, attempts: u32) -> Outcome {
        match timeout(self.endpoint.timeout, self.attempt(event, attempts)).await {
            Ok(outcome) => outcome,
            Err(_) => failed(format!("no answer within {:?}", self.endpoint.timeout)),
        }
    }

    async fn attempt(&self, event: &Event, attempts: u32) -> Outcome {
        let unit = match self.store.read(&event.account, &[]).await {
            Ok(Some(snapshot)) => Some(snapshot.book.unit),
            Ok(None) if attempts >= UNKNOWN_MAX => None,
            Ok(None) => return failed(StoreError::NoAccount(event.account.clone()).to_string()),
            Err(_) => return Outcome::Untried,
        };
        let body = payload::body(event, unit.as_deref());
        let now = self.clock.now().wall;
        let Some(headers) = self.headers(event, now, &body) else {
            return failed("its id cannot be sent in a header".into());
        };
        let path = &self.endpoint.path_and_query;
        match self.outbound.post(path, headers, Bytes::from(body)).await {
            Ok(answered) => judge(&answered, now),
            Err(error) => failed(error.to_string()),
        }
    }

    fn headers(&self, event: &Event, now: Timestamp, body: &[u8]) -> Option<HeaderMap> {
        let seconds = now.nanos().div_euclid(1_000_000_000);
        let signature = sign::signature(&self.endpoint.keys, &event.id, seconds, body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ID, HeaderValue::from_str(&event.id).ok()?);
        headers.insert(TIMESTAMP, HeaderValue::from(seconds));
        headers.insert(SIGNATURE, HeaderValue::from_str(&signature).ok()?);
        Some(headers)
    }
}

/// It was not taken, for this reason.
pub(super) fn failed(error: String) -> Outcome {
    Outcome::Failed {
        error,
        retry_after: None,
    }
}

/// What an answer means. A redirect is none: what is signed for one place is not for another to have.
fn judge(answered: &Answered, now: Timestamp) -> Outcome {
    let Answered {
        status,
        headers,
        body,
    } = answered;
    if status.is_success() {
        return Outcome::Delivered;
    }
    if *status == StatusCode::GONE {
        return Outcome::Gone;
    }
    let asks = matches!(
        *status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let value = headers.get(RETRY_AFTER).filter(|_| asks);
    let said: String = String::from_utf8_lossy(body)
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_CHARS_MAX)
        .collect();
    Outcome::Failed {
        error: format!("it answered {status}: {said}")
            .trim_end_matches([' ', ':'])
            .to_owned(),
        retry_after: value.and_then(|value| retry_after(value.to_str().ok()?, now)),
    }
}

/// Seconds, or an instant as HTTP writes it.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    let ahead = at.as_nanosecond().saturating_sub(now.nanos().into());
    Some(Duration::from_nanos(u64::try_from(ahead).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, retry: Option<&str>, body: &str) -> Answered {
        let mut headers = HeaderMap::new();
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(retry).unwrap());
        }
        Answered {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    const NOW: Timestamp = Timestamp::from_nanos(1_790_000_000_000_000_000);

    #[test]
    fn an_answer_is_a_success_an_end_or_a_failure() {
        let check = |status, retry, body, expected| {
            assert_eq!(
                judge(&answered(status, retry, body), NOW),
                expected,
                "{status}"
            );
        };
        let failure = |error: &str, seconds: Option<u64>| Outcome::Failed {
            error: error.into(),
            retry_after: seconds.map(Duration::from_secs),
        };
        check(200, None, "", Outcome::Delivered);
        check(204, Some("9"), "", Outcome::Delivered);
        check(410, Some("9"), "", Outcome::Gone);
        check(302, None, "", failure("it answered 302 Found", None));
        check(
            500,
            Some("9"),
            "no\u{1b} way",
            failure("it answered 500 Internal Server Error: no way", None),
        );
        check(
            429,
            Some("9"),
            "",
            failure("it answered 429 Too Many Requests", Some(9)),
        );
        let date = jiff::Timestamp::from_nanosecond((NOW.nanos() + 60_000_000_000).into()).unwrap();
        let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        for (said, seconds) in [
            (date.as_str(), Some(60)),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
        ] {
            check(
                503,
                Some(said),
                "",
                failure("it answered 503 Service Unavailable", seconds),
            );
        }
    }
}
