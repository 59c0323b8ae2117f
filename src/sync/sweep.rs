//! What is due of accounts that nobody calls: they are not loaded, so no schedule looks at them. A walk over all accounts of the store
//! finds them, page by page and for ever; those that are loaded are looked at with the others, as it costs no more. It only writes down
//! and announces: what state an account is in, and what it may spend, never waits for it.
//!
//! One replica walks at a time, so that a store's work does not grow with replicas: it says so in a document, again and again, and who
//! finds the same word there in two looks walks in its stead. No clocks are compared. Two that walk at once do the same, which is done once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Sync;
use crate::id::AccountId;
use crate::ledger::Command;
use crate::store::{StoreError, Stored};

/// Between two pages.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many accounts are looked at in one: a hundred small reads a second are nothing to a store, and go through 360,000 accounts in an
/// hour, which is how late the suspension of an account that nobody calls is announced then.
pub(crate) const PAGE: usize = 100;

/// Who walks says so after so many pages.
const PAGES: u32 = 10;

/// Between two looks of those that do not: longer than the pages take that one walks between two words, also in a slow store.
const LOOK: Duration = Duration::from_secs(30);

/// The document that who walks writes.
pub(super) const DOCUMENT: &str = "sweep";

/// Walks all accounts, again and again, while nobody else does.
pub(super) async fn run(sync: Arc<Sync>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut after, mut seen) = (None, None);
    loop {
        ticks.tick().await;
        match sync.claim_walk(seen).await {
            Ok((version, true)) => seen = Some(version),
            Ok((version, false)) => {
                seen = Some(version);
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "who looks through the accounts cannot be told");
                continue;
            }
        }
        for _ in 0..PAGES {
            match sync.sweep(after.as_ref()).await {
                Ok(next) => after = next,
                // The store is away, which others say; the page is looked at again.
                Err(error) => tracing::debug!(%error, "accounts are not looked through"),
            }
            ticks.tick().await;
        }
    }
}

impl Sync {
    /// The document's version, and whether this replica walks from now on: if the last word there is its own, or is still the one that it
    /// has `seen`.
    async fn claim_walk(&self, seen: Option<u64>) -> Result<(u64, bool), StoreError> {
        let me = self.replica.as_str().as_bytes();
        let stands = self.store.document(DOCUMENT).await?;
        let (version, walks) = match &stands {
            None => (0, true),
            Some((version, who)) => (*version, who == me || seen == Some(*version)),
        };
        if !walks {
            return Ok((version, false));
        }
        let put = self
            .store
            .put_document(DOCUMENT, version, me.to_vec(), false);
        Ok(match put.await? {
            Stored::At(version) => (version, true),
            Stored::Conflict => (version, false),
        })
    }

    /// Looks at one page of accounts. Returns after which to go on; `None` to begin anew.
    async fn sweep(
        self: &Arc<Self>,
        after: Option<&AccountId>,
    ) -> Result<Option<AccountId>, StoreError> {
        let page = self.store.accounts(after, PAGE).await?;
        for account in &page {
            if let Err(error) = self.observe(account).await {
                tracing::debug!(%account, %error, "what is due could not be written down; it is tried again");
            }
        }
        Ok(page.last().filter(|_| page.len() == PAGE).cloned())
    }

    /// Writes down what is due of an account, if anything is.
    pub(super) async fn observe(self: &Arc<Self>, account: &AccountId) -> Result<(), StoreError> {
        let Some(mut snapshot) = self.store.read(account, &[]).await? else {
            return Ok(());
        };
        if snapshot.book.blocks.iter().any(|block| block.expired) {
            // What calls hold of it is kept for them until they end. What is merely leased is held for nobody.
            self.give_back(account).await?;
            let Some(newest) = self.store.read(account, &[]).await? else {
                return Ok(());
            };
            snapshot = newest;
        }
        let policy = self.catalog.policy_of(&snapshot.book);
        let now = self.clock.now().wall;
        if !snapshot
            .book
            .wants_observing(snapshot.spent(), &policy, now)
        {
            return Ok(());
        }
        if let Err(error) = self.books.run(account, Command::observe()).await {
            tracing::debug!(%account, %error, "what is due could not be written down");
            return Ok(());
        }
        self.refresh(account, None).await
    }
}

#[cfg(test)]
mod tests;
