//! The rules that accounts, tenants and policies have: as options, on the wire, and shown.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;

use super::out::{Cell, Record};
use super::values::{
    amount, amount_cell, duration, duration_cell, instant, instant_cell, optional_number, pair,
    unword, wire_duration, word,
};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::proto::v1;

/// What may be set for one account or tenant, or for all of a policy.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rules")]
pub(super) struct Limits {
    /// How far below zero holds may take the balance
    #[arg(long, value_name = "AMOUNT")]
    credit_limit: Option<Amount>,
    /// What is held before a call: max, none, capped:AMOUNT or fixed:AMOUNT
    #[arg(long, value_name = "RULE", value_parser = hold_rule)]
    hold: Option<v1::HoldRule>,
    /// Calls per second over all replicas
    #[arg(long, value_name = "N")]
    qps: Option<u32>,
    /// How many calls may come at once on top of the rate
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Calls in flight at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Send an event when the balance falls below this
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true)]
    low_balance: Option<Amount>,
    /// Further thresholds of that event; may be given several times, and replaces all
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true)]
    alert: Vec<Amount>,
    /// When calls stop: negative or zero_or_less
    #[arg(long, value_name = "WHEN", value_parser = block_when)]
    block_when: Option<v1::BlockWhen>,
    /// How long a hold taken through the API lives, as 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    hold_ttl: Option<Duration>,
    /// What becomes of a hold that nobody settles: release or charge
    #[arg(long, value_name = "WHAT", value_parser = unsettled)]
    unsettled: Option<v1::Unsettled>,
    /// What to do while the store is away: refuse, lease or up_to:AMOUNT
    #[arg(long, value_name = "WHAT", value_parser = store_outage)]
    store_outage: Option<Outage>,
    /// For how long calls go on once overdue, as 24h, or 24h:inclusive if exactly 24 hours are within it
    #[arg(long, value_name = "DEADLINE", value_parser = deadline)]
    grace: Option<v1::Deadline>,
    /// How far below zero holds may take the balance meanwhile
    #[arg(long, value_name = "AMOUNT")]
    grace_limit: Option<Amount>,
    /// How long after it became overdue an account is suspended, as 24h or 24h:inclusive
    #[arg(long, value_name = "DEADLINE", value_parser = deadline)]
    suspend_after: Option<v1::Deadline>,
    /// What follows when the debt of a suspended account is paid: auto or reactivate
    #[arg(long, value_name = "WHAT", value_parser = resume)]
    resume: Option<v1::Resume>,
    /// What is reactivated one by one: a model, or a beginning with * at its end; may be given several times, and replaces all
    #[arg(long, value_name = "PATTERN")]
    capability: Vec<String>,
    /// How long after its suspension an account may be purged, as 180d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    purge_after: Option<Duration>,
    /// Whether plans pay while overdue: unavailable or available
    #[arg(long, value_name = "WHAT", value_parser = while_overdue)]
    plans_while_overdue: Option<v1::WhileOverdue>,
    /// Whether QPS plans count while overdue: unavailable or available
    #[arg(long, value_name = "WHAT", value_parser = while_overdue)]
    qps_plans_while_overdue: Option<v1::WhileOverdue>,
    /// What is paid from money if a plan covers a part of a call: split or whole
    #[arg(long, value_name = "WHAT", value_parser = plan_shortfall)]
    plan_shortfall: Option<v1::PlanShortfall>,
    /// Whether credit that is given pays debt
    #[arg(long, value_name = "BOOL")]
    gifts_pay_debt: Option<bool>,
    /// The least that one purchase may be
    #[arg(long, value_name = "AMOUNT")]
    purchase_min: Option<Amount>,
    /// The most that one purchase may be
    #[arg(long, value_name = "AMOUNT")]
    purchase_max: Option<Amount>,
    /// The same for one trust tier; may be given several times, and replaces all
    #[arg(long, value_name = "TIER=AMOUNT", value_parser = tier)]
    purchase_max_by_tier: Vec<(String, Amount)>,
    /// After which time credit expires that was bought without an expiry, as 365d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    credit_expires_after: Option<Duration>,
    /// How long before credit expires an event is sent, as 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    credit_expiring_notice: Option<Duration>,
    /// What can be refunded: paid_remaining or never
    #[arg(long, value_name = "WHAT", value_parser = refunds)]
    refunds: Option<v1::Refunds>,
    /// Whether refusals are carried out: enforce or shadow
    #[arg(long, value_name = "WHAT", value_parser = enforcement)]
    enforcement: Option<v1::Enforcement>,
    /// From when on they are, in shadow, as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "INSTANT")]
    live_time: Option<Timestamp>,
    /// How accounts pay: prepaid_only or credit_then_invoice
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<v1::BillingMode>,
    /// How much may stand on invoices that are not settled
    #[arg(long, value_name = "AMOUNT")]
    invoice_limit: Option<Amount>,
    /// How much calls may cost in an hour, day, month or in total, as day=5.00 or month=20.00:vision*; may be given several times, and
    /// replaces all
    #[arg(long, value_name = "PERIOD=AMOUNT", value_parser = budget)]
    budget: Vec<v1::Budget>,
    /// When to ask for a recharge: below=AMOUNT,amount=AMOUNT,cool_down=DURATION[,monthly_max=AMOUNT]
    #[arg(long, value_name = "RULE", value_parser = auto_recharge)]
    auto_recharge: Option<v1::AutoRecharge>,
}

