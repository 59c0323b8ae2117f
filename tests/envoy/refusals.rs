//! Every reason for a refusal, through Envoy: each arrives as the official clients' own exception, in their own words.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate::clock::{Clock, Timestamp};
use tollgate::gate::Ticket;
use tollgate::id::AccountId;
use tollgate::ledger::{Action, Configure};
use tollgate::policy::{Budget, Deadline, End, Overrides, Period, Resume};
use tollgate::refusal::Reason;

use crate::sdk::Sdk;
use crate::support::beside::{Beside, Plan};
use crate::support::gateway::Gateway;
use crate::support::node::{Node, amount};

/// What the clients make of a refusal.
struct Heard {
    reason: Reason,
    /// The key that is used, and the model that is asked for.
    call: &'static str,
    /// OpenAI's exception, status and code.
    openai: (&'static str, u16, &'static str),
    /// Anthropic's exception and status.
    anthropic: (&'static str, u16),
}

const fn heard(
    reason: Reason,
    call: &'static str,
    openai: (&'static str, u16, &'static str),
    anthropic: (&'static str, u16),
) -> Heard {
    Heard {
        reason,
        call,
        openai,
        anthropic,
    }
}

const LIMIT: &str = "RateLimitError";
const DENIED: &str = "PermissionDeniedError";
const STRANGER: &str = "AuthenticationError";
const QUOTA: (&str, u16, &str) = (LIMIT, 429, "insufficient_quota");
const RATE: (&str, u16, &str) = (LIMIT, 429, "rate_limit_exceeded");
const BILLING: (&str, u16, &str) = (LIMIT, 429, "billing_not_active");
const BAD_KEY: (&str, u16, &str) = (STRANGER, 401, "invalid_api_key");
const PAY: (&str, u16) = ("PaymentRequiredError", 402);
const NO: (&str, u16) = (DENIED, 403);

/// All but `STATE_UNAVAILABLE`, for which Envoy answers.
const ALL: [Heard; Reason::COUNT - 1] = [
    heard(Reason::InsufficientBalance, "sk-poor=tokens", QUOTA, PAY),
    heard(Reason::QpsExceeded, "sk-fast=tokens", RATE, (LIMIT, 429)),
    heard(
        Reason::ConcurrencyExceeded,
        "sk-busy=flat",
        RATE,
        (LIMIT, 429),
    ),
    heard(Reason::AccountOverdue, "sk-overdue=flat", QUOTA, PAY),
    heard(Reason::AccountSuspended, "sk-suspended=flat", BILLING, NO),
    heard(Reason::ReactivationRequired, "sk-resumed=flat", BILLING, NO),
    heard(Reason::RefundInProgress, "sk-refunded=flat", BILLING, NO),
    heard(
        Reason::AccountClosed,
        "sk-closed=flat",
        (DENIED, 403, "account_deactivated"),
        NO,
    ),
    heard(
        Reason::KeyUnknown,
        "sk-nobody=flat",
        BAD_KEY,
        (STRANGER, 401),
    ),
    heard(
        Reason::KeyRevoked,
        "sk-revoked=flat",
        BAD_KEY,
        (STRANGER, 401),
    ),
    heard(
        Reason::KeyExpired,
        "sk-expired=flat",
        BAD_KEY,
        (STRANGER, 401),
    ),
    heard(Reason::KeyLimitExceeded, "sk-limited=flat", QUOTA, PAY),
    heard(
        Reason::ModelNotAllowed,
        "sk-narrow=flat",
        (DENIED, 403, "model_not_found"),
        NO,
    ),
    heard(
        Reason::ModelNotPriced,
        "sk-a=unpriced",
        ("NotFoundError", 404, "model_not_found"),
        ("NotFoundError", 404),
    ),
];

/// An account in each state that a call is refused in.
async fn states(beside: &Beside, clock: &Clock) {
    let node = &beside.node;
    node.account("poor", "0.001").await;
    let suspends = Overrides {
        suspend_after: Some(Deadline {
            ms: 1_000,
            end: End::Excluded,
        }),
        resume: Some(Resume::Reactivate),
        ..Overrides::default()
    };
    for name in ["suspended", "resumed", "overdue", "refunded", "closed"] {
        let account = node.account(name, "5").await;
        let note = String::new;
        let action = match name {
            "refunded" => Action::BeginRefund {
                refund_id: "r".into(),
                orders: Vec::new(),
                reason: note(),
            },
            "closed" => Action::CloseAccount { note: note() },
            _ => Action::MarkOverdue { note: note() },
        };
        if ["suspended", "resumed"].contains(&name) {
            configure(node, &account, suspends.clone()).await;
        }
        node.run(&account, action).await;
    }
    clock.advance(Duration::from_secs(2));
    let resumed = AccountId::new("resumed").unwrap();
    let paid = Action::ClearOverdue {
        note: String::new(),
    };
    node.run(&resumed, paid).await;
    let a = AccountId::new("a").unwrap();
    let past = Some(Timestamp::from_nanos(1));
    let budget = Budget {
        amount: amount("0.5"),
        period: Period::Total,
        capability: None,
    };
    node.key(&a, "k-revoked", "sk-revoked", |key| key.revoked = past)
        .await;
    node.key(&a, "k-expired", "sk-expired", |key| key.expires = past)
        .await;
    node.key(&a, "k-narrow", "sk-narrow", |key| {
        key.models = vec!["tok*".into()]
    })
    .await;
    node.key(&a, "k-limited", "sk-limited", |key| {
        key.budgets = vec![budget]
    })
    .await;
}

async fn configure(node: &Node, account: &AccountId, overrides: Overrides) {
    let changed = Configure {
        overrides: Some(overrides),
        ..Configure::default()
    };
    node.run(account, Action::Configure(changed)).await;
}

/// An account that one call has passed of.
async fn limited(beside: &Beside, name: &str, rules: Overrides) -> Ticket {
    let node = &beside.node;
    let account = node.account(name, "5").await;
    configure(node, &account, rules).await;
    let passed = node.admit(&format!("sk-{name}"), "flat").await;
    passed.unwrap()
}

fn check(answer: &Value, expected: &Heard, file: &str) {
    let reason = expected.reason.name();
    let (exception, status, code) = expected.openai;
    for way in ["plain", "stream"] {
        let seen = &answer[way];
        let got = json!([
            seen["exception"],
            seen["status"],
            seen["code"],
            seen["headers"]["x-tollgate-reason"],
        ]);
        assert_eq!(
            got,
            json!([exception, status, code, reason]),
            "{file} {way}: {seen}"
        );
    }
    let seen = &answer["message"];
    let (exception, status) = expected.anthropic;
    let got = json!([
        seen["exception"],
        seen["status"],
        seen["headers"]["x-tollgate-reason"],
    ]);
    assert_eq!(got, json!([exception, status, reason]), "{file}: {seen}");
    assert_eq!(seen["body"]["type"], "error", "{file}: {seen}");
}

async fn check_all(file: &str) {
    // It stands still: of a rate, nothing comes free meanwhile.
    let clock = Clock::manual(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let plan = Plan {
        clock: clock.clone(),
        ..Plan::default()
    };
    let beside = plan.start().await;
    states(&beside, &clock).await;
    let busy = Overrides {
        concurrency: Some(1),
        ..Overrides::default()
    };
    let _busy = limited(&beside, "busy", busy).await;
    let fast = Overrides {
        qps: Some(1),
        burst: Some(1),
        ..Overrides::default()
    };
    drop(limited(&beside, "fast", fast).await);
    let envoy = Gateway::envoy(file, beside.envoy, beside.model, &[]).await;
    let sdk = Sdk {
        at: envoy.at,
        key: "none",
    };
    let calls: Vec<&str> = ALL.iter().map(|heard| heard.call).collect();
    let answers = sdk.run("refusals.py", &calls).await;
    for (answer, expected) in answers.as_array().unwrap().iter().zip(&ALL) {
        check(answer, expected, file);
    }
    assert_eq!(beside.calls("taken"), 0, "{file}");

    // Nobody decides any more: it is Envoy's word then, which its failure mode says.
    beside.stop();
    let seen = &sdk.run("refusals.py", &["sk-a=flat"]).await[0]["plain"];
    let got = json!([seen["exception"], seen["status"]]);
    assert_eq!(got, json!(["InternalServerError", 503]), "{file}: {seen}");
}

#[test]
fn every_reason_is_tried() {
    let tried = ALL.iter().map(|heard| heard.reason);
    let missing = Reason::ALL
        .into_iter()
        .filter(|reason| !tried.clone().any(|it| it == *reason));
    assert_eq!(missing.collect::<Vec<_>>(), [Reason::StateUnavailable]);
}

#[tokio::test]
async fn asked_before_every_refusal_is_the_clients_own_exception() {
    check_all("ext-authz-access-log.yaml").await;
}

#[tokio::test]
async fn in_the_path_every_refusal_is_the_clients_own_exception() {
    check_all("ext-proc.yaml").await;
}
