//! Calls that present an offline licence (A1-11). They are judged here alone: by its signature, its own time and what was taken back,
//! with no store, no account and no lease. So they pass while the store is away, and whatever the account owes: a licence was paid
//! for. Who must stop one, revokes it.
//!
//! # Where its calls are counted
//!
//! They cost nothing; their usage stands under the account that the licence names, as that of a key `licence:ID`, if the account is
//! loaded. If it is not, it is asked for beside the call, not before it, and calls until then are counted in the metrics alone
//! (`tollgate_licence_calls_uncounted_total`): to wait for the store is just what a licence must not do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dashmap::DashMap;

use super::{Call, Foreseen, Gate, Taken, Ticket};
use crate::clock::{Monotonic, Now};
use crate::engine::{Account, Fingerprint, Hold, Key, ModelId};
use crate::id::{KeyId, ModelName};
use crate::licence::{self, Invalid, Licence};
use crate::refusal::{Reason, Refusal};
use crate::telemetry::LicenceOutcome;

/// How many licences are remembered as good: a check costs 50 µs, and there are about as many as there are customers' devices that
/// call one sidecar. Beyond, they are checked anew.
const KNOWN_MAX: usize = 16_384;

/// How long an account that could not be loaded is not asked for again: a licence may name one that there is not.
const LOAD_PAUSE: Duration = Duration::from_secs(10);

/// The licences that were found good.
#[derive(Default)]
pub(super) struct Licences(DashMap<Fingerprint, Arc<Known>, foldhash::fast::RandomState>);

/// A licence whose signature is good.
pub(super) struct Known {
    licence: Licence,
    id: KeyId,
    /// Its key in the account that it was last counted under.
    key: ArcSwapOption<Key>,
    /// In running time: before, its account is not asked for.
    load_after: AtomicU64,
}

/// A call that a licence lets pass.
pub(super) struct Passed {
    pub(super) key: Arc<Key>,
    pub(super) hold: Hold,
    pub(super) model: ModelId,
}

impl Passed {
    pub(super) fn into_taken(self, at: Now) -> Taken {
        Taken {
            hold: self.hold,
            at,
            price: None,
            model: self.model,
        }
    }
}

impl Gate {
    /// Whether a secret is a licence, if there are any here. Without keys to check them, they are secrets like others.
    pub(super) fn is_licence(&self, secret: &[u8]) -> bool {
        licence::is_meant(secret) && !self.catalog.licences().keys().is_empty()
    }

    /// Decides about a call by its licence alone.
    pub(super) fn admit_licence(
        self: &Arc<Self>,
        call: &Call<'_>,
        text: &[u8],
        now: Now,
    ) -> Result<Ticket, Refusal> {
        let terms = call.terms;
        let model = terms.model.as_ref().map(ModelName::as_str).or(call.model);
        let Passed { key, hold, model } = self.pass(text, model, now)?;
        Ok(Ticket {
            gate: Arc::clone(self),
            hold: Some(hold),
            key,
            model,
            price: None,
            foreseen: Foreseen::default(),
            on_missing_usage: terms.on_missing_usage,
            on_upstream_error: terms.on_upstream_error,
            admitted: now,
            licence: true,
        })
    }

    /// Lets a call for a model pass by its licence.
    pub(super) fn pass(
        &self,
        text: &[u8],
        model: Option<&str>,
        now: Now,
    ) -> Result<Passed, Refusal> {
        let known = self.known(text, now).map_err(|invalid| {
            self.metrics.licence(outcome(invalid));
            Refusal::new(invalid.reason())
        })?;
        let counted_as = model.map_or(ModelId::NONE, |model| self.counted_as(model, None));
        let passed = self.count_in(&known, counted_as, now);
        if !passed.key.allows(model) {
            passed.hold.release();
            self.metrics.licence(LicenceOutcome::ModelNotAllowed);
            return Err(Refusal::new(Reason::ModelNotAllowed));
        }
        self.metrics.licence(LicenceOutcome::Admitted);
        Ok(passed)
    }

