//! Runs commands on books: read, apply, write if nobody was faster, else again. The only writer of books, for every edge and
//! for the steward. No rules here (they are in [`crate::ledger`]) and no engine: whoever holds an account in memory hears of
//! a change from [`Store::changes`].

pub mod recall;
pub mod remember;

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::id::AccountId;
pub use crate::ledger::Configure;
use crate::ledger::{
    Action, Applied, Book, Claim, Command, Entry, Given, Rejected, Seen, apply, read_on,
};
use crate::store::{Commit, History, Snapshot, Store, StoreError, Stored};
use recall::Recall;
use remember::{Remembered, Stands};

/// How often a command is tried against faster writers. Each lost try means that another command of the same account went
/// through, so this many at once on one account is a caller that should serialise them.
const TRIES_MAX: u32 = 64;

/// Runs commands. Cheap to clone.
#[derive(Clone)]
pub struct Books {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) clock: Clock,
    pub(crate) recall: Recall,
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its entry; for a repeated command, the one it got the first time. `None` if it wrote none, as when nobody asked.
    pub entry: Option<Entry>,
    /// It had been carried out before and changed nothing now.
    pub replayed: bool,
    /// The book as it stands, at its version. `claims` is empty.
    pub snapshot: Snapshot,
}

/// Why a command was not carried out. Nothing was changed, except as [`StoreError::Unavailable`] says.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The rules say no.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The idempotency key stands for another command.
    #[error("idempotency key `{0}` was used for another request; give this one a key of its own")]
    KeyReused(String),
    /// The order was counted, under another idempotency key.
    #[error("order `{0}` was counted already, under another idempotency key")]
    OrderReused(String),
    /// The account exists.
    #[error("account `{0}` exists already")]
    Exists(AccountId),
    /// No policy of that name.
    #[error("there is no policy `{0}`; the known ones are: {1}")]
    NoPolicy(String, String),
    /// The overrides do not go with the policy: each problem names its field.
    #[error("with these overrides: {0}")]
    Overrides(String),
    /// No tenant of that name.
    #[error("there is no tenant `{0}`; the known ones are: {1}")]
    NoTenant(String, String),
    /// Too many others wrote at the same time.
    #[error("account `{0}` is being changed by too many at once; try again")]
    Contended(AccountId),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Books {
    /// Over a store. What is written is remembered, too.
    pub fn new(store: Arc<dyn Store>, catalog: Arc<Catalog>, clock: Clock, recall: Recall) -> Self {
        Self {
            store,
            catalog,
            clock,
            recall,
        }
    }

    /// Opens an account. With an idempotency key, opening it again in the same words gives it as it stands.
    pub async fn open(
        &self,
        account: AccountId,
        unit: String,
        name: Option<String>,
        policy: Option<String>,
        overrides: crate::policy::Overrides,
        idempotency_key: Option<String>,
    ) -> Result<Done, CommandError> {
        let configure = Configure {
            name,
            policy,
            overrides: Some(overrides),
            ..Configure::default()
        };
        self.open_as(account, unit, configure, idempotency_key)
            .await
    }

    /// The same with all that an account can be configured with. Its name is its id, and its policy the default, if they are not given.
    pub async fn open_as(
        &self,
        account: AccountId,
        unit: String,
        configure: Configure,
        idempotency_key: Option<String>,
    ) -> Result<Done, CommandError> {
        self.check_names(&configure)?;
        let Configure {
            name,
            policy,
            overrides,
            ..
        } = configure.clone();
        let policy = policy.unwrap_or_else(|| crate::catalog::DEFAULT_POLICY.into());
        self.check_policy(&policy)?;
        let action = Action::Configure(Configure {
            name: Some(name.unwrap_or_else(|| account.to_string())),
            policy: Some(policy.clone()),
            overrides: Some(overrides.unwrap_or_default()),
            ..configure
        });
        let command = Command {
            idempotency_key,
            action,
        };
        if let Some(standing) = self.store.read(&account, &command.claims()).await? {
            return match command.seen_before(&standing.claims) {
                Seen::Before(entry) if standing.book.unit == unit => Ok(replay(*entry, standing)),
                _ => Err(CommandError::Exists(account)),
            };
        }
        if let missing @ StoreError::Unavailable(_) = self.recall.missing(&account) {
            return Err(missing.into());
        }
        let book = Book::new(account.clone(), unit, policy, self.clock.now().wall);
        let fresh = Snapshot {
            version: 0,
            book,
            spend: crate::money::Amount::ZERO,
            unleased: crate::money::Amount::ZERO,
            lost: crate::money::Amount::ZERO,
            claims: Vec::new(),
        };
        match self.attempt(fresh, &command).await? {
            Some(done) => Ok(done),
            None => Err(CommandError::Exists(account)),
        }
    }

    /// Carries out a command, once.
    ///
    /// Dropping the future may leave it carried out or not; the same command under the same key then gives the answer.
    pub async fn run(&self, account: &AccountId, command: Command) -> Result<Done, CommandError> {
        if let Action::Configure(configure) = &command.action {
            self.check_names(configure)?;
        }
        let claims = command.claims();
        for _ in 0..TRIES_MAX {
            let snapshot = self.store.read(account, &claims).await?;
            let snapshot = snapshot.ok_or_else(|| self.recall.missing(account))?;
            match command.seen_before(&snapshot.claims) {
                Seen::Before(entry) => return Ok(replay(*entry, snapshot)),
                Seen::KeyReused => {
                    return Err(CommandError::KeyReused(
                        command.idempotency_key.unwrap_or_default(),
                    ));
                }
                Seen::OrderReused => {
                    let order = claims.last().and_then(|claim| claim.strip_prefix("o:"));
                    return Err(CommandError::OrderReused(order.unwrap_or_default().into()));
                }
                Seen::Never => {}
            }
            if let Some(done) = self.attempt(snapshot, &command).await? {
                return Ok(done);
            }
        }
        Err(CommandError::Contended(account.clone()))
    }

    /// Changes the rules of an account into what `edit` makes of its book as it stands: for changes of some fields only, or
    /// only if a field is still what somebody saw. `edit` may be asked several times, each time with a newer book. It moves no
    /// money and so has no idempotency key: repeated, it changes nothing.
    pub async fn configure<E: From<CommandError>>(
        &self,
        account: &AccountId,
        edit: impl Fn(&Book) -> Result<Configure, E> + Send + Sync,
    ) -> Result<Done, E> {
        for _ in 0..TRIES_MAX {
            let read = self.store.read(account, &[]).await;
            let read = read.map_err(CommandError::from)?;
            let snapshot = read.ok_or_else(|| CommandError::from(self.recall.missing(account)))?;
            let configure = edit(&snapshot.book)?;
            self.check_names(&configure)?;
            let command = Command {
                idempotency_key: None,
                action: Action::Configure(configure),
            };
            if let Some(done) = self.attempt(snapshot, &command).await? {
                return Ok(done);
            }
        }
        Err(CommandError::Contended(account.clone()).into())
    }

    /// One try; `None` if somebody else wrote first.
    async fn attempt(
        &self,
        read: Snapshot,
        command: &Command,
    ) -> Result<Option<Done>, CommandError> {
        // The command may name another policy: its rules apply to the very entry that names it.
        let policy = self.catalog.policy_of(&command.named(&read.book));
        if let Action::Configure(configure) = &command.action
            && (configure.policy.is_some() || configure.overrides.is_some())
        {
            let problems = policy.problems();
            if !problems.is_empty() {
                return Err(CommandError::Overrides(problems.join("; ")));
            }
        }
        let now = self.clock.now().wall;
        let corrects = self.corrected(&read.book, command).await?;
        let given = Given {
            spent: read.spent(),
            corrects: corrects.as_ref(),
        };
        let applied = apply(&read.book, given, command, &policy, now)?;
        let entry = applied.answer().cloned();
        let Applied {
            book,
            entries,
            events,
            credit_delta,
        } = applied;
        if book == read.book {
            return Ok(Some(Done {
                entry: None,
                replayed: false,
                snapshot: read,
            }));
        }
        let claim = |name| {
            let fingerprint = command.fingerprint();
            entry
                .clone()
                .map(|entry| (name, Claim { fingerprint, entry }))
        };
        let claims = command.claims().into_iter().filter_map(claim).collect();
        let commit = Commit {
            expected: read.version,
            book: book.clone(),
            credit_delta,
            entries: entries.clone(),
            events: events.clone(),
            claims,
            restore: None,
        };
        let history = self.store.history(&book.account).await?;
        if read.version > 0 && !self.recall.knows(&book.account, read.version) {
            // What is written goes on from what is remembered, with the keys that stand there: should the store lose all of it, and this
            // process die right after, its answer was not given for nothing.
            self.learn_first(&read, history).await?;
        }
        let Stored::At(version) = self.store.commit(commit).await? else {
            return Ok(None);
        };
        let unleased = read.unleased.saturating_add(credit_delta);
        let snapshot = Snapshot {
            version,
            book,
            spend: read.spend,
            unleased,
            lost: read.lost,
            claims: Vec::new(),
        };
        self.recall
            .wrote(read.version, &snapshot, &entries, &events, history)
            .await;
        Ok(Some(Done {
            entry,
            replayed: false,
            snapshot,
        }))
    }

    /// Remembers what a command is about to be written on.
    async fn learn_first(&self, read: &Snapshot, history: History) -> Result<(), StoreError> {
        let account = &read.book.account;
        let stands = Stands {
            tail: self.tail(&read.book).await?,
            keys: self.store.keys(account).await?,
            snapshot: read.clone(),
        };
        let is_late = || {
            // Another command through here was written meanwhile, and is remembered: this one meets it, and is tried again.
            self.recall.knows(account, read.version) && self.recall.is_compared(account, history)
        };
        if self.learn(stands, history, false).await || is_late() {
            return Ok(());
        }
        if self.recall.is_compared(account, history) {
            self.recall.doubt_all();
        } else {
            self.recall.doubt();
        }
        Err(StoreError::Unavailable(format!(
            "the store may have lost commands or keys of `{account}`, which are being put back"
        )))
    }

    /// The last entries of a book as it was read.
    pub(crate) async fn tail(&self, book: &Book) -> Result<Vec<Entry>, StoreError> {
        let tail = self.tail_after(book, Remembered::tail_after(book));
        let tail = tail.await?;
        match read_on(book, &tail) {
            Some(after) => self.tail_after(book, after).await,
            None => Ok(tail),
        }
    }

    async fn tail_after(&self, book: &Book, after: u64) -> Result<Vec<Entry>, StoreError> {
        let count = usize::try_from(book.entries.saturating_sub(after)).unwrap_or(usize::MAX);
        let tail = self.store.entries(&book.account, after, count).await;
        let mut tail = tail?;
        // It may have gone on since.
        tail.retain(|entry| entry.sequence <= book.entries);
        Ok(tail)
    }

    /// Remembers what stands, as it was read in this history. False if what is remembered was not `compared` with that history and is
    /// more than what stands: then it is not forgotten, but is to be compared and put back.
    pub(crate) async fn learn(&self, stands: Stands, history: History, compared: bool) -> bool {
        let account = &stands.snapshot.book.account;
        if !compared && let Some(ours) = self.recall.get(account).await {
            let is_due = !self.recall.is_compared(account, history);
            if is_due || ours.is_more_than(&stands) {
                return false;
            }
        }
        let Stands {
            snapshot,
            tail,
            keys,
        } = stands;
        let known = self.recall.get(&snapshot.book.account).await;
        let read = Remembered::read(known.as_ref(), &snapshot, tail, keys);
        self.recall.keep(Remembered {
            history: Some(history),
            events: known.map(|known| known.events).unwrap_or_default(),
            ..read
        });
        true
    }

    /// The entry that a correction names; `None` for other commands, and if there is none.
    async fn corrected(&self, book: &Book, command: &Command) -> Result<Option<Entry>, StoreError> {
        let Action::Correct { sequence, .. } = command.action else {
            return Ok(None);
        };
        let Some(after) = sequence.checked_sub(1) else {
            return Ok(None);
        };
        let mut entries = self.store.entries(&book.account, after, 1).await?;
        entries.retain(|entry| entry.sequence == sequence);
        Ok(entries.pop())
    }

    /// Why an account is not in the store: because there is none, or because the store has lost it.
    pub fn missing(&self, account: &AccountId) -> StoreError {
        self.recall.missing(account)
    }

    fn check_names(&self, configure: &Configure) -> Result<(), CommandError> {
        if let Some(policy) = &configure.policy {
            self.check_policy(policy)?;
        }
        let current = self.catalog.current();
        match &configure.tenant {
            Some(tenant) if !tenant.is_empty() && !current.tenants.contains_key(tenant) => {
                let known: Vec<_> = current.tenants.keys().map(String::as_str).collect();
                Err(CommandError::NoTenant(tenant.clone(), known.join(", ")))
            }
            _ => Ok(()),
        }
    }

    fn check_policy(&self, name: &str) -> Result<(), CommandError> {
        let current = self.catalog.current();
        if current.policy(name).is_some() {
            return Ok(());
        }
        let known: Vec<_> = current.policy_names().collect();
        Err(CommandError::NoPolicy(name.into(), known.join(", ")))
    }
}

fn replay(entry: Entry, snapshot: Snapshot) -> Done {
    Done {
        entry: Some(entry),
        replayed: true,
        snapshot: Snapshot {
            claims: Vec::new(),
            ..snapshot
        },
    }
}
