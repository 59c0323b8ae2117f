#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed, which is what it is for"
)]

mod random;

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::counters::{Slot, TakenUp};
use super::*;
use crate::id::{KeyId, ModelName};
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::usage::{Certainty, Counts, Meter, Tally};

fn nanos(n: i64) -> Amount {
    Amount::from_nanos(n)
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

fn replica() -> ReplicaId {
    ReplicaId::new("r-1").unwrap()
}

fn open(dir: &Path) -> Local {
    Local::open(dir, Timestamp::from_nanos(5), replica).unwrap()
}

/// Counts a call of account `a`, and says whether the store has it.
fn count(local: &Local, key: &str, hour: i64, cost: i64, published: bool) {
    let (account, _) = take_up(local).begin(Unsettled::Release);
    let model = ModelName::new("m").unwrap();
    let slot = account.slot(&KeyId::new(key).unwrap(), Some(&model), Hour(hour));
    let counts = Counts::default()
        .with(Meter::Request, 1)
        .with(Meter::Output, 2);
    slot.count(nanos(cost), Certainty::Exact, &counts);
    if published {
        slot.acknowledge(&slot.tally());
    }
}

fn take_up(local: &Local) -> TakenUp {
    local.take_up(&account("a")).unwrap()
}

/// All that was ever counted of account `a`: key, calls, cost, output.
fn lifetime(local: &Local) -> Vec<(String, u64, i64, u64)> {
    let taken = take_up(local);
    let of = |row: &UsageRow| {
        assert_eq!(
            (row.hour, row.model.as_ref().unwrap().as_str()),
            (None, "m")
        );
        let Tally {
            cost_nanos, counts, ..
        } = row.tally;
        (
            row.key.to_string(),
            row.tally.calls(),
            cost_nanos,
            counts.get(Meter::Output),
        )
    };
    let rows: Vec<_> = taken.lifetime().iter().map(of).collect();
    let sum = rows.iter().map(|(_, _, cost, _)| cost).sum();
    assert_eq!(taken.spend(), nanos(sum), "usage adds up to spend");
    rows
}

fn row(key: &str, calls: u64, cost: i64) -> (String, u64, i64, u64) {
    (key.into(), calls, cost, 2 * calls)
}

#[test]
fn what_is_over_moves_from_slots_to_memory_and_adds_up_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    for hour in 1..=4 {
        count(&local, "k1", hour, 10, true);
        count(&local, "k2", hour, 1, true);
    }
    let all = [row("k1", 4, 40), row("k2", 4, 4)];
    assert_eq!(
        (lifetime(&local), local.counters().used()),
        (all.to_vec(), 8)
    );
    assert_eq!(local.fold(Hour(3)).unwrap(), 4);
    assert_eq!(
        (lifetime(&local), local.counters().used()),
        (all.to_vec(), 4)
    );
    assert_eq!(local.fold(Hour(3)).unwrap(), 0);
    drop(local);
    let local = open(dir.path());
    assert_eq!(lifetime(&local), all);
    count(&local, "k1", 4, 10, true);
    assert_eq!(local.fold(Hour(5)).unwrap(), 4);
    assert_eq!(lifetime(&local), [row("k1", 5, 50), row("k2", 4, 4)]);
    assert_eq!(local.counters().used(), 0);
    assert_eq!(local.memory().lifetime(&account("b")).unwrap(), []);
}

#[test]
fn only_what_nobody_needs_any_more_is_folded() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "published", 1, 1, true);
    count(&local, "unpublished", 1, 1, false);
    count(&local, "free", 1, 0, false);
    count(&local, "held", 1, 1, true);
    count(&local, "counted-into", 1, 1, true);
    count(&local, "now", 2, 1, true);
    let taken = take_up(&local);
    let find = |key: &str| -> Slot {
        let slots = taken.slots().iter();
        slots
            .clone()
            .find(|slot| slot.row().key.as_str() == key)
            .unwrap()
            .clone()
    };
    find("held").hold(nanos(5));
    let counted_into = find("counted-into");
    drop(taken);
    assert_eq!(local.fold(Hour(2)).unwrap(), 1);
    assert_eq!(local.counters().used(), 5);
    drop(counted_into);
    assert_eq!(local.fold(Hour(2)).unwrap(), 1);
    // What is taken up and not loaded yet is somebody's too.
    let taken = take_up(&local);
    for slot in taken.slots() {
        slot.acknowledge(&slot.tally());
    }
    assert_eq!(local.fold(Hour(2)).unwrap(), 0);
    drop(taken);
    assert_eq!(local.fold(Hour(2)).unwrap(), 2, "but for the held one");
    assert_eq!(lifetime(&local).len(), 6);
}

/// What [`Local::fold`] does up to its transaction.
fn fold_and_be_killed(local: Local, hour: i64) {
    local.counters.close_before(Hour(hour));
    let due = local.counters.due(Hour(hour));
    assert!(!due.is_empty());
    let tallied: Vec<Tallied> = due.iter().map(Tallied::of).collect();
    let id = local.counters.file_id();
    local.memory.fold(id, Hour(hour), &tallied, &[]).unwrap();
}

