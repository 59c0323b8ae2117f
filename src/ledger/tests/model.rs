//! The ledger as the billing rules tell it, by the plainest loops there are: money is spent one nano-unit at a time. It is
//! written from the rules and shares no arithmetic with what it is compared with. Amounts must be small.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::policy::{End, Mode, Refunds, Resume};

mod act;
mod told;

/// Money put in, in one piece.
#[derive(Clone, Debug)]
pub(super) struct Lot {
    pub(super) id: u64,
    pub(super) kind: CreditKind,
    pub(super) priority: i32,
    pub(super) since: i64,
    pub(super) until: Option<i64>,
    pub(super) left: i64,
    pub(super) order: Option<String>,
    /// It has ended, and what is left pays holds.
    pub(super) dead: bool,
    pub(super) warned: bool,
}

impl Lot {
    /// Once ended it stays so, if the clock is set back.
    fn ended(&self, now: i64) -> bool {
        self.dead || self.until.is_some_and(|end| now >= end)
    }
}

/// One thing that is written down.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) kind: EntryKind,
    pub(super) amount: i64,
    pub(super) balance: i64,
    pub(super) debt_paid: i64,
    pub(super) debt_made: i64,
    pub(super) taken: Vec<(u64, i64)>,
    pub(super) lot: Option<u64>,
}

/// What a charge took, for whoever takes it back.
#[derive(Clone, Debug)]
pub(super) struct Charge {
    pub(super) amount: i64,
    pub(super) on_credit: i64,
    pub(super) from: Vec<(Lot, i64)>,
}

/// What can be taken back, by the number of its line.
pub(super) type Charges = BTreeMap<u64, Charge>;

/// One thing that is announced: what, how much, the balance then.
pub(super) type News = (EventKind, i64, i64);

/// A recharge that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    at: i64,
    open: bool,
    month: i64,
    sum: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// As they came.
    pub(super) lots: Vec<Lot>,
    pub(super) owed: i64,
    pub(super) paid_in: i64,
    /// How much of the total spend was taken.
    pub(super) seen: i64,
    pub(super) overdue_since: Option<i64>,
    pub(super) declared: Option<i64>,
    pub(super) suspended: Option<i64>,
    pub(super) reactivated: BTreeSet<String>,
    purge_told: bool,
    pub(super) refund: Option<(String, Vec<String>)>,
    pub(super) closed: bool,
    pub(super) plans: BTreeMap<String, String>,
    /// Order and end.
    pub(super) rates: Vec<(String, Option<i64>)>,
    pub(super) invoiced: BTreeMap<String, i64>,
    /// Id, amount, whether it is paid.
    pub(super) invoices: Vec<(String, i64, bool)>,
    invoicing: bool,
    corrected: BTreeMap<u64, i64>,
    asked: Option<Asked>,
    pub(super) alerted: Vec<i64>,
    /// The balance has been at or above the threshold since it last fell below.
    pub(super) armed: bool,
    pub(super) lots_made: u64,
    pub(super) lines_written: u64,
    /// What the last command wrote and announced, and what its charges took.
    pub(super) lines: Vec<Line>,
    pub(super) news: Vec<News>,
    pub(super) charges: Vec<(u64, Charge)>,
    was_overdue: bool,
    had_plan: bool,
}

/// What a command comes with.
#[derive(Clone, Copy)]
pub(super) struct With<'a> {
    pub(super) spend: i64,
    pub(super) held: i64,
    pub(super) policy: &'a Policy,
    pub(super) now: i64,
    pub(super) charges: &'a Charges,
}

/// When a time is over that runs since an instant.
fn over_at(deadline: crate::policy::Deadline, since: i64) -> i64 {
    let ms = i64::try_from(deadline.ms).unwrap();
    since + ms * 1_000_000 + i64::from(deadline.end == End::Included)
}

impl Model {
    /// What is left of each lot, in the order in which they are burnt.
    pub(super) fn left(&self) -> Vec<(u64, i64)> {
        let mut lots: Vec<&Lot> = self.lots.iter().collect();
        let mut left = Vec::new();
        while !lots.is_empty() {
            let mut first = 0;
            for place in 1..lots.len() {
                if sooner(lots[place], lots[first]) {
                    first = place;
                }
            }
            let lot = lots.remove(first);
            left.push((lot.id, lot.left));
        }
        left
    }

