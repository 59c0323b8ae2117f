#![expect(
    clippy::as_conversions,
    reason = "a test that overflows has failed, which is what it is for"
)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::chunk::{CHUNK_BYTES, RECORD_BYTES, WORDS_BYTES};
use super::*;
use crate::id::{KeyId, ModelName};
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::usage::{Certainty, Counts, Meter};

const PAGE: u64 = 4_096;
const CHUNK: u64 = CHUNK_BYTES as u64;

/// A data directory that is opened and left, as a process would.
struct Dir {
    dir: tempfile::TempDir,
    chunks_max: u32,
}

fn dir() -> Dir {
    Dir {
        dir: tempfile::tempdir().unwrap(),
        chunks_max: 8,
    }
}

fn nanos(n: i64) -> Amount {
    Amount::from_nanos(n)
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

impl Dir {
    fn try_open(&self) -> Result<Arc<Counters>, CountersError> {
        let name = || ReplicaId::new("r-1").unwrap();
        let now = Timestamp::from_nanos(5);
        Counters::open(self.dir.path(), self.chunks_max, now, name).map(|(counters, _)| counters)
    }

    fn open(&self) -> Arc<Counters> {
        self.try_open().unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("counters.tgc")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// It is refused as `want` says, by name, and not written to.
    fn check_refused(&self, want: impl Fn(&CountersError) -> bool) {
        let before = self.bytes();
        let error = self.try_open().expect_err("a file that is not as it was");
        assert!(want(&error), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("counters.tgc"), "{message}");
        assert!(self.bytes() == before, "it was written to: {message}");
    }
}

/// Counts a call, as an account that is loaded does.
fn count(counters: &Arc<Counters>, name: &str, key: &str, hour: i64, cost: i64) -> Slot {
    let (account, _) = counters.take_up(&account(name)).begin(Unsettled::Release);
    let model = ModelName::new("m").unwrap();
    let slot = account.slot(&KeyId::new(key).unwrap(), Some(&model), Hour(hour));
    let counts = Counts::default()
        .with(Meter::Request, 1)
        .with(Meter::Input, 3);
    slot.count(nanos(cost), Certainty::Exact, &counts);
    slot
}

/// What an account costs, by key.
fn costs(counters: &Arc<Counters>, name: &str) -> Vec<(String, i64)> {
    let taken = counters.take_up(&account(name));
    let cost = |slot: &Slot| (slot.row().key.to_string(), slot.tally().cost_nanos);
    let mut costs: Vec<_> = taken.slots().iter().map(cost).collect();
    costs.sort();
    costs
}

#[test]
fn what_was_counted_is_there_after_a_process_that_said_nothing() {
    let dir = dir();
    let counters = dir.open();
    let made = counters.created();
    for _ in 0..3 {
        count(&counters, "a", "k1", 1, 7);
    }
    count(&counters, "a", "k2", 1, 5);
    count(&counters, "b", "k1", 1, 1);
    drop(counters);
    let counters = dir.open();
    assert_eq!(costs(&counters, "a"), [("k1".into(), 21), ("k2".into(), 5)]);
    assert_eq!(costs(&counters, "b"), [("k1".into(), 1)]);
    let taken = counters.take_up(&account("a"));
    assert_eq!(taken.spend(), nanos(26));
    let calls: u64 = taken.lifetime().iter().map(|row| row.tally.calls()).sum();
    let input: u64 = taken
        .lifetime()
        .iter()
        .map(|row| row.tally.counts.get(Meter::Input))
        .sum();
    assert_eq!((calls, input), (4, 12));
    assert_eq!((counters.used(), counters.unprotected()), (3, 0));
    assert_eq!(
        (made, counters.created()),
        (made, Some(Timestamp::from_nanos(5)))
    );
    assert_eq!(counters.refused(), []);
}

#[test]
fn one_process_at_a_time_uses_a_directory() {
    let dir = dir();
    let counters = dir.open();
    let error = dir.try_open().unwrap_err();
    assert!(matches!(error, CountersError::InUse { .. }), "{error:?}");
    let message = error.to_string();
    let named = dir.dir.path().display().to_string();
    assert!(
        message.contains(&named) && message.contains("stop that one"),
        "{message}"
    );
    drop(counters);
    dir.open();
}

#[test]
fn what_is_no_counter_file_is_refused() {
    let is_foreign = |error: &CountersError| matches!(error, CountersError::Foreign { .. });
    for content in [&b""[..], b"{}", &[0; 10_000], b"TGCOUNT"] {
        let dir = dir();
        std::fs::write(dir.path(), content).unwrap();
        dir.check_refused(is_foreign);
    }
}

#[test]
fn no_byte_of_the_header_page_can_change_unseen() {
    let dir = dir();
    count(&dir.open(), "a", "k", 1, 1);
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.path())
        .unwrap();
    let mut page = [0; 4_096];
    file.read_exact_at(&mut page, 0).unwrap();
    for (at, byte) in (0..).zip(page) {
        file.write_all_at(&[byte ^ 0x55], at).unwrap();
        assert!(dir.try_open().is_err(), "byte {at}");
        file.write_all_at(&[byte], at).unwrap();
    }
    let mut after = [0; 4_096];
    file.read_exact_at(&mut after, 0).unwrap();
    assert!(after == page, "a refused file is not written to");
    assert_eq!(costs(&dir.open(), "a"), [("k".into(), 1)]);
}

#[test]
fn a_file_that_was_cut_is_refused() {
    let dir = dir();
    let counters = dir.open();
    count(&counters, "a", "k", 1, 1);
    counters.make_room().unwrap();
    let keys = 0..SLOTS;
    keys.for_each(|n| drop(count(&counters, "a", &format!("k{n}"), 1, 1)));
    drop(counters);
    let whole = dir.bytes();
    let chunks = (whole.len() as u64 - PAGE) / CHUNK;
    assert!(chunks >= 3, "two of slots and one of totals, at least");
    for chunk in 0..chunks {
        let boundary = PAGE + chunk * CHUNK;
        for length in [
            boundary,
            boundary + 1,
            boundary + PAGE,
            boundary + CHUNK - 1,
        ] {
            std::fs::write(dir.path(), &whole[..length as usize]).unwrap();
            dir.check_refused(|error| match error {
                CountersError::Length {
                    found, expected, ..
                } => (*found, *expected) == (length, whole.len() as u64),
                _ => false,
            });
        }
    }
    std::fs::write(dir.path(), &whole[..100]).unwrap();
    dir.check_refused(|error| matches!(error, CountersError::Damaged { .. }));
    std::fs::write(dir.path(), &whole).unwrap();
    assert_eq!(costs(&dir.open(), "a").len(), 1 + SLOTS as usize);
}

#[test]
fn a_file_that_was_added_to_is_refused() {
    let dir = dir();
    count(&dir.open(), "a", "k", 1, 1);
    let whole = dir.bytes();
    let is_length = |error: &CountersError| matches!(error, CountersError::Length { .. });
    let one = vec![1; 1];
    let late = [vec![0; CHUNK as usize - 1], one.clone()].concat();
    let much = vec![0; CHUNK as usize + 1];
    for tail in [one, late, much] {
        std::fs::write(dir.path(), [&whole[..], &tail].concat()).unwrap();
        dir.check_refused(is_length);
    }
}

#[test]
fn what_a_process_was_killed_at_while_the_file_grew_does_no_harm() {
    let dir = dir();
    count(&dir.open(), "a", "k", 1, 1);
    let whole = dir.bytes();
    let id = dir.open().file_id();
    // Zeroes, some or all; then the head; then it would have been counted.
    let head = Kind::Usage.encode(id, 1).to_vec();
    let headed = [head, vec![0; (CHUNK - PAGE) as usize]].concat();
    for tail in [vec![0; 1], vec![0; 70_000], vec![0; CHUNK as usize], headed] {
        std::fs::write(dir.path(), [&whole[..], &tail].concat()).unwrap();
        let counters = dir.open();
        assert_eq!(costs(&counters, "a"), [("k".into(), 1)]);
        (0..SLOTS).for_each(|n| drop(count(&counters, "b", &format!("k{n}"), 1, 1)));
        assert_eq!(counters.unprotected(), 0);
        drop(counters);
        assert_eq!(dir.bytes().len() as u64, PAGE + 2 * CHUNK);
        assert_eq!(costs(&dir.open(), "b").len(), SLOTS as usize);
    }
}

#[test]
fn a_chunk_that_is_not_the_files_own_is_refused() {
    let (dir, other) = (dir(), dir());
    count(&dir.open(), "a", "k", 1, 1);
    count(&other.open(), "a", "k", 1, 1);
    let (whole, theirs) = (dir.bytes(), other.bytes());
    let at = PAGE as usize;
    let swapped = [&whole[..at], &theirs[at..]].concat();
    std::fs::write(dir.path(), swapped).unwrap();
    dir.check_refused(|error| matches!(error, CountersError::Chunk { chunk: 0, .. }));
}

#[test]
fn a_file_that_is_still_being_made_is_made_again() {
    let dir = dir();
    let new = dir.dir.path().join("counters.tgc.new");
    for torn in [&b""[..], b"TGCOUNTS", &[0xff; 5_000]] {
        std::fs::write(&new, torn).unwrap();
        drop(dir.open());
        assert!(!new.exists());
        std::fs::remove_file(dir.path()).unwrap();
    }
}

#[test]
fn a_slot_whose_name_is_damaged_is_reported_and_left_alone() {
    let dir = dir();
    let counters = dir.open();
    count(&counters, "a", "k1", 1, 7);
    count(&counters, "a", "k2", 1, 5);
    drop(counters);
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.path())
        .unwrap();
    // A byte of the first slot's account: after the state, the generation, the hour and the lengths.
    let records = PAGE + PAGE + u64::from(SLOTS * WORDS_BYTES);
    file.write_all_at(b"x", records + 32).unwrap();
    for _ in 0..2 {
        let counters = dir.open();
        let [refused] = counters.refused() else {
            panic!("one slot is damaged: {:?}", counters.refused())
        };
        assert_eq!(
            (refused.chunk, refused.slot, refused.why),
            (0, 0, Why::Torn)
        );
        assert_eq!((refused.tally.calls(), refused.tally.cost_nanos), (1, 7));
        let message = refused.to_string();
        assert!(
            message.contains("slot 0 of part 0") && message.contains("0.000000007"),
            "{message}"
        );
        assert_eq!(costs(&counters, "a"), [("k2".into(), 5)]);
        assert_eq!(costs(&counters, "x"), [], "it is not guessed at");
        // Nor is its place given out.
        (0..SLOTS).for_each(|n| drop(count(&counters, "b", &format!("k{n}"), 1, 1)));
    }
    file.write_all_at(b"a", records + 32).unwrap();
    assert_eq!(
        costs(&dir.open(), "a"),
        [("k1".into(), 7), ("k2".into(), 5)]
    );
}

