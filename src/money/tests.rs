use super::*;

fn check(text: &str, want: Result<i64, AmountError>) {
    assert_eq!(text.parse::<Amount>().map(Amount::nanos), want, "{text}");
}

#[test]
fn decimal_strings_are_read_exactly() {
    check("0", Ok(0));
    check("5.00", Ok(5_000_000_000));
    check("-0.000000001", Ok(-1));
    check("1.1000000000", Ok(1_100_000_000));
    check("9223372036.854775807", Ok(i64::MAX));
    check("-9223372036.854775807", Ok(-i64::MAX));
}

#[test]
fn what_is_not_an_amount_is_named() {
    check(
        "9223372036.854775808",
        Err(AmountError::OutOfRange("9223372036.854775808".into())),
    );
    check(
        "-9223372036.854775808",
        Err(AmountError::OutOfRange("-9223372036.854775808".into())),
    );
    check(
        "0.0000000001",
        Err(AmountError::TooFine("0.0000000001".into())),
    );
    for text in ["", "1e3", "five", "1,0", "0x10", "1.2.3", "٣"] {
        check(text, Err(AmountError::NotDecimal(text.into())));
    }
}

#[test]
fn amounts_are_written_shortest_with_two_places() {
    for (nanos, want) in [
        (0, "0.00"),
        (5_000_000_000, "5.00"),
        (-1, "-0.000000001"),
        (1_234_500_000, "1.2345"),
    ] {
        assert_eq!(Amount::from_nanos(nanos).to_string(), want);
    }
}

proptest::proptest! {
    #[test]
    fn every_amount_reads_back(nanos in -i64::MAX..=i64::MAX) {
        let amount = Amount::from_nanos(nanos);
        proptest::prop_assert_eq!(amount.to_string().parse::<Amount>(), Ok(amount));
    }
}
