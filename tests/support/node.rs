//! A replica without edges: a core over a real store, its sync running, and the few calls that most tests begin with.

use std::sync::Arc;
use std::time::Duration;

use tollgate::app::{Core, Parts};
use tollgate::books::{CommandError, Done};
use tollgate::catalog::Layer;
use tollgate::clock::{Clock, Timestamp};
use tollgate::engine::{Bounds, digest};
use tollgate::gate::{Call, Ticket};
use tollgate::id::{AccountId, KeyId, ReplicaId};
use tollgate::ledger::{Action, Command};
use tollgate::money::Amount;
use tollgate::policy::{Overrides, Policy};
use tollgate::pricing::{Per, Price, Rate};
use tollgate::refusal::Refusal;
use tollgate::route::{OnDisconnect, OnMissingUsage, OnUpstreamError, Terms};
use tollgate::store::embedded::Embedded;
use tollgate::store::{KeyRecord, Store, StoreError, Stored};
use tollgate::sync::Settings;
use tollgate::telemetry::Metrics;
use tollgate::usage::Meter;

/// A running replica. Its sync ends with it.
pub(crate) struct Node {
    pub(crate) core: Arc<Core>,
    _sync: Task,
    _dir: Option<tempfile::TempDir>,
}

struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

/// `flat` at 1 per call, `tokens` at 1 per thousand tokens in and 2 out.
pub(crate) fn prices() -> Vec<Price> {
    let price = |pattern: &str, rates: &[(Meter, &str, Per)]| Price {
        pattern: pattern.into(),
        unit: "USD".into(),
        rates: rates
            .iter()
            .map(|(meter, price, per)| {
                (
                    *meter,
                    Rate {
                        price: amount(price),
                        per: *per,
                    },
                )
            })
            .collect(),
        max_output: None,
    };
    vec![
        price("flat", &[(Meter::Request, "1", Per::Unit)]),
        price(
            "tokens",
            &[
                (Meter::Input, "1000", Per::Million),
                (Meter::Output, "2000", Per::Million),
            ],
        ),
    ]
}

/// These prices and one policy.
pub(crate) fn layer(policy: Policy) -> Layer {
    Layer {
        prices: prices(),
        policies: [("default".to_owned(), policy)].into(),
        ..Layer::default()
    }
}

/// A route's terms as a configuration without words gives them.
pub(crate) fn terms() -> Terms {
    Terms {
        route: "test".into(),
        api: None,
        dialect: None,
        model: None,
        capability: None,
        free: false,
        usage_headers: Default::default(),
        on_disconnect: OnDisconnect::Drain,
        on_missing_usage: OnMissingUsage::Hold,
        on_upstream_error: OnUpstreamError::Metered,
        drain_time_max: Duration::from_secs(5),
        drain_bytes_max: 1 << 20,
        inspect_bytes_max: 1 << 16,
        body_bytes_max: 1 << 20,
        first_byte_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
    }
}

impl Node {
    /// Over an embedded store in a directory of its own.
    pub(crate) fn embedded() -> Self {
        Self::embedded_with(Policy::default())
    }

    pub(crate) fn embedded_with(policy: Policy) -> Self {
        Self::embedded_under(Clock::system(), layer(policy))
    }

