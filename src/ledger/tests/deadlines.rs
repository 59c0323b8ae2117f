//! Every deadline, one nanosecond before it, at it, and one after: X-3. Under the providers' own presets where they have one.

use super::*;
use crate::catalog::presets;
use crate::policy::{Deadline, End, Enforcement};
use crate::refusal::Reason::{
    self, AccountClosed, AccountOverdue, AccountSuspended, ReactivationRequired, RefundInProgress,
};

const DAY: i64 = 86_400_000_000_000;

fn preset(name: &str) -> Policy {
    presets::all()[name].clone()
}

fn desk(policy: Policy) -> Desk {
    let mut desk = Desk::new();
    desk.policy = policy;
    desk
}

fn state(desk: &Desk) -> (State, Option<Reason>) {
    let (spend, now) = (n(desk.spend), at(desk.now));
    let standing = desk.book.standing(spend, &desk.policy, now);
    (desk.book.state(spend, &desk.policy, now), standing.at(now))
}

/// Reads the book at ±1 ns of an instant: as computed then, and as the standing of now says ahead. Then a command of nobody must change
/// nothing of it.
fn around(desk: &mut Desk, deadline: i64, want: [(State, Option<Reason>); 3]) {
    let standing = desk
        .book
        .standing(n(desk.spend), &desk.policy, at(desk.now));
    for (offset, want) in (-1..).zip(want) {
        desk.at(deadline + offset);
        assert_eq!(state(desk), want, "{offset} ns");
        let ahead = standing.at(at(desk.now));
        assert_eq!(ahead, want.1, "{offset} ns, said ahead");
    }
    for (offset, want) in (-1..).zip(want) {
        desk.at(deadline + offset).observe();
        assert_eq!(state(desk), want, "{offset} ns, written down");
    }
}

#[test]
fn at_exactly_24_hours_alibaba_suspends() {
    let mut desk = desk(preset("alibaba-visual"));
    desk.run(late(1));
    let overdue = (State::Overdue, Some(AccountOverdue));
    let suspended = (State::Suspended, Some(AccountSuspended));
    around(&mut desk, DAY, [overdue, suspended, suspended]);
}

#[test]
fn at_exactly_24_hours_tencent_still_serves() {
    let mut desk = desk(preset("tencent-apigw"));
    desk.run(late(1));
    let grace = (State::Overdue, None);
    let suspended = (State::Suspended, Some(AccountSuspended));
    around(&mut desk, DAY, [grace, grace, suspended]);
    // And from 180 days of suspension on, its data may be cleared.
    let purge = (State::PurgeEligible, Some(AccountSuspended));
    around(&mut desk, DAY + 1 + 180 * DAY, [suspended, purge, purge]);
    let kinds: Vec<_> = desk.events.iter().map(|event| event.kind).collect();
    let want = [
        EventKind::AccountOverdue,
        EventKind::AccountSuspended,
        EventKind::PurgeEligible,
    ];
    assert_eq!(kinds, want, "each once");
    // Paid then, it resumes by itself.
    desk.run(recharge(1));
    assert_eq!(state(&desk), (State::Active, None));
    assert_eq!(desk.events.last().unwrap().kind, EventKind::AccountResumed);
    assert!(desk.book.suspended_at.is_none() && !desk.book.purge_sent);
}

/// What becomes of an account that owes since 0 and pays at an instant.
fn paid_at(now: i64, observed: bool) -> (State, Option<Reason>) {
    let mut desk = desk(Policy {
        capabilities: vec!["face".into(), "text".into()],
        ..preset("alibaba-visual")
    });
    desk.run(late(5));
    if observed {
        desk.at(now).observe();
    }
    desk.at(now).run(recharge(9));
    state(&desk)
}

#[test]
fn whoever_pays_before_24_hours_goes_on_and_later_reactivates() {
    for observed in [false, true] {
        assert_eq!(paid_at(DAY - 1, observed), (State::Active, None));
        let waits = (State::ReactivationRequired, Some(ReactivationRequired));
        assert_eq!(paid_at(DAY, observed), waits, "observed: {observed}");
        assert_eq!(paid_at(DAY + 1, observed), waits);
    }
}

