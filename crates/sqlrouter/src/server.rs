//! Threads that accept clients and serve them until they are told to stop.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;
use std::time::Duration;

use mainstay_http::admin::{self, AdminSocket, Router};
use mainstay_http::metrics::Registry;
use mainstay_http::tls::{CertificatePair, Pem, ServerOptions, ServerTls};
use mainstay_http::{Phase, Shutdown, unix_path};
use mainstay_process::sockets::{SocketError, Sockets as Opened};
use mainstay_process::{InheritedError, InheritedSocket, SocketSpec, inherited_sockets};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::backend::Dialer;
use crate::channel::Stream;
use crate::config::SqlRouterConfig;
use crate::kill::Kills;
use crate::metrics::Metrics;
use crate::slow_log::{self, SlowLog};
use crate::statement::Digests;
use crate::topology::Source;
use crate::worker::{Account, Parts, Worker, follow};
use crate::{session, wire};

/// Mode of the admin socket: the role's own user and group, and root.
const ADMIN_MODE: u32 = 0o660;
/// Mode of the clients' socket: whoever is on the server may connect, and has to know a password.
const SOCKET_MODE: u32 = 0o666;
/// Digests that the admin socket shows.
const SHOWN_DIGESTS: usize = 100;
/// After a failure to accept.
const BACK_OFF: Duration = Duration::from_millis(20);
/// How long clients may go on when the role stops.
const DRAIN: Duration = Duration::from_secs(30);

/// Why the role cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// The sockets that were handed over cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] SocketError),
    /// A socket that is not for this role was handed over.
    #[error("the socket {0} was handed over, but clients connect by TCP or a Unix socket")]
    ForeignSocket(SocketAddr),
    /// There is nothing to listen on.
    #[error("there is no address and no socket to listen on")]
    NoAddress,
    /// The configuration cannot be carried out.
    #[error("the configuration cannot be carried out: {0}")]
    Config(String),
    /// The operating system refused a socket, thread or file.
    #[error("the operating system refused: {0}")]
    System(#[from] io::Error),
    /// A worker ended although nobody asked it to.
    #[error("a worker failed; the log says why")]
    Worker,
}

/// Listening sockets: shares of addresses, and Unix sockets that all workers accept on.
#[derive(Debug, Default)]
pub struct Sockets {
    /// By worker.
    pub tcp: Vec<Vec<StdTcpListener>>,
    /// Of all workers.
    pub unix: Vec<StdUnixListener>,
}

impl Sockets {
    /// Takes over the sockets that the process was started with, or opens those of the configuration.
    pub fn open(config: &SqlRouterConfig) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64));
        let shares = config.limits.workers.unwrap_or(cores).max(1);
        let mut sockets = Self { tcp: (0..shares).map(|_| Vec::new()).collect(), unix: Vec::new() };
        let mut next: HashMap<SocketAddr, usize> = HashMap::new();
        let inherited = inherited_sockets()?;
        let own = inherited.is_empty();
        let opened = if own { open(config, shares as u16)? } else { inherited };
        for socket in opened {
            match socket {
                InheritedSocket::Tcp { address, listener } => {
                    let at = next.entry(address).or_default();
                    if sockets.tcp.len() == *at {
                        sockets.tcp.push(Vec::new());
                    }
                    sockets.tcp[*at].push(listener);
                    *at += 1;
                }
                InheritedSocket::Unix { listener, .. } => sockets.unix.push(listener),
                InheritedSocket::Udp { address, .. } => return Err(Error::ForeignSocket(address)),
            }
        }
        if own && let Some(path) = &config.socket {
            sockets.unix.push(unix_path::listen(path, SOCKET_MODE)?);
        }
        if sockets.unix.is_empty() && sockets.tcp.iter().all(Vec::is_empty) {
            return Err(Error::NoAddress);
        }
        Ok(sockets)
    }
}

fn open(config: &SqlRouterConfig, shares: u16) -> Result<Vec<InheritedSocket>, Error> {
    let mut sockets = Opened::default();
    let mut opened = Vec::new();
    for address in config.listen.iter().copied() {
        let spec = SocketSpec::Tcp { address, shares };
        sockets.open(&spec)?;
        for (_, descriptor) in sockets.of(std::slice::from_ref(&spec))? {
            let listener = StdTcpListener::from(descriptor.try_clone_to_owned()?);
            opened.push(InheritedSocket::Tcp { address, listener });
        }
    }
    Ok(opened)
}

/// A running router.
#[derive(Debug)]
pub struct Server {
    threads: Vec<JoinHandle<Result<(), Error>>>,
    shutdown: Shutdown,
    registry: Registry2,
    _admin: AdminSocket,
    slow: Option<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
}