/// What to do while the store is away, and up to which amount.
#[derive(Clone, Debug)]
pub(super) struct Outage(v1::StoreOutage, Option<v1::Amount>);

macro_rules! choices {
    ($($name:ident: $of:ident, $prefix:literal;)*) => {$(
        fn $name(text: &str) -> Result<v1::$of, String> {
            unword(text, $prefix, v1::$of::from_str_name)
        }
    )*};
}

choices! {
    block_when: BlockWhen, "BLOCK_WHEN_";
    unsettled: Unsettled, "UNSETTLED_";
    resume: Resume, "RESUME_";
    while_overdue: WhileOverdue, "WHILE_OVERDUE_";
    plan_shortfall: PlanShortfall, "PLAN_SHORTFALL_";
    refunds: Refunds, "REFUNDS_";
    enforcement: Enforcement, "ENFORCEMENT_";
    mode: BillingMode, "BILLING_MODE_";
}

fn money(text: &str) -> Result<Amount, String> {
    text.parse()
        .map_err(|error: crate::money::AmountError| error.to_string())
}

fn hold_rule(text: &str) -> Result<v1::HoldRule, String> {
    let (mode, of) = match text.split_once(':') {
        Some((mode, of)) => (mode, Some(of)),
        None => (text, None),
    };
    let mode = match (mode, of) {
        ("max", None) => v1::HoldMode::Max,
        ("none", None) => v1::HoldMode::None,
        ("capped", Some(_)) => v1::HoldMode::Capped,
        ("fixed", Some(_)) => v1::HoldMode::Fixed,
        _ => return Err("it is max, none, capped:AMOUNT or fixed:AMOUNT".into()),
    };
    Ok(v1::HoldRule {
        mode: mode.into(),
        amount: of.map(money).transpose()?.map(amount),
    })
}

fn store_outage(text: &str) -> Result<Outage, String> {
    match text.split_once(':') {
        None if text == "refuse" => Ok(Outage(v1::StoreOutage::Refuse, None)),
        None if text == "lease" => Ok(Outage(v1::StoreOutage::Lease, None)),
        Some(("up_to", of)) => Ok(Outage(v1::StoreOutage::UpTo, Some(amount(money(of)?)))),
        _ => Err("it is refuse, lease or up_to:AMOUNT".into()),
    }
}

fn deadline(text: &str) -> Result<v1::Deadline, String> {
    let (length, inclusive) = match text.split_once(':') {
        None => (text, false),
        Some((length, "inclusive")) => (length, true),
        Some(_) => return Err("it is a duration, as 24h, or 24h:inclusive".into()),
    };
    Ok(v1::Deadline {
        after: Some(wire_duration(duration(length)?)),
        inclusive,
    })
}

fn tier(text: &str) -> Result<(String, Amount), String> {
    let (tier, most) = pair(text)?;
    Ok((tier.into(), money(most)?))
}

pub(super) fn budget(text: &str) -> Result<v1::Budget, String> {
    let (period, rest) = pair(text)?;
    let (most, capability) = rest.split_once(':').unwrap_or((rest, ""));
    let period = unword(period, "BUDGET_PERIOD_", v1::BudgetPeriod::from_str_name);
    let period = period.map_err(|_| "a budget is for an hour, day, month or total, as day=5.00")?;
    Ok(v1::Budget {
        amount: Some(amount(money(most)?)),
        period: period.into(),
        capability: capability.into(),
    })
}

