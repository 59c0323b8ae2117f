//! A Redis that cuts connections, loses replies, freezes, is away, is killed, is full, is demoted: calls fail in time, and what
//! they did counts once.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;
use tollgate::store::redis::{Reach, RedisStore, Settings};
use tollgate::store::{Change, StoreError};

use super::redis::{hear, listening, store, unavailable};
use super::*;
use crate::support::redis::Server;

#[tokio::test]
async fn cut_connections_are_made_again() {
    let server = Server::start().await;
    let store = store(&server);
    seed(&store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    for _ in 0..5 {
        let _: i64 = server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        speaker.spend += 10;
        // A call that was in flight fails; the next one has a new connection. What the first one did counts once.
        for _ in 0..100 {
            let message = speaker.message(0, 0, 0);
            match store
                .publish(&speaker.replica, vec![message])
                .await
                .remove(0)
            {
                Err(StoreError::Unavailable(_)) => {}
                answer => speaker.believed = answer.unwrap().standing,
            }
            if speaker.believed.spend == nano(speaker.spend) {
                break;
            }
        }
    }
    let now = snapshot(&store, "a").await;
    assert_eq!((now.spend, now.unleased), (nano(50), nano(950)));
}

/// A way to the server over TCP that loses replies: while `lossy`, what the server answers is thrown away and the connection
/// is cut, after the server has done what it was asked.
async fn lossy_way(server: &Server, lossy: &Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (socket, lossy) = (server.socket(), Arc::clone(lossy));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (far, lossy) = (
                UnixStream::connect(&socket).await.unwrap(),
                Arc::clone(&lossy),
            );
            tokio::spawn(async move {
                let ((mut asks, mut hears), (mut answers, mut does)) =
                    (near.into_split(), far.into_split());
                let forward = async { tokio::io::copy(&mut asks, &mut does).await };
                let back = async {
                    let mut buffer = vec![0; 65_536];
                    loop {
                        let count = answers.read(&mut buffer).await.unwrap_or(0);
                        if count == 0 || lossy.swap(false, SeqCst) {
                            break;
                        }
                        hears.write_all(&buffer[..count]).await.unwrap();
                    }
                };
                tokio::select! { _ = forward => {}, () = back => {} }
            });
        }
    });
    url
}

