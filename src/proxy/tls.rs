//! TLS both ways of the proxy, from files that are read once when it starts.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::TlsFiles;
use crate::route::{HttpVersion, Upstream};
use crate::tls::{self, TlsError};

/// HTTP/2's name in ALPN.
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How an upstream is spoken to over TLS.
#[derive(Clone)]
pub(super) struct ClientTls {
    /// What its certificate must name.
    pub(super) name: ServerName<'static>,
    /// Offers what the upstream may speak.
    pub(super) negotiated: TlsConnector,
    /// Offers HTTP/1.1 only.
    pub(super) http1: TlsConnector,
}

/// TLS to an upstream. Reads its `ca_file`.
pub(super) fn client(upstream: &Upstream) -> Result<ClientTls, TlsError> {
    let host = upstream.host.trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| TlsError::Config {
        what: format!("upstream {}: host `{host}`", upstream.name),
        source: rustls::Error::General(error.to_string()),
    })?;
    let what = format!("upstream {}", upstream.name);
    let base = tls::client(&what, upstream.ca_file.as_deref(), None)?;
    let offering = |protocols: &[&[u8]]| {
        let mut offer = base.clone();
        offer.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(offer))
    };
    let negotiated = match upstream.http {
        HttpVersion::Auto => offering(&[HTTP2, HTTP1]),
        HttpVersion::Http1 => offering(&[HTTP1]),
        HttpVersion::Http2 => offering(&[HTTP2]),
    };
    Ok(ClientTls {
        name,
        negotiated,
        http1: offering(&[HTTP1]),
    })
}

/// TLS to clients, offering HTTP/2 and HTTP/1.1.
pub(super) fn server(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let chain = tls::certificates(&files.cert_file)?;
    let key = tls::private_key(&files.key_file)?;
    let wrong = |source| TlsError::in_file(&files.cert_file, source);
    let mut server = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    server.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}
