//! What is wrong with a policy.

use super::{HoldRule, Policy, StoreOutage};
use crate::money::Amount;

/// The largest credit limit: a ninth of the range of an amount, so that credit and limit together stay within it.
pub const CREDIT_LIMIT_MAX: Amount = Amount::from_nanos(1_000_000_000_000_000_000);

/// The longest time that a policy may name: a hundred years. What is meant to last longer is left out.
pub const TIME_MS_MAX: u64 = 3_155_760_000_000;

/// How many further thresholds a policy may have: each is looked at with every change of every account.
pub const ALERTS_MAX: usize = 16;

/// How many capabilities may be reactivated one by one: people do that.
pub const CAPABILITIES_MAX: usize = 256;

/// How many trust tiers may have a bound of their own.
pub const TIERS_MAX: usize = 64;

/// A hold of a day is an account that pays by the day.
const HOLD_MS_LIMIT: u64 = 86_400_000;

impl Policy {
    /// Every field that is wrong, with what would work.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_limits(&mut problems);
        self.check_times(&mut problems);
        self.check_purchases(&mut problems);
        self.check_lists(&mut problems);
        problems.extend(super::budget_problems(&self.budgets));
        problems
    }

    fn check_limits(&self, problems: &mut Vec<String>) {
        let outage = match self.store_outage {
            StoreOutage::UpTo(amount) => Some(amount),
            StoreOutage::Refuse | StoreOutage::Lease => None,
        };
        for (field, limit) in [
            ("credit_limit", Some(self.credit_limit)),
            ("invoice_limit", Some(self.invoice_limit)),
            ("grace_limit", self.grace_limit),
            ("store_outage.up_to", outage),
        ] {
            if let Some(limit) =
                limit.filter(|limit| limit.is_negative() || *limit > CREDIT_LIMIT_MAX)
            {
                problems.push(format!("{field} is {limit}; give 0 to {CREDIT_LIMIT_MAX}"));
            }
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
        if self.grace_limit.is_some() && self.grace.is_none() {
            problems.push(
                "grace_limit is set and grace is not; give grace too, or use credit_limit".into(),
            );
        }
    }

    fn check_times(&self, problems: &mut Vec<String>) {
        if self.hold_ms_max == 0 || self.hold_ms_max > HOLD_MS_LIMIT {
            problems.push(format!(
                "hold_ms_max is {}; give 1 to {HOLD_MS_LIMIT}",
                self.hold_ms_max
            ));
        }
        for (field, ms) in [
            ("grace.ms", self.grace.map(|grace| grace.ms)),
            ("suspend_after.ms", self.suspend_after.map(|after| after.ms)),
            ("purge_after_ms", self.purge_after_ms),
            ("credit_expires_after_ms", self.credit_expires_after_ms),
            ("credit_expiring_ms", self.credit_expiring_ms),
            (
                "auto_recharge.cool_down_ms",
                self.auto_recharge.map(|auto| auto.cool_down_ms),
            ),
        ] {
            if let Some(ms) = ms.filter(|ms| *ms == 0 || *ms > TIME_MS_MAX) {
                problems.push(format!(
                    "{field} is {ms}; give 1 to {TIME_MS_MAX}, or leave it out"
                ));
            }
        }
        let start = crate::clock::Timestamp::default();
        if let (Some(grace), Some(suspension)) = (self.grace, self.suspend_after)
            && grace.over_at(start) > suspension.over_at(start)
        {
            problems.push(format!(
                "grace lasts {} ms, longer than suspend_after with {} ms; a suspended account has no grace",
                grace.ms, suspension.ms
            ));
        }
        if self.purge_after_ms.is_some() && self.suspend_after.is_none() {
            problems
                .push("purge_after_ms counts from the suspension; give suspend_after too".into());
        }
    }

    fn check_purchases(&self, problems: &mut Vec<String>) {
        let tiers = self.purchase_max_by_tier.iter();
        let bounds = [
            ("purchase_min".to_owned(), self.purchase_min),
            ("purchase_max".to_owned(), self.purchase_max),
        ];
        let named = tiers.map(|(tier, most)| (format!("purchase_max_by_tier.{tier}"), Some(*most)));
        for (field, bound) in bounds.into_iter().chain(named) {
            let Some(bound) = bound else { continue };
            let least = self.purchase_min.unwrap_or(Amount::ZERO);
            if !bound.is_positive() {
                problems.push(format!("{field} is {bound}; give an amount above zero"));
            } else if bound < least {
                problems.push(format!(
                    "{field} is {bound}, below purchase_min with {least}"
                ));
            }
        }
        if let Some(auto) = self.auto_recharge {
            if !auto.amount.is_positive() {
                problems.push(format!(
                    "auto_recharge.amount is {}; give an amount above zero",
                    auto.amount
                ));
            }
            if let Some(most) = auto.monthly_max.filter(|most| *most < auto.amount) {
                problems.push(format!(
                    "auto_recharge.monthly_max is {most}, below auto_recharge.amount with {}: nothing would ever be asked for",
                    auto.amount
                ));
            }
        }
    }

    fn check_lists(&self, problems: &mut Vec<String>) {
        for (field, count, most) in [
            ("alerts", self.alerts.len(), ALERTS_MAX),
            ("capabilities", self.capabilities.len(), CAPABILITIES_MAX),
            (
                "purchase_max_by_tier",
                self.purchase_max_by_tier.len(),
                TIERS_MAX,
            ),
        ] {
            if count > most {
                problems.push(format!("{field} has {count} items; there may be {most}"));
            }
        }
        if self.capabilities.iter().any(String::is_empty) {
            problems.push("capabilities has an empty item; leave it out".into());
        }
    }
}
