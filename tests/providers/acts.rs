//! The rest of what a billing backend asks of a world: the lifecycle of an account, plans, refunds, invoices, licences, tenants,
//! prices.

use std::time::Duration;

use tollgate::clock::Timestamp;
use tollgate::proto::convert::timestamp;
use tollgate::proto::v1;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::backend::money;
use super::world::World;
use v1::invoice_service_client::InvoiceServiceClient;
use v1::licence_service_client::LicenceServiceClient;
use v1::plan_service_client::PlanServiceClient;
use v1::policy_service_client::PolicyServiceClient;
use v1::price_service_client::PriceServiceClient;
use v1::refund_service_client::RefundServiceClient;
use v1::tenant_service_client::TenantServiceClient;
use v1::usage_service_client::UsageServiceClient;

/// A time that runs from an instant on, of so many nano-seconds.
pub(crate) fn lasts(nanos: i64, inclusive: bool) -> Option<v1::Deadline> {
    Some(v1::Deadline {
        after: duration(nanos),
        inclusive,
    })
}

pub(crate) fn duration(nanos: i64) -> Option<prost_types::Duration> {
    let duration = Duration::from_nanos(nanos.unsigned_abs());
    Some(duration.try_into().unwrap())
}

impl World {
    /// So many nano-seconds after the mark.
    pub(crate) fn instant(&self, offset: i64) -> Option<prost_types::Timestamp> {
        Some(timestamp(Timestamp::from_nanos(
            self.marked().nanos() + offset,
        )))
    }

