//! What only Redis can show: forgotten scripts, changes over processes, what a crash between two steps leaves. How it fails as a
//! server is in `outages.rs`.

use tokio::time::timeout;
use tollgate::store::redis::{Login, Reach, RedisStore, Settings};
use tollgate::store::{Change, StoreError};

use tollgate::store::Scarce;

use super::*;
use crate::support::redis::Server;

/// As the user of `deploy/redis.acl`, so that whatever the suite does is allowed there.
pub(super) fn login() -> Login {
    Login {
        user: Some("tollgate".into()),
        password: Some("s3cret".into()),
    }
}

pub(super) async fn fixture() -> Fixture {
    let server = Server::start().await;
    server.allow("s3cret", "tg:");
    let settings = Settings {
        reach: Reach::Server(server.url()),
        login: login(),
        fence: FENCE,
        ..Settings::default()
    };
    let store = RedisStore::connect(settings, Clock::system()).unwrap();
    listening(&server).await;
    Fixture {
        store: Arc::new(store),
        clock: Clock::system(),
        fence: FENCE,
        _keep: Box::new(server),
    }
}

/// Waits until the store has subscribed: what changes before is not told.
pub(super) async fn listening(server: &Server) {
    until("it listens for changes", async || {
        let (_, listeners): (String, u64) = server.command(&["PUBSUB", "NUMSUB", "tg:changes"]);
        (listeners == 1).then_some(())
    })
    .await;
}

pub(super) fn store(server: &Server) -> RedisStore {
    RedisStore::connect(
        Settings {
            reach: Reach::Server(server.url()),
            ..Settings::default()
        },
        Clock::system(),
    )
    .unwrap()
}

/// Waits for a change that passes.
pub(super) async fn hear(changes: &mut tokio::sync::broadcast::Receiver<Change>, due: &Change) {
    let hearing = async { while changes.recv().await.unwrap() != *due {} };
    timeout(Duration::from_secs(10), hearing)
        .await
        .expect("the change is told");
}

pub(super) fn unavailable<T: std::fmt::Debug>(answer: &Result<T, StoreError>) {
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let server = Server::start().await;
    let store = store(&server);
    seed(&store, "a", 1_000).await;
    seed(&store, "b", 1_000).await;
    let mut pair = [Speaker::new("a", "r-1"), Speaker::new("b", "r-1")];
    for round in 1..4 {
        let _: String = server.command(&["SCRIPT", "FLUSH"]);
        let batch: Vec<_> = pair
            .iter_mut()
            .map(|speaker| {
                speaker.spend += 1;
                speaker.message(0, 7, 0)
            })
            .collect();
        let answers = store.publish(&replica("r-1"), batch).await;
        for (speaker, answer) in pair.iter_mut().zip(answers) {
            let answer = answer.unwrap();
            assert_eq!((answer.applied, answer.total), (true, nano(round)));
            speaker.believed = answer.standing;
        }
    }
    let _: String = server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(
        store.commit(plain(1, book("a", 1), 1)).await.unwrap(),
        Stored::At(2)
    );
    let spends = store.spend_since(0, 9).await.unwrap();
    assert!(
        spends.iter().all(|spend| spend.total == nano(3)) && spends.len() == 2,
        "{spends:?}"
    );
}

#[tokio::test]
async fn listeners_hear_that_they_may_have_missed_something() {
    let server = Server::start().await;
    let store = store(&server);
    let mut changes = store.changes();
    hear(&mut changes, &Change::All).await;
    seed(&store, "a", 1).await;
    hear(&mut changes, &Change::Account(account("a"), 1)).await;
    let killed: i64 = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, 1);
    hear(&mut changes, &Change::All).await;
    store.commit(plain(1, book("a", 2), 1)).await.unwrap();
    hear(&mut changes, &Change::Account(account("a"), 2)).await;
    let _: i64 = server.command(&["PUBLISH", "tg:changes", "a newer tollgate's word"]);
    hear(&mut changes, &Change::All).await;
}

#[tokio::test]
async fn changes_reach_other_processes_of_the_same_prefix() {
    let server = Server::start().await;
    let [one, two] = [store(&server), store(&server)];
    let apart = RedisStore::connect(
        Settings {
            reach: Reach::Server(server.url()),
            prefix: "other:".into(),
            ..Settings::default()
        },
        Clock::system(),
    );
    let apart = apart.unwrap();
    let (mut heard, mut unheard) = (two.changes(), apart.changes());
    hear(&mut heard, &Change::All).await;
    hear(&mut unheard, &Change::All).await;
    seed(&one, "a", 5).await;
    one.tell_scarce(&account("a"), Scarce::Money).await.unwrap();
    hear(&mut heard, &Change::Scarce(account("a"), Scarce::Money)).await;
    assert_eq!(snapshot(&two, "a").await.unleased, nano(5));
    assert!(apart.read(&account("a"), &[]).await.unwrap().is_none());
    seed(&apart, "b", 1).await;
    let first = timeout(Duration::from_secs(10), unheard.recv())
        .await
        .unwrap();
    assert_eq!(first, Ok(Change::Account(account("b"), 1)));
}

