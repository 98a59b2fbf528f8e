//! One connection to a server, and what is known of the session's state on it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Key, Role};
use crate::channel::{Channel, Command};
use crate::wire::command;
use crate::wire::packet::HEADER;
use crate::wire::reply::{ERR, ErrPacket};
use crate::wire::response::{Event, Kind, Response};

/// Bytes of an answer to the router's own questions.
const ANSWER: usize = 1 << 20;
/// How long a server may take to take over a session's state.
const PATIENCE: Duration = Duration::from_secs(10);
/// The server reports every system variable that changes, and the position of every write.
const TRACK: &str = "SET session_track_system_variables='*'";

/// A session's state, as far as it can be carried from one connection to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) schema: Option<Bytes>,
    /// The last `SET NAMES` or `SET CHARACTER SET`, as it was sent.
    pub(crate) names: Option<Bytes>,
    /// System variables that were changed, by name.
    pub(crate) variables: BTreeMap<Bytes, Bytes>,
    /// Whether several statements may go together.
    pub(crate) several: bool,
}

/// A statement that is prepared on a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PreparedThere {
    pub(crate) id: u32,
    /// The server knows the types of the parameters.
    pub(crate) typed: bool,
}

/// A connection to a server.
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) key: Rc<Key>,
    pub(crate) role: Role,
    /// The epoch in which it was made.
    pub(crate) epoch: u64,
    /// The server's number of it.
    pub(crate) thread: u32,
    pub(crate) capabilities: u64,
    pub(crate) state: State,
    /// Equal to the session's if the state is.
    pub(crate) version: u64,
    /// By the router's own numbers.
    pub(crate) statements: HashMap<u64, PreparedThere>,
    /// An answer is on its way, or only a part of it was read: nobody else can use it.
    pub(crate) busy: bool,
    /// The session whose INSERT gave it its `LAST_INSERT_ID()`.
    pub(crate) inserted_for: u32,
    /// Counts it, and lets it be cut while somebody waits for its answer.
    pub(crate) _place: Place,
}

/// What a connection holds of its worker's bounds; given back when it is dropped.
pub(crate) struct Place {
    pub(crate) _permit: tokio::sync::OwnedSemaphorePermit,
    pub(crate) live: Rc<Live>,
    pub(crate) number: u64,
}

/// All connections of a worker, to cut those to servers that are no longer what they were.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) all: std::cell::RefCell<HashMap<u64, LiveConnection>>,
    pub(crate) gauge: std::cell::OnceCell<mainstay_http::metrics::Gauge>,
}

pub(crate) struct LiveConnection {
    pub(crate) server: String,
    pub(crate) role: Role,
    pub(crate) epoch: u64,
    pub(crate) socket: OwnedFd,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.all.borrow_mut().remove(&self.number);
        if let Some(gauge) = self.live.gauge.get() {
            gauge.add(-1);
        }
    }
}

impl Connection {
    /// Asks something, and reads the whole answer. An error says that the connection is lost.
    pub(crate) async fn ask(&mut self, command: &mut Command, kind: Kind) -> io::Result<BytesMut> {
        self.busy = true;
        self.channel.put_command(command);
        self.channel.flush().await?;
        self.answer(kind).await
    }

    /// Whether it can be used no more, as far as is known without waiting.
    pub(crate) fn is_stale(&mut self) -> bool {
        self.busy || self.channel.is_stale()
    }

    /// Reads a whole answer to something that was sent before.
    pub(crate) async fn answer(&mut self, kind: Kind) -> io::Result<BytesMut> {
        let mut response = Response::new(kind, self.capabilities);
        let mut answer = BytesMut::new();
        while !response.is_over() {
            let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let taken = match response.next(&self.channel.input).map_err(malformed)? {
                Event::Need => {
                    if self.channel.fill().await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    continue;
                }
                Event::Pass(bytes) | Event::Prepared(bytes) | Event::End { bytes, .. } => bytes,
                Event::LocalInfile(_) => return Err(malformed(crate::wire::packet::Malformed)),
            };
            if answer.len() + taken > ANSWER {
                return Err(io::Error::other("an answer to the router's own question is too long"));
            }
            answer.extend_from_slice(&self.channel.input.split_to(taken));
        }
        self.busy = false;
        Ok(answer)
    }

    /// Asks for something to be done; the payload of the ERR if it was refused.
    pub(crate) async fn order(&mut self, command: &mut Command) -> io::Result<Result<(), BytesMut>> {
        let kind = if command.kind() == command::QUERY { Kind::Results } else { Kind::One };
        self.ask(command, kind).await.map(refused)
    }

    /// Begins to track, on a connection that has just been made.
    pub(crate) async fn track(&mut self) -> io::Result<()> {
        accept(self.order(&mut Command::query(TRACK)).await?)
    }

    /// Makes it as if it had just been made, in one round trip. The schema stays: the server does not forget it.
    pub(crate) async fn reset(&mut self) -> io::Result<()> {
        tokio::time::timeout(PATIENCE, self.reset_patiently()).await?
    }

