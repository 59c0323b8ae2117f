use super::*;

fn header() -> Header {
    Header {
        id: 0x1234_5678_9abc_def0_0fed_cba9_8765_4321,
        replica: ReplicaId::new("r-0011223344556677").unwrap(),
        created: Timestamp::from_nanos(1_790_000_000_000_000_000),
        chunks: 7,
        opens: 3,
    }
}

fn decode(page: &[u8; PAGE]) -> Result<Header, CountersError> {
    Header::decode(page, Path::new("/data/counters.tgc"))
}

#[test]
fn a_header_is_read_as_it_was_written() {
    let long = Header {
        replica: ReplicaId::new(&"r".repeat(NAME_BYTES_MAX)).unwrap(),
        ..header()
    };
    for header in [header(), long] {
        assert_eq!(decode(&header.encode()).unwrap(), header);
    }
}

#[test]
fn no_bit_of_a_header_can_change_unseen() {
    let whole = header().encode();
    for at in 0..PAGE {
        for bit in 0..8 {
            let mut page = whole;
            page[at] ^= 1 << bit;
            let error = decode(&page).expect_err("a changed header");
            let message = error.to_string();
            assert!(message.contains("/data/counters.tgc"), "{at}: {message}");
        }
    }
}

#[test]
fn no_beginning_of_a_header_is_taken_for_one() {
    let whole = header().encode();
    // The last bytes of a page are its sum, which is not zero.
    for length in 0..PAGE - 7 {
        let mut page = [0; PAGE];
        page[..length].copy_from_slice(&whole[..length]);
        assert!(decode(&page).is_err(), "{length}");
    }
}

#[test]
fn each_refusal_says_what_it_is() {
    let edit = |at: usize, bytes: &[u8]| {
        let mut page = header().encode();
        put(&mut page, at, bytes);
        // What is there is meant: the sum is right.
        let sum = sum(&page);
        put(&mut page, SUM, &sum.to_ne_bytes());
        decode(&page).expect_err("a changed header")
    };
    assert!(matches!(
        edit(0, b"SQLite f"),
        CountersError::Foreign { .. }
    ));
    assert!(matches!(
        edit(VERSION, &2_u32.to_ne_bytes()),
        CountersError::Version { found: 2, .. }
    ));
    assert!(matches!(
        edit(ORDER, &BYTE_ORDER.swap_bytes().to_ne_bytes()),
        CountersError::ByteOrder { .. }
    ));
    assert!(matches!(
        edit(ORDER, &[0; 8]),
        CountersError::Damaged { .. }
    ));
    assert!(matches!(
        edit(SIZES, &64_u32.to_ne_bytes()),
        CountersError::Layout { .. }
    ));
    assert!(matches!(edit(NAME, b"{"), CountersError::Damaged { .. }));
    assert!(matches!(
        edit(NAME_LENGTH, &u64::MAX.to_ne_bytes()),
        CountersError::Damaged { .. }
    ));
    assert!(matches!(
        edit(VARIABLE, &[0; 8]),
        CountersError::Damaged { .. }
    ));
}

#[test]
fn a_chunk_has_its_own_place_in_its_own_file() {
    for kind in [Kind::Usage, Kind::Totals] {
        let page = kind.encode(1, 2);
        assert_eq!(Kind::decode(&page, 1, 2), Some(kind));
        assert_eq!(Kind::decode(&page, 1, 3), None, "another's place");
        assert_eq!(Kind::decode(&page, 2, 2), None, "another's file");
        for at in 0..PAGE {
            let mut page = page;
            page[at] ^= 0x40;
            assert_eq!(Kind::decode(&page, 1, 2), None, "{at}");
        }
    }
}
