//! What the edges beside another gateway share: reading a request that somebody else carries, deciding on it, and what is to be
//! changed of it on its way. How each gateway asks and is answered is up to its edge ([`crate::envoy`], [`crate::forward_auth`]);
//! whether the call may pass is decided by [`crate::gate`], in the same way and in the same words as for a call that the proxy
//! carries.

use std::borrow::Cow;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::gate::dialect::{self, Problem};
use crate::gate::table::{self, Table};
use crate::gate::{By, CallGrant, Gate, HoldRefused, Passing};
use crate::meter::{Api, RequestFacts, RequestScan};
use crate::refusal::{Reason, Refusal};
use crate::route::{
    ApiName, Dialect, OnDisconnect, OnMissingUsage, OnUpstreamError, Route, Terms, Upstream,
};
use crate::usage::Counts;

pub(crate) mod headers;

pub(crate) use headers::{Changes, Lines};

/// What a hold's id is told in to an upstream that settles it itself. Never taken from outside.
pub(crate) const HOLD_HEADER: &str = "x-tollgate-hold";

/// The longest body that a call may have where no route says: what the large providers take.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Between two looks whether a call is still open, once the process is told to stop.
const OPEN_LOOK: Duration = Duration::from_millis(50);

/// What the edges go by.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The routes; if there are none, all calls are let in on usual terms.
    pub routes: Vec<Route>,
    /// Leave the caller's key in the request. Otherwise it is taken out: it is tollgate's, not the upstream's.
    pub forward_key: bool,
    /// A header in which the gateway names the model, for calls whose body it does not show.
    pub model_header: Option<HeaderName>,
    /// A header in which it says the most output tokens.
    pub max_output_header: Option<HeaderName>,
}

/// Decides about calls that other gateways carry. Shared by their edges.
pub struct Gateway {
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Clock,
    table: Table<()>,
    /// For any call, if there are no routes.
    any: Arc<Terms>,
    routed: bool,
    settings: Settings,
    namer: Namer,
}

/// A request's line, as a gateway tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    /// With or without a port.
    pub(crate) host: &'a str,
    /// With or without a query.
    pub(crate) path: &'a str,
    /// The route by its name, if the gateway says which; else it is found by host and path.
    pub(crate) route: Option<&'a str>,
}

/// How much of a request's body is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its beginning.
    Beginning(&'a [u8]),
    /// Nothing, whether it has one or not.
    Unseen,
}

/// Where a request belongs.
pub(crate) struct Placed {
    pub(crate) terms: Arc<Terms>,
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) api: Api,
    pub(crate) dialect: Dialect,
    /// The request's own id, for answers.
    pub(crate) request_id: String,
    /// Its body is one whose price stands in it.
    pub(crate) reads: bool,
}

/// What was read of a request.
pub(crate) struct Read {
    pub(crate) model: Option<String>,
    pub(crate) max_output: Option<u64>,
    pub(crate) choices: u64,
    /// How many calls it counts as.
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
    /// What of the body was read, to be edited.
    pub(crate) scan: Option<Box<RequestScan>>,
}

/// A request that does not pass, and what its client is told.
pub(crate) struct Stopped {
    /// Boxed: it is handed on by value, and most calls pass.
    pub(crate) answer: Box<Response<Bytes>>,
    /// Nothing was decided, as the account's state cannot be had: it is for the gateway to say what becomes of such calls.
    pub(crate) undecided: bool,
}

impl Gateway {
    /// Over a gate.
    pub fn new(
        gate: Arc<Gate>,
        clock: Clock,
        settings: Settings,
    ) -> Result<Arc<Self>, getrandom::Error> {
        let routes = settings.routes.iter().map(|route| (route.clone(), ()));
        Ok(Arc::new(Self {
            table: Table::new(routes.collect()),
            any: Arc::new(any_terms()),
            routed: !settings.routes.is_empty(),
            namer: Namer::new()?,
            gate,
            clock,
            settings,
        }))
    }

