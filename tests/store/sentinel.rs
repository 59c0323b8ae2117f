//! A master that is watched by sentinels: found through them, and lost and found again.

use tokio::time::Instant;
use tollgate::store::redis::{Login, Reach, RedisStore, Settings, TlsFiles};
use tollgate::store::{Change, StoreError};

use super::redis::{hear, unavailable};
use tollgate::store::Scarce;

use super::*;
use crate::support::redis::{Authority, MASTER, Watched};

fn store(sentinels: Vec<String>, master: &str) -> RedisStore {
    store_as(Login::default(), Login::default(), sentinels, master)
}

fn store_as(there: Login, to_sentinels: Login, sentinels: Vec<String>, master: &str) -> RedisStore {
    let settings = Settings {
        reach: Reach::Sentinels {
            sentinels,
            master: master.into(),
            login: to_sentinels,
        },
        login: there,
        ..Settings::default()
    };
    RedisStore::connect(settings, Clock::system()).unwrap()
}

/// Half a second until it is noticed, a second or two for the election, twice that for a busy machine.
const FAILOVER_MAX: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_under_messages_is_replaced() {
    let mut watched = Watched::start().await;
    // One that is not there is no matter.
    let mut sentinels = vec!["127.0.0.1:1".to_owned()];
    sentinels.extend(watched.addresses());
    let store = store(sentinels, MASTER);
    let mut changes = store.changes();
    hear(&mut changes, &Change::All).await;
    seed(&store, "a", 1_000).await;
    let before = store.standing_of(&account("a")).await.unwrap();
    assert!(!before.fenced);
    let mut speaker = Speaker::new("a", "r-1");
    let say = async |speaker: &mut Speaker| {
        let message = speaker.message(0, 1, 0);
        let answers = store.publish(&speaker.replica, vec![message]).await;
        answers.into_iter().next().unwrap()
    };
    for _ in 0..20 {
        speaker.spend += 1;
        speaker.believed = say(&mut speaker).await.unwrap().standing;
    }
    // What was acknowledged is at the replica, so that nothing is lost.
    let _: i64 = watched.servers[0].command(&["WAIT", "1", "5000"]);
    watched.servers[0].kill();
    let began = Instant::now();
    let mut failed = 0;
    speaker.spend += 1;
    while speaker.believed.spend != nano(speaker.spend) {
        let asked = Instant::now();
        match say(&mut speaker).await {
            Err(StoreError::Unavailable(_)) => failed += 1,
            answer => speaker.believed = answer.unwrap().standing,
        }
        // Two timeouts of half a second, twice over for a busy machine.
        assert!(asked.elapsed() < Duration::from_secs(2));
        assert!(began.elapsed() < FAILOVER_MAX, "after {failed} attempts");
        tokio::task::yield_now().await;
    }
    assert!(failed > 0, "it was away in between");
    assert_eq!(snapshot(&store, "a").await.spend, nano(21));
    let after = store.standing_of(&account("a")).await.unwrap();
    assert_ne!(after.history, before.history);
    assert!(after.fenced, "{after:?}");
    // The listener is at the new master too.
    hear(&mut changes, &Change::All).await;
    store
        .tell_scarce(&account("a"), Scarce::Money)
        .await
        .unwrap();
    hear(&mut changes, &Change::Scarce(account("a"), Scarce::Money)).await;
}

#[tokio::test]
async fn a_switched_master_is_followed_while_the_old_one_lives() {
    let watched = Watched::start().await;
    // As users who may do no more than the page says.
    for server in &watched.servers {
        server.allow("s3cret", "tg:");
    }
    for sentinel in &watched.sentinels {
        let rules = "watcher on >0ther -@all +ping +subscribe +sentinel|master &+switch-master";
        let mut words = vec!["ACL", "SETUSER"];
        words.extend(rules.split(' '));
        let _: () = sentinel.command(&words);
    }
    let watcher = Login {
        user: Some("watcher".into()),
        password: Some("0ther".into()),
    };
    let store = store_as(redis::login(), watcher, watched.addresses(), MASTER);
    let mut changes = store.changes();
    hear(&mut changes, &Change::All).await;
    seed(&store, "a", 1_000).await;
    let before = store.standing_of(&account("a")).await.unwrap();
    let _: i64 = watched.servers[0].command(&["WAIT", "1", "5000"]);
    let _: () = watched.sentinels[0].command(&["SENTINEL", "FAILOVER", MASTER]);
    // Nothing is written meanwhile that it could refuse: a sentinel's word is enough.
    until("the new master is found", async || {
        let now = store.standing_of(&account("a")).await.ok()?;
        (now.history != before.history).then_some(())
    })
    .await;
    let old: String = watched.servers[0].command(&["INFO", "replication"]);
    assert!(
        old.contains("role:master"),
        "it would still take writes: {old}"
    );
    let new: String = watched.servers[1].command(&["INFO", "replication"]);
    assert!(new.contains("role:master"), "{new}");
    // The old master would go on passing messages on; it is left all the same.
    hear(&mut changes, &Change::All).await;
    until("it listens at the new master", async || {
        let (_, count): (String, u64) =
            watched.servers[1].command(&["PUBSUB", "NUMSUB", "tg:changes"]);
        (count == 1).then_some(())
    })
    .await;
    let old: String = watched.servers[0].command(&["INFO", "replication"]);
    assert!(
        old.contains("role:master"),
        "it would have been cut off: {old}"
    );
}

#[tokio::test]
async fn sentinels_that_do_not_help_say_so() {
    let watched = Watched::start().await;
    let error = store(watched.addresses(), "nobody")
        .ping()
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("No such master with that name") && text.contains("`nobody`"),
        "{text}"
    );
    unavailable(&store(vec!["127.0.0.1:1".into()], MASTER).ping().await);
    // One that is frozen costs its part of the time, and no more.
    watched.sentinels[0].freeze();
    let store = store(watched.addresses(), MASTER);
    store.ping().await.unwrap();
    watched.sentinels[0].thaw();
}

#[tokio::test]
async fn tls_is_spoken_with_sentinels_and_master_alike() {
    let ours = Authority::new();
    let secured = ["--tls-replication", "yes"];
    let master = ours.server("127.0.0.1", false, &secured).await;
    let port = master.port("--tls-port").to_string();
    let sentinel = ours.sentinel("127.0.0.1", &port).await;
    let with = |tls| Settings {
        reach: Reach::Sentinels {
            sentinels: vec![format!("127.0.0.1:{}", sentinel.port("--tls-port"))],
            master: MASTER.into(),
            login: Login::default(),
        },
        tls,
        ..Settings::default()
    };
    let tls = TlsFiles {
        ca: Some(ours.ca()),
        ..TlsFiles::default()
    };
    let store = RedisStore::connect(with(Some(tls)), Clock::system()).unwrap();
    seed(&store, "a", 1).await;
    let plain = RedisStore::connect(with(None), Clock::system()).unwrap();
    unavailable(&plain.ping().await);
}
