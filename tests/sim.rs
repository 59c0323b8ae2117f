//! The deterministic simulator.

mod backend;
pub(crate) mod dice;
mod driver;
mod faults;
mod mutation;
mod promises;
mod replica;
mod setup;
mod store;
mod world;

use mutation::Mutation;
use world::{Done, World};

/// Lives through one seed. A failure says how to see it again.
fn live(seed: u64, mutation: Option<Mutation>) -> Result<Done, String> {
    let mut world = World::new(seed, mutation, false);
    match world.run() {
        Ok(()) => Ok(world.done),
        Err(broken) => Err(format!("seed {seed}: {broken}")),
    }
}

/// One seed with its trace.
pub fn trace(seed: u64) {
    let mut world = World::new(seed, None, true);
    let end = world.run();
    for line in world.traced() {
        println!("{line}");
    }
    println!("seed {seed}: {end:?}");
}

pub fn many(from: u64, count: u64) {
    let mut done = Done::default();
    let mut failed = 0;
    for seed in from..from + count {
        match live(seed, None) {
            Ok(did) => done.add(&did),
            Err(how) => {
                failed += 1;
                println!("{how}");
            }
        }
    }
    println!("{count} seeds, {failed} failed: {done:?}");
}

/// Which mistakes are found, and how soon.
pub fn teeth(most: u64) {
    for mutation in mutation::ALL {
        let mut found = None;
        for seed in 0..most {
            if let Err(how) = live(seed, Some(*mutation)) {
                found = Some((seed, how));
                break;
            }
        }
        match found {
            Some((seed, how)) => println!(
                "{mutation:?}: {}: {}",
                seed + 1,
                how.chars().take(160).collect::<String>()
            ),
            None => println!("{mutation:?}: NOT FOUND in {most}"),
        }
    }
}
