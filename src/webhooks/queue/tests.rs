//! On virtual time: what is sent when, and what is left for the next one to go on from.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed, which is what it is for"
)]

use super::*;
use crate::clock::Monotonic;
use crate::ledger::EventKind;
use crate::money::Amount;

const NOTHING: [u64; 0] = [];

const TIMES: Times = Times {
    retry_min: Duration::from_secs(1),
    retry_max: Duration::from_secs(60),
    give_up_after: Duration::from_secs(3_600),
};

/// Seconds after the beginning.
fn at(seconds: u64) -> Now {
    let start = Timestamp::from_nanos(1_790_000_000_000_000_000);
    Now {
        wall: start.plus(Duration::from_secs(seconds)),
        mono: Monotonic::from_nanos(seconds * 1_000_000_000),
    }
}

/// The event at a place, of an account.
fn event(account: &str, place: u64) -> (u64, Event) {
    let event = Event {
        id: format!("{account}/{place}"),
        account: AccountId::new(account).unwrap(),
        time: at(0).wall,
        kind: EventKind::CreditAdded,
        balance: Amount::ZERO,
        amount: Amount::ZERO,
        about: None,
        idempotency_key: None,
        recipients: Vec::new(),
    };
    (place, event)
}

/// With events of `a`, `b`, `a`, … at 1, 2, 3, …
fn queue(places: &[(&str, u64)]) -> Queue {
    let mut queue = Queue::new(&State::default(), TIMES);
    let chunk = places
        .iter()
        .map(|(account, place)| event(account, *place))
        .collect();
    queue.take_in(chunk, |_| true, at(0));
    queue
}

/// All that may begin now, by place.
fn begun(queue: &mut Queue, now: Now) -> Vec<u64> {
    std::iter::from_fn(|| queue.next(now, 100))
        .map(|(place, ..)| place)
        .collect()
}

fn refused() -> Outcome {
    Outcome::Failed {
        error: "no".into(),
        retry_after: None,
    }
}

fn ended(queue: &mut Queue, place: u64, outcome: Outcome, now: Now) {
    let then = queue.ended(place, outcome, now, u32::MAX);
    assert_eq!(then, Then::GoOn, "{place}");
}

#[test]
fn an_account_waits_for_its_earlier_event_and_others_do_not() {
    let mut queue = queue(&[("a", 1), ("b", 2), ("a", 3), ("b", 4)]);
    assert_eq!(begun(&mut queue, at(0)), [1, 2]);
    ended(&mut queue, 2, Outcome::Delivered, at(0));
    assert_eq!(begun(&mut queue, at(0)), [4]);
    ended(&mut queue, 1, refused(), at(0));
    ended(&mut queue, 4, Outcome::Delivered, at(0));
    assert_eq!(begun(&mut queue, at(0)), NOTHING);
    // A second at the most after the first failure.
    assert_eq!(begun(&mut queue, at(1)), [1]);
    ended(&mut queue, 1, Outcome::Delivered, at(1));
    assert_eq!(begun(&mut queue, at(1)), [3]);
}

#[test]
fn an_event_that_is_refused_alone_lets_the_later_ones_pass() {
    let mut queue = queue(&[("a", 1), ("a", 2)]);
    let mut now = 0;
    for n in 1..ALONE_MAX {
        assert_eq!(begun(&mut queue, at(now)), [1], "before {n}");
        ended(&mut queue, 1, refused(), at(now));
        // Others are taken meanwhile, or it would be the endpoint that is down.
        let place = 100 + u64::from(n);
        queue.take_in(vec![event("b", place)], |_| true, at(now));
        assert_eq!(begun(&mut queue, at(now)), [place]);
        ended(&mut queue, place, Outcome::Delivered, at(now));
        now += 60;
    }
    assert_eq!(begun(&mut queue, at(now)), [1]);
    ended(&mut queue, 1, refused(), at(now));
    assert_eq!(begun(&mut queue, at(now)), [2]);
    assert_eq!(begun(&mut queue, at(now + 60)), [1], "and it is tried on");
}

#[test]
fn while_the_endpoint_is_down_the_order_is_kept() {
    let mut queue = queue(&[("a", 1), ("a", 2)]);
    for round in 0..50 {
        let now = at(round * 60);
        assert_eq!(begun(&mut queue, now), [1]);
        ended(&mut queue, 1, refused(), now);
    }
}

