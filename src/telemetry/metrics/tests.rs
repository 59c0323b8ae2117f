//! What is counted is told, under the right name and no other.

use super::*;

/// The value of one series; each must stand exactly once.
fn value(page: &str, series: &str) -> String {
    let found: Vec<_> = page
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(name, _)| *name == series)
        .collect();
    assert_eq!(found.len(), 1, "{series}\n{page}");
    found[0].1.to_owned()
}

fn check(count: impl Fn(&Metrics), series: &str, expected: &str) {
    let metrics = Metrics::new(["a"], ["u"]);
    let usd = metrics.unit("USD");
    assert_eq!(usd, UnitId(1));
    let before = metrics.render(&Levels::default());
    assert_eq!(value(&before, series), "0");
    count(&metrics);
    let after = metrics.render(&Levels::default());
    assert_eq!(value(&after, series), expected, "{series}");
}

const USD: UnitId = UnitId(1);
const CENT: Amount = Amount::from_nanos(10_000_000);

#[test]
fn each_call_moves_its_own_series() {
    let took = Duration::from_micros(3);
    check(
        Metrics::admitted,
        "tollgate_decisions_total{outcome=\"admitted\"}",
        "1",
    );
    for reason in Reason::ALL {
        let series = format!("tollgate_decisions_total{{outcome=\"{}\"}}", reason.name());
        check(|metrics| metrics.refused(reason), &series, "1");
    }
    check(
        |m| m.decided_in(took),
        "tollgate_decision_seconds_count",
        "1",
    );
    check(
        |m| m.decided_in(took),
        "tollgate_decision_seconds_sum",
        "0.000003",
    );
    for certainty in CERTAINTIES {
        for way in WayOut::ALL {
            let series = format!(
                "tollgate_charges_total{{certainty=\"{}\",end=\"{}\"}}",
                certainty.name(),
                way.name()
            );
            check(|m| m.charged(USD, CENT, certainty, *way), &series, "1");
        }
    }
    let charge = |m: &Metrics| m.charged(USD, CENT, Certainty::Exact, WayOut::Complete);
    check(charge, "tollgate_spent_units_total{unit=\"USD\"}", "0.01");
    check(
        Metrics::unknown_key_hit,
        "tollgate_unknown_key_hits_total",
        "1",
    );
    check(
        Metrics::hold_table_full,
        "tollgate_holds_table_full_total",
        "1",
    );
    check(
        |m| m.loaded(LoadEnd::Failed),
        "tollgate_loads_total{result=\"failed\"}",
        "1",
    );
    check(
        |m| m.refill_waited(Refill::TimedOut, took),
        "tollgate_refill_waits_total{result=\"timed_out\"}",
        "1",
    );
    check(
        |m| m.refill_waited(Refill::Granted, took),
        "tollgate_refill_wait_seconds_count",
        "1",
    );
    check(
        |m| m.synced(SyncEnd::Failed, took),
        "tollgate_syncs_total{result=\"failed\"}",
        "1",
    );
    check(
        |m| m.synced(SyncEnd::Done, took),
        "tollgate_sync_seconds_count",
        "1",
    );
    check(Metrics::sync_restarted, "tollgate_sync_restarts_total", "1");
    for op in StoreOp::ALL {
        let series = format!("tollgate_store_errors_total{{op=\"{}\"}}", op.name());
        check(|m| m.store_error(*op), &series, "1");
    }
    check(|m| m.events(3), "tollgate_events_total", "3");
    check(Metrics::connection_opened, "tollgate_connections_open", "1");
    check(
        Metrics::connection_opened,
        "tollgate_connections_total",
        "1",
    );
    check(Metrics::drain_began, "tollgate_drains_open", "1");
    let drained = |m: &Metrics| {
        m.drain_began();
        m.drain_ended(Drained::Bounded);
    };
    check(drained, "tollgate_drains_total{result=\"bounded\"}", "1");
    check(drained, "tollgate_drains_open", "0");
    for class in StatusClass::ALL {
        let series = format!(
            "tollgate_requests_total{{route=\"a\",status=\"{}\"}}",
            class.name()
        );
        check(|m| m.route("a").unwrap().request(*class), &series, "1");
    }
    for error in UpstreamError::ALL {
        let series = format!(
            "tollgate_upstream_errors_total{{upstream=\"u\",error=\"{}\"}}",
            error.name()
        );
        check(|m| m.upstream("u").unwrap().error(*error), &series, "1");
    }
}

