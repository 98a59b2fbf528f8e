//! The process: started with a role, watched until it answers, killed when that is the only honest way to close it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mainstay_process::procfs::Identity;
use mainstay_process::watch;
use rustix::process::{Signal, pidfd_send_signal};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::error::ActionError;
use super::session::{Session, SqlError};
use super::settings::{Role, arguments};

/// Between two attempts to reach a server that starts.
const PAUSE: Duration = Duration::from_millis(10);
/// How much of the end of a log of errors is looked at.
const LOG_BYTES: u64 = 256 * 1024;
/// A log of errors that is longer is put aside before the next start.
const LONGEST_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// Lines of the log that an unknown failure shows.
const SHOWN_LINES: usize = 15;
/// For the first exchange with a server that greets.
const ANSWER: Duration = Duration::from_secs(2);

/// What is needed to start a server.
#[derive(Debug, Clone)]
pub struct Start {
    /// The server program.
    pub program: PathBuf,
    /// The configuration file.
    pub file: PathBuf,
    /// The log of errors, which it appends to.
    pub error_log: PathBuf,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The database's user that this process logs in as: its own Unix user.
    pub user: String,
    /// The Unix user to become, if this process is root.
    pub become_user: Option<String>,
    /// Whether it is killed when the thread that starts it ends: nobody is to serve without a keeper.
    pub dies_with_keeper: bool,
}

/// Where a server that was started writes what it says.
#[derive(Debug, Clone)]
pub struct Begun {
    log: PathBuf,
    from: u64,
}

impl Begun {
    /// Why it ended, or does not answer, in its own words.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn failure(&self) -> io::Result<Failure> {
        Ok(Failure::of(&end_of(&self.log, self.from)?))
    }
}

/// A running server. Dropping this does not stop it: it outlives its keeper, and the next one adopts it.
#[derive(Debug)]
pub struct Server {
    identity: Identity,
    handle: AsyncFd<OwnedFd>,
    /// Where it is ours to reap.
    child: Option<Child>,
}

/// Why a server did not come up.
#[derive(Debug, Error)]
pub enum StartError {
    /// The program cannot be run, or its log not be written.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody listens on its socket: a server that is to be adopted rather than started a second time.
    #[error("a server is there already, on {}", .0.display())]
    Running(PathBuf),
    /// It ended.
    #[error("the database ended as it started: {failure}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// Why, in its own words.
        failure: Failure,
    },
    /// It runs and does not answer yet: recovery may go on, or it waits for data that another process holds. The process
    /// is handed back.
    #[error("the database does not answer after {} s; its log says: {so_far}", after.as_secs())]
    NotYet {
        /// How long it was waited for.
        after: Duration,
        /// What its log says up to now.
        so_far: Failure,
        /// The process.
        server: Box<Server>,
    },
    /// It runs and refuses its keeper.
    #[error(transparent)]
    Refused(#[from] ActionError),
}

/// Ways to fail that call for different answers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// A definition, or another write that cannot be rolled back, was not acknowledged. The server must be seeded anew.
    #[error("it holds a write that was never acknowledged and cannot be cut off: {0}")]
    CannotTruncate(String),
    /// Another process has the data folder.
    #[error("another process holds the data: {0}")]
    DataHeld(String),
    /// Its port or socket is taken.
    #[error("its address is taken: {0}")]
    AddressTaken(String),
    /// The disk is full.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// A setting is not known or not possible.
    #[error("its settings are refused: {0}")]
    Settings(String),
    /// The data are damaged. The server must be seeded anew.
    #[error("its data are damaged: {0}")]
    Damaged(String),
    /// Something else, or a kill; its last words.
    #[error("for a reason that is not known:\n{0}")]
    Other(String),
}

impl Failure {
    /// Whether no further start can help, and new data are needed.
    pub fn needs_seeding(&self) -> bool {
        matches!(self, Self::CannotTruncate(_) | Self::Damaged(_))
    }

