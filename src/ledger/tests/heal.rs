//! Two books become one: what a store lost is put back, once, whatever happened to either side meanwhile.

use super::*;
use crate::ledger::heal::{OLDER_MAX, command, cut};

/// A book with all its entries.
#[derive(Clone)]
struct Side {
    book: Book,
    entries: Vec<Entry>,
    claims: Vec<String>,
    time: i64,
}

fn spent(spend: i64) -> Spent {
    Spent {
        spend: n(spend),
        held: n(0),
    }
}

fn open() -> Side {
    let book = Book::new(
        AccountId::new("a").unwrap(),
        "USD".into(),
        "default".into(),
        at(0),
    );
    let mut side = Side {
        book,
        entries: Vec::new(),
        claims: Vec::new(),
        time: 0,
    };
    side.run(None, configure(), 0);
    side
}

impl Side {
    fn run(&mut self, key: Option<&str>, action: Action, spend: i64) {
        self.time += 1;
        let command = Command {
            idempotency_key: key.map(Into::into),
            action,
        };
        let policy = Policy::default();
        let applied = apply(&self.book, spent(spend), &command, &policy, at(self.time)).unwrap();
        self.book = applied.book;
        self.entries.extend(applied.entries);
        self.claims.extend(command.claims());
    }

    fn pay(&mut self, order: &str, amount: i64, spend: i64) {
        let action = Action::Recharge {
            amount: n(amount),
            order_id: order.into(),
            priority: 3,
            expires: Some(at(1_000_000)),
            note: order.into(),
        };
        self.run(Some(order), action, spend);
    }

    fn tail(&self) -> &[Entry] {
        &self.entries[self.entries.len().saturating_sub(TAIL_MAX)..]
    }

    /// As it stands in a store.
    fn told(&self) -> Told<'_> {
        Told::whole(&self.book, self.tail())
    }

    /// Puts back what is missing here of the other; returns how many commands that were.
    fn heal_from(&mut self, ours: &Self, spend: i64) -> usize {
        let claimed = |claim: &str| self.claims.iter().any(|known| known == claim);
        let policy = |_: &Book| Policy::default();
        let healed = heal(
            self.told(),
            ours.told(),
            spent(spend),
            claimed,
            policy,
            at(500),
        )
        .unwrap();
        let Some(healed) = healed else { return 0 };
        let limit = |book: &Book| book.lifetime_credit;
        assert_eq!(
            healed.credit_delta,
            limit(&healed.book).saturating_sub(limit(&self.book))
        );
        let last = self.book.entries;
        let due = (1..).map(|n| last + n).take(healed.entries.len());
        assert!(healed.entries.iter().map(|e| e.sequence).eq(due), "no gap");
        assert_eq!(healed.book.invariants(), Ok(()));
        let claims = healed.claims.iter().map(|(name, _)| name.clone());
        self.claims.extend(claims);
        self.entries.extend(healed.entries);
        self.book = healed.book;
        assert_eq!(self.book.entries, self.entries.last().unwrap().sequence);
        healed.commands
    }
}

#[test]
fn a_store_that_has_everything_needs_nothing() {
    let mut store = open();
    store.pay("one", 100, 0);
    let ours = store.clone();
    assert_eq!(store.heal_from(&ours, 0), 0);
    store.pay("two", 50, 30);
    assert_eq!(store.heal_from(&ours, 30), 0, "it only went on");
}

#[test]
fn what_an_earlier_state_lacks_is_put_back_as_it_was() {
    let mut store = open();
    store.pay("one", 100, 0);
    let mut ours = store.clone();
    ours.pay("two", 50, 30);
    ours.run(None, adjust(-5), 40);
    assert_eq!(store.heal_from(&ours, 40), 2);
    assert_eq!((&store.book, &store.entries), (&ours.book, &ours.entries));
    assert!(store.claims.contains(&"o:two".to_owned()));
    assert_eq!(store.heal_from(&ours, 40), 0, "once");
}

#[test]
fn two_histories_that_both_grew_become_one() {
    let mut store = open();
    store.pay("one", 100, 0);
    let mut ours = store.clone();
    ours.pay("lost", 50, 30);
    ours.run(None, late(7), 30);
    store.pay("new", 20, 10);
    assert_eq!(store.heal_from(&ours, 30), 2);
    let left = store.book.balance(n(30));
    assert_eq!(left, n(100 + 50 + 20 - 7 - 30));
    assert_eq!(store.heal_from(&ours, 30), 0, "once");
    // A second replica remembers the same: it is there, though it was carried out once more.
    let other = ours.clone();
    assert_eq!(store.heal_from(&other, 30), 0);
    let mut third = open();
    third.pay("one", 100, 0);
    assert_eq!(
        third.heal_from(&store, 30),
        3,
        "and it is known again later"
    );
    assert_eq!(third.heal_from(&ours, 30), 0);
}

