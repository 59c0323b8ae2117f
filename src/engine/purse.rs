//! What admission spends from: the part of a lease that is neither spent nor held, in one atomic word.

use std::sync::atomic::Ordering::Relaxed;

use crate::money::Amount;
use crate::primitive::AtomicI64;

/// `headroom = lease ceiling − spend − held`. One word, so that each of its changes is one step:
///
/// | | headroom |
/// |---|---|
/// | hold | − hold, if that much is there |
/// | settle | + hold − actual: below zero if the call cost more than there was |
/// | release | + hold |
/// | a grant arrives | + the rise of the ceiling |
/// | rights go back | − what is given back, never below zero |
///
/// Relaxed throughout: the word guards no other memory, and the total of spend is read from the usage cells.
/// It wraps only beyond 9 × 10^9 units in one lease; grants are bounded far below that.
#[derive(Debug, Default)]
pub struct Purse(AtomicI64);

/// Less is there than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short;

impl Purse {
    /// Takes `amount` if, before that, at least `required` is there; takes all of it or nothing. `required` is the larger
    /// where an account must have something left even for a call that is held for nothing.
    pub fn hold(&self, amount: Amount, required: Amount) -> Result<(), Short> {
        let take = |headroom: i64| {
            if headroom < required.nanos() {
                None
            } else {
                headroom.checked_sub(amount.nanos())
            }
        };
        self.0
            .fetch_update(Relaxed, Relaxed, take)
            .map(|_| ())
            .map_err(|_| Short)
    }

    /// Ends a hold with what the call really cost. Always applies, also below zero.
    pub fn settle(&self, hold: Amount, actual: Amount) {
        self.0
            .fetch_add(hold.nanos().wrapping_sub(actual.nanos()), Relaxed);
    }

    /// Ends a hold without a cost.
    pub fn release(&self, hold: Amount) {
        self.settle(hold, Amount::ZERO);
    }

    /// Takes what is there, up to `most`.
    pub fn take_up_to(&self, most: Amount) -> Amount {
        let mut taken = 0;
        let take = |headroom: i64| {
            taken = headroom.clamp(0, most.nanos().max(0));
            headroom.checked_sub(taken)
        };
        match self.0.fetch_update(Relaxed, Relaxed, take) {
            Ok(_) => Amount::from_nanos(taken),
            Err(_) => Amount::ZERO,
        }
    }

    /// Ends a hold with as much of a cost as was held and is there beside it, and not more. Returns how much that is.
    pub fn settle_up_to(&self, hold: Amount, most: Amount) -> Amount {
        let mut paid = 0;
        let settle = |headroom: i64| {
            let there = hold.nanos().saturating_add(headroom.max(0));
            paid = most.nanos().min(there).max(0);
            Some(headroom.wrapping_add(hold.nanos()).wrapping_sub(paid))
        };
        // The closure never refuses, so neither does the update.
        let _ = self.0.fetch_update(Relaxed, Relaxed, settle);
        Amount::from_nanos(paid)
    }

    /// A lease ceiling rose by this, or fell if it is negative.
    pub fn grant(&self, rise: Amount) {
        self.0.fetch_add(rise.nanos(), Relaxed);
    }

    /// Takes out what is there beyond `keep`, to be given back. What is held is not touched.
    pub fn give_back(&self, keep: Amount) -> Amount {
        let mut given = 0;
        let take = |headroom: i64| {
            given = headroom.saturating_sub(keep.nanos()).max(0);
            headroom.checked_sub(given)
        };
        match self.0.fetch_update(Relaxed, Relaxed, take) {
            Ok(_) => Amount::from_nanos(given),
            Err(_) => Amount::ZERO,
        }
    }

    /// What is there.
    pub fn headroom(&self) -> Amount {
        Amount::from_nanos(self.0.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(n: i64) -> Amount {
        Amount::from_nanos(n)
    }

    #[test]
    fn a_hold_takes_all_or_nothing() {
        let purse = Purse::default();
        purse.grant(nanos(10));
        assert_eq!(purse.hold(nanos(11), nanos(11)), Err(Short));
        assert_eq!(purse.hold(nanos(10), nanos(10)), Ok(()));
        assert_eq!(purse.hold(nanos(0), nanos(0)), Ok(()));
        assert_eq!(purse.hold(nanos(0), nanos(1)), Err(Short));
        purse.release(nanos(10));
        assert_eq!(purse.headroom(), nanos(10));
    }

    #[test]
    fn a_settlement_always_applies() {
        let purse = Purse::default();
        purse.grant(nanos(10));
        purse.hold(nanos(10), nanos(10)).unwrap();
        purse.settle(nanos(10), nanos(25));
        assert_eq!(purse.headroom(), nanos(-15));
        assert_eq!(purse.hold(nanos(0), nanos(0)), Err(Short));
    }

    #[test]
    fn only_what_is_free_is_given_back() {
        let purse = Purse::default();
        purse.grant(nanos(10));
        purse.hold(nanos(4), nanos(4)).unwrap();
        assert_eq!(purse.give_back(nanos(1)), nanos(5));
        assert_eq!(purse.give_back(nanos(1)), nanos(0));
        assert_eq!(purse.headroom(), nanos(1));
    }

    #[test]
    fn what_may_not_go_below_zero_pays_what_there_is() {
        let purse = Purse::default();
        purse.grant(nanos(10));
        assert_eq!(purse.take_up_to(nanos(4)), nanos(4));
        assert_eq!(purse.take_up_to(nanos(9)), nanos(6));
        assert_eq!(purse.take_up_to(nanos(1)), nanos(0));
        purse.grant(nanos(3));
        // 6 were held and 3 are free: of 8, 8 are paid and 1 is left; of 8 more, what is held and that 1.
        assert_eq!(purse.settle_up_to(nanos(6), nanos(8)), nanos(8));
        assert_eq!(purse.headroom(), nanos(1));
        assert_eq!(purse.settle_up_to(nanos(4), nanos(8)), nanos(5));
        assert_eq!(purse.headroom(), nanos(0));
        purse.grant(nanos(-7));
        assert_eq!(purse.take_up_to(nanos(1)), nanos(0));
        assert_eq!(
            purse.settle_up_to(nanos(2), nanos(5)),
            nanos(2),
            "what was held is its own"
        );
        assert_eq!(purse.headroom(), nanos(-7));
    }

    #[test]
    fn many_at_once_hold_exactly_what_is_there() {
        let purse = Purse::default();
        purse.grant(nanos(1_000));
        let held: usize = std::thread::scope(|scope| {
            let run = || {
                (0..1_000)
                    .filter(|_| purse.hold(nanos(3), nanos(3)).is_ok())
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!((held, purse.headroom()), (333, nanos(1)));
    }
}
