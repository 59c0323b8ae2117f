//! Offline licences through the gate and the proxy: they pass with no store and whatever is owed, exactly from their first instant to
//! their end, and what they use is counted (A1-11).

mod restarts;

use std::sync::Arc;
use std::time::Duration;

use tollgate::catalog::Layer;
use tollgate::clock::{Clock, Hour, Timestamp};
use tollgate::gate::{Call, Caller, End, HoldRequest, Outcome, SettleAs, Ticket};
use tollgate::id::{AccountId, ReplicaId};
use tollgate::ledger::{Action, Command};
use tollgate::licence::{Issued, Keys, Licence, Signer};
use tollgate::meter::Reading;
use tollgate::policy::Policy;
use tollgate::refusal::{Reason, Refusal};
use tollgate::store::Store;
use tollgate::store::redis::{Reach, RedisStore, Settings as RedisSettings};
use tollgate::sync::Settings;
use tollgate::telemetry::Levels;
use tollgate::usage::{Counts, Meter};

use crate::support::edge::Plan;
use crate::support::http::{call, post};
use crate::support::node::{Node, amount, layer, terms};
use crate::support::until;
use crate::support::upstream::{Reply, Upstream};

const ACTIVATES: i64 = 1_790_000_000_000_000_000;
const DAY: i64 = 86_400_000_000_000;
const FOR_EVER: i64 = i64::MAX;

fn signer() -> Signer {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    Signer::from_pem("2026", pair.serialize_pem().as_bytes()).unwrap()
}

fn keys(signer: &Signer) -> Keys {
    Keys::from([(signer.kid().to_owned(), signer.public_key())])
}

/// For `flat` and `tokens`, under the account `a`.
fn licence(activates: i64, expires: i64) -> Licence {
    Licence {
        id: "lic-1".into(),
        kid: String::new(),
        account: AccountId::new("a").unwrap(),
        activates: Timestamp::from_nanos(activates),
        expires: Timestamp::from_nanos(expires),
        models: vec!["fl*".into(), "tokens".into()],
    }
}

fn under(signer: &Signer, clock: Clock) -> Node {
    let layer = Layer {
        licence_keys: keys(signer),
        ..layer(Policy::default())
    };
    Node::embedded_under(clock, layer)
}

/// Over a Redis that is not there.
fn alone(signer: &Signer) -> Node {
    let layer = Layer {
        licence_keys: keys(signer),
        ..layer(Policy::default())
    };
    let clock = Clock::system();
    let settings = RedisSettings {
        reach: Reach::Server("redis://127.0.0.1:1".into()),
        connect_timeout: Duration::from_millis(50),
        ..RedisSettings::default()
    };
    let store: Arc<dyn Store> = Arc::new(RedisStore::connect(settings, clock.clone()).unwrap());
    let settings = Settings {
        load_wait: Duration::from_millis(100),
        ..Settings::default()
    };
    let replica = ReplicaId::new("alone").unwrap();
    Node::configured(store, replica, clock, layer, settings)
}

async fn admit(node: &Node, licence: &str, model: &str) -> Result<Ticket, Refusal> {
    let terms = terms();
    let call = Call {
        secret: Some(licence.as_bytes()),
        terms: &terms,
        model: Some(model),
        max_output: Some(10),
        choices: 1,
        request_bytes: 30,
    };
    node.core.gate.admit(&call).await
}

async fn refused(node: &Node, licence: &str, model: &str) -> Option<Reason> {
    match admit(node, licence, model).await {
        Ok(ticket) => {
            ticket.settle(outcome());
            None
        }
        Err(refusal) => Some(refusal.reason),
    }
}

fn outcome() -> Outcome {
    let usage = Counts::default()
        .with(Meter::Input, 100)
        .with(Meter::Output, 7);
    Outcome {
        end: End::Complete,
        reading: Reading {
            usage: Some(usage),
            complete: true,
            error: false,
            text_bytes: 0,
        },
        bytes_in: 30,
        bytes_out: 100,
    }
}

fn metrics(node: &Node) -> String {
    node.core.gate.metrics().render(&Levels::default())
}

