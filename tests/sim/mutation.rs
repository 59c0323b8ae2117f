//! Mistakes made on purpose, to see that the promises notice: each stands between the real machines and what they are told, or say, or
//! between two steps of the driver. None is in the machines themselves.

use std::time::Duration;

use tollgate::books::remember::{PutBack, Stands};
use tollgate::clock::Monotonic;
use tollgate::id::ReplicaId;
use tollgate::ledger::EntryKind;
use tollgate::money::Amount;
use tollgate::store::desk::Desk;
use tollgate::store::shared::{Ground, Tombstone};
use tollgate::store::{Publish, Published, Standing, StoreError, UsageRow};

use super::replica::Loaded;
use super::setup::{LEASE, MS, RETIRE};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    // What the store does with a message.
    /// It does not compare what stands with what is believed.
    SkipsBelieved,
    /// A repeat is added once more.
    AddsRepeats,
    /// An older message is carried out like a newer one.
    IgnoresSeq,
    /// What is granted can be granted again.
    GrantsTwice,
    /// The answer says more than was set aside.
    AnswersMore,
    /// Shares are granted beyond the limit.
    SharesBeyond,
    /// Nothing that was lost is found again: what is said again is added.
    HealsByAdding,
    /// What somebody saw spent, and it does not have, is not set aside.
    ForgetsLost,
    /// A replica that was retired and comes back begins from zero.
    BeginsFromZero,
    // What it does with silence and loss.
    /// No fence.
    NoFence,
    /// One that is too short.
    ShortFence,
    /// None for an account that is put back into a history that was taken for an old one.
    NoFenceOfItsOwn,
    /// Silent replicas lose what they hold.
    LapseTakesHolds,
    /// Silence is over too soon.
    LapsesSoon,
    /// Nothing is left of who retires.
    ForgetsTombstones,
    // What a replica says.
    /// It says what it saw in total no more.
    NoTotal,
    /// It does not know what an unanswered message may have told a store that is gone.
    ForgetsSaid,
    /// Rows of usage whose message was lost are not said again.
    RowsOnce,
    /// Rows that a store had acknowledged and lost are not said again.
    RowsAcknowledged,
    // What a replica does.
    /// It uses its lease for ever.
    NoSelfFence,
    /// It uses its lease up to the moment when the store takes it back.
    NoMargin,
    /// Its lease runs from the answer.
    LeaseFromAnswer,
    /// It takes an answer of another history for one that renews its lease.
    LeaseFromLoss,
    /// It goes on using what it gave back.
    KeepsCeiling,
    /// It goes on using shares that it lost while it was silent.
    KeepsShares,
    /// It goes on using shares that it gives back, until it hears that they were.
    GivesBackLate,
    /// Places that calls in flight keep let others in.
    KeptPlacesOpen,
    // What it remembers and puts back.
    /// It puts nothing back.
    PutsNothingBack,
    /// It puts an adjustment back that is there.
    AdjustsTwice,
    /// It leaves versions to be used again.
    ReusesVersions,
    /// It takes a book in before what it remembers is compared with it.
    TakesInUncompared,
    /// It says nothing to a new history if it has nothing new to say.
    QuietRejoin,
    /// It remembers of a command only what it wrote.
    RemembersLittle,
    /// And takes that for all there is.
    TakesPartForWhole,
}

/// All of them, and within how many seeds each must be found: several times what it takes now, as the next change of a machine throws
/// the dice anew.
///
/// One that is not here, as nothing broke in 2,000 seeds: to leave out in which history a message believes what it believes. A store that fell back
/// to just that has heard a message that was not answered, and the next one says what that may have told it.
pub(crate) const ALL: &[(Mutation, u64)] = &[
    (Mutation::SkipsBelieved, 20),
    (Mutation::AddsRepeats, 20),
    (Mutation::IgnoresSeq, 200),
    (Mutation::GrantsTwice, 20),
    (Mutation::AnswersMore, 20),
    (Mutation::SharesBeyond, 20),
    (Mutation::HealsByAdding, 20),
    (Mutation::ForgetsLost, 50),
    (Mutation::BeginsFromZero, 2_000),
    (Mutation::NoFence, 20),
    (Mutation::ShortFence, 500),
    (Mutation::NoFenceOfItsOwn, 2_000),
    (Mutation::LapseTakesHolds, 1_000),
    (Mutation::LapsesSoon, 300),
    (Mutation::ForgetsTombstones, 100),
    (Mutation::NoTotal, 500),
    (Mutation::ForgetsSaid, 50),
    (Mutation::RowsOnce, 20),
    (Mutation::RowsAcknowledged, 20),
    (Mutation::NoSelfFence, 100),
    (Mutation::NoMargin, 100),
    (Mutation::LeaseFromAnswer, 200),
    (Mutation::LeaseFromLoss, 50),
    (Mutation::KeepsCeiling, 20),
    (Mutation::KeepsShares, 4_000),
    (Mutation::GivesBackLate, 100),
    (Mutation::KeptPlacesOpen, 20),
    (Mutation::PutsNothingBack, 200),
    (Mutation::AdjustsTwice, 100),
    (Mutation::ReusesVersions, 2_000),
    (Mutation::TakesInUncompared, 500),
    (Mutation::QuietRejoin, 2_000),
    (Mutation::RemembersLittle, 4_000),
    (Mutation::TakesPartForWhole, 4_000),
];

