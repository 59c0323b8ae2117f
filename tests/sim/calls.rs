//! Calls: they come, wait for a lease, are admitted or not, and are settled.

use std::sync::Arc;

use tollgate::engine::{Ask, Denied, ModelId};
use tollgate::money::Amount;
use tollgate::sync::line::Give;
use tollgate::usage::{Certainty, Counts};

use super::replica::{OpenCall, Waiter, Want};
use super::setup::{LEASE, MS, REFILL_WAIT};
use super::store::KEYS;
use super::world::{Event, World};

impl World {
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
    pub(crate) fn wait(&mut self, slot: usize, account: usize, waiter: Waiter) {
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
        let ask = Ask {
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
