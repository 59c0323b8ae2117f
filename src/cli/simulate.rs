//! `tollgate simulate`: what a deployment will cost and how it behaves. Reads what is asked and shows what [`crate::plan`] says.

#![expect(
    clippy::float_arithmetic,
    reason = "figures that are shown: no money of anybody"
)]

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::failure::Failure;
use super::out::{Cell, Out, Record};
use crate::config;
use crate::money::Amount;
use crate::plan::{Costs, Deployment, Figure, Plan, RedisSize, Section, Spread, Value, plan};
use crate::policy::HoldRule;
use crate::sync::Settings;

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
    /// How unevenly an account's calls are spread over replicas: the exponent of a Zipf distribution
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.0)]
    skew: f64,
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
    /// CPU of Redis for what is told to one subscriber
    #[arg(long, value_name = "MICROSECONDS")]
    redis_us_per_delivery: Option<f64>,
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
    let mut costs = if (redis.redis_us_per_publish - costs.published_us()).abs() < 1e-9 {
        costs
    } else {
        costs.scaled_to(redis.redis_us_per_publish)
    };
    if let Some(micros) = redis.redis_us_per_delivery {
        costs.delivery_us = micros;
    }
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
        skew: callers.skew,
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

/// One forecast, section by section.
fn show(plan: &Plan, out: Out) -> Result<(), Failure> {
    let lines = |text: String| out.line(&Record(vec![("", Cell::Text(text))]));
    for sentence in plan.advice() {
        lines(sentence)?;
    }
    for section in plan.sections() {
        out.line(&Record::default())?;
        lines(section.title.to_owned())?;
        let rows: Vec<Record> = section.figures.iter().map(figure_row).collect();
        out.table(&rows, &["figure", "value", "basis"])?;
    }
    Ok(())
}

fn figure_row(figure: &Figure) -> Record {
    let mut name = figure.name;
    for end in ["_per_second", "_seconds", "_bytes", "_cores"] {
        // The value shows its unit.
        name = name.strip_suffix(end).unwrap_or(name);
    }
    Record(vec![
        ("figure", Cell::Text(name.replace('_', " "))),
        ("value", Cell::Text(text(&figure.value))),
        ("basis", Cell::Text(figure.basis.name().into())),
    ])
}

/// A forecast for programs.
fn record(plan: &Plan) -> Record {
    let mut fields = vec![(
        "deployment",
        Cell::Record(Box::new(of_deployment(&plan.deployment))),
    )];
    for section in plan.sections() {
        fields.push((section.name, Cell::Record(Box::new(of_section(&section)))));
    }
    fields.push(("advice", Cell::List(plan.advice())));
    Record(fields)
}

fn of_section(section: &Section) -> Record {
    let figures = section.figures.iter().map(|figure| {
        let value = match &figure.value {
            Value::PerSecond(number)
            | Value::Seconds(number)
            | Value::Bytes(number)
            | Value::BytesPerSecond(number)
            | Value::Cores(number)
            | Value::Part(number) => Cell::Real(*number),
            Value::Count(count) => Cell::Number(*count),
            Value::Amount(amount) => Cell::Amount(*amount),
            Value::Text(text) => Cell::text(text),
            Value::None => Cell::None,
        };
        let basis = Cell::text(figure.basis.name());
        let told = Record(vec![("value", value), ("basis", basis)]);
        (figure.name, Cell::Record(Box::new(told)))
    });
    Record(figures.collect())
}

fn of_deployment(deployment: &Deployment) -> Record {
    let times = &deployment.sync.times;
    let time = |time: Duration| Cell::Real(time.as_secs_f64());
    Record(vec![
        ("replicas", Cell::Number(deployment.replicas.into())),
        ("accounts", Cell::Number(deployment.accounts)),
        ("rps", Cell::Number(deployment.rps)),
        ("spread", Cell::Text(spread_text(deployment.spread))),
        (
            "stickiness_percent",
            Cell::Number(deployment.stickiness.into()),
        ),
        ("interval_seconds", time(times.interval)),
        ("lease_seconds", time(times.lease)),
        ("lease_target_seconds", time(times.ahead)),
        ("round_trip_seconds", time(deployment.round_trip)),
        ("seed", Cell::Number(deployment.seed)),
    ])
}

