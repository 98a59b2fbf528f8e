//! The table of keys.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mainstay_site::plan::edge::{RateLimit, RateWindow};

use super::Verdict;
use crate::balance::random::mix;

/// Shards with a lock each.
const SHARDS: usize = 16;
/// Places that a key may be at.
const WAYS: usize = 8;
/// The longest time that an allowance may need to be whole again; longer windows are cut to it.
const LONGEST_NANOS: u64 = 366 * 24 * 3600 * 1_000_000_000;

/// A window, as times.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// What one request uses, as the time in which it grows again, rounded up: never more pass than the plan says.
    each_nanos: u64,
    /// What a whole allowance is, as such a time.
    whole_nanos: u64,
}

/// The limit's state for all keys; shared by all workers.
#[derive(Debug)]
pub struct RateTable {
    limit: RateLimit,
    windows: Vec<Window>,
    /// Guards the places of the keys that fall into the shard.
    shards: Box<[Mutex<Shard>]>,
    sets_per_shard: usize,
    began: Instant,
    seed: u64,
}

/// The places of a shard: a key each, and for each window of it the moment when its allowance is whole again, in
/// nanoseconds since the table began. A place whose moments have all passed is free.
#[derive(Debug)]
struct Shard {
    keys: Box<[u64]>,
    whole_at: Box<[u64]>,
}

impl RateTable {
    /// A table of at least so many places, each of 8 bytes and 8 more per window. The seed keeps strangers from
    /// choosing keys that share a place.
    pub fn new(limit: &RateLimit, places: usize, seed: u64, now: Instant) -> Self {
        let windows: Vec<Window> = limit.windows.iter().map(Window::new).collect();
        let sets_per_shard = places.div_ceil(SHARDS * WAYS).max(1);
        let shard = || {
            Mutex::new(Shard {
                keys: vec![0; sets_per_shard * WAYS].into(),
                whole_at: vec![0; sets_per_shard * WAYS * windows.len()].into(),
            })
        };
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { limit: limit.clone(), windows, shards, sets_per_shard, began: now, seed }
    }

    /// The limit that the table keeps. With an equal limit in a new plan the table goes on; with another it starts anew.
    pub fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Judges a request, and charges it if it may come in. `key` is the hash of what it is known by; equal for all
    /// requests where the limit has no key.
    pub fn check(&self, key: u64, now: Instant) -> Verdict {
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX / 2);
        let place = mix(key ^ self.seed);
        let shard = &self.shards[(place >> 60) as usize];
        let set = (((place & u64::from(u32::MAX)) * self.sets_per_shard as u64) >> 32) as usize;
        // A panic elsewhere leaves numbers that are still numbers.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let place = shard.find(key, set, self.windows.len(), now);
        let whole_at = &mut shard.whole_at[place.clone()];
        let verdict = judge(&self.windows, whole_at, now);
        if verdict.is_allowed() {
            for (window, whole_at) in self.windows.iter().zip(whole_at) {
                *whole_at = window.charged(*whole_at, now);
            }
        }
        verdict
    }
}

const _: () = assert!(SHARDS == 16, "four bits of a place choose the shard");

impl Window {
    fn new(window: &RateWindow) -> Self {
        let per_nanos = window.per_ms.max(1).saturating_mul(1_000_000).min(LONGEST_NANOS);
        if window.requests == 0 {
            return Self { each_nanos: per_nanos, whole_nanos: 0 };
        }
        let each_nanos = per_nanos.div_ceil(u64::from(window.requests));
        let whole_nanos = each_nanos.saturating_mul(u64::from(window.burst.max(1))).min(LONGEST_NANOS);
        Self { each_nanos, whole_nanos: whole_nanos.max(each_nanos) }
    }

    /// When the allowance will be whole again after one more request.
    fn charged(self, whole_at: u64, now: u64) -> u64 {
        whole_at.max(now) + self.each_nanos
    }
}

impl Shard {
    /// The moments of a key's place; of the place that is missed least, if it has none.
    fn find(&mut self, key: u64, set: usize, windows: usize, now: u64) -> std::ops::Range<usize> {
        let first = set * WAYS;
        let moments = |place: usize| place * windows..(place + 1) * windows;
        let latest = |place: usize| self.whole_at[moments(place)].iter().copied().max().unwrap_or(0);
        let mut least = (first, u64::MAX);
        for place in first..first + WAYS {
            let whole_at = latest(place);
            if self.keys[place] == key && whole_at > now {
                return moments(place);
            }
            if whole_at < least.1 {
                least = (place, whole_at);
            }
        }
        let (place, _) = least;
        self.keys[place] = key;
        self.whole_at[moments(place)].fill(0);
        moments(place)
    }
}

fn judge(windows: &[Window], whole_at: &[u64], now: u64) -> Verdict {
    let mut nearest = (0, u32::MAX, Duration::ZERO);
    let mut refused: Option<(usize, Duration)> = None;
    for (index, (window, whole_at)) in windows.iter().zip(whole_at).enumerate() {
        let used = window.charged(*whole_at, now) - now;
        if let Some(left) = window.whole_nanos.checked_sub(used) {
            let remaining = u32::try_from(left / window.each_nanos).unwrap_or(u32::MAX);
            if remaining < nearest.1 {
                nearest = (index, remaining, Duration::from_nanos(used));
            }
        } else {
            let retry_after = Duration::from_nanos(used - window.whole_nanos);
            if refused.is_none_or(|(_, longest)| retry_after > longest) {
                refused = Some((index, retry_after));
            }
        }
    }
    match refused {
        Some((window, retry_after)) => Verdict::Refused { window, retry_after },
        None => Verdict::Allowed { window: nearest.0, remaining: nearest.1, reset: nearest.2 },
    }
}
