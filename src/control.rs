//! The control API: a gRPC server over the core, for billing backends and the command line. One file for each service; here is
//! what they share and how the server starts and ends. No billing rules: those are in [`crate::ledger`], and every command
//! goes through [`crate::books`].
//!
//! Whoever reaches it can move money. So it refuses to start where others can reach it and nothing is asked of them, and the
//! bearer token guards every service but health.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::app::Core;
use crate::books::Done;
use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::ledger::{Action, Command, Entry};
use crate::licence::{PublicKey, Signer};
use crate::proto::convert::entry;
use crate::proto::{DESCRIPTORS, v1};
use crate::store::Snapshot;

mod account;
pub(crate) mod auth;
mod credit;
mod errors;
mod estimate;
mod event;
mod feed;
mod hold;
mod invoice;
mod key;
mod ledger;
mod licence;
mod lifecycle;
pub(crate) mod listener;
mod mask;
mod pages;
mod plan;
mod policy;
mod price;
mod refund;
mod sync;
mod tenant;
mod units;
mod usage;
mod verify;
mod view;
mod webhook;

use errors::Fault;

pub use auth::TOKEN_BYTES_MAX;
pub use errors::DOMAIN;
pub use view::View;

/// The largest request: a price book of ten thousand patterns with four meters each has about 1 MiB.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// The largest answer: a page of a thousand entries with ten allocations each has about 1 MiB. It is what clients take by
/// default.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Requests at once on one connection; a client with more waits. A backend that settles in bulk uses a few dozen.
const REQUESTS_PER_CONNECTION_MAX: usize = 256;

/// Connections at once; more wait to be accepted. Each takes some tens of KiB.
const CONNECTIONS_MAX: usize = 1_024;

/// Followers of events and spend at once, over all connections: each polls the store once a second.
const FOLLOWERS_MAX: usize = 64;

/// How much a request may have in its headers.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// A connection on which nothing was heard for so long is asked whether it is there. Followers may be silent for hours, and
/// many middleboxes forget a connection after a minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it has for the answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// For a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server listens and what it asks of clients.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub listen: Listen,
    /// What clients must send as `authorization: Bearer TOKEN`.
    pub token: Option<String>,
    /// TLS; with a `client_ca`, clients must show a certificate.
    pub tls: Option<Tls>,
    /// How long requests in flight have to end when the server is told to stop.
    pub drain: Duration,
    /// What licences are signed with, if they are issued here.
    pub signing: Option<Signing>,
}

/// What licences are signed with.
#[derive(Clone, Debug)]
pub struct Signing {
    /// The name of the key.
    pub kid: String,
    /// The private key: Ed25519, PEM.
    pub key_file: PathBuf,
    /// What is signed is checked with this one: they must belong together.
    pub public_key: PublicKey,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On a TCP port; 0 is any free one.
    Tcp(SocketAddr),
    /// On a Unix socket that only this user can open. A socket that a dead process left is replaced.
    Unix(PathBuf),
}

