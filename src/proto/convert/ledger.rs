//! Entries, credit blocks, events.

use super::{FieldError, amount, required_enum, timestamp};
use crate::ledger::{CreditBlock, CreditKind, Entry, EntryKind, Event, EventKind, State};
use crate::money::Amount;
use crate::proto::v1;

/// What an entry records.
pub const fn entry_kind(kind: EntryKind) -> v1::EntryKind {
    match kind {
        EntryKind::Configuration => v1::EntryKind::Configuration,
        EntryKind::Recharge => v1::EntryKind::Recharge,
        EntryKind::Grant => v1::EntryKind::Grant,
        EntryKind::Adjustment => v1::EntryKind::Adjustment,
        EntryKind::LateCharge => v1::EntryKind::LateCharge,
        EntryKind::Usage => v1::EntryKind::Usage,
        EntryKind::Expiry => v1::EntryKind::Expiry,
        EntryKind::OverdueMarked => v1::EntryKind::OverdueMarked,
        EntryKind::OverdueCleared => v1::EntryKind::OverdueCleared,
        EntryKind::Reactivation => v1::EntryKind::Reactivation,
        EntryKind::RefundBegun => v1::EntryKind::RefundBegun,
        EntryKind::Refund => v1::EntryKind::Refund,
        EntryKind::RefundCancelled => v1::EntryKind::RefundCancelled,
        EntryKind::InvoicedAmount => v1::EntryKind::InvoicedAmount,
        EntryKind::PlanPurchase => v1::EntryKind::PlanPurchase,
        EntryKind::PlanAdded => v1::EntryKind::PlanAdded,
        EntryKind::PlanRemoved => v1::EntryKind::PlanRemoved,
        EntryKind::QpsPlanPurchase => v1::EntryKind::QpsPlanPurchase,
        EntryKind::Correction => v1::EntryKind::Correction,
        EntryKind::Void => v1::EntryKind::Void,
        EntryKind::InvoiceClosed => v1::EntryKind::InvoiceClosed,
        EntryKind::InvoiceSettled => v1::EntryKind::InvoiceSettled,
        EntryKind::Closed => v1::EntryKind::Closed,
    }
}

/// What happened.
pub const fn event_kind(kind: EventKind) -> v1::EventKind {
    match kind {
        EventKind::AccountOpened => v1::EventKind::AccountOpened,
        EventKind::AccountOverdue => v1::EventKind::AccountOverdue,
        EventKind::AccountResumed => v1::EventKind::AccountResumed,
        EventKind::BalanceLow => v1::EventKind::BalanceLow,
        EventKind::CreditAdded => v1::EventKind::CreditAdded,
        EventKind::CreditExpired => v1::EventKind::CreditExpired,
        EventKind::AccountSuspended => v1::EventKind::AccountSuspended,
        EventKind::ReactivationRequired => v1::EventKind::AccountReactivationRequired,
        EventKind::PurgeEligible => v1::EventKind::AccountPurgeEligible,
        EventKind::AccountClosed => v1::EventKind::AccountClosed,
        EventKind::CreditExpiring => v1::EventKind::CreditExpiring,
        EventKind::PlanExhausted => v1::EventKind::PlanExhausted,
        EventKind::PlanExpired => v1::EventKind::PlanExpired,
        EventKind::RechargeRequested => v1::EventKind::RechargeRequested,
        EventKind::RefundAccepted => v1::EventKind::RefundAccepted,
        EventKind::RefundCompleted => v1::EventKind::RefundCompleted,
        EventKind::RefundCancelled => v1::EventKind::RefundCancelled,
        EventKind::InvoiceClosed => v1::EventKind::InvoiceClosed,
    }
}

/// A kind of event as it is named everywhere but on the wire: `BALANCE_LOW` is `balance.low`.
pub fn event_kind_name(kind: v1::EventKind) -> String {
    let name = kind.as_str_name();
    let name = name.strip_prefix("EVENT_KIND_").unwrap_or(name);
    name.to_ascii_lowercase().replacen('_', ".", 1)
}

/// Every kind of event that there is, by name.
pub fn event_kind_names() -> impl Iterator<Item = String> {
    all_event_kinds().map(event_kind_name)
}

fn all_event_kinds() -> impl Iterator<Item = v1::EventKind> {
    // More numbers than there will be kinds: the generated code has no list of them.
    (1..100).filter_map(|number| v1::EventKind::try_from(number).ok())
}

/// Kinds of entries to filter by: known ones only, so that a misspelt filter is not an empty listing.
pub fn entry_kinds(field: &str, numbers: &[i32]) -> Result<Vec<v1::EntryKind>, FieldError> {
    let names = "ENTRY_KIND_CONFIGURATION, _RECHARGE, _GRANT, _ADJUSTMENT, _LATE_CHARGE, _USAGE, _EXPIRY, _OVERDUE_MARKED, \
                 _OVERDUE_CLEARED, _REACTIVATION, _REFUND_BEGUN, _REFUND, _REFUND_CANCELLED, _INVOICED_AMOUNT, _PLAN_PURCHASE, \
                 _PLAN_ADDED, _PLAN_REMOVED, _QPS_PLAN_PURCHASE, _CORRECTION, _VOID, _INVOICE_CLOSED, _INVOICE_SETTLED, _CLOSED";
    kinds(field, numbers, names)
}

