//! What is in force: the plan, and what all workers share of it.
//!
//! The control thread makes one for each plan, or change of one, and gives it to every worker. What belongs to an
//! upstream that stays goes on in the next one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mainstay_http::metrics::{Counter, Gauge};
use mainstay_site::plan::EdgePlan;
use mainstay_site::plan::edge::{RouteAction, UpstreamGroup};
use tokio::sync::Notify;

use crate::balance::UpstreamId;
use crate::config::Config;
use crate::health::Board;
use crate::metrics::Metrics;
use crate::rate::RateTable;

/// Keys of one rate limit that are remembered.
const RATE_PLACES: usize = 64 * 1024;

/// A plan in force.
pub(crate) struct InForce {
    /// Counts up with each change.
    pub(crate) generation: u64,
    /// The plan, with what was changed by the admin socket.
    pub(crate) plan: EdgePlan,
    pub(crate) groups: HashMap<String, Arc<SharedGroup>>,
    pub(crate) rates: HashMap<String, Arc<RateTable>>,
    /// Of routes that limit the requests worked on at once, by name.
    pub(crate) slots: HashMap<String, Arc<Slots>>,
    pub(crate) cookie_secret: String,
}

/// Requests of a route that are worked on at once.
pub(crate) struct Slots {
    most: AtomicU32,
    used: AtomicU32,
}

impl Slots {
    /// Takes one, until it is dropped.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let most = self.most.load(Ordering::Relaxed);
        let more = |used: u32| (used < most).then(|| used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Slot(Arc::clone(self)))
    }
}

/// A slot that is taken.
pub(crate) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all workers share of a group.
pub(crate) struct SharedGroup {
    pub(crate) plan: UpstreamGroup,
    pub(crate) board: Board,
    pub(crate) upstreams: Vec<Arc<SharedUpstream>>,
    pub(crate) queue: Arc<Queue>,
}

/// What all workers share of an upstream.
pub(crate) struct SharedUpstream {
    pub(crate) id: UpstreamId,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Requests in flight at most; 0: no limit, and nobody counts.
    most: AtomicU32,
    busy: AtomicU32,
    pub(crate) in_flight: Gauge,
    pub(crate) requests: Counter,
    pub(crate) failures: Counter,
}

impl SharedUpstream {
    /// Whether one more request may be in flight. Only a hint: [`SharedUpstream::enter`] decides.
    pub(crate) fn has_room(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        most == 0 || self.busy.load(Ordering::Relaxed) < most
    }

