//! Written as protobuf has it, and read as it was written: against what `prost` makes of the same bytes.

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use prost::Message as _;

use super::*;
use crate::gateway::Lines as _;

fn write(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut to = Vec::new();
    write(&mut to);
    to
}

#[test]
fn a_message_of_any_length_is_written() {
    // Around where the length takes another byte, in the message and in the one around it.
    for length in [
        0, 1, 100, 120, 121, 122, 127, 128, 129, 16_370, 16_383, 16_384, 2_097_152,
    ] {
        let value = "v".repeat(length);
        let written = write(|to| {
            message(to, 1, |entry| {
                text(entry, 1, "name");
                message(entry, 2, |held| text(held, 3, &value));
            });
        });
        let read = Struct::decode(written.as_slice()).unwrap();
        let kind = Some(Kind::StringValue(value));
        let fields = [("name".to_owned(), Value { kind })];
        assert_eq!(
            read,
            Struct {
                fields: fields.into()
            },
            "{length}"
        );
    }
}

#[test]
fn fields_are_told_apart() {
    let written = write(|to| {
        number(to, 1, 300);
        text(to, 2, "two");
        to.extend_from_slice(&[3 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        to.extend_from_slice(&[4 << 3 | 5, 0, 0, 0, 0]);
        message(to, 15, |_| {});
    });
    let read: Result<Vec<_>, _> = Fields::of(&written).collect();
    let expected = vec![
        (1, Held::Number(300)),
        (2, Held::Bytes(b"two")),
        (3, Held::Fixed),
        (4, Held::Fixed),
        (15, Held::Bytes(b"")),
    ];
    assert_eq!(read, Ok(expected));
}

#[test]
fn what_is_cut_or_no_protobuf_is_an_error_and_the_end() {
    for wrong in [
        &[0x80][..],                  // a key that does not end
        &[1 << 3, 0xff],              // a number that does not
        &[1 << 3 | 2, 3, b'a', b'b'], // two bytes of three
        &[1 << 3 | 1, 0, 0, 0],       // three of eight
        &[1 << 3 | 5, 0, 0, 0],       // three of four
        &[1 << 3 | 3],                // a group
        &[0xff; 11],                  // a number beyond 64 bits
        &[
            1 << 3 | 2,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            1,
        ], // longer than all memory
    ] {
        let read: Vec<_> = Fields::of(wrong).collect();
        assert_eq!(read, [Err(Malformed)], "{wrong:?}");
    }
}

#[test]
fn a_header_has_its_value_as_text_or_raw() {
    let check = |value: &str, raw: &[u8], expected: &[u8]| {
        let header = HeaderValue {
            key: "x-a".into(),
            value: value.into(),
            raw_value: raw.to_vec(),
        };
        let header = header.encode_to_vec();
        let read = Entry::read(&header).unwrap();
        assert_eq!((read.name, read.value), (&b"x-a"[..], expected));
    };
    check("text", b"", b"text");
    check("", b"\xffraw", b"\xffraw");
    check("", b"", b"");
}

#[test]
fn of_two_headers_of_a_name_the_first_counts() {
    let entry = |name, value| Entry { name, value };
    let headers = Headers(vec![
        entry(b"a", b"1"),
        entry(b"b", b"2"),
        entry(b"a", b"3"),
        entry(b"\xff", b"4"),
    ]);
    assert_eq!(headers.line("a"), Some(&b"1"[..]));
    assert_eq!(headers.line("b"), Some(&b"2"[..]));
    assert_eq!(headers.line("c"), None);
    assert_eq!(headers.names().collect::<Vec<_>>(), ["a", "b", "a"]);
}

proptest::proptest! {
    /// Whatever comes, reading ends, and what is taken out lies in it.
    #[test]
    fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let taken = Fields::of(&bytes).map(|field| match field {
            Ok((_, Held::Bytes(held))) => held.len(),
            _ => 0,
        });
        proptest::prop_assert!(taken.sum::<usize>() <= bytes.len());
    }
}