#[test]
fn pauses_double_up_to_the_longest_and_half_of_each_is_chance() {
    let pauses = |chance| (1..=9).map(move |n| TIMES.pause(n, chance).as_millis());
    let least: Vec<_> = pauses(0).collect();
    assert_eq!(
        least,
        [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
    );
    for (least, most) in pauses(0).zip(pauses(u32::MAX)) {
        assert!(
            most < 2 * least + 1 && most >= 2 * least - 1,
            "{least} {most}"
        );
    }
    assert_eq!(TIMES.pause(u32::MAX, 0), Duration::from_secs(30));
}

#[test]
fn an_event_is_given_up_in_time_and_forgotten_once_it_is_laid_down() {
    let mut queue = queue(&[("a", 1), ("a", 2)]);
    assert_eq!(begun(&mut queue, at(0)), [1]);
    ended(&mut queue, 1, refused(), at(0));
    assert_eq!(begun(&mut queue, at(3_599)), [1]);
    ended(&mut queue, 1, refused(), at(3_599));
    assert_eq!(begun(&mut queue, at(3_659)), [1]);
    let Then::Bury(letter) = queue.ended(1, refused(), at(3_659), 0) else {
        panic!("it is given up");
    };
    assert_eq!((letter.sequence, letter.attempts), (1, 3));
    assert_eq!(begun(&mut queue, at(3_659)), NOTHING);
    assert_eq!(queue.state().parked.len(), 1, "until it is laid down");
    queue.buried(1);
    assert_eq!(queue.state().parked, []);
    assert_eq!(begun(&mut queue, at(3_659)), [2]);

    // Sent again, it is one more event of its account, and holds nobody up.
    queue.take_in(vec![event("a", 3)], |_| true, at(4_000));
    ended(&mut queue, 2, Outcome::Delivered, at(4_000));
    queue.send_again(&letter, at(4_000));
    assert_eq!(begun(&mut queue, at(4_000)), [1, 3]);
    ended(&mut queue, 1, Outcome::Delivered, at(4_000));
    ended(&mut queue, 3, Outcome::Delivered, at(4_000));
    let left = queue.state();
    assert_eq!((left.cursor, left.done, left.parked), (3, vec![], vec![]));
}

#[test]
fn a_receiver_that_asks_for_patience_gets_it_within_a_bound() {
    for (asked, given) in [(30, 30), (1_000_000, 3_600)] {
        let mut queue = queue(&[("a", 1), ("b", 2)]);
        let (place, ..) = queue.next(at(0), 1).unwrap();
        let patience = Outcome::Failed {
            error: "429".into(),
            retry_after: Some(Duration::from_secs(asked)),
        };
        ended(&mut queue, place, patience, at(0));
        assert_eq!(queue.due(), Some(at(given).wall));
        assert_eq!(begun(&mut queue, at(given - 1)), NOTHING);
        assert_eq!(begun(&mut queue, at(given)), [1, 2]);
    }
}

#[test]
fn one_that_is_gone_is_left_alone_until_it_is_enabled() {
    let mut queue = queue(&[("a", 1), ("a", 2)]);
    assert_eq!(begun(&mut queue, at(0)), [1]);
    ended(&mut queue, 1, Outcome::Gone, at(0));
    assert_eq!(begun(&mut queue, at(9)), NOTHING);
    assert_eq!((queue.due(), queue.wants()), (None, None));
    let mut next = Queue::new(&queue.state(), TIMES);
    assert!(next.is_disabled());
    next.enable();
    assert_eq!(next.wants(), Some((0, ITEMS_MAX)));
    let both = vec![event("a", 1), event("a", 2)];
    next.take_in(both, |_| true, at(10));
    assert_eq!(begun(&mut next, at(10)), [1]);
}

#[test]
fn the_next_one_goes_on_where_the_last_one_was() {
    let all = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("d", 5), ("b", 6)];
    let mut queue = queue(&all);
    assert_eq!(begun(&mut queue, at(0)), [1, 2, 4, 5]);
    ended(&mut queue, 1, refused(), at(0));
    ended(&mut queue, 4, Outcome::Delivered, at(0));
    ended(&mut queue, 2, Outcome::Delivered, at(0));
    // 5 is under way, 3 waits for 1, 6 was not begun.
    let left = queue.state();
    assert_eq!((left.cursor, left.done.as_slice()), (2, &[4][..]));
    assert_eq!(left.parked.len(), 1);
    let json = serde_json::to_string(&left).unwrap();
    let mut next = Queue::new(&serde_json::from_str(&json).unwrap(), TIMES);
    let (after, _) = next.wants().unwrap();
    let chunk = all
        .iter()
        .filter(|(_, place)| *place > after)
        .map(|(account, place)| event(account, *place));
    next.take_in(chunk.collect(), |_| true, at(9));
    assert_eq!(begun(&mut next, at(9)), [1, 5, 6]);
    for place in [1, 5, 6] {
        ended(&mut next, place, Outcome::Delivered, at(9));
    }
    assert_eq!(begun(&mut next, at(9)), [3]);
    ended(&mut next, 3, Outcome::Delivered, at(9));
    assert_eq!(next.state().cursor, 6);
    assert_eq!(next.waiting(), 0);
}

