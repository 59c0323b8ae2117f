//! The replica's side of the protocol (DESIGN.md section 5): takes accounts up, publishes what was spent on a schedule, keeps
//! leases filled, follows changes. The state of each account is a sans-IO machine ([`mod@line`]); this drives it against a
//! [`Store`].
//!
//! A request waits here only for the first load of its account, or when a lease is empty, for [`Settings::refill_wait`] at
//! most. Many that wait for one account wait on one message.

mod drive;
mod inner;
pub mod line;
mod rejoin;
mod sweep;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, OnceCell, Semaphore};

pub(crate) use drive::ROUNDS_PER_LOOK;
pub(crate) use inner::budgets_of;
pub use line::Times;
pub(crate) use sweep::PAGE as SWEPT_PER_SECOND;

use crate::books::Books;
use crate::catalog::Catalog;
use crate::clock::{Clock, Monotonic, Now};
use crate::engine::{Account, Engine, Fingerprint, Identified, Key, digest};
use crate::id::{AccountId, KeyId, ReplicaId};
use crate::ledger::Command;
use crate::local::memory::MemoryError;
use crate::money::Amount;
use crate::policy::Policy;
use crate::refusal::{Reason, Refusal};
use crate::store::{LEASE_MAX, Opened, Publish, Published, Scarce, Store, StoreError};
use crate::telemetry::Metrics;
use line::{Give, Line, Need, Own, rules};

/// How many look-ups of unknown secrets may be under way: a flood of invented keys must not become a flood of the store.
const LOOKUPS_MAX: usize = 64;

/// How often a key is read again because its account changed meanwhile. An account changes by commands, so this many in a row
/// is a flood of them.
const KEY_READS_MAX: u32 = 8;

/// How long a refused call is told to wait for the store.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How long to wait for other replicas to give back what they do not need, before asking again.
const SCARCE_WAIT: Duration = Duration::from_millis(20);

/// What the schedule goes by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The times of the protocol.
    pub times: Times,
    /// The longest that a call waits for a lease.
    pub refill_wait: Duration,
    /// The longest that a call waits for its account to be taken up.
    pub load_wait: Duration,
    /// An account that has been at rest for so long is let go.
    pub unload_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let times = Times {
            interval: Duration::from_millis(100),
            lease: Duration::from_secs(30),
            margin: Duration::from_secs(1),
            ahead: Duration::from_secs(10),
            idle: Duration::from_secs(10),
            retire: Duration::from_secs(3_600),
        };
        Self {
            times,
            refill_wait: Duration::from_millis(250),
            load_wait: Duration::from_secs(2),
            unload_after: Duration::from_secs(600),
        }
    }
}

/// The sync of one replica. Shared by all edges.
#[derive(Clone)]
pub struct SyncHandle(Arc<Sync>);

struct Sync {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    catalog: Arc<Catalog>,
    books: Books,
    clock: Clock,
    replica: ReplicaId,
    settings: Settings,
    metrics: Metrics,
    lines: DashMap<AccountId, Arc<Entry>, foldhash::fast::RandomState>,
    /// Accounts being taken up; each entry lasts as long as somebody waits for it.
    loads: DashMap<AccountId, Arc<OnceCell<bool>>, foldhash::fast::RandomState>,
    lookups: Semaphore,
    /// Held by who keeps documents on disk.
    remembering: tokio::sync::Mutex<()>,
    status: Status,
}

struct Entry {
    account: Arc<Account>,
    line: Mutex<Line>,
    /// What waiting calls need, together.
    waiting: AtomicI64,
    /// The least that one of them needs; of some that left since, until all have.
    least: AtomicI64,
    /// An answer came, or a book.
    changed: Notify,
    observing: AtomicBool,
    rejoining: AtomicBool,
    /// In running time: since then silent replicas need not be looked for again.
    lapsed: AtomicU64,
    /// In running time: since then the others need not be told again that a limit is used up.
    crowded: AtomicU64,
}

