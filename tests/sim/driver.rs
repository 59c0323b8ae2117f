//! What a replica does, step by step: the steps of `sync/drive.rs` and `sync/rejoin.rs`, one at a time and each with its own message.

use std::sync::Arc;
use std::time::Duration;

use tollgate::books::remember::{PutBack, Remembered, Stands};
use tollgate::clock::Monotonic;
use tollgate::engine::{Ask as Request, Denied, ModelId};
use tollgate::ledger::{Book, Command, TAIL_MAX};
use tollgate::money::Amount;
use tollgate::policy::{Policy, StoreOutage};
use tollgate::store::{Change, History, Published, Scarce, Snapshot, StoreError, Stored};
use tollgate::sync::line::{Give, Need, Next};
use tollgate::usage::{Certainty, Counts};

use super::mutation::{self, Mutation};
use super::replica::{OpenCall, Sent, Waiter, Want};
use super::setup::{LEASE, MS, Micros, REFILL_WAIT, TIMEOUT};
use super::store::{Ask, KEYS, Packet, Said, account_id};
use super::world::{Event, World};

/// How many times a message is repeated at once when the store holds something else than believed.
const AGAIN_MAX: u32 = 4;

/// Rounds between two looks at everything.
const ROUNDS_PER_LOOK: u64 = 5;

/// How long to wait for others to give back.
const SCARCE_WAIT: Micros = 20 * MS;

/// How often a command is tried against faster writers.
const TRIES_MAX: u32 = 8;

/// What is done with an answer.
#[derive(Debug)]
pub(crate) struct Asked {
    account: usize,
    /// On which history it was sent.
    history: u64,
    purpose: Purpose,
}

#[derive(Debug)]
pub(crate) enum Purpose {
    Publish,
    Load,
    /// Takes up a book. `compared`: the account was compared with the store.
    Refresh {
        compared: bool,
    },
    /// Compares an account with what is remembered of it.
    Compare(Box<Remembered>),
    PutBack(Box<PutBack>),
    /// So many keys of those that are put back are there.
    PutKey(Box<PutBack>, usize),
    Look(Job),
    Write(Job, Box<(Snapshot, Vec<tollgate::ledger::Entry>)>),
    /// The others are told; then silent ones are looked for.
    Seek,
    Tell,
}

/// A command that is carried out here: the backend's, or what is due.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) command: Command,
    /// Which of the backend's it is.
    pub(crate) number: Option<usize>,
    pub(crate) tries: u32,
}

impl World {
    pub(crate) fn policy_of(&self, account: usize, book: &Book) -> Policy {
        book.overrides.over(&self.setup.policies[account].0)
    }

    /// Sends something, on the connection there is or a new one.
    pub(crate) fn send(&mut self, slot: usize, account: usize, ask: Ask, purpose: Purpose) {
        let connected = self.connect(slot);
        let replica = &mut self.replicas[slot];
        replica.last_token += 1;
        let (token, life) = (replica.last_token, replica.life);
        let history = connected.map_or(0, |(history, _)| history);
        replica.asks.insert(
            token,
            Asked {
                account,
                history,
                purpose,
            },
        );
        let Some((history, age)) = connected else {
            self.at(TIMEOUT, Event::Timeout { slot, life, token });
            return;
        };
        let packet = Packet {
            slot,
            life,
            token,
            who: self.idents[self.replicas[slot].ident].name.clone(),
            account,
            history,
            age,
            fenced: mutation::fenced(self.mutation, age),
            ask,
        };
        self.transmit(packet);
    }

    /// The history behind the connection, and how old it is by this replica's clock. A new connection asks for that first.
    fn connect(&mut self, slot: usize) -> Option<(u64, Duration)> {
        let current = self.store.history;
        let away = self.replicas[slot].cut || self.now < self.store.frozen_until;
        let replica = &mut self.replicas[slot];
        let now = replica.hands.now(self.now).mono;
        if replica.link != Some(current) {
            if away {
                return None;
            }
            replica.link = Some(current);
            if !replica.met.contains_key(&current) {
                let age = self.store.age(replica.seen_accounts, self.now);
                replica.met.insert(current, (age, now));
            }
        }
        let (known, asked) = replica.met[&current];
        Some((current, known.saturating_add(now.since(asked))))
    }

