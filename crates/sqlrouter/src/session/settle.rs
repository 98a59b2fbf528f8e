//! After an answer: the session's state as the server told it, and what happens to the connection.

use std::time::Duration;

use bytes::Bytes;

use super::Session;
use super::relay::Seen;
use super::run::Job;
use crate::backend::{Role, is_of_names};
use crate::channel::Command;
use crate::config::Pooling;
use crate::statement::{Bind, Kind as StatementKind};
use crate::wire::capability::{STATUS_CURSOR_EXISTS, STATUS_IN_TRANSACTION};
use crate::wire::command;
use crate::wire::response::Kind;
use crate::wire::resultset::first_value;

/// How long the position of a write is asked for.
const ASK: Duration = Duration::from_secs(2);

impl Session {
    pub(super) fn settle(&mut self, role: Role, job: &Job<'_>, mut seen: Seen) {
        let statement = job.statement;
        let had_transaction = self.status & STATUS_IN_TRANSACTION != 0;
        if let Some(status) = seen.status {
            self.status = status & !(STATUS_CURSOR_EXISTS | 0x80 | 8);
        }
        if let Some(position) = &seen.position {
            self.position.advance(position);
            self.wrote_unseen = false;
        } else if role == Role::Primary
            && seen.by_eof
            && !statement.harmless
            && matches!(statement.kind, StatementKind::Write)
            && job.kind != Kind::Prepared
            && self.status & STATUS_IN_TRANSACTION == 0
        {
            self.wrote_unseen = true;
        }
        if seen.last_insert_id != 0 {
            self.last_insert_id = seen.last_insert_id;
            let number = self.entry.number;
            if let Some(connection) = self.slot(role) {
                connection.inserted_for = number;
            }
        }
        if job.kind == Kind::Prepared {
            self.settle_prepared(role, job.prepared, seen.prepared);
        } else {
            if let Some(number) = job.executed {
                self.settle_cursor(role, number, seen.status);
            }
            let failed = seen.failed.is_some();
            self.settle_names(job, failed, role, &mut seen);
            self.settle_bind(job, failed, had_transaction);
        }
        self.settle_state(role, seen);
    }

    /// `SET NAMES` is kept as it was sent: the server reports only a part of what it does.
    fn settle_names(&mut self, job: &Job<'_>, failed: bool, role: Role, seen: &mut Seen) {
        if job.statement.kind != StatementKind::SetNames || failed {
            return;
        }
        let text = match job.executed.and_then(|number| self.statements.get(&number)) {
            Some(prepared) => prepared.text.clone(),
            None if job.command.kind() == command::QUERY => Bytes::copy_from_slice(job.command.body()),
            None => return,
        };
        seen.variables.retain(|(name, _)| !is_of_names(name));
        self.state.variables.retain(|name, _| !is_of_names(name));
        self.state.names = Some(text.clone());
        self.version = self.worker.number();
        let version = self.version;
        if let Some(connection) = self.slot(role) {
            connection.state.variables.retain(|name, _| !is_of_names(name));
            connection.state.names = Some(text);
            connection.version = version;
        }
    }

    fn settle_bind(&mut self, job: &Job<'_>, failed: bool, had_transaction: bool) {
        match job.statement.bind {
            // Of several statements the first may have run.
            Bind::Connection(why) if !failed || job.statement.several => {
                self.bound.get_or_insert(why);
                self.bound_by_lock = self.bound == Some("tables are locked");
            }
            Bind::Unlocked if self.bound_by_lock && !failed => {
                (self.bound, self.bound_by_lock) = (None, false);
            }
            Bind::NextTransaction if !failed => self.next_transaction = true,
            _ => {
                let in_transaction = self.status & STATUS_IN_TRANSACTION != 0;
                if self.next_transaction
                    && !in_transaction
                    && (had_transaction || job.statement.kind != StatementKind::Begin)
                {
                    self.next_transaction = false;
                }
            }
        }
    }

    fn settle_state(&mut self, role: Role, seen: Seen) {
        if seen.schema.is_none() && seen.variables.is_empty() {
            return;
        }
        self.version = self.worker.number();
        let version = self.version;
        if let Some(connection) = self.slot(role) {
            connection.version = version;
            if seen.schema.is_some() {
                connection.state.schema.clone_from(&seen.schema);
            }
            for (name, value) in &seen.variables {
                connection.state.variables.insert(name.clone(), value.clone());
            }
        }
        if seen.schema.is_some() {
            self.state.schema = seen.schema;
        }
        self.state.variables.extend(seen.variables);
    }

    /// With transaction pooling: gives connections back that nothing binds.
    pub(super) fn release_if_free(&mut self) {
        let free = self.account.pooling == Pooling::Transaction
            && self.bound.is_none()
            && !self.is_in_transaction()
            && !self.next_transaction
            && self.cursors == 0
            && !self.statements.values().any(|prepared| prepared.long_data);
        if free {
            self.give_back(Role::Primary);
            self.give_back(Role::Replica);
        }
    }

    /// Asks the primary for the position of a write whose answer could not tell it.
    pub(super) async fn learn_position(&mut self) {
        let Some(connection) = &mut self.primary else { return };
        if connection.is_stale() {
            return;
        }
        let mut question = Command::query("SELECT @@gtid_binlog_pos");
        let answer = tokio::time::timeout(ASK, connection.ask(&mut question, Kind::Results)).await;
        let capabilities = connection.capabilities;
        let Ok(Ok(answer)) = answer else {
            self.drop_slot(Role::Primary);
            return;
        };
        let text =
            first_value(&answer, capabilities).ok().flatten().and_then(|text| String::from_utf8(text).ok());
        if let Some(position) = text.and_then(|text| text.parse().ok()) {
            self.position.advance(&position);
            self.wrote_unseen = false;
        }
    }

    /// A statement reads `LAST_INSERT_ID()`: another connection than the one of the INSERT is told.
    pub(super) async fn carry_last_insert_id(&mut self, role: Role) {
        let (number, last) = (self.entry.number, self.last_insert_id);
        let Some(connection) = self.slot(role) else { return };
        if connection.inserted_for == number || (last == 0 && connection.inserted_for == 0) {
            return;
        }
        let mut command = Command::query(&format!("SET last_insert_id={last}"));
        if matches!(connection.order(&mut command).await, Ok(Ok(()))) {
            connection.inserted_for = number;
        }
        // If it broke, the statement itself finds out before it is sent.
    }
}
