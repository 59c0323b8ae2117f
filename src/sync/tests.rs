use std::time::Duration;

use super::*;
use crate::app::{Core, Parts};
use crate::catalog::Layer;
use crate::clock::Timestamp;
use crate::engine::{Ask, Bounds, Hold, ModelId};
use crate::gate::{Caller, Gate, HoldRequest, SettleAs};
use crate::ledger::Action;
use crate::policy::{HoldRule, Overrides, Policy, Unsettled};
use crate::pricing::Price;
use crate::store::KeyRecord;
use crate::store::embedded::Embedded;
use crate::usage::{Certainty, Counts};

mod inner;

/// A core over an embedded store under a clock that is moved by hand. Nothing runs by itself.
struct Bench {
    core: Arc<Core>,
    clock: Clock,
    account: AccountId,
    _dir: tempfile::TempDir,
}

fn record(account: &AccountId, secret: &str) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(&format!("k-{secret}")).unwrap(),
        account: account.clone(),
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
    }
}

async fn bench(policy: Policy) -> Bench {
    bench_with(policy, Vec::new()).await
}

async fn bench_with(policy: Policy, prices: Vec<Price>) -> Bench {
    let clock = Clock::manual(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), clock.clone()).unwrap();
    let parts = Parts {
        replica: store.replica(),
        store: Arc::new(store),
        layer: Layer {
            prices,
            policies: [("default".to_owned(), policy)].into(),
            ..Layer::default()
        },
        local: None,
        clock: clock.clone(),
        sync: Settings::default(),
        bounds: Bounds::default(),
        holds_max: 100,
        metrics: Metrics::default(),
    };
    let core = Core::new(parts).unwrap();
    let account = AccountId::new("a").unwrap();
    let opened = core.books.open(
        account.clone(),
        "USD".into(),
        None,
        None,
        Overrides::default(),
        None,
    );
    opened.await.unwrap();
    let recharge = Command {
        idempotency_key: None,
        action: Action::Recharge {
            amount: units(10),
            order_id: "first".into(),
            priority: 0,
            expires: None,
            note: String::new(),
        },
    };
    core.books.run(&account, recharge).await.unwrap();
    let version = core
        .store
        .read(&account, &[])
        .await
        .unwrap()
        .unwrap()
        .version;
    core.store
        .put_key(version, record(&account, "one"))
        .await
        .unwrap();
    Bench {
        core,
        clock,
        account,
        _dir: dir,
    }
}

fn units(n: i64) -> Amount {
    Amount::from_units(n).unwrap()
}

impl Bench {
    fn sync(&self) -> &Arc<Sync> {
        &self.core.sync.0
    }

    fn gate(&self) -> &Arc<Gate> {
        &self.core.gate
    }

    async fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.core.sync.sync_now().await.unwrap();
    }

    async fn spend(&self) -> Amount {
        self.core.sync.sync_now().await.unwrap();
        let snapshot = self.core.store.read(&self.account, &[]).await;
        snapshot.unwrap().unwrap().spend
    }

    fn request(&self, amount: i64) -> HoldRequest {
        HoldRequest {
            caller: Caller::Secret("one".into()),
            model: None,
            amount: Some(units(amount)),
            input: None,
            max_output: None,
            ttl: None,
            request_id: "r".into(),
        }
    }

    /// A call that is held for nothing.
    async fn unheld(&self) -> Hold {
        let key = self.core.sync.identify(b"one", self.clock.now()).await;
        let key = key.unwrap();
        self.core
            .sync
            .refill(key.account(), Amount::ZERO)
            .await
            .unwrap();
        let ask = Ask {
            model: None,
            counted_as: ModelId::NONE,
            priced: true,
            amount: Amount::ZERO,
            worst: Amount::ZERO,
            more: None,
        };
        self.gate()
            .engine()
            .admit(key, ask, self.clock.now())
            .map_err(|(_, denied)| denied)
            .unwrap()
    }
}

#[tokio::test]
async fn a_settlement_after_the_hold_expired_lands_however_long_the_account_was_at_rest() {
    let bench = bench(Policy::default()).await;
    let grant = bench.gate().hold(bench.request(1)).await.unwrap();
    bench.pass(20).await;
    bench.pass(600).await;
    assert_eq!(bench.gate().expire_holds(), 1);
    bench.pass(1).await;
    bench.sync().unload_rested();
    let settled = bench
        .gate()
        .settle_hold(&grant.id, SettleAs::Amount(units(3)));
    assert!(settled.is_ok());
    assert_eq!(bench.spend().await, units(3));
}

