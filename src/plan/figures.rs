//! A forecast's figures by name, with where each comes from.

use std::time::Duration;

use super::arithmetic::{Load, Shards};
use super::histogram::Histogram;
use super::number::{real, real_money, whole, whole_money};
use super::{Plan, Rates};
use crate::money::Amount;
use crate::sync::ROUNDS_PER_LOOK;

/// Figures that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about, in a line.
    pub title: &'static str,
    /// Its figures.
    pub figures: Vec<Figure>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name; the unit is its end, where it has one.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
    /// Where it comes from.
    pub basis: Basis,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// In a second.
    PerSecond(f64),
    /// A time.
    Seconds(f64),
    /// A size.
    Bytes(f64),
    /// What goes over a wire in a second.
    BytesPerSecond(f64),
    /// Parts of a processor.
    Cores(f64),
    /// A part of something.
    Part(f64),
    /// A number of things.
    Count(u64),
    /// Money.
    Amount(Amount),
    /// Words.
    Text(String),
    /// It did not come to it.
    None,
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Counted in simulated accounts, each as many times as there are accounts like it.
    Simulated,
    /// By a formula, from what was simulated or from the deployment itself.
    Extrapolated,
    /// One of these, times what was measured of a real Redis or a real replica.
    Measured,
}

impl Basis {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Extrapolated => "extrapolated",
            Self::Measured => "× measured cost",
        }
    }
}

const SIM: Basis = Basis::Simulated;
const EXT: Basis = Basis::Extrapolated;
const COST: Basis = Basis::Measured;

const fn figure(name: &'static str, value: Value, basis: Basis) -> Figure {
    Figure { name, value, basis }
}

const fn per_second(name: &'static str, rate: f64, basis: Basis) -> Figure {
    figure(name, Value::PerSecond(rate), basis)
}

fn time(name: &'static str, seconds: Option<f64>, basis: Basis) -> Figure {
    figure(name, seconds.map_or(Value::None, Value::Seconds), basis)
}

impl Plan {
    /// All figures.
    pub fn sections(&self) -> Vec<Section> {
        vec![
            self.redis(),
            self.redis_memory(),
            self.replica(),
            self.callers(),
            self.freshness(),
            self.money(),
            self.dry(),
            self.basis(),
        ]
    }

    /// A figure by its section and name.
    pub fn figure(&self, section: &str, name: &str) -> Option<Value> {
        let sections = self.sections();
        let section = sections.into_iter().find(|other| other.name == section)?;
        let figure = section.figures.into_iter().find(|other| other.name == name);
        figure.map(|figure| figure.value)
    }

    fn redis(&self) -> Section {
        let (totals, costs) = (&self.totals, &self.deployment.costs);
        let Rates { lone, quiet, .. } = totals.rates;
        let replicas = f64::from(self.deployment.replicas);
        let Load {
            hottest,
            feed,
            deliveries,
            watch,
            ..
        } = totals.load;
        let messages = totals.rates.messages();
        Section {
            name: "redis",
            title: "What Redis has to do",
            figures: vec![
                per_second("publishes_per_second", messages, SIM),
                per_second("publishes_by_formula_per_second", self.formula, EXT),
                per_second("publishes_alone_per_second", lone, SIM),
                per_second("publishes_quiet_per_second", quiet, SIM),
                per_second("evalsha_per_second", totals.evalsha(), EXT),
                per_second("other_commands_per_second", totals.other_commands(), EXT),
                per_second("pubsub_messages_per_second", totals.told, EXT),
                per_second("pubsub_deliveries_per_second", totals.told * replicas, EXT),
                figure("cpu_cores", Value::Cores(totals.load.all()), COST),
                figure("cpu_hottest_account_cores", Value::Cores(hottest), COST),
                figure("cpu_feed_cores", Value::Cores(feed), COST),
                figure("cpu_deliveries_cores", Value::Cores(deliveries), COST),
                figure("cpu_watch_cores", Value::Cores(watch), COST),
                figure(
                    "network_in_bytes_per_second",
                    Value::BytesPerSecond(messages * costs.message_in_bytes),
                    COST,
                ),
                figure(
                    "network_out_bytes_per_second",
                    Value::BytesPerSecond(messages * costs.message_out_bytes),
                    COST,
                ),
                figure(
                    "connections",
                    Value::Count(u64::from(self.deployment.replicas).saturating_mul(2)),
                    EXT,
                ),
                figure("shards", self.shards_value(), EXT),
            ],
        }
    }

    const fn shards_value(&self) -> Value {
        match self.shards {
            Shards::ForCpu(shards) | Shards::ForMemory(shards) => Value::Count(shards),
            Shards::None(_) => Value::None,
        }
    }

