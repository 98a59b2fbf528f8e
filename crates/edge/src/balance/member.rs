//! What a balancer knows of one upstream.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use mainstay_site::plan::edge::Upstream;

use super::Summary;
use super::average::PeakAverage;

/// A whole weight, in the thousandths that slow start counts in.
pub(super) const WHOLE: u64 = 1000;
/// The share of its weight that an upstream begins with, in thousandths.
const FIRST_SHARE: u64 = WHOLE / 10;
/// A failure is held to have taken at least so long, so that one who fails fast is not the fastest.
const FAILURE: Duration = Duration::from_millis(100);
/// A failure is held to have taken at most so long.
const LONGEST: Duration = Duration::from_secs(10);

/// An upstream, known by name and address: the same in every worker and in every plan that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(u64);

impl UpstreamId {
    /// The id of an upstream of a plan.
    pub fn of(upstream: &Upstream) -> Self {
        Self::new(&upstream.name, &upstream.address.to_string())
    }

    fn new(name: &str, address: &str) -> Self {
        let digest = digest(&SHA256, format!("{address} {name}").as_bytes());
        let bytes = digest.as_ref().first_chunk().expect("a SHA-256 digest has 32 bytes");
        Self(u64::from_be_bytes(*bytes))
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// A request in flight at an upstream.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the upstream counts it as in flight until it is given back"]
pub struct InFlight {
    pub(super) index: u32,
    /// The upstream.
    pub upstream: UpstreamId,
}

/// How willingly an upstream is used for a request: the lower, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tier(u8);

impl Tier {
    /// Not at all.
    pub(super) const NONE: Self = Self(u8::MAX);

    pub(super) fn of(backup: bool, ready: bool, tried: bool) -> Self {
        Self(u8::from(!ready) << 2 | u8::from(tried) << 1 | u8::from(backup))
    }

    pub(super) fn is_panic(self) -> bool {
        self.0 >= 1 << 2
    }
}

/// The share of its weight that an upstream has which came up then, in thousandths.
pub(super) fn warmth(came_up: Option<Instant>, slow_start: Duration, now: Instant) -> u64 {
    let Some(came_up) = came_up else { return WHOLE };
    let up_for = now.saturating_duration_since(came_up);
    if up_for >= slow_start {
        return WHOLE;
    }
    let grown = (WHOLE - FIRST_SHARE) as f64 * up_for.as_secs_f64() / slow_start.as_secs_f64();
    FIRST_SHARE + grown as u64
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: UpstreamId,
    pub(super) weight: u32,
    pub(super) backup: bool,
    pub(super) drain: bool,
    pub(super) in_flight: u32,
    pub(super) came_up: Option<Instant>,
    pub(super) average: PeakAverage,
    /// What it has gained and not yet paid in smooth round robin.
    pub(super) turn: i64,
    /// Its tier for the request that is being placed.
    pub(super) tier: Tier,
    /// Its effective weight for the request that is being placed, in thousandths.
    pub(super) share: u64,
    /// Failures in a row.
    pub(super) streak: u32,
    requests: u32,
    latency: Duration,
}

impl Member {
    pub(super) fn new(upstream: &Upstream) -> Self {
        Self {
            id: UpstreamId::of(upstream),
            weight: upstream.weight,
            backup: upstream.backup,
            drain: upstream.drain,
            in_flight: 0,
            came_up: None,
            average: PeakAverage::default(),
            turn: 0,
            tier: Tier::NONE,
            share: 0,
            streak: 0,
            requests: 0,
            latency: Duration::ZERO,
        }
    }

    /// Goes on where the same upstream was in the plan before.
    pub(super) fn inherit(&mut self, old: &Self, now: Instant) {
        self.in_flight = old.in_flight;
        self.came_up = old.came_up;
        self.average = old.average;
        self.turn = old.turn;
        self.streak = old.streak;
        self.requests = old.requests;
        self.latency = old.latency;
        let was_out = old.drain || old.weight == 0;
        if was_out && !self.drain {
            self.came_up = Some(now);
        }
    }

    /// The share of its weight that it has, in thousandths.
    pub(super) fn warmth(&self, slow_start: Duration, now: Instant) -> u64 {
        warmth(self.came_up, slow_start, now)
    }

    pub(super) fn effective_weight(&self, slow_start: Duration, now: Instant) -> u64 {
        u64::from(self.weight) * self.warmth(slow_start, now)
    }

    /// Compares requests in flight by weight.
    pub(super) fn compare_load(&self, other: &Self) -> Ordering {
        (u64::from(self.in_flight) * other.share).cmp(&(u64::from(other.in_flight) * self.share))
    }

    pub(super) fn answered(&mut self, latency: Duration, mean: &PeakAverage, now: Instant) {
        self.average.observe(latency, mean, now);
        self.streak = 0;
        self.requests = self.requests.saturating_add(1);
        self.latency = self.latency.saturating_add(latency);
    }

    pub(super) fn failed(&mut self, mean: &PeakAverage, now: Instant) {
        self.streak = self.streak.saturating_add(1);
        let doubled =
            Duration::from_secs_f64(2.0 * self.average.estimate(mean, now).min(LONGEST.as_secs_f64()));
        self.average.observe(doubled.clamp(FAILURE, LONGEST), mean, now);
    }

    pub(super) fn waited(&mut self, waited: Duration, mean: &PeakAverage, now: Instant) {
        if waited.as_secs_f64() > self.average.estimate(mean, now) {
            self.average.observe(waited, mean, now);
        }
    }

    pub(super) fn take_summary(&mut self) -> Option<Summary> {
        let summary = Summary { upstream: self.id, requests: self.requests, latency: self.latency };
        (self.requests, self.latency) = (0, Duration::ZERO);
        (summary.requests > 0).then_some(summary)
    }
}
