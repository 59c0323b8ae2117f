//! What a seed decides once: how many replicas and accounts, the times, how calls are made, what goes wrong and how often. A seed that
//! lets everything go wrong at once finds few of the faults that need peace before or after; so each has a theme.

use std::time::Duration;

use tollgate::money::Amount;
use tollgate::policy::{Overrides, Policy, StoreOutage, Unsettled};
use tollgate::sync::Times;

use super::dice::Dice;

/// Simulated time, in microseconds since the start.
pub(crate) type Micros = u64;

pub(crate) const MS: Micros = 1_000;

/// One lease: every other time is chosen in proportion to it, as in production.
pub(crate) const LEASE: Micros = 1_000 * MS;

/// For how long the store keeps a row of a replica that has lapsed.
pub(crate) const RETIRE: Micros = 2 * LEASE;

/// How long a message may take before it counts as lost.
pub(crate) const TIMEOUT: Micros = 60 * MS;

/// How long a call waits for a lease.
pub(crate) const REFILL_WAIT: Micros = 130 * MS;

/// How far a clock may run fast or slow: one per cent.
pub(crate) const DRIFT_PPM: u64 = 10_000;

/// What goes wrong, and how often in comparison: see [`super::faults`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A replica dies and comes back with its file.
    Crash,
    /// A replica dies and its file with it; another takes its place.
    Loss,
    /// A replica says its last word and ends; it comes back later, or another does.
    Leave,
    /// A replica and the store do not hear each other.
    Cut,
    /// The store answers nobody.
    Freeze,
    /// The store begins another history without having lost anything.
    Restart,
    /// The store loses its last writes.
    Rollback,
    /// The store loses the last writes of one account.
    RollbackOne,
    /// The store loses everything, and begins another history.
    Empty,
    /// It loses everything, and nothing says so: it was emptied while it ran.
    Flush,
    /// The time of day of a replica is set.
    Jump,
}

/// How a replica is called.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// The longest between two calls.
    pub(crate) pace: Micros,
    /// How many in a thousand take up to several leases.
    pub(crate) slow: u64,
    /// How many in a thousand cost nothing.
    pub(crate) free: u64,
    /// How many in a thousand cost more than was held.
    pub(crate) above: u64,
    /// How many in a thousand nobody settles.
    pub(crate) dropped: u64,
    /// It is called in bursts, with rests between them of up to this.
    pub(crate) rest: Micros,
}

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) replicas: usize,
    pub(crate) accounts: usize,
    pub(crate) times: Times,
    pub(crate) mixes: Vec<Mix>,
    pub(crate) holds: Vec<i64>,
    /// What each account begins with.
    pub(crate) money: Vec<i64>,
    /// The policy of each account, and what it has otherwise.
    pub(crate) policies: Vec<(Policy, Overrides)>,
    /// Of a thousand messages or replies, so many are lost, late, doubled.
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) doubled: u64,
    /// The longest that a late one takes.
    pub(crate) late_max: Micros,
    /// Of a thousand writes, after so many the store's state is kept to be fallen back to.
    pub(crate) kept: u64,
    /// Of a thousand steps of a message's way, at so many the replica dies.
    pub(crate) dies: u64,
    pub(crate) faults: Vec<Fault>,
    /// The longest between two faults.
    pub(crate) fault_pace: Micros,
    /// The longest that a replica is away.
    pub(crate) away: Micros,
    /// The longest between two commands.
    pub(crate) command_pace: Micros,
    /// How long things go wrong.
    pub(crate) trouble: Micros,
}

