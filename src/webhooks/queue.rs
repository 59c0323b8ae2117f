//! What is to be sent, in which order, and when again: an endpoint's events as a pure state machine. It reads no clock, has no
//! randomness of its own, and does not know how anything is sent.
//!
//! - **Order.** An account's events are sent in the order of the feed, each only when the one before it is over; accounts do not wait for
//!   each other. But an event that was not taken [`ALONE_MAX`] times while others were, is not what its receiver can take: it is tried
//!   on, and its account's later ones go past it.
//! - **When again.** After `retry_min`, then twice as long each time up to `retry_max`; of that, half for certain and half by chance, so
//!   that what failed together does not come back together. Given up `give_up_after` its first try.
//! - **Bounds.** [`ITEMS_MAX`] events in memory, [`PARKED_MAX`] of them tried before; with as many, no other is begun, and the feed keeps
//!   what comes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use super::state::{Health, Letter, Parked, State};
use crate::clock::{Now, Timestamp};
use crate::id::AccountId;
use crate::ledger::Event;

/// How many events are held in memory: some 200 KB.
pub const ITEMS_MAX: usize = 512;

/// How many of them may have been tried: they are written down whole at each change, 100 KB at the most.
pub const PARKED_MAX: usize = 256;

/// How often an event must have been refused on its own for its account's later ones not to wait: one or two can be chance.
pub const ALONE_MAX: u32 = 5;

/// The longest that a receiver is obeyed that asks for patience. One that says a day by mistake is asked again in an hour.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// How much of an error is kept.
const ERROR_CHARS_MAX: usize = 200;

/// When an event is tried again, and when it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// After the first failure.
    pub retry_min: Duration,
    /// The most between two tries.
    pub retry_max: Duration,
    /// From the first try on.
    pub give_up_after: Duration,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// It was not; the receiver may have said when to come again.
    Failed {
        /// Why, for people.
        error: String,
        /// As the receiver said.
        retry_after: Option<Duration>,
    },
    /// There is no receiver any more: 410.
    Gone,
    /// It was not sent at all, or nobody knows: it stays as it was.
    Untried,
}

/// What follows from an outcome, beyond the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    GoOn,
    /// It is given up: to be laid down, then told by [`Queue::buried`].
    Bury(Letter),
}

/// An endpoint's events.
#[derive(Clone, Debug)]
pub struct Queue {
    times: Times,
    /// The feed was read up to here.
    read_to: u64,
    items: BTreeMap<u64, Item>,
    /// Beyond the cursor, over.
    done: BTreeSet<u64>,
    paused_until: Option<Timestamp>,
    disabled: Option<Timestamp>,
    health: Health,
    losses: u64,
}

#[derive(Clone, Debug)]
struct Item {
    parked: Parked,
    /// It stands in the state whole, not only in the feed.
    kept: bool,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waiting,
    Sending,
    Dying,
}

impl Queue {
    /// As it was left.
    pub fn new(state: &State, times: Times) -> Self {
        let item = |parked: &Parked| {
            let item = Item {
                parked: parked.clone(),
                kept: true,
                step: Step::Waiting,
            };
            (parked.sequence, item)
        };
        Self {
            times,
            read_to: state.cursor,
            items: state.parked.iter().map(item).collect(),
            done: state.done.iter().copied().collect(),
            paused_until: None,
            disabled: state.disabled,
            health: state.health.clone(),
            losses: state.losses,
        }
    }

    /// As it is to be written down, for the next one to go on from.
    pub fn state(&self) -> State {
        let cursor = self.cursor();
        let kept = self.items.values().filter(|item| item.kept);
        State {
            turn: 0,
            holder: None,
            cursor,
            done: self.done.range(cursor..).copied().collect(),
            parked: kept.map(|item| item.parked.clone()).collect(),
            disabled: self.disabled,
            health: self.health.clone(),
            losses: self.losses,
        }
    }

