//! What a replica remembers, and how it compares that with a store that may have lost something: the steps of `sync/rejoin.rs`, one at a
//! time and each with its own message.

use std::sync::Arc;

use tollgate::books::remember::{PutBack, Remembered, Stands};
use tollgate::ledger::TAIL_MAX;
use tollgate::store::{History, Opened};
use tollgate::sync::line::Give;

use super::driver::Purpose;
use super::mutation::{self, Mutation};
use super::replica::Replica;
use super::store::Ask;
use super::world::World;

impl World {
    /// Reads a book and takes it up.
    pub(crate) fn refresh(&mut self, slot: usize, account: usize) {
        let Some(loaded) = self.replicas[slot].loaded(account) else {
            return;
        };
        if !std::mem::replace(&mut loaded.refreshing, true) {
            let ask = Ask::Read { claims: Vec::new() };
            self.send(slot, account, ask, Purpose::Refresh { compared: false });
        }
    }

    /// The same for an account that may not be taken up: what is remembered of it is to be whole.
    pub(crate) fn learn(&mut self, slot: usize, account: usize) {
        if self.replicas[slot].loaded[account].is_some() {
            self.refresh(slot, account);
        } else {
            let ask = Ask::Read { claims: Vec::new() };
            self.send(slot, account, ask, Purpose::Refresh { compared: false });
        }
    }

    /// Whether what is remembered of an account was not compared with this history yet.
    pub(crate) fn uncompared(&self, slot: usize, account: usize, history: u64) -> bool {
        let Replica {
            recall, doubted, ..
        } = &self.replicas[slot];
        recall.get(&account).is_some_and(|known| {
            known.history != Some(History(history)) || doubted.contains(&account)
        })
    }

    /// What is remembered is more than what stands, though they were compared: the store was emptied under the same history.
    pub(crate) fn lost_quietly(
        &mut self,
        slot: usize,
        account: usize,
        history: u64,
        stands: &Stands,
    ) -> bool {
        let known = self.replicas[slot].recall.get(&account);
        let lost = known.is_some_and(|known| known.is_more_than(stands));
        if lost && !self.uncompared(slot, account, history) {
            self.doubt_all(slot);
        }
        lost
    }

    /// The store does not have an account: if it is remembered, it had it.
    pub(crate) fn missing(&mut self, slot: usize, account: usize) {
        if self.replicas[slot].recall.contains_key(&account) {
            self.doubt_all(slot);
        }
        self.replicas[slot].reconcile = true;
    }

    /// The store has lost an account without having begun another history: it may have lost any.
    pub(crate) fn doubt_all(&mut self, slot: usize) {
        let replica = &mut self.replicas[slot];
        replica.doubted.extend(replica.recall.keys());
        replica.reconcile = true;
    }

    pub(crate) fn refreshed(
        &mut self,
        slot: usize,
        account: usize,
        history: u64,
        compared: bool,
        read: Option<Stands>,
    ) {
        let replica = &mut self.replicas[slot];
        if let Some(loaded) = replica.loaded(account) {
            loaded.refreshing = false;
        }
        if compared {
            replica.comparing.remove(&account);
        }
        let Some(stands) = read else {
            self.missing(slot, account);
            return;
        };
        let policy = self.policy_of(account, &stands.snapshot.book);
        let replica = &mut self.replicas[slot];
        let now = replica.hands.now(self.now);
        let engine = Arc::clone(&replica.engine);
        if let Some(loaded) = replica.loaded[account].as_mut() {
            if stands.snapshot.version >= loaded.line.known.version {
                let keys = stands.keys.iter();
                let keys = keys.map(|key| engine.load_key(None, &loaded.account, key.clone()));
                loaded.keys = keys.collect();
            }
            let snapshot = stands.snapshot.clone();
            loaded.line.follow(&loaded.account, snapshot, policy, now);
        } else if compared {
            self.load(slot, account);
        }
        let uncompared = self.uncompared(slot, account, history);
        let first = !compared && (uncompared || self.lost_quietly(slot, account, history, &stands));
        if first && self.mutation != Some(Mutation::TakesInUncompared) {
            // What it has may lack what is remembered here: that comes first, or it would be forgotten.
            if self.replicas[slot].comparing.insert(account) {
                self.compare(slot, account);
            }
            return;
        }
        self.remember(slot, account, history, &stands);
        if compared {
            let replica = &mut self.replicas[slot];
            replica.doubted.remove(&account);
            if let Some(known) = replica.recall.get_mut(&account) {
                known.history = Some(History(history));
            }
            // Also who has nothing new to say: what it said before may be lost.
            let quiet = self.mutation == Some(Mutation::QuietRejoin);
            if let Some(loaded) = self.replicas[slot].loaded(account).filter(|_| !quiet) {
                loaded.line.say_again(&loaded.account);
                self.note_seen(slot, account);
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
            ..Remembered::read(known, &snapshot, tail, keys)
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

    pub(crate) fn opened(
        &mut self,
        slot: usize,
        account: usize,
        history: u64,
        (opened, stands): (Opened, Stands),
    ) {
        if self.replicas[slot].loaded[account].is_none() {
            self.take_up(slot, account, history, &opened);
        }
        let uncompared = self.uncompared(slot, account, history);
        if uncompared || self.lost_quietly(slot, account, history, &stands) {
            self.replicas[slot].reconcile = true;
            self.reconcile(slot);
            return;
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

    pub(crate) fn compare(&mut self, slot: usize, account: usize) {
        let Some(mut ours) = self.replicas[slot].recall.get(&account).cloned() else {
            self.replicas[slot].comparing.remove(&account);
            return;
        };
        if let Some(loaded) = &self.replicas[slot].loaded[account] {
            ours.version = ours.version.max(loaded.line.known.version);
        }
        let ask = Ask::Read {
            claims: ours.claims(),
        };
        self.send(slot, account, ask, Purpose::Compare(Box::new(ours)));
    }

    pub(crate) fn compared(
        &mut self,
        slot: usize,
        account: usize,
        ours: &Remembered,
        read: Option<Stands>,
    ) {
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

    pub(crate) fn put_keys(
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
            let ask = Ask::Read { claims: Vec::new() };
            self.send(slot, account, ask, Purpose::Refresh { compared: true });
        }
    }
}
