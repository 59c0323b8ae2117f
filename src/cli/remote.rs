//! The line to a tollgate's control API: where it is, who asks, and how long to wait. No command here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::failure::{Failure, chain};
use super::out::Out;
use super::values::duration;
use crate::proto::v1;

/// Longer than a loopback or a data centre needs, short enough for a person who waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest page that a listing asks for: the most that the API gives.
const PAGE_SIZE_MAX: usize = 1_000;

/// Which tollgate carries the command out.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Remote {
    /// Its control API: http://…, https://… or unix:/path
    #[arg(long, global = true, value_name = "URL", env = "TOLLGATE_CONTROL")]
    #[arg(default_value = "http://127.0.0.1:9002")]
    control: String,
    /// Its bearer token
    #[arg(long, global = true, env = "TOLLGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Trust these certificates (PEM) instead of the public ones
    #[arg(long, global = true, value_name = "FILE", env = "TOLLGATE_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// This client's own certificate (PEM), where the control API asks for one
    #[arg(long, global = true, value_name = "FILE", env = "TOLLGATE_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "TOLLGATE_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, global = true, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Print JSON: amounts as decimal strings, failures as an object on standard error
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Puts the bearer token on every request.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

type Line = InterceptedService<Channel, Bearer>;

/// A line that stands, and where its answers go.
pub(super) struct Session {
    line: Line,
    pub(super) out: Out,
}

impl Remote {
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        let wrong = |error| {
            let why = chain(&error);
            Failure::usage(format!("--control {}: {why}", self.control))
        };
        let endpoint = Endpoint::from_shared(self.control.clone()).map_err(wrong)?;
        let mut endpoint = endpoint
            .user_agent(concat!("tollgate-cli/", env!("CARGO_PKG_VERSION")))
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(self.timeout);
        if self.control.starts_with("https:") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(wrong)?;
        } else if self.tls_ca.is_some() || self.tls_cert.is_some() {
            return Err(Failure::usage(
                "certificates need a --control that begins with https:",
            ));
        }
        let channel = endpoint.connect().await.map_err(|error| {
            let why = chain(&error);
            Failure::unavailable(format!("no tollgate answers at {}: {why}", self.control))
        })?;
        Ok(Session {
            line: InterceptedService::new(channel, self.bearer()?),
            out: Out { json: self.json },
        })
    }

    fn bearer(&self) -> Result<Bearer, Failure> {
        let token = self.token.as_ref().filter(|token| !token.is_empty());
        let value = token.map(|token| {
            let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
            value.set_sensitive(true);
            Ok::<_, tonic::metadata::errors::InvalidMetadataValue>(value)
        });
        let value = value.transpose();
        value
            .map(Bearer)
            .map_err(|_| Failure::usage("--token has characters that no token has"))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let tls = ClientTlsConfig::new();
        let tls = match &self.tls_ca {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.trust_anchors(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        };
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(tls),
            (Some(cert), Some(key)) => {
                Ok(tls.identity(Identity::from_pem(read(cert)?, read(key)?)))
            }
            _ => Err(Failure::usage(
                "--tls-cert and --tls-key are given together",
            )),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

macro_rules! clients {
    ($($name:ident: $module:ident, $client:ident;)*) => {
        impl Session {$(
            pub(super) fn $name(&self) -> v1::$module::$client<Line> {
                v1::$module::$client::new(self.line.clone())
            }
        )*}
    };
}

clients! {
    accounts: account_service_client, AccountServiceClient;
    credits: credit_service_client, CreditServiceClient;
    events: event_service_client, EventServiceClient;
    holds: hold_service_client, HoldServiceClient;
    invoices: invoice_service_client, InvoiceServiceClient;
    keys: key_service_client, KeyServiceClient;
    ledgers: ledger_service_client, LedgerServiceClient;
    licences: licence_service_client, LicenceServiceClient;
    plans: plan_service_client, PlanServiceClient;
    policies: policy_service_client, PolicyServiceClient;
    prices: price_service_client, PriceServiceClient;
    refunds: refund_service_client, RefundServiceClient;
    syncs: sync_service_client, SyncServiceClient;
    tenants: tenant_service_client, TenantServiceClient;
    usages: usage_service_client, UsageServiceClient;
    webhooks: webhook_service_client, WebhookServiceClient;
}

/// How much of a listing is wanted.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Limit {
    /// How many to show at most
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
}

impl Session {
    /// Reads pages until there are no more or the limit is reached, and remarks on what was left out.
    /// `fetch` is given the size and the token of a page, and gives its items and the next token.
    pub(super) async fn pages<T>(
        &self,
        limit: Limit,
        mut fetch: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Status>,
    ) -> Result<Vec<T>, Failure> {
        let limit = usize::try_from(limit.limit).unwrap_or(usize::MAX);
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let size = limit.saturating_sub(items.len()).min(PAGE_SIZE_MAX);
            let size = i32::try_from(size).unwrap_or(i32::MAX);
            let (page, next) = fetch(size, token).await?;
            items.extend(page);
            token = next;
            if token.is_empty() || items.len() >= limit {
                break;
            }
        }
        if !token.is_empty() || items.len() > limit {
            items.truncate(limit);
            let more = format!("the first {limit} are shown; there are more: --limit N");
            self.out.remark(&more);
        }
        Ok(items)
    }
}