    /// Takes a place. It must be left again, unless there is no limit ([`Place::Unlimited`]).
    pub(crate) fn enter(&self) -> Option<Place> {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return Some(Place::Unlimited);
        }
        let more = |busy: u32| (busy < most).then(|| busy + 1);
        self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Place::Taken)
    }

    pub(crate) fn leave(&self, place: Place) {
        if place == Place::Taken {
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A place at an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Unlimited,
    Taken,
}

/// Requests that wait for an upstream of a group to have room.
pub(crate) struct Queue {
    waiting: AtomicU32,
    pub(crate) room: Notify,
    length: Gauge,
}

impl Queue {
    /// How many wait.
    pub(crate) fn length(&self) -> i64 {
        self.length.value()
    }

    /// Whether someone waits.
    pub(crate) fn is_used(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Tells one who waits that there may be room.
    pub(crate) fn tell(&self) {
        if self.is_used() {
            self.room.notify_one();
        }
    }

    /// Joins, unless `most` wait already. Leaves when dropped.
    pub(crate) fn join(self: &Arc<Self>, most: u32) -> Option<Waiting> {
        let more = |waiting: u32| (waiting < most).then(|| waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.length.add(1);
        Some(Waiting(Arc::clone(self)))
    }
}

/// One who waits.
pub(crate) struct Waiting(Arc<Queue>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.length.add(-1);
        // Whoever was told of room and leaves for another reason must not keep it from the next.
        self.0.tell();
    }
}

impl InForce {
    /// Makes the next one. An error says what is wrong with the configuration; then nothing has changed.
    pub(crate) fn new(
        config: &Config,
        plan: EdgePlan,
        metrics: &Metrics,
        before: Option<&Self>,
        seed: u64,
        now: Instant,
    ) -> Result<Self, String> {
        check_names(&plan)?;
        let sticky = plan.groups.iter().any(|group| group.sticky.is_some());
        let cookie_secret = if sticky {
            let secret = config.secret(&plan.cookie_secret)?;
            String::from_utf8(secret).map_err(|_| "the secret of cookies is no text".to_owned())?
        } else {
            String::new()
        };
        if sticky && cookie_secret.trim().len() < 16 {
            return Err("the secret of cookies is shorter than 16 bytes".to_owned());
        }
        let mut groups = HashMap::new();
        for group in &plan.groups {
            let before = before.and_then(|before| before.groups.get(&group.name));
            groups.insert(group.name.clone(), Arc::new(SharedGroup::new(group, metrics, before)));
        }
        let mut rates = HashMap::new();
        for rate in &plan.rates {
            let kept = before.and_then(|before| before.rates.get(&rate.name)).filter(|table| table.limit() == rate);
            let table = kept.cloned().unwrap_or_else(|| Arc::new(RateTable::new(rate, RATE_PLACES, seed, now)));
            rates.insert(rate.name.clone(), table);
        }
        let mut slots = HashMap::new();
        for route in plan.routes.iter().filter(|route| route.concurrent > 0) {
            let kept = before.and_then(|before| before.slots.get(&route.name)).cloned();
            let kept = kept.unwrap_or_else(|| {
                Arc::new(Slots { most: AtomicU32::new(0), used: AtomicU32::new(0) })
            });
            slots.insert(route.name.clone(), kept);
        }
        let generation = before.map_or(1, |before| before.generation + 1);
        Ok(Self { generation, plan, groups, rates, slots, cookie_secret })
    }
}

impl InForce {
    /// Makes its limits those that count: it is in force from now on.
    pub(crate) fn settle(&self) {
        for group in self.groups.values() {
            for upstream in &group.upstreams {
                upstream.most.store(group.plan.connections, Ordering::Relaxed);
            }
        }
        for route in &self.plan.routes {
            if let Some(slots) = self.slots.get(&route.name) {
                slots.most.store(route.concurrent, Ordering::Relaxed);
            }
        }
    }
}

/// Names must be there and stand for one thing.
fn check_names(plan: &EdgePlan) -> Result<(), String> {
    fn once<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let mut seen = std::collections::HashSet::new();
        for name in names {
            if !seen.insert(name) {
                return Err(format!("there are two {kind} of the name {name}"));
            }
        }
        Ok(())
    }
    once("routes", plan.routes.iter().map(|route| route.name.as_str()))?;
    once("groups", plan.groups.iter().map(|group| group.name.as_str()))?;
    once("rate limits", plan.rates.iter().map(|rate| rate.name.as_str()))?;
    for group in &plan.groups {
        once("upstreams", group.upstreams.iter().map(|upstream| upstream.name.as_str()))
            .map_err(|error| format!("group {}: {error}", group.name))?;
    }
    let has_group = |name: &str| plan.groups.iter().any(|group| group.name == name);
    for route in &plan.routes {
        if let RouteAction::Forward { groups, .. } = &route.action {
            if groups.is_empty() {
                return Err(format!("route {} forwards to no group", route.name));
            }
            if let Some((name, _)) = groups.iter().find(|(name, _)| !has_group(name)) {
                return Err(format!("route {} names the group {name}, which is not there", route.name));
            }
        }
        if let Some(name) = route.rates.iter().find(|name| !plan.rates.iter().any(|rate| rate.name == **name)) {
            return Err(format!("route {} names the rate limit {name}, which is not there", route.name));
        }
    }
    for service in &plan.tcp {
        let named = service.by_name.iter().map(|(_, group)| group).chain(&service.group);
        if let Some(name) = named.into_iter().find(|name| !has_group(name)) {
            return Err(format!("service {} names the group {name}, which is not there", service.name));
        }
    }
    Ok(())
}

impl SharedGroup {
    fn new(plan: &UpstreamGroup, metrics: &Metrics, before: Option<&Arc<Self>>) -> Self {
        let upstreams = plan.upstreams.iter().map(|upstream| {
            let id = UpstreamId::of(upstream);
            let kept = before.and_then(|before| before.upstreams.iter().find(|old| old.id == id)).cloned();
            let shared = kept.unwrap_or_else(|| {
                let labels = [plan.name.as_str(), upstream.name.as_str()];
                Arc::new(SharedUpstream {
                    id,
                    name: upstream.name.clone(),
                    address: upstream.address,
                    most: AtomicU32::new(plan.connections),
                    busy: AtomicU32::new(0),
                    in_flight: metrics.upstream_in_flight.with(&labels),
                    requests: metrics.upstream_requests.with(&labels),
                    failures: Counter::default(),
                })
            });
            shared
        });
        let queue = before.map_or_else(
            || {
                let length = metrics.queue_length.with(&[&plan.name]);
                Arc::new(Queue { waiting: AtomicU32::new(0), room: Notify::new(), length })
            },
            |before| Arc::clone(&before.queue),
        );
        Self {
            plan: plan.clone(),
            board: Board::new(plan.upstreams.len()),
            upstreams: upstreams.collect(),
            queue,
        }
    }

    /// How long a request waits for room at most.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.plan.queue_ms)
    }
}
