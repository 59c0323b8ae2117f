//! The requests that the cases send, as they stand on the wire.

use serde_json::{Value, json};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const MESSAGES: &str = "/v1/messages";

/// What one answer to [`hello`] costs: 5 tokens in at 2.50 and 9 out at 10.00 per million.
pub(crate) const HELLO_COST: &str = "0.0001025";

/// A `POST` with a key and headers, each a whole line.
pub(crate) fn post(path: &str, secret: &str, headers: &[&str], body: &str) -> String {
    let length = body.len();
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "POST {path} HTTP/1.1\r\nhost: tollgate.test\r\nauthorization: Bearer {secret}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n{lines}\r\n{body}"
    )
}

/// A `GET` without anything.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: tollgate.test\r\n\r\n")
}

/// A chat of one short message.
pub(crate) fn chat(model: &str) -> Value {
    let message = json!({"role": "user", "content": "Say hello"});
    json!({"model": model, "messages": [message], "max_tokens": 50})
}

/// A plain chat with a model, by the key of an account.
pub(crate) fn ask(account: &str, model: &str) -> String {
    post(CHAT, &secret(account), &[], &chat(model).to_string())
}

/// A chat with `demo-model`, plain or streamed.
pub(crate) fn hello(account: &str, stream: bool, headers: &[&str]) -> String {
    let mut body = chat("demo-model");
    body["stream"] = stream.into();
    post(CHAT, &secret(account), headers, &body.to_string())
}

/// The secret that [`super::process::Process::key`] gives a key.
pub(crate) fn secret(id: &str) -> String {
    format!("sk-of-{id}")
}
