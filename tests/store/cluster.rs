//! What only a cluster can show: slots that move while they are spoken of, nodes that freeze, die, join.

use tollgate::store::redis::{Reach, RedisStore, Settings};

use super::*;
use crate::support::redis::{Cluster, Server};

fn settings(cluster: &Cluster) -> Settings {
    Settings {
        reach: Reach::Cluster(cluster.urls()),
        ..Settings::default()
    }
}

pub(super) async fn fixture(cluster: &Cluster, prefix: &str) -> Fixture {
    let settings = Settings {
        prefix: prefix.into(),
        ..settings(cluster)
    };
    let store = RedisStore::connect(settings, Clock::system()).unwrap();
    listening(cluster, prefix).await;
    Fixture {
        store: Arc::new(store),
        clock: Clock::system(),
        _keep: Box::new(()),
    }
}

/// Waits until a store has subscribed: what changes before is not told.
async fn listening(cluster: &Cluster, prefix: &str) {
    let channel = format!("{prefix}changes");
    until("it listens for changes", async || {
        let listeners = |node: &Server| {
            let (_, count): (String, u64) = node.command(&["PUBSUB", "NUMSUB", &channel]);
            count
        };
        let all: u64 = cluster.nodes.iter().map(listeners).sum();
        (all == 1).then_some(())
    })
    .await;
}
