//! The machine: what it knows, and how it takes events in. What it decides lies in the modules beside it, each an `impl` of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{Key, Leader, Member, Mode, Phase, Promotion, Step, Sync};
use super::position::{Epoch, Gtid, Name};
use super::rules::Rule;
use super::view::{LeaseId, Versioned, View};
use super::words::{
    Action, Durability, Event, Failure, Found, Io, Job, Observed, Outcome, Probed, Settings, Stamp,
    Transaction,
};

/// mariadbd as the machine knows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Server {
    /// There is no data.
    NoData,
    /// It does not run.
    Down,
    /// It runs; when it was last seen is in `heard`.
    Up,
    /// It is to die.
    Killing {
        /// When it is killed again.
        again_at: Duration,
    },
}

/// A job under way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) job: Job,
}

/// Why a transaction was sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Purpose {
    Claim { epoch: Epoch },
    Resume,
    Reassert,
    Release,
    Open { epoch: Epoch },
    Sync,
    Other,
    Publish,
}

/// A lease, and when its last good renewal was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) proven: Duration,
}

/// A probe of the primary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Probing {
    pub(super) id: u64,
    pub(super) at: Duration,
}

/// A failover as this server leads it.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    pub(super) epoch: Epoch,
    pub(super) since: Duration,
    pub(super) noticed: Duration,
    pub(super) why: String,
    pub(super) steps: Vec<Step>,
    pub(super) promoted: Option<Plan>,
    pub(super) failed: u32,
    pub(super) first_write_told: bool,
}

/// What a promotion opens with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) gtid: Gtid,
    pub(super) members: Vec<Name>,
    pub(super) mode: Mode,
    pub(super) loss_accepted: bool,
}

/// Why writes are being closed although this server leads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaving {
    pub(super) why: String,
    pub(super) to: Name,
    pub(super) since: Duration,
    /// The position at which writes were closed.
    pub(super) closed: Option<Gtid>,
    pub(super) planned: bool,
}

/// Members on their way out of the synchronous set.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Removing {
    pub(super) members: Vec<Name>,
    /// Since when they cannot acknowledge.
    pub(super) excluded: Option<Duration>,
}

/// The failover machine of one keeper.
#[derive(Debug)]
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) stamp: Option<Stamp>,
    pub(super) view: Arc<View>,
    /// Whether the coordinator was ever seen.
    pub(super) has_view: bool,
    pub(super) wall_ms: u64,
    pub(super) stepped: Duration,

    pub(super) lease: Option<Lease>,
    pub(super) lease_asked: Option<Duration>,
    pub(super) began: Duration,
    /// When the last proof was sent that the lease of the leader's key lives.
    pub(super) proven: Option<Duration>,
    /// When the last write was sent that a replica acknowledged.
    pub(super) acknowledged: Option<Duration>,

    pub(super) server: Server,
    pub(super) heard: Duration,
    pub(super) seen: Option<Observed>,
    pub(super) job: Option<Running>,
    /// Whether all that it committed as a primary is certain to be on its disk.
    pub(super) is_flushed: bool,
    pub(super) job_ended: Duration,
    pub(super) retry_at: Duration,
    pub(super) crashes: Vec<Duration>,
    pub(super) needs_seed: Option<String>,
    /// In this epoch, when its primary was last heard of.
    pub(super) alive_at: Option<(Epoch, Duration)>,
    /// In this epoch, when the primary is followed again.
    pub(super) follow_at: (Epoch, Duration),
    /// How often the primary refused the position here.
    pub(super) refusals: u32,
    /// Not even a start helps.
    pub(super) is_hopeless: bool,
    pub(super) keep_beyond: Option<Gtid>,

    pub(super) next_id: u64,
    pub(super) flight: Option<(u64, Purpose)>,
    pub(super) awaited_revision: u64,
    pub(super) doubt: bool,
    pub(super) transact_at: Duration,

    /// The epoch in which this server takes writes.
    pub(super) open: Option<Epoch>,
    pub(super) revoked: Epoch,
    pub(super) leaderless: Option<Duration>,
    /// When the leader's absence was noticed, and what was said of it, for the timeline.
    pub(super) noticed: Option<Duration>,
    pub(super) lost_why: Option<String>,
    pub(super) last_leader: Option<Epoch>,
    pub(super) changes: Vec<Duration>,

    pub(super) recovery: Option<Recovery>,
    /// The epoch that it claimed because it was named.
    pub(super) called: Option<Epoch>,
    pub(super) leaving: Option<Leaving>,
    pub(super) close_failures: u32,
    pub(super) removing: Option<Removing>,
    pub(super) admitted: Option<Vec<Name>>,
    pub(super) semi_since: Option<Duration>,
    /// Since when the synchronous set is seen as it is.
    pub(super) set_since: Duration,
    pub(super) lost_since: BTreeMap<Name, Duration>,
    pub(super) probing: Option<Probing>,
    pub(super) probe_waits: bool,
    pub(super) probe_failures: u32,
    pub(super) probe_at: Duration,
    pub(super) probed: Option<Duration>,
    pub(super) published: Option<(Member, Duration)>,

    pub(super) actions: Vec<Action>,
    #[cfg(test)]
    pub(super) broken: Option<Rule>,
}

