//! Checked conversions between the wire and our own values. A value that is wrong is told with its field, what it is, and what
//! would work. No requests and no answers here: those are put together by [`crate::control`].

use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::{AccountId, KeyId, ModelName, NameError};
use crate::money::Amount;

use super::v1;

mod ledger;
mod policy;
mod price;
mod usage;

pub use ledger::{
    account_states, block, credit_kinds, entry, entry_kind, entry_kinds, event, event_kind,
    event_kind_name, event_kind_names, event_kinds, state,
};
pub use policy::{
    OVERRIDES, RULES, budgets, budgets_from, is_given, origin_or_none, overrides, overrides_from,
    policy, policy_from, problems, rule, rule_from, rules, set_override, set_rule,
};
pub use price::{price, price_from};
pub use usage::{
    certainty, counts, counts_from, meter, meter_from, tally, usage_dimensions, usage_row,
    usage_step,
};

/// The longest unit: longer than any currency code or token name.
const UNIT_BYTES_MAX: usize = 16;

/// The longest idempotency key or order id: a UUID and a prefix, several times over.
const TOKEN_BYTES_MAX: usize = 128;

/// The longest name of a plan: together with its account's it is a name.
const PLAN_BYTES_MAX: usize = 64;

/// The longest name that people see.
const LABEL_CHARS_MAX: usize = 200;

/// The longest note: the ledger keeps every one of them for ever.
const NOTE_CHARS_MAX: usize = 1_000;

/// How much of a wrong value is shown.
const SHOWN_CHARS_MAX: usize = 40;

/// A field whose value is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Its path in the request, as `account.overrides.qps`.
    pub field: String,
    /// What kind of wrong.
    pub kind: FieldErrorKind,
    /// What it is and what would work.
    pub problem: String,
}

/// What kind of wrong a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// It is required and absent.
    Missing,
    /// Its value is not one.
    Invalid,
    /// An amount in another unit than the one it must be in.
    Unit,
}

impl FieldError {
    /// A value that is not one.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            kind: FieldErrorKind::Invalid,
            problem: problem.into(),
        }
    }

    /// A required field that is absent.
    pub fn missing(field: impl Into<String>, what: &str) -> Self {
        Self {
            field: field.into(),
            kind: FieldErrorKind::Missing,
            problem: format!("required: {what}"),
        }
    }
}

/// The beginning of a value, for a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

/// An amount, with its unit.
pub fn amount(amount: Amount, unit: &str) -> v1::Amount {
    v1::Amount {
        unit: unit.into(),
        nanos: amount.nanos(),
    }
}

/// A required amount in `unit`, which it may name or leave out. An empty `unit` is a context that has none, such as a policy:
/// there it must be left out.
pub fn amount_from(
    field: &str,
    amount: Option<&v1::Amount>,
    unit: &str,
) -> Result<Amount, FieldError> {
    let amount =
        amount.ok_or_else(|| FieldError::missing(field, "an amount such as 5000000000 nanos"))?;
    if !amount.unit.is_empty() && amount.unit != unit {
        let given = shown(&amount.unit);
        let problem = if unit.is_empty() {
            format!("unit is `{given}`; leave it out, it is the unit of the account")
        } else {
            format!("unit is `{given}`; it must be `{unit}`, or left out")
        };
        return Err(FieldError {
            field: format!("{field}.unit"),
            kind: FieldErrorKind::Unit,
            problem,
        });
    }
    let range = Amount::MIN.nanos()..=Amount::MAX.nanos();
    if !range.contains(&amount.nanos) {
        let problem = format!("{} is beyond ±9223372036854775807", amount.nanos);
        return Err(FieldError::invalid(format!("{field}.nanos"), problem));
    }
    Ok(Amount::from_nanos(amount.nanos))
}

/// The same for an amount that may be absent.
pub fn amount_or_none(
    field: &str,
    amount: Option<&v1::Amount>,
    unit: &str,
) -> Result<Option<Amount>, FieldError> {
    amount
        .map(|amount| amount_from(field, Some(amount), unit))
        .transpose()
}

/// An instant.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let nanos = time.nanos();
    prost_types::Timestamp {
        seconds: nanos.div_euclid(NANOS),
        // Between 0 and 10^9: always an i32.
        nanos: i32::try_from(nanos.rem_euclid(NANOS)).unwrap_or_default(),
    }
}

/// An instant, if there is one.
pub fn timestamp_from(
    field: &str,
    time: Option<&prost_types::Timestamp>,
) -> Result<Option<Timestamp>, FieldError> {
    let Some(time) = time else { return Ok(None) };
    let whole = (0..NANOS).contains(&i64::from(time.nanos));
    let nanos = time.seconds.checked_mul(NANOS).filter(|_| whole);
    match nanos.and_then(|nanos| nanos.checked_add(time.nanos.into())) {
        Some(nanos) => Ok(Some(Timestamp::from_nanos(nanos))),
        None => Err(FieldError::invalid(
            field,
            format!(
                "{} s and {} ns is not an instant between the years 1678 and 2262",
                time.seconds, time.nanos
            ),
        )),
    }
}

/// A length of time; held at 290 years.
pub fn duration(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or_default(),
    }
}

/// A length of time above zero, if there is one.
pub fn duration_from(
    field: &str,
    length: Option<&prost_types::Duration>,
) -> Result<Option<Duration>, FieldError> {
    let Some(length) = length else {
        return Ok(None);
    };
    let parts = (u64::try_from(length.seconds), u32::try_from(length.nanos));
    match parts {
        (Ok(seconds), Ok(nanos)) if (seconds > 0 || nanos > 0) && i64::from(nanos) < NANOS => {
            Ok(Some(Duration::new(seconds, nanos)))
        }
        _ => Err(FieldError::invalid(
            field,
            format!(
                "{} s and {} ns is not a length of time above zero",
                length.seconds, length.nanos
            ),
        )),
    }
}

