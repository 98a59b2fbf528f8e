//! What goes wrong, and how it is healed.

use std::time::Duration;

use super::mariadb::Applier;
use super::world::{What, World};
use crate::cluster::{Epoch, Event, Intent, Mode, Value};

/// A fault of one server, or of what is between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    KillDatabase(usize),
    KillKeeper(usize),
    KillBoth(usize),
    Crash(usize),
    FreezeDatabase(usize),
    FreezeKeeper(usize),
    FreezeBoth(usize),
    Cut(usize, usize),
    CutFromCoordinator(usize),
    Unplug(usize),
    CoordinatorDown,
    FillDisk(usize),
    LoseDisk(usize),
    FailApplier(usize),
    Switchover(usize),
    Pause,
    /// Something happens in the very moment in which the synchronous set changes next.
    Ambush,
    /// An operator who does not wait for what is held.
    Impatience,
}

impl World {
    /// One by chance; more often of the primary than of others.
    pub(super) fn any_fault(&mut self) -> Fault {
        let primary = self.opened.map_or(0, |(_, server)| server);
        let count = self.servers.len() as u64;
        let mut server = self.dice.roll(count) as usize;
        if self.dice.one_in(2) {
            server = primary;
        }
        let other = self.dice.roll(count) as usize;
        match self.dice.roll(44) {
            4..=6 => Fault::KillKeeper(server),
            7..=8 => Fault::KillBoth(server),
            9..=12 => Fault::Crash(server),
            13..=15 => Fault::FreezeDatabase(server),
            16..=18 => Fault::FreezeKeeper(server),
            19..=20 => Fault::FreezeBoth(server),
            21..=23 if other != server => Fault::Cut(server, other),
            24..=25 => Fault::CutFromCoordinator(server),
            26..=28 => Fault::Unplug(server),
            29 => Fault::CoordinatorDown,
            30 => Fault::FillDisk(server),
            31 => Fault::LoseDisk(server),
            32 if server != primary => Fault::FailApplier(server),
            33..=34 => Fault::Switchover(server),
            35 => Fault::Pause,
            36..=41 => Fault::Ambush,
            42 => Fault::Impatience,
            _ => Fault::KillDatabase(server),
        }
    }

