//! Response bodies by API, with what is to be read from each and what the client is to see.

use crate::meter::{Api, Reading};
use crate::usage::{Counts, Meter};

/// A body and what is to come of it.
#[derive(Clone, Debug)]
pub(super) struct Fixture {
    pub(super) name: &'static str,
    pub(super) api: Api,
    pub(super) events: bool,
    pub(super) strip: bool,
    pub(super) body: Vec<u8>,
    pub(super) want: Reading,
    /// What the client sees, if it is not the body.
    pub(super) seen: Option<Vec<u8>>,
}

pub(super) fn fixtures() -> Vec<Fixture> {
    let mut all = chat_bodies();
    all.extend(chat_streams());
    all.extend(stripped_streams());
    all.extend(frames());
    all.extend(other_openai());
    all.extend(anthropic());
    all
}

fn json(name: &'static str, api: Api, body: &str) -> Fixture {
    let want = Reading {
        complete: true,
        ..Reading::default()
    };
    let body = body.as_bytes().to_vec();
    Fixture {
        name,
        api,
        events: false,
        strip: false,
        body,
        want,
        seen: None,
    }
}

fn events(name: &'static str, api: Api, body: &str) -> Fixture {
    Fixture {
        events: true,
        ..json(name, api, body)
    }
}

impl Fixture {
    fn usage(mut self, counts: &[(Meter, u64)]) -> Self {
        self.want.usage = Some(tokens(counts));
        self
    }

    fn text(mut self, bytes: u64) -> Self {
        self.want.text_bytes = bytes;
        self
    }

    fn cut_short(mut self) -> Self {
        self.want.complete = false;
        self
    }

    fn error(mut self) -> Self {
        self.want.error = true;
        self
    }

    /// Stripped, and every byte passed on.
    fn strip(mut self) -> Self {
        self.strip = true;
        self
    }

    /// Stripped of the only place where this stands.
    fn without(mut self, gone: &str) -> Self {
        let body = String::from_utf8(self.body.clone()).unwrap();
        assert_eq!(body.matches(gone).count(), 1, "{}", self.name);
        self.seen = Some(body.replace(gone, "").into_bytes());
        self.strip()
    }
}

fn tokens(counts: &[(Meter, u64)]) -> Counts {
    counts
        .iter()
        .fold(Counts::default(), |all, (meter, count)| {
            all.with(*meter, *count)
        })
}

use Api::{AnthropicMessages as Anthropic, OpenAiChat as Chat, OpenAiResponses as Responses};
use Meter::{CacheWrite, CachedInput, Input, Output, Reasoning};

