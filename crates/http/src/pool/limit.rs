//! A limit on requests to one upstream that several workers share, and what an exchange holds until it is over.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ClientError;

/// Something that is dropped when an exchange is over: a permit, or a guard that counts requests in flight.
#[derive(Default)]
pub struct Hold(#[expect(dead_code, reason = "held to be dropped")] Option<Box<dyn Any>>);

impl Hold {
    /// Holds this until the exchange is over.
    pub fn new(held: impl Any) -> Self {
        Self(Some(Box::new(held)))
    }
}

/// A bound on the requests in flight at one upstream, of all workers together. Clones are the same limit; it crosses
/// threads. Without contention, taking a permit is one atomic operation.
#[derive(Debug, Clone)]
pub struct SharedLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    permits: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
    queue: usize,
    wait: Duration,
}

impl SharedLimit {
    /// At most `most` requests at once; up to `queue` more wait, each for at most `wait`.
    pub fn new(most: usize, queue: usize, wait: Duration) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(most));
        Self(Arc::new(Inner { permits, most, waiting: AtomicUsize::new(0), queue, wait }))
    }

    /// A permit, if one is free.
    pub fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.permits).try_acquire_owned().ok()
    }

    /// A permit, which [`Hold::new`] takes. Waits in turn where none is free; fails with [`ClientError::Busy`] where
    /// too many wait already, and with [`ClientError::WaitTimedOut`].
    pub async fn acquire(&self) -> Result<OwnedSemaphorePermit, ClientError> {
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        let _waiting = Waiting::join(&self.0).ok_or(ClientError::Busy)?;
        match tokio::time::timeout(self.0.wait, Arc::clone(&self.0.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(ClientError::Busy),
            Err(_) => Err(ClientError::WaitTimedOut(self.0.wait)),
        }
    }

    /// Requests in flight.
    pub fn in_use(&self) -> usize {
        self.0.most.saturating_sub(self.0.permits.available_permits())
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }
}

/// One who waits, as long as it lives.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn join(limit: &'a Inner) -> Option<Self> {
        if limit.waiting.fetch_add(1, Ordering::Relaxed) >= limit.queue {
            limit.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(limit))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Hold, SharedLimit};
    use crate::pool::ClientError;

    #[tokio::test]
    async fn no_more_than_allowed_are_let_in_and_wait() {
        let limit = SharedLimit::new(1, 1, Duration::from_millis(50));
        let first = Hold::new(limit.acquire().await.unwrap());
        assert!(limit.try_acquire().is_none());
        let (second, third) = tokio::join!(limit.acquire(), limit.acquire());
        assert!(matches!(second, Err(ClientError::WaitTimedOut(_))));
        assert!(matches!(third, Err(ClientError::Busy)));
        assert_eq!((limit.in_use(), limit.waiting()), (1, 0));
        drop(first);
        assert!(limit.acquire().await.is_ok());
    }
}
