//! The accounts inside an account, of its plans and its budgets: let go of after it, taken up with it again, and nothing is lost.

use super::*;
use crate::ledger::{Configure, PlanRef};
use crate::policy::{Budget, Period};
use crate::pricing::{Per, Rate};
use crate::usage::Meter;

/// How long accounts are at rest before they are let go of, and some more.
const REST: u64 = 620;

fn price(unit: &str, each: i64) -> Price {
    let price = units(each);
    let per = Per::Unit;
    Price {
        pattern: "flat".into(),
        unit: unit.into(),
        rates: [(Meter::Request, Rate { price, per })].into(),
        max_output: None,
    }
}

/// `flat` costs 1, or 10 points of the plan `pack`, of which there are 100.
async fn planned() -> Bench {
    let bench = bench_with(
        Policy::default(),
        vec![price("USD", 1), price("points", 10)],
    )
    .await;
    let (books, pack) = (&bench.core.books, pack(&bench));
    let opened = books.open_as(pack.clone(), "points".into(), Configure::default(), None);
    opened.await.unwrap();
    let bought = Action::BuyPlan {
        amount: units(100),
        order_id: "pack-1".into(),
        priority: 0,
        expires: None,
        price: None,
        note: String::new(),
    };
    let plan = PlanRef {
        name: "pack".into(),
        unit: "points".into(),
        scope: Vec::new(),
        priority: 0,
    };
    for (account, action) in [(&pack, bought), (&bench.account, Action::AddPlan { plan })] {
        let idempotency_key = None;
        let command = Command {
            idempotency_key,
            action,
        };
        books.run(account, command).await.unwrap();
    }
    bench
}

/// One call of `flat`.
fn used() -> SettleAs {
    SettleAs::Counts(Counts::default().with(Meter::Request, 1))
}

fn pack(bench: &Bench) -> AccountId {
    bench.account.inner("pack").unwrap()
}

impl Bench {
    fn flat(&self, number: u32) -> HoldRequest {
        HoldRequest {
            model: Some("flat".into()),
            amount: None,
            request_id: format!("r-{number}"),
            ..self.request(0)
        }
    }

    /// Takes a hold for a call of `flat`; gives its id.
    async fn hold(&self, number: u32) -> String {
        let grant = self.gate().hold(self.flat(number)).await.unwrap();
        grant.id.clone()
    }

    fn settle(&self, hold: &str) {
        self.gate().settle_hold(hold, used()).unwrap();
    }

    /// What is loaded, by name.
    fn loaded(&self) -> Vec<String> {
        let accounts = self.gate().engine().accounts();
        let mut names: Vec<_> = accounts.iter().map(|each| each.id().to_string()).collect();
        names.sort_unstable();
        names
    }

    /// What was spent of the plan and of money, and what of the plan anybody may lease.
    async fn stands(&self) -> (Amount, Amount, Amount) {
        self.core.sync.sync_now().await.unwrap();
        let of = async |id: &AccountId| {
            let read = self.core.store.read(id, &[]).await;
            read.unwrap().unwrap()
        };
        let (plan, money) = (of(&pack(self)).await, of(&self.account).await);
        (plan.spend, money.spend, plan.unleased)
    }
}

#[tokio::test]
async fn a_plan_is_let_go_of_after_its_owner_and_is_whole_when_it_is_taken_up_again() {
    let bench = planned().await;
    let hold = bench.hold(1).await;
    bench.settle(&hold);
    bench.pass(20).await;
    bench.pass(REST).await;
    // Its calls look at it without asking: it stays as long as its owner is there.
    bench.sync().unload_rested();
    assert_eq!(bench.loaded(), ["a!pack"]);
    bench.sync().unload_rested();
    assert!(bench.loaded().is_empty(), "{:?}", bench.loaded());
    let left = (units(10), units(0), units(90));
    assert_eq!(bench.stands().await, left, "and its lease went back");

    let hold = bench.hold(2).await;
    assert_eq!(bench.loaded(), ["a", "a!pack"]);
    bench.settle(&hold);
    let (plan, money, _) = bench.stands().await;
    assert_eq!((plan, money), (units(20), units(0)), "the plan pays on");

    // Taken up between the two, the owner finds the plan that was still there.
    bench.pass(20).await;
    bench.pass(REST).await;
    bench.sync().unload_rested();
    assert_eq!(bench.loaded(), ["a!pack"]);
    let hold = bench.hold(3).await;
    bench.sync().unload_rested();
    assert_eq!(bench.loaded(), ["a", "a!pack"]);
    bench.settle(&hold);
    let (plan, money, _) = bench.stands().await;
    assert_eq!((plan, money), (units(30), units(0)));
}

