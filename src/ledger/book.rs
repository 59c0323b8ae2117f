//! The shapes of a book, its entries and its events, as they are stored (JSON, readable in any store's own tools), and what can
//! be read off a book at an instant.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{AccountId, KeyId, ModelName};
use crate::money::Amount;
use crate::policy::{Overrides, Policy};
use crate::refusal::Reason;

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
    /// Since when the balance is below zero; one instant per episode (A1-1).
    pub overdue_since: Option<Timestamp>,
    /// The low-balance event was sent and the balance has not come back since.
    pub low_balance_sent: bool,
    /// The sequence number of the last entry.
    pub entries: u64,
    /// The sequence number of the last event.
    pub events: u64,
    /// The number of the last block.
    pub last_block: u64,
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
}

/// Where credit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreditKind {
    /// Given: burnt before paid credit of the same priority and expiry.
    Bonus,
    /// Paid.
    Paid,
}

/// What was taken from one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The block.
    pub block: u64,
    /// How much.
    pub amount: Amount,
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
}

impl EntryKind {
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
        }
    }
}

/// Something that a billing backend wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unique for ever: `ACCOUNT/NUMBER`. The same event sent twice has the same id.
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
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// An account was opened.
    #[serde(rename = "account.opened")]
    AccountOpened,
    /// The balance fell below zero (A1-2).
    #[serde(rename = "account.overdue")]
    AccountOverdue,
    /// The debt is paid.
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
}

impl EventKind {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccountOpened => "account.opened",
            Self::AccountOverdue => "account.overdue",
            Self::AccountResumed => "account.resumed",
            Self::BalanceLow => "balance.low",
            Self::CreditAdded => "credit.added",
            Self::CreditExpired => "credit.expired",
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

/// The state that callers and people see, derived from the facts at read time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// In good standing.
    Active,
    /// Below zero.
    Overdue,
}

impl State {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Overdue => "OVERDUE",
        }
    }
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
        }
    }

    /// What is left, below zero if more was spent, given the total spend. A total below what was absorbed comes from a store that
    /// has lost spend: what was absorbed is known to have been spent.
    pub fn balance(&self, spend: Amount) -> Amount {
        self.lifetime_credit
            .saturating_sub(spend.max(self.absorbed))
    }

    /// What is owed, given the total spend: debt on the book and spend that no block will cover.
    pub fn debt(&self, spend: Amount) -> Amount {
        let remaining = self
            .blocks
            .iter()
            .fold(Amount::ZERO, |sum, b| sum.saturating_add(b.remaining));
        let unabsorbed = spend.saturating_sub(self.absorbed);
        self.debt
            .saturating_add(unabsorbed.saturating_sub(remaining).or_zero())
    }

    /// The state, given the total spend.
    pub fn state(&self, spend: Amount) -> State {
        if self.overdue_since.is_some() || self.debt(spend).is_positive() {
            State::Overdue
        } else {
            State::Active
        }
    }

    /// Why calls are refused whatever they cost; `None` if they are not. A debt within the credit limit does not stop calls.
    pub fn standing(&self, spend: Amount) -> Option<Reason> {
        let owed = self.debt(spend);
        (owed.is_positive() && owed > self.floor).then_some(Reason::AccountOverdue)
    }

    /// The next instant at which something happens by itself.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.blocks.iter().filter_map(|block| block.expires).min()
    }

    /// Whether [`super::Action::Observe`] would write anything that matters before the next command: something is due, or a
    /// threshold was crossed. Absorbing alone can wait.
    pub fn wants_observing(&self, spend: Amount, policy: &Policy, now: Timestamp) -> bool {
        let balance = self.balance(spend);
        let overdue = self.debt(spend).is_positive() != self.overdue_since.is_some();
        let low = policy.low_balance.is_some_and(|at| balance < at) != self.low_balance_sent;
        let due = self.next_deadline().is_some_and(|at| at <= now);
        overdue || low || due || self.floor != policy.credit_limit
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
        Ok(())
    }
}
