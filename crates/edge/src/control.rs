//! The control thread: it alone changes what is in force, judges upstreams, and has them checked.
//!
//! Workers tell it what they see ([`Told`]); the admin socket and the role's signals give it [`Command`]s; it tells
//! workers what they must know ([`ToWorker`]). Between requests and it there is no lock: workers read the fitness of
//! upstreams from a [`Board`](crate::health::Board).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mainstay_http::Shutdown;
use mainstay_site::plan::EdgePlan;
use mainstay_site::plan::edge::{Maintenance, Upstream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::balance::UpstreamId;
use crate::balance::random::Random;
use crate::certificates::Served;
use crate::checker::Checker;
use crate::config::Config;
use crate::health::{Action, CheckId, Condition, Event, GroupHealth, Reason};
use crate::in_force::{InForce, SharedGroup};
use crate::metrics::Metrics;
use crate::services::{self, Current, Services};
use crate::site::Site;
use crate::status::Status;

/// What workers may tell and the control thread has not yet taken in.
pub(crate) const TOLD: usize = 8192;
/// How long a change may take to arrive at all workers.
const ADOPTION: Duration = Duration::from_secs(10);

/// What the control thread is told.
pub(crate) enum Told {
    /// A worker saw something of an upstream.
    Health(Arc<SharedGroup>, Event),
    /// A check ended.
    Checked(Arc<SharedGroup>, CheckId, Result<(), Reason>),
    /// A worker carries a plan out.
    Adopted { worker: usize, generation: u64 },
}

/// What a worker is told.
#[derive(Clone)]
pub(crate) enum ToWorker {
    /// Carry this out from now on.
    Adopt(Arc<InForce>),
    /// An upstream was found down: requests that wait for it may go elsewhere.
    Down(Arc<str>, UpstreamId),
    /// An upstream takes requests again.
    CameUp(Arc<str>, UpstreamId),
}

/// What the control thread is asked to do.
pub(crate) enum Command {
    /// Take over a new configuration.
    Reload(Box<Config>, oneshot::Sender<Result<(), String>>),
    /// Note that there was no new configuration to take over.
    NoConfig(String),
    /// Change an upstream without a plan.
    Set(Setting, oneshot::Sender<Result<(), String>>),
    /// Turn maintenance on or off.
    Maintenance(bool, oneshot::Sender<Result<(), String>>),
    /// Forget responses; answers how many.
    Purge(Purge, oneshot::Sender<Result<usize, String>>),
    /// Tell everything.
    Status(oneshot::Sender<Status>),
    /// Tell which configuration is in force, and the last refusal.
    Digest(oneshot::Sender<(String, Option<Refusal>)>),
}

/// What the cache is to forget.
#[derive(Debug, Clone)]
pub(crate) enum Purge {
    Url(String),
    Prefix(String),
    All,
}

/// A live change of an upstream.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) group: String,
    pub(crate) upstream: String,
    pub(crate) weight: Option<u32>,
    pub(crate) drain: Option<bool>,
}

/// A change that holds until the plan says something else about the upstream.
struct Override {
    planned: Upstream,
    weight: Option<u32>,
    drain: Option<bool>,
}

/// Hears what became of a change.
type Changed = oneshot::Sender<Result<(), String>>;

/// The control thread's state.
pub(crate) struct Control {
    config: Config,
    digest: String,
    in_force: Arc<InForce>,
    health: HashMap<String, GroupHealth>,
    overrides: HashMap<(String, String), Override>,
    /// Turned on or off by hand, while the plan said this.
    maintenance: Option<(bool, Option<Maintenance>)>,
    refusal: Option<Refusal>,
    workers: Vec<mpsc::UnboundedSender<ToWorker>>,
    adopted: Vec<u64>,
    /// Who waits for all workers to carry out a generation, since when.
    waiting: Vec<(u64, Instant, Changed)>,
    metrics: Metrics,
    told: mpsc::Sender<Told>,
    checks: JoinSet<()>,
    /// Checks under way, which can be told to hurry.
    hurry: HashMap<UpstreamId, oneshot::Sender<Duration>>,
    /// When upstreams last came up.
    came_up: HashMap<UpstreamId, Instant>,
    checker: Checker,
    tls: Served,
    services: Services,
    /// What is in force, for services that are no HTTP.
    current: Current,
    latencies: HashMap<UpstreamId, f64>,
    random: Random,
    started: Instant,
}

