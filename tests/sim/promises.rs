//! What must hold after every step, and once everything is well again (DESIGN.md section 2). Each term of a bound says where it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tollgate::id::ReplicaId;
use tollgate::money::Amount;
use tollgate::store::desk::Desk;
use tollgate::store::shared::LiveRow;
use tollgate::store::{Publish, Published, Stored};

use super::setup::{MS, Micros, Setup};
use super::store::{Ask, Packet, Said};
use super::world::World;

/// A promise that was broken, and how.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) at: Micros,
    pub(crate) promise: &'static str,
    pub(crate) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, promise, how } = self;
        write!(f, "{promise}, at {} ms: {how}", at / MS)
    }
}

/// By how much one who counts may use more than the store has set aside for it, and why.
#[derive(Clone, Copy, Debug, Default)]
struct Over {
    /// Money: settlements above their holds until they are published; after a lapse, what was spent or held and not reported; after a
    /// loss of history, what the store does not know any more, until it is said again.
    money: i64,
    /// How much of that joined the bound.
    counted: i64,
    /// Calls in flight: of a replica that lapsed, or whose limit is new.
    places: u64,
    /// The places that the store granted: only these let calls in.
    granted: u64,
}

/// One account under watch.
#[derive(Debug)]
pub(crate) struct Watch {
    /// What was ever paid in or given, and the lowest floor.
    pub(crate) paid: i64,
    pub(crate) floor: i64,
    /// The published bound: what may be spent and held beyond that.
    bound: i64,
    over: Vec<Over>,
    /// Since which loss of the store each one's message was carried out.
    pub(crate) spoke: Vec<u64>,
    /// What the store has of each one's spend: within a history it never falls.
    stored: Vec<i64>,
    /// The highest total that anybody saw who has spoken in this history.
    best: i64,
    /// What those who have spoken saw spent, and is not said again yet: it must stay out of reach. But for what one message of each
    /// replica said and no store heard: it cannot know that.
    due: i64,
    unheard: i64,
    /// The store's history is new, and the fence is not over.
    fenced: bool,
    /// All shares of the rate and of places: more than the limit only where calls were in flight when it came, or what a new history did
    /// not know is said again; that only shrinks.
    shared: [u64; 2],
    /// All places that were granted: more than the limit only where it was lowered.
    granted: u64,
}

/// What stood before a message was carried out.
pub(crate) enum Before {
    Rows(BTreeMap<ReplicaId, LiveRow>),
    Seq(u64),
}

/// What one who counts has of an account, and what the store has set aside for it.
#[derive(Debug)]
struct Use {
    /// Spent and held.
    used: i64,
    /// With what it may still hold; what an expired lease would allow again once it is renewed is counted, if it is still set aside.
    usable: i64,
    committed: i64,
    /// How far settlements above their holds have taken it below nothing; of one that is down, what it has not published.
    debt: i64,
    leased: bool,
    rate: Option<u64>,
    places: Option<u64>,
    in_flight: u64,
    row_rate: u64,
    row_places: u64,
}

impl Use {
    fn above(&self) -> i64 {
        (self.usable - self.committed).max(0)
    }

    /// Places in use: calls in flight keep theirs.
    fn places_used(&self) -> u64 {
        let share = self.places.filter(|_| self.leased).unwrap_or(0);
        share.max(self.in_flight)
    }
}

impl Watch {
    pub(crate) fn new(setup: &Setup, account: usize) -> Self {
        let (policy, overrides) = &setup.policies[account];
        let policy = overrides.over(policy);
        Self {
            paid: setup.money[account],
            floor: policy.credit_limit.nanos(),
            bound: 0,
            over: Vec::new(),
            spoke: Vec::new(),
            stored: Vec::new(),
            best: 0,
            due: 0,
            unheard: 0,
            fenced: false,
            shared: [0; 2],
            granted: 0,
        }
    }

    pub(crate) fn joined(&mut self) {
        self.over.push(Over::default());
        self.spoke.push(0);
        self.stored.push(0);
    }

    /// A call cost more than was held for it.
    pub(crate) fn counted(&mut self, ident: usize, above: i64) {
        let above = above.max(0);
        self.over[ident].money += above;
        self.over[ident].counted += above;
        self.bound += above;
    }
}

fn ident_of(who: &ReplicaId) -> usize {
    who.as_str()[1..].parse().unwrap()
}

