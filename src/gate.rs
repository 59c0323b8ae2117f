//! One request from its key to its settlement, for every edge: identify → admit → (the edge forwards and meters) → settle.
//! Edges bring what they read from the wire and take a [`Ticket`] or a [`Refusal`]; how either is worded is in [`dialect`] and
//! [`headers`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::catalog::Catalog;
use crate::clock::{Clock, Now};
use crate::engine::{Account, Ask, Denied, Engine, Hold, Identified, Key, ModelId};
use crate::id::{AccountId, KeyId, ModelName, ReplicaId};
use crate::money::Amount;
use crate::policy::StoreOutage;
use crate::pricing::Price;
use crate::refusal::{Reason, Refusal};
use crate::route::{OnMissingUsage, OnUpstreamError, Terms};
use crate::sync::SyncHandle;
use crate::telemetry::Metrics;

pub mod dialect;
pub mod headers;
pub(crate) mod table;

mod carried;
mod charge;
mod holds;
mod legs;
mod licences;

pub use carried::{By, CallGrant, CallTerms, Passing, Unheard};
pub use charge::{Charge, End, Outcome};
pub use holds::{Caller, HoldError, HoldGrant, HoldRefused, HoldRequest, SettleAs};

use carried::Passages;
use charge::Foreseen;
use holds::Holds;
use legs::Patience;
use licences::Licences;

/// How often a call looks its account up again because it was let go of in that very moment.
const RELOADS_MAX: u32 = 3;

/// For how long a plan that had no more in time is not asked again: what others hold of it comes back as their calls end.
const PLAN_PAUSE: Duration = Duration::from_millis(100);

/// What calls are counted as when no name is left for their model.
const OTHER_MODELS: &str = "other";

/// Decides and settles. Shared by all edges.
pub struct Gate {
    engine: Arc<Engine>,
    sync: SyncHandle,
    catalog: Arc<Catalog>,
    clock: Clock,
    metrics: Metrics,
    holds: Holds,
    licences: Licences,
    passages: Passages,
}

/// What an edge read of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The secret that was presented.
    pub secret: Option<&'a [u8]>,
    /// The terms of the route it came in by.
    pub terms: &'a Terms,
    /// The model that the request names.
    pub model: Option<&'a str>,
    /// The most output tokens that the request allows.
    pub max_output: Option<u64>,
    /// How many answers it asks for.
    pub choices: u64,
    /// Bytes of its body: the declared length, or what was read so far.
    pub request_bytes: u64,
}

/// A call that was admitted. Settle it; dropped, its hold is released or charged as the account's policy says.
#[must_use = "a ticket that is dropped is settled by policy, not by what the call used"]
pub struct Ticket {
    gate: Arc<Gate>,
    /// `None` once it is settled.
    hold: Option<Hold>,
    key: Arc<Key>,
    model: ModelId,
    price: Option<Arc<Price>>,
    foreseen: Foreseen,
    on_missing_usage: OnMissingUsage,
    on_upstream_error: OnUpstreamError,
    admitted: Now,
    /// It passed by a licence, which no rate limits.
    licence: bool,
}

/// An account's rate limit as it stands, for the headers that tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateView {
    /// Calls per second.
    pub limit: u32,
    /// Calls at once after a rest.
    pub burst: u32,
    /// Calls that would pass now.
    pub remaining: u32,
    /// Until the whole burst would.
    pub reset: Duration,
}

impl RateView {
    /// A key's account's rate limit; `None` if it has none.
    fn of(key: &Key, now: Now) -> Option<Self> {
        let account = key.account();
        let (remaining, reset) = account.rate_view(now.mono)?;
        let policy = &account.rules().policy;
        let burst = policy.effective_burst();
        Some(Self {
            limit: policy.qps?,
            burst,
            remaining: remaining.min(burst),
            reset,
        })
    }
}

/// A price to go by, or that none is needed, or that none is known.
enum Priced {
    At(Arc<Price>),
    Free,
    Unknown,
}