#[derive(Default)]
struct Status {
    last_ok: AtomicU64,
    failing: AtomicBool,
    /// The prices and policies in force may be older than the store's.
    documents_due: AtomicBool,
    store_errors: AtomicU64,
    refill_waits: AtomicU64,
    /// In running time: since then every word to the store was answered; 0 while it is away.
    reachable_since: AtomicU64,
    /// Answers that showed that the store had lost spend of this replica.
    healed: AtomicU64,
    /// Replicas whose lease was taken back, and that were retired, by this one.
    lapsed: AtomicU64,
    retired: AtomicU64,
    /// Some accounts could not be compared with the store, or taken up: to be tried again.
    unreconciled: AtomicBool,
    /// Accounts are being compared with another history of the store: a key that is not there may have been lost.
    restoring: AtomicBool,
    /// Commands that this replica put back into a store that had lost them.
    restored: AtomicU64,
    /// Free leases as of the last round, in nano-units.
    leased: AtomicI64,
    held: AtomicI64,
    /// As of the last look at all accounts.
    fenced: AtomicU64,
    lost: AtomicI64,
    stalest: AtomicU64,
    beyond: AtomicI64,
    beyond_most: AtomicI64,
}

/// What a sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// How many accounts had something to publish.
    pub accounts: usize,
}

/// What this replica knows of an account that the store does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveView {
    /// Held by calls in flight here.
    pub held: Amount,
    /// Spent here and not published.
    pub unpublished: Amount,
}

/// How the sync is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncStatus {
    /// How long ago the store last answered; `None` if it never has.
    pub last_ok_age: Option<Duration>,
    /// Whether the last message to the store failed.
    pub failing: bool,
    /// Accounts that are loaded.
    pub accounts: usize,
    /// Failed messages since the start.
    pub store_errors: u64,
    /// Calls that had to wait for a lease since the start.
    pub refill_waits: u64,
    /// Answers that showed that the store had lost spend of this replica, which was published again; since the start.
    pub healed: u64,
    /// Commands that were put back into a store that had lost them, since the start.
    pub restored: u64,
    /// Replicas whose lease this one took back as they had fallen silent, since the start.
    pub lapsed: u64,
    /// Those that it retired.
    pub retired: u64,
    /// Accounts whose last answer came from a history of the store that is too young to grant anything.
    pub fenced: usize,
    /// Spend that the store has lost and that nobody has published again yet, over the accounts loaded here.
    pub lost: Amount,
    /// Taken beyond leases while the store is away, over all accounts, as of the last look at them.
    pub beyond: Amount,
    /// The most that may be, over the accounts loaded here whose policies say so.
    pub beyond_most: Amount,
    /// The account that was heard of longest ago among those with a lease: for how long not.
    pub stalest: Duration,
    /// Usage slots that a `kill -9` would take: they are not in the counter file.
    pub unprotected: u64,
    /// Books that were not written to disk to be remembered, as too many waited; since the start.
    pub unremembered: u64,
    /// Leased here and not spent, over all accounts, as of the last round.
    pub leased: Amount,
    /// Held here, over all accounts, as of the last round.
    pub held: Amount,
}

