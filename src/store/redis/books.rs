//! Books and keys: reading them as they were at one instant, writing them by compare-and-set, relaying their events.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::Value;

use super::super::message::entries_before;
use super::super::shared::LiveRow;
use super::super::{
    Change, Commit, EVENTS_MAX, KeyRecord, Opened, Snapshot, StoreError, Stored, UsageRow,
};
use super::link::{self, Ask, Read, take};
use super::rows::{parse_row, parse_tombstone};
use super::scripts::{COMMIT, DRAIN, PUT_DOCUMENT, PUT_KEY, RELAY, eval};
use super::{Redis, amount, json, listen, number, parse, range, tallies};
use crate::clock::Hour;
use crate::id::{AccountId, KeyId, ReplicaId};
use crate::ledger::Event;

/// How many events are relayed at once: a commit makes a handful.
const RELAY_MAX: usize = 128;

/// How many times a relay goes on: what is left then waits for the account's next word.
const RELAY_ROUNDS_MAX: usize = 64;

type Fields = Vec<Option<Vec<u8>>>;

impl Redis {
    /// See [`super::super::Store::read`].
    pub(super) async fn snapshot(
        &self,
        account: &AccountId,
        claims: &[String],
    ) -> Result<Option<Snapshot>, StoreError> {
        let mut reads = vec![self.read_head(account), self.read_outbox(account)];
        if !claims.is_empty() {
            reads.push(Read::new("HMGET", self.names.claims(account), claims));
        }
        let mut replies = self.link.at_once(&reads).await?;
        let Some(mut snapshot) = parse_head(replies.next())? else {
            return Ok(None);
        };
        self.link.saw_accounts();
        let waiting: u64 = take(replies.next().unwrap_or_default())?;
        if waiting > 0 {
            // Whoever lost the reply to a commit comes here next.
            self.relay_or_warn(account).await;
        }
        if let Some(reply) = replies.next() {
            let found: Fields = take(reply)?;
            let read = |json: Option<Vec<u8>>| json.map(|json| parse(&json)).transpose();
            snapshot.claims = found.into_iter().map(read).collect::<Result<_, _>>()?;
        }
        Ok(Some(snapshot))
    }

    /// See [`super::super::Store::open`].
    pub(super) async fn take_up(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        hour: Hour,
    ) -> Result<Option<Opened>, StoreError> {
        let own = replica.as_str();
        let reads = [
            self.read_head(account),
            self.read_row(account, own),
            self.read_tombstone(account, own),
            Read::all("HGETALL", self.names.lifetime(account, own)),
            Read::all("HGETALL", self.names.hour(account, hour, own)),
            Read::all("HVALS", self.names.keys(account)),
            self.read_outbox(account),
        ];
        let mut replies = self.link.at_once(&reads).await?;
        let Some(snapshot) = parse_head(replies.next())? else {
            return Ok(None);
        };
        self.link.saw_accounts();
        let mut next = || replies.next().unwrap_or_default();
        let (row, _) = parse_row(take(next())?)?;
        let tombstone = parse_tombstone(take(next())?)?;
        let row = tombstone.map_or(row, |tombstone| LiveRow::from(tombstone).row);
        let mut usage = Vec::new();
        for hour in [None, Some(hour)] {
            for ((key, model), tally) in tallies(next())? {
                usage.push(UsageRow {
                    hour,
                    key,
                    model,
                    tally,
                });
            }
        }
        let keys = sorted_keys(take(next())?)?;
        let outbox: u64 = take(next())?;
        if outbox > 0 {
            self.relay_or_warn(account).await;
        }
        if snapshot.spend.is_positive() {
            // A replica may have died between its last message and the word about it.
            let touch = self.touch(&BTreeSet::from([account]));
            self.link.ask::<String>(touch).await?;
        }
        Ok(Some(Opened {
            snapshot,
            row,
            usage,
            keys,
        }))
    }

    fn read_outbox(&self, account: &AccountId) -> Read {
        Read::all("LLEN", self.names.outbox(account))
    }

    fn read_head(&self, account: &AccountId) -> Read {
        let fields = ["version", "book", "total", "unleased", "lost"];
        Read::new("HMGET", self.names.head(account), &fields)
    }