#[tokio::test]
async fn a_licence_passes_with_the_store_gone_and_no_account_loaded() {
    let signer = signer();
    let node = alone(&signer);
    let text = signer.sign(licence(0, FOR_EVER)).unwrap();
    let ticket = admit(&node, &text, "tokens").await.unwrap();
    assert_eq!(
        (ticket.account().as_str(), ticket.key().as_str()),
        ("a", "licence:lic-1")
    );
    assert_eq!((ticket.held(), ticket.rate()), (amount("0"), None));
    let charge = ticket.settle(outcome());
    assert_eq!(charge.amount, amount("0"));
    assert_eq!(charge.counts.get(Meter::Output), 7);
    assert_eq!(
        refused(&node, &text, "other").await,
        Some(Reason::ModelNotAllowed)
    );
    let forged = text.replace("tgl1.ey", "tgl1.eY");
    for _ in 0..2 {
        assert_eq!(
            refused(&node, &forged, "flat").await,
            Some(Reason::KeyUnknown)
        );
    }
    // What needs the store waits for it, and is refused for that.
    assert_eq!(
        refused(&node, "sk-a", "flat").await,
        Some(Reason::StateUnavailable)
    );
    let metrics = metrics(&node);
    for line in [
        "tollgate_licence_calls_total{outcome=\"admitted\"} 1\n",
        "tollgate_licence_calls_total{outcome=\"model_not_allowed\"} 1\n",
        "tollgate_licence_calls_total{outcome=\"forged\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn its_time_is_exact_to_the_nanosecond() {
    let signer = signer();
    let clock = Clock::manual(Timestamp::from_nanos(ACTIVATES - 1));
    let node = under(&signer, clock.clone());
    let text = signer.sign(licence(ACTIVATES, ACTIVATES + DAY)).unwrap();
    let step = |nanos: i64| clock.advance(Duration::from_nanos(nanos.unsigned_abs()));
    assert_eq!(
        refused(&node, &text, "flat").await,
        Some(Reason::KeyUnknown)
    );
    step(1);
    assert_eq!(refused(&node, &text, "flat").await, None);
    step(DAY - 1);
    assert_eq!(refused(&node, &text, "flat").await, None);
    step(1);
    assert_eq!(
        refused(&node, &text, "flat").await,
        Some(Reason::KeyExpired)
    );
    step(1);
    assert_eq!(
        refused(&node, &text, "flat").await,
        Some(Reason::KeyExpired)
    );
    // Whoever holds a body back for callers that are known, asks the same.
    let known = node.core.gate.recognise(Some(text.as_bytes())).await;
    assert_eq!(known.unwrap_err().reason, Reason::KeyExpired);
}

#[tokio::test]
async fn what_it_uses_is_counted_and_the_debt_of_its_account_does_not_matter() {
    let signer = signer();
    let node = under(&signer, Clock::system());
    let account = node.account("a", "1").await;
    let charge = Command {
        idempotency_key: None,
        action: Action::LateCharge {
            amount: amount("5"),
            key: None,
            model: None,
            note: String::new(),
        },
    };
    node.core.books.run(&account, charge).await.unwrap();
    assert!(
        node.admit("sk-a", "flat").await.is_err(),
        "it is loaded, and overdue"
    );
    let text = signer.sign(licence(0, FOR_EVER)).unwrap();
    for _ in 0..3 {
        assert_eq!(refused(&node, &text, "tokens").await, None);
    }
    // A call that is dropped costs nothing either.
    drop(admit(&node, &text, "tokens").await.unwrap());
    assert_eq!(node.balance(&account).await, amount("-4"));
    node.core.sync.sync_now().await.unwrap();
    let Hour(hour) = node.core.clock.now().wall.hour();
    let rows = node
        .core
        .store
        .usage(&account, Hour(hour - 1), Hour(hour + 1))
        .await
        .unwrap();
    let row = rows
        .iter()
        .find(|row| row.key.as_str() == "licence:lic-1")
        .unwrap();
    assert_eq!((row.tally.exact, row.tally.cost_nanos), (3, 0));
    assert_eq!(row.tally.counts.get(Meter::Input), 300);
    assert_eq!(row.model.as_ref().unwrap().as_str(), "tokens");
    assert!(metrics(&node).contains("tollgate_licence_calls_uncounted_total 0\n"));
}

#[tokio::test]
async fn an_account_that_is_not_loaded_is_loaded_beside_the_call() {
    let signer = signer();
    let node = under(&signer, Clock::system());
    let account = node.account("a", "1").await;
    let text = signer.sign(licence(0, FOR_EVER)).unwrap();
    assert_eq!(refused(&node, &text, "flat").await, None);
    assert!(metrics(&node).contains("tollgate_licence_calls_uncounted_total 1\n"));
    until("its account is loaded", async || {
        node.core.gate.engine().account(&account).map(drop)
    })
    .await;
    assert_eq!(refused(&node, &text, "flat").await, None);
    assert!(metrics(&node).contains("tollgate_licence_calls_uncounted_total 1\n"));
}

#[tokio::test]
async fn one_that_is_taken_back_is_refused_from_that_instant_on() {
    let signer = signer();
    let clock = Clock::manual(Timestamp::from_nanos(ACTIVATES));
    let node = under(&signer, clock.clone());
    let text = signer.sign(licence(ACTIVATES, FOR_EVER)).unwrap();
    let issued = Issued {
        licence: licence(ACTIVATES, FOR_EVER),
        issued: Timestamp::from_nanos(ACTIVATES),
        revoked: Some(Timestamp::from_nanos(ACTIVATES + 2)),
        note: String::new(),
    };
    assert_eq!(refused(&node, &text, "flat").await, None);
    let (catalog, store) = (&node.core.catalog, &*node.core.store);
    let all = [("lic-1".to_owned(), issued)].into();
    assert_eq!(catalog.set_licences(store, 0, all).await.unwrap(), 1);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(refused(&node, &text, "flat").await, None);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(
        refused(&node, &text, "flat").await,
        Some(Reason::KeyRevoked)
    );
    assert!(
        catalog
            .set_licences(store, 0, Default::default())
            .await
            .is_err(),
        "an old version"
    );
    catalog
        .set_licences(store, 1, Default::default())
        .await
        .unwrap();
    assert_eq!(refused(&node, &text, "flat").await, None);
}

#[tokio::test]
async fn a_hold_through_the_api_is_of_nothing_and_its_usage_counts() {
    let signer = signer();
    let node = under(&signer, Clock::system());
    let account = node.account("a", "0").await;
    node.core.sync.account(&account).await.unwrap();
    let text = signer.sign(licence(0, FOR_EVER)).unwrap();
    let request = |text: &str, model: &str| HoldRequest {
        caller: Caller::Secret(text.into()),
        model: Some(model.into()),
        amount: Some(amount("5")),
        input: None,
        max_output: None,
        ttl: None,
        request_id: "r1".into(),
    };
    let gate = &node.core.gate;
    assert!(gate.hold(request(&text, "other")).await.is_err());
    let grant = gate.hold(request(&text, "flat")).await.unwrap();
    assert_eq!(
        (grant.amount, grant.key.as_str()),
        (amount("0"), "licence:lic-1")
    );
    assert_eq!(
        gate.hold(request(&text, "flat")).await.unwrap(),
        grant,
        "the same again"
    );
    let charge = gate
        .settle_hold(&grant.id, SettleAs::Amount(amount("0")))
        .unwrap();
    assert_eq!(charge.amount, amount("0"));
    assert_eq!(gate.engine().account(&account).unwrap().in_flight(), 0);
}

#[tokio::test]
async fn without_keys_to_check_them_there_are_no_licences() {
    let node = Node::embedded();
    let account = node.account("a", "5").await;
    node.key(&account, "k-odd", "tgl1.a.b", |_| ()).await;
    assert_eq!(refused(&node, "tgl1.a.b", "flat").await, None);
    let text = signer().sign(licence(0, FOR_EVER)).unwrap();
    assert_eq!(
        refused(&node, &text, "flat").await,
        Some(Reason::KeyUnknown)
    );
}

#[tokio::test]
async fn through_the_proxy_it_is_presented_as_a_key_is() {
    const CHAT: &str = "/v1/chat/completions";
    const ASK: &str = r#"{"model":"tokens","max_tokens":10,"messages":[]}"#;
    const SAID: &str = r#"{"id":"1","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107}}"#;
    let signer = signer();
    let upstream = Upstream::start().await;
    let mut plan = Plan::before(upstream.address);
    plan.licence_keys = keys(&signer);
    plan.money = "0";
    let edge = plan.start().await;
    edge.node.core.sync.account(&edge.account).await.unwrap();
    let ask = |secret: &str, body: &str| post(CHAT, body).replace("sk-a", secret);
    let good = signer.sign(licence(0, FOR_EVER)).unwrap();
    upstream.then(Reply::json(SAID));
    let got = call(edge.address, ask(&good, ASK)).await;
    assert_eq!((got.status(), got.text().as_str()), (200, SAID));
    assert_eq!(
        upstream.seen()[0].header("authorization"),
        None,
        "it stays here"
    );
    edge.check_spent("0").await;
    edge.node.core.sync.sync_now().await.unwrap();
    let Hour(hour) = edge.node.core.clock.now().wall.hour();
    let store = &edge.node.core.store;
    let rows = store
        .usage(&edge.account, Hour(hour - 1), Hour(hour + 1))
        .await
        .unwrap();
    let outputs = rows.iter().map(|row| row.tally.counts.get(Meter::Output));
    assert_eq!(outputs.sum::<u64>(), 7);

    let over = signer.sign(licence(0, 1)).unwrap();
    let cut = &good[..good.len() - 1];
    for (secret, body, status, reason) in [
        (over.as_str(), ASK, 401, "KEY_EXPIRED"),
        (cut, ASK, 401, "KEY_UNKNOWN"),
        (
            &good,
            r#"{"model":"other","messages":[]}"#,
            403,
            "MODEL_NOT_ALLOWED",
        ),
    ] {
        let got = call(edge.address, ask(secret, body)).await;
        assert_eq!(got.status(), status, "{reason}: {}", got.text());
        assert_eq!(got.header("x-tollgate-reason"), Some(reason));
    }
    assert_eq!(upstream.seen().len(), 1);
}
