//! One account's side of the protocol as a state machine: what to tell the store next, and what its answer means. Sans-IO: it
//! is given `Now`, messages come out and answers go in.
//!
//! Every message says what *is*: the replica's spend and committed value, with what it believes is stored. So a message may be
//! lost, doubled or late, and its answer too: the next one says what is, again.

mod rules;
mod shares;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::{Hour, Monotonic, Now};
use crate::engine::{Account, Cell, CellId, Engine};
use crate::id::{KeyId, ModelName};
use crate::ledger::{Book, Spent};
use crate::local::counters;
use crate::money::Amount;
use crate::policy::Policy;
use crate::store::{History, LEASE_MAX, Opened, Publish, Published, Snapshot, Standing, UsageRow};
use crate::usage::Tally;
pub use rules::{inner_policy, rules};
use shares::{Said, Shares};

/// How many calls like the last one a lease is for, at least: so that a quiet account does not ask the store for each call.
const CALLS_AHEAD: i64 = 64;

/// Usage rows are kept for so many hours after theirs is over: calls admitted in an hour settle into it later.
pub(super) const HOURS_KEPT: i64 = 2;

/// The times of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Between two syncs.
    pub interval: Duration,
    /// How long the store keeps a silent replica's rights.
    pub lease: Duration,
    /// How much earlier the replica itself stops using them.
    pub margin: Duration,
    /// How many seconds of recent spend a lease is for.
    pub ahead: Duration,
    /// After how long without calls a lease goes back.
    pub idle: Duration,
    /// After how long without a word a replica is taken to be gone for good.
    pub retire: Duration,
}

impl Times {
    /// How long calls over a limit do not ask for more of it once the store has said what there is. Several times in an interval, so
    /// that a share follows its callers before the next one; and bounded, so that a flood of calls is no flood of messages.
    fn share_pause(&self) -> Duration {
        let pause = self.interval.checked_div(10).unwrap_or_default();
        pause.clamp(Duration::from_millis(5), Duration::from_millis(20))
    }
}

/// One account's side of the protocol.
#[derive(Debug)]
pub struct Line {
    seq: u64,
    /// What the store is believed to hold.
    acked: Standing,
    /// What this replica may spend and hold up to. `headroom = ceiling − spend − held`.
    ceiling: Amount,
    /// The sum of all cells as collected: what is published as spend.
    spend: Amount,
    /// How much of the spend a store may have had before it lost history: see [`Publish::seen`].
    seen: Amount,
    /// The most that any message ever said of it, heard or not.
    said: Amount,
    /// The last message was not answered, or an earlier run's may not have been: the store may have heard it, told others of it, and lost
    /// it since.
    unsure: bool,
    shares: Shares,
    /// In which history of the store the last answer was said.
    history: Option<History>,
    /// The store may not have heard of this replica since it lost something.
    unheard: bool,
    collected: HashMap<CellId, (Option<ModelName>, Tally)>,
    lifetime: BTreeMap<(KeyId, Option<ModelName>), Tally>,
    /// Rows that the store has not acknowledged, newest values.
    unsent: BTreeMap<RowId, UsageRow>,
    in_flight: Option<InFlight>,
    demand: Demand,
    /// The newest book and totals.
    pub known: Known,
    last_ok: Monotonic,
    failed: Option<Monotonic>,
    /// The last answer came from a history that grants nothing yet.
    fenced: bool,
    /// What it was leased by ended while a message was on its way: what its answer grants is of those leases too.
    ended: bool,
    /// Rights of leases that ended went back, and the store has not heard so. What they were of may have expired, and is written off
    /// only when the ledger looks: so the message that says so asks for nothing, and the ledger looks after it.
    unsaid: bool,
}

type RowId = (Option<Hour>, KeyId, Option<ModelName>);

