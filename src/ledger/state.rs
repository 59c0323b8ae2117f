//! What state a book is in at an instant, computed from its facts: nothing here is swept into being.

use serde::{Deserialize, Serialize};

use super::book::{Book, CreditKind};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::policy::{Mode, Policy, Resume, WhileOverdue};
use crate::refusal::Reason;

/// What the replicas have done, as a store tells it together with the book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The total spend of all replicas.
    pub spend: Amount,
    /// What they may still spend without asking: committed to them and not spent. Calls in flight hold some of it, the rest is idle
    /// and goes back.
    ///
    /// Not the sum of the holds that replicas reported, though that is less. What a replica reports is what it held when it spoke; until it
    /// speaks again it may take holds of all that it has leased, and not have told yet. Credit that has expired pays what was held of it
    /// of a replica that has not spoken since that instant, nobody knows how much that is, only that it is no more than this. If less
    /// were kept, its calls would be paid on credit that is not there: more would be held than there is (P3), and a debt made of calls that
    /// were covered. The two are the same as soon as that can be known: a replica that hears of the expiry gives back all that it does not
    /// hold, and one that is not heard for a lease time lapses, which leaves it what it reported.
    pub held: Amount,
}

impl Spent {
    /// From a store's totals: `unleased = lifetime credit + floor − Σ committed − lost`, and the total spend has what is lost in it, so
    /// what was committed and not spent is what is missing of the book's own credit.
    pub fn of(book: &Book, spend: Amount, unleased: Amount) -> Self {
        let there =
            i128::from(book.lifetime_credit.nanos()).saturating_add(book.floor.nanos().into());
        let gone = i128::from(unleased.nanos()).saturating_add(spend.nanos().into());
        let held = there.saturating_sub(gone).clamp(0, i64::MAX.into());
        Self {
            spend,
            held: Amount::from_nanos(i64::try_from(held).unwrap_or(i64::MAX)),
        }
    }
}

/// The state that callers and people see, derived from the facts at read time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// In good standing.
    Active,
    /// More is owed than may be, or the backend said so.
    Overdue,
    /// Overdue for too long.
    Suspended,
    /// Paid again, but not all is reactivated.
    ReactivationRequired,
    /// Suspended for so long that the data may be cleared.
    PurgeEligible,
    /// A refund was accepted.
    Frozen,
    /// Closed for good.
    Closed,
}

impl State {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Overdue => "OVERDUE",
            Self::Suspended => "SUSPENDED",
            Self::ReactivationRequired => "REACTIVATION_REQUIRED",
            Self::PurgeEligible => "PURGE_ELIGIBLE",
            Self::Frozen => "FROZEN",
            Self::Closed => "CLOSED",
        }
    }
}

/// Why calls are refused whatever they cost, now and at the deadlines ahead: a call is judged by its own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Until the first step ahead.
    now: Option<Reason>,
    /// From each instant on, ascending. The end of the grace and the suspension are all there can be.
    later: [Option<(Timestamp, Option<Reason>)>; 2],
}

impl Standing {
    /// Good until further notice, or refused until further notice.
    pub const fn always(reason: Option<Reason>) -> Self {
        Self {
            now: reason,
            later: [None; 2],
        }
    }

    /// Why a call at this instant is refused; `None` if it is not. [`Reason::ReactivationRequired`] does not hold for a capability
    /// that was reactivated: see [`Book::is_reactivated`].
    pub fn at(&self, instant: Timestamp) -> Option<Reason> {
        let mut ahead = self.later.iter().flatten().rev();
        let passed = ahead.find(|(from, _)| instant >= *from);
        passed.map_or(self.now, |(_, reason)| *reason)
    }

    /// What changes by itself, from when on.
    pub fn ahead(&self) -> impl Iterator<Item = (Timestamp, Option<Reason>)> + '_ {
        self.later.iter().flatten().copied()
    }
}

impl Book {
    /// How much may be owed without being overdue: nothing where credit is paid in advance (A1-1), what is left of the invoice limit
    /// where it is invoiced (A4-1).
    pub fn allowance(&self, policy: &Policy) -> Amount {
        match policy.mode {
            Mode::PrepaidOnly => Amount::ZERO,
            Mode::CreditThenInvoice => policy
                .invoice_limit
                .saturating_sub(self.invoiced_outstanding)
                .or_zero(),
        }
    }

