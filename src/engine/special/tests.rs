use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, Monotonic};
use crate::engine::{Bounds, Cost, Engine, PlanRule, Special, Stood};
use crate::id::AccountId;
use crate::ledger::Standing;
use crate::local::counters::Counters;
use crate::policy::{Enforcement, Policy};
use crate::pricing::{Per, Rate};
use crate::usage::{Certainty, Counts, Meter};

const START: i64 = 1_790_000_000_000_000_000;

fn nanos(n: i64) -> Amount {
    Amount::from_nanos(n)
}

/// An account with money, a plan at 2 a call, and a budget.
struct Bench {
    engine: Arc<Engine>,
    account: Arc<Account>,
    plan: Arc<Inner>,
    budget: Arc<Inner>,
    key: Arc<Key>,
    clock: Clock,
    price: Arc<Price>,
}

fn load(engine: &Engine, id: &AccountId, unit: &str, policy: Policy, money: i64) -> Arc<Account> {
    let rules = Rules::plain(unit.into(), policy);
    let taken = engine.counters().take_up(id);
    let account = engine.load(taken, rules, std::iter::empty());
    account.share_all(Monotonic::from_nanos(1));
    account.purse().grant(nanos(money));
    account.lease_until(Monotonic::from_nanos(u64::MAX));
    // Nobody has more.
    account.dry_until(Monotonic::from_nanos(u64::MAX));
    account
}

fn bench(policy: Policy, money: i64, points: i64) -> Bench {
    let engine = Engine::new([1; 16], Bounds::default(), Counters::in_memory());
    let id = AccountId::new("a").unwrap();
    let inner = |name: &str, unit: &str, has: i64| {
        let policy = Policy {
            unsettled: policy.unsettled,
            ..Policy::default()
        };
        Inner::new(load(&engine, &id.inner(name).unwrap(), unit, policy, has))
    };
    let (plan, budget) = (inner("plan", "POINTS", points), inner("b", "USD", 1_000));
    let account = load(&engine, &id, "USD", policy.clone(), money);
    let bench = Bench {
        key: engine.load_key(
            None,
            &account,
            KeyRecord::unlimited(KeyId::new("k").unwrap(), id),
        ),
        clock: Clock::manual(Timestamp::from_nanos(START)),
        price: Arc::new(Price {
            pattern: "m".into(),
            unit: "POINTS".into(),
            rates: BTreeMap::from([(
                Meter::Request,
                Rate {
                    price: nanos(2),
                    per: Per::Unit,
                },
            )]),
            max_output: None,
        }),
        engine,
        account,
        plan,
        budget,
    };
    bench.special(policy, Special::default());
    bench
}

impl Bench {
    fn special(&self, policy: Policy, special: Special) {
        let special = Special {
            plans: vec![PlanRule {
                id: self.plan.account().id().clone(),
                unit: "POINTS".into(),
                scope: Vec::new(),
            }],
            ..special
        };
        self.account.follow(Rules {
            special: Some(Box::new(special)),
            ..Rules::plain("USD".into(), policy)
        });
    }

    /// A call that costs so much in money and in points, as far as it is foreseen.
    fn admit(&self, money: i64, points: Option<i64>, more: More<'_>) -> Result<Hold, Denied> {
        let plan = points.map(|points| PlanAsk {
            inner: Arc::clone(&self.plan),
            price: Arc::clone(&self.price),
            amount: nanos(points),
        });
        let more = More {
            plans: plan.as_slice(),
            ..more
        };
        let ask = Ask {
            model: Some("m"),
            counted_as: ModelId::NONE,
            priced: true,
            amount: nanos(money),
            worst: nanos(money),
            more: Some(&more),
        };
        let admitted = self
            .engine
            .admit(Arc::clone(&self.key), ask, self.clock.now());
        admitted.map_err(|(_, denied)| denied)
    }

    /// What is free of money and of points.
    fn free(&self) -> (i64, i64) {
        let of = |account: &Account| account.purse().headroom().nanos();
        (of(&self.account), of(self.plan.account()))
    }

