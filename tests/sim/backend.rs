//! The billing backend: it gives commands through replicas, tries each again under its key until it is acknowledged, and knows what must
//! have become of it.

use std::time::Duration;

use tollgate::books::remember::Stands;
use tollgate::ledger::{Action, Applied, Claim, Command, Entry, Rejected, Seen, TAIL_MAX, apply};
use tollgate::money::Amount;
use tollgate::policy::Overrides;
use tollgate::store::desk::Desk;
use tollgate::store::{Commit, Snapshot};

use super::jobs::Job;
use super::setup::{LEASE, MS, Micros};
use super::store::account_id;
use super::world::{Event, World};

/// The most commands of a run: what a replica remembers are the last entries, and a command makes two.
const COMMANDS_MAX: usize = TAIL_MAX / 4;

/// What became of a command, as its backend and an onlooker know it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) account: usize,
    pub(crate) command: Command,
    /// It is told from others by this, also without a key.
    note: String,
    /// A store carried it out.
    executed: bool,
    /// The replica that said so, by its file.
    acknowledged: Option<usize>,
    /// That file was lost since: so may the command be.
    at_risk: bool,
    /// It will not be tried any more.
    given_up: bool,
    /// It is being tried.
    busy: bool,
    /// When it is tried next: only the last such plan counts.
    turn: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Backend {
    pub(crate) given: Vec<Given>,
}

impl Backend {
    /// What was acknowledged by whoever had this file may be lost with it.
    pub(crate) fn file_lost(&mut self, ident: usize) {
        for given in &mut self.given {
            given.at_risk |= given.acknowledged == Some(ident);
        }
    }
}

/// A command as it is written into a store.
pub(crate) fn commit(expected: u64, applied: Applied, command: &Command) -> Commit {
    let Applied {
        book,
        entries,
        events,
        credit_delta,
    } = applied;
    let entry = entries.last().cloned();
    let claim = |name| {
        let fingerprint = command.fingerprint();
        entry
            .clone()
            .map(|entry| (name, Claim { fingerprint, entry }))
    };
    Commit {
        expected,
        claims: command.claims().into_iter().filter_map(claim).collect(),
        book,
        credit_delta,
        entries,
        events,
        restore: None,
    }
}

impl World {
    /// The backend wants something.
    pub(crate) fn new_command(&mut self) {
        let delay = self.some(self.setup.command_pace);
        self.at(delay, Event::Command);
        if !self.trouble || self.backend.given.len() >= COMMANDS_MAX {
            return;
        }
        let number = self.backend.given.len();
        let account = self.dice.roll(self.setup.accounts as u64) as usize;
        let note = format!("n{number}");
        let action = self.some_action(number, &note);
        let keyless = matches!(action, Action::Configure(_))
            || (matches!(action, Action::Adjust { .. }) && self.dice.chance(500));
        let command = Command {
            idempotency_key: (!keyless).then(|| format!("c{number}")),
            action,
        };
        self.say(|_| format!("command {number} of a{account}: {command:?}"));
        self.backend.given.push(Given {
            account,
            command,
            note,
            executed: false,
            acknowledged: None,
            at_risk: false,
            given_up: false,
            busy: false,
            turn: 0,
        });
        self.try_command(number, 0);
    }

    fn some_action(&mut self, number: usize, note: &str) -> Action {
        let amount = Amount::from_nanos(1 + self.dice.amount(400));
        let soon = self.dice.chance(300).then(|| {
            let lives = Duration::from_micros(self.some(6 * LEASE));
            self.replicas[0].hands.now(self.now).wall.plus(lives)
        });
        let (note, order) = (note.to_owned(), format!("o{number}"));
        match self.dice.roll(10) {
            0..=3 => Action::Recharge {
                amount,
                order_id: order,
                priority: 0,
                expires: None,
                note,
            },
            4 | 5 => Action::Grant {
                amount,
                order_id: Some(order),
                priority: 1,
                expires: soon,
                note,
            },
            6 => Action::Adjust { amount, note },
            7 => Action::Adjust {
                amount: amount.negated(),
                note,
            },
            8 => Action::LateCharge {
                amount,
                key: None,
                model: None,
                note,
            },
            _ => Action::Configure(tollgate::ledger::Configure {
                name: None,
                policy: None,
                overrides: Some(Overrides {
                    credit_limit: self.dice.chance(300).then_some(amount),
                    qps: self.dice.chance(500).then(|| self.dice.pick(&[2, 10, 50])),
                    concurrency: self.dice.chance(500).then(|| self.dice.pick(&[1, 4, 12])),
                    ..Overrides::default()
                }),
                ..Default::default()
            }),
        }
    }

    /// A command goes to some replica.
    pub(crate) fn try_command(&mut self, number: usize, turn: u64) {
        let given = &self.backend.given[number];
        if given.acknowledged.is_some() || given.given_up || given.turn != turn {
            return;
        }
        if given.busy {
            // It waited long enough: its replica may be dead.
            self.command_failed(number);
            return;
        }
        let slot = self.dice.roll(self.replicas.len() as u64) as usize;
        let replica = &self.replicas[slot];
        if !replica.up || replica.leaving.is_some() {
            self.try_later(number, 150 * MS);
            return;
        }
        let given = &mut self.backend.given[number];
        given.busy = true;
        let (account, command) = (given.account, given.command.clone());
        let job = Job {
            command,
            number: Some(number),
            tries: 0,
        };
        // Its caller waits for so long, should the replica die.
        self.try_later(number, 400 * MS);
        self.run_job(slot, account, job);
    }

