//! Parts of a book beside its money: refunds, plans, rates bought for a time, invoices.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::ModelName;
use crate::money::Amount;

/// How many plans an account may have: a call looks at each until one pays.
pub const PLANS_MAX: usize = 32;

/// How many model patterns a plan's scope may have: a call looks at each.
pub const SCOPE_MAX: usize = 64;

/// How many rates bought for a time an account may have that are not over: renewals bought ahead.
pub const QPS_PLANS_MAX: usize = 64;

/// How many notification recipients an account may have: they travel with each of its events.
pub const RECIPIENTS_MAX: usize = 32;

/// How many orders of an account may have an invoiced amount. Those of which no credit is left make room.
pub const INVOICED_MAX: usize = 1_000;

/// How many invoices a book keeps: ten years of months. Paid ones make room; the ledger remembers all.
pub const INVOICES_MAX: usize = 120;

/// How many lines an invoice may have: a book carries the invoices' lines with it.
pub const INVOICE_LINES_MAX: usize = 256;

/// How many corrected entries a book keeps in mind. Older ones cannot be corrected again, only adjusted.
pub const CORRECTED_MAX: usize = 256;

/// A refund that was accepted (A3-7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// The backend's own id.
    pub id: String,
    /// When it was accepted.
    pub requested: Timestamp,
    /// Of which orders; empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// For the reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A plan that pays for an account's calls, before money does. What is left of it is an account of its own, in the plan's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRef {
    /// Unique among the account's plans.
    pub name: String,
    /// What it is counted in.
    pub unit: String,
    /// Which models it is for: patterns as in the price book; empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    /// Asked in ascending order, then by name.
    #[serde(default)]
    pub priority: i32,
}

/// A rate bought for a time (A1-4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QpsPlan {
    /// Which product.
    pub id: String,
    /// Calls per second.
    pub qps: u32,
    /// How many calls may come at once on top; `None` is one second's worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// From this instant on it counts.
    pub effective: Timestamp,
    /// From this instant on it does not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The payment.
    pub order_id: String,
    /// What was paid for it, as far as that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Amount>,
}

/// An invoice (A4-1): what was owed when its period was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoicePeriod {
    /// The backend's own id.
    pub id: String,
    /// When the period was closed: what came later is on the next one.
    pub closed: Timestamp,
    /// What is to be paid.
    pub amount: Amount,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<InvoiceLine>,
    /// When it was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Timestamp>,
}

/// What one model cost in the period of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceLine {
    /// The model; `None` for calls that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// How much.
    pub amount: Amount,
}

/// A recharge that was asked for (A4-3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RechargeAsked {
    /// The key under which it counts once.
    pub id: String,
    /// When it was last asked for.
    pub at: Timestamp,
    /// How much.
    pub amount: Amount,
    /// No recharge has come since.
    pub open: bool,
    /// The UTC month of the sum, counted from January 1970.
    pub month: i64,
    /// What was asked for in that month.
    pub month_sum: Amount,
}
