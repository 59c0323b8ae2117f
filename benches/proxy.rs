//! What a proxied call costs: a minimal hyper proxy that does nothing else, nginx `proxy_pass`, and tollgate with everything
//! on, for the same request to the same upstream in one run.
//!
//! `cargo bench --bench proxy` (`-- --rounds N --seconds N`), about 75 seconds. The server under test has core 0, upstream and
//! load have core 1, so a server's figures are of one core that it does not share. Load is a closed loop of 32 connections, by
//! `wrk` if it is there. CPU is of the server's whole process tree, over completed requests. Rounds of all servers are
//! interleaved, each begins with another one; figures are medians over the rounds, and ratios are medians of the rounds' own
//! ratios, as a machine's speed drifts between rounds.

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
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::load::Load;
use crate::server::Server;

#[path = "proxy/load.rs"]
mod load;
#[path = "proxy/minimal.rs"]
mod minimal;
#[path = "proxy/server.rs"]
mod server;
#[path = "proxy/upstream.rs"]
mod upstream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The core of the server under test, and that of all else.
const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

const CONNECTIONS: usize = 32;

/// Fewer say nothing of the spread.
const ROUNDS_MIN: usize = 5;

#[derive(Parser)]
struct Options {
    /// Rounds; the medians are over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each server is measured in a round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is: the bench starts itself again for each part
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// What that part talks to
    #[arg(long, hide = true)]
    to: Option<SocketAddr>,
    /// The model that the load asks for
    #[arg(long, hide = true, default_value = FLAT)]
    model: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Upstream,
    Minimal,
    Load,
}

/// Priced by the call, and by the tokens that the upstream reports.
const FLAT: &str = "bench-flat";
const BY_TOKENS: &str = "bench-tokens";

/// What is measured: a server, and the model asked for, which only tollgate looks at.
struct Contestant {
    name: &'static str,
    model: &'static str,
    server: usize,
    rounds: Vec<Round>,
}

/// What one round of one contestant came to.
#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    cpu_micros: f64,
}

fn main() {
    let options = Options::parse();
    match (options.role, options.to) {
        (None, _) => compare(&options),
        (Some(Role::Upstream), _) => upstream::serve(),
        (Some(Role::Minimal), Some(to)) => minimal::serve(to),
        (Some(Role::Load), Some(to)) => {
            load::run_here(to, &options.model, Duration::from_secs(options.seconds));
        }
        (Some(_), None) => panic!("--role minimal and load need --to"),
    }
}

fn compare(options: &Options) {
    let rounds = options.rounds.max(ROUNDS_MIN);
    let dir = tempfile::tempdir().unwrap();
    let upstream = Server::upstream();
    let mut servers = vec![Server::minimal(upstream.at)];
    let mut contestants = vec![Contestant::new("minimal hyper proxy", FLAT, 0)];
    match Server::nginx(upstream.at, dir.path()) {
        Ok(server) => {
            contestants.push(Contestant::new("nginx proxy_pass", FLAT, servers.len()));
            servers.push(server);
        }
        Err(why) => println!("without nginx ({why}): apt-get install nginx-light"),
    }
    for (name, model) in [
        ("tollgate, price by call", FLAT),
        ("tollgate, price by tokens", BY_TOKENS),
    ] {
        contestants.push(Contestant::new(name, model, servers.len()));
    }
    servers.push(Server::tollgate(upstream.at, dir.path()));

    let load = Load::new(dir.path());
    println!(
        "{rounds} rounds of {} s each, {CONNECTIONS} connections, load by {}\n",
        options.seconds,
        load.name()
    );
    for contestant in &contestants {
        load.check(servers[contestant.server].at, contestant.model);
        load.run(servers[contestant.server].at, contestant.model, 1);
    }
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            // Each round begins with another one, so that none always comes after the same.
            let at = (round + turn) % contestants.len();
            let contestant = &mut contestants[at];
            let server = &servers[contestant.server];
            let before = server.cpu();
            let done = load.run(server.at, contestant.model, options.seconds);
            let cpu = server.cpu().saturating_sub(before);
            assert_eq!(done.complaint, None, "{}", contestant.name);
            contestant.rounds.push(Round {
                per_second: done.requests as f64 / done.time.as_secs_f64(),
                cpu_micros: cpu.as_secs_f64() * 1e6 / done.requests as f64,
            });
        }
    }
    print_table(&contestants);
}

impl Contestant {
    const fn new(name: &'static str, model: &'static str, server: usize) -> Self {
        Self {
            name,
            model,
            server,
            rounds: Vec::new(),
        }
    }

    /// The median of something over the rounds, and how far the rounds are apart.
    fn figure(&self, of: impl Fn(usize, &Round) -> f64) -> Figure {
        let rounds = self.rounds.iter().enumerate();
        let mut values: Vec<f64> = rounds.map(|(at, round)| of(at, round)).collect();
        values.sort_by(f64::total_cmp);
        Figure {
            median: f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]),
            least: values[0],
            most: values[values.len() - 1],
        }
    }
}

struct Figure {
    median: f64,
    least: f64,
    most: f64,
}

fn print_table(contestants: &[Contestant]) {
    let minimal = &contestants[0];
    let nginx = contestants.iter().find(|one| one.name.starts_with("nginx"));
    println!(
        "{:<28}{:>12}{:>14}{:>12}{:>16}{:>12}",
        "", "requests/s", "CPU us/req", "x nginx", "(least-most)", "x minimal"
    );
    for contestant in contestants {
        let cpu_over = |base: &Contestant| {
            contestant.figure(|at, round| round.cpu_micros / base.rounds[at].cpu_micros)
        };
        let (ratio, spread) = match nginx.map(cpu_over) {
            Some(over) => (
                format!("{:.2}", over.median),
                format!("({:.2}-{:.2})", over.least, over.most),
            ),
            None => ("-".into(), "-".into()),
        };
        println!(
            "{:<28}{:>12.0}{:>14.2}{ratio:>12}{spread:>16}{:>12.2}",
            contestant.name,
            contestant.figure(|_, round| round.per_second).median,
            contestant.figure(|_, round| round.cpu_micros).median,
            cpu_over(minimal).median,
        );
    }
}
