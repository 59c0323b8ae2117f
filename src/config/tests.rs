//! The whole way: text and variables in, a checked configuration or all its problems out.

use std::collections::BTreeSet;

use super::*;
use crate::money::Amount;
use crate::policy::{HoldRule, Policy};
use crate::route::{HttpVersion, OnDisconnect};
use crate::usage::Meter;

mod gateways;
mod hooks;
mod reference;
mod store;

const NO_ENV: [(&str, &str); 0] = [];

fn read<const N: usize>(text: &str, env: [(&str, &str); N]) -> Result<Config, Vec<String>> {
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let shown = |problems: Vec<Problem>| problems.iter().map(Problem::to_string).collect();
    parse(text, env.into_iter()).map_err(shown)
}

/// Whole configurations, compared as they print: routes have no equality of their own.
fn same(one: &Config, other: &Config) {
    assert_eq!(format!("{one:#?}"), format!("{other:#?}"));
}

/// The text must have one problem, at that key, that says this.
fn wrong(text: &str, key: &str, says: &str) {
    wrong_with(text, NO_ENV, key, says);
}

fn wrong_with<const N: usize>(text: &str, env: [(&str, &str); N], key: &str, says: &str) {
    let problems = read(text, env).map(drop).unwrap_err();
    assert_eq!(problems.len(), 1, "{text}\n{problems:?}");
    let told = problems[0]
        .strip_prefix(key)
        .is_some_and(|rest| rest.starts_with(':'));
    assert!(told, "{text}\n{key}\n{problems:?}");
    assert!(problems[0].contains(says), "{text}\n{says}\n{problems:?}");
}

const UPSTREAM: &str = "[[upstreams]]\nname = 'u'\nurl = 'http://127.0.0.1:1'\n";

#[test]
fn an_empty_file_is_a_whole_configuration() {
    let config = read("", NO_ENV).unwrap();
    assert_eq!(config.store.kind, StoreKind::Embedded);
    assert_eq!(config.proxy.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.control.listen.to_string(), "127.0.0.1:9002");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9003");
    assert_eq!(config.sync.interval, Duration::from_millis(100));
    assert!(config.proxy.worker_count() >= 1);
    assert!(config.routes.is_empty());
    // Two places know a default only as long as they agree.
    let shown = |settings: &dyn fmt::Debug| format!("{settings:?}");
    assert_eq!(
        shown(&config.sync_settings()),
        shown(&sync::Settings::default())
    );
    assert_eq!(shown(&config.bounds()), shown(&Bounds::default()));
}

