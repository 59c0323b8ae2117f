//! One account, simulated: its calls, all its replicas and its part of the store, in virtual time. What decides here is what decides
//! in production: the [`Engine`], each replica's [`Line`](crate::sync::line::Line), the store's [`Desk`]. What drives them repeats the steps of `sync::drive` and
//! `gate` one by one, with events in the place of tasks and timers: rounds, looks, calls that wait, what answers ask for.
//!
//! Accounts meet only in what they cost: other accounts' messages stretch the rounds and keep Redis busy. That is given from outside
//! ([`Tide`]), so that each account is simulated on its own, and for as long as it takes to see it well.
//!
//! Nothing fails here: no message is lost and no replica dies. What that does is the matter of the fault simulator's tests, not of a
//! forecast of load.

mod calls;
mod event;
mod publish;
mod seat;
mod seen;
mod shop;
mod tasks;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::costs::Costs;
use super::deployment::{CallPrice, Deployment};
use super::histogram::Histogram;
use super::number::{nanos, real_money, seconds, whole_money};
use super::random::Random;
use super::spread::Places;
use crate::clock::{Monotonic, Now, Timestamp};
use crate::engine::{Bounds, Engine, Gcra, Hold, ModelId, Rate};
use crate::id::{AccountId, KeyId, ModelName};
use crate::ledger::Book;
use crate::local::counters::Counters;
use crate::money::Amount;
use crate::policy::Policy;
use crate::store::desk::Desk;
use crate::sync::{Settings, Times};
use calls::Call;
use event::{Due, Event, Told};
use seat::{Place, Seat};
pub(super) use seen::Seen;
use shop::Shop;
use tasks::Task;

/// When a simulation begins, in running time: there is room before it for what happened before.
const BEGIN: u64 = 172_800_000_000_000;

/// And by the time of day.
const WALL: i64 = 1_790_000_000_000_000_000;

/// How long a billing backend takes to see that an account runs low.
const BACKEND: Duration = Duration::from_secs(1);

/// How long an account that has run dry is watched before the next recharge comes: calls in flight end and leave what they did not cost,
/// and then it is dry for a while. A minute shows enough.
const DRY_FOR: Duration = Duration::from_secs(3);
const DRY_MAX: Duration = Duration::from_secs(60);

/// And how long after it.
const RECHARGED_FOR: Duration = Duration::from_secs(2);

/// What other accounts do to this one's messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tide {
    /// From one round to the next: the interval, or longer if a round takes longer.
    pub(super) period: Duration,
    /// Messages of all accounts in one replica's round, in the mean.
    pub(super) round: f64,
    /// How much longer the server takes for everything, as it is busy with the others; 0 is a server that takes no time.
    pub(super) slow: f64,
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Play {
    /// An account that has been there for long.
    Steady,
    /// Nothing is loaded, and all counts from the first call on.
    Cold,
    /// An account whose money runs out, and that is recharged a while later.
    Dry,
}

/// One account and its surroundings.
#[derive(Clone, Debug)]
pub(super) struct Scene<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) places: &'a Places,
    pub(super) tide: Tide,
    /// Its calls per second.
    pub(super) rate: f64,
    /// Which part of the seed's chance it has.
    pub(super) part: u64,
    pub(super) play: Play,
    /// How long it is counted, at most.
    pub(super) measured: Duration,
    /// How many steps there is time for.
    pub(super) events_max: u64,
}

/// Times and costs between a replica and the store.
#[derive(Clone, Copy, Debug)]
struct Wire<'a> {
    costs: &'a Costs,
    /// One way.
    half: u64,
    /// For how long a whole pipeline of a round keeps the server, and how many go before, in the mean.
    pipeline: f64,
    pipelines: f64,
}

/// Messages that go out at once: what `store::redis` sends in one pipeline.
pub(super) const PIPELINE: f64 = 256.0;

/// A call in flight.
#[derive(Debug)]
struct Open {
    hold: Hold,
    replica: u32,
    cost: Amount,
}

/// What the account really has, whoever knows of it.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    credit: Amount,
    spent: Amount,
    held: Amount,
}

impl Truth {
    const fn left(&self) -> Amount {
        let left = self.credit.saturating_sub(self.spent);
        left.saturating_sub(self.held)
    }
}

/// How an account ran dry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Drought {
    /// What it had when the first call was refused for want of money.
    pub(super) left: Option<Amount>,
    /// From then until the first moment at which no call could have been paid; `None` if that did not come.
    pub(super) until_dry: Option<Duration>,
    /// What was counted from the first refusal to the recharge.
    pub(super) seen: Seen,
    /// From the recharge's command to the first call that was admitted.
    pub(super) back: Option<Duration>,
    /// And to the replicas that have the account.
    pub(super) changes: Histogram,
    began: Option<u64>,
    recharged: Option<u64>,
}

