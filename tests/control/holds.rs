//! HoldService.

use tollgate::proto::v1;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use v1::hold_request::Caller;
use v1::hold_service_client::HoldServiceClient;
use v1::settle_request::Cost;

use super::{Api, UNIT, refused, said, usd, violations};

fn client(api: &Api) -> HoldServiceClient<Channel> {
    HoldServiceClient::new(api.channel.clone())
}

fn by_secret(name: &str, units: i64, request: &str) -> v1::HoldRequest {
    v1::HoldRequest {
        caller: Some(Caller::Secret(format!("sk-secret-{name}"))),
        amount: usd(units),
        request_id: request.into(),
        ..v1::HoldRequest::default()
    }
}

fn settle(id: &str, cost: Cost) -> v1::SettleRequest {
    v1::SettleRequest {
        hold_id: id.into(),
        cost: Some(cost),
    }
}

async fn hold(api: &Api, request: v1::HoldRequest) -> v1::Hold {
    let answer = client(api).hold(request).await.unwrap();
    answer.into_inner().hold.unwrap()
}

#[tokio::test]
async fn a_hold_is_settled_once_to_what_the_call_cost() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let held = hold(&api, by_secret("a", 3, "")).await;
    assert_eq!(
        (held.amount, held.account_id.as_str(), held.key_id.as_str()),
        (usd(3), "a", "k-a")
    );
    let seen = api.get("a").await;
    assert_eq!(
        (seen.held, seen.available, seen.balance),
        (usd(3), usd(2), usd(5))
    );
    let cost = Cost::Amount(v1::Amount {
        unit: "USD".into(),
        nanos: 2 * UNIT,
    });
    let first = client(&api)
        .settle(settle(&held.hold_id, cost))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            first.charge.as_ref().unwrap().amount.clone(),
            first.replayed
        ),
        (usd(2), false)
    );
    // A lost answer: the repeat says something else, and the first settlement stands.
    let other = Cost::Amount(v1::Amount {
        unit: String::new(),
        nanos: UNIT,
    });
    let again = client(&api)
        .settle(settle(&held.hold_id, other))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((again.charge, again.replayed), (first.charge, true));
    let seen = api.get("a").await;
    assert_eq!((seen.held, seen.balance), (usd(0), usd(3)));
    let release = v1::ReleaseRequest {
        hold_id: held.hold_id,
    };
    assert_eq!(
        refused(client(&api).release(release).await),
        said(Code::FailedPrecondition, "HOLD_SETTLED")
    );
}

#[tokio::test]
async fn a_hold_is_settled_by_counts_at_the_price_of_its_model() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let request = v1::HoldRequest {
        caller: Some(Caller::Key(v1::KeyName {
            account_id: "a".into(),
            key_id: "k-a".into(),
        })),
        model: "tokens".into(),
        input_tokens: Some(100),
        max_output_tokens: Some(50),
        ..v1::HoldRequest::default()
    };
    let held = hold(&api, request).await;
    assert_eq!(
        held.amount.unwrap().nanos,
        200_000_000,
        "100 in at 0.001 and 50 out at 0.002"
    );
    let counts = v1::MeterCounts {
        counts: vec![
            v1::MeterCount {
                meter: v1::Meter::Input.into(),
                count: 100,
            },
            v1::MeterCount {
                meter: v1::Meter::Output.into(),
                count: 7,
            },
        ],
    };
    let settled = client(&api)
        .settle(settle(&held.hold_id, Cost::Counts(counts)))
        .await
        .unwrap();
    let charge = settled.into_inner().charge.unwrap();
    assert_eq!(charge.amount.unwrap().nanos, 114_000_000);
    assert_eq!(
        (charge.certainty, charge.counts.len()),
        (v1::Certainty::Exact.into(), 3)
    );
    assert_eq!(
        api.get("a").await.balance.unwrap().nanos,
        5 * UNIT - 114_000_000
    );
}

#[tokio::test]
async fn a_released_hold_costs_nothing_and_cannot_be_settled() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let held = hold(&api, by_secret("a", 5, "")).await;
    let release = v1::ReleaseRequest {
        hold_id: held.hold_id.clone(),
    };
    client(&api).release(release.clone()).await.unwrap();
    client(&api).release(release).await.unwrap();
    let cost = Cost::Amount(usd(1).unwrap());
    let settled = client(&api).settle(settle(&held.hold_id, cost)).await;
    assert_eq!(
        refused(settled),
        said(Code::FailedPrecondition, "HOLD_RELEASED")
    );
    assert_eq!(api.get("a").await.available, usd(5));
}

