//! What replicas publish and lease: exactly once, never more than there is.

use std::sync::Arc;

use tollgate::store::{Lapsed, Pool, StoreError};

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
            ..Standing::default()
        },
        seq: 1,
        total: nano(30),
        unleased: nano(870),
        version: 1,
        lost: nano(0),
        rate: Pool::default(),
        places: Pool::default(),
        history: first.history,
        fenced: false,
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
                ..Standing::default()
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
        ..Standing::default()
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
        store.lapse(&name, hour, hour).await.unwrap(),
        Lapsed::default(),
        "it has just spoken"
    );
    let back = until("the lease lapses", async || {
        f.clock.advance(Duration::from_millis(5));
        let brief = Duration::from_millis(2);
        let back = store.lapse(&name, brief, hour).await.unwrap();
        (back.lapsed > 0).then_some(back)
    });
    let lapsed = Lapsed {
        freed: nano(370),
        held: nano(30),
        lapsed: 1,
        retired: 0,
    };
    assert_eq!(back.await, lapsed, "all but its holds");
    let now = snapshot(store, "a").await;
    assert_eq!((now.spend, now.unleased), (nano(100), nano(870)));
    assert_eq!(row(store, "a", "r-1").await.committed, nano(130));
    f.clock.advance(hour);
    let again = store.lapse(&name, Duration::ZERO, 2 * hour).await;
    assert_eq!(again.unwrap(), Lapsed::default(), "once");
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

pub(super) async fn a_retired_replica_leaves_a_tombstone(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    seed(store, "a", 1_000).await;
    let mut gone = Speaker::new("a", "r-1");
    (gone.spend, gone.held) = (100, 30);
    gone.usage = vec![usage(None, "k", "", 1, 100)];
    gone.lease(store, 400, 0).await;
    let retired = until("it is retired", async || {
        f.clock.advance(Duration::from_millis(5));
        let brief = Duration::from_millis(2);
        let lapsed = store.lapse(&name, brief, brief).await.unwrap();
        (lapsed.retired > 0).then_some(())
    });
    retired.await;
    let now = snapshot(store, "a").await;
    assert_eq!(
        (now.spend, now.unleased),
        (nano(100), nano(900)),
        "its holds are free again"
    );
    // What it left is found, and a message from before is still a straggler.
    let left = row(store, "a", "r-1").await;
    assert_eq!(
        (left.spend, left.committed, left.seq),
        (nano(100), nano(100), 1)
    );
    let straggler = Publish {
        seq: 1,
        believed: left.standing(),
        ..gone.message(0, 0, 0)
    };
    assert!(!send(store, &gone.replica, straggler).await.applied);
    // It comes back with what it spent meanwhile: the difference counts.
    gone.believed = row(store, "a", "r-1").await.standing();
    (gone.spend, gone.held) = (125, 0);
    gone.usage = vec![usage(None, "k", "", 2, 125)];
    assert!(gone.say(store, 0, 0, 0).await.applied);
    let now = snapshot(store, "a").await;
    assert_eq!((now.spend, now.unleased), (nano(125), nano(875)));
    let spend = store.spend_since(0, 10).await.unwrap();
    assert_eq!(spend.len(), 1);
    assert_eq!(
        (spend[0].total, spend[0].rows[0].tally.cost_nanos),
        (nano(125), 125)
    );
}

pub(super) async fn a_retired_replica_that_believes_otherwise_is_told(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    seed(store, "a", 1_000).await;
    let mut gone = Speaker::new("a", "r-1");
    gone.spend = 100;
    gone.lease(store, 400, 0).await;
    let retired = until("it is retired", async || {
        f.clock.advance(Duration::from_millis(5));
        let brief = Duration::from_millis(2);
        let lapsed = store.lapse(&name, brief, brief).await.unwrap();
        (lapsed.retired > 0).then_some(())
    });
    retired.await;
    gone.spend = 130;
    let told = gone.say(store, 0, 0, 0).await;
    let stands = Standing {
        spend: nano(100),
        committed: nano(100),
        ..Standing::default()
    };
    assert_eq!((told.applied, told.standing), (false, stands));
    assert!(gone.say(store, 0, 0, 0).await.applied);
    let now = snapshot(store, "a").await;
    assert_eq!((now.spend, now.unleased), (nano(130), nano(870)));
}

