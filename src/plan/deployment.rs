//! What is planned for: a deployment and its callers, as an operator describes them, and what of it cannot be.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::costs::Costs;
use super::number::{real, real_money, whole_money};
use super::spread::Spread;
use crate::money::Amount;
use crate::policy::{HoldRule, Policy};
use crate::store::LEASE_MAX;
use crate::sync::Settings;

/// A deployment and its callers.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Running tollgates over one Redis.
    pub replicas: u32,
    /// Accounts that exist.
    pub accounts: u64,
    /// Calls per second, of all accounts at all replicas.
    pub rps: u64,
    /// How the calls are spread over accounts.
    pub spread: Spread,
    /// Models (or keys) among which an account's calls are spread evenly: each is counted in a row of its own.
    pub models: u32,
    /// What a call costs, in the mean.
    pub price: Amount,
    /// By how much a call's cost differs from that at most, in percent.
    pub price_spread: u32,
    /// What is held before a call; `max` is the most that a call costs.
    pub hold: HoldRule,
    /// What a recharge brings, at least.
    pub money: Amount,
    /// And for how long it lasts, at least: what an account with more calls puts in at once.
    pub money_for: Duration,
    /// At what part of a recharge that is left the next one comes, in percent; 0 is when all is spent; `None` is never.
    pub recharge_at: Option<u32>,
    /// How long a call is in flight, in the mean; half as long to half as long again.
    pub call_time: Duration,
    /// Calls per second that each account may make, over all replicas.
    pub qps: Option<u32>,
    /// The part of an account's calls that goes to one replica, its home, in percent.
    pub stickiness: u32,
    /// From a replica to Redis and back, without what Redis does in between.
    pub round_trip: Duration,
    /// The times of the sync.
    pub sync: Settings,
    /// For how many days the deployment has run: what Redis has by then.
    pub days: u32,
    /// What chance starts with.
    pub seed: u64,
    /// How many seconds of an account's life are simulated, at least.
    pub seconds: u64,
    /// Simulate the first seconds after all replicas have started, instead of the steady state.
    pub cold_start: bool,
    /// What Redis and replicas pay for what they do.
    pub costs: Costs,
    /// What one Redis is to bear.
    pub redis: RedisSize,
}

/// What one Redis is to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisSize {
    /// How busy its main thread may be, in percent: what is above waits too long in gusts.
    pub busy: u32,
    /// Its memory, in MiB.
    pub memory_mib: u64,
}

impl Default for Deployment {
    fn default() -> Self {
        Self {
            replicas: 3,
            accounts: 1_000,
            rps: 100,
            // What is seen of customers of an API, about.
            spread: Spread::Zipf(1.0),
            models: 1,
            price: Amount::from_nanos(10_000_000),
            price_spread: 50,
            hold: HoldRule::Max,
            money: Amount::from_nanos(10_000_000_000),
            money_for: Duration::from_secs(86_400),
            recharge_at: Some(10),
            call_time: Duration::from_secs(2),
            qps: None,
            stickiness: 0,
            round_trip: Duration::from_micros(500),
            sync: Settings::default(),
            days: 30,
            seed: 1,
            seconds: 30,
            cold_start: false,
            costs: Costs::default(),
            redis: RedisSize::default(),
        }
    }
}

impl Default for RedisSize {
    /// Two thirds: at that, a message waits for about as long again as it takes. And the memory of a small machine.
    fn default() -> Self {
        Self {
            busy: 66,
            memory_mib: 16_384,
        }
    }
}

/// A value that cannot be, and what would work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{field} {value}: {hint}")]
pub struct Problem {
    /// The option's name.
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// What would work.
    pub hint: String,
}

/// Far more than are run of anything; enough for every table of the documentation to end in it.
const REPLICAS_MAX: u64 = 100_000;
const ACCOUNTS_MAX: u64 = 1_000_000_000;
const RPS_MAX: u64 = 100_000_000;

/// Rows that one account has at once: more are thousands of models in one hour.
const MODELS_MAX: u64 = 1_000;

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// So that a month's spend of the hottest account fits into an amount with room to spare.
const MONEY_MAX: Amount = Amount::from_nanos(1_000_000_000_000_000_000);

/// An exponent above leaves the first account all calls.
const EXPONENT_MAX: f64 = 4.0;

/// Ten years.
const DAYS_MAX: u64 = 3_650;

/// What is simulated takes time and memory; an hour shows all there is.
const SECONDS_MAX: u64 = 3_600;

