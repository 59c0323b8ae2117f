//! Which history a Redis tells, and how long it has been known: what fences a Redis that may have lost something.

use tollgate::store::redis::{Reach, RedisStore, Settings, Standing};

use super::redis::store;
use super::*;
use crate::support::redis::Server;

const HISTORIES: &str = "tg:{tg:accounts}:histories";
const FENCE: Duration = Duration::from_secs(30);

fn with_clock(server: &Server, clock: &Clock) -> RedisStore {
    let settings = Settings {
        reach: Reach::Server(server.url()),
        fence: FENCE,
        ..Settings::default()
    };
    RedisStore::connect(settings, clock.clone()).unwrap()
}

async fn standing(store: &RedisStore) -> Standing {
    until("it connects", async || {
        store.standing_of(&account("a")).await.ok()
    })
    .await
}

/// The same, of a store whose server has started again.
async fn standing_after(store: &RedisStore, before: &Standing) -> Standing {
    until("it connects again", async || {
        let now = store.standing_of(&account("a")).await.ok()?;
        (now.history != before.history).then_some(now)
    })
    .await
}

/// What a server is known by, and since when.
fn told_since(server: &Server) -> String {
    let id = told(server);
    let since: i64 = server.command(&["HGET", HISTORIES, &id]);
    format!("{id}@{since}")
}

