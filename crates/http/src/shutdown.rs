//! The signal to stop, shared by everyone who has to hear it.

use std::sync::Arc;

use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not asked to stop.
    Running,
    /// Accept nothing new, finish what is in flight.
    Draining,
    /// Drop everything.
    Ended,
}

/// Asks servers to stop. Clones are the same signal; it may cross threads.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<Phase>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Running)))
    }
}

impl Shutdown {
    /// A signal that was not given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to accept nothing new and to finish what is in flight.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Asks to drop everything at once.
    pub fn end(&self) {
        self.advance(Phase::Ended);
    }

    /// How far the end has come.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until at least this phase is reached.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = to.max(*phase);
            forward
        });
    }
}
