//! The hot path: who is it, may they, and how much is set aside. Sans-IO: no network, no runtime, no clock, no logs; it is
//! given [`Now`] and returns values. What it needs and does not have (an account not loaded, a lease run dry) it says, and its
//! caller fetches it.
//!
//! A decision takes one look-up and a handful of atomic steps, each of which takes all of what it wants or nothing:
//!
//! ```text
//! identify: fingerprint → key → account
//! admit:    key, standing → model → concurrency → rate → the key's own rate → hold
//! settle:   hold back, cost out, usage counted
//! ```
//!
//! What threads share here has models that try every order in which they can come: `cargo model`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::clock::{Hour, Now};
use crate::id::{AccountId, KeyId, ModelName};
use crate::local::counters::{Counters, Recorded, RowId, Slot, TakenUp};
use crate::money::Amount;
use crate::policy::Policy;
use crate::primitive::Mutex;
use crate::refusal::{Reason, Refusal};
use crate::store::{KeyRecord, UsageRow};
use crate::usage::Tally;

mod account;
mod cell;
mod gcra;
mod hold;
mod key;
mod places;
mod purse;
mod rules;
mod special;

pub(crate) use account::part_of;
pub use account::{Account, Asked};
pub use cell::{Cell, CellId, ModelId};
pub use gcra::{Earned, Gcra, Rate, TooSoon};
pub use hold::{Awaited, Cost, Hold, Needs, Stood};
pub use key::{Fingerprint, Fingerprints, Key, Unknown, digest};
pub use purse::{Purse, Short};
pub use rules::{PlanRule, Rules, Special, matches};
pub use special::{BudgetAsk, Inner, More, PlanAsk, uncovered};

/// How many models are told apart. Callers choose the names, so the rest are counted under the pattern that priced them.
pub const MODELS_MAX: usize = 10_000;

/// How long a caller over its concurrency is told to wait: about a short call.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

/// How long a caller is told to wait when this replica has no share of the rate: two syncs, after which it does.
const SHARE_RETRY: Duration = Duration::from_millis(200);

/// The bounds of an engine's tables.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many secrets that are no keys are remembered.
    pub unknown_keys_max: usize,
    /// For how long.
    pub unknown_key_time: Duration,
}

impl Default for Bounds {
    /// 1 MiB of strangers for 5 s: long enough to take a flood of one secret off the store, and short enough that a key made
    /// on a replica that cannot tell us works soon.
    fn default() -> Self {
        Self {
            unknown_keys_max: 65_536,
            unknown_key_time: Duration::from_secs(5),
        }
    }
}

/// All accounts and keys that are loaded.
#[derive(Debug)]
pub struct Engine {
    fingerprints: Fingerprints,
    keys: DashMap<Fingerprint, Arc<Key>, BuildHasherDefault<LowBits>>,
    /// A key's id is unique in its account only.
    by_id: DashMap<(AccountId, KeyId), ById, foldhash::fast::RandomState>,
    accounts: DashMap<AccountId, Arc<Account>, foldhash::fast::RandomState>,
    models: DashMap<Box<str>, ModelId, foldhash::fast::RandomState>,
    unknown: Unknown,
    counters: Arc<Counters>,
    shared: Arc<Shared>,
    /// Counts what is counted nowhere else, all in one cell.
    uncounted: Arc<Key>,
}

/// What all accounts of an engine share.
#[derive(Debug, Default)]
struct Shared {
    /// Accounts with settled calls to publish. Each stands in it once, so there are never more than are loaded.
    dirty: Mutex<Vec<Arc<Account>>>,
    /// Model names by number, without the first, which is none.
    model_names: RwLock<Vec<ModelName>>,
    exposure: AtomicI64,
    overshoot: AtomicI64,
    /// Rules that accounts go by, newest last: most go by the same ones, and need not each have their own.
    rules: Mutex<Vec<Arc<Rules>>>,
}

/// How many rules are kept for sharing: about as many as there are policies in wide use. Accounts whose rules are not among
/// them have their own.
const SHARED_RULES_MAX: usize = 64;

impl Shared {
    /// The same rules, shared with other accounts if any goes by them.
    fn rules(&self, rules: Rules) -> Arc<Rules> {
        let mut kept = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = kept.iter().find(|other| ***other == rules) {
            return Arc::clone(same);
        }
        if kept.len() >= SHARED_RULES_MAX {
            kept.remove(0);
        }
        let rules = Arc::new(rules);
        kept.push(Arc::clone(&rules));
        rules
    }

