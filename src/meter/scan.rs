//! One JSON text read as its bytes come: checks it, says where each value stands, keeps none of
//! it. What the places mean is up to the [`Sink`]; there is no API here.

mod escape;
mod number;
mod search;
mod utf8;

use escape::{Escape, Step};
use number::Number;
use search::string_end;
use utf8::Utf8;

use super::malformed::{Fault, Malformed};
use super::short::Short;

/// How deep values may nest: as deep as `serde_json` goes, so that what passes here parses there.
pub(super) const DEPTH_MAX: u8 = 127;
/// How deep places are told apart: the deepest of interest is
/// `choices[].delta.tool_calls[].function.arguments`, in seven containers. Deeper is elsewhere.
const PLACES: usize = 8;
/// The longest key worth comparing: `max_completion_tokens` spelt with three-byte letters.
const KEY_MAX: usize = 64;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    Text,
    Number,
    True,
    False,
    Null,
}

/// Who is told what a text says. A place is where a value stands, as far as the sink cares; the
/// default place is one it does not care about.
pub(super) trait Sink {
    /// Where a value stands.
    type Place: Copy + Default;
    /// Whether strings are checked to be UTF-8, free of control characters and lone surrogates.
    const STRICT: bool;

    /// The place of the whole text.
    fn root(&self) -> Self::Place;
    /// The place of the member `key` (unescaped) of an object.
    fn member(&mut self, parent: Self::Place, key: &[u8]) -> Result<Self::Place, Fault>;
    /// The place of an element of an array.
    fn element(&self, parent: Self::Place) -> Self::Place;
    /// A value begins at byte `at`.
    fn begin(&mut self, place: Self::Place, kind: Kind, at: usize) -> Result<(), Fault>;
    /// A piece of a string, unescaped, or of a number's digits.
    fn text(&mut self, place: Self::Place, piece: &[u8]) -> Result<(), Fault>;
    /// A value has ended before byte `at`.
    fn end(&mut self, place: Self::Place, kind: Kind, at: usize) -> Result<(), Fault>;
}

/// What may come next.
#[derive(Clone, Copy)]
enum State {
    Value,
    FirstElement,
    FirstKey,
    Key,
    Colon,
    After,
    Text,
    Escape(Escape),
    Number(Number),
    Word(&'static [u8]),
    Done,
}

/// The state of one text.
pub(super) struct Scanner<P> {
    state: State,
    /// One bit for each open container, the innermost lowest: set for an object.
    objects: u128,
    depth: u8,
    /// The places of the outermost open containers.
    places: [P; PLACES],
    /// The place and the kind of the value being read, and where it, or its key, began.
    place: P,
    kind: Kind,
    begun: usize,
    /// How many bytes were read.
    at: usize,
    /// Whether the string being read is a key, and what of it came in earlier pieces.
    in_key: bool,
    key: Short<KEY_MAX>,
    /// What the string has begun and not finished: a surrogate pair, a character.
    high: Option<u16>,
    utf8: Utf8,
}

impl<P: Copy + Default> Scanner<P> {
    pub(super) fn new() -> Self {
        Self {
            state: State::Value,
            objects: 0,
            depth: 0,
            places: [P::default(); PLACES],
            place: P::default(),
            kind: Kind::Null,
            begun: 0,
            at: 0,
            in_key: false,
            key: Short::new(),
            high: None,
            utf8: Utf8::new(),
        }
    }

