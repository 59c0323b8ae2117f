//! A replica goes, while Redis stays or does not: it stands still, is killed, is gone for good. What it was asked is known in each
//! case, as its clients have left it before; kills under load are among what must be shown.

use std::cell::Cell;
use std::time::Duration;

use super::fleet::{Fleet, HEAL_MAX, Plan, SHORT_LEASE};
use super::load::{Load, Seen};
use super::{at_risk, lasts, survive, survive_at_risk};
use crate::support::redis::Keeps;

/// A replica is killed, and with it what it knew but for its file; meanwhile something happens; then it is back.
async fn down_while(plan: Plan, happens: impl AsyncFnOnce(&mut Fleet, &mut Load)) {
    let away = Cell::new(None);
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        load.leave(2).await;
        // It has said most of it, and what it settled within the last interval only to its file.
        fleet.kill(2).await;
        let from = load.now();
        happens(fleet, load).await;
        // The others had to go on without it.
        load.passes("rich", &[0, 1], 10, load.now(), HEAL_MAX).await;
        away.set(Some((from, load.now())));
        fleet.run(2).await;
        fleet.load(2, load);
    };
    let unsaid = |seen: &Seen| {
        let (from, to) = away.get().unwrap();
        at_risk(seen, 2, from, to)
    };
    survive_at_risk(plan, fault, unsaid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_killed_and_back_after_its_lease() {
    let plan = Plan::short_lease();
    down_while(plan, async |fleet, _| lasts(fleet, 2 * SHORT_LEASE).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_down_while_redis_is_emptied() {
    let plan = Plan {
        keeps: Keeps::WhatWasSaved,
        ..Plan::short_lease()
    };
    let happens = async |fleet: &mut Fleet, _: &mut Load| {
        fleet.redis.kill();
        fleet.redis.run().await;
        // Until after the fence: what is still missing then must not be taken for money that is left.
        lasts(fleet, 2 * SHORT_LEASE).await;
    };
    down_while(plan, happens).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_down_while_redis_is_set_back() {
    let plan = Plan {
        keeps: Keeps::WhatWasSaved,
        ..Plan::short_lease()
    };
    let happens = async |fleet: &mut Fleet, load: &mut Load| {
        // Of after the kill, and older than what the others spend now.
        fleet.redis.save();
        let saved = load.now();
        fleet.recharge(1, "rich", "after", 5).await.unwrap();
        load.passes("rich", &[0, 1], 20, saved, HEAL_MAX).await;
        fleet.redis.kill();
        fleet.redis.run().await;
        lasts(fleet, 2 * SHORT_LEASE).await;
    };
    down_while(plan, happens).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_gone_for_good() {
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        load.leave(2).await;
        fleet.sync(2).await.unwrap();
        fleet.kill(2).await;
        lasts(fleet, Duration::from_secs(1)).await;
    };
    // What it had leased is there for the others: they spend all that is left, after its lease.
    survive(Plan::short_lease(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stands_still_for_longer_than_its_lease() {
    let still = Cell::new(None);
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        let from = load.now();
        fleet.replicas[2].process().signal("-STOP").await;
        // Whatever was sent before is perhaps only carried out when it goes on.
        still.set(Some((from, load.now())));
        lasts(fleet, 2 * SHORT_LEASE).await;
        load.passes("rich", &[0, 1], 10, load.now(), HEAL_MAX).await;
        // The others have spent what it had leased by now. Its lease is over, and the clock is the first thing it asks.
        fleet.replicas[2].process().signal("-CONT").await;
    };
    let unsaid = |seen: &Seen| {
        let (from, to) = still.get().unwrap();
        at_risk(seen, 2, from, to)
    };
    survive_at_risk(Plan::short_lease(), fault, unsaid).await;
}
