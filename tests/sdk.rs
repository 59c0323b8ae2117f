//! The official Python clients against the stand-in endpoint alone: what they parse here, a proxy in between must not
//! change. Also the way for other tests to run them: [`Sdk`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tokio::sync::watch;
use tollgate::demo::standin;

/// One of the scripts in `tests/sdk`, pointed at a server.
pub(crate) struct Sdk {
    pub(crate) at: SocketAddr,
    pub(crate) key: &'static str,
}

impl Sdk {
    /// Runs `chat.py`, `embeddings.py` or `messages.py` and returns what the SDK saw. Does not block the runtime.
    pub(crate) async fn run(&self, script: &str, options: &[&str]) -> Value {
        // The two SDKs disagree on who adds `/v1`.
        let base = if script == "messages.py" { "" } else { "/v1" };
        let mut command = Command::new(python());
        command
            .arg(manifest_dir().join("tests/sdk").join(script))
            .args(["--base-url", &format!("http://{}{base}", self.at)])
            .args(["--api-key", self.key])
            .args(options)
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .env_remove("ALL_PROXY")
            .env("NO_PROXY", "127.0.0.1")
            .stderr(Stdio::piped());
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = run.await.unwrap().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Whether the official package of Standard Webhooks takes a message, and what it reads in it. Does not block the runtime.
pub(crate) async fn verified(secret: &str, headers: &[(String, String)], body: &str) -> Value {
    let headers: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let given = json!({"secret": secret, "headers": headers, "body": body});
    let mut child = tokio::process::Command::new(python())
        .arg(manifest_dir().join("tests/sdk/webhook.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, given.to_string().as_bytes())
        .await
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the environment that `tests/run` made for the tests.
pub(crate) fn in_environment(path: &str) -> PathBuf {
    let python = python();
    let environment = python.parent().and_then(Path::parent).unwrap();
    let found = environment.join(path);
    let missing = "it is not in the tests' environment; run tests/run once";
    assert!(found.exists(), "{}: {missing}", found.display());
    found
}

/// The interpreter that `tests/run` made for the tests.
pub(crate) fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| manifest_dir().join("target"));
    let python = std::env::var_os("TOLLGATE_TEST_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| target.join("venv/bin/python"));
    let missing = "no Python with the SDKs; run tests/run once, or set TOLLGATE_TEST_PYTHON";
    assert!(python.exists(), "{}: {missing}", python.display());
    python
}

async fn check(script: &str, options: &[&str], expected: Value) {
    let (_stop, stopped) = watch::channel(false);
    let settings = standin::Settings::new((Ipv4Addr::LOCALHOST, 0).into());
    let running = standin::serve(settings, stopped).await.unwrap();
    let sdk = Sdk {
        at: running.local_addr,
        key: "sk-any",
    };
    let seen = sdk.run(script, options).await;
    for (field, value) in expected.as_object().unwrap() {
        let seen_value = seen.pointer(field).unwrap_or(&Value::Null);
        assert_eq!(seen_value, value, "{script} {options:?} {field} in {seen}");
    }
}

const ANSWER: &str = "Hello from the stand-in model. You said: Say hello";

#[tokio::test]
async fn openai_reads_a_plain_chat() {
    let expected = json!({
        "/text": ANSWER, "/finish": "stop", "/choices": 2, "/retries": 0,
        "/usage/prompt_tokens": 5, "/usage/completion_tokens": 18, "/usage/total_tokens": 23,
        "/usage/prompt_tokens_details/cached_tokens": 0,
    });
    check("chat.py", &["--n", "2"], expected).await;
}

#[tokio::test]
async fn openai_reads_a_streamed_chat() {
    let expected = json!({
        "/text": ANSWER, "/finish": "stop", "/chunks": 11, "/usage_chunks": 0, "/usage": null,
    });
    check("chat.py", &["--mode", "stream"], expected).await;
    let expected = json!({
        "/text": "Hello from", "/finish": "length", "/chunks": 5, "/usage_chunks": 1,
        "/usage/prompt_tokens": 5, "/usage/completion_tokens": 2,
    });
    let options = ["--mode", "stream", "--include-usage", "--max-tokens", "2"];
    check("chat.py", &options, expected).await;
}

#[tokio::test]
async fn openai_reads_embeddings() {
    let expected = json!({
        "/dimensions": [8], "/usage": {"prompt_tokens": 3, "total_tokens": 3},
    });
    check("embeddings.py", &["--prompt", "one two three"], expected).await;
}

#[tokio::test]
async fn openai_reads_an_error() {
    let expected = json!({
        "/ok": false, "/exception": "RateLimitError", "/status": 429, "/type": "rate_limit_error",
    });
    let options = ["--header", "x-standin-status=429", "--retries", "0"];
    check("chat.py", &options, expected).await;
}

#[tokio::test]
async fn anthropic_reads_plain_and_streamed_messages() {
    for mode in ["plain", "stream"] {
        let expected = json!({
            "/text": "Hello from the", "/finish": "max_tokens", "/usage/input_tokens": 4,
            "/usage/cache_read_input_tokens": 1, "/usage/output_tokens": 3,
        });
        let cached = "x-standin-cached-tokens=1";
        let options = ["--mode", mode, "--max-tokens", "3", "--header", cached];
        check("messages.py", &options, expected).await;
    }
}

#[tokio::test]
async fn anthropic_reads_an_error() {
    let expected = json!({
        "/ok": false, "/exception": "PermissionDeniedError", "/status": 403,
        "/body/error/type": "permission_error",
    });
    check(
        "messages.py",
        &["--header", "x-standin-status=403"],
        expected,
    )
    .await;
}
