//! `[[prices]]` and `[policies.NAME]`. What prices and policies mean is not known here.

use std::collections::{BTreeMap, BTreeSet};

use toml::Value;

use super::LicenceSigning;
use super::reader::Reader;
use super::values::{amount, amount_or_zero, choice, count, file, flag, text, texts, whole};
use crate::catalog::{DEFAULT_POLICY, Layer, POLICIES_MAX, TENANTS_MAX, Tenant, presets};
use crate::licence::{KEYS_MAX, Keys, PublicKey};
use crate::policy::{HoldRule, Overrides, Policy, TIME_MS_MAX};
use crate::pricing::{PATTERNS_MAX, Per, Price, PriceBook, Rate};
use crate::usage::Meter;

/// Prices, policies and the keys of licences; and what licences are signed with.
pub(super) fn layer(root: &mut Reader<'_>) -> (Layer, Option<LicenceSigning>) {
    let (licence_keys, signing) = licences(root);
    (priced(root, licence_keys), signing)
}

fn priced(root: &mut Reader<'_>, licence_keys: Keys) -> Layer {
    let sections = root.list("prices");
    if sections.len() > PATTERNS_MAX {
        root.problem(
            "prices",
            &format!("has {} tables; there may be {PATTERNS_MAX}", sections.len()),
        );
    }
    let mut patterns = BTreeSet::new();
    let prices = sections
        .into_iter()
        .filter_map(|section| price(section, &mut patterns))
        .collect();
    let named = root.named("policies");
    if named.len() > POLICIES_MAX {
        root.problem(
            "policies",
            &format!("has {} tables; there may be {POLICIES_MAX}", named.len()),
        );
    }
    let mut policies = BTreeMap::new();
    for (name, section) in named {
        if !policy_name(&name) {
            section.problem(
                "",
                "is no name for a policy; write at most 64 of the characters A-Z a-z 0-9 . _ -",
            );
        }
        policies.insert(name, policy(section));
    }
    let tenants = tenants(root, &policies);
    Layer {
        prices,
        policies,
        tenants,
        licence_keys,
    }
}

fn tenants(root: &mut Reader<'_>, policies: &BTreeMap<String, Policy>) -> BTreeMap<String, Tenant> {
    let named = root.named("tenants");
    if named.len() > TENANTS_MAX {
        root.problem(
            "tenants",
            &format!("has {} tables; there may be {TENANTS_MAX}", named.len()),
        );
    }
    let mut tenants = BTreeMap::new();
    for (name, mut section) in named {
        if !policy_name(&name) {
            section.problem(
                "",
                "is no name for a tenant; write at most 64 of the characters A-Z a-z 0-9 . _ -",
            );
        }
        let default = Policy::default();
        let known = |name: &str| match name {
            DEFAULT_POLICY => Some(policies.get(name).unwrap_or(&default)),
            _ => policies.get(name).or_else(|| presets::all().get(name)),
        };
        let policy = section.read("policy", text);
        let base = known(policy.as_deref().unwrap_or(DEFAULT_POLICY));
        if base.is_none() {
            let names: Vec<&str> = policies.keys().map(String::as_str).collect();
            let presets: Vec<&str> = presets::all().keys().map(String::as_str).collect();
            section.problem(
                "policy",
                &format!(
                    "is no policy that this file has; write one of {} {}",
                    names.join(", "),
                    presets.join(", ")
                ),
            );
        }
        // One value and not a section: what a policy's field may be is told there.
        let overrides = section
            .read("overrides", whole::<Overrides>)
            .unwrap_or_default();
        for problem in overrides.over(base.unwrap_or(&default)).problems() {
            section.problem("overrides", &problem);
        }
        tenants.insert(name, Tenant { policy, overrides });
    }
    tenants
}

/// `[licences]`: who may have signed a licence, and what this sidecar signs with, if it does.
fn licences(root: &mut Reader<'_>) -> (Keys, Option<LicenceSigning>) {
    let mut section = root.section_or_empty("licences");
    let key = |name: &str, value: &Value| {
        if !policy_name(name) {
            return Err(
                "the name before it is none; write at most 64 of the characters A-Z a-z 0-9 . _ -"
                    .into(),
            );
        }
        let key = text(value)?.parse().map_err(|error| format!("{error}"));
        key.map(|key: PublicKey| (name.to_owned(), key))
    };
    let keys: Keys = section.entries("keys", false, key).into_iter().collect();
    if keys.len() > KEYS_MAX {
        let many = format!("has {} keys; there may be {KEYS_MAX}", keys.len());
        section.problem("keys", &many);
    }
    let signing = section.section("signing").and_then(|mut signing| {
        let kid = signing.need("kid", "\"2026\"", text);
        let key_file = signing.need("key_file", "\"/path/to/licences.pem\"", file);
        if let Some(kid) = kid.as_ref().filter(|kid| !keys.contains_key(*kid)) {
            let names: Vec<_> = keys.keys().map(String::as_str).collect();
            let unknown = format!(
                "is \"{kid}\", which is not in licences.keys ({}): what is signed here could not be checked",
                names.join(", ")
            );
            signing.problem("kid", &unknown);
        }
        Some(LicenceSigning {
            kid: kid?,
            key_file: key_file?,
        })
    });
    (keys, signing)
}

