//! What stands for each replica of an account: reading it, and taking back what silent ones have.

use std::time::Duration;

use super::super::shared::Tombstone;
use super::super::{Lapsed, Row, Share, StoreError};
use super::link::{Ask, Read, take};
use super::scripts::{LAPSE, eval};
use super::{Redis, amount, number};
use crate::id::AccountId;
use crate::money::Amount;

/// The fields of a row, in the order that [`parse_row`] reads them in.
const FIELDS: [&str; 10] = [
    "spend",
    "committed",
    "seq",
    "held",
    "seen",
    "live",
    "rate",
    "rate_demand",
    "places",
    "places_demand",
];

impl Redis {
    /// See [`super::super::Store::lapse`].
    pub(super) async fn lapse_silent(
        &self,
        account: &AccountId,
        silence: Duration,
        retired: Duration,
    ) -> Result<Lapsed, StoreError> {
        let place = self.names.replicas(account);
        let list = redis::cmd("SMEMBERS").arg(&place).to_owned();
        // By the clock of the node that wrote when they spoke.
        let time = Ask::beside(place.clone(), redis::cmd("TIME"));
        let (seconds, micros): (u64, u64) = self.link.ask(time).await?;
        let now_ms = seconds
            .saturating_mul(1_000)
            .saturating_add(micros.div_euclid(1_000));
        let replicas: Vec<String> = self.link.ask(list).await?;
        let reads: Vec<_> = replicas.iter().map(|r| self.read_row(account, r)).collect();
        let rows = self.link.at_once(&reads).await?;
        // Nobody could be heard before this history began.
        let age = self.link.standing_of(&place).await?.age;
        let (mut commands, mut gone) = (Vec::new(), Vec::new());
        for (replica, reply) in replicas.iter().zip(rows) {
            let (row, live) = parse_row(take(reply)?)?;
            let silent = Duration::from_millis(now_ms.saturating_sub(row.seen_ms)).min(age);
            let retires = !live && silent > retired;
            if !retires && (!live || silent <= silence) {
                continue;
            }
            let kept = if retires {
                row.spend
            } else {
                super::super::message::kept(&row)
            };
            let freed = row.committed.saturating_sub(kept);
            commands.push(self.lapse_one(account, replica, &row, live, kept, retires));
            gone.push((freed, row.held, retires));
        }
        let done = self.link.send(commands).await.replies;
        let mut lapsed = Lapsed::default();
        for (reply, (freed, held, retires)) in done.into_iter().zip(gone) {
            if take::<u64>(reply?)? != 1 {
                continue;
            }
            lapsed.freed = lapsed.freed.saturating_add(freed);
            if retires {
                lapsed.retired = lapsed.retired.saturating_add(1);
            } else {
                lapsed.lapsed = lapsed.lapsed.saturating_add(1);
                lapsed.held = lapsed.held.saturating_add(held);
            }
        }
        Ok(lapsed)
    }

    fn lapse_one(
        &self,
        account: &AccountId,
        replica: &str,
        row: &Row,
        live: bool,
        kept: Amount,
        retires: bool,
    ) -> Ask {
        let keys = [
            self.names.head(account),
            self.names.row(account, replica),
            self.names.replicas(account),
            self.names.tombstones(account),
        ];
        let mut command = eval(&LAPSE, &keys);
        command.arg(replica).arg(row.seq);
        for figure in [row.spend, row.committed, row.held] {
            command.arg(figure.nanos());
        }
        command.arg(u8::from(live)).arg(kept.nanos());
        command.arg(row.committed.saturating_sub(kept).nanos());
        command.arg(u8::from(retires));
        command.into()
    }

    /// Reads a row: see [`parse_row`].
    pub(super) fn read_row(&self, account: &AccountId, replica: &str) -> Read {
        Read::new("HMGET", self.names.row(account, replica), &FIELDS)
    }

    /// Reads what a retired replica left: see [`parse_tombstone`].
    pub(super) fn read_tombstone(&self, account: &AccountId, replica: &str) -> Read {
        Read::new("HGET", self.names.tombstones(account), &[replica])
    }
}

/// A row, and whether it is live; zeros if there is none.
pub(super) fn parse_row(fields: Vec<Option<String>>) -> Result<(Row, bool), StoreError> {
    let field = |at: usize| fields.get(at).and_then(Option::as_deref);
    if fields.len() != FIELDS.len() {
        return Err(StoreError::Corrupt("a row has other fields".into()));
    }
    let share = |at: usize| {
        Ok::<_, StoreError>(Share {
            share: number(field(at))?,
            demand: number(field(at.saturating_add(1)))?,
        })
    };
    let row = Row {
        spend: amount(field(0))?,
        committed: amount(field(1))?,
        seq: number(field(2))?,
        held: amount(field(3))?,
        seen_ms: number(field(4))?,
        rate: share(6)?,
        places: share(8)?,
    };
    Ok((row, field(5) == Some("1")))
}

/// What a retired replica left, if it is one.
pub(super) fn parse_tombstone(text: Option<String>) -> Result<Option<Tombstone>, StoreError> {
    let Some(text) = text else { return Ok(None) };
    let (spend, seq) = text
        .split_once('|')
        .ok_or_else(|| StoreError::Corrupt(format!("`{text}` is not spend|seq")))?;
    Ok(Some(Tombstone {
        spend: amount(Some(spend))?,
        seq: number(Some(seq))?,
    }))
}
