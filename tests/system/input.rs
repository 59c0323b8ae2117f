//! What no well-behaved client sends: each gets a clear error in its own words, holds nothing, costs nothing, and harms nobody.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tollgate::clock::Clock;
use tollgate::money::Amount;

use super::process::Process;
use super::wire::{CHAT, MESSAGES, chat, hello, secret};
use super::{Kind, System};
use crate::support::http::{Message, Wire, call};
use crate::support::node::amount as units;
use crate::support::until;

const HUNDRED_MB: usize = 100_000_000;

/// What sockets and one bounded look may swallow before the answer comes: far from all.
const SWALLOWED_MAX: usize = 16 << 20;

/// The error that is expected, in the words of both APIs.
#[derive(Clone, Copy)]
struct Expected {
    status: u16,
    openai: &'static str,
    anthropic: &'static str,
    reason: Option<&'static str>,
}

const BAD: Expected = Expected {
    status: 400,
    openai: "invalid_request_error",
    anthropic: "invalid_request_error",
    reason: None,
};

const TOO_LARGE: Expected = Expected {
    status: 413,
    anthropic: "request_too_large",
    ..BAD
};

const fn bad_key(reason: &'static str) -> Expected {
    Expected {
        status: 401,
        anthropic: "authentication_error",
        reason: Some(reason),
        ..BAD
    }
}

impl Expected {
    fn check(&self, name: &str, path: &str, answer: &Message) {
        assert_eq!(answer.status(), self.status, "{name}: {answer:?}");
        assert!(answer.whole, "{name}: {answer:?}");
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/json"), "{name}");
        let body = answer.json();
        let kind = if path == MESSAGES {
            assert_eq!(body["type"], "error", "{name}: {body}");
            self.anthropic
        } else {
            self.openai
        };
        assert_eq!(body["error"]["type"], kind, "{name}: {body}");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(message.len() > 10, "{name}: {body}");
        let reason = answer.header("x-tollgate-reason");
        assert_eq!(reason, self.reason, "{name}");
    }
}

/// The head of a `POST` and some header lines more.
fn head(path: &str, key: Option<&str>, lines: &str) -> String {
    let key = key.map_or(String::new(), |key| match path {
        MESSAGES => format!("x-api-key: {key}\r\n"),
        _ => format!("authorization: Bearer {key}\r\n"),
    });
    format!("POST {path} HTTP/1.1\r\nhost: tollgate.test\r\n{key}{lines}\r\n")
}

fn request(path: &str, key: Option<&str>, body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", body.len());
    let mut request = head(path, key, &length).into_bytes();
    request.extend(body);
    request
}

/// Sends a head, then a piece again and again until there is an answer; the answer, and how much was taken of the body.
async fn pump(proxy: SocketAddr, start: String, piece: &[u8]) -> (Message, usize) {
    let mut wire = Wire::connect(proxy).await;
    wire.send(start).await;
    let mut taken = 0;
    let (read, mut write) = wire.stream.split();
    while taken < HUNDRED_MB {
        tokio::select! {
            biased;
            _ = read.readable() => break,
            written = write.write_all(piece) => match written {
                Ok(()) => taken += piece.len(),
                Err(_) => break,
            },
        }
    }
    (wire.message().await.expect("an answer"), taken)
}

/// After all of it: no money moved, nothing is held, no call is counted, and the next good one passes.
async fn nothing_is_left(process: &Process) {
    let ended = async || (process.metric("tollgate_holds_open").await == "0").then_some(());
    until("no hold is open", ended).await;
    process.cli("sync now").await;
    let standing = process.show("a").await;
    assert_eq!(standing.held, units("0"));
    assert_eq!(standing.balance, units("5"));
    assert_eq!(standing.available, units("5"));
    assert_eq!(process.used("a").await, (0, Amount::ZERO));
    assert!(process.lives().await);
    process.has_not_panicked();
    let answer = call(process.proxy, hello("a", false, &[])).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    process.verify("a").await;
}

async fn start() -> (System, Process) {
    let system = System::new(Kind::Embedded, &[]).await;
    let process = system.serve().await;
    process.account("a", "5", "default").await;
    (system, process)
}

