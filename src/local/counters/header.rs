//! The first page of a counter file, and the first page of each of its chunks. Bytes in and out; what is wrong with them, in words.

use std::path::Path;

use super::error::CountersError;
use super::{checksum, chunk};
use crate::clock::Timestamp;
use crate::id::{NAME_BYTES_MAX, ReplicaId};

/// What a counter file begins with.
pub(super) const MAGIC: [u8; 8] = *b"TGCOUNTS";

/// What each chunk begins with.
const CHUNK_MAGIC: [u8; 8] = *b"TGCHUNK\n";

/// What the bytes mean. Raised whenever an older tollgate could not read them.
pub(super) const FORMAT: u32 = 1;

/// Reads backwards on a machine with the other byte order.
const BYTE_ORDER: u64 = 0x0102_0304_0506_0708;

/// A page.
pub(super) const PAGE: usize = 4_096;

/// Where the words stand that change while the file is used, each with its complement, so that they need no checksum and are
/// written in one piece.
pub(super) const CHUNKS_AT: u64 = 2_048;
pub(super) const OPENS_AT: u64 = 2_056;

/// The largest number of times that a file may be opened: generations have 24 bits for it.
pub(super) const OPENS_MAX: u32 = (1 << 24) - 1;

const VERSION: usize = 8;
const ORDER: usize = 16;
const SIZES: usize = 24;
const ID: usize = 40;
const CREATED: usize = 56;
const NAME_LENGTH: usize = 64;
const NAME: usize = 72;
const VARIABLE: usize = 2_048;
const VARIABLE_END: usize = 2_064;
const SUM: usize = PAGE - 8;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Random: tells this file from every other.
    pub(super) id: u128,
    pub(super) replica: ReplicaId,
    pub(super) created: Timestamp,
    /// How many chunks are there, whole.
    pub(super) chunks: u32,
    /// How often it was opened.
    pub(super) opens: u32,
}

/// The sizes of slots and chunks, as the header has them.
const OURS: [u32; 4] = [
    chunk::WORDS_BYTES,
    chunk::RECORD_BYTES,
    chunk::TOTALS_BYTES,
    chunk::CHUNK_BYTES,
];

impl Header {
    /// As bytes.
    pub(super) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let name = self.replica.as_str().as_bytes();
        put(&mut page, 0, &MAGIC);
        put(&mut page, VERSION, &FORMAT.to_ne_bytes());
        put(&mut page, ORDER, &BYTE_ORDER.to_ne_bytes());
        for (size, at) in OURS.iter().zip((SIZES..).step_by(4)) {
            put(&mut page, at, &size.to_ne_bytes());
        }
        put(&mut page, ID, &self.id.to_ne_bytes());
        put(&mut page, CREATED, &self.created.nanos().to_ne_bytes());
        let length = u64::try_from(name.len()).unwrap_or(0);
        put(&mut page, NAME_LENGTH, &length.to_ne_bytes());
        put(&mut page, NAME, name);
        put(&mut page, VARIABLE, &variable(self.chunks));
        put(&mut page, VARIABLE + 8, &variable(self.opens));
        let sum = sum(&page);
        put(&mut page, SUM, &sum.to_ne_bytes());
        page
    }

    /// From bytes, or why they are no header of ours.
    pub(super) fn decode(page: &[u8; PAGE], path: &Path) -> Result<Self, CountersError> {
        let path = || path.to_owned();
        let damaged = |what| CountersError::Damaged { path: path(), what };
        if get::<8>(page, 0) != MAGIC {
            return Err(CountersError::Foreign { path: path() });
        }
        let order = u64::from_ne_bytes(get(page, ORDER));
        if order == BYTE_ORDER.swap_bytes() {
            return Err(CountersError::ByteOrder { path: path() });
        }
        if order != BYTE_ORDER {
            return Err(damaged("its byte order mark"));
        }
        let found = u32::from_ne_bytes(get(page, VERSION));
        if found != FORMAT {
            return Err(CountersError::Version {
                path: path(),
                found,
            });
        }
        if u64::from_ne_bytes(get(page, SUM)) != sum(page) {
            return Err(damaged("its checksum"));
        }
        let sizes: [u32; 4] = std::array::from_fn(|i| {
            let at = SIZES.saturating_add(i.saturating_mul(4));
            u32::from_ne_bytes(get(page, at))
        });
        if sizes != OURS {
            return Err(CountersError::Layout {
                path: path(),
                found: format!("{sizes:?} bytes"),
                ours: format!("{OURS:?}"),
            });
        }
        Ok(Self {
            id: u128::from_ne_bytes(get(page, ID)),
            replica: name(page).ok_or_else(|| damaged("its replica's name"))?,
            created: Timestamp::from_nanos(i64::from_ne_bytes(get(page, CREATED))),
            chunks: counter(get(page, VARIABLE)).ok_or_else(|| damaged("its number of parts"))?,
            opens: counter(get(page, VARIABLE + 8))
                .ok_or_else(|| damaged("its number of starts"))?,
        })
    }
}

