//! A single request to somebody, by the means that the proxy reaches its upstreams with: for whoever has something to say of its own.
//!
//! A connection for each: what a failure leaves behind does not meet the next one, and a receiver that has moved is found where it is
//! now. HTTP/1.1, which every receiver speaks. Nothing is followed, neither redirects nor cookies.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::dial::Dialer;
use super::upload::Upload;
use super::{StartError, Target};
use crate::route::Upstream;

/// How much of an answer is read: enough for its first words, and for a polite end of small ones.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One place to send to.
pub(crate) struct Outbound {
    target: Target,
    dialer: Dialer,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// As much as was read; empty if it broke off.
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// No connection: nothing was sent.
    #[error("{0}")]
    Connect(String),
    /// It broke before the answer's head: what was sent may have arrived.
    #[error("no answer: {0}")]
    Broken(String),
}

impl Outbound {
    /// Reads the files of TLS, if it is spoken.
    pub(crate) fn new(upstream: &Arc<Upstream>) -> Result<Self, StartError> {
        let target = Target::of(upstream)?;
        let dialer = Dialer::new(Arc::clone(upstream), target.tls.clone());
        Ok(Self { target, dialer })
    }

    /// Posts a body. Waits for the answer, however long it takes: dropping the future gives up, and whether it arrived is not known.
    pub(crate) async fn post(
        &self,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answered, Unanswered> {
        let connect = |error: &dyn std::fmt::Display| Unanswered::Connect(error.to_string());
        let broken = |error: &dyn std::fmt::Display| Unanswered::Broken(error.to_string());
        let mut request = Request::post(path_and_query)
            .body(Upload::Whole(body))
            .map_err(|error| connect(&error))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.target.host.clone());
        let dialled = self.dialer.http1().await;
        let mut lease = dialled.map_err(|error| connect(&error))?;
        let sent = lease.send(request).await;
        let answer = sent.map_err(|error| broken(error.error()))?;
        let (head, body) = answer.into_parts();
        let read = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        Ok(Answered {
            status: head.status,
            headers: head.headers,
            body: read.map(|read| read.to_bytes()).unwrap_or_default(),
        })
    }
}