    async fn reset_patiently(&mut self) -> io::Result<()> {
        self.busy = true;
        self.channel.put_command(&mut Command::new(command::RESET_CONNECTION, b""));
        self.channel.put_command(&mut Command::query(TRACK));
        self.channel.flush().await?;
        accept(refused(self.answer(Kind::One).await?))?;
        self.busy = true;
        accept(refused(self.answer(Kind::Results).await?))?;
        self.statements.clear();
        let (schema, several) = (self.state.schema.take(), self.state.several);
        self.state = State { schema, several, ..State::default() };
        self.version = 0;
        Ok(())
    }

    /// Gives it the state of a session; the payload of the ERR if the server refuses a part.
    pub(crate) async fn become_like(&mut self, wanted: &State) -> io::Result<Result<(), BytesMut>> {
        tokio::time::timeout(PATIENCE, self.become_like_patiently(wanted)).await?
    }

    async fn become_like_patiently(&mut self, wanted: &State) -> io::Result<Result<(), BytesMut>> {
        let surplus = |name: &Bytes| !wanted.variables.contains_key(name);
        if self.state.variables.keys().any(surplus) || (wanted.names.is_none() && self.state.names.is_some())
        {
            self.reset().await?;
        }
        if wanted.names != self.state.names
            && let Some(names) = &wanted.names
        {
            if let Err(refused) = self.order(&mut Command::new(command::QUERY, names)).await? {
                return Ok(Err(refused));
            }
            self.state.names = Some(names.clone());
            // It sets these, whatever they were.
            self.state.variables.retain(|name, _| !is_of_names(name));
        }
        let mut text = BytesMut::new();
        for (name, value) in &wanted.variables {
            if self.state.variables.get(name) != Some(value) {
                text.extend_from_slice(if text.is_empty() { b"SET " } else { b"," });
                put_assignment(&mut text, name, value);
            }
        }
        if !text.is_empty()
            && let Err(refused) = self.order(&mut Command::new(command::QUERY, &text)).await?
        {
            return Ok(Err(refused));
        }
        self.state.variables.clone_from(&wanted.variables);
        if wanted.several != self.state.several {
            let option = [u8::from(!wanted.several), 0];
            if let Err(refused) = self.order(&mut Command::new(command::SET_OPTION, &option)).await? {
                return Ok(Err(refused));
            }
            self.state.several = wanted.several;
        }
        if wanted.schema != self.state.schema
            && let Some(schema) = &wanted.schema
        {
            if let Err(refused) = self.order(&mut Command::new(command::INIT_DB, schema)).await? {
                return Ok(Err(refused));
            }
            self.state.schema = Some(schema.clone());
        }
        Ok(Ok(()))
    }
}

/// Variables that `SET NAMES` sets.
pub(crate) fn is_of_names(name: &[u8]) -> bool {
    [
        &b"character_set_client"[..],
        b"character_set_connection",
        b"character_set_results",
        b"collation_connection",
    ]
    .contains(&name)
}

/// `name='value'`, as text that means the same in every `sql_mode`.
fn put_assignment(text: &mut BytesMut, name: &[u8], value: &[u8]) {
    text.extend_from_slice(name);
    text.extend_from_slice(b"=");
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let is_decimal = value.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') && value.contains(&b'.');
    if is_number || (is_decimal && value[0] != b'.') {
        text.extend_from_slice(value);
    } else if value.is_empty() && name == b"character_set_results" {
        text.extend_from_slice(b"NULL");
    } else if value.iter().any(|byte| matches!(byte, b'\'' | b'\\' | b'"') || *byte >= 0x80) {
        text.extend_from_slice(b"x'");
        for byte in value {
            text.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        text.extend_from_slice(b"'");
    } else {
        text.extend_from_slice(b"'");
        text.extend_from_slice(value);
        text.extend_from_slice(b"'");
    }
}

/// The payload of the ERR that an answer is, if it is one.
fn refused(mut answer: BytesMut) -> Result<(), BytesMut> {
    if answer.get(HEADER) == Some(&ERR) { Err(answer.split_off(HEADER)) } else { Ok(()) }
}

fn accept(answer: Result<(), BytesMut>) -> io::Result<()> {
    answer.map_err(|payload| {
        let message = ErrPacket::parse(&payload).map_or_else(
            |error| error.to_string(),
            |error| String::from_utf8_lossy(error.message).into_owned(),
        );
        io::Error::other(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_so_that_no_mode_reads_them_otherwise() {
        let assignment = |name: &str, value: &str| {
            let mut text = BytesMut::new();
            put_assignment(&mut text, name.as_bytes(), value.as_bytes());
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert_eq!(assignment("wait_timeout", "77"), "wait_timeout=77");
        assert_eq!(assignment("max_statement_time", "1.500000"), "max_statement_time=1.500000");
        assert_eq!(assignment("sql_mode", ""), "sql_mode=''");
        assert_eq!(assignment("time_zone", "+00:00"), "time_zone='+00:00'");
        assert_eq!(assignment("character_set_results", ""), "character_set_results=NULL");
        assert_eq!(assignment("init_connect", "it's"), "init_connect=x'69742773'");
    }
}
