//! Which accounts are simulated, for how long, and their simulation, on all processors at once. What comes out depends on the seed alone.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::deployment::Deployment;
use super::number::{real, seconds, whole};
use super::spread::{Places, Stratum};
use super::world::{Drought, Play, Scene, Seen, Tide, simulate};

/// Steps of a simulation, each about a microsecond: all strata of a large deployment in less than a minute, and enough for thousands of
/// rounds of each.
const EVENTS_MAX: u64 = 1_200_000;

/// So many calls tell a rate to within 5 %.
const CALLS: f64 = 400.0;

/// The same for the first seconds, which are simulated again and again; with so many calls in each, and so many times at most.
const CALLS_COLD: f64 = 100.0;
const CALL_COLD: f64 = 0.5;
const LIVES_MAX: u64 = 200;

/// The longest life that is simulated: 20 years. Its last day is far from the end of what a clock can tell.
const LIFE_MAX: f64 = 630_720_000.0;

/// Accounts with fewer calls are simulated as if they had so many, and what they do is scaled: each of their calls finds nothing left
/// of the one before, so twice the calls do twice as much.
const RATE_MIN: f64 = CALLS / LIFE_MAX;

/// A stratum, with the account that was simulated for it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) accounts: f64,
    /// Calls per second of each.
    pub(super) rate: f64,
    /// With how many it was simulated.
    pub(super) simulated: f64,
    pub(super) seen: Seen,
}

/// What was simulated.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) shown: Vec<Shown>,
    pub(super) drought: Drought,
}

impl Sample {
    pub(super) fn take(
        deployment: &Deployment,
        places: &Places,
        tide: Tide,
        strata: &[Stratum],
    ) -> Self {
        let mut scenes = Vec::new();
        for (place, stratum) in (0..).zip(strata) {
            let scene = scene(deployment, places, tide, stratum.rate);
            for life in 0..lives(&scene) {
                let part = life.saturating_mul(PARTS).saturating_add(place);
                scenes.push((place, Scene { part, ..scene }));
            }
        }
        let hottest = strata.first().map_or(1.0, |stratum| stratum.rate);
        let dry = Scene {
            play: Play::Dry,
            part: u64::MAX,
            // It is the one that shows a storm.
            events_max: EVENTS_MAX.saturating_mul(3),
            // A Redis that others keep too busy is one that keeps up with this account alone, as far as it can.
            tide: Tide {
                slow: tide.slow.max(1.0),
                ..tide
            },
            ..scene(deployment, places, tide, hottest)
        };
        scenes.push((u64::MAX, dry));
        let mut seen = on_all_processors(&scenes);
        let drought = seen.pop().map(|(_, drought)| drought).unwrap_or_default();
        let mut shown: Vec<Shown> = strata
            .iter()
            .map(|stratum| Shown {
                accounts: real(stratum.accounts),
                rate: stratum.rate,
                simulated: stratum.rate,
                seen: Seen::default(),
            })
            .collect();
        for ((place, scene), (seen, _)) in scenes.iter().zip(seen) {
            let place = usize::try_from(*place).ok();
            if let Some(shown) = place.and_then(|place| shown.get_mut(place)) {
                shown.simulated = scene.rate;
                shown.seen.merge(&seen);
            }
        }
        Self { shown, drought }
    }
}

/// More strata than there are.
const PARTS: u64 = 1_000;

/// How many first seconds of an account are simulated, where only those count: until enough calls were seen, within reason.
fn lives(scene: &Scene<'_>) -> u64 {
    match scene.play {
        Play::Cold => {
            let calls = scene.rate * scene.measured.as_secs_f64();
            whole((CALLS_COLD / calls).ceil()).clamp(1, LIVES_MAX)
        }
        Play::Steady | Play::Dry => 1,
    }
}

fn scene<'a>(deployment: &'a Deployment, places: &'a Places, tide: Tide, rate: f64) -> Scene<'a> {
    let asked = Duration::from_secs(deployment.seconds);
    let (play, rate, measured) = if deployment.cold_start {
        // With less than one call in the time, each finds nothing of another.
        let rate = rate.max(CALL_COLD / asked.as_secs_f64());
        (Play::Cold, rate, asked)
    } else {
        let rate = rate.max(RATE_MIN);
        (Play::Steady, rate, asked.max(seconds(CALLS / rate)))
    };
    Scene {
        deployment,
        places,
        tide,
        rate,
        part: 0,
        play,
        measured,
        events_max: EVENTS_MAX,
    }
}

/// Simulates scenes, in any order; the answers are in theirs.
fn on_all_processors(scenes: &[(u64, Scene<'_>)]) -> Vec<(Seen, Drought)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(scenes.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(scenes.len()) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Relaxed);
                    let Some((_, scene)) = scenes.get(place) else {
                        return;
                    };
                    let seen = simulate(scene);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((place, seen));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, seen)| seen).collect()
}
