//! Messages of replicas, and what a silent one leaves: one script per account, pipelined.

use std::collections::BTreeSet;

use redis::Cmd;

use super::super::message::{differences, kept};
use super::super::{LEASE_MAX, Publish, Published, Row, Standing, StoreError, UsageRow};
use super::link::{Ask, Read, Reply, take};
use super::scripts::{LAPSE, PUBLISH, TOUCH, eval};
use super::{Redis, amount, number};
use crate::clock::Hour;
use crate::id::{AccountId, ReplicaId};
use crate::money::Amount;

/// How many accounts go out at once. Each takes Redis some 30 µs (measured) and a kilobyte: far below any sensible time limit.
const BATCH_MAX: usize = 256;

type Answer = Result<Published, StoreError>;

impl Redis {
    /// See [`super::super::Store::publish`].
    pub(super) async fn publish_all(&self, replica: &ReplicaId, batch: &[Publish]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(batch.len());
        for some in batch.chunks(BATCH_MAX) {
            answers.extend(self.publish_some(replica, some).await);
            let away = |answer: &Answer| matches!(answer, Err(StoreError::Unavailable(_)));
            let latest = answers.iter().rev().take(some.len());
            if latest.clone().all(away) {
                // The rest would only wait for the same timeout.
                let error = answers.last().cloned();
                answers.extend(error.into_iter().cycle().take(batch.len()));
                answers.truncate(batch.len());
                break;
            }
        }
        answers
    }

    async fn publish_some(&self, replica: &ReplicaId, batch: &[Publish]) -> Vec<Answer> {
        let mut commands = Vec::with_capacity(batch.len().saturating_add(1));
        let mut refused = Vec::with_capacity(batch.len());
        let mut spent = BTreeSet::new();
        for message in batch {
            match self.command(replica, message) {
                Ok(command) => {
                    commands.push(Ask::from(command));
                    refused.push(None);
                    if message.new.spend != message.believed.spend {
                        spent.insert(&message.account);
                    }
                }
                Err(error) => refused.push(Some(error)),
            }
        }
        // After the messages, so that whoever reads the feed finds what it announces.
        let touches = !spent.is_empty();
        if touches {
            commands.push(self.touch(&spent).into());
        }
        let mut round = self.link.send(commands).await;
        let touched = if touches { round.replies.pop() } else { None };
        let mut touch_again = BTreeSet::new();
        let mut untold = Vec::new();
        let mut replies = round.replies.into_iter();
        let mut answers = Vec::with_capacity(batch.len());
        for (message, refused) in batch.iter().zip(refused) {
            let reply = match refused {
                Some(error) => Err(error),
                None => match replies.next() {
                    Some(reply) => reply.and_then(|reply| read_answer(&message.account, reply)),
                    None => Err(StoreError::Corrupt("a message has no reply".into())),
                },
            };
            answers.push(reply.map(|(answer, outbox)| {
                let late = round.reordered && spent.contains(&message.account);
                // What stands may have been written by a message whose touch was lost with its reply.
                if late || !answer.applied {
                    touch_again.insert(&message.account);
                }
                if outbox > 0 {
                    untold.push(&message.account);
                }
                answer
            }));
        }
        let mut failed = Vec::new();
        if let Some(Err(error)) = touched.map(|reply| reply.and_then(take::<String>)) {
            failed.push((error, spent));
        }
        if !touch_again.is_empty()
            && let Err(error) = self.link.ask::<String>(self.touch(&touch_again)).await
        {
            failed.push((error, touch_again));
        }
        // The replica sends these again, is told what stands, and that touches them.
        for (error, accounts) in failed {
            for (message, answer) in batch.iter().zip(&mut answers) {
                if answer.is_ok() && accounts.contains(&message.account) {
                    *answer = Err(error.clone());
                }
            }
        }
        for account in untold {
            self.relay_or_warn(account).await;
        }
        answers
    }

    /// Moves accounts to the end of the feed of spend.
    pub(super) fn touch(&self, accounts: &BTreeSet<&AccountId>) -> Cmd {
        let mut command = eval(&TOUCH, &self.names.spend());
        for account in accounts {
            command.arg(account.as_str());
        }
        command
    }

