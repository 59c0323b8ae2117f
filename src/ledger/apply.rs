//! The one function that changes a book.

use super::book::{
    Allocation, Book, CREDIT_BLOCKS_MAX, CreditBlock, CreditKind, Entry, EntryKind, Event,
    EventKind,
};
use super::{Action, Command};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::policy::Policy;

/// What a command made of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The next book.
    pub book: Book,
    /// What explains it; the last one answers the command.
    pub entries: Vec<Entry>,
    /// What announces it.
    pub events: Vec<Event>,
    /// The change of lifetime credit and floor: what a store adds to what may be leased.
    pub credit_delta: Amount,
}

/// Why a command is not carried out. The book is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// An amount that must be above zero.
    #[error("amount is {0}; it must be above zero")]
    NotPositive(Amount),
    /// An adjustment by nothing.
    #[error("amount is 0.00; an adjustment is above or below zero")]
    NoAmount,
    /// An adjustment without a reason.
    #[error("note is empty; say why the balance is adjusted")]
    NoNote,
    /// An expiry that is over.
    #[error("expire_time is {0}, which is not after now")]
    Expired(Timestamp),
    /// A sum beyond the range.
    #[error("the book would leave the range of ±9223372036.854775807")]
    OutOfRange,
    /// Too many credit blocks.
    #[error("the account has {CREDIT_BLOCKS_MAX} credit blocks with money left, which is the most")]
    TooManyBlocks,
}

/// Carries out a command at an instant. `spend` is the account's total over all replicas, as read with the book.
///
/// Nothing is changed by a command that is rejected. Whether a command was seen before is asked first, with
/// [`Command::seen_before`]: that answer lies in the store, not in the book.
pub fn apply(
    book: &Book,
    spend: Amount,
    command: &Command,
    policy: &Policy,
    now: Timestamp,
) -> Result<Applied, Rejected> {
    let before = book
        .lifetime_credit
        .checked_add(book.floor)
        .ok_or(Rejected::OutOfRange)?;
    let mut work = Work {
        book: book.clone(),
        entries: Vec::new(),
        events: Vec::new(),
        now,
    };
    work.absorb(spend)?;
    work.expire()?;
    work.carry_out(command)?;
    work.book.floor = policy.credit_limit;
    work.announce(policy);
    let Work {
        book,
        entries,
        events,
        ..
    } = work;
    let after = book
        .lifetime_credit
        .checked_add(book.floor)
        .ok_or(Rejected::OutOfRange)?;
    let credit_delta = after.checked_sub(before).ok_or(Rejected::OutOfRange)?;
    Ok(Applied {
        book,
        entries,
        events,
        credit_delta,
    })
}

/// A book being changed, and what is said about it.
struct Work {
    book: Book,
    entries: Vec<Entry>,
    events: Vec<Event>,
    now: Timestamp,
}

impl Work {
    /// Takes from the blocks what the replicas have spent since the last time.
    fn absorb(&mut self, spend: Amount) -> Result<(), Rejected> {
        let fresh = spend
            .checked_sub(self.book.absorbed)
            .ok_or(Rejected::OutOfRange)?;
        if !fresh.is_positive() {
            return Ok(());
        }
        self.book.absorbed = spend;
        let (allocations, debt_made) = self.burn(fresh)?;
        let entry = self.entry(EntryKind::Usage, fresh.negated());
        *entry = Entry {
            allocations,
            debt_made,
            ..entry.clone()
        };
        Ok(())
    }

    /// Writes off what is left of blocks whose time is over: at their expiry exactly, they are over.
    fn expire(&mut self) -> Result<(), Rejected> {
        let now = self.now;
        let due = |block: &CreditBlock| block.expires.is_some_and(|at| at <= now);
        let (over, live): (Vec<_>, Vec<_>) = std::mem::take(&mut self.book.blocks)
            .into_iter()
            .partition(due);
        self.book.blocks = live;
        for block in over {
            self.add_credit(block.remaining.negated())?;
            let entry = self.entry(EntryKind::Expiry, block.remaining.negated());
            entry.allocations = vec![Allocation {
                block: block.id,
                amount: block.remaining,
            }];
            entry.order_id = block.order_id;
            self.event(EventKind::CreditExpired, block.remaining);
        }
        Ok(())
    }

