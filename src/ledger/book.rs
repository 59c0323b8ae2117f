//! The shape of a book as it is stored (JSON, readable in any store's own tools), and its sums. What state it is in at an instant is
//! in [`super::state`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::{InvoicePeriod, PlanRef, QpsPlan, RechargeAsked, Refund};
use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::money::Amount;
use crate::policy::{Mode, Overrides};

/// How many credit blocks with money left an account may have: the book is written whole at every change, and burning walks
/// them. A purchase a day that expires after two years stays below it.
pub const CREDIT_BLOCKS_MAX: usize = 1_000;

/// Everything of an account that is not spend, keys or history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Whose.
    pub account: AccountId,
    /// The unit of all its amounts, as `USD`.
    pub unit: String,
    /// The name that people see.
    pub name: String,
    /// When it was opened.
    pub created: Timestamp,
    /// Its policy, by name.
    pub policy: String,
    /// What it has otherwise than its policy.
    #[serde(default)]
    pub overrides: Overrides,
    /// What is left of what was put in. Emptied blocks leave; the entries remember them.
    pub blocks: Vec<CreditBlock>,
    /// Spend that no block covered.
    pub debt: Amount,
    /// All that was put in, less what expired and what was taken by adjustments and late charges.
    pub lifetime_credit: Amount,
    /// All that was paid in (A3-1): gifts and plans do not count.
    pub cumulative_recharge: Amount,
    /// How much of the total spend has been taken from the blocks or joined the debt.
    pub absorbed: Amount,
    /// How far below zero holds may go, as the policy said when the book was last written.
    pub floor: Amount,
    /// Since when more is owed than may be; one instant per episode, kept by a partial payment (A1-1, A3-13).
    pub overdue_since: Option<Timestamp>,
    /// The low-balance event was sent and the balance has not come back since.
    pub low_balance_sent: bool,
    /// The sequence number of the last entry.
    pub entries: u64,
    /// The sequence number of the last event.
    pub events: u64,
    /// The number of the last block.
    pub last_block: u64,
    /// The tenant it belongs to, whose policy is its own where it names none (A2-6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its trust tier, which bounds purchases (A4-2).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tier: String,
    /// Who is told what happens to it (A2-3).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Since when the backend says that it is overdue, whatever the balance (A1-1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_overdue: Option<Timestamp>,
    /// When it was suspended: the deadline as it was computed, written down by the first command after it. Kept once the debt is paid,
    /// until all is reactivated, where the policy asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_at: Option<Timestamp>,
    /// What was reactivated since then.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub reactivated: BTreeSet<String>,
    /// It was announced that its data may be cleared.
    #[serde(default, skip_serializing_if = "is_default")]
    pub purge_sent: bool,
    /// The refund that was accepted and not ended: no calls, no recharges (A3-7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund>,
    /// Since when it is closed, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Timestamp>,
    /// The plans that pay for its calls; what is left of each is an account of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<PlanRef>,
    /// Rates bought for a time (A1-4).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub qps_plans: Vec<QpsPlan>,
    /// How much of each order was invoiced, and so is not refundable (A3-10).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub invoiced: BTreeMap<String, Amount>,
    /// How calls were paid when the book was last written (A4-1, A4-8).
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// What stands on invoices that are not paid.
    #[serde(default, skip_serializing_if = "is_default")]
    pub invoiced_outstanding: Amount,
    /// The invoices, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invoices: Vec<InvoicePeriod>,
    /// The last recharge that was asked for (A4-3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recharge_asked: Option<RechargeAsked>,
    /// Further thresholds that the balance is below and that were announced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts_sent: Vec<Amount>,
    /// How much of which entries was corrected, by sequence number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corrected: BTreeMap<u64, Amount>,
    /// Entries up to this one cannot be corrected any more: it is not known how much of them was.
    #[serde(default, skip_serializing_if = "is_default")]
    pub corrected_before: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Money that was put in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditBlock {
    /// Unique in its account, ascending.
    pub id: u64,
    /// Paid or given.
    pub kind: CreditKind,
    /// Burnt in ascending order.
    pub priority: i32,
    /// When it was put in.
    pub effective: Timestamp,
    /// From this instant on it cannot be spent.
    pub expires: Option<Timestamp>,
    /// What became credit when it was put in, after debt was paid.
    pub granted: Amount,
    /// What is left.
    pub remaining: Amount,
    /// The payment or campaign it came from.
    pub order_id: Option<String>,
    /// It has expired: what is left pays holds that were taken before, and goes with them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expired: bool,
    /// It was announced that it expires soon.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expiring_sent: bool,
}

