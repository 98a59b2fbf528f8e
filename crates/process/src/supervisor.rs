//! The supervisor as others see it: a handle to the task that owns all children of a server.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::account::AccountError;
use crate::cgroup::Cgroups;
use crate::driver::Driver;
use crate::fdstore::Notifier;
use crate::files::FilesError;
use crate::launch::Launcher;
use crate::logs::Rotation;
use crate::sockets::SocketError;
use crate::status::ChildStatus;
use crate::supervise::State;
use crate::{ChildSpec, SocketSpec};

/// Commands and events that wait for the supervisor's task; senders wait when it is full.
const QUEUE: usize = 256;

/// What a supervisor needs to begin.
#[derive(Debug)]
pub struct Setup {
    /// How the shim is started.
    pub launcher: Launcher,
    /// The folder of the records of running children.
    pub records: PathBuf,
    /// The folder of the logs.
    pub logs: PathBuf,
    /// How much of each log is kept.
    pub rotation: Rotation,
    /// The server's name, for the logs.
    pub server: String,
    /// Control groups, where there are any.
    pub cgroups: Option<Cgroups>,
    /// Descriptors that an earlier supervisor left with the service manager.
    pub kept: Vec<(String, OwnedFd)>,
    /// Where new descriptors are kept.
    pub notifier: Option<Notifier>,
}

/// Why something cannot be done.
#[derive(Debug, Error)]
pub enum Error {
    /// The records of running children cannot be read.
    #[error("the records of running children in {path} cannot be read: {source}")]
    Records {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A listening socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A child's user does not exist.
    #[error("{name} cannot run: {source}")]
    Account {
        /// The child.
        name: String,
        /// Why.
        source: AccountError,
    },
    /// A folder that a child's sockets lie in cannot be made.
    #[error("{name} cannot run: {source}")]
    Folder {
        /// The child.
        name: String,
        /// Why.
        source: FilesError,
    },
    /// A child's log cannot be made.
    #[error("the log of {name} cannot be made: {source}")]
    Log {
        /// The child.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// There is no such child.
    #[error("there is no role {name} on this server")]
    NoChild {
        /// The name that was asked for.
        name: String,
    },
    /// The supervisor has ended.
    #[error("the supervisor has ended")]
    Ended,
}

/// What [`Supervisor::run`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The child was not there, or stopped.
    Started,
    /// It runs just so.
    Unchanged,
    /// Another generation takes over.
    Replaced,
}

/// What a [`Supervisor`] asks of its task.
pub(crate) enum Command {
    OpenSockets(Vec<SocketSpec>, oneshot::Sender<Result<(), SocketError>>),
    ReleaseSocketsBut(Vec<SocketSpec>),
    Run(Box<ChildSpec>, oneshot::Sender<Result<Change, Error>>),
    Restart(String, oneshot::Sender<Result<(), Error>>),
    Stop(String, bool, oneshot::Sender<()>),
    Status(oneshot::Sender<Vec<ChildStatus>>),
    Leave,
}

/// The children of one server.
#[derive(Debug)]
pub struct Supervisor {
    commands: mpsc::Sender<Command>,
    states: watch::Receiver<BTreeMap<String, State>>,
}

impl Supervisor {
    /// Adopts what an earlier supervisor left running, and begins. To be called on a `LocalSet`.
    pub fn begin(setup: Setup) -> Result<Self, Error> {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (tell, told) = mpsc::channel(QUEUE);
        let (publish, states) = watch::channel(BTreeMap::new());
        let mut driver = Driver::new(setup, tell, publish)?;
        driver.adopt()?;
        driver.publish();
        tokio::task::spawn_local(driver.run(inbox, told));
        Ok(Self { commands, states })
    }

    /// Opens listening sockets that are not open yet.
    pub async fn open_sockets(&self, specs: Vec<SocketSpec>) -> Result<(), Error> {
        Ok(self.ask(|reply| Command::OpenSockets(specs, reply)).await??)
    }

    /// Closes listening sockets that none of these asks for.
    pub async fn release_sockets_but(&self, specs: Vec<SocketSpec>) -> Result<(), Error> {
        self.commands.send(Command::ReleaseSocketsBut(specs)).await.map_err(|_| Error::Ended)
    }

    /// Makes a child run as this spec says. Answers at once; [`Self::states`] tells how it goes.
    pub async fn run(&self, spec: ChildSpec) -> Result<Change, Error> {
        self.ask(|reply| Command::Run(Box::new(spec), reply)).await?
    }

    /// Replaces a child by a new generation of itself.
    pub async fn restart(&self, name: &str) -> Result<(), Error> {
        self.ask(|reply| Command::Restart(name.to_owned(), reply)).await?
    }

    /// Stops a child and waits until all its processes have ended.
    pub async fn stop(&self, name: &str) -> Result<(), Error> {
        self.ask(|reply| Command::Stop(name.to_owned(), false, reply)).await
    }

    /// Stops a child, waits, and forgets it.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.ask(|reply| Command::Stop(name.to_owned(), true, reply)).await
    }

    /// All children.
    pub async fn status(&self) -> Result<Vec<ChildStatus>, Error> {
        self.ask(Command::Status).await
    }

    /// The state of each child, and notice of every change.
    pub fn states(&self) -> watch::Receiver<BTreeMap<String, State>> {
        self.states.clone()
    }

    /// Ends the supervisor and leaves its children running; the next one adopts them.
    pub async fn leave(&self) {
        // An error means that it has ended already.
        let _ = self.commands.send(Command::Leave).await;
        self.commands.closed().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)
    }
}
