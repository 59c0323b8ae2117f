use super::*;
use crate::usage::Certainty;

fn record() -> UsageRecord {
    // Zeroes, as they are in a file.
    UsageRecord {
        state: AtomicU64::default(),
        generation: AtomicU64::default(),
        hour: AtomicI64::default(),
        lengths: AtomicU64::default(),
        account: Text::default(),
        key: Text::default(),
        model: Text::default(),
        checksum: AtomicU64::default(),
        published_calls: AtomicU64::default(),
        ending: AtomicU64::default(),
        ending_cost: AtomicI64::default(),
        ending_estimated: AtomicU64::default(),
        spare: Default::default(),
    }
}

fn row(key: &str, model: Option<&str>) -> RowId {
    RowId {
        hour: Hour(497_222),
        key: KeyId::new(key).unwrap(),
        model: model.map(|model| ModelName::new(model).unwrap()),
    }
}

fn nanos(n: i64) -> Amount {
    Amount::from_nanos(n)
}

#[test]
fn names_of_any_length_are_read_as_they_were_written() {
    let long = "n".repeat(NAME_BYTES_MAX);
    for account in ["a", "12345678", "123456789", &long] {
        for key in ["k", "12345678", &long] {
            for model in [None, Some("m"), Some("12345678"), Some(long.as_str())] {
                let (record, account) = (record(), AccountId::new(account).unwrap());
                let row = row(key, model);
                record.write(9, &account, &row);
                assert_eq!(record.read(), Some((account, row)));
            }
        }
    }
}

#[test]
fn a_record_that_was_changed_is_seen() {
    let record = record();
    record.write(
        9,
        &AccountId::new("acme").unwrap(),
        &row("main", Some("gpt-4o")),
    );
    let texts = [&record.account, &record.key, &record.model];
    let texts = texts.into_iter().flatten();
    let words = [
        &record.generation,
        &record.lengths,
        &record.checksum,
        &record.state,
    ];
    for word in words.into_iter().chain(texts) {
        for bit in 0..64 {
            word.fetch_xor(1 << bit, Relaxed);
            assert_eq!(record.read(), None);
            word.fetch_xor(1 << bit, Relaxed);
        }
    }
    record.hour.fetch_add(1, Relaxed);
    assert_eq!(record.read(), None);
    record.hour.fetch_sub(1, Relaxed);
    record.ending.store(3, Relaxed);
    assert_eq!(record.read(), None, "no run leaves this behind");
    record.ending.store(0, Relaxed);
    assert!(record.read().is_some());
}

#[test]
fn a_record_half_written_over_another_is_seen() {
    let (old, new) = (record(), record());
    old.write(
        9,
        &AccountId::new("first").unwrap(),
        &row("one", Some("m1")),
    );
    new.write(
        10,
        &AccountId::new("second").unwrap(),
        &row("two", Some("m2")),
    );
    fn words(record: &UsageRecord) -> Vec<&AtomicU64> {
        let head = [&record.state, &record.generation, &record.lengths];
        let texts = [&record.account, &record.key, &record.model];
        let texts = texts.into_iter().flatten();
        head.into_iter()
            .chain(texts)
            .chain([&record.checksum])
            .collect()
    }
    let all = words(&new).len();
    for written in 1..all {
        let torn = record();
        torn.hour.store(497_222, Relaxed);
        for (at, word) in words(&torn).into_iter().enumerate() {
            let from = if at < written {
                words(&new)[at]
            } else {
                words(&old)[at]
            };
            word.store(from.load(Relaxed), Relaxed);
        }
        let found = torn.read().map(|(account, _)| account.to_string());
        assert_eq!(found, None, "{written} of {all} words");
    }
}

#[test]
fn a_tally_is_what_was_added() {
    let words = UsageWords::default();
    let mut counts = Counts::default().with(Meter::Request, 1);
    for (meter, count) in Meter::ALL.into_iter().skip(1).zip(10..) {
        counts.set(meter, count);
    }
    words.add(nanos(7), Certainty::Exact, &counts);
    words.add(nanos(5), Certainty::Estimated, &counts);
    words.add(nanos(3), Certainty::None, &Counts::default());
    let mut sum = counts;
    sum.add(&counts);
    sum.set(Meter::Request, 3);
    let tally = Tally {
        exact: 1,
        estimated: 1,
        none: 1,
        cost_nanos: 15,
        counts: sum,
    };
    assert_eq!(words.tally(), tally);
    let raised = UsageWords::default();
    raised.raise(&tally);
    assert_eq!(raised.tally(), tally);
    raised.raise(&Tally::default());
    assert_eq!(raised.tally(), tally, "it only rises");
    raised.clear();
    assert!(raised.is_blank());
}

/// What an earlier run leaves: 100 nanos of two calls counted, and two holds of 30 open.
fn left() -> (UsageRecord, UsageWords) {
    let (record, words) = (record(), UsageWords::default());
    words.add(nanos(60), Certainty::Exact, &Counts::default());
    words.add(nanos(40), Certainty::Estimated, &Counts::default());
    words.hold(nanos(30));
    words.hold(nanos(30));
    (record, words)
}

/// Cost, estimated calls, and whether holds stand.
fn state((record, words): &(UsageRecord, UsageWords)) -> (i64, u64, bool) {
    let tally = words.tally();
    assert_eq!(tally.exact, 1, "what settled is not touched");
    (
        tally.cost_nanos,
        tally.estimated,
        words.holds() || record.is_ending(),
    )
}

const CHARGED: (i64, u64, bool) = (160, 3, false);
const RELEASED: (i64, u64, bool) = (100, 1, false);

fn end((record, words): &(UsageRecord, UsageWords), unsettled: Unsettled, stores: usize) -> usize {
    let steps = record.steps(words, unsettled);
    for step in steps.iter().take(stores) {
        record.make(words, *step);
    }
    steps.len()
}

#[test]
fn holds_left_open_end_by_policy() {
    for (unsettled, want) in [(Unsettled::Charge, CHARGED), (Unsettled::Release, RELEASED)] {
        let slot = left();
        end(&slot, unsettled, usize::MAX);
        assert_eq!(state(&slot), want);
        assert_eq!(end(&slot, Unsettled::Charge, usize::MAX), 0, "once");
        assert_eq!(state(&slot), want);
    }
}

/// Every number of stores that a first run makes before it is killed, every number that the second makes, whatever the policies;
/// the third ends it.
#[test]
fn holds_end_once_wherever_the_process_is_killed() {
    let policies = [Unsettled::Charge, Unsettled::Release];
    for first in policies {
        let all = end(&left(), first, usize::MAX);
        for killed in 0..=all {
            for second in policies {
                for killed_again in 0..=all {
                    for third in policies {
                        let slot = left();
                        end(&slot, first, killed);
                        // What is begun is finished as it was begun.
                        let begun = slot.0.is_ending() || killed == all;
                        end(&slot, second, killed_again);
                        let begun_again = slot.0.is_ending() || !slot.1.holds();
                        end(&slot, third, usize::MAX);
                        let policy = match (begun, begun_again) {
                            (true, _) => first,
                            (false, true) => second,
                            (false, false) => third,
                        };
                        let want = match policy {
                            Unsettled::Charge => CHARGED,
                            Unsettled::Release => RELEASED,
                        };
                        let cut = (first, killed, second, killed_again, third);
                        assert_eq!(state(&slot), want, "{cut:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_no_run_can_have_held_is_nothing() {
    let words = UsageWords::default();
    words.held_nanos.store(-5, Relaxed);
    words.held_calls.store(u64::MAX, Relaxed);
    assert_eq!(Held::of(&words), Held::default());
}
