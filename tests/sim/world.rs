//! One run: what happens when, and who is told. Simulated time only; a seed decides everything.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate::store::{Change, StoreError, Stored};

use super::backend::Backend;
use super::dice::Dice;
use super::mutation::Mutation;
use super::promises::{Broken, Watch};
use super::replica::{Ident, Replica};
use super::setup::{DRIFT_PPM, MS, Micros, Setup, TIMEOUT};
use super::store::{Ask, Packet, Said, Store, account_id};

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A replica's schedule.
    Tick(usize),
    /// A call comes in.
    Call(usize),
    /// A call ends: of which run of a replica, and which.
    Settle {
        slot: usize,
        life: u64,
        call: u64,
    },
    /// A message comes to the store.
    Arrive(Box<Packet>),
    /// An answer comes to a replica.
    Reply {
        slot: usize,
        life: u64,
        token: u64,
        said: Box<Said>,
    },
    /// No answer came in time.
    Timeout {
        slot: usize,
        life: u64,
        token: u64,
    },
    /// Who waits for an account asks again.
    Wake {
        slot: usize,
        life: u64,
        account: usize,
    },
    /// A change is told.
    Told {
        slot: usize,
        life: u64,
        change: Change,
    },
    /// A replica has a connection for changes again.
    Listen {
        slot: usize,
        life: u64,
    },
    /// The backend has a new command, or tries one again.
    Command,
    Try {
        number: usize,
        turn: u64,
    },
    /// Something goes wrong.
    Fault,
    /// A replica starts again.
    Boot {
        slot: usize,
        life: u64,
    },
    /// A replica and the store hear each other again.
    Mend(usize),
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) dice: Dice,
    pub(crate) now: Micros,
    queue: BTreeMap<(Micros, u64), Event>,
    count: u64,
    pub(crate) store: Store,
    pub(crate) replicas: Vec<Replica>,
    /// Everybody who ever counted anything, under one name each.
    pub(crate) idents: Vec<Ident>,
    pub(crate) backend: Backend,
    pub(crate) watch: Vec<Watch>,
    /// Things go wrong.
    pub(crate) trouble: bool,
    /// Callers call.
    pub(crate) calling: bool,
    pub(crate) mutation: Option<Mutation>,
    trace: Option<Vec<String>>,
    /// The first promise that was broken.
    pub(crate) broken: Option<Broken>,
    /// What was done, for the figures.
    pub(crate) done: Done,
}

/// How much of everything a run had: a run in which nothing happens shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) events: u64,
    pub(crate) messages: u64,
    pub(crate) admitted: u64,
    pub(crate) lapsed: u64,
    pub(crate) retired: u64,
    pub(crate) losses: u64,
    pub(crate) restored: u64,
    pub(crate) commands: u64,
    pub(crate) crashes: u64,
}

