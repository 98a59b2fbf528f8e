//! When a holder of a lease renews it, and when it must stop acting as its holder. No I/O and no clock: time is passed in.

use std::time::{Duration, Instant};

/// The holder's own view of its lease.
///
/// The server counts the time to live from when the renewal reached it, which the holder cannot know; it cannot be before the
/// renewal was sent. So the holder counts from the *sending* of the last renewal that was answered well, and ends early.
/// Whatever else happens to a renewal (an error, a member without a leader, no answer) counts as not renewed.
///
/// The instants must come from a monotonic clock, one that no one sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseClock {
    ttl: Duration,
    renewed: Instant,
    attempted: Instant,
}

impl LeaseClock {
    /// A lease that was granted with `ttl` upon a request that was sent at `sent`.
    pub fn granted(ttl: Duration, sent: Instant) -> Self {
        Self { ttl, renewed: sent, attempted: sent }
    }

    /// A renewal is being sent now.
    pub fn sending(&mut self, now: Instant) {
        self.attempted = self.attempted.max(now);
    }

    /// The renewal that was sent at `sent` was answered well, with the time to live that the server gave. An answer that
    /// comes late, after that of a later renewal, takes nothing back.
    pub fn renewed(&mut self, sent: Instant, ttl: Duration) {
        if sent >= self.renewed {
            self.renewed = sent;
            self.ttl = ttl;
        }
        self.attempted = self.attempted.max(sent);
    }

    /// The time to live that the server gave last.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When the last renewal that was answered well had been sent.
    pub fn last_renewed(&self) -> Instant {
        self.renewed
    }

    /// When the lease may have ended, at the earliest.
    pub fn expires_at(&self) -> Instant {
        self.renewed + self.ttl
    }

    /// From when on the holder must no longer act as such: two thirds of the time to live, so that the last third is for the
    /// fence itself and for clocks that do not run alike.
    pub fn fence_at(&self) -> Instant {
        self.renewed + self.ttl * 2 / 3
    }

    /// Whether the holder must fence itself.
    pub fn must_fence(&self, now: Instant) -> bool {
        now >= self.fence_at()
    }

    /// What is left until the lease may have ended.
    pub fn left(&self, now: Instant) -> Duration {
        self.expires_at().saturating_duration_since(now)
    }

    /// When the next renewal is to be sent: a sixth of the time to live after the last attempt, whatever became of that.
    pub fn next_renewal(&self) -> Instant {
        self.attempted + self.ttl / 6
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(2);

    #[test]
    fn time_is_counted_from_the_sending_of_the_last_good_renewal() {
        let start = Instant::now();
        let mut clock = LeaseClock::granted(TTL, start);
        clock.sending(start + Duration::from_millis(400));
        assert_eq!(clock.left(start + Duration::from_millis(700)), Duration::from_millis(1300));
        clock.renewed(start + Duration::from_millis(400), TTL);
        assert_eq!(clock.left(start + Duration::from_millis(700)), Duration::from_millis(1700));
    }

    #[test]
    fn renewals_that_fail_are_tried_again_but_do_not_put_the_fence_off() {
        let start = Instant::now();
        let mut clock = LeaseClock::granted(TTL, start);
        let mut now = start;
        let mut attempts = 0;
        while !clock.must_fence(now) {
            now = clock.next_renewal();
            clock.sending(now);
            attempts += 1;
        }
        assert_eq!(clock.fence_at(), start + TTL * 2 / 3);
        assert_eq!(attempts, 5, "every third of a second until 1.33 s have passed");
    }

    #[test]
    fn a_late_answer_takes_nothing_back() {
        let start = Instant::now();
        let mut clock = LeaseClock::granted(TTL, start);
        clock.renewed(start + Duration::from_millis(600), TTL);
        let expires = clock.expires_at();
        clock.renewed(start + Duration::from_millis(300), TTL);
        assert_eq!(clock.expires_at(), expires);
    }

    proptest! {
        /// Whatever order of renewals and delays: the holder fences itself before the server can let the lease pass on.
        #[test]
        fn the_holder_ends_before_the_server(
            renewals in proptest::collection::vec((1u64..2_000, 0u64..500, any::<bool>()), 0..40),
        ) {
            let start = Instant::now();
            let mut clock = LeaseClock::granted(TTL, start);
            let mut server_ends = start + TTL;
            let mut now = start;
            for (pause, delay, answered) in renewals {
                now += Duration::from_millis(pause);
                clock.sending(now);
                let arrives = now + Duration::from_millis(delay);
                if arrives >= server_ends {
                    break;
                }
                server_ends = server_ends.max(arrives + TTL);
                if answered {
                    clock.renewed(now, TTL);
                }
                prop_assert!(clock.expires_at() <= server_ends);
                prop_assert!(clock.fence_at() < clock.expires_at());
                prop_assert!(clock.must_fence(clock.fence_at()));
            }
        }
    }
}