impl SyncHandle {
    /// A sync that does nothing until [`SyncHandle::run`] is polled.
    pub fn new(
        books: Books,
        engine: Arc<Engine>,
        replica: ReplicaId,
        settings: Settings,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Sync {
            store: Arc::clone(&books.store),
            engine,
            catalog: Arc::clone(&books.catalog),
            clock: books.clock.clone(),
            books,
            replica,
            settings,
            metrics,
            lines: DashMap::default(),
            loads: DashMap::default(),
            lookups: Semaphore::new(LOOKUPS_MAX),
            remembering: tokio::sync::Mutex::default(),
            status: Status::default(),
        }))
    }

    /// Whose secret this is: from memory, or once from the store.
    ///
    /// Cancel-safe: a load that its caller gives up is taken over by the next one that waits for it.
    pub async fn identify(&self, secret: &[u8], now: Now) -> Result<Arc<Key>, Refusal> {
        match self.0.engine.identify(secret, now) {
            Identified::Key(key) => Ok(key),
            Identified::Unknown => {
                self.0.metrics.unknown_key_hit();
                Err(Refusal::new(Reason::KeyUnknown))
            }
            Identified::NotLoaded(fingerprint) => {
                let look_up = self.0.look_up(secret, fingerprint, now);
                let unavailable = || Refusal::after(Reason::StateUnavailable, STORE_RETRY);
                match tokio::time::timeout(self.0.settings.load_wait, look_up).await {
                    Err(_) | Ok(Err(_)) => Err(unavailable()),
                    Ok(Ok(Some(key))) => Ok(key),
                    Ok(Ok(None)) => Err(Refusal::new(Reason::KeyUnknown)),
                }
            }
        }
    }

    /// A loaded account, taken up if need be; `None` if there is none.
    pub async fn account(&self, id: &AccountId) -> Result<Option<Arc<Account>>, StoreError> {
        self.0.account(id).await
    }

    /// A key of an account by its id, taken up if need be; `None` if there is none.
    pub async fn key(
        &self,
        account: &AccountId,
        id: &KeyId,
    ) -> Result<Option<Arc<Key>>, StoreError> {
        if let Some(key) = self.0.engine.key(account, id) {
            return Ok(Some(key));
        }
        let Some(account) = self.0.account(account).await? else {
            return Ok(None);
        };
        self.0.take_up_key(None, &account, id).await
    }

    /// Waits until the store has answered a request for more of an account's money, once. `Err` if there is no hope of more
    /// in time; `Ok` means "try again".
    pub async fn refill(&self, account: &Arc<Account>, need: Amount) -> Result<(), Refusal> {
        self.0.refill(account, need, need).await
    }

    /// The same where less helps, too: a plan pays with what it has.
    pub async fn refill_some(&self, account: &Arc<Account>, need: Amount) -> Result<(), Refusal> {
        self.0.refill(account, need, Amount::from_nanos(1)).await
    }

    /// The longest that a call waits for an account to be taken up.
    pub fn load_wait(&self) -> Duration {
        self.0.settings.load_wait
    }

    /// The longest that a call waits for a lease.
    pub fn refill_wait(&self) -> Duration {
        self.0.settings.refill_wait
    }

    /// Publishes everything that has changed and waits for the store's word.
    pub async fn sync_now(&self) -> Result<SyncReport, StoreError> {
        let report = self.0.round(drive::Round::Everything).await?;
        // An account whose message was on its way took no part in the round; what was settled behind that message is said now.
        let accounts: Vec<AccountId> = self.0.lines.iter().map(|line| line.key().clone()).collect();
        for account in &accounts {
            self.0.flush(account).await?;
        }
        Ok(report)
    }

    /// Publishes one account's spend and waits for the store's word. Nothing to do for one that is not loaded.
    pub async fn flush(&self, account: &AccountId) -> Result<(), StoreError> {
        self.0.flush(account).await
    }

    /// Publishes one account's spend, and asks all replicas to give back at once what they may still spend of it and do not hold. What
    /// is then still out is in flight, or with replicas that are silent. Others answer in their own time.
    pub async fn give_back(&self, account: &AccountId) -> Result<(), StoreError> {
        self.0.give_back(account).await
    }

    /// Keeps on disk what is in force now of prices, policies and licences, for a start without the store. It is kept anyhow once the
    /// change is heard of; this is for who is about to answer that a licence is taken back.
    pub(crate) async fn remember_documents(&self) {
        self.0.remember_documents().await;
    }

    /// Takes up a changed book or changed keys at once: after a command through this replica.
    pub async fn refresh(&self, account: &AccountId) -> Result<(), StoreError> {
        self.0.refresh(account, None).await
    }

    /// Writes down what is due of an account, loaded or not: what has expired, and what follows from its deadlines. For whoever is
    /// about to read it.
    pub async fn observe(&self, account: &AccountId) -> Result<(), StoreError> {
        self.0.observe(account).await
    }

    /// What this replica knows of an account that the store does not.
    pub fn live(&self, account: &AccountId) -> LiveView {
        let Some(entry) = self.0.entry(account) else {
            return LiveView::default();
        };
        let mut line = entry.line();
        line.collect(&entry.account, &self.0.engine, self.0.clock.now());
        LiveView {
            held: line.held(&entry.account),
            unpublished: line.unpublished(),
        }
    }

    /// How the sync is doing.
    pub fn status(&self) -> SyncStatus {
        let status = &self.0.status;
        let last_ok = status.last_ok.load(Relaxed);
        let age = || {
            self.0
                .clock
                .now()
                .mono
                .since(Monotonic::from_nanos(last_ok))
        };
        SyncStatus {
            last_ok_age: (last_ok > 0).then(age),
            failing: status.failing.load(Relaxed),
            accounts: self.0.lines.len(),
            store_errors: status.store_errors.load(Relaxed),
            refill_waits: status.refill_waits.load(Relaxed),
            healed: status.healed.load(Relaxed),
            restored: status.restored.load(Relaxed),
            lapsed: status.lapsed.load(Relaxed),
            retired: status.retired.load(Relaxed),
            fenced: usize::try_from(status.fenced.load(Relaxed)).unwrap_or(usize::MAX),
            lost: Amount::from_nanos(status.lost.load(Relaxed)),
            beyond: Amount::from_nanos(status.beyond.load(Relaxed)),
            beyond_most: Amount::from_nanos(status.beyond_most.load(Relaxed)),
            stalest: Duration::from_nanos(status.stalest.load(Relaxed)),
            unprotected: self.0.engine.counters().unprotected(),
            unremembered: self.0.books.recall.dropped(),
            leased: Amount::from_nanos(status.leased.load(Relaxed)),
            held: Amount::from_nanos(status.held.load(Relaxed)),
        }
    }

    /// Runs the schedule and follows changes until dropped. Each part is restarted if it dies, and says so.
    pub async fn run(&self) {
        drive::run(Arc::clone(&self.0)).await;
    }

    /// Publishes everything and gives all leases back: the last word before the process ends. A store that is away is asked
    /// again. `Err` if it did not take everything within `patience`; what was not taken is then what this replica's next start,
    /// or nobody, publishes.
    pub async fn close(&self, patience: Duration) -> Result<SyncReport, StoreError> {
        let mut failed = None;
        match tokio::time::timeout(patience, self.0.leave(&mut failed)).await {
            Ok(report) => report,
            Err(_) => Err(failed.unwrap_or_else(|| {
                StoreError::Unavailable(format!("no answer within {patience:?}"))
            })),
        }
    }
}

