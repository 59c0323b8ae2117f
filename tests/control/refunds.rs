//! RefundService.

use tollgate::policy::{Policy, Refunds};
use tollgate::proto::v1::{self, AccountState};
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::refund_service_client::RefundServiceClient;

use super::{Api, recharge, refused, said, usd, violations};

fn client(api: &Api) -> RefundServiceClient<Channel> {
    RefundServiceClient::new(api.channel.clone())
}

fn begin(request: &str, refund: &str, orders: &[&str]) -> v1::BeginRefundRequest {
    v1::BeginRefundRequest {
        account_id: "a".into(),
        request_id: request.into(),
        refund_id: refund.into(),
        order_ids: orders.iter().map(ToString::to_string).collect(),
        reason: "asked for".into(),
    }
}

fn complete(request: &str, refund: &str, close: bool) -> v1::CompleteRefundRequest {
    v1::CompleteRefundRequest {
        account_id: "a".into(),
        request_id: request.into(),
        refund_id: refund.into(),
        close,
    }
}

async fn total(api: &Api) -> Option<v1::Amount> {
    let request = v1::GetRefundableRequest {
        account_id: "a".into(),
        order_ids: Vec::new(),
    };
    let answer = client(api).get_refundable(request).await.unwrap();
    answer.into_inner().total
}

async fn invoiced(api: &Api, request: &str, order: &str, units: i64) -> Result<(), Status> {
    let request = v1::SetInvoicedAmountRequest {
        account_id: "a".into(),
        request_id: request.into(),
        order_id: order.into(),
        amount: usd(units),
    };
    api.accounts().set_invoiced_amount(request).await.map(drop)
}

/// 5 paid as `first`, 10 as `second`, 7 given.
async fn funded() -> Api {
    let (api, _) = Api::under(Policy::default()).await;
    api.account("a", 0).await;
    for (order, units) in [("first", 5), ("second", 10)] {
        let request = recharge("a", order, order, units);
        api.credit().recharge(request).await.unwrap();
    }
    let grant = v1::GrantRequest {
        account_id: "a".into(),
        request_id: "gift".into(),
        order_id: "gift".into(),
        amount: usd(7),
        ..v1::GrantRequest::default()
    };
    api.credit().grant(grant).await.unwrap();
    api
}

#[tokio::test]
async fn what_was_paid_and_is_left_less_what_was_invoiced_is_refunded() {
    let api = funded().await;
    assert_eq!(total(&api).await, usd(15), "gifts do not count");
    invoiced(&api, "i1", "second", 4).await.unwrap();
    assert_eq!(total(&api).await, usd(11));
    assert_eq!(
        violations(invoiced(&api, "i2", "second", -1).await),
        ["amount"]
    );
    let unknown = invoiced(&api, "i3", "third", 1).await;
    assert_eq!(refused(unknown), said(Code::NotFound, "ORDER_NOT_FOUND"));
    let begun = client(&api).begin_refund(begin("b", "ref-1", &[])).await;
    let begun = begun.unwrap().into_inner();
    assert_eq!(begun.refundable.clone(), usd(11));
    let account = begun.account.unwrap();
    assert_eq!(
        (account.state(), account.refusal_reason.as_str()),
        (AccountState::Frozen, "REFUND_IN_PROGRESS")
    );
    assert_eq!(account.refund.unwrap().refund_id, "ref-1");
    // Late charges land, and are taken from what is refunded: gifts first, and 2 of what was paid.
    api.late("a", "l", 9).await;
    let paid = api.credit().recharge(recharge("a", "r", "o", 1)).await;
    assert_eq!(
        refused(paid),
        said(Code::FailedPrecondition, "REFUND_IN_PROGRESS")
    );
    let other = client(&api)
        .complete_refund(complete("c0", "ref-2", false))
        .await;
    assert_eq!(refused(other), said(Code::NotFound, "REFUND_NOT_FOUND"));
    let done = client(&api)
        .complete_refund(complete("c", "ref-1", true))
        .await;
    let done = done.unwrap().into_inner();
    assert_eq!(done.refunded.clone(), usd(9));
    let account = done.account.unwrap();
    assert_eq!(
        (account.state(), account.balance.clone()),
        (AccountState::Closed, usd(4))
    );
    let again = client(&api)
        .complete_refund(complete("c", "ref-1", true))
        .await;
    let again = again.unwrap().into_inner();
    assert_eq!((again.replayed, again.refunded.clone()), (true, usd(9)));
}

