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
            let reason = match self.answer(what, statements)? {
                Ok(rows) => return Ok(rows),
                Err(reason) => reason,
            };
            if !was_never_sent(&reason) || Instant::now() >= deadline {
                return Err(Error::Statement { what: what.to_owned(), reason });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Runs statements if the server answers right now.
    pub(crate) fn run_now(&self, what: &str, statements: &str) -> Result<Vec<String>, Error> {
        self.answer(what, statements)?.map_err(|reason| Error::Statement { what: what.to_owned(), reason })
    }

    /// The rows, or the words with which the server refused.
    fn answer(&self, what: &str, statements: &str) -> Result<Result<Vec<String>, String>, Error> {
        let output = self.once(None, what, |command| {
            let mut child = command.stdin(Stdio::piped()).spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // If the client is gone already, its exit code and words tell more than the broken pipe.
                let _ = stdin.write_all(statements.as_bytes());
            }
            child.wait_with_output()
        })?;
        if output.status.success() {
            return Ok(Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()));
        }
        Ok(Err(words(&output)))
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

/// Whether the connection failed before any statement was sent, so that the same may be tried again: nobody listens yet
/// (2002, 2003), or the server went away before it greeted (2013 with these words).
fn was_never_sent(reason: &str) -> bool {
    ["ERROR 2002", "ERROR 2003", "reading initial communication packet"]
        .iter()
        .any(|words| reason.contains(words))
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

/// A database's name as GRANT wants it: there, `_` and `%` stand for any character unless they are escaped.
pub(crate) fn named_in_grant(name: &str) -> String {
    named(&name.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_on_one_database_never_reach_one_of_a_similar_name() {
        assert_eq!(named_in_grant("guest_book"), "`guest\\_book`");
        assert_eq!(named("odd`name"), "`odd``name`");
        assert_eq!(quoted("it's \\ odd"), "'it''s \\\\ odd'");
    }

    #[test]
    fn only_what_was_never_sent_is_tried_again() {
        assert!(was_never_sent("ERROR 2002 (HY000): Can't connect to local server through socket"));
        assert!(!was_never_sent("ERROR 2013 (HY000) at line 1: Lost connection to server during query"));
        assert!(!was_never_sent("ERROR 1064 (42000) at line 1: You have an error in your SQL syntax"));
    }
}
