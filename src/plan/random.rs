//! Chance that repeats: the same seed, the same numbers, on every machine. SplitMix64, which is good enough for arrivals and lengths
//! of calls, and small enough to be read.

use super::number::real;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream of a seed, and of a part of what it is for: two parts of one seed have nothing in common.
    pub(super) fn new(seed: u64, part: u64) -> Self {
        let mut random = Self(seed);
        let mixed = random.next();
        Self(mixed ^ Self(part).next())
    }

    /// The next number.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly from zero to below one.
    pub(super) fn unit(&mut self) -> f64 {
        // 53 bits: as many as a float keeps.
        real(self.next() >> 11) / 9_007_199_254_740_992.0
    }

    /// One of the numbers below `most`; zero if there is none.
    pub(super) fn below(&mut self, most: u64) -> u64 {
        let scaled = u128::from(self.next()).saturating_mul(most.into()) >> 64;
        u64::try_from(scaled).unwrap_or(0)
    }

    /// How long until the next of what comes at random, `mean` apart.
    pub(super) fn until_next(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }
}