/// Kinds of credit to filter by.
pub fn credit_kinds(field: &str, numbers: &[i32]) -> Result<Vec<v1::CreditKind>, FieldError> {
    kinds(field, numbers, "CREDIT_KIND_BONUS, _PAID, _PLAN")
}

/// States of accounts to filter by.
pub fn account_states(field: &str, numbers: &[i32]) -> Result<Vec<v1::AccountState>, FieldError> {
    let names = "ACCOUNT_STATE_ACTIVE, _OVERDUE, _REACTIVATION_REQUIRED, _SUSPENDED, _PURGE_ELIGIBLE, _FROZEN, _CLOSED";
    kinds(field, numbers, names)
}

/// The state of an account.
pub const fn state(state: State) -> v1::AccountState {
    match state {
        State::Active => v1::AccountState::Active,
        State::Overdue => v1::AccountState::Overdue,
        State::Suspended => v1::AccountState::Suspended,
        State::ReactivationRequired => v1::AccountState::ReactivationRequired,
        State::PurgeEligible => v1::AccountState::PurgeEligible,
        State::Frozen => v1::AccountState::Frozen,
        State::Closed => v1::AccountState::Closed,
    }
}

/// Kinds of events to filter by.
pub fn event_kinds(field: &str, numbers: &[i32]) -> Result<Vec<v1::EventKind>, FieldError> {
    let kinds = all_event_kinds().map(|kind| kind.as_str_name());
    let names = kinds.collect::<Vec<_>>().join(", ");
    self::kinds(field, numbers, &names)
}

fn kinds<T: TryFrom<i32>>(field: &str, numbers: &[i32], names: &str) -> Result<Vec<T>, FieldError> {
    let checked = |(index, number): (usize, &i32)| {
        required_enum(&format!("{field}[{index}]"), *number, names)
    };
    numbers.iter().enumerate().map(checked).collect()
}

/// One line of an account's ledger.
pub fn entry(entry: &Entry, account: &str, unit: &str) -> v1::Entry {
    let money = |value| Some(amount(value, unit));
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    v1::Entry {
        account_id: account.into(),
        sequence: entry.sequence,
        time: Some(timestamp(entry.time)),
        kind: entry_kind(entry.kind).into(),
        amount: money(entry.amount),
        balance: money(entry.balance),
        debt_paid: money(entry.debt_paid),
        debt_made: money(entry.debt_made),
        allocations: entry
            .allocations
            .iter()
            .map(|part| v1::Allocation {
                block_id: part.block,
                amount: money(part.amount),
                order_id: part.order().unwrap_or_default().into(),
            })
            .collect(),
        block_id: entry.block.unwrap_or_default(),
        request_id: text(&entry.idempotency_key),
        order_id: text(&entry.order_id),
        key_id: entry
            .key
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        model: entry
            .model
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        note: entry.note.clone(),
        priority: entry.priority,
        expire_time: entry.expires.map(timestamp),
        price: entry.price().map(|price| amount(price, unit)),
    }
}

/// A credit block, with what is left of it now and its place in the burn order.
pub fn block(block: &CreditBlock, remaining: Amount, rank: u32, unit: &str) -> v1::CreditBlock {
    let kind = match block.kind {
        CreditKind::Bonus => v1::CreditKind::Bonus,
        CreditKind::Paid => v1::CreditKind::Paid,
        CreditKind::Plan => v1::CreditKind::Plan,
    };
    v1::CreditBlock {
        block_id: block.id,
        kind: kind.into(),
        priority: block.priority,
        effective_time: Some(timestamp(block.effective)),
        expire_time: block.expires.map(timestamp),
        granted: Some(amount(block.granted, unit)),
        remaining: Some(amount(remaining, unit)),
        order_id: block.order_id.clone().unwrap_or_default(),
        burn_rank: rank,
        expired: block.expired,
    }
}

/// An event at its place in the feed.
pub fn event(sequence: u64, event: &Event, unit: &str) -> v1::Event {
    v1::Event {
        sequence,
        event_id: event.id.clone(),
        account_id: event.account.to_string(),
        time: Some(timestamp(event.time)),
        kind: event_kind(event.kind).into(),
        balance: Some(amount(event.balance, unit)),
        amount: Some(amount(event.amount, unit)),
        about: event.about.clone().unwrap_or_default(),
        idempotency_key: event.idempotency_key.clone().unwrap_or_default(),
        recipients: event.recipients.clone(),
    }
}
