//! What a billing backend asks of a world over the control API: one method an act, with request and order ids that are made up unless
//! they matter.

use std::sync::atomic::Ordering::SeqCst;

use tollgate::control::DOMAIN;
use tollgate::money::Amount;
use tollgate::proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::world::World;
use crate::support::node;
use v1::account_service_client::AccountServiceClient;
use v1::credit_service_client::CreditServiceClient;
use v1::event_service_client::EventServiceClient;
use v1::hold_service_client::HoldServiceClient;
use v1::key_service_client::KeyServiceClient;
use v1::ledger_service_client::LedgerServiceClient;
use v1::sync_service_client::SyncServiceClient;
use v1::usage_service_client::UsageServiceClient;

/// What [`refused`] gives: the code, and the stable reason.
pub(crate) type Refused = (Code, String);

/// An amount as the API has it, in the unit of whatever it is about.
pub(crate) fn money(text: &str) -> Option<v1::Amount> {
    Some(v1::Amount {
        unit: String::new(),
        nanos: node::amount(text).nanos(),
    })
}

/// An amount of the API as a decimal text.
pub(crate) fn text(amount: &Option<v1::Amount>) -> String {
    Amount::from_nanos(amount.as_ref().unwrap().nanos).to_string()
}

/// Its nano-units; none is 0.
pub(crate) fn nanos(amount: &Option<v1::Amount>) -> i64 {
    amount.as_ref().map_or(0, |amount| amount.nanos)
}

/// What a request was refused with.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> Refused {
    let status = result.unwrap_err();
    let details = status.get_error_details();
    let info = details
        .error_info()
        .expect("every error carries its reason");
    assert_eq!(info.domain, DOMAIN);
    (status.code(), info.reason.clone())
}

pub(crate) fn said(code: Code, reason: &str) -> Refused {
    (code, reason.into())
}

/// The name of an event as it is written: `EVENT_KIND_BALANCE_LOW` is `balance.low`.
fn event_name(event: &v1::Event) -> String {
    let kind = event.kind().as_str_name().to_lowercase();
    kind.trim_start_matches("event_kind_").replacen('_', ".", 1)
}