    fn model_name(&self, model: ModelId) -> Option<ModelName> {
        let index = usize::try_from(model.0.checked_sub(1)?).ok()?;
        self.model_names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(index)
            .cloned()
    }

    fn enqueue(&self, account: Arc<Account>) {
        self.dirty
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(account);
    }

    fn take_dirty(&self) -> Vec<Arc<Account>> {
        std::mem::take(&mut self.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A loaded key, and the secret it is found by once that was presented.
#[derive(Clone, Debug)]
struct ById {
    key: Arc<Key>,
    fingerprint: Option<Fingerprint>,
}

/// What is asked for one call.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The model as the caller names it; `None` for calls that name none.
    pub model: Option<&'a str>,
    /// What the call is counted as: the model as [`Engine::model`] gives it.
    pub counted_as: ModelId,
    /// Whether its price is known, or it is free.
    pub priced: bool,
    /// How much to set aside.
    pub amount: Amount,
    /// The most it can cost, as far as that is known: what lies above `amount` is the bound of its overshoot.
    pub worst: Amount,
    /// What else is asked by a call that [`Key::is_special`] says so of.
    pub more: Option<&'a More<'a>>,
}

impl Ask<'_> {
    /// For a call that is over: nothing is set aside.
    const fn nothing(counted_as: ModelId) -> Self {
        Self {
            model: None,
            counted_as,
            priced: true,
            amount: Amount::ZERO,
            worst: Amount::ZERO,
            more: None,
        }
    }
}

/// Which part of a call's money lies in another account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// A plan, by its place in [`More::plans`].
    Plan(usize),
    /// A budget, by its place in [`More::budgets`].
    Budget(usize),
}

/// Why a call is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is refused.
    Refused(Refusal),
    /// The lease, or this replica's share of a limit, does not cover it or is over: fetch more and ask again.
    Lease,
    /// The lease of a plan's or a budget's account does not.
    Short(Leg),
}

/// What [`Engine::identify`] finds.
#[derive(Clone, Debug)]
pub enum Identified {
    /// A key that is loaded.
    Key(Arc<Key>),
    /// Not loaded: look in the store, under this fingerprint.
    NotLoaded(Fingerprint),
    /// The store did not have it, not long ago.
    Unknown,
}

