//! What a real Envoy does to a call twice, or loses of it: a question that comes twice, a stream of log lines that is cut.

use std::time::Duration;

use tollgate::gateway;
use tollgate::policy::{Policy, Unsettled};

use crate::support::beside::{Beside, Plan};
use crate::support::cable::{Cable, State};
use crate::support::gateway::{Gateway, deployed};
use crate::support::http::{Wire, call, post};
use crate::support::node::amount;
use crate::support::upstream::{Reply, Upstream, chunk};
use crate::support::{until, within};

const FILE: &str = "ext-authz-access-log.yaml";
const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"flat","messages":[]}"#;

/// Has a call pass whose end is lost on the way, and the next one be told of again.
async fn lost(unsettled: Unsettled) {
    let plan = Plan {
        policy: Policy {
            hold_ms_max: 2_000,
            unsettled,
            ..Policy::default()
        },
        ..Plan::default()
    };
    let beside = plan.start().await;
    let upstream = Upstream::start().await;
    let cable = Cable::to(beside.envoy).await;
    let envoy = Gateway::envoy(FILE, cable.at, upstream.address, &[]).await;
    upstream.then(Reply::json("{}"));
    assert_eq!(call(envoy.at, post(CHAT, ASK)).await.status(), 200);
    beside.check_spent(amount("1")).await;

    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut wire = Wire::connect(envoy.at).await;
    wire.send(post(CHAT, ASK)).await;
    pieces.send(chunk("data: {}\n\n")).unwrap();
    assert_eq!(wire.head().await.unwrap().status(), 200);
    assert!(wire.chunk().await.is_some());
    cable.set(State::Cut);
    pieces.send(chunk("data: [DONE]\n\n")).unwrap();
    pieces.send(b"0\r\n\r\n".to_vec()).unwrap();
    drop(pieces);
    while wire.chunk().await.is_some() {}
    until("Envoy tries to tell, and cannot", async || {
        (cable.turned_away() > 0).then_some(())
    })
    .await;
    let gate = &beside.node.core.gate;
    within(Duration::from_secs(10), "the hold expires", async || {
        (gate.expire_holds() == 1).then_some(())
    })
    .await;
    cable.set(State::Whole);
    let charged = unsettled == Unsettled::Charge;
    let listed = gate.unheard_calls();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].charged, charged);
    assert_eq!(listed[0].hold.amount, amount("1"));

    upstream.then(Reply::json("{}"));
    let passes = within(Duration::from_secs(10), "calls pass again", async || {
        let got = call(envoy.at, post(CHAT, ASK)).await;
        (got.status() == 200).then_some(())
    });
    passes.await;
    within(Duration::from_secs(10), "it is told of", async || {
        (beside.calls("settled") == 2).then_some(())
    })
    .await;
    let spent = if charged { "3" } else { "2" };
    beside.check_spent(amount(spent)).await;
    let twice = ["again", "late", "stray"].map(|result| beside.calls(result));
    assert_eq!((twice, beside.calls("expired")), ([0, 0, 0], 1));
    assert_eq!(gate.unheard_calls(), listed, "it was not told of");
}

#[tokio::test]
async fn what_is_lost_when_the_log_stream_is_cut_is_listed_and_let_go() {
    lost(Unsettled::Release).await;
}

#[tokio::test]
async fn what_is_lost_when_the_log_stream_is_cut_is_listed_and_charged() {
    lost(Unsettled::Charge).await;
}

#[tokio::test]
async fn of_two_tollgates_an_envoy_asks_and_tells_its_own_until_that_fails() {
    let (own, other) = (Beside::start().await, Beside::start().await);
    let upstream = Upstream::always(Reply::json("{}")).await;
    let port = own.envoy.port();
    let at = |priority: u16, port: u16| {
        format!(
            "- priority: {priority}\n            lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: \
             {{ address: 127.0.0.1, port_value: {port} }} }} }} }}]"
        )
    };
    let one = format!(
        "- lb_endpoints:\n              - endpoint:\n                  address:\n                    \
         socket_address: {{ address: 127.0.0.1, port_value: {port} }}"
    );
    let both = format!("{}\n          {}", at(0, port), at(1, other.envoy.port()));
    let checked = "health_checks:\n        - { timeout: 1s, interval: 0.2s, no_traffic_interval: 0.2s, unhealthy_threshold: 1, \
                   healthy_threshold: 1, grpc_health_check: {} }\n      load_assignment:\n        cluster_name: tollgate";
    let edits = [
        (one.as_str(), both),
        (
            "load_assignment:\n        cluster_name: tollgate",
            checked.to_owned(),
        ),
    ];
    for file in [FILE, "ext-authz-ext-proc.yaml"] {
        let (before, after) = (own.calls("settled"), other.calls("taken"));
        let envoy = Gateway::envoy(file, own.envoy, upstream.address, &edits).await;
        for _ in 0..20 {
            assert_eq!(call(envoy.at, post(CHAT, ASK)).await.status(), 200);
        }
        within(Duration::from_secs(10), "its own is told", async || {
            (own.calls("settled") == before + 20).then_some(())
        })
        .await;
        assert_eq!((other.calls("taken"), after), (0, 0), "{file}");
    }
    let envoy = Gateway::envoy(FILE, own.envoy, upstream.address, &edits).await;
    own.stop();
    within(
        Duration::from_secs(20),
        "calls go on at the other",
        async || {
            call(envoy.at, post(CHAT, ASK)).await;
            (other.calls("settled") >= 5).then_some(())
        },
    )
    .await;
    assert_eq!((own.calls("stray"), other.calls("stray")), (0, 0));
}

#[tokio::test]
async fn asked_twice_by_envoy_itself_the_hold_is_one() {
    // Two filters ask about one request. The first must leave the second the key.
    let plan = Plan {
        asked: gateway::Settings {
            forward_key: true,
            ..gateway::Settings::default()
        },
        ..Plan::default()
    };
    let beside: Beside = plan.start().await;
    let text = deployed(&format!("envoy/{FILE}"), &[]);
    let begin = text
        .find("                  - name: envoy.filters.http.ext_authz")
        .unwrap();
    let end = text
        .find("                  # What a plain answer")
        .unwrap();
    let filter = &text[begin..end];
    let second = filter.replace("envoy.filters.http.ext_authz\n", "ext_authz.again\n");
    let edits = [(filter, format!("{filter}{second}"))];
    let envoy = Gateway::envoy(FILE, beside.envoy, beside.model, &edits).await;
    let ask = r#"{"model":"flat","messages":[{"role":"user","content":"Say hello"}]}"#;
    assert_eq!(call(envoy.at, post(CHAT, ask)).await.status(), 200);
    beside.check_spent(amount("1")).await;
    let calls = ["taken", "repeated", "settled", "expired"].map(|result| beside.calls(result));
    assert_eq!(calls, [1, 1, 1, 0]);
}
