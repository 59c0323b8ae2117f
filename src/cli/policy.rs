//! `tollgate policy`.

use clap::Subcommand;

use super::failure::Failure;
use super::limits::{self, Limits};
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{part, unword, word};
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all policies, the built-in ones among them
    List {
        /// Only those that are defined there: built_in, configuration or store
        #[arg(long, value_parser = origin)]
        origin: Option<v1::Origin>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a policy
    Get { policy: String },
    /// Make a policy, or change what is given of one
    Set {
        policy: String,
        #[command(flatten)]
        limits: Box<Limits>,
        /// Set a field back to its default: one of the options above, with _ for -
        #[arg(long, value_name = "FIELD", value_parser = clearable)]
        clear: Vec<String>,
        /// Change it only if nobody has changed a policy since; as `policy get` shows it
        #[arg(long)]
        etag: Option<String>,
    },
    /// Take back what was set under a name
    Delete {
        policy: String,
        /// Take it back only if nobody has changed a policy since
        #[arg(long)]
        etag: Option<String>,
    },
}

fn clearable(field: &str) -> Result<String, String> {
    if limits::FIELDS.contains(&field) {
        return Ok(field.into());
    }
    let known = limits::FIELDS.join(", ");
    Err(format!("it is one of {known}"))
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut policies = session.policies();
    let policy = match command {
        Command::List { origin, limit } => return list(session, origin, limit).await,
        Command::Get { policy } => {
            let request = v1::GetPolicyRequest { policy_id: policy };
            policies.get_policy(request).await?.into_inner().policy
        }
        Command::Set {
            policy,
            limits,
            clear,
            etag,
        } => {
            let request = update(policy, &limits, clear, etag);
            policies.update_policy(request).await?.into_inner().policy
        }
        Command::Delete { policy, etag } => {
            let request = v1::DeletePolicyRequest {
                policy_id: policy.clone(),
                etag: etag.unwrap_or_default(),
            };
            policies.delete_policy(request).await?;
            return session
                .out
                .record(&Record(vec![("deleted", Cell::text(policy))]));
        }
    };
    session.out.record(&show(&part(policy, "policy")?))
}

fn update(
    policy_id: String,
    limits: &Limits,
    clear: Vec<String>,
    etag: Option<String>,
) -> v1::UpdatePolicyRequest {
    let paths = limits.given().map(str::to_owned).chain(clear).collect();
    v1::UpdatePolicyRequest {
        policy: Some(v1::Policy {
            etag: etag.unwrap_or_default(),
            ..limits.policy(policy_id)
        }),
        update_mask: Some(prost_types::FieldMask { paths }),
        allow_missing: true,
    }
}

pub(super) fn origin(text: &str) -> Result<v1::Origin, String> {
    unword(text, "ORIGIN_", v1::Origin::from_str_name)
}

async fn list(session: &Session, origin: Option<v1::Origin>, limit: Limit) -> Result<(), Failure> {
    let policies = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListPoliciesRequest {
            page_size,
            page_token,
            origin: origin.unwrap_or_default().into(),
        };
        let page = session
            .policies()
            .list_policies(request)
            .await?
            .into_inner();
        Ok((page.policies, page.next_page_token))
    });
    let policies: Vec<Record> = policies.await?.iter().map(show).collect();
    let columns = [
        "policy",
        "credit_limit",
        "hold",
        "qps",
        "burst",
        "concurrency",
        "low_balance",
        "block_when",
        "origin",
    ];
    session.out.table(&policies, &columns)
}

fn show(policy: &v1::Policy) -> Record {
    let record = Record(vec![("policy", Cell::text(&policy.policy_id))]);
    limits::show(record, policy)
        .with("origin", word(policy.origin().as_str_name(), "ORIGIN_"))
        .with("etag", Cell::text(&policy.etag))
}
