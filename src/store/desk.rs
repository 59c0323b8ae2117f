//! One account as a store keeps it, in memory and without I/O: the rules of [`super::shared`] over a map of rows. What the simulator
//! breaks on purpose and what the planner counts with; no replica is served from it.

use std::collections::BTreeMap;

use super::message::entries_before;
use super::shared::{self, Ground, Head, LiveRow, Tombstone, differences};
use super::{
    Commit, KeyRecord, Lapsed, Opened, Publish, Published, Row, Snapshot, StoreError, Stored,
    UsageRow,
};
use crate::clock::{Hour, Timestamp};
use crate::id::{AccountId, KeyId, ModelName, ReplicaId};
use crate::ledger::{Book, Claim, Entry, Event, Spent};
use crate::money::Amount;
use crate::usage::Tally;

type UsageId = (ReplicaId, Option<Hour>, KeyId, Option<ModelName>);

/// One account. Cloned, it is a snapshot of the store: put back later, the store has lost what came after.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    /// Its sums.
    pub head: Head,
    /// Its book; `None` if there is no such account.
    pub book: Option<Book>,
    /// The replicas' rows.
    pub rows: BTreeMap<ReplicaId, LiveRow>,
    /// What retired replicas left.
    pub tombstones: BTreeMap<ReplicaId, Tombstone>,
    /// The ledger.
    pub entries: Vec<Entry>,
    /// How many entries stood before the first of them.
    pub entries_gone: u64,
    /// All its events.
    pub events: Vec<Event>,
    /// What stands under each claim.
    pub claims: BTreeMap<String, Claim>,
    /// The keys.
    pub keys: BTreeMap<KeyId, KeyRecord>,
    /// Usage by replica, hour, key and model.
    pub usage: BTreeMap<UsageId, Tally>,
    /// When it was purged.
    pub purged: Option<Timestamp>,
}

impl Desk {
    /// The book with what stands under some claims: [`super::Store::read`].
    pub fn read(&self, claims: &[String]) -> Option<Snapshot> {
        Some(Snapshot {
            version: self.head.version,
            book: self.book.clone()?,
            spend: self.head.total,
            unleased: self.head.unleased,
            lost: self.head.lost,
            claims: claims
                .iter()
                .map(|name| self.claims.get(name).cloned())
                .collect(),
        })
    }

    /// The account as a replica takes it up: [`super::Store::open`].
    pub fn open(&self, replica: &ReplicaId, hour: Hour) -> Option<Opened> {
        let own = self
            .usage
            .iter()
            .filter(|((who, at, ..), _)| who == replica && at.is_none_or(|at| at == hour));
        let usage = own.map(|((_, hour, key, model), tally)| UsageRow {
            hour: *hour,
            key: key.clone(),
            model: model.clone(),
            tally: *tally,
        });
        Some(Opened {
            snapshot: self.read(&[])?,
            row: self.row(replica).row,
            usage: usage.collect(),
            keys: self.keys.values().cloned().collect(),
        })
    }

    /// A replica's row; what its tombstone says if it was retired; zeros if it never spoke.
    pub fn row(&self, replica: &ReplicaId) -> LiveRow {
        let back = |tombstone: &Tombstone| LiveRow::from(*tombstone);
        let row = self.rows.get(replica).copied();
        row.or_else(|| self.tombstones.get(replica).map(back))
            .unwrap_or_default()
    }

    /// Carries out a replica's message: [`super::Store::publish`].
    pub fn publish(
        &mut self,
        replica: &ReplicaId,
        message: &Publish,
        ground: &Ground,
    ) -> Result<Published, StoreError> {
        let by = differences(message)?;
        let account = || message.account.clone();
        if self.book.is_none() {
            return Err(StoreError::NoAccount(account()));
        }
        let row = self.row(replica);
        let step = shared::publish(self.head, row, message, &by, ground);
        let step = step.ok_or_else(|| range(&message.account))?;
        if step.spoke {
            self.head = step.head;
            self.rows.insert(replica.clone(), step.row);
            self.tombstones.remove(replica);
        }
        if step.applied {
            for row in &message.usage {
                let id = (
                    replica.clone(),
                    row.hour,
                    row.key.clone(),
                    row.model.clone(),
                );
                self.usage.insert(id, row.tally);
            }
        }
        Ok(step.answer)
    }

    /// Takes back what silent replicas have: [`super::Store::lapse`]. Times in ms.
    pub fn lapse(&mut self, silence_ms: u64, retired_ms: u64, ground: &Ground) -> Lapsed {
        let mut done = Lapsed::default();
        let silent = |row: &Row| ground.now_ms.saturating_sub(row.seen_ms);
        for live_row in self.rows.values_mut() {
            if !live_row.live || silent(&live_row.row) <= silence_ms {
                continue;
            }
            let held = live_row.row.held;
            if let Some(freed) = shared::lapse(&mut self.head, live_row, ground.now_ms) {
                done.freed = done.freed.saturating_add(freed);
                done.held = done.held.saturating_add(held);
                done.lapsed = done.lapsed.saturating_add(1);
            }
        }
        let gone = |row: &&LiveRow| !row.live && silent(&row.row) > retired_ms;
        let over: Vec<_> = self
            .rows
            .iter()
            .filter(|(_, row)| gone(row))
            .map(|(replica, row)| (replica.clone(), *row))
            .collect();
        for (replica, row) in over {
            if let Some((tombstone, freed)) = shared::retire(&mut self.head, row, ground.now_ms) {
                self.rows.remove(&replica);
                self.tombstones.insert(replica, tombstone);
                done.freed = done.freed.saturating_add(freed);
                done.retired = done.retired.saturating_add(1);
            }
        }
        done
    }

