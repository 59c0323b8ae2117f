//! Holds that an application or a gateway takes through an API and settles later, by id: a call that tollgate does not carry
//! itself. They live in memory, expire by policy, and end once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::carried::Carried;
use super::charge::{self, Charge, Foreseen};
use super::{End, Gate, Priced, Taken, Want};
use crate::clock::{Monotonic, Now, Timestamp};
use crate::engine::{Account, Awaited, Engine, Hold, Key, ModelId, Stood};
use crate::id::{AccountId, KeyId, ReplicaId};
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::pricing::Price;
use crate::refusal::{Reason, Refusal};
use crate::usage::{Certainty, Counts, Meter};

/// How long an ended hold is remembered, so that a repeated settlement gets the first answer.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Who asks for a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// By the secret.
    Secret(String),
    /// By the key's id, of this account: for a backend that has authenticated the caller itself.
    Key(AccountId, KeyId),
}

/// A hold that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRequest {
    /// Who asks.
    pub caller: Caller,
    /// Of which model; its price says what is held, unless `amount` does.
    pub model: Option<String>,
    /// How much to set aside; without it, what the account's rule says.
    pub amount: Option<Amount>,
    /// Tokens of input, if known.
    pub input: Option<u64>,
    /// The most output tokens, if known.
    pub max_output: Option<u64>,
    /// How long it lives; without it, and at most, what the account's policy says.
    pub ttl: Option<Duration>,
    /// Asked again under the same id, the same hold is given. Unique in its account.
    pub request_id: String,
}

/// A hold that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldGrant {
    /// What to settle it by.
    pub id: String,
    /// Who pays.
    pub account: AccountId,
    /// Whose call it is.
    pub key: KeyId,
    /// How much is set aside.
    pub amount: Amount,
    /// When it ends by itself.
    pub expires: Timestamp,
}

/// Why a hold is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldRefused {
    /// By the rules.
    Refusal(Refusal),
    /// The request id stands for a hold of another account or key.
    RequestIdReused,
    /// As many holds are open as this replica keeps.
    TooMany(usize),
}

impl From<Refusal> for HoldRefused {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

/// What a hold is settled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleAs {
    /// By these counts, at the price it was taken under.
    Counts(Counts),
    /// To this amount; not below zero.
    Amount(Amount),
}

/// Why a hold is not settled or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// No hold of that id on this replica, or it ended long ago.
    #[error(
        "there is no hold `{0}` here: it never was, or ended more than {REMEMBERED:?} ago, or this replica was restarted since"
    )]
    Unknown(String),
    /// It was taken on another replica, and lives there.
    #[error(
        "hold `{id}` is not here: it was taken on replica `{taken_on}`, and this is `{here}`; say it there"
    )]
    Elsewhere {
        /// The hold.
        id: String,
        /// Where it lives.
        taken_on: ReplicaId,
        /// Who was told.
        here: ReplicaId,
    },
    /// It was settled: the first settlement stands, and is given again.
    #[error("hold `{0}` was settled already")]
    Settled(String, Charge),
    /// Counts without a price to go by.
    #[error("hold `{0}` names no model with a price; settle it to an amount")]
    NoPrice(String),
    /// It was taken by an application, which settles it itself.
    #[error("hold `{0}` was taken by an application, and not for a call that a gateway carries")]
    NotCarried(String),
    /// A cost that is no amount.
    #[error("the cost is beyond the range of an amount")]
    Overflow,
    /// An amount below zero.
    #[error("amount is {0}; a call costs zero or more")]
    Negative(Amount),
}

/// The holds of one replica.
pub(super) struct Holds {
    replica: ReplicaId,
    pub(super) open: DashMap<String, Kept, foldhash::fast::RandomState>,
    /// How many are kept. Counted here: to count them there, every part of the map must be locked in turn.
    kept: AtomicUsize,
    max: usize,
}

