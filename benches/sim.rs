//! The simulator at length.
#![allow(warnings, clippy::all)]
#[path = "../tests"]
mod tests {
    pub mod sim;
}
use tests::sim;
fn main() {
    let args: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let start = std::time::Instant::now();
    match args[..] {
        [seed] => sim::trace(seed),
        [0, 0, most] => sim::teeth(most),
        [from, count] => sim::many(from, count),
        _ => println!("sim SEED | sim FROM COUNT"),
    }
    println!("{:?}", start.elapsed());
}
