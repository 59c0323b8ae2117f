//! What is only read, in pages: accounts, ledger, events, usage, the feed of spend.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::super::{AccountSpend, StoreError, UsageRow};
use super::link::{Read, take};
use super::{Redis, amount, number, parse, tallies};
use crate::clock::Hour;
use crate::id::AccountId;
use crate::ledger::{Entry, Event};
use crate::usage::Tally;

/// How many hashes of usage are read at once: some 100 rows of 150 bytes each, so a few MB.
const HOURS_AT_ONCE: usize = 256;

/// How many accounts are read at once, each with a round trip or two of its own.
const ACCOUNTS_AT_ONCE: usize = 16;

/// How often an account is read again because a new replica came in between: they come rarely.
const JOINS_MAX: usize = 8;

impl Redis {
    /// See [`super::super::Store::accounts`].
    pub(super) async fn list_accounts(
        &self,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        let mut names = Vec::new();
        let mut from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        while names.len() < limit {
            let count = limit.saturating_sub(names.len());
            let mut range = redis::cmd("ZRANGEBYLEX");
            range.arg(self.names.accounts()).arg(&from).arg("+");
            range.arg("LIMIT").arg(0).arg(count);
            let page: Vec<String> = self.link.ask(range).await?;
            let Some(last) = page.last() else { break };
            from = format!("({last}");
            let full = page.len() >= count;
            let page: Vec<AccountId> = page
                .iter()
                .map(|name| account_id(name))
                .collect::<Result<_, _>>()?;
            let stands = |name| {
                let head = self.names.head(name);
                redis::cmd("HEXISTS")
                    .arg(head)
                    .arg("book")
                    .to_owned()
                    .into()
            };
            // One that was to be opened when something failed has a name and no book.
            let round = self.link.send(page.iter().map(stands).collect()).await;
            for (name, reply) in page.into_iter().zip(round.replies) {
                if take::<bool>(reply?)? {
                    names.push(name);
                }
            }
            if !full {
                break;
            }
        }
        Ok(names)
    }

    /// See [`super::super::Store::entries`].
    pub(super) async fn list_entries(
        &self,
        account: &AccountId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut gone = redis::cmd("HGET");
        gone.arg(self.names.head(account)).arg("entries_gone");
        let gone: Option<u64> = self.link.ask(gone).await?;
        let after = after.saturating_sub(gone.unwrap_or_default());
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let last = after.saturating_add(limit).min(INDEX_MAX);
        if after >= last {
            return Ok(Vec::new());
        }
        let mut list = redis::cmd("LRANGE");
        list.arg(self.names.ledger(account))
            .arg(after)
            .arg(last.saturating_sub(1));
        let entries: Vec<Vec<u8>> = self.link.ask(list).await?;
        entries.iter().map(|json| parse(json)).collect()
    }

    /// See [`super::super::Store::events`].
    pub(super) async fn list_events(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Event)>, StoreError> {
        let [feed, _] = self.names.events();
        let page = self.page(&feed, after, limit).await?;
        let read =
            |(event, sequence): (Vec<u8>, String)| Ok((number(Some(&sequence))?, parse(&event)?));
        page.into_iter().map(read).collect()
    }

    /// A page of a feed: members with their sequence numbers.
    async fn page(
        &self,
        feed: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, String)>, StoreError> {
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range
            .arg(feed)
            .arg(format!("({after}"))
            .arg("+inf")
            .arg("WITHSCORES");
        range.arg("LIMIT").arg(0).arg(limit);
        self.link.ask(range).await
    }

