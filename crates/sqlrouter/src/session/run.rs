//! Sends a statement and sees it through: what surely had no effect is sent again, what may have had one is told.

use std::time::Instant;

use super::relay::{Broken, Relay, relay};
use super::{Closed, Flow, Session};
use crate::backend::Role;
use crate::channel::Command;
use crate::route::{Await, To};
use crate::slow_log::Line;
use crate::statement::{Digest, Kind as StatementKind, Known, Statement};
use crate::wire::capability::STATUS_IN_TRANSACTION;
use crate::wire::command;
use crate::wire::reply::{ErrPacket, err};
use crate::wire::response::Kind;

/// A statement, or a command that is routed like one.
pub(super) struct Job<'a> {
    pub(super) command: Command,
    pub(super) kind: Kind,
    pub(super) statement: &'a Statement,
    /// Where its time is counted.
    pub(super) digest: Option<&'a Digest>,
    /// The client's number of the prepared statement that is executed.
    pub(super) executed: Option<u32>,
    /// The client's number of the statement that is prepared.
    pub(super) prepared: u32,
    /// Where it must go, whatever the statement is.
    pub(super) fixed: Option<To>,
}

impl<'a> Job<'a> {
    pub(super) fn new(command: Command, kind: Kind, statement: &'a Statement) -> Self {
        Self { command, kind, statement, digest: None, executed: None, prepared: 0, fixed: None }
    }

    /// A statement of a client.
    pub(super) fn of(command: Command, kind: Kind, known: &'a Known) -> Self {
        Self { digest: Some(&known.digest), ..Self::new(command, kind, &known.statement) }
    }
}

impl Session {
    pub(super) async fn run(&mut self, mut job: Job<'_>) -> Flow {
        let begin = Instant::now();
        let deadline = begin + self.worker.limits.hold();
        if self.has_lost_its_connection() {
            return self.tell_of_loss(&job).await;
        }
        if self.wrote_unseen && job.statement.kind == StatementKind::Read && !self.is_in_transaction() {
            self.learn_position().await;
        }
        let mut route = self.route(job.statement);
        if let Some(fixed) = job.fixed {
            (route.to, route.wait) = (fixed, Await::Nothing);
        }
        // Nothing is lost if it is done twice.
        let repeatable = (job.statement.kind == StatementKind::Read || job.kind == Kind::Prepared)
            && job.fixed.is_none()
            && !self.is_in_transaction();
        loop {
            let role = match self.ready(route.to, route.wait, deadline).await {
                Ok(role) => role,
                Err(refusal) => return self.reply(&refusal.payload).await,
            };
            if let Some(number) = job.executed
                && let Err(broken) = self.prepare_there(role, number, &mut job.command).await
            {
                match broken {
                    Broken::Client => return Err(Closed),
                    Broken::Server { .. }
                        if job.fixed.is_none() && self.may_go_on() && Instant::now() < deadline =>
                    {
                        self.lose(role, "prepare");
                        continue;
                    }
                    Broken::Server { .. } => return self.tell_of_loss(&job).await,
                    Broken::Refused(_) if role == Role::Replica => {
                        route.to = To::Primary;
                        continue;
                    }
                    Broken::Refused(payload) => return self.reply(&payload).await,
                }
            }
            if job.statement.last_insert_id {
                self.carry_last_insert_id(role).await;
            }
            self.entry.target.runs_on(role);
            self.last = role;
            match self.send(role, &mut job, deadline).await {
                Ok(seen) => {
                    let failed = seen.failed;
                    self.settle(role, &job, seen);
                    self.note_time(role, &job, route.why, begin, failed);
                    self.release_if_free();
                    return Ok(());
                }
                Err(Broken::Client) => return Err(Closed),
                // A replica cannot do it: the primary may, or says itself why not.
                Err(Broken::Refused(_)) if role == Role::Replica => {
                    self.worker.metrics.retried.with(&["replica refused"]).inc();
                    route.to = To::Primary;
                }
                // The primary takes no writes any more: nothing was done, and another will be primary soon.
                Err(Broken::Refused(payload)) => {
                    if Instant::now() >= deadline {
                        return self.reply(&payload).await;
                    }
                    self.lose(role, "read only");
                    self.wait_a_little().await;
                }
                Err(Broken::Server { passed: true }) => {
                    self.worker.metrics.backend_lost.inc();
                    // The client has half an answer, and only the end of the connection says so.
                    return Err(Closed);
                }
                Err(Broken::Server { passed: false }) => {
                    let may = repeatable && self.may_go_on() && Instant::now() < deadline;
                    self.lose(role, if may { "read" } else { "" });
                    if !may {
                        return self.tell_of_unknown(role, &job).await;
                    }
                }
            }
        }
    }