fn price(mut section: Reader<'_>, patterns: &mut BTreeSet<(String, String)>) -> Option<Price> {
    let pattern = section.need("pattern", "\"gpt-4o*\"", text);
    let unit = section.need("unit", "\"USD\"", unit);
    let max_output = section.read("max_output", count(1..=u64::MAX));
    let no_rates = !section.has("rates");
    if no_rates {
        section.problem(
            "rates",
            "is missing; write rates.input = { price = \"2.50\", per = \"million\" }, or rates.request = \"0.00\" \
             for a model that costs nothing",
        );
    }
    let rates: BTreeMap<Meter, Rate> = section.entries("rates", false, rate).into_iter().collect();
    let price = Price {
        pattern: pattern?,
        unit: unit?,
        rates,
        max_output,
    };
    if !patterns.insert((price.pattern.clone(), price.unit.clone())) {
        section.problem(
            "pattern",
            &format!(
                "is \"{}\", which has a price above, in {}; keep one of them",
                price.pattern, price.unit
            ),
        );
        return None;
    }
    match PriceBook::new(0, vec![price.clone()]) {
        Ok(_) => Some(price),
        Err(error) => {
            section.problem("pattern", &error.to_string());
            None
        }
    }
}

/// `"0.01"` is for one; `{ price = "2.50", per = "million" }` says for how many.
fn rate(meter: &str, value: &Value) -> Result<(Meter, Rate), String> {
    let Some(meter) = Meter::from_name(meter) else {
        let names: Vec<_> = Meter::ALL.into_iter().map(Meter::name).collect();
        return Err(format!(
            "the name before it is no meter; the meters are: {}",
            names.join(", ")
        ));
    };
    let hint = "write \"0.01\" for the price of one, or { price = \"2.50\", per = \"million\" }";
    let Value::Table(table) = value else {
        let price =
            amount_or_zero(value).map_err(|problem| format!("{problem}; a rate: {hint}"))?;
        return Ok((
            meter,
            Rate {
                price,
                per: Per::Unit,
            },
        ));
    };
    let odd = table
        .keys()
        .find(|key| !["price", "per"].contains(&key.as_str()));
    let (Some(price), None) = (table.get("price"), odd) else {
        return Err(hint.into());
    };
    let price = amount_or_zero(price).map_err(|problem| format!("price: {problem}"))?;
    let per = table
        .get("per")
        .map(choice)
        .transpose()
        .map_err(|problem: String| format!("per: {problem}"))?;
    let per = per.unwrap_or_default();
    Ok((meter, Rate { price, per }))
}

fn unit(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if text.len() <= 16 && text.bytes().all(plain) {
        return Ok(text);
    }
    Err("write at most 16 letters, digits, _ or -, such as \"USD\"".into())
}

fn policy(section: Reader<'_>) -> Policy {
    overrides(section).over(&Policy::default())
}

/// The fields of a policy that are set, each as it is written there.
fn overrides(mut section: Reader<'_>) -> Overrides {
    let overrides = Overrides {
        block_when: section.read("block_when", choice),
        credit_limit: section.read("credit_limit", amount_or_zero),
        hold: section.read("hold", hold),
        hold_ms_max: section.read("hold_ms_max", count(1..=86_400_000)),
        unsettled: section.read("unsettled", choice),
        store_outage: section.read("store_outage", choice),
        resume: section.read("resume", choice),
        capabilities: section.read("capabilities", texts),
        plans_while_overdue: section.read("plans_while_overdue", choice),
        qps_plans_while_overdue: section.read("qps_plans_while_overdue", choice),
        plan_shortfall: section.read("plan_shortfall", choice),
        gifts_pay_debt: section.read("gifts_pay_debt", flag),
        purchase_max_by_tier: section.read("purchase_max_by_tier", whole),
        refunds: section.read("refunds", choice),
        alerts: section.read("alerts", whole),
        enforcement: section.read("enforcement", choice),
        mode: section.read("mode", choice),
        budgets: section.read("budgets", whole),
        invoice_limit: section.read("invoice_limit", amount_or_zero),
        qps: section.read("qps", count(1..=u32::MAX.into())),
        burst: section.read("burst", count(1..=u32::MAX.into())),
        concurrency: section.read("concurrency", count(1..=u32::MAX.into())),
        low_balance: section.read("low_balance", amount),
        grace: section.read("grace", whole),
        grace_limit: section.read("grace_limit", amount_or_zero),
        suspend_after: section.read("suspend_after", whole),
        purge_after_ms: section.read("purge_after_ms", count(1..=TIME_MS_MAX)),
        purchase_min: section.read("purchase_min", amount),
        purchase_max: section.read("purchase_max", amount),
        credit_expires_after_ms: section.read("credit_expires_after_ms", count(1..=TIME_MS_MAX)),
        credit_expiring_ms: section.read("credit_expiring_ms", count(1..=TIME_MS_MAX)),
        live_from: section.read("live_from", whole),
        auto_recharge: section.read("auto_recharge", whole),
    };
    // The policy's own word is the last one: a rule added there must not be forgotten here.
    for problem in overrides.over(&Policy::default()).problems() {
        section.problem("", &problem);
    }
    overrides
}

fn hold(value: &Value) -> Result<HoldRule, String> {
    let hint = || "write \"max\", \"none\", { capped = \"0.50\" } or { fixed = \"0.01\" }, the amount zero or more";
    let rule = choice(value).map_err(|_| hint())?;
    match rule {
        HoldRule::Capped(amount) | HoldRule::Fixed(amount) if amount.is_negative() => {
            Err(hint().into())
        }
        rule => Ok(rule),
    }
}

fn policy_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
}
