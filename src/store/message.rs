//! What both stores must work out alike from a message: whether it makes sense, the exact differences in it, what it is granted,
//! and what a silent replica keeps. Pure; no storage here. `redis/publish.lua` repeats [`grant`] in doubles.

use super::{Commit, LEASE_MAX, Publish, Row, StoreError};
use crate::money::Amount;

/// The largest sequence number: Redis' scripts compare them as doubles. At a message a microsecond it lasts 285 years.
const SEQ_MAX: u64 = 9_007_199_254_740_991;

/// What a message changes if what stands is what it believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differences {
    /// Added to the total of spend; never below zero.
    pub(super) spend: Amount,
    /// How much of that a store had acknowledged before, and lost.
    pub(super) healed: Amount,
    /// Added to Σ committed, so taken from `unleased`.
    pub(super) committed: Amount,
    /// What it asks for, within bounds.
    pub(super) want: Amount,
    /// What of that is granted first.
    pub(super) need: Amount,
    /// Less than this is not granted.
    pub(super) least: Amount,
}

/// The largest share or limit: it is compared as a double, too.
const SHARE_MAX: u64 = SEQ_MAX;

/// The exact differences, or why the message contradicts itself.
pub fn differences(message: &Publish) -> Result<Differences, StoreError> {
    let (old, new) = (message.believed, message.new);
    let wrong = |what: &str| {
        StoreError::Corrupt(format!(
            "a message about `{}` {what}: believed {old:?}, new {new:?}, held {}, seq {}",
            message.account, message.held, message.seq
        ))
    };
    if message.seq > SEQ_MAX {
        return Err(wrong("has a sequence number beyond 2^53"));
    }
    if old.spend.is_negative() || new.spend < old.spend {
        return Err(wrong("lowers the spend"));
    }
    if new.committed < new.spend || message.held.is_negative() {
        return Err(wrong("commits less than it spent or held"));
    }
    if message.seen.is_negative() || message.total.is_negative() {
        return Err(wrong("has seen less than nothing"));
    }
    let shares = [
        new.rate,
        new.places,
        message.rate.limit,
        message.places.limit,
    ];
    if shares.into_iter().any(|share| share > SHARE_MAX) {
        return Err(wrong("has a share or a limit beyond 2^53"));
    }
    let spend = new.spend.checked_sub(old.spend);
    let healed = message.seen.min(new.spend).checked_sub(old.spend);
    let committed = new.committed.checked_sub(old.committed);
    match (spend, committed) {
        (Some(spend), Some(committed)) => Ok(Differences {
            spend,
            healed: healed.unwrap_or_default().or_zero(),
            committed,
            want: message.want.or_zero().min(LEASE_MAX),
            need: message.need.or_zero().min(LEASE_MAX),
            least: message.least.or_zero().min(LEASE_MAX),
        }),
        _ => Err(wrong("leaves the range")),
    }
}

/// How much of what is wanted is granted. Large while there is plenty, then shrinking geometrically, so that no replica strands what
/// another needs; never less than what waiting calls need, if that much is left; and nothing, if it would let none of them pass: two
/// replicas with half a call's money each would wait for each other.
pub(super) fn grant(unleased: Amount, live: u64, by: &Differences) -> Amount {
    let most = by.want.min(unleased).or_zero();
    let granted = if live <= 1 || unleased > LEASE_MAX {
        most
    } else {
        let shares = i64::try_from(live.saturating_mul(2)).unwrap_or(i64::MAX);
        let share = unleased.nanos().checked_div(shares).unwrap_or(0);
        most.min(by.need.max(Amount::from_nanos(share)))
    };
    if granted < by.least {
        Amount::ZERO
    } else {
        granted
    }
}

/// What stays committed of a replica whose lease is over: what it spent and the holds it reported.
pub(super) fn kept(row: &Row) -> Amount {
    let used = row.spend.saturating_add(row.held.or_zero());
    row.committed.min(used.max(row.spend))
}

/// The sequence number of the last entry before a commit's own, or why its entries do not go on from there.
pub(super) fn entries_before(commit: &Commit) -> Result<u64, StoreError> {
    let last = commit.book.entries;
    let count = u64::try_from(commit.entries.len()).unwrap_or(u64::MAX);
    let before = last.checked_sub(count);
    let gapless = before.is_some_and(|before| {
        let due = (before..last).map(|n| n.saturating_add(1));
        commit.entries.iter().map(|e| e.sequence).eq(due)
    });
    before.filter(|_| gapless).ok_or_else(|| {
        StoreError::Corrupt(format!(
            "the {count} entries of a commit of `{}` do not end at its book's last, {last}",
            commit.book.account
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_follow_the_rule() {
        let most = LEASE_MAX.nanos();
        for (unleased, live, want, need, least, granted) in [
            (100, 1, 30, 0, 0, 30),
            (100, 1, 300, 0, 0, 100),
            (100, 2, 300, 0, 0, 25),
            (100, 2, 300, 60, 10, 60),
            (100, 2, 20, 60, 10, 20),
            (100, 2, 300, 600, 10, 100),
            (100, 2, 300, 600, 101, 0),
            (9, 2, 300, 600, 9, 9),
            (3, 2, 300, 0, 0, 0),
            (0, 2, 300, 5, 5, 0),
            (-7, 1, 300, 5, 0, 0),
            (100, 1, 0, 5, 0, 0),
            (most, 2, most, 0, 0, most / 4),
            (most + 1, 2, most, 0, 0, most),
        ] {
            let nano = Amount::from_nanos;
            let by = Differences {
                spend: nano(0),
                healed: nano(0),
                committed: nano(0),
                want: nano(want),
                need: nano(need),
                least: nano(least),
            };
            let got = grant(nano(unleased), live, &by);
            assert_eq!(
                got.nanos(),
                granted,
                "{unleased} {live} {want} {need} {least}"
            );
        }
    }

    #[test]
    fn a_silent_replica_keeps_what_it_spent_and_held() {
        for (spend, committed, held, keeps) in [
            (5, 50, 10, 15),
            (5, 12, 10, 12),
            (5, 5, 0, 5),
            (5, 50, 0, 5),
        ] {
            let row = Row {
                spend: Amount::from_nanos(spend),
                committed: Amount::from_nanos(committed),
                held: Amount::from_nanos(held),
                ..Row::default()
            };
            assert_eq!(kept(&row), Amount::from_nanos(keeps));
        }
    }
}