pub(super) struct Kept {
    pub(super) grant: Arc<HoldGrant>,
    pub(super) key: Arc<Key>,
    pub(super) model: ModelId,
    pub(super) price: Option<Arc<Price>>,
    /// What the call was expected to cost in money, had it no plan.
    pub(super) estimate: Amount,
    expires: Now,
    /// From when on it is not remembered any more.
    pub(super) forget: Monotonic,
    /// What a call that a gateway carries is charged by; `None` for a hold of an application.
    pub(super) carried: Option<Carried>,
    pub(super) state: State,
}

pub(super) enum State {
    Open(Hold),
    /// Its time was over before it was settled: what it held went back, and a settlement still lands, on what it stood on beside money
    /// and then on money.
    Expired(Awaited, Option<Box<Stood>>),
    /// It ended with this charge.
    Ended(Charge),
}

impl Kept {
    /// Ends it with a charge, by the hold or, if that has expired, by what `late` gives in its stead. `Err` is the charge that it had
    /// ended with: that stands.
    pub(super) fn settle(
        &mut self,
        charge: Charge,
        late: impl FnOnce(&Self) -> Hold,
    ) -> Result<Charge, Charge> {
        let late = matches!(self.state, State::Expired(..)).then(|| late(self));
        // An account stays loaded until the charge that it awaits is counted: to the end of this.
        let (hold, _awaited) = match std::mem::replace(&mut self.state, State::Ended(charge)) {
            State::Open(hold) => (Some(hold), None),
            State::Expired(awaited, _) => (late, Some(awaited)),
            State::Ended(first) => {
                self.state = State::Ended(first);
                return Err(first);
            }
        };
        let charge = charge::end(hold, Some(charge));
        self.state = State::Ended(charge);
        Ok(charge)
    }

    /// What it stood on beside money, if its time is over and its end was not told.
    pub(super) fn stood(&self) -> Option<&Stood> {
        match &self.state {
            State::Expired(_, stood) => stood.as_deref(),
            State::Open(_) | State::Ended(_) => None,
        }
    }

    /// A hold of nothing, for the charge that comes when this is over.
    pub(super) fn late(&self, engine: &Engine, now: Now) -> Hold {
        let key = Arc::clone(&self.key);
        match self.stood() {
            Some(stood) => engine.late_on(key, self.model, stood, now),
            None => engine.late(key, self.model, now),
        }
    }

    /// The plan's account that a late charge lacks something in that the store may have, and how much it takes there.
    pub(super) fn lacks(&self, charge: &Charge) -> Option<(Arc<Account>, Amount)> {
        let (account, cost) = self
            .stood()?
            .plan(Some(&charge.counts).filter(|_| !charge.flat))?;
        (account.purse().headroom() < cost).then(|| (Arc::clone(account), cost))
    }

    /// Ends it: its call never took place. `Err` is the charge that it had ended with.
    pub(super) fn release(&mut self) -> Result<(), Charge> {
        match std::mem::replace(&mut self.state, State::Ended(NOTHING)) {
            State::Open(hold) => hold.release(),
            State::Expired(..) => {}
            State::Ended(charge) => {
                self.state = State::Ended(charge);
                if charge != NOTHING {
                    return Err(charge);
                }
            }
        }
        Ok(())
    }

    /// Its time is over: ends an open hold as its account's policy says. Returns whether it was open.
    fn expire(&mut self) -> bool {
        if !matches!(self.state, State::Open(_)) {
            return false;
        }
        let charged = self.key.account().rules().policy.unsettled == Unsettled::Charge;
        let (estimate, stood) = match &self.state {
            State::Open(hold) => (hold.estimate(), hold.stood().map(Box::new)),
            State::Expired(..) | State::Ended(_) => (self.grant.amount, None),
        };
        let charge = Charge {
            amount: estimate,
            certainty: Certainty::Estimated,
            counts: Counts::default().with(Meter::Request, 1),
            flat: true,
        };
        let next = if charged {
            State::Ended(charge)
        } else {
            State::Expired(Awaited::new(Arc::clone(&self.key)), stood)
        };
        if let State::Open(hold) = std::mem::replace(&mut self.state, next) {
            let ended = charge::end(Some(hold), charged.then_some(charge));
            if charged {
                self.state = State::Ended(ended);
            }
        }
        true
    }
}

