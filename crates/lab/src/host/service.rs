//! A program that a host's first process keeps running, and when it is started again: a pure decision.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One service of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    /// Names its log and its descriptor store.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// Anything; a change restarts the service. Carries the binary's digest.
    pub(crate) version: String,
    /// Leaves its children running when it ends: only itself is killed for a new version.
    pub(crate) adopts: bool,
}

/// How long after its start a service counts as stable.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The longest pause before a start.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// When a service that ended is started again: at once, unless it keeps ending soon after its start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    short_lives: u32,
}

impl Pace {
    /// The pause before the next start of a service that lived so long.
    pub(crate) fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived >= STABLE_AFTER {
            self.short_lives = 0;
            return Duration::ZERO;
        }
        self.short_lives = self.short_lives.saturating_add(1);
        let pause =
            Duration::from_millis(100) * 2_u32.saturating_pow(self.short_lives.saturating_sub(2).min(16));
        if self.short_lives == 1 { Duration::ZERO } else { pause.min(LONGEST_PAUSE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_restarts_at_once_and_a_crash_loop_slows_down_to_a_bound() {
        let mut pace = Pace::default();
        let soon = Duration::from_millis(10);
        assert_eq!(pace.pause_after(soon), Duration::ZERO);
        assert_eq!(pace.pause_after(soon), Duration::from_millis(100));
        assert_eq!(pace.pause_after(soon), Duration::from_millis(200));
        for _ in 0..100 {
            assert!(pace.pause_after(soon) <= LONGEST_PAUSE);
        }
        assert_eq!(pace.pause_after(Duration::from_mins(1)), Duration::ZERO);
        assert_eq!(pace.pause_after(soon), Duration::ZERO);
    }
}
