//! The order in which a keeper decides: first what ends writes, then what the leader's key says it is.

use std::time::Duration;

use super::keys::Phase;
use super::keys::{Key, Value};
use super::machine::Machine;
use super::rules::Rule;
use super::state::{Purpose, Server};
use super::words::{Action, Job, Transaction};

impl Machine {
    pub(super) fn decide(&mut self, now: Duration) {
        self.kill_again(now);
        self.fence(now);
        self.doubt_server(now);
        self.ask_for_lease(now);
        self.probe(now);
        if !self.has_view {
            self.start(now);
            return;
        }
        // What was written but not seen yet would be decided again.
        if self.is_behind() {
            return;
        }
        match self.leads().map(|leader| leader.value.phase) {
            Some(Phase::Open) => self.serve(now),
            Some(Phase::Recovering) => self.recover(now),
            None => self.follow(now),
        }
        self.publish(now);
    }

    fn kill_again(&mut self, now: Duration) {
        if let Server::Killing { again_at } = &mut self.server
            && now >= *again_at
        {
            *again_at = now + Duration::from_secs(1);
            self.actions.push(Action::Kill { why: "it is still there".to_owned() });
        }
    }

    /// Ends writes that this server may not take any more. It is the last line: acknowledgements ended before, at the replicas.
    fn fence(&mut self, now: Duration) {
        let Some(epoch) = self.open else { return };
        if matches!(self.server, Server::Killing { .. }) {
            return;
        }
        let other = self
            .view
            .leader
            .as_ref()
            .is_some_and(|leader| leader.value.server != self.settings.me || leader.value.epoch > epoch);
        let newer = self.view.epoch.as_ref().is_some_and(|given| given.value.epoch > epoch);
        if (other || newer) && self.keeps(Rule::YieldToEpoch) {
            self.end_writes("another epoch was given", now);
        } else if self.must_prove() && !self.is_proven(now) && self.keeps(Rule::SelfFence) {
            self.end_writes("neither its lease nor an acknowledgement is proven", now);
        }
    }

    fn end_writes(&mut self, why: &str, now: Duration) {
        let waits = self.seen_up().is_some_and(|seen| seen.semi_sync);
        if waits && !self.keeps(Rule::FenceByKill) {
            self.job = None;
            self.run(Job::SetSemiSync { on: false }, now);
            return;
        }
        self.kill(why, now);
    }

    /// Whether another may lead without this server's help. Where only the last primary may, and that is this one, nobody can.
    pub(super) fn must_prove(&self) -> bool {
        if self.settings.servers.len() == 1 {
            return false;
        }
        let is_alone = self.has_view
            && !self.doubt
            // It may have changed the set itself, and not have seen that.
            && !self.is_behind()
            && !self.flight.as_ref().is_some_and(|(_, purpose)| *purpose == Purpose::Sync)
            && self.sync().is_some_and(|sync| sync.value.primary == self.settings.me)
            && !self.is_strict();
        !is_alone
    }

    pub(super) fn is_proven(&self, now: Duration) -> bool {
        let timing = &self.settings.timing;
        let within = |at: Duration, limit: Duration| now.saturating_sub(at) < limit;
        within(self.began, timing.fence_after)
            || self.proven.is_some_and(|at| within(at, timing.fence_after))
            || self.acknowledged.is_some_and(|at| within(at, timing.acknowledged_within))
    }

    /// A mariadbd that answers nothing is as good as dead, and worse: it may come back. SIGKILL ends a stopped process too.
    fn doubt_server(&mut self, now: Duration) {
        // Nobody waits for a replica, which may just be busy.
        let patience = if self.open.is_some() { 1 } else { 3 };
        let silent = now.saturating_sub(self.heard) >= self.settings.timing.unresponsive_after * patience;
        let is_long = self.job.as_ref().is_some_and(|running| {
            matches!(running.job, Job::Drain { .. } | Job::RescueRelay | Job::CatchUp { .. })
        });
        if self.is_up() && silent && !is_long {
            self.kill("it answers nothing", now);
        }
    }

    fn ask_for_lease(&mut self, now: Duration) {
        let asked_lately = self.lease_asked.is_some_and(|at| now.saturating_sub(at) < Duration::from_secs(2));
        if self.lease.is_none() && !asked_lately {
            self.lease_asked = Some(now);
            self.actions.push(Action::GrantLease);
        }
    }

    /// Writes the leader's key again as it is, under this keeper's own lease. Every transaction that was sent before compared the older
    /// revision, so that after this one none of them can still be done.
    pub(super) fn reassert(&mut self, now: Duration) {
        let (Some(lease), Some(leader)) = (self.lease, self.leads().cloned()) else { return };
        if !self.may_transact(now) {
            return;
        }
        self.transact(
            Purpose::Reassert,
            Transaction {
                compare: vec![(Key::Leader, leader.revision)],
                put: vec![(Value::Leader(leader.value), Some(lease.id))],
                delete: Vec::new(),
            },
        );
    }

    /// Whether the leader's key hangs on this keeper's lease, and nothing is in doubt.
    pub(super) fn is_settled(&self) -> bool {
        !self.doubt && self.leads().is_some_and(|leader| leader.lease == self.lease.map(|lease| lease.id))
    }
}