#[test]
fn every_problem_is_told_at_once() {
    let text = "
        stor = 1
        [store]
        kind = 'postgres'
        data_dirr = '/x'
        [sync]
        interval = 'fast'
        lease = '1ms'
        [proxy]
        workers = -1
        interval = '1s'
        [[upstreams]]
        name = 'u'
        url = 'nowhere'
        [[routes]]
        path = 'v1'
        upstream = 'v'
        on_disconnect = 'wait'
        [[prices]]
        pattern = '*x'
        unit = 'US D'
        rates.input = 2.5
        rates.outputs = '1'
        [policies.default]
        qps = 0
        hold = 'most'
    ";
    let problems = read(text, NO_ENV).map(drop).unwrap_err();
    let keys: BTreeSet<_> = problems
        .iter()
        .filter_map(|problem| problem.split_once(": ").map(|(key, _)| key))
        .collect();
    let expected = [
        "stor",
        "store.kind",
        "store.data_dirr",
        "sync.interval",
        "sync.lease",
        "proxy.workers",
        "proxy.interval",
        "upstreams[0].url",
        "routes[0].path",
        "routes[0].upstream",
        "routes[0].on_disconnect",
        "prices[0].unit",
        "prices[0].rates.input",
        "prices[0].rates.outputs",
        "policies.default.qps",
        "policies.default.hold",
    ];
    assert_eq!(keys, BTreeSet::from(expected), "{problems:#?}");
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn a_problem_names_the_key_the_value_and_what_would_work() {
    wrong(
        "[sync]\ninterval = 'fast'",
        "sync.interval",
        "is \"fast\"; write a whole number and ms",
    );
    wrong(
        "[sync]\ninterval = '1ms'",
        "sync.interval",
        "is \"1ms\"; give 5ms to 1m",
    );
    wrong(
        "[store]\nkind = 'x'",
        "store.kind",
        "expected `embedded` or `redis`",
    );
    wrong(
        "[store]\nurl = 'redis://a'",
        "store.url",
        "write kind = \"redis\"",
    );
    wrong(
        "[store]\nkind = 'redis'",
        "store.url",
        "is missing; write url = \"redis://",
    );
    wrong(
        "[log]\nfilter = 'tollgate=loud'",
        "log.filter",
        "warn,tollgate=debug",
    );
    wrong("store = 1", "store", "write a table");
    wrong("routes = 1", "routes", "[[routes]]");
    wrong("[store\n", "line 1", "is not TOML");
    wrong(
        "[store]\nkind = 'embedded'\nkind = 'x'\n",
        "line 3",
        "is not TOML",
    );
}

#[test]
fn unknown_keys_are_told_their_nearest() {
    wrong(
        "[sync]\nintervall = '1s'",
        "sync.intervall",
        "did you mean `interval`?",
    );
    wrong("[synk]\n", "synk", "did you mean `sync`?");
    wrong(
        "[store]\nrefill_wait = '1s'",
        "store.refill_wait",
        "did you mean `sync.refill_wait`?",
    );
    wrong(
        "[log]\ncolour = true",
        "log.colour",
        "the keys here are: format, filter",
    );
    let env = [("TOLLGATE_SYNC__INTERVALL", "1s")];
    wrong_with("", env, "sync.intervall", "(from TOLLGATE_SYNC__INTERVALL)");
}

#[test]
fn times_must_fit_together() {
    wrong("[sync]\nlease = '1s'", "sync.lease", "give a longer lease");
    let text = "[store]\nkind = 'redis'\nurl = 'redis://a'\nresponse_timeout = '30s'";
    wrong(text, "sync.lease", "30.1s");
    wrong(
        "[sync]\ninterval = '500ms'",
        "admin.sync_age_max",
        "every 5s, 10 times sync.interval",
    );
    wrong(
        "[admin]\nsync_age_max = '1s'",
        "admin.sync_age_max",
        "give more",
    );
    read("[sync]\nlease = '2s'\nlease_margin = '500ms'", NO_ENV).unwrap();
}

#[test]
fn what_others_can_reach_must_ask_for_something() {
    let open = "[control]\nlisten = '0.0.0.0:9002'\n";
    wrong(open, "control.listen", "set control.token");
    wrong(
        "[control]\nlisten = '[::]:9002'",
        "control.listen",
        "is \"[::]:9002\"",
    );
    read(&format!("{open}token = '0123456789abcdef'"), NO_ENV).unwrap();
    read("[control]\nlisten = 'unix:/run/t.sock'", NO_ENV).unwrap();
    // A wrong token is the one thing to say, and its text is not said.
    let problems = read(&format!("{open}token = 'hunter2'"), NO_ENV)
        .map(drop)
        .unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("control.token: is not right; write 16"),
        "{problems:?}"
    );
    // TLS alone asks clients for nothing.
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("x.pem");
    std::fs::write(&pem, "x").unwrap();
    let tls = format!("{open}[control.tls]\ncert = {pem:?}\nkey = {pem:?}\n");
    wrong(&tls, "control.listen", "client_ca");
    let config = read(&format!("{tls}client_ca = {pem:?}"), NO_ENV).unwrap();
    assert_eq!(config.control.tls.unwrap().client_ca, Some(pem));
}

#[test]
fn files_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.pem");
    let tls = |key: &Path| format!("[proxy.tls]\ncert = {missing:?}\nkey = {key:?}\n");
    let problems = read(&tls(dir.path()), NO_ENV).map(drop).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("proxy.tls.cert: ") && problems[0].contains("missing.pem"));
    assert!(problems[1].starts_with("proxy.tls.key: ") && problems[1].contains("not a file"));
    wrong(
        "[proxy.tls]\ncert = '/dev/null/x'\nkey = '/etc/hostname'",
        "proxy.tls.cert",
        "opened",
    );
    let problem = load(&missing, std::iter::empty()).unwrap_err().remove(0);
    assert!(problem.key.ends_with("missing.pem"), "{problem}");
}

