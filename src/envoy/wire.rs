//! Envoy's messages: headers in and out, and what filters leave for one another in dynamic metadata. Pure.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use http::HeaderMap;

use crate::gate::CallGrant;
use crate::gateway::{Lines, shown};
use crate::id::ModelName;
use crate::meter::{self, Api};
use crate::usage::Counts;

/// Where Check's metadata lands.
pub(super) const CHECK: &str = "envoy.filters.http.ext_authz";
/// Where a rate limit's metadata lands.
pub(super) const RATE_LIMIT: &str = "envoy.filters.http.ratelimit";
/// Where our own processor's metadata lands.
pub(super) const OWN: &str = "tollgate";
/// Where filters that read answers put the usage: each of its numbers under the name that the API gives it.
pub(super) const USAGE: &str = "tollgate.usage";

/// The key of a hold's id.
pub(super) const HOLD: &str = "hold";

/// Where a hold may stand; the first that has one says which.
pub(super) const HOLD_SPACES: [&str; 3] = [CHECK, OWN, RATE_LIMIT];

/// A list of headers as Envoy sends it.
pub(super) struct List<'a>(pub(super) Option<&'a core::HeaderMap>);

impl List<'_> {
    fn all(&self) -> impl Iterator<Item = &core::HeaderValue> {
        self.0.into_iter().flat_map(|map| &map.headers)
    }
}

impl Lines for List<'_> {
    fn line(&self, name: &str) -> Option<&[u8]> {
        let header = self.all().find(|header| header.key == name)?;
        // One of the two is set.
        Some(match header.raw_value.is_empty() {
            true => header.value.as_bytes(),
            false => &header.raw_value,
        })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.all().map(|header| header.key.as_str())
    }
}

/// Headers that replace those of the same name; text, as Check wants them.
pub(super) fn replacing(headers: &HeaderMap) -> Vec<core::HeaderValueOption> {
    let texts = headers.iter();
    let texts = texts.filter_map(|(name, value)| Some((name.as_str(), shown(value)?)));
    texts.map(|(name, value)| replace(name, value)).collect()
}

/// One header that replaces those of the same name.
pub(super) fn replace(name: &str, value: &str) -> core::HeaderValueOption {
    option(core::HeaderValue {
        key: name.into(),
        value: value.into(),
        raw_value: Vec::new(),
    })
}

/// The same as the processor wants it: as bytes.
pub(super) fn replace_raw(name: &str, value: &str) -> core::HeaderValueOption {
    option(core::HeaderValue {
        key: name.into(),
        value: String::new(),
        raw_value: value.into(),
    })
}

