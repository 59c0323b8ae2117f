//! The written form before it is read: the file's table, with variables filled in and put over it, and a note of where each
//! value came from. What keys mean is not known here.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::reader::{Notes, Origin};
use super::{ENV_PREFIX, Problem};

/// How deep a variable may reach. The deepest key there is stands at `prices[0].rates.input.price`.
const DEPTH_MAX: usize = 8;

/// The table to read, and where its values came from.
pub(super) fn layered(
    text: &str,
    env: BTreeMap<String, String>,
) -> Result<(Table, Notes), Vec<Problem>> {
    let mut root = Value::Table(parse(text).map_err(|problem| vec![problem])?);
    let mut notes = Notes::default();
    fill(&mut root, "", &env, &mut notes);
    for (name, path) in overrides(&env) {
        let value = env.get(name).map_or("", String::as_str);
        match put(&mut root, &path, value) {
            Ok(()) => notes.came_from(joined(&path), Origin::Variable(name.clone())),
            Err(message) => notes.add(name.clone(), message),
        }
    }
    match root {
        Value::Table(table) => Ok((table, notes)),
        _ => Ok((Table::new(), notes)),
    }
}

fn parse(text: &str) -> Result<Table, Problem> {
    text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let message = error.message().replace('\n', "; ");
        Problem {
            key: format!("line {line}"),
            message: format!("is not TOML: {message}"),
        }
    })
}

/// Replaces `${NAME}` in every text below.
fn fill(value: &mut Value, path: &str, env: &BTreeMap<String, String>, notes: &mut Notes) {
    match value {
        Value::String(text) if text.contains('$') => match filled(text, env) {
            Ok(Some(full)) => {
                notes.came_from(path.into(), Origin::Template(text.clone()));
                *text = full;
            }
            Ok(None) => {}
            Err(message) => {
                notes.add(path.into(), message);
                notes.came_from(path.into(), Origin::Broken);
            }
        },
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                fill(item, &format!("{path}[{index}]"), env, notes);
            }
        }
        Value::Table(table) => {
            for (key, item) in table.iter_mut() {
                let path = match path {
                    "" => key.clone(),
                    _ => format!("{path}.{key}"),
                };
                fill(item, &path, env, notes);
            }
        }
        _ => {}
    }
}

/// The text with its variables in place; `None` if it has nothing to replace.
fn filled(text: &str, env: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let mut full = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(plain) = before.strip_suffix('$') {
            full.push_str(plain);
            full.push_str("${");
            rest = after;
            continue;
        }
        full.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err("has a `${` without its `}`; for a plain `${` write `$${`".into());
        };
        let Some(value) = env.get(name) else {
            return Err(format!(
                "takes ${{{name}}} from the environment, where it is not set; set {name}, or write the value itself"
            ));
        };
        full.push_str(value);
        rest = after;
    }
    if rest.len() == text.len() {
        return Ok(None);
    }
    full.push_str(rest);
    Ok(Some(full))
}

/// The variables that set a key, with the key's path, lists in the order of their places.
fn overrides(env: &BTreeMap<String, String>) -> Vec<(&String, Vec<String>)> {
    let path = |name: &str| -> Option<Vec<String>> {
        let (section, rest) = name.strip_prefix(ENV_PREFIX)?.split_once("__")?;
        let below = rest.split("__");
        let path = std::iter::once(section).chain(below);
        Some(path.map(str::to_ascii_lowercase).collect())
    };
    let mut found: Vec<_> = env
        .keys()
        .filter_map(|name| Some((name, path(name)?)))
        .collect();
    // By number where there is one, so that place 2 is filled before place 10.
    found.sort_by_cached_key(|(_, path)| {
        let place = |part: &String| (part.parse::<u64>().ok(), part.clone());
        path.iter().map(place).collect::<Vec<_>>()
    });
    found
}

