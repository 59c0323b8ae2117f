//! The store that fails: one [`Desk`] an account, what is said to it, and what it can lose. What goes wrong on the way is the world's
//! doing; here is what the store itself does, as `store/redis` does it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tollgate::books::remember::{Remembered, Stands};
use tollgate::clock::{Hour, Timestamp};
use tollgate::id::{AccountId, KeyId, ReplicaId};
use tollgate::ledger::{Action, Book, Command, Spent, apply};
use tollgate::money::Amount;
use tollgate::policy::{Overrides, Policy};
use tollgate::store::desk::Desk;
use tollgate::store::shared::Ground;
use tollgate::store::{
    Commit, History, KeyRecord, Opened, Publish, Published, Scarce, StoreError, Stored,
};

use super::backend::commit;
use super::mutation::{self, Mutation};
use super::setup::{LEASE, MS, Micros};

/// How many states are kept to be fallen back to.
const KEPT_MAX: usize = 12;

/// What is said to the store.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Publish(Box<Publish>),
    /// Takes an account up, and reads what is to be remembered of it.
    Open(Hour),
    /// A book with what stands under some claims, its last entries, and the keys.
    Read {
        claims: Vec<String>,
    },
    /// `command`: which one of the backend's it carries out.
    Commit {
        commit: Box<Commit>,
        command: Option<usize>,
    },
    PutKey {
        expected: u64,
        key: Box<KeyRecord>,
    },
    Lapse,
    Scarce(Scarce),
}

/// What the store answers.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Published(Result<Published, StoreError>),
    Opened(Option<Box<(Opened, Stands)>>),
    Read(Option<Box<Stands>>),
    Stored(Result<Stored, StoreError>),
    Told,
}

/// A message on its way, on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) slot: usize,
    /// Which run of the replica sent it.
    pub(crate) life: u64,
    /// Which of its messages it is.
    pub(crate) token: u64,
    pub(crate) who: ReplicaId,
    pub(crate) account: usize,
    /// The history behind the connection, and how old it was, by the sender's clock.
    pub(crate) history: u64,
    pub(crate) age: Duration,
    pub(crate) fenced: bool,
    pub(crate) ask: Ask,
}

/// Since when a history is known, by the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// There was no account yet that could have been lost.
    Start,
    Ms(u64),
}

pub(crate) struct Store {
    pub(crate) desks: Vec<Arc<Desk>>,
    pub(crate) history: u64,
    /// How often it lost something, or may have.
    pub(crate) era: u64,
    /// It was emptied without beginning another history.
    pub(crate) emptied_quietly: bool,
    since: Option<Since>,
    kept: VecDeque<Vec<Arc<Desk>>>,
    pub(crate) frozen_until: Micros,
    /// How fast its clock runs, in millionths.
    pub(crate) speed: u64,
}

/// The time of day at the start, near the end of an hour.
pub(crate) const DAWN: i64 = 1_800_000_000_000_000_000 - 5_000_000_000;

pub(crate) fn account_id(account: usize) -> AccountId {
    AccountId::new(&format!("a{account}")).unwrap()
}

pub(crate) fn key_id(key: usize) -> KeyId {
    KeyId::new(&format!("k{key}")).unwrap()
}

/// How many keys an account has.
pub(crate) const KEYS: usize = 2;

impl Store {
    /// With its accounts, each opened and paid for.
    pub(crate) fn new(money: &[i64], policies: &[(Policy, Overrides)], speed: u64) -> Self {
        let all = money.iter().zip(policies).enumerate();
        let desks = all
            .map(|(account, (money, (policy, overrides)))| {
                Arc::new(opened(account, *money, policy, overrides))
            })
            .collect();
        Self {
            desks,
            history: 1,
            era: 1,
            emptied_quietly: false,
            since: Some(Since::Start),
            kept: VecDeque::new(),
            frozen_until: 0,
            speed,
        }
    }

    fn now_ms(&self, now: Micros) -> u64 {
        DAWN.unsigned_abs() / 1_000_000 + now * self.speed / 1_000_000 / MS
    }

    /// The first word on a new connection: how old this history is; [`Duration::MAX`] from the start.
    pub(crate) fn age(&mut self, seen_accounts: bool, now: Micros) -> Duration {
        let (now, empty) = (
            self.now_ms(now),
            self.desks.iter().all(|desk| desk.book.is_none()),
        );
        let since = match self.since {
            None if empty && !seen_accounts => Since::Start,
            Some(Since::Start) if empty && seen_accounts => Since::Ms(now),
            None => Since::Ms(now),
            Some(since) => since,
        };
        self.since = Some(since);
        match since {
            Since::Start => Duration::MAX,
            Since::Ms(at) => Duration::from_millis(now.saturating_sub(at)),
        }
    }

