//! Prepared statements: the client's numbers stand for texts, which are prepared on whichever connection executes them.

use std::rc::Rc;
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::relay::Broken;
use super::run::Job;
use super::{Flow, Session};
use crate::backend::{PreparedThere, Role};
use crate::channel::Command;
use crate::route::{Await, To};
use crate::statement::Known;
use crate::wire::capability::{STATUS_CURSOR_EXISTS, STATUS_LAST_ROW_SENT};
use crate::wire::command;
use crate::wire::packet::HEADER;
use crate::wire::reply::{ERR, err};
use crate::wire::response::Kind;

/// Statements that a client may have prepared at a time.
const STATEMENTS: usize = 16_382;
/// The number that stands for the statement that was prepared last.
const LAST: u32 = u32::MAX;
/// `COM_STMT_BULK_EXECUTE`: types are sent.
const BULK_TYPES: u16 = 128;

/// A statement that the client prepared.
pub(super) struct Prepared {
    /// The router's own number, on connections to servers.
    key: u64,
    pub(super) text: Bytes,
    known: Rc<Known>,
    parameters: u16,
    /// Types of the parameters, which clients send only once.
    types: Option<Bytes>,
    /// Parts of parameters were sent to the primary.
    pub(super) long_data: bool,
    /// A cursor is open there.
    cursor: Option<Role>,
}

