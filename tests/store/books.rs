//! Books, claims, ledger, events, keys and documents.

use std::sync::Arc;

use tokio::time::timeout;
use tollgate::clock::Hour;
use tollgate::ledger::Claim;
use tollgate::store::{Change, Commit, Lapsed, Restore, Scarce, StoreError, Stored};

use super::*;

pub(super) async fn an_account_that_is_not_there(f: &Fixture) {
    let (store, none) = (&*f.store, account("none"));
    store.ping().await.unwrap();
    assert!(
        store
            .open(&none, &replica("r-1"), Hour(0))
            .await
            .unwrap()
            .is_none()
    );
    assert!(store.read(&none, &["k:a".into()]).await.unwrap().is_none());
    assert_eq!(
        store.commit(plain(1, book("none", 5), 5)).await.unwrap(),
        Stored::Conflict
    );
    let mut speaker = Speaker::new("none", "r-1");
    let answers = store
        .publish(&replica("r-1"), vec![speaker.message(0, 1, 1)])
        .await;
    assert!(
        matches!(answers.as_slice(), [Err(StoreError::NoAccount(name))] if *name == none),
        "{answers:?}"
    );
    let put = store.put_key(0, key("none", "k1", "d1")).await;
    assert!(matches!(put, Err(StoreError::NoAccount(_))), "{put:?}");
    assert_eq!(store.find_key("d1").await.unwrap(), None);
    let lapsed = store.lapse(&none, Duration::ZERO, Duration::ZERO).await;
    assert_eq!(lapsed.unwrap(), Lapsed::default());
    assert!(store.accounts(None, 10).await.unwrap().is_empty());
    assert!(store.keys(&none).await.unwrap().is_empty());
    assert!(store.entries(&none, 0, 10).await.unwrap().is_empty());
    assert!(
        store
            .usage(&none, Hour(0), Hour(9))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(store.spend_since(0, 10).await.unwrap().is_empty());
    assert_eq!(store.document("none").await.unwrap(), None);
}

pub(super) async fn a_commit_creates_once_and_conflicts_after(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 500).await;
    let again = store.commit(plain(0, book("a", 9), 9)).await.unwrap();
    assert_eq!(again, Stored::Conflict);
    let first = snapshot(store, "a").await;
    assert_eq!(
        (first.version, first.spend, first.unleased, &first.book),
        (1, nano(0), nano(500), &book("a", 500))
    );
    let second = store.commit(plain(1, book("a", 450), -50)).await.unwrap();
    assert_eq!(second, Stored::At(2));
    let late = store.commit(plain(1, book("a", 1), 1)).await.unwrap();
    assert_eq!(late, Stored::Conflict);
    let now = snapshot(store, "a").await;
    assert_eq!(
        (now.version, now.unleased, now.book),
        (2, nano(450), book("a", 450))
    );
}

pub(super) async fn claims_stand_with_their_effect(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 0).await;
    let claim = |text: &str| Claim {
        fingerprint: text.into(),
        entry: entry(1),
    };
    let names: Vec<String> = vec!["k:1".into(), "o:ünï|{x}".into(), "k:other".into()];
    let with = |expected| Commit {
        claims: vec![
            (names[0].clone(), claim("x")),
            (names[1].clone(), claim("y")),
        ],
        ..plain(expected, book("a", 1), 1)
    };
    assert_eq!(store.commit(with(7)).await.unwrap(), Stored::Conflict);
    let before = store.read(&account("a"), &names).await.unwrap().unwrap();
    assert_eq!(
        before.claims,
        [None, None, None],
        "a conflict claims nothing"
    );
    assert_eq!(store.commit(with(1)).await.unwrap(), Stored::At(2));
    let after = store.read(&account("a"), &names).await.unwrap().unwrap();
    assert_eq!(after.claims, [Some(claim("x")), Some(claim("y")), None]);
    assert_eq!(after.unleased, nano(1));
}

pub(super) async fn a_claim_is_never_replaced(f: &Fixture) {
    let store = &*f.store;
    let claiming = |expected, fingerprint: &str| Commit {
        claims: vec![(
            "o:1".into(),
            Claim {
                fingerprint: fingerprint.into(),
                entry: entry(1),
            },
        )],
        ..plain(expected, book("a", 1), 1)
    };
    assert_eq!(store.commit(claiming(0, "x")).await.unwrap(), Stored::At(1));
    assert_eq!(
        store.commit(claiming(1, "y")).await.unwrap(),
        Stored::Conflict
    );
    let now = store
        .read(&account("a"), &["o:1".into()])
        .await
        .unwrap()
        .unwrap();
    assert_eq!((now.version, now.unleased), (1, nano(1)));
    assert_eq!(now.claims[0].as_ref().unwrap().fingerprint, "x");
}