    /// See [`super::super::Store::usage`].
    pub(super) async fn list_usage(
        &self,
        account: &AccountId,
        from: Hour,
        to: Hour,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range
            .arg(self.names.hours(account))
            .arg(from.0)
            .arg(format!("({}", to.0));
        let members: Vec<String> = self.link.ask(range).await?;
        let mut sums = BTreeMap::<_, Tally>::new();
        for some in members.chunks(HOURS_AT_ONCE) {
            let (mut hours, mut commands) = (Vec::new(), Vec::new());
            for member in some {
                let (hour, replica) = hour_and_replica(member)?;
                let key = self.names.hour(account, hour, replica);
                commands.push(redis::cmd("HGETALL").arg(key).to_owned().into());
                hours.push(hour);
            }
            let round = self.link.send(commands).await;
            for (hour, reply) in hours.into_iter().zip(round.replies) {
                for ((key, model), tally) in tallies(reply?.value)? {
                    sums.entry((hour, key, model)).or_default().add(&tally);
                }
            }
        }
        Ok(sums
            .into_iter()
            .map(|((hour, key, model), tally)| UsageRow {
                hour: Some(hour),
                key,
                model,
                tally,
            })
            .collect())
    }

    /// See [`super::super::Store::spend_since`].
    pub(super) async fn list_spend(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AccountSpend>, StoreError> {
        let [feed, _] = self.names.spend();
        let (mut spends, mut after) = (Vec::new(), after);
        while spends.len() < limit {
            let count = limit.saturating_sub(spends.len());
            let page = self.page(&feed, after, count).await?;
            let Some((_, last)) = page.last() else { break };
            after = number(Some(last))?;
            let full = page.len() >= count;
            let read: Vec<_> = stream::iter(page)
                .map(|(account, sequence)| async move {
                    let account = account_id(&String::from_utf8_lossy(&account))?;
                    self.spend_of(account, number(Some(&sequence))?).await
                })
                .buffered(ACCOUNTS_AT_ONCE)
                .try_collect()
                .await?;
            spends.extend(read.into_iter().flatten());
            if !full {
                break;
            }
        }
        Ok(spends)
    }

    /// An account's total and its rows, as they were at one instant; `None` of an account that replicas spoke of and that is not
    /// there.
    async fn spend_of(
        &self,
        account: AccountId,
        sequence: u64,
    ) -> Result<Option<AccountSpend>, StoreError> {
        let mut replicas: BTreeSet<String> = BTreeSet::new();
        for _ in 0..JOINS_MAX {
            let mut reads = vec![
                Read::all("SMEMBERS", self.names.replicas(&account)),
                Read::all("HKEYS", self.names.tombstones(&account)),
                Read::new("HMGET", self.names.head(&account), &["total", "lost"]),
            ];
            let lifetime = |replica: &String| self.names.lifetime(&account, replica);
            reads.extend(replicas.iter().map(|r| Read::all("HGETALL", lifetime(r))));
            let mut replies = self.link.at_once(&reads).await?;
            let mut next = || replies.next().unwrap_or_default();
            let mut now: BTreeSet<String> = take(next())?;
            // The rows of retired replicas are gone; what they used is not.
            now.extend(take::<Vec<String>>(next())?);
            let (total, lost): (Option<String>, Option<String>) = take(next())?;
            let Some(total) = total else { return Ok(None) };
            if now != replicas {
                replicas = now;
                continue;
            }
            let mut sums = BTreeMap::<_, Tally>::new();
            for reply in replies {
                for (whose, tally) in tallies(reply)? {
                    sums.entry(whose).or_default().add(&tally);
                }
            }
            let rows = sums.into_iter().map(|((key, model), tally)| UsageRow {
                hour: None,
                key,
                model,
                tally,
            });
            return Ok(Some(AccountSpend {
                sequence,
                total: amount(Some(&total))?.saturating_sub(amount(lost.as_deref())?),
                rows: rows.collect(),
                account,
            }));
        }
        Err(StoreError::Unavailable(format!(
            "replicas keep joining `{account}`"
        )))
    }
}

/// The largest index that Redis takes.
const INDEX_MAX: u64 = i64::MAX.unsigned_abs();

fn account_id(name: &str) -> Result<AccountId, StoreError> {
    AccountId::stored(name).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) fn hour_and_replica(member: &str) -> Result<(Hour, &str), StoreError> {
    let parts = member.split_once('|');
    let parts = parts.and_then(|(hour, replica)| Some((Hour(hour.parse().ok()?), replica)));
    parts.ok_or_else(|| StoreError::Corrupt(format!("`{member}` is not hour|replica")))
}
