//! Response-rate limiting: keeps the role from being used to flood somebody whose address was forged.
//!
//! Responses are counted per client network and kind of response, each with a bucket of tokens that refills at the
//! rate and holds one second's worth. What is over the rate is dropped, except that every other response goes out
//! truncated: a real client behind the forged address comes back over TCP, where addresses cannot be forged.
//! The table has a fixed size; under a flood from everywhere the networks heard of longest ago are forgotten.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use crate::answer::Kind;

/// Buckets in the table of one worker: 24 bytes each, 1.5 MiB.
const BUCKETS: usize = 1 << 16;
/// Buckets that share a place in the table.
const WAYS: usize = 4;
/// Every so many limited responses, one is sent truncated instead of dropped.
const SLIP: u32 = 2;
/// How much a bucket holds, as the time that it takes to fill.
const BURST: Duration = Duration::from_secs(1);

/// What is to become of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Send,
    /// Send it truncated, so that a real client asks again over TCP.
    Truncate,
    /// Send nothing.
    Drop,
}

/// A client's network as limits see it: an IPv4 /24 or an IPv6 /56.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network(u64);

impl Network {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(u32::from(address) >> 8)),
            // The 56 bits of the prefix, told from IPv4 by a bit above them.
            IpAddr::V6(address) => Self((u128::from(address) >> 72) as u64 | 1 << 56),
        }
    }
}

/// The limiter of one worker. Time is given as the duration since any fixed moment.
#[derive(Debug)]
pub struct Limiter<S = RandomState> {
    interval_nanos: u64,
    buckets: Box<[Bucket]>,
    hasher: S,
}

/// A bucket of tokens, kept as the moment at which it will be full again (the generic cell rate algorithm).
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    key: u64,
    full_at_nanos: u64,
    limited: u32,
}

impl Limiter {
    /// A limiter that lets so many responses per second through for each network and kind; 0 lets all through.
    pub fn new(responses_per_second: u32) -> Self {
        Self::with_hasher(responses_per_second, BUCKETS, RandomState::new())
    }
}

impl<S: BuildHasher> Limiter<S> {
    fn with_hasher(responses_per_second: u32, buckets: usize, hasher: S) -> Self {
        let (interval_nanos, buckets) = match u64::from(responses_per_second) {
            0 => (0, 0),
            rate => (1_000_000_000 / rate, buckets),
        };
        Self { interval_nanos, buckets: vec![Bucket::default(); buckets].into(), hasher }
    }

    /// Judges one response.
    pub fn judge(&mut self, client: IpAddr, kind: Kind, now: Duration) -> Verdict {
        if self.interval_nanos == 0 {
            return Verdict::Send;
        }
        let now = now.as_nanos() as u64;
        let interval = self.interval_nanos;
        // Never 0, which marks an empty bucket.
        let bucket = self.bucket(Network::of(client).0 << 3 | (kind as u64 + 1));
        let full_at = bucket.full_at_nanos.max(now) + interval;
        if full_at - now <= BURST.as_nanos() as u64 {
            bucket.full_at_nanos = full_at;
            bucket.limited = 0;
            return Verdict::Send;
        }
        bucket.limited = bucket.limited.wrapping_add(1);
        if bucket.limited.is_multiple_of(SLIP) { Verdict::Truncate } else { Verdict::Drop }
    }

    /// The bucket of a key: its own, or the emptiest of its place, which is the one that matters least.
    fn bucket(&mut self, key: u64) -> &mut Bucket {
        let places = self.buckets.len() / WAYS;
        let start = (self.hasher.hash_one(key) as usize % places) * WAYS;
        let place = &mut self.buckets[start..start + WAYS];
        let own = place.iter().position(|bucket| bucket.key == key);
        let index = own.unwrap_or_else(|| {
            let oldest = (0..WAYS).min_by_key(|index| place[*index].full_at_nanos).unwrap_or(0);
            place[oldest] = Bucket { key, ..Bucket::default() };
            oldest
        });
        &mut place[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "192.0.2.7";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn sent(limiter: &mut Limiter, client: &str, kind: Kind, at: Duration, count: usize) -> usize {
        (0..count).filter(|_| limiter.judge(ip(client), kind, at) == Verdict::Send).count()
    }

    #[test]
    fn a_client_within_the_rate_is_never_limited() {
        let mut limiter = Limiter::new(100);
        for tick in 0..1000 {
            let now = Duration::from_millis(10 * tick);
            assert_eq!(limiter.judge(ip(CLIENT), Kind::Answer, now), Verdict::Send);
        }
    }

    #[test]
    fn one_second_of_responses_passes_at_once_and_then_the_rate() {
        let mut limiter = Limiter::new(100);
        assert_eq!(sent(&mut limiter, CLIENT, Kind::Answer, Duration::ZERO, 500), 100);
        assert_eq!(sent(&mut limiter, CLIENT, Kind::Answer, Duration::from_millis(500), 500), 50);
        assert_eq!(sent(&mut limiter, CLIENT, Kind::Answer, Duration::from_mins(1), 500), 100);
    }

    #[test]
    fn every_other_limited_response_is_truncated() {
        let mut limiter = Limiter::new(1);
        let verdicts: Vec<Verdict> =
            (0..5).map(|_| limiter.judge(ip(CLIENT), Kind::NameError, Duration::ZERO)).collect();
        use Verdict::{Drop, Send, Truncate};
        assert_eq!(verdicts, [Send, Drop, Truncate, Drop, Truncate]);
    }

    #[test]
    fn neighbours_share_a_limit_and_strangers_do_not() {
        let mut limiter = Limiter::new(10);
        assert_eq!(sent(&mut limiter, "192.0.2.7", Kind::Answer, Duration::ZERO, 10), 10);
        assert_eq!(sent(&mut limiter, "192.0.2.200", Kind::Answer, Duration::ZERO, 10), 0);
        assert_eq!(sent(&mut limiter, "192.0.3.7", Kind::Answer, Duration::ZERO, 10), 10);
        assert_eq!(sent(&mut limiter, "2001:db8:0:0100::1", Kind::Answer, Duration::ZERO, 10), 10);
        assert_eq!(sent(&mut limiter, "2001:db8:0:01ff::2", Kind::Answer, Duration::ZERO, 10), 0);
        assert_eq!(sent(&mut limiter, "2001:db8:0:0200::1", Kind::Answer, Duration::ZERO, 10), 10);
    }

    #[test]
    fn a_flood_of_errors_leaves_answers_alone() {
        let mut limiter = Limiter::new(10);
        assert_eq!(sent(&mut limiter, CLIENT, Kind::Error, Duration::ZERO, 1000), 10);
        assert_eq!(sent(&mut limiter, CLIENT, Kind::Answer, Duration::ZERO, 10), 10);
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut limiter = Limiter::new(0);
        assert_eq!(sent(&mut limiter, CLIENT, Kind::Answer, Duration::ZERO, 1000), 1000);
    }

    #[test]
    fn a_flood_from_everywhere_does_not_free_the_client_that_floods_most() {
        let mut limiter = Limiter::with_hasher(10, 64, RandomState::new());
        let mut passed = 0;
        for round in 0..1000_u32 {
            passed += sent(&mut limiter, CLIENT, Kind::Answer, Duration::from_millis(u64::from(round)), 10);
            let stranger = IpAddr::from((round << 8 | 1).to_be_bytes());
            limiter.judge(stranger, Kind::Answer, Duration::from_millis(u64::from(round)));
        }
        // One second went by: the burst and the rate, of 10,000 asked for.
        assert!(passed <= 21, "{passed} passed");
    }
}
