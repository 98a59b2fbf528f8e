//! A member's data from another member: the donor sends a physical copy over any stream, the receiver prepares it beside its
//! data and swaps the two.
//!
//! A replica is never made empty: a history of its own is what it could then differ by. The copy is `mariadb-backup`'s, in
//! frames that say how much is to come, and whether the donor came to its end; a stream that breaks is no copy. The receiver writes
//! down each step before it takes it, so whatever interrupts it, [`Seeding::open`] finds data that are whole: the
//! old, or the new.

mod donor;
mod frames;
mod receiver;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinHandle;

pub use donor::{Offer, donate};
pub use receiver::{Seeding, State};

/// The other side sent or took nothing for so long.
const SILENCE: Duration = Duration::from_mins(2);
/// What is kept of a program's words.
const KEPT_WORDS: usize = 16 * 1024;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that went over the stream.
    pub bytes: u64,
    /// About how many there will be: the size of the donor's data when it began.
    pub about_bytes: u64,
}

/// Why a seeding did not come to its end.
#[derive(Debug, Error)]
pub enum SeedError {
    /// The stream broke.
    #[error("the stream between donor and receiver broke: {0}")]
    Stream(io::Error),
    /// Nothing moved.
    #[error("nothing went over the stream for {} s", SILENCE.as_secs())]
    Silence,
    /// What came is no copy.
    #[error("the donor sent what is no copy: {0}")]
    Unreadable(&'static str),
    /// The donor gave up.
    #[error("the donor gave up: {0}")]
    Donor(String),
    /// A program failed.
    #[error("{program} failed: {words}")]
    Program {
        /// The program.
        program: &'static str,
        /// Its last words.
        words: String,
    },
    /// The copy would fill the disk.
    #[error("the copy needs about {needed} bytes, and {free} are free")]
    NoSpace {
        /// What the donor said, and a tenth more.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// The copy has no place in the history.
    #[error("the copy does not say which place in the history it is at: {0}")]
    NoPosition(String),
    /// A file or folder.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The step is not possible now.
    #[error("there is no copy to {0}")]
    WrongState(&'static str),
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SeedError + use<> {
    let path = path.to_owned();
    move |source| SeedError::File { doing, path, source }
}

fn program(name: &'static str) -> Result<PathBuf, SeedError> {
    crate::find(name).ok_or_else(|| SeedError::Program {
        program: name,
        words: "it is not installed; install it with `apt-get install mariadb-backup`".to_owned(),
    })
}

/// Keeps the end of what a program says.
fn last_words(source: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let mut buffer = vec![0; 4096];
        if let Some(mut source) = source {
            while let Ok(read @ 1..) = source.read(&mut buffer).await {
                kept.extend(&buffer[..read]);
                let surplus = kept.len().saturating_sub(KEPT_WORDS);
                kept.drain(..surplus);
            }
        }
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    })
}
