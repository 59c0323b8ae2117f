//! Times, counted by size: what is said of them are means, percentiles and the longest. Buckets are an eighth of a doubling wide, so
//! a percentile is off by 9 % at most.

use std::fmt;

use super::number::{real, whole};

/// Buckets for a doubling.
const FINE: f64 = 8.0;

/// Up to 2^63 ns, 292 years.
const BUCKETS: usize = 63 * 8;

/// Times in nanoseconds, each with a weight.
#[derive(Clone, PartialEq)]
pub(super) struct Histogram {
    buckets: Vec<f64>,
    weight: f64,
    sum: f64,
    longest: u64,
}

impl fmt::Debug for Histogram {
    /// Without its buckets, of which there are hundreds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("weight", &self.weight)
            .field("mean", &self.mean())
            .field("longest", &self.longest())
            .finish_non_exhaustive()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0.0; BUCKETS],
            weight: 0.0,
            sum: 0.0,
            longest: 0,
        }
    }
}

impl Histogram {
    /// Counts a time.
    pub(super) fn add(&mut self, nanos: u64) {
        let place = whole((real(nanos.max(1)).log2() * FINE).floor());
        let place = usize::try_from(place)
            .unwrap_or(BUCKETS)
            .min(BUCKETS.saturating_sub(1));
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket += 1.0;
        }
        self.weight += 1.0;
        self.sum += real(nanos);
        self.longest = self.longest.max(nanos);
    }

    /// Counts another's times in, each as so many.
    pub(super) fn merge(&mut self, other: &Self, times: f64) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more * times;
        }
        self.weight += other.weight * times;
        self.sum += other.sum * times;
        self.longest = self.longest.max(other.longest);
    }

    /// How many, by weight.
    #[cfg(test)]
    pub(super) const fn weight(&self) -> f64 {
        self.weight
    }

    /// The mean, in seconds; `None` of nothing.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight / 1e9)
    }

    /// The longest, in seconds; `None` of nothing.
    pub(super) fn longest(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| real(self.longest) / 1e9)
    }

    /// The time, in seconds, that this part of all times does not exceed; `None` of nothing.
    pub(super) fn part(&self, part: f64) -> Option<f64> {
        let wanted = self.weight * part;
        let mut seen = 0.0;
        for (place, bucket) in (0_u32..).zip(&self.buckets) {
            seen += bucket;
            if *bucket > 0.0 && seen >= wanted {
                // The bucket's upper end, or the longest if that is less.
                let upper = ((f64::from(place) + 1.0) / FINE).exp2();
                return Some(upper.min(real(self.longest)) / 1e9);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_off_by_a_bucket_at_most() {
        let mut times = Histogram::default();
        for micros in 1..=1_000_u64 {
            times.add(micros * 1_000);
        }
        for (part, exact) in [(0.5, 500e-6), (0.99, 990e-6), (1.0, 1e-3)] {
            let got = times.part(part).unwrap();
            assert!(got >= exact * 0.999 && got <= exact * 1.1, "{part}: {got}");
        }
        assert_eq!(times.longest(), Some(1e-3));
        assert!((times.mean().unwrap() - 500.5e-6).abs() < 1e-9);
    }

    #[test]
    fn what_is_merged_counts_as_often_as_it_stands_for() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.add(1_000);
        other.add(1_000_000);
        one.merge(&other, 99.0);
        assert_eq!(one.weight(), 100.0);
        assert!(one.part(0.005).unwrap() < 2e-6);
        assert!(one.part(0.02).unwrap() > 9e-4);
        assert_eq!(Histogram::default().part(0.5), None);
    }
}
