//! Overdue, suspended, reactivated, closed: facts that are written down, and what is announced when they change.

use super::Work;
use crate::clock::Timestamp;
use crate::ledger::book::Book;
use crate::ledger::entry::EntryKind;
use crate::ledger::event::EventKind;
use crate::ledger::rejected::Rejected;
use crate::money::Amount;
use crate::policy::Policy;

impl Work<'_> {
    /// The clock of an episode runs from the first word on: a second one changes nothing.
    pub(super) fn mark_overdue(&mut self, note: &str) {
        let first = self
            .again
            .map_or(self.now, |entry| entry.origin.unwrap_or(entry.time));
        self.book.declared_overdue = Some(self.book.declared_overdue.unwrap_or(first));
        self.entry(EntryKind::OverdueMarked, Amount::ZERO).note = note.into();
    }

    pub(super) fn clear_overdue(&mut self, note: &str) -> Result<(), Rejected> {
        if self.book.declared_overdue.take().is_none() && self.again.is_none() {
            return Err(Rejected::NotDeclaredOverdue);
        }
        self.entry(EntryKind::OverdueCleared, Amount::ZERO).note = note.into();
        Ok(())
    }

    pub(super) fn reactivate(&mut self, capability: &str) -> Result<(), Rejected> {
        let book = &mut self.book;
        let known = &self.policy.capabilities;
        if self.again.is_none() {
            if book.debt > book.allowance(self.policy) {
                return Err(Rejected::InDebt(book.debt));
            }
            if let Some(since) = book.declared_overdue {
                return Err(Rejected::DeclaredOverdue(since));
            }
            if !book.needs_reactivation(self.policy) {
                return Err(Rejected::NothingToReactivate(capability.into()));
            }
            if capability != "*" && !known.iter().any(|known| known == capability) {
                return Err(Rejected::UnknownCapability {
                    given: capability.into(),
                    known: known.join(", "),
                });
            }
        }
        if book.suspended_at.is_some() {
            book.reactivated.insert(capability.into());
        }
        let all = capability == "*" || known.iter().all(|known| book.reactivated.contains(known));
        let ends = all && book.suspended_at.is_some() && !self.overdue;
        if ends {
            book.suspended_at = None;
            book.reactivated.clear();
        }
        self.entry(EntryKind::Reactivation, Amount::ZERO).note = capability.into();
        if ends {
            self.event(EventKind::AccountResumed, Amount::ZERO);
        }
        Ok(())
    }

    pub(super) fn close(&mut self, note: &str) {
        let first = self.book.closed.is_none();
        self.book.closed = Some(self.book.closed.unwrap_or(self.now));
        self.entry(EntryKind::Closed, Amount::ZERO).note = note.into();
        if first {
            self.event(EventKind::AccountClosed, Amount::ZERO);
        }
    }

    /// Begins and ends the episode that the debt makes, and announces what follows, once per episode.
    pub(super) fn follow_debt(&mut self) {
        let (book, now) = (&mut self.book, self.now);
        if book.debt > book.allowance(self.policy) {
            book.overdue_since = Some(book.overdue_since.unwrap_or(now));
        } else {
            book.overdue_since = None;
        }
        let (debt, overdue) = (
            book.debt,
            book.overdue_since.or(book.declared_overdue).is_some(),
        );
        match (self.overdue, overdue) {
            (false, true) => {
                self.event(EventKind::AccountOverdue, debt);
            }
            (true, false) => self.paid(),
            _ => {}
        }
    }

    /// An episode has ended.
    fn paid(&mut self) {
        self.book.purge_sent = false;
        let kind = if self.book.needs_reactivation(self.policy) {
            EventKind::ReactivationRequired
        } else {
            self.book.suspended_at = None;
            self.book.reactivated.clear();
            EventKind::AccountResumed
        };
        self.event(kind, Amount::ZERO);
    }

    /// Writes down that a deadline has passed: of the suspension, and of what follows it.
    pub(super) fn suspend(&mut self) {
        let (policy, now, debt) = (self.policy, self.now, self.book.debt);
        if let Some(at) = self.book.suspension_due(debt, policy, now) {
            self.book.suspended_at = Some(at);
            self.book.reactivated.clear();
            self.book.purge_sent = false;
            self.event(EventKind::AccountSuspended, debt);
        }
        if self.book.purge_due(debt, policy, now) {
            self.book.purge_sent = true;
            self.event(EventKind::PurgeEligible, debt);
        }
    }
}

impl Book {
    /// The deadline of a suspension that has passed and was not written down.
    pub(in crate::ledger) fn suspension_due(
        &self,
        owed: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let due = self.suspension(owed, policy, now).filter(|at| now >= *at)?;
        let untold = self.closed.is_none() && !self.is_suspension_told(owed, policy, now);
        untold.then_some(due)
    }

    pub(in crate::ledger) fn purge_due(
        &self,
        owed: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> bool {
        let due = self.purge(owed, policy, now).is_some_and(|at| now >= at);
        due && self.closed.is_none() && !self.purge_sent
    }
}