/// What a mistake of a replica needs to know of its past.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Rows of the message on its way, of messages that were lost, and that were acknowledged.
    sent: Vec<UsageRow>,
    lost: Vec<UsageRow>,
    acknowledged: Vec<UsageRow>,
    /// The spend that was acknowledged.
    acked: Amount,
    shares: (Option<u64>, Option<u64>),
}

type Maybe = Option<Mutation>;

/// Whether a replica takes a history of this age for one that grants nothing.
pub(crate) fn fenced(mutation: Maybe, age: Duration) -> bool {
    let fence = match mutation {
        Some(Mutation::NoFence) => 0,
        Some(Mutation::ShortFence) => LEASE / 8,
        _ => LEASE,
    };
    age < Duration::from_micros(fence)
}

/// The difference that a message makes, on whatever stands.
fn on_top(stands: Standing, message: &Publish) -> Publish {
    let (old, new) = (message.believed, message.new);
    let spend = stands
        .spend
        .saturating_add(new.spend.saturating_sub(old.spend));
    let committed = stands
        .committed
        .saturating_add(new.committed.saturating_sub(old.committed));
    Publish {
        believed: stands,
        new: Standing {
            spend,
            committed: committed.max(spend),
            ..new
        },
        ..message.clone()
    }
}

/// Carries out a message.
pub(crate) fn publish(
    mutation: Maybe,
    desk: &mut Desk,
    who: &ReplicaId,
    message: &Publish,
    ground: &Ground,
) -> Result<Published, StoreError> {
    let mut message = message.clone();
    let stands = desk.row(who).row;
    let old = message.seq <= stands.seq;
    let set_seq = |desk: &mut Desk, seq: u64| {
        if let Some(row) = desk.rows.get_mut(who) {
            row.row.seq = seq;
        }
    };
    match mutation {
        Some(Mutation::SkipsBelieved) if !old => message = on_top(stands.standing(), &message),
        Some(Mutation::AddsRepeats) if message.seq == stands.seq => {
            message = on_top(stands.standing(), &message);
            set_seq(desk, message.seq - 1);
        }
        Some(Mutation::IgnoresSeq) if old => set_seq(desk, message.seq.saturating_sub(1)),
        Some(Mutation::SharesBeyond) => {
            message.rate.limit *= 2;
            message.places.limit *= 2;
        }
        Some(Mutation::HealsByAdding) => message.seen = Amount::ZERO,
        Some(Mutation::BeginsFromZero) => {
            if let Some(left) = desk.tombstones.remove(who) {
                let other = ReplicaId::new(&format!("{who}x")).unwrap();
                desk.tombstones.insert(other, left);
            }
        }
        _ => {}
    }
    let mut answer = desk.publish(who, &message, ground)?;
    if mutation == Some(Mutation::IgnoresSeq) && old {
        set_seq(desk, stands.seq);
    }
    if mutation == Some(Mutation::ForgetsLost) {
        let head = &mut desk.head;
        let lost = std::mem::take(&mut head.lost);
        head.total = head.total.saturating_sub(lost);
        head.unleased = head.unleased.saturating_add(lost);
    }
    let granted = answer
        .standing
        .committed
        .saturating_sub(message.new.committed);
    if answer.applied && mutation == Some(Mutation::GrantsTwice) {
        desk.head.unleased = desk.head.unleased.saturating_add(granted);
    }
    if answer.applied && mutation == Some(Mutation::AnswersMore) {
        answer.standing.committed = answer.standing.committed.saturating_add(granted);
    }
    Ok(answer)
}

/// For how long an account is fenced that is put back, in ms.
pub(crate) fn own_fence(mutation: Maybe) -> u64 {
    match mutation {
        Some(Mutation::NoFence | Mutation::NoFenceOfItsOwn) => 0,
        _ => LEASE / MS,
    }
}

/// Takes back what silent replicas have.
pub(crate) fn lapse(mutation: Maybe, desk: &mut Desk, age: Duration, ground: &Ground) {
    let mut silence = LEASE / MS;
    match mutation {
        Some(Mutation::LapseTakesHolds) => {
            for row in desk.rows.values_mut() {
                row.row.held = Amount::ZERO;
            }
        }
        Some(Mutation::LapsesSoon) => silence /= 2,
        _ => {}
    }
    let before = desk.tombstones.clone();
    super::store::lapse(desk, age, silence, RETIRE / MS, ground);
    if mutation == Some(Mutation::ForgetsTombstones) {
        let gone = desk
            .tombstones
            .iter()
            .filter(|(who, _)| !before.contains_key(who));
        let spend = gone.fold(Amount::ZERO, |sum, (_, Tombstone { spend, .. })| {
            sum.saturating_add(*spend)
        });
        desk.head.total = desk.head.total.saturating_sub(spend);
        desk.head.unleased = desk.head.unleased.saturating_add(spend);
        desk.tombstones = before;
    }
}

