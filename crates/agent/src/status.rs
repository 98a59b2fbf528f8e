//! What the agent answers to `GET /v1/status`.

use serde::{Deserialize, Serialize};

use mainstay_process::ChildStatus;

/// A server, as its agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The server's name.
    pub server: String,
    /// The site's name.
    pub site: String,
    /// The revision of the plan that is being carried out.
    pub plan: String,
    /// Whether everything that the plan asks for was brought about once. Roles may have fallen since; see their states.
    pub settled: bool,
    /// What stands in the way, each in a sentence with what to do; empty when all is well.
    pub problems: Vec<String>,
    /// The agent itself.
    pub agent: AgentInfo,
    /// The roles, by name.
    pub roles: Vec<ChildStatus>,
    /// What all roles use together; absent without control groups.
    pub totals: Option<Totals>,
}

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How long it has been running.
    pub uptime_seconds: u64,
}

/// What all roles of a server use together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Memory without file cache.
    pub memory_bytes: u64,
    /// Processor time.
    pub cpu_seconds: f64,
    /// Processes.
    pub processes: u64,
}
