//! The client commands of the real binary against a stand-in control API: which request each makes, what it prints, and
//! which exit code it ends with. That a real control API answers like this one is tested in its own module.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use self::control::{Control, services};

mod control;
mod lifecycle;

/// The binary, and what it talks to.
struct Fixture {
    control: Control,
    at: SocketAddr,
}

impl Fixture {
    async fn new(control: Control) -> Self {
        Self::served_by(Server::builder(), control).await
    }

    async fn served_by(server: Server, control: Control) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = services(server, &control);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { control, at }
    }

    async fn run(&self, line: &str) -> Output {
        self.run_with(line, "").await
    }

    async fn run_with(&self, line: &str, stdin: &str) -> Output {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(line.split(' '))
            .env("TOLLGATE_CONTROL", format!("http://{}", self.at))
            .env("TOLLGATE_TOKEN", "t0ken")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(stdin.as_bytes()).await.unwrap();
        drop(pipe);
        child.wait_with_output().await.unwrap()
    }

    fn last_asked(&self) -> String {
        self.control.asked.lock().unwrap().last().cloned().unwrap()
    }
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn an_account_is_shown_with_decimal_strings() {
    let fixture = Fixture::new(Control::default()).await;
    let account = json_of(&fixture.run("account get demo --json").await);
    for (field, value) in [
        ("account", json!("demo")),
        ("state", json!("OVERDUE")),
        ("balance", json!("-0.000015")),
        ("held", json!("0.00")),
        ("available", json!("-0.000015")),
        ("debt", json!("0.000015")),
        ("as_of", json!("2026-09-21T14:13:20Z")),
        ("overdue_since", Value::Null),
    ] {
        assert_eq!(account[field], value, "{field}");
    }
    let asked = fixture.last_asked();
    assert!(asked.contains("Bearer t0ken"), "{asked}");
    let text = fixture.run("account get demo").await;
    let lines: Vec<_> = stdout(&text).lines().map(str::split_whitespace).collect();
    let balance = lines
        .into_iter()
        .map(Iterator::collect::<Vec<_>>)
        .find(|line| line[0] == "balance");
    assert_eq!(balance, Some(vec!["balance", "-0.000015"]));
}

#[tokio::test]
async fn listings_read_page_after_page_up_to_their_limit() {
    let fixture = Fixture::new(Control::default()).await;
    let all = json_of(&fixture.run("account list --json").await);
    assert_eq!(all.as_array().unwrap().len(), 5);
    assert_eq!(all[4]["account"], "account-4");
    let some = fixture.run("account list --limit 3").await;
    assert_eq!(stdout(&some).lines().count(), 1 + 3);
    assert!(
        stderr(&some).contains("there are more"),
        "{}",
        stderr(&some)
    );
}

#[tokio::test]
async fn an_update_names_what_it_sets_and_nothing_else() {
    let fixture = Fixture::new(Control::default()).await;
    let done = fixture
        .run("account update demo --qps 10 --name Demo --clear burst")
        .await;
    assert!(done.status.success(), "{}", stderr(&done));
    let asked = fixture.last_asked();
    let mask = r#"paths: ["display_name", "overrides.qps", "overrides.burst"]"#;
    assert!(
        asked.contains(mask) && asked.contains("qps: Some(10)"),
        "{asked}"
    );
    let done = fixture.run("account update demo").await;
    assert_eq!(done.status.code(), Some(2));
}

