//! What the machine is told and what it asks for.

use std::sync::Arc;
use std::time::Duration;

use super::keys::{Key, Promotion, Value};
use super::position::{Epoch, Gtid, Name};
use super::view::{LeaseId, View};

/// What the site's file says of the cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This server.
    pub me: Name,
    /// All servers of the database, this one too.
    pub servers: Vec<(Name, Promotion)>,
    /// What is given up when no replica can acknowledge.
    pub durability: Durability,
    /// How long things take.
    pub timing: Timing,
}

/// What is given up when no replica can acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Writes wait.
    NoLoss,
    /// Writes go on, on the primary alone.
    Available,
}

/// How long things take, and how long they are waited for.
#[derive(Debug, Clone)]
pub struct Timing {
    /// The lease's time to live.
    pub ttl: Duration,
    /// A primary without a renewal that was sent within this time fences itself: 2/3 of `ttl`.
    pub fence_after: Duration,
    /// Without a renewal, an acknowledgement of a write that was sent within this time stands in for it.
    pub acknowledged_within: Duration,
    /// How often the primary proves by a write that writes are acknowledged.
    pub probe_every: Duration,
    /// How long a member of the synchronous set may be away before it leaves the set.
    pub shrink_after: Duration,
    /// How long all may be away before an available database goes on without.
    pub degrade_after: Duration,
    /// A primary's mariadbd that answers nothing for so long is killed; a replica's after three times as long.
    pub unresponsive_after: Duration,
    /// How much later each candidate claims than the one before it.
    pub claim_step: Duration,
    /// How much longer a replica waits while its stream from the last primary is alive: that may resume.
    pub resume_grace: Duration,
    /// How often a server tells its position when nothing else changes.
    pub report_every: Duration,
    /// How long a planned switchover may keep writes waiting before it is given up.
    pub switchover_within: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self::with_ttl(Duration::from_secs(2))
    }
}

impl Timing {
    /// The timing that goes with a lease's time to live.
    pub fn with_ttl(ttl: Duration) -> Self {
        Self {
            ttl,
            fence_after: ttl * 2 / 3,
            acknowledged_within: ttl / 3,
            probe_every: ttl / 8,
            shrink_after: ttl / 2,
            degrade_after: ttl,
            unresponsive_after: ttl,
            claim_step: Duration::from_millis(150),
            resume_grace: Duration::from_millis(1500),
            report_every: Duration::from_secs(1),
            switchover_within: Duration::from_millis(1500),
        }
    }
}

/// What the keeper keeps in a file beside the data, written before what it permits begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// The epoch whose history the data is a part of.
    pub epoch: Epoch,
    /// Whether this server led in it: then it may not be started without knowing the synchronous set.
    pub led: bool,
}

/// What the keeper finds when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No data.
    NoData,
    /// Data, and no mariadbd on it.
    Stopped(Stamp),
    /// Data with a mariadbd that an earlier keeper started. Before it says so, the driver ends all connections of that keeper.
    Running(Stamp, Observed),
}

/// What is seen of a mariadbd that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// All that is applied here: the later of `gtid_binlog_pos` and `gtid_slave_pos`.
    pub applied: Gtid,
    /// All that was received: `Gtid_IO_Pos`, and after a start the end of the relay log's files.
    pub received: Gtid,
    /// What the IO thread does.
    pub io: Io,
    /// The server that it is set up to replicate from.
    pub source: Option<Name>,
    /// What the SQL thread does.
    pub sql: Sql,
    /// `rpl_semi_sync_slave_enabled`.
    pub acknowledging: bool,
    /// `read_only`.
    pub read_only: bool,
    /// `rpl_semi_sync_master_enabled`.
    pub semi_sync: bool,
    /// The servers whose dump threads are attached.
    pub attached: Vec<Name>,
    /// That its disk is full.
    pub disk_full: bool,
}

impl Observed {
    /// Whether the relay log has what is not applied.
    pub fn has_unapplied(&self) -> bool {
        self.received.seq > self.applied.seq
    }
}

