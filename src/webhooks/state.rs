//! What the store keeps of an endpoint, in two documents: who sends and how far it is; and the dead letters, with what people asked for.
//! Plain data.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::ReplicaId;
use crate::ledger::Event;
use crate::store::WEBHOOK_DOCUMENTS;

/// How many dead letters an endpoint keeps; the oldest makes room. The document has half a megabyte then, and somebody who has not looked
/// at a thousand will not look at more.
pub const LETTERS_MAX: usize = 1_000;

/// Who sends for an endpoint, and how far it is. Written by whoever sends alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// One more with each writing, also over a store that lost some: of two, the higher is the later.
    pub turn: u64,
    /// Who sends; `None` where it has left.
    pub holder: Option<ReplicaId>,
    /// Every event up to this place in the feed is delivered, dead, not wanted, or among `parked`.
    pub cursor: u64,
    /// Events beyond it that are over, too, ascending.
    pub done: Vec<u64>,
    /// Events that were tried, or are sent again, whole: the feed may not have them any more by then.
    pub parked: Vec<Parked>,
    /// The receiver said that it is gone.
    pub disabled: Option<Timestamp>,
    /// How it is.
    pub health: Health,
    /// How often the document was found lost or older than it should be: the store may then lack what other replicas know, too, and this
    /// tells them.
    #[serde(default)]
    pub losses: u64,
}

/// An event that waits to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Its place in the feed.
    pub sequence: u64,
    /// The event.
    pub event: Event,
    /// How often it was tried.
    pub attempts: u32,
    /// How often it was not taken while others were: see [`super::queue`].
    pub alone: u32,
    /// When it was first tried.
    pub first: Option<Timestamp>,
    /// When it is tried next.
    pub next: Timestamp,
    /// Why it was not taken.
    pub error: String,
}

/// How an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// When it last took an event.
    pub delivered: Option<Timestamp>,
    /// How often it has not, since.
    pub failures: u32,
    /// Since when.
    pub failing_since: Option<Timestamp>,
    /// Why, the last time; kept when it is well again.
    pub error: String,
}

/// What was given up, and what people asked for about it. Written by whoever sends, and through the control API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// The letters, the oldest first.
    pub letters: Vec<Letter>,
    /// How many made room for younger ones.
    pub dropped: u64,
    /// The endpoint is to be sent to again although it said that it is gone.
    pub enable: bool,
}

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its place in the feed.
    pub sequence: u64,
    /// The event.
    pub event: Event,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first tried.
    pub first: Timestamp,
    /// When it was given up.
    pub died: Timestamp,
    /// Why it was not taken, the last time.
    pub error: String,
    /// It is to be sent again; whoever sends takes it out then.
    pub again: bool,
}

impl Dead {
    /// Lays a letter down, once; returns how many made room.
    pub fn bury(&mut self, letter: Letter) -> u64 {
        if self
            .letters
            .iter()
            .any(|other| other.sequence == letter.sequence)
        {
            return 0;
        }
        self.letters.push(letter);
        let more = self.letters.len().saturating_sub(LETTERS_MAX);
        self.letters.drain(..more);
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        self.dropped = self.dropped.saturating_add(more);
        more
    }
}

/// The name of the document of [`State`].
pub fn document(endpoint: &str) -> String {
    format!("{WEBHOOK_DOCUMENTS}{endpoint}")
}

/// The name of the document of [`Dead`].
pub fn dead_document(endpoint: &str) -> String {
    format!("{WEBHOOK_DOCUMENTS}{endpoint}:dead")
}
