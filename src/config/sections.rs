//! The sections with one table each, and what must hold between them. Every default stands here, with its reason; how a value is
//! written is `values`, routes and prices have their own files.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;

use super::reader::Reader;
use super::values::{address, choice, count, duration, file, flag, listen, size, text};
use super::{
    AdminSettings, Config, ControlSettings, ControlTls, EngineSettings, Listen, LogFormat,
    LogSettings, ProxySettings, Secret, ServerTls, ShutdownSettings, StoreKind, StoreSettings,
    SyncSettings, catalog, gateways, hooks, routes, store,
};
use crate::control::TOKEN_BYTES_MAX;
use crate::sync::ROUNDS_PER_LOOK;

/// A shorter wait cannot be told from none; a longer one than a day is a mistake.
pub(super) const ANY_TIME: RangeInclusive<Duration> = MILLIS..=DAY;
pub(super) const MILLIS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// The whole configuration; `None` if so much is wrong that there is nothing to go on with. What is returned beside noted
/// problems is not to be used.
pub(super) fn check(mut root: Reader<'_>) -> Option<Config> {
    let (store, sync) = store_and_sync(&mut root);
    let proxy = proxy(root.section_or_empty("proxy"));
    let control = control(root.section_or_empty("control"));
    let admin = admin(root.section_or_empty("admin"));
    let engine = engine(root.section_or_empty("engine"));
    let envoy = root.section("envoy").map(gateways::envoy);
    let forward_auth = root.section("forward_auth").map(gateways::forward_auth);
    let upstreams = routes::upstreams(root.list("upstreams"));
    let beside = envoy.is_some() || forward_auth.is_some();
    let routes = routes::routes(root.list("routes"), &upstreams, beside);
    let (catalog, licence_signing) = catalog::layer(&mut root);
    let webhooks = hooks::webhooks(root.list("webhooks"));
    let log = log(root.section_or_empty("log"));
    let shutdown = shutdown(root.section_or_empty("shutdown"));
    let mut listeners = vec![
        ("proxy.listen", Listen::Tcp(proxy.listen)),
        ("control.listen", control.listen.clone()),
        ("admin.listen", Listen::Tcp(admin.listen)),
    ];
    if let Some(envoy) = &envoy {
        listeners.push(("envoy.listen", envoy.listen.clone()));
        let socket = envoy.socket.iter().cloned();
        listeners.extend(socket.map(|socket| ("envoy.socket", socket)));
    }
    let listen = forward_auth.iter().map(|settings| settings.listen.clone());
    listeners.extend(listen.map(|listen| ("forward_auth.listen", listen)));
    apart(&root, &listeners);
    fresh(&root, &sync, &admin);
    Some(Config {
        store: store?,
        sync,
        proxy,
        control,
        admin,
        envoy,
        forward_auth,
        engine,
        upstreams: upstreams.into_known(),
        routes,
        catalog,
        webhooks,
        licence_signing,
        log,
        shutdown,
    })
}

fn store_and_sync(root: &mut Reader<'_>) -> (Option<StoreSettings>, SyncSettings) {
    let store = store::store(root.section_or_empty("store"));
    let sync = sync(root.section_or_empty("sync"));
    // A lease is renewed by a sync. One whose answer may take longer than a lease runs would let every lease run out.
    let answer = match store.as_ref().map(|store| &store.kind) {
        Some(StoreKind::Redis(redis)) => redis.response_timeout,
        _ => Duration::ZERO,
    };
    let usable = sync.lease.saturating_sub(sync.lease_margin);
    let needed = sync.interval.saturating_add(answer);
    if needed >= usable {
        root.problem(
            "sync.lease",
            &format!(
                "less lease_margin leaves {usable:?}, but a sync takes up to {needed:?} (sync.interval and \
                 store.response_timeout); give a longer lease"
            ),
        );
    }
    (store, sync)
}

