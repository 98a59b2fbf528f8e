//! How a member is, in one exchange: cheap enough for several times a second.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::accounts;
use super::error::ActionError;
use super::gtid::{BinlogState, Position};
use super::session::{Rows, Session, SqlError};

/// What a running member tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Such as `10.11.19-MariaDB-0+deb12u1-log`.
    pub version: String,
    /// Its number among its fellows.
    pub server_id: u32,
    /// Seconds since its start.
    pub uptime_secs: u64,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether its commits wait for a replica's acknowledgement: so on the open primary, and nowhere else.
    pub waits: bool,
    /// Replicas that are attached and acknowledge.
    pub acknowledging_replicas: u32,
    /// Transactions that wait for an acknowledgement now.
    pub waiters: u64,
    /// Whether its next stream will acknowledge.
    pub may_acknowledge: bool,
    /// Whether its stream acknowledges.
    pub acknowledges: bool,
    /// The last transaction in its binary log.
    pub binlog_pos: Position,
    /// The last transaction that it applied as a replica.
    pub slave_pos: Position,
    /// The last of each server in its binary log.
    pub binlog_state: BinlogState,
    /// What it receives, if it is set up to.
    pub stream: Option<Stream>,
    /// Who receives from it.
    pub receivers: Vec<Receiver>,
}

/// A replica's side of replication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The primary's address.
    pub host: String,
    /// And port.
    pub port: u16,
    /// The last whole transaction in the relay log, as far as this process of the server knows: after a start, before the
    /// stream runs, it does not look into the files that are there ([`super::binlog::first_behind`] does).
    pub received: Position,
    /// Changes whenever anything comes from the primary, be it a heartbeat. One that stays the same for much longer than a
    /// heartbeat's period is that of a primary which is gone or frozen.
    pub pulse: u64,
    /// Whether places are GTIDs, as always but in the middle of a rescue ([`super::replica::rescue`]).
    pub by_gtid: bool,
    /// The thread that receives.
    pub receiver: Thread,
    /// The thread that applies.
    pub applier: Thread,
    /// Seconds that the applier is behind, if both threads run.
    pub behind_secs: Option<u64>,
}

/// A replication thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// What it does.
    pub state: ThreadState,
    /// The number of its last error; 0 for none.
    pub error: u32,
    /// The error's words.
    pub message: String,
}

/// What a replication thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadState {
    /// It is stopped, or ended with its error.
    Stopped,
    /// It tries to reach the primary.
    Connecting,
    /// It does its work.
    Running,
}

/// A connection over which somebody receives this server's binary log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// As in `KILL`.
    pub connection_id: u64,
    /// The replica's number, if it came with a replica's account.
    pub server_id: Option<u32>,
    /// Its address and port.
    pub from: String,
}

impl Thread {
    /// Whether it does its work.
    pub fn runs(&self) -> bool {
        self.state == ThreadState::Running
    }
}

impl View {
    /// Everything that it applied as a replica, or committed as none.
    pub fn applied(&self) -> Position {
        // A replica's own binary log is ahead of what can be seen: it is written before the engine commits.
        if self.stream.is_some() {
            return self.slave_pos.clone();
        }
        // Both are on one history unless somebody wrote here by hand; then its own writes are what matters.
        self.slave_pos.clone().further(self.binlog_pos.clone()).unwrap_or_else(|(_, own)| own)
    }

    /// Everything that it has, applied or in the relay log.
    pub fn received(&self) -> Position {
        let applied = self.applied();
        match &self.stream {
            Some(stream) => applied.further(stream.received.clone()).unwrap_or_else(|(applied, _)| applied),
            None => applied,
        }
    }

    /// A replica's own last write, if it has one that no primary sent: somebody wrote here by hand.
    pub fn errant(&self) -> Option<&Position> {
        (self.stream.is_some() && !self.received().has(&self.binlog_pos)).then_some(&self.binlog_pos)
    }
}

