//! Models of how a hold ends that is kept by its id: see `src/engine/tests/races.rs`.

use loom::sync::Mutex;
use loom::thread;

use super::*;
use crate::clock::Monotonic;
use crate::engine::{Account, Ask, Bounds, Engine, Rules};
use crate::local::counters::Counters;
use crate::policy::Policy;
use crate::primitive::explore;
use crate::store::KeyRecord;

const NOW: Now = Now {
    wall: Timestamp::from_nanos(0),
    mono: Monotonic::from_nanos(1_000_000_000),
};

const CHARGE: Charge = Charge {
    amount: Amount::from_nanos(7),
    certainty: Certainty::Exact,
    counts: Counts([0; Meter::COUNT]),
    flat: false,
};

struct Small {
    engine: Arc<Engine>,
    account: Arc<Account>,
    kept: Kept,
}

/// An account with 100 n, of which a hold that is kept has 5.
fn small(unsettled: Unsettled) -> Small {
    let bounds = Bounds {
        unknown_keys_max: 1,
        ..Bounds::default()
    };
    let engine = Engine::new([1; 16], bounds, Counters::in_memory());
    let policy = Policy {
        unsettled,
        ..Policy::default()
    };
    let rules = Rules::plain("USD".into(), policy);
    let id = AccountId::new("a").unwrap();
    let taken = engine.counters().take_up(&id);
    let account = engine.load(taken, rules, std::iter::empty());
    account.purse().grant(Amount::from_nanos(100));
    account.lease_until(Monotonic::from_nanos(u64::MAX));
    let record = KeyRecord {
        id: KeyId::new("k").unwrap(),
        account: id.clone(),
        digest: String::new(),
        name: String::new(),
        hint: String::new(),
        created: NOW.wall,
        expires: None,
        revoked: None,
        qps: None,
        models: Vec::new(),
        service: String::new(),
        budgets: Vec::new(),
    };
    let key = engine.load_key(None, &account, record);
    // The cell is there: how one is handed from call to call, models cannot see.
    let first = engine.late(Arc::clone(&key), ModelId::NONE, NOW);
    charge::end(Some(first), Some(NOTHING));
    assert_eq!(spent(&account), 0);
    let amount = Amount::from_nanos(5);
    let ask = Ask {
        model: None,
        counted_as: ModelId::NONE,
        priced: true,
        amount,
        worst: amount,
        more: None,
    };
    let hold = engine.admit(Arc::clone(&key), ask, NOW).unwrap();
    let grant = HoldGrant {
        id: "a~1".into(),
        account: id,
        key: key.id().clone(),
        amount,
        expires: NOW.wall,
    };
    let kept = Kept {
        grant: Arc::new(grant),
        key,
        model: ModelId::NONE,
        price: None,
        estimate: hold.estimate(),
        expires: NOW,
        forget: NOW.mono,
        carried: None,
        state: State::Open(hold),
    };
    Small {
        engine,
        account,
        kept,
    }
}

/// What is in the cells that wait to be published.
fn spent(account: &Account) -> i64 {
    let cells = account.take_dirty();
    cells.iter().map(|cell| cell.collect().cost_nanos).sum()
}

/// A settlement, a release and the clock.
fn race(unsettled: Unsettled, expiry_costs: i64) {
    explore(None, move || {
        let Small {
            engine,
            account,
            kept,
        } = small(unsettled);
        let kept = Arc::new(Mutex::new(kept));
        let settling = {
            let (kept, engine) = (Arc::clone(&kept), Arc::clone(&engine));
            thread::spawn(move || {
                let late = |kept: &Kept| engine.late(Arc::clone(&kept.key), kept.model, NOW);
                kept.lock().unwrap().settle(CHARGE, late)
            })
        };
        let expiring = {
            let kept = Arc::clone(&kept);
            thread::spawn(move || kept.lock().unwrap().expire())
        };
        let released = kept.lock().unwrap().release();
        let (settled, expired) = (settling.join().unwrap(), expiring.join().unwrap());
        let charged = expired && unsettled == Unsettled::Charge;
        let ends = [settled.is_ok(), released.is_ok(), charged];
        assert_eq!(ends.iter().filter(|end| **end).count(), 1, "{ends:?}");
        let cost = match ends {
            [true, ..] => 7,
            [_, true, _] => 0,
            _ => expiry_costs,
        };
        assert_eq!(spent(&account), cost);
        let left = Amount::from_nanos(100).saturating_sub(Amount::from_nanos(cost));
        assert_eq!(account.purse().headroom(), left);
        assert!(account.try_retire(), "no call is in, no charge is awaited");
        engine.take_dirty();
    });
}

/// Found: `Kept::settle` that goes on when it had ended; `Kept::expire` that ends what is not open.
#[test]
fn a_kept_hold_ends_once_by_whoever_comes_first() {
    race(Unsettled::Release, 0);
}

/// Found: as above; `Kept::expire` that charges and still lets a settlement land.
#[test]
fn a_kept_hold_that_expiry_charges_ends_once() {
    race(Unsettled::Charge, 5);
}

/// A hold expires, and is settled after that. Found: `Kept::expire` that ends the hold before it says that a charge is awaited;
/// `Kept::settle` that lets go of that before the charge is counted; `Account::try_retire` that looks for what is awaited before
/// what is in flight.
#[test]
fn an_account_stays_until_the_charge_that_it_awaits_is_counted() {
    explore(None, || {
        let Small {
            engine,
            account,
            mut kept,
        } = small(Unsettled::Release);
        let late = Arc::clone(&engine);
        let call = thread::spawn(move || {
            assert!(kept.expire());
            let late = |kept: &Kept| late.late(Arc::clone(&kept.key), kept.model, NOW);
            kept.settle(CHARGE, late)
        });
        let collected = account.try_retire().then(|| spent(&account));
        assert_eq!(call.join().unwrap(), Ok(CHARGE));
        assert_eq!(collected.unwrap_or_else(|| spent(&account)), 7);
        engine.take_dirty();
    });
}