/// A commit that goes on from `before` with as many entries and events.
fn recording(expected: u64, name: &str, before: u64, count: u64) -> Commit {
    let numbers = before + 1..=before + count;
    let mut commit = plain(expected, book(name, 0), 0);
    commit.book.entries = before + count;
    commit.book.events = before + count;
    commit.entries = numbers.clone().map(entry).collect();
    commit.events = numbers.map(|n| event(name, n)).collect();
    commit
}

pub(super) async fn entries_come_in_pages(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    store.commit(recording(0, "a", 0, 3)).await.unwrap();
    store.commit(recording(1, "a", 3, 4)).await.unwrap();
    store.commit(recording(0, "aa", 0, 9)).await.unwrap();
    for (after, limit, expect) in [
        (0, 100, 1..=7),
        (0, 2, 1..=2),
        (2, 3, 3..=5),
        (5, 2, 6..=7),
        (6, 9, 7..=7),
    ] {
        let page = store.entries(&name, after, limit).await.unwrap();
        let want: Vec<_> = expect.map(entry).collect();
        assert_eq!(page, want, "after {after}, {limit}");
    }
    for (after, limit) in [(7, 5), (u64::MAX, 5), (0, 0)] {
        assert!(store.entries(&name, after, limit).await.unwrap().is_empty());
    }
}

pub(super) async fn entries_that_leave_a_gap_are_refused(f: &Fixture) {
    let store = &*f.store;
    store.commit(recording(0, "a", 0, 2)).await.unwrap();
    let mut wrong = recording(1, "a", 2, 2);
    wrong.book.entries = 9;
    for commit in [recording(1, "a", 3, 1), recording(1, "a", 1, 2), wrong] {
        let refused = store.commit(commit).await;
        assert!(
            matches!(refused, Err(StoreError::Corrupt(_))),
            "{refused:?}"
        );
    }
    assert_eq!(store.entries(&account("a"), 0, 9).await.unwrap().len(), 2);
    assert_eq!(snapshot(store, "a").await.version, 1);
}

pub(super) async fn events_are_ordered_and_resumable(f: &Fixture) {
    let store = &*f.store;
    let (mut expected, mut versions) = (Vec::new(), [0; 3]);
    for round in 0..4 {
        for (name, version) in ["a", "b", "c"].into_iter().zip(&mut versions) {
            let commit = recording(*version, name, round * 2, 2);
            expected.extend(commit.events.iter().map(|event| event.id.clone()));
            assert_eq!(
                store.commit(commit).await.unwrap(),
                Stored::At(*version + 1)
            );
            *version += 1;
        }
    }
    let conflict = store.commit(recording(1, "a", 8, 2)).await.unwrap();
    assert_eq!(conflict, Stored::Conflict);
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = store.events(after, 5).await.unwrap();
        assert!(page.len() <= 5);
        let Some((last, _)) = page.last() else { break };
        assert!(page.is_sorted_by(|a, b| a.0 < b.0) && page[0].0 > after);
        after = *last;
        seen.extend(page.into_iter().map(|(_, event)| event.id));
    }
    assert_eq!(seen, expected);
}

pub(super) async fn a_sum_beyond_the_range_changes_nothing(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", i64::MAX - 1).await;
    let refused = store.commit(plain(1, book("a", 0), 2)).await;
    assert!(
        matches!(refused, Err(StoreError::Corrupt(_))),
        "{refused:?}"
    );
    let now = snapshot(store, "a").await;
    assert_eq!((now.version, now.unleased), (1, nano(i64::MAX - 1)));
    assert_eq!(
        store.commit(plain(1, book("a", 0), 1)).await.unwrap(),
        Stored::At(2)
    );
    assert_eq!(snapshot(store, "a").await.unleased, nano(i64::MAX));
}

pub(super) async fn accounts_are_listed_in_order(f: &Fixture) {
    let store = &*f.store;
    for name in ["b", "a", "c-1", "B", "c", "feed"] {
        seed(store, name, 1).await;
    }
    let listed = |after: Option<&'static str>, limit| async move {
        let after = after.map(account);
        let names = store.accounts(after.as_ref(), limit).await.unwrap();
        names.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, 100).await, ["B", "a", "b", "c", "c-1", "feed"]);
    assert_eq!(listed(None, 2).await, ["B", "a"]);
    assert_eq!(listed(Some("a"), 3).await, ["b", "c", "c-1"]);
    assert_eq!(listed(Some("aa"), 1).await, ["b"]);
    assert!(listed(Some("feed"), 3).await.is_empty());
}

