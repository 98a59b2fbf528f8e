//! How many requests in flight the upstreams bear, learnt from latency.
//!
//! Latency is looked at in windows. The least that a window's mean was is what a request takes when it does not wait
//! (the *base*). While windows stay near the base, the limit grows; when they are over [`TOLERANCE`] times the base, requests
//! wait for each other at the upstreams, and the limit shrinks in proportion, as in Netflix' gradient limits. It is
//! touched only when it is felt: a slow answer to a group with little to do says nothing about how much it bears.
//!
//! As upstreams change, the base must be learnt anew. Were it just to rise slowly, it would follow the very latency that a
//! too high limit makes. So, as in Envoy, the limit is lowered every [`RELEARN`] for one window, in which requests do not
//! wait for each other, and that window's mean is the new base. All workers, and all edges that share upstreams, must do
//! so at the same time: were it one after the other, each would learn a base with the others' load in it, and under
//! overload that lasts for minutes they would drive each other up ([`Limit::learn_at`]).

use std::time::{Duration, Instant};

/// The lowest limit of a worker and group.
pub const LEAST_LIMIT: u32 = 8;
/// The highest.
pub const MOST_LIMIT: u32 = 4096;
/// Where it begins.
const FIRST_LIMIT: f64 = 64.0;
/// So much over the base is no sign of overload.
const TOLERANCE: f64 = 1.5;
/// A window lasts for so long at least, and until it has [`WINDOW_SAMPLES`].
const WINDOW: Duration = Duration::from_millis(100);
/// Samples that a window needs.
const WINDOW_SAMPLES: u32 = 30;
/// A window that has too few samples after this time is thrown away.
const STALE: Duration = Duration::from_secs(10);
/// Single samples over this many times the base count for no more than that: they are slow for reasons of their own.
const OUTLIER: f64 = 8.0;
/// The base is learnt anew about so often.
const RELEARN: Duration = Duration::from_secs(30);
/// The share of the limit that is used meanwhile.
const RELEARN_SHARE: f64 = 0.25;
/// How much of a window's verdict is followed.
const SMOOTHING: f64 = 0.3;

/// The moment of the next full half minute of the wall clock (its time since 1970), at which all who share upstreams
/// learn anew. Their clocks may differ by a fraction of a second.
pub fn next_half_minute(wall: Duration, now: Instant) -> Instant {
    let into = wall.as_nanos() % RELEARN.as_nanos();
    // Less than 30 s in nanoseconds.
    now + (RELEARN - Duration::from_nanos(into as u64))
}

/// The limit of one group, for one worker.
#[derive(Debug)]
pub struct Limit {
    most: f64,
    /// Seconds of a request that does not wait; none until the first window.
    base: Option<f64>,
    window: Window,
    phase: Phase,
    relearn_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    samples: u32,
    sum: f64,
    most_in_flight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Grows quickly until the first sign of overload.
    Starting,
    Following,
    /// The limit is lowered; those of before must go out first, until then.
    Emptying(Instant),
    /// This window is the base.
    Learning,
}

impl Limit {
    /// A limit that knows nothing yet. Workers make theirs at the same time, because they learn anew together.
    pub fn new(now: Instant) -> Self {
        Self {
            most: FIRST_LIMIT,
            base: None,
            window: Window::new(now),
            phase: Phase::Starting,
            relearn_at: now + RELEARN,
        }
    }

    /// Sets when the base is next learnt anew; from then on it is every 30 s.
    pub fn learn_at(&mut self, at: Instant) {
        self.relearn_at = at;
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> u32 {
        let share = match self.phase {
            Phase::Emptying(_) | Phase::Learning => RELEARN_SHARE,
            Phase::Starting | Phase::Following => 1.0,
        };
        ((self.most * share) as u32).max(LEAST_LIMIT)
    }

    /// Takes in the latency of a request that ended, if it says anything, and how many were in flight with it.
    pub fn observe(&mut self, latency: Option<Duration>, in_flight: u32, now: Instant) {
        self.window.most_in_flight = self.window.most_in_flight.max(in_flight);
        if let Some(latency) = latency {
            let latency = latency.as_secs_f64();
            let most = self.base.map_or(f64::MAX, |base| base * OUTLIER);
            self.window.samples += 1;
            self.window.sum += latency.min(most);
        }
        let lasted = now.saturating_duration_since(self.window.began);
        match self.phase {
            Phase::Emptying(until) if now >= until => {
                self.phase = Phase::Learning;
                self.window = Window::new(now);
            }
            Phase::Emptying(_) => {}
            _ if self.window.samples >= WINDOW_SAMPLES && lasted >= WINDOW => self.judge(now),
            _ if lasted >= STALE => self.window = Window::new(now),
            _ => {}
        }
    }

    fn judge(&mut self, now: Instant) {
        let window = std::mem::replace(&mut self.window, Window::new(now));
        let mean = window.sum / f64::from(window.samples);
        if self.phase == Phase::Learning {
            self.base = Some(mean);
            self.phase = Phase::Following;
            return;
        }
        let base = self.base.map_or(mean, |base| base.min(mean)).max(1e-6);
        self.base = Some(base);
        if now >= self.relearn_at {
            // What is in flight now goes out within about its latency; other workers notice within their windows.
            let out = Duration::from_secs_f64((2.0 * mean).min(5.0));
            self.phase = Phase::Emptying((self.relearn_at + WINDOW * 2).max(now) + out);
            while self.relearn_at <= now {
                self.relearn_at += RELEARN;
            }
            return;
        }
        let felt = f64::from(window.most_in_flight) >= self.most * 0.8;
        if !felt {
            return;
        }
        let gradient = (TOLERANCE * base / mean).clamp(0.5, 1.0);
        if gradient < 1.0 {
            self.phase = Phase::Following;
        }
        let wanted = match self.phase {
            Phase::Starting => self.most * 2.0,
            _ => self.most * gradient + self.most.sqrt(),
        };
        let limit = self.most + SMOOTHING * (wanted - self.most);
        self.most = limit.clamp(f64::from(LEAST_LIMIT), f64::from(MOST_LIMIT));
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { began: now, samples: 0, sum: 0.0, most_in_flight: 0 }
    }
}
