//! The stand-in over HTTP: usage that can be worked out by hand, the shapes of streams, and every knob.

use http_body_util::Full;
use hyper::client::conn::http1;
use serde_json::{Value, json};

use super::*;

struct Fixture {
    running: Running,
    stop: watch::Sender<bool>,
}

struct Reply {
    status: u16,
    headers: http::HeaderMap,
    /// What came of the body, and whether it ended well.
    body: String,
    whole: bool,
}

impl Fixture {
    async fn new() -> Self {
        let (stop, stopped) = watch::channel(false);
        let settings = Settings::new("127.0.0.1:0".parse().unwrap());
        let running = serve(settings, stopped).await.unwrap();
        Self { running, stop }
    }

    async fn send(&self, method: &str, path: &str, knobs: &[(&str, &str)], body: Value) -> Reply {
        let stream = TcpStream::connect(self.running.local_addr).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x");
        for (name, value) in knobs {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_string()));
        let response = sender
            .send_request(request.body(body).unwrap())
            .await
            .unwrap();
        let (head, mut body) = response.into_parts();
        let (mut text, mut whole) = (String::new(), true);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                Err(_) => whole = false,
            }
        }
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: text,
            whole,
        }
    }

    async fn post(&self, path: &str, knobs: &[(&str, &str)], body: Value) -> Reply {
        self.send("POST", path, knobs, body).await
    }
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The data of each event; `[DONE]` as a string.
    fn events(&self) -> Vec<Value> {
        let data = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into()))
            .collect()
    }
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn hello(more: Value) -> Value {
    let mut body =
        json!({"model": "demo-model", "messages": [{"role": "user", "content": "Say hello"}]});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

#[tokio::test]
async fn usage_follows_from_the_request() {
    let fixture = Fixture::new().await;
    let long = "word ".repeat(40);
    let parts = json!([{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": "data:,"}}]);
    for (what, body, prompt, completion, finish) in [
        ("plain", hello(json!({})), 5, 9, "stop"),
        ("two answers", hello(json!({"n": 2})), 5, 18, "stop"),
        ("cut", hello(json!({"max_tokens": 4})), 5, 4, "length"),
        (
            "just not cut",
            hello(json!({"max_completion_tokens": 9, "max_tokens": 1})),
            5,
            9,
            "stop",
        ),
        (
            "nothing allowed",
            hello(json!({"max_tokens": 0})),
            5,
            0,
            "length",
        ),
        (
            "echo is bounded",
            hello(json!({"messages": [{"role": "user", "content": long}]})),
            43,
            23,
            "stop",
        ),
        (
            "parts",
            hello(
                json!({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": parts}]}),
            ),
            9,
            9,
            "stop",
        ),
        (
            "no content",
            hello(json!({"messages": [{"role": "assistant", "content": null}]})),
            3,
            7,
            "stop",
        ),
    ] {
        let answer = fixture.post(CHAT, &[], body).await.json();
        assert_eq!(answer["usage"]["prompt_tokens"], prompt, "{what}");
        assert_eq!(answer["usage"]["completion_tokens"], completion, "{what}");
        assert_eq!(
            answer["usage"]["total_tokens"],
            prompt + completion,
            "{what}"
        );
        assert_eq!(answer["choices"][0]["finish_reason"], finish, "{what}");
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let choices = answer["choices"].as_array().unwrap().len();
        assert_eq!(
            text.split_whitespace().count() * choices,
            completion,
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_stream_says_its_usage_only_when_asked() {
    let fixture = Fixture::new().await;
    for (options, extra) in [(json!(null), false), (json!({"include_usage": true}), true)] {
        let body = hello(json!({"stream": true, "stream_options": options, "n": 2}));
        let reply = fixture.post(CHAT, &[], body).await;
        assert_eq!(reply.headers["content-type"], "text/event-stream");
        let mut events = reply.events();
        assert_eq!(events.pop(), Some(json!("[DONE]")));
        if extra {
            let last = events.pop().unwrap();
            assert_eq!(last["choices"], json!([]));
            assert_eq!(last["usage"]["completion_tokens"], 18);
        }
        assert_eq!(events.len(), 2 * (1 + 9 + 1));
        for event in &events {
            assert_eq!(event.get("usage"), extra.then_some(&Value::Null), "{event}");
        }
        let of_second = events.iter().map(|event| &event["choices"][0]);
        let text: String = of_second
            .filter(|choice| choice["index"] == 1)
            .filter_map(|choice| choice["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, "Hello from the stand-in model. You said: Say hello");
    }
}

#[tokio::test]
async fn messages_plain_and_streamed_say_the_same_usage() {
    let fixture = Fixture::new().await;
    let knobs = [("x-standin-cached-tokens", "2")];
    let body = hello(json!({"max_tokens": 5, "system": "Be brief"}));
    let plain = fixture.post(MESSAGES, &knobs, body).await.json();
    assert_eq!(plain["usage"]["input_tokens"], 8);
    assert_eq!(plain["usage"]["cache_read_input_tokens"], 2);
    assert_eq!(plain["usage"]["output_tokens"], 5);
    assert_eq!(plain["stop_reason"], "max_tokens");

    let body = hello(json!({"max_tokens": 5, "system": "Be brief", "stream": true}));
    let events = fixture.post(MESSAGES, &knobs, body).await.events();
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let delta = "content_block_delta";
    let expected = [
        ["message_start", "content_block_start", "ping"].as_slice(),
        &[delta; 5],
        &["content_block_stop", "message_delta", "message_stop"],
    ];
    assert_eq!(kinds, expected.concat());
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], 8);
    assert_eq!(events[0]["message"]["usage"]["output_tokens"], 1);
    assert_eq!(events[9]["usage"]["output_tokens"], 5);

    let body = hello(json!({"system": [{"type": "text", "text": "Be brief"}]}));
    let counted = fixture
        .post("/v1/messages/count_tokens", &[], body)
        .await
        .json();
    assert_eq!(counted, json!({"input_tokens": 10}));
}

#[tokio::test]
async fn embeddings_count_their_words() {
    let fixture = Fixture::new().await;
    for (input, tokens, vectors) in [
        (json!("a b c"), 3, 1),
        (json!(["a b", "c"]), 3, 2),
        (json!([1, 2, 3, 4]), 4, 1),
        (json!([[1], [2, 3]]), 3, 2),
    ] {
        let body = json!({"model": "demo-embedding", "input": input, "dimensions": 4});
        let answer = fixture.post("/v1/embeddings", &[], body).await.json();
        assert_eq!(
            answer["usage"],
            json!({"prompt_tokens": tokens, "total_tokens": tokens})
        );
        let data = answer["data"].as_array().unwrap();
        assert_eq!(data.len(), vectors, "{input}");
        assert_eq!(data[0]["embedding"].as_array().unwrap().len(), 4);
    }
    let body = json!({"model": "m", "input": "one", "encoding_format": "base64", "dimensions": 2});
    let answer = fixture.post("/v1/embeddings", &[], body).await.json();
    // 0.0 and 1.0, little-endian.
    assert_eq!(answer["data"][0]["embedding"], "AAAAAAAAgD8=");
    let models = fixture
        .send("GET", "/v1/models", &[], json!({}))
        .await
        .json();
    assert_eq!(models["data"][0]["id"], "demo-model");
}

#[tokio::test]
async fn knobs_turn_what_they_name() {
    let fixture = Fixture::new().await;
    let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});

    let failed = fixture
        .post(CHAT, &[("x-standin-status", "503")], hello(json!({})))
        .await;
    assert_eq!(failed.status, 503);
    assert_eq!(failed.json()["error"]["type"], "server_error");
    let failed = fixture
        .post(MESSAGES, &[("x-standin-status", "529")], hello(json!({})))
        .await;
    assert_eq!(failed.json()["error"]["type"], "overloaded_error");

    for (say, plain) in [("none", None), ("null", Some(&Value::Null))] {
        let knobs = [("x-standin-usage", say)];
        let answer = fixture.post(CHAT, &knobs, hello(json!({}))).await.json();
        assert_eq!(answer.get("usage"), plain, "{say}");
        let events = fixture
            .post(CHAT, &knobs, hello(streamed.clone()))
            .await
            .events();
        assert!(
            events
                .iter()
                .all(|event| event.get("usage").is_none_or(Value::is_null)),
            "{say}"
        );
        let body = hello(json!({"max_tokens": 5, "stream": true}));
        let events = fixture.post(MESSAGES, &knobs, body).await.events();
        assert_eq!(events[0]["message"].get("usage"), plain, "{say}");
    }

    let knobs = [("x-standin-output-tokens", "1000")];
    let long = fixture
        .post(CHAT, &knobs, hello(streamed.clone()))
        .await
        .events();
    assert_eq!(long[long.len() - 2]["usage"]["completion_tokens"], 1000);

    let knobs = [("x-standin-cut-after", "3")];
    let cut = fixture.post(CHAT, &knobs, hello(streamed)).await;
    assert_eq!((cut.events().len(), cut.whole), (3, false));
    let cut = fixture.post(CHAT, &knobs, hello(json!({}))).await;
    assert!(!cut.whole && cut.body.starts_with('{') && !cut.body.ends_with('}'));
}

#[tokio::test]
async fn what_cannot_be_answered_is_an_error_in_the_words_of_its_api() {
    let fixture = Fixture::new().await;
    for (path, knobs, body, status) in [
        (CHAT, [].as_slice(), json!({"model": "m"}), 400),
        (CHAT, &[], hello(json!({"n": 0})), 400),
        (CHAT, &[("x-standin-usage", "some")], hello(json!({})), 400),
        (
            CHAT,
            &[("x-standin-delay-ms", "60001")],
            hello(json!({})),
            400,
        ),
        (CHAT, &[("x-standin-status", "99")], hello(json!({})), 400),
        (
            "/v1/embeddings",
            &[],
            json!({"model": "m", "input": []}),
            400,
        ),
        ("/v1/nothing", &[], json!({}), 404),
        (MESSAGES, &[], hello(json!({})), 400),
        (MESSAGES, &[], hello(json!({"max_tokens": 0})), 400),
    ] {
        let reply = fixture.post(path, knobs, body).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.body);
        assert!(reply.json()["error"]["message"].is_string());
        let anthropic = path == MESSAGES;
        assert_eq!(reply.json().get("type").is_some(), anthropic, "{path}");
        let id = if anthropic {
            "request-id"
        } else {
            "x-request-id"
        };
        assert!(reply.headers.contains_key(id), "{path}");
    }
}

#[tokio::test]
async fn pauses_are_kept_and_shutdown_ends_it() {
    let fixture = Fixture::new().await;
    let start = crate::clock::Clock::system();
    let before = start.now().mono;
    let knobs = [
        ("x-standin-delay-ms", "30"),
        ("x-standin-token-delay-ms", "5"),
    ];
    let reply = fixture
        .post(CHAT, &knobs, hello(json!({"stream": true})))
        .await;
    let waited = start.now().mono.since(before);
    assert!(
        reply.whole && waited >= Duration::from_millis(30 + 9 * 5),
        "{waited:?}"
    );
    fixture.stop.send(true).unwrap();
    let ended = tokio::time::timeout(DRAIN_MAX * 2, fixture.running.join).await;
    ended.unwrap().unwrap();
}
