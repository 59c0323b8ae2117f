#[cfg(feature = "model")]
mod races;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::engine::{Ask, Bounds, Engine, Hold, Key, ModelId};
use crate::id::AccountId;
use crate::ledger::{Action, Command, apply};
use crate::local::counters::Counters;
use crate::store::shared::{Ground, Head, LiveRow, differences, publish};
use crate::store::{KeyRecord, Row};
use crate::usage::{Certainty, Counts};

const TIMES: Times = Times {
    interval: Duration::from_millis(100),
    lease: Duration::from_secs(30),
    margin: Duration::from_secs(1),
    ahead: Duration::from_secs(10),
    idle: Duration::from_secs(10),
    retire: Duration::from_secs(3_600),
};

/// One account on one replica, and what a store would hold of it.
struct Bench {
    engine: Arc<Engine>,
    account: Arc<Account>,
    key: Arc<Key>,
    line: Line,
    clock: Clock,
    policy: Policy,
    head: Head,
    row: LiveRow,
    ground: Ground,
}

fn nanos(n: i64) -> Amount {
    Amount::from_nanos(n)
}

fn bench(money: i64) -> Bench {
    let clock = Clock::manual(Timestamp::from_nanos(0));
    let now = clock.now();
    let id = AccountId::new("a").unwrap();
    let policy = Policy::default();
    let book = Book::new(id.clone(), "USD".into(), "default".into(), now.wall);
    let recharge = Action::Recharge {
        amount: nanos(money),
        order_id: "o".into(),
        priority: 0,
        expires: None,
        note: String::new(),
    };
    let command = Command {
        idempotency_key: None,
        action: recharge,
    };
    let book = apply(&book, Spent::default(), &command, &policy, now.wall)
        .unwrap()
        .book;
    let snapshot = Snapshot {
        version: 1,
        book,
        spend: Amount::ZERO,
        unleased: nanos(money),
        lost: Amount::ZERO,
        claims: Vec::new(),
    };
    // Nobody asks for strangers here, and models make very many benches.
    let bounds = Bounds {
        unknown_keys_max: 1,
        ..Bounds::default()
    };
    let engine = Engine::new([1; 16], bounds, Counters::in_memory());
    let rules = rules(&snapshot.book, Amount::ZERO, policy.clone(), now);
    let account = engine.load(engine.counters().take_up(&id), rules, std::iter::empty());
    let record = KeyRecord {
        id: KeyId::new("k").unwrap(),
        account: id,
        digest: String::new(),
        name: String::new(),
        hint: String::new(),
        created: now.wall,
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        service: String::new(),
        budgets: Vec::new(),
    };
    let key = engine.load_key(None, &account, record);
    let opened = Opened {
        snapshot,
        row: Row::default(),
        usage: Vec::new(),
        keys: Vec::new(),
    };
    let line = Line::new(&opened, Own::default(), now);
    let head = Head {
        version: 1,
        unleased: nanos(money),
        ..Head::default()
    };
    Bench {
        engine,
        account,
        key,
        line,
        clock,
        policy,
        head,
        row: LiveRow::default(),
        ground: Ground::default(),
    }
}

impl Bench {
    /// The next message, for calls that wait for `need`.
    fn message(&mut self, need: i64) -> Option<Publish> {
        let now = self.clock.now();
        self.line.collect(&self.account, &self.engine, now);
        self.line.message(
            &self.account,
            Need {
                all: nanos(need),
                least: nanos(need.min(1)),
            },
            Give::Spare,
            &self.policy,
            &TIMES,
            now,
        )
    }

    fn ask(&mut self, need: Need, give: Give) -> Publish {
        let now = self.clock.now();
        let message = self
            .line
            .message(&self.account, need, give, &self.policy, &TIMES, now);
        message.unwrap()
    }

    /// What a store does with a message.
    fn store(&mut self, message: &Publish) -> Published {
        let by = differences(message).unwrap();
        let step = publish(self.head, self.row, message, &by, &self.ground).unwrap();
        (self.head, self.row) = (step.head, step.row);
        step.answer
    }

    fn answer(&mut self, answer: Option<Published>) -> Next {
        let now = self.clock.now();
        self.line
            .answer(&self.account, answer.as_ref(), &self.policy, &TIMES, now)
    }

    /// A whole round trip.
    fn sync(&mut self, need: i64) -> Next {
        let message = self.message(need).unwrap();
        let answer = self.store(&message);
        self.answer(Some(answer))
    }

    fn hold(&self, amount: i64) -> Option<Hold> {
        let amount = nanos(amount);
        let ask = Ask {
            model: None,
            counted_as: ModelId::NONE,
            priced: true,
            amount,
            worst: amount,
            more: None,
        };
        self.engine
            .admit(Arc::clone(&self.key), ask, self.clock.now())
            .ok()
    }

