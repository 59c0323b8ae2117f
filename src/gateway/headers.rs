//! Headers of a request that another gateway carries: what is read of them, and what is to be changed. Pure.

use std::collections::HashMap;

use http::HeaderMap;

/// Where a caller's key is looked for, in this order; the first is read as `Bearer KEY`.
const KEY_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// What tollgate says to those around it; never taken from outside.
const INTERNAL_PREFIX: &str = "x-tollgate-";

/// The headers of a message, in whatever form a gateway tells them. Names are in lower case.
pub(crate) trait Lines {
    /// The first value of a name.
    fn line(&self, name: &str) -> Option<&[u8]>;

    /// All names.
    fn names(&self) -> impl Iterator<Item = &str>;
}

impl Lines for HashMap<String, String> {
    fn line(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(String::as_bytes)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.keys().map(String::as_str)
    }
}

impl Lines for HeaderMap {
    fn line(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(http::HeaderValue::as_bytes)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.keys().map(http::HeaderName::as_str)
    }
}

/// A header as text.
pub(crate) fn text<'l>(lines: &'l impl Lines, name: &str) -> Option<&'l str> {
    let text = std::str::from_utf8(lines.line(name)?).ok()?.trim();
    (!text.is_empty()).then_some(text)
}

/// A header as a number.
pub(crate) fn number(lines: &impl Lines, name: &str) -> Option<u64> {
    text(lines, name)?.parse().ok()
}

/// How many bytes these are.
pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The caller's key, from the first header that carries one.
pub(crate) fn secret(lines: &impl Lines) -> Option<&[u8]> {
    KEY_HEADERS.iter().find_map(|name| {
        let value = lines.line(name)?.trim_ascii();
        match *name {
            "authorization" => bearer(value),
            _ => (!value.is_empty()).then_some(value),
        }
    })
}

/// The token of a `Bearer` authorization; the scheme's case does not matter.
pub(crate) fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Whether a body comes in another form than its own, compressed for instance.
pub(crate) fn is_encoded(lines: &impl Lines) -> bool {
    let Some(line) = lines.line("content-encoding") else {
        return false;
    };
    let mut names = line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    names.any(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"))
}

/// Whether a body is of a media type.
pub(crate) fn is_of_type(lines: &impl Lines, essence: &str) -> bool {
    let kind = lines.line("content-type").unwrap_or_default();
    let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(essence.as_bytes())
}

/// The model that a path names: Google's `/models/NAME:method`, Azure's `/deployments/NAME/…`.
pub(crate) fn model_of_path(path: &str) -> Option<&str> {
    let path = path.split(['?', '#']).next()?;
    if let Some((_, rest)) = path.rsplit_once("/models/") {
        let (name, method) = rest.split_once(':')?;
        return (!name.is_empty() && !method.contains('/')).then_some(name);
    }
    let (_, rest) = path.split_once("/deployments/")?;
    let name = rest.split('/').next()?;
    (!name.is_empty()).then_some(name)
}

/// What is to be changed of a request before it goes on, and of its answer.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Headers of the request to set, in place of any of the same name.
    pub(crate) set: Vec<(String, String)>,
    /// Headers of the request to take out.
    pub(crate) remove: Vec<String>,
    /// Headers of the answer to set.
    pub(crate) answer: HeaderMap,
}

impl Changes {
    /// What must not go on: the caller's key unless it is to be forwarded, and what only tollgate may say. `plain`: the answer is
    /// metered, so it must not come compressed. `json`: the body was read as JSON, so an upstream must not take it for a form, say,
    /// and find another model in it than the one that was priced.
    pub(super) fn of(lines: &impl Lines, forward_key: bool, plain: bool, json: bool) -> Self {
        let mut changes = Self::default();
        for name in lines.names() {
            // One look at each name that is there is cheaper than a search for each that might be.
            let out = match name.as_bytes().first() {
                Some(b'a') if name == "accept-encoding" => {
                    if plain {
                        changes.set("accept-encoding", "identity");
                    }
                    false
                }
                Some(b'a') => !forward_key && KEY_HEADERS.contains(&name),
                Some(b'x') => {
                    let key = !forward_key && KEY_HEADERS.contains(&name);
                    key || (name.starts_with(INTERNAL_PREFIX) && name != super::HOLD_HEADER)
                }
                _ => false,
            };
            if out {
                changes.remove.push(name.to_owned());
            }
        }
        if json && !is_of_type(lines, "application/json") {
            changes.set("content-type", "application/json");
        }
        changes
    }

    /// Sets a header of the request.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.set.push((name.into(), value.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(all: &[(&str, &str)]) -> HashMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        all.iter().map(owned).collect()
    }

    #[test]
    fn the_key_is_found_where_the_providers_put_it() {
        let check = |all: &[(&str, &str)], expected: Option<&str>| {
            let found = lines(all);
            assert_eq!(secret(&found), expected.map(str::as_bytes), "{all:?}");
        };
        check(&[("authorization", "Bearer a")], Some("a"));
        check(&[("authorization", "bearer  a ")], Some("a"));
        check(
            &[("authorization", "Basic a"), ("x-api-key", "b")],
            Some("b"),
        );
        check(&[("x-goog-api-key", "c"), ("api-key", "b")], Some("b"));
        check(&[("authorization", "Bearer "), ("x-api-key", " ")], None);
        check(&[], None);
    }

    #[test]
    fn paths_name_models_as_the_providers_write_them() {
        for (path, model) in [
            (
                "/v1beta/models/gemini-x:generateContent?alt=sse",
                Some("gemini-x"),
            ),
            (
                "/v1/projects/p/publishers/google/models/g:streamGenerateContent",
                Some("g"),
            ),
            (
                "/openai/deployments/gpt-4o/chat/completions?api-version=1",
                Some("gpt-4o"),
            ),
            ("/v1/models/gpt-4o", None),
            ("/v1/chat/completions", None),
            ("/openai/deployments/", None),
        ] {
            assert_eq!(model_of_path(path), model, "{path}");
        }
    }

    #[test]
    fn what_is_not_the_upstreams_is_taken_out() {
        let all = lines(&[
            ("authorization", "Bearer a"),
            ("x-api-key", "b"),
            ("x-tollgate-account", "forged"),
            ("x-tollgate-hold", "forged"),
            ("accept-encoding", "gzip"),
            ("accept", "*/*"),
            ("content-type", "text/plain"),
        ]);
        let sorted = |mut changes: Changes| {
            changes.remove.sort();
            changes.set.sort();
            (changes.remove, changes.set)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let (out, set) = sorted(Changes::of(&all, false, true, true));
        // The hold's own header is not taken out: it is set, and gateways take out after they set.
        assert_eq!(out, ["authorization", "x-api-key", "x-tollgate-account"]);
        let plain = pair("accept-encoding", "identity");
        assert_eq!(set, [plain, pair("content-type", "application/json")]);
        let (out, set) = sorted(Changes::of(&all, true, false, false));
        assert_eq!((out.len(), set.len()), (1, 0), "{out:?} {set:?}");
    }
}
