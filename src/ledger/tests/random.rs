//! Random histories of commands, spend, time and policies, after each step of which book and model must agree.
//!
//! A million commands in unoptimised code: so they are made by a few lines of arithmetic and not by proptest, and a history that goes
//! wrong is told by its seed and step, which is where it begins to differ, so there is nothing to shrink.

use std::collections::HashMap;

use super::model::{Charges, Line, Model, News, With};
use super::*;
use crate::policy::{AutoRecharge, Deadline, End, Enforcement, Mode, Refunds, Resume};

/// How many histories each test runs; there are [`TESTS`] of them, so that they share the cores.
const HISTORIES: u64 = 700;

/// Commands in a history.
const COMMANDS: u64 = 300;

/// `any_history_…` below: together, over a million commands.
const TESTS: u64 = 5;

const _: () = assert!(HISTORIES * COMMANDS * TESTS >= 1_000_000);

const MS: i64 = 1_000_000;

/// SplitMix64: enough for dice.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: i64) -> i64 {
        i64::try_from(self.next() % end.unsigned_abs()).unwrap()
    }

    fn from(&mut self, first: i64, end: i64) -> i64 {
        first + self.below(end - first)
    }

    pub(super) fn one_in(&mut self, times: i64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(i64::try_from(of.len()).unwrap())).unwrap()]
    }
}

impl Dice {
    fn credit(&mut self, desk: &Desk) -> Action {
        let amount = n(self.from(-1, 60));
        let order = format!("o{}", self.below(400));
        let priority = i32::try_from(self.from(-1, 2)).unwrap();
        let end = self.pick(&[
            None,
            None,
            Some(-1),
            Some(0),
            Some(1),
            Some(MS),
            Some(3 * MS),
        ]);
        let expires = end.map(|end| at(desk.now + end));
        let note = String::new();
        match self.below(9) {
            0..4 => Action::Recharge {
                amount,
                order_id: order,
                priority,
                expires,
                note,
            },
            4..7 => Action::Grant {
                amount: n(amount.nanos() / 2),
                order_id: self.one_in(2).then_some(order),
                priority,
                expires,
                note,
            },
            _ => Action::BuyPlan {
                amount,
                order_id: order,
                priority,
                expires,
                price: self.one_in(2).then(|| n(self.from(-1, 30))),
                note,
            },
        }
    }

    /// An order that there may be.
    fn order(&mut self, desk: &Desk) -> String {
        let blocks = &desk.book.blocks;
        let place = usize::try_from(self.below(8)).unwrap();
        let known = blocks.get(place).and_then(|block| block.order_id.clone());
        known.unwrap_or_else(|| "o1".into())
    }

    /// What somebody may ask of an account.
    pub(super) fn action(&mut self, desk: &Desk) -> Action {
        let note = || "why".to_owned();
        match self.below(60) {
            0..16 => self.credit(desk),
            16..20 => Action::Adjust {
                amount: n(self.from(-8, 9)),
                note: if self.one_in(9) {
                    String::new()
                } else {
                    note()
                },
            },
            20..26 => late(self.from(-1, 15)),
            26 => configure(),
            27 => Action::MarkOverdue { note: note() },
            28..30 => Action::ClearOverdue { note: note() },
            30..33 => Action::ReactivateCapability {
                capability: self.pick(&["a", "b", "c", "*"]).into(),
            },
            33..36 => {
                let orders = if self.one_in(2) {
                    Vec::new()
                } else {
                    vec![self.order(desk)]
                };
                let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
                begin(self.pick(&["r1", "r2"]), &orders)
            }
            36..40 => Action::CompleteRefund {
                refund_id: self.pick(&["r1", "r2"]).into(),
                close: self.one_in(100),
            },
            40 => Action::CancelRefund {
                refund_id: self.pick(&["r1", "r2"]).into(),
                note: note(),
            },
            41 => Action::SetInvoicedAmount {
                order_id: self.order(desk),
                amount: n(self.from(-1, 12)),
            },
            42 => add_plan(self.pick(&["p", "q"]), self.pick(&["tok", "img"])),
            43 => Action::RemovePlan {
                name: self.pick(&["p", "q"]).into(),
            },
            44 => {
                let times = [None, Some(0), Some(1), Some(MS), Some(2 * MS)];
                let time = |dice: &mut Self, now| dice.pick(&times).map(|by| at(now + by));
                Action::BuyQpsPlan {
                    plan_id: "fast".into(),
                    qps: 5,
                    burst: None,
                    effective: time(self, desk.now),
                    expires: time(self, desk.now),
                    order_id: format!("q{}", self.below(400)),
                    price: None,
                }
            }
            45..48 => {
                let back = self.below(12).unsigned_abs();
                let sequence = (desk.book.entries + 1).saturating_sub(back);
                correct(sequence, self.from(0, 9))
            }
            48 => Action::Void {
                order_id: self.order(desk),
                note: note(),
            },
            49..51 => Action::CloseInvoicePeriod {
                invoice_id: format!("i{}", self.below(200)),
                lines: Vec::new(),
            },
            51..53 => {
                let mut invoices = desk.book.invoices.iter();
                let open = invoices.find(|invoice| invoice.settled.is_none());
                let id = open.filter(|_| !self.one_in(4));
                Action::SettleInvoice {
                    invoice_id: id.map_or_else(|| "i1".into(), |invoice| invoice.id.clone()),
                }
            }
            53 if self.one_in(100) => Action::CloseAccount { note: note() },
            _ => Action::Observe,
        }
    }
}

