//! Refunds (A3-6 to A3-10): accepted, then paid out once what was in flight has landed.

use super::credit::Credit;
use super::{Work, add, check_given, take};
use crate::clock::Timestamp;
use crate::ledger::book::{Book, CreditBlock, CreditKind};
use crate::ledger::entry::{Entry, EntryKind};
use crate::ledger::event::EventKind;
use crate::ledger::facts::{INVOICED_MAX, Refund};
use crate::ledger::rejected::Rejected;
use crate::money::Amount;
use crate::policy::{Policy, Refunds};

/// What of one order is refundable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refundable {
    /// The order.
    pub order_id: String,
    /// What is left of what was paid.
    pub remaining: Amount,
    /// How much of the order was invoiced.
    pub invoiced: Amount,
    /// What is refundable: the one less the other, never below zero.
    pub amount: Amount,
}

impl Book {
    /// What is refundable, by order: paid credit that is left and has not expired, less what was invoiced; never what was given or
    /// bought as a plan (A3-6, A3-9). `spend` is the account's total.
    pub fn refundable(&self, spend: Amount, policy: &Policy, now: Timestamp) -> Vec<Refundable> {
        let mut orders: Vec<Refundable> = Vec::new();
        if policy.refunds == Refunds::Never {
            return orders;
        }
        let mut unabsorbed = spend.saturating_sub(self.absorbed).or_zero();
        for block in &self.blocks {
            let taken = unabsorbed.min(block.remaining);
            unabsorbed = unabsorbed.saturating_sub(taken);
            let left = block.remaining.saturating_sub(taken);
            let Some(order_id) = block
                .order_id
                .as_ref()
                .filter(|_| is_refundable(block, now))
            else {
                continue;
            };
            match orders.iter_mut().find(|order| order.order_id == *order_id) {
                Some(order) => order.remaining = order.remaining.saturating_add(left),
                None => orders.push(Refundable {
                    order_id: order_id.clone(),
                    remaining: left,
                    invoiced: self.invoiced.get(order_id).copied().unwrap_or_default(),
                    amount: Amount::ZERO,
                }),
            }
        }
        for order in &mut orders {
            order.amount = order.remaining.saturating_sub(order.invoiced).or_zero();
        }
        orders
    }
}

/// How much an entry paid back of an order: all that it may be, if it does not say of which, or of this one alone.
fn paid_back(entry: &Entry, order: &str) -> Amount {
    let said = entry.allocations.iter().any(|part| part.order_id.is_some());
    if !said {
        return entry.amount.negated();
    }
    let parts = entry.allocations.iter();
    let of = parts.filter(|part| part.order_id.as_deref() == Some(order));
    of.fold(Amount::ZERO, |sum, part| sum.saturating_add(part.amount))
}

fn is_refundable(block: &CreditBlock, now: Timestamp) -> bool {
    block.kind == CreditKind::Paid && !block.is_over(now)
}

