//! The role's process: sockets, workers, admin socket, and how it ends.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::HeaderValue;
use mainstay_http::admin::{self, AdminSocket, Router};
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::networks::Networks;
use mainstay_http::settings::{Limits, Timeouts};
use mainstay_http::{Listener, Phase, Server as Engine, Settings, Shutdown};
use mainstay_process::sockets::{SocketError, Sockets};
use mainstay_process::{InheritedError, InheritedSocket, SocketSpec, inherited_sockets};
use mainstay_site::plan::{WebLimits, WebPlan};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::metrics::Metrics;
use crate::service::Web;
use crate::site::{self, Site};
use mainstay_http::access_log::{self, AccessLog, Writer};
use mainstay_http::request_id::{self, RequestIds};

/// Time for requests to end once the role is asked to stop; less than the agent waits before it kills. What left HTTP
/// has the time that the plan says.
const DRAIN: Duration = Duration::from_secs(35);
/// Mode of the admin socket: the role's own user and group, and root.
const ADMIN_MODE: u32 = 0o660;

/// What the role is to do, as the agent writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The role's part of the server's plan.
    pub plan: WebPlan,
    /// The role's run folder; the admin socket is made in it.
    pub run: PathBuf,
    /// The folder of logs; the access log is `web/access.log` in it.
    pub log: PathBuf,
}

/// Why the role cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// The sockets that were handed over cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] SocketError),
    /// A UDP socket was handed over.
    #[error("the UDP socket {0} was handed over, but HTTP is served on TCP and Unix sockets only")]
    ForeignSocket(SocketAddr),
    /// Neither the plan nor the agent names an address.
    #[error("there is no address to listen on")]
    NoAddress,
    /// The operating system refused a socket, thread or signal.
    #[error("the operating system refused: {0}")]
    System(#[source] io::Error),
    /// A network that is to be believed is none.
    #[error("the plan's trusted_proxies: {0}")]
    Networks(String),
    /// There is no randomness for request ids.
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The admin socket cannot be made.
    #[error("the admin socket {path} cannot be made: {source}")]
    Admin {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Runs the role until it is asked to stop (SIGTERM or SIGINT) and has drained. A second signal ends it at once.
pub fn run(config: &Config) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::System)?;
    // Signals are listened for before anyone can learn that the role runs.
    let (mut terminate, mut interrupt) = runtime
        .block_on(async { Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)) })
        .map_err(Error::System)?;
    raise_descriptor_limit(&config.plan.limits);
    let server = Server::start(config, listeners(&config.plan.listen)?)?;
    let shutdown = server.shutdown().clone();
    let (ended, mut end) = tokio::sync::oneshot::channel();
    let waiter = std::thread::spawn(move || {
        let result = server.join();
        // Nobody waits for it any more if a second signal came.
        let _ = ended.send(());
        result
    });
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = shutdown.reached(Phase::Draining) => {}
        }
        tracing::info!("draining");
        shutdown.drain();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = &mut end => {}
        }
        shutdown.end();
    });
    waiter.join().unwrap_or_else(|_| Err(Error::System(io::Error::other("a thread panicked"))))
}

/// A running web server.
pub struct Server {
    engine: Engine,
    shutdown: Shutdown,
    writer: Writer,
    _admin: AdminSocket,
}

impl Server {
    /// Starts one worker for each element of `listeners`.
    pub fn start(config: &Config, listeners: Vec<Vec<Listener>>) -> Result<Self, Error> {
        let plan = config.plan.clone();
        let shutdown = Shutdown::new();
        let registry = Registry::default();
        let writer = access_log::start(log_file(config)).map_err(Error::System)?;
        let seeds = (0..listeners.len()).map(|_| request_id::seed()).collect::<Result<Vec<_>, _>>()?;
        let workers = listeners.len();
        let permits = site::permits(&plan);
        let trusted = Networks::parse(&plan.trusted_proxies).map_err(Error::Networks)?;
        let (queue, stop, series) = (writer.queue.clone(), shutdown.clone(), registry.clone());
        let engine = Engine::start(
            listeners,
            &settings(&plan.limits, Duration::from_millis(plan.drain_ms)),
            &EngineMetrics::new(&registry),
            &shutdown,
            move |worker| {
                let metrics = Metrics::new(&series);
                let site = Rc::new(Site::new(&plan, &permits, &metrics));
                tokio::task::spawn_local(give_up_pools(Rc::downgrade(&site), stop.clone()));
                Web {
                    site,
                    log: AccessLog::new(queue.clone(), metrics.log_dropped.clone()),
                    metrics,
                    ids: RequestIds::from_seed(seeds[worker.0]),
                    server: HeaderValue::from_str(plan.server.as_str())
                        .unwrap_or(HeaderValue::from_static("unknown")),
                    compress: plan.compress,
                    listen: plan.listen.first().copied(),
                    trusted: trusted.clone(),
                }
            },
        )
        .map_err(Error::System)?;
        let path = config.run.join("admin.sock");
        let health = shutdown.clone();
        let router = Router::new()
            .health(move || match health.phase() {
                Phase::Running => Ok(()),
                Phase::Draining | Phase::Ended => Err("the role is stopping".to_owned()),
            })
            .metrics(&registry);
        let admin = admin::serve(&path, ADMIN_MODE, router).map_err(|source| {
            shutdown.end();
            Error::Admin { path, source }
        })?;
        tracing::info!(workers, routes = config.plan.routes.len(), listen = ?config.plan.listen, "answering");
        Ok(Self { engine, shutdown, writer, _admin: admin })
    }

