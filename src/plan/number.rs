//! Between whole numbers and floats: the planner's figures are statistics, so floats; what is simulated is whole.

#![expect(
    clippy::as_conversions,
    reason = "the one place for it: figures are rounded, and a cast of a float holds at the ends of the range"
)]

use std::time::Duration;

/// As a float: exact to 2^53, close enough above.
pub(super) const fn real(number: u64) -> f64 {
    number as f64
}

/// As a float.
pub(super) const fn real_money(nanos: i64) -> f64 {
    nanos as f64
}

/// Rounded; not a number is zero.
pub(super) fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// Rounded; not a number is zero.
pub(super) fn whole_money(nanos: f64) -> i64 {
    nanos.round() as i64
}

/// Nanoseconds of a duration; 584 years at most.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A duration of so many seconds; nothing below zero, 584 years at most.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_nanos((seconds * 1e9).round() as u64)
}
