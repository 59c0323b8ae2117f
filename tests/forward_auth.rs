//! Real nginx, Traefik and Caddy, by the configurations of `deploy/`, asking tollgate over HTTP.

use serde_json::{Value, json};
use tokio::process::Command;
use tollgate::gateway;
use tollgate::money::Amount;
use tollgate::policy::Policy;

use crate::sdk::{Sdk, in_environment};
use crate::support::beside::{Beside, Plan, cost};
use crate::support::gateway::{Gateway, deployed, free_port};
use crate::support::http::{Wire, call, post};
use crate::support::node::amount;
use crate::support::upstream::{Reply, Upstream, chunk};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"tokens","max_tokens":9,"messages":[]}"#;

async fn beside() -> Beside {
    let plan = Plan {
        policy: Policy {
            qps: Some(100),
            ..Policy::default()
        },
        asked: gateway::Settings {
            model_header: Some("x-gateway-model".parse().unwrap()),
            ..gateway::Settings::default()
        },
        ..Plan::default()
    };
    plan.start().await
}

async fn nginx(beside: &Beside, model: &str, upstream: std::net::SocketAddr) -> Gateway {
    let port = free_port();
    let edits = [
        ("listen 8080;", format!("listen 127.0.0.1:{port};")),
        ("127.0.0.1:9004", beside.auth.to_string()),
        ("127.0.0.1:8000", upstream.to_string()),
        ("\"gpt-4o\"", format!("\"{model}\"")),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, deployed("nginx/nginx.conf", &edits)).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).arg("-c").arg(file);
    // One process, which ends with the test.
    command.args(["-g", "daemon off; master_process off;"]);
    Gateway::on_port(port, dir, command).await
}

async fn check_refusals(beside: &Beside, at: &Gateway) {
    let seen = async |key, script| {
        let sdk = Sdk { at: at.at, key };
        sdk.run(script, &["--model", "tokens"]).await
    };
    let expect = |seen: Value, expected: Value| {
        for (field, value) in expected.as_object().unwrap() {
            let got = seen.pointer(field).unwrap_or(&Value::Null);
            assert_eq!(got, value, "{field} in {seen} {}", at.said());
        }
    };
    let stranger = json!({
        "/exception": "AuthenticationError", "/status": 401, "/code": "invalid_api_key",
        "/headers/x-tollgate-reason": "KEY_UNKNOWN",
    });
    expect(seen("sk-nobody", "chat.py").await, stranger);
    beside.node.account("poor", "0.001").await;
    let poor = json!({
        "/exception": "RateLimitError", "/status": 429, "/code": "insufficient_quota",
        "/headers/x-should-retry": "false", "/headers/x-tollgate-reason": "INSUFFICIENT_BALANCE",
    });
    expect(seen("sk-poor", "chat.py").await, poor);
    let poor = json!({
        "/ok": false, "/status": 402, "/body/error/type": "billing_error", "/headers/x-should-retry": "false",
    });
    expect(seen("sk-poor", "messages.py").await, poor);
}

#[tokio::test]
async fn nginx_passes_refusals_and_headers_on_and_tells_what_was_used() {
    let beside = beside().await;
    let upstream = Upstream::start().await;
    let nginx = nginx(&beside, "tokens", upstream.address).await;
    let body = "{}";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-usage-input: 5\r\nx-usage-output: 9\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    upstream.then(Reply::Bytes(answer.into()));
    let got = call(nginx.at, post(CHAT, ASK)).await;
    assert_eq!(got.status(), 200, "{got:?} {}", nginx.said());
    assert_eq!(
        got.header("ratelimit-policy"),
        Some("\"qps\";q=100;w=1"),
        "{got:?}"
    );
    assert_eq!(got.header("x-ratelimit-limit-requests"), Some("100"));
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.header("authorization"), None, "{seen:?}");
    assert!(
        seen.header("x-tollgate-hold").unwrap().starts_with("a~"),
        "{seen:?}"
    );
    let mut spent = cost(&json!({"prompt_tokens": 5, "completion_tokens": 9}));
    beside.check_spent(spent).await;

    // Without a word of its usage, the hold is charged.
    upstream.then(Reply::json("{}"));
    let before = beside.spent().await;
    assert_eq!(call(nginx.at, post(CHAT, ASK)).await.status(), 200);
    let held = beside.spent().await.checked_sub(before).unwrap();
    assert!(
        held > amount("8"),
        "{held}: 4096 tokens, as the body is not seen"
    );
    spent = spent.checked_add(held).unwrap();

    upstream.then(Reply::whole(
        "500 Internal Server Error",
        "application/json",
        "{}",
    ));
    assert_eq!(call(nginx.at, post(CHAT, ASK)).await.status(), 500);
    beside.check_spent(spent).await;
    check_refusals(&beside, &nginx).await;
    beside.check_spent(spent).await;
    assert_eq!((beside.calls("taken"), beside.calls("settled")), (3, 3));
}

#[tokio::test]
async fn nginx_tells_of_a_client_that_leaves_once() {
    let beside = beside().await;
    let upstream = Upstream::start().await;
    let nginx = nginx(&beside, "flat", upstream.address).await;
    let (reply, pieces) = Reply::stream();
    upstream.then(reply);
    let mut wire = Wire::connect(nginx.at).await;
    wire.send(post(CHAT, ASK)).await;
    pieces.send(chunk("data: {}\n\n")).unwrap();
    assert_eq!(wire.head().await.unwrap().status(), 200);
    drop(wire);
    beside.check_spent(amount("1")).await;
    assert_eq!((beside.calls("taken"), beside.calls("settled")), (1, 1));
}