    pub(super) fn balance(&self) -> i64 {
        let mut sum = -self.owed;
        for lot in &self.lots {
            sum += lot.left;
        }
        sum
    }

    fn outstanding(&self) -> i64 {
        let open = self.invoices.iter().filter(|invoice| !invoice.2);
        open.map(|invoice| invoice.1).sum()
    }

    /// How much may be owed in good standing, and before calls stop.
    fn limits(&self, policy: &Policy) -> (i64, i64) {
        if policy.mode == Mode::CreditThenInvoice {
            let left = (policy.invoice_limit.nanos() - self.outstanding()).max(0);
            return (left, left);
        }
        (0, policy.credit_limit.nanos())
    }

    pub(super) fn since(&self, policy: &Policy, now: i64) -> Option<i64> {
        let mut since = self.declared;
        if self.owed > self.limits(policy).0 {
            let debt = self.overdue_since.unwrap_or(now);
            since = Some(since.map_or(debt, |other| other.min(debt)));
        }
        since
    }

    fn stops(&self, policy: &Policy) -> bool {
        self.declared.is_some() || self.owed > self.limits(policy).1
    }

    fn suspension(&self, policy: &Policy, now: i64) -> Option<i64> {
        let since = self.since(policy, now)?;
        let told = self.suspended.is_some_and(|at| at >= since);
        if !told && !self.stops(policy) {
            return None;
        }
        Some(over_at(policy.suspend_after?, since))
    }

    fn purge(&self, policy: &Policy, now: i64) -> Option<i64> {
        let ms = i64::try_from(policy.purge_after_ms?).unwrap();
        Some(self.suspension(policy, now)? + ms * 1_000_000)
    }

    pub(super) fn state(&self, policy: &Policy, now: i64) -> State {
        if self.closed {
            return State::Closed;
        }
        if self.refund.is_some() {
            return State::Frozen;
        }
        if self.purge(policy, now).is_some_and(|at| now >= at) {
            return State::PurgeEligible;
        }
        if self.suspension(policy, now).is_some_and(|at| now >= at) {
            return State::Suspended;
        }
        if self.since(policy, now).is_some() {
            return State::Overdue;
        }
        if self.suspended.is_some() && policy.resume == Resume::Reactivate {
            return State::ReactivationRequired;
        }
        State::Active
    }

    fn in_grace(&self, policy: &Policy, now: i64) -> bool {
        let (Some(since), Some(grace)) = (self.since(policy, now), policy.grace) else {
            return false;
        };
        now < over_at(grace, since)
    }

    /// Whether calls are refused whatever they cost.
    pub(super) fn refuses(&self, policy: &Policy, now: i64) -> bool {
        match self.state(policy, now) {
            State::Active => false,
            State::Overdue => {
                let waits = self.suspended.is_some() && policy.resume == Resume::Reactivate;
                let most = policy.grace_limit.map_or(i64::MAX, Amount::nanos);
                let spared = self.in_grace(policy, now)
                    && self.owed <= most.max(policy.credit_limit.nanos());
                (self.stops(policy) && !spared) || waits
            }
            _ => true,
        }
    }

    pub(super) fn floor(&self, policy: &Policy, now: i64) -> i64 {
        let (_, limit) = self.limits(policy);
        let over = self.since(policy, now).is_some() && !self.in_grace(policy, now);
        match policy.grace {
            Some(_) if policy.mode == Mode::PrepaidOnly && !over => {
                let most = policy
                    .grace_limit
                    .unwrap_or(crate::policy::CREDIT_LIMIT_MAX);
                most.nanos().max(limit)
            }
            _ => limit,
        }
    }