#[tokio::test]
async fn an_account_with_a_charge_that_is_not_published_is_not_let_go_of() {
    let bench = bench(Policy {
        hold: HoldRule::None,
        ..Policy::default()
    })
    .await;
    let hold = bench.unheld().await;
    bench.pass(20).await;
    bench.pass(600).await;
    hold.settle(units(3), Certainty::Exact, &Counts::default());
    bench.sync().unload_rested();
    assert_eq!(bench.spend().await, units(3));
}

#[tokio::test]
async fn an_account_at_rest_is_let_go_of_and_taken_up_again() {
    let bench = bench(Policy::default()).await;
    bench.unheld().await.release();
    let key = bench.core.sync.identify(b"one", bench.clock.now()).await;
    let old = Arc::clone(key.unwrap().account());
    bench.pass(20).await;
    bench.pass(600).await;
    bench.sync().unload_rested();
    assert!(old.retired());
    // Whoever still has the account in hand does not bring it back with a key.
    let stale = record(&bench.account, "one");
    let fingerprint = match bench.gate().engine().identify(b"one", bench.clock.now()) {
        Identified::NotLoaded(fingerprint) => fingerprint,
        other => panic!("{other:?}"),
    };
    bench
        .gate()
        .engine()
        .load_key(Some(fingerprint), &old, stale);
    let grant = bench.gate().hold(bench.request(1)).await.unwrap();
    bench
        .gate()
        .settle_hold(&grant.id, SettleAs::Amount(units(2)))
        .unwrap();
    assert_eq!(bench.spend().await, units(2));
}

#[tokio::test]
async fn holds_that_are_open_at_the_end_end_by_policy_before_the_last_word() {
    for (unsettled, charged) in [(Unsettled::Charge, 2), (Unsettled::Release, 0)] {
        let bench = bench(Policy {
            unsettled,
            ..Policy::default()
        })
        .await;
        bench.gate().hold(bench.request(2)).await.unwrap();
        assert_eq!(bench.gate().end_holds(), 1);
        bench.core.sync.close(Duration::from_secs(5)).await.unwrap();
        let read = bench.core.store.read(&bench.account, &[]).await;
        let snapshot = read.unwrap().unwrap();
        assert_eq!(
            (snapshot.spend, snapshot.unleased),
            (units(charged), units(10_i64.saturating_sub(charged))),
            "{unsettled:?}: nothing stays held"
        );
    }
}

#[tokio::test]
async fn a_revoked_key_does_not_come_back_with_an_older_reading() {
    let bench = bench(Policy::default()).await;
    let key = bench.core.sync.identify(b"one", bench.clock.now()).await;
    let account = Arc::clone(key.unwrap().account());
    let version = bench
        .sync()
        .entry(&bench.account)
        .unwrap()
        .line()
        .known
        .version;
    let mut revoked = record(&bench.account, "one");
    revoked.revoked = Some(bench.clock.now().wall);
    let stored = bench.core.store.put_key(version, revoked).await.unwrap();
    assert_eq!(stored, crate::store::Stored::At(version.saturating_add(1)));
    // Two readings at once, that of the older book last.
    let older = bench.core.store.read(&bench.account, &[]).await;
    let older = crate::store::Snapshot {
        version,
        ..older.unwrap().unwrap()
    };
    bench.core.sync.refresh(&bench.account).await.unwrap();
    let entry = bench.sync().entry(&bench.account).unwrap();
    bench
        .sync()
        .take_in(&entry, older, vec![record(&bench.account, "one")]);
    let id = KeyId::new("k-one").unwrap();
    let loaded = bench.gate().engine().key(account.id(), &id).unwrap();
    assert!(loaded.record().revoked.is_some());
}

fn by_the_hour(amount: i64) -> Policy {
    let budget = crate::policy::Budget {
        amount: units(amount),
        period: crate::policy::Period::Hour,
        capability: None,
    };
    Policy {
        budgets: vec![budget],
        ..Policy::default()
    }
}

impl Bench {
    async fn has(&self, account: &AccountId) -> bool {
        let read = self.core.store.read(account, &[]).await;
        read.unwrap().is_some()
    }
}