    /// Finds where a request belongs.
    pub(crate) fn place(&self, head: &Head<'_>, lines: &impl Lines) -> Result<Placed, Stopped> {
        let path = head.path.split(['?', '#']).next().unwrap_or(head.path);
        let request_id = headers::text(lines, "x-request-id").unwrap_or_default();
        let stop = |problem: &Problem| Stopped::wrong(Dialect::of_path(path), problem, request_id);
        let path = table::canonical(path).map_err(|_| {
            let message = "The path must not have `.` or `..` as a segment.".into();
            stop(&Problem::BadRequest {
                message,
                param: None,
            })
        })?;
        let (terms, upstream) = if self.routed {
            let found = match head.route {
                Some(name) => self.table.named(name),
                None => self.table.find(head.host, &path),
            };
            let (route, ()) = found.ok_or_else(|| stop(&Problem::NotFound))?;
            (&route.terms, route.upstream.as_ref())
        } else {
            (&self.any, None)
        };
        let api = table::api(terms, &path);
        Ok(Placed {
            api,
            dialect: table::dialect(terms, &path),
            reads: head.method == "POST" && api.has_json_request(),
            terms: Arc::clone(terms),
            upstream: upstream.map(Arc::clone),
            request_id: request_id.into(),
        })
    }

    /// Where the calls of a rate limit's domain belong: to the route of that name, or else anywhere.
    pub(crate) fn place_domain(&self, domain: &str) -> Placed {
        let named = self.table.named(domain).map(|(route, ())| &route.terms);
        let terms = Arc::clone(named.unwrap_or(&self.any));
        let api = match terms.api {
            Some(ApiName::Openai) => Api::OpenAiChat,
            Some(ApiName::Anthropic) => Api::AnthropicMessages,
            Some(ApiName::Opaque) | None => Api::Opaque,
        };
        Placed {
            dialect: table::dialect(&terms, ""),
            api,
            terms,
            upstream: None,
            request_id: String::new(),
            reads: false,
        }
    }

    /// Reads what pricing needs: from the body if it is shown, else from what the gateway says in headers, else from the path.
    pub(crate) fn read(
        &self,
        placed: &Placed,
        head: &Head<'_>,
        lines: &impl Lines,
        body: Body<'_>,
    ) -> Result<Read, Stopped> {
        let declared = headers::number(lines, "content-length");
        if placed.reads && headers::is_encoded(lines) {
            let message = "The request's body must not be compressed: it is read for its price.";
            return Err(placed.bad(message, None));
        }
        let bytes = match body {
            Body::Whole(body) => headers::length(body),
            Body::Beginning(body) => declared.unwrap_or(0).max(headers::length(body)),
            Body::Unseen => declared.unwrap_or(0),
        };
        let bytes_max = placed.terms.body_bytes_max;
        if bytes > bytes_max {
            return Err(placed.wrong(&Problem::TooLarge { bytes_max }));
        }
        let scan = match body {
            Body::Whole(shown) | Body::Beginning(shown) if placed.reads => {
                let mut scan = Box::new(RequestScan::new(placed.api));
                let read = scan.feed(shown);
                let ended = match body {
                    Body::Whole(_) => read.and_then(|()| scan.end()),
                    _ => read,
                };
                ended.map_err(|wrong| placed.wrong(&(&wrong).into()))?;
                Some(scan)
            }
            _ => None,
        };
        let facts = scan.as_deref().map(RequestScan::facts);
        let named = |name: &Option<HeaderName>| {
            let name = name.as_ref().filter(|_| facts.is_none())?;
            headers::text(lines, name.as_str())
        };
        let model = facts
            .and_then(|facts| facts.model.as_deref())
            .or_else(|| named(&self.settings.model_header))
            .or_else(|| headers::model_of_path(head.path))
            .map(str::to_owned);
        let most = named(&self.settings.max_output_header).and_then(|text| text.parse().ok());
        let read = Read {
            model,
            max_output: facts.map_or(most, |facts| facts.max_output),
            choices: facts.map_or(1, |facts: &RequestFacts| facts.choices),
            calls: 1,
            bytes,
            scan,
        };
        placed.check_model(&read, body)?;
        Ok(read)
    }

