//! Which upstream takes a request.
//!
//! Each worker has a [`Balancer`] per group, fed with what it saw itself: requests in flight and their latencies. Nothing
//! is shared with other workers, so that choosing costs no lock; each worker begins its turns at a place of its own.
//!
//! [`Balancer::choose`] asks about each upstream whether it is [`Readiness::Ready`], which the caller knows from
//! [`health`](crate::health) and from its own limits, and picks by the group's algorithm among the best tier that there is:
//!
//! 1. ready upstreams that were not tried yet for this request,
//! 2. ready backups that were not tried yet,
//! 3. ready ones that were tried (the only server of a group may be asked again),
//! 4. if none is ready, all that are not draining (*panic*: a group without a fit upstream is more likely checked
//!    wrongly, or about to be well again, than gone, and a refused request is not better than a tried one).
//!
//! Upstreams of weight 0 and draining ones are in no tier. While a primary is only [`Readiness::Full`], backups stay
//! unused and the request should wait.
//!
//! The algorithms: smooth weighted round robin as in nginx; fewest requests in flight by weight, ties in turn; the
//! better of two by a peak-sensitive moving average of latency ([`average`]); and rendezvous hashing with bounded load
//! ([`hash`]).

pub mod average;
pub mod hash;
mod member;
pub mod random;
#[cfg(test)]
pub(crate) mod tests;
mod tried;

use std::time::{Duration, Instant};

use mainstay_site::plan::edge::{BalancePlan, UpstreamGroup};

pub use self::member::{InFlight, UpstreamId};
pub use self::tried::Tried;

use self::average::PeakAverage;
use self::member::{Member, Tier};
use self::random::Random;

/// Whether an upstream can take a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Fit, and with room.
    Ready,
    /// Fit, but at its limit of requests: better to wait for than to pass by.
    Full,
    /// Not fit.
    Unfit,
}

impl From<bool> for Readiness {
    fn from(fit: bool) -> Self {
        if fit { Self::Ready } else { Self::Unfit }
    }
}

/// Why no upstream was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUpstream {
    /// All that are fit are at their limits: waiting helps.
    #[error("every fit upstream is at its limit of requests")]
    Full,
    /// None may take new requests: every one is draining or has weight 0, or the group is empty.
    #[error("no upstream takes new requests")]
    Nobody,
}

/// How a request at an upstream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response began; the time from the choice until its head. A status of 502 to 504 is [`Outcome::Failed`].
    Answered(Duration),
    /// No connection, no response, or a status that stands for one.
    Failed,
    /// The client left, or the request was not sent after all; nothing is learnt but that it took at least so long.
    Abandoned(Duration),
}

/// What a worker saw of an upstream since it was last asked, for [`health`](crate::health).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The upstream.
    pub upstream: UpstreamId,
    /// Answered requests.
    pub requests: u32,
    /// The sum of their latencies.
    pub latency: Duration,
}

/// Chooses among the upstreams of one group, for one worker.
#[derive(Debug)]
pub struct Balancer {
    algorithm: BalancePlan,
    slow_start: Duration,
    members: Vec<Member>,
    /// The mean latency of the group: what is assumed of an upstream that nothing is known of.
    mean: PeakAverage,
    random: Random,
    panics: u64,
}

/// The share of its weight, from a tenth to 1, that an upstream has which came up then.
pub fn warmth(came_up: Option<Instant>, slow_start: Duration, now: Instant) -> f64 {
    member::warmth(came_up, slow_start, now) as f64 / member::WHOLE as f64
}

impl Balancer {
    /// A balancer of a group whose upstreams are all taken to be warm. Workers give different seeds.
    pub fn new(group: &UpstreamGroup, seed: u64) -> Self {
        let mut balancer = Self {
            algorithm: group.balance.clone(),
            slow_start: Duration::from_millis(group.slow_start_ms),
            members: group.upstreams.iter().map(Member::new).collect(),
            mean: PeakAverage::default(),
            random: Random::new(seed),
            panics: 0,
        };
        balancer.begin_turns();
        balancer
    }

