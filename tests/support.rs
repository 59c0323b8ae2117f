//! What the integration tests share: a core over a real store, and waiting for a condition.

pub(crate) mod edge;
pub(crate) mod http;
pub(crate) mod node;
pub(crate) mod redis;
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
