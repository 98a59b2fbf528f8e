//! Thousands of small worlds, each from a seed: upstreams that die, freeze and come back; checks whose results are late,
//! lost, doubled or old; workers that report out of order. After every event the promises are checked against a model
//! that is too simple to be wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mainstay_site::plan::edge::{HealthPlan, OutlierPlan};

use super::tests::{CHECKS, OUTLIER, group};
use super::*;
use crate::balance::random::Random;
use crate::balance::{Summary, UpstreamId};

const SEEDS: u64 = 3000;
const EVENTS: usize = 400;

/// What checks say, counted plainly.
#[derive(Debug, Clone, Copy)]
struct Model {
    /// Unknown at first.
    up: Option<bool>,
    passes: u32,
    failures: u32,
    /// The check under way, and when it began.
    check: Option<(CheckId, Instant)>,
    last_began: Option<Instant>,
    alive: bool,
}

struct World {
    random: Random,
    now: Instant,
    start: Instant,
    health: GroupHealth,
    checks: Option<HealthPlan>,
    outlier: Option<OutlierPlan>,
    ids: Vec<UpstreamId>,
    models: Vec<Model>,
    /// Events under way, by the time they arrive and a number.
    pending: BTreeMap<(Instant, u64), Event>,
    number: u64,
    /// While it is, messages are lost, late and doubled.
    chaos: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let upstreams = 1 + random.below(6) as usize;
        let checks = (random.below(4) > 0).then(|| HealthPlan {
            interval_ms: 20 + random.below(5000),
            timeout_ms: 10 + random.below(2000),
            rise: 1 + random.below(3) as u32,
            fall: 1 + random.below(3) as u32,
            ..CHECKS
        });
        let outlier = (random.below(4) > 0).then(|| OutlierPlan {
            consecutive: 1 + random.below(6) as u32,
            base_ms: 100 + random.below(10_000),
            most_ms: 100 + random.below(60_000),
            most_percent: random.below(101) as u32,
            ..OUTLIER
        });
        let plan = group(upstreams, checks.clone(), outlier);
        let now = Instant::now();
        let model = Model { up: None, passes: 0, failures: 0, check: None, last_began: None, alive: true };
        let mut world = Self {
            health: GroupHealth::new(&plan, random.next(), now),
            random,
            now,
            start: now,
            checks,
            outlier,
            ids: plan.upstreams.iter().map(UpstreamId::of).collect(),
            models: vec![model; upstreams],
            pending: BTreeMap::new(),
            number: 0,
            chaos: true,
        };
        world.tell(Event::Due);
        world
    }

    fn index(&self, upstream: UpstreamId) -> usize {
        self.ids.iter().position(|id| *id == upstream).unwrap()
    }

    fn later(&mut self, most: Duration, event: Event) {
        let delay = most.mul_f64(self.random.unit());
        self.number += 1;
        self.pending.insert((self.now + delay, self.number), event);
    }

    /// Lets the model see what the machine is about to see.
    fn model(&mut self, event: &Event) {
        let Some(plan) = &self.checks else { return };
        let lost = Duration::from_millis(2 * plan.timeout_ms);
        let (rise, fall) = (plan.rise, plan.fall);
        let (ended, passed) = match event {
            Event::CheckPassed(check) => (Some(*check), true),
            Event::CheckFailed(check, _) => (Some(*check), false),
            _ => (None, false),
        };
        for model in &mut self.models {
            let Some((check, began)) = model.check else { continue };
            let result = match ended {
                Some(ended) if ended == check => passed,
                _ if self.now >= began + lost => false,
                _ => continue,
            };
            model.check = None;
            (model.passes, model.failures) =
                if result { (model.passes + 1, 0) } else { (0, model.failures + 1) };
            model.up = match model.up {
                None => Some(result),
                Some(true) if model.failures >= fall => Some(false),
                Some(false) if model.passes >= rise => Some(true),
                same => same,
            };
        }
    }

    fn tell(&mut self, event: Event) {
        self.model(&event);
        let actions = self.health.handle(event, self.now);
        for action in actions {
            if let Action::StartCheck(check) = action {
                self.start_check(check);
            }
        }
        self.look();
    }

    fn start_check(&mut self, check: CheckId) {
        let plan = self.checks.clone().expect("checks only where the plan has some");
        let index = self.index(check.upstream);
        let model = &mut self.models[index];
        assert!(model.check.is_none(), "one check at a time");
        let interval = Duration::from_millis(plan.interval_ms);
        if let Some(last) = model.last_began {
            let least = interval.min(Duration::from_millis(50)).mul_f64(0.89);
            assert!(self.now - last >= least, "checks {:?} apart", self.now - last);
        }
        model.check = Some((check, self.now));
        model.last_began = Some(self.now);
        let result =
            if model.alive { Event::CheckPassed(check) } else { Event::CheckFailed(check, Reason::Timeout) };
        let timeout = Duration::from_millis(plan.timeout_ms);
        let fate = if self.chaos { self.random.below(20) } else { 20 };
        match fate {
            0 => {}
            1 => self.later(timeout * 5, result),
            2 => {
                self.later(timeout, result.clone());
                self.later(timeout * 5, result);
            }
            _ => self.later(timeout, result),
        }
    }

    /// What must hold always.
    fn look(&self) {
        let fitness: Vec<Fitness> = self.health.fitness().collect();
        let mut out = 0;
        let mut sound = false;
        for (index, model) in self.models.iter().enumerate() {
            let (condition, since) = self.health.condition(index);
            assert!(since >= self.start && since <= self.now, "{condition:?}");
            condition.describe(since, self.now);
            if self.checks.is_some() {
                assert_eq!(
                    matches!(condition, Condition::Down(_)),
                    model.up == Some(false),
                    "{condition:?} {model:?}"
                );
                assert_eq!(
                    matches!(condition, Condition::Unchecked),
                    model.up.is_none(),
                    "{condition:?} {model:?}"
                );
            }
            let ejected = matches!(condition, Condition::Ejected { .. } | Condition::Probation);
            sound |= ejected || *condition == Condition::Up;
            let refused = matches!(condition, Condition::Ejected { cause: Cause::Refused, .. });
            out += usize::from(ejected && !refused && self.checks.is_some());
            if let Condition::Ejected { until, .. } = condition {
                let most = self.outlier.map_or(0, |plan| plan.most_ms.max(plan.base_ms)).max(8000);
                assert!(*until + Duration::from_secs(20) > self.now);
                assert!(*until - since <= Duration::from_millis(most));
            }
            match condition {
                Condition::Up => assert_eq!(fitness[index], Fitness::Fit),
                Condition::Down(_) | Condition::Unchecked | Condition::Refused(_) => {
                    assert_eq!(fitness[index], Fitness::Unfit);
                }
                _ => {}
            }
        }
        assert!(!sound || fitness.contains(&Fitness::Fit), "passive health has put out all: {fitness:?}");
        if let Some(plan) = self.outlier {
            let most = (self.models.len() * plan.most_percent as usize / 100).max(1);
            assert!(out <= most, "{out} are out, {most} may be");
        }
    }

    /// One thing happens at random.
    fn step(&mut self) {
        let next = self.pending.first_key_value().map(|((at, _), _)| *at);
        let due = self.health.next_due();
        match self.random.below(10) {
            0..6 => {
                // The next thing in time; the driver may be late.
                let slack = Duration::from_micros(self.random.below(3000));
                match (next, due) {
                    (Some(at), due) if due.is_none_or(|due| at <= due) => {
                        let (_, event) = self.pending.pop_first().unwrap();
                        self.now = self.now.max(at);
                        self.tell(event);
                    }
                    (_, Some(due)) => {
                        self.now = self.now.max(due + slack);
                        self.tell(Event::Due);
                    }
                    _ => self.now += slack,
                }
            }
            6 => self.now += Duration::from_micros(self.random.below(200_000)),
            7 => {
                let index = self.random.below(self.models.len() as u64) as usize;
                self.models[index].alive = !self.models[index].alive;
            }
            _ => {
                let event = self.report();
                self.later(Duration::from_millis(20), event);
            }
        }
    }

    fn report(&mut self) -> Event {
        let index = self.random.below(self.models.len() as u64) as usize;
        let upstream = self.ids[index];
        match self.random.below(7) {
            0 => Event::Refused(upstream, Reason::Refused),
            1 if self.random.below(2) == 0 => Event::Silent(upstream),
            1 => Event::Suspected(upstream),
            2 | 3 => Event::Failed {
                upstream,
                streak: 1 + self.random.below(8) as u32,
                reason: Reason::Status(503),
            },
            4 => {
                let latency = Duration::from_millis(self.random.below(50_000));
                Event::Summarized(Summary { upstream, requests: 100, latency })
            }
            5 => Event::ProbeStarted(upstream),
            _ => Event::ProbeEnded(upstream, [None, Some(true), Some(false)][self.random.below(3) as usize]),
        }
    }

    /// Everything is well again, and messages arrive: all must be fit within a bound.
    fn recover(&mut self) {
        self.chaos = false;
        self.models.iter_mut().for_each(|model| model.alive = true);
        self.pending.retain(|_, event| matches!(event, Event::CheckPassed(_) | Event::CheckFailed(..)));
        let began = self.now;
        let rise = self.checks.as_ref().map_or(0, |plan| {
            let each = plan.interval_ms * 11 / 10 + plan.timeout_ms * 5;
            each * u64::from(plan.rise + plan.fall + 3)
        });
        let out = self.outlier.map_or(0, |plan| plan.most_ms.max(plan.base_ms) + plan.base_ms).max(8000);
        let bound = Duration::from_millis(rise + 2 * out) + Duration::from_secs(40);
        let mut events = 0_u32;
        while self.health.fitness().any(|fitness| fitness != Fitness::Fit)
            || self.health.fit() < self.models.len()
        {
            assert!(self.now - began <= bound, "still not fit after {:?}", self.now - began);
            events += 1;
            assert!(events < 1_000_000, "time does not pass");
            // Requests come all the time; one takes the place of the probe.
            let probe = self.health.fitness().position(|fitness| fitness == Fitness::Probe);
            if let Some(index) = probe {
                self.tell(Event::ProbeStarted(self.ids[index]));
                self.tell(Event::ProbeEnded(self.ids[index], Some(true)));
                continue;
            }
            let next = self.pending.first_key_value().map(|((at, _), _)| *at);
            match (next, self.health.next_due()) {
                (Some(at), due) if due.is_none_or(|due| at <= due) => {
                    let (_, event) = self.pending.pop_first().unwrap();
                    self.now = self.now.max(at);
                    self.tell(event);
                }
                (_, Some(due)) => {
                    self.now = self.now.max(due);
                    self.tell(Event::Due);
                }
                _ => panic!("nothing will ever happen again: {:?}", self.health),
            }
        }
    }
}

#[test]
fn promises_hold_in_every_world() {
    for seed in 0..SEEDS {
        let story = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..EVENTS {
                world.step();
            }
            world.recover();
        });
        assert!(story.is_ok(), "the world of seed {seed} broke a promise; see above");
    }
}
