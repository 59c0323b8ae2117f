//! Every fixture, whole and cut anywhere: the same reading, the same bytes passed on.

use bytes::Bytes;
use proptest::prelude::*;

use super::fixtures::{Fixture, fixtures};
use crate::meter::{Api, EVENT_MAX, Reading, ResponseScan};

/// Feeds the pieces; what the client sees, and what was read before and after the end.
fn read<'a>(
    fixture: &Fixture,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Reading, Reading) {
    let mut scan = ResponseScan::new(fixture.api, fixture.events, fixture.strip);
    let mut seen = Vec::new();
    for piece in pieces {
        seen.extend_from_slice(&scan.feed(Bytes::copy_from_slice(piece)));
    }
    let before = scan.reading();
    seen.extend_from_slice(&scan.end());
    (seen, before, scan.reading())
}

fn check<'a>(fixture: &Fixture, pieces: impl IntoIterator<Item = &'a [u8]>) {
    let (seen, before, after) = read(fixture, pieces);
    assert_eq!(after, fixture.want, "{}", fixture.name);
    assert_eq!(before, after, "{}: the end adds nothing", fixture.name);
    let want = fixture.seen.as_ref().unwrap_or(&fixture.body);
    assert!(
        seen == *want,
        "{}: saw {:?}",
        fixture.name,
        String::from_utf8_lossy(&seen[..seen.len().min(2_000)])
    );
}

#[test]
fn whole() {
    for fixture in fixtures() {
        check(&fixture, [&fixture.body[..]]);
    }
}

#[test]
fn byte_by_byte() {
    for fixture in fixtures() {
        check(&fixture, fixture.body.chunks(1));
        check(&fixture, fixture.body.chunks(2));
    }
}

#[test]
fn cut_once_anywhere() {
    for fixture in fixtures()
        .iter()
        .filter(|fixture| fixture.body.len() < 10_000)
    {
        for at in 0..=fixture.body.len() {
            let (head, tail) = fixture.body.split_at(at);
            check(fixture, [head, tail]);
        }
    }
}

/// What is read while a body comes is never more than what was said, and settles.
#[test]
fn reading_on_the_way_never_shrinks() {
    for fixture in fixtures()
        .iter()
        .filter(|fixture| fixture.body.len() < 10_000)
    {
        let mut scan = ResponseScan::new(fixture.api, fixture.events, fixture.strip);
        let mut last = scan.reading();
        for piece in fixture.body.chunks(3) {
            let _ = scan.feed(Bytes::copy_from_slice(piece));
            let next = scan.reading();
            assert!(
                next.error || next.text_bytes >= last.text_bytes,
                "{}",
                fixture.name
            );
            assert!(next.complete >= last.complete, "{}", fixture.name);
            assert!(next.error >= last.error, "{}", fixture.name);
            last = next;
        }
    }
}

#[test]
fn nothing_is_copied_that_is_not_held() {
    for fixture in fixtures() {
        if fixture.seen.is_some() {
            continue;
        }
        let mut scan = ResponseScan::new(fixture.api, fixture.events, fixture.strip);
        let chunk = Bytes::from(fixture.body.clone());
        let seen = scan.feed(chunk.clone());
        // What is passed on is the start of the chunk itself, and without stripping all of it.
        assert!(
            seen.is_empty() || seen.as_ptr() == chunk.as_ptr(),
            "{}",
            fixture.name
        );
        assert!(
            fixture.strip || seen.len() == chunk.len(),
            "{}",
            fixture.name
        );
    }
}

#[test]
fn an_event_with_a_choice_is_not_held() {
    let mut scan = ResponseScan::new(Api::OpenAiChat, true, true);
    let first = scan.feed(Bytes::from_static(b"data: {\"choices\":"));
    assert!(first.is_empty());
    let second = scan.feed(Bytes::from_static(b"[{\"delta\":{\"content\":\"par"));
    assert_eq!(
        &second[..],
        b"data: {\"choices\":[{\"delta\":{\"content\":\"par"
    );
    let third = scan.feed(Bytes::from_static(b"t\"}}]}\n"));
    assert_eq!(&third[..], b"t\"}}]}\n");
}

#[test]
fn what_is_held_is_bounded() {
    let mut scan = ResponseScan::new(Api::OpenAiChat, true, true);
    let mut fed = 0;
    let mut seen = scan.feed(Bytes::from_static(b"data: {\"x\":\"")).len();
    fed += 12;
    for _ in 0..1_000 {
        fed += 1_000;
        seen += scan.feed(Bytes::from(vec![b'x'; 1_000])).len();
        assert!(fed - seen <= EVENT_MAX, "{fed} fed, {seen} seen");
    }
    assert_eq!(fed, seen);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn cut_anywhere(cuts in proptest::collection::vec(0.0..1.0_f64, 0..12)) {
        for fixture in fixtures() {
            let length = fixture.body.len();
            let mut at: Vec<usize> =
                cuts.iter().map(|cut| (cut * length as f64) as usize).collect();
            at.extend([0, length]);
            at.sort_unstable();
            check(&fixture, at.windows(2).map(|pair| &fixture.body[pair[0]..pair[1]]));
        }
    }

    /// Whatever comes, nothing panics, and without stripping all of it passes.
    #[test]
    fn anything_passes(
        which in 0..100_usize,
        noise in proptest::collection::vec((0..10_000_usize, any::<u8>()), 1..6),
        size in 1..50_usize,
    ) {
        let all = fixtures();
        let mut fixture = all[which % all.len()].clone();
        let length = fixture.body.len().max(1);
        for (at, byte) in noise {
            if let Some(slot) = fixture.body.get_mut(at % length) {
                *slot = byte;
            }
        }
        let (seen, _, _) = read(&fixture, fixture.body.chunks(size));
        let (whole, _, reading) = read(&fixture, [&fixture.body[..]]);
        let (_, _, cut) = read(&fixture, fixture.body.chunks(size));
        prop_assert_eq!(&seen, &whole);
        prop_assert_eq!(reading, cut);
        if !fixture.strip {
            prop_assert_eq!(&seen, &fixture.body);
        }
    }
}
