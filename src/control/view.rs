//! What the admin edge's page shows, asked of the same code that answers the control API: read only, in this process.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use super::auth::Token;
use super::{Control, State, units};
use crate::app::Core;
use crate::proto::v1;
use crate::proto::v1::account_service_server::AccountService as _;
use crate::proto::v1::ledger_service_server::LedgerService as _;
use crate::proto::v1::usage_service_server::UsageService as _;

/// Reads accounts, usage and ledgers. Cheap to clone.
#[derive(Clone)]
pub struct View {
    control: Control,
    token: Token,
    has_token: bool,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

impl View {
    /// Over a core; whoever asks must have the control API's token, if it has one.
    pub fn new(core: Arc<Core>, token: Option<&str>) -> Self {
        // Nobody follows a feed here, so it need not hear of the end.
        let (_, stopping) = watch::channel(false);
        let state = State {
            units: units::Units::new(Arc::clone(&core.store)),
            followers: Arc::new(Semaphore::new(0)),
            stopping,
            signer: None,
            core,
        };
        Self {
            control: Control(Arc::new(state)),
            token: Token::new(token),
            has_token: token.is_some(),
        }
    }

    /// Whether a token is asked for.
    pub const fn has_token(&self) -> bool {
        self.has_token
    }

    /// Whether a request with this `authorization` may see accounts.
    pub fn allows(&self, authorization: Option<&[u8]>) -> bool {
        self.token.lets_pass(authorization)
    }

    /// See `AccountService.ListAccounts`.
    pub async fn accounts(
        &self,
        request: v1::ListAccountsRequest,
    ) -> Result<v1::ListAccountsResponse, Status> {
        let answer = self.control.list_accounts(Request::new(request));
        answer.await.map(Response::into_inner)
    }

    /// See `AccountService.GetAccount`.
    pub async fn account(
        &self,
        request: v1::GetAccountRequest,
    ) -> Result<v1::GetAccountResponse, Status> {
        let answer = self.control.get_account(Request::new(request));
        answer.await.map(Response::into_inner)
    }

    /// See `UsageService.QueryUsage`.
    pub async fn usage(
        &self,
        request: v1::QueryUsageRequest,
    ) -> Result<v1::QueryUsageResponse, Status> {
        let answer = self.control.query_usage(Request::new(request));
        answer.await.map(Response::into_inner)
    }

    /// See `LedgerService.ListEntries`.
    pub async fn entries(
        &self,
        request: v1::ListEntriesRequest,
    ) -> Result<v1::ListEntriesResponse, Status> {
        let answer = self.control.list_entries(Request::new(request));
        answer.await.map(Response::into_inner)
    }
}
