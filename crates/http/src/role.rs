//! What the process of every role does around its workers: it hears signals, answers on its admin socket, finds its access
//! log, and asks for as many open files as it needs.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, AdminSocket, Router};
use crate::metrics::Registry;
use crate::{Phase, Shutdown};

/// Mode of the admin socket: the role's own user and group, and root.
const ADMIN_MODE: u32 = 0o660;
/// Open files beside those of connections: of logs, cached files and the program itself.
const OTHER_FILES: u64 = 8192;

/// The admin socket cannot be made.
#[derive(Debug, Error)]
#[error("the admin socket {path} cannot be made: {source}")]
pub struct AdminError {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The main thread of a role's process, which hears signals while other threads answer.
#[derive(Debug)]
pub struct Main {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Main {
    /// Signals are heard from now on: call it before anyone can learn that the role runs.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(entered);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Hears SIGHUP too.
    pub fn hang_up(&self) -> io::Result<Signal> {
        let _entered = self.runtime.enter();
        signal(SignalKind::hangup())
    }

    /// Runs a task beside [`run`](Self::run), and no longer than that.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Asks the workers to drain at the first SIGTERM or SIGINT, and to end at the second. Returns what `join` does, which
    /// is to wait for them.
    pub fn run<T: Send + 'static>(
        mut self,
        shutdown: &Shutdown,
        join: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (ended, mut end) = tokio::sync::oneshot::channel();
        let waiter = std::thread::spawn(move || {
            let result = join();
            // Nobody waits for it any more if a second signal came.
            let _ = ended.send(());
            result
        });
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                () = shutdown.reached(Phase::Draining) => {}
            }
            tracing::info!("draining");
            shutdown.drain();
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = &mut end => {}
            }
            shutdown.end();
        });
        waiter.join().map_err(|_| io::Error::other("a thread panicked"))
    }
}

/// Answers for `/health`, which is well until the role is asked to stop, and `/metrics`.
pub fn routes(registry: &Registry, shutdown: &Shutdown) -> Router {
    let shutdown = shutdown.clone();
    Router::new()
        .health(move || match shutdown.phase() {
            Phase::Running => Ok(()),
            Phase::Draining | Phase::Ended => Err("the role is stopping".to_owned()),
        })
        .metrics(registry)
}

/// Serves the admin socket in the role's run folder. Where that fails, the role ends.
pub fn serve_admin(run: &Path, router: Router, shutdown: &Shutdown) -> Result<AdminSocket, AdminError> {
    let path = run.join("admin.sock");
    admin::serve(&path, ADMIN_MODE, router).map_err(|source| {
        shutdown.end();
        AdminError { path, source }
    })
}

/// `LOG/ROLE/access.log`. The agent makes the folder for the role's user; who runs the role by hand may write to it too.
pub fn access_log(log: &Path, role: &str) -> PathBuf {
    let folder = log.join(role);
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::warn!(path = %folder.display(), %error, "the access log's folder cannot be made");
    }
    folder.join("access.log")
}

/// Asks for as many open files as so many connections need: each takes one, and one more to an app or an upstream.
pub fn raise_descriptor_limit(connections: u32) {
    let wanted = u64::from(connections) * 2 + OTHER_FILES;
    let now = getrlimit(Resource::Nofile);
    let raised = now.maximum.map_or(wanted, |most| most.min(wanted));
    if now.current.is_some_and(|current| current < raised) {
        let limit = Rlimit { current: Some(raised), maximum: now.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, raised, "the limit of open files cannot be raised");
        }
    }
    if raised < wanted {
        tracing::warn!(raised, wanted, "the limit of open files allows fewer connections than the plan");
    }
}
