#[cfg(feature = "model")]
mod races;

use std::time::Duration;

use super::*;
use crate::clock::{Clock, Monotonic, Timestamp};
use crate::policy::{BlockWhen, Policy};
use crate::usage::{Certainty, Counts, Meter};

struct Bench {
    engine: Arc<Engine>,
    clock: Clock,
    account: Arc<Account>,
}

fn nanos(n: i64) -> Amount {
    Amount::from_nanos(n)
}

fn bench(policy: Policy) -> Bench {
    let engine = Engine::new([1; 16], Bounds::default(), Counters::in_memory());
    let rules = Rules::plain("USD".into(), policy);
    let taken = engine.counters().take_up(&AccountId::new("a").unwrap());
    let account = engine.load(taken, rules, std::iter::empty());
    account.share_all(Monotonic::from_nanos(1));
    account.purse().grant(nanos(100));
    account.lease_until(Monotonic::from_nanos(u64::MAX));
    Bench {
        engine,
        clock: Clock::manual(Timestamp::from_nanos(0)),
        account,
    }
}

fn ask(amount: i64) -> Ask<'static> {
    let amount = nanos(amount);
    Ask {
        model: Some("m"),
        counted_as: ModelId::NONE,
        priced: true,
        amount,
        worst: amount,
        more: None,
    }
}

impl Bench {
    fn key(&self, secret: &str, edit: impl FnOnce(&mut KeyRecord)) -> Arc<Key> {
        let mut record = KeyRecord {
            id: KeyId::new(secret).unwrap(),
            account: self.account.id().clone(),
            digest: digest(secret.as_bytes()),
            name: String::new(),
            hint: String::new(),
            created: Timestamp::from_nanos(0),
            expires: None,
            revoked: None,
            qps: None,
            models: Vec::new(),
            service: String::new(),
            budgets: Vec::new(),
        };
        edit(&mut record);
        let fingerprint = match self.engine.identify(secret.as_bytes(), self.clock.now()) {
            Identified::NotLoaded(fingerprint) => Some(fingerprint),
            _ => None,
        };
        self.engine.load_key(fingerprint, &self.account, record)
    }

    fn admit(&self, key: &Arc<Key>, ask: Ask<'_>) -> Result<Hold, Denied> {
        self.engine
            .admit(Arc::clone(key), ask, self.clock.now())
            .map_err(|(_, denied)| denied)
    }

    fn check(&self, key: &Arc<Key>, ask: Ask<'_>, want: Result<(), Reason>) {
        let got = match self.admit(key, ask) {
            Ok(hold) => {
                hold.release();
                Ok(())
            }
            Err(Denied::Refused(refusal)) => Err(refusal.reason),
            Err(Denied::Lease | Denied::Short(_)) => panic!("the lease covers it"),
        };
        assert_eq!(got, want);
    }
}

#[test]
fn a_secret_is_found_by_all_of_it() {
    let bench = bench(Policy::default());
    let key = bench.key("sk-one", |_| ());
    let now = bench.clock.now();
    assert!(
        matches!(bench.engine.identify(b"sk-one", now), Identified::Key(found) if Arc::ptr_eq(&found, &key))
    );
    for other in ["sk-on", "sk-one ", "SK-ONE", ""] {
        assert!(
            matches!(
                bench.engine.identify(other.as_bytes(), now),
                Identified::NotLoaded(_)
            ),
            "{other}"
        );
    }
}

#[test]
fn strangers_are_remembered_for_a_while_and_forgotten_when_keys_are_made() {
    let bench = bench(Policy::default());
    let find = || bench.engine.identify(b"sk-who", bench.clock.now());
    let Identified::NotLoaded(fingerprint) = find() else {
        panic!("nobody knows it yet")
    };
    bench
        .engine
        .remember_unknown(fingerprint, bench.clock.now());
    assert!(matches!(find(), Identified::Unknown));
    bench.clock.advance(Bounds::default().unknown_key_time);
    assert!(
        matches!(find(), Identified::NotLoaded(_)),
        "its time is over at its end exactly"
    );
    bench
        .engine
        .remember_unknown(fingerprint, bench.clock.now());
    bench.engine.forget_unknown();
    assert!(matches!(find(), Identified::NotLoaded(_)));
}