/// Where credit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreditKind {
    /// Given: burnt before paid credit of the same priority and expiry.
    Bonus,
    /// Paid.
    Paid,
    /// Bought as a plan, in its own unit (A3-2).
    Plan,
}

impl Book {
    /// A new, empty book.
    pub fn new(account: AccountId, unit: String, policy: String, now: Timestamp) -> Self {
        Self {
            name: account.to_string(),
            account,
            unit,
            created: now,
            policy,
            overrides: Overrides::default(),
            blocks: Vec::new(),
            debt: Amount::ZERO,
            lifetime_credit: Amount::ZERO,
            cumulative_recharge: Amount::ZERO,
            absorbed: Amount::ZERO,
            floor: Amount::ZERO,
            overdue_since: None,
            // An account that opens with nothing has not fallen below anything: the first balance at or above the
            // threshold arms the event.
            low_balance_sent: true,
            entries: 0,
            events: 0,
            last_block: 0,
            tenant: None,
            tier: String::new(),
            recipients: Vec::new(),
            declared_overdue: None,
            suspended_at: None,
            reactivated: BTreeSet::new(),
            purge_sent: false,
            refund: None,
            closed: None,
            plans: Vec::new(),
            qps_plans: Vec::new(),
            invoiced: BTreeMap::new(),
            mode: Mode::default(),
            invoiced_outstanding: Amount::ZERO,
            invoices: Vec::new(),
            recharge_asked: None,
            alerts_sent: Vec::new(),
            corrected: BTreeMap::new(),
            corrected_before: 0,
        }
    }

    /// What is left, below zero if more was spent, given the total spend. A total below what was absorbed comes from a store that
    /// has lost spend: what was absorbed is known to have been spent.
    pub fn balance(&self, spend: Amount) -> Amount {
        self.lifetime_credit
            .saturating_sub(spend.max(self.absorbed))
    }

    /// What is left in all blocks.
    pub fn remaining(&self) -> Amount {
        self.blocks
            .iter()
            .fold(Amount::ZERO, |sum, b| sum.saturating_add(b.remaining))
    }

    /// What is owed, given the total spend: debt on the book and spend that no block will cover.
    pub fn debt(&self, spend: Amount) -> Amount {
        let remaining = self.remaining();
        let unabsorbed = spend.saturating_sub(self.absorbed);
        self.debt
            .saturating_add(unabsorbed.saturating_sub(remaining).or_zero())
    }

    /// What must hold of every book: the two ways to count the balance agree.
    pub fn invariants(&self) -> Result<(), String> {
        let remaining: i128 = self
            .blocks
            .iter()
            .map(|block| i128::from(block.remaining.nanos()))
            .sum();
        let left = remaining.saturating_sub(self.debt.nanos().into());
        let right =
            i128::from(self.lifetime_credit.nanos()).saturating_sub(self.absorbed.nanos().into());
        if left != right {
            return Err(format!(
                "Σ remaining − debt is {left}, lifetime credit − absorbed is {right}"
            ));
        }
        for block in &self.blocks {
            if !block.remaining.is_positive() || block.remaining > block.granted {
                return Err(format!(
                    "block {} has {} left of {}",
                    block.id, block.remaining, block.granted
                ));
            }
        }
        if self.debt.is_negative() {
            return Err(format!("the debt is {}", self.debt));
        }
        let open = self
            .invoices
            .iter()
            .filter(|invoice| invoice.settled.is_none());
        let open: i128 = open.map(|invoice| i128::from(invoice.amount.nanos())).sum();
        if open != i128::from(self.invoiced_outstanding.nanos()) {
            return Err(format!(
                "open invoices add up to {open}, invoiced_outstanding is {}",
                self.invoiced_outstanding
            ));
        }
        Ok(())
    }
}
