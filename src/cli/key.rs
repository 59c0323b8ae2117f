//! `tollgate key`.

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{instant, instant_cell, optional_number, part, secret_from_stdin, word};
use crate::clock::Timestamp;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key; its secret is shown once, here
    Create {
        account: String,
        /// Its id; made up if not given
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        fields: Fields,
        /// Take the secret from the first line of standard input, for a key that moves here
        #[arg(long)]
        secret_stdin: bool,
    },
    /// Show a key
    Get { account: String, key: String },
    /// List the keys of an account
    List {
        account: String,
        /// Leave out those that were revoked
        #[arg(long)]
        active: bool,
        /// Of this service only
        #[arg(long)]
        service: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Change a key; its secret never changes
    Update {
        account: String,
        key: String,
        #[command(flatten)]
        fields: Fields,
        /// Clear a field: name, models, qps, expires, service, budgets
        #[arg(long, value_name = "FIELD", value_parser = clearable)]
        clear: Vec<&'static str>,
        /// Change it only if nobody else has since; as `key get` shows it
        #[arg(long)]
        etag: Option<String>,
    },
    /// Delete a key for good; what it used stays on record
    Revoke { account: String, key: String },
}

/// What can be chosen for a key.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// The name that people see
    #[arg(long)]
    name: Option<String>,
    /// A model that it may use, or a beginning of names with * at its end; may be given several times
    #[arg(long, value_name = "PATTERN")]
    model: Vec<String>,
    /// Calls per second of this key on its own
    #[arg(long, value_name = "N")]
    qps: Option<u32>,
    /// From this instant on it is refused, as 2026-12-31T00:00:00Z
    #[arg(long, value_name = "INSTANT")]
    expires: Option<Timestamp>,
    /// The service that its calls belong to, for `usage series`
    #[arg(long)]
    service: Option<String>,
    /// How much its calls may cost in an hour, day, month or in total, as day=5.00; may be given several times, and replaces all
    #[arg(long, value_name = "PERIOD=AMOUNT", value_parser = super::limits::budget)]
    budget: Vec<v1::Budget>,
}

impl Fields {
    fn paths(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("display_name", self.name.is_some()),
            ("models", !self.model.is_empty()),
            ("qps", self.qps.is_some()),
            ("expire_time", self.expires.is_some()),
            ("service", self.service.is_some()),
            ("budgets", !self.budget.is_empty()),
        ];
        given
            .into_iter()
            .filter_map(|(path, given)| given.then_some(path))
    }

    fn key(self, account: String, id: String) -> v1::Key {
        v1::Key {
            key_id: id,
            account_id: account,
            display_name: self.name.unwrap_or_default(),
            models: self.model,
            qps: self.qps,
            expire_time: self.expires.map(instant),
            service: self.service.unwrap_or_default(),
            budgets: self.budget,
            ..v1::Key::default()
        }
    }
}

fn clearable(field: &str) -> Result<&'static str, String> {
    match field {
        "name" => Ok("display_name"),
        "models" => Ok("models"),
        "qps" => Ok("qps"),
        "expires" => Ok("expire_time"),
        "service" => Ok("service"),
        "budgets" => Ok("budgets"),
        _ => Err("it is name, models, qps, expires, service or budgets".into()),
    }
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let mut keys = session.keys();
    let key = match command {
        Command::Create {
            account,
            id,
            fields,
            secret_stdin,
        } => {
            let secret = if secret_stdin {
                secret_from_stdin()?
            } else {
                String::new()
            };
            let request = v1::CreateKeyRequest {
                key: Some(fields.key(account, id.unwrap_or_default())),
                secret,
            };
            let made = keys.create_key(request).await?.into_inner();
            let shown = show(&part(made.key, "key")?);
            let shown = shown.with("secret", Cell::text(made.secret));
            session.out.record(&shown)?;
            if !session.out.json {
                session.out.remark("The secret is not shown again.");
            }
            return Ok(());
        }
        Command::List {
            account,
            active,
            service,
            limit,
        } => {
            let request = v1::ListKeysRequest {
                account_id: account,
                active_only: active,
                service: service.unwrap_or_default(),
                ..v1::ListKeysRequest::default()
            };
            return list(session, request, limit).await;
        }
        Command::Get { account, key } => {
            let request = v1::GetKeyRequest {
                account_id: account,
                key_id: key,
            };
            keys.get_key(request).await?.into_inner().key
        }
        Command::Update {
            account,
            key,
            fields,
            clear,
            etag,
        } => {
            let paths = fields.paths().chain(clear);
            let paths: Vec<String> = paths.map(str::to_owned).collect();
            if paths.is_empty() {
                return Err(Failure::usage(
                    "nothing to change: give a field, or --clear one",
                ));
            }
            let mut key = fields.key(account, key);
            key.etag = etag.unwrap_or_default();
            let request = v1::UpdateKeyRequest {
                key: Some(key),
                update_mask: Some(prost_types::FieldMask { paths }),
            };
            keys.update_key(request).await?.into_inner().key
        }
        Command::Revoke { account, key } => {
            let request = v1::RevokeKeyRequest {
                account_id: account,
                key_id: key,
            };
            keys.revoke_key(request).await?.into_inner().key
        }
    };
    session.out.record(&show(&part(key, "key")?))
}

async fn list(
    session: &Session,
    request: v1::ListKeysRequest,
    limit: Limit,
) -> Result<(), Failure> {
    let keys = session.pages(limit, async |page_size, page_token| {
        let request = v1::ListKeysRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        let page = session.keys().list_keys(request).await?.into_inner();
        Ok((page.keys, page.next_page_token))
    });
    let keys: Vec<Record> = keys.await?.iter().map(show).collect();
    let columns = [
        "key", "hint", "state", "name", "models", "qps", "created", "expires", "revoked", "service",
    ];
    session.out.table(&keys, &columns)
}

fn show(key: &v1::Key) -> Record {
    Record(vec![
        ("key", Cell::text(&key.key_id)),
        ("account", Cell::text(&key.account_id)),
        ("name", Cell::text(&key.display_name)),
        ("hint", Cell::text(&key.hint)),
        ("state", word(key.state().as_str_name(), "KEY_STATE_")),
        ("models", Cell::List(key.models.clone())),
        ("qps", optional_number(key.qps)),
        ("created", instant_cell(key.create_time.as_ref())),
        ("expires", instant_cell(key.expire_time.as_ref())),
        ("revoked", instant_cell(key.revoke_time.as_ref())),
        ("service", Cell::text(&key.service)),
        ("budgets", super::limits::budgets_cell(&key.budgets)),
        ("etag", Cell::text(&key.etag)),
    ])
}
