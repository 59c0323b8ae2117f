//! Requests: what is found, what is refused and where, and the edit that asks for usage.

use crate::meter::{Api, Edit, Fault, Field, Malformed, RequestFacts, RequestScan};

use Api::{
    AnthropicMessages as Anthropic, OpenAiChat as Chat, OpenAiCompletions as Completions,
    OpenAiEmbeddings as Embeddings, OpenAiResponses as Responses,
};

const NOTHING: RequestFacts = RequestFacts {
    model: None,
    max_output: None,
    choices: 1,
    stream: false,
    include_usage: false,
};

/// Reads a whole body cut into pieces of `size` bytes.
pub(super) fn scan(api: Api, body: &[u8], size: usize) -> (RequestScan, Result<(), Malformed>) {
    let mut scan = RequestScan::new(api);
    let read = body.chunks(size).try_for_each(|piece| scan.feed(piece));
    let read = read.and_then(|()| scan.end());
    (scan, read)
}

fn check(api: Api, body: &str, want: &RequestFacts) {
    for size in [usize::MAX, 1, 2, 3, 7] {
        let (scan, read) = scan(api, body.as_bytes(), size);
        assert_eq!(read, Ok(()), "{body} by {size}");
        assert_eq!(scan.facts(), want, "{body} by {size}");
        assert!(scan.settled(), "{body} by {size}");
    }
}

fn refused(api: Api, body: &[u8], at: usize, fault: &Fault) {
    for size in [usize::MAX, 1, 2, 3] {
        let (mut scan, read) = scan(api, body, size);
        let want = Err(Malformed {
            at,
            fault: fault.clone(),
        });
        assert_eq!(read, want, "{} by {size}", body.escape_ascii());
        assert_eq!(scan.feed(b"{}"), want, "an error stands");
        assert_eq!(scan.end(), want, "an error stands");
        assert_eq!(scan.usage_edit(), None);
    }
}

#[test]
fn facts_are_found() {
    let model = Some("gpt-4o".to_owned());
    check(Chat, "{}", &NOTHING);
    check(Chat, " \r\n\t{ \"a\" : [ ] , \"b\" : { } } \n", &NOTHING);
    check(
        Chat,
        r#"{"messages":[{"role":"user","content":"\"model\":\"x\""}],"model":"gpt-4o","n":3,"max_tokens":10,
        "max_completion_tokens":20,"stream":true,"stream_options":{"include_usage":true}}"#,
        &RequestFacts {
            model: model.clone(),
            max_output: Some(20),
            choices: 3,
            stream: true,
            include_usage: true,
        },
    );
    check(
        Chat,
        r#"{"max_completion_tokens":20,"max_tokens":30,"max_output_tokens":40,"best_of":9,"tools":[
        {"model":"x","n":7,"stream":true,"stream_options":{"include_usage":true}}]}"#,
        &RequestFacts {
            max_output: Some(30),
            ..NOTHING
        },
    );
    check(
        Chat,
        r#"{"max_completion_tokens":30,"max_tokens":20}"#,
        &RequestFacts {
            max_output: Some(30),
            ..NOTHING
        },
    );
    check(
        Chat,
        r#"{"max_tokens":null,"n":null,"stream":null,"stream_options":null}"#,
        &NOTHING,
    );
    check(
        Chat,
        r#"{"max_tokens":0,"stream_options":{"include_usage":null}}"#,
        &RequestFacts {
            max_output: Some(0),
            ..NOTHING
        },
    );
    check(
        Responses,
        r#"{"max_output_tokens":40,"max_tokens":50,"stream":true}"#,
        &RequestFacts {
            max_output: Some(40),
            stream: true,
            ..NOTHING
        },
    );
    check(
        Anthropic,
        r#"{"model":"gpt-4o","max_tokens":1024,"stream":false}"#,
        &RequestFacts {
            model: model.clone(),
            max_output: Some(1024),
            ..NOTHING
        },
    );
    check(
        Embeddings,
        r#"{"input":["a",[1,2]],"model":"gpt-4o","n":"x"}"#,
        &RequestFacts { model, ..NOTHING },
    );
}

