//! The ledger as the billing rules tell it, by the plainest loops there are: money is spent one nano-unit at a time. It is
//! written from the rules and shares no arithmetic with what it is compared with. Amounts must be small.

use super::*;

/// Money put in, in one piece.
#[derive(Clone, Debug)]
pub(super) struct Lot {
    pub(super) id: u64,
    pub(super) bonus: bool,
    pub(super) priority: i32,
    pub(super) since: i64,
    pub(super) until: Option<i64>,
    pub(super) left: i64,
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

/// One thing that is announced: what, how much, the balance then.
pub(super) type News = (EventKind, i64, i64);

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// As they came.
    pub(super) lots: Vec<Lot>,
    pub(super) owed: i64,
    pub(super) paid_in: i64,
    /// How much of the total spend was taken.
    pub(super) seen: i64,
    pub(super) overdue_since: Option<i64>,
    /// The balance has been at or above the threshold since it last fell below.
    pub(super) armed: bool,
    pub(super) lots_made: u64,
    lines_written: u64,
    /// What the last command wrote and announced.
    pub(super) lines: Vec<Line>,
    pub(super) news: Vec<News>,
}

impl Model {
    /// What is left of each lot, in the order in which they are burnt.
    pub(super) fn left(&self) -> Vec<(u64, i64)> {
        let mut rest = self.clone();
        let mut left = Vec::new();
        while let Some(place) = rest.first_to_burn(|_| true) {
            let lot = rest.lots.remove(place);
            left.push((lot.id, lot.left));
        }
        left
    }

    pub(super) fn balance(&self) -> i64 {
        self.lots.iter().map(|lot| lot.left).sum::<i64>() - self.owed
    }

    /// The account after a command, or why there is none.
    pub(super) fn after(
        &self,
        spend: i64,
        action: &Action,
        policy: &Policy,
        now: i64,
    ) -> Result<Self, Rejected> {
        if let Some(wrong) = wrong(action, now) {
            return Err(wrong);
        }
        let mut next = self.clone();
        next.lines.clear();
        next.news.clear();
        next.see(spend);
        next.end_lots(now);
        next.act(action, now);
        next.announce(policy, now);
        Ok(next)
    }

    /// Takes what was spent since the last time.
    pub(super) fn see(&mut self, spend: i64) {
        if spend > self.seen {
            self.charge(EntryKind::Usage, spend - self.seen);
            self.seen = spend;
        }
    }

    fn end_lots(&mut self, now: i64) {
        while let Some(place) = self.first_to_burn(|lot| lot.until.is_some_and(|end| now >= end)) {
            let lot = self.lots.remove(place);
            self.write(EntryKind::Expiry, -lot.left, |line| {
                line.taken.push((lot.id, lot.left));
            });
            self.news
                .push((EventKind::CreditExpired, lot.left, self.balance()));
        }
    }

    fn act(&mut self, action: &Action, now: i64) {
        match action {
            Action::Recharge {
                amount,
                priority,
                expires,
                ..
            } => {
                self.paid_in += amount.nanos();
                self.credit(EntryKind::Recharge, *amount, *priority, *expires, now);
                self.news
                    .push((EventKind::CreditAdded, amount.nanos(), self.balance()));
            }
            Action::Grant {
                amount,
                priority,
                expires,
                ..
            } => {
                self.credit(EntryKind::Grant, *amount, *priority, *expires, now);
                self.news
                    .push((EventKind::CreditAdded, amount.nanos(), self.balance()));
            }
            Action::Adjust { amount, .. } if amount.nanos() > 0 => {
                self.credit(EntryKind::Adjustment, *amount, 0, None, now);
            }
            Action::Adjust { amount, .. } => self.charge(EntryKind::Adjustment, -amount.nanos()),
            Action::LateCharge { amount, .. } => {
                self.charge(EntryKind::LateCharge, amount.nanos());
            }
            Action::Configure(_) => {
                self.write(EntryKind::Configuration, 0, |_| {});
                if self.lines_written == 1 {
                    self.news
                        .push((EventKind::AccountOpened, 0, self.balance()));
                }
            }
            Action::Observe => {}
            _ => unreachable!("not among the random commands"),
        }
    }

    fn credit(
        &mut self,
        kind: EntryKind,
        amount: Amount,
        priority: i32,
        expires: Option<Timestamp>,
        now: i64,
    ) {
        let bonus = kind == EntryKind::Grant;
        let mut left = amount.nanos();
        let mut paid = 0;
        while left > 0 && self.owed > 0 && !bonus {
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
                bonus,
                priority,
                since: now,
                until: expires.map(Timestamp::nanos),
                left,
            });
        }
        self.write(kind, amount.nanos(), |line| {
            line.debt_paid = paid;
            line.lot = made;
        });
    }

    /// Takes one nano-unit after another.
    fn charge(&mut self, kind: EntryKind, amount: i64) {
        let mut taken: Vec<(u64, i64)> = Vec::new();
        let mut owed = 0;
        for _ in 0..amount {
            let Some(place) = self.first_to_burn(|_| true) else {
                self.owed += 1;
                owed += 1;
                continue;
            };
            let id = self.lots[place].id;
            match taken.iter_mut().find(|part| part.0 == id) {
                Some(part) => part.1 += 1,
                None => taken.push((id, 1)),
            }
            self.lots[place].left -= 1;
            if self.lots[place].left == 0 {
                self.lots.remove(place);
            }
        }
        self.write(kind, -amount, |line| {
            line.debt_made = owed;
            line.taken = taken;
        });
    }

    fn announce(&mut self, policy: &Policy, now: i64) {
        if self.owed > 0 && self.overdue_since.is_none() {
            self.overdue_since = Some(now);
            self.news
                .push((EventKind::AccountOverdue, self.owed, self.balance()));
        }
        if self.owed == 0 && self.overdue_since.is_some() {
            self.overdue_since = None;
            self.news
                .push((EventKind::AccountResumed, 0, self.balance()));
        }
        match policy.low_balance.map(Amount::nanos) {
            Some(threshold) if self.balance() < threshold => {
                if self.armed {
                    self.armed = false;
                    self.news
                        .push((EventKind::BalanceLow, threshold, self.balance()));
                }
            }
            _ => self.armed = true,
        }
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
}

/// X-2, one question after another.
fn sooner(a: &Lot, b: &Lot) -> bool {
    if a.priority != b.priority {
        return a.priority < b.priority;
    }
    if a.until != b.until {
        return match (a.until, b.until) {
            (Some(a), Some(b)) => a < b,
            (a, _) => a.is_some(),
        };
    }
    if a.bonus != b.bonus {
        return a.bonus;
    }
    if a.since != b.since {
        return a.since < b.since;
    }
    a.id < b.id
}

/// What makes a command one that nobody can carry out.
fn wrong(action: &Action, now: i64) -> Option<Rejected> {
    match action {
        Action::Recharge { amount, .. }
        | Action::Grant { amount, .. }
        | Action::LateCharge { amount, .. }
            if amount.nanos() <= 0 =>
        {
            Some(Rejected::NotPositive(*amount))
        }
        Action::Recharge { expires, .. } | Action::Grant { expires, .. } => expires
            .filter(|end| end.nanos() <= now)
            .map(Rejected::Expired),
        Action::Adjust { amount, .. } if amount.nanos() == 0 => Some(Rejected::NoAmount),
        Action::Adjust { note, .. } if note.trim() == "" => Some(Rejected::NoNote),
        _ => None,
    }
}