    pub(crate) fn tick(&mut self, slot: usize) {
        let delay = 45 * MS + self.dice.roll(10 * MS);
        self.at(delay, Event::Tick(slot));
        let replica = &mut self.replicas[slot];
        if !replica.up {
            return;
        }
        replica.rounds += 1;
        let look = replica.rounds.is_multiple_of(ROUNDS_PER_LOOK);
        if replica.reconcile {
            self.reconcile(slot);
        }
        if self.replicas[slot].leaving.is_some() {
            self.leave_on(slot);
            return;
        }
        for account in 0..self.setup.accounts {
            if look {
                self.note_cells(slot, account);
            }
            let times = self.setup.times;
            let replica = &mut self.replicas[slot];
            let (engine, now) = (Arc::clone(&replica.engine), replica.hands.now(self.now));
            let Some(loaded) = replica.loaded(account) else {
                continue;
            };
            loaded.line.collect(&loaded.account, &engine, now);
            let news = loaded.line.has_news(&loaded.account, &times, now);
            let dirty = loaded.line.unpublished().is_positive() || loaded.line.failing();
            if look {
                loaded.line.forget(&loaded.account, now);
                let known = &loaded.line.known;
                let policy = known.book.overrides.over(&self.setup.policies[account].0);
                let due = known.book.next_deadline(known.total, &policy, now.wall);
                if due.is_some_and(|at| at <= now.wall) {
                    self.observe(slot, account);
                }
            }
            if news && (look || dirty) {
                self.publish(slot, account, Give::Spare, 0);
            }
        }
    }

    /// Last rounds, until the store has everything, or for so long.
    fn leave_on(&mut self, slot: usize) {
        let mut done = true;
        for account in 0..self.setup.accounts {
            let replica = &mut self.replicas[slot];
            let (engine, now) = (Arc::clone(&replica.engine), replica.hands.now(self.now));
            let Some(loaded) = replica.loaded(account) else {
                continue;
            };
            loaded.line.collect(&loaded.account, &engine, now);
            if !loaded.line.at_rest(&loaded.account) {
                done = false;
                self.publish(slot, account, Give::All, 0);
            }
        }
        let replica = &self.replicas[slot];
        let late = replica.leaving.is_some_and(|until| until <= self.now);
        if replica.up && (done || late) {
            let with_file = !done || !self.store.whole() || self.dice.chance(500);
            self.say(|world| {
                format!(
                    "{} is gone, all said: {done}, file: {with_file}",
                    world.who(slot)
                )
            });
            self.stop(slot, with_file);
        }
    }

    /// One account's message, unless one is on its way.
    pub(crate) fn publish(&mut self, slot: usize, account: usize, give: Give, tries: u32) {
        if self.dies(slot) {
            return;
        }
        let (times, mistake) = (self.setup.times, self.mutation);
        let replica = &mut self.replicas[slot];
        let (engine, now) = (Arc::clone(&replica.engine), replica.hands.now(self.now));
        let Some(loaded) = replica.loaded(account) else {
            return;
        };
        loaded.line.collect(&loaded.account, &engine, now);
        let needs = loaded
            .waiting
            .iter()
            .map(|waiter| waiter.want.amount.max(1));
        let need = Need {
            all: Amount::from_nanos(needs.clone().sum()),
            least: Amount::from_nanos(needs.min().unwrap_or(0)),
        };
        let policy = loaded.account.rules().policy.clone();
        let before = loaded.account.purse().headroom();
        let message = loaded
            .line
            .message(&loaded.account, need, give, &policy, &times, now);
        let Some(mut message) = message else { return };
        mutation::message(mistake, loaded, &mut message, before);
        let limits = (message.rate.limit, message.places.limit);
        loaded.sent = Some(Sent {
            at: now.mono,
            give,
            tries,
            limits,
        });
        self.send(
            slot,
            account,
            Ask::Publish(Box::new(message)),
            Purpose::Publish,
        );
        self.check(account);
        self.dies(slot);
    }

