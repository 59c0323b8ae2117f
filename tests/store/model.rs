//! Random histories, each answer compared with a naive model that computes in `i128` and knows nothing of any store.

use std::collections::BTreeMap;

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

#[derive(Default)]
struct Model {
    version: u64,
    /// Lifetime credit and floor.
    credit: i128,
    /// By replica: spend, committed, seq.
    rows: BTreeMap<String, (i128, i128, u64)>,
}

impl Model {
    fn unleased(&self) -> i128 {
        self.credit - self.rows.values().map(|row| row.1).sum::<i128>()
    }

    fn publish(&mut self, who: &str, m: &Publish) -> Published {
        let wide = |amount: Amount| i128::from(amount.nanos());
        let row = self.rows.entry(who.into()).or_default();
        let newer = m.seq > row.2;
        let stands = (row.0, row.1) == (wide(m.believed.spend), wide(m.believed.committed));
        if newer {
            row.2 = m.seq;
        }
        let applied = newer && stands;
        if applied {
            (row.0, row.1) = (wide(m.new.spend), wide(m.new.committed));
            let (free, live) = (self.unleased(), self.rows.len() as i128);
            let most = wide(m.want).min(free).max(0);
            let plenty = live == 1 || free >= 1 << 53;
            let share = if plenty {
                most
            } else {
                free.max(0) / (2 * live)
            };
            let granted = most.min(share.max(wide(m.need)));
            self.rows.get_mut(who).unwrap().1 += granted;
        }
        let narrow = |wide: i128| nano(i64::try_from(wide).unwrap());
        let row = self.rows[who];
        Published {
            applied,
            standing: Standing {
                spend: narrow(row.0),
                committed: narrow(row.1),
            },
            seq: row.2,
            total: narrow(self.rows.values().map(|row| row.0).sum()),
            unleased: narrow(self.unleased()),
            version: self.version,
        }
    }
}

async fn history(store: &dyn Store, seed: u64) {
    let mut dice = Dice(seed);
    let name = format!("a{seed}");
    // Small books meet the end often; large ones cross 2^53.
    let scale = [100, 1 << 40, 1 << 55][usize::try_from(seed % 3).unwrap()];
    let mut model = Model::default();
    let mut speakers: Vec<_> = (0..3)
        .map(|n| (Speaker::new(&name, &format!("r-{n}")), None::<Publish>))
        .collect();
    for step in 0..60 {
        if model.version == 0 || dice.roll(6) == 0 {
            let delta = dice.amount(4 * scale) - if model.version > 0 { scale } else { 0 };
            let stored = store
                .commit(plain(model.version, book(&name, 0), delta))
                .await
                .unwrap();
            model.version += 1;
            model.credit += i128::from(delta);
            assert_eq!(stored, Stored::At(model.version));
            continue;
        }
        let pick = usize::try_from(dice.roll(3)).unwrap();
        let (speaker, last) = &mut speakers[pick];
        let message = match (dice.roll(8), last.clone()) {
            (0, Some(old)) => old,
            _ => {
                let headroom = (speaker.believed.committed.nanos() - speaker.spend).max(0);
                speaker.spend += dice.amount(headroom + 2);
                let back = dice.amount(headroom + 1);
                speaker.message(
                    back,
                    dice.amount(2 * scale).min(1 << 52),
                    dice.amount(scale / 8),
                )
            }
        };
        let due = model.publish(speaker.replica.as_str(), &message);
        let got = send(store, &speaker.replica, message.clone()).await;
        assert_eq!(got, due, "seed {seed}, step {step}: {message:?}");
        // One answer in six is lost.
        if dice.roll(6) > 0 {
            speaker.believed = got.standing;
        }
        *last = Some(message);
    }
    let now = snapshot(store, &name).await;
    assert_eq!(
        i128::from(now.unleased.nanos()),
        model.unleased(),
        "seed {seed}"
    );
    assert_eq!(now.version, model.version);
}

pub(super) async fn random_histories_agree_with_the_model(f: &Fixture) {
    for seed in 0..9 {
        history(&*f.store, seed).await;
    }
}
