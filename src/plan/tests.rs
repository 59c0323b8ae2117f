use super::*;
use crate::money::Amount;
use crate::policy::HoldRule;

fn small() -> Deployment {
    Deployment {
        seconds: 5,
        ..Deployment::default()
    }
}

fn number(plan: &Plan, section: &str, name: &str) -> f64 {
    match plan.figure(section, name) {
        Some(
            Value::PerSecond(number)
            | Value::Seconds(number)
            | Value::Bytes(number)
            | Value::BytesPerSecond(number)
            | Value::Cores(number)
            | Value::Part(number),
        ) => number,
        Some(Value::Count(count)) => real(count),
        other => panic!("{section}.{name} is {other:?}"),
    }
}

fn publishes(deployment: &Deployment) -> f64 {
    let plan = plan(deployment).unwrap();
    number(&plan, "redis", "publishes_per_second")
}

fn within(got: f64, want: f64, percent: f64) {
    assert!(
        (got - want).abs() <= want * percent / 100.0,
        "{got} is not within {percent} % of {want}"
    );
}

#[test]
fn one_account_on_one_replica_is_ten_messages_a_second() {
    let alone = Deployment {
        replicas: 1,
        accounts: 1,
        ..small()
    };
    let plan = plan(&alone).unwrap();
    within(number(&plan, "redis", "publishes_per_second"), 10.0, 2.0);
    // A message and a word in the feed each, and each second a look for what is due.
    within(number(&plan, "redis", "evalsha_per_second"), 21.0, 3.0);
    assert_eq!(plan.shards, Shards::ForCpu(1));
    assert_eq!(plan.period, Duration::from_millis(100));
    assert_eq!(number(&plan, "replica", "accounts_loaded"), 1.0);
    assert_eq!(
        number(&plan, "basis", "accounts_that_stand_for_themselves"),
        1.0
    );
}

#[test]
fn with_all_accounts_dirty_cost_does_not_follow_the_rate() {
    let busy = Deployment {
        replicas: 2,
        accounts: 2,
        rps: 400,
        spread: Spread::Uniform,
        ..small()
    };
    let one = publishes(&busy);
    within(one, 2.0 * 2.0 * 10.0, 2.0);
    let busier = Deployment {
        rps: 4_000,
        seconds: 2,
        ..busy.clone()
    };
    within(publishes(&busier), one, 2.0);
    // Twice the interval, half the messages.
    let mut slower = busy;
    slower.sync.times.interval = Duration::from_millis(200);
    within(publishes(&slower), one / 2.0, 2.0);
}

#[test]
fn accounts_that_nobody_calls_cost_memory_alone() {
    let idle = Deployment {
        accounts: 1_000_000_000,
        rps: 1,
        spread: Spread::Uniform,
        days: 0,
        ..small()
    };
    let plan = plan(&idle).unwrap();
    // Its one call a second is three messages.
    within(number(&plan, "redis", "publishes_per_second"), 3.0, 10.0);
    within(
        number(&plan, "callers", "accounts_loaded_per_second"),
        1.0,
        10.0,
    );
    within(number(&plan, "callers", "calls_per_second"), 1.0, 8.0);
    let each = number(&plan, "redis_memory", "all_bytes") / 1e9;
    within(each, Costs::default().account_bytes, 1.0);
    assert!(
        matches!(plan.shards, Shards::ForMemory(_)),
        "{:?}",
        plan.shards
    );
}

#[test]
fn a_stickier_account_costs_less() {
    let spread = Deployment {
        replicas: 10,
        accounts: 10,
        rps: 1_000,
        seconds: 2,
        ..small()
    };
    let sticky = Deployment {
        stickiness: 100,
        ..spread.clone()
    };
    assert!(publishes(&sticky) * 2.0 < publishes(&spread));
}

#[test]
fn the_same_seed_is_the_same_forecast() {
    let one = plan(&small()).unwrap();
    let same = plan(&small()).unwrap();
    assert_eq!(one.sections(), same.sections());
    assert_eq!(one.advice(), same.advice());
    let other = plan(&Deployment { seed: 2, ..small() });
    assert_ne!(other.unwrap().sections(), one.sections());
}

