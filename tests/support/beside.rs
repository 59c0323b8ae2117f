//! A replica with the edges that other gateways ask, a stand-in model, and the account `a` with money.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tollgate::clock::Clock;
use tollgate::control::Listen;
use tollgate::demo::standin;
use tollgate::gateway::{self, Gateway};
use tollgate::id::AccountId;
use tollgate::money::Amount;
use tollgate::policy::Policy;
use tollgate::pricing::Price;
use tollgate::{envoy, forward_auth};

use super::node::{Node, amount, layer};
use super::within;

/// What differs from the usual.
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) money: &'static str,
    pub(crate) asked: gateway::Settings,
    pub(crate) cut_overrun: bool,
    pub(crate) token: Option<&'static str>,
    /// The section `[envoy]` as it is written, for what its rate limits name.
    pub(crate) written: &'static str,
    /// Prices beside the usual ones.
    pub(crate) prices: Vec<Price>,
    pub(crate) clock: Clock,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            money: "100",
            asked: gateway::Settings::default(),
            cut_overrun: false,
            token: None,
            written: "[envoy]",
            prices: Vec::new(),
            clock: Clock::system(),
        }
    }
}

pub(crate) struct Beside {
    pub(crate) node: Node,
    pub(crate) account: AccountId,
    pub(crate) model: SocketAddr,
    /// Where Envoy asks.
    pub(crate) envoy: SocketAddr,
    pub(crate) socket: PathBuf,
    /// Where the others ask.
    pub(crate) auth: SocketAddr,
    stop: watch::Sender<bool>,
    money: Amount,
    _dir: tempfile::TempDir,
    _model: watch::Sender<bool>,
}

impl Plan {
    pub(crate) async fn start(self) -> Beside {
        let mut layer = layer(self.policy);
        layer.prices.extend(self.prices);
        let node = Node::embedded_under(self.clock, layer);
        let account = node.account("a", self.money).await;
        let (model_stop, stopped) = watch::channel(false);
        let settings = standin::Settings::new((Ipv4Addr::LOCALHOST, 0).into());
        let model = standin::serve(settings, stopped).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("envoy.sock");
        let (gate, clock) = (&node.core.gate, &node.core.clock);
        let gateway = Gateway::new(Arc::clone(gate), clock.clone(), self.asked).unwrap();
        let (stop, stopped) = watch::channel(false);
        let any_port = || Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let settings = envoy::Settings {
            listen: vec![any_port(), Listen::Unix(socket.clone())],
            workers: 2,
            token: self.token.map(str::to_owned),
            drain: Duration::from_secs(5),
            cut_overrun: self.cut_overrun,
            limits: tollgate::config::parse(self.written, std::iter::empty())
                .unwrap()
                .envoy
                .unwrap()
                .rate_limit,
        };
        let envoy = envoy::serve(Arc::clone(&gateway), settings, stopped.clone());
        let settings = forward_auth::Settings {
            listen: any_port(),
            token: self.token.map(str::to_owned),
            drain: Duration::from_secs(5),
        };
        let auth = forward_auth::serve(gateway, settings, stopped);
        Beside {
            account,
            model: model.local_addr,
            envoy: envoy.await.unwrap().local_addrs[0],
            socket,
            auth: auth.await.unwrap().local_addr.unwrap(),
            stop,
            money: amount(self.money),
            _dir: dir,
            _model: model_stop,
            node,
        }
    }
}

impl Beside {
    pub(crate) async fn start() -> Self {
        Plan::default().start().await
    }

    /// How much of the money is spent, once nothing is held any more.
    pub(crate) async fn spent(&self) -> Amount {
        let sync = &self.node.core.sync;
        within(Duration::from_secs(20), "every hold ends", async || {
            (sync.live(&self.account).held == Amount::ZERO).then_some(())
        })
        .await;
        let left = self.node.balance(&self.account).await;
        self.money.checked_sub(left).unwrap()
    }

    pub(crate) async fn check_spent(&self, expected: Amount) {
        assert_eq!(self.spent().await, expected);
    }

    /// Tells the edges to stop.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn held(&self) -> Amount {
        self.node.core.sync.live(&self.account).held
    }

    /// One series of the calls that gateways carry.
    pub(crate) fn calls(&self, result: &str) -> u64 {
        let page = self.node.core.gate.metrics().render(&Default::default());
        let series = format!("tollgate_gateway_calls_total{{result=\"{result}\"}} ");
        let mut lines = page.lines();
        let value = lines.find_map(|line| line.strip_prefix(&series));
        value.unwrap().parse().unwrap()
    }
}

/// What a call of the model `tokens` costs that says this usage.
pub(crate) fn cost(usage: &serde_json::Value) -> Amount {
    let count = |names: [&str; 2]| names.iter().find_map(|name| usage[name].as_i64()).unwrap();
    let input = count(["prompt_tokens", "input_tokens"]);
    let output = count(["completion_tokens", "output_tokens"]);
    assert!(input > 0 && output > 0, "{usage}");
    Amount::from_nanos(input * 1_000_000 + output * 2_000_000)
}