pub(super) async fn keys_are_put_found_and_revoked(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    seed(store, "a", 1).await;
    let (first, second) = (key("a", "k-2", "d2"), key("a", "k-1", "d1"));
    assert_eq!(
        store.put_key(1, first.clone()).await.unwrap(),
        Stored::At(2)
    );
    assert_eq!(
        store.put_key(1, second.clone()).await.unwrap(),
        Stored::Conflict
    );
    assert_eq!(
        store.find_key("d1").await.unwrap(),
        None,
        "it was never written"
    );
    assert_eq!(
        store.put_key(2, second.clone()).await.unwrap(),
        Stored::At(3)
    );
    assert_eq!(
        store.keys(&name).await.unwrap(),
        [second.clone(), first.clone()]
    );
    let revoked = KeyRecord {
        revoked: Some(NOON),
        ..first
    };
    assert_eq!(
        store.put_key(3, revoked.clone()).await.unwrap(),
        Stored::At(4)
    );
    let found = store.find_key("d2").await.unwrap();
    assert_eq!(found, Some((name.clone(), key_id("k-2"))));
    let opened = store
        .open(&name, &replica("r-1"), Hour(0))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(opened.keys, [second, revoked]);
    assert_eq!(opened.snapshot.version, 4);
    assert_eq!(store.find_key("d3").await.unwrap(), None);
}

pub(super) async fn a_digest_belongs_to_one_key(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1).await;
    seed(store, "b", 1).await;
    assert_eq!(
        store.put_key(1, key("a", "k1", "d")).await.unwrap(),
        Stored::At(2)
    );
    for (expected, record) in [
        (1, key("b", "k1", "d")),
        (2, key("a", "k2", "d")),
        (2, key("a", "k1", "e")),
    ] {
        let put = store.put_key(expected, record.clone()).await.unwrap();
        assert_eq!(put, Stored::Conflict, "{record:?}");
    }
    assert_eq!(
        store.find_key("d").await.unwrap(),
        Some((account("a"), key_id("k1")))
    );
    assert!(store.keys(&account("b")).await.unwrap().is_empty());
    assert_eq!(snapshot(store, "b").await.version, 1);
}

pub(super) async fn documents_are_compared_and_set(f: &Fixture) {
    let store = &*f.store;
    let body = vec![0, 255, b'{', b'\r', b'\n'];
    for (expected, body, stored) in [
        (1, b"x".to_vec(), Stored::Conflict),
        (0, body.clone(), Stored::At(1)),
        (0, b"y".to_vec(), Stored::Conflict),
        (1, Vec::new(), Stored::At(2)),
        (2, body.clone(), Stored::At(3)),
        (2, b"z".to_vec(), Stored::Conflict),
    ] {
        assert_eq!(
            store
                .put_document("prices", expected, body, false)
                .await
                .unwrap(),
            stored
        );
    }
    assert_eq!(store.document("prices").await.unwrap(), Some((3, body)));
    assert_eq!(store.document("policies").await.unwrap(), None);
}

pub(super) async fn changes_are_told(f: &Fixture) {
    let store = &*f.store;
    let mut changes = store.changes();
    seed(store, "a", 1).await;
    store.put_key(1, key("a", "k1", "d")).await.unwrap();
    store.commit(plain(1, book("a", 9), 9)).await.unwrap();
    let shares = Scarce::Shares(1 << 60, 7);
    for what in [Scarce::Money, shares] {
        store.tell_scarce(&account("a"), what).await.unwrap();
    }
    store
        .put_document("prices", 0, Vec::new(), false)
        .await
        .unwrap();
    let mut told = Vec::new();
    while told.len() < 5 {
        let change = timeout(Duration::from_secs(10), changes.recv()).await;
        match change.expect("a change is told").unwrap() {
            Change::All => {}
            change => told.push(change),
        }
    }
    // What two nodes of a cluster tell may come either way round.
    told.sort_by_key(|change| format!("{change:?}"));
    assert_eq!(
        told,
        [
            Change::Account(account("a"), 1),
            Change::Account(account("a"), 2),
            Change::Document("prices".into()),
            Change::Scarce(account("a"), Scarce::Money),
            Change::Scarce(account("a"), shares),
        ]
    );
}

/// Reads, adds an entry of one, writes; again if somebody was faster.
async fn recharge(store: &dyn Store, name: &str, order: &str) {
    for _ in 0..200 {
        let now = store.read(&account(name), &[]).await.unwrap().unwrap();
        let mut commit = plain(now.version, now.book, 1);
        commit.book.lifetime_credit = nano(commit.book.lifetime_credit.nanos() + 1);
        commit.book.entries += 1;
        commit.entries = vec![entry(commit.book.entries)];
        commit.events = vec![event(name, commit.book.entries)];
        let claim = Claim {
            fingerprint: order.into(),
            entry: entry(commit.book.entries),
        };
        commit.claims = vec![(format!("o:{order}"), claim)];
        if store.commit(commit).await.unwrap() != Stored::Conflict {
            return;
        }
    }
    panic!("200 conflicts");
}

