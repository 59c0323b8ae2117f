//! `tollgate licence`.

use clap::Subcommand;

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::{Limit, Session};
use super::values::{instant, instant_cell, part, unword, word};
use crate::clock::Timestamp;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Sign an offline licence; its token is shown once, here
    Issue {
        /// Under whose name its calls are metered
        account: String,
        /// From this instant on it is not good any more, as 2026-12-31T00:00:00Z
        #[arg(long, value_name = "INSTANT")]
        expires: Timestamp,
        /// From this instant on it is good; now if not given
        #[arg(long, value_name = "INSTANT")]
        activates: Option<Timestamp>,
        /// Its id; made up if not given
        #[arg(long)]
        id: Option<String>,
        /// A model that it is for, or a beginning of names with * at its end; all if not given; may be given several times
        #[arg(long, value_name = "PATTERN")]
        model: Vec<String>,
        /// For the reader
        #[arg(long)]
        note: Option<String>,
    },
    /// Withdraw a licence
    Revoke { licence: String },
    /// List the licences that were issued
    List {
        /// Of this account only
        #[arg(long)]
        account: Option<String>,
        /// In this state only: pending, active, expired or revoked; may be given several times
        #[arg(long, value_parser = state)]
        state: Vec<v1::LicenceState>,
        #[command(flatten)]
        limit: Limit,
    },
}

fn state(text: &str) -> Result<v1::LicenceState, String> {
    unword(text, "LICENCE_STATE_", v1::LicenceState::from_str_name)
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Issue {
            account,
            expires,
            activates,
            id,
            model,
            note,
        } => {
            let licence = v1::Licence {
                licence_id: id.unwrap_or_default(),
                account_id: account,
                models: model,
                activate_time: activates.map(instant),
                expire_time: Some(instant(expires)),
                note: note.unwrap_or_default(),
                ..v1::Licence::default()
            };
            let request = v1::IssueLicenceRequest {
                licence: Some(licence),
            };
            let issued = session
                .licences()
                .issue_licence(request)
                .await?
                .into_inner();
            let shown = show(&part(issued.licence, "licence")?);
            session
                .out
                .record(&shown.with("token", Cell::text(issued.token)))?;
            if !session.out.json {
                session.out.remark("The token is not shown again.");
            }
            Ok(())
        }
        Command::Revoke { licence } => {
            let request = v1::RevokeLicenceRequest {
                licence_id: licence,
            };
            let revoked = session.licences().revoke_licence(request).await?;
            let licence = part(revoked.into_inner().licence, "licence")?;
            session.out.record(&show(&licence))
        }
        Command::List {
            account,
            state,
            limit,
        } => {
            let request = v1::ListLicencesRequest {
                account_id: account.unwrap_or_default(),
                states: state.into_iter().map(Into::into).collect(),
                ..v1::ListLicencesRequest::default()
            };
            let licences = session.pages(limit, async |page_size, page_token| {
                let request = v1::ListLicencesRequest {
                    page_size,
                    page_token,
                    ..request.clone()
                };
                let page = session
                    .licences()
                    .list_licences(request)
                    .await?
                    .into_inner();
                Ok((page.licences, page.next_page_token))
            });
            let licences: Vec<Record> = licences.await?.iter().map(show).collect();
            let columns = [
                "licence",
                "account",
                "state",
                "models",
                "activates",
                "expires",
                "revoked",
                "note",
            ];
            session.out.table(&licences, &columns)
        }
    }
}

fn show(licence: &v1::Licence) -> Record {
    Record(vec![
        ("licence", Cell::text(&licence.licence_id)),
        ("account", Cell::text(&licence.account_id)),
        (
            "state",
            word(licence.state().as_str_name(), "LICENCE_STATE_"),
        ),
        ("models", Cell::List(licence.models.clone())),
        ("activates", instant_cell(licence.activate_time.as_ref())),
        ("expires", instant_cell(licence.expire_time.as_ref())),
        ("issued", instant_cell(licence.create_time.as_ref())),
        ("revoked", instant_cell(licence.revoke_time.as_ref())),
        ("signing_key", Cell::text(&licence.signing_key_id)),
        ("note", Cell::text(&licence.note)),
    ])
}
