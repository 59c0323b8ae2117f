//! What can be worked out without a simulation: how often who has something to say, what stands where, and how many shards it takes.

use std::time::Duration;

use super::number::real;
use super::spread::Places;
use super::world::PIPELINE;
use crate::sync::{Settings, Times};

/// The probability that calls which come at random so many times a second come at least once in a time.
pub(super) fn comes(rate: f64, seconds: f64) -> f64 {
    -(-rate * seconds).exp_m1()
}

/// Messages per second about one account, over all its replicas, if calls come at random and money is plenty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Messages {
    /// With news of calls: in each round, of each replica that was called since the last.
    pub(super) dirty: f64,
    /// Leases that go back as nobody calls.
    pub(super) returned: f64,
    /// Leases that are fetched by the next call after that.
    pub(super) fetched: f64,
    /// That a replica lives, while its lease is neither used nor given back.
    pub(super) beats: f64,
    /// Times that an account is taken up (no message, but as good as one).
    pub(super) loads: f64,
}

impl Messages {
    /// For each replica with λ calls per second: `(1 − e^(−λ·period)) / period` rounds with news; `λ·e^(−λ·idle)` leases given back,
    /// and as many fetched; `λ·e^(−λ·unload)` times taken up; and a heartbeat for each third of a lease between two calls, as long as
    /// the lease is not given back.
    pub(super) fn of(rate: f64, places: &Places, period: Duration, settings: &Settings) -> Self {
        let Times { idle, lease, .. } = settings.times;
        let period = period.as_secs_f64();
        let (idle, beat) = (idle.as_secs_f64(), lease.as_secs_f64() / 3.0);
        let unload = settings.unload_after.as_secs_f64();
        let over = |of: &dyn Fn(f64) -> f64| places.sum(|part| of(rate * part));
        let returned = over(&|rate| rate * (-rate * idle).exp());
        Self {
            dirty: over(&|rate| comes(rate, period) / period),
            returned,
            fetched: returned,
            beats: over(&|rate| beats(rate, beat, idle)),
            loads: over(&|rate| rate * (-rate * unload.max(idle)).exp()),
        }
    }

    /// All messages.
    pub(super) fn all(&self) -> f64 {
        self.dirty + self.returned + self.fetched + self.beats
    }
}

/// `Σ λ·e^(−λ·k·beat)` over all k ≥ 1 with `k·beat < idle`.
fn beats(rate: f64, beat: f64, idle: f64) -> f64 {
    let (mut sum, mut at) = (0.0, beat);
    // An hour's lease at most, and a beat is a third of a second at least.
    while at < idle && at > 0.0 {
        sum += rate * (-rate * at).exp();
        at += beat;
    }
    sum
}

/// How many pipelines a round takes that has so many messages in the mean, and none at all with this probability.
pub(super) fn pipelines(messages: f64, none: f64) -> f64 {
    let some = 1.0 - none;
    let full = messages / PIPELINE;
    // Messages beyond the last full pipeline begin another: half of one, in the mean.
    some * if full > 1.0 { full + 0.5 } else { 1.0 }
}

/// The time from one round to the next: the interval, or what a round takes if that is longer.
pub(super) fn period(
    interval: Duration,
    round_trip: Duration,
    message_us: f64,
    messages_per_second: impl Fn(Duration) -> f64,
) -> Duration {
    let least = interval.as_secs_f64();
    let mut period = least;
    // What is published in a round grows slower than the time between rounds, so this settles; and the mean of two steps keeps it from
    // swinging.
    for _ in 0..64 {
        let messages = messages_per_second(super::number::seconds(period)) * period;
        let takes =
            pipelines(messages, 0.0) * round_trip.as_secs_f64() + messages * message_us / 1e6;
        period = (period + takes.max(least)) / 2.0;
    }
    super::number::seconds(period.max(least))
}

/// What keeps one Redis busy, in parts of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// What concerns single accounts, and is spread over shards.
    pub accounts: f64,
    /// Of that, the hottest account's: it stays on one shard.
    pub hottest: f64,
    /// The feed of spend, which stands on one shard.
    pub feed: f64,
    /// What is told to all replicas.
    pub deliveries: f64,
    /// That each replica asks each server for its history, in each second: as much on each shard, however many there are.
    pub watch: f64,
}

impl Load {
    /// On one Redis.
    pub fn all(&self) -> f64 {
        self.spread() + self.watch
    }

    fn spread(&self) -> f64 {
        self.accounts + self.feed + self.deliveries
    }

    /// The busiest of so many shards, if the slots are spread so that all are as busy as they can be.
    pub fn busiest(&self, shards: u64) -> f64 {
        let each = self.spread() / real(shards);
        let told = self.deliveries / real(shards);
        self.watch + each.max(self.feed + told).max(self.hottest + told)
    }
}

/// What stands in Redis, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Accounts with their keys and first entries.
    pub accounts: f64,
    /// Replicas' rows and their usage of all time.
    pub rows: f64,
    /// Usage by hour.
    pub hours: f64,
    /// Recharges in ledgers.
    pub recharges: f64,
    /// Connections.
    pub connections: f64,
}