    pub(crate) fn timeout(&mut self, slot: usize, life: u64, token: u64) {
        let replica = &mut self.replicas[slot];
        if replica.life != life {
            return;
        }
        let Some(asked) = replica.asks.remove(&token) else {
            return;
        };
        replica.note(false, self.now);
        let account = asked.account;
        match asked.purpose {
            Purpose::Publish => self.answered(slot, account, Err(Self::unavailable())),
            Purpose::Look(job) | Purpose::Write(job, _) => {
                self.job_failed(slot, account, &job);
            }
            purpose => self.failed(slot, account, &purpose),
        }
    }

    /// Something that is tried again by the schedule.
    fn failed(&mut self, slot: usize, account: usize, purpose: &Purpose) {
        let replica = &mut self.replicas[slot];
        match purpose {
            Purpose::Load => {
                replica.loading.remove(&account);
                replica.reconcile = true;
            }
            Purpose::Refresh { .. } => {
                if let Some(loaded) = replica.loaded(account) {
                    loaded.refreshing = false;
                }
                replica.reconcile |= replica.comparing.remove(&account);
                self.awake(slot, account, 0);
            }
            Purpose::Compare(_) | Purpose::PutBack(_) | Purpose::PutKey(..) => {
                replica.comparing.remove(&account);
                replica.reconcile = true;
            }
            _ => {}
        }
    }

    pub(crate) fn reply(&mut self, slot: usize, life: u64, token: u64, said: Said) {
        let replica = &mut self.replicas[slot];
        if replica.life != life || replica.cut {
            return;
        }
        let Some(Asked {
            account,
            history,
            purpose,
        }) = replica.asks.remove(&token)
        else {
            return;
        };
        replica.note(true, self.now);
        if self.dies(slot) {
            return;
        }
        match (purpose, said) {
            (Purpose::Publish, Said::Published(answer)) => self.answered(slot, account, answer),
            (Purpose::Load, Said::Opened(opened)) => {
                self.replicas[slot].loading.remove(&account);
                if let Some(opened) = opened {
                    self.opened(slot, account, history, *opened);
                } else {
                    self.replicas[slot].reconcile = true;
                }
            }
            (Purpose::Refresh { compared }, Said::Read(read)) => {
                self.refreshed(slot, account, history, compared, read.map(|read| *read));
            }
            (Purpose::Compare(ours), Said::Read(read)) => {
                self.compared(slot, account, &ours, read.map(|read| *read));
            }
            (Purpose::PutBack(plan), Said::Stored(stored)) => match stored {
                Ok(Stored::At(version)) => {
                    self.done.restored += plan.commands as u64;
                    self.put_keys(slot, account, plan, 0, version);
                }
                Ok(Stored::Conflict) => self.compare(slot, account),
                Err(_) => self.failed(slot, account, &Purpose::PutBack(plan)),
            },
            (Purpose::PutKey(plan, at), Said::Stored(Ok(stored))) => match stored {
                Stored::At(version) => self.put_keys(slot, account, plan, at + 1, version),
                Stored::Conflict => self.compare(slot, account),
            },
            (Purpose::Look(job), Said::Read(read)) => {
                self.looked(slot, account, history, job, read.map(|read| *read));
            }
            (Purpose::Write(job, written), Said::Stored(stored)) => {
                self.written(slot, account, job, *written, stored);
            }
            (Purpose::Seek, _) => self.lapse(slot, account),
            _ => {}
        }
        self.check(account);
    }

