//! What the admin socket tells of the role's state.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mainstay_site::plan::edge::EdgeListener;
use serde::Serialize;

use crate::balance::{self, UpstreamId};
use crate::control::Refusal;
use crate::health::{Fitness, GroupHealth};
use crate::in_force::InForce;
use crate::metrics::Metrics;
use crate::tcp::TcpMetrics;

/// Everything, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// SHA-256 of the configuration in force.
    config: String,
    /// Counts up with each change.
    generation: u64,
    /// The last configuration that was refused, if none was taken over since.
    refused: Option<Refusal>,
    uptime_secs: u64,
    maintenance: bool,
    requests_in_flight: i64,
    connections_open: i64,
    listeners: Vec<EdgeListener>,
    routes: usize,
    cache: Option<CacheStatus>,
    groups: Vec<GroupStatus>,
    /// Services that are no HTTP.
    services: Vec<ServiceStatus>,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    name: String,
    listen: String,
    connections_open: i64,
    /// As many as there may be, and of one client.
    connections: u32,
    connections_per_client: u32,
}

#[derive(Debug, Serialize)]
struct CacheStatus {
    bytes: usize,
    responses: usize,
}

#[derive(Debug, Serialize)]
struct GroupStatus {
    name: String,
    /// Upstreams that take requests.
    fit: usize,
    waiting: i64,
    upstreams: Vec<UpstreamStatus>,
}

#[derive(Debug, Serialize)]
struct UpstreamStatus {
    name: String,
    address: String,
    /// `up`, `unchecked`, `down`, `ejected`, `probation` or `draining`.
    state: &'static str,
    /// A line for people.
    why: String,
    /// Seconds in this state.
    since_secs: u64,
    weight: u32,
    /// The weight that it has now: less than `weight` while it starts slowly, 0 while it gets no new requests.
    effective_weight: f64,
    drain: bool,
    backup: bool,
    in_flight: i64,
    requests: u64,
    failures: u64,
    /// A moving average, in milliseconds.
    latency_ms: Option<f64>,
}

/// Where it comes from.
pub(crate) struct Sources<'a> {
    pub(crate) in_force: &'a InForce,
    pub(crate) health: &'a HashMap<String, GroupHealth>,
    pub(crate) latencies: &'a HashMap<UpstreamId, f64>,
    pub(crate) came_up: &'a HashMap<UpstreamId, Instant>,
    pub(crate) digest: &'a str,
    pub(crate) refusal: Option<&'a Refusal>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) started: Instant,
    pub(crate) now: Instant,
}

impl Status {
    pub(crate) fn new(sources: &Sources<'_>) -> Self {
        let plan = &sources.in_force.plan;
        let groups = plan.groups.iter().filter_map(|group| GroupStatus::new(&group.name, sources));
        Self {
            config: sources.digest.to_owned(),
            generation: sources.in_force.generation,
            refused: sources.refusal.cloned(),
            uptime_secs: sources.now.saturating_duration_since(sources.started).as_secs(),
            maintenance: plan.maintenance.is_some(),
            requests_in_flight: sources.metrics.in_flight.value(),
            connections_open: sources.metrics.registry.gauge("http_connections_open", "").value(),
            listeners: plan.listeners.clone(),
            routes: plan.routes.len(),
            cache: sources.in_force.cache.as_ref().map(|cache| {
                let (bytes, responses) = cache.size();
                CacheStatus { bytes, responses }
            }),
            groups: groups.collect(),
            services: services(sources),
        }
    }
}

fn services(sources: &Sources<'_>) -> Vec<ServiceStatus> {
    let metrics = TcpMetrics::new(&sources.metrics.registry);
    let services = sources.in_force.plan.tcp.iter();
    let services = services.map(|service| ServiceStatus {
        name: service.name.clone(),
        listen: service.listen.to_string(),
        connections_open: metrics.of(&service.name).open.value(),
        connections: service.connections,
        connections_per_client: service.connections_per_client,
    });
    services.collect()
}

impl GroupStatus {
    fn new(name: &str, sources: &Sources<'_>) -> Option<Self> {
        let (group, health) = (sources.in_force.groups.get(name)?, sources.health.get(name)?);
        let upstreams = group.upstreams.iter().zip(&group.plan.upstreams).enumerate();
        let upstreams = upstreams.map(|(index, (shared, planned))| {
            let (condition, since) = health.condition(index);
            UpstreamStatus {
                name: shared.name.clone(),
                address: shared.address.to_string(),
                state: condition.word(),
                why: condition.describe(since, sources.now),
                since_secs: sources.now.saturating_duration_since(since).as_secs(),
                weight: planned.weight,
                effective_weight: {
                    let slow_start = Duration::from_millis(group.plan.slow_start_ms);
                    let warmth =
                        balance::warmth(sources.came_up.get(&shared.id).copied(), slow_start, sources.now);
                    let gets_none = planned.drain || group.board.fitness(index) == Fitness::Unfit;
                    if gets_none { 0.0 } else { (f64::from(planned.weight) * warmth * 10.0).round() / 10.0 }
                },
                drain: planned.drain,
                backup: planned.backup,
                in_flight: shared.in_flight.value(),
                requests: shared.requests.value(),
                failures: shared.failures.value(),
                latency_ms: sources
                    .latencies
                    .get(&shared.id)
                    .map(|latency| (latency * 1000.0).round() / 1000.0),
            }
        });
        Some(Self {
            name: name.to_owned(),
            fit: health.fit(),
            waiting: group.queue.length(),
            upstreams: upstreams.collect(),
        })
    }
}