/// A configuration that was not taken over.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Refusal {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// SHA-256 of the configuration; none if it could not even be read.
    pub(crate) sha256: Option<String>,
    pub(crate) why: String,
}

/// What the control thread begins with.
pub(crate) struct Start {
    pub(crate) config: Config,
    pub(crate) in_force: Arc<InForce>,
    pub(crate) workers: Vec<mpsc::UnboundedSender<ToWorker>>,
    pub(crate) metrics: Metrics,
    pub(crate) told: mpsc::Sender<Told>,
    /// What listeners serve, where one has TLS.
    pub(crate) tls: Served,
    pub(crate) services: Services,
    pub(crate) current: Current,
    pub(crate) seed: u64,
}

impl Control {
    pub(crate) fn new(start: Start) -> Self {
        let mut control = Self {
            digest: start.config.digest(),
            config: start.config,
            adopted: vec![start.in_force.generation; start.workers.len()],
            in_force: start.in_force,
            health: HashMap::new(),
            overrides: HashMap::new(),
            maintenance: None,
            refusal: None,
            workers: start.workers,
            waiting: Vec::new(),
            metrics: start.metrics,
            told: start.told,
            checks: JoinSet::new(),
            hurry: HashMap::new(),
            came_up: HashMap::new(),
            checker: Checker,
            tls: start.tls,
            services: start.services,
            current: start.current,
            latencies: HashMap::new(),
            random: Random::new(start.seed),
            started: Instant::now(),
        };
        control.follow_plan(Instant::now());
        control
    }

    /// Runs until the role has ended.
    pub(crate) async fn run(
        mut self,
        mut told: mpsc::Receiver<Told>,
        mut commands: mpsc::Receiver<Command>,
        shutdown: Shutdown,
    ) {
        let ended = shutdown.reached(mainstay_http::Phase::Ended);
        tokio::pin!(ended);
        loop {
            let due = self.next_due();
            tokio::select! {
                () = &mut ended => return,
                Some(told) = told.recv() => self.take(told, Instant::now()),
                Some(command) = commands.recv() => self.obey(command, Instant::now()),
                Some(_) = self.checks.join_next() => {}
                () = tokio::time::sleep_until(due.into()) => {
                    let now = Instant::now();
                    self.time_passed(now);
                }
            }
        }
    }

    fn next_due(&self) -> Instant {
        let far = Instant::now() + Duration::from_mins(1);
        let health = self.health.values().filter_map(GroupHealth::next_due).min();
        let adoption = self.waiting.iter().map(|(_, since, _)| *since + ADOPTION).min();
        health.into_iter().chain(adoption).min().unwrap_or(far).min(far)
    }

    fn time_passed(&mut self, now: Instant) {
        let due: Vec<String> = self
            .health
            .iter()
            .filter(|(_, health)| health.next_due().is_some_and(|due| due <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.judge(&name, Event::Due, now);
        }
        let (late, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, since, _)| now >= *since + ADOPTION);
        self.waiting = waiting;
        for (_, _, reply) in late {
            let _ = reply.send(Err("a worker did not take the change over in time".to_owned()));
        }
    }

