//! The only clock. Everything else is handed a [`Now`] and reads no time itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC, in nanoseconds since 1970. Good until the year 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Nanoseconds of a clock that only goes forward; comparable within one process only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(u64);

/// One reading of the clock: what deadlines are compared with, and what rates and leases are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The time of day. May be set by an administrator, so nothing that must only grow uses it.
    pub wall: Timestamp,
    /// The running time.
    pub mono: Monotonic,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since 1970.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Later by a duration; held at the end of the range.
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)),
        )
    }

    /// The UTC month it falls in, counted from January 1970.
    pub const fn month(self) -> i64 {
        // Days to a civil date, in years that begin in March, so that the leap day is the last of its year.
        let days = self
            .0
            .div_euclid(NANOS_PER_HOUR.saturating_mul(24))
            .saturating_add(719_468);
        let era = days.div_euclid(146_097);
        let day = days.rem_euclid(146_097);
        let leaps = day.saturating_sub(day / 1_460).saturating_add(day / 36_524);
        let year = leaps.saturating_sub(day / 146_096) / 365;
        let before = year
            .saturating_mul(365)
            .saturating_add(year / 4)
            .saturating_sub(year / 100);
        let month = day
            .saturating_sub(before)
            .saturating_mul(5)
            .saturating_add(2)
            / 153;
        let years = era
            .saturating_mul(400)
            .saturating_add(year)
            .saturating_sub(1_970);
        years
            .saturating_mul(12)
            .saturating_add(month)
            .saturating_add(2)
    }

    /// The first instant of a UTC month, counted from January 1970.
    pub const fn of_month(month: i64) -> Self {
        let (years, place) = (month.div_euclid(12), month.rem_euclid(12));
        // In years that begin in March.
        let (year, shifted) = if place < 2 {
            (years.saturating_add(1_969), place.saturating_add(10))
        } else {
            (years.saturating_add(1_970), place.saturating_sub(2))
        };
        let leaps = year
            .div_euclid(4)
            .saturating_sub(year.div_euclid(100))
            .saturating_add(year.div_euclid(400));
        let days = year
            .saturating_mul(365)
            .saturating_add(leaps)
            .saturating_add(shifted.saturating_mul(153).saturating_add(2) / 5)
            .saturating_sub(719_468);
        Self(days.saturating_mul(NANOS_PER_HOUR.saturating_mul(24)))
    }

    /// The UTC hour it falls in, counted from 1970. An hour contains its first instant and not its last.
    pub const fn hour(self) -> Hour {
        Hour(self.0.div_euclid(NANOS_PER_HOUR))
    }
}

const NANOS_PER_HOUR: i64 = 3_600_000_000_000;

/// A UTC hour, counted from 1970: what usage is summed by.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Hour(pub i64);

