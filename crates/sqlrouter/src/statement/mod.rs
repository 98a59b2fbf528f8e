//! What a statement does, found out by reading its words: not a grammar, but enough to know where it must go.
//!
//! [`token`] cuts the text, [`classify`] looks at the words, [`functions`] knows which functions only compute. Whatever is
//! not surely a plain read goes to the primary, so that not knowing something costs speed, never a wrong result.

mod cache;
mod classify;
mod digest;
mod functions;
mod token;

pub(crate) use cache::{Cache, Known};
pub use classify::classify;
pub(crate) use digest::{Digest, Digests};

/// How the text is read: two things that the `sql_mode` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mode {
    /// Double quotes are around names, not strings.
    pub ansi_quotes: bool,
    /// A backslash is an ordinary character.
    pub no_backslash_escapes: bool,
}

/// What kind of statement it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads rows, and nothing else.
    Read,
    /// Reads rows and locks them.
    LockingRead,
    /// Changes data or definitions, or may.
    Write,
    /// Begins a transaction.
    Begin,
    /// Commits, or ends a transaction in a way that may have committed.
    Commit,
    /// Rolls back.
    Rollback,
    /// Changes settings of the session, which the server reports.
    Set,
    /// `SET NAMES` and `SET CHARACTER SET`, which the server reports in part only.
    SetNames,
    /// Another schema.
    Use,
    /// Asks about the last statement of the same connection: warnings, rows found.
    Diagnostics,
    /// `KILL`, with what is meant.
    Kill {
        /// The number of the connection.
        connection: u64,
        /// Only its statement, not the connection.
        query: bool,
    },
    /// `SHOW MAINSTAY ROUTE FOR ...`; the statement begins at this byte.
    Explain {
        /// Where the explained statement begins.
        begin: usize,
    },
    /// Nothing but comments.
    Empty,
}

/// What the session becomes bound to when the statement has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// To nothing.
    Nothing,
    /// To its connection to the primary, for this reason.
    Connection(&'static str),
    /// `UNLOCK TABLES`: to nothing any more, if locked tables were all that bound it.
    Unlocked,
    /// `SET TRANSACTION`: until the next transaction has ended.
    NextTransaction,
}

/// A wish in a comment: `/* mainstay: primary */`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The primary.
    Primary,
    /// A replica, whatever the consistency.
    Replica,
    /// Whatever replica, however old.
    Eventual,
    /// The session's own writes are seen.
    Session,
    /// All writes are seen.
    Strong,
}

/// What is known of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// Why it is not a plain read; for people.
    pub why: &'static str,
    /// What the session becomes bound to.
    pub bind: Bind,
    /// A wish in a comment.
    pub hint: Option<Hint>,
    /// Several statements.
    pub several: bool,
    /// Reads what the last INSERT gave.
    pub last_insert_id: bool,
    /// Reads no tables, so that every server answers the same.
    pub tableless: bool,
    /// Surely writes nothing, although it must go to the primary.
    pub harmless: bool,
    /// Commits what was before, so that an open transaction may be over (definitions, mostly).
    pub may_commit: bool,
}
