//! The prices and policies in force: those of the configuration, with those set through the control API put over them, name by
//! name. Read on every call, replaced whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ledger::Book;
use crate::licence::{self, LICENCES_MAX};
use crate::policy::{Overrides, Policy};
use crate::pricing::{Price, PriceBook, PriceError};
use crate::store::{Store, StoreError, Stored};

mod licences;
pub mod presets;

pub use licences::{LICENCES, Licences, StoredLicences};

/// The name of the document that holds the prices set through the control API: a JSON list of [`Price`].
pub const PRICES: &str = "prices";

/// The name of the document that holds the policies set through the control API: a JSON object of [`Policy`] by name.
pub const POLICIES: &str = "policies";

/// The name of the document that holds the tenants set through the control API: a JSON object of [`Tenant`] by name.
pub const TENANTS: &str = "tenants";

/// The policy of accounts that name none, or one that is gone.
pub const DEFAULT_POLICY: &str = "default";

/// How many policies there may be: each is a choice that people make and name.
pub const POLICIES_MAX: usize = 1_000;

/// How many tenants there may be: each is a partner with an agreement of its own.
pub const TENANTS_MAX: usize = 10_000;

/// A partner whose agreement overrides what accounts have otherwise (A2-6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// The policy of its accounts that name none; `None` is the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What they have otherwise than that.
    pub overrides: Overrides,
}

/// What is in force now.
#[derive(Debug)]
pub struct Catalog {
    configured: Layer,
    current: ArcSwap<InForce>,
    licences: Licences,
    /// One reads the store at a time, or an older reading could take the place of a newer one. Waiting for it is bounded by the
    /// store's own time-outs.
    loading: tokio::sync::Mutex<()>,
}

/// Prices and policies of one origin.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Prices, one for each pattern in each unit.
    pub prices: Vec<Price>,
    /// Policies by name.
    pub policies: BTreeMap<String, Policy>,
    /// The keys to check licences with, by name; of the configuration alone.
    pub licence_keys: licence::Keys,
    /// Tenants by name.
    pub tenants: BTreeMap<String, Tenant>,
}

/// One consistent set of prices and policies.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// All prices; the version is that of the store's document, 0 if it has none.
    pub prices: PriceBook,
    /// All policies; `default` is always among them.
    pub policies: BTreeMap<String, Policy>,
    /// The version of the store's document of policies, 0 if it has none.
    pub policies_version: u64,
    /// All tenants.
    pub tenants: BTreeMap<String, Tenant>,
    /// The version of the store's document of tenants, 0 if it has none.
    pub tenants_version: u64,
    /// What the store itself holds: what an edit starts from.
    pub stored: Layer,
}

impl InForce {
    /// The policy of a name: one that was set, or a preset.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.get(name).or_else(|| presets::all().get(name))
    }

    /// The names of all policies, presets among them.
    pub fn policy_names(&self) -> impl Iterator<Item = &str> {
        let presets = presets::all().keys();
        let presets = presets.filter(|name| !self.policies.contains_key(*name));
        self.policies.keys().chain(presets).map(String::as_str)
    }

    /// The policy of a book: the account's overrides, over the policy that the account names, or else its tenant's overrides, over the
    /// tenant's policy, or else the default (A2-6).
    pub fn policy_of(&self, book: &Book) -> Policy {
        let default = Policy::default();
        if book.account.is_inner() {
            // What is left of a plan or a budget goes by no operator's rules for money: nothing is owed there, and nobody is told.
            return book.overrides.over(&default);
        }
        let named = |name: &str| self.policy(name).filter(|_| name != DEFAULT_POLICY);
        let fallback = || self.policy(DEFAULT_POLICY).unwrap_or(&default);
        if let Some(policy) = named(&book.policy) {
            return book.overrides.over(policy);
        }
        let tenant = book.tenant.as_ref().and_then(|name| self.tenants.get(name));
        let Some(tenant) = tenant else {
            return book.overrides.over(fallback());
        };
        let policy = tenant.policy.as_ref().and_then(|name| named(name));
        let policy = policy.unwrap_or_else(fallback);
        book.overrides.over(&tenant.overrides.over(policy))
    }
}

