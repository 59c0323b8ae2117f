//! `tollgate account`.

use clap::Subcommand;

use super::failure::Failure;
use super::limits::{self, Limits};
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{amount_cell, instant_cell, part, request_id};
use crate::proto::v1;

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
        limits: Limits,
        /// Under which a repeat changes nothing; made up if not given
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// Show an account: balance, held, available, debt, state, as_of
    Get { account: String },
    /// List all accounts
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Change the name, the policy or the limits of an account
    Update {
        account: String,
        /// The name that people see
        #[arg(long)]
        name: Option<String>,
        /// Its policy
        #[arg(long)]
        policy: Option<String>,
        #[command(flatten)]
        limits: Limits,
        /// Set a field back to its default: name, policy, credit_limit, hold, qps, burst, concurrency, low_balance
        #[arg(long, value_name = "FIELD", value_parser = clearable)]
        clear: Vec<String>,
        /// Change it only if nobody else has since; as `account get` shows it
        #[arg(long)]
        etag: Option<String>,
    },
}

/// A field of the command line as a path of the field mask.
fn path(field: &str) -> Option<String> {
    match field {
        "name" => Some("display_name".into()),
        "policy" => Some("policy_id".into()),
        limit if limits::FIELDS.contains(&limit) => Some(format!("overrides.{limit}")),
        _ => None,
    }
}

fn clearable(field: &str) -> Result<String, String> {
    path(field).ok_or_else(|| "it is none of the fields named in --help".into())
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut accounts = session.accounts();
    let account = match command {
        Command::Create {
            account,
            unit,
            name,
            policy,
            limits,
            request_id: id,
        } => {
            let request = v1::CreateAccountRequest {
                account: Some(v1::Account {
                    account_id: account,
                    unit,
                    display_name: name.unwrap_or_default(),
                    policy_id: policy.unwrap_or_default(),
                    overrides: Some(limits.overrides()),
                    ..v1::Account::default()
                }),
                request_id: request_id(id)?,
            };
            accounts.create_account(request).await?.into_inner().account
        }
        Command::Get { account } => {
            let request = v1::GetAccountRequest {
                account_id: account,
            };
            accounts.get_account(request).await?.into_inner().account
        }
        Command::List { limit } => return list(session, limit).await,
        Command::Update {
            account,
            name,
            policy,
            limits,
            clear,
            etag,
        } => {
            let given = [
                name.as_ref().map(|_| "name"),
                policy.as_ref().map(|_| "policy"),
            ];
            let given = given.into_iter().flatten().chain(limits.given());
            let paths: Vec<String> = given.filter_map(path).chain(clear).collect();
            if paths.is_empty() {
                return Err(Failure::usage(
                    "nothing to change: give a field, or --clear one",
                ));
            }
            let request = v1::UpdateAccountRequest {
                account: Some(v1::Account {
                    account_id: account,
                    display_name: name.unwrap_or_default(),
                    policy_id: policy.unwrap_or_default(),
                    overrides: Some(limits.overrides()),
                    etag: etag.unwrap_or_default(),
                    ..v1::Account::default()
                }),
                update_mask: Some(prost_types::FieldMask { paths }),
            };
            accounts.update_account(request).await?.into_inner().account
        }
    };
    session.out.record(&show(&part(account, "account")?))
}

async fn list(session: &Session, limit: Limit) -> Result<(), Failure> {
    let accounts = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListAccountsRequest {
            page_size,
            page_token,
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
    let record = match &account.effective_policy {
        Some(policy) => limits::show(record, policy),
        None => record,
    };
    let record = record
        .with("created", instant_cell(account.create_time.as_ref()))
        .with("last_entry", Cell::Number(account.last_entry_sequence))
        .with("etag", Cell::text(&account.etag));
    if account.credits.is_empty() {
        return record;
    }
    record.with(
        "credits",
        Cell::Nested(account.credits.iter().map(credit).collect()),
    )
}

fn credit(credit: &v1::AccountCredit) -> Record {
    let kind = if credit.bonus { "bonus" } else { "paid" };
    Record(vec![
        ("block", Cell::Number(credit.block_id)),
        ("kind", Cell::text(kind)),
        ("remaining", amount_cell(credit.remaining.as_ref())),
        ("expires", instant_cell(credit.expire_time.as_ref())),
    ])
}
