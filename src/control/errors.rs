//! What the control API answers instead of a result: one closed list, and one match that gives each its status, its stable
//! reason and its details. No other file makes a [`Status`].

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::id::{AccountId, KeyId, ReplicaId};
use crate::ledger::Rejected;
use crate::money::Amount;
use crate::proto::convert::{FieldError, FieldErrorKind, shown};
use crate::refusal::{Reason, Refusal};

mod from;

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "tollgate.dev";

/// When to try a store again that is away: a few sync intervals.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// When to try again what others were faster at.
const CONTENDED_RETRY: Duration = Duration::from_millis(100);

/// When to follow again where too many follow.
const FOLLOWERS_RETRY: Duration = Duration::from_secs(10);

/// When to ask for a hold again where too many are open: about as long as a call takes.
const HOLDS_RETRY: Duration = Duration::from_secs(1);

/// How much text a status may carry: details travel in a header, and clients take 8 KiB of those.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// Why a request is not carried out. Nothing was changed, except as [`crate::store::StoreError::Unavailable`] says.
#[derive(Debug)]
pub(super) enum Fault {
    /// A field is wrong.
    Field(FieldError),
    /// A page token that this API did not give out.
    PageToken,
    /// A page token of a request with other filters.
    PageFilter,
    /// No such thing.
    NotFound(Thing, String),
    /// No such webhook endpoint in the configuration.
    NoEndpoint {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// An account names a policy that there is none of.
    NoPolicy {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// An account names a tenant that there is none of.
    NoTenant {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The account exists.
    AccountExists(AccountId),
    /// The account was purged.
    Purged(AccountId),
    /// The key exists.
    KeyExists(KeyId),
    /// The secret belongs to another key.
    SecretInUse,
    /// The idempotency key stands for another request.
    RequestIdReused(String),
    /// The order was counted, under another idempotency key.
    OrderReused(String),
    /// Somebody else wrote since.
    Etag {
        /// What the request says.
        given: String,
        /// What stands.
        current: String,
    },
    /// Too many write at once.
    Contended(String),
    /// The ledger's rules say no.
    Rejected(Box<Rejected>),
    /// The account is neither closed nor suspended for long enough to be purged.
    NotPurgeable(AccountId, &'static str),
    /// The account cannot be purged while calls of it are in flight.
    HeldHere(Amount),
    /// The tenant stands in the configuration, which only its operator changes.
    TenantConfigured(String),
    /// No licences are signed here.
    NoSigner,
    /// The licence was issued before.
    LicenceExists(String),
    /// A model that costs nobody knows what.
    NotPriced(String),
    /// There are as many prices or policies as there may be.
    CatalogLimit(String),
    /// The price stands in the configuration, which only its operator changes.
    PriceConfigured(String),
    /// The policy stands in the configuration, which only its operator changes.
    PolicyConfigured(String),
    /// The key is revoked, which is for good.
    KeyRevoked(KeyId),
    /// The request id stands for a hold of another key.
    HoldIdReused,
    /// As many holds are open as a replica keeps.
    HoldsLimit(usize),
    /// The hold lives on another replica; in words.
    HoldElsewhere(ReplicaId, String),
    /// The hold was released.
    HoldReleased(String),
    /// The hold was settled.
    HoldSettled(Amount),
    /// The cost is beyond the range of an amount.
    CostOverflow,
    /// A call that is refused.
    Refused(Refusal),
    /// No token, or not as one is sent.
    NoToken,
    /// Another token.
    WrongToken,
    /// Too many followers.
    Followers,
    /// The store is away.
    Unavailable(String),
    /// The store may have lost history and takes no changes for a while.
    Fenced(String, Duration),
    /// The store holds what cannot be read.
    Corrupt(String),
    /// The operating system gives no randomness.
    NoRandomness,
}

/// What can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    /// An account.
    Account,
    /// A key.
    Key,
    /// A policy.
    Policy,
    /// A price.
    Price,
    /// A hold.
    Hold,
    /// A webhook endpoint.
    Endpoint,
    /// An event that was given up.
    DeadLetter,
    /// A tenant.
    Tenant,
    /// A licence.
    Licence,
}

impl Thing {
    const fn reason(self) -> &'static str {
        match self {
            Self::Account => "ACCOUNT_NOT_FOUND",
            Self::Key => "KEY_NOT_FOUND",
            Self::Policy => "POLICY_NOT_FOUND",
            Self::Price => "PRICE_NOT_FOUND",
            Self::Hold => "HOLD_NOT_FOUND",
            Self::Endpoint => "ENDPOINT_NOT_FOUND",
            Self::DeadLetter => "DEAD_LETTER_NOT_FOUND",
            Self::Tenant => "TENANT_NOT_FOUND",
            Self::Licence => "LICENCE_NOT_FOUND",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Key => "key",
            Self::Policy => "policy",
            Self::Price => "price",
            Self::Hold => "hold",
            Self::Endpoint => "webhook endpoint",
            Self::DeadLetter => "dead letter of event",
            Self::Tenant => "tenant",
            Self::Licence => "licence",
        }
    }
}

/// What a status is made of.
struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    retry: Option<Duration>,
    metadata: Option<(&'static str, String)>,
}

impl Fault {
    /// The one place where a fault gets its status, its reason and its words.
    fn parts(&self) -> Parts {
        let parts = |code, reason, message: String| Parts {
            code,
            reason,
            message,
            retry: None,
            metadata: None,
        };
        match self {
            Self::Field(error) => {
                let reason = match error.kind {
                    FieldErrorKind::Missing => "FIELD_REQUIRED",
                    FieldErrorKind::Invalid => "FIELD_INVALID",
                    FieldErrorKind::Unit => "UNIT_MISMATCH",
                };
                parts(Code::InvalidArgument, reason, error.to_string())
            }
            Self::PageToken => parts(
                Code::InvalidArgument,
                "PAGE_TOKEN_INVALID",
                "page_token is not one that this method gave out; leave it empty for the first page".into(),
            ),
            Self::PageFilter => parts(
                Code::InvalidArgument,
                "PAGE_TOKEN_MISMATCH",
                "page_token belongs to a request with other fields; repeat those of the first page, or start again \
                 without it"
                    .into(),
            ),
            Self::NotFound(thing, id) => parts(
                Code::NotFound,
                thing.reason(),
                format!("there is no {} `{}`", thing.name(), shown(id)),
            )
            .about(thing.name(), id),
            Self::NoPolicy { name, known } => parts(
                Code::NotFound,
                Thing::Policy.reason(),
                format!("there is no policy `{name}`; the known ones are: {known}"),
            )
            .about("policy", name),
            Self::NoTenant { name, known } => parts(
                Code::NotFound,
                Thing::Tenant.reason(),
                format!("there is no tenant `{name}`; the known ones are: {known}"),
            )
            .about("tenant", name),
            Self::NoEndpoint { name, known } => parts(
                Code::NotFound,
                Thing::Endpoint.reason(),
                format!("there is no webhook endpoint `{}`; the known ones are: {known}", shown(name)),
            )
            .about("endpoint", name),
            Self::AccountExists(id) => parts(
                Code::AlreadyExists,
                "ACCOUNT_EXISTS",
                format!("account `{id}` exists already"),
            )
            .about("account", id.as_str()),
            Self::Purged(id) => parts(
                Code::FailedPrecondition,
                "ACCOUNT_PURGED",
                format!("account `{id}` was purged; its id is never used again, choose another"),
            )
            .about("account", id.as_str()),
            Self::KeyExists(id) => parts(
                Code::AlreadyExists,
                "KEY_EXISTS",
                format!("key `{id}` exists already; a key's id is never used again"),
            )
            .about("key", id.as_str()),
            Self::SecretInUse => parts(
                Code::AlreadyExists,
                "SECRET_IN_USE",
                "the secret belongs to another key; choose another, or leave it out".into(),
            ),
            Self::RequestIdReused(id) => parts(
                Code::AlreadyExists,
                "IDEMPOTENCY_KEY_REUSED",
                format!("request_id `{id}` was used for another request; give this one an id of its own"),
            )
            .about("request_id", id),
            Self::OrderReused(id) => parts(
                Code::AlreadyExists,
                "ORDER_REUSED",
                format!("order `{id}` was counted already, under another request_id"),
            )
            .about("order_id", id),
            Self::Etag { given, current } => parts(
                Code::Aborted,
                "ETAG_MISMATCH",
                format!("the etag is not `{}` any more; read again and repeat the change", shown(given)),
            )
            .about("etag", current),
            Self::Contended(what) => parts(
                Code::Aborted,
                "CONTENDED",
                format!("{what} is being changed by too many at once; try again"),
            )
            .after(Some(CONTENDED_RETRY)),
            Self::Rejected(rejected) => rejection(rejected),
            Self::NotPurgeable(id, state) => parts(
                Code::FailedPrecondition,
                "NOT_PURGEABLE",
                format!("account `{id}` is {state}; only one that is CLOSED or PURGE_ELIGIBLE is purged: close it first"),
            )
            .about("state", *state),
            Self::HeldHere(held) => parts(
                Code::FailedPrecondition,
                "CALLS_IN_FLIGHT",
                format!("{held} is still held for calls in flight; repeat the request once they have ended"),
            )
            .after(Some(HOLDS_RETRY)),
            Self::TenantConfigured(id) => parts(
                Code::FailedPrecondition,
                "TENANT_CONFIGURED",
                format!("tenant `{id}` stands in the configuration; set another over it, or change the configuration"),
            )
            .about("tenant", id),
            Self::NoSigner => parts(
                Code::FailedPrecondition,
                "LICENCES_NOT_CONFIGURED",
                "this replica signs no licences; set licences.signing in its configuration, or ask one that has it".into(),
            ),
            Self::LicenceExists(id) => parts(
                Code::AlreadyExists,
                "LICENCE_EXISTS",
                format!("licence `{id}` exists already; a licence's id is never used again"),
            )
            .about("licence", id),
            Self::NotPriced(model) => parts(
                Code::FailedPrecondition,
                Reason::ModelNotPriced.name(),
                format!("model `{}` was never used and has no price in the account's unit; set one with PriceService", shown(model)),
            )
            .about("model", model),
            Self::CostOverflow => parts(
                Code::OutOfRange,
                "AMOUNT_OUT_OF_RANGE",
                "the cost is beyond the range of ±9223372036.854775807; the hold is as it was".into(),
            ),
            Self::CatalogLimit(message) => {
                parts(Code::ResourceExhausted, "CATALOG_LIMIT", message.clone())
            }
            Self::PriceConfigured(pattern) => parts(
                Code::FailedPrecondition,
                "PRICE_CONFIGURED",
                format!("the price of `{pattern}` stands in the configuration; set another over it, or change the configuration"),
            )
            .about("pattern", pattern),
            Self::PolicyConfigured(id) => parts(
                Code::FailedPrecondition,
                "POLICY_CONFIGURED",
                format!("policy `{id}` stands in the configuration; set another over it, or change the configuration"),
            )
            .about("policy", id),
            Self::KeyRevoked(id) => parts(
                Code::FailedPrecondition,
                Reason::KeyRevoked.name(),
                format!("key `{id}` is revoked, which is for good; make another"),
            )
            .about("key", id.as_str()),
            Self::HoldSettled(amount) => parts(
                Code::FailedPrecondition,
                "HOLD_SETTLED",
                format!("the hold was settled to {amount}; CreditService.Adjust corrects a charge"),
            )
            .about("charged", amount.to_string()),
            Self::HoldElsewhere(replica, words) => parts(
                Code::FailedPrecondition,
                "HOLD_ELSEWHERE",
                words.clone(),
            )
            .about("replica", replica.as_str()),
            Self::HoldReleased(id) => parts(
                Code::FailedPrecondition,
                "HOLD_RELEASED",
                format!("hold `{}` was released; CreditService.LateCharge charges what its call cost", shown(id)),
            ),
            Self::HoldIdReused => parts(
                Code::AlreadyExists,
                "IDEMPOTENCY_KEY_REUSED",
                "request_id was used for a hold of another key; give this one an id of its own".into(),
            ),
            Self::HoldsLimit(most) => parts(
                Code::ResourceExhausted,
                "HOLDS_LIMIT",
                format!("{most} holds are open on this replica, which is the most"),
            )
            .after(Some(HOLDS_RETRY)),
            Self::Refused(refusal) => refused(*refusal),
            Self::NoToken => parts(
                Code::Unauthenticated,
                "TOKEN_REQUIRED",
                "send the control token as `authorization: Bearer TOKEN`".into(),
            ),
            Self::WrongToken => parts(
                Code::Unauthenticated,
                "TOKEN_WRONG",
                "the bearer token is not the control token".into(),
            ),
            Self::Followers => parts(
                Code::ResourceExhausted,
                "FOLLOWERS_LIMIT",
                format!("{} streams are open, which is the most", super::FOLLOWERS_MAX),
            )
            .after(Some(FOLLOWERS_RETRY)),
            Self::Unavailable(message) => parts(
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                format!("{message}; a request that moves money may be repeated under the same request_id"),
            )
            .after(Some(STORE_RETRY)),
            Self::Fenced(message, wait) => parts(
                Code::Unavailable,
                "STORE_RECOVERING",
                format!("{message}; nothing was carried out, repeat the request then"),
            )
            .after(Some(*wait)),
            Self::Corrupt(message) => parts(Code::DataLoss, "STORE_CORRUPT", message.clone()),
            Self::NoRandomness => parts(
                Code::Internal,
                "NO_RANDOMNESS",
                "the operating system gives no randomness to make a secret of".into(),
            ),
        }
    }
}

impl Parts {
    fn about(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.metadata = Some((name, shown(&value.into())));
        self
    }

    fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry = wait;
        self
    }
}

/// What the ledger rejects. Its own words say what is wrong and what would work.
fn rejection(rejected: &Rejected) -> Parts {
    use Rejected as R;
    let (code, reason) = match rejected {
        R::NotPositive(_)
        | R::Negative(..)
        | R::NoAmount
        | R::Expired(_)
        | R::UnknownCapability { .. }
        | R::PlanUnit { .. }
        | R::Zero(_)
        | R::NoTime { .. } => (Code::InvalidArgument, "FIELD_INVALID"),
        R::NoNote | R::Missing(_) => (Code::InvalidArgument, "FIELD_REQUIRED"),
        R::OutOfRange => (Code::OutOfRange, "AMOUNT_OUT_OF_RANGE"),
        R::BelowMinimum { .. } | R::AboveMaximum { .. } => (Code::OutOfRange, rejected.reason()),
        R::TooManyBlocks => (Code::ResourceExhausted, "CREDIT_BLOCKS_LIMIT"),
        R::TooMany { .. } => (Code::ResourceExhausted, rejected.reason()),
        R::UnknownOrder(_)
        | R::UnknownRefund { .. }
        | R::UnknownPlan(_)
        | R::UnknownEntry(_)
        | R::UnknownInvoice(_) => (Code::NotFound, rejected.reason()),
        R::InvoiceExists(_) => (Code::AlreadyExists, rejected.reason()),
        R::Frozen(_)
        | R::Closed(_)
        | R::InDebt(_)
        | R::DeclaredOverdue(_)
        | R::NotDeclaredOverdue
        | R::NothingToReactivate(_)
        | R::NotRefundable
        | R::PlanNotRefundable(_)
        | R::NothingToRefund
        | R::CallsInFlight(_)
        | R::NotCorrectable { .. }
        | R::CorrectedBeyond { .. }
        | R::CorrectionTooOld { .. }
        | R::NotInvoiced
        | R::InvoicePaid(_)
        | R::ArrearsOpen { .. } => (Code::FailedPrecondition, rejected.reason()),
    };
    Parts {
        code,
        reason,
        message: rejected.to_string(),
        retry: matches!(rejected, R::CallsInFlight(_)).then_some(HOLDS_RETRY),
        metadata: None,
    }
}

/// A field of a ledger's command as requests call it.
fn wire_field(field: &'static str) -> &'static str {
    match field {
        "orders" => "order_ids",
        "name" => "plan_id",
        "plan.unit" => "amount.unit",
        "scope" => "models",
        field => field,
    }
}

/// A refusal of a hold. The one who asked is trusted; whom it asked for is not, so a bad key is no `UNAUTHENTICATED` here.
fn refused(refusal: Refusal) -> Parts {
    let (code, message) = match refusal.reason {
        Reason::InsufficientBalance => (
            Code::ResourceExhausted,
            "less is left than the call is expected to cost",
        ),
        Reason::QpsExceeded => (
            Code::ResourceExhausted,
            "more calls per second than the account may make",
        ),
        Reason::ConcurrencyExceeded => (
            Code::ResourceExhausted,
            "more calls at once than the account may make",
        ),
        Reason::KeyLimitExceeded => (Code::ResourceExhausted, "the key's own limit is reached"),
        Reason::AccountOverdue => (
            Code::FailedPrecondition,
            "the account is overdue; a recharge pays the debt first",
        ),
        Reason::AccountSuspended => (Code::FailedPrecondition, "the account is suspended"),
        Reason::ReactivationRequired => (
            Code::FailedPrecondition,
            "the capability must be reactivated",
        ),
        Reason::RefundInProgress => (Code::FailedPrecondition, "a refund is in progress"),
        Reason::AccountClosed => (Code::FailedPrecondition, "the account is closed"),
        Reason::ModelNotPriced => (
            Code::FailedPrecondition,
            "no price is known for the model in the account's unit",
        ),
        Reason::KeyUnknown => (Code::PermissionDenied, "there is no such key"),
        Reason::KeyRevoked => (Code::PermissionDenied, "the key is revoked"),
        Reason::KeyExpired => (Code::PermissionDenied, "the key has expired"),
        Reason::ModelNotAllowed => (Code::PermissionDenied, "the key may not use this model"),
        Reason::StateUnavailable => (
            Code::Unavailable,
            "the account's state could not be had in time, or is too old to go on",
        ),
    };
    let unavailable = (refusal.reason == Reason::StateUnavailable).then_some(STORE_RETRY);
    Parts {
        code,
        reason: refusal.reason.name(),
        message: message.into(),
        retry: refusal.retry_after.or(unavailable),
        metadata: None,
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let Parts {
            code,
            reason,
            message,
            retry,
            metadata,
        } = fault.parts();
        let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value));
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, HashMap::from_iter(metadata));
        if let Fault::Field(error) = &fault {
            let problem: String = error.problem.chars().take(MESSAGE_CHARS_MAX).collect();
            details.add_bad_request_violation(error.field.clone(), problem);
        }
        if let Fault::Rejected(rejected) = &fault
            && let Some(field) = rejected.field()
        {
            details.add_bad_request_violation(wire_field(field), message.clone());
        }
        if matches!(fault, Fault::PageToken | Fault::PageFilter) {
            details.add_bad_request_violation("page_token", message.clone());
        }
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        Self::with_error_details(code, message, details)
    }
}

/// The answer of a method.
pub(super) fn answer<T>(result: Result<T, Fault>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

/// An error with what it stems from: TLS errors hide the reason below themselves.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