    /// An answer to a message, or that there was none.
    fn answered(&mut self, slot: usize, account: usize, answer: Result<Published, StoreError>) {
        let times = self.setup.times;
        let gone = matches!(answer, Err(StoreError::NoAccount(_)));
        let replica = &mut self.replicas[slot];
        let now = replica.hands.now(self.now);
        let Some(loaded) = replica.loaded[account].as_mut() else {
            return;
        };
        let Some(Sent {
            at, give, tries, ..
        }) = loaded.sent.take()
        else {
            return;
        };
        let policy = loaded
            .line
            .known
            .book
            .overrides
            .over(&self.setup.policies[account].0);
        let answer = answer.ok();
        mutation::before_answer(loaded, answer.as_ref());
        let next = loaded
            .line
            .answer(&loaded.account, answer.as_ref(), &policy, &times, now);
        mutation::after_answer(self.mutation, loaded, answer.as_ref(), at, now.mono);
        match &answer {
            Some(answer) if answer.applied => {
                loaded.lease_end = at.plus(times.lease.saturating_sub(times.margin));
            }
            None if policy.store_outage == StoreOutage::Refuse => {
                loaded.lease_end = Monotonic::default();
            }
            _ => {}
        }
        let truth = &mut self.idents[replica.ident].truth[account];
        truth.seen = loaded.line.seen();
        truth.total = truth.total.max(loaded.line.known.total);
        truth.history = loaded.line.history();
        self.check(account);
        if (next.rejoin || gone) && self.replicas[slot].comparing.insert(account) {
            self.compare(slot, account);
        }
        if next.again && tries + 1 < AGAIN_MAX {
            self.publish(slot, account, give, tries + 1);
        }
        self.attend(
            slot,
            account,
            next,
            answer.is_some_and(|answer| answer.fenced),
        );
    }

    /// What an answer asks for.
    fn attend(&mut self, slot: usize, account: usize, next: Next, fenced: bool) {
        if self.replicas[slot].reconcile {
            self.reconcile(slot);
        }
        let now = self.replicas[slot].hands.now(self.now).mono;
        let interval = self.setup.times.interval;
        let Some(loaded) = self.replicas[slot].loaded(account) else {
            return;
        };
        if next.short && !next.scarce && !next.refresh && !fenced {
            loaded.account.dry_until(now.plus(interval));
        }
        let crowd = next
            .crowded
            .filter(|_| now.since(loaded.crowded) >= interval / 4);
        let seek = next.scarce && now.since(loaded.looked) >= interval;
        if crowd.is_some() {
            loaded.crowded = now;
        }
        if seek {
            loaded.looked = now;
        }
        if let Some((rate, places)) = crowd {
            let ask = Ask::Scarce(Scarce::Shares(rate, places));
            self.send(slot, account, ask, Purpose::Tell);
        }
        if seek {
            self.send(slot, account, Ask::Scarce(Scarce::Money), Purpose::Seek);
        }
        if next.observe {
            self.observe(slot, account);
        }
        if next.refresh {
            self.refresh(slot, account);
        } else if !next.again {
            let wait = if next.scarce || next.shareless {
                SCARCE_WAIT
            } else {
                0
            };
            self.awake(slot, account, wait);
        }
    }

    fn awake(&mut self, slot: usize, account: usize, wait: Micros) {
        let life = self.replicas[slot].life;
        self.at(
            wait,
            Event::Wake {
                slot,
                life,
                account,
            },
        );
    }

    /// Takes back what silent replicas have, if they could have been heard.
    fn lapse(&mut self, slot: usize, account: usize) {
        let replica = &self.replicas[slot];
        let now = replica.hands.now(self.now).mono;
        let heard = replica.reachable_since.map(|since| now.since(since));
        if heard.is_some_and(|heard| heard >= World::millis(LEASE)) {
            self.send(slot, account, Ask::Lapse, Purpose::Tell);
        }
    }

    /// Reads a book and takes it up.
    pub(crate) fn refresh(&mut self, slot: usize, account: usize) {
        let Some(loaded) = self.replicas[slot].loaded(account) else {
            return;
        };
        if !std::mem::replace(&mut loaded.refreshing, true) {
            let ask = Ask::Read {
                claims: Vec::new(),
                after: None,
            };
            self.send(slot, account, ask, Purpose::Refresh { compared: false });
        }
    }

