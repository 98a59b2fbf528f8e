//! Passive health: upstreams that fail requests, or are slow, are left out for a while.
//!
//! Who is put out stays out for `base_ms`, the next time twice as long, and so on up to `most_ms`; each `base_ms` of good
//! behaviour takes one doubling back. It returns on probation: one request shows whether it is well again, and if that
//! fails, it is out for the next longer time. Where nobody sends that request, it returns after another `base_ms`.

use std::time::{Duration, Instant};

use mainstay_site::plan::edge::OutlierPlan;

use super::{Cause, Reason};

/// How often latencies are compared.
const COMPARED_EVERY: Duration = Duration::from_secs(10);
/// Fewer requests say nothing of an upstream's latency.
const LEAST_REQUESTS: u64 = 20;
/// Fewer upstreams have no median worth the name.
const LEAST_UPSTREAMS: usize = 3;
/// Slower than the median by less than this is never held against an upstream.
const LEAST_DIFFERENCE: Duration = Duration::from_millis(5);
/// So many comparisons in a row must find an upstream slow.
const SLOW_IN_A_ROW: u32 = 2;
/// How long a refused upstream without active checks is out the first time, and at most.
const REFUSED: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// A probing request of which nothing is heard for so long frees the upstream for another one.
const PROBE_LOST: Duration = Duration::from_secs(10);
/// Doublings beyond which the longest time is reached whatever it is.
const MOST_DOUBLINGS: u32 = 20;

/// Where an upstream stands in passive health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It takes part.
    In,
    /// It is out.
    Out {
        /// Why.
        cause: Cause,
        /// Until then.
        until: Instant,
    },
    /// It may get one request.
    Probation,
    /// That request is on its way.
    Probing,
}

#[derive(Debug, Clone)]
struct Member {
    standing: Standing,
    since: Instant,
    /// How often it was put out, less what good behaviour took back.
    times: u32,
    refusals: u32,
    requests: u64,
    latency: Duration,
    slow: u32,
}

/// The machine of a group. Upstreams are known by their index.
#[derive(Debug)]
pub struct Outlier {
    plan: Option<OutlierPlan>,
    members: Vec<Member>,
    compare_at: Instant,
}

impl Outlier {
    /// A machine of so many upstreams, all in. Without a plan only refused connections put anyone out.
    pub fn new(plan: Option<OutlierPlan>, upstreams: usize, now: Instant) -> Self {
        let members = vec![Member::new(now); upstreams];
        Self { plan, members, compare_at: now + COMPARED_EVERY }
    }

    /// Takes over a new plan; `kept` gives for each new index the old one of the same upstream.
    pub fn replan(&mut self, plan: Option<OutlierPlan>, kept: &[Option<usize>], now: Instant) {
        let old = |place: &Option<usize>| place.and_then(|place| self.members.get(place).cloned());
        self.members = kept.iter().map(|place| old(place).unwrap_or_else(|| Member::new(now))).collect();
        self.plan = plan;
    }

    /// Where an upstream stands, and since when.
    pub fn standing(&self, index: usize) -> (&Standing, Instant) {
        let member = &self.members[index];
        (&member.standing, member.since)
    }

    /// Whether an upstream is out, or on probation.
    pub fn is_out(&self, index: usize) -> bool {
        self.members[index].standing != Standing::In
    }