impl World {
    fn usage(&self, ident: usize, account: usize, desk: &Desk) -> Use {
        let counts = &self.idents[ident];
        let spend = counts.truth[account].spend;
        let row = desk.row(&counts.name).row;
        let replica = counts.slot.map(|slot| &self.replicas[slot]);
        let live = replica.filter(|replica| replica.up);
        let (held, in_flight) = live.map_or((0, 0), |replica| replica.open(account));
        let leased = live.is_some_and(|replica| replica.leased(account, self.now));
        let loaded = live.and_then(|replica| replica.loaded[account].as_ref());
        let headroom = loaded.map_or(0, |loaded| loaded.account.purse().headroom().nanos());
        let (rate, places) = loaded.map_or((Some(0), Some(0)), |loaded| loaded.account.shares());
        let committed = row.committed.nanos();
        let used = spend + held;
        let all = used + headroom.max(0);
        Use {
            used,
            usable: if leased {
                all
            } else {
                used.max(all.min(committed))
            },
            committed,
            debt: if loaded.is_some() {
                headroom.min(0).saturating_neg()
            } else {
                spend - row.spend.nanos()
            },
            leased,
            rate,
            places,
            in_flight,
            row_rate: row.rate.share,
            row_places: row.places.share,
        }
    }

    pub(crate) fn check_all(&mut self) {
        for account in 0..self.setup.accounts {
            self.check(account);
        }
    }

    /// What must hold at any moment.
    pub(crate) fn check(&mut self, account: usize) {
        let desk = Arc::clone(&self.store.desks[account]);
        let uses: Vec<_> = (0..self.idents.len())
            .map(|ident| self.usage(ident, account, &desk))
            .collect();
        self.check_money(account, &desk, &uses);
        self.check_limits(account, &desk, &uses);
    }

    /// P3: nobody uses more than the store has set aside for it, but for what [`Over`] says; so all together never use more than there
    /// is.
    fn check_money(&mut self, account: usize, desk: &Desk, uses: &[Use]) {
        let used: i64 = uses.iter().map(|one| one.used).sum();
        let watch = &mut self.watch[account];
        let most = watch.paid + watch.floor + watch.bound;
        if used > most {
            let how = format!("a{account}: {used} spent and held of {most}");
            self.breaks("P3 bounded overshoot", how);
            return;
        }
        if desk.book.is_none() {
            return;
        }
        let (mut above, fenced) = (0, watch.fenced);
        for (ident, one) in uses.iter().enumerate() {
            let over = &mut self.watch[account].over[ident];
            above += one.above();
            if one.above() > over.money {
                let how = format!(
                    "a{account}: r{ident} may use {} of {} set aside, which is {} more than {}",
                    one.usable,
                    one.committed,
                    one.above() - over.money,
                    over.money
                );
                self.breaks("P3 rights are set aside before they are used", how);
                return;
            }
            // A message that gives back may be on its way: what was overdrawn shows once it is there. So may an answer of a history that
            // is over.
            if !fenced {
                over.money = over.money.min(one.above().max(one.debt));
                over.counted = over.counted.min(over.money);
            }
        }
        let watch = &self.watch[account];
        if watch.fenced {
            return;
        }
        // What anybody saw spent, and the store does not have, is out of reach: so much less is at risk.
        let lost = desk.head.lost.nanos();
        let (due, unheard) = (watch.due, watch.unheard);
        let risk: i64 = watch.over.iter().map(|over| over.money).sum();
        let most = lost + unheard + (risk - due).max(0);
        if above > most {
            let how = format!(
                "a{account}: {above} more may be used than is set aside; {risk} are at risk, {due} were seen spent, {lost} are lost"
            );
            self.breaks("P3 what was seen spent stays out of reach", how);
        }
    }

