use super::*;

fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

fn price(pattern: &str, rates: &[(Meter, &str, Per)]) -> Price {
    let rates = rates.iter().map(|(meter, price, per)| {
        (
            *meter,
            Rate {
                price: amount(price),
                per: *per,
            },
        )
    });
    Price {
        pattern: pattern.into(),
        unit: "USD".into(),
        rates: rates.collect(),
        max_output: None,
    }
}

fn check(price: &Price, counts: &[(Meter, u64)], want: Result<&str, CostOverflow>) {
    let counts = counts
        .iter()
        .fold(Counts::default(), |sum, (meter, n)| sum.with(*meter, *n));
    assert_eq!(price.cost(&counts), want.map(amount), "{counts:?}");
}

#[test]
fn the_cost_is_the_sum_over_the_meters() {
    let gpt = price(
        "gpt",
        &[
            (Meter::Input, "2.50", Per::Million),
            (Meter::Output, "10", Per::Million),
        ],
    );
    check(&gpt, &[], Ok("0"));
    check(
        &gpt,
        &[(Meter::Input, 1_000), (Meter::Output, 100)],
        Ok("0.0035"),
    );
    let image = price(
        "image",
        &[
            (Meter::Request, "0.01", Per::Unit),
            (Meter::Image, "0.04", Per::Unit),
        ],
    );
    check(
        &image,
        &[(Meter::Request, 1), (Meter::Image, 2)],
        Ok("0.09"),
    );
}

#[test]
fn parts_fall_back_to_what_they_are_part_of() {
    let gpt = price(
        "gpt",
        &[
            (Meter::Input, "1", Per::Million),
            (Meter::Output, "2", Per::Million),
        ],
    );
    check(&gpt, &[(Meter::CachedInput, 1_000_000)], Ok("1"));
    check(&gpt, &[(Meter::CacheWrite, 1_000_000)], Ok("1"));
    check(&gpt, &[(Meter::Reasoning, 1_000_000)], Ok("2"));
    let cheap = price(
        "gpt",
        &[
            (Meter::Input, "1", Per::Million),
            (Meter::CachedInput, "0.1", Per::Million),
        ],
    );
    check(&cheap, &[(Meter::CachedInput, 1_000_000)], Ok("0.1"));
}

#[test]
fn one_rounding_half_up_over_the_whole_request() {
    // 0.000000001 per million: half a nano-unit is 500,000 tokens.
    let tiny = price(
        "t",
        &[
            (Meter::Input, "0.000000001", Per::Million),
            (Meter::Output, "0.000000001", Per::Million),
        ],
    );
    check(&tiny, &[(Meter::Input, 499_999)], Ok("0"));
    check(&tiny, &[(Meter::Input, 500_000)], Ok("0.000000001"));
    // Two quarters make a half: rounded apart they would be nothing.
    check(
        &tiny,
        &[(Meter::Input, 250_000), (Meter::Output, 250_000)],
        Ok("0.000000001"),
    );
}

#[test]
fn a_cost_beyond_the_range_is_said() {
    let dear = price("d", &[(Meter::Request, "9000000000", Per::Unit)]);
    check(&dear, &[(Meter::Request, 1)], Ok("9000000000"));
    check(&dear, &[(Meter::Request, 2)], Err(CostOverflow));
    check(&dear, &[(Meter::Request, u64::MAX)], Err(CostOverflow));
}

#[test]
fn the_most_particular_pattern_wins() {
    let prices = ["gpt-4o", "gpt-4o*", "gpt-*", "*"].map(|pattern| price(pattern, &[]));
    let book = PriceBook::new(3, prices.to_vec()).unwrap();
    for (model, pattern) in [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o*"),
        ("gpt-3", "gpt-*"),
        ("x", "*"),
    ] {
        assert_eq!(
            book.price(model, "USD").unwrap().pattern,
            pattern,
            "{model}"
        );
    }
    let book = PriceBook::new(3, vec![price("gpt-*", &[])]).unwrap();
    assert_eq!(book.price("claude", "USD"), None);
}

#[test]
fn a_wrong_book_is_refused_whole() {
    let negative = price("a", &[(Meter::Input, "-1", Per::Unit)]);
    for (prices, want) in [
        (vec![price("", &[])], "must be a model's name"),
        (vec![price("a*b", &[])], "must be a model's name"),
        (vec![negative], "price of input is -1.00"),
        (vec![price("a", &[]), price("a", &[])], "`a` stands twice"),
        (
            vec![price("a*", &[]), price("a*", &[])],
            "`a*` stands twice",
        ),
    ] {
        let error = PriceBook::new(1, prices).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn each_unit_has_prices_of_its_own() {
    let points = |pattern: &str| Price {
        unit: "POINTS".into(),
        ..price(pattern, &[])
    };
    let prices = vec![
        price("gpt-4o", &[]),
        price("gpt-*", &[]),
        points("gpt-4o"),
        points("gpt-4*"),
        points("*"),
    ];
    let book = PriceBook::new(3, prices.clone()).unwrap();
    let found = |model, unit| book.price(model, unit).map(|price| price.pattern.as_str());
    assert_eq!(found("gpt-4o", "USD"), Some("gpt-4o"));
    assert_eq!(found("gpt-4o", "POINTS"), Some("gpt-4o"));
    // The longer beginning has no price in dollars, so it does not hide the shorter one.
    assert_eq!(found("gpt-4-mini", "USD"), Some("gpt-*"));
    assert_eq!(found("gpt-4-mini", "POINTS"), Some("gpt-4*"));
    assert_eq!(found("claude", "USD"), None);
    assert_eq!(found("claude", "POINTS"), Some("*"));
    assert_eq!(found("gpt-4o", "EUR"), None);
    assert_eq!(book.prices().count(), prices.len());
    let twice = vec![points("a"), price("a", &[]), points("a")];
    let error = PriceBook::new(1, twice).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pattern `a` stands twice with unit `POINTS` in the price book"
    );
}

#[test]
fn a_stored_list_of_one_price_for_each_pattern_is_a_book() {
    let stored = r#"[{"pattern":"gpt-4o*","unit":"USD","rates":{"input":{"price":"2.50","per":"million"}}}]"#;
    let prices: Vec<Price> = serde_json::from_str(stored).unwrap();
    let book = PriceBook::new(7, prices).unwrap();
    assert!(book.price("gpt-4o-mini", "USD").is_some());
}
