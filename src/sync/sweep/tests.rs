//! Who walks: one of two, the other once that one is silent, and somebody whatever the document has in it.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed, which is what it is for"
)]

use std::time::Duration;

use super::*;
use crate::app::{Core, Parts};
use crate::catalog::Layer;
use crate::clock::{Clock, Timestamp};
use crate::engine::Bounds;
use crate::id::ReplicaId;
use crate::ledger::{Action, Event, EventKind};
use crate::policy::{Deadline, End, Overrides, Policy};
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::sync::Settings;
use crate::telemetry::Metrics;

/// Some replicas over one store, under a clock that is moved by hand. Nothing runs by itself.
struct Bench {
    store: Arc<dyn Store>,
    clock: Clock,
    replicas: Vec<Arc<Core>>,
    _dir: tempfile::TempDir,
}

fn bench(replicas: &[&str]) -> Bench {
    let clock = Clock::manual(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path(), clock.clone()).unwrap());
    let policy = Policy {
        suspend_after: Some(Deadline {
            ms: 3_600_000,
            end: End::Excluded,
        }),
        ..Policy::default()
    };
    let replica = |name: &&str| {
        let parts = Parts {
            replica: ReplicaId::new(name).unwrap(),
            store: Arc::clone(&store),
            layer: Layer {
                policies: [("default".to_owned(), policy.clone())].into(),
                ..Layer::default()
            },
            local: None,
            clock: clock.clone(),
            sync: Settings::default(),
            bounds: Bounds::default(),
            holds_max: 100,
            metrics: Metrics::default(),
        };
        Core::new(parts).unwrap()
    };
    Bench {
        replicas: replicas.iter().map(replica).collect(),
        store,
        clock,
        _dir: dir,
    }
}

impl Bench {
    /// A look of a replica: the version it sees, and whether it walks.
    async fn look(&self, replica: usize, seen: Option<u64>) -> (u64, bool) {
        let sync = &self.replicas[replica].sync;
        sync.0.claim_walk(seen).await.unwrap()
    }

    /// What another one, or nobody that is known, wrote.
    async fn scribble(&self, body: &[u8]) -> u64 {
        let stands = self.store.document(DOCUMENT).await.unwrap();
        let version = stands.map_or(0, |(version, _)| version);
        let put = self
            .store
            .put_document(DOCUMENT, version, body.to_vec(), false);
        match put.await.unwrap() {
            Stored::At(version) => version,
            Stored::Conflict => panic!("nobody else writes"),
        }
    }

    /// An account that nobody calls, whose suspension is due.
    async fn due(&self) {
        let account = AccountId::new("quiet").unwrap();
        let books = &self.replicas[0].books;
        let opened = books.open(
            account.clone(),
            "USD".into(),
            None,
            None,
            Overrides::default(),
            None,
        );
        opened.await.unwrap();
        let charge = Command {
            idempotency_key: None,
            action: Action::LateCharge {
                amount: "1".parse().unwrap(),
                key: None,
                model: None,
                note: String::new(),
            },
        };
        books.run(&account, charge).await.unwrap();
        self.clock.advance(Duration::from_secs(3_600));
    }

    async fn suspensions(&self) -> usize {
        let events = self.store.events(0, 100).await.unwrap();
        let suspended = |(_, event): &&(u64, Event)| event.kind == EventKind::AccountSuspended;
        events.iter().filter(suspended).count()
    }

    /// Lets a replica walk, on a clock that runs as fast as it can, until the suspension was written down; how long that took.
    async fn walks(&self, replica: usize) -> Duration {
        let core = &self.replicas[replica];
        let began = tokio::time::Instant::now();
        let told = async {
            while self.suspensions().await == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = run(Arc::clone(&core.sync.0)) => panic!("it has no end"),
            told = tokio::time::timeout(Duration::from_secs(300), told) => told.expect("it walks"),
        }
        began.elapsed()
    }
}

