//! Single values: texts to durations, sizes, addresses, URLs. Each fails with what to write instead; who asks for which is not
//! known here.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use serde::de::DeserializeOwned;
use toml::Value;

use super::Listen;
use crate::money::Amount;

/// A text. The empty one is none: it is what a variable holds that was set to nothing.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value.as_str() {
        Some("") | None => Err("write a text in quotes, not an empty one".into()),
        Some(text) => Ok(text.into()),
    }
}

/// A list of texts.
pub(super) fn texts(value: &Value) -> Result<Vec<String>, String> {
    let items = value.as_array().ok_or("write texts in brackets")?;
    items.iter().map(text).collect()
}

/// `true` or `false`; in quotes too, as a variable has no other form.
pub(super) fn flag(value: &Value) -> Result<bool, String> {
    let parsed = match value {
        Value::Boolean(flag) => Some(*flag),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| "write true or false".into())
}

/// A whole number within bounds; in quotes too, as a variable has no other form.
pub(super) fn count<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| {
        let number = match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| match *range.end() {
                u64::MAX => format!("write a whole number from {} on", range.start()),
                end => format!("write a whole number from {} to {end}", range.start()),
            })
    }
}

const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A duration such as `"100ms"`, within bounds.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl FnOnce(&Value) -> Result<Duration, String> {
    move |value| {
        let parsed = value
            .as_str()
            .and_then(|text| scaled(text, &DURATION_UNITS));
        match parsed.map(Duration::from_millis) {
            Some(duration) if range.contains(&duration) => Ok(duration),
            Some(_) => Err(format!(
                "give {} to {}",
                show_duration(*range.start()),
                show_duration(*range.end())
            )),
            None => Err(
                "write a whole number and ms, s, m, h or d in quotes, such as \"100ms\" or \"30s\""
                    .into(),
            ),
        }
    }
}

/// In its largest whole unit, as it would be written.
fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fitting = |(_, scale): &&(&str, u64)| millis.checked_rem(*scale) == Some(0);
    let (unit, scale) = DURATION_UNITS
        .iter()
        .rev()
        .find(fitting)
        .unwrap_or(&("ms", 1));
    let number = millis.checked_div(*scale).unwrap_or(millis);
    match number {
        0 => "0s".into(),
        _ => format!("{number}{unit}"),
    }
}

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A number of bytes such as `"64KiB"` or `65536`, within bounds.
pub(super) fn size<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| {
        let parsed = match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::String(text) => text.parse().ok().or_else(|| scaled(text, &SIZE_UNITS)),
            _ => None,
        };
        let bytes = parsed
            .ok_or("write a number of bytes, or a text such as \"64KiB\", \"1MiB\" or \"1GB\"")?;
        let fitting = Some(bytes).filter(|bytes| range.contains(bytes));
        fitting
            .and_then(|bytes| T::try_from(bytes).ok())
            .ok_or_else(|| format!("give {} to {} bytes", range.start(), range.end()))
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.strip_prefix(digits)?.trim_start();
    let number: u64 = digits.parse().ok()?;
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*scale)
}

/// One of a closed set of words.
pub(super) fn choice<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value.clone()).map_err(|error| {
        // serde says "unknown variant `x`, expected one of …"; what it found is told already.
        let message = error.message();
        let expected = message.find("expected ").and_then(|at| message.get(at..));
        expected.unwrap_or(message).into()
    })
}

/// A value of several fields.
pub(super) fn whole<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value.clone()).map_err(|error| error.message().trim().into())
}

/// An amount, always as a text: a TOML number with a point is a float.
pub(super) fn amount(value: &Value) -> Result<Amount, String> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| {
        "write a decimal number in quotes, with at most 9 places and within ±9223372036, such as \"2.50\"".into()
    })
}

/// An amount that is zero or more.
pub(super) fn amount_or_zero(value: &Value) -> Result<Amount, String> {
    match amount(value)? {
        amount if amount.is_negative() => Err("give zero or more".into()),
        amount => Ok(amount),
    }
}

/// An address and port.
pub(super) fn address(value: &Value) -> Result<SocketAddr, String> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| {
        "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"".into()
    })
}

