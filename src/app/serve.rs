//! From a checked configuration to a running process and back: build, serve until told to stop, drain, say the last word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Core, Parts, StartError, random};
use crate::clock::Clock;
use crate::config::{Config, Listen, RedisLogin, RedisReach, RedisSettings, StoreKind};
use crate::gateway::{self, Gateway};
use crate::id::ReplicaId;
use crate::local::{Local, LocalError};
use crate::store::embedded::Embedded;
use crate::store::redis::{self, RedisStore};
use crate::store::{Store, StoreError};
use crate::telemetry::{Watched, logging};
use crate::{admin, config, control, envoy, forward_auth, proxy, webhooks};

/// Between two looks for what is due by the clock alone.
const STEWARD_INTERVAL: Duration = Duration::from_secs(1);

/// How long the last word to the store may take, once everything has drained.
const LAST_WORD_MAX: Duration = Duration::from_secs(10);

/// Threads of the runtime that syncs and serves everything but the proxy and Envoy, whose workers have their own: sync and control are
/// little work, and two threads keep one slow answer from holding up the other.
const RUNTIME_THREADS: usize = 2;

/// Why the process does not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The parts do not fit together.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The data directory cannot be used.
    #[error("data directory: {0}")]
    Local(#[from] LocalError),
    /// The store cannot be opened.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The proxy cannot start.
    #[error("proxy: {0}")]
    Proxy(#[from] proxy::StartError),
    /// A webhook endpoint cannot be sent to.
    #[error("webhooks: {0}")]
    Webhook(proxy::StartError),
    /// The control API cannot start.
    #[error("control: {0}")]
    Control(#[from] control::StartError),
    /// The services that Envoy asks cannot start.
    #[error(transparent)]
    Envoy(#[from] envoy::StartError),
    /// What nginx, Traefik and Caddy ask cannot start.
    #[error(transparent)]
    ForwardAuth(#[from] forward_auth::BindError),
    /// The admin edge cannot start.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    /// A worker of the proxy died.
    #[error("proxy: {0}")]
    Worker(#[from] proxy::WorkerDied),
    /// Logging cannot start.
    #[error(transparent)]
    Logging(#[from] logging::LoggingError),
    /// The operating system.
    #[error("runtime: {0}")]
    Runtime(#[from] std::io::Error),
    /// Not everything reached the store before the end.
    #[error("the store did not take the last charges: {0}")]
    LastWord(StoreError),
}

/// Serves as the configuration says, until SIGTERM or SIGINT; then drains and syncs. Blocks.
pub fn serve(config: Config) -> Result<(), ServeError> {
    logging::init(&config.log)?;
    runtime()?.block_on(async {
        // From now on: a process that says that it serves can be told to stop.
        let stopped = stop_signal()?;
        let running = start(config, Clock::system()).await?;
        tracing::info!(
            proxy = %running.proxy_addr,
            control = %running.control_addr,
            admin = %running.admin_addr,
            envoy = running.envoy_addr.as_ref().map(ToString::to_string),
            forward_auth = running.forward_auth_addr.as_ref().map(ToString::to_string),
            replica = %running.core.replica,
            "serving"
        );
        stopped.await;
        running.stop().await
    })
}

/// All that would keep a checked configuration from being served and is in its files: certificates and keys. Nothing is started.
pub fn check(config: &Config) -> Vec<ServeError> {
    let proxy = proxy::check(&proxy_settings(&config.proxy), &config.upstreams);
    let control = control::check(&control_settings(config)).err();
    let store = match &config.store.kind {
        StoreKind::Redis(settings) => redis_settings(settings, config.sync.lease).check().err(),
        StoreKind::Embedded => None,
    };
    let webhooks = config
        .webhooks
        .iter()
        .map(|endpoint| webhooks::check(endpoint));
    let webhooks = webhooks.filter_map(|checked| checked.err().map(ServeError::Webhook));
    let proxy = proxy.into_iter().map(ServeError::from);
    let others = control.map(ServeError::from).into_iter();
    proxy
        .chain(others)
        .chain(store.map(ServeError::from))
        .chain(webhooks)
        .collect()
}

/// The runtime that all edges share but the proxy's and Envoy's workers.
pub fn runtime() -> Result<tokio::runtime::Runtime, std::io::Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
}

/// What ends with SIGTERM or SIGINT. From the moment that this returns neither ends the process by itself. Must be called on a tokio
/// runtime.
pub fn stop_signal() -> Result<impl Future<Output = ()>, std::io::Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
    })
}

/// A process that serves.
pub struct Running {
    /// The shared parts.
    pub core: Arc<Core>,
    /// Where clients call.
    pub proxy_addr: SocketAddr,
    /// Where the control API is.
    pub control_addr: Listen,
    /// Where health, readiness and metrics are.
    pub admin_addr: SocketAddr,
    /// Where Envoy asks, if it may.
    pub envoy_addr: Option<Listen>,
    /// Where nginx, Traefik and Caddy ask, if they may.
    pub forward_auth_addr: Option<Listen>,
    envoy: Option<envoy::Running>,
    forward_auth: Option<forward_auth::Running>,
    proxy: proxy::Running,
    control: control::Running,
    admin: admin::Running,
    webhooks: webhooks::Running,
    background: Vec<Task>,
    stop_calls: watch::Sender<bool>,
    stop_control: watch::Sender<bool>,
}

/// A task that ends with whoever keeps it.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts everything. Nothing is left running by an error.
pub async fn start(config: Config, clock: Clock) -> Result<Running, ServeError> {
    let metrics = config.metrics();
    let (store, own_name) = open_store(&config, &clock).await?;
    let local = open_local(&config, &clock, own_name).await?;
    let replica = local.replica().clone();
    let store: Arc<dyn Store> = Arc::new(Watched::new(store, metrics.clone(), clock.clone()));
    let core = Core::new(Parts {
        store,
        replica,
        layer: config.catalog.clone(),
        local: Some(local),
        clock: clock.clone(),
        sync: config.sync_settings(),
        bounds: config.bounds(),
        holds_max: config.engine.holds_max,
        metrics,
    })?;
    if let Err(error) = core.catalog.load(&*core.store).await {
        tracing::warn!(%error, "the store's prices and policies are not known yet; the configured ones apply");
    }
    let sync = core.sync.clone();
    let syncing = Task(tokio::spawn(async move { sync.run().await }));
    let steward = Task(tokio::spawn(steward(Arc::clone(&core))));

    let drain = config.shutdown.drain_max;
    let (stop_calls, calls_stopped) = watch::channel(false);
    let (stop_control, control_stopped) = watch::channel(false);
    let admin_source: Arc<dyn admin::Source> = core.clone();
    let token = config.control.token.as_ref().map(|token| token.expose());
    let view = control::View::new(Arc::clone(&core), token);
    let admin = admin::serve(
        &config.admin,
        admin_source,
        Some(view),
        calls_stopped.clone(),
    )
    .await?;
    let control = control::serve(
        Arc::clone(&core),
        control_settings(&config),
        control_stopped,
    )
    .await?;
    let (envoy_addr, envoy) = match envoy_settings(&config) {
        None => (None, None),
        Some((settings, asked)) => {
            let gateway = Gateway::new(Arc::clone(&core.gate), clock.clone(), asked);
            let gateway = gateway.map_err(StartError::Random)?;
            let running = envoy::serve(gateway, settings, calls_stopped.clone()).await?;
            let bound = running.local_addrs.first().copied().map(Listen::Tcp);
            let configured = config.envoy.as_ref().map(|envoy| envoy.listen.clone());
            (bound.or(configured), Some(running))
        }
    };
    let (forward_auth_addr, forward_auth) = match forward_auth_settings(&config) {
        None => (None, None),
        Some((settings, asked)) => {
            let gateway = Gateway::new(Arc::clone(&core.gate), clock.clone(), asked);
            let gateway = gateway.map_err(StartError::Random)?;
            let running = forward_auth::serve(gateway, settings, calls_stopped.clone()).await?;
            let configured = config.forward_auth.as_ref().map(|edge| edge.listen.clone());
            (
                running.local_addr.map(Listen::Tcp).or(configured),
                Some(running),
            )
        }
    };
    let settings = proxy_settings(&config.proxy);
    let proxy = proxy::serve(
        &core.gate,
        &clock,
        &settings,
        &config.routes,
        &calls_stopped,
        drain,
    )?;
    // Last: what it begins is sent for good.
    let alone = config.store.kind == StoreKind::Embedded;
    let webhooks = webhooks::start(&core, &config.webhooks, alone).map_err(ServeError::Webhook)?;
    Ok(Running {
        proxy_addr: proxy.local_addr,
        control_addr: control
            .local_addr
            .map_or(config.control.listen, Listen::Tcp),
        admin_addr: admin.local_addr,
        envoy_addr,
        envoy,
        forward_auth_addr,
        forward_auth,
        core,
        proxy,
        control,
        admin,
        webhooks,
        background: vec![syncing, steward],
        stop_calls,
        stop_control,
    })
}

impl Running {
    /// Stops in the order that loses nothing: no new calls, those in flight end or are cut (and settle), then the control API,
    /// then the last word to the store. Health and metrics answer until the end.
    pub async fn stop(self) -> Result<(), ServeError> {
        let Self {
            core,
            proxy,
            control,
            envoy,
            forward_auth,
            admin,
            webhooks,
            background,
            stop_calls,
            stop_control,
            ..
        } = self;
        // A receiver that is gone has stopped already.
        let _ = stop_calls.send(true);
        let drained = proxy.join().await;
        if let Some(envoy) = envoy {
            envoy.join().await;
        }
        if let Some(forward_auth) = forward_auth {
            forward_auth.join().await;
        }
        let _ = stop_control.send(true);
        // It ends with its drain's time at the latest; a panic in it was reported where it happened.
        let _ = control.join.await;
        // Another replica sends what comes from now on.
        webhooks.stop().await;
        drop(background);
        let ended = core.gate.end_holds();
        if ended > 0 {
            tracing::warn!(ended, "holds were open at the end and ended by policy");
        }
        let last_word = core.sync.close(LAST_WORD_MAX).await;
        admin.stop().await;
        drained?;
        match last_word {
            Ok(report) => tracing::info!(accounts = report.accounts, "everything is in the store"),
            Err(error) => return Err(ServeError::LastWord(error)),
        }
        Ok(())
    }
}

async fn open_store(
    config: &Config,
    clock: &Clock,
) -> Result<(Arc<dyn Store>, ReplicaId), ServeError> {
    match &config.store.kind {
        StoreKind::Embedded => {
            let (dir, clock) = (config.store.data_dir.clone(), clock.clone());
            let opened = tokio::task::spawn_blocking(move || Embedded::open(&dir, clock)).await;
            let store = opened.map_err(|error| StoreError::Unavailable(error.to_string()))??;
            let replica = store.replica();
            Ok((Arc::new(store), replica))
        }
        StoreKind::Redis(settings) => {
            let settings = redis_settings(settings, config.sync.lease);
            let store = RedisStore::connect(settings, clock.clone())?;
            Ok((Arc::new(store), new_replica()?))
        }
    }
}

/// The data directory: who this replica is, is kept there with its counters. A new one goes by `own_name`.
async fn open_local(
    config: &Config,
    clock: &Clock,
    own_name: ReplicaId,
) -> Result<Arc<Local>, ServeError> {
    let (dir, now) = (config.store.data_dir.clone(), clock.now().wall);
    let opened = tokio::task::spawn_blocking(move || Local::open(&dir, now, || own_name)).await;
    let local = opened.map_err(|error| StoreError::Unavailable(error.to_string()))??;
    for refused in local.counters().refused() {
        tracing::error!(%refused, "a counter was found damaged");
    }
    Ok(Arc::new(local))
}

/// The store's settings; what was fenced is given new work after a lease time.
fn redis_settings(settings: &RedisSettings, lease: Duration) -> redis::Settings {
    let login = |login: &RedisLogin| redis::Login {
        user: login.user.clone(),
        password: login.password.as_ref().map(|it| it.expose().to_owned()),
    };
    let reach = match &settings.reach {
        RedisReach::Server(url) => redis::Reach::Server(url.expose().to_owned()),
        RedisReach::Cluster(seeds) => redis::Reach::Cluster(seeds.clone()),
        RedisReach::Sentinels {
            sentinels,
            master,
            login: to_sentinels,
        } => redis::Reach::Sentinels {
            sentinels: sentinels.clone(),
            master: master.clone(),
            login: login(to_sentinels),
        },
    };
    let tls = settings.tls.as_ref().map(|tls| redis::TlsFiles {
        ca: tls.ca_file.clone(),
        identity: tls
            .identity
            .as_ref()
            .map(|files| (files.cert.clone(), files.key.clone())),
        server_name: tls.server_name.clone(),
    });
    redis::Settings {
        reach,
        login: login(&settings.login),
        tls,
        prefix: settings.prefix.clone(),
        connect_timeout: settings.connect_timeout,
        response_timeout: settings.response_timeout,
        fence: lease,
    }
}

/// A name for a new data directory.
fn new_replica() -> Result<ReplicaId, StartError> {
    let name: String = random::<8>()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ReplicaId::new(&format!("r-{name}")).map_err(StartError::Replica)
}

/// What is due by the clock alone, apart from the sync.
async fn steward(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(STEWARD_INTERVAL);
    loop {
        ticks.tick().await;
        let expired = core.gate.expire_holds();
        if expired > 0 {
            tracing::info!(expired, "holds ended by themselves");
        }
        core.gate.metrics().upkeep();
    }
}

/// What the services that Envoy asks go by; `None` if they are off.
fn envoy_settings(config: &Config) -> Option<(envoy::Settings, gateway::Settings)> {
    let envoy = config.envoy.as_ref()?;
    let listen = std::iter::once(&envoy.listen).chain(&envoy.socket);
    let settings = envoy::Settings {
        listen: listen.map(control_listen).collect(),
        workers: config.proxy.worker_count(),
        token: envoy.token.as_ref().map(|token| token.expose().to_owned()),
        drain: config.shutdown.drain_max,
        cut_overrun: envoy.on_overrun == config::OnOverrun::Cut,
        limits: envoy.rate_limit.clone(),
    };
    let asked = gateway::Settings {
        routes: config.routes.clone(),
        forward_key: envoy.forward_key,
        model_header: envoy.model_header.clone(),
        max_output_header: envoy.max_output_header.clone(),
    };
    Some((settings, asked))
}

/// What nginx, Traefik and Caddy are answered by; `None` if that is off.
fn forward_auth_settings(config: &Config) -> Option<(forward_auth::Settings, gateway::Settings)> {
    let edge = config.forward_auth.as_ref()?;
    let settings = forward_auth::Settings {
        listen: control_listen(&edge.listen),
        token: edge.token.as_ref().map(|token| token.expose().to_owned()),
        drain: config.shutdown.drain_max,
    };
    let asked = gateway::Settings {
        routes: config.routes.clone(),
        forward_key: edge.forward_key,
        model_header: edge.model_header.clone(),
        max_output_header: edge.max_output_header.clone(),
    };
    Some((settings, asked))
}

fn control_listen(listen: &Listen) -> control::Listen {
    match listen {
        Listen::Tcp(address) => control::Listen::Tcp(*address),
        Listen::Unix(path) => control::Listen::Unix(path.clone()),
    }
}

fn proxy_settings(config: &config::ProxySettings) -> proxy::Settings {
    let tls = config.tls.as_ref();
    proxy::Settings {
        listen: config.listen,
        workers: config.worker_count(),
        tls: tls.map(|tls| proxy::TlsFiles {
            cert_file: tls.cert.clone(),
            key_file: tls.key.clone(),
        }),
        connections_max: config.connections_max,
        header_bytes_max: config.header_bytes_max,
        headers_max: config.headers_max,
        client_timeout: config.client_timeout,
        drains_max: config.drains_max,
    }
}

fn control_settings(config: &Config) -> control::Settings {
    let listen = control_listen(&config.control.listen);
    let tls = config.control.tls.as_ref().map(|tls| control::Tls {
        cert: tls.server.cert.clone(),
        key: tls.server.key.clone(),
        client_ca: tls.client_ca.clone(),
    });
    control::Settings {
        listen,
        token: config
            .control
            .token
            .as_ref()
            .map(|token| token.expose().to_owned()),
        tls,
        drain: config.shutdown.drain_max,
        signing: config.licence_signing.as_ref().and_then(|signing| {
            // The configuration is checked: there is one of that name.
            let public_key = config.catalog.licence_keys.get(&signing.kid)?;
            Some(control::Signing {
                kid: signing.kid.clone(),
                key_file: signing.key_file.clone(),
                public_key: *public_key,
            })
        }),
    }
}
