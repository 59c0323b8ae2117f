//! What lies between the replicas and Redis: answers lost after the command was carried out, a partition, a slow wire.

use std::cell::Cell;
use std::time::Duration;

use super::books::check_none_charged;
use super::fleet::{Fleet, HEAL_MAX, Plan, SHORT_LEASE};
use super::load::{Load, Seen};
use super::{at_risk, lasts, survive, survive_at_risk};
use crate::support::tap::Mode;
use crate::support::within;

/// Waits until each wire has lost so many answers.
async fn lose(fleet: &Fleet, count: u64) {
    let lost = async || {
        let all = fleet
            .replicas
            .iter()
            .all(|replica| replica.tap.lost() >= count);
        all.then_some(())
    };
    let what = format!("{count} answers are lost to each replica");
    within(HEAL_MAX, &what, lost).await;
}

async fn answers_are_lost(every: u64, reset: bool) {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        fleet.set_all(Mode::LoseAnswers { every, reset });
        lasts(fleet, Duration::from_secs(2)).await;
        lose(fleet, 3).await;
        fleet.set_all(Mode::Pass);
    };
    survive(Plan::default(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_lost_with_its_connection() {
    answers_are_lost(1, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_lost_on_connections_that_stay() {
    answers_are_lost(1, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_third_answer_is_lost() {
    answers_are_lost(3, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_answers_are_lost_again_and_again() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        for round in 1..=30 {
            for replica in &fleet.replicas {
                replica.tap.lose_next(1);
            }
            lose(fleet, round).await;
        }
        lasts(fleet, Duration::ZERO).await;
    };
    survive(Plan::default(), fault).await;
}

/// One replica is cut off for longer than the lease, in some way; the others go on.
async fn one_is_cut_off(mode: Mode) {
    let away = Cell::new(None);
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        let from = load.now();
        fleet.replicas[0].tap.set(mode);
        lasts(fleet, 2 * SHORT_LEASE).await;
        let to = load.now();
        away.set(Some((from, to)));
        // The others have their money, and no word is missing for it.
        load.passes("rich", &[1, 2], 10, to, Duration::from_secs(5))
            .await;
        fleet.replicas[0].tap.set(Mode::Pass);
    };
    let plan = Plan::short_lease();
    let cut = |seen: &Seen| {
        let (from, to) = away.get().unwrap();
        at_risk(seen, 0, from, to)
    };
    let seen = survive_at_risk(plan, fault, cut).await;
    let (from, to) = away.get().unwrap();
    let within = |call: &super::load::Call| call.sent > from && call.answered < to;
    let others = seen.count(|call| within(call) && call.replica != 0 && &*call.account == "rich");
    let passed = seen.count(|call| {
        within(call) && call.replica != 0 && &*call.account == "rich" && call.is_charged()
    });
    assert_eq!(
        passed,
        others,
        "the others were held up\n{}",
        seen.summary()
    );
    // Its own clock stops it before the others are given what it had leased.
    let over = from.plus(SHORT_LEASE);
    check_none_charged(&seen, |call| {
        call.replica == 0 && call.sent > over && call.answered < to
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_cut_off_with_its_connections() {
    one_is_cut_off(Mode::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_cut_off_and_its_messages_arrive_late() {
    one_is_cut_off(Mode::Stall).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_cut_off_and_its_messages_disappear() {
    one_is_cut_off(Mode::Swallow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_wire_is_no_outage() {
    // 120 ms a round trip, where an interval is 50 ms and 300 ms are too slow.
    let fault = async |fleet: &mut Fleet, load: &mut Load| {
        fleet.set_all(Mode::Slow(Duration::from_millis(60)));
        let slow = load.now();
        lasts(fleet, Duration::from_secs(2)).await;
        load.passes("rich", &fleet.numbers(), 5, slow, HEAL_MAX)
            .await;
        fleet.set_all(Mode::Pass);
    };
    survive(Plan::default(), fault).await;
}
