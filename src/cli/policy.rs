//! `tollgate policy`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::limits::{self, Limits};
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{duration, duration_cell, part, unword, wire_duration, word};
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all policies
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a policy
    Get { policy: String },
    /// Make a policy, or change what is given of one
    Set {
        policy: String,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        rules: Rules,
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

/// What a policy says and an account alone does not.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rules")]
pub(super) struct Rules {
    /// When calls stop: negative or zero_or_less
    #[arg(long, value_name = "WHEN", value_parser = block_when)]
    block_when: Option<v1::BlockWhen>,
    /// How long a hold taken through the API lives, as 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    hold_ttl: Option<Duration>,
    /// What becomes of a hold that nobody settles: release or charge
    #[arg(long, value_name = "WHAT", value_parser = unsettled)]
    unsettled: Option<v1::Unsettled>,
    /// What to do while the store is away: refuse or lease
    #[arg(long, value_name = "WHAT", value_parser = store_outage)]
    store_outage: Option<v1::StoreOutage>,
}

const RULES: [&str; 4] = ["block_when", "hold_ttl", "unsettled", "store_outage"];

impl Rules {
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            self.block_when.is_some(),
            self.hold_ttl.is_some(),
            self.unsettled.is_some(),
            self.store_outage.is_some(),
        ];
        let named = RULES.into_iter().zip(given);
        named.filter_map(|(name, given)| given.then_some(name))
    }
}

fn block_when(text: &str) -> Result<v1::BlockWhen, String> {
    unword(text, "BLOCK_WHEN_", v1::BlockWhen::from_str_name)
}

fn unsettled(text: &str) -> Result<v1::Unsettled, String> {
    unword(text, "UNSETTLED_", v1::Unsettled::from_str_name)
}

fn store_outage(text: &str) -> Result<v1::StoreOutage, String> {
    unword(text, "STORE_OUTAGE_", v1::StoreOutage::from_str_name)
}

fn clearable(field: &str) -> Result<String, String> {
    if limits::FIELDS.contains(&field) || RULES.contains(&field) {
        return Ok(field.into());
    }
    let known = [limits::FIELDS.as_slice(), &RULES].concat().join(", ");
    Err(format!("it is one of {known}"))
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut policies = session.policies();
    let policy = match command {
        Command::List { limit } => return list(session, limit).await,
        Command::Get { policy } => {
            let request = v1::GetPolicyRequest { policy_id: policy };
            policies.get_policy(request).await?.into_inner().policy
        }
        Command::Set {
            policy,
            limits,
            rules,
            clear,
            etag,
        } => {
            let request = update(policy, &limits, &rules, clear, etag);
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
    rules: &Rules,
    clear: Vec<String>,
    etag: Option<String>,
) -> v1::UpdatePolicyRequest {
    let given = limits.given().chain(rules.given()).map(str::to_owned);
    let paths = given.chain(clear).collect();
    let of_limits = limits.overrides();
    v1::UpdatePolicyRequest {
        policy: Some(v1::Policy {
            policy_id,
            block_when: rules.block_when.unwrap_or_default().into(),
            credit_limit: of_limits.credit_limit,
            hold: of_limits.hold,
            hold_ttl: rules.hold_ttl.map(wire_duration),
            unsettled: rules.unsettled.unwrap_or_default().into(),
            qps: of_limits.qps,
            burst: of_limits.burst,
            concurrency: of_limits.concurrency,
            low_balance: of_limits.low_balance,
            store_outage: rules.store_outage.unwrap_or_default().into(),
            origin: v1::Origin::Unspecified.into(),
            etag: etag.unwrap_or_default(),
        }),
        update_mask: Some(prost_types::FieldMask { paths }),
        allow_missing: true,
    }
}

async fn list(session: &Session, limit: Limit) -> Result<(), Failure> {
    let policies = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListPoliciesRequest {
            page_size,
            page_token,
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
        .with(
            "block_when",
            word(policy.block_when().as_str_name(), "BLOCK_WHEN_"),
        )
        .with("hold_ttl", duration_cell(policy.hold_ttl.as_ref()))
        .with(
            "unsettled",
            word(policy.unsettled().as_str_name(), "UNSETTLED_"),
        )
        .with(
            "store_outage",
            word(policy.store_outage().as_str_name(), "STORE_OUTAGE_"),
        )
        .with("origin", word(policy.origin().as_str_name(), "ORIGIN_"))
        .with("etag", Cell::text(&policy.etag))
}
