//! The gate over a real store: who passes, what it costs, and what is left.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::gate::{Caller, End, HoldError, HoldRequest, Outcome, SettleAs};
use tollgate::id::ReplicaId;
use tollgate::meter::Reading;
use tollgate::policy::{HoldRule, Policy};
use tollgate::refusal::Reason;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::sync;
use tollgate::telemetry::Levels;
use tollgate::usage::{Counts, Meter};

use crate::support::node::{Node, amount, call, terms};
use crate::support::until;

fn used(input: u64, output: u64) -> Outcome {
    let usage = Counts::default()
        .with(Meter::Input, input)
        .with(Meter::Output, output);
    let reading = Reading {
        usage: Some(usage),
        complete: true,
        error: false,
        text_bytes: 0,
    };
    Outcome {
        end: End::Complete,
        reading,
        bytes_in: 30,
        bytes_out: 100,
    }
}

#[tokio::test]
async fn a_call_costs_its_usage_times_its_price() {
    let node = Node::embedded();
    let account = node.account("a", "5").await;
    let ticket = node.admit("sk-a", "tokens").await.unwrap();
    assert_eq!(
        ticket.held(),
        amount("0.03"),
        "30 bytes are 10 tokens in, and 10 out"
    );
    assert_eq!(ticket.settle(used(100, 7)).amount, amount("0.114"));
    assert_eq!(node.balance(&account).await, amount("4.886"));
}

#[tokio::test]
async fn of_many_at_once_exactly_those_pass_that_are_paid_for() {
    let node = Node::embedded();
    let account = node.account("a", "20").await;
    let calls = (0..200).map(|_| {
        let gate = node.core.gate.clone();
        tokio::spawn(async move {
            let terms = terms();
            match gate.admit(&call("sk-a", "flat", &terms)).await {
                Ok(ticket) => Ok(ticket.settle(used(0, 0))),
                Err(refusal) => Err(refusal.reason),
            }
        })
    });
    let mut passed = 0;
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Ok(charge) => {
                assert_eq!(charge.amount, amount("1"));
                passed += 1;
            }
            Err(reason) => assert_eq!(reason, Reason::InsufficientBalance),
        }
    }
    assert_eq!(passed, 20);
    assert_eq!(node.balance(&account).await, amount("0"));
}

#[tokio::test]
async fn debt_stops_calls_and_the_next_recharge_pays_it_first() {
    let node = Node::embedded_with(Policy {
        hold: HoldRule::Fixed(amount("1")),
        ..Policy::default()
    });
    let account = node.account("a", "1").await;
    let ticket = node.admit("sk-a", "tokens").await.unwrap();
    assert_eq!(ticket.settle(used(3_000, 0)).amount, amount("3"));
    let refused = node.admit("sk-a", "tokens").await.unwrap_err();
    assert!(
        matches!(
            refused.reason,
            Reason::InsufficientBalance | Reason::AccountOverdue
        ),
        "{refused:?}"
    );
    assert_eq!(node.balance(&account).await, amount("-2"));

    node.recharge(&account, "o1", "2.5").await;
    assert_eq!(node.balance(&account).await, amount("0.5"));
    let refused = node.admit("sk-a", "tokens").await.unwrap_err();
    assert_eq!(
        refused.reason,
        Reason::InsufficientBalance,
        "half of a hold"
    );
    node.recharge(&account, "o2", "0.5").await;
    let ticket = node.admit("sk-a", "tokens").await.unwrap();
    drop(ticket);
    node.recharge(&account, "o2", "0.5").await;
    assert_eq!(
        node.balance(&account).await,
        amount("1"),
        "the same order counts once, a dropped ticket is free"
    );
}

#[tokio::test]
async fn a_restart_finds_the_books_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    for round in 1..=3_i64 {
        let node = Node::embedded_at(clock.clone(), dir.path(), Policy::default()).await;
        let account = match round {
            1 => node.account("a", "10").await,
            _ => tollgate::id::AccountId::new("a").unwrap(),
        };
        let ticket = node.admit("sk-a", "flat").await.unwrap();
        ticket.settle(used(0, 0));
        node.core.sync.close(Duration::from_secs(5)).await.unwrap();
        let snapshot = node.core.store.read(&account, &[]).await.unwrap().unwrap();
        let left = tollgate::money::Amount::from_units(10 - round).unwrap();
        assert_eq!(snapshot.book.balance(snapshot.spend), left);
        assert_eq!(snapshot.unleased, left, "nothing stays leased");
        let hour = clock.now().wall.hour().0;
        let (from, to) = (
            tollgate::clock::Hour(hour - 1),
            tollgate::clock::Hour(hour + 1),
        );
        let rows = node.core.store.usage(&account, from, to).await.unwrap();
        let spent: i64 = rows.iter().map(|row| row.tally.cost_nanos).sum();
        assert_eq!(spent, snapshot.spend.nanos(), "usage adds up to spend");
    }
}

