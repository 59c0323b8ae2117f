//! One request, top to bottom: route → inspect → admit → forward → meter → settle. What is metered and how it is settled goes
//! with the response's body (`answer`) and the call's tab (`tab`).

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::access::{self, Line};
use super::answer::Answer;
use super::client::{Busy, Client};
use super::headers::{self, From};
use super::inspect::{self, Outgoing};
use super::pool::Pool;
use super::sent::{Head, NoAnswer, Sent};
use super::tab::Tab;
use super::tunnel;
use super::upload::{Failed, Upload};
use crate::gate::dialect::{self, Problem, REQUEST_ID_HEADER};
use crate::gate::{Call, End, RateView, Ticket, headers as rate_headers, table};
use crate::meter::Api;
use crate::refusal::Refusal;
use crate::route::{Dialect, Terms};
use crate::telemetry::{RouteMetrics, StatusClass};

/// Why a request gets tollgate's own words for an answer.
enum Denied {
    /// The gate refused it.
    Refused(Refusal),
    /// It, or its upstream, has a problem.
    Wrong(Problem),
    /// Nobody is there to read an answer.
    Gone,
}

/// What is known of a request once its route is found.
struct Exchange {
    client: Arc<Client>,
    pool: Arc<Pool>,
    terms: Arc<Terms>,
    api: Api,
    dialect: Dialect,
    id: HeaderValue,
    counted: Counted,
}

/// Counts the request when it is dropped; as one without a status if its client left first.
struct Counted(Option<Arc<RouteMetrics>>, StatusClass);

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(metrics) = &self.0 {
            metrics.request(self.1);
        }
    }
}

/// What an upgrade is to, and the client's side of it.
struct Upgrade {
    to: HeaderValue,
    client: OnUpgrade,
}

