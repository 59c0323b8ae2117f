//! `RateLimitService/ShouldRateLimit`: for those who run Envoy's global rate limiting today. A descriptor that names a caller is a
//! call that is decided on like any other; one that names a hold is the end of a call, and its hits are what was used. A descriptor
//! that does neither is not limited.
//!
//! The hits of a call are how many calls it is held for and charged as. It is one question all the same: it takes one call of a rate and
//! one place, and stands in usage as one call with the cost of all.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3 as api;
use envoy_types::pb::google::protobuf::Duration;
use tonic::{Request, Response, Status};

use api::rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit};

use super::{Envoy, wire};
use crate::gate::{By, CallGrant, End, Outcome, RateView};
use crate::gateway::headers::bearer;
use crate::gateway::{HOLD_HEADER, Placed, Read, Stopped, shown};
use crate::id::ModelName;
use crate::meter::{Api, Reading, usage_of};
use crate::usage::{Counts, Meter};

#[tonic::async_trait]
impl api::rate_limit_service_server::RateLimitService for Envoy {
    async fn should_rate_limit(
        &self,
        request: Request<api::RateLimitRequest>,
    ) -> Result<Response<api::RateLimitResponse>, Status> {
        let request = request.into_inner();
        self.ends(&request);
        let Some(call) = self.call(&request) else {
            return Ok(Response::new(over(&request, Code::Ok, None)));
        };
        let placed = self.gateway.place_domain(&request.domain);
        match self.limit(&placed, &call).await {
            Ok(grant) => Ok(Response::new(self.within(&request, &placed, &grant))),
            // For Envoy to say: its `failure_mode_deny`.
            Err(stopped) if stopped.undecided => Err(Status::unavailable(reason(&stopped))),
            Err(stopped) => Ok(Response::new(beyond(&request, &stopped))),
        }
    }
}

/// A call that a descriptor stands for.
struct Asked<'a> {
    by: By<'a>,
    model: Option<&'a str>,
    hits: u64,
}

impl Envoy {
    /// The call that a request is about: the first descriptor that names a caller, or a model.
    fn call<'a>(&'a self, request: &'a api::RateLimitRequest) -> Option<Asked<'a>> {
        let limits = &*self.limits;
        request.descriptors.iter().find_map(|descriptor| {
            let model = entry(descriptor, &limits.model_entry);
            let hits = hits(request, descriptor).max(1);
            if let Some(secret) = entry(descriptor, &limits.secret_entry) {
                let secret = secret.as_bytes();
                let secret = Some(bearer(secret).unwrap_or(secret));
                let by = By::Secret(secret);
                return Some(Asked { by, model, hits });
            }
            let named = limits.callers.iter().find(|named| {
                let domain = named.domain.as_ref();
                let mut entries = named.entries.iter();
                domain.is_none_or(|domain| *domain == request.domain)
                    && entries.all(|(key, value)| entry(descriptor, key) == Some(value))
            });
            let Some(named) = named else {
                // A call of nobody is one that nobody pays for.
                let by = By::Secret(None);
                return model.map(|model| Asked {
                    by,
                    model: Some(model),
                    hits,
                });
            };
            let (account, key) = &named.caller;
            let by = By::Key(account, key);
            let model = model.or(named.model.as_ref().map(ModelName::as_str));
            Some(Asked { by, model, hits })
        })
    }

    async fn limit(&self, placed: &Placed, call: &Asked<'_>) -> Result<CallGrant, Stopped> {
        let read = Read {
            model: call.model.map(str::to_owned),
            max_output: None,
            choices: 1,
            calls: call.hits,
            bytes: 0,
            scan: None,
        };
        // Envoy asks once: nothing tells a repeat from another call.
        let request = self.gateway.name(&[]);
        let grant = self.admit(placed, &read, call.by, &request).await?;
        if !grant.needs_usage {
            // All that it costs is known now, and nobody need tell how it ends.
            let usage = Counts::default().with(Meter::Request, call.hits);
            self.settle(&grant.hold.id, &ended(usage));
        }
        Ok(grant)
    }