fn sync(mut section: Reader<'_>) -> SyncSettings {
    let mut time = |key, range, default| section.read(key, duration(range)).unwrap_or(default);
    SyncSettings {
        // What a recharge or a revocation may take to be seen everywhere; one message per changed account each time.
        interval: time(
            "interval",
            Duration::from_millis(5)..=MINUTE,
            Duration::from_millis(100),
        ),
        // Outlives a Redis failover (10 to 20 s); a replica that died keeps its money out of reach for as long.
        lease: time("lease", SECOND..=HOUR, Duration::from_secs(30)),
        // Clocks that differ by 3 % over a lease, far worse than quartz.
        lease_margin: time("lease_margin", MILLIS..=MINUTE, SECOND),
        // Enough to go on through a failover; what is asked for and not spent is out of the other replicas' reach.
        lease_target: time("lease_target", MILLIS..=HOUR, Duration::from_secs(10)),
        // Two intervals and a round trip; callers take 250 ms for a slow answer and not for a lost one.
        refill_wait: time("refill_wait", MILLIS..=MINUTE, Duration::from_millis(250)),
        // Longer than the pauses of a person at work, so that a chat does not fetch a lease for each turn.
        idle_return: time("idle_return", MILLIS..=HOUR, Duration::from_secs(10)),
        // A machine that is mended within the hour finds its row; what it held stays set aside for as long.
        retire_after: time("retire_after", SECOND..=DAY, HOUR),
    }
}

fn proxy(mut section: Reader<'_>) -> ProxySettings {
    let tls = section.section("tls").and_then(server_tls);
    let workers = section.read("workers", count::<usize>(0..=1_024));
    ProxySettings {
        listen: local(&mut section, 8080),
        // Each worker is a thread with its own listener; more than cores only take turns.
        workers: workers.filter(|workers| *workers != 0),
        // At 16 KiB for an idle one: 160 MiB.
        connections_max: section
            .read("connections_max", count(1..=10_000_000))
            .unwrap_or(10_000),
        // What the provider libraries send is a few hundred bytes; 64 KiB is what browsers' cookies may come to.
        header_bytes_max: section
            .read("header_bytes_max", size(8_192..=1 << 20))
            .unwrap_or(64 << 10),
        headers_max: section
            .read("headers_max", count(16..=10_000))
            .unwrap_or(100),
        // As nginx: long enough for a pooled connection to be worth it.
        client_timeout: section
            .read("client_timeout", duration(SECOND..=DAY))
            .unwrap_or(MINUTE),
        // Each is an upstream connection that nobody waits for; beyond it the call is cut and charged as missing usage.
        drains_max: section
            .read("drains_max", count(0..=1_000_000))
            .unwrap_or(1_024),
        tls,
    }
}

fn server_tls(mut section: Reader<'_>) -> Option<ServerTls> {
    let cert = section.need("cert", "\"/path/to/cert.pem\"", file);
    let key = section.need("key", "\"/path/to/key.pem\"", file);
    Some(ServerTls {
        cert: cert?,
        key: key?,
    })
}

fn control(mut section: Reader<'_>) -> ControlSettings {
    let tls = section.section("tls");
    // Asked before the files are: a file that is missing is no reason to say that the API stands open.
    let wants_client_ca = tls.as_ref().is_some_and(|tls| tls.has("client_ca"));
    let wants_token = section.has("token");
    let tls = tls.and_then(|mut tls| {
        let client_ca = tls.read("client_ca", file);
        server_tls(tls).map(|server| ControlTls { server, client_ca })
    });
    let token = section.read_secret("token", token);
    let listen = section.read("listen", listen);
    let listen = listen.unwrap_or_else(|| Listen::Tcp(loopback(9002)));
    if !listen.is_local() && !wants_token && !wants_client_ca {
        section.problem(
            "listen",
            &format!(
                "is \"{listen}\", which others can reach, but nothing is asked of them; set control.token, or \
                 control.tls with a client_ca, or listen on \"127.0.0.1:9002\""
            ),
        );
    }
    ControlSettings { listen, token, tls }
}

pub(super) fn token(value: &Value) -> Result<Secret, String> {
    // It is a header's value; and whoever holds it holds the money, so it must not be guessable.
    let good = |text: &str| {
        let long = (16..=TOKEN_BYTES_MAX).contains(&text.len());
        long && text.bytes().all(|b| b.is_ascii_graphic())
    };
    let text = value.as_str().filter(|text| good(text));
    text.map(|text| Secret::new(text.into())).ok_or_else(|| {
        "write 16 to 512 letters, digits and signs in quotes, such as \"${TOLLGATE_TOKEN}\" to take it from the \
         environment"
            .into()
    })
}

