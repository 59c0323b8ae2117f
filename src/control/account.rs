//! AccountService: who pays, what is left, and on what terms.

use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};

use super::errors::{Fault, answer};
use super::mask::Mask;
use super::pages::{ACCOUNTS, Filter};
use super::{Control, moved};
use crate::books::Configure;
use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::ledger::{Book, CreditBlock, CreditKind, RECIPIENTS_MAX, State};
use crate::money::Amount;
use crate::policy::{Overrides, Policy};
use crate::proto::convert::{
    FieldError, OVERRIDES, account_id, account_states, amount, label, overrides, overrides_from,
    policy, policy_id, problems, readable_account_id, set_override, state, tenant_id, timestamp,
    token_or_none, unit,
};
use crate::proto::v1::{self, account_service_server::AccountService};
use crate::refusal::Reason;
use crate::store::Snapshot;

/// How many credit blocks an account shows; CreditService lists all of them.
const CREDITS_SHOWN_MAX: usize = 100;

/// What an update may set, beside the fields of the overrides.
const FIELDS: [&str; 6] = [
    "display_name",
    "policy_id",
    "tenant_id",
    "tier",
    "notification_recipients",
    "overrides",
];

/// How many names are read at once.
const CHUNK: usize = 201;

/// How many accounts a filtered page reads at most before it returns what it has.
const SCANNED_MAX: usize = 1_000;

