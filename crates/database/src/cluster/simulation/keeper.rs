//! The keepers' drivers, as the machine's contract has them, with all that may go wrong around them.

use std::sync::Arc;
use std::time::Duration;

use super::mariadb::{Applier, Database, Waiter};
use super::world::{Keeper, What, World};
use crate::cluster::{
    Action, Event, Failure, Found, Io, Job, LeaseId, Machine, Observed, Outcome, Probed, Role, Sql, Stamp,
    Transaction, View,
};

const TICK: Duration = Duration::from_millis(100);
/// A request to the coordinator without an answer is given up.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

impl World {
    fn to_coordinator(&mut self) -> Duration {
        if !self.calm && self.dice.one_in(25) { self.dice.millis(20, 300) } else { self.dice.micros(500, 6000) }
    }

    pub(super) fn start_keeper(&mut self, server: usize, keeper: u64) {
        let it = &self.servers[server];
        if !it.is_up || it.keeper_number != keeper || it.keeper.is_some() {
            return;
        }
        // What does not answer cannot be taken over.
        if it.database.alive && (it.database.frozen || it.database.starting) {
            self.kill_database(server);
        }
        let database = &self.servers[server].database;
        let found = match database.stamp {
            None => Found::NoData,
            Some(stamp) if database.alive => Found::Running(stamp, self.observe(server)),
            Some(stamp) => Found::Stopped(stamp),
        };
        self.trace(|| format!("{server} keeper begins: {found:?}"));
        #[allow(unused_mut)]
        let mut machine = Machine::new(self.settings(server), found, self.now);
        machine.broken = self.plan.broken;
        self.servers[server].keeper = Some(Keeper {
            machine,
            frozen: false,
            backlog: Vec::new(),
            shown: None,
            lease: None,
            running: None,
            exit_pending: false,
        });
        self.after(Duration::from_millis(1), What::KeeperTick { server, keeper });
        self.after(self.timing.ttl / 6, What::Renew { server, keeper });
    }

    pub(super) fn kill_keeper(&mut self, server: usize) {
        self.servers[server].keeper = None;
        self.servers[server].keeper_number += 1;
    }

    fn keeper(&mut self, server: usize, number: u64) -> Option<&mut Keeper> {
        let it = &mut self.servers[server];
        if it.keeper_number == number { it.keeper.as_mut() } else { None }
    }

    pub(super) fn keeper_tick(&mut self, server: usize, number: u64) {
        self.check_writable(server);
        let now = self.now;
        let reaches = self.reaches_coordinator(server);
        let newest = self.coordinator.view.revision;
        let Some(keeper) = self.keeper(server, number) else { return };
        let frozen = keeper.frozen;
        let behind = keeper.shown < Some(newest);
        self.after(TICK, What::KeeperTick { server, keeper: number });
        if frozen {
            return;
        }
        if reaches && behind {
            let view = self.coordinator.view.clone();
            let delay = self.to_coordinator();
            self.after(delay, What::Show { server, keeper: number, view });
        }
        let database = &self.servers[server].database;
        let tick = Event::Tick { wall_ms: now.as_millis() as u64 };
        if !database.answers() || database.starting || self.dice.one_in(4) {
            self.step(server, tick);
        } else {
            if let Some(io) = self.servers[server].database.io
                && io.connection != 0
                && self.servers[io.source].database.answers()
                && self.passes(server, io.source)
                && let Some(io) = &mut self.servers[server].database.io
            {
                io.last_alive = now;
            }
            let observed = self.observe(server);
            self.step(server, Event::Observed { taken_at: now, observed });
        }
    }

