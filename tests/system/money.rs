//! Money through the whole process: no more calls than there is money for, and debt that stops calls until it is paid.

use super::process::amount;
use super::wire::{CHAT, ask, chat, post, secret};
use super::{Kind, System, on_both_stores};
use crate::support::http::{Message, call};
use crate::support::node::amount as units;

on_both_stores! {
    of_many_at_once_exactly_those_pass_that_are_paid_for
    debt_stops_calls_and_a_recharge_pays_it_first
}

/// An answer that says in OpenAI's words that there is no money, and that trying again does not help.
fn assert_no_quota(answer: &Message) {
    assert_eq!(answer.status(), 429, "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "insufficient_quota");
    assert_eq!(error["type"], "insufficient_quota");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(answer.header("retry-after"), None);
}

async fn of_many_at_once_exactly_those_pass_that_are_paid_for(kind: Kind) {
    let system = System::new(kind, &[]).await;
    let process = system.serve().await;
    process.account("a", "20", "default").await;
    // All are under way before the first is answered.
    let slow = ["x-standin-delay-ms: 500"];
    let request = post(CHAT, &secret("a"), &slow, &chat("flat").to_string());
    let calls: Vec<_> = (0..200)
        .map(|_| tokio::spawn(call(process.proxy, request.clone())))
        .collect();
    let (mut passed, mut refused) = (0, 0);
    for answer in calls {
        let answer = answer.await.unwrap();
        if answer.status() == 200 {
            assert!(answer.whole, "{answer:?}");
            passed += 1;
        } else {
            assert_no_quota(&answer);
            let reason = answer.header("x-tollgate-reason");
            assert_eq!(reason, Some("INSUFFICIENT_BALANCE"));
            refused += 1;
        }
    }
    assert_eq!((passed, refused), (20, 180));
    process.cli("sync now").await;
    assert_eq!(process.used("a").await, (20, units("20")));
    let standing = process.show("a").await;
    for (field, value) in [
        ("balance", standing.balance),
        ("held", standing.held),
        ("available", standing.available),
        ("debt", standing.debt),
    ] {
        assert_eq!(value, units("0"), "{field}");
    }
    process.verify("a").await;
    process.terminate().await;
}

#[tokio::test]
async fn two_processes_spend_no_more_than_there_is() {
    let system = System::new(Kind::Redis, &[]).await;
    let processes = [system.serve().await, system.serve_beside("other").await];
    processes[0].account("a", "20", "default").await;
    let request = ask("a", "flat");
    let calls: Vec<_> = (0..200)
        .map(|n| tokio::spawn(call(processes[n % 2].proxy, request.clone())))
        .collect();
    let mut passed = 0;
    for answer in calls {
        let answer = answer.await.unwrap();
        match answer.status() {
            200 => passed += 1,
            _ => assert_no_quota(&answer),
        }
    }
    // What one has leased and does not need goes to the other: nothing is left over.
    assert_eq!(passed, 20);
    for process in &processes {
        process.cli("sync now").await;
    }
    for process in processes {
        assert_eq!(process.used("a").await, (20, units("20")));
        assert_eq!(process.show("a").await.balance, units("0"));
        process.verify("a").await;
        process.terminate().await;
    }
}

async fn debt_stops_calls_and_a_recharge_pays_it_first(kind: Kind) {
    let system = System::new(kind, &[]).await;
    let process = system.serve().await;
    process.account("a", "1", "small").await;
    // 25 tokens cost 2.50, of which 0.50 are held.
    let long = ["x-standin-output-tokens: 25"];
    let request = post(CHAT, &secret("a"), &long, &chat("long").to_string());
    assert_eq!(call(process.proxy, &request).await.status(), 200);

    let refused = call(process.proxy, &request).await;
    assert_no_quota(&refused);
    let reason = refused.header("x-tollgate-reason");
    assert!(
        matches!(reason, Some("INSUFFICIENT_BALANCE" | "ACCOUNT_OVERDUE")),
        "{reason:?}"
    );
    let standing = process.show("a").await;
    assert_eq!(standing.balance, units("-1.50"));
    assert_eq!(standing.debt, units("1.50"));

    let recharge = "credit recharge a 5 --order-id o-1 --request-id r-1";
    let paid = process.cli(recharge).await;
    assert_eq!(amount(&paid["entry"]["debt_paid"]), units("1.50"));
    assert_eq!(amount(&paid["account"]["balance"]), units("3.50"));
    assert_eq!(paid["replayed"], false);
    let again = process.cli(recharge).await;
    assert_eq!(again["replayed"], true);
    assert_eq!(again["entry"]["sequence"], paid["entry"]["sequence"]);
    assert_eq!(amount(&again["account"]["balance"]), units("3.50"));

    // At once: with no wait between the answer and the next call. What is left is spent to the last unit.
    for _ in 0..3 {
        let answer = call(process.proxy, ask("a", "flat")).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    process.cli("sync now").await;
    assert_eq!(process.show("a").await.balance, units("0.50"));
    process.verify("a").await;
    process.terminate().await;
}
