//! What a question costs: Envoy alone, Envoy with its own local rate limit, Envoy that asks a tonic service which always says yes, and
//! Envoy that asks tollgate, for the same request to the same upstream in one run.
//!
//! `cargo bench-envoy` (`-- --rounds N --seconds N --rate N`), about two and a half minutes. Envoy comes from the tests' environment: run
//! `tests/run` once. Envoy and whom it asks have core 0, upstream and load have core 1. Load is an open loop: requests begin at a fixed
//! rate whether or not earlier ones have ended, and a request's time is counted from when it was due. The always-yes service is what
//! tonic makes of it by itself; it reads the same messages, the access log among them, and decides, holds and settles nothing. What Envoy
//! itself has to do with an answer is seen beside a yes that says all that tollgate's does.
//! Rounds are interleaved; figures are medians over the rounds, CPU time is for a request.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench measures time in floats and may end with a panic"
)]

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

use crate::parts::Part;

#[path = "envoy/load.rs"]
mod load;
#[path = "envoy/parts.rs"]
mod parts;
#[path = "proxy/upstream.rs"]
mod upstream;
#[path = "envoy/yes.rs"]
mod yes;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The core of what is measured, and that of all else.
const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// Fewer say nothing of the spread.
const ROUNDS_MIN: usize = 5;

#[derive(Parser)]
struct Options {
    /// Rounds; the medians are over them
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each is measured in a round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Requests per second
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is: the bench starts itself again for each part
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// What that part talks to
    #[arg(long, hide = true)]
    to: Option<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Upstream,
    Yes,
    FullYes,
    Load,
}

/// What is measured: an Envoy, and whom it asks.
struct Contestant {
    name: &'static str,
    envoy: Part,
    asked: Option<Part>,
    rounds: Vec<Round>,
}

/// What one round of one contestant came to, in microseconds.
#[derive(Clone, Copy)]
struct Round {
    p50: f64,
    p99: f64,
    envoy: f64,
    asked: f64,
}

fn main() {
    let options = Options::parse();
    match (options.role, options.to) {
        (None, _) => compare(&options),
        (Some(Role::Upstream), _) => upstream::serve(),
        (Some(Role::Yes), _) => yes::serve(false),
        (Some(Role::FullYes), _) => yes::serve(true),
        (Some(Role::Load), Some(to)) => load::run_here(to, options.rate, options.seconds),
        (Some(Role::Load), None) => panic!("--role load needs --to"),
    }
}

fn compare(options: &Options) {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Part::own(LOAD_CORE, "upstream");
    let yes = Part::own(SERVER_CORE, "yes");
    let full_yes = Part::own(SERVER_CORE, "full-yes");
    let tollgate = Part::tollgate(dir.path());
    let envoy = |name: &str, filter: &str, asked: Option<&Part>| {
        Part::envoy(
            &dir.path().join(name),
            filter,
            asked.map(|it| it.at),
            upstream.at,
        )
    };
    let limit = parts::LOCAL_RATE_LIMIT;
    let asks = parts::EXT_AUTHZ;
    let alone = envoy("alone", "", None);
    let limited = envoy("limited", limit, None);
    let with_yes = envoy("yes", asks, Some(&yes));
    let with_full_yes = envoy("full-yes", asks, Some(&full_yes));
    let with_tollgate = envoy("tollgate", asks, Some(&tollgate));
    let mut contestants = [
        Contestant::new("Envoy alone", alone, None),
        Contestant::new("Envoy, local rate limit", limited, None),
        Contestant::new("Envoy + always yes (tonic)", with_yes, Some(yes)),
        Contestant::new(
            "Envoy + the same, full answer",
            with_full_yes,
            Some(full_yes),
        ),
        Contestant::new("Envoy + tollgate", with_tollgate, Some(tollgate)),
    ];
    let rounds = options.rounds.max(ROUNDS_MIN);
    println!(
        "{rounds} rounds of {} s each, {} requests/s, open loop\n",
        options.seconds, options.rate
    );
    for contestant in &contestants {
        load::run(contestant.envoy.at, options.rate, 1);
    }
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            // Each round begins with another one, so that none always comes after the same.
            let at = (round + turn) % contestants.len();
            contestants[at].measure(options);
        }
    }
    print_table(&contestants);
}

impl Contestant {
    const fn new(name: &'static str, envoy: Part, asked: Option<Part>) -> Self {
        Self {
            name,
            envoy,
            asked,
            rounds: Vec::new(),
        }
    }

    fn measure(&mut self, options: &Options) {
        let cpu = |part: &Part| part.cpu().as_secs_f64() * 1e6;
        let asked = |it: &Self| it.asked.as_ref().map_or(0.0, cpu);
        let before = (cpu(&self.envoy), asked(self));
        let done = load::run(self.envoy.at, options.rate, options.seconds);
        let after = (cpu(&self.envoy), asked(self));
        assert_eq!(done.failed, 0, "{}", self.name);
        let requests = done.requests as f64;
        self.rounds.push(Round {
            p50: done.p50_micros,
            p99: done.p99_micros,
            envoy: (after.0 - before.0) / requests,
            asked: (after.1 - before.1) / requests,
        });
    }

    /// The median of something over the rounds.
    fn median(&self, of: impl Fn(usize, &Round) -> f64) -> f64 {
        let rounds = self.rounds.iter().enumerate();
        let mut values: Vec<f64> = rounds.map(|(at, round)| of(at, round)).collect();
        values.sort_by(f64::total_cmp);
        f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
    }
}

fn print_table(contestants: &[Contestant]) {
    let (alone, yes) = (&contestants[0], &contestants[2]);
    println!(
        "{:<30}{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "",
        "p50 us",
        "p99 us",
        "+p50 us",
        "+p99 us",
        "Envoy us",
        "asked us",
        "both us",
        "both x",
        "asked x"
    );
    for contestant in contestants {
        // Beside the one that asks who always says yes, of the same round.
        let over = |of: fn(&Round) -> f64| match contestant.asked {
            Some(_) => {
                let ratio = contestant.median(|at, round| of(round) / of(&yes.rounds[at]));
                format!("{ratio:.2}")
            }
            None => "-".into(),
        };
        let both = |round: &Round| round.envoy + round.asked;
        println!(
            "{:<30}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>10.1}{:>10.1}{:>10.1}{:>10}{:>10}",
            contestant.name,
            contestant.median(|_, round| round.p50),
            contestant.median(|_, round| round.p99),
            contestant.median(|at, round| round.p50 - alone.rounds[at].p50),
            contestant.median(|at, round| round.p99 - alone.rounds[at].p99),
            contestant.median(|_, round| round.envoy),
            contestant.median(|_, round| round.asked),
            contestant.median(|_, round| both(round)),
            over(both),
            over(|round| round.asked),
        );
    }
}
