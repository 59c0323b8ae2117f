//! The accounts inside an account: what is left of its plans and of its budgets. Each has a line of its own, as every account has;
//! here they are found, opened and taken up for the one that they are inside of.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Sync;
use super::line::inner_policy;
use crate::books::CommandError;
use crate::clock::Timestamp;
use crate::engine::{Account, BudgetAsk, Inner, Key};
use crate::id::AccountId;
use crate::ledger::{Action, Book, Command};
use crate::money::Amount;
use crate::policy::{Budget, Overrides, Policy, Span};
use crate::refusal::{Reason, Refusal};
use crate::store::StoreError;

/// How long a plan that has no account yet is not looked for again. It is told when it gets one; this is for a word that was lost.
const ABSENT: Duration = Duration::from_secs(1);

impl Sync {
    /// The policy that a book goes by; one inside another goes by its owner's, as far as it has one.
    pub(super) fn policy_of(&self, book: &Book) -> Policy {
        let Some(owner) = book.account.owner() else {
            return self.catalog.policy_of(book);
        };
        match self.engine.account(&owner) {
            Some(owner) => inner_policy(&owner.rules().policy),
            None => inner_policy(&self.catalog.policy_of(book)),
        }
    }

    /// The same before the account is loaded. Its owner may not be, as when what an earlier run left open is taken up: what becomes of
    /// that is the owner's policy all the same.
    pub(super) async fn policy_to_load(&self, book: &Book) -> Result<Policy, StoreError> {
        if let Some(owner) = book.account.owner()
            && self.engine.account(&owner).is_none()
            && let Some(snapshot) = self.note(self.store.read(&owner, &[]).await)?
        {
            return Ok(inner_policy(&self.catalog.policy_of(&snapshot.book)));
        }
        Ok(self.policy_of(book))
    }

