//! The machine itself.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::words::{Action, Adopted, Event, Exit, Failure, Order, Phase, Rejected, Report, State};
use crate::Replace;

/// After SIGKILL the kernel ends a process at once, unless it hangs in the kernel; then it is killed again this often.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A child that may overlap with its successor, and so hold connections for long, has this long to end when it is to stop
/// altogether.
pub const STOP_WITHIN: Duration = Duration::from_secs(40);
/// The most generations that live at once. One more, and the oldest draining one is killed.
pub const GENERATIONS_AT_ONCE: usize = 4;

/// One start of the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number; a later start has a higher one.
    pub number: u64,
    /// What it runs.
    pub order: Order,
    /// Where it is in its life.
    pub phase: Phase,
    /// The order that it is taking over.
    pub(super) reload: Option<Reload>,
    /// The order that it did not take over.
    refused: Option<u64>,
}

/// A change that a generation is taking over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reload {
    pub(super) order: Order,
    since: Instant,
    deadline: Instant,
}

impl Generation {
    fn new(number: u64, order: Order, phase: Phase) -> Self {
        Self { number, order, phase, reload: None, refused: None }
    }

    /// Whether it may take this order over as it runs.
    fn can_take(&self, order: &Order) -> bool {
        self.is_ready()
            && order.family.is_some()
            && self.order.family == order.family
            && self.order.id != order.id
            && self.refused != Some(order.id)
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    fn is_active(&self) -> bool {
        self.is_starting() || self.is_ready()
    }
}

/// The decisions about one child.
#[derive(Debug, Clone)]
pub struct Machine {
    target: Order,
    last_good: Option<Order>,
    running: bool,
    generations: Vec<Generation>,
    next_generation: u64,
    backoff: Backoff,
    start_at: Option<Instant>,
    rejected: Option<Rejected>,
    restarts: u64,
}

impl Machine {
    /// A child that is stopped. `first_generation` is higher than every number that was used for it before.
    pub fn new(target: Order, first_generation: u64) -> Self {
        Self {
            target,
            last_good: None,
            running: false,
            generations: Vec::new(),
            next_generation: first_generation,
            backoff: Backoff::default(),
            start_at: None,
            rejected: None,
            restarts: 0,
        }
    }

    /// Takes over a generation that an earlier supervisor started; oldest first. The child is to run.
    pub fn adopt(&mut self, number: u64, order: Order, phase: Adopted, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let phase = match phase {
            Adopted::Starting => {
                actions.push(Action::Probe { generation: number });
                Phase::Starting { since: now, deadline: now + order.ready_within }
            }
            Adopted::Ready => {
                self.last_good = Some(order.clone());
                Phase::Ready { since: now }
            }
            // It was asked before this was written down, and a second signal would end many programs at once: what
            // they still work on would be lost. One that missed the first is killed after its grace.
            Adopted::Draining => Phase::Draining { kill_at: now + order.grace },
        };
        if !matches!(phase, Phase::Draining { .. }) {
            self.target = order.clone();
        }
        self.running = true;
        self.next_generation = self.next_generation.max(number + 1);
        self.generations.push(Generation::new(number, order, phase));
        actions
    }

    /// Takes one event in.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let was_busy = self.running || !self.generations.is_empty();
        match event {
            Event::Start => self.running = true,
            Event::Stop => {
                self.running = false;
                self.start_at = None;
            }
            Event::Replace(order) => {
                self.target = order;
                self.rejected = None;
                self.backoff.forget();
                self.start_at = None;
            }
            Event::SpawnFailed { generation, reason } => {
                if let Some(index) = self.index(generation) {
                    let fallen = self.generations.remove(index);
                    self.fell(&fallen, Failure::Spawn { reason }, now, &mut actions);
                }
            }
            Event::Ready { generation } => self.got_ready(generation, now, &mut actions),
            Event::Reloaded { generation, order } => self.reloaded(generation, order, now, &mut actions),
            Event::ReloadRefused { generation, order, reason } => {
                self.refused(generation, order, reason, &mut actions);
            }
            Event::Exited { generation, exit } => self.exited(generation, exit, now, &mut actions),
            Event::Cleared { generation } => self
                .generations
                .retain(|g| g.number != generation || !matches!(g.phase, Phase::Clearing { .. })),
            Event::Tick => {}
        }
        self.pass_deadlines(now, &mut actions);
        self.settle(now, &mut actions);
        if was_busy && self.is_stopped() {
            actions.push(Action::Report(Report::Stopped));
        }
        actions
    }

    /// When time alone changes something.
    pub fn wake_at(&self) -> Option<Instant> {
        let deadlines = self.generations.iter().filter_map(|g| match g.phase {
            Phase::Starting { deadline, .. } => Some(deadline),
            Phase::Ready { .. } => g.reload.as_ref().map(|reload| reload.deadline),
            Phase::Draining { kill_at } | Phase::Clearing { kill_at } => Some(kill_at),
            Phase::Killed { again_at } => Some(again_at),
        });
        deadlines.chain(self.start_at).min()
    }

