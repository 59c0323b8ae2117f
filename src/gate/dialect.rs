//! Refusals and problems in the words of the client's API: one exhaustive match per dialect, used by every edge. Pure; nothing is
//! decided here.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::headers::{put, whole_millis, whole_seconds};
use crate::meter::{Fault, Malformed};
use crate::refusal::{Reason, Refusal};
use crate::route::Dialect;

/// The stable reason of a refusal.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-tollgate-reason");
/// The request's id, on every answer.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Where Anthropic's libraries look for it.
const ANTHROPIC_ID: HeaderName = HeaderName::from_static("request-id");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// The registered problem type of limits.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

impl Dialect {
    /// The dialect of the API that is called at a path (without its query): told by the path's end, problem details for
    /// all others.
    pub fn of_path(path: &str) -> Self {
        const OPENAI: [&str; 11] = [
            "/completions",
            "/embeddings",
            "/responses",
            "/moderations",
            "/models",
            "/images/generations",
            "/images/edits",
            "/images/variations",
            "/audio/speech",
            "/audio/transcriptions",
            "/audio/translations",
        ];
        let path = path.strip_suffix('/').unwrap_or(path);
        if OPENAI.iter().any(|end| path.ends_with(end)) {
            return Self::Openai;
        }
        if path.ends_with("/messages") || path.ends_with("/messages/count_tokens") {
            return Self::Anthropic;
        }
        // Google's methods stand behind a colon: `/v1beta/models/gemini-x:generateContent`.
        let last = path.rsplit('/').next().unwrap_or(path);
        if path.contains("/models/") && last.contains(':') {
            return Self::Gemini;
        }
        Self::Problem
    }
}

/// What is wrong with a request, or was on its way, other than a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The request cannot be understood.
    BadRequest {
        /// What is wrong, and what would work.
        message: Cow<'static, str>,
        /// The field at fault, if it is one.
        param: Option<&'static str>,
    },
    /// The method is not served here; `CONNECT` is not.
    MethodNotAllowed,
    /// No route is for this host and path.
    NotFound,
    /// The client was too slow to send its request.
    ClientTimeout,
    /// The body is larger than this many bytes.
    TooLarge {
        /// The most that is taken.
        bytes_max: u64,
    },
    /// The headers are too large.
    HeadersTooLarge,
    /// The upstream could not be reached, or broke off before it answered.
    UpstreamUnreachable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
}

impl From<&Malformed> for Problem {
    fn from(wrong: &Malformed) -> Self {
        let param = match &wrong.fault {
            Fault::Duplicate(field) | Fault::Spelling(field) | Fault::Wrong { field, .. } => {
                Some(field.key())
            }
            _ => None,
        };
        Self::BadRequest {
            message: wrong.to_string().into(),
            param,
        }
    }
}

