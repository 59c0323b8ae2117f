//! Load: a closed loop of connections that each send the same chat request again as soon as it is answered. By `wrk` where it
//! is installed, else by this program itself, in a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::server::pinned;
use crate::{BY_TOKENS, CONNECTIONS, FLAT, LOAD_CORE, upstream};

/// 51 bytes, as the providers' own keys are.
pub(crate) const KEY: &str = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyzABCDEF";

const PATH: &str = "/v1/chat/completions";

/// What a load of some seconds came to.
pub(crate) struct Done {
    pub(crate) requests: u64,
    /// What is said of calls that failed; none may.
    pub(crate) complaint: Option<String>,
    pub(crate) time: Duration,
}

/// What sends.
pub(crate) enum Load {
    /// With the folder of its scripts.
    Wrk(PathBuf),
    Own,
}

fn body(model: &str) -> String {
    format!(
        r#"{{"model":"{model}","messages":[{{"role":"system","content":"You are a helpful assistant that answers in one sentence."}},{{"role":"user","content":"What does the quick brown fox do, and how often does it do so?"}}],"max_tokens":64,"temperature":0.2}}"#
    )
}

impl Load {
    pub(crate) fn new(dir: &Path) -> Self {
        if Command::new("wrk").arg("--version").output().is_err() {
            println!("without wrk, which is the better load: apt-get install wrk");
            return Self::Own;
        }
        for model in [FLAT, BY_TOKENS] {
            let body = body(model);
            let script = format!(
                "wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['content-type'] = 'application/json'\n\
                 wrk.headers['authorization'] = 'Bearer {KEY}'\n"
            );
            std::fs::write(dir.join(format!("{model}.lua")), script).unwrap();
        }
        Self::Wrk(dir.into())
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Wrk(_) => "wrk",
            Self::Own => "this program",
        }
    }

    /// One call, which must bring the upstream's answer unchanged.
    pub(crate) fn check(&self, at: SocketAddr, model: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let answer = runtime.unwrap().block_on(async {
            let mut sender = connect(at).await;
            send(&mut sender, model).await
        });
        let (status, body) = answer.unwrap();
        let said = String::from_utf8_lossy(&body);
        assert_eq!((status, &*said), (200, upstream::ANSWER), "{at} as {model}");
    }

    /// Blocks for that long.
    pub(crate) fn run(&self, at: SocketAddr, model: &str, seconds: u64) -> Done {
        let mut command = match self {
            Self::Wrk(dir) => {
                let mut command = pinned(LOAD_CORE, "wrk");
                let connections = CONNECTIONS.to_string();
                command.args([
                    "-t1",
                    "-c",
                    &connections,
                    "-d",
                    &format!("{seconds}s"),
                    "-s",
                ]);
                command.arg(dir.join(format!("{model}.lua")));
                command.arg(format!("http://{at}{PATH}"));
                command
            }
            Self::Own => {
                let mut command = pinned(LOAD_CORE, std::env::current_exe().unwrap());
                command.args(["--role", "load", "--to", &at.to_string()]);
                command.args(["--model", model, "--seconds", &seconds.to_string()]);
                command
            }
        };
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        match self {
            Self::Wrk(_) => read_wrk(&said),
            Self::Own => read_own(&said),
        }
    }
}

/// Reads `  123456 requests in 3.00s, 98.70MB read`, and what `wrk` says of failures below it.
fn read_wrk(said: &str) -> Done {
    let line = said.lines().find(|line| line.contains(" requests in "));
    let (requests, rest) = line.expect(said).split_once(" requests in ").unwrap();
    let seconds = rest.split_once("s,").unwrap().0;
    let complaints = said.lines().map(str::trim_start);
    let mut complaints =
        complaints.filter(|line| line.starts_with("Non-2xx") || line.starts_with("Socket errors"));
    Done {
        requests: requests.trim().parse().unwrap(),
        complaint: complaints.next().map(str::to_owned),
        time: Duration::from_secs_f64(seconds.parse().unwrap()),
    }
}

fn read_own(said: &str) -> Done {
    let numbers: Vec<u64> = said
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    Done {
        requests: numbers[0],
        complaint: (numbers[1] > 0).then(|| format!("{} failed", numbers[1])),
        time: Duration::from_nanos(numbers[2]),
    }
}

/// The load itself, in this process. Says its requests, failures and nanoseconds on standard output.
pub(crate) fn run_here(at: SocketAddr, model: &str, time: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let start = Instant::now();
        let end = start + time;
        let mut loops = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let model = model.to_owned();
            loops.spawn(async move {
                let mut sender = connect(at).await;
                let (mut requests, mut failed) = (0_u64, 0_u64);
                while Instant::now() < end {
                    match send(&mut sender, &model).await {
                        Ok((200..400, _)) => requests += 1,
                        Ok(_) => failed += 1,
                        Err(_) => {
                            failed += 1;
                            sender = connect(at).await;
                        }
                    }
                }
                (requests, failed)
            });
        }
        let counts = loops.join_all().await;
        let requests: u64 = counts.iter().map(|(requests, _)| requests).sum();
        let failed: u64 = counts.iter().map(|(_, failed)| failed).sum();
        println!("{requests} {failed} {}", start.elapsed().as_nanos());
    });
}

async fn connect(at: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    model: &str,
) -> Result<(u16, Bytes), hyper::Error> {
    let request = Request::post(PATH)
        .header("host", "bench")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {KEY}"))
        .body(Full::new(Bytes::from(body(model))))
        .unwrap();
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
