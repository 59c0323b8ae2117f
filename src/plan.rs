//! What a deployment will cost Redis and how it will behave, worked out before it is built. PAGE
//!
//! [`plan`] needs no Redis and no network.

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
