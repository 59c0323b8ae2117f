//! What an operator decides about accounts: a checked value, named in the configuration or the store, overridden by an
//! account field by field. Rules only; the ledger and the engine apply them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::money::Amount;

/// The rules of an account. Every field has the default that [`Policy::default`] gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// When calls stop (A3-12, A4-6). Default `negative`.
    pub block_when: BlockWhen,
    /// How far below zero holds may take the balance. Default 0.
    pub credit_limit: Amount,
    /// How much is set aside before a call. Default `max`.
    pub hold: HoldRule,
    /// How long a hold taken through an API outlives its last word, in ms. Default 10 minutes: longer than any one model
    /// call should take.
    pub hold_ms_max: u64,
    /// What becomes of a hold that expires, or that a crash left open. Default `release`.
    pub unsettled: Unsettled,
    /// Calls per second over all replicas; `None` is no limit. Default none.
    pub qps: Option<u32>,
    /// How many calls may come at once on top of the rate. Default: one second's worth.
    pub burst: Option<u32>,
    /// Calls in flight at once. Default no limit.
    pub concurrency: Option<u32>,
    /// An event is sent when the balance falls below it (A3-5). Default none.
    pub low_balance: Option<Amount>,
    /// What to do while the store is away. Default `lease`.
    pub store_outage: StoreOutage,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            block_when: BlockWhen::Negative,
            credit_limit: Amount::ZERO,
            hold: HoldRule::Max,
            hold_ms_max: 600_000,
            unsettled: Unsettled::Release,
            qps: None,
            burst: None,
            concurrency: None,
            low_balance: None,
            store_outage: StoreOutage::Lease,
        }
    }
}

/// From which balance on calls are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockWhen {
    /// Below zero: at exactly zero a call that is held for nothing still passes (A3-12).
    #[default]
    Negative,
    /// At zero already (A4-6).
    ZeroOrLess,
}

/// How much is set aside before a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldRule {
    /// The input and the most output that the request allows: the balance is not overshot.
    #[default]
    Max,
    /// The same, but never more than this.
    Capped(Amount),
    /// Always this.
    Fixed(Amount),
    /// Nothing: calls pass while the balance allows any, and overshoot by what they cost.
    None,
}

/// What becomes of a hold that nobody settles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsettled {
    /// The money goes back.
    #[default]
    Release,
    /// The whole hold is charged, marked estimated.
    Charge,
}

/// What to do while the store is away (P6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreOutage {
    /// Refuse as soon as a sync has failed.
    Refuse,
    /// Go on with what is leased, for as long as the lease runs.
    #[default]
    Lease,
}

impl Policy {
    /// The burst that applies: what is set, else one second's worth, never less than one.
    pub fn effective_burst(&self) -> u32 {
        self.burst.or(self.qps).unwrap_or(1).max(1)
    }

    /// The rate limit in thousandths of a call per second, in which it is shared; 0 is none.
    pub fn rate_limit(&self) -> u64 {
        self.qps
            .map_or(0, |qps| u64::from(qps).saturating_mul(1_000))
    }

    /// The limit of calls in flight; 0 is none.
    pub fn places_limit(&self) -> u64 {
        self.concurrency.map_or(0, u64::from)
    }

    /// How long an API hold lives.
    pub const fn hold_time(&self) -> Duration {
        Duration::from_millis(self.hold_ms_max)
    }

    /// Every field that is wrong, with what would work.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.credit_limit.is_negative() || self.credit_limit > CREDIT_LIMIT_MAX {
            problems.push(format!(
                "credit_limit is {}; give 0 to {CREDIT_LIMIT_MAX}",
                self.credit_limit
            ));
        }
        for (field, value) in [
            ("qps", self.qps),
            ("burst", self.burst),
            ("concurrency", self.concurrency),
        ] {
            if value == Some(0) {
                problems.push(format!(
                    "{field} is 0; leave it out for no limit, or give 1 or more"
                ));
            }
        }
        if let HoldRule::Capped(amount) | HoldRule::Fixed(amount) = self.hold
            && amount.is_negative()
        {
            problems.push(format!("hold is {amount}; an amount held is zero or more"));
        }
        if self.hold_ms_max == 0 || self.hold_ms_max > HOLD_MS_LIMIT {
            problems.push(format!(
                "hold_ms_max is {}; give 1 to {HOLD_MS_LIMIT}",
                self.hold_ms_max
            ));
        }
        problems
    }
}

/// The largest credit limit: a ninth of the range of an amount, so that credit and limit together stay within it.
pub const CREDIT_LIMIT_MAX: Amount = Amount::from_nanos(1_000_000_000_000_000_000);

/// A hold of a day is an account that pays by the day.
const HOLD_MS_LIMIT: u64 = 86_400_000;

/// What one account has otherwise than its policy: a field that is `None` stays as the policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// See [`Policy::credit_limit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_limit: Option<Amount>,
    /// See [`Policy::hold`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldRule>,
    /// See [`Policy::qps`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qps: Option<u32>,
    /// See [`Policy::burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// See [`Policy::concurrency`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// See [`Policy::low_balance`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_balance: Option<Amount>,
}

impl Overrides {
    /// The policy with these fields put over it.
    pub fn over(&self, policy: &Policy) -> Policy {
        let mut policy = policy.clone();
        policy.credit_limit = self.credit_limit.unwrap_or(policy.credit_limit);
        policy.hold = self.hold.unwrap_or(policy.hold);
        if self.qps.is_some() && self.burst.is_none() {
            // A burst that was chosen for another rate says nothing about this one.
            policy.burst = None;
        }
        policy.qps = self.qps.or(policy.qps);
        policy.burst = self.burst.or(policy.burst);
        policy.concurrency = self.concurrency.or(policy.concurrency);
        policy.low_balance = self.low_balance.or(policy.low_balance);
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_replaces_its_field_alone() {
        let policy = Policy {
            qps: Some(10),
            burst: Some(50),
            ..Policy::default()
        };
        let same = Overrides::default().over(&policy);
        assert_eq!(same, policy);
        let faster = Overrides {
            qps: Some(20),
            ..Overrides::default()
        }
        .over(&policy);
        assert_eq!((faster.qps, faster.effective_burst()), (Some(20), 20));
        let wider = Overrides {
            burst: Some(7),
            ..Overrides::default()
        }
        .over(&policy);
        assert_eq!((wider.qps, wider.effective_burst()), (Some(10), 7));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let policy = Policy {
            credit_limit: Amount::from_nanos(-1),
            qps: Some(0),
            hold: HoldRule::Fixed(Amount::from_nanos(-1)),
            hold_ms_max: 0,
            ..Policy::default()
        };
        let problems = policy.problems().join("; ");
        for field in ["credit_limit", "qps", "hold is", "hold_ms_max"] {
            assert!(problems.contains(field), "{field}: {problems}");
        }
        assert_eq!(Policy::default().problems(), Vec::<String>::new());
    }
}