    fn spend(&self, hold: i64, actual: i64) {
        self.hold(hold)
            .unwrap()
            .settle(nanos(actual), Certainty::Exact, &Counts::default());
    }

    fn follow(&mut self, snapshot: Snapshot) {
        let (policy, now) = (self.policy.clone(), self.clock.now());
        self.line.follow(&self.account, snapshot, policy, now);
    }

    fn check_books(&self) {
        let held = self.line.held(&self.account);
        let headroom = self.account.purse().headroom();
        let ceiling = self.line.ceiling;
        assert_eq!(
            headroom,
            ceiling
                .checked_sub(self.line.spend)
                .unwrap()
                .checked_sub(held)
                .unwrap()
        );
    }
}

#[test]
fn what_waits_gets_its_lease_and_some_calls_more() {
    let mut bench = bench(1_000);
    assert!(bench.hold(3).is_none(), "nothing is leased yet");
    assert_eq!(bench.sync(3), Next::default());
    assert_eq!(bench.account.purse().headroom(), nanos(3 * CALLS_AHEAD));
    assert!(bench.hold(3).is_some());
    bench.check_books();
}

#[test]
fn a_lost_answer_changes_nothing() {
    let mut bench = bench(1_000);
    bench.sync(10);
    bench.spend(10, 7);
    let lost = bench.message(0).unwrap();
    bench.store(&lost);
    assert_eq!(bench.answer(None), Next::default());
    assert!(bench.line.failing());
    bench.spend(10, 5);
    // The store holds more than believed: it says so, and from there the next message counts.
    assert!(bench.sync(0).again);
    assert!(!bench.sync(0).again);
    assert_eq!(
        (bench.head.total, bench.line.unpublished()),
        (nanos(12), nanos(0))
    );
    bench.check_books();
}

#[test]
fn a_lost_message_is_said_again_with_its_rows() {
    let mut bench = bench(1_000);
    bench.sync(10);
    bench.spend(10, 7);
    let lost = bench.message(0).unwrap();
    assert_eq!(
        lost.usage.len(),
        2,
        "the hour's row and the one of all time"
    );
    bench.answer(None);
    let again = bench.message(0).unwrap();
    assert_eq!((again.usage, again.new), (lost.usage, lost.new));
    assert!(again.seq > lost.seq);
}

#[test]
fn a_message_is_not_sent_twice_at_once() {
    let mut bench = bench(1_000);
    let first = bench.message(1).unwrap();
    assert!(bench.message(1).is_none());
    let answer = bench.store(&first);
    bench.answer(Some(answer));
    assert!(bench.message(1).is_some());
}

#[test]
fn a_store_that_lost_spend_is_healed() {
    let mut bench = bench(1_000);
    bench.sync(10);
    let old = (bench.head, bench.row);
    bench.spend(10, 7);
    bench.sync(0);
    (bench.head, bench.row) = old;
    bench.row.row.seq = 0;
    bench.spend(10, 5);
    let next = bench.sync(0);
    assert_eq!((next.again, next.healed), (true, nanos(7)));
    assert_eq!(
        (bench.head.total, bench.head.lost),
        (nanos(7), nanos(7)),
        "out of reach until it is published again"
    );
    bench.sync(0);
    assert_eq!((bench.head.total, bench.head.lost), (nanos(12), nanos(0)));
    bench.check_books();
}

#[test]
fn a_store_that_was_emptied_under_the_same_history_is_compared() {
    // By the spend that it had.
    let mut first = bench(1_000);
    first.sync(10);
    first.spend(10, 7);
    first.sync(0);
    (first.head.total, first.row) = (Amount::ZERO, LiveRow::default());
    let message = first.message(10).unwrap();
    let answer = first.store(&message);
    let next = first.answer(Some(answer));
    assert_eq!((next.rejoin, next.again), (true, true));

    // By the fence that it was put back under.
    let mut second = bench(1_000);
    assert!(!second.sync(10).rejoin);
    second.head.fenced_until_ms = 1;
    assert!(second.sync(500).rejoin);
    assert!(!second.sync(500).rejoin, "once is enough");
}

#[test]
fn a_message_that_was_not_answered_may_have_been_heard_and_lost() {
    let mut bench = bench(1_000);
    bench.sync(10);
    let old = (bench.head, bench.row);
    bench.spend(10, 7);
    let heard = bench.message(0).unwrap();
    bench.store(&heard);
    let others_saw = bench.head.total;
    bench.answer(None);
    // The store falls back; another replica says what it saw.
    (bench.head, bench.row) = old;
    bench.head.total = others_saw;
    bench.head.lost = others_saw;
    bench.head.unleased = bench.head.unleased.saturating_sub(others_saw);
    bench.row.row.seq = 0;
    bench.sync(0);
    assert_eq!((bench.head.total, bench.head.lost), (nanos(7), nanos(0)));
    bench.spend(10, 3);
    assert_eq!(bench.message(0).unwrap().seen, nanos(7), "this one was");
}

