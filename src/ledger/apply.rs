//! The one function that changes a book. What each command does stands in the files beside it, one idea each; here is the order in
//! which things happen.

mod absorb;
mod alerts;
mod correct;
mod credit;
mod invoices;
mod lifecycle;
mod plans;
mod refund;

pub use refund::Refundable;

use super::book::Book;
use super::entry::{Entry, EntryKind};
use super::event::{Event, EventKind};
use super::rejected::Rejected;
use super::state::Spent;
use super::{Action, Command, Configure};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::policy::{Mode, Policy};

/// What a command made of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The next book.
    pub book: Book,
    /// What explains it.
    pub entries: Vec<Entry>,
    /// What announces it.
    pub events: Vec<Event>,
    /// The change of lifetime credit and floor: what a store adds to what may be leased.
    pub credit_delta: Amount,
}

impl Applied {
    /// The entry that answers the command; `None` if it wrote none, as [`Action::Observe`].
    pub fn answer(&self) -> Option<&Entry> {
        self.entries
            .iter()
            .rev()
            .find(|entry| !entry.kind.is_derived())
    }
}

/// What a command is carried out with, beside the book.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// What the replicas have done, as read with the book.
    pub spent: Spent,
    /// For [`Action::Correct`]: the entry that it names, if there is one.
    pub corrects: Option<&'a Entry>,
}

impl From<Spent> for Given<'_> {
    fn from(spent: Spent) -> Self {
        Self {
            spent,
            corrects: None,
        }
    }
}

/// Carries out a command at an instant.
///
/// Nothing is changed by a command that is rejected. Whether a command was seen before is asked first, with
/// [`Command::seen_before`]: that answer lies in the store, not in the book.
///
/// # Errors
///
/// If the rules say no.
pub fn apply<'a>(
    book: &Book,
    given: impl Into<Given<'a>>,
    command: &Command,
    policy: &Policy,
    now: Timestamp,
) -> Result<Applied, Rejected> {
    run(book, given.into(), command, policy, now, None)
}

/// Carries out a command once more, that a store took and lost: its entry says what it did. What could have been refused then, and was
/// not, is not refused now, and what was paid out is the same amount.
pub(super) fn apply_again(
    book: &Book,
    spent: Spent,
    command: &Command,
    policy: &Policy,
    now: Timestamp,
    entry: &Entry,
) -> Result<Applied, Rejected> {
    run(book, spent.into(), command, policy, now, Some(entry))
}

fn run(
    book: &Book,
    given: Given<'_>,
    command: &Command,
    policy: &Policy,
    now: Timestamp,
    again: Option<&Entry>,
) -> Result<Applied, Rejected> {
    let limit = |book: &Book| book.lifetime_credit.checked_add(book.floor);
    let before = limit(book).ok_or(Rejected::OutOfRange)?;
    let mut work = Work {
        overdue: book.overdue_since.is_some() || book.declared_overdue.is_some(),
        plan: book.has_plan_credit(),
        book: book.clone(),
        entries: Vec::new(),
        events: Vec::new(),
        given,
        policy,
        now,
        again,
    };
    work.absorb()?;
    // A payment that comes after the deadline does not undo the suspension, whether or not anybody had looked before.
    work.suspend();
    work.expire()?;
    if again.is_none() {
        work.check_open(&command.action)?;
    }
    work.carry_out(command)?;
    work.follow_debt();
    work.suspend();
    work.announce();
    if book.account.is_inner() {
        work.keep_to_the_plan(book.events);
    }
    work.book.mode = policy.mode;
    work.book.floor = work.book.floor(work.book.debt, policy, now);
    let Work {
        book,
        entries,
        events,
        ..
    } = work;
    let after = limit(&book).ok_or(Rejected::OutOfRange)?;
    let credit_delta = after.checked_sub(before).ok_or(Rejected::OutOfRange)?;
    Ok(Applied {
        book,
        entries,
        events,
        credit_delta,
    })
}

/// A book being changed, and what is said about it.
struct Work<'a> {
    book: Book,
    entries: Vec<Entry>,
    events: Vec<Event>,
    given: Given<'a>,
    policy: &'a Policy,
    now: Timestamp,
    /// The entry of a command that is carried out once more.
    again: Option<&'a Entry>,
    /// The account was overdue before.
    overdue: bool,
    /// It had plan credit of its own before.
    plan: bool,
}

