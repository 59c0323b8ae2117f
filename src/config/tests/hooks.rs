//! `[[webhooks]]`.

use super::*;
use crate::ledger::EventKind;
use crate::webhooks::{From, Kinds};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn with(more: &str) -> String {
    format!("[[webhooks]]\nname = 'b'\nurl = 'https://b.test/x/?t=1'\nsecret = '{SECRET}'\n{more}")
}

#[test]
fn an_endpoint_is_read_with_its_defaults() {
    let config = read(&with(""), NO_ENV).unwrap();
    let [endpoint] = config.webhooks.as_slice() else {
        panic!("{:?}", config.webhooks);
    };
    assert_eq!(
        (endpoint.url.as_str(), endpoint.path_and_query.as_str()),
        ("https://b.test/x/", "/x/?t=1")
    );
    assert_eq!(endpoint.from, From::Now);
    assert_eq!(endpoint.keys.len(), 1);
    assert!(endpoint.wants(EventKind::BalanceLow));
    assert!(!format!("{config:?}").contains("MfKQ"));
}

#[test]
fn secrets_may_be_in_files_and_two_while_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let before = format!("previous_secret_file = '{}'", file.display());
    let config = read(&with(&before), NO_ENV).unwrap();
    assert_eq!(config.webhooks[0].keys.len(), 2);
    std::fs::write(&file, "nothing").unwrap();
    wrong(
        &with(&before),
        "webhooks[0].previous_secret_file",
        "openssl rand",
    );
    let both = format!("secret_file = '{}'", file.display());
    let problems = read(&with(&both), NO_ENV).map(drop).unwrap_err();
    assert!(
        problems[0].contains("leave one of them out"),
        "{problems:?}"
    );
}

#[test]
fn events_are_chosen_by_name_or_beginning() {
    let text = with("events = ['account.*', 'credit.added']");
    let config = read(&text, NO_ENV).unwrap();
    let endpoint = &config.webhooks[0];
    let kinds: Vec<_> = endpoint.kinds.iter().map(Kinds::to_string).collect();
    assert_eq!(kinds, ["account.*", "credit.added"]);
    for (kind, wanted) in [
        (EventKind::AccountOverdue, true),
        (EventKind::CreditAdded, true),
        (EventKind::CreditExpired, false),
        (EventKind::BalanceLow, false),
    ] {
        assert_eq!(endpoint.wants(kind), wanted, "{kind:?}");
    }
    for one in ["account.overdu", "account*", "*", "nothing.*"] {
        let text = with(&format!("events = ['{one}']"));
        wrong(&text, "webhooks[0].events", "account.overdue");
    }
}

#[test]
fn what_is_wrong_with_an_endpoint_is_told() {
    let told = |text: &str, key: &str, says: &str| wrong(text, key, says);
    let missing = "[[webhooks]]\nname = 'b'\nurl = 'http://b.test'\n";
    told(missing, "webhooks[0].secret", "whsec_");
    told(
        &with("").replace(SECRET, "whsec_short"),
        "webhooks[0].secret",
        "is not right; write whsec_",
    );
    told(
        &format!("{}\n{}", with(""), with("")),
        "webhooks[1].name",
        "as another endpoint's is",
    );
    told(
        &with("").replace("https://", "ftp://"),
        "webhooks[0].url",
        "http://",
    );
    told(
        &with("retry_min = '1m'\nretry_max = '1s'"),
        "webhooks[0].retry_max",
        "less than retry_min",
    );
    told(
        &with("concurrency = 0"),
        "webhooks[0].concurrency",
        "1 to 256",
    );
    told(
        &with("").replace("'b'", "'b:dead'"),
        "webhooks[0].name",
        "characters",
    );
}
