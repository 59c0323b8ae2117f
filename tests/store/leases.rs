//! What replicas publish and lease: exactly once, never more than there is.

use std::sync::Arc;

use tollgate::store::StoreError;

use super::*;

pub(super) async fn a_message_is_applied_once(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.spend = 30;
    speaker.held = 4;
    let message = speaker.message(0, 100, 0);
    let first = send(store, &speaker.replica, message.clone()).await;
    let stands = Published {
        applied: true,
        standing: Standing {
            spend: nano(30),
            committed: nano(130),
        },
        seq: 1,
        total: nano(30),
        unleased: nano(870),
        version: 1,
    };
    assert_eq!(first, stands);
    let ignored = Published {
        applied: false,
        ..stands
    };
    let again = send(store, &speaker.replica, message.clone()).await;
    assert_eq!(again, ignored, "the same message again");
    // What counts is the number, even where the rest would fit what stands.
    for seq in [0, 1] {
        let reused = Publish {
            seq,
            believed: first.standing,
            new: Standing {
                spend: nano(31),
                committed: nano(130),
            },
            ..message.clone()
        };
        let answer = send(store, &speaker.replica, reused).await;
        assert_eq!(answer, ignored, "number {seq} again");
    }
    speaker.believed = first.standing;
    speaker.spend = 31;
    let second = speaker.say(store, 0, 0, 0).await;
    assert_eq!(
        (second.applied, second.total, second.unleased),
        (true, nano(31), nano(870))
    );
    let straggler = send(store, &speaker.replica, message).await;
    assert_eq!(
        (straggler.applied, straggler.seq, straggler.total),
        (false, 2, nano(31))
    );
    let row = row(store, "a", "r-1").await;
    assert_eq!(
        (row.spend, row.committed, row.seq, row.held),
        (nano(31), nano(130), 2, nano(4))
    );
    assert!(row.seen_ms > 1_500_000_000_000, "{row:?}");
}

pub(super) async fn a_lost_reply_is_answered_with_what_stands(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.spend = 30;
    let lost = speaker.message(0, 100, 0);
    send(store, &speaker.replica, lost).await;
    // The replica never saw the answer: it still believes in zeros.
    speaker.spend = 35;
    let answer = speaker.say(store, 0, 100, 0).await;
    assert_eq!((answer.applied, answer.seq), (false, 2));
    assert_eq!((answer.total, answer.unleased), (nano(30), nano(870)));
    assert_eq!(
        (answer.standing.spend, answer.standing.committed),
        (nano(30), nano(130))
    );
    let answer = speaker.say(store, 0, 0, 0).await;
    assert_eq!(
        (answer.applied, answer.total, answer.unleased),
        (true, nano(35), nano(870))
    );
}

pub(super) async fn a_store_that_lost_data_is_healed(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    // What the replica believes was stored before the store lost it.
    (speaker.spend, speaker.seq) = (40, 7);
    speaker.believed = Standing {
        spend: nano(40),
        committed: nano(90),
    };
    let answer = speaker.say(store, 0, 10, 0).await;
    assert_eq!(
        (answer.applied, answer.standing),
        (false, Standing::default())
    );
    assert_eq!((answer.total, answer.unleased), (nano(0), nano(1_000)));
    let mut message = speaker.message(0, 0, 0);
    message.new.committed = nano(90);
    let answer = send(store, &speaker.replica, message).await;
    assert_eq!(
        (answer.applied, answer.total, answer.unleased),
        (true, nano(40), nano(910))
    );
}

pub(super) async fn messages_that_contradict_themselves_are_refused(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.spend = 10;
    speaker.say(store, 0, 50, 0).await;
    let wrong: [fn(&mut Publish); 4] = [
        |m| m.new.spend = nano(9),
        |m| m.new.committed = nano(9),
        |m| m.held = nano(-1),
        |m| m.believed.spend = nano(-1),
    ];
    for spoil in wrong {
        let mut message = speaker.message(0, 0, 0);
        spoil(&mut message);
        let answers = store.publish(&speaker.replica, vec![message]).await;
        assert!(
            matches!(answers.as_slice(), [Err(StoreError::Corrupt(_))]),
            "{answers:?}"
        );
    }
    let now = snapshot(store, "a").await;
    assert_eq!((now.spend, now.unleased), (nano(10), nano(940)));
    assert_eq!(row(store, "a", "r-1").await.seq, 1);
}