impl Work<'_> {
    fn carry_out(&mut self, command: &Command) -> Result<(), Rejected> {
        let first = self.entries.len();
        self.act(&command.action)?;
        let whole = self.needs_action(&command.action);
        let later = self.entries.iter_mut().skip(first);
        if let Some(entry) = later.rev().find(|entry| !entry.kind.is_derived()) {
            entry.idempotency_key.clone_from(&command.idempotency_key);
            entry.action = whole.then(|| Box::new(command.action.clone()));
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<(), Rejected> {
        match action {
            Action::Recharge { .. }
            | Action::Grant { .. }
            | Action::BuyPlan { .. }
            | Action::Adjust { .. }
            | Action::LateCharge { .. }
            | Action::Void { .. } => self.move_credit(action),
            Action::Configure(configure) => self.configure(configure),
            Action::MarkOverdue { note } => {
                self.mark_overdue(note);
                Ok(())
            }
            Action::ClearOverdue { note } => self.clear_overdue(note),
            Action::ReactivateCapability { capability } => self.reactivate(capability),
            Action::BeginRefund {
                refund_id,
                orders,
                reason,
            } => self.begin_refund(refund_id, orders, reason),
            Action::CompleteRefund { refund_id, close } => self.complete_refund(refund_id, *close),
            Action::CancelRefund { refund_id, note } => self.cancel_refund(refund_id, note),
            Action::SetInvoicedAmount { order_id, amount } => self.set_invoiced(order_id, *amount),
            Action::AddPlan { plan } => self.add_plan(plan),
            Action::RemovePlan { name } => self.remove_plan(name),
            Action::BuyQpsPlan { .. } => self.buy_qps_plan(action),
            Action::Correct {
                sequence,
                amount,
                note,
            } => self.correct(*sequence, *amount, note),
            Action::CloseInvoicePeriod { invoice_id, lines } => {
                self.close_invoice(invoice_id, lines)
            }
            Action::SettleInvoice { invoice_id } => self.settle_invoice(invoice_id),
            Action::CloseAccount { note } => {
                self.close(note);
                Ok(())
            }
            Action::Observe => Ok(()),
        }
    }

    /// Whether the entry needs the command beside it to say all of it.
    fn needs_action(&self, action: &Action) -> bool {
        match action {
            Action::Recharge { expires, .. } => {
                expires.is_none() && self.policy.credit_expires_after_ms.is_some()
            }
            Action::LateCharge { .. } => !self.policy.enforced(self.now),
            Action::Grant { .. } | Action::Adjust { .. } | Action::Observe => false,
            _ => true,
        }
    }

    /// What a closed or frozen account takes: RULES.md, "State".
    fn check_open(&self, action: &Action) -> Result<(), Rejected> {
        if let Some(since) = self.book.closed {
            return match action {
                Action::LateCharge { .. }
                | Action::Adjust { .. }
                | Action::Correct { .. }
                | Action::CompleteRefund { .. }
                | Action::CancelRefund { .. }
                | Action::SettleInvoice { .. }
                | Action::Observe => Ok(()),
                _ => Err(Rejected::Closed(since)),
            };
        }
        match (&self.book.refund, action) {
            (
                Some(refund),
                Action::Recharge { .. }
                | Action::BuyPlan { .. }
                | Action::BuyQpsPlan { .. }
                | Action::AddPlan { .. }
                | Action::BeginRefund { .. },
            ) => Err(Rejected::Frozen(refund.id.clone())),
            _ => Ok(()),
        }
    }

    fn configure(&mut self, configure: &Configure) -> Result<(), Rejected> {
        let recipients = configure.recipients.as_ref().map_or(0, Vec::len);
        check_count("recipients", recipients, super::RECIPIENTS_MAX)?;
        let book = &mut self.book;
        let to_prepaid =
            book.mode == Mode::CreditThenInvoice && self.policy.mode == Mode::PrepaidOnly;
        let open = book.debt.is_positive() || book.invoiced_outstanding.is_positive();
        if to_prepaid && open && self.again.is_none() {
            return Err(Rejected::ArrearsOpen {
                debt: book.debt,
                outstanding: book.invoiced_outstanding,
            });
        }
        configure.put_on(book);
        self.entry(EntryKind::Configuration, Amount::ZERO);
        if self.book.entries == 1 {
            self.event(EventKind::AccountOpened, Amount::ZERO);
        }
        Ok(())
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
            action: None,
        };
        self.entries.push_mut(entry)
    }

    fn event(&mut self, kind: EventKind, amount: Amount) -> &mut Event {
        self.book.events = self.book.events.saturating_add(1);
        let event = Event {
            id: Event::id_of(&self.book.account, self.book.events, self.now),
            account: self.book.account.clone(),
            time: self.now,
            kind,
            balance: self.balance(),
            amount,
            about: None,
            idempotency_key: None,
            recipients: self.book.recipients.clone(),
        };
        self.events.push_mut(event)
    }

    /// Of an account inside another one, people are told what happens to the credit that was bought with it, if it is a plan's: that it is
    /// an account, and what a budget counts, is nobody's news.
    fn keep_to_the_plan(&mut self, before: u64) {
        self.events.retain(|event| event.kind.is_of_a_plan());
        let book = &mut self.book;
        book.events = before;
        for event in &mut self.events {
            book.events = book.events.saturating_add(1);
            event.id = Event::id_of(&book.account, book.events, self.now);
            if event.about.is_none() {
                event.about = book.account.inner_name().map(Into::into);
            }
        }
    }

    fn add_credit(&mut self, amount: Amount) -> Result<(), Rejected> {
        let book = &mut self.book;
        book.lifetime_credit = add(book.lifetime_credit, amount)?;
        Ok(())
    }

    /// Debt that is paid off.
    fn pay_debt(&mut self, amount: Amount) -> Result<(), Rejected> {
        self.book.debt = take(self.book.debt, amount)?;
        Ok(())
    }
}

fn add(to: Amount, amount: Amount) -> Result<Amount, Rejected> {
    to.checked_add(amount).ok_or(Rejected::OutOfRange)
}

fn take(from: Amount, amount: Amount) -> Result<Amount, Rejected> {
    from.checked_sub(amount).ok_or(Rejected::OutOfRange)
}

const fn check_count(field: &'static str, count: usize, most: usize) -> Result<(), Rejected> {
    if count > most {
        return Err(Rejected::TooMany { field, count, most });
    }
    Ok(())
}

const fn check_given(field: &'static str, text: &str) -> Result<(), Rejected> {
    if text.is_empty() {
        return Err(Rejected::Missing(field));
    }
    Ok(())
}