    /// How much may be owed before calls stop, however long: the credit limit overrides A1-6 (A1-10).
    fn limit(&self, policy: &Policy) -> Amount {
        match policy.mode {
            Mode::PrepaidOnly => policy.credit_limit,
            Mode::CreditThenInvoice => self.allowance(policy),
        }
    }

    /// Since when the account is overdue, given what it owes: the earlier of its debt and the backend's word; `now` if the debt was not
    /// written down yet.
    pub fn overdue_since(
        &self,
        owed: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let owes = owed > self.allowance(policy);
        let debt = owes.then(|| self.overdue_since.unwrap_or(now));
        match (debt, self.declared_overdue) {
            (Some(debt), Some(declared)) => Some(debt.min(declared)),
            (debt, declared) => debt.or(declared),
        }
    }

    /// When the account is, or was, suspended if it stays as it is; `None` if it would not be.
    pub(super) fn suspension(
        &self,
        owed: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let since = self.overdue_since(owed, policy, now)?;
        let over_at = policy.suspend_after?.over_at(since);
        // A partial payment after the suspension does not end it (A3-13).
        let suspended = self.suspended_at.is_some_and(|at| at >= since);
        (suspended || self.blocks_calls(owed, policy)).then_some(over_at)
    }

    /// Whether what is owed stops calls but for a grace.
    fn blocks_calls(&self, owed: Amount, policy: &Policy) -> bool {
        self.declared_overdue.is_some() || owed > self.limit(policy)
    }

    /// When the account's data may be cleared if it stays as it is (A2-5).
    pub(super) fn purge(&self, owed: Amount, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let suspension = self.suspension(owed, policy, now)?;
        let after = std::time::Duration::from_millis(policy.purge_after_ms?);
        Some(suspension.plus(after))
    }

    /// When the grace is over that runs, or would run, now.
    fn grace_end(&self, owed: Amount, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let since = self.overdue_since(owed, policy, now)?;
        Some(policy.grace?.over_at(since))
    }

    /// Whether calls wait for a reactivation, but for those of what was reactivated (A1-9).
    pub fn needs_reactivation(&self, policy: &Policy) -> bool {
        policy.resume == Resume::Reactivate && self.suspended_at.is_some()
    }

    /// Whether a capability may be used while others wait for their reactivation. `matches` says whether a pattern is for it.
    pub fn is_reactivated(&self, matches: impl Fn(&str) -> bool) -> bool {
        self.reactivated
            .iter()
            .any(|pattern| pattern == "*" || matches(pattern))
    }

    /// The state, given the total spend.
    pub fn state(&self, spend: Amount, policy: &Policy, now: Timestamp) -> State {
        if self.closed.is_some() {
            return State::Closed;
        }
        if self.refund.is_some() {
            return State::Frozen;
        }
        let owed = self.debt(spend);
        let passed = |at: Option<Timestamp>| at.is_some_and(|at| now >= at);
        if passed(self.purge(owed, policy, now)) {
            State::PurgeEligible
        } else if passed(self.suspension(owed, policy, now)) {
            State::Suspended
        } else if self.overdue_since(owed, policy, now).is_some() {
            State::Overdue
        } else if self.needs_reactivation(policy) {
            State::ReactivationRequired
        } else {
            State::Active
        }
    }

    /// Why calls are refused whatever they cost, from now on. Shadow is not looked at: what would have been refused is told (A3-11).
    pub fn standing(&self, spend: Amount, policy: &Policy, now: Timestamp) -> Standing {
        let owed = self.debt(spend);
        let mut steps = [
            self.grace_end(owed, policy, now),
            self.suspension(owed, policy, now),
        ];
        steps.sort_unstable();
        let reason = |at| self.refused(owed, policy, now, at);
        let later = |step: Option<Timestamp>| {
            let step = step.filter(|step| *step > now)?;
            Some((step, reason(step)))
        };
        Standing {
            now: reason(now),
            later: steps.map(later),
        }
    }

