//! Which route a request takes, by host and path. Pure; what a route leads to is up to the exchange.

use std::borrow::Cow;

use crate::meter::Api;
use crate::route::{ApiName, Dialect, Route, Terms};

/// Routes in the order in which they are tried, each with what it leads to.
pub(crate) struct Table<T>(Vec<(Route, T)>);

impl<T> Table<T> {
    /// Puts routes in order: those for a host before those for any, longer paths before shorter.
    pub(crate) fn new(mut routes: Vec<(Route, T)>) -> Self {
        routes.sort_by_key(|(route, _)| {
            let path = route.path.trim_end_matches('/').len();
            (route.host.is_none(), std::cmp::Reverse(path))
        });
        Self(routes)
    }

    /// The route for a host (with or without a port) and a [`canonical`] path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&(Route, T)> {
        let host = without_port(host);
        let mut routes = self.0.iter();
        routes.find(|(route, _)| {
            let for_host = |want: &String| want.eq_ignore_ascii_case(host);
            route.host.as_ref().is_none_or(for_host) && is_below(path, &route.path)
        })
    }
}

impl<T> Table<T> {
    /// The route of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&(Route, T)> {
        self.0.iter().find(|(route, _)| route.name == name)
    }
}

/// Whether a path is a prefix's or below it, by whole segments.
fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// A host without its port and its final dot.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        // `[::1]` has colons of its own.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// A path that climbs: `..` or `.` as a segment. Where it leads depends on who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DotSegment;

/// A path as the upstream may come to read it: escapes undone, `\` as `/`, empty segments left out. Routes are matched with
/// this, so that no spelling of a priced path takes the route of a free one; what is forwarded is what the client wrote.
pub(crate) fn canonical(path: &str) -> Result<Cow<'_, str>, DotSegment> {
    let plain = !path.contains(['%', '\\']) && !path.contains("//") && !path.contains("/.");
    if plain {
        return Ok(Cow::Borrowed(path));
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = if byte == b'%' { unescape(after) } else { None };
        let (byte, after) = escaped.unwrap_or((byte, after));
        let byte = if byte == b'\\' { b'/' } else { byte };
        if byte != b'/' || decoded.last() != Some(&b'/') {
            decoded.push(byte);
        }
        rest = after;
    }
    // Some servers take what follows a `;` for a parameter, and leave it out.
    let climbs = |segment: &[u8]| {
        matches!(
            segment.split(|&byte| byte == b';').next(),
            Some(b"." | b"..")
        )
    };
    if decoded.split(|&byte| byte == b'/').any(climbs) {
        return Err(DotSegment);
    }
    Ok(Cow::Owned(String::from_utf8_lossy(&decoded).into_owned()))
}

/// The byte of two hexadecimal digits, and what follows them.
fn unescape(after: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, after) = after.split_at_checked(2)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u8::from_str_radix(digits, 16).ok()?, after))
}

/// The API that is called: the path says it, within what the route says.
pub(crate) fn api(terms: &Terms, path: &str) -> Api {
    let by_path = Api::of_path(path);
    let is_openai = match by_path {
        Api::OpenAiChat | Api::OpenAiCompletions | Api::OpenAiEmbeddings | Api::OpenAiResponses => {
            true
        }
        Api::AnthropicMessages | Api::Opaque => false,
    };
    let fits = match terms.api {
        None => true,
        Some(ApiName::Openai) => is_openai,
        Some(ApiName::Anthropic) => by_path == Api::AnthropicMessages,
        Some(ApiName::Opaque) => false,
    };
    if fits { by_path } else { Api::Opaque }
}

/// The dialect that is answered in: the route's, else the path's, else that of the route's API.
pub(crate) fn dialect(terms: &Terms, path: &str) -> Dialect {
    if let Some(dialect) = terms.dialect {
        return dialect;
    }
    match (Dialect::of_path(path), terms.api) {
        (Dialect::Problem, Some(ApiName::Openai)) => Dialect::Openai,
        (Dialect::Problem, Some(ApiName::Anthropic)) => Dialect::Anthropic,
        (by_path, _) => by_path,
    }
}

#[cfg(test)]
mod tests;
