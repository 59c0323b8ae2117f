//! Requests of any shape, against `serde_json`: what is taken, what is refused, what an edit makes.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::requests::{scan, splice};
use crate::meter::Api::{OpenAiChat as Chat, OpenAiEmbeddings as Embeddings};

/// Any JSON value, with keys and strings that need care.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\"\\\\ \u{1}\u{7f}é你😀]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::from(Map::from_iter(members))),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    proptest::collection::hash_map("[a-z\"\\\\é]{0,4}x", any_value(), 0..6)
        .prop_map(|members| Value::from(Map::from_iter(members)))
}

/// JSON written with every character outside ASCII escaped, as Python does.
fn ascii(text: &str) -> String {
    let escape = |c: char| -> String {
        if c.is_ascii() {
            return c.to_string();
        }
        c.encode_utf16(&mut [0; 2])
            .iter()
            .map(|unit| format!("\\u{unit:04X}"))
            .collect()
    };
    text.chars().map(escape).collect()
}

/// Whether `serde_json` takes it for an object. Numbers beyond an `f64` are JSON all the same.
fn is_object(body: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => Some(value.is_object()),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

/// The members of `stream_options`, absent or null among them.
fn any_options() -> impl Strategy<Value = Option<Value>> {
    let include = prop_oneof![Just(json!(true)), Just(json!(false)), Just(Value::Null)];
    prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        (proptest::option::of(include), any_object()).prop_map(|(include, mut options)| {
            if let Some(include) = include {
                options["include_usage"] = include;
            }
            Some(options)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn takes_what_serde_json_takes(
        value in any_value(), pretty: bool, escaped: bool, size in 1..40_usize,
    ) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        let text = if escaped { ascii(&text) } else { text };
        prop_assert_eq!(scan(Embeddings, text.as_bytes(), size).1.is_ok(), value.is_object(), "{}", text);
    }

    #[test]
    fn refuses_what_serde_json_refuses(
        value in any_object(),
        escaped: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any_byte()), 1..4),
        size in 1..40_usize,
    ) {
        let text = serde_json::to_string(&value).unwrap();
        let mut body = if escaped { ascii(&text) } else { text }.into_bytes();
        for (at, what, byte) in changes {
            let at = at.index(body.len().max(1));
            match what {
                0 if at < body.len() => body[at] = byte,
                1 if at < body.len() => drop(body.remove(at)),
                _ => body.insert(at.min(body.len()), byte),
            }
        }
        if let Some(want) = is_object(&body) {
            let (_, read) = scan(Embeddings, &body, size);
            prop_assert_eq!(read.is_ok(), want, "{}: {:?}", body.escape_ascii(), read);
        }
    }

    #[test]
    fn nests_as_deep_as_serde_json(depth in 120..135_usize, objects: bool) {
        let (open, close) = if objects { ("{\"a\":", "}") } else { ("[", "]") };
        let body = format!("{{\"a\":{}0{}}}", open.repeat(depth), close.repeat(depth));
        prop_assert_eq!(scan(Chat, body.as_bytes(), 64).1.is_ok(), is_object(body.as_bytes()) == Some(true));
    }

    #[test]
    fn the_edit_merges(
        mut value in any_object(), options in any_options(), pretty: bool, size in 1..40_usize,
    ) {
        value["stream"] = json!(true);
        if let Some(options) = &options {
            value["stream_options"] = options.clone();
        }
        let body = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
        let body = body.unwrap();
        // As it is read back: not every float comes back as it was.
        let mut value: Value = serde_json::from_slice(&body).unwrap();
        let (scan, read) = scan(Chat, &body, size);
        prop_assert_eq!(read, Ok(()));
        let asked = options.is_some_and(|options| options["include_usage"] == json!(true));
        prop_assert_eq!(scan.usage_edit().is_none(), asked);
        let edited = scan.usage_edit().map_or(body.clone(), |edit| splice(&body, &edit));
        if value["stream_options"].is_null() {
            value["stream_options"] = json!({});
        }
        value["stream_options"]["include_usage"] = json!(true);
        prop_assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), value);
    }
}

fn any_byte() -> impl Strategy<Value = u8> {
    let marks = b"{}[]\",:\\ue-+.019tfn \x1f\n\x80\xe4\xf0".to_vec();
    prop_oneof![prop::sample::select(marks), any::<u8>()]
}
