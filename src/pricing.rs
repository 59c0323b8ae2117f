//! Prices: model patterns × meters, and the cost of a usage, rounded once. No accounts here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::money::Amount;
use crate::usage::{Counts, Meter};

/// The tokens that one call may make where neither the request nor the price says less: what an unbounded request is
/// held for under the `max` rule.
pub const MAX_OUTPUT_DEFAULT: u64 = 4_096;

/// How many prices a book may have. A look-up that finds no exact name walks the patterns, so this bounds it.
pub const PATTERNS_MAX: usize = 10_000;

/// How many of a meter a price is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// One.
    #[default]
    Unit,
    /// A million: how token prices are published.
    Million,
}

impl Per {
    /// How many millionths of its price one of the meter costs.
    const fn millionths(self) -> i128 {
        match self {
            Self::Unit => MILLION,
            Self::Million => 1,
        }
    }
}

const MILLION: i128 = 1_000_000;
const MILLION_U64: u64 = 1_000_000;

/// What one meter costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The price, not negative.
    pub price: Amount,
    /// For how many.
    #[serde(default)]
    pub per: Per,
}

/// The price of the models that match one pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// A model's name, or a beginning of one with `*` at its end: `gpt-4o*`.
    pub pattern: String,
    /// The unit it is in, as `USD`. An account pays only prices in its own unit, and its plans those in theirs: a pattern may have one
    /// price in each unit.
    pub unit: String,
    /// What each meter costs. A meter that is not here costs nothing, except that `cached_input` and `cache_write` fall
    /// back to `input`, and `reasoning` to `output`: they are parts of those in the providers' own accounts.
    pub rates: BTreeMap<Meter, Rate>,
    /// The most output tokens that one call can make; bounds the hold of a request that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
}

/// Why a price is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// `*` stands anywhere but at the end, or the pattern is empty.
    #[error(
        "pattern `{0}` must be a model's name, or a beginning of one with `*` at its end, such as `gpt-4o*`"
    )]
    Pattern(String),
    /// A price below zero.
    #[error("`{pattern}`: the price of {meter} is {price}; a price is zero or more")]
    Negative {
        /// The pattern.
        pattern: String,
        /// The meter.
        meter: &'static str,
        /// The price.
        price: Amount,
    },
    /// Two prices for one pattern in one unit.
    #[error("pattern `{pattern}` stands twice with unit `{unit}` in the price book")]
    Twice {
        /// The pattern.
        pattern: String,
        /// The unit.
        unit: String,
    },
    /// More prices than a book holds.
    #[error("the price book has {0} prices; it holds at most {PATTERNS_MAX}")]
    TooMany(usize),
}

/// A cost beyond the range of an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cost is beyond the range of an amount")]
pub struct CostOverflow;

impl Price {
    /// The cost of some counts: summed exactly in `i128`, rounded once, half up.
    pub fn cost(&self, counts: &Counts) -> Result<Amount, CostOverflow> {
        let mut millionths: i128 = 0;
        for meter in Meter::ALL {
            let count = counts.get(meter);
            // Most counts are zero, and a look at the count is cheaper than a search for its price.
            if count == 0 {
                continue;
            }
            let Some(rate) = self.rate(meter) else {
                continue;
            };
            // u64 × i64 × 10^6 stays below 2^127 × …: checked all the same.
            let part = i128::from(count)
                .checked_mul(rate.price.nanos().into())
                .and_then(|cost| cost.checked_mul(rate.per.millionths()))
                .ok_or(CostOverflow)?;
            millionths = millionths.checked_add(part).ok_or(CostOverflow)?;
        }
        let rounded = millionths.checked_add(MILLION / 2).ok_or(CostOverflow)?;
        let nanos = match u64::try_from(rounded) {
            // Nearly always; a division of 128 bits takes ten times as long.
            Ok(rounded) => i64::try_from(rounded.div_euclid(MILLION_U64)),
            Err(_) => i64::try_from(rounded.div_euclid(MILLION)),
        };
        nanos.map(Amount::from_nanos).map_err(|_| CostOverflow)
    }

