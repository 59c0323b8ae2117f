//! A replica's shares of an account's limits: how much its callers ask for, what it may keep, what it wants. Escrowed like money: a
//! share that is given up is not used from that moment on, and one that is granted was given up by somebody before.

use std::time::Duration;

use crate::clock::{Monotonic, Now};
use crate::engine::{Account, Asked, Earned, part_of};
use crate::policy::Policy;
use crate::store::{Pool, Published, Sought, Standing};

/// A share moves only if it is off by more than a fiftieth of the limit: demand that is counted over an interval is never steady, and
/// what is on its way from one replica to another serves neither.
const SLACK: u64 = 50;

/// The shortest time over which demand is counted: in less, a steady caller looks like a gust.
const STEP_MIN: Duration = Duration::from_millis(10);

/// For how long demand is remembered: about an interval, as a share moves once in one. Not less than some calls of a common rate take,
/// and, whatever the interval, not so long that callers who moved on are provided for: shares move between syncs, too.
const MEMORY_MIN: Duration = Duration::from_millis(40);
const MEMORY_MAX: Duration = Duration::from_millis(100);

const NANOS_MILLI: u128 = 1_000_000_000_000;

/// The limits of one account.
#[derive(Debug, Default)]
pub(super) struct Shares {
    rate: Limit,
    places: Limit,
    /// The places that are taken: the share, or calls that were in flight when it became less.
    kept: u64,
    since: Monotonic,
    counted: Asked,
    /// The store was told of this replica before.
    known: bool,
}

/// One limit.
#[derive(Debug, Default)]
struct Limit {
    /// The limit that the share is a part of.
    of: u64,
    share: u64,
    demand: u64,
    /// The demand that the store counts for this replica.
    told: u64,
    /// As last heard, over all replicas.
    pool: Pool,
}

/// What a message says of the limits: what is sought, and what is kept.
pub(super) struct Said {
    pub(super) rate: Sought,
    pub(super) places: Sought,
    pub(super) kept: Standing,
}

/// What is sought of the rate and of places.
pub(super) type Wish = (Sought, Sought);

/// What an answer brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Met {
    /// Less was granted than was wanted, and others have it: the demand of all for the rate and for places.
    pub(super) short: Option<(u64, u64)>,
    /// This replica has nothing at all of a limit that it needs.
    pub(super) none: bool,
}

impl Limit {
    /// Goes on under a limit. Of a lower one this replica has the same part as of the one before: every replica does so, each by its own
    /// clock, and together they have no more than it before any of them has said a word.
    fn fit(&mut self, limit: u64) {
        if limit > 0 {
            self.share = part_of(self.share, self.of, limit);
        }
        self.of = limit;
    }

    /// Decides what to keep, and what to ask for.
    fn plan(&mut self, limit: u64, give_all: bool) -> Sought {
        let all = self
            .pool
            .demand
            .saturating_sub(self.told)
            .saturating_add(self.demand);
        let others_ask = all > self.demand;
        let target = part(limit, self.demand, all);
        self.fit(limit);
        let slack = limit.checked_div(SLACK).unwrap_or(0);
        let over = self.share > target.saturating_add(slack) || self.demand == 0;
        if give_all {
            self.share = 0;
        } else if others_ask && self.pool.shared >= limit && over {
            self.share = self.share.min(target);
        }
        let aim = match (give_all || self.demand == 0, others_ask) {
            (true, _) => 0,
            (false, true) => target,
            (false, false) => limit,
        };
        let demand = if give_all || limit == 0 {
            0
        } else {
            self.demand
        };
        Sought {
            limit,
            demand,
            want: aim.saturating_sub(self.share),
        }
    }

    /// Takes in what stands, where `kept` was said to. Meanwhile the share may have become less: what was granted comes on top. Places of
    /// calls in flight become part of the share once there is room for all shares under the limit.
    fn met(&mut self, said: Sought, kept: u64, stands: u64, pool: Pool, limit: u64) -> (u64, bool) {
        // What was granted of a limit that is lower by now, is as much less.
        let granted = part_of(stands.saturating_sub(kept), said.limit, limit.max(1));
        if kept > self.share && pool.shared <= said.limit {
            self.share = part_of(stands, said.limit, limit.max(1));
        } else {
            self.share = self.share.saturating_add(granted);
        }
        self.share = self.share.min(limit);
        self.told = said.demand;
        self.pool = pool;
        let others = pool.shared.saturating_sub(stands);
        let slack = said.limit.checked_div(SLACK).unwrap_or(0);
        let short = said.want > granted.saturating_add(slack) || (said.want > 0 && stands == 0);
        (granted, short && others > 0)
    }
}

/// `limit × own ÷ all`, at least one where anything is asked: so that small limits are somebody's.
fn part(limit: u64, own: u64, all: u64) -> u64 {
    let product = u128::from(limit).saturating_mul(own.into());
    let part = product.checked_div(all.into()).unwrap_or(0);
    let part = u64::try_from(part).unwrap_or(limit);
    part.max(u64::from(own > 0)).min(limit)
}

impl Shares {
    pub(super) const fn standing(&self, money: Standing) -> Standing {
        Standing {
            rate: self.rate.share,
            places: self.kept,
            ..money
        }
    }

    /// Whether there is more here than so many calls in flight keep.
    pub(super) const fn spare(&self, in_flight: u64) -> bool {
        self.rate.share > 0 || self.kept > in_flight
    }

    /// Whether places of calls in flight are kept that are over.
    pub(super) fn over(&self, in_flight: u64) -> bool {
        self.kept > self.places.share.max(in_flight)
    }

