//! Drives the accounts' state machines against the store: the schedule, single messages for who waits, the listener for
//! changes, and what the answers ask for.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;

use super::*;
use crate::catalog::{LICENCES, POLICIES, PRICES, TENANTS};
use crate::clock::Hour;
use crate::local::LocalError;
use crate::policy::StoreOutage;
use crate::store::{Change, KeyRecord, Lapsed, Snapshot, WEBHOOK_DOCUMENTS};

/// How many accounts go to the store in one batch: bounds the memory of a round and how long one waits for the rest of it.
const BATCH: usize = 512;

/// How many times one account's messages are repeated at once when the store holds something else than believed. Each repeat
/// starts from what the store said, so a second one means that another writer has our name.
const AGAIN_MAX: u32 = 4;

/// Rounds between two looks at all leased accounts, for heartbeats, idle leases and old hours.
pub(crate) const ROUNDS_PER_LOOK: u32 = 10;

/// The longest that calls are refused without asking once nobody had more: money that others give back, or are paid, is found soon
/// whatever the interval.
const DRY_MAX: Duration = Duration::from_millis(100);

/// The others are told that a limit is used up eight times in an interval, and in one this long at least.
const CROWD_MAX: Duration = Duration::from_millis(100);

/// How often the counters are made safe from a power loss, which is what one can cost at most. A killed process loses nothing.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a part that died waits before it is started again.
const RESTART_WAIT: Duration = Duration::from_millis(500);

/// Which accounts a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Those with settled calls since the last one.
    Dirty,
    /// All that have anything to say.
    Everything,
    /// All, for the last time: leases go back.
    Leaving,
}

pub(super) async fn run(sync: Arc<Sync>) {
    let schedule = supervise("sync schedule", || schedule(Arc::clone(&sync)));
    let listener = supervise("change listener", || listen(Arc::clone(&sync)));
    let reconciler = supervise("reconciler", || Arc::clone(&sync).reconcile());
    let keeper = supervise("keeper of the data directory", || keep(Arc::clone(&sync)));
    let sweeper = supervise("sweep", || sweep::run(Arc::clone(&sync)));
    tokio::join!(schedule, listener, reconciler, keeper, sweeper);
}

/// Starts a part again when it ends or panics, for ever: none of them may die quietly.
async fn supervise<F, T>(name: &'static str, start: F)
where
    F: Fn() -> T,
    T: Future<Output = ()> + Send + 'static,
{
    loop {
        let part = AbortOnDrop(tokio::spawn(start()));
        let end = part.join().await;
        tracing::error!(
            part = name,
            panicked = end.is_err(),
            "ended and is started again"
        );
        tokio::time::sleep(RESTART_WAIT).await;
    }
}

/// Messages on their way. Given up before all answers came (the schedule was restarted, a caller left), the rest count as
/// unanswered, or their accounts would wait for an answer for ever.
struct Unanswered<'a> {
    sync: &'a Arc<Sync>,
    entries: std::slice::Iter<'a, Arc<Entry>>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        for entry in self.entries.by_ref() {
            self.sync.answer(entry, None);
        }
    }
}

/// Work on an account that is done by one at a time. Takes its flag down however it ends.
struct Alone<'a>(&'a AtomicBool);

