//! What a call used: counts by meter, and how sure they are. Its rows as a time series are in [`series`]. No prices here.

pub mod series;

use serde::{Deserialize, Serialize};

/// What can be counted and priced. The token meters are disjoint: `Input` leaves out what was cached, `Output` leaves out
/// reasoning, whatever the provider's own fields include (WIRE.md says which do).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// One call.
    Request,
    /// Input tokens that were not cached.
    Input,
    /// Output tokens that are not reasoning.
    Output,
    /// Input tokens read from a cache.
    CachedInput,
    /// Input tokens written to a cache.
    CacheWrite,
    /// Reasoning tokens.
    Reasoning,
    /// Images made.
    Image,
    /// Seconds of audio.
    AudioSecond,
    /// Bytes of the request's body.
    ByteIn,
    /// Bytes of the response's body.
    ByteOut,
}

impl Meter {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All of them, in the order of [`Meter::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Request,
        Self::Input,
        Self::Output,
        Self::CachedInput,
        Self::CacheWrite,
        Self::Reasoning,
        Self::Image,
        Self::AudioSecond,
        Self::ByteIn,
        Self::ByteOut,
    ];

    /// Its place in a [`Counts`].
    #[expect(clippy::as_conversions, reason = "a fieldless enum's discriminant")]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in configuration, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::CacheWrite => "cache_write",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
            Self::Image => "image",
            Self::AudioSecond => "audio_second",
            Self::ByteIn => "byte_in",
            Self::ByteOut => "byte_out",
        }
    }

    /// The meter of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|meter| meter.name() == name)
    }
}

/// A count for each meter; what is not counted is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(pub [u64; Meter::COUNT]);

impl Counts {
    /// The count of one meter.
    pub fn get(&self, meter: Meter) -> u64 {
        self.0.get(meter.index()).copied().unwrap_or(0)
    }

    /// Sets the count of one meter.
    pub fn set(&mut self, meter: Meter, count: u64) {
        if let Some(slot) = self.0.get_mut(meter.index()) {
            *slot = count;
        }
    }

    /// The same with one meter set.
    #[must_use]
    pub fn with(mut self, meter: Meter, count: u64) -> Self {
        self.set(meter, count);
        self
    }

    /// Adds another set of counts, held at the end of the range.
    pub fn add(&mut self, other: &Self) {
        for (slot, more) in self.0.iter_mut().zip(other.0) {
            *slot = slot.saturating_add(more);
        }
    }

    /// What this has more than `earlier`.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        for (slot, before) in self.0.iter_mut().zip(earlier.0) {
            *slot = slot.saturating_sub(before);
        }
        self
    }
}

/// How sure the counts of a charge are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// The upstream said it.
    Exact,
    /// Worked out from what was seen, or from the hold.
    Estimated,
    /// Nothing is known; nothing but the call itself was counted.
    None,
}

impl Certainty {
    /// Its name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Estimated => "estimated",
            Self::None => "none",
        }
    }
}

/// Calls, money and counts added up: one row of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Settled calls whose counts the upstream said.
    pub exact: u64,
    /// Settled calls whose counts were worked out.
    pub estimated: u64,
    /// Settled calls of which nothing is known.
    pub none: u64,
    /// What they cost, in nano-units.
    pub cost_nanos: i64,
    /// What they used.
    pub counts: Counts,
}

impl Tally {
    /// All calls.
    pub const fn calls(&self) -> u64 {
        self.exact
            .saturating_add(self.estimated)
            .saturating_add(self.none)
    }

    /// Adds another tally, held at the end of the range.
    pub fn add(&mut self, other: &Self) {
        self.exact = self.exact.saturating_add(other.exact);
        self.estimated = self.estimated.saturating_add(other.estimated);
        self.none = self.none.saturating_add(other.none);
        self.cost_nanos = self.cost_nanos.saturating_add(other.cost_nanos);
        self.counts.add(&other.counts);
    }

    /// The higher of each of its values and another's.
    #[must_use]
    pub fn highest(mut self, other: &Self) -> Self {
        self.exact = self.exact.max(other.exact);
        self.estimated = self.estimated.max(other.estimated);
        self.none = self.none.max(other.none);
        self.cost_nanos = self.cost_nanos.max(other.cost_nanos);
        for (count, theirs) in self.counts.0.iter_mut().zip(other.counts.0) {
            *count = (*count).max(theirs);
        }
        self
    }

    /// What this has more than `earlier`.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        self.exact = self.exact.saturating_sub(earlier.exact);
        self.estimated = self.estimated.saturating_sub(earlier.estimated);
        self.none = self.none.saturating_sub(earlier.none);
        self.cost_nanos = self.cost_nanos.saturating_sub(earlier.cost_nanos);
        self.counts = self.counts.since(&earlier.counts);
        self
    }
}
