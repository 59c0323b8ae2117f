//! Following a feed of the store: what is there, then what comes, until the reader leaves or the server stops. Used for events
//! and for spend.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Control;
use super::errors::Fault;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How many answers wait for a slow reader; then reading the store waits too.
const QUEUE_MAX: usize = 64;

/// The longest that a follower hears of nothing: spend is published without a notification.
const POLL_MAX: Duration = Duration::from_secs(1);

/// The shortest time between two looks at the store: a burst of changes is read at once.
const POLL_MIN: Duration = Duration::from_millis(20);

/// How often the store may fail in a row before the follower is told. It is asked once a second.
const FAILURES_MAX: u32 = 10;

/// One look at a feed.
pub(super) struct Look<T> {
    /// What was new, ready to be sent.
    pub(super) answers: Vec<T>,
    /// Where to go on.
    pub(super) position: u64,
    /// There is more already.
    pub(super) more: bool,
}

/// What is read again and again.
#[tonic::async_trait]
pub(super) trait Feed: Send + Sync + 'static {
    /// What is sent.
    type Answer: Send + 'static;

    /// What comes after a position.
    async fn look(&self, after: u64) -> Result<Look<Self::Answer>, Fault>;
}

impl Control {
    /// Follows a feed from a position on; to its present end only, if `to_end`.
    pub(super) fn follow<F: Feed>(
        &self,
        feed: F,
        after: u64,
        to_end: bool,
    ) -> Result<Answers<F::Answer>, Fault> {
        let slots = Arc::clone(&self.0.followers);
        let slot = slots.try_acquire_owned().map_err(|_| Fault::Followers)?;
        let (send, receive) = mpsc::channel(QUEUE_MAX);
        let follower = Follower {
            control: self.clone(),
            feed,
            send,
            to_end,
            _slot: slot,
        };
        // It ends with its reader, at the latest when it next has something to say or a second has passed.
        tokio::spawn(follower.run(after));
        Ok(Box::pin(ReceiverStream::new(receive)))
    }
}

struct Follower<F: Feed> {
    control: Control,
    feed: F,
    send: mpsc::Sender<Result<F::Answer, Status>>,
    to_end: bool,
    _slot: OwnedSemaphorePermit,
}

impl<F: Feed> Follower<F> {
    async fn run(self, after: u64) {
        let mut stopping = self.control.0.stopping.clone();
        tokio::select! {
            () = self.follow(after) => {}
            () = self.send.closed() => {}
            // The stream just ends: whoever follows goes on at another replica.
            () = stopped(&mut stopping) => {}
        }
    }

    async fn follow(&self, mut after: u64) {
        // Listened to before the first look, so that nothing falls between the two.
        let mut changes = self.control.core().store.changes();
        let mut failures: u32 = 0;
        loop {
            match self.feed.look(after).await {
                Ok(look) => {
                    failures = 0;
                    after = look.position;
                    for answer in look.answers {
                        if self.send.send(Ok(answer)).await.is_err() {
                            return;
                        }
                    }
                    if look.more {
                        continue;
                    }
                    if self.to_end {
                        return;
                    }
                }
                Err(fault @ Fault::Unavailable(_)) if failures >= FAILURES_MAX || self.to_end => {
                    let _ = self.send.send(Err(fault.into())).await;
                    return;
                }
                Err(Fault::Unavailable(_)) => failures = failures.saturating_add(1),
                Err(fault) => {
                    let _ = self.send.send(Err(fault.into())).await;
                    return;
                }
            }
            tokio::time::sleep(POLL_MIN).await;
            // Whatever changed, and however much of it was missed: look again.
            let heard = tokio::time::timeout(POLL_MAX, changes.recv()).await;
            if let Ok(Err(RecvError::Closed)) = heard {
                tokio::time::sleep(POLL_MAX).await;
            }
        }
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}