    fn carry_out(&mut self, command: &Command) -> Result<(), Rejected> {
        match &command.action {
            Action::Recharge {
                amount,
                order_id,
                priority,
                expires,
                note,
            } => {
                self.check_credit(*amount, *expires)?;
                self.book.cumulative_recharge = self
                    .book
                    .cumulative_recharge
                    .checked_add(*amount)
                    .ok_or(Rejected::OutOfRange)?;
                let block = CreditBlock {
                    kind: CreditKind::Paid,
                    order_id: Some(order_id.clone()),
                    ..self.block(*priority, *expires)
                };
                self.put_in(EntryKind::Recharge, *amount, block, note)?;
            }
            Action::Grant {
                amount,
                order_id,
                priority,
                expires,
                note,
            } => {
                self.check_credit(*amount, *expires)?;
                let block = CreditBlock {
                    kind: CreditKind::Bonus,
                    order_id: order_id.clone(),
                    ..self.block(*priority, *expires)
                };
                self.put_in(EntryKind::Grant, *amount, block, note)?;
            }
            Action::Adjust { amount, note } => self.adjust(*amount, note)?,
            Action::LateCharge {
                amount,
                key,
                model,
                note,
            } => {
                self.check_positive(*amount)?;
                self.take_out(EntryKind::LateCharge, *amount, note)?;
                if let Some(entry) = self.entries.last_mut() {
                    entry.key.clone_from(key);
                    entry.model.clone_from(model);
                }
            }
            Action::Configure {
                name,
                policy,
                overrides,
            } => {
                let book = &mut self.book;
                name.clone_into_if_some(&mut book.name);
                policy.clone_into_if_some(&mut book.policy);
                overrides.clone_into_if_some(&mut book.overrides);
                self.entry(EntryKind::Configuration, Amount::ZERO);
                if self.book.entries == 1 {
                    self.event(EventKind::AccountOpened, Amount::ZERO);
                }
            }
            Action::Observe => {}
        }
        if let (Some(entry), Some(_)) = (self.entries.last_mut(), &command.idempotency_key) {
            entry.idempotency_key.clone_from(&command.idempotency_key);
        }
        Ok(())
    }

    fn check_positive(&self, amount: Amount) -> Result<(), Rejected> {
        if amount.is_positive() {
            Ok(())
        } else {
            Err(Rejected::NotPositive(amount))
        }
    }

    fn check_credit(&self, amount: Amount, expires: Option<Timestamp>) -> Result<(), Rejected> {
        self.check_positive(amount)?;
        match expires {
            Some(at) if at <= self.now => Err(Rejected::Expired(at)),
            _ => Ok(()),
        }
    }

    /// A block without money, to be filled by [`Work::put_in`].
    fn block(&self, priority: i32, expires: Option<Timestamp>) -> CreditBlock {
        CreditBlock {
            id: self.book.last_block.saturating_add(1),
            kind: CreditKind::Paid,
            priority,
            effective: self.now,
            expires,
            granted: Amount::ZERO,
            remaining: Amount::ZERO,
            order_id: None,
        }
    }

    /// Adds money: what is paid goes to the debt first (A3-13), what is given does not.
    fn put_in(
        &mut self,
        kind: EntryKind,
        amount: Amount,
        block: CreditBlock,
        note: &str,
    ) -> Result<(), Rejected> {
        self.add_credit(amount)?;
        let debt_paid = if block.kind == CreditKind::Paid {
            amount.min(self.book.debt)
        } else {
            Amount::ZERO
        };
        self.book.debt = self
            .book
            .debt
            .checked_sub(debt_paid)
            .ok_or(Rejected::OutOfRange)?;
        let rest = amount.checked_sub(debt_paid).ok_or(Rejected::OutOfRange)?;
        let order_id = block.order_id.clone();
        let (priority, expires) = (block.priority, block.expires);
        let made = if rest.is_positive() {
            Some(block.id)
        } else {
            None
        };
        if made.is_some() {
            if self.book.blocks.len() >= CREDIT_BLOCKS_MAX {
                return Err(Rejected::TooManyBlocks);
            }
            self.book.last_block = block.id;
            self.book.blocks.push(CreditBlock {
                granted: rest,
                remaining: rest,
                ..block
            });
            self.book.blocks.sort_by_key(burn_order);
        }
        let entry = self.entry(kind, amount);
        *entry = Entry {
            debt_paid,
            block: made,
            order_id,
            note: note.into(),
            priority,
            expires,
            ..entry.clone()
        };
        self.event(EventKind::CreditAdded, amount);
        Ok(())
    }

    /// Takes money that no replica counted as spend.
    fn take_out(&mut self, kind: EntryKind, amount: Amount, note: &str) -> Result<(), Rejected> {
        self.add_credit(amount.negated())?;
        let (allocations, debt_made) = self.burn(amount)?;
        let entry = self.entry(kind, amount.negated());
        *entry = Entry {
            allocations,
            debt_made,
            note: note.into(),
            ..entry.clone()
        };
        Ok(())
    }