/// The simulation of one account.
pub(super) struct World<'a> {
    scene: &'a Scene<'a>,
    settings: Settings,
    policy: Policy,
    price: CallPrice,
    recharge: Amount,
    wire: Wire<'a>,
    random: Random,
    now: u64,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    engine: Arc<Engine>,
    key: KeyId,
    models: Vec<ModelId>,
    shop: Shop,
    places: Vec<Place>,
    open: Vec<Option<Open>>,
    free: Vec<u32>,
    calls: HashMap<u64, Call>,
    tasks: HashMap<u64, Task>,
    numbers: u64,
    limiter: Option<(Gcra, Rate)>,
    truth: Truth,
    recharging: bool,
    /// The version of the last recharge, and when its command came.
    changed: Option<(u64, u64)>,
    seen: Seen,
    counting_since: Option<u64>,
    drought: Drought,
}

/// Simulates an account.
pub(super) fn simulate(scene: &Scene<'_>) -> (Seen, Drought) {
    let mut world = World::new(scene);
    world.run();
    (world.seen, world.drought)
}

impl<'a> World<'a> {
    fn new(scene: &'a Scene<'a>) -> Self {
        let deployment = scene.deployment;
        let mut random = Random::new(deployment.seed, scene.part);
        let policy = deployment.policy();
        let price = deployment.call();
        let recharge = deployment.recharge(scene.rate);
        let credit = first_credit(scene, recharge, &mut random);
        let engine = Engine::new([7; 16], Bounds::default(), Counters::in_memory());
        let names = (0..deployment.models).map(|n| name(&format!("model-{n}"), ModelName::new));
        let names: Vec<ModelName> = names.collect();
        let models = names.iter().filter_map(|name| engine.model(name.as_str()));
        let models = models.collect();
        let key = name("key", KeyId::new);
        let desk = desk(credit, &policy);
        let wire = Wire::new(scene);
        Self {
            settings: deployment.sync,
            price,
            recharge,
            wire,
            random,
            now: BEGIN,
            queue: BinaryHeap::new(),
            order: 0,
            engine,
            shop: Shop::new(desk, scene.tide.slow, key.clone(), names),
            key,
            models,
            places: (0..deployment.replicas).map(|_| Place::Away).collect(),
            open: Vec::new(),
            free: Vec::new(),
            calls: HashMap::new(),
            tasks: HashMap::new(),
            numbers: 0,
            limiter: policy.qps.map(|qps| {
                let rate = Rate::per_second(qps, policy.effective_burst());
                (Gcra::default(), rate)
            }),
            policy,
            truth: Truth {
                credit,
                ..Truth::default()
            },
            recharging: false,
            changed: None,
            seen: Seen::default(),
            counting_since: None,
            drought: Drought::default(),
            scene,
        }
    }

    fn run(&mut self) {
        let cold = self.scene.play == Play::Cold;
        if !cold {
            self.furnish();
        }
        let warm_up = match self.scene.play {
            Play::Cold => Duration::ZERO,
            // A second shows how fast money goes; leases follow from it.
            Play::Dry => Duration::from_secs(2),
            // Who was not called for so long has given its lease back, and who was, has one.
            Play::Steady => self.times().idle.saturating_add(Duration::from_secs(2)),
        };
        let begin = BEGIN.saturating_add(nanos(warm_up));
        self.push(begin, Event::Begin);
        let first = self.next_call();
        self.push(first, Event::Call);
        if self.scene.play == Play::Dry {
            self.plan_recharge(begin);
        }
        let warm_max = self.scene.events_max.div_euclid(3);
        while let Some(Reverse(due)) = self.queue.pop() {
            if self.is_over(due.at) {
                break;
            }
            self.now = due.at;
            self.seen.events = self.seen.events.saturating_add(1);
            if self.counting_since.is_none() && self.seen.events >= warm_max {
                self.seen.cut = true;
                self.begin();
            }
            self.happen(due.event);
        }
        self.finish();
    }

    fn is_over(&mut self, at: u64) -> bool {
        let end = match (self.scene.play, self.drought.recharged) {
            (Play::Dry, Some(recharged)) => Some(recharged.saturating_add(nanos(RECHARGED_FOR))),
            (Play::Dry, None) => None,
            _ => self
                .counting_since
                .map(|since| since.saturating_add(nanos(self.scene.measured))),
        };
        if let Some(end) = end.filter(|end| at >= *end) {
            self.now = end;
            return true;
        }
        if self.seen.events >= self.scene.events_max {
            self.seen.cut = true;
            return true;
        }
        false
    }

    fn finish(&mut self) {
        if self.counting_since.is_none() {
            self.begin();
        }
        let since = self.counting_since.unwrap_or(self.now);
        self.seen.nanos = self.now.saturating_sub(since);
        self.seen.overshoot = self.engine.overshoot_seen();
        if self.drought.recharged.is_some() {
            self.drought.changes = self.seen.changes.clone();
        }
        if self.drought.recharged.is_none() {
            self.end_of_drought();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Call => self.call(),
            Event::Loaded(call) => self.loaded_call(call),
            Event::GiveUp(call) => self.give_up(call),
            Event::End(slot) => self.end(slot),
            Event::Tick(replica) => self.tick(replica),
            Event::Open(replica) => self.open_account(replica),
            Event::Opened(replica) => self.opened(replica),
            Event::Arrive(replica) => self.arrive(replica),
            Event::Answer(replica) => self.answer(replica),
            Event::Told(replica, told) => self.told(replica, told),
            Event::Deed(task) => self.deed(task),
            Event::GoOn(task) => self.go_on(task),
            Event::Begin => self.begin(),
        }
    }

