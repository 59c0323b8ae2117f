//! What can be asked of a book, and the names under which it counts once.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::book::Book;
use super::entry::{Claim, Entry};
use super::facts::{InvoiceLine, PlanRef};
use crate::clock::Timestamp;
use crate::id::{KeyId, ModelName};
use crate::money::Amount;
use crate::policy::Overrides;

/// What a billing backend asks of a book, with the key under which it counts once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Given again, the first answer is given again. Required for whatever moves money.
    pub idempotency_key: Option<String>,
    /// What is asked.
    pub action: Action,
}

/// What can be asked of a book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "a command is made once and read once; only the largest one is worth a box, and that one is rare"
)]
pub enum Action {
    /// Money was paid in: debt first, the rest becomes credit (A3-13).
    Recharge {
        /// How much; above zero.
        amount: Amount,
        /// The payment's own id; counts once per account.
        order_id: String,
        /// Burnt in ascending order.
        priority: i32,
        /// From this instant on it cannot be spent.
        expires: Option<Timestamp>,
        /// For the reader of the ledger.
        note: String,
    },
    /// Credit was given: pays no debt (A3-13).
    Grant {
        /// How much; above zero.
        amount: Amount,
        /// The campaign's or coupon's own id; counts once per account.
        order_id: Option<String>,
        /// Burnt in ascending order.
        priority: i32,
        /// From this instant on it cannot be spent.
        expires: Option<Timestamp>,
        /// For the reader of the ledger.
        note: String,
    },
    /// A correction, up or down.
    Adjust {
        /// Added to the balance; not zero.
        amount: Amount,
        /// Why: required.
        note: String,
    },
    /// A charge that came after the call was over: always lands.
    LateCharge {
        /// How much; above zero.
        amount: Amount,
        /// Whose call it was.
        key: Option<KeyId>,
        /// Which model.
        model: Option<ModelName>,
        /// For the reader of the ledger.
        note: String,
    },
    /// Other rules for this account; moves no money.
    Configure(Configure),
    /// The backend says that the account is overdue, whatever its balance (A1-1).
    MarkOverdue {
        /// For the reader of the ledger.
        note: String,
    },
    /// The backend takes that back.
    ClearOverdue {
        /// For the reader of the ledger.
        note: String,
    },
    /// A capability may be used again after a suspension; refused while in debt (A1-9).
    ReactivateCapability {
        /// One of the policy's, or `*` for all.
        capability: String,
    },
    /// A refund is accepted: from now on no calls and no recharges (A3-7).
    BeginRefund {
        /// The backend's own id.
        refund_id: String,
        /// Of which orders; empty is all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        orders: Vec<String>,
        /// For the reader of the ledger.
        reason: String,
    },
    /// The refund is paid out: the amount is computed now, when what was in flight has landed (A3-6).
    CompleteRefund {
        /// The one that is in progress.
        refund_id: String,
        /// Close the account with it.
        close: bool,
    },
    /// The refund is called off.
    CancelRefund {
        /// The one that is in progress.
        refund_id: String,
        /// For the reader of the ledger.
        note: String,
    },
    /// How much of an order was invoiced, in all: that is not refundable (A3-10).
    SetInvoicedAmount {
        /// The payment's id.
        order_id: String,
        /// In all; zero or more.
        amount: Amount,
    },
    /// Plan credit was bought, in the plan's own unit: a command to the plan's own account (A3-2, A3-3).
    BuyPlan {
        /// How much of the plan's unit; above zero.
        amount: Amount,
        /// The payment's own id; counts once per account.
        order_id: String,
        /// Burnt in ascending order.
        priority: i32,
        /// From this instant on it cannot be spent.
        expires: Option<Timestamp>,
        /// What it cost in money, where the policy bounds purchases (A4-2).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        price: Option<Amount>,
        /// For the reader of the ledger.
        note: String,
    },
    /// A plan pays for this account's calls. One that is there with the same name is replaced.
    AddPlan {
        /// The plan.
        plan: PlanRef,
    },
    /// A plan does not pay any more. What is left of it stays in its own account.
    RemovePlan {
        /// Its name.
        name: String,
    },
    /// A rate was bought for a time (A1-4).
    BuyQpsPlan {
        /// Which product.
        plan_id: String,
        /// Calls per second; 1 or more.
        qps: u32,
        /// How many calls may come at once on top; `None` is one second's worth.
        burst: Option<u32>,
        /// From this instant on it counts; `None` is now.
        effective: Option<Timestamp>,
        /// From this instant on it does not any more.
        expires: Option<Timestamp>,
        /// The payment's own id; counts once per account.
        order_id: String,
        /// What it cost in money, where the policy bounds purchases (A4-2); moves none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        price: Option<Amount>,
    },
    /// A charge was wrong: what its entry took goes back to where it came from, debt first, newest first.
    Correct {
        /// The entry.
        sequence: u64,
        /// How much of it; above zero.
        amount: Amount,
        /// Why: required.
        note: String,
    },
    /// An order was wrong: what is left of it is taken back.
    Void {
        /// The payment or campaign.
        order_id: String,
        /// Why: required.
        note: String,
    },
    /// What is owed is put on an invoice; what comes later is on the next one (A4-1).
    CloseInvoicePeriod {
        /// The backend's own id.
        invoice_id: String,
        /// What it is for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lines: Vec<InvoiceLine>,
    },
    /// An invoice was paid: what was on it may be owed again.
    SettleInvoice {
        /// The invoice.
        invoice_id: String,
    },
    /// The account is closed, for good. Its history stays, and late charges land.
    CloseAccount {
        /// For the reader of the ledger.
        note: String,
    },
    /// Nobody asked: absorb what was spent, expire what is due, announce what follows.
    Observe,
}