/// What a replica has counted of an account, and what it remembers, when it takes it up.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The cells it goes on counting into.
    pub cells: Vec<(CellId, Option<ModelName>, Tally)>,
    /// By key and model, over all time, with what is in the cells. Its costs are the spend.
    pub lifetime: BTreeMap<(KeyId, Option<ModelName>), Tally>,
    /// How much of the spend a store may have had: [`Line::seen`].
    pub seen: Amount,
    /// The highest total of spend over all replicas that was seen.
    pub total: Amount,
    /// In which history of the store that was.
    pub history: Option<History>,
}

impl Own {
    /// What a replica without a memory of its own goes by: what it published before, as the store has it.
    pub fn published(opened: &Opened, cells: Vec<(CellId, Option<ModelName>, Tally)>) -> Self {
        let lifetime = opened.usage.iter().filter(|row| row.hour.is_none());
        Self {
            cells,
            lifetime: lifetime
                .map(|row| ((row.key.clone(), row.model.clone()), row.tally))
                .collect(),
            ..Self::default()
        }
    }
}

#[derive(Debug)]
struct InFlight {
    sent: Monotonic,
    /// It says that leases have ended: see [`Line::unsaid`].
    ended: bool,
    message: Publish,
}

/// What waiting calls are short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// All of them together.
    pub all: Amount,
    /// The one that wants the least.
    pub least: Amount,
}

/// What goes back to the store beyond what is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Give {
    /// Nothing: what is in use stays.
    #[default]
    Spare,
    /// All money that is not held: others have none.
    Money,
    /// The same, and nothing is asked for: what it was leased by is over, and the ledger looks first.
    Ended,
    /// All money that is not held, and all shares: this replica leaves, or nobody calls here.
    All,
}

/// The newest that is known of an account.
#[derive(Clone, Debug)]
pub struct Known {
    /// Of the book and the keys.
    pub version: u64,
    /// The book.
    pub book: Book,
    /// The spend of all replicas.
    pub total: Amount,
    /// What may still be leased.
    pub unleased: Amount,
    /// See [`Snapshot::lost`].
    pub lost: Amount,
}

/// How fast money goes.
#[derive(Debug, Default)]
struct Demand {
    since: Monotonic,
    spend: Amount,
    per_second: Amount,
    last_need: Amount,
    last_used: Monotonic,
}

/// What an answer asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Read the book and keys: they are newer than known.
    pub refresh: bool,
    /// Let the ledger look: a threshold was crossed or something is due.
    pub observe: bool,
    /// Say it again at once: the store held something else.
    pub again: bool,
    /// Other replicas have what is missing here.
    pub scarce: bool,
    /// What waits did not get all it needs.
    pub short: bool,
    /// Other replicas have more of a limit than is their part; with the demand of all for the rate and for calls in flight.
    pub crowded: Option<(u64, u64)>,
    /// There is nothing here of a limit that callers need: they wait for the others to give back.
    pub shareless: bool,
    /// The store may lack what this replica knows of the account: see what, and put it back.
    pub rejoin: bool,
    /// The store had lost this much of our spend.
    pub healed: Amount,
}

impl Line {
    /// An account as it was taken up, with what this replica itself has counted. What of that the store does not have goes out with the
    /// first message.
    pub fn new(opened: &Opened, own: Own, now: Now) -> Self {
        let Opened { snapshot, row, .. } = opened;
        let collected: HashMap<_, _> = own
            .cells
            .into_iter()
            .map(|(id, model, tally)| (id, (model, tally)))
            .collect();
        let mut unsent = BTreeMap::new();
        for (id, row) in rows(&collected, &own.lifetime) {
            if row.tally != Tally::default() && !opened.usage.contains(&row) {
                unsent.insert(id, row);
            }
        }
        let costs = own.lifetime.values().map(|tally| tally.cost_nanos);
        let spend = Amount::from_nanos(costs.fold(0, i64::saturating_add));
        Self {
            seq: row.seq,
            acked: row.standing(),
            ceiling: spend,
            spend,
            seen: own.seen.max(row.spend),
            // An earlier run of this replica may have said all of it, without having heard the answer.
            said: spend,
            unsure: true,
            shares: Shares::default(),
            history: own.history,
            unheard: false,
            collected,
            lifetime: own.lifetime,
            unsent,
            in_flight: None,
            demand: Demand {
                since: now.mono,
                spend,
                last_used: now.mono,
                ..Demand::default()
            },
            known: Known {
                version: snapshot.version,
                book: snapshot.book.clone(),
                total: snapshot.spend.max(own.total),
                unleased: snapshot.unleased,
                lost: snapshot.lost,
            },
            last_ok: now.mono,
            failed: None,
            fenced: false,
            ended: false,
            unsaid: false,
        }
    }

