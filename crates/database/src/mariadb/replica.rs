//! What is done to a replica: follow a primary, stop acknowledging to it, apply what was received, rescue after a crash.
//!
//! One rule stands behind all of it: a relay log with transactions that are not applied may hold the only copy of
//! acknowledged writes. MariaDB throws a relay log away when replication is set up anew, and when a thread is started while both are stopped. So
//! nothing here does either before everything received is applied.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::binlog::{self, Unapplied};
use super::error::ActionError;
use super::gtid::{Position, Standing};
use super::session::{Session, SqlError};
use super::settings::TlsFiles;
use super::view::{Stream, View, view};
use crate::client::quoted;

/// How long one wait for the applier lasts before it is looked at again.
const SLICE: Duration = Duration::from_millis(100);
/// How often a primary that has nothing to send says so, in seconds: the stream's pulse at rest.
const HEARTBEAT_SECS: f32 = 0.25;
/// For the small questions between.
const QUESTION: Duration = Duration::from_secs(2);

/// Whom to follow, and how to come there.
#[derive(Debug, Clone)]
pub struct Upstream<'a> {
    /// The primary's address, as in its certificate.
    pub host: IpAddr,
    /// Its port.
    pub port: u16,
    /// The account of [`super::accounts::replica_of`] this server.
    pub user: &'a str,
    /// Its password.
    pub password: &'a str,
    /// This server's certificate, and the authority that the primary's must come from.
    pub tls: &'a TlsFiles,
    /// Whether the primary's certificate must name `host`.
    pub verify_name: bool,
}

/// What the server was before it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// A replica, or new from another's data: it goes on from what it applied.
    Replica,
    /// The primary: its own last write counts as applied. Only after [`super::rejoin::judge`] found it in the new primary's history.
    Primary,
}

/// Where a replica stands once it can acknowledge nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// All that it has.
    pub received: Position,
    /// All that it applied.
    pub applied: Position,
}

/// Stops the receiving thread, so that this replica acknowledges nothing any more, and tells what it has. The applying
/// thread is not touched. Acknowledging stays off until [`follow`] or [`acknowledge`] turns it on.
///
/// It lasts a few milliseconds, or about `rpl_semi_sync_slave_kill_conn_timeout` (1 s) where the primary is frozen or
/// cannot be reached: the thread connects to it once more to end the stream there, before it is counted as stopped. A thread
/// that was started while the primary was away already is stopped at once: see [`renew`].
///
/// # Errors
/// [`ActionError`]. If it is silence, whether the thread is stopped is not known: ask again until it is.
pub async fn revoke(session: &mut Session, within: Duration) -> Result<Revoked, ActionError> {
    session.query_all("SET GLOBAL rpl_semi_sync_slave_enabled = 0; STOP SLAVE IO_THREAD", within).await?;
    let view = view(session, within).await?;
    Ok(Revoked { received: view.received(), applied: view.applied() })
}

/// Waits until `target` is applied. It ends as soon as the applier fails, rather than at the deadline.
///
/// # Errors
/// [`ActionError::ApplierStopped`], [`ActionError::NotReached`], [`ActionError::Histories`], or no answer.
pub async fn drain(session: &mut Session, target: &Position, within: Duration) -> Result<(), ActionError> {
    let deadline = Instant::now() + within;
    loop {
        let slice = SLICE.min(deadline.saturating_duration_since(Instant::now()));
        let wait =
            format!("SELECT MASTER_GTID_WAIT({}, {:.3})", quoted(&target.to_string()), slice.as_secs_f64());
        let reached = session.query(&wait, slice + QUESTION).await?.single() == Some("0");
        let view = view(session, QUESTION).await?;
        let applied = view.applied();
        match (applied.standing(target), view.stream) {
            (Standing::Equal | Standing::Ahead, _) => return Ok(()),
            (standing @ Standing::Diverged, _) => {
                return Err(ActionError::Histories { one: applied, other: target.clone(), standing });
            }
            // The wait compares numbers alone, and so may end where the place is not reached.
            _ if reached => return Err(ActionError::NotReached { target: target.clone(), applied }),
            (_, Some(stream)) if !stream.applier.runs() => return Err(stopped(&stream)),
            (_, None) => return Err(ActionError::ApplierStopped("it was never set up".to_owned())),
            _ if Instant::now() >= deadline => {
                return Err(ActionError::NotReached { target: target.clone(), applied });
            }
            _ => {}
        }
    }
}