fn chat_bodies() -> Vec<Fixture> {
    vec![
        json(
            "plain",
            Chat,
            r#"{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,
            "message":{"role":"assistant","content":"Hi, \u4f60\n好"},"finish_reason":"stop",
            "logprobs":null}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#,
        )
        .usage(&[(Input, 9), (Output, 12)])
        .text(11),
        json(
            "details are parts of the sums",
            Chat,
            r#"{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[],"usage":
            {"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":
            {"cached_tokens":64,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":40,
            "audio_tokens":2,"accepted_prediction_tokens":3,"rejected_prediction_tokens":4}}}"#,
        )
        .usage(&[(Input, 36), (CachedInput, 64), (Output, 10), (Reasoning, 40)]),
        json(
            "details before the sums, null details",
            Chat,
            r#"{"usage":{"prompt_tokens_details":null,"completion_tokens_details":{"reasoning_tokens":null},
            "completion_tokens":5,"prompt_tokens":7}}"#,
        )
        .usage(&[(Input, 7), (Output, 5)]),
        json(
            "reasoning directly under usage",
            Chat,
            r#"{"usage":{"prompt_tokens":7,"completion_tokens":5,"reasoning_tokens":3}}"#,
        )
        .usage(&[(Input, 7), (Output, 2), (Reasoning, 3)]),
        json(
            "parts larger than their sums",
            Chat,
            r#"{"usage":{"prompt_tokens":7,"completion_tokens":5,"cached_tokens":9,
            "completion_tokens_details":{"reasoning_tokens":6}}}"#,
        )
        .usage(&[(CachedInput, 9), (Reasoning, 6)]),
        json(
            "zero is a count",
            Chat,
            r#"{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":9}}"#,
        )
        .usage(&[]),
        json(
            "the largest count",
            Chat,
            r#"{"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":1}}"#,
        )
        .usage(&[(Input, u64::MAX), (Output, 1)]),
        json("usage null", Chat, r#"{"choices":[],"usage":null}"#),
        json("usage says nothing", Chat, r#"{"choices":[],"usage":{"total_tokens":9}}"#),
        json("usage is no object", Chat, r#"{"choices":[],"usage":[1]}"#),
        json(
            "a count below 0",
            Chat,
            r#"{"usage":{"prompt_tokens":-1,"completion_tokens":1}}"#,
        ),
        json(
            "a count beyond all",
            Chat,
            r#"{"usage":{"prompt_tokens":18446744073709551616,"completion_tokens":1}}"#,
        ),
        json(
            "a count as text",
            Chat,
            r#"{"usage":{"prompt_tokens":"1","completion_tokens":1}}"#,
        ),
        json(
            "usage in generated text and in other places",
            Chat,
            r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":1}",
            "usage":{"prompt_tokens":2,"completion_tokens":2}}}],
            "x":{"usage":{"prompt_tokens":3,"completion_tokens":3}}}"#,
        )
        .text(27),
        json(
            "a key with escapes",
            Chat,
            r#"{"us\u0061ge":{"prompt\u005ftokens":3,"completion_tokens":4}}"#,
        )
        .usage(&[(Input, 3), (Output, 4)]),
        json(
            "tools and reasoning",
            Chat,
            r#"{"choices":[{"message":{"content":null,"reasoning":"abc","reasoning_content":"abcd",
            "tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}},
            {"message":{"content":[{"type":"text","text":"xy"}]}}]}"#,
        )
        .text(13),
        json(
            "half a surrogate pair",
            Chat,
            r#"{"choices":[{"message":{"content":"\ud83d"}},{"message":{"content":"\ud83d\n\ud83d\ude00"}}],
            "usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
        )
        .usage(&[(Input, 1), (Output, 1)])
        .text(11),
        json(
            "an error body",
            Chat,
            r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}"#,
        )
        .error(),
        json("an error as text", Chat, r#"{"error":"no such model"}"#).error(),
        json("an error of vllm", Chat, r#"{"object":"error","message":"no","code":400}"#).error(),
        json(
            "text beside an error",
            Chat,
            r#"{"choices":[{"message":{"content":"partial"}}],"error":{"code":502}}"#,
        )
        .error(),
        json(
            "an error of null",
            Chat,
            r#"{"choices":[{"message":{"content":"all"}}],"error":null}"#,
        )
        .text(3),
        json(
            "cut within the text",
            Chat,
            r#"{"choices":[{"message":{"content":"parti"#,
        )
        .cut_short()
        .text(5),
        json(
            "cut behind the usage",
            Chat,
            r#"{"usage":{"prompt_tokens":1,"completion_tokens":2},"id":"#,
        )
        .cut_short()
        .usage(&[(Input, 1), (Output, 2)]),
        json("not JSON", Chat, "<html>usage</html>").cut_short(),
        json("empty", Chat, "").cut_short(),
    ]
}

const CHUNK: &str = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hé"},"finish_reason":null}],"usage":null}

"#;
const FINISH: &str = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}

"#;
const USAGE: &str = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":5}}}

"#;
const DONE: &str = "data: [DONE]\n\n";

