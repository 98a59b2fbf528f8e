//! What a keeper tells the others of its server.

use std::time::Duration;

use super::keys::{Intent, Key, Member, Phase, State, Value};
use super::machine::Machine;
use super::position::{Epoch, Gtid};
use super::state::{Purpose, Server};
use super::words::{Io, Job, Transaction};

/// How often a position is told that others wait for.
const HURRIED: Duration = Duration::from_millis(30);

impl Machine {
    pub(super) fn publish(&mut self, now: Duration) {
        let Some(lease) = self.lease else { return };
        if !self.may_transact(now) {
            return;
        }
        let me = self.settings.me.clone();
        let key = Key::Member(me.clone());
        let Some(member) = self.report_of() else { return };
        let there = self.view.members.get(&me);
        let is_ours = there.is_some_and(|there| there.lease == Some(lease.id));
        let is_due = match &self.published {
            Some((last, at)) if is_ours => {
                let steady = Member { received: last.received, applied: last.applied, ..member.clone() };
                let waited = now.saturating_sub(*at);
                let every = if self.is_hurried() { HURRIED } else { self.settings.timing.report_every };
                steady != *last || member != *last && waited >= every
            }
            _ => true,
        };
        if !is_due {
            return;
        }
        let compare = vec![self.as_seen(key)];
        self.published = Some((member.clone(), now));
        let put = vec![(Value::Member(me, member), Some(lease.id))];
        self.transact(Purpose::Publish, Transaction { compare, put, delete: Vec::new() });
    }

    fn is_hurried(&self) -> bool {
        let leaves = matches!(self.view.intent.as_ref().map(|intent| &intent.value),
            Some(Intent::Switchover { to }) if *to == self.settings.me);
        leaves || self.leader_phase() == Some(Phase::Recovering)
    }

    /// The report; none while what it would say is not known.
    fn report_of(&self) -> Option<Member> {
        let me = &self.settings.me;
        let last = self.published.as_ref().map(|(member, _)| member);
        let turns_on = self.job.as_ref().is_some_and(|running| {
            matches!(
                running.job,
                Job::SetAcknowledging { on: true } | Job::Follow { acknowledging: true, .. }
            )
        });
        if self.is_up() && self.seen.is_none() {
            return None;
        }
        let seen = self.seen_up();
        let leads = self.leads().map(|leader| leader.value.phase);
        let revoked = self.view.leader.as_ref().is_some_and(|leader| {
            leader.value.phase == Phase::Recovering && self.revoked >= leader.value.epoch
        });
        let state = match self.server {
            _ if matches!(self.job.as_ref().map(|running| &running.job), Some(Job::Seed { .. })) => {
                State::Seeding
            }
            Server::NoData => State::Absent,
            _ if self.needs_seed.is_some() => State::NeedsSeed,
            Server::Down | Server::Killing { .. } => State::Down,
            Server::Up => match leads {
                Some(Phase::Open) => State::Primary,
                Some(Phase::Recovering) => State::Recovering,
                None if revoked => State::Revoked,
                None => State::Replica,
            },
        };
        // A server that is down cannot be asked what it has.
        let revoked_epoch = if seen.is_some() { self.revoked } else { Epoch(0) };
        Some(Member {
            state,
            epoch: self.view.leader.as_ref().map_or(Epoch(0), |leader| leader.value.epoch),
            revoked_epoch,
            received: seen.map(|seen| seen.received).or(last.map(|last| last.received)).unwrap_or(Gtid::NONE),
            applied: seen.map(|seen| seen.applied).or(last.map(|last| last.applied)).unwrap_or(Gtid::NONE),
            lineage: self.stamp.map(|stamp| stamp.epoch),
            source: seen.and_then(|seen| seen.source.clone()),
            streaming: seen.is_some_and(|seen| matches!(seen.io, Io::Streaming { .. })),
            acknowledging: turns_on || seen.is_some_and(|seen| seen.acknowledging),
            sync_revision: self.view.revision_of(&Key::Sync),
            not_promotable: self.why_not_promotable(),
            promotion: self.promotion_of(me),
        })
    }
}
