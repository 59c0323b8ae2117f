//! What goes wrong, beyond messages.

use std::sync::Arc;

use super::replica::Replica;
use super::setup::{Fault, MS, Micros};
use super::world::{Event, World};

impl World {
    /// Something goes wrong, of what this seed lets go wrong.
    pub(crate) fn fault(&mut self) {
        if !self.trouble || self.setup.faults.is_empty() {
            return;
        }
        let delay = self.some(self.setup.fault_pace);
        self.at(delay, Event::Fault);
        let slot = self.dice.roll(self.replicas.len() as u64) as usize;
        let fault = self.setup.faults[self.dice.roll(self.setup.faults.len() as u64) as usize];
        match fault {
            Fault::Crash => self.crash(slot, true),
            Fault::Loss => {
                // A store that has lost something is healed from files: who loses both has lost it.
                if self.store.whole() {
                    self.crash(slot, false);
                }
            }
            Fault::Leave => self.leave(slot),
            Fault::Cut => self.cut(slot),
            Fault::Freeze => {
                let until = self.now + self.dice.between(10 * MS, 1_500 * MS);
                self.store.frozen_until = self.store.frozen_until.max(until);
                self.say(|_| format!("the store freezes until {}", until as f64 / 1_000.0));
            }
            Fault::Restart => self.lose(|world| {
                world.store.restart();
                true
            }),
            Fault::Rollback => {
                let which = self.dice.roll(1 << 20);
                self.fall_back(which, None);
            }
            Fault::RollbackOne => {
                let which = self.dice.roll(1 << 20);
                let account = self.dice.roll(self.setup.accounts as u64) as usize;
                self.fall_back(which, Some(account));
            }
            Fault::Empty | Fault::Flush => {
                // Somebody must remember each account, or it is gone for good.
                if (0..self.setup.accounts).all(|account| known(&self.replicas, account)) {
                    self.lose(|world| {
                        world.store.empty(fault == Fault::Empty);
                        true
                    });
                }
            }
            Fault::Jump => {
                let hours = self.dice.amount(4) - 2;
                let by = hours * 3_600_000_000_000 + self.dice.amount(5_000_000_000);
                self.replicas[slot].hands.set(by);
                self.say(|world| {
                    format!("the time of day of {} is set by {by} ns", world.who(slot))
                });
            }
        }
    }

    fn fall_back(&mut self, which: u64, account: Option<usize>) {
        self.lose(|world| {
            let World {
                store, replicas, ..
            } = world;
            store.fall_back(which, account, |account| known(replicas, account))
        });
    }

    fn cut(&mut self, slot: usize) {
        if self.replicas[slot].cut {
            return;
        }
        self.replicas[slot].cut = true;
        let delay = self.some(self.setup.away);
        self.say(|world| format!("{} is cut off for {} ms", world.who(slot), delay / MS));
        self.at(delay, Event::Mend(slot));
    }

    pub(crate) fn mend(&mut self, slot: usize) {
        if std::mem::replace(&mut self.replicas[slot].cut, false) {
            self.say(|world| format!("{} is heard again", world.who(slot)));
            self.listen_soon(slot, 100 * MS);
        }
    }

    fn listen_soon(&mut self, slot: usize, most: Micros) {
        let (life, delay) = (self.replicas[slot].life, self.some(most));
        self.at(delay, Event::Listen { slot, life });
    }

    /// The store begins another history, in which it may lack something.
    fn lose(&mut self, how: impl FnOnce(&mut Self) -> bool) {
        let before: Vec<_> = self.store.desks.iter().map(Arc::clone).collect();
        if !how(self) {
            return;
        }
        self.done.losses += 1;
        self.say(|world| {
            let heads: Vec<_> = world
                .store
                .desks
                .iter()
                .map(|desk| desk.head.version)
                .collect();
            let were: Vec<_> = before.iter().map(|desk| desk.head.version).collect();
            format!(
                "history {}: versions {were:?} > {heads:?}",
                world.store.history
            )
        });
        self.lost(&before);
        for slot in 0..self.replicas.len() {
            self.listen_soon(slot, 400 * MS);
        }
    }
}

/// Whether somebody remembers an account.
fn known(replicas: &[Replica], account: usize) -> bool {
    replicas
        .iter()
        .any(|replica| replica.recall.contains_key(&account))
}