    /// Takes in what the cells have counted since the last time.
    pub fn collect(&mut self, account: &Account, engine: &Engine, now: Now) {
        for cell in account.take_dirty() {
            let model = engine.model_name(cell.id().model);
            self.collect_cell(&cell, model);
            self.demand.last_used = now.mono;
        }
        // What calls of ended leases gave back is not for this one.
        let stale = account.take_stale();
        self.ceiling = self.ceiling.saturating_sub(stale);
        self.unsaid |= stale.is_positive();
    }

    fn collect_cell(&mut self, cell: &Cell, model: Option<ModelName>) {
        let (id, tally) = (cell.id(), cell.collect());
        let known = self.collected.insert(id.clone(), (model.clone(), tally));
        let (_, before) = known.unwrap_or_default();
        let fresh = tally.since(&before);
        self.spend = self
            .spend
            .saturating_add(Amount::from_nanos(fresh.cost_nanos));
        let CellId { hour, key, .. } = id;
        let total = self
            .lifetime
            .entry((key.clone(), model.clone()))
            .or_default();
        total.add(&fresh);
        for (hour, tally) in [(Some(hour), tally), (None, *total)] {
            let (id, row) = row(hour, &key, model.as_ref(), tally);
            self.unsent.insert(id, row);
        }
    }

    /// Whether there is something to say, if nobody waits for more.
    pub fn has_news(&self, account: &Account, times: &Times, now: Now) -> bool {
        let leased = self.ceiling > self.spend;
        let heartbeat = leased
            && now.mono.since(self.last_ok) >= times.lease.checked_div(3).unwrap_or_default();
        let money = leased && account.purse().headroom().is_positive();
        let spare = money || self.shares.spare(account.in_flight().into());
        let idle = spare && self.is_idle(times, now);
        // Rights were given back without a message: the book lost credit, or an earlier run of this replica had them.
        let free = self.standing() != self.acked || self.shares.over(account.in_flight().into());
        // Nobody knows what became of a message that was not answered: it may have been granted something.
        let unheard = self.unheard || self.failed.is_some();
        heartbeat || idle || free || unheard || !self.unsent.is_empty()
    }

    /// The store may have lost what was said, though no answer showed it: it is said again, also if there is nothing new.
    pub fn say_again(&mut self, account: &Account) {
        self.unheard = true;
        self.unsent.extend(rows(&self.collected, &self.lifetime));
        self.may_have_lost();
        self.note_seen(account);
    }

    /// The store before may have heard what was said and not answered. Should it not have, no more is at stake than one message said; to
    /// leave it out would count it twice for good.
    fn may_have_lost(&mut self) {
        self.seen = self.seen.max(self.said);
    }

    /// What was seen is kept beside the counters.
    fn note_seen(&self, account: &Account) {
        let known = &self.known;
        account.totals().saw(self.seen, known.total, known.version);
    }

    fn is_idle(&self, times: &Times, now: Now) -> bool {
        now.mono.since(self.demand.last_used) >= times.idle
    }

    /// Whether the store has taken all that was counted.
    pub fn all_said(&self) -> bool {
        self.unsent.is_empty() && self.in_flight.is_none() && self.spend == self.acked.spend
    }

    /// Whether nothing is leased, held, waiting or unsaid: the account may be let go.
    pub fn at_rest(&self, account: &Account) -> bool {
        self.all_said()
            && self.ceiling == self.spend
            && self.standing() == self.acked
            && account.in_flight() == 0
    }

    /// How long nobody has called.
    pub fn rested(&self, now: Now) -> Duration {
        now.mono.since(self.demand.last_used)
    }

