//! Two books become one: what a store lost is put back, once, whatever happened to either side meanwhile.

use super::*;
use crate::ledger::heal::command;

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

    fn told(&self) -> Told<'_> {
        Told {
            book: &self.book,
            tail: self.tail(),
        }
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