#[tokio::test]
async fn a_recharge_is_sent_once_under_an_id() {
    let fixture = Fixture::new(Control::default()).await;
    let line = "credit recharge demo 10.00 --order-id o-1 --json";
    let first = json_of(&fixture.run(line).await);
    assert_eq!(first["entry"]["amount"], "10.00");
    assert_eq!(first["entry"]["debt_paid"], "0.000015");
    assert_eq!(
        (&first["entry"]["sequence"], &first["replayed"]),
        (&json!(7), &json!(true))
    );
    assert_eq!(first["account"]["account"], "demo");
    let second = json_of(&fixture.run(line).await);
    assert_ne!(first["entry"]["request"], second["entry"]["request"]);
    let given = json_of(&fixture.run(&format!("{line} --request-id mine")).await);
    assert_eq!(given["entry"]["request"], "mine");
    let asked = fixture.last_asked();
    assert!(
        asked.contains("nanos: 10000000000") && asked.contains(r#"order_id: "o-1""#),
        "{asked}"
    );
}

#[tokio::test]
async fn usage_is_a_table_with_a_column_for_each_meter() {
    let fixture = Fixture::new(Control::default()).await;
    let table = fixture.run("usage demo").await;
    let lines: Vec<Vec<_>> = stdout(&table)
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        [
            "hour", "key", "model", "calls", "input", "output", "cost", "unit"
        ]
    );
    let row = [
        "2026-09-21T15:00:00Z",
        "demo-key",
        "demo-model",
        "1",
        "5",
        "9",
        "0.000023",
        "USD",
    ];
    assert_eq!(lines[1], row);
    assert_eq!(lines[2][0], "total");
    let usage = json_of(&fixture.run("usage demo --json").await);
    assert_eq!(usage["rows"][0]["counts"], json!({"input": 5, "output": 9}));
    assert_eq!(usage["total"]["cost"], "0.000023");
}