#[tokio::test]
async fn lost_replies_count_once() {
    let server = Server::start().await;
    let lossy = Arc::new(AtomicBool::new(false));
    let url = lossy_way(&server, &lossy).await;
    let store = RedisStore::connect(
        Settings {
            reach: Reach::Server(url),
            ..Settings::default()
        },
        Clock::system(),
    );
    let store = store.unwrap();
    seed(&store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    let (mut lost, mut told) = (0, 0);
    for round in 0..60 {
        speaker.spend += 1;
        store.ping().await.unwrap();
        lossy.store(round % 3 == 0, SeqCst);
        let message = speaker.message(0, 2, 0);
        match store
            .publish(&speaker.replica, vec![message])
            .await
            .remove(0)
        {
            Err(StoreError::Unavailable(_)) => lost += 1,
            answer => {
                let answer = answer.unwrap();
                told += u32::from(!answer.applied);
                speaker.believed = answer.standing;
            }
        }
    }
    assert_eq!(
        (lost, told),
        (20, 20),
        "each lost reply is answered with what stands"
    );
    while speaker.believed.spend != nano(60) {
        speaker.say(&store, 0, 0, 0).await;
    }
    let now = snapshot(&store, "a").await;
    let committed = speaker.believed.committed.nanos();
    assert_eq!(
        (now.spend, now.unleased),
        (nano(60), nano(1_000 - committed))
    );

    // A commit whose reply was lost conflicts when it is sent again.
    let again = plain(1, book("a", 7), 7);
    lossy.store(true, SeqCst);
    unavailable(&store.commit(again.clone()).await);
    assert_eq!(store.commit(again).await.unwrap(), Stored::Conflict);
    assert_eq!(
        snapshot(&store, "a").await.unleased,
        nano(1_007 - committed)
    );
}

#[tokio::test]
async fn a_frozen_redis_is_unavailable_within_the_timeout() {
    let server = Server::start().await;
    let settings = Settings {
        reach: Reach::Server(server.url()),
        connect_timeout: Duration::from_millis(200),
        response_timeout: Duration::from_millis(200),
        ..Settings::default()
    };
    let store = Arc::new(RedisStore::connect(settings, Clock::system()).unwrap());
    seed(&*store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.spend = 10;
    speaker.say(&*store, 0, 100, 0).await;
    server.freeze();
    speaker.spend = 30;
    let lost = speaker.message(0, 100, 0);
    // Twice what one call may take, for a busy machine; 50 callers at once must not wait for one another.
    let patience = Duration::from_secs(2);
    let calls = (0..50).map(|_| {
        let (store, lost) = (Arc::clone(&store), lost.clone());
        async move {
            unavailable(&store.ping().await);
            unavailable(&store.publish(&replica("r-1"), vec![lost]).await.remove(0));
            unavailable(&store.commit(plain(1, book("a", 5), 5)).await);
        }
    });
    timeout(patience, futures_util::future::join_all(calls))
        .await
        .expect("they end in time");
    server.thaw();
    let now = until("it answers again", async || {
        store.read(&account("a"), &[]).await.ok().flatten()
    });
    let now = now.await;
    // What was sent may have been carried out meanwhile, once at most.
    assert!([nano(10), nano(30)].contains(&now.spend), "{now:?}");
    let answer = speaker.say(&*store, 0, 0, 0).await;
    assert!(
        answer.applied || answer.standing.spend == nano(30),
        "{answer:?}"
    );
    if !answer.applied {
        assert!(speaker.say(&*store, 0, 0, 0).await.applied);
    }
    let now = snapshot(&*store, "a").await;
    let committed = speaker.believed.committed.nanos();
    let credit = 1_000 + 5 * i64::from(now.version == 2);
    assert_eq!(
        (now.spend, now.unleased),
        (nano(30), nano(credit - committed))
    );
}

#[tokio::test]
async fn a_redis_that_is_away_at_the_start_may_come() {
    let mut server = Server::later();
    let store = store(&server);
    let mut changes = store.changes();
    for _ in 0..3 {
        unavailable(&store.ping().await);
    }
    unavailable(
        &store
            .publish(
                &replica("r-1"),
                vec![Speaker::new("a", "r-1").message(0, 0, 0)],
            )
            .await[0],
    );
    server.run().await;
    store.ping().await.unwrap();
    hear(&mut changes, &Change::All).await;
    seed(&store, "a", 1).await;
}

#[tokio::test]
async fn a_killed_redis_that_kept_its_file_goes_on() {
    let mut server = Server::start().await;
    let store = store(&server);
    seed(&store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.spend = 10;
    speaker.say(&store, 0, 100, 0).await;
    server.kill();
    unavailable(&store.ping().await);
    server.run().await;
    speaker.spend = 20;
    let answer = speaker.say(&store, 0, 0, 0).await;
    assert_eq!(
        (answer.applied, answer.total, answer.unleased),
        (true, nano(20), nano(890))
    );
}

#[tokio::test]
async fn a_full_redis_changes_nothing() {
    let server = Server::start().await;
    let store = store(&server);
    seed(&store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.spend = 10;
    let message = speaker.message(0, 100, 0);
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    unavailable(&store.publish(&speaker.replica, vec![message.clone()]).await[0]);
    unavailable(&store.commit(plain(1, book("a", 5), 5)).await);
    unavailable(&store.put_key(1, key("a", "k1", "d")).await);
    unavailable(&store.put_document("prices", 0, Vec::new(), false).await);
    let now = snapshot(&store, "a").await;
    assert_eq!(
        (now.version, now.spend, now.unleased),
        (1, nano(0), nano(1_000))
    );
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let answer = send(&store, &speaker.replica, message).await;
    assert_eq!(
        (answer.applied, answer.total, answer.unleased),
        (true, nano(10), nano(890))
    );
    assert_eq!(
        store.commit(plain(1, book("a", 5), 5)).await.unwrap(),
        Stored::At(2)
    );
}

#[tokio::test]
async fn a_demoted_redis_is_left() {
    let server = Server::start().await;
    let store = store(&server);
    seed(&store, "a", 1_000).await;
    listening(&server).await;
    // The server's own count; each asking adds one.
    let connections = || {
        let stats: String = server.command(&["INFO", "stats"]);
        let line = stats
            .lines()
            .find_map(|l| l.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let _: String = server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let before = connections();
    unavailable(&store.commit(plain(1, book("a", 5), 5)).await);
    // Each further call is a new connection, which may find the new master; this one is not taken for it.
    for _ in 0..2 {
        let error = store.ping().await.unwrap_err().to_string();
        assert!(error.contains("it is a replica"), "{error}");
    }
    assert!(connections() - before >= 3, "and the asking is one");
    let _: String = server.command(&["REPLICAOF", "NO", "ONE"]);
    // What it is now may have lost what it was: it could have taken another's data meanwhile.
    let fenced = store.commit(plain(1, book("a", 5), 5)).await;
    assert!(matches!(fenced, Err(StoreError::Fenced(_))), "{fenced:?}");
}