    /// Whether the outermost value is closed.
    pub(super) const fn done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// How many bytes were read.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Reads on. After an error the scanner must not be fed again.
    pub(super) fn feed<S: Sink<Place = P>>(
        &mut self,
        mut bytes: &[u8],
        sink: &mut S,
    ) -> Result<(), Malformed> {
        while let Some((&byte, tail)) = bytes.split_first() {
            match self.state {
                State::Text => {
                    let rest = self.string(bytes, sink)?;
                    bytes = self.marks(rest);
                }
                State::Number(number) => {
                    let rest = self.number(number, bytes, sink)?;
                    bytes = self.marks(rest);
                }
                State::Escape(escape) => {
                    self.escape(escape, byte, sink)?;
                    bytes = tail;
                    self.advance(1);
                }
                State::Word(rest) if let Some(tail) = bytes.strip_prefix(rest) => {
                    self.advance(rest.len());
                    self.settle(self.place, self.kind, self.at, sink)?;
                    bytes = self.marks(tail);
                }
                State::Word(rest) => {
                    self.word(rest, byte, sink)?;
                    bytes = tail;
                    self.advance(1);
                }
                _ => {
                    self.structure(byte, sink)?;
                    bytes = tail;
                    self.advance(1);
                }
            }
        }
        Ok(())
    }

    /// The marks around a key, where they stand as most programs write them: read at once, and not byte by byte.
    #[inline]
    fn marks<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (length, rest) = match (self.state, bytes) {
            (State::Colon, [b':', b' ', rest @ ..]) => (2, rest),
            (State::Colon, [b':', rest @ ..]) => (1, rest),
            (State::After, [b',', b'"', rest @ ..]) if self.in_object() => (2, rest),
            (State::After, [b',', b' ', b'"', rest @ ..]) if self.in_object() => (3, rest),
            _ => return bytes,
        };
        self.advance(length);
        if matches!(self.state, State::Colon) {
            self.state = State::Value;
        } else {
            self.begin_key(self.at.saturating_sub(1));
        }
        rest
    }

    /// A key's quote stands at byte `at`.
    #[inline]
    const fn begin_key(&mut self, at: usize) {
        self.in_key = true;
        self.key.clear();
        self.begun = at;
        self.state = State::Text;
    }

    fn structure<S: Sink<Place = P>>(&mut self, byte: u8, sink: &mut S) -> Result<(), Malformed> {
        match (self.state, byte) {
            (_, b' ' | b'\t' | b'\n' | b'\r') => Ok(()),
            (State::FirstKey | State::Key, b'"') => {
                self.begin_key(self.at);
                Ok(())
            }
            (State::Colon, b':') => {
                self.state = State::Value;
                Ok(())
            }
            (State::After, b',') => {
                self.state = if self.in_object() {
                    State::Key
                } else {
                    State::Value
                };
                Ok(())
            }
            (State::FirstKey | State::After, b'}') if self.in_object() => self.close(sink),
            (State::FirstElement | State::After, b']') if !self.in_object() => self.close(sink),
            (State::Value | State::FirstElement, _) => self.value(byte, sink),
            (state, _) => self.unexpected(byte, state.wanted(self.in_object())),
        }
    }

    fn value<S: Sink<Place = P>>(&mut self, byte: u8, sink: &mut S) -> Result<(), Malformed> {
        let (kind, state) = match byte {
            b'{' => (Kind::Object, State::FirstKey),
            b'[' => (Kind::Array, State::FirstElement),
            b'"' => (Kind::Text, State::Text),
            b't' => (Kind::True, State::Word(b"rue")),
            b'f' => (Kind::False, State::Word(b"alse")),
            b'n' => (Kind::Null, State::Word(b"ull")),
            _ => match Number::first(byte) {
                Some(number) => (Kind::Number, State::Number(number)),
                None => return self.unexpected(byte, self.state.wanted(self.in_object())),
            },
        };
        self.place = match self.parent() {
            None => sink.root(),
            Some(_) if self.in_object() => self.place,
            Some(parent) => sink.element(parent),
        };
        self.kind = kind;
        self.begun = self.at;
        sink.begin(self.place, kind, self.at)
            .map_err(|fault| self.here(fault))?;
        match kind {
            Kind::Object | Kind::Array => self.open(kind)?,
            Kind::Text => self.in_key = false,
            Kind::Number => self.told(sink.text(self.place, &[byte]))?,
            Kind::True | Kind::False | Kind::Null => {}
        }
        self.state = state;
        Ok(())
    }

