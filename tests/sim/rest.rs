//! The end of a run: nothing goes wrong any more, calls end, and then everything must have come to rest as it should.

use std::collections::BTreeMap;

use super::promises::Broken;
use super::setup::LEASE;
use super::store::KEYS;
use super::world::World;

impl World {
    /// Nothing goes wrong any more, and everybody is back.
    pub(crate) fn heal(&mut self) {
        self.say(|_| "everything is well again".into());
        self.trouble = false;
        self.store.frozen_until = self.now;
        for slot in 0..self.replicas.len() {
            self.mend(slot);
            if self.replicas[slot].leaving.is_some() {
                self.stop(slot, true);
            }
            let life = self.replicas[slot].life;
            self.boot(slot, life);
        }
    }

    /// What must hold once everything is well again.
    pub(crate) fn come_to_rest(&mut self) -> Result<(), Broken> {
        self.run_until(self.now + 3 * LEASE)?;
        self.calling = false;
        // The longest call, the latest message, and some leases of time.
        self.run_until(self.now + 11 * LEASE)?;
        for account in 0..self.setup.accounts {
            if let Err(how) = self.converged(account) {
                let promise = "all is told once everything is well";
                return Err(Broken {
                    at: self.now,
                    promise,
                    how,
                });
            }
        }
        Ok(())
    }

    fn converged(&self, account: usize) -> Result<(), String> {
        let desk = &self.store.desks[account];
        self.check_commands(account, desk)?;
        let (mut gone, mut stored) = (0, 0);
        for ident in &self.idents {
            let (name, truth) = (&ident.name, &ident.truth[account]);
            let row = desk.row(name).row;
            let spend = row.spend.nanos();
            stored += spend;
            if ident.slot.is_none() {
                gone += truth.stored - spend;
                continue;
            }
            if spend != truth.spend {
                return Err(format!(
                    "a{account}: {spend} stored of {name}, {} spent",
                    truth.spend
                ));
            }
            let loaded = ident
                .slot
                .is_some_and(|slot| self.replicas[slot].loaded[account].is_some());
            if !loaded {
                // What it had goes back once somebody looks for it.
                continue;
            }
            if row.committed.nanos() != spend || row.rate.share > 0 || row.places.share > 0 {
                return Err(format!("a{account}: {name} is at rest and has {row:?}"));
            }
            let usage = desk
                .usage
                .iter()
                .filter(|((who, hour, ..), _)| who == name && hour.is_none());
            let usage: BTreeMap<_, _> = usage
                .map(|((_, _, key, model), tally)| ((key.clone(), model.clone()), *tally))
                .collect();
            if usage != truth.lifetime {
                return Err(format!(
                    "a{account}: usage of {name}: {usage:?}, not {:?}",
                    truth.lifetime
                ));
            }
        }
        let lost = desk.head.lost.nanos();
        if lost > gone {
            return Err(format!(
                "a{account}: {lost} are lost, {gone} of it went with its file"
            ));
        }
        if desk.head.total.nanos() != stored + lost {
            return Err(format!("a{account}: the total is {}", desk.head.total));
        }
        let absorbed = desk.book.as_ref().map_or(0, |book| book.absorbed.nanos());
        let spoke = self.watch[account].spoke.contains(&self.store.era);
        if spoke && absorbed > desk.head.total.nanos() {
            return Err(format!(
                "a{account}: {absorbed} absorbed of {}",
                desk.head.total
            ));
        }
        for replica in &self.replicas {
            if replica.open(account) != (0, 0) {
                return Err(format!("a{account}: a hold never ended"));
            }
            if let Some(loaded) = &replica.loaded[account] {
                let (known, stands) = (&loaded.line.known, desk.head.version);
                if known.version != stands || Some(&known.book) != desk.book.as_ref() {
                    let who = &self.idents[replica.ident].name;
                    let version = known.version;
                    return Err(format!(
                        "a{account}: {who} goes by version {version}, not {stands}"
                    ));
                }
            }
        }
        // Keys that went with the only file that had them are gone.
        let all_files = self.idents.iter().all(|ident| ident.slot.is_some());
        if desk.keys.len() != KEYS && all_files {
            return Err(format!("a{account}: the keys are {:?}", desk.keys));
        }
        Ok(())
    }
}