#[tokio::test]
async fn a_secret_comes_from_standard_input() {
    let fixture = Fixture::new(Control::default()).await;
    let hold = fixture
        .run_with("hold take --secret-stdin --model m --json", "sk-demo\n")
        .await;
    assert_eq!(json_of(&hold)["hold"], "h-1");
    assert!(
        fixture.last_asked().contains(r#"Secret("sk-demo")"#),
        "{}",
        fixture.last_asked()
    );
    let none = fixture
        .run_with("hold take --secret-stdin --model m", "")
        .await;
    assert_eq!(none.status.code(), Some(2));
}

#[tokio::test]
async fn failures_say_why_and_end_with_their_code() {
    for (code, reason, exit) in [
        (Code::InvalidArgument, "INVALID", 2),
        (Code::NotFound, "ACCOUNT_NOT_FOUND", 3),
        (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", 4),
        (Code::FailedPrecondition, "ACCOUNT_OVERDUE", 4),
        (Code::Aborted, "ETAG_MISMATCH", 4),
        (Code::Unauthenticated, "TOKEN", 4),
        (Code::Unavailable, "STATE_UNAVAILABLE", 5),
        (Code::Internal, "INTERNAL", 1),
    ] {
        let fails = Some((code, reason));
        let fixture = Fixture::new(Control {
            fails,
            ..Control::default()
        })
        .await;
        let failed = fixture.run("account get demo").await;
        assert_eq!(failed.status.code(), Some(exit), "{code:?}");
        let said = stderr(&failed);
        assert!(
            said.starts_with(&format!("error: it was so [{reason}]\n")),
            "{said}"
        );
        assert!(said.contains("amount.nanos: must be above zero"), "{said}");
        assert_eq!(stdout(&failed), "");

        let failed = fixture.run("account get demo --json").await;
        let said: Value = serde_json::from_slice(&failed.stderr).unwrap();
        assert_eq!(said["error"]["reason"], reason);

        let failed = fixture
            .run("credit recharge demo 1 --order-id o --request-id r")
            .await;
        let repeatable = matches!(exit, 1 | 5);
        assert_eq!(
            stderr(&failed).contains("--request-id r"),
            repeatable,
            "{code:?}"
        );
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    // Bound and dropped: nobody listens there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let fixture = Fixture {
        control: Control::default(),
        at,
    };
    let failed = fixture.run("account get demo").await;
    assert_eq!(failed.status.code(), Some(5), "{}", stderr(&failed));
    assert!(
        stderr(&failed).contains(&at.to_string()),
        "{}",
        stderr(&failed)
    );
    let wrong = fixture.run("account get demo --control nonsense://").await;
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}

#[tokio::test]
async fn tls_trusts_what_it_is_told_to_and_shows_its_own_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let leaf = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let (cert, key) = leaf();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ca_cert.pem()));
    let server = Server::builder().tls_config(tls).unwrap();
    let fixture = Fixture::served_by(server, Control::default()).await;
    let (cert, key) = leaf();
    for (name, pem) in [("ca", ca_cert.pem()), ("cert", cert), ("key", key)] {
        std::fs::write(path(name), pem).unwrap();
    }
    let get = format!(
        "account get demo --control https://localhost:{}",
        fixture.at.port()
    );
    let trusting = format!("{get} --tls-ca {}", path("ca"));
    let known = format!(
        "{trusting} --tls-cert {} --tls-key {}",
        path("cert"),
        path("key")
    );
    for (what, line, exit) in [
        ("everything", &known, 0),
        ("an unknown issuer", &get, 5),
        ("no certificate of its own", &trusting, 5),
        (
            "half of one",
            &format!("{trusting} --tls-cert {}", path("cert")),
            2,
        ),
        ("no file", &format!("{get} --tls-ca {}", path("none")), 2),
        (
            "certificates without TLS",
            &format!("account get demo --tls-ca {}", path("ca")),
            2,
        ),
    ] {
        let output = fixture.run(line).await;
        assert_eq!(
            output.status.code(),
            Some(exit),
            "{what}: {}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn a_unix_socket_is_a_control_api_too() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let fixture = Fixture::new(Control::default()).await;
    let server = services(Server::builder(), &fixture.control);
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    tokio::spawn(server.serve_with_incoming(incoming));
    let line = format!(
        "account get demo --json --control unix:{}",
        socket.display()
    );
    assert_eq!(json_of(&fixture.run(&line).await)["account"], "demo");
}

#[tokio::test]
async fn events_are_followed_through_a_stream_that_ends() {
    let fixture = Fixture::new(Control::default()).await;
    let followed = fixture
        .run("events --follow --after 4 --kind balance.low --json")
        .await;
    let lines = stdout(&followed)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let events: Vec<Value> = lines.collect();
    let of = |field| {
        events
            .iter()
            .map(|event| event[field].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("sequence"), [json!(5), json!(6)]);
    assert_eq!(of("kind"), [json!("balance.low"), json!("balance.low")]);
    assert_eq!(
        followed.status.code(),
        Some(4),
        "the refusal that ends it: {}",
        stderr(&followed)
    );
}

#[tokio::test]
async fn what_serving_would_not_start_with_is_found_by_the_check() {
    let fixture = Fixture::new(Control::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let (file, none) = (
        dir.path().join("tollgate.toml"),
        dir.path().join("none.pem"),
    );
    std::fs::write(&none, "no certificate").unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let tls = |section: &str, cert: &std::path::Path, key: &std::path::Path| {
        let (cert, key) = (cert.display(), key.display());
        format!("[{section}]\ncert = '{cert}'\nkey = '{key}'\n")
    };
    let upstream = |ca: &std::path::Path| {
        let ca = ca.display();
        format!(
            "[[upstreams]]\nname = \"u\"\nurl = \"https://localhost\"\nca_file = '{ca}'\n\
             [[routes]]\nupstream = \"u\"\n"
        )
    };
    let token = |length| format!("[control]\ntoken = \"{}\"\n", "x".repeat(length));
    let check = async |written: String, wrong: Option<&str>| {
        std::fs::write(&file, &written).unwrap();
        let checked = fixture
            .run(&format!("check --config {}", file.display()))
            .await;
        let said = stderr(&checked);
        assert_eq!(
            checked.status.code(),
            Some(if wrong.is_some() { 2 } else { 0 }),
            "{written}{said}"
        );
        assert!(said.contains(wrong.unwrap_or_default()), "{written}{said}");
    };
    for section in ["proxy.tls", "control.tls"] {
        check(tls(section, &cert, &key), None).await;
        check(tls(section, &none, &key), Some("no")).await;
        check(tls(section, &cert, &none), Some("no")).await;
    }
    check(upstream(&cert), None).await;
    check(upstream(&none), Some("none.pem")).await;
    let redis =
        |files: String| format!("[store]\nkind = \"redis\"\nurl = \"rediss://localhost\"\n{files}");
    check(redis(tls("store.tls", &cert, &key)), None).await;
    check(redis(tls("store.tls", &none, &key)), Some("none.pem")).await;
    let ca = format!("[store.tls]\nca_file = '{}'\n", none.display());
    check(redis(ca), Some("none.pem")).await;
    check(token(512), None).await;
    check(token(513), Some("control.token")).await;
}

#[tokio::test]
async fn a_simulation_asks_nobody_and_tells_figures_with_where_they_come_from() {
    let fixture = Fixture::new(Control::default()).await;
    let line = "simulate --replicas 2 --accounts 5 --rps 20 --seconds 2";
    let text = fixture.run(line).await;
    assert!(text.status.success(), "{}", stderr(&text));
    let said = stdout(&text);
    assert!(said.starts_with("One Redis is enough"), "{said}");
    for part in [
        "What Redis has to do",
        "figure ",
        "value ",
        "basis",
        "publishes by formula",
        "shards",
        "What stands in Redis after --days",
        "accounts loaded",
        "waiting for a lease",
        "refused while money is left",
        "recharge or revocation longest",
        "overshoot bound of all",
        "When the hottest account's money runs out",
        "What was simulated",
        "simulated",
        "extrapolated",
        "× measured cost",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let all = json_of(&fixture.run(&format!("{line} --json")).await);
    let one = &all[0];
    assert_eq!(one["deployment"]["replicas"], 2);
    for (section, name) in [
        ("redis", "publishes_per_second"),
        ("redis", "cpu_cores"),
        ("redis_memory", "all_bytes"),
        ("replica", "accounts_loaded"),
        ("callers", "waiting_for_a_lease_part"),
        ("freshness", "known_at_a_call_mean_seconds"),
        ("dry", "publishes_per_second"),
        ("basis", "calls"),
    ] {
        let figure = &one[section][name];
        assert!(figure["value"].is_number(), "{section}.{name}: {figure}");
        assert!(figure["basis"].is_string(), "{section}.{name}: {figure}");
    }
    assert_eq!(one["money"]["overshoot_bound_of_all"]["value"], "0.00");
    assert!(one["advice"][0].as_str().unwrap().contains("One Redis"));
    // The same seed, the same answer.
    let again = json_of(&fixture.run(&format!("{line} --json")).await);
    assert_eq!(all, again);
    assert!(fixture.control.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn several_deployments_are_a_table() {
    let fixture = Fixture::new(Control::default()).await;
    let line = "simulate --replicas 1,2 --accounts 3 --rps 10,100 --interval 50ms,1s --seconds 1";
    let table = fixture.run(line).await;
    let said = stdout(&table);
    assert_eq!(said.lines().count(), 1 + 8, "{said}{}", stderr(&table));
    let head = said.lines().next().unwrap();
    for column in [
        "replicas",
        "accounts",
        "rps",
        "interval",
        "publishes",
        "shards",
    ] {
        assert!(head.contains(column), "{head}");
    }
    let all = json_of(&fixture.run(&format!("{line} --json")).await);
    assert_eq!(all.as_array().unwrap().len(), 8);
    assert_eq!(all[7]["deployment"]["interval_seconds"], 1.0);
}

#[tokio::test]
async fn what_cannot_be_simulated_is_named_with_what_would_work() {
    let fixture = Fixture::new(Control::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollgate.toml");
    std::fs::write(&file, "[sync]\ninterval = '200ms'\nlease = '100ms'\n").unwrap();
    let wrong_file = format!("simulate --config {}", file.display());
    for (line, says) in [
        (
            "simulate --replicas 0",
            "--replicas 0: give a whole number from 1 to 100000",
        ),
        ("simulate --replicas many", "invalid value 'many'"),
        ("simulate --replicas 3,0 --rps 0", "--rps 0: give"),
        (
            "simulate --spread even",
            "write uniform, or zipf and an exponent",
        ),
        (
            "simulate --spread zipf:9",
            "--spread zipf:9: an exponent is 0 to 4",
        ),
        (
            "simulate --price 0",
            "--price 0.00: give an amount above zero",
        ),
        ("simulate --price 1e3", "is not a decimal number"),
        (
            "simulate --price 100 --money 1",
            "--money 1.00: a call holds 150.00",
        ),
        (
            "simulate --hold some",
            "it is max, none, capped:AMOUNT or fixed:AMOUNT",
        ),
        ("simulate --recharge-at soon", "from 0 to 90, or never"),
        ("simulate --interval 1ms", "--interval"),
        ("simulate --lease 1d", "--lease"),
        ("simulate --round-trip 5", "a duration is a whole number"),
        (
            "simulate --redis-us-per-publish 0",
            "--redis-us-per-publish",
        ),
        ("simulate --seconds 0", "--seconds 0: give"),
        ("simulate --config /none", "/none"),
        (wrong_file.as_str(), "sync.lease"),
    ] {
        let output = fixture.run(line).await;
        assert_eq!(output.status.code(), Some(2), "{line}: {}", stdout(&output));
        assert!(
            stderr(&output).contains(says),
            "{line}: {}",
            stderr(&output)
        );
    }
}
