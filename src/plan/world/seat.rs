//! A replica's side of the simulated account: loading it, its rounds, letting it go.

use std::sync::Arc;

use super::super::number::{nanos, real, seconds};
use super::shop::Shop;
use super::{Event, World, name, now_at, tasks};
use crate::clock::{Hour, Now, Timestamp};
use crate::engine::{Account, Engine, Key};
use crate::id::{AccountId, KeyId, ReplicaId};
use crate::local::counters::Counters;
use crate::policy::Policy;
use crate::store::{KeyRecord, Opened, Publish, Published};
use crate::sync::ROUNDS_PER_LOOK;
use crate::sync::line::{Give, Line, Own, rules};

/// Where a replica stands with the account.
#[derive(Debug)]
pub(super) enum Place {
    /// It does not have it.
    Away,
    /// It is loading it; these calls wait, with when each has found its key.
    Loading(Loading),
    /// It has it.
    Here(Box<Seat>),
}

#[derive(Debug, Default)]
pub(super) struct Loading {
    pub(super) opened: Option<Box<Opened>>,
    pub(super) calls: Vec<(u64, u64)>,
}

/// A replica that has the account.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) id: ReplicaId,
    pub(super) account: Arc<Account>,
    pub(super) key: Arc<Key>,
    pub(super) line: Line,
    /// Calls that wait for an answer, some of which may have given up, and what they need together.
    pub(super) waiters: Vec<u64>,
    pub(super) need: i64,
    /// It waits in the engine's list of accounts to publish.
    pub(super) dirty: bool,
    /// When its next round comes, if it has anything to do in it.
    pub(super) tick: Option<u64>,
    /// Its rounds are so much later than full periods, and the first look is that many rounds later.
    pub(super) phase: u64,
    pub(super) first_look: u64,
    pub(super) sent: Option<Sent>,
    pub(super) observing: bool,
    /// As in `sync`'s entries: since when nobody need look for silent replicas, or tell that a limit is used up.
    pub(super) looked: Option<u64>,
    pub(super) crowded: Option<u64>,
    /// When the store said what is known here.
    pub(super) known_at: u64,
    /// The hour of its latest row in the store.
    pub(super) hour: Option<Hour>,
}

/// A message on its way, and how it is to be said again.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) message: Publish,
    pub(super) give: Give,
    pub(super) way: Way,
    pub(super) tries: u32,
    /// How long after its own answer the whole pipeline's are there.
    pub(super) rest: u64,
    pub(super) answer: Option<Published>,
    pub(super) answered_at: u64,
}

/// How a message goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With others, in a round.
    Round,
    /// On its own.
    Alone,
}

impl Seat {
    pub(super) fn is_look(&self, at: u64, period: u64) -> bool {
        let round = at.saturating_sub(self.phase).checked_div(period);
        let every = u64::from(ROUNDS_PER_LOOK);
        round.is_some_and(|n| n.wrapping_add(self.first_look).is_multiple_of(every))
    }

    /// When its next round after `now` is.
    fn next_round(&self, now: u64, period: u64) -> u64 {
        let since = now.saturating_sub(self.phase);
        let round = since.checked_div(period).unwrap_or(0).saturating_add(1);
        self.phase.saturating_add(round.saturating_mul(period))
    }

    /// And its next round that looks at everything, not before `from`.
    fn next_look(&self, from: u64, period: u64) -> u64 {
        let mut at = self.next_round(from, period);
        for _ in 0..ROUNDS_PER_LOOK {
            if self.is_look(at, period) {
                break;
            }
            at = at.saturating_add(period);
        }
        at
    }
}

