//! The open primary: it probes, leaves when it must or is asked to, and lets go when its mariadbd is dead.

use std::time::Duration;

use super::keys::{Given, Intent, Key, Mode, Promotion, Released, Value};
use super::machine::Machine;
use super::position::Name;
use super::state::{Leaving, Probing, Purpose, Server};
use super::words::{Action, Job, Observed, Stamp, Transaction};

/// Probes that mariadbd refuses in a row until it is taken to write nothing.
const PROBES_REFUSED: u32 = 3;
/// How often writes are tried to be closed until it is given up.
const CLOSE_TRIES: u32 = 3;

impl Machine {
    pub(super) fn serve(&mut self, now: Duration) {
        let Some(leader) = self.leads().cloned() else { return };
        let epoch = leader.value.epoch;
        match self.server {
            Server::Killing { .. } => return,
            Server::Down | Server::NoData => {
                return self.release("its mariadbd ended", None, now);
            }
            Server::Up => {}
        }
        if self.stamp != Some(Stamp { epoch, led: true }) {
            return self.release("its data is not of this epoch", None, now);
        }
        if !self.is_settled() {
            return self.reassert(now);
        }
        let Some(seen) = self.seen_up().cloned() else { return };
        if self.open.is_none() {
            if self.leaving.as_ref().is_some_and(|leaving| leaving.closed.is_some()) {
                return self.leave(now);
            }
            if seen.read_only {
                if self.would_wait_in_vain(&seen) {
                    // A write that waits keeps copies from being made (`mariadb-backup` waits for it), and without a copy
                    // no replica comes that could acknowledge it.
                    if !self.is_paused() {
                        self.manage_set(now);
                    }
                } else if !self.must_prove() || self.is_proven(now) {
                    self.run(Job::OpenWrites, now);
                }
            } else {
                self.open = Some(epoch);
            }
            return;
        }
        if self.is_strict() && !seen.semi_sync {
            return self.run(Job::SetSemiSync { on: true }, now);
        }
        self.consider_leaving(now);
        if self.leaving.is_some() {
            return self.leave(now);
        }
        if !self.is_paused() {
            self.manage_set(now);
        }
        self.tell_timeline(now);
    }

    /// Whether a write would wait and nobody is there to acknowledge it: so before the first replica has come.
    fn would_wait_in_vain(&self, seen: &Observed) -> bool {
        let Some(sync) = self.sync() else { return false };
        let mode = sync.value.mode;
        let acknowledges = |name: &Name| {
            seen.attached.contains(name)
                && self.view.members.get(name).is_some_and(|member| member.value.acknowledging)
        };
        mode == Mode::Unprotected
            && self.waits_for_replicas(mode)
            && !sync.value.members.iter().any(acknowledges)
    }

    /// Writes a row now and then: it proves that writes are acknowledged, and notices a full disk.
    pub(super) fn probe(&mut self, now: Duration) {
        if self.open.is_none() || !self.is_up() || self.leaving.is_some() || self.probing.is_some() {
            return;
        }
        let is_due = self.probed.is_none_or(|at| now.saturating_sub(at) >= self.settings.timing.probe_every)
            || self.removing.as_ref().is_some_and(|removing| removing.excluded > self.probed)
            || self.semi_since > self.probed;
        if is_due && now >= self.probe_at {
            let id = self.id();
            self.probing = Some(Probing { id, at: now });
            self.actions.push(Action::Probe { id });
            // One that is refused is repeated soon, so that a full disk is known soon, but not in a circle.
            self.probe_at = now + Duration::from_millis(20 + u64::from(self.probe_failures) * 100);
        }
    }

    fn consider_leaving(&mut self, now: Duration) {
        if self.leaving.is_some() || self.removing.is_some() {
            return;
        }
        let is_full = self.seen_up().is_some_and(|seen| seen.disk_full);
        if (is_full || self.probe_failures >= PROBES_REFUSED)
            && self.is_strict()
            && !self.is_paused()
            && let Some(to) = self.successor()
        {
            self.report(format!("{} cannot write; {to} takes over", self.settings.me));
            let why = "it cannot write".to_owned();
            self.leaving = Some(Leaving { why, to, since: now, closed: None, planned: false });
            self.close_failures = 0;
            return;
        }
        let Some(Intent::Switchover { to }) = self.view.intent.as_ref().map(|intent| intent.value.clone())
        else {
            return;
        };
        if self.flight.is_some() {
            return;
        }
        if let Some(reason) = self.refusal(&to) {
            return self.end_intent(format!("no switchover to {to}: {reason}"), now);
        }
        let why = "switchover".to_owned();
        self.leaving = Some(Leaving { why, to, since: now, closed: None, planned: true });
        self.close_failures = 0;
    }