    /// Decides about a request that was read. `request` is what tells it from all others: see [`Gateway::name`].
    pub(crate) async fn admit(
        &self,
        placed: &Placed,
        read: &Read,
        by: By<'_>,
        request: &str,
    ) -> Result<CallGrant, Stopped> {
        let mut passing = Passing {
            by,
            terms: &placed.terms,
            api: placed.api,
            model: read.model.as_deref(),
            max_output: read.max_output,
            choices: read.choices,
            calls: read.calls,
            request_bytes: read.bytes,
            request,
        };
        let mut held = self.gate.hold_call(&passing).await;
        let fresh;
        if matches!(held, Err(HoldRefused::RequestIdReused)) {
            fresh = self.name(&[]);
            passing.request = &fresh;
            held = self.gate.hold_call(&passing).await;
        }
        held.map_err(|refused| {
            let refusal = match refused {
                HoldRefused::Refusal(refusal) => refusal,
                HoldRefused::RequestIdReused | HoldRefused::TooMany(_) => {
                    tracing::warn!(?refused, "a gateway's call could not be decided on");
                    Refusal::after(Reason::StateUnavailable, Duration::from_secs(1))
                }
            };
            Stopped {
                answer: Box::new(dialect::refusal(
                    placed.dialect,
                    &refusal,
                    &placed.request_id,
                )),
                undecided: refusal.reason == Reason::StateUnavailable,
            }
        })
    }

    /// What a call is told that comes when the process is about to end: nothing is decided any more, and it is for the gateway to ask
    /// another replica, or to say what becomes of such calls.
    pub(crate) fn closed(&self, placed: &Placed) -> Stopped {
        let refusal = Refusal::after(Reason::StateUnavailable, Duration::from_secs(1));
        Stopped {
            answer: Box::new(dialect::refusal(
                placed.dialect,
                &refusal,
                &placed.request_id,
            )),
            undecided: true,
        }
    }

    /// Until the process is told to stop and the end of the last open call was told. Whoever tells may have to connect first, so the
    /// edges serve until then.
    pub(crate) async fn heard_out(&self, mut stop: watch::Receiver<bool>) {
        // An error says that nobody is left to call for a stop, which is the same.
        let _ = stop.wait_for(|stop| *stop).await;
        let mut looks = tokio::time::interval(OPEN_LOOK);
        loop {
            looks.tick().await;
            if !self.gate.carries() {
                return;
            }
        }
    }

    /// A name for a request, by what tells it from all others; without anything, a new one.
    pub(crate) fn name(&self, parts: &[&[u8]]) -> String {
        self.namer.name(parts)
    }

    /// Whether a hold's name was given by this process. One that was not is another's, or an earlier one's.
    pub(crate) fn is_own(&self, hold: &str) -> bool {
        let request = hold.rsplit('~').next().unwrap_or_default();
        request.starts_with(&self.namer.boot)
    }

    /// What is to be changed of a request that passes, and of its answer.
    pub(crate) fn changes(
        &self,
        placed: &Placed,
        grant: &CallGrant,
        lines: &impl Lines,
    ) -> Changes {
        let upstream = placed.upstream.as_deref();
        let forward_key = upstream.map_or(self.settings.forward_key, |it| it.forward_key);
        // A body that is read must come as it is; one whose usage headers say may come compressed.
        let plain = placed.api != Api::Opaque && placed.terms.usage_headers.is_empty();
        let mut changes = Changes::of(lines, forward_key, plain, placed.reads);
        changes.set(HOLD_HEADER, &grant.hold.id);
        for (name, value) in upstream.map_or(&[][..], |it| &it.headers) {
            if let Ok(value) = value.to_str() {
                changes.set(name.as_str(), value);
            }
        }
        if let Some(rate) = &grant.rate {
            let now = self.clock.now().wall;
            crate::gate::headers::rate(placed.dialect, rate, now, &mut changes.answer);
        }
        changes
    }
}

impl Placed {
    /// What a client is told of a problem.
    pub(crate) fn wrong(&self, problem: &Problem) -> Stopped {
        Stopped::wrong(self.dialect, problem, &self.request_id)
    }

    fn bad(&self, message: impl Into<Cow<'static, str>>, param: Option<&'static str>) -> Stopped {
        let message = message.into();
        self.wrong(&Problem::BadRequest { message, param })
    }

