//! Usage as a time series: rows by hour, key and model added up to hours, days or months and to what is told apart. Reads no store.

use std::collections::BTreeMap;

use crate::clock::Hour;
use crate::id::{KeyId, ModelName};
use crate::usage::Tally;

const HOURS_PER_DAY: i64 = 24;
const SECONDS_PER_HOUR: i64 = 3_600;

/// How long each point is; all are UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// An hour.
    #[default]
    Hour,
    /// A day.
    Day,
    /// A calendar month.
    Month,
}

impl Step {
    /// The first hour of the point in which an hour lies.
    pub fn start(self, hour: Hour) -> Hour {
        match self {
            Self::Hour => hour,
            Self::Day => Hour(hour.0.saturating_sub(hour.0.rem_euclid(HOURS_PER_DAY))),
            Self::Month => month(hour, 0).unwrap_or(hour),
        }
    }

    /// The first hour of the point after the one in which an hour lies.
    pub fn next(self, hour: Hour) -> Hour {
        let after = |start: Hour, hours| Hour(start.0.saturating_add(hours));
        match self {
            Self::Hour => after(hour, 1),
            Self::Day => after(self.start(hour), HOURS_PER_DAY),
            // Beyond the calendar there is nothing to tell apart.
            Self::Month => month(hour, 1).unwrap_or(Hour(i64::MAX)),
        }
    }

    /// The first hour of the point that lies so many before the one in which an hour lies.
    pub fn back(self, hour: Hour, points: i64) -> Hour {
        let before = |hours: i64| Hour(self.start(hour).0.saturating_sub(hours));
        match self {
            Self::Hour => before(points),
            Self::Day => before(points.saturating_mul(HOURS_PER_DAY)),
            Self::Month => month(hour, points.saturating_neg()).unwrap_or(Hour(i64::MIN)),
        }
    }
}

/// The first hour of the month that lies so many after the one in which an hour lies; `None` beyond the calendar.
fn month(hour: Hour, later: i64) -> Option<Hour> {
    let time = jiff::Timestamp::from_second(hour.0.checked_mul(SECONDS_PER_HOUR)?).ok()?;
    let first = jiff::tz::Offset::UTC
        .to_datetime(time)
        .date()
        .first_of_month();
    let first = first
        .checked_add(jiff::Span::new().try_months(later).ok()?)
        .ok()?;
    let start = jiff::tz::Offset::UTC
        .to_timestamp(first.at(0, 0, 0, 0))
        .ok()?;
    Some(Hour(start.as_second().div_euclid(SECONDS_PER_HOUR)))
}

/// What is told apart beside time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    /// Keys.
    pub keys: bool,
    /// Models.
    pub models: bool,
    /// Services.
    pub services: bool,
}

/// One point of a series, in the order of the listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Its first hour.
    pub start: Hour,
    /// Whose calls, if keys are told apart.
    pub key: Option<KeyId>,
    /// Of which model, if models are told apart; `None` too for calls of a free route that names none.
    pub model: Option<ModelName>,
    /// Of which service, if services are told apart; empty too for keys without one.
    pub service: String,
}

/// Rows being added up, hour by hour.
#[derive(Debug)]
pub struct Series {
    step: Step,
    apart: Apart,
    open: BTreeMap<Point, Tally>,
}

impl Series {
    /// Nothing yet.
    pub const fn new(step: Step, apart: Apart) -> Self {
        Self {
            step,
            apart,
            open: BTreeMap::new(),
        }
    }

    /// Adds a row.
    pub fn add(
        &mut self,
        hour: Hour,
        key: &KeyId,
        model: Option<&ModelName>,
        service: &str,
        tally: &Tally,
    ) {
        let point = Point {
            start: self.step.start(hour),
            key: self.apart.keys.then(|| key.clone()),
            model: model.filter(|_| self.apart.models).cloned(),
            service: if self.apart.services {
                service.into()
            } else {
                String::new()
            },
        };
        self.open.entry(point).or_default().add(tally);
    }

    /// The points, in order, to which no row of `from` or later can belong; they leave.
    pub fn complete(&mut self, from: Hour) -> BTreeMap<Point, Tally> {
        let edge = Point {
            start: self.step.start(from),
            key: None,
            model: None,
            service: String::new(),
        };
        let open = self.open.split_off(&edge);
        std::mem::replace(&mut self.open, open)
    }

    /// The rest.
    pub fn end(self) -> BTreeMap<Point, Tally> {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn hour(text: &str) -> Hour {
        text.parse::<Timestamp>().unwrap().hour()
    }

    #[test]
    fn points_begin_at_the_hour_the_day_and_the_first_of_the_month() {
        for (step, at, start, next, back) in [
            (
                Step::Hour,
                "2026-02-28T23:59:59Z",
                "2026-02-28T23:00:00Z",
                "2026-03-01T00:00:00Z",
                "2026-02-28T21:00:00Z",
            ),
            (
                Step::Day,
                "2024-02-29T23:00:00Z",
                "2024-02-29T00:00:00Z",
                "2024-03-01T00:00:00Z",
                "2024-02-27T00:00:00Z",
            ),
            (
                Step::Month,
                "2026-12-31T23:00:00Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
                "2026-10-01T00:00:00Z",
            ),
            (
                Step::Month,
                "1969-12-31T23:00:00Z",
                "1969-12-01T00:00:00Z",
                "1970-01-01T00:00:00Z",
                "1969-10-01T00:00:00Z",
            ),
        ] {
            let at = hour(at);
            assert_eq!(step.start(at), hour(start), "{step:?}");
            assert_eq!(step.start(step.start(at)), hour(start), "{step:?}");
            assert_eq!(step.next(at), hour(next), "{step:?}");
            assert_eq!(step.back(at, 2), hour(back), "{step:?}");
        }
    }

    #[test]
    fn rows_add_up_by_what_is_told_apart_and_leave_when_their_time_is_over() {
        let apart = Apart {
            keys: false,
            models: true,
            services: false,
        };
        let mut series = Series::new(Step::Day, apart);
        let (one, two) = (KeyId::new("k1").unwrap(), KeyId::new("k2").unwrap());
        let model = ModelName::new("m").unwrap();
        let tally = |exact, cost_nanos| Tally {
            exact,
            cost_nanos,
            ..Tally::default()
        };
        let day = hour("2026-01-31T00:00:00Z");
        series.add(day, &one, Some(&model), "web", &tally(1, 10));
        series.add(Hour(day.0 + 23), &two, Some(&model), "app", &tally(2, 20));
        series.add(Hour(day.0 + 24), &one, None, "", &tally(4, 40));
        assert!(series.complete(Hour(day.0 + 23)).is_empty());
        let complete: Vec<_> = series.complete(Hour(day.0 + 24)).into_iter().collect();
        let [(point, sum)] = complete.as_slice() else {
            panic!("{complete:?}")
        };
        assert_eq!(
            (point.start, &point.key, point.model.as_ref()),
            (day, &None, Some(&model))
        );
        assert_eq!(*sum, tally(3, 30));
        assert_eq!(
            series.end().into_values().collect::<Vec<_>>(),
            [tally(4, 40)]
        );
    }
}
