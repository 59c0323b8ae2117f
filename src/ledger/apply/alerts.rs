//! What the balance and the time announce, each once per crossing.

use std::time::Duration;

use super::Work;
use crate::clock::Timestamp;
use crate::ledger::book::{Book, CreditBlock};
use crate::ledger::event::EventKind;
use crate::ledger::facts::RechargeAsked;
use crate::ledger::state::Spent;
use crate::money::Amount;
use crate::policy::Policy;

impl Work<'_> {
    pub(super) fn announce(&mut self) {
        self.announce_thresholds();
        self.announce_expiries();
        if self.plan && self.book.is_exhausted(self.book.absorbed) && !self.expired_now() {
            self.event(EventKind::PlanExhausted, Amount::ZERO);
        }
        self.ask_for_recharge();
    }

    fn announce_thresholds(&mut self) {
        // A threshold that is taken away is armed again: what the balance does meanwhile, nobody watches.
        let balance = self.balance();
        let crossed = self.policy.low_balance.filter(|at| balance < *at);
        // An account that opens with nothing has not fallen below anything.
        let opened = self.book.is_untouched();
        if let (Some(threshold), false) = (crossed, self.book.low_balance_sent || opened) {
            self.event(EventKind::BalanceLow, threshold);
        }
        self.book.low_balance_sent = crossed.is_some();
        if self.policy.alerts.is_empty() && self.book.alerts_sent.is_empty() {
            return;
        }
        let below: Vec<Amount> = crossed_alerts(self.policy, balance).collect();
        let fresh: Vec<Amount> = below
            .iter()
            .filter(|at| !self.book.alerts_sent.contains(at))
            .copied()
            .collect();
        for threshold in fresh.into_iter().filter(|_| !opened) {
            self.event(EventKind::BalanceLow, threshold);
        }
        self.book.alerts_sent = below;
    }

    fn announce_expiries(&mut self) {
        let (policy, now) = (self.policy, self.now);
        if policy.credit_expiring_ms.is_none() {
            return;
        }
        let mut due = Vec::new();
        for block in &mut self.book.blocks {
            if block.notice_due(policy, now) {
                block.expiring_sent = true;
                due.push((block.order_id.clone(), block.remaining));
            }
        }
        for (order_id, amount) in due {
            self.event(EventKind::CreditExpiring, amount).about = order_id;
        }
    }

    /// Plan credit that expired is announced as that, not as used up.
    fn expired_now(&self) -> bool {
        self.events
            .iter()
            .any(|event| event.kind == EventKind::PlanExpired)
    }

    fn ask_for_recharge(&mut self) {
        let balance = self.balance();
        if let (Some(asked), Some(auto)) =
            (&mut self.book.recharge_asked, self.policy.auto_recharge)
            && balance >= auto.below
        {
            // Back above the threshold, by whatever came: what was asked for is not waited for any more.
            asked.open = false;
        }
        let Some(due) = self.book.recharge_due(balance, self.policy, self.now) else {
            return;
        };
        let event = self.event(EventKind::RechargeRequested, due.amount);
        let id = format!("recharge:{}", event.id);
        event.idempotency_key = Some(id.clone());
        self.book.recharge_asked = Some(RechargeAsked { id, ..due });
    }
}

/// The further thresholds that a balance is below.
fn crossed_alerts(policy: &Policy, balance: Amount) -> impl Iterator<Item = Amount> {
    let alerts = policy.alerts.iter().copied();
    alerts.filter(move |at| balance < *at)
}

impl CreditBlock {
    /// When its expiry is announced; `None` if it was, or is not.
    pub(in crate::ledger) fn notice(&self, policy: &Policy) -> Option<Timestamp> {
        if self.expired || self.expiring_sent {
            return None;
        }
        let before = i64::try_from(policy.credit_expiring_ms?).ok()?;
        let nanos = self
            .expires?
            .nanos()
            .saturating_sub(before.saturating_mul(1_000_000));
        Some(Timestamp::from_nanos(nanos))
    }

    fn notice_due(&self, policy: &Policy, now: Timestamp) -> bool {
        self.notice(policy).is_some_and(|at| now >= at) && !self.is_over(now)
    }
}