/// A registry, which has no `Debug` of its own.
struct Registry2(Registry);

impl std::fmt::Debug for Registry2 {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Registry")
    }
}

impl Server {
    /// Starts one worker for each element of `sockets.tcp`.
    pub fn start(config: &SqlRouterConfig, sockets: Sockets, topology: &Source) -> Result<Self, Error> {
        let (shutdown, registry) = (Shutdown::new(), Registry::default());
        let metrics = Metrics::new(&registry);
        let workers = sockets.tcp.len().max(1);
        let tls = config.tls.as_ref().map(serve_tls).transpose().map_err(Error::Config)?;
        let secrets = secrets(config)?;
        let kills = Arc::new(Kills::default());
        let digests = Digests::default();
        let counts: Vec<_> = config.accounts.iter().map(|_| Arc::new(AtomicU32::new(0))).collect();
        let (slow, slow_thread) = match &config.log {
            Some(folder) => {
                let (slow, thread) = slow_log::start(folder.join("slow.log"))?;
                (slow, Some(thread))
            }
            None => (SlowLog::default(), None),
        };
        let mut nobody = vec![0; 24];
        getrandom::fill(&mut nobody).map_err(|error| Error::System(io::Error::other(error)))?;
        let addresses =
            sockets.tcp.iter().take(1).flatten().filter_map(|listener| listener.local_addr().ok()).collect();
        let mut threads = Vec::new();
        for (number, tcp) in sockets.tcp.into_iter().enumerate() {
            let unix = sockets.unix.iter().map(StdUnixListener::try_clone).collect::<Result<Vec<_>, _>>()?;
            let (config, secrets, counts, nobody) =
                (config.clone(), secrets.clone(), counts.clone(), nobody.clone());
            let (metrics, kills, stop) = (metrics.clone(), Arc::clone(&kills), shutdown.clone());
            let (source, slow, tls) = (topology.clone(), slow.clone(), tls.clone());
            let digests = digests.clone();
            let timeout = Duration::from_millis(config.limits.connect_ms);
            // Wrong files are found out before there are threads.
            Dialer::new(config.authorities.as_ref(), timeout).map_err(Error::Config)?;
            let make = move || -> Result<Rc<Worker>, Error> {
                let dialer = Dialer::new(config.authorities.as_ref(), timeout).map_err(Error::Config)?;
                let accounts = accounts(&config, &secrets, &counts, workers);
                let limits = config.limits.clone();
                Ok(Worker::new(Parts {
                    digests,
                    limits,
                    accounts,
                    nobody,
                    source,
                    dialer,
                    metrics,
                    kills,
                    shutdown: stop,
                    slow,
                    tls,
                }))
            };
            let stop = shutdown.clone();
            let thread = std::thread::Builder::new().name(format!("sql-{number}")).spawn(move || {
                work(tcp, unix, workers, make).inspect_err(|error| {
                    tracing::error!(worker = number, %error, "a worker failed; the role stops");
                    stop.drain();
                })
            });
            threads.push(thread.inspect_err(|_| shutdown.end())?);
        }
        let health = shutdown.clone();
        let shown = topology.clone();
        let router = Router::new()
            .health(move || match health.phase() {
                Phase::Running => Ok(()),
                Phase::Draining | Phase::Ended => Err("the role is stopping".to_owned()),
            })
            .metrics(&registry)
            .route(http_get(), "/digests", move |_| {
                std::future::ready(admin::Reply::json(&digests.slowest(SHOWN_DIGESTS)))
            })
            .route(http_get(), "/status", move |_| {
                let topology = Arc::clone(&shown.borrow());
                std::future::ready(admin::Reply::json(&*topology))
            });
        let admin = admin::serve(&config.run.join("admin.sock"), ADMIN_MODE, router)
            .inspect_err(|_| shutdown.end())?;
        tracing::info!(workers, accounts = config.accounts.len(), "answering");
        Ok(Self {
            threads,
            shutdown,
            registry: Registry2(registry),
            _admin: admin,
            slow: slow_thread,
            addresses,
        })
    }

    /// The signal that stops it.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// What it counts.
    pub fn registry(&self) -> &Registry {
        &self.registry.0
    }

    /// The addresses that it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether all workers have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits until all workers have ended, which they do when the signal was given. Blocks the thread.
    pub fn join(self) -> Result<(), Error> {
        let mut result = Ok(());
        for thread in self.threads {
            result = result.and(thread.join().unwrap_or(Err(Error::Worker)));
        }
        if let Some(slow) = self.slow {
            // It has nothing to say.
            let _ = slow.join();
        }
        result
    }
}

