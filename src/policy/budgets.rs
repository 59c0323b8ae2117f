//! Budgets: what calls of a key, of an account, or for a capability may cost in an hour, a day, a month, or ever. Which time an instant
//! belongs to is said here, and nowhere else.

use serde::{Deserialize, Serialize};

use crate::clock::{Hour, Timestamp};
use crate::money::Amount;

/// How many budgets a key or a policy may have: a call is held in each that it counts to.
pub const BUDGETS_MAX: usize = 8;

/// How much calls may cost in a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// How much, in the account's unit.
    pub amount: Amount,
    /// In which time.
    pub period: Period,
    /// For calls of this capability only, a pattern as in the price book; `None` is all calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
}

/// What is wrong with budgets, with what would work.
pub fn problems(budgets: &[Budget]) -> Vec<String> {
    let mut problems = Vec::new();
    if budgets.len() > BUDGETS_MAX {
        let many = budgets.len();
        problems.push(format!("budgets has {many}; there may be {BUDGETS_MAX}"));
    }
    for (index, budget) in budgets.iter().enumerate() {
        if !budget.amount.is_positive() {
            let amount = budget.amount;
            problems.push(format!(
                "budgets[{index}].amount is {amount}; give more than 0"
            ));
        }
        let pattern = budget.capability.as_deref().unwrap_or("*");
        let stem = pattern.strip_suffix('*').unwrap_or(pattern);
        if pattern.is_empty() || stem.contains('*') {
            problems.push(format!(
                "budgets[{index}].capability is `{pattern}`; give a capability, or a beginning of one with `*` at its end"
            ));
        }
    }
    problems
}

/// For how long a budget is. Times begin in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A clock hour.
    Hour,
    /// A day, from midnight.
    Day,
    /// A calendar month.
    Month,
    /// For ever.
    Total,
}

/// One time of a period: half-open, as all times are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its name, that sorts as its time does: `2026-11-24T13`, `2026-11-24`, `2026-11`, `total`.
    pub name: String,
    /// Its first instant.
    pub begins: Timestamp,
    /// The first one after it; `None` for ever.
    pub ends: Option<Timestamp>,
}

impl Span {
    /// Whether an instant is in it.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.begins <= at && self.ends.is_none_or(|ends| at < ends)
    }
}

const HOURS_A_DAY: i64 = 24;

impl Span {
    /// The time of that name; `None` if it is the name of none, or of one that never ends.
    pub fn named(name: &str) -> Option<Self> {
        let period = match name.len() {
            7 => Period::Month,
            10 => Period::Day,
            13 => Period::Hour,
            _ => return None,
        };
        // Its first instant, written as an instant is; what is no time has none.
        let first = match period {
            Period::Month => format!("{name}-01T00:00:00Z"),
            Period::Day => format!("{name}T00:00:00Z"),
            Period::Hour | Period::Total => format!("{name}:00:00Z"),
        };
        let span = period.span(first.parse().ok()?);
        (span.name == name).then_some(span)
    }
}

impl Period {
    /// The time that an instant belongs to.
    pub fn span(self, at: Timestamp) -> Span {
        let Hour(hour) = at.hour();
        let day = hour.div_euclid(HOURS_A_DAY);
        let (year, month, of_month) = civil(day);
        let midnight = |day: i64| Hour(day.saturating_mul(HOURS_A_DAY)).start();
        match self {
            Self::Hour => Span {
                name: format!(
                    "{year:04}-{month:02}-{of_month:02}T{:02}",
                    hour.rem_euclid(HOURS_A_DAY)
                ),
                begins: Hour(hour).start(),
                ends: Some(Hour(hour.saturating_add(1)).start()),
            },
            Self::Day => Span {
                name: format!("{year:04}-{month:02}-{of_month:02}"),
                begins: midnight(day),
                ends: Some(midnight(day.saturating_add(1))),
            },
            Self::Month => {
                let first = day.saturating_sub(of_month).saturating_add(1);
                Span {
                    name: format!("{year:04}-{month:02}"),
                    begins: midnight(first),
                    ends: Some(midnight(first.saturating_add(days_of(year, month)))),
                }
            }
            Self::Total => Span {
                name: "total".into(),
                begins: Timestamp::from_nanos(i64::MIN),
                ends: None,
            },
        }
    }
}

/// Year, month and day of a day counted from 1970, in the Gregorian calendar: by eras of 400 years, which are all alike, of years that
/// begin in March, so that the odd day is the last.
const fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day.saturating_add(719_468);
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let leaps = (of_era / 1_460)
        .saturating_sub(of_era / 36_524)
        .saturating_add(of_era / 146_096);
    let year = of_era.saturating_sub(leaps) / 365;
    let before = year
        .saturating_mul(365)
        .saturating_add(year / 4)
        .saturating_sub(year / 100);
    let of_year = of_era.saturating_sub(before);
    let march = of_year.saturating_mul(5).saturating_add(2) / 153;
    let day = of_year
        .saturating_sub(march.saturating_mul(153).saturating_add(2) / 5)
        .saturating_add(1);
    let month = if march < 10 {
        march.saturating_add(3)
    } else {
        march.saturating_sub(9)
    };
    let year = year.saturating_add(era.saturating_mul(400));
    let year = if month <= 2 {
        year.saturating_add(1)
    } else {
        year
    };
    (year, month, day)
}

