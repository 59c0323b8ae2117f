//! What a call is held for and what it is charged, as pure functions of what was asked, what was seen, and the route's terms.

use crate::engine::{Cost, Hold};
use crate::meter::Reading;
use crate::money::Amount;
use crate::policy::HoldRule;
use crate::pricing::{MAX_OUTPUT_DEFAULT, Price};
use crate::route::{OnMissingUsage, OnUpstreamError};
use crate::usage::{Certainty, Counts, Meter};

/// Bytes of a request for one token of input, when a hold is estimated: between English prose in JSON (about 4) and other
/// scripts (about 2). The bound that is published counts every byte as a token.
const BYTES_PER_TOKEN_HELD: u64 = 3;

/// Bytes of text for one token, when a charge is estimated: what providers publish for English.
const BYTES_PER_TOKEN_CHARGED: u64 = 4;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The upstream answered without an error, and its answer was read to the end.
    Complete,
    /// The upstream answered with an error.
    ErrorStatus,
    /// The upstream did not answer: refused, or too late.
    NoAnswer,
    /// The upstream's answer broke off.
    Cut,
    /// The client left and the rest of the answer was not read.
    ClientGone,
    /// The client's request broke off, or was wrong, before the upstream answered.
    ClientFailed,
    /// It was cut by us, as it cost more than the account has.
    Overrun,
}

impl End {
    /// All of them, in the order of their names in metrics.
    pub const ALL: [Self; 7] = [
        Self::Complete,
        Self::ErrorStatus,
        Self::NoAnswer,
        Self::Cut,
        Self::ClientGone,
        Self::ClientFailed,
        Self::Overrun,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ErrorStatus => "error_status",
            Self::NoAnswer => "no_answer",
            Self::Cut => "cut",
            Self::ClientGone => "client_gone",
            Self::ClientFailed => "client_failed",
            Self::Overrun => "overrun",
        }
    }
}

/// What was seen of a call.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What the answer said.
    pub reading: Reading,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
}

/// What a call was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// How much.
    pub amount: Amount,
    /// How sure its counts are.
    pub certainty: Certainty,
    /// For what.
    pub counts: Counts,
    /// The amount was given, or taken from the hold, and not worked out from the counts.
    pub flat: bool,
}

impl Charge {
    /// What its hold is settled with.
    pub(super) const fn cost(&self) -> Cost {
        match self.flat {
            true => Cost::Flat(self.amount),
            false => Cost::Metered(self.amount),
        }
    }
}

/// What is known of a call before it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Foreseen {
    /// Bytes of the request's body, as far as known.
    pub(super) request_bytes: u64,
    /// Tokens of input, if the caller says.
    pub(super) input: Option<u64>,
    /// The most output tokens, if the request says.
    pub(super) max_output: Option<u64>,
    /// Answers asked for.
    pub(super) choices: u64,
    /// How many calls it counts as; none is one.
    pub(super) calls: u64,
}

impl Foreseen {
    fn counts(&self, price: &Price, bytes_per_token: u64) -> Counts {
        let most = price.max_output.unwrap_or(u64::MAX);
        let output = self
            .max_output
            .unwrap_or_else(|| most.min(MAX_OUTPUT_DEFAULT))
            .min(most);
        let choices = self.choices.max(1);
        let input = self
            .input
            .unwrap_or_else(|| self.request_bytes.div_ceil(bytes_per_token.max(1)));
        Counts::default()
            .with(Meter::Request, self.calls.max(1))
            .with(Meter::Input, input)
            .with(Meter::Output, output.saturating_mul(choices))
            .with(Meter::Image, choices)
            .with(Meter::ByteIn, self.request_bytes)
    }

    /// What to set aside by a rule, and the most that the call can cost as far as that is known.
    pub(super) fn hold(&self, price: &Price, rule: HoldRule) -> Option<(Amount, Amount)> {
        let worst = price.cost(&self.counts(price, 1)).ok()?;
        let expected = || price.cost(&self.counts(price, BYTES_PER_TOKEN_HELD)).ok();
        let amount = match rule {
            HoldRule::Max => expected()?,
            HoldRule::Capped(cap) => expected()?.min(cap),
            HoldRule::Fixed(amount) => amount,
            HoldRule::None => Amount::ZERO,
        };
        Some((amount, worst.max(amount)))
    }
}

/// The terms that a call is charged on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// `None` for a free route, and where only a plan pays.
    pub(super) price: Option<&'a Price>,
    /// The cost depends on what the upstream says it used: in money, or in the plan that pays.
    pub(super) needs_usage: bool,
    pub(super) held: Amount,
    pub(super) foreseen: Foreseen,
    pub(super) on_missing_usage: OnMissingUsage,
    pub(super) on_upstream_error: OnUpstreamError,
}

