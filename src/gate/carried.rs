//! Calls that another gateway carries, such as Envoy: held when it asks, settled when it, or whoever watches the answer there,
//! says how the call ended. They are kept with the holds of applications, by id; here is what is only theirs: the terms they are
//! charged on, and the list of those whose end was never told.
//!
//! What tells of an end may be lost, may come twice, and may come late. So a hold expires by its account's policy, the first
//! settlement stands, and one that comes after the expiry still lands.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::charge::{self, Charge, Foreseen, Outcome};
use super::holds::{Kept, NOTHING, State};
use super::{
    Caller, Gate, HoldError, HoldGrant, HoldRefused, Identified, RELOADS_MAX, RateView, Taken, Want,
};
use crate::clock::{Now, Timestamp};
use crate::engine::{Account, Key};
use crate::id::{AccountId, KeyId, ModelName};
use crate::meter::Api;
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::pricing::Price;
use crate::refusal::{Reason, Refusal};
use crate::route::Terms;
use crate::telemetry::Passage;

/// How long an ended call is remembered. A gateway that asks again does so within its own timeout, which is below a second; what is
/// told again after this is told of an id that is not known any more, and changes nothing.
const REMEMBERED: Duration = Duration::from_secs(10);

/// How many calls are listed whose end was not told: enough to see which they are, some hundred KiB at most. All are logged.
const UNHEARD_MAX: usize = 1_000;

/// What a gateway asks to pass.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// Who calls.
    pub by: By<'a>,
    /// The terms of the route it came in by.
    pub terms: &'a Arc<Terms>,
    /// The shape of the API.
    pub api: Api,
    /// The model that the request names.
    pub model: Option<&'a str>,
    /// The most output tokens that the request allows.
    pub max_output: Option<u64>,
    /// How many answers it asks for.
    pub choices: u64,
    /// How many calls it counts as.
    pub calls: u64,
    /// Bytes of its body, as far as known.
    pub request_bytes: u64,
    /// Names the request: asked again under the same name, the same hold is given. Nothing that a client chooses, or two of its
    /// requests could pass as one.
    pub request: &'a str,
}

/// Who calls, through a gateway.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// The secret that was presented, if one was.
    Secret(Option<&'a [u8]>),
    /// A key by name: for gateways that have authenticated the caller themselves.
    Key(&'a AccountId, &'a KeyId),
}

/// A call that may pass.
#[derive(Clone, Debug)]
pub struct CallGrant {
    /// What is set aside, and the id to settle it by.
    pub hold: Arc<HoldGrant>,
    /// The account's rate limit; `None` if it has none.
    pub rate: Option<RateView>,
    /// What its usage stands under.
    pub model: Option<ModelName>,
    /// Whether its cost depends on what the upstream says it used.
    pub needs_usage: bool,
}

/// What a carried call is metered by.
#[derive(Clone, Debug)]
pub struct CallTerms {
    /// The shape of the API.
    pub api: Api,
    /// The route's terms.
    pub terms: Arc<Terms>,
}

/// A call whose hold expired before its end was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// The hold.
    pub hold: Arc<HoldGrant>,
    /// What its usage would stand under.
    pub model: Option<ModelName>,
    /// When it was given up.
    pub ended: Timestamp,
    /// The policy charged the hold; otherwise it went back.
    pub charged: bool,
}

/// What a carried call is charged by.
pub(super) struct Carried {
    call: CallTerms,
    foreseen: Foreseen,
    needs_usage: bool,
}

/// What a lease has too little of for a call.
enum Short {
    /// Its plan: by so much of the plan's unit.
    Plan(Arc<Account>, Amount),
    /// Money: so much is needed beside the hold.
    Money(Arc<Account>, Amount),
}

/// The calls whose end was not told, the newest last.
#[derive(Default)]
pub(super) struct Passages {
    unheard: Mutex<VecDeque<Unheard>>,
}

