//! What is found in a counter file when it is opened: the slots that are used, by account, and those that are free.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::chunk::{Chunk, Place};
use super::header::Kind;
use super::record::UsageWords;
use super::slot::{Slot, Totals};
use super::{Refused, Rows, Why};
use crate::clock::Hour;
use crate::id::AccountId;
use crate::usage::Tally;

/// What is in the chunks of a file.
#[derive(Default)]
pub(super) struct Found {
    pub(super) accounts: HashMap<AccountId, Rows>,
    pub(super) free: Vec<Place>,
    pub(super) free_totals: Vec<Place>,
    /// Free, but with something left in them: emptied, and not yet flushed.
    pub(super) cleared: Vec<Place>,
    pub(super) used: usize,
    pub(super) refused: Vec<Refused>,
}

/// Looks through all chunks. What an earlier run was killed at, is finished; what is damaged, is left alone.
pub(super) fn scan(chunks: &[Arc<Chunk>]) -> Found {
    let mut found = Found::default();
    // The first places are taken first, and lists are taken from at their ends.
    for place in chunks.iter().rev().flat_map(|chunk| {
        let mut places: Vec<Place> = chunk.places().collect();
        places.reverse();
        places
    }) {
        match place.chunk.kind {
            Kind::Usage => found.usage(place),
            Kind::Totals => found.totals(place),
        }
    }
    found
}

impl Found {
    /// How many slots the fullest hour has.
    pub(super) fn most_in_an_hour(&self) -> usize {
        let mut hours: HashMap<Hour, usize> = HashMap::new();
        for row in self.accounts.values().flat_map(|rows| rows.slots.keys()) {
            let count = hours.entry(row.hour).or_default();
            *count = count.saturating_add(1);
        }
        hours.into_values().max().unwrap_or(0)
    }

    fn usage(&mut self, place: Place) {
        let Some((words, record)) = place.usage() else {
            return;
        };
        // Acquire: pairs with the store that marked it used, which only matters within one process.
        if record.state.load(Acquire) == 0 {
            if words.is_blank() {
                self.free.push(place);
            } else {
                words.clear();
                self.cleared.push(place);
            }
            return;
        }
        self.used = self.used.saturating_add(1);
        let Some((account, row)) = record.read() else {
            self.refuse(&place, Why::Torn, &words);
            return;
        };
        let rows = self.accounts.entry(account).or_default();
        if rows.slots.contains_key(&row) {
            self.refuse(&place, Why::Twice, &words);
            return;
        }
        let slot = Slot::filed((words, record), place, row.clone());
        slot.finish_ending();
        slot.mark_left_open();
        rows.slots.insert(row, slot);
    }

    fn totals(&mut self, place: Place) {
        let Some(record) = place.totals() else {
            return;
        };
        if record.state.load(Relaxed) == 0 {
            if !record.is_blank() {
                record.clear();
            }
            self.free_totals.push(place);
            return;
        }
        let Some(account) = record.read() else {
            self.refused.push(Refused {
                chunk: place.chunk.number,
                slot: place.index,
                why: Why::Torn,
                tally: Tally::default(),
            });
            return;
        };
        let rows = self.accounts.entry(account).or_default();
        if rows.totals.is_none() {
            rows.totals = Some(Totals::filed(record, place));
        }
    }

    fn refuse(&mut self, place: &Place, why: Why, words: &UsageWords) {
        self.refused.push(Refused {
            chunk: place.chunk.number,
            slot: place.index,
            why,
            tally: words.tally(),
        });
    }
}
