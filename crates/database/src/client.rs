//! Talking to the server over its Unix socket as root, through its own command-line client: it splits statements and
//! follows `DELIMITER` exactly as people who write schema files expect.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::{Error, Place, find};

/// How long a server that restarts is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A way to run statements.
#[derive(Debug)]
pub struct Client {
    program: PathBuf,
    socket: PathBuf,
}

impl Client {
    /// A client of the instance at `place`.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] without the client program.
    pub fn new(place: &Place) -> Result<Self, Error> {
        let program = find("mariadb")
            .or_else(|| find("mysql"))
            .ok_or(Error::NotInstalled { program: "mariadb", package: "mariadb-client-core" })?;
        Ok(Self { program, socket: place.socket() })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs statements and returns their rows, columns separated by tabs.
    ///
    /// # Errors
    /// [`Error::Statement`] with the server's words.
    pub fn run(&self, what: &str, statements: &str) -> Result<Vec<String>, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.once(None, what, |command| {
                let mut child = command.stdin(Stdio::piped()).spawn()?;
                if let Some(mut stdin) = child.stdin.take() {
                    // If the client is gone already, its exit code and words tell more than the broken pipe.
                    let _ = stdin.write_all(statements.as_bytes());
                }
                child.wait_with_output()
            })?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect());
            }
            let reason = words(&output);
            // 2002 and 2003: nobody listens yet. Nothing was sent, so the same may be tried again.
            let unreachable = reason.contains("ERROR 2002") || reason.contains("ERROR 2003");
            if !unreachable || Instant::now() >= deadline {
                return Err(Error::Statement { what: what.to_owned(), reason });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Runs a file of statements in a database, up to the first that fails.
    pub(crate) fn run_file(&self, database: &str, path: &Path) -> Result<(), Error> {
        let what = format!("the schema file {}", path.display());
        let input = File::open(path).map_err(crate::error::file("open", path))?;
        let output = self.once(Some(database), &what, |command| command.stdin(input).output())?;
        if output.status.success() { Ok(()) } else { Err(Error::Statement { what, reason: words(&output) }) }
    }

    fn once(
        &self,
        database: Option<&str>,
        what: &str,
        run: impl FnOnce(&mut Command) -> std::io::Result<Output>,
    ) -> Result<Output, Error> {
        let mut command = Command::new(&self.program);
        command
            .arg("--no-defaults")
            .arg(format!("--socket={}", self.socket.display()))
            .args(["--user=root", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"])
            .args(database)
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        run(&mut command)
            .map_err(|error| Error::Statement { what: what.to_owned(), reason: error.to_string() })
    }
}

fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    if text.trim().is_empty() { output.status.to_string() } else { text.trim().to_owned() }
}

/// A text as an SQL string literal.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name as an SQL identifier.
pub(crate) fn named(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
