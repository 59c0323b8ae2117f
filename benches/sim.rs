//! Runs the simulator, `tests/sim.rs`: `cargo sim`. A bench, as it is a program of its own that no test waits for, in a profile of its own.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a simulator that overflows or panics has found something, and its speed is measured in floats"
)]

#[path = "../tests"]
mod tests {
    pub(crate) mod sim;
}

use std::process::ExitCode;
use std::time::Instant;

use tests::sim;

const USAGE: &str = "what to simulate: FROM COUNT | SEED | teeth | endless FROM";

fn main() -> ExitCode {
    // cargo adds one of its own.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().ok();
    let began = Instant::now();
    let all_well = match words.as_slice() {
        ["teeth"] => sim::teeth(),
        ["endless", from] if let Some(from) = number(from) => sim::endless(from),
        [seed] if let Some(seed) = number(seed) => sim::trace(seed),
        [from, count] if let (Some(from), Some(count)) = (number(from), number(count)) => {
            sim::many(from, count)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("in {:.1} s", began.elapsed().as_secs_f64());
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
