//! Calls that a plan pays for, in the path: they pass, are cut, and cost what they do in the proxy's path.

use serde_json::json;
use tollgate::id::AccountId;
use tollgate::ledger::{Action, PlanRef};
use tollgate::money::Amount;
use tollgate::policy::{HoldRule, Overrides, Policy};
use tollgate::pricing::{Per, Price, Rate};
use tollgate::usage::Meter;

use crate::support::beside::{Beside, Plan, cost};
use crate::support::gateway::Gateway;
use crate::support::http::{Message, Wire, call, post};
use crate::support::node::amount;
use crate::support::within;

const CHAT: &str = "/v1/chat/completions";

/// What tokens cost in points: as much as `tokens` in money.
fn points(pattern: &str) -> Price {
    let rate = |price: &str| Rate {
        price: amount(price),
        per: Per::Million,
    };
    Price {
        pattern: pattern.into(),
        unit: "POINTS".into(),
        rates: [(Meter::Input, rate("1000")), (Meter::Output, rate("2000"))].into(),
        max_output: Some(10),
    }
}

/// Little is held for a call; `tokens` has a price in points too, and `planned` in nothing else.
async fn beside(money: &'static str) -> Beside {
    let plan = Plan {
        money,
        cut_overrun: true,
        policy: Policy {
            hold: HoldRule::Fixed(amount("0.01")),
            ..Policy::default()
        },
        prices: vec![points("tokens"), points("planned")],
        ..Plan::default()
    };
    plan.start().await
}

/// Points for the account.
async fn buy(beside: &Beside, much: &str) -> AccountId {
    let (node, account) = (&beside.node, &beside.account);
    let id = account.inner("points").unwrap();
    let plan = PlanRef {
        name: "points".into(),
        unit: "POINTS".into(),
        scope: vec!["*".into()],
        priority: 0,
    };
    node.run(account, Action::AddPlan { plan }).await;
    let (books, none) = (&node.core.books, Overrides::default());
    let opened = books.open(id.clone(), "POINTS".into(), None, None, none, None);
    opened.await.unwrap();
    let buy = Action::BuyPlan {
        amount: amount(much),
        order_id: "plan".into(),
        priority: 0,
        expires: None,
        price: None,
        note: String::new(),
    };
    node.run(&id, buy).await;
    node.core.sync.refresh(account).await.unwrap();
    id
}

/// A stream of so many tokens, as its client gets it.
async fn streamed(envoy: &Gateway, model: &str, tokens: u32) -> Message {
    let ask = json!({
        "model": model, "stream": true, "messages": [{"role": "user", "content": "Go on"}],
    });
    let knobs = format!("x-standin-output-tokens: {tokens}\r\nx-standin-token-delay-ms: 2\r\n\r\n");
    let request = post(CHAT, &ask.to_string()).replacen("\r\n\r\n", &format!("\r\n{knobs}"), 1);
    let mut wire = Wire::connect(envoy.at).await;
    wire.send(request).await;
    wire.message().await.unwrap()
}

/// What is left of the points, once nothing of them is held any more.
async fn left(beside: &Beside, plan: &AccountId) -> Amount {
    let sync = &beside.node.core.sync;
    within(
        std::time::Duration::from_secs(20),
        "every hold ends",
        async || (sync.live(plan).held == Amount::ZERO).then_some(()),
    )
    .await;
    beside.node.balance(plan).await
}

#[tokio::test]
async fn a_stream_that_its_plan_pays_for_is_not_cut() {
    for model in ["tokens", "planned"] {
        let beside = beside("0").await;
        let plan = buy(&beside, "10").await;
        let envoy = Gateway::envoy("ext-proc.yaml", beside.envoy, beside.model, &[]).await;
        let answer = streamed(&envoy, model, 60).await;
        assert!(
            answer.whole && answer.text().contains("[DONE]"),
            "{model}: {answer:?}"
        );
        // Its client did not ask for its usage: it was made to say it, and the plan has paid all of it.
        let counts = json!({"prompt_tokens": 4, "completion_tokens": 60});
        let spent = amount("10")
            .checked_sub(left(&beside, &plan).await)
            .unwrap();
        let output = cost(&counts).checked_sub(amount("0.004")).unwrap();
        let input = spent.checked_sub(output).unwrap();
        assert!(
            input.is_positive() && input < amount("0.02"),
            "{model}: {spent}"
        );
        assert_eq!(beside.node.balance(&beside.account).await, Amount::ZERO);
    }
}

#[tokio::test]
async fn a_stream_is_cut_when_its_plan_runs_out_and_money_cannot_pay() {
    for (model, money) in [("tokens", "0"), ("planned", "0"), ("planned", "5")] {
        let beside = beside(money).await;
        let plan = buy(&beside, "0.05").await;
        let envoy = Gateway::envoy("ext-proc.yaml", beside.envoy, beside.model, &[]).await;
        let answer = streamed(&envoy, model, 1_000).await;
        let text = answer.text();
        assert!(
            !answer.whole && text.contains("insufficient_quota"),
            "{model} {money}: {text}"
        );
        let pieces = text.matches("data: {\"choices\"").count();
        assert!(pieces < 300, "{model} {money}: {pieces}");
        assert_eq!(left(&beside, &plan).await, Amount::ZERO, "{model} {money}");
        let balance = beside.node.balance(&beside.account).await;
        match model {
            // Money has no price for it.
            "planned" => assert_eq!(balance, amount(money)),
            // What passed before it was cut.
            _ => assert!(
                balance.is_negative() && balance > amount("-0.5"),
                "{balance}"
            ),
        }
    }
}

#[tokio::test]
async fn once_a_plan_runs_out_money_pays_the_rest() {
    let beside = beside("10").await;
    let plan = buy(&beside, "0.05").await;
    let envoy = Gateway::envoy("ext-proc.yaml", beside.envoy, beside.model, &[]).await;
    let answer = streamed(&envoy, "tokens", 60).await;
    assert!(
        answer.whole && answer.text().contains("[DONE]"),
        "{answer:?}"
    );
    assert_eq!(left(&beside, &plan).await, Amount::ZERO);
    let spent = beside.spent().await;
    // A point is worth as much as a unit of money here.
    assert!(spent > amount("0.07") && spent < amount("0.1"), "{spent}");
}

#[tokio::test]
async fn an_answer_that_says_no_usage_costs_its_plan_what_was_held() {
    for model in ["tokens", "planned"] {
        let beside = beside("0").await;
        let plan = buy(&beside, "10").await;
        let upstream = crate::support::upstream::Upstream::start().await;
        let envoy = Gateway::envoy("ext-proc.yaml", beside.envoy, upstream.address, &[]).await;
        upstream.then(crate::support::upstream::Reply::json(r#"{"choices":[]}"#));
        let ask = json!({"model": model, "max_tokens": 9, "messages": []}).to_string();
        assert_eq!(call(envoy.at, post(CHAT, &ask)).await.status(), 200);
        let spent = amount("10")
            .checked_sub(left(&beside, &plan).await)
            .unwrap();
        assert!(spent.is_positive(), "{model}");
        assert_eq!(beside.node.balance(&beside.account).await, Amount::ZERO);
    }
}
