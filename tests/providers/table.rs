//! The page that maps the rules to their tests is right: every rule is on it, and every test that it names is there.

use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../../src/policy/rules.md");

/// Every rule there is, with how many of each family.
const RULES: [(&str, u32); 6] = [
    ("A1", 11),
    ("A2", 7),
    ("A3", 14),
    ("A4", 8),
    ("A5", 5),
    ("X", 8),
];

const SOURCES: [(&str, &str); 6] = [
    ("alibaba_visual.rs", include_str!("alibaba_visual.rs")),
    ("tencent_apigw.rs", include_str!("tencent_apigw.rs")),
    ("xiaomi_mimo.rs", include_str!("xiaomi_mimo.rs")),
    ("openai_prepaid.rs", include_str!("openai_prepaid.rs")),
    ("ai12z.rs", include_str!("ai12z.rs")),
    ("common.rs", include_str!("common.rs")),
];

/// By rule: the file and the name of its test, as the page has them.
fn on_the_page() -> BTreeMap<String, (String, String)> {
    let mut rules = BTreeMap::new();
    let mut file = "";
    for line in PAGE.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, _, _, test] = cells[..] else {
            continue;
        };
        if let Some(named) = test.strip_prefix("test in ") {
            file = named.trim_matches('`');
        } else if !id.starts_with('-') {
            let test = (file.to_owned(), test.trim_matches('`').to_owned());
            assert_eq!(
                rules.insert(id.to_owned(), test),
                None,
                "{id} is there twice"
            );
        }
    }
    rules
}

/// The tests of a source: what follows on the attribute of one.
fn tests(source: &str) -> BTreeSet<&str> {
    let lines: Vec<_> = source.lines().collect();
    let named = lines.windows(2).filter_map(|pair| {
        let name = pair[1].strip_prefix("async fn ")?;
        pair[0]
            .starts_with("#[tokio::test")
            .then_some(name.split('(').next()?)
    });
    named.collect()
}

#[test]
fn every_rule_is_on_the_page_and_has_a_test_that_is_named_by_it() {
    let page = on_the_page();
    let expected = RULES
        .iter()
        .flat_map(|(family, count)| (1..=*count).map(move |n| format!("{family}-{n}")));
    let expected: BTreeSet<_> = expected.collect();
    let there: BTreeSet<_> = page.keys().cloned().collect();
    assert_eq!(there, expected);
    let mut on_page = BTreeSet::new();
    for (id, (file, test)) in &page {
        let (family, number) = id.split_once('-').unwrap();
        let number: u32 = number.parse().unwrap();
        let prefix = match family {
            "X" => format!("x_{number}_"),
            family => format!("{}_{number:02}_", family.to_lowercase()),
        };
        assert!(test.starts_with(&prefix), "{id}: {test}");
        let source = SOURCES.iter().find(|(name, _)| name == file);
        let (_, source) = source.unwrap_or_else(|| panic!("{id}: there is no {file}"));
        assert!(
            tests(source).contains(test.as_str()),
            "{id}: {file} has no test {test}"
        );
        on_page.insert(test.as_str());
    }
    // And no test of a rule that the page does not name.
    for (file, source) in SOURCES {
        for test in tests(source) {
            assert!(on_page.contains(test), "{file}: {test} is not on the page");
        }
    }
}