    /// Whether a message is on its way.
    pub const fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether the last message failed less than an interval ago: asking again at once would only add to the load.
    pub fn failed_lately(&self, times: &Times, now: Now) -> bool {
        self.failed
            .is_some_and(|at| now.mono.since(at) < times.interval)
    }

    /// Whether the store, when it last answered, granted nothing to anybody.
    pub const fn fenced(&self) -> bool {
        self.fenced
    }

    /// How old what is known of the account may be: how long ago it was last heard of, if anything is leased. One at rest is not stale: it
    /// is read when it is called.
    pub fn staleness(&self, now: Now) -> Duration {
        if self.ceiling > self.spend {
            now.mono.since(self.last_ok)
        } else {
            Duration::ZERO
        }
    }

    /// Whether the last message failed.
    pub const fn failing(&self) -> bool {
        self.failed.is_some()
    }

    /// What is to be stored for this replica.
    fn standing(&self) -> Standing {
        self.shares.standing(Standing {
            spend: self.spend,
            committed: self.ceiling.max(self.spend),
            ..Standing::default()
        })
    }

    /// The next message, unless one is on its way. `need` is what waiting calls are short of, in all and for the least of them.
    pub fn message(
        &mut self,
        account: &Account,
        need: Need,
        give: Give,
        policy: &Policy,
        times: &Times,
        now: Now,
    ) -> Option<Publish> {
        if self.in_flight.is_some() {
            return None;
        }
        let give = if self.unsaid && give != Give::All {
            Give::Ended
        } else {
            give
        };
        let Need { all: need, least } = need;
        if need.is_positive() {
            self.demand.last_used = now.mono;
            self.demand.last_need = need;
        }
        let resting = give == Give::All || self.is_idle(times, now);
        let (need, least) = if give == Give::Ended {
            (Amount::ZERO, Amount::ZERO)
        } else {
            (need, least)
        };
        // Credit that has expired is kept for what is held of it, and what is leased and idle looks just like that: as long as there is
        // any, no more is leased than calls wait for.
        let kept = self.known.book.blocks.iter().any(|block| block.expired);
        let target = if resting || kept || matches!(give, Give::Money | Give::Ended) {
            Amount::ZERO
        } else {
            self.target(times, now)
        };
        // What lets none of the waiting calls pass is kept from others only.
        let stranded = give == Give::Money && account.purse().headroom() < least;
        let keep = if stranded { Amount::ZERO } else { need };
        let given = account.purse().give_back(twice(target).max(keep));
        if give == Give::Ended {
            account.next_epoch();
            self.ended = false;
        }
        let ended = std::mem::take(&mut self.unsaid) || give == Give::Ended;
        self.ceiling = self.ceiling.saturating_sub(given);
        let headroom = account.purse().headroom();
        // A refill begins at half the target, so that it is there before the lease is dry and does not come with every message.
        let low = twice(headroom) < target || need > headroom;
        let want = if low {
            target.max(need).saturating_sub(headroom).or_zero()
        } else {
            Amount::ZERO
        };
        let (rate, places) = self
            .shares
            .say(account, policy, resting, times.interval, now);
        self.seq = self.seq.saturating_add(1);
        let seen = if self.unsure {
            self.seen.max(self.said)
        } else {
            self.seen
        };
        self.said = self.said.max(self.spend);
        let message = Publish {
            account: account.id().clone(),
            seq: self.seq,
            history: self.history,
            believed: self.acked,
            new: self.standing(),
            held: self.held(account),
            want: want.min(LEASE_MAX),
            need: need.saturating_sub(headroom).or_zero().min(LEASE_MAX),
            least: if self.others_free().is_positive() {
                least.saturating_sub(headroom).or_zero().min(LEASE_MAX)
            } else {
                // Nobody could wait for it: calls that need less find it here.
                Amount::ZERO
            },
            seen,
            // What a book has absorbed was spent, whoever saw it.
            total: self.known.total.max(self.known.book.absorbed),
            rate,
            places,
            usage: std::mem::take(&mut self.unsent).into_values().collect(),
        };
        self.in_flight = Some(InFlight {
            sent: now.mono,
            ended,
            message: message.clone(),
        });
        Some(message)
    }