/// Files of TLS, all PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate, with those between it and its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must show a certificate of this authority (mTLS).
    pub client_ca: Option<PathBuf>,
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, with the port it got; `None` on a Unix socket.
    pub local_addr: Option<SocketAddr>,
    /// Ends once the server has drained, or the drain's time is over.
    pub join: JoinHandle<()>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Others could reach it and nothing would be asked of them.
    #[error(
        "the control API would listen on {0}, which others can reach, and ask nothing of them; set control.token, or \
         control.tls with a client_ca, or listen on 127.0.0.1:9002 or a Unix socket"
    )]
    Open(SocketAddr),
    /// A token that cannot be sent.
    #[error(
        "control.token must be 1 to {} printable ASCII characters without spaces",
        auth::TOKEN_BYTES_MAX
    )]
    Token,
    /// TLS on a Unix socket.
    #[error("control.tls does not go with a Unix socket; leave it out, or listen on a port")]
    TlsOnUnix,
    /// A file that cannot be read.
    #[error("{key}: `{}` cannot be read: {error}", path.display())]
    File {
        /// Which setting names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A signing key that is none, or not the one that licences are checked with.
    #[error("licences.signing.key_file: `{}` {what}", path.display())]
    Signing {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Certificates that are none, or do not go together.
    #[error("control.tls: {0}")]
    Tls(String),
    /// The address is taken, or may not be used.
    #[error("the control API cannot listen on {at}: {error}")]
    Bind {
        /// Where.
        at: String,
        /// Why.
        error: std::io::Error,
    },
    /// The descriptors of this build are broken.
    #[error("reflection: {0}")]
    Reflection(String),
}

/// Starts the server. `shutdown` turning true, or its sender going, stops it: streams end, requests in flight have
/// [`Settings::drain`].
pub async fn serve(
    core: Arc<Core>,
    settings: Settings,
    shutdown: watch::Receiver<bool>,
) -> Result<Running, StartError> {
    check_settings(&settings)?;
    let tls = settings.tls.as_ref().map(tls).transpose()?;
    let signer = settings.signing.as_ref().map(signer).transpose()?;
    let (health, health_server) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let control = Control(Arc::new(State {
        units: units::Units::new(Arc::clone(&core.store)),
        followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        stopping: shutdown.clone(),
        signer,
        core,
    }));
    let router = router(&control, settings.token.as_deref(), tls)?.add_service(health_server);
    let drain = settings.drain;
    let bind_error = |at: String| move |error| StartError::Bind { at, error };
    match settings.listen {
        Listen::Tcp(address) => {
            let bound = listener::tcp(address).await;
            let listener = bound.map_err(bind_error(address.to_string()))?;
            let local_addr = listener.local_addr().ok();
            let join = tokio::spawn(run(router, listener, shutdown, drain, health));
            Ok(Running { local_addr, join })
        }
        Listen::Unix(path) => {
            let bound = listener::unix(&path).await;
            let listener = bound.map_err(bind_error(path.display().to_string()))?;
            let join = tokio::spawn(run(router, listener, shutdown, drain, health));
            Ok(Running {
                local_addr: None,
                join,
            })
        }
    }
}

/// Reads the files of TLS as [`serve`] does, and tells what is wrong with them or the settings. Nothing is started.
pub fn check(settings: &Settings) -> Result<(), StartError> {
    check_settings(settings)?;
    settings.signing.as_ref().map(signer).transpose()?;
    if let Some(files) = &settings.tls {
        with_tls(Server::builder(), tls(files)?)?;
    }
    Ok(())
}

fn check_settings(settings: &Settings) -> Result<(), StartError> {
    if let Some(token) = &settings.token
        && !auth::is_token(token)
    {
        return Err(StartError::Token);
    }
    let mutual = settings
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some());
    match settings.listen {
        Listen::Tcp(address)
            if !address.ip().to_canonical().is_loopback()
                && settings.token.is_none()
                && !mutual =>
        {
            Err(StartError::Open(address))
        }
        Listen::Unix(_) if settings.tls.is_some() => Err(StartError::TlsOnUnix),
        _ => Ok(()),
    }
}

fn signer(signing: &Signing) -> Result<Signer, StartError> {
    let path = &signing.key_file;
    let pem = std::fs::read(path).map_err(|error| StartError::File {
        key: "licences.signing.key_file",
        path: path.clone(),
        error,
    })?;
    let wrong = |what: String| StartError::Signing {
        path: path.clone(),
        what,
    };
    let signer = Signer::from_pem(&signing.kid, &pem).map_err(|error| wrong(error.to_string()))?;
    if signer.public_key() != signing.public_key {
        let (own, kid) = (signer.public_key(), &signing.kid);
        return Err(wrong(format!(
            "belongs to the public key \"{own}\", and licences.keys has another one under \"{kid}\""
        )));
    }
    Ok(signer)
}