const NANOS: i64 = 1_000_000_000;

fn name_from<T>(
    field: &str,
    text: &str,
    what: &str,
    new: impl FnOnce(&str) -> Result<T, NameError>,
) -> Result<T, FieldError> {
    if text.is_empty() {
        return Err(FieldError::missing(field, what));
    }
    new(text).map_err(|error| FieldError::invalid(field, error.to_string()))
}

/// A required id of an account that people open; those of its plans and budgets are for reading alone.
pub fn account_id(field: &str, text: &str) -> Result<AccountId, FieldError> {
    let id = readable_account_id(field, text)?;
    let Some(owner) = id.owner() else {
        return Ok(id);
    };
    let given = shown(text);
    let problem = format!(
        "`{given}` is the account of a plan or budget of `{owner}`, which can only be read; name `{owner}`"
    );
    Err(FieldError::invalid(field, problem))
}

/// A required account id, also one of a plan or budget.
pub fn readable_account_id(field: &str, text: &str) -> Result<AccountId, FieldError> {
    name_from(field, text, "the account's id", AccountId::stored)
}

/// A required name of a plan: it becomes a part of an account's name.
pub fn plan_id(field: &str, text: &str) -> Result<String, FieldError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() {
        return Err(FieldError::missing(field, "the plan's name"));
    }
    if text.len() > PLAN_BYTES_MAX || !text.bytes().all(plain) {
        let problem = format!(
            "`{}` must be 1 to {PLAN_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -",
            shown(text)
        );
        return Err(FieldError::invalid(field, problem));
    }
    Ok(text.into())
}

/// A required tenant id, spelt as account ids are.
pub fn tenant_id(field: &str, text: &str) -> Result<String, FieldError> {
    named(field, text, "the tenant's name")
}

/// A required licence id, spelt as account ids are.
pub fn licence_id(field: &str, text: &str) -> Result<String, FieldError> {
    named(field, text, "the licence's id")
}

/// A required key id.
pub fn key_id(field: &str, text: &str) -> Result<KeyId, FieldError> {
    name_from(field, text, "the key's id", KeyId::new)
}

/// A required model.
pub fn model(field: &str, text: &str) -> Result<ModelName, FieldError> {
    name_from(field, text, "the model's name", ModelName::new)
}

/// A required policy id, spelt as account ids are.
pub fn policy_id(field: &str, text: &str) -> Result<String, FieldError> {
    named(field, text, "the policy's name")
}

fn named(field: &str, text: &str, what: &str) -> Result<String, FieldError> {
    if text.is_empty() {
        return Err(FieldError::missing(field, what));
    }
    let wrong = || {
        let given = shown(text);
        let problem =
            format!("`{given}` must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ / + -");
        FieldError::invalid(field, problem)
    };
    match AccountId::new(text) {
        Ok(name) => Ok(name.into()),
        Err(_) => Err(wrong()),
    }
}

/// A required unit.
pub fn unit(field: &str, text: &str) -> Result<String, FieldError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if text.is_empty() {
        return Err(FieldError::missing(field, "a unit such as `USD`"));
    }
    if text.len() > UNIT_BYTES_MAX || !text.bytes().all(plain) {
        let given = shown(text);
        let problem =
            format!("`{given}` must be 1 to {UNIT_BYTES_MAX} letters, digits, `_` or `-`");
        return Err(FieldError::invalid(field, problem));
    }
    Ok(text.into())
}

/// An idempotency key or an order id; `None` if it is empty.
pub fn token_or_none(field: &str, text: &str) -> Result<Option<String>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > TOKEN_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let given = shown(text);
        let problem = format!(
            "`{given}` must be 1 to {TOKEN_BYTES_MAX} printable ASCII characters without spaces, such as a UUID"
        );
        return Err(FieldError::invalid(field, problem));
    }
    Ok(Some(text.into()))
}

/// A required idempotency key or order id.
pub fn token(field: &str, text: &str) -> Result<String, FieldError> {
    token_or_none(field, text)?.ok_or_else(|| {
        FieldError::missing(field, "an id under which this counts once, such as a UUID")
    })
}

/// A name that people see; may be empty.
pub fn label(field: &str, text: &str) -> Result<String, FieldError> {
    free_text(field, text, LABEL_CHARS_MAX)
}

/// A note for the reader of the ledger; may be empty.
pub fn note(field: &str, text: &str) -> Result<String, FieldError> {
    free_text(field, text, NOTE_CHARS_MAX)
}

fn free_text(field: &str, text: &str, chars_max: usize) -> Result<String, FieldError> {
    let chars = text.chars().count();
    if chars > chars_max {
        let problem = format!("has {chars} characters; it may have {chars_max}");
        return Err(FieldError::invalid(field, problem));
    }
    // A control character would break the lines of a listing.
    if text.chars().any(char::is_control) {
        return Err(FieldError::invalid(
            field,
            "has a control character; leave out line breaks and the like",
        ));
    }
    Ok(text.into())
}

/// The number of an enum as one of its names; `unspecified` (0) is an error too.
fn required_enum<T: TryFrom<i32>>(field: &str, number: i32, names: &str) -> Result<T, FieldError> {
    let value = T::try_from(number).ok().filter(|_| number != 0);
    value.ok_or_else(|| {
        FieldError::invalid(field, format!("is {number}; it must be one of {names}"))
    })
}

#[cfg(test)]
mod tests;