impl Hour {
    /// Its first instant.
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0.saturating_mul(NANOS_PER_HOUR))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, as `2026-01-31T10:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(self.0.into()) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{}ns", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let wrong = || TimestampError(text.chars().take(64).collect());
        let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        i64::try_from(time.as_nanosecond())
            .map(Self)
            .map_err(|_| wrong())
    }
}

/// A text that is not an RFC 3339 instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an instant such as 2026-01-31T10:00:00Z")]
pub struct TimestampError(String);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Monotonic {
    /// From nanoseconds of running time.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds of running time.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Later by a duration; held at the end of the range.
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long it is since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Where [`Now`] comes from: the system, or a test's hand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(Arc<Anchor>),
    Manual(Arc<Hands>),
    Day(Arc<Day>),
}

/// A time of day that stands until it is moved, over a running time that runs.
#[derive(Debug)]
struct Day {
    wall: AtomicI64,
    start: Instant,
}

/// The wall time at which the running time was zero. One `Instant` reading then gives both.
#[derive(Debug)]
struct Anchor {
    start: Instant,
    wall_nanos_at_start: AtomicI64,
}

#[derive(Debug)]
struct Hands {
    wall: AtomicI64,
    mono: AtomicU64,
}

impl Clock {
    /// The system's clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn system() -> Self {
        let anchor = Anchor {
            start: Instant::now(),
            wall_nanos_at_start: AtomicI64::new(0),
        };
        let clock = Self(Source::System(Arc::new(anchor)));
        clock.follow_wall();
        clock
    }

    /// A clock that stands at `wall` until it is moved.
    pub fn manual(wall: Timestamp) -> Self {
        let hands = Hands {
            wall: AtomicI64::new(wall.0),
            mono: AtomicU64::new(1),
        };
        Self(Source::Manual(Arc::new(hands)))
    }

    /// A clock whose time of day stands at `wall` until it is moved, while its running time runs by itself: for tests of deadlines among
    /// replicas, which wait for each other.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn day(wall: Timestamp) -> Self {
        let day = Day {
            wall: AtomicI64::new(wall.0),
            start: Instant::now(),
        };
        Self(Source::Day(Arc::new(day)))
    }

    /// One reading of both times.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::System(anchor) => {
                let run = Instant::now().saturating_duration_since(anchor.start);
                let mono = Monotonic(u64::try_from(run.as_nanos()).unwrap_or(u64::MAX));
                let start = Timestamp(anchor.wall_nanos_at_start.load(Relaxed));
                Now {
                    wall: start.plus(run),
                    mono,
                }
            }
            Source::Manual(hands) => Now {
                wall: Timestamp(hands.wall.load(Relaxed)),
                mono: Monotonic(hands.mono.load(Relaxed)),
            },
            Source::Day(day) => {
                let run = Instant::now().saturating_duration_since(day.start);
                Now {
                    wall: Timestamp(day.wall.load(Relaxed)),
                    mono: Monotonic(u64::try_from(run.as_nanos()).unwrap_or(u64::MAX)),
                }
            }
        }
    }

    /// Takes up a change of the system's time of day. Called on a schedule, not per request: a request pays for one
    /// `Instant` and no more.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn follow_wall(&self) {
        if let Source::System(anchor) = &self.0 {
            let wall = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let run = anchor.start.elapsed();
            let start = wall.saturating_sub(run).as_nanos();
            anchor
                .wall_nanos_at_start
                .store(i64::try_from(start).unwrap_or(i64::MAX), Relaxed);
        }
    }

    /// Moves a manual clock, as far as it is one: both its times, or its time of day. A system clock does not move by hand, so this does
    /// nothing to it.
    pub fn advance(&self, by: Duration) {
        let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        match &self.0 {
            Source::System(_) => {}
            Source::Day(day) => {
                day.wall.fetch_add(nanos, Relaxed);
            }
            Source::Manual(hands) => {
                hands.wall.fetch_add(nanos, Relaxed);
                hands.mono.fetch_add(nanos.unsigned_abs(), Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_half_open_also_before_1970() {
        for (nanos, hour) in [
            (0, 0),
            (-1, -1),
            (NANOS_PER_HOUR - 1, 0),
            (NANOS_PER_HOUR, 1),
        ] {
            assert_eq!(Timestamp(nanos).hour(), Hour(hour), "{nanos}");
        }
    }

    #[test]
    fn months_begin_at_midnight_of_the_first() {
        for (text, month) in [
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-31T23:59:59.999999999Z", 0),
            ("1970-02-01T00:00:00Z", 1),
            ("1972-02-29T23:59:59.999999999Z", 25),
            ("1972-03-01T00:00:00Z", 26),
            ("2000-02-29T12:00:00Z", 361),
            ("2026-11-24T12:00:00Z", 682),
            ("2100-02-28T23:59:59Z", 1_561),
            ("2100-03-01T00:00:00Z", 1_562),
        ] {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(time.month(), month, "{text}");
        }
        for month in -2_000..3_000 {
            let first = Timestamp::of_month(month);
            assert_eq!(first.month(), month);
            assert_eq!(Timestamp(first.0 - 1).month(), month - 1);
        }
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual(Timestamp(5));
        let before = clock.now();
        clock.advance(Duration::from_nanos(3));
        assert_eq!(clock.now().wall, Timestamp(8));
        assert_eq!(clock.now().mono.since(before.mono), Duration::from_nanos(3));
    }

    #[test]
    fn instants_read_back() {
        let time = Timestamp(1_790_000_000_123_456_789);
        assert_eq!(time.to_string().parse(), Ok(time));
    }
}