    /// What was counted as spent of money and of points, and how many calls in each.
    fn spent(&self) -> ((i64, u64), (i64, u64)) {
        let of = |account: &Account| {
            let tallies: Vec<_> = account.cells().iter().map(|cell| cell.read()).collect();
            let calls = tallies.iter().map(crate::usage::Tally::calls).sum();
            (tallies.iter().map(|tally| tally.cost_nanos).sum(), calls)
        };
        (of(&self.account), of(self.plan.account()))
    }

    fn at_rest(&self) {
        let accounts = [&self.account, self.plan.account(), self.budget.account()];
        assert_eq!(accounts.map(|account| account.in_flight()), [0; 3]);
    }
}

fn requests(n: u64) -> Counts {
    Counts::default().with(Meter::Request, n)
}

fn refused(reason: Reason) -> Denied {
    Denied::Refused(Refusal::new(reason))
}

#[test]
fn what_a_plan_leaves_is_rounded_once_half_up() {
    for (money, cost, paid, want) in [
        (100, 10, 0, 100),
        (100, 10, 10, 0),
        (100, 10, 4, 60),
        (1, 3, 1, 1),
        (1, 3, 2, 0),
        (1, 2, 1, 1),
        (3, 2, 1, 2),
        (5, 0, 0, 0),
        (100, 10, 11, 0),
        (i64::MAX, i64::MAX, 1, i64::MAX - 1),
        (0, 7, 3, 0),
    ] {
        let got = uncovered(nanos(money), nanos(cost), nanos(paid));
        assert_eq!(got, nanos(want), "{money} {cost} {paid}");
    }
}

/// Each line by hand: what a call is expected to cost in points and what the plan has; what is then held of each; what it really costs
/// (two points and ten of money for each request), and what each has left.
#[test]
fn a_plan_pays_what_it_has_and_money_the_rest() {
    let check =
        |points: i64, estimate: i64, held: (i64, i64), requests_made: u64, left: (i64, i64)| {
            let bench = bench(Policy::default(), 1_000, points);
            let money = estimate * 5;
            let hold = bench.admit(money, Some(estimate), More::default()).unwrap();
            let got = (1_000 - bench.free().0, points - bench.free().1);
            assert_eq!(got, held, "held: {points} of {estimate}");
            let cost = i64::try_from(requests_made).unwrap() * 10;
            let paid = hold.settle_as(
                Cost::Metered(nanos(cost)),
                Certainty::Exact,
                &requests(requests_made),
            );
            assert_eq!(
                bench.free(),
                left,
                "left: {points} of {estimate}, {requests_made}"
            );
            assert_eq!(paid.nanos(), 1_000 - left.0);
            let counted = (1_000 - left.0, 1);
            let plan = (points - left.1, u64::from(held.1 > 0));
            assert_eq!(bench.spent(), (counted, plan));
            bench.at_rest();
        };
    // The plan covers it: nothing is held of money. It costs as much, less, and more than was held.
    check(20, 4, (0, 4), 2, (1_000, 16));
    check(20, 4, (0, 4), 1, (1_000, 18));
    check(20, 4, (0, 4), 5, (1_000, 10));
    // More than the plan has: the rest is money's. Of 24 points 20 are there, so 4/24 of 120.
    check(20, 4, (0, 4), 12, (980, 0));
    // The plan has a part: 3 of 4 points, so a quarter of 20 is held of money.
    check(3, 4, (5, 3), 2, (995, 0));
    check(3, 4, (5, 3), 1, (1_000, 1));
    check(3, 4, (5, 3), 4, (975, 0));
    // It has nothing.
    check(0, 4, (20, 0), 2, (980, 0));
}

#[test]
fn a_plan_pays_at_a_balance_of_nothing_and_money_is_not_looked_at() {
    let bench = bench(Policy::default(), 0, 20);
    bench.account.lease_until(Monotonic::default());
    let hold = bench.admit(20, Some(4), More::default()).unwrap();
    assert_eq!(hold.plan().unwrap().0, nanos(4));
    hold.release();
    assert_eq!((bench.free(), bench.spent()), ((0, 20), ((0, 0), (0, 0))));
    bench.at_rest();
}