    pub(super) fn observe(&self, server: usize) -> Observed {
        let database = &self.servers[server].database;
        let io = match database.io {
            None if database.refused => Io::Refused,
            None => Io::Off,
            Some(io) if io.connection == 0 => Io::Connecting,
            Some(io) => {
                Io::Streaming { alive: self.now - io.last_alive < Duration::from_millis(1200) }
            }
        };
        let bit = |index: &usize| database.dumps[*index] != 0;
        Observed {
            applied: Database::gtid(database.log.last().copied(), database.log.len()),
            received: Database::gtid(database.last_received(), database.received()),
            io,
            source: database.source.map(|source| self.servers[source].name.clone()),
            sql: match database.applier {
                Applier::Off => Sql::Off,
                Applier::Running => Sql::Running,
                Applier::Failed(error) => Sql::Failed(error.to_owned()),
            },
            acknowledging: database.acknowledging,
            read_only: database.read_only,
            semi_sync: database.semi_sync,
            attached: (0..self.servers.len()).filter(bit).map(|index| self.servers[index].name.clone()).collect(),
            disk_full: database.disk_full,
        }
    }

    pub(super) fn tell(&mut self, server: usize, number: u64, event: Event) {
        if !self.reaches_coordinator(server) {
            match event {
                // It was done, but nobody hears of it.
                Event::Answer { id, outcome: Outcome::Won { .. } | Outcome::Lost { .. } } => {
                    let event = Event::Answer { id, outcome: Outcome::Unknown };
                    return self.after(ANSWER_WITHIN, What::Tell { server, keeper: number, event });
                }
                Event::LeaseRenewed { .. } => return,
                _ => {}
            }
        }
        let Some(keeper) = self.keeper(server, number) else { return };
        if keeper.frozen {
            keeper.backlog.push(event);
        } else {
            self.step(server, event);
        }
    }

    pub(super) fn show(&mut self, server: usize, number: u64, view: Arc<View>) {
        if !self.reaches_coordinator(server) {
            return;
        }
        let Some(keeper) = self.keeper(server, number) else { return };
        if keeper.shown < Some(view.revision) {
            keeper.shown = Some(view.revision);
            self.tell(server, number, Event::View(view));
        }
    }

    pub(super) fn step(&mut self, server: usize, event: Event) {
        let now = self.now;
        let number = self.servers[server].keeper_number;
        let Some(keeper) = &mut self.servers[server].keeper else { return };
        if let Event::LeaseGranted { lease, .. } = event {
            keeper.lease = Some(lease);
        }
        if matches!(event, Event::Exited) {
            keeper.running = None;
            keeper.exit_pending = false;
        }
        if self.plan.trace
            && !matches!(event, Event::Tick { .. } | Event::Observed { .. } | Event::Probed { .. } | Event::LeaseRenewed { .. })
        {
            let text = match &event {
                Event::View(view) => format!("View {} leader {:?} sync {:?}", view.revision,
                    view.leader.as_ref().map(|l| (l.value.epoch, l.value.server.as_str(), l.value.phase)),
                    view.sync.as_ref().map(|s| (s.value.mode, &s.value.members))),
                other => format!("{other:?}"),
            };
            println!("{:9.3}   {server} < {text}", now.as_secs_f64() - 1000.0);
        }
        let actions = keeper.machine.step(event, now);
        self.check_coverage(server);
        for action in actions {
            self.act(server, number, action);
        }
    }