impl Done {
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.messages += other.messages;
        self.admitted += other.admitted;
        self.lapsed += other.lapsed;
        self.retired += other.retired;
        self.losses += other.losses;
        self.restored += other.restored;
        self.commands += other.commands;
        self.crashes += other.crashes;
    }
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let setup = Setup::new(&mut dice);
        let speed = 1_000_000 - DRIFT_PPM + dice.roll(2 * DRIFT_PPM + 1);
        let store = Store::new(&setup.money, &setup.policies, speed);
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            count: 0,
            replicas: Vec::new(),
            idents: Vec::new(),
            backend: Backend::default(),
            watch: (0..setup.accounts)
                .map(|account| Watch::new(&setup, account))
                .collect(),
            trouble: true,
            calling: true,
            mutation,
            trace: traced.then(Vec::new),
            broken: None,
            done: Done::default(),
            store,
            setup,
            dice,
        };
        for slot in 0..world.setup.replicas {
            let replica = world.make_replica(slot);
            world.replicas.push(replica);
            world.start(slot);
        }
        world.at(world.setup.fault_pace, Event::Fault);
        world.at(100 * MS, Event::Command);
        world.store.keep();
        world
    }

    pub(crate) fn at(&mut self, delay: Micros, event: Event) {
        self.count += 1;
        self.queue.insert((self.now + delay, self.count), event);
    }

    /// A time of up to so much.
    pub(crate) fn some(&mut self, most: Micros) -> Micros {
        self.dice.between(1, most)
    }

    pub(crate) fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9.3} {}", self.now as f64 / 1_000.0, what(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    pub(crate) fn traced(self) -> Vec<String> {
        self.trace.unwrap_or_default()
    }

    pub(crate) fn breaks(&mut self, promise: &'static str, how: String) {
        self.say(|_| format!("BROKEN {promise}: {how}"));
        let at = self.now;
        self.broken.get_or_insert(Broken { at, promise, how });
    }

    /// Lives through it: trouble, peace, and what must hold after. `Err` is the first promise that was broken.
    pub(crate) fn run(&mut self) -> Result<(), Broken> {
        self.run_until(self.setup.trouble)?;
        self.heal();
        self.come_to_rest()
    }

    /// Goes on until a time.
    pub(crate) fn run_until(&mut self, end: Micros) -> Result<(), Broken> {
        while let Some(first) = self.queue.first_entry() {
            let (at, _) = *first.key();
            if at > end {
                break;
            }
            let event = first.remove();
            self.now = at;
            self.done.events += 1;
            self.happen(event);
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(slot) => self.tick(slot),
            Event::Call(slot) => self.call(slot),
            Event::Settle { slot, life, call } => self.settle(slot, life, call),
            Event::Arrive(packet) => self.arrive(packet),
            Event::Reply {
                slot,
                life,
                token,
                said,
            } => self.reply(slot, life, token, *said),
            Event::Timeout { slot, life, token } => self.timeout(slot, life, token),
            Event::Wake {
                slot,
                life,
                account,
            } => self.wake(slot, life, account),
            Event::Told { slot, life, change } => self.told(slot, life, change),
            Event::Listen { slot, life } => self.listen(slot, life),
            Event::Command => self.new_command(),
            Event::Try { number, turn } => self.try_command(number, turn),
            Event::Fault => self.fault(),
            Event::Boot { slot, life } => self.boot(slot, life),
            Event::Mend(slot) => self.mend(slot),
        }
    }

    /// A message leaves. It may be lost, late and doubled.
    pub(crate) fn transmit(&mut self, packet: Packet) {
        let Packet {
            slot, life, token, ..
        } = packet;
        self.done.messages += 1;
        self.at(TIMEOUT, Event::Timeout { slot, life, token });
        if self.replicas[slot].cut || (self.trouble && self.dice.chance(self.setup.lost)) {
            self.say(|_| format!("  lost: {slot}/{token}"));
            return;
        }
        // A command without a key is carried out for each time it is heard: whoever gives it has a connection that repeats nothing.
        let once = match &packet.ask {
            Ask::Commit { commit, .. } => commit.claims.is_empty(),
            _ => false,
        };
        if self.trouble && !once && self.dice.chance(self.setup.doubled) {
            let delay = self.some(self.setup.late_max);
            self.at(delay, Event::Arrive(Box::new(packet.clone())));
        }
        let delay = self.delay();
        self.at(delay, Event::Arrive(Box::new(packet)));
    }

    fn delay(&mut self) -> Micros {
        let late = self.trouble && self.dice.chance(self.setup.late);
        let most = if late { self.setup.late_max } else { 4 * MS };
        self.some(most)
    }

    fn arrive(&mut self, packet: Box<Packet>) {
        if packet.history != self.store.history {
            // Its connection ended with the history it was made in.
            return;
        }
        if self.now < self.store.frozen_until {
            let delay = self.store.frozen_until - self.now;
            self.at(delay, Event::Arrive(packet));
            return;
        }
        if !self.store.fenced(&packet, self.now) {
            self.fence_over(packet.account);
        }
        let before = self.before(&packet);
        let said = self.store.carry_out(&packet, self.now, self.mutation);
        self.say(|world| world.words(&packet, &said));
        self.after(&packet, &said, &before);
        self.tell(&packet, &said);
        if self.trouble && self.dice.chance(self.setup.kept) {
            self.store.keep();
        }
        if self.dies(packet.slot) || self.replicas[packet.slot].cut {
            return;
        }
        let Packet {
            slot, life, token, ..
        } = *packet;
        if self.trouble && self.dice.chance(self.setup.lost) {
            self.say(|_| format!("  reply lost: {slot}/{token}"));
            return;
        }
        let reply = |said| Event::Reply {
            slot,
            life,
            token,
            said,
        };
        if self.trouble && self.dice.chance(self.setup.doubled) {
            let delay = self.some(self.setup.late_max);
            self.at(delay, reply(Box::new(said.clone())));
        }
        let delay = self.delay();
        self.at(delay, reply(Box::new(said)));
    }

    /// Changes are told to everybody, by a way that may lose them.
    fn tell(&mut self, packet: &Packet, said: &Said) {
        let id = account_id(packet.account);
        let change = match (&packet.ask, said) {
            (_, Said::Stored(Ok(Stored::At(version)))) => Change::Account(id, *version),
            (Ask::Scarce(what), _) => Change::Scarce(id, *what),
            _ => return,
        };
        for slot in 0..self.replicas.len() {
            if self.replicas[slot].cut || (self.trouble && self.dice.chance(100)) {
                continue;
            }
            let (life, delay) = (self.replicas[slot].life, self.delay());
            let change = change.clone();
            self.at(delay, Event::Told { slot, life, change });
        }
    }

    /// A line of the trace.
    fn words(&self, packet: &Packet, said: &Said) -> String {
        let from = format!("{} a{} #{}", packet.who, packet.account, packet.token);
        let fenced = if packet.fenced { " fenced" } else { "" };
        match (&packet.ask, said) {
            (Ask::Publish(m), Said::Published(answer)) => {
                let answer = match answer {
                    Ok(a) => format!(
                        "{} spend {} committed {} rate {} places {} seq {} total {} unleased {} lost {} v{}",
                        if a.applied { "applied" } else { "NOT applied" },
                        a.standing.spend.nanos(),
                        a.standing.committed.nanos(),
                        a.standing.rate,
                        a.standing.places,
                        a.seq,
                        a.total.nanos(),
                        a.unleased.nanos(),
                        a.lost.nanos(),
                        a.version,
                    ),
                    Err(error) => error.to_string(),
                };
                let (old, new) = (m.believed, m.new);
                format!(
                    "{from}{fenced} publish seq {} spend {}>{} committed {}>{} rate {}>{}+{}/{} places {}>{}+{}/{} held {} want {} need {} seen {} total {} rows {} -> {answer}",
                    m.seq,
                    old.spend.nanos(),
                    new.spend.nanos(),
                    old.committed.nanos(),
                    new.committed.nanos(),
                    old.rate,
                    new.rate,
                    m.rate.want,
                    m.rate.limit,
                    old.places,
                    new.places,
                    m.places.want,
                    m.places.limit,
                    m.held.nanos(),
                    m.want.nanos(),
                    m.need.nanos(),
                    m.seen.nanos(),
                    m.total.nanos(),
                    m.usage.len(),
                )
            }
            (Ask::Commit { commit, command }, Said::Stored(stored)) => format!(
                "{from}{fenced} commit {command:?} v{} {:?} by {} -> {stored:?}",
                commit.expected,
                commit.restore,
                commit.credit_delta.nanos()
            ),
            (Ask::Read { .. }, Said::Read(read)) => {
                format!(
                    "{from} read -> {:?}",
                    read.as_ref().map(|read| read.snapshot.version)
                )
            }
            (ask, said) => {
                let mut said = format!("{said:?}");
                said.truncate(60);
                let mut ask = format!("{ask:?}");
                ask.truncate(60);
                format!("{from}{fenced} {ask} -> {said}")
            }
        }
    }

    /// The store as an edge sees it: whether it may be unavailable is no question here.
    pub(crate) fn unavailable() -> StoreError {
        StoreError::Unavailable("no answer in time".into())
    }

    pub(crate) const fn millis(micros: Micros) -> Duration {
        Duration::from_micros(micros)
    }
}
