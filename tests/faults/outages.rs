//! Redis itself goes: frozen, killed, emptied, set back.

use std::cell::Cell;
use std::time::Duration;

use tollgate::clock::Monotonic;

use super::books::check_none_charged;
use super::fleet::{Fleet, HEAL_MAX, Plan, SHORT_LEASE};
use super::load::{CALL_MAX, End, Load, Seen};
use super::{at_risk, lasts, survive, survive_at_risk};
use crate::support::redis::Keeps;
use crate::support::tap::Mode;
use crate::support::until;

/// Longer than any timeout of a replica: 500 ms is the longest.
const LONGER_THAN_TIMEOUTS: Duration = Duration::from_millis(1_500);

fn forgetful() -> Plan {
    Plan {
        keeps: Keeps::WhatWasSaved,
        ..Plan::short_lease()
    }
}

/// An account that is not loaded cannot be, and its caller is told so in time.
async fn cannot_load(fleet: &Fleet) {
    for number in fleet.numbers() {
        let call = fleet.caller(number, "cold", "flat").call().await;
        assert_eq!(call.end, End::Refused(503, "STATE_UNAVAILABLE".into()));
        assert!(call.took() < CALL_MAX, "{call:?}");
    }
}

/// Something passes on the leases of before.
fn passed_between(seen: &Seen, from: Monotonic, to: Monotonic) {
    let passed = seen.count(|call| call.is_charged() && call.sent >= from && call.answered <= to);
    assert!(passed > 0, "nothing was let through\n{}", seen.summary());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_for_longer_than_every_timeout() {
    let mut away = None;
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        fleet.redis.freeze();
        let from = load.now();
        lasts(fleet, LONGER_THAN_TIMEOUTS).await;
        cannot_load(fleet).await;
        away = Some((from, load.now()));
        fleet.redis.thaw();
    };
    let seen = survive(Plan::default(), fault).await;
    let (from, to) = away.unwrap();
    passed_between(&seen, from, to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_for_longer_than_the_lease() {
    let mut away = None;
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        fleet.redis.freeze();
        let from = load.now();
        lasts(fleet, 2 * SHORT_LEASE).await;
        cannot_load(fleet).await;
        away = Some((from, load.now()));
        fleet.redis.thaw();
    };
    let seen = survive(Plan::short_lease(), fault).await;
    // The last word of Redis was heard before it froze. A replica stops its margin before the end of the lease; a call that is sent
    // later than the lease is long finds nothing, whatever a busy machine did to it on the way.
    let (from, to) = away.unwrap();
    passed_between(&seen, from, to);
    let over = from.plus(SHORT_LEASE);
    check_none_charged(&seen, |call| call.sent > over && call.answered < to);
    let refused = seen.count(|call| call.sent > over && call.answered < to);
    assert!(refused > 0, "nobody called\n{}", seen.summary());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_with_its_log() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        fleet.redis.kill();
        lasts(fleet, Duration::from_secs(1)).await;
        cannot_load(fleet).await;
        fleet.redis.run().await;
    };
    survive(Plan::short_lease(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_empty() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        fleet.redis.kill();
        lasts(fleet, Duration::from_secs(1)).await;
        cannot_load(fleet).await;
        fleet.redis.run().await;
    };
    survive(forgetful(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_empty_at_once_and_again() {
    // Too short for a timeout, so that connections break and are there again; and once more within the fence of the first time.
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        for _ in 0..2 {
            fleet.redis.kill();
            fleet.redis.run().await;
            lasts(fleet, Duration::from_millis(400)).await;
        }
        load.passes("rich", &[0], 5, load.now(), HEAL_MAX).await;
    };
    survive(forgetful(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied_while_it_runs() {
    // No connection breaks, and the server is the same: only what it does not know any more tells.
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        let all = fleet.numbers();
        fleet.redis.command::<String>(&["FLUSHALL"]);
        // What is put back is fenced: until all have said what they hold, nobody gets more, and nobody pays in.
        until("a replica is told of the fence", async || {
            for number in &all {
                let fenced = fleet.replicas[*number].metric("tollgate_accounts_fenced");
                if fenced.await > 0 {
                    return Some(());
                }
            }
            None
        })
        .await;
        lasts(fleet, Duration::from_secs(1)).await;
    };
    survive(forgetful(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_with_old_data() {
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        fleet.redis.save();
        // Both sides of it: more is spent, and more is paid in, than the dump knows of.
        let saved = load.now();
        for number in fleet.numbers() {
            let id = format!("after-{number}");
            fleet.recharge(number, "rich", &id, 5).await.unwrap();
        }
        fleet.recharge(1, "tight", "after", 3).await.unwrap();
        load.passes("rich", &fleet.numbers(), 20, saved, HEAL_MAX)
            .await;
        fleet.redis.kill();
        lasts(fleet, Duration::from_secs(1)).await;
        fleet.redis.run().await;
    };
    survive(forgetful(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_with_old_data_while_one_replica_is_away() {
    // What that one spent and paid in is missing from the store and from what the others know of it, until it is back.
    let away = Cell::new(None);
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        fleet.redis.save();
        let saved = load.now();
        fleet.recharge(2, "rich", "after", 5).await.unwrap();
        load.passes("rich", &fleet.numbers(), 20, saved, HEAL_MAX)
            .await;
        let from = load.now();
        fleet.replicas[2].tap.set(Mode::Cut);
        fleet.redis.kill();
        fleet.redis.run().await;
        lasts(fleet, Duration::from_secs(1)).await;
        load.passes("rich", &[0, 1], 10, load.now(), HEAL_MAX).await;
        away.set(Some((from, load.now())));
        fleet.replicas[2].tap.set(Mode::Pass);
    };
    let plan = forgetful();
    let cut = |seen: &Seen| {
        let (from, to) = away.get().unwrap();
        at_risk(seen, 2, from, to)
    };
    survive_at_risk(plan, fault, cut).await;
}
