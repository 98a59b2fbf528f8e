//! What the sessions of one thread share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mainstay_http::Shutdown;
use mainstay_http::metrics::{Counter, Histogram};
use mainstay_http::tls::ServerTls;
use tokio::sync::{Notify, Semaphore};

use crate::auth::Plugin;
use crate::backend::{Dialer, Learned, Pool, Role};
use crate::channel::Command;
use crate::config::{Consistency, Limits, Pooling};
use crate::gtid::Position;
use crate::kill::Kills;
use crate::metrics::Metrics;
use crate::slow_log::SlowLog;
use crate::statement::{Cache, Digests};
use crate::topology::{Server, Source, Topology};
use crate::wire::command;

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a replica that could not be reached gets nothing.
const AVOIDED: Duration = Duration::from_secs(1);

/// An account as a worker sees it.
pub(crate) struct Account {
    pub(crate) name: Rc<str>,
    pub(crate) password: Vec<u8>,
    pub(crate) plugin: Plugin,
    pub(crate) consistency: Consistency,
    pub(crate) pooling: Pooling,
    pub(crate) connections: u32,
    /// Clients of all workers.
    pub(crate) clients: Arc<AtomicU32>,
    /// This worker's share of the connections to servers.
    pub(crate) backends: Arc<Semaphore>,
    /// A connection was given back, which somebody may wait for.
    pub(crate) returned: Notify,
}

/// A client's place among those of its account.
pub(crate) struct ClientPlace(Arc<AtomicU32>);

impl Account {
    /// Takes a place, if there is one.
    pub(crate) fn enter(&self) -> Option<ClientPlace> {
        let taken = self.clients.fetch_add(1, Ordering::Relaxed);
        let place = ClientPlace(Arc::clone(&self.clients));
        (taken < self.connections).then_some(place)
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct Worker {
    pub(crate) limits: Limits,
    pub(crate) accounts: HashMap<Vec<u8>, Rc<Account>>,
    /// The password that unknown accounts are compared with.
    pub(crate) nobody: Vec<u8>,
    pub(crate) topology: RefCell<Arc<Topology>>,
    pub(crate) source: Source,
    pub(crate) dialer: Dialer,
    pub(crate) pool: Pool,
    pub(crate) cache: RefCell<Cache>,
    pub(crate) learned: RefCell<Learned>,
    /// What replicas were seen to have applied.
    pub(crate) applied: RefCell<HashMap<String, Position>>,
    avoided: RefCell<HashMap<String, Instant>>,
    pub(crate) held: Cell<usize>,
    number: Cell<u64>,
    turn: Cell<usize>,
    pub(crate) metrics: Metrics,
    seconds: [Histogram; 2],
    commands: RefCell<HashMap<u8, Counter>>,
    pub(crate) kills: Arc<Kills>,
    pub(crate) shutdown: Shutdown,
    pub(crate) slow: SlowLog,
    pub(crate) tls: Option<ServerTls>,
}

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) digests: Digests,
    pub(crate) limits: Limits,
    pub(crate) accounts: HashMap<Vec<u8>, Rc<Account>>,
    pub(crate) nobody: Vec<u8>,
    pub(crate) source: Source,
    pub(crate) dialer: Dialer,
    pub(crate) metrics: Metrics,
    pub(crate) kills: Arc<Kills>,
    pub(crate) shutdown: Shutdown,
    pub(crate) slow: SlowLog,
    pub(crate) tls: Option<ServerTls>,
}