fn put(slot: &mut Value, path: &[String], text: &str) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else {
        *slot = Value::String(text.into());
        return Ok(());
    };
    if first.is_empty() || rest.len() >= DEPTH_MAX {
        return Err(
            "names no key; write TOLLGATE_SECTION__KEY, such as TOLLGATE_STORE__URL".into(),
        );
    }
    let fresh = || match rest.first().map(|next| next.parse::<usize>()) {
        None => Value::String(String::new()),
        Some(Ok(_)) => Value::Array(Vec::new()),
        Some(Err(_)) => Value::Table(Table::new()),
    };
    match slot {
        Value::Table(table) => put(table.entry(first).or_insert_with(fresh), rest, text),
        Value::Array(items) => {
            let length = items.len();
            if first.parse() == Ok(length) {
                items.push(fresh());
            }
            let item = first
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get_mut(index));
            match item {
                Some(item) => put(item, rest, text),
                None => Err(format!(
                    "names place `{first}` of a list of {length}; give 0 to {length}"
                )),
            }
        }
        _ => Err(format!("goes below a plain value, where no `{first}` is")),
    }
}

/// As [`Problem`]s name it: `routes[0].path`.
fn joined(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.parse::<usize>().is_ok() {
            text.push_str(&format!("[{part}]"));
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn variables_stand_in_for_their_names() {
        let env = env(&[("A", "1"), ("B_2", "${A}"), ("EMPTY", "")]);
        let check =
            |text: &str, expected: Result<Option<&str>, &str>| match (filled(text, &env), expected)
            {
                (Err(message), Err(part)) => assert!(message.contains(part), "{text}: {message}"),
                (got, expected) => assert_eq!(
                    got,
                    expected
                        .map(|text| text.map(str::to_owned))
                        .map_err(str::to_owned),
                    "{text}"
                ),
            };
        check("plain", Ok(None));
        check("5 $ and $A", Ok(None));
        check("${A}", Ok(Some("1")));
        check("x${A}y${A}z", Ok(Some("x1y1z")));
        // What a variable holds is not looked into.
        check("${B_2}", Ok(Some("${A}")));
        check("[${EMPTY}]", Ok(Some("[]")));
        check("$${A}", Ok(Some("${A}")));
        check("$${A} ${A}", Ok(Some("${A} 1")));
        check("${MISSING}", Err("set MISSING"));
        check("${", Err("without its `}`"));
    }

    #[test]
    fn a_variable_sets_one_key_at_any_depth() {
        let text = "[store]\nurl = 'a'\n[[routes]]\npath = '/a'\n";
        let check = |name: &str, expected: Result<&str, &str>| {
            let (table, notes) = layered(text, env(&[(name, "new")])).unwrap();
            let problems = notes.into_problems();
            match expected {
                Ok(line) => {
                    assert_eq!(problems, []);
                    let text = table.to_string();
                    assert!(text.contains(line), "{name}: {text}");
                }
                Err(part) => assert!(problems[0].message.contains(part), "{name}: {problems:?}"),
            }
        };
        check("TOLLGATE_STORE__URL", Ok("url = \"new\""));
        check("TOLLGATE_SYNC__LEASE", Ok("[sync]\nlease = \"new\""));
        check("TOLLGATE_ROUTES__0__PATH", Ok("path = \"new\""));
        check(
            "TOLLGATE_ROUTES__1__PATH",
            Ok("path = \"/a\"\n\n[[routes]]\npath = \"new\""),
        );
        check(
            "TOLLGATE_UPSTREAMS__0__URL",
            Ok("[[upstreams]]\nurl = \"new\""),
        );
        check("TOLLGATE_ROUTES__2__PATH", Err("give 0 to 1"));
        check("TOLLGATE_ROUTES__X__PATH", Err("place `x`"));
        check("TOLLGATE_STORE__URL__X", Err("below a plain value"));
        check("TOLLGATE_STORE__", Err("names no key"));
        // Set by others for other ends: Kubernetes for a service of that name, the command line's own.
        for name in [
            "TOLLGATE_SERVICE_HOST",
            "TOLLGATE_TOKEN",
            "OTHER_STORE__URL",
        ] {
            check(name, Ok("url = \"a\""));
        }
    }

    #[test]
    fn lists_are_filled_in_the_order_of_their_places() {
        let names: Vec<_> = (0..12)
            .map(|n| format!("TOLLGATE_ROUTES__{n}__PATH"))
            .collect();
        let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "/")).collect();
        let (table, notes) = layered("", env(&pairs)).unwrap();
        assert_eq!(notes.into_problems(), []);
        assert_eq!(table["routes"].as_array().unwrap().len(), 12);
    }
}
