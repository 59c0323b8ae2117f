//! OpenAI's shapes: chat completions (JSON and events), embeddings, the list of models, errors.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Event, put_usage};
use super::knobs::{Knobs, Say};
use super::words::{self, Message, Saying};
use super::{Fault, parse};

/// A moment in 2023. Answers are the same whenever they are given.
const CREATED: u64 = 1_700_000_000;

/// As many as the API allows.
const CHOICES_MAX: u64 = 128;

#[derive(Deserialize)]
struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    n: Option<u64>,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

pub(super) fn chat(body: &[u8], knobs: &Knobs, id: u64) -> Result<Answer, Fault> {
    let request: ChatRequest = parse(body)?;
    let choices = request.n.unwrap_or(1);
    if choices == 0 || choices > CHOICES_MAX {
        return Err(Fault::bad(format!(
            "n is {choices}; it is 1 to {CHOICES_MAX}"
        )));
    }
    let max = request.max_completion_tokens.or(request.max_tokens);
    let saying = Saying::new(&request.messages, knobs, max);
    let input = words::input_tokens(&request.messages);
    let usage = usage(input, saying.count().saturating_mul(choices), knobs);
    let id = format!("chatcmpl-standin-{id}");
    if request.stream == Some(true) {
        let said = request.stream_options.unwrap_or_default().include_usage;
        let head = ChunkHead {
            id,
            model: request.model,
            says_usage: said && knobs.say != Say::Nothing,
        };
        let usage = if knobs.say == Say::Null {
            Value::Null
        } else {
            usage
        };
        return Ok(Answer::events(chunks(head, saying, choices, usage), knobs));
    }
    let text = saying.text();
    let choices: Vec<Value> = (0..choices)
        .map(|index| {
            let message = json!({"role": "assistant", "content": text, "refusal": null});
            let finish_reason = finish_reason(&saying);
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish_reason})
        })
        .collect();
    let mut answer = json!({
        "id": id, "object": "chat.completion", "created": CREATED, "model": request.model,
        "choices": choices, "service_tier": "default", "system_fingerprint": null,
    });
    put_usage(&mut answer, usage, knobs.say);
    Ok(Answer::json(StatusCode::OK, &answer, Some(knobs)))
}

const fn finish_reason(saying: &Saying) -> &'static str {
    if saying.cut { "length" } else { "stop" }
}

/// The cached tokens are part of the prompt's, as OpenAI counts them.
fn usage(input: u64, output: u64, knobs: &Knobs) -> Value {
    let cached = knobs.cached_tokens.unwrap_or(0).min(input);
    json!({
        "prompt_tokens": input,
        "completion_tokens": output,
        "total_tokens": input.saturating_add(output),
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

struct ChunkHead {
    id: String,
    model: String,
    /// The client asked for the usage: it comes in a chunk of its own, and every other says `null`.
    says_usage: bool,
}

impl ChunkHead {
    fn chunk(&self, choices: Value, usage: Value) -> String {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": CREATED, "model": self.model,
            "service_tier": "default", "system_fingerprint": null, "choices": choices,
        });
        if self.says_usage {
            put_usage(&mut chunk, usage, Say::Usage);
        }
        chunk.to_string()
    }

    fn delta(&self, index: u64, delta: Value, finish_reason: Option<&str>) -> String {
        let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        self.chunk(json!([choice]), Value::Null)
    }
}

/// A role for each choice, their tokens in turn, their ends, the usage if it was asked for, and `[DONE]`.
fn chunks(
    head: ChunkHead,
    saying: Saying,
    choices: u64,
    usage: Value,
) -> impl Iterator<Item = Event> + Send + Sync + 'static {
    let finish = finish_reason(&saying);
    let head = Arc::new(head);
    let of_each = move |head: &Arc<ChunkHead>, delta: Value, finish: Option<&'static str>| {
        let head = Arc::clone(head);
        (0..choices).map(move |index| head.delta(index, delta.clone(), finish))
    };
    let role = json!({"role": "assistant", "content": "", "refusal": null});
    let starts = of_each(&head, role, None).map(|data| event(data, false));
    let ends = of_each(&head, json!({}), Some(finish)).map(|data| event(data, false));
    let usage = head.says_usage.then(|| head.chunk(json!([]), usage));
    let last = usage.into_iter().chain(["[DONE]".to_owned()]);
    let tokens = saying
        .tokens
        .into_iter()
        .flat_map(move |token| of_each(&head, json!({"content": token}), None))
        .map(|data| event(data, true));
    starts
        .chain(tokens)
        .chain(ends)
        .chain(last.map(|data| event(data, false)))
}

