//! A question is read as Envoy writes it.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3 as api;
use prost::Message as _;

use super::*;
use crate::envoy::fields as write;
use crate::gateway::Lines as _;

type Asking = api::attribute_context::HttpRequest;

/// All that Envoy tells beside it is told too.
fn written(http: Asking) -> Vec<u8> {
    let peer = api::attribute_context::Peer {
        service: "peer".into(),
        principal: "p".into(),
        certificate: "c".repeat(300),
        ..Default::default()
    };
    let question = api::CheckRequest {
        attributes: Some(api::AttributeContext {
            source: Some(peer.clone()),
            destination: Some(peer),
            request: Some(api::attribute_context::Request {
                time: Some(envoy_types::pb::google::protobuf::Timestamp {
                    seconds: 1_700_000_000,
                    nanos: 5,
                }),
                http: Some(http),
            }),
            context_extensions: [("tollgate.route".to_owned(), "chat".to_owned())].into(),
            metadata_context: Some(core::Metadata::default()),
            ..Default::default()
        }),
    };
    question.encode_to_vec()
}

fn asking() -> Asking {
    Asking {
        id: "77".into(),
        method: "POST".into(),
        headers: [("authorization".to_owned(), "Bearer k".to_owned())].into(),
        path: "/v1/chat/completions?a=b".into(),
        host: "models".into(),
        scheme: "https".into(),
        query: "a=b".into(),
        size: 12,
        protocol: "HTTP/1.1".into(),
        body: r#"{"model":"m"}"#.into(),
        ..Default::default()
    }
}

#[test]
fn what_matters_is_found_among_all_that_is_told() {
    let message = written(asking());
    let attributes = Question::read(&message).unwrap().attributes.unwrap();
    let [route] = &attributes.context_extensions[..] else {
        panic!("one entry");
    };
    assert_eq!(
        (route.name, route.value),
        (&b"tollgate.route"[..], &b"chat"[..])
    );
    let asked = attributes.request.unwrap();
    assert!(!asked.time.is_empty());
    let http = asked.http.unwrap();
    assert_eq!(http.id, b"77");
    assert_eq!(http.method, b"POST");
    assert_eq!(http.path, b"/v1/chat/completions?a=b");
    assert_eq!(http.host, b"models");
    assert_eq!(http.body, br#"{"model":"m"}"#);
    assert_eq!(http.headers.line("authorization"), Some(&b"Bearer k"[..]));
}

#[test]
fn headers_and_bodies_may_come_raw() {
    let header = core::HeaderValue {
        key: "x-api-key".into(),
        raw_value: b"k\xff".to_vec(),
        ..Default::default()
    };
    let message = written(Asking {
        headers: Default::default(),
        header_map: Some(core::HeaderMap {
            headers: vec![header],
        }),
        body: String::new(),
        raw_body: b"\xff".to_vec(),
        ..asking()
    });
    let attributes = Question::read(&message).unwrap().attributes.unwrap();
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!(http.headers.line("x-api-key"), Some(&b"k\xff"[..]));
    assert_eq!(http.body, b"\xff");
}

#[test]
fn requests_that_began_at_other_times_are_told_apart() {
    let at = |seconds, nanos| {
        let time = Some(envoy_types::pb::google::protobuf::Timestamp { seconds, nanos });
        let request = api::attribute_context::Request { time, http: None };
        let attributes = api::AttributeContext {
            request: Some(request),
            ..Default::default()
        };
        let question = api::CheckRequest {
            attributes: Some(attributes),
        };
        let message = question.encode_to_vec();
        let read = Question::read(&message).unwrap();
        read.attributes.unwrap().request.unwrap().time.to_vec()
    };
    assert_eq!(at(1, 2), at(1, 2));
    assert_ne!(at(1, 2), at(2, 1));
    assert_ne!(at(1, 0), at(0, 1));
}

#[test]
fn what_is_cut_is_no_question() {
    let message = written(asking());
    for end in 1..message.len() {
        assert_eq!(
            Question::read(&message[..end]).err(),
            Some(Malformed),
            "{end}"
        );
    }
    assert!(Question::read(&[]).unwrap().attributes.is_none());
}

#[test]
fn what_is_wrong_within_is_no_question_either() {
    // The field numbers down to where it is wrong: attributes, request, http, and their entries.
    for path in [
        &[1][..],
        &[1, 10],
        &[1, 4],
        &[1, 4, 2],
        &[1, 4, 2, 3],
        &[1, 4, 2, 13],
        &[1, 4, 2, 13, 1],
    ] {
        let wrong = path.iter().rev().fold(vec![0x80], |inner, number| {
            let mut outer = Vec::new();
            write::message(&mut outer, *number, |to| to.extend_from_slice(&inner));
            outer
        });
        assert_eq!(Question::read(&wrong).err(), Some(Malformed), "{path:?}");
    }
}