#[test]
fn checks_come_in_a_fixed_order() {
    let policy = Policy {
        concurrency: Some(1),
        qps: Some(1),
        burst: Some(1),
        ..Policy::default()
    };
    let bench = bench(policy.clone());
    let free = bench.key("k", |_| ());
    let picky = bench.key("picky", |key| key.models = vec!["x*".into()]);
    let gone = bench.key("gone", |key| key.revoked = Some(Timestamp::from_nanos(0)));
    let rules = |standing| Rules {
        standing: crate::ledger::Standing::always(standing),
        ..Rules::plain("USD".into(), policy.clone())
    };

    // Everything is wrong at once, and is mended from the front: the account is full, out of rate and out of money.
    let open = bench.admit(&free, ask(100)).unwrap();
    bench.account.follow(rules(Some(Reason::AccountOverdue)));
    let unpriced = Ask {
        priced: false,
        ..ask(1)
    };
    bench.check(&gone, unpriced, Err(Reason::KeyRevoked));
    bench.check(&picky, unpriced, Err(Reason::AccountOverdue));
    bench.account.follow(rules(None));
    bench.check(&picky, unpriced, Err(Reason::ModelNotAllowed));
    bench.check(&free, unpriced, Err(Reason::ModelNotPriced));
    bench.check(&free, ask(1), Err(Reason::ConcurrencyExceeded));
    open.settle(nanos(100), Certainty::Exact, &Counts::default());
    bench.check(&free, ask(1), Err(Reason::QpsExceeded));
    bench.clock.advance(Duration::from_secs(1));
    bench.account.dry_until(Monotonic::from_nanos(u64::MAX));
    bench.check(&free, ask(1), Err(Reason::InsufficientBalance));
    bench.account.dry_until(Monotonic::default());
    assert_eq!(
        bench.admit(&free, ask(1)).err(),
        Some(Denied::Lease),
        "there may be more where that came from"
    );
    // None of the refusals kept anything.
    bench.account.purse().grant(nanos(1));
    bench.check(&free, ask(1), Ok(()));
    assert_eq!(
        (bench.account.in_flight(), bench.account.purse().headroom()),
        (0, nanos(1))
    );
}

#[test]
fn a_key_expires_at_its_instant() {
    let bench = bench(Policy::default());
    let key = bench.key("k", |key| key.expires = Some(Timestamp::from_nanos(10)));
    bench.clock.advance(Duration::from_nanos(9));
    bench.check(&key, ask(1), Ok(()));
    bench.clock.advance(Duration::from_nanos(1));
    bench.check(&key, ask(1), Err(Reason::KeyExpired));
}

#[test]
fn a_keys_own_rate_gives_back_the_accounts() {
    let bench = bench(Policy {
        qps: Some(1),
        burst: Some(2),
        ..Policy::default()
    });
    let slow = bench.key("slow", |key| key.qps = Some(1));
    let free = bench.key("free", |_| ());
    bench.check(&slow, ask(1), Ok(()));
    bench.check(&slow, ask(1), Err(Reason::KeyLimitExceeded));
    bench.check(&free, ask(1), Ok(()));
    bench.check(&free, ask(1), Err(Reason::QpsExceeded));
}

#[test]
fn at_zero_a_free_call_passes_or_not_as_the_policy_says() {
    for (block_when, want) in [(BlockWhen::Negative, true), (BlockWhen::ZeroOrLess, false)] {
        let bench = bench(Policy {
            block_when,
            ..Policy::default()
        });
        let key = bench.key("k", |_| ());
        bench.admit(&key, ask(100)).unwrap().settle(
            nanos(100),
            Certainty::Exact,
            &Counts::default(),
        );
        assert_eq!(bench.admit(&key, ask(0)).is_ok(), want, "{block_when:?}");
        bench.account.purse().grant(nanos(1));
        assert!(bench.admit(&key, ask(0)).is_ok(), "{block_when:?}");
    }
}