#[tokio::test]
async fn events_left_in_an_outbox_are_relayed_once() {
    let server = Server::start().await;
    let store = store(&server);
    let mut commit = plain(0, book("a", 5), 5);
    (commit.book.events, commit.events) = (1, vec![event("a", 1)]);
    store.commit(commit).await.unwrap();
    let feed = || async {
        let events = store.events(0, 9).await.unwrap();
        assert!(events.is_sorted_by(|a, b| a.0 < b.0), "{events:?}");
        events
            .into_iter()
            .map(|(_, event)| event.id)
            .collect::<Vec<_>>()
    };
    let due: Vec<_> = (1..=3).map(|n| format!("a/{n}")).collect();
    assert_eq!(feed().await, due[..1]);
    // What a crash after the commit leaves, and one between relaying and draining.
    let mut speaker = Speaker::new("a", "r-1");
    for (number, all) in [(1, &due[..1]), (2, &due[..2]), (3, &due[..])] {
        let json = serde_json::to_string(&event("a", number)).unwrap();
        let _: i64 = server.command(&["RPUSH", "tg:a:{a}:outbox", &json]);
        match number {
            1 => drop(
                store
                    .open(&account("a"), &replica("r-1"), Hour(0))
                    .await
                    .unwrap(),
            ),
            2 => drop(speaker.say(&store, 0, 0, 0).await),
            _ => drop(snapshot(&store, "a").await),
        }
        assert_eq!(feed().await, all);
        assert_eq!(server.command::<i64>(&["EXISTS", "tg:a:{a}:outbox"]), 0);
    }
}

#[tokio::test]
async fn the_feed_of_events_is_bounded() {
    let server = Server::start().await;
    let store = store(&server);
    let fill = "for i = 1, 100000 do redis.call('ZADD', KEYS[1], i, 'old ' .. i) end; \
                return redis.call('SET', KEYS[2], '100000')";
    let (feed, sequence) = ("tg:f:{feed}:events", "tg:f:{feed}:events:sequence");
    let _: String = server.command(&["EVAL", fill, "2", feed, sequence]);
    let mut commit = plain(0, book("a", 5), 5);
    commit.book.events = 2;
    commit.events = vec![event("a", 1), event("a", 2)];
    store.commit(commit).await.unwrap();
    assert_eq!(server.command::<u64>(&["ZCARD", feed]), 100_000);
    let oldest: Vec<String> = server.command(&["ZRANGE", feed, "0", "0"]);
    assert_eq!(oldest, ["old 3"]);
    let newest = store.events(100_000, 9).await.unwrap();
    let ids: Vec<_> = newest.iter().map(|(_, event)| event.id.as_str()).collect();
    assert_eq!(ids, ["a/1", "a/2"]);
}