const fn days_of(year: i64, month: i64) -> i64 {
    let leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_is_known_by_its_name() {
        let instants = [
            "1969-12-31T23:59:59Z",
            "2024-02-29T00:00:00Z",
            "2026-11-24T13:30:00Z",
            "2026-12-31T23:59:59.999999999Z",
        ];
        for instant in instants {
            for period in [Period::Hour, Period::Day, Period::Month] {
                let span = period.span(at(instant));
                assert_eq!(Span::named(&span.name), Some(span));
            }
        }
        for other in [
            "",
            "total",
            "2026",
            "2026-13",
            "2026-02-30",
            "2026-11-24T24",
            "2026-11-2",
            "points!",
            "a234-56",
            "2026/11",
        ] {
            assert_eq!(Span::named(other), None, "{other}");
        }
    }

    #[test]
    fn a_time_holds_its_first_instant_and_not_its_last() {
        let check = |period: Period, instant: &str, name: &str, begins: &str, ends: &str| {
            let span = period.span(at(instant));
            assert_eq!(span.name, name, "{instant}");
            assert_eq!(
                (span.begins, span.ends),
                (at(begins), Some(at(ends))),
                "{instant}"
            );
            let nanos = |by: i64, of: Timestamp| Timestamp::from_nanos(of.nanos() + by);
            for (edge, want) in [(-1, false), (0, true), (1, true)] {
                assert_eq!(span.contains(nanos(edge, span.begins)), want);
                assert_eq!(
                    span.contains(nanos(edge, at(ends))),
                    !want || edge < 0,
                    "{edge}"
                );
            }
            // A nanosecond before, the time before; at its end, the next.
            assert_ne!(period.span(nanos(-1, span.begins)).name, name);
            assert_ne!(period.span(at(ends)).name, name);
            assert_eq!(period.span(nanos(-1, at(ends))).name, name);
        };
        let (hour, day, month) = (Period::Hour, Period::Day, Period::Month);
        check(
            hour,
            "2026-11-24T13:59:59.999999999Z",
            "2026-11-24T13",
            "2026-11-24T13:00:00Z",
            "2026-11-24T14:00:00Z",
        );
        check(
            day,
            "2026-12-31T23:00:00Z",
            "2026-12-31",
            "2026-12-31T00:00:00Z",
            "2027-01-01T00:00:00Z",
        );
        check(
            month,
            "2026-12-31T23:00:00Z",
            "2026-12",
            "2026-12-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        );
        check(
            month,
            "2028-02-29T00:00:00Z",
            "2028-02",
            "2028-02-01T00:00:00Z",
            "2028-03-01T00:00:00Z",
        );
        check(
            month,
            "2100-02-28T00:00:00Z",
            "2100-02",
            "2100-02-01T00:00:00Z",
            "2100-03-01T00:00:00Z",
        );
        check(
            month,
            "1969-12-31T23:59:59Z",
            "1969-12",
            "1969-12-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
        );
        let total = Period::Total.span(at("2026-11-24T13:00:00Z"));
        assert_eq!((total.name.as_str(), total.ends), ("total", None));
        assert!(
            total.contains(at("1970-01-01T00:00:00Z"))
                && total.contains(at("2200-01-01T00:00:00Z"))
        );
    }

    #[test]
    fn a_wrong_budget_is_named() {
        let budget = |amount, capability: Option<&str>| Budget {
            amount: Amount::from_nanos(amount),
            period: Period::Day,
            capability: capability.map(Into::into),
        };
        let wrong = [
            budget(0, None),
            budget(1, Some("a*b")),
            budget(1, Some("a*")),
        ];
        let problems = problems(&wrong).join("; ");
        assert!(problems.contains("budgets[0].amount is 0"), "{problems}");
        assert!(
            problems.contains("budgets[1].capability is `a*b`"),
            "{problems}"
        );
        assert!(!problems.contains("budgets[2]"), "{problems}");
        let many = vec![budget(1, None); BUDGETS_MAX + 1];
        assert!(super::problems(&many).join("").contains("there may be 8"));
    }

    #[test]
    fn every_day_of_two_centuries_has_its_date() {
        for day in -20_000..60_000 {
            let instant = Hour(day * HOURS_A_DAY).start();
            let text = instant.to_string();
            assert_eq!(Period::Day.span(instant).name, &text[..10]);
        }
    }
}
