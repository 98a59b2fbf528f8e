//! A server that does not lead: it starts, revokes, follows, returns, and is seeded.

use std::time::Duration;

use super::keys::{Identity, Key, Leader, Mode, Phase, Promotion, State, Value};
use super::machine::Machine;
use super::position::{Epoch, Name};
use super::rules::Rule;
use super::state::{Purpose, Server};
use super::words::{Io, Job, Role, Sql, Stamp, Transaction};

/// How long after so many ends in a row mariadbd is started again.
pub(super) fn backoff(ends: usize) -> Duration {
    match ends {
        0..=2 => Duration::ZERO,
        more => Duration::from_millis(250 << (more - 3).min(5)),
    }
}

/// A source without a connection for so long is silent.
const SILENT_AFTER: Duration = Duration::from_millis(1200);
/// How long after a source was silent it is tried again.
const SILENT_SOURCE_WAITS: Duration = Duration::from_millis(1500);
/// So often a primary may refuse a position until the data is given up.
const REFUSALS: u32 = 3;

impl Machine {
    pub(super) fn follow(&mut self, now: Duration) {
        self.recovery = None;
        self.leaving = None;
        self.removing = None;
        if let Some(epoch) = self.open {
            return self.resume(epoch, now);
        }
        if self.seen_up().is_some_and(|seen| !seen.read_only) {
            return self.kill("it takes writes without leading", now);
        }
        let leader = self.view.leader.as_ref().map(|leader| leader.value.clone());
        let is_open = leader.as_ref().is_some_and(|leader| leader.phase == Phase::Open);
        // Without a leader that has everything, what is here may be asked for, and be the only one.
        if !is_open && (!self.is_hopeless || self.is_overriding()) {
            self.needs_seed = None;
            self.is_hopeless = false;
        }
        match (&self.server, leader) {
            (Server::Killing { .. }, _) => {}
            (Server::NoData, leader) => self.seek_data(leader, now),
            (Server::Down, leader) if self.needs_seed.is_some() => self.give_up_data(leader.as_ref(), now),
            (Server::Down, _) => self.start(now),
            (Server::Up, None) => self.claim(now),
            (Server::Up, Some(leader)) if leader.phase == Phase::Recovering => {
                self.revoke(leader.epoch, now);
            }
            (Server::Up, Some(leader)) => self.join(&leader, now),
        }
    }

    /// Starts mariadbd, once its role is certain.
    pub(super) fn start(&mut self, now: Duration) {
        if self.server != Server::Down || self.is_paused() {
            return;
        }
        if let Some(role) = self.role() {
            self.run(Job::Start { role }, now);
        }
    }

    fn role(&self) -> Option<Role> {
        // All that a replica has came from the primary, and it may be the one that vouches for it. Truncation would lose what it applied
        // last and has no relay log of any more.
        if self.stamp.is_some_and(|stamp| !stamp.led) {
            return Some(if self.keeps(Rule::StartReplicasWhole) { Role::Master } else { Role::Slave });
        }
        if !self.has_view {
            return None;
        }
        let me = &self.settings.me;
        // What a person trusts is not truncated.
        if self.is_overriding() && self.view.leader.is_none() {
            return Some(Role::Master);
        }
        if let Some(leader) = &self.view.leader {
            return (leader.value.server != *me).then_some(Role::Slave);
        }
        let Some(sync) = self.sync() else {
            let identity = self.view.identity.as_ref()?;
            return Some(if identity.value.initialised_by == *me { Role::Master } else { Role::Slave });
        };
        let is_alone = sync.value.primary == *me && sync.value.mode != Mode::Strict;
        // With nobody else to vouch for its commits, its binary log is the only truth.
        Some(if is_alone || !self.keeps(Rule::StartAsSlave) { Role::Master } else { Role::Slave })
    }

    /// Under a leader that recovers: acknowledge nothing, apply what is there, and report.
    fn revoke(&mut self, epoch: Epoch, now: Duration) {
        let Some(seen) = self.seen_up().cloned() else { return };
        if seen.io != Io::Off || seen.acknowledging || !self.is_flushed {
            return self.run(Job::Revoke, now);
        }
        self.revoked = self.revoked.max(epoch);
        if seen.has_unapplied() && seen.sql == Sql::Off {
            self.run(Job::RescueRelay, now);
        }
    }