/// The book and the model side by side, with the claims that a store would keep.
struct Pair {
    dice: Dice,
    desk: Desk,
    model: Model,
    charges: Charges,
    claims: HashMap<String, Claim>,
    /// What was carried out under each key.
    done: HashMap<String, Action>,
    last: Option<Command>,
}

impl Pair {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            desk: Desk::new(),
            model: Model::default(),
            charges: Charges::new(),
            claims: HashMap::new(),
            done: HashMap::new(),
            last: None,
        }
    }

    /// Deadlines are whole milliseconds: the clock is often one nanosecond before or after one. It may stand still, and be set back a
    /// little.
    fn step(&mut self) {
        let dice = &mut self.dice;
        self.desk.now += dice.pick(&[0, 0, 1, 1, 2, -1, MS - 1, MS, MS + 1, MS / 2]);
        // A total read from a store that fell behind may be lower.
        let spent = dice.pick(&[0, 0, 0, 0, 1, 2, 8, -2]);
        self.desk.spend = (self.desk.spend + spent).max(0);
        self.desk.held = dice.pick(&[0, 0, 0, 1, 3, 20]);
        // A policy lasts for a while, or no threshold would ever be crossed.
        if dice.one_in(24) {
            self.desk.policy = policy(dice);
        }
        if dice.one_in(4) {
            self.check_views();
        }
        let command = self.command();
        if self.is_new(&command) {
            self.carry_out(&command);
        }
        self.last = Some(command);
    }

    fn command(&mut self) -> Command {
        if self.dice.one_in(16)
            && let Some(last) = &self.last
        {
            return last.clone();
        }
        let action = self.dice.action(&self.desk);
        let key = match action {
            Action::Observe => None,
            _ => Some(format!("key-{}", self.dice.below(20_000))),
        };
        Command {
            idempotency_key: key,
            action,
        }
    }

    /// What the claims of a store say, against what was asked before.
    fn is_new(&mut self, command: &Command) -> bool {
        let names = command.claims();
        let standing: Vec<_> = names
            .iter()
            .map(|name| self.claims.get(name).cloned())
            .collect();
        if standing.iter().all(Option::is_none) {
            // Nothing to compare with, so nothing is digested.
            return true;
        }
        let key = command.idempotency_key.as_ref();
        match (
            command.seen_before(&standing),
            key.and_then(|key| self.done.get(key)),
        ) {
            (Seen::Before(entry), Some(first)) => {
                assert_eq!(
                    (first, &entry.idempotency_key),
                    (&command.action, &command.idempotency_key)
                );
            }
            (Seen::KeyReused, Some(first)) => assert_ne!(*first, command.action),
            (Seen::OrderReused, None) => {}
            other => panic!("{other:?}"),
        }
        false
    }

    fn carry_out(&mut self, command: &Command) {
        let with = With {
            spend: self.desk.spend,
            held: self.desk.held,
            policy: &self.desk.policy.clone(),
            now: self.desk.now,
            charges: &self.charges,
        };
        let debt = self.desk.book.debt;
        let wanted = self.model.after(&command.action, with);
        let applied = self.desk.command(command);
        let (next, applied) = match (wanted, applied) {
            (Ok(next), Ok(applied)) => (next, applied),
            (wanted, applied) => {
                let why = applied.as_ref().err().map(Rejected::reason);
                assert_eq!(why, wanted.err(), "{command:?}: {:?}", applied.err());
                return;
            }
        };
        self.model = next;
        assert!(
            applied
                .entries
                .iter()
                .map(line)
                .eq(self.model.lines.iter().cloned()),
            "{:?}\n{:?}",
            applied.entries,
            self.model.lines
        );
        assert!(
            applied
                .events
                .iter()
                .map(news)
                .eq(self.model.news.iter().copied()),
            "{:?}\n{:?}",
            applied.events,
            self.model.news
        );
        self.charges.extend(self.model.charges.drain(..));
        self.check_debt(command, debt, &applied);
        self.check_book();
        let Some(entry) = applied.answer() else {
            assert_eq!(command.action, Action::Observe);
            return;
        };
        assert_eq!(entry.idempotency_key, command.idempotency_key);
        let Some(key) = &command.idempotency_key else {
            return;
        };
        let fingerprint = command.fingerprint();
        for name in command.claims() {
            let claim = Claim {
                fingerprint: fingerprint.clone(),
                entry: entry.clone(),
            };
            self.claims.insert(name, claim);
        }
        self.done.insert(key.clone(), command.action.clone());
    }

    /// Debt shrinks by money, by an adjustment or a correction, or by an invoice; by nothing else.
    fn check_debt(&self, command: &Command, debt: Amount, applied: &Applied) {
        let pays = match &command.action {
            Action::Recharge { .. }
            | Action::BuyPlan { .. }
            | Action::Correct { .. }
            | Action::CloseInvoicePeriod { .. } => true,
            Action::Adjust { amount, .. } => amount.is_positive(),
            Action::Grant { .. } => self.desk.policy.gifts_pay_debt,
            _ => false,
        };
        assert!(
            pays || applied.book.debt >= debt,
            "only money pays debt: {command:?}"
        );
    }
}

