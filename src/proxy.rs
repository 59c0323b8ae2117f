//! The reverse proxy: HTTP/1.1 and HTTP/2 in and out, bodies streamed both ways.
//!
//! The way of one request stands in [`exchange`]: route → inspect → admit → forward → meter → settle. Each worker is a thread
//! with a runtime, a listener on the shared port and upstream connections of its own, so that no request crosses threads:
//! measured 10 to 17 % cheaper than a runtime that moves tasks around.
//!
//! | module | what lives there |
//! |---|---|
//! | `listen`, `wire`, `client` | sockets, threads, connections; who is let in and for how long |
//! | `exchange` | one request, top to bottom |
//! | `headers` | whose headers are whose; pure. Routes are told apart by `gate::table` |
//! | `inspect`, `upload` | the request's body: read as far as pricing needs, then passed on |
//! | `sent`, `answer`, `tab` | waiting for the response, its body, and settling exactly once on every way out |
//! | `pool`, `dial`, `tls` | upstream connections |
//! | `alarm`, `quiet` | deadlines that cost next to nothing while they do not come |
//! | `access` | the access log |
//! | `outbound` | a request of our own, for webhooks |
//! | `tunnel` | upgraded connections |
//!
//! What is not here: what a refusal says ([`crate::gate::dialect`]), what a body means ([`crate::meter`]), what a call costs
//! ([`crate::gate`]). Known limits: extended `CONNECT` (WebSocket over HTTP/2) is not served; a client that stops reading one
//! HTTP/2 stream while it keeps its connection busy is not noticed.

mod access;
mod alarm;
mod answer;
mod client;
mod dial;
mod exchange;
mod headers;
mod inspect;
mod listen;
mod outbound;
mod pool;
mod quiet;
mod sent;
mod tab;
mod tls;
mod tunnel;
mod upload;
mod wire;
mod worker;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;

pub use crate::tls::TlsError;

pub(crate) use self::outbound::{Answered, Outbound};

use self::dial::Dialer;
use self::listen::{HEADERS_MAX_DEFAULT, Server};
use self::pool::{Pool, SWEEPS};
use self::tls::ClientTls;
use self::worker::{Way, Worker};
use crate::clock::Clock;
use crate::gate::Gate;
use crate::gate::table::Table;
use crate::route::{Route, Upstream};
use crate::telemetry::Metrics;

/// How long a worker's end waits for threads of its runtime that look up names.
const RUNTIME_END_TIME: Duration = Duration::from_millis(100);

/// How the proxy listens and what it lets in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where; port 0 is any.
    pub listen: SocketAddr,
    /// Threads; at least one is run.
    pub workers: usize,
    /// Serve TLS with these files.
    pub tls: Option<TlsFiles>,
    /// Connections at once, over all workers; more wait in the kernel's queue.
    pub connections_max: usize,
    /// The largest head of a request, in bytes; at least 8 KiB are taken. More is refused with 431.
    pub header_bytes_max: usize,
    /// The most headers of an HTTP/1 request. More are refused with 431.
    pub headers_max: usize,
    /// How long a client may take to send a request's head, be idle between requests, or take nothing of what is written to
    /// it. Noticed at most a quarter of it later.
    pub client_timeout: Duration,
    /// Calls at once that go on without their clients, over all workers. Beyond it, a call whose client leaves is cut and
    /// settled at once.
    pub drains_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            tls: None,
            connections_max: 10_000,
            // What the provider libraries send is a few hundred; 64 KiB is what browsers' cookies may come to.
            header_bytes_max: 64 * 1024,
            headers_max: HEADERS_MAX_DEFAULT,
            // As nginx: long enough for a pooled connection to be worth it.
            client_timeout: Duration::from_secs(60),
            drains_max: 1024,
        }
    }
}

