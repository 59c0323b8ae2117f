//! What takes several words with the store: `Sync::attend`, `seek`, `crowd`, `refresh`, and the commands of a billing backend.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::number::{nanos, real};
use super::shop::Shop;
use super::{Event, Told, World};
use crate::clock::Timestamp;
use crate::ledger::{Action, Applied, Command, apply};
use crate::money::Amount;
use crate::policy::Policy;
use crate::store::{Commit, Scarce, Snapshot, Stored};
use crate::sync::line::Next;

/// As in `sync` and `sync::drive`.
const SCARCE_WAIT: Duration = Duration::from_millis(20);
const CROWD_MAX: Duration = Duration::from_millis(200);

/// One thing after the other, for one replica or for nobody.
#[derive(Debug)]
pub(super) struct Task {
    replica: Option<u32>,
    steps: VecDeque<Step>,
    snapshot: Option<Snapshot>,
}

/// A step.
#[derive(Debug)]
pub(super) enum Step {
    /// A word with the store.
    Ask(Deed),
    /// The others have more of a limit than is their part; with the demand of all.
    Crowd(u64, u64),
    /// The others have what is missing here.
    Seek,
    Pause(Duration),
    /// The ledger looks, unless it does already.
    Observe,
    Observed,
    /// A command is run on the book as it was read.
    Propose(Purpose),
    TakeIn,
    Wake,
    /// A recharge's command comes; and is done.
    Recharge,
    Recharged,
}

/// What is asked of the store.
#[derive(Debug)]
pub(super) enum Deed {
    Tell(Scarce),
    /// The time, and who there is: two words, the first of which is this.
    Time,
    Members,
    Rows,
    Read(Purpose),
    Keys(Purpose),
    Tail(Purpose),
    Commit(Box<Commit>, Purpose),
    Relay,
}

/// What a word belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Observe,
    Refresh,
    /// A recharge, and what follows from one: worked out from how often they come, so not counted here.
    Recharge,
}

/// What an answer asks for.
pub(super) fn attend(next: &Next) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some((rate, places)) = next.crowded {
        steps.push(Step::Crowd(rate, places));
    }
    if next.scarce {
        steps.push(Step::Seek);
    } else if next.shareless {
        steps.push(Step::Pause(SCARCE_WAIT));
    }
    if next.observe {
        steps.push(Step::Observe);
    }
    if next.refresh || next.observe || next.rejoin {
        steps.extend(refresh(Purpose::Refresh));
    }
    steps.push(Step::Wake);
    steps
}

/// A newer book is read, with its keys, and remembered.
pub(super) fn refresh(purpose: Purpose) -> Vec<Step> {
    let mut steps = vec![
        Step::Ask(Deed::Read(purpose)),
        Step::Ask(Deed::Keys(purpose)),
        Step::TakeIn,
    ];
    steps.extend(tail(purpose));
    steps
}

/// The end of a ledger, to be remembered.
pub(super) fn tail(purpose: Purpose) -> Vec<Step> {
    vec![Step::Ask(Deed::Tail(purpose))]
}

/// A billing backend pays in.
pub(super) fn recharge() -> Vec<Step> {
    vec![
        Step::Recharge,
        Step::Ask(Deed::Read(Purpose::Recharge)),
        Step::Propose(Purpose::Recharge),
        Step::Recharged,
    ]
}

/// A recharge.
pub(super) fn paid_in(amount: Amount) -> Command {
    Command {
        idempotency_key: None,
        action: Action::Recharge {
            amount,
            order_id: String::new(),
            priority: 0,
            expires: None,
            note: String::new(),
        },
    }
}

/// What a command makes of a book: `Books::attempt`. `None` if nothing.
pub(super) fn propose(
    read: &Option<Snapshot>,
    command: &Command,
    policy: &Policy,
    now: Timestamp,
) -> Option<Commit> {
    let read = read.as_ref()?;
    let Applied {
        book,
        entries,
        events,
        credit_delta,
    } = apply(&read.book, read.spent(), command, policy, now).ok()?;
    (book != read.book).then_some(Commit {
        expected: read.version,
        book,
        credit_delta,
        entries,
        events,
        claims: Vec::new(),
        restore: None,
    })
}

fn counted(purpose: Purpose) -> u64 {
    u64::from(purpose != Purpose::Recharge)
}