impl Holds {
    pub(super) fn new(replica: ReplicaId, max: usize) -> Self {
        Self {
            replica,
            open: DashMap::default(),
            kept: AtomicUsize::new(0),
            max,
        }
    }

    /// The id of a hold: who pays, the replica that it lives on, and the request. Neither of the first two has a `~` in its name, so no
    /// two accounts can mean the same hold, and whoever is told of it at a wrong place can say which is the right one.
    pub(super) fn id(&self, account: &AccountId, request: &str) -> String {
        [account.as_str(), self.replica.as_str(), request].join("~")
    }

    /// Why there is no hold of an id here.
    pub(super) fn missing(&self, id: &str) -> HoldError {
        let mut parts = id.splitn(3, '~').skip(1);
        let taken_on = parts.next().and_then(|name| ReplicaId::new(name).ok());
        match (taken_on, parts.next()) {
            (Some(taken_on), Some(_)) if taken_on != self.replica => HoldError::Elsewhere {
                id: id.into(),
                taken_on,
                here: self.replica.clone(),
            },
            _ => HoldError::Unknown(id.into()),
        }
    }

    /// Whether there is no room for another one. Holds that are taken in the same moment may go beyond by as many.
    pub(super) fn full(&self) -> bool {
        // Relaxed, here and below: it guards no other memory.
        self.kept.load(Relaxed) >= self.max
    }

    pub(super) const fn max(&self) -> usize {
        self.max
    }

