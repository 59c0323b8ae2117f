//! On virtual time, with clocks that do not agree: two never send at once.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed, which is what it is for"
)]

use super::*;

const TIMEOUT: Duration = Duration::from_secs(1);
const SECOND: u64 = 1_000_000_000;

fn at(tenths: u64) -> Monotonic {
    Monotonic::from_nanos(tenths * SECOND / 10)
}

fn name(name: &str) -> ReplicaId {
    ReplicaId::new(name).unwrap()
}

fn state(turn: u64, holder: Option<&str>) -> State {
    State {
        turn,
        holder: holder.map(name),
        cursor: turn * 10,
        ..State::default()
    }
}

fn watch(remembered: Option<State>) -> Watch {
    Watch::new(name("b"), TIMEOUT, remembered)
}

#[test]
fn a_new_endpoint_and_one_that_was_left_are_taken_at_once() {
    assert_eq!(watch(None).look(None, at(0)), Look::Take(0, None));
    let left = state(4, None);
    let look = watch(None).look(Some((9, left.clone())), at(0));
    assert_eq!(look, Look::Take(9, Some(left)));
}

#[test]
fn a_holder_is_left_alone_until_it_was_silent_for_a_term() {
    let mut watch = watch(None);
    for tenth in 0..100 {
        let found = Some((tenth, state(tenth, Some("a"))));
        assert_eq!(watch.look(found, at(tenth)), Look::Wait);
    }
    let last = state(99, Some("a"));
    let found = || Some((99, last.clone()));
    assert_eq!(watch.look(found(), at(99 + 59)), Look::Wait);
    // The store was away meanwhile: nothing is known, and it begins anew.
    watch.away();
    assert_eq!(watch.look(found(), at(200)), Look::Wait);
    assert_eq!(watch.look(found(), at(259)), Look::Wait);
    assert_eq!(
        watch.look(found(), at(260)),
        Look::Take(99, Some(last.clone()))
    );
}

#[test]
fn a_claim_of_an_earlier_life_is_taken_up_at_the_start_only() {
    let own = state(4, Some("b"));
    let mut watch = watch(None);
    let take = Look::Take(9, Some(own.clone()));
    assert_eq!(watch.look(Some((9, own.clone())), at(0)), take);
    // It stands under our name, and we do not hold it: somebody put an old one back.
    assert_eq!(watch.look(Some((9, own)), at(1)), Look::Wait);
}

#[test]
fn a_store_that_lost_the_document_is_given_time_and_then_the_latest_that_is_known() {
    let known = state(7, Some("a"));
    for found in [
        None,
        Some((3, state(2, Some("c")))),
        Some((3, state(2, None))),
    ] {
        let mut watch = watch(None);
        assert_eq!(watch.look(Some((50, known.clone())), at(0)), Look::Wait);
        assert_eq!(watch.look(found.clone(), at(1)), Look::Wait);
        assert_eq!(watch.look(found.clone(), at(60)), Look::Wait);
        let version = found.as_ref().map_or(0, |(version, _)| *version);
        let take = Look::Take(version, Some(known.clone()));
        assert_eq!(watch.look(found, at(61)), take);
    }
    // Remembered from before the start, it counts as well.
    let mut watch = watch(Some(known.clone()));
    assert_eq!(watch.look(None, at(0)), Look::Wait);
    assert_eq!(watch.look(None, at(60)), Look::Take(0, Some(known)));
}

fn claim() -> Claim {
    Claim::new(name("a"), TIMEOUT, false, (9, 4), at(0))
}

#[test]
fn nothing_is_begun_that_could_outlast_the_term() {
    let mut claim = claim();
    let term = term(TIMEOUT);
    assert!(claim.covers(at(40)) && !claim.covers(at(41)));
    // Whoever watches has seen the writing at its beginning at the earliest.
    let ends = at(40).plus(TIMEOUT).since(at(0));
    assert!(ends < term, "{ends:?} {term:?}");
    assert!(!claim.is_due(at(9)) && claim.is_due(at(10)));
    claim.wrote(10, at(30));
    assert_eq!(claim.next(), (10, 6));
    assert!(claim.covers(at(70)) && !claim.covers(at(71)));
    let alone = Claim::new(name("a"), TIMEOUT, true, (9, 4), at(0));
    assert!(alone.covers(at(9_999)) && !alone.is_due(at(9_999)));
}

#[test]
fn a_lost_answer_an_older_store_and_another_holder_are_told_apart() {
    let check = |found: Option<(u64, State)>, expected, next| {
        let mut claim = claim();
        let found = found.as_ref().map(|(version, state)| (*version, state));
        assert_eq!(claim.contested(found), expected, "{found:?}");
        if expected != Contest::Lost {
            assert_eq!(claim.next(), next);
        }
    };
    // Ours, and its answer was lost.
    check(Some((10, state(5, Some("a")))), Contest::Again, (10, 6));
    // Older than what was certainly written: the store lost it, whoever it names.
    check(Some((3, state(3, Some("b")))), Contest::Older, (3, 5));
    check(None, Contest::Older, (0, 5));
    // Another one has taken over.
    check(Some((10, state(5, Some("b")))), Contest::Lost, (0, 0));
    check(Some((10, state(5, None))), Contest::Lost, (0, 0));
}