    /// The account after a command, or the word for why there is none.
    pub(super) fn after(&self, action: &Action, with: With<'_>) -> Result<Self, &'static str> {
        let With { policy, now, .. } = with;
        let mut next = self.clone();
        next.lines.clear();
        next.news.clear();
        next.charges.clear();
        next.was_overdue = self.overdue_since.is_some() || self.declared.is_some();
        next.had_plan = self.lots.iter().any(|lot| lot.kind == CreditKind::Plan);
        next.see(with.spend);
        next.suspend(policy, now);
        next.end_lots(with.held, now);
        next.act(action, with)?;
        next.follow(policy, now);
        next.suspend(policy, now);
        next.announce(policy, now);
        next.invoicing = policy.mode == Mode::CreditThenInvoice;
        Ok(next)
    }

    /// Takes what was spent since the last time.
    pub(super) fn see(&mut self, spend: i64) {
        if spend > self.seen {
            self.charge(EntryKind::Usage, spend - self.seen);
            self.seen = spend;
        }
    }

    /// What is held of lots that have ended stays for as long as it is held.
    fn end_lots(&mut self, held: i64, now: i64) {
        let ended = |lot: &Lot| lot.ended(now);
        let mut places: Vec<u64> = Vec::new();
        for (id, _) in self.left() {
            if self.lots.iter().any(|lot| lot.id == id && ended(lot)) {
                places.push(id);
            }
        }
        let mut held = held;
        let mut gone = Vec::new();
        for id in places {
            let place = self.lots.iter().position(|lot| lot.id == id).unwrap();
            let keep = self.lots[place].left.min(held);
            held -= keep;
            let rest = self.lots[place].left - keep;
            self.lots[place].left = keep;
            self.lots[place].dead = true;
            if rest > 0 {
                gone.push((id, rest, self.lots[place].kind));
            }
            if keep == 0 {
                self.lots.remove(place);
            }
        }
        // Each is written down as it goes, so the balance falls step by step.
        let mut later: i64 = gone.iter().map(|part| part.1).sum();
        for (id, rest, kind) in gone {
            later -= rest;
            self.ended(id, rest, kind, later);
        }
        let over: Vec<_> = self
            .rates
            .iter()
            .filter(|rate| rate.1.is_some_and(|end| now >= end))
            .cloned()
            .collect();
        for rate in over {
            let place = self.rates.iter().position(|other| *other == rate).unwrap();
            self.rates.remove(place);
            self.say(EventKind::PlanExpired, 0);
        }
    }

    /// Writes down that so much of a lot has ended; so much more will be in a moment.
    fn ended(&mut self, id: u64, amount: i64, kind: CreditKind, later: i64) {
        self.write(EntryKind::Expiry, -amount, |line| {
            line.taken.push((id, amount));
            line.balance += later;
        });
        let event = if kind == CreditKind::Plan {
            EventKind::PlanExpired
        } else {
            EventKind::CreditExpired
        };
        self.news.push((event, amount, self.balance() + later));
    }

    /// Where the lot stands that is burnt first of those that count.
    fn first_to_burn(&self, counts: impl Fn(&Lot) -> bool) -> Option<usize> {
        let mut first: Option<usize> = None;
        for (place, lot) in self.lots.iter().enumerate() {
            if counts(lot) && first.is_none_or(|first| sooner(lot, &self.lots[first])) {
                first = Some(place);
            }
        }
        first
    }

    fn write(&mut self, kind: EntryKind, amount: i64, fill: impl FnOnce(&mut Line)) {
        let mut line = Line {
            kind,
            amount,
            balance: self.balance(),
            debt_paid: 0,
            debt_made: 0,
            taken: Vec::new(),
            lot: None,
        };
        fill(&mut line);
        self.lines_written += 1;
        self.lines.push(line);
    }

    fn say(&mut self, kind: EventKind, amount: i64) {
        self.news.push((kind, amount, self.balance()));
    }
}

/// X-2, one question after another.
fn sooner(a: &Lot, b: &Lot) -> bool {
    if a.dead != b.dead {
        return a.dead;
    }
    if a.priority != b.priority {
        return a.priority < b.priority;
    }
    if a.until != b.until {
        return match (a.until, b.until) {
            (Some(a), Some(b)) => a < b,
            (a, _) => a.is_some(),
        };
    }
    if a.kind != b.kind {
        // Gifts before what was paid, that before plans.
        return a.kind == CreditKind::Bonus || b.kind == CreditKind::Plan;
    }
    if a.since != b.since {
        return a.since < b.since;
    }
    a.id < b.id
}