impl World {
    pub(super) fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel.clone())
    }

    pub(super) fn credit(&self) -> CreditServiceClient<Channel> {
        CreditServiceClient::new(self.channel.clone())
    }

    pub(super) fn holds(&self) -> HoldServiceClient<Channel> {
        HoldServiceClient::new(self.channel.clone())
    }

    /// An id that was not used before.
    pub(super) fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.numbers.fetch_add(1, SeqCst))
    }

    pub(crate) async fn create(&self, account: v1::Account) -> Result<v1::Account, Status> {
        let request = v1::CreateAccountRequest {
            account: Some(account),
            request_id: self.id("r"),
        };
        let answer = self.accounts().create_account(request).await?;
        Ok(answer.into_inner().account.unwrap())
    }

    pub(crate) async fn get(&self, account: &str) -> v1::Account {
        let request = v1::GetAccountRequest {
            account_id: account.into(),
        };
        let answer = self.accounts().get_account(request).await.unwrap();
        answer.into_inner().account.unwrap()
    }

    /// The account `a`.
    pub(crate) async fn a(&self) -> v1::Account {
        self.get("a").await
    }

    pub(crate) async fn balance(&self) -> String {
        text(&self.a().await.balance)
    }

    /// The state of `a`, as `OVERDUE`.
    pub(crate) async fn state(&self) -> String {
        let state = self.a().await.state().as_str_name();
        state.trim_start_matches("ACCOUNT_STATE_").into()
    }

    /// What `a` has otherwise than its preset.
    pub(crate) async fn otherwise(&self, edit: impl FnOnce(&mut v1::Overrides)) {
        self.try_otherwise(edit).await.unwrap();
    }

    pub(crate) async fn try_otherwise(
        &self,
        edit: impl FnOnce(&mut v1::Overrides),
    ) -> Result<(), Status> {
        let mut overrides = self.a().await.overrides.unwrap_or_default();
        edit(&mut overrides);
        self.update(v1::Account {
            overrides: Some(overrides),
            ..v1::Account::default()
        })
        .await
    }

    /// Sets the fields of `a` that are given.
    pub(crate) async fn update(&self, fields: v1::Account) -> Result<(), Status> {
        let request = v1::UpdateAccountRequest {
            account: Some(v1::Account {
                account_id: "a".into(),
                ..fields
            }),
            update_mask: None,
        };
        self.accounts().update_account(request).await.map(drop)
    }

    /// Pays money in, for a new order.
    pub(crate) async fn recharge(&self, amount: &str) -> v1::RechargeResponse {
        self.order(&self.id("o"), amount).await.unwrap()
    }

    /// Pays money in for this order.
    pub(crate) async fn order(
        &self,
        order: &str,
        amount: &str,
    ) -> Result<v1::RechargeResponse, Status> {
        self.recharge_with(v1::RechargeRequest {
            order_id: order.into(),
            amount: money(amount),
            ..v1::RechargeRequest::default()
        })
        .await
    }

    /// The request as it is, for `a` and under a new request id if it has none.
    pub(crate) async fn recharge_with(
        &self,
        mut request: v1::RechargeRequest,
    ) -> Result<v1::RechargeResponse, Status> {
        request.account_id = "a".into();
        if request.request_id.is_empty() {
            request.request_id = self.id("r");
        }
        let answer = self.credit().recharge(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn grant(&self, amount: &str) -> v1::GrantResponse {
        self.grant_with(v1::GrantRequest {
            amount: money(amount),
            ..v1::GrantRequest::default()
        })
        .await
        .unwrap()
    }

    pub(crate) async fn grant_with(
        &self,
        mut request: v1::GrantRequest,
    ) -> Result<v1::GrantResponse, Status> {
        request.account_id = "a".into();
        request.request_id = self.id("r");
        let answer = self.credit().grant(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// A charge that comes after its call was over, with what follows from it.
    pub(crate) async fn late(&self, amount: &str) -> v1::Entry {
        self.late_for("a", amount).await
    }

    pub(crate) async fn late_for(&self, account: &str, amount: &str) -> v1::Entry {
        let request = v1::LateChargeRequest {
            account_id: account.into(),
            request_id: self.id("r"),
            amount: money(amount),
            key_id: "k-of-the-call".into(),
            model: "flat".into(),
            note: String::new(),
        };
        let answer = self.credit().late_charge(request).await.unwrap();
        self.quiet().await;
        answer.into_inner().entry.unwrap()
    }

    pub(crate) async fn adjust(&self, amount: &str, note: &str) -> v1::Entry {
        let request = v1::AdjustRequest {
            account_id: "a".into(),
            request_id: self.id("r"),
            amount: money(amount),
            note: note.into(),
        };
        let answer = self.credit().adjust(request).await.unwrap();
        answer.into_inner().entry.unwrap()
    }

    /// What is left of what was put in, in burn order.
    pub(crate) async fn blocks(&self) -> Vec<v1::CreditBlock> {
        let request = v1::ListCreditBlocksRequest {
            account_id: "a".into(),
            ..v1::ListCreditBlocksRequest::default()
        };
        let answer = self.credit().list_credit_blocks(request).await.unwrap();
        let mut blocks = answer.into_inner().credit_blocks;
        blocks.sort_by_key(|block| block.burn_rank);
        blocks
    }

    /// A key with a secret of one's own.
    pub(crate) async fn key(&self, account: &str, id: &str, secret: &str) {
        let request = v1::CreateKeyRequest {
            key: Some(v1::Key {
                account_id: account.into(),
                key_id: id.into(),
                ..v1::Key::default()
            }),
            secret: secret.into(),
        };
        self.keys().create_key(request).await.unwrap();
    }

    pub(crate) fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn revoke(&self, key: &str) {
        let request = v1::RevokeKeyRequest {
            account_id: "a".into(),
            key_id: key.into(),
        };
        self.keys().revoke_key(request).await.unwrap();
    }

    /// The events of `a` of one kind, as `account.overdue`.
    pub(crate) async fn events(&self, kind: &str) -> Vec<v1::Event> {
        let mut events = self.all_events("a").await;
        events.retain(|event| event_name(event) == kind);
        events
    }

    /// Of each event of `a` of these kinds, in order, its name.
    pub(crate) async fn story(&self, kinds: &[&str]) -> Vec<String> {
        let events = self.all_events("a").await;
        let names = events.iter().map(event_name);
        names
            .filter(|name| kinds.contains(&name.as_str()))
            .collect()
    }

    pub(crate) async fn all_events(&self, account: &str) -> Vec<v1::Event> {
        let request = v1::ListEventsRequest {
            account_id: account.into(),
            page_size: 1_000,
            ..v1::ListEventsRequest::default()
        };
        let mut client = EventServiceClient::new(self.channel.clone());
        let answer = client.list_events(request).await.unwrap();
        answer.into_inner().events
    }

    /// The ledger of `a`.
    pub(crate) async fn entries(&self) -> Vec<v1::Entry> {
        self.entries_of("a").await
    }

    pub(crate) async fn entries_of(&self, account: &str) -> Vec<v1::Entry> {
        let request = v1::ListEntriesRequest {
            account_id: account.into(),
            page_size: 1_000,
            ..v1::ListEntriesRequest::default()
        };
        self.list_entries(request).await.entries
    }

    pub(crate) async fn list_entries(
        &self,
        request: v1::ListEntriesRequest,
    ) -> v1::ListEntriesResponse {
        let answer = self.ledger().list_entries(request).await.unwrap();
        answer.into_inner()
    }

    pub(crate) fn ledger(&self) -> LedgerServiceClient<Channel> {
        LedgerServiceClient::new(self.channel.clone())
    }

    /// The ledger of `a` adds up, to the last nano-unit.
    pub(crate) async fn verify(&self) {
        let request = v1::VerifyLedgerRequest {
            account_id: "a".into(),
        };
        let proof = self.ledger().verify_ledger(request).await.unwrap();
        let proof = proof.into_inner();
        assert!(proof.ok, "{:?}", proof.findings);
    }

    pub(crate) async fn usage(&self, request: v1::QueryUsageRequest) -> v1::QueryUsageResponse {
        let mut client = UsageServiceClient::new(self.channel.clone());
        let request = v1::QueryUsageRequest {
            account_id: "a".into(),
            ..request
        };
        client.query_usage(request).await.unwrap().into_inner()
    }

    /// Sets an amount aside for a call that an application makes itself.
    pub(crate) async fn hold(&self, amount: &str) -> Result<String, Status> {
        let request = v1::HoldRequest {
            caller: Some(v1::hold_request::Caller::Secret("sk-caller-a".into())),
            model: "flat".into(),
            amount: money(amount),
            request_id: self.id("h"),
            ..v1::HoldRequest::default()
        };
        let answer = self.holds().hold(request).await?;
        Ok(answer.into_inner().hold.unwrap().hold_id)
    }

    /// Ends it at what the call really cost, with what follows from that.
    pub(crate) async fn settle(&self, hold: &str, amount: &str) {
        let request = v1::SettleRequest {
            hold_id: hold.into(),
            cost: Some(v1::settle_request::Cost::Amount(money(amount).unwrap())),
        };
        self.holds().settle(request).await.unwrap();
        self.quiet().await;
    }

    /// Publishes what is settled.
    pub(crate) async fn sync_now(&self) {
        let mut client = SyncServiceClient::new(self.channel.clone());
        client.sync_now(v1::SyncNowRequest {}).await.unwrap();
    }
}