    fn take(&mut self, told: Told, now: Instant) {
        match told {
            Told::Health(group, event) => {
                if let Event::Summarized(summary) = &event
                    && summary.requests > 0
                {
                    let mean = summary.latency.as_secs_f64() * 1000.0 / f64::from(summary.requests);
                    let latency = self.latencies.entry(summary.upstream).or_insert(mean);
                    *latency += (mean - *latency) * 0.3;
                }
                self.judge(&group.plan.name, event, now);
            }
            Told::Checked(group, check, result) => {
                self.hurry.remove(&check.upstream);
                let name = group
                    .upstreams
                    .iter()
                    .find(|upstream| upstream.id == check.upstream)
                    .map(|upstream| &upstream.name);
                if let Some(name) = name {
                    self.metrics.checked(&group.plan.name, name, result.is_ok());
                }
                let event = match result {
                    Ok(()) => Event::CheckPassed(check),
                    Err(reason) => Event::CheckFailed(check, reason),
                };
                self.judge(&group.plan.name, event, now);
            }
            Told::Adopted { worker, generation } => {
                if let Some(adopted) = self.adopted.get_mut(worker) {
                    *adopted = generation;
                }
                self.answer_adopted();
            }
        }
    }

    fn answer_adopted(&mut self) {
        let adopted = self.adopted.iter().copied().min().unwrap_or(u64::MAX);
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(generation, _, _)| *generation <= adopted);
        self.waiting = waiting;
        for (_, _, reply) in done {
            let _ = reply.send(Ok(()));
        }
    }

    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::Reload(config, reply) => match self.reload(&config, now) {
                Ok(()) => {
                    self.metrics.reloads.with(&["ok"]).inc();
                    tracing::info!(digest = self.digest, "a new configuration is in force");
                    self.waiting.push((self.in_force.generation, now, reply));
                    self.answer_adopted();
                }
                Err(why) => {
                    self.refused(&why, Some(config.digest()));
                    let _ = reply.send(Err(why));
                }
            },
            Command::NoConfig(why) => self.refused(&why, None),
            Command::Set(setting, reply) => {
                self.answer(|control| control.set(&setting), reply, now);
            }
            Command::Maintenance(on, reply) => {
                self.answer(
                    |control| {
                        control.maintenance = Some((on, control.config.plan.maintenance.clone()));
                        Ok(())
                    },
                    reply,
                    now,
                );
            }
            Command::Purge(purge, reply) => {
                let _ = reply.send(self.purge(&purge));
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status(now));
            }
            Command::Digest(reply) => {
                let _ = reply.send((self.digest.clone(), self.refusal.clone()));
            }
        }
    }

    fn refused(&mut self, why: &str, sha256: Option<String>) {
        self.metrics.reloads.with(&["refused"]).inc();
        tracing::error!(why, "a new configuration was refused; the old one stays in force");
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.refusal = Some(Refusal { at, sha256, why: why.to_owned() });
    }

    /// Makes a live change and has it carried out.
    fn answer(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(), String>,
        reply: oneshot::Sender<Result<(), String>>,
        now: Instant,
    ) {
        match change(self).and_then(|()| self.adopt(&self.config.clone(), now)) {
            Ok(()) => {
                self.waiting.push((self.in_force.generation, now, reply));
                self.answer_adopted();
            }
            Err(why) => {
                let _ = reply.send(Err(why));
            }
        }
    }

    fn reload(&mut self, config: &Config, now: Instant) -> Result<(), String> {
        self.config.allows(config)?;
        self.adopt(config, now)?;
        self.digest = config.digest();
        self.config = config.clone();
        self.forget_overrides();
        self.refusal = None;
        Ok(())
    }

    /// Puts a configuration in force, with the live changes that hold.
    fn adopt(&mut self, config: &Config, now: Instant) -> Result<(), String> {
        let plan = self.effective(&config.plan);
        let seed = self.random.next();
        let next = InForce::new(config, plan, &self.metrics, Some(&self.in_force), seed, now)?;
        let next = Arc::new(next);
        Site::check(&next, &self.metrics, now)?;
        let services = services::compile(&next.plan, &self.tls)?;
        self.tls.replace(config)?;
        self.services.replace(services);
        next.settle();
        self.in_force = next;
        self.current.replace(Arc::clone(&self.in_force));
        self.follow_plan(now);
        self.tell_all(&ToWorker::Adopt(Arc::clone(&self.in_force)));
        Ok(())
    }

    /// Brings health in line with the plan in force, and writes its boards.
    fn follow_plan(&mut self, now: Instant) {
        let in_force = Arc::clone(&self.in_force);
        self.health.retain(|name, _| in_force.groups.contains_key(name));
        let planned = |id: &UpstreamId| {
            in_force.groups.values().any(|group| group.upstreams.iter().any(|upstream| upstream.id == *id))
        };
        self.came_up.retain(|id, _| planned(id));
        for (name, group) in &in_force.groups {
            let actions = if let Some(health) = self.health.get_mut(name) {
                health.update(&group.plan, now)
            } else {
                let mut health = GroupHealth::new(&group.plan, self.random.next(), now);
                let actions = health.handle(Event::Due, now);
                self.health.insert(name.clone(), health);
                actions
            };
            self.publish(name);
            self.act(name, actions);
        }
    }

    fn judge(&mut self, name: &str, event: Event, now: Instant) {
        if let Some(health) = self.health.get_mut(name) {
            let doubted = if let Event::Silent(upstream) = event { Some(upstream) } else { None };
            let actions = health.handle(event, now);
            if let Some(upstream) = doubted
                && let Some(limit) = health.check_limit(upstream)
                && let Some(hurry) = self.hurry.remove(&upstream)
            {
                // Nobody hears it if the check has just ended.
                let _ = hurry.send(limit);
            }
            self.act(name, actions);
        }
    }

    fn act(&mut self, name: &str, actions: Vec<Action>) {
        let Some(group) = self.in_force.groups.get(name).cloned() else { return };
        let label: Arc<str> = Arc::from(name);
        let named = |id: UpstreamId| {
            group.upstreams.iter().find(|upstream| upstream.id == id).map_or("?", |upstream| &upstream.name)
        };
        for action in actions {
            match action {
                Action::StartCheck(check) => self.start_check(&group, check),
                Action::Publish => self.publish(name),
                Action::Changed { upstream, from, to } => {
                    let (state, before) = (to.word(), from.word());
                    let now = Instant::now();
                    let why = to.describe(now, now);
                    tracing::info!(
                        group = name,
                        upstream = named(upstream),
                        state,
                        before,
                        why,
                        "an upstream changed"
                    );
                    self.publish(name);
                    if matches!(to, Condition::Down(_)) {
                        self.tell_all(&ToWorker::Down(Arc::clone(&label), upstream));
                    }
                }
                Action::CameUp(upstream) => {
                    self.came_up.insert(upstream, Instant::now());
                    self.tell_all(&ToWorker::CameUp(Arc::clone(&label), upstream));
                }
            }
        }
    }

    /// Writes a group's fitness where workers read it, and in metrics.
    fn publish(&self, name: &str) {
        let (Some(group), Some(health)) = (self.in_force.groups.get(name), self.health.get(name)) else {
            return;
        };
        group.board.publish(health.fitness());
        for (index, upstream) in group.upstreams.iter().enumerate() {
            let (condition, _) = health.condition(index);
            let labels = [name, upstream.name.as_str()];
            self.metrics.upstream_up.with(&labels).set(i64::from(*condition == Condition::Up));
            let ejected = matches!(condition, Condition::Ejected { .. } | Condition::Probation);
            self.metrics.upstream_ejected.with(&labels).set(i64::from(ejected));
        }
        group.queue.tell();
    }

    fn start_check(&mut self, group: &Arc<SharedGroup>, check: CheckId) {
        let Some(index) = group.upstreams.iter().position(|upstream| upstream.id == check.upstream) else {
            return;
        };
        let (told, group) = (self.told.clone(), Arc::clone(group));
        let checker = self.checker.clone();
        let limit = self.health.get(&group.plan.name).and_then(|health| health.check_limit(check.upstream));
        let limit = limit.unwrap_or(Duration::ZERO);
        let (hurry, hurried) = oneshot::channel();
        self.hurry.insert(check.upstream, hurry);
        self.checks.spawn_local(async move {
            let result = checker.check(&group, index, limit, hurried).await;
            // The control thread reads for as long as it runs.
            let _ = told.send(Told::Checked(group, check, result)).await;
        });
    }

    fn tell_all(&self, message: &ToWorker) {
        for worker in &self.workers {
            // A worker that has ended needs to know nothing.
            let _ = worker.send(message.clone());
        }
    }

    fn purge(&self, purge: &Purge) -> Result<usize, String> {
        let cache = self.in_force.cache.as_ref().ok_or("there is no cache")?;
        let count = match purge {
            Purge::Url(url) => cache.purge_url(url),
            Purge::Prefix(url) => cache.purge_prefix(url),
            Purge::All => Some(cache.purge_all()),
        };
        count.ok_or_else(|| "that is no http or https URL".to_owned())
    }

    fn set(&mut self, setting: &Setting) -> Result<(), String> {
        let group = self.config.plan.groups.iter().find(|group| group.name == setting.group);
        let group = group.ok_or_else(|| format!("there is no group {}", setting.group))?;
        let planned = group.upstreams.iter().find(|upstream| upstream.name == setting.upstream);
        let planned = planned
            .ok_or_else(|| format!("the group {} has no upstream {}", setting.group, setting.upstream))?;
        let key = (setting.group.clone(), setting.upstream.clone());
        let kept = self.overrides.entry(key).or_insert_with(|| Override {
            planned: planned.clone(),
            weight: None,
            drain: None,
        });
        kept.weight = setting.weight.or(kept.weight);
        kept.drain = setting.drain.or(kept.drain);
        tracing::info!(group = setting.group, upstream = setting.upstream, weight = ?kept.weight, drain = ?kept.drain, "changed live");
        Ok(())
    }

    /// The plan with the live changes that hold under it.
    fn effective(&self, plan: &EdgePlan) -> EdgePlan {
        let mut plan = plan.clone();
        for group in &mut plan.groups {
            for upstream in &mut group.upstreams {
                let key = (group.name.clone(), upstream.name.clone());
                if let Some(kept) = self.overrides.get(&key).filter(|kept| kept.planned == *upstream) {
                    upstream.weight = kept.weight.unwrap_or(upstream.weight);
                    upstream.drain = kept.drain.unwrap_or(upstream.drain);
                }
            }
        }
        if let Some((on, planned)) = &self.maintenance
            && *planned == plan.maintenance
        {
            plan.maintenance = on.then(|| plan.maintenance.take().unwrap_or_else(by_hand));
        }
        plan
    }

    fn forget_overrides(&mut self) {
        let plan = &self.config.plan;
        self.overrides.retain(|(group, name), kept| {
            let group = plan.groups.iter().find(|planned| planned.name == *group);
            let upstream =
                group.and_then(|group| group.upstreams.iter().find(|planned| planned.name == *name));
            upstream == Some(&kept.planned)
        });
        if self.maintenance.as_ref().is_some_and(|(_, planned)| *planned != plan.maintenance) {
            self.maintenance = None;
        }
    }

    fn status(&self, now: Instant) -> Status {
        Status::new(&crate::status::Sources {
            in_force: &self.in_force,
            health: &self.health,
            latencies: &self.latencies,
            came_up: &self.came_up,
            digest: &self.digest,
            refusal: self.refusal.as_ref(),
            metrics: &self.metrics,
            started: self.started,
            now,
        })
    }
}

/// Maintenance that was turned on without a plan.
fn by_hand() -> Maintenance {
    Maintenance {
        message: "This site is being worked on. Please come back in a few minutes.".to_owned(),
        retry_after_secs: 60,
        allow: Vec::new(),
    }
}
