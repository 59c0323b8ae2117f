//! Certificates for servers and clients, of an authority of the test's own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::Server;

/// An authority, and a directory with what it has issued.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        // Of its own: OpenSSL takes a certificate whose issuer has its name for self-signed.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("authority {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { issuer, dir }
    }

    /// The file of its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The files of a certificate for a name, and of its key; in place of an older one.
    pub(crate) fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let file = |end: &str| self.dir.path().join(format!("{name}{end}"));
        let files = (file(".pem"), file("-key.pem"));
        std::fs::write(&files.0, cert.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// A server with a certificate for that name, which asks clients for theirs or not.
    pub(crate) async fn server(&self, name: &str, asks: bool, more: &[&str]) -> Server {
        let mut options = self.options(name, asks);
        options.extend(more.iter().map(|option| option.to_string()));
        let cluster = more.contains(&"--cluster-enabled");
        let ports: &[_] = if cluster {
            &["--tls-port", "--cluster-port"]
        } else {
            &["--tls-port"]
        };
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut server = Server::with(&options, ports);
        server.run().await;
        server
    }

    /// A sentinel of a master at that port, both with TLS.
    pub(crate) async fn sentinel(&self, name: &str, master_port: &str) -> Server {
        let mut options = self.options(name, false);
        options.extend(["--tls-replication", "yes"].map(str::to_owned));
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        super::sentinel::start(&options, "--tls-port", master_port, 1).await
    }

    fn options(&self, name: &str, asks: bool) -> Vec<String> {
        let (cert, key) = self.issue(name);
        let mut options = Vec::new();
        for (option, file) in [
            ("--tls-cert-file", cert),
            ("--tls-key-file", key),
            ("--tls-ca-cert-file", self.ca()),
        ] {
            options.extend([option.to_owned(), file.to_str().unwrap().to_owned()]);
        }
        let asks = if asks { "yes" } else { "no" };
        options.extend(["--tls-auth-clients", asks].map(str::to_owned));
        options
    }
}