#[tokio::test]
async fn nginx_lets_nobody_pass_while_tollgate_is_away() {
    let mut beside = beside().await;
    beside.auth.set_port(free_port());
    let upstream = Upstream::start().await;
    let nginx = nginx(&beside, "flat", upstream.address).await;
    let got = call(nginx.at, post(CHAT, ASK)).await;
    assert!([500, 502].contains(&got.status()), "{got:?}");
    assert_eq!(upstream.heads(), 0);
}

/// What an application behind a gateway does: takes the hold, and tells what was used.
async fn check_application(beside: &Beside, at: &Gateway, upstream: &Upstream, body_seen: bool) {
    upstream.then(Reply::json("{}"));
    let forged = "x-tollgate-hold: a~forged\r\n\r\n";
    let request = post(CHAT, ASK).replacen("\r\n\r\n", &format!("\r\n{forged}"), 1);
    let got = call(at.at, request).await;
    assert_eq!(got.status(), 200, "{got:?} {}", at.said());
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.header("authorization"), None, "{seen:?}");
    assert_eq!(String::from_utf8(seen.body.clone()).unwrap(), ASK);
    let hold = seen.header("x-tollgate-hold").unwrap().to_owned();
    assert!(hold.starts_with("a~") && hold != "a~forged", "{seen:?}");
    let expected = if body_seen { "0.034" } else { "8.192" };
    assert_eq!(beside.held(), amount(expected));
    let told = json!({
        "hold": hold, "status": 200, "usage": {"prompt_tokens": 5, "completion_tokens": 9},
    });
    for _ in 0..2 {
        let told = post("/settle", &told.to_string());
        let got = call(beside.auth, told).await;
        assert_eq!(got.status(), 204, "{got:?}");
    }
    beside
        .check_spent(cost(&json!({"prompt_tokens": 5, "completion_tokens": 9})))
        .await;
    check_refusals(beside, at).await;
}

#[tokio::test]
async fn traefik_passes_refusals_on_and_shows_the_body() {
    let beside = beside().await;
    let upstream = Upstream::start().await;
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let listen = [("\":8080\"", format!("\"127.0.0.1:{port}\""))];
    let rules = [
        ("127.0.0.1:9004", beside.auth.to_string()),
        ("127.0.0.1:8000", upstream.address.to_string()),
    ];
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("traefik.yaml", deployed("traefik/traefik.yaml", &listen));
    write("dynamic.yaml", deployed("traefik/dynamic.yaml", &rules));
    let mut command = Command::new(in_environment("bin/traefik"));
    command
        .current_dir(dir.path())
        .arg("--configFile=traefik.yaml");
    command.args([
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
    ]);
    let traefik = Gateway::on_port(port, dir, command).await;
    // It listens before it knows its routes.
    crate::support::until("Traefik has its routes", async || {
        (call(traefik.at, post(CHAT, "{}")).await.status() == 400).then_some(())
    })
    .await;
    check_application(&beside, &traefik, &upstream, true).await;
}

#[tokio::test]
async fn caddy_passes_refusals_on() {
    let beside = beside().await;
    let upstream = Upstream::start().await;
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let edits = [
        (
            "http://:8080 {",
            format!("http://:{port} {{\n\tbind 127.0.0.1"),
        ),
        ("127.0.0.1:9004", beside.auth.to_string()),
        ("127.0.0.1:8000", upstream.address.to_string()),
        ("gpt-4o", "tokens".to_owned()),
    ];
    std::fs::write(
        dir.path().join("Caddyfile"),
        deployed("caddy/Caddyfile", &edits),
    )
    .unwrap();
    let mut command = Command::new(in_environment("bin/caddy"));
    command
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .args(["run", "--config", "Caddyfile"]);
    let caddy = Gateway::on_port(port, dir, command).await;
    check_application(&beside, &caddy, &upstream, false).await;
}

#[tokio::test]
async fn told_at_a_wrong_replica_it_names_the_right_one() {
    let beside = beside().await;
    for (hold, status, words) in [
        ("a~gateway-2~1.2", 421, "taken on replica `gateway-2`"),
        ("a~1.2", 404, "there is no hold `a~1.2` here"),
    ] {
        let told = json!({"hold": hold, "status": 200}).to_string();
        let got = call(beside.auth, post("/settle", &told)).await;
        assert_eq!(got.status(), status, "{got:?}");
        assert!(got.text().contains(words), "{got:?}");
    }
    assert_eq!(beside.calls("stray"), 2);
}

#[tokio::test]
async fn who_has_no_token_is_not_answered() {
    let plan = Plan {
        token: Some("0123456789abcdef"),
        ..Plan::default()
    };
    let beside = plan.start().await;
    let ask = post("/auth", "");
    assert_eq!(call(beside.auth, &ask).await.status(), 403);
    let token = "x-tollgate-token: 0123456789abcdef\r\nx-forwarded-uri: /v1/models\r\n\r\n";
    let ask = ask.replacen("\r\n\r\n", &format!("\r\n{token}"), 1);
    let got = call(beside.auth, &ask).await;
    assert_eq!(
        got.header("x-tollgate-reason"),
        Some("MODEL_NOT_PRICED"),
        "{got:?}"
    );
    beside.check_spent(Amount::ZERO).await;
}