    fn act(&mut self, server: usize, number: u64, action: Action) {
        if !matches!(action, Action::Probe { .. }) {
            self.trace(|| format!("  {server} > {action:?}"));
        }
        let now = self.now;
        match action {
            Action::Transact { id, transaction } => self.send(server, number, id, transaction),
            Action::GrantLease => {
                if self.reaches_coordinator(server) {
                    let delay = self.to_coordinator();
                    self.after(delay, What::Grant { server, keeper: number, sent_at: now });
                } else {
                    self.after(ANSWER_WITHIN, What::Tell { server, keeper: number, event: Event::LeaseFailed });
                }
            }
            Action::Do { id, job, within } => {
                if let Some(keeper) = &mut self.servers[server].keeper {
                    let two = keeper.running.replace(id);
                    if let Some(first) = two {
                        return self.violate(format!("{server} runs jobs {first} and {id} at once"));
                    }
                }
                let delay = self.takes(server, &job);
                if matches!(job, Job::Start { .. }) {
                    if self.servers[server].database.alive {
                        return self.violate(format!("{server} has a second mariadbd on its data"));
                    }
                    let database = &mut self.servers[server].database;
                    database.alive = true;
                    database.starting = true;
                }
                let process = self.servers[server].database.process;
                self.after(delay, What::Effect { server, keeper: number, process, id, job, ends: now + within });
            }
            Action::Kill { .. } => {
                let pending = self.servers[server].keeper.as_ref().is_some_and(|keeper| keeper.exit_pending);
                if self.servers[server].database.alive || !pending {
                    self.kill_database(server);
                    self.exited_soon(server);
                }
            }
            Action::Probe { id } => {
                let process = self.servers[server].database.process;
                let delay = self.dice.micros(100, 1000);
                self.after(delay, What::Probe { server, keeper: number, process, id, sent_at: now });
            }
            Action::Report(_) => {}
        }
    }

    /// The keeper learns that its mariadbd is gone.
    pub(super) fn exited_soon(&mut self, server: usize) {
        let number = self.servers[server].keeper_number;
        if let Some(keeper) = &mut self.servers[server].keeper {
            keeper.exit_pending = true;
        }
        let delay = self.dice.micros(500, 5000);
        self.after(delay, What::Tell { server, keeper: number, event: Event::Exited });
    }

    // The coordinator.

    fn send(&mut self, server: usize, keeper: u64, id: u64, transaction: Transaction) {
        let unknown = Event::Answer { id, outcome: Outcome::Unknown };
        let is_lost = !self.reaches_coordinator(server) || !self.calm && self.dice.one_in(60);
        if is_lost {
            return self.after(ANSWER_WITHIN, What::Tell { server, keeper, event: unknown });
        }
        let transaction = Box::new(transaction);
        if !self.calm && self.dice.one_in(60) {
            // It lies somewhere, and comes when nobody waits for it any more.
            self.after(ANSWER_WITHIN, What::Tell { server, keeper, event: unknown });
            let delay = ANSWER_WITHIN + self.dice.millis(0, 3000);
            return self.after(delay, What::Transact { server, keeper, id, transaction, answers: false });
        }
        let delay = self.to_coordinator();
        self.after(delay, What::Transact { server, keeper, id, transaction, answers: true });
    }

    pub(super) fn transact(
        &mut self,
        server: usize,
        keeper: u64,
        id: u64,
        transaction: Transaction,
        answers: bool,
    ) {
        if self.coordinator.is_down {
            if answers {
                let event = Event::Answer { id, outcome: Outcome::Unknown };
                self.after(ANSWER_WITHIN, What::Tell { server, keeper, event });
            }
            return;
        }
        self.expire();
        let outcome = self.coordinator.transact(transaction);
        self.trace(|| format!("  {server} transaction {id}: {outcome:?}"));
        if matches!(outcome, Outcome::Won { .. }) {
            self.changed();
        }
        if answers {
            let is_heard = self.reaches_coordinator(server) && (self.calm || !self.dice.one_in(60));
            let (delay, outcome) =
                if is_heard { (self.to_coordinator(), outcome) } else { (ANSWER_WITHIN, Outcome::Unknown) };
            self.after(delay, What::Tell { server, keeper, event: Event::Answer { id, outcome } });
        }
    }