impl Book {
    /// Whether [`crate::ledger::Action::Observe`] would write anything that matters before the next command: something is due, or a
    /// threshold was crossed. Absorbing alone can wait.
    pub fn wants_observing(&self, spent: Spent, policy: &Policy, now: Timestamp) -> bool {
        let Spent { spend, held } = spent;
        let (balance, owed) = (self.balance(spend), self.debt(spend));
        let overdue = (owed > self.allowance(policy)) != self.overdue_since.is_some();
        let low = policy.low_balance.is_some_and(|at| balance < at) != self.low_balance_sent;
        let rules = self.floor != self.floor(owed, policy, now) || self.mode != policy.mode;
        let lapsed =
            self.suspension_due(owed, policy, now).is_some() || self.purge_due(owed, policy, now);
        overdue
            || low
            || rules
            || lapsed
            || self.expiry_due(held, now)
            || !crossed_alerts(policy, balance).eq(self.alerts_sent.iter().copied())
            || self
                .blocks
                .iter()
                .any(|block| block.notice_due(policy, now))
            || (self.has_plan_credit() && self.is_exhausted(spend))
            || self.recharge_changes(balance, policy, now)
    }

    /// Whether nothing was ever put in or taken.
    fn is_untouched(&self) -> bool {
        self.last_block == 0
            && self.cumulative_recharge == Amount::ZERO
            && self.debt == Amount::ZERO
            && self.absorbed == Amount::ZERO
    }

    /// Whether nothing is left of plan credit, given the total spend.
    fn is_exhausted(&self, spend: Amount) -> bool {
        spend.saturating_sub(self.absorbed) >= self.remaining()
    }

    fn recharge_changes(&self, balance: Amount, policy: &Policy, now: Timestamp) -> bool {
        let open = self.recharge_asked.as_ref().is_some_and(|asked| asked.open);
        let back = policy
            .auto_recharge
            .is_some_and(|auto| balance >= auto.below);
        (open && back) || self.recharge_due(balance, policy, now).is_some()
    }

    /// Whether a recharge is to be asked for and was not yet.
    pub(in crate::ledger) fn asks_for_recharge(
        &self,
        spend: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> bool {
        self.recharge_due(self.balance(spend), policy, now)
            .is_some()
    }

    /// The recharge to ask for, without its id: one at a time, not before the cool-down is over, and within the month's sum (A4-3).
    fn recharge_due(
        &self,
        balance: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<RechargeAsked> {
        let auto = policy.auto_recharge?;
        // An account that nothing was ever put into has not fallen below anything: its first purchase is made by a person.
        if balance >= auto.below
            || self.closed.is_some()
            || self.refund.is_some()
            || self.is_untouched()
        {
            return None;
        }
        let (month, mut sum) = (now.month(), Amount::ZERO);
        if let Some(asked) = &self.recharge_asked {
            if asked.open || now < asked.at.plus(Duration::from_millis(auto.cool_down_ms)) {
                return None;
            }
            if asked.month == month {
                sum = asked.month_sum;
            }
        }
        let month_sum = sum.checked_add(auto.amount)?;
        if auto.monthly_max.is_some_and(|most| month_sum > most) {
            return None;
        }
        Some(RechargeAsked {
            id: String::new(),
            at: now,
            amount: auto.amount,
            open: true,
            month,
            month_sum,
        })
    }

    /// When a recharge can be asked for that cannot be now: after the cool-down, or with the next month.
    pub(in crate::ledger) fn next_recharge(
        &self,
        balance: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let auto = policy.auto_recharge.filter(|auto| balance < auto.below)?;
        let asked = self.recharge_asked.as_ref().filter(|asked| !asked.open)?;
        let cool = asked.at.plus(Duration::from_millis(auto.cool_down_ms));
        let sum = asked.month_sum.saturating_add(auto.amount);
        let full = auto.monthly_max.is_some_and(|most| sum > most);
        if full && cool.month() == asked.month && now.month() == asked.month {
            return Some(Timestamp::of_month(asked.month.saturating_add(1)));
        }
        Some(cool)
    }
}
