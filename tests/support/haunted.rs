//! A store that fails where a test says: reading some accounts panics, or is an error. All else it hands on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tollgate::clock::{Hour, Timestamp};
use tollgate::id::{AccountId, KeyId, ReplicaId};
use tollgate::ledger::{Entry, Event};
use tollgate::store::{
    AccountSpend, Change, Commit, History, KeyRecord, Lapsed, Opened, Publish, Published, Scarce,
    Snapshot, Store, StoreError, Stored, UsageRow,
};

/// What reading an account comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Haunt {
    /// A panic.
    Panics,
    /// An error that stays.
    Fails,
}

/// See the module.
pub(crate) struct Haunted {
    store: Arc<dyn Store>,
    haunts: Mutex<BTreeMap<String, Haunt>>,
}

impl Haunted {
    pub(crate) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            haunts: Mutex::default(),
        })
    }

    /// From now on reading this account comes to this, or to what it should.
    pub(crate) fn haunt(&self, account: &str, haunt: Option<Haunt>) {
        let mut haunts = self.haunts.lock().unwrap();
        match haunt {
            Some(haunt) => haunts.insert(account.into(), haunt),
            None => haunts.remove(account),
        };
    }
}

type Answer<T> = Result<T, StoreError>;

#[async_trait]
impl Store for Haunted {
    async fn read(&self, account: &AccountId, claims: &[String]) -> Answer<Option<Snapshot>> {
        let haunt = self.haunts.lock().unwrap().get(account.as_str()).copied();
        match haunt {
            Some(Haunt::Panics) => panic!("account `{account}` is haunted"),
            Some(Haunt::Fails) => Err(StoreError::Corrupt(format!("`{account}` is haunted"))),
            None => self.store.read(account, claims).await,
        }
    }

    async fn ping(&self) -> Answer<()> {
        self.store.ping().await
    }

    async fn history(&self, account: &AccountId) -> Answer<History> {
        self.store.history(account).await
    }

    async fn open(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        hour: Hour,
    ) -> Answer<Option<Opened>> {
        self.store.open(account, replica, hour).await
    }

    async fn commit(&self, commit: Commit) -> Answer<Stored> {
        self.store.commit(commit).await
    }

    async fn purge(&self, account: &AccountId, expected: u64, now: Timestamp) -> Answer<Stored> {
        self.store.purge(account, expected, now).await
    }

    async fn purged(&self, account: &AccountId) -> Answer<Option<Timestamp>> {
        self.store.purged(account).await
    }

    async fn publish(&self, replica: &ReplicaId, batch: Vec<Publish>) -> Vec<Answer<Published>> {
        self.store.publish(replica, batch).await
    }

    async fn lapse(
        &self,
        account: &AccountId,
        silence: Duration,
        retired: Duration,
    ) -> Answer<Lapsed> {
        self.store.lapse(account, silence, retired).await
    }

    async fn tell_scarce(&self, account: &AccountId, what: Scarce) -> Answer<()> {
        self.store.tell_scarce(account, what).await
    }

    async fn accounts(&self, after: Option<&AccountId>, limit: usize) -> Answer<Vec<AccountId>> {
        self.store.accounts(after, limit).await
    }

    async fn find_key(&self, digest: &str) -> Answer<Option<(AccountId, KeyId)>> {
        self.store.find_key(digest).await
    }

    async fn keys(&self, account: &AccountId) -> Answer<Vec<KeyRecord>> {
        self.store.keys(account).await
    }

    async fn put_key(&self, expected: u64, key: KeyRecord) -> Answer<Stored> {
        self.store.put_key(expected, key).await
    }

    async fn entries(&self, account: &AccountId, after: u64, limit: usize) -> Answer<Vec<Entry>> {
        self.store.entries(account, after, limit).await
    }

    async fn events(&self, after: u64, limit: usize) -> Answer<Vec<(u64, Event)>> {
        self.store.events(after, limit).await
    }

    async fn announce(&self, events: &[Event]) -> Answer<()> {
        self.store.announce(events).await
    }

    async fn usage(&self, account: &AccountId, from: Hour, to: Hour) -> Answer<Vec<UsageRow>> {
        self.store.usage(account, from, to).await
    }

    async fn spend_since(&self, after: u64, limit: usize) -> Answer<Vec<AccountSpend>> {
        self.store.spend_since(after, limit).await
    }

    async fn document(&self, name: &str) -> Answer<Option<(u64, Vec<u8>)>> {
        self.store.document(name).await
    }

    async fn put_document(
        &self,
        name: &str,
        expected: u64,
        body: Vec<u8>,
        lost: bool,
    ) -> Answer<Stored> {
        self.store.put_document(name, expected, body, lost).await
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.store.changes()
    }
}