#[test]
fn what_was_said_is_said_again_if_the_store_may_have_lost_it() {
    let mut bench = bench(1_000);
    bench.sync(10);
    bench.spend(10, 7);
    bench.sync(0);
    let now = bench.clock.now();
    assert!(!bench.line.has_news(&bench.account, &TIMES, now));
    bench.line.say_again(&bench.account);
    assert!(bench.line.has_news(&bench.account, &TIMES, now));
    assert_eq!(bench.message(0).unwrap().usage.len(), 2, "with its rows");
}

#[test]
fn who_hears_that_spend_was_lost_says_its_own_again() {
    let mut bench = bench(1_000);
    bench.sync(10);
    bench.spend(10, 7);
    bench.sync(0);
    let snapshot = Snapshot {
        version: bench.line.known.version + 1,
        book: bench.line.known.book.clone(),
        spend: nanos(7),
        unleased: nanos(900),
        lost: Amount::ZERO,
        claims: Vec::new(),
    };
    bench.follow(snapshot.clone());
    let now = bench.clock.now();
    assert!(!bench.line.has_news(&bench.account, &TIMES, now));
    bench.follow(Snapshot {
        version: snapshot.version + 1,
        lost: nanos(7),
        ..snapshot
    });
    assert!(bench.line.has_news(&bench.account, &TIMES, now));
}

#[test]
fn an_overshoot_is_published_and_not_leased_again() {
    let mut bench = bench(10);
    bench.sync(10);
    bench.spend(10, 25);
    let next = bench.sync(0);
    assert_eq!(
        (bench.head.total, bench.head.unleased),
        (nanos(25), nanos(-15))
    );
    assert!(
        next.observe,
        "the ledger must hear that the account is overdue"
    );
    assert_eq!(
        bench.account.rules().standing,
        crate::ledger::Standing::always(Some(crate::refusal::Reason::AccountOverdue))
    );
    assert!(bench.sync(1).short);
    bench.check_books();
}

#[test]
fn nobody_else_has_what_a_sole_replica_lacks() {
    let mut bench = bench(10);
    let next = bench.sync(11);
    assert_eq!((next.short, next.scarce), (true, false));
    assert_eq!(
        bench.account.purse().headroom(),
        nanos(10),
        "what there is, it has: some of those that wait need no more"
    );
}

#[test]
fn what_lets_no_call_pass_is_not_kept_from_others() {
    let mut bench = bench(10);
    // Another replica has some of it leased.
    bench.line.known.unleased = nanos(4);
    let short = Need {
        all: nanos(12),
        least: nanos(12),
    };
    let message = bench.ask(short, Give::Spare);
    let answer = bench.store(&message);
    assert!(bench.answer(Some(answer)).short);
    assert_eq!(
        bench.account.purse().headroom(),
        nanos(0),
        "ten help nobody"
    );
    bench.sync(10);
    // Others want it, and here it is not enough for anybody.
    let message = bench.ask(short, Give::Money);
    assert_eq!(message.new.committed, nanos(0));
}

#[test]
fn what_others_have_leased_is_looked_for() {
    let mut bench = bench(10);
    bench.head.unleased = nanos(4);
    let next = bench.sync(5);
    assert_eq!((next.short, next.scarce), (true, true));
}

#[test]
fn a_lease_runs_from_when_it_was_asked_for_and_ends_a_margin_early() {
    let mut bench = bench(1_000);
    let message = bench.message(1).unwrap();
    let answer = bench.store(&message);
    bench.clock.advance(Duration::from_secs(5));
    bench.answer(Some(answer));
    bench
        .clock
        .advance(Duration::from_secs(24) - Duration::from_nanos(1));
    assert!(bench.hold(1).is_some());
    bench.clock.advance(Duration::from_nanos(1));
    assert!(bench.hold(1).is_none());
}

#[test]
fn an_idle_lease_goes_back_but_for_what_is_held() {
    let mut bench = bench(1_000);
    bench.sync(10);
    let held = bench.hold(10).unwrap();
    assert!(
        !bench
            .line
            .has_news(&bench.account, &TIMES, bench.clock.now())
    );
    bench.clock.advance(TIMES.idle);
    assert!(
        bench
            .line
            .has_news(&bench.account, &TIMES, bench.clock.now())
    );
    bench.sync(0);
    assert_eq!(
        (bench.head.unleased, bench.line.held(&bench.account)),
        (nanos(990), nanos(10))
    );
    assert!(!bench.line.at_rest(&bench.account));
    held.release();
    bench.sync(0);
    assert!(bench.line.at_rest(&bench.account));
    bench.check_books();
}

