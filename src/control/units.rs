//! The unit of each account, remembered: it never changes, and every amount on the wire names it.

use std::sync::Arc;

use dashmap::DashMap;

use crate::id::AccountId;
use crate::store::{Store, StoreError};

/// How many are remembered; beyond that all are forgotten, and asked for again as they are needed. About 10 MiB.
const UNITS_MAX: usize = 65_536;

/// See the module.
pub(super) struct Units {
    store: Arc<dyn Store>,
    known: DashMap<AccountId, Arc<str>, foldhash::fast::RandomState>,
}

impl Units {
    /// None are known yet.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            known: DashMap::default(),
        }
    }

    /// An account is gone.
    pub(super) fn forget(&self, account: &AccountId) {
        self.known.remove(account);
    }

    /// The unit of an account; empty of one that was purged.
    pub(super) async fn of_any(&self, account: &AccountId) -> Result<Arc<str>, StoreError> {
        match self.of(account).await {
            Err(StoreError::NoAccount(_)) => Ok("".into()),
            unit => unit,
        }
    }

    /// The unit of an account.
    pub(super) async fn of(&self, account: &AccountId) -> Result<Arc<str>, StoreError> {
        if let Some(unit) = self.known.get(account) {
            return Ok(Arc::clone(&unit));
        }
        let read = self.store.read(account, &[]).await?;
        let snapshot = read.ok_or_else(|| StoreError::NoAccount(account.clone()))?;
        let unit: Arc<str> = snapshot.book.unit.into();
        if self.known.len() >= UNITS_MAX {
            self.known.clear();
        }
        self.known.insert(account.clone(), Arc::clone(&unit));
        Ok(unit)
    }
}