    /// P4: the shares in force never exceed the limit, and nobody uses more than the store has given it.
    fn check_limits(&mut self, account: usize, desk: &Desk, uses: &[Use]) {
        let Some(book) = &desk.book else { return };
        let policy = self.policy_of(account, book);
        // Until everybody has heard of a lower limit, the higher one is in force somewhere.
        let (mut rate_limit, mut places_limit) = (policy.rate_limit(), policy.places_limit());
        let (mut no_rate, mut no_places) = (rate_limit == 0, places_limit == 0);
        for loaded in self
            .replicas
            .iter()
            .filter_map(|replica| replica.loaded[account].as_ref())
        {
            let rules = loaded.account.rules();
            let sent = loaded.sent.map(|sent| sent.limits);
            let known = (rules.policy.rate_limit(), rules.policy.places_limit());
            for (rate, places) in sent.into_iter().chain([known]) {
                rate_limit = rate_limit.max(rate);
                places_limit = places_limit.max(places);
                no_rate |= rate == 0;
                no_places |= places == 0;
            }
        }
        let fenced = self.watch[account].fenced;
        let (mut rates, mut places, mut over_places, mut granted) = (0, 0, 0, 0);
        let mut broken = None;
        for (ident, one) in uses.iter().enumerate() {
            let rate = one.rate.filter(|_| one.leased).unwrap_or(0);
            rates += rate;
            if rate > one.row_rate && !fenced && !no_rate {
                broken = Some(format!("rate: r{ident} uses {rate} of {}", one.row_rate));
            }
            let over = &mut self.watch[account].over[ident];
            granted += over.granted;
            let share = one.places.filter(|_| one.leased).unwrap_or(0);
            if share > over.granted && !fenced && !no_places {
                let granted = over.granted;
                broken = Some(format!(
                    "places: r{ident} lets in {share}, {granted} were granted"
                ));
            }
            let over = &mut over.places;
            let above = one.places_used().saturating_sub(one.row_places);
            if fenced {
                // What a new history does not know goes on as it was; it is not granted to others.
                *over = above.max(*over);
            } else if one.places.is_none() || no_places {
                // Without a limit: should there be one, what is in flight then is.
                *over = one.in_flight;
            } else if above > *over {
                let (used, row) = (one.places_used(), one.row_places);
                broken = Some(format!(
                    "places: r{ident} uses {used} of {row}, over {over}"
                ));
            } else {
                *over = above;
            }
            places += one.places_used();
            over_places += *over;
        }
        let watch = &mut self.watch[account];
        let shared = [desk.head.rate.shared, desk.head.places.shared];
        let limits = [rate_limit, places_limit];
        for (at, what) in ["rate", "places"].into_iter().enumerate() {
            let most = limits[at].max(watch.shared[at]);
            if shared[at] > most && limits[at] > 0 {
                broken = Some(format!("{what}: {} are shared of {most}", shared[at]));
            }
        }
        watch.shared = shared;
        let most = places_limit.max(watch.granted);
        if granted > most && !fenced && !no_places {
            broken = Some(format!("places: {granted} are granted of {most}"));
        }
        watch.granted = granted;
        if !no_rate && !fenced && rates > shared[0] {
            broken = Some(format!("rate: {rates} are in use of {}", shared[0]));
        }
        if !no_places && !fenced && places > shared[1] + over_places {
            let shared = shared[1];
            broken = Some(format!(
                "places: {places} are in use of {shared} and {over_places}"
            ));
        }
        if let Some(how) = broken {
            self.say(|world| format!("{uses:#?} {:?}", world.watch[account]));
            self.breaks(
                "P4 shares never exceed the limit",
                format!("a{account}: {how}"),
            );
        }
    }

    pub(crate) fn before(&self, packet: &Packet) -> Before {
        let desk = &self.store.desks[packet.account];
        match packet.ask {
            Ask::Lapse => Before::Rows(desk.rows.clone()),
            _ => Before::Seq(desk.row(&packet.who).row.seq),
        }
    }

    /// What must hold of the store after a message.
    pub(crate) fn after(&mut self, packet: &Packet, said: &Said, before: &Before) {
        let account = packet.account;
        let desk = Arc::clone(&self.store.desks[account]);
        match (&packet.ask, said) {
            (Ask::Publish(message), Said::Published(Ok(answer))) => {
                let spoke = matches!(before, Before::Seq(seq) if message.seq > *seq);
                self.published(packet, message, answer, spoke, &desk);
            }
            (Ask::Commit { command, .. }, Said::Stored(Ok(Stored::At(_)))) => {
                if let Some(number) = command {
                    self.executed(*number);
                }
                let broken = desk.book.as_ref().and_then(|book| book.invariants().err());
                if let Some(how) = broken {
                    self.breaks("P1 conservation", format!("a{account}: {how}"));
                }
            }
            (Ask::Lapse, _) => {
                if let Before::Rows(rows) = before {
                    self.lapsed(account, rows, &desk);
                }
            }
            (Ask::Publish(_), Said::Published(Err(tollgate::store::StoreError::NoAccount(_))))
            | (Ask::Open(_) | Ask::Read { .. } | Ask::Scarce(_), _) => return,
            (Ask::Publish(message), Said::Published(Err(error))) => {
                self.breaks("a message makes sense", format!("{error}: {message:?}"));
            }
            _ => {}
        }
        if let Err(how) = desk.invariants() {
            self.breaks("P1 conservation", format!("a{account}: {how}"));
        }
        self.check(account);
    }

