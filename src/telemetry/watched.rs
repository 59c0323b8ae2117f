//! A store that counts what it is asked: whatever it wraps is called as it is, timed, and its failures counted by what was asked.
//! Nothing is retried or changed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{Metrics, StoreOp};
use crate::clock::{Clock, Hour, Timestamp};
use crate::id::{AccountId, KeyId, ReplicaId};
use crate::ledger::{Entry, Event};
use crate::store::{
    AccountSpend, Change, Commit, History, KeyRecord, Lapsed, Opened, Publish, Published, Scarce,
    Snapshot, Store, StoreError, Stored, UsageRow,
};

/// A store under watch. No call of it is on a request's path but a first load, so the two readings of the clock cost nothing.
pub struct Watched {
    store: Arc<dyn Store>,
    metrics: Metrics,
    clock: Clock,
}

impl Watched {
    /// Watches a store.
    pub fn new(store: Arc<dyn Store>, metrics: Metrics, clock: Clock) -> Self {
        Self {
            store,
            metrics,
            clock,
        }
    }

    async fn count<T>(
        &self,
        op: StoreOp,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = self.clock.now().mono;
        let answer = call.await;
        self.metrics
            .store_took(op, self.clock.now().mono.since(began));
        self.note(op, &answer);
        answer
    }

    fn note<T>(&self, op: StoreOp, answer: &Result<T, StoreError>) {
        match answer {
            // That there is no such account is an answer.
            Ok(_) | Err(StoreError::NoAccount(_) | StoreError::Purged(_)) => {}
            Err(StoreError::Unavailable(_) | StoreError::Fenced(_) | StoreError::Corrupt(_)) => {
                self.metrics.store_error(op);
            }
        }
    }
}

#[async_trait]
impl Store for Watched {
    async fn ping(&self) -> Result<(), StoreError> {
        self.count(StoreOp::Ping, self.store.ping()).await
    }

    async fn history(&self, account: &AccountId) -> Result<History, StoreError> {
        // Mostly known without a word to the store.
        self.store.history(account).await
    }

    async fn open(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        hour: Hour,
    ) -> Result<Option<Opened>, StoreError> {
        let call = self.store.open(account, replica, hour);
        self.count(StoreOp::Open, call).await
    }

    async fn read(
        &self,
        account: &AccountId,
        claims: &[String],
    ) -> Result<Option<Snapshot>, StoreError> {
        let call = self.store.read(account, claims);
        self.count(StoreOp::Read, call).await
    }

    async fn commit(&self, commit: Commit) -> Result<Stored, StoreError> {
        let events = u64::try_from(commit.events.len()).unwrap_or(u64::MAX);
        let stored = self
            .count(StoreOp::Commit, self.store.commit(commit))
            .await?;
        if let Stored::At(_) = stored {
            self.metrics.events(events);
        }
        Ok(stored)
    }

    async fn purge(
        &self,
        account: &AccountId,
        expected: u64,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        let call = self.store.purge(account, expected, now);
        self.count(StoreOp::Commit, call).await
    }

    async fn purged(&self, account: &AccountId) -> Result<Option<Timestamp>, StoreError> {
        self.count(StoreOp::Read, self.store.purged(account)).await
    }

    async fn publish(
        &self,
        replica: &ReplicaId,
        batch: Vec<Publish>,
    ) -> Vec<Result<Published, StoreError>> {
        let began = self.clock.now().mono;
        let answers = self.store.publish(replica, batch).await;
        self.metrics
            .store_took(StoreOp::Publish, self.clock.now().mono.since(began));
        for answer in &answers {
            self.note(StoreOp::Publish, answer);
        }
        answers
    }

    async fn lapse(
        &self,
        account: &AccountId,
        silence: Duration,
        retired: Duration,
    ) -> Result<Lapsed, StoreError> {
        let call = self.store.lapse(account, silence, retired);
        self.count(StoreOp::Lapse, call).await
    }