    /// The same under any clock and configuration.
    pub(crate) fn embedded_under(clock: Clock, layer: Layer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path(), clock.clone()).unwrap();
        let replica = store.replica();
        let store = Arc::new(store);
        Self {
            _dir: Some(dir),
            ..Self::configured(store, replica, clock, layer, Settings::default())
        }
    }

    /// Over the embedded store in a directory that outlives it. Waits for an earlier replica to have let go of it.
    pub(crate) async fn embedded_at(clock: Clock, dir: &std::path::Path, policy: Policy) -> Self {
        let open = async || Embedded::open(dir, clock.clone()).ok();
        let store = super::until("the data directory is free", open).await;
        Self::over_embedded(store, clock, policy)
    }

    fn over_embedded(store: Embedded, clock: Clock, policy: Policy) -> Self {
        let replica = store.replica();
        Self::over(Arc::new(store), replica, clock, policy, Settings::default())
    }

    /// Over any store.
    pub(crate) fn over(
        store: Arc<dyn Store>,
        replica: ReplicaId,
        clock: Clock,
        policy: Policy,
        settings: Settings,
    ) -> Self {
        Self::configured(store, replica, clock, layer(policy), settings)
    }

    /// Over any store, configured in any way.
    pub(crate) fn configured(
        store: Arc<dyn Store>,
        replica: ReplicaId,
        clock: Clock,
        layer: Layer,
        settings: Settings,
    ) -> Self {
        let parts = Parts {
            store,
            replica,
            layer,
            local: None,
            clock,
            sync: settings,
            bounds: Bounds::default(),
            holds_max: 1_000,
            metrics: Metrics::default(),
        };
        let core = Core::new(parts).unwrap();
        let sync = core.sync.clone();
        Self {
            core,
            _sync: Task(tokio::spawn(async move { sync.run().await })),
            _dir: None,
        }
    }

    /// An account with money and a key whose secret is `sk-NAME`.
    pub(crate) async fn account(&self, name: &str, money: &str) -> AccountId {
        let id = AccountId::new(name).unwrap();
        let overrides = Overrides::default();
        self.core
            .books
            .open(id.clone(), "USD".into(), None, None, overrides, None)
            .await
            .unwrap();
        if amount(money).is_positive() {
            self.recharge(&id, "first", money).await;
        }
        self.key(&id, &format!("k-{name}"), &format!("sk-{name}"), |_| ())
            .await;
        id
    }

    /// A key of an account.
    pub(crate) async fn key(
        &self,
        account: &AccountId,
        id: &str,
        secret: &str,
        edit: impl FnOnce(&mut KeyRecord),
    ) {
        let mut key = KeyRecord {
            id: KeyId::new(id).unwrap(),
            account: account.clone(),
            digest: digest(secret.as_bytes()),
            name: String::new(),
            hint: String::new(),
            created: Timestamp::from_nanos(0),
            expires: None,
            revoked: None,
            qps: None,
            models: Vec::new(),
            service: String::new(),
            budgets: Vec::new(),
        };
        edit(&mut key);
        let version = self
            .core
            .store
            .read(account, &[])
            .await
            .unwrap()
            .unwrap()
            .version;
        assert!(matches!(
            self.core.store.put_key(version, key).await.unwrap(),
            Stored::At(_)
        ));
        self.core.sync.refresh(account).await.unwrap();
    }

    /// Carries a command out, and knows of it here at once.
    pub(crate) async fn run(&self, account: &AccountId, action: Action) {
        let command = Command {
            idempotency_key: None,
            action,
        };
        self.core.books.run(account, command).await.unwrap();
        self.core.sync.refresh(account).await.unwrap();
    }

    /// Pays money in, once per order.
    pub(crate) async fn recharge(&self, account: &AccountId, order: &str, money: &str) {
        self.try_recharge(account, order, money).await.unwrap();
        self.core.sync.refresh(account).await.unwrap();
    }

    pub(crate) async fn try_recharge(
        &self,
        account: &AccountId,
        order: &str,
        money: &str,
    ) -> Result<Done, CommandError> {
        let action = Action::Recharge {
            amount: amount(money),
            order_id: order.into(),
            priority: 0,
            expires: None,
            note: String::new(),
        };
        let command = Command {
            idempotency_key: Some(format!("test-{order}")),
            action,
        };
        self.core.books.run(account, command).await
    }

    /// The same while the store may take no changes for a while.
    pub(crate) async fn recharge_fenced(&self, account: &AccountId, order: &str, money: &str) {
        let paid = async || match self.try_recharge(account, order, money).await {
            Ok(_) => Some(()),
            Err(CommandError::Store(StoreError::Fenced(_) | StoreError::Unavailable(_))) => None,
            Err(error) => panic!("{error}"),
        };
        super::until("the store takes the recharge", paid).await;
        self.core.sync.refresh(account).await.unwrap();
    }

    /// A call for a model, on usual terms.
    pub(crate) async fn admit(&self, secret: &str, model: &str) -> Result<Ticket, Refusal> {
        self.core.gate.admit(&call(secret, model, &terms())).await
    }

    /// The balance as the store has it, once this replica has published.
    pub(crate) async fn balance(&self, account: &AccountId) -> Amount {
        self.core.sync.flush(account).await.unwrap();
        let snapshot = self.core.store.read(account, &[]).await.unwrap().unwrap();
        snapshot.book.balance(snapshot.spend)
    }
}

/// A call for a model.
pub(crate) fn call<'a>(secret: &'a str, model: &'a str, terms: &'a Terms) -> Call<'a> {
    Call {
        secret: Some(secret.as_bytes()),
        terms,
        model: Some(model),
        max_output: Some(10),
        choices: 1,
        request_bytes: 30,
    }
}
