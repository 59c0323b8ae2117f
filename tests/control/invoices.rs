//! InvoiceService, and corrections of what was charged.

use std::time::Duration;

use tollgate::policy::{Mode, Policy};
use tollgate::proto::v1::{self, AccountState, InvoiceState};
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::invoice_service_client::InvoiceServiceClient;

use super::{Api, at, refused, said, usd, violations};
use crate::support::node::amount;

fn client(api: &Api) -> InvoiceServiceClient<Channel> {
    InvoiceServiceClient::new(api.channel.clone())
}

fn close(request: &str, invoice: &str) -> v1::CloseInvoicePeriodRequest {
    v1::CloseInvoicePeriodRequest {
        account_id: "a".into(),
        request_id: request.into(),
        invoice_id: invoice.into(),
    }
}

fn settle(request: &str, invoice: &str) -> v1::SettleInvoiceRequest {
    v1::SettleInvoiceRequest {
        account_id: "a".into(),
        request_id: request.into(),
        invoice_id: invoice.into(),
    }
}

fn afterwards() -> Policy {
    Policy {
        mode: Mode::CreditThenInvoice,
        invoice_limit: amount("10"),
        ..Policy::default()
    }
}

async fn list(api: &Api, state: InvoiceState) -> Vec<String> {
    let request = v1::ListInvoicesRequest {
        account_id: "a".into(),
        state: state.into(),
        ..v1::ListInvoicesRequest::default()
    };
    let all = client(api).list_invoices(request).await.unwrap();
    let all = all.into_inner().invoices.into_iter();
    all.map(|invoice| invoice.invoice_id).collect()
}

#[tokio::test]
async fn each_call_is_on_one_invoice_whenever_periods_are_closed() {
    let (api, clock) = Api::under(afterwards()).await;
    api.account("a", 1).await;
    for _ in 0..3 {
        api.call("a").await;
    }
    let first = client(&api).close_invoice_period(close("1", "inv-1")).await;
    let first = first.unwrap().into_inner();
    let invoice = first.invoice.unwrap();
    assert_eq!(
        (invoice.amount.clone(), invoice.state()),
        (usd(2), InvoiceState::Outstanding),
        "the excess of credit"
    );
    assert_eq!((invoice.start_time, invoice.end_time), (at(0), at(0)));
    assert_eq!(
        (invoice.lines.len(), invoice.lines[0].cost.clone()),
        (1, usd(3))
    );
    let account = first.account.unwrap();
    assert_eq!(
        (account.invoiced_outstanding.clone(), account.state()),
        (usd(2), AccountState::Active)
    );
    // More is used before the request is repeated: the invoice is as it was.
    api.call("a").await;
    let again = client(&api).close_invoice_period(close("1", "inv-1")).await;
    let again = again.unwrap().into_inner();
    assert_eq!(
        (again.replayed, again.invoice.unwrap().lines[0].cost.clone()),
        (true, usd(3))
    );
    clock.advance(Duration::from_secs(60));
    let second = client(&api).close_invoice_period(close("2", "inv-2")).await;
    let invoice = second.unwrap().into_inner().invoice.unwrap();
    assert_eq!(
        (invoice.amount.clone(), invoice.lines[0].cost.clone()),
        (usd(1), usd(1))
    );
    assert_eq!((invoice.start_time, invoice.end_time), (at(0), at(60)));
    let settled = client(&api).settle_invoice(settle("3", "inv-1")).await;
    let settled = settled.unwrap().into_inner();
    assert_eq!(settled.invoice.unwrap().settle_time, at(60));
    assert_eq!(
        settled.account.unwrap().invoiced_outstanding.clone(),
        usd(1)
    );
    assert_eq!(
        list(&api, InvoiceState::Unspecified).await,
        ["inv-1", "inv-2"]
    );
    assert_eq!(list(&api, InvoiceState::Outstanding).await, ["inv-2"]);
    assert_eq!(list(&api, InvoiceState::Settled).await, ["inv-1"]);
}

