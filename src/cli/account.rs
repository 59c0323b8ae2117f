//! `tollgate account`.

use clap::{Args, Subcommand};

use super::credit::{self, Once};
use super::failure::Failure;
use super::limits::{self, Limits};
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{amount, amount_cell, instant_cell, part, request_id, unit_cell, unword};
use crate::money::Amount;
use crate::proto::v1;

/// The rules that people look for first; `rules` has all of them.
const SHOWN_RULES: [&str; 6] = [
    "credit_limit",
    "hold",
    "qps",
    "burst",
    "concurrency",
    "low_balance",
];

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Open an account, empty
    Create {
        account: String,
        /// The unit of all its amounts; never changes
        #[arg(long)]
        unit: String,
        /// The name that people see
        #[arg(long)]
        name: Option<String>,
        /// Its policy
        #[arg(long)]
        policy: Option<String>,
        #[command(flatten)]
        belongs: Belongs,
        #[command(flatten)]
        limits: Box<Limits>,
        /// Under which a repeat changes nothing; made up if not given
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// Show an account: balance, held, available, debt, state, as_of
    Get { account: String },
    /// List all accounts
    List {
        /// In this state only, as overdue or closed; may be given several times
        #[arg(long, value_parser = state)]
        state: Vec<v1::AccountState>,
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<String>,
        /// Under this policy only
        #[arg(long)]
        policy: Option<String>,
        /// Also the accounts that keep what is left of plans, and what budgets count
        #[arg(long)]
        inner: bool,
        #[command(flatten)]
        limit: Limit,
    },
    /// Change the name, the policy, the tenant or the rules of an account
    Update {
        account: String,
        /// The name that people see
        #[arg(long)]
        name: Option<String>,
        /// Its policy
        #[arg(long)]
        policy: Option<String>,
        #[command(flatten)]
        belongs: Belongs,
        #[command(flatten)]
        limits: Box<Limits>,
        /// Set a field back to its default: name, policy, tenant, tier, recipients, or one of the rules, with _ for -
        #[arg(long, value_name = "FIELD", value_parser = clearable)]
        clear: Vec<String>,
        /// Change it only if nobody else has since; as `account get` shows it
        #[arg(long)]
        etag: Option<String>,
    },
    /// Declare an account overdue, whatever its balance
    MarkOverdue {
        account: String,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        once: Once,
    },
    /// Take that back
    ClearOverdue {
        account: String,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        once: Once,
    },
    /// Let calls of a capability through again, once a suspended account has paid
    Reactivate {
        account: String,
        /// As the policy names it; * is all of them
        capability: String,
        #[command(flatten)]
        once: Once,
    },
    /// Say how much of an order stands on invoices, in all: that is not refunded
    SetInvoiced {
        account: String,
        order: String,
        /// How much, as 10.00
        amount: Amount,
        #[command(flatten)]
        once: Once,
    },
    /// Close an account for good: no calls and no credit; its history stays
    Close {
        account: String,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        once: Once,
    },
    /// Delete an account that is closed or may be purged, with its keys, usage and ledger; cannot be undone
    Purge {
        account: String,
        /// Delete it only if nobody has changed its rules since; as `account get` shows it
        #[arg(long)]
        etag: Option<String>,
    },
}

/// Where an account belongs, and who is told of it.
#[derive(Debug, Args)]
pub(super) struct Belongs {
    /// Its tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Its trust tier, which bounds purchases
    #[arg(long)]
    tier: Option<String>,
    /// Who is told of what happens to it; may be given several times, and replaces all
    #[arg(long, value_name = "WHOM")]
    recipient: Vec<String>,
}

/// For the reader of the ledger.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// For the reader of the ledger
    #[arg(long)]
    note: Option<String>,
}

fn state(text: &str) -> Result<v1::AccountState, String> {
    unword(text, "ACCOUNT_STATE_", v1::AccountState::from_str_name)
}

/// A field of the command line as a path of the field mask.
fn path(field: &str) -> Option<String> {
    match field {
        "name" => Some("display_name".into()),
        "policy" => Some("policy_id".into()),
        "tenant" => Some("tenant_id".into()),
        "tier" => Some("tier".into()),
        "recipients" => Some("notification_recipients".into()),
        limit if limits::FIELDS.contains(&limit) => Some(format!("overrides.{limit}")),
        _ => None,
    }
}