    /// The holds open now.
    pub fn held(&self, account: &Account) -> Amount {
        let held = self
            .ceiling
            .saturating_sub(self.spend)
            .saturating_sub(account.purse().headroom());
        held.or_zero()
    }

    /// What the store does not know yet.
    pub fn unpublished(&self) -> Amount {
        self.spend.saturating_sub(self.acked.spend)
    }

    /// How much of the spend a store may have had: [`Own::seen`], to be kept.
    pub const fn seen(&self) -> Amount {
        self.seen
    }

    /// In which history of the store the last answer was said: [`Own::history`], to be kept.
    pub const fn history(&self) -> Option<History> {
        self.history
    }

    /// What is leased and not spent.
    pub fn leased(&self) -> Amount {
        self.ceiling.saturating_sub(self.spend).or_zero()
    }

    /// How much headroom to keep: some seconds of recent spend, and some calls like the last ones.
    fn target(&mut self, times: &Times, now: Now) -> Amount {
        let demand = &mut self.demand;
        let elapsed = now.mono.since(demand.since);
        if elapsed >= Duration::from_secs(1) {
            let spent = i128::from(self.spend.saturating_sub(demand.spend).nanos());
            let millis = i128::try_from(elapsed.as_millis())
                .unwrap_or(i128::MAX)
                .max(1);
            let per_second = spent.saturating_mul(1_000).checked_div(millis).unwrap_or(0);
            demand.per_second = Amount::from_nanos(i64::try_from(per_second).unwrap_or(i64::MAX));
            (demand.since, demand.spend) = (now.mono, self.spend);
        }
        let ahead = i64::try_from(times.ahead.as_secs())
            .unwrap_or(i64::MAX)
            .max(1);
        let by_time = demand.per_second.nanos().saturating_mul(ahead);
        let by_calls = demand.last_need.nanos().saturating_mul(CALLS_AHEAD);
        Amount::from_nanos(by_time.max(by_calls).clamp(0, LEASE_MAX.nanos()))
    }

    /// Takes in an answer, or that there was none.
    pub fn answer(
        &mut self,
        account: &Account,
        answer: Option<&Published>,
        policy: &Policy,
        times: &Times,
        now: Now,
    ) -> Next {
        let Some(InFlight {
            sent,
            ended,
            message,
        }) = self.in_flight.take()
        else {
            return Next::default();
        };
        self.unsaid |= ended && !answer.is_some_and(|answer| answer.applied);
        let Some(answer) = answer else {
            self.keep(message.usage);
            self.failed = Some(now.mono);
            self.unsure = true;
            if policy.store_outage == crate::policy::StoreOutage::Refuse {
                account.lease_until(Monotonic::default());
            }
            return Next::default();
        };
        self.failed = None;
        let healed = self.seen.saturating_sub(answer.standing.spend).or_zero();
        let another = self.history.is_some_and(|known| known != answer.history);
        // A store that was emptied and filled again by others goes on with its history: but then its spend fell, or it is fenced anew.
        let emptied = healed.is_positive() || (answer.fenced && !self.fenced);
        self.fenced = answer.fenced;
        let mut next = Next {
            refresh: answer.version > self.known.version,
            rejoin: answer.version < self.known.version || another || emptied,
            healed,
            ..Next::default()
        };
        self.seen = self.seen.max(answer.standing.spend);
        if self.history != Some(answer.history) {
            self.may_have_lost();
        }
        if next.rejoin || next.healed.is_positive() {
            // Rows that were acknowledged may be lost as well.
            self.unsent.extend(rows(&self.collected, &self.lifetime));
        }
        // Another history: what the store lacks it may have lost, and what we have is ours while our own lease runs.
        let forgot = self.history != Some(answer.history) && account.leased(now.mono);
        self.history = Some(answer.history);
        self.unheard = false;
        let believed = self.acked;
        self.acked = answer.standing;
        self.known.total = answer.total.max(self.known.total);
        self.known.unleased = answer.unleased;
        self.known.lost = answer.lost;
        self.note_seen(account);
        if !answer.applied {
            self.seq = self.seq.max(answer.seq);
            self.keep(message.usage);
            if falls(believed, answer.standing) && !forgot {
                self.lapsed(account, answer.standing, now);
            }
            next.again = true;
            return next;
        }
        next.healed = Amount::ZERO;
        self.unsure = false;
        acknowledge(account, &message.usage);
        account
            .purse()
            .grant(answer.standing.committed.saturating_sub(self.ceiling));
        self.ceiling = answer.standing.committed;
        if self.ended {
            self.end_lease(account);
        }
        account.end_outage();
        self.last_ok = now.mono;
        let said = Said {
            rate: message.rate,
            places: message.places,
            kept: message.new,
        };
        let met = self
            .shares
            .met(account, &said, answer, times.share_pause(), now.mono);
        account.lease_until(sent.plus(times.lease.saturating_sub(times.margin)));
        self.follow_standing(account, policy, now);
        let granted = answer
            .standing
            .committed
            .saturating_sub(message.new.committed);
        next.short = message.need.is_positive() && granted < message.need;
        next.scarce = next.short && !answer.fenced && self.others_free().is_positive();
        if !answer.fenced {
            (next.crowded, next.shareless) = (met.short, met.none);
        }
        self.give_back_missing(account);
        let book = &self.known.book;
        let spent = Spent::of(book, self.known.total, self.known.unleased);
        let due = ended || book.wants_observing(spent, policy, now.wall);
        next.observe = !answer.fenced && due;
        next
    }