    pub(super) fn plan_faults(&mut self) {
        if self.dice.one_in(6) {
            for second in 2..14 {
                self.after(Duration::from_secs(second), What::Fault(Fault::Impatience));
            }
        }
        for _ in 0..self.plan.faults {
            let fault = self.any_fault();
            let begins = self.dice.millis(0, 9000);
            let lasts =
                if self.dice.one_in(2) { self.dice.millis(100, 2500) } else { self.dice.millis(500, 6000) };
            self.after(begins, What::Fault(fault));
            self.after(begins + lasts, What::Heal(fault));
            // Two at the same moment are worth more than two by chance.
            if self.dice.one_in(3) {
                let second = self.any_fault();
                let later = begins + self.dice.millis(0, 60);
                let lasts = self.dice.millis(100, 6000);
                self.after(later, What::Fault(second));
                self.after(later + lasts, What::Heal(second));
            }
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.trace(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::KillDatabase(server) => self.end_database(server),
            Fault::KillKeeper(server) => self.kill_keeper(server),
            Fault::KillBoth(server) => {
                self.kill_keeper(server);
                self.end_database(server);
            }
            Fault::Crash(server) => {
                // Nothing says goodbye.
                self.servers[server].is_up = false;
                self.kill_keeper(server);
                self.kill_database(server);
            }
            Fault::FreezeDatabase(server) => self.freeze_database(server),
            Fault::FreezeKeeper(server) => self.freeze_keeper(server),
            Fault::FreezeBoth(server) => {
                self.freeze_database(server);
                self.freeze_keeper(server);
            }
            Fault::Cut(one, other) => {
                self.cut[one][other] = true;
                self.cut[other][one] = true;
            }
            Fault::CutFromCoordinator(server) => self.servers[server].reaches_coordinator = false,
            Fault::Unplug(server) => {
                self.servers[server].reaches_coordinator = false;
                for other in 0..self.servers.len() {
                    self.cut[server][other] = true;
                    self.cut[other][server] = true;
                }
            }
            Fault::CoordinatorDown => self.coordinator.is_down = true,
            Fault::FillDisk(server) => self.servers[server].database.disk_full = true,
            Fault::LoseDisk(server) => {
                // Losing the only copy is no riddle.
                if self.servers.len() > 1 && !self.lost_a_disk && !self.failed_applier {
                    self.lost_a_disk = true;
                    self.kill_keeper(server);
                    self.kill_database(server);
                    self.servers[server].database.lose_disk();
                    self.servers[server].is_up = false;
                }
            }
            Fault::FailApplier(server) => {
                let database = &mut self.servers[server].database;
                if database.alive && database.applier == Applier::Running && !self.lost_a_disk {
                    self.failed_applier = true;
                    self.servers[server].database.applier = Applier::Failed("1032");
                }
            }
            Fault::Ambush => self.ambushes += 1,
            Fault::Impatience => {
                let view = &self.coordinator.view;
                if view.leader.as_ref().is_some_and(|leader| leader.value.hold.is_some()) {
                    self.override_hold();
                }
            }
            Fault::Switchover(server) => {
                let to = self.servers[server].name.clone();
                self.order_by_operator(Intent::Switchover { to });
            }
            Fault::Pause => {
                let until_ms = (self.now + Duration::from_secs(3)).as_millis() as u64;
                self.order_by_operator(Intent::Pause { by: "somebody".to_owned(), until_ms });
            }
        }
    }

    pub(super) fn heal(&mut self, fault: Fault) {
        self.trace(|| format!("HEAL {fault:?}"));
        match fault {
            Fault::KillDatabase(_)
            | Fault::FailApplier(_)
            | Fault::Switchover(_)
            | Fault::Ambush
            | Fault::Impatience => {}
            Fault::KillKeeper(server) | Fault::KillBoth(server) => self.boot(server),
            Fault::Crash(server) | Fault::LoseDisk(server) => {
                self.servers[server].is_up = true;
                self.boot(server);
            }
            Fault::FreezeDatabase(server) => self.servers[server].database.frozen = false,
            Fault::FreezeKeeper(server) => self.thaw_keeper(server),
            Fault::FreezeBoth(server) => {
                if self.dice.one_in(2) {
                    self.servers[server].database.frozen = false;
                    self.thaw_keeper(server);
                } else {
                    self.thaw_keeper(server);
                    self.servers[server].database.frozen = false;
                }
            }
            Fault::Cut(one, other) => {
                self.cut[one][other] = false;
                self.cut[other][one] = false;
            }
            Fault::CutFromCoordinator(server) => self.servers[server].reaches_coordinator = true,
            Fault::Unplug(server) => {
                self.servers[server].reaches_coordinator = true;
                for other in 0..self.servers.len() {
                    self.cut[server][other] = false;
                    self.cut[other][server] = false;
                }
            }
            Fault::CoordinatorDown => {
                self.coordinator.is_down = false;
                // etcd gives leases their whole time anew after an election; the embedded one does not.
                if self.dice.one_in(2) {
                    let ends = self.now + self.timing.ttl;
                    self.coordinator.leases.values_mut().for_each(|lease| *lease = ends);
                }
                self.after(self.timing.ttl + Duration::from_millis(1), What::Expire);
                self.expire();
            }
            Fault::FillDisk(server) => self.servers[server].database.disk_full = false,
            Fault::Pause => {
                let view = self.coordinator.view.clone();
                if matches!(view.intent.as_ref().map(|intent| &intent.value), Some(Intent::Pause { .. })) {
                    self.withdraw();
                }
            }
        }
    }

    /// The synchronous set has just changed: the worst moment for its leader.
    pub(super) fn ambush(&mut self) {
        let Some((_, primary)) = self.opened.filter(|_| self.ambushes > 0) else { return };
        self.ambushes -= 1;
        self.trace(|| "AMBUSH".to_owned());
        let lasts = self.dice.millis(500, 4000);
        let soon = self.dice.millis(0, 120);
        let other = (primary + 1 + self.dice.roll(self.servers.len() as u64) as usize) % self.servers.len();
        let which = self.dice.roll(6);
        let lasts = if which == 2 { Duration::from_secs(6) } else { lasts };
        let mut plan = |delay: Duration, fault: Fault| {
            self.after(delay, What::Fault(fault));
            self.after(delay + lasts, What::Heal(fault));
        };
        match which {
            0 => plan(soon, Fault::KillDatabase(primary)),
            1 => plan(soon, Fault::Crash(primary)),
            2 => plan(Duration::ZERO, Fault::CutFromCoordinator(primary)),
            3 => plan(soon, Fault::FreezeBoth(primary)),
            _ if other != primary => {
                plan(Duration::ZERO, Fault::Cut(primary, other));
                plan(lasts.min(soon * 20), Fault::Crash(primary));
            }
            _ => plan(Duration::ZERO, Fault::Crash(primary)),
        }
    }

    /// Ends all that is wrong with servers and network.
    pub(super) fn heal_all(&mut self) {
        self.calm = true;
        self.ambushes = 0;
        for server in 0..self.servers.len() {
            for fault in [
                Fault::Unplug(server),
                Fault::FillDisk(server),
                Fault::FreezeBoth(server),
                Fault::Crash(server),
            ] {
                self.heal(fault);
            }
            self.servers[server].lag_ms = self.servers[server].lag_ms.min(50);
        }
        if self.coordinator.is_down {
            self.heal(Fault::CoordinatorDown);
        }
        self.withdraw();
    }

    fn boot(&mut self, server: usize) {
        if self.servers[server].keeper.is_none() {
            let keeper = self.servers[server].keeper_number;
            self.after(Duration::from_millis(1), What::StartKeeper { server, keeper });
        }
    }

    fn end_database(&mut self, server: usize) {
        if self.servers[server].database.alive {
            self.kill_database(server);
            self.exited_soon(server);
        }
    }

    fn freeze_database(&mut self, server: usize) {
        let database = &mut self.servers[server].database;
        database.frozen = database.alive;
    }

    fn freeze_keeper(&mut self, server: usize) {
        if let Some(keeper) = &mut self.servers[server].keeper {
            keeper.frozen = true;
        }
    }

    fn thaw_keeper(&mut self, server: usize) {
        let number = self.servers[server].keeper_number;
        let Some(keeper) = &mut self.servers[server].keeper else { return };
        keeper.frozen = false;
        let backlog: Vec<Event> = std::mem::take(&mut keeper.backlog);
        for event in backlog {
            self.tell(server, number, event);
        }
    }

    pub(super) fn order_by_operator(&mut self, intent: Intent) {
        if self.coordinator.is_down {
            return;
        }
        let view = std::sync::Arc::make_mut(&mut self.coordinator.view);
        view.revision += 1;
        let revision = view.revision;
        view.put(Value::Intent(intent), revision, None);
        self.changed();
    }

    fn withdraw(&mut self) {
        let view = std::sync::Arc::make_mut(&mut self.coordinator.view);
        if view.intent.is_some() {
            view.revision += 1;
            view.intent = None;
            self.changed();
        }
    }

    /// An operator who sees that a server which vouched for writes has lost its disk.
    pub(super) fn override_hold(&mut self) {
        let most = (0..self.servers.len())
            .filter(|server| self.servers[*server].database.stamp.is_some())
            .filter(|server| !matches!(self.servers[*server].database.applier, Applier::Failed(_)))
            .max_by_key(|server| self.servers[*server].database.received());
        if let Some(to) = most {
            self.overridden = true;
            self.override_pending = true;
            let to = self.servers[to].name.clone();
            self.order_by_operator(Intent::Promote { to, accepted_by: "somebody".to_owned() });
        }
    }

    /// Whether the coordinator says that nobody can lead without a person.
    pub(super) fn is_held(&self) -> bool {
        let view = &self.coordinator.view;
        let holds = view.leader.as_ref().is_none_or(|leader| leader.value.hold.is_some());
        let alone = view.sync.as_ref().is_some_and(|sync| sync.value.mode != Mode::Strict);
        holds || alone || view.epoch.as_ref().is_none_or(|given| given.value.epoch == Epoch(0))
    }
}
