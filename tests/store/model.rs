//! Random histories, each answer compared with the rules of `store::shared`, whose sums are checked against the rows after each step.

use tollgate::store::History;
use tollgate::store::desk::Desk;
use tollgate::store::shared::{Ground, Head};

use super::*;

/// splitmix64: one seed, one history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    fn amount(&mut self, below: i64) -> i64 {
        i64::try_from(self.roll(u64::try_from(below).unwrap())).unwrap()
    }
}

/// What the store must answer, but for what only its clock knows.
fn timeless(mut answer: Published) -> Published {
    (answer.rate.rested_ms, answer.places.rested_ms) = (0, 0);
    Published {
        history: History::default(),
        ..answer
    }
}

fn sought(dice: &mut Dice, limit: u64) -> Sought {
    Sought {
        limit,
        demand: dice.roll(limit + 1),
        want: dice.roll(2 * limit + 1),
    }
}

/// The next message of a replica: mostly honest, as the real one's are, about what it spent, gives back and saw.
fn next(speaker: &mut Speaker, dice: &mut Dice, scale: i64) -> Publish {
    let headroom = (speaker.believed.committed.nanos() - speaker.spend).max(0);
    speaker.spend += dice.amount(headroom + 2);
    speaker.held = dice.amount(headroom + 1);
    let back = dice.amount(headroom + 1);
    let limit = [0, 10, 1_000_000][usize::try_from(dice.roll(3)).unwrap()];
    (speaker.rate, speaker.places) = (sought(dice, limit), sought(dice, limit / 10));
    let (want, need) = (
        dice.amount(2 * scale).min(1 << 52),
        dice.amount(scale / 8 + 1),
    );
    let mut message = speaker.message(back, want, need);
    message.least = nano(dice.amount(need + 1));
    message.new.rate = dice.roll(message.believed.rate + 1);
    message.new.places = dice.roll(message.believed.places + 1);
    message
}

/// Waits until so many replicas have lapsed, or have been retired.
async fn silence(store: &dyn Store, clock: &Clock, name: &str, retired: Duration, count: usize) {
    let mut done = 0;
    let all = until("all fell silent", async || {
        clock.advance(Duration::from_millis(2));
        let name = account(name);
        let got = store.lapse(&name, Duration::ZERO, retired).await.unwrap();
        done += got.lapsed + got.retired;
        (done == count as u64).then_some(())
    });
    all.await;
}

async fn history(store: &dyn Store, clock: &Clock, seed: u64) {
    let mut dice = Dice(seed);
    let name = format!("a{seed}");
    // Small books meet the end often; large ones cross 2^53.
    let scale = [100, 1 << 40, 1 << 55][usize::try_from(seed % 3).unwrap()];
    let (mut desk, ground) = (Desk::default(), Ground::default());
    let mut speakers: Vec<_> = (0..3)
        .map(|n| (Speaker::new(&name, &format!("r-{n}")), None::<Publish>))
        .collect();
    for step in 0..80 {
        let version = desk.head.version;
        if version == 0 || dice.roll(8) == 0 {
            let delta = dice.amount(4 * scale) - if version > 0 { scale } else { 0 };
            let credit = desk.book.as_ref().map_or(0, |b| b.lifetime_credit.nanos());
            let commit = plain(version, book(&name, credit + delta), delta);
            let due = desk.commit(&commit, &ground).unwrap();
            assert_eq!(store.commit(commit).await.unwrap(), due);
            continue;
        }
        if dice.roll(20) == 0 {
            // Everybody has been silent for longer than nothing.
            let retires = dice.roll(2) == 0;
            let live = desk.rows.values().filter(|row| row.live).count();
            silence(store, clock, &name, Duration::MAX, live).await;
            let late = Ground {
                now_ms: 1 << 50,
                ..ground
            };
            desk.lapse(0, u64::MAX, &late);
            if retires {
                silence(store, clock, &name, Duration::ZERO, desk.rows.len()).await;
                desk.lapse(0, 0, &late);
            }
            continue;
        }
        let pick = usize::try_from(dice.roll(3)).unwrap();
        // Now and then a replica comes back that has seen more than the store has.
        let saw = if dice.roll(15) == 0 {
            dice.amount(scale / 4 + 1)
        } else {
            0
        };
        let (speaker, last) = &mut speakers[pick];
        speaker.total = speaker.total.max(desk.head.total.nanos()) + saw;
        speaker.seen = speaker.seen.max(speaker.believed.spend.nanos()) + saw / 2;
        let message = match (dice.roll(8), last.clone()) {
            (0, Some(old)) => old,
            _ => next(speaker, &mut dice, scale),
        };
        let due = desk.publish(&speaker.replica, &message, &ground);
        let got = store
            .publish(&speaker.replica, vec![message.clone()])
            .await
            .remove(0);
        let (due, got) = match (due, got) {
            (Ok(due), Ok(got)) => (timeless(due), timeless(got)),
            (Err(_), Err(_)) => continue,
            (due, got) => panic!("seed {seed}, step {step}: {due:?}, {got:?}: {message:?}"),
        };
        assert_eq!(got, due, "seed {seed}, step {step}: {message:?}");
        desk.invariants()
            .unwrap_or_else(|broken| panic!("seed {seed}, step {step}: {broken}"));
        // One answer in six is lost.
        if dice.roll(6) > 0 {
            speaker.believed = got.standing;
        }
        *last = Some(message);
    }
    let now = snapshot(store, &name).await;
    let Head {
        version,
        total,
        unleased,
        lost,
        ..
    } = desk.head;
    assert_eq!(
        (now.version, now.spend, now.unleased, now.lost),
        (version, total, unleased, lost),
        "seed {seed}"
    );
}

pub(super) async fn random_histories_agree_with_the_model(f: &Fixture) {
    for seed in 0..12 {
        history(&*f.store, &f.clock, seed).await;
    }
}