#[test]
fn an_order_that_was_sent_again_meanwhile_counts_once() {
    let mut store = open();
    let mut ours = store.clone();
    ours.pay("one", 100, 0);
    // The backend had no answer, or asked again: the store that had lost it took it anew.
    store.pay("one", 100, 0);
    assert_eq!(store.heal_from(&ours, 0), 0);
    assert_eq!(store.book.lifetime_credit, n(100));
}

#[test]
fn what_expired_meanwhile_is_not_put_back() {
    let mut store = open();
    let mut ours = store.clone();
    ours.run(Some("k"), until(400, recharge(100)), 0);
    store.pay("new", 20, 0);
    assert_eq!(store.heal_from(&ours, 0), 0);
    assert_eq!(store.book.lifetime_credit, n(20));
}

#[test]
fn an_emptied_store_is_filled_again() {
    let mut ours = open();
    for order in 0..40 {
        ours.pay(&format!("o{order}"), 10, order);
    }
    let healed = refill(ours.told());
    let gone = ours.book.entries - u64::try_from(TAIL_MAX).unwrap();
    assert_eq!(healed.book, ours.book);
    assert_eq!(healed.entries, ours.tail());
    assert_eq!(healed.entries[0].sequence, gone + 1);
    assert_eq!(healed.forgotten, gone);
    assert_eq!(healed.credit_delta, ours.book.lifetime_credit);
    let names: Vec<_> = healed
        .claims
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(
        names.contains(&"k:o39") && names.contains(&"o:o39"),
        "{names:?}"
    );
}

/// Commands, each followed by so many looks at what was spent meanwhile.
fn watched(commands: usize, looks: usize) -> Side {
    let mut side = open();
    let mut spend = 0;
    for order in 0..commands {
        side.pay(&format!("o{order}"), 1_000, spend);
        for _ in 0..looks {
            spend += 1;
            side.run(None, Action::Observe, spend);
        }
    }
    side
}

#[test]
fn an_account_that_is_looked_at_again_and_again_forgets_no_command() {
    let ours = watched(3, 40);
    let mut tail = ours.entries.clone();
    let since = cut(&mut tail, 1);
    assert_eq!(since, 1);
    // Three payments and the opening, and the last entries.
    assert_eq!(tail.len(), 4 + TAIL_MAX);
    let remembered = Told {
        book: &ours.book,
        tail: &tail,
        since,
    };
    let healed = refill(remembered);
    assert_eq!((healed.commands, healed.forgotten), (4, 0));
    for claim in ours.claims {
        assert!(
            healed.claims.iter().any(|(name, _)| *name == claim),
            "{claim}"
        );
    }
    let numbers = healed.entries.iter().map(|entry| entry.sequence);
    assert!(numbers.eq(1..=healed.book.entries), "a ledger has no gaps");
}

#[test]
fn commands_from_before_the_last_entries_are_bounded_too() {
    let ours = watched(OLDER_MAX + 5, 40);
    let mut tail = ours.entries.clone();
    let since = cut(&mut tail, 1);
    assert_eq!(tail.len(), OLDER_MAX + TAIL_MAX);
    // The opening and the first five are gone; the one after those is the first that is there.
    assert_eq!(tail[0].order_id.as_deref(), Some("o5"), "{:?}", tail[0]);
    let gone = ours
        .entries
        .iter()
        .find(|entry| entry.order_id.as_deref() == Some("o4"));
    assert_eq!(since, gone.unwrap().sequence + 1);
    // Cut again as it grows, one by one, it is the same.
    let mut grown = Vec::new();
    let mut since_grown = 1;
    for entry in &ours.entries {
        grown.push(entry.clone());
        since_grown = cut(&mut grown, since_grown);
    }
    assert_eq!((grown, since_grown), (tail, since));
}

