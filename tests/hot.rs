//! Billing rules on the hot path, over a real store: plans, credit that expires, rates bought for a time, shadow, outages, budgets.
//! The clock is moved by hand, so each instant is exact.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tollgate::app::{Core, Parts};
use tollgate::catalog::Layer;
use tollgate::clock::{Clock, Hour, Timestamp};
use tollgate::engine::Bounds;
use tollgate::gate::{By, End, Outcome, Passing, Ticket};
use tollgate::id::{AccountId, ReplicaId};
use tollgate::ledger::{Action, Command, PlanRef};
use tollgate::local::Local;
use tollgate::meter::{Api, Reading};
use tollgate::money::Amount;
use tollgate::policy::{Budget, Enforcement, Overrides, Period, Policy, StoreOutage, Unsettled};
use tollgate::pricing::{Per, Price, Rate};
use tollgate::refusal::Reason;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::store::redis::{Reach, RedisStore, Settings as RedisSettings};
use tollgate::sync::Settings;
use tollgate::telemetry::{Levels, Metrics};
use tollgate::usage::{Counts, Meter};

use crate::support::node::{Node, amount, call, layer, terms};
use crate::support::redis::Server;
use crate::support::until;

/// 2026-09-21T14:13:20Z.
const START: i64 = 1_790_000_000_000_000_000;

fn start() -> Clock {
    Clock::manual(Timestamp::from_nanos(START))
}

/// The same for replicas that wait for each other, which takes real time.
fn day() -> Clock {
    Clock::day(Timestamp::from_nanos(START))
}

fn after(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(START + nanos)
}

/// `flat` costs 1 in money; and 2 points.
fn priced(policy: Policy) -> Layer {
    let rate = Rate {
        price: amount("2"),
        per: Per::Unit,
    };
    let points = Price {
        pattern: "flat".into(),
        unit: "POINTS".into(),
        rates: [(Meter::Request, rate)].into(),
        max_output: None,
    };
    let mut layer = layer(policy);
    layer.prices.push(points);
    layer
}

fn alone(clock: &Clock, policy: Policy) -> Node {
    Node::embedded_under(clock.clone(), priced(policy))
}

/// Replicas over one store.
struct Fleet {
    nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

fn fleet(replicas: usize, clock: &Clock, policy: &Policy) -> Fleet {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path(), clock.clone()).unwrap());
    let node = |number| {
        let replica = ReplicaId::new(&format!("r{number}")).unwrap();
        let (store, layer) = (Arc::clone(&store), priced(policy.clone()));
        Node::configured(store, replica, clock.clone(), layer, Settings::default())
    };
    Fleet {
        nodes: (0..replicas).map(node).collect(),
        _dir: dir,
    }
}

async fn run(node: &Node, account: &AccountId, action: Action) {
    let command = Command {
        idempotency_key: None,
        action,
    };
    node.core.books.run(account, command).await.unwrap();
    node.core.sync.refresh(account).await.unwrap();
}

/// Points for the account, in an account inside it.
async fn plan(
    node: &Node,
    account: &AccountId,
    points: &str,
    expires: Option<Timestamp>,
) -> AccountId {
    let id = account.inner("points").unwrap();
    let add = PlanRef {
        name: "points".into(),
        unit: "POINTS".into(),
        scope: vec!["fl*".into()],
        priority: 0,
    };
    run(node, account, Action::AddPlan { plan: add }).await;
    let overrides = Overrides::default();
    let opened = node
        .core
        .books
        .open(id.clone(), "POINTS".into(), None, None, overrides, None);
    opened.await.unwrap();
    let buy = Action::BuyPlan {
        amount: amount(points),
        order_id: "plan".into(),
        priority: 0,
        expires,
        price: None,
        note: String::new(),
    };
    run(node, &id, buy).await;
    node.core.sync.refresh(account).await.unwrap();
    id
}

