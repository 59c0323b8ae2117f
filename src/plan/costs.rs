//! What Redis and a replica pay for what they do: the planner's constants, each with how it was measured.
//!
//! All of them by `cargo bench --bench redis`: redis-server 7.0.15 with `appendonly yes`, `appendfsync everysec`, over TCP on loopback,
//! on a virtual machine with two cores (AMD EPYC, Zen 4) that had other things to do as well, with the real scripts and the real
//! client. CPU is that of Redis' main thread, user and system, which is what bounds it: the least of seven rounds, so what disturbed
//! them counts little, but it counts. A machine of its own is faster by a factor that is much the same for all: give
//! `--redis-us-per-publish` as the bench says it there (a message with spend, 256 in a pipeline), and the others follow in proportion.

use super::deployment::Found;

/// Microseconds of CPU and bytes. See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Reading and answering a pipeline, however much is in it.
    pub pipeline_us: f64,
    /// A replica's message about an account (EVALSHA of `publish.lua`), without rows.
    pub message_us: f64,
    /// A row of usage in it, with its sum over all time.
    pub row_us: f64,
    /// An account's word in the feed of spend (`touch.lua`).
    pub touch_us: f64,
    /// Taking an account up: `read.lua` of seven things.
    pub open_us: f64,
    /// Whose a key is: GET, HEXISTS.
    pub find_us: f64,
    /// An account's keys: HVALS.
    pub keys_us: f64,
    /// A book: `read.lua` of two things.
    pub read_us: f64,
    /// The end of a ledger: HGET, LRANGE.
    pub tail_us: f64,
    /// PING, or another word as small.
    pub ping_us: f64,
    /// `INFO replication`, which each replica asks each server for in each second.
    pub watch_us: f64,
    /// PUBLISH, without its deliveries.
    pub tell_us: f64,
    /// A delivery to one subscriber.
    pub delivery_us: f64,
    /// A command on a book: `read.lua` and `commit.lua`, without deliveries.
    pub commit_us: f64,
    /// An event moved from an account to the feed: LRANGE, `relay.lua`, `drain.lua`.
    pub relay_us: f64,
    /// A replica's row in a look for silent ones.
    pub row_read_us: f64,
    /// Taking back what a silent replica has: `lapse.lua`.
    pub lapse_us: f64,
    /// An account with a key and one recharge.
    pub account_bytes: f64,
    /// A replica's row of an account.
    pub row_bytes: f64,
    /// Its usage of all time, of one model.
    pub usage_bytes: f64,
    /// Its usage of one hour, of one model.
    pub hour_bytes: f64,
    /// Of another model in the same hour.
    pub hour_more_bytes: f64,
    /// A recharge, with the spend that the ledger notes before it.
    pub recharge_bytes: f64,
    /// A replica's two connections.
    pub connections_bytes: f64,
    /// A message about an account, to Redis and back, as it is on the wire.
    pub message_in_bytes: f64,
    /// See `message_in_bytes`.
    pub message_out_bytes: f64,
    /// A replica's memory for an account that it has loaded.
    pub loaded_bytes: f64,
    /// A replica's CPU for publishing an account in a round.
    pub replica_us: f64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            pipeline_us: 18.0,
            message_us: 38.0,
            row_us: 6.0,
            touch_us: 10.0,
            open_us: 59.0,
            find_us: 23.0,
            keys_us: 13.0,
            read_us: 23.0,
            tail_us: 26.0,
            ping_us: 10.0,
            watch_us: 9.5,
            tell_us: 10.0,
            delivery_us: 6.5,
            commit_us: 160.0,
            relay_us: 72.0,
            row_read_us: 8.0,
            lapse_us: 16.0,
            account_bytes: 4_600.0,
            row_bytes: 320.0,
            usage_bytes: 340.0,
            hour_bytes: 590.0,
            hour_more_bytes: 200.0,
            recharge_bytes: 2_000.0,
            connections_bytes: 76_000.0,
            message_in_bytes: 1_360.0,
            message_out_bytes: 160.0,
            loaded_bytes: 9_200.0,
            replica_us: 22.0,
        }
    }
}

impl Costs {
    /// A message in a round, with a row and its word in the feed: what most messages are.
    pub const fn published_us(&self) -> f64 {
        self.message_us + self.row_us + self.touch_us
    }

    /// The same costs on a Redis where such a message takes so many microseconds.
    #[must_use]
    pub fn scaled_to(self, published_us: f64) -> Self {
        let by = published_us / self.published_us();
        Self {
            pipeline_us: self.pipeline_us * by,
            message_us: self.message_us * by,
            row_us: self.row_us * by,
            touch_us: self.touch_us * by,
            open_us: self.open_us * by,
            find_us: self.find_us * by,
            keys_us: self.keys_us * by,
            read_us: self.read_us * by,
            tail_us: self.tail_us * by,
            ping_us: self.ping_us * by,
            watch_us: self.watch_us * by,
            tell_us: self.tell_us * by,
            delivery_us: self.delivery_us * by,
            commit_us: self.commit_us * by,
            relay_us: self.relay_us * by,
            row_read_us: self.row_read_us * by,
            lapse_us: self.lapse_us * by,
            ..self
        }
    }

    /// A command on a book, and what its deliveries take.
    pub(super) const fn commit_with(&self, deliveries_us: f64) -> f64 {
        self.commit_us - self.read_us + deliveries_us
    }

    /// What cannot be of them.
    pub(super) fn problems(&self, found: &mut Found) {
        if !(0.1..=100_000.0).contains(&self.published_us()) {
            let hint = "give microseconds from 0.1 to 100000, such as 40".into();
            found.wrong("redis-us-per-publish", self.published_us(), hint);
        }
    }
}