/// A refusal, in a dialect. The body is complete; status and headers are set.
pub fn refusal(dialect: Dialect, refusal: &Refusal, request_id: &str) -> Response<Bytes> {
    let said = match dialect {
        Dialect::Openai => openai(refusal),
        Dialect::Anthropic => anthropic(refusal, request_id),
        Dialect::Gemini => gemini(refusal),
        Dialect::Problem => problem_details(refusal, request_id),
    };
    let mut response = said.into_response(dialect, request_id);
    let headers = response.headers_mut();
    headers.insert(
        REASON_HEADER,
        HeaderValue::from_static(refusal.reason.name()),
    );
    if !mended_by_waiting(refusal.reason) {
        // The OpenAI and Anthropic libraries otherwise try a 429 again by themselves.
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(wait) = refusal.retry_after {
        let seconds = whole_seconds(wait).max(1);
        put(headers, RETRY_AFTER, format_args!("{seconds}"));
        if matches!(dialect, Dialect::Openai | Dialect::Anthropic) {
            let millis = whole_millis(wait).max(1);
            put(headers, RETRY_AFTER_MS, format_args!("{millis}"));
        }
    }
    response
}

/// A problem, in a dialect. The body is complete; status and headers are set.
pub fn problem(dialect: Dialect, problem: &Problem, request_id: &str) -> Response<Bytes> {
    let (status, message) = describe(problem);
    let param = match problem {
        Problem::BadRequest { param, .. } => *param,
        _ => None,
    };
    let body = match dialect {
        Dialect::Openai => {
            let kind = if status.is_server_error() {
                "server_error"
            } else {
                "invalid_request_error"
            };
            json!({"error": {"message": message, "type": kind, "param": param, "code": null}})
        }
        Dialect::Anthropic => {
            let kind = match problem {
                Problem::BadRequest { .. }
                | Problem::MethodNotAllowed
                | Problem::ClientTimeout
                | Problem::HeadersTooLarge => "invalid_request_error",
                Problem::NotFound => "not_found_error",
                Problem::TooLarge { .. } => "request_too_large",
                Problem::UpstreamUnreachable => "api_error",
                Problem::UpstreamTimeout => "timeout_error",
            };
            anthropic_body(kind, &message, request_id)
        }
        Dialect::Gemini => {
            let kind = match problem {
                Problem::BadRequest { .. }
                | Problem::MethodNotAllowed
                | Problem::TooLarge { .. }
                | Problem::HeadersTooLarge => "INVALID_ARGUMENT",
                Problem::NotFound => "NOT_FOUND",
                Problem::ClientTimeout | Problem::UpstreamTimeout => "DEADLINE_EXCEEDED",
                Problem::UpstreamUnreachable => "UNAVAILABLE",
            };
            json!({"error": {"code": status.as_u16(), "message": message, "status": kind}})
        }
        Dialect::Problem => json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": message,
            "request_id": request_id,
        }),
    };
    let mut response = Said { status, body }.into_response(dialect, request_id);
    if matches!(problem, Problem::MethodNotAllowed) {
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// A status and what is said with it.
struct Said {
    status: StatusCode,
    body: Value,
}

impl Said {
    fn into_response(self, dialect: Dialect, request_id: &str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body.to_string()));
        *response.status_mut() = self.status;
        let kind = match dialect {
            Dialect::Problem => PROBLEM_JSON,
            Dialect::Openai | Dialect::Anthropic | Dialect::Gemini => JSON,
        };
        response.headers_mut().insert(CONTENT_TYPE, kind);
        // As long as a client may have made it; one that is no header's value is none that a client sent.
        if let Ok(id) = HeaderValue::from_str(request_id) {
            if dialect == Dialect::Anthropic {
                response.headers_mut().insert(ANTHROPIC_ID, id.clone());
            }
            response.headers_mut().insert(REQUEST_ID_HEADER, id);
        }
        response
    }
}

/// Whether the same call may pass later with nothing done about it.
const fn mended_by_waiting(reason: Reason) -> bool {
    match reason {
        Reason::QpsExceeded | Reason::ConcurrencyExceeded | Reason::StateUnavailable => true,
        Reason::InsufficientBalance
        | Reason::AccountOverdue
        | Reason::AccountSuspended
        | Reason::ReactivationRequired
        | Reason::RefundInProgress
        | Reason::AccountClosed
        | Reason::KeyUnknown
        | Reason::KeyRevoked
        | Reason::KeyExpired
        | Reason::KeyLimitExceeded
        | Reason::ModelNotAllowed
        | Reason::ModelNotPriced => false,
    }
}

/// A refusal in words: the same in all dialects.
pub const fn message(reason: Reason) -> &'static str {
    match reason {
        Reason::InsufficientBalance => {
            "The account's remaining credit does not cover this call. Add credit, or ask for less output."
        }
        Reason::QpsExceeded => "Too many requests per second. Slow down and try again.",
        Reason::ConcurrencyExceeded => {
            "Too many requests at once. Try again when one of them has ended."
        }
        Reason::AccountOverdue => "The account's balance is below zero. Add credit to go on.",
        Reason::AccountSuspended => {
            "The account is suspended because it was overdue for too long. Settle what is owed to go on."
        }
        Reason::ReactivationRequired => {
            "The account is paid up, but this capability must be reactivated first."
        }
        Reason::RefundInProgress => {
            "A refund of this account is in progress: no calls until it is completed or cancelled."
        }
        Reason::AccountClosed => "The account is closed.",
        Reason::KeyUnknown => {
            "No valid API key was given. Send one as `Authorization: Bearer KEY` or `x-api-key: KEY`."
        }
        Reason::KeyRevoked => "The API key was revoked.",
        Reason::KeyExpired => "The API key has expired.",
        Reason::KeyLimitExceeded => "The API key's own limit is reached.",
        Reason::ModelNotAllowed => "The API key may not use this model.",
        Reason::ModelNotPriced => {
            "The model is not offered here: no price is known for it. Check the request's `model`."
        }
        Reason::StateUnavailable => {
            "The account's state could not be had in time. Nothing was charged; try again."
        }
    }
}