    /// What one of a meter costs, with the fall-backs named at [`Price::rates`].
    pub fn rate(&self, meter: Meter) -> Option<Rate> {
        let part_of = match meter {
            Meter::CachedInput | Meter::CacheWrite => Some(Meter::Input),
            Meter::Reasoning => Some(Meter::Output),
            _ => None,
        };
        self.rates
            .get(&meter)
            .or_else(|| self.rates.get(&part_of?))
            .copied()
    }

    /// Whether the cost depends on what an upstream reports, and not on the call and its bytes alone.
    pub fn needs_usage(&self) -> bool {
        self.rates.iter().any(|(meter, rate)| {
            rate.price.is_positive()
                && !matches!(meter, Meter::Request | Meter::ByteIn | Meter::ByteOut)
        })
    }

    fn check(&self) -> Result<(), PriceError> {
        let stem = self.pattern.strip_suffix('*').unwrap_or(&self.pattern);
        if self.pattern.is_empty() || stem.contains('*') {
            return Err(PriceError::Pattern(self.pattern.clone()));
        }
        for (meter, rate) in &self.rates {
            if rate.price.is_negative() {
                let (pattern, meter) = (self.pattern.clone(), meter.name());
                return Err(PriceError::Negative {
                    pattern,
                    meter,
                    price: rate.price,
                });
            }
        }
        Ok(())
    }
}

/// All prices at one version. Replaced whole; a call in flight keeps the price it was admitted under.
#[derive(Clone, Debug, Default)]
pub struct PriceBook {
    version: u64,
    exact: BTreeMap<String, InUnits>,
    /// Beginnings, longest first: the first match is the most particular one.
    beginnings: Vec<(String, InUnits)>,
}

/// The prices of one pattern, one in each unit, in the order they were given in: nearly always one.
type InUnits = Vec<Arc<Price>>;

fn in_unit<'a>(prices: &'a InUnits, unit: &str) -> Option<&'a Arc<Price>> {
    prices.iter().find(|price| price.unit == unit)
}

impl PriceBook {
    /// A checked book.
    pub fn new(version: u64, prices: Vec<Price>) -> Result<Self, PriceError> {
        if prices.len() > PATTERNS_MAX {
            return Err(PriceError::TooMany(prices.len()));
        }
        let mut exact: BTreeMap<String, InUnits> = BTreeMap::new();
        let mut beginnings: BTreeMap<String, InUnits> = BTreeMap::new();
        for price in prices {
            price.check()?;
            let same = match price.pattern.strip_suffix('*') {
                None => exact.entry(price.pattern.clone()),
                Some(stem) => beginnings.entry(stem.into()),
            };
            let same = same.or_default();
            if in_unit(same, &price.unit).is_some() {
                let Price { pattern, unit, .. } = price;
                return Err(PriceError::Twice { pattern, unit });
            }
            same.push(Arc::new(price));
        }
        let mut beginnings: Vec<_> = beginnings.into_iter().collect();
        // Stable: those of one length stay in the order of their names.
        beginnings.sort_by_key(|(stem, _)| std::cmp::Reverse(stem.len()));
        Ok(Self {
            version,
            exact,
            beginnings,
        })
    }

    /// The version it was published under.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The price of a model in a unit: its own, else the longest beginning's that has one in that unit. Prices in other units are as
    /// if they were not there.
    pub fn price(&self, model: &str, unit: &str) -> Option<&Arc<Price>> {
        let exact = self.exact.get(model);
        exact.and_then(|prices| in_unit(prices, unit)).or_else(|| {
            let mut matching = self
                .beginnings
                .iter()
                .filter(|(stem, _)| model.starts_with(stem.as_str()));
            matching.find_map(|(_, prices)| in_unit(prices, unit))
        })
    }

    /// Every price, exact names first.
    pub fn prices(&self) -> impl Iterator<Item = &Arc<Price>> {
        let beginnings = self.beginnings.iter().map(|(_, prices)| prices);
        self.exact.values().chain(beginnings).flatten()
    }
}

#[cfg(test)]
mod tests;