#[test]
fn a_lease_is_not_used_after_its_time() {
    let bench = bench(Policy::default());
    let key = bench.key("k", |_| ());
    let end = bench.clock.now().mono.plus(Duration::from_nanos(5));
    bench.account.lease_until(end);
    bench.clock.advance(Duration::from_nanos(4));
    assert!(bench.admit(&key, ask(1)).is_ok());
    bench.clock.advance(Duration::from_nanos(1));
    assert_eq!(bench.admit(&key, ask(0)).err(), Some(Denied::Lease));
}

#[test]
fn a_hold_ends_once_and_by_policy_when_dropped() {
    use crate::policy::Unsettled;
    for (unsettled, left) in [(Unsettled::Release, 100), (Unsettled::Charge, 70)] {
        let bench = bench(Policy {
            unsettled,
            ..Policy::default()
        });
        let key = bench.key("k", |_| ());
        drop(bench.admit(&key, ask(30)).unwrap());
        assert_eq!(
            bench.account.purse().headroom(),
            nanos(left),
            "{unsettled:?}"
        );
        assert_eq!(bench.account.in_flight(), 0);
        let charged: i64 = bench
            .account
            .take_dirty()
            .iter()
            .map(|cell| cell.collect().cost_nanos)
            .sum();
        assert_eq!(
            charged,
            100 - left,
            "what left the purse is counted as spend"
        );
    }
}

#[test]
fn overshoot_is_bounded_before_and_counted_after() {
    let bench = bench(Policy::default());
    let key = bench.key("k", |_| ());
    let hold = bench
        .admit(
            &key,
            Ask {
                worst: nanos(50),
                ..ask(30)
            },
        )
        .unwrap();
    assert_eq!(bench.engine.overshoot_bound(), nanos(20));
    hold.settle(nanos(45), Certainty::Exact, &Counts::default());
    assert_eq!(
        (
            bench.engine.overshoot_bound(),
            bench.engine.overshoot_seen()
        ),
        (nanos(0), nanos(15))
    );
    assert_eq!(bench.account.purse().headroom(), nanos(55));
}

#[test]
fn usage_is_counted_by_hour_key_and_model() {
    let bench = bench(Policy::default());
    let (one, two) = (bench.key("one", |_| ()), bench.key("two", |_| ()));
    let model = bench.engine.model("m").unwrap();
    let counts = Counts::default()
        .with(Meter::Request, 1)
        .with(Meter::Input, 7)
        .with(Meter::Reasoning, 2);
    let late = bench.admit(&one, ask(1)).unwrap();
    for key in [&one, &one, &two] {
        let hold = bench
            .admit(
                key,
                Ask {
                    counted_as: model,
                    ..ask(1)
                },
            )
            .unwrap();
        hold.settle(nanos(3), Certainty::Exact, &counts);
    }
    bench.clock.advance(Duration::from_secs(3_600));
    late.settle(
        nanos(1),
        Certainty::None,
        &Counts::default().with(Meter::Request, 1),
    );
    let mut rows: Vec<_> = bench
        .account
        .take_dirty()
        .iter()
        .map(|cell| (cell.id(), cell.collect()))
        .collect();
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    let rows: Vec<_> = rows
        .iter()
        .map(|(id, tally)| {
            (
                id.key.as_str(),
                bench.engine.model_name(id.model),
                tally.calls(),
                tally.cost_nanos,
                tally.counts.get(Meter::Input),
            )
        })
        .collect();
    let m = ModelName::new("m").ok();
    assert_eq!(
        rows,
        [
            ("one", None, 1, 1, 0),
            ("one", m.clone(), 2, 6, 14),
            ("two", m, 1, 3, 7)
        ]
    );
    assert_eq!(
        bench.engine.take_dirty().len(),
        1,
        "an account is queued once"
    );
}

