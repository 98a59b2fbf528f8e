//! How many retries a group bears.

use std::time::Instant;

/// Seconds that are looked back on.
const SECONDS: usize = 10;
/// Retries that are always allowed, for each second looked back on: without them a site with little to do had none.
const ALWAYS_PER_SECOND: u64 = 3;

/// The requests and retries of the last ten seconds of one group, in one worker.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    began: Instant,
    /// The second that the newest slot is of.
    second: u64,
    slots: [Slot; SECONDS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// A budget of so many per cent of the requests.
    pub fn new(percent: u32, now: Instant) -> Self {
        Self { percent: u64::from(percent), began: now, second: 0, slots: [Slot::default(); SECONDS] }
    }

    /// Takes over a new percentage; what was counted stays.
    pub fn set_percent(&mut self, percent: u32) {
        self.percent = u64::from(percent);
    }

    /// A request came (its first try).
    pub fn request(&mut self, now: Instant) {
        self.slot(now).requests += 1;
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let left = self.left(now) > 0;
        if left {
            self.slot(now).retries += 1;
        }
        left
    }

    /// Retries that are left.
    pub fn left(&mut self, now: Instant) -> u64 {
        self.slot(now);
        let (requests, retries) = self
            .slots
            .iter()
            .fold((0, 0), |(requests, retries), slot| (requests + slot.requests, retries + slot.retries));
        (ALWAYS_PER_SECOND * SECONDS as u64 + requests * self.percent / 100).saturating_sub(retries)
    }

    /// The slot of now; those of seconds that went by without a request are emptied.
    fn slot(&mut self, now: Instant) -> &mut Slot {
        let second = now.saturating_duration_since(self.began).as_secs().max(self.second);
        let passed = (second - self.second).min(SECONDS as u64);
        for back in 0..passed {
            self.slots[((second - back) % SECONDS as u64) as usize] = Slot::default();
        }
        self.second = second;
        &mut self.slots[(second % SECONDS as u64) as usize]
    }
}
