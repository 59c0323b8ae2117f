//! Load: an open loop of chat requests at a fixed rate, by this program in a process of its own.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::LOAD_CORE;
use crate::parts::pinned;

/// 51 bytes, as the providers' own keys are.
pub(crate) const KEY: &str = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyzABCDEF";

/// The model, priced by the call.
pub(crate) const MODEL: &str = "bench";

/// More than are ever in flight.
const CONNECTIONS: usize = 128;

const BODY: &str = r#"{"model":"bench","messages":[{"role":"system","content":"You are a helpful assistant that answers in one sentence."},{"role":"user","content":"What does the quick brown fox do, and how often does it do so?"}],"max_tokens":64,"temperature":0.2}"#;

/// What a load of some seconds came to.
pub(crate) struct Done {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}

/// Blocks for that long.
pub(crate) fn run(at: SocketAddr, rate: u64, seconds: u64) -> Done {
    let mut command: Command = pinned(LOAD_CORE, std::env::current_exe().unwrap());
    command.args(["--role", "load", "--to", &at.to_string()]);
    command.args([
        "--rate",
        &rate.to_string(),
        "--seconds",
        &seconds.to_string(),
    ]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let words: Vec<&str> = said.split_whitespace().collect();
    Done {
        requests: words[0].parse().unwrap(),
        failed: words[1].parse().unwrap(),
        p50_micros: words[2].parse().unwrap(),
        p99_micros: words[3].parse().unwrap(),
    }
}

/// The load itself. Says its requests, failures, and the two latencies on standard output.
pub(crate) fn run_here(at: SocketAddr, rate: u64, seconds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let (idle, mut free) = mpsc::unbounded_channel();
        for _ in 0..CONNECTIONS {
            idle.send(connect(at).await).ok().unwrap();
        }
        let (ended, mut ends) = mpsc::unbounded_channel();
        let start = Instant::now();
        let total = rate * seconds;
        for number in 0..total {
            let due = start + Duration::from_nanos(number * 1_000_000_000 / rate);
            tokio::time::sleep_until(due.into()).await;
            let mut sender = free.recv().await.unwrap();
            let (idle, ended) = (idle.clone(), ended.clone());
            tokio::spawn(async move {
                let good = send(&mut sender).await;
                let took = due.elapsed();
                ended.send((good, took)).unwrap();
                idle.send(sender).ok();
            });
        }
        let (mut failed, mut times) = (0_u64, Vec::new());
        for _ in 0..total {
            let (good, took) = ends.recv().await.unwrap();
            failed += u64::from(!good);
            times.push(took);
        }
        times.sort();
        let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
        println!("{total} {failed} {} {}", at(50), at(99));
    });
}

async fn connect(at: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn send(sender: &mut SendRequest<Full<Bytes>>) -> bool {
    let request = Request::post("/v1/chat/completions")
        .header("host", "bench")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {KEY}"))
        .body(Full::new(Bytes::from_static(BODY.as_bytes())))
        .unwrap();
    let Ok(response) = sender.send_request(request).await else {
        return false;
    };
    let good = response.status() == 200;
    response.into_body().collect().await.is_ok() && good
}