    /// P2: what is stored of a replica's spend is never more than it spent, never falls within a history, and is what its usage says.
    fn published(
        &mut self,
        packet: &Packet,
        message: &Publish,
        answer: &Published,
        spoke: bool,
        desk: &Desk,
    ) {
        let (account, ident) = (packet.account, ident_of(&packet.who));
        let who = format!("a{account}: r{ident}");
        let spend = desk.row(&packet.who).row.spend.nanos();
        let truth = &self.idents[ident].truth[account];
        let (true_spend, seen_total) = (truth.spend, message.total.nanos());
        let watch = &mut self.watch[account];
        if spoke {
            watch.best = watch.best.max(seen_total);
        }
        let (believed, new) = (message.believed, message.new);
        let claims = [
            new.rate.saturating_sub(believed.rate),
            new.places.saturating_sub(believed.places),
        ];
        let known = watch.spoke[ident] == self.store.era;
        if answer.applied {
            let places = &mut watch.over[ident].granted;
            let fresh = answer.standing.places - new.places;
            let room = answer.places.shared <= message.places.limit;
            *places = if room {
                answer.standing.places
            } else {
                (*places).min(new.places) + fresh
            };
            watch.spoke[ident] = self.store.era;
            watch.shared[0] += claims[0];
            watch.shared[1] += claims[1];
        }
        let before = watch.stored[ident];
        let fell = spend < before;
        watch.stored[ident] = before.max(spend);
        let truth = &mut self.idents[ident].truth[account];
        if spoke {
            let stored: i64 = watch.stored.iter().sum();
            let missing = seen_total - (stored - (spend - before) + watch.due);
            watch.due += missing.max(0);
        }
        if answer.applied {
            let back = truth.stored.min(spend) - before;
            watch.due = (watch.due - back.max(0)).max(0);
            let over = message.seen.nanos().min(spend) - truth.stored.max(before);
            watch.unheard += over.max(0);
        }
        truth.stored = truth.stored.max(spend);
        let usage = desk.usage.iter();
        let usage = usage.filter(|((who, hour, ..), _)| *who == packet.who && hour.is_none());
        let usage: i64 = usage.map(|(_, tally)| tally.cost_nanos).sum();
        let all: i64 = self
            .idents
            .iter()
            .map(|ident| ident.truth[account].spend)
            .sum();
        let (total, lost) = (desk.head.total.nanos(), desk.head.lost.nanos());
        let best = self.watch[account].best;
        let granted = answer
            .standing
            .committed
            .saturating_sub(message.new.committed);
        let shares = [
            (
                &message.rate,
                message.new.rate,
                answer.standing.rate,
                answer.rate.shared,
            ),
            (
                &message.places,
                message.new.places,
                answer.standing.places,
                answer.places.shared,
            ),
        ];
        let crowded = shares
            .iter()
            .find(|(sought, new, stands, shared)| stands > new && *shared > sought.limit);
        if crowded.is_none() {
            // A late message may go by a limit that was lowered since.
            for (at, (_, new, stands, shared)) in shares.iter().enumerate() {
                if answer.applied && stands > new {
                    let watch = &mut self.watch[account];
                    watch.shared[at] = watch.shared[at].max(*shared);
                }
            }
            let watch = &mut self.watch[account];
            let granted: u64 = watch.over.iter().map(|over| over.granted).sum();
            if answer.applied && granted <= answer.places.shared {
                watch.granted = watch.granted.max(granted);
            }
        }
        let broken = if spend > true_spend {
            Some((
                "P2 exactly once",
                format!("{spend} stored, {true_spend} spent"),
            ))
        } else if fell {
            Some(("P2 exactly once", format!("what is stored fell to {spend}")))
        } else if usage != spend {
            Some((
                "P2 usage adds up to spend",
                format!("{usage} of usage, {spend} of spend"),
            ))
        } else if total > all {
            Some((
                "P2 exactly once",
                format!("the total is {total}, with {lost} lost; {all} were spent"),
            ))
        } else if total < best {
            Some((
                "P2 what was seen spent stays spent",
                format!("the total is {total}, {best} was seen"),
            ))
        } else if answer.applied && granted.is_positive() && desk.head.unleased.is_negative() {
            Some((
                "P3 no more is leased than there is",
                format!("{granted} granted"),
            ))
        } else if answer.applied && known && claims[0] > 0 {
            Some((
                "P4 a share is granted before it is used",
                format!("{message:?}"),
            ))
        } else if answer.applied
            && let Some((sought, ..)) = crowded
        {
            Some((
                "P4 no more is shared than the limit",
                format!("{sought:?}: {answer:?}"),
            ))
        } else {
            None
        };
        if let Some((promise, how)) = broken {
            self.breaks(promise, format!("{who}: {how}"));
        }
    }

