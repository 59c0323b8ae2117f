//! `[store]`: which store, and the one way to Redis. Every default stands here, with its reason.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use toml::Value;

use super::reader::Reader;
use super::sections::{MILLIS, MINUTE};
use super::values::{choice, duration, file, text, texts};
use super::{
    RedisLogin, RedisReach, RedisSettings, RedisTls, Secret, ServerTls, StoreKind, StoreSettings,
};

/// More is no help: any node of a cluster tells of all the others, and a master has three sentinels or five.
const PLACES_MAX: usize = 32;

/// What says where Redis is, and who we are there; no other store has any use for it.
const OF_REDIS: [&str; 9] = [
    "url",
    "sentinels",
    "master",
    "sentinel_user",
    "sentinel_password",
    "cluster",
    "user",
    "password",
    "tls",
];

pub(super) fn store(mut section: Reader<'_>) -> Option<StoreSettings> {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Embedded,
        Redis,
    }
    let kind = section.read("kind", choice::<Kind>).unwrap_or_default();
    let data_dir = section.read("data_dir", text).map(PathBuf::from);
    // Beside the process: nothing to create or to own for whoever tries it. A container sets a volume.
    let data_dir = data_dir.unwrap_or_else(|| "tollgate-data".into());
    let redis = match kind {
        Kind::Redis => true,
        Kind::Embedded => {
            for key in OF_REDIS.into_iter().filter(|key| section.has(key)) {
                section.problem(
                    key,
                    &format!(
                        "is for Redis, but the kind is \"embedded\"; write kind = \"redis\", or leave the {key} out"
                    ),
                );
            }
            false
        }
    };
    let settings = self::redis(&mut section, redis);
    let kind = match redis {
        true => StoreKind::Redis(Box::new(settings?)),
        false => StoreKind::Embedded,
    };
    Some(StoreSettings { kind, data_dir })
}

/// Reads all that is of Redis; `wanted`: and it is what the store is kept in.
fn redis(section: &mut Reader<'_>, wanted: bool) -> Option<RedisSettings> {
    if wanted {
        one_way(section);
    }
    let of_sentinels = wanted && section.has("sentinels");
    // A URL may carry a password.
    let url = section.read_secret("url", url);
    let sentinels = section.read("sentinels", places(sentinel, "\"10.0.0.1:26379\""));
    let cluster = section.read("cluster", places(seed, "\"redis://10.0.0.1:6379\""));
    let master = match of_sentinels {
        true => section.need("master", "\"mymaster\"", text),
        false => section.read("master", text),
    };
    let sentinel_login = login(section, "sentinel_user", "sentinel_password");
    let login = login(section, "user", "password");
    let tls = section.section("tls").map(tls);
    let prefix = section.read("prefix", prefix);
    let connect_timeout = section.read("connect_timeout", duration(MILLIS..=MINUTE));
    let response_timeout = section.read("response_timeout", duration(MILLIS..=MINUTE));
    if !wanted {
        return None;
    }
    fits(
        section,
        url.as_ref(),
        cluster.as_deref(),
        &login,
        tls.is_some(),
    );
    let reach = match (url, sentinels, cluster) {
        (Some(url), ..) => RedisReach::Server(url),
        (_, Some(sentinels), _) => RedisReach::Sentinels {
            sentinels,
            master: master?,
            login: sentinel_login,
        },
        (.., cluster) => RedisReach::Cluster(cluster?),
    };
    Some(RedisSettings {
        reach,
        login,
        tls,
        prefix: prefix.unwrap_or_else(|| "tg:".into()),
        // A handshake on a local network takes a millisecond.
        connect_timeout: connect_timeout.unwrap_or(Duration::from_millis(500)),
        // A hundred times what a healthy Redis needs, far below a lease.
        response_timeout: response_timeout.unwrap_or(Duration::from_millis(500)),
    })
}

/// There is one way to Redis, with all that belongs to it and nothing that belongs to another.
fn one_way(section: &Reader<'_>) {
    let mut ways = ["url", "sentinels", "cluster"]
        .into_iter()
        .filter(|way| section.has(way));
    let Some(way) = ways.next() else {
        section.problem(
            "url",
            "is missing; write url = \"redis://127.0.0.1:6379\", or sentinels and master, or cluster",
        );
        return;
    };
    for other in ways {
        section.problem(
            other,
            &format!(
                "is set, and so is store.{way}; there is one way to Redis, so leave one of them out"
            ),
        );
    }
    for (user, password) in [("user", "password"), ("sentinel_user", "sentinel_password")] {
        if section.has(user) && !section.has(password) {
            section.problem(
                user,
                &format!("has no {password} beside it; write {password} = \"${{REDIS_PASSWORD}}\""),
            );
        }
    }
    for key in ["master", "sentinel_user", "sentinel_password"] {
        if section.has(key) && !section.has("sentinels") {
            section.problem(
                key,
                "is for sentinels; write sentinels = [\"10.0.0.1:26379\"], or leave it out",
            );
        }
    }
}

