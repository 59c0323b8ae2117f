//! `tollgate simulate`: what a deployment will cost and how it behaves. Reads what is asked and shows what [`crate::plan`] says.

#![expect(
    clippy::float_arithmetic,
    reason = "figures that are shown: no money of anybody"
)]

mod show;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::failure::Failure;
use super::out::{Out, Record};
use crate::config;
use crate::money::Amount;
use crate::plan::{Costs, Deployment, Plan, RedisSize, Spread, plan};
use crate::policy::HoldRule;
use crate::sync::Settings;
use show::{COLUMNS, record, row, show};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    deployment: DeploymentArgs,
    #[command(flatten)]
    callers: CallersArgs,
    #[command(flatten)]
    times: TimesArgs,
    #[command(flatten)]
    redis: RedisArgs,
    /// What chance starts with: the same seed, the same answer
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many seconds of each account's life are simulated, at least
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u64,
    /// The first seconds after all replicas have started, instead of the steady state
    #[arg(long)]
    cold_start: bool,
    /// Print JSON: an object for each deployment that is asked for, in an array
    #[arg(long)]
    pub(super) json: bool,
}

/// Several values, with commas between them, ask for a table of all combinations.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Deployment; several values, as in 3,100,10000, ask for a table")]
struct DeploymentArgs {
    /// Running tollgates over one Redis
    #[arg(long, value_name = "N", default_value = "3", value_delimiter = ',')]
    replicas: Vec<u32>,
    /// Accounts that exist
    #[arg(long, value_name = "N", default_value = "1000", value_delimiter = ',')]
    accounts: Vec<u64>,
    /// Calls per second, of all accounts at all replicas
    #[arg(long, value_name = "N", default_value = "100", value_delimiter = ',')]
    rps: Vec<u64>,
    /// The sync interval; the configuration's if not given
    #[arg(long, value_name = "TIME", value_delimiter = ',')]
    interval: Vec<String>,
    /// The part of an account's calls that goes to one replica, in percent
    #[arg(
        long,
        value_name = "PERCENT",
        default_value = "0",
        value_delimiter = ','
    )]
    stickiness: Vec<u32>,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Callers")]
struct CallersArgs {
    /// How calls are spread over accounts: uniform, or zipf:EXPONENT
    #[arg(long, value_name = "SPREAD", default_value = "zipf:1.0", value_parser = spread)]
    spread: Spread,
    /// Models (or keys) among which an account's calls are spread
    #[arg(long, value_name = "N", default_value_t = 1)]
    models: u32,
    /// What a call costs, in the mean
    #[arg(long, value_name = "AMOUNT", default_value = "0.01")]
    price: Amount,
    /// By how much a call's cost differs from that at most
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    price_spread: u32,
    /// What is held before a call: max, none, capped:AMOUNT or fixed:AMOUNT
    #[arg(long, value_name = "RULE", default_value = "max", value_parser = hold_rule)]
    hold: HoldRule,
    /// What a recharge brings, at least
    #[arg(long, value_name = "AMOUNT", default_value = "10.00")]
    money: Amount,
    /// And for how long it lasts, at least
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    money_for: Duration,
    /// At what part of a recharge that is left the next one comes, in percent; or never
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = recharge_at)]
    recharge_at: RechargeAt,
    /// How long a call is in flight, in the mean
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    call_time: Duration,
    /// Calls per second that each account may make over all replicas; no limit if not given
    #[arg(long, value_name = "N")]
    qps: Option<u32>,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Times; those of the configuration if not given")]