/// The longest name of a trust tier, as policies name them.
const TIER_CHARS_MAX: usize = 64;

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

    async fn mark_overdue(
        &self,
        request: Request<v1::MarkOverdueRequest>,
    ) -> Result<Response<v1::MarkOverdueResponse>, Status> {
        moved!(
            MarkOverdueResponse,
            self.marked_overdue(request.into_inner())
        )
    }

    async fn clear_overdue(
        &self,
        request: Request<v1::ClearOverdueRequest>,
    ) -> Result<Response<v1::ClearOverdueResponse>, Status> {
        moved!(
            ClearOverdueResponse,
            self.cleared_overdue(request.into_inner())
        )
    }

    async fn reactivate_capability(
        &self,
        request: Request<v1::ReactivateCapabilityRequest>,
    ) -> Result<Response<v1::ReactivateCapabilityResponse>, Status> {
        moved!(
            ReactivateCapabilityResponse,
            self.reactivated(request.into_inner())
        )
    }

    async fn set_invoiced_amount(
        &self,
        request: Request<v1::SetInvoicedAmountRequest>,
    ) -> Result<Response<v1::SetInvoicedAmountResponse>, Status> {
        moved!(
            SetInvoicedAmountResponse,
            self.invoiced(request.into_inner())
        )
    }

    async fn close_account(
        &self,
        request: Request<v1::CloseAccountRequest>,
    ) -> Result<Response<v1::CloseAccountResponse>, Status> {
        moved!(CloseAccountResponse, self.closed(request.into_inner()))
    }

    async fn purge_account(
        &self,
        request: Request<v1::PurgeAccountRequest>,
    ) -> Result<Response<v1::PurgeAccountResponse>, Status> {
        answer(self.purged(request.into_inner()).await)
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
        let given = |text: &str| !text.is_empty();
        let name = label("account.display_name", &sent.display_name)?;
        let configure = Configure {
            name: Some(name).filter(|name| given(name)),
            policy: named(&sent.policy_id, |text| policy_id("account.policy_id", text))?,
            overrides: Some(match &sent.overrides {
                None => Overrides::default(),
                Some(sent) => overrides_from("account.overrides", sent, &unit)?,
            }),
            tenant: named(&sent.tenant_id, |text| tenant_id("account.tenant_id", text))?,
            tier: Some(tier(&sent.tier)?).filter(|tier| given(tier)),
            recipients: Some(recipients(&sent.notification_recipients)?)
                .filter(|recipients| !recipients.is_empty()),
        };
        let mut fresh = Book::new(
            id.clone(),
            unit.clone(),
            crate::catalog::DEFAULT_POLICY.into(),
            Timestamp::default(),
        );
        configure.put_on(&mut fresh);
        self.check_overrides(&fresh)?;
        let opened = self
            .core()
            .books
            .open_as(id.clone(), unit, configure, request_id)
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
        let id = readable_account_id("account_id", &request.account_id)?;
        let as_of = self.flush(&id).await;
        let snapshot = self.read(&id).await?;
        let mut account = self.account(&snapshot, as_of);
        account.credits = credits(&snapshot);
        account.plans = self.plans_in_short(&snapshot).await?;
        account.qps_plans = self.qps_plans_in_short(&snapshot.book);
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
        let mut after = after.map_err(|_| Fault::PageToken)?;
        let states = account_states("states", &request.states)?;
        let wants = |account: &v1::Account| {
            (states.is_empty() || states.contains(&account.state()))
                && (request.tenant_id.is_empty() || request.tenant_id == account.tenant_id)
                && (request.policy_id.is_empty() || request.policy_id == account.policy_id)
        };
        let store = &self.core().store;
        let mut accounts = Vec::new();
        let mut scanned: usize = 0;
        let more = 'scan: loop {
            let ids = store.accounts(after.as_ref(), CHUNK).await?;
            let last_chunk = ids.len() < CHUNK;
            let mut left = ids.len();
            for id in ids {
                left = left.saturating_sub(1);
                after = Some(id.clone());
                // Plans are shown with whom they belong to; what keeps them and the budgets is nobody's account.
                if id.is_inner() && !request.show_inner {
                    continue;
                }
                if accounts.len() == size {
                    break 'scan true;
                }
                scanned = scanned.saturating_add(1);
                let as_of = self.flush(&id).await;
                // It may be purged while this goes on.
                if let Some(snapshot) = store.read(&id, &[]).await? {
                    accounts.push(self.account(&snapshot, as_of));
                }
                accounts.retain(|account| wants(account));
                if scanned >= SCANNED_MAX {
                    break 'scan left > 0 || !last_chunk;
                }
            }
            if last_chunk {
                break false;
            }
        };
        // The next page begins after the last one that is shown, unless that is further back than what was looked at.
        let full = accounts.len() == size;
        let last = accounts.last().map(|account| account.account_id.clone());
        let at = if full { last } else { after.map(String::from) };
        let next = at.filter(|_| more).map(|at| filter.token(at));
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
            "tenant_id" => !sent.tenant_id.is_empty(),
            "tier" => !sent.tier.is_empty(),
            "notification_recipients" => !sent.notification_recipients.is_empty(),
            "overrides" => sent.overrides.is_some(),
            _ => false,
        };
        let allowed = [FIELDS.as_slice(), OVERRIDES].concat();
        let mask = Mask::new(request.update_mask.as_ref(), &allowed, present)?;
        let edit = |book: &Book| {
            let current = etag(book);
            if !sent.etag.is_empty() && sent.etag != current {
                return Err(Fault::Etag {
                    given: sent.etag.clone(),
                    current,
                });
            }
            let wanted = edited(book, &sent, &mask)?;
            let mut changed = book.clone();
            wanted.put_on(&mut changed);
            self.check_overrides(&changed)?;
            Ok(wanted)
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
        // Also if nothing is new here: it may be the repeat of one that broke off before this.
        self.pass_on_recipients(&snapshot.book).await?;
        let as_of = self.core().clock.now().wall;
        Ok(v1::UpdateAccountResponse {
            account: Some(self.account(&snapshot, as_of)),
        })
    }

    /// Whether an account's own fields go together with those below them.
    fn check_overrides(&self, book: &Book) -> Result<(), FieldError> {
        problems("account.overrides", &self.core().catalog.policy_of(book))
    }

    /// An account as it is shown, without what is listed of it.
    pub(super) fn account(&self, snapshot: &Snapshot, as_of: Timestamp) -> v1::Account {
        let Snapshot { book, spend, .. } = snapshot;
        let live = self.core().sync.live(&book.account);
        let money = |value| Some(amount(value, &book.unit));
        let balance = book.balance(*spend);
        let in_force = self.core().catalog.policy_of(book);
        let now = self.core().clock.now().wall;
        let owed = book.debt(*spend);
        let stands = book.state(*spend, &in_force, now);
        let standing = book.standing(*spend, &in_force, now);
        let ends = Ends::of(snapshot, &in_force, now);
        let refundable = book.refundable(*spend, &in_force, now);
        let refundable = refundable
            .iter()
            .fold(Amount::ZERO, |sum, order| sum.saturating_add(order.amount));
        v1::Account {
            account_id: book.account.to_string(),
            display_name: book.name.clone(),
            unit: book.unit.clone(),
            policy_id: book.policy.clone(),
            overrides: Some(overrides(&book.overrides, &book.unit)),
            etag: etag(book),
            create_time: Some(timestamp(book.created)),
            state: state(stands).into(),
            balance: money(balance),
            held: money(live.held),
            available: money(balance.saturating_sub(live.held)),
            debt: money(owed),
            overdue_time: book.overdue_since(owed, &in_force, now).map(timestamp),
            as_of: Some(timestamp(as_of.max(book.created))),
            last_entry_sequence: book.entries,
            cumulative_recharge: money(book.cumulative_recharge),
            lifetime_credit: money(book.lifetime_credit),
            spend: money(*spend),
            unpublished: money(live.unpublished),
            effective_policy: Some(policy(&book.policy, &in_force, &book.unit)),
            credits: Vec::new(),
            version: snapshot.version,
            tenant_id: book.tenant.clone().unwrap_or_default(),
            tier: book.tier.clone(),
            notification_recipients: book.recipients.clone(),
            mark_overdue_time: book.declared_overdue.map(timestamp),
            suspend_time: ends.suspension.map(timestamp),
            purge_time: ends.purge.map(timestamp),
            close_time: book.closed.map(timestamp),
            refund: book.refund.as_ref().map(|refund| v1::AccountRefund {
                refund_id: refund.id.clone(),
                begin_time: Some(timestamp(refund.requested)),
                order_ids: refund.orders.clone(),
                reason: refund.reason.clone(),
            }),
            pending_capabilities: pending(book, &in_force),
            reactivated_capabilities: book.reactivated.iter().cloned().collect(),
            refundable: money(refundable),
            invoiced_outstanding: money(book.invoiced_outstanding),
            plans: Vec::new(),
            qps_plans: Vec::new(),
            refusal_reason: standing
                .at(now)
                .map(|reason| reason.name().to_owned())
                .unwrap_or_default(),
        }
    }
}