#[tokio::test]
async fn of_two_one_walks_and_the_other_once_that_one_is_silent() {
    let bench = bench(&["r-1", "r-2"]);
    let (_, walks) = bench.look(0, None).await;
    assert!(walks, "nobody did");
    let (mut first, walks) = bench.look(0, None).await;
    assert!(walks, "its own word, from before it was started again");
    let (mut seen, walks) = bench.look(1, None).await;
    assert_eq!((seen, walks), (first, false));
    // As long as it says so again, in every look there is another word.
    for _ in 0..3 {
        let (next, walks) = bench.look(0, Some(first)).await;
        assert!(walks && next > first, "{next} after {first}");
        first = next;
        let (next, walks) = bench.look(1, Some(seen)).await;
        assert_eq!((next, walks), (first, false));
        seen = next;
    }
    // The first one dies: the same word in two looks.
    let (taken, walks) = bench.look(1, Some(seen)).await;
    assert!(walks && taken > seen);
    // In its next life, or after it was cut off, it does not walk beside the other one.
    assert_eq!(bench.look(0, Some(first)).await, (taken, false));
    let (next, walks) = bench.look(1, Some(taken)).await;
    assert!(walks);
    assert_eq!(bench.look(0, Some(taken)).await, (next, false));
    // And takes over in its turn.
    assert!(bench.look(0, Some(next)).await.1);
    assert!(!bench.look(1, Some(next)).await.1);
}

#[tokio::test]
async fn of_two_that_find_the_same_silence_one_walks() {
    let bench = bench(&["r-1", "r-2"]);
    let stale = bench.scribble(b"r-dead").await;
    for replica in 0..2 {
        assert_eq!(bench.look(replica, None).await, (stale, false));
    }
    let (one, two) = tokio::join!(bench.look(0, Some(stale)), bench.look(1, Some(stale)));
    assert_eq!(u8::from(one.1) + u8::from(two.1), 1, "{one:?} {two:?}");
}

#[tokio::test]
async fn whatever_stands_in_the_document_somebody_walks() {
    for body in [
        &b""[..],
        b"\xff\xfe\x00",
        b"{\"holder\":",
        b"r-1\n",
        &[0; 4_096],
    ] {
        let bench = bench(&["r-1"]);
        let stands = bench.scribble(body).await;
        assert_eq!(bench.look(0, None).await, (stands, false), "{body:?}");
        assert!(bench.look(0, Some(stands)).await.1, "{body:?}");
    }
}

/// A store that fell back to before the claim, or lost it, is one in which nobody has said anything new.
#[tokio::test]
async fn an_older_word_than_was_seen_is_waited_for_as_any_other() {
    let bench = bench(&["r-1"]);
    let stands = bench.scribble(b"r-dead").await;
    assert_eq!(bench.look(0, Some(stands + 7)).await, (stands, false));
    assert!(bench.look(0, Some(stands)).await.1);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_or_torn_claim_delays_the_walk_by_two_looks_at_most() {
    for body in [None, Some(&b"r-dead"[..]), Some(b"\xff\xfe")] {
        let bench = bench(&["r-1"]);
        bench.due().await;
        if let Some(body) = body {
            bench.scribble(body).await;
        }
        let took = bench.walks(0).await;
        let most = LOOK + 5 * INTERVAL;
        assert!(took < most, "{took:?}, after {body:?}");
        assert!(body.is_none() || took >= LOOK, "{took:?}: it waits first");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_one_that_died_writes_down_what_is_due() {
    let bench = bench(&["r-1", "r-2"]);
    // The first one walks for a while, and is killed.
    let walking = tokio::spawn(run(Arc::clone(&bench.replicas[0].sync.0)));
    while bench.store.document(DOCUMENT).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    walking.abort();
    let _ = walking.await;
    bench.due().await;
    let took = bench.walks(1).await;
    assert!(took < 2 * LOOK, "{took:?}");
    assert_eq!(bench.suspensions().await, 1);
}