    /// Writes a book: [`super::Store::commit`].
    pub fn commit(&mut self, commit: &Commit, ground: &Ground) -> Result<Stored, StoreError> {
        let before = entries_before(commit)?;
        let id = &commit.book.account;
        if self.purged.is_some() {
            return Err(StoreError::Purged(id.clone()));
        }
        if self.head.fenced(ground) && commit.restore.is_none() {
            return Err(StoreError::Fenced(std::time::Duration::ZERO));
        }
        let stands = |(name, _): &(String, Claim)| self.claims.contains_key(name);
        if self.head.version != commit.expected || commit.claims.iter().any(stands) {
            return Ok(Stored::Conflict);
        }
        if let (None, Some(restore)) = (&self.book, commit.restore) {
            self.entries_gone = restore.entries_gone;
            self.head.fenced_until_ms = ground.now_ms.saturating_add(ground.lease_ms);
        }
        let last = self.last_entry();
        if last != before {
            return Err(StoreError::Corrupt(format!(
                "the ledger of `{id}` ends at {last}, the commit goes on from {before}"
            )));
        }
        let unleased = self.head.unleased.checked_add(commit.credit_delta);
        self.head.unleased = unleased.ok_or_else(|| range(id))?;
        self.head.version = commit.version();
        self.book = Some(commit.book.clone());
        self.entries.extend(commit.entries.iter().cloned());
        self.events.extend(commit.events.iter().cloned());
        self.claims.extend(commit.claims.iter().cloned());
        Ok(Stored::At(self.head.version))
    }

    /// Removes everything and leaves a mark: [`super::Store::purge`].
    pub fn purge(
        &mut self,
        account: &AccountId,
        expected: u64,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        if self.purged.is_some() {
            return Ok(Stored::At(0));
        }
        if self.book.is_none() {
            return Err(StoreError::NoAccount(account.clone()));
        }
        if self.head.version != expected {
            return Ok(Stored::Conflict);
        }
        *self = Self {
            purged: Some(now),
            ..Self::default()
        };
        Ok(Stored::At(0))
    }

    /// Writes a key: [`super::Store::put_key`].
    pub fn put_key(&mut self, expected: u64, key: KeyRecord) -> Stored {
        if self.head.version != expected {
            return Stored::Conflict;
        }
        self.head.version = self.head.version.saturating_add(1);
        self.keys.insert(key.id.clone(), key);
        Stored::At(self.head.version)
    }

    /// Entries after a sequence number: [`super::Store::entries`].
    pub fn entries_after(&self, after: u64) -> Vec<Entry> {
        let later = self.entries.iter().filter(|entry| entry.sequence > after);
        later.cloned().collect()
    }

    fn last_entry(&self) -> u64 {
        self.entries
            .last()
            .map_or(self.entries_gone, |entry| entry.sequence)
    }

    /// What must hold after every step: the sums are those of the rows, and each usage total is what the row says was spent.
    pub fn invariants(&self) -> Result<(), String> {
        let Some(book) = &self.book else {
            return Ok(());
        };
        let wide = |amount: Amount| i128::from(amount.nanos());
        let sum = |of: fn(&Row) -> Amount| {
            let rows = self.rows.values().map(|row| wide(of(&row.row)));
            let gone = self.tombstones.values().map(|gone| wide(gone.spend));
            rows.chain(gone).fold(0, i128::saturating_add)
        };
        let check = |what: &str, is: i128, due: i128| {
            if is == due {
                Ok(())
            } else {
                Err(format!("{what} is {is}, not {due}"))
            }
        };
        let Head {
            total,
            lost,
            unleased,
            ..
        } = self.head;
        let spend = sum(|row| row.spend);
        check("total", wide(total), spend.saturating_add(wide(lost)))?;
        let there = wide(book.lifetime_credit)
            .saturating_add(wide(book.floor))
            .saturating_sub(wide(lost));
        let committed = sum(|row| row.committed);
        check("unleased", wide(unleased), there.saturating_sub(committed))?;
        // What a command is told of it.
        let due = committed.saturating_sub(spend).max(0);
        let held = Spent::of(book, total, unleased).held;
        check("held", wide(held), due)?;
        let share = |of: fn(&Row) -> u64| {
            let rows = self.rows.values().map(|row| i128::from(of(&row.row)));
            rows.fold(0, i128::saturating_add)
        };
        let (rate, places) = (self.head.rate, self.head.places);
        check("rate", rate.shared.into(), share(|row| row.rate.share))?;
        check(
            "places",
            places.shared.into(),
            share(|row| row.places.share),
        )?;
        check("demand", rate.demand.into(), share(|row| row.rate.demand))?;
        let live = self.rows.values().filter(|row| row.live).count();
        let live = i128::try_from(live).unwrap_or(i128::MAX);
        check("live", self.head.live.into(), live)
    }
}

fn range(account: &AccountId) -> StoreError {
    StoreError::Corrupt(format!("a sum of `{account}` would leave the range"))
}
