//! What a billing backend is told, as it is stored and sent.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::money::Amount;

/// Something that a billing backend wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unique for ever: see [`Event::id_of`]. The same event sent twice has the same id.
    pub id: String,
    /// Whose.
    pub account: AccountId,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The balance then.
    pub balance: Amount,
    /// The amount in question: what was recharged, or the threshold that was crossed.
    pub amount: Amount,
    /// What it is about: the order, refund, invoice or plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Of a request: the key under which it counts once, however often it is heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Whom to tell: the account's notification recipients, all of them (A2-3).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
}

impl Event {
    /// `ACCOUNT/NUMBER/NANOSECONDS`: which one it is of its account's, and when it happened. The number alone would be given again by a
    /// store that lost history, to whatever comes next there; that comes later.
    pub fn id_of(account: &AccountId, number: u64, time: Timestamp) -> String {
        format!("{account}/{number}/{}", time.nanos())
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// An account was opened.
    #[serde(rename = "account.opened")]
    AccountOpened,
    /// The account became overdue (A1-2).
    #[serde(rename = "account.overdue")]
    AccountOverdue,
    /// Calls go on: the debt is paid, or the last capability reactivated.
    #[serde(rename = "account.resumed")]
    AccountResumed,
    /// The balance fell below the threshold (A3-5).
    #[serde(rename = "balance.low")]
    BalanceLow,
    /// A recharge or a grant was counted.
    #[serde(rename = "credit.added")]
    CreditAdded,
    /// Credit expired.
    #[serde(rename = "credit.expired")]
    CreditExpired,
    /// It was overdue for too long (A2-3).
    #[serde(rename = "account.suspended")]
    AccountSuspended,
    /// The debt is paid; capabilities are reactivated one by one (A1-9).
    #[serde(rename = "account.reactivation_required")]
    ReactivationRequired,
    /// The account's data may be cleared (A2-5).
    #[serde(rename = "account.purge_eligible")]
    PurgeEligible,
    /// The account was closed.
    #[serde(rename = "account.closed")]
    AccountClosed,
    /// Credit will expire soon.
    #[serde(rename = "credit.expiring")]
    CreditExpiring,
    /// A plan is used up (A1-3).
    #[serde(rename = "plan.exhausted")]
    PlanExhausted,
    /// Plan credit expired (A1-3).
    #[serde(rename = "plan.expired")]
    PlanExpired,
    /// The balance fell so low that a recharge is asked for (A4-3).
    #[serde(rename = "recharge.requested")]
    RechargeRequested,
    /// A refund was accepted (A3-7).
    #[serde(rename = "refund.accepted")]
    RefundAccepted,
    /// A refund was paid out.
    #[serde(rename = "refund.completed")]
    RefundCompleted,
    /// A refund was called off.
    #[serde(rename = "refund.cancelled")]
    RefundCancelled,
    /// What is owed was put on an invoice (A4-1).
    #[serde(rename = "invoice.closed")]
    InvoiceClosed,
}

impl EventKind {
    /// Whether it is news of the account of a plan, too.
    pub const fn is_of_a_plan(self) -> bool {
        matches!(
            self,
            Self::CreditAdded | Self::CreditExpiring | Self::PlanExhausted | Self::PlanExpired
        )
    }

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccountOpened => "account.opened",
            Self::AccountOverdue => "account.overdue",
            Self::AccountResumed => "account.resumed",
            Self::BalanceLow => "balance.low",
            Self::CreditAdded => "credit.added",
            Self::CreditExpired => "credit.expired",
            Self::AccountSuspended => "account.suspended",
            Self::ReactivationRequired => "account.reactivation_required",
            Self::PurgeEligible => "account.purge_eligible",
            Self::AccountClosed => "account.closed",
            Self::CreditExpiring => "credit.expiring",
            Self::PlanExhausted => "plan.exhausted",
            Self::PlanExpired => "plan.expired",
            Self::RechargeRequested => "recharge.requested",
            Self::RefundAccepted => "refund.accepted",
            Self::RefundCompleted => "refund.completed",
            Self::RefundCancelled => "refund.cancelled",
            Self::InvoiceClosed => "invoice.closed",
        }
    }
}
