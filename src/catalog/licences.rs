//! The licences that were issued and taken back, as the store has them, and the keys to check any with. They stay in force while the
//! store is away, and over a restart without it: what was last read is kept on disk, as prices and policies are, and what was taken back
//! before that is answered. A replica that was not told of it, and has not read the store since, lets such a licence pass: offline there
//! is nothing but its signature and its time. That is a replica that starts without the store in a new data directory, or one that was
//! cut off from the store before; the next word of the store reaches either.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Catalog, CatalogError, document};
use crate::clock::Timestamp;
use crate::licence::{Issued, Keys, LICENCES_MAX};
use crate::store::{Store, StoreError};

/// The name of the document that holds them: a JSON object of [`Issued`] by id.
pub const LICENCES: &str = "licences";

/// What licences are judged by.
#[derive(Debug)]
pub struct Licences {
    keys: Keys,
    stored: ArcSwap<StoredLicences>,
}

/// What the store holds of licences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredLicences {
    /// The version of its document, 0 if it has none.
    pub version: u64,
    /// Those that were issued or taken back, by id. A licence need not be among them to be good: its signature says that.
    pub issued: BTreeMap<String, Issued>,
}

impl Licences {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            stored: ArcSwap::default(),
        }
    }

    /// The keys that licences are checked with; none if there are no licences here.
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What the store was last known to hold.
    pub fn stored(&self) -> arc_swap::Guard<Arc<StoredLicences>> {
        self.stored.load()
    }

    /// From when on a licence is taken back.
    pub fn revoked(&self, id: &str) -> Option<Timestamp> {
        self.stored.load().issued.get(id)?.revoked
    }

    /// Begins with what the store had when it was last read.
    pub fn begin_with(&self, remembered: Option<(u64, BTreeMap<String, Issued>)>) {
        if let Some((version, issued)) = remembered {
            self.stored
                .store(Arc::new(StoredLicences { version, issued }));
        }
    }

    /// Reads them again. The caller reads alone.
    pub(super) async fn load(&self, store: &dyn Store) -> Result<(), StoreError> {
        let known = self.stored.load_full();
        let (version, issued) = document(store, LICENCES, known.version, &known.issued).await?;
        self.stored
            .store(Arc::new(StoredLicences { version, issued }));
        Ok(())
    }
}

impl Catalog {
    /// What licences are judged by.
    pub const fn licences(&self) -> &Licences {
        &self.licences
    }

    /// Replaces the licences that the store holds, if their version is still `expected`. Returns the new version.
    pub async fn set_licences(
        &self,
        store: &dyn Store,
        expected: u64,
        issued: BTreeMap<String, Issued>,
    ) -> Result<u64, CatalogError> {
        if issued.len() > LICENCES_MAX {
            return Err(CatalogError::TooManyLicences(issued.len()));
        }
        self.put(store, LICENCES, expected, &issued).await
    }
}
