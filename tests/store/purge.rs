//! The end of an account: all of it leaves, and its name is never used again.

use tollgate::ledger::Claim;
use tollgate::store::desk::Desk;
use tollgate::store::shared::Ground;
use tollgate::store::{Change, Commit, Restore, StoreError};

use super::*;

/// An account with entries, a claim, an event, a key, two replicas (one of them retired) and usage.
async fn lived(f: &Fixture, name: &str) -> u64 {
    let store = &*f.store;
    let claim = Claim {
        fingerprint: "f".into(),
        entry: entry(1),
    };
    let commit = Commit {
        entries: vec![entry(1)],
        events: vec![event(name, 1)],
        claims: vec![("k:r1".into(), claim)],
        book: Book {
            entries: 1,
            ..book(name, 1_000)
        },
        ..plain(0, book(name, 1_000), 1_000)
    };
    assert_eq!(store.commit(commit).await.unwrap(), Stored::At(1));
    let put = store
        .put_key(1, key(name, "k1", &format!("d-{name}")))
        .await;
    assert_eq!(put.unwrap(), Stored::At(2));
    for who in ["r-1", "r-2"] {
        let mut speaker = Speaker::new(name, who);
        speaker.spend = 10;
        speaker.usage = vec![
            usage(None, "k1", "m", 1, 10),
            usage(Some(10), "k1", "m", 1, 10),
        ];
        speaker.say(store, 0, 50, 0).await;
    }
    2
}

async fn is_gone(store: &dyn Store, name: &str) {
    let id = account(name);
    assert!(store.read(&id, &["k:r1".into()]).await.unwrap().is_none());
    let opened = store.open(&id, &replica("r-1"), Hour(10)).await;
    assert!(opened.unwrap().is_none());
    assert!(store.keys(&id).await.unwrap().is_empty());
    assert_eq!(store.find_key(&format!("d-{name}")).await.unwrap(), None);
    assert!(store.entries(&id, 0, 10).await.unwrap().is_empty());
    let usage = store.usage(&id, Hour(0), Hour(99)).await;
    assert!(usage.unwrap().is_empty());
    let listed = store.accounts(None, 10).await.unwrap();
    assert!(!listed.contains(&id));
    let spends = store.spend_since(0, 10).await.unwrap();
    assert!(spends.iter().all(|spend| spend.account != id));
}

pub(super) async fn nothing_of_a_purged_account_is_left_and_it_never_comes_back(f: &Fixture) {
    let store = &*f.store;
    let version = lived(f, "a").await;
    lived(f, "b").await;
    let mut changes = store.changes();
    assert_eq!(store.purged(&account("a")).await.unwrap(), None);
    let purged = store.purge(&account("a"), version, NOON).await.unwrap();
    assert!(matches!(purged, Stored::At(_)));
    is_gone(store, "a").await;
    assert_eq!(store.purged(&account("a")).await.unwrap(), Some(NOON));
    let told = until("it is told", async || {
        loop {
            match changes.try_recv() {
                Ok(Change::Account(id, _)) if id == account("a") => break Some(()),
                Ok(_) => {}
                Err(_) => break None,
            }
        }
    });
    told.await;
    // Neither opened again, nor put back by a replica that remembers it, nor spoken of.
    let again = store.commit(plain(0, book("a", 5), 5)).await;
    assert!(matches!(again, Err(StoreError::Purged(_))), "{again:?}");
    let back = Commit {
        restore: Some(Restore {
            version: 9,
            entries_gone: 0,
        }),
        ..plain(0, book("a", 5), 5)
    };
    let back = store.commit(back).await;
    assert!(matches!(back, Err(StoreError::Purged(_))), "{back:?}");
    let message = Speaker::new("a", "r-1").message(0, 1, 1);
    let answers = store.publish(&replica("r-1"), vec![message]).await;
    assert!(
        matches!(answers.as_slice(), [Err(StoreError::NoAccount(_))]),
        "{answers:?}"
    );
    let put = store.put_key(0, key("a", "k2", "d2")).await;
    assert!(matches!(put, Err(StoreError::NoAccount(_))), "{put:?}");
    is_gone(store, "a").await;
    // Repeated, it changes nothing, not even when it was.
    let later = NOON.plus(Duration::from_secs(1));
    let again = store.purge(&account("a"), 7, later).await.unwrap();
    assert!(matches!(again, Stored::At(_)));
    assert_eq!(store.purged(&account("a")).await.unwrap(), Some(NOON));
    // The other one is whole, and the digest is free for another key.
    let other = snapshot(store, "b").await;
    assert_eq!((other.version, other.spend), (2, nano(20)));
    assert_eq!(store.keys(&account("b")).await.unwrap().len(), 1);
    assert_eq!(store.entries(&account("b"), 0, 10).await.unwrap().len(), 1);
    let put = store.put_key(2, key("b", "k2", "d-a")).await.unwrap();
    assert_eq!(put, Stored::At(3));
    // What happened stays told.
    let events = store.events(0, 10).await.unwrap();
    assert_eq!(events.len(), 2);
}

pub(super) async fn a_purged_account_leaves_the_feed_of_spend_as_it_was(f: &Fixture) {
    let store = &*f.store;
    let version = lived(f, "a").await;
    let last = store.spend_since(0, 10).await.unwrap()[0].sequence;
    store.purge(&account("a"), version, NOON).await.unwrap();
    // The place of what follows is after every place that a reader has seen.
    lived(f, "b").await;
    let after = store.spend_since(last, 10).await.unwrap();
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after[0].account, account("b"));
}

pub(super) async fn only_the_version_that_was_read_is_purged(f: &Fixture) {
    let store = &*f.store;
    let version = lived(f, "a").await;
    let stale = store.purge(&account("a"), version - 1, NOON).await;
    assert_eq!(stale.unwrap(), Stored::Conflict);
    assert_eq!(snapshot(store, "a").await.version, version);
    let none = store.purge(&account("none"), 0, NOON).await;
    assert!(matches!(none, Err(StoreError::NoAccount(_))), "{none:?}");
    assert_eq!(store.purged(&account("none")).await.unwrap(), None);
}

/// The model that the simulator and the planner go by forgets as the stores do.
#[test]
fn the_model_of_a_store_forgets_too() {
    let (mut desk, ground, name) = (Desk::default(), Ground::default(), account("a"));
    let none = desk.purge(&name, 0, NOON);
    assert!(matches!(none, Err(StoreError::NoAccount(_))), "{none:?}");
    desk.commit(&plain(0, book("a", 5), 5), &ground).unwrap();
    desk.put_key(1, key("a", "k1", "d1"));
    assert_eq!(desk.purge(&name, 1, NOON).unwrap(), Stored::Conflict);
    assert!(matches!(desk.purge(&name, 2, NOON), Ok(Stored::At(_))));
    assert!(desk.read(&[]).is_none() && desk.keys.is_empty());
    let again = desk.commit(&plain(0, book("a", 5), 5), &ground);
    assert!(matches!(again, Err(StoreError::Purged(_))), "{again:?}");
    assert!(matches!(desk.purge(&name, 9, NOON), Ok(Stored::At(_))));
    assert_eq!(desk.purged, Some(NOON));
}