impl Machine {
    /// The machine of a keeper that begins, with what it found.
    pub fn new(settings: Settings, found: Found, now: Duration) -> Self {
        let (server, stamp, seen) = match found {
            Found::NoData => (Server::NoData, None, None),
            Found::Stopped(stamp) => (Server::Down, Some(stamp), None),
            Found::Running(stamp, observed) => (Server::Up, Some(stamp), Some(observed)),
        };
        // A server that takes writes goes on doing so for as long as a proof lasts: its keeper's death took nothing from it, and without
        // acknowledgements it can do no harm.
        let open = stamp.filter(|s| s.led && seen.as_ref().is_some_and(|o| !o.read_only)).map(|s| s.epoch);
        let semi_since = seen.as_ref().filter(|o| o.semi_sync).map(|_| now);
        Self {
            settings,
            stamp,
            view: Arc::new(View::default()),
            has_view: false,
            wall_ms: 0,
            stepped: now,
            lease: None,
            lease_asked: None,
            began: now,
            proven: None,
            acknowledged: None,
            server,
            heard: now,
            seen,
            job: None,
            is_flushed: false,
            job_ended: now,
            retry_at: now,
            crashes: Vec::new(),
            needs_seed: None,
            alive_at: None,
            follow_at: (Epoch(0), now),
            refusals: 0,
            is_hopeless: false,
            keep_beyond: None,
            next_id: 1,
            flight: None,
            awaited_revision: 0,
            doubt: false,
            transact_at: now,
            open,
            revoked: Epoch(0),
            leaderless: None,
            noticed: None,
            lost_why: None,
            last_leader: None,
            changes: Vec::new(),
            recovery: None,
            called: None,
            leaving: None,
            close_failures: 0,
            removing: None,
            admitted: None,
            semi_since,
            set_since: now,
            lost_since: BTreeMap::new(),
            probing: None,
            probe_waits: false,
            probe_failures: 0,
            probe_at: now,
            probed: None,
            published: None,
            actions: Vec::new(),
            #[cfg(test)]
            broken: None,
        }
    }

