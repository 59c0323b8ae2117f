//! The lines of a ledger, and what stands under the names of the commands that wrote them, as they are stored.

use serde::{Deserialize, Serialize};

use super::Action;
use super::book::CreditBlock;
use crate::clock::Timestamp;
use crate::id::{KeyId, ModelName};
use crate::money::Amount;

/// What was taken from one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The block.
    pub block: u64,
    /// How much.
    pub amount: Amount,
    /// The block as it was left: emptied ones leave the book, and a correction puts back what it unwinds. Absent where the entry
    /// cannot be corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Box<CreditBlock>>,
    /// The order that the block came from, where what was taken goes back to whoever paid it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
}

impl Allocation {
    /// The order that the block came from, as far as it is known.
    pub fn order(&self) -> Option<&str> {
        let block = || self.of.as_ref()?.order_id.as_deref();
        self.order_id.as_deref().or_else(block)
    }
}

/// One line of the ledger. The amounts of all entries add up to the balance, but for spend not yet absorbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 1, 2, 3 … in each account, without a gap.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EntryKind,
    /// What it did to the balance.
    pub amount: Amount,
    /// The balance after it.
    pub balance: Amount,
    /// How much of it paid debt.
    #[serde(default)]
    pub debt_paid: Amount,
    /// How much of it became debt.
    #[serde(default)]
    pub debt_made: Amount,
    /// What it took from which blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocations: Vec<Allocation>,
    /// The block it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// The caller's idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The payment or campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// Whose call a late charge is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// Which model a late charge is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// For the reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// In which order the block it made is burnt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// From when on the block it made cannot be spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When its command was first carried out, if the store lost that and it was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Timestamp>,
    /// The command as it was given, where the rest of the entry does not say all of it: what carries it out again if a store lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Box<Action>>,
}

impl Entry {
    /// What was paid for a rate, as far as that was said.
    pub fn price(&self) -> Option<Amount> {
        match self.action.as_deref()? {
            Action::BuyQpsPlan { price, .. } => *price,
            _ => None,
        }
    }

    /// Whether it is about an order: its own, or one of those that a refund paid back.
    pub fn is_of(&self, order: &str) -> bool {
        let of = |part: &Allocation| part.order_id.as_deref() == Some(order);
        self.order_id.as_deref() == Some(order) || self.allocations.iter().any(of)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_zero(priority: &i32) -> bool {
    *priority == 0
}

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// The account was opened, or its rules changed; moves nothing.
    Configuration,
    /// Money paid in.
    Recharge,
    /// Credit given.
    Grant,
    /// A correction.
    Adjustment,
    /// A charge that came after its call was over.
    LateCharge,
    /// Settled calls, summed since the last such entry; `QueryUsage` has them by hour, key and model.
    Usage,
    /// Credit whose time was over.
    Expiry,
    /// The backend declared the account overdue; moves nothing.
    OverdueMarked,
    /// The backend took that back; moves nothing.
    OverdueCleared,
    /// A capability may be used again after a suspension; moves nothing.
    Reactivation,
    /// A refund was accepted; moves nothing yet.
    RefundBegun,
    /// A refund was paid out.
    Refund,
    /// A refund was called off; moves nothing.
    RefundCancelled,
    /// How much of an order was invoiced; moves nothing.
    InvoicedAmount,
    /// Plan credit bought, in the plan's own unit.
    PlanPurchase,
    /// A plan may pay for this account's calls; moves nothing.
    PlanAdded,
    /// A plan may not any more; moves nothing.
    PlanRemoved,
    /// A rate for a time was bought; moves nothing.
    QpsPlanPurchase,
    /// A charge was taken back, in whole or in part.
    Correction,
    /// What was left of an order was taken back.
    Void,
    /// What is owed was put on an invoice.
    InvoiceClosed,
    /// An invoice was paid; moves nothing here.
    InvoiceSettled,
    /// The account was closed; moves nothing.
    Closed,
}

impl EntryKind {
    /// Whether it follows by itself, from what was spent or from the time, and answers no command.
    pub const fn is_derived(self) -> bool {
        matches!(self, Self::Usage | Self::Expiry)
    }

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Recharge => "recharge",
            Self::Grant => "grant",
            Self::Adjustment => "adjustment",
            Self::LateCharge => "late_charge",
            Self::Usage => "usage",
            Self::Expiry => "expiry",
            Self::OverdueMarked => "overdue_marked",
            Self::OverdueCleared => "overdue_cleared",
            Self::Reactivation => "reactivation",
            Self::RefundBegun => "refund_begun",
            Self::Refund => "refund",
            Self::RefundCancelled => "refund_cancelled",
            Self::InvoicedAmount => "invoiced_amount",
            Self::PlanPurchase => "plan_purchase",
            Self::PlanAdded => "plan_added",
            Self::PlanRemoved => "plan_removed",
            Self::QpsPlanPurchase => "qps_plan_purchase",
            Self::Correction => "correction",
            Self::Void => "void",
            Self::InvoiceClosed => "invoice_closed",
            Self::InvoiceSettled => "invoice_settled",
            Self::Closed => "closed",
        }
    }
}

/// What stands under an idempotency key or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Of the command that made it.
    pub fingerprint: String,
    /// The answer it got.
    pub entry: Entry,
}