pub(super) fn budgets_cell(budgets: &[v1::Budget]) -> Cell {
    let texts = budgets.iter().map(|budget| {
        let period = budget.period().as_str_name();
        let period = period
            .trim_start_matches("BUDGET_PERIOD_")
            .to_ascii_lowercase();
        let most = text(budget.amount.as_ref());
        match budget.capability.as_str() {
            "" => format!("{period}={most}"),
            capability => format!("{period}={most}:{capability}"),
        }
    });
    Cell::List(texts.collect())
}

fn auto_recharge(text: &str) -> Result<v1::AutoRecharge, String> {
    let mut auto = v1::AutoRecharge::default();
    for part in text.split(',') {
        let (name, value) = pair(part)?;
        match name {
            "below" => auto.below = Some(amount(money(value)?)),
            "amount" => auto.amount = Some(amount(money(value)?)),
            "monthly_max" => auto.monthly_max = Some(amount(money(value)?)),
            "cool_down" => auto.cool_down = Some(wire_duration(duration(value)?)),
            _ => {
                return Err(format!(
                    "`{name}` is not below, amount, cool_down or monthly_max"
                ));
            }
        }
    }
    if auto.below.is_none() || auto.amount.is_none() || auto.cool_down.is_none() {
        return Err("below, amount and cool_down are all needed".into());
    }
    Ok(auto)
}

/// The names of the fields, as they are cleared and as they stand in a field mask, and whether each was given.
macro_rules! fields {
    ($($name:literal: $given:expr;)*) => {
        /// The names of all rules.
        pub(super) const FIELDS: &[&str] = &[$($name,)*];

        impl Limits {
            /// Those that were given, by the names of [`FIELDS`].
            pub(super) fn given(&self) -> impl Iterator<Item = &'static str> {
                let is_given: &[fn(&Self) -> bool] = &[$($given,)*];
                let named: Vec<_> = FIELDS.iter().zip(is_given).collect();
                named
                    .into_iter()
                    .filter_map(|(name, is_given)| is_given(self).then_some(*name))
                    .collect::<Vec<_>>()
                    .into_iter()
            }
        }
    };
}

fields! {
    "credit_limit": |of| of.credit_limit.is_some();
    "hold": |of| of.hold.is_some();
    "qps": |of| of.qps.is_some();
    "burst": |of| of.burst.is_some();
    "concurrency": |of| of.concurrency.is_some();
    "low_balance": |of| of.low_balance.is_some();
    "alerts": |of| !of.alert.is_empty();
    "block_when": |of| of.block_when.is_some();
    "hold_ttl": |of| of.hold_ttl.is_some();
    "unsettled": |of| of.unsettled.is_some();
    "store_outage": |of| of.store_outage.is_some();
    "grace": |of| of.grace.is_some();
    "grace_limit": |of| of.grace_limit.is_some();
    "suspend_after": |of| of.suspend_after.is_some();
    "resume": |of| of.resume.is_some();
    "capabilities": |of| !of.capability.is_empty();
    "purge_after": |of| of.purge_after.is_some();
    "plans_while_overdue": |of| of.plans_while_overdue.is_some();
    "qps_plans_while_overdue": |of| of.qps_plans_while_overdue.is_some();
    "plan_shortfall": |of| of.plan_shortfall.is_some();
    "gifts_pay_debt": |of| of.gifts_pay_debt.is_some();
    "purchase_min": |of| of.purchase_min.is_some();
    "purchase_max": |of| of.purchase_max.is_some();
    "purchase_max_by_tier": |of| !of.purchase_max_by_tier.is_empty();
    "credit_expires_after": |of| of.credit_expires_after.is_some();
    "credit_expiring_notice": |of| of.credit_expiring_notice.is_some();
    "refunds": |of| of.refunds.is_some();
    "enforcement": |of| of.enforcement.is_some();
    "live_time": |of| of.live_time.is_some();
    "mode": |of| of.mode.is_some();
    "invoice_limit": |of| of.invoice_limit.is_some();
    "budgets": |of| !of.budget.is_empty();
    "auto_recharge": |of| of.auto_recharge.is_some();
}