fn chat_streams() -> Vec<Fixture> {
    let all = [(Input, 4), (CachedInput, 5), (Output, 4)];
    vec![
        events("stream", Chat, &[CHUNK, FINISH, USAGE, DONE].concat()).usage(&all).text(3),
        events("stream without usage", Chat, &[CHUNK, CHUNK, FINISH, DONE].concat()).text(6),
        events("stream cut off", Chat, &[CHUNK, FINISH].concat()).cut_short().text(3),
        events("stream cut in a chunk", Chat, CHUNK.split_once("é").unwrap().0).cut_short().text(1),
        events("two finish chunks", Chat, &[CHUNK, FINISH, FINISH, USAGE, DONE].concat())
            .usage(&all)
            .text(3),
        events(
            "usage on the finish chunk",
            Chat,
            &[
                r#"data: {"choices":[{"delta":{"content":"","reasoning_content":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3}}"#,
                "\n\n",
                DONE,
            ]
            .concat(),
        )
        .strip()
        .usage(&[(Input, 2), (Output, 3)]),
        events(
            "running totals: the latest",
            Chat,
            &[
                r#"data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":2,"completion_tokens":1,"reasoning_tokens":1}}"#,
                "\n\n",
                r#"data: {"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":2,"completion_tokens":2}}"#,
                "\n\n",
                r#"data: {"choices":[{"delta":{}}],"usage":null}"#,
                "\n\n",
                DONE,
            ]
            .concat(),
        )
        .strip()
        .usage(&[(Input, 2), (Output, 2)])
        .text(2),
        events(
            "an error in the stream",
            Chat,
            &[CHUNK, r#"data: {"error":{"message":"overloaded","code":503}}"#, "\n\n"].concat(),
        )
        .cut_short()
        .error()
        .text(3),
        events("JSON that is none", Chat, &["data: {\"choices\":[}\n\n", CHUNK, DONE].concat())
            .text(3),
    ]
}

fn stripped_streams() -> Vec<Fixture> {
    let all = [(Input, 4), (CachedInput, 5), (Output, 4)];
    let whole = [CHUNK, FINISH, USAGE, DONE].concat();
    let long = format!(
        "data: {{\"choices\":[],\"x\":\"{}\",\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1}}}}\n\n",
        "x".repeat(70_000)
    );
    let crlf = whole.replace('\n', "\r\n");
    let crlf_usage = USAGE.replace('\n', "\r\n");
    let cr = whole.replace('\n', "\r");
    let cr_usage = USAGE.replace('\n', "\r");
    let unclosed = USAGE.trim_end();
    vec![
        events("stripped", Chat, &whole).usage(&all).text(3).without(USAGE),
        events("stripped, CRLF", Chat, &crlf).usage(&all).text(3).without(&crlf_usage),
        events("stripped, CR", Chat, &cr).usage(&all).text(3).without(&cr_usage),
        events(
            "stripped with its comment and name",
            Api::OpenAiCompletions,
            &["data: {\"choices\":[{\"text\":\"abc\"}]}\n\n: ping\n\n", ": on\nid: 7\n", USAGE, DONE]
                .concat(),
        )
        .usage(&all)
        .text(3)
        .without(&[": on\nid: 7\n", USAGE].concat()),
        events("stripped first", Chat, &[USAGE, CHUNK, DONE].concat())
            .usage(&all)
            .text(3)
            .without(USAGE),
        events("stripped last, not closed", Chat, &[CHUNK, unclosed].concat())
            .usage(&all)
            .text(3)
            .cut_short()
            .without(unclosed),
        events(
            "stripped though unreadable",
            Chat,
            &[CHUNK, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":{}}}\n\n", DONE].concat(),
        )
        .text(3)
        .without("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":{}}}\n\n"),
        events(
            "no choices and no usage is not stripped",
            Chat,
            &["data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n", CHUNK, DONE]
                .concat(),
        )
        .strip()
        .text(3),
        events("too long to strip", Chat, &[CHUNK, &long, DONE].concat())
            .strip()
            .usage(&[(Input, 1), (Output, 1)])
            .text(3),
        events("nothing to strip, cut off", Chat, &[CHUNK, "data: {\"choices\":[{\"de"].concat())
            .strip()
            .text(3)
            .cut_short(),
        events("choices behind the usage", Chat,
            "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1},\"choices\":[]}\n\ndata: [DONE]\n\n")
            .usage(&[(Input, 1), (Output, 1)])
            .without("data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1},\"choices\":[]}\n\n"),
        Fixture {
            strip: true,
            ..json(
                "a body is not stripped",
                Chat,
                r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            )
            .usage(&[(Input, 1), (Output, 2)])
        },
        Fixture {
            strip: true,
            ..events("opaque", Api::Opaque, &whole).cut_short()
        },
    ]
}

