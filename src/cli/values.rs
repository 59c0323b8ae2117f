//! Values between the command line, the wire and the terminal: amounts, instants, durations, names of enums.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::money::Amount;
use crate::proto::v1;
use crate::usage::{Counts, Meter};

use super::failure::Failure;
use super::out::{Cell, Record};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// An amount for the wire. Its unit is left to the context, which is the account's or the price's.
pub(super) const fn amount(amount: Amount) -> v1::Amount {
    v1::Amount {
        unit: String::new(),
        nanos: amount.nanos(),
    }
}

/// An amount from the wire, which is nothing where there is none.
pub(super) fn amount_cell(amount: Option<&v1::Amount>) -> Cell {
    amount.map_or(Cell::None, |amount| {
        Cell::Amount(Amount::from_nanos(amount.nanos))
    })
}

pub(super) fn instant(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.nanos().div_euclid(NANOS_PER_SECOND),
        nanos: i32::try_from(at.nanos().rem_euclid(NANOS_PER_SECOND)).unwrap_or_default(),
    }
}

/// An instant from the wire as RFC 3339.
pub(super) fn instant_cell(at: Option<&prost_types::Timestamp>) -> Cell {
    let Some(at) = at else { return Cell::None };
    let nanos = at.seconds.checked_mul(NANOS_PER_SECOND);
    match nanos.and_then(|nanos| nanos.checked_add(at.nanos.into())) {
        Some(nanos) => Cell::Text(Timestamp::from_nanos(nanos).to_string()),
        // Beyond the year 2262: shown as it came.
        None => Cell::Text(format!("{} s since 1970", at.seconds)),
    }
}

/// `500ms`, `30s`, `10m`, `24h`, `180d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis_per: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("a duration is a whole number and ms, s, m, h or d, as in 30s".into()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a duration begins with a whole number")?;
    let millis = number
        .checked_mul(millis_per)
        .ok_or("the duration is too long")?;
    Ok(Duration::from_millis(millis))
}

pub(super) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

pub(super) fn duration_cell(duration: Option<&prost_types::Duration>) -> Cell {
    let read = duration.and_then(|duration| Duration::try_from(*duration).ok());
    read.map_or(Cell::None, |duration| Cell::Text(format!("{duration:?}")))
}

/// An enum's name on the wire as people know it: `ENTRY_KIND_LATE_CHARGE` is `late_charge`.
pub(super) fn word(name: &str, prefix: &str) -> Cell {
    let word = name.strip_prefix(prefix).unwrap_or(name);
    if word == "UNSPECIFIED" {
        return Cell::None;
    }
    Cell::Text(word.to_ascii_lowercase())
}

/// And back.
pub(super) fn unword<E>(
    text: &str,
    prefix: &str,
    from_name: impl Fn(&str) -> Option<E>,
) -> Result<E, String> {
    let name = format!("{prefix}{}", text.replace('.', "_").to_ascii_uppercase());
    let known = from_name(&name).filter(|_| text != "unspecified");
    known.ok_or_else(|| format!("`{text}` is not one of those listed in --help"))
}

pub(super) fn meter(text: &str) -> Result<v1::Meter, String> {
    unword(text, "METER_", v1::Meter::from_str_name).map_err(|_| {
        let names: Vec<_> = Meter::ALL.into_iter().map(Meter::name).collect();
        format!("`{text}` is not a meter; there are {}", names.join(", "))
    })
}

pub(super) fn counts_cell(counts: &[v1::MeterCount]) -> Cell {
    let mut sum = Counts::default();
    for count in counts {
        let name = count.meter().as_str_name().strip_prefix("METER_");
        let name = name.map(str::to_ascii_lowercase);
        if let Some(meter) = name.and_then(|name| Meter::from_name(&name)) {
            sum.set(meter, count.count);
        }
    }
    Cell::Counts(sum)
}

/// The fields of a tally, to be put after those that say what it is of.
pub(super) fn tally(record: Record, tally: &v1::Tally) -> Record {
    record
        .with("calls", Cell::Number(tally.calls))
        .with("exact", Cell::Number(tally.exact_calls))
        .with("estimated", Cell::Number(tally.estimated_calls))
        .with("unmetered", Cell::Number(tally.unmetered_calls))
        .with("cost", amount_cell(tally.cost.as_ref()))
        .with("unit", unit_cell(tally.cost.as_ref()))
        .with("counts", counts_cell(&tally.counts))
}

pub(super) fn unit_cell(amount: Option<&v1::Amount>) -> Cell {
    amount.map_or(Cell::None, |amount| Cell::text(&amount.unit))
}

pub(super) fn optional_number<N: Into<u64>>(number: Option<N>) -> Cell {
    number.map_or(Cell::None, |number| Cell::Number(number.into()))
}

/// What an answer should hold and does not: a server that is not ours.
pub(super) fn part<T>(part: Option<T>, name: &str) -> Result<T, Failure> {
    part.ok_or_else(|| Failure::unavailable(format!("the answer has no `{name}`")))
}

/// A text of `NAME=VALUE`, taken apart.
pub(super) fn pair(text: &str) -> Result<(&str, &str), String> {
    let parts = text.split_once('=');
    parts.ok_or_else(|| format!("`{text}` is not NAME=VALUE"))
}

/// A request id for a caller that gave none: as good as a UUID.
pub(super) fn request_id(given: Option<String>) -> Result<String, Failure> {
    if let Some(given) = given {
        return Ok(given);
    }
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(Failure::local)?;
    Ok(format!("cli-{:032x}", u128::from_be_bytes(bytes)))
}

/// A secret from standard input: on the command line, everyone on the machine could read it.
pub(super) fn secret_from_stdin() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(Failure::local)?;
    let secret = line.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(Failure::usage(
            "--secret-stdin: standard input has no first line",
        ));
    }
    Ok(secret.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1.5s",
            "-1s",
            "1w",
            "1 s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn instants_go_there_and_back_also_before_1970() {
        for text in ["2026-01-31T10:00:00.000000001Z", "1969-12-31T23:59:59.5Z"] {
            let at: Timestamp = text.parse().unwrap();
            assert_eq!(instant_cell(Some(&instant(at))), Cell::Text(text.into()));
        }
    }

    #[test]
    fn enum_names_are_words() {
        let kind = unword("late_charge", "ENTRY_KIND_", v1::EntryKind::from_str_name);
        assert_eq!(kind, Ok(v1::EntryKind::LateCharge));
        assert_eq!(
            word("ENTRY_KIND_LATE_CHARGE", "ENTRY_KIND_"),
            Cell::text("late_charge")
        );
        assert!(unword("unspecified", "ENTRY_KIND_", v1::EntryKind::from_str_name).is_err());
        for known in Meter::ALL {
            let wire = meter(known.name()).unwrap();
            let counted = counts_cell(&[v1::MeterCount {
                meter: wire.into(),
                count: 7,
            }]);
            assert_eq!(counted, Cell::Counts(Counts::default().with(known, 7)));
        }
    }
}