    /// See [`super::super::Store::commit`].
    pub(super) async fn write_book(&self, commit: &Commit) -> Result<Stored, StoreError> {
        let before = entries_before(commit)?;
        let account = &commit.book.account;
        if commit.expected == 0 {
            // First of all: a listing skips a name without a book, but nothing finds a book without a name.
            let mut index = redis::cmd("ZADD");
            index
                .arg(self.names.accounts())
                .arg(0)
                .arg(account.as_str());
            self.link.ask::<u64>(index).await?;
        }
        let version = commit.version();
        let keys = [
            self.names.head(account),
            self.names.ledger(account),
            self.names.claims(account),
            self.names.outbox(account),
        ];
        let gone = commit.restore.map_or(0, |restore| restore.entries_gone);
        let mut words = vec![
            commit.expected.to_string().into_bytes(),
            version.to_string().into_bytes(),
            json(&commit.book)?,
            commit.credit_delta.nanos().to_string().into_bytes(),
            before.to_string().into_bytes(),
            gone.to_string().into_bytes(),
            self.names.channel().into_bytes(),
            listen::text(&Change::Account(account.clone(), version)).into_bytes(),
            commit.entries.len().to_string().into_bytes(),
            commit.events.len().to_string().into_bytes(),
        ];
        for entry in &commit.entries {
            words.push(json(entry)?);
        }
        for event in &commit.events {
            words.push(json(event)?);
        }
        for (name, claim) in &commit.claims {
            words.push(name.clone().into_bytes());
            words.push(json(claim)?);
        }
        // What a store lost is put back while it is fenced; anything else waits.
        let (restores, lease) = (commit.restore.is_some(), millis(self.fence));
        let make = move |standing: &link::Standing| {
            let mut command = eval(&COMMIT, &keys);
            command.arg(u8::from(restores)).arg(millis(standing.wait));
            command.arg(lease).arg(&words);
            command
        };
        let ask = Ask::with(self.names.head(account), make);
        let said: String = take(self.link.reply(ask).await?)?;
        if let Some(wait) = said.strip_prefix("fenced ") {
            return Err(StoreError::Fenced(Duration::from_millis(number(Some(
                wait,
            ))?)));
        }
        match said.as_str() {
            "at" => {
                self.link.saw_accounts();
                // It is written. Events that are not relayed now are by the account's next word.
                if !commit.events.is_empty() {
                    self.relay_or_warn(account).await;
                }
                Ok(Stored::At(version))
            }
            "conflict" => Ok(Stored::Conflict),
            "range" => Err(range(account)),
            "purged" => Err(StoreError::Purged(account.clone())),
            _ => Err(StoreError::Corrupt(format!(
                "the ledger of `{account}` does not end at {before}, where the commit goes on"
            ))),
        }
    }

    /// Relays what waits in an account's outbox. What fails is tried again at the account's next commit, message, reading or
    /// opening.
    pub(super) async fn relay_or_warn(&self, account: &AccountId) {
        if let Err(error) = self.relay(account).await {
            tracing::warn!(%account, %error, "events wait in the outbox");
        }
    }