#[test]
fn under_whole_a_plan_that_has_too_little_pays_nothing() {
    let policy = Policy {
        plan_shortfall: PlanShortfall::Whole,
        ..Policy::default()
    };
    let bench = bench(policy, 1_000, 3);
    let hold = bench.admit(20, Some(4), More::default()).unwrap();
    assert_eq!(bench.free(), (980, 3));
    hold.settle(nanos(20), Certainty::Exact, &requests(2));
    assert_eq!(bench.free(), (980, 3));
    bench.at_rest();
}

#[test]
fn what_a_refused_call_took_of_a_plan_goes_back() {
    let bench = bench(Policy::default(), 4, 3);
    // A quarter of 20 is 5, and there are 4.
    let denied = bench.admit(20, Some(4), More::default()).unwrap_err();
    assert_eq!(denied, refused(Reason::InsufficientBalance));
    assert_eq!(bench.free(), (4, 3));
    bench.account.purse().grant(nanos(1));
    bench.admit(20, Some(4), More::default()).unwrap().release();
    // Without a price in money only the plan pays.
    let only = More {
        plans_only: true,
        ..More::default()
    };
    let denied = bench.admit(0, Some(4), only).unwrap_err();
    assert_eq!(denied, refused(Reason::InsufficientBalance));
    bench.admit(0, Some(3), only).unwrap().release();
    assert_eq!(bench.free(), (5, 3));
    bench.at_rest();
}

#[test]
fn a_plan_whose_lease_is_short_is_asked_for_more_before_money_is() {
    let bench = bench(Policy::default(), 1_000, 3);
    bench.plan.account().dry_until(Monotonic::default());
    let ask = |plans_final| {
        bench.admit(
            20,
            Some(4),
            More {
                plans_final,
                ..More::default()
            },
        )
    };
    assert_eq!(ask(false).unwrap_err(), Denied::Short(Leg::Plan(0)));
    assert_eq!(bench.free(), (1_000, 3));
    ask(true).unwrap().release();
    // One that cannot be used at all is passed over.
    bench.plan.account().lease_until(Monotonic::default());
    let hold = ask(true).unwrap();
    assert_eq!(bench.free(), (980, 3));
    hold.release();
}

#[test]
fn a_given_amount_is_shared_as_it_was_held() {
    let bench = bench(Policy::default(), 1_000, 3);
    let hold = bench.admit(20, Some(4), More::default()).unwrap();
    // A quarter is money's; the plan pays what it held.
    let paid = hold.settle_as(Cost::Flat(nanos(40)), Certainty::Exact, &requests(1));
    assert_eq!((paid, bench.free()), (nanos(10), (990, 0)));
    let policy = Policy {
        unsettled: crate::policy::Unsettled::Charge,
        ..Policy::default()
    };
    let bench = self::bench(policy, 1_000, 3);
    drop(bench.admit(20, Some(4), More::default()).unwrap());
    assert_eq!(
        bench.free(),
        (995, 0),
        "a hold that nobody settles is charged, each part where it is"
    );
    bench.at_rest();
}