/// What an ended call is charged; `None` if nothing is and it is not counted.
pub(super) fn charge(terms: &Terms<'_>, outcome: &Outcome) -> Option<Charge> {
    let Outcome { end, reading, .. } = outcome;
    let forgiven = terms.on_upstream_error == OnUpstreamError::Free;
    let flat = !terms.needs_usage;
    match (end, reading.usage) {
        (End::NoAnswer | End::ClientFailed, _) => None,
        (End::ErrorStatus | End::Cut, _) if forgiven => None,
        (End::ErrorStatus | End::Cut, None) => None,
        (End::Complete, None) if reading.error => None,
        (End::Complete, Some(_)) if reading.error && forgiven => None,
        (End::Cut, Some(usage)) if !reading.complete => {
            Some(terms.cost(partly(usage, terms, outcome), Certainty::Estimated))
        }
        // What was seen is charged as well as it can be told: it was used, and whoever cut it knew what it came to.
        (End::Overrun, usage) if !reading.complete || usage.is_none() => {
            let seen = partly(usage.unwrap_or_default(), terms, outcome);
            Some(terms.cost(seen, Certainty::Estimated))
        }
        (End::Overrun, usage) => Some(terms.exact(usage.unwrap_or_default(), outcome)),
        (End::Complete | End::ErrorStatus | End::Cut, Some(usage)) => {
            Some(terms.exact(usage, outcome))
        }
        (End::ClientGone, Some(usage)) if reading.complete => Some(terms.exact(usage, outcome)),
        (End::Complete | End::ClientGone, _) if flat => {
            Some(terms.exact(reading.usage.unwrap_or_default(), outcome))
        }
        (End::Complete | End::ClientGone, usage) => Some(terms.missing(usage, outcome)),
    }
}

impl Terms<'_> {
    /// What the upstream said, with what every call has.
    fn exact(&self, usage: Counts, outcome: &Outcome) -> Charge {
        self.cost(with_bytes(usage, outcome), Certainty::Exact)
    }

    /// The upstream did not say, or not all.
    fn missing(&self, usage: Option<Counts>, outcome: &Outcome) -> Charge {
        match self.on_missing_usage {
            OnMissingUsage::Free => {
                self.cost(with_bytes(Counts::default(), outcome), Certainty::None)
            }
            OnMissingUsage::Estimate => self.cost(
                partly(usage.unwrap_or_default(), self, outcome),
                Certainty::Estimated,
            ),
            OnMissingUsage::Hold => {
                let counts = with_bytes(Counts::default(), outcome);
                Charge {
                    amount: self.held,
                    certainty: Certainty::Estimated,
                    counts,
                    flat: true,
                }
            }
        }
    }

    /// A cost beyond the range of money is no cost that anybody meant: the hold is charged.
    fn cost(&self, counts: Counts, certainty: Certainty) -> Charge {
        match self
            .price
            .map_or(Ok(Amount::ZERO), |price| price.cost(&counts))
        {
            Ok(amount) => Charge {
                amount,
                certainty,
                counts,
                flat: false,
            },
            Err(_) => Charge {
                amount: self.held,
                certainty: Certainty::Estimated,
                counts,
                flat: true,
            },
        }
    }
}

fn with_bytes(usage: Counts, outcome: &Outcome) -> Counts {
    usage
        .with(Meter::Request, usage.get(Meter::Request).max(1))
        .with(Meter::ByteIn, outcome.bytes_in)
        .with(Meter::ByteOut, outcome.bytes_out)
}

/// What was said so far, filled up with what can be worked out from the text: never less than was said.
fn partly(said: Counts, terms: &Terms<'_>, outcome: &Outcome) -> Counts {
    let input_said = [Meter::Input, Meter::CachedInput, Meter::CacheWrite]
        .iter()
        .any(|meter| said.get(*meter) > 0);
    let input = if input_said {
        said.get(Meter::Input)
    } else {
        outcome.bytes_in.div_ceil(BYTES_PER_TOKEN_CHARGED)
    };
    let heard = outcome.reading.text_bytes.div_ceil(BYTES_PER_TOKEN_CHARGED);
    let heard = terms.foreseen.max_output.map_or(heard, |most| {
        heard.min(most.saturating_mul(terms.foreseen.choices.max(1)))
    });
    let output = said
        .get(Meter::Output)
        .max(heard.saturating_sub(said.get(Meter::Reasoning)));
    with_bytes(said, outcome)
        .with(Meter::Input, input)
        .with(Meter::Output, output)
}

/// Ends a hold with a charge, or without one. Returns what it came to in money: less than the charge if a plan paid.
pub(super) fn end(hold: Option<Hold>, charge: Option<Charge>) -> Charge {
    match charge {
        Some(charge) => {
            let settle =
                |hold: Hold| hold.settle_as(charge.cost(), charge.certainty, &charge.counts);
            let settled = hold.map(settle);
            Charge {
                amount: settled.unwrap_or(charge.amount),
                ..charge
            }
        }
        None => {
            if let Some(hold) = hold {
                hold.release();
            }
            Charge {
                amount: Amount::ZERO,
                certainty: Certainty::None,
                counts: Counts::default(),
                flat: false,
            }
        }
    }
}

#[cfg(test)]
mod tests;
