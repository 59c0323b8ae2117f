//! Several replicas over one Redis: together they never pass more calls than are paid for, and what each has settled adds up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tollgate::books::CommandError;
use tollgate::clock::Clock;
use tollgate::gate::{End, Outcome};
use tollgate::id::{AccountId, ReplicaId};
use tollgate::meter::Reading;
use tollgate::policy::Policy;
use tollgate::refusal::Reason;
use tollgate::store::redis::{Reach, RedisStore, Settings};
use tollgate::store::{Snapshot, StoreError};
use tollgate::sync;

use crate::support::node::{Node, amount, call, terms};
use crate::support::redis::Server;
use crate::support::tap::{Mode, Tap, To};
use crate::support::until;

fn replica(server: &Server, name: &str) -> Node {
    replica_with(server, name, sync::Settings::default())
}

fn replica_with(server: &Server, name: &str, settings: sync::Settings) -> Node {
    replica_at(server.url(), name, settings)
}

fn replica_at(url: String, name: &str, settings: sync::Settings) -> Node {
    let redis = Settings {
        reach: Reach::Server(url),
        fence: settings.times.lease,
        ..Settings::default()
    };
    let store = RedisStore::connect(redis, Clock::system()).unwrap();
    let replica = ReplicaId::new(name).unwrap();
    Node::over(
        Arc::new(store),
        replica,
        Clock::system(),
        Policy::default(),
        settings,
    )
}