    fn refused(
        &self,
        owed: Amount,
        policy: &Policy,
        now: Timestamp,
        at: Timestamp,
    ) -> Option<Reason> {
        if self.closed.is_some() {
            return Some(Reason::AccountClosed);
        }
        if self.refund.is_some() {
            return Some(Reason::RefundInProgress);
        }
        if self
            .suspension(owed, policy, now)
            .is_some_and(|from| at >= from)
        {
            return Some(Reason::AccountSuspended);
        }
        let overdue =
            self.overdue_since(owed, policy, now).is_some() && self.blocks_calls(owed, policy);
        let grace = self
            .grace_end(owed, policy, now)
            .is_some_and(|end| at < end);
        if overdue && !(grace && owed <= policy.limit_in_grace()) {
            return Some(Reason::AccountOverdue);
        }
        self.needs_reactivation(policy)
            .then_some(Reason::ReactivationRequired)
    }

    /// How far below zero holds may take the balance at an instant.
    pub fn floor(&self, owed: Amount, policy: &Policy, now: Timestamp) -> Amount {
        if policy.mode == Mode::CreditThenInvoice {
            return self.allowance(policy);
        }
        match self.grace_end(owed, policy, now) {
            Some(end) if now >= end => policy.credit_limit,
            _ => policy.limit_in_grace(),
        }
    }

    /// The next instant at which something happens by itself: due already and not done, or ahead.
    pub fn next_deadline(
        &self,
        spend: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let owed = self.debt(spend);
        let told = |at: &Timestamp| !self.is_suspension_told(owed, policy, now) || *at > now;
        let ahead = |at: &Timestamp| *at > now;
        let times = [
            self.money_deadline(spend, policy, now),
            self.blocks
                .iter()
                .filter_map(|block| block.notice(policy))
                .min(),
            self.suspension(owed, policy, now).filter(told),
            self.purge(owed, policy, now)
                .filter(|at| !self.purge_sent || *at > now),
            self.next_recharge(self.balance(spend), policy, now)
                .filter(|at| ahead(at) || self.asks_for_recharge(spend, policy, now)),
        ];
        let qps = self.qps_plans.iter();
        let qps = qps.flat_map(|plan| [Some(plan.effective).filter(ahead), plan.expires]);
        times.into_iter().chain(qps).flatten().min()
    }

    /// The next instant at which there is less to spend by itself, or other rules for spending it: what was leased before must not be
    /// used from then on.
    pub fn money_deadline(
        &self,
        spend: Amount,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let ahead = |at: &Timestamp| *at > now;
        let live = self.blocks.iter().filter(|block| !block.expired);
        let times = [
            live.filter_map(|block| block.expires).min(),
            self.grace_end(self.debt(spend), policy, now).filter(ahead),
            policy.live_from.filter(ahead),
        ];
        times.into_iter().flatten().min()
    }

    pub(super) fn is_suspension_told(&self, owed: Amount, policy: &Policy, now: Timestamp) -> bool {
        let since = self.overdue_since(owed, policy, now);
        since.is_some_and(|since| self.suspended_at.is_some_and(|at| at >= since))
    }

    /// The rate at an instant: the highest of the QPS plans that run, else the policy's. QPS plans do not count while the account is
    /// overdue, unless the policy says otherwise (A1-4, A1-5). `None` is no limit.
    pub fn rate(&self, overdue: bool, policy: &Policy, at: Timestamp) -> Option<(u32, u32)> {
        let default = policy.qps.map(|qps| (qps, policy.effective_burst()));
        if overdue && policy.qps_plans_while_overdue == WhileOverdue::Unavailable {
            return default;
        }
        let runs = |plan: &&super::QpsPlan| {
            plan.effective <= at && plan.expires.is_none_or(|end| at < end)
        };
        let plans = self.qps_plans.iter().filter(runs);
        let best = plans
            .map(|plan| (plan.qps, plan.burst.unwrap_or(plan.qps).max(1)))
            .max();
        match (best, default) {
            (Some(best), Some(default)) => Some(best.max(default)),
            (_, default) => default,
        }
    }

    /// Whether the account has plan credit of its own, as a plan's account has.
    pub(super) fn has_plan_credit(&self) -> bool {
        self.blocks
            .iter()
            .any(|block| block.kind == CreditKind::Plan)
    }
}
