//! A control connection: root's way in over the Unix socket, with a deadline on every call.
//!
//! A server that is hung, frozen or out of connections must cost its keeper a bounded time and nothing else, so there is no
//! call without a limit, no pool that resets behind one's back, and no retry. A connection whose call did not finish is
//! of no further use: its answer may come later and be taken for that of another statement.

use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::packet::{self, End, Refusal};

/// Results that one call may bring.
const MOST_RESULTS: usize = 64;
const MOST_COLUMNS: u64 = 512;

/// `ER_STATEMENT_TIMEOUT`: `max_statement_time` passed.
pub const STATEMENT_TIMEOUT: u16 = 1969;
/// `ER_CON_COUNT_ERROR`: all connections are taken.
pub const TOO_MANY_CONNECTIONS: u16 = 1040;

/// Why a statement has no answer.
#[derive(Debug, Error)]
pub enum SqlError {
    /// Nobody listens: not started, still recovering, or dead. Nothing was sent.
    #[error("nobody answers on the database's socket: {0}")]
    Unreachable(std::io::Error),
    /// It did not answer in time. Whether the statement runs, ran or will run is not known.
    #[error("the database did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection ended in the middle. Whether the statement ran is not known.
    #[error("the connection to the database ended: {0}")]
    Lost(std::io::Error),
    /// The server refused, with its number and words.
    #[error("the database refused ({code}): {message}")]
    Refused {
        /// MariaDB's error number.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The answer is not what the protocol allows, or larger than a control statement's can be.
    #[error("the database's answer cannot be read: {0}")]
    Unreadable(&'static str),
}

impl SqlError {
    /// Whether the server refused with this number.
    pub fn is(&self, number: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == number)
    }
}

impl From<Refusal> for SqlError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { code: refusal.code, message: refusal.message }
    }
}

/// One statement's result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A row's value by its column's name; `None` for NULL and for a column that is not there.
    pub fn value(&self, row: usize, column: &str) -> Option<&str> {
        let column = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?.get(column)?.as_deref()
    }

    /// The first value of the first row.
    pub fn single(&self) -> Option<&str> {
        self.rows.first()?.first()?.as_deref()
    }

    /// The first column, without NULLs.
    pub fn first_column(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().filter_map(|row| row.first()?.as_deref())
    }
}

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    connection_id: u32,
    usable: bool,
}

impl Session {
    /// Connects and logs in as `user`, which the server proves by the Unix user of this process.
    ///
    /// # Errors
    /// [`SqlError::Unreachable`] where nobody listens; else as [`Self::query`].
    pub async fn connect(socket: &Path, user: &str, within: Duration) -> Result<Self, SqlError> {
        timeout(within, Self::log_in(socket, user)).await.unwrap_or(Err(SqlError::TimedOut(within)))
    }

    async fn log_in(socket: &Path, user: &str) -> Result<Self, SqlError> {
        let stream = UnixStream::connect(socket).await.map_err(SqlError::Unreachable)?;
        let mut session = Self { stream, connection_id: 0, usable: true };
        let mut answer = Answer::default();
        // A server that shuts down or was killed takes connections and ends them without a greeting: nothing was sent.
        let greeting = session.packet(&mut answer).await.map_err(|error| match error {
            SqlError::Lost(cause) => SqlError::Unreachable(cause),
            other => other,
        })?;
        session.connection_id = packet::greeting(&greeting).ok_or(UNKNOWN)??;
        session.send(answer.sequence, &packet::hello(user)).await?;
        answer.sequence = answer.sequence.wrapping_add(1);
        loop {
            let packet = session.packet(&mut answer).await?;
            match packet.first() {
                // It names a plugin. Whichever it is, no password is given: `unix_socket` wants none, and others refuse.
                Some(0xfe) => {
                    session.send(answer.sequence, &[]).await?;
                    answer.sequence = answer.sequence.wrapping_add(1);
                }
                _ => match packet::end(&packet).ok_or(UNKNOWN)? {
                    End::Ok { .. } => return Ok(session),
                    End::Refused(refusal) => return Err(refusal.into()),
                },
            }
        }
    }

