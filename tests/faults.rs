//! Three replicas, a real `redis-server`, and what can happen between and to them: from the outside, whatever the protocol looks
//! like within. Clients call through the proxies all the time; what they were answered is the truth. After each fault, every
//! replica and the store tell exactly that, and what was paid in; nothing is charged that was not answered.
//!
//! To run one: `cargo nextest run -E 'test(faults::outages::killed_and_restarted_empty)'`.

mod api;
mod books;
mod crowds;
mod fleet;
mod load;
mod must_show;
mod network;
mod outages;
mod refusing;
mod replicas;
mod wire;

use std::time::Duration;

use tollgate::clock::Monotonic;
use tollgate::money::Amount;

use self::books::check_calls;
use self::fleet::{Fleet, HEAL_MAX, Plan};
use self::load::{End, Load, Seen};
use crate::support::within;

/// What `tight` has at first: spent within some seconds of load, also while something is away.
const TIGHT: i64 = 300;

/// A fault under load, from the first call to the last process' end. `fault` returns when it is healed; what is checked of every
/// fault is checked here. Returns the calls.
async fn survive(plan: Plan, fault: impl AsyncFnOnce(&mut Fleet, &mut Load)) -> Seen {
    survive_at_risk(plan, fault, |_| Amount::ZERO).await
}

/// The same where the protocol cannot promise that no more is spent than there is: by how much it may be more.
async fn survive_at_risk(
    plan: Plan,
    fault: impl AsyncFnOnce(&mut Fleet, &mut Load),
    at_risk: impl FnOnce(&Seen) -> Amount,
) -> Seen {
    let mut fleet = Fleet::start(plan).await;
    fleet.open(0, "rich", "default", 1_000_000).await;
    fleet.open(1, "tight", "default", TIGHT).await;
    // Never called before the fault.
    fleet.open(2, "cold", "default", 10).await;
    let all = fleet.numbers();
    let mut load = Load::new(&fleet.clock);
    for number in &all {
        fleet.load(*number, &mut load);
    }
    load.passes("rich", &all, 5, load.now(), HEAL_MAX).await;
    for number in &all {
        let id = format!("before-{number}");
        fleet.recharge(*number, "rich", &id, 7).await.unwrap();
    }

    fault(&mut fleet, &mut load).await;
    let healed = load.now();
    load.passes("rich", &fleet.numbers(), 10, healed, HEAL_MAX)
        .await;
    let seen = load.stop().await;
    // What was answered with 200 was asked of the endpoint, once; nothing else was.
    let charged = seen.count(|call| call.is_charged());
    assert_eq!(fleet.upstream.heads(), charged, "{}", seen.summary());
    let at_risk = at_risk(&seen);
    check_calls(&seen, fleet.paid("tight").checked_add(at_risk).unwrap());
    rest(&mut fleet, &seen, at_risk).await;
    seen
}

/// After the load: the books, the money, the replicas, and their ends.
async fn rest(fleet: &mut Fleet, seen: &Seen, at_risk: Amount) {
    fleet.recharges_count_once().await;
    fleet.spend_the_rest(0, "tight", at_risk, seen).await;
    let last = *fleet.numbers().last().unwrap();
    passes(fleet, last, "cold", seen).await;
    for account in ["rich", "tight", "cold"] {
        fleet.agree(account, seen).await;
    }
    for number in fleet.numbers() {
        fleet.is_well(number).await;
    }
    for number in fleet.numbers() {
        fleet.terminate(number).await;
    }
    witness(fleet, seen).await;
}

/// A replica that has seen nothing of it finds all in the store, and can go on.
async fn witness(fleet: &mut Fleet, seen: &Seen) {
    let witness = fleet.add().await;
    for account in ["rich", "tight", "cold"] {
        fleet.agree_at(&[witness], account, seen).await;
    }
    passes(fleet, witness, "rich", seen).await;
    fleet.agree_at(&[witness], "rich", seen).await;
    fleet.terminate(witness).await;
}

/// Calls of an account at a replica until one passes. No connection stays behind, for which an end would wait.
async fn passes(fleet: &Fleet, number: usize, account: &str, seen: &Seen) {
    let mut caller = fleet.caller(number, account, "odd");
    let passes = async || {
        let call = caller.call().await;
        seen.add(call.clone());
        call.is_charged().then_some(())
    };
    let what = format!("a call of {account} passes at replica {number}");
    within(HEAL_MAX, &what, passes).await;
}

/// A fault's own time: it lasts so long, and in it, money is sent to one replica. It may be told that it cannot be known whether
/// the money is there; it is not kept waiting.
async fn lasts(fleet: &Fleet, time: Duration) {
    let over = tokio::time::sleep(time);
    let id = format!("during-{}", fleet.paid("rich"));
    if let Err(status) = fleet.recharge(0, "rich", &id, 11).await {
        let code = status.code();
        assert_eq!(code, tonic::Code::Unavailable, "{status:?}");
    }
    over.await;
}

/// What a replica that is cut off spends of `tight` and cannot say: when its lease has lapsed, its rights are given to others, and
/// this much is spent twice. With it, what it had settled and not published when it was cut off: what was answered within an
/// interval and the time that a publication takes, for which a second is plenty.
fn at_risk(seen: &Seen, replica: usize, cut_off: Monotonic, until: Monotonic) -> Amount {
    let unsaid = seen.calls().into_iter().filter(|call| {
        call.replica == replica
            && &*call.account == "tight"
            && call.answered.plus(Duration::from_secs(1)) > cut_off
            && call.sent < until
    });
    let nanos = unsaid.map(|call| match call.end {
        End::Charged(amount) => amount.nanos(),
        _ => 0,
    });
    Amount::from_nanos(nanos.sum())
}