    /// What the lines that a failed start wrote tell.
    pub fn of(log: &str) -> Self {
        type Kind = fn(String) -> Failure;
        // In the order of how much a line explains: others follow from it.
        let known: [(&[&str], Kind); 6] = [
            (
                &["Cannot truncate the binary log", "unsafe statement", "binlog truncation that contains"],
                Self::CannotTruncate,
            ),
            (&["No space left on device", "errno: 28", "Errcode: 28", "Disk is full"], Self::DiskFull),
            (
                &["Unable to lock ./ibdata1", "Can't lock aria control file", "Can't lock the pid file"],
                Self::DataHeld,
            ),
            (
                &["Can't start server: Bind on", "Address already in use", "Do you already have another"],
                Self::AddressTaken,
            ),
            (
                &[
                    "unknown variable",
                    "unknown option",
                    "Failed to setup SSL",
                    "Failed to set up SSL",
                    "ambiguous option",
                ],
                Self::Settings,
            ),
            (
                &[
                    "Database page corruption",
                    "is corrupted",
                    "Missing FILE_CHECKPOINT",
                    "Corrupted",
                    "InnoDB: Plugin initialization aborted",
                ],
                Self::Damaged,
            ),
        ];
        for (marks, kind) in known {
            let line = log
                .lines()
                .find(|line| line.contains("[ERROR]") && marks.iter().any(|mark| line.contains(mark)));
            if let Some(line) = line {
                return kind(line.chars().take(1000).collect());
            }
        }
        let lines: Vec<&str> = log.lines().collect();
        Self::Other(lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n"))
    }
}

impl Start {
    /// Starts the server and waits until it answers. The role is the word that decides about writes without an
    /// acknowledgement, so there is no start without one.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(&self, role: Role, within: Duration) -> Result<(Server, Session), StartError> {
        let spawn = |source| StartError::Spawn { program: self.program.clone(), source };
        let (mut server, begun) = self.spawn(role, None).await?;
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = server.ended_already().map_err(spawn)? {
                return Err(StartError::Ended { status, failure: begun.failure().map_err(spawn)? });
            }
            match Session::connect(&self.socket, &self.user, ANSWER).await {
                Ok(session) => return Ok((server, session)),
                Err(error @ SqlError::Refused { .. }) => return Err(StartError::Refused(error.into())),
                Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
                Err(_) => {
                    let so_far = begun.failure().map_err(spawn)?;
                    return Err(StartError::NotYet { after: within, so_far, server: Box::new(server) });
                }
            }
        }
    }

    /// Starts the server and does not wait for it. `server_id` is its number in what it writes; without it, the one of its file.
    ///
    /// # Errors
    /// [`StartError::Spawn`].
    pub async fn spawn(&self, role: Role, server_id: Option<u32>) -> Result<(Server, Begun), StartError> {
        let spawn = |source| StartError::Spawn { program: self.program.clone(), source };
        let begun = Begun { log: self.error_log.clone(), from: self.begin_log().map_err(spawn)? };
        if std::os::unix::net::UnixStream::connect(&self.socket).is_ok() {
            return Err(StartError::Running(self.socket.clone()));
        }
        // One that was killed leaves its socket, on which nobody would answer.
        match std::fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(spawn(error)),
            _ => {}
        }
        let mut command = if self.dies_with_keeper {
            // The kernel kills it then, whatever becomes of the keeper.
            let mut command = Command::new("/usr/bin/setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.args(arguments(&self.file, role, &self.error_log));
        if let Some(server_id) = server_id {
            command.arg(format!("--server-id={server_id}"));
        }
        if let Some(user) = &self.become_user {
            command.arg(format!("--user={user}"));
        }
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to its keeper's terminal or group is not for it.
            .process_group(0);
        let server = Server::begin(command.spawn().map_err(spawn)?).await.map_err(spawn)?;
        Ok((server, begun))
    }

    /// Puts a long log aside, and returns where the next start's lines begin.
    fn begin_log(&self) -> io::Result<u64> {
        match std::fs::metadata(&self.error_log) {
            Ok(log) if log.len() > LONGEST_LOG_BYTES => {
                std::fs::rename(&self.error_log, self.error_log.with_extension("log.1"))?;
                Ok(0)
            }
            Ok(log) => Ok(log.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }
}

impl Server {
    /// A process that was just started. One that cannot be watched is killed: nothing runs unwatched.
    async fn begin(mut child: Child) -> io::Result<Self> {
        let begin = |child: &Child| {
            let pid = child.id().ok_or_else(|| io::Error::other("it was gone at once"))?;
            // It is not reaped yet, so its number is its own even if it has ended.
            let identity = Identity::of(pid.cast_signed())?;
            let pid = rustix::process::Pid::from_raw(identity.pid).ok_or(io::ErrorKind::InvalidInput)?;
            let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
            Ok((identity, watch(handle)?))
        };
        match begin(&child) {
            Ok((identity, handle)) => Ok(Self { identity, handle, child: Some(child) }),
            Err(error) => {
                // If killing fails too, it has ended by itself.
                let _ = child.kill().await;
                Err(error)
            }
        }
    }

    /// A server that an earlier keeper started; none if it has ended.
    ///
    /// # Errors
    /// As the system says.
    pub fn adopt(identity: Identity) -> io::Result<Option<Self>> {
        let Some(handle) = identity.open()? else { return Ok(None) };
        Ok(Some(Self { identity, handle: watch(handle)?, child: None }))
    }

    /// What the next keeper needs to adopt it.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    fn ended_already(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// Waits until it ended. How is only known of one that was started here.
    ///
    /// # Errors
    /// As the system says.
    pub async fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.wait().await.map(Some),
            None => self.handle.readable().await.map(|_| None),
        }
    }

    /// Kills it: the one way to close a primary with transactions that wait for an acknowledgement without
    /// committing them. It returns when the process is gone, frozen or not before.
    ///
    /// # Errors
    /// As the system says.
    pub async fn kill(&mut self) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::KILL)?;
        self.ended().await
    }

    /// Stops it in an orderly way, and kills it if that lasts longer than `grace`. Only for one that has no waiters: a
    /// shutdown commits what waits.
    ///
    /// # Errors
    /// As the system says.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(grace, self.ended()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.handle.get_ref(), signal) {
            // It has ended already.
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }
}

fn end_of(log: &Path, from: u64) -> io::Result<String> {
    let mut file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_BYTES))))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_explains_a_failure_is_found_among_those_that_follow_from_it() {
        let log = "2026-01-01 0:00:00 0 [Note] InnoDB: Starting\n\
            2026-01-01 0:00:00 0 [ERROR] Cannot truncate the binary log to file: ./binlog.000002 pos: 700\n\
            2026-01-01 0:00:00 0 [ERROR] Aborting\n";
        assert!(matches!(Failure::of(log), Failure::CannotTruncate(_)));
        assert!(Failure::of(log).needs_seeding());
        let log = "0 [ERROR] Can't start server: Bind on TCP/IP port. Got error: 98: Address already in use";
        assert!(matches!(Failure::of(log), Failure::AddressTaken(_)));
        assert!(matches!(Failure::of("the machine was struck"), Failure::Other(_)));
    }
}
