//! What the words of a slot mean: what is counted, whose it is, and how a name is written so that a torn one is seen. No files
//! and no slots here, only words.

use std::sync::atomic::{Ordering::AcqRel, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

use super::checksum;
use crate::clock::Hour;
use crate::id::{AccountId, KeyId, ModelName, NAME_BYTES_MAX};
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::primitive::{AtomicI64, AtomicU64};
use crate::usage::{Certainty, Counts, Meter, Tally};

/// The meters in the order of their words, those of most calls first. Without [`Meter::Request`]: every settled call is one
/// request, and calls are counted by certainty already.
const METERS: [Meter; Meter::COUNT - 1] = [
    Meter::Input,
    Meter::Output,
    Meter::ByteIn,
    Meter::ByteOut,
    Meter::CachedInput,
    Meter::Reasoning,
    Meter::CacheWrite,
    Meter::Image,
    Meter::AudioSecond,
];

/// What is counted in a slot. Two cache lines; what every settlement touches is on the first.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct UsageWords {
    pub(super) cost_nanos: AtomicI64,
    pub(super) exact: AtomicU64,
    /// In the order of [`METERS`]; six of them on the first line.
    counts: [AtomicU64; Meter::COUNT - 1],
    pub(super) estimated: AtomicU64,
    none: AtomicU64,
    /// The cost that the store last acknowledged.
    published_nanos: AtomicI64,
    /// Open holds whose account has unsettled ones charged, and how many they are.
    pub(super) held_nanos: AtomicI64,
    pub(super) held_calls: AtomicU64,
}

/// Whose slot it is, and what is seldom touched. Lies apart from the words, so that those stay dense.
#[derive(Debug)]
#[repr(C)]
pub(super) struct UsageRecord {
    /// 0 is free; else the generation that uses the slot. Stored last, when all the rest is in place.
    pub(super) state: AtomicU64,
    generation: AtomicU64,
    hour: AtomicI64,
    /// Bytes of the account, the key and the model (0: none), 16 bits each.
    lengths: AtomicU64,
    account: Text,
    key: Text,
    model: Text,
    checksum: AtomicU64,
    /// How many calls the store last acknowledged: free calls have no cost to tell them by.
    published_calls: AtomicU64,
    /// What is being done with holds that an earlier run left open: see [`Step`].
    ending: AtomicU64,
    /// What the words come to when it is done.
    ending_cost: AtomicI64,
    ending_estimated: AtomicU64,
    /// Zeroes, for what a later format may need.
    spare: [AtomicU64; 7],
}

/// Totals of an account.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct TotalsRecord {
    pub(super) acked_nanos: AtomicI64,
    pub(super) total_nanos: AtomicI64,
    pub(super) version: AtomicU64,
    /// Zeroes, for what a later format may need.
    spare: [AtomicU64; 5],
    /// 0 is free, 1 is used. Stored last.
    pub(super) state: AtomicU64,
    length: AtomicU64,
    account: Text,
    checksum: AtomicU64,
    rest: [AtomicU64; 5],
}

/// A name, filled up with zeroes.
type Text = [AtomicU64; NAME_BYTES_MAX / 8];

#[cfg(not(all(test, feature = "model")))]
const _: () = {
    assert!(size_of::<UsageWords>() == 128 && align_of::<UsageWords>() == 128);
    assert!(
        std::mem::offset_of!(UsageWords, counts) == 16,
        "the first line: cost, exact, six counts"
    );
    assert!(size_of::<UsageRecord>() == 512 && size_of::<TotalsRecord>() == 256);
    assert!(NAME_BYTES_MAX.is_multiple_of(8));
};

/// Which calls a slot counts, within its account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// The hour they were admitted in.
    pub hour: Hour,
    /// Whose they are.
    pub key: KeyId,
    /// Of which model; `None` for calls that name none.
    pub model: Option<ModelName>,
}