    /// Under a leader that is open: become its replica, from whatever this server was before.
    fn join(&mut self, leader: &Leader, now: Duration) {
        if self.needs_seed.is_some() {
            return self.give_up_data(Some(leader), now);
        }
        let (Some(seen), Some(stamp)) = (self.seen_up().cloned(), self.stamp) else { return };
        if let Sql::Failed(error) = &seen.sql {
            self.needs_seed = Some(format!("it cannot apply: {error}"));
            self.report(format!("{} is to be seeded anew: it cannot apply: {error}", self.settings.me));
            return;
        }
        let is_set_up = stamp == Stamp { epoch: leader.epoch, led: false }
            && seen.source.as_ref() == Some(&leader.server);
        if is_set_up && seen.io == Io::Refused {
            // A primary that fell and was started again refuses too, before the leader's key tells that it leads no more.
            if self.refusals < REFUSALS {
                self.refusals += 1;
                self.follow_at = (leader.epoch, now + Duration::from_secs(1));
                return self.run(Job::Revoke, now);
            }
            self.needs_seed = Some(format!("{} has no history for it (1236)", leader.server));
            self.report(format!(
                "{} is to be seeded anew: the primary has no history for it",
                self.settings.me
            ));
            return;
        }
        let follows = is_set_up && seen.io != Io::Off && seen.sql == Sql::Running;
        let acknowledging = self.is_of_set(leader.epoch) || !self.keeps(Rule::OnlyMembersAcknowledge);
        if follows {
            self.revoked = self.revoked.max(leader.epoch);
            if matches!(seen.io, Io::Streaming { .. }) {
                self.refusals = 0;
            }
            // A source that is silent is let go of before its lease ends: it takes a whole second to hang up on it.
            let is_silent = match seen.io {
                Io::Streaming { alive: true } => {
                    self.alive_at = Some((leader.epoch, now));
                    false
                }
                Io::Streaming { alive: false } => true,
                _ => self.alive_at.is_some_and(|(epoch, at)| {
                    epoch == leader.epoch && now.saturating_sub(at) >= SILENT_AFTER
                }),
            };
            if is_silent {
                self.alive_at = None;
                self.follow_at = (leader.epoch, now + SILENT_SOURCE_WAITS);
                return self.run(Job::Revoke, now);
            }
            if seen.acknowledging != acknowledging {
                self.run(Job::SetAcknowledging { on: acknowledging }, now);
            }
            return;
        }
        if seen.io != Io::Off || seen.acknowledging {
            return self.run(Job::Revoke, now);
        }
        let position = seen.received.later(seen.applied);
        if !self.view.is_history(stamp.epoch, position) && self.keeps(Rule::CheckLineage) {
            let shared =
                self.view.history.range(stamp.epoch.next()..).map(|(_, entry)| entry.value.promotion_gtid);
            self.keep_beyond = shared.min_by_key(|gtid| gtid.seq);
            self.needs_seed =
                Some(format!("it has transactions up to {position} that were never acknowledged"));
            self.report(format!("{} has transactions that are no part of history", self.settings.me));
            return;
        }
        if seen.has_unapplied() && self.keeps(Rule::RescueRelay) {
            if seen.sql == Sql::Off {
                self.run(Job::RescueRelay, now);
            }
            return;
        }
        if self.follow_at.0 == leader.epoch && now < self.follow_at.1 {
            return;
        }
        self.run(
            Job::Follow {
                primary: leader.server.clone(),
                epoch: leader.epoch,
                demote: self.was_primary,
                acknowledging,
            },
            now,
        );
    }

    pub(super) fn is_of_set(&self, epoch: Epoch) -> bool {
        self.sync()
            .is_some_and(|sync| sync.value.epoch == epoch && sync.value.members.contains(&self.settings.me))
    }

    /// Leaves the synchronous set first: as long as it may be asked what it has, its data stays.
    fn give_up_data(&mut self, leader: Option<&Leader>, now: Duration) {
        let Some(leader) = leader.filter(|leader| leader.phase == Phase::Open) else { return };
        let Some(from) = self.donor(leader).filter(|_| !self.is_paused() && !self.is_of_set(leader.epoch))
        else {
            return;
        };
        if self.is_up() {
            return self.kill("its data is of no use any more", now);
        }
        match self.keep_beyond {
            Some(beyond) => self.run(Job::KeepArtifact { beyond }, now),
            None => self.run(Job::Seed { from, epoch: leader.epoch }, now),
        }
    }

    fn seek_data(&mut self, leader: Option<Leader>, now: Duration) {
        if let Some(leader) = leader {
            if leader.phase == Phase::Open
                && !self.is_paused()
                && !self.is_of_set(leader.epoch)
                && let Some(from) = self.donor(&leader)
            {
                self.run(Job::Seed { from, epoch: leader.epoch }, now);
            }
            return;
        }
        let me = self.settings.me.clone();
        if let Some(identity) = &self.view.identity {
            if identity.value.initialised_by == me && self.view.epoch.is_none() {
                self.run(Job::Initialise, now);
            }
        } else if self.promotion_of(&me) != Promotion::Never && self.may_transact(now) {
            let cluster = format!("{me}-{}", self.wall_ms);
            let identity = Identity { cluster, initialised_by: me };
            let compare = vec![(Key::Identity, 0), (Key::Epoch, 0)];
            let put = vec![(Value::Identity(identity), None)];
            self.transact(Purpose::Other, Transaction { compare, put, delete: Vec::new() });
        }
    }

    /// Whose data is copied: a replica's, so that the primary is spared, but not that of the only one that acknowledges. One copy at a
    /// time.
    fn donor(&self, leader: &Leader) -> Option<Name> {
        let others_copy = self.view.members.iter().any(|(name, member)| {
            *name < self.settings.me
                && matches!(member.value.state, State::Seeding | State::NeedsSeed | State::Absent)
        });
        if others_copy {
            return None;
        }
        let sync = &self.sync()?.value;
        let spare = |name: &Name| !(sync.members.len() == 1 && sync.members.contains(name));
        self.view
            .members
            .iter()
            .filter(|(name, member)| {
                **name != self.settings.me
                    && member.value.streaming
                    && member.value.lineage == Some(leader.epoch)
                    && spare(name)
            })
            .map(|(name, _)| name.clone())
            .next()
            .or_else(|| Some(leader.server.clone()))
    }
}