fn clearable(field: &str) -> Result<String, String> {
    path(field).ok_or_else(|| "it is none of the fields named in --help".into())
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let account = match command {
        Command::Create {
            account,
            unit,
            name,
            policy,
            belongs,
            limits,
            request_id: id,
        } => {
            let account = v1::Account {
                unit,
                ..written(account, name, policy, belongs, &limits)
            };
            let request = v1::CreateAccountRequest {
                account: Some(account),
                request_id: request_id(id)?,
            };
            let mut accounts = session.accounts();
            accounts.create_account(request).await?.into_inner().account
        }
        Command::Get { account } => {
            let request = v1::GetAccountRequest {
                account_id: account,
            };
            let mut accounts = session.accounts();
            accounts.get_account(request).await?.into_inner().account
        }
        Command::Update {
            account,
            name,
            policy,
            belongs,
            limits,
            clear,
            etag,
        } => {
            let given = [
                name.as_ref().map(|_| "name"),
                policy.as_ref().map(|_| "policy"),
                belongs.tenant.as_ref().map(|_| "tenant"),
                belongs.tier.as_ref().map(|_| "tier"),
                belongs.recipient.first().map(|_| "recipients"),
            ];
            let given = given.into_iter().flatten().chain(limits.given());
            let paths: Vec<String> = given.filter_map(path).chain(clear).collect();
            if paths.is_empty() {
                return Err(Failure::usage(
                    "nothing to change: give a field, or --clear one",
                ));
            }
            let account = v1::Account {
                etag: etag.unwrap_or_default(),
                ..written(account, name, policy, belongs, &limits)
            };
            let request = v1::UpdateAccountRequest {
                account: Some(account),
                update_mask: Some(prost_types::FieldMask { paths }),
            };
            let mut accounts = session.accounts();
            accounts.update_account(request).await?.into_inner().account
        }
        Command::List {
            state,
            tenant,
            policy,
            inner,
            limit,
        } => {
            let request = v1::ListAccountsRequest {
                show_inner: inner,
                states: state.into_iter().map(Into::into).collect(),
                tenant_id: tenant.unwrap_or_default(),
                policy_id: policy.unwrap_or_default(),
                ..v1::ListAccountsRequest::default()
            };
            return list(session, request, limit).await;
        }
        Command::Purge { account, etag } => return purge(session, account, etag).await,
        other => return step(session, other).await,
    };
    session.out.record(&show(&part(account, "account")?))
}

fn written(
    account_id: String,
    name: Option<String>,
    policy: Option<String>,
    belongs: Belongs,
    limits: &Limits,
) -> v1::Account {
    v1::Account {
        account_id,
        display_name: name.unwrap_or_default(),
        policy_id: policy.unwrap_or_default(),
        tenant_id: belongs.tenant.unwrap_or_default(),
        tier: belongs.tier.unwrap_or_default(),
        notification_recipients: belongs.recipient,
        overrides: Some(limits.overrides()),
        ..v1::Account::default()
    }
}

/// What changes the state of an account, and makes an entry.
async fn step(session: &Session, command: Command) -> Result<(), Failure> {
    let mut accounts = session.accounts();
    macro_rules! ask {
        ($method:ident, $request:ident { $($field:ident $(: $value:expr)?),* }, $account:expr, $once:expr) => {{
            let id = request_id($once.request_id)?;
            let request = v1::$request {
                account_id: $account,
                request_id: id.clone(),
                $($field $(: $value)?),*
            };
            credit::done(accounts.$method(request).await, &id)
        }};
    }
    let done = match command {
        Command::MarkOverdue { account, why, once } => {
            let note = why.note.unwrap_or_default();
            ask!(mark_overdue, MarkOverdueRequest { note }, account, once)
        }
        Command::ClearOverdue { account, why, once } => {
            let note = why.note.unwrap_or_default();
            ask!(clear_overdue, ClearOverdueRequest { note }, account, once)
        }
        Command::Reactivate {
            account,
            capability,
            once,
        } => ask!(
            reactivate_capability,
            ReactivateCapabilityRequest { capability },
            account,
            once
        ),
        Command::SetInvoiced {
            account,
            order,
            amount: money,
            once,
        } => ask!(
            set_invoiced_amount,
            SetInvoicedAmountRequest {
                order_id: order,
                amount: Some(amount(money))
            },
            account,
            once
        ),
        Command::Close { account, why, once } => {
            let note = why.note.unwrap_or_default();
            ask!(close_account, CloseAccountRequest { note }, account, once)
        }
        // Those were answered before.
        Command::Create { .. }
        | Command::Get { .. }
        | Command::List { .. }
        | Command::Update { .. }
        | Command::Purge { .. } => return Ok(()),
    };
    done?.show(session)
}

async fn purge(session: &Session, account: String, etag: Option<String>) -> Result<(), Failure> {
    let request = v1::PurgeAccountRequest {
        account_id: account.clone(),
        etag: etag.unwrap_or_default(),
    };
    let gone = session
        .accounts()
        .purge_account(request)
        .await?
        .into_inner();
    session.out.record(&Record(vec![
        ("purged", Cell::text(account)),
        ("time", instant_cell(gone.purge_time.as_ref())),
        ("replayed", Cell::Flag(gone.replayed)),
    ]))
}