    /// The same for an account that may not be taken up: what is remembered of it is to be whole.
    fn learn(&mut self, slot: usize, account: usize) {
        if self.replicas[slot].loaded[account].is_some() {
            self.refresh(slot, account);
        } else {
            let ask = Ask::Read {
                claims: Vec::new(),
                after: None,
            };
            self.send(slot, account, ask, Purpose::Refresh { compared: false });
        }
    }

    /// Whether what is remembered of an account was not compared with this history yet.
    fn uncompared(&self, slot: usize, account: usize, history: u64) -> bool {
        let known = self.replicas[slot].recall.get(&account);
        known.is_some_and(|known| known.history != Some(History(history)))
    }

    fn refreshed(
        &mut self,
        slot: usize,
        account: usize,
        history: u64,
        compared: bool,
        read: Option<Stands>,
    ) {
        let first = !compared && self.uncompared(slot, account, history);
        let replica = &mut self.replicas[slot];
        if let Some(loaded) = replica.loaded(account) {
            loaded.refreshing = false;
        }
        if compared {
            replica.comparing.remove(&account);
        }
        let Some(stands) = read else {
            replica.reconcile = true;
            return;
        };
        if first && self.mutation != Some(Mutation::TakesInUncompared) {
            // What it has may lack what is remembered here: that comes first, or it would be forgotten.
            replica.reconcile = true;
            self.reconcile(slot);
            return;
        }
        self.remember(slot, account, history, &stands);
        let policy = self.policy_of(account, &stands.snapshot.book);
        let replica = &mut self.replicas[slot];
        let now = replica.hands.now(self.now);
        let engine = Arc::clone(&replica.engine);
        if let Some(loaded) = replica.loaded[account].as_mut() {
            let keys = stands.keys.iter();
            let keys = keys.map(|key| engine.load_key(None, &loaded.account, key.clone()));
            loaded.keys = keys.collect();
            loaded
                .line
                .follow(&loaded.account, stands.snapshot, policy, now);
        } else if compared {
            self.load(slot, account);
        }
        if compared {
            if let Some(known) = self.replicas[slot].recall.get_mut(&account) {
                known.history = Some(History(history));
            }
            // Also who has nothing new to say: what it said before may be lost.
            let quiet = self.mutation == Some(Mutation::QuietRejoin);
            if let Some(loaded) = self.replicas[slot].loaded(account).filter(|_| !quiet) {
                loaded.line.in_history(History(history));
                self.publish(slot, account, Give::Spare, 0);
            }
        }
        self.awake(slot, account, 0);
    }

    pub(crate) fn remember(&mut self, slot: usize, account: usize, history: u64, stands: &Stands) {
        let replica = &mut self.replicas[slot];
        replica.seen_accounts = true;
        let known = replica.recall.get(&account);
        if known.is_some_and(|known| known.knows(stands.snapshot.version)) {
            return;
        }
        let Stands {
            snapshot,
            tail,
            keys,
        } = stands.clone();
        let fresh = Remembered {
            history: Some(History(history)),
            ..Remembered::new(&snapshot, tail, keys)
        };
        replica.recall.insert(account, fresh);
    }

    /// Takes an account up.
    pub(crate) fn load(&mut self, slot: usize, account: usize) {
        let replica = &mut self.replicas[slot];
        if replica.up && replica.loaded[account].is_none() && replica.loading.insert(account) {
            let hour = replica.hands.now(self.now).wall.hour();
            self.send(slot, account, Ask::Open(hour), Purpose::Load);
        }
    }

    fn opened(
        &mut self,
        slot: usize,
        account: usize,
        history: u64,
        (opened, stands): (tollgate::store::Opened, Stands),
    ) {
        if self.uncompared(slot, account, history) {
            self.replicas[slot].reconcile = true;
            self.reconcile(slot);
            return;
        }
        if self.replicas[slot].loaded[account].is_none() {
            self.take_up(slot, account, &opened);
        }
        self.remember(slot, account, history, &stands);
    }

