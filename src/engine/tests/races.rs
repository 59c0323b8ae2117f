//! Models of the hot path: each runs in every order that its threads can come in (`cargo model`). Each names mistakes that it was
//! seen to find, made in the code one at a time.

use std::collections::BTreeMap;

use loom::thread::{self, JoinHandle};

use super::*;
use crate::primitive::explore;
use crate::usage::Certainty::Exact;

const NOW: Now = Now {
    wall: Timestamp::from_nanos(0),
    mono: Monotonic::from_nanos(1_000_000_000),
};

/// An account with a key, and no engine around it: its tables lock in a way that models cannot see.
struct Small {
    account: Arc<Account>,
    key: Arc<Key>,
    shared: Arc<Shared>,
}

fn rules(policy: Policy) -> Rules {
    Rules::plain("USD".into(), policy)
}

/// All of its limits and 100 n leased.
fn small(policy: Policy) -> Small {
    let shared: Arc<Shared> = Arc::default();
    let id = AccountId::new("a").unwrap();
    let (rules, counters) = (rules(policy), Counters::in_memory());
    let (counters, _) = counters.take_up(&id).begin(rules.policy.unsettled);
    let account = Account::new(counters, rules, Arc::clone(&shared), Vec::new());
    let account = Arc::new(account);
    account.share_all(NOW.mono);
    account.purse().grant(nanos(100));
    account.lease_until(Monotonic::from_nanos(u64::MAX));
    let record = KeyRecord {
        id: KeyId::new("k").unwrap(),
        account: id,
        digest: String::new(),
        name: String::new(),
        hint: String::new(),
        created: NOW.wall,
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        service: String::new(),
        budgets: Vec::new(),
    };
    let key = Arc::new(Key::new(Arc::clone(&account), record));
    // The cell is there: how one is handed from call to call, models cannot see.
    let hour = NOW.wall.hour();
    key.last_cell.with(&key, ModelId::NONE, hour, |_| ());
    Small {
        account,
        key,
        shared,
    }
}

/// A thread with the account.
fn with<T: 'static>(small: &Small, act: fn(&Arc<Account>) -> T) -> JoinHandle<T> {
    let account = Arc::clone(&small.account);
    thread::spawn(move || act(&account))
}

fn call(key: &Arc<Key>, amount: i64) -> Result<Hold, Denied> {
    let ask = Ask {
        model: None,
        worst: nanos(amount.saturating_mul(2)),
        ..ask(amount)
    };
    admit(Arc::clone(key), ask, NOW).map_err(|(_, denied)| denied)
}

/// Calls and cost in the cells that wait to be published: there is one.
fn collect(account: &Account, last: &mut (u64, i64)) {
    for cell in account.take_dirty() {
        let tally = cell.collect();
        *last = (tally.calls(), tally.cost_nanos);
    }
}

/// Found: `Purse::hold` as a load and a `fetch_sub`.
#[test]
fn holds_at_once_take_what_is_there_and_no_more() {
    explore(None, || {
        let purse = Arc::new(Purse::default());
        purse.grant(nanos(10));
        let hold = || {
            let purse = Arc::clone(&purse);
            thread::spawn(move || purse.hold(nanos(4), nanos(4)).is_ok())
        };
        let held = [hold(), hold(), hold()].map(|hold| hold.join().unwrap());
        assert_eq!(held.iter().filter(|held| **held).count(), 2);
        assert_eq!(purse.headroom(), nanos(2));
    });
}

/// Found: `Purse::give_back` as a load and a store; `Purse::settle` as a load and a store.
#[test]
fn what_is_given_back_is_what_nobody_holds() {
    explore(None, || {
        let purse = Arc::new(Purse::default());
        purse.grant(nanos(10));
        let caller = {
            let purse = Arc::clone(&purse);
            thread::spawn(move || {
                let held = purse.hold(nanos(6), nanos(6)).is_ok();
                if held {
                    purse.settle(nanos(6), nanos(4));
                }
                held
            })
        };
        let granting = {
            let purse = Arc::clone(&purse);
            thread::spawn(move || purse.grant(nanos(5)))
        };
        let given = purse.give_back(nanos(3));
        let cost = if caller.join().unwrap() { 4 } else { 0 };
        granting.join().unwrap();
        let left = purse.headroom().nanos();
        assert_eq!(left, 15 - given.nanos() - cost);
        assert!(left >= 0, "{left}");
    });
}

