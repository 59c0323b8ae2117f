//! What is done about a store that may have lost history: each account that this replica remembers is compared, and what is missing is
//! put back. What that is, is [`crate::books::remember`]; this reads and writes the store.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::{StreamExt as _, stream};

use super::{Entry, Sync};
use crate::books::remember::{PutBack, Stands};
use crate::id::AccountId;
use crate::store::{History, KeyRecord, Snapshot, StoreError, Stored};

/// How often an account is tried while others write it too: all of them put the same back, so one of the first has it done.
const TRIES_MAX: u32 = 16;

/// How many accounts are looked up at once among those that are remembered.
const PAGE: usize = 1_000;

/// How many accounts are compared at once: each takes some reads, and the calls that are being served come first.
const AT_ONCE: usize = 16;

impl Sync {
    /// Takes up a book and keys as they stand, and remembers them. What is remembered and is more than that is put back first: `compared`
    /// is the history in which that was done just now.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        id: &AccountId,
        mut compared: Option<History>,
    ) -> Result<(), StoreError> {
        // Keys may have been made for an account that is not loaded, too.
        self.engine.forget_unknown();
        for _ in 0..TRIES_MAX {
            // Asked first: what is read may be of a later history, and is then compared once more.
            let history = self.store.history(id).await?;
            let Some(snapshot) = self.note(self.store.read(id, &[]).await)? else {
                if !self.bury_if_purged(id).await? {
                    self.missing(id);
                }
                return Ok(());
            };
            let keys = self.note(self.store.keys(id).await)?;
            if let Some(entry) = self.entry(id) {
                self.take_in(&entry, snapshot.clone(), keys.clone());
                self.take_up_plans(&entry.account).await?;
            }
            let is_compared = compared == Some(history);
            if self.remember(snapshot, keys, history, is_compared).await? {
                return Ok(());
            }
            compared = self.rejoin(id).await?;
        }
        Err(too_many(id))
    }

    /// The store does not have an account. If it is remembered here, it had it: it may have lost any.
    pub(super) fn missing(&self, id: &AccountId) {
        // Whether it is, is noted there; who asks here goes on without it.
        let _ = self.books.missing(id);
    }

    /// Remembers an account as it was taken up.
    pub(super) async fn remember_or_warn(
        self: &Arc<Self>,
        snapshot: Snapshot,
        keys: Vec<KeyRecord>,
        history: History,
    ) {
        let account = snapshot.book.account.clone();
        let remembered = match self.remember(snapshot, keys, history, false).await {
            Ok(false) => self.refresh(&account, None).await,
            remembered => remembered.map(drop),
        };
        if let Err(error) = remembered {
            tracing::warn!(%account, %error, "could not be read to be remembered; its next change is");
        }
    }

    /// See [`crate::books::Books::learn`].
    async fn remember(
        &self,
        snapshot: Snapshot,
        keys: Vec<KeyRecord>,
        history: History,
        compared: bool,
    ) -> Result<bool, StoreError> {
        let (id, recall) = (&snapshot.book.account, &self.books.recall);
        if recall.knows(id, snapshot.version) && recall.is_compared(id, history) {
            return Ok(true);
        }
        let tail = self.note(self.books.tail(&snapshot.book).await)?;
        let stands = Stands {
            snapshot,
            tail,
            keys,
        };
        Ok(self.books.learn(stands, history, compared).await)
    }

    /// Lets go of an account, and of what is remembered of it, if it is not in the store because it was purged there.
    pub(super) async fn bury_if_purged(&self, id: &AccountId) -> Result<bool, StoreError> {
        if self.note(self.store.purged(id).await)?.is_none() {
            return Ok(false);
        }
        if let Some(entry) = self.entry(id) {
            // Calls that are still in flight settle into cells that nobody publishes.
            self.engine.unload(&entry.account);
            let same = |_: &AccountId, current: &mut Arc<Entry>| Arc::ptr_eq(current, &entry);
            self.lines.remove_if_mut(id, same);
            if let Some(owner) = id.owner().and_then(|owner| self.entry(&owner)) {
                owner.account.drop_inner(id);
            }
            entry.changed.notify_waiters();
        }
        self.books.recall.forget(id).await;
        Ok(true)
    }

    /// Compares an account with what this replica remembers of it, and puts back what the store lacks. Returns in which history.
    pub(super) async fn rejoin(&self, id: &AccountId) -> Result<Option<History>, StoreError> {
        let history = self.store.history(id).await?;
        if self.note(self.store.read(id, &[]).await)?.is_none() && self.bury_if_purged(id).await? {
            return Ok(None);
        }
        let Some(mut ours) = self.books.recall.get(id).await else {
            return Ok(None);
        };
        if let Some(entry) = self.entry(id) {
            // What is in force here may be newer than what was remembered in time: what stands must be above that, too.
            ours.version = ours.version.max(entry.line().known.version);
        }
        let claims = ours.claims();
        for _ in 0..TRIES_MAX {
            let stands = self.stands(id, &claims).await?;
            let now = self.clock.now().wall;
            let plan = ours.put_back(stands.as_ref(), |book| self.catalog.policy_of(book), now);
            let plan = plan.map_err(|rejected| {
                StoreError::Corrupt(format!("`{id}` cannot be put back: {rejected}"))
            })?;
            let version = stands.map_or(0, |stands| stands.snapshot.version);
            if self.put_back(id, &plan, version).await? {
                if let Some(entry) = self.entry(id) {
                    // What it said of its spend may be lost as well.
                    entry.line().say_again(&entry.account);
                }
                // Whoever put the book back, only who wrote an event knows it.
                self.note(self.store.announce(&ours.events).await)?;
                return Ok(Some(history));
            }
        }
        Err(too_many(id))
    }

    async fn stands(
        &self,
        id: &AccountId,
        claims: &[String],
    ) -> Result<Option<Stands>, StoreError> {
        let Some(snapshot) = self.note(self.store.read(id, claims).await)? else {
            return Ok(None);
        };
        let tail = self.note(self.books.tail(&snapshot.book).await)?;
        let keys = self.note(self.store.keys(id).await)?;
        Ok(Some(Stands {
            snapshot,
            tail,
            keys,
        }))
    }

    /// Writes what is missing; `false` if somebody else wrote first.
    async fn put_back(
        &self,
        id: &AccountId,
        plan: &PutBack,
        mut version: u64,
    ) -> Result<bool, StoreError> {
        if let Some(commit) = &plan.commit {
            match self.note(self.store.commit(commit.clone()).await)? {
                Stored::Conflict => return Ok(false),
                Stored::At(at) => version = at,
            }
            let (commands, forgotten) = (plan.commands, plan.forgotten);
            tracing::warn!(account = %id, commands, "the store had lost commands; they are put back");
            if forgotten > 0 && version > 1 {
                tracing::error!(account = %id, forgotten, "older entries of the ledger are lost for good");
            }
            let commands = u64::try_from(commands).unwrap_or(u64::MAX);
            self.status.restored.fetch_add(commands, Relaxed);
        }
        for key in &plan.keys {
            match self.note(self.store.put_key(version, key.clone()).await)? {
                Stored::Conflict => return Ok(false),
                Stored::At(at) => version = at,
            }
            tracing::warn!(account = %id, key = %key.id, "the store had lost a key or its revocation; it is put back");
        }
        Ok(true)
    }

    /// Whenever the store's history may be another one, every account that is remembered from before is compared and taken up, so that
    /// its spend is published again.
    pub(super) async fn reconcile(self: Arc<Self>) {
        loop {
            self.books.recall.doubted().await;
            self.recover().await;
            self.reconcile_all().await;
        }
    }

    async fn reconcile_all(self: &Arc<Self>) {
        let mut after = None;
        loop {
            let ids = self.books.recall.accounts(after.take(), PAGE).await;
            let Some(last) = ids.last().cloned() else {
                if !self.status.unreconciled.load(Relaxed) {
                    self.status.restoring.store(false, Relaxed);
                }
                return;
            };
            let work = stream::iter(ids).for_each_concurrent(AT_ONCE, |id| async move {
                if let Err(error) = self.reconcile_one(&id).await {
                    tracing::debug!(account = %id, %error, "could not be compared with the store");
                    self.status.unreconciled.store(true, Relaxed);
                }
            });
            work.await;
            after = Some(last);
        }
    }

    async fn reconcile_one(self: &Arc<Self>, id: &AccountId) -> Result<(), StoreError> {
        let history = self.store.history(id).await?;
        if self.books.recall.is_compared(id, history) {
            return Ok(());
        }
        self.status.restoring.store(true, Relaxed);
        let compared = self.rejoin(id).await?;
        self.account(id).await?;
        self.refresh(id, compared).await?;
        self.books.recall.in_history(id, history).await;
        Ok(())
    }

    /// What an earlier run of this replica left: accounts whose counters hold what the store has not acknowledged, or open holds, are
    /// taken up, which publishes the one and ends the other. Tried again until it is done.
    pub(super) async fn recover(self: &Arc<Self>) {
        let left = self.engine.parked().into_iter();
        let left: Vec<_> = left
            .filter(|recorded| !recorded.is_published || recorded.has_holds)
            .map(|recorded| recorded.account)
            .collect();
        if left.is_empty() {
            return;
        }
        tracing::info!(
            accounts = left.len(),
            "an earlier run left what is not published yet"
        );
        let work = stream::iter(left).for_each_concurrent(AT_ONCE, |id| async move {
            match self.account(&id).await {
                Ok(Some(_)) => {}
                // It is put back first, if it is remembered.
                Ok(None) => self.books.recall.doubt(),
                Err(error) => {
                    tracing::debug!(account = %id, %error, "could not be taken up");
                    self.status.unreconciled.store(true, Relaxed);
                }
            }
        });
        work.await;
    }
}

fn too_many(id: &AccountId) -> StoreError {
    StoreError::Unavailable(format!("`{id}` is being changed by too many at once"))
}