impl Entry {
    fn need(&self) -> Need {
        let all = self.waiting.load(SeqCst);
        Need {
            all: Amount::from_nanos(all),
            least: Amount::from_nanos(self.least.load(SeqCst).min(all)),
        }
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes part of what is waited for back when its caller stops waiting, however it does.
struct Waiting<'a>(&'a Entry, i64);

impl<'a> Waiting<'a> {
    fn new(entry: &'a Entry, need: Amount, least: Amount) -> Self {
        // More than one message may ask for is not granted anyway, and a sum of such amounts would leave the range.
        let need = need.min(LEASE_MAX).nanos();
        entry.waiting.fetch_add(need, SeqCst);
        entry.least.fetch_min(need.min(least.nanos()), SeqCst);
        Self(entry, need)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(self.1, SeqCst) == self.1 {
            self.0.least.store(i64::MAX, SeqCst);
        }
    }
}

impl Sync {
    fn entry(&self, account: &AccountId) -> Option<Arc<Entry>> {
        self.lines.get(account).map(|entry| Arc::clone(&entry))
    }

    async fn look_up(
        self: &Arc<Self>,
        secret: &[u8],
        fingerprint: Fingerprint,
        now: Now,
    ) -> Result<Option<Arc<Key>>, StoreError> {
        let closed = |_| StoreError::Unavailable("shutting down".into());
        let _permit = self.lookups.acquire().await.map_err(closed)?;
        // Another may have looked meanwhile.
        match self.engine.identify(secret, now) {
            Identified::Key(key) => return Ok(Some(key)),
            Identified::Unknown => return Ok(None),
            Identified::NotLoaded(_) => {}
        }
        let found = self.note(self.store.find_key(&digest(secret)).await)?;
        let Some((account, id)) = found else {
            if self.status.restoring.load(Relaxed) {
                return Err(StoreError::Unavailable(
                    "the store has lost accounts, which are being put back".into(),
                ));
            }
            self.engine.remember_unknown(fingerprint, now);
            return Ok(None);
        };
        let Some(account) = self.account(&account).await? else {
            return Ok(None);
        };
        self.take_up_key(Some(fingerprint), &account, &id).await
    }