impl Passages {
    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<Unheard>) -> T) -> T {
        // A list of what was lost is whole after each step on it, so a panic elsewhere does not spoil it.
        change(&mut self.unheard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gate {
    /// Decides about a call that a gateway carries, and sets its cost aside: identify → admit → hold.
    ///
    /// Waits only for the first load of an account, or for an empty lease, for a bounded time. Cancel-safe: nothing is held until it
    /// returns.
    pub async fn hold_call(self: &Arc<Self>, call: &Passing<'_>) -> Result<CallGrant, HoldRefused> {
        let now = self.clock.now();
        let held = self.take_call(call, now).await;
        let refusal = match &held {
            Err(HoldRefused::Refusal(refusal)) => Some(refusal),
            _ => None,
        };
        self.count(now, refusal);
        held
    }

    async fn take_call(
        self: &Arc<Self>,
        call: &Passing<'_>,
        now: Now,
    ) -> Result<CallGrant, HoldRefused> {
        for _ in 0..RELOADS_MAX {
            let licence = match call.by {
                By::Secret(Some(secret)) if self.is_licence(secret) => {
                    Some(self.pass(secret, call.model, now)?)
                }
                _ => None,
            };
            let key = match &licence {
                Some(passed) => Arc::clone(&passed.key),
                None => self.passing_key(call.by, now).await?,
            };
            let now = self.clock.now();
            let id = self.holds.id(key.owner(), call.request);
            if let Some(kept) = self.holds.open.get(&id) {
                licence.into_iter().for_each(|passed| passed.hold.release());
                // A call that is over does not pass again: what asks here is not the request that was let through.
                if kept.key.id() != key.id() || !matches!(kept.state, State::Open(_)) {
                    return Err(HoldRefused::RequestIdReused);
                }
                self.metrics.passage(Passage::Repeated);
                return Ok(self.grant(&kept, now));
            }
            if self.holds.full() {
                licence.into_iter().for_each(|passed| passed.hold.release());
                return Err(HoldRefused::TooMany(self.holds.max()));
            }
            let want = self.want_passing(call, &key);
            let taken = match licence {
                Some(passed) => Some(passed.into_taken(now)),
                None => self.take(Arc::clone(&key), &want, now).await?,
            };
            let Some(Taken {
                hold,
                price,
                model,
                at,
            }) = taken
            else {
                continue;
            };
            let carried = Carried {
                call: CallTerms {
                    api: call.api,
                    terms: Arc::clone(call.terms),
                },
                foreseen: want.foreseen,
                needs_usage: price.as_ref().is_some_and(|price| price.needs_usage())
                    || hold.plan_price().is_some_and(Price::needs_usage),
            };
            let granted = CallGrant {
                rate: RateView::of(&key, at),
                model: self.engine.model_name(model),
                needs_usage: carried.needs_usage,
                hold: self.keep(id, key, at, None, Some(carried), (hold, price, model)),
            };
            self.metrics.passage(Passage::Taken);
            return Ok(granted);
        }
        Err(Refusal::new(Reason::StateUnavailable).into())
    }

    async fn passing_key(&self, by: By<'_>, now: Now) -> Result<Arc<Key>, Refusal> {
        let secret = match by {
            By::Secret(secret) => secret.ok_or(Refusal::new(Reason::KeyUnknown))?,
            By::Key(account, key) => {
                if let Some(key) = self.engine.key(account, key) {
                    return Ok(key);
                }
                let named = Caller::Key(account.clone(), key.clone());
                return self.caller(&named, now).await;
            }
        };
        match self.engine.identify(secret, now) {
            Identified::Key(key) => Ok(key),
            // Boxed: it is rare, and else every call's future has room for it.
            _ => Box::pin(self.sync.identify(secret, now)).await,
        }
    }

    fn want_passing<'a>(&self, call: &Passing<'a>, key: &Key) -> Want<'a> {
        let Passing {
            terms,
            model,
            max_output,
            choices,
            calls,
            request_bytes,
            ..
        } = *call;
        let call = super::Call {
            secret: None,
            terms,
            model,
            max_output,
            choices,
            request_bytes,
        };
        let mut want = self.want(&call, key);
        want.foreseen.calls = calls;
        want
    }

    fn grant(&self, kept: &Kept, now: Now) -> CallGrant {
        CallGrant {
            hold: Arc::clone(&kept.grant),
            rate: RateView::of(&kept.key, now),
            model: self.engine.model_name(kept.model),
            needs_usage: kept
                .carried
                .as_ref()
                .is_some_and(|carried| carried.needs_usage),
        }
    }

    /// What a carried call is metered by; `None` if there is no such hold here, or an application took it.
    pub fn carried(&self, id: &str) -> Option<CallTerms> {
        let kept = self.holds.open.get(id)?;
        kept.carried.as_ref().map(|carried| carried.call.clone())
    }

    /// Whether an open call that has come this far costs no more than its hold and what its account still has: of the plan that pays
    /// for it, and of money for what that leaves. Asks for more if a lease is short of it, and waits for that, for a bounded time.
    ///
    /// Nothing more is set aside: calls that run beyond their holds at the same time look at the same money.
    pub async fn covers(&self, id: &str, seen: &Outcome) -> bool {
        let wait = self.sync.refill_wait();
        // Whatever comes of asking for more, here and below: what counts is what there is then.
        match self.short(id, seen, false) {
            None => return true,
            Some(Short::Plan(account, amount)) => {
                let _ = timeout(wait, self.sync.refill_some(&account, amount)).await;
            }
            Some(Short::Money(..)) => {}
        }
        // Once its plan has no more to lease, money pays the rest.
        if let Some(Short::Money(account, amount)) = self.short(id, seen, true) {
            let _ = timeout(wait, self.sync.refill(&account, amount)).await;
        }
        self.short(id, seen, true).is_none()
    }

    /// What is missing to pay for an open call that ended like this; `None` if nothing is. Where its plan and money are both short, it
    /// is the plan, unless that has no more to lease.
    fn short(&self, id: &str, seen: &Outcome, plans_final: bool) -> Option<Short> {
        let kept = self.holds.open.get(id)?;
        let carried = kept.carried.as_ref()?;
        let State::Open(hold) = &kept.state else {
            return None;
        };
        let charge = charge::charge(&carried.terms(&kept), seen)?;
        let needs = hold.needs(charge.cost(), &charge.counts);
        let account = kept.key.account();
        let plan = needs
            .plan
            .map(|(account, amount)| Short::Plan(account, amount));
        if kept.price.is_none() {
            // No price in money is known, or the call costs none: its plan pays, or nothing does.
            return plan;
        }
        let missing = needs
            .money
            .saturating_sub(account.purse().headroom().or_zero());
        if !missing.is_positive() {
            return None;
        }
        let plan = plan.filter(|_| !plans_final);
        Some(plan.unwrap_or_else(|| Short::Money(Arc::clone(account), needs.money)))
    }

    /// What [`Gate::ready_call`] waits for; `None` if it would not wait.
    fn lacks(&self, id: &str, outcome: &Outcome) -> Option<(Arc<Account>, Amount)> {
        let kept = self.holds.open.get(id)?;
        // Of nearly all calls it is not over: what they cost is worked out once.
        kept.stood()?;
        let carried = kept.carried.as_ref()?;
        kept.lacks(&charge::charge(&carried.terms(&kept), outcome)?)
    }

    /// Whether [`Gate::ready_call`] would wait for anything.
    pub fn is_late(&self, id: &str, outcome: &Outcome) -> bool {
        self.lacks(id, outcome).is_some()
    }

    /// Before a carried call is settled whose hold has expired: see [`Gate::ready_hold`].
    pub async fn ready_call(&self, id: &str, outcome: &Outcome) {
        if let Some((account, cost)) = self.lacks(id, outcome) {
            self.fetch_late(&account, cost).await;
        }
    }

    /// Ends a carried call by the terms of its route. Lands also after its hold has expired; the first settlement stands.
    pub fn settle_call(&self, id: &str, outcome: &Outcome) -> Result<Charge, HoldError> {
        let now = self.clock.now();
        let Some(mut kept) = self.holds.open.get_mut(id) else {
            self.metrics.passage(Passage::Stray);
            return Err(self.holds.missing(id));
        };
        if let State::Ended(charge) = kept.state {
            self.metrics.passage(Passage::Again);
            return Err(HoldError::Settled(id.into(), charge));
        }
        let Some(carried) = &kept.carried else {
            return Err(HoldError::NotCarried(id.into()));
        };
        let charged = charge::charge(&carried.terms(&kept), outcome);
        let expired = matches!(kept.state, State::Expired(..));
        let ended = match charged {
            Some(charge) => kept.settle(charge, |kept| kept.late(&self.engine, now)),
            None => kept.release().map(|()| NOTHING),
        };
        let charge = ended.map_err(|first| HoldError::Settled(id.into(), first))?;
        kept.forget = now.mono.plus(REMEMBERED);
        drop(kept);
        if expired {
            self.passages
                .change(|unheard| unheard.retain(|unheard| unheard.hold.id != id));
        }
        self.metrics.passage(if expired {
            Passage::Late
        } else {
            Passage::Settled
        });
        self.metrics.charged(outcome.end, &charge);
        Ok(charge)
    }

    /// Writes down a call that is given up without its end having been told.
    pub(super) fn unheard(&self, kept: &Kept, now: Timestamp) {
        if kept.carried.is_none() {
            return;
        }
        let hold = &kept.grant;
        let unheard = Unheard {
            hold: Arc::clone(hold),
            model: self.engine.model_name(kept.model),
            ended: now,
            charged: kept.key.account().rules().policy.unsettled == Unsettled::Charge,
        };
        self.metrics.passage(Passage::Expired);
        tracing::warn!(
            hold = hold.id,
            account = %hold.account,
            key = %hold.key,
            model = unheard.model.as_ref().map_or("", ModelName::as_str),
            held = %hold.amount,
            charged = unheard.charged,
            "a gateway's call was given up: nobody told how it ended"
        );
        self.passages.change(|list| {
            while list.len() >= UNHEARD_MAX {
                list.pop_front();
            }
            list.push_back(unheard);
        });
    }

    /// The newest calls whose end was not told, the newest last. Those that are told of late after all are taken out.
    pub fn unheard_calls(&self) -> Vec<Unheard> {
        self.passages.change(|list| list.iter().cloned().collect())
    }

    /// Whether a carried call is open: its end is still to be told.
    pub fn carries(&self) -> bool {
        let open = |kept: &Kept| kept.carried.is_some() && matches!(kept.state, State::Open(_));
        self.holds.open.iter().any(|kept| open(&kept))
    }
}

impl Carried {
    fn terms<'a>(&self, kept: &'a Kept) -> charge::Terms<'a> {
        charge::Terms {
            price: kept.price.as_deref(),
            needs_usage: self.needs_usage,
            held: kept.estimate,
            foreseen: self.foreseen,
            on_missing_usage: self.call.terms.on_missing_usage,
            on_upstream_error: self.call.terms.on_upstream_error,
        }
    }
}