    /// The store had lost where this is.
    pub fn store_lost_it(&mut self) {
        self.losses = self.losses.saturating_add(1);
    }

    fn cursor(&self) -> u64 {
        let fresh = self.items.iter().find(|(_, item)| !item.kept);
        fresh.map_or(self.read_to, |(sequence, _)| sequence.saturating_sub(1))
    }

    /// Where to read on in the feed, and how many at most; `None` if nothing more can be held.
    pub fn wants(&self) -> Option<(u64, usize)> {
        let room = ITEMS_MAX.saturating_sub(self.items.len());
        let open = self.disabled.is_none() && self.kept() < PARKED_MAX && room > 0;
        open.then_some((self.read_to, room))
    }

    /// What was read there.
    pub fn take_in(&mut self, chunk: Vec<(u64, Event)>, wanted: impl Fn(&Event) -> bool, now: Now) {
        for (sequence, event) in chunk {
            self.read_to = self.read_to.max(sequence);
            if self.done.contains(&sequence) || self.items.contains_key(&sequence) {
                continue;
            }
            if wanted(&event) {
                let item = Item::new(sequence, event, now.wall);
                self.items.insert(sequence, item);
            }
        }
        self.forget();
    }

    /// A dead letter is to be sent again. It holds nobody up.
    pub fn send_again(&mut self, letter: &Letter, now: Now) {
        let mut item = Item::new(letter.sequence, letter.event.clone(), now.wall);
        item.kept = true;
        item.parked.alone = ALONE_MAX;
        self.items.entry(letter.sequence).or_insert(item);
    }

    /// The next event to send now, if there is one, and how often it was tried; how it ends is then told.
    pub fn next(&mut self, now: Now, concurrency: usize) -> Option<(u64, Event, u32)> {
        let patient = self.paused_until.is_some_and(|until| now.wall < until);
        if self.disabled.is_some() || patient || self.sending() >= concurrency {
            return None;
        }
        let full = self.kept() >= PARKED_MAX;
        let mut before: HashSet<&AccountId> = HashSet::new();
        let found = self.items.iter().find_map(|(sequence, item)| {
            let account = &item.parked.event.account;
            let first = !before.contains(account);
            if item.parked.alone < ALONE_MAX {
                before.insert(account);
            }
            let due = item.step == Step::Waiting && item.parked.next <= now.wall;
            // One that holds nobody up is not held up either.
            let free = first || item.parked.alone >= ALONE_MAX;
            (due && free && (item.kept || !full)).then_some(*sequence)
        })?;
        let item = self.items.get_mut(&found)?;
        item.step = Step::Sending;
        let Parked {
            event, attempts, ..
        } = &item.parked;
        Some((found, event.clone(), *attempts))
    }

    /// How a try ended. `chance` is any number, the same for nobody else.
    pub fn ended(&mut self, sequence: u64, outcome: Outcome, now: Now, chance: u32) -> Then {
        let Some(item) = self.items.get_mut(&sequence) else {
            return Then::GoOn;
        };
        item.step = Step::Waiting;
        match outcome {
            Outcome::Delivered => {
                self.over(sequence);
                self.health.delivered = Some(now.wall);
                self.health.failures = 0;
                self.health.failing_since = None;
                Then::GoOn
            }
            Outcome::Failed { error, retry_after } => {
                let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
                let item = &mut item.parked;
                if self.health.failures == 0 {
                    item.alone = item.alone.saturating_add(1);
                }
                item.attempts = item.attempts.saturating_add(1);
                item.first.get_or_insert(now.wall);
                item.error.clone_from(&error);
                self.health.failed(error, now.wall);
                self.again(sequence, retry_after, now, chance)
            }
            Outcome::Gone => {
                let error = "it answered 410: gone for good".to_owned();
                self.health.failed(error, now.wall);
                self.disabled = Some(now.wall);
                Then::GoOn
            }
            Outcome::Untried => {
                item.parked.next = now.wall.plus(self.times.retry_min);
                Then::GoOn
            }
        }
    }