impl UsageWords {
    /// Counts one settled call. The counts are relaxed and the cost comes last, sequentially consistent: whoever sees the cost
    /// sees its counts, and a process killed in between has counted a call without its cost, never a cost without its call.
    pub(super) fn add(&self, cost: Amount, certainty: Certainty, counts: &Counts) {
        let calls = match certainty {
            Certainty::Exact => &self.exact,
            Certainty::Estimated => &self.estimated,
            Certainty::None => &self.none,
        };
        calls.fetch_add(1, Relaxed);
        for (sum, meter) in self.counts.iter().zip(METERS) {
            let count = counts.get(meter);
            if count > 0 {
                sum.fetch_add(count, Relaxed);
            }
        }
        self.cost_nanos.fetch_add(cost.nanos(), SeqCst);
    }

    /// What has been counted. While calls settle, a call's counts may be in it before its cost.
    pub(super) fn tally(&self) -> Tally {
        let cost_nanos = self.cost_nanos.load(SeqCst);
        let mut tally = Tally {
            exact: self.exact.load(Relaxed),
            estimated: self.estimated.load(Relaxed),
            none: self.none.load(Relaxed),
            cost_nanos,
            counts: Counts::default(),
        };
        for (sum, meter) in self.counts.iter().zip(METERS) {
            tally.counts.set(meter, sum.load(Relaxed));
        }
        tally.counts.set(Meter::Request, tally.calls());
        tally
    }

    /// Raises every word to what the store is known to have. Nobody counts meanwhile.
    pub(super) fn raise(&self, to: &Tally) {
        self.exact.fetch_max(to.exact, Relaxed);
        self.estimated.fetch_max(to.estimated, Relaxed);
        self.none.fetch_max(to.none, Relaxed);
        for (sum, meter) in self.counts.iter().zip(METERS) {
            sum.fetch_max(to.counts.get(meter), Relaxed);
        }
        self.cost_nanos.fetch_max(to.cost_nanos, SeqCst);
    }

    pub(super) fn published_nanos(&self) -> i64 {
        self.published_nanos.load(Relaxed)
    }

    pub(super) fn publish(&self, cost_nanos: i64) {
        self.published_nanos.store(cost_nanos, Relaxed);
    }

    /// Notes an open hold. The call first: a process killed between the two leaves a call for nothing, never money without a call.
    pub(super) fn hold(&self, amount: Amount) {
        self.held_calls.fetch_add(1, Relaxed);
        self.held_nanos.fetch_add(amount.nanos(), Release);
    }

    /// Takes it back. The money first, for the same reason.
    pub(super) fn end_hold(&self, amount: Amount) {
        self.held_nanos.fetch_sub(amount.nanos(), Relaxed);
        self.held_calls.fetch_sub(1, Release);
    }

    /// Whether holds are noted as open.
    pub(super) fn holds(&self) -> bool {
        self.held_calls.load(Relaxed) != 0 || self.held_nanos.load(Relaxed) != 0
    }

    /// Whether nothing is in it.
    pub(super) fn is_blank(&self) -> bool {
        self.tally() == Tally::default() && self.published_nanos() == 0 && !self.holds()
    }

    pub(super) fn clear(&self) {
        for word in [&self.cost_nanos, &self.published_nanos, &self.held_nanos] {
            word.store(0, Relaxed);
        }
        for word in [&self.exact, &self.estimated, &self.none, &self.held_calls] {
            word.store(0, Relaxed);
        }
        for word in &self.counts {
            word.store(0, Relaxed);
        }
    }
}

/// A store that ends the holds which an earlier run left open.
///
/// They become an estimated charge, or go, exactly once, also if the process is killed between any two of these stores: the next
/// run then finds one of three things.
///
/// 1. `ending` is [`NOT_ENDING`] and the holds stand: nothing of the slot has changed but the two words that say what it is to
///    come to, and nobody reads those. It starts again, by the policy of then.
/// 2. `ending` is [`CHARGING`] or [`DROPPING`]: it is finished, whatever the policy says by then. The rest are stores of fixed
///    values (what the words come to, zero), so that to make some of them again changes nothing. Nobody counts into the slot
///    meanwhile: it is not handed out before this is done.
/// 3. `ending` is [`NOT_ENDING`] and no holds stand: it is done.
///
/// The stores are made in this order: each is a `Release`, so that the compiler keeps it, and what a process has stored when it is
/// killed is what it came to in its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    EndingCost(i64),
    EndingEstimated(u64),
    Ending(u64),
    Estimated(u64),
    Cost(i64),
    HeldNanos,
    HeldCalls,
}