/// Serves one request of a client.
///
/// No `async fn`, and what can be done before the future is: hyper copies the future into its place, and every value that one
/// `async fn` hands to the next has a place in both.
pub(super) fn serve(
    client: Arc<Client>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send {
    let busy = Busy::new(&client);
    let given = headers::request_id(request.headers()).cloned();
    let id = given.unwrap_or_else(|| client.worker.next_id());
    let route = Exchange::route(client, &request, id);
    let upgrade = upgrade(&mut request);
    let (mut parts, body) = request.into_parts();
    async move {
        let mut exchange = match route {
            Ok(exchange) => exchange,
            Err((problem, id)) => {
                let dialect = Dialect::of_path(parts.uri.path());
                return Ok(own(dialect::problem(dialect, &problem, text(&id)), busy));
            }
        };
        let response = match exchange.run(&mut parts, body, upgrade, &busy).await {
            Ok(response) => response,
            Err(denied) => match exchange.denied(&denied) {
                Some(response) => own(response, busy),
                None => {
                    // Nobody reads it; but should somebody, it is no success.
                    let mut nothing = own(Response::new(Bytes::new()), busy);
                    *nothing.status_mut() = StatusCode::BAD_REQUEST;
                    return Ok(nothing);
                }
            },
        };
        exchange.counted.1 = StatusClass::of(response.status());
        Ok(response)
    }
}

/// A request's id for a body or a log line.
fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

fn own(response: Response<Bytes>, busy: Busy) -> Response<Answer> {
    response.map(|words| Answer::own(words, busy))
}

impl Exchange {
    /// Finds the route.
    fn route(
        client: Arc<Client>,
        request: &Request<Incoming>,
        id: HeaderValue,
    ) -> Result<Self, (Problem, HeaderValue)> {
        if *request.method() == Method::CONNECT {
            return Err((Problem::MethodNotAllowed, id));
        }
        let Ok(path) = table::canonical(request.uri().path()) else {
            let problem = Problem::BadRequest {
                message: "The path must not have `.` or `..` as a segment.".into(),
                param: None,
            };
            return Err((problem, id));
        };
        let Some((route, way)) = client.worker.routes.find(host(request), &path) else {
            return Err((Problem::NotFound, id));
        };
        Ok(Self {
            api: table::api(&route.terms, &path),
            dialect: table::dialect(&route.terms, &path),
            terms: Arc::clone(&route.terms),
            pool: Arc::clone(&way.pool),
            counted: Counted(way.metrics.clone(), StatusClass::None),
            client,
            id,
        })
    }

    /// Everything after the route. Dropped at any point, the client left: what was held is settled by how far it had come.
    async fn run(
        &self,
        parts: &mut Parts,
        body: Incoming,
        upgrade: Option<Upgrade>,
        busy: &Busy,
    ) -> Result<Response<Answer>, Denied> {
        let body = self.inspect(parts, body).await?;
        let ticket = self.admit(parts, &body).await.map_err(Denied::Refused)?;
        let rate = ticket.rate();

        let body = body.into_outgoing(ticket.needs_usage(), &self.terms);
        let strip = body.asks_usage;
        let (request, tab) = self.outgoing(parts, body, ticket, upgrade.as_ref())?;
        let (response, sent) = self.forward(request, tab, upgrade.is_some()).await?;

        let response = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.switch(response, sent, upgrade, busy)?
        } else {
            self.meter(response, sent, strip, busy)
        };
        Ok(self.finish(response, rate))
    }

    /// Reads the body as far as pricing needs. Much of it is held back only for a caller that is known.
    async fn inspect(&self, parts: &Parts, body: Incoming) -> Result<inspect::Inspected, Denied> {
        if inspect::reads(&parts.method, self.api) && headers::is_encoded(&parts.headers) {
            return Err(Denied::Wrong(Problem::BadRequest {
                message: "The request's body must not be compressed: it is read for its price."
                    .into(),
                param: None,
            }));
        }
        let mut body = inspect::begin(&parts.method, body, self.api, &self.terms)?;
        if body.read(inspect::STRANGERS_BYTES_MAX, &self.terms).await? {
            let secret = headers::secret(&parts.headers);
            let known = self.client.worker.gate.recognise(secret).await;
            known.map_err(Denied::Refused)?;
            body.read(usize::MAX, &self.terms).await?;
        }
        Ok(body)
    }

    async fn admit(&self, parts: &Parts, body: &inspect::Inspected) -> Result<Ticket, Refusal> {
        let facts = body.facts();
        let call = Call {
            secret: headers::secret(&parts.headers),
            terms: &self.terms,
            model: facts.and_then(|facts| facts.model.as_deref()),
            max_output: facts.and_then(|facts| facts.max_output),
            choices: facts.map_or(1, |facts| facts.choices),
            request_bytes: body.bytes(),
        };
        self.client.worker.gate.admit(&call).await
    }

    /// A denial in tollgate's words; `None` if nobody is there to read them.
    fn denied(&self, denied: &Denied) -> Option<Response<Bytes>> {
        let id = text(&self.id);
        match denied {
            Denied::Refused(refusal) => {
                let response = dialect::refusal(self.dialect, refusal, id);
                access::refused(&self.id, &self.terms, refusal, response.status());
                Some(response)
            }
            Denied::Wrong(problem) => Some(dialect::problem(self.dialect, problem, id)),
            Denied::Gone => None,
        }
    }

    /// The request as the upstream gets it, and the tab that is open from here on.
    fn outgoing(
        &self,
        parts: &mut Parts,
        body: Outgoing,
        ticket: Ticket,
        upgrade: Option<&Upgrade>,
    ) -> Result<(Request<Upload>, Box<Tab>), Denied> {
        let line = Line::begin(&self.id, &self.terms, &ticket);
        let tab = Tab::open(ticket, body.bytes_whole, body.progress, line);
        let host = parts.headers.get(HOST).cloned().or_else(|| {
            let authority = parts.uri.authority()?;
            HeaderValue::from_str(authority.as_str()).ok()
        });
        let from = From {
            address: &self.client.address,
            proto: &self.client.proto,
            host,
            request_id: &self.id,
        };
        // A body that is read must come as it is; one whose usage headers say may come compressed.
        let plain = self.api != Api::Opaque && self.terms.usage_headers.is_empty();
        headers::forward(&mut parts.headers, &self.pool.upstream, from, plain);
        if inspect::reads(&parts.method, self.api) {
            headers::say_json(&mut parts.headers);
        }
        if let Some(upgrade) = upgrade {
            headers::set_upgrade(&mut parts.headers, upgrade.to.clone());
        }
        let base = &self.pool.upstream.base_path;
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        // Without a base the path is shared, not copied.
        let target = match (base.is_empty(), parts.uri.path_and_query()) {
            (true, Some(path)) => Ok(path.clone()),
            _ => PathAndQuery::from_maybe_shared(Bytes::from([base, path].concat())),
        };
        let target = target.map_err(|_| {
            Denied::Wrong(Problem::BadRequest {
                message: "The path is too long.".into(),
                param: None,
            })
        })?;
        let mut request = Request::new(body.body);
        *request.method_mut() = std::mem::take(&mut parts.method);
        *request.uri_mut() = Uri::from(target);
        *request.headers_mut() = std::mem::take(&mut parts.headers);
        *request.extensions_mut() = std::mem::take(&mut parts.extensions);
        Ok((request, tab))
    }

    /// Sends the request and waits for the head of its response. A connection that was kept and turns out closed before
    /// anything was written to it is replaced once.
    async fn forward(
        &self,
        request: Request<Upload>,
        mut tab: Box<Tab>,
        upgrade: bool,
    ) -> Result<(Response<Incoming>, Sent), Denied> {
        let pool = &self.pool;
        let taken = if upgrade {
            pool.fresh_http1().await.map(|lease| (lease, false))
        } else {
            pool.take().await
        };
        let (mut lease, mut reused) = match taken {
            Ok(taken) => taken,
            Err(error) => return Err(self.no_answer(&mut tab, NoAnswer::Dial(error))),
        };
        let mut request = self.addressed(request, lease.is_http2());
        loop {
            tab.sent();
            let (answer, mut sent) = Head::new(Sent {
                answering: lease.send(request),
                tab,
                lease: (lease, Arc::clone(pool)),
                terms: Arc::clone(&self.terms),
                worker: Arc::clone(&self.client.worker),
                api: self.api,
            })
            .await;
            match answer {
                Ok(response) => return Ok((response, sent)),
                Err(NoAnswer::Unsent(unsent)) if reused => {
                    let fresh = if sent.lease.0.is_http2() {
                        pool.take().await.map(|(lease, _)| lease)
                    } else {
                        pool.fresh_http1().await
                    };
                    tab = sent.tab;
                    lease = match fresh {
                        Ok(fresh) => fresh,
                        Err(error) => return Err(self.no_answer(&mut tab, NoAnswer::Dial(error))),
                    };
                    request = self.addressed(*unsent, lease.is_http2());
                    reused = false;
                }
                Err(error) => return Err(self.no_answer(&mut sent.tab, error)),
            }
        }
    }

    /// Puts a request in the form of the connection that it goes out on.
    fn addressed(&self, mut request: Request<Upload>, http2: bool) -> Request<Upload> {
        let unsized_body = request.body().size_hint().exact().is_none();
        if let Some(uri) = self.target(request.uri(), http2) {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        if http2 {
            headers.remove(HOST);
            headers.remove(TRANSFER_ENCODING);
            *request.version_mut() = Version::HTTP_2;
        } else {
            headers.insert(HOST, self.pool.host.clone());
            headers::join_cookies(headers);
            if unsized_body {
                // Said here, because hyper takes a `GET` for one without a body otherwise.
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            *request.version_mut() = Version::HTTP_11;
        }
        request
    }

    /// A request's target as its connection says it: the path alone, or all three parts; `None` if it is said so already.
    fn target(&self, uri: &Uri, http2: bool) -> Option<Uri> {
        if !http2 && uri.authority().is_none() {
            return None;
        }
        let mut target = http::uri::Parts::default();
        target.path_and_query = uri.path_and_query().cloned();
        if http2 {
            let tls = self.pool.upstream.tls;
            target.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
            target.authority = Some(self.pool.authority.clone());
        }
        Uri::from_parts(target).ok()
    }

    /// Settles a call that got no answer, and says why.
    fn no_answer(&self, tab: &mut Tab, error: NoAnswer) -> Denied {
        let failed = tab.upload().and_then(|upload| upload.failed().cloned());
        if let Some(failed) = failed {
            tab.settle(End::ClientFailed);
            return failed.into();
        }
        tab.settle(End::NoAnswer);
        self.pool.failed(error.kind());
        let upstream = &self.pool.upstream.name;
        let id = text(&self.id);
        tracing::warn!(upstream, route = self.terms.route, request_id = id, %error, "no answer");
        Denied::Wrong(if error.is_timeout() {
            Problem::UpstreamTimeout
        } else {
            Problem::UpstreamUnreachable
        })
    }

    /// The response as the client gets it; its body meters and settles.
    fn meter(
        &self,
        response: Response<Incoming>,
        sent: Sent,
        strip: bool,
        busy: &Busy,
    ) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        let live = sent.into_live(&parts, body, strip);
        headers::strip(&mut parts.headers);
        if live.is_shortened() {
            parts.headers.remove(CONTENT_LENGTH);
        }
        parts.version = Version::HTTP_11;
        let answer = Answer::live(live, Busy::clone(busy));
        Response::from_parts(parts, answer)
    }

    /// An upgraded connection: both ways pass until both are closed.
    fn switch(
        &self,
        mut response: Response<Incoming>,
        sent: Sent,
        upgrade: Option<Upgrade>,
        busy: &Busy,
    ) -> Result<Response<Answer>, Denied> {
        let mut tab = sent.tab;
        let Some(upgrade) = upgrade else {
            // Nobody asked for it, so nobody would understand what follows.
            tab.settle(End::NoAnswer);
            return Err(Denied::Wrong(Problem::UpstreamUnreachable));
        };
        let upstream = hyper::upgrade::on(&mut response);
        tunnel::start(upgrade.client, upstream, tab, &self.terms, &self.client);
        let (mut parts, _) = response.into_parts();
        let to = headers::upgrade(&parts.headers).unwrap_or(upgrade.to);
        headers::strip(&mut parts.headers);
        headers::set_upgrade(&mut parts.headers, to);
        let answer = Answer::own(Bytes::new(), Busy::clone(busy));
        Ok(Response::from_parts(parts, answer))
    }

    /// The headers that every passed-on response has.
    fn finish(&self, mut response: Response<Answer>, rate: Option<RateView>) -> Response<Answer> {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID_HEADER, self.id.clone());
        if let Some(rate) = rate {
            let now = self.client.worker.clock.now().wall;
            rate_headers::rate(self.dialect, &rate, now, headers);
        }
        response
    }
}

impl std::convert::From<Failed> for Denied {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Gone => Self::Gone,
            Failed::Wrong(problem) => Self::Wrong(problem),
        }
    }
}

/// The host that a request is for: its target's, else its header's.
fn host(request: &Request<Incoming>) -> &str {
    let target = request.uri().authority().map(Authority::as_str);
    target.unwrap_or_else(|| {
        let header = request.headers().get(HOST);
        header
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default()
    })
}

/// The upgrade that a request asks for. HTTP/2 has none, and streams what an upgrade would be for.
fn upgrade(request: &mut Request<Incoming>) -> Option<Upgrade> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let to = headers::upgrade(request.headers())?;
    let client = hyper::upgrade::on(request);
    Some(Upgrade { to, client })
}