/// Other rules for an account: see [`Action::Configure`]. A field that is `None` is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configure {
    /// The name that people see.
    pub name: Option<String>,
    /// The policy by name.
    pub policy: Option<String>,
    /// What this account has otherwise, whole.
    pub overrides: Option<Overrides>,
    /// The tenant it belongs to; empty is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its trust tier; empty is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Who is told what happens to it, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Vec<String>>,
}

impl Configure {
    /// A book as it is configured now: what its policy is looked up by.
    pub fn put_on(&self, book: &mut Book) {
        fn put<T: Clone>(value: Option<&T>, place: &mut T) {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        put(self.name.as_ref(), &mut book.name);
        put(self.policy.as_ref(), &mut book.policy);
        put(self.overrides.as_ref(), &mut book.overrides);
        put(self.tier.as_ref(), &mut book.tier);
        put(self.recipients.as_ref(), &mut book.recipients);
        if let Some(tenant) = &self.tenant {
            book.tenant = Some(tenant.clone()).filter(|tenant| !tenant.is_empty());
        }
    }
}

impl Command {
    /// The book whose policy the command is carried out under: one that changes the rules comes under those that it makes.
    pub fn named(&self, book: &Book) -> Book {
        let mut named = book.clone();
        if let Action::Configure(configure) = &self.action {
            configure.put_on(&mut named);
        }
        named
    }

    /// Nobody asked: see [`Action::Observe`].
    pub const fn observe() -> Self {
        Self {
            idempotency_key: None,
            action: Action::Observe,
        }
    }

    /// The names under which this command counts once: its idempotency key and its order.
    pub fn claims(&self) -> Vec<String> {
        let order = match &self.action {
            Action::Recharge { order_id, .. }
            | Action::BuyPlan { order_id, .. }
            | Action::BuyQpsPlan { order_id, .. } => Some(order_id),
            Action::Grant { order_id, .. } => order_id.as_ref(),
            _ => None,
        };
        let key = self.idempotency_key.iter().map(|key| format!("k:{key}"));
        key.chain(order.map(|order| format!("o:{order}"))).collect()
    }

    /// A digest of what is asked, without the key: of the request alone, never of anything read from the book, or a retry
    /// would differ from its first try.
    pub fn fingerprint(&self) -> String {
        let json = serde_json::to_vec(&self.action).unwrap_or_default();
        Sha256::digest(json)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Whether this command was carried out before, judged by what stands under each of [`Command::claims`].
    pub fn seen_before(&self, standing: &[Option<Claim>]) -> Seen {
        let fingerprint = self.fingerprint();
        for (name, claim) in self.claims().iter().zip(standing) {
            let Some(claim) = claim else { continue };
            if name.starts_with("k:") && claim.fingerprint == fingerprint {
                return Seen::Before(Box::new(claim.entry.clone()));
            }
            return if name.starts_with("k:") {
                Seen::KeyReused
            } else {
                Seen::OrderReused
            };
        }
        Seen::Never
    }
}

/// What [`Command::seen_before`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is new.
    Never,
    /// The same command under the same key: this was its answer.
    Before(Box<Entry>),
    /// Another command stands under this idempotency key.
    KeyReused,
    /// The order was counted already, under another idempotency key.
    OrderReused,
}
