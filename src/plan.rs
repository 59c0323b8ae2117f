//! What a deployment will cost Redis and how it will behave, worked out before it is built: `tollgate simulate`.
//!
//! [`plan`] needs no Redis and no network. It lets the machines that serve (the engine, a replica's line to the store, the store's
//! rules) live in virtual time, one account after the other, each with all its replicas: one account for each stratum of accounts that
//! are called about as often, counted as many times as there are accounts in it. What Redis pays for each word was measured ([`Costs`]);
//! what follows by a formula stands beside what was counted. A test drives real replicas over a real Redis and compares Redis' own
//! counts of commands with the forecast (`tests/simulate.rs`). Nothing fails in it: what faults do is for the fault tests to show.
//!
//! # What it comes down to
//!
//! Nothing follows the rate of calls: in each interval a replica says what is new about an account, be it one call or a thousand. So
//! messages per second are, summed over accounts and over their replicas with λ calls per second at each,
//!
//! ```text
//!   (1 − e^(−λ·interval)) / interval     something was new
//! + 2·λ·e^(−λ·idle_return)               a lease given back as nobody called, and fetched by the next call
//! ```
//!
//! - *A hot account* costs `replicas ÷ interval`, whatever its rate: ten messages a second for each replica that serves it at 100 ms.
//! - *A cold account* costs three messages and a load for each call; at rest, memory alone.
//! - *What one Redis bears.* A message takes 54 µs of its one thread, so two thirds of that thread are 12,000 messages a second: 1,200
//!   pairs of account and replica that are called all the time at an interval of 100 ms, or 12,000 at a second.
//! - *What no Cluster spreads.* An account is on one shard: `its replicas ÷ interval × 54 µs` has to stay below that too, so 1,200
//!   replicas of one hot account at 100 ms, 12,000 at a second. And the feed of spend is on one shard: 10 µs for each message with new
//!   spend, so some 60,000 of those a second are the most that one store bears, with however many shards.
//! - *What each shard pays again.* Every replica asks every server once a second whether its history goes on, 9.5 µs, and has two
//!   connections, 76 kB: of 10,000 replicas a tenth of a thread and 0.8 GB.
//! - *Memory* is usage by hour, which is kept for good: 590 bytes for each account, key, model, hour and replica that had calls. A call
//!   that finds nobody else in its hour leaves a row of its own. It fills a Redis long before messages keep it busy.
//!
//! # From 3 replicas to 10,000
//!
//! Calls are spread over accounts by Zipf's law, and evenly over replicas, but for the part that is sticky, which goes to one replica of
//! each account. Memory is that after 30 days. A shard may be two thirds busy and has 16 GiB. `-` is: no number is enough.
//!
//! ```text
//! replicas   accounts    calls  sticky  interval  messages   redis cpu   memory    shards  calls that wait for a lease
//!        3      1,000     100/s    0 %   100 ms       160/s      0.9 %   1.3 GB       1      32 %
//!        3    100,000  10,000/s    0 %   100 ms    12,045/s       63 %   134 GB       8      24 %
//!       30    100,000  10,000/s    0 %   100 ms    17,134/s      102 %   1.1 TB      64      42 %
//!      300  1,000,000 100,000/s    0 %   100 ms   195,522/s    1,314 %    32 TB       -      52 %
//!      300  1,000,000 100,000/s   90 %   100 ms   100,063/s      571 %   6.2 TB     362      21 %
//!    1,000 10,000,000  10,000/s   90 %   100 ms    17,288/s      133 %   3.4 TB     195      49 %
//!   10,000 10,000,000    1 M/s     0 %   100 ms 2,327,349/s   18,222 %   664 TB       -      67 %
//!   10,000 10,000,000    1 M/s    90 %   100 ms 1,016,489/s    6,841 %   110 TB       -      29 %
//!   10,000 10,000,000    1 M/s    90 %      1 s   868,111/s    5,915 %   110 TB       -      29 %
//! ```
//!
//! - **Three replicas, a thousand accounts**: Redis has nothing to do. A third of the calls are of accounts that were not called at that
//!   replica for ten seconds, and wait for one round trip.
//! - **A hundred thousand accounts at 10,000 calls a second** are what one Redis bears, and where it ends: its thread is at two thirds,
//!   and its memory, with usage by hour of a month, has long been full. Here Cluster begins; eight shards are for memory, one would do
//!   for messages. Ten times as many replicas make it half as many messages more, and eight times the memory: the same calls leave
//!   rows at more of them.
//! - **Three hundred replicas, a million accounts**: without stickiness no Cluster has the memory. With nine calls in ten at the
//!   account's own replica, messages are halved and memory is a fifth. Whoever routes calls by account gains more by that than by
//!   any interval.
//! - **A thousand replicas, ten million accounts, few calls**: each call finds nobody else, so it is nearly two messages whatever the
//!   interval; a Cluster of three shards has the processors for it, and of two hundred the memory for a month of rows.
//! - **Ten thousand replicas, ten million accounts, a million calls a second** are beyond one store, whatever its shards: messages with
//!   new spend are many times what the shard with the feed bears. A longer interval hardly helps, since most messages are of
//!   accounts that are called less than once in it. They are to be divided: groups of some hundred replicas, each with accounts of its
//!   own and its own store (or its own prefix and Cluster), and calls routed to groups by account. Ten million accounts alone are
//!   no burden: at rest they take 46 GB.
//!
//! Which interval: 100 ms shows spend and the demand for rates early, and costs a hot account ten messages a second; what is not published
//! yet is bounded by it. A change (a recharge, a revocation) is told and takes a round trip or two at any interval. One second is for
//! hundreds of replicas that all serve the same hot accounts.

