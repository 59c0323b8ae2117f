use super::*;
use crate::policy::HoldRule;

/// A scene of its own: nobody else uses Redis.
fn lives(deployment: &Deployment, rate: f64, seconds: u64, play: Play) -> (Seen, Drought) {
    let places = Places::new(deployment.replicas, deployment.sticky());
    simulate(&scene(deployment, &places, rate, seconds, play))
}

fn scene<'a>(
    deployment: &'a Deployment,
    places: &'a Places,
    rate: f64,
    seconds: u64,
    play: Play,
) -> Scene<'a> {
    Scene {
        deployment,
        places,
        tide: Tide {
            period: deployment.sync.times.interval,
            round: 1.0,
            slow: 1.0,
        },
        rate,
        part: 0,
        play,
        measured: Duration::from_secs(seconds),
        events_max: 2_000_000,
    }
}

fn per_second(seen: &Seen, count: u64) -> f64 {
    super::super::number::real(count) / (super::super::number::real(seen.nanos) / 1e9)
}

fn within(got: f64, want: f64, percent: f64) {
    assert!(
        (got - want).abs() <= want * percent / 100.0,
        "{got} is not within {percent} % of {want}"
    );
}

#[test]
fn the_simulation_agrees_with_the_formula() {
    use super::super::arithmetic::Messages;
    // Hot on one and on many; each replica now and then; cold.
    for (replicas, rate, seconds) in [
        (1, 500.0, 20),
        (3, 300.0, 20),
        (40, 40.0, 60),
        (5, 0.2, 6_000),
        (3, 0.001, 900_000),
    ] {
        let deployment = Deployment {
            replicas,
            call_time: Duration::from_millis(100),
            ..Deployment::default()
        };
        let (seen, _) = lives(&deployment, rate, seconds, Play::Steady);
        assert!(!seen.cut, "{replicas} {rate}");
        let places = Places::new(replicas, 0.0);
        let interval = deployment.sync.times.interval;
        let of = Messages::of(rate, &places, interval, &deployment.sync);
        within(per_second(&seen, seen.messages()), of.all(), 8.0);
        for (got, want) in [(seen.quiet, of.returned), (seen.opens, of.loads)] {
            // Of what is rare there are few.
            let off = (per_second(&seen, got) - want).abs();
            assert!(
                off < 0.12 * want + 0.01 * of.all(),
                "{replicas} {rate}: {got} {want}"
            );
        }
        within(per_second(&seen, seen.calls), rate, 5.0);
        assert_eq!(seen.admitted, seen.calls, "{replicas} {rate}: {seen:?}");
    }
}

#[test]
fn a_hot_account_publishes_the_same_at_ten_times_the_rate() {
    let deployment = Deployment {
        replicas: 4,
        ..Deployment::default()
    };
    let (one, _) = lives(&deployment, 400.0, 10, Play::Steady);
    let (ten, _) = lives(&deployment, 4_000.0, 10, Play::Steady);
    within(per_second(&one, one.messages()), 40.0, 3.0);
    within(per_second(&ten, ten.messages()), 40.0, 3.0);
    // What a replica knows is half an interval and a round trip old, in the mean.
    within(ten.ages.mean().unwrap(), 0.0505, 5.0);
}

#[test]
fn the_same_seed_is_the_same_life_and_another_is_not() {
    let deployment = Deployment {
        qps: Some(100),
        ..Deployment::default()
    };
    let (one, _) = lives(&deployment, 150.0, 5, Play::Steady);
    let (same, _) = lives(&deployment, 150.0, 5, Play::Steady);
    assert_eq!(one, same);
    let other = Deployment {
        seed: 2,
        ..deployment
    };
    assert_ne!(lives(&other, 150.0, 5, Play::Steady).0, one);
}

#[test]
fn the_store_adds_up_and_no_more_is_held_than_there_is() {
    let deployment = Deployment {
        replicas: 5,
        money: Amount::from_nanos(1_000_000_000),
        money_for: Duration::ZERO,
        ..Deployment::default()
    };
    let places = Places::new(5, 0.0);
    let scene = scene(&deployment, &places, 20.0, 20, Play::Steady);
    let mut world = World::new(&scene);
    world.run();
    world.shop.desk.invariants().unwrap();
    // A hundred calls' worth each time: it was recharged several times.
    assert!(world.seen.recharges >= 2, "{:?}", world.seen);
    assert!(!world.truth.left().is_negative(), "{:?}", world.truth);
    let book = world.shop.desk.book.as_ref().unwrap();
    assert_eq!(book.lifetime_credit, world.truth.credit);
}

