//! The upstreams of a group, as one worker sees them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_http::pool::{ConnectOptions, Pool, PoolSettings, Protocol, Upstream};
use mainstay_http::proxy_protocol::Version;
use mainstay_site::plan::edge::{ProxyVersion, UpstreamGroup, UpstreamProtocol};
use tokio::sync::Notify;

use crate::admission::Gate;
use crate::balance::{Balancer, NoUpstream, Readiness, Tried, UpstreamId};
use crate::health::Fitness;
use crate::in_force::{InForce, Place, SharedGroup, SharedUpstream};
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::retry::RetryBudget;
use crate::sticky::Sticky;

/// How long a worker leaves out an upstream that took no connection, until the control thread has judged it.
const AVOID: Duration = Duration::from_millis(100);
/// The same where no health checks judge it.
const AVOID_UNCHECKED: Duration = Duration::from_secs(1);
/// Connections of a worker to one upstream; requests are bounded before they come here.
const CONNECTIONS: usize = 1 << 20;

/// A group, for as long as some plan has it. What changes with a plan is in its roster.
pub(crate) struct Group {
    pub(crate) name: String,
    /// The name, for records.
    pub(crate) label: Rc<str>,
    /// Lets as many requests ahead as the upstreams bear; the plan says whether it is used.
    pub(crate) gate: Rc<Gate>,
    pub(crate) balancer: RefCell<Balancer>,
    pub(crate) budget: RefCell<RetryBudget>,
    roster: RefCell<Rc<Roster>>,
}

/// The upstreams of a group under one plan.
pub(crate) struct Roster {
    pub(crate) shared: Arc<SharedGroup>,
    pub(crate) members: Vec<Rc<Member>>,
    pub(crate) pool: Pool,
    pub(crate) sticky: Option<Sticky>,
}

/// An upstream.
pub(crate) struct Member {
    pub(crate) name: Rc<str>,
    pub(crate) shared: Arc<SharedUpstream>,
    pub(crate) upstream: Upstream,
    pub(crate) metrics: UpstreamMetrics,
    /// It took no connection; until then others are better.
    avoid_until: Cell<Option<Instant>>,
    /// Told when it was found down, to all who wait for a response.
    pub(crate) went_down: Notify,
    /// Requests that wait for a response's head.
    waiting: Cell<u32>,
    /// Since when it has answered nothing, while requests wait.
    silent_since: Cell<Option<Instant>>,
    /// When the control thread was last told of that.
    told_silent: Cell<Option<Instant>>,
}

/// An upstream with a place for a request.
pub(crate) struct Chosen {
    pub(crate) index: usize,
    pub(crate) roster: Rc<Roster>,
    pub(crate) member: Rc<Member>,
    pub(crate) place: Place,
    /// The request is the one that shows whether the upstream is well again.
    pub(crate) probe: bool,
}

impl Group {
    /// The group of a plan, as one worker sees it. An error says what of the plan cannot be.
    pub(crate) fn new(
        in_force: &InForce,
        shared: &Arc<SharedGroup>,
        metrics: &Metrics,
        seed: u64,
        now: Instant,
    ) -> Result<Self, String> {
        let plan = &shared.plan;
        Ok(Self {
            name: plan.name.clone(),
            label: Rc::from(plan.name.as_str()),
            gate: Gate::new(plan.queue, shared.patience(), seed, now),
            balancer: RefCell::new(Balancer::new(plan, seed)),
            budget: RefCell::new(RetryBudget::new(plan.retry.budget_percent, now)),
            roster: RefCell::new(Rc::new(Roster::new(in_force, shared, metrics, None)?)),
        })
    }