/// What a server is known by.
fn told(server: &Server) -> String {
    let field = |section: &str, name: &str| {
        let info: String = server.command(&["INFO", section]);
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let (run, replication) = (
        field("server", "run_id:"),
        field("replication", "master_replid:"),
    );
    format!("{run}:{replication}")
}

/// Lets a server have known its history for so long, before anybody asks.
fn known_for(server: &Server, age: Duration) {
    let (seconds, _): (u64, u64) = server.command(&["TIME"]);
    let since = (seconds - age.as_secs()) * 1_000;
    let _: i64 = server.command(&["HSET", HISTORIES, &told(server), &since.to_string()]);
}

#[tokio::test]
async fn a_first_start_is_not_fenced() {
    let server = Server::start().await;
    let one = store(&server);
    let first = standing(&one).await;
    let expected = Standing {
        wait: Duration::ZERO,
        history: told_since(&server).into(),
        age: Duration::MAX,
        fenced: false,
    };
    assert_eq!(first, expected);
    seed(&one, "a", 1).await;
    // For good: one that comes when there are accounts is told the same.
    assert_eq!(standing(&store(&server)).await, first);
    let kept: Vec<(String, i64)> = server.command(&["HGETALL", HISTORIES]);
    let [(id, since)] = &kept[..] else {
        panic!("{kept:?}");
    };
    assert!(*id == told(&server) && *since < 0, "{kept:?}");
}

#[tokio::test]
async fn a_restart_with_data_is_fenced_for_a_lease_time() {
    let mut server = Server::start().await;
    let clock = Clock::manual(NOON);
    let one = with_clock(&server, &clock);
    let before = standing(&one).await;
    seed(&one, "a", 1).await;
    server.kill();
    server.run().await;
    let after = standing_after(&one, &before).await;
    assert_eq!(*after.history, *told_since(&server));
    assert!(after.fenced && after.age < FENCE, "{after:?}");
    // From here on it counts by this process' own running clock.
    clock.advance(FENCE - after.age - Duration::from_millis(1));
    assert!(standing(&one).await.fenced);
    clock.advance(Duration::from_millis(1));
    let later = standing(&one).await;
    assert!(!later.fenced && later.age == FENCE, "{later:?}");
    // A connection that was made again to the same history goes on counting.
    let _: i64 = server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let again = until("it is there again", async || {
        one.ping().await.ok()?;
        one.standing_of(&account("a")).await.ok()
    });
    assert_eq!(again.await, later);
}

#[tokio::test]
async fn two_connections_agree_on_the_age() {
    let mut server = Server::start().await;
    seed(&store(&server), "a", 1).await;
    server.kill();
    server.run().await;
    known_for(&server, Duration::from_secs(20));
    let (one, two) = (store(&server), store(&server));
    let first = standing(&one).await;
    let second = standing(&two).await;
    let third = standing(&one).await;
    // `TIME` was cut to a second above, and an age is counted from the reply on: each may be short by that.
    let slack = Duration::from_secs(2);
    assert!(first.age <= second.age + slack && second.age <= third.age + slack);
    for standing in [&first, &second] {
        let age = standing.age;
        assert!(
            standing.fenced && age >= Duration::from_secs(18) && age < FENCE,
            "{standing:?}"
        );
    }
    assert_eq!(first.history, second.history);

    server.kill();
    server.run().await;
    known_for(&server, FENCE + Duration::from_secs(1));
    assert!(!standing(&store(&server)).await.fenced);
}

#[tokio::test]
async fn histories_are_bounded_and_the_oldest_goes() {
    let server = Server::start().await;
    seed(&store(&server), "a", 1).await;
    let _: i64 = server.command(&["DEL", HISTORIES]);
    for number in 1..=64 {
        let (name, since) = (format!("old {number}"), (1_000 - number).to_string());
        let _: i64 = server.command(&["HSET", HISTORIES, &name, &since]);
    }
    let now = standing(&store(&server)).await;
    assert!(now.fenced, "{now:?}");
    let kept: std::collections::BTreeMap<String, u64> = server.command(&["HGETALL", HISTORIES]);
    assert_eq!(kept.len(), 64);
    assert!(
        kept.contains_key(&told(&server)) && !kept.contains_key("old 64"),
        "{kept:?}"
    );
}

#[tokio::test]
async fn a_redis_that_was_emptied_is_fenced_for_whoever_knew_it() {
    let mut server = Server::start().await;
    let witness = store(&server);
    let before = standing(&witness).await;
    seed(&witness, "a", 1).await;
    server.kill();
    std::fs::remove_dir_all(server.dir().join("appendonlydir")).unwrap();
    server.run().await;
    // Whoever did not know it takes it for new;
    assert_eq!(standing(&store(&server)).await.age, Duration::MAX);
    // one that did corrects that for all who come.
    assert!(standing_after(&witness, &before).await.fenced);
    assert!(standing(&store(&server)).await.fenced);
}

#[tokio::test]
async fn a_redis_that_is_emptied_while_it_runs_tells_a_new_history() {
    let server = Server::start().await;
    let one = store(&server);
    let before = standing(&one).await;
    seed(&one, "a", 1).await;
    let two = store(&server);
    assert_eq!(standing(&two).await.history, before.history);
    let _: String = server.command(&["FLUSHALL"]);
    // No connection breaks; the one that has seen an account says that it was lost, and whoever comes hears it.
    let found = standing_after(&one, &before).await;
    assert!(found.fenced, "{found:?}");
    let same = until("the other one is told the same", async || {
        (standing(&two).await.history == found.history).then_some(())
    });
    same.await;
    assert_eq!(standing(&store(&server)).await.history, found.history);
}

#[tokio::test]
async fn a_clock_that_was_set_back_makes_no_long_fence() {
    let mut server = Server::start().await;
    seed(&store(&server), "a", 1).await;
    server.kill();
    server.run().await;
    let (now, _): (u64, u64) = server.command(&["TIME"]);
    let future = ((now + 86_400) * 1_000).to_string();
    let _: i64 = server.command(&["HSET", HISTORIES, &told(&server), &future]);
    let found = standing(&store(&server)).await;
    assert!(
        found.fenced && found.age < Duration::from_secs(5),
        "{found:?}"
    );
    let since: u64 = server.command(&["HGET", HISTORIES, &told(&server)]);
    assert!(since < (now + 3_600) * 1_000, "{since}");
}

#[tokio::test]
async fn a_promotion_under_a_living_connection_is_a_new_history() {
    let server = Server::start().await;
    let one = store(&server);
    let before = standing(&one).await;
    seed(&one, "a", 1).await;
    let connections = || {
        let stats: String = server.command(&["INFO", "clients"]);
        let line = stats
            .lines()
            .find_map(|l| l.strip_prefix("connected_clients:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let open = connections();
    let _: String = server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let _: String = server.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(connections(), open, "none was closed");
    assert!(standing_after(&one, &before).await.fenced);
}
