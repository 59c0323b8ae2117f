//! The judgement as a table, and the server over a real socket.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const MAX: Duration = Duration::from_secs(5);

#[test]
fn readiness_names_what_is_wrong() {
    let check = |age: Option<u64>, failing, draining, wrong: &[&str]| {
        let age = age.map(Duration::from_millis);
        let readiness = judge(StoreWord { age, failing }, MAX, draining);
        let failed = readiness.checks.iter().filter(|check| !check.ok);
        let names: Vec<_> = failed.map(|check| check.name).collect();
        assert_eq!(names, wrong, "{age:?} {failing} {draining}");
        assert_eq!(readiness.ready, wrong.is_empty());
    };
    check(Some(100), false, false, &[]);
    check(Some(100), true, false, &[]);
    check(Some(5_000), false, false, &[]);
    check(Some(5_001), false, false, &["sync"]);
    check(None, true, false, &["store", "sync"]);
    check(Some(100), false, true, &["shutdown"]);
    check(None, false, true, &["store", "sync", "shutdown"]);
}

struct Fake(Mutex<StoreWord>);

impl Source for Fake {
    fn store(&self) -> StoreWord {
        *self.0.lock().unwrap()
    }

    fn unheard(&self) -> String {
        "[]".into()
    }

    fn metrics(&self) -> String {
        "tollgate_accounts 7\n".into()
    }
}

struct Served {
    running: Running,
    fake: Arc<Fake>,
    draining: watch::Sender<bool>,
}

async fn served() -> Served {
    let word = StoreWord {
        age: Some(Duration::ZERO),
        failing: false,
    };
    let fake = Arc::new(Fake(Mutex::new(word)));
    let (draining, drains) = watch::channel(false);
    let settings = AdminSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        sync_age_max: MAX,
    };
    let running = serve(&settings, fake.clone(), None, drains).await.unwrap();
    Served {
        running,
        fake,
        draining,
    }
}

impl Served {
    async fn ask(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(self.running.local_addr).await.unwrap();
        let request = format!("{head}\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn each_path_has_its_answer() {
    let served = served().await;
    for (head, status, part) in [
        ("GET /healthz HTTP/1.1", "200", "ok"),
        ("GET /readyz HTTP/1.1", "200", "{\"ready\":true"),
        ("GET /readyz?verbose HTTP/1.1", "200", "\"name\":\"store\""),
        ("GET /metrics HTTP/1.1", "200", "tollgate_accounts 7"),
        ("GET /metrics HTTP/1.1", "200", "text/plain; version=0.0.4"),
        ("GET / HTTP/1.1", "200", "/readyz"),
        ("GET /x HTTP/1.1", "404", "see /"),
        ("POST /healthz HTTP/1.1", "405", "allow: GET, HEAD"),
        ("HEAD /healthz HTTP/1.1", "200", "content-length: 3"),
    ] {
        let answer = served.ask(head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{head}: {answer}"
        );
        assert!(answer.contains(part), "{head}: {answer}");
    }
    // As the container's health check asks.
    let answer = served.ask("GET /healthz HTTP/1.0").await;
    assert!(answer.lines().next().unwrap().contains(" 200 "), "{answer}");
    served.running.stop().await;
}

#[tokio::test]
async fn it_tells_that_it_drains_and_still_answers() {
    let served = served().await;
    served.draining.send(true).unwrap();
    let answer = served.ask("GET /readyz HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("\"name\":\"shutdown\",\"ok\":false"),
        "{answer}"
    );
    let answer = served.ask("GET /healthz HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    *served.fake.0.lock().unwrap() = StoreWord::default();
    let answer = served.ask("GET /readyz HTTP/1.1").await;
    assert!(answer.contains("was never reached"), "{answer}");
}

#[tokio::test]
async fn it_ends_though_a_client_says_nothing() {
    let served = served().await;
    let address = served.running.local_addr;
    let mut idle = TcpStream::connect(address).await.unwrap();
    // An answer on another connection shows that the first one was accepted.
    served.ask("GET / HTTP/1.1").await;
    timeout(2 * STOP_TIME_MAX, served.running.stop())
        .await
        .expect("it ends within its bound");
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let served = served().await;
    let settings = AdminSettings {
        listen: served.running.local_addr,
        sync_age_max: MAX,
    };
    let (_, drains) = watch::channel(false);
    let error = serve(&settings, served.fake.clone(), None, drains)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&served.running.local_addr.to_string()),
        "{text}"
    );
    assert!(text.contains("admin.listen"), "{text}");
}