struct TimesArgs {
    /// Take the times from this configuration, and from the environment that goes over it
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG")]
    config: Option<PathBuf>,
    /// How long a lease runs
    #[arg(long, value_name = "TIME")]
    lease: Option<String>,
    /// How much to lease, as time of recent spend
    #[arg(long, value_name = "TIME")]
    lease_target: Option<String>,
    /// After how long without a call a lease goes back
    #[arg(long, value_name = "TIME")]
    idle_return: Option<String>,
    /// How long a call waits for a lease
    #[arg(long, value_name = "TIME")]
    refill_wait: Option<String>,
    /// After how long without a call an account is let go from memory
    #[arg(long, value_name = "TIME")]
    unload_after: Option<String>,
    /// From a replica to Redis and back
    #[arg(long, value_name = "TIME", default_value = "500us", value_parser = duration)]
    round_trip: Duration,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Redis")]
struct RedisArgs {
    /// CPU of Redis for a message about an account; `cargo bench --bench redis` measures it
    #[arg(long, value_name = "MICROSECONDS", default_value_t = Costs::default().published_us())]
    redis_us_per_publish: f64,
    /// How busy one Redis may be
    #[arg(long, value_name = "PERCENT", default_value_t = RedisSize::default().busy)]
    redis_busy: u32,
    /// The memory of one Redis
    #[arg(long, value_name = "MIB", default_value_t = RedisSize::default().memory_mib)]
    redis_memory: u64,
    /// For how many days the deployment has run, for what stands in Redis
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u32,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let deployments = deployments(args)?;
    let out = Out { json: args.json };
    if let ([one], false) = (deployments.as_slice(), args.json) {
        return show(&forecast(one)?, out);
    }
    // All that is wrong is said before anything takes its time.
    let problems = deployments.iter().flat_map(Deployment::problems);
    let problems: Vec<_> = problems.map(|problem| problem.to_string()).collect();
    if !problems.is_empty() {
        return Err(wrong(problems));
    }
    let plans = deployments.iter().map(forecast);
    let plans = plans.collect::<Result<Vec<_>, _>>()?;
    if args.json {
        let records: Vec<Record> = plans.iter().map(record).collect();
        return out.table(&records, &[]);
    }
    let rows: Vec<Record> = plans.iter().map(row).collect();
    out.table(&rows, &COLUMNS)
}

fn forecast(deployment: &Deployment) -> Result<Plan, Failure> {
    plan(deployment).map_err(|problems| {
        let problems = problems.iter().map(ToString::to_string);
        wrong(problems.collect())
    })
}

fn wrong(mut problems: Vec<String>) -> Failure {
    problems.dedup();
    let failure = Failure::usage("this deployment cannot be simulated");
    problems.into_iter().fold(failure, Failure::with)
}

/// Every combination of what may be given several times.
fn deployments(args: &Args) -> Result<Vec<Deployment>, Failure> {
    let DeploymentArgs {
        replicas,
        accounts,
        rps,
        interval,
        stickiness,
    } = &args.deployment;
    let one = [String::new()];
    let intervals = if interval.is_empty() {
        &one
    } else {
        interval.as_slice()
    };
    let mut all = Vec::new();
    for interval in intervals {
        let sync = sync(&args.times, interval)?;
        for &accounts in accounts {
            for &replicas in replicas {
                for &rps in rps {
                    for &stickiness in stickiness {
                        all.push(Deployment {
                            replicas,
                            accounts,
                            rps,
                            stickiness,
                            sync,
                            ..common(args)
                        });
                    }
                }
            }
        }
    }
    if all.len() > COMBINATIONS_MAX {
        return Err(Failure::usage(format!(
            "that is {} deployments; ask for at most {COMBINATIONS_MAX} at once",
            all.len()
        )));
    }
    Ok(all)
}

/// Each may take most of a minute.
const COMBINATIONS_MAX: usize = 100;

fn common(args: &Args) -> Deployment {
    let (callers, redis) = (&args.callers, &args.redis);
    let costs = Costs::default();
    let costs = if (redis.redis_us_per_publish - costs.published_us()).abs() < 1e-9 {
        costs
    } else {
        costs.scaled_to(redis.redis_us_per_publish)
    };
    Deployment {
        spread: callers.spread,
        models: callers.models,
        price: callers.price,
        price_spread: callers.price_spread,
        hold: callers.hold,
        money: callers.money,
        money_for: callers.money_for,
        recharge_at: callers.recharge_at.0,
        call_time: callers.call_time,
        qps: callers.qps,
        round_trip: args.times.round_trip,
        days: redis.days,
        seed: args.seed,
        seconds: args.seconds,
        cold_start: args.cold_start,
        costs,
        redis: RedisSize {
            busy: redis.redis_busy,
            memory_mib: redis.redis_memory,
        },
        ..Deployment::default()
    }
}

/// The times: the configuration's, with those that are given over them, all by the configuration's own rules.
fn sync(times: &TimesArgs, interval: &str) -> Result<Settings, Failure> {
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    let given = [
        ("interval", "TOLLGATE_SYNC__INTERVAL", interval.to_owned()),
        ("lease", "TOLLGATE_SYNC__LEASE", text(&times.lease)),
        (
            "lease-target",
            "TOLLGATE_SYNC__LEASE_TARGET",
            text(&times.lease_target),
        ),
        (
            "idle-return",
            "TOLLGATE_SYNC__IDLE_RETURN",
            text(&times.idle_return),
        ),
        (
            "refill-wait",
            "TOLLGATE_SYNC__REFILL_WAIT",
            text(&times.refill_wait),
        ),
        (
            "unload-after",
            "TOLLGATE_ENGINE__UNLOAD_AFTER",
            text(&times.unload_after),
        ),
    ];
    let over = given.iter().filter(|(_, _, value)| !value.is_empty());
    let over = over.map(|(_, name, value)| ((*name).to_owned(), value.clone()));
    // Whoever tries an interval need not say first from which age on a replica is not ready.
    let ready = (!interval.is_empty())
        .then(|| ("TOLLGATE_ADMIN__SYNC_AGE_MAX".to_owned(), "1h".to_owned()));
    let over = over.chain(ready);
    let read = match &times.config {
        Some(file) => config::load(file, config::environment().chain(over)),
        None => config::parse("", over),
    };
    let told = read.map(|config| config.sync_settings());
    told.map_err(|problems| {
        let failure = Failure::usage("these times cannot be");
        problems.into_iter().fold(failure, |failure, problem| {
            // Whoever gave an option knows it by that name.
            let named = given.iter().fold(problem.to_string(), |text, names| {
                text.replace(names.1, &format!("--{}", names.0))
            });
            failure.with(named)
        })
    })
}

/// A percentage, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RechargeAt(Option<u32>);

fn recharge_at(text: &str) -> Result<RechargeAt, String> {
    if text == "never" {
        return Ok(RechargeAt(None));
    }
    let percent = text.parse();
    percent
        .map(|percent| RechargeAt(Some(percent)))
        .map_err(|_| "write a whole number from 0 to 90, or never".into())
}

fn spread(text: &str) -> Result<Spread, String> {
    let hint = "write uniform, or zipf and an exponent, as in zipf:1.0";
    match text.split_once(':') {
        None if text == "uniform" => Ok(Spread::Uniform),
        None if text == "zipf" => Ok(Spread::Zipf(1.0)),
        Some(("zipf", exponent)) => f64::from_str(exponent)
            .map(Spread::Zipf)
            .map_err(|_| hint.into()),
        _ => Err(hint.into()),
    }
}

fn hold_rule(text: &str) -> Result<HoldRule, String> {
    let hint = "it is max, none, capped:AMOUNT or fixed:AMOUNT";
    let amount = |text: &str| text.parse::<Amount>().map_err(|error| error.to_string());
    match text.split_once(':') {
        None if text == "max" => Ok(HoldRule::Max),
        None if text == "none" => Ok(HoldRule::None),
        Some(("capped", most)) => amount(most).map(HoldRule::Capped),
        Some(("fixed", always)) => amount(always).map(HoldRule::Fixed),
        _ => Err(hint.into()),
    }
}

/// As elsewhere on the command line, and `500us`.
fn duration(text: &str) -> Result<Duration, String> {
    if let Some(number) = text.strip_suffix("us") {
        let micros = number.parse();
        return micros
            .map(Duration::from_micros)
            .map_err(|_| "a duration begins with a whole number, as in 500us".into());
    }
    super::values::duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_holds_and_short_times() {
        assert_eq!(spread("uniform"), Ok(Spread::Uniform));
        assert_eq!(spread("zipf:1.2"), Ok(Spread::Zipf(1.2)));
        for text in ["", "zipf:", "zipf:x", "even", "uniform:1"] {
            assert!(spread(text).is_err(), "{text}");
        }
        assert_eq!(
            hold_rule("capped:0.50"),
            Ok(HoldRule::Capped(Amount::from_nanos(500_000_000)))
        );
        assert!(hold_rule("capped").is_err());
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert!(duration("us").is_err());
    }
}