#[test]
fn a_process_killed_between_folding_and_freeing_folds_once() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "k1", 1, 10, true);
    count(&local, "k1", 2, 10, true);
    count(&local, "k2", 2, 7, false);
    fold_and_be_killed(local, 3);
    let local = open(dir.path());
    assert_eq!(lifetime(&local), [row("k1", 2, 20), row("k2", 1, 7)]);
    assert_eq!(local.counters().used(), 1);
    assert_eq!(
        local.memory.marks().unwrap(),
        [],
        "they have done what they were for"
    );
    drop(local);
    assert_eq!(
        lifetime(&open(dir.path())),
        [row("k1", 2, 20), row("k2", 1, 7)]
    );
}

#[test]
fn a_process_killed_again_while_it_frees_folds_once() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "k1", 1, 10, true);
    count(&local, "k2", 1, 10, true);
    count(&local, "k3", 1, 10, true);
    fold_and_be_killed(local, 2);
    {
        // The next start frees one of the three, and is killed before the marks are dropped.
        let (counters, _) =
            Counters::open(dir.path(), 8, Timestamp::from_nanos(0), replica).unwrap();
        let memory = Memory::open(dir.path(), &replica()).unwrap();
        let marks: HashSet<u64> = memory.marks().unwrap().iter().map(|mark| mark.1).collect();
        let mut folded = counters.folded(&marks);
        assert_eq!(folded.len(), 3);
        folded.truncate(1);
        counters.free(folded).unwrap();
    }
    let local = open(dir.path());
    assert_eq!(
        lifetime(&local),
        [row("k1", 1, 10), row("k2", 1, 10), row("k3", 1, 10)]
    );
    assert_eq!(local.counters().used(), 0);
}

#[test]
fn a_mark_frees_no_other_use_of_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "k1", 1, 10, true);
    assert_eq!(local.fold(Hour(2)).unwrap(), 1);
    assert_eq!(
        local.memory.marks().unwrap().len(),
        1,
        "it is dropped with the next fold"
    );
    // The slot is used again, not published, and the mark of its first use stands.
    for n in 0..2_000 {
        count(&local, &format!("n{n}"), 2, 1, false);
    }
    drop(local);
    let local = open(dir.path());
    assert_eq!(lifetime(&local).len(), 2_001);
    for key in ["k2", "k3"] {
        count(&local, key, 2, 1, true);
        local.fold(Hour(3)).unwrap();
    }
    let marks = local.memory.marks().unwrap();
    assert_eq!(marks.len(), 1, "those of the last fold: {marks:?}");
}

#[test]
fn marks_of_a_counter_file_that_is_gone_free_nothing() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let local = open(dir.path());
    count(&local, "k1", 1, 10, true);
    fold_and_be_killed(local, 2);
    // Another file of the same replica, whose first slot has the same generation.
    count(&open(other.path()), "k2", 2, 5, false);
    let name = "counters.tgc";
    std::fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
    let local = open(dir.path());
    assert_eq!(local.memory.marks().unwrap(), []);
    assert_eq!(lifetime(&local), [row("k1", 1, 10), row("k2", 1, 5)]);
}

#[test]
fn an_hour_that_was_folded_stays_closed() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "k", 1, 10, true);
    local.fold(Hour(2)).unwrap();
    drop(local);
    // The clock was set back meanwhile: the row of hour 1 is not begun anew, which would overwrite the store's.
    let local = open(dir.path());
    count(&local, "k", 1, 10, false);
    let hours: Vec<Hour> = take_up(&local)
        .slots()
        .iter()
        .map(|slot| slot.row().hour)
        .collect();
    assert_eq!(hours, [Hour(2)]);
    assert_eq!(lifetime(&local), [row("k", 2, 20)]);
}

#[test]
fn many_slots_are_folded_in_batches() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    for n in 0..5_000 {
        count(&local, &format!("k{n}"), 1, 1, true);
    }
    assert_eq!(local.fold(Hour(2)).unwrap(), 5_000);
    assert_eq!(
        (take_up(&local).spend(), local.counters().used()),
        (nanos(5_000), 0)
    );
    assert!(
        local.memory.marks().unwrap().len() < 5_000,
        "earlier batches' are dropped"
    );
}

fn stored(hour: Option<i64>, key: &str, calls: u64, cost: i64) -> UsageRow {
    let counts = Counts::default()
        .with(Meter::Request, calls)
        .with(Meter::Output, 2 * calls);
    UsageRow {
        hour: hour.map(Hour),
        key: KeyId::new(key).unwrap(),
        model: ModelName::new("m").ok(),
        tally: Tally {
            exact: calls,
            cost_nanos: cost,
            counts,
            ..Tally::default()
        },
    }
}

