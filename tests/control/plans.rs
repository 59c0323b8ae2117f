//! PlanService, and the bounds of purchases.

use std::time::Duration;

use tollgate::policy::Policy;
use tollgate::proto::v1::{self, PlanState, QpsPlanState};
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::plan_service_client::PlanServiceClient;

use super::{Api, UNIT, at, recharge, refused, said, usd, violations};
use crate::support::node::amount;
use crate::support::until;

fn client(api: &Api) -> PlanServiceClient<Channel> {
    PlanServiceClient::new(api.channel.clone())
}

fn points(units: i64) -> Option<v1::Amount> {
    Some(v1::Amount {
        unit: "points".into(),
        nanos: units * UNIT,
    })
}

fn buy(request: &str, order: &str, units: i64) -> v1::BuyPlanRequest {
    v1::BuyPlanRequest {
        account_id: "a".into(),
        request_id: request.into(),
        order_id: order.into(),
        plan_id: "vision".into(),
        amount: points(units),
        models: vec!["flat".into()],
        ..v1::BuyPlanRequest::default()
    }
}

fn rate(request: &str, order: &str, qps: u32, start: i64, end: i64) -> v1::BuyQpsPlanRequest {
    v1::BuyQpsPlanRequest {
        account_id: "a".into(),
        request_id: request.into(),
        order_id: order.into(),
        plan_id: "fast".into(),
        qps,
        burst: None,
        start_time: at(start),
        expire_time: at(end),
        price: None,
    }
}

async fn plans(api: &Api, usable_only: bool) -> Vec<v1::Plan> {
    let request = v1::ListPlansRequest {
        account_id: "a".into(),
        usable_only,
        ..v1::ListPlansRequest::default()
    };
    client(api)
        .list_plans(request)
        .await
        .unwrap()
        .into_inner()
        .plans
}

/// Purchases of 5 to 100, of 50 in tier `new`.
fn bounded() -> Policy {
    Policy {
        purchase_min: Some(amount("5")),
        purchase_max: Some(amount("100")),
        purchase_max_by_tier: [("new".to_owned(), amount("50"))].into(),
        ..Policy::default()
    }
}

#[tokio::test]
async fn a_plan_is_credit_of_its_own_and_counts_once() {
    let (api, _) = Api::under(Policy::default()).await;
    api.open("a").await.unwrap();
    let first = client(&api)
        .buy_plan(buy("1", "o1", 100))
        .await
        .unwrap()
        .into_inner();
    let plan = first.plan.unwrap();
    assert_eq!(
        (plan.plan_id.as_str(), plan.unit.as_str(), plan.state()),
        ("vision", "points", PlanState::Active)
    );
    assert_eq!(
        (
            plan.remaining.clone(),
            plan.lifetime_credit.clone(),
            plan.models
        ),
        (points(100), points(100), vec!["flat".to_owned()])
    );
    assert_eq!(first.entry.unwrap().kind(), v1::EntryKind::PlanPurchase);
    let again = client(&api)
        .buy_plan(buy("1", "o1", 100))
        .await
        .unwrap()
        .into_inner();
    assert!(again.replayed);
    let more = v1::BuyPlanRequest {
        models: Vec::new(),
        ..buy("2", "o2", 50)
    };
    let more = client(&api).buy_plan(more).await.unwrap().into_inner();
    assert_eq!(more.plan.unwrap().remaining.clone(), points(150));
    let other = client(&api).buy_plan(buy("1", "o1", 7)).await;
    assert_eq!(
        refused(other),
        said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );
    let order = client(&api).buy_plan(buy("3", "o1", 100)).await;
    assert_eq!(refused(order), said(Code::AlreadyExists, "ORDER_REUSED"));
    let account = api.get("a").await;
    assert_eq!(
        (account.balance.clone(), account.cumulative_recharge.clone()),
        (usd(0), usd(0)),
        "no money moved"
    );
    assert_eq!(account.plans[0].remaining.clone(), points(150));
    // Its account is read by its name and changed by nobody.
    let purse = plan.purse_account_id;
    assert_eq!(api.get(&purse).await.unit, "points");
    let direct = api.credit().recharge(recharge(&purse, "r", "o", 1)).await;
    assert_eq!(violations(direct), ["account_id"]);
    let listed = api
        .accounts()
        .list_accounts(v1::ListAccountsRequest::default())
        .await;
    assert_eq!(listed.unwrap().into_inner().accounts.len(), 1);
    assert_eq!(plans(&api, true).await.len(), 1);
}

