//! What a store keeps of an account for its replicas, and what their messages make of it (DESIGN.md section 5). Pure: no storage, no
//! clock. The embedded store runs these functions, the simulator and the planner run them, and `redis/*.lua` repeats them; one suite
//! holds all of them to the same answers.
//!
//! Three things are escrowed, each by the same rule: what all replicas have together never exceeds what there is, and a replica gives
//! back before another takes.
//!
//! | | what there is | a replica's part |
//! |---|---|---|
//! | money | lifetime credit + floor − lost | `committed = max(lease ceiling, spend)` |
//! | rate | the limit, in thousandths of a call per second | its share |
//! | places | the limit of calls in flight | its share |

use serde::{Deserialize, Serialize};

pub use super::message::{Differences, differences};
use super::message::{grant, kept};
use super::{History, Pool, Publish, Published, Row, Share, Sought};
use crate::money::Amount;

/// What a store keeps for an account beside its book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the book and the keys.
    pub version: u64,
    /// The spend of all replicas, with what is lost: it never falls.
    pub total: Amount,
    /// What may still be leased.
    pub unleased: Amount,
    /// How many of its rows are live.
    pub live: u64,
    /// See [`super::Snapshot::lost`].
    #[serde(default)]
    pub lost: Amount,
    /// The rate limit over all rows.
    #[serde(default)]
    pub rate: Part,
    /// The limit of calls in flight over all rows.
    #[serde(default)]
    pub places: Part,
    /// By the store's clock, in ms: until then it is fenced. It was put back into a store that had nothing of it any more, and knew no
    /// better than to take its history for an old one, or the very first.
    #[serde(default)]
    pub fenced_until_ms: u64,
}

impl Head {
    /// Whether rights from before may still be in use of which nothing is known here.
    pub const fn fenced(&self, ground: &Ground) -> bool {
        ground.fenced || ground.now_ms < self.fenced_until_ms
    }
}

/// One limit over all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Σ of the shares.
    pub shared: u64,
    /// Σ of the demand.
    pub demand: u64,
    /// When the shares last changed, by the store's clock, in ms; 0 is never.
    pub changed_ms: u64,
}

/// A replica's row, and whether its lease may still run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRow {
    /// The row.
    pub row: Row,
    /// It counts when leases are cut to size.
    pub live: bool,
}

/// What a message is judged on beside the account: the store itself, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// By the store's clock, in ms since 1970.
    pub now_ms: u64,
    /// Which history this is.
    pub history: History,
    /// It is younger than a lease: rights from before it may still be in use, so none are granted.
    pub fenced: bool,
    /// For how long, in ms.
    pub lease_ms: u64,
}

/// What a message makes of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The account after it.
    pub head: Head,
    /// The replica's row after it.
    pub row: LiveRow,
    /// The message was newer than the last: something is to be stored.
    pub spoke: bool,
    /// What stood was what it believed.
    pub applied: bool,
    /// The answer.
    pub answer: Published,
}

/// Carries out a replica's message. `None` if a sum would leave the range: nothing is stored then.
///
/// - An older or equal `seq` is a straggler and changes nothing.
/// - A replica that saw more spend than the store has says so: the difference is *lost*. It counts as spent and is out of reach.
/// - If what stands is `believed`, in the history that the replica knows, `new` is stored, and the sums follow; of the replica's own spend, what had been lost is lost no more.
///   Then, unless the history is fenced, of `want` is granted `min(want, max(need, unleased / (2 × live replicas)), unleased)`; the
///   middle term is left out if this is the only live replica or more than [`super::LEASE_MAX`] is left; and less than `least` is
///   not granted at all. Shares are granted as far as
///   the limit goes.
/// - Otherwise nothing is stored but that the replica spoke, and it is told what stands.
///
/// A replica is live from its first message until it lapses.
pub fn publish(
    mut head: Head,
    mut live_row: LiveRow,
    message: &Publish,
    by: &Differences,
    ground: &Ground,
) -> Option<Step> {
    let row = &mut live_row.row;
    let spoke = message.seq > row.seq;
    let knows = message.history.is_none_or(|known| known == ground.history);
    let applied = spoke && knows && row.standing() == message.believed;
    let fenced = head.fenced(ground);
    let (mut rate_rested, mut places_rested) = (0, 0);
    if spoke {
        (row.seq, row.seen_ms) = (message.seq, ground.now_ms);
        if !live_row.live {
            live_row.live = true;
            head.live = head.live.saturating_add(1);
        }
        remember(&mut head, message.total)?;
    }
    if applied {
        let healed = head.lost.min(by.healed);
        head.lost = head.lost.checked_sub(healed)?;
        head.total = head.total.checked_add(by.spend.checked_sub(healed)?)?;
        let free = head.unleased.checked_sub(by.committed)?;
        let free = free.checked_add(healed)?;
        let granted = if fenced {
            Amount::ZERO
        } else {
            grant(free, head.live, by)
        };
        head.unleased = free.checked_sub(granted)?;
        row.spend = message.new.spend;
        row.committed = message.new.committed.checked_add(granted)?;
        row.held = message.held;
        let (new, sought) = (message.new, (&message.rate, &message.places));
        let ground = &Ground { fenced, ..*ground };
        rate_rested = share(&mut head.rate, &mut row.rate, new.rate, sought.0, ground);
        places_rested = share(
            &mut head.places,
            &mut row.places,
            new.places,
            sought.1,
            ground,
        );
    }
    let pool = |part: Part, rested_ms| Pool {
        shared: part.shared,
        demand: part.demand,
        rested_ms,
    };
    let answer = Published {
        applied,
        standing: row.standing(),
        seq: row.seq,
        total: head.total,
        unleased: head.unleased,
        version: head.version,
        lost: head.lost,
        rate: pool(head.rate, rate_rested),
        places: pool(head.places, places_rested),
        history: ground.history,
        fenced,
    };
    Some(Step {
        head,
        row: live_row,
        spoke,
        applied,
        answer,
    })
}