    /// One word for people.
    pub fn state(&self) -> State {
        if !self.running {
            return if self.generations.is_empty() { State::Stopped } else { State::Draining };
        }
        if self.generations.iter().any(Generation::is_ready) {
            State::Ready
        } else if self.backoff.is_failed() {
            State::Failed
        } else if self.start_at.is_some() {
            State::BackingOff
        } else {
            State::Starting
        }
    }

    /// Whether nothing runs and nothing is to run.
    pub fn is_stopped(&self) -> bool {
        !self.running && self.generations.is_empty()
    }

    /// The generation that serves, or else the one that starts.
    pub fn current(&self) -> Option<&Generation> {
        let newest = |wanted: fn(&Generation) -> bool| self.generations.iter().rev().find(|g| wanted(g));
        newest(Generation::is_ready).or_else(|| newest(Generation::is_starting))
    }

    /// All generations that still have processes, oldest first.
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// The order that is to run.
    pub fn target(&self) -> &Order {
        &self.target
    }

    /// Whether an order may still be started or still runs; the driver keeps its spec that long.
    pub fn needs_order(&self, id: u64) -> bool {
        self.target.id == id
            || self.last_good.as_ref().is_some_and(|order| order.id == id)
            || self
                .generations
                .iter()
                .any(|g| g.order.id == id || g.reload.as_ref().is_some_and(|reload| reload.order.id == id))
    }

    /// The last changed spec that did not get ready, until the next change.
    pub fn rejected(&self) -> Option<&Rejected> {
        self.rejected.as_ref()
    }

    /// Falls in a row.
    pub fn falls(&self) -> u32 {
        self.backoff.falls()
    }

