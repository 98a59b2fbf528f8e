//! Health checks of one upstream, counted.

use std::time::{Duration, Instant};

use mainstay_site::plan::edge::HealthPlan;

use super::Reason;
use crate::balance::random::Random;

/// The shortest time between two checks that begin at once because a worker saw trouble, and between quick checks.
const QUICKEST: Duration = Duration::from_millis(50);
/// The longest time between quick checks.
const QUICK: Duration = Duration::from_secs(1);
/// How long after it went down an upstream is checked quickly.
const FRESHLY_DOWN: Duration = Duration::from_secs(30);
/// While an upstream is doubted, a check may take so many times what one usually takes there,
const DOUBTED_TIMES: u32 = 10;
/// and so long in any case, if the plan's limit is not shorter.
const DOUBTED: Duration = Duration::from_millis(250);
/// How much the duration of a check counts for what is usual.
const USUAL_SHARE: f64 = 0.2;
/// A check of which nothing is heard for this many times its timeout has failed.
const LOST: u32 = 2;

/// What checks say of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckedState {
    /// Nothing yet.
    Unchecked,
    /// It is well.
    Up,
    /// It is not; why the last check failed.
    Down(Reason),
}

/// The machine: when to check, and what follows from the results.
#[derive(Debug)]
pub struct ActiveHealth {
    interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
    state: CheckedState,
    since: Instant,
    /// Results in a row that speak against the state.
    against: u32,
    /// The check that is under way, and when it began.
    checking: Option<(u64, Instant)>,
    last_began: Option<Instant>,
    next: Instant,
    /// Trouble was seen while a check was under way.
    suspected: bool,
    /// It answers nothing at all to requests, for far longer than usual; until a check passes.
    doubted: bool,
    /// How long checks that passed took on average.
    usual: Option<Duration>,
    number: u64,
}

impl ActiveHealth {
    /// A machine whose first check is due at once.
    pub fn new(plan: &HealthPlan, now: Instant) -> Self {
        let mut machine = Self {
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            rise: 1,
            fall: 1,
            state: CheckedState::Unchecked,
            since: now,
            against: 0,
            checking: None,
            last_began: None,
            next: now,
            suspected: false,
            doubted: false,
            usual: None,
            number: 0,
        };
        machine.replan(plan);
        machine
    }

    /// Takes over a new plan; what is known stays.
    pub fn replan(&mut self, plan: &HealthPlan) {
        self.interval = Duration::from_millis(plan.interval_ms.max(1));
        self.timeout = Duration::from_millis(plan.timeout_ms.max(1));
        self.rise = plan.rise.max(1);
        self.fall = plan.fall.max(1);
    }

    /// What checks say.
    pub fn state(&self) -> &CheckedState {
        &self.state
    }

    /// Since when they say it.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When [`ActiveHealth::due`] should be asked next.
    pub fn next_due(&self) -> Instant {
        self.checking.map_or(self.next, |(_, began)| began + self.timeout * LOST)
    }

    /// The number of the check to begin now, if one is due. At most one is under way.
    pub fn due(&mut self, random: &mut Random, now: Instant) -> Option<u64> {
        if let Some((number, began)) = self.checking
            && now >= began + self.timeout * LOST
        {
            self.failed(number, Reason::NoResult, random, now);
        }
        if self.checking.is_some() || now < self.next {
            return None;
        }
        self.number += 1;
        self.checking = Some((self.number, now));
        self.last_began = Some(now);
        Some(self.number)
    }

    /// A check passed. Returns when it began, unless it is an old one that no longer counts.
    pub fn passed(&mut self, number: u64, random: &mut Random, now: Instant) -> Option<Instant> {
        let began = self.ended(number)?;
        self.doubted = false;
        let took = now.saturating_duration_since(began);
        self.usual = Some(
            self.usual.map_or(took, |usual| usual.mul_f64(1.0 - USUAL_SHARE) + took.mul_f64(USUAL_SHARE)),
        );
        match self.state {
            CheckedState::Unchecked => self.enter(CheckedState::Up, now),
            CheckedState::Up => self.against = 0,
            CheckedState::Down(_) => {
                self.against += 1;
                if self.against >= self.rise {
                    self.enter(CheckedState::Up, now);
                }
            }
        }
        self.schedule(began, random, now);
        Some(began)
    }

    /// A check failed. Returns when it began, unless it is an old one that no longer counts.
    pub fn failed(
        &mut self,
        number: u64,
        reason: Reason,
        random: &mut Random,
        now: Instant,
    ) -> Option<Instant> {
        let began = self.ended(number)?;
        match &mut self.state {
            CheckedState::Unchecked => self.enter(CheckedState::Down(reason), now),
            CheckedState::Down(last) => {
                *last = reason;
                self.against = 0;
            }
            CheckedState::Up => {
                self.against += 1;
                if self.against >= self.fall {
                    self.enter(CheckedState::Down(reason), now);
                }
            }
        }
        self.schedule(began, random, now);
        Some(began)
    }

    /// Trouble was seen: the next check is due at once, or as soon as the one under way has ended.
    pub fn suspect(&mut self, now: Instant) {
        if self.checking.is_some() {
            self.suspected = true;
            return;
        }
        let allowed = self.last_began.map_or(now, |began| began + QUICKEST.min(self.interval));
        self.next = self.next.min(allowed.max(now));
    }

    /// It has answered no request for far longer than usual: until a check passes, checks have less time.
    pub fn doubt(&mut self, now: Instant) {
        self.doubted = true;
        self.suspect(now);
    }

    /// How long a check that begins now may take. One that is well and then doubted, or just failed a check, is given
    /// many times what is usual there, and no more: a frozen one would cost a whole timeout each time.
    pub fn limit(&self) -> Duration {
        match (&self.state, self.usual) {
            (CheckedState::Up, Some(usual)) if self.doubted => {
                (usual * DOUBTED_TIMES).max(DOUBTED).min(self.timeout)
            }
            _ => self.timeout,
        }
    }

    fn ended(&mut self, number: u64) -> Option<Instant> {
        let (_, began) = self.checking.take_if(|(checking, _)| *checking == number)?;
        Some(began)
    }

    fn enter(&mut self, state: CheckedState, now: Instant) {
        self.state = state;
        self.since = now;
        self.against = 0;
    }

    fn schedule(&mut self, began: Instant, random: &mut Random, now: Instant) {
        let freshly_down = matches!(self.state, CheckedState::Down(_))
            && now.saturating_duration_since(self.since) < FRESHLY_DOWN;
        let interval = if self.against > 0 || freshly_down { self.quick() } else { self.interval };
        // From nine tenths to eleven tenths.
        let jittered = interval.mul_f64(0.9 + 0.2 * random.unit());
        // Trouble that was seen while the check was under way is looked into at once.
        let wait = if std::mem::take(&mut self.suspected) { QUICKEST.min(jittered) } else { jittered };
        self.next = (began + wait).max(now);
    }

    fn quick(&self) -> Duration {
        (self.interval / 10).clamp(QUICKEST, QUICK).min(self.interval)
    }
}