#[tokio::test]
async fn bodies_that_cannot_be_read_and_models_that_are_none() {
    let (_system, process) = start().await;
    let key = secret("a");
    let good = chat("flat").to_string();
    let not_text = good.replace("hello", "h?llo").into_bytes();
    let not_text: Vec<u8> = not_text
        .into_iter()
        .map(|byte| if byte == b'?' { 0xff } else { byte })
        .collect();
    let unknown = Expected {
        status: 404,
        anthropic: "not_found_error",
        reason: Some("MODEL_NOT_PRICED"),
        ..BAD
    };
    let unpriced = chat("gpt-unheard-of").to_string();
    let cases: [(&str, &[u8], Expected); 8] = [
        ("no JSON", b"model=flat", BAD),
        ("JSON that stops", &good.as_bytes()[..good.len() - 2], BAD),
        ("JSON that goes on", &[good.as_bytes(), b"}"].concat(), BAD),
        ("not UTF-8", &not_text, BAD),
        ("empty", b"", BAD),
        ("no model", br#"{"messages":[],"max_tokens":5}"#, BAD),
        ("a model that is no text", br#"{"model":7}"#, BAD),
        ("an unknown model", unpriced.as_bytes(), unknown),
    ];
    for path in [CHAT, MESSAGES] {
        for (name, body, expected) in &cases {
            let answer = call(process.proxy, request(path, Some(&key), body)).await;
            expected.check(name, path, &answer);
        }
    }
    nothing_is_left(&process).await;
    process.terminate().await;
}

#[tokio::test]
async fn keys_that_open_nothing() {
    let (_system, process) = start().await;
    process.key("a", "revoked", "").await;
    let soon = Clock::system().now().wall.plus(Duration::from_secs(1));
    process
        .key("a", "expired", &format!("--expires {soon}"))
        .await;
    process.cli("key revoke a revoked").await;
    let body = chat("flat").to_string();
    // A bad model is not what a caller without a key is told of, and a call would cost.
    let expired = async || {
        let unpriced = chat("gpt-unheard-of").to_string();
        let key = secret("expired");
        let answer = call(
            process.proxy,
            request(CHAT, Some(&key), unpriced.as_bytes()),
        );
        (answer.await.status() == 401).then_some(())
    };
    until("the key has expired", expired).await;
    for path in [CHAT, MESSAGES] {
        for (name, key, reason) in [
            ("no key", None, "KEY_UNKNOWN"),
            ("an unknown key", Some("sk-guessed"), "KEY_UNKNOWN"),
            ("a revoked key", Some("sk-of-revoked"), "KEY_REVOKED"),
            ("an expired key", Some("sk-of-expired"), "KEY_EXPIRED"),
        ] {
            let answer = call(process.proxy, request(path, key, body.as_bytes())).await;
            bad_key(reason).check(name, path, &answer);
            if path == CHAT {
                assert_eq!(answer.json()["error"]["code"], "invalid_api_key", "{name}");
            }
        }
    }
    nothing_is_left(&process).await;
    process.terminate().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused_before_they_are_read() {
    let (_system, process) = start().await;
    let key = secret("a");
    let begun = r#"{"model":"flat","messages":[{"role":"user","content":""#;
    let chunk = |data: &str| format!("{:x}\r\n{data}\r\n", data.len());
    let filler = "x".repeat(64 << 10);
    let chunked = "transfer-encoding: chunked\r\n";
    let no_model = Expected { ..BAD };
    for path in [CHAT, MESSAGES] {
        let small = |start: String| start.replace("tollgate.test", "small.test");
        let declared = format!("content-length: {HUNDRED_MB}\r\n");
        let declared = head(path, Some(&key), &declared) + begun;
        let model_first = small(head(path, Some(&key), chunked)) + &chunk(begun);
        let model_last = small(head(path, Some(&key), chunked)) + &chunk(r#"{"user":""#);
        for (name, start, piece, expected) in [
            (
                "100 MB that are declared",
                declared,
                filler.clone(),
                TOO_LARGE,
            ),
            ("100 MB in chunks", model_first, chunk(&filler), TOO_LARGE),
            (
                "100 MB before the model",
                model_last,
                chunk(&filler),
                no_model,
            ),
        ] {
            let (answer, taken) = pump(process.proxy, start, piece.as_bytes()).await;
            expected.check(name, path, &answer);
            assert!(taken <= SWALLOWED_MAX, "{name}: {taken} bytes were taken");
        }
    }
    nothing_is_left(&process).await;
    process.terminate().await;
}

#[tokio::test]
async fn what_is_not_http_and_heads_that_are_too_large() {
    let (_system, process) = start().await;
    let key = secret("a");
    let good = chat("flat").to_string();
    let chunked = "transfer-encoding: chunked\r\n";
    let whole_chunk = format!("{:x}\r\n{good}\r\n", good.len());
    for path in [CHAT, MESSAGES] {
        let head = head(path, Some(&key), chunked);
        // In place of the first chunk, while the body is inspected; and after the last, when it is on its way upstream.
        for (name, garbage) in [
            ("no chunk size", format!("{head}hello\r\n\r\n")),
            (
                "a size beyond numbers",
                format!("{head}fffffffffffffffff0\r\n"),
            ),
            (
                "garbage at the end",
                format!("{head}{whole_chunk}zz\r\n\r\n"),
            ),
        ] {
            let answer = call(process.proxy, garbage).await;
            BAD.check(name, path, &answer);
        }
        // One that leaves in the middle gets no answer; it must not leave its hold behind.
        let mut wire = Wire::connect(process.proxy).await;
        wire.send(format!("{head}{}", &whole_chunk[..whole_chunk.len() - 9]))
            .await;
        drop(wire);
    }
    let mut start = format!("POST {CHAT} HTTP/1.1\r\nhost: tollgate.test\r\n");
    start += &format!("authorization: Bearer {key}\r\nx-filler: ");
    let (answer, _) = pump(process.proxy, start, &[b'x'; 4 << 10]).await;
    assert_eq!(answer.status(), 431, "{answer:?}");
    let answer = call(process.proxy, "\u{1}\u{2}\u{3}\r\n\r\n").await;
    assert_eq!(answer.status(), 400, "{answer:?}");
    nothing_is_left(&process).await;
    process.terminate().await;
}
