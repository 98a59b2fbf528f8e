//! The life of an agent, from its first line to its last.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_process::cgroup::Cgroups;
use mainstay_process::fdstore::Notifier;
use mainstay_process::launch::Launcher;
use mainstay_process::logs::Rotation;
use mainstay_process::{
    FilesError, FolderSpec, InheritedError, Setup, Supervisor, inherited_descriptors, make_folder,
};
use mainstay_site::{Plan, ServerName, paths};
use rustix::fs::{FlockOperation, Mode, OFlags};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet};

use crate::apply::{Applier, stop_all};
use crate::control::{self, Request, Shared};
use crate::server_roles::OWN_ROLES;
use crate::{health, log};

/// Requests that wait while one is being begun.
const REQUESTS: usize = 16;
/// The group below the agent's own that holds all roles.
const CGROUP: &str = "roles";

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The server that it runs.
    pub server: ServerName,
    /// The plan file; without it [`paths::plan_file`].
    pub plan: Option<PathBuf>,
}

/// Why an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All roles were stopped in order, as asked by `POST /v1/stop` or SIGTERM.
    Stopped,
    /// By SIGHUP: the roles run on, and whoever started the agent is to start the next one.
    Left,
}

impl Ended {
    /// The exit code: 0 when stopped; 75 ("try again") when a successor is to be started.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Left => 75,
        }
    }
}

/// Why an agent cannot begin.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The plan cannot be read.
    #[error("the plan {path} cannot be read: {source}")]
    ReadPlan {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The plan is none.
    #[error(
        "the plan {path} is not one of this version: {source}; make it anew with `mainstay plan SITE --json`"
    )]
    ParsePlan {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The plan is another server's.
    #[error("the plan {path} is for the server {found}, and this is {expected}")]
    OtherServer {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: ServerName,
        /// Who this is.
        expected: ServerName,
    },
    /// A folder cannot be made.
    #[error(transparent)]
    Folder(#[from] FilesError),
    /// Another agent runs.
    #[error("another agent runs on this server already; it answers on {}", paths::agent_socket().display())]
    AlreadyRunning,
    /// Descriptors that were promised are not there.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The supervisor cannot begin.
    #[error(transparent)]
    Supervisor(#[from] mainstay_process::Error),
    /// Something that the agent itself needs cannot be had.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::System { what, source }
}

/// Runs one server until it is stopped or left to a successor.
pub fn run(options: AgentOptions) -> Result<Ended, AgentError> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Before anything else is opened: these numbers are taken already.
    let kept = inherited_descriptors()?;
    for (path, mode) in [(paths::RUN, 0o755), (paths::LIB, 0o755), (paths::LOG, 0o755)] {
        make_folder(&root_folder(Path::new(path), mode))?;
    }
    let own = paths::role_run("agent");
    make_folder(&root_folder(&own, 0o700))?;
    let _lock = lock(&own.join("lock"))?;
    log::begin(options.server.as_str());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("the runtime cannot be started"))?;
    LocalSet::new().block_on(&runtime, live(options, kept))
}

fn root_folder(path: &Path, mode: u32) -> FolderSpec {
    FolderSpec { path: path.to_owned(), user: "root".to_owned(), group: "root".to_owned(), mode }
}

/// Held for as long as the agent lives; the kernel lets go of it however that ends.
fn lock(path: &Path) -> Result<OwnedFd, AgentError> {
    let what = "the agent's lock cannot be taken";
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map_err(|error| failed(what)(error.into()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(AgentError::AlreadyRunning),
        Err(error) => Err(failed(what)(error.into())),
    }
}

async fn live(options: AgentOptions, kept: Vec<(String, OwnedFd)>) -> Result<Ended, AgentError> {
    let plan_file = options.plan.unwrap_or_else(paths::plan_file);
    let plan = read_plan(&plan_file, &options.server)?;
    let cgroups = match Cgroups::discover(CGROUP) {
        Ok(cgroups) => Some(cgroups),
        Err(reason) => {
            tracing::warn!(%reason, "roles run without limits and without a count of what they use");
            None
        }
    };
    let notifier = || Notifier::from_environment().map_err(failed("NOTIFY_SOCKET cannot be used"));
    let supervisor = Supervisor::begin(Setup {
        launcher: Launcher::this_binary(),
        records: paths::role_run("agent").join("children"),
        logs: PathBuf::from(paths::LOG),
        rotation: Rotation::default(),
        server: options.server.to_string(),
        cgroups: cgroups.clone(),
        kept,
        notifier: notifier()?,
    })?;
    let supervisor = Arc::new(supervisor);
    let shared = Arc::new(Shared::new(options.server, supervisor.clone(), cgroups));
    let (requests, mut inbox) = mpsc::channel(REQUESTS);
    let control =
        control::begin(&shared, &requests).map_err(failed("the control socket cannot be opened"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("SIGTERM cannot be awaited"))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed("SIGHUP cannot be awaited"))?;
    let watching = tokio::task::spawn_local(health::watch(supervisor.clone(), &OWN_ROLES)).abort_handle();
    tracing::info!(
        plan = plan.revision,
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "the agent begins"
    );

    let applier = Applier::new(shared.clone());
    let mut applying = applier.begin(plan);
    if let Some(notifier) = notifier()?
        && let Err(error) = notifier.notify("READY=1")
    {
        tracing::warn!(%error, "the service manager cannot be told that the agent is ready");
    }
    let ended = loop {
        tokio::select! {
            Some(request) = inbox.recv() => match request {
                Request::Stop => break Ended::Stopped,
                Request::Apply => match read_plan(&plan_file, &shared.server) {
                    Ok(plan) => {
                        applying.abort();
                        applying = applier.begin(plan);
                    }
                    Err(error) => shared.problem(error.to_string()),
                },
            },
            _ = terminate.recv() => break Ended::Stopped,
            _ = hang_up.recv() => break Ended::Left,
        }
    };
    end(ended, &shared, [applying, watching]).await;
    drop(control);
    Ok(ended)
}

async fn end(ended: Ended, shared: &Shared, tasks: [AbortHandle; 2]) {
    tracing::info!(?ended, "the agent ends");
    for task in tasks {
        task.abort();
    }
    if ended == Ended::Stopped {
        shared.end();
        stop_all(&shared.supervisor).await;
        if let Err(error) = shared.supervisor.release_sockets_but(Vec::new()).await {
            tracing::warn!(%error, "listening sockets stay open");
        }
    }
    shared.supervisor.leave().await;
}

fn read_plan(path: &Path, server: &ServerName) -> Result<Plan, AgentError> {
    let text =
        std::fs::read(path).map_err(|source| AgentError::ReadPlan { path: path.to_owned(), source })?;
    let plan: Plan = serde_json::from_slice(&text)
        .map_err(|source| AgentError::ParsePlan { path: path.to_owned(), source })?;
    if plan.server != *server {
        let (path, expected) = (path.to_owned(), server.clone());
        return Err(AgentError::OtherServer { path, found: plan.server, expected });
    }
    Ok(plan)
}