    /// What was leased must not be used any more, as what it was leased by has changed: it goes back, and what calls hold of it goes
    /// back as they end. The store hears of it with the next message.
    pub fn end_lease(&mut self, account: &Account) {
        let given = account.purse().give_back(Amount::ZERO);
        self.ceiling = self.ceiling.saturating_sub(given);
        account.next_epoch();
        self.ended = self.in_flight.is_some();
        self.unsaid = true;
    }

    /// The store gave our free rights to others while we were silent: only what is held stays ours.
    fn lapsed(&mut self, account: &Account, stands: Standing, now: Now) {
        self.ceiling = self
            .ceiling
            .saturating_sub(account.purse().give_back(Amount::ZERO));
        self.shares.cut_to(account, stands, now.mono);
    }

    /// Others have nothing left of a limit, and say how much all ask for.
    pub fn heard(&mut self, rate: u64, places: u64, policy: &Policy) {
        self.shares.heard(rate, places, policy);
    }

    /// Rows whose message failed go out again, unless there are newer ones.
    fn keep(&mut self, rows: Vec<UsageRow>) {
        for row in rows {
            let id = (row.hour, row.key.clone(), row.model.clone());
            self.unsent.entry(id).or_insert(row);
        }
    }

    /// What other replicas have leased and not spent: committed in all, less ours, less what they have spent.
    fn others_free(&self) -> Amount {
        let Known {
            book,
            total,
            unleased,
            ..
        } = &self.known;
        let committed = book
            .lifetime_credit
            .saturating_add(book.floor)
            .saturating_sub(*unleased);
        let theirs = committed.saturating_sub(self.acked.committed);
        theirs.saturating_sub(total.saturating_sub(self.acked.spend))
    }

