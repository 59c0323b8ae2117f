//! `tollgate tenant`.

use clap::Subcommand;

use super::failure::Failure;
use super::limits::{self, Limits};
use super::out::{Cell, Record};
use super::policy::origin;
use super::remote::{Limit, Session};
use super::values::{part, word};
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all tenants
    List {
        /// Only those that are defined there: configuration or store
        #[arg(long, value_parser = origin)]
        origin: Option<v1::Origin>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a tenant
    Get { tenant: String },
    /// Make a tenant, or change what is given of one
    Set {
        tenant: String,
        /// The policy of its accounts
        #[arg(long)]
        policy: Option<String>,
        #[command(flatten)]
        limits: Box<Limits>,
        /// Set a field back to what the policy says: policy, or one of the rules, with _ for -
        #[arg(long, value_name = "FIELD", value_parser = clearable)]
        clear: Vec<String>,
        /// Change it only if nobody has changed a tenant since; as `tenant get` shows it
        #[arg(long)]
        etag: Option<String>,
    },
    /// Take back what was set under a name
    Delete {
        tenant: String,
        /// Take it back only if nobody has changed a tenant since
        #[arg(long)]
        etag: Option<String>,
    },
}

fn path(field: &str) -> Option<String> {
    match field {
        "policy" => Some("policy_id".into()),
        rule if limits::FIELDS.contains(&rule) => Some(format!("overrides.{rule}")),
        _ => None,
    }
}

fn clearable(field: &str) -> Result<String, String> {
    path(field).ok_or_else(|| format!("it is policy or one of {}", limits::FIELDS.join(", ")))
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut tenants = session.tenants();
    let tenant = match command {
        Command::List { origin, limit } => return list(session, origin, limit).await,
        Command::Get { tenant } => {
            let request = v1::GetTenantRequest { tenant_id: tenant };
            tenants.get_tenant(request).await?.into_inner().tenant
        }
        Command::Set {
            tenant,
            policy,
            limits,
            clear,
            etag,
        } => {
            let named = policy.as_ref().map(|_| "policy").into_iter();
            let given = named.chain(limits.given()).filter_map(path);
            let paths = given.chain(clear).collect();
            let request = v1::UpdateTenantRequest {
                tenant: Some(v1::Tenant {
                    tenant_id: tenant,
                    policy_id: policy.unwrap_or_default(),
                    overrides: Some(limits.overrides()),
                    etag: etag.unwrap_or_default(),
                    ..v1::Tenant::default()
                }),
                update_mask: Some(prost_types::FieldMask { paths }),
                allow_missing: true,
            };
            tenants.update_tenant(request).await?.into_inner().tenant
        }
        Command::Delete { tenant, etag } => {
            let request = v1::DeleteTenantRequest {
                tenant_id: tenant.clone(),
                etag: etag.unwrap_or_default(),
            };
            tenants.delete_tenant(request).await?;
            return session
                .out
                .record(&Record(vec![("deleted", Cell::text(tenant))]));
        }
    };
    session.out.record(&show(&part(tenant, "tenant")?))
}

async fn list(session: &Session, origin: Option<v1::Origin>, limit: Limit) -> Result<(), Failure> {
    let tenants = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListTenantsRequest {
            page_size,
            page_token,
            origin: origin.unwrap_or_default().into(),
        };
        let page = session.tenants().list_tenants(request).await?.into_inner();
        Ok((page.tenants, page.next_page_token))
    });
    let tenants: Vec<Record> = tenants.await?.iter().map(show).collect();
    session
        .out
        .table(&tenants, &["tenant", "policy", "rules", "origin"])
}

/// A tenant with the rules that it has of its own.
fn show(tenant: &v1::Tenant) -> Record {
    let of = tenant.overrides.clone().unwrap_or_default();
    let rules = limits::show(Record::default(), &limits::as_policy(of));
    let own = rules.0.into_iter();
    let own = own.filter(|(_, cell)| *cell != Cell::None && *cell != Cell::List(Vec::new()));
    Record(vec![
        ("tenant", Cell::text(&tenant.tenant_id)),
        ("policy", Cell::text(&tenant.policy_id)),
        ("rules", Cell::Record(Box::new(Record(own.collect())))),
        ("origin", word(tenant.origin().as_str_name(), "ORIGIN_")),
        ("etag", Cell::text(&tenant.etag)),
    ])
}