#[tokio::test]
async fn the_same_request_id_gives_the_same_hold() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let first = hold(&api, by_secret("a", 3, "r1")).await;
    let again = hold(&api, by_secret("a", 3, "r1")).await;
    assert_eq!(first, again);
    assert_eq!(api.get("a").await.held, usd(3));
    let mut wrong = by_secret("a", 3, "r1");
    wrong.amount.as_mut().unwrap().unit = "EUR".into();
    assert_eq!(
        refused(client(&api).hold(wrong).await),
        said(Code::InvalidArgument, "UNIT_MISMATCH")
    );
    assert_eq!(
        api.get("a").await.held,
        usd(3),
        "the hold of the first request stands"
    );
}

#[tokio::test]
async fn no_two_accounts_mean_the_same_hold() {
    let api = Api::start().await;
    let hold_of = async |account: &str, request: &str| {
        api.account(account, 5).await;
        let key = v1::Key {
            account_id: account.into(),
            key_id: "k".into(),
            ..v1::Key::default()
        };
        let secret = String::new();
        let key = v1::CreateKeyRequest {
            key: Some(key),
            secret,
        };
        api.keys().create_key(key).await.unwrap();
        let name = v1::KeyName {
            account_id: account.into(),
            key_id: "k".into(),
        };
        let request = v1::HoldRequest {
            caller: Some(Caller::Key(name)),
            ..by_secret(account, 1, request)
        };
        hold(&api, request).await
    };
    let (one, other) = (hold_of("a", "b:c").await, hold_of("a:b", "c").await);
    assert_eq!(
        (one.account_id.as_str(), other.account_id.as_str()),
        ("a", "a:b")
    );
    assert_ne!(one.hold_id, other.hold_id);
}

#[tokio::test]
async fn refusals_keep_their_reasons() {
    let api = Api::start().await;
    api.account("a", 1).await;
    let check = async |request: v1::HoldRequest, code: Code, reason: &str| {
        assert_eq!(
            refused(client(&api).hold(request).await),
            said(code, reason)
        );
    };
    check(
        by_secret("a", 2, ""),
        Code::ResourceExhausted,
        "INSUFFICIENT_BALANCE",
    )
    .await;
    check(
        by_secret("nobody", 1, ""),
        Code::PermissionDenied,
        "KEY_UNKNOWN",
    )
    .await;
    let stranger = Caller::Key(v1::KeyName {
        account_id: "b".into(),
        key_id: "k-a".into(),
    });
    let stranger = v1::HoldRequest {
        caller: Some(stranger),
        ..by_secret("a", 1, "")
    };
    check(stranger, Code::PermissionDenied, "KEY_UNKNOWN").await;
    let unpriced = v1::HoldRequest {
        amount: None,
        model: "unknown".into(),
        ..by_secret("a", 1, "")
    };
    check(unpriced, Code::FailedPrecondition, "MODEL_NOT_PRICED").await;
    assert_eq!(api.get("a").await.available, usd(1), "nothing is held");
}

#[tokio::test]
async fn wrong_requests_are_named() {
    let api = Api::start().await;
    api.account("a", 5).await;
    let check = async |request: v1::HoldRequest, field: &str| {
        assert_eq!(violations(client(&api).hold(request).await), [field]);
    };
    check(
        v1::HoldRequest {
            caller: None,
            ..by_secret("a", 1, "")
        },
        "caller",
    )
    .await;
    check(
        v1::HoldRequest {
            amount: None,
            ..by_secret("a", 1, "")
        },
        "model",
    )
    .await;
    check(by_secret("a", -1, ""), "amount").await;
    check(by_secret("a", 1, "with space"), "request_id").await;
    let ttl = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    check(
        v1::HoldRequest {
            ttl,
            ..by_secret("a", 1, "")
        },
        "ttl",
    )
    .await;
    let cost = Cost::Amount(usd(1).unwrap());
    let unknown = client(&api).settle(settle("a:nothing", cost)).await;
    assert_eq!(refused(unknown), said(Code::NotFound, "HOLD_NOT_FOUND"));
    let cost = Cost::Amount(usd(1).unwrap());
    let elsewhere = client(&api).settle(settle("a~gateway-2~1", cost)).await;
    let status = elsewhere.unwrap_err();
    let info = status.get_error_details().error_info().cloned().unwrap();
    assert_eq!(
        (
            status.code(),
            info.reason.as_str(),
            &info.metadata["replica"]
        ),
        (
            Code::FailedPrecondition,
            "HOLD_ELSEWHERE",
            &"gateway-2".to_owned()
        )
    );
    let held = hold(&api, by_secret("a", 1, "")).await;
    let none = v1::SettleRequest {
        hold_id: held.hold_id.clone(),
        cost: None,
    };
    assert_eq!(violations(client(&api).settle(none).await), ["cost"]);
    let negative = Cost::Amount(usd(-1).unwrap());
    assert_eq!(
        violations(client(&api).settle(settle(&held.hold_id, negative)).await),
        ["amount"]
    );
    let foreign = Cost::Amount(v1::Amount {
        unit: "EUR".into(),
        nanos: 1,
    });
    assert_eq!(
        violations(client(&api).settle(settle(&held.hold_id, foreign)).await),
        ["amount.unit"]
    );
    let counts = Cost::Counts(v1::MeterCounts::default());
    assert_eq!(
        violations(client(&api).settle(settle(&held.hold_id, counts)).await),
        ["counts"]
    );
    assert_eq!(
        api.get("a").await.held,
        usd(1),
        "a settlement that fails leaves the hold"
    );
}

