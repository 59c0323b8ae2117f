//! WebhookService: how the endpoints are, and what was given up.

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use super::pages::{Filter, ROWS, cut};
use crate::proto::convert::{FieldError, duration, event, timestamp};
use crate::proto::v1::{self, webhook_service_server::WebhookService};
use crate::store::StoreError;
use crate::webhooks::desk::{Standing, Which};
use crate::webhooks::state::Letter;

#[tonic::async_trait]
impl WebhookService for Control {
    async fn list_endpoints(
        &self,
        _: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        answer(self.endpoints().await)
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        answer(self.dead_letters(request.into_inner()).await)
    }

    async fn redeliver(
        &self,
        request: Request<v1::RedeliverRequest>,
    ) -> Result<Response<v1::RedeliverResponse>, Status> {
        answer(self.send_again(request.into_inner()).await)
    }

    async fn enable_endpoint(
        &self,
        request: Request<v1::EnableEndpointRequest>,
    ) -> Result<Response<v1::EnableEndpointResponse>, Status> {
        answer(self.enable(request.into_inner()).await)
    }
}

impl Control {
    async fn endpoints(&self) -> Result<v1::ListEndpointsResponse, Fault> {
        let core = self.core();
        let standing = core.webhooks.list(&*core.store).await?;
        let endpoints = standing.into_iter().map(endpoint).collect();
        Ok(v1::ListEndpointsResponse { endpoints })
    }

    async fn dead_letters(
        &self,
        mut request: v1::ListDeadLettersRequest,
    ) -> Result<v1::ListDeadLettersResponse, Fault> {
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListDeadLetters", &request);
        named(&request.endpoint)?;
        // Letters come at the end and go anywhere: a page begins after the place in the feed and the time of the last one's death.
        let after = filter.position(&token)?;
        let after = after.map(|text| position(&text)).transpose()?;
        let core = self.core();
        let letters = core.webhooks.letters(&*core.store, &request.endpoint);
        let mut letters = letters.await?;
        letters.sort_by_key(place);
        letters.retain(|letter| after.is_none_or(|after| place(letter) > after));
        let more = cut(&mut letters, size);
        let next = letters.last().filter(|_| more).map(place);
        let mut dead_letters = Vec::with_capacity(letters.len());
        for letter in &letters {
            dead_letters.push(self.letter(letter).await?);
        }
        Ok(v1::ListDeadLettersResponse {
            dead_letters,
            next_page_token: next.map_or_else(String::new, |(died, sequence)| {
                filter.token(format!("{died}|{sequence}"))
            }),
        })
    }

    async fn letter(&self, letter: &Letter) -> Result<v1::DeadLetter, Fault> {
        let unit = match self.0.units.of(&letter.event.account).await {
            Ok(unit) => unit,
            // It may be gone for good, and its letters not.
            Err(StoreError::NoAccount(_)) => "".into(),
            Err(error) => return Err(error.into()),
        };
        Ok(v1::DeadLetter {
            event: Some(event(letter.sequence, &letter.event, &unit)),
            attempts: letter.attempts,
            first_attempt_time: Some(timestamp(letter.first)),
            dead_time: Some(timestamp(letter.died)),
            error: letter.error.clone(),
            redelivering: letter.again,
        })
    }

    async fn send_again(
        &self,
        request: v1::RedeliverRequest,
    ) -> Result<v1::RedeliverResponse, Fault> {
        named(&request.endpoint)?;
        let which = match (request.all, request.event_ids.is_empty()) {
            (true, true) => Which::All,
            (false, false) => Which::These(request.event_ids),
            (true, false) => {
                let problem = "is set beside event_ids; give one of them";
                return Err(FieldError::invalid("all", problem).into());
            }
            (false, true) => {
                let what = "the events to send again, or all = true";
                return Err(FieldError::missing("event_ids", what).into());
            }
        };
        let core = self.core();
        let asked = core
            .webhooks
            .send_again(&*core.store, &request.endpoint, &which);
        let count = asked.await?;
        Ok(v1::RedeliverResponse {
            dead_letters: u32::try_from(count).unwrap_or(u32::MAX),
        })
    }

    async fn enable(
        &self,
        request: v1::EnableEndpointRequest,
    ) -> Result<v1::EnableEndpointResponse, Fault> {
        named(&request.endpoint)?;
        let core = self.core();
        core.webhooks
            .enable(&*core.store, &request.endpoint)
            .await?;
        Ok(v1::EnableEndpointResponse {})
    }
}

fn named(endpoint: &str) -> Result<(), FieldError> {
    match endpoint {
        "" => Err(FieldError::missing(
            "endpoint",
            "a webhook endpoint's name in the configuration",
        )),
        _ => Ok(()),
    }
}

/// By when a letter was laid down, and its place in the feed.
fn place(letter: &Letter) -> (i64, u64) {
    (letter.died.nanos(), letter.sequence)
}

fn position(text: &str) -> Result<(i64, u64), Fault> {
    let parsed = text
        .split_once('|')
        .and_then(|(died, sequence)| Some((died.parse().ok()?, sequence.parse().ok()?)));
    parsed.ok_or(Fault::PageToken)
}

fn endpoint(standing: Standing) -> v1::WebhookEndpoint {
    let Standing {
        endpoint,
        state,
        dead,
    } = standing;
    let kept = state.as_ref();
    let word = match kept {
        None => v1::EndpointState::Pending,
        Some(state) if state.disabled.is_some() => v1::EndpointState::Disabled,
        Some(state) if state.holder.is_none() => v1::EndpointState::Pending,
        Some(state) if state.health.failures > 0 => v1::EndpointState::Failing,
        Some(_) => v1::EndpointState::Healthy,
    };
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let health = kept.map(|state| state.health.clone()).unwrap_or_default();
    v1::WebhookEndpoint {
        endpoint: endpoint.name.clone(),
        url: endpoint.url.clone(),
        events: endpoint.kinds.iter().map(ToString::to_string).collect(),
        state: word.into(),
        replica: kept
            .and_then(|state| state.holder.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        sequence: kept.map_or(0, |state| state.cursor),
        waiting: kept.map_or(0, |state| count(state.parked.len())),
        dead_letters: count(dead.letters.len()),
        dropped_dead_letters: dead.dropped,
        last_delivery_time: health.delivered.map(timestamp),
        failing_since_time: health.failing_since.map(timestamp),
        failures: health.failures,
        last_error: health.error,
        disabled_time: kept.and_then(|state| state.disabled).map(timestamp),
        timeout: Some(duration(endpoint.timeout)),
    }
}
