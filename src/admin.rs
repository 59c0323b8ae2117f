//! The admin edge: is it alive, is it ready, what does it count. Read only, for probes and Prometheus; names of accounts stand in the
//! list of unheard calls, for whoever reconciles, and on a page of accounts for people, behind a check of its own ([`mod@page`]). What is
//! counted stands in `telemetry`, whether the store answers in `sync`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::app::Core;
use crate::clock::Timestamp;
use crate::config::AdminSettings;
use crate::control::View;
use crate::id::{AccountId, KeyId, ModelName};
use crate::telemetry::{self, Levels};

mod page;

/// Connections at once: a probe, a scraper and a few people. More wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// For a request's head, and for a connection without one: probes come every few seconds, or connect anew.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest request head; hyper's own lower bound.
const HEADER_BYTES_MAX: usize = 8 << 10;

/// What answers under way may take at the end.
const STOP_TIME_MAX: Duration = Duration::from_secs(1);

/// After a failed accept, as when there are no file descriptors left: not at once again, not much later either.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin edge asks of the core. Called for each request, from a runtime's thread: must not block for long.
pub trait Source: Send + Sync + 'static {
    /// How the store was last heard.
    fn store(&self) -> StoreWord;

    /// All metrics in the Prometheus text format.
    fn metrics(&self) -> String;

    /// The newest calls of other gateways whose end was not told, as JSON.
    fn unheard(&self) -> String;
}

/// How the store was last heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreWord {
    /// How long ago it last did what was asked; `None` if it never did.
    pub age: Option<Duration>,
    /// The last attempt failed.
    pub failing: bool,
}

/// A call whose end was not told, as it is listed.
#[derive(Serialize)]
struct UnheardCall {
    hold: String,
    account: AccountId,
    key: KeyId,
    model: Option<ModelName>,
    held: String,
    ended: Timestamp,
    charged: bool,
}

impl Source for Core {
    fn unheard(&self) -> String {
        let calls = self.gate.unheard_calls().into_iter();
        let calls = calls.map(|call| UnheardCall {
            hold: call.hold.id.clone(),
            account: call.hold.account.clone(),
            key: call.hold.key.clone(),
            model: call.model,
            held: call.hold.amount.to_string(),
            ended: call.ended,
            charged: call.charged,
        });
        let calls: Vec<_> = calls.collect();
        serde_json::to_string(&calls).unwrap_or_default()
    }

    fn store(&self) -> StoreWord {
        let status = self.sync.status();
        StoreWord {
            age: status.last_ok_age,
            failing: status.failing,
        }
    }

    /// Walks all accounts in memory, some ten nanoseconds for each: of no weight once in some seconds.
    fn metrics(&self) -> String {
        let status = self.sync.status();
        let engine = self.gate.engine();
        let accounts = engine.accounts();
        let in_flight = accounts
            .iter()
            .map(|account| u64::from(account.in_flight()));
        self.gate.metrics().render(&Levels {
            sync_age: status.last_ok_age,
            sync_failing: status.failing,
            sync_errors: status.store_errors,
            refill_waits: status.refill_waits,
            healed: status.healed,
            restored: status.restored,
            lapsed: status.lapsed,
            retired: status.retired,
            fenced: u64::try_from(status.fenced).unwrap_or(u64::MAX),
            lost: status.lost,
            stalest: status.stalest,
            beyond: status.beyond,
            beyond_bound: status.beyond_most,
            unprotected: status.unprotected,
            unremembered: status.unremembered,
            accounts: u64::try_from(accounts.len()).unwrap_or(u64::MAX),
            holds_open: in_flight.fold(0, u64::saturating_add),
            held: status.held,
            leased: status.leased,
            overshoot_bound: engine.overshoot_bound(),
            overshoot_seen: engine.overshoot_seen(),
        })
    }
}

/// Why it does not listen.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen: cannot listen on {address}: {error}; is another process there?")]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

/// A running admin edge. Dropping it ends it, as [`Running::stop`] does without waiting.
#[derive(Debug)]
#[must_use = "dropping it ends the server"]
pub struct Running {
    /// Where it listens: with the port that was found, if 0 was asked for.
    pub local_addr: SocketAddr,
    join: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Ends it: lets answers under way finish, for at most a second.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        // It cannot fail but by a panic, which was reported where it happened.
        let _ = self.join.await;
    }
}

