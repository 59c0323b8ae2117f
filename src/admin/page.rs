//! The page for people: balances, thresholds, state, usage as a time series, the last entries of a ledger. The page itself is one file
//! without anything from elsewhere; what it draws it asks for as JSON, amounts as decimal strings.
//!
//! Whoever sees it sees accounts. So its data ask for the control API's token, if that has one; if it has none, they are answered on a
//! loopback address alone, and only to who names it as such: a web page elsewhere whose name was pointed here is refused.

use std::net::IpAddr;

use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, HeaderMap};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::clock::Timestamp;
use crate::control::View;
use crate::money::Amount;
use crate::proto::v1;
use crate::usage::Meter;

/// The page.
pub(super) const HTML: &str = include_str!("page.html");

/// What the page may do: run what is in it, and ask this server.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How many accounts stand on one page of the list.
const ACCOUNTS_SHOWN: i32 = 50;

/// How many points and names a series may have before it is cut: some hundred bars of ten colours.
const ROWS_SHOWN: i32 = 1_000;

/// How many entries of a ledger are shown, the newest.
const ENTRIES_SHOWN: i32 = 20;

/// An answer's status and JSON.
type Answer = (StatusCode, Value);

/// Answers for a path below the page's; `None` if there is nothing there. `loopback` says where the server listens.
pub(super) async fn answer(
    view: &View,
    loopback: bool,
    headers: &HeaderMap,
    path: &str,
    query: Option<&str>,
) -> Option<Answer> {
    let known = matches!(
        path,
        "/page/accounts" | "/page/account" | "/page/usage" | "/page/entries"
    );
    if !known {
        return None;
    }
    if let Some(refused) = refused(view, loopback, headers) {
        return Some(refused);
    }
    let asked = Asked::new(query.unwrap_or_default());
    let answered = match path {
        "/page/accounts" => accounts(view, &asked).await,
        "/page/account" => account(view, &asked).await,
        "/page/usage" => usage(view, &asked).await,
        _ => entries(view, &asked).await,
    };
    Some(match answered {
        Ok(value) => (StatusCode::OK, value),
        Err(status) => (code(status.code()), error(status.message())),
    })
}

fn error(message: &str) -> Value {
    json!({ "error": message })
}

fn refused(view: &View, loopback: bool, headers: &HeaderMap) -> Option<Answer> {
    let header = |name| headers.get(name).map(http::HeaderValue::as_bytes);
    if view.has_token() {
        return (!view.allows(header(AUTHORIZATION))).then(|| {
            let what = "the control API's token is needed, as `authorization: Bearer TOKEN`";
            (StatusCode::UNAUTHORIZED, error(what))
        });
    }
    let host = header(HOST).and_then(|host| std::str::from_utf8(host).ok());
    (!loopback || !host.is_some_and(is_local)).then(|| {
        let what = "accounts are shown on a loopback address only, unless control.token is set";
        (StatusCode::FORBIDDEN, error(what))
    })
}

