//! Policies and overrides.

use std::time::Duration;

use super::{
    FieldError, amount, amount_from, amount_or_none, duration, duration_from, required_enum,
};
use crate::money::Amount;
use crate::policy::{
    BlockWhen, CREDIT_LIMIT_MAX, HoldRule, Overrides, Policy, StoreOutage, Unsettled,
};
use crate::proto::v1;

/// How much is set aside before a call.
pub fn rule(rule: HoldRule, unit: &str) -> v1::HoldRule {
    let (mode, of) = match rule {
        HoldRule::Max => (v1::HoldMode::Max, None),
        HoldRule::Capped(at) => (v1::HoldMode::Capped, Some(at)),
        HoldRule::Fixed(at) => (v1::HoldMode::Fixed, Some(at)),
        HoldRule::None => (v1::HoldMode::None, None),
    };
    v1::HoldRule {
        mode: mode.into(),
        amount: of.map(|of| amount(of, unit)),
    }
}

/// A hold rule as it was sent.
pub fn rule_from(field: &str, rule: &v1::HoldRule, unit: &str) -> Result<HoldRule, FieldError> {
    let names = "HOLD_MODE_MAX, HOLD_MODE_CAPPED, HOLD_MODE_FIXED, HOLD_MODE_NONE";
    let mode: v1::HoldMode = required_enum(&format!("{field}.mode"), rule.mode, names)?;
    let at = format!("{field}.amount");
    let needed = || {
        let amount = amount_from(&at, rule.amount.as_ref(), unit)?;
        if amount.is_negative() {
            let problem = format!("is {amount}; an amount held is zero or more");
            return Err(FieldError::invalid(at.as_str(), problem));
        }
        Ok(amount)
    };
    let without = |wanted| match rule.amount {
        None => Ok(wanted),
        Some(_) => Err(FieldError::invalid(
            at.as_str(),
            "goes with HOLD_MODE_CAPPED and HOLD_MODE_FIXED only; leave it out",
        )),
    };
    match mode {
        v1::HoldMode::Capped => needed().map(HoldRule::Capped),
        v1::HoldMode::Fixed => needed().map(HoldRule::Fixed),
        v1::HoldMode::None => without(HoldRule::None),
        v1::HoldMode::Max | v1::HoldMode::Unspecified => without(HoldRule::Max),
    }
}

/// What an account has otherwise.
pub fn overrides(overrides: &Overrides, unit: &str) -> v1::Overrides {
    v1::Overrides {
        credit_limit: overrides.credit_limit.map(|limit| amount(limit, unit)),
        hold: overrides.hold.map(|hold| rule(hold, unit)),
        qps: overrides.qps,
        burst: overrides.burst,
        concurrency: overrides.concurrency,
        low_balance: overrides.low_balance.map(|at| amount(at, unit)),
    }
}

/// Overrides as they were sent, checked field by field.
pub fn overrides_from(
    field: &str,
    overrides: &v1::Overrides,
    unit: &str,
) -> Result<Overrides, FieldError> {
    let at = |name: &str| format!("{field}.{name}");
    let hold = overrides.hold.as_ref();
    let overrides = Overrides {
        credit_limit: limit_from(&at("credit_limit"), overrides.credit_limit.as_ref(), unit)?,
        hold: hold
            .map(|hold| rule_from(&at("hold"), hold, unit))
            .transpose()?,
        qps: overrides.qps,
        burst: overrides.burst,
        concurrency: overrides.concurrency,
        low_balance: amount_or_none(&at("low_balance"), overrides.low_balance.as_ref(), unit)?,
        ..Overrides::default()
    };
    above_zero(&at("qps"), overrides.qps)?;
    above_zero(&at("burst"), overrides.burst)?;
    above_zero(&at("concurrency"), overrides.concurrency)?;
    Ok(overrides)
}

fn above_zero(field: &str, value: Option<u32>) -> Result<(), FieldError> {
    match value {
        Some(0) => Err(FieldError::invalid(
            field,
            "is 0; leave it out for no limit of its own, or give 1 or more",
        )),
        _ => Ok(()),
    }
}

fn limit_from(
    field: &str,
    limit: Option<&v1::Amount>,
    unit: &str,
) -> Result<Option<Amount>, FieldError> {
    match amount_or_none(field, limit, unit)? {
        Some(limit) if limit.is_negative() || limit > CREDIT_LIMIT_MAX => {
            let problem = format!("is {limit}; give 0 to {CREDIT_LIMIT_MAX}");
            Err(FieldError::invalid(field, problem))
        }
        limit => Ok(limit),
    }
}