#[tokio::test]
async fn of_two_refunds_at_once_one_is_begun() {
    let api = funded().await;
    let sent = ["one", "two"].map(|refund| {
        let (mut client, request) = (client(&api), begin(refund, refund, &[]));
        tokio::spawn(async move { client.begin_refund(request).await })
    });
    let [one, two] = sent;
    let answers = [one.await.unwrap(), two.await.unwrap()];
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (1, 1));
    for bad in bad {
        assert_eq!(
            refused(bad),
            said(Code::FailedPrecondition, "REFUND_IN_PROGRESS")
        );
    }
    let open = api.get("a").await.refund.unwrap().refund_id;
    let cancel = v1::CancelRefundRequest {
        account_id: "a".into(),
        request_id: "x".into(),
        refund_id: open,
        note: String::new(),
    };
    let account = client(&api)
        .cancel_refund(cancel)
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap();
    assert_eq!(
        (account.state(), account.balance.clone()),
        (AccountState::Active, usd(22))
    );
}

#[tokio::test]
async fn what_is_in_flight_is_waited_for() {
    let api = funded().await;
    let terms = crate::support::node::terms();
    let call = crate::support::node::call("sk-secret-a", "flat", &terms);
    let ticket = api.node.core.gate.admit(&call).await.unwrap();
    client(&api)
        .begin_refund(begin("b", "ref", &[]))
        .await
        .unwrap();
    let early = client(&api)
        .complete_refund(complete("c", "ref", false))
        .await;
    assert_eq!(
        refused(early),
        said(Code::FailedPrecondition, "CALLS_IN_FLIGHT")
    );
    drop(ticket);
    let done = client(&api)
        .complete_refund(complete("c", "ref", false))
        .await;
    assert_eq!(done.unwrap().into_inner().refunded.clone(), usd(15));
}

#[tokio::test]
async fn what_cannot_be_refunded_is_said() {
    let api = funded().await;
    let check = async |orders: &[&str], code, reason: &str| {
        let answer = client(&api).begin_refund(begin("b", "ref", orders)).await;
        assert_eq!(refused(answer), said(code, reason), "{orders:?}");
    };
    check(&["none"], Code::NotFound, "ORDER_NOT_FOUND").await;
    check(&["gift"], Code::FailedPrecondition, "NOT_REFUNDABLE").await;
    assert_eq!(
        violations(client(&api).begin_refund(begin("b", "", &[])).await),
        ["refund_id"]
    );
    assert_eq!(
        violations(client(&api).begin_refund(begin("b", "ref", &["a b"])).await),
        ["order_ids[0]"]
    );
    assert_eq!(
        api.get("a").await.state(),
        AccountState::Active,
        "none of them froze it"
    );
    let never = Policy {
        refunds: Refunds::Never,
        ..Policy::default()
    };
    let (api, _) = Api::under(never).await;
    api.account("a", 5).await;
    let answer = client(&api).begin_refund(begin("b", "ref", &[])).await;
    assert_eq!(
        refused(answer),
        said(Code::FailedPrecondition, "NOT_REFUNDABLE")
    );
}

#[tokio::test]
async fn a_refund_of_several_orders_is_an_entry_of_each() {
    let api = funded().await;
    let begun = client(&api).begin_refund(begin("b", "ref-1", &[])).await;
    begun.unwrap();
    let done = client(&api)
        .complete_refund(complete("c", "ref-1", false))
        .await;
    let entry = done.unwrap().into_inner().entry.unwrap();
    let of = |entry: &v1::Entry| {
        let parts = entry.allocations.iter();
        parts
            .map(|part| (part.order_id.clone(), part.amount.clone()))
            .collect::<Vec<_>>()
    };
    let paid = [("first".to_owned(), usd(5)), ("second".to_owned(), usd(10))];
    assert_eq!((of(&entry).as_slice(), entry.amount), (&paid[..], usd(-15)));
    for (order, found) in [("first", 1), ("second", 1), ("gift", 0)] {
        let request = v1::ListEntriesRequest {
            account_id: "a".into(),
            order_id: order.into(),
            kinds: vec![v1::EntryKind::Refund.into()],
            ..v1::ListEntriesRequest::default()
        };
        let mut ledger = v1::ledger_service_client::LedgerServiceClient::new(api.channel.clone());
        let listed = ledger.list_entries(request).await.unwrap().into_inner();
        assert_eq!(listed.entries.len(), found, "{order}");
        assert!(listed.entries.iter().all(|entry| of(entry) == paid));
    }
}
