//! Why a command is not carried out: a closed list. Each names the field, the value and what would work.

use super::book::CREDIT_BLOCKS_MAX;
use super::entry::EntryKind;
use crate::clock::Timestamp;
use crate::money::Amount;

/// Why a command is not carried out. The book is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// An amount that must be above zero.
    #[error("amount is {0}; it must be above zero")]
    NotPositive(Amount),
    /// An amount that must not be below zero.
    #[error("{0} is {1}; it must be zero or more")]
    Negative(&'static str, Amount),
    /// An adjustment by nothing.
    #[error("amount is 0.00; an adjustment is above or below zero")]
    NoAmount,
    /// A correction without a reason.
    #[error("note is empty; say why the balance is adjusted")]
    NoNote,
    /// A name that is needed.
    #[error("{0} is empty; give one")]
    Missing(&'static str),
    /// A list that is too long.
    #[error("{field} would have {count} items; there may be {most}")]
    TooMany {
        /// Which list.
        field: &'static str,
        /// How many it would have.
        count: usize,
        /// How many it may have.
        most: usize,
    },
    /// An expiry that is over.
    #[error("expire_time is {0}, which is not after now")]
    Expired(Timestamp),
    /// A sum beyond the range.
    #[error("the book would leave the range of ±9223372036.854775807")]
    OutOfRange,
    /// Too many credit blocks.
    #[error("the account has {CREDIT_BLOCKS_MAX} credit blocks with money left, which is the most")]
    TooManyBlocks,
    /// A purchase that is too small (A4-2).
    #[error("amount is {amount}; the smallest purchase is {min}")]
    BelowMinimum {
        /// What was to be bought.
        amount: Amount,
        /// The policy's bound.
        min: Amount,
    },
    /// A purchase that is too large (A4-2).
    #[error("amount is {amount}; the largest purchase for tier `{tier}` is {max}")]
    AboveMaximum {
        /// What was to be bought.
        amount: Amount,
        /// The policy's bound.
        max: Amount,
        /// The account's trust tier.
        tier: String,
    },
    /// A refund was accepted and has not ended (A3-7).
    #[error("refund `{0}` is in progress; complete or cancel it first")]
    Frozen(String),
    /// The account is closed.
    #[error(
        "the account is closed since {0}; only late charges, adjustments and corrections still land"
    )]
    Closed(Timestamp),
    /// The debt must be paid first (A1-9).
    #[error("the account owes {0}; the debt is paid first")]
    InDebt(Amount),
    /// The backend's word must be taken back first.
    #[error("the account is declared overdue since {0}; clear that first")]
    DeclaredOverdue(Timestamp),
    /// There is no such word to take back.
    #[error("the account is not declared overdue; there is nothing to clear")]
    NotDeclaredOverdue,
    /// Nothing is suspended.
    #[error("capability is `{0}`, and nothing of this account waits for reactivation")]
    NothingToReactivate(String),
    /// The policy names no such capability.
    #[error("capability is `{given}`; write one of {known}, or `*` for all")]
    UnknownCapability {
        /// What was asked for.
        given: String,
        /// What there is.
        known: String,
    },
    /// The policy refunds nothing (A4-4).
    #[error("nothing is refundable under the policy of this account")]
    NotRefundable,
    /// Plan credit is not refundable (A3-9).
    #[error("orders: `{0}` bought a plan, which is not refundable; name paid orders only")]
    PlanNotRefundable(String),
    /// Nothing of the order is left, or there never was one.
    #[error("order_id is `{0}`, of which this account has no credit left")]
    UnknownOrder(String),
    /// There is nothing to pay out.
    #[error(
        "orders: nothing of them is refundable; paid credit less what was invoiced comes to 0.00"
    )]
    NothingToRefund,
    /// Not the refund that is in progress.
    #[error("refund_id is `{given}`; {}", match .open {
        Some(open) => format!("the one in progress is `{open}`"),
        None => "no refund is in progress".into(),
    })]
    UnknownRefund {
        /// What was asked for.
        given: String,
        /// What is in progress.
        open: Option<String>,
    },
    /// The final amount is not known yet (A3-7).
    #[error("{0} is still held for calls in flight; complete the refund once they have ended")]
    CallsInFlight(Amount),
    /// A plan of that name is in another unit.
    #[error(
        "plan.unit is `{given}`; plan `{name}` of this account is in `{unit}`; give another name"
    )]
    PlanUnit {
        /// The plan.
        name: String,
        /// What was asked for.
        given: String,
        /// What it is in.
        unit: String,
    },
    /// No such plan.
    #[error("name is `{0}`; the account has no such plan")]
    UnknownPlan(String),
    /// A rate of nothing.
    #[error("{0} is 0; give 1 or more")]
    Zero(&'static str),
    /// A time that ends before it begins.
    #[error("expire_time is {expires}, which is not after effective_time with {effective}")]
    NoTime {
        /// Its beginning.
        effective: Timestamp,
        /// Its end.
        expires: Timestamp,
    },
    /// No such entry.
    #[error("sequence is {0}; the account's ledger has no such entry")]
    UnknownEntry(u64),
    /// An entry that charged nothing.
    #[error("sequence is {sequence}, a {} entry; usage, late charges and adjustments downwards are corrected", .kind.name())]
    NotCorrectable {
        /// The entry.
        sequence: u64,
        /// What it is.
        kind: EntryKind,
    },
    /// More than was charged.
    #[error("amount is {amount}; of entry {sequence}, {left} can still be corrected")]
    CorrectedBeyond {
        /// The entry.
        sequence: u64,
        /// What was asked for.
        amount: Amount,
        /// What is left of it.
        left: Amount,
    },
    /// Too long ago to know what of it was corrected.
    #[error(
        "sequence is {sequence}; entries up to {before} are too old to correct, adjust the balance instead"
    )]
    CorrectionTooOld {
        /// The entry.
        sequence: u64,
        /// Up to which entries that is so.
        before: u64,
    },
    /// The policy invoices nothing (A4-1).
    #[error(
        "the account pays in advance; invoices are for policies with mode `credit_then_invoice`"
    )]
    NotInvoiced,
    /// An id that is taken.
    #[error("invoice_id is `{0}`, which is closed already; give the next one its own id")]
    InvoiceExists(String),
    /// No such invoice.
    #[error("invoice_id is `{0}`; the account has no such invoice")]
    UnknownInvoice(String),
    /// It is paid.
    #[error("invoice_id is `{0}`, which was paid already")]
    InvoicePaid(String),
    /// Arrears must be settled before the account pays in advance (A4-8).
    #[error(
        "the account owes {debt} and {outstanding} stands on open invoices; settle both before it pays in advance"
    )]
    ArrearsOpen {
        /// What is not on an invoice yet.
        debt: Amount,
        /// What is.
        outstanding: Amount,
    },
}