    /// Takes over a new plan. Requests that are on their way see it when they next choose.
    pub(crate) fn update(
        &self,
        in_force: &InForce,
        shared: &Arc<SharedGroup>,
        metrics: &Metrics,
        now: Instant,
    ) -> Result<(), String> {
        let roster = Roster::new(in_force, shared, metrics, Some(&self.roster()))?;
        self.balancer.borrow_mut().update(&shared.plan, now);
        self.budget.borrow_mut().set_percent(shared.plan.retry.budget_percent);
        self.gate.set_bounds(shared.plan.queue, shared.patience());
        *self.roster.borrow_mut() = Rc::new(roster);
        Ok(())
    }

    pub(crate) fn roster(&self) -> Rc<Roster> {
        Rc::clone(&self.roster.borrow())
    }

    pub(crate) fn plan(&self) -> Arc<SharedGroup> {
        Arc::clone(&self.roster.borrow().shared)
    }

    /// Chooses an upstream and takes a place there.
    pub(crate) fn choose(&self, key: Option<u64>, tried: &Tried, now: Instant) -> Result<Chosen, NoUpstream> {
        let roster = self.roster();
        // Another worker may take the last place, or the one request of an upstream on probation, in between.
        for _ in 0..4 {
            let readiness = |index: usize| roster.readiness(index, now);
            let index = self.balancer.borrow_mut().choose(readiness, key, tried, now)?;
            if let Some(chosen) = Rc::clone(&roster).take(index) {
                return Ok(chosen);
            }
        }
        Err(NoUpstream::Full)
    }

    /// The upstream that a cookie names, if it is fit and has room.
    pub(crate) fn choose_sticky(&self, index: usize, now: Instant) -> Option<Chosen> {
        let roster = self.roster();
        let fit = roster.shared.board.fitness(index) == Fitness::Fit
            && roster.readiness(index, now) == Readiness::Ready;
        if fit { Rc::clone(&roster).take(index) } else { None }
    }

    /// Whether there is a fit upstream that was not tried.
    pub(crate) fn has_another(&self, tried: &Tried, now: Instant) -> bool {
        let roster = self.roster();
        (0..roster.members.len()).any(|index| {
            let planned = &roster.shared.plan.upstreams[index];
            planned.weight > 0
                && !planned.drain
                && !tried.contains(index)
                && roster.readiness(index, now) != Readiness::Unfit
        })
    }

    /// Gives up connections that no request uses.
    pub(crate) fn close_idle(&self) {
        let roster = self.roster();
        for member in &roster.members {
            roster.pool.close_upstream(&member.upstream);
        }
    }

    pub(crate) fn member(&self, id: UpstreamId) -> Option<Rc<Member>> {
        self.roster.borrow().members.iter().find(|member| member.shared.id == id).cloned()
    }
}

impl Roster {
    fn new(
        in_force: &InForce,
        shared: &Arc<SharedGroup>,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let plan = &shared.plan;
        let sticky = match &plan.sticky {
            Some(sticky) => Some(
                Sticky::new(sticky, plan, in_force.cookie_secret.trim())
                    .map_err(|error| format!("group {}: {error}", plan.name))?,
            ),
            None => None,
        };
        let members = shared.upstreams.iter().map(|upstream| {
            let old = before.and_then(|before| {
                before.members.iter().find(|member| Arc::ptr_eq(&member.shared, upstream)).cloned()
            });
            old.unwrap_or_else(|| {
                Rc::new(Member {
                    name: Rc::from(upstream.name.as_str()),
                    shared: Arc::clone(upstream),
                    upstream: Upstream::Tcp(upstream.address),
                    metrics: metrics.upstream(&plan.name, &upstream.name),
                    avoid_until: Cell::new(None),
                    went_down: Notify::new(),
                    waiting: Cell::new(0),
                    silent_since: Cell::new(None),
                    told_silent: Cell::new(None),
                })
            })
        });
        let members: Vec<_> = members.collect();
        let pool = match before.filter(|before| reaches_alike(&before.shared, shared)) {
            Some(before) => before.pool.clone(),
            None => Pool::new(pool_settings(shared)),
        };
        Ok(Self { shared: Arc::clone(shared), members, pool, sticky })
    }

