//! The access log: who called, how it ended and what it cost, in one line per call.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tollgate::config::{LogFormat, LogSettings};
use tollgate::telemetry::logging;

use super::passing::{ASK, CHAT, SAID};
use crate::support::edge::Edge;
use crate::support::http::{call, post};
use crate::support::until;
use crate::support::upstream::{Reply, Upstream};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// The one line of a request; other tests of this process write theirs beside it.
    async fn line(&self, request: &str) -> Value {
        let lines = until("the call is logged", async || {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            let lines: Vec<Value> = lines
                .filter(|line: &Value| line["request_id"] == request)
                .collect();
            (!lines.is_empty()).then_some(lines)
        })
        .await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    }
}

#[tokio::test]
async fn every_call_has_one_line() {
    let written = Written::default();
    let writer = written.clone();
    let settings = LogSettings {
        format: LogFormat::Json,
        filter: "off,tollgate::access=debug".into(),
    };
    // For the whole process: the proxy's workers are threads of their own.
    let subscriber = logging::subscriber(&settings, move || writer.clone()).unwrap();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let upstream = Upstream::start().await;
    let edge = Edge::before(&upstream).await;
    let check = |line: &Value, expected: &[(&str, Value)]| {
        for (field, value) in expected {
            assert_eq!(&line[field], value, "{field}: {line}");
        }
    };

    upstream.then(Reply::json(SAID));
    let got = call(edge.address, post(CHAT, ASK)).await;
    let line = written.line(got.header("x-request-id").unwrap()).await;
    check(
        &line,
        &[
            ("target", json!("tollgate::access")),
            ("level", json!("DEBUG")),
            ("route", json!("test")),
            ("account", json!("a")),
            ("key", json!("k-a")),
            ("model", json!("tokens")),
            ("status", json!(200)),
            ("end", json!("complete")),
            ("cost", json!("0.114")),
            ("certainty", json!("exact")),
            ("bytes_in", json!(ASK.len())),
            ("bytes_out", json!(SAID.len())),
        ],
    );

    let unknown = post(CHAT, ASK).replace("sk-a", "sk-nobody");
    let got = call(edge.address, unknown).await;
    let line = written.line(got.header("x-request-id").unwrap()).await;
    check(
        &line,
        &[
            ("status", json!(got.status())),
            ("end", json!("refused")),
            ("reason", json!("KEY_UNKNOWN")),
        ],
    );
}