/// Found: `Gcra::take` as a load and a store; `Gcra::give_back` likewise.
#[test]
fn calls_at_once_pass_as_the_burst_has_room() {
    const RATE: Rate = Rate::per_second(1_000, 2);
    explore(None, || {
        let gcra = Arc::new(Gcra::default());
        let take = || {
            let gcra = Arc::clone(&gcra);
            thread::spawn(move || gcra.take(RATE, NOW.mono).is_ok())
        };
        let takes = [take(), take()];
        if gcra.take(RATE, NOW.mono).is_ok() {
            gcra.give_back(RATE);
        }
        let passed: u32 = takes
            .map(|take| u32::from(take.join().unwrap()))
            .iter()
            .sum();
        assert!(passed >= 1);
        assert_eq!(gcra.view(RATE, NOW.mono).0, 2 - passed);
    });
}

/// A burst of two, of which one call is made.
fn rated() -> Small {
    let small = small(Policy {
        qps: Some(1_000),
        burst: Some(2),
        ..Policy::default()
    });
    assert!(small.account.take_rate(NOW.mono).is_ok());
    small
}

fn share_rate(account: &Account, milli: u64) {
    account.share_rate(milli, Earned::default(), NOW.mono);
}

/// Of two calls and half of a rate. Found: `Account::take_rate` without its second look at the share; `Gcra::take` or
/// `Gcra::reshare` relaxed, so that the second look is of no use.
///
/// Two preemptions, as each mistake needs: both calls stand between the look at the share and the taking.
#[test]
fn a_rate_that_is_cut_under_calls_lets_no_more_pass() {
    explore(Some(2), || {
        let small = rated();
        let take = |account: &Arc<Account>| account.take_rate(NOW.mono).is_ok();
        let takes = [with(&small, take), with(&small, take)];
        share_rate(&small.account, 500_000);
        let passed: u32 = takes
            .map(|take| u32::from(take.join().unwrap()))
            .iter()
            .sum();
        assert!(passed <= 1, "{passed}");
    });
}

/// Found: `Account::share_rate` with the interval of a larger share first. Two preemptions, as above.
#[test]
fn a_rate_that_grows_under_calls_lets_no_more_pass() {
    explore(Some(2), || {
        let small = rated();
        share_rate(&small.account, 500_000);
        let take = |account: &Arc<Account>| account.take_rate(NOW.mono).is_ok();
        let takes = [with(&small, take), with(&small, take)];
        share_rate(&small.account, 1_000_000);
        let passed: u32 = takes
            .map(|take| u32::from(take.join().unwrap()))
            .iter()
            .sum();
        assert!(passed <= 1, "{passed}");
    });
}

fn placed(concurrency: Option<u32>) -> Small {
    small(Policy {
        concurrency,
        ..Policy::default()
    })
}

/// Found: `Places::enter` as a load and a `fetch_add`; `Places::share` as a load and a store.
///
/// Three preemptions; without a bound it passes too, in a hundred times as many orders.
#[test]
fn a_share_of_the_places_is_never_exceeded() {
    explore(Some(3), || {
        let small = placed(Some(2));
        let enter = |account: &Arc<Account>| account.enter().is_ok();
        let visit = |account: &Arc<Account>| {
            if account.enter().is_ok() {
                account.leave();
            }
        };
        let (stay, pass) = (with(&small, enter), with(&small, visit));
        let holds = small.account.share_places(1);
        // What was given up is somebody else's now.
        let later = small.account.share_places(holds);
        assert_eq!(later, holds);
        let stays = stay.join().unwrap();
        pass.join().unwrap();
        let inside = [stays, enter(&small.account)].map(u64::from);
        let inside: u64 = inside.iter().sum();
        assert!((1..=holds).contains(&inside), "{inside} of {holds}");
        assert_eq!(u64::from(small.account.in_flight()), inside);
    });
}

/// Found: `Places::enter` or `Places::share` as above; the share in a word of its own, where a call that finds no limit looks no more.
#[test]
fn a_limit_holds_for_who_came_before_it_and_goes_in_after() {
    explore(None, || {
        let small = placed(None);
        let caller = with(&small, |account| account.enter().is_ok());
        let policy = Policy {
            concurrency: Some(1),
            ..Policy::default()
        };
        small.account.follow(rules(policy));
        let holds = small.account.share_places(0);
        assert_eq!(holds, u64::from(caller.join().unwrap()));
    });
}

