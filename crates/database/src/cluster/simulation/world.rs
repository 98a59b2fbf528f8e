//! The world that the machines live in: servers, their network, the clock, and what is going to happen.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::dice::Dice;
use super::faults::Fault;
use super::mariadb::Database;
use crate::cluster::rules::Rule;
use crate::cluster::{
    Durability, Epoch, Event, Job, LeaseId, Machine, Name, Promotion, Settings, Timing, Transaction, View,
};

/// What happens at some moment.
#[derive(Debug)]
pub(super) enum What {
    KeeperTick { server: usize, keeper: u64 },
    Renew { server: usize, keeper: u64 },
    Tell { server: usize, keeper: u64, event: Event },
    Show { server: usize, keeper: u64, view: Arc<View> },
    Transact { server: usize, keeper: u64, id: u64, transaction: Box<Transaction>, answers: bool },
    Grant { server: usize, keeper: u64, sent_at: Duration },
    RenewAt { server: usize, keeper: u64, lease: LeaseId, sent_at: Duration },
    Expire,
    Effect { server: usize, keeper: u64, process: u64, id: u64, job: Job, ends: Duration },
    Probe { server: usize, keeper: u64, process: u64, id: u64, sent_at: Duration },
    StartKeeper { server: usize, keeper: u64 },
    Connect { server: usize, process: u64 },
    Deliver { server: usize, process: u64, connection: u64, upto: usize },
    Acknowledge { source: usize, process: u64, from: usize, connection: u64, upto: usize },
    Apply { server: usize, process: u64 },
    Disconnected { server: usize, connection: u64 },
    Undump { source: usize, from: usize, connection: u64 },
    Route { leader: Option<usize> },
    Write,
    Execute { server: usize, id: u32, tries: u32 },
    Fault(Fault),
    Heal(Fault),
}