/// What event streams may look like.
fn frames() -> Vec<Fixture> {
    let usage = [(Input, 1), (Output, 2)];
    let data = r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let stream = |name, body: String| events(name, Chat, &body).strip().usage(&usage).text(1);
    vec![
        stream("no space", format!("data:{data}\n\ndata:[DONE]\n\n")),
        stream(
            "byte order mark",
            format!("\u{feff}data: {data}\n\ndata: [DONE]\n\n"),
        ),
        stream(
            "comments",
            format!(": a\n:b\ndata: {data}\n:c: data: {{\n\n:\n\ndata: [DONE]\n\n"),
        ),
        stream(
            "empty data",
            format!("data:\n\ndata: {data}\n\ndata\n\ndata: \n\ndata: [DONE]\n\n"),
        ),
        stream(
            "many lines",
            format!(
                "data: {}\ndata:{}\n\ndata: [DONE]\n\n",
                &data[..20],
                &data[20..]
            )
            .replace("\"delta\"", "\ndata: \"delta\""),
        ),
        stream(
            "other fields",
            format!(
                "event: x\nid: 1\nretry: 9\ndatas: [DONE]\ndat: x\ndata: {data}\n\ndata: [DONE]\n\n"
            ),
        ),
        stream(
            "blank lines",
            format!("\n\r\n\r\rdata: {data}\r\r\n\n\r\ndata: [DONE]\n\n"),
        ),
        stream("not closed", format!("data: {data}\n\ndata: [DONE]")),
        Fixture {
            want: Reading {
                complete: false,
                ..stream("", String::new()).want
            },
            ..stream(
                "not done",
                format!("data: {data}\n\ndata: x[DONE]\n\ndata: [DON\ndata: E]\n\n"),
            )
        },
        Fixture {
            want: Reading {
                complete: true,
                error: true,
                ..Reading::default()
            },
            ..stream(
                "named error",
                "event: error\ndata: no\n\ndata: [DONE]\n\n".to_owned(),
            )
        },
        Fixture {
            want: Reading {
                complete: true,
                ..Reading::default()
            },
            ..stream(
                "a mark that is none",
                format!("\u{fec0}data: {data}\n\ndata: [DONE]\n\n"),
            )
        },
    ]
}

fn other_openai() -> Vec<Fixture> {
    let completed = r#"event: response.completed
data: {"type":"response.completed","sequence_number":9,"response":{"id":"r","object":"response","status":"completed","error":null,"output":[{"type":"message","content":[{"type":"output_text","text":"Hello"}]}],"usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":4},"output_tokens":8,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":18}}}

"#;
    let delta = r#"event: response.created
data: {"type":"response.created","response":{"id":"r","error":null,"usage":null}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"i","delta":"Hello"}

event: response.output_text.done
data: {"type":"response.output_text.done","item_id":"i","text":"Hello"}

"#;
    let all = [(Input, 6), (CachedInput, 4), (Output, 3), (Reasoning, 5)];
    let of = |kind: &str| completed.replace("response.completed", kind);
    vec![
        json(
            "embeddings",
            Api::OpenAiEmbeddings,
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2e-3,3E+4,0]}],
            "model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
        )
        .usage(&[(Input, 8)]),
        json(
            "completions",
            Api::OpenAiCompletions,
            r#"{"object":"text_completion","choices":[{"text":"abc","index":0}],
            "usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#,
        )
        .usage(&[(Input, 5), (Output, 7)])
        .text(3),
        json(
            "responses",
            Responses,
            r#"{"id":"r","object":"response","status":"completed","error":null,"output":[
            {"type":"reasoning","summary":[{"type":"summary_text","text":"why"}]},
            {"type":"function_call","name":"f","arguments":"{}"},
            {"type":"message","content":[{"type":"output_text","text":"Hello"}]}],
            "text":{"format":{"type":"text"}},"usage":{"input_tokens":10,"output_tokens":8,
            "input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":5}}}"#,
        )
        .usage(&all)
        .text(10),
        events("responses stream", Responses, &[delta, completed].concat()).usage(&all).text(5),
        events("responses incomplete", Responses, &[delta, &of("response.incomplete")].concat())
            .usage(&all)
            .text(5),
        events("responses failed", Responses, &[delta, &of("response.failed")].concat())
            .usage(&all)
            .text(5)
            .error(),
        events("responses cut off", Responses, delta).text(5).cut_short(),
        events(
            "responses error",
            Responses,
            "data: {\"type\":\"error\",\"code\":\"x\",\"message\":\"no\"}\n\n",
        )
        .cut_short()
        .error(),
    ]
}