    /// Silent replicas lost what they did not use: only if their lease was over by their own clock, too. What they spent and had not
    /// published, and held and had not reported, joins the bound.
    fn lapsed(&mut self, account: usize, before: &BTreeMap<ReplicaId, LiveRow>, desk: &Desk) {
        for (who, row) in before {
            let after = desk.rows.get(who);
            let (lapsed, retired) = (
                row.live && after.is_none_or(|row| !row.live),
                after.is_none(),
            );
            if !lapsed && !retired {
                continue;
            }
            self.done.lapsed += u64::from(lapsed);
            self.done.retired += u64::from(retired);
            let ident = ident_of(who);
            let one = self.usage(ident, account, desk);
            if one.leased {
                let how = format!("a{account}: r{ident} lapsed while its lease was in force");
                self.breaks("P3 a lease is not taken back while it may be used", how);
            }
            let row = &row.row;
            let held = if retired { Amount::ZERO } else { row.held };
            let kept = row
                .spend
                .saturating_add(held)
                .min(row.committed)
                .max(row.spend);
            let watch = &mut self.watch[account];
            let over = &mut watch.over[ident];
            let risk = (one.used - kept.nanos()).max(over.money);
            watch.bound += risk - over.counted;
            (over.money, over.counted) = (risk, risk);
            over.granted = 0;
            over.places = over.places.max(one.in_flight);
        }
    }

    /// The store's history is another one: it may know less of what is in use. Rights from before go on until their leases end; no new
    /// ones are given until then.
    pub(crate) fn lost(&mut self, before: &[Arc<Desk>]) {
        for (account, before) in before.iter().enumerate() {
            let desk = Arc::clone(&self.store.desks[account]);
            for ident in 0..self.idents.len() {
                let one = self.usage(ident, account, &desk);
                let stored = desk.row(&self.idents[ident].name).row.spend.nanos();
                let watch = &mut self.watch[account];
                watch.stored[ident] = stored;
                let over = &mut watch.over[ident];
                // What was set aside may have been used by now, or is by an answer on its way.
                let set_aside = before.row(&self.idents[ident].name).row.committed;
                let most = one.usable.max(set_aside.nanos()) - one.committed;
                over.money = over.money.max(most);
                let places = one.places_used().saturating_sub(one.row_places);
                over.places = over.places.max(places);
            }
            let watch = &mut self.watch[account];
            (watch.fenced, watch.best) = (true, 0);
            (watch.due, watch.unheard) = (0, 0);
            watch.shared = [desk.head.rate.shared, desk.head.places.shared];
        }
    }

    /// Somebody takes the fence to be over. Who has not spoken until now must not use what it had any more: what it spent and held, and
    /// the store does not know, joins the bound.
    pub(crate) fn fence_over(&mut self, account: usize) {
        if !std::mem::replace(&mut self.watch[account].fenced, false) {
            return;
        }
        let desk = Arc::clone(&self.store.desks[account]);
        for ident in 0..self.idents.len() {
            let one = self.usage(ident, account, &desk);
            let watch = &mut self.watch[account];
            if watch.spoke[ident] == self.store.era {
                continue;
            }
            let unknown = (one.used - one.committed).max(0);
            watch.bound += unknown;
            (watch.over[ident].money, watch.over[ident].counted) = (unknown, unknown);
            watch.over[ident].places = one.in_flight;
            watch.over[ident].granted = 0;
            let rate = one.rate.filter(|_| one.leased).unwrap_or(0);
            if one.leased && (one.above() > unknown || rate > one.row_rate) {
                let how = format!("a{account}: r{ident} has a lease that the store does not know");
                self.breaks("P3 a fence outlives every lease from before", how);
                return;
            }
        }
    }
}