/// A replica's message leaves. `headroom` is what was free before it was made, `shares` what it had.
pub(crate) fn message(
    mutation: Maybe,
    loaded: &mut Loaded,
    message: &mut Publish,
    (headroom, shares): (Amount, (Option<u64>, Option<u64>)),
    now: Monotonic,
) {
    let past = &mut loaded.past;
    match mutation {
        Some(Mutation::NoTotal) => message.total = Amount::ZERO,
        Some(Mutation::ForgetsSaid) => message.seen = message.seen.min(past.acked),
        Some(Mutation::RowsOnce) => message.usage.retain(|row| !past.lost.contains(row)),
        Some(Mutation::RowsAcknowledged) => {
            message.usage.retain(|row| !past.acknowledged.contains(row));
        }
        Some(Mutation::KeepsCeiling) => {
            let given = headroom.saturating_sub(loaded.account.purse().headroom());
            loaded.account.purse().grant(given.or_zero());
        }
        _ => {}
    }
    past.shares = (None, None);
    past.sent.clone_from(&message.usage);
    if mutation == Some(Mutation::GivesBackLate) {
        use_shares(loaded, shares, now);
    }
}

/// An answer comes, or none.
pub(crate) fn before_answer(loaded: &mut Loaded, answer: Option<&Published>) {
    let past = &mut loaded.past;
    // What it lost, it keeps until it gives something back itself.
    let (now, before) = (loaded.account.shares(), past.shares);
    past.shares = (now.0.max(before.0), now.1.max(before.1));
    match answer {
        None => past.lost.append(&mut past.sent),
        Some(answer) if answer.applied => {
            past.acked = past.acked.max(answer.standing.spend);
            past.acknowledged.append(&mut past.sent);
        }
        Some(_) => {}
    }
}

/// An answer was taken in, to a message that left at `sent`.
pub(crate) fn after_answer(
    mutation: Maybe,
    loaded: &Loaded,
    answer: Option<&Published>,
    sent: Monotonic,
    now: Monotonic,
) {
    let (account, lease) = (&loaded.account, Duration::from_micros(LEASE));
    let applied = answer.is_some_and(|answer| answer.applied);
    match mutation {
        Some(Mutation::NoSelfFence) if applied => {
            account.lease_until(Monotonic::from_nanos(u64::MAX));
        }
        Some(Mutation::NoMargin) if applied => account.lease_until(sent.plus(lease)),
        Some(Mutation::LeaseFromAnswer) if applied => {
            account.lease_until(now.plus(lease.saturating_sub(loaded.margin)));
        }
        Some(Mutation::LeaseFromLoss) if answer.is_some() && !applied => {
            account.lease_until(now.plus(lease.saturating_sub(loaded.margin)));
        }
        Some(Mutation::KeepsShares) if answer.is_some() => {
            use_shares(loaded, loaded.past.shares, now);
        }
        Some(Mutation::KeptPlacesOpen) => {
            if let Some(answer) = answer.filter(|_| account.shares().1.is_some()) {
                account.share_places(answer.standing.places);
            }
        }
        _ => {}
    }
}

/// It uses these shares, where there are limits.
fn use_shares(loaded: &Loaded, shares: (Option<u64>, Option<u64>), now: Monotonic) {
    let account = &loaded.account;
    let limits = account.shares();
    if let (Some(rate), Some(_)) = (shares.0, limits.0) {
        account.share_rate(rate, Default::default(), now);
    }
    if let (Some(places), Some(_)) = (shares.1, limits.1) {
        account.share_places(places);
    }
}

/// What a replica finds in a store that may have lost something.
pub(crate) fn stands(mutation: Maybe, mut stands: Option<Stands>) -> Option<Stands> {
    if mutation == Some(Mutation::AdjustsTwice) {
        for entry in stands.iter_mut().flat_map(|stands| &mut stands.tail) {
            if entry.kind == EntryKind::Adjustment && entry.idempotency_key.is_none() {
                entry.origin = Some(entry.time.plus(Duration::from_nanos(1)));
            }
        }
    }
    stands
}

/// What it puts back there.
pub(crate) fn plan(mutation: Maybe, mut plan: PutBack) -> PutBack {
    match mutation {
        // An account that is gone is another matter.
        Some(Mutation::PutsNothingBack) if plan.commit.as_ref().is_some_and(|c| c.expected > 0) => {
            plan.commit = None;
        }
        Some(Mutation::ReusesVersions) if plan.commands == 0 => plan.commit = None,
        _ => {}
    }
    plan
}