impl Engine {
    /// An empty engine, with the process' secret for fingerprints, and where it counts.
    pub fn new(random: [u8; 16], bounds: Bounds, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            fingerprints: Fingerprints::new(random),
            keys: DashMap::default(),
            by_id: DashMap::default(),
            accounts: DashMap::default(),
            models: DashMap::default(),
            counters,
            unknown: Unknown::new(bounds.unknown_keys_max, bounds.unknown_key_time),
            shared: Arc::default(),
            uncounted: uncounted(),
        })
    }

    /// Whose secret this is.
    pub fn identify(&self, secret: &[u8], now: Now) -> Identified {
        let fingerprint = self.fingerprints.of(secret);
        if let Some(key) = self.keys.get(&fingerprint) {
            return Identified::Key(Arc::clone(&key));
        }
        if self.unknown.contains(fingerprint, now.mono) {
            return Identified::Unknown;
        }
        Identified::NotLoaded(fingerprint)
    }

    /// Admits a call or refuses it, in a fixed precedence. All or nothing: a refusal gives back what an earlier check took. The
    /// key comes back with a denial.
    pub fn admit(&self, key: Arc<Key>, ask: Ask<'_>, now: Now) -> Result<Hold, (Arc<Key>, Denied)> {
        admit(key, ask, now)
    }

    /// A hold of nothing, for a charge that comes when its hold is over: not refused by anything (X-6). The caller keeps an
    /// [`Awaited`] until it is settled.
    pub fn late(&self, key: Arc<Key>, counted_as: ModelId, now: Now) -> Hold {
        key.account().enter_anyway();
        Hold::new(key, Ask::nothing(counted_as), now.wall.hour())
    }

    /// The same where the hold stood on more than money: the plan pays as far as it has something left here, money pays the rest by the
    /// same share, and the budgets count that.
    pub fn late_on(&self, key: Arc<Key>, counted_as: ModelId, stood: &Stood, now: Now) -> Hold {
        self.late(key, counted_as, now)
            .with(stood.again(counted_as, now))
    }

    /// A hold of nothing that nothing refuses: for a call that is paid otherwise, by a licence. `None` if the account is being let go
    /// of.
    pub fn pass(&self, key: Arc<Key>, counted_as: ModelId, now: Now) -> Option<Hold> {
        let awaited = Awaited::new(Arc::clone(&key));
        if key.account().retired() {
            return None;
        }
        Some(self.late(key, counted_as, now).awaited(awaited))
    }

    /// The key of a licence in an account: it is in no table, and no limit but its models applies.
    /// `owner` is the account that the licence names, loaded or not.
    pub(crate) fn licence_key(
        &self,
        account: &Arc<Account>,
        owner: AccountId,
        id: KeyId,
        models: Vec<String>,
    ) -> Arc<Key> {
        let record = KeyRecord {
            models,
            ..KeyRecord::unlimited(id, owner)
        };
        Arc::new(Key::new(Arc::clone(account), record))
    }

    /// In the place of an account that is not loaded: what is counted in it nobody publishes.
    pub(crate) fn stand_in(&self) -> &Arc<Account> {
        self.uncounted.account()
    }

    /// A hold of nothing that is counted nowhere.
    pub(crate) fn uncounted(&self) -> Hold {
        self.late(Arc::clone(&self.uncounted), ModelId::NONE, Now::default())
    }

    /// The fingerprint that a secret is found by.
    pub fn fingerprint(&self, secret: &[u8]) -> Fingerprint {
        self.fingerprints.of(secret)
    }

    /// Whether a secret was found to be none, not long ago.
    pub(crate) fn is_unknown(&self, secret: Fingerprint, now: Now) -> bool {
        self.unknown.contains(secret, now.mono)
    }

    /// A model by name, told apart from others while there is room; `None` once there is none, or for what is not a name.
    pub fn model(&self, name: &str) -> Option<ModelId> {
        if let Some(model) = self.models.get(name) {
            return Some(*model);
        }
        self.number(ModelName::new(name).ok()?, MODELS_MAX)
    }

    /// The number of a model; a new one if fewer than `most` have one.
    fn number(&self, model: ModelName, most: usize) -> Option<ModelId> {
        let names = &self.shared.model_names;
        let mut names = names.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have been faster between the look and the lock.
        if let Some(model) = self.models.get(model.as_str()) {
            return Some(*model);
        }
        if names.len() >= most {
            return None;
        }
        names.push(model.clone());
        let id = ModelId(u32::try_from(names.len()).ok()?);
        self.models.insert(model.as_str().into(), id);
        Some(id)
    }

    /// The name of a model; `None` for [`ModelId::NONE`].
    pub fn model_name(&self, model: ModelId) -> Option<ModelName> {
        self.shared.model_name(model)
    }

    /// Where it counts.
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Accounts that have slots and are not loaded: what an earlier run left, and what was let go of. Whatever of it is not
    /// published or holds open is taken care of when the account is loaded.
    pub fn parked(&self) -> Vec<Recorded> {
        let mut parked = self.counters.accounts();
        parked.retain(|recorded| !self.accounts.contains_key(&recorded.account));
        parked
    }

    /// A loaded account.
    pub fn account(&self, id: &AccountId) -> Option<Arc<Account>> {
        self.accounts.get(id).map(|account| Arc::clone(&account))
    }

    /// A loaded key of an account, by its id.
    pub fn key(&self, account: &AccountId, id: &KeyId) -> Option<Arc<Key>> {
        let loaded = self.by_id.get(&(account.clone(), id.clone()))?;
        Some(Arc::clone(&loaded.key))
    }

    /// Every loaded account.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts
            .iter()
            .map(|account| Arc::clone(&account))
            .collect()
    }

    /// Loads an account that was taken up, without money yet. One that is loaded already, and is not being let go of, is given
    /// instead. Its cells go on from the slots that it has and from this replica's own rows as the store has them, whichever is
    /// more; cells that the store does not have all of are queued for publishing.
    pub fn load(
        &self,
        taken: TakenUp,
        rules: Rules,
        own_rows: impl Iterator<Item = (CellId, Tally)>,
    ) -> Arc<Account> {
        match self.accounts.entry(taken.account().clone()) {
            Entry::Occupied(loaded) if !loaded.get().retired() => Arc::clone(loaded.get()),
            Entry::Occupied(mut leaving) => {
                leaving.insert(self.begin(taken, rules, own_rows));
                Arc::clone(leaving.get())
            }
            Entry::Vacant(place) => Arc::clone(&place.insert(self.begin(taken, rules, own_rows))),
        }
    }

    fn begin(
        &self,
        taken: TakenUp,
        rules: Rules,
        own_rows: impl Iterator<Item = (CellId, Tally)>,
    ) -> Arc<Account> {
        let (counters, slots) = taken.begin(rules.policy.unsettled);
        let mut slots: HashMap<RowId, Slot> = slots
            .into_iter()
            .map(|slot| (slot.row().clone(), slot))
            .collect();
        for (id, tally) in own_rows {
            let model = self.model_name(id.model);
            let slot = counters.slot(&id.key, model.as_ref(), id.hour);
            // An hour that is closed here has gone to the rows of all time.
            if slot.row().hour != id.hour {
                continue;
            }
            slot.go_on_from(&tally);
            slots.insert(slot.row().clone(), slot);
        }
        let cells = slots.into_iter().filter_map(|(row, slot)| {
            // Their number is bounded by the slots', and what is counted already must go on to be.
            let model = match &row.model {
                None => ModelId::NONE,
                Some(name) => self.number(name.clone(), usize::MAX)?,
            };
            Some(Arc::new(Cell::new(model, row.hour, slot)))
        });
        let cells: Vec<_> = cells.collect();
        let shared = Arc::clone(&self.shared);
        let account = Arc::new(Account::new(counters, rules, shared, cells.clone()));
        for cell in cells {
            if !cell.is_published() && cell.raise_flag() {
                account.queue(cell);
            }
        }
        account
    }

    /// The cells that a replica goes on counting into after a restart in the same hour, from its own rows.
    pub(crate) fn own_cells(&self, hour: Hour, rows: &[UsageRow]) -> Vec<(CellId, Tally)> {
        let mine = rows.iter().filter(|row| row.hour == Some(hour));
        let cell = |row: &UsageRow| {
            let model = match &row.model {
                None => ModelId::NONE,
                Some(name) => self.model(name.as_str())?,
            };
            Some((
                CellId {
                    hour,
                    key: row.key.clone(),
                    model,
                },
                row.tally,
            ))
        };
        mine.filter_map(cell).collect()
    }

    /// Lets go of an account and its keys. Calls in flight end as they would have.
    pub(crate) fn unload(&self, account: &Arc<Account>) {
        account.retire();
        // Keys by id first: while `load_key` holds a place there, it may be putting the key into the other table.
        self.by_id
            .retain(|_, loaded| !Arc::ptr_eq(loaded.key.account(), account));
        self.keys
            .retain(|_, key| !Arc::ptr_eq(key.account(), account));
        self.accounts
            .remove_if(account.id(), |_, current| Arc::ptr_eq(current, account));
    }

    /// Takes up a key, with its secret if that was presented. One that is loaded already is given instead: it has its own rate
    /// to go on counting. A key of an account that is being let go of is not kept.
    pub fn load_key(
        &self,
        secret: Option<Fingerprint>,
        account: &Arc<Account>,
        record: KeyRecord,
    ) -> Arc<Key> {
        let id = (account.id().clone(), record.id.clone());
        let fresh = || ById {
            key: Arc::new(Key::new(Arc::clone(account), record.clone())),
            fingerprint: secret,
        };
        let place = self.by_id.entry(id);
        if account.retired() {
            return fresh().key;
        }
        let mut loaded = place.or_insert_with(fresh);
        if !loaded.key.is(account, &record) {
            loaded.key = fresh().key;
        }
        loaded.fingerprint = secret.or(loaded.fingerprint);
        if let Some(fingerprint) = loaded.fingerprint {
            self.keys.insert(fingerprint, Arc::clone(&loaded.key));
        }
        Arc::clone(&loaded.key)
    }

    /// Takes up changed keys of an account, those of them that are loaded.
    pub(crate) fn follow_keys(&self, account: &Arc<Account>, records: Vec<KeyRecord>) {
        for record in records {
            let loaded = self.by_id.get(&(account.id().clone(), record.id.clone()));
            let changed = loaded.is_some_and(|loaded| !loaded.key.is(account, &record));
            if changed {
                self.load_key(None, account, record);
            }
        }
    }

    /// A secret is no key, says the store.
    pub(crate) fn remember_unknown(&self, secret: Fingerprint, now: Now) {
        self.unknown.insert(secret, now.mono);
    }

    /// Keys were made: what was unknown may be known.
    pub(crate) fn forget_unknown(&self) {
        self.unknown.clear();
    }

    /// The accounts with settled calls since the last time.
    pub(crate) fn take_dirty(&self) -> Vec<Arc<Account>> {
        self.shared.take_dirty()
    }

    /// By how much all open holds together can be exceeded, as far as that is known: the published bound of P3.
    pub fn overshoot_bound(&self) -> Amount {
        Amount::from_nanos(self.shared.exposure.load(Relaxed))
    }

    /// By how much settled calls have exceeded their holds, since the start.
    pub fn overshoot_seen(&self) -> Amount {
        Amount::from_nanos(self.shared.overshoot.load(Relaxed))
    }
}

