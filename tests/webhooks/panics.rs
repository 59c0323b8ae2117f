//! One event that cannot be sent, for whatever reason, in the sender itself: the others are sent all the same, each once, and it is
//! sent when it can be.

use std::collections::BTreeSet;
use std::sync::Arc;

use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::policy::Policy;
use tollgate::store::embedded::Embedded;
use tollgate::sync::Settings;
use tollgate::{config, webhooks};

use super::receiver::Receiver;
use super::{BEFORE_ALL, CONFIG, SECRET, SECRET_BEFORE, in_order, numbered, twice};
use crate::support::haunted::{Haunt, Haunted};
use crate::support::node::Node;
use crate::support::until;

const FAILED: &str = "tollgate_webhook_deliveries_total{endpoint=\"billing\",result=\"failed\"}";

/// A replica in this process whose store can be haunted, and that sends.
struct Rig {
    node: Node,
    store: Arc<Haunted>,
    receiver: Receiver,
    _sending: webhooks::Running,
    _dir: TempDir,
}

async fn rig() -> Rig {
    let receiver = Receiver::start().await;
    let dir = TempDir::new().unwrap();
    let written = CONFIG
        .replace("STORE", "kind = \"embedded\"")
        .replace("DATA_DIR", dir.path().to_str().unwrap())
        .replace("RECEIVER", &receiver.address.to_string())
        .replace("SECRET", SECRET)
        .replace("BEFORE", SECRET_BEFORE)
        .replace("GIVE_UP", "1h");
    let config = config::parse(&written, std::iter::empty()).unwrap();
    let clock = Clock::system();
    let embedded = Embedded::open(dir.path(), clock.clone()).unwrap();
    let replica = embedded.replica();
    let store = Haunted::new(Arc::new(embedded));
    let settings = Settings::default();
    let node = Node::over(store.clone(), replica, clock, Policy::default(), settings);
    let sending = webhooks::start(&node.core, &config.webhooks, true).unwrap();
    for account in ["a", "b", "c"] {
        node.account(account, "1").await;
    }
    let rig = Rig {
        node,
        store,
        receiver,
        _sending: sending,
        _dir: dir,
    };
    rig.takes(BEFORE_ALL).await;
    rig
}

impl Rig {
    /// Waits until the receiver has taken these, and nothing else, each once.
    async fn takes(&self, ids: &[&str]) {
        let all: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
        until(&format!("{ids:?} are taken"), async || {
            let taken = self.receiver.taken();
            let taken = taken.iter().map(|id| numbered(id).to_owned()).collect();
            all.is_subset(&taken).then_some(())
        })
        .await;
        let taken = self.receiver.taken();
        assert_eq!(twice(&taken), BTreeSet::new(), "{taken:?}");
        assert_eq!(taken.len(), all.len(), "{taken:?}");
        in_order(&taken);
    }

    fn metric(&self, name: &str) -> String {
        let page = self.node.core.gate.metrics().render(&Default::default());
        let mut lines = page.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name}: {page}")).into()
    }

    async fn pay(&self, account: &str, order: &str) {
        let id = tollgate::id::AccountId::new(account).unwrap();
        self.node.recharge(&id, order, "1").await;
    }
}

/// What is wrong with account `b` keeps nothing of `a` and `c` from being sent.
async fn the_others_go_on(haunt: Haunt) -> Rig {
    let rig = rig().await;
    // Its event is written and known before it cannot be sent any more.
    rig.receiver.set(super::receiver::Mode::Hold);
    rig.pay("b", "b-2").await;
    until("it is under way", async || {
        (!rig.receiver.held().is_empty()).then_some(())
    })
    .await;
    rig.pay("b", "b-3").await;
    rig.store.haunt("b", Some(haunt));
    rig.receiver.set(super::receiver::Mode::Take);
    // It is tried again and again, and so it stands before what comes now.
    if matches!(haunt, Haunt::Panics) {
        until("it has failed some times", async || {
            let failed: u64 = rig.metric(FAILED).parse().unwrap();
            (failed >= 2).then_some(())
        })
        .await;
    }
    for order in ["2", "3", "4"] {
        rig.pay("a", order).await;
        rig.pay("c", order).await;
    }
    let mut all = BEFORE_ALL.to_vec();
    all.extend(["b/3", "a/3", "a/4", "a/5", "c/3", "c/4", "c/5"]);
    rig.takes(&all).await;
    // And what comes while it is still so.
    rig.pay("a", "5").await;
    all.push("a/6");
    rig.takes(&all).await;
    rig.store.haunt("b", None);
    all.push("b/4");
    rig.takes(&all).await;
    rig
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_panics_is_one_that_failed() {
    let rig = the_others_go_on(Haunt::Panics).await;
    let restarts = "tollgate_webhook_restarts_total{endpoint=\"billing\"}";
    assert_eq!(rig.metric(restarts), "0", "and nobody else noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_cannot_be_read_keeps_none_of_the_others() {
    the_others_go_on(Haunt::Fails).await;
}