fn option(header: core::HeaderValue) -> core::HeaderValueOption {
    use core::header_value_option::HeaderAppendAction;
    core::HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

/// What a grant says of itself to the filters that follow, and to the access log.
pub(super) fn said(grant: &CallGrant) -> impl Iterator<Item = (&'static str, &str)> {
    let hold = &grant.hold;
    let always = [
        (HOLD, hold.id.as_str()),
        ("account", hold.account.as_str()),
        ("key", hold.key.as_str()),
    ];
    let model = grant.model.as_ref().map(ModelName::as_str);
    always
        .into_iter()
        .chain(model.map(|model| ("model", model)))
}

/// The same as Envoy's metadata.
pub(super) fn told(grant: &CallGrant) -> Struct {
    let fields = said(grant).map(|(name, value)| {
        let kind = Some(Kind::StringValue(value.into()));
        (name.to_owned(), Value { kind })
    });
    Struct {
        fields: fields.collect(),
    }
}

/// A struct in a struct.
pub(super) fn inside(name: &str, inner: Struct) -> Struct {
    let kind = Some(Kind::StructValue(inner));
    Struct {
        fields: HashMap::from([(name.to_owned(), Value { kind })]),
    }
}

/// The hold that stands in a call's metadata.
pub(super) fn hold(metadata: Option<&core::Metadata>) -> Option<&str> {
    let spaces = &metadata?.filter_metadata;
    HOLD_SPACES.iter().find_map(|space| {
        let value = spaces.get(*space)?.fields.get(HOLD)?;
        match &value.kind {
            Some(Kind::StringValue(text)) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        }
    })
}

/// The usage that filters have read of an answer, and whether it is all of it.
pub(super) fn usage(said: Option<&Struct>, api: Api) -> (Option<Counts>, bool) {
    let Some(said) = said else {
        return (None, false);
    };
    let usage = meter::usage_of(api, |name| whole(said.fields.get(name)?));
    // What Anthropic says at the beginning of a stream is not all; what stops it is told with the rest.
    let whole = api != Api::AnthropicMessages || said.fields.contains_key("stop_reason");
    (usage, usage.is_some() && whole)
}

/// A number of metadata, which has no whole ones; also as text.
fn whole(value: &Value) -> Option<u64> {
    match value.kind.as_ref()? {
        // Beyond 2^53 not every whole number is one any more.
        Kind::NumberValue(number) if (0.0..=9_007_199_254_740_992.0).contains(number) => {
            format!("{number}").parse().ok()
        }
        Kind::StringValue(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::usage::Meter;

    /// A struct of these.
    pub(in super::super) fn fields(fields: &[(&str, Kind)]) -> Struct {
        let fields = fields.iter().map(|(name, kind)| {
            let kind = Some(kind.clone());
            ((*name).to_owned(), Value { kind })
        });
        Struct {
            fields: fields.collect(),
        }
    }

    fn metadata(space: &str, all: &[(&str, Kind)]) -> core::Metadata {
        core::Metadata {
            filter_metadata: HashMap::from([(space.to_owned(), fields(all))]),
            ..Default::default()
        }
    }

    #[test]
    fn numbers_are_whole_or_none() {
        let check = |kind: Kind, expected: Option<u64>| {
            let value = Value {
                kind: Some(kind.clone()),
            };
            assert_eq!(whole(&value), expected, "{kind:?}");
        };
        check(Kind::NumberValue(0.0), Some(0));
        check(Kind::NumberValue(12.0), Some(12));
        check(Kind::NumberValue(9_007_199_254_740_992.0), Some(1 << 53));
        check(Kind::NumberValue(1e300), None);
        check(Kind::NumberValue(1.5), None);
        check(Kind::NumberValue(-1.0), None);
        check(Kind::NumberValue(f64::NAN), None);
        check(Kind::StringValue("7".into()), Some(7));
        check(Kind::BoolValue(true), None);
    }

    #[test]
    fn a_hold_stands_where_one_of_our_filters_put_it() {
        let id = || Kind::StringValue("a~1".into());
        for space in [CHECK, OWN, RATE_LIMIT] {
            assert_eq!(hold(Some(&metadata(space, &[(HOLD, id())]))), Some("a~1"));
        }
        assert_eq!(hold(Some(&metadata("other", &[(HOLD, id())]))), None);
        assert_eq!(hold(Some(&metadata(CHECK, &[("key", id())]))), None);
        assert_eq!(hold(None), None);
    }

    #[test]
    fn usage_is_all_of_it_once_the_api_has_said_so() {
        let number = |number: f64| Kind::NumberValue(number);
        let openai = [
            ("prompt_tokens", number(5.0)),
            ("completion_tokens", number(9.0)),
        ];
        let (counts, whole) = usage(Some(&fields(&openai)), Api::OpenAiChat);
        let counts = counts.unwrap();
        assert_eq!(
            (counts.get(Meter::Input), counts.get(Meter::Output)),
            (5, 9)
        );
        assert!(whole);
        let begun = [
            ("input_tokens", number(5.0)),
            ("output_tokens", number(1.0)),
        ];
        let (counts, whole) = usage(Some(&fields(&begun)), Api::AnthropicMessages);
        assert!(counts.is_some() && !whole);
        assert_eq!(usage(None, Api::OpenAiChat), (None, false));
        assert_eq!(usage(Some(&fields(&[])), Api::OpenAiChat), (None, false));
    }
}
