//! The processes that are measured, each pinned to its core: started, measured, ended.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::SERVER_CORE;
use crate::load::{KEY, MODEL};

/// Enough for a busy machine.
const START_MAX: Duration = Duration::from_secs(30);

/// Enough to drain what a round leaves.
const STOP_MAX: Duration = Duration::from_secs(5);

const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Never reached.
pub(crate) const LOCAL_RATE_LIMIT: &str = r#"
                  - name: envoy.filters.http.local_ratelimit
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
                      stat_prefix: bench
                      token_bucket: { max_tokens: 1000000, tokens_per_fill: 1000000, fill_interval: 1s }
                      filter_enabled: { default_value: { numerator: 100 } }
                      filter_enforced: { default_value: { numerator: 100 } }
"#;

/// As in `deploy/envoy/ext-authz-access-log.yaml`, without what reads answers: the price is by the call.
pub(crate) const EXT_AUTHZ: &str = r#"
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      grpc_service: { envoy_grpc: { cluster_name: asked }, timeout: 2.5s }
                      with_request_body: { max_request_bytes: 8388608, pack_as_bytes: true }
"#;

const ACCESS_LOG: &str = r#"
                access_log:
                  - name: envoy.access_loggers.http_grpc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
                      common_config:
                        log_name: bench
                        transport_api_version: V3
                        buffer_flush_interval: 0.1s
                        grpc_service: { envoy_grpc: { cluster_name: asked } }
"#;

/// A process that is up. Dropped, it is ended.
pub(crate) struct Part {
    pub(crate) at: SocketAddr,
    child: Child,
}

/// A command on one core. `taskset` becomes the program, so its process id is the program's.
pub(crate) fn pinned(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

impl Part {
    /// A part of this program, which says where it listens.
    pub(crate) fn own(core: usize, role: &str) -> Self {
        let mut command = pinned(core, std::env::current_exe().unwrap());
        let spawned = command
            .args(["--role", role])
            .stdout(Stdio::piped())
            .spawn();
        let mut child = spawned.expect("taskset (util-linux) pins the parts to their cores");
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let at = line.trim().parse().expect("the address that it listens on");
        Self { at, child }
    }

    /// Envoy with one worker, a filter, and whom that asks.
    pub(crate) fn envoy(
        dir: &Path,
        filter: &str,
        asked: Option<SocketAddr>,
        upstream: SocketAddr,
    ) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let at = free_address();
        let file = dir.join("envoy.yaml");
        std::fs::write(&file, bootstrap(at, filter, asked, upstream)).unwrap();
        let mut command = pinned(SERVER_CORE, envoy_binary());
        command.arg("-c").arg(file);
        command.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]);
        let child = command.spawn().unwrap();
        let mut part = Self { at, child };
        part.wait_for("envoy", || TcpStream::connect(at).is_ok());
        part
    }

    /// Tollgate with everything on: an account with money and rate, its key, and a model that is priced by the call.
    pub(crate) fn tollgate(dir: &Path) -> Self {
        let [at, proxy, control, admin] = [(); 4].map(|()| free_address());
        let config = format!(
            "[store]
data_dir = '{}'
[proxy]
listen = '{proxy}'
[control]
listen = '{control}'
[admin]
listen = '{admin}'
[envoy]
listen = '{at}'
[log]
filter = 'warn'
[policies.default]
qps = 1000000
[[prices]]
pattern = '{MODEL}'
unit = 'USD'
rates.request = '0.000001'
",
            dir.join("data").display()
        );
        let file = dir.join("tollgate.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = pinned(SERVER_CORE, env!("CARGO_BIN_EXE_tollgate"));
        let child = command
            .arg("serve")
            .arg("--config")
            .arg(file)
            .spawn()
            .unwrap();
        let mut part = Self { at, child };
        part.wait_for("tollgate", || is_ready(admin));
        tollgate(control, "account create bench --unit USD", "");
        tollgate(
            control,
            "credit recharge bench 1000000.00 --order-id bench",
            "",
        );
        tollgate(control, "key create bench --id bench --secret-stdin", KEY);
        part
    }

    fn wait_for(&mut self, name: &str, is_up: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_up() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} did not start: {ended:?}");
            assert!(
                start.elapsed() < START_MAX,
                "{name} is not up after {START_MAX:?}"
            );
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// The CPU time that it has had so far, over all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = tasks.flatten().filter_map(|task| {
            // A thread that ended in between has nothing more to say.
            let on_cpu = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            on_cpu.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        let _asked = Command::new("kill").args(["-TERM", &id]).status();
        let start = Instant::now();
        while start.elapsed() < STOP_MAX {
            if let Ok(Some(_)) | Err(_) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(POLL_PAUSE);
        }
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn bootstrap(
    at: SocketAddr,
    filter: &str,
    asked: Option<SocketAddr>,
    upstream: SocketAddr,
) -> String {
    let address = |at: SocketAddr| {
        format!(
            "socket_address: {{ address: {}, port_value: {} }}",
            at.ip(),
            at.port()
        )
    };
    let cluster = |name: &str, at: SocketAddr, options: &str| {
        format!(
            r#"
    - name: {name}
      type: STATIC
{options}
      circuit_breakers:
        thresholds: [{{ max_connections: 16384, max_pending_requests: 16384, max_requests: 16384 }}]
      load_assignment:
        cluster_name: {name}
        endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ {} }} }} }}] }}]
"#,
            address(at)
        )
    };
    let http2 = r#"
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: {} }
"#;
    let log = if asked.is_some() { ACCESS_LOG } else { "" };
    let asked = asked.map_or_else(String::new, |at| cluster("asked", at, http2));
    format!(
        r#"
static_resources:
  listeners:
    - name: calls
      address: {{ {} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: calls
{log}
                http_filters:
{filter}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: model }} }}]
  clusters:
{asked}
{}
"#,
        address(at),
        cluster("model", upstream, "")
    )
}

/// The binary in the tests' environment.
fn envoy_binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let lib = target
        .unwrap_or_else(|| root.join("target"))
        .join("venv/lib");
    let entries = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    let mut binaries = entries.map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
    let found = binaries.find(|binary| binary.exists());
    found.expect("Envoy is in the tests' environment: run tests/run once")
}

/// An address that was free a moment ago: for programs that cannot say which port they got.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn is_ready(admin: SocketAddr) -> bool {
    let answer = TcpStream::connect(admin).and_then(|mut stream| {
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Runs a client command of the program under test.
fn tollgate(control: SocketAddr, line: &str, stdin: &str) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(line.split(' '))
        .args(["--control", &format!("http://{control}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "tollgate {line}");
}