    pub(crate) async fn mark_overdue(&self) {
        let request = v1::MarkOverdueRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            note: "the bill of February".into(),
        };
        self.accounts().mark_overdue(request).await.unwrap();
        self.quiet().await;
    }

    pub(crate) async fn clear_overdue(&self) {
        let request = v1::ClearOverdueRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            note: String::new(),
        };
        self.accounts().clear_overdue(request).await.unwrap();
        self.quiet().await;
    }

    pub(crate) async fn reactivate(&self, capability: &str) -> Result<(), Status> {
        let request = v1::ReactivateCapabilityRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            capability: capability.into(),
        };
        self.accounts()
            .reactivate_capability(request)
            .await
            .map(drop)
    }

    pub(crate) async fn invoiced(&self, order: &str, amount: &str) {
        let request = v1::SetInvoicedAmountRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            order_id: order.into(),
            amount: money(amount),
        };
        self.accounts().set_invoiced_amount(request).await.unwrap();
    }

    pub(crate) async fn close(&self) {
        let request = v1::CloseAccountRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            note: String::new(),
        };
        self.accounts().close_account(request).await.unwrap();
    }

    pub(crate) async fn purge(&self, account: &str) -> Result<v1::PurgeAccountResponse, Status> {
        let request = v1::PurgeAccountRequest {
            account_id: account.into(),
            etag: String::new(),
        };
        let answer = self.accounts().purge_account(request).await;
        answer.map(Response::into_inner)
    }

    fn plan_service(&self) -> PlanServiceClient<Channel> {
        PlanServiceClient::new(self.channel.clone())
    }

    /// Buys points of a plan for `a`, that expire so long after the mark, if they do.
    pub(crate) async fn buy_plan(&self, plan: &str, points: i64, expires: Option<i64>) {
        self.buy_plan_with(v1::BuyPlanRequest {
            plan_id: plan.into(),
            amount: Some(v1::Amount {
                unit: "points".into(),
                nanos: points * 1_000_000_000,
            }),
            expire_time: expires.and_then(|offset| self.instant(offset)),
            ..v1::BuyPlanRequest::default()
        })
        .await
        .unwrap();
    }

    pub(crate) async fn buy_plan_with(
        &self,
        mut request: v1::BuyPlanRequest,
    ) -> Result<v1::BuyPlanResponse, Status> {
        request.account_id = "a".into();
        for id in [&mut request.request_id, &mut request.order_id] {
            if id.is_empty() {
                *id = self.id("p");
            }
        }
        let answer = self.plan_service().buy_plan(request).await;
        answer.map(Response::into_inner)
    }

    /// The plans of `a` by name.
    pub(crate) async fn plans(&self) -> Vec<v1::Plan> {
        let request = v1::ListPlansRequest {
            account_id: "a".into(),
            ..v1::ListPlansRequest::default()
        };
        let answer = self.plan_service().list_plans(request).await.unwrap();
        answer.into_inner().plans
    }

    /// What is left of a plan of `a`, as `25.00`.
    pub(crate) async fn left(&self, plan: &str) -> String {
        let plans = self.plans().await;
        let plan = plans.iter().find(|each| each.plan_id == plan).unwrap();
        super::backend::text(&plan.remaining)
    }

    /// A rate for `a`, between two offsets from the mark.
    pub(crate) async fn buy_qps_plan(&self, plan: &str, qps: u32, from: i64, to: i64) {
        let request = v1::BuyQpsPlanRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            order_id: self.id("q"),
            plan_id: plan.into(),
            qps,
            start_time: self.instant(from),
            expire_time: self.instant(to),
            ..v1::BuyQpsPlanRequest::default()
        };
        self.plan_service().buy_qps_plan(request).await.unwrap();
    }

    pub(crate) fn refunds(&self) -> RefundServiceClient<Channel> {
        RefundServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn refundable(&self) -> v1::GetRefundableResponse {
        let request = v1::GetRefundableRequest {
            account_id: "a".into(),
            order_ids: Vec::new(),
        };
        let answer = self.refunds().get_refundable(request).await.unwrap();
        answer.into_inner()
    }

    /// Accepts the refund `refund-1`, of all orders or of these.
    pub(crate) async fn begin_refund(&self, orders: &[&str]) -> Result<(), Status> {
        let request = v1::BeginRefundRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            refund_id: "refund-1".into(),
            order_ids: orders.iter().map(ToString::to_string).collect(),
            reason: "the customer asked".into(),
        };
        self.refunds().begin_refund(request).await.map(drop)
    }

    /// Says that a refund was paid; gives what it came to.
    pub(crate) async fn complete_refund(
        &self,
        refund: &str,
        close: bool,
    ) -> Result<String, Status> {
        let request = v1::CompleteRefundRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            refund_id: refund.into(),
            close,
        };
        let answer = self.refunds().complete_refund(request).await?;
        Ok(super::backend::text(&answer.into_inner().refunded))
    }

    pub(crate) async fn cancel_refund(&self) {
        let request = v1::CancelRefundRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            refund_id: "refund-1".into(),
            note: String::new(),
        };
        self.refunds().cancel_refund(request).await.unwrap();
    }

    fn invoices(&self) -> InvoiceServiceClient<Channel> {
        InvoiceServiceClient::new(self.channel.clone())
    }

    /// Closes the period of `a`; the invoice has this id.
    pub(crate) async fn close_period(&self, invoice: &str) -> v1::Invoice {
        let request = v1::CloseInvoicePeriodRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            invoice_id: invoice.into(),
        };
        let answer = self.invoices().close_invoice_period(request).await.unwrap();
        answer.into_inner().invoice.unwrap()
    }

    pub(crate) async fn settle_invoice(&self, invoice: &str) {
        let request = v1::SettleInvoiceRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            invoice_id: invoice.into(),
        };
        self.invoices().settle_invoice(request).await.unwrap();
    }

    pub(crate) fn licences(&self) -> LicenceServiceClient<Channel> {
        LicenceServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn set_tenant(&self, tenant: v1::Tenant) {
        let request = v1::UpdateTenantRequest {
            tenant: Some(tenant),
            update_mask: None,
            allow_missing: true,
        };
        let mut client = TenantServiceClient::new(self.channel.clone());
        client.update_tenant(request).await.unwrap();
    }

    pub(crate) async fn set_policy(&self, policy: v1::Policy) {
        let request = v1::UpdatePolicyRequest {
            policy: Some(policy),
            update_mask: None,
            allow_missing: true,
        };
        let mut client = PolicyServiceClient::new(self.channel.clone());
        client.update_policy(request).await.unwrap();
    }

    pub(crate) fn price_service(&self) -> PriceServiceClient<Channel> {
        PriceServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn correct(
        &self,
        sequence: u64,
        amount: &str,
    ) -> Result<v1::CorrectResponse, Status> {
        let request = v1::CorrectRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            sequence,
            amount: money(amount),
            note: "the price was wrong".into(),
        };
        let answer = self.credit().correct(request).await;
        answer.map(Response::into_inner)
    }

    /// How many requests of each model an amount buys.
    pub(crate) async fn estimate(&self, amount: &str, models: &[&str]) -> Vec<v1::RequestEstimate> {
        let request = v1::EstimateRequestsRequest {
            account_id: "a".into(),
            amount: money(amount),
            models: models.iter().map(ToString::to_string).collect(),
            ..v1::EstimateRequestsRequest::default()
        };
        let mut client = UsageServiceClient::new(self.channel.clone());
        let answer = client.estimate_requests(request).await.unwrap();
        answer.into_inner().estimates
    }
}
