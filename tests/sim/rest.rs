//! The end of a run: nothing goes wrong any more, calls end, and then everything must have come to rest as it should.

use std::collections::BTreeMap;

use tollgate::store::desk::Desk;
use tollgate::usage::Tally;

use super::promises::Broken;
use super::replica::{Loaded, Replica, Whose};
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
            if self.store.emptied_quietly && spend == 0 && desk.head.lost.is_positive() {
                // It has nothing to say, so nothing told it: what it spent is set aside as lost until it is called.
                gone += truth.spend;
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
            if !self.all_counted(&usage, &truth.lifetime) {
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
                self.follows(account, replica, loaded, desk)?;
            }
        }
        // Keys that went with the only file that had them are gone.
        let all_files = self.idents.iter().all(|ident| ident.slot.is_some());
        if desk.keys.len() != KEYS && all_files {
            return Err(format!("a{account}: the keys are {:?}", desk.keys));
        }
        Ok(())
    }

    /// Whether a store has all usage that was counted. Nothing tells a replica that has only served for nothing that the store was emptied
    /// without a word: its counts of that come back with its next charge.
    fn all_counted(
        &self,
        usage: &BTreeMap<Whose, Tally>,
        counted: &BTreeMap<Whose, Tally>,
    ) -> bool {
        counted.iter().all(|(whose, tally)| {
            let quiet = self.store.emptied_quietly && tally.cost_nanos == 0;
            quiet || usage.get(whose) == Some(tally)
        })
    }

    /// A version is one book, and nobody goes by one that is not there. One who has nothing to say may not have heard of the last.
    fn follows(
        &self,
        account: usize,
        replica: &Replica,
        loaded: &Loaded,
        desk: &Desk,
    ) -> Result<(), String> {
        let (known, stands) = (&loaded.line.known, desk.head.version);
        let other = known.version == stands && Some(&known.book) != desk.book.as_ref();
        if other || known.version > stands {
            let (name, version) = (&self.idents[replica.ident].name, known.version);
            return Err(format!(
                "a{account}: {name} goes by version {version}, not {stands}"
            ));
        }
        Ok(())
    }
}
