//! What is due of accounts that nobody calls: they are not loaded, so no schedule looks at them. A walk over all accounts of the store
//! finds them, page by page and for ever; those that are loaded are looked at with the others, as it costs no more. It only writes down and announces: what state an account is in, and what it may spend, never
//! waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Sync;
use crate::id::AccountId;
use crate::ledger::Command;
use crate::store::StoreError;

/// Between two pages.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many accounts are looked at in one: a hundred small reads a second are nothing to a store, and go through 360,000 accounts in an
/// hour, which is how late the suspension of an account that nobody calls is announced then.
const PAGE: usize = 100;

/// Walks all accounts, again and again.
pub(super) async fn run(sync: Arc<Sync>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut after = None;
    loop {
        ticks.tick().await;
        match sync.sweep(after.as_ref()).await {
            Ok(next) => after = next,
            // The store is away, which others say; the page is looked at again.
            Err(error) => tracing::debug!(%error, "accounts are not looked through"),
        }
    }
}

impl Sync {
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