    fn check_model(&self, read: &Read, body: Body<'_>) -> Result<(), Stopped> {
        if read.model.is_some() || self.terms.model.is_some() || self.terms.free {
            return Ok(());
        }
        let message: Cow<'static, str> = match body {
            // An API that names no model has none to read: the gate refuses what it cannot price.
            _ if !self.reads => return Ok(()),
            Body::Whole(_) => {
                "The request needs a `model`: the name of the model that is called.".into()
            }
            Body::Beginning(begun) => {
                let most = begun.len();
                format!(
                    "The request's `model` must stand within its first {most} bytes. Put it first."
                )
                .into()
            }
            Body::Unseen => {
                tracing::warn!(
                    route = self.terms.route,
                    "a gateway asks about a call and shows neither its body nor its model"
                );
                "The request's `model` could not be read.".into()
            }
        };
        Err(self.bad(message, Some("model")))
    }
}

impl Stopped {
    fn wrong(dialect: Dialect, problem: &Problem, request_id: &str) -> Self {
        Self {
            answer: Box::new(dialect::problem(dialect, problem, request_id)),
            undecided: false,
        }
    }
}

/// The usual terms, for a gateway without routes. What is about carrying a call is not used.
fn any_terms() -> Terms {
    Terms {
        route: "gateway".into(),
        api: None,
        dialect: None,
        model: None,
        capability: None,
        free: false,
        usage_headers: std::collections::BTreeMap::new(),
        on_disconnect: OnDisconnect::default(),
        on_missing_usage: OnMissingUsage::default(),
        on_upstream_error: OnUpstreamError::default(),
        drain_time_max: Duration::ZERO,
        drain_bytes_max: 0,
        inspect_bytes_max: usize::MAX,
        body_bytes_max: BODY_BYTES_MAX,
        first_byte_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
    }
}

/// Of a request's name, what is hashed.
const HASH_DIGITS: usize = 32;

/// Names requests, so that the same one has the same name, nobody can guess it, and no two processes give the same.
struct Namer {
    keys: (u64, u64),
    boot: String,
    made_up: AtomicU64,
}

impl Namer {
    fn new() -> Result<Self, getrandom::Error> {
        let random: [u8; 24] = crate::app::random()?;
        let word = |at: usize| {
            let bytes = random.iter().skip(at.saturating_mul(8)).take(8);
            bytes.fold(0, |word: u64, byte| word << 8 | u64::from(*byte))
        };
        Ok(Self {
            keys: (word(0), word(1)),
            boot: format!("{:08x}.", word(2) >> 32),
            made_up: AtomicU64::new(0),
        })
    }

    fn name(&self, parts: &[&[u8]]) -> String {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        if parts.iter().all(|part| part.is_empty()) {
            // Relaxed: only that no two get the same matters.
            hasher.write_u64(self.made_up.fetch_add(1, Relaxed));
        }
        for part in parts {
            // The length is part of it, or what one part ends with could be what the next begins with.
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        let hash = hasher.finish128().as_u128();
        // By hand: it is done for every question, and formatting costs as much as the hash.
        let mut name = String::with_capacity(self.boot.len().saturating_add(HASH_DIGITS));
        name.push_str(&self.boot);
        let halves = |byte: u8| [byte >> 4, byte & 0xf];
        let halves = hash.to_be_bytes().into_iter().flat_map(halves);
        name.extend(halves.filter_map(|half| char::from_digit(half.into(), 16)));
        name
    }
}

/// The usage that an answer's headers say, of the meters that the route names; `None` if none does.
pub(crate) fn usage_said(lines: &impl Lines, terms: &Terms) -> Option<Counts> {
    let mut counts = None;
    for (meter, name) in &terms.usage_headers {
        let Some(value) = headers::text(lines, name.as_str()) else {
            continue;
        };
        match value.parse() {
            Ok(count) => counts
                .get_or_insert_with(Counts::default)
                .set(*meter, count),
            Err(_) => {
                tracing::warn!(route = terms.route, header = %name, value, "usage is not a whole number");
            }
        }
    }
    counts
}

/// A header's value of an answer as text; what is none is left out by whoever asks.
pub(crate) fn shown(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

#[cfg(test)]
mod tests;