/// What each theme lets go wrong; one that is named twice comes twice as often.
const THEMES: [&[Fault]; 10] = [
    &[],
    &[Fault::Cut, Fault::Cut, Fault::Freeze],
    &[
        Fault::Rollback,
        Fault::Cut,
        Fault::Restart,
        Fault::RollbackOne,
    ],
    &[
        Fault::Rollback,
        Fault::Rollback,
        Fault::Cut,
        Fault::Crash,
        Fault::Empty,
    ],
    &[Fault::Crash, Fault::Leave, Fault::Cut, Fault::Loss],
    &[Fault::Crash, Fault::Crash, Fault::Rollback, Fault::Freeze],
    &[Fault::Empty, Fault::Cut, Fault::Crash, Fault::Loss],
    &[Fault::Restart, Fault::Cut, Fault::Cut, Fault::Jump],
    &[Fault::Flush, Fault::Cut, Fault::Crash, Fault::Loss],
    &[
        Fault::Crash,
        Fault::Loss,
        Fault::Leave,
        Fault::Cut,
        Fault::Cut,
        Fault::Freeze,
        Fault::Restart,
        Fault::Rollback,
        Fault::RollbackOne,
        Fault::Empty,
        Fault::Flush,
        Fault::Jump,
    ],
];

impl Setup {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let replicas = dice.pick(&[2, 2, 3, 3, 4, 5]);
        let accounts = dice.pick(&[1, 1, 1, 2, 3]);
        let millis = Duration::from_millis;
        let times = Times {
            interval: millis(50),
            lease: Duration::from_micros(LEASE),
            // Two clocks may differ by two per cent of a lease.
            margin: millis(dice.pick(&[30, 30, 60])),
            ahead: millis(1_000),
            idle: millis(dice.pick(&[150, 400, 800])),
            retire: Duration::from_micros(RETIRE),
        };
        let theme = THEMES[dice.roll(THEMES.len() as u64) as usize];
        let stormy = dice.chance(300);
        let scale = dice.pick(&[1, 1, 3]);
        let mix = |dice: &mut Dice| Mix {
            pace: dice.pick(&[15, 40, 300]) * MS,
            slow: dice.pick(&[0, 30, 300]),
            free: dice.pick(&[0, 100, 900]),
            above: dice.pick(&[0, 30]),
            dropped: dice.pick(&[0, 50]),
            rest: dice.pick(&[0, 500, 2_500]) * MS,
        };
        let limits = |dice: &mut Dice| Overrides {
            credit_limit: dice
                .chance(200)
                .then(|| Amount::from_nanos(dice.amount(200))),
            qps: dice.chance(400).then(|| dice.pick(&[4, 20, 100])),
            concurrency: dice.chance(400).then(|| dice.pick(&[2, 5, 20])),
            ..Overrides::default()
        };
        let policy = |dice: &mut Dice| Policy {
            unsettled: dice.pick(&[Unsettled::Release, Unsettled::Charge]),
            store_outage: dice.pick(&[StoreOutage::Lease, StoreOutage::Lease, StoreOutage::Refuse]),
            low_balance: dice.chance(200).then(|| Amount::from_nanos(100)),
            ..Policy::default()
        };
        Self {
            replicas,
            accounts,
            times,
            mixes: (0..replicas).map(|_| mix(dice)).collect(),
            holds: dice
                .pick(&[&[1, 3, 10, 40][..], &[5], &[0, 2, 100]])
                .to_vec(),
            money: (0..accounts)
                .map(|_| dice.pick(&[150, 600, 3_000]) * scale)
                .collect(),
            policies: (0..accounts)
                .map(|_| (policy(dice), limits(dice)))
                .collect(),
            lost: if theme.is_empty() {
                0
            } else {
                dice.pick(&[0, 20, 60])
            },
            late: if stormy { 150 } else { 15 },
            doubled: if stormy { 150 } else { 15 },
            late_max: dice.pick(&[200, 1_500, 4_000]) * MS,
            kept: dice.pick(&[100, 300]),
            dies: if theme.contains(&Fault::Crash) {
                dice.pick(&[0, 2])
            } else {
                0
            },
            faults: theme.to_vec(),
            fault_pace: dice.pick(&[300, 1_200, 3_000]) * MS,
            away: dice.pick(&[400, 2_500, 7_000]) * MS,
            command_pace: dice.pick(&[200, 700, 4_000]) * MS,
            trouble: dice.pick(&[4, 7, 12]) * LEASE,
        }
    }
}
