//! The servers under test, each a process pinned to its core: started, measured, ended.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::KEY;
use crate::{BY_TOKENS, FLAT, LOAD_CORE, SERVER_CORE};

/// Enough for a debug build on a busy machine.
const START_MAX: Duration = Duration::from_secs(30);

/// Enough to drain what a round leaves.
const STOP_MAX: Duration = Duration::from_secs(5);

const POLL_PAUSE: Duration = Duration::from_millis(20);

/// A server that is up. Dropped, it is ended.
pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    child: Child,
}

/// A command on one core. `taskset` becomes the program, so its process id is the program's.
pub(crate) fn pinned(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

impl Server {
    /// The upstream of all others.
    pub(crate) fn upstream() -> Self {
        Self::own(LOAD_CORE, &["--role", "upstream"])
    }

    /// The minimal proxy.
    pub(crate) fn minimal(upstream: SocketAddr) -> Self {
        Self::own(
            SERVER_CORE,
            &["--role", "minimal", "--to", &upstream.to_string()],
        )
    }

    /// A part of this program, which says where it listens.
    fn own(core: usize, args: &[&str]) -> Self {
        let mut command = pinned(core, std::env::current_exe().unwrap());
        let spawned = command.args(args).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("taskset (util-linux) pins the servers to their cores");
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let at = line.trim().parse().expect("the address that it listens on");
        Self { at, child }
    }

    /// nginx with one worker and connections to the upstream that are kept.
    pub(crate) fn nginx(upstream: SocketAddr, dir: &Path) -> Result<Self, std::io::Error> {
        Command::new("nginx").arg("-v").output()?;
        let at = free_address();
        let home = dir.join("nginx");
        std::fs::create_dir_all(&home)?;
        let home = home.display();
        let config = format!(
            "worker_processes 1;
daemon off;
pid {home}/pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000000;
    upstream bench {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen {at};
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
        );
        let path = dir.join("nginx.conf");
        std::fs::write(&path, config)?;
        let child = pinned(SERVER_CORE, "nginx").arg("-c").arg(path).spawn()?;
        let mut server = Self { at, child };
        server.wait_for("nginx", || TcpStream::connect(at).is_ok());
        Ok(server)
    }

    /// Tollgate with everything on: an account with money, its key, and two models that are priced.
    pub(crate) fn tollgate(upstream: SocketAddr, dir: &Path) -> Self {
        let [at, control, admin] = [free_address(), free_address(), free_address()];
        let data = dir.join("tollgate");
        let config = format!(
            "[store]
data_dir = '{}'
[proxy]
listen = '{at}'
workers = 1
[control]
listen = '{control}'
[admin]
listen = '{admin}'
[log]
filter = 'warn'
[[upstreams]]
name = 'bench'
url = 'http://{upstream}'
http = '1'
[[routes]]
upstream = 'bench'
[[prices]]
pattern = '{FLAT}'
unit = 'USD'
rates.request = '0.000001'
[[prices]]
pattern = '{BY_TOKENS}'
unit = 'USD'
rates.input = {{ price = '0.10', per = 'million' }}
rates.output = {{ price = '0.40', per = 'million' }}
",
            data.display()
        );
        let path = dir.join("tollgate.toml");
        std::fs::write(&path, config).unwrap();
        let mut command = pinned(SERVER_CORE, env!("CARGO_BIN_EXE_tollgate"));
        let child = command
            .arg("serve")
            .arg("--config")
            .arg(path)
            .spawn()
            .unwrap();
        let mut server = Self { at, child };
        server.wait_for("tollgate", || is_ready(admin));
        tollgate(control, "account create bench --unit USD", "");
        tollgate(
            control,
            "credit recharge bench 1000000.00 --order-id bench",
            "",
        );
        tollgate(control, "key create bench --id bench --secret-stdin", KEY);
        server
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

    /// The CPU time that its process and the processes below it have had so far.
    pub(crate) fn cpu(&self) -> Duration {
        let mut nanos = 0;
        let mut tree = vec![self.child.id()];
        while let Some(process) = tree.pop() {
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else {
                continue;
            };
            for task in tasks.flatten() {
                // A thread that ended in between has nothing more to say.
                let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
                let on_cpu = read("schedstat").unwrap_or_default();
                nanos += on_cpu
                    .split(' ')
                    .next()
                    .and_then(|nanos| nanos.parse::<u64>().ok())
                    .unwrap_or(0);
                let below = read("children").unwrap_or_default();
                tree.extend(
                    below
                        .split_whitespace()
                        .filter_map(|id| id.parse::<u32>().ok()),
                );
            }
        }
        Duration::from_nanos(nanos)
    }
}

impl Drop for Server {
    /// Asks first: a killed nginx would leave its worker behind.
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

/// An address that was free a moment ago: for servers that cannot say which port they got.
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
