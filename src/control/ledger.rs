//! LedgerService: the entries of an account. The proof that they add up is in [`super::verify`].

use tonic::{Request, Response, Status};

use super::Control;
use super::errors::{Fault, answer};
use super::pages::{Filter, ROWS};
use crate::clock::Timestamp;
use crate::id::{AccountId, KeyId, ModelName};
use crate::ledger::{Command, Entry};
use crate::money::Amount;
use crate::proto::convert::{
    entry, entry_kind, entry_kinds, key_id, model, readable_account_id, timestamp_from,
    token_or_none,
};
use crate::proto::v1::{self, ledger_service_server::LedgerService};

/// How many entries are read at once.
const CHUNK: usize = 1_000;

/// How many entries a filtered page reads at most before it returns what it has: a rare kind in a long ledger must not keep
/// one request going for minutes.
const SCANNED_MAX: usize = 10_000;

#[tonic::async_trait]
impl LedgerService for Control {
    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        answer(self.entries(request.into_inner()).await)
    }

    async fn verify_ledger(
        &self,
        request: Request<v1::VerifyLedgerRequest>,
    ) -> Result<Response<v1::VerifyLedgerResponse>, Status> {
        answer(self.verified(&request.into_inner()).await)
    }
}

/// What is asked.
struct Query {
    account: AccountId,
    kinds: Vec<v1::EntryKind>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    newest_first: bool,
    order: Option<String>,
    key: Option<KeyId>,
    model: Option<ModelName>,
    moving_only: bool,
}

impl Query {
    fn wants(&self, entry: &Entry) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&entry_kind(entry.kind)))
            && self.from.is_none_or(|from| entry.time >= from)
            && self.to.is_none_or(|to| entry.time < to)
            && self.order.as_ref().is_none_or(|order| entry.is_of(order))
            && (self.key.is_none() || self.key == entry.key)
            && (self.model.is_none() || self.model == entry.model)
            && (!self.moving_only || entry.amount != Amount::ZERO)
    }
}

impl Control {
    async fn entries(
        &self,
        mut request: v1::ListEntriesRequest,
    ) -> Result<v1::ListEntriesResponse, Fault> {
        let size = ROWS.of(std::mem::take(&mut request.page_size))?;
        let token = std::mem::take(&mut request.page_token);
        let filter = Filter::new("ListEntries", &request);
        let position = filter.number(&token)?;
        let query = Query {
            account: readable_account_id("account_id", &request.account_id)?,
            kinds: entry_kinds("kinds", &request.kinds)?,
            from: timestamp_from("start_time", request.start_time.as_ref())?,
            to: timestamp_from("end_time", request.end_time.as_ref())?,
            newest_first: request.newest_first,
            order: token_or_none("order_id", &request.order_id)?,
            key: match request.key_id.as_str() {
                "" => None,
                text => Some(key_id("key_id", text)?),
            },
            model: match request.model.as_str() {
                "" => None,
                text => Some(model("model", text)?),
            },
            moving_only: request.moving_only,
        };
        if token.is_empty() {
            // What was settled since the last entry gets one, so that the listing adds up to the balance.
            self.flush(&query.account).await;
            let observed = self
                .core()
                .books
                .run(&query.account, Command::observe())
                .await?;
            if observed.entry.is_some() {
                self.refresh(&query.account).await;
            }
        }
        let book = self.read(&query.account).await?.book;
        let start = if query.newest_first {
            book.entries.saturating_add(1)
        } else {
            0
        };
        let (found, next) = self
            .scan(&query, position.unwrap_or(start), book.entries, size)
            .await?;
        let account = query.account.as_str();
        Ok(v1::ListEntriesResponse {
            entries: found
                .iter()
                .map(|each| entry(each, account, &book.unit))
                .collect(),
            next_page_token: next.map(|next| filter.token(next)).unwrap_or_default(),
        })
    }

    /// The entries that are wanted beyond a sequence number, up to a page of them, and where the next page begins, if there is
    /// more to look at.
    async fn scan(
        &self,
        query: &Query,
        position: u64,
        last: u64,
        size: usize,
    ) -> Result<(Vec<Entry>, Option<u64>), Fault> {
        let mut found = Vec::new();
        let mut at = position;
        let mut scanned: usize = 0;
        while scanned < SCANNED_MAX {
            let chunk = self.chunk(query, at).await?;
            if chunk.is_empty() {
                return Ok((found, None));
            }
            for each in chunk {
                at = each.sequence;
                scanned = scanned.saturating_add(1);
                if query.wants(&each) {
                    found.push(each);
                }
                if found.len() == size {
                    let end = if query.newest_first {
                        at <= 1
                    } else {
                        at >= last
                    };
                    return Ok((found, (!end).then_some(at)));
                }
            }
        }
        Ok((found, Some(at)))
    }

    /// The entries next to a sequence number, in the order of the listing.
    async fn chunk(&self, query: &Query, at: u64) -> Result<Vec<Entry>, Fault> {
        let store = &self.core().store;
        if !query.newest_first {
            return Ok(store.entries(&query.account, at, CHUNK).await?);
        }
        // Sequence numbers have no gaps, so those just below are the ones before.
        let below = at.saturating_sub(1);
        let count = usize::try_from(below).unwrap_or(usize::MAX).min(CHUNK);
        if count == 0 {
            return Ok(Vec::new());
        }
        let after = below.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        let mut chunk = store.entries(&query.account, after, count).await?;
        chunk.reverse();
        Ok(chunk)
    }
}