impl Rejected {
    /// The field that is wrong; `None` if the request is fine and the account is not in the state for it.
    pub const fn field(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotPositive(_)
            | Self::NoAmount
            | Self::BelowMinimum { .. }
            | Self::AboveMaximum { .. }
            | Self::CorrectedBeyond { .. } => "amount",
            Self::Negative(field, _)
            | Self::Missing(field)
            | Self::Zero(field)
            | Self::TooMany { field, .. } => field,
            Self::NoNote => "note",
            Self::Expired(_) | Self::NoTime { .. } => "expire_time",
            Self::UnknownCapability { .. } => "capability",
            Self::PlanNotRefundable(_) => "orders",
            Self::UnknownOrder(_) => "order_id",
            Self::UnknownRefund { .. } => "refund_id",
            Self::PlanUnit { .. } => "plan.unit",
            Self::UnknownPlan(_) => "name",
            Self::UnknownEntry(_) | Self::NotCorrectable { .. } | Self::CorrectionTooOld { .. } => {
                "sequence"
            }
            Self::InvoiceExists(_) | Self::UnknownInvoice(_) => "invoice_id",
            Self::OutOfRange
            | Self::TooManyBlocks
            | Self::Frozen(_)
            | Self::Closed(_)
            | Self::InDebt(_)
            | Self::DeclaredOverdue(_)
            | Self::NotDeclaredOverdue
            | Self::NothingToReactivate(_)
            | Self::NotRefundable
            | Self::NothingToRefund
            | Self::CallsInFlight(_)
            | Self::NotInvoiced
            | Self::InvoicePaid(_)
            | Self::ArrearsOpen { .. } => return None,
        })
    }

    /// A stable word for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::TooManyBlocks | Self::TooMany { .. } => "LIMIT_REACHED",
            Self::BelowMinimum { .. } | Self::AboveMaximum { .. } => "PURCHASE_OUT_OF_BOUNDS",
            Self::Frozen(_) => "REFUND_IN_PROGRESS",
            Self::Closed(_) => "ACCOUNT_CLOSED",
            Self::InDebt(_) | Self::DeclaredOverdue(_) => "ACCOUNT_OVERDUE",
            Self::NotDeclaredOverdue => "NOT_OVERDUE",
            Self::NothingToReactivate(_) => "NOT_SUSPENDED",
            Self::NotRefundable | Self::PlanNotRefundable(_) | Self::NothingToRefund => {
                "NOT_REFUNDABLE"
            }
            Self::UnknownOrder(_) => "ORDER_NOT_FOUND",
            Self::UnknownRefund { .. } => "REFUND_NOT_FOUND",
            Self::CallsInFlight(_) => "CALLS_IN_FLIGHT",
            Self::UnknownPlan(_) => "PLAN_NOT_FOUND",
            Self::UnknownEntry(_) => "ENTRY_NOT_FOUND",
            Self::NotCorrectable { .. }
            | Self::CorrectedBeyond { .. }
            | Self::CorrectionTooOld { .. } => "NOT_CORRECTABLE",
            Self::NotInvoiced => "NOT_INVOICED",
            Self::InvoiceExists(_) => "INVOICE_EXISTS",
            Self::UnknownInvoice(_) => "INVOICE_NOT_FOUND",
            Self::InvoicePaid(_) => "INVOICE_PAID",
            Self::ArrearsOpen { .. } => "ARREARS_OPEN",
            Self::NotPositive(_)
            | Self::Negative(..)
            | Self::NoAmount
            | Self::NoNote
            | Self::Missing(_)
            | Self::Expired(_)
            | Self::UnknownCapability { .. }
            | Self::PlanUnit { .. }
            | Self::Zero(_)
            | Self::NoTime { .. } => "FIELD_INVALID",
        }
    }
}