/// A server's certificate chain and private key, PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// Why the proxy does not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An upstream's host is none.
    #[error("upstream {name}: `{host}` is no host")]
    Host {
        /// The upstream.
        name: String,
        /// Its host.
        host: String,
    },
    /// The operating system gives no thread, runtime or randomness.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
}

/// A worker ended of itself, which none should: the address may be dead.
#[derive(Debug, thiserror::Error)]
#[error("a proxy worker died: {0}")]
pub struct WorkerDied(String);

/// A proxy that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub local_addr: SocketAddr,
    ends: mpsc::Receiver<Result<(), WorkerDied>>,
    workers: usize,
}

impl Running {
    /// Waits until all workers have ended after the shutdown, or one died before it. Dropping it lets them run on.
    pub async fn join(mut self) -> Result<(), WorkerDied> {
        for _ in 0..self.workers {
            match self.ends.recv().await {
                Some(end) => end?,
                None => return Err(WorkerDied("its thread panicked".into())),
            }
        }
        Ok(())
    }
}

/// Reads the TLS files as [`serve`] does, and tells all that is wrong with them or the upstreams. Nothing is started.
pub fn check(settings: &Settings, upstreams: &[Arc<Upstream>]) -> Vec<StartError> {
    let tls = settings.tls.as_ref().map(tls::server).transpose();
    let own = tls.err().map(StartError::from);
    let theirs = upstreams.iter().map(Target::of).filter_map(Result::err);
    own.into_iter().chain(theirs).collect()
}

/// Binds the address, reads the TLS files and starts the workers.
///
/// Once `stop` turns true (or its sender is gone), nothing more is accepted and what is in flight, with or without its client,
/// has `drain_max` to end. What has not ended then is cut, and settled as it stands.
pub fn serve(
    gate: &Arc<Gate>,
    clock: &Clock,
    settings: &Settings,
    routes: &[Route],
    stop: &watch::Receiver<bool>,
    drain_max: Duration,
) -> Result<Running, StartError> {
    let workers = settings.workers.max(1);
    let tls = settings.tls.as_ref().map(tls::server).transpose()?;
    // A route without an upstream is for calls that another gateway carries.
    let (mut own, mut upstreams) = (Vec::new(), Vec::new());
    for route in routes {
        if let Some(upstream) = &route.upstream {
            own.push(route.clone());
            upstreams.push(Target::of(upstream)?);
        }
    }
    let cannot_bind = |source| StartError::Bind {
        address: settings.listen,
        source,
    };
    let listeners = listen::bind(settings.listen, workers).map_err(cannot_bind)?;
    let first = listeners.first().map(TcpListener::local_addr);
    let local_addr = first
        .unwrap_or_else(|| Err(io::ErrorKind::AddrNotAvailable.into()))
        .map_err(cannot_bind)?;

    let (ended, ends) = mpsc::channel(workers);
    let plan = Arc::new(Plan {
        gate: Arc::clone(gate),
        clock: clock.clone(),
        settings: settings.clone(),
        routes: own,
        upstreams,
        tls,
        drains: Arc::new(Semaphore::new(
            settings.drains_max.min(Semaphore::MAX_PERMITS),
        )),
        places: settings
            .connections_max
            .div_ceil(workers)
            .clamp(1, Semaphore::MAX_PERMITS),
        drain_max,
    });
    for (number, listener) in listeners.into_iter().enumerate() {
        let (plan, stop, ended) = (Arc::clone(&plan), stop.clone(), ended.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Worker)?;
        std::thread::Builder::new()
            .name(format!("proxy-{number}"))
            .spawn(move || {
                let end = runtime.block_on(plan.run(listener, stop));
                // What is left is dropped here, and settled by that.
                runtime.shutdown_timeout(RUNTIME_END_TIME);
                let end = end.map_err(|error| WorkerDied(error.to_string()));
                // Nobody may be waiting any more.
                let _ = ended.try_send(end);
            })
            .map_err(StartError::Worker)?;
    }
    Ok(Running {
        local_addr,
        ends,
        workers,
    })
}

