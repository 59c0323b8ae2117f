//! The deterministic simulator: the real machines ([`tollgate::sync::line`], [`tollgate::books::remember`], [`tollgate::ledger`],
//! [`tollgate::store::desk`], the engine) in simulated time, with everything going wrong that may. One seed, one run.
//!
//! A run has up to five replicas and three accounts; calls of every kind; a backend that gives commands and tries them again; and a
//! store that answers late, twice or never, freezes, begins another history, falls back to what it was, of all accounts or of one, is
//! emptied, and is emptied without a word. Replicas die at any step, with their file or without it, are cut off, leave and come back
//! under their old name or a new one; each has clocks of its own that drift, and a time of day that is set. After every step
//! [`promises`] holds what was promised (DESIGN.md section 2) against what was really spent; at the end, once everything is well
//! again, [`rest`] asks that all of it was told, put back and given back.
//!
//! | | |
//! |---|---|
//! | `cargo sim FROM COUNT` | so many seeds, on all cores; the test command runs 0 to 9,999 |
//! | `cargo sim SEED` | one seed, with all that happens in it: how a failure is seen again |
//! | `cargo sim teeth` | every deliberate mistake of [`mutation`] is found within its number of seeds |
//! | `cargo sim endless FROM` | until a seed fails |
//!
//! What `sync/drive.rs`, `sync/rejoin.rs` and `books.rs` do around those machines is done here by [`driver`], [`healing`] and [`jobs`],
//! one step at a time; that these are the same steps is what the tests of real processes are for (`tests/replicas.rs`,
//! `tests/faults.rs`).

mod backend;
mod calls;
pub(crate) mod dice;
mod driver;
mod faults;
mod healing;
mod jobs;
mod mutation;
mod promises;
mod replica;
mod rest;
mod setup;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use mutation::Mutation;
use world::{Done, World};

/// How many seeds `endless` lives through between two lines of progress.
const PROGRESS: u64 = 20_000;

/// Lives through one seed. A failure says what was broken, and when.
fn live(seed: u64, mutation: Option<Mutation>) -> Result<Done, String> {
    let run = || {
        let mut world = World::new(seed, mutation, false);
        world.run().map(|()| world.done)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(lived) => lived.map_err(|broken| broken.to_string()),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("a panic: {}", words.unwrap_or("without words")))
        }
    }
}

/// One seed, with all that happens in it.
pub(crate) fn trace(seed: u64) -> bool {
    let mut world = World::new(seed, None, true);
    let end = world.run();
    for line in world.traced() {
        println!("{line}");
    }
    match end {
        Ok(()) => println!("seed {seed} holds"),
        Err(ref broken) => println!("seed {seed}: {broken}"),
    }
    end.is_ok()
}

/// So many seeds, on all cores. Each that fails is printed with how to see it again.
pub(crate) fn many(from: u64, count: u64) -> bool {
    let (next, failed) = (AtomicU64::new(from), AtomicU64::new(0));
    let done = Mutex::new(Done::default());
    let work = || {
        let mut own = Done::default();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= from.saturating_add(count) {
                break;
            }
            match live(seed, None) {
                Ok(did) => own.add(&did),
                Err(how) => {
                    failed.fetch_add(1, Relaxed);
                    println!("seed {seed}: {how}\n    to see it again: cargo sim {seed}");
                }
            }
        }
        done.lock().unwrap().add(&own);
    };
    on_all_cores(&work);
    let (failed, done) = (failed.into_inner(), done.into_inner().unwrap());
    println!("{count} seeds from {from}, {failed} failed: {done:?}");
    failed == 0
}

/// Goes on until a seed fails.
pub(crate) fn endless(mut from: u64) -> bool {
    while many(from, PROGRESS) {
        from += PROGRESS;
    }
    false
}

/// Whether every deliberate mistake is found within its number of seeds.
pub(crate) fn teeth() -> bool {
    let next = AtomicU64::new(0);
    let all_found = AtomicBool::new(true);
    // What a mistake breaks may be an assertion, too: hundreds of backtraces say no more than the line below.
    std::panic::set_hook(Box::new(|_| {}));
    let work = || {
        while let Some((mutation, within)) = mutation::ALL.get(next.fetch_add(1, Relaxed) as usize)
        {
            let found =
                (0..*within).find_map(|seed| Some((seed, live(seed, Some(*mutation)).err()?)));
            match found {
                Some((seed, how)) => {
                    let how: String = how.chars().take(110).collect();
                    println!("{mutation:?}: {} of {within} seeds: {how}", seed + 1);
                }
                None => {
                    all_found.store(false, Relaxed);
                    println!("{mutation:?}: NOT FOUND in {within} seeds");
                }
            }
        }
    };
    on_all_cores(&work);
    all_found.into_inner()
}

fn on_all_cores(work: &(impl Fn() + Sync)) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
}