/// Whether a host names this machine: a name that only looks like it may be anybody's.
fn is_local(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn code(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The parameters of a query.
struct Asked(Vec<(String, String)>);

impl Asked {
    fn new(query: &str) -> Self {
        let pairs = query.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Self(pairs.collect())
    }

    fn get(&self, name: &str) -> String {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

/// Percent-decoded; what is not UTF-8 then is no name here, and shown as such.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let mut digit = || char::from(ahead.next()?).to_digit(16);
        let hex = (byte == b'%')
            .then(|| digit()?.checked_mul(16)?.checked_add(digit()?))
            .flatten();
        let hex = hex.and_then(|hex| u8::try_from(hex).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = ahead;
            }
            None => bytes.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn money(amount: Option<&v1::Amount>) -> Value {
    let decimal = |amount: &v1::Amount| Amount::from_nanos(amount.nanos).to_string().into();
    amount.map_or(Value::Null, decimal)
}

fn instant(at: Option<&prost_types::Timestamp>) -> Value {
    let nanos = at.and_then(|at| {
        at.seconds
            .checked_mul(1_000_000_000)?
            .checked_add(at.nanos.into())
    });
    nanos.map_or(Value::Null, |nanos| {
        Timestamp::from_nanos(nanos).to_string().into()
    })
}

fn shown(account: &v1::Account) -> Value {
    let state = account.state().as_str_name();
    let policy = account.effective_policy.clone().unwrap_or_default();
    let alerts: Vec<Value> = policy.alerts.iter().map(|at| money(Some(at))).collect();
    let plans: Vec<Value> = account
        .plans
        .iter()
        .map(|plan| {
            let left = plan.remaining.as_ref();
            json!({
                "plan": plan.plan_id,
                "remaining": money(left),
                "unit": left.map(|left| left.unit.clone()),
                "expires": instant(plan.expire_time.as_ref()),
            })
        })
        .collect();
    json!({
        "account": account.account_id,
        "name": account.display_name,
        "unit": account.unit,
        "state": state.strip_prefix("ACCOUNT_STATE_").unwrap_or(state),
        "refused": account.refusal_reason,
        "balance": money(account.balance.as_ref()),
        "held": money(account.held.as_ref()),
        "debt": money(account.debt.as_ref()),
        "cumulative_recharge": money(account.cumulative_recharge.as_ref()),
        "low_balance": money(policy.low_balance.as_ref()),
        "alerts": alerts,
        "auto_recharge_below": money(policy.auto_recharge.and_then(|auto| auto.below).as_ref()),
        "overdue_since": instant(account.overdue_time.as_ref()),
        "suspends": instant(account.suspend_time.as_ref()),
        "as_of": instant(account.as_of.as_ref()),
        "plans": plans,
    })
}

async fn accounts(view: &View, asked: &Asked) -> Result<Value, Status> {
    let request = v1::ListAccountsRequest {
        page_size: ACCOUNTS_SHOWN,
        page_token: asked.get("next"),
        ..v1::ListAccountsRequest::default()
    };
    let page = view.accounts(request).await?;
    let accounts: Vec<Value> = page.accounts.iter().map(shown).collect();
    Ok(json!({ "accounts": accounts, "next": page.next_page_token }))
}

async fn account(view: &View, asked: &Asked) -> Result<Value, Status> {
    let request = v1::GetAccountRequest {
        account_id: asked.get("account"),
    };
    let account = view.account(request).await?.account;
    Ok(shown(&account.unwrap_or_default()))
}

async fn usage(view: &View, asked: &Asked) -> Result<Value, Status> {
    let named = |prefix: &str, name: &str| format!("{prefix}{}", name.to_ascii_uppercase());
    let step = named("USAGE_STEP_", &asked.get("step"));
    let by = named("USAGE_DIMENSION_", &asked.get("by"));
    let wrong = |what| Status::invalid_argument(what);
    let step = v1::UsageStep::from_str_name(&step);
    let by = v1::UsageDimension::from_str_name(&by);
    let request = v1::QueryUsageRequest {
        account_id: asked.get("account"),
        step: step
            .ok_or_else(|| wrong("step is hour, day or month"))?
            .into(),
        group_by: vec![
            by.ok_or_else(|| wrong("by is total, key, model or service"))?
                .into(),
        ],
        page_size: ROWS_SHOWN,
        ..v1::QueryUsageRequest::default()
    };
    let page = view.usage(request).await?;
    let rows: Vec<Value> = page.rows.iter().map(point).collect();
    Ok(json!({
        "rows": rows,
        "cut": !page.next_page_token.is_empty(),
        "total": tally(&page.total.unwrap_or_default()),
        "as_of": instant(page.as_of.as_ref()),
    }))
}

fn point(row: &v1::UsageRow) -> Value {
    let names = [&row.key_id, &row.model, &row.service];
    let name = names.into_iter().find(|name| !name.is_empty());
    let mut point = tally(&row.tally.clone().unwrap_or_default());
    if let Some(fields) = point.as_object_mut() {
        fields.insert("start".into(), instant(row.start_time.as_ref()));
        fields.insert("name".into(), name.cloned().unwrap_or_default().into());
    }
    point
}

fn tally(tally: &v1::Tally) -> Value {
    let tokens = [
        v1::Meter::Input,
        v1::Meter::CachedInput,
        v1::Meter::CacheWrite,
        v1::Meter::Output,
        v1::Meter::Reasoning,
    ];
    let counted = tally
        .counts
        .iter()
        .filter(|count| tokens.contains(&count.meter()));
    let sum = counted.fold(0_u64, |sum, count| sum.saturating_add(count.count));
    let counts = tally.counts.iter().map(|count| {
        let name = count.meter().as_str_name().trim_start_matches("METER_");
        let meter = Meter::from_name(&name.to_ascii_lowercase());
        (meter.map_or("", Meter::name).to_owned(), count.count.into())
    });
    json!({
        "calls": tally.calls,
        "tokens": sum,
        "cost": money(tally.cost.as_ref()),
        "counts": counts.collect::<serde_json::Map<_, _>>(),
    })
}

async fn entries(view: &View, asked: &Asked) -> Result<Value, Status> {
    let request = v1::ListEntriesRequest {
        account_id: asked.get("account"),
        newest_first: true,
        page_size: ENTRIES_SHOWN,
        ..v1::ListEntriesRequest::default()
    };
    let page = view.entries(request).await?;
    let entries = page.entries.iter().map(|entry| {
        let kind = entry.kind().as_str_name();
        json!({
            "time": instant(entry.time.as_ref()),
            "kind": kind.strip_prefix("ENTRY_KIND_").unwrap_or(kind),
            "amount": money(entry.amount.as_ref()),
            "balance": money(entry.balance.as_ref()),
            "order": entry.order_id,
            "note": entry.note,
        })
    });
    Ok(json!({ "entries": entries.collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for (host, local) in [
            ("localhost", true),
            ("LOCALHOST:9003", true),
            ("127.0.0.1:9003", true),
            ("127.9.9.9", true),
            ("[::1]:9003", true),
            ("", false),
            ("example.com", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com:9003", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_local(host), local, "{host}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let asked = Asked::new("account=org%2Fteam%3A1&by=model&x=%zz%4&y=a+b&empty");
        for (name, value) in [
            ("account", "org/team:1"),
            ("by", "model"),
            ("x", "%zz%4"),
            ("y", "a b"),
            ("empty", ""),
            ("none", ""),
        ] {
            assert_eq!(asked.get(name), value);
        }
    }
}