    /// Every account that is remembered is compared, if the store's history is another one; and what the file counted is taken up.
    pub(crate) fn reconcile(&mut self, slot: usize) {
        let Some((history, _)) = self.connect(slot) else {
            return;
        };
        self.replicas[slot].reconcile = false;
        for account in 0..self.setup.accounts {
            if self.uncompared(slot, account, history) {
                if self.replicas[slot].comparing.insert(account) {
                    self.compare(slot, account);
                }
            } else if self.idents[self.replicas[slot].ident].truth[account].spend > 0 {
                self.load(slot, account);
            }
        }
    }

    fn compare(&mut self, slot: usize, account: usize) {
        let Some(ours) = self.replicas[slot].recall.get(&account).cloned() else {
            self.replicas[slot].comparing.remove(&account);
            return;
        };
        let ask = Ask::Read {
            claims: ours.claims(),
            after: None,
        };
        self.send(slot, account, ask, Purpose::Compare(Box::new(ours)));
    }

    fn compared(&mut self, slot: usize, account: usize, ours: &Remembered, read: Option<Stands>) {
        let wall = self.replicas[slot].hands.now(self.now).wall;
        let read = mutation::stands(self.mutation, read);
        let plan = ours.put_back(read.as_ref(), |book| self.policy_of(account, book), wall);
        let plan = match plan {
            Ok(plan) => mutation::plan(self.mutation, plan),
            Err(error) => {
                self.breaks("commands are put back", error.to_string());
                return;
            }
        };
        self.say(|world| {
            let (
                who,
                PutBack {
                    commands,
                    forgotten,
                    ..
                },
            ) = (world.who(slot), &plan);
            format!("{who} puts back {commands} commands of a{account}, {forgotten} forgotten")
        });
        if plan.forgotten > 0 && ours.book.entries <= TAIL_MAX as u64 {
            let how = format!(
                "{} forgot {} entries of a{account}",
                self.who(slot),
                plan.forgotten
            );
            self.breaks("what was acknowledged is remembered", how);
            return;
        }
        let version = read.map_or(0, |stands| stands.snapshot.version);
        if let Some(commit) = &plan.commit {
            let commit = Box::new(commit.clone());
            let ask = Ask::Commit {
                commit,
                command: None,
            };
            self.send(slot, account, ask, Purpose::PutBack(Box::new(plan)));
        } else {
            self.put_keys(slot, account, Box::new(plan), 0, version);
        }
    }

    fn put_keys(
        &mut self,
        slot: usize,
        account: usize,
        plan: Box<PutBack>,
        at: usize,
        version: u64,
    ) {
        if let Some(key) = plan.keys.get(at) {
            let key = Box::new(key.clone());
            let ask = Ask::PutKey {
                expected: version,
                key,
            };
            self.send(slot, account, ask, Purpose::PutKey(plan, at));
        } else {
            let ask = Ask::Read {
                claims: Vec::new(),
                after: None,
            };
            self.send(slot, account, ask, Purpose::Refresh { compared: true });
        }
    }

    /// Lets the ledger look.
    fn observe(&mut self, slot: usize, account: usize) {
        let Some(loaded) = self.replicas[slot].loaded(account) else {
            return;
        };
        if !std::mem::replace(&mut loaded.observing, true) {
            let job = Job {
                command: Command::observe(),
                number: None,
                tries: 0,
            };
            self.run_job(slot, account, job);
        }
    }

    pub(crate) fn run_job(&mut self, slot: usize, account: usize, job: Job) {
        let ask = Ask::Read {
            claims: job.command.claims(),
            after: None,
        };
        self.send(slot, account, ask, Purpose::Look(job));
    }

    pub(crate) fn job_failed(&mut self, slot: usize, account: usize, job: &Job) {
        match job.number {
            Some(number) => self.command_failed(number),
            None => self.observed(slot, account),
        }
    }

    pub(crate) fn observed(&mut self, slot: usize, account: usize) {
        if let Some(loaded) = self.replicas[slot].loaded(account) {
            loaded.observing = false;
        }
    }