#[test]
fn a_suspended_account_is_reactivated_capability_by_capability() {
    let mut desk = desk(Policy {
        capabilities: vec!["face".into(), "text".into()],
        ..preset("alibaba-visual")
    });
    let reactivate = |name: &str| Action::ReactivateCapability {
        capability: name.into(),
    };
    let refused = |desk: &mut Desk, name: &str| desk.attempt(reactivate(name)).unwrap_err();
    assert_eq!(
        refused(&mut desk, "face"),
        Rejected::NothingToReactivate("face".into())
    );
    desk.run(late(5));
    desk.at(DAY);
    assert_eq!(refused(&mut desk, "face"), Rejected::InDebt(n(5)));
    desk.run(recharge(4));
    assert_eq!(state(&desk).0, State::Suspended, "a part is not all");
    assert_eq!(refused(&mut desk, "face"), Rejected::InDebt(n(1)));
    let paid = desk.run(recharge(1));
    let kinds: Vec<_> = paid.events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [EventKind::CreditAdded, EventKind::ReactivationRequired]
    );
    assert_eq!(
        refused(&mut desk, "fac"),
        Rejected::UnknownCapability {
            given: "fac".into(),
            known: "face, text".into()
        }
    );
    desk.run(reactivate("face"));
    assert_eq!(
        state(&desk),
        (State::ReactivationRequired, Some(ReactivationRequired))
    );
    assert!(desk.book.is_reactivated(|pattern| pattern == "face"));
    assert!(!desk.book.is_reactivated(|pattern| pattern == "text"));
    let last = desk.run(reactivate("text"));
    assert_eq!(state(&desk), (State::Active, None));
    assert_eq!(last.events[0].kind, EventKind::AccountResumed);
    // The next episode asks for all of them again.
    desk.run(late(1));
    desk.at(desk.now + DAY).run(recharge(1));
    assert_eq!(state(&desk).0, State::ReactivationRequired);
    assert!(!desk.book.is_reactivated(|_| true));
    desk.run(reactivate("*"));
    assert_eq!(state(&desk), (State::Active, None));
}

#[test]
fn an_episode_has_one_beginning_whoever_says_so() {
    let note = String::new;
    let mut desk = desk(preset("alibaba-visual"));
    let mark = || Action::MarkOverdue { note: note() };
    let clear = || Action::ClearOverdue { note: note() };
    assert_eq!(
        desk.attempt(clear()).unwrap_err(),
        Rejected::NotDeclaredOverdue
    );
    desk.run(recharge(5));
    desk.at(10).run(mark());
    assert_eq!(state(&desk), (State::Overdue, Some(AccountOverdue)));
    desk.at(20).run(mark());
    desk.at(30).run(late(6));
    let since = desk
        .book
        .overdue_since(desk.book.debt, &desk.policy, at(40));
    assert_eq!(since, Some(at(10)), "the earlier of both");
    desk.at(40).run(recharge(1));
    assert_eq!(state(&desk).0, State::Overdue, "the backend's word stands");
    let wait = Rejected::DeclaredOverdue(at(10));
    desk.at(10 + DAY).observe();
    let all = Action::ReactivateCapability {
        capability: "*".into(),
    };
    assert_eq!(desk.attempt(all).unwrap_err(), wait);
    desk.run(clear());
    assert_eq!(state(&desk).0, State::ReactivationRequired);
    let overdue = desk
        .events
        .iter()
        .filter(|event| event.kind == EventKind::AccountOverdue);
    assert_eq!(overdue.count(), 1);
}

#[test]
fn a_partial_payment_keeps_the_clock() {
    let mut desk = desk(preset("alibaba-visual"));
    desk.at(7).run(late(5));
    desk.at(DAY).run(recharge(4));
    let (overdue, suspended) = (
        (State::Overdue, Some(AccountOverdue)),
        (State::Suspended, Some(AccountSuspended)),
    );
    around(&mut desk, DAY + 7, [overdue, suspended, suspended]);
}

#[test]
fn grace_by_credit_limit_lasts_as_long_as_the_debt_is_within_it() {
    let mut desk = desk(Policy {
        credit_limit: n(5),
        ..preset("alibaba-visual")
    });
    desk.run(late(5));
    let fine = (State::Overdue, None);
    around(&mut desk, DAY, [fine, fine, fine]);
    desk.run(late(1));
    assert_eq!(state(&desk), (State::Suspended, Some(AccountSuspended)));
    // Below the limit again, it is suspended all the same: it is paid in full, or not.
    desk.run(recharge(3));
    assert_eq!(state(&desk), (State::Suspended, Some(AccountSuspended)));
}

#[test]
fn grace_by_time_has_a_limit_and_the_floor_follows() {
    let mut desk = desk(Policy {
        grace: Some(Deadline {
            ms: 1,
            end: End::Excluded,
        }),
        grace_limit: Some(n(50)),
        credit_limit: n(2),
        ..Policy::default()
    });
    desk.run(recharge(10));
    assert_eq!(desk.book.floor, n(50), "before it begins, too");
    desk.spent(13).observe();
    assert_eq!(
        (desk.book.floor, state(&desk)),
        (n(50), (State::Overdue, None))
    );
    let over = (State::Overdue, Some(AccountOverdue));
    let fine = (State::Overdue, None);
    let deadline = desk.book.money_deadline(n(13), &desk.policy, at(0));
    assert_eq!(deadline, Some(at(1_000_000)));
    around(&mut desk, 1_000_000, [fine, over, over]);
    assert_eq!(desk.book.floor, n(2));
    // Beyond its limit there is no grace.
    let mut desk = Desk {
        policy: desk.policy,
        ..Desk::new()
    };
    desk.run(late(50));
    assert_eq!(state(&desk).1, None);
    desk.run(late(1));
    assert_eq!(state(&desk).1, Some(AccountOverdue));
}