pub(super) async fn a_sum_beyond_the_range_is_refused_whole(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 0).await;
    let mut one = Speaker::new("a", "r-1");
    one.spend = i64::MAX - 10;
    assert_eq!(one.say(store, 0, 0, 0).await.unleased, nano(10 - i64::MAX));
    let mut two = Speaker::new("a", "r-2");
    two.spend = 11;
    let over = two.message(0, 0, 0);
    let answers = store.publish(&two.replica, vec![over]).await;
    assert!(
        matches!(answers.as_slice(), [Err(StoreError::Corrupt(_))]),
        "{answers:?}"
    );
    // `unleased` overflows, the total does not: it must not have moved either.
    let mut three = Speaker::new("a", "r-3").message(0, 0, 0);
    (three.new.spend, three.new.committed) = (nano(1), nano(100));
    let answers = store.publish(&replica("r-3"), vec![three]).await;
    assert!(
        matches!(answers.as_slice(), [Err(StoreError::Corrupt(_))]),
        "{answers:?}"
    );
    let now = snapshot(store, "a").await;
    assert_eq!(
        (now.spend, now.unleased),
        (nano(i64::MAX - 10), nano(10 - i64::MAX))
    );
    assert_eq!(row(store, "a", "r-3").await, Row::default());
}

pub(super) async fn a_batch_is_carried_out_one_by_one(f: &Fixture) {
    let store = &*f.store;
    assert!(store.publish(&replica("r-1"), Vec::new()).await.is_empty());
    let mut batch = Vec::new();
    for n in 0..1_200 {
        let name = format!("a{n}");
        if n % 100 != 7 {
            seed(store, &name, 1_000).await;
        }
        let mut speaker = Speaker::new(&name, "r-1");
        speaker.spend = n;
        batch.push(speaker.message(0, 5, 0));
    }
    let answers = store.publish(&replica("r-1"), batch).await;
    assert_eq!(answers.len(), 1_200);
    for (n, answer) in (0..).zip(answers) {
        if n % 100 == 7 {
            assert!(
                matches!(answer, Err(StoreError::NoAccount(_))),
                "{n}: {answer:?}"
            );
        } else {
            let answer = answer.unwrap();
            assert_eq!((answer.applied, answer.total), (true, nano(n)), "{n}");
        }
    }
}

pub(super) async fn the_only_replica_gets_what_it_wants(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    assert_eq!(speaker.lease(store, 900, 0).await, 900);
    assert_eq!(speaker.lease(store, 900, 0).await, 100);
    assert_eq!(speaker.lease(store, 900, 900).await, 0);
    assert_eq!(speaker.lease(store, -5, -5).await, 0);
    assert_eq!(snapshot(store, "a").await.unleased, nano(0));
}

pub(super) async fn two_replicas_shrink_towards_the_end(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut pair = [Speaker::new("a", "r-1"), Speaker::new("a", "r-2")];
    for speaker in &mut pair {
        assert_eq!(speaker.lease(store, 0, 0).await, 0);
    }
    let mut left = 1_000;
    for turn in 0..40 {
        let granted = pair[turn % 2].lease(store, 1_000, 0).await;
        assert_eq!(granted, left / 4, "of {left}");
        left -= granted;
    }
    assert_eq!(snapshot(store, "a").await.unleased, nano(left));
    assert_eq!(left, 3, "a quarter of three is nothing");
    assert_eq!(
        pair[0].lease(store, 1_000, 1).await,
        1,
        "unless a call waits for it"
    );
}

pub(super) async fn what_waits_is_granted_first(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut pair = [Speaker::new("a", "r-1"), Speaker::new("a", "r-2")];
    for speaker in &mut pair {
        speaker.lease(store, 0, 0).await;
    }
    assert_eq!(pair[0].lease(store, 800, 600).await, 600);
    assert_eq!(
        pair[1].lease(store, 300, 600).await,
        300,
        "never more than it wants"
    );
    assert_eq!(
        pair[1].lease(store, 300, 300).await,
        100,
        "nor than there is"
    );
}

pub(super) async fn headroom_goes_back(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let mut speaker = Speaker::new("a", "r-1");
    speaker.lease(store, 700, 0).await;
    speaker.spend = 50;
    let answer = speaker.say(store, 600, 0, 0).await;
    assert_eq!(
        (answer.standing.committed, answer.unleased),
        (nano(100), nano(900))
    );
    // Spending above the ceiling (a settlement above its hold) takes from what is left, below zero too.
    speaker.spend = 1_050;
    let answer = speaker.say(store, 0, 10, 10).await;
    assert_eq!(
        (answer.standing.committed, answer.unleased),
        (nano(1_050), nano(-50))
    );
}

