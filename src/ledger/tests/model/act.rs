//! What each command does.

use super::*;

/// Credit as it comes.
struct Coming {
    line: EntryKind,
    kind: CreditKind,
    amount: i64,
    priority: i32,
    until: Option<i64>,
    order: Option<String>,
}

impl Model {
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each command, as the rules list them"
    )]
    pub(super) fn act(&mut self, action: &Action, with: With<'_>) -> Result<(), &'static str> {
        let With { policy, now, .. } = with;
        self.may(action)?;
        match action {
            Action::Recharge {
                amount,
                order_id,
                priority,
                expires,
                ..
            } => {
                good_credit(*amount, *expires, now)?;
                within(*amount, policy)?;
                self.paid_in += amount.nanos();
                self.answered();
                self.credit(
                    Coming {
                        line: EntryKind::Recharge,
                        kind: CreditKind::Paid,
                        amount: amount.nanos(),
                        priority: *priority,
                        until: ends(*expires, policy, now),
                        order: Some(order_id.clone()),
                    },
                    with,
                );
                self.say(EventKind::CreditAdded, amount.nanos());
            }
            Action::Grant {
                amount,
                order_id,
                priority,
                expires,
                ..
            } => {
                good_credit(*amount, *expires, now)?;
                self.credit(
                    Coming {
                        line: EntryKind::Grant,
                        kind: CreditKind::Bonus,
                        amount: amount.nanos(),
                        priority: *priority,
                        until: expires.map(Timestamp::nanos),
                        order: order_id.clone(),
                    },
                    with,
                );
                self.say(EventKind::CreditAdded, amount.nanos());
            }
            Action::BuyPlan {
                amount,
                order_id,
                priority,
                expires,
                price,
                ..
            } => {
                good_credit(*amount, *expires, now)?;
                if let Some(price) = price {
                    if price.nanos() < 0 {
                        return Err("FIELD_INVALID");
                    }
                    within(*price, policy)?;
                }
                self.credit(
                    Coming {
                        line: EntryKind::PlanPurchase,
                        kind: CreditKind::Plan,
                        amount: amount.nanos(),
                        priority: *priority,
                        until: ends(*expires, policy, now),
                        order: Some(order_id.clone()),
                    },
                    with,
                );
                self.say(EventKind::CreditAdded, amount.nanos());
            }
            Action::Adjust { amount, note } => {
                if amount.nanos() == 0 || note.trim() == "" {
                    return Err("FIELD_INVALID");
                }
                if amount.nanos() < 0 {
                    self.charge(EntryKind::Adjustment, -amount.nanos());
                } else {
                    let coming = loose(EntryKind::Adjustment, amount.nanos());
                    self.credit(coming, with);
                }
            }
            Action::LateCharge { amount, .. } => {
                if amount.nanos() <= 0 {
                    return Err("FIELD_INVALID");
                }
                let free = !policy.enforced(at(now));
                self.charge(EntryKind::LateCharge, if free { 0 } else { amount.nanos() });
            }
            Action::Configure(_) => {
                let prepaid = policy.mode == Mode::PrepaidOnly;
                if self.invoicing && prepaid && self.owed + self.outstanding() > 0 {
                    return Err("ARREARS_OPEN");
                }
                self.write(EntryKind::Configuration, 0, |_| {});
                if self.lines_written == 1 {
                    self.say(EventKind::AccountOpened, 0);
                }
            }
            Action::MarkOverdue { .. } => {
                if self.declared.is_none() {
                    self.declared = Some(now);
                }
                self.write(EntryKind::OverdueMarked, 0, |_| {});
            }
            Action::ClearOverdue { .. } => {
                if self.declared.is_none() {
                    return Err("NOT_OVERDUE");
                }
                self.declared = None;
                self.write(EntryKind::OverdueCleared, 0, |_| {});
            }
            Action::ReactivateCapability { capability } => self.reactivate(capability, policy)?,
            Action::BeginRefund {
                refund_id, orders, ..
            } => {
                let amount = self.refundable(orders, policy, now)?;
                self.refund = Some((refund_id.clone(), orders.clone()));
                self.write(EntryKind::RefundBegun, 0, |_| {});
                self.say(EventKind::RefundAccepted, amount);
            }
            Action::CompleteRefund { refund_id, close } => {
                let orders = self.this_refund(refund_id)?;
                if with.held > 0 {
                    return Err("CALLS_IN_FLIGHT");
                }
                let mut taken = Vec::new();
                for order in self.orders(&orders, policy, now) {
                    let most = self.order_amount(&order, now);
                    self.take(&order, most, Some(now), &mut taken);
                }
                let sum: i64 = taken.iter().map(|part| part.1).sum();
                self.write(EntryKind::Refund, -sum, |line| line.taken = taken);
                self.refund = None;
                self.say(EventKind::RefundCompleted, sum);
                if *close && !self.closed {
                    self.closed = true;
                    self.say(EventKind::AccountClosed, 0);
                }
            }
            Action::CancelRefund { refund_id, .. } => {
                self.this_refund(refund_id)?;
                self.refund = None;
                self.write(EntryKind::RefundCancelled, 0, |_| {});
                self.say(EventKind::RefundCancelled, 0);
            }
            Action::SetInvoicedAmount { order_id, amount } => {
                if amount.nanos() < 0 {
                    return Err("FIELD_INVALID");
                }
                let left = self
                    .lots
                    .iter()
                    .any(|lot| lot.order.as_ref() == Some(order_id));
                if !left && !self.invoiced.contains_key(order_id) {
                    return Err("ORDER_NOT_FOUND");
                }
                self.invoiced.insert(order_id.clone(), amount.nanos());
                self.write(EntryKind::InvoicedAmount, 0, |_| {});
            }
            Action::AddPlan { plan } => {
                if self
                    .plans
                    .get(&plan.name)
                    .is_some_and(|unit| *unit != plan.unit)
                {
                    return Err("FIELD_INVALID");
                }
                self.plans.insert(plan.name.clone(), plan.unit.clone());
                self.write(EntryKind::PlanAdded, 0, |_| {});
            }
            Action::RemovePlan { name } => {
                if self.plans.remove(name).is_none() {
                    return Err("PLAN_NOT_FOUND");
                }
                self.write(EntryKind::PlanRemoved, 0, |_| {});
            }
            Action::BuyQpsPlan {
                effective,
                expires,
                order_id,
                ..
            } => {
                let from = effective.map_or(now, Timestamp::nanos);
                let end = expires.map(Timestamp::nanos);
                if end.is_some_and(|end| end <= now || end <= from) {
                    return Err("FIELD_INVALID");
                }
                if self.rates.len() >= QPS_PLANS_MAX {
                    return Err("LIMIT_REACHED");
                }
                self.rates.push((order_id.clone(), end));
                self.write(EntryKind::QpsPlanPurchase, 0, |_| {});
            }
            Action::Correct {
                sequence, amount, ..
            } => self.correct(*sequence, amount.nanos(), with)?,
            Action::Void { order_id, .. } => {
                let rates = self.rates.len();
                self.rates.retain(|rate| rate.0 != *order_id);
                let mut taken = Vec::new();
                self.take(order_id, i64::MAX, None, &mut taken);
                if taken.is_empty() && rates == self.rates.len() {
                    return Err("ORDER_NOT_FOUND");
                }
                let sum: i64 = taken.iter().map(|part| part.1).sum();
                self.write(EntryKind::Void, -sum, |line| line.taken = taken);
            }
            Action::CloseInvoicePeriod { invoice_id, .. } => {
                if policy.mode != Mode::CreditThenInvoice {
                    return Err("NOT_INVOICED");
                }
                if self.invoices.iter().any(|invoice| invoice.0 == *invoice_id) {
                    return Err("INVOICE_EXISTS");
                }
                let amount = self.owed;
                self.credit(loose(EntryKind::InvoiceClosed, amount), with);
                if self.invoices.len() >= INVOICES_MAX {
                    let Some(paid) = self.invoices.iter().position(|invoice| invoice.2) else {
                        return Err("LIMIT_REACHED");
                    };
                    self.invoices.remove(paid);
                }
                self.invoices
                    .push((invoice_id.clone(), amount, amount == 0));
                self.say(EventKind::InvoiceClosed, amount);
            }
            Action::SettleInvoice { invoice_id } => {
                let mut invoices = self.invoices.iter_mut();
                let Some(invoice) = invoices.find(|invoice| invoice.0 == *invoice_id) else {
                    return Err("INVOICE_NOT_FOUND");
                };
                if invoice.2 {
                    return Err("INVOICE_PAID");
                }
                invoice.2 = true;
                self.write(EntryKind::InvoiceSettled, 0, |_| {});
            }
            Action::CloseAccount { .. } => {
                self.closed = true;
                self.write(EntryKind::Closed, 0, |_| {});
                self.say(EventKind::AccountClosed, 0);
            }
            Action::Observe => {}
        }
        Ok(())
    }

    /// What a closed or frozen account takes.
    fn may(&self, action: &Action) -> Result<(), &'static str> {
        let late = matches!(
            action,
            Action::LateCharge { .. }
                | Action::Adjust { .. }
                | Action::Correct { .. }
                | Action::CompleteRefund { .. }
                | Action::CancelRefund { .. }
                | Action::SettleInvoice { .. }
                | Action::Observe
        );
        if self.closed {
            return if late { Ok(()) } else { Err("ACCOUNT_CLOSED") };
        }
        let buys = matches!(
            action,
            Action::Recharge { .. }
                | Action::BuyPlan { .. }
                | Action::BuyQpsPlan { .. }
                | Action::AddPlan { .. }
                | Action::BeginRefund { .. }
        );
        if buys && self.refund.is_some() {
            return Err("REFUND_IN_PROGRESS");
        }
        Ok(())
    }

    fn reactivate(&mut self, capability: &str, policy: &Policy) -> Result<(), &'static str> {
        if self.owed > self.limits(policy).0 || self.declared.is_some() {
            return Err("ACCOUNT_OVERDUE");
        }
        if self.suspended.is_none() || policy.resume == Resume::Auto {
            return Err("NOT_SUSPENDED");
        }
        if capability != "*" && !policy.capabilities.iter().any(|known| known == capability) {
            return Err("FIELD_INVALID");
        }
        self.reactivated.insert(capability.into());
        self.write(EntryKind::Reactivation, 0, |_| {});
        let mut all = capability == "*";
        if !all {
            all = true;
            for known in &policy.capabilities {
                all &= self.reactivated.contains(known);
            }
        }
        if all && !self.was_overdue {
            self.suspended = None;
            self.reactivated.clear();
            self.say(EventKind::AccountResumed, 0);
        }
        Ok(())
    }

    fn credit(&mut self, coming: Coming, with: With<'_>) {
        let mut left = coming.amount;
        let mut paid = 0;
        let pays = coming.kind != CreditKind::Bonus || with.policy.gifts_pay_debt;
        while left > 0 && self.owed > 0 && pays {
            left -= 1;
            self.owed -= 1;
            paid += 1;
        }
        let mut made = None;
        if left > 0 {
            self.lots_made += 1;
            made = Some(self.lots_made);
            self.lots.push(Lot {
                id: self.lots_made,
                kind: coming.kind,
                priority: coming.priority,
                since: with.now,
                until: coming.until,
                left,
                order: coming.order,
                dead: false,
                warned: false,
            });
        }
        self.write(coming.line, coming.amount, |line| {
            line.debt_paid = paid;
            line.lot = made;
        });
    }

    /// Takes one nano-unit after another.
    pub(super) fn charge(&mut self, kind: EntryKind, amount: i64) {
        let mut from: Vec<(Lot, i64)> = Vec::new();
        let mut owed = 0;
        for _ in 0..amount {
            let Some(place) = self.first_to_burn(|_| true) else {
                self.owed += 1;
                owed += 1;
                continue;
            };
            let lot = &mut self.lots[place];
            lot.left -= 1;
            match from.iter_mut().find(|part| part.0.id == lot.id) {
                Some(part) => part.1 += 1,
                None => from.push((lot.clone(), 1)),
            }
            if lot.left == 0 {
                self.lots.remove(place);
            }
        }
        let taken = from.iter().map(|part| (part.0.id, part.1)).collect();
        self.write(kind, -amount, |line| {
            line.debt_made = owed;
            line.taken = taken;
        });
        let charge = Charge {
            amount,
            on_credit: owed,
            from,
        };
        self.charges.push((self.lines_written, charge));
    }

    fn correct(&mut self, sequence: u64, amount: i64, with: With<'_>) -> Result<(), &'static str> {
        if amount <= 0 {
            return Err("FIELD_INVALID");
        }
        let Some(charge) = with.charges.get(&sequence) else {
            let before = self.lines_written - u64::try_from(self.lines.len()).unwrap();
            let known = (1..=before).contains(&sequence);
            return Err(if known {
                "NOT_CORRECTABLE"
            } else {
                "ENTRY_NOT_FOUND"
            });
        };
        let done = self.corrected.get(&sequence).copied().unwrap_or_default();
        if amount > charge.amount - done {
            return Err("NOT_CORRECTABLE");
        }
        // One nano-unit after another, the last one taken first; `None` is on credit.
        let mut units: Vec<Option<&Lot>> = Vec::new();
        for _ in 0..charge.on_credit {
            units.push(None);
        }
        for (lot, part) in charge.from.iter().rev() {
            for _ in 0..*part {
                units.push(Some(lot));
            }
        }
        let (mut paid, mut loose_units) = (0, 0);
        let mut taken: Vec<(u64, i64)> = Vec::new();
        let mut over: Vec<(u64, i64, CreditKind)> = Vec::new();
        let first = usize::try_from(done).unwrap();
        for unit in &units[first..first + usize::try_from(amount).unwrap()] {
            let there = |lot: &Lot| self.lots.iter().find(|other| other.id == lot.id).cloned();
            let ended =
                unit.is_some_and(|lot| there(lot).unwrap_or_else(|| lot.clone()).ended(with.now));
            let pays =
                unit.is_none_or(|lot| lot.kind != CreditKind::Bonus || with.policy.gifts_pay_debt);
            if self.owed > 0 && pays && !ended {
                self.owed -= 1;
                paid += 1;
                continue;
            }
            let Some(lot) = unit else {
                loose_units += 1;
                continue;
            };
            match taken.iter_mut().find(|part| part.0 == lot.id) {
                Some(part) => part.1 += 1,
                None => taken.push((lot.id, 1)),
            }
            if ended {
                match over.iter_mut().find(|part| part.0 == lot.id) {
                    Some(part) => part.1 += 1,
                    None => over.push((lot.id, 1, lot.kind)),
                }
                continue;
            }
            match self.lots.iter_mut().find(|other| other.id == lot.id) {
                Some(other) => other.left += 1,
                None => self.lots.push(Lot {
                    left: 1,
                    dead: false,
                    ..(*lot).clone()
                }),
            }
        }
        let mut made = None;
        if loose_units > 0 {
            self.lots_made += 1;
            made = Some(self.lots_made);
            let lot = Lot {
                id: self.lots_made,
                kind: CreditKind::Paid,
                priority: 0,
                since: with.now,
                until: None,
                left: loose_units,
                order: None,
                dead: false,
                warned: false,
            };
            self.lots.push(lot);
        }
        let mut later: i64 = over.iter().map(|part| part.1).sum();
        self.write(EntryKind::Correction, amount, |line| {
            line.debt_paid = paid;
            line.taken = taken;
            line.lot = made;
            line.balance += later;
        });
        for (id, rest, kind) in over {
            later -= rest;
            self.ended(id, rest, kind, later);
        }
        *self.corrected.entry(sequence).or_default() += amount;
        Ok(())
    }

    fn this_refund(&self, id: &str) -> Result<Vec<String>, &'static str> {
        match &self.refund {
            Some((open, orders)) if open == id => Ok(orders.clone()),
            _ => Err("REFUND_NOT_FOUND"),
        }
    }

    /// Takes up to so much of an order, in burn order; of what is refundable at an instant, or all.
    fn take(&mut self, order: &str, most: i64, refund: Option<i64>, taken: &mut Vec<(u64, i64)>) {
        let mut left = most;
        let counts = |lot: &Lot| {
            lot.order.as_deref() == Some(order) && refund.is_none_or(|now| refunds(lot, now))
        };
        while left > 0
            && let Some(place) = self.first_to_burn(counts)
        {
            let lot = &mut self.lots[place];
            let part = lot.left.min(left);
            left -= part;
            lot.left -= part;
            taken.push((lot.id, part));
            if lot.left == 0 {
                self.lots.remove(place);
            } else {
                break;
            }
        }
    }

    fn order_amount(&self, order: &str, now: i64) -> i64 {
        let of = |lot: &&Lot| lot.order.as_deref() == Some(order) && refunds(lot, now);
        let left: i64 = self.lots.iter().filter(of).map(|lot| lot.left).sum();
        (left - self.invoiced.get(order).copied().unwrap_or_default()).max(0)
    }

    /// The orders of which something may be refundable, as they are burnt.
    fn orders(&self, asked: &[String], policy: &Policy, now: i64) -> Vec<String> {
        let mut orders: Vec<String> = Vec::new();
        if policy.refunds == Refunds::Never {
            return orders;
        }
        for (id, _) in self.left() {
            let lot = self.lots.iter().find(|lot| lot.id == id).unwrap();
            let Some(order) = lot.order.clone().filter(|_| refunds(lot, now)) else {
                continue;
            };
            if !orders.contains(&order) && (asked.is_empty() || asked.contains(&order)) {
                orders.push(order);
            }
        }
        orders
    }

    fn refundable(&self, asked: &[String], policy: &Policy, now: i64) -> Result<i64, &'static str> {
        if policy.refunds == Refunds::Never {
            return Err("NOT_REFUNDABLE");
        }
        for order in asked {
            let left = self.left();
            let lots = left
                .iter()
                .map(|(id, _)| self.lots.iter().find(|lot| lot.id == *id).unwrap());
            let lot = lots
                .into_iter()
                .find(|lot| lot.order.as_ref() == Some(order));
            match lot {
                Some(lot) if lot.kind == CreditKind::Plan => return Err("NOT_REFUNDABLE"),
                Some(_) => {}
                None if self.rates.iter().any(|rate| rate.0 == *order) => {
                    return Err("NOT_REFUNDABLE");
                }
                None => return Err("ORDER_NOT_FOUND"),
            }
        }
        let orders = self.orders(asked, policy, now);
        let sum = orders
            .iter()
            .map(|order| self.order_amount(order, now))
            .sum();
        if sum == 0 {
            Err("NOT_REFUNDABLE")
        } else {
            Ok(sum)
        }
    }
}

