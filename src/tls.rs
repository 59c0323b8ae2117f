//! What TLS is made of, both ways: certificates and keys from PEM files, roots to trust, the one provider of cryptography. Who speaks
//! to whom is not known here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

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

impl TlsError {
    /// What a file holds cannot be used.
    pub(crate) fn in_file(file: &Path, source: rustls::Error) -> Self {
        Self::Config {
            what: file.display().to_string(),
            source,
        }
    }
}

/// Named here rather than installed for the process: a library has no say in that.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a file; one at least.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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

/// The private key of a file.
pub(crate) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| unreadable(file, &error))
}

/// Whom to trust: the authorities of a file and no others, or the public ones.
pub(crate) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for certificate in certificates(file)? {
                let added = roots.add(certificate);
                added.map_err(|source| TlsError::in_file(file, source))?;
            }
        }
    }
    Ok(roots)
}

/// A client that trusts those authorities, and shows a certificate if there is one.
pub(crate) fn client(
    what: &str,
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, TlsError> {
    let roots = roots(ca_file)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Config {
            what: what.into(),
            source,
        })?
        .with_root_certificates(roots);
    let Some((cert, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    builder
        .with_client_auth_cert(certificates(cert)?, private_key(key)?)
        .map_err(|source| TlsError::in_file(cert, source))
}

fn unreadable(file: &Path, error: &rustls::pki_types::pem::Error) -> TlsError {
    TlsError::File {
        file: file.into(),
        source: io::Error::other(error.to_string()),
    }
}
