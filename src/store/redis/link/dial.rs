//! Making connections: a stream to an address, and the protocol's handshake on it. No wait here has a bound of its own: whoever
//! dials gives one.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, Value,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::super::super::StoreError;
use crate::tls::{self, TlsError};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What TLS is spoken with.
#[derive(Clone)]
pub(in super::super) struct Tls {
    pub(in super::super) ca: Option<PathBuf>,
    pub(in super::super) identity: Option<(PathBuf, PathBuf)>,
    pub(in super::super) name: Option<ServerName<'static>>,
}

impl Tls {
    /// Reads the files; blocks while it does.
    pub(in super::super) fn connector(&self) -> Result<TlsConnector, TlsError> {
        let identity = self.identity.as_ref();
        let identity = identity.map(|(cert, key)| (cert.as_path(), key.as_path()));
        let config = tls::client("Redis", self.ca.as_deref(), identity)?;
        Ok(TlsConnector::from(Arc::new(config)))
    }

    async fn wrap(&self, host: &str, stream: TcpStream) -> std::io::Result<Box<dyn Stream>> {
        let this = self.clone();
        // So that a certificate that was renewed is shown from the next connection on.
        let connector = tokio::task::spawn_blocking(move || this.connector()).await?;
        let connector = connector.map_err(std::io::Error::other)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?,
        };
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// Makes connections to any address, logged in.
pub(in super::super) struct Dialer {
    login: RedisConnectionInfo,
    tls: Option<Tls>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Dialer {
    pub(in super::super) fn new(login: RedisConnectionInfo, tls: Option<Tls>) -> Self {
        // Who we are is said nowhere: one command less to be allowed.
        let login = login.set_skip_set_lib_name();
        Self { login, tls }
    }

    /// A connection for commands.
    pub(super) async fn wire(&self, address: &Address) -> Result<Wire, StoreError> {
        let stream = self.stream(address).await?;
        // Our own bounds are around every wait.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&self.login, stream, config).await;
        let (connection, driver) = made.map_err(|error| self.failed(address, &error))?;
        let driver = Driver(tokio::spawn(driver));
        Ok(Wire {
            connection,
            driver: Arc::new(driver),
        })
    }

    /// A connection for subscriptions.
    pub(super) async fn subscription(&self, address: &Address) -> Result<PubSub, StoreError> {
        let stream = self.stream(address).await?;
        let made = PubSub::new(&self.login, stream).await;
        made.map_err(|error| self.failed(address, &error))
    }

    async fn stream(&self, address: &Address) -> Result<Box<dyn Stream>, StoreError> {
        let connecting = async {
            Ok::<Box<dyn Stream>, std::io::Error>(match address {
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Address::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    // Without it a command waits for the acknowledgement of the one before: 40 ms on Linux.
                    stream.set_nodelay(true)?;
                    match &self.tls {
                        Some(tls) => tls.wrap(host, stream).await?,
                        None => Box::new(stream),
                    }
                }
            })
        };
        connecting.await.map_err(|error| lost(address, &error))
    }

    fn failed(&self, address: &Address, error: &RedisError) -> StoreError {
        if error.kind() != ErrorKind::AuthenticationFailed {
            return lost(address, error);
        }
        let user = self.login.username().unwrap_or("default");
        lost(
            address,
            &format!("it does not know the user `{user}` with the password given"),
        )
    }

    /// Why a connection ended at its first word.
    pub(super) fn cut_off(&self, address: &Address, error: &RedisError) -> StoreError {
        match &self.tls {
            // With TLS 1.3 a server says so only after the handshake, where the reason is lost.
            Some(tls) if tls.identity.is_none() => lost(
                address,
                &format!("{error}; it may be that it asks for a certificate, and none is set"),
            ),
            _ => lost(address, error),
        }
    }
}

/// A failure, with the address.
pub(super) fn lost(address: &dyn fmt::Display, why: &dyn fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("Redis at {address}: {why}"))
}

/// A connection that many send on at once. It is closed when its last clone is dropped.
#[derive(Clone)]
pub(super) struct Wire {
    connection: MultiplexedConnection,
    driver: Arc<Driver>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wire {
    /// It was closed, by whichever side.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.0.is_finished()
    }

    /// Sends commands in one go; as many replies, errors among them.
    pub(super) async fn exchange(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, RedisError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command);
        }
        let sent = self
            .connection
            .send_packed_commands(&pipeline, 0, pipeline.len());
        sent.await
    }
}