/// Holds that are open, if any, stand in the held words.
const NOT_ENDING: u64 = 0;
/// They become a charge: the words come to what the record says.
const CHARGING: u64 = 1;
/// They go.
const DROPPING: u64 = 2;

/// What was left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) nanos: i64,
    pub(super) calls: u64,
}

impl Held {
    /// What the held words say; a value that no run can have left, but a power loss in the middle of a page might, is nothing.
    pub(super) fn of(words: &UsageWords) -> Self {
        let calls = words.held_calls.load(Relaxed);
        Self {
            nanos: words.held_nanos.load(Relaxed).max(0),
            calls: if i64::try_from(calls).is_ok() {
                calls
            } else {
                0
            },
        }
    }
}

impl UsageRecord {
    /// The stores that end what is open, in their order; none if nothing is. See [`Step`].
    pub(super) fn steps(&self, words: &UsageWords, unsettled: Unsettled) -> Vec<Step> {
        let mut steps = Vec::with_capacity(8);
        let begun = self.ending.load(Relaxed);
        let (cost, estimated) = if begun == NOT_ENDING {
            if !words.holds() {
                return steps;
            }
            let held = Held::of(words);
            let cost = words.cost_nanos.load(Relaxed).saturating_add(held.nanos);
            let estimated = words.estimated.load(Relaxed).saturating_add(held.calls);
            steps.extend([Step::EndingCost(cost), Step::EndingEstimated(estimated)]);
            (cost, estimated)
        } else {
            let cost = self.ending_cost.load(Relaxed);
            (cost, self.ending_estimated.load(Relaxed))
        };
        let kind = match (begun, unsettled) {
            (CHARGING, _) | (NOT_ENDING, Unsettled::Charge) => CHARGING,
            _ => DROPPING,
        };
        steps.push(Step::Ending(kind));
        if kind == CHARGING {
            steps.extend([Step::Estimated(estimated), Step::Cost(cost)]);
        }
        steps.extend([Step::HeldNanos, Step::HeldCalls, Step::Ending(NOT_ENDING)]);
        steps
    }

    /// Makes one store.
    pub(super) fn make(&self, words: &UsageWords, step: Step) {
        match step {
            Step::EndingCost(nanos) => self.ending_cost.store(nanos, Release),
            Step::EndingEstimated(calls) => self.ending_estimated.store(calls, Release),
            Step::Ending(kind) => self.ending.store(kind, Release),
            Step::Estimated(calls) => words.estimated.store(calls, Release),
            Step::Cost(nanos) => words.cost_nanos.store(nanos, Release),
            Step::HeldNanos => words.held_nanos.store(0, Release),
            Step::HeldCalls => words.held_calls.store(0, Release),
        }
    }