/// What an IO thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// It does not run.
    Off,
    /// It ended because the source has no such position (error 1236).
    Refused,
    /// It runs and is not attached.
    Connecting,
    /// It is attached. `alive`: something, if only a heartbeat, came within 1.2 s.
    Streaming {
        /// Whether the source is alive.
        alive: bool,
    },
}

/// What a SQL thread does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sql {
    /// It does not run.
    Off,
    /// It applies.
    Running,
    /// It stopped over an error.
    Failed(String),
}

/// What happens to the machine.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time passes; at least every 100 ms.
    Tick {
        /// The wall clock, in milliseconds since 1970: for people and an operator's pause alone.
        wall_ms: u64,
    },
    /// The coordinator's keys changed: a snapshot of all, never older than the one before.
    View(Arc<View>),
    /// What became of a transaction.
    Answer {
        /// The transaction's number.
        id: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// A lease was granted by a request that was sent then.
    LeaseGranted {
        /// The lease.
        lease: LeaseId,
        /// When the request was sent, on the machine's clock.
        sent_at: Duration,
    },
    /// The lease was renewed by a request that was sent then.
    LeaseRenewed {
        /// The lease.
        lease: LeaseId,
        /// When the request was sent, on the machine's clock.
        sent_at: Duration,
    },
    /// The coordinator does not know the lease any more.
    LeaseLost {
        /// The lease.
        lease: LeaseId,
    },
    /// No lease could be had; another is asked for.
    LeaseFailed,
    /// A look at mariadbd. One that fails is not told.
    Observed {
        /// When it was begun, on the machine's clock.
        taken_at: Duration,
        /// What was seen.
        observed: Observed,
    },
    /// mariadbd has ended, by waitpid or its pidfd.
    Exited,
    /// A job is done.
    Done {
        /// The job's number.
        id: u64,
        /// A look at mariadbd that was taken after it; none where it does not run.
        observed: Option<Observed>,
    },
    /// A job failed. What it does cannot take effect later, unless it timed out.
    Failed {
        /// The job's number.
        id: u64,
        /// How.
        failure: Failure,
    },
    /// How a probe went. One that waited may be acknowledged later; then it is told again.
    Probed {
        /// The probe's number.
        id: u64,
        /// When its statement was sent, on the machine's clock.
        sent_at: Duration,
        /// How.
        result: Probed,
    },
}

/// What became of a transaction with the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything compared as it should, and was written at this revision.
    Won {
        /// The store's revision.
        revision: u64,
    },
    /// Something compared otherwise, at this revision.
    Lost {
        /// The store's revision.
        revision: u64,
    },
    /// Nobody knows; it may even be done later.
    Unknown,
}

/// How a probe went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// It was committed, and so acknowledged where the primary waits for that.
    Committed,
    /// It waits. It is never killed: that would commit it.
    Waiting,
    /// mariadbd refused it: it writes nothing.
    Failed(String),
}

/// How a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It did not end in time, and may still take effect as long as this mariadbd lives.
    TimedOut,
    /// It failed, and may be tried again.
    Failed(String),
    /// This data cannot be used any more: mariadbd refuses to truncate its binary log, or the source has no history for it.
    Hopeless(String),
}

/// What the machine asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A transaction with the coordinator. One at a time.
    Transact {
        /// Its number.
        id: u64,
        /// What it compares and writes.
        transaction: Transaction,
    },
    /// Ask for a lease of the time to live of the settings, and renew it every sixth of that.
    GrantLease,
    /// Do something to mariadbd. One at a time; but see [`Action::Kill`].
    Do {
        /// Its number.
        id: u64,
        /// What.
        job: Job,
        /// How long it may take.
        within: Duration,
    },
    /// SIGKILL mariadbd at once. A job under way ends with it, failed. [`Event::Exited`] follows.
    Kill {
        /// Why, for people.
        why: String,
    },
    /// Commit a row in a table of Mainstay's own, beside any job. One at a time.
    Probe {
        /// Its number.
        id: u64,
    },
    /// Tell people.
    Report(String),
}

/// A transaction: all of it, if all compares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The revisions at which keys were last written; 0 for a key that is not there.
    pub compare: Vec<(Key, u64)>,
    /// What to write, and the lease that it is bound to.
    pub put: Vec<(Value, Option<LeaseId>)>,
    /// What to delete.
    pub delete: Vec<Key>,
}