#[test]
fn credit_that_expires_is_not_used_from_its_instant_on() {
    let bench = bench(Policy::default(), 100, 0);
    let ends = Timestamp::from_nanos(START + 10);
    bench.special(
        Policy::default(),
        Special {
            lease_ends: Some(ends),
            ..Special::default()
        },
    );
    let step = |n| bench.clock.advance(Duration::from_nanos(n));
    step(9);
    let early = bench.admit(10, None, More::default()).unwrap();
    let kept = bench.admit(30, None, More::default()).unwrap();
    step(1);
    bench.account.dry_until(Monotonic::default());
    assert_eq!(
        bench.admit(0, None, More::default()).unwrap_err(),
        Denied::Lease
    );
    step(1);
    assert_eq!(
        bench.admit(0, None, More::default()).unwrap_err(),
        Denied::Lease
    );
    // The sync gives the lease back, the ledger looks, and there is another.
    assert_eq!(bench.account.purse().give_back(Amount::ZERO), nanos(60));
    bench.account.next_epoch();
    bench.special(Policy::default(), Special::default());
    assert_eq!(
        bench.admit(1, None, More::default()).unwrap_err(),
        Denied::Lease
    );
    // What was held before pays its own calls, and what they give back is not for others.
    early.release();
    kept.settle(nanos(12), Certainty::Exact, &requests(1));
    assert_eq!(bench.free().0, 0);
    assert_eq!(bench.account.take_stale(), nanos(28));
    bench.account.purse().grant(nanos(5));
    let late = bench.admit(5, None, More::default()).unwrap();
    late.settle(nanos(2), Certainty::Exact, &requests(1));
    assert_eq!(bench.free().0, 3, "of the new lease, it is");
    bench.at_rest();
}

#[test]
fn a_plan_that_expires_pays_until_its_instant_and_money_after_it() {
    let bench = bench(Policy::default(), 1_000, 20);
    let ends = Timestamp::from_nanos(START + 10);
    bench.plan.account().follow(Rules {
        special: Some(Box::new(Special {
            lease_ends: Some(ends),
            ..Special::default()
        })),
        ..Rules::plain("POINTS".into(), Policy::default())
    });
    let ask = || {
        let more = More {
            plans_final: true,
            ..More::default()
        };
        let hold = bench.admit(20, Some(4), more).unwrap();
        let paid = hold.plan().is_some();
        hold.release();
        paid
    };
    bench.clock.advance(Duration::from_nanos(9));
    assert!(ask());
    bench.clock.advance(Duration::from_nanos(1));
    assert!(!ask());
}

#[test]
fn a_rate_bought_for_a_time_ends_at_its_instant_and_its_burst_with_it() {
    let policy = Policy {
        qps: Some(100),
        burst: Some(50),
        ..Policy::default()
    };
    let bench = bench(policy.clone(), 1_000_000, 0);
    let ends = Timestamp::from_nanos(START + 10);
    bench.special(
        policy,
        Special {
            rates: vec![(ends, Some((10, 5)))],
            ..Special::default()
        },
    );
    // Half of it is another replica's.
    bench.account.share_rate(
        50_000,
        crate::engine::Earned::default(),
        bench.clock.now().mono,
    );
    let passes = || {
        let pass = |_: &u32| match bench.admit(1, None, More::default()) {
            Ok(hold) => {
                hold.release();
                true
            }
            Err(_) => false,
        };
        (0..100).filter(pass).count()
    };
    bench.account.asked_until(Monotonic::from_nanos(u64::MAX));
    bench.clock.advance(Duration::from_nanos(9));
    assert_eq!(
        bench.admit(1, None, More::default()).map(Hold::release),
        Ok(())
    );
    assert_eq!(
        bench.account.shares().0,
        Some(50_000),
        "a nanosecond before its end"
    );
    bench.clock.advance(Duration::from_nanos(1));
    assert!(passes() <= 5, "what was saved up is cut to the new burst");
    let share = bench.account.shares().0.unwrap();
    assert!(
        (4_990..=5_000).contains(&share),
        "the same half of the new rate: {share}"
    );
    bench.clock.advance(Duration::from_secs(1));
    assert!(passes() <= 5);
}

#[test]
fn standing_is_judged_by_the_calls_own_time() {
    let bench = bench(Policy::default(), 1_000, 0);
    let mut rules = bench.account.rules().as_ref().clone();
    rules.standing = Standing::always(Some(Reason::ReactivationRequired));
    rules.special = Some(Box::new(Special {
        reactivated: ["face*".to_owned()].into(),
        ..Special::default()
    }));
    bench.account.follow(rules);
    let ask = |capability| {
        bench.admit(
            1,
            None,
            More {
                capability,
                ..More::default()
            },
        )
    };
    ask(Some("face-1")).unwrap().release();
    assert_eq!(
        ask(Some("body")).unwrap_err(),
        refused(Reason::ReactivationRequired)
    );
    assert_eq!(
        ask(None).unwrap_err(),
        refused(Reason::ReactivationRequired)
    );
}