/// Calls at one replica, all at once; returns how many passed.
async fn hammer(node: &Node, calls: usize) -> usize {
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let gate = node.core.gate.clone();
            tokio::spawn(async move {
                let terms = terms();
                match gate.admit(&call("sk-a", "flat", &terms)).await {
                    Ok(ticket) => {
                        let outcome = Outcome {
                            end: End::Complete,
                            reading: Reading::default(),
                            bytes_in: 0,
                            bytes_out: 0,
                        };
                        assert_eq!(ticket.settle(outcome).amount, amount("1"));
                        Ok(())
                    }
                    Err(refusal) => Err(refusal.reason),
                }
            })
        })
        .collect();
    let mut passed = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(()) => passed += 1,
            Err(reason) => assert_eq!(reason, Reason::InsufficientBalance),
        }
    }
    passed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_pass_what_is_paid_for_and_no_more() {
    let server = Server::start().await;
    let nodes = [
        replica(&server, "r-1"),
        replica(&server, "r-2"),
        replica(&server, "r-3"),
    ];
    let account = nodes[0].account("a", "60").await;
    // Unevenly: one has more calls than there is money, one a few.
    let (one, two, three) = tokio::join!(
        hammer(&nodes[0], 100),
        hammer(&nodes[1], 40),
        hammer(&nodes[2], 5)
    );
    let mut passed = one + two + three;
    assert!(passed <= 60, "{one} + {two} + {three}");
    // What one replica leased and does not need comes back, so that all of it can be spent.
    let spend_the_rest = async || {
        passed += hammer(&nodes[0], 1).await;
        (passed == 60).then_some(())
    };
    until("all the money is spent", spend_the_rest).await;
    assert_eq!(hammer(&nodes[1], 10).await, 0);
    for node in &nodes {
        node.core.sync.close(Duration::from_secs(5)).await.unwrap();
    }
    let snapshot = nodes[0]
        .core
        .store
        .read(&account, &[])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (snapshot.spend, snapshot.unleased),
        (amount("60"), amount("0"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recharge_and_a_revocation_at_one_replica_count_at_the_others() {
    let server = Server::start().await;
    let nodes = [replica(&server, "r-1"), replica(&server, "r-2")];
    let account = nodes[0].account("a", "1").await;
    assert_eq!(hammer(&nodes[1], 3).await, 1);
    nodes[0].recharge(&account, "more", "2").await;
    let spend = async || (hammer(&nodes[1], 1).await == 1).then_some(());
    until("the recharge is spendable at the other replica", spend).await;
    nodes[0]
        .key(&account, "k-a", "sk-a", |key| {
            key.revoked = Some(Clock::system().now().wall)
        })
        .await;
    let refused = async || match nodes[1].admit("sk-a", "flat").await {
        Err(refusal) if refusal.reason == Reason::KeyRevoked => Some(()),
        _ => None,
    };
    until("the key is revoked at the other replica", refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_that_another_replica_holds_is_no_outage() {
    let server = Server::start().await;
    // Long enough for the store to have answered on any machine.
    let patient = sync::Settings {
        refill_wait: Duration::from_secs(1),
        ..sync::Settings::default()
    };
    let nodes = [
        replica(&server, "r-1"),
        replica_with(&server, "r-2", patient),
    ];
    nodes[0].account("a", "1").await;
    let held = nodes[0].admit("sk-a", "flat").await.unwrap();
    let refused = nodes[1].admit("sk-a", "flat").await.unwrap_err();
    assert_eq!(refused.reason, Reason::InsufficientBalance);
    drop(held);
}

/// A lease time that a test can wait for.
fn brief() -> sync::Settings {
    let mut settings = sync::Settings::default();
    settings.times.lease = Duration::from_millis(1_500);
    settings.times.margin = Duration::from_millis(100);
    settings.times.interval = Duration::from_millis(20);
    settings
}

/// What the books say once every replica has published.
async fn settled(nodes: &[Node], account: &AccountId) -> Snapshot {
    let all = until("every replica has published", async || {
        for node in nodes {
            node.core.sync.sync_now().await.ok()?;
            let live = node.core.sync.live(account);
            (live.unpublished == amount("0")).then_some(())?;
        }
        nodes[0].core.store.read(account, &[]).await.ok()?
    });
    all.await
}

/// Spends one by one, at one replica, until so many calls passed; gives up where the money is.
async fn spend(node: &Node, calls: usize) {
    let mut passed = 0;
    let all = until("the calls pass", async || {
        if let Ok(ticket) = node.admit("sk-a", "flat").await {
            ticket.settle(Outcome {
                end: End::Complete,
                reading: Reading::default(),
                bytes_in: 0,
                bytes_out: 0,
            });
            passed += 1;
        }
        (passed == calls).then_some(())
    });
    all.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_filled_again() {
    let server = Server::start().await;
    let nodes = [
        replica_with(&server, "r-1", brief()),
        replica_with(&server, "r-2", brief()),
    ];
    let account = nodes[0].account("a", "100").await;
    nodes[1].recharge(&account, "second", "50").await;
    spend(&nodes[0], 7).await;
    spend(&nodes[1], 5).await;
    let before = settled(&nodes, &account).await;
    let _: String = server.command(&["FLUSHALL"]);
    let filled = until("the account is back", async || {
        let read = nodes[1].core.store.read(&account, &[]).await;
        read.ok().flatten().map(drop)
    });
    filled.await;
    spend(&nodes[1], 3).await;
    let again = until("its spend is back", async || {
        let now = settled(&nodes, &account).await;
        (now.spend == amount("15") && now.lost == amount("0")).then_some(now)
    });
    let now = again.await;
    assert_eq!(now.book.lifetime_credit, amount("150"));
    assert!(
        now.version > before.version,
        "nobody takes it for an older one"
    );
    // What was paid counts once, also when it is sent again.
    nodes[0].recharge_fenced(&account, "second", "50").await;
    let entries = nodes[0].core.store.entries(&account, 0, 100).await.unwrap();
    let paid = entries
        .iter()
        .filter(|e| e.order_id.as_deref() == Some("second"));
    assert_eq!(paid.count(), 1);
    let now = settled(&nodes, &account).await;
    assert_eq!(now.book.balance(now.spend), amount("135"));
    // A replica that comes new finds the key again.
    let fresh = replica_with(&server, "r-3", brief());
    spend(&fresh, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_held_while_redis_is_emptied_is_held_by_nobody_else() {
    let server = Server::start().await;
    let tap = Tap::start(To::Unix(server.socket())).await;
    // Time enough for the first one to come back within the fence.
    let mut settings = brief();
    settings.times.lease = Duration::from_secs(5);
    let nodes = [
        replica_at(tap.url(), "r-1", settings),
        replica_with(&server, "r-2", settings),
    ];
    let account = nodes[0].account("a", "10").await;
    // Known at both, and all of it in flight at one, which cannot say so.
    spend(&nodes[1], 1).await;
    settled(&nodes, &account).await;
    let mut held = Vec::new();
    until("all else is held", async || {
        held.extend(nodes[0].admit("sk-a", "flat").await.ok());
        (held.len() == 9).then_some(())
    })
    .await;
    tap.set(Mode::Cut);
    let _: String = server.command(&["FLUSHALL"]);
    until("the other one puts it back", async || {
        assert!(nodes[1].admit("sk-a", "flat").await.is_err());
        (nodes[1].core.sync.status().fenced > 0).then_some(())
    })
    .await;
    let recharge = nodes[1].try_recharge(&account, "meanwhile", "5").await;
    let fenced = matches!(recharge, Err(CommandError::Store(StoreError::Fenced(_))));
    assert!(fenced, "{recharge:?}");
    assert!(nodes[1].admit("sk-a", "flat").await.is_err());
    tap.set(Mode::Pass);
    // Within the fence or after it, the first one has said what it has.
    nodes[1].recharge_fenced(&account, "meanwhile", "5").await;
    for ticket in held {
        ticket.settle(Outcome {
            end: End::Complete,
            reading: Reading::default(),
            bytes_in: 0,
            bytes_out: 0,
        });
    }
    spend(&nodes[1], 5).await;
    let now = settled(&nodes, &account).await;
    assert_eq!(now.book.balance(now.spend), amount("0"));
    assert_eq!(hammer(&nodes[0], 3).await + hammer(&nodes[1], 3).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_its_last_writes_is_mended() {
    let mut server = Server::start().await;
    let nodes = [
        replica_with(&server, "r-1", brief()),
        replica_with(&server, "r-2", brief()),
    ];
    let account = nodes[0].account("a", "100").await;
    spend(&nodes[0], 4).await;
    settled(&nodes, &account).await;
    let old = server.copy();
    nodes[1].recharge(&account, "lost", "50").await;
    spend(&nodes[0], 3).await;
    spend(&nodes[1], 6).await;
    settled(&nodes, &account).await;
    server.kill();
    server.put_back(&old);
    server.run().await;
    let mended = until("what was lost is back", async || {
        let now = nodes[0].core.store.read(&account, &[]).await.ok()??;
        let all = now.spend == amount("13") && now.book.lifetime_credit == amount("150");
        (all && now.lost == amount("0")).then_some(now)
    });
    let now = mended.await;
    assert_eq!(now.book.invariants(), Ok(()));
    nodes[0].recharge_fenced(&account, "lost", "50").await;
    spend(&nodes[1], 137).await;
    let now = settled(&nodes, &account).await;
    assert_eq!(now.book.balance(now.spend), amount("0"));
    assert_eq!(hammer(&nodes[0], 5).await, 0);
}

/// Bytes that Redis takes for what lies under each key, by what the key is of.
fn memory(server: &Server) -> BTreeMap<String, u64> {
    let keys: Vec<String> = server.command(&["KEYS", "tg:*"]);
    let mut sums = BTreeMap::new();
    for key in keys {
        let bytes: u64 = server.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]);
        let of_account = key
            .strip_prefix("tg:a:{")
            .and_then(|key| key.split_once("}:"));
        let kind = match of_account {
            Some((_, what)) => what.split(':').next().unwrap().to_owned(),
            None => key.split(':').nth(1).unwrap().to_owned(),
        };
        *sums.entry(kind).or_default() += bytes;
    }
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_takes_as_much_redis_as_is_said() {
    let server = Server::start().await;
    let node = replica(&server, "r-0123456789abcdef");
    let account = node.account("customer-00001234", "1").await;
    let ticket = node.admit("sk-customer-00001234", "flat").await.unwrap();
    ticket.settle(Outcome {
        end: End::Complete,
        reading: Reading::default(),
        bytes_in: 0,
        bytes_out: 0,
    });
    node.core.sync.flush(&account).await.unwrap();
    let one = memory(&server);
    println!("with one recharge, one key, one replica, one model: {one:#?}");
    // The figures of the page of `store::redis`, with a fifth of them for names of other lengths.
    for (kind, said) in [
        ("head", 1_000),
        ("row", 200),
        ("usage", 350),
        ("hour", 350),
        ("keys", 500),
        ("k", 200),
    ] {
        let bytes = one[kind];
        assert!(
            bytes <= said + said / 5 && bytes >= said / 2,
            "{kind}: {bytes}"
        );
    }
    let whole = |memory: &BTreeMap<String, u64>| memory.values().sum::<u64>() - memory["f"];
    assert!(whole(&one) <= 5_000, "{}", whole(&one));
    const RECHARGES: u64 = 10;
    for number in 0..RECHARGES {
        node.recharge(&account, &format!("order-{number}"), "1")
            .await;
    }
    let more = memory(&server);
    println!("with ten recharges more: {more:#?}");
    // A ledger entry, a claim and a credit block.
    let each = (whole(&more) - whole(&one)) / RECHARGES;
    assert!((600..=1_400).contains(&each), "{each}");
}
