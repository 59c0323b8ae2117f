//! What people see of the endpoints, and ask for: on any replica, whichever sends. What they ask for stands in the endpoint's document of
//! dead letters until the replica that sends has taken it up, within a second or so.

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Endpoint;
use super::state::{Dead, Letter, State, dead_document, document};
use crate::store::{Store, StoreError, Stored};

/// How often a change is tried against faster writers: the one that sends, and people.
const TRIES_MAX: u32 = 16;

/// The endpoints of this replica's configuration.
#[derive(Debug, Default)]
pub struct Desk(OnceLock<Vec<Arc<Endpoint>>>);

/// An endpoint as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// As it is configured.
    pub endpoint: Arc<Endpoint>,
    /// How far it is; `None` before anybody has sent for it.
    pub state: Option<State>,
    /// What was given up.
    pub dead: Dead,
}

/// Which letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Of these events, by id.
    These(Vec<String>),
    /// All.
    All,
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// No endpoint of that name.
    #[error("there is no webhook endpoint `{0}`; the known ones are: {1}")]
    NoEndpoint(String, String),
    /// No dead letter of that event.
    #[error("there is no dead letter of event `{0}`")]
    NoLetter(String),
    /// Too many write at once.
    #[error("the dead letters of `{0}` are being changed by too many at once; try again")]
    Contended(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Desk {
    /// Shows endpoints; those that are shown first stay.
    pub(super) fn show(&self, endpoints: &[Arc<Endpoint>]) {
        let _ = self.0.set(endpoints.to_vec());
    }

    fn endpoints(&self) -> &[Arc<Endpoint>] {
        self.0.get().map_or(&[], Vec::as_slice)
    }

    fn find(&self, name: &str) -> Result<&Arc<Endpoint>, DeskError> {
        let found = self
            .endpoints()
            .iter()
            .find(|endpoint| endpoint.name == name);
        found.ok_or_else(|| {
            let names = self.endpoints().iter();
            let names: Vec<_> = names.map(|endpoint| endpoint.name.as_str()).collect();
            let known = match names.is_empty() {
                true => "none, as the configuration has no [[webhooks]]".into(),
                false => names.join(", "),
            };
            DeskError::NoEndpoint(name.into(), known)
        })
    }

    /// Every endpoint as it stands.
    pub async fn list(&self, store: &dyn Store) -> Result<Vec<Standing>, DeskError> {
        let mut all = Vec::with_capacity(self.endpoints().len());
        for endpoint in self.endpoints() {
            let state = read::<State>(store, &document(&endpoint.name)).await?;
            let dead = read::<Dead>(store, &dead_document(&endpoint.name)).await?;
            all.push(Standing {
                endpoint: Arc::clone(endpoint),
                state: state.map(|(_, state)| state),
                dead: dead.map(|(_, dead)| dead).unwrap_or_default(),
            });
        }
        Ok(all)
    }

    /// An endpoint's dead letters, the oldest first.
    pub async fn letters(&self, store: &dyn Store, name: &str) -> Result<Vec<Letter>, DeskError> {
        let endpoint = self.find(name)?;
        let dead = read::<Dead>(store, &dead_document(&endpoint.name)).await?;
        Ok(dead.map(|(_, dead)| dead.letters).unwrap_or_default())
    }

    /// Has dead letters sent again; how many. None of them is, if one of them is not there.
    pub async fn send_again(
        &self,
        store: &dyn Store,
        name: &str,
        which: &Which,
    ) -> Result<usize, DeskError> {
        self.edit(store, name, |dead| {
            if let Which::These(ids) = which {
                let there = |id: &&String| dead.letters.iter().any(|one| one.event.id == **id);
                if let Some(absent) = ids.iter().find(|id| !there(id)) {
                    return Err(DeskError::NoLetter(absent.clone()));
                }
            }
            let mut count: usize = 0;
            for letter in &mut dead.letters {
                let meant = match which {
                    Which::All => true,
                    Which::These(ids) => ids.contains(&letter.event.id),
                };
                if meant {
                    letter.again = true;
                    count = count.saturating_add(1);
                }
            }
            Ok(count)
        })
        .await
    }

    /// Has an endpoint sent to again that said that it is gone.
    pub async fn enable(&self, store: &dyn Store, name: &str) -> Result<(), DeskError> {
        let ask = |dead: &mut Dead| {
            dead.enable = true;
            Ok(())
        };
        self.edit(store, name, ask).await
    }

    async fn edit<T: Send>(
        &self,
        store: &dyn Store,
        name: &str,
        edit: impl Fn(&mut Dead) -> Result<T, DeskError> + Send,
    ) -> Result<T, DeskError> {
        let endpoint = self.find(name)?;
        let document = dead_document(&endpoint.name);
        for _ in 0..TRIES_MAX {
            let (version, mut dead) = read::<Dead>(store, &document).await?.unwrap_or_default();
            let before = dead.clone();
            let told = edit(&mut dead)?;
            if dead == before {
                return Ok(told);
            }
            if let Stored::At(_) = write(store, &document, version, &dead).await? {
                return Ok(told);
            }
        }
        Err(DeskError::Contended(name.into()))
    }
}

/// Reads a document.
pub(super) async fn read<T: DeserializeOwned>(
    store: &dyn Store,
    name: &str,
) -> Result<Option<(u64, T)>, StoreError> {
    let Some((version, body)) = store.document(name).await? else {
        return Ok(None);
    };
    let read = serde_json::from_slice(&body);
    let read = read.map_err(|error| StoreError::Corrupt(format!("document `{name}`: {error}")))?;
    Ok(Some((version, read)))
}

/// Writes a document over the version that was read. Also where the store's history is young: it moves no money, and who wrote the
/// document before is told by its turn.
pub(super) async fn write(
    store: &dyn Store,
    name: &str,
    expected: u64,
    body: &impl Serialize,
) -> Result<Stored, StoreError> {
    let body = serde_json::to_vec(body).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    store.put_document(name, expected, body, true).await
}
