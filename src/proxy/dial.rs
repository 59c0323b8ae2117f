//! Makes connections to an upstream: TCP, TLS, HTTP. Which are kept is up to the pool.

use std::io;
use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pool::Lease;
use super::tls::{ClientTls, HTTP2};
use super::upload::Upload;
use crate::route::{HttpVersion, Upstream};

/// The receive window of an HTTP/2 stream, and of a connection: a long stream is not to wait for window updates, and a slow
/// client is not to make us hold more than this.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// No address, refused, or broken off.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// The HTTP handshake failed.
    #[error("HTTP: {0}")]
    Http(#[source] hyper::Error),
    /// It took too long.
    #[error("no connection in time")]
    Timeout,
}

/// Connects to one upstream.
pub(super) struct Dialer {
    upstream: Arc<Upstream>,
    tls: Option<ClientTls>,
}

impl Dialer {
    /// For an upstream; `tls` if it is spoken.
    pub(super) const fn new(upstream: Arc<Upstream>, tls: Option<ClientTls>) -> Self {
        Self { upstream, tls }
    }

    /// A connection that speaks HTTP/1.1. It stands in a task of its own, which ends when the lease is dropped.
    pub(super) async fn http1(&self) -> Result<Lease, DialError> {
        let stream = self.connect().await?;
        match &self.tls {
            None => http1_over(stream).await,
            Some(tls) => http1_over(self.secure(&tls.http1, &tls.name, stream).await?).await,
        }
    }

    /// A connection that speaks the version that the configuration or the upstream chooses.
    pub(super) async fn negotiated(&self) -> Result<Lease, DialError> {
        let stream = self.connect().await?;
        let Some(tls) = &self.tls else {
            return match self.upstream.http {
                HttpVersion::Http2 => http2_over(stream).await,
                HttpVersion::Auto | HttpVersion::Http1 => http1_over(stream).await,
            };
        };
        let stream = self.secure(&tls.negotiated, &tls.name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        match self.upstream.http {
            HttpVersion::Http2 => http2_over(stream).await,
            HttpVersion::Auto if agreed => http2_over(stream).await,
            HttpVersion::Auto | HttpVersion::Http1 => http1_over(stream).await,
        }
    }

    async fn connect(&self) -> Result<TcpStream, DialError> {
        let host = self.upstream.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, self.upstream.port)).await;
        let stream = stream.map_err(DialError::Connect)?;
        // Small pieces of a stream are to go out as they come.
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        Ok(stream)
    }

    async fn secure(
        &self,
        connector: &TlsConnector,
        name: &ServerName<'static>,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, DialError> {
        let stream = connector.connect(name.clone(), stream).await;
        stream.map_err(DialError::Tls)
    }
}

async fn http1_over<IO>(stream: IO) -> Result<Lease, DialError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // One buffer, one write: measured cheaper than gathering for messages of this size.
    let handshake = http1::Builder::new()
        .writev(false)
        .handshake::<_, Upload>(TokioIo::new(stream))
        .await;
    let (lease, connection) = handshake.map_err(DialError::Http)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Lease::http1(lease))
}

async fn http2_over<IO>(stream: IO) -> Result<Lease, DialError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake::<_, Upload>(TokioIo::new(stream))
        .await;
    let (lease, connection) = handshake.map_err(DialError::Http)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Lease::http2(lease))
}