pub(super) async fn shares_never_exceed_the_limit(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    let sought = |demand, want| Sought {
        limit: 1_000,
        demand,
        want,
    };
    let mut one = Speaker::new("a", "r-1");
    (one.rate, one.places) = (sought(300, 1_000), sought(2, 4));
    let first = one.say(store, 0, 0, 0).await;
    let has = |answer: &Published| (answer.standing.rate, answer.standing.places);
    assert_eq!(has(&first), (1_000, 4));
    assert_eq!((first.rate.shared, first.rate.demand), (1_000, 300));
    assert!(first.rate.rested_ms > 1_000_000, "nobody ever had it");
    let mut two = Speaker::new("a", "r-2");
    (two.rate, two.places) = (sought(100, 250), sought(7, 999));
    let second = two.say(store, 0, 0, 0).await;
    assert_eq!(has(&second), (0, 996), "as far as the limit goes");
    assert_eq!((second.rate.shared, second.rate.demand), (1_000, 400));
    assert_eq!(second.rate.rested_ms, 0);
    // One gives back; what was demanded before is replaced, not added to.
    let mut message = one.message(0, 0, 0);
    (message.new.rate, message.rate) = (750, sought(310, 0));
    let back = send(store, &one.replica, message).await;
    assert_eq!(
        (has(&back), back.rate.shared, back.rate.demand),
        ((750, 4), 750, 410)
    );
    two.rate = sought(100, 300);
    let second = two.say(store, 0, 0, 0).await;
    assert_eq!(has(&second), (250, 996));
    assert!(
        second.rate.rested_ms < 60_000,
        "it was free since it was given back"
    );
    // A lower limit grants nothing until enough came back.
    two.rate = Sought {
        limit: 500,
        demand: 100,
        want: 10,
    };
    assert_eq!(has(&two.say(store, 0, 0, 0).await), (250, 996));
    assert_eq!(row(store, "a", "r-2").await.rate.demand, 100);
}

pub(super) async fn the_shares_of_a_silent_replica_come_back(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    seed(store, "a", 1_000).await;
    let sought = Sought {
        limit: 10,
        demand: 10,
        want: 10,
    };
    let mut silent = Speaker::new("a", "r-1");
    (silent.rate, silent.places) = (sought, sought);
    assert_eq!(silent.say(store, 0, 0, 0).await.standing.places, 10);
    let lapsed = until("it lapses", async || {
        f.clock.advance(Duration::from_millis(5));
        let hour = Duration::from_secs(3_600);
        let lapsed = store.lapse(&name, Duration::from_millis(2), hour).await;
        (lapsed.unwrap().lapsed > 0).then_some(())
    });
    lapsed.await;
    let mut other = Speaker::new("a", "r-2");
    (other.rate, other.places) = (sought, sought);
    let answer = other.say(store, 0, 0, 0).await;
    assert_eq!((answer.standing.rate, answer.standing.places), (10, 10));
    assert_eq!((answer.rate.shared, answer.rate.demand), (10, 10));
    let told = silent.say(store, 0, 0, 0).await;
    assert_eq!(
        (told.applied, told.standing.rate, told.standing.places),
        (false, 0, 0)
    );
}

pub(super) async fn what_a_replica_saw_and_the_store_lost_is_out_of_reach(f: &Fixture) {
    let store = &*f.store;
    seed(store, "a", 1_000).await;
    // Two replicas published 300 and 200; the store lost both, and only one of them is back.
    let mut back = Speaker::new("a", "r-1");
    (back.spend, back.seen, back.total) = (310, 300, 500);
    let answer = back.say(store, 0, 900, 0).await;
    assert!(answer.applied);
    assert_eq!((answer.total, answer.lost), (nano(510), nano(200)));
    let granted = answer.standing.committed.nanos() - 310;
    assert_eq!((granted, answer.unleased), (490, nano(0)));
    let now = snapshot(store, "a").await;
    assert_eq!(
        (now.spend, now.lost, now.unleased),
        (nano(510), nano(200), nano(0))
    );
    // Said again, it changes nothing.
    assert_eq!(back.say(store, 0, 0, 0).await.lost, nano(200));
    let mut late = Speaker::new("a", "r-2");
    (late.spend, late.seen, late.total) = (150, 150, 500);
    let answer = late.say(store, 0, 0, 0).await;
    assert_eq!((answer.total, answer.lost), (nano(510), nano(50)));
    assert_eq!(answer.unleased, nano(0), "it was out of reach all along");
    (late.spend, late.seen) = (230, 200);
    late.total = 510;
    let answer = late.say(store, 0, 0, 0).await;
    assert_eq!((answer.total, answer.lost), (nano(540), nano(0)));
    assert_eq!(answer.unleased, nano(-30));
}

pub(super) async fn what_was_lost_is_exact_beyond_two_to_the_53(f: &Fixture) {
    let store = &*f.store;
    let credit = (1 << 62) + 1;
    seed(store, "a", credit).await;
    let mut back = Speaker::new("a", "r-1");
    (back.spend, back.seen, back.total) = (1, 0, (1 << 60) + 7);
    let answer = back.say(store, 0, 0, 0).await;
    assert_eq!(
        (answer.total, answer.lost),
        (nano((1 << 60) + 8), nano((1 << 60) + 7))
    );
    (back.spend, back.seen) = ((1 << 59) + 4, (1 << 59) + 3);
    let answer = back.say(store, 0, 0, 0).await;
    let lost = (1 << 60) + 7 - ((1 << 59) + 2);
    assert_eq!(
        (answer.total, answer.lost),
        (nano((1 << 60) + 9), nano(lost))
    );
    let now = snapshot(store, "a").await;
    assert_eq!(
        now.unleased,
        nano(credit - lost - back.believed.committed.nanos())
    );
}