/// Why a change of prices or policies is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The prices are wrong.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// A policy is wrong: each problem names its field.
    #[error("policy `{0}`: {1}")]
    Policy(String, String),
    /// A tenant is wrong: each problem names its field.
    #[error("tenant `{0}`: {1}")]
    Tenant(String, String),
    /// More tenants than there may be.
    #[error("there are {0} tenants; there may be at most {TENANTS_MAX}")]
    TooManyTenants(usize),
    /// More policies than there may be.
    #[error("there are {0} policies; there may be at most {POLICIES_MAX}")]
    TooManyPolicies(usize),
    /// More licences than are kept.
    #[error(
        "there are {0} issued licences; at most {LICENCES_MAX} are kept: leave out those that have expired"
    )]
    TooManyLicences(usize),
    /// Somebody else changed them since they were read.
    #[error("the version is not {0} any more; read again and repeat the change")]
    Conflict(u64),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Catalog {
    /// What the configuration says, until [`Catalog::load`] has read the store.
    pub fn new(configured: Layer) -> Result<Self, CatalogError> {
        let current = merge(&configured, Layer::default(), Versions::default())?;
        Ok(Self {
            licences: Licences::new(configured.licence_keys.clone()),
            configured,
            current: ArcSwap::from_pointee(current),
            loading: tokio::sync::Mutex::default(),
        })
    }

    /// Begins with what the store had when it was last read: what holds until it is heard again, and what is put back if it lost that.
    pub fn begin_with(
        &self,
        prices: Option<(u64, Vec<Price>)>,
        policies: Option<(u64, BTreeMap<String, Policy>)>,
        tenants: Option<(u64, BTreeMap<String, Tenant>)>,
    ) -> Result<(), CatalogError> {
        let (prices_version, prices) = prices.unwrap_or_default();
        let (policies_version, policies) = policies.unwrap_or_default();
        let (tenants_version, tenants) = tenants.unwrap_or_default();
        let stored = Layer {
            prices,
            policies,
            tenants,
            ..Layer::default()
        };
        let versions = Versions {
            prices: prices_version,
            policies: policies_version,
            tenants: tenants_version,
        };
        let merged = merge(&self.configured, stored, versions)?;
        self.current.store(Arc::new(merged));
        Ok(())
    }

    /// What is in force at this moment.
    pub fn current(&self) -> arc_swap::Guard<Arc<InForce>> {
        self.current.load()
    }

    /// The policy of a book: see [`InForce::policy_of`].
    pub fn policy_of(&self, book: &Book) -> Policy {
        self.current.load().policy_of(book)
    }

    /// Reads the store's part again. What was in force stays if the store's part is wrong or away; a part that is older than what was
    /// read from it before was lost there, and is put back.
    pub async fn load(&self, store: &dyn Store) -> Result<(), CatalogError> {
        let _loading = self.loading.lock().await;
        let known = self.current.load_full();
        let (version, body) = (known.prices.version(), &known.stored.prices);
        let (prices_version, prices) = document(store, PRICES, version, body).await?;
        let (version, body) = (known.policies_version, &known.stored.policies);
        let (policies_version, policies) = document(store, POLICIES, version, body).await?;
        let (version, body) = (known.tenants_version, &known.stored.tenants);
        let (tenants_version, tenants) = document(store, TENANTS, version, body).await?;
        let stored = Layer {
            prices,
            policies,
            tenants,
            ..Layer::default()
        };
        let versions = Versions {
            prices: prices_version,
            policies: policies_version,
            tenants: tenants_version,
        };
        let merged = merge(&self.configured, stored, versions)?;
        self.current.store(Arc::new(merged));
        self.licences.load(store).await?;
        Ok(())
    }

    /// Replaces the store's prices, if their version is still `expected`. Returns the new version. Nothing is changed by prices
    /// that are wrong. Prices never touch the ledger.
    pub async fn set_prices(
        &self,
        store: &dyn Store,
        expected: u64,
        prices: Vec<Price>,
    ) -> Result<u64, CatalogError> {
        // As they will be read: with those of the configuration, or a book that is too large would be stored for good.
        let stored = Layer {
            prices: prices.clone(),
            ..Layer::default()
        };
        merge(&self.configured, stored, Versions::default())?;
        self.put(store, PRICES, expected, &prices).await
    }

    /// Replaces the store's policies, if their version is still `expected`. Returns the new version.
    pub async fn set_policies(
        &self,
        store: &dyn Store,
        expected: u64,
        policies: BTreeMap<String, Policy>,
    ) -> Result<u64, CatalogError> {
        check_policies(&policies)?;
        self.put(store, POLICIES, expected, &policies).await
    }

    /// Replaces the store's tenants, if their version is still `expected`. Returns the new version.
    pub async fn set_tenants(
        &self,
        store: &dyn Store,
        expected: u64,
        tenants: BTreeMap<String, Tenant>,
    ) -> Result<u64, CatalogError> {
        let current = self.current();
        check_tenants(&tenants, |name| current.policy(name).cloned())?;
        drop(current);
        self.put(store, TENANTS, expected, &tenants).await
    }

    async fn put(
        &self,
        store: &dyn Store,
        name: &str,
        expected: u64,
        body: &impl Serialize,
    ) -> Result<u64, CatalogError> {
        let body =
            serde_json::to_vec(body).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        match store.put_document(name, expected, body, false).await? {
            Stored::Conflict => Err(CatalogError::Conflict(expected)),
            Stored::At(version) => {
                self.load(store).await?;
                Ok(version)
            }
        }
    }
}

