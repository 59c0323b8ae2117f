//! One account's slots: as they are taken up, and as a loaded account counts with them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use super::Counters;
use super::record::RowId;
use super::slot::{Charged, Slot, Totals};
use crate::clock::Hour;
use crate::id::{AccountId, KeyId, ModelName};
use crate::money::Amount;
use crate::policy::Unsettled;
use crate::store::UsageRow;
use crate::usage::Tally;

/// What this replica has of an account that is about to be loaded: the slots of its latest hours, and what was folded of all
/// earlier ones. As long as it is there, none of the slots is folded.
#[must_use = "an account is taken up to be loaded"]
#[derive(Debug)]
pub struct TakenUp {
    counters: AccountCounters,
    slots: Vec<Slot>,
    folded: BTreeMap<(KeyId, Option<ModelName>), Tally>,
}

impl Counters {
    /// Takes up an account without what was folded of it: for a replica that remembers nothing. One that does, uses
    /// [`crate::local::Local::take_up`].
    pub fn take_up(self: &Arc<Self>, account: &AccountId) -> TakenUp {
        let _in_place = self.keep_in_place();
        self.taken_up(account, Vec::new())
    }

    /// The slots of an account, with what was folded of it. The caller keeps slots in place.
    pub(in crate::local) fn taken_up(
        self: &Arc<Self>,
        account: &AccountId,
        folded: Vec<UsageRow>,
    ) -> TakenUp {
        let rows = self.accounts.get(account);
        let slots = rows.map(|rows| rows.slots.values().cloned().collect());
        TakenUp {
            counters: AccountCounters {
                counters: Arc::clone(self),
                account: account.clone(),
                totals: OnceLock::new(),
            },
            slots: slots.unwrap_or_default(),
            folded: folded
                .into_iter()
                .map(|row| ((row.key, row.model), row.tally))
                .collect(),
        }
    }
}

impl TakenUp {
    /// The account.
    pub const fn account(&self) -> &AccountId {
        &self.counters.account
    }

    /// Its slots, in no order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Its totals.
    pub fn totals(&self) -> &Totals {
        self.counters.totals()
    }

    /// Ends the holds that an earlier run left open, as the account's policy says now: they become a charge that is marked
    /// estimated, or go. Each hold once, also if the process is killed meanwhile. Returns what was charged; a second call does
    /// nothing.
    pub fn end_holds(&mut self, unsettled: Unsettled) -> Charged {
        // Under the account's entry, so that two who take it up do not both.
        let _entry = self.counters.counters.accounts.get_mut(self.account());
        let mut charged = Charged::default();
        for slot in &self.slots {
            charged.add(slot.end_left_open(unsettled));
        }
        charged
    }

    /// All that this replica has counted, ever, by key and model: what was folded and what is in the slots.
    pub fn lifetime(&self) -> Vec<UsageRow> {
        let mut lifetime = self.folded.clone();
        for slot in &self.slots {
            let RowId { key, model, .. } = slot.row().clone();
            lifetime.entry((key, model)).or_default().add(&slot.tally());
        }
        let row = |((key, model), tally)| UsageRow {
            hour: None,
            key,
            model,
            tally,
        };
        lifetime.into_iter().map(row).collect()
    }

    /// All that this replica has spent of the account, ever: the sum of [`TakenUp::lifetime`].
    pub fn spend(&self) -> Amount {
        let folded = self.folded.values().map(|tally| tally.cost_nanos);
        let slots = self.slots.iter().map(|slot| slot.tally().cost_nanos);
        let sum = folded.chain(slots).fold(0_i64, i64::saturating_add);
        Amount::from_nanos(sum)
    }

    /// Raises the slots of some hours to what the store has of them, and works out what must have been folded for the lifetime to
    /// be no less than the store's. Returns the rows that differ from what is remembered.
    pub(in crate::local) fn raise(&mut self, stored: &[UsageRow]) -> Vec<UsageRow> {
        // The slots first: what they have, need not have been folded.
        let mut slots: HashMap<RowId, Slot> = std::mem::take(&mut self.slots)
            .into_iter()
            .map(|slot| (slot.row().clone(), slot))
            .collect();
        for row in stored {
            let open = |hour: &Hour| !self.counters.counters.is_closed(*hour);
            let Some(hour) = row.hour.filter(open) else {
                continue;
            };
            let id = RowId {
                hour,
                key: row.key.clone(),
                model: row.model.clone(),
            };
            let fresh = |id: &RowId| self.counters.slot(&id.key, id.model.as_ref(), hour);
            slots
                .entry(id)
                .or_insert_with_key(fresh)
                .go_on_from(&row.tally);
        }
        self.slots = slots.into_values().collect();
        let mut here: BTreeMap<_, Tally> = BTreeMap::new();
        for slot in &self.slots {
            let RowId { key, model, .. } = slot.row().clone();
            here.entry((key, model)).or_default().add(&slot.tally());
        }
        let mut raised = Vec::new();
        for row in stored.iter().filter(|row| row.hour.is_none()) {
            let id = (row.key.clone(), row.model.clone());
            let here = here.get(&id).copied().unwrap_or_default();
            let folded = self.folded.entry(id).or_default();
            let more = row.tally.since(&here).highest(folded);
            if more != *folded {
                *folded = more;
                raised.push(UsageRow {
                    tally: more,
                    ..row.clone()
                });
            }
        }
        raised
    }

    /// What a loaded account counts with, and the slots that there are. Holds that an earlier run left open are ended by now.
    pub(crate) fn begin(mut self, unsettled: Unsettled) -> (AccountCounters, Vec<Slot>) {
        self.end_holds(unsettled);
        (self.counters, self.slots)
    }
}

/// What a loaded account counts with.
#[derive(Debug)]
pub struct AccountCounters {
    counters: Arc<Counters>,
    account: AccountId,
    totals: OnceLock<Totals>,
}

impl AccountCounters {
    /// The account.
    pub(crate) const fn account(&self) -> &AccountId {
        &self.account
    }

    /// The slot of a key, model and hour; made if there is none yet. Its hour is later than asked for if that is closed.
    pub(crate) fn slot(&self, key: &KeyId, model: Option<&ModelName>, hour: Hour) -> Slot {
        let counters = &self.counters;
        let mut row = RowId {
            hour,
            key: key.clone(),
            model: model.cloned(),
        };
        if counters.home.is_none() {
            return Slot::heap(row, &counters.heap);
        }
        let mut rows = counters.accounts.entry(self.account.clone()).or_default();
        // Under the entry: whoever closes an hour, looks through the entries after that.
        row.hour = hour.max(counters.since());
        if let Some(slot) = rows.slots.get(&row) {
            return slot.clone();
        }
        let slot = counters.fresh_slot(&self.account, &row);
        rows.slots.insert(row, slot.clone());
        slot
    }

    /// The store has this much of a row. For a row that is not here any more it does nothing.
    pub(crate) fn acknowledge(&self, row: &RowId, tally: &Tally) {
        if let Some(rows) = self.counters.accounts.get(&self.account)
            && let Some(slot) = rows.slots.get(row)
        {
            slot.acknowledge(tally);
        }
    }

    /// The account's totals; made when they are first asked for.
    pub fn totals(&self) -> &Totals {
        self.totals.get_or_init(|| {
            let counters = &self.counters;
            if counters.home.is_none() {
                return Totals::heap();
            }
            let mut rows = counters.accounts.entry(self.account.clone()).or_default();
            let fresh = || counters.fresh_totals(&self.account);
            rows.totals.get_or_insert_with(fresh).clone()
        })
    }
}