    /// Whether an upstream can take a request.
    fn readiness(&self, index: usize, now: Instant) -> Readiness {
        let Some(member) = self.members.get(index) else { return Readiness::Unfit };
        if let Some(until) = member.avoid_until.get() {
            if now < until {
                return Readiness::Unfit;
            }
            member.avoid_until.set(None);
        }
        match self.shared.board.fitness(index) {
            Fitness::Unfit => Readiness::Unfit,
            Fitness::Fit | Fitness::Probe if member.shared.has_room() => Readiness::Ready,
            Fitness::Fit | Fitness::Probe => Readiness::Full,
        }
    }

    fn take(self: Rc<Self>, index: usize) -> Option<Chosen> {
        let member = Rc::clone(self.members.get(index)?);
        let probe = self.shared.board.fitness(index) == Fitness::Probe;
        let place = member.shared.enter()?;
        if probe && !self.shared.board.claim_probe(index) {
            member.shared.leave(place);
            return None;
        }
        Some(Chosen { index, member, place, probe, roster: self })
    }
}

/// Whether connections that were made under one plan may be used under the other.
fn reaches_alike(one: &SharedGroup, other: &SharedGroup) -> bool {
    let made_of = |group: &SharedGroup| group.tls.as_ref().map(|tls| tls.made_of);
    if made_of(one) != made_of(other) {
        return false;
    }
    let (one, other) = (&one.plan, &other.plan);
    let times =
        |plan: &UpstreamGroup| (plan.connect_ms, plan.first_byte_ms, plan.between_bytes_ms, plan.idle_ms);
    times(one) == times(other) && one.protocol == other.protocol && one.proxy_protocol == other.proxy_protocol
}

/// How a group's upstreams are reached.
pub(crate) fn pool_settings(group: &SharedGroup) -> PoolSettings {
    let plan = &group.plan;
    let after = |millis: u64| Duration::from_millis(millis.max(1));
    PoolSettings {
        protocol: match plan.protocol {
            UpstreamProtocol::Http1 => Protocol::Http1,
            UpstreamProtocol::Http2 => Protocol::Http2,
        },
        options: ConnectOptions {
            tls: group.tls.as_ref().map(|tls| tls.tls.clone()),
            proxy_protocol: plan.proxy_protocol.map(|version| match version {
                ProxyVersion::V1 => Version::V1,
                ProxyVersion::V2 => Version::V2,
            }),
        },
        connections: CONNECTIONS,
        connect: after(plan.connect_ms),
        first_byte: after(plan.first_byte_ms),
        between_bytes: after(plan.between_bytes_ms),
        idle: after(plan.idle_ms),
        ..PoolSettings::default()
    }
}

impl Member {
    /// It took no connection.
    pub(crate) fn avoid(&self, checked: bool, now: Instant) {
        self.avoid_until.set(Some(now + if checked { AVOID } else { AVOID_UNCHECKED }));
    }

    /// A request waits for its response's head until [`Member::heard`].
    pub(crate) fn awaited(&self, now: Instant) {
        if self.waiting.replace(self.waiting.get() + 1) == 0 {
            self.silent_since.set(Some(now));
        }
    }

    /// A request does not wait any more: `answered`, or given up.
    pub(crate) fn heard(&self, answered: bool, now: Instant) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        if self.waiting.get() == 0 {
            self.silent_since.set(None);
        } else if answered {
            self.silent_since.set(Some(now));
        }
    }

    /// How long it has answered nothing though requests wait, if that is `limit` at least, and how many wait. Asked again
    /// it says so only after as long again.
    pub(crate) fn is_silent_for(&self, limit: Duration, now: Instant) -> Option<(Duration, u32)> {
        let since = self.silent_since.get()?;
        let told = self.told_silent.get().map_or(since, |told| told.max(since));
        if now.saturating_duration_since(told) < limit {
            return None;
        }
        self.told_silent.set(Some(now));
        Some((now.saturating_duration_since(since), self.waiting.get()))
    }
}