    fn adjust(&mut self, amount: Amount, note: &str) -> Result<(), Rejected> {
        if amount == Amount::ZERO {
            return Err(Rejected::NoAmount);
        }
        if note.trim().is_empty() {
            return Err(Rejected::NoNote);
        }
        if amount < Amount::MIN {
            // It has no opposite, so it would be taken for one nano-unit less than it says.
            return Err(Rejected::OutOfRange);
        }
        if amount.is_negative() {
            return self.take_out(EntryKind::Adjustment, amount.negated(), note);
        }
        // A correction in the account's favour pays debt as money does: it says that the debt was never there.
        let block = self.block(0, None);
        self.put_in(EntryKind::Adjustment, amount, block, note)?;
        self.events.pop();
        self.book.events = self.book.events.saturating_sub(1);
        Ok(())
    }

    /// Takes from the blocks in burn order; what none covers becomes debt.
    fn burn(&mut self, amount: Amount) -> Result<(Vec<Allocation>, Amount), Rejected> {
        let mut left = amount;
        let mut allocations = Vec::new();
        for block in &mut self.book.blocks {
            if !left.is_positive() {
                break;
            }
            let taken = left.min(block.remaining);
            left = left.checked_sub(taken).ok_or(Rejected::OutOfRange)?;
            block.remaining = block
                .remaining
                .checked_sub(taken)
                .ok_or(Rejected::OutOfRange)?;
            allocations.push(Allocation {
                block: block.id,
                amount: taken,
            });
        }
        self.book
            .blocks
            .retain(|block| block.remaining.is_positive());
        self.book.debt = self
            .book
            .debt
            .checked_add(left)
            .ok_or(Rejected::OutOfRange)?;
        Ok((allocations, left))
    }

    fn add_credit(&mut self, amount: Amount) -> Result<(), Rejected> {
        let book = &mut self.book;
        book.lifetime_credit = book
            .lifetime_credit
            .checked_add(amount)
            .ok_or(Rejected::OutOfRange)?;
        Ok(())
    }

    /// What follows from the balance, each once per crossing.
    fn announce(&mut self, policy: &Policy) {
        let owes = self.book.debt.is_positive();
        match (owes, self.book.overdue_since) {
            (true, None) => {
                self.book.overdue_since = Some(self.now);
                self.event(EventKind::AccountOverdue, self.book.debt);
            }
            (false, Some(_)) => {
                self.book.overdue_since = None;
                self.event(EventKind::AccountResumed, Amount::ZERO);
            }
            _ => {}
        }
        // A threshold that is taken away is armed again: what the balance does meanwhile, nobody watches.
        let crossed = policy.low_balance.filter(|at| self.balance() < *at);
        if let (Some(threshold), false) = (crossed, self.book.low_balance_sent) {
            self.event(EventKind::BalanceLow, threshold);
        }
        self.book.low_balance_sent = crossed.is_some();
    }

    fn balance(&self) -> Amount {
        self.book.balance(self.book.absorbed)
    }

    fn entry(&mut self, kind: EntryKind, amount: Amount) -> &mut Entry {
        self.book.entries = self.book.entries.saturating_add(1);
        let entry = Entry {
            sequence: self.book.entries,
            time: self.now,
            kind,
            amount,
            balance: self.balance(),
            debt_paid: Amount::ZERO,
            debt_made: Amount::ZERO,
            allocations: Vec::new(),
            block: None,
            idempotency_key: None,
            order_id: None,
            key: None,
            model: None,
            note: String::new(),
            priority: 0,
            expires: None,
            origin: None,
        };
        self.entries.push_mut(entry)
    }

    fn event(&mut self, kind: EventKind, amount: Amount) {
        self.book.events = self.book.events.saturating_add(1);
        let id = format!("{}/{}", self.book.account, self.book.events);
        let (account, balance) = (self.book.account.clone(), self.balance());
        self.events.push(Event {
            id,
            account,
            time: self.now,
            kind,
            balance,
            amount,
        });
    }
}

/// priority ascending, earliest expiry (none last), bonus before paid, earliest effective, id.
fn burn_order(block: &CreditBlock) -> (i32, bool, Option<Timestamp>, CreditKind, Timestamp, u64) {
    (
        block.priority,
        block.expires.is_none(),
        block.expires,
        block.kind,
        block.effective,
        block.id,
    )
}

/// "`None` leaves it."
trait CloneIntoIfSome<T> {
    fn clone_into_if_some(&self, place: &mut T);
}

impl<T: Clone> CloneIntoIfSome<T> for Option<T> {
    fn clone_into_if_some(&self, place: &mut T) {
        if let Some(value) = self {
            place.clone_from(value);
        }
    }
}