struct Entry {
    at: Duration,
    order: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A keeper's process.
pub(super) struct Keeper {
    pub(super) machine: Machine,
    pub(super) frozen: bool,
    pub(super) backlog: Vec<Event>,
    pub(super) shown: Option<u64>,
    pub(super) lease: Option<LeaseId>,
    pub(super) running: Option<u64>,
    pub(super) exit_pending: bool,
}

/// One server.
pub(super) struct Server {
    pub(super) name: Name,
    pub(super) is_up: bool,
    /// Grows with each process of the keeper.
    pub(super) keeper_number: u64,
    pub(super) keeper: Option<Keeper>,
    pub(super) database: Database,
    /// Whether it reaches the coordinator.
    pub(super) reaches_coordinator: bool,
    pub(super) writable_since: Option<Duration>,
    /// How late its applier is, in milliseconds.
    pub(super) lag_ms: u64,
}

/// What a run is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) servers: usize,
    pub(super) durability: Durability,
    pub(super) broken: Option<Rule>,
    /// How many faults chance adds.
    pub(super) faults: u64,
    pub(super) trace: bool,
    /// How far apart the clients' writes are.
    pub(super) pace_ms: u64,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(super) now: Duration,
    queue: BinaryHeap<Entry>,
    order: u64,
    pub(super) coordinator: Coordinator,
    pub(super) servers: Vec<Server>,
    /// Which pairs of servers are cut off from each other.
    pub(super) cut: Vec<Vec<bool>>,
    pub(super) calm: bool,
    /// Clients write nothing any more.
    pub(super) quiet: bool,
    pub(super) next_connection: u64,
    pub(super) next_write: u32,
    /// Where clients send writes.
    pub(super) routed: Option<usize>,
    pub(super) acknowledged: Vec<u32>,
    pub(super) acknowledged_at: Duration,
    pub(super) highest_epoch: Epoch,
    pub(super) opened: Option<(Epoch, usize)>,
    pub(super) overridden: bool,
    /// What is lost is accepted at the next opening.
    pub(super) override_pending: bool,
    pub(super) ambushes: u32,
    pub(super) set_revision: u64,
    /// Writes that readers saw although nobody acknowledged them.
    pub(super) visible: Vec<u32>,
    pub(super) lost_a_disk: bool,
    pub(super) failed_applier: bool,
    pub(super) violation: Option<String>,
    pub(super) timing: Timing,
    pub(super) failovers: u64,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let mut dice = Dice::new(seed);
        let servers = (0..plan.servers)
            .map(|index| Server {
                name: Name::from(["a", "b", "c", "d", "e"][index]),
                is_up: true,
                keeper_number: 1,
                keeper: None,
                database: Database::new(plan.servers),
                reaches_coordinator: true,
                writable_since: None,
                lag_ms: if dice.one_in(4) { 20 + dice.roll(300) } else { 1 + dice.roll(8) },
            })
            .collect();
        let mut world = Self {
            plan,
            dice,
            now: Duration::from_secs(1000),
            queue: BinaryHeap::new(),
            order: 0,
            coordinator: Coordinator::default(),
            servers,
            cut: vec![vec![false; plan.servers]; plan.servers],
            calm: true,
            quiet: false,
            next_connection: 0,
            next_write: 0,
            routed: None,
            acknowledged: Vec::new(),
            acknowledged_at: Duration::ZERO,
            highest_epoch: Epoch(0),
            opened: None,
            overridden: false,
            override_pending: false,
            ambushes: 0,
            set_revision: 0,
            visible: Vec::new(),
            lost_a_disk: false,
            failed_applier: false,
            violation: None,
            timing: Timing::default(),
            failovers: 0,
        };
        for server in 0..plan.servers {
            let at = world.dice.millis(0, 50);
            world.after(at, What::StartKeeper { server, keeper: 1 });
        }
        world.after(Duration::from_millis(10), What::Write);
        world
    }

    pub(super) fn settings(&self, server: usize) -> Settings {
        Settings {
            me: self.servers[server].name.clone(),
            servers: self
                .servers
                .iter()
                .enumerate()
                .map(|(index, server)| {
                    // The last of five never leads by itself, and the second of three is preferred.
                    let promotion = match (self.plan.servers, index) {
                        (5, 4) => Promotion::Never,
                        (3, 1) => Promotion::Prefer,
                        _ => Promotion::Allow,
                    };
                    (server.name.clone(), promotion)
                })
                .collect(),
            durability: self.plan.durability,
            timing: self.timing.clone(),
        }
    }

    #[allow(clippy::unused_self)]
    pub(super) fn index(&self, name: &Name) -> usize {
        usize::from(name.as_str().as_bytes()[0] - b'a')
    }

    pub(super) fn after(&mut self, delay: Duration, what: What) {
        self.order += 1;
        self.queue.push(Entry { at: self.now + delay, order: self.order, what });
    }

    pub(super) fn trace(&self, text: impl FnOnce() -> String) {
        if self.plan.trace {
            println!("{:9.3} {}", self.now.as_secs_f64() - 1000.0, text());
        }
    }

    pub(super) fn violate(&mut self, text: String) {
        self.trace(|| format!("VIOLATION {text}"));
        self.violation.get_or_insert(text);
    }

    /// Whether packets pass between two servers.
    pub(super) fn passes(&self, one: usize, other: usize) -> bool {
        one == other || self.servers[one].is_up && self.servers[other].is_up && !self.cut[one][other]
    }

    pub(super) fn reaches_coordinator(&self, server: usize) -> bool {
        self.servers[server].is_up && self.servers[server].reaches_coordinator && !self.coordinator.is_down
    }

    /// Lets things happen until then, or until something that must not be.
    pub(super) fn run_until(&mut self, end: Duration) {
        while self.violation.is_none() {
            let Some(next) = self.queue.peek() else { return };
            if next.at > end {
                self.now = end;
                return;
            }
            let Some(entry) = self.queue.pop() else { return };
            self.now = self.now.max(entry.at);
            self.happen(entry.what);
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::KeeperTick { server, keeper } => self.keeper_tick(server, keeper),
            What::Renew { server, keeper } => self.renew(server, keeper),
            What::Tell { server, keeper, event } => self.tell(server, keeper, event),
            What::Show { server, keeper, view } => self.show(server, keeper, view),
            What::Transact { server, keeper, id, transaction, answers } => {
                self.transact(server, keeper, id, *transaction, answers);
            }
            What::Grant { server, keeper, sent_at } => self.grant(server, keeper, sent_at),
            What::RenewAt { server, keeper, lease, sent_at } => self.renew_at(server, keeper, lease, sent_at),
            What::Expire => self.expire(),
            What::Effect { server, keeper, process, id, job, ends } => {
                self.effect(server, keeper, process, id, job, ends);
            }
            What::Probe { server, keeper, process, id, sent_at } => {
                self.probe(server, keeper, process, id, sent_at);
            }
            What::StartKeeper { server, keeper } => self.start_keeper(server, keeper),
            What::Connect { server, process } => self.connect(server, process),
            What::Deliver { server, process, connection, upto } => {
                self.deliver(server, process, connection, upto);
            }
            What::Acknowledge { source, process, from, connection, upto } => {
                self.acknowledge(source, process, from, connection, upto);
            }
            What::Apply { server, process } => self.apply(server, process),
            What::Disconnected { server, connection } => self.disconnected(server, connection),
            What::Undump { source, from, connection } => {
                let dump = &mut self.servers[source].database.dumps[from];
                if *dump == connection {
                    *dump = 0;
                }
            }
            What::Route { leader } => self.routed = leader.or(self.routed),
            What::Write => self.write(),
            What::Execute { server, id, tries } => self.execute(server, id, tries),
            // What was planned for later is let be when everything is to heal.
            What::Fault(fault) if !self.calm => self.fault(fault),
            What::Fault(_) => {}
            What::Heal(fault) => self.heal(fault),
        }
    }

    /// What the members of the cluster are, by name.
    pub(super) fn summary(&self) -> String {
        let view = &self.coordinator.view;
        let leader = view.leader.as_ref().map(|l| format!("{:?}", l.value));
        let sync = view.sync.as_ref().map(|s| format!("{:?} {:?}", s.value.mode, s.value.members));
        let mut servers = BTreeMap::new();
        for server in &self.servers {
            let state = view.members.get(&server.name).map(|member| {
                let m = &member.value;
                format!(
                    "{:?} e{} r{} {} str{} ack{}",
                    m.state, m.epoch, m.revoked_epoch, m.received, m.streaming, m.acknowledging
                )
            });
            let d = &server.database;
            let keeper = server.keeper.as_ref().map(|k| (k.frozen, k.machine.why()));
            servers.insert(
                server.name.as_str(),
                format!(
                    "{state:?} alive {} frozen {} log {} relay {} io {:?} {:?} ro {} adm {:b} keeper {keeper:?}",
                    d.alive, d.frozen, d.log.len(), d.relay.len(), d.io.map(|i| (i.source, i.connection)), d.applier, d.read_only, d.admitted,
                ),
            );
        }
        format!(
            "leader {leader:?}\nsync {sync:?}\nepoch {:?}\nintent {:?}\n{servers:#?}",
            view.epoch.as_ref().map(|e| &e.value),
            view.intent.as_ref().map(|i| &i.value)
        )
    }
}