    fn command(&self, replica: &ReplicaId, message: &Publish) -> Result<Cmd, StoreError> {
        let by = differences(message)?;
        let (account, own) = (&message.account, replica.as_str());
        let hours: BTreeSet<Hour> = message.usage.iter().filter_map(|row| row.hour).collect();
        let mut keys = vec![
            self.names.head(account),
            self.names.row(account, own),
            self.names.replicas(account),
            self.names.outbox(account),
            self.names.lifetime(account, own),
            self.names.hours(account),
        ];
        let first_hour = keys.len().saturating_add(1);
        keys.extend(
            hours
                .iter()
                .map(|hour| self.names.hour(account, *hour, own)),
        );
        let mut command = eval(&PUBLISH, &keys);
        command.arg(own).arg(message.seq);
        for figure in [
            message.believed.spend,
            message.believed.committed,
            message.new.spend,
            message.new.committed,
            by.spend,
            by.spend.negated(),
            by.committed.negated(),
            message.held,
            by.want,
            by.need,
            LEASE_MAX,
        ] {
            command.arg(figure.nanos());
        }
        command.arg(hours.len());
        for hour in &hours {
            command.arg(format!("{}|{own}", hour.0));
        }
        for row in &message.usage {
            let place = row
                .hour
                .and_then(|hour| hours.iter().position(|h| *h == hour));
            // Lua counts from one; lifetime usage is the key before the index of hours.
            let key = place.map_or(5, |place| first_hour.saturating_add(place));
            command
                .arg(key)
                .arg(field(row))
                .arg(super::json(&row.tally)?);
        }
        Ok(command)
    }

    /// See [`super::super::Store::lapse`].
    pub(super) async fn lapse_silent(
        &self,
        account: &AccountId,
        silence_ms: u64,
    ) -> Result<Amount, StoreError> {
        let list = redis::cmd("SMEMBERS")
            .arg(self.names.replicas(account))
            .to_owned();
        // By the clock of the node that wrote when they spoke.
        let time = Ask::beside(self.names.replicas(account), redis::cmd("TIME"));
        let (seconds, micros): (u64, u64) = self.link.ask(time).await?;
        let now_ms = seconds
            .saturating_mul(1_000)
            .saturating_add(micros.div_euclid(1_000));
        let replicas: Vec<String> = self.link.ask(list).await?;
        let reads: Vec<_> = replicas.iter().map(|r| self.read_row(account, r)).collect();
        let rows = self.link.at_once(&reads).await?;
        let (mut commands, mut freed) = (Vec::new(), Vec::new());
        for (replica, reply) in replicas.iter().zip(rows) {
            let (row, live) = parse_row(take(reply)?)?;
            if !live || now_ms.saturating_sub(row.seen_ms) <= silence_ms {
                continue;
            }
            let keeps = kept(&row);
            let back = row.committed.saturating_sub(keeps);
            let keys = [self.names.head(account), self.names.row(account, replica)];
            let mut command = eval(&LAPSE, &keys);
            command.arg(row.seq);
            for figure in [row.spend, row.committed, row.held, keeps, back] {
                command.arg(figure.nanos());
            }
            commands.push(command.into());
            freed.push(back);
        }
        let done = self.link.send(commands).await.replies;
        let mut sum = Amount::ZERO;
        for (reply, back) in done.into_iter().zip(freed) {
            if take::<u64>(reply?)? == 1 {
                sum = sum.saturating_add(back);
            }
        }
        Ok(sum)
    }

    /// Reads a row: see [`parse_row`].
    pub(super) fn read_row(&self, account: &AccountId, replica: &str) -> Read {
        let fields = ["spend", "committed", "seq", "held", "seen", "live"];
        Read::new("HMGET", self.names.row(account, replica), &fields)
    }
}

/// A row, and whether it is live; zeros if there is none.
pub(super) fn parse_row(fields: Vec<Option<String>>) -> Result<(Row, bool), StoreError> {
    let [spend, committed, seq, held, seen, live] = fields.as_slice() else {
        return Err(StoreError::Corrupt("a row has other fields".into()));
    };
    let row = Row {
        spend: amount(spend.as_deref())?,
        committed: amount(committed.as_deref())?,
        seq: number(seq.as_deref())?,
        held: amount(held.as_deref())?,
        seen_ms: number(seen.as_deref())?,
    };
    Ok((row, live.as_deref() == Some("1")))
}

/// Where a row of usage stands in its hash.
fn field(row: &UsageRow) -> String {
    let model = row.model.as_ref().map_or("", |model| model.as_str());
    format!("{}|{model}", row.key)
}

/// What the script says, and how many events wait in the outbox.
fn read_answer(account: &AccountId, reply: Reply) -> Result<(Published, u64), StoreError> {
    let words: Vec<String> = take(reply)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["none"] => Err(StoreError::NoAccount(account.clone())),
        ["range"] => Err(super::range(account)),
        [
            applied,
            spend,
            committed,
            seq,
            total,
            unleased,
            version,
            outbox,
        ] => {
            let answer = Published {
                applied: *applied == "1",
                standing: Standing {
                    spend: amount(Some(spend))?,
                    committed: amount(Some(committed))?,
                },
                seq: number(Some(seq))?,
                total: amount(Some(total))?,
                unleased: amount(Some(unleased))?,
                version: number(Some(version))?,
            };
            Ok((answer, number(Some(outbox))?))
        }
        other => Err(StoreError::Corrupt(format!(
            "a message was answered with {other:?}"
        ))),
    }
}
