//! All that is known of a group's health, brought together.

use std::mem::discriminant;
use std::time::Instant;

use mainstay_site::plan::edge::{HealthPlan, UpstreamGroup};

use super::{ActiveHealth, Cause, CheckedState, Condition, Fitness, Outlier, Reason, Standing};
use crate::balance::random::Random;
use crate::balance::{Summary, UpstreamId};

/// A check under way: which one, of which upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckId {
    /// The upstream to check.
    pub upstream: UpstreamId,
    number: u64,
}

/// Something happened. Events about upstreams that the plan does not have any more are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The time of [`GroupHealth::next_due`] came.
    Due,
    /// A check passed.
    CheckPassed(CheckId),
    /// A check failed.
    CheckFailed(CheckId, Reason),
    /// A worker could not connect: refused, reset, unreachable, or too slow. Such failures are reported only as this, not
    /// as [`Event::Failed`] too, unless the group has no active checks.
    Refused(UpstreamId, Reason),
    /// A worker waits for a response for longer than is usual there.
    Suspected(UpstreamId),
    /// A worker has got no response at all for far longer than is usual there, though several requests wait.
    Silent(UpstreamId),
    /// A request failed at a worker, which saw so many failures in a row
    /// ([`Balancer::finished`](crate::balance::Balancer::finished)).
    Failed {
        /// Where.
        upstream: UpstreamId,
        /// How many in a row, this one included.
        streak: u32,
        /// Why.
        reason: Reason,
    },
    /// What a worker saw of latencies, about once a second.
    Summarized(Summary),
    /// A worker sends the one request of an upstream on probation.
    ProbeStarted(UpstreamId),
    /// That request was answered (`Some(true)`), failed, or says nothing because the client left.
    ProbeEnded(UpstreamId, Option<bool>),
}

/// Something is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin a check, and report how it ended.
    StartCheck(CheckId),
    /// Fitness changed: write all of it ([`GroupHealth::fitness`]) to the [`Board`](super::Board).
    Publish,
    /// An upstream's condition changed: log it. From [`Condition::Up`] to [`Condition::Down`]: requests that wait for its
    /// response can be tried elsewhere.
    Changed {
        /// The upstream.
        upstream: UpstreamId,
        /// What it was.
        from: Condition,
        /// What it is.
        to: Condition,
    },
    /// An upstream takes requests again after it was out, or is new: its share starts slowly
    /// ([`Balancer::came_up`](crate::balance::Balancer::came_up)).
    CameUp(UpstreamId),
}

#[derive(Debug)]
struct Member {
    id: UpstreamId,
    /// It may take new requests: not draining, and of a weight.
    eligible: bool,
    drain: bool,
    drain_since: Instant,
    active: Option<ActiveHealth>,
    /// When a worker's connection was refused, until a check that began later passes.
    refused: Option<(Instant, Reason)>,
    condition: Condition,
    fitness: Fitness,
}

/// The health of a group.
#[derive(Debug)]
pub struct GroupHealth {
    members: Vec<Member>,
    outlier: Outlier,
    random: Random,
}

impl GroupHealth {
    /// The health of a group of which nothing is known. Checks are due at once: call [`GroupHealth::handle`] with
    /// [`Event::Due`].
    pub fn new(group: &UpstreamGroup, seed: u64, now: Instant) -> Self {
        let members = group.upstreams.iter().map(|upstream| {
            let eligible = !upstream.drain && upstream.weight > 0;
            Member::new(UpstreamId::of(upstream), eligible, upstream.drain, group.health.as_ref(), now)
        });
        let mut health = Self {
            members: members.collect(),
            outlier: Outlier::new(group.outlier, group.upstreams.len(), now),
            random: Random::new(seed),
        };
        health.settle(&mut Vec::new());
        health
    }

    /// Takes over a new plan of the group. What is known of upstreams that stay (same name and address) is kept.
    /// Indexes are those of the new plan from now on; the board needs to be written anew.
    pub fn update(&mut self, group: &UpstreamGroup, now: Instant) -> Vec<Action> {
        let fresh = Self::new(group, self.random.next(), now);
        let mut old: Vec<Option<Member>> = std::mem::take(&mut self.members).into_iter().map(Some).collect();
        let mut actions = Vec::new();
        let mut kept = Vec::new();
        for mut member in fresh.members {
            let place =
                old.iter().position(|other| other.as_ref().is_some_and(|other| other.id == member.id));
            let known = place.and_then(|place| old[place].take());
            // Its share grows from now on, whatever the others have by now.
            if member.eligible && known.as_ref().is_none_or(|known| !known.eligible) {
                actions.push(Action::CameUp(member.id));
            }
            if let Some(known) = known {
                member.inherit(known, group.health.as_ref());
            }
            kept.push(place);
            self.members.push(member);
        }
        self.outlier.replan(group.outlier, &kept, now);
        self.settle(&mut actions);
        actions
    }

