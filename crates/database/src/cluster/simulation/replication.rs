//! Replication between the databases, and the clients' writes.

use std::time::Duration;

use super::mariadb::{Applier, Database, IoThread, Transaction, Waiter};
use super::world::{What, World};
use crate::cluster::{Event, Probed};

/// A connection that hears nothing for so long is given up (`slave_net_timeout`).
const NET_TIMEOUT: Duration = Duration::from_secs(4);

impl World {
    fn latency(&mut self) -> Duration {
        if !self.calm && self.dice.one_in(30) { self.dice.millis(5, 80) } else { self.dice.micros(100, 2000) }
    }

    pub(super) fn start_io(&mut self, server: usize, source: usize) {
        let now = self.now;
        let process = self.servers[server].database.process;
        let database = &mut self.servers[server].database;
        database.io = Some(IoThread { source, connection: 0, last_alive: now - Duration::from_secs(9) });
        database.source = Some(source);
        let delay = self.dice.millis(1, 5);
        self.after(delay, What::Connect { server, process });
    }

    pub(super) fn stop_io(&mut self, server: usize) {
        self.servers[server].database.refused = false;
        let Some(io) = self.servers[server].database.io.take() else { return };
        if io.connection != 0 {
            self.undump(io.source, server, io.connection);
        }
    }

    /// The source notices that a connection has ended; what is under way in it still arrives before.
    fn undump(&mut self, source: usize, from: usize, connection: u64) {
        let delay = if self.passes(source, from) { self.dice.millis(1, 30) } else { NET_TIMEOUT };
        self.after(delay, What::Undump { source, from, connection });
    }

    pub(super) fn connect(&mut self, server: usize, process: u64) {
        let database = &self.servers[server].database;
        let Some(io) = database.io.filter(|io| database.process == process && io.connection == 0) else {
            return;
        };
        let source = io.source;
        let from = &self.servers[source].database;
        let is_let_in = from.admitted & (1 << server) != 0;
        if !self.servers[server].database.answers()
            || !self.passes(server, source)
            || !from.answers()
            || !is_let_in
            || source == server
        {
            let delay = self.dice.millis(100, 1000);
            return self.after(delay, What::Connect { server, process });
        }
        let received = database.received();
        let last = database.last_received();
        let there = received.checked_sub(1).map(|index| from.log.get(index).copied());
        match (last, there) {
            (None, _) => {}
            (Some(last), Some(Some(there))) if last == there => {}
            (Some(last), Some(Some(there))) if last.server == there.server => {
                return self
                    .violate(format!("nobody noticed that {server} and {source} differ at {received}"));
            }
            // Error 1236: the source has no such position.
            _ => {
                self.servers[server].database.io = None;
                self.servers[server].database.refused = true;
                return;
            }
        }
        self.next_connection += 1;
        let connection = self.next_connection;
        let now = self.now;
        let acknowledging = self.servers[server].database.acknowledging;
        self.servers[server].database.io = Some(IoThread { source, connection, last_alive: now });
        self.servers[source].database.dumps[server] = connection;
        let upto = self.servers[source].database.log.len();
        let source_process = self.servers[source].database.process;
        if acknowledging {
            let delay = self.latency();
            let upto = received;
            self.after(
                delay,
                What::Acknowledge { source, process: source_process, from: server, connection, upto },
            );
        }
        if upto > received {
            let delay = self.latency();
            self.after(delay, What::Deliver { server, process, connection, upto });
        }
    }

    /// Sends the end of a log to those that are attached.
    pub(super) fn stream(&mut self, source: usize) {
        let upto = self.servers[source].database.log.len();
        for server in 0..self.servers.len() {
            let connection = self.servers[source].database.dumps[server];
            let database = &self.servers[server].database;
            let process = database.process;
            if connection != 0 && database.io.is_some_and(|io| io.connection == connection) {
                let delay = self.latency();
                self.after(delay, What::Deliver { server, process, connection, upto });
            }
        }
    }

