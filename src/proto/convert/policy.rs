//! Policies and overrides. Both have the same fields: what is sent of either is read as overrides, in which each may be absent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    FieldError, amount, amount_from, amount_or_none, duration, duration_from, required_enum,
    timestamp, timestamp_from,
};
use crate::money::Amount;
use crate::policy::{
    AutoRecharge, BlockWhen, Budget, CREDIT_LIMIT_MAX, Deadline, End, Enforcement, HoldRule, Mode,
    Overrides, Period, PlanShortfall, Policy, Refunds, Resume, StoreOutage, Unsettled,
    WhileOverdue, budget_problems,
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

/// Both ways between an enum of ours and one of the wire, which has `Unspecified` besides: absent.
macro_rules! choices {
    ($($to:ident $from:ident: $ours:ident { $($case:ident)* };)*) => {$(
        const fn $to(ours: $ours) -> v1::$ours {
            match ours {
                $($ours::$case => v1::$ours::$case,)*
            }
        }

        fn $from(field: String, number: i32) -> Result<Option<$ours>, FieldError> {
            match v1::$ours::try_from(number) {
                Ok(v1::$ours::Unspecified) => Ok(None),
                $(Ok(v1::$ours::$case) => Ok(Some($ours::$case)),)*
                Err(_) => Err(unknown(field, number)),
            }
        }
    )*};
}

choices! {
    block_when block_when_from: BlockWhen { Negative ZeroOrLess };
    unsettled unsettled_from: Unsettled { Release Charge };
    resume resume_from: Resume { Auto Reactivate };
    while_overdue while_overdue_from: WhileOverdue { Unavailable Available };
    plan_shortfall plan_shortfall_from: PlanShortfall { Split Whole };
    refunds refunds_from: Refunds { PaidRemaining Never };
    enforcement enforcement_from: Enforcement { Enforce Shadow };
}

const fn mode(mode: Mode) -> v1::BillingMode {
    match mode {
        Mode::PrepaidOnly => v1::BillingMode::PrepaidOnly,
        Mode::CreditThenInvoice => v1::BillingMode::CreditThenInvoice,
    }
}

fn mode_from(field: String, number: i32) -> Result<Option<Mode>, FieldError> {
    match v1::BillingMode::try_from(number) {
        Ok(v1::BillingMode::Unspecified) => Ok(None),
        Ok(v1::BillingMode::PrepaidOnly) => Ok(Some(Mode::PrepaidOnly)),
        Ok(v1::BillingMode::CreditThenInvoice) => Ok(Some(Mode::CreditThenInvoice)),
        Err(_) => Err(unknown(field, number)),
    }
}

/// What to do while the store is away, and up to which amount.
fn store_outage(outage: StoreOutage, unit: &str) -> (v1::StoreOutage, Option<v1::Amount>) {
    match outage {
        StoreOutage::Refuse => (v1::StoreOutage::Refuse, None),
        StoreOutage::Lease => (v1::StoreOutage::Lease, None),
        StoreOutage::UpTo(limit) => (v1::StoreOutage::UpTo, Some(amount(limit, unit))),
    }
}

fn store_outage_from(
    at: impl Fn(&str) -> String,
    number: i32,
    limit: Option<&v1::Amount>,
    unit: &str,
) -> Result<Option<StoreOutage>, FieldError> {
    let field = at("store_outage_limit");
    let outage = match v1::StoreOutage::try_from(number) {
        Ok(v1::StoreOutage::Unspecified) => None,
        Ok(v1::StoreOutage::Refuse) => Some(StoreOutage::Refuse),
        Ok(v1::StoreOutage::Lease) => Some(StoreOutage::Lease),
        Ok(v1::StoreOutage::UpTo) => {
            let limit = limit_from(&field, limit, unit)?;
            let what = "with STORE_OUTAGE_UP_TO, an amount such as 5000000000 nanos";
            let limit = limit.ok_or_else(|| FieldError::missing(field, what))?;
            return Ok(Some(StoreOutage::UpTo(limit)));
        }
        Err(_) => return Err(unknown(at("store_outage"), number)),
    };
    if limit.is_some() {
        let problem =
            "goes with STORE_OUTAGE_UP_TO only; leave it out, or set store_outage to that";
        return Err(FieldError::invalid(field, problem));
    }
    Ok(outage)
}

fn deadline(deadline: Deadline) -> v1::Deadline {
    v1::Deadline {
        after: Some(duration(Duration::from_millis(deadline.ms))),
        inclusive: deadline.end == End::Included,
    }
}

fn deadline_from(
    field: String,
    sent: Option<&v1::Deadline>,
) -> Result<Option<Deadline>, FieldError> {
    let Some(sent) = sent else { return Ok(None) };
    let field = format!("{field}.after");
    let ms = ms_from(&field, sent.after.as_ref())?;
    let ms = ms.ok_or_else(|| FieldError::missing(field, "a length of time, as 86400 s"))?;
    let end = if sent.inclusive {
        End::Included
    } else {
        End::Excluded
    };
    Ok(Some(Deadline { ms, end }))
}

fn auto_recharge(auto: AutoRecharge, unit: &str) -> v1::AutoRecharge {
    v1::AutoRecharge {
        below: Some(amount(auto.below, unit)),
        amount: Some(amount(auto.amount, unit)),
        cool_down: Some(duration(Duration::from_millis(auto.cool_down_ms))),
        monthly_max: auto.monthly_max.map(|most| amount(most, unit)),
    }
}

fn auto_recharge_from(
    field: &str,
    sent: Option<&v1::AutoRecharge>,
    unit: &str,
) -> Result<Option<AutoRecharge>, FieldError> {
    let Some(sent) = sent else { return Ok(None) };
    let at = |name: &str| format!("{field}.{name}");
    let cool_down = ms_from(&at("cool_down"), sent.cool_down.as_ref())?;
    let needed = || FieldError::missing(at("cool_down"), "a length of time, as 3600 s");
    let asked = amount_from(&at("amount"), sent.amount.as_ref(), unit)?;
    if !asked.is_positive() {
        let problem = format!("is {asked}; give an amount above zero");
        return Err(FieldError::invalid(at("amount"), problem));
    }
    Ok(Some(AutoRecharge {
        below: amount_from(&at("below"), sent.below.as_ref(), unit)?,
        amount: asked,
        cool_down_ms: cool_down.ok_or_else(needed)?,
        monthly_max: amount_or_none(&at("monthly_max"), sent.monthly_max.as_ref(), unit)?,
    }))
}

fn by_tier(
    tiers: &BTreeMap<String, Amount>,
    unit: &str,
) -> std::collections::HashMap<String, v1::Amount> {
    let tier = |(tier, most): (&String, &Amount)| (tier.clone(), amount(*most, unit));
    tiers.iter().map(tier).collect()
}

/// What an account or a tenant has otherwise.
pub fn overrides(overrides: &Overrides, unit: &str) -> v1::Overrides {
    let money = |of: Option<Amount>| of.map(|of| amount(of, unit));
    let ms = |of: Option<u64>| of.map(|of| duration(Duration::from_millis(of)));
    let outage = overrides.store_outage.map(|of| store_outage(of, unit));
    let (store_outage, store_outage_limit) = outage.unwrap_or_default();
    macro_rules! number {
        ($field:ident, $to:path) => {
            overrides.$field.map($to).unwrap_or_default().into()
        };
    }
    let of = overrides;
    v1::Overrides {
        credit_limit: money(of.credit_limit),
        hold: of.hold.map(|hold| rule(hold, unit)),
        qps: of.qps,
        burst: of.burst,
        concurrency: of.concurrency,
        low_balance: money(of.low_balance),
        block_when: number!(block_when, block_when),
        hold_ttl: ms(of.hold_ms_max),
        unsettled: number!(unsettled, unsettled),
        store_outage: store_outage.into(),
        store_outage_limit,
        grace: of.grace.map(deadline),
        grace_limit: money(of.grace_limit),
        suspend_after: of.suspend_after.map(deadline),
        resume: number!(resume, resume),
        capabilities: of.capabilities.as_ref().map(|patterns| v1::Patterns {
            patterns: patterns.clone(),
        }),
        purge_after: ms(of.purge_after_ms),
        plans_while_overdue: number!(plans_while_overdue, while_overdue),
        qps_plans_while_overdue: number!(qps_plans_while_overdue, while_overdue),
        plan_shortfall: number!(plan_shortfall, plan_shortfall),
        gifts_pay_debt: of.gifts_pay_debt,
        purchase_min: money(of.purchase_min),
        purchase_max: money(of.purchase_max),
        purchase_max_by_tier: of.purchase_max_by_tier.as_ref().map(|tiers| {
            let amounts = by_tier(tiers, unit);
            v1::AmountsByTier { amounts }
        }),
        credit_expires_after: ms(of.credit_expires_after_ms),
        refunds: number!(refunds, refunds),
        alerts: of.alerts.as_ref().map(|alerts| v1::Amounts {
            amounts: alerts.iter().map(|at| amount(*at, unit)).collect(),
        }),
        credit_expiring_notice: ms(of.credit_expiring_ms),
        enforcement: number!(enforcement, enforcement),
        live_time: of.live_from.map(timestamp),
        mode: number!(mode, mode),
        invoice_limit: money(of.invoice_limit),
        auto_recharge: of.auto_recharge.map(|auto| auto_recharge(auto, unit)),
        budgets: of.budgets.as_ref().map(|of| v1::Budgets {
            budgets: budgets(of, unit),
        }),
    }
}

/// Overrides as they were sent, checked field by field. Whether they go together is checked where the policy below them is known:
/// [`problems`].
pub fn overrides_from(
    field: &str,
    sent: &v1::Overrides,
    unit: &str,
) -> Result<Overrides, FieldError> {
    let at = |name: &str| format!("{field}.{name}");
    let limit = |name: &str, of: Option<&v1::Amount>| limit_from(&at(name), of, unit);
    let money = |name: &str, of: Option<&v1::Amount>| amount_or_none(&at(name), of, unit);
    let ms = |name: &str, of: Option<&prost_types::Duration>| ms_from(&at(name), of);
    let above_zero = |name: &str, of: Option<u32>| above_zero(&at(name), of);
    let hold = sent.hold.as_ref();
    Ok(Overrides {
        block_when: block_when_from(at("block_when"), sent.block_when)?,
        credit_limit: limit("credit_limit", sent.credit_limit.as_ref())?,
        hold: hold
            .map(|hold| rule_from(&at("hold"), hold, unit))
            .transpose()?,
        hold_ms_max: ms("hold_ttl", sent.hold_ttl.as_ref())?,
        unsettled: unsettled_from(at("unsettled"), sent.unsettled)?,
        store_outage: store_outage_from(
            at,
            sent.store_outage,
            sent.store_outage_limit.as_ref(),
            unit,
        )?,
        resume: resume_from(at("resume"), sent.resume)?,
        capabilities: sent.capabilities.as_ref().map(|sent| sent.patterns.clone()),
        plans_while_overdue: while_overdue_from(
            at("plans_while_overdue"),
            sent.plans_while_overdue,
        )?,
        qps_plans_while_overdue: while_overdue_from(
            at("qps_plans_while_overdue"),
            sent.qps_plans_while_overdue,
        )?,
        plan_shortfall: plan_shortfall_from(at("plan_shortfall"), sent.plan_shortfall)?,
        gifts_pay_debt: sent.gifts_pay_debt,
        purchase_max_by_tier: tiers_from(
            &at("purchase_max_by_tier"),
            sent.purchase_max_by_tier.as_ref(),
            unit,
        )?,
        refunds: refunds_from(at("refunds"), sent.refunds)?,
        alerts: alerts_from(&at("alerts"), sent.alerts.as_ref(), unit)?,
        enforcement: enforcement_from(at("enforcement"), sent.enforcement)?,
        mode: mode_from(at("mode"), sent.mode)?,
        invoice_limit: limit("invoice_limit", sent.invoice_limit.as_ref())?,
        qps: above_zero("qps", sent.qps)?,
        burst: above_zero("burst", sent.burst)?,
        concurrency: above_zero("concurrency", sent.concurrency)?,
        low_balance: money("low_balance", sent.low_balance.as_ref())?,
        grace: deadline_from(at("grace"), sent.grace.as_ref())?,
        grace_limit: limit("grace_limit", sent.grace_limit.as_ref())?,
        suspend_after: deadline_from(at("suspend_after"), sent.suspend_after.as_ref())?,
        purge_after_ms: ms("purge_after", sent.purge_after.as_ref())?,
        purchase_min: positive(&at("purchase_min"), sent.purchase_min.as_ref(), unit)?,
        purchase_max: positive(&at("purchase_max"), sent.purchase_max.as_ref(), unit)?,
        credit_expires_after_ms: ms("credit_expires_after", sent.credit_expires_after.as_ref())?,
        credit_expiring_ms: ms(
            "credit_expiring_notice",
            sent.credit_expiring_notice.as_ref(),
        )?,
        budgets: match &sent.budgets {
            None => None,
            Some(sent) => Some(budgets_from(&at("budgets"), &sent.budgets, unit)?),
        },
        live_from: timestamp_from(&at("live_time"), sent.live_time.as_ref())?,
        auto_recharge: auto_recharge_from(&at("auto_recharge"), sent.auto_recharge.as_ref(), unit)?,
    })
}

/// What is wrong with a policy as a whole, such as a grace that outlasts the suspension.
pub fn problems(field: &str, policy: &Policy) -> Result<(), FieldError> {
    let problems = policy.problems();
    if problems.is_empty() {
        return Ok(());
    }
    Err(FieldError::invalid(field, problems.join("; ")))
}

fn tiers_from(
    field: &str,
    sent: Option<&v1::AmountsByTier>,
    unit: &str,
) -> Result<Option<BTreeMap<String, Amount>>, FieldError> {
    let Some(sent) = sent else { return Ok(None) };
    let tier = |(tier, most): (&String, &v1::Amount)| {
        let field = format!("{field}[{}]", super::shown(tier));
        let tier = super::label(&field, tier)?;
        let most = positive(&field, Some(most), unit)?.unwrap_or_default();
        Ok((tier, most))
    };
    sent.amounts
        .iter()
        .map(tier)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn alerts_from(
    field: &str,
    sent: Option<&v1::Amounts>,
    unit: &str,
) -> Result<Option<Vec<Amount>>, FieldError> {
    let Some(sent) = sent else { return Ok(None) };
    let alert = |(index, at): (usize, &v1::Amount)| {
        amount_from(&format!("{field}[{index}]"), Some(at), unit)
    };
    let alerts = sent.amounts.iter().enumerate().map(alert);
    alerts.collect::<Result<_, _>>().map(Some)
}

/// How much calls may cost in a time.
pub fn budgets(budgets: &[Budget], unit: &str) -> Vec<v1::Budget> {
    let budget = |budget: &Budget| v1::Budget {
        amount: Some(amount(budget.amount, unit)),
        period: match budget.period {
            Period::Hour => v1::BudgetPeriod::Hour,
            Period::Day => v1::BudgetPeriod::Day,
            Period::Month => v1::BudgetPeriod::Month,
            Period::Total => v1::BudgetPeriod::Total,
        }
        .into(),
        capability: budget.capability.clone().unwrap_or_default(),
    };
    budgets.iter().map(budget).collect()
}

/// Budgets as they were sent.
pub fn budgets_from(
    field: &str,
    sent: &[v1::Budget],
    unit: &str,
) -> Result<Vec<Budget>, FieldError> {
    let names = "BUDGET_PERIOD_HOUR, _DAY, _MONTH, _TOTAL";
    let budget = |(index, sent): (usize, &v1::Budget)| {
        let at = |name: &str| format!("{field}[{index}].{name}");
        let most = positive(&at("amount"), sent.amount.as_ref(), unit)?;
        let missing = || FieldError::missing(at("amount"), "an amount such as 5000000000 nanos");
        let period = match required_enum(&at("period"), sent.period, names)? {
            v1::BudgetPeriod::Hour => Period::Hour,
            v1::BudgetPeriod::Day => Period::Day,
            v1::BudgetPeriod::Month => Period::Month,
            v1::BudgetPeriod::Total | v1::BudgetPeriod::Unspecified => Period::Total,
        };
        Ok(Budget {
            amount: most.ok_or_else(missing)?,
            period,
            capability: Some(sent.capability.clone()).filter(|of| !of.is_empty()),
        })
    };
    let budgets = sent.iter().enumerate().map(budget);
    let budgets = budgets.collect::<Result<Vec<_>, _>>()?;
    match budget_problems(&budgets) {
        problems if problems.is_empty() => Ok(budgets),
        problems => Err(FieldError::invalid(field, problems.join("; "))),
    }
}

fn above_zero(field: &str, value: Option<u32>) -> Result<Option<u32>, FieldError> {
    match value {
        Some(0) => Err(FieldError::invalid(
            field,
            "is 0; leave it out for no limit of its own, or give 1 or more",
        )),
        value => Ok(value),
    }
}

fn positive(
    field: &str,
    sent: Option<&v1::Amount>,
    unit: &str,
) -> Result<Option<Amount>, FieldError> {
    match amount_or_none(field, sent, unit)? {
        Some(amount) if !amount.is_positive() => {
            let problem = format!("is {amount}; give an amount above zero, or leave it out");
            Err(FieldError::invalid(field, problem))
        }
        amount => Ok(amount),
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
    let money = |of: Amount| Some(amount(of, unit));
    let maybe = |of: Option<Amount>| of.map(|of| amount(of, unit));
    let ms = |of: u64| duration(Duration::from_millis(of));
    let (store_outage, store_outage_limit) = store_outage(policy.store_outage, unit);
    v1::Policy {
        policy_id: id.into(),
        block_when: block_when(policy.block_when).into(),
        credit_limit: money(policy.credit_limit),
        hold: Some(rule(policy.hold, unit)),
        hold_ttl: Some(duration(policy.hold_time())),
        unsettled: unsettled(policy.unsettled).into(),
        qps: policy.qps,
        burst: policy.burst,
        concurrency: policy.concurrency,
        low_balance: maybe(policy.low_balance),
        store_outage: store_outage.into(),
        store_outage_limit,
        origin: v1::Origin::Unspecified.into(),
        etag: String::new(),
        grace: policy.grace.map(deadline),
        grace_limit: maybe(policy.grace_limit),
        suspend_after: policy.suspend_after.map(deadline),
        resume: resume(policy.resume).into(),
        capabilities: policy.capabilities.clone(),
        purge_after: policy.purge_after_ms.map(ms),
        plans_while_overdue: while_overdue(policy.plans_while_overdue).into(),
        qps_plans_while_overdue: while_overdue(policy.qps_plans_while_overdue).into(),
        plan_shortfall: plan_shortfall(policy.plan_shortfall).into(),
        gifts_pay_debt: Some(policy.gifts_pay_debt),
        purchase_min: maybe(policy.purchase_min),
        purchase_max: maybe(policy.purchase_max),
        purchase_max_by_tier: by_tier(&policy.purchase_max_by_tier, unit),
        credit_expires_after: policy.credit_expires_after_ms.map(ms),
        refunds: refunds(policy.refunds).into(),
        alerts: policy.alerts.iter().map(|at| amount(*at, unit)).collect(),
        credit_expiring_notice: policy.credit_expiring_ms.map(ms),
        enforcement: enforcement(policy.enforcement).into(),
        live_time: policy.live_from.map(timestamp),
        mode: mode(policy.mode).into(),
        invoice_limit: money(policy.invoice_limit),
        auto_recharge: policy.auto_recharge.map(|auto| auto_recharge(auto, unit)),
        budgets: budgets(&policy.budgets, unit),
    }
}

/// What a policy that was sent says, as overrides: an empty list is absent.
pub fn rules(sent: &v1::Policy) -> v1::Overrides {
    let sent = sent.clone();
    let patterns = sent.capabilities;
    let (tiers, alerts) = (sent.purchase_max_by_tier, sent.alerts);
    let budgets = sent.budgets;
    v1::Overrides {
        credit_limit: sent.credit_limit,
        hold: sent.hold,
        qps: sent.qps,
        burst: sent.burst,
        concurrency: sent.concurrency,
        low_balance: sent.low_balance,
        block_when: sent.block_when,
        hold_ttl: sent.hold_ttl,
        unsettled: sent.unsettled,
        store_outage: sent.store_outage,
        store_outage_limit: sent.store_outage_limit,
        grace: sent.grace,
        grace_limit: sent.grace_limit,
        suspend_after: sent.suspend_after,
        resume: sent.resume,
        capabilities: (!patterns.is_empty()).then_some(v1::Patterns { patterns }),
        purge_after: sent.purge_after,
        plans_while_overdue: sent.plans_while_overdue,
        qps_plans_while_overdue: sent.qps_plans_while_overdue,
        plan_shortfall: sent.plan_shortfall,
        gifts_pay_debt: sent.gifts_pay_debt,
        purchase_min: sent.purchase_min,
        purchase_max: sent.purchase_max,
        purchase_max_by_tier: (!tiers.is_empty()).then_some(v1::AmountsByTier { amounts: tiers }),
        credit_expires_after: sent.credit_expires_after,
        refunds: sent.refunds,
        alerts: (!alerts.is_empty()).then_some(v1::Amounts { amounts: alerts }),
        credit_expiring_notice: sent.credit_expiring_notice,
        enforcement: sent.enforcement,
        live_time: sent.live_time,
        mode: sent.mode,
        invoice_limit: sent.invoice_limit,
        auto_recharge: sent.auto_recharge,
        budgets: (!budgets.is_empty()).then_some(v1::Budgets { budgets }),
    }
}

/// The fields of policies and overrides, by their names on the wire and in field masks, which are not all those of the values.
macro_rules! fields {
    (always: $($name:literal $field:ident)*; optional: $($option:literal $of:ident)*;) => {
        /// What an update of a policy may name.
        pub const RULES: &[&str] = &[$($name,)* $($option,)*];

        /// What an update of overrides may name.
        pub const OVERRIDES: &[&str] = &[$(concat!("overrides.", $name),)* $(concat!("overrides.", $option),)*];

        /// Whether a field was given.
        pub fn is_given(given: &Overrides, field: &str) -> bool {
            match field {
                $($name => given.$field.is_some(),)*
                $($option => given.$of.is_some(),)*
                _ => false,
            }
        }

        /// Sets a field of a policy: to what was given, or back to its default.
        pub fn set_rule(policy: &mut Policy, given: &Overrides, field: &str) {
            match field {
                $($name => {
                    let default = || Policy::default().$field;
                    policy.$field = given.$field.clone().unwrap_or_else(default);
                })*
                $($option => policy.$of.clone_from(&given.$of),)*
                _ => {}
            }
        }

        /// Sets a field of overrides: to what was given, or to nothing.
        pub fn set_override(overrides: &mut Overrides, given: &Overrides, field: &str) {
            match field {
                $($name => overrides.$field.clone_from(&given.$field),)*
                $($option => overrides.$of.clone_from(&given.$of),)*
                _ => {}
            }
        }
    };
}

fields! {
    always:
        "block_when" block_when
        "credit_limit" credit_limit
        "hold" hold
        "hold_ttl" hold_ms_max
        "unsettled" unsettled
        "store_outage" store_outage
        "resume" resume
        "capabilities" capabilities
        "plans_while_overdue" plans_while_overdue
        "qps_plans_while_overdue" qps_plans_while_overdue
        "plan_shortfall" plan_shortfall
        "gifts_pay_debt" gifts_pay_debt
        "purchase_max_by_tier" purchase_max_by_tier
        "refunds" refunds
        "alerts" alerts
        "budgets" budgets
        "enforcement" enforcement
        "mode" mode
        "invoice_limit" invoice_limit;
    optional:
        "qps" qps
        "burst" burst
        "concurrency" concurrency
        "low_balance" low_balance
        "grace" grace
        "grace_limit" grace_limit
        "suspend_after" suspend_after
        "purge_after" purge_after_ms
        "purchase_min" purchase_min
        "purchase_max" purchase_max
        "credit_expires_after" credit_expires_after_ms
        "credit_expiring_notice" credit_expiring_ms
        "live_time" live_from
        "auto_recharge" auto_recharge;
}

/// `base` with those fields of a policy set that `set` names; one that is absent goes back to its default.
pub fn policy_from(
    field: &str,
    sent: &v1::Policy,
    base: Policy,
    set: impl Fn(&str) -> bool,
) -> Result<Policy, FieldError> {
    let given = overrides_from(field, &rules(sent), "")?;
    let mut policy = base;
    for name in RULES.iter().filter(|name| set(name)) {
        set_rule(&mut policy, &given, name);
    }
    Ok(policy)
}

/// An origin to filter by; `None` is all of them.
pub fn origin_or_none(field: &str, number: i32) -> Result<Option<v1::Origin>, FieldError> {
    match v1::Origin::try_from(number) {
        Ok(v1::Origin::Unspecified) => Ok(None),
        Ok(origin) => Ok(Some(origin)),
        Err(_) => Err(unknown(field.into(), number)),
    }
}

fn unknown(field: String, number: i32) -> FieldError {
    FieldError::invalid(field, format!("is {number}, which has no meaning"))
}

fn ms_from(field: &str, length: Option<&prost_types::Duration>) -> Result<Option<u64>, FieldError> {
    let Some(length) = duration_from(field, length)? else {
        return Ok(None);
    };
    let ms = u64::try_from(length.as_millis()).ok();
    match ms.filter(|ms| Duration::from_millis(*ms) == length) {
        Some(ms) => Ok(Some(ms)),
        None => Err(FieldError::invalid(
            field,
            format!("is {length:?}; give whole milliseconds"),
        )),
    }
}