    /// Something was written: all that watch hear of it.
    pub(super) fn changed(&mut self) {
        self.check_view();
        let view = self.coordinator.view.clone();
        for server in 0..self.servers.len() {
            if self.reaches_coordinator(server) && self.servers[server].keeper.is_some() {
                let keeper = self.servers[server].keeper_number;
                let delay = if !self.calm && self.dice.one_in(20) {
                    self.dice.millis(10, 900)
                } else {
                    self.to_coordinator()
                };
                self.after(delay, What::Show { server, keeper, view: view.clone() });
            }
        }
        let leader = view.leader.as_ref().filter(|leader| leader.value.phase == crate::cluster::Phase::Open);
        let leader = leader.map(|leader| self.index(&leader.value.server));
        if leader.is_some() && leader != self.routed {
            let delay = self.dice.millis(1, 15);
            self.after(delay, What::Route { leader });
        }
    }

    pub(super) fn grant(&mut self, server: usize, number: u64, sent_at: Duration) {
        if self.coordinator.is_down {
            return self.after(ANSWER_WITHIN, What::Tell { server, keeper: number, event: Event::LeaseFailed });
        }
        let lease = self.coordinator.grant(self.now, self.timing.ttl);
        self.after(self.timing.ttl, What::Expire);
        if self.keeper(server, number).is_some() {
            let delay = self.to_coordinator();
            let event = Event::LeaseGranted { lease, sent_at };
            self.after(delay, What::Tell { server, keeper: number, event });
        }
    }

    pub(super) fn renew(&mut self, server: usize, number: u64) {
        let now = self.now;
        let reaches = self.reaches_coordinator(server);
        let Some(keeper) = self.keeper(server, number) else { return };
        let lease = keeper.lease.filter(|_| !keeper.frozen);
        self.after(self.timing.ttl / 6, What::Renew { server, keeper: number });
        if let Some(lease) = lease.filter(|_| reaches) {
            let delay = self.to_coordinator();
            self.after(delay, What::RenewAt { server, keeper: number, lease, sent_at: now });
        }
    }

    pub(super) fn renew_at(&mut self, server: usize, number: u64, lease: LeaseId, sent_at: Duration) {
        if self.coordinator.is_down {
            return;
        }
        self.expire();
        let event = if self.coordinator.renew(lease, self.now, self.timing.ttl) {
            self.after(self.timing.ttl, What::Expire);
            Event::LeaseRenewed { lease, sent_at }
        } else {
            if !self.reaches_coordinator(server) {
                return;
            }
            if let Some(keeper) = self.keeper(server, number) {
                keeper.lease = keeper.lease.filter(|known| *known != lease);
            }
            Event::LeaseLost { lease }
        };
        if self.reaches_coordinator(server) {
            let delay = if !self.calm && self.dice.one_in(10) {
                self.dice.millis(200, 2500)
            } else {
                self.to_coordinator()
            };
            self.after(delay, What::Tell { server, keeper: number, event });
        }
    }

    pub(super) fn expire(&mut self) {
        if !self.coordinator.is_down && self.coordinator.expire(self.now) {
            self.changed();
        }
    }

    // mariadbd.

    fn takes(&mut self, server: usize, job: &Job) -> Duration {
        match job {
            Job::Start { .. } => self.dice.millis(130, 400),
            Job::Initialise => self.dice.millis(300, 600),
            Job::Seed { .. } => self.dice.millis(300, if self.calm { 800 } else { 2500 }),
            Job::KeepArtifact { .. } | Job::RescueRelay => self.dice.millis(20, 200),
            Job::Revoke | Job::Follow { .. } => {
                let source = self.servers[server].database.io.map(|io| io.source);
                let hangs = source.is_some_and(|source| {
                    !self.passes(server, source) || self.servers[source].database.frozen
                });
                if hangs { Duration::from_secs(1) } else { self.dice.millis(4, 15) }
            }
            Job::Drain { .. } => Duration::from_millis(1),
            _ => self.dice.millis(1, 8),
        }
    }

