//! The store's side of one simulated account: the real [`Desk`], and in front of it a server that does one thing at a time, so that
//! messages wait for each other as they do for Redis.

use super::super::number::nanos;
use super::Wire;
use crate::clock::{Hour, Now};
use crate::id::{KeyId, ModelName, ReplicaId};
use crate::store::desk::Desk;
use crate::store::shared::{Ground, LiveRow};
use crate::store::{History, Opened, Publish, Published, Row, StoreError, UsageRow};
use crate::usage::Tally;

/// One account in a store.
#[derive(Debug)]
pub(super) struct Shop {
    pub(super) desk: Desk,
    /// Until then the server is busy.
    busy_until: u64,
    /// How much longer everything takes because of what other accounts ask.
    slow: f64,
    pub(super) key: KeyId,
    pub(super) models: Vec<ModelName>,
}

impl Shop {
    pub(super) const fn new(desk: Desk, slow: f64, key: KeyId, models: Vec<ModelName>) -> Self {
        Self {
            desk,
            busy_until: 0,
            slow,
            key,
            models,
        }
    }

    /// Something comes in now and takes the server so many microseconds. Returns when it is done.
    pub(super) fn serve(&mut self, now: u64, micros: f64) -> u64 {
        let takes = nanos(super::super::number::seconds(micros * self.slow / 1e6));
        self.busy_until = self.busy_until.max(now).saturating_add(takes);
        self.busy_until
    }

    pub(super) fn ground(now: Now) -> Ground {
        let ms = now.wall.nanos().div_euclid(1_000_000);
        Ground {
            now_ms: u64::try_from(ms).unwrap_or(0),
            // Nothing is ever lost here.
            history: History::default(),
            fenced: false,
            lease_ms: 0,
        }
    }

    /// A replica's message.
    pub(super) fn publish(
        &mut self,
        replica: &ReplicaId,
        message: &Publish,
        now: Now,
    ) -> Result<Published, StoreError> {
        self.desk.publish(replica, message, &Self::ground(now))
    }

    /// A row of a replica that served the account long ago.
    pub(super) fn remember(&mut self, replica: &ReplicaId, seen_ms: u64) {
        let row = Row {
            seq: 1,
            seen_ms,
            ..Row::default()
        };
        self.desk
            .rows
            .insert(replica.clone(), LiveRow { row, live: true });
        self.desk.head.live = self.desk.head.live.saturating_add(1);
    }

    /// [`Desk::open`] for an account with few rows of usage among many replicas': they are looked up, not looked through.
    pub(super) fn open(&self, replica: &ReplicaId, hour: Hour) -> Option<Opened> {
        let mut usage = Vec::new();
        for hour in [None, Some(hour)] {
            for model in &self.models {
                if let Some(tally) = self.desk.usage.get(&self.row_id(replica, hour, model)) {
                    usage.push(UsageRow {
                        hour,
                        key: self.key.clone(),
                        model: Some(model.clone()),
                        tally: *tally,
                    });
                }
            }
        }
        Some(Opened {
            snapshot: self.desk.read(&[])?,
            row: self.desk.row(replica).row,
            usage,
            keys: Vec::new(),
        })
    }

    /// An hour that nobody asks for any more.
    pub(super) fn forget(&mut self, replica: &ReplicaId, hour: Hour) {
        for model in &self.models {
            let id = self.row_id(replica, Some(hour), model);
            let _gone: Option<Tally> = self.desk.usage.remove(&id);
        }
    }

    fn row_id(
        &self,
        replica: &ReplicaId,
        hour: Option<Hour>,
        model: &ModelName,
    ) -> (ReplicaId, Option<Hour>, KeyId, Option<ModelName>) {
        (replica.clone(), hour, self.key.clone(), Some(model.clone()))
    }
}

impl Wire<'_> {
    /// What a message costs the server.
    pub(super) fn message(&self, rows: usize, alone: bool) -> f64 {
        let rows = super::super::number::real(u64::try_from(rows).unwrap_or(0)) / 2.0;
        let costs = self.costs;
        let pipeline = if alone { costs.pipeline_us } else { 0.0 };
        costs.message_us + rows * costs.row_us + pipeline
    }
}