#[test]
fn the_furthest_overshoot_is_kept() {
    let over = |m: &Metrics| {
        m.overshot(USD, CENT);
        m.overshot(USD, Amount::from_nanos(1));
        m.overshot(USD, Amount::from_nanos(-1));
    };
    check(over, "tollgate_overshoot_seen_units{unit=\"USD\"}", "0.01");
}

#[test]
fn levels_are_told_as_they_stand() {
    let metrics = Metrics::new([], []);
    let usd = metrics.unit("USD");
    let money = MoneyLevels {
        held: 1,
        lease: 2_000_000_000,
        unpublished: 3,
        overshoot_bound: -4,
    };
    let levels = Levels {
        sync_age: Some(Duration::from_millis(1_250)),
        accounts_dirty: 5,
        accounts: 6,
        holds_open: 7,
        unknown_keys: 8,
        money: vec![(usd, money)],
    };
    let page = metrics.render(&levels);
    for (series, expected) in [
        ("tollgate_sync_age_seconds", "1.25"),
        ("tollgate_accounts_dirty", "5"),
        ("tollgate_accounts", "6"),
        ("tollgate_holds_open", "7"),
        ("tollgate_unknown_keys", "8"),
        ("tollgate_held_units{unit=\"USD\"}", "0.000000001"),
        ("tollgate_lease_units{unit=\"USD\"}", "2"),
        ("tollgate_unpublished_units{unit=\"USD\"}", "0.000000003"),
        (
            "tollgate_overshoot_bound_units{unit=\"USD\"}",
            "-0.000000004",
        ),
    ] {
        assert_eq!(value(&page, series), expected, "{series}");
    }
    // A store that was never reached has no age, not a young one.
    let page = metrics.render(&Levels::default());
    assert!(
        !page
            .lines()
            .any(|line| line.starts_with("tollgate_sync_age_seconds "))
    );
}

#[test]
fn units_are_bounded() {
    let metrics = Metrics::new([], []);
    let first = metrics.unit("USD");
    assert_eq!(metrics.unit("USD"), first);
    let units: Vec<_> = (0..100).map(|n| metrics.unit(&format!("U{n}"))).collect();
    assert_ne!(units[0], units[1]);
    assert_eq!(units[99], UnitId::OTHER);
    assert_eq!(metrics.unit("USD"), first);
    metrics.charged(units[99], CENT, Certainty::Exact, WayOut::Complete);
    let page = metrics.render(&Levels::default());
    assert_eq!(
        value(&page, "tollgate_spent_units_total{unit=\"other\"}"),
        "0.01"
    );
}

#[test]
fn two_in_one_process_do_not_mix() {
    let (one, other) = (Metrics::new(["a"], []), Metrics::new(["a"], []));
    one.admitted();
    let series = "tollgate_decisions_total{outcome=\"admitted\"}";
    assert_eq!(value(&one.render(&Levels::default()), series), "1");
    assert_eq!(value(&other.render(&Levels::default()), series), "0");
}

#[test]
fn the_page_is_what_prometheus_reads() {
    let metrics = Metrics::new(["a", "b"], ["u"]);
    let page = metrics.render(&Levels::default());
    let mut families = std::collections::BTreeSet::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            family = head.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} stands twice");
            assert!(head.ends_with('.'), "{head}");
        } else if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        } else {
            assert!(line.starts_with(family), "{line} under {family}");
            line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
        }
    }
}

#[test]
fn one_decision_in_sixteen_is_timed() {
    let metrics = Metrics::new([], []);
    let timed = (0..64).filter(|_| metrics.times_this_decision()).count();
    assert_eq!(timed, 4);
}
