//! What keeps a keeper's hands from doing what they were told.

use std::path::PathBuf;

use thiserror::Error;

use super::gtid::{Position, Standing};
use super::session::SqlError;

/// Why an action was not carried out.
#[derive(Debug, Error)]
pub enum ActionError {
    /// The server said no, or nothing.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// Received transactions are not applied yet, and what was asked for would throw them away.
    #[error(
        "received up to `{received}` but applied up to `{applied}` only: going on would throw acknowledged writes away"
    )]
    NotApplied {
        /// What the replica has in its relay log.
        received: Position,
        /// What it has applied.
        applied: Position,
    },
    /// The thread that applies is stopped or failed, so nothing may be done that waits for it or purges behind it.
    #[error("the thread that applies received writes does not run: {0}")]
    ApplierStopped(String),
    /// The place was not reached in time.
    #[error("`{target}` was not reached in time; applied up to `{applied}`")]
    NotReached {
        /// What was waited for.
        target: Position,
        /// Where it stands.
        applied: Position,
    },
    /// Somebody waits for an acknowledgement, so the server cannot be closed by words: see the decision on fencing.
    #[error(
        "{waiters} transactions wait for an acknowledgement, and only a kill keeps them from becoming visible"
    )]
    Waiters {
        /// How many.
        waiters: u64,
    },
    /// The server is open, or waits for acknowledgements, and what was asked for is for a closed replica.
    #[error("the server is {0}")]
    WrongState(&'static str),
    /// Two places are not in one history.
    #[error("`{one}` and `{other}` cannot both be in one history ({standing:?})")]
    Histories {
        /// A place.
        one: Position,
        /// Another.
        other: Position,
        /// How they stand.
        standing: Standing,
    },
    /// The server answered with what cannot be understood.
    #[error("cannot understand {what}: `{text}`")]
    Answer {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        text: String,
    },
    /// A file or folder.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A log of the server cannot be read.
    #[error(transparent)]
    Log(#[from] super::binlog::LogError),
    /// A program that was run failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// The program.
        program: &'static str,
        /// Its last words.
        reason: String,
    },
}

impl ActionError {
    /// Whether the server itself did not answer, rather than refusing.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Sql(error) if !matches!(error, SqlError::Refused { .. }))
    }
}