/// A word that changes, with its complement.
pub(super) const fn variable(value: u32) -> [u8; 8] {
    let [a, b, c, d] = value.to_ne_bytes();
    let [e, f, g, h] = (!value).to_ne_bytes();
    [a, b, c, d, e, f, g, h]
}

fn counter(bytes: [u8; 8]) -> Option<u32> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let value = u32::from_ne_bytes([a, b, c, d]);
    (u32::from_ne_bytes([e, f, g, h]) == !value).then_some(value)
}

fn name(page: &[u8; PAGE]) -> Option<ReplicaId> {
    let length = usize::try_from(u64::from_ne_bytes(get(page, NAME_LENGTH))).ok()?;
    let bytes = page.get(NAME..NAME.checked_add(length.min(NAME_BYTES_MAX))?)?;
    ReplicaId::new(std::str::from_utf8(bytes).ok()?).ok()
}

/// What stands in the header but the words that change and the sum itself.
fn sum(page: &[u8; PAGE]) -> u64 {
    let (before, rest) = page.split_at(VARIABLE);
    let after = rest.get(VARIABLE_END - VARIABLE..SUM - VARIABLE);
    let bytes = before
        .chunks_exact(8)
        .chain(after.unwrap_or_default().chunks_exact(8));
    checksum(bytes.map(|bytes| bytes.try_into().map_or(0, u64::from_ne_bytes)))
}

/// What a chunk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Usage slots.
    Usage,
    /// Totals of accounts.
    Totals,
}

impl Kind {
    /// The first page of a chunk.
    pub(super) fn encode(self, file: u128, number: u32) -> [u8; PAGE] {
        let kind = match self {
            Self::Usage => 1_u32,
            Self::Totals => 2,
        };
        let mut page = [0; PAGE];
        put(&mut page, 0, &CHUNK_MAGIC);
        put(&mut page, 8, &kind.to_ne_bytes());
        put(&mut page, 12, &number.to_ne_bytes());
        put(&mut page, 16, &file.to_ne_bytes());
        page
    }

    /// From the first page of a chunk; `None` if it is not the one that belongs there.
    pub(super) fn decode(page: &[u8; PAGE], file: u128, number: u32) -> Option<Self> {
        [Self::Usage, Self::Totals]
            .into_iter()
            .find(|kind| kind.encode(file, number) == *page)
    }
}

fn put(page: &mut [u8; PAGE], at: usize, bytes: &[u8]) {
    for (place, byte) in page.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

fn get<const N: usize>(page: &[u8; PAGE], at: usize) -> [u8; N] {
    let mut bytes = page.iter().skip(at);
    std::array::from_fn(|_| bytes.next().copied().unwrap_or(0))
}

#[cfg(test)]
mod tests;