    /// Takes up a newer book.
    pub fn follow(&mut self, account: &Account, snapshot: Snapshot, policy: Policy, now: Now) {
        if snapshot.version < self.known.version {
            return;
        }
        let Snapshot {
            version,
            book,
            spend,
            unleased,
            lost,
            ..
        } = snapshot;
        if lost > self.known.lost && self.acked.spend.is_positive() {
            // Some of it may be ours, which we said for the last time before it was lost.
            self.say_again(account);
        }
        let total = spend.max(self.known.total);
        let ends = |book: &Book, total| book.money_deadline(total, &policy, now.wall);
        let ended = match (ends(&self.known.book, self.known.total), ends(&book, total)) {
            // Others may have looked before this replica's clock came to that instant.
            (Some(before), Some(after)) => after > before,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if ended || account.lease_over(now) {
            self.end_lease(account);
        }
        self.known = Known {
            version,
            book,
            total,
            unleased,
            lost,
        };
        self.go_by(account, policy, now);
        account.dry_until(Monotonic::default());
        self.give_back_missing(account);
    }

    /// More is committed than there is: credit expired, or was taken away. What is free here goes back, as far as it makes up for
    /// that, and at once: the store hears of it with the next message. Other replicas do the same, so together they may give back
    /// more than is missing; whoever needs it leases it again.
    fn give_back_missing(&mut self, account: &Account) {
        let missing = Amount::ZERO.saturating_sub(self.known.unleased).or_zero();
        if !missing.is_positive() {
            return;
        }
        let keep = account.purse().headroom().saturating_sub(missing).or_zero();
        let given = account.purse().give_back(keep);
        self.ceiling = self.ceiling.saturating_sub(given);
        self.known.unleased = self.known.unleased.saturating_add(given);
    }

    /// Good standing, and what follows from it, depends on the total, which comes with every answer.
    fn follow_standing(&mut self, account: &Account, policy: &Policy, now: Now) {
        let fresh = rules(&self.known.book, self.known.total, policy.clone(), now);
        // One that ended is looked at by the ledger before there is another.
        if **account.rules() != fresh && !account.lease_over(now) {
            self.go_by(account, policy.clone(), now);
        }
    }

    /// Puts a policy in force.
    pub fn go_by(&mut self, account: &Account, policy: Policy, now: Now) {
        if account.lease_over(now) {
            self.end_lease(account);
        }
        account.follow(rules(&self.known.book, self.known.total, policy, now));
        let rules = account.rules();
        self.shares.clip(account, &rules.policy, now.mono);
    }

    /// Lets go of what belongs to hours long past.
    pub fn forget(&mut self, account: &Account, now: Now) {
        let Hour(hour) = now.wall.hour();
        for id in account.forget_before(Hour(hour.saturating_sub(HOURS_KEPT))) {
            self.collected.remove(&id);
        }
    }
}

/// A row of usage, and where it stands.
fn row(
    hour: Option<Hour>,
    key: &KeyId,
    model: Option<&ModelName>,
    tally: Tally,
) -> (RowId, UsageRow) {
    let (key, model) = (key.clone(), model.cloned());
    let row = UsageRow {
        hour,
        key: key.clone(),
        model: model.clone(),
        tally,
    };
    ((hour, key, model), row)
}

/// All rows of usage: by hour, and over all time.
fn rows<'a>(
    collected: &'a HashMap<CellId, (Option<ModelName>, Tally)>,
    lifetime: &'a BTreeMap<(KeyId, Option<ModelName>), Tally>,
) -> impl Iterator<Item = (RowId, UsageRow)> + 'a {
    let hours = collected
        .iter()
        .map(|(id, (model, tally))| row(Some(id.hour), &id.key, model.as_ref(), *tally));
    let lifetime = lifetime
        .iter()
        .map(|((key, model), tally)| row(None, key, model.as_ref(), *tally));
    hours.chain(lifetime)
}

/// The store has these rows of hours.
fn acknowledge(account: &Account, rows: &[UsageRow]) {
    for row in rows {
        let Some(hour) = row.hour else { continue };
        let (key, model) = (row.key.clone(), row.model.clone());
        account.acknowledge(&counters::RowId { hour, key, model }, &row.tally);
    }
}

/// Whether less stands than was believed.
fn falls(believed: Standing, stands: Standing) -> bool {
    let (rate, places) = (stands.rate < believed.rate, stands.places < believed.places);
    stands.committed < believed.committed || rate || places
}

fn twice(amount: Amount) -> Amount {
    amount.saturating_add(amount)
}

#[cfg(test)]
mod tests;