    /// Takes over a new plan of the group. What is known of upstreams that stay (same name and address) is kept; new
    /// ones start slowly. Indexes are those of the new plan from now on.
    pub fn update(&mut self, group: &UpstreamGroup, now: Instant) {
        self.algorithm = group.balance.clone();
        self.slow_start = Duration::from_millis(group.slow_start_ms);
        let mut changed = group.upstreams.len() != self.members.len();
        let mut members = Vec::with_capacity(group.upstreams.len());
        for (index, upstream) in group.upstreams.iter().enumerate() {
            let mut member = Member::new(upstream);
            let old = position(&self.members, member.id, index).map(|place| &mut self.members[place]);
            changed |=
                old.as_ref().is_none_or(|old| old.weight != member.weight || old.backup != member.backup);
            match old {
                Some(old) => member.inherit(old, now),
                None => member.came_up = Some(now),
            }
            members.push(member);
        }
        self.members = members;
        if changed {
            self.begin_turns();
        }
    }

    /// The upstream that should take a request.
    ///
    /// `readiness` is asked once about each upstream that may take new requests; a `bool` says fit or not. `key` is
    /// the hash of what the request is known by, for consistent hashing ([`hash::key`]). `tried` are those that failed
    /// this request already.
    pub fn choose<R: Into<Readiness>>(
        &mut self,
        readiness: impl Fn(usize) -> R,
        key: Option<u64>,
        tried: &Tried,
        now: Instant,
    ) -> Result<usize, NoUpstream> {
        let tier = self.best_tier(|index| readiness(index).into(), tried, now)?;
        if tier.is_panic() {
            self.panics += 1;
        }
        let chosen = match (&self.algorithm, key) {
            (BalancePlan::LeastConnections, _) => self.fewest_in_flight(tier),
            (BalancePlan::Latency, _) => self.better_of_two(tier, now),
            (BalancePlan::ConsistentHash { bound_percent, .. }, Some(key)) => {
                hash::choose(&self.members, tier, key, *bound_percent)
            }
            (BalancePlan::RoundRobin | BalancePlan::ConsistentHash { .. }, _) => self.next_in_turn(tier),
        };
        chosen.ok_or(NoUpstream::Nobody)
    }

    /// A request goes to an upstream; what is returned goes back to [`Balancer::finished`] in every case.
    pub fn started(&mut self, index: usize) -> InFlight {
        let member = &mut self.members[index];
        member.in_flight += 1;
        InFlight { index: index as u32, upstream: member.id }
    }

