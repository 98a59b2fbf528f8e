//! What a supervisor tells of its children.

use serde::{Deserialize, Serialize};

use crate::supervise::State;

/// A child, for people and for programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// The role's name.
    pub name: String,
    /// One word.
    pub state: State,
    /// The main process of the current generation.
    pub pid: Option<i32>,
    /// The current generation: the one that serves, or else the one that starts.
    pub generation: Option<u64>,
    /// When the current generation started (RFC 3339).
    pub since: Option<String>,
    /// Whether a change is on its way: what serves is not yet what is to run.
    #[serde(default)]
    pub changing: bool,
    /// Generations that still finish their work.
    pub draining: usize,
    /// Restarts after falls, since the supervisor started.
    pub restarts: u64,
    /// Falls in a row.
    pub falls: u32,
    /// The last end of a generation.
    pub last_exit: Option<LastExit>,
    /// Why the last changed spec was not taken, until the next change.
    pub rejected: Option<String>,
    /// The user that it runs as.
    pub user: String,
    /// What it listens on, by the names of its sockets.
    pub listens: Vec<String>,
    /// Memory of all its processes, without file cache; absent without control groups.
    pub memory_bytes: Option<u64>,
    /// Processor time of all its processes since the group was made; absent without control groups.
    pub cpu_seconds: Option<f64>,
    /// Its processes; absent without control groups.
    pub processes: Option<u64>,
    /// Why the generation that starts is not ready yet.
    pub not_ready: Option<String>,
    /// What it wrote last.
    pub last_words: Vec<String>,
    /// Log lines that could not be written.
    pub log_lines_dropped: u64,
}

/// The end of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Which.
    pub generation: u64,
    /// The exit code, where there is one.
    pub code: Option<i32>,
    /// The signal that ended it, where there is one.
    pub signal: Option<i32>,
    /// When (RFC 3339).
    pub at: String,
    /// Whether it was asked to.
    pub asked: bool,
}