    /// The signal that stops it.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Waits until all workers have ended, which they do when the signal was given. Blocks the thread.
    pub fn join(self) -> Result<(), Error> {
        let ended = self.engine.join().map_err(Error::System);
        self.writer.join();
        ended
    }
}

/// The sockets of each worker: those that the agent handed over, or, started by hand, our own. Every socket is some
/// worker's: a share that nobody serves would swallow its part of the connections.
fn listeners(listen: &[SocketAddr]) -> Result<Vec<Vec<Listener>>, Error> {
    let inherited = inherited_sockets()?;
    let sockets = if inherited.is_empty() { own(listen)? } else { inherited };
    let mut workers: Vec<Vec<Listener>> = Vec::new();
    let mut next: HashMap<SocketAddr, usize> = HashMap::new();
    let mut unix = Vec::new();
    for socket in sockets {
        match socket {
            InheritedSocket::Tcp { address, listener } => {
                let index = next.entry(address).or_default();
                if workers.len() == *index {
                    workers.push(Vec::new());
                }
                workers[*index].push(Listener::Tcp(listener));
                *index += 1;
            }
            InheritedSocket::Unix { listener, .. } => unix.push(listener),
            InheritedSocket::Udp { address, .. } => return Err(Error::ForeignSocket(address)),
        }
    }
    if workers.is_empty() && !unix.is_empty() {
        workers.push(Vec::new());
    }
    for listener in unix {
        for worker in &mut workers {
            worker.push(Listener::Unix(listener.try_clone().map_err(Error::System)?));
        }
    }
    if workers.is_empty() { Err(Error::NoAddress) } else { Ok(workers) }
}

fn own(listen: &[SocketAddr]) -> Result<Vec<InheritedSocket>, Error> {
    let shares = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64)) as u16;
    let mut sockets = Sockets::default();
    let mut opened = Vec::new();
    for address in listen.iter().copied() {
        let spec = SocketSpec::Tcp { address, shares };
        sockets.open(&spec)?;
        for (_, descriptor) in sockets.of(std::slice::from_ref(&spec))? {
            let descriptor = descriptor.try_clone_to_owned().map_err(Error::System)?;
            let listener = TcpListener::from(descriptor);
            listener.set_nonblocking(true).map_err(Error::System)?;
            opened.push(InheritedSocket::Tcp { address, listener });
        }
    }
    Ok(opened)
}

/// A connection takes a descriptor, one to an app takes another, and so do large files.
fn raise_descriptor_limit(limits: &WebLimits) {
    let wanted = u64::from(limits.connections) * 2 + 8192;
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

/// A draining worker keeps no connection that the role's next process could use.
async fn give_up_pools(site: Weak<Site>, shutdown: Shutdown) {
    shutdown.reached(Phase::Draining).await;
    if let Some(site) = site.upgrade() {
        site.close_pools();
    }
}

/// `LOG/web/access.log`. The agent makes the folder for the role's user; who runs the role by hand may write to it too.
fn log_file(config: &Config) -> PathBuf {
    let folder = config.log.join("web");
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::warn!(path = %folder.display(), %error, "the access log's folder cannot be made");
    }
    folder.join("access.log")
}

fn settings(limits: &WebLimits, drain_tunnels: Duration) -> Settings {
    let seconds = |count: u32| Duration::from_secs(u64::from(count));
    Settings {
        limits: Limits {
            connections: limits.connections as usize,
            head_bytes: limits.head.bytes() as usize,
            target_bytes: limits.head.bytes() as usize,
            headers: usize::from(limits.headers),
            body_bytes: limits.body.bytes(),
            ..Limits::default()
        },
        timeouts: Timeouts {
            head: seconds(limits.head_timeout_secs),
            body: seconds(limits.body_timeout_secs),
            idle: seconds(limits.idle_timeout_secs),
            drain: DRAIN,
            drain_tunnels: Some(drain_tunnels),
            ..Timeouts::default()
        },
        ..Settings::default()
    }
}
