//! Cutting connections that wait for a server which is not there any more: a host that has lost its power or its
//! network closes no sockets.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use parking_lot::Mutex;

/// One connection's side: what waits on it ends when it is cut.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    is_cut: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Cut {
    /// Ends what waits, and all that will.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        if let Some(waker) = self.waiting.lock().take() {
            waker.wake();
        }
    }

    /// Whether it was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Does the work; `None` if it had to wait and the connection was cut.
    pub(crate) async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => {
                let mut waiting = self.waiting.lock();
                match &mut *waiting {
                    Some(waker) => waker.clone_from(cx.waker()),
                    empty => *empty = Some(cx.waker().clone()),
                }
                drop(waiting);
                // Looked at behind the lock: whoever cuts comes for the waker later.
                if self.is_cut() { Poll::Ready(None) } else { Poll::Pending }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_waits_ends_and_what_is_done_counts() {
        let cut = Arc::new(Cut::default());
        assert_eq!(cut.unless_cut(async { 1 }).await, Some(1));
        let waits = tokio::spawn({
            let cut = Arc::clone(&cut);
            async move { cut.unless_cut(tokio::time::sleep(Duration::from_secs(60))).await }
        });
        tokio::task::yield_now().await;
        cut.cut();
        assert!(matches!(waits.await, Ok(None)));
        assert_eq!(cut.unless_cut(std::future::pending::<()>()).await, None);
        assert_eq!(cut.unless_cut(async { 2 }).await, Some(2));
    }
}