#[tokio::test]
async fn a_key_stands_for_one_purchase_of_one_plan() {
    let (api, _) = Api::under(Policy::default()).await;
    api.account("a", 5).await;
    let reused = said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");
    // One that a payment has.
    let paid = client(&api).buy_plan(buy("first", "o1", 100)).await;
    assert_eq!(refused(paid), reused);
    assert!(plans(&api, false).await.is_empty(), "nothing is half there");
    client(&api).buy_plan(buy("1", "o1", 100)).await.unwrap();
    // One that another plan has.
    let other = v1::BuyPlanRequest {
        plan_id: "other".into(),
        ..buy("1", "o2", 100)
    };
    let bought = client(&api).buy_plan(other.clone()).await;
    assert_eq!(refused(bought), reused);
    let names = async || -> Vec<String> {
        let plans = plans(&api, false).await;
        plans.into_iter().map(|plan| plan.plan_id).collect()
    };
    assert_eq!(names().await, ["vision"], "nothing is half there");
    let free = v1::BuyPlanRequest {
        request_id: "2".into(),
        ..other
    };
    client(&api).buy_plan(free.clone()).await.unwrap();
    assert_eq!(names().await, ["other", "vision"]);
    // Nor does a payment take one that a plan has; one that it had is still its own.
    for key in ["1", "2"] {
        let paid = api.credit().recharge(recharge("a", key, "o9", 1)).await;
        assert_eq!(refused(paid), reused, "{key}");
    }
    assert_eq!(api.get("a").await.balance.clone(), usd(5));
    let paid = recharge("a", "3", "o9", 1);
    let first = api.credit().recharge(paid.clone()).await.unwrap();
    let again = api.credit().recharge(paid).await.unwrap();
    assert!(!first.into_inner().replayed && again.into_inner().replayed);
    // Each of them again is a repeat.
    for request in [buy("1", "o1", 100), free] {
        let again = client(&api).buy_plan(request).await.unwrap();
        assert!(again.into_inner().replayed);
    }
}

#[tokio::test]
async fn a_plan_owes_nothing_whatever_the_rules_for_money() {
    let (api, _) = Api::under(Policy {
        credit_limit: amount("7"),
        low_balance: Some(amount("1000")),
        ..Policy::default()
    })
    .await;
    api.open("a").await.unwrap();
    let bought = client(&api)
        .buy_plan(buy("1", "o1", 5))
        .await
        .unwrap()
        .into_inner();
    let purse = api.get(&bought.plan.unwrap().purse_account_id).await;
    let rules = purse.effective_policy.unwrap();
    assert_eq!(
        (rules.credit_limit.unwrap().nanos, rules.low_balance),
        (0, None)
    );
    let id = tollgate::id::AccountId::stored("a!vision").unwrap();
    let book = api
        .node
        .core
        .store
        .read(&id, &[])
        .await
        .unwrap()
        .unwrap()
        .book;
    assert_eq!(
        book.floor,
        tollgate::money::Amount::ZERO,
        "nothing can be leased beyond what was bought"
    );
}

