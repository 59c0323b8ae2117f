//! Routes and upstreams as checked values: where a request goes, and on what terms. Parsed by `config`, used by the edges.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::id::ModelName;
use crate::usage::Meter;

/// One way in: requests for a host and below a path go to an upstream, on some terms.
#[derive(Clone, Debug)]
pub struct Route {
    /// For logs and metrics; unique.
    pub name: String,
    /// The host it is for, without a port; `None` is any.
    pub host: Option<String>,
    /// The path prefix it is for, whole segments: `/v1` is for `/v1` and `/v1/x`, not for `/v1x`. `/` is all.
    pub path: String,
    /// Where requests go; `None` for a route that only another gateway has calls for.
    pub upstream: Option<Arc<Upstream>>,
    /// On what terms.
    pub terms: Arc<Terms>,
}

/// What a route says about deciding, metering and charging.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The route's name, for metrics.
    pub route: String,
    /// The shape of the API; `None` is told by the path.
    pub api: Option<ApiName>,
    /// The words of refusals; `None` is told by the path.
    pub dialect: Option<Dialect>,
    /// The model that all its calls are priced as, for APIs that name none.
    pub model: Option<ModelName>,
    /// What its calls are calls of, for what must be reactivated and for budgets; `None` is their model.
    pub capability: Option<String>,
    /// Declared free: identified and limited, but not priced.
    pub free: bool,
    /// Usage that the upstream says in response headers, by meter. Wins over the body.
    pub usage_headers: BTreeMap<Meter, HeaderName>,
    /// What happens when the client leaves first.
    pub on_disconnect: OnDisconnect,
    /// What is charged when the upstream says no usage.
    pub on_missing_usage: OnMissingUsage,
    /// What is charged when the upstream fails or answers with an error.
    pub on_upstream_error: OnUpstreamError,
    /// How long the rest of an answer is read for a client that has left.
    pub drain_time_max: Duration,
    /// How much of it.
    pub drain_bytes_max: u64,
    /// How much of a request body may be held back to find the model in; and of a request without a length, in all.
    pub inspect_bytes_max: usize,
    /// The largest request body.
    pub body_bytes_max: u64,
    /// From the last byte of the request to the first of the response.
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body, either way.
    pub idle_timeout: Duration,
}

/// The shape of an API, as the configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiName {
    /// OpenAI's, told apart by path: chat completions, completions, embeddings, responses.
    Openai,
    /// Anthropic's messages.
    Anthropic,
    /// Nothing in the bodies is read.
    Opaque,
}

/// In whose words a refusal is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's error object.
    Openai,
    /// Anthropic's error object.
    Anthropic,
    /// Google's error object.
    Gemini,
    /// RFC 9457, `application/problem+json`.
    Problem,
}

/// What happens when the client leaves before the answer is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// The answer is read to its end, within bounds, and its usage charged: what a provider that bills in full needs.
    #[default]
    Drain,
    /// The upstream call is cut; what was seen is charged by [`OnMissingUsage`].
    Abort,
}

/// What is charged when the upstream says no usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMissingUsage {
    /// The whole hold.
    #[default]
    Hold,
    /// What can be worked out from the bytes that were seen.
    Estimate,
    /// Only what needs no usage: the call and its bytes, if they are priced.
    Free,
}

/// What is charged when the upstream fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUpstreamError {
    /// Nothing.
    Free,
    /// The usage that it said before it failed, and nothing if it said none.
    #[default]
    Metered,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// For logs and metrics; unique.
    pub name: String,
    /// `https`.
    pub tls: bool,
    /// The host, as in the URL: also the TLS name and the `host` header.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Put before every path; empty or `/…` without a slash at its end.
    pub base_path: String,
    /// Which HTTP is spoken.
    pub http: HttpVersion,
    /// Trust these certificates (PEM) instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Set on every request: the upstream's own credentials.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Pass the caller's key on. Otherwise it is taken out: it is tollgate's, not the upstream's.
    pub forward_key: bool,
    /// For a connection and its TLS handshake.
    pub connect_timeout: Duration,
    /// Idle connections kept, per worker.
    pub idle_connections_max: usize,
    /// How long an idle connection is kept.
    pub idle_connection_time: Duration,
}

/// Which HTTP an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpVersion {
    /// HTTP/2 if TLS offers it, else HTTP/1.1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// HTTP/1.1.
    #[serde(rename = "1")]
    Http1,
    /// HTTP/2, without TLS by prior knowledge.
    #[serde(rename = "2")]
    Http2,
}
