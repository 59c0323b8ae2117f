//! AccountService: who pays, what is left, and on what terms.

use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use super::mask::Mask;
use super::pages::{ACCOUNTS, Filter, cut};
use crate::books::Configure;
use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::ledger::{Book, CreditBlock, CreditKind, State};
use crate::money::Amount;
use crate::policy::Overrides;
use crate::proto::convert::{
    FieldError, account_id, amount, label, overrides, overrides_from, policy, policy_id, timestamp,
    token_or_none, unit,
};
use crate::proto::v1::{self, account_service_server::AccountService};
use crate::store::Snapshot;

/// How many credit blocks an account shows; CreditService lists all of them.
const CREDITS_SHOWN_MAX: usize = 100;

/// What an update may set.
const FIELDS: [&str; 9] = [
    "display_name",
    "policy_id",
    "overrides",
    "overrides.credit_limit",
    "overrides.hold",
    "overrides.qps",
    "overrides.burst",
    "overrides.concurrency",
    "overrides.low_balance",
];

#[tonic::async_trait]
impl AccountService for Control {
    async fn create_account(
        &self,
        request: Request<v1::CreateAccountRequest>,
    ) -> Result<Response<v1::CreateAccountResponse>, Status> {
        answer(self.open_account(request.into_inner()).await)
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        answer(self.one_account(request.into_inner()).await)
    }

    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> Result<Response<v1::ListAccountsResponse>, Status> {
        answer(self.all_accounts(request.into_inner()).await)
    }

    async fn update_account(
        &self,
        request: Request<v1::UpdateAccountRequest>,
    ) -> Result<Response<v1::UpdateAccountResponse>, Status> {
        answer(self.change_account(request.into_inner()).await)
    }
}

impl Control {
    async fn open_account(
        &self,
        request: v1::CreateAccountRequest,
    ) -> Result<v1::CreateAccountResponse, Fault> {
        let request_id = token_or_none("request_id", &request.request_id)?;
        let sent = request
            .account
            .ok_or_else(|| FieldError::missing("account", "the account to open"))?;
        let id = account_id("account.account_id", &sent.account_id)?;
        let unit = unit("account.unit", &sent.unit)?;
        let name = label("account.display_name", &sent.display_name)?;
        let policy = match sent.policy_id.as_str() {
            "" => None,
            text => Some(policy_id("account.policy_id", text)?),
        };
        let overrides = match &sent.overrides {
            None => Overrides::default(),
            Some(sent) => overrides_from("account.overrides", sent, &unit)?,
        };
        let name = Some(name).filter(|name| !name.is_empty());
        let opened = self
            .core()
            .books
            .open(id.clone(), unit, name, policy, overrides, request_id)
            .await?;
        self.refresh(&id).await;
        let as_of = self.core().clock.now().wall;
        Ok(v1::CreateAccountResponse {
            account: Some(self.account(&opened.snapshot, as_of)),
            replayed: opened.replayed,
        })
    }

    async fn one_account(
        &self,
        request: v1::GetAccountRequest,
    ) -> Result<v1::GetAccountResponse, Fault> {
        let id = account_id("account_id", &request.account_id)?;
        let as_of = self.flush(&id).await;
        let snapshot = self.read(&id).await?;
        let mut account = self.account(&snapshot, as_of);
        account.credits = credits(&snapshot);
        Ok(v1::GetAccountResponse {
            account: Some(account),
        })
    }