fn admin(mut section: Reader<'_>) -> AdminSettings {
    AdminSettings {
        listen: local(&mut section, 9003),
        // Fifty missed syncs are no hiccup; most of the lease is left to move traffic away.
        sync_age_max: section
            .read("sync_age_max", duration(MILLIS..=HOUR))
            .unwrap_or(Duration::from_secs(5)),
    }
}

fn engine(mut section: Reader<'_>) -> EngineSettings {
    EngineSettings {
        // Loading it again is one round trip for its next call; until then it costs half a kilobyte.
        unload_after: section
            .read("unload_after", duration(SECOND..=DAY))
            .unwrap_or(Duration::from_secs(600)),
        holds_max: section
            .read("holds_max", count(1..=100_000_000))
            .unwrap_or(100_000),
        // Two connect timeouts and a round trip; a caller gets an answer before it gives up.
        load_wait: section
            .read("load_wait", duration(MILLIS..=MINUTE))
            .unwrap_or(Duration::from_secs(2)),
        // 1 MiB: a flood of invented keys meets memory, not the store.
        unknown_keys_max: section
            .read("unknown_keys_max", count(0..=10_000_000))
            .unwrap_or(65_536),
        // A key that is made after it was tried, on a replica that cannot tell us, works after this.
        unknown_key_time: section
            .read("unknown_key_time", duration(MILLIS..=HOUR))
            .unwrap_or(Duration::from_secs(5)),
    }
}

fn log(mut section: Reader<'_>) -> LogSettings {
    let filter = |value: &Value| {
        let filter = text(value)?;
        match crate::telemetry::logging::check_filter(&filter) {
            Ok(()) => Ok(filter),
            Err(error) => Err(format!(
                "{error}; write levels by module, such as \"info\" or \"warn,tollgate=debug\""
            )),
        }
    };
    LogSettings {
        format: section
            .read("format", choice::<LogFormat>)
            .unwrap_or_default(),
        filter: section
            .read("filter", filter)
            .unwrap_or_else(|| "info".into()),
    }
}

fn shutdown(mut section: Reader<'_>) -> ShutdownSettings {
    let drain_max = section.read("drain_max", duration(Duration::ZERO..=HOUR));
    ShutdownSettings {
        // Inside the 30 s that Kubernetes waits before it kills, with time left to sync.
        drain_max: drain_max.unwrap_or(Duration::from_secs(25)),
    }
}

/// A replica at rest asks the store how it is once in some rounds. A bound below that would call it not ready in between.
fn fresh(root: &Reader<'_>, sync: &SyncSettings, admin: &AdminSettings) {
    let heard_every = sync.interval.saturating_mul(ROUNDS_PER_LOOK);
    if admin.sync_age_max <= heard_every {
        root.problem(
            "admin.sync_age_max",
            &format!(
                "is {:?}, but a replica at rest hears the store every {heard_every:?}, {ROUNDS_PER_LOOK} times \
                 sync.interval; give more than that",
                admin.sync_age_max
            ),
        );
    }
}

/// Two servers on one port or socket: the second would fail to start, and with a less clear word.
fn apart(root: &Reader<'_>, listeners: &[(&str, Listen)]) {
    for (place, (key, listen)) in listeners.iter().enumerate() {
        let same = |(_, other): &&(&str, Listen)| match (listen, other) {
            (Listen::Unix(path), Listen::Unix(other)) => path == other,
            (Listen::Tcp(address), Listen::Tcp(other)) if address.port() != 0 => {
                let any = other.ip().is_unspecified() || address.ip().is_unspecified();
                other.port() == address.port() && (any || other.ip() == address.ip())
            }
            _ => false,
        };
        if let Some((other, _)) = listeners.iter().take(place).find(same) {
            root.problem(
                key,
                &format!("is \"{listen}\", which {other} takes already; give another port"),
            );
        }
    }
}

fn local(section: &mut Reader<'_>, port: u16) -> SocketAddr {
    section
        .read("listen", address)
        .unwrap_or_else(|| loopback(port))
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A flag that is off unless it is set.
pub(super) fn switch(section: &mut Reader<'_>, key: &'static str) -> bool {
    section.read(key, flag).unwrap_or(false)
}
