//! `[[webhooks]]`: where events are posted, and how. Every default stands here, with its reason.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use toml::Value;

use super::reader::Reader;
use super::sections::{ANY_TIME, DAY, HOUR, MILLIS, MINUTE, SECOND};
use super::values::{choice, count, duration, file, text, texts, url};
use crate::proto::convert::event_kind_names;
use crate::route::{HttpVersion, Upstream};
use crate::webhooks::queue::Times;
use crate::webhooks::sign::Key;
use crate::webhooks::{Endpoint, Kinds};

/// How many endpoints there may be: each reads the feed, writes its document every second and has its own lines in the metrics.
const ENDPOINTS_MAX: usize = 32;

/// Longer than the feed keeps what it has, nearly everywhere.
const MONTH: Duration = Duration::from_secs(2_592_000);

/// The longest name.
const NAME_BYTES_MAX: usize = 64;

/// The largest file of a secret: nobody's secret is longer than a line.
const SECRET_BYTES_MAX: u64 = 4_096;

pub(super) fn webhooks(sections: Vec<Reader<'_>>) -> Vec<Arc<Endpoint>> {
    let mut known: Vec<Arc<Endpoint>> = Vec::with_capacity(sections.len());
    let mut names: Vec<String> = Vec::with_capacity(sections.len());
    for mut section in sections {
        let name = section.need("name", "\"billing\"", name);
        let named = name.clone().unwrap_or_default();
        if name.is_some() && names.contains(&named) {
            let message = format!("is \"{named}\", as another endpoint's is; give each its own");
            section.problem("name", &message);
        }
        if names.len() == ENDPOINTS_MAX {
            let message = format!("is one too many; there may be {ENDPOINTS_MAX} endpoints");
            section.problem("name", &message);
        }
        names.push(named.clone());
        known.extend(endpoint(section, named).map(Arc::new));
    }
    known
}

fn endpoint(mut section: Reader<'_>, name: String) -> Option<Endpoint> {
    let place = section.need("url", "\"https://billing.example.com/tollgate\"", place);
    let ca_file = section.read("ca_file", file);
    if ca_file.is_some() && place.as_ref().is_some_and(|place| !place.url.tls) {
        section.problem(
            "ca_file",
            "is set, but the url is plain http; write https, or leave it out",
        );
    }
    let now = secret(&mut section, "secret", "secret_file");
    let before = secret(&mut section, "previous_secret", "previous_secret_file");
    if let Secret::Absent = now {
        let message = "is missing; write secret = \"whsec_…\" or secret_file = \"/path\"";
        section.problem("secret", message);
    }
    let kinds = section.read("events", kinds).unwrap_or_default();
    let from = section.read("from", choice).unwrap_or_default();
    // As the standard recommends it: a receiver takes an event down and works later.
    let timeout = section.read("timeout", duration(MILLIS..=MINUTE));
    let timeout = timeout.unwrap_or(Duration::from_secs(15));
    // A receiver that takes 100 ms takes 80 events a second, more than accounts have to tell.
    let concurrency = section.read("concurrency", count(1..=256)).unwrap_or(8);
    let retry_min = section.read("retry_min", duration(MILLIS..=HOUR));
    let retry_max = section.read("retry_max", duration(MILLIS..=DAY));
    let give_up_after = section.read("give_up_after", duration(SECOND..=MONTH));
    // A second, as most failures are a restart; five minutes, as it is how long news takes once the receiver is back; three days, as a
    // weekend ends.
    let times = Times {
        retry_min: retry_min.unwrap_or(SECOND),
        retry_max: retry_max.unwrap_or(Duration::from_secs(300)),
        give_up_after: give_up_after.unwrap_or(Duration::from_secs(259_200)),
    };
    if times.retry_min > times.retry_max {
        section.problem("retry_max", "is less than retry_min; give as much or more");
    }
    let connect_timeout = timeout.clamp(*ANY_TIME.start(), *ANY_TIME.end());
    let Place {
        url,
        path_and_query,
        shown,
    } = place?;
    let Secret::Key(first) = now else { return None };
    let second = match before {
        Secret::Key(key) => Some(key),
        Secret::Absent | Secret::Wrong => None,
    };
    Some(Endpoint {
        receiver: Arc::new(Upstream {
            name: format!("webhook {name}"),
            tls: url.tls,
            host: url.host,
            port: url.port,
            base_path: String::new(),
            http: HttpVersion::Http1,
            ca_file,
            headers: Vec::new(),
            forward_key: false,
            connect_timeout,
            idle_connections_max: 0,
            idle_connection_time: SECOND,
        }),
        name,
        path_and_query,
        url: shown,
        keys: std::iter::once(first).chain(second).collect(),
        kinds,
        from,
        timeout,
        concurrency,
        times,
    })
}

