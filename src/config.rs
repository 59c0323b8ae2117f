//! The configuration: a TOML file and `TOLLGATE_…` variables, checked once into values that cannot be wrong. Every problem is
//! found in one go, each with its key and what would work. Nothing is started or connected here.
//!
//! The written form is the TOML table; a reader takes it apart key by key, so that a wrong value here does not hide a
//! wrong one there. The reference with every key is `deploy/tollgate.toml`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;

use crate::catalog::Layer;
use crate::engine::Bounds;
use crate::envoy::Limits;
use crate::route::{Route, Upstream};
use crate::sync;
use crate::telemetry::Metrics;
use crate::webhooks;

mod callers;
mod catalog;
mod gateways;
mod hooks;
mod reader;
mod routes;
mod sections;
mod source;
mod store;
mod values;

/// The beginning of the variables that override the file.
pub const ENV_PREFIX: &str = "TOLLGATE_";

/// The largest file that is read. A price book of ten thousand patterns takes about 2 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// All that an operator decides, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where accounts are kept.
    pub store: StoreSettings,
    /// How this replica keeps up with the store.
    pub sync: SyncSettings,
    /// The reverse proxy.
    pub proxy: ProxySettings,
    /// The control API.
    pub control: ControlSettings,
    /// Health, readiness and metrics.
    pub admin: AdminSettings,
    /// The services that Envoy asks; `None` unless it is configured.
    pub envoy: Option<EnvoySettings>,
    /// What nginx, Traefik and Caddy ask; `None` unless it is configured.
    pub forward_auth: Option<ForwardAuthSettings>,
    /// Bounds of what is kept in memory.
    pub engine: EngineSettings,
    /// Every upstream, used by a route or not.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
    /// Prices and policies of the file; what the control API sets lies over them.
    pub catalog: Layer,
    /// Where events are posted.
    pub webhooks: Vec<Arc<webhooks::Endpoint>>,
    /// What offline licences are signed with, if they are issued here.
    pub licence_signing: Option<LicenceSigning>,
    /// Logging.
    pub log: LogSettings,
    /// The end.
    pub shutdown: ShutdownSettings,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Which store.
    pub kind: StoreKind,
    /// What this replica keeps on disk; with the embedded store, everything.
    pub data_dir: PathBuf,
}

/// Which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// In one file on this machine.
    Embedded,
    /// In a Redis that replicas share.
    Redis(Box<RedisSettings>),
}

/// How Redis is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where it is.
    pub reach: RedisReach,
    /// Who we are there, if the URL does not say.
    pub login: RedisLogin,
    /// TLS with files of our own.
    pub tls: Option<RedisTls>,
    /// Put before every key.
    pub prefix: String,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For the answer to a command.
    pub response_timeout: Duration,
}

/// The one way to Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisReach {
    /// One server, by its URL; may carry a password.
    Server(Secret),
    /// The master that sentinels name.
    Sentinels {
        /// Each `host:port`.
        sentinels: Vec<String>,
        /// What they call it.
        master: String,
        /// Who we are to them.
        login: RedisLogin,
    },
    /// A cluster, by URLs of some of its nodes.
    Cluster(Vec<String>),
}

/// A user of Redis' ACL; without a name, the default one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisLogin {
    /// Its name.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
}

/// `[store.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// Trust these authorities instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// What is shown to a Redis that asks.
    pub identity: Option<ServerTls>,
    /// What its certificate must name, if not the host.
    pub server_name: Option<String>,
}

/// `[sync]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// Between two publications of what changed.
    pub interval: Duration,
    /// How long a lease runs after the store was last heard.
    pub lease: Duration,
    /// How long before its end a replica stops using a lease.
    pub lease_margin: Duration,
    /// How much recent spend a lease is asked to cover, as time.
    pub lease_target: Duration,
    /// How long a call waits for an empty lease to be filled.
    pub refill_wait: Duration,
    /// After how long without a call a lease goes back.
    pub idle_return: Duration,
    /// After how long without a word a replica is taken to be gone for good.
    pub retire_after: Duration,
}

/// `[proxy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Threads, and as many for the services that Envoy asks; `None` is one for each core. See [`ProxySettings::worker_count`].
    pub workers: Option<usize>,
    /// Client connections at once, over all workers.
    pub connections_max: usize,
    /// The largest request head.
    pub header_bytes_max: usize,
    /// The most header lines of a request.
    pub headers_max: usize,
    /// How long a client may take to send a request's head, be idle between requests, or take nothing of its answer.
    pub client_timeout: Duration,
    /// Answers at once that are read to their end for clients that left.
    pub drains_max: usize,
    /// TLS towards clients.
    pub tls: Option<ServerTls>,
}

impl ProxySettings {
    /// How many workers to start: what is set, else one for each core this process may use.
    pub fn worker_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.unwrap_or_else(cores)
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate, with those between it and its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// Where billing backends and the command line connect.
    pub listen: Listen,
    /// What they must show.
    pub token: Option<Secret>,
    /// TLS towards them.
    pub tls: Option<ControlTls>,
}