    fn open(&mut self, kind: Kind) -> Result<(), Malformed> {
        if self.depth >= DEPTH_MAX {
            return Err(self.here(Fault::TooDeep));
        }
        if let Some(slot) = self.places.get_mut(usize::from(self.depth)) {
            *slot = self.place;
        }
        self.depth = self.depth.saturating_add(1);
        self.objects = self.objects.wrapping_shl(1) | u128::from(kind == Kind::Object);
        Ok(())
    }

    fn close<S: Sink<Place = P>>(&mut self, sink: &mut S) -> Result<(), Malformed> {
        let kind = if self.in_object() {
            Kind::Object
        } else {
            Kind::Array
        };
        let place = self.parent().unwrap_or_default();
        self.objects = self.objects.wrapping_shr(1);
        self.depth = self.depth.saturating_sub(1);
        self.settle(place, kind, self.at.saturating_add(1), sink)
    }

    /// A value has ended before byte `end`.
    fn settle<S: Sink<Place = P>>(
        &mut self,
        place: P,
        kind: Kind,
        end: usize,
        sink: &mut S,
    ) -> Result<(), Malformed> {
        self.state = if self.depth == 0 {
            State::Done
        } else {
            State::After
        };
        self.told(sink.end(place, kind, end))
    }

    /// Reads within a string up to its end, an escape or the end of the bytes.
    fn string<'a, S: Sink<Place = P>>(
        &mut self,
        bytes: &'a [u8],
        sink: &mut S,
    ) -> Result<&'a [u8], Malformed> {
        let end = string_end(bytes);
        let (plain, rest) = bytes.split_at(end.at);
        if S::STRICT && !(end.plain && self.utf8.is_whole()) {
            self.utf8
                .check(plain, !rest.is_empty())
                .map_err(|(skipped, fault)| Malformed {
                    at: self.at.saturating_add(skipped),
                    fault,
                })?;
        }
        if bytes.first() != Some(&b'\\') {
            self.alone(sink)?;
        }
        self.advance(plain.len());
        let Some((&mark, tail)) = rest.split_first() else {
            self.piece(plain, sink)?;
            return Ok(rest);
        };
        if mark == b'\\' {
            self.piece(plain, sink)?;
            self.state = State::Escape(Escape::Letter);
        } else if self.in_key {
            self.end_key(plain, sink)?;
        } else {
            self.piece(plain, sink)?;
            self.settle(self.place, Kind::Text, self.at.saturating_add(1), sink)?;
        }
        self.advance(1);
        Ok(tail)
    }

    /// A piece of a key is kept until the key is whole; a piece of text is passed on.
    fn piece<S: Sink<Place = P>>(&mut self, plain: &[u8], sink: &mut S) -> Result<(), Malformed> {
        if plain.is_empty() {
            Ok(())
        } else if self.in_key {
            self.key.push(plain);
            Ok(())
        } else {
            self.told(sink.text(self.place, plain))
        }
    }

    fn end_key<S: Sink<Place = P>>(&mut self, last: &[u8], sink: &mut S) -> Result<(), Malformed> {
        let parent = self.parent().unwrap_or_default();
        let member = if self.key.is_empty() {
            sink.member(parent, last)
        } else {
            self.key.push(last);
            sink.member(parent, self.key.get())
        };
        self.place = member.map_err(|fault| self.here(fault))?;
        self.state = State::Colon;
        Ok(())
    }

    fn escape<S: Sink<Place = P>>(
        &mut self,
        escape: Escape,
        byte: u8,
        sink: &mut S,
    ) -> Result<(), Malformed> {
        self.state = State::Text;
        match escape.step(byte) {
            Ok(Step::More(escape)) => {
                self.state = State::Escape(escape);
                Ok(())
            }
            Ok(Step::Char(char)) => {
                self.alone(sink)?;
                self.char(char, sink)
            }
            Ok(Step::Unit(unit)) => self.unit(unit, sink),
            Err(wanted) => self.unexpected(byte, wanted),
        }
    }

    /// An escape that says one unit of UTF-16: a character, or half of one.
    fn unit<S: Sink<Place = P>>(&mut self, unit: u16, sink: &mut S) -> Result<(), Malformed> {
        if let Some(high) = self.high
            && let Some(Ok(char)) = char::decode_utf16([high, unit]).next()
        {
            self.high = None;
            return self.char(char, sink);
        }
        self.alone(sink)?;
        match unit {
            0xD800..=0xDBFF => {
                self.high = Some(unit);
                Ok(())
            }
            0xDC00..=0xDFFF => self.half(sink),
            _ => self.char(char::from_u32(u32::from(unit)).unwrap_or_default(), sink),
        }
    }

    /// What comes now is not the second half of a pair: then the first stands alone.
    fn alone<S: Sink<Place = P>>(&mut self, sink: &mut S) -> Result<(), Malformed> {
        match self.high.take() {
            Some(_) => self.half(sink),
            None => Ok(()),
        }
    }

    /// Half a pair: no text in the strict reading. Servers that cut a stream by UTF-16 units do
    /// write it, so answers may have it.
    fn half<S: Sink<Place = P>>(&mut self, sink: &mut S) -> Result<(), Malformed> {
        if S::STRICT {
            return Err(Malformed {
                at: self.at,
                fault: Fault::LoneSurrogate,
            });
        }
        self.char(char::REPLACEMENT_CHARACTER, sink)
    }

    fn char<S: Sink<Place = P>>(&mut self, char: char, sink: &mut S) -> Result<(), Malformed> {
        self.piece(char.encode_utf8(&mut [0; 4]).as_bytes(), sink)
    }

    fn number<'a, S: Sink<Place = P>>(
        &mut self,
        mut number: Number,
        bytes: &'a [u8],
        sink: &mut S,
    ) -> Result<&'a [u8], Malformed> {
        let mut length = 0_usize;
        for byte in bytes {
            let Some(next) = number.next(*byte) else {
                break;
            };
            number = next;
            length = length.saturating_add(1);
        }
        let (digits, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
        self.told(sink.text(self.place, digits))?;
        self.advance(length);
        self.state = State::Number(number);
        if let Some(&byte) = rest.first() {
            if !number.whole() {
                return self.unexpected(byte, "a digit");
            }
            self.settle(self.place, Kind::Number, self.at, sink)?;
        }
        Ok(rest)
    }

    fn word<S: Sink<Place = P>>(
        &mut self,
        rest: &'static [u8],
        byte: u8,
        sink: &mut S,
    ) -> Result<(), Malformed> {
        match rest.split_first() {
            Some((&next, [])) if next == byte => {
                self.settle(self.place, self.kind, self.at.saturating_add(1), sink)
            }
            Some((&next, rest)) if next == byte => {
                self.state = State::Word(rest);
                Ok(())
            }
            _ => self.unexpected(byte, "true, false or null"),
        }
    }

    const fn advance(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    const fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    /// The place of the innermost open container.
    fn parent(&self) -> Option<P> {
        let top = usize::from(self.depth.checked_sub(1)?);
        Some(self.places.get(top).copied().unwrap_or_default())
    }

    fn told(&self, answer: Result<(), Fault>) -> Result<(), Malformed> {
        answer.map_err(|fault| self.here(fault))
    }

    /// A fault of the value, or the key, being read.
    const fn here(&self, fault: Fault) -> Malformed {
        Malformed {
            at: self.begun,
            fault,
        }
    }

    const fn unexpected<T>(&self, byte: u8, wanted: &'static str) -> Result<T, Malformed> {
        Err(Malformed {
            at: self.at,
            fault: Fault::Unexpected { byte, wanted },
        })
    }
}

impl State {
    const fn wanted(self, in_object: bool) -> &'static str {
        match self {
            Self::Value => "a value",
            Self::FirstElement => "a value or `]`",
            Self::FirstKey => "a key or `}`",
            Self::Key => "a key",
            Self::Colon => "`:`",
            Self::After if in_object => "`,` or `}`",
            Self::After => "`,` or `]`",
            Self::Done => "nothing more",
            Self::Text | Self::Escape(_) | Self::Number(_) | Self::Word(_) => "the value's end",
        }
    }
}
