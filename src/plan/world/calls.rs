//! Calls at the simulated account: the steps of `gate` and of `Sync::refill`, from a call's arrival to its end.

use std::sync::Arc;
use std::time::Duration;

use super::super::number::{nanos, real, seconds};
use super::seat::{Loading, Place, Way};
use super::{Event, Open, World};
use crate::clock::Monotonic;
use crate::engine::{Ask, Denied, Hold, ModelId};
use crate::money::Amount;
use crate::refusal::Reason;
use crate::sync::line::Give;
use crate::usage::{Certainty, Counts, Meter};

/// A call that is not decided yet.
#[derive(Debug)]
pub(super) struct Call {
    replica: u32,
    came: u64,
    cost: Amount,
    model: ModelId,
    /// When it is refused if nothing came.
    until: u64,
    /// The store has answered since it began to wait: if there is too little now, the money is elsewhere.
    answered: bool,
    /// It is in its replica's sum of what is waited for.
    waits: bool,
    has_waited: bool,
    /// Its account had to be loaded.
    loads: bool,
    /// One limiter for all replicas would admit it.
    in_rate: bool,
}

impl World<'_> {
    /// A call comes.
    pub(super) fn call(&mut self) {
        let next = self.next_call();
        self.push(next, Event::Call);
        let replica = self.scene.places.choose(&mut self.random);
        let call = Call {
            replica,
            came: self.now,
            cost: self.cost(),
            model: self.model(),
            until: 0,
            answered: false,
            waits: false,
            has_waited: false,
            loads: false,
            in_rate: self.one_limiter(),
        };
        self.seen.calls = self.seen.calls.saturating_add(1);
        if self.seat(replica).is_some() {
            // What is decided at once is tried once; what is not, is tried again before it waits.
            match self.attempt(&call) {
                Ok(hold) => self.admitted(&call, hold),
                Err(Denied::Refused(refusal)) => self.refused(&call, refusal.reason),
                // No account here has a plan or a budget.
                Err(Denied::Lease | Denied::Short(_)) => self.take(call, true),
            }
            return;
        }
        self.load_for(call);
    }

    /// A call whose account its replica does not have.
    fn load_for(&mut self, call: Call) {
        let replica = call.replica;
        // The key's owner, and whether the key still stands: two words, one after the other.
        self.seen.finds = self.seen.finds.saturating_add(1);
        let found = self.now.saturating_add(self.wire.half.saturating_mul(4));
        self.shop.serve(self.now, self.wire.costs.find_us);
        let id = self.number();
        let call = Call {
            loads: true,
            ..call
        };
        self.calls.insert(id, call);
        let place = usize::try_from(replica)
            .ok()
            .and_then(|at| self.places.get_mut(at));
        match place {
            Some(Place::Loading(loading)) => loading.calls.push((id, found)),
            Some(place) => {
                *place = Place::Loading(Loading {
                    opened: None,
                    calls: vec![(id, found)],
                });
                self.push(found.saturating_add(self.wire.half), Event::Open(replica));
            }
            None => {}
        }
    }

    /// The account is loaded; the call's key is read.
    pub(super) fn find_keys(&mut self, call: u64, found: u64) {
        self.seen.keys = self.seen.keys.saturating_add(1);
        let done = self.shop.serve(self.now, self.wire.costs.keys_us);
        let ready = done
            .max(found)
            .saturating_add(self.wire.half.saturating_mul(2));
        self.push(ready, Event::Loaded(call));
    }

    /// A call's account and key are there.
    pub(super) fn loaded_call(&mut self, id: u64) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        if self.now.saturating_sub(call.came) > nanos(self.settings.load_wait) {
            return self.refused(&call, Reason::StateUnavailable);
        }
        if self.seat(call.replica).is_none() {
            return self.load_for(call);
        }
        self.take(call, true);
    }

    /// Takes a hold, or waits for a lease. `first`: it has not waited before.
    fn take(&mut self, mut call: Call, first: bool) {
        if first {
            let wait = nanos(self.settings.refill_wait);
            call.until = self.now.saturating_add(wait);
        }
        match self.attempt(&call) {
            Ok(hold) => self.admitted(&call, hold),
            Err(Denied::Refused(refusal)) => self.refused(&call, refusal.reason),
            Err(Denied::Lease | Denied::Short(_)) if self.now >= call.until => self.given_up(&call),
            Err(Denied::Lease | Denied::Short(_)) => {
                let replica = call.replica;
                self.wait(call);
                // Those that were woken together are counted before the first of them asks.
                if first {
                    self.ask_for_more(replica);
                }
            }
        }
    }

    fn attempt(&mut self, call: &Call) -> Result<Hold, Denied> {
        let (now, price) = (self.at(), self.price);
        let engine = Arc::clone(&self.engine);
        let Some(seat) = self.seat(call.replica) else {
            return Err(Denied::Lease);
        };
        let ask = Ask {
            model: None,
            counted_as: call.model,
            priced: true,
            amount: price.hold,
            worst: price.high.max(price.hold),
            more: None,
        };
        let held = engine.admit(Arc::clone(&seat.key), ask, now);
        // Under a rate, callers are heard whether they are admitted or not.
        self.mark(call.replica);
        held.map_err(|(_, denied)| denied)
    }

    /// A call begins to wait for the next answer, or goes on to.
    fn wait(&mut self, mut call: Call) {
        let need = self.price.waits_for();
        self.seen.turns = self.seen.turns.saturating_add(1);
        if !call.has_waited {
            self.seen.waited = self.seen.waited.saturating_add(1);
        }
        (call.has_waited, call.waits) = (true, true);
        let (replica, until) = (call.replica, call.until);
        let id = self.number();
        self.calls.insert(id, call);
        if let Some(seat) = self.seat(replica) {
            seat.waiters.push(id);
            seat.need = seat.need.saturating_add(need.nanos());
        }
        // Each turn is a wait of its own, with what is left of its time.
        self.push(until, Event::GiveUp(id));
    }

    /// Asks the store, unless a message is on its way: its answer is waited for.
    fn ask_for_more(&mut self, replica: u32) {
        let idle = self
            .seat(replica)
            .is_some_and(|seat| !seat.line.is_in_flight());
        if idle {
            self.send(replica, Give::Spare, Way::Alone, 0);
        }
    }

    /// An answer came: whoever waits tries again.
    pub(super) fn wake(&mut self, replica: u32) {
        let Some(seat) = self.seat(replica) else {
            return;
        };
        let waiters = std::mem::take(&mut seat.waiters);
        seat.need = 0;
        for id in waiters {
            let Some(mut call) = self.calls.remove(&id) else {
                continue;
            };
            (call.waits, call.answered) = (false, true);
            self.seen.events = self.seen.events.saturating_add(1);
            self.take(call, false);
        }
        if self.seat(replica).is_some_and(|seat| seat.need > 0) {
            self.ask_for_more(replica);
        }
    }

    /// A call's time to wait is over.
    pub(super) fn give_up(&mut self, id: u64) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        let need = self.price.waits_for();
        if call.waits
            && let Some(seat) = self.seat(call.replica)
        {
            seat.need = seat.need.saturating_sub(need.nanos()).max(0);
        }
        self.given_up(&call);
    }

    fn given_up(&mut self, call: &Call) {
        let reason = if call.answered {
            Reason::InsufficientBalance
        } else {
            Reason::StateUnavailable
        };
        self.refused(call, reason);
    }

    fn admitted(&mut self, call: &Call, hold: Hold) {
        self.seen.admitted = self.seen.admitted.saturating_add(1);
        if !call.in_rate {
            self.seen.admitted_above_rate = self.seen.admitted_above_rate.saturating_add(1);
        }
        let waited = self.now.saturating_sub(call.came);
        if call.loads {
            self.seen.loads_waited.add(waited);
        } else if call.has_waited {
            self.seen.waits.add(waited);
        }
        let now = self.now;
        let age = self
            .seat(call.replica)
            .map(|seat| now.saturating_sub(seat.known_at));
        if let Some(age) = age {
            self.seen.ages.add(age);
        }
        self.seen.exposure = self.seen.exposure.max(self.engine.overshoot_bound());
        self.back_in_business();
        self.truth.held = self.truth.held.saturating_add(hold.amount());
        let open = Open {
            hold,
            replica: call.replica,
            cost: call.cost,
        };
        let slot = self.keep(open);
        let ends = self.now.saturating_add(self.length());
        self.push(ends, Event::End(slot));
    }

    fn keep(&mut self, open: Open) -> u32 {
        let free = self.free.pop();
        let at = free.and_then(|slot| usize::try_from(slot).ok());
        if let (Some(slot), Some(place)) = (free, at.and_then(|at| self.open.get_mut(at))) {
            *place = Some(open);
            return slot;
        }
        self.open.push(Some(open));
        u32::try_from(self.open.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// A call is over.
    pub(super) fn end(&mut self, slot: u32) {
        let at = usize::try_from(slot).ok();
        let open = at
            .and_then(|at| self.open.get_mut(at))
            .and_then(Option::take);
        let Some(Open {
            hold,
            replica,
            cost,
        }) = open
        else {
            return;
        };
        self.free.push(slot);
        self.truth.held = self.truth.held.saturating_sub(hold.amount());
        self.truth.spent = self.truth.spent.saturating_add(cost);
        let counts = Counts::default()
            .with(Meter::Request, 1)
            .with(Meter::Input, 1_000)
            .with(Meter::Output, 200);
        hold.settle(cost, Certainty::Exact, &counts);
        self.mark(replica);
    }

    /// Takes note of whether a replica has something to tell in its next round.
    fn mark(&mut self, replica: u32) {
        if self.engine.take_dirty().is_empty() {
            return;
        }
        if let Some(seat) = self.seat(replica) {
            seat.dirty = true;
            self.schedule(replica);
        }
    }

    fn refused(&mut self, call: &Call, reason: Reason) {
        let left = self.truth.left();
        let enough = left >= self.price.hold.max(Amount::from_nanos(1));
        let seen = &mut self.seen;
        let count = match reason {
            Reason::QpsExceeded if call.in_rate => &mut seen.refused_below_rate,
            Reason::QpsExceeded => &mut seen.refused_above_rate,
            Reason::StateUnavailable => &mut seen.refused_unanswered,
            _ if enough => &mut seen.refused_with_money,
            _ => &mut seen.refused_without,
        };
        *count = count.saturating_add(1);
        if matches!(
            reason,
            Reason::InsufficientBalance | Reason::AccountOverdue | Reason::StateUnavailable
        ) {
            self.drying(left);
        }
    }

    /// Whether one limiter for all replicas would admit a call now.
    fn one_limiter(&self) -> bool {
        self.limiter.as_ref().is_none_or(|(gcra, rate)| {
            let now = Monotonic::from_nanos(self.now);
            gcra.take(*rate, now).is_ok()
        })
    }

    fn cost(&mut self) -> Amount {
        let (low, high) = (self.price.low.nanos(), self.price.high.nanos());
        let width = u64::try_from(high.saturating_sub(low)).unwrap_or(0);
        let more = self.random.below(width.saturating_add(1));
        Amount::from_nanos(low.saturating_add(i64::try_from(more).unwrap_or(0)))
    }

    fn model(&mut self) -> ModelId {
        let count = u64::try_from(self.models.len()).unwrap_or(0);
        let place = usize::try_from(self.random.below(count)).unwrap_or(0);
        self.models.get(place).copied().unwrap_or(ModelId::NONE)
    }

    /// How long a call takes.
    fn length(&mut self) -> u64 {
        let mean = real(nanos(self.scene.deployment.call_time)) / 1e9;
        nanos(seconds(mean * (0.5 + self.random.unit()))).max(1)
    }
}

/// How an account that runs dry is watched.
impl World<'_> {
    /// A call was refused for want of money, of which there is so much left.
    fn drying(&mut self, left: Amount) {
        if self.scene.play != super::Play::Dry || self.drought.recharged.is_some() {
            return;
        }
        let now = self.now;
        if self.drought.began.is_none() {
            self.drought.began = Some(now);
            self.drought.left = Some(left);
            self.counting_since = None;
            self.begin();
            // The first one counts as well.
            self.seen.calls = 1;
            if left >= self.price.hold {
                self.seen.refused_with_money = 1;
            } else {
                self.seen.refused_without = 1;
            }
        }
        if left < self.price.hold.max(Amount::from_nanos(1)) && self.drought.until_dry.is_none() {
            let began = self.drought.began.unwrap_or(now);
            self.drought.until_dry = Some(Duration::from_nanos(now.saturating_sub(began)));
        }
    }

    /// The recharge's command has come: what was counted until now is the drought.
    pub(super) fn end_of_drought(&mut self) {
        if self.drought.began.is_some() {
            let mut seen = self.seen.clone();
            let since = self.counting_since.unwrap_or(self.now);
            seen.nanos = self.now.saturating_sub(since);
            self.drought.seen = seen;
        }
    }

    /// A call was admitted.
    fn back_in_business(&mut self) {
        if let Some(recharged) = self.drought.recharged
            && self.drought.back.is_none()
        {
            let since = self.now.saturating_sub(recharged);
            self.drought.back = Some(Duration::from_nanos(since));
        }
    }
}