    fn refusal(&self, to: &Name) -> Option<String> {
        if *to == self.settings.me {
            return Some("it is the primary".to_owned());
        }
        if !self.is_strict() || !self.sync().is_some_and(|sync| sync.value.members.contains(to)) {
            return Some("it is not in the synchronous set".to_owned());
        }
        let member = &self.view.members.get(to)?.value;
        if !self.is_healthy(to) {
            return Some("it does not replicate right now".to_owned());
        }
        member.not_promotable.clone().filter(|_| member.promotion != Promotion::Never)
    }

    /// The member of the set that is the best to take over.
    fn successor(&self) -> Option<Name> {
        let sync = &self.sync()?.value;
        sync.members
            .iter()
            .filter(|name| self.is_healthy(name))
            .filter_map(|name| self.view.members.get(name).map(|member| (name, &member.value)))
            .filter(|(_, member)| member.not_promotable.is_none())
            .max_by_key(|(_, member)| (member.promotion == Promotion::Prefer, member.received.seq))
            .map(|(name, _)| name.clone())
    }

    fn leave(&mut self, now: Duration) {
        let Some(leaving) = self.leaving.clone() else { return };
        let Some(closed) = leaving.closed else {
            if self.close_failures < CLOSE_TRIES {
                self.run(Job::CloseWrites, now);
            } else if leaving.planned {
                self.leaving = None;
                self.end_intent("no switchover: transactions wait for their acknowledgement".to_owned(), now);
            } else {
                self.kill("it cannot write, and cannot be closed", now);
            }
            return;
        };
        let is_there =
            self.view.members.get(&leaving.to).is_some_and(|member| member.value.applied.reaches(closed));
        if is_there || !leaving.planned {
            return self.release(&leaving.why, Some(leaving.to), now);
        }
        if now.saturating_sub(leaving.since) > self.settings.timing.switchover_within {
            self.leaving = None;
            self.end_intent(format!("no switchover: {} does not catch up", leaving.to), now);
        }
    }

    pub(super) fn end_intent(&mut self, text: String, now: Duration) {
        if !self.may_transact(now) {
            return;
        }
        self.report(text);
        let compare = vec![self.as_seen(Key::Leader), self.as_seen(Key::Intent)];
        self.transact(Purpose::Other, Transaction { compare, put: Vec::new(), delete: vec![Key::Intent] });
    }

    /// Lets go of the leader's key, so that others need not wait for the lease to run out.
    pub(super) fn release(&mut self, why: &str, nominee: Option<Name>, now: Duration) {
        let Some(leader) = self.leads().cloned() else { return };
        if !self.may_transact(now) {
            return;
        }
        let given = Given {
            epoch: leader.value.epoch,
            server: self.settings.me.clone(),
            released: Some(Released { why: why.to_owned(), nominee }),
        };
        let is_ours = self.leaving.as_ref().is_some_and(|leaving| leaving.planned);
        let mut compare = vec![(Key::Leader, leader.revision)];
        let mut delete = vec![Key::Leader];
        if is_ours {
            compare.push(self.as_seen(Key::Intent));
            delete.push(Key::Intent);
        }
        self.report(format!("{} lets go of epoch {}: {why}", self.settings.me, leader.value.epoch));
        self.transact(
            Purpose::Release,
            Transaction { compare, put: vec![(Value::Epoch(given), None)], delete },
        );
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(self.view.intent.as_ref().map(|intent| &intent.value),
            Some(Intent::Pause { until_ms, .. }) if *until_ms > self.wall_ms)
    }

    pub(super) fn told_first_write(&mut self, now: Duration) {
        self.mark("first-write", now);
    }

    /// Completes the history of this epoch with the time of its first acknowledged write.
    fn tell_timeline(&mut self, now: Duration) {
        let Some(recovery) = self.recovery.clone() else { return };
        let is_complete = recovery.steps.iter().any(|step| step.step == "first-write");
        if recovery.first_write_told || !is_complete || !self.may_transact(now) {
            return;
        }
        let Some(entry) = self.view.history.get(&recovery.epoch) else { return };
        let mut history = (*entry.value).clone();
        history.timeline = recovery.steps;
        let key = Key::History(recovery.epoch);
        let compare = vec![self.as_seen(Key::Leader), self.as_seen(key)];
        let put = vec![(Value::History(recovery.epoch, history), None)];
        self.transact(Purpose::Other, Transaction { compare, put, delete: Vec::new() });
        if let Some(recovery) = &mut self.recovery {
            recovery.first_write_told = true;
        }
    }
}
