//! The control API as its clients see it: a real server on loopback over the embedded store, and the generated clients.

mod accounts;
mod catalog;
mod credit;
mod holds;
mod invoices;
mod keys;
mod ledger;
mod licences;
mod lifecycle;
mod plans;
mod refunds;
mod security;
mod streams;
mod tenants;
mod usage;

use std::time::Duration;

use tokio::sync::watch;
use tollgate::clock::{Clock, Timestamp};
use tollgate::control::{DOMAIN, Listen, Running, Settings, serve};
use tollgate::policy::Policy;
use tollgate::proto::v1;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::support::node::{Node, layer};
use v1::account_service_client::AccountServiceClient;
use v1::credit_service_client::CreditServiceClient;
use v1::key_service_client::KeyServiceClient;

/// A replica with its control API.
struct Api {
    node: Node,
    channel: Channel,
    running: Running,
    stop: watch::Sender<bool>,
}

fn loopback() -> Settings {
    Settings {
        listen: Listen::Tcp("127.0.0.1:0".parse().unwrap()),
        token: None,
        tls: None,
        drain: Duration::from_secs(5),
        signing: None,
    }
}

impl Api {
    async fn start() -> Self {
        Self::over(Node::embedded()).await
    }

    /// With one policy by this name, on a clock that the test moves.
    async fn under(policy: Policy) -> (Self, Clock) {
        let clock = Clock::manual(NOON);
        let node = Node::embedded_under(clock.clone(), layer(policy));
        (Self::over(node).await, clock)
    }

    async fn over(node: Node) -> Self {
        Self::set(node, loopback()).await
    }

    async fn set(node: Node, settings: Settings) -> Self {
        let (stop, stopping) = watch::channel(false);
        let running = serve(node.core.clone(), settings, stopping).await.unwrap();
        let channel = connect(&running).await;
        Self {
            node,
            channel,
            running,
            stop,
        }
    }

    fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel.clone())
    }

    fn credit(&self) -> CreditServiceClient<Channel> {
        CreditServiceClient::new(self.channel.clone())
    }

    fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone())
    }

    /// Opens an account in USD with money in it and a key `k-NAME` whose secret is `sk-secret-NAME`.
    async fn account(&self, name: &str, units: i64) {
        self.open(name).await.unwrap();
        if units > 0 {
            let request = recharge(name, "first", "first", units);
            self.credit().recharge(request).await.unwrap();
        }
        let request = v1::CreateKeyRequest {
            key: Some(v1::Key {
                account_id: name.into(),
                key_id: format!("k-{name}"),
                ..v1::Key::default()
            }),
            secret: format!("sk-secret-{name}"),
        };
        self.keys().create_key(request).await.unwrap();
    }

    async fn open(&self, name: &str) -> Result<Response<v1::CreateAccountResponse>, Status> {
        let request = v1::CreateAccountRequest {
            account: Some(v1::Account {
                account_id: name.into(),
                unit: "USD".into(),
                ..v1::Account::default()
            }),
            request_id: String::new(),
        };
        self.accounts().create_account(request).await
    }

    /// A charge of so many units that came late.
    async fn late(&self, name: &str, request: &str, units: i64) -> v1::LateChargeResponse {
        let late = v1::LateChargeRequest {
            account_id: name.into(),
            request_id: request.into(),
            amount: usd(units),
            ..v1::LateChargeRequest::default()
        };
        self.credit().late_charge(late).await.unwrap().into_inner()
    }

    async fn get(&self, name: &str) -> v1::Account {
        let request = v1::GetAccountRequest {
            account_id: name.into(),
        };
        let answer = self.accounts().get_account(request).await.unwrap();
        answer.into_inner().account.unwrap()
    }

    /// One call of the model `flat`, which costs 1, through the gate as a proxy makes it.
    async fn call(&self, name: &str) {
        use crate::support::node::{call, terms};
        let (terms, secret) = (terms(), format!("sk-secret-{name}"));
        let ticket = self
            .node
            .core
            .gate
            .admit(&call(&secret, "flat", &terms))
            .await;
        ticket.unwrap().settle(tollgate::gate::Outcome {
            end: tollgate::gate::End::Complete,
            reading: tollgate::meter::Reading {
                usage: Some(tollgate::usage::Counts::default()),
                complete: true,
                error: false,
                text_bytes: 0,
            },
            bytes_in: 1,
            bytes_out: 1,
        });
    }
}

async fn connect(running: &Running) -> Channel {
    let address = running.local_addr.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

const UNIT: i64 = 1_000_000_000;

const NOON: Timestamp = Timestamp::from_nanos(1_790_000_000_000_000_000);

/// So long after noon, on the wire.
fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    let seconds = NOON.nanos() / UNIT + seconds;
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn usd(units: i64) -> Option<v1::Amount> {
    Some(v1::Amount {
        unit: "USD".into(),
        nanos: units * UNIT,
    })
}

fn recharge(account: &str, request: &str, order: &str, units: i64) -> v1::RechargeRequest {
    v1::RechargeRequest {
        account_id: account.into(),
        request_id: request.into(),
        order_id: order.into(),
        amount: usd(units),
        ..v1::RechargeRequest::default()
    }
}

/// What a request was refused with: its code and its stable reason.
fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    let details = status.get_error_details();
    let info = details
        .error_info()
        .expect("every error carries its reason");
    assert_eq!(info.domain, DOMAIN);
    (status.code(), info.reason.clone())
}

/// The fields that a request was refused for.
fn violations<T: std::fmt::Debug>(result: Result<T, Status>) -> Vec<String> {
    let details = result.unwrap_err().get_error_details();
    let violations = &details
        .bad_request()
        .expect("the fields are named")
        .field_violations;
    violations.iter().map(|each| each.field.clone()).collect()
}

fn said(code: Code, reason: &str) -> (Code, String) {
    (code, reason.into())
}
