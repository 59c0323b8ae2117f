//! Anthropic's shapes: messages (JSON and events), the count of tokens, errors.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Event, put_usage};
use super::knobs::Knobs;
use super::words::{self, Content, Message, Saying};
use super::{Fault, parse};

#[derive(Deserialize)]
struct MessagesRequest {
    model: String,
    messages: Vec<Message>,
    max_tokens: u64,
    #[serde(default)]
    system: Option<Content>,
    #[serde(default)]
    stream: Option<bool>,
}

#[derive(Deserialize)]
struct CountRequest {
    messages: Vec<Message>,
    #[serde(default)]
    system: Option<Content>,
}

fn input_tokens(system: Option<&Content>, messages: &[Message]) -> u64 {
    let system = system.map_or(0, Content::tokens);
    words::input_tokens(messages).saturating_add(system)
}

pub(super) fn messages(body: &[u8], knobs: &Knobs, id: u64) -> Result<Answer, Fault> {
    let request: MessagesRequest = parse(body)?;
    if request.max_tokens == 0 {
        return Err(Fault::bad("max_tokens is 0; it is 1 or more"));
    }
    let saying = Saying::new(&request.messages, knobs, Some(request.max_tokens));
    let input = input_tokens(request.system.as_ref(), &request.messages);
    let streamed = request.stream == Some(true);
    let head = json!({
        "id": format!("msg_standin_{id}"), "type": "message", "role": "assistant", "model": request.model,
        "content": [], "stop_reason": null, "stop_sequence": null,
    });
    if streamed {
        return Ok(Answer::events(events(head, saying, input, knobs), knobs));
    }
    let mut answer = head;
    if let Some(fields) = answer.as_object_mut() {
        let content = json!([{"type": "text", "text": saying.text(), "citations": null}]);
        fields.insert("content".into(), content);
        fields.insert("stop_reason".into(), stop_reason(&saying).into());
    }
    put_usage(&mut answer, usage(input, saying.count(), knobs), knobs.say);
    Ok(Answer::json(StatusCode::OK, &answer, Some(knobs)))
}

const fn stop_reason(saying: &Saying) -> &'static str {
    if saying.cut { "max_tokens" } else { "end_turn" }
}

/// The cached tokens are not part of the input's, as Anthropic counts them.
fn usage(input: u64, output: u64, knobs: &Knobs) -> Value {
    let cached = knobs.cached_tokens.unwrap_or(0).min(input);
    json!({
        "input_tokens": input.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "service_tier": "standard",
    })
}

/// `message_start` says the input and one token of output; `message_delta` says the output in all.
fn events(
    mut message: Value,
    saying: Saying,
    input: u64,
    knobs: &Knobs,
) -> impl Iterator<Item = Event> + Send + Sync + 'static {
    put_usage(&mut message, usage(input, 1, knobs), knobs.say);
    let start = json!({"type": "message_start", "message": message});
    let block = json!({"type": "text", "text": "", "citations": null});
    let before = [
        event("message_start", start),
        event(
            "content_block_start",
            json!({"type": "content_block_start", "index": 0, "content_block": block}),
        ),
        event("ping", json!({"type": "ping"})),
    ];
    let delta = json!({"stop_reason": stop_reason(&saying), "stop_sequence": null});
    let mut end = json!({"type": "message_delta", "delta": delta});
    put_usage(
        &mut end,
        json!({"output_tokens": saying.count()}),
        knobs.say,
    );
    let after = [
        event(
            "content_block_stop",
            json!({"type": "content_block_stop", "index": 0}),
        ),
        event("message_delta", end),
        event("message_stop", json!({"type": "message_stop"})),
    ];
    let tokens = saying.tokens.into_iter().map(|token| {
        let delta = json!({"type": "text_delta", "text": token});
        let data = json!({"type": "content_block_delta", "index": 0, "delta": delta});
        Event {
            token: true,
            ..event("content_block_delta", data)
        }
    });
    before.into_iter().chain(tokens).chain(after)
}

fn event(name: &'static str, data: Value) -> Event {
    Event {
        name: Some(name),
        data: data.to_string(),
        token: false,
    }
}

pub(super) fn count_tokens(body: &[u8], knobs: &Knobs) -> Result<Answer, Fault> {
    let request: CountRequest = parse(body)?;
    let tokens = input_tokens(request.system.as_ref(), &request.messages);
    let answer = json!({"input_tokens": tokens});
    Ok(Answer::json(StatusCode::OK, &answer, Some(knobs)))
}

pub(super) fn error(fault: &Fault, id: u64) -> Answer {
    let kind = match fault.status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let error = json!({"type": kind, "message": fault.message});
    let request_id = format!("req_standin_{id}");
    let answer = json!({"type": "error", "error": error, "request_id": request_id});
    Answer::json(fault.status, &answer, None)
}
