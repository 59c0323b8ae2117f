//! Where things lie in a chunk: the part of the file that is reserved and mapped in one piece, for usage slots or for totals.
//!
//! ```text
//! usage:   head page │ 1,024 × 128 bytes of words, dense │ 1,024 × 512 bytes of records
//! totals:  head page │ 2,560 × 256 bytes
//! ```

use std::sync::Arc;

use super::header::Kind;
use super::record::{TotalsRecord, UsageRecord, UsageWords};
use super::region::{Kept, Region};

pub(super) const WORDS_BYTES: u32 = 128;
pub(super) const RECORD_BYTES: u32 = 512;
pub(super) const TOTALS_BYTES: u32 = 256;
const HEAD_BYTES: u32 = 4_096;

/// Usage slots of a chunk: enough for a small deployment, and a write of 0.7 MB when there must be more.
pub(super) const SLOTS: u32 = 1_024;

/// All chunks are of one size.
pub(super) const CHUNK_BYTES: u32 = HEAD_BYTES + SLOTS * (WORDS_BYTES + RECORD_BYTES);

/// Totals of a chunk.
pub(super) const TOTALS: u32 = (CHUNK_BYTES - HEAD_BYTES) / TOTALS_BYTES;

/// A chunk, mapped.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) kind: Kind,
    /// Its place in the file, from 0.
    pub(super) number: u32,
    pub(super) region: Arc<Region>,
}

/// A place for a slot: its chunk, and its number there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) chunk: Arc<Chunk>,
    pub(super) index: u32,
}

impl Chunk {
    /// Where a chunk begins in the file.
    pub(super) fn offset(number: u32) -> u64 {
        u64::from(number)
            .saturating_mul(u64::from(CHUNK_BYTES))
            .saturating_add(u64::from(HEAD_BYTES))
    }

    /// Every place in it.
    pub(super) fn places(self: &Arc<Self>) -> impl Iterator<Item = Place> {
        let count = match self.kind {
            Kind::Usage => SLOTS,
            Kind::Totals => TOTALS,
        };
        let chunk = Arc::clone(self);
        (0..count).map(move |index| Place {
            chunk: Arc::clone(&chunk),
            index,
        })
    }
}

impl Place {
    /// The words and the record of a usage slot; `None` only in a chunk that is too short or for something else.
    pub(super) fn usage(&self) -> Option<(Kept<UsageWords>, Kept<UsageRecord>)> {
        if self.chunk.kind != Kind::Usage {
            return None;
        }
        let words = HEAD_BYTES.checked_add(self.index.checked_mul(WORDS_BYTES)?)?;
        let records = HEAD_BYTES.checked_add(SLOTS.checked_mul(WORDS_BYTES)?)?;
        let record = records.checked_add(self.index.checked_mul(RECORD_BYTES)?)?;
        let region = &self.chunk.region;
        Some((
            region.at(usize::try_from(words).ok()?)?,
            region.at(usize::try_from(record).ok()?)?,
        ))
    }

    /// The record of totals; `None` only in a chunk that is too short or for something else.
    pub(super) fn totals(&self) -> Option<Kept<TotalsRecord>> {
        if self.chunk.kind != Kind::Totals {
            return None;
        }
        let at = HEAD_BYTES.checked_add(self.index.checked_mul(TOTALS_BYTES)?)?;
        self.chunk.region.at(usize::try_from(at).ok()?)
    }
}
