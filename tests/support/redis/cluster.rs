//! A cluster of three `redis-server`s, made by commands alone.

use redis::Value;

use super::Server;
use crate::support::until;

/// Three masters, each with a third of the slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

const SLOTS: u16 = 16_384;
const NODES: u16 = 3;

/// A node that is in no cluster yet. A failed node is noticed after half a second.
pub(crate) async fn lone() -> Server {
    let options = [
        ["--cluster-enabled", "yes"],
        ["--cluster-node-timeout", "500"],
        ["--cluster-require-full-coverage", "no"],
        ["--repl-diskless-sync-delay", "0"],
    ];
    let options = options.as_flattened();
    let mut server = Server::with(options, &["--port", "--cluster-port"]);
    server.run().await;
    server
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let mut cluster = Self { nodes: Vec::new() };
        for number in 0..NODES {
            let node = lone().await;
            let first = SLOTS / NODES * number;
            let last = if number + 1 == NODES {
                SLOTS - 1
            } else {
                first + SLOTS / NODES - 1
            };
            let [first, last, epoch] = [first, last, number + 1].map(|n| n.to_string());
            let _: () = node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            let _: () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            cluster.nodes.push(node);
        }
        for node in &cluster.nodes[1..] {
            cluster.nodes[0].meet(node);
        }
        cluster.whole().await;
        cluster
    }

    /// Waits until every node serves, and knows all the others.
    pub(crate) async fn whole(&self) {
        let count = format!("cluster_known_nodes:{}", self.nodes.len());
        until("the cluster serves", async || {
            let well = |node: &Server| {
                let info: String = node.command(&["CLUSTER", "INFO"]);
                let has = |line: &str| info.lines().any(|l| l == line);
                has("cluster_state:ok") && has("cluster_slots_ok:16384") && has(&count)
            };
            self.nodes.iter().all(well).then_some(())
        })
        .await;
    }

    /// Adds a node without slots.
    pub(crate) async fn grow(&mut self) {
        let node = lone().await;
        self.nodes[0].meet(&node);
        self.nodes.push(node);
        self.whole().await;
    }

    /// Makes a node without slots another's replica.
    pub(crate) async fn follow(&self, replica: usize, master: usize) {
        let (replica, master) = (&self.nodes[replica], self.nodes[master].id());
        let _: () = replica.command(&["CLUSTER", "REPLICATE", &master]);
        until("the replica follows", async || {
            let info: String = replica.command(&["INFO", "replication"]);
            info.contains("master_link_status:up").then_some(())
        })
        .await;
    }

    /// Where its nodes listen.
    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |node: &Server| format!("redis://127.0.0.1:{}", node.port("--port"));
        self.nodes.iter().map(url).collect()
    }

    /// The slot of a key.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])
    }

    /// Which of the nodes has a slot.
    pub(crate) fn owner(&self, slot: u16) -> usize {
        let mut numbers = 0..self.nodes.len();
        let owner = numbers.find(|number| self.has(*number, slot, &self.nodes[*number]));
        owner.expect("somebody has it")
    }

    /// Whether the node of that number has a slot, by the word of `witness`.
    pub(crate) fn has(&self, number: usize, slot: u16, witness: &Server) -> bool {
        let port = self.nodes[number].port("--port");
        let slots: Vec<(u16, u16, Vec<Value>)> = witness.command(&["CLUSTER", "SLOTS"]);
        slots.iter().any(|(first, last, master)| {
            (*first..=*last).contains(&slot) && master[1] == Value::Int(port.into())
        })
    }

    /// Begins to move a slot: from here on keys that are not at `from` are looked for at `to`.
    pub(crate) fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let [source, target] = [from, to].map(|n| self.nodes[n].id());
        let _: () = self.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        let _: () = self.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
    }

    /// Moves what is in a slot.
    pub(crate) fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let port = self.nodes[to].port("--port").to_string();
        loop {
            let keys: Vec<String> =
                self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "10"]);
            if keys.is_empty() {
                return;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            let _: () = self.nodes[from].command(&words);
        }
    }

    /// Waits until all nodes know of every change so far. A move that begins before might lose against the one before it.
    pub(crate) async fn agree(&self) {
        until("the nodes agree", async || {
            let view = |node: &Server| {
                let info: String = node.command(&["CLUSTER", "INFO"]);
                let mut lines = info.lines();
                let epoch = lines.find(|l| l.starts_with("cluster_current_epoch:"));
                let slots: Vec<(u16, u16, Vec<Value>)> = node.command(&["CLUSTER", "SLOTS"]);
                (epoch.unwrap().to_owned(), slots)
            };
            let first = view(&self.nodes[0]);
            self.nodes
                .iter()
                .all(|node| view(node) == first)
                .then_some(())
        })
        .await;
    }

    /// Ends the move: the slot is `to`'s.
    pub(crate) fn end_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, target) = (slot.to_string(), self.nodes[to].id());
        for node in [to, from] {
            let _: () = self.nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
    }

    /// How often the nodes have answered with that error, all together.
    pub(crate) fn errors(&self, code: &str) -> u64 {
        let count = |node: &Server| {
            let info: String = node.command(&["INFO", "errorstats"]);
            let prefix = format!("errorstat_{code}:count=");
            let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
            line.map_or(0, |count| count.trim().parse::<u64>().unwrap())
        };
        self.nodes.iter().map(count).sum()
    }
}

impl Server {
    fn meet(&self, other: &Self) {
        let [port, bus] = ["--port", "--cluster-port"].map(|option| other.port(option).to_string());
        let _: () = self.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    fn id(&self) -> String {
        self.command(&["CLUSTER", "MYID"])
    }
}