    /// Counting begins, if it has not.
    fn begin(&mut self) {
        if self.counting_since.is_some() {
            return;
        }
        self.counting_since = Some(self.now);
        self.seen = Seen {
            events: self.seen.events,
            cut: self.seen.cut,
            ..Seen::default()
        };
    }

    fn push(&mut self, at: u64, event: Event) {
        self.order = self.order.saturating_add(1);
        let order = self.order;
        self.queue.push(Reverse(Due { at, order, event }));
    }

    fn number(&mut self) -> u64 {
        self.numbers = self.numbers.saturating_add(1);
        self.numbers
    }

    const fn at(&self) -> Now {
        now_at(self.now)
    }

    const fn times(&self) -> &Times {
        &self.settings.times
    }

    /// When the next call comes.
    fn next_call(&mut self) -> u64 {
        let wait = self.random.until_next(1.0 / self.scene.rate);
        self.now.saturating_add(nanos(seconds(wait)))
    }

    fn seat(&mut self, replica: u32) -> Option<&mut Seat> {
        let place = usize::try_from(replica).ok()?;
        match self.places.get_mut(place) {
            Some(Place::Here(seat)) => Some(seat),
            _ => None,
        }
    }

    fn put(&mut self, replica: u32, place: Place) {
        let slot = usize::try_from(replica)
            .ok()
            .and_then(|at| self.places.get_mut(at));
        if let Some(slot) = slot {
            *slot = place;
        }
    }

    /// A recharge that comes when the account has been dry for a while.
    fn plan_recharge(&mut self, begin: u64) {
        let spends = self.scene.rate * real_money(self.scene.deployment.price.nanos());
        let lasts = seconds(real_money(self.truth.credit.nanos()) / spends.max(1.0));
        let at = begin.max(BEGIN.saturating_add(nanos(lasts)));
        self.recharging = true;
        let id = self.task(None, tasks::recharge());
        let ending = self.scene.deployment.call_time.saturating_mul(2);
        let dry = DRY_FOR.saturating_add(ending).min(DRY_MAX);
        self.push(at.saturating_add(nanos(dry)), Event::GoOn(id));
    }
}

/// The two times at a moment of the simulation.
const fn now_at(nanos: u64) -> Now {
    let since = nanos.saturating_sub(BEGIN).cast_signed();
    let before = BEGIN.saturating_sub(nanos).cast_signed();
    Now {
        wall: Timestamp::from_nanos(WALL.saturating_add(since).saturating_sub(before)),
        mono: Monotonic::from_nanos(nanos),
    }
}

impl<'a> Wire<'a> {
    fn new(scene: &Scene<'a>) -> Self {
        let costs = &scene.deployment.costs;
        let round = scene.tide.round;
        Self {
            costs,
            half: nanos(scene.deployment.round_trip).div_euclid(2),
            pipeline: round.clamp(1.0, PIPELINE) * costs.published_us() * scene.tide.slow * 1e3,
            pipelines: (round / PIPELINE).floor(),
        }
    }
}

/// What an account begins with: somewhere between two recharges; or enough for a while, if it is to run dry.
fn first_credit(scene: &Scene<'_>, recharge: Amount, random: &mut Random) -> Amount {
    let all = real_money(recharge.nanos());
    let nanos = match scene.play {
        Play::Cold => all,
        Play::Steady => {
            let low = scene.deployment.recharge_at.map_or(0.0, f64::from) / 100.0;
            all * (low + random.unit())
        }
        // Eight seconds of its calls, and what two hundred calls cost if that is more.
        Play::Dry => {
            let calls = (scene.rate * 8.0).max(200.0);
            calls * real_money(scene.deployment.price.nanos())
        }
    };
    let least = scene.deployment.call().hold;
    Amount::from_nanos(whole_money(nanos)).max(least)
}

/// An account that was opened and recharged once.
fn desk(credit: Amount, policy: &Policy) -> Desk {
    let now = now_at(BEGIN).wall;
    let id = name("account", AccountId::new);
    let mut desk = Desk {
        book: Some(Book::new(id, "USD".into(), "default".into(), now)),
        ..Desk::default()
    };
    if let Some(commit) = tasks::propose(&desk.read(&[]), &tasks::paid_in(credit), policy, now) {
        // The desk is empty: there is nothing that this could conflict with.
        let _stored = desk.commit(&commit, &Shop::ground(now_at(BEGIN)));
    }
    desk
}

/// A name that is one.
fn name<T, E>(text: &str, make: impl Fn(&str) -> Result<T, E>) -> T
where
    E: std::fmt::Debug,
{
    #[expect(
        clippy::expect_used,
        reason = "names of the simulation are letters, digits and dashes"
    )]
    make(text).expect("a name of letters, digits and dashes")
}

#[cfg(test)]
mod tests;