fn number_of(command: &Command) -> Option<u32> {
    let id = command.body().get(..4)?;
    Some(u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
}

fn set_number(command: &mut Command, number: u32) {
    command.body_mut()[..4].copy_from_slice(&number.to_le_bytes());
}

impl Session {
    pub(super) async fn prepare(&mut self, command: Command) -> Flow {
        self.last_prepared = None;
        let full = self.prepared_bytes + command.body().len() > self.worker.limits.statement_bytes;
        if self.statements.len() >= STATEMENTS || full {
            return self.fail(1461, "42000", "the client has as many prepared statements as it may").await;
        }
        let text = Bytes::copy_from_slice(command.body());
        let known = self.worker.cache.borrow_mut().of(&text, self.mode());
        self.prepared_bytes += text.len();
        self.next_statement = self.next_statement.wrapping_add(1).clamp(1, LAST - 1);
        let number = self.next_statement;
        let mut job = Job::of(command, Kind::Prepared, &known);
        job.prepared = number;
        let key = self.worker.number();
        self.statements.insert(
            number,
            Prepared {
                key,
                text,
                known: Rc::clone(&known),
                parameters: 0,
                types: None,
                long_data: false,
                cursor: None,
            },
        );
        let flow = self.run(job).await;
        if self.last_prepared != Some(number) {
            self.forget(number);
        }
        flow
    }

    fn forget(&mut self, number: u32) -> Option<Prepared> {
        let prepared = self.statements.remove(&number)?;
        self.prepared_bytes -= prepared.text.len();
        Some(prepared)
    }

    /// Notes a statement that was prepared.
    pub(super) fn settle_prepared(&mut self, role: Role, number: u32, there: Option<(u32, u16)>) {
        let Some((id, parameters)) = there else { return };
        let Some(prepared) = self.statements.get_mut(&number) else { return };
        prepared.parameters = parameters;
        let key = prepared.key;
        self.last_prepared = Some(number);
        if let Some(connection) = self.slot(role) {
            connection.statements.insert(key, PreparedThere { id, typed: false });
        }
    }

    /// Notes whether a cursor is open.
    pub(super) fn settle_cursor(&mut self, role: Role, number: u32, status: Option<u16>) {
        let Some(prepared) = self.statements.get_mut(&number) else { return };
        prepared.long_data = false;
        let open = status
            .is_some_and(|status| status & STATUS_CURSOR_EXISTS != 0 && status & STATUS_LAST_ROW_SENT == 0);
        let was = std::mem::replace(&mut prepared.cursor, open.then_some(role)).is_some();
        self.cursors = self.cursors + u32::from(open) - u32::from(was);
    }

    pub(super) async fn execute(&mut self, mut command: Command) -> Flow {
        let number = match number_of(&command) {
            Some(LAST) => self.last_prepared,
            number => number,
        };
        let found =
            number.and_then(|number| self.statements.get_mut(&number).map(|prepared| (number, prepared)));
        let Some((number, prepared)) = found else {
            return self.fail(1243, "HY000", "the client has no such prepared statement").await;
        };
        prepared.remember_types(&command);
        let known = Rc::clone(&prepared.known);
        // Parts of its parameters are there already, or its rows are.
        let fixed = if prepared.long_data { Some(To::Primary) } else { None };
        set_number(&mut command, number);
        let mut job = Job::of(command, Kind::Results, &known);
        job.executed = Some(number);
        job.fixed = fixed;
        self.run(job).await
    }

    /// Makes sure that a statement is prepared on a connection, and puts the server's number and, where the server does not
    /// know them, the types into the command.
    pub(super) async fn prepare_there(
        &mut self,
        role: Role,
        number: u32,
        command: &mut Command,
    ) -> Result<(), Broken> {
        let Some(prepared) = self.statements.get(&number) else { return Err(Broken::Client) };
        let (key, text, has_parts) = (prepared.key, prepared.text.clone(), prepared.long_data);
        let broken = Broken::Server { passed: false };
        let Some(connection) = self.slot(role) else { return Err(broken) };
        if !connection.statements.contains_key(&key) {
            if has_parts {
                let message =
                    "the parts of a parameter that were sent are lost with their connection; send them again";
                return Err(Broken::Refused(err(1105, "HY000", message)));
            }
            let mut question = Command::new(command::STMT_PREPARE, &text);
            let Ok(mut answer) = connection.ask(&mut question, Kind::Prepared).await else {
                return Err(broken);
            };
            if answer.get(HEADER) == Some(&ERR) {
                return Err(Broken::Refused(answer.split_off(HEADER)));
            }
            let Some(id) = answer.get(HEADER + 1..HEADER + 5) else { return Err(broken) };
            let id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
            connection.statements.insert(key, PreparedThere { id, typed: false });
        }
        let Some(there) = connection.statements.get_mut(&key) else { return Err(broken) };
        let (id, typed) = (there.id, there.typed);
        there.typed = true;
        let Some(prepared) = self.statements.get(&number) else { return Err(Broken::Client) };
        if !typed && let Some(with_types) = prepared.with_types(command) {
            *command = with_types;
        }
        set_number(command, id);
        Ok(())
    }

    pub(super) fn close_statement(&mut self, command: &Command) {
        let Some(prepared) = number_of(command).and_then(|number| self.forget(number)) else {
            return;
        };
        if prepared.cursor.is_some() {
            self.cursors -= 1;
        }
        for role in [Role::Primary, Role::Replica] {
            let Some(connection) = self.slot(role) else { continue };
            if let Some(there) = connection.statements.remove(&prepared.key) {
                // It goes out with the next command; nobody waits for an answer.
                let mut close = Command::new(command::STMT_CLOSE, &there.id.to_le_bytes());
                connection.channel.put_command(&mut close);
            }
        }
    }

    /// There is no answer to it, not even to an error: the execution tells.
    pub(super) async fn long_data(&mut self, mut command: Command) -> Flow {
        let Some(number) = number_of(&command).map(|number| match number {
            LAST => self.last_prepared.unwrap_or(LAST),
            number => number,
        }) else {
            return Ok(());
        };
        if !self.statements.contains_key(&number) {
            return Ok(());
        }
        let deadline = Instant::now() + self.worker.limits.hold();
        if self.ready(To::Primary, Await::Nothing, deadline).await.is_err() {
            return Ok(());
        }
        // Types belong to the execution.
        let typed = self.is_typed(Role::Primary, number);
        if self
            .prepare_there(Role::Primary, number, &mut Command::new(0, &number.to_le_bytes()))
            .await
            .is_err()
        {
            return Ok(());
        }
        self.set_typed(Role::Primary, number, typed);
        let Some(prepared) = self.statements.get_mut(&number) else { return Ok(()) };
        prepared.long_data = true;
        let key = prepared.key;
        if let Some(connection) = &mut self.primary
            && let Some(there) = connection.statements.get(&key)
        {
            set_number(&mut command, there.id);
            connection.channel.put_command(&mut command);
            // If it is lost, so is the connection, which the execution finds out.
            let _ = connection.channel.flush().await;
        }
        Ok(())
    }

    fn is_typed(&mut self, role: Role, number: u32) -> bool {
        let key = self.statements.get(&number).map(|prepared| prepared.key);
        let slot = self.slot(role).as_ref();
        key.zip(slot).is_some_and(|(key, slot)| slot.statements.get(&key).is_some_and(|there| there.typed))
    }

    fn set_typed(&mut self, role: Role, number: u32, typed: bool) {
        let key = self.statements.get(&number).map(|prepared| prepared.key);
        if let (Some(key), Some(slot)) = (key, self.slot(role))
            && let Some(there) = slot.statements.get_mut(&key)
        {
            there.typed = typed;
        }
    }

    pub(super) async fn fetch(&mut self, command: Command) -> Flow {
        let number = number_of(&command);
        let role =
            number.and_then(|number| self.statements.get(&number)).and_then(|prepared| prepared.cursor);
        let (Some(role), Some(number)) = (role, number) else {
            return self.fail(1421, "HY000", "the statement has no open cursor").await;
        };
        self.send_to_statement(role, number, command, Kind::Rows).await
    }

    pub(super) async fn reset_statement(&mut self, command: Command) -> Flow {
        let Some(number) = number_of(&command).filter(|number| self.statements.contains_key(number)) else {
            return self.fail(1243, "HY000", "the client has no such prepared statement").await;
        };
        let prepared = &self.statements[&number];
        let role = match (prepared.cursor, prepared.long_data) {
            (Some(role), _) => role,
            (None, true) => Role::Primary,
            // There is nothing to forget.
            (None, false) => return self.done().await,
        };
        self.send_to_statement(role, number, command, Kind::One).await
    }

    /// A command about a statement goes where the statement is.
    async fn send_to_statement(&mut self, role: Role, number: u32, command: Command, kind: Kind) -> Flow {
        let known = Rc::clone(&self.statements[&number].known);
        self.last = role;
        let mut job = Job::new(command, kind, &known.statement);
        job.executed = Some(number);
        job.fixed = Some(Self::to_of(role));
        self.run(job).await
    }
}

impl Prepared {
    /// Where the types of an execution begin, if there are any, and whether they were sent.
    fn types_at(&self, command: &Command) -> Option<(usize, bool)> {
        let (body, count) = (command.body(), usize::from(self.parameters));
        if count == 0 {
            return None;
        }
        match command.kind() {
            command::STMT_EXECUTE => {
                let flag = 9 + count.div_ceil(8);
                Some((flag + 1, *body.get(flag)? == 1))
            }
            command::STMT_BULK_EXECUTE => {
                Some((6, u16::from_le_bytes([*body.get(4)?, *body.get(5)?]) & BULK_TYPES != 0))
            }
            _ => None,
        }
    }

    fn remember_types(&mut self, command: &Command) {
        if let Some((at, true)) = self.types_at(command)
            && let Some(types) = command.body().get(at..at + usize::from(self.parameters) * 2)
            && self.types.as_deref() != Some(types)
        {
            self.types = Some(Bytes::copy_from_slice(types));
        }
    }

    /// The same execution with the types that the client sent before.
    fn with_types(&self, command: &Command) -> Option<Command> {
        let (at, false) = self.types_at(command)? else { return None };
        let types = self.types.as_ref()?;
        let body = command.body();
        let mut with = BytesMut::with_capacity(body.len() + types.len());
        with.put_slice(body.get(..at)?);
        if command.kind() == command::STMT_EXECUTE {
            with[at - 1] = 1;
        } else {
            let flags = u16::from_le_bytes([with[4], with[5]]) | BULK_TYPES;
            with[4..6].copy_from_slice(&flags.to_le_bytes());
        }
        with.put_slice(types);
        with.put_slice(&body[at..]);
        Some(Command::new(command.kind(), &with))
    }
}
