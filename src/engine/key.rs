//! Keys in memory, found by a keyed fingerprint of the secret that was presented.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::Account;
use super::account::LastCell;
use super::gcra::{Gcra, Rate};
use crate::clock::{Monotonic, Now, Timestamp};
use crate::id::{AccountId, KeyId};
use crate::refusal::Reason;
use crate::store::KeyRecord;

/// A keyed 128-bit fingerprint of a secret: SipHash-2-4 under a random key of this process.
///
/// It is a message authentication code of 128 bits, so whoever does not know this process' key cannot make a text that has a
/// given fingerprint: equal fingerprints are as good as equal digests, at a quarter of their cost. It never leaves the process;
/// what is stored is the SHA-256 digest, and that is what a key is first found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// Evenly distributed bits, for tables.
    #[expect(clippy::as_conversions, reason = "the low half is meant")]
    pub(super) const fn low_bits(self) -> u64 {
        self.0 as u64
    }
}

/// Makes fingerprints.
#[derive(Clone, Copy)]
pub struct Fingerprints(SipHasher24);

impl Fingerprints {
    /// Under a key from 16 random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(&random))
    }

    /// The fingerprint of a secret.
    pub fn of(&self, secret: &[u8]) -> Fingerprint {
        let mut hasher = self.0;
        hasher.write(secret);
        Fingerprint(hasher.finish128().as_u128())
    }
}

impl std::fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprints(secret)")
    }
}

/// The digest that a key is stored under: SHA-256 of its secret, in hex.
pub fn digest(secret: &[u8]) -> String {
    Sha256::digest(secret)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A key with the account that pays for it. What every call looks at comes first, on the cache line of the `Arc`'s counts.
#[derive(Debug)]
#[repr(C)]
pub struct Key {
    account: Arc<Account>,
    pub(super) last_cell: LastCell,
    /// Nanoseconds since 1970; `i64::MAX` is never.
    expires: i64,
    revoked: bool,
    any_model: bool,
    limited: bool,
    budgeted: bool,
    rest: Box<Rest>,
}

/// What few calls look at.
#[derive(Debug)]
struct Rest {
    gcra: Gcra,
    rate: Option<Rate>,
    record: KeyRecord,
}

impl Key {
    /// A key as stored. Its own rate starts with a whole burst.
    pub(super) fn new(account: Arc<Account>, record: KeyRecord) -> Self {
        Self {
            account,
            last_cell: LastCell::default(),
            expires: record.expires.map_or(i64::MAX, Timestamp::nanos),
            revoked: record.revoked.is_some(),
            any_model: record.models.is_empty(),
            limited: record.qps.is_some(),
            budgeted: !record.budgets.is_empty(),
            rest: Box::new(Rest {
                gcra: Gcra::default(),
                rate: record.qps.map(|qps| Rate::per_second(qps, qps)),
                record,
            }),
        }
    }

    /// Who pays.
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whose it is, by name: also where another account stands in for one that is not loaded.
    pub const fn owner(&self) -> &AccountId {
        &self.rest.record.account
    }

    /// Whether its calls are judged by more than most: see [`super::More`].
    pub fn is_special(&self) -> bool {
        self.budgeted || self.account.is_special()
    }

    /// Its id: not the secret.
    pub const fn id(&self) -> &KeyId {
        &self.rest.record.id
    }

    /// As stored.
    pub const fn record(&self) -> &KeyRecord {
        &self.rest.record
    }

    /// Whether it is this key of this account, as stored.
    pub(super) fn is(&self, account: &Arc<Account>, record: &KeyRecord) -> bool {
        Arc::ptr_eq(&self.account, account) && self.rest.record == *record
    }

    /// Why it is refused at an instant, if it is. At its expiry exactly, it has expired.
    pub(crate) fn standing(&self, now: Now) -> Option<Reason> {
        if self.revoked {
            return Some(Reason::KeyRevoked);
        }
        (self.expires <= now.wall.nanos()).then_some(Reason::KeyExpired)
    }

    /// Whether it may use a model: any if it names none.
    pub(crate) fn allows(&self, model: Option<&str>) -> bool {
        let matches = |pattern: &String| super::matches(pattern, model);
        self.any_model || self.rest.record.models.iter().any(matches)
    }

    /// Takes one call's worth of the key's own rate.
    pub(super) fn take(&self, now: Monotonic) -> Result<(), Duration> {
        match self.own_rate() {
            None => Ok(()),
            Some((gcra, rate)) => gcra.take(rate, now).map_err(|early| early.0),
        }
    }

    pub(super) fn give_back(&self) {
        if let Some((gcra, rate)) = self.own_rate() {
            gcra.give_back(rate);
        }
    }

    fn own_rate(&self) -> Option<(&Gcra, Rate)> {
        if !self.limited {
            return None;
        }
        self.rest.rate.map(|rate| (&self.rest.gcra, rate))
    }
}

/// Secrets that are no keys, for a while: a table of fixed size in which a newcomer takes the place of an older one. What falls
/// out is looked up again, so the table may be wrong in that way only.
#[derive(Debug)]
pub struct Unknown {
    slots: Box<[Slot]>,
    lifetime: Duration,
}

#[derive(Debug, Default)]
struct Slot {
    fingerprint: AtomicU64,
    until: AtomicU64,
}

impl Unknown {
    /// Room for so many, each for so long.
    pub fn new(slots: usize, lifetime: Duration) -> Self {
        Self {
            slots: (0..slots.max(1)).map(|_| Slot::default()).collect(),
            lifetime,
        }
    }

    /// Whether this was found to be no key, not long ago.
    ///
    /// Half of the fingerprint is compared, and the two words are read apart. A key could be taken for unknown only if both
    /// halves of the odds, 2^-64, came true, and then for one lifetime.
    pub fn contains(&self, secret: Fingerprint, now: Monotonic) -> bool {
        self.slot(secret).is_some_and(|slot| {
            slot.fingerprint.load(Relaxed) == high_bits(secret)
                && now.nanos() < slot.until.load(Relaxed)
        })
    }

    /// It is no key.
    pub fn insert(&self, secret: Fingerprint, now: Monotonic) {
        if let Some(slot) = self.slot(secret) {
            slot.fingerprint.store(high_bits(secret), Relaxed);
            slot.until.store(now.plus(self.lifetime).nanos(), Relaxed);
        }
    }

    /// Keys were made: what was unknown may be known.
    pub fn clear(&self) {
        for slot in &self.slots {
            slot.until.store(0, Relaxed);
        }
    }

    fn slot(&self, secret: Fingerprint) -> Option<&Slot> {
        let slots = u64::try_from(self.slots.len()).unwrap_or(u64::MAX);
        let index = secret.low_bits().checked_rem(slots)?;
        self.slots.get(usize::try_from(index).ok()?)
    }
}

#[expect(clippy::as_conversions, reason = "the high half is meant")]
const fn high_bits(secret: Fingerprint) -> u64 {
    (secret.0 >> 64) as u64
}
