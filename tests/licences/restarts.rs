//! A licence that was taken back stays so over a restart without the store, on every replica that was told; and what a replica does
//! that never heard of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tollgate::app::{Core, Parts};
use tollgate::catalog::Layer;
use tollgate::clock::Clock;
use tollgate::control::{Listen, Settings as ControlSettings, Signing, serve};
use tollgate::engine::Bounds;
use tollgate::gate::Call;
use tollgate::id::{AccountId, ReplicaId};
use tollgate::licence::{Issued, Licence, Signer};
use tollgate::local::Local;
use tollgate::policy::{Overrides, Policy};
use tollgate::proto::v1;
use tollgate::refusal::Reason;
use tollgate::store::redis::{Reach, RedisStore, Settings as RedisSettings};
use tollgate::sync::Settings;
use tollgate::telemetry::Metrics;
use v1::licence_service_client::LicenceServiceClient;

use super::{FOR_EVER, keys, licence, outcome};
use crate::support::node::{layer, terms};
use crate::support::redis::Server;
use crate::support::until;

/// A replica with a data directory. Nothing of it runs by itself.
struct Replica {
    core: Arc<Core>,
    local: Arc<Local>,
}

impl Replica {
    async fn over(url: String, name: &str, dir: &Path, signer: &Signer) -> Self {
        let clock = Clock::system();
        let redis = RedisSettings {
            reach: Reach::Server(url),
            connect_timeout: Duration::from_millis(200),
            ..RedisSettings::default()
        };
        let store = RedisStore::connect(redis, clock.clone()).unwrap();
        let replica = || ReplicaId::new(name).unwrap();
        // One that ran here before lets go of it in its own time.
        let open = async || Local::open(dir, clock.now().wall, replica).ok();
        let local = Arc::new(until("the data directory is free", open).await);
        let parts = Parts {
            store: Arc::new(store),
            replica: replica(),
            layer: Layer {
                licence_keys: keys(signer),
                ..layer(Policy::default())
            },
            local: Some(Arc::clone(&local)),
            clock,
            sync: Settings::default(),
            bounds: Bounds::default(),
            holds_max: 100,
            metrics: Metrics::default(),
        };
        let core = Core::new(parts).unwrap();
        Self { core, local }
    }

    async fn says(&self, text: &str) -> Option<Reason> {
        let terms = terms();
        let call = Call {
            secret: Some(text.as_bytes()),
            terms: &terms,
            model: Some("flat"),
            max_output: None,
            choices: 1,
            request_bytes: 30,
        };
        match self.core.gate.admit(&call).await {
            Ok(ticket) => {
                ticket.settle(outcome());
                None
            }
            Err(refusal) => Some(refusal.reason),
        }
    }

    /// Whether it stands in the data directory that the licence `lic-1` was taken back.
    fn remembers(&self) -> bool {
        let Some(document) = self.local.memory().named("licences").unwrap() else {
            return false;
        };
        let mut read: serde_json::Value = serde_json::from_slice(&document.bytes).unwrap();
        let all: BTreeMap<String, Issued> = serde_json::from_value(read["body"].take()).unwrap();
        all["lic-1"].revoked.is_some()
    }
}

/// Issues `lic-1` and takes it back, through the control API of a replica that ends right after.
async fn issue_and_revoke(replica: &Replica, signer: &Signer, pem: &str, dir: &Path) {
    let key_file = dir.join("licences.pem");
    std::fs::write(&key_file, pem).unwrap();
    let settings = ControlSettings {
        listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
        token: None,
        tls: None,
        drain: Duration::from_secs(1),
        signing: Some(Signing {
            kid: "2026".into(),
            key_file,
            public_key: signer.public_key(),
        }),
    };
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let running = serve(replica.core.clone(), settings, stopping);
    let running = running.await.unwrap();
    let at = format!("http://{}", running.local_addr.unwrap());
    let mut client = LicenceServiceClient::connect(at).await.unwrap();
    let far = prost_types::Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    };
    let issued = v1::Licence {
        licence_id: "lic-1".into(),
        account_id: "a".into(),
        expire_time: Some(far),
        ..v1::Licence::default()
    };
    let request = v1::IssueLicenceRequest {
        licence: Some(issued),
    };
    client.issue_licence(request).await.unwrap();
    let request = v1::RevokeLicenceRequest {
        licence_id: "lic-1".into(),
    };
    client.revoke_licence(request).await.unwrap();
    drop((client, stop));
    running.join.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_taken_back_stays_so_without_the_store() {
    let server = Server::start().await;
    let [asked, other, late, keys] = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = pair.serialize_pem();
    let signer = Signer::from_pem("2026", pem.as_bytes()).unwrap();
    let text = signer.sign(licence(0, FOR_EVER)).unwrap();
    let good = Licence {
        id: "lic-2".into(),
        ..licence(0, FOR_EVER)
    };
    let good = signer.sign(good).unwrap();
    let first = Replica::over(server.url(), "r-1", asked.path(), &signer).await;
    let second = Replica::over(server.url(), "r-2", other.path(), &signer).await;
    let sync = second.core.sync.clone();
    let running = tokio::spawn(async move { sync.run().await });
    let (account, none) = (AccountId::new("a").unwrap(), Overrides::default());
    let opened = first
        .core
        .books
        .open(account, "USD".into(), None, None, none, None);
    opened.await.unwrap();
    for replica in [&first, &second] {
        assert_eq!(replica.says(&text).await, None);
    }

    // What was answered counts, whatever becomes of the replica and of the store right after: nothing is waited for, and nothing runs
    // that would write it down later.
    issue_and_revoke(&first, &signer, &pem, keys.path()).await;
    assert!(first.remembers());
    let revoked = Some(Reason::KeyRevoked);
    assert_eq!(first.says(&text).await, revoked);
    until(
        "the other replica hears of it, and remembers it",
        async || second.remembers().then_some(()),
    )
    .await;
    assert_eq!(second.says(&text).await, revoked);
    running.abort();
    let _ = running.await;
    drop((first, second, server));

    for (name, dir, want) in [
        ("r-1", &asked, revoked),
        ("r-2", &other, revoked),
        // Its signature is good, which is all that can be known where the store was never heard.
        ("r-3", &late, None),
    ] {
        let nowhere = "redis://127.0.0.1:1".into();
        let replica = Replica::over(nowhere, name, dir.path(), &signer).await;
        assert_eq!(replica.says(&text).await, want, "{name}");
        assert_eq!(replica.says(&good).await, None, "{name}");
    }
}
