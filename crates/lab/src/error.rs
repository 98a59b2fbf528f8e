//! What goes wrong while a lab is brought up, entered or taken down.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the lab could not do it: what failed, on what, why.
#[derive(Debug, Error)]
pub enum Error {
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
    /// A program that the lab runs.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// Its own words, or why it could not be started.
        reason: String,
    },
    /// A host did not come up.
    #[error("host {host} did not come up: {reason}")]
    Host {
        /// The host.
        host: String,
        /// Its last words.
        reason: String,
    },
    /// The agent of a server did not answer.
    #[error("the agent of {server} {reason}")]
    Agent {
        /// The server.
        server: String,
        /// What it did.
        reason: String,
    },
    /// The site's own certificates.
    #[error("the site's certificates: {0}")]
    Identity(#[from] mainstay_identity::StoreError),
    /// A release could not be made.
    #[error("app {app}: {reason}")]
    Release {
        /// The app.
        app: String,
        /// Why.
        reason: String,
    },
    /// Somebody else works on this site.
    #[error("another `mainstay` is working on the site {site}; wait for it to end (lock: {})", path.display())]
    Locked {
        /// The site.
        site: String,
        /// The lock.
        path: PathBuf,
    },
    /// No lab here fits what was asked for.
    #[error("{0}")]
    NoSite(String),
}

/// Shortens `map_err` for files.
pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

/// Shortens `map_err` for hosts.
pub(crate) fn host(name: &str, reason: impl Display) -> Error {
    Error::Host { host: name.to_owned(), reason: reason.to_string() }
}
