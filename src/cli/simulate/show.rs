//! How a forecast is shown: to people, to programs, and as a row of a table of several.

use std::time::Duration;

use super::super::failure::Failure;
use super::super::out::{Cell, Out, Record};
use crate::plan::{Deployment, Figure, Plan, Section, Spread, Value};

/// One forecast, section by section.
pub(super) fn show(plan: &Plan, out: Out) -> Result<(), Failure> {
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
pub(super) fn record(plan: &Plan) -> Record {
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
pub(super) const COLUMNS: [&str; 14] = [
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

pub(super) fn row(plan: &Plan) -> Record {
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

fn spread_text(spread: Spread) -> String {
    match spread {
        Spread::Uniform => "uniform".into(),
        Spread::Zipf(exponent) => format!("zipf:{exponent}"),
    }
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
}