impl Limits {
    pub(super) fn overrides(&self) -> v1::Overrides {
        let of = self.clone();
        let outage = of.store_outage;
        let (store_outage, store_outage_limit) = match outage {
            None => (v1::StoreOutage::Unspecified, None),
            Some(Outage(outage, limit)) => (outage, limit),
        };
        let tiers = of.purchase_max_by_tier.into_iter();
        let tiers: HashMap<_, _> = tiers.map(|(tier, most)| (tier, amount(most))).collect();
        v1::Overrides {
            credit_limit: of.credit_limit.map(amount),
            hold: of.hold,
            qps: of.qps,
            burst: of.burst,
            concurrency: of.concurrency,
            low_balance: of.low_balance.map(amount),
            block_when: of.block_when.unwrap_or_default().into(),
            hold_ttl: of.hold_ttl.map(wire_duration),
            unsettled: of.unsettled.unwrap_or_default().into(),
            store_outage: store_outage.into(),
            store_outage_limit,
            grace: of.grace,
            grace_limit: of.grace_limit.map(amount),
            suspend_after: of.suspend_after,
            resume: of.resume.unwrap_or_default().into(),
            capabilities: (!of.capability.is_empty()).then_some(v1::Patterns {
                patterns: of.capability,
            }),
            purge_after: of.purge_after.map(wire_duration),
            plans_while_overdue: of.plans_while_overdue.unwrap_or_default().into(),
            qps_plans_while_overdue: of.qps_plans_while_overdue.unwrap_or_default().into(),
            plan_shortfall: of.plan_shortfall.unwrap_or_default().into(),
            gifts_pay_debt: of.gifts_pay_debt,
            purchase_min: of.purchase_min.map(amount),
            purchase_max: of.purchase_max.map(amount),
            purchase_max_by_tier: (!tiers.is_empty())
                .then_some(v1::AmountsByTier { amounts: tiers }),
            credit_expires_after: of.credit_expires_after.map(wire_duration),
            refunds: of.refunds.unwrap_or_default().into(),
            alerts: (!of.alert.is_empty()).then(|| v1::Amounts {
                amounts: of.alert.into_iter().map(amount).collect(),
            }),
            credit_expiring_notice: of.credit_expiring_notice.map(wire_duration),
            enforcement: of.enforcement.unwrap_or_default().into(),
            live_time: of.live_time.map(instant),
            mode: of.mode.unwrap_or_default().into(),
            invoice_limit: of.invoice_limit.map(amount),
            auto_recharge: of.auto_recharge,
            budgets: (!of.budget.is_empty()).then_some(v1::Budgets { budgets: of.budget }),
        }
    }

    /// The same as a policy: lists that were not given are empty.
    pub(super) fn policy(&self, policy_id: String) -> v1::Policy {
        v1::Policy {
            policy_id,
            ..as_policy(self.overrides())
        }
    }
}

/// Overrides as a policy that has nothing else.
pub(super) fn as_policy(of: v1::Overrides) -> v1::Policy {
    v1::Policy {
        block_when: of.block_when,
        credit_limit: of.credit_limit,
        hold: of.hold,
        hold_ttl: of.hold_ttl,
        unsettled: of.unsettled,
        qps: of.qps,
        burst: of.burst,
        concurrency: of.concurrency,
        low_balance: of.low_balance,
        store_outage: of.store_outage,
        store_outage_limit: of.store_outage_limit,
        grace: of.grace,
        grace_limit: of.grace_limit,
        suspend_after: of.suspend_after,
        resume: of.resume,
        capabilities: of.capabilities.unwrap_or_default().patterns,
        purge_after: of.purge_after,
        plans_while_overdue: of.plans_while_overdue,
        qps_plans_while_overdue: of.qps_plans_while_overdue,
        plan_shortfall: of.plan_shortfall,
        gifts_pay_debt: of.gifts_pay_debt,
        purchase_min: of.purchase_min,
        purchase_max: of.purchase_max,
        purchase_max_by_tier: of.purchase_max_by_tier.unwrap_or_default().amounts,
        credit_expires_after: of.credit_expires_after,
        refunds: of.refunds,
        alerts: of.alerts.unwrap_or_default().amounts,
        credit_expiring_notice: of.credit_expiring_notice,
        enforcement: of.enforcement,
        live_time: of.live_time,
        mode: of.mode,
        invoice_limit: of.invoice_limit,
        auto_recharge: of.auto_recharge,
        budgets: of.budgets.unwrap_or_default().budgets,
        ..v1::Policy::default()
    }
}

