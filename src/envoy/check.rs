//! `Authorization/Check`: may this call pass. Envoy asks once for each request, sometimes again; the answer to the same request is
//! the same hold.

use envoy_types::pb::envoy::service::auth::v3 as api;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc;
use tonic::{Code, Status};

use super::question::{Asked, Attributes, Http, Question};
use super::{Envoy, wire};
use crate::gate::{By, CallGrant};
use crate::gateway::headers::{self, Lines, secret};
use crate::gateway::{Body, Changes, Head, Stopped, shown};

/// What names the route of an Envoy route's calls, in its `context_extensions`.
const ROUTE: &str = "tollgate.route";

/// Envoy says here whether the body that it shows is all of it; without this it shows none.
const PARTIAL: &str = "x-envoy-auth-partial-body";

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing; Envoy's HTTP filter sends it"))
}

impl Envoy {
    /// Answers Check.
    pub(super) async fn check(&self, question: &Question) -> Result<api::CheckResponse, Status> {
        let attributes = question.attributes.as_ref();
        let attributes = attributes.ok_or_else(|| missing("attributes"))?;
        let asked = attributes.request.as_ref();
        let asked = asked.ok_or_else(|| missing("attributes.request"))?;
        let http = asked.http.as_ref();
        let http = http.ok_or_else(|| missing("attributes.request.http"))?;
        Ok(match self.decide(attributes, asked, http).await {
            Ok((grant, changes)) => passed(&grant, changes),
            Err(stopped) => denied(&stopped),
        })
    }

    async fn decide(
        &self,
        attributes: &Attributes,
        asked: &Asked,
        http: &Http,
    ) -> Result<(CallGrant, Changes), Stopped> {
        let extensions = &mut attributes.context_extensions.iter();
        let route = extensions.find(|entry| entry.key == ROUTE.as_bytes());
        let head = Head {
            method: text(&http.method),
            host: text(&http.host),
            path: text(&http.path),
            route: route.map(|entry| text(entry.value())),
        };
        let lines = &http.lines();
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
    fn request(&self, asked: &Asked, http: &Http) -> String {
        let Some(time) = asked.time.as_ref().filter(|_| !http.id.is_empty()) else {
            return self.gateway.name(&[]);
        };
        let (seconds, nanos) = (time.seconds.to_le_bytes(), time.nanos.to_le_bytes());
        self.gateway.name(&[&http.id, &seconds, &nanos])
    }
}

/// What is no text is nothing: Envoy sends none that is not.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// How much of the body is shown.
fn body<'a>(http: &'a Http, lines: &impl Lines) -> Body<'a> {
    let shown = http.shown();
    match headers::text(lines, PARTIAL) {
        Some("true") => Body::Beginning(shown),
        Some(_) if !shown.is_empty() => Body::Whole(shown),
        _ => Body::Unseen,
    }
}

fn passed(grant: &CallGrant, changes: Changes) -> api::CheckResponse {
    let set = changes.set.iter();
    let ok = api::OkHttpResponse {
        headers: set
            .map(|(name, value)| wire::replace(name, value))
            .collect(),
        headers_to_remove: changes.remove,
        response_headers_to_add: wire::replacing(&changes.answer),
        ..Default::default()
    };
    api::CheckResponse {
        status: Some(status(Code::Ok)),
        dynamic_metadata: Some(wire::told(grant)),
        http_response: Some(api::check_response::HttpResponse::OkResponse(ok)),
    }
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
