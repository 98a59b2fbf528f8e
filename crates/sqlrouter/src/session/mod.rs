//! One client: from its login to its last command.
//!
//! A command is read, [`route`](crate::route) decides where it goes, [`ready`] makes a connection there that has the
//! session's state, [`run`] sends it and has [`relay`] pass the answer on, and [`settle`] takes over what the answer told
//! of the state.

mod answers;
mod login;
mod prepared;
mod ready;
mod relay;
mod run;
mod settle;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Connection, Role, State};
use crate::channel::{Channel, Command, Stream};
use crate::gtid::Position;
use crate::kill::Entry;
use crate::route::{To, View, decide};
use crate::statement::{Kind as StatementKind, Mode, Statement};
use crate::wire::capability::{
    STATUS_ANSI_QUOTES, STATUS_AUTOCOMMIT, STATUS_IN_TRANSACTION, STATUS_NO_BACKSLASH_ESCAPES,
};
use crate::wire::command;
use crate::wire::reply::{err, ok};
use crate::wire::response::Kind;
use crate::worker::{Account, ClientPlace, Worker};
use prepared::Prepared;
use run::Job;

/// The connection to the client is over.
#[derive(Debug)]
pub(crate) struct Closed;

type Flow = Result<(), Closed>;

/// A client that is logged in.
pub(crate) struct Session {
    worker: Rc<Worker>,
    account: Rc<Account>,
    place: ClientPlace,
    entry: Entry,
    client: Channel,
    /// Agreed with the client.
    capabilities: u64,
    collation: u8,
    primary: Option<Connection>,
    replica: Option<Connection>,
    /// Which of the two ran the last statement.
    last: Role,
    state: State,
    /// Changes with the state.
    version: u64,
    /// Status flags of the last answer of the primary.
    status: u16,
    bound: Option<&'static str>,
    bound_by_lock: bool,
    /// `SET TRANSACTION` was given for the next one.
    next_transaction: bool,
    /// What it wrote.
    position: Position,
    wrote_unseen: bool,
    last_insert_id: u64,
    statements: HashMap<u32, Prepared>,
    next_statement: u32,
    last_prepared: Option<u32>,
    /// Bytes of the texts of its statements.
    prepared_bytes: usize,
    /// Statements whose cursor is open.
    cursors: u32,
}

/// Serves a client until it leaves.
pub(crate) async fn serve(stream: Stream, worker: Rc<Worker>) {
    let Some(mut session) = login::log_in(stream, &worker).await else { return };
    let target = Arc::clone(&session.entry.target);
    let end = target.end.notified();
    tokio::pin!(end);
    let most = worker.limits.statement_bytes;
    loop {
        let command = tokio::select! {
            biased;
            command = session.client.command(most) => command,
            () = &mut end => break,
        };
        match command {
            Ok(Some(command)) => {
                if command.kind() == command::QUIT || session.dispatch(command).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "a client is let go");
                if error.kind() == std::io::ErrorKind::InvalidData {
                    let _ = session.fail(1153, "08S01", &format!("the router lets you go: {error}")).await;
                }
                break;
            }
        }
    }
    session.leave();
}

