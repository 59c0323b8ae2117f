//! RefundService: what could be given back, and the steps of giving it back.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::errors::{Fault, answer};
use super::{Control, Moved, moved};
use crate::id::AccountId;
use crate::ledger::{Action, Rejected};
use crate::money::Amount;
use crate::proto::convert::{FieldError, account_id, amount, note, token};
use crate::proto::v1::{self, refund_service_server::RefundService};
use crate::store::Snapshot;

/// How many orders a refund may name: as many as an account may have credit blocks.
const ORDERS_MAX: usize = crate::ledger::CREDIT_BLOCKS_MAX;

/// How often, and after which pause, it is looked whether other replicas have given back what they leased: half a second, in which all
/// that are there have heard of it.
const GIVE_BACK_LOOKS: u32 = 25;
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(20);

#[tonic::async_trait]
impl RefundService for Control {
    async fn get_refundable(
        &self,
        request: Request<v1::GetRefundableRequest>,
    ) -> Result<Response<v1::GetRefundableResponse>, Status> {
        answer(self.refundable(request.into_inner()).await)
    }

    async fn begin_refund(
        &self,
        request: Request<v1::BeginRefundRequest>,
    ) -> Result<Response<v1::BeginRefundResponse>, Status> {
        answer(self.refund_begun(request.into_inner()).await)
    }

    async fn complete_refund(
        &self,
        request: Request<v1::CompleteRefundRequest>,
    ) -> Result<Response<v1::CompleteRefundResponse>, Status> {
        answer(self.refunded(request.into_inner()).await)
    }

    async fn cancel_refund(
        &self,
        request: Request<v1::CancelRefundRequest>,
    ) -> Result<Response<v1::CancelRefundResponse>, Status> {
        moved!(
            CancelRefundResponse,
            self.refund_cancelled(request.into_inner())
        )
    }
}

impl Control {
    async fn refundable(
        &self,
        request: v1::GetRefundableRequest,
    ) -> Result<v1::GetRefundableResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let wanted = orders(&request.order_ids)?;
        self.flush(&id).await;
        let snapshot = self.read(&id).await?;
        let unit = &snapshot.book.unit;
        let money = |of| Some(amount(of, unit));
        let (total, orders) = self.refundable_of(&snapshot, &wanted)?;
        Ok(v1::GetRefundableResponse {
            total: money(total),
            orders,
            held: money(snapshot.spent().held),
        })
    }

    /// What could be refunded now of some orders, or of all.
    fn refundable_of(
        &self,
        snapshot: &Snapshot,
        wanted: &[String],
    ) -> Result<(Amount, Vec<v1::RefundableOrder>), Fault> {
        let book = &snapshot.book;
        let policy = self.core().catalog.policy_of(book);
        let now = self.core().clock.now().wall;
        let mut orders = book.refundable(snapshot.spend, &policy, now);
        orders.retain(|order| wanted.is_empty() || wanted.contains(&order.order_id));
        let mut total = Amount::ZERO;
        for order in &orders {
            total = total
                .checked_add(order.amount)
                .ok_or(Rejected::OutOfRange)?;
        }
        let money = |of| Some(amount(of, &book.unit));
        let orders = orders.into_iter().map(|order| v1::RefundableOrder {
            remaining: money(order.remaining),
            invoiced: money(order.invoiced),
            refundable: money(order.amount),
            order_id: order.order_id,
        });
        Ok((total, orders.collect()))
    }

    async fn refund_begun(
        &self,
        request: v1::BeginRefundRequest,
    ) -> Result<v1::BeginRefundResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let wanted = orders(&request.order_ids)?;
        let action = Action::BeginRefund {
            refund_id: token("refund_id", &request.refund_id)?,
            orders: wanted.clone(),
            reason: note("reason", &request.reason)?,
        };
        // What was spent here counts before it is worked out what is left.
        self.flush(&id).await;
        let moved = self.carry_out(&id, request_id, action).await?;
        let snapshot = self.read(&id).await?;
        let (total, _) = self.refundable_of(&snapshot, &wanted)?;
        Ok(v1::BeginRefundResponse {
            refundable: Some(amount(total, &snapshot.book.unit)),
            entry: Some(moved.entry),
            account: Some(moved.account),
            replayed: moved.replayed,
        })
    }

    async fn refunded(
        &self,
        request: v1::CompleteRefundRequest,
    ) -> Result<v1::CompleteRefundResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let action = Action::CompleteRefund {
            refund_id: token("refund_id", &request.refund_id)?,
            close: request.close,
        };
        self.recall_leases(&id).await?;
        let moved = self.carry_out(&id, request_id, action).await?;
        Ok(v1::CompleteRefundResponse {
            refunded: Some(amount(moved.made.amount.negated(), &moved.account.unit)),
            entry: Some(moved.entry),
            account: Some(moved.account),
            replayed: moved.replayed,
        })
    }

    /// The last charges land, and leases that nobody uses go back: what is then still held is in flight.
    async fn recall_leases(&self, id: &AccountId) -> Result<(), Fault> {
        self.core().sync.give_back(id).await?;
        for _ in 0..GIVE_BACK_LOOKS {
            if !self.read(id).await?.spent().held.is_positive() {
                break;
            }
            tokio::time::sleep(GIVE_BACK_PAUSE).await;
        }
        Ok(())
    }

    async fn refund_cancelled(&self, request: v1::CancelRefundRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let action = Action::CancelRefund {
            refund_id: token("refund_id", &request.refund_id)?,
            note: note("note", &request.note)?,
        };
        self.carry_out(&id, request_id, action).await
    }
}

fn orders(given: &[String]) -> Result<Vec<String>, FieldError> {
    if given.len() > ORDERS_MAX {
        let problem = format!("has {} orders; it may have {ORDERS_MAX}", given.len());
        return Err(FieldError::invalid("order_ids", problem));
    }
    let order = |(index, text): (usize, &String)| token(&format!("order_ids[{index}]"), text);
    given.iter().enumerate().map(order).collect()
}
