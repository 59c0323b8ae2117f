//! Counters that threads do not fight over: each thread adds to a stripe of its own, a reader sums all stripes. What is counted is
//! not known here.
//!
//! The `metrics` crate with its Prometheus recorder was measured and set aside: its counter costs twice this one (10 to 5 ns on
//! one thread), its histogram four times (42 to 10 ns), and keeps every sample until it is scraped. And its atomics are shared:
//! two threads that add to one pay 80 to 180 ns (PEERS.md), as much as the decision that they count.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How many stripes there are. More threads than this share; a power of two, so that finding one is a mask.
const STRIPES: usize = 16;

/// Apart by two cache lines: processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// One `T` for each stripe.
#[derive(Debug, Default)]
pub(super) struct Striped<T>([Padded<T>; STRIPES]);

impl<T> Striped<T> {
    /// This thread's own.
    pub(super) fn mine(&self) -> &T {
        let [first, ..] = &self.0;
        &self.0.get(stripe()).unwrap_or(first).0
    }

    /// A figure summed over all stripes; wraps as the counters themselves do.
    pub(super) fn sum(&self, figure: impl Fn(&T) -> u64) -> u64 {
        self.0.iter().fold(0, |sum, stripe| {
            let more = figure(&stripe.0);
            sum.wrapping_add(more)
        })
    }
}

fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    // A thread that is ending has no `MINE` any more; any stripe is right.
    MINE.try_with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Relaxed) & (STRIPES - 1));
        }
        mine.get()
    })
    .unwrap_or(0)
}

/// A count that only grows. Relaxed throughout: it guards no other memory.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The upper ends of a histogram's buckets, in nanoseconds: 250 ns to 1 s. Decisions lie at its beginning, waits for a first
/// load or a lease at its end.
pub(super) const BUCKETS: [u64; 21] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
];

/// Durations by bucket. The last bucket is for what is beyond all.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [Count; BUCKETS.len() + 1],
    nanos: Count,
}

impl Histogram {
    pub(super) fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // An upper end belongs to its bucket, as in Prometheus.
        let bucket = BUCKETS.partition_point(|end| *end < nanos);
        if let Some(count) = self.counts.get(bucket) {
            count.add(1);
            self.nanos.add(nanos);
        }
    }

    pub(super) fn bucket(&self, index: usize) -> u64 {
        self.counts.get(index).map_or(0, Count::get)
    }

    pub(super) fn nanos(&self) -> u64 {
        self.nanos.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_contains_its_upper_end() {
        let check = |nanos: u64, bucket: usize| {
            let histogram = Histogram::default();
            histogram.record(Duration::from_nanos(nanos));
            assert_eq!(histogram.bucket(bucket), 1, "{nanos} ns");
            assert_eq!(histogram.nanos(), nanos);
        };
        check(0, 0);
        check(250, 0);
        check(251, 1);
        check(1_000, 2);
        check(1_000_000_000, 20);
        check(1_000_000_001, 21);
        check(u64::MAX, 21);
    }

    #[test]
    fn threads_lose_nothing() {
        let striped = Striped::<Count>::default();
        // More threads than stripes, so that some share one.
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..1_000).for_each(|_| striped.mine().add(1)));
            }
        });
        assert_eq!(striped.sum(Count::get), 40_000);
    }

    #[test]
    fn neighbours_do_not_share_a_line() {
        assert!(align_of::<Padded<Count>>() >= 128);
        assert!(size_of::<Padded<Count>>() >= 128);
    }
}
