//! A running `tollgate` and the command line that steers it: started, asked, signalled, and gone when dropped. No case here.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tollgate::money::Amount;

use super::wire;
use crate::support::http::{Message, call};
use crate::support::until;

const BINARY: &str = env!("CARGO_BIN_EXE_tollgate");

/// Longer than any end here takes; a process that hangs is killed and told of.
const END_MAX: Duration = Duration::from_secs(20);

/// A process that serves. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    reading: Vec<JoinHandle<()>>,
    stdout: Lines,
    stderr: Lines,
    pub(crate) proxy: SocketAddr,
    pub(crate) control: String,
    admin: SocketAddr,
}

/// What a process said, line by line.
type Lines = Arc<Mutex<Vec<String>>>;

fn read(from: impl AsyncRead + Unpin + Send + 'static) -> (Lines, JoinHandle<()>) {
    let lines = Lines::default();
    let read = Arc::clone(&lines);
    let reading = tokio::spawn(async move {
        let mut from = BufReader::new(from).lines();
        while let Ok(Some(line)) = from.next_line().await {
            read.lock().unwrap().push(line);
        }
    });
    (lines, reading)
}

/// Started and read from, its addresses not known yet.
struct Started(Child, [Lines; 2], Vec<JoinHandle<()>>);

fn start(words: &[&str], env: &[(String, String)]) -> Started {
    let mut child = Command::new(BINARY)
        .args(words)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (stdout, reading_stdout) = read(child.stdout.take().unwrap());
    let (stderr, reading_stderr) = read(child.stderr.take().unwrap());
    Started(
        child,
        [stdout, stderr],
        vec![reading_stdout, reading_stderr],
    )
}

impl Started {
    /// Waits until what it said tells the three addresses: of the proxy, the control API and the admin edge.
    async fn told(mut self, addresses: impl Fn(&Lines, &Lines) -> Option<[String; 3]>) -> Process {
        let [stdout, stderr] = self.1;
        let told = until("the process serves", async || {
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("ended with {status}: {:#?}", stderr.lock().unwrap());
            }
            addresses(&stdout, &stderr)
        });
        let [proxy, control, admin] = told.await;
        Process {
            child: self.0,
            reading: self.2,
            stdout,
            stderr,
            proxy: proxy.parse().unwrap(),
            control: format!("http://{control}"),
            admin: admin.parse().unwrap(),
        }
    }
}

impl Process {
    /// `tollgate serve`: the addresses stand in its log.
    pub(crate) async fn serve(config: &Path, env: &[(String, String)]) -> Self {
        let started = start(&["serve", "--config", config.to_str().unwrap()], env);
        let serving = |_: &Lines, stderr: &Lines| {
            let lines = stderr.lock().unwrap();
            let mut lines = lines
                .iter()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let line = lines.find(|line| line["message"] == "serving")?;
            let address = |name: &str| line[name].as_str().map(str::to_owned);
            Some([address("proxy")?, address("control")?, address("admin")?])
        };
        started.told(serving).await
    }