    async fn all_accounts(
        &self,
        mut request: v1::ListAccountsRequest,
    ) -> Result<v1::ListAccountsResponse, Fault> {
        let size = ACCOUNTS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListAccounts", &request);
        let after = filter.position(&token)?;
        let after = after.map(|after| AccountId::stored(&after)).transpose();
        let after = after.map_err(|_| Fault::PageToken)?;
        let store = &self.core().store;
        let mut ids = store
            .accounts(after.as_ref(), size.saturating_add(1))
            .await?;
        let more = cut(&mut ids, size);
        let next = ids.last().filter(|_| more).map(|last| filter.token(last));
        let mut accounts = Vec::with_capacity(ids.len());
        for id in ids {
            let as_of = self.flush(&id).await;
            accounts.push(self.account(&self.read(&id).await?, as_of));
        }
        Ok(v1::ListAccountsResponse {
            accounts,
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn change_account(
        &self,
        request: v1::UpdateAccountRequest,
    ) -> Result<v1::UpdateAccountResponse, Fault> {
        let sent = request
            .account
            .ok_or_else(|| FieldError::missing("account", "the fields to set"))?;
        let id = account_id("account.account_id", &sent.account_id)?;
        let present = |field: &str| match field {
            "display_name" => !sent.display_name.is_empty(),
            "policy_id" => !sent.policy_id.is_empty(),
            "overrides" => sent.overrides.is_some(),
            _ => false,
        };
        let mask = Mask::new(request.update_mask.as_ref(), &FIELDS, present)?;
        let edit = |book: &Book| {
            let current = etag(book);
            if !sent.etag.is_empty() && sent.etag != current {
                return Err(Fault::Etag {
                    given: sent.etag.clone(),
                    current,
                });
            }
            edited(book, &sent, &mask)
        };
        let before = self.read(&id).await?;
        // An update that changes nothing writes nothing, so that a repeat leaves no second entry.
        let snapshot = if edit(&before.book)? == Configure::default() {
            before
        } else {
            let done = self.core().books.configure(&id, edit).await?;
            self.refresh(&id).await;
            done.snapshot
        };
        let as_of = self.core().clock.now().wall;
        Ok(v1::UpdateAccountResponse {
            account: Some(self.account(&snapshot, as_of)),
        })
    }

    /// An account as it is shown, without its credit blocks.
    pub(super) fn account(&self, snapshot: &Snapshot, as_of: Timestamp) -> v1::Account {
        let Snapshot { book, spend, .. } = snapshot;
        let live = self.core().sync.live(&book.account);
        let money = |value| Some(amount(value, &book.unit));
        let balance = book.balance(*spend);
        let in_force = self.core().catalog.policy_of(book);
        let state = match book.state(*spend, &in_force, self.core().clock.now().wall) {
            State::Active => v1::AccountState::Active,
            State::Overdue => v1::AccountState::Overdue,
            State::Suspended
            | State::ReactivationRequired
            | State::PurgeEligible
            | State::Frozen
            | State::Closed => v1::AccountState::Unspecified,
        };
        v1::Account {
            account_id: book.account.to_string(),
            display_name: book.name.clone(),
            unit: book.unit.clone(),
            policy_id: book.policy.clone(),
            overrides: Some(overrides(&book.overrides, &book.unit)),
            etag: etag(book),
            create_time: Some(timestamp(book.created)),
            state: state.into(),
            balance: money(balance),
            held: money(live.held),
            available: money(balance.saturating_sub(live.held)),
            debt: money(book.debt(*spend)),
            overdue_time: book.overdue_since.map(timestamp),
            as_of: Some(timestamp(as_of.max(book.created))),
            last_entry_sequence: book.entries,
            cumulative_recharge: money(book.cumulative_recharge),
            lifetime_credit: money(book.lifetime_credit),
            spend: money(*spend),
            unpublished: money(live.unpublished),
            effective_policy: Some(policy(&book.policy, &in_force, &book.unit)),
            credits: Vec::new(),
            version: snapshot.version,
        }
    }
}

/// What an update makes of a book's rules; a field that stays as it is is `None`.
fn edited(book: &Book, sent: &v1::Account, mask: &Mask) -> Result<Configure, Fault> {
    let mut wanted = Configure::default();
    if mask.has("display_name") {
        let name = label("account.display_name", &sent.display_name)?;
        let default = || book.account.to_string();
        wanted.name = Some(if name.is_empty() { default() } else { name });
    }
    if mask.has("policy_id") {
        wanted.policy = Some(match sent.policy_id.as_str() {
            "" => crate::catalog::DEFAULT_POLICY.into(),
            text => policy_id("account.policy_id", text)?,
        });
    }
    let given = sent.overrides.clone().unwrap_or_default();
    let given = overrides_from("account.overrides", &given, &book.unit)?;
    let mut result = book.overrides.clone();
    if mask.has("overrides") {
        result = given.clone();
    }
    for field in FIELDS.iter().filter(|field| mask.has(field)) {
        match *field {
            "overrides.credit_limit" => result.credit_limit = given.credit_limit,
            "overrides.hold" => result.hold = given.hold,
            "overrides.qps" => result.qps = given.qps,
            "overrides.burst" => result.burst = given.burst,
            "overrides.concurrency" => result.concurrency = given.concurrency,
            "overrides.low_balance" => result.low_balance = given.low_balance,
            _ => {}
        }
    }
    wanted.overrides = Some(result);
    Ok(Configure {
        name: wanted.name.filter(|name| *name != book.name),
        policy: wanted.policy.filter(|policy| *policy != book.policy),
        overrides: wanted.overrides.filter(|result| *result != book.overrides),
        ..Configure::default()
    })
}

/// A digest of what an update can change: money that moves meanwhile is no conflict.
fn etag(book: &Book) -> String {
    let rules = (&book.name, &book.policy, &book.overrides);
    // Strings, numbers and amounts: there is nothing in it that JSON could refuse.
    let json = serde_json::to_vec(&rules).unwrap_or_default();
    short_digest(&json)
}

/// Enough of a digest to tell versions apart.
pub(super) fn short_digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What is left of each block, in burn order: spend that no entry has summed yet is taken off as the next command will.
pub(super) fn remaining(snapshot: &Snapshot) -> impl Iterator<Item = (&CreditBlock, Amount)> {
    let mut unabsorbed = snapshot
        .spend
        .saturating_sub(snapshot.book.absorbed)
        .or_zero();
    snapshot.book.blocks.iter().filter_map(move |block| {
        let taken = unabsorbed.min(block.remaining);
        unabsorbed = unabsorbed.saturating_sub(taken);
        let left = block.remaining.saturating_sub(taken);
        left.is_positive().then_some((block, left))
    })
}

fn credits(snapshot: &Snapshot) -> Vec<v1::AccountCredit> {
    let shown = remaining(snapshot).take(CREDITS_SHOWN_MAX);
    shown
        .map(|(block, left)| v1::AccountCredit {
            block_id: block.id,
            bonus: block.kind == CreditKind::Bonus,
            remaining: Some(amount(left, &snapshot.book.unit)),
            expire_time: block.expires.map(timestamp),
        })
        .collect()
}
