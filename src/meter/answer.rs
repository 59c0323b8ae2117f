//! One JSON text of a response, a whole body or the data of one event: where its usage, its
//! generated text, its type and its error stand. Frames and streams are put together elsewhere.

mod place;

use super::Api;
use super::malformed::Fault;
use super::said::Said;
use super::scan::{Kind, Scanner, Sink};
use super::short::Short;
use place::Place;

/// The longest scalar of use: the names of events that end a stream, and the 20 digits of `u64::MAX`.
/// There is room to tell a longer one.
pub(super) const NAME_MAX: usize = 24;

/// What the type of a text, or the name of an event, says about the stream it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Name {
    #[default]
    Other,
    /// The stream is complete.
    Last,
    /// The stream is complete, and the call failed.
    Failed,
    /// The call failed.
    Error,
}

impl Name {
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"message_stop" | b"response.completed" | b"response.incomplete" => Self::Last,
            b"response.failed" => Self::Failed,
            b"error" => Self::Error,
            _ => Self::Other,
        }
    }

    pub(super) const fn last(self) -> bool {
        matches!(self, Self::Last | Self::Failed)
    }

    pub(super) const fn error(self) -> bool {
        matches!(self, Self::Failed | Self::Error)
    }
}

/// What a usage object in the text came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Said(Said),
    /// It was there, but with a count that is none.
    Unreadable,
}

/// What `choices` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Choices {
    #[default]
    Absent,
    Empty,
    Some,
}

/// Reads one text.
pub(super) struct Answer {
    scanner: Scanner<Place>,
    /// Not JSON from some byte on: read no further.
    broken: bool,
    pub(super) found: Found,
}

/// What was found in it so far.
pub(super) struct Found {
    api: Api,
    event: bool,
    /// The last usage object that is closed; none if it says nothing.
    pub(super) usage: Option<Usage>,
    /// Whether there was a usage object, whatever it says.
    has_usage: bool,
    pub(super) choices: Choices,
    pub(super) name: Name,
    pub(super) error: bool,
    /// Bytes of generated text that is not reasoning, and of the reasoning: some servers write it
    /// into two fields, so the larger counts.
    text: u64,
    reasoning: [u64; 2],
    /// The usage object now open, and whether a count in it is none.
    draft: Said,
    spoilt: bool,
    /// What the scalar now read says, as far as it is of use.
    said: Short<NAME_MAX>,
}

impl Answer {
    pub(super) fn new(api: Api, event: bool) -> Self {
        Self {
            scanner: Scanner::new(),
            broken: false,
            found: Found::new(api, event),
        }
    }

    /// Reads on. What is not JSON is not read.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if !self.broken && !self.scanner.done() {
            self.broken = self.scanner.feed(bytes, &mut self.found).is_err();
        }
    }

    /// Whether it is a chunk of a stream that has nothing but the usage.
    pub(super) fn is_usage_only(&self) -> bool {
        self.done() && self.found.has_usage && self.found.choices == Choices::Empty
    }

    /// Whether the text is closed.
    pub(super) const fn done(&self) -> bool {
        self.scanner.done()
    }
}

impl Found {
    const fn new(api: Api, event: bool) -> Self {
        Self {
            api,
            event,
            usage: None,
            has_usage: false,
            choices: Choices::Absent,
            name: Name::Other,
            error: false,
            text: 0,
            reasoning: [0; 2],
            draft: Said::NONE,
            spoilt: false,
            said: Short::new(),
        }
    }

    /// Bytes of generated text. In a text that says an error there is none.
    pub(super) fn text_bytes(&self) -> u64 {
        let [one, other] = self.reasoning;
        if self.failed() {
            0
        } else {
            self.text.saturating_add(one.max(other))
        }
    }

    /// Whether it says an error.
    pub(super) const fn failed(&self) -> bool {
        self.error || self.name.error()
    }

    fn end_number(&mut self, place: Place, kind: Kind) {
        let Place::Part(part) = place else { return };
        match (kind, self.said.number()) {
            (Kind::Number, Some(count)) => self.draft.set(part, count),
            (Kind::Null, _) => {}
            _ => self.spoilt = true,
        }
    }

    fn end_usage(&mut self) {
        self.has_usage = true;
        if self.spoilt {
            self.usage = Some(Usage::Unreadable);
        } else if self.draft.is_usage() {
            self.usage = Some(Usage::Said(self.draft));
        }
    }
}

impl Sink for Found {
    type Place = Place;
    const STRICT: bool = false;

    fn root(&self) -> Place {
        Place::root(self.api, self.event)
    }

    fn member(&mut self, parent: Place, key: &[u8]) -> Result<Place, Fault> {
        Ok(parent.member(key, self.api))
    }

    fn element(&self, parent: Place) -> Place {
        parent.element()
    }

    fn begin(&mut self, place: Place, kind: Kind, _at: usize) -> Result<(), Fault> {
        match place {
            Place::Usage => {
                self.draft = Said::NONE;
                self.spoilt = false;
            }
            Place::Part(_) | Place::Type => self.said.clear(),
            Place::Error => self.error |= !matches!(kind, Kind::Null | Kind::False | Kind::Text),
            Place::Choices if kind == Kind::Array && self.choices == Choices::Absent => {
                self.choices = Choices::Empty;
            }
            Place::Choice => self.choices = Choices::Some,
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, place: Place, piece: &[u8]) -> Result<(), Fault> {
        let bytes = || u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let [one, other] = &mut self.reasoning;
        match place {
            Place::Text | Place::Content | Place::ToolInput => {
                self.text = self.text.saturating_add(bytes());
            }
            Place::Reasoning => *one = one.saturating_add(bytes()),
            Place::ReasoningContent => *other = other.saturating_add(bytes()),
            Place::Part(_) | Place::Type => self.said.push(piece),
            Place::Error => self.error = true,
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, place: Place, kind: Kind, _at: usize) -> Result<(), Fault> {
        match (place, kind) {
            (Place::Usage, Kind::Object) => self.end_usage(),
            (Place::Part(_), _) => self.end_number(place, kind),
            (Place::Type, Kind::Text) => {
                let name = Name::of(self.said.get());
                if name != Name::Other {
                    self.name = name;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