impl Pair {
    /// What can be read off the book before anybody ran a command.
    fn check_views(&self) {
        let (book, spend, now) = (&self.desk.book, n(self.desk.spend), self.desk.now);
        let policy = &self.desk.policy;
        if spend < book.absorbed {
            return;
        }
        let mut model = self.model.clone();
        model.see(self.desk.spend);
        assert_eq!(book.balance(spend).nanos(), model.balance());
        assert_eq!(book.debt(spend).nanos(), model.owed);
        assert_eq!(book.state(spend, policy, at(now)), model.state(policy, now));
        let standing = book.standing(spend, policy, at(now));
        assert_eq!(standing.at(at(now)).is_some(), model.refuses(policy, now));
        let owed = n(model.owed);
        assert_eq!(
            book.floor(owed, policy, at(now)).nanos(),
            model.floor(policy, now)
        );
        // What is said ahead is what is found then.
        for ahead in [now, now + 1, now + MS - 1, now + MS, now + 3 * MS] {
            let found = book.standing(spend, policy, at(ahead)).at(at(ahead));
            if book.overdue_since.is_some() || model.owed == 0 {
                assert_eq!(standing.at(at(ahead)), found);
            }
        }
    }

    /// All that the book says, against all that the model says.
    fn check_book(&self) {
        let (book, model) = (&self.desk.book, &self.model);
        let left = book
            .blocks
            .iter()
            .map(|block| (block.id, block.remaining.nanos()));
        assert!(left.eq(model.left()), "{:?}\n{:?}", book.blocks, model.lots);
        assert_eq!(book.debt.nanos(), model.owed);
        assert_eq!(book.balance(book.absorbed).nanos(), model.balance());
        assert_eq!(book.absorbed.nanos(), model.seen);
        assert_eq!(book.cumulative_recharge.nanos(), model.paid_in);
        let time = |time: Option<Timestamp>| time.map(Timestamp::nanos);
        assert_eq!(time(book.overdue_since), model.overdue_since);
        assert_eq!(time(book.declared_overdue), model.declared);
        assert_eq!(time(book.suspended_at), model.suspended);
        assert_eq!(book.reactivated, model.reactivated);
        assert_eq!(book.low_balance_sent, !model.armed);
        assert_eq!(book.last_block, model.lots_made);
        assert_eq!(book.closed.is_some(), model.closed);
        assert_eq!(
            book.refund.as_ref().map(|refund| &refund.id),
            model.refund.as_ref().map(|refund| &refund.0)
        );
        assert!(
            book.alerts_sent
                .iter()
                .map(|at| at.nanos())
                .eq(model.alerted.iter().copied())
        );
        assert!(
            book.plans
                .iter()
                .map(|plan| (&plan.name, &plan.unit))
                .eq(model.plans.iter())
        );
        assert!(
            book.qps_plans
                .iter()
                .map(|plan| &plan.order_id)
                .eq(model.rates.iter().map(|rate| &rate.0))
        );
        assert!(
            book.invoiced
                .iter()
                .map(|(order, at)| (order.as_str(), at.nanos()))
                .eq(model
                    .invoiced
                    .iter()
                    .map(|(order, at)| (order.as_str(), *at)))
        );
        let invoices = book.invoices.iter().map(|invoice| {
            (
                &invoice.id,
                invoice.amount.nanos(),
                invoice.settled.is_some(),
            )
        });
        assert!(
            invoices.eq(model
                .invoices
                .iter()
                .map(|(id, amount, paid)| (id, *amount, *paid)))
        );
        assert_eq!(
            book.floor.nanos(),
            model.floor(&self.desk.policy, self.desk.now)
        );
        let mut kept = 0;
        for block in &book.blocks {
            let lot = model.lots.iter().find(|lot| lot.id == block.id).unwrap();
            assert_eq!(block.kind, lot.kind);
            assert_eq!(block.expired, lot.dead);
            assert_eq!(block.expiring_sent, lot.warned);
            assert_eq!(block.expires.map(Timestamp::nanos), lot.until);
            if block.expired {
                kept += block.remaining.nanos();
            }
        }
        assert!(
            kept <= self.desk.held,
            "what expired is left only as far as it is held"
        );
    }
}

