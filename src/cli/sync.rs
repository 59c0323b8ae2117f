//! `tollgate sync`.

use clap::Subcommand;

use super::failure::Failure;
use super::out::{Cell, Record};
use super::remote::Session;
use super::values::instant_cell;
use crate::proto::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Publish everything that is settled, and wait for the store's word
    Now,
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Now => {
            let done = session
                .syncs()
                .sync_now(v1::SyncNowRequest {})
                .await?
                .into_inner();
            session.out.record(&Record(vec![
                ("accounts", Cell::Number(done.accounts.into())),
                ("as_of", instant_cell(done.as_of.as_ref())),
            ]))
        }
    }
}
