//! A stream of server-sent events cut into what matters: data, names, and where each event ends.
//! What the data says is read elsewhere.

use memchr::memchr2;

/// The longest field name worth comparing: `event`, and one more to tell it from a longer one.
const FIELD_MAX: usize = 6;
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A line of data begins.
    DataLine,
    /// A piece of that line.
    Data(&'a [u8]),
    /// A line with the event's name begins.
    NameLine,
    /// A piece of that name.
    Name(&'a [u8]),
    /// The event is over: its last byte is the last one taken.
    End,
    /// The line feed taken belongs to the event that is already over: its blank line was CRLF, cut
    /// in two.
    Tail,
}

#[derive(Clone, Copy)]
enum Line {
    /// So many bytes of a byte order mark were read.
    Mark(usize),
    /// At a line's first byte.
    Start,
    /// In a field's name.
    Field([u8; FIELD_MAX], usize),
    /// Just behind the colon, where one space is no part of the value.
    Colon(Value),
    Value(Value),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Data,
    Name,
    /// A comment or a field without interest.
    Other,
}

/// A line feed that comes now is the second half of a CRLF.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Return {
    No,
    Line,
    Event,
}

/// The state of one stream.
pub(super) struct Events {
    line: Line,
    returned: Return,
}

impl Events {
    pub(super) const fn new() -> Self {
        Self {
            line: Line::Mark(0),
            returned: Return::No,
        }
    }

    /// The next token; takes from `bytes` what it stands for. `None` when they are used up.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Token<'a>> {
        loop {
            let (&byte, tail) = bytes.split_first()?;
            let returned = std::mem::replace(&mut self.returned, Return::No);
            if byte == b'\n' && returned != Return::No {
                *bytes = tail;
                match returned {
                    Return::Event => return Some(Token::Tail),
                    _ => continue,
                }
            }
            let token = match self.line {
                Line::Mark(read) => {
                    self.mark(read, byte, tail, bytes);
                    None
                }
                Line::Start if byte == b'\n' || byte == b'\r' => {
                    *bytes = tail;
                    // Of a CRLF both bytes are taken now, if they are there.
                    match (byte, tail.split_first()) {
                        (b'\r', Some((b'\n', rest))) => *bytes = rest,
                        (b'\r', None) => self.returned = Return::Event,
                        _ => {}
                    }
                    Some(Token::End)
                }
                Line::Start => match bytes.strip_prefix(b"data:") {
                    Some(rest) => {
                        *bytes = rest;
                        self.line = Line::Colon(Value::Data);
                        Some(Token::DataLine)
                    }
                    None => {
                        self.line = Line::Field([0; FIELD_MAX], 0);
                        None
                    }
                },
                Line::Field(name, length) => self.field(name, length, bytes),
                Line::Colon(value) => {
                    if byte == b' ' {
                        *bytes = tail;
                    }
                    self.line = Line::Value(value);
                    None
                }
                Line::Value(value) => self.value(value, bytes),
            };
            if token.is_some() {
                return token;
            }
        }
    }

    fn mark<'a>(&mut self, read: usize, byte: u8, tail: &'a [u8], bytes: &mut &'a [u8]) {
        if BOM.get(read) == Some(&byte) {
            *bytes = tail;
            let read = read.saturating_add(1);
            self.line = if read == BOM.len() {
                Line::Start
            } else {
                Line::Mark(read)
            };
        } else {
            // What began like a mark and is none is a line of no interest.
            self.line = if read == 0 {
                Line::Start
            } else {
                Line::Value(Value::Other)
            };
        }
    }

    /// Reads a field's name up to the colon or the line's end.
    fn field<'a>(
        &mut self,
        mut name: [u8; FIELD_MAX],
        mut length: usize,
        bytes: &mut &'a [u8],
    ) -> Option<Token<'a>> {
        while let Some((&byte, tail)) = bytes.split_first() {
            if matches!(byte, b':' | b'\n' | b'\r') {
                let value = match name.get(..length) {
                    Some(b"data") => Value::Data,
                    Some(b"event") => Value::Name,
                    _ => Value::Other,
                };
                // Without a colon the value is empty, and the line's end is still to be read.
                self.line = if byte == b':' {
                    *bytes = tail;
                    Line::Colon(value)
                } else {
                    Line::Value(value)
                };
                return match value {
                    Value::Data => Some(Token::DataLine),
                    Value::Name => Some(Token::NameLine),
                    Value::Other => None,
                };
            }
            if let Some(slot) = name.get_mut(length) {
                *slot = byte;
            }
            length = length.saturating_add(1);
            *bytes = tail;
        }
        self.line = Line::Field(name, length);
        None
    }

    /// Reads a value up to the line's end.
    fn value<'a>(&mut self, value: Value, bytes: &mut &'a [u8]) -> Option<Token<'a>> {
        let stop = memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
        let (piece, rest) = bytes.split_at(stop);
        *bytes = rest;
        if piece.is_empty()
            && let Some((&end, rest)) = rest.split_first()
        {
            *bytes = rest;
            self.line = Line::Start;
            self.returned = if end == b'\r' {
                Return::Line
            } else {
                Return::No
            };
            return None;
        }
        match value {
            Value::Data => Some(Token::Data(piece)),
            Value::Name => Some(Token::Name(piece)),
            Value::Other => None,
        }
    }
}