/// TLS of the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlTls {
    /// This side's certificate.
    pub server: ServerTls,
    /// Clients must show a certificate of this authority (mTLS).
    pub client_ca: Option<PathBuf>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On a TCP port; 0 is any free one.
    Tcp(SocketAddr),
    /// On a Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this machine can reach it.
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where probes and Prometheus connect.
    pub listen: SocketAddr,
    /// From which age of the last sync on this replica is not ready.
    pub sync_age_max: Duration,
}

/// `[envoy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoySettings {
    /// Where Envoy connects.
    pub listen: Listen,
    /// A Unix socket beside it.
    pub socket: Option<Listen>,
    /// What Envoy must show.
    pub token: Option<Secret>,
    /// Leave the caller's key in the request.
    pub forward_key: bool,
    /// A header that names the model where Envoy shows no body.
    pub model_header: Option<HeaderName>,
    /// A header that says the most output tokens there.
    pub max_output_header: Option<HeaderName>,
    /// What happens to a stream that costs more than the account has.
    pub on_overrun: OnOverrun,
    /// `[envoy.rate_limit]`.
    pub rate_limit: Limits,
}

/// What happens to a watched stream that costs more than its account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOverrun {
    /// It goes on, and takes the balance below zero.
    #[default]
    Finish,
    /// It is cut.
    Cut,
}

/// `[forward_auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuthSettings {
    /// Where the gateway connects.
    pub listen: Listen,
    /// What it must show.
    pub token: Option<Secret>,
    /// Leave the caller's key in the request.
    pub forward_key: bool,
    /// A header that names the model.
    pub model_header: Option<HeaderName>,
    /// A header that says the most output tokens.
    pub max_output_header: Option<HeaderName>,
}

/// `[engine]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// After how long without a call an account is let go from memory.
    pub unload_after: Duration,
    /// Open holds that were taken through an API.
    pub holds_max: usize,
    /// How long a call waits for its account to be loaded.
    pub load_wait: Duration,
    /// Unknown keys that are remembered.
    pub unknown_keys_max: usize,
    /// For how long.
    pub unknown_key_time: Duration,
}

impl Config {
    /// What the sync goes by.
    pub const fn sync_settings(&self) -> sync::Settings {
        let Self { sync, engine, .. } = self;
        sync::Settings {
            times: sync::Times {
                interval: sync.interval,
                lease: sync.lease,
                margin: sync.lease_margin,
                ahead: sync.lease_target,
                idle: sync.idle_return,
                retire: sync.retire_after,
            },
            refill_wait: sync.refill_wait,
            load_wait: engine.load_wait,
            unload_after: engine.unload_after,
        }
    }

    /// The bounds of the engine's tables.
    pub const fn bounds(&self) -> Bounds {
        Bounds {
            unknown_keys_max: self.engine.unknown_keys_max,
            unknown_key_time: self.engine.unknown_key_time,
        }
    }

    /// Counters for its routes and upstreams.
    pub fn metrics(&self) -> Metrics {
        let routes = self.routes.iter().map(|route| route.name.as_str());
        let upstreams = self.upstreams.iter().map(|upstream| upstream.name.as_str());
        Metrics::new(routes, upstreams)
    }
}

/// `[licences.signing]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LicenceSigning {
    /// Which of `[licences.keys]` checks what it signs.
    pub kid: String,
    /// The private key: Ed25519, PEM.
    pub key_file: PathBuf,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// For people or for programs.
    pub format: LogFormat,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// How long calls in flight may take to end.
    pub drain_max: Duration,
}

/// A text that is not shown: neither in logs nor in errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for whoever must send or compare it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Problem {
    /// Where: a key's path such as `routes[2].path`, or a line of the file.
    pub key: String,
    /// What is there, and what would work.
    pub message: String,
}

/// Checks a configuration: the text of a file, with variables put over it. All problems are returned at once,
/// unknown keys last. Files that it names are opened to see that they are there; nothing else is touched.
///
/// A variable `TOLLGATE_STORE__URL` sets `store.url`: `__` goes one level down, a number is a place in a list. A variable
/// without `__` sets nothing, as every key stands in a section. `${NAME}` in a text of the file is replaced by that variable;
/// `$${` is a plain `${`.
pub fn parse(
    text: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<Problem>> {
    let (table, notes) = source::layered(text, env.collect())?;
    let config = sections::check(reader::Reader::new(&notes, table));
    let problems = notes.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// Reads and checks a file; see [`parse`]. Blocks while it reads.
pub fn load(
    path: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<Problem>> {
    let problem = |message| {
        let key = path.display().to_string();
        vec![Problem { key, message }]
    };
    let cannot = |error| {
        problem(format!(
            "cannot be read ({error}); name a file with --config"
        ))
    };
    let size = std::fs::metadata(path).map_err(cannot)?.len();
    if size > FILE_BYTES_MAX {
        return Err(problem(format!(
            "has {size} bytes; a configuration has at most {FILE_BYTES_MAX}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    parse(&text, env)
}

/// The variables of this process, without those that are not text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    // `vars` panics at a variable that is not UTF-8, whosever it is.
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.into_string().ok()?))
    })
}

#[cfg(test)]
mod tests;