#[test]
fn the_first_seconds_load_and_lease_once_for_each_replica() {
    let deployment = Deployment {
        replicas: 7,
        ..Deployment::default()
    };
    let (seen, _) = lives(&deployment, 7_000.0, 2, Play::Cold);
    assert_eq!(seen.opens, 7);
    assert_eq!(seen.finds, seen.keys);
    // Who comes while the account is loaded looks for its own key.
    assert!(seen.finds > 7, "{seen:?}");
    assert!(seen.turns >= 7, "{seen:?}");
    // Four words, five of them if others have spent, and a lease.
    let longest = seen.loads_waited.longest().unwrap();
    assert!((0.0025..0.0045).contains(&longest), "{longest}");
}

#[test]
fn an_account_that_runs_dry_is_spent_to_the_last_call_and_comes_back() {
    let deployment = Deployment {
        replicas: 3,
        call_time: Duration::from_millis(200),
        price_spread: 0,
        ..Deployment::default()
    };
    let (_, drought) = lives(&deployment, 50.0, 10, Play::Dry);
    let left = drought.left.unwrap();
    // Some is free in other replicas' leases, if anything is.
    assert!(left < Amount::from_nanos(1_000_000_000), "{left}");
    assert!(drought.until_dry.unwrap() < Duration::from_secs(2));
    assert!(drought.seen.refused_without > 50, "{:?}", drought.seen);
    assert!(drought.seen.nanos > 2_000_000_000, "{:?}", drought.seen);
    // Two words for the recharge, two for the books, and a lease.
    assert!(drought.back.unwrap() < Duration::from_millis(250));
    let known = drought.changes.longest().unwrap();
    assert!((0.0015..0.004).contains(&known), "{known}");
}

#[test]
fn a_rate_is_shared_among_those_who_are_called() {
    let deployment = Deployment {
        replicas: 4,
        qps: Some(100),
        call_time: Duration::from_millis(10),
        stickiness: 50,
        ..Deployment::default()
    };
    let (seen, _) = lives(&deployment, 250.0, 20, Play::Steady);
    within(per_second(&seen, seen.admitted), 100.0, 4.0);
    // Not the same calls that one limiter would refuse, but about as many.
    let refused = seen.refused_above_rate + seen.refused_below_rate;
    let by_one = seen.refused_above_rate + seen.admitted_above_rate;
    within(per_second(&seen, refused), per_second(&seen, by_one), 4.0);
    // Far below the limit few are refused: the first at a replica that has no share yet, who wait for one.
    let (quiet, _) = lives(&deployment, 20.0, 20, Play::Steady);
    let refused = quiet.refused_below_rate + quiet.refused_above_rate;
    assert!(refused * 12 < quiet.calls, "{quiet:?}");
}

#[test]
fn calls_overshoot_their_holds_by_as_much_as_was_foreseen() {
    let deployment = Deployment {
        replicas: 2,
        hold: HoldRule::None,
        ..Deployment::default()
    };
    let (seen, _) = lives(&deployment, 50.0, 20, Play::Steady);
    // 100 calls in flight, each of which may cost 0.015.
    let bound = real_money(seen.exposure.nanos()) / 1e9;
    assert!((1.5..2.2).contains(&bound), "{bound}");
    assert!(seen.overshoot.is_positive());
    let (held, _) = lives(&Deployment::default(), 50.0, 5, Play::Steady);
    assert_eq!(
        (held.exposure, held.overshoot),
        (Amount::ZERO, Amount::ZERO)
    );
}

#[test]
fn what_there_is_no_time_for_is_cut_and_said_so() {
    let deployment = Deployment::default();
    let places = Places::new(3, 0.0);
    let scene = Scene {
        events_max: 30_000,
        ..scene(&deployment, &places, 1_000.0, 3_600, Play::Steady)
    };
    let (seen, _) = simulate(&scene);
    assert!(seen.cut && seen.events <= 30_000, "{seen:?}");
    within(per_second(&seen, seen.calls), 1_000.0, 10.0);
}
