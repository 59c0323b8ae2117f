//! Many calls at once through Envoy, on an account that can pay for a few.

use crate::support::beside::Plan;
use crate::support::gateway::Gateway;
use crate::support::http::{call, post};
use crate::support::node::amount;

#[tokio::test]
async fn of_500_calls_at_once_exactly_those_pass_that_are_paid_for() {
    for file in [
        "ext-authz-access-log.yaml",
        "ext-authz-ext-proc.yaml",
        "ext-proc.yaml",
        "rate-limit.yaml",
    ] {
        let plan = Plan {
            money: "50",
            ..Plan::default()
        };
        let beside = plan.start().await;
        let envoy = Gateway::envoy(file, beside.envoy, beside.model, &[]).await;
        let ask = r#"{"model":"flat","messages":[{"role":"user","content":"Say hello"}]}"#;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..500 {
            let at = envoy.at;
            calls.spawn(async move { call(at, post("/v1/chat/completions", ask)).await });
        }
        let (mut passed, mut refused) = (0, 0);
        for answer in calls.join_all().await {
            match (answer.status(), answer.header("x-tollgate-reason")) {
                (200, None) => passed += 1,
                (429, Some("INSUFFICIENT_BALANCE")) => refused += 1,
                other => panic!("{file}: {other:?} {answer:?} {}", envoy.said()),
            }
        }
        assert_eq!((passed, refused), (50, 450), "{file}");
        beside.check_spent(amount("50")).await;
    }
}
