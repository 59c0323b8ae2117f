//! What follows from an account as it stands, and what is told of it.

use super::*;

impl Model {
    pub(super) fn follow(&mut self, policy: &Policy, now: i64) {
        if self.owed > self.limits(policy).0 {
            if self.overdue_since.is_none() {
                self.overdue_since = Some(now);
            }
        } else {
            self.overdue_since = None;
        }
        let overdue = self.overdue_since.is_some() || self.declared.is_some();
        if overdue && !self.was_overdue {
            self.say(EventKind::AccountOverdue, self.owed);
        }
        if self.was_overdue && !overdue {
            self.purge_told = false;
            if self.suspended.is_some() && policy.resume == Resume::Reactivate {
                self.say(EventKind::ReactivationRequired, 0);
            } else {
                self.suspended = None;
                self.reactivated.clear();
                self.say(EventKind::AccountResumed, 0);
            }
        }
    }

    pub(super) fn suspend(&mut self, policy: &Policy, now: i64) {
        if self.closed {
            return;
        }
        if let (Some(at), Some(since)) = (self.suspension(policy, now), self.since(policy, now))
            && now >= at
            && self.suspended.is_none_or(|told| told < since)
        {
            self.suspended = Some(at);
            self.reactivated.clear();
            self.purge_told = false;
            self.say(EventKind::AccountSuspended, self.owed);
        }
        if self.purge(policy, now).is_some_and(|at| now >= at) && !self.purge_told {
            self.purge_told = true;
            self.say(EventKind::PurgeEligible, self.owed);
        }
    }

    /// Nothing was ever put in or taken: such an account has not fallen below anything.
    fn untouched(&self) -> bool {
        self.lots_made == 0 && self.paid_in == 0 && self.owed == 0 && self.seen == 0
    }

    pub(super) fn announce(&mut self, policy: &Policy, now: i64) {
        let untouched = self.untouched();
        match policy.low_balance.map(Amount::nanos) {
            Some(threshold) if self.balance() < threshold => {
                if self.armed {
                    self.armed = false;
                    if !untouched {
                        self.say(EventKind::BalanceLow, threshold);
                    }
                }
            }
            _ => self.armed = true,
        }
        let mut alerted = Vec::new();
        for threshold in policy.alerts.iter().map(|at| at.nanos()) {
            if self.balance() < threshold {
                if !self.alerted.contains(&threshold) && !untouched {
                    self.say(EventKind::BalanceLow, threshold);
                }
                alerted.push(threshold);
            }
        }
        self.alerted = alerted;
        if let Some(ms) = policy.credit_expiring_ms {
            let before = i64::try_from(ms).unwrap() * 1_000_000;
            for (id, left) in self.left() {
                let place = self.lots.iter().position(|lot| lot.id == id).unwrap();
                let lot = &mut self.lots[place];
                let soon = lot
                    .until
                    .is_some_and(|end| now < end && now >= end - before);
                if soon && !lot.warned && !lot.dead {
                    lot.warned = true;
                    self.say(EventKind::CreditExpiring, left);
                }
            }
        }
        let expired = self
            .news
            .iter()
            .any(|news| news.0 == EventKind::PlanExpired);
        if self.had_plan && self.lots.is_empty() && !expired {
            self.say(EventKind::PlanExhausted, 0);
        }
        self.ask(policy, now);
    }

    fn ask(&mut self, policy: &Policy, now: i64) {
        let Some(auto) = policy.auto_recharge else {
            return;
        };
        let low = self.balance() < auto.below.nanos();
        if !low && let Some(asked) = &mut self.asked {
            asked.open = false;
        }
        if !low || self.closed || self.refund.is_some() || self.untouched() {
            return;
        }
        let month = at(now).month();
        let mut sum = auto.amount.nanos();
        if let Some(asked) = &self.asked {
            let cool = i64::try_from(auto.cool_down_ms).unwrap() * 1_000_000;
            if asked.open || now < asked.at + cool {
                return;
            }
            if asked.month == month {
                sum += asked.sum;
            }
        }
        if auto.monthly_max.is_some_and(|most| sum > most.nanos()) {
            return;
        }
        self.asked = Some(Asked {
            at: now,
            open: true,
            month,
            sum,
        });
        self.say(EventKind::RechargeRequested, auto.amount.nanos());
    }

    /// A recharge has come.
    pub(super) fn answered(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.open = false;
        }
    }
}