impl Work<'_> {
    pub(super) fn begin_refund(
        &mut self,
        refund_id: &str,
        orders: &[String],
        reason: &str,
    ) -> Result<(), Rejected> {
        check_given("refund_id", refund_id)?;
        super::check_count("orders", orders.len(), crate::ledger::CREDIT_BLOCKS_MAX)?;
        let amount = match self.again {
            Some(_) => Amount::ZERO,
            None => self.check_refund(orders)?,
        };
        let requested = self
            .again
            .map_or(self.now, |entry| entry.origin.unwrap_or(entry.time));
        // Of two that were accepted by a store that lost one, the one that stands is not put aside.
        self.book.refund.get_or_insert_with(|| Refund {
            id: refund_id.into(),
            requested,
            orders: orders.to_vec(),
            reason: reason.into(),
        });
        self.entry(EntryKind::RefundBegun, Amount::ZERO).note = reason.into();
        self.event(EventKind::RefundAccepted, amount).about = Some(refund_id.into());
        Ok(())
    }

    /// What would be paid out now.
    fn check_refund(&self, orders: &[String]) -> Result<Amount, Rejected> {
        if self.policy.refunds == Refunds::Never {
            return Err(Rejected::NotRefundable);
        }
        let of = |order: &str| {
            let mut blocks = self.book.blocks.iter();
            blocks.find(|block| block.order_id.as_deref() == Some(order))
        };
        for order in orders {
            match of(order) {
                Some(block) if block.kind == CreditKind::Plan => {
                    return Err(Rejected::PlanNotRefundable(order.clone()));
                }
                None if self
                    .book
                    .qps_plans
                    .iter()
                    .any(|plan| plan.order_id == *order) =>
                {
                    return Err(Rejected::PlanNotRefundable(order.clone()));
                }
                None => return Err(Rejected::UnknownOrder(order.clone())),
                Some(_) => {}
            }
        }
        let refundable = self.refundable(orders);
        let amount = refundable
            .iter()
            .try_fold(Amount::ZERO, |sum, order| add(sum, order.amount))?;
        if !amount.is_positive() {
            return Err(Rejected::NothingToRefund);
        }
        Ok(amount)
    }

    fn refundable(&self, orders: &[String]) -> Vec<Refundable> {
        let mut all = self
            .book
            .refundable(self.book.absorbed, self.policy, self.now);
        all.retain(|order| orders.is_empty() || orders.contains(&order.order_id));
        all
    }

    pub(super) fn complete_refund(&mut self, refund_id: &str, close: bool) -> Result<(), Rejected> {
        let orders = self.open_refund(refund_id)?;
        let held = self.given.spent.held;
        if held.is_positive() && self.again.is_none() {
            return Err(Rejected::CallsInFlight(held));
        }
        let now = self.now;
        let (mut allocations, mut sum, mut debt_made) = (Vec::new(), Amount::ZERO, Amount::ZERO);
        let again = self.again;
        let mut paid = Vec::new();
        for order in self.refundable(&orders) {
            let left = self
                .again
                .map(|entry| take(entry.amount.negated(), sum))
                .transpose()?;
            let most = match (again, left) {
                (Some(entry), Some(left)) => paid_back(entry, &order.order_id).min(left),
                _ => order.amount,
            };
            let most = most.min(order.remaining);
            let (mut taken, amount) =
                self.take_order(&order.order_id, most, |block| is_refundable(block, now))?;
            sum = add(sum, amount)?;
            allocations.append(&mut taken);
            if amount.is_positive() {
                paid.push(order.order_id);
            }
        }
        // It was paid out, so it is gone, whatever is left here.
        if let Some(entry) = self.again {
            let missing = take(entry.amount.negated(), sum)?.or_zero();
            let (mut taken, made) = self.burn(missing)?;
            sum = add(sum, missing)?;
            allocations.append(&mut taken);
            debt_made = made;
        }
        self.add_credit(sum.negated())?;
        let entry = self.entry(EntryKind::Refund, sum.negated());
        entry.allocations = allocations;
        entry.debt_made = debt_made;
        // Of several, the allocations say which. Carried out once more it must be known again for what it was.
        entry.order_id = match again {
            Some(again) => again.order_id.clone(),
            None => paid.pop().filter(|_| paid.is_empty()),
        };
        self.end_refund(refund_id);
        self.event(EventKind::RefundCompleted, sum).about = Some(refund_id.into());
        if close && self.book.closed.is_none() {
            self.book.closed = Some(now);
            self.event(EventKind::AccountClosed, Amount::ZERO);
        }
        Ok(())
    }

    pub(super) fn cancel_refund(&mut self, refund_id: &str, note: &str) -> Result<(), Rejected> {
        self.open_refund(refund_id)?;
        self.end_refund(refund_id);
        self.entry(EntryKind::RefundCancelled, Amount::ZERO).note = note.into();
        self.event(EventKind::RefundCancelled, Amount::ZERO).about = Some(refund_id.into());
        Ok(())
    }

    fn end_refund(&mut self, refund_id: &str) {
        if self
            .book
            .refund
            .as_ref()
            .is_some_and(|refund| refund.id == refund_id)
        {
            self.book.refund = None;
        }
    }

    /// The orders of the refund in progress, if it is the one that is meant.
    fn open_refund(&self, refund_id: &str) -> Result<Vec<String>, Rejected> {
        match &self.book.refund {
            Some(refund) if refund.id == refund_id => Ok(refund.orders.clone()),
            _ if self.again.is_some() => Ok(Vec::new()),
            refund => Err(Rejected::UnknownRefund {
                given: refund_id.into(),
                open: refund.as_ref().map(|refund| refund.id.clone()),
            }),
        }
    }

    /// Absolute, so that a repeat changes nothing.
    pub(super) fn set_invoiced(&mut self, order_id: &str, amount: Amount) -> Result<(), Rejected> {
        if amount.is_negative() {
            return Err(Rejected::Negative("amount", amount));
        }
        let (book, again) = (&mut self.book, self.again.is_some());
        let left = |order: &str| {
            let mut blocks = book.blocks.iter();
            blocks.any(|block| block.order_id.as_deref() == Some(order))
        };
        let known = left(order_id) || book.invoiced.contains_key(order_id);
        if !known && !again {
            return Err(Rejected::UnknownOrder(order_id.into()));
        }
        if book.invoiced.len() >= INVOICED_MAX {
            // Of what is used up, nothing can be refunded.
            let gone = book.invoiced.keys().find(|order| !left(order)).cloned();
            if let Some(gone) = gone {
                book.invoiced.remove(&gone);
            }
        }
        book.invoiced.insert(order_id.into(), amount);
        super::check_count("invoiced orders", book.invoiced.len(), INVOICED_MAX)?;
        self.entry(EntryKind::InvoicedAmount, Amount::ZERO).order_id = Some(order_id.into());
        Ok(())
    }

    /// Credit that has no payment of its own behind it.
    pub(super) const fn loose(entry: EntryKind, amount: Amount, note: &str) -> Credit<'_> {
        Credit {
            entry,
            kind: CreditKind::Paid,
            amount,
            order_id: None,
            priority: 0,
            expires: None,
            note,
        }
    }
}
