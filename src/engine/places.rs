//! Calls in flight, and this replica's share of how many there may be: both in one atomic word, so that a call comes in under the
//! share that holds in that very step, and a share is changed knowing who is in.

use std::sync::atomic::{Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

use crate::primitive::AtomicU64;

/// The share in the upper half, the calls in flight in the lower.
///
/// | | share | in flight |
/// |---|---|---|
/// | a call comes in | | + 1, if that is within the share |
/// | it leaves | | − 1 |
/// | another share | what was asked for | |
///
/// The orders say what a change has to do with other words; for this one, one word is enough.
#[derive(Debug)]
pub(super) struct Places(AtomicU64);

/// A share: no limit.
const UNLIMITED: u32 = u32::MAX;

/// More calls in flight than a machine has memory for; one less than what means no limit.
const PLACES_MAX: u32 = UNLIMITED - 1;

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Default for Places {
    /// No limit, and nobody in.
    fn default() -> Self {
        Self(AtomicU64::from(word(UNLIMITED, 0)))
    }
}

impl Places {
    /// Counts a call in, if there is room. Returns how many are in with it, if there is a limit.
    ///
    /// Whoever retires an account looks in here after saying so, and whoever is in looks whether that was said: of two such looks,
    /// `SeqCst` lets one at least see the other's word.
    pub(super) fn enter(&self) -> Result<Option<u32>, Full> {
        let enter = |before: u64| {
            let (share, n) = halves(before);
            if n < share {
                Some(word(share, n.checked_add(1)?))
            } else {
                None
            }
        };
        let before = self.0.fetch_update(SeqCst, Relaxed, enter);
        let (share, n) = halves(before.map_err(|_| Full)?);
        Ok((share != UNLIMITED).then(|| n.saturating_add(1)))
    }

    /// Counts a call in, room or not. Relaxed: its account is not let go of for another reason, that a charge is awaited.
    pub(super) fn enter_anyway(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Counts a call out. Whoever sees that it has left sees what it counted.
    pub(super) fn leave(&self) {
        self.0.fetch_sub(1, Release);
    }

    /// How many are in, for who looks and decides nothing.
    pub(super) fn in_flight(&self) -> u32 {
        halves(self.0.load(Relaxed)).1
    }

    /// The share, if there is a limit.
    pub(super) fn limited_to(&self) -> Option<u64> {
        let (share, _) = halves(self.0.load(Relaxed));
        (share != UNLIMITED).then(|| share.into())
    }

    /// Whether nobody is in. What those who were have counted is seen then.
    pub(super) fn is_empty(&self) -> bool {
        halves(self.0.load(SeqCst)).1 == 0
    }

    /// Goes on under another share. Returns how many places are taken: never fewer than calls are in flight, which keep theirs; but none
    /// comes in until there are fewer than the share.
    pub(super) fn share(&self, share: u64) -> u64 {
        let share = u32::try_from(share).unwrap_or(PLACES_MAX).min(PLACES_MAX);
        let (_, n) = self.change(|_, _| share);
        share.max(n).into()
    }

    /// From now on there is a limit, or none. Of a new one, nothing is this replica's until it is given a share.
    pub(super) fn limit(&self, limited: bool) {
        self.change(|share, _| match (limited, share) {
            (false, _) => UNLIMITED,
            (true, UNLIMITED) => 0,
            (true, share) => share,
        });
    }

    /// Sets the share by what stands. Returns that.
    fn change(&self, to: impl Fn(u32, u32) -> u32) -> (u32, u32) {
        let change = |before: u64| {
            let (share, n) = halves(before);
            Some(word(to(share, n), n))
        };
        // The closure never refuses, so neither does the update.
        let (Ok(before) | Err(before)) = self.0.fetch_update(Relaxed, Relaxed, change);
        halves(before)
    }
}

const fn word(share: u32, in_flight: u32) -> u64 {
    let [a, b, c, d] = share.to_be_bytes();
    let [e, f, g, h] = in_flight.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

const fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_keeps_a_place_and_nobody_comes_in_above_the_share() {
        let places = Places::default();
        assert_eq!(places.enter(), Ok(None), "there is no limit yet");
        places.limit(true);
        assert_eq!(places.enter(), Err(Full), "nothing of it was given here");
        assert_eq!(places.share(3), 3);
        assert_eq!((places.enter(), places.enter()), (Ok(Some(2)), Ok(Some(3))));
        assert_eq!(places.enter(), Err(Full));
        assert_eq!(places.share(1), 3, "three are in");
        places.leave();
        places.limit(true);
        assert_eq!(places.enter(), Err(Full), "two are in, and one may be");
        assert_eq!((places.share(0), places.in_flight()), (2, 2));
        places.limit(false);
        assert_eq!(places.enter(), Ok(None));
    }

    #[test]
    fn a_share_beyond_all_machines_is_a_limit_all_the_same() {
        for share in [u64::from(PLACES_MAX), u64::from(UNLIMITED), u64::MAX] {
            let places = Places::default();
            assert_eq!(places.share(share), u64::from(PLACES_MAX));
            assert_eq!(places.enter(), Ok(Some(1)));
        }
    }
}
