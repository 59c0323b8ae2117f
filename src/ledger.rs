//! An account's book as a pure state machine: `apply(book, spent, command, policy, now)` gives the next book, the entries that
//! explain it and the events that announce it. No store, no clock, no atomics: every store runs these same rules.
//!
//! Spend does not arrive as commands. Replicas publish it as totals that only grow; the book remembers how much of that total
//! it has *absorbed* into its credit blocks, and every command first absorbs the rest. So the balance is right at any moment,
//! whether or not anybody has run a command since:
//!
//! ```text
//! balance = lifetime credit − total spend = Σ remaining − debt − (total spend − absorbed)
//! ```

mod action;
mod apply;
mod book;
mod entry;
mod event;
mod facts;
mod heal;
mod rejected;
mod state;

pub use action::{Action, Command, Configure, Seen};
pub use apply::{Applied, Given, Refundable, apply};
pub use book::{Book, CREDIT_BLOCKS_MAX, CreditBlock, CreditKind};
pub use entry::{Allocation, Claim, Entry, EntryKind};
pub use event::{Event, EventKind};
pub use facts::{
    CORRECTED_MAX, INVOICE_LINES_MAX, INVOICED_MAX, INVOICES_MAX, InvoiceLine, InvoicePeriod,
    PLANS_MAX, PlanRef, QPS_PLANS_MAX, QpsPlan, RECIPIENTS_MAX, RechargeAsked, Refund, SCOPE_MAX,
};
pub use heal::{Healed, TAIL_MAX, Told, cut, first, heal, join, lacks, read_on, refill};
pub use rejected::Rejected;
pub use state::{Spent, Standing, State};

#[cfg(test)]
mod tests;
