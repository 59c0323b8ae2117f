//! Money in and money out: recharges, gifts, plan purchases, adjustments, late charges, orders taken back.

use std::time::Duration;

use super::{Work, add, check_given, take};
use crate::clock::Timestamp;
use crate::ledger::Action;
use crate::ledger::book::{CreditBlock, CreditKind};
use crate::ledger::entry::{Allocation, EntryKind};
use crate::ledger::event::EventKind;
use crate::ledger::rejected::Rejected;
use crate::money::Amount;

/// Credit as it is put in.
pub(super) struct Credit<'a> {
    pub(super) entry: EntryKind,
    pub(super) kind: CreditKind,
    pub(super) amount: Amount,
    pub(super) order_id: Option<&'a str>,
    pub(super) priority: i32,
    pub(super) expires: Option<Timestamp>,
    pub(super) note: &'a str,
}

impl Work<'_> {
    pub(super) fn move_credit(&mut self, action: &Action) -> Result<(), Rejected> {
        match action {
            Action::Recharge {
                amount,
                order_id,
                priority,
                expires,
                note,
            } => {
                self.check_credit(*amount, *expires)?;
                self.check_purchase(*amount)?;
                self.book.cumulative_recharge = add(self.book.cumulative_recharge, *amount)?;
                if let Some(asked) = &mut self.book.recharge_asked {
                    asked.open = false;
                }
                self.put_in(&Credit {
                    entry: EntryKind::Recharge,
                    kind: CreditKind::Paid,
                    amount: *amount,
                    order_id: Some(order_id),
                    priority: *priority,
                    expires: self.purchase_expires(*expires),
                    note,
                })?;
                self.credit_added(*amount, Some(order_id));
            }
            Action::Grant {
                amount,
                order_id,
                priority,
                expires,
                note,
            } => {
                self.check_credit(*amount, *expires)?;
                self.put_in(&Credit {
                    entry: EntryKind::Grant,
                    kind: CreditKind::Bonus,
                    amount: *amount,
                    order_id: order_id.as_deref(),
                    priority: *priority,
                    expires: *expires,
                    note,
                })?;
                self.credit_added(*amount, order_id.as_deref());
            }
            Action::BuyPlan { .. } => self.buy_plan(action)?,
            Action::Adjust { amount, note } => self.adjust(*amount, note)?,
            Action::LateCharge { .. } => self.late_charge(action)?,
            Action::Void { order_id, note } => self.void(order_id, note)?,
            _ => {}
        }
        Ok(())
    }

    fn credit_added(&mut self, amount: Amount, order_id: Option<&str>) {
        self.event(EventKind::CreditAdded, amount).about = order_id.map(Into::into);
    }

    fn buy_plan(&mut self, action: &Action) -> Result<(), Rejected> {
        let Action::BuyPlan {
            amount,
            order_id,
            priority,
            expires,
            price,
            note,
        } = action
        else {
            return Ok(());
        };
        check_given("order_id", order_id)?;
        self.check_credit(*amount, *expires)?;
        self.check_price(*price)?;
        self.put_in(&Credit {
            entry: EntryKind::PlanPurchase,
            kind: CreditKind::Plan,
            amount: *amount,
            order_id: Some(order_id),
            priority: *priority,
            expires: self.purchase_expires(*expires),
            note,
        })?;
        self.credit_added(*amount, Some(order_id));
        Ok(())
    }

    /// A late charge always lands. Before billing goes live it costs nothing, as calls do (A3-11).
    fn late_charge(&mut self, action: &Action) -> Result<(), Rejected> {
        let Action::LateCharge {
            amount,
            key,
            model,
            note,
        } = action
        else {
            return Ok(());
        };
        check_positive(*amount)?;
        let free = !self.policy.enforced(self.now);
        let cost = match self.again {
            Some(entry) => entry.amount.negated(),
            None if free => Amount::ZERO,
            None => *amount,
        };
        self.take_out(EntryKind::LateCharge, cost, note)?;
        if let Some(entry) = self.entries.last_mut() {
            entry.key.clone_from(key);
            entry.model.clone_from(model);
        }
        Ok(())
    }

    fn check_credit(&self, amount: Amount, expires: Option<Timestamp>) -> Result<(), Rejected> {
        check_positive(amount)?;
        match expires {
            Some(at) if at <= self.now => Err(Rejected::Expired(at)),
            _ => Ok(()),
        }
    }

    /// What was paid for what is no money here: zero or more, and within the bounds of the policy, as far as it is said.
    pub(super) fn check_price(&self, price: Option<Amount>) -> Result<(), Rejected> {
        match price {
            Some(price) if price.is_negative() => Err(Rejected::Negative("price", price)),
            Some(price) => self.check_purchase(price),
            None => Ok(()),
        }
    }

    /// The bounds of the policy (A4-2).
    fn check_purchase(&self, amount: Amount) -> Result<(), Rejected> {
        if self.again.is_some() {
            return Ok(());
        }
        let (policy, tier) = (self.policy, &self.book.tier);
        if let Some(min) = policy.purchase_min.filter(|min| amount < *min) {
            return Err(Rejected::BelowMinimum { amount, min });
        }
        let max = policy
            .purchase_max_by_tier
            .get(tier)
            .copied()
            .or(policy.purchase_max);
        if let Some(max) = max.filter(|max| amount > *max) {
            let tier = tier.clone();
            return Err(Rejected::AboveMaximum { amount, max, tier });
        }
        Ok(())
    }

    /// When a purchase expires that is given this expiry (A4-4).
    fn purchase_expires(&self, given: Option<Timestamp>) -> Option<Timestamp> {
        let default = self.policy.credit_expires_after_ms;
        let since = match self.again {
            Some(entry) => return entry.expires,
            None => self.now,
        };
        given.or_else(|| Some(since.plus(Duration::from_millis(default?))))
    }

    /// Adds money: what is paid goes to the debt first; what is given does not, unless the policy says so (A3-13).
    pub(super) fn put_in(&mut self, credit: &Credit<'_>) -> Result<(), Rejected> {
        self.add_credit(credit.amount)?;
        let pays = self.pays_debt(credit.kind);
        let debt_paid = if pays {
            credit.amount.min(self.book.debt)
        } else {
            Amount::ZERO
        };
        self.pay_debt(debt_paid)?;
        let made = self.new_block(credit, take(credit.amount, debt_paid)?)?;
        let entry = self.entry(credit.entry, credit.amount);
        entry.debt_paid = debt_paid;
        entry.block = made;
        entry.order_id = credit.order_id.map(Into::into);
        entry.note = credit.note.into();
        entry.priority = credit.priority;
        entry.expires = credit.expires;
        Ok(())
    }

    pub(super) fn pays_debt(&self, kind: CreditKind) -> bool {
        match kind {
            CreditKind::Paid | CreditKind::Plan => true,
            CreditKind::Bonus => self.policy.gifts_pay_debt,
        }
    }

    /// Makes a block of what did not pay debt; `None` if nothing is left.
    pub(super) fn new_block(
        &mut self,
        credit: &Credit<'_>,
        rest: Amount,
    ) -> Result<Option<u64>, Rejected> {
        if !rest.is_positive() {
            return Ok(None);
        }
        let id = self.book.last_block.saturating_add(1);
        self.insert(CreditBlock {
            id,
            kind: credit.kind,
            priority: credit.priority,
            effective: self.now,
            expires: credit.expires,
            granted: rest,
            remaining: rest,
            order_id: credit.order_id.map(Into::into),
            expired: false,
            expiring_sent: false,
        })?;
        self.book.last_block = id;
        Ok(Some(id))
    }

    /// Takes money that no replica counted as spend.
    fn take_out(&mut self, kind: EntryKind, amount: Amount, note: &str) -> Result<(), Rejected> {
        self.add_credit(amount.negated())?;
        let (allocations, debt_made) = self.burn(amount)?;
        let entry = self.entry(kind, amount.negated());
        entry.allocations = allocations;
        entry.debt_made = debt_made;
        entry.note = note.into();
        Ok(())
    }

    fn adjust(&mut self, amount: Amount, note: &str) -> Result<(), Rejected> {
        if amount == Amount::ZERO {
            return Err(Rejected::NoAmount);
        }
        check_note(note)?;
        if amount < Amount::MIN {
            // It has no opposite, so it would be taken for one nano-unit less than it says.
            return Err(Rejected::OutOfRange);
        }
        if amount.is_negative() {
            return self.take_out(EntryKind::Adjustment, amount.negated(), note);
        }
        // A correction in the account's favour pays debt as money does: it says that the debt was never there.
        self.put_in(&Credit {
            entry: EntryKind::Adjustment,
            kind: CreditKind::Paid,
            amount,
            order_id: None,
            priority: 0,
            expires: None,
            note,
        })
    }

    /// Takes back what is left of an order, and the rate that it bought.
    fn void(&mut self, order_id: &str, note: &str) -> Result<(), Rejected> {
        check_note(note)?;
        let rates = self.book.qps_plans.len();
        self.book.qps_plans.retain(|plan| plan.order_id != order_id);
        let rates = rates > self.book.qps_plans.len();
        let (allocations, amount) = self.take_order(order_id, Amount::MAX, |_| true)?;
        if allocations.is_empty() && !rates && self.again.is_none() {
            return Err(Rejected::UnknownOrder(order_id.into()));
        }
        self.add_credit(amount.negated())?;
        let entry = self.entry(EntryKind::Void, amount.negated());
        entry.allocations = allocations;
        entry.order_id = Some(order_id.into());
        entry.note = note.into();
        Ok(())
    }

    /// Takes up to so much of an order's blocks of some kind; what it took from which.
    pub(super) fn take_order(
        &mut self,
        order_id: &str,
        most: Amount,
        counts: impl Fn(&CreditBlock) -> bool,
    ) -> Result<(Vec<Allocation>, Amount), Rejected> {
        let (mut allocations, mut sum) = (Vec::new(), Amount::ZERO);
        for block in &mut self.book.blocks {
            if block.order_id.as_deref() != Some(order_id) || !counts(block) {
                continue;
            }
            let amount = block.remaining.min(take(most, sum)?);
            if amount.is_positive() {
                sum = add(sum, amount)?;
                block.remaining = take(block.remaining, amount)?;
                allocations.push(Allocation {
                    block: block.id,
                    amount,
                    of: None,
                    order_id: block.order_id.clone(),
                });
            }
        }
        self.book
            .blocks
            .retain(|block| block.remaining.is_positive());
        Ok((allocations, sum))
    }
}

pub(super) const fn check_positive(amount: Amount) -> Result<(), Rejected> {
    if amount.is_positive() {
        return Ok(());
    }
    Err(Rejected::NotPositive(amount))
}

pub(super) fn check_note(note: &str) -> Result<(), Rejected> {
    if note.trim().is_empty() {
        return Err(Rejected::NoNote);
    }
    Ok(())
}
