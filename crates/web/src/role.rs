//! The role's process: sockets, workers, admin socket, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::HeaderValue;
use mainstay_http::access_log::{self, AccessLog, Writer};
use mainstay_http::admin::AdminSocket;
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::networks::Networks;
use mainstay_http::request_id::{self, RequestIds};
use mainstay_http::role::{self, AdminError};
use mainstay_http::settings::{Limits, Timeouts};
use mainstay_http::{Listener, Phase, Server as Engine, Settings, Shutdown};
use mainstay_process::{InheritedSocket, SocketSpec, WorkerSocketsError, worker_sockets};
use mainstay_site::plan::{WebLimits, WebPlan};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::metrics::Metrics;
use crate::service::Web;
use crate::site::{self, Site};

/// Time for requests to end once the role is asked to stop; less than the agent waits before it kills. What left HTTP
/// has the time that the plan says.
const DRAIN: Duration = Duration::from_secs(35);

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
    /// There are no sockets to serve.
    #[error(transparent)]
    Sockets(#[from] WorkerSocketsError),
    /// A UDP socket was handed over.
    #[error("the UDP socket {0} was handed over, but HTTP is served on TCP and Unix sockets only")]
    ForeignSocket(SocketAddr),
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
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Runs the role until it is asked to stop (SIGTERM or SIGINT) and has drained. A second signal ends it at once.
pub fn run(config: &Config) -> Result<(), Error> {
    let main = role::Main::new().map_err(Error::System)?;
    role::raise_descriptor_limit(config.plan.limits.connections);
    let server = Server::start(config, listeners(&config.plan.listen)?)?;
    let shutdown = server.shutdown().clone();
    main.run(&shutdown, move || server.join()).map_err(Error::System)?
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
        let writer = access_log::start(role::access_log(&config.log, "web")).map_err(Error::System)?;
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
        let admin = role::serve_admin(&config.run, role::routes(&registry, &shutdown), &shutdown)?;
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

fn listeners(listen: &[SocketAddr]) -> Result<Vec<Vec<Listener>>, Error> {
    let own = |shares| listen.iter().map(|address| SocketSpec::Tcp { address: *address, shares }).collect();
    let listener = |socket| match socket {
        InheritedSocket::Tcp { listener, .. } => Ok(Listener::Tcp(listener)),
        InheritedSocket::Unix { listener, .. } => Ok(Listener::Unix(listener)),
        InheritedSocket::Udp { address, .. } => Err(Error::ForeignSocket(address)),
    };
    let listeners = |sockets: Vec<_>| sockets.into_iter().map(listener).collect();
    worker_sockets(own)?.into_iter().map(listeners).collect()
}

/// A draining worker keeps no connection that the role's next process could use.
async fn give_up_pools(site: Weak<Site>, shutdown: Shutdown) {
    shutdown.reached(Phase::Draining).await;
    if let Some(site) = site.upgrade() {
        site.close_pools();
    }
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
