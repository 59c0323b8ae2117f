//! What an operator decides about accounts: a checked value, named in the configuration or the store, overridden by an
//! account field by field. Rules only; the ledger and the engine apply them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::money::Amount;

mod budgets;
mod check;
mod choices;
pub mod rules;
pub mod stories;
mod time;

pub use budgets::{BUDGETS_MAX, Budget, Period, Span, problems as budget_problems};
pub use check::{ALERTS_MAX, CAPABILITIES_MAX, CREDIT_LIMIT_MAX, TIERS_MAX, TIME_MS_MAX};
pub use choices::{
    AutoRecharge, BlockWhen, Enforcement, HoldRule, Mode, PlanShortfall, Refunds, Resume,
    StoreOutage, Unsettled, WhileOverdue,
};
pub use time::{Deadline, End};

/// Makes [`Policy`] and [`Overrides`] from one list, so that what an operator can decide for all accounts can be decided for one.
macro_rules! rules {
    (
        always: { $( $(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr; )* }
        optional: { $( $(#[doc = $odoc:literal])* $option:ident: $of:ty; )* }
    ) => {
        /// The rules of an account. Every field has the default that [`Policy::default`] gives.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Policy {
            $( $(#[doc = $doc])* pub $name: $type, )*
            $( $(#[doc = $odoc])* pub $option: Option<$of>, )*
        }

        impl Default for Policy {
            fn default() -> Self {
                Self {
                    $( $name: $default, )*
                    $( $option: None, )*
                }
            }
        }

        impl Policy {
            /// Every field's name, as it is written.
            pub const FIELDS: &[&str] = &[$( stringify!($name), )* $( stringify!($option), )*];
        }

        /// What one account has otherwise than its policy: a field that is `None` stays as the policy says.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Overrides {
            $(
                #[doc = concat!("See [`Policy::", stringify!($name), "`].")]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )*
            $(
                #[doc = concat!("See [`Policy::", stringify!($option), "`].")]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $option: Option<$of>,
            )*
        }

        impl Overrides {
            /// The policy with these fields put over it.
            pub fn over(&self, policy: &Policy) -> Policy {
                let mut policy = policy.clone();
                if self.qps.is_some() && self.burst.is_none() {
                    // A burst that was chosen for another rate says nothing about this one.
                    policy.burst = None;
                }
                $(
                    if let Some(value) = &self.$name {
                        policy.$name.clone_from(value);
                    }
                )*
                $(
                    if self.$option.is_some() {
                        policy.$option.clone_from(&self.$option);
                    }
                )*
                policy
            }
        }
    };
}

rules! {
    always: {
        /// When calls stop (A3-12, A4-6). Default `negative`.
        block_when: BlockWhen = BlockWhen::Negative;
        /// How far below zero holds may take the balance, and how much debt stops no calls (A1-10). Default 0.
        credit_limit: Amount = Amount::ZERO;
        /// How much is set aside before a call. Default `max`.
        hold: HoldRule = HoldRule::Max;
        /// How long a hold taken through an API outlives its last word, in ms. Default 10 minutes: longer than any one model
        /// call should take.
        hold_ms_max: u64 = 600_000;
        /// What becomes of a hold that expires, or that a crash left open. Default `release`.
        unsettled: Unsettled = Unsettled::Release;
        /// What to do while the store is away. Default `lease`.
        store_outage: StoreOutage = StoreOutage::Lease;
        /// What follows once the debt of a suspended account is repaid (A1-9, A2-4). Default `auto`.
        resume: Resume = Resume::Auto;
        /// What must be reactivated one by one (A1-9): patterns as in the price book, matched with a call's capability. Empty: the
        /// account as a whole. Default empty.
        capabilities: Vec<String> = Vec::new();
        /// Whether plans pay while the account is overdue (A1-5). Default `unavailable`.
        plans_while_overdue: WhileOverdue = WhileOverdue::Unavailable;
        /// Whether QPS plans count while the account is overdue (A1-5). Default `unavailable`.
        qps_plans_while_overdue: WhileOverdue = WhileOverdue::Unavailable;
        /// What becomes of a call that a plan covers only partly (A1-3). Default `split`.
        plan_shortfall: PlanShortfall = PlanShortfall::Split;
        /// Whether a gift pays debt, as a recharge does (A3-13). Default no.
        gifts_pay_debt: bool = false;
        /// The largest purchase by trust tier (A4-2); a tier that is not named has `purchase_max`. Default none.
        purchase_max_by_tier: BTreeMap<String, Amount> = BTreeMap::new();
        /// Whether anything is refundable (A3-6, A4-4). Default `paid_remaining`.
        refunds: Refunds = Refunds::PaidRemaining;
        /// Further thresholds of the balance that are announced, beside `low_balance` (A2-7). Default none.
        alerts: Vec<Amount> = Vec::new();
        /// Whether calls are refused and paid for, or only counted (A3-11). Default `enforce`.
        enforcement: Enforcement = Enforcement::Enforce;
        /// Whether calls are paid from credit alone (A4-1). Default `prepaid_only`.
        mode: Mode = Mode::PrepaidOnly;
        /// What an account's calls may cost in a time, in all or for a capability. Default none.
        budgets: Vec<Budget> = Vec::new();
        /// In `credit_then_invoice`: how much may be owed, open invoices among it (A4-1). Default 0.
        invoice_limit: Amount = Amount::ZERO;
    }
    optional: {
        /// Calls per second over all replicas; `None` is no limit. Default none.
        qps: u32;
        /// How many calls may come at once on top of the rate. Default: one second's worth.
        burst: u32;
        /// Calls in flight at once. Default no limit.
        concurrency: u32;
        /// An event is sent when the balance falls below it (A3-5). Default none.
        low_balance: Amount;
        /// For how long calls go on after an account became overdue (A1-10, A2-2). Default not at all.
        grace: Deadline;
        /// How far below zero holds may take the balance until the grace is over, also before it begins. Default, with `grace`:
        /// [`CREDIT_LIMIT_MAX`].
        grace_limit: Amount;
        /// How long after it became overdue an account is suspended (A1-7, A2-2). Default never.
        suspend_after: Deadline;
        /// How long after its suspension the account's data may be cleared, in ms (A2-5). Default never.
        purge_after_ms: u64;
        /// The smallest purchase (A4-2). Default none.
        purchase_min: Amount;
        /// The largest purchase of a tier that `purchase_max_by_tier` does not name (A4-2). Default none.
        purchase_max: Amount;
        /// When a purchase that gives no expiry expires, in ms after it (A4-4). Default never.
        credit_expires_after_ms: u64;
        /// How long before credit expires that is announced, in ms. Default not at all.
        credit_expiring_ms: u64;
        /// In `shadow`: enforced from this instant on (A3-11). Default never.
        live_from: Timestamp;
        /// Ask for a recharge when the balance falls below a threshold (A4-3, A5-2). Default never.
        auto_recharge: AutoRecharge;
    }
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

    /// Whether calls are refused and paid for at an instant (A3-11); if not, they are only counted.
    pub fn enforced(&self, now: Timestamp) -> bool {
        match self.enforcement {
            Enforcement::Enforce => true,
            Enforcement::Shadow => self.live_from.is_some_and(|live| now >= live),
        }
    }

    /// How far below zero holds may take the balance while the grace has not ended: by its own limit or by the credit limit.
    pub fn limit_in_grace(&self) -> Amount {
        let limit = self.grace_limit.unwrap_or(CREDIT_LIMIT_MAX);
        match self.grace {
            Some(_) => limit.max(self.credit_limit),
            None => self.credit_limit,
        }
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