impl<'a> Alone<'a> {
    fn begin(flag: &'a AtomicBool) -> Option<Self> {
        (!flag.swap(true, SeqCst)).then_some(Self(flag))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// A task that does not outlive whoever waits for it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    async fn join(mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn schedule(sync: Arc<Sync>) {
    let mut ticks = tokio::time::interval(sync.settings.times.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds: u32 = 0;
    loop {
        ticks.tick().await;
        // The first round is one too: a process that has just started is ready as soon as the store has answered.
        let look = rounds.is_multiple_of(ROUNDS_PER_LOOK);
        rounds = rounds.wrapping_add(1);
        if look {
            sync.clock.follow_wall();
            sync.unload_rested();
            sync.observe_due();
            if sync.status.unreconciled.swap(false, Relaxed) {
                sync.books.recall.doubt();
            }
            if sync.status.documents_due.swap(false, SeqCst) {
                let sync = Arc::clone(&sync);
                tokio::spawn(async move { sync.follow_documents().await });
            }
        }
        let round = if look {
            Round::Everything
        } else {
            Round::Dirty
        };
        if let Err(error) = sync.round(round).await {
            tracing::warn!(%error, "sync failed; spend is kept and sent again");
        }
    }
}

/// Keeps the data directory in order: room for new counters, what was counted safe from a power loss, and hours that are over folded.
async fn keep(sync: Arc<Sync>) {
    let mut ticks = tokio::time::interval(KEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut folded = None;
    loop {
        ticks.tick().await;
        let Some(local) = sync.books.recall.local() else {
            continue;
        };
        let local = Arc::clone(local);
        let Hour(hour) = sync.clock.now().wall.hour();
        let due = Hour(hour.saturating_sub(line::HOURS_KEPT));
        // Once for each hour, and again when what was not published then is.
        let folds = folded != Some(due) || sync.failing();
        let kept = tokio::task::spawn_blocking(move || {
            local.counters().make_room()?;
            local.counters().flush()?;
            if folds {
                local.fold(due).map(drop)
            } else {
                Ok(())
            }
        });
        match kept.await {
            Ok(Ok(())) => folded = Some(due),
            Ok(Err(error)) => {
                let error: LocalError = error;
                tracing::error!(%error, "the data directory cannot be kept in order; counting goes on");
            }
            Err(error) => tracing::error!(%error, "the data directory cannot be kept in order"),
        }
    }
}

async fn listen(sync: Arc<Sync>) {
    let mut changes = sync.store.changes();
    // Whatever changed before this listens, nobody tells.
    sync.books.recall.doubt();
    sync.follow_all().await;
    loop {
        match changes.recv().await {
            Ok(change) => sync.follow(change).await,
            Err(RecvError::Lagged(_)) => sync.follow_all().await,
            Err(RecvError::Closed) => return,
        }
    }
}

impl Sync {
    /// One round: publishes, account by account, what there is to say. The first error is returned, after all were tried.
    pub(super) async fn round(self: &Arc<Self>, round: Round) -> Result<SyncReport, StoreError> {
        let entries = self.entries(round);
        let mut report = SyncReport::default();
        let mut first_error = None;
        let give = if round == Round::Leaving {
            Give::All
        } else {
            Give::Spare
        };
        for chunk in entries.chunks(BATCH) {
            match self.publish(chunk, give).await {
                Ok(accounts) => report.accounts = report.accounts.saturating_add(accounts),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if round != Round::Dirty && entries.is_empty() {
            // Nothing to say: the store is asked how it is, so that its state is known all the same.
            self.note(self.store.ping().await)?;
        }
        first_error.map_or(Ok(report), Err)
    }

    /// Last rounds, until the store has everything: one that is away may come back, and what is not said now nobody says later.
    /// Messages that others have on their way are waited for; the caller bounds it. `failed` is why the store has not got it yet.
    pub(super) async fn leave(
        self: &Arc<Self>,
        failed: &mut Option<StoreError>,
    ) -> Result<SyncReport, StoreError> {
        loop {
            let pause = match self.round(Round::Leaving).await {
                Ok(report) if self.all_said() => return Ok(report),
                Ok(_) => SCARCE_WAIT,
                Err(error @ StoreError::Unavailable(_)) => {
                    tracing::warn!(%error, "the store did not take the last charges; they are sent again");
                    *failed = Some(error);
                    self.settings.times.interval
                }
                Err(error) => return Err(error),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the store has taken everything that was spent.
    fn all_said(&self) -> bool {
        let unsettled = |entry: &Entry| {
            let mut line = entry.line();
            line.collect(&entry.account, &self.engine, self.clock.now());
            !line.all_said()
        };
        !self.lines.iter().any(|entry| unsettled(&entry))
    }

    fn entries(&self, round: Round) -> Vec<Arc<Entry>> {
        // A queued account that is in no line was let go of in this very moment; its cells stay queued in it, and as nothing is
        // let go of with calls in flight there is nothing in them.
        let dirty: Vec<_> = self
            .engine
            .take_dirty()
            .iter()
            .filter_map(|account| self.entry(account.id()))
            .collect();
        if round == Round::Dirty {
            let has_news = |entry: &Arc<Entry>| entry.line().failing();
            let failing = self
                .lines
                .iter()
                .filter(|entry| self.failing() && has_news(entry));
            let mut entries: Vec<_> = failing.map(|entry| Arc::clone(&entry)).collect();
            entries.extend(dirty);
            return entries;
        }
        let now = self.clock.now();
        let (mut leased, mut held, mut lost) = (Amount::ZERO, Amount::ZERO, Amount::ZERO);
        let (mut fenced, mut stalest) = (0_u64, Duration::ZERO);
        let (mut beyond, mut beyond_most) = (Amount::ZERO, Amount::ZERO);
        let mut entries = Vec::new();
        for entry in &self.lines {
            let mut line = entry.line();
            line.collect(&entry.account, &self.engine, now);
            line.forget(&entry.account, now);
            leased = leased.saturating_add(line.leased());
            held = held.saturating_add(line.held(&entry.account));
            lost = lost.saturating_add(line.known.lost);
            fenced = fenced.saturating_add(u64::from(line.fenced()));
            stalest = stalest.max(line.staleness(now));
            beyond = beyond.saturating_add(entry.account.beyond());
            if let StoreOutage::UpTo(most) = entry.account.rules().policy.store_outage {
                beyond_most = beyond_most.saturating_add(most);
            }
            if round == Round::Leaving || line.has_news(&entry.account, &self.settings.times, now) {
                drop(line);
                entries.push(Arc::clone(&entry));
            }
        }
        self.status.leased.store(leased.nanos(), Relaxed);
        self.status.held.store(held.nanos(), Relaxed);
        self.status.lost.store(lost.nanos(), Relaxed);
        self.status.beyond.store(beyond.nanos(), Relaxed);
        self.status.beyond_most.store(beyond_most.nanos(), Relaxed);
        self.status.fenced.store(fenced, Relaxed);
        let stalest = u64::try_from(stalest.as_nanos()).unwrap_or(u64::MAX);
        self.status.stalest.store(stalest, Relaxed);
        entries
    }

    fn failing(&self) -> bool {
        self.status.failing.load(Relaxed)
    }

    /// Publishes some accounts in one batch.
    async fn publish(
        self: &Arc<Self>,
        entries: &[Arc<Entry>],
        give: Give,
    ) -> Result<usize, StoreError> {
        let mut todo: Vec<Arc<Entry>> = entries.to_vec();
        let mut first_error = None;
        for _ in 0..AGAIN_MAX {
            let now = self.clock.now();
            let mut batch = Vec::with_capacity(todo.len());
            todo.retain(|entry| match self.message(entry, give, now) {
                Some(message) => {
                    batch.push(message);
                    true
                }
                None => false,
            });
            if batch.is_empty() {
                break;
            }
            let mut open = Unanswered {
                sync: self,
                entries: todo.iter(),
            };
            let answers = self.store.publish(&self.replica, batch).await;
            let mut again = Vec::new();
            for answer in answers {
                let Some(entry) = open.entries.next() else {
                    break;
                };
                let answer = self.note(answer);
                if matches!(answer, Err(StoreError::NoAccount(_))) {
                    self.gone(entry);
                }
                if self.answer(entry, answer.as_ref().ok()) {
                    again.push(Arc::clone(entry));
                }
                if let Err(error) = answer {
                    first_error = first_error.or(Some(error));
                }
            }
            drop(open);
            todo = again;
        }
        for entry in todo {
            entry.changed.notify_waiters();
        }
        first_error.map_or(Ok(entries.len()), Err)
    }

    /// The store does not have an account that was loaded from it.
    fn gone(self: &Arc<Self>, entry: &Arc<Entry>) {
        self.books.recall.doubt_all();
        let (sync, entry) = (Arc::clone(self), Arc::clone(entry));
        let next = line::Next {
            rejoin: true,
            ..line::Next::default()
        };
        tokio::spawn(async move { sync.attend(&entry, next).await });
    }

    fn message(&self, entry: &Entry, give: Give, now: Now) -> Option<Publish> {
        let need = entry.need();
        let mut line = entry.line();
        line.collect(&entry.account, &self.engine, now);
        entry.account.turn(now);
        let give = if give != Give::All && entry.account.lease_over(now) {
            Give::Ended
        } else {
            give
        };
        let rules = entry.account.rules();
        let times = &self.settings.times;
        line.message(&entry.account, need, give, &rules.policy, times, now)
    }

    /// Takes in an answer and does what it asks for. Returns whether to say it again.
    fn answer(self: &Arc<Self>, entry: &Arc<Entry>, answer: Option<&Published>) -> bool {
        let now = self.clock.now();
        let fenced = answer.is_some_and(|answer| answer.fenced);
        let next = {
            let mut line = entry.line();
            let policy = self.policy_of(&line.known.book);
            line.answer(&entry.account, answer, &policy, &self.settings.times, now)
        };
        if next.short && !next.scarce && !next.refresh && !fenced {
            // Nobody has more: for a moment, calls are refused without asking.
            let pause = self.settings.times.interval.min(DRY_MAX);
            entry.account.dry_until(now.mono.plus(pause));
        }
        if next.healed.is_positive() {
            let (account, lost) = (entry.account.id(), next.healed);
            tracing::warn!(%account, %lost, "the store had lost spend of this replica; it is published again");
            self.status.healed.fetch_add(1, Relaxed);
        }
        if next
            != (line::Next {
                again: next.again,
                ..line::Next::default()
            })
        {
            let (sync, entry) = (Arc::clone(self), Arc::clone(entry));
            tokio::spawn(async move { sync.attend(&entry, next).await });
        } else if !next.again {
            entry.changed.notify_waiters();
        }
        next.again
    }

    /// What takes a word with the store. Whoever waits is woken after it.
    pub(super) async fn attend(self: &Arc<Self>, entry: &Arc<Entry>, next: line::Next) {
        let id = entry.account.id();
        let mut compared = None;
        if next.rejoin
            && let Some(_alone) = Alone::begin(&entry.rejoining)
        {
            self.books.recall.doubt();
            match self.rejoin(id).await {
                Ok(history) => compared = history,
                Err(error) => {
                    tracing::warn!(account = %id, %error, "could not be compared with the store; it is tried again");
                }
            }
        }
        if let Some((rate, places)) = next.crowded {
            self.crowd(entry, Scarce::Shares(rate, places)).await;
        }
        if next.scarce {
            self.seek(entry).await;
        } else if next.shareless {
            tokio::time::sleep(SCARCE_WAIT).await;
        }
        if next.observe
            && let Some(observing) = Alone::begin(&entry.observing)
        {
            self.end_lease(entry).await;
            let observed = self.books.run(id, Command::observe()).await;
            drop(observing);
            if let Err(error) = observed {
                tracing::warn!(account = %id, %error, "what is due could not be written; it is tried again");
            }
        }
        if (next.refresh || next.observe || next.rejoin)
            && let Err(error) = self.refresh(id, compared).await
        {
            tracing::warn!(account = %id, %error, "a changed book could not be read; it is tried again");
        }
        entry.changed.notify_waiters();
    }

    /// If what an account was leased by has ended, nothing of it may stand as committed when the ledger looks, but what calls hold: the
    /// rest expires. A store that does not hear of it leaves more set aside than need be, and that goes with the next message.
    async fn end_lease(self: &Arc<Self>, entry: &Arc<Entry>) {
        for _ in 0..AGAIN_MAX {
            let changed = entry.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let in_flight = {
                let mut line = entry.line();
                if !entry.account.lease_over(self.clock.now()) {
                    return;
                }
                line.end_lease(&entry.account);
                line.is_in_flight()
            };
            if in_flight {
                changed.await;
                continue;
            }
            let said = self.publish(std::slice::from_ref(entry), Give::Ended).await;
            if let Err(error) = said {
                tracing::debug!(account = %entry.account.id(), %error, "what was leased could not be given back yet");
                return;
            }
            // What others have leased and do not use would look as held, and what has expired of it would be kept for that.
            let id = entry.account.id();
            if self
                .note(self.store.tell_scarce(id, Scarce::Money).await)
                .is_ok()
            {
                tokio::time::sleep(SCARCE_WAIT).await;
            }
            return;
        }
    }

    /// Others have what is missing here: those alive are asked to give back, those silent for too long lose it.
    async fn seek(&self, entry: &Entry) {
        let id = entry.account.id();
        let now = self.clock.now().mono;
        let looked = Monotonic::from_nanos(entry.lapsed.load(Relaxed));
        if now.since(looked) >= self.settings.times.interval {
            entry.lapsed.store(now.nanos(), Relaxed);
            let told = self.note(self.store.tell_scarce(id, Scarce::Money).await);
            if told.is_ok() {
                self.lapse(id).await;
            }
        }
        tokio::time::sleep(SCARCE_WAIT).await;
    }

    /// Takes back what silent replicas have, if this one has heard the store for long enough to know that they could have spoken.
    pub(super) async fn lapse(&self, id: &AccountId) {
        let Times { lease, retire, .. } = self.settings.times;
        if self.reachable_for() < lease {
            return;
        }
        let lapsed = self.note(self.store.lapse(id, lease, retire).await);
        if let Ok(Lapsed {
            freed,
            held,
            lapsed,
            retired,
        }) = lapsed
            && lapsed.saturating_add(retired) > 0
        {
            self.status.lapsed.fetch_add(lapsed, Relaxed);
            self.status.retired.fetch_add(retired, Relaxed);
            tracing::warn!(
                account = %id, %freed, %held, lapsed, retired,
                "took back the lease of replicas that fell silent; what they spent and did not publish counts if they return"
            );
        }
    }

    /// Others have more of a limit than is their part: they are told, several times in an interval at most.
    async fn crowd(&self, entry: &Entry, what: Scarce) {
        let now = self.clock.now().mono;
        let told = Monotonic::from_nanos(entry.crowded.load(Relaxed));
        let pause = self.settings.times.interval.min(CROWD_MAX);
        if now.since(told) >= pause.checked_div(8).unwrap_or_default() {
            entry.crowded.store(now.nanos(), Relaxed);
            let told = self.store.tell_scarce(entry.account.id(), what).await;
            // The next answer says it again.
            let _ = self.note(told);
        }
    }

    /// One account's message, now.
    pub(super) async fn publish_one(self: &Arc<Self>, entry: &Arc<Entry>) {
        if let Err(error) = self.publish(std::slice::from_ref(entry), Give::Spare).await {
            tracing::debug!(account = %entry.account.id(), %error, "publish failed");
            entry.changed.notify_waiters();
        }
    }

    pub(super) async fn flush(self: &Arc<Self>, account: &AccountId) -> Result<(), StoreError> {
        let Some(entry) = self.entry(account) else {
            return Ok(());
        };
        // A message on its way may have left before the last call settled: after its answer, one more.
        for _ in 0..AGAIN_MAX {
            let changed = entry.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (in_flight, unsaid) = {
                let mut line = entry.line();
                line.collect(&entry.account, &self.engine, self.clock.now());
                (line.is_in_flight(), line.unpublished().is_positive())
            };
            if in_flight {
                changed.await;
            } else if unsaid {
                self.publish(std::slice::from_ref(&entry), Give::Spare)
                    .await?;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) async fn give_back(self: &Arc<Self>, account: &AccountId) -> Result<(), StoreError> {
        self.flush(account).await?;
        if let Some(entry) = self.entry(account) {
            self.publish(std::slice::from_ref(&entry), Give::Money)
                .await?;
        }
        self.note(self.store.tell_scarce(account, Scarce::Money).await)
    }

    /// Takes up a book, and the keys that were read after it.
    pub(super) fn take_in(&self, entry: &Entry, snapshot: Snapshot, keys: Vec<KeyRecord>) {
        let mut line = entry.line();
        // Two may read at once. The keys were read after the book, so those of an older book may be older too.
        if snapshot.version >= line.known.version {
            self.engine.follow_keys(&entry.account, keys);
            // Asked for under the lock, as `follow_policies` does: the later of the two has the newer policy.
            let policy = self.policy_of(&snapshot.book);
            line.follow(&entry.account, snapshot, policy, self.clock.now());
        }
    }

    async fn follow(self: &Arc<Self>, change: Change) {
        match change {
            Change::Account(id, version) => {
                if let Some(owner) = id.owner() {
                    self.plan_changed(&owner, &id).await;
                }
                let Some(entry) = self.entry(&id) else {
                    // It is read when it is called; a key that is unknown may be one of its new ones.
                    self.engine.forget_unknown();
                    return;
                };
                let newer = entry.line().known.version < version;
                if newer && let Err(error) = self.refresh(&id, None).await {
                    tracing::warn!(account = %id, %error, "a changed book could not be read; the next answer asks again");
                }
            }
            Change::Scarce(id, what) => {
                let Some(entry) = self.entry(&id) else { return };
                let give = match what {
                    Scarce::Money => Give::Money,
                    Scarce::Shares(rate, places) => {
                        let rules = entry.account.rules();
                        entry.line().heard(rate, places, &rules.policy);
                        Give::Spare
                    }
                };
                let sync = Arc::clone(self);
                tokio::spawn(async move { sync.publish(&[entry], give).await });
            }
            Change::All => {
                self.books.recall.doubt();
                self.follow_all().await;
            }
            Change::Document(name)
                if name.starts_with(WEBHOOK_DOCUMENTS) || name == sweep::DOCUMENT => {}
            Change::Document(_) => self.follow_documents().await,
        }
    }

    /// Prices and policies as the store has them now; asked for again if it does not say.
    pub(super) async fn follow_documents(&self) {
        match self.catalog.load(&*self.store).await {
            Ok(()) => {
                self.follow_policies();
                self.remember_documents().await;
            }
            Err(error) => {
                self.status.documents_due.store(true, SeqCst);
                tracing::warn!(%error, "the prices and policies in force stay in force");
            }
        }
    }

    /// What is in force now is remembered, if it is newer than what was.
    pub(super) async fn remember_documents(&self) {
        // One after the other, each with what is in force then: the last one that is written is not an older one.
        let _alone = self.remembering.lock().await;
        let (recall, current) = (self.books.recall.clone(), self.catalog.current().clone());
        let licences = self.catalog.licences().stored().clone();
        let versions = (
            current.prices.version(),
            current.policies_version,
            current.tenants_version,
        );
        if recall.local().is_none() || (versions, licences.version) == ((0, 0, 0), 0) {
            return;
        }
        let kept = tokio::task::spawn_blocking(move || {
            recall.keep_named(PRICES, versions.0, &current.stored.prices);
            recall.keep_named(POLICIES, versions.1, &current.stored.policies);
            recall.keep_named(LICENCES, licences.version, &licences.issued);
            recall.keep_named(TENANTS, versions.2, &current.stored.tenants);
        });
        // It cannot fail but by a panic, which was reported where it happened.
        let _ = kept.await;
    }

    /// Changes may have been missed: everything is read again.
    async fn follow_all(self: &Arc<Self>) {
        self.follow_documents().await;
        for account in self.engine.accounts() {
            if let Err(error) = self.refresh(account.id(), None).await {
                tracing::warn!(account = %account.id(), %error, "a book could not be read; the next answer asks again");
            }
        }
    }

    /// Policies may have changed under every account.
    fn follow_policies(&self) {
        let now = self.clock.now();
        for entry in &self.lines {
            let mut line = entry.line();
            let policy = self.policy_of(&line.known.book);
            line.go_by(&entry.account, policy, now);
        }
    }

    /// What is due by the clock alone.
    fn observe_due(self: &Arc<Self>) {
        let now = self.clock.now().wall;
        for entry in &self.lines {
            let line = entry.line();
            let (known, policy) = (&line.known, self.policy_of(&line.known.book));
            let next = known.book.next_deadline(known.total, &policy, now);
            let due = next.is_some_and(|at| at <= now);
            drop(line);
            if due {
                let (sync, entry) = (Arc::clone(self), Arc::clone(&entry));
                let next = line::Next {
                    observe: true,
                    ..line::Next::default()
                };
                tokio::spawn(async move { sync.attend(&entry, next).await });
            }
        }
    }

    /// Closes an account to new calls, unless one came meanwhile or left something unsaid.
    fn let_go(&self, entry: &Entry) -> bool {
        let mut line = entry.line();
        if !entry.account.try_retire() {
            return false;
        }
        // What was settled before it was closed is in its cells by now, and nothing comes after.
        line.collect(&entry.account, &self.engine, self.clock.now());
        let at_rest = line.at_rest(&entry.account);
        if !at_rest {
            entry.account.stay();
        }
        at_rest
    }

    /// Lets go of accounts that nobody has called for long.
    pub(super) fn unload_rested(&self) {
        let now = self.clock.now();
        let rested = |entry: &Entry| {
            let line = entry.line();
            line.rested(now) >= self.settings.unload_after && line.at_rest(&entry.account)
        };
        // An account inside another one stays as long as that does: its calls look at it without asking.
        let owned = |entry: &Entry| {
            let owner = entry.account.id().owner();
            owner.is_some_and(|owner| self.engine.account(&owner).is_some())
        };
        let gone: Vec<_> = self
            .lines
            .iter()
            .filter(|entry| rested(entry) && !owned(entry))
            .map(|entry| Arc::clone(&entry))
            .collect();
        for entry in gone {
            if self.let_go(&entry) {
                self.engine.unload(&entry.account);
                self.books.recall.let_go(entry.account.id());
                self.lines.remove_if(entry.account.id(), |_, current| {
                    Arc::ptr_eq(current, &entry)
                });
            }
        }
    }
}
