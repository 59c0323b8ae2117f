//! Why a call is refused: a closed list (RULES.md, "Refusals"). Each edge turns it into its own words in one place.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The stable reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// Less is left than the call is expected to cost.
    InsufficientBalance,
    /// More calls per second than allowed.
    QpsExceeded,
    /// More calls at once than allowed.
    ConcurrencyExceeded,
    /// The balance is below zero, or the backend said so.
    AccountOverdue,
    /// Overdue for too long.
    AccountSuspended,
    /// Paid again, but the capability was not reactivated yet.
    ReactivationRequired,
    /// A refund was accepted: no calls until it is completed or cancelled.
    RefundInProgress,
    /// Closed for good.
    AccountClosed,
    /// No such key, or none given.
    KeyUnknown,
    /// The key was deleted.
    KeyRevoked,
    /// The key's time is over.
    KeyExpired,
    /// The key's own limit is reached.
    KeyLimitExceeded,
    /// The key may not use this model.
    ModelNotAllowed,
    /// No price is known for this model.
    ModelNotPriced,
    /// The account's state could not be had in time, or is too old to go on.
    StateUnavailable,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = 15;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::InsufficientBalance,
        Self::QpsExceeded,
        Self::ConcurrencyExceeded,
        Self::AccountOverdue,
        Self::AccountSuspended,
        Self::ReactivationRequired,
        Self::RefundInProgress,
        Self::AccountClosed,
        Self::KeyUnknown,
        Self::KeyRevoked,
        Self::KeyExpired,
        Self::KeyLimitExceeded,
        Self::ModelNotAllowed,
        Self::ModelNotPriced,
        Self::StateUnavailable,
    ];

    /// The stable name, as in RULES.md.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InsufficientBalance => "INSUFFICIENT_BALANCE",
            Self::QpsExceeded => "QPS_EXCEEDED",
            Self::ConcurrencyExceeded => "CONCURRENCY_EXCEEDED",
            Self::AccountOverdue => "ACCOUNT_OVERDUE",
            Self::AccountSuspended => "ACCOUNT_SUSPENDED",
            Self::ReactivationRequired => "REACTIVATION_REQUIRED",
            Self::RefundInProgress => "REFUND_IN_PROGRESS",
            Self::AccountClosed => "ACCOUNT_CLOSED",
            Self::KeyUnknown => "KEY_UNKNOWN",
            Self::KeyRevoked => "KEY_REVOKED",
            Self::KeyExpired => "KEY_EXPIRED",
            Self::KeyLimitExceeded => "KEY_LIMIT_EXCEEDED",
            Self::ModelNotAllowed => "MODEL_NOT_ALLOWED",
            Self::ModelNotPriced => "MODEL_NOT_PRICED",
            Self::StateUnavailable => "STATE_UNAVAILABLE",
        }
    }

    /// Its place among [`Reason::ALL`], for tables of counters.
    #[expect(clippy::as_conversions, reason = "a fieldless enum's discriminant")]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A refused call: an answer, not an error. Nothing is held and nothing was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// How long to wait before the same call may pass; `None` where waiting does not help.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that waiting does not mend.
    pub const fn new(reason: Reason) -> Self {
        Self {
            reason,
            retry_after: None,
        }
    }

    /// A refusal that is over after a while.
    pub const fn after(reason: Reason, wait: Duration) -> Self {
        Self {
            reason,
            retry_after: Some(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index_under_its_wire_name() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.name()));
        }
    }
}