/// A hold with what it was taken under.
struct Taken {
    hold: Hold,
    /// When: later than the call came if it had to wait.
    at: Now,
    price: Option<Arc<Price>>,
    model: ModelId,
}

/// What a hold is wanted for.
struct Want<'a> {
    model: Option<&'a str>,
    /// What it is a call of, for what must be reactivated and for budgets: the model, unless its route says otherwise.
    capability: Option<&'a str>,
    priced: Priced,
    foreseen: Foreseen,
    /// Set aside instead of what the account's rule says.
    amount: Option<Amount>,
}

/// Why a hold was not taken.
enum Missed {
    /// It is refused.
    Refused(Refusal),
    /// Something has to be fetched first.
    Waits(Arc<Key>, Wait),
}

/// What a call waits for.
enum Wait {
    /// The lease does not cover this amount, or is over.
    Lease(Amount),
    /// The lease of a plan's account does not.
    Plan(Arc<Account>, Amount),
    /// The lease of a budget's account does not.
    Budget(Arc<Account>, Amount),
    /// A plan or a budget is not loaded.
    Inner,
}

/// What to set aside, and the most that the call can cost as far as that is known.
fn amounts(
    key: &Key,
    price: Option<&Price>,
    foreseen: Foreseen,
    amount: Option<Amount>,
) -> Result<(Amount, Amount), Refusal> {
    let by_rule = match price {
        None => (Amount::ZERO, Amount::ZERO),
        // A call that could cost more than there is money in the world is one that nobody can pay.
        Some(price) => foreseen
            .hold(price, key.account().rules().policy.hold)
            .ok_or(Refusal::new(Reason::InsufficientBalance))?,
    };
    Ok(amount.map_or(by_rule, |amount| (amount, by_rule.1.max(amount))))
}

impl Gate {
    /// Over a loaded engine and its sync. Holds carry the replica's name, and there are at most so many.
    pub fn new(
        engine: Arc<Engine>,
        sync: SyncHandle,
        catalog: Arc<Catalog>,
        clock: Clock,
        metrics: Metrics,
        (replica, holds_max): (ReplicaId, usize),
    ) -> Arc<Self> {
        let holds = Holds::new(replica, holds_max);
        Arc::new(Self {
            engine,
            sync,
            catalog,
            clock,
            metrics,
            holds,
            licences: Licences::default(),
            passages: Passages::default(),
        })
    }

    /// Decides about a call: identify → admit → hold.
    ///
    /// Waits only for the first load of an account, or for an empty lease, for a bounded time. Cancel-safe: nothing is held
    /// until it returns.
    pub async fn admit(self: &Arc<Self>, call: &Call<'_>) -> Result<Ticket, Refusal> {
        let now = self.clock.now();
        let decided = match call.secret.filter(|secret| self.is_licence(secret)) {
            // Before anything is looked up: a licence needs no store, and no account in good standing.
            Some(licence) => self.admit_licence(call, licence, now),
            None => match self.decide_now(call, now) {
                Some(decided) => decided,
                // Boxed: it is rare, and else every call's future has room for it and is copied with it.
                None => Box::pin(self.decide(call, now)).await,
            },
        };
        self.count(now, decided.as_ref().err());
        decided
    }

    /// Whether a secret is a good key's, before anything is decided: for an edge that must not do much for strangers. Only a
    /// refusal is counted. Waits for the first look-up of a key, for a bounded time.
    pub async fn recognise(&self, secret: Option<&[u8]>) -> Result<(), Refusal> {
        let now = self.clock.now();
        let good = match secret {
            Some(secret) if self.is_licence(secret) => self.recognise_licence(secret, now),
            Some(secret) => {
                let found = self.sync.identify(secret, now).await;
                found.and_then(|key| match key.standing(now) {
                    Some(reason) => Err(Refusal::new(reason)),
                    None => Ok(()),
                })
            }
            None => Err(Refusal::new(Reason::KeyUnknown)),
        };
        if let Err(refusal) = &good {
            self.count(now, Some(refusal));
        }
        good
    }

