//! The decisions about one child, without I/O and without a clock: `(state, event, now) -> (state, actions)`.
//!
//! A child has *generations*: each start makes one. Usually one generation lives. While a changed spec takes over by
//! [`Replace::Overlap`] there are two: the candidate starts beside the one that serves, and only when the candidate
//! is ready does the old one drain. A candidate that never gets ready is dropped, the old one stays, and the
//! reason is kept in [`Machine::rejected`].
//!
//! What is to run is an [`Order`]: a number that stands for a spec. The driver knows which.

mod backoff;
#[cfg(test)]
mod simulation;

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Replace;
pub use backoff::{Backoff, FALLS_UNTIL_FAILED, LONGEST, RECOVERED_AFTER};

/// After SIGKILL the kernel ends a process at once, unless it hangs in the kernel; then it is killed again this often.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The most generations that live at once. One more, and the oldest draining one is killed.
pub const GENERATIONS_AT_ONCE: usize = 4;

/// What is to run, and what the machine needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Stands for a spec; a later order has a higher number.
    pub id: u64,
    /// How it takes over.
    pub replace: Replace,
    /// How long it may take to get ready.
    pub ready_within: Duration,
    /// How long it may take to stop when asked politely.
    pub grace: Duration,
}

/// What happened to the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is to run.
    Start,
    /// It is to stop, and to stay stopped.
    Stop,
    /// This is to run instead of what ran so far. An order with the same spec is a restart.
    Replace(Order),
    /// A generation could not be started at all.
    SpawnFailed {
        /// Which.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// A generation answered its readiness probe.
    Ready {
        /// Which.
        generation: u64,
    },
    /// A generation's main process ended.
    Exited {
        /// Which.
        generation: u64,
        /// How.
        exit: Exit,
    },
    /// After its main process, all other processes of a generation have ended too.
    Cleared {
        /// Which.
        generation: u64,
    },
    /// Time passed; [`Machine::wake_at`] says when this is worth calling.
    Tick,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a generation of this order, and tell [`Event::Exited`] when its main process ends.
    Spawn {
        /// Its number.
        generation: u64,
        /// The order.
        order: u64,
    },
    /// Probe it until it is ready; then tell [`Event::Ready`].
    Probe {
        /// Which.
        generation: u64,
    },
    /// Ask the main process politely to stop.
    AskToStop {
        /// Which.
        generation: u64,
    },
    /// Kill every process of the generation.
    Kill {
        /// Which.
        generation: u64,
    },
    /// The main process is gone: ask what is left of the generation to stop, and tell [`Event::Cleared`] when
    /// nothing is.
    EndOrphans {
        /// Which.
        generation: u64,
    },
    /// Write this down; nothing else is to be done.
    Report(Report),
}

/// What people may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A generation is ready.
    Ready {
        /// Which.
        generation: u64,
        /// How long it took.
        after: Duration,
    },
    /// A generation ended or failed without being asked to.
    Fell {
        /// Which.
        generation: u64,
        /// How.
        failure: Failure,
        /// Falls in a row.
        falls: u32,
        /// When the next one starts.
        restart_in: Duration,
    },
    /// A changed spec did not get ready; what ran before runs on.
    Rejected(Rejected),
    /// A generation did not stop when asked and is killed.
    Killed {
        /// Which.
        generation: u64,
    },
    /// All processes have ended, as asked.
    Stopped,
}

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was adopted, so only its end is known.
    Unknown,
}

/// Why a generation does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It ended by itself.
    Exit(Exit),
    /// It was not ready in time.
    NotReady {
        /// The time it had.
        within: Duration,
    },
    /// It could not be started.
    Spawn {
        /// Why.
        reason: String,
    },
}

/// A changed spec that did not get ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The order.
    pub order: u64,
    /// Why.
    pub failure: Failure,
}

/// One word for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing runs, as asked.
    Stopped,
    /// A generation runs and is not ready yet.
    Starting,
    /// A generation is ready.
    Ready,
    /// It fell, and the next start waits.
    BackingOff,
    /// It is to stop and still finishes its work.
    Draining,
    /// It fell [`FALLS_UNTIL_FAILED`] times in a row. It is still started again.
    Failed,
}

/// Where a generation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Started, not ready yet.
    Starting {
        /// Since when.
        since: Instant,
        /// It counts as failed then.
        deadline: Instant,
    },
    /// Serves.
    Ready {
        /// Since when.
        since: Instant,
    },
    /// Asked to stop.
    Draining {
        /// It is killed then.
        kill_at: Instant,
    },
    /// Killed, end not seen yet.
    Killed {
        /// It is killed again then.
        again_at: Instant,
    },
    /// The main process is gone, others of the generation may live.
    Clearing {
        /// They are killed then.
        kill_at: Instant,
    },
}

/// One start of the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number; a later start has a higher one.
    pub number: u64,
    /// What it runs.
    pub order: Order,
    /// Where it is in its life.
    pub phase: Phase,
}

impl Generation {
    fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
    }

    fn is_ready(&self) -> bool {
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
            Adopted::Draining => {
                actions.push(Action::AskToStop { generation: number });
                Phase::Draining { kill_at: now + order.grace }
            }
        };
        if !matches!(phase, Phase::Draining { .. }) {
            self.target = order.clone();
        }
        self.running = true;
        self.next_generation = self.next_generation.max(number + 1);
        self.generations.push(Generation { number, order, phase });
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
            Phase::Ready { .. } => None,
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
            || self.generations.iter().any(|g| g.order.id == id)
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
        self.generations.push(Generation { number: generation, order: target.clone(), phase });
        actions.push(Action::Spawn { generation, order: target.id });
        actions.push(Action::Probe { generation });
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
        actions.push(Action::AskToStop { generation: generation.number });
    }

    fn kill(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        let generation = &mut self.generations[index];
        generation.phase = Phase::Killed { again_at: now + KILL_AGAIN_AFTER };
        actions.push(Action::Kill { generation: generation.number });
    }
}

/// What an earlier supervisor last knew of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adopted {
    /// Not ready yet.
    Starting,
    /// Ready.
    Ready,
    /// Asked to stop.
    Draining,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(exit) => write!(f, "it {exit}"),
            Self::NotReady { within } => write!(f, "it was not ready within {} s", within.as_secs_f32()),
            Self::Spawn { reason } => write!(f, "it could not be started: {reason}"),
        }
    }
}