    /// What to say of the limits. What is given up is not used any more once this returns.
    pub(super) fn say(
        &mut self,
        account: &Account,
        policy: &Policy,
        give_all: bool,
        interval: Duration,
        now: Now,
    ) -> Wish {
        let (rate_limit, places_limit) = (policy.rate_limit(), policy.places_limit());
        if rate_limit == 0 && places_limit == 0 {
            self.rate.share = 0;
            self.places.share = 0;
            self.kept = 0;
            return Wish::default();
        }
        self.count(account.asked(), interval, now.mono);
        let before = self.rate.share;
        let rate = self.rate.plan(rate_limit, give_all);
        if rate_limit > 0 && self.rate.share != before {
            account.share_rate(self.rate.share, Earned::default(), now.mono);
        }
        let mut places = self.places.plan(places_limit, give_all);
        self.kept = self.places.share;
        if places_limit > 0 {
            self.kept = account.share_places(self.places.share);
            // Calls in flight keep their places, whatever else is decided.
            let more = self.kept.saturating_sub(self.places.share);
            places.want = places.want.saturating_sub(more);
        }
        (rate, places)
    }

    /// How much is asked for: a mean that forgets. Slowly where calls are refused, as those that come by the dozen are counted unsteadily
    /// and the share is used up anyhow; fast where they come more often, or the share is not used up.
    fn count(&mut self, asked: Asked, interval: Duration, now: Monotonic) {
        let elapsed = now.since(self.since);
        let calls = asked.calls.wrapping_sub(self.counted.calls);
        let refused = asked
            .places_refused
            .wrapping_sub(self.counted.places_refused);
        let mut places = u64::from(asked.peak).saturating_add(refused.into());
        if elapsed >= STEP_MIN || !self.known {
            let full = asked.rate_refused != self.counted.rate_refused;
            let nanos = elapsed.as_nanos().max(1);
            let fresh = u128::from(calls)
                .saturating_mul(NANOS_MILLI)
                .checked_div(nanos.max(STEP_MIN.as_nanos()))
                .unwrap_or(0);
            let demand = u128::from(self.rate.demand);
            let memory = interval.clamp(MEMORY_MIN, MEMORY_MAX).as_nanos();
            let memory = if full && fresh < demand {
                memory
            } else {
                memory.div_euclid(6)
            };
            let mean = demand
                .saturating_mul(memory)
                .saturating_add(fresh.saturating_mul(nanos))
                .checked_div(memory.saturating_add(nanos))
                .unwrap_or(0);
            self.rate.demand = u64::try_from(mean).unwrap_or(u64::MAX);
            (self.since, self.counted) = (now, asked);
            self.places.demand = places;
        }
        if !self.known {
            // The call that made us come has been refused at the first limit, and will meet the others.
            self.rate.demand = self.rate.demand.max(1);
            places = places.max(1);
        }
        self.places.demand = self.places.demand.max(places);
    }

    /// Takes in what was granted.
    pub(super) fn met(
        &mut self,
        account: &Account,
        said: &Said,
        answer: &Published,
        pause: Duration,
        now: Monotonic,
    ) -> Met {
        if said.rate.limit == 0 && said.places.limit == 0 {
            return Met::default();
        }
        self.known = true;
        let stands = answer.standing;
        let (rate_limit, places_limit) = {
            let policy = &account.rules().policy;
            (policy.rate_limit(), policy.places_limit())
        };
        let (rate, rate_short) = self.rate.met(
            said.rate,
            said.kept.rate,
            stands.rate,
            answer.rate,
            rate_limit,
        );
        let (_, places_short) = self.places.met(
            said.places,
            said.kept.places,
            stands.places,
            answer.places,
            places_limit,
        );
        if rate > 0 {
            let earned = Earned {
                milli: rate,
                rested_nanos: answer.rate.rested_ms.saturating_mul(1_000_000),
            };
            account.share_rate(self.rate.share, earned, now);
        }
        if places_limit > 0 {
            account.share_places(self.places.share);
        }
        self.kept = stands.places;
        let none = |limit: &Limit, sought: Sought| sought.want > 0 && limit.share == 0;
        let none = none(&self.rate, said.rate) || none(&self.places, said.places);
        // While there is nothing of a limit here, each call may ask; its own wait bounds that.
        let until = if none { now } else { now.plus(pause) };
        account.asked_until(until);
        let demand = (answer.rate.demand, answer.places.demand);
        Met {
            short: (rate_short || places_short).then_some(demand),
            none: none && !answer.fenced,
        }
    }

    /// The store does not have what it was believed to have. If it lapsed this replica, what it has left is all that may be used.
    pub(super) fn cut_to(&mut self, account: &Account, stands: Standing, now: Monotonic) {
        if stands.rate < self.rate.share {
            self.rate.share = stands.rate;
            account.share_rate(stands.rate, Earned::default(), now);
        }
        if stands.places < self.places.share {
            self.places.share = stands.places;
            self.kept = account.share_places(stands.places);
        }
    }

    /// Others have nothing left and say how much all ask for.
    pub(super) fn heard(&mut self, rate: u64, places: u64, policy: &Policy) {
        self.rate.pool.demand = rate;
        self.places.pool.demand = places;
        // That is why they say it.
        self.rate.pool.shared = self.rate.pool.shared.max(policy.rate_limit());
        self.places.pool.shared = self.places.pool.shared.max(policy.places_limit());
    }

    /// The limits may be lower now.
    pub(super) fn clip(&mut self, account: &Account, policy: &Policy, now: Monotonic) {
        let (rate, places) = (policy.rate_limit(), policy.places_limit());
        if rate > 0 {
            self.rate.fit(rate);
            account.share_rate(self.rate.share, Earned::default(), now);
        }
        if places > 0 {
            self.places.fit(places);
            self.kept = account.share_places(self.places.share);
        }
    }
}