#[test]
fn models_are_unescaped() {
    for (body, want) in [
        (
            r#"{"m\u006fdel":"a\u002Fb\/c\"\\"}"#.to_owned(),
            "a/b/c\"\\".to_owned(),
        ),
        (
            r#"{"model":"\u4f60好\ud83d\ude00😀"}"#.to_owned(),
            "你好😀😀".to_owned(),
        ),
        (r#"{"model":""}"#.to_owned(), String::new()),
        (
            format!(r#"{{"model":"{}"}}"#, "é".repeat(128)),
            "é".repeat(128),
        ),
    ] {
        check(
            Chat,
            &body,
            &RequestFacts {
                model: Some(want),
                ..NOTHING
            },
        );
    }
}

#[test]
fn choices_are_all_that_is_generated() {
    for (body, choices) in [
        (r#"{"n":2,"best_of":5}"#, 5),
        (r#"{"best_of":2,"n":5}"#, 5),
        (r#"{"prompt":"a","n":2}"#, 2),
        (r#"{"prompt":["a","b","c"],"n":2}"#, 6),
        (r#"{"n":2,"prompt":[[1,2],[3]]}"#, 4),
        (r#"{"prompt":[1,2,3]}"#, 1),
        (r#"{"prompt":[]}"#, 1),
        (r#"{"prompt":["a","b"],"n":18446744073709551615}"#, u64::MAX),
    ] {
        check(Completions, body, &RequestFacts { choices, ..NOTHING });
    }
}

#[test]
fn fields_of_the_wrong_type_are_refused() {
    let long = format!("\"{}\"", "m".repeat(257));
    let shown = format!("\"{}…\"", "m".repeat(40));
    for (api, field, value, found) in [
        (Chat, Field::Model, "5", "5"),
        (Chat, Field::Model, "null", "null"),
        (Chat, Field::Model, "[\"a\"]", "an array"),
        (Chat, Field::Model, &long, &shown),
        (Chat, Field::MaxTokens, "-1", "-1"),
        (Chat, Field::MaxTokens, "1.5", "1.5"),
        (Chat, Field::MaxTokens, "1e3", "1e3"),
        (Chat, Field::MaxTokens, "\"10\"", "\"10\""),
        (
            Chat,
            Field::MaxTokens,
            "18446744073709551616",
            "18446744073709551616",
        ),
        (Chat, Field::MaxCompletionTokens, "true", "true"),
        (Responses, Field::MaxOutputTokens, "{}", "an object"),
        (Chat, Field::N, "0", "0"),
        (Chat, Field::N, "false", "false"),
        (Completions, Field::BestOf, "-0", "-0"),
        (Chat, Field::Stream, "\"yes\"", "\"yes\""),
        (Chat, Field::Stream, "1", "1"),
        (Chat, Field::StreamOptions, "true", "true"),
        (Chat, Field::StreamOptions, "[]", "an array"),
    ] {
        let body = format!("{{\"{}\": {value} }}", field.key());
        let at = field.key().len() + 5;
        refused(
            api,
            body.as_bytes(),
            at,
            &Fault::Wrong {
                field,
                found: found.to_owned(),
            },
        );
    }
    refused(
        Chat,
        br#"{"stream_options":{"include_usage":"no"}}"#,
        35,
        &Fault::Wrong {
            field: Field::IncludeUsage,
            found: "\"no\"".to_owned(),
        },
    );
}

#[test]
fn fields_that_servers_may_read_differently_are_refused() {
    for (body, at, field) in [
        (r#"{"model":"a","model":"b"}"#, 13, Field::Model),
        (r#"{"model":"a","m\u006fdel":"b"}"#, 13, Field::Model),
        (
            r#"{"max_tokens":1,"max_tokens":null}"#,
            16,
            Field::MaxTokens,
        ),
        (r#"{"stream":true,"stream":true}"#, 15, Field::Stream),
        (r#"{"n":1,"n":2}"#, 7, Field::N),
        (
            r#"{"stream_options":{},"stream_options":{}}"#,
            21,
            Field::StreamOptions,
        ),
        (
            r#"{"stream_options":{"include_usage":true,"include_usage":true}}"#,
            40,
            Field::IncludeUsage,
        ),
    ] {
        refused(Chat, body.as_bytes(), at, &Fault::Duplicate(field));
    }
    for (body, field) in [
        (r#"{"Model":"b"}"#, Field::Model),
        (r#"{"MAX_TOKENS":1}"#, Field::MaxTokens),
        (r#"{"max_to\u212aens":1}"#, Field::MaxTokens),
        (r#"{"ſtream":true}"#, Field::Stream),
    ] {
        refused(Chat, body.as_bytes(), 1, &Fault::Spelling(field));
    }
    check(
        Chat,
        r#"{"x":1,"x":2,"models":[],"mode":1,"prompt":1,"prompt":2}"#,
        &NOTHING,
    );
}

#[test]
fn what_is_not_an_object_in_json_is_refused_where_it_is_seen() {
    let unexpected = |byte, wanted| Fault::Unexpected { byte, wanted };
    let deep = format!("{{\"a\":{}", "[".repeat(127));
    for (body, at, fault) in [
        (&b"[]"[..], 0, Fault::NotAnObject),
        (b" \"a\"", 1, Fault::NotAnObject),
        (b"null", 0, Fault::NotAnObject),
        (b"", 0, Fault::Truncated),
        (b"{\"a\":1", 6, Fault::Truncated),
        (b"\xEF\xBB\xBF{}", 0, unexpected(0xEF, "a value")),
        (b"{} x", 3, unexpected(b'x', "nothing more")),
        (b"{}{}", 2, unexpected(b'{', "nothing more")),
        (b"{a:1}", 1, unexpected(b'a', "a key or `}`")),
        (b"{\"a\" 1}", 5, unexpected(b'1', "`:`")),
        (b"{\"a\":1,}", 7, unexpected(b'}', "a key")),
        (b"{\"a\":[1,]}", 8, unexpected(b']', "a value")),
        (b"{\"a\":[1}", 7, unexpected(b'}', "`,` or `]`")),
        (b"{\"a\":1]", 6, unexpected(b']', "`,` or `}`")),
        (b"{\"a\":[}", 6, unexpected(b'}', "a value or `]`")),
        (b"{\"a\":01}", 6, unexpected(b'1', "`,` or `}`")),
        (b"{\"a\":-}", 6, unexpected(b'}', "a digit")),
        (b"{\"a\":1.e1}", 7, unexpected(b'e', "a digit")),
        (b"{\"a\":1e}", 7, unexpected(b'}', "a digit")),
        (b"{\"a\":+1}", 5, unexpected(b'+', "a value")),
        (b"{\"a\":trve}", 7, unexpected(b'v', "true, false or null")),
        (
            b"{\"a\":\"\\x\"}",
            7,
            unexpected(b'x', "one of `\"\\/bfnrtu` after a backslash"),
        ),
        (
            b"{\"a\":\"\\u00g0\"}",
            10,
            unexpected(b'g', "four hexadecimal digits"),
        ),
        (b"{\"a\":\"b\nc\"}", 7, Fault::Control { byte: b'\n' }),
        (b"{\"a\0\":1}", 3, Fault::Control { byte: 0 }),
        (b"{\"a\":\"\xE4\xBD\"}", 6, Fault::NotUtf8),
        (b"{\"a\":\"b\xFFc\"}", 7, Fault::NotUtf8),
        (b"{\"a\":\"\xED\xA0\x80\"}", 6, Fault::NotUtf8),
        (b"{\"a\":\"\\ud83dx\"}", 12, Fault::LoneSurrogate),
        (b"{\"a\":\"\\ud83d\"}", 12, Fault::LoneSurrogate),
        (deep.as_bytes(), 131, Fault::TooDeep),
    ] {
        let mut scan = RequestScan::new(Chat);
        let read = scan.feed(body).and_then(|()| scan.end());
        assert_eq!(
            read,
            Err(Malformed {
                at,
                fault: fault.clone()
            }),
            "{}",
            body.escape_ascii()
        );
        // In pieces the offset may be that of the byte which made it sure.
        let mut scan = RequestScan::new(Chat);
        let read = body
            .chunks(1)
            .try_for_each(|byte| scan.feed(byte))
            .and_then(|()| scan.end());
        assert_eq!(
            read.map_err(|malformed| malformed.fault),
            Err(fault),
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn faults_are_said_with_what_would_work() {
    for (body, want) in [
        (
            &b"[1]"[..],
            "the request body is refused at byte 0: it must be a JSON object",
        ),
        (
            br#"{"max_tokens":-1}"#,
            "the request body is refused at byte 14: `max_tokens` is -1: give a whole number from 0, or null",
        ),
        (
            br#"{"model":"a","model":"b"}"#,
            "the request body is refused at byte 13: `model` stands there twice: give it once",
        ),
        (
            b"{\"a\":\xFF}",
            "the request body is refused at byte 5: `\\xff` where a value must stand",
        ),
    ] {
        let said = scan(Chat, body, usize::MAX).1.unwrap_err().to_string();
        assert_eq!(said, want);
    }
}

#[test]
fn settled_when_all_fields_were_seen_or_the_object_is_closed() {
    for (api, open, rest) in [
        (Embeddings, r#"{"model":"a""#, r#","input":"b"}"#),
        (
            Anthropic,
            r#"{"model":"a","stream":true,"max_tokens":5,"#,
            r#""system":"x"}"#,
        ),
        (
            Chat,
            r#"{"model":"a","stream":true,"n":1,"max_tokens":5,"max_completion_tokens":5,"stream_options":{}"#,
            "}",
        ),
        (Chat, r#"{"model":"a","stream":true"#, "}"),
    ] {
        let mut scan = RequestScan::new(api);
        let early = api != Chat || open.contains("stream_options");
        assert!(!scan.settled());
        scan.feed(open.as_bytes()).unwrap();
        assert_eq!(scan.settled(), early, "{open}");
        assert_eq!(scan.usage_edit().is_some(), early && api == Chat, "{open}");
        scan.feed(rest.as_bytes()).unwrap();
        assert!(scan.settled(), "{open}");
        assert_eq!(scan.usage_edit().is_some(), api == Chat, "{open}");
    }
    let mut scan = RequestScan::new(Embeddings);
    scan.feed(br#"{"model":"a","#).unwrap();
    assert!(scan.settled());
    let twice = scan.feed(br#""model":"b"}"#);
    assert_eq!(
        twice,
        Err(Malformed {
            at: 13,
            fault: Fault::Duplicate(Field::Model)
        })
    );
}

#[test]
fn opaque_bodies_are_not_read() {
    let (scan, read) = scan(Api::Opaque, b"\xFF not JSON", 3);
    assert_eq!(read, Ok(()));
    assert!(scan.settled());
    assert_eq!(scan.facts(), &NOTHING);
    assert_eq!(scan.usage_edit(), None);
}

pub(super) fn splice(body: &[u8], edit: &Edit) -> Vec<u8> {
    let mut body = body.to_vec();
    let tail = body.split_off(edit.at);
    [&body, edit.insert, &tail[edit.remove..]].concat()
}

#[test]
fn the_edit_asks_for_usage_and_changes_nothing_else() {
    for (body, want) in [
        (
            r#" {"stream":true} "#,
            r#" {"stream_options":{"include_usage":true},"stream":true} "#,
        ),
        (
            r#"{"stream":true,"stream_options":{}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream_options": { } ,"stream":true}"#,
            r#"{"stream_options": {"include_usage":true } ,"stream":true}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"continuous_usage_stats":true}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"a":{"include_usage":true},"include_usage": false }}"#,
            r#"{"stream":true,"stream_options":{"a":{"include_usage":true},"include_usage": true }}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream_options":null,"stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true}"#,
        ),
    ] {
        for api in [Chat, Completions] {
            for size in [usize::MAX, 1] {
                let (scan, read) = scan(api, body.as_bytes(), size);
                assert_eq!(read, Ok(()), "{body}");
                let edited = splice(body.as_bytes(), &scan.usage_edit().unwrap());
                assert_eq!(String::from_utf8(edited).unwrap(), want);
            }
        }
    }
}

#[test]
fn no_edit_where_none_is_needed() {
    for (api, body) in [
        (
            Chat,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (Chat, r#"{"stream":false}"#),
        (Chat, r#"{"stream":null,"stream_options":{}}"#),
        (Chat, "{}"),
        (Responses, r#"{"stream":true}"#),
        (Anthropic, r#"{"stream":true}"#),
        (Embeddings, r#"{"stream":true}"#),
    ] {
        assert_eq!(scan(api, body.as_bytes(), 5).0.usage_edit(), None, "{body}");
    }
}