#[test]
fn before_it_is_live_an_account_is_counted_and_told_and_pays_nothing() {
    let live = Timestamp::from_nanos(START + 10);
    let policy = Policy {
        enforcement: Enforcement::Shadow,
        live_from: Some(live),
        ..Policy::default()
    };
    let bench = bench(policy, 5, 3);
    let rich = bench.admit(5, None, More::default()).unwrap();
    assert_eq!(rich.would_refuse(), None);
    let poor = bench.admit(5, None, More::default()).unwrap();
    assert_eq!(
        (poor.would_refuse(), poor.amount()),
        (Some(Reason::InsufficientBalance), nanos(0))
    );
    let planned = bench.admit(20, Some(3), More::default()).unwrap();
    let cost = Cost::Metered(nanos(9));
    for hold in [rich, poor, planned] {
        assert_eq!(
            hold.settle_as(cost, Certainty::Exact, &requests(1)),
            nanos(0)
        );
    }
    assert_eq!(
        (bench.free(), bench.spent().0),
        ((5, 3), (0, 3)),
        "counted, and nothing is spent"
    );
    let mut rules = bench.account.rules().as_ref().clone();
    rules.standing = Standing::always(Some(Reason::AccountOverdue));
    bench.account.follow(rules);
    let overdue = bench.admit(1, None, More::default()).unwrap();
    assert_eq!(overdue.would_refuse(), Some(Reason::AccountOverdue));
    overdue.release();
    bench.clock.advance(Duration::from_nanos(9));
    bench.admit(1, None, More::default()).unwrap().release();
    bench.clock.advance(Duration::from_nanos(1));
    let denied = bench.admit(1, None, More::default()).unwrap_err();
    assert_eq!(
        denied,
        refused(Reason::AccountOverdue),
        "live at its instant"
    );
    bench.at_rest();
}

#[test]
fn beyond_the_lease_calls_go_on_up_to_an_amount_and_no_further() {
    let policy = Policy {
        store_outage: StoreOutage::UpTo(nanos(25)),
        ..Policy::default()
    };
    let bench = bench(policy, 10, 0);
    bench.account.lease_until(Monotonic::default());
    let ask = |amount| {
        bench.admit(
            amount,
            None,
            More {
                beyond: true,
                ..More::default()
            },
        )
    };
    assert_eq!(
        bench.admit(10, None, More::default()).unwrap_err(),
        Denied::Lease
    );
    let first = ask(10).unwrap();
    let second = ask(15).unwrap();
    assert_eq!(ask(1).unwrap_err(), Denied::Lease);
    second.settle(nanos(5), Certainty::Exact, &requests(1));
    assert_eq!(
        bench.account.beyond(),
        nanos(15),
        "what it did not cost is there again"
    );
    ask(10).unwrap().release();
    assert_eq!(ask(11).unwrap_err(), Denied::Lease);
    bench.account.end_outage();
    assert_eq!(bench.account.beyond(), nanos(0));
    first.settle(nanos(3), Certainty::Exact, &requests(1));
    assert_eq!(
        bench.account.beyond(),
        nanos(0),
        "of an outage that is over"
    );
    assert_eq!((bench.free().0, bench.spent().0.0), (2, 8));
    bench.at_rest();
}

#[test]
fn a_budget_is_held_with_the_rest_or_nothing_is() {
    let bench = bench(Policy::default(), 5_000, 0);
    let budgets = [BudgetAsk {
        inner: Arc::clone(&bench.budget),
        ends: Some(Timestamp::from_nanos(START + 500)),
    }];
    let ask = |amount| {
        bench.admit(
            amount,
            None,
            More {
                budgets: &budgets,
                ..More::default()
            },
        )
    };
    let left = || bench.budget.account().purse().headroom();
    let hold = ask(600).unwrap();
    assert_eq!(left(), nanos(400));
    let denied = ask(401).unwrap_err();
    let wait = Refusal::after(Reason::KeyLimitExceeded, Duration::from_nanos(500));
    assert_eq!(denied, Denied::Refused(wait));
    assert_eq!(bench.free().0, 4_400, "the money went back");
    hold.settle(nanos(1_000), Certainty::Exact, &requests(1));
    assert_eq!(left(), nanos(0));
    assert!(ask(0).is_err(), "one that is used up lets nothing pass");
    bench.budget.account().dry_until(Monotonic::default());
    assert_eq!(ask(1).unwrap_err(), Denied::Short(Leg::Budget(0)));
    bench.at_rest();
}

