//! A master that is watched by sentinels: found through them, and lost and found again.

use tokio::time::Instant;
use tollgate::store::redis::{Login, Reach, RedisStore, Settings};
use tollgate::store::{Change, StoreError};

use super::redis::{hear, unavailable};
use tollgate::store::Scarce;

use super::*;
use crate::support::redis::{MASTER, Watched};

fn store(sentinels: Vec<String>, master: &str) -> RedisStore {
    let settings = Settings {
        reach: Reach::Sentinels {
            sentinels,
            master: master.into(),
            login: Login::default(),
        },
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
    let store = store(watched.addresses(), MASTER);
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