#[test]
fn live_from_is_the_first_instant_that_is_enforced() {
    let policy = Policy {
        enforcement: Enforcement::Shadow,
        live_from: Some(at(100)),
        ..Policy::default()
    };
    for (now, enforced) in [(99, false), (100, true), (101, true)] {
        assert_eq!(policy.enforced(at(now)), enforced);
        let mut desk = desk(policy.clone());
        let entry = desk.at(now).run(late(5)).answer().unwrap().clone();
        let debt = if enforced { 5 } else { 0 };
        assert_eq!((desk.book.debt, entry.amount), (n(debt), n(-debt)), "{now}");
        let said = desk.book.money_deadline(n(0), &desk.policy, at(now));
        assert_eq!(said, (!enforced).then_some(at(100)));
    }
}

#[test]
fn credit_is_over_at_its_expiry_and_announced_before() {
    let policy = Policy {
        credit_expiring_ms: Some(1),
        credit_expires_after_ms: Some(3),
        ..Policy::default()
    };
    let mut desk = desk(policy);
    let bought = desk.run(recharge(5)).answer().unwrap().clone();
    assert_eq!(bought.expires, Some(at(3_000_000)));
    for (now, events, left) in [
        (1_999_999, vec![], 5),
        (2_000_000, vec![EventKind::CreditExpiring], 5),
        (2_000_001, vec![], 5),
        (2_999_999, vec![], 5),
        (3_000_000, vec![EventKind::CreditExpired], 0),
        (3_000_001, vec![], 0),
    ] {
        let wants = desk
            .book
            .wants_observing(desk.given(), &desk.policy, at(now));
        assert_eq!(wants, !events.is_empty(), "{now}");
        let seen = desk.at(now).observe();
        let kinds: Vec<_> = seen.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, events, "{now}");
        assert_eq!(desk.book.remaining(), n(left), "{now}");
    }
}

#[test]
fn credit_that_expires_while_held_pays_that_hold() {
    let mut desk = Desk::new();
    desk.run(until(100, recharge(10)));
    desk.run(rank(-1, grant(5)));
    desk.held = 4;
    desk.at(100).observe();
    assert_eq!(
        desk.left(),
        [(1, 4), (2, 5)],
        "what is held stays, and is burnt first"
    );
    assert!(desk.book.blocks[0].expired);
    assert_eq!(desk.entries.last().unwrap().amount, n(-6));
    // Of the four held, the call cost three; the one it gives back expires at once.
    desk.held = 0;
    let seen = desk.at(101).spent(3).observe();
    assert_eq!(kinds(&seen), [EntryKind::Usage, EntryKind::Expiry]);
    assert_eq!(taken(&seen.entries[0]), [(1, 3)]);
    assert_eq!(desk.left(), [(2, 5)]);
    assert_eq!(desk.book.next_deadline(n(3), &desk.policy, at(101)), None);
}

#[test]
fn a_rate_bought_for_a_time_counts_within_it() {
    let mut desk = desk(Policy {
        qps: Some(5),
        burst: Some(9),
        ..Policy::default()
    });
    let buy = |effective, expires| Action::BuyQpsPlan {
        plan_id: "fast".into(),
        qps: 50,
        burst: None,
        effective: Some(at(effective)),
        expires: Some(at(expires)),
        order_id: "q1".into(),
        price: None,
    };
    let wrong = Rejected::NoTime {
        effective: at(20),
        expires: at(20),
    };
    assert_eq!(desk.attempt(buy(20, 20)).unwrap_err(), wrong);
    desk.run(buy(10, 20));
    for (now, overdue, rate) in [
        (9, false, (5, 9)),
        (10, false, (50, 50)),
        (11, false, (50, 50)),
        (11, true, (5, 9)),
        (19, false, (50, 50)),
        (20, false, (5, 9)),
        (21, false, (5, 9)),
    ] {
        assert_eq!(
            desk.book.rate(overdue, &desk.policy, at(now)),
            Some(rate),
            "{now}"
        );
    }
    let deadline = |desk: &Desk| desk.book.next_deadline(n(0), &desk.policy, at(desk.now));
    assert_eq!(deadline(&desk), Some(at(10)));
    desk.at(10);
    assert_eq!(deadline(&desk), Some(at(20)));
    desk.at(19).observe();
    assert_eq!(desk.book.qps_plans.len(), 1);
    desk.at(20).observe();
    assert_eq!((desk.book.qps_plans.len(), deadline(&desk)), (0, None));
    assert_eq!(desk.events.last().unwrap().kind, EventKind::PlanExpired);
}

#[test]
fn what_ends_an_account_comes_before_all_else() {
    let mut desk = desk(preset("tencent-apigw"));
    desk.run(recharge(5));
    desk.run(begin("r", &[]));
    desk.run(late(7));
    desk.at(400 * DAY);
    assert_eq!(state(&desk), (State::Frozen, Some(RefundInProgress)));
    desk.run(Action::CloseAccount {
        note: String::new(),
    });
    assert_eq!(state(&desk), (State::Closed, Some(AccountClosed)));
}