impl World<'_> {
    pub(super) fn task(&mut self, replica: Option<u32>, steps: Vec<Step>) -> u64 {
        let id = self.number();
        let task = Task {
            replica,
            steps: steps.into(),
            snapshot: None,
        };
        self.tasks.insert(id, task);
        id
    }

    /// A task's next steps, up to one that takes time.
    pub(super) fn go_on(&mut self, id: u64) {
        while let Some(step) = self.next_step(id) {
            if self.is_awaited(id, step) {
                return;
            }
        }
        self.tasks.remove(&id);
    }

    fn next_step(&mut self, id: u64) -> Option<Step> {
        self.tasks.get_mut(&id)?.steps.pop_front()
    }

    /// Puts steps before those that are left.
    fn first(&mut self, id: u64, steps: Vec<Step>) {
        if let Some(task) = self.tasks.get_mut(&id) {
            for step in steps.into_iter().rev() {
                task.steps.push_front(step);
            }
        }
    }

    fn replica_of(&self, id: u64) -> Option<u32> {
        self.tasks.get(&id)?.replica
    }

    /// Carries a step out. Whether the task goes on by itself, later.
    fn is_awaited(&mut self, id: u64, step: Step) -> bool {
        match step {
            Step::Ask(deed) => {
                self.first(id, vec![Step::Ask(deed)]);
                self.push(self.now.saturating_add(self.wire.half), Event::Deed(id));
                return true;
            }
            Step::Pause(pause) => {
                self.push(self.now.saturating_add(nanos(pause)), Event::GoOn(id));
                return true;
            }
            Step::Crowd(rate, places) => self.crowd(id, rate, places),
            Step::Seek => self.seek(id),
            Step::Observe => self.observe(id),
            Step::Observed => {
                let seat = self.replica_of(id).and_then(|replica| self.seat(replica));
                if let Some(seat) = seat {
                    seat.observing = false;
                }
            }
            Step::Propose(purpose) => self.propose(id, purpose),
            Step::TakeIn => self.take_in(id),
            Step::Wake => {
                if let Some(replica) = self.replica_of(id) {
                    self.wake(replica);
                    self.schedule(replica);
                }
            }
            Step::Recharge => self.recharge_comes(),
            Step::Recharged => self.recharging = false,
        }
        false
    }

    fn crowd(&mut self, id: u64, rate: u64, places: u64) {
        let now = self.now;
        let pause = self.times().interval.min(CROWD_MAX);
        let pause = nanos(pause).div_euclid(8);
        let seat = self.replica_of(id).and_then(|replica| self.seat(replica));
        let Some(seat) = seat else { return };
        if seat
            .crowded
            .is_none_or(|at| now.saturating_sub(at) >= pause)
        {
            seat.crowded = Some(now);
            let what = Scarce::Shares(rate, places);
            self.first(id, vec![Step::Ask(Deed::Tell(what))]);
        }
    }

    fn seek(&mut self, id: u64) {
        let now = self.now;
        let interval = nanos(self.times().interval);
        // A replica that has just started does not know who could have spoken.
        let heard_long = self.scene.play != super::Play::Cold
            || now.saturating_sub(super::BEGIN) >= nanos(self.times().lease);
        let seat = self.replica_of(id).and_then(|replica| self.seat(replica));
        let Some(seat) = seat else { return };
        let mut steps = Vec::new();
        if seat
            .looked
            .is_none_or(|at| now.saturating_sub(at) >= interval)
        {
            seat.looked = Some(now);
            steps.push(Step::Ask(Deed::Tell(Scarce::Money)));
            if heard_long {
                let deeds = [Deed::Time, Deed::Members, Deed::Rows];
                steps.extend(deeds.map(Step::Ask));
            }
        }
        steps.push(Step::Pause(SCARCE_WAIT));
        self.first(id, steps);
    }

    fn observe(&mut self, id: u64) {
        let seat = self.replica_of(id).and_then(|replica| self.seat(replica));
        let Some(seat) = seat.filter(|seat| !seat.observing) else {
            return;
        };
        seat.observing = true;
        let steps = vec![
            Step::Ask(Deed::Read(Purpose::Observe)),
            Step::Propose(Purpose::Observe),
            Step::Observed,
        ];
        self.first(id, steps);
    }

    fn propose(&mut self, id: u64, purpose: Purpose) {
        let command = match purpose {
            Purpose::Recharge => paid_in(self.recharge),
            Purpose::Observe | Purpose::Refresh => Command::observe(),
        };
        let now = self.at().wall;
        let read = self
            .tasks
            .get_mut(&id)
            .and_then(|task| task.snapshot.take());
        if let Some(commit) = propose(&read, &command, &self.policy, now) {
            let deed = Deed::Commit(Box::new(commit), purpose);
            self.first(id, vec![Step::Ask(deed)]);
        }
    }

    /// A newer book is taken up.
    fn take_in(&mut self, id: u64) {
        let (now, policy, changed) = (self.at(), self.policy.clone(), self.changed);
        let task = self.tasks.get_mut(&id);
        let Some((replica, snapshot)) =
            task.and_then(|task| Some((task.replica?, task.snapshot.take()?)))
        else {
            return;
        };
        let version = snapshot.version;
        let Some(seat) = self.seat(replica) else {
            return;
        };
        let newer = version > seat.line.known.version;
        seat.line.follow(&seat.account, snapshot, policy, now);
        if let Some((_, since)) = changed.filter(|(at, _)| newer && version >= *at) {
            let took = now.mono.nanos().saturating_sub(since);
            self.seen.changes.add(took);
        }
        self.schedule(replica);
    }

    fn recharge_comes(&mut self) {
        self.seen.recharges = self.seen.recharges.saturating_add(1);
        self.changed = Some((u64::MAX, self.now));
        if self.scene.play == super::Play::Dry {
            self.end_of_drought();
            self.drought.recharged = Some(self.now);
        }
    }

    /// A task's word is with the store.
    pub(super) fn deed(&mut self, id: u64) {
        let Some(Step::Ask(deed)) = self.next_step(id) else {
            return self.go_on(id);
        };
        let takes = self.carry_out(id, deed);
        let done = self.shop.serve(self.now, takes);
        self.push(done.saturating_add(self.wire.half), Event::GoOn(id));
    }

    /// Does it, and says how many microseconds it takes the server.
    fn carry_out(&mut self, id: u64, deed: Deed) -> f64 {
        let costs = self.wire.costs;
        match deed {
            Deed::Tell(what) => {
                self.seen.tells = self.seen.tells.saturating_add(1);
                let told = match what {
                    Scarce::Money => Told::Money,
                    Scarce::Shares(rate, places) => Told::Shares(rate, places),
                };
                costs.tell_us + self.broadcast(told)
            }
            Deed::Time | Deed::Members => costs.ping_us,
            Deed::Rows => self.lapse(),
            Deed::Read(purpose) => {
                self.seen.reads = self.seen.reads.saturating_add(counted(purpose));
                let snapshot = self.shop.desk.read(&[]);
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.snapshot = snapshot;
                }
                costs.read_us
            }
            Deed::Keys(purpose) => {
                self.seen.keys = self.seen.keys.saturating_add(counted(purpose));
                costs.keys_us
            }
            Deed::Tail(purpose) => {
                self.seen.tails = self.seen.tails.saturating_add(counted(purpose));
                costs.tail_us
            }
            Deed::Commit(commit, purpose) => self.commit(id, &commit, purpose),
            Deed::Relay => {
                self.seen.relays = self.seen.relays.saturating_add(1);
                costs.relay_us
            }
        }
    }

    fn commit(&mut self, id: u64, commit: &Commit, purpose: Purpose) -> f64 {
        let ground = Shop::ground(self.at());
        match self.shop.desk.commit(commit, &ground) {
            Ok(Stored::At(version)) => {
                if purpose == Purpose::Recharge {
                    self.truth.credit = self.truth.credit.saturating_add(commit.credit_delta);
                    let since = self.changed.map_or(self.now, |(_, since)| since);
                    self.changed = Some((version, since));
                } else {
                    self.seen.commits = self.seen.commits.saturating_add(1);
                }
                if !commit.events.is_empty() {
                    self.first(id, vec![Step::Ask(Deed::Relay)]);
                }
                let told = self.broadcast(Told::Version(version));
                self.wire.costs.commit_with(told)
            }
            // Somebody was faster, or the ledger ends elsewhere: it is read again.
            Ok(Stored::Conflict) | Err(_) => {
                let again = vec![Step::Ask(Deed::Read(purpose)), Step::Propose(purpose)];
                self.first(id, again);
                self.wire.costs.read_us
            }
        }
    }

    /// Looks for silent replicas and takes back what they have. They were read a moment before; nobody spoke in between.
    fn lapse(&mut self) -> f64 {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (lease, retire) = (ms(self.times().lease), ms(self.times().retire));
        let rows = u64::try_from(self.shop.desk.rows.len()).unwrap_or(u64::MAX);
        let ground = Shop::ground(self.at());
        let lapsed = self.shop.desk.lapse(lease, retire, &ground);
        let gone = lapsed.lapsed.saturating_add(lapsed.retired);
        let seen = &mut self.seen;
        seen.looks = seen.looks.saturating_add(1);
        seen.rows_looked_at = seen.rows_looked_at.saturating_add(rows);
        seen.lapsed = seen.lapsed.saturating_add(gone);
        let costs = self.wire.costs;
        costs.read_us + real(rows) * costs.row_read_us + real(gone) * costs.lapse_us
    }

    /// Tells every replica. Returns how long that takes the server.
    fn broadcast(&mut self, told: Told) -> f64 {
        let replicas = self.scene.deployment.replicas;
        let each = self.wire.costs.delivery_us;
        for replica in 0..replicas {
            if self.seat(replica).is_some() {
                let after = each * f64::from(replica) * 1e3 * self.scene.tide.slow;
                let after = super::super::number::whole(after).saturating_add(self.wire.half);
                self.push(self.now.saturating_add(after), Event::Told(replica, told));
            }
        }
        each * f64::from(replicas)
    }
}
