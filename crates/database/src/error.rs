//! What keeps a database from being prepared or provisioned.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a database is not as it should be.
#[derive(Debug, Error)]
pub enum Error {
    /// A program is not installed.
    #[error("{program} is not installed; install it with `apt-get install {package}`")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
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
    /// Making the data folder failed.
    #[error("the data folder cannot be made; the server program said:\n{output}")]
    Initialise {
        /// Its last lines.
        output: String,
    },
    /// The server refused a statement, or did not answer.
    #[error("the database refused {what}: {reason}")]
    Statement {
        /// What was to be done.
        what: String,
        /// Its own words.
        reason: String,
    },
    /// A schema file is not what was applied before.
    #[error(
        "the schema file {file} of {app} was changed after it was applied; put it back as it was, and write the \
         change into a new file with a later name"
    )]
    SchemaChanged {
        /// The app.
        app: String,
        /// The file.
        file: String,
    },
    /// A schema file was begun and never finished.
    #[error(
        "the schema file {file} of {app} was interrupted when it was applied; look at what it did (`mainstay exec SERVER -- \
         mariadb --socket {}`), mend it, and then tell: UPDATE mainstay.schema_files SET state='applied' (or DELETE the row to \
         have it applied again) WHERE app='{app}' AND file='{file}'",
        socket.display()
    )]
    SchemaInterrupted {
        /// The app.
        app: String,
        /// The file.
        file: String,
        /// The server's socket.
        socket: PathBuf,
    },
}

/// Shortens `map_err`.
pub(crate) fn file(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}
