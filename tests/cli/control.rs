//! A control API that keeps what it is asked and answers the same every time.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, stream};
use tollgate::proto::v1::{self, account_service_server as account};
use tollgate::proto::v1::{credit_service_server as credit, event_service_server as event};
use tollgate::proto::v1::{hold_service_server as hold, usage_service_server as usage};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What the stand-in was asked, as text, and what it answers.
#[derive(Clone, Default)]
pub(crate) struct Control {
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) fails: Option<(Code, &'static str)>,
}

impl Control {
    fn take<T: std::fmt::Debug>(&self, request: Request<T>) -> Result<T, Status> {
        let token = request.metadata().get("authorization").cloned();
        let request = request.into_inner();
        self.asked
            .lock()
            .unwrap()
            .push(format!("{token:?} {request:?}"));
        let Some((code, reason)) = self.fails else {
            return Ok(request);
        };
        let mut details = ErrorDetails::with_error_info(reason, "tollgate.dev", []);
        details.add_bad_request_violation("amount.nanos", "must be above zero");
        Err(Status::with_error_details(code, "it was so", details))
    }
}

fn dollars(nanos: i64) -> Option<v1::Amount> {
    let unit = "USD".into();
    Some(v1::Amount { unit, nanos })
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn demo_account() -> v1::Account {
    v1::Account {
        account_id: "demo".into(),
        unit: "USD".into(),
        policy_id: "default".into(),
        state: v1::AccountState::Overdue.into(),
        balance: dollars(-15_000),
        held: dollars(0),
        available: dollars(-15_000),
        debt: dollars(15_000),
        as_of: at(1_790_000_000),
        ..v1::Account::default()
    }
}

#[tonic::async_trait]
impl account::AccountService for Control {
    async fn create_account(
        &self,
        request: Request<v1::CreateAccountRequest>,
    ) -> Result<Response<v1::CreateAccountResponse>, Status> {
        self.take(request)?;
        let account = Some(demo_account());
        Ok(Response::new(v1::CreateAccountResponse {
            account,
            replayed: false,
        }))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        self.take(request)?;
        let account = Some(demo_account());
        Ok(Response::new(v1::GetAccountResponse { account }))
    }

    /// Five accounts, two to a page.
    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> Result<Response<v1::ListAccountsResponse>, Status> {
        let from: usize = self.take(request)?.page_token.parse().unwrap_or(0);
        let account = |at: usize| v1::Account {
            account_id: format!("account-{at}"),
            ..demo_account()
        };
        let next = Some(from.saturating_add(2)).filter(|next| *next < 5);
        Ok(Response::new(v1::ListAccountsResponse {
            accounts: (from..5).take(2).map(account).collect(),
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn update_account(
        &self,
        request: Request<v1::UpdateAccountRequest>,
    ) -> Result<Response<v1::UpdateAccountResponse>, Status> {
        self.take(request)?;
        let account = Some(demo_account());
        Ok(Response::new(v1::UpdateAccountResponse { account }))
    }

    async fn mark_overdue(
        &self,
        _: Request<v1::MarkOverdueRequest>,
    ) -> Result<Response<v1::MarkOverdueResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn clear_overdue(
        &self,
        _: Request<v1::ClearOverdueRequest>,
    ) -> Result<Response<v1::ClearOverdueResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn reactivate_capability(
        &self,
        _: Request<v1::ReactivateCapabilityRequest>,
    ) -> Result<Response<v1::ReactivateCapabilityResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn set_invoiced_amount(
        &self,
        _: Request<v1::SetInvoicedAmountRequest>,
    ) -> Result<Response<v1::SetInvoicedAmountResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn close_account(
        &self,
        _: Request<v1::CloseAccountRequest>,
    ) -> Result<Response<v1::CloseAccountResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn purge_account(
        &self,
        _: Request<v1::PurgeAccountRequest>,
    ) -> Result<Response<v1::PurgeAccountResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

#[tonic::async_trait]
impl credit::CreditService for Control {
    async fn recharge(
        &self,
        request: Request<v1::RechargeRequest>,
    ) -> Result<Response<v1::RechargeResponse>, Status> {
        let request = self.take(request)?;
        let entry = v1::Entry {
            sequence: 7,
            kind: v1::EntryKind::Recharge.into(),
            amount: request.amount,
            debt_paid: dollars(15_000),
            request_id: request.request_id,
            ..v1::Entry::default()
        };
        Ok(Response::new(v1::RechargeResponse {
            entry: Some(entry),
            account: Some(demo_account()),
            replayed: true,
        }))
    }

    async fn grant(
        &self,
        _: Request<v1::GrantRequest>,
    ) -> Result<Response<v1::GrantResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn adjust(
        &self,
        _: Request<v1::AdjustRequest>,
    ) -> Result<Response<v1::AdjustResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn late_charge(
        &self,
        _: Request<v1::LateChargeRequest>,
    ) -> Result<Response<v1::LateChargeResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn correct(
        &self,
        _: Request<v1::CorrectRequest>,
    ) -> Result<Response<v1::CorrectResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn void_credit(
        &self,
        _: Request<v1::VoidCreditRequest>,
    ) -> Result<Response<v1::VoidCreditResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn list_credit_blocks(
        &self,
        _: Request<v1::ListCreditBlocksRequest>,
    ) -> Result<Response<v1::ListCreditBlocksResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

#[tonic::async_trait]
impl usage::UsageService for Control {
    async fn query_usage(
        &self,
        request: Request<v1::QueryUsageRequest>,
    ) -> Result<Response<v1::QueryUsageResponse>, Status> {
        self.take(request)?;
        let counts = [(v1::Meter::Input, 5), (v1::Meter::Output, 9)];
        let counts = counts.map(|(meter, count)| v1::MeterCount {
            meter: meter.into(),
            count,
        });
        let tally = v1::Tally {
            calls: 1,
            exact_calls: 1,
            cost: dollars(23_000),
            counts: counts.into(),
            ..v1::Tally::default()
        };
        let row = v1::UsageRow {
            start_time: at(1_790_002_800),
            key_id: "demo-key".into(),
            model: "demo-model".into(),
            tally: Some(tally.clone()),
            service: String::new(),
        };
        Ok(Response::new(v1::QueryUsageResponse {
            rows: vec![row],
            total: Some(tally),
            as_of: at(1_790_000_000),
            ..v1::QueryUsageResponse::default()
        }))
    }

    async fn estimate_requests(
        &self,
        _: Request<v1::EstimateRequestsRequest>,
    ) -> Result<Response<v1::EstimateRequestsResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

#[tonic::async_trait]
impl hold::HoldService for Control {
    async fn hold(
        &self,
        request: Request<v1::HoldRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        self.take(request)?;
        let hold = v1::Hold {
            hold_id: "h-1".into(),
            amount: dollars(1),
            ..v1::Hold::default()
        };
        Ok(Response::new(v1::HoldResponse { hold: Some(hold) }))
    }

    async fn settle(
        &self,
        _: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn release(
        &self,
        _: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

#[tonic::async_trait]
impl event::EventService for Control {
    async fn list_events(
        &self,
        _: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    type StreamEventsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamEventsResponse, Status>> + Send>>;

    /// One event a stream. The stream after event 5 ends as at a restart, the one after that with a refusal.
    async fn stream_events(
        &self,
        request: Request<v1::StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let after = self.take(request)?.after_sequence;
        let event = v1::Event {
            sequence: after.saturating_add(1),
            kind: v1::EventKind::BalanceLow.into(),
            ..v1::Event::default()
        };
        let sent = Ok(v1::StreamEventsResponse { event: Some(event) });
        let end = (after > 4).then(|| Err(Status::failed_precondition("enough")));
        Ok(Response::new(Box::pin(stream::iter(
            [sent].into_iter().chain(end),
        ))))
    }
}

pub(crate) fn services(mut server: Server, control: &Control) -> Router {
    server
        .add_service(account::AccountServiceServer::new(control.clone()))
        .add_service(credit::CreditServiceServer::new(control.clone()))
        .add_service(usage::UsageServiceServer::new(control.clone()))
        .add_service(event::EventServiceServer::new(control.clone()))
        .add_service(hold::HoldServiceServer::new(control.clone()))
}