#[test]
fn what_is_not_wanted_is_passed_over() {
    let mut queue = Queue::new(&State::default(), TIMES);
    let chunk = vec![event("a", 1), event("b", 2), event("a", 3)];
    queue.take_in(chunk, |event| event.account.as_str() == "b", at(0));
    assert_eq!(queue.state().cursor, 1);
    assert_eq!(begun(&mut queue, at(0)), [2]);
    ended(&mut queue, 2, Outcome::Delivered, at(0));
    assert_eq!(queue.state().cursor, 3);
}

#[test]
fn memory_and_what_is_written_down_are_bounded() {
    let mut queue = Queue::new(&State::default(), TIMES);
    let (mut place, mut now) = (0, 0);
    while let Some((after, room)) = queue.wants() {
        assert_eq!(after, place);
        let chunk = (place + 1..=place + u64::try_from(room.min(100)).unwrap())
            .map(|place| event(&format!("account-{place}"), place))
            .collect();
        queue.take_in(chunk, |_| true, at(now));
        place += u64::try_from(room.min(100)).unwrap();
        while let Some((place, ..)) = queue.next(at(now), 1) {
            ended(&mut queue, place, refused(), at(now));
        }
        now += 1;
    }
    assert!(queue.waiting() <= ITEMS_MAX);
    assert_eq!(queue.state().parked.len(), PARKED_MAX);
    let bytes = serde_json::to_vec(&queue.state()).unwrap().len();
    assert!(bytes < 200_000, "{bytes}");
    // One that is taken makes room for one more.
    let (place, ..) = queue.next(at(now + 60), 1).unwrap();
    ended(&mut queue, place, Outcome::Delivered, at(now + 60));
    let begun = std::iter::from_fn(|| queue.next(at(now + 60), ITEMS_MAX));
    let tries: Vec<_> = begun.map(|(.., tries)| tries).collect();
    assert_eq!(tries.len(), PARKED_MAX);
    assert_eq!(tries.iter().filter(|tries| **tries == 0).count(), 1);
}

/// Any receiver, any replicas: each takes over from what the last one wrote down at some moment, and what is sent twice is only what
/// that one had not written down.
#[test]
fn nothing_is_lost_over_random_ends() {
    for seed in 1..200_u64 {
        let mut dice = seed;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) % sides
        };
        let feed: Vec<_> = (1..=40)
            .map(|place| {
                event(
                    ["a", "b", "c"][usize::try_from(roll(3)).unwrap()],
                    place * 3,
                )
            })
            .collect();
        let mut taken: Vec<u64> = Vec::new();
        let (mut written, mut unwritten, mut now) = (State::default(), Vec::new(), 0);
        let mut queue = Queue::new(&written, TIMES);
        let mut twice = 0;
        while written.cursor < 120 || !written.parked.is_empty() {
            now += 1 + roll(30);
            if let Some((after, room)) = queue.wants() {
                let chunk = feed.iter().filter(|(place, _)| *place > after);
                let chunk = chunk.take(room.min(5)).cloned().collect();
                queue.take_in(chunk, |_| true, at(now));
            }
            let mut sent = Vec::new();
            while let Some((place, ..)) = queue.next(at(now), 3) {
                sent.push(place);
            }
            for place in sent {
                let outcome = if roll(3) > 0 {
                    Outcome::Delivered
                } else {
                    refused()
                };
                if outcome == Outcome::Delivered {
                    twice += u64::from(taken.contains(&place));
                    taken.push(place);
                    unwritten.push(place);
                }
                ended(&mut queue, place, outcome, at(now));
            }
            if roll(2) == 0 {
                written = queue.state();
                unwritten.clear();
            } else if roll(8) == 0 {
                // It dies, and another one goes on.
                queue = Queue::new(&written, TIMES);
                let lost: Vec<_> = std::mem::take(&mut unwritten);
                taken.retain(|place| !lost.contains(place));
            }
            assert!(now < 100_000, "seed {seed} comes to no end: {queue:?}");
        }
        assert_eq!(twice, 0, "seed {seed}: written down, and sent again");
        let mut all = taken.clone();
        all.sort_unstable();
        let due: Vec<_> = feed.iter().map(|(place, _)| *place).collect();
        assert_eq!(all, due, "seed {seed}");
    }
}
