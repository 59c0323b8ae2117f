//! `[[envoy.rate_limit.callers]]`: which descriptors of Envoy's rate limits stand for which keys.

use std::collections::BTreeMap;

use toml::Value;

use super::reader::Reader;
use super::values::text;
use crate::envoy::Named;
use crate::id::{AccountId, KeyId, ModelName};

/// How many there may be: they are walked for each request that brings no secret.
const CALLERS_MAX: usize = 1_000;

pub(super) fn callers(sections: Vec<Reader<'_>>) -> Vec<Named> {
    let mut callers = Vec::with_capacity(sections.len());
    for mut section in sections {
        if callers.len() == CALLERS_MAX {
            section.problem(
                "",
                &format!("is one too many; there may be {CALLERS_MAX} callers"),
            );
        }
        let written = section.has("entries");
        let entries = section.entries("entries", false, |name, value| {
            Ok((name.to_owned(), value_text(value)?))
        });
        if entries.is_empty() && !written {
            section.problem(
                "entries",
                "is missing; write entries.NAME = \"VALUE\" as the descriptor has them",
            );
        }
        let account = section.need("account", "\"ACCOUNT\"", |value| {
            AccountId::new(&text(value)?).map_err(|error| error.to_string())
        });
        let key = section.need("key", "\"KEY\"", |value| {
            KeyId::new(&text(value)?).map_err(|error| error.to_string())
        });
        let named = Named {
            domain: section.read("domain", text),
            entries: entries.into_iter().collect::<BTreeMap<_, _>>(),
            model: section.read("model", |value| {
                ModelName::new(&text(value)?).map_err(|error| error.to_string())
            }),
            caller: match (account, key) {
                (Some(account), Some(key)) => (account, key),
                _ => continue,
            },
        };
        callers.push(named);
    }
    callers
}

/// A descriptor's value; it may be empty.
fn value_text(value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| "write the entry's value as a text in quotes".into())
}