#[test]
fn rights_that_lapsed_are_not_used_again() {
    let mut bench = bench(1_000);
    bench.sync(10);
    let _held = bench.hold(10).unwrap();
    // The store took the free rights back while this replica was silent.
    let free = bench.row.row.committed.checked_sub(nanos(10)).unwrap();
    bench.row.row.committed = nanos(10);
    bench.head.unleased = bench.head.unleased.checked_add(free).unwrap();
    assert!(bench.sync(0).again);
    assert_eq!(bench.account.purse().headroom(), nanos(0));
    bench.sync(0);
    assert_eq!(
        bench.row.row.committed.checked_add(bench.head.unleased),
        Some(nanos(1_000))
    );
    bench.check_books();
}

#[test]
fn an_outage_is_a_matter_of_policy() {
    use crate::policy::StoreOutage;
    for (store_outage, goes_on) in [(StoreOutage::Lease, true), (StoreOutage::Refuse, false)] {
        let mut bench = bench(1_000);
        bench.policy.store_outage = store_outage;
        bench.sync(10);
        bench.message(0).unwrap();
        bench.answer(None);
        assert_eq!(bench.hold(1).is_some(), goes_on, "{store_outage:?}");
        bench.sync(0);
        assert!(bench.hold(1).is_some(), "{store_outage:?}");
    }
}

#[test]
fn a_newer_book_is_asked_for_and_an_older_one_ignored() {
    let mut bench = bench(1_000);
    bench.head.version = 2;
    assert!(bench.sync(0).refresh);
    let mut snapshot = Snapshot {
        version: 2,
        book: bench.line.known.book.clone(),
        spend: Amount::ZERO,
        unleased: Amount::ZERO,
        lost: Amount::ZERO,
        claims: Vec::new(),
    };
    bench.follow(snapshot.clone());
    assert!(!bench.sync(0).refresh);
    snapshot.version = 1;
    bench.follow(snapshot);
    assert_eq!(bench.line.known.version, 2);
}

#[test]
fn usage_adds_up_to_spend_in_every_message() {
    let mut bench = bench(1_000);
    bench.sync(10);
    for hour in 0..4 {
        bench.spend(10, 3 + hour);
        bench.clock.advance(Duration::from_secs(3_600));
        bench.line.forget(&bench.account, bench.clock.now());
        bench.sync(10);
        bench.spend(10, 2);
        let message = bench.message(0).unwrap();
        let all_time = message.usage.iter().filter(|row| row.hour.is_none());
        assert_eq!(
            all_time.map(|row| row.tally.cost_nanos).sum::<i64>(),
            message.new.spend.nanos()
        );
        let answer = bench.store(&message);
        bench.answer(Some(answer));
    }
}

/// The book lost credit: it expired, or was taken by an adjustment or a late charge.
fn lose(bench: &mut Bench, amount: i64) {
    let minus = |a: Amount| a.checked_sub(nanos(amount)).unwrap();
    bench.head.unleased = minus(bench.head.unleased);
    bench.head.version = bench.head.version.saturating_add(1);
    let mut book = bench.line.known.book.clone();
    book.lifetime_credit = minus(book.lifetime_credit);
    let snapshot = Snapshot {
        version: bench.head.version,
        book,
        spend: bench.head.total,
        unleased: bench.head.unleased,
        lost: Amount::ZERO,
        claims: Vec::new(),
    };
    bench.follow(snapshot);
}

#[test]
fn a_lease_on_credit_that_is_gone_is_not_spent() {
    for (lost, left) in [(360, 640), (361, 639), (900, 100), (1_000, 0)] {
        let mut bench = bench(1_000);
        bench.sync(10);
        assert_eq!(bench.account.purse().headroom(), nanos(640));
        lose(&mut bench, lost);
        assert_eq!(
            bench.account.purse().headroom(),
            nanos(left),
            "after {lost} were lost"
        );
        let now = bench.clock.now();
        let told = lost == 360 || bench.line.has_news(&bench.account, &TIMES, now);
        assert!(told, "the store hears of it");
        bench.sync(0);
        assert_eq!(bench.head.unleased, nanos(0), "after {lost} were lost");
        assert_eq!(bench.account.purse().headroom(), nanos(left));
        bench.check_books();
    }
}

#[test]
fn credit_that_is_gone_while_a_message_is_on_its_way_is_not_spent() {
    let mut bench = bench(1_000);
    bench.sync(10);
    let message = bench.message(0).unwrap();
    lose(&mut bench, 1_000);
    let answer = bench.store(&message);
    bench.answer(Some(answer));
    assert_eq!(bench.account.purse().headroom(), nanos(0));
    bench.sync(0);
    assert_eq!(bench.head.unleased, nanos(0));
    bench.check_books();
}
