//! Deadlines: how long a thing lasts, and whether its last instant belongs to it. The only place that says when one is over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A time that runs from an instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    /// How long, in ms.
    pub ms: u64,
    /// What holds at its last instant. Default `excluded`.
    #[serde(default)]
    pub end: End,
}

/// Whether a time has passed at its last instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It has: at exactly 24 hours it is over (A1-9).
    #[default]
    Excluded,
    /// It has not: at exactly 24 hours it still runs (A2-2).
    Included,
}

impl Deadline {
    /// The first instant at which it is over, if it runs since `since`.
    pub fn over_at(self, since: Timestamp) -> Timestamp {
        let end = since.plus(Duration::from_millis(self.ms));
        match self.end {
            End::Excluded => end,
            End::Included => end.plus(Duration::from_nanos(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_belongs_to_the_time_or_does_not() {
        let since = Timestamp::from_nanos(7);
        for (end, over_at) in [(End::Excluded, 2_000_007), (End::Included, 2_000_008)] {
            let deadline = Deadline { ms: 2, end };
            assert_eq!(deadline.over_at(since), Timestamp::from_nanos(over_at));
        }
        let never = Deadline {
            ms: u64::MAX,
            end: End::Included,
        };
        assert_eq!(never.over_at(since), Timestamp::from_nanos(i64::MAX));
    }
}