    fn try_later(&mut self, number: usize, most: Micros) {
        let given = &mut self.backend.given[number];
        given.turn += 1;
        let turn = given.turn;
        let delay = self.some(most);
        self.at(delay, Event::Try { number, turn });
    }

    /// What to write for a command, on a book as it was read; `None` if there is nothing to write.
    pub(crate) fn carry_out(
        &mut self,
        slot: usize,
        account: usize,
        job: &Job,
        stands: Stands,
    ) -> Option<(Commit, (Snapshot, Vec<Entry>))> {
        let read = stands.snapshot.clone();
        match (job.command.seen_before(&read.claims), job.number) {
            (Seen::Never, _) => {}
            (Seen::Before(_), Some(number)) => {
                self.acknowledged(slot, number);
                return None;
            }
            (seen, number) => {
                let how = format!("command {number:?} of a{account} is met by {seen:?}");
                self.breaks("a command that is tried again is known again", how);
                return None;
            }
        }
        let mut named = read.book.clone();
        if let Action::Configure(tollgate::ledger::Configure {
            overrides: Some(overrides),
            ..
        }) = &job.command.action
        {
            named.overrides = overrides.clone();
        }
        let policy = self.policy_of(account, &named);
        let wall = self.replicas[slot].hands.now(self.now).wall;
        let applied = match apply(&read.book, read.spent(), &job.command, &policy, wall) {
            Ok(applied) => applied,
            Err(Rejected::Expired(_)) => {
                if let Some(number) = job.number {
                    self.backend.given[number].given_up = true;
                }
                return None;
            }
            Err(error) => {
                self.breaks("the ledger takes a command", error.to_string());
                return None;
            }
        };
        if applied.book == read.book {
            match job.number {
                Some(number) => self.acknowledged(slot, number),
                None => self.observed(slot, account),
            }
            return None;
        }
        let entries = applied.entries.clone();
        let commit = commit(read.version, applied, &job.command);
        let after = Snapshot {
            book: commit.book.clone(),
            unleased: read.unleased.saturating_add(commit.credit_delta),
            claims: Vec::new(),
            ..read
        };
        Some((commit, (after, entries)))
    }

    /// A store carried out a command.
    pub(crate) fn executed(&mut self, number: usize) {
        self.done.commands += 1;
        let given = &mut self.backend.given[number];
        let first = !std::mem::replace(&mut given.executed, true);
        let (account, action) = (given.account, given.command.action.clone());
        let credit = match action {
            Action::Recharge { amount, .. } | Action::Grant { amount, .. } => amount,
            Action::Adjust { amount, .. } => amount.or_zero(),
            _ => Amount::ZERO,
        };
        if first {
            self.watch[account].paid += credit.nanos();
        }
        if let Action::Configure(tollgate::ledger::Configure {
            overrides: Some(overrides),
            ..
        }) = action
        {
            let floor = overrides.credit_limit.unwrap_or_default().nanos();
            let watch = &mut self.watch[account];
            watch.floor = watch.floor.max(floor);
        }
    }

    /// Its backend is told that a command was carried out: from now on it must be in the book.
    pub(crate) fn acknowledged(&mut self, slot: usize, number: usize) {
        self.say(|_| format!("command {number} is acknowledged by r{slot}"));
        let ident = self.replicas[slot].ident;
        let given = &mut self.backend.given[number];
        given.busy = false;
        given.acknowledged = Some(ident);
    }

    /// No answer, or not now. What has no key is not tried again: it might count twice.
    pub(crate) fn command_failed(&mut self, number: usize) {
        let given = &mut self.backend.given[number];
        given.busy = false;
        let keyless = given.command.idempotency_key.is_none();
        given.given_up |= keyless && !matches!(given.command.action, Action::Configure(_));
        self.try_later(number, 300 * MS);
    }

    /// What must have become of the commands of an account.
    pub(crate) fn check_commands(&self, account: usize, desk: &Desk) -> Result<(), String> {
        let Some(book) = &desk.book else {
            return Err(format!("a{account} is not there"));
        };
        for (number, given) in self.backend.given.iter().enumerate() {
            if given.account != account || matches!(given.command.action, Action::Configure(_)) {
                continue;
            }
            let count = desk
                .entries
                .iter()
                .filter(|entry| entry.note == given.note)
                .count();
            let expires = match &given.command.action {
                Action::Grant { expires, .. } => expires.is_some(),
                _ => false,
            };
            let must = given.acknowledged.is_some() && !given.at_risk && !expires;
            if count > 1 || (must && count == 0) {
                return Err(format!(
                    "command {number} of {} stands {count} times in the ledger: {given:?}",
                    account_id(account)
                ));
            }
            let waits = given.acknowledged.is_none() && !given.given_up;
            if waits {
                return Err(format!(
                    "command {number} was never acknowledged: {given:?}"
                ));
            }
        }
        let moved: i64 = desk
            .entries
            .iter()
            .filter(|entry| entry.kind != tollgate::ledger::EntryKind::Usage)
            .map(|entry| entry.amount.nanos())
            .sum();
        if desk.entries_gone == 0 && moved != book.lifetime_credit.nanos() {
            return Err(format!(
                "the entries add up to {moved}, lifetime credit is {}",
                book.lifetime_credit.nanos()
            ));
        }
        Ok(())
    }
}