/// Starts to listen, and serves until the end of what it returns.
///
/// `draining` turns readiness off and nothing else: while calls in flight are being finished, whoever sends traffic must be told
/// so. Stop it last.
pub async fn serve(
    settings: &AdminSettings,
    source: Arc<dyn Source>,
    view: Option<View>,
    draining: watch::Receiver<bool>,
) -> Result<Running, BindError> {
    let address = settings.listen;
    let loopback = address.ip().to_canonical().is_loopback();
    let failed = |error| BindError { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    let (stop, stopped) = watch::channel(false);
    let edge = Arc::new(Edge {
        source,
        sync_age_max: settings.sync_age_max,
        view,
        loopback,
        draining,
    });
    let join = tokio::spawn(accept(listener, edge, stopped));
    Ok(Running {
        local_addr,
        join,
        stop,
    })
}

async fn accept(listener: TcpListener, edge: Arc<Edge>, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let connection_stopped = stopped.clone();
    let accepting = async {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection =
                        connection(stream, Arc::clone(&edge), connection_stopped.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin: cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepting => {}
        // An error says that the handle is gone: the same.
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(STOP_TIME_MAX, all).await;
}

async fn connection(stream: TcpStream, edge: Arc<Edge>, mut stopped: watch::Receiver<bool>) {
    let answer = service_fn(move |request| {
        let edge = Arc::clone(&edge);
        async move { Ok::<_, Infallible>(edge.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    // A client that breaks off or talks no HTTP is nothing to tell of.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

struct Edge {
    source: Arc<dyn Source>,
    sync_age_max: Duration,
    /// What the page shows; without it there is none.
    view: Option<View>,
    loopback: bool,
    draining: watch::Receiver<bool>,
}

const INDEX: &str = "tollgate admin

/healthz   200 while the process lives
/readyz    200 while it can take calls, else 503; the body says why
/metrics   Prometheus metrics
/page      balances, thresholds, state, usage and ledgers of accounts, for people
/unheard   the newest calls of other gateways whose end was not told: their holds ended by policy
";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

impl Edge {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
            "/" => page(StatusCode::OK, TEXT, INDEX),
            "/healthz" => page(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.readiness(),
            "/unheard" => page(StatusCode::OK, JSON, self.source.unheard()),
            "/metrics" => page(
                StatusCode::OK,
                telemetry::CONTENT_TYPE,
                self.source.metrics(),
            ),
            "/page" if self.view.is_some() => {
                let mut response = page(StatusCode::OK, HTML, page::HTML);
                let policy = HeaderValue::from_static(page::POLICY);
                response
                    .headers_mut()
                    .insert(CONTENT_SECURITY_POLICY, policy);
                response
            }
            path => match self.page_data(request, path).await {
                Some((status, body)) => page(status, JSON, body.to_string()),
                None => page(
                    StatusCode::NOT_FOUND,
                    TEXT,
                    "there is nothing here; see /\n",
                ),
            },
        }
    }

    async fn page_data(
        &self,
        request: &Request<Incoming>,
        path: &str,
    ) -> Option<(StatusCode, serde_json::Value)> {
        let (view, query) = (self.view.as_ref()?, request.uri().query());
        page::answer(view, self.loopback, request.headers(), path, query).await
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let readiness = judge(
            self.source.store(),
            self.sync_age_max,
            *self.draining.borrow(),
        );
        let status = match readiness.ready {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let body = serde_json::to_string(&readiness).unwrap_or_default();
        page(status, JSON, body)
    }
}

fn page(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether this replica can take calls, check by check.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Readiness {
    ready: bool,
    checks: [Check; 3],
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// An age at the bound is still young enough. One failed sync is none yet: calls go on within the lease, and the age tells.
fn judge(word: StoreWord, age_max: Duration, draining: bool) -> Readiness {
    let shown = |duration: Duration| format!("{} ms", duration.as_millis());
    let last = if word.failing {
        ", the last one failed"
    } else {
        ""
    };
    let check = |name, ok, detail: String| Check { name, ok, detail };
    let store = match word.age {
        Some(_) => check("store", true, "was reached".into()),
        None => check("store", false, format!("was never reached{last}")),
    };
    let sync = match word.age {
        Some(age) => {
            let (age_shown, max) = (shown(age), shown(age_max));
            let detail = format!("is {age_shown} old, may be {max}{last}");
            check("sync", age <= age_max, detail)
        }
        None => check("sync", false, "never happened".into()),
    };
    let detail = match draining {
        true => "is on: calls in flight are being finished",
        false => "is off",
    };
    let shutdown = check("shutdown", !draining, detail.into());
    let checks = [store, sync, shutdown];
    Readiness {
        ready: checks.iter().all(|check| check.ok),
        checks,
    }
}

#[cfg(test)]
mod tests;