fn openai(refusal: &Refusal) -> Said {
    use StatusCode as S;
    let (status, kind, code, param) = match refusal.reason {
        Reason::InsufficientBalance | Reason::AccountOverdue | Reason::KeyLimitExceeded => {
            let quota = "insufficient_quota";
            (S::TOO_MANY_REQUESTS, quota, quota, None)
        }
        Reason::QpsExceeded | Reason::ConcurrencyExceeded => (
            S::TOO_MANY_REQUESTS,
            "requests",
            "rate_limit_exceeded",
            None,
        ),
        Reason::AccountSuspended | Reason::ReactivationRequired | Reason::RefundInProgress => {
            let inactive = "billing_not_active";
            (S::TOO_MANY_REQUESTS, inactive, inactive, None)
        }
        Reason::AccountClosed => {
            let kind = "invalid_request_error";
            (S::FORBIDDEN, kind, "account_deactivated", None)
        }
        Reason::KeyUnknown | Reason::KeyRevoked | Reason::KeyExpired => (
            S::UNAUTHORIZED,
            "invalid_request_error",
            "invalid_api_key",
            None,
        ),
        Reason::ModelNotAllowed => {
            let kind = "invalid_request_error";
            (S::FORBIDDEN, kind, "model_not_found", Some("model"))
        }
        Reason::ModelNotPriced => {
            let kind = "invalid_request_error";
            (S::NOT_FOUND, kind, "model_not_found", Some("model"))
        }
        Reason::StateUnavailable => (
            S::SERVICE_UNAVAILABLE,
            "server_error",
            "state_unavailable",
            None,
        ),
    };
    let message = message(refusal.reason);
    let body = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
    Said { status, body }
}

fn anthropic(refusal: &Refusal, request_id: &str) -> Said {
    use StatusCode as S;
    let (status, kind) = match refusal.reason {
        Reason::InsufficientBalance | Reason::AccountOverdue | Reason::KeyLimitExceeded => {
            (S::PAYMENT_REQUIRED, "billing_error")
        }
        Reason::QpsExceeded | Reason::ConcurrencyExceeded => {
            (S::TOO_MANY_REQUESTS, "rate_limit_error")
        }
        Reason::AccountSuspended
        | Reason::ReactivationRequired
        | Reason::RefundInProgress
        | Reason::AccountClosed
        | Reason::ModelNotAllowed => (S::FORBIDDEN, "permission_error"),
        Reason::KeyUnknown | Reason::KeyRevoked | Reason::KeyExpired => {
            (S::UNAUTHORIZED, "authentication_error")
        }
        Reason::ModelNotPriced => (S::NOT_FOUND, "not_found_error"),
        Reason::StateUnavailable => (S::SERVICE_UNAVAILABLE, "api_error"),
    };
    Said {
        status,
        body: anthropic_body(kind, message(refusal.reason), request_id),
    }
}

fn anthropic_body(kind: &str, message: &str, request_id: &str) -> Value {
    let error = json!({"type": kind, "message": message});
    json!({"type": "error", "error": error, "request_id": request_id})
}