#[test]
fn what_is_put_back_of_old_commands_is_not_put_back_twice() {
    let mut store = watched(1, 0);
    let mut ours = store.clone();
    for order in ["late", "later"] {
        ours.pay(order, 7, 0);
        for spend in 1..40 {
            ours.run(None, Action::Observe, spend);
        }
    }
    let mut tail = ours.entries.clone();
    let since = cut(&mut tail, 1);
    let remembered = Told {
        book: &ours.book,
        tail: &tail,
        since,
    };
    let put_back = |store: &Side| {
        let claimed = |claim: &str| store.claims.iter().any(|known| known == claim);
        let policy = |_: &Book| Policy::default();
        heal(
            store.told(),
            remembered,
            spent(39),
            claimed,
            policy,
            at(900),
        )
        .unwrap()
    };
    let healed = put_back(&store).unwrap();
    assert_eq!((healed.commands, healed.forgotten), (2, 0));
    store.entries.extend(healed.entries);
    store.book = healed.book;
    store
        .claims
        .extend(healed.claims.into_iter().map(|(name, _)| name));
    assert!(put_back(&store).is_none());
    // What comes after that is the only thing that is written next.
    ours.pay("last", 9, 39);
    tail.push(ours.entries.last().unwrap().clone());
    let remembered = Told {
        book: &ours.book,
        tail: &tail,
        since,
    };
    let healed = heal(
        store.told(),
        remembered,
        spent(39),
        |_| false,
        |_| Policy::default(),
        at(950),
    );
    let healed = healed.unwrap().unwrap();
    assert_eq!(healed.entries.len(), 1, "{:?}", healed.entries);
    assert_eq!(healed.book.lifetime_credit, ours.book.lifetime_credit);
}

#[test]
fn more_than_is_remembered_is_told_and_leaves_no_gap() {
    let mut store = open();
    let mut ours = store.clone();
    for order in 0..60 {
        ours.pay(&format!("o{order}"), 10, 0);
    }
    let claimed = |_: &str| false;
    let policy = |_: &Book| Policy::default();
    let healed = heal(
        store.told(),
        ours.told(),
        spent(0),
        claimed,
        policy,
        at(500),
    );
    let forgotten = healed.unwrap().unwrap().forgotten;
    assert_eq!(forgotten, 60 - u64::try_from(TAIL_MAX).unwrap());
    store.heal_from(&ours, 0);
    assert_eq!(
        store.book.lifetime_credit,
        n(600),
        "the money is there all the same"
    );
}

#[test]
fn a_command_is_read_back_from_its_entry() {
    for action in [
        recharge(5),
        rank(7, until(900, recharge(5))),
        grant(6),
        rank(-2, until(900, grant(6))),
        adjust(9),
        adjust(-9),
        late(4),
    ] {
        let mut side = open();
        side.run(Some("key"), action.clone(), 0);
        let entry = side.entries.last().unwrap();
        let read = command(entry, &side.book).unwrap();
        let asked = Command {
            idempotency_key: Some("key".into()),
            action,
        };
        assert_eq!(read, asked);
        assert_eq!(read.fingerprint(), asked.fingerprint());
    }
}

#[test]
fn every_other_command_is_read_back_from_its_entry_too() {
    let mut desk = Desk::new();
    desk.policy.credit_expires_after_ms = Some(1_000);
    let configured = Action::Configure(Configure {
        tier: Some("gold".into()),
        ..Configure::default()
    });
    for action in [
        configured,
        recharge(50),
        Action::MarkOverdue { note: "n".into() },
        buy_plan("p", 5),
        add_plan("p", "tok"),
        begin("r", &["order"]),
        Action::CompleteRefund {
            refund_id: "r".into(),
            close: false,
        },
    ] {
        let asked = Command {
            idempotency_key: Some("key".into()),
            action,
        };
        desk.command(&asked).unwrap();
        let read = command(desk.entries.last().unwrap(), &desk.book).unwrap();
        assert_eq!(read.fingerprint(), asked.fingerprint());
        assert_eq!(read, asked);
    }
}

/// A desk with the claims that a store keeps beside it.
#[derive(Clone)]
struct Store {
    desk: Desk,
    claims: std::collections::BTreeSet<String>,
}

impl Store {
    /// So many commands come, each under a key of its own.
    fn grow(&mut self, dice: &mut random::Dice, count: i64, side: &str) {
        for number in 0..count {
            self.desk.now += dice.below(3) * 400_000;
            self.desk.spend += dice.below(4);
            let action = dice.action(&self.desk);
            let command = Command {
                idempotency_key: (action != Action::Observe).then(|| format!("{side}{number}")),
                action,
            };
            let claims = command.claims();
            if claims.iter().any(|claim| self.claims.contains(claim)) {
                continue;
            }
            if let Ok(applied) = self.desk.command(&command)
                && applied.answer().is_some()
            {
                self.claims.extend(claims);
            }
        }
    }

