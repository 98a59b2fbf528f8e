//! What must hold at each moment and in the end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::World;
use crate::cluster::{Epoch, History, Mode, Phase, State};

/// A server that may not take writes any more has ended them within this time.
const WRITABLE_AT_MOST: Duration = Duration::from_millis(2500);

impl World {
    /// What an older primary acknowledges must be in what the newest has.
    pub(super) fn check_acknowledgement(&mut self, server: usize, index: usize, id: u32) {
        let Some((epoch, primary)) = self.opened else { return };
        let is_there = self.servers[primary].database.log.get(index).is_some_and(|there| there.id == id);
        if primary != server && !is_there {
            // An operator took the lead away from a majority that still acknowledged.
            if self.overridden {
                self.acknowledged.pop();
                return;
            }
            self.violate(format!("{server} acknowledged {id} although {primary} was open in epoch {epoch}"));
        }
    }

    /// After each change in the coordinator.
    pub(super) fn check_view(&mut self) {
        let view = self.coordinator.view.clone();
        if let Some(leader) = &view.leader {
            if leader.value.epoch < self.highest_epoch {
                self.violate(format!("epoch {} after {}", leader.value.epoch, self.highest_epoch));
            }
            self.highest_epoch = leader.value.epoch;
        }
        let set_revision = view.sync.as_ref().map_or(0, |sync| sync.revision);
        let set_changed = set_revision != self.set_revision;
        self.set_revision = set_revision;
        if let Some((epoch, history)) = view.history.iter().next_back()
            && self.opened.is_none_or(|(opened, _)| opened < *epoch)
        {
            self.check_opening(*epoch, &history.value);
        }
        if set_changed {
            self.ambush();
        }
    }

    fn check_opening(&mut self, epoch: Epoch, history: &History) {
        let primary = self.index(&history.primary);
        self.opened = Some((epoch, primary));
        self.failovers += 1;
        for server in &mut self.servers {
            server.writable_since = None;
        }
        // What was under way when its disk was lost opens nothing.
        if self.servers[primary].database.stamp.is_none() {
            return;
        }
        let has: BTreeSet<u32> = self.servers[primary].database.log.iter().map(|write| write.id).collect();
        if self.override_pending {
            self.override_pending = false;
            self.visible.clear();
            self.acknowledged.retain(|id| has.contains(id));
        } else if let Some(lost) = self.acknowledged.iter().find(|id| !has.contains(id)) {
            self.violate(format!("{primary} opened epoch {epoch} without the acknowledged write {lost}"));
        }
    }

    /// A keeper that is certain of its lease must be right.
    pub(super) fn check_coverage(&mut self, server: usize) {
        let now = self.now;
        let Some(keeper) = &self.servers[server].keeper else { return };
        if !keeper.machine.is_covered(now) {
            return;
        }
        let leader = self.coordinator.view.leader.as_ref();
        let is_so = leader.is_some_and(|leader| {
            leader.value.server == self.servers[server].name
                && leader
                    .lease
                    .and_then(|lease| self.coordinator.leases.get(&lease))
                    .is_some_and(|ends| *ends > now)
        });
        // It may have let go itself, and not know that this was done.
        let let_go = self.coordinator.view.epoch.as_ref().is_some_and(|given| given.value.released.is_some());
        let another = leader.is_some_and(|leader| leader.value.server != self.servers[server].name);
        if !is_so
            && !self.coordinator.is_down
            && (another || !let_go)
            && keeper.machine.open_epoch().is_some()
        {
            self.violate(format!("{server} is certain of a lease that has ended"));
        }
    }

    /// A server that is not the primary does not stay writable where its keeper lives.
    pub(super) fn check_writable(&mut self, server: usize) {
        let now = self.now;
        let is_primary = self.opened.is_some_and(|(_, primary)| primary == server);
        let it = &mut self.servers[server];
        let is_awake = it.keeper.as_ref().is_some_and(|keeper| !keeper.frozen);
        let is_writable = it.database.answers() && !it.database.starting && !it.database.read_only;
        if is_primary || !is_awake || !is_writable {
            it.writable_since = None;
            return;
        }
        let knows = it.keeper.as_ref().is_some_and(|keeper| {
            let leader = keeper.machine.view.leader.as_ref();
            leader.is_some_and(|leader| leader.value.server != it.name && leader.value.phase == Phase::Open)
        });
        let since = *it.writable_since.get_or_insert(now);
        if now - since > Duration::from_millis(300) && knows {
            self.violate(format!("{server} stays writable although it knows of another primary"));
        }
        if now - since > WRITABLE_AT_MOST && !self.overridden {
            self.violate(format!("{server} stays writable beside another primary"));
        }
    }

    /// Whether everything is as it should be for good.
    pub(super) fn is_whole(&self) -> bool {
        let view = &self.coordinator.view;
        let (Some(leader), Some(sync)) = (&view.leader, &view.sync) else { return false };
        let count = self.servers.len();
        let primary = self.index(&leader.value.server);
        let database = &self.servers[primary].database;
        let is_protected =
            count == 1 || sync.value.mode == Mode::Strict && sync.value.members.len() == count - 1;
        leader.value.phase == Phase::Open
            && is_protected
            && database.answers()
            && !database.read_only
            && view
                .members
                .values()
                .filter(|member| member.value.streaming && member.value.state == State::Replica)
                .count()
                == count - 1
            && self.now.saturating_sub(self.acknowledged_at) < Duration::from_secs(1)
    }

    /// Whether all have the same.
    pub(super) fn is_level(&self) -> bool {
        self.differs().is_none()
    }

    /// One that does not have what the primary has, but for the last rows of Mainstay's own.
    fn differs(&self) -> Option<usize> {
        let log = &self.servers[self.opened?.1].database.log;
        self.servers.iter().position(|server| {
            let there = &server.database.log;
            let both = there.len().min(log.len());
            there[..both] != log[..both] || log.len().abs_diff(there.len()) > 3
        })
    }

    /// In the end, with all writes done.
    pub(super) fn check_end(&mut self) {
        let Some((_, primary)) = self.opened else { return };
        let log = &self.servers[primary].database.log;
        let mut has = BTreeSet::new();
        let doubled = log.iter().find(|write| !has.insert(write.id)).map(|write| write.id);
        let vanished = self.visible.iter().find(|id| !has.contains(id)).copied();
        let lost = self.acknowledged.iter().find(|id| !has.contains(id)).copied();
        let differs = self.differs();
        if let Some(id) = doubled {
            self.violate(format!("write {id} was done twice"));
        }
        if let Some(id) = vanished {
            self.violate(format!("write {id} was seen and vanished"));
        }
        if let Some(id) = lost {
            self.violate(format!("the acknowledged write {id} is lost"));
        }
        if let Some(server) = differs {
            self.violate(format!("{server} has another history in the end:\n{}", self.summary()));
        }
    }
}