impl World<'_> {
    /// An account that has been there for long: who served it, and who has it loaded.
    pub(super) fn furnish(&mut self) {
        let age = f64::from(self.scene.deployment.days) * 86_400.0;
        let unload = self.settings.unload_after.as_secs_f64();
        for replica in 0..self.scene.deployment.replicas {
            let rate = self.scene.rate * self.scene.places.part(replica);
            // How long ago it was called last.
            let last = self.random.until_next(1.0 / rate.max(1e-12));
            if last > age.max(unload) {
                continue;
            }
            let last_nanos = nanos(seconds(last.min(real(super::BEGIN) / 1e9)));
            let before = now_at(super::BEGIN.saturating_sub(last_nanos));
            let id = replica_id(replica);
            self.shop.remember(&id, Shop::ground(before).now_ms);
            if last < unload
                && let Some(opened) = self.shop.open(&id, before.wall.hour())
            {
                self.sit(replica, &opened, before);
            }
        }
    }

    /// The store reads the account for a replica.
    pub(super) fn open_account(&mut self, replica: u32) {
        let hour = self.at().wall.hour();
        let opened = self.shop.open(&replica_id(replica), hour);
        let spent = opened
            .as_ref()
            .is_some_and(|opened| opened.snapshot.spend.is_positive());
        let mut done = self.shop.serve(self.now, self.wire.costs.open_us);
        self.seen.opens = self.seen.opens.saturating_add(1);
        if spent {
            // A word in the feed, for a replica that may have died before it said it.
            self.seen.opens_spent = self.seen.opens_spent.saturating_add(1);
            done = done.saturating_add(self.wire.half.saturating_mul(2));
        }
        self.push(done.saturating_add(self.wire.half), Event::Opened(replica));
        let place = usize::try_from(replica)
            .ok()
            .and_then(|at| self.places.get_mut(at));
        if let Some(Place::Loading(loading)) = place {
            loading.opened = opened.map(Box::new);
        }
    }

    /// A replica has what it asked for.
    pub(super) fn opened(&mut self, replica: u32) {
        let place = usize::try_from(replica)
            .ok()
            .and_then(|at| self.places.get_mut(at));
        let Some(place) = place else { return };
        let Place::Loading(loading) = std::mem::replace(place, Place::Away) else {
            return;
        };
        let Some(opened) = loading.opened else { return };
        self.sit(replica, &opened, self.at());
        // It is remembered, with the end of its ledger.
        let task = self.task(Some(replica), tasks::tail(tasks::Purpose::Refresh));
        self.push(self.now, Event::GoOn(task));
        for (call, ready) in loading.calls {
            self.find_keys(call, ready);
        }
    }

    /// A replica takes the account up: `sync`'s `load` and `take_up`, without a data directory.
    fn sit(&mut self, replica: u32, opened: &Opened, now: Now) {
        let id = name(&format!("a-{replica}"), AccountId::new);
        let (account, line) = take_up(&self.engine, &id, opened, &self.policy, now);
        let key = self
            .engine
            .load_key(None, &account, key_record(id, self.key.clone()));
        let period = nanos(self.scene.tide.period).max(1);
        let phase = self.random.below(period);
        let first_look = self.random.below(ROUNDS_PER_LOOK.into());
        let seat = Seat {
            id: replica_id(replica),
            account,
            key,
            line,
            waiters: Vec::new(),
            need: 0,
            dirty: false,
            tick: None,
            phase,
            first_look,
            sent: None,
            observing: false,
            looked: None,
            crowded: None,
            known_at: now.mono.nanos(),
            hour: None,
        };
        self.put(replica, Place::Here(Box::new(seat)));
        self.schedule(replica);
    }

    /// Sees to it that a replica's next round comes, if there is anything to do in it.
    pub(super) fn schedule(&mut self, replica: u32) {
        let period = nanos(self.scene.tide.period).max(1);
        let (now, unload) = (self.now, self.settings.unload_after);
        let at = self.at();
        let Some(seat) = self.seat(replica) else {
            return;
        };
        let due = if seat.dirty {
            seat.next_round(now, period)
        } else if seat.line.at_rest(&seat.account) {
            let left = unload.saturating_sub(seat.line.rested(at));
            seat.next_look(now.saturating_add(nanos(left)), period)
        } else {
            seat.next_look(now, period)
        };
        if seat.tick.is_none_or(|tick| tick > due || tick <= now) {
            seat.tick = Some(due);
            self.push(due, Event::Tick(replica));
        }
    }

    /// A replica's round, as far as this account has a part in it.
    pub(super) fn tick(&mut self, replica: u32) {
        let (now, at) = (self.now, self.at());
        let period = nanos(self.scene.tide.period).max(1);
        let unload = self.settings.unload_after;
        let (engine, times) = (Arc::clone(&self.engine), *self.times());
        let Some(seat) = self.seat(replica) else {
            return;
        };
        if seat.tick != Some(now) {
            // An earlier one came first.
            return;
        }
        seat.tick = None;
        let look = seat.is_look(now, period);
        let Seat { account, line, .. } = seat;
        if look && line.rested(at) >= unload && line.at_rest(account) && account.try_retire() {
            engine.unload(&Arc::clone(account));
            self.put(replica, Place::Away);
            return;
        }
        let mut says = seat.dirty;
        let mut quiet = false;
        if look {
            let Seat { account, line, .. } = seat;
            line.collect(account, &engine, at);
            quiet = line.all_said();
            line.forget(account, at);
            says = line.has_news(account, &times, at);
        }
        seat.dirty = false;
        if says {
            if look && quiet {
                self.seen.quiet = self.seen.quiet.saturating_add(1);
            }
            self.send(replica, Give::Spare, Way::Round, 0);
        }
        self.schedule(replica);
    }
}

/// `Sync::take_up` and `Line::new`.
fn take_up(
    engine: &Engine,
    id: &AccountId,
    opened: &Opened,
    policy: &Policy,
    now: Now,
) -> (Arc<Account>, Line) {
    let counters: &Arc<Counters> = engine.counters();
    let taken = counters.take_up(id);
    let snapshot = &opened.snapshot;
    let rules = rules(&snapshot.book, snapshot.spend, policy.clone(), now);
    let hour = now.wall.hour();
    let published = engine.own_cells(hour, &opened.usage);
    let account = engine.load(taken, rules, published.into_iter());
    account.forget_before(hour);
    let cells = account.cells().into_iter().map(|cell| {
        let (id, model) = (cell.id(), cell.row().model.clone());
        (id, model, cell.read())
    });
    let own = Own::published(opened, cells.collect());
    let mut line = Line::new(opened, own, now);
    line.go_by(&account, policy.clone(), now);
    (account, line)
}

fn key_record(account: AccountId, id: KeyId) -> KeyRecord {
    KeyRecord {
        id,
        account,
        digest: String::new(),
        name: String::new(),
        hint: String::new(),
        created: Timestamp::from_nanos(0),
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        budgets: Vec::new(),
        service: String::new(),
    }
}

pub(super) fn replica_id(replica: u32) -> ReplicaId {
    name(&format!("r-{replica}"), ReplicaId::new)
}