    /// Whether a licence is good now, for an edge that must not do much for strangers.
    pub(super) fn recognise_licence(&self, text: &[u8], now: Now) -> Result<(), Refusal> {
        let found = self.known(text, now);
        found
            .map(drop)
            .map_err(|invalid| Refusal::new(invalid.reason()))
    }

    /// A licence that is good now: from memory, or checked.
    fn known(&self, text: &[u8], now: Now) -> Result<Arc<Known>, Invalid> {
        let licences = self.catalog.licences();
        let fingerprint = self.engine.fingerprint(text);
        let known = self
            .licences
            .0
            .get(&fingerprint)
            .map(|known| Arc::clone(&known));
        let known = match known {
            Some(known) => known,
            None if self.engine.is_unknown(fingerprint, now) => return Err(Invalid::Forged),
            None => {
                let checked = licence::verify(licences.keys(), text);
                let licence = checked.inspect_err(|_| {
                    self.engine.remember_unknown(fingerprint, now);
                })?;
                self.keep_licence(fingerprint, licence)?
            }
        };
        let revoked = licences.revoked(&known.licence.id);
        match known.licence.standing(revoked, now.wall) {
            None => Ok(known),
            Some(invalid) => Err(invalid),
        }
    }

    fn keep_licence(
        &self,
        fingerprint: Fingerprint,
        licence: Licence,
    ) -> Result<Arc<Known>, Invalid> {
        let known = Arc::new(Known {
            id: licence.counted_as().ok_or(Invalid::Forged)?,
            licence,
            key: ArcSwapOption::empty(),
            load_after: AtomicU64::new(0),
        });
        if self.licences.0.len() >= KNOWN_MAX {
            self.licences.0.clear();
        }
        self.licences.0.insert(fingerprint, Arc::clone(&known));
        Ok(known)
    }

    /// A hold of nothing in the licence's account if that is loaded, else in one that stands in for it.
    fn count_in(&self, known: &Known, counted_as: ModelId, now: Now) -> Passed {
        let kept = known.key.load_full();
        let kept = kept.filter(|key| !key.account().retired());
        let key = kept.or_else(|| {
            let account = self.engine.account(&known.licence.account)?;
            let key = self.key_in(&account, known);
            known.key.store(Some(Arc::clone(&key)));
            Some(key)
        });
        if let Some(key) = key
            && let Some(hold) = self.engine.pass(Arc::clone(&key), counted_as, now)
        {
            return Passed {
                key,
                hold,
                model: counted_as,
            };
        }
        self.metrics.licence_uncounted();
        self.ask_for(known, now);
        let key = self.key_in(self.engine.stand_in(), known);
        // One cell for all of them, which nobody reads: it must not grow with what callers name.
        let hold = self.engine.uncounted();
        Passed {
            key,
            hold,
            model: counted_as,
        }
    }

    fn key_in(&self, account: &Arc<Account>, known: &Known) -> Arc<Key> {
        let Licence {
            account: owner,
            models,
            ..
        } = &known.licence;
        let (id, owner, models) = (known.id.clone(), owner.clone(), models.clone());
        self.engine.licence_key(account, owner, id, models)
    }

    /// Has the account loaded for the calls to come.
    fn ask_for(&self, known: &Known, now: Now) {
        let after = known.load_after.load(Relaxed);
        let next = now.mono.plus(LOAD_PAUSE).nanos();
        if now.mono < Monotonic::from_nanos(after)
            || known
                .load_after
                .compare_exchange(after, next, Relaxed, Relaxed)
                .is_err()
        {
            return;
        }
        let (sync, account) = (self.sync.clone(), known.licence.account.clone());
        tokio::spawn(async move {
            if let Err(error) = sync.account(&account).await {
                tracing::debug!(%account, %error, "a licence's account could not be loaded; its calls are not counted yet");
            }
        });
    }
}

const fn outcome(invalid: Invalid) -> LicenceOutcome {
    match invalid {
        Invalid::Forged => LicenceOutcome::Forged,
        Invalid::NotYet => LicenceOutcome::NotYetValid,
        Invalid::Expired => LicenceOutcome::Expired,
        Invalid::Revoked => LicenceOutcome::Revoked,
    }
}
