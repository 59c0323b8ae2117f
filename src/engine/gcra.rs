//! A rate with a burst in one atomic word: the generic cell rate algorithm. The rule is a pure function; the atomic only
//! carries it.

use std::sync::atomic::{Ordering::AcqRel, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Monotonic;
use crate::primitive::AtomicU64;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Thousandths of a call per second in one call per second: shares of a rate are counted in them.
const MILLI: u64 = 1_000;

/// A rate: one call every `interval_nanos`, and after a rest as many at once as the tolerance has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_nanos: u64,
    /// How far the theoretical arrival time may lie ahead of now once a call is admitted.
    tolerance_nanos: u64,
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
        let (interval_nanos, burst) = (NANOS_PER_SECOND.div_ceil(qps as u64), burst as u64);
        Self {
            interval_nanos,
            tolerance_nanos: interval_nanos.saturating_mul(burst),
        }
    }

    /// A share of a rate, in thousandths of a call per second; `None` for no share at all.
    ///
    /// The burst is shared in the same proportion, so the tolerance, which is a time, is that of the whole. A share whose part in
    /// the burst is less than a call can still save up for one: over any window, shares together admit at most one call each more
    /// than the whole rate would.
    pub fn share(whole: Self, milli: u64) -> Option<Self> {
        let nanos = NANOS_PER_SECOND.saturating_mul(MILLI);
        let interval_nanos = (milli > 0).then(|| nanos.div_ceil(milli))?;
        let tolerance_nanos = whole.tolerance_nanos.max(interval_nanos);
        Some(Self {
            interval_nanos,
            tolerance_nanos,
        })
    }

    /// How much it is, in thousandths of a call per second, rounded down.
    pub(super) fn milli(self) -> u64 {
        let nanos = NANOS_PER_SECOND.saturating_mul(MILLI);
        nanos.checked_div(self.interval_nanos).unwrap_or(0)
    }

    /// Its two numbers, to be kept in atomics.
    pub(super) const fn parts(self) -> (u64, u64) {
        (self.interval_nanos, self.tolerance_nanos)
    }

    /// A rate from its two numbers.
    pub(super) const fn from_parts(interval_nanos: u64, tolerance_nanos: u64) -> Self {
        Self {
            interval_nanos,
            tolerance_nanos,
        }
    }
}

/// A call that came too soon: after this long it would have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSoon(pub Duration);

/// The rule: the theoretical arrival time after a call at `now`, or how long to wait. Over any window, at most
/// `burst + window / interval` calls pass.
fn admit(arrival: u64, now: u64, rate: Rate) -> Result<u64, TooSoon> {
    let next = arrival.max(now).saturating_add(rate.interval_nanos);
    match next.saturating_sub(now).checked_sub(rate.tolerance_nanos) {
        None | Some(0) => Ok(next),
        Some(early) => Err(TooSoon(Duration::from_nanos(early))),
    }
}

/// The arrival time under another share that leaves as many calls as there were, and those that were `earned` with it.
fn reshared(arrival: u64, now: u64, old: Option<Rate>, new: Rate, earned: Earned) -> u64 {
    let wide = |nanos: u64| u128::from(nanos);
    let saved = old.map_or(0, |old| {
        let room = old
            .tolerance_nanos
            .saturating_sub(arrival.saturating_sub(now));
        // Calls are room / interval; under the new share they need as many of its intervals.
        wide(room)
            .saturating_mul(wide(new.interval_nanos))
            .checked_div(wide(old.interval_nanos))
            .unwrap_or(0)
    });
    // A share of m thousandths earns a call in 10^12 / m ns, so in t ns it earns t × m / 10^12 calls.
    let rested = wide(earned.rested_nanos).min(wide(new.tolerance_nanos));
    let fresh = rested
        .saturating_mul(wide(earned.milli))
        .saturating_mul(wide(new.interval_nanos))
        .checked_div(1_000_000_000_000)
        .unwrap_or(0);
    let room = saved.saturating_add(fresh).min(wide(new.tolerance_nanos));
    let room = u64::try_from(room).unwrap_or(new.tolerance_nanos);
    now.saturating_add(new.tolerance_nanos.saturating_sub(room))
}

/// What a share brings along that nobody had: so many thousandths of a call per second, free for so long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Earned {
    /// How much of the rate.
    pub milli: u64,
    /// For how long.
    pub rested_nanos: u64,
}

/// The one word: the theoretical arrival time of the next call, in running time.
///
/// To take and to reshare acquires and releases: who takes after a share was cut sees so, if it looks at the share again. All else is
/// relaxed.
#[derive(Debug, Default)]
pub struct Gcra(AtomicU64);