#[tokio::test]
async fn a_purchase_that_is_wrong_leaves_nothing_behind() {
    let (api, _) = Api::under(bounded()).await;
    api.open("a").await.unwrap();
    let check = async |edit: &dyn Fn(&mut v1::BuyPlanRequest), field: &str| {
        let mut request = buy("1", "o1", 100);
        edit(&mut request);
        assert_eq!(violations(client(&api).buy_plan(request).await), [field]);
    };
    check(&|buy| buy.amount = points(-1), "amount").await;
    check(&|buy| buy.amount = points(0), "amount").await;
    check(&|buy| buy.amount = None, "amount").await;
    check(
        &|buy| {
            buy.amount = Some(v1::Amount {
                unit: String::new(),
                nanos: 1,
            })
        },
        "amount.unit",
    )
    .await;
    check(
        &|buy| {
            buy.amount = Some(v1::Amount {
                unit: "points".into(),
                nanos: i64::MIN,
            })
        },
        "amount.nanos",
    )
    .await;
    check(&|buy| buy.expire_time = at(0), "expire_time").await;
    check(&|buy| buy.plan_id = "a!b".into(), "plan_id").await;
    check(&|buy| buy.order_id = String::new(), "order_id").await;
    check(&|buy| buy.models = vec!["a*b".into()], "models[0]").await;
    check(
        &|buy| {
            buy.price = Some(v1::Amount {
                unit: "EUR".into(),
                nanos: 1,
            })
        },
        "price.unit",
    )
    .await;
    check(&|buy| buy.price = usd(-1), "price").await;
    let mut dear = buy("1", "o1", 100);
    dear.price = usd(101);
    assert_eq!(
        refused(client(&api).buy_plan(dear.clone()).await),
        said(Code::OutOfRange, "PURCHASE_OUT_OF_BOUNDS")
    );
    dear.price = usd(51);
    let tier = v1::UpdateAccountRequest {
        account: Some(v1::Account {
            account_id: "a".into(),
            tier: "new".into(),
            ..v1::Account::default()
        }),
        update_mask: None,
    };
    api.accounts().update_account(tier).await.unwrap();
    assert_eq!(
        refused(client(&api).buy_plan(dear.clone()).await),
        said(Code::OutOfRange, "PURCHASE_OUT_OF_BOUNDS")
    );
    assert!(plans(&api, false).await.is_empty(), "nothing is half there");
    dear.price = usd(50);
    client(&api).buy_plan(dear).await.unwrap();
    let unit = v1::BuyPlanRequest {
        amount: usd(5),
        ..buy("2", "o2", 0)
    };
    assert_eq!(
        violations(client(&api).buy_plan(unit).await),
        ["amount.unit"]
    );
    let scope = v1::BuyPlanRequest {
        models: vec!["tokens".into()],
        ..buy("3", "o3", 1)
    };
    assert_eq!(violations(client(&api).buy_plan(scope).await), ["models"]);
    let stands = plans(&api, false).await.remove(0);
    assert_eq!(stands.remaining, points(100), "neither bought anything");

    // One plan more than there may be.
    for n in 1..tollgate::ledger::PLANS_MAX {
        let name = format!("p{n}");
        let more = v1::BuyPlanRequest {
            plan_id: name.clone(),
            ..buy(&name, &name, 1)
        };
        client(&api).buy_plan(more).await.unwrap();
    }
    let more = v1::BuyPlanRequest {
        plan_id: "beyond".into(),
        ..buy("beyond", "beyond", 1)
    };
    let answer = client(&api).buy_plan(more).await;
    assert_eq!(answer.unwrap_err().code(), Code::ResourceExhausted);
    let request = v1::GetAccountRequest {
        account_id: "a!beyond".into(),
    };
    let purse = api.accounts().get_account(request).await;
    assert_eq!(purse.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn money_is_bought_within_the_bounds_too() {
    let (api, _) = Api::under(bounded()).await;
    api.open("a").await.unwrap();
    for (units, good) in [(4, false), (5, true), (100, true), (101, false)] {
        let name = format!("o{units}");
        let answer = api
            .credit()
            .recharge(recharge("a", &name, &name, units))
            .await;
        match good {
            true => assert!(answer.is_ok(), "{units}"),
            false => {
                let status = answer.unwrap_err();
                assert_eq!(violations(Err::<(), Status>(status.clone())), ["amount"]);
                assert_eq!(
                    refused(Err::<(), Status>(status)),
                    said(Code::OutOfRange, "PURCHASE_OUT_OF_BOUNDS")
                );
            }
        }
    }
    assert_eq!(api.get("a").await.balance.clone(), usd(105));
}

#[tokio::test]
async fn a_rate_is_bought_within_the_bounds_too() {
    let (api, _) = Api::under(bounded()).await;
    api.open("a").await.unwrap();
    let paid = |order: &str, price| v1::BuyQpsPlanRequest {
        price,
        ..rate(order, order, 50, 0, 60)
    };
    for units in [4, 101] {
        let answer = client(&api).buy_qps_plan(paid("o1", usd(units))).await;
        let outside = said(Code::OutOfRange, "PURCHASE_OUT_OF_BOUNDS");
        assert_eq!(refused(answer), outside, "{units}");
    }
    let negative = client(&api).buy_qps_plan(paid("o1", usd(-1))).await;
    assert_eq!(violations(negative), ["price"]);
    let euros = Some(v1::Amount {
        unit: "EUR".into(),
        nanos: 9 * UNIT,
    });
    let unit = client(&api).buy_qps_plan(paid("o1", euros)).await;
    assert_eq!(violations(unit), ["price.unit"]);
    let bought = client(&api).buy_qps_plan(paid("o1", usd(5))).await;
    let bought = bought.unwrap().into_inner();
    let (plan, entry) = (bought.qps_plan.unwrap(), bought.entry.unwrap());
    assert_eq!((plan.price, entry.price), (usd(5), usd(5)));
    assert_eq!((entry.amount, api.get("a").await.balance), (usd(0), usd(0)));
    let other = client(&api).buy_qps_plan(paid("o1", usd(6))).await;
    let reused = said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(refused(other), reused, "another price is another request");
    let unsaid = client(&api).buy_qps_plan(paid("o2", None)).await;
    assert_eq!(unsaid.unwrap().into_inner().qps_plan.unwrap().price, None);
}

#[tokio::test]
async fn accounts_inside_an_account_are_listed_only_if_asked_for() {
    let (api, _) = Api::under(Policy::default()).await;
    for name in ["a", "b"] {
        api.open(name).await.unwrap();
    }
    client(&api).buy_plan(buy("1", "o1", 5)).await.unwrap();
    let list = async |show_inner| {
        let request = v1::ListAccountsRequest {
            show_inner,
            ..v1::ListAccountsRequest::default()
        };
        let listed = api.accounts().list_accounts(request).await.unwrap();
        let accounts = listed.into_inner().accounts.into_iter();
        accounts
            .map(|account| account.account_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(false).await, ["a", "b"]);
    assert_eq!(list(true).await, ["a", "a!vision", "b"]);
}

#[tokio::test]
async fn a_budget_of_a_time_that_is_long_over_leaves_the_listing_and_what_it_bounded_stays() {
    let (api, clock) = Api::under(Policy::default()).await;
    api.account("a", 9).await;
    let budget = |period| tollgate::policy::Budget {
        amount: amount("3"),
        period,
        capability: None,
    };
    let account = tollgate::id::AccountId::new("a").unwrap();
    let periods = [
        tollgate::policy::Period::Hour,
        tollgate::policy::Period::Month,
        tollgate::policy::Period::Total,
    ];
    let node = &api.node;
    node.key(&account, "k-b", "sk-secret-b", |made| {
        made.budgets = periods.map(budget).into();
    })
    .await;
    api.call("b").await;
    let list = async || {
        let request = v1::ListAccountsRequest {
            show_inner: true,
            ..v1::ListAccountsRequest::default()
        };
        let listed = api.accounts().list_accounts(request).await.unwrap();
        let accounts = listed.into_inner().accounts.into_iter();
        accounts
            .map(|account| account.account_id)
            .collect::<Vec<_>>()
    };
    let (hour, month) = ("a!key:k-b:2026-09-21T14", "a!key:k-b:2026-09");
    let total = "a!key:k-b:total";
    assert_eq!(list().await, ["a", month, hour, total]);
    clock.advance(Duration::from_secs(8 * 24 * 3_600));
    let gone = async |left: &[&str]| (list().await == left).then_some(());
    until("the hour's is removed", async || {
        gone(&["a", month, total]).await
    })
    .await;
    clock.advance(Duration::from_secs(10 * 24 * 3_600));
    until("the month's is removed", async || gone(&["a", total]).await).await;
    let stands = api.get("a").await;
    assert_eq!((stands.balance, stands.spend), (usd(8), usd(1)));
}

#[tokio::test]
async fn what_happens_to_a_plan_is_told_and_that_it_is_an_account_is_not() {
    let (api, clock) = Api::under(Policy::default()).await;
    api.account("a", 9).await;
    let key = tollgate::policy::Budget {
        amount: amount("3"),
        period: tollgate::policy::Period::Hour,
        capability: None,
    };
    let account = tollgate::id::AccountId::new("a").unwrap();
    let node = &api.node;
    node.key(&account, "k-b", "sk-secret-b", |made| {
        made.budgets = vec![key]
    })
    .await;
    api.call("b").await;
    let budget = account.inner("key:k-b:2026-09-21T14").unwrap();
    let store = &node.core.store;
    assert!(store.read(&budget, &[]).await.unwrap().is_some());
    let expiring = v1::BuyPlanRequest {
        expire_time: at(60),
        ..buy("1", "o1", 5)
    };
    client(&api).buy_plan(expiring).await.unwrap();
    clock.advance(Duration::from_secs(60));
    let plan = account.inner("vision").unwrap();
    for inner in [&budget, &plan] {
        node.core.sync.observe(inner).await.unwrap();
    }
    let told = async |account: &str| {
        let request = v1::ListEventsRequest {
            account_id: account.into(),
            ..v1::ListEventsRequest::default()
        };
        let mut events = v1::event_service_client::EventServiceClient::new(api.channel.clone());
        let events = events.list_events(request).await.unwrap().into_inner();
        let told = events.events.into_iter();
        told.map(|event| (event.kind(), event.account_id))
            .collect::<Vec<_>>()
    };
    use v1::EventKind::{AccountOpened, CreditAdded, PlanExpired};
    let said = |kind, account: &str| (kind, account.to_owned());
    let of_the_plan = [said(CreditAdded, "a!vision"), said(PlanExpired, "a!vision")];
    let mut all = vec![said(AccountOpened, "a"), said(CreditAdded, "a")];
    all.extend(of_the_plan.clone());
    assert_eq!(told("a").await, all);
    assert_eq!(told("").await, all, "and there are no others");
    assert_eq!(told("a!vision").await, of_the_plan);
}

#[tokio::test]
async fn what_happens_to_a_plan_is_told_to_its_owners_people() {
    let (api, clock) = Api::under(Policy::default()).await;
    api.open("a").await.unwrap();
    let tell = async |people: &[&str]| {
        let update = v1::UpdateAccountRequest {
            account: Some(v1::Account {
                account_id: "a".into(),
                notification_recipients: people.iter().map(ToString::to_string).collect(),
                ..v1::Account::default()
            }),
            update_mask: None,
        };
        api.accounts().update_account(update).await.unwrap();
    };
    tell(&["ops", "owner"]).await;
    let expiring = v1::BuyPlanRequest {
        expire_time: at(60),
        ..buy("1", "o1", 5)
    };
    client(&api).buy_plan(expiring).await.unwrap();
    tell(&["owner"]).await;
    clock.advance(Duration::from_secs(60));
    let plan = tollgate::id::AccountId::stored("a!vision").unwrap();
    api.node.core.sync.observe(&plan).await.unwrap();
    let events = v1::ListEventsRequest {
        account_id: "a!vision".into(),
        ..v1::ListEventsRequest::default()
    };
    let mut client = v1::event_service_client::EventServiceClient::new(api.channel.clone());
    let told = client.list_events(events).await.unwrap().into_inner();
    let told: Vec<_> = told
        .events
        .iter()
        .map(|event| (event.kind(), event.recipients.join(" ")))
        .collect();
    assert_eq!(
        told,
        [
            (v1::EventKind::CreditAdded, "ops owner".to_owned()),
            (v1::EventKind::PlanExpired, "owner".to_owned())
        ]
    );
}

#[tokio::test]
async fn a_rate_runs_from_its_beginning_to_its_end() {
    let (api, clock) = Api::under(Policy {
        qps: Some(10),
        ..Policy::default()
    })
    .await;
    api.open("a").await.unwrap();
    let bought = client(&api)
        .buy_qps_plan(rate("1", "o1", 50, 60, 120))
        .await
        .unwrap()
        .into_inner();
    let plan = bought.qps_plan.unwrap();
    assert_eq!(
        (plan.state(), plan.start_time, plan.expire_time),
        (QpsPlanState::Pending, at(60), at(120))
    );
    let state = async || {
        let request = v1::ListQpsPlansRequest {
            account_id: "a".into(),
            ..v1::ListQpsPlansRequest::default()
        };
        let all = client(&api)
            .list_qps_plans(request)
            .await
            .unwrap()
            .into_inner()
            .qps_plans;
        all.first().map(v1::QpsPlan::state)
    };
    clock.advance(Duration::from_secs(60));
    assert_eq!(state().await, Some(QpsPlanState::Active));
    assert_eq!(api.get("a").await.qps_plans[0].qps, 50);
    api.late("a", "l", 1).await;
    assert_eq!(
        state().await,
        Some(QpsPlanState::Unavailable),
        "not while overdue"
    );
    api.credit()
        .recharge(recharge("a", "r", "r", 5))
        .await
        .unwrap();
    clock.advance(Duration::from_secs(60));
    assert!(!matches!(state().await, Some(QpsPlanState::Active)));
    let check = async |request: v1::BuyQpsPlanRequest, field: &str| {
        assert_eq!(
            violations(client(&api).buy_qps_plan(request).await),
            [field]
        );
    };
    check(rate("2", "o2", 0, 200, 300), "qps").await;
    check(rate("2", "o2", 5, 300, 300), "expire_time").await;
    check(rate("2", "o2", 5, 0, 60), "expire_time").await;
    check(rate("2", "", 5, 200, 300), "order_id").await;
    let order = client(&api)
        .buy_qps_plan(rate("3", "o1", 5, 200, 300))
        .await;
    assert_eq!(refused(order), said(Code::AlreadyExists, "ORDER_REUSED"));
}

#[tokio::test]
async fn plans_come_in_pages_of_one_filter() {
    let (api, _) = Api::under(Policy::default()).await;
    api.open("a").await.unwrap();
    for name in ["p1", "p2", "p3"] {
        let request = v1::BuyPlanRequest {
            plan_id: name.into(),
            ..buy(name, name, 1)
        };
        client(&api).buy_plan(request).await.unwrap();
    }
    let page = async |token: &str, usable_only| {
        let request = v1::ListPlansRequest {
            account_id: "a".into(),
            page_size: 2,
            page_token: token.into(),
            usable_only,
        };
        client(&api).list_plans(request).await
    };
    let first = page("", false).await.unwrap().into_inner();
    let next = first.next_page_token;
    assert_eq!(
        refused(page(&next, true).await),
        said(Code::InvalidArgument, "PAGE_TOKEN_MISMATCH")
    );
    let second = page(&next, false).await.unwrap().into_inner();
    let names = first
        .plans
        .iter()
        .chain(&second.plans)
        .map(|plan| plan.plan_id.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["p1", "p2", "p3"]);
    assert_eq!(second.next_page_token, "");
}
