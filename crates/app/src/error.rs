//! What keeps an app from being run or released.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an app cannot be run, or a release cannot be made.
#[derive(Debug, Error)]
pub enum Error {
    /// A secret that the plan names is not on this server.
    #[error("the secret `{name}` cannot be read from {}: {source}; `mainstay up` delivers it", path.display())]
    Secret {
        /// The secret.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program that runs the app is not installed.
    #[error("{program} is not installed; install it with `apt-get install {package}`")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// A file of the code base or the release.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link that leads out of the code base.
    #[error(
        "{} links to {}, outside the code base; put the file itself there, or set `follow_links = true`",
        path.display(),
        target.display()
    )]
    LinkLeadsOut {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A code base that is too large to be one.
    #[error("the code base has more than {limit} {unit}; is `code` the right folder?")]
    TooLarge {
        /// The bound.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// Something in the code base that is neither file, folder nor link.
    #[error("{} is neither a file nor a folder", path.display())]
    OddFile {
        /// The file.
        path: PathBuf,
    },
    /// The virtual environment could not be made.
    #[error("the virtual environment cannot be made; `{command}` said:\n{output}")]
    Environment {
        /// What was run.
        command: String,
        /// Its last lines.
        output: String,
    },
}

/// Shortens `map_err`.
pub(crate) fn file(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}