fn tls(files: &Tls) -> Result<ServerTlsConfig, StartError> {
    let read = |key, path: &PathBuf| {
        std::fs::read(path).map_err(|error| StartError::File {
            key,
            path: path.clone(),
            error,
        })
    };
    let cert = read("control.tls.cert", &files.cert)?;
    let key = read("control.tls.key", &files.key)?;
    let config = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .timeout(HANDSHAKE_TIMEOUT);
    match &files.client_ca {
        None => Ok(config),
        Some(path) => {
            let ca = read("control.tls.client_ca", path)?;
            Ok(config.client_ca_root(Certificate::from_pem(ca)))
        }
    }
}

fn with_tls(server: Server, tls: ServerTlsConfig) -> Result<Server, StartError> {
    let configured = server.tls_config(tls);
    configured.map_err(|error| StartError::Tls(errors::chain(&error)))
}

/// A client's request is guarded by the token before anything of it is read.
type Guarded<S> = tonic::service::interceptor::InterceptedService<S, auth::Token>;

/// Every service but health behind the token, with its bounds.
fn router(
    control: &Control,
    token: Option<&str>,
    tls: Option<ServerTlsConfig>,
) -> Result<Router, StartError> {
    use v1::account_service_server::AccountServiceServer;
    use v1::credit_service_server::CreditServiceServer;
    use v1::event_service_server::EventServiceServer;
    use v1::hold_service_server::HoldServiceServer;
    use v1::invoice_service_server::InvoiceServiceServer;
    use v1::key_service_server::KeyServiceServer;
    use v1::ledger_service_server::LedgerServiceServer;
    use v1::licence_service_server::LicenceServiceServer;
    use v1::plan_service_server::PlanServiceServer;
    use v1::policy_service_server::PolicyServiceServer;
    use v1::price_service_server::PriceServiceServer;
    use v1::refund_service_server::RefundServiceServer;
    use v1::sync_service_server::SyncServiceServer;
    use v1::tenant_service_server::TenantServiceServer;
    use v1::usage_service_server::UsageServiceServer;
    use v1::webhook_service_server::WebhookServiceServer;

    let mut server = Server::builder()
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION_MAX)
        .max_concurrent_streams(u32::try_from(REQUESTS_PER_CONNECTION_MAX).ok())
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    if let Some(tls) = tls {
        server = with_tls(server, tls)?;
    }
    let guard = auth::Token::new(token);
    macro_rules! guarded {
        ($server:ident) => {
            Guarded::new(
                $server::new(control.clone())
                    .max_decoding_message_size(REQUEST_BYTES_MAX)
                    .max_encoding_message_size(ANSWER_BYTES_MAX),
                guard.clone(),
            )
        };
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| StartError::Reflection(error.to_string()))?;
    Ok(server
        .add_service(guarded!(AccountServiceServer))
        .add_service(guarded!(KeyServiceServer))
        .add_service(guarded!(CreditServiceServer))
        .add_service(guarded!(HoldServiceServer))
        .add_service(guarded!(PriceServiceServer))
        .add_service(guarded!(PolicyServiceServer))
        .add_service(guarded!(UsageServiceServer))
        .add_service(guarded!(LedgerServiceServer))
        .add_service(guarded!(EventServiceServer))
        .add_service(guarded!(WebhookServiceServer))
        .add_service(guarded!(SyncServiceServer))
        .add_service(guarded!(PlanServiceServer))
        .add_service(guarded!(RefundServiceServer))
        .add_service(guarded!(InvoiceServiceServer))
        .add_service(guarded!(LicenceServiceServer))
        .add_service(guarded!(TenantServiceServer))
        .add_service(Guarded::new(reflection, guard)))
}

/// Until the shutdown is called for, or nobody is left to call for it.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Serves until told to stop, then for as long as the drain lasts.
async fn run<L: listener::Listener>(
    router: Router,
    listener: L,
    shutdown: watch::Receiver<bool>,
    drain: Duration,
    health: tonic_health::server::HealthReporter,
) {
    let incoming = listener::bounded(listener, CONNECTIONS_MAX);
    let mut serving =
        pin!(router.serve_with_incoming_shutdown(incoming, stopped(shutdown.clone())));
    tokio::select! {
        // Only a listener that is gone for good ends it before its time.
        ended = &mut serving => return report(ended),
        () = stopped(shutdown) => {}
    }
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    match tokio::time::timeout(drain, serving).await {
        Ok(ended) => report(ended),
        // Dropping it cuts what is left: requests that can be repeated, and streams that can be resumed.
        Err(_) => tracing::warn!(
            ?drain,
            "control: requests were still in flight when the drain was over"
        ),
    }
}

