//! Models of a lease against the calls that use it: see `src/engine/tests/races.rs`. The sync is one thread, as its lock makes it.
//!
//! Where there are two calls, two preemptions: the words that the sync and a call share are the purse and the cell, which have models of
//! their own without a bound; these are of the order in which the sync goes by them. With three, they took minutes and found no more.

use loom::thread::{self, JoinHandle};

use super::*;
use crate::primitive::explore;
use crate::store::shared::lapse;

/// All of so much money leased, and a call settled, so that there is a cell.
fn leased(money: i64) -> Bench {
    let mut bench = bench(money);
    bench.sync(money);
    bench.spend(0, 0);
    bench.sync(0);
    bench.check_at_rest(nanos(money), [None, None]);
    bench
}

/// A call that is held for 8 n.
fn call<T: 'static>(bench: &Bench, end: fn(Hold) -> T) -> JoinHandle<Option<T>> {
    let (engine, key) = (Arc::clone(&bench.engine), Arc::clone(&bench.key));
    let (now, amount) = (bench.clock.now(), nanos(8));
    let ask = Ask {
        model: None,
        counted_as: ModelId::NONE,
        priced: true,
        amount,
        worst: amount,
        more: None,
    };
    thread::spawn(move || engine.admit(key, ask, now).ok().map(end))
}

/// What became of a call.
struct End {
    spent: Amount,
    open: Option<Hold>,
}

fn stays(hold: Hold) -> End {
    End {
        spent: Amount::ZERO,
        open: Some(hold),
    }
}

fn settles(hold: Hold) -> End {
    let spent = nanos(5);
    hold.settle(spent, Certainty::Exact, &Counts::default());
    End { spent, open: None }
}

impl Bench {
    fn say(&mut self, need: i64, give: Give) -> Publish {
        let need = Need {
            all: nanos(need),
            least: nanos(need),
        };
        let now = self.clock.now();
        self.line.collect(&self.account, &self.engine, now);
        let (account, policy) = (&self.account, &self.policy);
        let message = self.line.message(account, need, give, policy, &TIMES, now);
        // At no time is more held than there is, as no call costs more than its hold.
        let headroom = account.purse().headroom();
        assert!(
            !headroom.is_negative(),
            "what is committed does not cover what is held"
        );
        message.unwrap()
    }

    /// No call is between two of its steps.
    fn check_at_rest(&mut self, ceiling: Amount, ends: [Option<End>; 2]) {
        let ends = ends.iter().flatten();
        let open = ends.clone().filter_map(|end| end.open.as_ref());
        let sum = Amount::saturating_add;
        let spent = ends.map(|end| end.spent).fold(Amount::ZERO, sum);
        let held = open.map(Hold::amount).fold(Amount::ZERO, sum);
        let now = self.clock.now();
        self.line.collect(&self.account, &self.engine, now);
        self.engine.take_dirty();
        assert_eq!((self.line.spend, self.line.ceiling), (spent, ceiling));
        let headroom = self.account.purse().headroom();
        let used = spent.saturating_add(held);
        assert_eq!(headroom, ceiling.saturating_sub(used));
        assert!(!headroom.is_negative(), "{used} of {ceiling} are used");
        assert_eq!(self.line.held(&self.account), held);
    }
}

/// Found: `Line::answer` that grants the new ceiling and not its rise; `Purse::grant` as a load and a store.
#[test]
fn a_lease_that_grows_under_calls_adds_up() {
    explore(Some(2), || {
        let mut bench = leased(10);
        // Somebody pays: both calls have room only with what comes.
        bench.head.unleased = nanos(10);
        let calls = [call(&bench, stays), call(&bench, settles)];
        let message = bench.say(8, Give::Spare);
        let answer = bench.store(&message);
        bench.answer(Some(answer));
        let ends = calls.map(|call| call.join().unwrap());
        bench.check_at_rest(nanos(20), ends);
    });
}

/// Found: `Line::message` that gives back what it saw as headroom a step before.
#[test]
fn what_goes_back_is_what_no_call_has() {
    explore(Some(2), || {
        let mut bench = leased(20);
        let calls = [call(&bench, stays), call(&bench, settles)];
        let message = bench.say(0, Give::Money);
        let answer = bench.store(&message);
        bench.answer(Some(answer));
        let ends = calls.map(|call| call.join().unwrap());
        // The rest is somebody else's.
        let rest = bench.head.unleased;
        bench.check_at_rest(nanos(20).saturating_sub(rest), ends);
    });
}

/// Found: `Line::lapsed` that gives up what it saw as headroom a step before.
#[test]
fn what_lapsed_under_calls_is_given_up_but_for_what_they_hold() {
    explore(Some(2), || {
        let mut bench = leased(20);
        lapse(&mut bench.head, &mut bench.row, 0).unwrap();
        assert_eq!(bench.head.unleased, nanos(20));
        let calls = [call(&bench, stays), call(&bench, settles)];
        assert!(bench.sync(0).again, "it hears that it has lapsed");
        let message = bench.say(0, Give::Money);
        let answer = bench.store(&message);
        bench.answer(Some(answer));
        let ends = calls.map(|call| call.join().unwrap());
        let rest = bench.head.unleased;
        bench.check_at_rest(nanos(20).saturating_sub(rest), ends);
    });
}

/// Found: `Line::answer` that, left without one, gives up what it saw as headroom a step before.
#[test]
fn a_lease_that_ends_and_begins_again_under_calls_adds_up() {
    explore(None, || {
        let mut bench = leased(20);
        bench.policy.store_outage = crate::policy::StoreOutage::Refuse;
        let call = call(&bench, stays);
        bench.say(0, Give::Spare);
        bench.answer(None);
        let now = bench.clock.now().mono;
        assert!(!bench.account.leased(now));
        let message = bench.say(0, Give::Money);
        let answer = bench.store(&message);
        bench.answer(Some(answer));
        let end = call.join().unwrap();
        assert!(bench.account.leased(now));
        let rest = bench.head.unleased;
        bench.check_at_rest(nanos(20).saturating_sub(rest), [end, None]);
    });
}
