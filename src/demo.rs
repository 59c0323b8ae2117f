//! What `tollgate demo` needs beyond the product itself. Nothing here is used when serving for real.

use std::net::SocketAddr;
use std::path::PathBuf;

pub mod standin;

/// What the demo is told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keeps the balances for the next time. Without it they are in a temporary directory.
    pub data_dir: Option<PathBuf>,
    /// Where clients call.
    pub proxy_listen: SocketAddr,
    /// The control API.
    pub control_listen: SocketAddr,
    /// Health, readiness and metrics.
    pub admin_listen: SocketAddr,
    /// Where the stand-in answers.
    pub upstream_listen: SocketAddr,
    /// A real endpoint instead of the stand-in.
    pub upstream: Option<String>,
}
