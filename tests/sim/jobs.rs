//! Commands that a replica carries out, the backend's and what is due: as `books` does it, one step at a time.

use tollgate::books::remember::{Remembered, Stands};
use tollgate::ledger::{Command, Entry};
use tollgate::store::{Snapshot, StoreError, Stored};

use super::driver::Purpose;
use super::mutation::Mutation;
use super::store::Ask;
use super::world::World;

/// How often a command is tried against faster writers.
const TRIES_MAX: u32 = 8;

/// A command that is carried out here: the backend's, or what is due.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) command: Command,
    /// Which of the backend's it is.
    pub(crate) number: Option<usize>,
    pub(crate) tries: u32,
}

impl World {
    /// Lets the ledger look.
    pub(crate) fn observe(&mut self, slot: usize, account: usize) {
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

    pub(crate) fn looked(
        &mut self,
        slot: usize,
        account: usize,
        history: u64,
        job: Job,
        read: Option<Stands>,
    ) {
        if read.is_none() {
            self.missing(slot, account);
        }
        let Some(stands) = read.filter(|_| !self.uncompared(slot, account, history)) else {
            self.replicas[slot].reconcile = true;
            self.job_failed(slot, account, &job);
            return;
        };
        if self.lost_quietly(slot, account, history, &stands) {
            self.job_failed(slot, account, &job);
            return;
        }
        // What it is written on is remembered, so that what is written goes on from there.
        let little = [Mutation::RemembersLittle, Mutation::TakesPartForWhole].map(Some);
        if !little.contains(&self.mutation) {
            self.remember(slot, account, history, &stands);
        }
        if let Some((commit, written)) = self.carry_out(slot, account, &job, stands) {
            let ask = Ask::Commit {
                commit: Box::new(commit),
                command: job.number,
            };
            self.send(slot, account, ask, Purpose::Write(job, Box::new(written)));
        }
    }

    pub(crate) fn written(
        &mut self,
        slot: usize,
        account: usize,
        mut job: Job,
        (mut snapshot, entries): (Snapshot, Vec<Entry>),
        stored: Result<Stored, StoreError>,
    ) {
        match stored {
            Ok(Stored::At(version)) => {
                let over = std::mem::replace(&mut snapshot.version, version);
                let recall = &mut self.replicas[slot].recall;
                let known = recall.get(&account).cloned();
                if let Some(mut fresh) = Remembered::wrote(known, over, &snapshot, &entries) {
                    fresh.partial &= self.mutation != Some(Mutation::TakesPartForWhole);
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
}