#[test]
fn an_older_copy_of_the_directory_is_raised_to_what_the_store_has() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "old", 1, 10, true);
    local.fold(Hour(2)).unwrap();
    count(&local, "old", 5, 10, true);
    count(&local, "ahead", 5, 100, true);
    // The store has seen two more calls of this hour, three of earlier ones, and a key that is not known here at all.
    let rows = [
        stored(Some(5), "old", 3, 30),
        stored(Some(5), "new", 1, 4),
        stored(None, "old", 7, 70),
        stored(None, "new", 2, 9),
        stored(None, "ahead", 1, 50),
    ];
    let want = [row("ahead", 1, 100), row("new", 2, 9), row("old", 7, 70)];
    for _ in 0..2 {
        let mut taken = take_up(&local);
        local.raise(&mut taken, &rows).unwrap();
        assert_eq!(taken.spend(), nanos(179));
        drop(taken);
        assert_eq!(lifetime(&local), want, "and once only");
    }
    drop(local);
    let local = open(dir.path());
    assert_eq!(lifetime(&local), want);
    let of_hour = |key: &str| {
        let taken = take_up(&local);
        let mut slots = taken
            .slots()
            .iter()
            .filter(|slot| slot.row().key.as_str() == key);
        let slot = slots.next().unwrap();
        (slot.tally().cost_nanos, slot.is_published())
    };
    assert_eq!((of_hour("old"), of_hour("new")), ((30, true), (4, true)));
    assert_eq!(
        of_hour("ahead"),
        (100, true),
        "the store says nothing of its hour"
    );
}

#[test]
fn a_memory_that_belongs_to_other_counters_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(open(one.path()));
    let other = || ReplicaId::new("r-2").unwrap();
    let two_local = Local::open(two.path(), Timestamp::from_nanos(0), other).unwrap();
    assert_eq!(two_local.replica(), &other());
    drop(two_local);
    let name = "replica.redb";
    std::fs::copy(one.path().join(name), two.path().join(name)).unwrap();
    let error = Local::open(two.path(), Timestamp::from_nanos(0), other).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, LocalError::Memory(MemoryError::NotOurs { .. })),
        "{message}"
    );
    assert!(
        message.contains("r-1") && message.contains("r-2") && message.contains(name),
        "{message}"
    );
}

#[test]
fn a_replica_keeps_its_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let renamed = || panic!("it has a name");
    let local = Local::open(dir.path(), Timestamp::from_nanos(9), renamed).unwrap();
    assert_eq!(local.replica(), &replica());
    assert_eq!(local.counters().created(), Some(Timestamp::from_nanos(5)));
}

#[test]
fn an_account_is_forgotten_but_for_what_it_spent() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "k", 1, 10, true);
    local.fold(Hour(2)).unwrap();
    take_up(&local).totals().saw(nanos(10), nanos(20), 3);
    let document = memory::Document {
        format: 1,
        bytes: b"book".to_vec(),
    };
    local.memory().keep(&[(account("a"), document)]).unwrap();
    local.forget(&account("a")).unwrap();
    assert_eq!(local.memory().kept(&account("a")).unwrap(), None);
    assert_eq!(take_up(&local).totals().version(), 0);
    assert_eq!(lifetime(&local), [row("k", 1, 10)]);
}

#[test]
fn a_fold_and_those_who_count_do_not_lose_a_call() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let local = &local;
            scope.spawn(move || {
                for n in 0..300 {
                    count(local, &format!("k{thread}"), n / 30, 1, true);
                }
            });
        }
        scope.spawn(|| {
            for hour in 0..10 {
                local.fold(Hour(hour)).unwrap();
            }
        });
    });
    let want: Vec<_> = (0..3).map(|n| row(&format!("k{n}"), 300, 300)).collect();
    assert_eq!(lifetime(&local), want);
    drop(local);
    assert_eq!(lifetime(&open(dir.path())), want);
}

#[test]
fn a_directory_that_is_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    let again = || Local::open(dir.path(), Timestamp::from_nanos(0), replica);
    let message = again().unwrap_err().to_string();
    let named = dir.path().display().to_string();
    assert!(
        message.contains(&named) && message.contains("in use"),
        "{message}"
    );
    drop(local);
    again().unwrap();
}

#[test]
fn a_damaged_slot_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    count(&local, "k1", 1, 10, true);
    count(&local, "k2", 1, 5, true);
    drop(local);
    let path = dir.path().join("counters.tgc");
    let file = File::options().write(true).open(path).unwrap();
    // The key's name in the first record.
    file.write_all_at(b"?", 2 * 4_096 + 1_024 * 128 + 32 + 128)
        .unwrap();
    let local = open(dir.path());
    assert_eq!(local.counters().refused().len(), 1);
    assert_eq!(local.fold(Hour(2)).unwrap(), 1);
    assert_eq!(lifetime(&local), [row("k2", 1, 5)]);
}
