//! What is counted while an account is simulated.

use super::super::histogram::Histogram;
use crate::money::Amount;

/// Counts and times of one account, over all replicas, since counting began.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// For how long it was counted, in nanoseconds.
    pub(crate) nanos: u64,
    /// Steps of the simulation, from its very beginning.
    pub(crate) events: u64,
    /// It was cut short: there was more to simulate than time for it.
    pub(crate) cut: bool,

    /// Calls that came.
    pub(crate) calls: u64,
    /// Calls that were admitted.
    pub(crate) admitted: u64,
    /// Refused for want of money while the account had enough for the call.
    pub(crate) refused_with_money: u64,
    /// Refused for want of money, and there was none.
    pub(crate) refused_without: u64,
    /// Refused for the rate while one limiter for all replicas would have admitted the call.
    pub(crate) refused_below_rate: u64,
    /// Refused for the rate, as one limiter would have.
    pub(crate) refused_above_rate: u64,
    /// Admitted while one limiter would have refused.
    pub(crate) admitted_above_rate: u64,
    /// Refused because there was no answer in time.
    pub(crate) refused_unanswered: u64,

    /// Calls that waited for a lease or a share.
    pub(crate) waited: u64,
    /// How often they asked: what `tollgate_refill_waits_total` counts.
    pub(crate) turns: u64,
    /// For how long, those that were admitted.
    pub(crate) waits: Histogram,
    /// For how long calls waited for their account to be loaded and for its first lease.
    pub(crate) loads_waited: Histogram,

    /// Messages in rounds.
    pub(crate) round: u64,
    /// Of them, those with more spend than before.
    pub(crate) round_spent: u64,
    /// Messages for who waits, or because others asked.
    pub(crate) lone: u64,
    /// Of them, those with more spend than before.
    pub(crate) lone_spent: u64,
    /// Messages in rounds that look at everything, without news of calls: heartbeats and leases that go back.
    pub(crate) quiet: u64,
    /// Rows of usage in messages, an hour's and its sum over all time as one.
    pub(crate) rows: u64,

    /// Accounts taken up.
    pub(crate) opens: u64,
    /// And those of them that had spent: with a word in the feed.
    pub(crate) opens_spent: u64,
    /// Keys looked up.
    pub(crate) finds: u64,
    /// Listings of an account's keys.
    pub(crate) keys: u64,
    /// Books read, except for recharges and what follows from them.
    pub(crate) reads: u64,
    /// Ends of ledgers read.
    pub(crate) tails: u64,
    /// Books written, except for recharges.
    pub(crate) commits: u64,
    /// Events moved to the feed.
    pub(crate) relays: u64,
    /// Messages on the channel, except for recharges.
    pub(crate) tells: u64,
    /// Looks for silent replicas.
    pub(crate) looks: u64,
    /// Rows that these read.
    pub(crate) rows_looked_at: u64,
    /// Silent replicas whose lease was taken back, or that were retired.
    pub(crate) lapsed: u64,
    /// Recharges.
    pub(crate) recharges: u64,

    /// How old what a replica knew of the account was when it admitted a call.
    pub(crate) ages: Histogram,
    /// How long a changed book took to reach a replica, from the command on.
    pub(crate) changes: Histogram,
    /// The most by which open holds together could have been exceeded.
    pub(crate) exposure: Amount,
    /// By how much calls exceeded their holds.
    pub(crate) overshoot: Amount,
}

impl Seen {
    /// Adds what was seen of another life of the same account.
    pub(crate) fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.nanos, other.nanos),
            (&mut self.events, other.events),
            (&mut self.calls, other.calls),
            (&mut self.admitted, other.admitted),
            (&mut self.refused_with_money, other.refused_with_money),
            (&mut self.refused_without, other.refused_without),
            (&mut self.refused_below_rate, other.refused_below_rate),
            (&mut self.refused_above_rate, other.refused_above_rate),
            (&mut self.admitted_above_rate, other.admitted_above_rate),
            (&mut self.refused_unanswered, other.refused_unanswered),
            (&mut self.waited, other.waited),
            (&mut self.turns, other.turns),
            (&mut self.round, other.round),
            (&mut self.round_spent, other.round_spent),
            (&mut self.lone, other.lone),
            (&mut self.lone_spent, other.lone_spent),
            (&mut self.quiet, other.quiet),
            (&mut self.rows, other.rows),
            (&mut self.opens, other.opens),
            (&mut self.opens_spent, other.opens_spent),
            (&mut self.finds, other.finds),
            (&mut self.keys, other.keys),
            (&mut self.reads, other.reads),
            (&mut self.tails, other.tails),
            (&mut self.commits, other.commits),
            (&mut self.relays, other.relays),
            (&mut self.tells, other.tells),
            (&mut self.looks, other.looks),
            (&mut self.rows_looked_at, other.rows_looked_at),
            (&mut self.lapsed, other.lapsed),
            (&mut self.recharges, other.recharges),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.cut |= other.cut;
        self.waits.merge(&other.waits, 1.0);
        self.loads_waited.merge(&other.loads_waited, 1.0);
        self.ages.merge(&other.ages, 1.0);
        self.changes.merge(&other.changes, 1.0);
        self.exposure = self.exposure.max(other.exposure);
        self.overshoot = self.overshoot.saturating_add(other.overshoot);
    }

    /// All messages.
    pub(crate) const fn messages(&self) -> u64 {
        self.round.saturating_add(self.lone)
    }

    /// Calls refused although the account could have paid them, and those that got no answer in time.
    pub(crate) const fn refused_wrongly(&self) -> u64 {
        self.refused_with_money
            .saturating_add(self.refused_unanswered)
    }
}
