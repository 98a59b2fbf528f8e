//! The machine itself: what it knows, and how it asks. What it decides lies in the modules beside it, each an `impl` of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{Key, Leader, Member, Mode, Phase, Promotion, Step, Sync};
use super::position::{Epoch, Gtid, Name};
use super::rules::Rule;
use super::state::{Lease, Leaving, Probing, Purpose, Recovery, Removing, Running, Server};
use super::view::{Versioned, View};
use super::words::{Action, Durability, Event, Found, Io, Job, Observed, Settings, Stamp, Transaction};

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
    /// Whether it wrote since it last followed.
    pub(super) was_primary: bool,
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
            was_primary: stamp.is_some_and(|stamp| stamp.led),
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

    /// Takes one event in. `now` is a monotonic clock that goes on while the keeper or the whole server is frozen (`CLOCK_BOOTTIME`).
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
        format!(
            "{:?} job {:?} flight {:?} behind {} doubt {} open {:?} leaving {:?} removing {:?} admitted {:?} needs {:?} stamp {:?} cannot {:?}",
            self.server,
            self.job,
            self.flight,
            self.is_behind(),
            self.doubt,
            self.open,
            self.leaving,
            self.removing,
            self.admitted,
            self.needs_seed,
            self.stamp,
            self.why_not_promotable()
        )
    }

    /// Whether a rule holds. It always does, but for tests that want to see it missed.
    #[cfg(test)]
    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Whether a rule holds. It always does, but for tests that want to see it missed.
    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    pub(super) fn keeps(&self, _rule: Rule) -> bool {
        true
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
        self.settings.servers.len() > 1 && mode != Mode::Degraded
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
        if let Job::Follow { epoch, .. } | Job::CatchUp { lineage: epoch, .. } = job {
            // It may be on the disk from now on, whatever becomes of the job; what is here was compared, and belongs to that epoch.
            self.stamp = Some(Stamp { epoch, led: false });
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