impl Gcra {
    /// Takes one call's worth, or takes nothing.
    pub fn take(&self, rate: Rate, now: Monotonic) -> Result<(), TooSoon> {
        let mut arrival = self.0.load(Relaxed);
        loop {
            let next = admit(arrival, now.nanos(), rate)?;
            match self.0.compare_exchange_weak(arrival, next, AcqRel, Relaxed) {
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

    /// Goes on under another share of the same rate: calls saved up are kept, as far as the new share has room for them.
    pub fn reshare(&self, old: Option<Rate>, new: Rate, earned: Earned, now: Monotonic) {
        let next = |arrival: u64| Some(reshared(arrival, now.nanos(), old, new, earned));
        // The closure never refuses, so neither does the update.
        let _ = self.0.fetch_update(AcqRel, Relaxed, next);
    }

    /// How many calls would pass now, and how long until the whole burst would.
    pub fn view(&self, rate: Rate, now: Monotonic) -> (u32, Duration) {
        let ahead = self.0.load(Relaxed).saturating_sub(now.nanos());
        let free = rate.tolerance_nanos.saturating_sub(ahead);
        let calls = free.checked_div(rate.interval_nanos).unwrap_or(0);
        (
            u32::try_from(calls).unwrap_or(u32::MAX),
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

    #[test]
    fn a_share_goes_on_with_the_calls_it_had() {
        let whole = Rate::per_second(1_000, 10);
        let half = Rate::share(whole, 500_000).unwrap();
        let fifth = Rate::share(whole, 200_000).unwrap();
        assert_eq!(Rate::share(whole, 1_000_000), Some(whole));
        assert_eq!(Rate::share(whole, 0), None);
        let now = Monotonic::from_nanos(SECOND);
        let gcra = Gcra::default();
        assert_eq!(
            [whole, half, fifth].map(|r| gcra.view(r, now).0),
            [10, 5, 2]
        );
        for _ in 0..7 {
            assert!(gcra.take(whole, now).is_ok());
        }
        // Three are left of ten. A half has room for five, so the three stay; a fifth has room for two.
        gcra.reshare(Some(whole), half, Earned::default(), now);
        assert_eq!(gcra.view(half, now).0, 3);
        gcra.reshare(Some(half), fifth, Earned::default(), now);
        assert_eq!(gcra.view(fifth, now).0, 2);
        gcra.reshare(Some(fifth), whole, Earned::default(), now);
        assert_eq!(
            gcra.view(whole, now).0,
            2,
            "what was given up does not come back"
        );
    }

    #[test]
    fn a_new_share_brings_what_it_earned_while_it_was_free() {
        let whole = Rate::per_second(1_000, 10);
        let half = Rate::share(whole, 500_000).unwrap();
        let now = Monotonic::from_nanos(SECOND);
        for (rested_nanos, calls) in [(0, 0), (SECOND / 500, 1), (SECOND / 100, 5), (SECOND, 5)] {
            let gcra = Gcra::default();
            let earned = Earned {
                milli: 500_000,
                rested_nanos,
            };
            gcra.reshare(None, half, earned, now);
            assert_eq!(gcra.view(half, now).0, calls, "{rested_nanos}");
        }
    }

    proptest::proptest! {
        /// A rate that wanders over three replicas: over any window, together at most burst + rate × seconds, and one each for
        /// shares too small for a whole call.
        #[test]
        fn shares_that_move_admit_no_more_than_the_whole(
            qps in 1u32..2_000,
            burst in 1u32..50,
            steps in proptest::collection::vec((0u64..20_000_000, 0usize..3, 0usize..3, 0u64..=1_000), 1..300),
        ) {
            let whole = Rate::per_second(qps, burst);
            let limit = u64::from(qps) * MILLI;
            let gcras = [Gcra::default(), Gcra::default(), Gcra::default()];
            let mut shares = [limit, 0, 0];
            let mut now = SECOND;
            let mut passed = Vec::new();
            for (step, from, to, part) in steps {
                now += step;
                let at = Monotonic::from_nanos(now);
                // Some of one share goes to another; what it earned went away with it.
                let moved = if from == to { 0 } else { shares[from] * part / 1_000 };
                for (who, milli) in [(from, shares[from] - moved), (to, shares[to] + moved)] {
                    if from == to {
                        break;
                    }
                    let old = Rate::share(whole, shares[who]);
                    shares[who] = milli;
                    if let Some(new) = Rate::share(whole, milli) {
                        gcras[who].reshare(old, new, Earned::default(), at);
                    }
                }
                for (gcra, milli) in gcras.iter().zip(shares) {
                    if let Some(rate) = Rate::share(whole, milli) {
                        while gcra.take(rate, at).is_ok() {
                            passed.push(now);
                        }
                    }
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let allowed = u128::from(burst + 3) * 1_000_000_000 + u128::from(to - from) * u128::from(qps);
                    let count = (j - i + 1) as u128 * 1_000_000_000;
                    proptest::prop_assert!(count <= allowed, "{count} of {allowed} between {from} and {to}");
                }
            }
        }

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
