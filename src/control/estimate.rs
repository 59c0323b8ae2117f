//! How many requests an amount buys: by what calls cost on average, or, where there were none, by the price. Exact up to the last
//! division.

use crate::money::Amount;
use crate::pricing::{CostOverflow, MAX_OUTPUT_DEFAULT, Price};
use crate::usage::{Counts, Meter, Tally};

/// The input tokens of a call of which nothing is known: a page of text.
pub(super) const INPUT_TOKENS_DEFAULT: u64 = 1_000;

/// What one call is taken to use where there is no history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Typical {
    /// Input tokens; [`INPUT_TOKENS_DEFAULT`] if nobody says.
    pub(super) input: Option<u64>,
    /// Output tokens; the most that the price allows if nobody says.
    pub(super) output: Option<u64>,
}

/// What an estimate stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// The mean of so many settled calls.
    History(u64),
    /// The price.
    Price,
}

/// How many requests an amount buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    /// Whole requests; `None` is as many as one likes.
    pub(super) requests: Option<u64>,
    /// What one costs, rounded half up.
    pub(super) mean: Amount,
    /// What it stands on.
    pub(super) basis: Basis,
}

/// How many requests of one model an amount buys. `history` is what was settled of it, `price` what it costs now; `None` if there is
/// neither.
///
/// # Errors
///
/// If the price of one such call is beyond the range.
pub(super) fn estimate(
    amount: Amount,
    history: &Tally,
    price: Option<&Price>,
    typical: Typical,
) -> Result<Option<Estimate>, CostOverflow> {
    let (calls, spent) = (history.calls(), i128::from(history.cost_nanos));
    let seen = calls > 0 && spent > 0;
    let free =
        price.is_some_and(|price| !price.rates.values().any(|rate| rate.price.is_positive()));
    if seen && !free {
        return Ok(Some(bought(amount, spent, calls, Basis::History(calls))));
    }
    let Some(price) = price else {
        // It was used for nothing, and has no price any more: what was free is.
        return Ok((calls > 0).then(|| bought(amount, 0, calls, Basis::History(calls))));
    };
    let basis = if free && calls > 0 {
        Basis::History(calls)
    } else {
        Basis::Price
    };
    let cost = price.cost(&typical.counts(price))?;
    Ok(Some(bought(amount, cost.nanos().into(), 1, basis)))
}

impl Typical {
    fn counts(self, price: &Price) -> Counts {
        let most = price.max_output.unwrap_or(MAX_OUTPUT_DEFAULT);
        Counts::default()
            .with(Meter::Request, 1)
            .with(Meter::Input, self.input.unwrap_or(INPUT_TOKENS_DEFAULT))
            .with(Meter::Output, self.output.unwrap_or(most))
            .with(Meter::Image, 1)
            .with(Meter::AudioSecond, 1)
    }
}

/// `amount` over the mean of `calls` calls that cost `spent` together.
fn bought(amount: Amount, spent: i128, calls: u64, basis: Basis) -> Estimate {
    let calls = i128::from(calls.max(1));
    let twice = spent.saturating_mul(2).saturating_add(calls);
    let mean = twice
        .checked_div(calls.saturating_mul(2))
        .unwrap_or_default();
    // 2^63 × 2^64 fits.
    let whole = i128::from(amount.or_zero().nanos())
        .saturating_mul(calls)
        .checked_div(spent);
    Estimate {
        requests: whole.map(|whole| u64::try_from(whole).unwrap_or(u64::MAX)),
        mean: Amount::from_nanos(i64::try_from(mean).unwrap_or(i64::MAX)),
        basis,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pricing::{Per, Rate};

    fn price(rates: &[(Meter, i64, Per)]) -> Price {
        let rate = |(meter, nanos, per): &(Meter, i64, Per)| {
            let price = Amount::from_nanos(*nanos);
            (*meter, Rate { price, per: *per })
        };
        Price {
            pattern: "m".into(),
            unit: "USD".into(),
            rates: rates.iter().map(rate).collect::<BTreeMap<_, _>>(),
            max_output: Some(100),
        }
    }

    fn settled(exact: u64, cost_nanos: i64) -> Tally {
        Tally {
            exact,
            cost_nanos,
            ..Tally::default()
        }
    }

    #[test]
    fn the_mean_of_what_was_settled_or_the_price() {
        let flat = price(&[(Meter::Request, 7, Per::Unit)]);
        let tokens = price(&[
            (Meter::Input, 2_000_000, Per::Million),
            (Meter::Output, 3_000_000, Per::Million),
        ]);
        let free = price(&[(Meter::Request, 0, Per::Unit)]);
        let none = Tally::default();
        let by_history = |requests, mean, calls| Estimate {
            requests,
            mean: Amount::from_nanos(mean),
            basis: Basis::History(calls),
        };
        let by_price = |requests, mean| Estimate {
            requests,
            mean: Amount::from_nanos(mean),
            basis: Basis::Price,
        };
        for (what, amount, history, price, expected) in [
            // The mean is 3⅓: 30 of them are 100, though 33 at the rounded mean would be.
            (
                "history",
                100,
                settled(3, 10),
                Some(&flat),
                Some(by_history(Some(30), 3, 3)),
            ),
            (
                "half up",
                1,
                settled(2, 5),
                Some(&flat),
                Some(by_history(Some(0), 3, 2)),
            ),
            (
                "no price any more",
                10,
                settled(1, 5),
                None,
                Some(by_history(Some(2), 5, 1)),
            ),
            (
                "no history",
                50,
                none,
                Some(&flat),
                Some(by_price(Some(7), 7)),
            ),
            (
                "tokens",
                4_600,
                none,
                Some(&tokens),
                Some(by_price(Some(2), 2_300)),
            ),
            ("free", 0, none, Some(&free), Some(by_price(None, 0))),
            (
                "free now",
                5,
                settled(2, 10),
                Some(&free),
                Some(by_history(None, 0, 2)),
            ),
            (
                "cost nothing so far",
                50,
                settled(2, 0),
                Some(&flat),
                Some(by_price(Some(7), 7)),
            ),
            (
                "below zero",
                -5,
                none,
                Some(&flat),
                Some(by_price(Some(0), 7)),
            ),
            ("neither", 5, none, None, None),
        ] {
            let got = estimate(
                Amount::from_nanos(amount),
                &history,
                price,
                Typical::default(),
            );
            assert_eq!(got, Ok(expected), "{what}");
        }
        let said = Typical {
            input: Some(10),
            output: Some(0),
        };
        let got = estimate(Amount::from_nanos(100), &none, Some(&tokens), said);
        assert_eq!(got, Ok(Some(by_price(Some(5), 20))));
        let huge = price(&[(Meter::Output, i64::MAX, Per::Unit)]);
        assert!(estimate(Amount::MAX, &none, Some(&huge), Typical::default()).is_err());
    }
}