#[test]
fn a_changed_key_takes_the_place_of_the_old() {
    let bench = bench(Policy::default());
    let key = bench.key("k", |_| ());
    let revoked = KeyRecord {
        revoked: Some(Timestamp::from_nanos(0)),
        ..key.record().clone()
    };
    bench.engine.follow_keys(&bench.account, vec![revoked]);
    let Identified::Key(key) = bench.engine.identify(b"k", bench.clock.now()) else {
        panic!("it is loaded")
    };
    bench.check(&key, ask(1), Err(Reason::KeyRevoked));
}

#[test]
fn two_accounts_may_name_their_keys_alike() {
    let bench = bench(Policy::default());
    let mine = bench.key("sk-mine", |key| key.id = KeyId::new("main").unwrap());
    let rules = bench.account.rules().as_ref().clone();
    let taken = bench
        .engine
        .counters()
        .take_up(&AccountId::new("b").unwrap());
    let other = bench.engine.load(taken, rules, std::iter::empty());
    let Identified::NotLoaded(theirs) = bench.engine.identify(b"sk-theirs", bench.clock.now())
    else {
        panic!("nobody knows it yet")
    };
    let record = KeyRecord {
        account: other.id().clone(),
        ..mine.record().clone()
    };
    bench.engine.load_key(Some(theirs), &other, record);
    let changed = KeyRecord {
        name: "renamed".into(),
        ..mine.record().clone()
    };
    bench.engine.follow_keys(&bench.account, vec![changed]);
    for (secret, account) in [("sk-mine", "a"), ("sk-theirs", "b")] {
        let Identified::Key(key) = bench.engine.identify(secret.as_bytes(), bench.clock.now())
        else {
            panic!("{secret} is loaded")
        };
        assert_eq!(key.account().id().as_str(), account, "{secret}");
    }
    assert!(
        bench
            .engine
            .key(other.id(), mine.id())
            .is_some_and(|key| key.record().name.is_empty())
    );
}

#[test]
fn an_account_that_is_let_go_is_looked_up_again() {
    let bench = bench(Policy::default());
    let key = bench.key("k", |_| ());
    bench.engine.unload(&bench.account);
    assert!(bench.account.retired());
    assert_eq!(bench.admit(&key, ask(0)).err(), Some(Denied::Lease));
    assert!(matches!(
        bench.engine.identify(b"k", bench.clock.now()),
        Identified::NotLoaded(_)
    ));
    assert!(bench.engine.account(bench.account.id()).is_none());
}

#[test]
fn what_was_taken_from_a_small_share_is_one_call_of_a_larger_one() {
    let bench = bench(Policy {
        qps: Some(1_000),
        burst: Some(10),
        ..Policy::default()
    });
    let (account, now) = (&bench.account, Monotonic::from_nanos(1));
    let calls = || account.rate_view(now).unwrap().0;
    let share = |milli| account.share_rate(milli, Earned::default(), now);
    share(100_000);
    assert_eq!(calls(), 1);
    let taken = account.take_rate(now).unwrap().unwrap();
    share(1_000_000);
    account.give_rate_back(taken);
    assert_eq!(calls(), 1);
}

#[test]
fn many_threads_settle_every_call_once() {
    let bench = bench(Policy {
        concurrency: Some(1_000),
        ..Policy::default()
    });
    bench.account.purse().grant(nanos(1_000_000));
    let key = bench.key("k", |_| ());
    let collected = AtomicI64::new(0);
    let collect = || {
        for cell in bench.account.take_dirty() {
            collected.store(cell.collect().cost_nanos, Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    bench.admit(&key, ask(5)).unwrap().settle(
                        nanos(7),
                        Certainty::Exact,
                        &Counts::default(),
                    );
                }
            });
        }
        scope.spawn(|| (0..2_000).for_each(|_| collect()));
    });
    collect();
    assert_eq!(
        collected.load(Relaxed),
        3 * 2_000 * 7,
        "no settled call falls between two collections"
    );
    assert_eq!(bench.account.purse().headroom(), nanos(1_000_100 - 42_000));
}
