//! Assembling: the parts that every edge shares, put together over one store, and the process that serves them.

use std::sync::Arc;

use crate::books::Books;
use crate::books::recall::Recall;
use crate::catalog::{self, Catalog, CatalogError, Layer};
use crate::clock::Clock;
use crate::engine::{Bounds, Engine};
use crate::gate::Gate;
use crate::id::ReplicaId;
use crate::local::Local;
use crate::local::counters::Counters;
use crate::store::Store;
use crate::sync::{Settings, SyncHandle};
use crate::telemetry::Metrics;
use crate::webhooks;

mod serve;

pub use serve::{Running, ServeError, check, runtime, serve, start, stop_signal};

/// The shared parts.
pub struct Core {
    /// The shared truth.
    pub store: Arc<dyn Store>,
    /// Runs commands on books.
    pub books: Books,
    /// The prices and policies in force.
    pub catalog: Arc<Catalog>,
    /// Decides and settles.
    pub gate: Arc<Gate>,
    /// Publishes and follows.
    pub sync: SyncHandle,
    /// The only clock.
    pub clock: Clock,
    /// This process' name.
    pub replica: ReplicaId,
    /// The webhook endpoints, once they are served.
    pub webhooks: webhooks::Desk,
}

/// What the parts are put together from.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// This process' name: kept over restarts where the store is this process' own, new at each start otherwise.
    pub replica: ReplicaId,
    /// The configured prices and policies.
    pub layer: Layer,
    /// What this process keeps on disk: its counters, and what it remembers. Without it a `kill -9` loses what is not published, and a
    /// store that loses history is mended only by processes that still run.
    pub local: Option<Arc<Local>>,
    /// The clock.
    pub clock: Clock,
    /// The schedule.
    pub sync: Settings,
    /// The bounds of the engine's tables.
    pub bounds: Bounds,
    /// How many API holds are kept, open or remembered.
    pub holds_max: usize,
    /// Where edges count.
    pub metrics: Metrics,
}

impl Core {
    /// Puts the parts together. Nothing runs yet but what writes behind to the data directory, and nothing was asked of the store: see
    /// [`SyncHandle::run`] and [`Catalog::load`]. Must be called on a tokio runtime if there is a data directory.
    pub fn new(parts: Parts) -> Result<Arc<Self>, StartError> {
        let Parts {
            store,
            replica,
            layer,
            local,
            clock,
            sync,
            bounds,
            holds_max,
            metrics,
        } = parts;
        let catalog = Arc::new(Catalog::new(layer)?);
        let counters = local.as_ref().map(|local| Arc::clone(local.counters()));
        let counters = counters.unwrap_or_else(Counters::in_memory);
        let engine = Engine::new(random()?, bounds, counters);
        let recall = local.map(Recall::on_disk).unwrap_or_default();
        let (prices, policies, tenants) = (
            recall.named(catalog::PRICES),
            recall.named(catalog::POLICIES),
            recall.named(catalog::TENANTS),
        );
        if let Err(error) = catalog.begin_with(prices, policies, tenants) {
            tracing::error!(%error, "the prices, policies and tenants that are remembered are wrong; the configured ones apply");
        }
        catalog
            .licences()
            .begin_with(recall.named(catalog::LICENCES));
        let books = Books::new(
            Arc::clone(&store),
            Arc::clone(&catalog),
            clock.clone(),
            recall,
        );
        let sync = SyncHandle::new(
            books.clone(),
            Arc::clone(&engine),
            replica.clone(),
            sync,
            metrics.clone(),
        );
        let gate = Gate::new(
            engine,
            sync.clone(),
            Arc::clone(&catalog),
            clock.clone(),
            metrics,
            (replica.clone(), holds_max),
        );
        Ok(Arc::new(Self {
            store,
            books,
            catalog,
            gate,
            sync,
            clock,
            replica,
            webhooks: webhooks::Desk::default(),
        }))
    }
}

/// Why the parts do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configured prices or policies are wrong.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// This replica's name is not one.
    #[error(transparent)]
    Replica(crate::id::NameError),
    /// The operating system has no randomness.
    #[error("the operating system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
