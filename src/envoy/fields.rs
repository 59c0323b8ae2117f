//! Protobuf, read where it lies and written as it goes ([encoding]). Envoy tells a call and its end with all that it knows of them,
//! and of that little matters: making strings and maps of it all, and of what is answered, costs more than the decision.
//!
//! [encoding]: https://protobuf.dev/programming-guides/encoding/

use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

/// What cannot be read as protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not whole, or no protobuf")]
pub(super) struct Malformed;

/// What a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held<'a> {
    /// A number, a truth or one of an enumeration.
    Number(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// A number of fixed width: nothing that is read here is one.
    Fixed,
}

/// The fields of a message, with their numbers, in the order in which they lie. Ends with the first that cannot be read.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) const fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn next_field(&mut self) -> Result<(u64, Held<'a>), Malformed> {
        let key = self.number()?;
        let held = match key & 7 {
            0 => Held::Number(self.number()?),
            1 => self.taken(8).map(|_| Held::Fixed)?,
            2 => {
                let length = self.number()?;
                Held::Bytes(self.taken(length)?)
            }
            5 => self.taken(4).map(|_| Held::Fixed)?,
            // Groups (3 and 4) are of protobuf's second syntax; Envoy has none.
            _ => return Err(Malformed),
        };
        Ok((key >> 3, held))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        decode_varint(&mut self.0).map_err(|_| Malformed)
    }

    fn taken(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Held<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let next = self.next_field();
        if next.is_err() {
            self.0 = &[];
        }
        Some(next)
    }
}

/// A name and what it stands for: an entry of a map, or a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Also reads `envoy.config.core.v3.HeaderValue`, which begins as a map's entry does and has its value in one of two fields.
    pub(super) fn read(entry: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        for field in Fields::of(entry) {
            match field? {
                (1, Held::Bytes(name)) => read.name = name,
                (2 | 3, Held::Bytes(value)) if !value.is_empty() => read.value = value,
                _ => {}
            }
        }
        Ok(read)
    }
}

/// A request's or an answer's headers.
#[derive(Debug, Default)]
pub(super) struct Headers<'a>(pub(super) Vec<Entry<'a>>);

impl crate::gateway::Lines for Headers<'_> {
    fn line(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.0.iter();
        let found = all.find(|entry| entry.name == name.as_bytes())?;
        Some(found.value)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.0.iter();
        names.filter_map(|entry| std::str::from_utf8(entry.name).ok())
    }
}

/// Writes a field that is a text. The number is below 16: it lies in one byte with what the field is.
pub(super) fn text(to: &mut Vec<u8>, number: u8, text: &str) {
    key(to, number, 2);
    encode_varint(wide(text.len()), to);
    to.extend_from_slice(text.as_bytes());
}

/// Writes a field that is a number, or one of an enumeration.
pub(super) fn number(to: &mut Vec<u8>, number: u8, value: u64) {
    key(to, number, 0);
    encode_varint(value, to);
}

/// Writes a field that is a message, which is what `write` writes.
pub(super) fn message(to: &mut Vec<u8>, number: u8, write: impl FnOnce(&mut Vec<u8>)) {
    key(to, number, 2);
    let begin = to.len();
    // Where the length stands, which most often is one byte.
    to.push(0);
    write(to);
    let written = to.len();
    let length = wide(written.saturating_sub(begin).saturating_sub(1));
    let more = encoded_len_varint(length).saturating_sub(1);
    if more > 0 {
        to.resize(written.saturating_add(more), 0);
        to.copy_within(
            begin.saturating_add(1)..written,
            begin.saturating_add(1).saturating_add(more),
        );
    }
    if let Some(mut place) = to.get_mut(begin..) {
        encode_varint(length, &mut place);
    }
}

fn key(to: &mut Vec<u8>, number: u8, kind: u8) {
    debug_assert!(number < 16, "one byte");
    to.push(number << 3 | kind);
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