/// A policy's rules, to be put after what they are of.
pub(super) fn show(record: Record, policy: &v1::Policy) -> Record {
    let hold = policy.hold.as_ref();
    let number = |name: &str, prefix: &str| word(name, prefix);
    record
        .with("credit_limit", amount_cell(policy.credit_limit.as_ref()))
        .with("hold", hold.map_or(Cell::None, hold_cell))
        .with("qps", optional_number(policy.qps))
        .with("burst", optional_number(policy.burst))
        .with("concurrency", optional_number(policy.concurrency))
        .with("low_balance", amount_cell(policy.low_balance.as_ref()))
        .with("alerts", amounts_cell(&policy.alerts))
        .with(
            "block_when",
            number(policy.block_when().as_str_name(), "BLOCK_WHEN_"),
        )
        .with("hold_ttl", duration_cell(policy.hold_ttl.as_ref()))
        .with(
            "unsettled",
            number(policy.unsettled().as_str_name(), "UNSETTLED_"),
        )
        .with("store_outage", outage_cell(policy))
        .with("mode", number(policy.mode().as_str_name(), "BILLING_MODE_"))
        .with("invoice_limit", amount_cell(policy.invoice_limit.as_ref()))
        .with("grace", deadline_cell(policy.grace.as_ref()))
        .with("grace_limit", amount_cell(policy.grace_limit.as_ref()))
        .with(
            "suspend_after",
            deadline_cell(policy.suspend_after.as_ref()),
        )
        .with("resume", number(policy.resume().as_str_name(), "RESUME_"))
        .with("capabilities", Cell::List(policy.capabilities.clone()))
        .with("purge_after", duration_cell(policy.purge_after.as_ref()))
        .with(
            "plans_while_overdue",
            number(policy.plans_while_overdue().as_str_name(), "WHILE_OVERDUE_"),
        )
        .with(
            "qps_plans_while_overdue",
            number(
                policy.qps_plans_while_overdue().as_str_name(),
                "WHILE_OVERDUE_",
            ),
        )
        .with(
            "plan_shortfall",
            number(policy.plan_shortfall().as_str_name(), "PLAN_SHORTFALL_"),
        )
        .with(
            "gifts_pay_debt",
            policy.gifts_pay_debt.map_or(Cell::None, Cell::Flag),
        )
        .with("purchase_min", amount_cell(policy.purchase_min.as_ref()))
        .with("purchase_max", amount_cell(policy.purchase_max.as_ref()))
        .with(
            "purchase_max_by_tier",
            tiers_cell(&policy.purchase_max_by_tier),
        )
        .with(
            "credit_expires_after",
            duration_cell(policy.credit_expires_after.as_ref()),
        )
        .with(
            "credit_expiring_notice",
            duration_cell(policy.credit_expiring_notice.as_ref()),
        )
        .with(
            "refunds",
            number(policy.refunds().as_str_name(), "REFUNDS_"),
        )
        .with(
            "enforcement",
            number(policy.enforcement().as_str_name(), "ENFORCEMENT_"),
        )
        .with("budgets", budgets_cell(&policy.budgets))
        .with("live_time", instant_cell(policy.live_time.as_ref()))
        .with(
            "auto_recharge",
            policy.auto_recharge.as_ref().map_or(Cell::None, auto_cell),
        )
}

fn hold_cell(rule: &v1::HoldRule) -> Cell {
    let mode = word(rule.mode().as_str_name(), "HOLD_MODE_");
    match (mode, amount_cell(rule.amount.as_ref())) {
        (Cell::Text(mode), Cell::Amount(amount)) => Cell::Text(format!("{mode}:{amount}")),
        (mode, _) => mode,
    }
}

fn outage_cell(policy: &v1::Policy) -> Cell {
    let outage = word(policy.store_outage().as_str_name(), "STORE_OUTAGE_");
    match (outage, amount_cell(policy.store_outage_limit.as_ref())) {
        (Cell::Text(outage), Cell::Amount(limit)) => Cell::Text(format!("{outage}:{limit}")),
        (outage, _) => outage,
    }
}

fn deadline_cell(deadline: Option<&v1::Deadline>) -> Cell {
    let Some(deadline) = deadline else {
        return Cell::None;
    };
    match duration_cell(deadline.after.as_ref()) {
        Cell::Text(length) if deadline.inclusive => Cell::Text(format!("{length}:inclusive")),
        cell => cell,
    }
}