#[test]
fn ports_are_taken_once() {
    let two = |proxy: &str, admin: &str| {
        format!("[proxy]\nlisten = '{proxy}'\n[admin]\nlisten = '{admin}'\n")
    };
    wrong(
        &two("127.0.0.1:7000", "127.0.0.1:7000"),
        "admin.listen",
        "proxy.listen takes",
    );
    wrong(
        &two("0.0.0.0:7000", "127.0.0.1:7000"),
        "admin.listen",
        "proxy.listen takes",
    );
    wrong(
        "[proxy]\nlisten = '127.0.0.1:9002'",
        "control.listen",
        "proxy.listen takes",
    );
    for (proxy, admin) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:7000", "127.0.0.2:7000"),
    ] {
        read(&two(proxy, admin), NO_ENV).unwrap();
    }
}

#[test]
fn routes_become_values() {
    let text = "
        [[upstreams]]
        name = 'u'
        url = 'https://api.example/base/'
        http = '1'
        headers.Authorization = 'Bearer ${KEY}'
        [[routes]]
        path = '/v1'
        host = 'AI.example'
        upstream = 'u'
        on_disconnect = 'abort'
        body_bytes_max = '1MiB'
        usage_headers.output = 'X-Usage'
        [[routes]]
        upstream = 'u'
        free = true
    ";
    let config = read(text, [("KEY", "s3cret")]).unwrap();
    let [first, second] = config.routes.as_slice() else {
        panic!("{:?}", config.routes);
    };
    assert_eq!(
        (first.name.as_str(), second.name.as_str()),
        ("ai.example/v1", "/")
    );
    assert_eq!(first.terms.on_disconnect, OnDisconnect::Abort);
    // The smaller bound is meant for both.
    assert_eq!(
        (first.terms.inspect_bytes_max, first.terms.body_bytes_max),
        (1 << 20, 1 << 20)
    );
    assert_eq!(first.terms.usage_headers[&Meter::Output], "x-usage");
    assert!(second.terms.free && !first.terms.free);
    let upstream = &config.upstreams[0];
    assert_eq!(
        (upstream.host.as_str(), upstream.port, upstream.tls),
        ("api.example", 443, true)
    );
    assert_eq!(
        (upstream.base_path.as_str(), upstream.http),
        ("/base", HttpVersion::Http1)
    );
    assert_eq!(upstream.headers[0].1, "Bearer s3cret");
    assert!(Arc::ptr_eq(upstream, second.upstream.as_ref().unwrap()));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn wrong_routes() {
    let check = |rest: &str, key: &str, says: &str| wrong(&format!("{UPSTREAM}{rest}"), key, says);
    check(UPSTREAM, "upstreams[1].name", "another upstream's");
    check(
        "ca_file = '/etc/hostname'",
        "upstreams[0].ca_file",
        "plain http",
    );
    check(
        "headers.host = 'x'",
        "upstreams[0].headers.host",
        "leave it out",
    );
    check(
        "[[routes]]\n",
        "routes[0].upstream",
        "is missing; write upstream",
    );
    check(
        "[[routes]]\nupstream = 'v'",
        "routes[0].upstream",
        "the known ones are: u",
    );
    wrong(
        "[[routes]]\nupstream = 'v'",
        "routes[0].upstream",
        "there are no [[upstreams]]",
    );
    let twice = "[[routes]]\nupstream = 'u'\n[[routes]]\nname = 'x'\nupstream = 'u'\n";
    check(twice, "routes[1].path", "route `/` takes");
    let named = "[[routes]]\nname = 'x'\nupstream = 'u'\n[[routes]]\nname = 'x'\npath = '/a'\nupstream = 'u'";
    check(named, "routes[1].name", "another route's");
    let route = |rest: &str| format!("[[routes]]\nupstream = 'u'\n{rest}");
    check(
        &route("free = true\nmodel = 'm'"),
        "routes[0].free",
        "leave one of them out",
    );
    check(&route("model = 'a b'"), "routes[0].model", "characters");
    check(
        &route("usage_headers.tokens = 'x'"),
        "routes[0].usage_headers.tokens",
        "audio_second",
    );
    let bounds = "inspect_bytes_max = '2MiB'\nbody_bytes_max = '1MiB'";
    check(
        &route(bounds),
        "routes[0].inspect_bytes_max",
        "more than the 1048576",
    );
    // An upstream that is wrong does not make its routes wrong too.
    let text = "[[upstreams]]\nname = 'u'\nurl = 'x'\n[[routes]]\nupstream = 'u'";
    wrong(text, "upstreams[0].url", "https://");
}

#[test]
fn prices_and_policies_become_values() {
    let text = "
        [[prices]]
        pattern = 'gpt*'
        unit = 'USD'
        max_output = 100
        rates.input = { price = '2.50', per = 'million' }
        rates.request = '0.01'
        [policies.default]
        qps = 10
        [policies.gold]
        hold = { capped = '0.50' }
        credit_limit = '5'
    ";
    let catalog = read(text, NO_ENV).unwrap().catalog;
    let price = &catalog.prices[0];
    assert_eq!(price.max_output, Some(100));
    let counts = crate::usage::Counts::default()
        .with(Meter::Request, 1)
        .with(Meter::Input, 1_000_000);
    assert_eq!(price.cost(&counts).unwrap().to_string(), "2.51");
    assert_eq!(catalog.policies["default"].qps, Some(10));
    let gold = Policy {
        hold: HoldRule::Capped(Amount::from_nanos(500_000_000)),
        credit_limit: Amount::from_units(5).unwrap(),
        ..Policy::default()
    };
    assert_eq!(catalog.policies["gold"], gold);
    crate::catalog::Catalog::new(catalog).unwrap();
}

#[test]
fn wrong_prices_and_policies() {
    let price = |rest: &str| format!("[[prices]]\npattern = 'm'\nunit = 'USD'\n{rest}\n");
    let free = price("rates.request = '0'");
    wrong(
        &price(""),
        "prices[0].rates",
        "is missing; write rates.input",
    );
    wrong(
        &price("rates.input = '-1'"),
        "prices[0].rates.input",
        "zero or more",
    );
    wrong(
        &price("rates.input = 1"),
        "prices[0].rates.input",
        "in quotes",
    );
    wrong(
        &price("rates.input = { per = 'unit' }"),
        "prices[0].rates.input",
        "price = \"2.50\"",
    );
    let odd = "rates.input = { price = '1', per = 'thousand' }";
    wrong(
        &price(odd),
        "prices[0].rates.input",
        "per: expected `unit` or `million`",
    );
    wrong(
        &price("rates.inputs = '1'"),
        "prices[0].rates.inputs",
        "cached_input",
    );
    wrong(
        &format!("{free}{free}"),
        "prices[1].pattern",
        "has a price above",
    );
    wrong(
        "[[prices]]\npattern = 'a*b'\nunit = 'USD'\nrates.input = '1'",
        "prices[0].pattern",
        "at its end",
    );
    let policy = |rest: &str| format!("[policies.p]\n{rest}");
    wrong(&policy("qps = 0"), "policies.p.qps", "from 1");
    wrong(
        &policy("credit_limit = '-1'"),
        "policies.p.credit_limit",
        "zero or more",
    );
    wrong(
        &policy("hold = { fixed = '-1' }"),
        "policies.p.hold",
        "capped = \"0.50\"",
    );
    wrong(
        &policy("hold_ms_max = 0"),
        "policies.p.hold_ms_max",
        "1 to 86400000",
    );
    wrong(
        &policy("block_when = 'zero'"),
        "policies.p.block_when",
        "`negative` or `zero_or_less`",
    );
    wrong(&policy("qsp = 1"), "policies.p.qsp", "did you mean `qps`?");
    wrong(
        "[policies.'a b']",
        "policies.a b",
        "is no name for a policy",
    );
}

#[test]
fn the_environment_lies_over_the_file() {
    let text = "[store]\nkind = 'redis'\nurl = 'redis://a'\n[proxy]\nworkers = 2\n";
    let env = [
        ("TOLLGATE_STORE__URL", "redis://b"),
        ("TOLLGATE_PROXY__WORKERS", "4"),
        ("TOLLGATE_UPSTREAMS__0__NAME", "u"),
        ("TOLLGATE_UPSTREAMS__0__URL", "http://127.0.0.1:1"),
        ("TOLLGATE_ROUTES__0__UPSTREAM", "u"),
        ("TOLLGATE_ROUTES__0__FREE", "true"),
        ("TOLLGATE_POLICIES__DEFAULT__QPS", "7"),
        ("TOLLGATE_TOKEN", "the command line's"),
    ];
    let config = read(text, env).unwrap();
    let StoreKind::Redis(redis) = config.store.kind else {
        panic!("{:?}", config.store);
    };
    assert_eq!(
        redis.reach,
        RedisReach::Server(Secret::new("redis://b".into()))
    );
    assert_eq!(config.proxy.workers, Some(4));
    assert!(config.routes[0].terms.free);
    assert_eq!(config.catalog.policies["default"].qps, Some(7));
    let env = [("TOLLGATE_SYNC__INTERVAL", "fast")];
    wrong_with(
        "",
        env,
        "sync.interval",
        "is \"fast\" (from TOLLGATE_SYNC__INTERVAL)",
    );
}

#[test]
fn secrets_stay_out_of_errors() {
    let text = "[sync]\ninterval = '${S}'\n[control]\ntoken = '${S}'\n[store]\nkind = 'redis'\nurl = 'http://u:${S}@h'";
    let env = [
        ("S", "pa55"),
        ("TOLLGATE_UPSTREAMS__0__HEADERS__X", "pa55\n"),
    ];
    let problems = read(text, env).map(drop).unwrap_err();
    let told = problems.join("\n");
    assert!(!told.contains("pa55"), "{told}");
    for part in [
        "control.token: is \"${S}\"",
        "store.url: is \"http://…@h\"",
        "sync.interval: is \"${S}\"",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    assert!(
        told.contains("is what TOLLGATE_UPSTREAMS__0__HEADERS__X holds"),
        "{told}"
    );
    wrong(
        "[control]\ntoken = '${MISSING}'",
        "control.token",
        "set MISSING",
    );
    wrong(
        "[store]\nkind = 'redis'\nurl = '${MISSING}'",
        "store.url",
        "set MISSING",
    );
}

#[test]
fn every_rule_of_a_policy_is_read_and_wrong_ones_are_named() {
    let text = "
        [policies.p]
        grace = { ms = 1000, end = 'included' }
        grace_limit = '5'
        suspend_after = { ms = 2000 }
        purge_after_ms = 3
        resume = 'reactivate'
        capabilities = ['face-*']
        purchase_max_by_tier = { gold = '100' }
        alerts = ['2', '1']
        enforcement = 'shadow'
        live_from = '2027-01-01T00:00:00Z'
        auto_recharge = { below = '1', amount = '5', cool_down_ms = 60000 }
        store_outage = { up_to = '3' }
        gifts_pay_debt = true

        [tenants.acme]
        policy = 'openai-prepaid'
        overrides = { qps = 7 }
    ";
    let catalog = read(text, NO_ENV).unwrap().catalog;
    let policy = &catalog.policies["p"];
    assert_eq!(policy.grace.map(|grace| grace.ms), Some(1_000));
    assert_eq!(policy.capabilities, ["face-*"]);
    assert_eq!(policy.alerts.len(), 2);
    assert!(policy.gifts_pay_debt && policy.live_from.is_some());
    assert_eq!(catalog.tenants["acme"].overrides.qps, Some(7));
    crate::catalog::Catalog::new(catalog).unwrap();

    let policy = |rest: &str| format!("[policies.p]\n{rest}\n");
    let outlasts = "grace = { ms = 3 }\nsuspend_after = { ms = 2 }";
    for (rest, field, says) in [
        ("grace = { ms = 'x' }", "policies.p.grace", "invalid type"),
        ("grace = { ms = 0 }", "policies.p", "grace.ms is 0"),
        (outlasts, "policies.p", "longer than suspend_after"),
        ("grace_limit = '1'", "policies.p", "grace is not"),
        ("purge_after_ms = 1", "policies.p", "give suspend_after too"),
        ("purchase_max = '0'", "policies.p", "above zero"),
        ("resume = 'never'", "policies.p.resume", "expected"),
        ("alerts = ['x']", "policies.p.alerts", "decimal"),
        ("capabilities = ['']", "policies.p.capabilities", "empty"),
        (
            "auto_recharge = { below = '1', amount = '5', cool_down_ms = 1, monthly_max = '4' }",
            "policies.p",
            "monthly_max",
        ),
    ] {
        wrong(&policy(rest), field, says);
    }
    wrong(
        "[tenants.a]\npolicy = 'gold'",
        "tenants.a.policy",
        "openai-prepaid",
    );
    wrong(
        "[tenants.a]\noverrides = { qsp = 1 }",
        "tenants.a.overrides",
        "unknown field",
    );
    wrong(
        "[tenants.a]\noverrides = { qps = 0 }",
        "tenants.a.overrides",
        "qps is 0",
    );
}