    /// A request ended. Returns how many requests failed in a row at this upstream, as this worker saw it; 0 unless this
    /// one failed.
    // By value, so that no request is ended twice.
    #[expect(clippy::needless_pass_by_value)]
    pub fn finished(&mut self, request: InFlight, outcome: Outcome, now: Instant) -> u32 {
        let Some(index) = position(&self.members, request.upstream, request.index as usize) else {
            return 0;
        };
        let member = &mut self.members[index];
        member.in_flight = member.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Answered(latency) => {
                member.answered(latency, &self.mean, now);
                self.mean.observe_evenly(latency, now);
            }
            Outcome::Failed => member.failed(&self.mean, now),
            Outcome::Abandoned(waited) => member.waited(waited, &self.mean, now),
        }
        if outcome == Outcome::Failed { member.streak } else { 0 }
    }

    /// An upstream came up: its share grows slowly from now on, if the group wants that.
    pub fn came_up(&mut self, upstream: UpstreamId, now: Instant) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == upstream) {
            member.came_up = Some(now);
            member.turn = 0;
            member.streak = 0;
        }
    }

    /// What was seen since the last call.
    pub fn summaries(&mut self) -> impl Iterator<Item = Summary> + '_ {
        self.members.iter_mut().filter_map(Member::take_summary)
    }

    /// How long an upstream may be expected to take for a response's head.
    pub fn expected(&self, index: usize, now: Instant) -> Duration {
        // An average of durations is one.
        Duration::try_from_secs_f64(self.members[index].average.estimate(&self.mean, now)).unwrap_or_default()
    }

    /// Requests in flight at an upstream, from this worker.
    pub fn in_flight(&self, index: usize) -> u32 {
        self.members[index].in_flight
    }

    /// The upstream at an index.
    pub fn upstream(&self, index: usize) -> UpstreamId {
        self.members[index].id
    }

    /// The share of its weight that an upstream has while it starts slowly, in thousandths.
    pub fn warmth(&self, index: usize, now: Instant) -> u32 {
        self.members[index].warmth(self.slow_start, now) as u32
    }

    /// Upstreams in the group.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the group has no upstreams.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How often an unfit upstream was chosen because there was no fit one.
    pub fn panics(&self) -> u64 {
        self.panics
    }

    /// Sorts the upstreams into tiers and finds the best that has one; refreshes effective weights on the way.
    fn best_tier(
        &mut self,
        readiness: impl Fn(usize) -> Readiness,
        tried: &Tried,
        now: Instant,
    ) -> Result<Tier, NoUpstream> {
        let mut best = Tier::NONE;
        let mut full = Tier::NONE;
        for (index, member) in self.members.iter_mut().enumerate() {
            member.tier = Tier::NONE;
            if member.drain || member.weight == 0 {
                continue;
            }
            match readiness(index) {
                Readiness::Full => full = full.min(Tier::of(member.backup, true, tried.contains(index))),
                ready => {
                    member.tier = Tier::of(member.backup, ready == Readiness::Ready, tried.contains(index));
                    member.share = member.effective_weight(self.slow_start, now);
                    best = best.min(member.tier);
                }
            }
        }
        match best {
            _ if full < best => Err(NoUpstream::Full),
            Tier::NONE => Err(NoUpstream::Nobody),
            best => Ok(best),
        }
    }

    /// Smooth weighted round robin: each gains its share, the richest is chosen and pays for all.
    fn next_in_turn(&mut self, tier: Tier) -> Option<usize> {
        smooth_turn(&mut self.members, |member| member.tier == tier)
    }

    fn fewest_in_flight(&mut self, tier: Tier) -> Option<usize> {
        let candidates = self.members.iter().filter(|member| member.tier == tier);
        let fewest = candidates.min_by(|a, b| a.compare_load(b))?;
        let (in_flight, share) = (u64::from(fewest.in_flight), fewest.share);
        // Those that are equally loaded take turns; otherwise an idle group would know its first upstream only.
        smooth_turn(&mut self.members, |member| {
            member.tier == tier && u64::from(member.in_flight) * share == in_flight * member.share
        })
    }

    fn better_of_two(&mut self, tier: Tier, now: Instant) -> Option<usize> {
        let count = self.members.iter().filter(|member| member.tier == tier).count();
        let first = self.random.below(count as u64) as usize;
        let mut second = self.random.below((count as u64).saturating_sub(1)) as usize;
        if second >= first {
            second += 1;
        }
        let mut candidates = self.members.iter().enumerate().filter(|(_, member)| member.tier == tier);
        let (low, high) = (first.min(second), first.max(second));
        let one = candidates.nth(low)?;
        let other = candidates.nth(high - low - 1);
        // Which of the two is looked at first must not decide between equals.
        let (one, other) = match other {
            Some(other) if first > second => (other, Some(one)),
            other => (one, other),
        };
        let cost = |member: &Member| {
            let latency = member.average.estimate(&self.mean, now);
            latency * (f64::from(member.in_flight) + 1.0) / member.share as f64
        };
        match other {
            Some(other) if cost(other.1) < cost(one.1) => Some(other.0),
            _ => Some(one.0),
        }
    }

    /// Begins turns anew, at a place of this worker's own.
    fn begin_turns(&mut self) {
        let mut cycle = 0;
        for member in &mut self.members {
            member.turn = 0;
            member.share = u64::from(member.weight) * member::WHOLE;
            cycle += u64::from(member.weight);
        }
        for _ in 0..self.random.below(cycle.min(MOST_STEPS)) {
            smooth_turn(&mut self.members, |member| !member.backup && !member.drain && member.weight > 0);
        }
    }
}

/// Steps that a worker's turns are taken ahead at most.
const MOST_STEPS: u64 = 1024;

fn smooth_turn(members: &mut [Member], takes_part: impl Fn(&Member) -> bool) -> Option<usize> {
    let mut total = 0;
    let mut richest: Option<(usize, i64)> = None;
    for (index, member) in members.iter_mut().enumerate() {
        if !takes_part(member) {
            continue;
        }
        member.turn += member.share.cast_signed();
        total += member.share.cast_signed();
        if richest.is_none_or(|(_, most)| member.turn > most) {
            richest = Some((index, member.turn));
        }
    }
    let (index, _) = richest?;
    members[index].turn -= total;
    Some(index)
}

/// Where an upstream is: mostly at the index where it was.
fn position(members: &[Member], upstream: UpstreamId, hint: usize) -> Option<usize> {
    if members.get(hint).is_some_and(|member| member.id == upstream) {
        return Some(hint);
    }
    members.iter().position(|member| member.id == upstream)
}
