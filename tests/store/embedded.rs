//! What only the embedded store can show: one file, one process, and what a restart finds.

use std::path::Path;

use tempfile::TempDir;
use tollgate::store::StoreError;
use tollgate::store::embedded::Embedded;

use super::*;

pub(super) fn fixture() -> Fixture {
    let dir = TempDir::new().unwrap();
    let clock = Clock::manual(NOON);
    Fixture {
        store: Arc::new(open(dir.path(), &clock)),
        clock,
        // One process has the file: no rights from before are in use that it does not know of.
        fence: Duration::ZERO,
        _keep: Box::new(dir),
    }
}

fn open(dir: &Path, clock: &Clock) -> Embedded {
    Embedded::open(dir, clock.clone()).unwrap()
}

#[tokio::test]
async fn a_restart_keeps_everything_and_lapses_the_leases_of_others() {
    let dir = TempDir::new().unwrap();
    let (inside, clock) = (dir.path().join("not/yet/there"), Clock::manual(NOON));
    let store = open(&inside, &clock);
    let own = store.replica();
    seed(&store, "a", 1_000).await;
    store.put_key(1, key("a", "k1", "d")).await.unwrap();
    store
        .put_document("prices", 0, b"body".to_vec(), false)
        .await
        .unwrap();
    let mut mine = Speaker::new("a", own.as_str());
    mine.spend = 10;
    mine.usage = vec![
        usage(None, "k1", "m", 1, 10),
        usage(Some(3), "k1", "m", 1, 10),
    ];
    mine.lease(&store, 90, 0).await;
    let mut other = Speaker::new("a", "r-other");
    (other.spend, other.held) = (20, 30);
    assert_eq!(other.lease(&store, 200, 200).await, 200);
    drop(store);

    let store = open(&inside, &clock);
    assert_eq!(store.replica(), own);
    assert!(
        own.as_str().len() == 18 && own.as_str().starts_with("r-"),
        "{own}"
    );
    let now = snapshot(&store, "a").await;
    assert_eq!(
        (now.version, now.spend, now.unleased),
        (2, nano(30), nano(880))
    );
    let opened = store
        .open(&account("a"), &own, Hour(3))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (opened.row.spend, opened.row.committed),
        (nano(10), nano(100))
    );
    assert_eq!((opened.usage.len(), opened.keys.len()), (2, 1));
    let gone = row(&store, "a", "r-other").await;
    assert_eq!(
        (gone.spend, gone.committed, gone.held),
        (nano(20), nano(20), nano(0))
    );
    assert_eq!(
        store.document("prices").await.unwrap(),
        Some((1, b"body".to_vec()))
    );
    assert_eq!(store.spend_since(0, 9).await.unwrap().len(), 1);
    assert_eq!(
        mine.lease(&store, 10_000, 0).await,
        880,
        "it is alone again"
    );
}

#[tokio::test]
async fn the_feed_of_events_is_bounded() {
    let f = fixture();
    let mut commit = plain(0, book("a", 5), 5);
    commit.book.events = 100_002;
    commit.events = (1..=100_002).map(|n| event("a", n)).collect();
    f.store.commit(commit).await.unwrap();
    let oldest = f.store.events(0, 1).await.unwrap();
    assert_eq!(oldest, [(3, event("a", 3))]);
    assert_eq!(f.store.events(3, usize::MAX).await.unwrap().len(), 99_999);
}

#[test]
fn a_second_process_is_refused() {
    let dir = TempDir::new().unwrap();
    let clock = Clock::manual(NOON);
    let first = open(dir.path(), &clock);
    let refused = Embedded::open(dir.path(), clock.clone()).unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{text}");
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    assert!(text.contains("is in use by another tollgate"), "{text}");
    drop(first);
    open(dir.path(), &clock);
}

#[test]
fn a_foreign_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("tollgate.redb");
    std::fs::write(
        &file,
        b"not a database, and long enough to be taken for none at all",
    )
    .unwrap();
    let refused = Embedded::open(dir.path(), Clock::manual(NOON)).unwrap_err();
    assert!(!refused.to_string().is_empty());
    assert!(file.metadata().unwrap().len() < 100, "it is left as it was");
}

#[cfg(unix)]
#[test]
fn a_new_directory_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let inside = dir.path().join("data");
    open(&inside, &Clock::manual(NOON));
    let mode = inside.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
