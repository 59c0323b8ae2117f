//! What the integration tests share: a core over a real store, and waiting for a condition.

pub(crate) mod beside;
pub(crate) mod cable;
pub(crate) mod edge;
pub(crate) mod gateway;
pub(crate) mod haunted;
pub(crate) mod http;
pub(crate) mod node;
pub(crate) mod redis;
pub(crate) mod tap;
pub(crate) mod upstream;

use std::time::Duration;

/// Asks again and again until the answer is there; fails after ten seconds, which nothing here should take.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..2_000 {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
    }
    panic!("waited in vain: {what}")
}

/// The same with a bound of its own, for what waits for the protocol's own times; asks less often, as asking costs more there.
pub(crate) async fn within<T>(
    bound: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let asking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    match tokio::time::timeout(bound, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited {bound:?} in vain: {what}"),
    }
}