#[tokio::test]
async fn what_is_no_invoice_is_said() {
    let (api, _) = Api::under(afterwards()).await;
    api.account("a", 0).await;
    api.call("a").await;
    client(&api)
        .close_invoice_period(close("1", "inv"))
        .await
        .unwrap();
    let twice = client(&api).close_invoice_period(close("2", "inv")).await;
    assert_eq!(refused(twice), said(Code::AlreadyExists, "INVOICE_EXISTS"));
    let reused = client(&api).close_invoice_period(close("1", "inv-2")).await;
    assert_eq!(
        refused(reused),
        said(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );
    let unknown = client(&api).settle_invoice(settle("3", "none")).await;
    assert_eq!(refused(unknown), said(Code::NotFound, "INVOICE_NOT_FOUND"));
    client(&api)
        .settle_invoice(settle("4", "inv"))
        .await
        .unwrap();
    let paid = client(&api).settle_invoice(settle("5", "inv")).await;
    assert_eq!(
        refused(paid),
        said(Code::FailedPrecondition, "INVOICE_PAID")
    );
    assert_eq!(
        violations(client(&api).settle_invoice(settle("", "inv")).await),
        ["request_id"]
    );
    let (prepaid, _) = Api::under(Policy::default()).await;
    prepaid.open("a").await.unwrap();
    let wrong = client(&prepaid)
        .close_invoice_period(close("1", "inv"))
        .await;
    assert_eq!(
        refused(wrong),
        said(Code::FailedPrecondition, "NOT_INVOICED")
    );
}

#[tokio::test]
async fn who_owes_does_not_go_back_to_paying_in_advance() {
    let (api, _) = Api::under(Policy::default()).await;
    api.account("a", 0).await;
    let update = async |mode: v1::BillingMode| {
        let request = v1::UpdateAccountRequest {
            account: Some(v1::Account {
                account_id: "a".into(),
                overrides: Some(v1::Overrides {
                    mode: mode.into(),
                    invoice_limit: usd(10),
                    ..v1::Overrides::default()
                }),
                ..v1::Account::default()
            }),
            update_mask: None,
        };
        api.accounts().update_account(request).await
    };
    update(v1::BillingMode::CreditThenInvoice).await.unwrap();
    api.late("a", "l", 2).await;
    let back = update(v1::BillingMode::PrepaidOnly).await;
    assert_eq!(
        refused(back),
        said(Code::FailedPrecondition, "ARREARS_OPEN")
    );
    client(&api)
        .close_invoice_period(close("1", "inv"))
        .await
        .unwrap();
    let back = update(v1::BillingMode::PrepaidOnly).await;
    assert_eq!(
        refused(back),
        said(Code::FailedPrecondition, "ARREARS_OPEN"),
        "it stands on an invoice"
    );
    client(&api)
        .settle_invoice(settle("2", "inv"))
        .await
        .unwrap();
    update(v1::BillingMode::PrepaidOnly).await.unwrap();
}

fn correct(request: &str, sequence: u64, units: i64) -> v1::CorrectRequest {
    v1::CorrectRequest {
        account_id: "a".into(),
        request_id: request.into(),
        sequence,
        amount: usd(units),
        note: "wrong price".into(),
    }
}

#[tokio::test]
async fn a_charge_is_taken_back_to_where_it_came_from() {
    let (api, _) = Api::under(Policy::default()).await;
    api.account("a", 5).await;
    let charged = api.late("a", "l", 7).await.entry.unwrap();
    assert_eq!(
        (
            charged.debt_made.clone(),
            api.get("a").await.balance.clone()
        ),
        (usd(2), usd(-2))
    );
    let done = api
        .credit()
        .correct(correct("c1", charged.sequence, 4))
        .await;
    let done = done.unwrap().into_inner();
    let account = done.account.unwrap();
    assert_eq!(
        (account.balance.clone(), account.debt.clone()),
        (usd(2), usd(0)),
        "debt first"
    );
    assert_eq!(done.entry.unwrap().kind(), v1::EntryKind::Correction);
    let more = api
        .credit()
        .correct(correct("c2", charged.sequence, 4))
        .await;
    assert_eq!(
        refused(more),
        said(Code::FailedPrecondition, "NOT_CORRECTABLE")
    );
    let none = api.credit().correct(correct("c3", 99, 1)).await;
    assert_eq!(refused(none), said(Code::NotFound, "ENTRY_NOT_FOUND"));
    let opening = api.credit().correct(correct("c4", 1, 1)).await;
    assert_eq!(
        refused(opening),
        said(Code::FailedPrecondition, "NOT_CORRECTABLE")
    );
    let check = async |request: v1::CorrectRequest, field: &str| {
        assert_eq!(violations(api.credit().correct(request).await), [field]);
    };
    check(correct("c5", 0, 1), "sequence").await;
    check(correct("c5", charged.sequence, -1), "amount").await;
    let mut silent = correct("c5", charged.sequence, 1);
    silent.note.clear();
    check(silent, "note").await;
    assert_eq!(
        api.get("a").await.balance.clone(),
        usd(2),
        "none of them moved anything"
    );
}

#[tokio::test]
async fn what_is_left_of_an_order_is_voided() {
    let (api, _) = Api::under(Policy::default()).await;
    api.account("a", 5).await;
    api.late("a", "l", 2).await;
    let void = async |request: &str, order: &str| {
        let request = v1::VoidCreditRequest {
            account_id: "a".into(),
            request_id: request.into(),
            order_id: order.into(),
            note: "fraud".into(),
        };
        let answer = api.credit().void_credit(request).await?.into_inner();
        Ok::<_, Status>((
            answer.entry.unwrap().amount.clone(),
            answer.account.unwrap().balance.clone(),
        ))
    };
    assert_eq!(void("v1", "first").await.unwrap(), (usd(-3), usd(0)));
    assert_eq!(
        refused(void("v2", "first").await),
        said(Code::NotFound, "ORDER_NOT_FOUND")
    );
    assert_eq!(violations(void("v3", "").await), ["order_id"]);
    let proof = v1::VerifyLedgerRequest {
        account_id: "a".into(),
    };
    let mut ledger = v1::ledger_service_client::LedgerServiceClient::new(api.channel.clone());
    let proof = ledger.verify_ledger(proof).await.unwrap().into_inner();
    assert!(proof.ok, "{:?}", proof.findings);
}
