//! A real `redis-server` on a Unix socket in a directory of its own: no port to collide, killed when dropped.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::FromRedisValue;
use tempfile::TempDir;

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
}

impl Server {
    /// A place where no server runs yet.
    pub(crate) fn later() -> Self {
        Self {
            child: None,
            dir: TempDir::new().unwrap(),
            keeps: Keeps::Everything,
        }
    }

    /// A server that answers.
    pub(crate) async fn start() -> Self {
        Self::start_with(Keeps::Everything).await
    }

    /// A server that answers, and forgets more or less.
    pub(crate) async fn start_with(keeps: Keeps) -> Self {
        let mut server = Self::later();
        server.keeps = keeps;
        server.run().await;
        server
    }

    /// Starts it, also again after [`Server::kill`]: what it [keeps](Keeps) is there.
    pub(crate) async fn run(&mut self) {
        self.begin(&[]);
        self.answers().await;
    }

    /// Starts it with more options, and does not wait until it answers.
    pub(crate) fn begin(&mut self, options: &[&str]) {
        let log = match self.keeps {
            Keeps::Everything => "yes",
            Keeps::WhatWasSaved => "no",
        };
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--daemonize", "no"])
            .args(["--appendonly", log, "--appendfsync", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!(
                "redis-server is not installed; these tests need the package `redis-server` (Debian) or `redis`"
            ),
            _ => panic!("redis-server: {error}"),
        });
        self.child = Some(child);
    }

    /// Waits until it answers: it has loaded what it kept.
    pub(crate) async fn answers(&self) {
        let answers = async || self.try_command::<String>(&["PING"]).ok();
        super::until("redis-server answers", answers).await;
    }

    /// The directory that it keeps its data in.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes all it has to its dump, which it starts from again unless it has a log.
    pub(crate) fn save(&self) {
        self.command::<String>(&["SAVE"]);
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

    /// The same, where it may be refused.
    pub(crate) fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        let mut command = redis::Cmd::new();
        command.arg(words).query(&mut connection)
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

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
