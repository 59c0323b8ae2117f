//! Meters, counts, tallies, charges.

use super::{FieldError, amount, required_enum, timestamp};
use crate::money::Amount;
use crate::proto::v1;
use crate::usage::series::{Apart, Point, Step};
use crate::usage::{Certainty, Counts, Meter, Tally};

/// A meter.
pub const fn meter(meter: Meter) -> v1::Meter {
    match meter {
        Meter::Request => v1::Meter::Request,
        Meter::Input => v1::Meter::Input,
        Meter::CachedInput => v1::Meter::CachedInput,
        Meter::CacheWrite => v1::Meter::CacheWrite,
        Meter::Output => v1::Meter::Output,
        Meter::Reasoning => v1::Meter::Reasoning,
        Meter::Image => v1::Meter::Image,
        Meter::AudioSecond => v1::Meter::AudioSecond,
        Meter::ByteIn => v1::Meter::ByteIn,
        Meter::ByteOut => v1::Meter::ByteOut,
    }
}

/// A required meter.
pub fn meter_from(field: &str, number: i32) -> Result<Meter, FieldError> {
    let names = "METER_REQUEST, METER_INPUT, METER_CACHED_INPUT, METER_CACHE_WRITE, METER_OUTPUT, \
                 METER_REASONING, METER_IMAGE, METER_AUDIO_SECOND, METER_BYTE_IN, METER_BYTE_OUT";
    let wanted: v1::Meter = required_enum(field, number, names)?;
    let found = Meter::ALL.into_iter().find(|known| meter(*known) == wanted);
    found.ok_or_else(|| FieldError::invalid(field, format!("it must be one of {names}")))
}

/// How sure counts are.
pub const fn certainty(certainty: Certainty) -> v1::Certainty {
    match certainty {
        Certainty::Exact => v1::Certainty::Exact,
        Certainty::Estimated => v1::Certainty::Estimated,
        Certainty::None => v1::Certainty::None,
    }
}

/// Counts, without the zeros.
pub fn counts(counts: &Counts) -> Vec<v1::MeterCount> {
    let some = Meter::ALL
        .into_iter()
        .filter(|meter| counts.get(*meter) > 0);
    some.map(|each| v1::MeterCount {
        meter: meter(each).into(),
        count: counts.get(each),
    })
    .collect()
}

/// Counts, each meter at most once. A call that says nothing about [`Meter::Request`] is one request.
pub fn counts_from(field: &str, given: &[v1::MeterCount]) -> Result<Counts, FieldError> {
    let mut counts = Counts::default();
    let mut seen = [false; Meter::COUNT];
    for (index, each) in given.iter().enumerate() {
        let meter = meter_from(&format!("{field}[{index}].meter"), each.meter)?;
        if let Some(seen) = seen.get_mut(meter.index())
            && std::mem::replace(seen, true)
        {
            let problem = format!("{} stands twice; give each meter once", meter.name());
            return Err(FieldError::invalid(format!("{field}[{index}]"), problem));
        }
        counts.set(meter, each.count);
    }
    if seen.get(Meter::Request.index()) == Some(&false) {
        counts.set(Meter::Request, 1);
    }
    Ok(counts)
}

/// Calls added up.
pub fn tally(tally: &Tally, unit: &str) -> v1::Tally {
    v1::Tally {
        calls: tally.calls(),
        exact_calls: tally.exact,
        estimated_calls: tally.estimated,
        unmetered_calls: tally.none,
        cost: Some(amount(Amount::from_nanos(tally.cost_nanos), unit)),
        counts: counts(&tally.counts),
    }
}

/// How long each point of a series is.
pub fn usage_step(field: &str, number: i32) -> Result<Step, FieldError> {
    match v1::UsageStep::try_from(number) {
        Ok(v1::UsageStep::Unspecified | v1::UsageStep::Hour) => Ok(Step::Hour),
        Ok(v1::UsageStep::Day) => Ok(Step::Day),
        Ok(v1::UsageStep::Month) => Ok(Step::Month),
        Err(_) => Err(FieldError::invalid(
            field,
            format!("is {number}; it must be USAGE_STEP_HOUR, _DAY or _MONTH"),
        )),
    }
}

/// What is told apart; keys and models if nothing is named.
pub fn usage_dimensions(field: &str, numbers: &[i32]) -> Result<Apart, FieldError> {
    let mut apart = Apart {
        keys: numbers.is_empty(),
        models: numbers.is_empty(),
        services: false,
    };
    for (index, number) in numbers.iter().enumerate() {
        let names = "USAGE_DIMENSION_KEY, _MODEL, _SERVICE, _TOTAL";
        let at = format!("{field}[{index}]");
        match required_enum(&at, *number, names)? {
            v1::UsageDimension::Total if numbers.len() > 1 => {
                let problem = "USAGE_DIMENSION_TOTAL stands alone; leave out the others, or it";
                return Err(FieldError::invalid(at, problem));
            }
            v1::UsageDimension::Total => {}
            v1::UsageDimension::Key => apart.keys = true,
            v1::UsageDimension::Model => apart.models = true,
            v1::UsageDimension::Service => apart.services = true,
            v1::UsageDimension::Unspecified => {}
        }
    }
    Ok(apart)
}

/// One point of a series.
pub fn usage_row(point: &Point, sum: &Tally, unit: &str) -> v1::UsageRow {
    let text = |name: Option<String>| name.unwrap_or_default();
    v1::UsageRow {
        start_time: Some(timestamp(point.start.start())),
        key_id: text(point.key.as_ref().map(ToString::to_string)),
        model: text(point.model.as_ref().map(ToString::to_string)),
        tally: Some(tally(sum, unit)),
        service: point.service.clone(),
    }
}