    /// A key as the store has it. If the account changed while it was read, it is read again: a revocation that came in between
    /// was followed by the keys that were loaded, and this one was not.
    async fn take_up_key(
        &self,
        fingerprint: Option<Fingerprint>,
        account: &Arc<Account>,
        id: &KeyId,
    ) -> Result<Option<Arc<Key>>, StoreError> {
        let version = || {
            let entry = self.entry(account.id());
            entry.map(|entry| entry.line().known.version)
        };
        for _ in 0..KEY_READS_MAX {
            let before = version();
            let keys = self.note(self.store.keys(account.id()).await)?;
            let Some(record) = keys.into_iter().find(|record| record.id == *id) else {
                return Ok(None);
            };
            let key = self.engine.load_key(fingerprint, account, record);
            if version() == before {
                return Ok(Some(key));
            }
        }
        Err(StoreError::Unavailable(
            "the account's keys change faster than they can be read".into(),
        ))
    }

    /// An account, loaded once however many ask for it at the same time.
    async fn account(self: &Arc<Self>, id: &AccountId) -> Result<Option<Arc<Account>>, StoreError> {
        if let Some(entry) = self.entry(id).filter(|entry| !entry.account.retired()) {
            return Ok(Some(Arc::clone(&entry.account)));
        }
        let load = Arc::clone(&self.loads.entry(id.clone()).or_default());
        let loaded = load.get_or_try_init(|| self.load(id)).await.copied();
        self.loads
            .remove_if(id, |_, current| Arc::ptr_eq(current, &load));
        loaded?;
        Ok(self.entry(id).map(|entry| Arc::clone(&entry.account)))
    }

    async fn load(self: &Arc<Self>, id: &AccountId) -> Result<bool, StoreError> {
        if self.entry(id).is_some_and(|entry| !entry.account.retired()) {
            return Ok(true);
        }
        let hour = self.clock.now().wall.hour();
        let history = self.store.history(id).await?;
        let Some(opened) = self.note(self.store.open(id, &self.replica, hour).await)? else {
            self.missing(id);
            return Ok(false);
        };
        let policy = self.policy_to_load(&opened.snapshot.book).await?;
        let (account, own) = self.take_up(id, &opened, policy).await?;
        let another = own.history.is_some_and(|known| known != history);
        let now = self.clock.now();
        let entry = Entry {
            account,
            line: Mutex::new(Line::new(&opened, own, now)),
            waiting: AtomicI64::new(0),
            least: AtomicI64::new(i64::MAX),
            changed: Notify::new(),
            observing: AtomicBool::new(false),
            rejoining: AtomicBool::new(false),
            lapsed: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
        };
        let entry = Arc::new(entry);
        self.lines.insert(id.clone(), Arc::clone(&entry));
        // Policies that changed before it could be seen there are in force by now.
        {
            let mut line = entry.line();
            if !id.is_inner() {
                let policy = self.policy_of(&line.known.book);
                line.go_by(&entry.account, policy, now);
            }
            if another {
                line.say_again(&entry.account);
            }
        }
        self.take_up_plans(&entry.account).await?;
        let Opened { snapshot, keys, .. } = opened;
        let sync = Arc::clone(self);
        tokio::spawn(async move { sync.remember_or_warn(snapshot, keys, history).await });
        Ok(true)
    }