#[test]
fn a_large_deployment_is_told_what_it_is_short_of() {
    // By the formula alone: what is simulated for so many takes a release build.
    let hot = Deployment {
        replicas: 10_000,
        accounts: 10,
        ..Deployment::default()
    };
    let load = Load {
        accounts: 9.0,
        hottest: 3.0,
        ..Load::default()
    };
    assert_eq!(size(&hot, &load, 1.0), Shards::None(TooMuch::Account));
    let places = Places::new(10_000, 0.0);
    let strata = Spread::Uniform.strata(1_000_000, 1e8);
    let crowded = Deployment {
        replicas: 3,
        ..Deployment::default()
    };
    let few = Places::new(3, 0.0);
    let tide = tide(&crowded, &few, &strata);
    // A million accounts, all dirty all the time, on each of three replicas: a round takes most of a minute.
    assert!(tide.period > Duration::from_secs(30), "{tide:?}");
    let messages = foreseen(
        &hot,
        &places,
        &Spread::Uniform.strata(1, 1e7),
        hot.sync.times.interval,
    );
    within(messages.all(), 100_000.0, 1.0);
}

#[test]
fn every_wrong_value_is_named_with_what_would_work() {
    let zero = Amount::ZERO;
    let mut wrong = Deployment {
        replicas: 0,
        accounts: 0,
        rps: 0,
        spread: Spread::Zipf(-1.0),
        models: 0,
        price_spread: 101,
        recharge_at: Some(91),
        stickiness: 101,
        qps: Some(0),
        round_trip: Duration::ZERO,
        call_time: Duration::from_secs(100_000),
        money_for: Duration::MAX,
        days: 100_000,
        seconds: 0,
        redis: RedisSize {
            busy: 0,
            memory_mib: 1,
        },
        ..Deployment::default()
    };
    wrong.costs.message_us = f64::INFINITY;
    wrong.money = zero;
    let said = plan(&wrong).map(drop).unwrap_err();
    let fields: Vec<_> = said.iter().map(|problem| problem.field).collect();
    assert_eq!(
        fields,
        [
            "replicas",
            "accounts",
            "rps",
            "spread",
            "models",
            "price-spread",
            "recharge-at",
            "stickiness",
            "days",
            "seconds",
            "qps",
            "call-time",
            "round-trip",
            "money-for",
            "redis-busy",
            "redis-memory",
            "redis-us-per-publish",
            "money",
        ]
    );
    assert_eq!(
        said[0].to_string(),
        "--replicas 0: give a whole number from 1 to 100000"
    );
    for problem in &said {
        assert!(!problem.hint.is_empty(), "{problem}");
    }
    let poor = Deployment {
        price: "1".parse().unwrap(),
        money: "1.49".parse().unwrap(),
        ..Deployment::default()
    };
    let said = poor.problems();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].to_string().contains("a call holds 1.50"),
        "{said:?}"
    );
    for (price, hold) in [
        (zero, HoldRule::Max),
        ("1".parse().unwrap(), HoldRule::Fixed("-1".parse().unwrap())),
    ] {
        let wrong = Deployment {
            price,
            hold,
            ..Deployment::default()
        };
        assert_eq!(wrong.problems().len(), 1, "{:?}", wrong.problems());
    }
}

#[test]
fn figures_have_names_of_their_own_and_a_basis() {
    let plan = plan(&small()).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for section in plan.sections() {
        assert!(!section.figures.is_empty() && !section.title.is_empty());
        for figure in &section.figures {
            assert!(names.insert((section.name, figure.name)), "{}", figure.name);
            let unit = match figure.value {
                Value::PerSecond(_) => "_per_second",
                Value::Seconds(_) => "_seconds",
                Value::Bytes(_) => "bytes",
                Value::BytesPerSecond(_) => "_bytes_per_second",
                Value::Cores(_) => "_cores",
                Value::Part(_) => "_part",
                _ => "",
            };
            let per_day = figure.name.ends_with("_bytes_per_day");
            assert!(figure.name.ends_with(unit) || per_day, "{}", figure.name);
        }
    }
    let bases = [Basis::Simulated, Basis::Extrapolated, Basis::Measured];
    for basis in bases {
        let has = |section: &Section| section.figures.iter().any(|f| f.basis == basis);
        assert!(plan.sections().iter().any(has), "{basis:?}");
    }
}
