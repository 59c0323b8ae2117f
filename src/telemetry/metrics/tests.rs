//! What is counted is told, under the right name and no other.

use std::collections::BTreeSet;

use super::*;
use crate::usage::Counts;

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

fn lines(page: &str) -> BTreeSet<&str> {
    page.lines().collect()
}

fn check(count: impl Fn(&Metrics), series: &str, expected: &str) {
    let metrics = Metrics::new(["a"], ["u"]);
    let before = metrics.render(&Levels::default());
    assert_eq!(value(&before, series), "0");
    count(&metrics);
    let after = metrics.render(&Levels::default());
    assert_eq!(value(&after, series), expected, "{series}");
    // Families and series come in any order.
    let moved = lines(&before)
        .symmetric_difference(&lines(&after))
        .copied()
        .collect::<Vec<_>>();
    // A histogram moves its buckets, a charge its amount: nothing else may move with it.
    let families = moved
        .iter()
        .map(|line| line.split(['{', ' ']).next().unwrap());
    let families: Vec<_> = families
        .map(|name| {
            let ends = ["_bucket", "_sum", "_count"];
            ends.iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name)
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    assert!(families.len() <= 2, "{series}: {families:?}");
}

fn charge(certainty: Certainty) -> Charge {
    Charge {
        amount: Amount::from_nanos(10_000_000),
        certainty,
        counts: Counts::default(),
        flat: false,
    }
}

#[test]
fn each_call_moves_its_own_series() {
    let took = Duration::from_micros(3);
    check(
        |m| m.decided(None),
        "tollgate_decisions_total{outcome=\"admitted\"}",
        "1",
    );
    for reason in Reason::ALL {
        let series = format!("tollgate_decisions_total{{outcome=\"{}\"}}", reason.name());
        check(|m| m.decided(Some(reason)), &series, "1");
    }
    check(
        |m| m.decision_time(took),
        "tollgate_decision_seconds_count",
        "1",
    );
    check(
        |m| m.decision_time(took),
        "tollgate_decision_seconds_sum",
        "0.000003",
    );
    for certainty in CERTAINTIES {
        for end in End::ALL {
            let (sure, end_name) = (certainty.name(), end.name());
            let series =
                format!("tollgate_charges_total{{certainty=\"{sure}\",end=\"{end_name}\"}}");
            check(|m| m.charged(end, &charge(certainty)), &series, "1");
        }
    }
    let charged = |m: &Metrics| m.charged(End::Complete, &charge(Certainty::Exact));
    check(charged, "tollgate_spent_units_total", "0.01");
    check(
        Metrics::unknown_key_hit,
        "tollgate_unknown_key_hits_total",
        "1",
    );
    for op in StoreOp::ALL {
        let series = format!("tollgate_store_errors_total{{op=\"{}\"}}", op.name());
        check(|m| m.store_error(*op), &series, "1");
        let series = format!("tollgate_store_seconds_sum{{op=\"{}\"}}", op.name());
        check(|m| m.store_took(*op, took), &series, "0.000003");
    }
    check(|m| m.events(3), "tollgate_events_total", "3");
    check(Metrics::connection_opened, "tollgate_connections_open", "1");
    check(
        Metrics::connection_opened,
        "tollgate_connections_total",
        "1",
    );
    check(Metrics::drain_began, "tollgate_drains_open", "1");
    let closed = |m: &Metrics| {
        m.connection_opened();
        m.connection_closed();
    };
    check(closed, "tollgate_connections_open", "0");
    for end in Drained::ALL {
        let drained = |m: &Metrics| {
            m.drain_began();
            m.drain_ended(*end);
        };
        let series = format!("tollgate_drains_total{{result=\"{}\"}}", end.name());
        check(drained, &series, "1");
        check(drained, "tollgate_drains_open", "0");
    }
    for passage in Passage::ALL {
        let series = format!(
            "tollgate_gateway_calls_total{{result=\"{}\"}}",
            passage.name()
        );
        check(|m| m.passage(*passage), &series, "1");
    }
    for class in StatusClass::ALL {
        let name = class.name();
        let series = format!("tollgate_requests_total{{route=\"a\",status=\"{name}\"}}");
        check(|m| m.route("a").unwrap().request(*class), &series, "1");
    }
    for error in UpstreamError::ALL {
        let name = error.name();
        let series = format!("tollgate_upstream_errors_total{{upstream=\"u\",error=\"{name}\"}}");
        check(|m| m.upstream("u").unwrap().error(*error), &series, "1");
    }
}

#[test]
fn levels_are_told_as_they_stand() {
    let levels = Levels {
        sync_age: Some(Duration::from_millis(1_250)),
        sync_failing: true,
        sync_errors: 3,
        refill_waits: 4,
        healed: 21,
        restored: 22,
        lapsed: 23,
        retired: 24,
        fenced: 25,
        lost: Amount::from_nanos(26_000_000_000),
        stalest: Duration::from_secs(27),
        beyond: Amount::from_nanos(3_500_000_000),
        beyond_bound: Amount::from_nanos(28_000_000_000),
        unprotected: 28,
        unremembered: 29,
        accounts: 5,
        holds_open: 6,
        held: Amount::from_nanos(7),
        leased: Amount::from_nanos(8_000_000_000),
        overshoot_bound: Amount::from_nanos(-9),
        overshoot_seen: Amount::MAX,
    };
    let page = Metrics::default().render(&levels);
    for (series, expected) in [
        ("tollgate_sync_age_seconds", "1.25"),
        ("tollgate_sync_failing", "1"),
        ("tollgate_sync_errors_total", "3"),
        ("tollgate_refill_waits_total", "4"),
        ("tollgate_store_healed_total", "21"),
        ("tollgate_store_restored_total", "22"),
        ("tollgate_replicas_lapsed_total", "23"),
        ("tollgate_replicas_retired_total", "24"),
        ("tollgate_accounts_fenced", "25"),
        ("tollgate_lost_units", "26"),
        ("tollgate_stalest_lease_seconds", "27"),
        ("tollgate_beyond_lease_units", "3.5"),
        ("tollgate_beyond_lease_bound_units", "28"),
        ("tollgate_counters_unprotected", "28"),
        ("tollgate_books_unremembered_total", "29"),
        ("tollgate_exposure_units", "7.999999991"),
        ("tollgate_accounts", "5"),
        ("tollgate_holds_open", "6"),
        ("tollgate_held_units", "0.000000007"),
        ("tollgate_leased_units", "8"),
        ("tollgate_overshoot_bound_units", "-0.000000009"),
        ("tollgate_overshoot_units_total", "9223372036.854776"),
    ] {
        assert_eq!(value(&page, series), expected, "{series}");
    }
    // A store that was never reached has no age, not a young one.
    let page = Metrics::default().render(&Levels::default());
    assert!(
        !page
            .lines()
            .any(|line| line.starts_with("tollgate_sync_age_seconds "))
    );
}

#[test]
fn clones_count_as_one_and_strangers_apart() {
    let (one, other) = (Metrics::new(["a"], []), Metrics::new(["a"], []));
    one.clone().decided(None);
    let series = "tollgate_decisions_total{outcome=\"admitted\"}";
    assert_eq!(value(&one.render(&Levels::default()), series), "1");
    assert_eq!(value(&other.render(&Levels::default()), series), "0");
    assert!(one.route("b").is_none() && one.upstream("a").is_none());
}

#[test]
fn the_page_is_what_prometheus_reads() {
    let page = Metrics::new(["a", "b"], ["u"]).render(&Levels::default());
    let mut families = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut family = "";
    for line in page.lines() {
        if line.is_empty() {
            continue;
        }
        if let Some(head) = line.strip_prefix("# HELP ") {
            family = head.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} stands twice");
            assert!(head.ends_with('.'), "{head}");
        } else if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').unwrap();
            assert_eq!(name, family);
            // Sums of money are gauges: counters are whole numbers.
            let counter = name.ends_with("_total") && !name.ends_with("_units_total");
            assert_eq!(kind == "counter", counter, "{name}");
        } else {
            let (name, number) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family), "{line} under {family}");
            assert!(series.insert(name), "{name} stands twice");
            number.parse::<f64>().unwrap();
        }
    }
    assert!(families.len() > 20, "{families:?}");
}