    pub(super) fn deliver(&mut self, server: usize, process: u64, connection: u64, upto: usize) {
        let database = &self.servers[server].database;
        let Some(io) = database.io.filter(|io| database.process == process && io.connection == connection)
        else {
            return;
        };
        let source = io.source;
        if self.servers[source].database.dumps[server] != connection {
            return;
        }
        let waits = !self.passes(server, source) || database.frozen || database.disk_full;
        if waits {
            return self
                .after(Duration::from_millis(40), What::Deliver { server, process, connection, upto });
        }
        let received = database.received();
        let upto = upto.min(self.servers[source].database.log.len());
        if upto > received {
            let news: Vec<Transaction> = self.servers[source].database.log[received..upto].to_vec();
            self.servers[server].database.relay.extend(news);
            self.apply_soon(server);
        }
        if self.servers[server].database.acknowledging {
            let delay = self.latency();
            let process = self.servers[source].database.process;
            self.after(delay, What::Acknowledge { source, process, from: server, connection, upto });
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        source: usize,
        process: u64,
        from: usize,
        connection: u64,
        upto: usize,
    ) {
        let database = &self.servers[source].database;
        if database.process != process || database.dumps[from] != connection {
            return;
        }
        if database.frozen || !self.passes(source, from) {
            return self.after(
                Duration::from_millis(40),
                What::Acknowledge { source, process, from, connection, upto },
            );
        }
        self.commit(source, upto);
    }

    /// Commits what waits for an acknowledgement up to there, and tells whoever waits.
    pub(super) fn commit(&mut self, server: usize, upto: usize) {
        let database = &mut self.servers[server].database;
        let upto = upto.min(database.log.len());
        if database.waiting.first().is_none_or(|(index, _)| *index >= upto) {
            return;
        }
        database.committed = database.committed.max(upto);
        let waiting = std::mem::take(&mut database.waiting);
        let (done, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(index, _)| *index < upto);
        self.servers[server].database.waiting = rest;
        for (index, waiter) in done {
            self.finished(server, index, waiter);
        }
    }

    /// A commit is acknowledged to whoever sent it.
    fn finished(&mut self, server: usize, index: usize, waiter: Waiter) {
        match waiter {
            Waiter::Client { id } => {
                self.acknowledged.push(id);
                self.acknowledged_at = self.now;
                self.check_acknowledgement(server, index, id);
            }
            Waiter::Probe { id, keeper, sent_at } => {
                let event = Event::Probed { id, sent_at, result: Probed::Committed };
                let delay = self.dice.micros(100, 1000);
                self.after(delay, What::Tell { server, keeper, event });
            }
        }
    }

    fn apply_soon(&mut self, server: usize) {
        let lag = self.servers[server].lag_ms;
        let delay = self.dice.millis(0, lag * 2);
        let database = &mut self.servers[server].database;
        if database.applying || database.relay.is_empty() || database.applier != Applier::Running {
            return;
        }
        database.applying = true;
        let process = database.process;
        self.after(delay, What::Apply { server, process });
    }

    pub(super) fn start_applier(&mut self, server: usize) {
        self.servers[server].database.applier = Applier::Running;
        self.apply_soon(server);
    }

    pub(super) fn apply(&mut self, server: usize, process: u64) {
        let all = self.dice.roll(2);
        let database = &mut self.servers[server].database;
        if database.process != process {
            return;
        }
        if database.frozen || database.disk_full {
            return self.after(Duration::from_millis(40), What::Apply { server, process });
        }
        database.applying = false;
        if database.applier != Applier::Running || database.relay.is_empty() {
            return;
        }
        let count = if all == 0 { database.relay.len() } else { database.relay.len().div_ceil(2) };
        let applied: Vec<Transaction> = database.relay.drain(..count).collect();
        database.log.extend(applied);
        database.committed = database.log.len();
        self.stream(server);
        self.apply_soon(server);
    }

    pub(super) fn disconnected(&mut self, server: usize, connection: u64) {
        let database = &mut self.servers[server].database;
        let process = database.process;
        if let Some(io) = database.io.as_mut().filter(|io| io.connection == connection) {
            io.connection = 0;
            let delay = self.dice.millis(1, 1000);
            self.after(delay, What::Connect { server, process });
        }
    }

    /// Ends the connections of those whose accounts are locked.
    pub(super) fn lock_out(&mut self, server: usize) {
        for other in 0..self.servers.len() {
            let database = &mut self.servers[server].database;
            let connection = database.dumps[other];
            if database.admitted & (1 << other) == 0 && connection != 0 {
                database.dumps[other] = 0;
                let delay = if self.passes(server, other) { self.latency() } else { NET_TIMEOUT };
                self.after(delay, What::Disconnected { server: other, connection });
            }
        }
    }

    /// mariadbd's process is gone.
    pub(super) fn kill_database(&mut self, server: usize) {
        let database = &self.servers[server].database;
        let dumps = database.dumps.clone();
        let io = database.io;
        for (other, connection) in dumps.into_iter().enumerate() {
            if connection != 0 {
                let delay = if self.passes(server, other) { self.latency() } else { NET_TIMEOUT };
                self.after(delay, What::Disconnected { server: other, connection });
            }
        }
        if let Some(io) = io.filter(|io| io.connection != 0) {
            self.undump(io.source, server, io.connection);
        }
        self.servers[server].database.die();
    }

    pub(super) fn write(&mut self) {
        let delay = self.dice.millis(1, self.plan.pace_ms * 2);
        self.after(delay, What::Write);
        if self.quiet {
            return;
        }
        // Some clients hold an old connection, or know better.
        let stray = self.dice.one_in(12).then(|| self.dice.roll(self.servers.len() as u64) as usize);
        if let Some(server) = stray.or(self.routed) {
            self.next_write += 1;
            let id = self.next_write;
            let delay = self.latency();
            self.after(delay, What::Execute { server, id, tries: 0 });
        }
    }

    pub(super) fn execute(&mut self, server: usize, id: u32, tries: u32) {
        let database = &self.servers[server].database;
        if database.alive && database.frozen && tries < 500 {
            // It lies in the socket, and is executed when the server thaws, whatever the client made of it.
            return self.after(Duration::from_millis(40), What::Execute { server, id, tries: tries + 1 });
        }
        if database.alive && database.closing && tries < 500 {
            return self.after(Duration::from_millis(5), What::Execute { server, id, tries: tries + 1 });
        }
        if !database.answers() || database.read_only || database.disk_full || !self.servers[server].is_up {
            return;
        }
        self.append(server, id, Waiter::Client { id });
    }

    pub(super) fn append(&mut self, server: usize, id: u32, waiter: Waiter) {
        let database: &mut Database = &mut self.servers[server].database;
        let index = database.log.len();
        database.log.push(Transaction { server: server as u8, id });
        database.wrote = true;
        if database.semi_sync {
            database.waiting.push((index, waiter));
        } else {
            database.committed = database.log.len();
            self.finished(server, index, waiter);
        }
        self.stream(server);
    }
}