fn stopped(stream: &Stream) -> ActionError {
    ActionError::ApplierStopped(match stream.applier.error {
        0 => "it was stopped".to_owned(),
        error => format!("{error}: {}", stream.applier.message),
    })
}

/// Follows a primary, acknowledging or not. What was received before is applied first; `relay_index` is the index
/// file of the relay logs.
///
/// # Errors
/// [`ActionError::NotApplied`] if a crash left transactions in the relay log ([`rescue`] them first);
/// [`ActionError::WrongState`] on an open server; else as [`drain`].
pub async fn follow(
    session: &mut Session,
    upstream: &Upstream<'_>,
    was: Was,
    acknowledging: bool,
    relay_index: &Path,
    within: Duration,
) -> Result<(), ActionError> {
    let deadline = Instant::now() + within;
    let left = || deadline.saturating_duration_since(Instant::now());
    let before = view(session, left().min(QUESTION)).await?;
    if !before.read_only {
        return Err(ActionError::WrongState("open for writes"));
    }
    if before.waits {
        return Err(ActionError::WrongState("still waiting for acknowledgements of its own writes"));
    }
    settle(session, before, relay_index, deadline).await?;
    session.query(&change(upstream, was), left()).await?;
    let acknowledging = u8::from(acknowledging);
    session
        .query_all(&format!("SET GLOBAL rpl_semi_sync_slave_enabled = {acknowledging}; START SLAVE"), left())
        .await?;
    Ok(())
}

/// Stops replication with nothing left to apply. Where it cannot, it leaves the applier running.
pub(super) async fn settle(
    session: &mut Session,
    before: View,
    relay_index: &Path,
    deadline: Instant,
) -> Result<(), ActionError> {
    let left = || deadline.saturating_duration_since(Instant::now());
    if before.stream.is_none() {
        return Ok(());
    }
    let Revoked { received, applied } = revoke(session, left()).await?;
    if !applied.has(&received) {
        drain(session, &received, left()).await?;
    }
    // The server itself knows what it received where it received it and its applier ran ever since. Else only the files do.
    let knows = before
        .stream
        .is_some_and(|stream| stream.applier.runs() && stream.by_gtid && !stream.received.is_empty());
    if !knows && let Some(unapplied) = unapplied(relay_index, &applied).await? {
        return Err(ActionError::NotApplied { received: unapplied.last.into(), applied });
    }
    session.query("STOP SLAVE", left()).await?;
    Ok(())
}

fn change(upstream: &Upstream<'_>, was: Was) -> String {
    let tls = upstream.tls;
    let file = |path: &Path| quoted(&path.display().to_string());
    let demote = match was {
        Was::Replica => "",
        Was::Primary => ", MASTER_DEMOTE_TO_SLAVE = 1",
    };
    format!(
        "CHANGE MASTER TO MASTER_HOST = {host}, MASTER_PORT = {port}, MASTER_USER = {user}, MASTER_PASSWORD = {password}, \
         MASTER_USE_GTID = slave_pos, MASTER_SSL = 1, MASTER_SSL_CA = {ca}, MASTER_SSL_CERT = {certificate}, \
         MASTER_SSL_KEY = {key}, MASTER_SSL_VERIFY_SERVER_CERT = {verify}, MASTER_CONNECT_RETRY = 1, \
         MASTER_HEARTBEAT_PERIOD = {HEARTBEAT_SECS}{demote}",
        host = quoted(&upstream.host.to_string()),
        port = upstream.port,
        user = quoted(upstream.user),
        password = quoted(upstream.password),
        ca = file(&tls.authority),
        certificate = file(&tls.certificate),
        key = file(&tls.key),
        verify = u8::from(upstream.verify_name),
    )
}