async fn grant(node: &Node, account: &AccountId, money: &str, expires: Option<Timestamp>) {
    let grant = Action::Grant {
        amount: amount(money),
        order_id: None,
        priority: 0,
        expires,
        note: String::new(),
    };
    run(node, account, grant).await;
}

fn done() -> Outcome {
    Outcome {
        end: End::Complete,
        reading: Reading {
            usage: None,
            complete: true,
            error: false,
            text_bytes: 0,
        },
        bytes_in: 30,
        bytes_out: 100,
    }
}

/// Makes a call of `flat`; why it is refused, if it is.
async fn make(node: &Node) -> Option<Reason> {
    match node.admit("sk-a", "flat").await {
        Ok(ticket) => {
            ticket.settle(done());
            None
        }
        Err(refusal) => Some(refusal.reason),
    }
}

/// As many as pass, one after the other.
async fn make_all(nodes: &[Node], most: usize) -> usize {
    let mut passed = 0;
    while passed < most {
        let mut any = false;
        for node in nodes {
            if passed < most && make(node).await.is_none() {
                passed += 1;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    passed
}

async fn calls_of(node: &Node, account: &AccountId) -> (u64, i64) {
    let rows = node
        .core
        .store
        .usage(account, Hour(0), Hour(i64::MAX))
        .await
        .unwrap();
    let calls = rows.iter().map(|row| row.tally.calls()).sum();
    (calls, rows.iter().map(|row| row.tally.cost_nanos).sum())
}

#[tokio::test]
async fn a_plan_pays_in_its_own_unit_and_both_accounts_count_the_call() {
    let node = alone(&start(), Policy::default());
    let account = node.account("a", "0").await;
    let points = plan(&node, &account, "5", None).await;
    let ticket = node.admit("sk-a", "flat").await.unwrap();
    let (held, of) = ticket.plan().unwrap();
    assert_eq!(
        (held, of),
        (amount("2"), &points),
        "at a balance of nothing"
    );
    assert_eq!(ticket.held(), amount("0"));
    assert_eq!(ticket.settle(done()).amount, amount("0"));
    assert_eq!(make(&node).await, None);
    // One point is left, and money has nothing for the other half.
    assert_eq!(make(&node).await, Some(Reason::InsufficientBalance));
    grant(&node, &account, "3", None).await;
    assert_eq!(
        make(&node).await,
        None,
        "the plan pays one point, money the other half"
    );
    assert_eq!(make(&node).await, None, "and all of the next");
    node.core.sync.sync_now().await.unwrap();
    assert_eq!(node.balance(&points).await, amount("0"));
    assert_eq!(node.balance(&account).await, amount("1.5"));
    assert_eq!(calls_of(&node, &points).await, (3, amount("5").nanos()));
    assert_eq!(calls_of(&node, &account).await, (4, amount("1.5").nanos()));
    // A model out of its scope is money's alone.
    let other = node.admit("sk-a", "tokens").await.unwrap();
    assert_eq!(other.plan(), None);
}

#[tokio::test]
async fn three_replicas_never_take_more_of_a_plan_than_it_has() {
    let fleet = fleet(3, &Clock::system(), &Policy::default());
    let first = &fleet.nodes[0];
    let account = first.account("a", "0").await;
    let points = plan(first, &account, "61", None).await;
    let calls = (0..150).map(|number| {
        let gate = fleet.nodes[number % 3].core.gate.clone();
        tokio::spawn(async move {
            let terms = terms();
            let ticket: Ticket = gate.admit(&call("sk-a", "flat", &terms)).await.ok()?;
            Some(ticket.settle(done()).amount)
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut passed = 0;
    for call in calls {
        passed += usize::from(call.await.unwrap().is_some());
    }
    passed += make_all(&fleet.nodes, 100).await;
    assert_eq!(passed, 30, "of 61 points at 2 a call");
    // With money, the point that is left pays half a call: on whichever replica it is, and at once or once it was given back there.
    grant(first, &account, "1000", None).await;
    let made = std::cell::Cell::new(0_i64);
    until("the last point is used", async || {
        made.set(made.get() + i64::try_from(make_all(&fleet.nodes, 3).await).unwrap());
        for node in &fleet.nodes {
            node.core.sync.sync_now().await.unwrap();
        }
        (first.balance(&points).await == amount("0")).then_some(())
    })
    .await;
    let paid = Amount::from_units(made.get())
        .unwrap()
        .checked_sub(amount("0.5"));
    let left = amount("1000").checked_sub(paid.unwrap()).unwrap();
    assert_eq!(
        first.balance(&account).await,
        left,
        "of {} calls, half a one",
        made.get()
    );
}

#[tokio::test]
async fn a_plan_that_runs_out_or_expires_leaves_the_rest_to_money() {
    let clock = start();
    let node = alone(&clock, Policy::default());
    let account = node.account("a", "10").await;
    let points = plan(&node, &account, "50", Some(after(1_000))).await;
    let by_plan = async || {
        let ticket = node.admit("sk-a", "flat").await.unwrap();
        let by_plan = ticket.plan().is_some();
        ticket.settle(done());
        by_plan
    };
    assert!(by_plan().await);
    clock.advance(Duration::from_nanos(999));
    assert!(by_plan().await, "a nanosecond before its end");
    clock.advance(Duration::from_nanos(1));
    assert!(!by_plan().await, "at its end");
    assert_eq!(node.balance(&account).await, amount("9"));
    assert_eq!(
        node.balance(&points).await,
        amount("0"),
        "the rest is written off"
    );
}

#[tokio::test]
async fn credit_that_expires_is_gone_at_its_instant_on_every_replica() {
    let clock = day();
    let fleet = fleet(2, &clock, &Policy::default());
    let (one, other) = (&fleet.nodes[0], &fleet.nodes[1]);
    let account = one.account("a", "0").await;
    grant(one, &account, "10", Some(after(1_000))).await;
    grant(one, &account, "4", None).await;
    assert_eq!((make(one).await, make(other).await), (None, None));
    clock.advance(Duration::from_nanos(999));
    assert_eq!((make(one).await, make(other).await), (None, None));
    // One call is in flight over the end: what it holds still pays for it.
    let open = one.admit("sk-a", "flat").await.unwrap();
    clock.advance(Duration::from_nanos(1));
    assert_eq!(make_all(&fleet.nodes, 100).await, 4, "what does not expire");
    open.settle(done());
    for node in &fleet.nodes {
        node.core.sync.sync_now().await.unwrap();
    }
    let settled = async || {
        run(one, &account, Action::Observe).await;
        let snapshot = one.core.store.read(&account, &[]).await.unwrap().unwrap();
        let left = snapshot.book.balance(snapshot.spend);
        (left == amount("0") && snapshot.book.debt(snapshot.spend) == amount("0")).then_some(())
    };
    until("the books are even: 14 given, 9 used, 5 expired", settled).await;
    assert_eq!(make_all(&fleet.nodes, 100).await, 0);
}

#[tokio::test]
async fn a_rate_that_was_bought_ends_at_its_instant() {
    let clock = start();
    let policy = Policy {
        qps: Some(10),
        burst: Some(5),
        ..Policy::default()
    };
    let node = alone(&clock, policy);
    let account = node.account("a", "100").await;
    let buy = Action::BuyQpsPlan {
        plan_id: "fast".into(),
        qps: 100,
        burst: Some(50),
        effective: Some(after(1_000)),
        expires: Some(after(2_000)),
        order_id: "q1".into(),
        price: None,
    };
    run(&node, &account, buy).await;
    let limit = async || node.admit("sk-a", "flat").await.unwrap().rate().unwrap();
    assert_eq!(limit().await.limit, 10);
    clock.advance(Duration::from_nanos(999));
    assert_eq!(limit().await.limit, 10);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(limit().await.limit, 100, "from its first instant on");
    clock.advance(Duration::from_nanos(999));
    let before = limit().await;
    clock.advance(Duration::from_nanos(1));
    let rate = limit().await;
    assert_eq!((before.limit, rate.limit, rate.burst), (100, 10, 5));
    assert!(
        rate.remaining < 5,
        "what was saved up is cut: {}",
        rate.remaining
    );
}

#[tokio::test]
async fn an_account_that_is_not_live_is_counted_and_told_and_moves_no_money() {
    let clock = start();
    let policy = Policy {
        enforcement: Enforcement::Shadow,
        live_from: Some(after(1_000)),
        ..Policy::default()
    };
    let node = alone(&clock, policy);
    let account = node.account("a", "0").await;
    for _ in 0..3 {
        assert_eq!(
            make(&node).await,
            None,
            "A3-11: calls work at a balance of nothing"
        );
    }
    let metrics = node.core.gate.metrics().render(&Levels::default());
    let line = "tollgate_would_refuse_total{reason=\"INSUFFICIENT_BALANCE\"} 3\n";
    assert!(metrics.contains(line), "{metrics}");
    clock.advance(Duration::from_nanos(999));
    assert_eq!(make(&node).await, None);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(make(&node).await, Some(Reason::InsufficientBalance), "live");
    node.core.sync.sync_now().await.unwrap();
    assert_eq!(
        node.balance(&account).await,
        amount("0"),
        "what came before made no debt"
    );
    assert_eq!(calls_of(&node, &account).await, (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_calls_go_on_up_to_an_amount() {
    let mut server = Server::start().await;
    let clock = Clock::system();
    let settings = RedisSettings {
        reach: Reach::Server(server.url()),
        connect_timeout: Duration::from_millis(100),
        response_timeout: Duration::from_millis(100),
        ..RedisSettings::default()
    };
    let store: Arc<dyn Store> = Arc::new(RedisStore::connect(settings, clock.clone()).unwrap());
    let policy = Policy {
        store_outage: StoreOutage::UpTo(amount("2")),
        ..Policy::default()
    };
    let replica = ReplicaId::new("r1").unwrap();
    let node = Node::configured(store, replica, clock, priced(policy), Settings::default());
    let account = AccountId::new("a").unwrap();
    until("the store takes an account", async || {
        let opened = node.core.books.open(
            account.clone(),
            "USD".into(),
            None,
            None,
            Overrides::default(),
            None,
        );
        opened.await.ok()
    })
    .await;
    node.recharge_fenced(&account, "o1", "5").await;
    node.key(&account, "k-a", "sk-a", |_| ()).await;
    until("the first call passes", async || {
        make(&node).await.is_none().then_some(())
    })
    .await;
    server.shut_down();
    let mut passed = 0;
    let refused = loop {
        match make(&node).await {
            None => passed += 1,
            Some(reason) => break reason,
        }
    };
    assert_eq!(
        (passed, refused),
        (6, Reason::StateUnavailable),
        "4 by the lease, 2 beyond it"
    );
    until("it is told", async || {
        let status = node.core.sync.status();
        (status.beyond == amount("2") && status.beyond_most == amount("2")).then_some(())
    })
    .await;
    server.run().await;
    until("the store hears of all of it", async || {
        node.core.sync.flush(&account).await.ok()?;
        let snapshot = node.core.store.read(&account, &[]).await.ok()??;
        (snapshot.book.balance(snapshot.spend) == amount("-2")).then_some(())
    })
    .await;
}

async fn budgeted(node: &Node, account: &AccountId, budgets: Vec<Budget>) {
    node.key(account, "k-b", "sk-b", |key| key.budgets = budgets)
        .await;
}

fn of(money: &str, period: Period) -> Budget {
    Budget {
        amount: amount(money),
        period,
        capability: None,
    }
}

async fn make_budgeted(node: &Node) -> Option<Reason> {
    match node.admit("sk-b", "flat").await {
        Ok(ticket) => {
            ticket.settle(done());
            None
        }
        Err(refusal) => Some(refusal.reason),
    }
}

#[tokio::test]
async fn a_keys_budget_is_exact_over_replicas_and_restarts_and_turns_with_its_time() {
    let clock = day();
    let fleet = fleet(2, &clock, &Policy::default());
    let (one, other) = (&fleet.nodes[0], &fleet.nodes[1]);
    let account = one.account("a", "100").await;
    budgeted(
        one,
        &account,
        vec![of("3", Period::Hour), of("5", Period::Total)],
    )
    .await;
    let mut passed = 0;
    for _ in 0..4 {
        passed += usize::from(make_budgeted(one).await.is_none());
        passed += usize::from(make_budgeted(other).await.is_none());
    }
    assert_eq!(passed, 3, "of both together");
    assert_eq!(make_budgeted(other).await, Some(Reason::KeyLimitExceeded));
    assert_eq!(
        make(one).await,
        None,
        "another key of the account has no part in it"
    );
    // A replica that starts now finds it used up.
    let third = Node::configured(
        Arc::clone(&one.core.store),
        ReplicaId::new("r9").unwrap(),
        clock.clone(),
        priced(Policy::default()),
        Settings::default(),
    );
    assert_eq!(make_budgeted(&third).await, Some(Reason::KeyLimitExceeded));
    let now = clock.now().wall;
    let Hour(hour) = now.hour();
    let left = Hour(hour + 1).start().nanos() - now.nanos();
    clock.advance(Duration::from_nanos(left.unsigned_abs() - 1));
    assert_eq!(
        make_budgeted(&third).await,
        Some(Reason::KeyLimitExceeded),
        "its last nanosecond"
    );
    clock.advance(Duration::from_nanos(1));
    assert_eq!(make_budgeted(&third).await, None, "a new hour");
    assert_eq!(make_budgeted(one).await, None);
    assert_eq!(
        make_budgeted(other).await,
        Some(Reason::KeyLimitExceeded),
        "five in all, for ever"
    );
    for node in fleet.nodes.iter().chain([&third]) {
        node.core.sync.sync_now().await.unwrap();
    }
    assert_eq!(one.balance(&account).await, amount("94"));
}

#[tokio::test]
async fn an_accounts_budget_for_a_capability_counts_its_calls_alone() {
    let budget = Budget {
        capability: Some("fl*".into()),
        ..of("2", Period::Day)
    };
    let policy = Policy {
        budgets: vec![budget],
        ..Policy::default()
    };
    let node = alone(&start(), policy);
    node.account("a", "100").await;
    assert_eq!((make(&node).await, make(&node).await), (None, None));
    assert_eq!(make(&node).await, Some(Reason::KeyLimitExceeded));
    assert!(node.admit("sk-a", "tokens").await.is_ok());
}

fn with_local(store: &Arc<dyn Store>, dir: &Path, clock: &Clock, policy: &Policy) -> Arc<Core> {
    let fresh = || ReplicaId::new("r1").unwrap();
    let local = Local::open(dir, clock.now().wall, fresh).unwrap();
    Core::new(Parts {
        store: Arc::clone(store),
        replica: local.replica().clone(),
        layer: priced(policy.clone()),
        local: Some(Arc::new(local)),
        clock: clock.clone(),
        sync: Settings::default(),
        bounds: Bounds::default(),
        holds_max: 100,
        metrics: Metrics::default(),
    })
    .unwrap()
}

/// The data directory as a `kill -9` leaves it: as it is at this moment.
fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_call_by_a_plan_that_a_kill_left_open_ends_in_the_plan_as_the_owner_says() {
    let clock = start();
    let policy = Policy {
        unsettled: Unsettled::Charge,
        ..Policy::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path(), clock.clone()).unwrap());
    let replica = ReplicaId::new("setup").unwrap();
    let (layer, settings) = (priced(policy.clone()), Settings::default());
    let node = Node::configured(Arc::clone(&store), replica, clock.clone(), layer, settings);
    let account = node.account("a", "1").await;
    let points = plan(&node, &account, "3", None).await;

    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let killed = with_local(&store, before.path(), &clock, &policy);
    let terms = terms();
    let whole = killed
        .gate
        .admit(&call("sk-a", "flat", &terms))
        .await
        .unwrap();
    assert_eq!(whole.plan().unwrap().0, amount("2"));
    let split = killed
        .gate
        .admit(&call("sk-a", "flat", &terms))
        .await
        .unwrap();
    assert_eq!(
        (split.plan().unwrap().0, split.held()),
        (amount("1"), amount("0.5"))
    );
    copy(before.path(), after.path());

    let next = with_local(&store, after.path(), &clock, &policy);
    let sync = next.sync.clone();
    let running = tokio::spawn(async move { sync.run().await });
    let balance = async |id: &AccountId| -> Amount {
        let snapshot = store.read(id, &[]).await.unwrap().unwrap();
        snapshot.book.balance(snapshot.spend)
    };
    until("what was open is charged where it was held", async || {
        let left = (balance(&points).await, balance(&account).await);
        (left == (amount("0"), amount("0.5"))).then_some(())
    })
    .await;
    running.abort();
}

/// A gateway tells the end of a call when its hold is over and the plan's lease has gone back.
#[tokio::test]
async fn the_end_of_a_carried_call_that_is_told_late_goes_to_the_plan_that_its_hold_stood_on() {
    let clock = start();
    let node = alone(&clock, Policy::default());
    let account = node.account("a", "0").await;
    let points = plan(&node, &account, "3", None).await;
    let (core, terms) = (&node.core, Arc::new(terms()));
    let passing = Passing {
        by: By::Secret(Some(b"sk-a")),
        terms: &terms,
        api: Api::OpenAiChat,
        model: Some("flat"),
        max_output: Some(10),
        choices: 1,
        calls: 1,
        request_bytes: 30,
        request: "r1",
    };
    let granted = core.gate.hold_call(&passing).await.unwrap();
    let id = &granted.hold.id;
    assert!(!core.gate.is_late(id, &done()), "it is open");
    assert!(core.gate.covers(id, &done()).await, "by the plan");
    clock.advance(Policy::default().hold_time());
    assert_eq!(core.gate.expire_holds(), 1);
    core.sync.give_back(&points).await.unwrap();
    assert!(
        core.gate.is_late(id, &done()),
        "nothing of the plan is here"
    );
    core.gate.ready_call(id, &done()).await;
    let charge = core.gate.settle_call(id, &done()).unwrap();
    assert_eq!(charge.amount, amount("0"));
    assert!(core.gate.unheard_calls().is_empty());
    core.sync.sync_now().await.unwrap();
    assert_eq!(node.balance(&points).await, amount("1"));
    assert_eq!(node.balance(&account).await, amount("0"));
    assert_eq!(calls_of(&node, &account).await, (1, 0));

    // Of the next one the plan has half: the rest is money's, and that is not there.
    node.recharge(&account, "second", "0.5").await;
    let passing = Passing {
        request: "r2",
        ..passing
    };
    let granted = core.gate.hold_call(&passing).await.unwrap();
    assert_eq!(granted.hold.amount, amount("0.5"));
    let twice = Outcome {
        reading: Reading {
            usage: Some(Counts::default().with(Meter::Request, 2)),
            ..done().reading
        },
        ..done()
    };
    let id = &granted.hold.id;
    assert!(core.gate.covers(id, &done()).await);
    assert!(!core.gate.covers(id, &twice).await);
    assert_eq!(
        core.gate.settle_call(id, &done()).unwrap().amount,
        amount("0.5")
    );
}