async fn list(
    session: &Session,
    request: v1::ListAccountsRequest,
    limit: Limit,
) -> Result<(), Failure> {
    let accounts = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListAccountsRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        let page = session
            .accounts()
            .list_accounts(request)
            .await?
            .into_inner();
        Ok((page.accounts, page.next_page_token))
    });
    let accounts: Vec<Record> = accounts.await?.iter().map(show).collect();
    let columns = [
        "account",
        "state",
        "balance",
        "held",
        "available",
        "debt",
        "unit",
        "policy",
        "tenant",
    ];
    session.out.table(&accounts, &columns)
}

/// An account as it is shown after everything that changes it.
pub(super) fn show(account: &v1::Account) -> Record {
    let state = account.state().as_str_name();
    let state = state.strip_prefix("ACCOUNT_STATE_").unwrap_or(state);
    let record = Record(vec![
        ("account", Cell::text(&account.account_id)),
        ("name", Cell::text(&account.display_name)),
        ("state", Cell::text(state)),
        ("unit", Cell::text(&account.unit)),
        ("balance", amount_cell(account.balance.as_ref())),
        ("held", amount_cell(account.held.as_ref())),
        ("available", amount_cell(account.available.as_ref())),
        ("debt", amount_cell(account.debt.as_ref())),
        ("overdue_since", instant_cell(account.overdue_time.as_ref())),
        ("unpublished", amount_cell(account.unpublished.as_ref())),
        ("as_of", instant_cell(account.as_of.as_ref())),
        (
            "cumulative_recharge",
            amount_cell(account.cumulative_recharge.as_ref()),
        ),
        (
            "lifetime_credit",
            amount_cell(account.lifetime_credit.as_ref()),
        ),
        ("spend", amount_cell(account.spend.as_ref())),
        ("policy", Cell::text(&account.policy_id)),
    ]);
    let mut record = record
        .with("tenant", Cell::text(&account.tenant_id))
        .with("tier", Cell::text(&account.tier))
        .with(
            "recipients",
            Cell::List(account.notification_recipients.clone()),
        )
        .with("refused", Cell::text(&account.refusal_reason))
        .with("refundable", amount_cell(account.refundable.as_ref()))
        .with(
            "invoiced_outstanding",
            amount_cell(account.invoiced_outstanding.as_ref()),
        )
        .with("created", instant_cell(account.create_time.as_ref()))
        .with("last_entry", Cell::Number(account.last_entry_sequence))
        .with("etag", Cell::text(&account.etag));
    // What most accounts never have is left out for people.
    let facts = [
        ("marked_overdue", account.mark_overdue_time.as_ref()),
        ("suspends", account.suspend_time.as_ref()),
        ("purgeable_from", account.purge_time.as_ref()),
        ("closed", account.close_time.as_ref()),
    ];
    for (name, at) in facts {
        if at.is_some() {
            record = record.with(name, instant_cell(at));
        }
    }
    if let Some(refund) = &account.refund {
        record = record
            .with("refund", Cell::text(&refund.refund_id))
            .with("refund_begun", instant_cell(refund.begin_time.as_ref()));
    }
    if !account.pending_capabilities.is_empty() {
        let pending = Cell::List(account.pending_capabilities.clone());
        record = record.with("pending_capabilities", pending);
    }
    if let Some(policy) = &account.effective_policy {
        let rules = limits::show(Record::default(), policy);
        let shown = rules.clone().pick(&SHOWN_RULES).0;
        record.0.extend(shown);
        record = record.with("rules", Cell::Record(Box::new(rules)));
    }
    let plans = account.plans.iter().map(plan);
    let rates = account.qps_plans.iter().map(rate);
    let (plans, rates): (Vec<_>, Vec<_>) = (plans.collect(), rates.collect());
    if !plans.is_empty() {
        record = record.with("plans", Cell::Nested(plans));
    }
    if !rates.is_empty() {
        record = record.with("qps_plans", Cell::Nested(rates));
    }
    if account.credits.is_empty() {
        return record;
    }
    record.with(
        "credits",
        Cell::Nested(account.credits.iter().map(one_credit).collect()),
    )
}

fn plan(plan: &v1::AccountPlan) -> Record {
    Record(vec![
        ("plan", Cell::text(&plan.plan_id)),
        ("remaining", amount_cell(plan.remaining.as_ref())),
        ("unit", unit_cell(plan.remaining.as_ref())),
        ("expires", instant_cell(plan.expire_time.as_ref())),
    ])
}

fn rate(plan: &v1::AccountQpsPlan) -> Record {
    Record(vec![
        ("plan", Cell::text(&plan.plan_id)),
        ("qps", Cell::Number(plan.qps.into())),
        ("starts", instant_cell(plan.start_time.as_ref())),
        ("expires", instant_cell(plan.expire_time.as_ref())),
    ])
}

fn one_credit(credit: &v1::AccountCredit) -> Record {
    let kind = if credit.bonus { "bonus" } else { "paid" };
    Record(vec![
        ("block", Cell::Number(credit.block_id)),
        ("kind", Cell::text(kind)),
        ("remaining", amount_cell(credit.remaining.as_ref())),
        ("expires", instant_cell(credit.expire_time.as_ref())),
    ])
}