    /// `tollgate demo`: the addresses stand on its first page.
    pub(crate) async fn demo(words: &[&str]) -> Self {
        let listen = [
            "demo",
            "--proxy-listen",
            "127.0.0.1:0",
            "--control-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ];
        let started = start(&[&listen, words].concat(), &[]);
        let ready = |stdout: &Lines, _: &Lines| {
            let lines = stdout.lock().unwrap();
            lines.iter().find(|line| *line == "ready")?;
            let address = |name: &str| {
                let mut words = lines.iter().map(|line| line.split_whitespace());
                let mut line = words.find(|line| line.clone().next() == Some(name))?;
                let url = line.nth(1)?;
                url.strip_prefix("http://").map(str::to_owned)
            };
            Some([address("proxy")?, address("control")?, address("admin")?])
        };
        started.told(ready).await
    }

    /// What it said on its standard output.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    /// Its warnings and errors, the last ones.
    pub(crate) fn complaints(&self) -> Vec<String> {
        const MOST: usize = 6;
        let said = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |line: &&String| line.contains(r#""level":"INFO""#);
        let all: Vec<_> = said.iter().filter(|line| !quiet(line)).cloned().collect();
        all[all.len().saturating_sub(MOST)..].to_vec()
    }

    /// Sends it a signal.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([name, &pid]).status().await;
        assert!(sent.unwrap().success());
    }

    /// SIGSTOP, until every thread of it stands still.
    pub(crate) async fn freeze(&self) {
        self.signal("-STOP").await;
        let tasks = format!("/proc/{}/task", self.child.id().expect("it runs"));
        let stands = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
            // Its state stands after its name, which may have any character.
            stat.unwrap()
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim().starts_with('T'))
        };
        until("every thread stands still", async || {
            std::fs::read_dir(&tasks).unwrap().all(stands).then_some(())
        })
        .await;
    }

    /// SIGTERM, and its end: exit code 0, and no panic on the way.
    pub(crate) async fn terminate(self) {
        self.signal("-TERM").await;
        self.ended().await;
    }

    /// Waits for its end after a SIGTERM.
    pub(crate) async fn ended(mut self) {
        let status = tokio::time::timeout(END_MAX, self.child.wait()).await;
        for reading in &mut self.reading {
            reading.await.unwrap();
        }
        let said = self.stderr.lock().unwrap().join("\n");
        let status = status.unwrap_or_else(|_| panic!("it does not end: {said}"));
        assert_eq!(status.unwrap().code(), Some(0), "{said}");
        self.has_not_panicked();
    }

    /// SIGKILL, on the spot.
    pub(crate) async fn kill(mut self) {
        self.has_not_panicked();
        self.child.kill().await.unwrap();
    }

    /// No thread of it has panicked.
    pub(crate) fn has_not_panicked(&self) {
        let said = self.stderr.lock().unwrap().join("\n");
        assert!(!said.contains("panicked"), "{said}");
    }

    /// A command of the command line against this process, with words apart at spaces.
    pub(crate) async fn run(&self, line: &str, stdin: &str) -> Output {
        let mut child = Command::new(BINARY)
            .args(line.split_whitespace())
            .env_clear()
            .env("TOLLGATE_CONTROL", &self.control)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // A command that reads nothing may be gone already.
        let _ = pipe.write_all(stdin.as_bytes()).await;
        drop(pipe);
        child.wait_with_output().await.unwrap()
    }

    /// A command that is carried out, and its answer.
    pub(crate) async fn cli(&self, line: &str) -> Value {
        self.cli_with(line, "").await
    }

    async fn cli_with(&self, line: &str, stdin: &str) -> Value {
        let output = self.run(&format!("{line} --json"), stdin).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// An account with money, and the key `sk-of-NAME`.
    pub(crate) async fn account(&self, name: &str, money: &str, policy: &str) {
        self.cli(&format!(
            "account create {name} --unit USD --policy {policy}"
        ))
        .await;
        self.cli(&format!("credit recharge {name} {money} --order-id first"))
            .await;
        self.key(name, name, "").await;
    }

    /// A key of an account, with the secret `sk-of-ID`.
    pub(crate) async fn key(&self, account: &str, id: &str, options: &str) {
        let line = format!("key create {account} --id {id} --secret-stdin {options}");
        self.cli_with(&line, &format!("sk-of-{id}\n")).await;
    }

    /// An account as the store and this process have it.
    pub(crate) async fn show(&self, account: &str) -> Standing {
        let shown = self.cli(&format!("account get {account}")).await;
        let field = |name: &str| amount(&shown[name]);
        Standing {
            balance: field("balance"),
            held: field("held"),
            available: field("available"),
            debt: field("debt"),
            spend: field("spend"),
        }
    }

    /// How many calls of an account are counted, and what they cost together.
    pub(crate) async fn used(&self, account: &str) -> (u64, Amount) {
        let usage = self.cli(&format!("usage {account}")).await;
        let (mut calls, mut cost) = (0, Amount::ZERO);
        for row in usage["rows"].as_array().unwrap() {
            calls += row["calls"].as_u64().unwrap();
            cost = cost.checked_add(amount(&row["cost"])).unwrap();
        }
        let total = &usage["total"];
        assert_eq!(
            (total["calls"].as_u64(), amount(&total["cost"])),
            (Some(calls), cost),
            "rows and total"
        );
        (calls, cost)
    }

    /// The ledger proves itself, and agrees with the usage.
    pub(crate) async fn verify(&self, account: &str) {
        let proof = self.cli(&format!("ledger verify {account}")).await;
        assert_eq!(proof["ok"], true, "{proof}");
    }

    async fn admin(&self, path: &str) -> Message {
        call(self.admin, wire::get(path)).await
    }

    /// Whether it is ready, and what it says about that.
    pub(crate) async fn ready(&self) -> (bool, String) {
        let said = self.admin("/readyz").await;
        assert!([200, 503].contains(&said.status()), "{said:?}");
        (said.status() == 200, said.text())
    }

    /// Whether it lives.
    pub(crate) async fn lives(&self) -> bool {
        self.admin("/healthz").await.status() == 200
    }

    /// One series of its metrics, as it is written.
    pub(crate) async fn metric(&self, series: &str) -> String {
        let page = self.admin("/metrics").await.text();
        let mut lines = page.lines().filter_map(|line| line.rsplit_once(' '));
        let found = lines.find(|(name, _)| *name == series);
        found
            .unwrap_or_else(|| panic!("no {series} in {page}"))
            .1
            .to_owned()
    }
}

/// What stands in an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) balance: Amount,
    pub(crate) held: Amount,
    pub(crate) available: Amount,
    pub(crate) debt: Amount,
    pub(crate) spend: Amount,
}

/// An amount as the command line says it: a decimal string.
pub(crate) fn amount(value: &Value) -> Amount {
    let text = value.as_str().unwrap_or_else(|| panic!("no text: {value}"));
    text.parse().unwrap()
}
