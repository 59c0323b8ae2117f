//! Which requests are one.

use super::*;

#[test]
fn a_request_has_one_name_and_no_two_have_the_same() {
    let (one, other) = (Namer::new().unwrap(), Namer::new().unwrap());
    let parts: [&[u8]; 2] = [b"17", b"12:00"];
    assert_eq!(one.name(&parts), one.name(&parts));
    // What one part ends with is not what the next begins with.
    assert_ne!(one.name(&parts), one.name(&[b"171", b"2:00"]));
    assert_ne!(one.name(&parts), one.name(&[b"17", b"12:01"]));
    assert_ne!(one.name(&parts), other.name(&parts));
    assert_ne!(one.name(&[]), one.name(&[]));
    assert_ne!(one.name(&[b"", b""]), one.name(&[b"", b""]));
    let fixed = Namer {
        keys: (1, 2),
        boot: "b.".into(),
        made_up: AtomicU64::new(0),
    };
    let mut hasher = SipHasher13::new_with_keys(1, 2);
    hasher.write_u64(0);
    let hash = hasher.finish128().as_u128();
    assert_eq!(fixed.name(&[]), format!("b.{hash:032x}"));
    assert!(one.name(&parts).starts_with(&one.boot) && !other.name(&parts).starts_with(&one.boot));
}
