//! What nginx (`auth_request`), Traefik (ForwardAuth) and Caddy (`forward_auth`) ask over HTTP: may this call pass. They show the
//! head of the request, and Traefik its body too; the decision and its words are those of every other edge.
//!
//! | path | asked by | |
//! |---|---|---|
//! | `/auth` | the gateway, before each call | 200 and headers, or the refusal as the client is to get it |
//! | `/refusal` | nginx, which passes on no refusal but 401 and 403 | the refusal that `/auth` gave, by its headers |
//! | `/settle` | the gateway or the application, after the call | what it used; first settlement stands. 404: no such hold; 421: it lives on another replica, which is named |
//!
//! The original request is told in `x-forwarded-method`, `-host` and `-uri`, which Traefik and Caddy send, or in `x-original-method`,
//! `-host` and `-uri`. `deploy/nginx`, `deploy/traefik` and `deploy/caddy` have it working.
//!
//! Neither nginx nor Caddy shows the body, so the model must be told by the route, by the path, or in a header that the gateway sets
//! ([`crate::gateway::Settings::model_header`]). None of them reads answers: what a call has used comes from the application, or from
//! response headers that the gateway passes to `/settle`. A call that is not told of keeps its hold until it expires.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::control::{Listen, auth, listener};
use crate::gate::dialect::{self, Problem, REASON_HEADER};
use crate::gate::{By, HoldError};
use crate::gateway::headers::{secret, text};
use crate::gateway::{Body, Gateway, Head, Stopped};
use crate::refusal::{Reason, Refusal};

mod told;

/// Connections at once; each of a gateway's workers keeps some.
const CONNECTIONS_MAX: usize = 4_096;

/// For a request's head, and for a connection without one: gateways keep theirs for a minute.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// For a request's body, which a gateway has whole before it asks.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head: nginx's own bound on a client's is 32 KiB.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// The most headers of one: a client's, and those that a gateway adds.
const HEADERS_MAX: usize = 200;

/// The largest body that is read, whatever a route allows: Traefik buffers it as well.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Where the server listens and what it asks of those who call.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub listen: Listen,
    /// What gateways must send as `x-tollgate-token`: `authorization` is the caller's.
    pub token: Option<String>,
    /// How long questions have to be answered when the server is told to stop.
    pub drain: Duration,
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, with the port it got; `None` on a Unix socket.
    pub local_addr: Option<SocketAddr>,
    join: JoinHandle<()>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
#[error("forward_auth.listen: cannot listen on {at}: {error}")]
pub struct BindError {
    at: String,
    error: io::Error,
}

impl Running {
    /// Waits until it has ended, after the stop.
    pub async fn join(self) {
        // A panic was reported where it happened.
        let _ = self.join.await;
    }
}

/// Starts the server. Once `stop` turns true (or its sender is gone), no call is let through any more, and the ends of those that are
/// open are heard for at most [`Settings::drain`].
pub async fn serve(
    gateway: Arc<Gateway>,
    settings: Settings,
    stop: watch::Receiver<bool>,
) -> Result<Running, BindError> {
    let edge = Arc::new(Edge {
        gateway,
        stop,
        token: auth::Token::new(settings.token.as_deref()),
    });
    let failed = |at: String| move |error| BindError { at, error };
    let drain = settings.drain;
    match settings.listen {
        Listen::Tcp(address) => {
            let bound = listener::tcp(address).await;
            let bound = bound.map_err(failed(address.to_string()))?;
            let local_addr = bound.local_addr().ok();
            let join = tokio::spawn(accept(bound, edge, drain));
            Ok(Running { local_addr, join })
        }
        Listen::Unix(path) => {
            let bound = listener::unix(&path).await;
            let bound = bound.map_err(failed(path.display().to_string()))?;
            let join = tokio::spawn(accept(bound, edge, drain));
            Ok(Running {
                local_addr: None,
                join,
            })
        }
    }
}

async fn accept<L: listener::Listener>(bound: L, edge: Arc<Edge>, drain: Duration) {
    use futures_util::StreamExt as _;
    let (ended, end) = watch::channel(false);
    // The ends of calls that are open are still to be told.
    let mut over = std::pin::pin!(edge.over(drain));
    let mut connections = JoinSet::new();
    let mut incoming = std::pin::pin!(listener::bounded(bound, CONNECTIONS_MAX));
    loop {
        tokio::select! {
            next = incoming.next() => match next {
                Some(Ok(io)) => {
                    connections.spawn(connection(io, Arc::clone(&edge), end.clone()));
                }
                Some(Err(_)) => {}
                None => break,
            },
            () = &mut over => break,
        }
        while connections.try_join_next().is_some() {}
    }
    // Whoever has gone needs no word.
    let _ = ended.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(BODY_TIMEOUT.min(drain), all).await;
}

