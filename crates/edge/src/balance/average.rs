//! Moving averages of latency that believe bad news at once and good news slowly.
//!
//! As in Finagle and Linkerd ("peak EWMA"), a latency above the average replaces it, and one below draws it down by the
//! time that went by. What is old counts for less: an upstream of which nothing was heard for long is taken to be like
//! the mean of its group, so that a slow one is tried again, and neither it nor a fresh one is flooded as if it were
//! infinitely fast.

use std::time::{Duration, Instant};

/// After this time an observation counts for 1/e.
const MEMORY: Duration = Duration::from_secs(10);
/// What is assumed before anything was observed.
const UNKNOWN_SECS: f64 = 0.03;

/// A moving average. All values are in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct PeakAverage {
    /// The average, and when it was last observed.
    observed: Option<(f64, Instant)>,
}

impl PeakAverage {
    /// What is to be expected now, given the mean of the group.
    pub fn estimate(&self, mean: &PeakAverage, now: Instant) -> f64 {
        let mean = mean.observed.map_or(UNKNOWN_SECS, |(seconds, _)| seconds);
        match self.observed {
            None => mean,
            Some((seconds, at)) => mean + (seconds - mean) * remains(at, now),
        }
    }

    /// Takes in a latency, bad news at once.
    pub fn observe(&mut self, latency: Duration, mean: &PeakAverage, now: Instant) {
        let latency = latency.as_secs_f64();
        let average = match self.observed {
            Some((seconds, at)) if latency < seconds => {
                // What is old fades towards the mean first, and never below what was just seen.
                let faded = self.estimate(mean, now).clamp(latency, seconds);
                faded * remains(at, now) + latency * (1.0 - remains(at, now))
            }
            _ => latency,
        };
        self.observed = Some((average, now));
    }

    /// Takes in a latency as any average does.
    pub fn observe_evenly(&mut self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let average = match self.observed {
            Some((seconds, at)) => seconds * remains(at, now) + latency * (1.0 - remains(at, now)),
            None => latency,
        };
        self.observed = Some((average, now));
    }
}

/// How much of an observation remains.
fn remains(at: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).as_secs_f64() / MEMORY.as_secs_f64()).exp()
}
