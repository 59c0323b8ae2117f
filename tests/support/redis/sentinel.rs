//! A master, its replica, and three sentinels that watch them.

use super::Server;
use crate::support::until;

/// What the sentinels call the master.
pub(crate) const MASTER: &str = "till";

/// A master that is failed over when it is gone for half a second.
pub(crate) struct Watched {
    /// One of them is the master: the first to begin with.
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let mut master = Server::with(&["--repl-diskless-sync-delay", "0"], &["--port"]);
        master.run().await;
        let port = master.port("--port").to_string();
        let options = ["--replicaof", &format!("127.0.0.1 {port}")];
        let mut replica = Server::with(&options, &["--port"]);
        replica.run().await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(start(&[], "--port", &port, 2).await);
        }
        let watched = Self {
            servers: vec![master, replica],
            sentinels,
        };
        until(
            "the sentinels know each other and the replica",
            async || {
                let knows = |sentinel: &Server| {
                    let info: String = sentinel.command(&["INFO", "sentinel"]);
                    info.contains("status=ok") && info.contains("slaves=1,sentinels=3")
                };
                watched.sentinels.iter().all(knows).then_some(())
            },
        )
        .await;
        until("the replica follows", async || {
            let info: String = watched.servers[1].command(&["INFO", "replication"]);
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        watched
    }

    /// Where the sentinels listen.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let address = |sentinel: &Server| format!("127.0.0.1:{}", sentinel.port("--port"));
        self.sentinels.iter().map(address).collect()
    }
}

/// A sentinel that listens on the port of that option.
pub(super) async fn start(
    options: &[&str],
    port: &'static str,
    master_port: &str,
    quorum: u8,
) -> Server {
    let mut sentinel = Server::with(options, &[port]);
    let file = sentinel.dir().join("sentinel.conf");
    let text = format!(
        "sentinel monitor {MASTER} 127.0.0.1 {master_port} {quorum}\n\
         sentinel down-after-milliseconds {MASTER} 500\n\
         sentinel failover-timeout {MASTER} 2000\n"
    );
    std::fs::write(&file, text).unwrap();
    sentinel.watch(&file).await;
    sentinel
}
