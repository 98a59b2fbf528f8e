//! The role's process: sockets, workers, control thread, admin socket, and how it ends.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay_http::access_log::{self, AccessLog, Writer};
use mainstay_http::admin::AdminSocket;
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::networks::Networks;
use mainstay_http::request_id::{self, RequestIds};
use mainstay_http::role::{self, AdminError};
use mainstay_http::settings::{Limits, Timeouts};
use mainstay_http::{Phase, Server as Engine, Settings, Shutdown};
use mainstay_process::WorkerSocketsError;
use mainstay_site::plan::EdgePlan;
use thiserror::Error;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

use crate::adopt;
use crate::balance::random::Random;
use crate::certificates;
use crate::config::Config;
use crate::control::{Command, Control, Start, TOLD, ToWorker, Told};
use crate::fields::AddressValues;
use crate::in_force::InForce;
use crate::metrics::Metrics;
use crate::service::{Edge, Worker};
use crate::services::{Chooser, Current, Services};
use crate::site::Site;
use crate::tcp::{self, TcpMetrics};
use crate::{admin, sockets};

/// Time for requests to end once the role is asked to stop.
const DRAIN: Duration = Duration::from_secs(35);
/// Commands that wait for the control thread.
const COMMANDS: usize = 64;

/// Why the role cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// There are no sockets to serve.
    #[error(transparent)]
    Sockets(#[from] WorkerSocketsError),
    /// A socket was handed over that no listener of the plan is for.
    #[error("the socket {0} was handed over, but the plan has no listener there")]
    ForeignSocket(String),
    /// The plan names an address for which there is no socket.
    #[error("no socket for {0} was handed over")]
    NoSocket(SocketAddr),
    /// The configuration cannot be carried out.
    #[error("the configuration cannot be carried out: {0}")]
    Config(String),
    /// The operating system refused a socket, thread or signal.
    #[error("the operating system refused: {0}")]
    System(#[source] io::Error),
    /// There is no randomness for request ids.
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The admin socket cannot be made.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Runs the role until it is asked to stop (SIGTERM or SIGINT) and has drained. A second signal ends it at once. At
/// SIGHUP `reload` is asked for a new configuration, which is taken over in place; one that does not fit is refused and
/// the old one stays in force.
pub fn run(
    config: Config,
    reload: impl FnMut() -> Result<Config, String> + Send + 'static,
) -> Result<(), Error> {
    let main = role::Main::new().map_err(Error::System)?;
    let hang_up = main.hang_up().map_err(Error::System)?;
    role::raise_descriptor_limit(config.plan.limits.connections);
    let sockets = sockets::open(&config.plan)?;
    let server = Server::start(config, sockets)?;
    let shutdown = server.shutdown().clone();
    main.spawn(reload_when_asked(hang_up, server.reloader(), shutdown.clone(), reload));
    main.run(&shutdown, move || server.join()).map_err(Error::System)?
}

async fn reload_when_asked(
    mut hang_up: Signal,
    reloader: Reloader,
    shutdown: Shutdown,
    reload: impl FnMut() -> Result<Config, String> + Send + 'static,
) {
    let reload = Arc::new(Mutex::new(reload));
    loop {
        tokio::select! {
            () = shutdown.reached(Phase::Draining) => return,
            Some(()) = hang_up.recv() => {}
        }
        // It reads files: not on the thread that has to hear signals.
        let reload = Arc::clone(&reload);
        let read = tokio::task::spawn_blocking(move || {
            let mut reload = reload.lock().unwrap_or_else(PoisonError::into_inner);
            reload()
        });
        match read.await.unwrap_or_else(|error| Err(error.to_string())) {
            // What became of it is told in the log and in the status.
            Ok(config) => drop(reloader.reload(config).await),
            Err(why) => reloader.refuse(why).await,
        }
    }
}

/// Gives a running server new configurations. Clones reach the same server.
#[derive(Clone)]
pub struct Reloader {
    commands: mpsc::Sender<Command>,
}

impl Reloader {
    /// Takes a configuration over in place: new connections and requests follow it as soon as this returns. The error
    /// says why it was refused; then the old one stays in force.
    pub async fn reload(&self, config: Config) -> Result<(), String> {
        let stopping = || "the role is stopping".to_owned();
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Reload(Box::new(config), reply)).await.map_err(|_| stopping())?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    async fn refuse(&self, why: String) {
        // A role that is stopping needs no configuration.
        let _ = self.commands.send(Command::NoConfig(why)).await;
    }
}

/// A running load balancer.
pub struct Server {
    engine: Engine,
    tcp: tcp::Server,
    shutdown: Shutdown,
    writer: Writer,
    control: JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    registry: Registry,
    _admin: AdminSocket,
}

impl Server {
    /// Starts one worker for each element of `sockets`, which are that worker's shares of the plan's addresses.
    pub fn start(config: Config, sockets: Vec<Vec<TcpListener>>) -> Result<Self, Error> {
        let plan = &config.plan.clone();
        let (shutdown, registry) = (Shutdown::new(), Registry::default());
        let metrics = Metrics::new(&registry);
        let now = Instant::now();
        let seed = request_id::seed()?;
        let first = InForce::new(&config, plan.clone(), &metrics, None, seed as u64, now);
        let in_force = Arc::new(first.map_err(Error::Config)?);
        Site::check(&in_force, &metrics, now).map_err(Error::Config)?;
        in_force.settle();
        let tls = certificates::serve(&config).map_err(Error::Config)?;
        let trusted = Networks::parse(&plan.trusted_proxies).map_err(Error::Config)?;
        let services = Services::new(plan, &tls).map_err(Error::Config)?;
        let sockets::Assigned { http: listeners, tcp } = sockets::assign(plan, sockets, &tls, &services)?;
        let writer = access_log::start(role::access_log(&config.log, "edge")).map_err(Error::System)?;
        let run = config.run.clone();
        let (told, reports) = mpsc::channel(TOLD);
        let (commands, orders) = mpsc::channel(COMMANDS);
        let mut ways = Vec::new();
        let mut ends = Vec::new();
        for number in 0..listeners.len() {
            let (way, end) = mpsc::unbounded_channel();
            ways.push(way);
            ends.push(Some((end, request_id::seed()?)));
            tracing::debug!(worker = number, "has listeners");
        }
        let current = Current::new(Arc::clone(&in_force));
        let start = Start {
            config,
            in_force: Arc::clone(&in_force),
            workers: ways,
            metrics: metrics.clone(),
            told: told.clone(),
            tls,
            services,
            current: current.clone(),
            seed: (seed >> 64) as u64,
        };
        let tcp = tcp::Server::start(
            tcp,
            &TcpMetrics::new(&registry),
            DRAIN.max(Duration::from_millis(plan.drain_ms)),
            &shutdown,
            {
                let told = told.clone();
                move |_| Chooser::new(current.clone(), told.clone())
            },
        )
        .map_err(Error::System)?;
        let control = control(start, reports, orders, &shutdown).map_err(Error::System)?;
        let workers = listeners.len();
        let factory = Factory {
            ends: Mutex::new(ends),
            in_force,
            metrics,
            queue: writer.queue.clone(),
            told,
            shutdown: shutdown.clone(),
        };
        let engine = Engine::start(
            listeners,
            &settings(plan, &trusted),
            &EngineMetrics::new(&registry),
            &shutdown,
            move |id| factory.worker(id.0),
        );
        let engine = engine.map_err(|error| {
            shutdown.end();
            Error::System(error)
        })?;
        let router = admin::router(&registry, &shutdown, &commands);
        let admin = role::serve_admin(&run, router, &shutdown)?;
        tracing::info!(workers, routes = plan.routes.len(), groups = plan.groups.len(), "answering");
        Ok(Self { engine, tcp, shutdown, writer, control, commands, registry, _admin: admin })
    }

    /// The signal that stops it.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Gives it new configurations.
    pub fn reloader(&self) -> Reloader {
        Reloader { commands: self.commands.clone() }
    }

    /// What it counts.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Waits until all workers have ended, which they do when the signal was given. Blocks the thread.
    pub fn join(self) -> Result<(), Error> {
        let ended = self.engine.join().and(self.tcp.join()).map_err(Error::System);
        self.shutdown.end();
        if self.control.join().is_err() {
            tracing::error!("the control thread panicked");
        }
        self.writer.join();
        ended
    }
}

fn control(
    start: Start,
    reports: mpsc::Receiver<Told>,
    orders: mpsc::Receiver<Command>,
    shutdown: &Shutdown,
) -> io::Result<JoinHandle<()>> {
    let shutdown = shutdown.clone();
    let runtime = || -> io::Result<LocalRuntime> {
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
    };
    std::thread::Builder::new().name("control".to_owned()).spawn(move || match runtime() {
        Ok(runtime) => runtime.block_on(async { Control::new(start).run(reports, orders, shutdown).await }),
        Err(error) => {
            tracing::error!(%error, "the control thread cannot run; the role stops");
            shutdown.drain();
        }
    })
}

/// Makes each worker's service, on that worker's thread.
struct Factory {
    /// Taken once by each worker.
    #[expect(clippy::type_complexity)]
    ends: Mutex<Vec<Option<(mpsc::UnboundedReceiver<ToWorker>, u128)>>>,
    in_force: Arc<InForce>,
    metrics: Metrics,
    queue: std::sync::mpsc::SyncSender<access_log::Batch>,
    told: mpsc::Sender<Told>,
    shutdown: Shutdown,
}

impl Factory {
    fn worker(&self, number: usize) -> Edge {
        let end =
            self.ends.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number).and_then(Option::take);
        let (end, seed) = end.unzip();
        let seed = seed.unwrap_or(number as u128);
        let mut random = Random::new((seed >> 64) as u64);
        let site = Site::new(&self.in_force, &self.metrics, &mut random, None, Instant::now());
        // It was carried out once already, when the role began.
        let site = site.expect("a plan that was checked can be carried out");
        let worker = Rc::new(Worker {
            number,
            site: RefCell::new(Rc::new(site)),
            log: AccessLog::new(self.queue.clone(), self.metrics.log_dropped.clone()),
            metrics: self.metrics.clone(),
            ids: RequestIds::from_seed(seed),
            random: RefCell::new(random),
            addresses: AddressValues::default(),
            told: self.told.clone(),
        });
        if let Some(end) = end {
            tokio::task::spawn_local(adopt::follow(Rc::downgrade(&worker), end));
        }
        tokio::task::spawn_local(adopt::observe(Rc::downgrade(&worker)));
        tokio::task::spawn_local(give_up_pools(Rc::downgrade(&worker), self.shutdown.clone()));
        Edge(worker)
    }
}

/// A draining worker keeps no connection that the role's next process could use.
async fn give_up_pools(worker: Weak<Worker>, shutdown: Shutdown) {
    shutdown.reached(Phase::Draining).await;
    if let Some(worker) = worker.upgrade() {
        let site = Rc::clone(&worker.site.borrow());
        for group in site.groups.values() {
            group.close_idle();
        }
    }
}

fn settings(plan: &EdgePlan, trusted: &Networks) -> Settings {
    let limits = &plan.limits;
    let seconds = |count: u32| Duration::from_secs(u64::from(count));
    Settings {
        limits: Limits {
            connections: limits.connections as usize,
            connections_per_client: plan.connections_per_client,
            many_connections: trusted.clone(),
            head_bytes: limits.head.bytes() as usize,
            target_bytes: limits.head.bytes() as usize,
            headers: usize::from(limits.headers),
            // Routes have limits of their own, which the service keeps.
            body_bytes: u64::MAX,
            ..Limits::default()
        },
        timeouts: Timeouts {
            head: seconds(limits.head_timeout_secs),
            body: seconds(limits.body_timeout_secs),
            idle: seconds(limits.idle_timeout_secs),
            drain: DRAIN,
            drain_tunnels: Some(Duration::from_millis(plan.drain_ms)),
            ..Timeouts::default()
        },
        ..Settings::default()
    }
}