/// A hold of a call that a plan pays for is not settled in time: the plan pays all the same, as far as it has something left.
#[tokio::test]
async fn a_settlement_that_comes_late_goes_to_the_plan_that_the_hold_stood_on() {
    let (api, clock) = Api::under(tollgate::policy::Policy::default()).await;
    api.account("a", 5).await;
    let points = |units: i64| {
        Some(v1::Amount {
            unit: "points".into(),
            nanos: units * UNIT,
        })
    };
    let price = v1::SetPriceRequest {
        price: Some(v1::Price {
            pattern: "flat".into(),
            unit: "points".into(),
            rates: vec![v1::Rate {
                meter: v1::Meter::Request.into(),
                price: points(2),
                per: v1::Per::Unit.into(),
            }],
            ..v1::Price::default()
        }),
        ..v1::SetPriceRequest::default()
    };
    let mut prices = v1::price_service_client::PriceServiceClient::new(api.channel.clone());
    prices.set_price(price).await.unwrap();
    let mut plans = v1::plan_service_client::PlanServiceClient::new(api.channel.clone());
    let buy = v1::BuyPlanRequest {
        account_id: "a".into(),
        request_id: "1".into(),
        order_id: "o1".into(),
        plan_id: "p".into(),
        amount: points(3),
        ..v1::BuyPlanRequest::default()
    };
    plans.buy_plan(buy).await.unwrap();
    let remaining = async || {
        let list = v1::ListPlansRequest {
            account_id: "a".into(),
            ..v1::ListPlansRequest::default()
        };
        let mut plans = v1::plan_service_client::PlanServiceClient::new(api.channel.clone());
        let listed = plans.list_plans(list).await.unwrap().into_inner();
        listed.plans[0].remaining.clone()
    };
    let request = |id: &str| v1::HoldRequest {
        caller: Some(Caller::Secret("sk-secret-a".into())),
        model: "flat".into(),
        ttl: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        request_id: id.into(),
        ..v1::HoldRequest::default()
    };
    let counts = || Cost::Counts(v1::MeterCounts { counts: Vec::new() });
    let core = &api.node.core;
    let mut holds = Vec::new();
    for id in ["first", "second"] {
        holds.push(hold(&api, request(id)).await);
        clock.advance(std::time::Duration::from_secs(60));
        assert_eq!(core.gate.expire_holds(), 1);
    }
    // What is not held has gone back to the store.
    let plan = tollgate::id::AccountId::stored("a!p").unwrap();
    core.sync.give_back(&plan).await.unwrap();
    assert_eq!(remaining().await, points(3));
    for (held, paid, left, balance) in [(&holds[1], 0, 1, 5 * UNIT), (&holds[0], UNIT / 2, 0, 0)] {
        let settled = client(&api).settle(settle(&held.hold_id, counts())).await;
        let charge = settled.unwrap().into_inner().charge.unwrap();
        let counted = (charge.amount.unwrap().nanos, remaining().await);
        assert_eq!(counted, (paid, points(left)));
        if balance > 0 {
            assert_eq!(api.get("a").await.balance.unwrap().nanos, balance);
        }
        core.sync.give_back(&plan).await.unwrap();
    }
    assert_eq!(
        api.get("a").await.balance.unwrap().nanos,
        5 * UNIT - UNIT / 2
    );
}