/// Lets the stream acknowledge, or not any more, by a new stream. The applier goes on.
///
/// # Errors
/// [`ActionError::ApplierStopped`], since starting a thread while both are stopped would throw the relay log away.
pub async fn acknowledge(session: &mut Session, yes: bool, within: Duration) -> Result<(), ActionError> {
    let before = view(session, within).await?;
    let Some(stream) = before.stream else { return Err(ActionError::WrongState("no replica")) };
    if !stream.applier.runs() {
        return Err(stopped(&stream));
    }
    if before.may_acknowledge == yes && before.acknowledges == yes && stream.receiver.runs() {
        return Ok(());
    }
    revoke(session, within).await?;
    let statements =
        format!("SET GLOBAL rpl_semi_sync_slave_enabled = {}; START SLAVE IO_THREAD", u8::from(yes));
    session.query_all(&statements, within).await?;
    Ok(())
}

/// Replaces a stream that gives no sign of life ([`Stream::pulse`]) by a new one. If the primary is well, that costs a moment;
/// if it is gone, the second that [`revoke`] would take has passed before it is called, since what tries to connect is
/// stopped at once.
///
/// # Errors
/// As [`acknowledge`].
pub async fn renew(session: &mut Session, within: Duration) -> Result<(), ActionError> {
    let before = view(session, within).await?;
    let Some(stream) = before.stream else { return Err(ActionError::WrongState("no replica")) };
    if !stream.applier.runs() {
        return Err(stopped(&stream));
    }
    session.query_all("STOP SLAVE IO_THREAD; START SLAVE IO_THREAD", within).await?;
    Ok(())
}

/// What a stopped replica has in its relay logs and did not apply.
///
/// # Errors
/// [`ActionError::Log`].
pub async fn unapplied(relay_index: &Path, applied: &Position) -> Result<Option<Unapplied>, ActionError> {
    let (index, applied) = (relay_index.to_owned(), applied.clone());
    let read = tokio::task::spawn_blocking(move || binlog::first_behind(&index, &applied)).await;
    Ok(read.map_err(|error| ActionError::Program { program: "the log reader", reason: error.to_string() })??)
}

/// Applies what a crash left in the relay logs: to be called after each start of a replica, before anything else is done to
/// it. It may be called again if it was interrupted. Returns what it has then.
///
/// # Errors
/// As [`drain`]; nothing is thrown away then.
pub async fn rescue(
    session: &mut Session,
    relay_index: &Path,
    within: Duration,
) -> Result<Option<Unapplied>, ActionError> {
    let deadline = Instant::now() + within;
    let left = || deadline.saturating_duration_since(Instant::now());
    let before = view(session, left().min(QUESTION)).await?;
    let Some(stream) = &before.stream else { return Ok(None) };
    // An applier that runs without GTIDs is that of a rescue that was given up.
    let resumed = stream.applier.runs() && !stream.by_gtid;
    if stream.receiver.runs() || (stream.applier.runs() && !resumed) {
        return Err(ActionError::WrongState("replicating"));
    }
    let found = unapplied(relay_index, &before.applied()).await?;
    if let Some(unapplied) = &found {
        if !resumed {
            session.query_all(&apply_from(unapplied), left()).await?;
        }
        drain(session, &unapplied.last.into(), left()).await?;
    }
    if found.is_some() || !stream.by_gtid {
        let after =
            "STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID = slave_pos; SET GLOBAL relay_log_purge = 1";
        session.query_all(after, left()).await?;
    }
    Ok(found)
}

/// To name a place in the relay log is the one way of setting replication up that keeps it. A log of the primary's is named
/// too, any: several appliers compare its name with the events', and without one the server crashes (10.11.14 and 10.11.19).
fn apply_from(unapplied: &Unapplied) -> String {
    let name = unapplied.file.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "CHANGE MASTER TO MASTER_USE_GTID = no, MASTER_LOG_FILE = 'binlog.000001', MASTER_LOG_POS = 4, \
         RELAY_LOG_FILE = {}, RELAY_LOG_POS = {}; START SLAVE SQL_THREAD",
        quoted(&name),
        unapplied.start
    )
}

/// Sets the place that a new member's data are at, before it follows for the first time.
///
/// # Errors
/// [`ActionError::Sql`].
pub async fn begin_at(session: &mut Session, position: &Position, within: Duration) -> Result<(), SqlError> {
    let statement = format!("SET GLOBAL gtid_slave_pos = {}", quoted(&position.to_string()));
    session.query(&statement, within).await.map(drop)
}