/// A key of an account that is in no table and in no file.
fn uncounted() -> Arc<Key> {
    let rules = Rules::plain(String::new(), Policy::default());
    let (account, key) = (AccountId::stand_in(), KeyId::stand_in());
    let taken = Counters::in_memory().take_up(&account);
    let (counters, _) = taken.begin(rules.policy.unsettled);
    let stand_in = Account::new(counters, rules, Arc::default(), Vec::new());
    let record = KeyRecord::unlimited(key, account);
    Arc::new(Key::new(Arc::new(stand_in), record))
}

fn admit(key: Arc<Key>, ask: Ask<'_>, now: Now) -> Result<Hold, (Arc<Key>, Denied)> {
    if ask.more.is_some() || key.is_special() {
        return special::admit(key, ask, now);
    }
    match check(&key, ask, now) {
        Ok(()) => Ok(Hold::new(key, ask, now.wall.hour()).noted()),
        Err(denied) => Err((key, denied)),
    }
}

/// Every check in its order; what one took is given back when a later one refuses.
fn check(key: &Key, ask: Ask<'_>, now: Now) -> Result<(), Denied> {
    let account = key.account();
    come_in(key, ask, account.standing(), now)?;
    let hold = || hold(account, account.leased(now.mono), ask.amount, now);
    check_rates(key, now, hold).inspect_err(|_| account.leave())
}

