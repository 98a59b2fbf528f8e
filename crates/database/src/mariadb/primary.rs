//! What is done to a primary, or to a replica that becomes one.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::error::ActionError;
use super::gtid::Position;
use super::replica::settle;
use super::session::{STATEMENT_TIMEOUT, Session};
use super::view::{View, view};
use crate::client::quoted;

/// Added to a limit that the server keeps itself, for the answer to come.
const ANSWER: Duration = Duration::from_secs(1);

/// Turns a drained replica into a closed primary: replication is taken down, and from its first write on it waits for
/// acknowledgements. Returns its place, the last of the old primary's history: the promotion GTID.
///
/// # Errors
/// [`ActionError::NotApplied`] and others of [`super::replica::drain`]: then it is still a replica.
pub async fn promote(
    session: &mut Session,
    relay_index: &Path,
    within: Duration,
) -> Result<Position, ActionError> {
    let deadline = Instant::now() + within;
    let left = || deadline.saturating_duration_since(Instant::now());
    let before = view(session, left()).await?;
    if !before.read_only {
        return Err(ActionError::WrongState("open for writes"));
    }
    settle(session, before, relay_index, deadline).await?;
    session
        .query_all("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL rpl_semi_sync_master_enabled = 1", left())
        .await?;
    Ok(view(session, left()).await?.applied())
}

/// How commits of an open primary are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commits {
    /// Each waits until a replica has it.
    Wait,
    /// None waits: the cluster is marked as degraded or unprotected.
    DoNotWait,
}

/// Opens a server for writes.
///
/// # Errors
/// [`ActionError::WrongState`] on a replica.
pub async fn open(session: &mut Session, commits: Commits, within: Duration) -> Result<(), ActionError> {
    let before = view(session, within).await?;
    if before.stream.is_some() {
        return Err(ActionError::WrongState("a replica"));
    }
    let waits = u8::from(commits == Commits::Wait);
    if commits == Commits::DoNotWait && before.waits && before.waiters > 0 {
        return Err(ActionError::Waiters { waiters: before.waiters });
    }
    let statements = format!("SET GLOBAL rpl_semi_sync_master_enabled = {waits}; SET GLOBAL read_only = 0");
    session.query_all(&statements, within).await?;
    Ok(())
}

/// Closes a primary for writes, in bounded time, and returns its last write. New statements that write are refused
/// from then on, those that run are waited for.
///
/// # Errors
/// [`ActionError::Waiters`] if transactions wait for an acknowledgement; a refusal [`STATEMENT_TIMEOUT`] if other writes
/// took too long. The server is then as open as it was.
pub async fn close(session: &mut Session, within: Duration) -> Result<Position, ActionError> {
    let statement = format!(
        "SET STATEMENT max_statement_time = {:.3} FOR SET GLOBAL read_only = 1",
        within.as_secs_f64()
    );
    match session.query(&statement, within + ANSWER).await {
        Ok(_) => Ok(view(session, ANSWER).await?.binlog_pos),
        Err(error) if error.is(STATEMENT_TIMEOUT) => match view(session, ANSWER).await?.waiters {
            0 => Err(error.into()),
            waiters => Err(ActionError::Waiters { waiters }),
        },
        Err(error) => Err(error.into()),
    }
}

/// Writes a row of Mainstay's own, and waits until it is acknowledged.
///
/// A stream that breaks takes acknowledgements with it that were under way. The replica comes back with the transaction and
/// is not asked about it again, so whoever waits for it waits until a later one is acknowledged: on a primary with waiters and
/// attached replicas where nobody else writes, this is that one. It is a write like any other, and so waits itself; and one that
/// waits holds its `row`, so the next one needs another.
///
/// # Errors
/// [`ActionError::Sql`]; if it is silence, the write may still come through.
pub async fn push(session: &mut Session, row: u8, within: Duration) -> Result<(), ActionError> {
    let statement = format!("REPLACE INTO mainstay.heartbeat VALUES ({row}, UTC_TIMESTAMP(6))");
    session.query(&statement, within).await?;
    Ok(())
}

/// Ends a closed primary's waiting for acknowledgements, so that it can follow another.
///
/// # Errors
/// [`ActionError::Waiters`]: turning it off would commit what no replica has.
pub async fn retire(session: &mut Session, within: Duration) -> Result<(), ActionError> {
    let before = view(session, within).await?;
    if !before.read_only {
        return Err(ActionError::WrongState("open for writes"));
    }
    if before.waiters > 0 {
        return Err(ActionError::Waiters { waiters: before.waiters });
    }
    session.query("SET GLOBAL rpl_semi_sync_master_enabled = 0", within).await?;
    Ok(())
}

/// Ends the connections of clients on a closed server. Replication's and this one stay. Returns how many.
///
/// # Errors
/// [`ActionError::Waiters`]: a waiting transaction whose connection is ended commits.
pub async fn end_clients(session: &mut Session, within: Duration) -> Result<usize, ActionError> {
    const CLIENTS: &str = "SELECT ID FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER <> 'system user' \
        AND COMMAND NOT IN ('Binlog Dump', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker')";
    let before = view(session, within).await?;
    if !before.read_only {
        return Err(ActionError::WrongState("open for writes"));
    }
    if before.waiters > 0 {
        return Err(ActionError::Waiters { waiters: before.waiters });
    }
    let clients: Vec<u64> =
        session.query(CLIENTS, within).await?.first_column().filter_map(|id| id.parse().ok()).collect();
    for id in &clients {
        end(session, *id, within).await?;
    }
    Ok(clients.len())
}

/// Ends the stream of one replica. It is a dump thread and no client, so nothing commits by that. Returns whether
/// there was one.
///
/// # Errors
/// [`ActionError::Sql`].
pub async fn end_stream(session: &mut Session, replica: u32, within: Duration) -> Result<bool, ActionError> {
    let View { receivers, .. } = view(session, within).await?;
    let mut found = false;
    for receiver in receivers.iter().filter(|receiver| receiver.server_id == Some(replica)) {
        end(session, receiver.connection_id, within).await?;
        found = true;
    }
    Ok(found)
}

async fn end(session: &mut Session, connection: u64, within: Duration) -> Result<(), ActionError> {
    /// `ER_NO_SUCH_THREAD`: it ended by itself.
    const GONE: u16 = 1094;
    match session.query(&format!("KILL CONNECTION {connection}"), within).await {
        Err(error) if !error.is(GONE) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes the binary logs that the slowest member does not need any more. `slowest` is the least that any
/// member has applied, those that are away included. Returns the first file that is left.
///
/// # Errors
/// [`ActionError::Sql`].
pub async fn purge(
    session: &mut Session,
    slowest: &Position,
    within: Duration,
) -> Result<Option<String>, ActionError> {
    let logs = session.query("SHOW BINARY LOGS", within).await?;
    let names: Vec<String> = logs.first_column().map(str::to_owned).collect();
    let mut keep = None;
    // From the newest: the first that begins at or before the slowest is the last that must stay.
    for name in names.iter().rev() {
        let question = format!("SELECT BINLOG_GTID_POS({}, 4)", quoted(name));
        let answer = session.query(&question, within).await?;
        let begins = answer.single().unwrap_or_default();
        let begins: Position = begins
            .parse()
            .map_err(|_| ActionError::Answer { what: "where a log begins", text: begins.to_owned() })?;
        if slowest.has(&begins) {
            keep = Some(name.clone());
            break;
        }
    }
    if let Some(name) = &keep {
        session.query(&format!("PURGE BINARY LOGS TO {}", quoted(name)), within).await?;
    }
    Ok(keep)
}
