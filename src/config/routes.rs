//! `[[upstreams]]` and `[[routes]]`: which request goes where, on what terms. What a host, a path or a URL is stands in `values`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use toml::Value;

use super::reader::Reader;
use super::sections::{ANY_TIME, switch};
use super::values::{
    choice, count, duration, file, header, header_name, host, path, size, text, url,
};
use crate::id::ModelName;
use crate::route::{Route, Terms, Upstream};
use crate::usage::Meter;

/// How many routes there may be. They are walked or sorted at the start, and each has its own line in the metrics.
const ROUTES_MAX: usize = 1_000;

/// The same of upstreams.
const UPSTREAMS_MAX: usize = 1_000;

/// The upstreams by name. One that is written but wrong is kept as `None`, so that its routes are not called wrong too.
pub(super) struct Upstreams(Vec<(String, Option<Arc<Upstream>>)>);

impl Upstreams {
    pub(super) fn into_known(self) -> Vec<Arc<Upstream>> {
        self.0
            .into_iter()
            .filter_map(|(_, upstream)| upstream)
            .collect()
    }

    fn find(&self, name: &str) -> Option<&Option<Arc<Upstream>>> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, upstream)| upstream)
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        match names.is_empty() {
            true => "there are no [[upstreams]]; write one with this name".into(),
            false => format!("the known ones are: {}", names.join(", ")),
        }
    }
}

pub(super) fn upstreams(sections: Vec<Reader<'_>>) -> Upstreams {
    let mut known = Upstreams(Vec::with_capacity(sections.len()));
    for mut section in sections {
        let name = section.need("name", "\"openai\"", label);
        let named = name.clone().unwrap_or_default();
        if name.is_some() && known.find(&named).is_some() {
            section.problem(
                "name",
                &format!("is \"{named}\", as another upstream's is; give each its own"),
            );
        }
        if known.0.len() == UPSTREAMS_MAX {
            section.problem(
                "name",
                &format!("is one too many; there may be {UPSTREAMS_MAX} upstreams"),
            );
        }
        let upstream = upstream(section, named.clone()).map(Arc::new);
        if name.is_some() {
            known.0.push((named, upstream));
        }
    }
    known
}

fn upstream(mut section: Reader<'_>, name: String) -> Option<Upstream> {
    let url = section.need("url", "\"https://api.example.com\"", url);
    let http = section.read("http", choice).unwrap_or_default();
    let ca_file = section.read("ca_file", file);
    if ca_file.is_some() && url.as_ref().is_some_and(|url| !url.tls) {
        section.problem(
            "ca_file",
            "is set, but the url is plain http; write https, or leave it out",
        );
    }
    let headers = section.entries("headers", true, header);
    let forward_key = switch(&mut section, "forward_key");
    // A handshake over an ocean with TLS and one lost packet; beyond it another attempt is better than this one.
    let connect_timeout = section.read("connect_timeout", duration(ANY_TIME));
    // Per worker; a busy worker has about this many calls in flight to one upstream.
    let idle_connections_max = section.read("idle_connections_max", count(0..=100_000));
    // Shorter than the 75 s or more after which common servers close: a connection is not used just as it goes away.
    let idle_connection_time = section.read("idle_connection_time", duration(ANY_TIME));
    let url = url?;
    Some(Upstream {
        name,
        tls: url.tls,
        host: url.host,
        port: url.port,
        base_path: url.base_path,
        http,
        ca_file,
        headers,
        forward_key,
        connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(5)),
        idle_connections_max: idle_connections_max.unwrap_or(64),
        idle_connection_time: idle_connection_time.unwrap_or(Duration::from_secs(60)),
    })
}

