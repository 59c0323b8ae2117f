//! Where calls are run: at once, where they come in. Most are asked and answered without waiting, and a task of its own costs such a
//! one more than the decision; one that has to wait gets its task then.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use hyper::rt::Executor;

/// Runs calls on the thread, and within the runtime, that took them from the connection.
#[derive(Clone, Copy)]
pub(super) struct Inline;

impl<F> Executor<F> for Inline
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, call: F) {
        let mut call = Box::pin(call);
        // Not woken by this: the task looks again.
        let mut cx = Context::from_waker(Waker::noop());
        // A call that panics ends alone, as in a task; where, was reported there.
        let begun = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = begun {
            tokio::spawn(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_call_that_need_not_wait_is_over_at_once() {
        let (said, mut heard) = oneshot::channel();
        // A task would need a runtime.
        Inline.execute(async move { said.send(7) });
        assert_eq!(heard.try_recv(), Ok(7));
    }

    #[tokio::test]
    async fn a_call_that_waits_goes_on_in_a_task() {
        let (go, gone) = oneshot::channel();
        let (said, heard) = oneshot::channel();
        Inline.execute(async move { said.send(gone.await) });
        go.send(7).unwrap();
        assert_eq!(heard.await, Ok(Ok(7)));
    }

    #[test]
    fn a_call_that_panics_ends_alone() {
        let (said, mut heard) = oneshot::channel::<()>();
        Inline.execute(async move {
            let _said = said;
            panic!("a call's");
        });
        assert_eq!(heard.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