    async fn tell_scarce(&self, account: &AccountId, what: Scarce) -> Result<(), StoreError> {
        let call = self.store.tell_scarce(account, what);
        self.count(StoreOp::TellScarce, call).await
    }

    async fn accounts(
        &self,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        let call = self.store.accounts(after, limit);
        self.count(StoreOp::List, call).await
    }

    async fn find_key(&self, digest: &str) -> Result<Option<(AccountId, KeyId)>, StoreError> {
        let call = self.store.find_key(digest);
        self.count(StoreOp::FindKey, call).await
    }

    async fn keys(&self, account: &AccountId) -> Result<Vec<KeyRecord>, StoreError> {
        self.count(StoreOp::Keys, self.store.keys(account)).await
    }

    async fn put_key(&self, expected: u64, key: KeyRecord) -> Result<Stored, StoreError> {
        let call = self.store.put_key(expected, key);
        self.count(StoreOp::Keys, call).await
    }

    async fn entries(
        &self,
        account: &AccountId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let call = self.store.entries(account, after, limit);
        self.count(StoreOp::List, call).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, StoreError> {
        let call = self.store.events(after, limit);
        self.count(StoreOp::List, call).await
    }

    async fn announce(&self, events: &[Event]) -> Result<(), StoreError> {
        self.count(StoreOp::Commit, self.store.announce(events))
            .await
    }

    async fn usage(
        &self,
        account: &AccountId,
        from: Hour,
        to: Hour,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let call = self.store.usage(account, from, to);
        self.count(StoreOp::List, call).await
    }

    async fn spend_since(&self, after: u64, limit: usize) -> Result<Vec<AccountSpend>, StoreError> {
        let call = self.store.spend_since(after, limit);
        self.count(StoreOp::List, call).await
    }

    async fn document(&self, name: &str) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let call = self.store.document(name);
        self.count(StoreOp::Documents, call).await
    }

    async fn put_document(
        &self,
        name: &str,
        expected: u64,
        body: Vec<u8>,
        lost: bool,
    ) -> Result<Stored, StoreError> {
        let call = self.store.put_document(name, expected, body, lost);
        self.count(StoreOp::Documents, call).await
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.store.changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::store::embedded::Embedded;
    use crate::telemetry::Levels;

    #[tokio::test]
    async fn calls_go_through_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_nanos(0));
        let store = Embedded::open(dir.path(), clock.clone()).unwrap();
        let metrics = Metrics::default();
        let watched = Watched::new(Arc::new(store), metrics.clone(), clock);
        let account = AccountId::new("nobody").unwrap();
        watched.ping().await.unwrap();
        assert_eq!(
            watched
                .put_document("d", 0, b"x".into(), false)
                .await
                .unwrap(),
            Stored::At(1)
        );
        assert!(watched.document("d").await.unwrap().is_some());
        assert_eq!(watched.find_key("0").await.unwrap(), None);
        let unknown = watched.keys(&account).await;
        let page = metrics.render(&Levels::default());
        for (op, count) in [
            ("ping", 1),
            ("documents", 2),
            ("find_key", 1),
            ("keys", 1),
            ("open", 0),
        ] {
            let series = format!("tollgate_store_seconds_count{{op=\"{op}\"}} {count}");
            assert!(page.contains(&series), "{series}\n{page}");
        }
        // An account that is not there is an answer, whichever way it is put.
        assert!(
            matches!(unknown, Ok(_) | Err(StoreError::NoAccount(_))),
            "{unknown:?}"
        );
        assert!(
            page.contains("tollgate_store_errors_total{op=\"keys\"} 0"),
            "{page}"
        );
        // What cannot be read is an error, counted under what was asked.
        let unavailable: Result<(), _> = Err(StoreError::Unavailable("away".into()));
        watched
            .count(StoreOp::Lapse, async { unavailable })
            .await
            .unwrap_err();
        let page = metrics.render(&Levels::default());
        assert!(
            page.contains("tollgate_store_errors_total{op=\"lapse\"} 1"),
            "{page}"
        );
    }
}