    /// Takes in an event. Every event also does what time alone asks for, so that a late [`Event::Due`] harms nothing.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take(event, now);
        self.pass_time(now, &mut actions);
        self.settle(&mut actions);
        actions
    }

    /// When [`Event::Due`] is due; `None` if nothing depends on time.
    pub fn next_due(&self) -> Option<Instant> {
        let checks =
            self.members.iter().filter_map(|member| member.active.as_ref().map(ActiveHealth::next_due));
        checks.chain(self.outlier.next_due()).min()
    }

    /// The fitness of each upstream, by its index in the plan.
    pub fn fitness(&self) -> impl Iterator<Item = Fitness> + '_ {
        self.members.iter().map(|member| member.fitness)
    }

    /// The condition of an upstream, and since when.
    pub fn condition(&self, index: usize) -> (&Condition, Instant) {
        let member = &self.members[index];
        (&member.condition, self.since(index, member))
    }

    /// How long a check of this upstream may take that begins now, or that is under way when it is doubted.
    pub fn check_limit(&self, upstream: UpstreamId) -> Option<std::time::Duration> {
        self.members[self.index(upstream)?].active.as_ref().map(ActiveHealth::limit)
    }

    /// Upstreams that are fit.
    pub fn fit(&self) -> usize {
        self.members.iter().filter(|member| member.eligible && member.fitness != Fitness::Unfit).count()
    }

    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Due => {}
            Event::CheckPassed(check) => self.check_ended(check, None, now),
            Event::CheckFailed(check, reason) => self.check_ended(check, Some(reason), now),
            Event::Refused(upstream, reason) => self.refused(upstream, reason, now),
            Event::Suspected(upstream) => {
                if let Some(active) =
                    self.index(upstream).and_then(|index| self.members[index].active.as_mut())
                {
                    active.suspect(now);
                }
            }
            Event::Silent(upstream) => {
                if let Some(active) =
                    self.index(upstream).and_then(|index| self.members[index].active.as_mut())
                {
                    active.doubt(now);
                }
            }
            Event::Failed { upstream, streak, reason } => {
                if let Some(index) = self.index(upstream)
                    && let Some(cause) = self.outlier.failed(index, streak, &reason)
                {
                    self.put_out(index, cause, now);
                }
            }
            Event::Summarized(summary) => {
                if let Some(index) = self.index(summary.upstream) {
                    self.outlier.summarized(index, summary.requests, summary.latency);
                }
            }
            Event::ProbeStarted(upstream) => {
                if let Some(index) = self.index(upstream) {
                    self.outlier.probe_started(index, now);
                }
            }
            Event::ProbeEnded(upstream, passed) => {
                if let Some(index) = self.index(upstream)
                    && let Some(cause) = self.outlier.probe_ended(index, passed, now)
                    && !self.put_out(index, cause, now)
                {
                    self.outlier.let_in(index, now);
                }
            }
        }
    }

    fn check_ended(&mut self, check: CheckId, failure: Option<Reason>, now: Instant) {
        let Some(index) = self.index(check.upstream) else { return };
        let member = &mut self.members[index];
        let Some(active) = member.active.as_mut() else { return };
        let was_down = matches!(active.state(), CheckedState::Down(_));
        if let Some(reason) = failure {
            active.failed(check.number, reason, &mut self.random, now);
        } else {
            let began = active.passed(check.number, &mut self.random, now);
            member.refused.take_if(|(at, _)| began.is_some_and(|began| began >= *at));
        }
        if *active.state() != CheckedState::Up {
            // Checks that say it is down say all that there is to say.
            if matches!(active.state(), CheckedState::Down(_)) {
                member.refused = None;
            }
        } else if was_down {
            // What came up is not what failed before.
            self.outlier.let_in(index, now);
        }
    }

    fn refused(&mut self, upstream: UpstreamId, reason: Reason, now: Instant) {
        let Some(index) = self.index(upstream) else { return };
        let member = &mut self.members[index];
        if let Some(active) = member.active.as_mut() {
            active.suspect(now);
            if *active.state() == CheckedState::Up {
                member.refused = Some((now, reason));
            }
        } else if !matches!(self.outlier.standing(index).0, Standing::Out { .. }) {
            self.put_out(index, Cause::Refused, now);
        }
    }

    /// Puts an upstream out if another is fit.
    fn put_out(&mut self, index: usize, cause: Cause, now: Instant) -> bool {
        let eligible = self.members.iter().filter(|member| member.eligible).count();
        let is_in = |other: &usize| *other != index && self.is_sound(*other) && !self.outlier.is_out(*other);
        let another = (0..self.members.len()).any(|other| is_in(&other));
        another && self.outlier.put_out(index, cause, eligible, now)
    }

    fn pass_time(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some((index, cause)) = self.outlier.pass_time(now) {
            self.put_out(index, cause, now);
        }
        for member in &mut self.members {
            if let Some(active) = member.active.as_mut()
                && let Some(number) = active.due(&mut self.random, now)
            {
                actions.push(Action::StartCheck(CheckId { upstream: member.id, number }));
            }
        }
    }

    /// Whether all but passive health speaks for an upstream.
    fn is_sound(&self, index: usize) -> bool {
        let member = &self.members[index];
        let checked = member.active.as_ref().is_none_or(|active| *active.state() == CheckedState::Up);
        member.eligible && member.refused.is_none() && checked
    }

    /// Draws the conclusions: condition and fitness of each.
    fn settle(&mut self, actions: &mut Vec<Action>) {
        let others_in =
            (0..self.members.len()).any(|index| self.is_sound(index) && !self.outlier.is_out(index));
        let mut publish = false;
        for index in 0..self.members.len() {
            let condition = self.judge(index);
            let member = &mut self.members[index];
            let fitness = match &condition {
                Condition::Up | Condition::Draining => Fitness::Fit,
                // Passive health has no say when no other is left.
                Condition::Ejected { .. } | Condition::Probation if !others_in => Fitness::Fit,
                Condition::Probation if *self.outlier.standing(index).0 == Standing::Probation => {
                    Fitness::Probe
                }
                _ => Fitness::Unfit,
            };
            publish |= std::mem::replace(&mut member.fitness, fitness) != fitness;
            let from = std::mem::replace(&mut member.condition, condition.clone());
            if discriminant(&from) == discriminant(&condition) {
                continue;
            }
            if condition == Condition::Up && from != Condition::Draining {
                actions.push(Action::CameUp(member.id));
            }
            actions.push(Action::Changed { upstream: member.id, from, to: condition });
        }
        if publish {
            actions.push(Action::Publish);
        }
    }

    fn judge(&self, index: usize) -> Condition {
        let member = &self.members[index];
        match member.active.as_ref().map(ActiveHealth::state) {
            Some(CheckedState::Down(reason)) => return Condition::Down(reason.clone()),
            Some(CheckedState::Unchecked) if !member.drain => return Condition::Unchecked,
            _ => {}
        }
        if let Some((_, reason)) = &member.refused {
            return Condition::Refused(reason.clone());
        }
        if member.drain {
            return Condition::Draining;
        }
        match self.outlier.standing(index).0 {
            Standing::In => Condition::Up,
            Standing::Out { cause, until } => Condition::Ejected { cause: cause.clone(), until: *until },
            Standing::Probation | Standing::Probing => Condition::Probation,
        }
    }

    fn since(&self, index: usize, member: &Member) -> Instant {
        let checked = member.active.as_ref().map(ActiveHealth::since);
        let (_, stood) = self.outlier.standing(index);
        match &member.condition {
            Condition::Refused(_) => member.refused.as_ref().map_or(stood, |(at, _)| *at),
            Condition::Down(_) | Condition::Unchecked => checked.unwrap_or(stood),
            Condition::Draining => member.drain_since,
            Condition::Ejected { .. } | Condition::Probation => stood,
            Condition::Up => checked.map_or(stood, |checked| checked.max(stood)),
        }
    }

    fn index(&self, upstream: UpstreamId) -> Option<usize> {
        self.members.iter().position(|member| member.id == upstream)
    }
}

impl Member {
    fn new(id: UpstreamId, eligible: bool, drain: bool, health: Option<&HealthPlan>, now: Instant) -> Self {
        Self {
            id,
            eligible,
            drain,
            drain_since: now,
            active: health.map(|plan| ActiveHealth::new(plan, now)),
            refused: None,
            condition: Condition::Unchecked,
            fitness: Fitness::Unfit,
        }
    }

    fn inherit(&mut self, old: Self, health: Option<&HealthPlan>) {
        if let (Some(mut active), Some(plan)) = (old.active, health) {
            active.replan(plan);
            self.active = Some(active);
            self.refused = old.refused;
        }
        if old.drain && self.drain {
            self.drain_since = old.drain_since;
        }
        self.condition = old.condition;
        self.fitness = old.fitness;
    }
}