    /// Each step is safe to repeat, by anybody, at any time: the feed knows an event it has, and only what was relayed is drained.
    async fn relay(&self, account: &AccountId) -> Result<(), StoreError> {
        let outbox = self.names.outbox(account);
        for _ in 0..RELAY_ROUNDS_MAX {
            let mut list = redis::cmd("LRANGE");
            list.arg(&outbox).arg(0).arg(RELAY_MAX.saturating_sub(1));
            let waiting: Vec<Vec<u8>> = self.link.ask(list).await?;
            if waiting.is_empty() {
                break;
            }
            self.append_events(&waiting).await?;
            let mut drain = eval(&DRAIN, &[&outbox]);
            drain.arg(&waiting);
            self.link.ask::<String>(drain).await?;
            if waiting.len() < RELAY_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Those that the feed has stay where they are: it knows an event by its text, which never changes.
    async fn append_events(&self, events: &[Vec<u8>]) -> Result<(), StoreError> {
        let mut relay = eval(&RELAY, &self.names.events());
        relay.arg(EVENTS_MAX).arg(events);
        self.link.ask::<String>(relay).await.map(drop)
    }

    /// See [`super::super::Store::announce`].
    pub(super) async fn announce_again(&self, events: &[Event]) -> Result<(), StoreError> {
        let texts = events.iter().map(json).collect::<Result<Vec<_>, _>>()?;
        for some in texts.chunks(RELAY_MAX) {
            self.append_events(some).await?;
        }
        Ok(())
    }

    /// See [`super::super::Store::find_key`].
    pub(super) async fn owner(
        &self,
        digest: &str,
    ) -> Result<Option<(AccountId, KeyId)>, StoreError> {
        let get = redis::cmd("GET").arg(self.names.digest(digest)).to_owned();
        let Some(owner) = self.link.ask::<Option<String>>(get).await? else {
            return Ok(None);
        };
        let names = owner.split_once('|').and_then(|(account, key)| {
            Some((AccountId::stored(account).ok()?, KeyId::new(key).ok()?))
        });
        let (account, key) =
            names.ok_or_else(|| StoreError::Corrupt(format!("`{owner}` is not account|key")))?;
        // The digest is claimed before the record is written, which may then have failed.
        let mut known = redis::cmd("HEXISTS");
        known.arg(self.names.keys(&account)).arg(key.as_str());
        let known: bool = self.link.ask(known).await?;
        Ok(known.then_some((account, key)))
    }

    /// See [`super::super::Store::keys`].
    pub(super) async fn all_keys(&self, account: &AccountId) -> Result<Vec<KeyRecord>, StoreError> {
        let values = redis::cmd("HVALS").arg(self.names.keys(account)).to_owned();
        sorted_keys(self.link.ask(values).await?)
    }

    /// See [`super::super::Store::put_key`].
    pub(super) async fn write_key(
        &self,
        expected: u64,
        key: &KeyRecord,
    ) -> Result<Stored, StoreError> {
        let (head, keys) = (self.names.head(&key.account), self.names.keys(&key.account));
        let reads = [
            Read::new("HGET", head.clone(), &["version"]),
            Read::new("HGET", keys.clone(), &[key.id.as_str()]),
        ];
        let mut replies = self.link.at_once(&reads).await?;
        let stands: Option<u64> = take(replies.next().unwrap_or_default())?;
        let known: Option<Vec<u8>> = take(replies.next().unwrap_or_default())?;
        let known: Option<KeyRecord> = known.map(|json| parse(&json)).transpose()?;
        if stands.is_none() {
            return Err(StoreError::NoAccount(key.account.clone()));
        }
        if stands != Some(expected) || known.is_some_and(|known| known.digest != key.digest) {
            return Ok(Stored::Conflict);
        }
        // Claimed for good, and before the record: no two keys can ever share a digest.
        let owner = format!("{}|{}", key.account, key.id);
        let mut claim = redis::cmd("SET");
        claim
            .arg(self.names.digest(&key.digest))
            .arg(&owner)
            .arg("NX")
            .arg("GET");
        let before: Option<String> = self.link.ask(claim).await?;
        if before.is_some_and(|before| before != owner) {
            return Ok(Stored::Conflict);
        }
        let version = expected.saturating_add(1);
        let change = Change::Account(key.account.clone(), version);
        let mut command = eval(&PUT_KEY, &[head, keys]);
        command
            .arg(expected)
            .arg(version)
            .arg(key.id.as_str())
            .arg(json(key)?);
        command.arg(self.names.channel()).arg(listen::text(&change));
        self.stored(command, version).await
    }

    /// See [`super::super::Store::put_document`].
    pub(super) async fn write_document(
        &self,
        name: &str,
        expected: u64,
        body: Vec<u8>,
        lost: bool,
    ) -> Result<Stored, StoreError> {
        let version = expected.saturating_add(1);
        let told = listen::text(&Change::Document(name.to_owned()));
        let (key, channel) = (self.names.document(name), self.names.channel());
        let place = key.clone();
        let make = move |standing: &link::Standing| {
            let mut command = eval(&PUT_DOCUMENT, &[&key]);
            command.arg(u8::from(standing.fenced && !lost));
            command.arg(expected).arg(version).arg(&body);
            command.arg(&channel).arg(&told);
            command
        };
        let reply = self.link.reply(Ask::with(place, make)).await?;
        let wait = reply.standing.wait;
        let said: String = take(reply)?;
        match said.as_str() {
            "at" => Ok(Stored::At(version)),
            "fenced" => Err(StoreError::Fenced(wait)),
            _ => Ok(Stored::Conflict),
        }
    }

    async fn stored(&self, command: redis::Cmd, version: u64) -> Result<Stored, StoreError> {
        let said: String = self.link.ask(command).await?;
        match said.as_str() {
            "at" => Ok(Stored::At(version)),
            _ => Ok(Stored::Conflict),
        }
    }
}

/// Rounded up: what is left of a fence is not nothing.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A book and its totals, without claims; `None` if there is no account.
fn parse_head(reply: Option<Value>) -> Result<Option<Snapshot>, StoreError> {
    let fields: Fields = take(reply.unwrap_or_default())?;
    let [version, book, total, unleased, lost] = fields.as_slice() else {
        return Err(StoreError::Corrupt("a head has other fields".into()));
    };
    let (Some(version), Some(book)) = (version, book) else {
        return Ok(None);
    };
    let text = |field: &Option<Vec<u8>>| {
        field
            .as_ref()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    Ok(Some(Snapshot {
        version: number(text(&Some(version.clone())).as_deref())?,
        book: parse(book)?,
        spend: amount(text(total).as_deref())?,
        unleased: amount(text(unleased).as_deref())?,
        lost: amount(text(lost).as_deref())?,
        claims: Vec::new(),
    }))
}

fn sorted_keys(records: Vec<Vec<u8>>) -> Result<Vec<KeyRecord>, StoreError> {
    let records = records.iter().map(|json| parse::<KeyRecord>(json));
    let mut keys = records.collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(keys)
}