    async fn send(
        &mut self,
        role: Role,
        job: &mut Job<'_>,
        deadline: Instant,
    ) -> Result<super::relay::Seen, Broken> {
        let alone = self.may_go_on() && !self.is_in_transaction();
        let expired = Instant::now() >= deadline;
        let connection = match role {
            Role::Primary => self.primary.as_mut(),
            Role::Replica => self.replica.as_mut(),
        };
        let Some(connection) = connection.filter(|connection| !connection.busy) else {
            return Err(Broken::Server { passed: false });
        };
        connection.busy = true;
        connection.channel.put_command(&mut job.command);
        if connection.channel.flush().await.is_err() {
            return Err(Broken::Server { passed: false });
        }
        let keep = |error: &ErrPacket<'_>| match role {
            // Ended on purpose or by a limit: the client is told.
            Role::Replica => !matches!(error.code, 1317 | 1969 | 3024),
            Role::Primary => alone && !expired && is_read_only(error),
        };
        let fixed = job.fixed.is_some();
        let how = Relay {
            kind: job.kind,
            capabilities: self.capabilities,
            statement: job.prepared,
            keep: &|error| !fixed && keep(error),
        };
        relay(&mut self.client, connection, &how).await
    }

    /// Whether the session can go on with another connection.
    fn may_go_on(&self) -> bool {
        self.bound.is_none() && self.cursors == 0 && self.status & STATUS_IN_TRANSACTION == 0
    }

    /// Drops a connection that cannot be used any more.
    fn lose(&mut self, role: Role, again: &'static str) {
        self.worker.metrics.backend_lost.inc();
        if role == Role::Replica
            && let Some(connection) = &self.replica
        {
            self.worker.avoid(&connection.key.server, Instant::now());
        }
        self.drop_slot(role);
        if !again.is_empty() {
            self.worker.metrics.retried.with(&[again]).inc();
        }
    }

    /// Whether what only the connection to the primary had is lost with it: a transaction, or what binds the session.
    fn has_lost_its_connection(&mut self) -> bool {
        if self.may_go_on() {
            return false;
        }
        let topology = self.worker.topology();
        let role = if self.bound.is_some() || self.status & STATUS_IN_TRANSACTION != 0 {
            Role::Primary
        } else {
            self.last
        };
        let alive = self.slot(role).as_mut().is_some_and(|connection| {
            crate::backend::is_current(connection, &topology) && !connection.is_stale()
        });
        if !alive {
            self.drop_slot(role);
        }
        !alive
    }

    /// The statement was not sent, but what was before it is lost.
    async fn tell_of_loss(&mut self, job: &Job<'_>) -> Flow {
        if self.bound.is_some() || self.cursors > 0 {
            let why = self.bound.unwrap_or("a cursor is open");
            let message = format!(
                "the connection to the server is lost, and with it what only it had ({why}); connect again"
            );
            self.fail(2013, "HY000", &message).await?;
            return Err(Closed);
        }
        self.status &= !STATUS_IN_TRANSACTION;
        self.worker.metrics.rolled_back.inc();
        if job.statement.kind == StatementKind::Rollback {
            return self.done().await;
        }
        self.rolled_back().await
    }

    async fn rolled_back(&mut self) -> Flow {
        let message =
            "the primary changed and the transaction was rolled back; try restarting the transaction";
        self.fail(1213, "40001", message).await
    }

    /// The statement was sent, and its answer is lost.
    async fn tell_of_unknown(&mut self, role: Role, job: &Job<'_>) -> Flow {
        let lost_all = self.bound.is_some() || self.cursors > 0;
        let in_transaction = self.status & STATUS_IN_TRANSACTION != 0;
        self.status &= !STATUS_IN_TRANSACTION;
        self.next_transaction = false;
        if in_transaction
            && !lost_all
            && !job.statement.may_commit
            && job.statement.bind == crate::statement::Bind::Nothing
        {
            // A transaction of which no COMMIT was sent is surely gone.
            self.worker.metrics.rolled_back.inc();
            return self.rolled_back().await;
        }
        let harmless = role == Role::Replica
            || matches!(job.statement.kind, StatementKind::Read)
            || job.statement.harmless;
        let message = if harmless {
            "the connection to the server was lost while the statement ran"
        } else {
            self.worker.metrics.unknown_outcome.inc();
            // A position that may have been missed.
            self.wrote_unseen = true;
            "the connection to the server was lost while the statement ran: whether it took effect is unknown"
        };
        let payload = err(2013, "HY000", message);
        self.reply(&payload).await?;
        if lost_all { Err(Closed) } else { Ok(()) }
    }

    async fn wait_a_little(&mut self) {
        let mut source = self.worker.source.clone();
        tokio::select! {
            _ = source.changed() => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
    }

    fn note_time(&self, role: Role, job: &Job<'_>, why: &'static str, begin: Instant, error: Option<u16>) {
        let taken = begin.elapsed();
        self.worker.observe(role, taken);
        if let Some(digest) = job.digest.filter(|_| job.kind != Kind::Prepared) {
            digest.count(taken, error.is_some());
        }
        if taken.as_millis() as u64 <= self.worker.limits.slow_ms {
            return;
        }
        self.worker.metrics.slow.inc();
        let slot = if role == Role::Primary { &self.primary } else { &self.replica };
        let text = match job.executed.and_then(|number| self.statements.get(&number)) {
            Some(prepared) => Line::shown(&prepared.text),
            None if matches!(job.command.kind(), command::QUERY | command::STMT_PREPARE) => {
                Line::shown(job.command.body())
            }
            None => command::name(job.command.kind()).to_owned(),
        };
        let written = self.worker.slow.write(Line {
            time: Line::now(),
            account: self.account.name.to_string(),
            schema: self.schema_text(),
            server: slot.as_ref().map_or_else(String::new, |connection| connection.key.server.to_string()),
            why,
            seconds: taken.as_secs_f64(),
            error,
            statement: text,
        });
        if !written {
            self.worker.metrics.slow_dropped.inc();
        }
    }
}

/// The server refused before it did anything, because it is no primary (any more).
fn is_read_only(error: &ErrPacket<'_>) -> bool {
    let says = |text: &[u8]| memchr::memmem::find(error.message, text).is_some();
    matches!(error.code, 1290) && says(b"read-only") || error.code == 1836
}
