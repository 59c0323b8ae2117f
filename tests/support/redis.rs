//! A real `redis-server` on a Unix socket in a directory of its own, and on free ports where a test needs TCP; killed when dropped.
//! Several of them make a cluster, or a master with a replica and sentinels.

mod cluster;
mod sentinel;
mod tls;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::FromRedisValue;
use tempfile::TempDir;

pub(crate) use cluster::Cluster;
pub(crate) use sentinel::{MASTER, Watched};
pub(crate) use tls::Authority;

/// How often a server is tried on other ports: somebody else may take one between our looking and its binding.
const PORTS_TRIES: usize = 5;

/// What a server has after it was killed and started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Everything that it had acknowledged.
    Everything,
    /// What it had at the last [`Server::save`]; nothing, if there was none.
    WhatWasSaved,
}

/// A running server.
pub(crate) struct Server {
    child: Option<Child>,
    dir: TempDir,
    keeps: Keeps,
    options: Vec<String>,
    /// Options that name a port, and which.
    ports: Vec<(&'static str, u16)>,
}

impl Server {
    /// A place where no server runs yet.
    pub(crate) fn later() -> Self {
        Self::with(&[], &[])
    }

    /// The same, with some options, and free ports for those of `ports`.
    pub(crate) fn with(options: &[&str], ports: &[&'static str]) -> Self {
        let mut server = Self {
            child: None,
            dir: TempDir::new().unwrap(),
            keeps: Keeps::Everything,
            options: options.iter().map(|option| option.to_string()).collect(),
            ports: ports.iter().map(|port| (*port, 0)).collect(),
        };
        server.find_ports();
        server
    }

    fn find_ports(&mut self) {
        // All at once, so that they differ.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = self.ports.iter().map(|_| free()).collect();
        for ((_, port), listener) in self.ports.iter_mut().zip(held) {
            *port = listener.local_addr().unwrap().port();
        }
    }

    /// The port of that option.
    pub(crate) fn port(&self, option: &str) -> u16 {
        let found = self.ports.iter().find(|(name, _)| *name == option);
        found.expect("it has that port").1
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A server that answers.
    pub(crate) async fn start() -> Self {
        let mut server = Self::later();
        server.run().await;
        server
    }

    /// A server that answers, and forgets more or less.
    pub(crate) async fn start_with(keeps: Keeps) -> Self {
        let mut server = Self::later();
        server.keeps = keeps;
        server.run().await;
        server
    }

    /// Starts it with more options, and does not wait until it answers.
    pub(crate) fn begin(&mut self, options: &[&str]) {
        let own = self.options.len();
        self.options
            .extend(options.iter().map(|option| option.to_string()));
        self.spawn(&[]);
        self.options.truncate(own);
    }

    /// Waits until it answers: it has loaded what it kept.
    pub(crate) async fn answers(&self) {
        let answers = async || self.try_command::<String>(&["PING"]).ok();
        super::until("redis-server answers", answers).await;
    }

    /// Writes all it has to its dump, which it starts from again unless it has a log.
    pub(crate) fn save(&self) {
        self.command::<String>(&["SAVE"]);
    }

    /// Starts it, also again after [`Server::kill`]: what it [keeps](Keeps) is there.
    pub(crate) async fn run(&mut self) {
        self.run_as(&[]).await;
    }

    /// Starts it as a sentinel with that configuration.
    async fn watch(&mut self, file: &Path) {
        self.run_as(&[file.to_str().unwrap(), "--sentinel"]).await;
    }

    async fn run_as(&mut self, first: &[&str]) {
        for _ in 0..PORTS_TRIES {
            self.spawn(first);
            let (url, dir) = (self.url(), self.dir.path().to_owned());
            let child = &mut self.child;
            let ended = super::until("redis-server answers", async || {
                if child.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return Some(true);
                }
                command::<String>(&url, &["PING"]).ok().map(|_| false)
            })
            .await;
            if !ended {
                return;
            }
            assert!(
                !self.ports.is_empty(),
                "redis-server ended; see {}",
                dir.display()
            );
            self.find_ports();
        }
        panic!("redis-server ends at once, on {PORTS_TRIES} sets of ports");
    }

    fn spawn(&mut self, first: &[&str]) {
        let mut command = Command::new("redis-server");
        command.args(first);
        let tcp = self.ports.iter().any(|(option, _)| *option == "--port");
        if !tcp {
            command.args(["--port", "0"]);
        }
        for (option, port) in &self.ports {
            command.args([*option, &port.to_string()]);
        }
        command
            .args(["--bind", "127.0.0.1", "--daemonize", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path());
        if first.is_empty() {
            let log = match self.keeps {
                Keeps::Everything => "yes",
                Keeps::WhatWasSaved => "no",
            };
            command.args(["--save", "", "--appendonly", log, "--appendfsync", "no"]);
        }
        command.args(&self.options);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!(
                "redis-server is not installed; these tests need the package `redis-server` (Debian) or `redis`"
            ),
            _ => panic!("redis-server: {error}"),
        });
        self.child = Some(child);
    }

    /// What it has acknowledged so far, as it stands on its disk.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = TempDir::new().unwrap();
        copy_files(&self.log(), copy.path());
        copy
    }

    /// Puts back what it had when this was copied: it has lost what came after. It must not run.
    pub(crate) fn put_back(&self, copy: &TempDir) {
        std::fs::remove_dir_all(self.log()).unwrap();
        std::fs::create_dir(self.log()).unwrap();
        copy_files(copy.path(), &self.log());
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("appendonlydir")
    }

    /// The socket it listens on.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Sends a command on a connection of its own.
    pub(crate) fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).unwrap()
    }

    pub(crate) fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        command(&self.url(), words)
    }

    /// Makes the user of `deploy/redis.acl` with this password, for keys of that prefix.
    pub(crate) fn allow(&self, password: &str, prefix: &str) {
        let rules = include_str!("../../deploy/redis.acl").replace("tg:", prefix);
        let rules = rules.strip_prefix("user ").expect("it makes a user");
        let password = format!(">{password}");
        let mut words = vec!["ACL", "SETUSER"];
        words.extend(rules.split_ascii_whitespace());
        words.push(&password);
        let _: () = self.command(&words);
    }

    /// Freezes it: connections stay and nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it as an administrator does: what it had acknowledged is written first.
    pub(crate) fn shut_down(&mut self) {
        // It answers by closing the connection. Without a log, a dump is all that it keeps.
        let how = match self.keeps {
            Keeps::Everything => "NOSAVE",
            Keeps::WhatWasSaved => "SAVE",
        };
        let _ = self.try_command::<String>(&["SHUTDOWN", how]);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    /// Kills it on the spot.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command<T: FromRedisValue>(url: &str, words: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(url)?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
    let mut command = redis::Cmd::new();
    command.arg(words).query(&mut connection)
}