/// Both feeds: what a reader has seen of them before Redis was emptied is not in its way after.
#[tokio::test]
async fn a_reader_of_the_feeds_goes_on_after_redis_was_emptied() {
    let server = Server::start().await;
    let store = store(&server);
    let (mut seen, mut spent) = (0, 0);
    for _ in 0..3 {
        let mut commit = plain(0, book("a", 5), 5);
        commit.book.events = 3;
        commit.events = (1..=3).map(|n| event("a", n)).collect();
        store.commit(commit).await.unwrap();
        let mut speaker = Speaker::new("a", "r-1");
        speaker.spend = 3;
        speaker.say(&store, 0, 0, 0).await;
        let events = store.events(seen, 9).await.unwrap();
        let ids: Vec<_> = events.iter().map(|(_, event)| event.id.as_str()).collect();
        assert_eq!(ids, ["a/1", "a/2", "a/3"], "after {seen}");
        seen = events.last().unwrap().0;
        let spends = store.spend_since(spent, 9).await.unwrap();
        assert_eq!(spends.len(), 1, "after {spent}");
        spent = spends[0].sequence;
        let _: String = server.command(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn events_that_the_feed_lost_are_announced_again() {
    let server = Server::start().await;
    let store = store(&server);
    let mut commit = plain(0, book("a", 5), 5);
    commit.book.events = 2;
    commit.events = vec![event("a", 1), event("a", 2)];
    store.commit(commit.clone()).await.unwrap();
    let before = store.events(0, 9).await.unwrap();
    store.announce(&commit.events).await.unwrap();
    assert_eq!(
        store.events(0, 9).await.unwrap(),
        before,
        "nothing was lost"
    );
    let lost = serde_json::to_string(&event("a", 1)).unwrap();
    let _: u64 = server.command(&["ZREM", "tg:f:{feed}:events", &lost]);
    store.announce(&commit.events).await.unwrap();
    let after = store.events(0, 9).await.unwrap();
    assert_eq!(after[0], before[1]);
    assert_eq!(after[1].1, event("a", 1), "the same event, under its id");
    assert!(after[1].0 > before[1].0);
}

#[tokio::test]
async fn a_digest_is_claimed_before_its_key_is_written() {
    let server = Server::start().await;
    let store = store(&server);
    seed(&store, "a", 1).await;
    // What a crash between the two leaves.
    let _: String = server.command(&["SET", "tg:k:d", "a|k1"]);
    assert_eq!(store.find_key("d").await.unwrap(), None);
    assert_eq!(
        store.put_key(1, key("a", "k2", "d")).await.unwrap(),
        Stored::Conflict
    );
    assert_eq!(
        store.put_key(1, key("a", "k1", "d")).await.unwrap(),
        Stored::At(2)
    );
    assert_eq!(
        store.find_key("d").await.unwrap(),
        Some((account("a"), key_id("k1")))
    );
}

#[tokio::test]
async fn spend_that_was_not_announced_is_later() {
    let server = Server::start().await;
    let store = store(&server);
    seed(&store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.spend = 10;
    let message = speaker.message(0, 0, 0);
    send(&store, &speaker.replica, message).await;
    // As if the connection had been cut between the message and the word about it.
    let forget = || server.command::<i64>(&["DEL", "tg:f:{feed}:spend"]);
    assert_eq!(forget(), 1);
    // The replica lost what it knew, and has spent nothing since: only the answer shows that something stands.
    speaker.spend = 0;
    let answer = speaker.say(&store, 0, 0, 0).await;
    assert!(!answer.applied, "it believes in zeros");
    assert_eq!(store.spend_since(0, 9).await.unwrap()[0].total, nano(10));
    assert_eq!(forget(), 1);
    store
        .open(&account("a"), &replica("r-2"), Hour(0))
        .await
        .unwrap();
    assert_eq!(store.spend_since(0, 9).await.unwrap().len(), 1);
    // A word about an account that is not there lists nothing.
    let mut nobody = Speaker::new("nobody", "r-1");
    nobody.spend = 1;
    let answers = store
        .publish(&replica("r-1"), vec![nobody.message(0, 0, 0)])
        .await;
    assert!(
        matches!(answers[..], [Err(StoreError::NoAccount(_))]),
        "{answers:?}"
    );
    assert_eq!(store.spend_since(0, 1).await.unwrap().len(), 1);
    assert_eq!(store.spend_since(0, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_account_that_was_never_written_is_not_listed() {
    let server = Server::start().await;
    let store = store(&server);
    for name in ["a", "c", "e"] {
        seed(&store, name, 1).await;
    }
    for name in ["b", "d"] {
        let _: i64 = server.command(&["ZADD", "tg:accounts", "0", name]);
    }
    assert_eq!(
        store.accounts(None, 2).await.unwrap(),
        [account("a"), account("c")]
    );
    assert_eq!(
        store.accounts(Some(&account("a")), 9).await.unwrap(),
        [account("c"), account("e")]
    );
}

#[tokio::test]
async fn a_foreign_key_is_corrupt_and_nothing_is_lost() {
    let server = Server::start().await;
    let store = store(&server);
    let _: String = server.command(&["SET", "tg:a:{a}:head", "foreign"]);
    let read = store.read(&account("a"), &[]).await;
    assert!(
        matches!(
            read,
            Err(StoreError::Corrupt(_) | StoreError::Unavailable(_))
        ),
        "{read:?}"
    );
    seed(&store, "b", 1).await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    for (url, prefix) in [
        ("http://x", "tg:"),
        ("", "tg:"),
        ("redis://localhost", "{x}"),
    ] {
        let refused = RedisStore::connect(
            Settings {
                reach: Reach::Server(url.into()),
                prefix: prefix.into(),
                ..Settings::default()
            },
            Clock::system(),
        );
        unavailable(&refused);
    }
    let secret = Settings {
        reach: Reach::Server("redis://:secret@localhost".into()),
        ..Settings::default()
    };
    assert!(!format!("{secret:?}").contains("secret"));
}
