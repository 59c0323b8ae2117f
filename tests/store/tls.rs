//! A Redis that speaks TLS, and one that asks who one is.

use std::path::PathBuf;

use tollgate::store::redis::{Login, Reach, RedisStore, Settings, TlsFiles};
use tollgate::store::{Change, StoreError};

use super::redis::hear;
use super::*;
use crate::support::redis::{Authority, Server};

fn url(scheme: &str, host: &str, server: &Server) -> Reach {
    Reach::Server(format!("{scheme}://{host}:{}", server.port("--tls-port")))
}

fn trusting(ca: PathBuf) -> Option<TlsFiles> {
    let ca = Some(ca);
    Some(TlsFiles {
        ca,
        ..TlsFiles::default()
    })
}

fn connect(reach: Reach, tls: Option<TlsFiles>) -> RedisStore {
    let settings = Settings {
        reach,
        tls,
        ..Settings::default()
    };
    RedisStore::connect(settings, Clock::system()).unwrap()
}

/// The store must be refused, with these words.
async fn refused(store: &RedisStore, says: &str) {
    match store.ping().await {
        Err(StoreError::Unavailable(text)) => assert!(text.contains(says), "{says}: {text}"),
        other => panic!("{says}: {other:?}"),
    }
}

#[tokio::test]
async fn tls_trusts_its_own_authority_and_no_other() {
    let ours = Authority::new();
    let server = ours.server("127.0.0.1", false, &[]).await;
    let there = || url("rediss", "127.0.0.1", &server);
    let store = connect(there(), trusting(ours.ca()));
    let mut changes = store.changes();
    hear(&mut changes, &Change::All).await;
    seed(&store, "a", 1).await;
    hear(&mut changes, &Change::Account(account("a"), 1)).await;

    refused(
        &connect(there(), trusting(Authority::new().ca())),
        "UnknownIssuer",
    )
    .await;
    // Without files the public authorities are trusted, and this is none of them.
    refused(&connect(there(), None), "UnknownIssuer").await;
    refused(
        &connect(url("redis", "127.0.0.1", &server), None),
        "127.0.0.1",
    )
    .await;
    // Another name for the same place is no name of the certificate, unless that is said.
    let by_name = || url("rediss", "localhost", &server);
    refused(
        &connect(by_name(), trusting(ours.ca())),
        "not valid for name",
    )
    .await;
    let named = TlsFiles {
        ca: Some(ours.ca()),
        server_name: Some("127.0.0.1".into()),
        identity: None,
    };
    connect(by_name(), Some(named)).ping().await.unwrap();
}

#[tokio::test]
async fn tls_shows_a_certificate_to_whom_asks_and_takes_a_renewed_one_up() {
    let ours = Authority::new();
    let server = ours.server("127.0.0.1", true, &[]).await;
    let there = || url("rediss", "127.0.0.1", &server);
    refused(
        &connect(there(), trusting(ours.ca())),
        "asks for a certificate",
    )
    .await;
    let theirs = Authority::new();
    let (cert, key) = ours.issue("client");
    let foreign = theirs.issue("client");
    std::fs::copy(foreign.0, &cert).unwrap();
    std::fs::copy(foreign.1, &key).unwrap();
    let files = TlsFiles {
        ca: Some(ours.ca()),
        identity: Some((cert, key)),
        server_name: None,
    };
    let store = connect(there(), Some(files.clone()));
    assert!(store.ping().await.is_err(), "of another authority");
    ours.issue("client");
    store.ping().await.unwrap();
    // Files that cannot work are told at once.
    let missing = TlsFiles {
        ca: Some("/dev/null/ca.pem".into()),
        ..files
    };
    let settings = Settings {
        reach: there(),
        tls: Some(missing),
        ..Settings::default()
    };
    let error = RedisStore::connect(settings, Clock::system()).unwrap_err();
    assert!(error.to_string().contains("/dev/null/ca.pem"), "{error}");
}

#[tokio::test]
async fn a_cluster_with_tls_is_reached_with_tls_at_every_node() {
    let ours = Authority::new();
    let options = [
        "--cluster-enabled",
        "yes",
        "--tls-cluster",
        "yes",
        "--tls-replication",
        "yes",
    ];
    let mut nodes = Vec::new();
    for (first, last) in [("0", "8191"), ("8192", "16383")] {
        let node = ours.server("127.0.0.1", false, &options).await;
        let _: () = node.command(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
        nodes.push(node);
    }
    let [port, bus] = ["--tls-port", "--cluster-port"].map(|name| nodes[1].port(name).to_string());
    let _: () = nodes[1].command(&["CLUSTER", "SET-CONFIG-EPOCH", "2"]);
    let _: () = nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    let seed_url = format!("rediss://127.0.0.1:{}", nodes[0].port("--tls-port"));
    let store = connect(Reach::Cluster(vec![seed_url]), trusting(ours.ca()));
    // Documents that are spread over both.
    for name in ["a", "b", "c", "d", "e", "f"] {
        let written = until("the cluster serves", async || {
            store.put_document(name, 0, Vec::new(), false).await.ok()
        });
        assert_eq!(written.await, Stored::At(1));
    }
    for node in &nodes {
        let count: u64 = node.command(&["DBSIZE"]);
        assert!(count > 0);
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_never_shown() {
    let server = Server::start().await;
    let _: () = server.command(&["CONFIG", "SET", "requirepass", "right"]);
    let socket = server.socket();
    let with = |user: Option<&str>, password: Option<&str>| {
        let settings = Settings {
            reach: Reach::Server(format!("unix://{}", socket.display())),
            login: Login {
                user: user.map(str::to_owned),
                password: password.map(str::to_owned),
            },
            ..Settings::default()
        };
        RedisStore::connect(settings, Clock::system()).unwrap()
    };
    with(None, Some("right")).ping().await.unwrap();
    for (user, named) in [(None, "`default`"), (Some("somebody"), "`somebody`")] {
        let error = with(user, Some("pa55w0rd")).ping().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(named) && text.contains("password"), "{text}");
        assert!(!text.contains("pa55w0rd"), "{text}");
    }
    let error = with(None, None).ping().await.unwrap_err().to_string();
    assert!(error.contains("NOAUTH"), "{error}");
    // In a URL it is no more shown, and one of two logins would be a guess.
    let twice = Settings {
        reach: Reach::Server("redis://:pa55w0rd@127.0.0.1:1".into()),
        login: Login {
            user: None,
            password: Some("other".into()),
        },
        ..Settings::default()
    };
    let error = RedisStore::connect(twice, Clock::system()).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("and there is another") && !text.contains("pa55w0rd"),
        "{text}"
    );
}