impl Worker {
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        let seconds = ["primary", "replica"].map(|server| parts.metrics.seconds.with(&[server]));
        let pool = Pool::default();
        // It is set once, here.
        let _ = pool.live.gauge.set(parts.metrics.backends.clone());
        let topology = Arc::clone(&parts.source.borrow());
        Rc::new(Self {
            limits: parts.limits,
            accounts: parts.accounts,
            nobody: parts.nobody,
            topology: RefCell::new(topology),
            source: parts.source,
            dialer: parts.dialer,
            pool,
            cache: RefCell::new(Cache::new(parts.digests)),
            learned: RefCell::new(Learned::default()),
            applied: RefCell::default(),
            avoided: RefCell::default(),
            held: Cell::new(0),
            number: Cell::new(1),
            turn: Cell::new(0),
            metrics: parts.metrics,
            seconds,
            commands: RefCell::default(),
            kills: parts.kills,
            shutdown: parts.shutdown,
            slow: parts.slow,
            tls: parts.tls,
        })
    }

    /// The servers as of now.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// A number that was not given before.
    pub(crate) fn number(&self) -> u64 {
        let number = self.number.get();
        self.number.set(number + 1);
        number
    }

    pub(crate) fn count(&self, kind: u8) {
        let mut commands = self.commands.borrow_mut();
        commands.entry(kind).or_insert_with(|| self.metrics.commands.with(&[command::name(kind)])).inc();
    }

    pub(crate) fn observe(&self, role: Role, taken: Duration) {
        self.seconds[usize::from(role == Role::Replica)].observe(taken);
    }

    /// The replica for a read: `current` if it is as good as any. Whether it surely has `position` is told too; those that
    /// have it come first.
    pub(crate) fn replica(
        &self,
        topology: &Topology,
        position: Option<&Position>,
        current: Option<&str>,
        now: Instant,
    ) -> Option<(Server, bool)> {
        let avoided = self.avoided.borrow();
        let applied = self.applied.borrow();
        let fit =
            |server: &&Server| server.fresh && avoided.get(&server.name).is_none_or(|until| *until <= now);
        let has = |server: &Server| {
            position.is_none_or(|position| {
                server.applied.covers(position)
                    || applied.get(&server.name).is_some_and(|applied| applied.covers(position))
            })
        };
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        let count = topology.replicas.len();
        (0..count)
            .map(|at| &topology.replicas[(at + turn) % count])
            .filter(fit)
            .max_by_key(|server| (has(server), current == Some(server.name.as_str())))
            .map(|server| (server.clone(), has(server)))
    }

    /// A replica could not be used: for a moment it gets nothing.
    pub(crate) fn avoid(&self, server: &str, now: Instant) {
        self.avoided.borrow_mut().insert(server.to_owned(), now + AVOIDED);
    }

    /// A replica was seen to have applied this.
    pub(crate) fn applied(&self, server: &str, position: &Position) {
        self.applied.borrow_mut().entry(server.to_owned()).or_default().advance(position);
    }
}

/// Asks a server what it is, so that clients are told so from the first one on.
async fn learn(worker: Rc<Worker>) {
    let topology = worker.topology();
    let Some(account) = worker.accounts.values().next() else { return };
    for server in topology.primary.iter().chain(&topology.replicas) {
        match worker.dialer.connect(server, &account.name, &account.password, 0, 0).await {
            Ok((mut channel, greeting, _)) => {
                worker.learned.replace(Learned::from(&greeting));
                channel.put_command(&mut Command::new(command::QUIT, b""));
                // It is gone either way.
                let _ = channel.flush().await;
                return;
            }
            Err(error) => tracing::debug!(server = server.name, %error, "a server does not say what it is"),
        }
    }
}

/// Follows the topology, and lets go of what is connected to servers that are no longer what they were.
pub(crate) async fn follow(worker: Weak<Worker>) {
    let Some(mut source) = worker.upgrade().map(|worker| worker.source.clone()) else { return };
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let changed = tokio::select! {
            changed = source.changed() => changed.is_ok(),
            _ = sweep.tick() => false,
        };
        let Some(worker) = worker.upgrade() else { return };
        let topology = Arc::clone(&source.borrow_and_update());
        if !worker.learned.borrow().known {
            tokio::task::spawn_local(learn(Rc::clone(&worker)));
        }
        let before = worker.topology.replace(Arc::clone(&topology));
        let idle = Duration::from_millis(worker.limits.idle_ms);
        worker.pool.sweep(&topology, idle, Instant::now());
        if !changed {
            if source.has_changed().is_err() {
                // Nobody tells anything any more; what is known stays.
                tokio::time::sleep(SWEEP).await;
            }
            continue;
        }
        if before.epoch != topology.epoch {
            tracing::info!(
                epoch = topology.epoch,
                primary = topology.primary.as_ref().map(|primary| primary.name.as_str()),
                "another epoch"
            );
            // Positions of replicas of the old epoch may not be those of the new history.
            worker.applied.borrow_mut().clear();
            worker.avoided.borrow_mut().clear();
            let grace = Duration::from_millis(worker.limits.grace_ms);
            let (epoch, weak) = (topology.epoch, Rc::downgrade(&worker));
            tokio::task::spawn_local(async move {
                // What the old primary still answers is true: it was acknowledged before it was revoked.
                tokio::time::sleep(grace).await;
                if let Some(worker) = weak.upgrade() {
                    worker
                        .pool
                        .cut(|connection| connection.role == Role::Primary && connection.epoch < epoch);
                }
            });
        }
        worker.pool.cut(|connection| {
            connection.role == Role::Replica
                && !topology
                    .replicas
                    .iter()
                    .chain(&topology.primary)
                    .any(|server| server.name == connection.server)
        });
    }
}