    /// A decision that nothing has to be waited for, as nearly all are; `None` if something has.
    fn decide_now(self: &Arc<Self>, call: &Call<'_>, now: Now) -> Option<Result<Ticket, Refusal>> {
        let Some(secret) = call.secret else {
            return Some(Err(Refusal::new(Reason::KeyUnknown)));
        };
        let key = match self.engine.identify(secret, now) {
            Identified::Key(key) => key,
            Identified::Unknown => {
                self.metrics.unknown_key_hit();
                return Some(Err(Refusal::new(Reason::KeyUnknown)));
            }
            Identified::NotLoaded(_) => return None,
        };
        let want = self.want(call, &key);
        match self.attempt(Arc::clone(&key), &want, now, Patience::default()) {
            Ok(taken) => Some(Ok(self.ticket(call, key, taken, want.foreseen))),
            Err(Missed::Refused(refusal)) => Some(Err(refusal)),
            Err(_) => None,
        }
    }

    async fn decide(self: &Arc<Self>, call: &Call<'_>, now: Now) -> Result<Ticket, Refusal> {
        let secret = call.secret.ok_or(Refusal::new(Reason::KeyUnknown))?;
        for _ in 0..RELOADS_MAX {
            let key = self.sync.identify(secret, now).await?;
            // A first load may have taken seconds: a lease is judged by the time at which it is used.
            let now = self.clock.now();
            let want = self.want(call, &key);
            if let Some(taken) = self.take(Arc::clone(&key), &want, now).await? {
                return Ok(self.ticket(call, key, taken, want.foreseen));
            }
        }
        Err(Refusal::new(Reason::StateUnavailable))
    }