/// The columns of a table of several forecasts.
const COLUMNS: [&str; 14] = [
    "replicas",
    "accounts",
    "rps",
    "interval",
    "sticky",
    "publishes",
    "all commands",
    "told",
    "redis cpu",
    "memory",
    "a day",
    "shards",
    "waiting",
    "replica cpu",
];

fn row(plan: &Plan) -> Record {
    let deployment = &plan.deployment;
    let get = |section, name| {
        let value = plan.figure(section, name).unwrap_or(Value::None);
        Cell::Text(text(&value))
    };
    let commands = plan.totals.evalsha() + plan.totals.other_commands();
    Record(vec![
        ("replicas", Cell::Number(deployment.replicas.into())),
        ("accounts", Cell::Number(deployment.accounts)),
        ("rps", Cell::Number(deployment.rps)),
        (
            "interval",
            Cell::Text(format!("{:?}", deployment.sync.times.interval)),
        ),
        ("sticky", Cell::Text(format!("{} %", deployment.stickiness))),
        ("publishes", get("redis", "publishes_per_second")),
        (
            "all commands",
            Cell::Text(text(&Value::PerSecond(commands))),
        ),
        ("told", get("redis", "pubsub_deliveries_per_second")),
        ("redis cpu", get("redis", "cpu_cores")),
        ("memory", get("redis_memory", "all_bytes")),
        ("a day", get("redis_memory", "growth_bytes_per_day")),
        ("shards", get("redis", "shards")),
        ("waiting", get("callers", "waiting_for_a_lease_part")),
        ("replica cpu", get("replica", "cpu_for_sync_cores")),
    ])
}

/// A value as people read it.
fn text(value: &Value) -> String {
    match value {
        Value::PerSecond(rate) => format!("{}/s", number(*rate)),
        Value::Seconds(seconds) => seconds_text(*seconds),
        Value::Bytes(bytes) => scaled(*bytes, &["B", "kB", "MB", "GB", "TB", "PB"]),
        Value::BytesPerSecond(bytes) => format!("{}/s", text(&Value::Bytes(*bytes))),
        Value::Cores(cores) => format!("{} %", number(cores * 100.0)),
        Value::Part(part) => format!("{} %", number(part * 100.0)),
        Value::Count(count) => count.to_string(),
        Value::Amount(amount) => amount.to_string(),
        Value::Text(text) => text.clone(),
        Value::None => "-".into(),
    }
}

fn seconds_text(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{} us", number(s * 1e6)),
        s if s < 1.0 => format!("{} ms", number(s * 1e3)),
        s if s < 86_400.0 => format!("{} s", number(s)),
        s => format!("{} d", number(s / 86_400.0)),
    }
}

fn scaled(mut number_of: f64, units: &[&str]) -> String {
    let mut unit = "";
    for next in units {
        unit = next;
        if number_of < 1_000.0 {
            break;
        }
        if Some(next) != units.last() {
            number_of /= 1_000.0;
        }
    }
    format!("{} {unit}", number(number_of))
}

/// Three figures of it, or all before the point.
fn number(number: f64) -> String {
    match number {
        0.0 => "0".into(),
        n if n >= 99.95 => format!("{n:.0}"),
        n if n >= 9.995 => format!("{n:.1}"),
        n if n >= 0.095 => format!("{n:.2}"),
        n if n >= 0.000_5 => format!("{n:.4}"),
        n => format!("{n:.1e}"),
    }
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

fn spread_text(spread: Spread) -> String {
    match spread {
        Spread::Uniform => "uniform".into(),
        Spread::Zipf(exponent) => format!("zipf:{exponent}"),
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
    fn values_read_as_people_write_them() {
        for (value, shown) in [
            (Value::PerSecond(0.0), "0/s"),
            (Value::PerSecond(1_234.56), "1235/s"),
            (Value::PerSecond(12.345), "12.3/s"),
            (Value::PerSecond(0.012_34), "0.0123/s"),
            (Value::PerSecond(0.000_012), "1.2e-5/s"),
            (Value::Seconds(0.000_51), "510 us"),
            (Value::Seconds(0.0205), "20.5 ms"),
            (Value::Seconds(172_800.0), "2.00 d"),
            (Value::Bytes(999.0), "999 B"),
            (Value::Bytes(1_500_000.0), "1.50 MB"),
            (Value::Bytes(2.5e18), "2500 PB"),
            (Value::Cores(1.5), "150 %"),
            (Value::None, "-"),
        ] {
            assert_eq!(text(&value), shown, "{value:?}");
        }
    }

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
