//! SyncService: publish now, and the spend of all accounts as totals that only grow.

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use super::feed::{Answers, Feed, Look};
use crate::id::AccountId;
use crate::proto::convert::{account_id, amount, tally, timestamp};
use crate::proto::v1::{self, sync_service_server::SyncService};
use crate::store::AccountSpend;

/// How many accounts are read at once.
const CHUNK: usize = 100;

/// How many rows of an account go into one message: some 200 KiB.
const ROWS_PER_MESSAGE: usize = 1_000;

#[tonic::async_trait]
impl SyncService for Control {
    async fn sync_now(
        &self,
        _: Request<v1::SyncNowRequest>,
    ) -> Result<Response<v1::SyncNowResponse>, Status> {
        answer(self.published().await)
    }

    type StreamSpendStream = Answers<v1::StreamSpendResponse>;

    async fn stream_spend(
        &self,
        request: Request<v1::StreamSpendRequest>,
    ) -> Result<Response<Self::StreamSpendStream>, Status> {
        let request = request.into_inner();
        let account = match request.account_id.as_str() {
            "" => None,
            text => Some(account_id("account_id", text).map_err(Fault::from)?),
        };
        let feed = Spend {
            control: self.clone(),
            account,
        };
        answer(self.follow(feed, request.after_sequence, request.until_current))
    }
}

impl Control {
    async fn published(&self) -> Result<v1::SyncNowResponse, Fault> {
        let as_of = self.core().clock.now().wall;
        let report = self.core().sync.sync_now().await?;
        Ok(v1::SyncNowResponse {
            accounts: u32::try_from(report.accounts).unwrap_or(u32::MAX),
            as_of: Some(timestamp(as_of)),
        })
    }
}

/// Spend as a feed.
struct Spend {
    control: Control,
    account: Option<AccountId>,
}

#[tonic::async_trait]
impl Feed for Spend {
    type Answer = v1::StreamSpendResponse;

    async fn look(&self, after: u64) -> Result<Look<Self::Answer>, Fault> {
        let chunk = self.control.core().store.spend_since(after, CHUNK).await?;
        let more = chunk.len() == CHUNK;
        let position = chunk.last().map_or(after, |spend| spend.sequence);
        let mut answers = Vec::new();
        for spend in &chunk {
            if self
                .account
                .as_ref()
                .is_none_or(|account| *account == spend.account)
            {
                let unit = self.control.0.units.of_any(&spend.account).await?;
                answers.extend(parts(spend, &unit));
            }
        }
        Ok(Look {
            answers,
            position,
            more,
        })
    }
}

/// An account's spend in messages of a bounded size; at least one.
fn parts(spend: &AccountSpend, unit: &str) -> Vec<v1::StreamSpendResponse> {
    let part = |rows: &[crate::store::UsageRow], more| {
        let rows = rows.iter().map(|row| v1::SpendRow {
            key_id: row.key.to_string(),
            model: row
                .model
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            tally: Some(tally(&row.tally, unit)),
        });
        v1::StreamSpendResponse {
            spend: Some(v1::AccountSpend {
                sequence: spend.sequence,
                account_id: spend.account.to_string(),
                total: Some(amount(spend.total, unit)),
                rows: rows.collect(),
                more,
            }),
        }
    };
    let mut chunks = spend.rows.chunks(ROWS_PER_MESSAGE).peekable();
    let mut messages = Vec::new();
    while let Some(rows) = chunks.next() {
        messages.push(part(rows, chunks.peek().is_some()));
    }
    if messages.is_empty() {
        messages.push(part(&[], false));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyId;
    use crate::money::Amount;
    use crate::store::UsageRow;
    use crate::usage::Tally;

    #[test]
    fn many_rows_come_in_parts_and_only_the_last_one_says_so() {
        let row = UsageRow {
            hour: None,
            key: KeyId::new("k").unwrap(),
            model: None,
            tally: Tally::default(),
        };
        let check = |rows: usize, sizes: &[usize]| {
            let spend = AccountSpend {
                sequence: 7,
                account: AccountId::new("a").unwrap(),
                total: Amount::ZERO,
                rows: vec![row.clone(); rows],
            };
            let parts: Vec<_> = parts(&spend, "USD")
                .into_iter()
                .filter_map(|part| part.spend)
                .collect();
            let got: Vec<_> = parts.iter().map(|part| part.rows.len()).collect();
            assert_eq!(got, sizes);
            let (last, before) = parts.split_last().unwrap();
            assert!(!last.more && before.iter().all(|part| part.more));
            assert!(parts.iter().all(|part| part.sequence == 7));
        };
        check(0, &[0]);
        check(1, &[1]);
        check(1_000, &[1_000]);
        check(2_001, &[1_000, 1_000, 1]);
    }
}
