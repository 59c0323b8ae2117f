//! The end of an account. First one script makes it unfindable and leaves a mark, whole or not at all; then what it leaves behind is
//! deleted in steps, the lists of it last, so that whoever repeats a purge that broke off finds the rest.

use super::super::{Change, KeyRecord, StoreError, Stored};
use super::link::{self, Ask, take};
use super::scripts::{PURGE, eval};
use super::{Redis, listen, parse};
use crate::clock::{Hour, Timestamp};
use crate::id::AccountId;

/// How many keys one command deletes: an hour's hash is some 10 KiB, which takes Redis some 10 µs.
const DELETED_AT_ONCE: usize = 256;

impl Redis {
    /// See [`super::super::Store::purge`].
    pub(super) async fn end(
        &self,
        account: &AccountId,
        expected: u64,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        // What waits to be told is told first.
        self.relay_or_warn(account).await;
        let head = self.names.head(account);
        let place = head.clone();
        let make = move |standing: &link::Standing| {
            let mut command = eval(&PURGE, &[&head]);
            command.arg(u8::from(standing.fenced)).arg(expected);
            command.arg(now.nanos());
            command
        };
        let reply = self.link.reply(Ask::with(place, make)).await?;
        let wait = reply.standing.wait;
        let said: String = take(reply)?;
        match said.as_str() {
            "at" | "before" => {}
            "fenced" => return Err(StoreError::Fenced(wait)),
            "none" => return Err(StoreError::NoAccount(account.clone())),
            _ => return Ok(Stored::Conflict),
        }
        self.delete_rest(account).await?;
        let mut tell = redis::cmd("PUBLISH");
        tell.arg(self.names.channel());
        tell.arg(listen::text(&Change::Account(account.clone(), u64::MAX)));
        self.link.ask::<u64>(Ask::anywhere(tell)).await?;
        Ok(Stored::At(0))
    }

    /// See [`super::super::Store::purged`].
    pub(super) async fn ended(&self, account: &AccountId) -> Result<Option<Timestamp>, StoreError> {
        let mut get = redis::cmd("HGET");
        get.arg(self.names.head(account)).arg("purged");
        let nanos: Option<i64> = self.link.ask(get).await?;
        Ok(nanos.map(Timestamp::from_nanos))
    }

    async fn delete_rest(&self, account: &AccountId) -> Result<(), StoreError> {
        let names = &self.names;
        let mut keys = redis::cmd("HVALS");
        keys.arg(names.keys(account));
        let records: Vec<Vec<u8>> = self.link.ask(keys).await?;
        for record in &records {
            let record: KeyRecord = parse(record)?;
            // In a slot of its own.
            let mut delete = redis::cmd("DEL");
            delete.arg(names.digest(&record.digest));
            self.link.ask::<u64>(delete).await?;
        }
        let mut live = redis::cmd("SMEMBERS");
        live.arg(names.replicas(account));
        let mut replicas: Vec<String> = self.link.ask(live).await?;
        let mut retired = redis::cmd("HKEYS");
        retired.arg(names.tombstones(account));
        replicas.extend(self.link.ask::<Vec<String>>(retired).await?);
        let mut hours = redis::cmd("ZRANGEBYSCORE");
        hours.arg(names.hours(account)).arg("-inf").arg("+inf");
        let hours: Vec<String> = self.link.ask(hours).await?;
        let mut rest = Vec::new();
        for replica in &replicas {
            rest.push(names.row(account, replica));
            rest.push(names.lifetime(account, replica));
        }
        for member in &hours {
            let (hour, replica) = super::listings::hour_and_replica(member)?;
            rest.push(names.hour(account, Hour(hour.0), replica));
        }
        rest.push(names.ledger(account));
        rest.push(names.claims(account));
        rest.push(names.outbox(account));
        // These say what else there is, so they go last.
        rest.push(names.keys(account));
        rest.push(names.hours(account));
        rest.push(names.replicas(account));
        rest.push(names.tombstones(account));
        for some in rest.chunks(DELETED_AT_ONCE) {
            let mut delete = redis::cmd("DEL");
            delete.arg(some);
            self.link.ask::<u64>(delete).await?;
        }
        let [feed, _] = names.spend();
        for list in [feed, names.accounts()] {
            let mut remove = redis::cmd("ZREM");
            remove.arg(list).arg(account.as_str());
            self.link.ask::<u64>(remove).await?;
        }
        Ok(())
    }
}
