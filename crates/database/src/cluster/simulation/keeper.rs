//! The keepers' drivers, as the machine's contract has them, with all that may go wrong around them.

use std::sync::Arc;
use std::time::Duration;

use super::mariadb::{Applier, Database};
use super::world::{Keeper, What, World};
use crate::cluster::{Action, Event, Found, Io, Job, Machine, Observed, Outcome, Sql, View};

const TICK: Duration = Duration::from_millis(100);
/// A request to the coordinator without an answer is given up.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(500);

impl World {
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

    pub(super) fn keeper(&mut self, server: usize, number: u64) -> Option<&mut Keeper> {
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
            let delay = self.way_to_coordinator();
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
            Some(io) => Io::Streaming { alive: self.now - io.last_alive < Duration::from_millis(1200) },
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
            attached: (0..self.servers.len())
                .filter(bit)
                .map(|index| self.servers[index].name.clone())
                .collect(),
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
            && !matches!(
                event,
                Event::Tick { .. }
                    | Event::Observed { .. }
                    | Event::Probed { .. }
                    | Event::LeaseRenewed { .. }
            )
        {
            let text = match &event {
                Event::View(view) => format!(
                    "View {} leader {:?} sync {:?}",
                    view.revision,
                    view.leader.as_ref().map(|l| (l.value.epoch, l.value.server.as_str(), l.value.phase)),
                    view.sync.as_ref().map(|s| (s.value.mode, &s.value.members))
                ),
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
                    let delay = self.way_to_coordinator();
                    self.after(delay, What::Grant { server, keeper: number, sent_at: now });
                } else {
                    self.after(
                        ANSWER_WITHIN,
                        What::Tell { server, keeper: number, event: Event::LeaseFailed },
                    );
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
                self.after(
                    delay,
                    What::Effect { server, keeper: number, process, id, job, ends: now + within },
                );
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
        let Some(keeper) = &mut self.servers[server].keeper else { return };
        keeper.exit_pending = true;
        let delay = self.dice.micros(500, 5000);
        self.after(delay, What::Tell { server, keeper: number, event: Event::Exited });
    }
}
