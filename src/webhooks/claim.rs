//! Who sends for an endpoint: one replica at a time, by a claim in the endpoint's document that is compared and set. Pure.
//!
//! No two clocks are compared. Whoever sends writes the document every second or so; whoever does not, reads it, and takes it over once
//! it has not changed for a whole term **by the reader's own running time**, counted from when the store was reachable. The holder, for
//! its part, begins nothing that could last beyond a term (less a margin) after it *began* to write the last time. So both sides need only
//! clocks that run at about the same speed, and a store that stands still makes the holder pause, and not two of them send.
//!
//! A store that lost the document, or has an older one, is told by [`State::turn`]: who knows a later one writes that.

use std::time::Duration;

use super::state::State;
use crate::clock::Monotonic;
use crate::id::ReplicaId;

/// A term beyond the longest delivery: some renewals that fail, and the margin.
const TERM_BEYOND: Duration = Duration::from_secs(5);

/// By how much clocks may differ over a term, and how long a process may be held up between looking at the clock and sending.
const MARGIN: Duration = Duration::from_secs(1);

/// How often the document is written when there is nothing to say: four tries within what a term has beyond a delivery.
pub const RENEWAL: Duration = Duration::from_secs(1);

/// A replica that does not send, and looks whether it should.
#[derive(Clone, Debug)]
pub struct Watch {
    me: ReplicaId,
    term: Duration,
    /// What stands, and since when that is known.
    seen: Option<(u64, Monotonic)>,
    /// The latest that is known.
    best: Option<State>,
    /// Nothing was read in this process' life: a claim of our own name is an earlier life's.
    fresh: bool,
}

/// What to do about a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Somebody sends, or may.
    Wait,
    /// Take it over, by writing over this version; go on from what is known, if the endpoint is not new.
    Take(u64, Option<State>),
}

/// How long a silent holder keeps its claim.
pub fn term(timeout: Duration) -> Duration {
    timeout.saturating_add(TERM_BEYOND)
}

impl Watch {
    /// With what is remembered from before, if anything is.
    pub const fn new(me: ReplicaId, timeout: Duration, remembered: Option<State>) -> Self {
        Self {
            me,
            term: timeout.saturating_add(TERM_BEYOND),
            seen: None,
            best: remembered,
            fresh: true,
        }
    }

    /// What the store has.
    pub fn look(&mut self, found: Option<(u64, State)>, now: Monotonic) -> Look {
        let fresh = std::mem::replace(&mut self.fresh, false);
        let (version, state) = match found {
            None if self.best.is_none() => return Look::Take(0, None),
            None => (0, None),
            Some((version, state)) => (version, Some(state)),
        };
        let holder = state.as_ref().and_then(|state| state.holder.clone());
        let turn = state.as_ref().map_or(0, |state| state.turn);
        let lost = self.best.as_ref().is_some_and(|best| best.turn > turn);
        if !lost {
            self.best = state;
        }
        let ours = fresh && holder.as_ref() == Some(&self.me);
        // What an older document says of its holder may have been long ago.
        let free = !lost && (holder.is_none() || ours);
        let since = match self.seen {
            Some((seen, since)) if seen == version => since,
            _ => now,
        };
        self.seen = Some((version, since));
        if free || now.since(since) >= self.term {
            return Look::Take(version, self.best.clone());
        }
        Look::Wait
    }

    /// The store does not answer: nothing is known of the holder meanwhile.
    pub const fn away(&mut self) {
        self.seen = None;
    }

    /// Held it and lost it: this is the latest that is known.
    pub fn lost(&mut self, state: State) {
        self.seen = None;
        self.best = Some(state);
    }
}

/// The claim of a replica that sends.
#[derive(Clone, Debug)]
pub struct Claim {
    me: ReplicaId,
    timeout: Duration,
    /// The version that stands, as far as is known.
    version: u64,
    /// The turn of what was certainly written last.
    turn: u64,
    /// When that was begun.
    written: Monotonic,
    /// Nobody else can have it: the store is this process' own.
    alone: bool,
}

/// What somebody else's version means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contest {
    /// It was ours, and the answer was lost: write again.
    Again,
    /// It is older than what was certainly written, or is not there: the store has lost history. Write again, too.
    Older,
    /// Another one sends.
    Lost,
}

impl Claim {
    /// Written under this version, in that turn; begun then.
    pub const fn new(
        me: ReplicaId,
        timeout: Duration,
        alone: bool,
        (version, turn): (u64, u64),
        began: Monotonic,
    ) -> Self {
        Self {
            me,
            timeout,
            version,
            turn,
            written: began,
            alone,
        }
    }

    /// What is written next: over which version, and in which turn.
    pub const fn next(&self) -> (u64, u64) {
        (self.version, self.turn.saturating_add(1))
    }

    /// It was, under that version; begun then.
    pub const fn wrote(&mut self, version: u64, began: Monotonic) {
        self.version = version;
        self.turn = self.turn.saturating_add(1);
        self.written = began;
    }

    /// It was not, as another version stands.
    pub fn contested(&mut self, found: Option<(u64, &State)>) -> Contest {
        let Some((version, state)) = found else {
            self.version = 0;
            return Contest::Older;
        };
        self.version = version;
        if state.turn < self.turn {
            return Contest::Older;
        }
        if state.holder.as_ref() != Some(&self.me) {
            return Contest::Lost;
        }
        // An answer was lost, and what it answered was written.
        self.turn = state.turn;
        Contest::Again
    }

    /// Whether a delivery that begins now is over, however it ends, before anybody else may send.
    pub fn covers(&self, now: Monotonic) -> bool {
        let mine = TERM_BEYOND.saturating_sub(MARGIN);
        self.alone || now.since(self.written) <= mine
    }

    /// Whether it is to be written although there is nothing to say.
    pub fn is_due(&self, now: Monotonic) -> bool {
        !self.alone && now.since(self.written) >= RENEWAL
    }

    /// How long a delivery may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }
}

#[cfg(test)]
mod tests;