/// Each line by hand, of a call that was held for 2 points, and for 10 in money had it no plan: what the plan has by the time that the
/// charge comes, what that is, and what each has paid of it. The budget counts what money paid.
#[test]
fn a_charge_that_comes_when_its_hold_is_over_goes_to_what_that_stood_on() {
    let metered = |requests: i64| Cost::Metered(nanos(10 * requests));
    let flat = |money: i64| Cost::Flat(nanos(money));
    for (left, cost, made, in_points, in_money) in [
        (3, metered(1), 1, 2, 0),
        (3, metered(2), 2, 3, 5),
        (1, metered(1), 1, 1, 5),
        (0, metered(1), 1, 0, 10),
        // The plan pays the part that it held, or what it has left of that.
        (3, flat(10), 1, 2, 0),
        (3, flat(50), 1, 2, 0),
        (1, flat(50), 1, 1, 25),
        (0, flat(50), 1, 0, 50),
    ] {
        let bench = bench(Policy::default(), 1_000, 3);
        let budgets = [BudgetAsk {
            inner: Arc::clone(&bench.budget),
            ends: None,
        }];
        let more = More {
            budgets: &budgets,
            ..More::default()
        };
        let hold = bench.admit(10, Some(2), more).unwrap();
        let stood = hold.stood().unwrap();
        hold.release();
        assert_eq!(bench.free(), (1_000, 3), "all of it went back");
        let gone = bench.plan.account().purse().take_up_to(nanos(3 - left));
        assert_eq!(gone, nanos(3 - left));
        let key = Arc::clone(&bench.key);
        let now = bench.clock.now();
        let late = bench.engine.late_on(key, ModelId::NONE, &stood, now);
        let paid = late.settle_as(cost, Certainty::Exact, &requests(made));
        assert_eq!(paid, nanos(in_money), "{left} {cost:?}");
        assert_eq!(bench.free(), (1_000 - in_money, left - in_points));
        let budget = bench.budget.account().purse().headroom();
        assert_eq!(budget, nanos(1_000 - in_money));
        assert_eq!(bench.spent(), ((in_money, 1), (in_points, 1)));
        bench.at_rest();
    }
}

#[test]
fn a_late_charge_is_not_paid_from_a_lease_whose_time_is_over_nor_before_billing_is_live() {
    let bench = bench(Policy::default(), 1_000, 3);
    let stood = |bench: &Bench| {
        let hold = bench.admit(10, Some(2), More::default()).unwrap();
        let stood = hold.stood().unwrap();
        hold.release();
        stood
    };
    let charge = |bench: &Bench, stood: &Stood| {
        let (key, now) = (Arc::clone(&bench.key), bench.clock.now());
        let late = bench.engine.late_on(key, ModelId::NONE, stood, now);
        late.settle_as(Cost::Metered(nanos(10)), Certainty::Exact, &requests(1))
    };
    let over = stood(&bench);
    bench.plan.account().lease_until(Monotonic::from_nanos(0));
    assert_eq!(charge(&bench, &over), nanos(10));
    assert_eq!(bench.free(), (990, 3));
    bench.at_rest();

    let shadow = Policy {
        enforcement: Enforcement::Shadow,
        ..Policy::default()
    };
    let bench = self::bench(shadow, 1_000, 3);
    let before = stood(&bench);
    assert_eq!(charge(&bench, &before), nanos(0));
    assert_eq!(bench.free(), (1_000, 3), "it moves no money");
    bench.at_rest();
}