    /// When [`Outlier::pass_time`] has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        let compare = self.compares().then_some(self.compare_at);
        self.members.iter().filter_map(|member| member.due(self.base())).chain(compare).min()
    }

    /// Times out that are over end. Returns the upstream that is slow, if latencies are to be compared now and one is:
    /// at most one at a time, the slowest.
    pub fn pass_time(&mut self, now: Instant) -> Option<(usize, Cause)> {
        let base = self.base();
        for member in &mut self.members {
            member.pass_time(base, now);
        }
        if !self.compares() || now < self.compare_at {
            return None;
        }
        self.compare_at = now + COMPARED_EVERY;
        self.slowest()
    }

    /// Takes in what a worker saw of latencies.
    pub fn summarized(&mut self, index: usize, requests: u32, latency: Duration) {
        let member = &mut self.members[index];
        member.requests += u64::from(requests);
        member.latency = member.latency.saturating_add(latency);
    }

    /// Whether so many failures in a row should put an upstream out.
    pub fn failed(&self, index: usize, streak: u32, reason: &Reason) -> Option<Cause> {
        let plan = self.plan?;
        let too_many = plan.consecutive > 0 && streak >= plan.consecutive;
        (too_many && !self.is_out(index)).then(|| Cause::Failures(streak, reason.clone()))
    }

    /// Puts an upstream out, unless the group's share of those out is used up. The caller has made sure that another is
    /// fit. `eligible` is how many upstreams may take requests at all.
    pub fn put_out(&mut self, index: usize, cause: Cause, eligible: usize, now: Instant) -> bool {
        let (base, most) = match cause {
            Cause::Refused => REFUSED,
            _ => (self.base(), self.most()),
        };
        // Refusals are plain to see, and end as soon as they do; they are not counted into the share.
        if cause != Cause::Refused && !self.has_room(index, eligible) {
            return false;
        }
        let plan_base = self.base();
        let member = &mut self.members[index];
        let doublings = if cause == Cause::Refused {
            member.refusals += 1;
            member.refusals
        } else {
            member.forgive(plan_base, now);
            member.times += 1;
            member.times
        };
        let time = base.saturating_mul(1 << (doublings - 1).min(MOST_DOUBLINGS)).min(most.max(base));
        member.enter(Standing::Out { cause, until: now + time }, now);
        true
    }

    /// The one request of an upstream on probation is on its way.
    pub fn probe_started(&mut self, index: usize, now: Instant) {
        let member = &mut self.members[index];
        if member.standing == Standing::Probation {
            member.enter(Standing::Probing, now);
        }
    }

    /// It ended; `None` if it says nothing because the client left. Returns why to put the upstream out again, if it failed.
    pub fn probe_ended(&mut self, index: usize, passed: Option<bool>, now: Instant) -> Option<Cause> {
        let member = &mut self.members[index];
        if !matches!(member.standing, Standing::Probing | Standing::Probation) {
            return None;
        }
        match passed {
            Some(true) => member.let_in(now),
            Some(false) if member.refusals > 0 => return Some(Cause::Refused),
            Some(false) => return Some(Cause::Probe),
            None => member.enter(Standing::Probation, now),
        }
        None
    }

    /// Lets an upstream in: it is known to be well, or to be another process than the one that failed.
    pub fn let_in(&mut self, index: usize, now: Instant) {
        self.members[index].let_in(now);
    }

    fn base(&self) -> Duration {
        Duration::from_millis(self.plan.map_or(0, |plan| plan.base_ms)).max(Duration::from_millis(1))
    }

    fn most(&self) -> Duration {
        Duration::from_millis(self.plan.map_or(0, |plan| plan.most_ms))
    }

    fn compares(&self) -> bool {
        self.plan.is_some_and(|plan| plan.latency_percent > 0)
    }

    fn has_room(&self, index: usize, eligible: usize) -> bool {
        let Some(plan) = self.plan else { return false };
        let others_out =
            (0..self.members.len()).filter(|other| *other != index && self.is_out(*other)).count();
        let most = (eligible * plan.most_percent.min(100) as usize / 100).max(1);
        others_out < most
    }

    fn slowest(&mut self) -> Option<(usize, Cause)> {
        let plan = self.plan?;
        let means: Vec<Option<Duration>> = self.members.iter_mut().map(Member::take_mean).collect();
        let mut sorted: Vec<Duration> = means.iter().flatten().copied().collect();
        sorted.sort_unstable();
        // Of an even number the lower one, so that half of a group can be slow.
        let median = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
        let mut slowest: Option<(usize, u32)> = None;
        for (index, (member, mean)) in self.members.iter_mut().zip(means).enumerate() {
            let Some(mean) = mean.filter(|_| sorted.len() >= LEAST_UPSTREAMS) else {
                member.slow = 0;
                continue;
            };
            let percent = percent_of(mean, median);
            let is_slow = percent > plan.latency_percent && mean.saturating_sub(median) >= LEAST_DIFFERENCE;
            member.slow = if is_slow { member.slow + 1 } else { 0 };
            if member.slow >= SLOW_IN_A_ROW && slowest.is_none_or(|(_, most)| percent > most) {
                slowest = Some((index, percent));
            }
        }
        slowest.map(|(index, percent)| (index, Cause::Slow(percent)))
    }
}

impl Member {
    fn new(now: Instant) -> Self {
        Self {
            standing: Standing::In,
            since: now,
            times: 0,
            refusals: 0,
            requests: 0,
            latency: Duration::ZERO,
            slow: 0,
        }
    }

    fn enter(&mut self, standing: Standing, now: Instant) {
        self.standing = standing;
        self.since = now;
        self.slow = 0;
    }

    fn let_in(&mut self, now: Instant) {
        self.refusals = 0;
        if self.standing != Standing::In {
            self.enter(Standing::In, now);
        }
    }

    /// When time alone changes its standing.
    fn due(&self, base: Duration) -> Option<Instant> {
        match self.standing {
            Standing::In => None,
            Standing::Out { until, .. } => Some(until),
            Standing::Probation => Some(self.since + base.max(REFUSED.1)),
            Standing::Probing => Some(self.since + PROBE_LOST),
        }
    }

    fn pass_time(&mut self, base: Duration, now: Instant) {
        if self.due(base).is_none_or(|due| now < due) {
            return;
        }
        match self.standing {
            Standing::Out { .. } | Standing::Probing => self.enter(Standing::Probation, now),
            Standing::Probation => self.let_in(now),
            Standing::In => {}
        }
    }

    /// Good behaviour takes doublings back.
    fn forgive(&mut self, base: Duration, now: Instant) {
        if self.standing == Standing::In {
            let good = now.saturating_duration_since(self.since).as_nanos() / base.as_nanos();
            self.times = self.times.saturating_sub(u32::try_from(good).unwrap_or(u32::MAX));
        }
    }

    fn take_mean(&mut self) -> Option<Duration> {
        let (requests, latency) = (self.requests, self.latency);
        (self.requests, self.latency) = (0, Duration::ZERO);
        let counts = requests >= LEAST_REQUESTS && self.standing == Standing::In;
        counts.then(|| Duration::from_secs_f64(latency.as_secs_f64() / requests as f64))
    }
}

fn percent_of(part: Duration, whole: Duration) -> u32 {
    let percent = part.as_nanos() * 100 / whole.as_nanos().max(1);
    u32::try_from(percent).unwrap_or(u32::MAX)
}
