//! A worker's connections to servers that nobody uses now, and the bounds of each account.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::connection::{Live, LiveConnection, Place};
use super::{Connection, Role};
use crate::config::Pooling;
use crate::topology::Topology;

/// Idle connections of one kind.
const IDLE: usize = 64;
/// Prepared statements that a connection keeps for others; with more it begins anew.
const STATEMENTS: usize = 256;

/// What connections must have in common to be used for one another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) account: Rc<str>,
    pub(crate) server: Rc<str>,
    /// Capabilities that the client asked for.
    pub(crate) profile: u64,
    pub(crate) collation: u8,
}

/// What is found for somebody who wants a connection.
pub(crate) enum Acquire {
    /// One that was idle.
    Idle(Box<Connection>),
    /// None: one must be made.
    New,
}

#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<Key, Vec<(Connection, Instant)>>>,
    pub(crate) live: Rc<Live>,
}

impl Pool {
    /// An idle connection of this kind, and of the schema or none. Those that are over are dropped on the way.
    pub(crate) fn take(&self, key: &Key, role: Role, schema: Option<&[u8]>, topology: &Topology) -> Acquire {
        let mut idle = self.idle.borrow_mut();
        let Some(list) = idle.get_mut(key) else { return Acquire::New };
        // A schema that is in use cannot be put away again.
        let fits = |connection: &Connection| connection.state.schema.is_none() || schema.is_some();
        while let Some(at) = list.iter().rposition(|(connection, _)| fits(connection)) {
            let (mut connection, _) = list.remove(at);
            if is_current(&connection, topology) && connection.role == role && !connection.is_stale() {
                return Acquire::Idle(Box::new(connection));
            }
        }
        Acquire::New
    }

    /// Drops one idle connection of the account, so that another may be made; whether there was one.
    pub(crate) fn evict(&self, account: &str) -> bool {
        let mut idle = self.idle.borrow_mut();
        let list = idle.iter_mut().find(|(key, list)| *key.account == *account && !list.is_empty());
        list.is_some_and(|(_, list)| list.pop().is_some())
    }

    /// Keeps a connection for others: after a reset, or as it is.
    pub(crate) async fn give_back(&self, mut connection: Connection, pooling: Pooling, topology: &Topology) {
        if connection.busy || !is_current(&connection, topology) {
            return;
        }
        let anew = pooling == Pooling::Session || connection.statements.len() > STATEMENTS;
        if anew && connection.reset().await.is_err() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry((*connection.key).clone()).or_default();
        if list.len() < IDLE {
            list.push((connection, Instant::now()));
        }
    }

    /// Drops what was idle for too long, or is connected to a server that is no longer what it was.
    pub(crate) fn sweep(&self, topology: &Topology, longest: Duration, now: Instant) {
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|(connection, since)| {
                is_current(connection, topology) && now.saturating_duration_since(*since) < longest
            });
            !list.is_empty()
        });
    }

    /// Ends what somebody waits for on connections that no longer may be used. They read the end of the stream.
    pub(crate) fn cut(&self, which: impl Fn(&LiveConnection) -> bool) {
        for connection in self.live.all.borrow().values().filter(|connection| which(connection)) {
            // It may be gone already.
            let _ = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both);
        }
    }

    /// Counts a new connection.
    pub(crate) fn enter(
        &self,
        number: u64,
        permit: tokio::sync::OwnedSemaphorePermit,
        connection: LiveConnection,
    ) -> Place {
        self.live.all.borrow_mut().insert(number, connection);
        if let Some(gauge) = self.live.gauge.get() {
            gauge.add(1);
        }
        Place { _permit: permit, live: Rc::clone(&self.live), number }
    }
}

/// Whether the server of a connection is still what it was when the connection was made.
pub(crate) fn is_current(connection: &Connection, topology: &Topology) -> bool {
    is_current_server(&connection.key.server, connection.role, connection.epoch, topology)
}

pub(crate) fn is_current_server(server: &str, role: Role, epoch: u64, topology: &Topology) -> bool {
    match role {
        Role::Primary => {
            epoch == topology.epoch && topology.primary.as_ref().is_some_and(|primary| primary.name == server)
        }
        Role::Replica => topology.replicas.iter().any(|replica| replica.name == server && replica.fresh),
    }
}
