//! Where the services listen. Connections are handed round to threads with a runtime of their own each, as the proxy's are: a question,
//! its answer and the socket's readiness meet on one thread, and none wakes another. Check, which every call waits for, and the access
//! log, which tells of every call, are found before the router of the other services is asked, and what need not wait is answered where it
//! comes in (`inline`).

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use envoy_types::pb::envoy::service as api;
use futures_util::{StreamExt as _, TryFutureExt as _};
use http::{Request, Response};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

use super::inline::Inline;
use super::log::{self, Log};
use super::question::{self, Authorization};
use super::socket::Handed;
use super::unary::Answer;
use super::{Envoy, MESSAGE_BYTES_MAX, Settings};
use crate::control::Listen;
use crate::control::auth::Token;
use crate::control::listener::{self, Listener};
use crate::gateway::Gateway;

/// Connections at once: each of an Envoy's worker threads has one for each of its clusters.
const CONNECTIONS_MAX: usize = 4_096;

/// Connections that were accepted and wait for their thread, which takes them at once.
const HANDED_MAX: usize = 64;

/// Calls and streams at once on one connection. Every call that is watched is a stream for as long as it lasts.
const STREAMS_PER_CONNECTION_MAX: u32 = 16_384;

/// A connection on which nothing was heard for so long is asked whether it is there, and how long it has for the answer: access logs
/// may be silent for hours.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, with the ports it got; Unix sockets are left out.
    pub local_addrs: Vec<SocketAddr>,
    joins: Vec<JoinHandle<()>>,
    workers: Vec<oneshot::Receiver<Infallible>>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or may not be used.
    #[error("envoy.listen: cannot listen on {at}: {error}")]
    Bind {
        /// Where.
        at: String,
        /// Why.
        error: io::Error,
    },
    /// The operating system gives no thread or runtime.
    #[error("envoy: cannot start a worker: {0}")]
    Worker(#[source] io::Error),
}

impl Running {
    /// Waits until it has ended, after the stop.
    pub async fn join(self) {
        for join in self.joins {
            // A panic was reported where it happened.
            let _ = join.await;
        }
        for worker in self.workers {
            // Nothing is ever sent: it ends with the thread.
            let _ = worker.await;
        }
    }
}

/// Starts the server. Once `stop` turns true (or its sender is gone), no call is let through any more, and the ends of those that are
/// open are heard for at most [`Settings::drain`].
///
/// # Errors
///
/// If an address cannot be listened on, or a thread cannot be started.
pub async fn serve(
    gateway: Arc<Gateway>,
    settings: Settings,
    stop: watch::Receiver<bool>,
) -> Result<Running, StartError> {
    let envoy = Envoy {
        gateway,
        stop: stop.clone(),
        cut_overrun: settings.cut_overrun,
        limits: Arc::new(settings.limits),
    };
    let (health, health_server) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    health.set_service_status("", serving).await;
    let guard = Token::new(settings.token.as_deref());
    // Without the token, which Envoy's own health checks do not send.
    let front = Front::new(&envoy, &guard, Routes::new(health_server));

    let mut bound = Vec::new();
    for listen in &settings.listen {
        let failed = |error| StartError::Bind {
            at: at(listen),
            error,
        };
        bound.push(match listen {
            Listen::Tcp(address) => Bound::Tcp(listener::tcp(*address).await.map_err(failed)?),
            Listen::Unix(path) => Bound::Unix(listener::unix(path).await.map_err(failed)?),
        });
    }
    let mut running = Running {
        local_addrs: Vec::new(),
        joins: Vec::new(),
        workers: Vec::new(),
    };
    let mut to = Vec::new();
    for number in 0..settings.workers.max(1) {
        let (handed, given) = mpsc::channel(HANDED_MAX);
        let (ended, end) = oneshot::channel();
        let worker = Worker {
            gateway: Arc::clone(&envoy.gateway),
            stop: stop.clone(),
            front: front.clone(),
            drain: settings.drain,
        };
        worker
            .start(number, given, ended)
            .map_err(StartError::Worker)?;
        to.push(handed);
        running.workers.push(end);
    }
    for bound in bound {
        let (gateway, stop, to) = (Arc::clone(&envoy.gateway), stop.clone(), to.clone());
        running.joins.push(match bound {
            Bound::Tcp(listener) => {
                running.local_addrs.extend(listener.local_addr());
                let socket = |io: TcpStream| io.into_std().map(Handed::Tcp);
                tokio::spawn(accept(listener, socket, to, gateway, stop))
            }
            Bound::Unix(listener) => {
                let socket = |io: UnixStream| io.into_std().map(Handed::Unix);
                tokio::spawn(accept(listener, socket, to, gateway, stop))
            }
        });
    }
    running.joins.push(tokio::spawn(async move {
        stopped(stop).await;
        let not_serving = tonic_health::ServingStatus::NotServing;
        health.set_service_status("", not_serving).await;
    }));
    Ok(running)
}

enum Bound {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

fn at(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => path.display().to_string(),
    }
}

/// Until the stop is called for, or nobody is left to call for it.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A connection on its way to its thread, with its place.
struct Accepted {
    socket: Handed,
    place: OwnedSemaphorePermit,
}

