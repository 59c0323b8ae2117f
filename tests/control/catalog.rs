//! PriceService and PolicyService.

use prost_types::FieldMask;
use tollgate::proto::v1;
use tollgate::refusal::Reason;
use tonic::Code;
use tonic::transport::Channel;
use v1::policy_service_client::PolicyServiceClient;
use v1::price_service_client::PriceServiceClient;

use super::{Api, refused, said, usd, violations};
use crate::support::node::{call, terms};

fn prices(api: &Api) -> PriceServiceClient<Channel> {
    PriceServiceClient::new(api.channel.clone())
}

fn policies(api: &Api) -> PolicyServiceClient<Channel> {
    PolicyServiceClient::new(api.channel.clone())
}

fn flat(pattern: &str, units: i64) -> v1::Price {
    v1::Price {
        pattern: pattern.into(),
        unit: "USD".into(),
        rates: vec![v1::Rate {
            meter: v1::Meter::Request.into(),
            price: usd(units),
            per: v1::Per::Unit.into(),
        }],
        ..v1::Price::default()
    }
}

async fn book(api: &Api) -> v1::PriceBook {
    let answer = prices(api)
        .get_price_book(v1::GetPriceBookRequest {})
        .await
        .unwrap();
    answer.into_inner().price_book.unwrap()
}

fn find<'a>(book: &'a v1::PriceBook, pattern: &str) -> Option<&'a v1::Price> {
    book.prices.iter().find(|price| price.pattern == pattern)
}

async fn held(api: &Api, model: &str) -> Result<tollgate::money::Amount, Reason> {
    let terms = terms();
    let admitted = api
        .node
        .core
        .gate
        .admit(&call("sk-secret-a", model, &terms))
        .await;
    admitted
        .map(|ticket| ticket.held())
        .map_err(|refusal| refusal.reason)
}

#[tokio::test]
async fn a_price_that_is_set_is_in_force_and_one_taken_back_is_not() {
    let api = Api::start().await;
    api.account("a", 9).await;
    assert_eq!(held(&api, "new").await, Err(Reason::ModelNotPriced));
    let set = v1::SetPriceRequest {
        price: Some(flat("new", 2)),
        etag: String::new(),
    };
    let set = prices(&api).set_price(set).await.unwrap().into_inner();
    assert_eq!(set.price.unwrap().origin, i32::from(v1::Origin::Store));
    assert_eq!(held(&api, "new").await, Ok("2".parse().unwrap()));
    let read = book(&api).await;
    assert_eq!(read.etag, set.etag);
    assert_eq!(
        find(&read, "flat").unwrap().origin,
        i32::from(v1::Origin::Configuration)
    );
    let delete = v1::DeletePriceRequest {
        pattern: "new".into(),
        etag: read.etag,
        ..v1::DeletePriceRequest::default()
    };
    prices(&api).delete_price(delete.clone()).await.unwrap();
    assert_eq!(held(&api, "new").await, Err(Reason::ModelNotPriced));
    let stale = prices(&api).delete_price(delete).await;
    assert_eq!(refused(stale), said(Code::Aborted, "ETAG_MISMATCH"));
    let delete = async |pattern: &str| {
        let request = v1::DeletePriceRequest {
            pattern: pattern.into(),
            etag: String::new(),
            ..v1::DeletePriceRequest::default()
        };
        refused(prices(&api).delete_price(request).await)
    };
    assert_eq!(delete("new").await, said(Code::NotFound, "PRICE_NOT_FOUND"));
    assert_eq!(
        delete("flat").await,
        said(Code::FailedPrecondition, "PRICE_CONFIGURED")
    );
}

#[tokio::test]
async fn a_price_set_over_a_configured_one_wins_until_it_is_taken_back() {
    let api = Api::start().await;
    api.account("a", 9).await;
    let set = v1::SetPriceRequest {
        price: Some(flat("flat", 4)),
        etag: String::new(),
    };
    prices(&api).set_price(set).await.unwrap();
    assert_eq!(held(&api, "flat").await, Ok("4".parse().unwrap()));
    let delete = v1::DeletePriceRequest {
        pattern: "flat".into(),
        etag: String::new(),
        ..v1::DeletePriceRequest::default()
    };
    prices(&api).delete_price(delete).await.unwrap();
    assert_eq!(held(&api, "flat").await, Ok("1".parse().unwrap()));
}

#[tokio::test]
async fn a_book_that_was_read_can_be_sent_back_changed_once() {
    let api = Api::start().await;
    let mut read = book(&api).await;
    read.prices.push(flat("one", 1));
    read.prices.push(flat("two*", 2));
    let update = v1::UpdatePriceBookRequest {
        price_book: Some(read.clone()),
    };
    let written = prices(&api)
        .update_price_book(update.clone())
        .await
        .unwrap();
    let written = written.into_inner().price_book.unwrap();
    let patterns: Vec<_> = written
        .prices
        .iter()
        .map(|price| price.pattern.as_str())
        .collect();
    assert_eq!(patterns, ["flat", "one", "tokens", "two*"]);
    assert_eq!(
        find(&written, "flat").unwrap().origin,
        i32::from(v1::Origin::Configuration)
    );
    let again = prices(&api).update_price_book(update).await;
    assert_eq!(refused(again), said(Code::Aborted, "ETAG_MISMATCH"));
    let blind = v1::PriceBook {
        etag: String::new(),
        ..written.clone()
    };
    let blind = v1::UpdatePriceBookRequest {
        price_book: Some(blind),
    };
    assert_eq!(
        violations(prices(&api).update_price_book(blind).await),
        ["price_book.etag"]
    );
    let twice = v1::PriceBook {
        prices: vec![flat("x", 1), flat("x", 2)],
        etag: written.etag.clone(),
    };
    let twice = v1::UpdatePriceBookRequest {
        price_book: Some(twice),
    };
    assert_eq!(
        violations(prices(&api).update_price_book(twice).await),
        ["price"]
    );
    assert_eq!(
        book(&api).await,
        written,
        "a book that is refused changes nothing"
    );
}

