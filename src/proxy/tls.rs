//! TLS both ways: certificates and keys from files, checked once when the proxy starts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::TlsFiles;
use crate::route::{HttpVersion, Upstream};

/// HTTP/2's name in ALPN.
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Why TLS cannot be spoken: names the file or host.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing that could be used.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A certificate and key do not do for a server, or a host is not one that certificates can name.
    #[error("{what}: {source}")]
    Config {
        /// Which one.
        what: String,
        /// What is wrong.
        source: rustls::Error,
    },
}

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
    let mut roots = RootCertStore::empty();
    match &upstream.ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for certificate in certificates(file)? {
                let added = roots.add(certificate);
                added.map_err(|source| config(file, source))?;
            }
        }
    }
    let what = format!("upstream {}", upstream.name);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Config { what, source })?;
    let base = builder.with_root_certificates(roots).with_no_client_auth();
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
    let chain = certificates(&files.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|error| unreadable(&files.key_file, &error))?;
    let wrong = |source| config(&files.cert_file, source);
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    server.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// Named here rather than installed for the process: a library has no say in that.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .map_err(|error| unreadable(file, &error))?;
    if read.is_empty() {
        let source = io::Error::new(io::ErrorKind::InvalidData, "no certificate in it");
        return Err(TlsError::File {
            file: file.into(),
            source,
        });
    }
    Ok(read)
}

fn unreadable(file: &Path, error: &rustls::pki_types::pem::Error) -> TlsError {
    TlsError::File {
        file: file.into(),
        source: io::Error::other(error.to_string()),
    }
}

fn config(file: &Path, source: rustls::Error) -> TlsError {
    TlsError::Config {
        what: file.display().to_string(),
        source,
    }
}
