//! The answers that there are to what a policy asks.

use serde::{Deserialize, Serialize};

use crate::money::Amount;

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
    /// Go on without a lease, each replica up to this amount.
    UpTo(Amount),
}

/// What follows once the debt of a suspended account is repaid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// Calls go on (A2-4).
    #[default]
    Auto,
    /// Each capability is reactivated first (A1-9).
    Reactivate,
}

/// Whether a plan counts while its account is overdue (A1-5). Its time runs on either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhileOverdue {
    /// It does not.
    #[default]
    Unavailable,
    /// It does.
    Available,
}

/// What becomes of a call that a plan covers only partly (A1-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanShortfall {
    /// The plan pays what it can, money the rest.
    #[default]
    Split,
    /// Money pays all of it.
    Whole,
}

/// What of an account's credit is refundable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refunds {
    /// What is left of what was paid, less what was invoiced (A3-6).
    #[default]
    PaidRemaining,
    /// Nothing (A4-4).
    Never,
}

/// Whether the rules apply (A3-11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// They do.
    #[default]
    Enforce,
    /// Calls are counted, and pass, and cost nothing; what would have been refused is told.
    Shadow,
}

/// What calls are paid from (A4-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Credit alone.
    #[default]
    PrepaidOnly,
    /// Credit first; what goes beyond is invoiced.
    CreditThenInvoice,
}

/// When to ask for a recharge (A4-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoRecharge {
    /// As soon as the balance is below this.
    pub below: Amount,
    /// How much to ask for.
    pub amount: Amount,
    /// The shortest time between two requests, in ms.
    pub cool_down_ms: u64,
    /// The most that is asked for in a UTC month; `None` is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_max: Option<Amount>,
}