pub(super) async fn concurrent_commits_all_land(f: &Fixture) {
    seed(&*f.store, "a", 0).await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = Arc::clone(&f.store);
            tokio::spawn(async move { recharge(&*store, "a", &n.to_string()).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let store = &*f.store;
    let orders: Vec<_> = (0..20).map(|n| format!("o:{n}")).collect();
    let now = store.read(&account("a"), &orders).await.unwrap().unwrap();
    assert_eq!((now.version, now.unleased), (21, nano(20)));
    assert_eq!(now.book.lifetime_credit, nano(20));
    assert!(now.claims.iter().all(Option::is_some));
    assert_eq!(store.entries(&account("a"), 0, 99).await.unwrap().len(), 20);
    let events = until("20 events", async || {
        Some(store.events(0, 99).await.unwrap()).filter(|events| events.len() >= 20)
    });
    let events = events.await;
    let ids: Vec<_> = events.iter().map(|(_, event)| event.id.clone()).collect();
    let due: Vec<_> = (1..=20).map(|n| format!("a/{n}")).collect();
    assert_eq!(ids, due, "each once, in the order of the ledger");
}

pub(super) async fn concurrent_keys_all_land(f: &Fixture) {
    seed(&*f.store, "a", 0).await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = Arc::clone(&f.store);
            tokio::spawn(async move {
                let record = key("a", &format!("k{n}"), &format!("d{n}"));
                for _ in 0..200 {
                    let version = snapshot(&*store, "a").await.version;
                    if store.put_key(version, record.clone()).await.unwrap() != Stored::Conflict {
                        return;
                    }
                }
                panic!("200 conflicts");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(f.store.keys(&account("a")).await.unwrap().len(), 20);
    assert_eq!(snapshot(&*f.store, "a").await.version, 21, "one for each");
}

pub(super) async fn what_is_put_back_is_fenced_for_a_lease_time(f: &Fixture) {
    let store = &*f.store;
    let back = |expected, version, credit| Commit {
        restore: Some(Restore {
            version,
            entries_gone: 0,
        }),
        ..plain(expected, book("a", credit), credit)
    };
    let stored = store.commit(back(0, 7, 100)).await.unwrap();
    assert_eq!(stored, Stored::At(7));
    // A replica tells what it had, and gets no more; nor does the other one, or a share.
    let (mut one, mut two) = (Speaker::new("a", "r-1"), Speaker::new("a", "r-2"));
    two.rate = Sought {
        limit: 10,
        demand: 5,
        want: 5,
    };
    let is_fenced = !f.fence.is_zero();
    let first = one.say(store, 0, 30, 30).await;
    let second = two.say(store, 0, 30, 30).await;
    assert_eq!((first.fenced, second.fenced), (is_fenced, is_fenced));
    let granted = if is_fenced { (0, 0) } else { (30, 5) };
    for (answer, rate) in [(first, 0), (second, granted.1)] {
        assert!(answer.applied, "{answer:?}");
        let stands = (answer.standing.committed, answer.standing.rate);
        assert_eq!(stands, (nano(granted.0), rate), "{answer:?}");
    }
    let more = plain(7, book("a", 5), 5);
    if is_fenced {
        let refused = store.commit(more.clone()).await;
        let Err(StoreError::Fenced(left)) = refused else {
            panic!("{refused:?}")
        };
        assert!(!left.is_zero() && left <= f.fence, "{left:?}");
    }
    // What else was lost is put back meanwhile, and makes it no longer.
    let stored = store.commit(back(7, 9, 20)).await.unwrap();
    assert_eq!(stored, Stored::At(9));
    let more = Commit {
        expected: 9,
        ..more
    };
    let stored = until("the fence is over", async || {
        match store.commit(more.clone()).await {
            Err(StoreError::Fenced(_)) => None,
            stored => Some(stored),
        }
    });
    assert_eq!(stored.await.unwrap(), Stored::At(10));
    let later = one.say(store, 0, 10, 10).await;
    assert!(!later.fenced && later.applied, "{later:?}");
    let kept = granted.0 + 10;
    assert_eq!(later.standing.committed, nano(kept), "{later:?}");
    // A new account is fenced by nothing.
    seed(store, "b", 10).await;
    assert!(!Speaker::new("b", "r-1").say(store, 0, 1, 1).await.fenced);
}