impl Deployment {
    /// Everything that cannot be, with what would work. Empty if all can.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Found::default();
        found.count("replicas", self.replicas.into(), 1..=REPLICAS_MAX);
        found.count("accounts", self.accounts, 1..=ACCOUNTS_MAX);
        found.count("rps", self.rps, 1..=RPS_MAX);
        if let Spread::Zipf(exponent) = self.spread {
            let hint = || format!("an exponent is 0 to {EXPONENT_MAX}, as in zipf:1.0");
            found.exponent("spread", &format!("zipf:{exponent}"), exponent, hint);
        }
        found.count("models", self.models.into(), 1..=MODELS_MAX);
        found.count("price-spread", self.price_spread.into(), 0..=100);
        if let Some(percent) = self.recharge_at {
            found.count("recharge-at", percent.into(), 0..=90);
        }
        found.count("stickiness", self.stickiness.into(), 0..=100);
        found.count("days", self.days.into(), 0..=DAYS_MAX);
        found.count("seconds", self.seconds, 1..=SECONDS_MAX);
        if let Some(qps) = self.qps {
            found.count("qps", qps.into(), 1..=u32::MAX.into());
        }
        found.time("call-time", self.call_time, Duration::ZERO..=DAY);
        found.time(
            "round-trip",
            self.round_trip,
            Duration::from_micros(1)..=Duration::from_secs(1),
        );
        found.time("money-for", self.money_for, Duration::ZERO..=YEAR);
        found.count("redis-busy", self.redis.busy.into(), 1..=95);
        found.count("redis-memory", self.redis.memory_mib, 64..=4_194_304);
        self.costs.problems(&mut found);
        self.money_problems(&mut found);
        found.0
    }

    fn money_problems(&self, found: &mut Found) {
        let most = MONEY_MAX;
        if !self.price.is_positive() || self.price > most {
            let hint = format!("give an amount above zero, up to {most}, such as 0.01");
            return found.wrong("price", self.price, hint);
        }
        let policy = Policy {
            hold: self.hold,
            ..Policy::default()
        };
        for problem in policy.problems() {
            found.wrong("hold", "AMOUNT", problem);
        }
        let least = self.call().hold;
        if self.money < least || !self.money.is_positive() || self.money > most {
            let hint = format!("a call holds {least}; give that or more, up to {most}");
            found.wrong("money", self.money, hint);
        }
    }

    /// What a call costs and holds.
    pub(super) fn call(&self) -> CallPrice {
        let part = |percent: u32| {
            let nanos = i128::from(self.price.nanos()).saturating_mul(percent.into());
            i64::try_from(nanos.div_euclid(100)).unwrap_or(i64::MAX)
        };
        let (low, high) = (
            part(100_u32.saturating_sub(self.price_spread)),
            part(100_u32.saturating_add(self.price_spread)),
        );
        let (low, high) = (Amount::from_nanos(low), Amount::from_nanos(high));
        let hold = match self.hold {
            HoldRule::Max => high,
            HoldRule::Capped(most) => high.min(most),
            HoldRule::Fixed(amount) => amount,
            HoldRule::None => Amount::ZERO,
        };
        CallPrice { low, high, hold }
    }

    /// The policy that all accounts go by.
    pub(super) fn policy(&self) -> Policy {
        Policy {
            hold: self.hold,
            qps: self.qps,
            ..Policy::default()
        }
    }

    /// What a recharge of an account with so many calls per second brings.
    pub(super) fn recharge(&self, rate: f64) -> Amount {
        let nanos = rate * real_money(self.price.nanos()) * self.money_for.as_secs_f64();
        let by_time = Amount::from_nanos(whole_money(nanos)).min(MONEY_MAX);
        self.money.max(by_time)
    }

    /// The part of an account's calls that goes to its home.
    pub(super) fn sticky(&self) -> f64 {
        f64::from(self.stickiness) / 100.0
    }

    /// Calls per second.
    pub(super) const fn rate(&self) -> f64 {
        real(self.rps)
    }
}

/// What a call costs, from the least to the most, and what is held for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallPrice {
    pub(super) low: Amount,
    pub(super) high: Amount,
    pub(super) hold: Amount,
}

impl CallPrice {
    /// What a call that finds too little waits for: as in `sync`.
    pub(super) fn waits_for(&self) -> Amount {
        self.hold.max(Amount::from_nanos(1)).min(LEASE_MAX)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<Problem>);

impl Found {
    pub(super) fn wrong(&mut self, field: &'static str, value: impl fmt::Display, hint: String) {
        let value = value.to_string();
        self.0.push(Problem { field, value, hint });
    }

    fn count(&mut self, field: &'static str, value: u64, range: RangeInclusive<u64>) {
        if !range.contains(&value) {
            let hint = format!(
                "give a whole number from {} to {}",
                range.start(),
                range.end()
            );
            self.wrong(field, value, hint);
        }
    }

    fn time(&mut self, field: &'static str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let hint = format!("give {:?} to {:?}", range.start(), range.end());
            self.wrong(field, format!("{value:?}"), hint);
        }
    }

    fn exponent(
        &mut self,
        field: &'static str,
        shown: &str,
        value: f64,
        hint: impl Fn() -> String,
    ) {
        if !(0.0..=EXPONENT_MAX).contains(&value) {
            self.wrong(field, shown, hint());
        }
    }
}