#![expect(
    clippy::float_arithmetic,
    reason = "rates, times and sizes: no money of anybody"
)]

mod advice;
mod arithmetic;
mod costs;
mod deployment;
mod figures;
mod histogram;
mod number;
mod random;
mod sample;
mod spread;
mod totals;
mod world;

pub use arithmetic::{Load, Memory, SHARDS_MAX, Shards, TooMuch};
pub use costs::Costs;
pub use deployment::{Deployment, Problem, RedisSize};
pub use figures::{Basis, Figure, Section, Value};
pub use spread::Spread;
pub use totals::{Rates, Totals};

use std::time::Duration;

use arithmetic::Messages;
use number::real;
use sample::Sample;
use spread::{Places, Stratum};
use world::Tide;

/// A forecast.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is for.
    pub deployment: Deployment,
    /// What all accounts together ask for.
    pub totals: Totals,
    /// How many shards bear it.
    pub shards: Shards,
    /// From one round to the next: the interval, or longer if a round takes longer.
    pub period: Duration,
    /// Messages per second by the formula alone, to be compared with those that were simulated.
    pub formula: f64,
    sample: Sample,
}

/// Works a forecast out; or says everything that cannot be, with what would work.
pub fn plan(deployment: &Deployment) -> Result<Plan, Vec<Problem>> {
    let problems = deployment.problems();
    if !problems.is_empty() {
        return Err(problems);
    }
    let strata = deployment
        .spread
        .strata(deployment.accounts, deployment.rate());
    let places = Places::new(deployment.replicas, deployment.sticky());
    let tide = tide(deployment, &places, &strata);
    let sample = Sample::take(deployment, &places, tide, &strata);
    let totals = Totals::of(deployment, &places, &tide, &sample);
    let shards = size(deployment, &totals.load, totals.memory.all());
    let formula = foreseen(deployment, &places, &strata, tide.period).all();
    Ok(Plan {
        deployment: deployment.clone(),
        totals,
        shards,
        period: tide.period,
        formula,
        sample,
    })
}

fn size(deployment: &Deployment, load: &Load, bytes: f64) -> Shards {
    let busy = f64::from(deployment.redis.busy) / 100.0;
    let memory = real(deployment.redis.memory_mib) * 1_048_576.0;
    arithmetic::shards(load, bytes, busy, memory)
}

/// Messages per second of all accounts by the formula.
fn foreseen(
    deployment: &Deployment,
    places: &Places,
    strata: &[Stratum],
    period: Duration,
) -> Messages {
    let mut all = Messages::default();
    for stratum in strata {
        let accounts = real(stratum.accounts);
        let of = Messages::of(stratum.rate, places, period, &deployment.sync);
        all.dirty += accounts * of.dirty;
        all.returned += accounts * of.returned;
        all.fetched += accounts * of.fetched;
        all.beats += accounts * of.beats;
        all.loads += accounts * of.loads;
    }
    all
}

/// What all accounts do to each one's messages, by the formula: how long rounds take, and how busy Redis is.
fn tide(deployment: &Deployment, places: &Places, strata: &[Stratum]) -> Tide {
    let costs = &deployment.costs;
    let interval = deployment.sync.times.interval;
    let each = costs.published_us();
    let messages = foreseen(deployment, places, strata, interval);
    let hottest = strata.first().map_or(0.0, |stratum| {
        Messages::of(stratum.rate, places, interval, &deployment.sync).all()
    });
    let of_account = each - costs.touch_us;
    let load = Load {
        accounts: messages.all() * of_account / 1e6,
        hottest: hottest * of_account / 1e6,
        feed: messages.dirty * costs.touch_us / 1e6,
        deliveries: 0.0,
        watch: f64::from(deployment.replicas) * costs.watch_us / 1e6,
    };
    // As many shards as it takes. If none are enough, what is asked of Redis is told as if it kept up: what it then really does would
    // only tell how it fails.
    let slow = match size(deployment, &load, 0.0) {
        Shards::ForCpu(shards) | Shards::ForMemory(shards) => {
            1.0 / (1.0 - load.busiest(shards).min(0.95))
        }
        Shards::None(_) => 0.0,
    };
    let replicas = f64::from(deployment.replicas);
    let period = arithmetic::period(
        interval,
        deployment.round_trip,
        each * slow.max(1.0) + costs.replica_us,
        |period| foreseen(deployment, places, strata, period).dirty / replicas,
    );
    let messages = foreseen(deployment, places, strata, period);
    Tide {
        period,
        round: messages.dirty / replicas * period.as_secs_f64(),
        slow,
    }
}

#[cfg(test)]
mod tests;