/// What an overdue leads to, if nobody pays.
struct Ends {
    suspension: Option<Timestamp>,
    purge: Option<Timestamp>,
}

impl Ends {
    fn of(snapshot: &Snapshot, policy: &Policy, now: Timestamp) -> Self {
        let Snapshot { book, spend, .. } = snapshot;
        let stands = book.state(*spend, policy, now);
        let suspended = matches!(stands, State::Suspended | State::PurgeEligible);
        let standing = book.standing(*spend, policy, now);
        let mut ahead = standing.ahead();
        let comes = ahead.any(|(_, reason)| reason == Some(Reason::AccountSuspended));
        let since = book.overdue_since(book.debt(*spend), policy, now);
        let over = |since| policy.suspend_after.map(|after| after.over_at(since));
        let suspension = since.filter(|_| suspended || comes).and_then(over);
        let later = |at: Timestamp| {
            let after = policy.purge_after_ms.map(std::time::Duration::from_millis);
            after.map(|after| at.plus(after))
        };
        Self {
            purge: suspension.and_then(later),
            suspension,
        }
    }
}

/// What waits to be reactivated, once the debt of a suspended account is paid.
fn pending(book: &Book, policy: &Policy) -> Vec<String> {
    if !book.needs_reactivation(policy) {
        return Vec::new();
    }
    if policy.capabilities.is_empty() {
        return vec!["*".into()];
    }
    let waits = |name: &&String| !book.reactivated.contains(*name);
    policy.capabilities.iter().filter(waits).cloned().collect()
}

fn named(
    text: &str,
    check: impl FnOnce(&str) -> Result<String, FieldError>,
) -> Result<Option<String>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    check(text).map(Some)
}

fn tier(text: &str) -> Result<String, FieldError> {
    let tier = label("account.tier", text)?;
    if tier.chars().count() > TIER_CHARS_MAX {
        let problem = format!("is longer than {TIER_CHARS_MAX} characters");
        return Err(FieldError::invalid("account.tier", problem));
    }
    Ok(tier)
}

fn recipients(given: &[String]) -> Result<Vec<String>, FieldError> {
    let field = "account.notification_recipients";
    if given.len() > RECIPIENTS_MAX {
        let problem = format!(
            "has {} recipients; it may have {RECIPIENTS_MAX}",
            given.len()
        );
        return Err(FieldError::invalid(field, problem));
    }
    let recipient = |(index, text): (usize, &String)| {
        let field = format!("{field}[{index}]");
        match label(&field, text)? {
            text if text.is_empty() => Err(FieldError::invalid(field, "is empty; leave it out")),
            text => Ok(text),
        }
    };
    given.iter().enumerate().map(recipient).collect()
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
    if mask.has("tenant_id") {
        let tenant = named(&sent.tenant_id, |text| tenant_id("account.tenant_id", text))?;
        wanted.tenant = Some(tenant.unwrap_or_default());
    }
    if mask.has("tier") {
        wanted.tier = Some(tier(&sent.tier)?);
    }
    if mask.has("notification_recipients") {
        wanted.recipients = Some(recipients(&sent.notification_recipients)?);
    }
    let given = sent.overrides.clone().unwrap_or_default();
    let given = overrides_from("account.overrides", &given, &book.unit)?;
    let mut result = book.overrides.clone();
    if mask.has("overrides") {
        result = given.clone();
    }
    for path in OVERRIDES.iter().filter(|path| mask.has(path)) {
        let field = path.strip_prefix("overrides.").unwrap_or(path);
        set_override(&mut result, &given, field);
    }
    wanted.overrides = Some(result);
    let tenant = book.tenant.clone().unwrap_or_default();
    Ok(Configure {
        name: wanted.name.filter(|name| *name != book.name),
        policy: wanted.policy.filter(|policy| *policy != book.policy),
        overrides: wanted.overrides.filter(|result| *result != book.overrides),
        tenant: wanted.tenant.filter(|wanted| *wanted != tenant),
        tier: wanted.tier.filter(|tier| *tier != book.tier),
        recipients: wanted
            .recipients
            .filter(|wanted| *wanted != book.recipients),
    })
}

/// A digest of what an update can change: money that moves meanwhile is no conflict.
pub(super) fn etag(book: &Book) -> String {
    let rules = (
        (&book.name, &book.policy, &book.overrides),
        (&book.tenant, &book.tier, &book.recipients),
    );
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

pub(super) fn credits(snapshot: &Snapshot) -> Vec<v1::AccountCredit> {
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
