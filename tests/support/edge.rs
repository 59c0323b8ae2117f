//! A replica with a proxy in front of an upstream, and the account `a` with money.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tollgate::catalog::Layer;
use tollgate::clock::Clock;
use tollgate::id::AccountId;
use tollgate::licence::Keys;
use tollgate::policy::Policy;
use tollgate::proxy::{self, Running, Settings};
use tollgate::route::{HttpVersion, Route, Terms, Upstream};

use super::node::{Node, amount, layer, terms};
use super::until;

/// The replica, its proxy and its account.
pub(crate) struct Edge {
    pub(crate) node: Node,
    pub(crate) account: AccountId,
    pub(crate) address: SocketAddr,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) running: Option<Running>,
    money: &'static str,
}

/// What differs from the usual.
pub(crate) struct Plan {
    pub(crate) terms: Terms,
    pub(crate) upstream: Upstream,
    pub(crate) settings: Settings,
    pub(crate) policy: Policy,
    /// What licences are checked with.
    pub(crate) licence_keys: Keys,
    pub(crate) money: &'static str,
    pub(crate) drain_max: Duration,
}

impl Plan {
    pub(crate) fn before(upstream: SocketAddr) -> Self {
        Self {
            terms: terms(),
            upstream: Upstream {
                name: "upstream".into(),
                tls: false,
                host: upstream.ip().to_string(),
                port: upstream.port(),
                base_path: String::new(),
                http: HttpVersion::Http1,
                ca_file: None,
                headers: Vec::new(),
                forward_key: false,
                connect_timeout: Duration::from_secs(5),
                idle_connections_max: 8,
                idle_connection_time: Duration::from_secs(60),
            },
            settings: Settings {
                listen: ([127, 0, 0, 1], 0).into(),
                workers: 1,
                ..Settings::default()
            },
            policy: Policy::default(),
            licence_keys: Keys::new(),
            money: "100",
            drain_max: Duration::from_secs(5),
        }
    }

    pub(crate) async fn start(self) -> Edge {
        let layer = Layer {
            licence_keys: self.licence_keys,
            ..layer(self.policy)
        };
        let node = Node::embedded_under(Clock::system(), layer);
        let account = node.account("a", self.money).await;
        let (stop, stopped) = watch::channel(false);
        let routes = [Route {
            name: "all".into(),
            host: None,
            path: "/".into(),
            upstream: Some(Arc::new(self.upstream)),
            terms: Arc::new(self.terms),
        }];
        let (gate, clock) = (&node.core.gate, &node.core.clock);
        let running = proxy::serve(
            gate,
            clock,
            &self.settings,
            &routes,
            &stopped,
            self.drain_max,
        )
        .unwrap();
        Edge {
            address: running.local_addr,
            running: Some(running),
            money: self.money,
            node,
            account,
            stop,
        }
    }
}

impl Edge {
    pub(crate) async fn before(upstream: &super::upstream::Upstream) -> Self {
        Plan::before(upstream.address).start().await
    }

    /// Waits until nothing is held, then checks what is left of the money.
    pub(crate) async fn check_spent(&self, spent: &str) {
        self.nothing_is_held().await;
        let left = self.node.balance(&self.account).await;
        let expected = amount(self.money).checked_sub(amount(spent)).unwrap();
        assert_eq!(left, expected, "of {}, {spent} should be spent", self.money);
    }

    /// Nothing is held, with no waiting.
    pub(crate) fn nothing_is_held_now(&self) {
        let live = self.node.core.sync.live(&self.account);
        assert_eq!(live.held, amount("0"));
    }

    /// Waits until nothing is held: every call has ended.
    pub(crate) async fn nothing_is_held(&self) {
        let sync = &self.node.core.sync;
        until("every hold ends", async || {
            (sync.live(&self.account).held == amount("0")).then_some(())
        })
        .await;
    }
}