const QUESTION: &str = "SELECT @@version AS version, @@server_id AS server_id, @@global.read_only AS read_only, \
    @@global.rpl_semi_sync_master_enabled AS waits, @@global.rpl_semi_sync_slave_enabled AS may_acknowledge, \
    @@global.gtid_binlog_pos AS binlog_pos, @@global.gtid_slave_pos AS slave_pos, @@global.gtid_binlog_state AS binlog_state;\
    SHOW GLOBAL STATUS WHERE Variable_name IN ('Rpl_semi_sync_master_clients', 'Rpl_semi_sync_master_wait_sessions', \
    'Rpl_semi_sync_slave_status', 'Slave_received_heartbeats', 'Uptime');\
    SHOW SLAVE STATUS;\
    SELECT ID, USER, HOST FROM information_schema.PROCESSLIST WHERE COMMAND = 'Binlog Dump'";

/// Asks over an open session.
///
/// # Errors
/// [`ActionError`] if it does not answer in time or not as it should.
pub async fn view(session: &mut Session, within: Duration) -> Result<View, ActionError> {
    let answers = session.query_all(QUESTION, within).await?;
    of(&answers).ok_or_else(|| ActionError::Answer { what: "how the server is", text: shown(&answers) })
}

/// Connects and asks, all within one time.
///
/// # Errors
/// As [`view`].
pub async fn look(socket: &Path, user: &str, within: Duration) -> Result<View, ActionError> {
    tokio::time::timeout(within, async {
        let mut session = Session::connect(socket, user, within).await?;
        view(&mut session, within).await
    })
    .await
    .unwrap_or(Err(SqlError::TimedOut(within).into()))
}

fn of(answers: &[Rows]) -> Option<View> {
    let [variables, status, slave, dumps] = answers else { return None };
    let variable = |name| variables.value(0, name);
    let counter = |name: &str| {
        (0..status.len())
            .find(|row| {
                status.value(*row, "Variable_name").is_some_and(|found| found.eq_ignore_ascii_case(name))
            })
            .and_then(|row| status.value(row, "Value"))
    };
    let receivers = (0..dumps.len())
        .map(|row| {
            Some(Receiver {
                connection_id: dumps.value(row, "ID")?.parse().ok()?,
                server_id: accounts::server_of(dumps.value(row, "USER")?),
                from: dumps.value(row, "HOST").unwrap_or_default().to_owned(),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    Some(View {
        version: variable("version")?.to_owned(),
        server_id: variable("server_id")?.parse().ok()?,
        uptime_secs: counter("Uptime")?.parse().ok()?,
        read_only: variable("read_only")? != "0",
        waits: variable("waits")? != "0",
        acknowledging_replicas: counter("Rpl_semi_sync_master_clients")?.parse().ok()?,
        waiters: counter("Rpl_semi_sync_master_wait_sessions")?.parse().ok()?,
        may_acknowledge: variable("may_acknowledge")? != "0",
        acknowledges: counter("Rpl_semi_sync_slave_status")? == "ON",
        binlog_pos: variable("binlog_pos")?.parse().ok()?,
        slave_pos: variable("slave_pos")?.parse().ok()?,
        binlog_state: variable("binlog_state")?.parse().ok()?,
        stream: if slave.is_empty() {
            None
        } else {
            Some(stream(slave, counter("Slave_received_heartbeats")?.parse().ok()?)?)
        },
        receivers,
    })
}

fn stream(slave: &Rows, heartbeats: u64) -> Option<Stream> {
    let value = |name| slave.value(0, name);
    let thread = |running: &'static str, number: &'static str, words: &'static str| {
        Some(Thread {
            state: match value(running)? {
                "Yes" => ThreadState::Running,
                "Connecting" | "Preparing" => ThreadState::Connecting,
                _ => ThreadState::Stopped,
            },
            error: value(number)?.parse().ok()?,
            message: value(words)?.to_owned(),
        })
    };
    Some(Stream {
        host: value("Master_Host")?.to_owned(),
        port: value("Master_Port")?.parse().ok()?,
        received: value("Gtid_IO_Pos")?.parse().ok()?,
        pulse: heartbeats.wrapping_add(value("Read_Master_Log_Pos")?.parse().ok()?),
        by_gtid: value("Using_Gtid")? != "No",
        receiver: thread("Slave_IO_Running", "Last_IO_Errno", "Last_IO_Error")?,
        applier: thread("Slave_SQL_Running", "Last_SQL_Errno", "Last_SQL_Error")?,
        behind_secs: value("Seconds_Behind_Master").and_then(|seconds| seconds.parse().ok()),
    })
}

fn shown(answers: &[Rows]) -> String {
    format!("{answers:?}").chars().take(2000).collect()
}
