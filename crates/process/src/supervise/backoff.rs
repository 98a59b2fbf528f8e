//! How long to wait before a child that fell is started again.

use std::time::Duration;

/// A child that was ready for this long has recovered: its next fall counts as the first.
pub const RECOVERED_AFTER: Duration = Duration::from_secs(10);
/// After this many falls in a row a child counts as failed. It is still started again, every [`LONGEST`].
pub const FALLS_UNTIL_FAILED: u32 = 5;
/// The wait after the second fall in a row; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Counts falls in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    falls: u32,
}

impl Backoff {
    /// The child fell after having been ready for `ready_for`. Answers how long to wait: nothing the first time.
    pub fn fell(&mut self, ready_for: Option<Duration>) -> Duration {
        if ready_for.is_some_and(|time| time >= RECOVERED_AFTER) {
            self.falls = 0;
        }
        self.falls = self.falls.saturating_add(1);
        match self.falls {
            1 => Duration::ZERO,
            more => FIRST_WAIT.saturating_mul(1_u32 << (more - 2).min(16)).min(LONGEST),
        }
    }

    /// Someone changed what is to run: old falls say nothing about it.
    pub fn forget(&mut self) {
        self.falls = 0;
    }

    /// Falls in a row.
    pub fn falls(&self) -> u32 {
        self.falls
    }

    /// Whether the child falls again and again.
    pub fn is_failed(&self) -> bool {
        self.falls >= FALLS_UNTIL_FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_twice_as_long_each_up_to_ten_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..10).map(|_| backoff.fell(None).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert!(backoff.is_failed());
    }

    #[test]
    fn a_child_that_was_ready_for_ten_seconds_starts_over_with_its_falls() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.fell(Some(Duration::from_secs(9)));
        }
        assert_eq!(backoff.fell(Some(Duration::from_secs(10))), Duration::ZERO);
        assert_eq!(backoff.falls(), 1);
    }
}
