//! The limits that both accounts and policies have: as options, on the wire, and shown.

use clap::Args;

use super::out::{Cell, Record};
use super::values::{amount, amount_cell, optional_number, word};
use crate::money::Amount;
use crate::proto::v1;

/// What may be set for one account or for all of a policy.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct Limits {
    /// How far below zero holds may take the balance
    #[arg(long, value_name = "AMOUNT")]
    credit_limit: Option<Amount>,
    /// What is held before a call: max, none, capped:AMOUNT or fixed:AMOUNT
    #[arg(long, value_name = "RULE", value_parser = hold_rule)]
    hold: Option<v1::HoldRule>,
    /// Calls per second over all replicas
    #[arg(long, value_name = "N")]
    qps: Option<u32>,
    /// How many calls may come at once on top of the rate
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Calls in flight at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Send an event when the balance falls below this
    #[arg(long, value_name = "AMOUNT")]
    low_balance: Option<Amount>,
}

/// The names of the limits, as they are cleared and as they stand in a field mask.
pub(super) const FIELDS: [&str; 6] = [
    "credit_limit",
    "hold",
    "qps",
    "burst",
    "concurrency",
    "low_balance",
];

fn hold_rule(text: &str) -> Result<v1::HoldRule, String> {
    let (mode, of) = match text.split_once(':') {
        Some((mode, of)) => (mode, Some(of)),
        None => (text, None),
    };
    let mode = match (mode, of) {
        ("max", None) => v1::HoldMode::Max,
        ("none", None) => v1::HoldMode::None,
        ("capped", Some(_)) => v1::HoldMode::Capped,
        ("fixed", Some(_)) => v1::HoldMode::Fixed,
        _ => return Err("it is max, none, capped:AMOUNT or fixed:AMOUNT".into()),
    };
    let of = of.map(str::parse).transpose();
    let of = of.map_err(|error: crate::money::AmountError| error.to_string())?;
    Ok(v1::HoldRule {
        mode: mode.into(),
        amount: of.map(amount),
    })
}

impl Limits {
    pub(super) fn overrides(&self) -> v1::Overrides {
        v1::Overrides {
            credit_limit: self.credit_limit.map(amount),
            hold: self.hold.clone(),
            qps: self.qps,
            burst: self.burst,
            concurrency: self.concurrency,
            low_balance: self.low_balance.map(amount),
        }
    }

    /// Those that were given, by the names of [`FIELDS`].
    pub(super) fn given(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            self.credit_limit.is_some(),
            self.hold.is_some(),
            self.qps.is_some(),
            self.burst.is_some(),
            self.concurrency.is_some(),
            self.low_balance.is_some(),
        ];
        let named = FIELDS.into_iter().zip(given);
        named.filter_map(|(name, given)| given.then_some(name))
    }
}

/// A policy's rules, to be put after what they are of.
pub(super) fn show(record: Record, policy: &v1::Policy) -> Record {
    let hold = policy.hold.as_ref();
    record
        .with("credit_limit", amount_cell(policy.credit_limit.as_ref()))
        .with("hold", hold.map_or(Cell::None, hold_cell))
        .with("qps", optional_number(policy.qps))
        .with("burst", optional_number(policy.burst))
        .with("concurrency", optional_number(policy.concurrency))
        .with("low_balance", amount_cell(policy.low_balance.as_ref()))
}

fn hold_cell(rule: &v1::HoldRule) -> Cell {
    let mode = word(rule.mode().as_str_name(), "HOLD_MODE_");
    match (mode, amount_cell(rule.amount.as_ref())) {
        (Cell::Text(mode), Cell::Amount(amount)) => Cell::Text(format!("{mode}:{amount}")),
        (mode, _) => mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_rules_are_shown_as_they_are_written() {
        for text in ["max", "none", "capped:0.50", "fixed:0.01"] {
            let rule = hold_rule(text).unwrap();
            assert_eq!(hold_cell(&rule), Cell::Text(text.into()));
        }
        for text in ["", "max:1", "capped", "fixed:", "fixed:1e3", "some"] {
            assert!(hold_rule(text).is_err(), "{text}");
        }
    }
}