    pub(super) fn probe(&mut self, server: usize, keeper: u64, process: u64, id: u64, sent_at: Duration) {
        let database = &self.servers[server].database;
        if database.process != process {
            return;
        }
        if database.frozen {
            return self.after(Duration::from_millis(40), What::Probe { server, keeper, process, id, sent_at });
        }
        if database.disk_full || database.read_only || database.closing {
            let event = Event::Probed { id, sent_at, result: Probed::Failed("refused".to_owned()) };
            return self.after(Duration::from_millis(1), What::Tell { server, keeper, event });
        }
        self.next_connection += 1;
        let row = 1_000_000_000 + self.next_connection as u32;
        self.append(server, row, Waiter::Probe { id, keeper, sent_at });
        let event = Event::Probed { id, sent_at, result: Probed::Waiting };
        if self.servers[server].database.waiting.iter().any(|(_, waiter)| matches!(waiter, Waiter::Probe { id: waits, .. } if *waits == id)) {
            self.after(Duration::from_millis(100), What::Tell { server, keeper, event });
        }
    }

    pub(super) fn effect(&mut self, server: usize, number: u64, process: u64, id: u64, job: Job, ends: Duration) {
        let now = self.now;
        let it = &self.servers[server];
        let is_taken_over = it.keeper.is_some() && it.keeper_number != number;
        if !it.is_up || it.database.process != process || is_taken_over {
            return;
        }
        let again = |world: &mut Self, delay: u64, ends: Duration, job: Job| {
            world.after(
                Duration::from_millis(delay),
                What::Effect { server, keeper: number, process, id, job, ends },
            );
        };
        let is_offline =
            matches!(job, Job::Initialise | Job::Seed { .. } | Job::KeepArtifact { .. } | Job::Start { .. });
        let outcome = if is_offline != (it.database.alive && !it.database.starting) || matches!(job, Job::Start { .. }) {
            if it.database.frozen { None } else { self.done(server, &job) }
        } else {
            Some(Err(Failure::Failed("no connection".to_owned())))
        };
        let event = match outcome {
            None if now >= ends => {
                // The keeper gives up; the statement does not.
                let database = &mut self.servers[server].database;
                let failure = if database.closing && !database.frozen {
                    Failure::Failed("a transaction waits".to_owned())
                } else {
                    Failure::TimedOut
                };
                database.closing = false;
                let event = Event::Failed { id, failure };
                if self.servers[server].database.frozen {
                    again(self, 20, Duration::MAX, job);
                }
                event
            }
            None => return again(self, 5, ends, job),
            Some(_) if ends == Duration::MAX => return,
            Some(Ok(())) => {
                let database = &self.servers[server].database;
                let observed = (database.alive && !database.starting).then(|| self.observe(server));
                Event::Done { id, observed }
            }
            Some(Err(failure)) => Event::Failed { id, failure },
        };
        if let Some(keeper) = self.keeper(server, number) {
            keeper.running = None;
        }
        let delay = self.dice.micros(100, 900);
        self.after(delay, What::Tell { server, keeper: number, event });
    }