/// An address and port, or the path of a Unix socket.
pub(super) fn listen(value: &Value) -> Result<Listen, String> {
    match value.as_str().and_then(|text| text.strip_prefix("unix:")) {
        // The kernel's own bound on a socket's name, with its closing zero.
        Some(path) if path.starts_with('/') && path.len() <= 107 => Ok(Listen::Unix(path.into())),
        Some(_) => Err(
            "write unix: and an absolute path of at most 107 bytes, such as \"unix:/run/tollgate.sock\"".into(),
        ),
        None => address(value)
            .map(Listen::Tcp)
            .map_err(|hint| format!("{hint}, or \"unix:/run/tollgate.sock\"")),
    }
}

/// A file that can be opened now.
pub(super) fn file(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    let opened = File::open(&path).and_then(|file| file.metadata());
    match opened {
        Ok(found) if found.is_file() => Ok(path),
        Ok(_) => Err("it is not a file; give the path of one".into()),
        Err(error) => Err(format!(
            "it cannot be opened ({error}); give the path of a file that this user may read"
        )),
    }
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) base_path: String,
}

/// An `http` or `https` URL without credentials, query or fragment.
pub(super) fn url(value: &Value) -> Result<Url, String> {
    let hint = "write http:// or https:// with a host, such as \"https://api.example.com/v1\"";
    let text = value.as_str().ok_or(hint)?;
    let uri: Uri = text.parse().map_err(|_| hint)?;
    let authority = uri.authority().ok_or(hint)?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(hint.into()),
    };
    if authority.as_str().contains('@') {
        return Err("leave the user out; put credentials in `headers`".into());
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("leave out the query and the fragment".into());
    }
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Some(if tls { 443 } else { 80 }),
        _ => authority.port_u16().filter(|port| *port != 0),
    };
    let port = port.ok_or("give a port from 1 to 65535, or none")?;
    let base_path = uri.path().trim_end_matches('/').into();
    let host = authority.host().to_ascii_lowercase();
    if host.is_empty() {
        return Err(hint.into());
    }
    Ok(Url {
        tls,
        host,
        port,
        base_path,
    })
}

/// The host that a route is for.
pub(super) fn host(value: &Value) -> Result<String, String> {
    let hint = "write a host without scheme, port or wildcard, such as \"api.example.com\"; leave it out for any";
    let host = value.as_str().ok_or(hint)?.to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.bytes().all(plain),
    };
    if good { Ok(host) } else { Err(hint.into()) }
}

/// The path prefix that a route is for.
pub(super) fn path(value: &Value) -> Result<String, String> {
    let hint = "write a path that begins with a slash, such as \"/v1\"";
    let path = value.as_str().ok_or(hint)?;
    let below = path.strip_prefix('/').ok_or(hint)?;
    if below.is_empty() {
        return Ok(path.into());
    }
    if path.ends_with('/') && !path.contains("//") {
        let shorter = path.trim_end_matches('/');
        return Err(format!(
            "leave out the slash at its end: \"{shorter}\" is for all that is below it too"
        ));
    }
    let odd = |segment: &str| {
        matches!(segment, "" | "." | "..")
            || !segment
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"?#\\*".contains(&b))
    };
    if below.split('/').any(odd) {
        return Err("write whole, plain segments, such as \"/v1/chat\": no `..`, `//`, `?`, `#`, `*` or spaces".into());
    }
    Ok(path.into())
}

/// Headers that belong to one connection, to HTTP's own bookkeeping or to tollgate: setting one would break a message.
const OWN_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header to set on requests.
pub(super) fn header(name: &str, value: &Value) -> Result<(HeaderName, HeaderValue), String> {
    let name = header_name(name)?;
    if OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("x-tollgate-") {
        return Err(
            "leave it out: this header is set for each message, and cannot be chosen".into(),
        );
    }
    let text = value.as_str().filter(|text| !text.is_empty());
    let text = text.ok_or("write its value as a text in quotes, not an empty one")?;
    let mut value =
        HeaderValue::from_str(text).map_err(|_| "write plain characters, no line breaks")?;
    // Most are credentials; none is worth showing.
    value.set_sensitive(true);
    Ok((name, value))
}

/// A header's name.
pub(super) fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| "write a header's name, such as \"x-usage-output\"".into())
}

#[cfg(test)]
mod tests;
