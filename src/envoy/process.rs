//! `ExternalProcessor/Process`: watches a call as it passes through Envoy and settles it when its answer ends. Where nothing was held
//! for it yet, and Envoy waits for our word, the call is decided on here too: then Envoy needs no other filter of ours.
//!
//! In observability mode Envoy does not wait: it sends what passes and goes on. Otherwise every message is answered, and the answer
//! may change what passes: a stream is made to say its usage, and is cut, if so configured, when the money runs out.
//!
//! One stream of messages is one call. If it ends before the answer did, the client has left, or Envoy has: what was seen is charged
//! as for any client that leaves.

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3 as api;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use api::body_mutation::Mutation;
use api::processing_request::Request as Said;
use api::processing_response::Response as Reply;

use self::watch::Watch;
use super::{Envoy, wire};
use crate::gate::{By, CallGrant};
use crate::gateway::headers::{self, secret, text};
use crate::gateway::{Body, Changes, Head, Placed, Stopped, shown};
use crate::refusal::Reason;
use crate::telemetry::Passage;

mod watch;

#[tonic::async_trait]
impl api::external_processor_server::ExternalProcessor for Envoy {
    type ProcessStream = BoxStream<'static, Result<api::ProcessingResponse, Status>>;

    async fn process(
        &self,
        request: Request<Streaming<api::ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let call = Call {
            envoy: self.clone(),
            stage: Stage::New,
            watch: Watch::new(self.clone()),
            body_comes: false,
            rate: None,
        };
        let state = Some((request.into_inner(), call));
        let answers = futures_util::stream::unfold(state, |state| async move {
            let (mut messages, mut call) = state?;
            loop {
                // Cut or ended: the call is dropped, and settled by that.
                let message = messages.next().await?.ok()?;
                let observed = message.observability_mode;
                match call.take(message).await {
                    Ok(Some(reply)) if !observed => {
                        return Some((Ok(reply), Some((messages, call))));
                    }
                    Ok(_) if call.watch.is_settled() => return None,
                    Ok(_) => {}
                    Err(status) => return Some((Err(status), None)),
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// One call on its way.
struct Call {
    envoy: Envoy,
    stage: Stage,
    watch: Watch,
    /// The request's body is shown in one piece before the request goes on.
    body_comes: bool,
    /// What the client is told of its rate, once there is an answer.
    rate: Option<http::HeaderMap>,
}

/// How far a call has come.
enum Stage {
    /// Nothing was seen of it.
    New,
    /// Its head was read; what it costs stands in the body that is to come.
    Asked(Box<(api::HttpHeaders, Placed)>),
    /// It was let through, by us or by a filter before us, or is none of ours.
    Passed,
}

impl Call {
    /// Takes in a message, and gives the answer, if it is one that is answered.
    async fn take(
        &mut self,
        message: api::ProcessingRequest,
    ) -> Result<Option<api::ProcessingResponse>, Status> {
        if let Some(modes) = &message.protocol_config {
            self.body_comes = matches!(
                modes.request_body_mode(),
                BodySendMode::Buffered | BodySendMode::BufferedPartial
            );
        }
        if let Some(hold) = wire::hold(message.metadata_context.as_ref()) {
            self.watch.adopt(hold);
            self.stage = Stage::Passed;
        }
        let observed = message.observability_mode;
        let Some(said) = message.request else {
            return Ok(None);
        };
        let reply = match said {
            Said::RequestHeaders(head) => self.head(head, observed).await?,
            Said::RequestBody(body) => self.body(body).await?,
            Said::RequestTrailers(_) => answer(Reply::RequestTrailers(trailers())),
            Said::ResponseHeaders(head) => self.answer_head(&head),
            Said::ResponseBody(body) => self.answer_body(body).await,
            Said::ResponseTrailers(_) => {
                self.watch.end();
                answer(Reply::ResponseTrailers(trailers()))
            }
        };
        Ok(Some(reply))
    }

    async fn head(
        &mut self,
        head: api::HttpHeaders,
        observed: bool,
    ) -> Result<api::ProcessingResponse, Status> {
        let go_on = || answer(Reply::RequestHeaders(api::HeadersResponse::default()));
        if observed || !matches!(self.stage, Stage::New) {
            return Ok(go_on());
        }
        let lines = wire::List(head.headers.as_ref());
        let placed = match self.envoy.gateway.place(&line(&lines), &lines) {
            Ok(placed) => placed,
            Err(stopped) => return self.stopped(&stopped),
        };
        if placed.reads && self.body_comes && !head.end_of_stream {
            self.stage = Stage::Asked(Box::new((head, placed)));
            return Ok(go_on());
        }
        match self.decide(&head, &placed, Body::Unseen).await {
            Err(stopped) => self.stopped(&stopped),
            Ok((grant, changes, _)) => {
                let response = common(mutation(&changes), None);
                let reply = Reply::RequestHeaders(api::HeadersResponse { response });
                Ok(self.passed(&grant, changes, reply))
            }
        }
    }

    async fn body(&mut self, body: api::HttpBody) -> Result<api::ProcessingResponse, Status> {
        self.watch.request_body(&body.body);
        let Stage::Asked(asked) = std::mem::replace(&mut self.stage, Stage::Passed) else {
            return Ok(answer(Reply::RequestBody(api::BodyResponse::default())));
        };
        let (head, placed) = *asked;
        let shown = match body.end_of_stream {
            true => Body::Whole(&body.body),
            false => Body::Beginning(&body.body),
        };
        let (grant, changes, edit) = match self.decide(&head, &placed, shown).await {
            Err(stopped) => return self.stopped(&stopped),
            Ok(decided) => decided,
        };
        let edited = edit.and_then(|edit| edit.of(&body.body));
        let mut mutation = mutation(&changes);
        let lines = wire::List(head.headers.as_ref());
        if let Some(edited) = &edited
            && headers::number(&lines, "content-length").is_some()
        {
            let length = edited.len().to_string();
            mutation
                .set_headers
                .push(wire::replace_raw("content-length", &length));
        }
        if edited.is_some() {
            self.watch.asks_usage();
        }
        let response = common(mutation, edited.map(Mutation::Body));
        let reply = Reply::RequestBody(api::BodyResponse { response });
        Ok(self.passed(&grant, changes, reply))
    }

    /// Decides on a call, and takes charge of its hold.
    async fn decide(
        &mut self,
        head: &api::HttpHeaders,
        placed: &Placed,
        body: Body<'_>,
    ) -> Result<(CallGrant, Changes, Option<crate::meter::Edit>), Stopped> {
        let gateway = &self.envoy.gateway;
        let lines = wire::List(head.headers.as_ref());
        let read = gateway.read(placed, &line(&lines), &lines, body)?;
        let by = By::Secret(secret(&lines));
        // One stream is one call: nobody asks for it again.
        let request = gateway.name(&[]);
        let grant = self.envoy.admit(placed, &read, by, &request).await?;
        self.watch.adopt(&grant.hold.id);
        self.watch.speaks(placed.dialect);
        self.stage = Stage::Passed;
        let changes = gateway.changes(placed, &grant, &lines);
        let edit = read.scan.filter(|_| grant.needs_usage);
        let edit = edit.and_then(|scan| scan.usage_edit());
        Ok((grant, changes, edit))
    }

    fn passed(
        &mut self,
        grant: &CallGrant,
        changes: Changes,
        reply: Reply,
    ) -> api::ProcessingResponse {
        self.rate = Some(changes.answer).filter(|headers| !headers.is_empty());
        let mut reply = answer(reply);
        reply.dynamic_metadata = Some(wire::inside(wire::OWN, wire::told(grant)));
        reply
    }

    /// A refusal as the client gets it. Where nothing was decided, the stream ends with an error: Envoy's `failure_mode_allow` says
    /// what becomes of the call.
    fn stopped(&mut self, stopped: &Stopped) -> Result<api::ProcessingResponse, Status> {
        self.stage = Stage::Passed;
        let words = &stopped.answer;
        let reason = words.headers().get(crate::gate::dialect::REASON_HEADER);
        let reason = reason.and_then(shown).unwrap_or_default();
        if stopped.undecided {
            return Err(Status::unavailable(reason));
        }
        let texts = words.headers().iter();
        let texts = texts.filter_map(|(name, value)| Some((name.as_str(), shown(value)?)));
        Ok(answer(Reply::ImmediateResponse(api::ImmediateResponse {
            status: Some(HttpStatus {
                code: words.status().as_u16().into(),
            }),
            headers: Some(api::HeaderMutation {
                set_headers: texts
                    .map(|(name, value)| wire::replace_raw(name, value))
                    .collect(),
                remove_headers: Vec::new(),
            }),
            body: words.body().to_vec(),
            grpc_status: None,
            details: format!("tollgate_{}", reason.to_lowercase()),
        })))
    }

    fn answer_head(&mut self, head: &api::HttpHeaders) -> api::ProcessingResponse {
        let lines = wire::List(head.headers.as_ref());
        let status = text(&lines, ":status").and_then(|status| status.parse().ok());
        if !self.watch.watches() && matches!(status, Some(200..300)) {
            self.envoy.count(Passage::Unheld);
        }
        let shorter = self.watch.answer_head(&lines, status.unwrap_or(0));
        if head.end_of_stream {
            self.watch.end();
        }
        let mut mutation = api::HeaderMutation::default();
        for (name, value) in self.rate.take().iter().flatten() {
            if let Some(value) = shown(value) {
                mutation
                    .set_headers
                    .push(wire::replace_raw(name.as_str(), value));
            }
        }
        if shorter {
            mutation.remove_headers.push("content-length".into());
        }
        let response = common(mutation, None);
        answer(Reply::ResponseHeaders(api::HeadersResponse { response }))
    }

    async fn answer_body(&mut self, body: api::HttpBody) -> api::ProcessingResponse {
        if self.watch.is_cut() {
            // What goes on is not paid for. The client has been told; this ends its stream, and the upstream's.
            return answer(Reply::ImmediateResponse(api::ImmediateResponse {
                status: Some(HttpStatus { code: 402 }),
                details: format!(
                    "tollgate_{}",
                    Reason::InsufficientBalance.name().to_lowercase()
                ),
                ..Default::default()
            }));
        }
        let changed = self.watch.answer_body(body.body, body.end_of_stream).await;
        let mutation = changed.map(|rest| match rest.is_empty() {
            true => Mutation::ClearBody(true),
            false => Mutation::Body(rest.into()),
        });
        let response = common(api::HeaderMutation::default(), mutation);
        answer(Reply::ResponseBody(api::BodyResponse { response }))
    }
}

/// The line of a request, by its pseudo headers.
fn line<'a>(lines: &'a wire::List<'_>) -> Head<'a> {
    let pseudo = |name| text(lines, name).unwrap_or_default();
    Head {
        method: pseudo(":method"),
        host: pseudo(":authority"),
        path: pseudo(":path"),
        route: None,
    }
}

fn mutation(changes: &Changes) -> api::HeaderMutation {
    let set = changes.set.iter();
    api::HeaderMutation {
        set_headers: set
            .map(|(name, value)| wire::replace_raw(name, value))
            .collect(),
        remove_headers: changes.remove.clone(),
    }
}

fn common(headers: api::HeaderMutation, body: Option<Mutation>) -> Option<api::CommonResponse> {
    let none = headers.set_headers.is_empty() && headers.remove_headers.is_empty();
    Some(api::CommonResponse {
        header_mutation: (!none).then_some(headers),
        body_mutation: body.map(|body| api::BodyMutation {
            mutation: Some(body),
        }),
        ..Default::default()
    })
}

fn trailers() -> api::TrailersResponse {
    api::TrailersResponse::default()
}

fn answer(reply: Reply) -> api::ProcessingResponse {
    api::ProcessingResponse {
        response: Some(reply),
        ..Default::default()
    }
}