#[tokio::test]
async fn a_plan_that_rests_while_its_owner_does_not_stays() {
    let bench = planned().await;
    let hold = bench.hold(1).await;
    bench.settle(&hold);
    bench.pass(20).await;
    bench.pass(REST).await;
    // A call that no plan pays for, as it names no model.
    let money = bench.gate().hold(bench.request(1)).await.unwrap();
    bench.sync().unload_rested();
    assert_eq!(bench.loaded(), ["a", "a!pack"]);
    let hold = bench.hold(2).await;
    bench.settle(&hold);
    bench.gate().release_hold(&money.id).unwrap();
    let (plan, money, _) = bench.stands().await;
    assert_eq!((plan, money), (units(20), units(0)));
}

#[tokio::test]
async fn a_plan_that_a_call_holds_stays_however_long_the_call_takes() {
    let bench = planned().await;
    let hold = bench.hold(1).await;
    for _ in 0..3 {
        bench.pass(20).await;
        bench.pass(REST).await;
        bench.sync().unload_rested();
        assert_eq!(bench.loaded(), ["a", "a!pack"]);
    }
    bench.settle(&hold);
    // What was settled and is not published yet keeps both, too.
    bench.sync().unload_rested();
    bench.sync().unload_rested();
    let (plan, money, _) = bench.stands().await;
    assert_eq!((plan, money), (units(10), units(0)));
}

#[tokio::test]
async fn a_charge_that_comes_when_its_hold_has_expired_is_the_plans_and_nothing_stays_held() {
    let bench = planned().await;
    let hold = bench.hold(1).await;
    bench.pass(20).await;
    bench.pass(REST).await;
    assert_eq!(bench.gate().expire_holds(), 1);
    bench.pass(1).await;
    // The charge may still come: the owner stays for it, and so does the plan.
    bench.sync().unload_rested();
    bench.sync().unload_rested();
    assert_eq!(bench.loaded(), ["a", "a!pack"]);
    assert_eq!(bench.stands().await.0, units(0));
    bench.gate().ready_hold(&hold, used()).await;
    bench.settle(&hold);
    let (plan, money, _) = bench.stands().await;
    assert_eq!((plan, money), (units(10), units(0)));
    for _ in 0..2 {
        bench.pass(20).await;
        bench.pass(REST).await;
        bench.sync().unload_rested();
    }
    assert!(bench.loaded().is_empty(), "{:?}", bench.loaded());
    assert_eq!(bench.stands().await, (units(10), units(0), units(90)));
}

#[tokio::test]
async fn a_budget_is_not_filled_again_by_being_taken_up_again() {
    let policy = Policy {
        budgets: vec![Budget {
            amount: units(2),
            period: Period::Total,
            capability: None,
        }],
        ..Policy::default()
    };
    let bench = bench_with(policy, vec![price("USD", 1)]).await;
    let hold = bench.hold(1).await;
    bench.settle(&hold);
    bench.pass(20).await;
    bench.pass(REST).await;
    bench.sync().unload_rested();
    bench.sync().unload_rested();
    assert!(bench.loaded().is_empty(), "{:?}", bench.loaded());
    let hold = bench.hold(2).await;
    bench.settle(&hold);
    let refused = bench.gate().hold(bench.flat(3)).await.unwrap_err();
    let refused = format!("{refused:?}");
    assert!(refused.contains("KeyLimitExceeded"), "{refused}");
    assert_eq!(bench.spend().await, units(2));
}