impl Memory {
    /// All of it.
    pub fn all(&self) -> f64 {
        self.accounts + self.rows + self.hours + self.recharges + self.connections
    }
}

/// More masters than a Redis Cluster is recommended to have.
pub const SHARDS_MAX: u64 = 1_000;

/// How many shards bear a load, and what asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// So many, for want of processors; fewer would do for memory.
    ForCpu(u64),
    /// So many, for want of memory; fewer would do for processors.
    ForMemory(u64),
    /// No number: this alone is too much for one shard.
    None(TooMuch),
}

/// What cannot be spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMuch {
    /// One account.
    Account,
    /// The feed of spend.
    Feed,
    /// All of it.
    All,
}

/// The fewest shards of which none is busier than `busy` or holds more than `memory` bytes.
pub(super) fn shards(load: &Load, bytes: f64, busy: f64, memory: f64) -> Shards {
    let too_much = |part: f64| part + load.watch > busy;
    if too_much(load.hottest) {
        return Shards::None(TooMuch::Account);
    }
    if too_much(load.feed) {
        return Shards::None(TooMuch::Feed);
    }
    let fits = |shards: &u64| load.busiest(*shards) <= busy;
    let by_cpu = (1..=SHARDS_MAX).find(fits);
    let by_memory = (1..=SHARDS_MAX).find(|shards| bytes / real(*shards) <= memory);
    match (by_cpu, by_memory) {
        (Some(cpu), Some(memory)) if memory > cpu => Shards::ForMemory(memory),
        (Some(cpu), Some(_)) => Shards::ForCpu(cpu),
        _ => Shards::None(TooMuch::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn near(got: f64, want: f64) {
        assert!(
            (got - want).abs() <= 1e-6 + 1e-3 * want.abs(),
            "{got} is not {want}"
        );
    }

    fn messages(rate: f64, replicas: u32) -> Messages {
        let places = Places::new(replicas, 0.0);
        let settings = Settings::default();
        Messages::of(rate, &places, settings.times.interval, &settings)
    }

    #[test]
    fn all_dirty_is_a_message_for_each_replica_and_interval() {
        for replicas in [1, 3, 1_000] {
            // A thousand calls a second at each.
            let hot = messages(1_000.0 * f64::from(replicas), replicas);
            near(hot.all(), 10.0 * f64::from(replicas));
            near(hot.loads, 0.0);
            // Ten or a hundred times as many calls change nothing.
            near(
                messages(100_000.0 * f64::from(replicas), replicas).all(),
                hot.all(),
            );
        }
    }

    #[test]
    fn none_dirty_is_nothing_and_a_cold_call_is_three_messages_and_a_load() {
        assert_eq!(messages(0.0, 3), Messages::default());
        let cold = messages(1e-6, 3);
        near(cold.all() / 1e-6, 3.0);
        near(cold.loads / 1e-6, 1.0);
    }

    #[test]
    fn heartbeats_are_for_leases_that_outlive_a_third_of_their_time() {
        near(beats(1e-9, 10.0, 10.0), 0.0);
        near(beats(1e-9, 10.0, 30.1) / 1e-9, 3.0);
        near(beats(10.0, 10.0, 60.0), 0.0);
    }

    #[test]
    fn pipelines_are_filled_before_another_begins() {
        near(pipelines(0.0, 1.0), 0.0);
        near(pipelines(1e-3, 0.999), 1e-3);
        near(pipelines(100.0, 0.0), 1.0);
        near(pipelines(PIPELINE * 10.0, 0.0), 10.5);
    }

    #[test]
    fn a_period_is_the_interval_until_a_round_takes_longer() {
        let interval = SECOND / 10;
        let trip = SECOND / 1_000;
        let of = |messages: f64| period(interval, trip, 40.0, |_| messages);
        assert_eq!(of(100.0), interval);
        // 10^4 accounts of which each is dirty in each round: 0.4 s of Redis and 40 round trips.
        let long = period(interval, trip, 40.0, |period| 1e4 / period.as_secs_f64());
        near(long.as_secs_f64(), 0.4 + 39.5625 * 0.001);
    }

    #[test]
    fn shards_are_for_what_can_be_spread() {
        let load = Load {
            accounts: 3.0,
            hottest: 0.1,
            feed: 0.2,
            deliveries: 0.1,
            watch: 0.0,
        };
        let of = |load, bytes| shards(&load, bytes, 0.66, 100.0);
        assert_eq!(of(load, 50.0), Shards::ForCpu(5));
        assert_eq!(of(load, 750.0), Shards::ForMemory(8));
        let small = Load {
            accounts: 0.3,
            ..load
        };
        assert_eq!(of(small, 100.0), Shards::ForCpu(1));
        let hot = Load {
            hottest: 0.7,
            ..load
        };
        assert_eq!(of(hot, 1.0), Shards::None(TooMuch::Account));
        let watched = Load { watch: 0.4, ..load };
        assert_eq!(of(watched, 1.0), Shards::ForCpu(13));
        let fed = Load { feed: 0.7, ..load };
        assert_eq!(of(fed, 1.0), Shards::None(TooMuch::Feed));
        assert_eq!(of(load, 1e9), Shards::None(TooMuch::All));
    }
}
