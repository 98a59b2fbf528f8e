//! What the router answers itself: why a statement goes where it goes, and KILL.

use std::time::Instant;

use bytes::{BufMut as _, BytesMut};

use super::run::Job;
use super::{Flow, Session};
use crate::backend::Role;
use crate::channel::Command;
use crate::kill::Kills;
use crate::route::{Await, Route, To};
use crate::statement::{Kind as StatementKind, Statement, classify};
use crate::wire::capability::DEPRECATE_EOF;
use crate::wire::reply::EOF;
use crate::wire::response::Kind;
use crate::wire::resultset;

/// The answer to `COM_SET_OPTION`.
pub(super) fn eof(capabilities: u64, status: u16) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(EOF);
    out.put_u16_le(0);
    if capabilities & DEPRECATE_EOF != 0 {
        out.put_u16_le(status);
        out.put_u16_le(0);
    } else {
        out.put_u16_le(status);
    }
    out
}

impl Session {
    /// `SHOW MAINSTAY ROUTE FOR ...`: one row that says where the statement would go, and why.
    pub(super) async fn explain(&mut self, text: &[u8]) -> Flow {
        let statement = classify(text, self.mode());
        let route = self.route(&statement);
        let (role, server, why) = self.foresee(&statement, route);
        let row = vec![role.to_owned(), server, why];
        let mut out = BytesMut::new();
        resultset::put(&["route", "server", "why"], &[row], self.capabilities, self.status, 1, &mut out);
        self.client.output.extend_from_slice(&out);
        self.client.flush().await.map_err(|_| super::Closed)
    }

    fn foresee(&mut self, statement: &Statement, route: Route) -> (&'static str, String, String) {
        let topology = self.worker.topology();
        let mut why = route.why.to_owned();
        let primary = topology.primary.as_ref().map_or_else(String::new, |server| server.name.clone());
        if primary.is_empty() {
            why.push_str("; it would wait, as no server takes writes now");
        }
        if topology.paused && !self.is_in_transaction() && self.bound.is_none() {
            why.push_str("; on the primary it would wait, as a switchover is on its way");
        }
        let wanted =
            (route.wait == Await::OwnWrites && !self.position.is_empty()).then(|| self.position.clone());
        let current = self.replica.as_ref().map(|connection| connection.key.server.to_string());
        let replica = || self.worker.replica(&topology, wanted.as_ref(), current.as_deref(), Instant::now());
        match route.to {
            To::Replica => match replica() {
                Some((server, true)) => ("replica", server.name, why),
                Some((server, false)) => {
                    let position = wanted.map_or_else(String::new, |wanted| wanted.to_string());
                    why.push_str(&format!(
                        "; it waits until the replica has {position}, else goes to the primary"
                    ));
                    ("replica", server.name, why)
                }
                None => ("primary", primary, why + "; no replica is fit"),
            },
            To::Any if self.primary.is_none() && self.replica.is_some() => {
                ("replica", current.unwrap_or_default(), why)
            }
            To::Last if self.last == Role::Replica => ("replica", current.unwrap_or_default(), why),
            To::Primary | To::Any | To::Last => {
                if statement.bind != crate::statement::Bind::Nothing && self.bound.is_none() {
                    why.push_str("; afterwards the session stays there");
                }
                ("primary", primary, why)
            }
        }
    }

    /// Ends another client's statement, or its connection. Numbers that are no client's are a server's own.
    pub(super) async fn kill(&mut self, number: u64, query: bool, command: Option<Command>) -> Flow {
        let Some(target) = self.worker.kills.find(number) else {
            let statement = kill_statement();
            return match command.filter(|_| !Kills::is_own(number)) {
                Some(command) => self.run(Job::new(command, Kind::Results, &statement)).await,
                None => self.fail(1094, "HY000", &format!("Unknown thread id: {number}")).await,
            };
        };
        if target.account != *self.account.name {
            return self.fail(1095, "HY000", &format!("You are not owner of thread {number}")).await;
        }
        if let Some((server, thread)) = target.running() {
            let worker = std::rc::Rc::clone(&self.worker);
            let account = std::rc::Rc::clone(&self.account);
            let ended = async {
                let dialled = worker.dialer.connect(&server, &account.name, &account.password, 0, 0).await;
                let (mut channel, _, _) = dialled.map_err(|error| error.to_string())?;
                let what = if query { "QUERY" } else { "CONNECTION" };
                channel.put_command(&mut Command::query(&format!("KILL {what} {thread}")));
                channel.flush().await.map_err(|error| error.to_string())?;
                channel.packet_of(1 << 16).await.map(drop).map_err(|error| error.to_string())
            };
            if let Err(error) = ended.await {
                tracing::debug!(error, number, "a statement could not be ended");
            }
        }
        if !query {
            target.end.notify_one();
        }
        self.done().await
    }
}

fn kill_statement() -> Statement {
    let mut statement = classify(b"KILL 0", crate::statement::Mode::default());
    statement.kind = StatementKind::Write;
    statement
}
