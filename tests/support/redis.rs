//! A real `redis-server` on a Unix socket in a directory of its own: no port to collide, killed when dropped.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::FromRedisValue;
use tempfile::TempDir;

/// A running server.
pub(crate) struct Server {
    child: Option<Child>,
    dir: TempDir,
}

impl Server {
    /// A place where no server runs yet.
    pub(crate) fn later() -> Self {
        let dir = TempDir::new().unwrap();
        Self { child: None, dir }
    }

    /// A server that answers.
    pub(crate) async fn start() -> Self {
        let mut server = Self::later();
        server.run().await;
        server
    }

    /// Starts it, also again after [`Server::kill`]: what it had acknowledged is there.
    pub(crate) async fn run(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--daemonize", "no"])
            .args(["--appendonly", "yes", "--appendfsync", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
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
        let answers = async || self.try_command::<String>(&["PING"]).ok();
        super::until("redis-server answers", answers).await;
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

    fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
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
        // It answers by closing the connection.
        let _ = self.try_command::<String>(&["SHUTDOWN"]);
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