fn report(ended: Result<(), tonic::transport::Error>) {
    if let Err(error) = ended {
        tracing::error!(error = errors::chain(&error), "control: the server ended");
    }
}

/// What the services share.
struct State {
    core: Arc<Core>,
    units: units::Units,
    followers: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
    signer: Option<Signer>,
}

/// What a command of the ledger is answered with.
struct Moved {
    made: Entry,
    entry: v1::Entry,
    account: v1::Account,
    replayed: bool,
}

/// Answers with a message of an entry, an account and whether it was a repeat.
macro_rules! moved {
    ($answer:ident, $moved:expr) => {
        super::errors::answer($moved.await.map(|moved| v1::$answer {
            entry: Some(moved.entry),
            account: Some(moved.account),
            replayed: moved.replayed,
        }))
    };
}
use moved;

/// Every service of the package. Cheap to clone.
#[derive(Clone)]
struct Control(Arc<State>);

impl Control {
    fn core(&self) -> &Core {
        &self.0.core
    }

    /// An account's book as the store has it.
    async fn read(&self, account: &AccountId) -> Result<Snapshot, Fault> {
        let read = self.core().store.read(account, &[]).await?;
        Ok(read.ok_or_else(|| self.core().books.missing(account))?)
    }

    /// Carries out a command of the ledger, once under its idempotency key, and makes it count here at once.
    async fn carry_out(
        &self,
        id: &AccountId,
        request_id: String,
        action: Action,
    ) -> Result<Moved, Fault> {
        let command = Command {
            idempotency_key: Some(request_id),
            action,
        };
        self.check_no_plan_has_key(id, &command).await?;
        let done = self.core().books.run(id, command).await?;
        self.refresh(id).await;
        self.moved(done)
    }

    fn moved(&self, done: Done) -> Result<Moved, Fault> {
        let Done {
            entry: made,
            replayed,
            snapshot,
        } = done;
        let id = &snapshot.book.account;
        // Whatever counts once makes an entry, and a repeat gives the one that was made.
        let made = made
            .ok_or_else(|| Fault::Corrupt(format!("a command of account `{id}` made no entry")))?;
        Ok(Moved {
            entry: entry(&made, id.as_str(), &snapshot.book.unit),
            account: self.account(&snapshot, self.core().clock.now().wall),
            made,
            replayed,
        })
    }

    /// Makes a change of an account count on this replica at once. The change is in the store: if this fails, it counts
    /// within a sync interval, and the request that made it has not failed.
    async fn refresh(&self, account: &AccountId) {
        if let Err(error) = self.core().sync.refresh(account).await {
            tracing::debug!(%account, %error, "control: a change is not taken up yet");
        }
    }

    /// Publishes what this replica has settled for an account, and writes down what is due of it, so that what is read next
    /// includes both: credit whose time is over is in no balance that anybody is told. Returns up to when it does: now, or the last
    /// time that the store was heard if it is away.
    async fn flush(&self, account: &AccountId) -> Timestamp {
        let (asked, sync) = (self.core().clock.now().wall, &self.core().sync);
        let flushed = match sync.flush(account).await {
            Ok(()) => sync.observe(account).await,
            error => error,
        };
        match flushed {
            Ok(()) => asked,
            Err(error) => {
                tracing::debug!(%account, %error, "control: an account is read without its newest spend");
                let age = self.core().sync.status().last_ok_age;
                let age = age.map_or(i64::MAX, |age| {
                    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
                });
                Timestamp::from_nanos(asked.nanos().saturating_sub(age).max(0))
            }
        }
    }
}