#[test]
fn a_row_that_is_there_twice_is_not_added_up() {
    let dir = dir();
    let counters = dir.open();
    count(&counters, "a", "k1", 1, 7);
    count(&counters, "a", "k2", 1, 5);
    drop(counters);
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.path())
        .unwrap();
    let records = PAGE + PAGE + u64::from(SLOTS * WORDS_BYTES);
    let mut record = vec![0; RECORD_BYTES as usize];
    file.read_exact_at(&mut record, records).unwrap();
    file.write_all_at(&record, records + u64::from(RECORD_BYTES))
        .unwrap();
    let counters = dir.open();
    let refused: Vec<_> = counters
        .refused()
        .iter()
        .map(|refused| refused.why)
        .collect();
    assert_eq!(refused, [Why::Twice]);
    assert_eq!(costs(&counters, "a").len(), 1);
}

#[test]
fn the_file_grows_and_slots_do_not_move() {
    let dir = dir();
    let counters = dir.open();
    let first = count(&counters, "a", "first", 1, 1);
    for n in 0..3 * SLOTS {
        count(&counters, "a", &format!("k{n}"), 1, 1);
    }
    first.count(nanos(1), Certainty::Exact, &Counts::default());
    assert_eq!(counters.unprotected(), 0);
    drop((first, counters));
    let counters = dir.open();
    let costs = costs(&counters, "a");
    assert_eq!(costs.len(), 3 * SLOTS as usize + 1);
    assert_eq!(costs[0], ("first".into(), 2));
    // Every block is there: none of the file is a hole.
    let metadata = dir.path().metadata().unwrap();
    let on_disk = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(on_disk >= metadata.len(), "{on_disk} of {}", metadata.len());
}