async fn connection<IO>(io: IO, edge: Arc<Edge>, mut stop: watch::Receiver<bool>)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let edge = Arc::clone(&edge);
        async move { Ok::<_, Infallible>(edge.answer(request).await.map(Full::new)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(io), answer);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

struct Edge {
    gateway: Arc<Gateway>,
    stop: watch::Receiver<bool>,
    token: auth::Token,
}

/// A header in which a gateway shows that it is one.
const TOKEN_HEADER: &str = "x-tollgate-token";

impl Edge {
    /// Until the process is told to stop and all ends were told, or the drain is over.
    async fn over(&self, drain: Duration) {
        let mut stop = self.stop.clone();
        // An error says that the handle is gone: the same.
        let _ = stop.wait_for(|stop| *stop).await;
        let _ = timeout(drain, self.gateway.heard_out(self.stop.clone())).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Bytes> {
        let (parts, body) = request.into_parts();
        let token = parts.headers.get(TOKEN_HEADER);
        if !self.token.is(token.map(HeaderValue::as_bytes)) {
            let words = "x-tollgate-token is missing or wrong; send what forward_auth.token says\n";
            return plain(StatusCode::FORBIDDEN, words);
        }
        match parts.uri.path() {
            "/auth" => self.decide(&parts.headers, body).await,
            "/refusal" => self.refusal(&parts.headers),
            "/settle" => self.settle(&parts.headers, body).await,
            _ => plain(
                StatusCode::NOT_FOUND,
                "there are /auth, /refusal and /settle\n",
            ),
        }
    }

    async fn decide(&self, headers: &HeaderMap, body: Incoming) -> Response<Bytes> {
        let head = told::head(headers);
        match self.pass(&head, headers, body).await {
            Ok(response) => response,
            Err(stopped) => *stopped.answer,
        }
    }

    async fn pass(
        &self,
        head: &Head<'_>,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Bytes>, Stopped> {
        let placed = self.gateway.place(head, headers)?;
        let shown = match read(body).await {
            Ok(bytes) => bytes,
            Err(problem) => return Err(placed.wrong(&problem)),
        };
        let shown = match shown.is_empty() {
            true => Body::Unseen,
            false => Body::Whole(&shown),
        };
        let read = self.gateway.read(&placed, head, headers, shown)?;
        // A gateway here names no request in a way that its client has no say in: each question is another call.
        let request = self.gateway.name(&[]);
        let by = By::Secret(secret(headers));
        if *self.stop.borrow() {
            return Err(self.gateway.closed(&placed));
        }
        let grant = self.gateway.admit(&placed, &read, by, &request).await?;
        let changes = self.gateway.changes(&placed, &grant, headers);
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = changes.answer;
        let names = [
            ("x-tollgate-account", grant.hold.account.as_str()),
            ("x-tollgate-key", grant.hold.key.as_str()),
        ];
        let set = changes.set.iter();
        let set = set.map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in set.chain(names) {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        Ok(response)
    }

    /// The refusal that was given a moment ago, told again by its headers: nginx keeps those, and not its body.
    fn refusal(&self, headers: &HeaderMap) -> Response<Bytes> {
        let head = told::head(headers);
        let placed = match self.gateway.place(&head, headers) {
            Ok(placed) => placed,
            Err(stopped) => return *stopped.answer,
        };
        let reason = text(headers, REASON_HEADER.as_str());
        let reason = reason.and_then(|name| Reason::ALL.into_iter().find(|it| it.name() == name));
        let Some(reason) = reason else {
            // It was no refusal, but a request that could not be understood.
            let message =
                "The request could not be decided on: it is malformed, or names no model.";
            let problem = Problem::BadRequest {
                message: message.into(),
                param: None,
            };
            return *placed.wrong(&problem).answer;
        };
        let wait = text(headers, "retry-after").and_then(|text| text.parse().ok());
        let refusal = Refusal {
            reason,
            retry_after: wait.map(Duration::from_secs),
        };
        dialect::refusal(placed.dialect, &refusal, &placed.request_id)
    }

    async fn settle(&self, headers: &HeaderMap, body: Incoming) -> Response<Bytes> {
        let body = match read(body).await {
            Ok(body) => body,
            Err(_) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
        };
        let json = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let told = match json {
            true => told::in_json(&body),
            false => told::in_headers(headers),
        };
        let told = match told {
            Ok(told) => told,
            Err(wrong) => return plain(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
        };
        let gate = &self.gateway.gate;
        let api = gate.carried(&told.hold).map(|call| call.api);
        let outcome = told.outcome(api);
        gate.ready_call(&told.hold, &outcome).await;
        match gate.settle_call(&told.hold, &outcome) {
            Ok(_) => plain(StatusCode::NO_CONTENT, ""),
            // The first settlement stands; whoever tells again may rest.
            Err(HoldError::Settled(..)) => plain(StatusCode::NO_CONTENT, ""),
            Err(error @ HoldError::Unknown(_)) => {
                plain(StatusCode::NOT_FOUND, format!("{error}\n"))
            }
            Err(error @ HoldError::Elsewhere { .. }) => {
                plain(StatusCode::MISDIRECTED_REQUEST, format!("{error}\n"))
            }
            Err(error) => plain(StatusCode::CONFLICT, format!("{error}\n")),
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let reading = Limited::new(body, BODY_BYTES_MAX).collect();
    match timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::TooLarge {
            bytes_max: u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX),
        }),
        Ok(Err(_)) => Err(Problem::BadRequest {
            message: "The request's body broke off.".into(),
            param: None,
        }),
        Err(_) => Err(Problem::ClientTimeout),
    }
}

fn plain(status: StatusCode, words: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(words.into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
