//! How much is taken on at once.
//!
//! An upstream that is asked for more than it can do gets slower for everybody, until all answers come too late and it works for
//! nothing. So each worker learns, per group, how many requests in flight the upstreams bear ([`Limit`]), lets a few wait
//! for their turn ([`Queue`]), and turns the rest away at once with 503 and `Retry-After`, which costs next to nothing. [`Shedder`]
//! is both together.
//!
//! What must not be counted: requests that are slow because they wait, not because the upstream works, such as long
//! polls, event streams and `WebSocket`s. The time until the head of the response is what is learnt from, so streams and
//! upgrades harm nothing as long as their heads come at once. A long poll, whose head itself waits, is excluded: a route
//! without a time limit (`timeout_ms` 0) does not go through a shedder, and a long poll with a limit belongs into a
//! group of its own, or gets a limit of its own by the route's `concurrent`. One that slips in is taken for
//! slowness: the limit falls towards its floor ([`LEAST_LIMIT`]) and recovers when it is gone.

mod limit;
mod queue;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use crate::balance::random::Random;

pub use self::limit::{LEAST_LIMIT, Limit, MOST_LIMIT, next_half_minute};
pub use self::queue::{Next, Queue};

/// What becomes of a request that comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It goes ahead, and counts as in flight until [`Shedder::finished`].
    Go,
    /// It waits: [`Shedder::wait`].
    Wait,
}

/// Why a request was turned away; a label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// The queue is full.
    QueueFull,
    /// It waited for too long.
    QueueTime,
}

impl Shed {
    /// Its label.
    pub fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::QueueTime => "queue_time",
        }
    }
}

/// Seconds after which a client that was turned away may try again, on average.
pub const RETRY_AFTER_SECS: u32 = 2;

/// Lets as many requests ahead as the upstreams bear, for one group and one worker. `T` is what stands for a waiting
/// request, such as the sending half of a channel.
#[derive(Debug)]
pub struct Shedder<T> {
    limit: Limit,
    queue: Queue<T>,
    in_flight: u32,
    random: Random,
}

impl<T> Shedder<T> {
    /// A shedder whose queue holds `queue` requests for `longest_wait` at most. All workers make theirs at about the
    /// same time, with different seeds.
    pub fn new(queue: usize, longest_wait: Duration, seed: u64, now: Instant) -> Self {
        Self {
            limit: Limit::new(now),
            queue: Queue::new(queue, longest_wait, now),
            in_flight: 0,
            random: Random::new(seed),
        }
    }

    /// Sets when the limit is next learnt anew; from then on it is every 30 s. All workers and edges that share upstreams
    /// must give the same moment, such as the next full half minute of the wall clock; those made at the same time agree
    /// by themselves.
    pub fn learn_at(&mut self, at: Instant) {
        self.limit.learn_at(at);
    }

    /// Takes over new bounds of the queue; those who wait go on waiting.
    pub fn set_bounds(&mut self, queue: usize, longest_wait: Duration) {
        self.queue.set_bounds(queue, longest_wait);
    }

    /// Asks whether a request may go ahead. Nobody overtakes those that wait.
    pub fn admit(&mut self) -> Admission {
        if self.queue.is_empty() && self.in_flight < self.limit.limit() {
            self.in_flight += 1;
            return Admission::Go;
        }
        Admission::Wait
    }

    /// Lets a request wait. It is given back if there is no room for it: turn it away ([`Shed::QueueFull`]).
    pub fn wait(&mut self, request: T, now: Instant) -> Result<(), T> {
        self.queue.push(request, now)
    }

    /// A request that went ahead ended. `latency` is the time from when it went ahead until the head of its response;
    /// `None` if it had none (failed, or its client left), or is not to be learnt from.
    pub fn finished(&mut self, latency: Option<Duration>, now: Instant) {
        self.limit.observe(latency, self.in_flight, now);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A request that went ahead waits for its own client, and does not count as in flight until [`Shedder::resume`].
    pub fn pause(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// It goes on.
    pub fn resume(&mut self) {
        self.in_flight += 1;
    }

    /// What is to be done with waiting requests; call it after [`Shedder::finished`], [`Shedder::pause`] and at
    /// [`Shedder::next_due`], until it returns `None`. A request that it lets ahead counts as in flight: if its client has left
    /// meanwhile, call [`Shedder::finished`] with `None`.
    pub fn next(&mut self, now: Instant) -> Option<Next<T>> {
        let room = self.in_flight < self.limit.limit();
        let next = self.queue.next(room, now)?;
        if matches!(next, Next::Go(_)) {
            self.in_flight += 1;
        }
        Some(next)
    }

    /// When a waiting request has waited for too long.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    /// `Retry-After` for one that was turned away: about [`RETRY_AFTER_SECS`], so that not all come back together.
    pub fn retry_after_secs(&mut self) -> u32 {
        1 + self.random.below(u64::from(2 * RETRY_AFTER_SECS - 1)) as u32
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit.limit()
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}