pub(super) async fn amounts_beyond_two_to_the_53_are_exact(f: &Fixture) {
    let store = &*f.store;
    let (credit, step) = (9_000_000_000_000_000_000, (1 << 53) + 1);
    seed(store, "a", credit).await;
    let mut speaker = Speaker::new("a", "r-1");
    let mut spend = 0;
    for more in [step, 1, 1, step, 1, 3 * step + 1, 1] {
        spend += more;
        speaker.spend = spend;
        let answer = speaker.say(store, 0, 1, 0).await;
        assert!(answer.applied);
        assert_eq!(answer.total, nano(spend));
        let committed = answer.standing.committed.nanos();
        assert!(
            committed == spend + 1 || more == 1 && committed == spend,
            "{committed} {spend}"
        );
        assert_eq!(answer.unleased, nano(credit - committed));
    }
    let want = (1 << 53) - 1;
    let mut other = Speaker::new("a", "r-2");
    assert_eq!(other.lease(store, want, 0).await, want, "there is plenty");
    assert_eq!(
        other.lease(store, i64::MAX, 0).await,
        want,
        "at most LEASE_MAX"
    );
    let left = snapshot(store, "a").await.unleased.nanos();
    assert_eq!(left, credit - speaker.believed.committed.nanos() - 2 * want);
    let now = store.commit(plain(1, book("a", 0), 1)).await.unwrap();
    assert_eq!(now, Stored::At(2));
    assert_eq!(snapshot(store, "a").await.unleased, nano(left + 1));
}

pub(super) async fn a_silent_replica_lapses(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    seed(store, "a", 1_000).await;
    let mut silent = Speaker::new("a", "r-1");
    (silent.spend, silent.held) = (100, 30);
    silent.lease(store, 400, 0).await;
    let hour = Duration::from_secs(3_600);
    assert_eq!(
        store.lapse(&name, hour).await.unwrap(),
        nano(0),
        "it has just spoken"
    );
    let back = until("the lease lapses", async || {
        f.clock.advance(Duration::from_millis(5));
        let back = store.lapse(&name, Duration::from_millis(2)).await.unwrap();
        back.is_positive().then_some(back)
    });
    assert_eq!(back.await, nano(370), "all but its holds");
    let now = snapshot(store, "a").await;
    assert_eq!((now.spend, now.unleased), (nano(100), nano(870)));
    assert_eq!(row(store, "a", "r-1").await.committed, nano(130));
    f.clock.advance(hour);
    assert_eq!(
        store.lapse(&name, Duration::ZERO).await.unwrap(),
        nano(0),
        "once"
    );
    // It is not counted any more, so the other gets all it wants; when it is back, it is.
    let mut other = Speaker::new("a", "r-2");
    assert_eq!(other.lease(store, 470, 0).await, 470);
    silent.spend = 110;
    let answer = silent.say(store, 0, 0, 0).await;
    assert!(!answer.applied, "what stood was changed by the lapse");
    (silent.spend, silent.held) = (130, 0);
    assert!(silent.say(store, 0, 0, 0).await.applied);
    assert_eq!(other.lease(store, 400, 0).await, 100);
}

pub(super) async fn concurrent_messages_conserve(f: &Fixture) {
    seed(&*f.store, "a", 1_000_000).await;
    let tasks: Vec<_> = (0..4)
        .map(|n| {
            let store = Arc::clone(&f.store);
            tokio::spawn(async move {
                let mut speaker = Speaker::new("a", &format!("r-{n}"));
                for turn in 0..25 {
                    let headroom = speaker.believed.committed.nanos() - speaker.spend;
                    speaker.spend += headroom / 3 + turn % 2;
                    assert!(
                        speaker
                            .say(&*store, headroom / 4, 2_000 * n, 10)
                            .await
                            .applied
                    );
                }
                (speaker.spend, speaker.believed.committed.nanos())
            })
        })
        .collect();
    let (mut spend, mut committed) = (0, 0);
    for task in tasks {
        let (spent, kept) = task.await.unwrap();
        (spend, committed) = (spend + spent, committed + kept);
    }
    let now = snapshot(&*f.store, "a").await;
    assert_eq!(
        (now.spend, now.unleased),
        (nano(spend), nano(1_000_000 - committed))
    );
}
