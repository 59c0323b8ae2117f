//! The rate limit as clients see it, over every window of a run.

use std::time::Duration;

use tollgate::clock::{Clock, Monotonic};

use super::wire::ask;
use super::{Kind, System};
use crate::support::http::Wire;

/// How long the clients keep asking.
const RUN: Duration = Duration::from_secs(3);

/// One admitted call: it was admitted at some moment between these two.
#[derive(Clone, Copy)]
struct Admitted {
    sent: Monotonic,
    answered: Monotonic,
}

/// No window holds more than the burst and its seconds' worth: of the calls that were sent and answered within it, all were
/// admitted within it.
fn check_every_window(calls: &[Admitted]) {
    for start in calls.iter().map(|call| call.sent) {
        for end in calls.iter().map(|call| call.answered) {
            let within = |call: &&Admitted| start <= call.sent && call.answered <= end;
            let count = calls.iter().filter(within).count() as u128;
            // In nanoseconds of calls: 5 + 10 × seconds.
            let most = 5 * 1_000_000_000 + 10 * end.since(start).as_nanos();
            assert!(
                count * 1_000_000_000 <= most,
                "{count} calls within {:?}",
                end.since(start)
            );
        }
    }
}

async fn hammer(wire: &mut Wire, clock: &Clock, began: Monotonic) -> Vec<Admitted> {
    let request = ask("a", "demo-model");
    let mut admitted = Vec::new();
    loop {
        let sent = clock.now().mono;
        if sent.since(began) >= RUN {
            return admitted;
        }
        wire.send(&request).await;
        let answer = wire.message().await.expect("an answer");
        let answered = clock.now().mono;
        if answer.status() == 200 {
            admitted.push(Admitted { sent, answered });
            continue;
        }
        assert_eq!(answer.status(), 429, "{answer:?}");
        assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
        assert_eq!(answer.header("x-tollgate-reason"), Some("QPS_EXCEEDED"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("x-should-retry"), None);
    }
}

#[tokio::test]
async fn over_every_window_no_more_calls_pass_than_the_limit_says() {
    let system = System::new(Kind::Embedded, &[]).await;
    let process = system.serve().await;
    process.account("a", "5", "paced").await;
    let clock = Clock::system();
    let began = clock.now().mono;
    let clients = (0..4).map(|_| {
        let (clock, proxy) = (clock.clone(), process.proxy);
        tokio::spawn(async move { hammer(&mut Wire::connect(proxy).await, &clock, began).await })
    });
    let clients: Vec<_> = clients.collect();
    let mut admitted = Vec::new();
    for client in clients {
        admitted.extend(client.await.unwrap());
    }
    check_every_window(&admitted);
    // And what is allowed passes: 5 + 10 × 3, less what the start took.
    assert!(admitted.len() >= 30, "{}", admitted.len());
    process.terminate().await;
}
