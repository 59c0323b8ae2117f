//! Messages of replicas: one script per account, pipelined.

use std::collections::BTreeSet;

use redis::Cmd;

use super::super::shared::differences;
use super::super::{LEASE_MAX, Pool, Publish, Published, Standing, StoreError, UsageRow};
use super::link::{self, Ask, Reply, take};
use super::scripts::{PUBLISH, TOUCH, eval};
use super::{Redis, amount, number};
use crate::clock::Hour;
use crate::id::{AccountId, ReplicaId};

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
                    commands.push(command);
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

    fn command(&self, replica: &ReplicaId, message: &Publish) -> Result<Ask, StoreError> {
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
            self.names.tombstones(account),
        ];
        let first_hour = keys.len().saturating_add(1);
        keys.extend(
            hours
                .iter()
                .map(|hour| self.names.hour(account, *hour, own)),
        );
        let mut words = vec![own.to_owned(), message.seq.to_string()];
        for standing in [message.believed, message.new] {
            words.push(standing.spend.nanos().to_string());
            words.push(standing.committed.nanos().to_string());
            words.push(standing.rate.to_string());
            words.push(standing.places.to_string());
        }
        for figure in [
            by.spend,
            by.committed.negated(),
            by.healed,
            message.total,
            message.held,
            by.want,
            by.need,
            by.least,
            LEASE_MAX,
        ] {
            words.push(figure.nanos().to_string());
        }
        for sought in [message.rate, message.places] {
            words.extend([sought.limit, sought.demand, sought.want].map(|n| n.to_string()));
        }
        words.push(hours.len().to_string());
        words.extend(hours.iter().map(|hour| format!("{}|{own}", hour.0)));
        for row in &message.usage {
            let place = row
                .hour
                .and_then(|hour| hours.iter().position(|h| *h == hour));
            // Lua counts from one; lifetime usage is the key before the index of hours.
            let key = place.map_or(5, |place| first_hour.saturating_add(place));
            let tally = serde_json::to_string(&row.tally);
            let tally = tally.map_err(|error| StoreError::Corrupt(error.to_string()))?;
            words.extend([key.to_string(), field(row), tally]);
        }
        let known = message.history;
        let make = move |standing: &link::Standing| {
            let knows = known.is_none_or(|known| known == standing.number());
            let mut command = eval(&PUBLISH, &keys);
            command.arg(u8::from(standing.fenced));
            command.arg(u8::from(knows)).arg(&words);
            command
        };
        Ok(Ask::with(self.names.head(account), make))
    }
}

/// Where a row of usage stands in its hash.
fn field(row: &UsageRow) -> String {
    let model = row.model.as_ref().map_or("", |model| model.as_str());
    format!("{}|{model}", row.key)
}

/// What the script says, and how many events wait in the outbox.
fn read_answer(account: &AccountId, reply: Reply) -> Result<(Published, u64), StoreError> {
    let history = reply.standing.number();
    let words: Vec<String> = take(reply)?;
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["none"] => return Err(StoreError::NoAccount(account.clone())),
        ["range"] => return Err(super::range(account)),
        _ => {}
    }
    let other = || StoreError::Corrupt(format!("a message was answered with {words:?}"));
    let word = |at: usize| words.get(at).map(String::as_str).ok_or_else(other);
    let money = |at| amount(Some(word(at)?));
    let count = |at| number(Some(word(at)?));
    let pool = |at: usize| {
        Ok::<_, StoreError>(Pool {
            shared: count(at)?,
            demand: count(at.saturating_add(1))?,
            rested_ms: count(at.saturating_add(2))?,
        })
    };
    let answer = Published {
        applied: word(0)? == "1",
        standing: Standing {
            spend: money(1)?,
            committed: money(2)?,
            rate: count(3)?,
            places: count(4)?,
        },
        seq: count(5)?,
        total: money(6)?,
        unleased: money(7)?,
        version: count(8)?,
        lost: money(9)?,
        rate: pool(10)?,
        places: pool(13)?,
        history,
        fenced: word(17)? == "1",
    };
    Ok((answer, count(16)?))
}