#[test]
fn a_bucket_contains_its_upper_end() {
    let check = |nanos: u64, first: &str, before: Option<&str>| {
        let metrics = Metrics::default();
        metrics.decision_time(Duration::from_nanos(nanos));
        let page = metrics.render(&Levels::default());
        let bucket = |end: &str| {
            let series = format!("tollgate_decision_seconds_bucket{{le=\"{end}\"}}");
            value(&page, &series)
        };
        assert_eq!(bucket(first), "1", "{nanos} ns up to {first}");
        if let Some(before) = before {
            assert_eq!(bucket(before), "0", "{nanos} ns up to {before}");
        }
    };
    check(0, "0.00000025", None);
    check(250, "0.00000025", None);
    check(251, "0.0000005", Some("0.00000025"));
    check(1_000, "0.000001", Some("0.0000005"));
    check(1_000_000_000, "1", Some("0.5"));
    check(1_000_000_001, "+Inf", Some("1"));
    check(u64::MAX, "+Inf", Some("1"));
}

#[test]
fn neither_threads_nor_upkeep_lose_anything() {
    const THREADS: u32 = 8;
    const TIMES: u32 = 1_000;
    let metrics = Metrics::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..TIMES {
                    metrics.decided(None);
                    metrics.decision_time(Duration::from_micros(1));
                    metrics.charged(End::Complete, &charge(Certainty::Exact));
                    metrics.connection_opened();
                }
            });
        }
    });
    metrics.upkeep();
    metrics.decision_time(Duration::from_micros(1));
    let page = metrics.render(&Levels::default());
    for (series, expected) in [
        ("tollgate_decisions_total{outcome=\"admitted\"}", "8000"),
        ("tollgate_decision_seconds_count", "8001"),
        ("tollgate_spent_units_total", "80"),
        ("tollgate_connections_open", "8000"),
    ] {
        assert_eq!(value(&page, series), expected, "{series}");
    }
}

#[test]
fn labels_cannot_break_out_of_their_quotes() {
    let check = |route: &str, escaped: &str| {
        let page = Metrics::new([route], []).render(&Levels::default());
        let series = format!("tollgate_requests_total{{route=\"{escaped}\",status=\"2xx\"}}");
        assert_eq!(value(&page, &series), "0");
    };
    check("x\"y\\z\n", "x\\\"y\\\\z\\n");
    check("\\\"", "\\\\\\\"");
    check("\\\\n\\\n\\", "\\\\\\\\n\\\\\\n\\\\");
}
