//! Waiting for a flip or a cutover to pass, bounded in time and number.

use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::sessions::{Handle, Wait};
use crate::shared::Shared;

/// How long to wait before a server that could not be reached, or does not own the user yet, is tried again, if no news
/// come first: twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// One statement's waits.
#[derive(Debug)]
pub(crate) struct Hold<'s> {
    shared: &'s Shared,
    handle: &'s Handle,
    since: Option<(Instant, SemaphorePermit<'s>)>,
    in_transaction: bool,
    pause: Duration,
}

impl<'s> Hold<'s> {
    pub(crate) fn new(shared: &'s Shared, handle: &'s Handle, in_transaction: bool) -> Self {
        Self { shared, handle, since: None, in_transaction, pause: FIRST_PAUSE }
    }

    /// Waits until the deployment's state is newer than `version`.
    ///
    /// # Errors
    /// The statement's failure when its time is up or too many wait already.
    pub(crate) async fn wait_newer(&mut self, version: u64, why: &Failure) -> Result<(), Failure> {
        let left = self.left(why)?;
        let mut news = self.shared.directory.subscribe();
        let newer = news.wait_for(|seen| *seen > version);
        match timeout(left, newer).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.expired(why)),
        }
    }

    /// Waits for news or a moment, whichever comes first: for what may change without a new state.
    ///
    /// # Errors
    /// As [`Hold::wait_newer`].
    pub(crate) async fn wait_moment(&mut self, version: u64, why: &Failure) -> Result<(), Failure> {
        let left = self.left(why)?;
        if left.is_zero() {
            return Err(self.expired(why));
        }
        let mut news = self.shared.directory.subscribe();
        let newer = news.wait_for(|seen| *seen > version);
        let _ = timeout(left.min(self.pause), newer).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    fn left(&mut self, why: &Failure) -> Result<Duration, Failure> {
        let limit = Duration::from_millis(self.shared.limits.hold_ms);
        if let Some((since, _)) = &self.since {
            return Ok(limit.saturating_sub(since.elapsed()));
        }
        let Ok(permit) = self.shared.held.try_acquire() else {
            let id = if self.in_transaction { ErrorId::HoldsFullInTransaction } else { ErrorId::HoldsFull };
            let limit = self.shared.limits.held_max;
            return Err(Failure::new(id).field("limits.held_max", limit).note(why.message()).safe_to_retry());
        };
        self.handle.wait_for(Wait::Flip);
        self.shared.metrics.held.inc();
        self.shared.metrics.holding.inc();
        self.since = Some((Instant::now(), permit));
        Ok(limit)
    }

    fn expired(&self, why: &Failure) -> Failure {
        let id = if self.in_transaction { ErrorId::HoldExpiredInTransaction } else { ErrorId::HoldExpired };
        let held = self.since.as_ref().map_or(0, |(since, _)| since.elapsed().as_millis());
        Failure::new(id).field("held", format!("{held}ms")).note(why.message()).safe_to_retry()
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.since.is_some() {
            self.handle.wait_for(Wait::Nothing);
            self.shared.metrics.holding.dec();
        }
    }
}