    fn redis_memory(&self) -> Section {
        let memory = &self.totals.memory;
        let bytes = |name, bytes| figure(name, Value::Bytes(bytes), COST);
        Section {
            name: "redis_memory",
            title: "What stands in Redis after --days",
            figures: vec![
                bytes("all_bytes", memory.all()),
                bytes("accounts_bytes", memory.accounts),
                bytes("replica_rows_bytes", memory.rows),
                bytes("usage_by_hour_bytes", memory.hours),
                bytes("ledger_bytes", memory.recharges),
                bytes("connections_bytes", memory.connections),
                bytes("growth_bytes_per_day", self.totals.memory_per_day),
            ],
        }
    }

    fn replica(&self) -> Section {
        let (totals, costs) = (&self.totals, &self.deployment.costs);
        let replicas = f64::from(self.deployment.replicas);
        let loaded = totals.loaded / replicas;
        let messages = totals.rates.messages() / replicas;
        Section {
            name: "replica",
            title: "One replica",
            figures: vec![
                figure("accounts_loaded", Value::Count(whole(loaded)), EXT),
                figure(
                    "memory_for_accounts_bytes",
                    Value::Bytes(loaded * costs.loaded_bytes),
                    COST,
                ),
                per_second("calls_per_second", totals.rates.calls / replicas, SIM),
                per_second("publishes_per_second", messages, SIM),
                figure(
                    "cpu_for_sync_cores",
                    Value::Cores(messages * costs.replica_us / 1e6),
                    COST,
                ),
                time("round_seconds", Some(self.period.as_secs_f64()), EXT),
            ],
        }
    }

    fn callers(&self) -> Section {
        let rates = &self.totals.rates;
        let (mut waits, mut loads) = (Histogram::default(), Histogram::default());
        self.merge(|seen| &seen.waits, &mut waits);
        self.merge(|seen| &seen.loads_waited, &mut loads);
        let part = |rate: f64| Value::Part(rate / rates.calls.max(1e-300));
        let mut figures = vec![
            per_second("calls_per_second", rates.calls, SIM),
            per_second("waiting_for_a_lease_per_second", rates.waited, SIM),
            figure("waiting_for_a_lease_part", part(rates.waited), SIM),
            time("lease_wait_mean_seconds", waits.mean(), SIM),
            time("lease_wait_99_percent_seconds", waits.part(0.99), SIM),
            time("lease_wait_longest_seconds", waits.longest(), SIM),
            per_second("refill_waits_per_second", rates.turns, SIM),
            per_second("accounts_loaded_per_second", rates.opens, SIM),
            figure("first_call_part", part(rates.finds), SIM),
            time("first_call_wait_mean_seconds", loads.mean(), SIM),
            per_second(
                "refused_while_money_is_left_per_second",
                rates.refused_with_money,
                SIM,
            ),
            per_second(
                "refused_for_no_answer_in_time_per_second",
                rates.refused_unanswered,
                SIM,
            ),
            per_second(
                "refused_without_money_per_second",
                rates.refused_without,
                SIM,
            ),
        ];
        if self.deployment.qps.is_some() {
            figures.extend([
                per_second(
                    "refused_for_the_rate_per_second",
                    rates.refused_above_rate + rates.refused_below_rate,
                    SIM,
                ),
                // Not the same calls, but if the shares are good, as many.
                per_second(
                    "one_limiter_would_refuse_per_second",
                    rates.refused_above_rate + rates.admitted_above_rate,
                    SIM,
                ),
            ]);
        }
        Section {
            name: "callers",
            title: "What callers see",
            figures,
        }
    }

    fn freshness(&self) -> Section {
        let (mut ages, mut changes) = (Histogram::default(), Histogram::default());
        self.merge(|seen| &seen.ages, &mut ages);
        self.merge(|seen| &seen.changes, &mut changes);
        if changes.mean().is_none() {
            changes.merge(&self.sample.drought.changes, 1.0);
        }
        let times = &self.deployment.sync.times;
        let look = self.period.as_secs_f64() * f64::from(ROUNDS_PER_LOOK);
        let beat = times.lease.as_secs_f64() / 3.0 + look;
        Section {
            name: "freshness",
            title: "How old what a replica knows is",
            figures: vec![
                time("known_at_a_call_mean_seconds", ages.mean(), SIM),
                time("known_at_a_call_half_seconds", ages.part(0.5), SIM),
                time("known_at_a_call_99_percent_seconds", ages.part(0.99), SIM),
                // If no account was recharged meanwhile: those of the drought.
                time("recharge_or_revocation_mean_seconds", changes.mean(), SIM),
                time(
                    "recharge_or_revocation_longest_seconds",
                    changes.longest(),
                    SIM,
                ),
                // The word was lost: with the next answer.
                time(
                    "untold_while_called_seconds",
                    Some(self.period.as_secs_f64() + self.deployment.round_trip.as_secs_f64()),
                    EXT,
                ),
                time("untold_while_leased_seconds", Some(beat), EXT),
            ],
        }
    }

