//! What is remembered of an account, and when it must not be replaced.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed, which is what it is for"
)]

use super::*;
use crate::id::{AccountId, KeyId};
use crate::ledger::Spent;
use crate::ledger::{Action, Command, apply};

fn nanos(nanos: i64) -> Amount {
    Amount::from_nanos(nanos)
}

fn key(name: &str) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(name).unwrap(),
        account: AccountId::new("a").unwrap(),
        digest: name.into(),
        name: String::new(),
        hint: String::new(),
        created: Timestamp::from_nanos(0),
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        budgets: Vec::new(),
        service: String::new(),
    }
}

/// An account as it is written: each command is a version.
#[derive(Clone)]
struct Account {
    snapshot: Snapshot,
    entries: Vec<Entry>,
    keys: Vec<KeyRecord>,
}

impl Account {
    fn new() -> Self {
        let id = AccountId::new("a").unwrap();
        let book = Book::new(id, "USD".into(), "default".into(), Timestamp::from_nanos(0));
        let snapshot = Snapshot {
            version: 0,
            book,
            spend: Amount::ZERO,
            unleased: Amount::ZERO,
            lost: Amount::ZERO,
            claims: Vec::new(),
        };
        Self {
            snapshot,
            entries: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Somebody pays in; returns what is written.
    fn pay(&mut self, order: &str) -> Vec<Entry> {
        let action = Action::Recharge {
            amount: nanos(5),
            order_id: order.into(),
            priority: 0,
            expires: None,
            note: order.into(),
        };
        let command = Command {
            idempotency_key: None,
            action,
        };
        let now = Timestamp::from_nanos(i64::try_from(self.snapshot.version).unwrap() + 1);
        let book = &self.snapshot.book;
        let applied = apply(book, Spent::default(), &command, &Policy::default(), now).unwrap();
        self.snapshot.book = applied.book;
        self.snapshot.version += 1;
        self.entries.extend(applied.entries.clone());
        applied.entries
    }

    fn add_key(&mut self, name: &str) {
        self.snapshot.version += 1;
        self.keys.push(key(name));
    }

    fn stands(&self) -> Stands {
        Stands {
            snapshot: self.snapshot.clone(),
            tail: self.entries.clone(),
            keys: self.keys.clone(),
        }
    }

    fn read(&self) -> Remembered {
        Remembered::read(
            None,
            &self.snapshot,
            self.entries.clone(),
            self.keys.clone(),
        )
    }

    /// What whoever remembers `known` remembers once it has written one more command.
    fn write(&mut self, known: Option<Remembered>, order: &str) -> Remembered {
        let over = self.snapshot.version;
        let entries = self.pay(order);
        Remembered::wrote(known, over, &self.snapshot, &entries).unwrap()
    }
}

#[test]
fn what_is_written_over_what_is_known_is_known_whole() {
    let mut account = Account::new();
    let first = account.write(None, "o1");
    assert!(first.knows(account.snapshot.version));
    account.add_key("k1");
    let known = account.read();
    let next = account.write(Some(known), "o2");
    assert_eq!(next, account.read());
    assert!(next.knows(account.snapshot.version));
}

#[test]
fn commands_from_before_what_is_read_are_kept_if_none_is_missing_between() {
    let mut account = Account::new();
    let first = account.write(None, "first");
    for number in 0..40 {
        account.pay(&format!("o{number}"));
    }
    let last = account.entries.len() - 32;
    let read = |known, account: &Account| {
        let tail = account.entries[last..].to_vec();
        Remembered::read(known, &account.snapshot, tail, Vec::new())
    };
    let gap = read(Some(&first), &account);
    assert_eq!(gap, read(None, &account), "what lies between is not known");
    let known = account.read();
    account.pay("newest");
    let fresh = read(Some(&known), &account);
    assert_eq!(fresh.since, known.since);
    assert!(fresh.since < read(None, &account).since);
    let mut orders = fresh
        .tail
        .iter()
        .filter_map(|entry| entry.order_id.as_deref());
    assert!(
        orders.clone().any(|order| order == "o3"),
        "older than what was read"
    );
    assert_eq!(orders.clone().filter(|order| *order == "o20").count(), 1);
    assert_eq!(orders.next_back(), Some("newest"));
}

#[test]
fn a_key_that_somebody_else_made_meanwhile_is_still_to_be_read() {
    let mut account = Account::new();
    let known = account.write(None, "o1");
    // Not heard of here, and the next command goes on from it.
    account.add_key("k1");
    let next = account.write(Some(known), "o2");
    assert!(!next.knows(account.snapshot.version), "{next:?}");
    assert!(next.knows(account.snapshot.version - 1));
    // Nor is it whole after one more.
    let more = account.write(Some(next), "o3");
    assert!(!more.knows(account.snapshot.version), "{more:?}");
    // Read, it is.
    assert!(account.read().knows(account.snapshot.version));
}

#[test]
fn what_is_written_over_an_account_that_is_not_known_is_still_to_be_read() {
    let mut account = Account::new();
    account.pay("o1");
    let written = account.write(None, "o2");
    assert!(!written.knows(account.snapshot.version), "{written:?}");
}

#[test]
fn what_lacks_a_command_or_a_key_does_not_replace_what_is_remembered() {
    let mut account = Account::new();
    account.pay("o1");
    account.add_key("k1");
    let earlier = account.clone();
    account.pay("o2");
    account.add_key("k2");
    let known = account.read();
    assert!(!known.is_more_than(&account.stands()));

    // The store fell back and went on, beyond every version that is known here.
    let mut fallen = earlier;
    for order in ["o3", "o4", "o5"] {
        fallen.pay(order);
    }
    assert!(fallen.snapshot.version > known.version);
    assert!(known.is_more_than(&fallen.stands()));

    // The command is put back, and the key is not.
    let put_back = known.put_back(
        Some(&fallen.stands()),
        |_| Policy::default(),
        Timestamp::from_nanos(99),
    );
    let commit = put_back.unwrap().commit.unwrap();
    fallen.snapshot.book = commit.book;
    fallen.entries.extend(commit.entries);
    assert!(known.is_more_than(&fallen.stands()));
    fallen.add_key("k2");
    assert!(!known.is_more_than(&fallen.stands()));
}

#[test]
fn a_book_that_stands_is_raised_above_every_version_that_is_known() {
    let mut account = Account::new();
    account.pay("o1");
    account.pay("o2");
    let mut known = account.read();
    let put_back = |known: &Remembered, stands: &Stands| {
        let now = Timestamp::from_nanos(99);
        known.put_back(Some(stands), |_| Policy::default(), now)
    };
    assert_eq!(put_back(&known, &account.stands()).unwrap().commit, None);
    known.version = 7;
    let commit = put_back(&known, &account.stands()).unwrap().commit.unwrap();
    assert_eq!((commit.expected, commit.version()), (2, 8));
    assert_eq!(commit.book, account.snapshot.book);
}
