//! Who calls how much: the calls of all over accounts, and the calls of one account over replicas.

use super::number::{real, whole};
use super::random::Random;

/// How the calls of all are spread over accounts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Each account makes as many.
    Uniform,
    /// The account of rank k makes calls in proportion to `k^-exponent`.
    Zipf(f64),
}

/// Accounts that are alike enough for one to stand for all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stratum {
    /// How many.
    pub(super) accounts: u64,
    /// Calls per second of each.
    pub(super) rate: f64,
}

/// Up to so many accounts, each stands for itself.
const SINGLES_MAX: u64 = 64;

/// So many of the hottest stand for themselves among many more.
const HOTTEST: u64 = 6;

/// Ranks in one stratum: from k to half as much again. Rates in it differ by 1.5^exponent from end to end, and what is published of an
/// account is concave in its rate, so its mean rate tells a little more than its accounts do: 1 % at most.
const GROWTH: f64 = 1.5;

/// Below this rank, sums are added up; above, the integral is exact to 10^-5.
const SUMMED: u64 = 256;

/// How often a uniform crowd is sampled.
const UNIFORM_SAMPLES: u64 = 4;

impl Spread {
    /// All accounts in strata, the hottest first. Their rates add up to `rps`.
    pub(super) fn strata(self, accounts: u64, rps: f64) -> Vec<Stratum> {
        let Self::Zipf(exponent) = self else {
            return uniform(accounts, rps);
        };
        let all = sum(1, accounts, exponent);
        let stratum = |first: u64, last: u64| {
            let accounts = last.saturating_sub(first).saturating_add(1);
            Stratum {
                accounts,
                rate: rps * sum(first, last, exponent) / all / real(accounts),
            }
        };
        let singles = if accounts <= SINGLES_MAX {
            accounts
        } else {
            HOTTEST
        };
        let mut strata: Vec<_> = (1..=singles).map(|rank| stratum(rank, rank)).collect();
        let mut first = singles.saturating_add(1);
        while first <= accounts {
            let last = whole((real(first) * GROWTH).floor()).min(accounts);
            strata.push(stratum(first, last));
            first = last.saturating_add(1);
        }
        strata
    }
}

fn uniform(accounts: u64, rps: f64) -> Vec<Stratum> {
    let rate = rps / real(accounts);
    if accounts <= SINGLES_MAX {
        return (0..accounts)
            .map(|_| Stratum { accounts: 1, rate })
            .collect();
    }
    let part = accounts.div_euclid(UNIFORM_SAMPLES);
    let rest = accounts.saturating_sub(part.saturating_mul(UNIFORM_SAMPLES.saturating_sub(1)));
    let parts = (1..UNIFORM_SAMPLES).map(|_| part).chain([rest]);
    parts.map(|accounts| Stratum { accounts, rate }).collect()
}

/// `Σ k^-exponent` over these ranks.
fn sum(first: u64, last: u64, exponent: f64) -> f64 {
    let head: f64 = (first..=last.min(SUMMED))
        .map(|rank| real(rank).powf(-exponent))
        .sum();
    let first = first.max(SUMMED.saturating_add(1));
    if first > last {
        return head;
    }
    let (from, to) = (real(first) - 0.5, real(last) + 0.5);
    let rest = 1.0 - exponent;
    let tail = if rest.abs() < 1e-9 {
        (to / from).ln()
    } else {
        (to.powf(rest) - from.powf(rest)) / rest
    };
    head + tail
}

/// How one account's calls are spread over replicas: a part goes to its home, the first, and the rest to all alike. Which one is the
/// home differs from account to account, so all replicas together get alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Places {
    replicas: u32,
    sticky: f64,
}

impl Places {
    pub(super) const fn new(replicas: u32, sticky: f64) -> Self {
        Self { replicas, sticky }
    }

    /// Where the next call goes.
    pub(super) fn choose(&self, random: &mut Random) -> u32 {
        if self.sticky > 0.0 && random.unit() < self.sticky {
            return 0;
        }
        u32::try_from(random.below(self.replicas.into())).unwrap_or(0)
    }

    /// The part of the calls that one replica gets.
    pub(super) fn part(&self, replica: u32) -> f64 {
        let rest = (1.0 - self.sticky) / f64::from(self.replicas);
        if replica == 0 {
            self.sticky + rest
        } else {
            rest
        }
    }

    /// Adds up something over replicas that depends on a replica's part of the calls.
    pub(super) fn sum(&self, mut of: impl FnMut(f64) -> f64) -> f64 {
        let others = f64::from(self.replicas.saturating_sub(1));
        of(self.part(0)) + others * of(self.part(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, want: f64) {
        assert!(
            (got - want).abs() <= 1e-4 * want.abs(),
            "{got} is not {want}"
        );
    }

    #[test]
    fn strata_hold_all_accounts_and_all_calls() {
        for spread in [
            Spread::Uniform,
            Spread::Zipf(0.0),
            Spread::Zipf(0.7),
            Spread::Zipf(1.0),
            Spread::Zipf(2.0),
        ] {
            for accounts in [1, 2, 64, 65, 1_000, 10_000_000] {
                let strata = spread.strata(accounts, 500.0);
                let count: u64 = strata.iter().map(|stratum| stratum.accounts).sum();
                assert_eq!(count, accounts, "{spread:?}");
                let calls: f64 = strata.iter().map(|s| real(s.accounts) * s.rate).sum();
                near(calls, 500.0);
                assert!(strata.len() <= 64, "{}", strata.len());
                let falls = |two: &[Stratum]| two[0].rate >= two[1].rate * (1.0 - 1e-9);
                let falling = strata.windows(2).all(falls);
                assert!(falling, "{spread:?} {accounts}");
            }
        }
    }

    #[test]
    fn the_integral_is_as_good_as_the_sum() {
        for exponent in [0.0, 0.5, 1.0, 1.3, 3.0] {
            let added: f64 = (1..=100_000_u32)
                .map(|rank| f64::from(rank).powf(-exponent))
                .sum();
            near(sum(1, 100_000, exponent), added);
        }
    }

    #[test]
    fn calls_go_where_their_parts_say() {
        for sticky in [0.0, 0.6, 1.0] {
            let places = Places::new(5, sticky);
            near(places.sum(|part| part), 1.0);
            let mut random = Random::new(3, 4);
            let mut seen = [0.0; 5];
            for _ in 0..50_000 {
                let place = usize::try_from(places.choose(&mut random)).unwrap();
                seen[place] += 1.0 / 50_000.0;
            }
            for (replica, got) in (0..).zip(seen) {
                let want = places.part(replica);
                assert!((got - want).abs() < 0.01, "{replica}: {got} not {want}");
            }
        }
        near(Places::new(1, 0.5).sum(|part| part), 1.0);
    }
}