    /// Does a job; none if it takes longer.
    fn done(&mut self, server: usize, job: &Job) -> Option<Result<(), Failure>> {
        let failed = |text: &str| Some(Err(Failure::Failed(text.to_owned())));
        match job {
            Job::Initialise => {
                self.servers[server].database.stamp = Some(Stamp { epoch: crate::cluster::Epoch(0), led: true });
            }
            Job::Start { role } => return Some(self.started(server, *role)),
            Job::Revoke => {
                self.stop_io(server);
                let database = &mut self.servers[server].database;
                database.acknowledging = false;
                database.synced = database.committed;
            }
            Job::Drain { to } => {
                let database = &self.servers[server].database;
                if database.log.len() < to.seq as usize {
                    let fails = matches!(database.applier, Applier::Failed(_));
                    return if fails { failed("the applier stopped") } else { None };
                }
            }
            Job::RescueRelay => {
                let database = &mut self.servers[server].database;
                let relay = std::mem::take(&mut database.relay);
                database.log.extend(relay);
                database.committed = database.log.len();
            }
            Job::CatchUp { from, to } => {
                let from = self.index(from);
                let source = &self.servers[from].database;
                let upto = to.seq as usize;
                if !source.answers() || !self.passes(server, from) || source.log.len() < upto {
                    return None;
                }
                let here = self.servers[server].database.log.len();
                let news = source.log[here.min(upto)..upto].to_vec();
                let database = &mut self.servers[server].database;
                database.relay.clear();
                database.log.extend(news);
                database.committed = database.log.len();
            }
            Job::Promote { epoch, semi_sync, admit } => {
                self.stop_io(server);
                let mask = self.mask(admit);
                let database = &mut self.servers[server].database;
                database.stamp = Some(Stamp { epoch: *epoch, led: true });
                database.applier = Applier::Off;
                database.source = None;
                database.relay.clear();
                database.semi_sync = *semi_sync;
                database.admitted = mask;
                self.lock_out(server);
            }
            Job::OpenWrites => self.servers[server].database.read_only = false,
            Job::CloseWrites => {
                // New commits wait behind it, and it behind those that wait for an acknowledgement.
                let database = &mut self.servers[server].database;
                database.closing = !database.waiting.is_empty();
                if database.closing {
                    return None;
                }
                let database = &mut self.servers[server].database;
                database.read_only = true;
                database.synced = database.committed;
            }
            Job::Admit { members } => {
                self.servers[server].database.admitted = self.mask(members);
                self.lock_out(server);
            }
            Job::SetSemiSync { on } => {
                self.servers[server].database.semi_sync = *on;
                if !on {
                    let upto = self.servers[server].database.log.len();
                    self.commit(server, upto);
                }
            }
            Job::Follow { primary, epoch, acknowledging, .. } => {
                let source = self.index(primary);
                self.stop_io(server);
                let database = &mut self.servers[server].database;
                database.stamp = Some(Stamp { epoch: *epoch, led: false });
                database.admitted = 0;
                database.semi_sync = false;
                database.relay.clear();
                database.wrote = false;
                database.acknowledging = *acknowledging;
                self.lock_out(server);
                self.start_applier(server);
                self.start_io(server, source);
            }
            Job::SetAcknowledging { on } => {
                let source = self.servers[server].database.io.map(|io| io.source);
                self.stop_io(server);
                self.servers[server].database.acknowledging = *on;
                if let Some(source) = source {
                    self.start_io(server, source);
                }
            }
            Job::KeepArtifact { .. } => {}
            Job::Seed { from, epoch } => {
                let from = self.index(from);
                let source = &self.servers[from].database;
                if !source.answers() || source.stamp.is_none() || !self.passes(server, from) {
                    return failed("the donor is gone");
                }
                let log = source.log[..source.committed].to_vec();
                let database = &mut self.servers[server].database;
                database.committed = log.len();
                database.synced = log.len();
                database.log = log;
                database.relay.clear();
                database.source = None;
                database.stamp = Some(Stamp { epoch: *epoch, led: false });
                database.wrote = false;
            }
        }
        Some(Ok(()))
    }

    fn started(&mut self, server: usize, role: Role) -> Result<(), Failure> {
        let unsynced = self.dice.roll(3) as usize;
        let refuses = self.dice.one_in(8);
        let purged = self.dice.one_in(3);
        let database = &mut self.servers[server].database;
        database.starting = false;
        match role {
            Role::Master => {
                let seen = database.log[database.committed..].iter().map(|write| write.id).collect::<Vec<_>>();
                database.start_as_master();
                self.visible.extend(seen);
            }
            Role::Slave => {
                let truncated = database.start_as_slave(unsynced, purged);
                if truncated && refuses && !self.calm {
                    self.servers[server].database.die();
                    return Err(Failure::Hopeless("it cannot truncate its binary log".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn mask(&self, names: &[crate::cluster::Name]) -> u32 {
        names.iter().map(|name| 1 << self.index(name)).sum()
    }
}