impl Session {
    async fn dispatch(&mut self, command: Command) -> Flow {
        let kind = command.kind();
        self.worker.count(kind);
        match kind {
            command::QUERY => self.query(command).await,
            command::STMT_EXECUTE | command::STMT_BULK_EXECUTE => self.execute(command).await,
            command::STMT_PREPARE => self.prepare(command).await,
            command::STMT_CLOSE => {
                self.close_statement(&command);
                Ok(())
            }
            command::STMT_SEND_LONG_DATA => self.long_data(command).await,
            command::STMT_FETCH => self.fetch(command).await,
            command::STMT_RESET => self.reset_statement(command).await,
            command::PING => self.done().await,
            command::INIT_DB => self.plain(command, Kind::One, StatementKind::Use).await,
            command::FIELD_LIST => self.plain(command, Kind::Rows, StatementKind::Write).await,
            command::STATISTICS => self.plain(command, Kind::One, StatementKind::Set).await,
            command::SET_OPTION => self.set_option(&command).await,
            command::RESET_CONNECTION => {
                self.begin_anew();
                self.done().await
            }
            command::CHANGE_USER => self.change_user(&command).await,
            command::PROCESS_KILL => {
                let number =
                    command.body().get(..4).map_or(0, |id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
                self.kill(u64::from(number), false, None).await
            }
            command::BINLOG_DUMP | command::REGISTER_SLAVE => {
                self.fail(
                    1227,
                    "42000",
                    "the router serves no binary log: replicas connect to the primary itself",
                )
                .await
            }
            _ => self.fail(1047, "08S01", "the router does not know this command").await,
        }
    }

    async fn query(&mut self, command: Command) -> Flow {
        let known = self.worker.cache.borrow_mut().of(command.body(), self.mode());
        match known.statement.kind {
            StatementKind::Explain { begin } => {
                let text = command.body().get(begin..).unwrap_or_default().to_vec();
                self.explain(&text).await
            }
            StatementKind::Kill { connection, query } => self.kill(connection, query, Some(command)).await,
            _ => self.run(Job::of(command, Kind::Results, &known)).await,
        }
    }

    /// A command that is no statement, but is routed like one.
    async fn plain(&mut self, command: Command, kind: Kind, like: StatementKind) -> Flow {
        let mut statement = crate::statement::classify(b"DO", Mode::default());
        statement.kind = like;
        statement.may_commit = false;
        statement.harmless = true;
        statement.why = "it is no statement";
        self.run(Job::new(command, kind, &statement)).await
    }

    fn mode(&self) -> Mode {
        Mode {
            ansi_quotes: self.status & STATUS_ANSI_QUOTES != 0,
            no_backslash_escapes: self.status & STATUS_NO_BACKSLASH_ESCAPES != 0,
        }
    }

    fn is_in_transaction(&self) -> bool {
        self.status & STATUS_IN_TRANSACTION != 0 || self.status & STATUS_AUTOCOMMIT == 0
    }

    fn view(&self) -> View {
        View {
            in_transaction: self.is_in_transaction() || self.next_transaction,
            bound: self.bound,
            wrote_unseen: self.wrote_unseen,
            consistency: self.account.consistency,
        }
    }

    fn route(&self, statement: &Statement) -> crate::route::Route {
        decide(statement, self.view())
    }

    fn slot(&mut self, role: Role) -> &mut Option<Connection> {
        match role {
            Role::Primary => &mut self.primary,
            Role::Replica => &mut self.replica,
        }
    }

    /// Drops a connection to a server.
    fn drop_slot(&mut self, role: Role) {
        *self.slot(role) = None;
        self.entry.target.connected(role, None);
    }

    /// Gives a connection back for others to use.
    fn give_back(&mut self, role: Role) {
        let Some(connection) = self.slot(role).take() else { return };
        self.entry.target.connected(role, None);
        let (worker, account) = (Rc::clone(&self.worker), Rc::clone(&self.account));
        let pooling = account.pooling;
        let clean = pooling == crate::config::Pooling::Transaction
            && self.bound.is_none()
            && !self.is_in_transaction();
        let pooling = if clean { pooling } else { crate::config::Pooling::Session };
        tokio::task::spawn_local(async move {
            let topology = worker.topology();
            worker.pool.give_back(connection, pooling, &topology).await;
            account.returned.notify_one();
        });
    }

    fn leave(mut self) {
        self.give_back(Role::Primary);
        self.give_back(Role::Replica);
    }

    /// As after the login, but with the schema as it is.
    fn begin_anew(&mut self) {
        self.give_back(Role::Primary);
        self.give_back(Role::Replica);
        let several = self.capabilities & crate::wire::capability::MULTI_STATEMENTS != 0;
        self.state = State { schema: self.state.schema.take(), several, ..State::default() };
        self.version = self.worker.number();
        self.status = STATUS_AUTOCOMMIT;
        self.bound = None;
        (self.bound_by_lock, self.next_transaction, self.wrote_unseen) = (false, false, false);
        self.last_insert_id = 0;
        self.statements.clear();
        self.prepared_bytes = 0;
        self.last_prepared = None;
        self.cursors = 0;
    }

    async fn set_option(&mut self, command: &Command) -> Flow {
        self.state.several = command.body().first() == Some(&0);
        self.version = self.worker.number();
        self.reply(&answers::eof(self.capabilities, self.status)).await
    }

    /// Answers OK.
    async fn done(&mut self) -> Flow {
        let status = self.status;
        self.reply(&ok(status)).await
    }

    async fn fail(&mut self, code: u16, state: &str, message: &str) -> Flow {
        self.reply(&err(code, state, message)).await
    }

    /// Answers a command with one packet.
    async fn reply(&mut self, payload: &[u8]) -> Flow {
        self.client.put(payload, 1);
        self.client.flush().await.map_err(|_| Closed)
    }

    fn schema_text(&self) -> String {
        self.state
            .schema
            .as_ref()
            .map_or_else(String::new, |name: &Bytes| String::from_utf8_lossy(name).into_owned())
    }

    fn to_of(role: Role) -> To {
        match role {
            Role::Primary => To::Primary,
            Role::Replica => To::Last,
        }
    }
}