/// A policy under its name. `unit` is that of the account it is shown for; empty if it is shown on its own.
pub fn policy(id: &str, policy: &Policy, unit: &str) -> v1::Policy {
    v1::Policy {
        policy_id: id.into(),
        block_when: match policy.block_when {
            BlockWhen::Negative => v1::BlockWhen::Negative,
            BlockWhen::ZeroOrLess => v1::BlockWhen::ZeroOrLess,
        }
        .into(),
        credit_limit: Some(amount(policy.credit_limit, unit)),
        hold: Some(rule(policy.hold, unit)),
        hold_ttl: Some(duration(policy.hold_time())),
        unsettled: match policy.unsettled {
            Unsettled::Release => v1::Unsettled::Release,
            Unsettled::Charge => v1::Unsettled::Charge,
        }
        .into(),
        qps: policy.qps,
        burst: policy.burst,
        concurrency: policy.concurrency,
        low_balance: policy.low_balance.map(|at| amount(at, unit)),
        store_outage: match policy.store_outage {
            StoreOutage::Refuse => v1::StoreOutage::Refuse,
            StoreOutage::Lease => v1::StoreOutage::Lease,
            StoreOutage::UpTo(_) => v1::StoreOutage::Unspecified,
        }
        .into(),
        origin: v1::Origin::Unspecified.into(),
        etag: String::new(),
    }
}

/// `base` with those fields of a policy set that `set` names; one that is absent goes back to its default.
pub fn policy_from(
    field: &str,
    sent: &v1::Policy,
    base: Policy,
    set: impl Fn(&str) -> bool,
) -> Result<Policy, FieldError> {
    let at = |name: &str| format!("{field}.{name}");
    let (mut policy, default) = (base, Policy::default());
    if set("block_when") {
        policy.block_when = match v1::BlockWhen::try_from(sent.block_when) {
            Ok(v1::BlockWhen::Unspecified) => default.block_when,
            Ok(v1::BlockWhen::Negative) => BlockWhen::Negative,
            Ok(v1::BlockWhen::ZeroOrLess) => BlockWhen::ZeroOrLess,
            Err(_) => return Err(unknown(&at("block_when"), sent.block_when)),
        };
    }
    if set("credit_limit") {
        let limit = limit_from(&at("credit_limit"), sent.credit_limit.as_ref(), "")?;
        policy.credit_limit = limit.unwrap_or(default.credit_limit);
    }
    if set("hold") {
        let hold = sent.hold.as_ref();
        let hold = hold
            .map(|hold| rule_from(&at("hold"), hold, ""))
            .transpose()?;
        policy.hold = hold.unwrap_or(default.hold);
    }
    if set("hold_ttl") {
        let length = duration_from(&at("hold_ttl"), sent.hold_ttl.as_ref())?;
        policy.hold_ms_max = length.map_or(Ok(default.hold_ms_max), |length| {
            whole_ms(&at("hold_ttl"), length)
        })?;
    }
    if set("unsettled") {
        policy.unsettled = match v1::Unsettled::try_from(sent.unsettled) {
            Ok(v1::Unsettled::Unspecified) => default.unsettled,
            Ok(v1::Unsettled::Release) => Unsettled::Release,
            Ok(v1::Unsettled::Charge) => Unsettled::Charge,
            Err(_) => return Err(unknown(&at("unsettled"), sent.unsettled)),
        };
    }
    for (name, value, slot) in [
        ("qps", sent.qps, &mut policy.qps),
        ("burst", sent.burst, &mut policy.burst),
        ("concurrency", sent.concurrency, &mut policy.concurrency),
    ] {
        if set(name) {
            above_zero(&at(name), value)?;
            *slot = value;
        }
    }
    if set("low_balance") {
        policy.low_balance = amount_or_none(&at("low_balance"), sent.low_balance.as_ref(), "")?;
    }
    if set("store_outage") {
        policy.store_outage = match v1::StoreOutage::try_from(sent.store_outage) {
            Ok(v1::StoreOutage::Unspecified) => default.store_outage,
            Ok(v1::StoreOutage::Refuse) => StoreOutage::Refuse,
            Ok(v1::StoreOutage::Lease) => StoreOutage::Lease,
            Err(_) => return Err(unknown(&at("store_outage"), sent.store_outage)),
        };
    }
    Ok(policy)
}

fn unknown(field: &str, number: i32) -> FieldError {
    FieldError::invalid(field, format!("is {number}, which has no meaning"))
}

fn whole_ms(field: &str, length: Duration) -> Result<u64, FieldError> {
    let ms = u64::try_from(length.as_millis()).ok();
    match ms.filter(|ms| Duration::from_millis(*ms) == length) {
        Some(ms) => Ok(ms),
        None => Err(FieldError::invalid(
            field,
            format!("is {length:?}; give whole milliseconds"),
        )),
    }
}