/// An upstream as it is dialled; checked once.
#[derive(Clone)]
struct Target {
    upstream: Arc<Upstream>,
    authority: Authority,
    host: HeaderValue,
    tls: Option<ClientTls>,
}

impl Target {
    fn of(upstream: &Arc<Upstream>) -> Result<Self, StartError> {
        let default_port = if upstream.tls { 443 } else { 80 };
        let host = match (&upstream.host, upstream.port) {
            (host, port) if port == default_port => host.clone(),
            (host, port) => format!("{host}:{port}"),
        };
        let wrong = || StartError::Host {
            name: upstream.name.clone(),
            host: upstream.host.clone(),
        };
        Ok(Self {
            authority: host.parse().map_err(|_| wrong())?,
            host: HeaderValue::from_str(&host).map_err(|_| wrong())?,
            tls: if upstream.tls {
                Some(tls::client(upstream)?)
            } else {
                None
            },
            upstream: Arc::clone(upstream),
        })
    }

    fn pool(&self, metrics: &Metrics) -> Arc<Pool> {
        let upstream = &self.upstream;
        let dialer = Dialer::new(Arc::clone(upstream), self.tls.clone());
        let (authority, host) = (self.authority.clone(), self.host.clone());
        let metrics = metrics.upstream(&upstream.name);
        Arc::new(Pool::new(
            Arc::clone(upstream),
            authority,
            host,
            dialer,
            metrics,
        ))
    }
}

/// What every worker is made from.
struct Plan {
    gate: Arc<Gate>,
    clock: Clock,
    settings: Settings,
    routes: Vec<Route>,
    /// By route.
    upstreams: Vec<Target>,
    tls: Option<TlsAcceptor>,
    drains: Arc<Semaphore>,
    /// Connections at once, per worker.
    places: usize,
    drain_max: Duration,
}

impl Plan {
    /// One worker, from its first connection to its last.
    async fn run(&self, listener: TcpListener, stop: watch::Receiver<bool>) -> io::Result<()> {
        let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
        let worker = Worker::new(
            Arc::clone(&self.gate),
            self.clock.clone(),
            self.table(),
            Arc::clone(&self.drains),
            &alive,
        );
        let worker = Arc::new(worker.map_err(io::Error::other)?);
        let places = Arc::new(Semaphore::new(self.places));
        let server = Server::new(
            Arc::clone(&worker),
            self.tls.clone(),
            places,
            stop,
            &self.settings,
        );
        server.accept(listener, &alive).await?;
        drop(alive);
        // Ends when the last connection, tunnel and drain has.
        let _ = timeout(self.drain_max, all_ended.recv()).await;
        worker.close();
        Ok(())
    }

    /// The routes, with this worker's own connections; routes to one upstream share them.
    fn table(&self) -> Table<Way> {
        let metrics = self.gate.metrics();
        let mut pools: Vec<Arc<Pool>> = Vec::new();
        let mut routes = Vec::with_capacity(self.routes.len());
        for (route, target) in self.routes.iter().zip(&self.upstreams) {
            let known = pools
                .iter()
                .find(|pool| Arc::ptr_eq(&pool.upstream, &target.upstream));
            let pool = known.map_or_else(|| target.pool(metrics), Arc::clone);
            if known.is_none() {
                tokio::spawn(sweep(Arc::clone(&pool)));
                pools.push(Arc::clone(&pool));
            }
            let metrics = metrics.route(&route.name);
            routes.push((route.clone(), Way { pool, metrics }));
        }
        Table::new(routes)
    }
}

/// Closes what a pool has kept for too long; ends with the worker.
async fn sweep(pool: Arc<Pool>) {
    let every = pool.upstream.idle_connection_time.checked_div(SWEEPS);
    let mut ticks = interval(every.unwrap_or_default().max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        pool.sweep();
    }
}