#[tokio::test]
async fn keys_and_models_are_refused_in_a_fixed_order() {
    let node = Node::embedded();
    let account = node.account("a", "5").await;
    node.key(&account, "k-old", "sk-old", |key| {
        key.expires = Some(tollgate::clock::Timestamp::from_nanos(1))
    })
    .await;
    node.key(&account, "k-one", "sk-one", |key| {
        key.models = vec!["fl*".into()]
    })
    .await;
    for (secret, model, want) in [
        ("sk-none", "flat", Reason::KeyUnknown),
        ("sk-old", "unpriced", Reason::KeyExpired),
        ("sk-one", "unpriced", Reason::ModelNotAllowed),
        ("sk-one", "flop", Reason::ModelNotPriced),
        ("sk-a", "unpriced", Reason::ModelNotPriced),
    ] {
        let refused = node.admit(secret, model).await.unwrap_err();
        assert_eq!(refused.reason, want, "{secret} {model}");
    }
    node.key(&account, "k-one", "sk-one", |key| {
        key.revoked = Some(tollgate::clock::Timestamp::from_nanos(1))
    })
    .await;
    let refused = node.admit("sk-one", "flat").await.unwrap_err();
    assert_eq!(refused.reason, Reason::KeyRevoked, "at once");
}

#[tokio::test]
async fn a_ticket_that_is_dropped_is_counted_and_costs_nothing() {
    let node = Node::embedded();
    let account = node.account("a", "5").await;
    let admit = async || node.admit("sk-a", "flat").await.unwrap();
    drop(admit().await);
    admit().await.settle(used(0, 0));
    let metrics = node.core.gate.metrics().render(&Levels::default());
    assert!(
        metrics.contains("tollgate_calls_abandoned_total 1\n"),
        "{metrics}"
    );
    assert_eq!(node.balance(&account).await, amount("4"));
}

#[tokio::test]
async fn what_is_settled_is_published_by_the_schedule_alone() {
    let node = Node::embedded();
    let account = node.account("a", "5").await;
    let ticket = node.admit("sk-a", "flat").await.unwrap();
    ticket.settle(used(0, 0));
    let spent = async || {
        let snapshot = node.core.store.read(&account, &[]).await.unwrap().unwrap();
        (snapshot.spend == amount("1")).then_some(())
    };
    until("the schedule publishes", spent).await;
}

#[tokio::test]
async fn the_rate_that_a_first_call_sees_is_that_of_its_admission() {
    let node = Node::embedded_with(Policy {
        qps: Some(1),
        burst: Some(3),
        ..Policy::default()
    });
    node.account("a", "5").await;
    let ticket = node.admit("sk-a", "flat").await.unwrap();
    let rate = ticket.rate().unwrap();
    assert_eq!((rate.limit, rate.burst, rate.remaining), (1, 3, 2));
}

#[tokio::test]
async fn a_hold_is_settled_where_it_was_taken_and_elsewhere_that_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path(), clock.clone()).unwrap());
    let node = |name: &str| {
        let name = ReplicaId::new(name).unwrap();
        let settings = sync::Settings::default();
        Node::over(
            Arc::clone(&store),
            name,
            clock.clone(),
            Policy::default(),
            settings,
        )
    };
    let (one, other) = (node("gateway-1"), node("gateway-2"));
    let account = one.account("a", "5").await;
    // The request's own id may have any character.
    let request = HoldRequest {
        caller: Caller::Secret("sk-a".into()),
        model: Some("flat".into()),
        amount: None,
        input: None,
        max_output: None,
        ttl: None,
        request_id: "gateway-2~1".into(),
    };
    let grant = one.core.gate.hold(request).await.unwrap();
    let as_one = SettleAs::Amount(amount("1"));
    let elsewhere = HoldError::Elsewhere {
        id: grant.id.clone(),
        taken_on: ReplicaId::new("gateway-1").unwrap(),
        here: ReplicaId::new("gateway-2").unwrap(),
    };
    let gate = &other.core.gate;
    assert_eq!(gate.settle_hold(&grant.id, as_one), Err(elsewhere.clone()));
    assert_eq!(gate.release_hold(&grant.id), Err(elsewhere.clone()));
    assert_eq!(
        gate.settle_call(&grant.id, &used(1, 1)),
        Err(elsewhere.clone())
    );
    assert!(
        elsewhere
            .to_string()
            .contains("taken on replica `gateway-1`")
    );
    let gate = &one.core.gate;
    assert!(gate.settle_hold(&grant.id, as_one).is_ok());
    assert_eq!(one.balance(&account).await, amount("4"));
    for never in ["a~gateway-1~2", "a~2", "a", "a~not a replica~2"] {
        let unknown = Err(HoldError::Unknown(never.into()));
        assert_eq!(gate.release_hold(never), unknown);
    }
}

#[tokio::test]
async fn an_account_with_nothing_left_is_refused_without_asking_again() {
    let mut settings = sync::Settings::default();
    settings.times.interval = Duration::from_secs(3_600);
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let store = Embedded::open(dir.path(), clock.clone()).unwrap();
    let replica = store.replica();
    let node = Node::over(Arc::new(store), replica, clock, Policy::default(), settings);
    node.account("a", "1").await;
    node.admit("sk-a", "flat").await.unwrap().settle(used(0, 0));
    for _ in 0..20 {
        let refused = node.admit("sk-a", "flat").await.unwrap_err();
        assert_eq!(refused.reason, Reason::InsufficientBalance);
    }
    assert_eq!(
        node.core.sync.status().refill_waits,
        2,
        "one for the lease, one to learn that there is no more"
    );
}