fn amounts_cell(amounts: &[v1::Amount]) -> Cell {
    let texts = amounts.iter().map(|amount| text(Some(amount)));
    Cell::List(texts.collect())
}

fn tiers_cell(tiers: &HashMap<String, v1::Amount>) -> Cell {
    let mut texts: Vec<String> = tiers
        .iter()
        .map(|(tier, most)| format!("{tier}={}", text(Some(most))))
        .collect();
    texts.sort();
    Cell::List(texts)
}

fn auto_cell(auto: &v1::AutoRecharge) -> Cell {
    let (below, amount) = (text(auto.below.as_ref()), text(auto.amount.as_ref()));
    let cool_down = match duration_cell(auto.cool_down.as_ref()) {
        Cell::Text(length) => length,
        _ => "0s".into(),
    };
    let mut shown = format!("below={below},amount={amount},cool_down={cool_down}");
    if auto.monthly_max.is_some() {
        shown.push_str(&format!(",monthly_max={}", text(auto.monthly_max.as_ref())));
    }
    Cell::Text(shown)
}

fn text(amount: Option<&v1::Amount>) -> String {
    Amount::from_nanos(amount.map_or(0, |amount| amount.nanos)).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn hold_rules_are_shown_as_they_are_written() {
        for text in ["max", "none", "capped:0.50", "fixed:0.01"] {
            let rule = hold_rule(text).unwrap();
            assert_eq!(hold_cell(&rule), Cell::Text(text.into()));
        }
        for text in ["", "max:1", "capped", "fixed:", "fixed:1e3", "some"] {
            assert!(hold_rule(text).is_err(), "{text}");
        }
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limits: Limits,
    }

    #[test]
    fn every_rule_is_given_sent_and_shown() {
        let line = "x --credit-limit 1 --hold none --qps 1 --burst 1 --concurrency 1 --low-balance -1 --alert 2 --alert 3 \
            --block-when zero_or_less --hold-ttl 1m --unsettled charge --store-outage up_to:5 --grace 24h:inclusive \
            --grace-limit 7 --suspend-after 48h --resume reactivate --capability vision* --purge-after 180d \
            --plans-while-overdue available --qps-plans-while-overdue available --plan-shortfall whole --gifts-pay-debt true \
            --purchase-min 5 --purchase-max 100 --purchase-max-by-tier gold=500 --credit-expires-after 365d \
            --credit-expiring-notice 7d --refunds never --enforcement shadow --live-time 2026-01-31T00:00:00Z \
            --mode credit_then_invoice --invoice-limit 9 --budget day=5 --budget month=9:vision* --auto-recharge below=1,amount=2,cool_down=1h,monthly_max=3";
        let limits = Line::try_parse_from(line.split_whitespace())
            .unwrap()
            .limits;
        let given: Vec<_> = limits.given().collect();
        assert_eq!(given, FIELDS, "each of them was given");
        let shown = show(Record::default(), &limits.policy("p".into())).0;
        for (name, cell) in &shown {
            assert_ne!(*cell, Cell::None, "{name}");
        }
        let mut names: Vec<_> = shown.iter().map(|(name, _)| *name).collect();
        let mut fields = FIELDS.to_vec();
        names.sort_unstable();
        fields.sort_unstable();
        assert_eq!(names, fields);
        let find = |name| {
            shown
                .iter()
                .find(|(field, _)| *field == name)
                .unwrap()
                .1
                .clone()
        };
        for (name, text) in [
            ("grace", "86400s:inclusive"),
            ("store_outage", "up_to:5.00"),
            (
                "auto_recharge",
                "below=1.00,amount=2.00,cool_down=3600s,monthly_max=3.00",
            ),
        ] {
            assert_eq!(find(name), Cell::Text(text.into()));
        }
        let none = Line::try_parse_from(["x"]).unwrap().limits;
        assert_eq!(none.given().count(), 0);
        for wrong in [
            "--grace 24h:exclusive",
            "--auto-recharge below=1",
            "--store-outage up_to",
            "--resume sometimes",
        ] {
            let words = ["x"].into_iter().chain(wrong.split(' '));
            assert!(Line::try_parse_from(words).is_err(), "{wrong}");
        }
    }
}