    /// Keeps its state as it is, to fall back to.
    pub(crate) fn keep(&mut self) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(self.desks.clone());
    }

    /// Whether every account is there.
    pub(crate) fn whole(&self) -> bool {
        self.desks.iter().all(|desk| desk.book.is_some())
    }

    /// Begins another history.
    pub(crate) fn restart(&mut self) {
        self.history += 1;
        self.era += 1;
        self.since = None;
    }

    /// Loses what came after one of the states that were kept, of all accounts or of one. False if there is none.
    pub(crate) fn fall_back(
        &mut self,
        which: u64,
        account: Option<usize>,
        known: impl Fn(usize) -> bool,
    ) -> bool {
        if self.kept.is_empty() {
            return false;
        }
        let at = (which % self.kept.len() as u64) as usize;
        let before = self.kept[at].clone();
        if before
            .iter()
            .enumerate()
            .any(|(account, desk)| desk.book.is_none() && !known(account))
        {
            return false;
        }
        match account {
            None => self.desks = before,
            Some(account) => self.desks[account] = Arc::clone(&before[account]),
        }
        // What was kept of the time that is lost cannot come back.
        self.kept.truncate(at);
        self.restart();
        true
    }

    /// Loses everything; its history is another one, or not.
    pub(crate) fn empty(&mut self, restarted: bool) {
        for desk in &mut self.desks {
            *desk = Arc::default();
        }
        self.kept.clear();
        if restarted {
            self.restart();
        } else {
            self.era += 1;
            self.emptied_quietly = true;
            self.since = None;
        }
    }

    /// Whether nothing is granted to a message.
    pub(crate) fn fenced(&self, packet: &Packet, now: Micros) -> bool {
        let desk = &self.desks[packet.account];
        let ground = self.ground(packet, now);
        desk.book.is_none() || desk.head.fenced(&ground)
    }

    fn ground(&self, packet: &Packet, now: Micros) -> Ground {
        Ground {
            now_ms: self.now_ms(now),
            history: History(self.history),
            fenced: packet.fenced,
            lease_ms: LEASE / MS,
        }
    }

    /// Carries out a message.
    pub(crate) fn carry_out(
        &mut self,
        packet: &Packet,
        now: Micros,
        mutation: Option<Mutation>,
    ) -> Said {
        let mut ground = self.ground(packet, now);
        ground.lease_ms = mutation::own_fence(mutation);
        let desk = &mut self.desks[packet.account];
        match &packet.ask {
            Ask::Publish(message) => {
                let desk = Arc::make_mut(desk);
                Said::Published(mutation::publish(
                    mutation,
                    desk,
                    &packet.who,
                    message,
                    &ground,
                ))
            }
            Ask::Open(hour) => Said::Opened(desk.open(&packet.who, *hour).map(|opened| {
                let stands = stands(desk, &[]).unwrap();
                Box::new((opened, stands))
            })),
            Ask::Read { claims } => Said::Read(stands(desk, claims).map(Box::new)),
            Ask::Commit { commit, .. } => Said::Stored(Arc::make_mut(desk).commit(commit, &ground)),
            Ask::PutKey { expected, key } => {
                Said::Stored(Ok(Arc::make_mut(desk).put_key(*expected, (**key).clone())))
            }
            Ask::Lapse => {
                mutation::lapse(mutation, Arc::make_mut(desk), packet.age, &ground);
                Said::Told
            }
            Ask::Scarce(_) => Said::Told,
        }
    }
}

/// What silent replicas have comes back. Nobody could be heard before this history began.
pub(crate) fn lapse(
    desk: &mut Desk,
    age: Duration,
    silence_ms: u64,
    retire_ms: u64,
    ground: &Ground,
) {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let began = ground.now_ms.saturating_sub(age_ms);
    for row in desk.rows.values_mut() {
        row.row.seen_ms = row.row.seen_ms.max(began);
    }
    desk.lapse(silence_ms, retire_ms, ground);
}

/// A book as it stands, with the entries at its end.
fn stands(desk: &Desk, claims: &[String]) -> Option<Stands> {
    let snapshot = desk.read(claims)?;
    let tail = desk.entries_after(Remembered::tail_after(&snapshot.book));
    let more = tollgate::ledger::read_on(&snapshot.book, &tail);
    Some(Stands {
        tail: more.map_or(tail, |after| desk.entries_after(after)),
        keys: desk.keys.values().cloned().collect(),
        snapshot,
    })
}

/// An account as its backend opened it.
fn opened(account: usize, money: i64, policy: &Policy, overrides: &Overrides) -> Desk {
    let id = account_id(account);
    let now = Timestamp::from_nanos(DAWN);
    let mut desk = Desk::default();
    let mut book = Book::new(id.clone(), "USD".into(), "default".into(), now);
    let configure = Action::Configure(tollgate::ledger::Configure {
        name: None,
        policy: None,
        overrides: Some(overrides.clone()),
        ..Default::default()
    });
    let recharge = Action::Recharge {
        amount: Amount::from_nanos(money),
        order_id: "first".into(),
        priority: 0,
        expires: None,
        note: String::new(),
    };
    for action in [configure, recharge] {
        let command = Command {
            idempotency_key: None,
            action,
        };
        let policy = overrides.over(policy);
        let applied = apply(&book, Spent::default(), &command, &policy, now).unwrap();
        book = applied.book.clone();
        let commit = commit(desk.head.version, applied, &command);
        desk.commit(&commit, &Ground::default()).unwrap();
    }
    for key in 0..KEYS {
        let record = KeyRecord {
            id: key_id(key),
            account: id.clone(),
            digest: format!("{account}-{key}"),
            name: String::new(),
            hint: String::new(),
            created: now,
            expires: None,
            revoked: None,
            qps: None,
            models: Vec::new(),
            service: String::new(),
            budgets: Vec::new(),
        };
        desk.put_key(desk.head.version, record);
    }
    desk
}
