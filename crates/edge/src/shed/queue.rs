//! A bounded queue that stays short in time.
//!
//! A queue is for bursts: while it empties now and then, a request may wait in it for the whole time allowed. A queue that
//! was not empty for half of that time does not take up a burst but only adds its length to every latency
//! (`CoDel`, RFC 8289). It then lets requests wait for a quarter of the time allowed only, and takes the newest first: those are the ones whose
//! clients are still there (as Facebook describes in "Fail at Scale", 2015).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A queue that was not empty for this share of the time allowed is a standing one.
const STANDING_SHARE: u32 = 2;
/// But none is sooner than this: a stall of a moment is not overload.
const LEAST_STANDING: Duration = Duration::from_millis(100);
/// The share of the time allowed that a request waits in a standing queue.
const TARGET_SHARE: u32 = 4;
/// The least of it.
const LEAST_TARGET: Duration = Duration::from_millis(20);

/// What becomes of a request that waited.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// It goes ahead.
    Go(T),
    /// It waited for too long and is turned away.
    Shed(T),
}

/// Requests that wait for room, whatever room it is: under a limit, or at an upstream.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: VecDeque<(Instant, T)>,
    most: usize,
    longest_wait: Duration,
    last_empty: Instant,
}

impl<T> Queue<T> {
    /// A queue for so many requests, each of which waits for `longest_wait` at most.
    pub fn new(most: usize, longest_wait: Duration, now: Instant) -> Self {
        Self { waiting: VecDeque::new(), most, longest_wait, last_empty: now }
    }

    /// Takes over new bounds; those who wait go on waiting.
    pub fn set_bounds(&mut self, most: usize, longest_wait: Duration) {
        self.most = most;
        self.longest_wait = longest_wait;
    }

    /// Lets a request wait, or gives it back if there is no room.
    pub fn push(&mut self, request: T, now: Instant) -> Result<(), T> {
        if self.waiting.len() >= self.most {
            return Err(request);
        }
        if self.waiting.is_empty() {
            self.last_empty = now;
        }
        self.waiting.push_back((now, request));
        Ok(())
    }

    /// What is to be done next, given whether there is room for one more; `None` if nothing is. Requests that waited for
    /// too long come first.
    pub fn next(&mut self, room: bool, now: Instant) -> Option<Next<T>> {
        let (since, _) = self.waiting.front()?;
        if now.saturating_duration_since(*since) >= self.most_wait(now) {
            let (_, request) = self.waiting.pop_front()?;
            return Some(Next::Shed(request));
        }
        if !room {
            return None;
        }
        let (_, request) =
            if self.is_standing(now) { self.waiting.pop_back()? } else { self.waiting.pop_front()? };
        Some(Next::Go(request))
    }

    /// When the oldest request has waited for too long.
    pub fn next_due(&self) -> Option<Instant> {
        let (since, _) = self.waiting.front()?;
        let patient = *since + self.longest_wait;
        // It becomes a standing queue on the way, and then wants to be looked at.
        let standing = (self.last_empty + self.standing()).max(*since + self.target());
        Some(patient.min(standing))
    }

    /// How long a request may wait now.
    pub fn most_wait(&self, now: Instant) -> Duration {
        if self.is_standing(now) { self.target() } else { self.longest_wait }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_standing(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_empty) >= self.standing()
    }

    fn standing(&self) -> Duration {
        (self.longest_wait / STANDING_SHARE).max(LEAST_STANDING)
    }

    fn target(&self) -> Duration {
        (self.longest_wait / TARGET_SHARE).max(LEAST_TARGET).min(self.longest_wait)
    }
}