#[tokio::test]
async fn wrong_prices_are_named() {
    let api = Api::start().await;
    let check = async |price: v1::Price, field: &str| {
        let request = v1::SetPriceRequest {
            price: Some(price),
            etag: String::new(),
        };
        assert_eq!(violations(prices(&api).set_price(request).await), [field]);
    };
    check(flat("", 1), "price.pattern").await;
    check(flat("a*b", 1), "price").await;
    check(flat("a", -1), "price.rates[0].price").await;
    check(
        v1::Price {
            unit: "EUR".into(),
            ..flat("a", 1)
        },
        "price.rates[0].price.unit",
    )
    .await;
}

fn update(policy: v1::Policy, paths: &[&str], allow_missing: bool) -> v1::UpdatePolicyRequest {
    v1::UpdatePolicyRequest {
        policy: Some(policy),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
        allow_missing,
    }
}

fn gold() -> v1::Policy {
    v1::Policy {
        policy_id: "gold".into(),
        qps: Some(100),
        credit_limit: Some(v1::Amount {
            unit: String::new(),
            nanos: 7,
        }),
        ..v1::Policy::default()
    }
}

#[tokio::test]
async fn a_policy_is_made_changed_named_and_taken_back() {
    let api = Api::start().await;
    api.open("a").await.unwrap();
    let missing = policies(&api)
        .update_policy(update(gold(), &[], false))
        .await;
    assert_eq!(refused(missing), said(Code::NotFound, "POLICY_NOT_FOUND"));
    let made = policies(&api)
        .update_policy(update(gold(), &[], true))
        .await
        .unwrap();
    let made = made.into_inner().policy.unwrap();
    assert_eq!(
        (made.qps, made.origin),
        (Some(100), v1::Origin::Store.into())
    );
    assert_eq!(
        made.block_when,
        i32::from(v1::BlockWhen::Negative),
        "the rest is the default"
    );

    let faster = v1::Policy {
        qps: Some(200),
        credit_limit: None,
        ..gold()
    };
    let changed = policies(&api)
        .update_policy(update(faster.clone(), &["qps"], false))
        .await
        .unwrap();
    let changed = changed.into_inner().policy.unwrap();
    assert_eq!(
        (changed.qps, changed.credit_limit.unwrap().nanos),
        (Some(200), 7)
    );
    let stale = v1::Policy {
        etag: made.etag,
        ..faster
    };
    let stale = policies(&api)
        .update_policy(update(stale, &["qps"], false))
        .await;
    assert_eq!(refused(stale), said(Code::Aborted, "ETAG_MISMATCH"));

    let account = v1::Account {
        account_id: "a".into(),
        policy_id: "gold".into(),
        ..v1::Account::default()
    };
    let named = v1::UpdateAccountRequest {
        account: Some(account),
        update_mask: None,
    };
    let named = api
        .accounts()
        .update_account(named)
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap();
    assert_eq!(named.effective_policy.unwrap().qps, Some(200));

    let delete = v1::DeletePolicyRequest {
        policy_id: "gold".into(),
        etag: String::new(),
    };
    policies(&api).delete_policy(delete.clone()).await.unwrap();
    assert_eq!(
        refused(policies(&api).delete_policy(delete).await),
        said(Code::NotFound, "POLICY_NOT_FOUND")
    );
    assert_eq!(
        api.get("a").await.effective_policy.unwrap().qps,
        None,
        "it follows the default"
    );
    let read = v1::GetPolicyRequest {
        policy_id: "gold".into(),
    };
    assert_eq!(
        refused(policies(&api).get_policy(read).await),
        said(Code::NotFound, "POLICY_NOT_FOUND")
    );
}

#[tokio::test]
async fn policies_are_listed_and_the_configured_ones_stay() {
    let api = Api::start().await;
    policies(&api)
        .update_policy(update(gold(), &[], true))
        .await
        .unwrap();
    let page = async |token: String| {
        let request = v1::ListPoliciesRequest {
            page_size: 1,
            page_token: token,
            ..v1::ListPoliciesRequest::default()
        };
        policies(&api)
            .list_policies(request)
            .await
            .unwrap()
            .into_inner()
    };
    let (mut ids, mut token) = (Vec::new(), String::new());
    loop {
        let next = page(token).await;
        ids.extend(next.policies.into_iter().map(|policy| policy.policy_id));
        token = next.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let presets = ["openai-prepaid", "tencent-apigw", "xiaomi-mimo"];
    let expected = ["ai12z", "alibaba-visual", "default", "gold"];
    assert_eq!(ids, [expected.as_slice(), &presets].concat());
    let delete = v1::DeletePolicyRequest {
        policy_id: "default".into(),
        etag: String::new(),
    };
    let delete = policies(&api).delete_policy(delete).await;
    assert_eq!(
        refused(delete),
        said(Code::FailedPrecondition, "POLICY_CONFIGURED")
    );
    let wrong = v1::Policy {
        qps: Some(0),
        ..gold()
    };
    assert_eq!(
        violations(policies(&api).update_policy(update(wrong, &[], true)).await),
        ["policy.qps"]
    );
    let wrong = v1::Policy {
        hold_ttl: Some(prost_types::Duration {
            seconds: 90_000,
            nanos: 0,
        }),
        ..gold()
    };
    assert_eq!(
        violations(policies(&api).update_policy(update(wrong, &[], true)).await),
        ["policy"]
    );
}
