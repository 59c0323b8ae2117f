//! Making connections: a stream to an address, and the protocol's handshake on it. No wait here has a bound of its own: whoever
//! dials gives one.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, RedisError, Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::super::super::StoreError;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
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

/// Reads a URL: an address, and how to log in there.
pub(super) fn read_url(url: &str) -> Result<(Address, RedisConnectionInfo), String> {
    let info = url
        .into_connection_info()
        .map_err(|error| error.to_string())?;
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Address::Tcp(host.clone(), *port),
        ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
        _ => return Err("this kind of address is not known".into()),
    };
    Ok((address, info.redis_settings().clone()))
}

/// Makes connections to any address, logged in.
pub(super) struct Dialer {
    login: RedisConnectionInfo,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Dialer {
    pub(super) fn new(login: RedisConnectionInfo) -> Self {
        // Who we are is said nowhere: one command less to be allowed.
        let login = login.set_skip_set_lib_name();
        Self { login }
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
            _driver: Arc::new(driver),
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
                    Box::new(stream)
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
}

/// A failure, with the address.
pub(super) fn lost(address: &Address, why: &dyn fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("Redis at {address}: {why}"))
}

/// A connection that many send on at once. It is closed when its last clone is dropped.
#[derive(Clone)]
pub(super) struct Wire {
    connection: MultiplexedConnection,
    _driver: Arc<Driver>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wire {
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
