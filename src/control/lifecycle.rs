//! The rest of AccountService: what ends or interrupts an account.

use super::errors::Fault;
use super::{Control, Moved};
use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::ledger::{self, Action};
use crate::proto::convert::{FieldError, account_id, amount_from, note, timestamp, token};
use crate::proto::v1;
use crate::store::{StoreError, Stored};

/// How often a purge is tried against faster writers: an account that ends has few.
const TRIES_MAX: u32 = 16;

/// How many names are looked through at once for the accounts of an account's plans and budgets.
const CHUNK: usize = 1_000;

impl Control {
    pub(super) async fn marked_overdue(
        &self,
        request: v1::MarkOverdueRequest,
    ) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let note = note("note", &request.note)?;
        self.carry_out(&id, request_id, Action::MarkOverdue { note })
            .await
    }

    pub(super) async fn cleared_overdue(
        &self,
        request: v1::ClearOverdueRequest,
    ) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let note = note("note", &request.note)?;
        self.carry_out(&id, request_id, Action::ClearOverdue { note })
            .await
    }

    pub(super) async fn reactivated(
        &self,
        request: v1::ReactivateCapabilityRequest,
    ) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        if request.capability.is_empty() {
            let what = "one of the policy's capabilities, or `*` for all";
            return Err(FieldError::missing("capability", what).into());
        }
        let capability = note("capability", &request.capability)?;
        // Debt that is not published yet must be seen.
        self.flush(&id).await;
        self.carry_out(&id, request_id, Action::ReactivateCapability { capability })
            .await
    }

    pub(super) async fn invoiced(
        &self,
        request: v1::SetInvoicedAmountRequest,
    ) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let order_id = token("order_id", &request.order_id)?;
        let unit = self.0.units.of(&id).await?;
        let amount = amount_from("amount", request.amount.as_ref(), &unit)?;
        let action = Action::SetInvoicedAmount { order_id, amount };
        self.carry_out(&id, request_id, action).await
    }

    pub(super) async fn closed(&self, request: v1::CloseAccountRequest) -> Result<Moved, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let request_id = token("request_id", &request.request_id)?;
        let note = note("note", &request.note)?;
        self.carry_out(&id, request_id, Action::CloseAccount { note })
            .await
    }

    pub(super) async fn purged(
        &self,
        request: v1::PurgeAccountRequest,
    ) -> Result<v1::PurgeAccountResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let store = &self.core().store;
        if let Some(before) = store.purged(&id).await? {
            // What a purge that broke off has left is deleted now.
            self.purge_with_plans(&id, 0, before).await?;
            return Ok(gone(before, true));
        }
        for _ in 0..TRIES_MAX {
            let version = self.purgeable(&id, &request.etag).await?;
            let now = self.core().clock.now().wall;
            if self.purge_with_plans(&id, version, now).await? {
                return Ok(gone(now, false));
            }
        }
        Err(Fault::Contended(format!("account `{id}`")))
    }

    /// The version of an account that may be purged as it stands.
    async fn purgeable(&self, id: &AccountId, etag: &str) -> Result<u64, Fault> {
        self.flush(id).await;
        let snapshot = self.read(id).await?;
        let book = &snapshot.book;
        let current = super::account::etag(book);
        if !etag.is_empty() && etag != current {
            let given = etag.into();
            return Err(Fault::Etag { given, current });
        }
        let policy = self.core().catalog.policy_of(book);
        let now = self.core().clock.now().wall;
        let state = book.state(snapshot.spend, &policy, now);
        if !matches!(state, ledger::State::Closed | ledger::State::PurgeEligible) {
            return Err(Fault::NotPurgeable(id.clone(), state.name()));
        }
        let held = self.core().sync.live(id).held;
        if held.is_positive() {
            return Err(Fault::HeldHere(held));
        }
        Ok(snapshot.version)
    }

    /// Purges an account, the accounts of its plans and budgets first, so that whoever repeats it finds the rest. `false` if it was
    /// changed meanwhile.
    async fn purge_with_plans(
        &self,
        id: &AccountId,
        version: u64,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let store = &self.core().store;
        for part in self.parts(id).await? {
            let read = store.read(&part, &[]).await?;
            let version = read.map_or(0, |read| read.version);
            match store.purge(&part, version, now).await {
                Ok(Stored::At(_)) | Err(StoreError::NoAccount(_)) => self.forget(&part).await,
                Ok(Stored::Conflict) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let Stored::At(_) = store.purge(id, version, now).await? else {
            return Ok(false);
        };
        self.forget(id).await;
        Ok(true)
    }

    async fn forget(&self, id: &AccountId) {
        self.0.units.forget(id);
        self.refresh(id).await;
    }

    /// The accounts of an account's plans and budgets: they follow it in the order of names.
    async fn parts(&self, id: &AccountId) -> Result<Vec<AccountId>, Fault> {
        let mut parts = Vec::new();
        let mut after = id.clone();
        loop {
            let names = self.core().store.accounts(Some(&after), CHUNK).await?;
            let Some(last) = names.last().cloned() else {
                return Ok(parts);
            };
            let all = names.len();
            parts.extend(
                names
                    .into_iter()
                    .take_while(|name| name.owner().as_ref() == Some(id)),
            );
            if all < CHUNK || last.owner().as_ref() != Some(id) {
                return Ok(parts);
            }
            after = last;
        }
    }
}

fn gone(at: Timestamp, replayed: bool) -> v1::PurgeAccountResponse {
    v1::PurgeAccountResponse {
        purge_time: Some(timestamp(at)),
        replayed,
    }
}