    fn looked(
        &mut self,
        slot: usize,
        account: usize,
        history: u64,
        job: Job,
        read: Option<Stands>,
    ) {
        let Some(stands) = read.filter(|_| !self.uncompared(slot, account, history)) else {
            self.replicas[slot].reconcile = true;
            self.job_failed(slot, account, &job);
            return;
        };
        // What it is written on is remembered, so that what is written goes on from there.
        if self.mutation != Some(Mutation::RemembersLittle) {
            self.remember(slot, account, history, &stands);
        }
        if let Some((commit, written)) = self.carry_out(slot, account, history, &job, stands) {
            let ask = Ask::Commit {
                commit: Box::new(commit),
                command: job.number,
            };
            self.send(slot, account, ask, Purpose::Write(job, Box::new(written)));
        }
    }

    fn written(
        &mut self,
        slot: usize,
        account: usize,
        mut job: Job,
        (mut snapshot, entries): (Snapshot, Vec<tollgate::ledger::Entry>),
        stored: Result<Stored, StoreError>,
    ) {
        match stored {
            Ok(Stored::At(version)) => {
                snapshot.version = version;
                let recall = &mut self.replicas[slot].recall;
                let known = recall.get(&account).cloned();
                if let Some(fresh) = Remembered::wrote(known, &snapshot, &entries) {
                    recall.insert(account, fresh);
                }
                match job.number {
                    Some(number) => self.acknowledged(slot, number),
                    None => self.observed(slot, account),
                }
                self.learn(slot, account);
            }
            Ok(Stored::Conflict) if job.tries < TRIES_MAX => {
                job.tries += 1;
                self.run_job(slot, account, job);
            }
            _ => self.job_failed(slot, account, &job),
        }
    }

    pub(crate) fn told(&mut self, slot: usize, life: u64, change: Change) {
        let replica = &self.replicas[slot];
        if replica.life != life || !replica.up || replica.cut || replica.leaving.is_some() {
            return;
        }
        let index = |id: &tollgate::id::AccountId| {
            (0..self.setup.accounts).find(|account| account_id(*account) == *id)
        };
        match change {
            Change::Account(id, version) => {
                let account = index(&id).unwrap();
                let loaded = self.replicas[slot].loaded(account);
                if loaded.is_some_and(|loaded| loaded.line.known.version < version) {
                    self.refresh(slot, account);
                }
            }
            Change::Scarce(id, what) => {
                let account = index(&id).unwrap();
                let Some(loaded) = self.replicas[slot].loaded(account) else {
                    return;
                };
                let give = match what {
                    Scarce::Money => Give::Money,
                    Scarce::Shares(rate, places) => {
                        let rules = loaded.account.rules();
                        loaded.line.heard(rate, places, &rules.policy);
                        Give::Spare
                    }
                };
                self.publish(slot, account, give, 0);
            }
            Change::All | Change::Document(_) => {}
        }
    }

    /// It hears of changes again: everything is read again.
    pub(crate) fn listen(&mut self, slot: usize, life: u64) {
        if self.replicas[slot].life != life || !self.replicas[slot].up {
            return;
        }
        if self.connect(slot).is_none() {
            let delay = self.some(200 * MS);
            self.at(delay, Event::Listen { slot, life });
            return;
        }
        self.reconcile(slot);
        for account in 0..self.setup.accounts {
            self.refresh(slot, account);
        }
    }

    pub(crate) fn call(&mut self, slot: usize) {
        let mix = self.setup.mixes[slot].clone();
        let rests = mix.rest > 0 && self.dice.chance(30);
        let delay = self.some(if rests { mix.rest } else { mix.pace });
        self.at(delay, Event::Call(slot));
        let replica = &self.replicas[slot];
        if !self.calling || !replica.up || replica.leaving.is_some() {
            return;
        }
        let account = self.dice.roll(self.setup.accounts as u64) as usize;
        let want = Want {
            amount: self.dice.pick(&self.setup.holds.clone()),
            key: self.dice.roll(KEYS as u64) as usize,
            named: self.dice.chance(500),
        };
        if self.replicas[slot].loaded[account].is_none() {
            self.load(slot, account);
        } else if self.attempt(slot, account, want) == Some(Denied::Lease) {
            self.wait(
                slot,
                account,
                Waiter {
                    want,
                    until: self.now + REFILL_WAIT,
                },
            );
        }
        self.check(account);
    }

