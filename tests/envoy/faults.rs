//! Tollgate away, hung and back: Envoy does what its failure mode says, nobody waits beyond its timeout, and afterwards the books
//! agree.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tollgate::demo::standin;
use tollgate::money::Amount;

use crate::support::gateway::Gateway;
use crate::support::http::{Message, Wire, call, post};
use crate::support::{until, within};
use crate::system::process::Process;

const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"Say hello"}]}"#;

/// Envoy's timeout for a question, and what a busy machine takes beside it.
const BOUND: Duration = Duration::from_secs(10);

struct Setup {
    dir: tempfile::TempDir,
    model: SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Setup {
    async fn new() -> Self {
        let (stop, stopped) = watch::channel(false);
        let settings = standin::Settings::new((Ipv4Addr::LOCALHOST, 0).into());
        let model = standin::serve(settings, stopped).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let config = format!(
            r#"
            [store]
            data_dir = "{at}/data"
            [proxy]
            listen = "127.0.0.1:0"
            [control]
            listen = "127.0.0.1:0"
            [admin]
            listen = "127.0.0.1:0"
            [envoy]
            listen = "unix:{at}/envoy.sock"
            [log]
            format = "json"
            [shutdown]
            drain_max = "5s"
            [policies.default]
            hold_ms_max = 1000
            [[prices]]
            pattern = "m"
            unit = "USD"
            max_output = 100
            rates.input = "0.001"
            rates.output = "0.002"
            "#
        );
        std::fs::write(dir.path().join("tollgate.toml"), config).unwrap();
        Self {
            dir,
            model: model.local_addr,
            _stop: stop,
        }
    }

    async fn tollgate(&self) -> Process {
        Process::serve(&self.dir.path().join("tollgate.toml"), &[]).await
    }

    async fn envoy(&self, file: &str, edits: &[(&str, String)]) -> Gateway {
        let at = self.dir.path().display();
        let mut all = vec![(
            "socket_address: { address: 127.0.0.1, port_value: 1 }",
            format!("pipe: {{ path: {at}/envoy.sock }}"),
        )];
        all.extend(edits.iter().map(|(from, to)| (*from, to.clone())));
        let port = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Gateway::envoy(file, port, self.model, &all).await
    }
}

/// A call, and that it was answered in time.
async fn answered(envoy: &Gateway) -> Message {
    let request = post("/v1/chat/completions", ASK).replace("sk-a", "sk-of-a");
    let answer = tokio::time::timeout(BOUND, call(envoy.at, request)).await;
    answer.expect("an answer in time")
}

/// Waits until a call passes again.
async fn passes(envoy: &Gateway) {
    within(Duration::from_secs(20), "a call passes", async || {
        (answered(envoy).await.status() == 200).then_some(())
    })
    .await;
}

async fn books_agree(tollgate: &Process) {
    within(Duration::from_secs(20), "every hold ends", async || {
        (tollgate.show("a").await.held == Amount::ZERO).then_some(())
    })
    .await;
    let standing = tollgate.show("a").await;
    let (calls, cost) = tollgate.used("a").await;
    let one = Amount::from_nanos(23_000_000);
    let whole = (0..calls).fold(Amount::ZERO, |sum, _| sum.checked_add(one).unwrap());
    assert_eq!((cost, standing.spend), (whole, whole), "{calls} calls");
    tollgate.verify("a").await;
}

#[tokio::test]
async fn away_and_back_in_every_way() {
    for file in [
        "ext-authz-access-log.yaml",
        "ext-authz-ext-proc.yaml",
        "ext-proc.yaml",
        "rate-limit.yaml",
    ] {
        let setup = Setup::new().await;
        let tollgate = setup.tollgate().await;
        tollgate.account("a", "100", "default").await;
        let envoy = setup.envoy(file, &[]).await;
        assert_eq!(answered(&envoy).await.status(), 200, "{file}");
        tollgate.kill().await;
        // The first call may still find a connection that is just breaking.
        for _ in 0..3 {
            let refused = answered(&envoy).await.status();
            assert_eq!(refused, 503, "{file}");
        }
        let tollgate = setup.tollgate().await;
        passes(&envoy).await;
        books_agree(&tollgate).await;
        tollgate.terminate().await;
    }
}

#[tokio::test]
async fn away_where_calls_pass_all_the_same() {
    let setup = Setup::new().await;
    let edits = [(
        "failure_mode_allow: false",
        "failure_mode_allow: true".to_owned(),
    )];
    let file = "ext-authz-access-log.yaml";
    let envoy = setup.envoy(file, &edits).await;
    assert_eq!(answered(&envoy).await.status(), 200);
    assert!(
        envoy
            .stat("http.calls.ext_authz.failure_mode_allowed")
            .await
            >= 1
    );
}

#[tokio::test]
async fn hung_nobody_waits_beyond_the_timeout() {
    hung("ext-authz-access-log.yaml").await;
}

#[tokio::test]
async fn hung_while_it_watches_nobody_waits_beyond_the_timeout() {
    hung("ext-authz-ext-proc.yaml").await;
}

#[tokio::test]
async fn hung_in_the_path_nobody_waits_beyond_the_timeout() {
    hung("ext-proc.yaml").await;
}

#[tokio::test]
async fn hung_as_a_rate_limit_service_nobody_waits_beyond_the_timeout() {
    hung("rate-limit.yaml").await;
}

async fn hung(file: &str) {
    let setup = Setup::new().await;
    let tollgate = setup.tollgate().await;
    tollgate.account("a", "100", "default").await;
    let envoy = setup.envoy(file, &[]).await;
    assert_eq!(answered(&envoy).await.status(), 200);
    tollgate.freeze().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let at = envoy.at;
        calls.spawn(async move {
            let request = post("/v1/chat/completions", ASK).replace("sk-a", "sk-of-a");
            let answer = tokio::time::timeout(BOUND, call(at, request)).await;
            answer.expect("an answer in time").status()
        });
    }
    let answers = calls.join_all().await;
    // Of ext_proc, Envoy says in its own words that nobody answered in time, whatever `status_on_error` is.
    let refused = if file == "ext-proc.yaml" { 504 } else { 503 };
    assert_eq!(answers, [refused; 8], "{file}");
    tollgate.signal("-CONT").await;
    passes(&envoy).await;
    books_agree(&tollgate).await;
    tollgate.terminate().await;
}

