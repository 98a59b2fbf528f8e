//! What jobs do to a database, and how long they take.

use std::time::Duration;

use super::mariadb::{Applier, Waiter};
use super::world::{What, World};
use crate::cluster::{Event, Failure, Job, Probed, Role, Stamp};

impl World {
    pub(super) fn takes(&mut self, server: usize, job: &Job) -> Duration {
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
            return self
                .after(Duration::from_millis(40), What::Probe { server, keeper, process, id, sent_at });
        }
        if database.disk_full || database.read_only || database.closing {
            let event = Event::Probed { id, sent_at, result: Probed::Failed("refused".to_owned()) };
            return self.after(Duration::from_millis(1), What::Tell { server, keeper, event });
        }
        self.next_connection += 1;
        let row = 1_000_000_000 + self.next_connection as u32;
        self.append(server, row, Waiter::Probe { id, keeper, sent_at });
        let event = Event::Probed { id, sent_at, result: Probed::Waiting };
        if self.servers[server]
            .database
            .waiting
            .iter()
            .any(|(_, waiter)| matches!(waiter, Waiter::Probe { id: waits, .. } if *waits == id))
        {
            self.after(Duration::from_millis(100), What::Tell { server, keeper, event });
        }
    }

    pub(super) fn effect(
        &mut self,
        server: usize,
        number: u64,
        process: u64,
        id: u64,
        job: Job,
        ends: Duration,
    ) {
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
        let outcome = if is_offline != (it.database.alive && !it.database.starting)
            || matches!(job, Job::Start { .. })
        {
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
                self.servers[server].database.stamp =
                    Some(Stamp { epoch: crate::cluster::Epoch(0), led: true });
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
            Job::CatchUp { from, to, lineage } => {
                let from = self.index(from);
                let source = &self.servers[from].database;
                let upto = to.seq as usize;
                if !source.answers() || !self.passes(server, from) || source.log.len() < upto {
                    return None;
                }
                let here = self.servers[server].database.log.len();
                let news = source.log[here.min(upto)..upto].to_vec();
                let database = &mut self.servers[server].database;
                database.stamp = Some(Stamp { epoch: *lineage, led: false });
                database.relay.clear();
                database.log.extend(news);
                database.committed = database.log.len();
            }
            Job::Promote { epoch, semi_sync, admit } => {
                self.stop_io(server);
                let mask = self.mask(admit);
                let database = &mut self.servers[server].database;
                database.stamp = Some(Stamp { epoch: *epoch, led: true });
                database.synced = database.committed;
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
                let seen =
                    database.log[database.committed..].iter().map(|write| write.id).collect::<Vec<_>>();
                database.start_as_master();
                // What a person takes back was never promised.
                if !self.overridden {
                    self.visible.extend(seen);
                }
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