/// What is known of a secret; what is wrong with it was told.
enum Secret {
    Absent,
    Wrong,
    Key(Key),
}

/// A secret as it stands, or in a file.
fn secret(section: &mut Reader<'_>, plain: &'static str, in_file: &'static str) -> Secret {
    if section.has(plain) && section.has(in_file) {
        let message = format!("is set, and {plain} too; leave one of them out");
        section.problem(in_file, &message);
    }
    let there = section.has(plain) || section.has(in_file);
    let key = |text: &str| Key::new(text).map_err(|error| error.to_string());
    let written = section.read_secret(plain, |value| key(&text(value)?));
    let read = section.read(in_file, |value| {
        let path = file(value)?;
        let cannot = |error| format!("it cannot be read ({error})");
        let size = std::fs::metadata(&path).map_err(cannot)?.len();
        if size > SECRET_BYTES_MAX {
            return Err(format!("it has {size} bytes; a secret is one line"));
        }
        let text = std::fs::read_to_string(&path).map_err(cannot)?;
        key(text.trim())
    });
    match written.or(read) {
        Some(key) => Secret::Key(key),
        None if there => Secret::Wrong,
        None => Secret::Absent,
    }
}

fn name(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.len() <= NAME_BYTES_MAX && text.bytes().all(plain) {
        return Ok(text);
    }
    Err(format!(
        "write 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -"
    ))
}

/// Where events go.
struct Place {
    url: super::values::Url,
    path_and_query: String,
    shown: String,
}

/// A URL that may have a query: receivers put tokens there.
fn place(value: &Value) -> Result<Place, String> {
    let whole = text(value)?;
    let (shown, query) = match whole.split_once('?') {
        Some((shown, query)) => (shown, Some(query)),
        None => (whole.as_str(), None),
    };
    let url = url(&Value::String(shown.into()))?;
    let path = match url.base_path.as_str() {
        // As it was written: a slash at its end may mean something to the receiver.
        "" => "/".to_owned(),
        path if shown.ends_with('/') => format!("{path}/"),
        path => path.to_owned(),
    };
    let path_and_query = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let right: Result<PathAndQuery, _> = path_and_query.parse();
    if right.is_err() || whole.contains('#') {
        return Err("write plain characters after the `?`, and no `#`".into());
    }
    Ok(Place {
        shown: shown.to_owned(),
        url,
        path_and_query,
    })
}

/// Kinds of events: by name, or `account.*`.
fn kinds(value: &Value) -> Result<Vec<Kinds>, String> {
    let known: Vec<String> = event_kind_names().collect();
    let kinds = texts(value)?.into_iter().map(|text| {
        let found = match text.strip_suffix('*') {
            Some(beginning) if beginning.ends_with('.') => known
                .iter()
                .any(|name| name.starts_with(beginning))
                .then(|| Kinds::Beginning(beginning.into())),
            _ => known.contains(&text).then(|| Kinds::One(text.clone())),
        };
        found.ok_or_else(|| {
            format!(
                "there is no event `{text}`; write some of {}, or a beginning such as account.*",
                known.join(", ")
            )
        })
    });
    let kinds: Vec<Kinds> = kinds.collect::<Result<_, _>>()?;
    if kinds.is_empty() {
        return Err("name some events, or leave it out for all".into());
    }
    Ok(kinds)
}