#[test]
fn room_is_made_ahead_for_another_hour_like_the_fullest() {
    let dir = dir();
    let counters = dir.open();
    let free = || locked(&counters.home.as_ref().unwrap().free).len();
    assert_eq!(free(), 0);
    counters.make_room().unwrap();
    let least = SLOTS as usize;
    assert!(free() >= least);
    (0..SLOTS + 10).for_each(|n| drop(count(&counters, "a", &format!("k{n}"), 1, 1)));
    counters.make_room().unwrap();
    assert!(free() >= least + 10, "{}", free());
    assert_eq!(
        dir.bytes().len() as u64,
        PAGE + 4 * CHUNK,
        "3 of slots, 1 of totals"
    );
    drop(counters);
    let counters = dir.open();
    counters.make_room().unwrap();
    assert_eq!(
        dir.bytes().len() as u64,
        PAGE + 4 * CHUNK,
        "it knows how full an hour is"
    );
}

#[test]
fn beyond_its_bound_counting_goes_on_unprotected() {
    let mut dir = dir();
    dir.chunks_max = 1;
    let counters = dir.open();
    let slots: Vec<Slot> = (0..SLOTS + 3)
        .map(|n| count(&counters, "a", &format!("k{n}"), 1, 1))
        .collect();
    assert_eq!(counters.unprotected(), 3);
    assert_eq!(slots.iter().filter(|slot| !slot.is_protected()).count(), 3);
    let error = counters.make_room().unwrap_err();
    assert!(
        matches!(error, CountersError::Full { chunks: 1, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("counters.tgc"), "{error}");
    assert_eq!(costs(&counters, "a").len(), SLOTS as usize + 3);
    counters
        .take_up(&account("b"))
        .totals()
        .saw(nanos(1), nanos(2), 3);
    drop((slots, counters));
    assert_eq!(costs(&dir.open(), "a").len(), SLOTS as usize);
}

#[test]
fn a_disk_that_takes_nothing_more_fails_no_call() {
    let dir = dir();
    let counters = dir.open();
    count(&counters, "a", "k", 1, 1);
    let length = dir.bytes().len();
    counters.break_writes();
    for n in 0..SLOTS + 1 {
        count(&counters, "b", &format!("k{n}"), 1, 1);
    }
    assert_eq!(
        (counters.unprotected(), counters.used()),
        (2, SLOTS as usize)
    );
    let error = counters.make_room().unwrap_err();
    assert!(matches!(error, CountersError::Io { .. }), "{error:?}");
    assert_eq!(dir.bytes().len(), length);
    // The disk has room again: what was begun on the heap stays there, what is new does not.
    counters.mend_writes();
    count(&counters, "b", "still", 1, 1);
    assert_eq!(counters.unprotected(), 3, "it is not tried at every call");
    counters.make_room().unwrap();
    count(&counters, "b", "again", 1, 1);
    assert_eq!(counters.unprotected(), 3);
    assert_eq!(costs(&counters, "b").len(), SLOTS as usize + 3);
}

#[test]
fn freed_slots_are_used_again_under_a_new_generation() {
    let dir = dir();
    let counters = dir.open();
    let slot = count(&counters, "a", "k1", 1, 7);
    let (first, address) = (slot.generation().unwrap(), slot.address());
    let freed = counters.free(vec![(account("a"), slot)]).unwrap();
    assert_eq!(freed, [first]);
    assert!(
        counters.accounts.get(&account("a")).is_none(),
        "nothing of the account is left"
    );
    let used = |key: &str| count(&counters, "b", key, 1, 5);
    let slots: Vec<Slot> = (0..SLOTS).map(|n| used(&format!("k{n}"))).collect();
    let again = slots.iter().find(|slot| slot.address() == address);
    let again = again.expect("a place that was freed is given out again");
    assert!(again.generation().unwrap() > first);
    assert_eq!(again.tally().cost_nanos, 5, "nothing of the first is left");
    assert_eq!(counters.unprotected(), 0);
}

#[test]
fn a_place_that_somebody_may_count_into_is_not_given_out() {
    let dir = dir();
    let counters = dir.open();
    let slot = count(&counters, "a", "k1", 1, 7);
    let freed = counters.free(vec![(account("a"), slot.clone())]).unwrap();
    assert!(freed.is_empty());
    assert_eq!(costs(&counters, "a"), [], "it is folded all the same");
    let used = |key: &str| count(&counters, "b", key, 1, 5);
    let slots: Vec<Slot> = (0..2 * SLOTS).map(|n| used(&format!("k{n}"))).collect();
    assert!(slots.iter().all(|other| other.address() != slot.address()));
    assert_eq!(slot.tally().cost_nanos, 7);
}

#[test]
fn generations_never_come_again() {
    let dir = dir();
    let mut seen = HashSet::new();
    for _ in 0..5 {
        let counters = dir.open();
        for key in ["k1", "k2"] {
            let slot = count(&counters, "a", key, 1, 1);
            assert!(seen.insert(slot.generation()), "{slot:?}");
            counters.free(vec![(account("a"), slot)]).unwrap();
        }
    }
}

#[test]
fn a_place_that_was_freed_is_not_used_before_its_zeroes_are_flushed() {
    let dir = dir();
    let counters = dir.open();
    let slot = count(&counters, "a", "k", 1, 7);
    let home = counters.home.as_ref().unwrap();
    home.release(&slot);
    drop(slot);
    let free = locked(&home.free).len();
    assert_eq!(locked(&home.cooling).len(), 1);
    counters.flush().unwrap();
    assert_eq!(
        (locked(&home.free).len(), locked(&home.cooling).len()),
        (free + 1, 0)
    );
}

#[test]
fn what_is_left_in_a_free_place_is_cleared() {
    let dir = dir();
    let counters = dir.open();
    drop(count(&counters, "a", "k", 1, 7));
    drop(counters);
    // A process is killed between the two steps of freeing a slot: it is free, and its words are still there.
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.path())
        .unwrap();
    let records = PAGE + PAGE + u64::from(SLOTS * WORDS_BYTES);
    file.write_all_at(&[0; 8], records).unwrap();
    let counters = dir.open();
    assert_eq!(costs(&counters, "a"), []);
    let fresh: Vec<Slot> = (0..SLOTS)
        .map(|n| count(&counters, "b", &format!("k{n}"), 1, 5))
        .collect();
    assert!(fresh.iter().all(|slot| slot.tally().cost_nanos == 5));
    assert_eq!(dir.bytes().len() as u64, PAGE + CHUNK);
}

#[test]
fn what_the_store_has_is_told_apart_from_what_it_has_not() {
    let dir = dir();
    let counters = dir.open();
    let recorded = |counters: &Counters| {
        let mut recorded = counters.accounts();
        recorded.sort_by(|a, b| a.account.cmp(&b.account));
        recorded
    };
    let (paid, free) = (
        count(&counters, "paid", "k", 1, 7),
        count(&counters, "free", "k", 1, 0),
    );
    let want = |account: &str, is_published, unpublished| Recorded {
        account: AccountId::new(account).unwrap(),
        slots: 1,
        is_published,
        unpublished: nanos(unpublished),
        has_holds: false,
    };
    // A free call costs nothing and is to be published all the same.
    assert_eq!(
        recorded(&counters),
        [want("free", false, 0), want("paid", false, 7)]
    );
    let tally = paid.tally();
    paid.count(nanos(2), Certainty::None, &Counts::default());
    paid.acknowledge(&tally);
    free.acknowledge(&free.tally());
    assert_eq!(
        recorded(&counters),
        [want("free", true, 0), want("paid", false, 2)]
    );
    drop((paid, free, counters));
    let counters = dir.open();
    assert_eq!(
        recorded(&counters),
        [want("free", true, 0), want("paid", false, 2)]
    );
    let (account, slots) = counters.take_up(&account("paid")).begin(Unsettled::Release);
    account.acknowledge(slots[0].row(), &slots[0].tally());
    assert!(slots[0].is_published());
}

#[test]
fn totals_only_rise_and_stay() {
    let dir = dir();
    let counters = dir.open();
    let taken = counters.take_up(&account("a"));
    taken.totals().saw(nanos(5), nanos(50), 3);
    taken.totals().saw(nanos(4), nanos(60), 2);
    counters
        .take_up(&account("b"))
        .totals()
        .saw(nanos(1), nanos(1), 1);
    let read = |counters: &Arc<Counters>, name: &str| {
        let taken = counters.take_up(&account(name));
        let totals = taken.totals();
        (
            totals.acked().nanos(),
            totals.total().nanos(),
            totals.version(),
        )
    };
    assert_eq!(read(&counters, "a"), (5, 60, 3));
    assert!(!counters.forget(&account("a")), "somebody has them");
    drop((taken, counters));
    let counters = dir.open();
    assert_eq!(
        (read(&counters, "a"), read(&counters, "b")),
        ((5, 60, 3), (1, 1, 1))
    );
    assert!(counters.forget(&account("a")));
    assert!(!counters.forget(&account("a")));
    assert_eq!(
        (read(&counters, "a"), read(&counters, "b")),
        ((0, 0, 0), (1, 1, 1))
    );
    drop(count(&counters, "b", "k", 1, 1));
    assert!(!counters.forget(&account("b")), "it has slots");
}

#[test]
fn holds_left_open_are_ended_when_the_account_is_taken_up() {
    let dir = dir();
    for (unsettled, want) in [(Unsettled::Charge, 37), (Unsettled::Release, 7)] {
        let name = format!("{unsettled:?}");
        let counters = dir.open();
        let slot = count(&counters, &name, "k", 1, 7);
        slot.hold(nanos(20));
        slot.hold(nanos(10));
        slot.hold(nanos(5));
        slot.end_hold(nanos(5));
        assert_eq!(
            counters
                .take_up(&account(&name))
                .end_holds(Unsettled::Charge),
            Charged::default(),
            "they are open in this very process"
        );
        drop((slot, counters));
        let counters = dir.open();
        let has_holds = |recorded: &Recorded| recorded.has_holds;
        assert_eq!(
            counters.accounts().iter().filter(|r| has_holds(r)).count(),
            1
        );
        let mut taken = counters.take_up(&account(&name));
        let charged = taken.end_holds(unsettled);
        let calls = if unsettled == Unsettled::Charge { 2 } else { 0 };
        assert_eq!((charged.amount, charged.calls), (nanos(want - 7), calls));
        assert_eq!(taken.end_holds(Unsettled::Charge), Charged::default());
        let (_, slots) = taken.begin(Unsettled::Charge);
        let tally = slots[0].tally();
        assert_eq!(
            (tally.cost_nanos, tally.exact, tally.estimated),
            (want, 1, calls)
        );
        assert_eq!(
            counters.accounts().iter().filter(|r| has_holds(r)).count(),
            0
        );
        // Holds of this run are not taken for those of the last.
        slots[0].hold(nanos(1));
        assert_eq!(
            counters
                .take_up(&account(&name))
                .end_holds(Unsettled::Charge),
            Charged::default()
        );
        slots[0].end_hold(nanos(1));
    }
}

#[test]
fn an_ending_of_holds_that_was_begun_is_finished_at_the_next_start() {
    let begun = |stores: usize| {
        let dir = dir();
        let counters = dir.open();
        let slot = count(&counters, "a", "k", 1, 7);
        slot.hold(nanos(20));
        let all = slot.end_left_open_killed_after(Unsettled::Charge, stores);
        drop((slot, counters));
        let counters = dir.open();
        // By another policy, if it was not begun.
        let (_, slots) = counters.take_up(&account("a")).begin(Unsettled::Release);
        assert!(!slots[0].has_holds());
        (slots[0].tally().cost_nanos, all)
    };
    let (_, all) = begun(usize::MAX);
    for stores in 0..=all {
        let want = if stores < 3 { 7 } else { 27 };
        assert_eq!(
            begun(stores).0,
            want,
            "killed after {stores} of {all} stores"
        );
    }
}

#[test]
fn a_slot_in_memory_ends_with_its_last_handle() {
    let counters = Counters::in_memory();
    let slot = count(&counters, "a", "k", 1, 7);
    assert_eq!((slot.tally().cost_nanos, counters.unprotected()), (7, 1));
    let same = slot.clone();
    drop(slot);
    same.count(nanos(1), Certainty::Exact, &Counts::default());
    assert_eq!(same.tally().cost_nanos, 8);
    drop(same);
    assert_eq!(counters.unprotected(), 0);
    assert_eq!(
        (costs(&counters, "a"), counters.accounts()),
        (vec![], vec![])
    );
    counters.flush().unwrap();
    counters.make_room().unwrap();
}

#[test]
fn a_closed_hour_is_not_begun_again() {
    let dir = dir();
    let counters = dir.open();
    drop(count(&counters, "a", "k", 4, 1));
    counters.close_before(Hour(5));
    let late = count(&counters, "a", "k", 4, 1);
    assert_eq!(late.row().hour, Hour(5));
    counters.close_before(Hour(3));
    assert_eq!(
        count(&counters, "a", "k", 4, 1).row().hour,
        Hour(5),
        "it stays closed"
    );
    assert_eq!(costs(&counters, "a"), [("k".into(), 1), ("k".into(), 2)]);
}

#[test]
fn many_threads_get_each_slot_once() {
    let dir = dir();
    let counters = dir.open();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..SLOTS / 2 {
                    drop(count(&counters, "a", &format!("k{n}"), 1, 1));
                }
            });
        }
    });
    drop(counters);
    let costs = costs(&dir.open(), "a");
    assert_eq!(costs.len(), SLOTS as usize / 2);
    assert!(costs.iter().all(|(_, cost)| *cost == 4), "{costs:?}");
}