    /// Starts after falls, since this machine was made.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    fn index(&self, generation: u64) -> Option<usize> {
        self.generations.iter().position(|g| g.number == generation)
    }

    fn got_ready(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        let Some(index) = self.index(generation) else { return };
        let candidate = &mut self.generations[index];
        // One that drains may answer a last probe; it does not come back for that.
        let Phase::Starting { since, .. } = candidate.phase else { return };
        candidate.phase = Phase::Ready { since: now };
        self.last_good = Some(candidate.order.clone());
        let after = now.saturating_duration_since(since);
        actions.push(Action::Report(Report::Ready { generation, after }));
    }

    fn reloaded(&mut self, generation: u64, order: u64, now: Instant, actions: &mut Vec<Action>) {
        let Some(index) = self.index(generation) else { return };
        let taken = &mut self.generations[index];
        // What came late, or of a generation that drains by now, says nothing about what is to run.
        let is_awaited = taken.is_ready() && taken.reload.as_ref().is_some_and(|r| r.order.id == order);
        let Some(reload) = taken.reload.take_if(|_| is_awaited) else { return };
        taken.order = reload.order.clone();
        self.last_good = Some(reload.order);
        let after = now.saturating_duration_since(reload.since);
        actions.push(Action::Report(Report::Reloaded { generation, after }));
    }

    fn refused(&mut self, generation: u64, order: u64, reason: String, actions: &mut Vec<Action>) {
        let Some(index) = self.index(generation) else { return };
        let refusing = &mut self.generations[index];
        if refusing.reload.take_if(|reload| reload.order.id == order).is_some() {
            refusing.refused = Some(order);
            actions.push(Action::Report(Report::ReloadRefused { generation, reason }));
        }
    }

    fn exited(&mut self, generation: u64, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        let Some(index) = self.index(generation) else { return };
        let before = self.generations[index].clone();
        if matches!(before.phase, Phase::Clearing { .. }) {
            return;
        }
        self.generations[index].phase = Phase::Clearing { kill_at: now + before.order.grace };
        actions.push(Action::EndOrphans { generation });
        if before.is_active() {
            self.fell(&before, Failure::Exit(exit), now, actions);
        }
    }

    /// Decides what an unasked end means: a candidate gives way to what ran before, anything else is started again.
    fn fell(&mut self, fallen: &Generation, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        if !self.running || fallen.order.id != self.target.id {
            return;
        }
        let never_ready = fallen.is_starting();
        let fallback = self.last_good.clone().filter(|good| never_ready && good.id != self.target.id);
        if let Some(good) = fallback {
            self.target = good;
            let rejected = Rejected { order: fallen.order.id, failure: failure.clone() };
            self.rejected = Some(rejected.clone());
            actions.push(Action::Report(Report::Rejected(rejected)));
            if self.generations.iter().any(Generation::is_ready) {
                return;
            }
        }
        let ready_for = match fallen.phase {
            Phase::Ready { since } => Some(now.saturating_duration_since(since)),
            _ => None,
        };
        let restart_in = self.backoff.fell(ready_for);
        self.restarts += 1;
        self.start_at = Some(now + restart_in);
        actions.push(Action::Report(Report::Fell {
            generation: fallen.number,
            failure,
            falls: self.backoff.falls(),
            restart_in,
        }));
    }

    fn pass_deadlines(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.generations.len() {
            let before = self.generations[index].clone();
            let generation = before.number;
            match before.phase {
                Phase::Starting { deadline, .. } if now >= deadline => {
                    self.drain(index, now, actions);
                    let within = before.order.ready_within;
                    self.fell(&before, Failure::NotReady { within }, now, actions);
                }
                Phase::Ready { .. } => {
                    if let Some(late) = before.reload.filter(|reload| now >= reload.deadline) {
                        let within = now.saturating_duration_since(late.since).as_secs_f32();
                        let reason = format!("it did not say within {within} s that it has it");
                        self.refused(generation, late.order.id, reason, actions);
                    }
                }
                Phase::Draining { kill_at } if now >= kill_at => {
                    self.kill(index, now, actions);
                    actions.push(Action::Report(Report::Killed { generation }));
                }
                Phase::Killed { again_at } if now >= again_at => self.kill(index, now, actions),
                Phase::Clearing { kill_at } if now >= kill_at => {
                    self.generations[index].phase = Phase::Clearing { kill_at: now + KILL_AGAIN_AFTER };
                    actions.push(Action::Kill { generation });
                }
                _ => {}
            }
        }
    }

    /// Brings what runs nearer to what is to run.
    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.running {
            self.drain_where(Generation::is_active, now, actions);
            self.hurry(now);
            return;
        }
        let target = self.target.clone();
        let alone = target.replace == Replace::StopFirst;
        self.drain_where(|g| g.is_starting() && g.order.id != target.id, now, actions);
        if let Some(newest) = self.generations.iter().rev().find(|g| g.is_ready() && g.order.id == target.id)
        {
            let newest = newest.number;
            self.drain_where(|g| g.is_ready() && g.number != newest, now, actions);
        }
        let excludes = |g: &Generation| alone || g.order.replace == Replace::StopFirst;
        self.drain_where(|g| g.is_ready() && g.order.id != target.id && excludes(g), now, actions);

        if self.is_taken_over(&target, now, actions) {
            return;
        }
        let has_target = self.generations.iter().any(|g| g.is_active() && g.order.id == target.id);
        let must_wait = self.generations.iter().any(excludes);
        let is_due = self.start_at.is_none_or(|at| now >= at);
        if is_due || has_target {
            self.start_at = None;
        }
        if has_target || must_wait || !is_due {
            return;
        }
        self.make_room(now, actions);
        let generation = self.next_generation;
        self.next_generation += 1;
        let phase = Phase::Starting { since: now, deadline: now + target.ready_within };
        self.generations.push(Generation::new(generation, target.clone(), phase));
        actions.push(Action::Spawn { generation, order: target.id });
        actions.push(Action::Probe { generation });
    }

    /// Lets the newest ready generation take the target over, if it can.
    fn is_taken_over(&mut self, target: &Order, now: Instant, actions: &mut Vec<Action>) -> bool {
        let Some(newest) = self.generations.iter_mut().rev().find(|g| g.is_ready()) else { return false };
        if !newest.can_take(target) {
            // What it was taking over is not wanted any more.
            newest.reload = None;
            return false;
        }
        if newest.reload.as_ref().is_none_or(|reload| reload.order.id != target.id) {
            let deadline = now + target.ready_within;
            newest.reload = Some(Reload { order: target.clone(), since: now, deadline });
            actions.push(Action::Reload { generation: newest.number, order: target.id });
        }
        self.start_at = None;
        true
    }

    /// When everything is to stop, nothing is waited for as long as when a successor serves.
    fn hurry(&mut self, now: Instant) {
        for generation in self.generations.iter_mut().filter(|g| g.order.replace != Replace::StopFirst) {
            if let Phase::Draining { kill_at } = &mut generation.phase {
                *kill_at = (*kill_at).min(now + STOP_WITHIN);
            }
        }
    }

    fn make_room(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.generations.len() >= GENERATIONS_AT_ONCE
            && let Some(index) =
                self.generations.iter().position(|g| matches!(g.phase, Phase::Draining { .. }))
        {
            self.kill(index, now, actions);
        }
    }

    fn drain_where(&mut self, wanted: impl Fn(&Generation) -> bool, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.generations.len() {
            if wanted(&self.generations[index]) {
                self.drain(index, now, actions);
            }
        }
    }

    fn drain(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        let generation = &mut self.generations[index];
        generation.phase = Phase::Draining { kill_at: now + generation.order.grace };
        generation.reload = None;
        actions.push(Action::AskToStop { generation: generation.number });
    }

    fn kill(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        let generation = &mut self.generations[index];
        generation.phase = Phase::Killed { again_at: now + KILL_AGAIN_AFTER };
        actions.push(Action::Kill { generation: generation.number });
    }
}