fn refunds(lot: &Lot, now: i64) -> bool {
    lot.kind == CreditKind::Paid && !lot.ended(now)
}

fn loose(line: EntryKind, amount: i64) -> Coming {
    Coming {
        line,
        kind: CreditKind::Paid,
        amount,
        priority: 0,
        until: None,
        order: None,
    }
}

fn good_credit(amount: Amount, expires: Option<Timestamp>, now: i64) -> Result<(), &'static str> {
    if amount.nanos() <= 0 || expires.is_some_and(|end| end.nanos() <= now) {
        return Err("FIELD_INVALID");
    }
    Ok(())
}

fn within(amount: Amount, policy: &Policy) -> Result<(), &'static str> {
    let small = policy.purchase_min.is_some_and(|min| amount < min);
    if small || policy.purchase_max.is_some_and(|max| amount > max) {
        return Err("PURCHASE_OUT_OF_BOUNDS");
    }
    Ok(())
}

fn ends(given: Option<Timestamp>, policy: &Policy, now: i64) -> Option<i64> {
    match (given, policy.credit_expires_after_ms) {
        (Some(end), _) => Some(end.nanos()),
        (None, Some(ms)) => Some(now + i64::try_from(ms).unwrap() * 1_000_000),
        (None, None) => None,
    }
}
