//! A deadline that is set anew for every call and almost never comes. What then happens is up to who asks.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Kept with a connection from call to call. Its timer stays where it is until it fires, and only then is moved to the deadline
/// that stands: setting one costs a reading of the clock, where a timer per call costs two turns of the runtime's lock as well.
pub(super) struct Alarm {
    /// `None` is never.
    at: Option<Instant>,
    /// Fires at the deadline or before it; armed when something is first waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Without a deadline.
    pub(super) const fn new() -> Self {
        Self {
            at: None,
            timer: None,
        }
    }

    /// Sets the deadline, in place of the one before.
    pub(super) fn set(&mut self, limit: Duration) {
        self.at = Instant::now().checked_add(limit);
        if let (Some(at), Some(timer)) = (self.at, &mut self.timer)
            && at < timer.deadline()
        {
            timer.as_mut().reset(at);
        }
    }

    /// Ready once the deadline has come.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if at <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, pause};

    use super::*;

    const LONG: Duration = Duration::from_secs(4);
    const SHORT: Duration = Duration::from_secs(1);

    async fn check(alarm: &mut Alarm, limit: Duration) {
        let start = Instant::now();
        alarm.set(limit);
        poll_fn(|cx| alarm.poll_over(cx)).await;
        let took = start.elapsed();
        assert!(took >= limit, "{took:?}");
        assert!(
            took < limit.saturating_add(Duration::from_millis(10)),
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn it_comes_at_the_deadline_that_was_set_last() {
        pause();
        let mut alarm = Alarm::new();
        check(&mut alarm, LONG).await;
        for (before, limit) in [(LONG, SHORT), (SHORT, LONG), (LONG, LONG)] {
            alarm.set(before);
            let waiting = poll_fn(|cx| Poll::Ready(alarm.poll_over(cx))).await;
            assert!(waiting.is_pending());
            // Nobody asks for a while, as between two calls.
            advance(SHORT / 2).await;
            check(&mut alarm, limit).await;
            advance(LONG * 2).await;
        }
    }
}
