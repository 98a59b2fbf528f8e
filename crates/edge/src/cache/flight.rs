//! One fetch at a time for those who ask for the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::key::Key;
use super::stored::Stored;

/// A fetch under way, which requests of any worker may wait for.
pub(crate) struct Flight {
    pub(crate) key: Key,
    stage: watch::Sender<Stage>,
    /// What it fetches was invalidated meanwhile.
    is_doomed: AtomicBool,
}

/// How far a fetch has come.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Nothing is known yet.
    Waiting,
    /// There is a response for those whom it suits; its body may still be growing.
    Ready(Arc<Stored>),
    /// The upstream failed, and a stale response may be given.
    Failed(Arc<Stored>),
    /// What came is not for others.
    Released,
    /// The one who fetched went away.
    Ended,
}

impl Flight {
    pub(crate) fn new(key: Key) -> Arc<Self> {
        Arc::new(Self { key, stage: watch::Sender::new(Stage::Waiting), is_doomed: AtomicBool::new(false) })
    }

    pub(crate) fn publish(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// What was published last stays true; if nothing was, those who wait try again.
    pub(crate) fn end(&self) {
        self.stage.send_if_modified(|stage| {
            let waits = matches!(stage, Stage::Waiting);
            if waits {
                *stage = Stage::Ended;
            }
            waits
        });
    }

    /// Waits until something is known.
    pub(crate) async fn stage(&self) -> Stage {
        let mut receiver = self.stage.subscribe();
        // The sender lives as long as this flight.
        receiver
            .wait_for(|stage| !matches!(stage, Stage::Waiting))
            .await
            .map_or(Stage::Ended, |stage| stage.clone())
    }

    /// What it brings is not to be kept. `false`, as those who come now must not wait for it.
    pub(crate) fn doom(&self) -> bool {
        self.is_doomed.store(true, Ordering::Relaxed);
        false
    }
}

/// Leave to store what was fetched, unless it was invalidated since.
pub(crate) enum Ticket {
    Flight(Arc<Flight>),
    Epoch(u64),
}

impl Ticket {
    pub(crate) fn of(flight: &Arc<Flight>) -> Self {
        Self::Flight(Arc::clone(flight))
    }

    pub(crate) fn alone(epoch: u64) -> Self {
        Self::Epoch(epoch)
    }

    /// Asked under the shard's lock, under which invalidations happen too.
    pub(crate) fn is_valid(&self, epoch: u64) -> bool {
        match self {
            Self::Flight(flight) => !flight.is_doomed.load(Ordering::Relaxed),
            Self::Epoch(begun) => *begun == epoch,
        }
    }
}