    /// The server's number for this connection, as in `KILL`.
    pub fn connection_id(&self) -> u32 {
        self.connection_id
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// [`SqlError`]. After anything but [`SqlError::Refused`] the session is of no further use.
    pub async fn query(&mut self, statement: &str, within: Duration) -> Result<Rows, SqlError> {
        Ok(self.query_all(statement, within).await?.pop().unwrap_or_default())
    }

    /// Runs statements that are separated by semicolons, in one exchange, and returns the result of each. The first that
    /// is refused ends it.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn query_all(&mut self, statements: &str, within: Duration) -> Result<Vec<Rows>, SqlError> {
        if !std::mem::replace(&mut self.usable, false) {
            return Err(SqlError::Lost(std::io::Error::other("an earlier statement did not finish")));
        }
        let answer =
            timeout(within, self.exchange(statements)).await.unwrap_or(Err(SqlError::TimedOut(within)));
        self.usable = matches!(answer, Ok(_) | Err(SqlError::Refused { .. }));
        answer
    }

    async fn exchange(&mut self, statements: &str) -> Result<Vec<Rows>, SqlError> {
        let mut command = Vec::with_capacity(statements.len() + 1);
        // COM_QUERY
        command.push(3);
        command.extend(statements.as_bytes());
        self.send(0, &command).await?;
        let mut answer = Answer { sequence: 1, bytes: 0 };
        let mut results = Vec::new();
        loop {
            let (rows, more) = self.result(&mut answer).await?;
            results.push(rows);
            if !more {
                return Ok(results);
            }
            if results.len() >= MOST_RESULTS {
                return Err(SqlError::Unreadable("too many results"));
            }
        }
    }

    async fn result(&mut self, answer: &mut Answer) -> Result<(Rows, bool), SqlError> {
        let head = self.packet(answer).await?;
        if let Some(0 | 0xff) = head.first() {
            return match packet::end(&head).ok_or(UNKNOWN)? {
                End::Ok { more } => Ok((Rows::default(), more)),
                End::Refused(refusal) => Err(refusal.into()),
            };
        }
        let count = packet::Fields(&head).length().filter(|count| *count <= MOST_COLUMNS).ok_or(UNKNOWN)?;
        let mut result = Rows::default();
        for _ in 0..count {
            let packet = self.packet(answer).await?;
            result.columns.push(packet::column(&packet).ok_or(UNKNOWN)?);
        }
        packet::end(&self.packet(answer).await?).ok_or(UNKNOWN)?;
        loop {
            let packet = self.packet(answer).await?;
            if matches!(packet.first(), Some(0xff)) || (packet.first() == Some(&0xfe) && packet.len() < 9) {
                return match packet::end(&packet).ok_or(UNKNOWN)? {
                    End::Ok { more } => Ok((result, more)),
                    End::Refused(refusal) => Err(refusal.into()),
                };
            }
            result.rows.push(packet::row(&packet, result.columns.len()).ok_or(UNKNOWN)?);
        }
    }

    async fn packet(&mut self, answer: &mut Answer) -> Result<Vec<u8>, SqlError> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await.map_err(SqlError::Lost)?;
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        if head[3] != answer.sequence {
            return Err(SqlError::Unreadable("packets are out of order"));
        }
        answer.bytes += length;
        if answer.bytes > packet::ANSWER_BYTES {
            return Err(SqlError::Unreadable("it is larger than a control statement's answer can be"));
        }
        answer.sequence = answer.sequence.wrapping_add(1);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.map_err(SqlError::Lost)?;
        Ok(body)
    }

    async fn send(&mut self, sequence: u8, body: &[u8]) -> Result<(), SqlError> {
        let length = u32::try_from(body.len()).ok().filter(|length| *length < 0xff_ffff);
        let length = length.ok_or(SqlError::Unreadable("a statement is longer than one packet"))?;
        let mut packet = Vec::with_capacity(body.len() + 4);
        packet.extend(&length.to_le_bytes()[..3]);
        packet.push(sequence);
        packet.extend(body);
        self.stream.write_all(&packet).await.map_err(SqlError::Lost)
    }
}

/// How far an answer was read.
#[derive(Debug, Default)]
struct Answer {
    sequence: u8,
    bytes: usize,
}

const UNKNOWN: SqlError = SqlError::Unreadable("it does not follow the protocol");