    /// Takes up the plans that an account has and that are not loaded with it yet.
    ///
    /// Boxed: loading an account takes up its plans, which are accounts.
    pub(super) fn take_up_plans<'a>(
        self: &'a Arc<Self>,
        account: &'a Arc<Account>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let rules = account.rules().clone();
            let Some(special) = &rules.special else {
                return Ok(());
            };
            for plan in &special.plans {
                if account.inner(&plan.id).is_some() {
                    continue;
                }
                match self.account(&plan.id).await? {
                    Some(inner) => drop(account.put_inner(&inner)),
                    None => {
                        let until = self.clock.now().mono.plus(ABSENT);
                        account.no_inner(&plan.id, until);
                    }
                }
            }
            Ok(())
        })
    }

    /// An account inside a loaded one has changed: it may be new, and its owner has waited for it.
    pub(super) async fn plan_changed(self: &Arc<Self>, owner: &AccountId, id: &AccountId) {
        let Some(entry) = self.entry(owner) else {
            return;
        };
        let rules = entry.account.rules().clone();
        let plans = rules.special.iter().flat_map(|special| &special.plans);
        if plans.clone().all(|plan| plan.id != *id) {
            return;
        }
        if let Err(error) = self.take_up_plans(&entry.account).await {
            tracing::warn!(account = %id, %error, "a plan could not be taken up; the next change of its owner tries again");
        }
    }

    /// A budget's account for the time that an instant belongs to; opened with the first call of that time.
    pub(super) async fn budget(
        self: &Arc<Self>,
        owner: &Arc<Account>,
        id: &AccountId,
        budget: &Budget,
    ) -> Result<Arc<Inner>, Refusal> {
        let unavailable = |error: CommandError| {
            tracing::warn!(account = %id, %error, "a budget could not be opened; calls that count to it are refused");
            Refusal::after(Reason::StateUnavailable, super::STORE_RETRY)
        };
        let opened = self.open_budget(owner, id, budget).await;
        let account = opened.map_err(unavailable)?;
        Ok(owner.put_inner(&account))
    }

    async fn open_budget(
        self: &Arc<Self>,
        owner: &Arc<Account>,
        id: &AccountId,
        budget: &Budget,
    ) -> Result<Arc<Account>, CommandError> {
        let stands = self.store.read(id, &[]).await?;
        let given = stands
            .as_ref()
            .map_or(Amount::ZERO, |stands| stands.book.lifetime_credit);
        if stands.is_none() {
            let unit = owner.rules().unit.clone();
            let (books, overrides) = (&self.books, Overrides::default());
            let opened = books
                .open(id.clone(), unit, None, None, overrides, None)
                .await;
            match opened {
                // Another replica was faster.
                Ok(_) | Err(CommandError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if given != budget.amount {
            self.fill_budget(id, given, budget.amount).await?;
        }
        let missing = || CommandError::Store(StoreError::NoAccount(id.clone()));
        let account = self.account(id).await?.ok_or_else(missing)?;
        Ok(account)
    }

    /// Gives a budget what it may spend, or changes that. Every replica that finds so does the same, under the same key: once.
    async fn fill_budget(
        &self,
        id: &AccountId,
        given: Amount,
        amount: Amount,
    ) -> Result<(), CommandError> {
        let entries = match self.store.read(id, &[]).await? {
            Some(stands) if stands.book.lifetime_credit == given => stands.book.entries,
            // Somebody else has done it.
            _ => return Ok(()),
        };
        let change = amount.saturating_sub(given);
        if change == Amount::ZERO {
            return Ok(());
        }
        let command = Command {
            idempotency_key: Some(format!("budget:{entries}:{given}:{amount}")),
            action: Action::Adjust {
                amount: change,
                note: "budget".into(),
            },
        };
        self.books.run(id, command).await.map(drop)
    }
}

impl super::SyncHandle {
    /// Takes up the plans of an account that are not loaded with it.
    pub(crate) async fn plans(&self, account: &Arc<Account>) -> Result<(), Refusal> {
        let unavailable = |_| Refusal::after(Reason::StateUnavailable, super::STORE_RETRY);
        self.0.take_up_plans(account).await.map_err(unavailable)
    }

    /// The budgets' accounts that a call of a key counts to, at an instant: taken up, and opened if it is the first of its time.
    pub(crate) async fn budgets(
        &self,
        key: &Key,
        capability: Option<&str>,
        at: Timestamp,
    ) -> Result<Vec<BudgetAsk>, Refusal> {
        let owner = key.account();
        let mut asks = Vec::new();
        for wanted in budgets_of(key, capability, at)? {
            let inner = match owner.inner(&wanted.id) {
                Some(inner) => inner,
                None => self.0.budget(owner, &wanted.id, &wanted.budget).await?,
            };
            let ends = wanted.ends;
            asks.push(BudgetAsk { inner, ends });
        }
        Ok(asks)
    }
}

/// A budget that a call counts to, in its time.
pub(crate) struct Wanted {
    pub(crate) id: AccountId,
    pub(crate) budget: Budget,
    pub(crate) ends: Option<Timestamp>,
}

/// The budgets that a call counts to: the key's, then the account's. A budget whose account cannot have a name, as its owner's is too
/// long for one inside it, lets nothing pass: it could not be kept.
pub(crate) fn budgets_of(
    key: &Key,
    capability: Option<&str>,
    at: Timestamp,
) -> Result<Vec<Wanted>, Refusal> {
    let rules = key.account().rules();
    let own = key
        .record()
        .budgets
        .iter()
        .map(|budget| (Some(key.id()), budget));
    let all = rules.special.iter().flat_map(|special| &special.budgets);
    let mut wanted = Vec::new();
    for (of, budget) in own.chain(all.map(|budget| (None, budget))) {
        let pattern = budget.capability.as_deref();
        if pattern.is_some_and(|pattern| !crate::engine::matches(pattern, capability)) {
            continue;
        }
        let span = budget.period.span(at);
        let of = of.map_or("all".into(), |key| format!("key:{key}"));
        let of = pattern.map_or(of.clone(), |pattern| format!("{of}:{}", named(pattern)));
        let owner = key.account().id();
        let id = owner
            .inner(&format!("{of}:{}", span.name))
            .or_else(|_| owner.inner(&format!("{}:{}", named(&of), span.name)))
            .map_err(|_| Refusal::new(Reason::KeyLimitExceeded))?;
        wanted.push(Wanted {
            id,
            budget: budget.clone(),
            ends: span.ends,
        });
    }
    Ok(wanted)
}

/// When the time of a budget was over that an account inside another one is kept for; `None` if it is kept for no budget, or for one
/// that never ends. Plans have no `:` in their names, budgets have.
pub(super) fn over_since(id: &AccountId) -> Option<Timestamp> {
    let (_, span) = id.inner_name()?.rsplit_once(':')?;
    Span::named(span)?.ends
}

/// A short name for a text of any length and letters.
fn named(text: &str) -> String {
    crate::engine::digest(text.as_bytes())
        .chars()
        .take(16)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_of_a_budget_tells_when_its_time_was_over() {
        let over = |text: &str| over_since(&AccountId::stored(text).unwrap());
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        assert_eq!(over("a!key:k:2026-11"), at("2026-12-01T00:00:00Z"));
        assert_eq!(over("a!all:2026-12-31"), at("2027-01-01T00:00:00Z"));
        let hour = "a!key:org:1:0123456789abcdef:2026-11-24T23";
        assert_eq!(over(hour), at("2026-11-25T00:00:00Z"));
        for other in [
            "a",
            "a:2026-11",
            "a!points",
            "a!2026-11",
            "a!key:k:total",
            "a!key:2026-11:x",
        ] {
            assert_eq!(over(other), None, "{other}");
        }
    }
}
