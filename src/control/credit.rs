//! CreditService: money in and corrections. Each request becomes one command of the ledger.

use tonic::{Request, Response, Status};

use super::account::remaining;
use super::errors::{Fault, answer};
use super::pages::{Filter, ROWS, cut};
use super::{Control, Moved, moved};
use crate::ledger::Action;
use crate::proto::convert::{
    FieldError, account_id, amount_from, block, credit_kinds, key_id, model, note,
    readable_account_id, timestamp_from, token, token_or_none,
};
use crate::proto::v1::{self, credit_service_server::CreditService};

#[tonic::async_trait]
impl CreditService for Control {
    async fn recharge(
        &self,
        request: Request<v1::RechargeRequest>,
    ) -> Result<Response<v1::RechargeResponse>, Status> {
        moved!(RechargeResponse, self.recharged(request.into_inner()))
    }

    async fn grant(
        &self,
        request: Request<v1::GrantRequest>,
    ) -> Result<Response<v1::GrantResponse>, Status> {
        moved!(GrantResponse, self.granted(request.into_inner()))
    }

    async fn adjust(
        &self,
        request: Request<v1::AdjustRequest>,
    ) -> Result<Response<v1::AdjustResponse>, Status> {
        moved!(AdjustResponse, self.adjusted(request.into_inner()))
    }

    async fn late_charge(
        &self,
        request: Request<v1::LateChargeRequest>,
    ) -> Result<Response<v1::LateChargeResponse>, Status> {
        moved!(LateChargeResponse, self.charged_late(request.into_inner()))
    }

    async fn correct(
        &self,
        request: Request<v1::CorrectRequest>,
    ) -> Result<Response<v1::CorrectResponse>, Status> {
        moved!(CorrectResponse, self.corrected(request.into_inner()))
    }

    async fn void_credit(
        &self,
        request: Request<v1::VoidCreditRequest>,
    ) -> Result<Response<v1::VoidCreditResponse>, Status> {
        moved!(VoidCreditResponse, self.voided(request.into_inner()))
    }

    async fn list_credit_blocks(
        &self,
        request: Request<v1::ListCreditBlocksRequest>,
    ) -> Result<Response<v1::ListCreditBlocksResponse>, Status> {
        answer(self.credit_blocks(request.into_inner()).await)
    }
}

impl Control {
    async fn recharged(&self, request: v1::RechargeRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let order_id = token("order_id", &request.order_id)?;
        let expires = timestamp_from("expire_time", request.expire_time.as_ref())?;
        let note = note("note", &request.note)?;
        let unit = self.0.units.of(&id).await?;
        let action = Action::Recharge {
            amount: amount_from("amount", request.amount.as_ref(), &unit)?,
            order_id,
            priority: request.priority,
            expires,
            note,
        };
        self.carry_out(&id, request_id, action).await
    }

    async fn granted(&self, request: v1::GrantRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let order_id = token_or_none("order_id", &request.order_id)?;
        let expires = timestamp_from("expire_time", request.expire_time.as_ref())?;
        let note = note("note", &request.note)?;
        let unit = self.0.units.of(&id).await?;
        let action = Action::Grant {
            amount: amount_from("amount", request.amount.as_ref(), &unit)?,
            order_id,
            priority: request.priority,
            expires,
            note,
        };
        self.carry_out(&id, request_id, action).await
    }

    async fn adjusted(&self, request: v1::AdjustRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let note = note("note", &request.note)?;
        let unit = self.0.units.of(&id).await?;
        let amount = amount_from("amount", request.amount.as_ref(), &unit)?;
        self.carry_out(&id, request_id, Action::Adjust { amount, note })
            .await
    }

    async fn charged_late(&self, request: v1::LateChargeRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        // The key may be long deleted: the charge lands all the same.
        let key = match request.key_id.as_str() {
            "" => None,
            text => Some(key_id("key_id", text)?),
        };
        let model = match request.model.as_str() {
            "" => None,
            text => Some(model("model", text)?),
        };
        let note = note("note", &request.note)?;
        let unit = self.0.units.of(&id).await?;
        let action = Action::LateCharge {
            amount: amount_from("amount", request.amount.as_ref(), &unit)?,
            key,
            model,
            note,
        };
        self.carry_out(&id, request_id, action).await
    }

    async fn corrected(&self, request: v1::CorrectRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let note = note("note", &request.note)?;
        let unit = self.0.units.of(&id).await?;
        if request.sequence == 0 {
            let what = "the number of the entry, as ListEntries has it";
            return Err(FieldError::missing("sequence", what).into());
        }
        let action = Action::Correct {
            sequence: request.sequence,
            amount: amount_from("amount", request.amount.as_ref(), &unit)?,
            note,
        };
        self.carry_out(&id, request_id, action).await
    }

    async fn voided(&self, request: v1::VoidCreditRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let action = Action::Void {
            order_id: token("order_id", &request.order_id)?,
            note: note("note", &request.note)?,
        };
        self.carry_out(&id, request_id, action).await
    }

    async fn credit_blocks(
        &self,
        mut request: v1::ListCreditBlocksRequest,
    ) -> Result<v1::ListCreditBlocksResponse, Fault> {
        let id = readable_account_id("account_id", &request.account_id)?;
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let page_token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListCreditBlocks", &request);
        let kinds = credit_kinds("kinds", &request.kinds)?;
        let order = token_or_none("order_id", &request.order_id)?;
        let after = filter.number(&page_token)?.unwrap_or_default();
        self.flush(&id).await;
        let snapshot = self.read(&id).await?;
        let unit = &snapshot.book.unit;
        let mut blocks: Vec<_> = remaining(&snapshot)
            .zip(1..)
            .map(|((each, left), rank)| block(each, left, rank, unit))
            .filter(|block| block.block_id > after)
            .filter(|block| kinds.is_empty() || kinds.contains(&block.kind()))
            .filter(|block| order.as_ref().is_none_or(|order| *order == block.order_id))
            .collect();
        blocks.sort_by_key(|block| block.block_id);
        let more = cut(&mut blocks, size);
        let last = blocks.last().filter(|_| more);
        let next = last.map(|last| filter.token(last.block_id));
        Ok(v1::ListCreditBlocksResponse {
            credit_blocks: blocks,
            next_page_token: next.unwrap_or_default(),
        })
    }
}
