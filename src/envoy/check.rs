//! `Authorization/Check`: may this call pass. Envoy asks once for each request, sometimes again; the answer to the same request is
//! the same hold.

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3 as api;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc;
use prost::Message as _;
use tonic::{Code, Status};

use super::fields;
use super::question::{Asked, Attributes, Http, Question};
use super::{Envoy, unary, wire};
use crate::gate::{By, CallGrant};
use crate::gateway::headers::{self, Lines, secret};
use crate::gateway::{Body, Changes, Head, Stopped, shown};

/// What names the route of an Envoy route's calls, in its `context_extensions`.
const ROUTE: &str = "tollgate.route";

/// Envoy says here whether the body that it shows is all of it; without this it shows none.
const PARTIAL: &str = "x-envoy-auth-partial-body";

/// `HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD`.
const REPLACE: u64 = 2;

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing; Envoy's HTTP filter sends it"))
}

impl Envoy {
    /// Answers Check.
    pub(super) async fn check(&self, question: &Question<'_>) -> Result<Bytes, Status> {
        let attributes = question.attributes.as_ref();
        let attributes = attributes.ok_or_else(|| missing("attributes"))?;
        let asked = attributes.request.as_ref();
        let asked = asked.ok_or_else(|| missing("attributes.request"))?;
        let http = asked.http.as_ref();
        let http = http.ok_or_else(|| missing("attributes.request.http"))?;
        let answered = self.decide(attributes, asked, http).await;
        unary::message(|to| match answered {
            Ok((grant, changes)) => passed(to, &grant, &changes),
            Err(stopped) => to.extend_from_slice(&denied(&stopped).encode_to_vec()),
        })
    }

    async fn decide(
        &self,
        attributes: &Attributes<'_>,
        asked: &Asked<'_>,
        http: &Http<'_>,
    ) -> Result<(CallGrant, Changes), Stopped> {
        let extensions = &mut attributes.context_extensions.iter();
        let route = extensions.find(|entry| entry.name == ROUTE.as_bytes());
        let head = Head {
            method: text(http.method),
            host: text(http.host),
            path: text(http.path),
            route: route.map(|entry| text(entry.value)),
        };
        let lines = &http.headers;
        let placed = self.gateway.place(&head, lines)?;
        let read = self
            .gateway
            .read(&placed, &head, lines, body(http, lines))?;
        let by = By::Secret(secret(lines));
        let request = self.request(asked, http);
        let grant = self.admit(&placed, &read, by, &request).await?;
        let changes = self.gateway.changes(&placed, &grant, lines);
        Ok((grant, changes))
    }

    /// What tells this request from all others, asked for how often ever: Envoy's own number of the stream, and when it began. Not
    /// `x-request-id`, which a client may choose: two calls of one name would pass on one hold.
    fn request(&self, asked: &Asked<'_>, http: &Http) -> String {
        if asked.time.is_empty() || http.id.is_empty() {
            return self.gateway.name(&[]);
        }
        self.gateway.name(&[http.id, asked.time])
    }
}

/// What is no text is nothing: Envoy sends none that is not.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// How much of the body is shown.
fn body<'a>(http: &Http<'a>, lines: &impl Lines) -> Body<'a> {
    let shown = http.body;
    match headers::text(lines, PARTIAL) {
        Some("true") => Body::Beginning(shown),
        Some(_) if !shown.is_empty() => Body::Whole(shown),
        _ => Body::Unseen,
    }
}

/// Writes `envoy.service.auth.v3.CheckResponse` for a call that passes.
fn passed(to: &mut Vec<u8>, grant: &CallGrant, changes: &Changes) {
    // A status that says nothing says that all is well.
    fields::message(to, 1, |_status| {});
    fields::message(to, 3, |ok| {
        for (name, value) in &changes.set {
            replace(ok, 2, name, value);
        }
        for name in &changes.remove {
            fields::text(ok, 5, name);
        }
        for (name, value) in &changes.answer {
            // Text, as Check wants it.
            if let Some(value) = shown(value) {
                replace(ok, 6, name.as_str(), value);
            }
        }
    });
    fields::message(to, 4, |metadata| {
        for (name, value) in wire::said(grant) {
            fields::message(metadata, 1, |entry| {
                fields::text(entry, 1, name);
                fields::message(entry, 2, |held| fields::text(held, 3, value));
            });
        }
    });
}

/// Writes `envoy.config.core.v3.HeaderValueOption`: a header that replaces those of the same name.
fn replace(to: &mut Vec<u8>, number: u8, name: &str, value: &str) {
    fields::message(to, number, |option| {
        fields::message(option, 1, |header| {
            fields::text(header, 1, name);
            fields::text(header, 2, value);
        });
        fields::number(option, 3, REPLACE);
    });
}

/// A refusal as the client gets it. Where nothing was decided, it is an error to Envoy: its `failure_mode_allow` says what becomes of
/// the call.
fn denied(stopped: &Stopped) -> api::CheckResponse {
    let answer = &stopped.answer;
    let response = api::DeniedHttpResponse {
        status: Some(HttpStatus {
            code: answer.status().as_u16().into(),
        }),
        headers: wire::replacing(answer.headers()),
        body: String::from_utf8_lossy(answer.body()).into_owned(),
    };
    let (code, response) = if stopped.undecided {
        let error = api::check_response::HttpResponse::ErrorResponse(response);
        (Code::Unavailable, error)
    } else {
        let denied = api::check_response::HttpResponse::DeniedResponse(response);
        (Code::PermissionDenied, denied)
    };
    let reason = answer.headers().get(crate::gate::dialect::REASON_HEADER);
    let mut status = status(code);
    status.message = reason.and_then(shown).unwrap_or_default().into();
    api::CheckResponse {
        status: Some(status),
        dynamic_metadata: None,
        http_response: Some(response),
    }
}

fn status(code: Code) -> rpc::Status {
    rpc::Status {
        code: code.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