const fn event(data: String, token: bool) -> Event {
    Event {
        name: None,
        data,
        token,
    }
}

#[derive(Deserialize)]
struct EmbeddingRequest {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: Option<String>,
    #[serde(default)]
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u64>),
    TokenLists(Vec<Vec<u64>>),
}

/// As few as show that they are there.
const DIMENSIONS_DEFAULT: usize = 8;
/// As many as the largest models have.
const DIMENSIONS_MAX: usize = 4_096;
/// As many as the API allows.
const INPUTS_MAX: usize = 2_048;

pub(super) fn embeddings(body: &[u8], knobs: &Knobs) -> Result<Answer, Fault> {
    let request: EmbeddingRequest = parse(body)?;
    let words_of = |text: &String| words::count(text.split_whitespace());
    let length = |tokens: &Vec<u64>| u64::try_from(tokens.len()).unwrap_or(u64::MAX);
    let counts: Vec<u64> = match &request.input {
        Input::Text(text) => vec![words_of(text)],
        Input::Texts(texts) => texts.iter().map(words_of).collect(),
        Input::Tokens(tokens) => vec![length(tokens)],
        Input::TokenLists(lists) => lists.iter().map(length).collect(),
    };
    if counts.is_empty() || counts.len() > INPUTS_MAX {
        let what = format!("input has {} texts; it has 1 to {INPUTS_MAX}", counts.len());
        return Err(Fault::bad(what));
    }
    let dimensions = request.dimensions.unwrap_or(DIMENSIONS_DEFAULT);
    if dimensions == 0 || dimensions > DIMENSIONS_MAX {
        let what = format!("dimensions is {dimensions}; it is 1 to {DIMENSIONS_MAX}");
        return Err(Fault::bad(what));
    }
    let as_base64 = request.encoding_format.as_deref() == Some("base64");
    let data: Vec<Value> = counts
        .iter()
        .enumerate()
        .map(|(index, count)| {
            let embedding = embedding(*count, dimensions, as_base64);
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens = counts.into_iter().fold(0, u64::saturating_add);
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let mut answer = json!({"object": "list", "data": data, "model": request.model});
    put_usage(&mut answer, usage, knobs.say);
    Ok(Answer::json(StatusCode::OK, &answer, Some(knobs)))
}

/// A unit vector along the axis that the count of words chooses. The SDKs ask for base64 of little-endian floats.
fn embedding(words: u64, dimensions: usize, as_base64: bool) -> Value {
    let axis = usize::try_from(words)
        .unwrap_or_default()
        .checked_rem(dimensions);
    let values = (0..dimensions).map(|at| f32::from(u8::from(Some(at) == axis)));
    if as_base64 {
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        return Value::String(BASE64_STANDARD.encode(bytes));
    }
    values.collect()
}

pub(super) fn models(knobs: &Knobs) -> Answer {
    let model =
        json!({"id": "demo-model", "object": "model", "created": CREATED, "owned_by": "tollgate"});
    let list = json!({"object": "list", "data": [model]});
    Answer::json(StatusCode::OK, &list, Some(knobs))
}

pub(super) fn error(fault: &Fault) -> Answer {
    let kind = match fault.status.as_u16() {
        401 => "authentication_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let error = json!({"message": fault.message, "type": kind, "param": null, "code": null});
    Answer::json(fault.status, &json!({"error": error}), None)
}