fn gemini(refusal: &Refusal) -> Said {
    use StatusCode as S;
    let (status, kind) = match refusal.reason {
        Reason::InsufficientBalance
        | Reason::AccountOverdue
        | Reason::KeyLimitExceeded
        | Reason::QpsExceeded
        | Reason::ConcurrencyExceeded => (S::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
        Reason::AccountSuspended
        | Reason::ReactivationRequired
        | Reason::RefundInProgress
        | Reason::AccountClosed
        | Reason::ModelNotAllowed => (S::FORBIDDEN, "PERMISSION_DENIED"),
        Reason::KeyUnknown | Reason::KeyRevoked | Reason::KeyExpired => {
            (S::UNAUTHORIZED, "UNAUTHENTICATED")
        }
        Reason::ModelNotPriced => (S::NOT_FOUND, "NOT_FOUND"),
        Reason::StateUnavailable => (S::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    };
    let mut details = vec![json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": refusal.reason.name(),
        "domain": "tollgate",
    })];
    if let Some(wait) = refusal.retry_after {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": proto_duration(wait),
        }));
    }
    let message = message(refusal.reason);
    let error =
        json!({"code": status.as_u16(), "message": message, "status": kind, "details": details});
    Said {
        status,
        body: json!({"error": error}),
    }
}

/// A duration in protobuf's JSON: seconds with milliseconds, rounded up.
fn proto_duration(wait: Duration) -> String {
    let millis = whole_millis(wait);
    match millis % 1000 {
        0 => format!("{}s", millis / 1000),
        rest => format!("{}.{rest:03}s", millis / 1000),
    }
}

fn problem_details(refusal: &Refusal, request_id: &str) -> Said {
    use StatusCode as S;
    let (status, violated) = match refusal.reason {
        Reason::InsufficientBalance | Reason::AccountOverdue => (S::PAYMENT_REQUIRED, None),
        Reason::QpsExceeded => (S::TOO_MANY_REQUESTS, Some("qps")),
        Reason::ConcurrencyExceeded => (S::TOO_MANY_REQUESTS, Some("concurrency")),
        Reason::KeyLimitExceeded => (S::TOO_MANY_REQUESTS, Some("key")),
        Reason::AccountSuspended
        | Reason::ReactivationRequired
        | Reason::RefundInProgress
        | Reason::AccountClosed
        | Reason::ModelNotAllowed => (S::FORBIDDEN, None),
        Reason::KeyUnknown | Reason::KeyRevoked | Reason::KeyExpired => (S::UNAUTHORIZED, None),
        Reason::ModelNotPriced => (S::NOT_FOUND, None),
        Reason::StateUnavailable => (S::SERVICE_UNAVAILABLE, None),
    };
    let kind = violated.map_or("about:blank", |_| QUOTA_EXCEEDED);
    let mut body = json!({
        "type": kind,
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": message(refusal.reason),
        "reason": refusal.reason.name(),
        "request_id": request_id,
    });
    if let (Some(policy), Some(fields)) = (violated, body.as_object_mut()) {
        fields.insert("violated-policies".into(), json!([policy]));
    }
    Said { status, body }
}

/// The status of a problem, and what is said about it: the same in all dialects.
fn describe(problem: &Problem) -> (StatusCode, Cow<'static, str>) {
    use StatusCode as S;
    match problem {
        Problem::BadRequest { message, .. } => (S::BAD_REQUEST, message.clone()),
        Problem::MethodNotAllowed => (
            S::METHOD_NOT_ALLOWED,
            "This method is not served here.".into(),
        ),
        Problem::NotFound => (S::NOT_FOUND, "No route is for this host and path.".into()),
        Problem::ClientTimeout => (
            S::REQUEST_TIMEOUT,
            "The request's body did not arrive in time.".into(),
        ),
        Problem::TooLarge { bytes_max } => {
            let message =
                format!("The request's body is larger than the {bytes_max} bytes that are taken.");
            (S::PAYLOAD_TOO_LARGE, message.into())
        }
        Problem::HeadersTooLarge => {
            let message = "The request's headers are too large.";
            (S::REQUEST_HEADER_FIELDS_TOO_LARGE, message.into())
        }
        Problem::UpstreamUnreachable => {
            let message = "The upstream could not be reached, or broke off before it answered.";
            (S::BAD_GATEWAY, message.into())
        }
        Problem::UpstreamTimeout => (
            S::GATEWAY_TIMEOUT,
            "The upstream did not answer in time.".into(),
        ),
    }
}

#[cfg(test)]
mod tests;
