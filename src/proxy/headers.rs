//! Headers between the client and the upstream: whose they are, which are taken out, which are put in. Pure.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::gate::dialect::REQUEST_ID_HEADER;
use crate::route::Upstream;

/// Where a caller's key is looked for, after `authorization`, in this order.
static KEY_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// What tollgate says to those around it; never taken from outside.
const INTERNAL_PREFIX: &str = "x-tollgate-";
/// The longest request id that is taken from a client: it is stored and logged.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The caller's key, from the first header that carries one.
pub(super) fn secret(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(bearer);
    bearer.or_else(|| {
        KEY_HEADERS.iter().find_map(|name| {
            let value = headers.get(name)?.as_bytes().trim_ascii();
            (!value.is_empty()).then_some(value)
        })
    })
}

/// The token of a `Bearer` authorization; the scheme's case does not matter.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// The request's id as the client gave it, if it is one: visible ASCII, not too long.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let value = headers.get(REQUEST_ID_HEADER)?;
    let bytes = value.as_bytes();
    let plain = bytes.iter().all(u8::is_ascii_graphic);
    (plain && (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())).then_some(value)
}

/// What a request asks its connection to be turned into, if it does. HTTP by another name is none: what went through such a
/// connection would be calls that nobody decides on.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case("upgrade"));
    if !asked {
        return None;
    }
    let to = headers.get(UPGRADE)?;
    let is_http = |token: &str| {
        let name = token.split('/').next().unwrap_or(token).trim();
        ["http", "h2c", "h2", "tls"]
            .iter()
            .any(|http| name.eq_ignore_ascii_case(http))
    };
    // All of it must be text: what cannot be read cannot be told to be none of these.
    (to.to_str().is_ok() && !tokens(to).any(is_http)).then(|| to.clone())
}

/// Puts back what an upgrade needs, after [`strip`].
pub(super) fn set_upgrade(headers: &mut HeaderMap, to: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, to);
}

/// Takes out what is meant for one hop only (RFC 9110, 7.6.1), and what only tollgate may say. `te: trailers` stays.
pub(super) fn strip(headers: &mut HeaderMap) {
    // One look at the names that are there is cheaper than a search for each that might be.
    if headers.keys().any(is_of_one_hop) {
        strip_found(headers);
    }
}

/// Whether a header is one that [`strip`] takes out, or looks into.
fn is_of_one_hop(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.as_bytes().first() {
        Some(b'c' | b'k' | b'p' | b't' | b'u') => matches!(
            name,
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "te"
                | "transfer-encoding"
                | "upgrade"
        ),
        Some(b'x') => name.starts_with(INTERNAL_PREFIX),
        _ => false,
    }
}

fn strip_found(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        // `close` and `keep-alive` name no header that stays; most messages say nothing else, and then nothing is collected.
        let plain = |token: &str| {
            token.eq_ignore_ascii_case("keep-alive") || token.eq_ignore_ascii_case("close")
        };
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter(|token| !plain(token))
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| *name != TE)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = headers
            .get_all(TE)
            .iter()
            .flat_map(tokens)
            .any(|token| token.eq_ignore_ascii_case("trailers"));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    let internal: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(INTERNAL_PREFIX))
        .cloned()
        .collect();
    for name in internal {
        headers.remove(name);
    }
}

/// Takes what must not be forwarded out of trailers: framing, credentials, internal headers.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers);
    for name in [
        CONTENT_LENGTH,
        CONTENT_TYPE,
        CONTENT_ENCODING,
        HOST,
        AUTHORIZATION,
    ] {
        trailers.remove(name);
    }
    for name in &KEY_HEADERS {
        trailers.remove(name);
    }
}

/// Who a request came from, as it is told to the upstream.
pub(super) struct From<'a> {
    /// The client's address.
    pub(super) address: &'a HeaderValue,
    /// `http` or `https`.
    pub(super) proto: &'a HeaderValue,
    /// The host that it asked for.
    pub(super) host: Option<HeaderValue>,
    /// The id of the request.
    pub(super) request_id: &'a HeaderValue,
}

/// What of a request's headers has to be looked for; most have none of it.
#[derive(Default)]
struct Seen {
    expect: bool,
    /// One of [`KEY_HEADERS`].
    keys: bool,
    /// One that says whence a request came.
    forwarded: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            match name.as_bytes().first() {
                Some(b'e') => seen.expect |= name == "expect",
                Some(b'a' | b'x') => {
                    seen.keys |= matches!(name, "api-key" | "x-api-key" | "x-goog-api-key");
                    seen.forwarded |= name.starts_with("x-forwarded-");
                }
                _ => {}
            }
        }
        seen
    }
}

/// Makes a client's headers the upstream's: one-hop and internal ones and the caller's key out, whence it came and the
/// upstream's own in. `host` is left to the form of the connection. `plain`: the body is metered, so it must not come
/// compressed.
pub(super) fn forward(headers: &mut HeaderMap, upstream: &Upstream, from: From<'_>, plain: bool) {
    strip(headers);
    let seen = Seen::of(headers);
    if seen.expect {
        headers.remove(EXPECT);
    }
    headers.remove(CONTENT_LENGTH);
    if !upstream.forward_key {
        // All of them: whichever carried the key, the others are credentials too, and not this upstream's.
        headers.remove(AUTHORIZATION);
        if seen.keys {
            for name in &KEY_HEADERS {
                headers.remove(name);
            }
        }
    }
    let chain = if seen.forwarded {
        join(headers, FORWARDED_FOR, from.address)
    } else {
        from.address.clone()
    };
    headers.insert(FORWARDED_FOR, chain);
    if !seen.forwarded || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, from.proto.clone());
    }
    if let Some(host) = from.host
        && (!seen.forwarded || !headers.contains_key(FORWARDED_HOST))
    {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(REQUEST_ID_HEADER, from.request_id.clone());
    if plain {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    for (name, value) in &upstream.headers {
        headers.insert(name.clone(), value.clone());
    }
}

/// Whether a body comes in another form than its own, compressed for instance.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_ENCODING).iter();
    lines.any(|line| {
        let bytes = line.as_bytes();
        let mut names = bytes.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"))
    })
}

/// Says of a body that was read as JSON, in UTF-8, that it is: an upstream that took it for a form, say, might find another
/// model in it than the one that was priced.
pub(super) fn say_json(headers: &mut HeaderMap) {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let said = match (kinds.next(), kinds.next()) {
        (Some(kind), None) => is_json(kind),
        _ => false,
    };
    if !said {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
}

fn is_json(kind: &HeaderValue) -> bool {
    let mut parts = kind
        .as_bytes()
        .split(|&byte| byte == b';')
        .map(<[u8]>::trim_ascii);
    let json = parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case(b"application/json"));
    let utf8 = |parameter: &[u8]| {
        let forms: [&[u8]; 2] = [b"charset=utf-8", b"charset=\"utf-8\""];
        forms
            .iter()
            .any(|form| parameter.eq_ignore_ascii_case(form))
    };
    json && parts.all(utf8)
}

/// Puts cookies in one line: HTTP/2 may send each in its own, HTTP/1 may not (RFC 9113, 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice())) {
        headers.insert(COOKIE, joined);
    }
}

/// All values of a list header, and one more.
fn join(headers: &HeaderMap, name: HeaderName, last: &HeaderValue) -> HeaderValue {
    if !headers.contains_key(&name) {
        return last.clone();
    }
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last.as_bytes());
    // Values of headers, joined by what may stand in one, are a header's value.
    HeaderValue::from_bytes(&list).unwrap_or_else(|_| last.clone())
}

/// The members of a comma-separated header.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests;