    fn again(
        &mut self,
        sequence: u64,
        retry_after: Option<Duration>,
        now: Now,
        chance: u32,
    ) -> Then {
        let times = self.times;
        let Some(item) = self.items.get_mut(&sequence) else {
            return Then::GoOn;
        };
        item.kept = true;
        let first = item.parked.first.unwrap_or(now.wall);
        if now.wall >= first.plus(times.give_up_after) {
            item.step = Step::Dying;
            return Then::Bury(Letter {
                sequence,
                event: item.parked.event.clone(),
                attempts: item.parked.attempts,
                first,
                died: now.wall,
                error: item.parked.error.clone(),
                again: false,
            });
        }
        item.parked.next = now.wall.plus(times.pause(item.parked.attempts, chance));
        if let Some(asked) = retry_after {
            let until = now.wall.plus(asked.min(RETRY_AFTER_MAX));
            item.parked.next = item.parked.next.max(until);
            self.paused_until = Some(self.paused_until.map_or(until, |at| at.max(until)));
        }
        Then::GoOn
    }

    /// A letter is laid down.
    pub fn buried(&mut self, sequence: u64) {
        self.over(sequence);
    }

    /// The endpoint is sent to again although it said that it is gone.
    pub fn enable(&mut self) {
        self.disabled = None;
        self.paused_until = None;
    }

    fn over(&mut self, sequence: u64) {
        self.items.remove(&sequence);
        self.done.insert(sequence);
        self.forget();
    }

    /// What the cursor says need not be said twice.
    fn forget(&mut self) {
        let after = self.cursor().saturating_add(1);
        self.done = self.done.split_off(&after);
    }

    /// When something is due next by the clock alone.
    pub fn due(&self) -> Option<Timestamp> {
        if self.disabled.is_some() {
            return None;
        }
        let waiting = self
            .items
            .values()
            .filter(|item| item.step == Step::Waiting);
        let first = waiting.map(|item| item.parked.next).min()?;
        Some(self.paused_until.map_or(first, |until| first.max(until)))
    }

    /// How many are being sent.
    pub fn sending(&self) -> usize {
        let sending = |item: &&Item| item.step == Step::Sending;
        self.items.values().filter(sending).count()
    }

    /// How many stand in the state whole, or may soon.
    fn kept(&self) -> usize {
        let kept = |item: &&Item| item.kept || item.step == Step::Sending;
        self.items.values().filter(kept).count()
    }

    /// How many wait, as far as the feed was read.
    pub fn waiting(&self) -> usize {
        self.items.len()
    }

    /// When the oldest that is not over happened.
    pub fn oldest(&self) -> Option<Timestamp> {
        let times = self.items.values().map(|item| item.parked.event.time);
        times.min()
    }

    /// The receiver said that it is gone.
    pub fn is_disabled(&self) -> bool {
        self.disabled.is_some()
    }
}

impl Item {
    fn new(sequence: u64, event: Event, now: Timestamp) -> Self {
        Self {
            parked: Parked {
                sequence,
                event,
                attempts: 0,
                alone: 0,
                first: None,
                next: now,
                error: String::new(),
            },
            kept: false,
            step: Step::Waiting,
        }
    }
}

impl Health {
    fn failed(&mut self, error: String, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        self.error = error;
    }
}

impl Times {
    /// How long to wait after so many failures: half of the whole for certain, the other by chance.
    pub fn pause(&self, attempts: u32, chance: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let whole = self.retry_min.saturating_mul(1_u32 << doublings);
        let half = whole.min(self.retry_max).checked_div(2).unwrap_or_default();
        let part = half.as_nanos().saturating_mul(chance.into()) >> 32_u32;
        half.saturating_add(Duration::from_nanos(
            u64::try_from(part).unwrap_or(u64::MAX),
        ))
    }
}

#[cfg(test)]
mod tests;
