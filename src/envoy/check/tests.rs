//! What is written of a call that passes is what Envoy's own types say it is.

use std::sync::Arc;

use envoy_types::pb::google::protobuf::value::Kind;
use http::{HeaderMap, HeaderValue};

use super::*;
use crate::clock::Timestamp;
use crate::envoy::wire::tests::fields;
use crate::gate::HoldGrant;
use crate::id::{AccountId, KeyId, ModelName};
use crate::money::Amount;

fn grant(model: Option<&str>) -> CallGrant {
    CallGrant {
        hold: Arc::new(HoldGrant {
            id: "a~r~7".into(),
            account: AccountId::new("a").unwrap(),
            key: KeyId::new("k").unwrap(),
            amount: Amount::ZERO,
            expires: Timestamp::from_nanos(0),
        }),
        rate: None,
        model: model.map(|model| ModelName::new(model).unwrap()),
        needs_usage: true,
    }
}

fn check(grant: &CallGrant, changes: &Changes, ok: api::OkHttpResponse, said: &[(&str, &str)]) {
    let mut written = Vec::new();
    passed(&mut written, grant, changes);
    let said: Vec<_> = said
        .iter()
        .map(|(name, value)| (*name, Kind::StringValue((*value).into())))
        .collect();
    let expected = api::CheckResponse {
        status: Some(rpc::Status::default()),
        dynamic_metadata: Some(fields(&said)),
        http_response: Some(api::check_response::HttpResponse::OkResponse(ok)),
    };
    let read = api::CheckResponse::decode(written.as_slice()).unwrap();
    assert_eq!(read, expected);
}

#[test]
fn a_call_passes_with_its_hold_and_what_is_to_be_changed() {
    let long = "v".repeat(5_000);
    let mut answer = HeaderMap::new();
    answer.insert("x-ratelimit-limit-requests", HeaderValue::from_static("9"));
    // No text: Check has no field for it.
    answer.insert("x-raw", HeaderValue::from_bytes(b"\xff").unwrap());
    let changes = Changes {
        set: vec![
            ("x-tollgate-hold".into(), "a~r~7".into()),
            ("x-long".into(), long.clone()),
        ],
        remove: vec!["authorization".into(), "x-api-key".into()],
        answer,
    };
    let ok = api::OkHttpResponse {
        headers: vec![
            wire::replace("x-tollgate-hold", "a~r~7"),
            wire::replace("x-long", &long),
        ],
        headers_to_remove: changes.remove.clone(),
        response_headers_to_add: vec![wire::replace("x-ratelimit-limit-requests", "9")],
        ..Default::default()
    };
    let said = [
        ("hold", "a~r~7"),
        ("account", "a"),
        ("key", "k"),
        ("model", "m"),
    ];
    check(&grant(Some("m")), &changes, ok, &said);
}

#[test]
fn a_call_with_nothing_to_change_passes_too() {
    let said = [("hold", "a~r~7"), ("account", "a"), ("key", "k")];
    let none = api::OkHttpResponse::default();
    check(&grant(None), &Changes::default(), none, &said);
}
