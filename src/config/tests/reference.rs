//! `deploy/tollgate.toml` against the code: every key, every default, and nothing else.

use super::*;

const TEXT: &str = include_str!("../../../deploy/tollgate.toml");

/// The reference with its examples taken in, and with its defaults too or not; its files made. Of examples that shut one another
/// out, those that come first.
fn taken_in(defaults: bool, dir: &Path) -> String {
    let line = |line: &str| match line.strip_prefix("##") {
        Some(other) if other.starts_with('#') => line.to_owned(),
        Some(example) => example.to_owned(),
        None => match line.strip_prefix('#') {
            Some(default) if defaults && !default.starts_with(' ') => default.to_owned(),
            _ => line.to_owned(),
        },
    };
    let text: Vec<_> = TEXT.lines().map(line).collect();
    for name in text
        .iter()
        .filter_map(|line| line.split("\"/etc/tollgate/").nth(1))
    {
        std::fs::write(dir.join(name.trim_end_matches('"')), "x").unwrap();
    }
    text.join("\n")
        .replace("/etc/tollgate", dir.to_str().unwrap())
}

const ENV: [(&str, &str); 7] = [
    ("TOLLGATE_STORE__KIND", "redis"),
    ("REDIS_PASSWORD", "x"),
    ("SENTINEL_PASSWORD", "x"),
    ("TOLLGATE_TOKEN", "0123456789abcdef"),
    ("OPENAI_API_KEY", "x"),
    ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    (
        "WEBHOOK_SECRET_BEFORE",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ),
];

#[test]
fn as_it_stands_it_changes_nothing() {
    let mut config = read(TEXT, NO_ENV).unwrap();
    assert_eq!(
        config.catalog.policies.remove("default"),
        Some(Policy::default())
    );
    same(&config, &read("", NO_ENV).unwrap());
}

#[test]
fn its_defaults_are_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let without = read(&taken_in(false, dir.path()), ENV).unwrap();
    let with = read(&taken_in(true, dir.path()), ENV).unwrap();
    same(&with, &without);
    // The one that the variables above hide.
    assert!(TEXT.contains("\n#kind = \"embedded\"\n"));
    assert_eq!(read("", NO_ENV).unwrap().store.kind, StoreKind::Embedded);
}

#[test]
fn each_way_to_redis_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let text = taken_in(false, dir.path());
    for file in ["redis-ca.pem", "redis-client.pem", "redis-client-key.pem"] {
        std::fs::write(dir.path().join(file), "x").unwrap();
    }
    let other = |key: &str| {
        let line = TEXT.lines().find_map(|line| {
            let line = line.strip_prefix("###")?;
            line.starts_with(key).then(|| line.to_owned())
        });
        line.expect(key)
    };
    let url = "url = \"redis://127.0.0.1:6379\"";
    assert!(text.contains(url));
    let mut sentinels = String::new();
    for key in ["sentinels", "master", "sentinel_user", "sentinel_password"] {
        sentinels.push_str(&other(&format!("{key} =")));
        sentinels.push('\n');
    }
    for (way, secured) in [(sentinels, false), (other("cluster ="), true)] {
        let text = text.replace(url, &way);
        let config = read(&text, ENV).unwrap();
        assert!(matches!(config.store.kind, StoreKind::Redis(_)), "{way}");
        // And with TLS.
        let text = if secured {
            text.replace("redis://10.", "rediss://10.")
        } else {
            text
        };
        let tls: Vec<_> = [
            "[store.tls]",
            "ca_file =",
            "cert =",
            "key =",
            "server_name =",
        ]
        .into_iter()
        .map(other)
        .collect();
        let tls = tls
            .join("\n")
            .replace("/etc/tollgate", dir.path().to_str().unwrap());
        let config = read(&format!("{text}\n{tls}\n"), ENV).unwrap();
        let StoreKind::Redis(redis) = config.store.kind else {
            panic!("{:?}", config.store);
        };
        assert!(redis.tls.unwrap().identity.is_some());
    }
}

#[test]
fn it_has_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let text = taken_in(true, dir.path());
    let env = ENV.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (table, notes) = source::layered(&text, env.into()).unwrap();
    let mut written = BTreeSet::new();
    keys(&toml::Value::Table(table.clone()), "", &mut written);
    let others: Vec<_> = TEXT
        .lines()
        .filter_map(|line| line.strip_prefix("###"))
        .collect();
    let others = format!("[store]\n{}", others.join("\n")).parse().unwrap();
    keys(&toml::Value::Table(others), "", &mut written);
    sections::check(reader::Reader::new(&notes, table)).unwrap();
    let known: BTreeSet<_> = notes.known();
    let absent: Vec<_> = known.difference(&written).collect();
    assert!(absent.is_empty(), "not in the reference: {absent:?}");
    assert!(known.len() > 60, "{known:?}");
}

/// Every key that is written, lists and names blotted out as the reader does.
fn keys(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.into());
    if let Some(table) = value.as_table() {
        for (key, value) in table {
            let path = match path {
                "" => key.clone(),
                "policies" => "policies.*".into(),
                "tenants" => "tenants.*".into(),
                _ => format!("{path}.{key}"),
            };
            keys(value, &path, found);
        }
    }
    for item in value.as_array().into_iter().flatten() {
        keys(item, &format!("{path}[]"), found);
    }
}