#[tokio::test]
async fn what_a_budget_counted_goes_a_week_after_its_time_once_nothing_is_held_there() {
    let bench = bench(by_the_hour(3)).await;
    let grant = bench.gate().hold(bench.request(2)).await.unwrap();
    let budget = bench.account.inner("all:2026-09-21T14").unwrap();
    assert!(bench.has(&budget).await);
    // From 14:13:20.
    let rest = Duration::from_secs(2_800);
    let nano = Duration::from_nanos(1);
    bench.clock.advance(rest + sweep::KEPT - nano);
    let other = HoldRequest {
        request_id: "other".into(),
        ..bench.request(1)
    };
    let other = bench.gate().hold(other).await.unwrap();
    let settled = bench
        .gate()
        .settle_hold(&other.id, SettleAs::Amount(units(1)));
    settled.unwrap();
    bench.sync().sweep(None).await.unwrap();
    assert!(bench.has(&budget).await, "a nanosecond before");
    bench.clock.advance(nano);
    bench.sync().sweep(None).await.unwrap();
    assert!(bench.has(&budget).await, "a call holds in it");
    let settled = bench
        .gate()
        .settle_hold(&grant.id, SettleAs::Amount(units(2)));
    settled.unwrap();
    bench.sync().sweep(None).await.unwrap();
    assert!(!bench.has(&budget).await);
    assert!(bench.core.store.purged(&budget).await.unwrap().is_some());
    assert!(bench.sync().entry(&budget).is_none(), "nor is it loaded");
    assert_eq!(bench.spend().await, units(3), "what it cost stays");
    let now = bench.account.inner("all:2026-09-28T15").unwrap();
    assert!(!bench.has(&now).await);
    let last = bench.account.inner("all:2026-09-28T14").unwrap();
    assert!(bench.has(&last).await, "the others stay");
    let next = HoldRequest {
        request_id: "next".into(),
        ..bench.request(1)
    };
    bench.gate().hold(next).await.unwrap();
    assert!(bench.has(&now).await);
}

#[tokio::test]
async fn what_is_inside_an_account_that_was_purged_goes_with_it() {
    let bench = bench(by_the_hour(3)).await;
    bench.gate().hold(bench.request(2)).await.unwrap();
    let budget = bench.account.inner("all:2026-09-21T14").unwrap();
    let store = &bench.core.store;
    bench.sync().sweep(None).await.unwrap();
    assert!(bench.has(&budget).await);
    let read = store.read(&bench.account, &[]).await.unwrap().unwrap();
    let now = bench.clock.now().wall;
    let purged = store.purge(&bench.account, read.version, now).await;
    purged.unwrap();
    bench.sync().sweep(None).await.unwrap();
    assert!(!bench.has(&budget).await);
}

/// A replica has 4 leased, says that calls hold 1 of it, and falls silent.
#[tokio::test]
async fn expired_credit_is_kept_for_what_a_silent_replica_may_hold_and_once_that_lapsed_for_what_it_said()
 {
    let bench = bench(Policy::default()).await;
    let begun = bench.clock.now().wall;
    let grant = Command {
        idempotency_key: None,
        action: Action::Grant {
            amount: units(6),
            order_id: None,
            priority: -1,
            expires: Some(begun.plus(Duration::from_secs(10))),
            note: String::new(),
        },
    };
    bench.core.books.run(&bench.account, grant).await.unwrap();
    bench.core.sync.sync_now().await.unwrap();
    let silent = ReplicaId::new("silent").unwrap();
    let leased = crate::store::Standing {
        committed: units(4),
        ..crate::store::Standing::default()
    };
    let says = |seq, stands: crate::store::Standing, held, want| Publish {
        account: bench.account.clone(),
        seq,
        history: None,
        believed: stands,
        new: stands,
        held,
        want,
        need: want,
        least: want,
        seen: Amount::ZERO,
        total: Amount::ZERO,
        rate: crate::store::Sought::default(),
        places: crate::store::Sought::default(),
        usage: Vec::new(),
    };
    let nothing = crate::store::Standing::default();
    let batch = vec![says(1, nothing, Amount::ZERO, units(4))];
    let answers = bench.core.store.publish(&silent, batch).await;
    assert_eq!(answers[0].as_ref().unwrap().standing, leased);
    let batch = vec![says(2, leased, units(1), Amount::ZERO)];
    assert!(
        bench.core.store.publish(&silent, batch).await[0]
            .as_ref()
            .unwrap()
            .applied
    );
    let kept = async || {
        bench.sync().sweep(None).await.unwrap();
        let read = bench.core.store.read(&bench.account, &[]).await;
        let blocks = read.unwrap().unwrap().book.blocks;
        let expired = blocks.iter().filter(|block| block.priority == -1);
        expired.map(|block| block.remaining).collect::<Vec<_>>()
    };
    assert_eq!(kept().await, [units(6)]);
    for (seconds, left) in [
        (10, vec![units(4)]),
        // A lease time after its last word, to the second.
        (20, vec![units(4)]),
        (1, vec![units(1)]),
        // Retired, it holds nothing any more.
        (3_600, vec![]),
    ] {
        bench.clock.advance(Duration::from_secs(seconds));
        bench.core.sync.sync_now().await.unwrap();
        assert_eq!(kept().await, left, "{seconds} s later");
    }
}