fn http_get() -> http::Method {
    http::Method::GET
}

fn serve_tls(files: &crate::config::CertificateFiles) -> Result<ServerTls, String> {
    let read = |path: &PathBuf| {
        let text =
            std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        Ok::<_, String>(Pem::new(path.display().to_string(), text))
    };
    let pair = CertificatePair { chain: read(&files.chain)?, key: read(&files.key)? };
    ServerTls::new(&[pair], ServerOptions { protocols: Vec::new(), ..ServerOptions::default() })
        .map_err(|error| error.to_string())
}

fn secrets(config: &SqlRouterConfig) -> Result<Vec<Vec<u8>>, Error> {
    let read = |account: &crate::config::AccountConfig| {
        let mut secret = std::fs::read(&account.secret).map_err(|error| {
            let path = account.secret.display();
            Error::Config(format!("the secret of {} cannot be read at {path}: {error}", account.name))
        })?;
        while matches!(secret.last(), Some(b'\n' | b'\r')) {
            secret.pop();
        }
        Ok(secret)
    };
    config.accounts.iter().map(read).collect()
}

fn accounts(
    config: &SqlRouterConfig,
    secrets: &[Vec<u8>],
    counts: &[Arc<AtomicU32>],
    workers: usize,
) -> HashMap<Vec<u8>, Rc<Account>> {
    let account =
        |((account, secret), count): ((&crate::config::AccountConfig, &Vec<u8>), &Arc<AtomicU32>)| {
            let backends = (account.backends as usize).div_ceil(workers).max(1);
            let made = Account {
                name: account.name.as_str().into(),
                password: secret.clone(),
                plugin: account.plugin,
                consistency: account.consistency,
                pooling: account.pooling,
                connections: account.connections,
                clients: Arc::clone(count),
                backends: Arc::new(Semaphore::new(backends)),
                returned: Notify::new(),
            };
            (account.name.clone().into_bytes(), Rc::new(made))
        };
    config.accounts.iter().zip(secrets).zip(counts).map(account).collect()
}

fn work(
    tcp: Vec<StdTcpListener>,
    unix: Vec<StdUnixListener>,
    workers: usize,
    make: impl FnOnce() -> Result<Rc<Worker>, Error>,
) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let worker = make()?;
        tokio::task::spawn_local(follow(Rc::downgrade(&worker)));
        let most = (worker.limits.connections as usize).div_ceil(workers).max(1);
        let mut tasks = JoinSet::new();
        for listener in tcp {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn_local(accept(Rc::clone(&worker), most, async move || {
                let (stream, _) = listener.accept().await?;
                // Small packets are not held back.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }));
        }
        for listener in unix {
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            tasks.spawn_local(accept(Rc::clone(&worker), most, async move || {
                Ok(Stream::Unix(listener.accept().await?.0))
            }));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|_| Error::Worker)?;
        }
        Ok(())
    })
}

/// Accepts clients until the role drains, and serves them until they leave or draining ends.
async fn accept(worker: Rc<Worker>, most: usize, next: impl AsyncFn() -> io::Result<Stream>) {
    let mut clients = JoinSet::new();
    let draining = worker.shutdown.reached(Phase::Draining);
    tokio::pin!(draining);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut draining => break,
            Some(ended) = clients.join_next(), if !clients.is_empty() => {
                worker.metrics.clients.add(-1);
                if let Err(error) = ended && error.is_panic() {
                    worker.metrics.panics.inc();
                    tracing::error!(%error, "a connection was lost to a bug");
                }
                continue;
            }
            accepted = next() => accepted,
        };
        match accepted {
            Ok(stream) if clients.len() < most => {
                worker.metrics.accepted.inc();
                worker.metrics.clients.add(1);
                clients.spawn_local(session::serve(stream, Rc::clone(&worker)));
            }
            Ok(stream) => {
                worker.metrics.refused.with(&["too many"]).inc();
                tokio::task::spawn_local(refuse(stream));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a client");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    tokio::select! {
        () = async { while clients.join_next().await.is_some() {} } => {}
        () = worker.shutdown.reached(Phase::Ended) => {}
        () = tokio::time::sleep(DRAIN) => {}
    }
    clients.shutdown().await;
}

async fn refuse(stream: Stream) {
    let mut client = crate::channel::Channel::new(stream);
    client.put(&wire::reply::err(1040, "08004", "Too many connections"), 0);
    // It may be gone already.
    let _ = client.flush().await;
}
