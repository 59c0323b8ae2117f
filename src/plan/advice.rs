//! What follows from a forecast's figures, in words: whether one Redis is enough, and what to change if not.

use std::time::Duration;

use super::arithmetic::{Messages, SHARDS_MAX, Shards, TooMuch};
use super::number::{real, seconds};
use super::spread::Places;
use super::{Plan, Rates};

impl Plan {
    /// What follows from the figures, a sentence each.
    pub fn advice(&self) -> Vec<String> {
        let mut said = vec![self.verdict()];
        let deployment = &self.deployment;
        let clients = u64::from(deployment.replicas).saturating_mul(2);
        if clients > 9_000 {
            said.push(format!(
                "{clients} connections are more than Redis takes by default: raise `maxclients`, and the limit of open files."
            ));
        }
        let interval = deployment.sync.times.interval;
        if self.period > interval {
            said.push(format!(
                "A round takes longer than the interval of {interval:?}: each replica publishes every {:.2} s. More replicas with fewer accounts each, stickiness, or a longer interval.",
                self.period.as_secs_f64()
            ));
        }
        let rates = &self.totals.rates;
        let waiting = rates.waited / rates.calls.max(1e-300);
        if waiting > 0.1 {
            said.push(format!(
                "{:.0} % of calls wait for a lease, as their account was not called at their replica for {:?} (sync.idle_return). Stickiness makes it fewer, and so does a longer time.",
                waiting * 100.0,
                deployment.sync.times.idle
            ));
        }
        let limit = real(deployment.redis.memory_mib) * 1_048_576.0;
        if self.totals.memory_per_day * 365.0 > limit {
            said.push(format!(
                "What Redis keeps for good grows by {:.1} GB a day, most of it usage by hour of each replica: {:.0} days fill one Redis. Stickiness makes it less.",
                self.totals.memory_per_day / 1e9,
                limit / self.totals.memory_per_day
            ));
        }
        let drought = Rates::of(&self.sample.drought.seen, 1.0).busy_with(deployment);
        let busy = f64::from(deployment.redis.busy) / 100.0;
        if drought > busy {
            said.push(format!(
                "The hottest account, run dry, keeps Redis {:.0} % busy on its own until it is recharged or its callers pause: recharge it before, or keep it on fewer replicas.",
                drought * 100.0
            ));
        }
        said
    }

    fn verdict(&self) -> String {
        let load = &self.totals.load;
        let busy = self.deployment.redis.busy;
        let percent = |cores: f64| format!("{:.0} %", cores * 100.0);
        match self.shards {
            Shards::ForCpu(1) | Shards::ForMemory(1) => {
                format!("One Redis is enough: it is {} busy.", percent(load.all()))
            }
            Shards::ForCpu(shards) => format!(
                "It takes a Redis Cluster of {shards} shards: the work of {} of a core, at most {busy} % on each; the busiest has {}.",
                percent(load.all()),
                percent(load.busiest(shards))
            ),
            Shards::ForMemory(shards) => format!(
                "It takes a Redis Cluster of {shards} shards for its memory; the busiest is {} busy.",
                percent(load.busiest(shards))
            ),
            Shards::None(TooMuch::Account) => format!(
                "No number of shards is enough: the hottest account alone, on {} replicas, takes {} of the one shard that it stands on, and {busy} % is the most. {}",
                self.deployment.replicas,
                percent(load.hottest),
                self.for_hottest()
            ),
            Shards::None(TooMuch::Feed) => format!(
                "No number of shards is enough: the feed of spend, which stands on one shard, takes {} of it, and {busy} % is the most. A longer interval makes it less.",
                percent(load.feed)
            ),
            Shards::None(TooMuch::All) => format!(
                "Not even {SHARDS_MAX} shards are enough: a longer interval, or replicas that serve fewer accounts each (stickiness)."
            ),
        }
    }

    /// What would make the hottest account bearable.
    fn for_hottest(&self) -> String {
        let deployment = &self.deployment;
        let busy = f64::from(deployment.redis.busy) / 100.0;
        let Some(shown) = self.sample.shown.first() else {
            return String::new();
        };
        let places = Places::new(deployment.replicas, deployment.sticky());
        let each = deployment.costs.published_us() / 1e6;
        let works = |interval: &Duration| {
            let all = Messages::of(shown.rate, &places, *interval, &deployment.sync).all();
            all * each <= busy
        };
        let steps = [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0].map(seconds);
        match steps.into_iter().find(|interval| works(interval)) {
            Some(interval) => format!(
                "With an interval of {interval:?} it is bearable; or route its calls to fewer replicas (stickiness)."
            ),
            None => "Route its calls to fewer replicas (stickiness).".into(),
        }
    }
}