/// Accepts connections and hands them round, until all that is open has been heard out.
async fn accept<L: Listener>(
    listener: L,
    socket: impl Fn(L::Io) -> io::Result<Handed>,
    to: Vec<mpsc::Sender<Accepted>>,
    gateway: Arc<Gateway>,
    stop: watch::Receiver<bool>,
) {
    let mut incoming = pin!(listener::bounded(listener, CONNECTIONS_MAX));
    let mut heard_out = pin!(gateway.heard_out(stop));
    let mut round = to.iter().cycle();
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut heard_out => return,
            accepted = incoming.next() => accepted,
        };
        let Some(Ok(held)) = accepted else {
            return;
        };
        let (io, place) = held.into_parts();
        let Some(worker) = round.next() else {
            return;
        };
        match socket(io) {
            // A worker that is gone has ended with the drain.
            Ok(socket) => drop(worker.send(Accepted { socket, place }).await),
            Err(error) => tracing::debug!(%error, "envoy: a connection was not taken"),
        }
    }
}

/// A thread that serves connections.
struct Worker {
    gateway: Arc<Gateway>,
    stop: watch::Receiver<bool>,
    front: Front,
    drain: Duration,
}

impl Worker {
    /// Starts it. `ended` is dropped when it has ended.
    fn start(
        self,
        number: usize,
        given: mpsc::Receiver<Accepted>,
        ended: oneshot::Sender<Infallible>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            runtime.block_on(self.run(given));
            // What is left is cut here.
            drop(runtime);
            drop(ended);
        };
        thread::Builder::new()
            .name(format!("envoy-{number}"))
            .spawn(run)
            .map(drop)
    }

    /// From its first connection to its last, or until the drain is over.
    async fn run(self, given: mpsc::Receiver<Accepted>) {
        let mut serving = pin!(self.connections(given));
        tokio::select! {
            () = &mut serving => return,
            () = stopped(self.stop.clone()) => {}
        }
        if timeout(self.drain, serving).await.is_err() {
            let drain = self.drain;
            tracing::warn!(
                ?drain,
                "envoy: calls were still open when the drain was over"
            );
        }
    }

    async fn connections(&self, mut given: mpsc::Receiver<Accepted>) {
        let mut http2 = http2::Builder::new(Inline);
        http2
            .timer(TokioTimer::new())
            // For caches; nobody keeps what is said here.
            .auto_date_header(false)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
        while let Some(Accepted { socket, place }) = given.recv().await {
            let connection = Connection {
                http2: http2.clone(),
                front: self.front.clone(),
                gateway: Arc::clone(&self.gateway),
                stop: self.stop.clone(),
            };
            let alive = alive.clone();
            tokio::spawn(async move {
                if let Err(error) = connection.serve(socket).await {
                    tracing::debug!(error, "envoy: a connection ended");
                }
                drop((place, alive));
            });
        }
        drop(alive);
        // Nothing is ever sent: it ends with the last connection.
        let _ = all_ended.recv().await;
    }
}

/// What serves one connection.
struct Connection {
    http2: http2::Builder<Inline>,
    front: Front,
    gateway: Arc<Gateway>,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, socket: Handed) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let io = TokioIo::new(socket.take()?);
        let connection = self.http2.serve_connection(io, self.front);
        let mut connection = pin!(connection);
        let mut heard_out = pin!(self.gateway.heard_out(self.stop));
        tokio::select! {
            biased;
            served = &mut connection => return Ok(served?),
            () = &mut heard_out => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }
}

/// Check and the access log, and the other services behind them.
#[derive(Clone)]
struct Front {
    check: Authorization,
    log: Log,
    guard: Token,
    others: Routes,
}

impl Front {
    fn new(envoy: &Envoy, guard: &Token, open: Routes) -> Self {
        use api::ext_proc::v3::external_processor_server::ExternalProcessorServer;
        use api::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
        macro_rules! guarded {
            ($server:ident) => {
                InterceptedService::new(
                    $server::new(envoy.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
                    guard.clone(),
                )
            };
        }
        let others = open
            .add_service(guarded!(ExternalProcessorServer))
            .add_service(guarded!(RateLimitServiceServer));
        let envoy = Arc::new(envoy.clone());
        Self {
            check: Authorization(Arc::clone(&envoy)),
            log: Log(envoy),
            guard: guard.clone(),
            others: others.prepare(),
        }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        use tonic::codegen::Service as _;
        let is_check = match request.uri().path() {
            question::CHECK => true,
            log::STREAM => false,
            _ => {
                // They are ready at all times.
                let answered = self.others.clone().call(request.map(Body::new));
                return Box::pin(answered.map_ok(|answer| answer.map(Either::Right)));
            }
        };
        let token = request.headers().get(http::header::AUTHORIZATION);
        match self.guard.status(token.map(http::HeaderValue::as_bytes)) {
            Err(status) => Box::pin(ready(Ok(status.into_http().map(Either::Right)))),
            Ok(()) if is_check => self.check.answer(request),
            Ok(()) => self.log.answer(request),
        }
    }
}