    /// What a call wants.
    fn want<'a>(&self, call: &Call<'a>, key: &Key) -> Want<'a> {
        let terms = call.terms;
        let model = terms.model.as_ref().map(ModelName::as_str).or(call.model);
        Want {
            model,
            capability: terms.capability.as_deref().or(model),
            priced: if terms.free {
                Priced::Free
            } else {
                self.price(model, key)
            },
            foreseen: Foreseen {
                request_bytes: call.request_bytes,
                input: None,
                max_output: call.max_output,
                choices: call.choices,
                calls: 1,
            },
            amount: None,
        }
    }

    fn ticket(
        self: &Arc<Self>,
        call: &Call<'_>,
        key: Arc<Key>,
        taken: Taken,
        foreseen: Foreseen,
    ) -> Ticket {
        Ticket {
            gate: Arc::clone(self),
            hold: Some(taken.hold),
            key,
            model: taken.model,
            price: taken.price,
            foreseen,
            on_missing_usage: call.terms.on_missing_usage,
            on_upstream_error: call.terms.on_upstream_error,
            admitted: taken.at,
            licence: false,
        }
    }

    /// Takes a hold, waiting for a lease if need be; `None` if the account was let go of meanwhile.
    async fn take(
        &self,
        mut key: Arc<Key>,
        want: &Want<'_>,
        mut now: Now,
    ) -> Result<Option<Taken>, Refusal> {
        let mut until = now.mono.plus(self.sync.refill_wait());
        let mut patience = Patience::default();
        // Once the store has answered and there is still too little, the money is elsewhere; before, nobody knows.
        let unavailable = Refusal::after(Reason::StateUnavailable, Duration::from_secs(1));
        let mut otherwise = unavailable;
        loop {
            let wait = match self.attempt(key, want, now, patience) {
                Ok(taken) => return Ok(Some(taken)),
                Err(Missed::Refused(refusal)) => return Err(refusal),
                Err(Missed::Waits(back, wait)) => {
                    key = back;
                    wait
                }
            };
            if key.account().retired() {
                return Ok(None);
            }
            let left = until.since(now.mono);
            // `None` if there is no time left.
            let answered = match left.is_zero() {
                true => None,
                false => self.fetch(&key, &wait, want, now, left).await,
            };
            now = self.clock.now();
            match (wait, answered) {
                (Wait::Lease(_), Some(Ok(()))) => {
                    otherwise = Refusal::new(Reason::InsufficientBalance);
                }
                (Wait::Lease(_), answered) => {
                    let refusal = answered.and_then(Result::err).unwrap_or(otherwise);
                    return self.without(key, want, refusal, patience).map(Some);
                }
                // A plan that has no more in time pays what it has, and money the rest.
                (Wait::Plan(account, _), None | Some(Err(_))) => {
                    account.dry_until(now.mono.plus(PLAN_PAUSE));
                    patience.plans_final = true;
                    until = now.mono.plus(self.sync.refill_wait());
                }
                (Wait::Budget(..), None) => patience.budgets_final = true,
                (Wait::Inner, None) => return Err(unavailable),
                (_, Some(Err(refusal))) => return Err(refusal),
                (_, Some(Ok(()))) => {}
            }
        }
    }

    /// Fetches what a call waits for; `None` if that takes too long.
    async fn fetch(
        &self,
        key: &Key,
        wait: &Wait,
        want: &Want<'_>,
        now: Now,
        left: Duration,
    ) -> Option<Result<(), Refusal>> {
        let answered = match wait {
            Wait::Lease(amount) => timeout(left, self.sync.refill(key.account(), *amount)).await,
            Wait::Plan(account, amount) => {
                timeout(left, self.sync.refill_some(account, *amount)).await
            }
            Wait::Budget(account, amount) => {
                timeout(left, self.sync.refill(account, *amount)).await
            }
            // It may have to be opened first, which no call but the first of its time waits for.
            Wait::Inner => {
                let most = self.sync.load_wait();
                timeout(most, self.take_up_inner(key, want, now)).await
            }
        };
        answered.ok()
    }

    /// What there is in no lease may still be taken: beyond it while the store is away, if the policy says so; and nothing, by a call
    /// of an account that is not live yet. Otherwise the refusal stands.
    fn without(
        &self,
        key: Arc<Key>,
        want: &Want<'_>,
        refusal: Refusal,
        patience: Patience,
    ) -> Result<Taken, Refusal> {
        let now = self.clock.now();
        let (away, goes_on) = {
            let rules = key.account().rules();
            let goes_on = matches!(rules.policy.store_outage, StoreOutage::UpTo(_));
            let away = refusal.reason == Reason::StateUnavailable;
            (away && goes_on, !rules.policy.enforced(now.wall))
        };
        if !away && !goes_on {
            return Err(refusal);
        }
        let patience = Patience {
            beyond: away,
            waive: goes_on,
            ..patience
        };
        match self.attempt_special(key, want, now, patience) {
            Ok(taken) => Ok(taken),
            Err(Missed::Refused(other)) => Err(other),
            Err(_) => Err(refusal),
        }
    }

    /// Takes a hold from the lease as it stands.
    fn attempt(
        &self,
        key: Arc<Key>,
        want: &Want<'_>,
        now: Now,
        patience: Patience,
    ) -> Result<Taken, Missed> {
        if key.is_special() {
            return self.attempt_special(key, want, now, patience);
        }
        let (priced, price) = match &want.priced {
            Priced::At(price) => (true, Some(price)),
            Priced::Free => (true, None),
            Priced::Unknown => (false, None),
        };
        let rates = price.map(Arc::as_ref);
        let (amount, worst) =
            amounts(&key, rates, want.foreseen, want.amount).map_err(Missed::Refused)?;
        let counted_as = want
            .model
            .map_or(ModelId::NONE, |model| self.counted_as(model, rates));
        let ask = Ask {
            model: want.model,
            counted_as,
            priced,
            amount,
            worst,
            more: None,
        };
        match self.engine.admit(key, ask, now) {
            Ok(hold) => Ok(Taken {
                hold,
                at: now,
                price: price.cloned(),
                model: counted_as,
            }),
            Err((_, Denied::Refused(refusal))) => Err(Missed::Refused(refusal)),
            Err((key, Denied::Lease | Denied::Short(_))) => {
                Err(Missed::Waits(key, Wait::Lease(amount)))
            }
        }
    }

    /// What a model costs an account: in its own unit, or it has no price.
    fn price(&self, model: Option<&str>, key: &Key) -> Priced {
        let current = self.catalog.current();
        let rules = key.account().rules();
        let price = model.and_then(|model| current.prices.price(model, &rules.unit));
        price.map_or(Priced::Unknown, |price| Priced::At(Arc::clone(price)))
    }

    /// The name that a model's usage stands under. Callers choose model names, so when there are too many, or one is not a
    /// name, its usage stands under the pattern that priced it.
    fn counted_as(&self, model: &str, price: Option<&Price>) -> ModelId {
        let pattern = || price.map_or("", |price| price.pattern.trim_end_matches('*'));
        let named = self
            .engine
            .model(model)
            .or_else(|| self.engine.model(pattern()));
        named
            .or_else(|| self.engine.model(OTHER_MODELS))
            .unwrap_or(ModelId::NONE)
    }

    /// Counts a decision. Its time is taken of every sixteenth or so: a second clock reading would be a tenth of the decision.
    fn count(&self, began: Now, refusal: Option<&Refusal>) {
        self.metrics.decided(refusal.map(|refusal| refusal.reason));
        if began.mono.nanos().is_multiple_of(16) {
            self.metrics
                .decision_time(self.clock.now().mono.since(began.mono));
        }
    }

    /// The engine, for figures.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The metrics, for edges.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Ticket {
    /// The account's rate limit as it stood at admission; `None` if it has none.
    pub fn rate(&self) -> Option<RateView> {
        if self.licence {
            return None;
        }
        RateView::of(&self.key, self.admitted)
    }

    /// Who pays.
    pub fn account(&self) -> &AccountId {
        self.key.owner()
    }

    /// Whose call it is.
    pub fn key(&self) -> &KeyId {
        self.key.id()
    }

    /// What its usage stands under.
    pub fn model(&self) -> Option<ModelName> {
        self.gate.engine.model_name(self.model)
    }

    /// How much is set aside.
    pub fn held(&self) -> Amount {
        self.hold.as_ref().map_or(Amount::ZERO, Hold::amount)
    }

    /// How much of a plan is set aside for it, and of which one; `None` if no plan pays.
    pub fn plan(&self) -> Option<(Amount, &AccountId)> {
        self.hold.as_ref()?.plan()
    }

    /// Whether the cost depends on what the upstream says it used.
    pub fn needs_usage(&self) -> bool {
        let plan = self.hold.as_ref().and_then(Hold::plan_price);
        plan.is_some_and(Price::needs_usage)
            || self.price.as_ref().is_some_and(|price| price.needs_usage())
    }

    /// Ends the call by the route's terms.
    pub fn settle(mut self, outcome: Outcome) -> Charge {
        let terms = charge::Terms {
            price: self.price.as_deref(),
            needs_usage: self.needs_usage(),
            held: self.hold.as_ref().map_or(Amount::ZERO, Hold::estimate),
            foreseen: self.foreseen,
            on_missing_usage: self.on_missing_usage,
            on_upstream_error: self.on_upstream_error,
        };
        let charge = charge::end(self.hold.take(), charge::charge(&terms, &outcome));
        self.gate.metrics.charged(outcome.end, &charge);
        charge
    }
}

impl Drop for Ticket {
    /// Its hold, if it was not settled, ends itself by policy as it is dropped.
    fn drop(&mut self) {
        if self.hold.is_some() {
            self.gate.metrics.abandoned();
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("account", self.account())
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