/// Found: `check` that looks at `retired` before it enters; `try_retire` that looks at the calls in flight first; either of the two,
/// in what it does to the places or to `retired`, with acquire or release in place of `SeqCst`.
#[test]
fn a_retired_account_has_no_call_in_it_and_nothing_uncollected() {
    explore(None, || {
        let small = small(Policy::default());
        let key = Arc::clone(&small.key);
        let caller = thread::spawn(move || {
            let admitted = call(&key, 5).map(|hold| {
                hold.settle(nanos(7), Exact, &Counts::default());
            });
            match admitted {
                Ok(()) => 7,
                Err(Denied::Lease | Denied::Short(_)) => 0,
                Err(Denied::Refused(refusal)) => panic!("{refusal:?}"),
            }
        });
        let mut collected = (0, 0);
        let retired = small.account.try_retire();
        if retired {
            collect(&small.account, &mut collected);
        }
        let spent = caller.join().unwrap();
        assert_eq!(small.account.retired(), retired);
        assert_eq!(small.account.in_flight(), 0);
        if !retired {
            collect(&small.account, &mut collected);
        }
        assert_eq!(collected.1, spent);
        small.shared.take_dirty();
    });
}

/// Two calls of these models are counted, and collected as they come.
fn collections(models: [u32; 2]) {
    explore(None, move || {
        let small = small(Policy::default());
        let caller = |model| {
            let cell = small.account.cell(CellId {
                hour: NOW.wall.hour(),
                key: small.key.id().clone(),
                model: ModelId(model),
            });
            let account = Arc::clone(&small.account);
            thread::spawn(move || {
                if cell.count(nanos(3), Exact, &Counts::default()) {
                    account.queue(cell);
                }
            })
        };
        let calls = models.map(caller);
        let mut last = BTreeMap::new();
        let mut round = || {
            for account in small.shared.take_dirty() {
                let cells = account.take_dirty();
                last.extend(cells.iter().map(|cell| (cell.id(), cell.collect())));
            }
        };
        round();
        for call in calls {
            call.join().unwrap();
        }
        round();
        let mut sum = Tally::default();
        last.values().for_each(|tally| sum.add(tally));
        assert_eq!((sum.calls(), sum.cost_nanos), (2, 6));
        assert!(small.shared.take_dirty().is_empty());
    });
}

/// Found: `Cell::collect` that reads before it takes the flag down; `Cell::count` that raises the flag before it adds the cost; either
/// of the two, in what it does to the flag or to the cost, with acquire or release in place of `SeqCst`; `Account::queue` that queues
/// the account before the cell.
#[test]
fn no_settled_call_falls_between_two_collections() {
    collections([0, 0]);
}

/// Found: `Account::take_dirty` that takes the account's flag down after the list.
#[test]
fn no_cell_is_queued_that_nobody_collects() {
    collections([0, 1]);
}

/// Found: `UsageWords::add` that adds the cost before the call, or adds it relaxed.
#[test]
fn whoever_sees_a_cost_sees_its_call() {
    explore(None, || {
        let small = small(Policy::default());
        let caller = with(&small, |account| {
            let (hour, key) = (NOW.wall.hour(), KeyId::new("k").unwrap());
            let cell = account.cell(CellId {
                hour,
                key,
                model: ModelId::NONE,
            });
            cell.count(nanos(3), Exact, &Counts::default().with(Meter::Input, 9));
        });
        let hour = NOW.wall.hour();
        let read = |cell: &Arc<Cell>| cell.read();
        let tally = small
            .key
            .last_cell
            .with(&small.key, ModelId::NONE, hour, read);
        if tally.cost_nanos > 0 {
            assert_eq!((tally.calls(), tally.counts.get(Meter::Input)), (1, 9));
        }
        caller.join().unwrap();
    });
}

/// One call is settled, one is dropped, and the policy for dropped ones changes. Found: `Open::settle` that does not leave, or gives
/// back the hold and not the cost; `Hold::drop` that settles and releases.
#[test]
fn however_calls_end_their_holds_end_once() {
    explore(None, || {
        let small = small(Policy::default());
        let holds = [call(&small.key, 5), call(&small.key, 5)].map(Result::unwrap);
        assert_eq!(small.shared.exposure.load(Relaxed), 10);
        let [settled, dropped] = holds;
        let settling = thread::spawn(move || settled.settle(nanos(7), Exact, &Counts::default()));
        let dropping = thread::spawn(move || drop(dropped));
        small.account.follow(rules(Policy {
            unsettled: crate::policy::Unsettled::Charge,
            ..Policy::default()
        }));
        settling.join().unwrap();
        dropping.join().unwrap();
        let mut ended = (0, 0);
        collect(&small.account, &mut ended);
        assert!([(1, 7), (2, 12)].contains(&ended), "{ended:?}");
        assert_eq!(small.account.purse().headroom(), nanos(100 - ended.1));
        assert_eq!(small.account.in_flight(), 0);
        let figures = [&small.shared.exposure, &small.shared.overshoot];
        assert_eq!(figures.map(|figure| figure.load(Relaxed)), [0, 2]);
        small.shared.take_dirty();
    });
}
