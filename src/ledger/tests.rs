//! Tests of the ledger by rule, and of any history against a naive model (`random`). How stores keep a book is not here.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test is a failure of that test"
)]

mod alerts;
mod buying;
mod claims;
mod corrections;
mod credit;
mod deadlines;
mod heal;
mod model;
mod random;
mod refunds;
mod views;

use super::*;
use crate::clock::Timestamp;
use crate::id::AccountId;
use crate::id::{KeyId, ModelName};
use crate::money::Amount;
use crate::policy::{Overrides, Policy};

fn n(nanos: i64) -> Amount {
    Amount::from_nanos(nanos)
}

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn recharge(nanos: i64) -> Action {
    Action::Recharge {
        amount: n(nanos),
        order_id: "order".into(),
        priority: 0,
        expires: None,
        note: "card".into(),
    }
}

fn grant(nanos: i64) -> Action {
    Action::Grant {
        amount: n(nanos),
        order_id: None,
        priority: 0,
        expires: None,
        note: "welcome".into(),
    }
}

fn adjust(nanos: i64) -> Action {
    Action::Adjust {
        amount: n(nanos),
        note: "wrong price".into(),
    }
}

fn late(nanos: i64) -> Action {
    Action::LateCharge {
        amount: n(nanos),
        key: None,
        model: None,
        note: "invoice".into(),
    }
}

fn configure() -> Action {
    Action::Configure(Configure::default())
}

fn begin(id: &str, orders: &[&str]) -> Action {
    Action::BeginRefund {
        refund_id: id.into(),
        orders: orders.iter().map(|order| (*order).into()).collect(),
        reason: "asked".into(),
    }
}

fn correct(sequence: u64, nanos: i64) -> Action {
    Action::Correct {
        sequence,
        amount: n(nanos),
        note: "wrong price".into(),
    }
}

fn buy_plan(order: &str, nanos: i64) -> Action {
    Action::BuyPlan {
        amount: n(nanos),
        order_id: order.into(),
        priority: 0,
        expires: None,
        price: None,
        note: String::new(),
    }
}

fn add_plan(name: &str, unit: &str) -> Action {
    Action::AddPlan {
        plan: PlanRef {
            name: name.into(),
            unit: unit.into(),
            scope: Vec::new(),
            priority: 0,
        },
    }
}

/// The same credit, which cannot be spent from `time` on.
fn until(time: i64, mut credit: Action) -> Action {
    if let Action::Recharge { expires, .. }
    | Action::Grant { expires, .. }
    | Action::BuyPlan { expires, .. } = &mut credit
    {
        *expires = Some(at(time));
    }
    credit
}

/// The same credit with another priority.
fn rank(rank: i32, mut credit: Action) -> Action {
    if let Action::Recharge { priority, .. } | Action::Grant { priority, .. } = &mut credit {
        *priority = rank;
    }
    credit
}

/// A book with what a store would keep beside it. Whatever is run on it is checked for what must hold of every command.
#[derive(Clone)]
struct Desk {
    book: Book,
    spend: i64,
    held: i64,
    policy: Policy,
    now: i64,
    entries: Vec<Entry>,
    events: Vec<Event>,
}

impl Desk {
    /// An account that nobody configured yet, at instant 0.
    fn new() -> Self {
        let account = AccountId::new("acme").unwrap();
        Self {
            book: Book::new(account, "USD".into(), "default".into(), at(0)),
            spend: 0,
            held: 0,
            policy: Policy::default(),
            now: 0,
            entries: Vec::new(),
            events: Vec::new(),
        }
    }

    /// An account with a debt of `nanos` that was seen at instant 0.
    fn owing(nanos: i64) -> Self {
        let mut desk = Self::new();
        desk.run(late(nanos));
        desk
    }

    fn command(&mut self, command: &Command) -> Result<Applied, Rejected> {
        let corrects = match command.action {
            Action::Correct { sequence, .. } => {
                self.entries.iter().find(|entry| entry.sequence == sequence)
            }
            _ => None,
        };
        let given = Given {
            spent: self.given(),
            corrects,
        };
        let applied = apply(&self.book, given, command, &self.policy, at(self.now))?;
        self.take(&applied);
        Ok(applied)
    }

    fn given(&self) -> Spent {
        Spent {
            spend: n(self.spend),
            held: n(self.held),
        }
    }

    fn attempt(&mut self, action: Action) -> Result<Applied, Rejected> {
        self.command(&Command {
            idempotency_key: Some("key".into()),
            action,
        })
    }

    fn run(&mut self, action: Action) -> Applied {
        self.attempt(action).unwrap()
    }

    fn observe(&mut self) -> Applied {
        self.command(&Command::observe()).unwrap()
    }

    /// Replicas publish that this much more was spent.
    fn spent(&mut self, more: i64) -> &mut Self {
        self.spend += more;
        self
    }

    fn at(&mut self, now: i64) -> &mut Self {
        self.now = now;
        self
    }

    /// Keeps what a command made, having checked it.
    fn take(&mut self, applied: &Applied) {
        let Applied { book, .. } = applied;
        assert_eq!(book.invariants(), Ok(()));
        let spent = Spent {
            spend: n(self.spend).max(book.absorbed),
            held: n(self.held),
        };
        assert!(!book.wants_observing(spent, &self.policy, at(self.now)));
        let moved = |book: &Book| book.lifetime_credit.nanos() + book.floor.nanos();
        let delta = moved(book) - moved(&self.book);
        assert_eq!(applied.credit_delta, n(delta));
        for entry in &applied.entries {
            let last = self.entries.last();
            assert_eq!(entry.sequence, last.map_or(1, |last| last.sequence + 1));
            let before = last.map_or(0, |last| last.balance.nanos());
            assert_eq!(entry.balance.nanos(), before + entry.amount.nanos());
            assert_eq!(entry.time, at(self.now));
            self.entries.push(entry.clone());
        }
        // Each balance is the one before and its entry's amount, so the last is the sum of all amounts.
        let sum = self
            .entries
            .last()
            .map_or(Amount::ZERO, |last| last.balance);
        assert_eq!(book.balance(book.absorbed), sum, "the entries add up");
        for event in &applied.events {
            let (number, nanos) = (self.events.len() + 1, at(self.now).nanos());
            assert_eq!(event.id, format!("acme/{number}/{nanos}"));
            assert_eq!(event.time, at(self.now));
            self.events.push(event.clone());
        }
        assert_eq!(book.entries, u64::try_from(self.entries.len()).unwrap());
        assert_eq!(book.events, u64::try_from(self.events.len()).unwrap());
        self.book = book.clone();
    }

    /// What is left, by block.
    fn left(&self) -> Vec<(u64, i64)> {
        let left = |block: &CreditBlock| (block.id, block.remaining.nanos());
        self.book.blocks.iter().map(left).collect()
    }
}

/// What each entry says that it took from which blocks.
fn taken(entry: &Entry) -> Vec<(u64, i64)> {
    let taken = |part: &Allocation| (part.block, part.amount.nanos());
    entry.allocations.iter().map(taken).collect()
}

fn kinds(applied: &Applied) -> Vec<EntryKind> {
    applied.entries.iter().map(|entry| entry.kind).collect()
}
