//! What a replica does, step by step: the steps of `sync/drive.rs` and `sync/rejoin.rs`, one at a time and each with its own message.

use std::sync::Arc;
use std::time::Duration;

use tollgate::books::remember::{PutBack, Remembered};
use tollgate::clock::Monotonic;
use tollgate::ledger::{Book, Entry};
use tollgate::money::Amount;
use tollgate::policy::{Policy, StoreOutage};
use tollgate::store::{Change, Published, Scarce, Snapshot, StoreError, Stored};
use tollgate::sync::line::{Give, Need, Next};

use super::jobs::Job;
use super::mutation;
use super::replica::Sent;
use super::setup::{LEASE, MS, Micros, TIMEOUT};
use super::store::{Ask, Packet, Said, account_id};
use super::world::{Event, World};

/// How many times a message is repeated at once when the store holds something else than believed.
const AGAIN_MAX: u32 = 4;

/// Rounds between two looks at everything.
const ROUNDS_PER_LOOK: u64 = 5;

/// How long to wait for others to give back.
const SCARCE_WAIT: Micros = 20 * MS;

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
    Write(Job, Box<(Snapshot, Vec<Entry>)>),
    /// The others are told; then silent ones are looked for.
    Seek,
    Tell,
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
    pub(crate) fn connect(&mut self, slot: usize) -> Option<(u64, Duration)> {
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
        let before = (loaded.account.purse().headroom(), loaded.account.shares());
        let message = loaded
            .line
            .message(&loaded.account, need, give, &policy, &times, now);
        let Some(mut message) = message else { return };
        mutation::message(mistake, loaded, &mut message, before, now.mono);
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
    pub(crate) fn failed(&mut self, slot: usize, account: usize, purpose: &Purpose) {
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
                    self.missing(slot, account);
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
        self.note_seen(slot, account);
        self.check(account);
        if gone {
            self.doubt_all(slot);
        }
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

    /// What the file has beside the counters.
    pub(crate) fn note_seen(&mut self, slot: usize, account: usize) {
        let replica = &self.replicas[slot];
        if let Some(loaded) = &replica.loaded[account] {
            let truth = &mut self.idents[replica.ident].truth[account];
            truth.seen = loaded.line.seen();
            truth.total = truth.total.max(loaded.line.known.total);
        }
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

    pub(crate) fn awake(&mut self, slot: usize, account: usize, wait: Micros) {
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
}