/// A document as the store has it, or as it was `known` if the store lost that.
async fn document<T>(
    store: &dyn Store,
    name: &str,
    known_version: u64,
    known: &T,
) -> Result<(u64, T), StoreError>
where
    T: Default + PartialEq + Clone + Serialize + DeserializeOwned,
{
    let corrupt =
        |error: serde_json::Error| StoreError::Corrupt(format!("document `{name}`: {error}"));
    let (version, body) = match store.document(name).await? {
        None => (0, T::default()),
        Some((version, body)) => (version, serde_json::from_slice(&body).map_err(corrupt)?),
    };
    if version >= known_version || body == *known {
        return Ok((version, body));
    }
    let bytes = serde_json::to_vec(known).map_err(corrupt)?;
    match store.put_document(name, version, bytes, true).await? {
        Stored::At(version) => {
            tracing::warn!(
                name,
                version,
                "the store had lost a document; it is put back"
            );
            Ok((version, known.clone()))
        }
        // Another replica was faster: what it put there is read with the next change.
        Stored::Conflict => Err(StoreError::Unavailable(format!(
            "document `{name}` is being put back by another replica"
        ))),
    }
}

/// Of the store's documents; 0 for one that it has not.
#[derive(Clone, Copy, Default)]
struct Versions {
    prices: u64,
    policies: u64,
    tenants: u64,
}

fn merge(configured: &Layer, stored: Layer, versions: Versions) -> Result<InForce, CatalogError> {
    check_policies(&configured.policies)?;
    check_policies(&stored.policies)?;
    let overridden = |price: &&Price| {
        stored
            .prices
            .iter()
            .all(|other| (&other.pattern, &other.unit) != (&price.pattern, &price.unit))
    };
    let configured_prices = configured.prices.iter().filter(overridden);
    let prices = PriceBook::new(
        versions.prices,
        configured_prices.chain(&stored.prices).cloned().collect(),
    )?;
    let mut policies = BTreeMap::from([(DEFAULT_POLICY.to_owned(), Policy::default())]);
    policies.extend(configured.policies.clone());
    policies.extend(stored.policies.clone());
    let mut tenants = configured.tenants.clone();
    tenants.extend(stored.tenants.clone());
    let merged = InForce {
        prices,
        policies,
        policies_version: versions.policies,
        tenants,
        tenants_version: versions.tenants,
        stored,
    };
    // A policy may have been removed under a tenant that the store holds: it falls back to the default, as an account does.
    let fallback = |name: &str| Some(merged.policy(name).cloned().unwrap_or_default());
    check_tenants(&configured.tenants, |name| merged.policy(name).cloned())?;
    check_tenants(&merged.tenants, fallback)?;
    Ok(merged)
}

fn check_tenants(
    tenants: &BTreeMap<String, Tenant>,
    known: impl Fn(&str) -> Option<Policy>,
) -> Result<(), CatalogError> {
    if tenants.len() > TENANTS_MAX {
        return Err(CatalogError::TooManyTenants(tenants.len()));
    }
    for (name, tenant) in tenants {
        let named = tenant.policy.as_deref().unwrap_or(DEFAULT_POLICY);
        let Some(policy) = known(named) else {
            let problem = format!("policy is `{named}`, and there is none of that name");
            return Err(CatalogError::Tenant(name.clone(), problem));
        };
        let problems = tenant.overrides.over(&policy).problems();
        if !problems.is_empty() {
            return Err(CatalogError::Tenant(name.clone(), problems.join("; ")));
        }
    }
    Ok(())
}

fn check_policies(policies: &BTreeMap<String, Policy>) -> Result<(), CatalogError> {
    if policies.len() > POLICIES_MAX {
        return Err(CatalogError::TooManyPolicies(policies.len()));
    }
    for (name, policy) in policies {
        let problems = policy.problems();
        if !problems.is_empty() {
            return Err(CatalogError::Policy(name.clone(), problems.join("; ")));
        }
    }
    Ok(())
}
