//! A MariaDB as small as the facts allow. Each fact that the machine's rules come from is built in:
//!
//! - semi-synchronous replication waits for one acknowledgement, of anyone whose IO thread runs and acknowledges;
//! - switching it off commits what waits; `read_only` fails behind a waiter;
//! - SIGKILL and a start as SLAVE truncates what waits, and even the last that was acknowledged; a start as MASTER commits all;
//! - CHANGE MASTER and RESET SLAVE throw the relay log away, and a start after both threads were stopped too;
//! - the IO thread connects again by itself; the applier is late.

use crate::cluster::{Gtid, Stamp};

/// A transaction. `id` tells which write it is, or 0 for Mainstay's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) server: u8,
    pub(super) id: u32,
}

/// Who waits for an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    Client { id: u32 },
    Probe { id: u64, keeper: u64, sent_at: std::time::Duration },
}

/// The receiving half of replication.
#[derive(Debug, Clone, Copy)]
pub(super) struct IoThread {
    pub(super) source: usize,
    /// The connection; 0 while there is none.
    pub(super) connection: u64,
    pub(super) last_alive: std::time::Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Applier {
    Off,
    Running,
    Failed(&'static str),
}

/// mariadbd and its data on one server. The position of a transaction is its index in `log` plus one.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) stamp: Option<Stamp>,
    pub(super) alive: bool,
    pub(super) starting: bool,
    pub(super) frozen: bool,
    pub(super) disk_full: bool,
    /// Grows with each process, so that what belonged to an earlier one is known.
    pub(super) process: u64,
    pub(super) log: Vec<Transaction>,
    /// How many of the log the engine has committed.
    pub(super) committed: usize,
    /// How many of them are sure to lie on the disk.
    pub(super) synced: usize,
    pub(super) relay: Vec<Transaction>,
    pub(super) io: Option<IoThread>,
    /// The IO thread ended over error 1236.
    pub(super) refused: bool,
    pub(super) source: Option<usize>,
    pub(super) applier: Applier,
    pub(super) applying: bool,
    pub(super) acknowledging: bool,
    pub(super) read_only: bool,
    /// Somebody waits to switch `read_only` on.
    pub(super) closing: bool,
    pub(super) semi_sync: bool,
    /// A bit for each server whose account is unlocked.
    pub(super) admitted: u32,
    /// The connection of each server's dump thread.
    pub(super) dumps: Vec<u64>,
    pub(super) waiting: Vec<(usize, Waiter)>,
    /// That it wrote the end of its log itself.
    pub(super) wrote: bool,
}

impl Database {
    pub(super) fn new(servers: usize) -> Self {
        Self {
            stamp: None,
            alive: false,
            starting: false,
            frozen: false,
            disk_full: false,
            process: 1,
            log: Vec::new(),
            committed: 0,
            synced: 0,
            relay: Vec::new(),
            io: None,
            refused: false,
            source: None,
            applier: Applier::Off,
            applying: false,
            acknowledging: false,
            read_only: true,
            closing: false,
            semi_sync: false,
            admitted: 0,
            dumps: vec![0; servers],
            waiting: Vec::new(),
            wrote: false,
        }
    }

    pub(super) fn answers(&self) -> bool {
        self.alive && !self.frozen
    }

    pub(super) fn received(&self) -> usize {
        self.log.len() + self.relay.len()
    }

    pub(super) fn last_received(&self) -> Option<Transaction> {
        self.relay.last().or(self.log.last()).copied()
    }

    pub(super) fn gtid(transaction: Option<Transaction>, seq: usize) -> Gtid {
        transaction.map_or(Gtid::NONE, |transaction| Gtid {
            domain: 0,
            server: u32::from(transaction.server),
            seq: seq as u64,
        })
    }

    /// The process is gone, by SIGKILL or a crash. What lies on the disk stays.
    pub(super) fn die(&mut self) {
        self.alive = false;
        self.starting = false;
        self.frozen = false;
        self.process += 1;
        self.io = None;
        self.refused = false;
        self.applier = Applier::Off;
        self.applying = false;
        self.acknowledging = false;
        self.read_only = true;
        self.closing = false;
        self.semi_sync = false;
        self.dumps.fill(0);
        self.waiting.clear();
    }

    pub(super) fn lose_disk(&mut self) {
        self.die();
        self.stamp = None;
        self.log.clear();
        self.committed = 0;
        self.synced = 0;
        self.relay.clear();
        self.source = None;
        self.admitted = 0;
        self.wrote = false;
    }

    /// A start as SLAVE. `unsynced` of what was committed last did not reach the disk; `purged` says that a replica's relay log files do
    /// not have it any more. Says whether anything was truncated.
    pub(super) fn start_as_slave(&mut self, unsynced: usize, purged: bool) -> bool {
        let before = self.log.len();
        let keep = self.committed.saturating_sub(unsynced).max(self.synced).min(before);
        let cut = self.log.split_off(keep);
        if !self.wrote && !purged {
            self.relay.splice(0..0, cut);
        }
        self.committed = self.log.len();
        self.synced = self.committed;
        self.alive = true;
        keep < before
    }

    pub(super) fn start_as_master(&mut self) {
        self.committed = self.log.len();
        self.synced = self.committed;
        self.alive = true;
    }
}
