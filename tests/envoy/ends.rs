//! Every way a call through Envoy can end, by each way to tell of it: settled exactly once, and charged as the route says.

use serde_json::json;
use tollgate::gateway;
use tollgate::money::Amount;
use tollgate::policy::{HoldRule, Policy, Unsettled};

use crate::support::beside::{Beside, Plan, cost};
use crate::support::cable::{Cable, State};
use crate::support::gateway::{Gateway, free_port};
use crate::support::http::{Wire, call, post};
use crate::support::node::amount;
use crate::support::until;
use crate::support::upstream::{Reply, Upstream, chunk};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"tokens","max_tokens":9,"messages":[]}"#;
const FLAT: &str = r#"{"model":"flat","messages":[]}"#;
const STREAM: &str = r#"{"model":"tokens","stream":true,"stream_options":{"include_usage":true},"max_tokens":9,"n":1,"messages":[]}"#;
const DELTA: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"}}]}\n\n";

/// Each way in which tollgate hears of the end.
const WAYS: [&str; 3] = [
    "ext-authz-access-log.yaml",
    "ext-authz-ext-proc.yaml",
    "ext-proc.yaml",
];

async fn settled_once(beside: &Beside, file: &str) {
    let calls = (
        beside.calls("settled"),
        beside.calls("expired"),
        beside.calls("late"),
    );
    assert_eq!(calls, (1, 0, 0), "{file}");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_charged_once() {
    for file in WAYS {
        let beside = Beside::start().await;
        let upstream = Upstream::start().await;
        let envoy = Gateway::envoy(file, beside.envoy, upstream.address, &[]).await;
        let (reply, pieces) = Reply::stream();
        upstream.then(reply);
        let mut wire = Wire::connect(envoy.at).await;
        wire.send(post(CHAT, STREAM)).await;
        pieces.send(chunk(DELTA)).unwrap();
        assert_eq!(wire.head().await.unwrap().status(), 200);
        assert!(wire.chunk().await.is_some());
        let held = beside.held();
        assert!(held.is_positive(), "{file}");
        drop(wire);
        // The whole hold: the answer never said what it used.
        beside.check_spent(held).await;
        settled_once(&beside, file).await;
        upstream.has_closed(1).await;
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there_costs_nothing() {
    for file in WAYS {
        let beside = Beside::start().await;
        let nowhere = ([127, 0, 0, 1], free_port()).into();
        let envoy = Gateway::envoy(file, beside.envoy, nowhere, &[]).await;
        let got = call(envoy.at, post(CHAT, ASK)).await;
        assert_eq!(got.status(), 503, "{file}: {got:?}");
        beside.check_spent(Amount::ZERO).await;
        settled_once(&beside, file).await;
    }
}

#[tokio::test]
async fn an_error_of_the_upstream_costs_what_it_says_and_an_empty_one_nothing() {
    for file in WAYS {
        let beside = Beside::start().await;
        let upstream = Upstream::start().await;
        let envoy = Gateway::envoy(file, beside.envoy, upstream.address, &[]).await;
        let body = r#"{"error":{"message":"no"}}"#;
        upstream.then(Reply::whole(
            "500 Internal Server Error",
            "application/json",
            body,
        ));
        let got = call(envoy.at, post(CHAT, ASK)).await;
        assert_eq!((got.status(), got.text().as_str()), (500, body), "{file}");
        beside.check_spent(Amount::ZERO).await;
        settled_once(&beside, file).await;
    }
}

#[tokio::test]
async fn a_usage_of_zero_is_said_and_a_missing_one_is_not() {
    for file in WAYS {
        let beside = Beside::start().await;
        let upstream = Upstream::start().await;
        let envoy = Gateway::envoy(file, beside.envoy, upstream.address, &[]).await;
        upstream.then(Reply::json(
            r#"{"usage":{"prompt_tokens":4,"completion_tokens":0}}"#,
        ));
        assert_eq!(call(envoy.at, post(CHAT, ASK)).await.status(), 200);
        let four = cost(&json!({"prompt_tokens": 4, "completion_tokens": 1}));
        let four = four.checked_sub(amount("0.002")).unwrap();
        beside.check_spent(four).await;
        upstream.then(Reply::json(r#"{"choices":[]}"#));
        assert_eq!(call(envoy.at, post(CHAT, ASK)).await.status(), 200);
        // A third of the body's bytes in, nine tokens out: the hold.
        beside
            .check_spent(four.checked_add(amount("0.034")).unwrap())
            .await;
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_and_holds_nothing() {
    let beside = Beside::start().await;
    for file in WAYS {
        let envoy = Gateway::envoy(file, beside.envoy, beside.model, &[]).await;
        for body in [
            "{\"model\":\"tokens\"",
            "{}",
            "[]",
            "{\"model\":\"tokens\",\"model\":\"flat\"}",
        ] {
            let got = call(envoy.at, post(CHAT, body)).await;
            assert_eq!(got.status(), 400, "{file} {body}: {got:?}");
            assert_eq!(
                got.json()["error"]["type"],
                "invalid_request_error",
                "{file} {body}"
            );
        }
    }
    assert_eq!(beside.calls("taken"), 0);
    beside.check_spent(Amount::ZERO).await;
}

#[tokio::test]
async fn a_stream_is_cut_when_the_money_runs_out() {
    let plan = Plan {
        money: "0.05",
        cut_overrun: true,
        policy: Policy {
            hold: HoldRule::Fixed(amount("0.01")),
            ..Policy::default()
        },
        asked: gateway::Settings::default(),
        ..Plan::default()
    };
    let beside = plan.start().await;
    let envoy = Gateway::envoy("ext-proc.yaml", beside.envoy, beside.model, &[]).await;
    let stream =
        r#"{"model":"tokens","stream":true,"messages":[{"role":"user","content":"Go on"}]}"#;
    let knobs = "x-standin-output-tokens: 2000\r\nx-standin-token-delay-ms: 2\r\n\r\n";
    let request = post(CHAT, stream).replacen("\r\n\r\n", &format!("\r\n{knobs}"), 1);
    let mut wire = Wire::connect(envoy.at).await;
    wire.send(request).await;
    let answer = wire.message().await.unwrap();
    let text = answer.text();
    assert_eq!(answer.status(), 200);
    assert!(!answer.whole, "it was not cut");
    assert!(
        text.contains("insufficient_quota") && !text.contains("[DONE]"),
        "{text}"
    );
    let spent = beside.spent().await;
    assert!(spent > amount("0.05") && spent < amount("0.5"), "{spent}");
    settled_once(&beside, "ext-proc.yaml").await;
    let seen = "data: {\"choices\"";
    assert!(
        text.matches(seen).count() < 300,
        "{}",
        text.matches(seen).count()
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_its_rate_limit_is_told_of_is_charged_by_policy_once() {
    let beside = gave_up(Unsettled::Charge).await;
    let upstream = Upstream::start().await;
    let envoy = Gateway::envoy("rate-limit.yaml", beside.envoy, upstream.address, &[]).await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut wire = Wire::connect(envoy.at).await;
    wire.send(post(CHAT, STREAM)).await;
    pieces.send(chunk(DELTA)).unwrap();
    assert_eq!(wire.head().await.unwrap().status(), 200);
    let held = beside.held();
    assert!(held.is_positive());
    drop(wire);
    upstream.has_closed(1).await;
    expired(&beside).await;
    beside.check_spent(held).await;
    assert_eq!((beside.calls("settled"), beside.calls("expired")), (0, 1));
    assert_eq!(beside.node.core.gate.unheard_calls().len(), 1);
}

#[tokio::test]
async fn an_envoy_that_gave_up_waiting_leaves_a_hold_that_expires_by_policy() {
    for unsettled in [Unsettled::Release, Unsettled::Charge] {
        check_gave_up(unsettled).await;
    }
}

/// Holds that soon expire.
async fn gave_up(unsettled: Unsettled) -> Beside {
    let plan = Plan {
        policy: Policy {
            hold_ms_max: 1_000,
            unsettled,
            ..Policy::default()
        },
        ..Plan::default()
    };
    plan.start().await
}

async fn expired(beside: &Beside) {
    let gate = &beside.node.core.gate;
    until("the hold expires", async || {
        gate.expire_holds();
        (beside.calls("expired") >= 1 && beside.held() == Amount::ZERO).then_some(())
    })
    .await;
}

async fn check_gave_up(unsettled: Unsettled) {
    let beside = gave_up(unsettled).await;
    let edits = [("timeout: 2.5s", "timeout: 0.5s".to_owned())];
    let file = "ext-authz-access-log.yaml";
    let cable = Cable::to(beside.envoy).await;
    let envoy = Gateway::envoy(file, cable.at, beside.model, &edits).await;
    assert_eq!(call(envoy.at, post(CHAT, FLAT)).await.status(), 200);
    cable.set(State::Mute);
    let got = call(envoy.at, post(CHAT, FLAT)).await;
    assert_eq!((got.status(), beside.calls("taken")), (503, 2), "{got:?}");
    cable.set(State::Whole);
    expired(&beside).await;
    // The one that passed is charged, the other as the policy says.
    let spent = match unsettled {
        Unsettled::Release => "1",
        Unsettled::Charge => "2",
    };
    beside.check_spent(amount(spent)).await;
    assert_eq!((beside.calls("settled"), beside.calls("expired")), (1, 1));
}
