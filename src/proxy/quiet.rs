//! How long nothing has come: a timer that costs nothing while things move. What then happens is up to who asks.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// The parts that a limit is watched in: a stall is noticed within a quarter of the limit after it.
const PARTS: u32 = 4;

/// Watches for a stretch of quiet. Pieces that move only clear a count; the timer is armed when something is first waited
/// for, then ticks four times per limit, and nothing reads the clock in between.
pub(super) struct Quiet {
    tick: Duration,
    ticks: u32,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Quiet {
    /// Watches for `limit` of quiet; over at the latest a quarter of it later.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            tick: limit.checked_div(PARTS).unwrap_or(limit),
            ticks: 0,
            timer: None,
        }
    }

    /// Something moved.
    pub(super) const fn moved(&mut self) {
        self.ticks = 0;
    }

    /// Ready once the quiet has lasted. To be asked only while waiting: time in which nobody asked is nobody's quiet.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let tick = self.tick;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(tick)));
        while timer.as_mut().poll(cx).is_ready() {
            self.ticks = self.ticks.saturating_add(1);
            // The first tick may come right after the last piece, so it does not count.
            if self.ticks > PARTS {
                return Poll::Ready(());
            }
            let next = Instant::now().checked_add(tick);
            timer.as_mut().reset(next.unwrap_or_else(Instant::now));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, pause};

    use super::*;

    #[tokio::test]
    async fn quiet_is_over_between_the_limit_and_a_quarter_more() {
        pause();
        let start = Instant::now();
        let mut quiet = Quiet::new(Duration::from_secs(4));
        poll_fn(|cx| quiet.poll_over(cx)).await;
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(4), "{took:?}");
        assert!(took < Duration::from_millis(5_100), "{took:?}");
    }

    #[tokio::test]
    async fn what_moves_starts_it_again_and_time_not_waited_does_not_count() {
        pause();
        let start = Instant::now();
        let mut quiet = Quiet::new(Duration::from_secs(4));
        let first = poll_fn(|cx| Poll::Ready(quiet.poll_over(cx))).await;
        assert!(first.is_pending());
        for _ in 0..5 {
            advance(Duration::from_secs(3)).await;
            let waiting = poll_fn(|cx| Poll::Ready(quiet.poll_over(cx))).await;
            assert!(waiting.is_pending());
            quiet.moved();
        }
        // Nobody asked for a long time: one tick, not many.
        advance(Duration::from_secs(60)).await;
        let waiting = poll_fn(|cx| Poll::Ready(quiet.poll_over(cx))).await;
        assert!(waiting.is_pending());
        poll_fn(|cx| quiet.poll_over(cx)).await;
        assert!(start.elapsed() >= Duration::from_secs(75 + 3));
    }
}