    fn told(&self) -> Told<'_> {
        let entries = &self.desk.entries;
        let tail = &entries[entries.len().saturating_sub(TAIL_MAX)..];
        Told::whole(&self.desk.book, tail)
    }

    /// What is missing here of what a replica remembers that has seen all of the other.
    fn lacks(&self, ours: &Self, spend: i64) -> Option<Healed> {
        let mut tail = ours.desk.entries.clone();
        let since = cut(&mut tail, 1);
        let remembered = Told {
            book: &ours.desk.book,
            tail: &tail,
            since,
        };
        let claimed = |claim: &str| self.claims.contains(claim);
        let policy = |_: &Book| self.desk.policy.clone();
        let now = at(self.desk.now.max(ours.desk.now));
        heal(self.told(), remembered, spent(spend), claimed, policy, now).unwrap()
    }
}

/// Kinds whose amount is what was paid, charged or paid out, whenever they are carried out.
const EXACT: [EntryKind; 8] = [
    EntryKind::Recharge,
    EntryKind::Grant,
    EntryKind::PlanPurchase,
    EntryKind::Adjustment,
    EntryKind::LateCharge,
    EntryKind::Correction,
    EntryKind::Refund,
    EntryKind::InvoiceClosed,
];

#[test]
fn whatever_a_store_lost_is_put_back_once() {
    let mut put_back = std::collections::BTreeMap::new();
    for seed in 0..6_000 {
        let dice = &mut random::Dice(seed);
        let mut both = Store {
            desk: Desk::new(),
            claims: std::collections::BTreeSet::new(),
        };
        both.desk.run(configure());
        both.desk.policy = random::policy(dice);
        both.grow(dice, 12, "c");
        let (mut ours, mut store) = (both.clone(), both.clone());
        ours.grow(dice, 10, "o");
        // What happens after they part, happens at instants of its own: an entry is known by when it was written.
        store.desk.now += 1;
        let count = dice.below(3) * 4;
        store.grow(dice, count, "s");
        let spend = ours.desk.spend.max(store.desk.spend);
        let Some(healed) = store.lacks(&ours, spend) else {
            continue;
        };
        let before = &store.desk.book;
        assert_eq!(healed.book.invariants(), Ok(()), "{seed}");
        let limit = |book: &Book| book.lifetime_credit.nanos() + book.floor.nanos();
        assert_eq!(
            healed.credit_delta.nanos(),
            limit(&healed.book) - limit(before),
            "{seed}"
        );
        let mut balance = before.balance(before.absorbed).nanos();
        for (sequence, entry) in (before.entries + 1..).zip(&healed.entries) {
            balance += entry.amount.nanos();
            assert_eq!(
                (entry.sequence, entry.balance.nanos()),
                (sequence, balance),
                "{seed}"
            );
            let Some(key) = entry.idempotency_key.as_ref() else {
                continue;
            };
            let mut own = ours.desk.entries.iter();
            let first = own
                .find(|own| own.idempotency_key.as_ref() == Some(key))
                .unwrap();
            assert_eq!(first.action, entry.action, "{seed}");
            if EXACT.contains(&entry.kind) {
                assert_eq!(first.amount, entry.amount, "{seed}: {entry:?}");
            }
            *put_back.entry(entry.kind.name()).or_insert(0) += 1;
        }
        // What was there before is untouched, and a second replica that remembers the same puts nothing back.
        let mut after = store.clone();
        after.desk.entries.extend(healed.entries);
        after.desk.book = healed.book;
        after
            .claims
            .extend(healed.claims.into_iter().map(|(name, _)| name));
        let again = after.lacks(&ours, spend);
        assert_eq!(again.map(|healed| healed.entries), None, "{seed}");
        for own in &ours.desk.entries {
            let Some(key) = own
                .idempotency_key
                .as_ref()
                .filter(|_| EXACT.contains(&own.kind))
            else {
                continue;
            };
            let order = own.order_id.as_ref().map(|order| format!("o:{order}"));
            let taken = order.is_some_and(|order| store.claims.contains(&order));
            let over = own
                .expires
                .is_some_and(|end| end.nanos() <= after.desk.now.max(ours.desk.now));
            let there = after.claims.contains(&format!("k:{key}"));
            let settled = own.kind == EntryKind::InvoiceClosed;
            assert!(there || taken || over || settled, "{seed}: {own:?}");
        }
    }
    assert!(put_back.len() >= 20, "{put_back:?}");
}
