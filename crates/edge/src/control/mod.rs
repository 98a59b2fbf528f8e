//! The control thread: it alone changes what is in force, judges upstreams, and has them checked.
//!
//! Workers tell it what they see ([`Told`]); the admin socket and the role's signals give it [`Command`]s; it tells
//! workers what they must know ([`ToWorker`]). Between requests and it there is no lock: workers read the fitness of
//! upstreams from a [`Board`](crate::health::Board). Changes by hand are kept in [`live`], who waits for a change in
//! [`adoption`]; what is made of health is in [`judgement`].

mod adoption;
mod judgement;
mod live;
mod message;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mainstay_http::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::balance::UpstreamId;
use crate::balance::random::Random;
use crate::certificates::Served;
use crate::checker::Checker;
use crate::config::Config;
use crate::health::{Event, GroupHealth};
use crate::in_force::InForce;
use crate::metrics::Metrics;
use crate::services::{self, Current, Services};
use crate::site::Site;
use crate::status::Status;

use adoption::Adoption;
use live::LiveChanges;
use message::Changed;
pub(crate) use message::{Command, Purge, Refusal, Setting, ToWorker, Told};

/// What workers may tell and the control thread has not yet taken in.
pub(crate) const TOLD: usize = 8192;

/// The control thread's state.
pub(crate) struct Control {
    config: Config,
    digest: String,
    in_force: Arc<InForce>,
    health: HashMap<String, GroupHealth>,
    live: LiveChanges,
    refusal: Option<Refusal>,
    workers: Vec<mpsc::UnboundedSender<ToWorker>>,
    adoption: Adoption,
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
            adoption: Adoption::new(start.workers.len(), start.in_force.generation),
            in_force: start.in_force,
            health: HashMap::new(),
            live: LiveChanges::default(),
            refusal: None,
            workers: start.workers,
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
        health.into_iter().chain(self.adoption.next_due()).min().unwrap_or(far).min(far)
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
        self.adoption.time_passed(now);
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
                self.adoption.reached(worker, generation);
            }
        }
    }

    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::Reload(config, reply) => match self.reload(&config, now) {
                Ok(()) => {
                    self.metrics.reloads.with(&["ok"]).inc();
                    tracing::info!(digest = self.digest, "a new configuration is in force");
                    self.adoption.answer_at(self.in_force.generation, reply, now);
                }
                Err(why) => {
                    self.refused(&why, Some(config.digest()));
                    let _ = reply.send(Err(why));
                }
            },
            Command::NoConfig(why) => self.refused(&why, None),
            Command::Set(setting, reply) => {
                let set = self.live.set(&self.config.plan, &setting);
                self.carry_out(set, reply, now);
            }
            Command::Maintenance(on, reply) => {
                self.live.maintain(&self.config.plan, on);
                self.carry_out(Ok(()), reply, now);
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

    /// Has a live change carried out.
    fn carry_out(&mut self, change: Result<(), String>, reply: Changed, now: Instant) {
        match change.and_then(|()| self.adopt(&self.config.clone(), now)) {
            Ok(()) => self.adoption.answer_at(self.in_force.generation, reply, now),
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
        self.live.forget_but(&self.config.plan);
        self.refusal = None;
        Ok(())
    }

    /// Puts a configuration in force, with the live changes that hold.
    fn adopt(&mut self, config: &Config, now: Instant) -> Result<(), String> {
        let plan = self.live.on(&config.plan);
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
