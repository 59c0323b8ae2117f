//! What only a cluster can show: slots that move while they are spoken of, nodes that freeze, die, join.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::time::Instant;
use tollgate::store::redis::{Reach, RedisStore, Settings};
use tollgate::store::{Change, StoreError};

use super::redis::{hear, unavailable};
use tollgate::store::Scarce;

use super::*;
use crate::support::redis::{Cluster, Server};

fn settings(cluster: &Cluster) -> Settings {
    Settings {
        reach: Reach::Cluster(cluster.urls()),
        ..Settings::default()
    }
}

pub(super) async fn fixture(cluster: &Cluster, prefix: &str) -> Fixture {
    for node in &cluster.nodes {
        node.allow("s3cret", prefix);
    }
    let settings = Settings {
        prefix: prefix.into(),
        login: redis::login(),
        fence: FENCE,
        ..settings(cluster)
    };
    let store = RedisStore::connect(settings, Clock::system()).unwrap();
    listening(cluster, prefix).await;
    Fixture {
        store: Arc::new(store),
        clock: Clock::system(),
        fence: FENCE,
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

fn store(cluster: &Cluster) -> RedisStore {
    RedisStore::connect(settings(cluster), Clock::system()).unwrap()
}

/// The name of an account on that node.
fn on_node(cluster: &Cluster, node: usize) -> String {
    let mut names = (0..).map(|n| format!("a{n}"));
    let here = |name: &String| cluster.owner(cluster.slot(&format!("{{{name}}}"))) == node;
    names.find(here).unwrap()
}

/// An account on each of the three nodes, in their order.
fn spread(cluster: &Cluster) -> [String; 3] {
    [0, 1, 2].map(|node| on_node(cluster, node))
}

async fn try_to_say(store: &dyn Store, speaker: &mut Speaker) -> Result<(), StoreError> {
    let message = speaker.message(0, 1, 0);
    let answers = store.publish(&speaker.replica, vec![message]).await;
    speaker.believed = answers.into_iter().next().unwrap()?.standing;
    Ok(())
}

#[tokio::test]
async fn a_first_start_is_not_fenced_on_any_node() {
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    let mut histories = std::collections::BTreeSet::new();
    for name in spread(&cluster) {
        let standing = store.standing_of(&account(&name)).await.unwrap();
        assert!(
            !standing.fenced && standing.age == Duration::MAX,
            "{standing:?}"
        );
        histories.insert(standing.history);
    }
    assert_eq!(histories.len(), 3, "each node tells its own");
}

#[tokio::test]
async fn a_history_of_an_age_that_nobody_tells_is_fenced_and_not_held_up() {
    let cluster = Cluster::start().await;
    let names = spread(&cluster);
    seed(&store(&cluster), &names[0], 1).await;
    let keeper = cluster.owner(cluster.slot("tg:accounts"));
    let name = &names[(keeper + 1) % 3];
    // To one that comes while the node is away that keeps the ages, every history is new.
    cluster.nodes[keeper].freeze();
    let late = store(&cluster);
    let standing = until("it connects", async || {
        late.standing_of(&account(name)).await.ok()
    })
    .await;
    assert!(standing.fenced, "{standing:?}");
    late.read(&account(name), &[]).await.unwrap();
    cluster.nodes[keeper].thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_under_messages() {
    let cluster = Cluster::start().await;
    let store = Arc::new(store(&cluster));
    let names = spread(&cluster);
    for name in &names {
        seed(&*store, name, 1_000_000).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let speakers: Vec<_> = names
        .iter()
        .map(|name| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            let mut speaker = Speaker::new(name, "r-1");
            tokio::spawn(async move {
                let mut said = 0;
                while !stop.load(SeqCst) || speaker.believed.spend != nano(speaker.spend) {
                    if speaker.believed.spend == nano(speaker.spend) {
                        speaker.spend += 1;
                    }
                    match try_to_say(&*store, &mut speaker).await {
                        Err(StoreError::Unavailable(_)) => {}
                        answer => {
                            answer.unwrap();
                            said += 1;
                        }
                    }
                }
                (speaker.spend, said)
            })
        })
        .collect();
    let slot = cluster.slot(&format!("{{{}}}", names[0]));
    let entries = async || {
        let found = store.entries(&account(&names[0]), 0, 9).await;
        assert!(found.unwrap().is_empty());
    };
    for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2)] {
        cluster.begin_move(slot, from, to);
        entries().await;
        cluster.move_keys(slot, from, to);
        // It is asked for where it was, and found where it went.
        let asked = cluster.errors("ASK");
        entries().await;
        assert!(cluster.errors("ASK") > asked, "from {from} to {to}");
        cluster.end_move(slot, from, to);
        entries().await;
        // Messages go through again, too.
        let before = snapshot(&*store, &names[0]).await.spend;
        until("messages go on", async || {
            (snapshot(&*store, &names[0]).await.spend > before).then_some(())
        })
        .await;
        cluster.agree().await;
    }
    assert!(cluster.errors("MOVED") > 0);
    stop.store(true, SeqCst);
    for (speaker, name) in speakers.into_iter().zip(&names) {
        let (spend, said) = speaker.await.unwrap();
        let now = snapshot(&*store, name).await;
        assert_eq!(now.spend, nano(spend), "{name}, of {said} messages");
    }
}

#[tokio::test]
async fn a_slot_on_its_way_is_waited_for_and_not_for_long() {
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    let names = spread(&cluster);
    seed(&store, &names[0], 1).await;
    let slot = cluster.slot(&format!("{{{}}}", names[0]));
    cluster.begin_move(slot, 0, 1);
    // Its head is there and its outbox is nowhere, which might be where the slot goes.
    unavailable(&store.read(&account(&names[0]), &[]).await);
    let told = cluster.errors("TRYAGAIN");
    assert!((3..=7).contains(&told), "asked {told} times");
    cluster.move_keys(slot, 0, 1);
    cluster.end_move(slot, 0, 1);
    snapshot(&store, &names[0]).await;
}

#[tokio::test]
async fn a_script_follows_a_slot_to_a_node_that_does_not_know_it() {
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    assert_eq!(
        store
            .put_document("prices", 0, b"x".to_vec(), false)
            .await
            .unwrap(),
        Stored::At(1)
    );
    let slot = cluster.slot("tg:d:prices");
    let from = cluster.owner(slot);
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to);
    cluster.move_keys(slot, from, to);
    let _: String = cluster.nodes[to].command(&["SCRIPT", "FLUSH"]);
    let asked = cluster.errors("ASK");
    assert_eq!(
        store
            .put_document("prices", 1, b"y".to_vec(), false)
            .await
            .unwrap(),
        Stored::At(2)
    );
    assert!(cluster.errors("ASK") > asked && cluster.errors("NOSCRIPT") > 0);
    // Until the move ends it is asked for where it was.
    assert_eq!(
        store.document("prices").await.unwrap(),
        Some((2, b"y".to_vec()))
    );
    cluster.end_move(slot, from, to);
    assert_eq!(
        store.document("prices").await.unwrap(),
        Some((2, b"y".to_vec()))
    );
    // Nobody has it: that is said in time, and ends.
    for node in &cluster.nodes {
        let _: () = node.command(&["CLUSTER", "DELSLOTS", &slot.to_string()]);
    }
    unavailable(&store.document("prices").await);
    let _: () = cluster.nodes[to].command(&["CLUSTER", "ADDSLOTS", &slot.to_string()]);
    until("it is served again", async || {
        store.document("prices").await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_frozen_node_holds_up_nobody_else() {
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    let names = spread(&cluster);
    let mut speakers: Vec<_> = names.iter().map(|name| Speaker::new(name, "r-1")).collect();
    for name in &names {
        seed(&store, name, 1_000).await;
    }
    // Not the one with the feed of spend: without that, spend is not told, and a message is answered with its failure.
    let feed = cluster.owner(cluster.slot("{feed}"));
    let frozen = (feed + 1) % 3;
    cluster.nodes[frozen].freeze();
    let began = Instant::now();
    const ROUNDS: i64 = 20;
    for _ in 0..ROUNDS {
        let mut batch = Vec::new();
        for speaker in &mut speakers {
            speaker.spend += 1;
            batch.push(speaker.message(0, 1, 0));
        }
        let answers = store.publish(&replica("r-1"), batch).await;
        for (number, (speaker, answer)) in speakers.iter_mut().zip(answers).enumerate() {
            match number == frozen {
                true => unavailable(&answer),
                false => speaker.believed = answer.unwrap().standing,
            }
        }
    }
    // The first round waits for the time of a reply; if each did, it would be ten seconds.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    cluster.nodes[frozen].thaw();
    let speaker = &mut speakers[frozen];
    until("it is there again", async || {
        try_to_say(&store, speaker).await.ok()
    })
    .await;
    speaker.say(&store, 0, 0, 0).await;
    for name in &names {
        assert_eq!(snapshot(&store, name).await.spend, nano(ROUNDS), "{name}");
    }
}

#[tokio::test]
async fn a_node_that_dies_is_replaced_by_its_replica() {
    let mut cluster = Cluster::start().await;
    cluster.grow().await;
    let store = store(&cluster);
    let names = spread(&cluster);
    for name in &names {
        seed(&store, name, 1_000).await;
    }
    let mut speaker = Speaker::new(&names[0], "r-1");
    speaker.spend = 7;
    speaker.say(&store, 0, 0, 0).await;
    let before = store.standing_of(&account(&names[0])).await.unwrap();
    // The spare is met while it has nothing, and keeps that connection when it becomes a replica.
    let histories = "tg:{tg:accounts}:histories";
    let keeper = cluster.owner(cluster.slot(histories));
    until("the spare is met", async || {
        let count: u64 = cluster.nodes[keeper].command(&["HLEN", histories]);
        (count == 4).then_some(())
    })
    .await;
    cluster.follow(3, 0).await;
    let _: i64 = cluster.nodes[0].command(&["WAIT", "1", "5000"]);
    let slot = cluster.slot(&format!("{{{}}}", names[0]));
    cluster.nodes[0].kill();
    // While nobody asks, so that the store's first attempt is at the node that is gone.
    until("its replica serves", async || {
        let mut living = cluster.nodes.iter().skip(1);
        living.all(|node| cluster.has(3, slot, node)).then_some(())
    })
    .await;
    speaker.spend = 9;
    speaker.say(&store, 0, 0, 0).await;
    assert_eq!(snapshot(&store, &names[0]).await.spend, nano(9));
    let after = store.standing_of(&account(&names[0])).await.unwrap();
    assert!(after.fenced && after.history != before.history, "{after:?}");
    // The others' histories are what they were.
    let other = store.standing_of(&account(&names[1])).await.unwrap();
    assert!(!other.fenced, "{other:?}");
}

#[tokio::test]
async fn a_node_that_joins_is_known_before_it_has_slots() {
    let mut cluster = Cluster::start().await;
    let store = store(&cluster);
    seed(&store, "a", 1).await;
    let histories = "tg:{tg:accounts}:histories";
    let keeper = cluster.owner(cluster.slot(histories));
    cluster.grow().await;
    until("its history is kept", async || {
        let count: u64 = cluster.nodes[keeper].command(&["HLEN", histories]);
        (count == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn changes_are_heard_through_any_node() {
    let mut cluster = Cluster::start().await;
    let store = store(&cluster);
    let mut changes = store.changes();
    let at = until("it listens", async || {
        let listens = |node: &Server| {
            let (_, count): (String, u64) = node.command(&["PUBSUB", "NUMSUB", "tg:changes"]);
            count == 1
        };
        cluster.nodes.iter().position(listens)
    })
    .await;
    hear(&mut changes, &Change::All).await;
    cluster.nodes[at].kill();
    hear(&mut changes, &Change::All).await;
    // The word goes to any node that lives.
    until("it is told", async || {
        store.tell_scarce(&account("a"), Scarce::Money).await.ok()
    })
    .await;
    hear(&mut changes, &Change::Scarce(account("a"), Scarce::Money)).await;
}

#[tokio::test]
async fn seeds_that_do_not_help_say_so() {
    let cluster = Cluster::start().await;
    // One that is away, and one that is another's.
    let mut urls = vec!["redis://127.0.0.1:1".to_owned()];
    urls.push(cluster.urls().remove(1));
    let over = |urls: &[String]| {
        let settings = Settings {
            reach: Reach::Cluster(urls.to_vec()),
            ..Settings::default()
        };
        RedisStore::connect(settings, Clock::system()).unwrap()
    };
    over(&urls).ping().await.unwrap();
    unavailable(&over(&urls[..1]).ping().await);
    let mut alone = Server::with(&[], &["--port"]);
    alone.run().await;
    let url = format!("redis://127.0.0.1:{}", alone.port("--port"));
    let error = over(&[url]).ping().await.unwrap_err().to_string();
    assert!(error.contains("cluster support disabled"), "{error}");
    // The other way round.
    let settings = Settings {
        reach: Reach::Server(urls.remove(1)),
        ..Settings::default()
    };
    let store = RedisStore::connect(settings, Clock::system()).unwrap();
    let error = until("it meets what it does not have", async || {
        store
            .document("prices")
            .await
            .err()
            .or(store.document("a").await.err())
    });
    let error = error.await.to_string();
    assert!(error.contains("MOVED"), "{error}");
}
