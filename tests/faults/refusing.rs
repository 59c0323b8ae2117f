//! Redis answers and refuses: no memory, a replica of another, loading, its scripts gone, its disk full.

use std::time::Duration;

use super::fleet::{Fleet, Plan};
use super::load::Load;
use super::{lasts, survive};
use crate::support::redis::{Keeps, Server};
use crate::support::tap::Mode;
use crate::support::{until, within};

/// How long it refuses: many intervals, and tries.
const REFUSES: Duration = Duration::from_millis(1_500);

/// A line of the server's `INFO`.
fn info(redis: &Server, section: &str, name: &str) -> Option<String> {
    let text: String = redis.try_command(&["INFO", section]).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(have, _)| *have == name)?;
    Some(value.trim().to_owned())
}

/// It refuses to write, and says so in this way.
fn refuses(redis: &Server, code: &str) {
    let error = redis
        .try_command::<String>(&["SET", "probe", "1"])
        .unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        let limit = |bytes| {
            let set = ["CONFIG", "SET", "maxmemory", bytes];
            fleet.redis.command::<String>(&set)
        };
        limit("1");
        refuses(&fleet.redis, "OOM");
        lasts(fleet, REFUSES).await;
        limit("0");
    };
    survive(Plan::default(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_as_the_replica_of_a_dead_master() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        // Nothing listens there.
        let of = ["REPLICAOF", "127.0.0.1", "1"];
        fleet.redis.command::<String>(&of);
        refuses(&fleet.redis, "READONLY");
        lasts(fleet, REFUSES).await;
        fleet.redis.command::<String>(&["REPLICAOF", "NO", "ONE"]);
    };
    survive(Plan::short_lease(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_for_a_while_after_a_restart() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        // A millisecond for each of these, and it looks at its connections all the time: it takes 2 s to load, and says so.
        let fill = "for i = 1, 2000 do redis.call('SET', 'filler:' .. i, i) end";
        fleet.redis.command::<()>(&["EVAL", fill, "0"]);
        fleet.redis.shut_down();
        fleet.redis.begin(&[
            "--key-load-delay",
            "1000",
            "--loading-process-events-interval-bytes",
            "1024",
        ]);
        let loading = async || (info(&fleet.redis, "persistence", "loading")? == "1").then_some(());
        until("it loads", loading).await;
        refuses(&fleet.redis, "LOADING");
        lasts(fleet, REFUSES).await;
        fleet.redis.answers().await;
    };
    let plan = Plan {
        keeps: Keeps::WhatWasSaved,
        ..Plan::short_lease()
    };
    survive(plan, fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_to_some_that_it_loads() {
    // As a load balancer before several does; the others go on.
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        let loading = Mode::Say("-LOADING Redis is loading the dataset in memory");
        fleet.replicas[0].tap.set(loading);
        fleet.replicas[1].tap.set(loading);
        lasts(fleet, REFUSES).await;
        fleet.set_all(Mode::Pass);
    };
    survive(Plan::default(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_scripts_gone_again_and_again() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        let mut flushes = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..100 {
            flushes.tick().await;
            fleet.redis.command::<String>(&["SCRIPT", "FLUSH"]);
        }
        lasts(fleet, Duration::ZERO).await;
    };
    survive(Plan::default(), fault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_disk_refuses() {
    let fault = async |fleet: &mut Fleet, _: &mut Load| {
        let redis = &fleet.redis;
        let status = || info(redis, "persistence", "rdb_last_bgsave_status");
        // It writes on only if its last dump worked; and cannot put one in the place of a directory.
        let save = ["CONFIG", "SET", "save", "3600 1000000"];
        redis.command::<String>(&save);
        let dump = redis.dir().join("dump.rdb");
        std::fs::create_dir(&dump).unwrap();
        redis.command::<String>(&["BGSAVE"]);
        let failed = async || (status()? == "err").then_some(());
        within(Duration::from_secs(10), "a dump fails", failed).await;
        refuses(redis, "MISCONF");
        lasts(fleet, REFUSES).await;
        std::fs::remove_dir(&dump).unwrap();
        redis.command::<String>(&["BGSAVE"]);
        let worked = async || (status()? == "ok").then_some(());
        within(Duration::from_secs(10), "a dump works", worked).await;
    };
    survive(Plan::default(), fault).await;
}