/// Rules that meet one another: times are few, and close to what the clock does.
pub(super) fn policy(dice: &mut Dice) -> Policy {
    let end = |dice: &mut Dice| dice.pick(&[End::Excluded, End::Included]);
    let grace = dice.one_in(3).then(|| Deadline {
        ms: 2,
        end: end(dice),
    });
    let suspend_after = dice.one_in(2).then(|| Deadline {
        ms: 4,
        end: end(dice),
    });
    let mode = dice.pick(&[
        Mode::PrepaidOnly,
        Mode::PrepaidOnly,
        Mode::CreditThenInvoice,
    ]);
    let shadow = dice.one_in(6);
    Policy {
        credit_limit: n(dice.pick(&[0, 0, 2, 9])),
        low_balance: dice.pick(&[None, Some(n(3)), Some(n(8))]),
        alerts: dice.pick(&[&[][..], &[n(5)], &[n(9), n(2)]]).to_vec(),
        grace,
        grace_limit: grace.and_then(|_| dice.pick(&[None, Some(n(12))])),
        suspend_after,
        purge_after_ms: suspend_after.and_then(|_| dice.pick(&[None, Some(3)])),
        resume: dice.pick(&[Resume::Auto, Resume::Reactivate]),
        capabilities: vec!["a".into(), "b".into()],
        gifts_pay_debt: dice.one_in(4),
        purchase_min: dice.pick(&[None, None, Some(n(3))]),
        purchase_max: dice.pick(&[None, None, Some(n(20))]),
        credit_expires_after_ms: dice.pick(&[None, None, Some(2)]),
        credit_expiring_ms: dice.pick(&[None, Some(1)]),
        refunds: dice.pick(&[
            Refunds::PaidRemaining,
            Refunds::PaidRemaining,
            Refunds::Never,
        ]),
        enforcement: if shadow {
            Enforcement::Shadow
        } else {
            Enforcement::Enforce
        },
        mode,
        invoice_limit: n(dice.pick(&[0, 10, 40])),
        auto_recharge: dice
            .pick(&[None, Some(4), Some(15)])
            .map(|below| AutoRecharge {
                below: n(below),
                amount: n(10),
                cool_down_ms: 2,
                monthly_max: None,
            }),
        ..Policy::default()
    }
}

fn line(entry: &Entry) -> Line {
    Line {
        kind: entry.kind,
        amount: entry.amount.nanos(),
        balance: entry.balance.nanos(),
        debt_paid: entry.debt_paid.nanos(),
        debt_made: entry.debt_made.nanos(),
        taken: taken(entry),
        lot: entry.block,
    }
}

fn news(event: &Event) -> News {
    (event.kind, event.amount.nanos(), event.balance.nanos())
}

/// Tells which history it was that went wrong.
struct Told(u64, u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("history {}, command {}", self.0, self.1);
        }
    }
}

fn check(part: u64) {
    let mut kinds = std::collections::BTreeMap::new();
    for history in part * HISTORIES..(part + 1) * HISTORIES {
        let (mut pair, mut told) = (Pair::new(history), Told(history, 0));
        for command in 0..COMMANDS {
            told.1 = command;
            pair.step();
        }
        for entry in &pair.desk.entries {
            *kinds.entry(entry.kind.name()).or_insert(0_u32) += 1;
        }
    }
    // Whatever there is happens often enough to say something of it.
    println!("{kinds:?}");
    assert_eq!(kinds.len(), 23, "{kinds:?}");
    assert!(kinds.values().all(|count| *count >= 10), "{kinds:?}");
}

#[test]
fn any_history_is_as_the_model_says_1() {
    check(0);
}

#[test]
fn any_history_is_as_the_model_says_2() {
    check(1);
}

#[test]
fn any_history_is_as_the_model_says_3() {
    check(2);
}

#[test]
fn any_history_is_as_the_model_says_4() {
    check(3);
}

#[test]
fn any_history_is_as_the_model_says_5() {
    check(4);
}