/// A replica saw this total: what is missing of it was lost.
fn remember(head: &mut Head, total: Amount) -> Option<()> {
    let missing = total.saturating_sub(head.total);
    if missing.is_positive() {
        head.total = total;
        head.lost = head.lost.checked_add(missing)?;
        head.unleased = head.unleased.checked_sub(missing)?;
    }
    Some(())
}

/// One limit's part of a message. Returns for how long what was granted had been free.
fn share(part: &mut Part, own: &mut Share, new: u64, sought: &Sought, ground: &Ground) -> u64 {
    let others = part.shared.saturating_sub(own.share);
    let kept = others.saturating_add(new);
    let free = sought.limit.saturating_sub(kept);
    let granted = if ground.fenced {
        0
    } else {
        sought.want.min(free)
    };
    let rested = if granted > 0 {
        ground.now_ms.saturating_sub(part.changed_ms)
    } else {
        0
    };
    let shared = kept.saturating_add(granted);
    if shared != part.shared {
        part.changed_ms = ground.now_ms;
    }
    part.shared = shared;
    part.demand = part
        .demand
        .saturating_sub(own.demand)
        .saturating_add(sought.demand);
    own.share = new.saturating_add(granted);
    own.demand = sought.demand;
    rested
}

/// A replica has been silent for longer than a lease: it keeps what it spent and the holds it reported; the rest is free again.
/// Returns what that is, or `None` if a sum would leave the range. Only for a live row.
pub fn lapse(head: &mut Head, live_row: &mut LiveRow, now_ms: u64) -> Option<Amount> {
    let keeps = kept(&live_row.row);
    let row = &mut live_row.row;
    let freed = row.committed.checked_sub(keeps)?;
    head.unleased = head.unleased.checked_add(freed)?;
    head.live = head.live.saturating_sub(u64::from(live_row.live));
    row.committed = keeps;
    live_row.live = false;
    for (part, own) in [
        (&mut head.rate, &mut row.rate),
        (&mut head.places, &mut row.places),
    ] {
        if own.share > 0 {
            part.changed_ms = now_ms;
        }
        part.shared = part.shared.saturating_sub(own.share);
        part.demand = part.demand.saturating_sub(own.demand);
        *own = Share::default();
    }
    Some(freed)
}

/// A replica will not come back: its reported holds are free again too, and its row becomes a [`Tombstone`].
/// Returns it with what came back, or `None` if a sum would leave the range.
pub fn retire(head: &mut Head, mut live_row: LiveRow, now_ms: u64) -> Option<(Tombstone, Amount)> {
    live_row.row.held = Amount::ZERO;
    let freed = lapse(head, &mut live_row, now_ms)?;
    let Row { spend, seq, .. } = live_row.row;
    Some((Tombstone { spend, seq }, freed))
}

/// What is left of a retired replica: enough to count the difference if it comes back after all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Its spend.
    pub spend: Amount,
    /// The highest sequence number seen from it: a message from before is still a straggler.
    pub seq: u64,
}

impl From<Tombstone> for LiveRow {
    /// The row of a retired replica that speaks again. Putting it back changes no sum.
    fn from(tombstone: Tombstone) -> Self {
        let Tombstone { spend, seq } = tombstone;
        let row = Row {
            spend,
            committed: spend,
            seq,
            ..Row::default()
        };
        Self { row, live: false }
    }
}