    /// Settles the calls that a request tells the end of.
    fn ends(&self, request: &api::RateLimitRequest) {
        let limits = &*self.limits;
        let mut used: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
        for descriptor in &request.descriptors {
            if let Some(hold) = entry(descriptor, &limits.hold_entry) {
                let meter = entry(descriptor, &limits.meter_entry).unwrap_or(Meter::Output.name());
                used.entry(hold)
                    .or_default()
                    .insert(meter, hits(request, descriptor));
            }
        }
        for (hold, used) in used {
            let api = self
                .gateway
                .gate
                .carried(hold)
                .map_or(Api::Opaque, |call| call.api);
            let number = |name: &str| used.get(name).copied();
            // As the API names its numbers, or as we name the meters.
            let usage = usage_of(api, number)
                .or_else(|| usage_of(Api::OpenAiChat, number))
                .or_else(|| usage_of(Api::Opaque, number));
            match usage {
                Some(usage) => self.settle(hold, &ended(usage)),
                None => tracing::warn!(hold, ?used, "a rate limit tells a usage of no known meter"),
            }
        }
    }

    fn within(
        &self,
        request: &api::RateLimitRequest,
        placed: &Placed,
        grant: &CallGrant,
    ) -> api::RateLimitResponse {
        let mut headers = http::HeaderMap::new();
        if let Some(rate) = &grant.rate {
            let now = self.gateway.clock.now().wall;
            crate::gate::headers::rate(placed.dialect, rate, now, &mut headers);
        }
        api::RateLimitResponse {
            response_headers_to_add: plain(&headers),
            request_headers_to_add: vec![header(HOLD_HEADER, &grant.hold.id)],
            dynamic_metadata: Some(wire::told(grant)),
            ..over(request, Code::Ok, grant.rate.as_ref())
        }
    }
}

/// The end of a call that has used so much.
fn ended(usage: Counts) -> Outcome {
    Outcome {
        end: End::Complete,
        reading: Reading {
            usage: Some(usage),
            complete: true,
            ..Reading::default()
        },
        bytes_in: 0,
        bytes_out: 0,
    }
}

fn entry<'a>(descriptor: &'a RateLimitDescriptor, key: &str) -> Option<&'a str> {
    let mut entries = descriptor.entries.iter();
    let entry = entries.find(|entry| entry.key == key)?;
    Some(&entry.value)
}

/// How many hits a descriptor adds: its own, else the request's, else one.
fn hits(request: &api::RateLimitRequest, descriptor: &RateLimitDescriptor) -> u64 {
    match (&descriptor.hits_addend, request.hits_addend) {
        (Some(own), _) => own.value,
        (None, 0) => 1,
        (None, all) => all.into(),
    }
}

fn beyond(request: &api::RateLimitRequest, stopped: &Stopped) -> api::RateLimitResponse {
    api::RateLimitResponse {
        response_headers_to_add: plain(stopped.answer.headers()),
        raw_body: stopped.answer.body().to_vec(),
        ..over(request, Code::OverLimit, None)
    }
}

fn reason(stopped: &Stopped) -> &str {
    let reason = stopped
        .answer
        .headers()
        .get(crate::gate::dialect::REASON_HEADER);
    reason.and_then(shown).unwrap_or_default()
}

/// An answer with a status for each descriptor, as there must be.
fn over(
    request: &api::RateLimitRequest,
    code: Code,
    rate: Option<&RateView>,
) -> api::RateLimitResponse {
    let status = DescriptorStatus {
        code: code.into(),
        current_limit: rate.map(|rate| RateLimit {
            name: "qps".into(),
            requests_per_unit: rate.limit,
            unit: rate_limit::Unit::Second.into(),
        }),
        limit_remaining: rate.map_or(0, |rate| rate.remaining),
        duration_until_reset: rate.map(|rate| Duration {
            seconds: i64::try_from(rate.reset.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(rate.reset.subsec_nanos()).unwrap_or(0),
        }),
        quota: None,
    };
    api::RateLimitResponse {
        overall_code: code.into(),
        statuses: vec![status; request.descriptors.len()],
        ..Default::default()
    }
}

fn plain(headers: &http::HeaderMap) -> Vec<HeaderValue> {
    let texts = headers.iter();
    let texts = texts.filter_map(|(name, value)| Some((name.as_str(), shown(value)?)));
    texts.map(|(name, value)| header(name, value)).collect()
}

fn header(name: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: name.into(),
        value: value.into(),
        raw_value: Vec::new(),
    }
}
