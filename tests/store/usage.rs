//! What was used, by whom: rows by hour, rows over all time, and the feed of spend that a billing backend follows.

use super::*;

pub(super) async fn usage_is_summed_over_replicas(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    seed(store, "a", 1_000).await;
    let mut one = Speaker::new("a", "r-1");
    let mut two = Speaker::new("a", "r-2");
    one.usage = vec![
        usage(Some(10), "k1", "m-b", 1, 10),
        usage(Some(10), "k1", "", 2, 20),
        usage(Some(11), "k0", "m-a", 3, 30),
        usage(None, "k1", "m-b", 1, 10),
    ];
    two.usage = vec![
        usage(Some(10), "k1", "m-b", 5, 50),
        usage(Some(12), "k1", "m-b", 6, 60),
        usage(Some(-3), "k1", "m-b", 7, 70),
    ];
    one.say(store, 0, 0, 0).await;
    two.say(store, 0, 0, 0).await;
    // Absolute: the same key again replaces. A message that is not applied sets nothing.
    one.usage = vec![usage(Some(11), "k0", "m-a", 4, 40)];
    one.say(store, 0, 0, 0).await;
    let mut unapplied = one.message(0, 0, 0);
    unapplied.believed.spend = nano(5);
    unapplied.new = Standing {
        spend: nano(5),
        committed: nano(5),
        ..Standing::default()
    };
    unapplied.usage = vec![usage(Some(11), "k0", "m-a", 99, 99)];
    assert!(!send(store, &one.replica, unapplied).await.applied);
    let all = [
        usage(Some(-3), "k1", "m-b", 7, 70),
        usage(Some(10), "k1", "", 2, 20),
        usage(Some(10), "k1", "m-b", 6, 60),
        usage(Some(11), "k0", "m-a", 4, 40),
        usage(Some(12), "k1", "m-b", 6, 60),
    ];
    for (from, to, rows) in [
        (-100, 100, &all[..]),
        (10, 12, &all[1..4]),
        (10, 11, &all[1..3]),
        (13, 99, &[]),
        (12, 10, &[]),
    ] {
        let got = store.usage(&name, Hour(from), Hour(to)).await.unwrap();
        assert_eq!(got, rows, "[{from}, {to})");
    }
}

pub(super) async fn opening_finds_what_a_replica_left(f: &Fixture) {
    let (store, name) = (&*f.store, account("a"));
    seed(store, "a", 1_000).await;
    let mut one = Speaker::new("a", "r-1");
    one.spend = 30;
    one.usage = vec![
        usage(None, "k1", "m-b", 3, 30),
        usage(None, "k1", "", 1, 0),
        usage(Some(10), "k1", "m-b", 1, 10),
        usage(Some(11), "k1", "m-b", 2, 20),
    ];
    one.say(store, 0, 70, 0).await;
    let mut two = Speaker::new("a", "r-10");
    two.usage = vec![
        usage(None, "k1", "m-b", 9, 9),
        usage(Some(11), "k1", "m-b", 9, 9),
    ];
    two.say(store, 0, 0, 0).await;
    let opened = store
        .open(&name, &replica("r-1"), Hour(11))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (opened.row.spend, opened.row.committed),
        (nano(30), nano(100))
    );
    assert_eq!(
        (opened.snapshot.spend, opened.snapshot.unleased),
        (nano(30), nano(900))
    );
    assert!(opened.snapshot.claims.is_empty());
    let mut rows = opened.usage;
    rows.sort_by_key(|row| (row.hour, row.model.clone()));
    assert_eq!(
        rows,
        [
            usage(None, "k1", "", 1, 0),
            usage(None, "k1", "m-b", 3, 30),
            usage(Some(11), "k1", "m-b", 2, 20),
        ]
    );
    let stranger = store
        .open(&name, &replica("r-3"), Hour(11))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((stranger.row, stranger.usage), (Row::default(), Vec::new()));
}

pub(super) async fn spend_is_listed_once_at_its_last_change(f: &Fixture) {
    let store = &*f.store;
    let mut speakers = Vec::new();
    for (name, who) in [("a", "r-1"), ("b", "r-1"), ("c", "r-1"), ("a", "r-2")] {
        if who == "r-1" {
            seed(store, name, 1_000).await;
        }
        let mut speaker = Speaker::new(name, who);
        speaker.spend = 10;
        speaker.usage = vec![usage(None, "k1", "m", 1, 4), usage(None, "k2", "m", 1, 6)];
        speaker.say(store, 0, 0, 0).await;
        speakers.push(speaker);
    }
    let listed = |after, limit| async move {
        let spends = store.spend_since(after, limit).await.unwrap();
        assert!(spends.is_sorted_by(|a, b| a.sequence < b.sequence));
        spends
    };
    let names = |spends: &[tollgate::store::AccountSpend]| {
        spends
            .iter()
            .map(|spend| spend.account.to_string())
            .collect::<Vec<_>>()
    };
    let first = listed(0, 10).await;
    assert_eq!(names(&first), ["b", "c", "a"]);
    assert_eq!((first[2].total, first[0].total), (nano(20), nano(10)));
    assert_eq!(
        first[2].rows,
        [usage(None, "k1", "m", 2, 8), usage(None, "k2", "m", 2, 12)]
    );
    let page = listed(0, 2).await;
    assert_eq!(names(&page), ["b", "c"]);
    assert_eq!(names(&listed(page[1].sequence, 10).await), ["a"]);
    let last = first[2].sequence;
    assert!(listed(last, 10).await.is_empty());
    // A message without new spend does not move its account.
    speakers[1].say(store, 0, 5, 0).await;
    assert!(listed(last, 10).await.is_empty());
    speakers[1].spend = 11;
    speakers[1].say(store, 0, 0, 0).await;
    let more = listed(last, 10).await;
    assert_eq!(
        (names(&more), more[0].total),
        (vec!["b".to_owned()], nano(11))
    );
    assert_eq!(names(&listed(0, 10).await), ["c", "a", "b"]);
}