    /// What this replica has counted of an account, taken up with its cells. Holds that an earlier run left open end as the policy says.
    async fn take_up(
        &self,
        id: &AccountId,
        opened: &Opened,
        policy: Policy,
    ) -> Result<(Arc<Account>, Own), StoreError> {
        let mut taken = match self.books.recall.local() {
            None => self.engine.counters().take_up(id),
            Some(local) => {
                let (local, id) = (Arc::clone(local), id.clone());
                let stored = opened.usage.clone();
                let taking = tokio::task::spawn_blocking(move || {
                    let mut taken = local.take_up(&id)?;
                    local.raise(&mut taken, &stored)?;
                    Ok::<_, MemoryError>(taken)
                });
                let taken = taking.await.map_err(|error| error.to_string());
                let taken = taken.and_then(|taken| taken.map_err(|error| error.to_string()));
                taken.map_err(StoreError::Unavailable)?
            }
        };
        let charged = taken.end_holds(policy.unsettled);
        if charged.calls > 0 {
            let (calls, amount) = (charged.calls, charged.amount);
            tracing::warn!(account = %id, calls, %amount, "calls that were open when the process was killed are charged");
        }
        let book = &opened.snapshot.book;
        let rules = rules(book, opened.snapshot.spend, policy, self.clock.now());
        let hour = self.clock.now().wall.hour();
        let seen = taken.totals().acked();
        let total = taken.totals().total();
        let remembers = self.books.recall.local().is_some();
        let lifetime: BTreeMap<_, _> = taken
            .lifetime()
            .into_iter()
            .map(|row| ((row.key, row.model), row.tally))
            .collect();
        let published = self.engine.own_cells(hour, &opened.usage);
        let published = if remembers { Vec::new() } else { published };
        let account = self.engine.load(taken, rules, published.into_iter());
        if !remembers {
            // Of earlier hours this replica's own rows are not at hand: calls admitted in one count into this hour.
            account.forget_before(hour);
        }
        let cells = account.cells().into_iter().map(|cell| {
            let (id, model) = (cell.id(), cell.row().model.clone());
            (id, model, cell.read())
        });
        let own = if remembers {
            Own {
                cells: cells.collect(),
                lifetime,
                seen,
                total,
                history: self.books.recall.history(id),
            }
        } else {
            Own::published(opened, cells.collect())
        };
        Ok((account, own))
    }

    async fn refill(
        self: &Arc<Self>,
        account: &Arc<Account>,
        need: Amount,
        least: Amount,
    ) -> Result<(), Refusal> {
        let unavailable = Refusal::after(Reason::StateUnavailable, STORE_RETRY);
        if account.retired() {
            // It was let go of in this very moment: its caller looks it up again.
            return Ok(());
        }
        let Some(entry) = self.entry(account.id()) else {
            return Err(unavailable);
        };
        self.status.refill_waits.fetch_add(1, Relaxed);
        let one = Amount::from_nanos(1);
        let _waiting = Waiting::new(&entry, need.max(one), least.max(one));
        let changed = entry.changed.notified();
        tokio::pin!(changed);
        // Enabled before anything is sent, so that an answer that comes at once is not missed.
        changed.as_mut().enable();
        let now = self.clock.now();
        {
            let line = entry.line();
            if line.failed_lately(&self.settings.times, now) {
                return Err(unavailable);
            }
            if account.lease_over(now) {
                // An instant has come at which there is less: the ledger looks before anything is leased.
                drop(line);
                let (sync, entry) = (Arc::clone(self), Arc::clone(&entry));
                let next = line::Next {
                    observe: true,
                    ..line::Next::default()
                };
                tokio::spawn(async move { sync.attend(&entry, next).await });
            } else if !line.is_in_flight() {
                drop(line);
                let (sync, entry) = (Arc::clone(self), Arc::clone(&entry));
                tokio::spawn(async move { sync.publish_one(&entry).await });
            }
        }
        changed.await;
        let line = entry.line();
        if line.failing() || line.fenced() {
            return Err(unavailable);
        }
        Ok(())
    }

    /// For how long the store has answered whatever it was asked.
    fn reachable_for(&self) -> Duration {
        match self.status.reachable_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => self.clock.now().mono.since(Monotonic::from_nanos(since)),
        }
    }

    /// Notes how the store is doing by what it answered.
    fn note<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        match &answer {
            Ok(_)
            | Err(StoreError::NoAccount(_) | StoreError::Purged(_) | StoreError::Fenced(_)) => {
                let now = self.clock.now().mono.nanos().max(1);
                self.status.failing.store(false, Relaxed);
                self.status.last_ok.store(now, Relaxed);
                if self.status.reachable_since.load(Relaxed) == 0 {
                    self.status.reachable_since.store(now, Relaxed);
                }
            }
            Err(_) => {
                self.status.failing.store(true, Relaxed);
                self.status.reachable_since.store(0, Relaxed);
                self.status.store_errors.fetch_add(1, Relaxed);
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests;