/// The routes. `beside`: other gateways ask about their calls, so that a route need not lead anywhere.
pub(super) fn routes(sections: Vec<Reader<'_>>, upstreams: &Upstreams, beside: bool) -> Vec<Route> {
    let mut names = BTreeSet::new();
    let mut places = BTreeMap::new();
    let mut routes = Vec::with_capacity(sections.len());
    for mut section in sections {
        let host = section.read("host", host);
        let path = section.read("path", path);
        let path = path.unwrap_or_else(|| "/".into());
        let name = section.read("name", label);
        let name = name.unwrap_or_else(|| format!("{}{path}", host.as_deref().unwrap_or_default()));
        if let Some(first) = places.insert((host.clone(), path.clone()), name.clone()) {
            section.problem(
                "path",
                &format!(
                    "is \"{path}\", which route `{first}` takes for the same host; give another host or path"
                ),
            );
        } else if !names.insert(name.clone()) {
            section.problem(
                "name",
                &format!("is \"{name}\", as another route's is; give each its own"),
            );
        }
        if names.len() > ROUTES_MAX {
            section.problem(
                "path",
                &format!("is one too many; there may be {ROUTES_MAX} routes"),
            );
        }
        let known = |value: &Value| {
            let name = text(value)?;
            let found = upstreams.find(&name).cloned();
            found.ok_or_else(|| upstreams.names())
        };
        let leads = !beside || section.has("upstream");
        let upstream = if leads {
            section.need("upstream", "\"openai\"", known).flatten()
        } else {
            // Asked for all the same, so that it is a key that is known here.
            section.read("upstream", known).flatten()
        };
        let terms = Arc::new(terms(&mut section, name.clone()));
        if upstream.is_some() || !leads {
            routes.push(Route {
                name,
                host,
                path,
                upstream,
                terms,
            });
        }
    }
    routes
}

fn terms(section: &mut Reader<'_>, route: String) -> Terms {
    let free = switch(section, "free");
    let model = section.read("model", |value| {
        ModelName::new(&text(value)?).map_err(|error| error.to_string())
    });
    if free && model.is_some() {
        section.problem(
            "free",
            "is true, but `model` names what its calls are priced as; leave one of them out",
        );
    }
    let inspects = section.has("inspect_bytes_max");
    // Headers of usage are few and found by name; a meter stands once.
    let usage_headers = section.entries("usage_headers", false, usage_header);
    let mut time = |key, default| {
        section
            .read(key, duration(ANY_TIME))
            .unwrap_or(Duration::from_secs(default))
    };
    // The longest answers of reasoning models, and no longer: nobody waits for it any more.
    let drain_time_max = time("drain_time_max", 120);
    // A plain answer of a model that thinks for minutes has no byte before its end.
    let first_byte_timeout = time("first_byte_timeout", 300);
    // Streams of the known providers say something at least every half minute.
    let idle_timeout = time("idle_timeout", 120);
    let mut bytes = |key, most: u64, default: u64| {
        let read = section.read(key, size::<u64>(1..=most));
        read.unwrap_or(default)
    };
    // More than any text answer; images and audio say their usage before or beside the bytes.
    let drain_bytes_max = bytes("drain_bytes_max", 1 << 30, 16 << 20);
    // Two images in base64 before the model's name. Held per call of a known key until it is found: connections × this is the worst
    // case over HTTP/1, and 256 times that over HTTP/2.
    let mut inspect_bytes_max = bytes("inspect_bytes_max", 256 << 20, 8 << 20);
    // What the large providers take.
    let body_bytes_max = bytes("body_bytes_max", 1 << 40, 64 << 20);
    if inspect_bytes_max > body_bytes_max {
        if inspects {
            section.problem(
                "inspect_bytes_max",
                &format!(
                    "is {inspect_bytes_max}, more than the {body_bytes_max} of body_bytes_max; give at most that"
                ),
            );
        }
        inspect_bytes_max = body_bytes_max;
    }
    Terms {
        route,
        api: section.read("api", choice),
        dialect: section.read("dialect", choice),
        model,
        capability: section.read("capability", text),
        free,
        usage_headers: usage_headers.into_iter().collect(),
        on_disconnect: section.read("on_disconnect", choice).unwrap_or_default(),
        on_missing_usage: section.read("on_missing_usage", choice).unwrap_or_default(),
        on_upstream_error: section
            .read("on_upstream_error", choice)
            .unwrap_or_default(),
        drain_time_max,
        drain_bytes_max,
        inspect_bytes_max: usize::try_from(inspect_bytes_max).unwrap_or(usize::MAX),
        body_bytes_max,
        first_byte_timeout,
        idle_timeout,
    }
}

fn usage_header(meter: &str, value: &Value) -> Result<(Meter, HeaderName), String> {
    let Some(meter) = Meter::from_name(meter) else {
        let names: Vec<_> = Meter::ALL.into_iter().map(Meter::name).collect();
        return Err(format!(
            "the name before it is no meter; the meters are: {}",
            names.join(", ")
        ));
    };
    Ok((meter, header_name(&text(value)?)?))
}

/// A name that people read in logs and metrics.
fn label(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    let plain = text.chars().all(|c| !c.is_control()) && text.len() <= 128;
    plain
        .then_some(text)
        .ok_or_else(|| "write at most 128 bytes on one line".into())
}
