//! The role: one thread per core, each with sockets, limits and connections of its own.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay_http::admin::AdminSocket;
use mainstay_http::metrics::Registry;
use mainstay_http::role::{self, AdminError};
use mainstay_http::{Phase, Shutdown};
use mainstay_process::WorkerSocketsError;
use mainstay_site::plan::DnsPlan;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::runtime::LocalOptions;
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::rate::Limiter;
use crate::sockets::{Share, shares};
use crate::tcp::Connections;
use crate::zone::{ZoneError, Zones};
use crate::{tcp, udp};

/// Time for connections to end once the role is asked to stop; less than the agent waits before it kills.
const DRAIN: Duration = Duration::from_secs(4);

/// What the role is to do, as the agent writes it. Other fields in the file are not for this role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The role's part of the server's plan.
    pub plan: DnsPlan,
    /// The role's run folder; the admin socket is made in it.
    pub run: PathBuf,
}

/// Why the role cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// A zone of the plan cannot be served.
    #[error("a zone cannot be served: {0}")]
    Zone(#[from] ZoneError),
    /// There are no sockets to serve.
    #[error(transparent)]
    Sockets(#[from] WorkerSocketsError),
    /// A socket that is no DNS server's was handed over.
    #[error("the socket {0} was handed over, but DNS is served on UDP and TCP only")]
    ForeignSocket(PathBuf),
    /// The operating system refused a socket, thread or signal.
    #[error("the operating system refused: {0}")]
    Socket(#[source] io::Error),
    /// The admin socket cannot be made.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A worker ended although nobody asked it to.
    #[error("a worker failed; the log says why")]
    Worker,
}

/// Runs the role until it is asked to stop (SIGTERM or SIGINT) and has drained. A second signal ends it at once.
pub fn run(config: &Config) -> Result<(), Error> {
    let main = role::Main::new().map_err(Error::Socket)?;
    let server = Server::start(config)?;
    let shutdown = server.shutdown().clone();
    main.spawn(end_after_draining(shutdown.clone()));
    main.run(&shutdown, move || server.join()).map_err(Error::Socket)?
}

async fn end_after_draining(shutdown: Shutdown) {
    shutdown.reached(Phase::Draining).await;
    tokio::time::sleep(DRAIN).await;
    shutdown.end();
}

/// A running DNS server. Dropping it without [`join`](Self::join) leaves its threads running.
#[derive(Debug)]
pub struct Server {
    threads: Vec<JoinHandle<Result<(), Error>>>,
    shutdown: Shutdown,
    _admin: AdminSocket,
}

/// What the tasks of one thread share.
pub(crate) struct Worker {
    pub(crate) zones: Arc<Zones>,
    pub(crate) limiter: RefCell<Limiter>,
    pub(crate) metrics: RefCell<Metrics>,
    pub(crate) connections: Connections,
    pub(crate) connection_limit: usize,
    pub(crate) shutdown: Shutdown,
    pub(crate) started: Instant,
}

impl Server {
    /// Takes the sockets over, or opens them, and starts to answer.
    pub fn start(config: &Config) -> Result<Self, Error> {
        let zones = Arc::new(Zones::new(&config.plan.zones)?);
        let shares = shares(&config.plan.listen)?;
        warn_of_any(&config.plan.listen);
        let shutdown = Shutdown::new();
        let registry = Registry::default();
        let workers = shares.len();
        // The kernel spreads clients over the shares by address and port, so that each sees its part of a network's queries.
        let rate = config.plan.responses_per_second.div_ceil(workers as u32);
        let mut threads = Vec::with_capacity(workers);
        for (number, share) in shares.into_iter().enumerate() {
            let (zones, registry, stop) = (Arc::clone(&zones), registry.clone(), shutdown.clone());
            // What is not shared between threads is made on the thread that it belongs to.
            let worker = move || Worker {
                zones,
                limiter: RefCell::new(Limiter::new(rate)),
                metrics: RefCell::new(Metrics::new(&registry)),
                connections: Connections::default(),
                connection_limit: tcp::CONNECTIONS.div_ceil(workers),
                shutdown: stop,
                started: Instant::now(),
            };
            let stop = shutdown.clone();
            let thread = std::thread::Builder::new().name(format!("dns-{number}")).spawn(move || {
                work(share, worker()).inspect_err(|error| {
                    tracing::error!(worker = number, %error, "a worker failed; the role stops");
                    stop.drain();
                })
            });
            threads.push(thread.map_err(|error| {
                shutdown.end();
                Error::Socket(error)
            })?);
        }
        let admin = role::serve_admin(&config.run, role::routes(&registry, &shutdown), &shutdown)?;
        tracing::info!(workers, zones = config.plan.zones.len(), listen = ?config.plan.listen, "answering");
        Ok(Self { threads, shutdown, _admin: admin })
    }

    /// The signal that stops it.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Waits until all workers have ended, which they do when the signal was given. Blocks the thread.
    pub fn join(self) -> Result<(), Error> {
        let mut result = Ok(());
        for thread in self.threads {
            result = result.and(thread.join().unwrap_or(Err(Error::Worker)));
        }
        result
    }
}

fn work(share: Share, worker: Worker) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(Error::Socket)?;
    runtime.block_on(async {
        let worker = Rc::new(worker);
        let mut tasks = JoinSet::new();
        for socket in share.udp {
            let socket = tokio::net::UdpSocket::from_std(socket).map_err(Error::Socket)?;
            tasks.spawn_local(udp::serve(socket, Rc::clone(&worker)));
        }
        for listener in share.tcp {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Socket)?;
            tasks.spawn_local(tcp::serve(listener, Rc::clone(&worker)));
        }
        let mut ended = std::pin::pin!(worker.shutdown.reached(Phase::Ended));
        loop {
            let task = tokio::select! {
                () = &mut ended => return Ok(()),
                task = tasks.join_next() => task,
            };
            match task {
                None => return Ok(()),
                Some(Ok(Ok(()))) if worker.shutdown.phase() >= Phase::Draining => {}
                Some(Ok(Err(error))) => return Err(Error::Socket(error)),
                Some(Ok(Ok(())) | Err(_)) => return Err(Error::Worker),
            }
        }
    })
}

/// On a server with several addresses, the response to a query that came to "any" may leave from another of them,
/// and the client will not take it. Plans name addresses; this is for whoever writes one by hand.
fn warn_of_any(listen: &[SocketAddr]) {
    for address in listen.iter().filter(|address| address.ip().is_unspecified()) {
        tracing::warn!(%address, "name each address instead: responses may leave from another one than was asked");
    }
}
