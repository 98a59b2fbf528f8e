//! How events are taken in: what is known after each, before anything is decided.

use std::sync::Arc;
use std::time::Duration;

use super::keys::Key;
use super::machine::Machine;
use super::position::Epoch;
use super::rules::Rule;
use super::state::{Lease, Purpose, Server};
use super::view::{LeaseId, View};
use super::words::{Event, Failure, Job, Observed, Outcome, Probed, Stamp};

impl Machine {
    pub(super) fn take(&mut self, event: Event, now: Duration) {
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
                self.was_primary = true;
            }
            Job::Start { .. } => {
                self.server = Server::Up;
                self.is_flushed = true;
            }
            Job::Promote { epoch, semi_sync, admit } => {
                self.stamp = Some(Stamp { epoch, led: true });
                self.was_primary = true;
                self.admitted = Some(admit);
                self.semi_since = semi_sync.then_some(now);
                self.mark("promoted", now);
            }
            Job::OpenWrites => {
                self.is_flushed = false;
                // Whatever was seen meanwhile, the fence is to know of it.
                self.open = self.stamp.map(|stamp| stamp.epoch);
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
                self.was_primary = false;
                self.stamp = Some(Stamp { epoch, led: false });
                self.semi_since = None;
                self.admitted = None;
            }
            Job::KeepArtifact { .. } => self.keep_beyond = None,
            Job::Seed { epoch, .. } => {
                self.was_primary = false;
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
}