#[tokio::test]
async fn killed_in_the_path_of_a_stream_it_breaks_off_and_the_books_agree() {
    let setup = Setup::new().await;
    let tollgate = setup.tollgate().await;
    tollgate.account("a", "100", "default").await;
    let envoy = setup.envoy("ext-proc.yaml", &[]).await;
    assert_eq!(answered(&envoy).await.status(), 200);
    let ask = ASK.replace("\"model\"", "\"stream\":true,\"model\"");
    let knobs = "x-standin-output-tokens: 90\r\nx-standin-token-delay-ms: 50\r\n\r\n";
    let request = post("/v1/chat/completions", &ask).replace("sk-a", "sk-of-a");
    let request = request.replacen("\r\n\r\n", &format!("\r\n{knobs}"), 1);
    let mut wire = Wire::connect(envoy.at).await;
    wire.send(request).await;
    let mut answer = wire.head().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(wire.chunk().await.is_some());
    tollgate.kill().await;
    let body = tokio::time::timeout(BOUND, wire.body(&mut answer)).await;
    body.expect("an end in time");
    assert!(!answer.whole, "{answer:?}");
    let tollgate = setup.tollgate().await;
    passes(&envoy).await;
    books_agree(&tollgate).await;
    // The one before, which a kill does not lose, and the one after; the stream's hold went back, as the policy says.
    assert_eq!(tollgate.used("a").await.0, 2);
    tollgate.terminate().await;
}

/// What clients get while tollgate ends and starts again, and that every call that was answered is charged, and no other.
async fn restarted(file: &str) {
    let setup = Setup::new().await;
    let mut tollgate = setup.tollgate().await;
    tollgate.account("a", "100", "default").await;
    let envoy = setup.envoy(file, &[]).await;
    let (stop, stopped) = watch::channel(false);
    let passed = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (at, passed, stopped) = (envoy.at, passed.clone(), stopped.clone());
        callers.spawn(async move {
            let request = post("/v1/chat/completions", ASK).replace("sk-a", "sk-of-a");
            while !*stopped.borrow() {
                let answer = tokio::time::timeout(BOUND, call(at, &request)).await;
                match answer.expect("an answer in time").status() {
                    200 => _ = passed.fetch_add(1, std::sync::atomic::Ordering::SeqCst),
                    500 | 503 | 504 => {}
                    other => panic!("{other}"),
                }
            }
        });
    }
    let passes = async |more: u64| {
        let before = passed.load(std::sync::atomic::Ordering::SeqCst);
        within(Duration::from_secs(20), "calls pass", async || {
            let now = passed.load(std::sync::atomic::Ordering::SeqCst);
            (now >= before + more).then_some(())
        })
        .await;
    };
    passes(10).await;
    for _ in 0..2 {
        tollgate.terminate().await;
        tollgate = setup.tollgate().await;
        passes(10).await;
    }
    stop.send_replace(true);
    callers.join_all().await;
    books_agree(&tollgate).await;
    let passed = passed.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(tollgate.used("a").await.0, passed, "{file}");
    tollgate.terminate().await;
}

#[tokio::test]
async fn restarted_under_load_every_call_that_passed_is_charged() {
    restarted("ext-authz-access-log.yaml").await;
}

#[tokio::test]
async fn restarted_under_load_while_it_watches_every_call_that_passed_is_charged() {
    restarted("ext-authz-ext-proc.yaml").await;
}

#[tokio::test]
async fn restarted_under_load_in_the_path_every_call_that_passed_is_charged() {
    restarted("ext-proc.yaml").await;
}

#[tokio::test]
async fn told_to_stop_it_hears_the_calls_in_flight_out() {
    let setup = Setup::new().await;
    let tollgate = setup.tollgate().await;
    tollgate.account("a", "100", "default").await;
    let envoy = setup.envoy("ext-authz-access-log.yaml", &[]).await;
    assert_eq!(answered(&envoy).await.status(), 200);
    let knobs = "x-standin-delay-ms: 700\r\n\r\n";
    let request = post("/v1/chat/completions", ASK).replace("sk-a", "sk-of-a");
    let request = request.replacen("\r\n\r\n", &format!("\r\n{knobs}"), 1);
    let at = envoy.at;
    let flying = tokio::spawn(async move { call(at, request).await });
    until("the call is held", async || {
        tollgate.show("a").await.held.is_positive().then_some(())
    })
    .await;
    tollgate.terminate().await;
    assert_eq!(flying.await.unwrap().status(), 200);
    let tollgate = setup.tollgate().await;
    assert_eq!(tollgate.used("a").await.0, 2);
    books_agree(&tollgate).await;
    tollgate.terminate().await;
}