    /// Whether a run was killed while it ended holds.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Relaxed) != NOT_ENDING
    }

    /// How many calls the store last acknowledged.
    pub(super) const fn published_calls(&self) -> &AtomicU64 {
        &self.published_calls
    }

    /// Writes whose slot it is, and then that it is used. Of a process killed in between the slot is free.
    pub(super) fn write(&self, generation: u64, account: &AccountId, row: &RowId) {
        let model = row.model.as_ref().map_or("", ModelName::as_str);
        put_text(&self.account, account.as_str());
        put_text(&self.key, row.key.as_str());
        put_text(&self.model, model);
        let lengths = [account.as_str(), row.key.as_str(), model].map(str::len);
        self.lengths.store(pack(lengths), Relaxed);
        self.hour.store(row.hour.0, Relaxed);
        self.generation.store(generation, Relaxed);
        for word in [&self.published_calls, &self.ending, &self.ending_estimated] {
            word.store(0, Relaxed);
        }
        self.ending_cost.store(0, Relaxed);
        self.checksum.store(self.sum(), Relaxed);
        // Release: whoever sees the slot used sees whose it is. A swap, so that two who write one slot are seen in tests.
        let before = self.state.swap(generation, AcqRel);
        debug_assert_eq!(before, 0, "a used slot is not given out");
    }

    /// Whose slot it is; `None` if what stands there was not written whole, or was changed since.
    pub(super) fn read(&self) -> Option<(AccountId, RowId)> {
        let whole = self.generation.load(Relaxed) == self.state.load(Relaxed)
            && self.checksum.load(Relaxed) == self.sum()
            && self.ending.load(Relaxed) <= DROPPING;
        if !whole {
            return None;
        }
        let [account, key, model] = unpack(self.lengths.load(Relaxed));
        let model = match get_text(&self.model, model)? {
            name if name.is_empty() => None,
            name => Some(ModelName::new(&name).ok()?),
        };
        let row = RowId {
            hour: Hour(self.hour.load(Relaxed)),
            key: KeyId::new(&get_text(&self.key, key)?).ok()?,
            model,
        };
        Some((
            AccountId::stored(&get_text(&self.account, account)?).ok()?,
            row,
        ))
    }

    fn sum(&self) -> u64 {
        let head = [
            self.generation.load(Relaxed),
            self.hour.load(Relaxed).cast_unsigned(),
            self.lengths.load(Relaxed),
        ];
        let texts = self.account.iter().chain(&self.key).chain(&self.model);
        checksum(head.into_iter().chain(texts.map(|word| word.load(Relaxed))))
    }
}

impl TotalsRecord {
    /// Writes whose they are, and then that they are used.
    pub(super) fn write(&self, account: &AccountId) {
        put_text(&self.account, account.as_str());
        let length = pack([account.as_str().len(), 0, 0]);
        self.length.store(length, Relaxed);
        self.checksum.store(self.sum(), Relaxed);
        self.state.store(1, Release);
    }

    /// Whose they are; `None` if what stands there was not written whole, or was changed since.
    pub(super) fn read(&self) -> Option<AccountId> {
        if self.state.load(Relaxed) != 1 || self.checksum.load(Relaxed) != self.sum() {
            return None;
        }
        let [length, ..] = unpack(self.length.load(Relaxed));
        AccountId::stored(&get_text(&self.account, length)?).ok()
    }

    pub(super) fn clear(&self) {
        for word in [&self.acked_nanos, &self.total_nanos] {
            word.store(0, Relaxed);
        }
        self.version.store(0, Relaxed);
    }

    pub(super) fn is_blank(&self) -> bool {
        let nanos = [&self.acked_nanos, &self.total_nanos];
        nanos.iter().all(|word| word.load(Relaxed) == 0) && self.version.load(Relaxed) == 0
    }

    fn sum(&self) -> u64 {
        let words = std::iter::once(&self.length).chain(&self.account);
        checksum(words.map(|word| word.load(Relaxed)))
    }
}

fn pack(lengths: [usize; 3]) -> u64 {
    lengths
        .iter()
        .zip([0, 16, 32])
        .map(|(length, shift)| u64::try_from(*length).unwrap_or(0) << shift)
        .fold(0, |all, one| all | one)
}

fn unpack(lengths: u64) -> [usize; 3] {
    [0, 16, 32].map(|shift| usize::try_from((lengths >> shift) & 0xffff).unwrap_or(usize::MAX))
}

fn put_text(words: &Text, text: &str) {
    let mut bytes = text.bytes();
    for word in words {
        let part: [u8; 8] = std::array::from_fn(|_| bytes.next().unwrap_or(0));
        word.store(u64::from_ne_bytes(part), Relaxed);
    }
}

fn get_text(words: &Text, length: usize) -> Option<String> {
    let bytes = words
        .iter()
        .flat_map(|word| word.load(Relaxed).to_ne_bytes());
    let bytes: Vec<u8> = bytes.take(length).collect();
    if bytes.len() != length {
        return None;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(all(test, not(feature = "model")))]
mod tests;
