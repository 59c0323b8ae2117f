//! What is due of accounts that nobody calls: they are not loaded, so no schedule looks at them. A walk over all accounts of the store
//! finds them, page by page and for ever; those that are loaded are looked at with the others, as it costs no more. It only writes down
//! and announces: what state an account is in, and what it may spend, never waits for it.
//!
//! One replica walks at a time, so that a store's work does not grow with replicas: it says so in a document, again and again, and who
//! finds the same word there in two looks walks in its stead. No clocks are compared. Two that walk at once do the same, which is done once.
//!
//! # What the walk removes
//!
//! **The accounts of budgets whose time is over** ([`crate::id::AccountId::inner`]), [`KEPT`] after that. No money can be lost with one: a
//! budget only bounds what its calls may cost, while what they did cost is in the account that it is inside of, and stays there. So the
//! wait is for whoever still has something to say:
//!
//! - Calls hold in the budget of the time in which they came in. Holds end within a day, and of one that ended a settlement is taken for
//!   ten minutes more; a call that tollgate carries itself holds as long as it runs. A replica that still holds there has that committed in the store, and the account stays until nothing is: what is
//!   idle goes back, and what a replica has that is silent lapses, and then retires.
//! - A replica that was killed, or cut off, publishes what it counted when it is back. Within the wait it is heard. After it, it is
//!   told that the account is gone and lets go of it, as of any that was purged.
//! - Spend that the store lost is waited for, too, but not for ever: [`LOST`].
//! - A mark stays in the store, so nobody opens the account once more or puts it back: not a replica whose clock is behind, nor one that
//!   remembers it on its disk, nor a command that is sent again. A store that falls back to before has it again, and it is removed again.
//!
//! **What is inside an account that was purged**, at once: the purge takes all that there is; a call that was let in just before may open
//! a budget after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Sync;
use super::inner::over_since;
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

/// For how long the account of a budget is kept once its time is over: longer than any hold lives, than a replica that was killed on a
/// Friday is missing, and than two clocks differ.
pub(super) const KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// And if the store has lost spend of it that nobody has published again by then, for so long: whoever has it may not come back at all.
pub(super) const LOST: Duration = Duration::from_secs(35 * 24 * 3_600);

/// How many accounts are removed while a page is looked at: each takes some twenty commands, so that is fewer than looking takes. 36,000
/// in an hour are as many as budgets by the hour of so many keys leave.
const REMOVED_MAX: usize = 10;

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

/// The account whose inner ones are looked at.
#[derive(Default)]
struct Owners {
    /// It, and whether it was purged.
    last: Option<(AccountId, bool)>,
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
    pub(super) async fn sweep(
        self: &Arc<Self>,
        after: Option<&AccountId>,
    ) -> Result<Option<AccountId>, StoreError> {
        let page = self.store.accounts(after, PAGE).await?;
        let (mut removed, mut owners): (usize, _) = (0, Owners::default());
        for account in &page {
            let looked = match self.remove_if_over(account, &mut owners).await {
                Ok(true) => {
                    removed = removed.saturating_add(1);
                    Ok(())
                }
                Ok(false) => self.observe(account).await,
                Err(error) => Err(error),
            };
            if let Err(error) = looked {
                tracing::debug!(%account, %error, "what is due could not be written down; it is tried again");
            }
            if removed == REMOVED_MAX {
                // The rest of the page is looked at next.
                return Ok(Some(account.clone()));
            }
        }
        Ok(page.last().filter(|_| page.len() == PAGE).cloned())
    }

    /// Removes an account inside another one that nobody needs any more; `false` if it stays.
    async fn remove_if_over(
        self: &Arc<Self>,
        account: &AccountId,
        owners: &mut Owners,
    ) -> Result<bool, StoreError> {
        let Some(owner) = account.owner() else {
            owners.last = Some((account.clone(), false));
            return Ok(false);
        };
        let now = self.clock.now().wall;
        let orphan = self.is_purged(owner, owners).await?;
        let over = over_since(account);
        if !orphan {
            if over.is_none_or(|over| now < over.plus(KEPT)) {
                return Ok(false);
            }
            self.give_back(account).await?;
            self.lapse(account).await;
        }
        let version = match self.store.read(account, &[]).await? {
            Some(snapshot) => {
                let given_up = orphan || over.is_some_and(|over| now >= over.plus(LOST));
                let held = snapshot.spent().held.is_positive() && !orphan;
                if held || (snapshot.lost.is_positive() && !given_up) {
                    return Ok(false);
                }
                snapshot.version
            }
            // It is still listed: its purge broke off, and the rest is deleted now.
            None if self.store.purged(account).await?.is_some() => 0,
            None => return Ok(false),
        };
        let Stored::At(_) = self.store.purge(account, version, now).await? else {
            return Ok(false);
        };
        tracing::debug!(%account, orphan, "removed what a budget had counted: its time is long over");
        self.bury_if_purged(account).await
    }

    /// Whether an account is gone for good. Accounts are followed by those inside them, so of many the last answer serves.
    async fn is_purged(&self, owner: AccountId, owners: &mut Owners) -> Result<bool, StoreError> {
        if let Some((last, purged)) = &owners.last
            && *last == owner
        {
            return Ok(*purged);
        }
        let purged = self.store.purged(&owner).await?.is_some();
        owners.last = Some((owner, purged));
        Ok(purged)
    }

    /// Writes down what is due of an account, if anything is.
    pub(super) async fn observe(self: &Arc<Self>, account: &AccountId) -> Result<(), StoreError> {
        let Some(mut snapshot) = self.store.read(account, &[]).await? else {
            return Ok(());
        };
        if snapshot.book.blocks.iter().any(|block| block.expired) {
            // What calls hold of it is kept for them until they end. What is merely leased is held for nobody: it is asked for, and
            // of replicas that do not answer, it lapses but for what they last said that they hold.
            self.give_back(account).await?;
            self.lapse(account).await;
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