/// The checks before the rate. Whoever passes is in the account.
fn come_in(key: &Key, ask: Ask<'_>, standing: Option<Reason>, now: Now) -> Result<(), Denied> {
    let refuse = |reason| Err(Denied::Refused(Refusal::new(reason)));
    let account = key.account();
    if let Some(reason) = key.standing(now).or(standing) {
        return refuse(reason);
    }
    if !key.allows(ask.model) {
        return refuse(Reason::ModelNotAllowed);
    }
    if !ask.priced {
        return refuse(Reason::ModelNotPriced);
    }
    if account.enter().is_err() {
        return Err(short_of(
            account,
            Reason::ConcurrencyExceeded,
            CONCURRENCY_RETRY,
            now,
        ));
    }
    if account.retired() {
        account.leave();
        return Err(Denied::Lease);
    }
    Ok(())
}

/// A share of a limit is used up. Others may have some of it to spare: that is asked for, unless it was just now.
fn short_of(account: &Account, reason: Reason, retry: Duration, now: Now) -> Denied {
    if account.may_ask(now.mono) || !account.leased(now.mono) {
        Denied::Lease
    } else {
        Denied::Refused(Refusal::after(reason, retry))
    }
}

/// The rates, and then what `hold` takes.
fn check_rates<T>(
    key: &Key,
    now: Now,
    hold: impl FnOnce() -> Result<T, Denied>,
) -> Result<T, Denied> {
    let account = key.account();
    let rate = account.take_rate(now.mono).map_err(|early| {
        account.count_rate_refused();
        let wait = early.map_or(SHARE_RETRY, |TooSoon(wait)| wait);
        short_of(account, Reason::QpsExceeded, wait, now)
    })?;
    let give_back = || {
        rate.into_iter()
            .for_each(|rate| account.give_rate_back(rate))
    };
    if let Err(wait) = key.take(now.mono) {
        give_back();
        return Err(Denied::Refused(Refusal::after(
            Reason::KeyLimitExceeded,
            wait,
        )));
    }
    let held = hold().inspect_err(|_| {
        key.give_back();
        give_back();
    });
    if held.is_ok() && rate.is_some() {
        account.count_rated();
    }
    held
}

/// The last check: money, from a lease that is still good.
fn hold(account: &Account, leased: bool, amount: Amount, now: Now) -> Result<(), Denied> {
    let least = if account.needs_something() {
        Amount::from_nanos(1)
    } else {
        Amount::ZERO
    };
    if leased && account.purse().hold(amount, amount.max(least)).is_ok() {
        return Ok(());
    }
    if leased && account.dry(now.mono) {
        return Err(Denied::Refused(Refusal::new(Reason::InsufficientBalance)));
    }
    Err(Denied::Lease)
}

/// A fingerprint is already as evenly distributed as a hash can be.
#[derive(Debug, Default)]
struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // `Fingerprint` hashes as one u128; this is for whatever else might be hashed, and only has to be right.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[expect(clippy::as_conversions, reason = "the low half is meant")]
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

#[cfg(test)]
mod tests;