/// What is right by itself may not fit together.
fn fits(
    section: &Reader<'_>,
    url: Option<&Secret>,
    cluster: Option<&[String]>,
    login: &RedisLogin,
    tls: bool,
) {
    let url = url.map(Secret::expose);
    if url.is_some_and(|url| url.contains('@')) && *login != RedisLogin::default() {
        section.problem(
            "url",
            "has a user or password in it, and there is one beside it; leave one of them out",
        );
    }
    let seeds = cluster.unwrap_or_default();
    let secured = |url: &&str| url.starts_with(TLS_SCHEME);
    let urls = || url.into_iter().chain(seeds.iter().map(String::as_str));
    let spoken = urls().filter(secured).count();
    if spoken != 0 && spoken != urls().count() {
        section.problem(
            "cluster",
            "has both redis:// and rediss:// in it; all nodes speak TLS, or none does",
        );
    } else if tls && spoken == 0 && urls().next().is_some() {
        section.problem(
            "tls",
            "is set, but the URL is not of TLS; write rediss://, or leave it out",
        );
    }
}

const TLS_SCHEME: &str = "rediss://";

fn url(value: &Value) -> Result<Secret, String> {
    let text = text(value)?;
    let known = ["redis://", TLS_SCHEME, "redis+unix://", "unix://"];
    let rest = known.iter().find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) if rest.contains('#') => Err("leave out the # and what follows it".into()),
        Some(rest) if !rest.is_empty() => Ok(Secret::new(text)),
        _ => Err(
            "write \"redis://host:6379\", \"rediss://host:6379\" or \"unix:///path/to/socket\""
                .into(),
        ),
    }
}

/// A list of places, each of which is right.
fn places(
    right: fn(&str) -> bool,
    example: &'static str,
) -> impl FnOnce(&Value) -> Result<Vec<String>, String> {
    move |value| {
        let places = texts(value).ok().filter(|places| {
            (1..=PLACES_MAX).contains(&places.len()) && places.iter().all(|place| right(place))
        });
        places.ok_or_else(|| {
            format!("write 1 to {PLACES_MAX} of them in brackets, such as [{example}]")
        })
    }
}

fn sentinel(place: &str) -> bool {
    let Some((host, port)) = place.rsplit_once(':') else {
        return false;
    };
    let port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let odd = |c: char| c.is_whitespace() || "/@#?".contains(c);
    port && !host.is_empty() && !host.contains(odd) && (bracketed || !host.contains(':'))
}

/// A node of a cluster has no database but the first, and the same users as the others.
fn seed(place: &str) -> bool {
    let schemes = ["redis://", TLS_SCHEME];
    let rest = schemes.iter().find_map(|scheme| place.strip_prefix(scheme));
    rest.is_some_and(sentinel)
}

fn login(section: &mut Reader<'_>, user: &'static str, password: &'static str) -> RedisLogin {
    RedisLogin {
        user: section.read(user, text),
        password: section.read_secret(password, |value| text(value).map(Secret::new)),
    }
}

fn tls(mut section: Reader<'_>) -> RedisTls {
    let server_name = |value: &Value| {
        let name = text(value)?;
        match ServerName::try_from(name.as_str()) {
            Ok(_) => Ok(name),
            Err(_) => Err("write a host's name or its IP address, as its certificate does".into()),
        }
    };
    let ca_file = section.read("ca_file", file);
    let both = section.has("cert") || section.has("key");
    let identity = both.then(|| {
        let cert = section.need("cert", "\"/path/to/cert.pem\"", file);
        let key = section.need("key", "\"/path/to/key.pem\"", file);
        cert.zip(key).map(|(cert, key)| ServerTls { cert, key })
    });
    if !both {
        // So that they are known.
        section.read("cert", file);
        section.read("key", file);
    }
    RedisTls {
        ca_file,
        identity: identity.flatten(),
        server_name: section.read("server_name", server_name),
    }
}

fn prefix(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
    // Braces would move every key into one slot of a cluster.
    if text.len() <= 32 && text.bytes().all(plain) {
        return Ok(text);
    }
    Err("write at most 32 of the characters A-Z a-z 0-9 . _ : / -".into())
}
