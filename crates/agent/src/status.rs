//! What the agent answers to `GET /v1/status`.

use std::collections::BTreeMap;

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
    /// What the load balancer says of itself; absent without that role, and while it does not answer.
    #[serde(default)]
    pub edge: Option<EdgeStatus>,
}

/// The load balancer, as it answers on its admin socket (`GET /status`). What a newer one says besides is kept as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Requests a second, over the last seconds.
    #[serde(default)]
    pub requests_per_second: Option<f64>,
    /// Requests that are being worked on.
    #[serde(default)]
    pub requests_in_flight: i64,
    /// Open connections of clients.
    #[serde(default)]
    pub connections_open: i64,
    /// Whether visitors are turned away.
    #[serde(default)]
    pub maintenance: bool,
    /// The groups, in the order of the plan.
    #[serde(default)]
    pub groups: Vec<GroupStatus>,
    /// Services that are no HTTP.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
    /// All the rest.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// A service that is no HTTP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Where it is offered.
    #[serde(default)]
    pub listen: String,
    /// Its open connections.
    #[serde(default)]
    pub connections_open: i64,
    /// As many as there may be.
    #[serde(default)]
    pub connections: u64,
    /// All the rest.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// Servers that answer the same requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Upstreams that take requests.
    #[serde(default)]
    pub fit: u64,
    /// Requests that wait for room.
    #[serde(default)]
    pub waiting: i64,
    /// The servers.
    #[serde(default)]
    pub upstreams: Vec<UpstreamStatus>,
    /// All the rest.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// One server of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    #[serde(default)]
    pub address: String,
    /// `up`, `down`, `ejected`, `draining` and the like.
    pub state: String,
    /// Why, and since when, in a line for people.
    #[serde(default)]
    pub why: String,
    /// Its share.
    #[serde(default)]
    pub weight: u32,
    /// Requests at it now.
    #[serde(default)]
    pub in_flight: i64,
    /// Requests that it got.
    #[serde(default)]
    pub requests: u64,
    /// Requests that it failed.
    #[serde(default)]
    pub failures: u64,
    /// How long it takes, as a moving average.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// All the rest.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl UpstreamStatus {
    /// Whether it should take requests and does not.
    pub fn is_in_trouble(&self) -> bool {
        !matches!(self.state.as_str(), "up" | "unchecked" | "draining")
    }
}

impl EdgeStatus {
    /// All requests that its upstreams got.
    pub fn requests(&self) -> u64 {
        self.groups.iter().flat_map(|group| &group.upstreams).map(|upstream| upstream.requests).sum()
    }
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