    /// Keeps a hold, unless there is one of that id: then that one stands, and is given.
    pub(super) fn keep(&self, id: String, kept: Kept) -> Result<(), Arc<HoldGrant>> {
        match self.open.entry(id) {
            // The same request came twice at once: the other's hold stands.
            Entry::Occupied(other) => {
                let grant = Arc::clone(&other.get().grant);
                if let State::Open(hold) = kept.state {
                    hold.release();
                }
                Err(grant)
            }
            Entry::Vacant(place) => {
                place.insert(kept);
                self.kept.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }
}

pub(super) const NOTHING: Charge = Charge {
    amount: Amount::ZERO,
    certainty: Certainty::None,
    counts: Counts([0; Meter::COUNT]),
    flat: false,
};

impl Gate {
    /// Takes a hold, to be settled or released by its id.
    pub async fn hold(self: &Arc<Self>, request: HoldRequest) -> Result<HoldGrant, HoldRefused> {
        let now = self.clock.now();
        let held = self.take_hold(request, now).await;
        let refusal = match &held {
            Err(HoldRefused::Refusal(refusal)) => Some(refusal),
            _ => None,
        };
        self.count(now, refusal);
        held
    }

    async fn take_hold(
        self: &Arc<Self>,
        request: HoldRequest,
        now: Now,
    ) -> Result<HoldGrant, HoldRefused> {
        for _ in 0..super::RELOADS_MAX {
            let licence = match &request.caller {
                Caller::Secret(secret) if self.is_licence(secret.as_bytes()) => {
                    Some(self.pass(secret.as_bytes(), request.model.as_deref(), now)?)
                }
                _ => None,
            };
            let key = match &licence {
                Some(passed) => Arc::clone(&passed.key),
                None => self.caller(&request.caller, now).await?,
            };
            let now = self.clock.now();
            let id = self.holds.id(key.owner(), &request.request_id);
            if let Some(known) = self.known_hold(&id, &key) {
                licence.into_iter().for_each(|passed| passed.hold.release());
                return known;
            }
            let taken = match licence {
                Some(passed) => Some(passed.into_taken(now)),
                None => self.take_for(&request, &key, now).await?,
            };
            let Some(Taken {
                hold, price, model, ..
            }) = taken
            else {
                continue;
            };
            let grant = self.keep(id, key, now, request.ttl, None, (hold, price, model));
            return Ok(HoldGrant::clone(&grant));
        }
        Err(Refusal::new(Reason::StateUnavailable).into())
    }

    /// What stands under a hold's id already, or that there is no room for another; `None` if it may be taken.
    fn known_hold(&self, id: &str, key: &Key) -> Option<Result<HoldGrant, HoldRefused>> {
        if let Some(kept) = self.holds.open.get(id) {
            let same = kept.key.id() == key.id();
            return Some(if same {
                Ok(HoldGrant::clone(&kept.grant))
            } else {
                Err(HoldRefused::RequestIdReused)
            });
        }
        let full = self.holds.full();
        full.then_some(Err(HoldRefused::TooMany(self.holds.max)))
    }

    /// Takes what a request asks for; `None` if the account was let go of meanwhile.
    async fn take_for(
        &self,
        request: &HoldRequest,
        key: &Arc<Key>,
        now: Now,
    ) -> Result<Option<Taken>, Refusal> {
        let model = request.model.as_deref();
        let priced = match (model, self.price(model, key), request.amount) {
            // An amount needs no price; a model that has one is settled by it all the same.
            (_, Priced::Unknown, Some(_)) => Priced::Free,
            (_, priced, _) => priced,
        };
        let foreseen = Foreseen {
            request_bytes: 0,
            input: request.input,
            max_output: request.max_output,
            choices: 1,
            calls: 1,
        };
        let want = Want {
            model,
            capability: model,
            priced,
            foreseen,
            amount: request.amount.map(Amount::or_zero),
        };
        self.take(Arc::clone(key), &want, now).await
    }

    /// Keeps a hold that was taken, to be settled by its id; what is kept under that id already stands.
    pub(super) fn keep(
        &self,
        id: String,
        key: Arc<Key>,
        now: Now,
        ttl: Option<Duration>,
        carried: Option<Carried>,
        (hold, price, model): (Hold, Option<Arc<Price>>, ModelId),
    ) -> Arc<HoldGrant> {
        let most = key.account().rules().policy.hold_time();
        let ttl = ttl.unwrap_or(most).min(most);
        let expires = Now {
            wall: now.wall.plus(ttl),
            mono: now.mono.plus(ttl),
        };
        let grant = Arc::new(HoldGrant {
            id: id.clone(),
            account: key.owner().clone(),
            key: key.id().clone(),
            amount: hold.amount(),
            expires: expires.wall,
        });
        let kept = Kept {
            grant: Arc::clone(&grant),
            key,
            model,
            price,
            estimate: hold.estimate(),
            expires,
            forget: expires.mono.plus(REMEMBERED),
            carried,
            state: State::Open(hold),
        };
        match self.holds.keep(id, kept) {
            Ok(()) => grant,
            Err(first) => first,
        }
    }

    pub(super) async fn caller(&self, caller: &Caller, now: Now) -> Result<Arc<Key>, Refusal> {
        let (account, key) = match caller {
            Caller::Secret(secret) => return self.sync.identify(secret.as_bytes(), now).await,
            Caller::Key(account, key) => (account, key),
        };
        let unavailable = |_| Refusal::after(Reason::StateUnavailable, Duration::from_secs(1));
        let found = self.sync.key(account, key).await.map_err(unavailable)?;
        found.ok_or(Refusal::new(Reason::KeyUnknown))
    }

    /// Ends a hold with what its call used. Lands also after the hold has expired; the first settlement stands.
    pub fn settle_hold(&self, id: &str, how: SettleAs) -> Result<Charge, HoldError> {
        let kept = self.holds.open.get_mut(id);
        let mut kept = kept.ok_or_else(|| self.holds.missing(id))?;
        let settled = |charge| HoldError::Settled(id.into(), charge);
        if let State::Ended(charge) = kept.state {
            return Err(settled(charge));
        }
        let charge = priced(id, &kept, how)?;
        // Nothing is set aside any more once it has expired: the charge lands on what there is.
        let late = |kept: &Kept| kept.late(&self.engine, self.clock.now());
        let charge = kept.settle(charge, late).map_err(settled)?;
        self.metrics.charged(End::Complete, &charge);
        Ok(charge)
    }

    /// Before a hold is settled that has expired: fetches what is left of the plan that it stood on, as far as the charge takes it. Waits
    /// for the store, a bounded time; whatever comes of it, the hold can be settled.
    pub async fn ready_hold(&self, id: &str, how: SettleAs) {
        let lacks = self.holds.open.get(id).and_then(|kept| {
            kept.stood()?;
            let charge = priced(id, &kept, how).ok()?;
            kept.lacks(&charge)
        });
        if let Some((account, cost)) = lacks {
            self.fetch_late(&account, cost).await;
        }
    }

    pub(super) async fn fetch_late(&self, account: &Arc<Account>, cost: Amount) {
        let asked = async {
            // Twice: of a lease whose time is over, the first answer is the ledger's word on what there is.
            for _ in 0..2 {
                let enough = account.purse().headroom() >= cost;
                if enough || self.sync.refill_some(account, cost).await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(self.sync.refill_wait(), asked).await;
    }

    /// Ends a hold: its call never took place. Released twice, it is released.
    pub fn release_hold(&self, id: &str) -> Result<(), HoldError> {
        let kept = self.holds.open.get_mut(id);
        let mut kept = kept.ok_or_else(|| self.holds.missing(id))?;
        kept.release()
            .map_err(|charge| HoldError::Settled(id.into(), charge))
    }

    /// The unit of a hold's account.
    pub fn hold_unit(&self, id: &str) -> Result<String, HoldError> {
        let kept = self.holds.open.get(id);
        let kept = kept.ok_or_else(|| self.holds.missing(id))?;
        Ok(kept.key.account().rules().unit.clone())
    }

    /// Ends holds whose time is over, as their accounts' policies say, and forgets those that ended long ago. Returns how many
    /// expired.
    pub fn expire_holds(&self) -> usize {
        let now = self.clock.now();
        let (mut expired, mut forgotten): (usize, usize) = (0, 0);
        self.holds.open.retain(|_, kept| {
            if now.mono >= kept.forget {
                forgotten = forgotten.saturating_add(1);
                return false;
            }
            if now.mono >= kept.expires.mono && kept.expire() {
                expired = expired.saturating_add(1);
                self.unheard(kept, now.wall);
            }
            true
        });
        self.holds.kept.fetch_sub(forgotten, Relaxed);
        expired
    }

    /// Ends every open hold as its account's policy says: the process ends, and nobody can settle them any more. Returns how many
    /// there were.
    pub fn end_holds(&self) -> usize {
        let now = self.clock.now();
        let (mut ended, mut forgotten): (usize, usize) = (0, 0);
        self.holds.open.retain(|_, kept| {
            if let State::Open(_) = kept.state {
                ended = ended.saturating_add(1);
                self.unheard(kept, now.wall);
            }
            forgotten = forgotten.saturating_add(1);
            // Dropped, a hold ends itself by policy.
            false
        });
        self.holds.kept.fetch_sub(forgotten, Relaxed);
        ended
    }

    /// How many holds are kept, open or remembered.
    pub fn holds(&self) -> usize {
        self.holds.kept.load(Relaxed)
    }
}

fn priced(id: &str, kept: &Kept, how: SettleAs) -> Result<Charge, HoldError> {
    match how {
        SettleAs::Amount(amount) if amount.is_negative() => Err(HoldError::Negative(amount)),
        SettleAs::Amount(amount) => {
            let counts = Counts::default().with(Meter::Request, 1);
            Ok(Charge {
                amount,
                certainty: Certainty::Exact,
                counts,
                flat: true,
            })
        }
        SettleAs::Counts(counts) => {
            let price = kept
                .price
                .as_ref()
                .ok_or_else(|| HoldError::NoPrice(id.into()))?;
            let counts = counts.with(Meter::Request, counts.get(Meter::Request).max(1));
            let amount = price.cost(&counts).map_err(|_| HoldError::Overflow)?;
            Ok(Charge {
                amount,
                certainty: Certainty::Exact,
                counts,
                flat: false,
            })
        }
    }
}

#[cfg(test)]
#[cfg(feature = "model")]
mod races;