    /// Takes one event in. `now` is a monotonic clock that goes on while the keeper is frozen.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        // Whoever was frozen has heard nothing in that time, which says nothing about others.
        let gap = now.saturating_sub(self.stepped);
        if gap > Duration::from_millis(500) {
            self.heard += gap;
            self.lost_since.clear();
        }
        self.stepped = now;
        self.take(event, now);
        self.decide(now);
        std::mem::take(&mut self.actions)
    }

    /// Whether this server is the one that takes writes, as far as its keeper may say so now.
    pub fn open_epoch(&self) -> Option<Epoch> {
        self.open
    }

    /// Whether the lease of the leader's key is certain to live at this moment.
    pub fn is_covered(&self, now: Duration) -> bool {
        self.leads().is_some()
            && self.proven.is_some_and(|proven| now.saturating_sub(proven) < self.settings.timing.fence_after)
    }

    /// Why this server could not be promoted now.
    pub fn not_promotable(&self) -> Option<String> {
        self.why_not_promotable()
    }

    /// What it waits for, for whoever reads a trace.
    #[cfg(test)]
    pub(super) fn why(&self) -> String {
        format!("{:?} job {:?} flight {:?} behind {} doubt {} open {:?} leaving {:?} removing {:?} admitted {:?} needs {:?} stamp {:?} cannot {:?}",
            self.server, self.job, self.flight, self.is_behind(), self.doubt, self.open, self.leaving, self.removing,
            self.admitted, self.needs_seed, self.stamp, self.why_not_promotable())
    }

    pub(super) fn keeps(&self, rule: Rule) -> bool {
        #[cfg(test)]
        {
            self.broken != Some(rule)
        }
        #[cfg(not(test))]
        {
            let _ = rule;
            true
        }
    }

    fn take(&mut self, event: Event, now: Duration) {
        match event {
            Event::Tick { wall_ms } => self.wall_ms = wall_ms,
            Event::View(view) => self.saw_view(view, now),
            Event::Answer { id, outcome } => self.answered(id, outcome, now),
            Event::LeaseGranted { lease, sent_at } => {
                self.lease_asked = None;
                self.lease = Some(Lease { id: lease, proven: sent_at });
            }
            Event::LeaseRenewed { lease, sent_at } => self.renewed(lease, sent_at, now),
            Event::LeaseLost { lease } => {
                self.lease.take_if(|known| known.id == lease);
            }
            Event::LeaseFailed => self.lease_asked = None,
            Event::Observed { taken_at, observed } => {
                let applies = self
                    .job
                    .as_ref()
                    .is_none_or(|running| matches!(running.job, Job::Drain { .. } | Job::RescueRelay));
                let is_news = applies && taken_at >= self.job_ended;
                if matches!(self.server, Server::Up) {
                    self.heard = now;
                    if is_news {
                        self.seen = Some(observed);
                    }
                }
            }
            Event::Exited => self.exited(now),
            Event::Done { id, observed } => self.done(id, observed, now),
            Event::Failed { id, failure } => self.failed(id, &failure, now),
            Event::Probed { id, sent_at, result } => self.saw_probe(id, sent_at, &result, now),
        }
        if let Some(lease) = self.lease
            && self.view.leader.as_ref().is_some_and(|leader| {
                leader.value.server == self.settings.me && leader.lease == Some(lease.id)
            })
        {
            self.proven = Some(self.proven.map_or(lease.proven, |proven| proven.max(lease.proven)));
        }
    }

    fn renewed(&mut self, id: LeaseId, sent_at: Duration, now: Duration) {
        let counted = if self.keeps(Rule::CountFromSending) { sent_at } else { now };
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.id == id) {
            lease.proven = lease.proven.max(counted);
        }
    }

    fn saw_view(&mut self, view: Arc<View>, now: Duration) {
        if self.has_view && view.revision < self.view.revision {
            return;
        }
        if view.revision_of(&Key::Sync) != self.view.revision_of(&Key::Sync) {
            self.set_since = now;
        }
        self.view = view;
        self.has_view = true;
        let leads = self.view.leader.as_ref().map(|leader| leader.value.epoch);
        if leads.is_some() {
            self.leaderless = None;
            if leads != self.last_leader {
                self.last_leader = leads;
                self.changes.retain(|at| now.saturating_sub(*at) < super::claim::DAMPED_OVER);
                self.changes.push(now);
            }
        } else if self.leaderless.is_none() {
            self.leaderless = Some(now);
            self.noticed = Some(now);
            let released = self.view.epoch.as_ref().and_then(|given| given.value.released.as_ref());
            self.lost_why = released.map(|released| released.why.clone());
        }
    }

    fn answered(&mut self, id: u64, outcome: Outcome, now: Duration) {
        let Some((_, purpose)) = self.flight.take_if(|(flying, _)| *flying == id) else { return };
        match outcome {
            Outcome::Won { revision } => {
                self.awaited_revision = self.awaited_revision.max(revision);
                self.won(&purpose, now);
            }
            Outcome::Lost { revision } => {
                self.awaited_revision = self.awaited_revision.max(revision);
                self.transact_at = now + Duration::from_millis(20);
                if purpose == Purpose::Publish {
                    self.published = None;
                }
            }
            Outcome::Unknown => {
                self.transact_at = now + Duration::from_millis(100);
                if purpose == Purpose::Publish {
                    self.published = None;
                } else if self.keeps(Rule::SettleDoubt) {
                    self.doubt = true;
                }
            }
        }
    }

    fn won(&mut self, purpose: &Purpose, now: Duration) {
        match purpose {
            Purpose::Reassert | Purpose::Claim { .. } | Purpose::Resume => self.doubt = false,
            Purpose::Open { epoch } => {
                self.mark("opened", now);
                self.report(format!("epoch {epoch} is open on {}", self.settings.me));
            }
            Purpose::Sync => self.removing = None,
            Purpose::Release | Purpose::Other | Purpose::Publish => {}
        }
    }

    fn exited(&mut self, now: Duration) {
        let was_killed = matches!(self.server, Server::Killing { .. });
        if !was_killed {
            self.crashes.retain(|at| now.saturating_sub(*at) < super::claim::CRASHES_WITHIN);
            self.crashes.push(now);
            self.report(format!("mariadbd ended on {}", self.settings.me));
        }
        let is_about_server = self.job.as_ref().is_some_and(|running| {
            !matches!(running.job, Job::Initialise | Job::KeepArtifact { .. } | Job::Seed { .. })
        });
        if is_about_server {
            self.job = None;
        }
        if self.server != Server::NoData {
            self.server = Server::Down;
        }
        self.seen = None;
        self.open = None;
        self.leaving = None;
        self.admitted = None;
        self.semi_since = None;
        self.removing = None;
        self.forget_probes();
        if let Some(recovery) = &mut self.recovery {
            recovery.promoted = None;
        }
        self.retry_at = now + super::replica::backoff(self.crashes.len());
    }

    pub(super) fn forget_probes(&mut self) {
        self.probing = None;
        self.probe_waits = false;
        self.probe_failures = 0;
        self.acknowledged = None;
    }

    fn done(&mut self, id: u64, observed: Option<Observed>, now: Duration) {
        let Some(running) = self.job.take_if(|running| running.id == id) else { return };
        self.job_ended = now;
        self.heard = now;
        self.seen = observed;
        match running.job {
            Job::Initialise => {
                self.server = Server::Down;
                self.stamp = Some(Stamp { epoch: Epoch(0), led: true });
            }
            Job::Start { .. } => {
                self.server = Server::Up;
                self.is_flushed = true;
            }
            Job::Promote { epoch, semi_sync, admit } => {
                self.stamp = Some(Stamp { epoch, led: true });
                self.admitted = Some(admit);
                self.semi_since = semi_sync.then_some(now);
                self.mark("promoted", now);
            }
            Job::OpenWrites => {
                self.is_flushed = false;
                self.open = self.leads().map(|leader| leader.value.epoch);
                self.leaving = None;
                self.forget_probes();
            }
            Job::CloseWrites => {
                self.is_flushed = true;
                self.open = None;
                let closed = self.seen.as_ref().map(|seen| seen.applied);
                if let Some(leaving) = &mut self.leaving {
                    leaving.closed = closed;
                }
            }
            Job::Admit { members } => {
                if let Some(removing) = &mut self.removing
                    && removing.members.iter().all(|member| !members.contains(member))
                {
                    removing.excluded = Some(now);
                }
                self.admitted = Some(members);
            }
            Job::SetSemiSync { on } => self.semi_since = on.then_some(now),
            Job::Follow { epoch, .. } => {
                self.stamp = Some(Stamp { epoch, led: false });
                self.semi_since = None;
                self.admitted = None;
            }
            Job::KeepArtifact { .. } => self.keep_beyond = None,
            Job::Seed { epoch, .. } => {
                self.server = Server::Down;
                self.stamp = Some(Stamp { epoch, led: false });
                self.needs_seed = None;
                self.is_hopeless = false;
                self.refusals = 0;
                self.retry_at = now;
                self.crashes.clear();
            }
            Job::Drain { .. } | Job::RescueRelay => self.mark("drained", now),
            Job::Revoke => self.is_flushed = true,
            Job::CatchUp { .. } | Job::SetAcknowledging { .. } => {}
        }
    }

    fn failed(&mut self, id: u64, failure: &Failure, now: Duration) {
        let Some(running) = self.job.take_if(|running| running.id == id) else { return };
        self.job_ended = now;
        self.seen = None;
        self.retry_at = now + Duration::from_millis(300);
        self.report(format!("{:?} failed on {}: {failure:?}", running.job, self.settings.me));
        if let Failure::Hopeless(reason) = failure {
            self.needs_seed = Some(reason.clone());
            self.is_hopeless = true;
        }
        match (&running.job, failure) {
            (Job::Start { .. }, _) => {
                self.crashes.push(now);
                self.retry_at = now + super::replica::backoff(self.crashes.len());
                self.server = Server::Down;
            }
            (Job::Initialise | Job::KeepArtifact { .. } | Job::Seed { .. }, _) => {
                self.retry_at = now + Duration::from_secs(1);
            }
            (Job::CloseWrites, Failure::TimedOut | Failure::Failed(_)) => self.close_failures += 1,
            // It may still take effect, whenever mariadbd comes to it. Then nothing may be built on this process.
            (Job::Drain { .. } | Job::CatchUp { .. }, Failure::TimedOut) => {}
            (_, Failure::TimedOut) => self.kill("a statement did not end in time", now),
            _ => {}
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.failed += 1;
        }
    }

    fn saw_probe(&mut self, id: u64, sent_at: Duration, result: &Probed, now: Duration) {
        if self.probing.is_none_or(|probing| probing.id != id) {
            return;
        }
        match result {
            Probed::Committed => {
                self.probing = None;
                self.probe_waits = false;
                self.probe_failures = 0;
                self.probed = Some(sent_at);
                if self.semi_since.is_some_and(|since| since <= sent_at) {
                    self.acknowledged = Some(sent_at);
                }
                self.told_first_write(now);
            }
            Probed::Waiting => self.probe_waits = true,
            Probed::Failed(_) => {
                self.probing = None;
                self.probe_failures += 1;
            }
        }
    }

    // What is known.

    pub(super) fn sync(&self) -> Option<&Versioned<Sync>> {
        self.view.sync.as_ref()
    }

    /// The leader's key, if it is this server's.
    pub(super) fn leads(&self) -> Option<&Versioned<Leader>> {
        self.view.leader.as_ref().filter(|leader| leader.value.server == self.settings.me)
    }

    pub(super) fn is_strict(&self) -> bool {
        self.sync().is_some_and(|sync| sync.value.mode == Mode::Strict)
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.server, Server::Up)
    }

    /// What was seen of mariadbd since the last job.
    pub(super) fn seen_up(&self) -> Option<&Observed> {
        self.seen.as_ref().filter(|_| self.is_up())
    }

    pub(super) fn promotion_of(&self, name: &Name) -> Promotion {
        self.settings.servers.iter().find(|(server, _)| server == name).map_or(Promotion::Never, |(_, p)| *p)
    }

    pub(super) fn waits_for_replicas(&self, mode: Mode) -> bool {
        self.settings.servers.len() > 1
            && match mode {
                Mode::Strict => true,
                Mode::Degraded => false,
                Mode::Unprotected => true,
            }
    }

    pub(super) fn is_no_loss(&self) -> bool {
        self.settings.durability == Durability::NoLoss
    }

    /// Whether decisions that build on the view must wait for news of what was written last.
    pub(super) fn is_behind(&self) -> bool {
        self.view.revision < self.awaited_revision
    }

    pub(super) fn may_transact(&self, now: Duration) -> bool {
        self.flight.is_none() && !self.is_behind() && now >= self.transact_at
    }

    // What is asked for.

    pub(super) fn report(&mut self, text: String) {
        self.actions.push(Action::Report(text));
    }

    pub(super) fn kill(&mut self, why: &str, now: Duration) {
        if !matches!(self.server, Server::Up | Server::Down) {
            return;
        }
        self.server = Server::Killing { again_at: now + Duration::from_secs(1) };
        self.job = None;
        self.seen = None;
        self.actions.push(Action::Kill { why: why.to_owned() });
    }

    pub(super) fn run(&mut self, job: Job, now: Duration) {
        if self.job.is_some() || now < self.retry_at && !matches!(job, Job::Revoke) {
            return;
        }
        // What was seen before says nothing of what the job does.
        if !matches!(job, Job::Drain { .. } | Job::RescueRelay) {
            self.seen = None;
        }
        let id = self.id();
        let within = super::deadlines::of(&job);
        self.job = Some(Running { id, job: job.clone() });
        self.actions.push(Action::Do { id, job, within });
    }

    pub(super) fn transact(&mut self, purpose: Purpose, transaction: Transaction) {
        let id = self.id();
        self.flight = Some((id, purpose));
        self.actions.push(Action::Transact { id, transaction });
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn mark(&mut self, step: &str, now: Duration) {
        if let Some(recovery) = &mut self.recovery
            && recovery.steps.len() < 16
            && recovery.steps.iter().all(|known| known.step != step)
        {
            let after_ms = now.saturating_sub(recovery.noticed).as_millis() as u64;
            recovery.steps.push(Step { step: step.to_owned(), after_ms });
        }
    }

    /// A comparison of a key with what was seen of it.
    pub(super) fn as_seen(&self, key: Key) -> (Key, u64) {
        let revision = self.view.revision_of(&key);
        (key, revision)
    }

    pub(super) fn is_attached_alive(&self) -> bool {
        self.seen_up().is_some_and(|seen| matches!(seen.io, Io::Streaming { alive: true }))
    }

    pub(super) fn leader_phase(&self) -> Option<Phase> {
        self.view.leader.as_ref().map(|leader| leader.value.phase)
    }
}