    fn money(&self) -> Section {
        let deployment = &self.deployment;
        let call = deployment.call();
        let over = call.high.saturating_sub(call.hold).or_zero();
        let in_flight = deployment.rate() * deployment.call_time.as_secs_f64();
        let amount = |nanos: f64| Value::Amount(Amount::from_nanos(whole_money(nanos)));
        let hottest = self.sample.shown.first();
        let peak = hottest.map_or(Amount::ZERO, |shown| shown.seen.exposure);
        let spend = deployment.rate() * real_money(deployment.price.nanos())
            / f64::from(deployment.replicas);
        let unsaid = self.period.as_secs_f64() + deployment.round_trip.as_secs_f64();
        Section {
            name: "money",
            title: "By how much balances can fall below zero",
            figures: vec![
                figure(
                    "overshoot_bound_of_all",
                    amount(in_flight * real_money(over.nanos())),
                    EXT,
                ),
                figure("overshoot_bound_of_the_hottest", Value::Amount(peak), SIM),
                figure("unpublished_at_one_replica", amount(spend * unsaid), EXT),
                per_second("recharges_per_second", self.totals.rates.recharges, EXT),
            ],
        }
    }

    fn dry(&self) -> Section {
        let drought = &self.sample.drought;
        let rates = Rates::of(&drought.seen, 1.0);
        let replicas = f64::from(self.deployment.replicas);
        let wrongly = drought.seen.refused_wrongly();
        let changes = &drought.changes;
        let duration = |name, time: Option<Duration>| {
            figure(
                name,
                time.map_or(Value::None, |time| Value::Seconds(time.as_secs_f64())),
                SIM,
            )
        };
        Section {
            name: "dry",
            title: "When the hottest account's money runs out, and a recharge comes some seconds later",
            figures: vec![
                time(
                    "watched_seconds",
                    drought.left.map(|_| real(drought.seen.nanos) / 1e9),
                    SIM,
                ),
                figure(
                    "left_at_the_first_refusal",
                    drought.left.map_or(Value::None, Value::Amount),
                    SIM,
                ),
                duration("until_all_is_spent_seconds", drought.until_dry),
                figure("refused_while_money_is_left", Value::Count(wrongly), SIM),
                per_second("publishes_per_second", rates.messages(), SIM),
                per_second("pubsub_messages_per_second", rates.tells, SIM),
                per_second("pubsub_deliveries_per_second", rates.tells * replicas, SIM),
                figure(
                    "redis_cpu_cores",
                    Value::Cores(rates.busy_with(&self.deployment)),
                    COST,
                ),
                duration("recharge_to_first_call_seconds", drought.back),
                time("recharge_known_mean_seconds", changes.mean(), SIM),
                time("recharge_known_longest_seconds", changes.longest(), SIM),
            ],
        }
    }

    fn basis(&self) -> Section {
        let shown = &self.sample.shown;
        let sum = |of: &dyn Fn(&super::sample::Shown) -> u64| shown.iter().map(of).sum::<u64>();
        let stood_for = shown.iter().filter(|shown| shown.accounts <= 1.0).count();
        let seconds: f64 = shown.iter().map(|s| real(s.seen.nanos) / 1e9).sum();
        let count = |name, count| figure(name, Value::Count(count), SIM);
        let size = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Section {
            name: "basis",
            title: "What was simulated",
            figures: vec![
                count("accounts", size(shown.len())),
                count("accounts_that_stand_for_themselves", size(stood_for)),
                count("calls", sum(&|shown| shown.seen.calls)),
                count("messages", sum(&|shown| shown.seen.messages())),
                count("steps", sum(&|shown| shown.seen.events)),
                time("lived_seconds", Some(seconds), SIM),
                count("lives_cut_short", sum(&|shown| shown.seen.cut.into())),
            ],
        }
    }

    fn merge(&self, of: impl Fn(&super::world::Seen) -> &Histogram, into: &mut Histogram) {
        for shown in &self.sample.shown {
            let seconds = real(shown.seen.nanos) / 1e9;
            if seconds > 0.0 {
                into.merge(of(&shown.seen), shown.accounts / seconds);
            }
        }
    }
}