    /// A call waits for a lease; whoever comes first asks for it.
    fn wait(&mut self, slot: usize, account: usize, waiter: Waiter) {
        let times = self.setup.times;
        let replica = &mut self.replicas[slot];
        let now = replica.hands.now(self.now);
        let Some(loaded) = replica.loaded(account) else {
            return;
        };
        if loaded.line.failed_lately(&times, now) {
            return;
        }
        loaded.waiting.push(waiter);
        if !loaded.line.is_in_flight() {
            self.publish(slot, account, Give::Spare, 0);
        }
    }

    pub(crate) fn wake(&mut self, slot: usize, life: u64, account: usize) {
        let replica = &mut self.replicas[slot];
        if replica.life != life {
            return;
        }
        let Some(loaded) = replica.loaded(account) else {
            return;
        };
        let failing = loaded.line.failing();
        let waiting = std::mem::take(&mut loaded.waiting);
        for waiter in waiting {
            if failing || waiter.until <= self.now {
                continue;
            }
            if self.attempt(slot, account, waiter.want) == Some(Denied::Lease) {
                self.wait(slot, account, waiter);
            }
        }
        self.check(account);
    }

    /// A call comes in, and is admitted or not.
    pub(crate) fn attempt(&mut self, slot: usize, account: usize, want: Want) -> Option<Denied> {
        let replica = &mut self.replicas[slot];
        let now = replica.hands.now(self.now);
        let engine = Arc::clone(&replica.engine);
        let loaded = replica.loaded[account].as_ref()?;
        let name = want.named.then_some("m");
        let ask = Request {
            model: name,
            counted_as: name.map_or(ModelId::NONE, |name| engine.model(name).unwrap()),
            priced: true,
            amount: Amount::from_nanos(want.amount),
            worst: Amount::from_nanos(want.amount),
            more: None,
        };
        let key = Arc::clone(loaded.keys.get(want.key)?);
        let hold = match engine.admit(key, ask, now) {
            Ok(hold) => hold,
            Err((_, denied)) => return Some(denied),
        };
        let over = now.mono >= loaded.lease_end;
        let whose = (
            loaded.keys[want.key].id().clone(),
            engine.model_name(ask.counted_as),
        );
        self.done.admitted += 1;
        let call = self.done.admitted;
        let open = OpenCall {
            account,
            hold,
            whose,
        };
        self.replicas[slot].calls.insert(call, open);
        if over {
            let how = format!(
                "{} admitted a call of a{account} after its lease",
                self.who(slot)
            );
            self.breaks("a lease that is over is not used", how);
        }
        let life = self.replicas[slot].life;
        let slow = self.dice.chance(self.setup.mixes[slot].slow);
        let lasts = self.some(if slow { 7 * LEASE / 2 } else { 60 * MS });
        self.at(lasts, Event::Settle { slot, life, call });
        None
    }

    pub(crate) fn settle(&mut self, slot: usize, life: u64, call: u64) {
        if self.replicas[slot].life != life {
            return;
        }
        let Some(open) = self.replicas[slot].calls.remove(&call) else {
            return;
        };
        let account = open.account;
        let mix = self.setup.mixes[slot].clone();
        let held = open.hold.amount().nanos();
        if self.dice.chance(mix.dropped) {
            self.drop_call(slot, open);
        } else {
            let cost = if self.dice.chance(mix.above) {
                held + self.dice.amount(20)
            } else if self.dice.chance(mix.free) {
                0
            } else {
                self.dice.amount(held + 1)
            };
            self.count(slot, &open, cost, Certainty::Exact);
            open.hold.settle(
                Amount::from_nanos(cost),
                Certainty::Exact,
                &Counts::default(),
            );
        }
        self.check(account);
        self.dies(slot);
    }
}
