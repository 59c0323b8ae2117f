//! An account's book as a pure state machine: `apply(book, spend, command, policy, now)` gives the next book, the entries that
//! explain it and the events that announce it. No store, no clock, no atomics: every store runs these same rules.
//!
//! Spend does not arrive as commands. Replicas publish it as totals that only grow; the book remembers how much of that total
//! it has *absorbed* into its credit blocks, and every command first absorbs the rest. So the balance is right at any moment,
//! whether or not anybody has run a command since:
//!
//! ```text
//! balance = lifetime credit − total spend = Σ remaining − debt − (total spend − absorbed)
//! ```

mod apply;
mod book;
mod heal;

pub use apply::{Applied, Rejected, apply};
pub use book::{
    Allocation, Book, CREDIT_BLOCKS_MAX, Claim, CreditBlock, CreditKind, Entry, EntryKind, Event,
    EventKind, State,
};

pub use heal::{Healed, TAIL_MAX, Told, heal, lacks, refill};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::id::{KeyId, ModelName};
use crate::money::Amount;
use crate::policy::Overrides;

/// What a billing backend asks of a book, with the key under which it counts once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Given again, the first answer is given again (X-4). Required for whatever moves money.
    pub idempotency_key: Option<String>,
    /// What is asked.
    pub action: Action,
}

/// What can be asked of a book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Money was paid in: debt first, the rest becomes credit (A3-13).
    Recharge {
        /// How much; above zero.
        amount: Amount,
        /// The payment's own id; counts once per account.
        order_id: String,
        /// Burnt in ascending order (X-2).
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
        /// Burnt in ascending order (X-2).
        priority: i32,
        /// From this instant on it cannot be spent.
        expires: Option<Timestamp>,
        /// For the reader of the ledger.
        note: String,
    },
    /// A correction, up or down (X-8).
    Adjust {
        /// Added to the balance; not zero.
        amount: Amount,
        /// Why: required.
        note: String,
    },
    /// A charge that came after the call was over: always lands (X-6).
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
    Configure {
        /// The name that people see; `None` leaves it.
        name: Option<String>,
        /// The policy by name; `None` leaves it.
        policy: Option<String>,
        /// What this account has otherwise; replaced whole; `None` leaves it.
        overrides: Option<Overrides>,
    },
    /// Nobody asked: absorb what was spent, expire what is due, announce what follows.
    Observe,
}

impl Command {
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
            Action::Recharge { order_id, .. } => Some(order_id),
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

#[cfg(test)]
mod tests;
