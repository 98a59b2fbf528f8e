//! What the machine hears, what it answers, and what it tells people.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Replace;

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
    /// Orders with the same number differ only in what a running generation can take over ([`Replace::Reload`]).
    pub family: Option<u64>,
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
    /// A generation has taken an order over.
    Reloaded {
        /// Which.
        generation: u64,
        /// The order.
        order: u64,
    },
    /// A generation does not take an order over.
    ReloadRefused {
        /// Which.
        generation: u64,
        /// The order.
        order: u64,
        /// Why.
        reason: String,
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
    /// Let a ready generation take over what changed with this order; then tell [`Event::Reloaded`] or
    /// [`Event::ReloadRefused`].
    Reload {
        /// Which.
        generation: u64,
        /// The order.
        order: u64,
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
    /// A generation has taken a change over.
    Reloaded {
        /// Which.
        generation: u64,
        /// How long it took.
        after: Duration,
    },
    /// A generation did not take a change over; a new one is started for it.
    ReloadRefused {
        /// Which.
        generation: u64,
        /// Why.
        reason: String,
    },
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