/// The role that mariadbd is started with (`--init-rpl-role`): what its crash recovery does with transactions that are in its binary log and
/// not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Recovery commits all that the binary log has.
    Master,
    /// Recovery truncates what was not committed.
    Slave,
}

/// What is done to mariadbd and its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Make the first data, with a stamp of epoch 0. What is cut short leaves no data.
    Initialise,
    /// Start mariadbd: `read_only`, no replication, semi-synchronous replication off. Done when it answers.
    Start {
        /// With which role.
        role: Role,
    },
    /// `STOP SLAVE IO_THREAD` (the SQL thread goes on), then `rpl_semi_sync_slave_enabled=0`, then `FLUSH ENGINE LOGS`: what is reported
    /// after it outlives mariadbd.
    Revoke,
    /// Wait until the SQL thread has applied up to there.
    Drain {
        /// The position.
        to: Gtid,
    },
    /// Apply what the relay log's files have beyond what is applied, after both threads were stopped.
    RescueRelay,
    /// Replicate from another that is further ahead, up to there, without acknowledging, then stop. Only with a drained relay log. It uses
    /// an account of its own, which is never locked: on a replica all others are.
    CatchUp {
        /// From whom.
        from: Name,
        /// The position.
        to: Gtid,
        /// The epoch whose history that is a part of: the stamp's epoch, written before.
        lineage: Epoch,
    },
    /// Write the stamp, `FLUSH ENGINE LOGS` (what was applied from the relay log has to outlive it), then `STOP SLAVE; RESET SLAVE ALL`, admit exactly these, and switch semi-synchronous replication. Only with a
    /// drained relay log. It stays `read_only`.
    Promote {
        /// The epoch, of which the stamp says that this server led in it.
        epoch: Epoch,
        /// Whether a commit waits for an acknowledgement.
        semi_sync: bool,
        /// Whose replication accounts are unlocked; all others are locked and their connections ended.
        admit: Vec<Name>,
    },
    /// `read_only=0`.
    OpenWrites,
    /// `read_only=1`, bounded: it fails where a transaction waits for its acknowledgement. Then end the clients' connections, then
    /// `FLUSH ENGINE LOGS`.
    CloseWrites,
    /// Unlock the replication accounts of exactly these, lock all others and end their connections; not in the binary log.
    Admit {
        /// Whom.
        members: Vec<Name>,
    },
    /// Switch `rpl_semi_sync_master_enabled`. Off commits whatever waits.
    SetSemiSync {
        /// Whether a commit waits for an acknowledgement.
        on: bool,
    },
    /// Write the stamp, lock all replication accounts, switch semi-synchronous primary off, then `STOP SLAVE; CHANGE MASTER; START SLAVE`.
    /// Only with a drained relay log.
    Follow {
        /// The primary.
        primary: Name,
        /// Its epoch, of which the stamp says that this server did not lead in it.
        epoch: Epoch,
        /// That this server wrote itself before: `MASTER_DEMOTE_TO_SLAVE=1`. So too wherever `gtid_binlog_pos` is beyond `gtid_slave_pos`,
        /// for a keeper may have died between the stamp and the statement.
        demote: bool,
        /// Whether it acknowledges.
        acknowledging: bool,
    },
    /// Switch `rpl_semi_sync_slave_enabled` and restart the IO thread, while the SQL thread runs.
    SetAcknowledging {
        /// Whether it acknowledges.
        on: bool,
    },
    /// Keep what only this server has: write the binary log's transactions beyond this position to a file, and tell of it. mariadbd does not
    /// run. The data stays as it is.
    KeepArtifact {
        /// The end of what is shared.
        beyond: Gtid,
    },
    /// Copy a server's data over the network into a new data folder. Only when it is complete it takes the place of the old one, with a
    /// stamp of this epoch, and the old one is kept aside for some hours. mariadbd does not run.
    Seed {
        /// From whom.
        from: Name,
        /// The stamp's epoch.
        epoch: Epoch,
    },
}
