//! A rate with a burst in one atomic word: the generic cell rate algorithm. The rule is a pure function; the atomic only
//! carries it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Monotonic;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A rate: one call every `interval_nanos`, and `burst` calls at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_nanos: u64,
    burst: u32,
}

impl Rate {
    /// So many calls per second; both at least 1.
    ///
    /// The interval is rounded up, so that the rate is never above what was asked for.
    pub const fn per_second(qps: u32, burst: u32) -> Self {
        let qps = if qps == 0 { 1 } else { qps };
        let burst = if burst == 0 { 1 } else { burst };
        #[expect(
            clippy::as_conversions,
            reason = "u64::from is not const; widening cannot fail"
        )]
        let interval_nanos = NANOS_PER_SECOND.div_ceil(qps as u64);
        Self {
            interval_nanos,
            burst,
        }
    }

    /// Its two numbers, to be kept in atomics.
    pub(super) const fn parts(self) -> (u64, u32) {
        (self.interval_nanos, self.burst)
    }

    /// A rate from its two numbers; an interval of zero is no limit.
    pub(super) fn from_parts(interval_nanos: u64, burst: u32) -> Option<Self> {
        (interval_nanos > 0).then(|| Self {
            interval_nanos,
            burst: burst.max(1),
        })
    }

    /// Calls per second.
    pub fn qps(self) -> u32 {
        let qps = NANOS_PER_SECOND
            .checked_div(self.interval_nanos)
            .unwrap_or(u64::MAX);
        u32::try_from(qps).unwrap_or(u32::MAX)
    }

    /// Calls at once after a rest.
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// How far the theoretical arrival time may lie ahead of now once a call is admitted.
    fn tolerance(self) -> u64 {
        self.interval_nanos.saturating_mul(self.burst.into())
    }
}

/// A call that came too soon: after this long it would have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSoon(pub Duration);

/// The rule: the theoretical arrival time after a call at `now`, or how long to wait. Over any window, at most
/// `burst + window / interval` calls pass.
fn admit(arrival: u64, now: u64, rate: Rate) -> Result<u64, TooSoon> {
    let next = arrival.max(now).saturating_add(rate.interval_nanos);
    match next.saturating_sub(now).checked_sub(rate.tolerance()) {
        None | Some(0) => Ok(next),
        Some(early) => Err(TooSoon(Duration::from_nanos(early))),
    }
}

/// The one word: the theoretical arrival time of the next call, in running time.
///
/// Relaxed throughout: the word guards no other memory.
#[derive(Debug, Default)]
pub struct Gcra(AtomicU64);

impl Gcra {
    /// Takes one call's worth, or takes nothing.
    pub fn take(&self, rate: Rate, now: Monotonic) -> Result<(), TooSoon> {
        let mut arrival = self.0.load(Relaxed);
        loop {
            let next = admit(arrival, now.nanos(), rate)?;
            match self
                .0
                .compare_exchange_weak(arrival, next, Relaxed, Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(other) => arrival = other,
            }
        }
    }

    /// Gives back what a call took that a later check refused.
    pub fn give_back(&self, rate: Rate) {
        let back = |arrival: u64| Some(arrival.saturating_sub(rate.interval_nanos));
        // The closure never refuses, so neither does the update.
        let _ = self.0.fetch_update(Relaxed, Relaxed, back);
    }

    /// How many calls would pass now, and how long until the whole burst would.
    pub fn view(&self, rate: Rate, now: Monotonic) -> (u32, Duration) {
        let ahead = self.0.load(Relaxed).saturating_sub(now.nanos());
        let free = rate.tolerance().saturating_sub(ahead);
        let calls = free.checked_div(rate.interval_nanos).unwrap_or(0);
        (
            u32::try_from(calls).unwrap_or(u32::MAX).min(rate.burst),
            Duration::from_nanos(ahead),
        )
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test that overflows has failed"
)]
mod tests {
    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    fn check(rate: Rate, at: &[u64], want: &[bool]) {
        let gcra = Gcra::default();
        let got: Vec<bool> = at
            .iter()
            .map(|now| gcra.take(rate, Monotonic::from_nanos(*now)).is_ok())
            .collect();
        assert_eq!(got, want, "{rate:?} at {at:?}");
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let tenth = SECOND / 10;
        check(
            Rate::per_second(10, 1),
            &[1, 1, tenth, tenth + 1],
            &[true, false, false, true],
        );
        check(
            Rate::per_second(10, 2),
            &[5, 5, 5, tenth + 4, tenth + 5, tenth + 5],
            &[true, true, false, false, true, false],
        );
    }

    #[test]
    fn the_wait_is_exact() {
        let (gcra, rate) = (Gcra::default(), Rate::per_second(10, 1));
        assert_eq!(gcra.take(rate, Monotonic::from_nanos(7)), Ok(()));
        let TooSoon(wait) = gcra.take(rate, Monotonic::from_nanos(8)).unwrap_err();
        assert_eq!(wait, Duration::from_nanos(SECOND / 10 - 1));
        assert!(
            gcra.take(
                rate,
                Monotonic::from_nanos(8).plus(wait - Duration::from_nanos(1))
            )
            .is_err()
        );
        assert!(gcra.take(rate, Monotonic::from_nanos(8).plus(wait)).is_ok());
    }

    #[test]
    fn what_is_given_back_passes_again() {
        let (gcra, rate, now) = (
            Gcra::default(),
            Rate::per_second(10, 1),
            Monotonic::from_nanos(1),
        );
        assert!(gcra.take(rate, now).is_ok());
        gcra.give_back(rate);
        assert_eq!(gcra.view(rate, now).0, 1);
        assert!(gcra.take(rate, now).is_ok());
        assert!(gcra.take(rate, now).is_err());
    }

    #[test]
    fn a_rest_earns_a_burst_and_no_more() {
        let (gcra, rate) = (Gcra::default(), Rate::per_second(10, 5));
        let passed = |now| {
            (0..100)
                .filter(|_| gcra.take(rate, Monotonic::from_nanos(now)).is_ok())
                .count()
        };
        assert_eq!(
            [passed(1), passed(3600 * SECOND), passed(3600 * SECOND)],
            [5, 5, 0]
        );
    }

    proptest::proptest! {
        /// Over any window: at most burst + rate × seconds.
        #[test]
        fn no_window_has_too_many(
            qps in 1u32..1000,
            burst in 1u32..50,
            steps in proptest::collection::vec(0u64..200_000_000, 1..300),
        ) {
            let (gcra, rate) = (Gcra::default(), Rate::per_second(qps, burst));
            let mut now = 1u64;
            let mut passed = Vec::new();
            for step in steps {
                now += step;
                if gcra.take(rate, Monotonic::from_nanos(now)).is_ok() {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let allowed = u128::from(burst) * 1_000_000_000 + u128::from(to - from) * u128::from(qps);
                    let count = (j - i + 1) as u128 * 1_000_000_000;
                    proptest::prop_assert!(count <= allowed, "{count} of {allowed} between {from} and {to}");
                }
            }
        }
    }
}