fn anthropic() -> Vec<Fixture> {
    let start = r#"event: message_start
data: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"c","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":7,"cache_read_input_tokens":11,"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":4},"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type":"ping"}

"#;
    let deltas = r#"event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"thinking_delta","thinking":"hm"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"signature_delta","signature":"EqQBCgIYAh"}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

"#;
    let delta = |usage: &str| {
        format!(
            "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\",\"stop_sequence\":null}},\"usage\":{usage}}}\n\n"
        )
    };
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let stream = |name, usage: &str| {
        events(
            name,
            Anthropic,
            &[start, deltas, &delta(usage), stop].concat(),
        )
    };
    let input = [(Input, 25), (CachedInput, 11), (CacheWrite, 7)];
    let with = |output| [&input[..], &[(Output, output)]].concat();
    vec![
        stream("messages stream", r#"{"output_tokens":15}"#).usage(&with(15)).text(14),
        stream("a delta of zero is a total", r#"{"output_tokens":0,"cache_read_input_tokens":null}"#)
            .usage(&with(0))
            .text(14),
        stream(
            "a delta overwrites",
            r#"{"input_tokens":30,"cache_creation_input_tokens":0,"cache_read_input_tokens":12,"output_tokens":2}"#,
        )
        .usage(&[(Input, 30), (CachedInput, 12), (Output, 2)])
        .text(14),
        events(
            "two deltas",
            Anthropic,
            &[start, &delta(r#"{"output_tokens":5}"#), &delta(r#"{"output_tokens":9}"#), stop].concat(),
        )
        .usage(&with(9)),
        events(
            "a total that is none is not made up for",
            Anthropic,
            &[start, &delta(r#"{"output_tokens":"5"}"#), &delta(r#"{"output_tokens":9}"#), stop].concat(),
        ),
        events("messages cut off", Anthropic, &[start, deltas].concat())
            .usage(&with(1))
            .text(14)
            .cut_short(),
        events(
            "messages error",
            Anthropic,
            &[
                start,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
            ]
            .concat(),
        )
        .usage(&with(1))
        .error()
        .cut_short(),
        json(
            "messages",
            Anthropic,
            r#"{"id":"m","type":"message","role":"assistant","model":"c","content":[
            {"type":"thinking","thinking":"hm","signature":"x"},{"type":"text","text":"Hello"},
            {"type":"tool_use","id":"t","name":"f","input":{"city":"Bern","days":[1,"two"]}}],
            "stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":25,"output_tokens":9,
            "cache_read_input_tokens":11,"cache_creation":{"ephemeral_5m_input_tokens":3,
            "ephemeral_1h_input_tokens":4},"service_tier":"standard"}}"#,
        )
        .usage(&with(9))
        .text(15),
        json(
            "messages error body",
            Anthropic,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"text"},"request_id":"r"}"#,
        )
        .error(),
    ]
}
