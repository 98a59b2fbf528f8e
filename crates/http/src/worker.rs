//! Workers: one thread per core, each with a runtime, listening sockets, a service and connections of its own.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::Service;
use crate::h1::serve::{self, End};
use crate::h2;
use crate::message::Peer;
use crate::metrics::EngineMetrics;
use crate::networks::Networks;
use crate::opening::{self, Opened};
use crate::per_client::{ClientPlace, Clients};
use crate::settings::{Settings, TICK};
use crate::shutdown::{Phase, Shutdown};
use crate::tls::{Alpn, ServerTls};
use crate::transport::Transport;
use crate::watch::{Watch, Watches};

/// The number of a worker, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerId(pub usize);

/// A listening socket that one worker accepts on.
#[derive(Debug)]
pub enum Listener {
    /// TCP; each worker has a share of the address (`SO_REUSEPORT`) of its own.
    Tcp(std::net::TcpListener),
    /// TCP with TLS, a PROXY header, or both.
    TcpWith(std::net::TcpListener, ListenerOptions),
    /// A Unix socket; workers may hold clones of one.
    Unix(std::os::unix::net::UnixListener),
}

/// What comes before HTTP on a listener's connections.
#[derive(Debug, Clone, Default)]
pub struct ListenerOptions {
    /// With TLS, HTTP/1.1 and h2 as agreed by ALPN.
    pub tls: Option<ServerTls>,
    /// Every connection begins with a PROXY header, and comes from one of these networks; others are closed.
    pub proxy_protocol: Option<Networks>,
}

/// A running server: its threads, and the signal that stops them.
#[derive(Debug)]
pub struct Server {
    threads: Vec<JoinHandle<()>>,
    shutdown: Shutdown,
}

impl Server {
    /// Starts one worker for each element of `listeners`, which are the sockets that this worker accepts on. The
    /// factory makes each worker's service on that worker's own thread, inside its runtime.
    pub fn start<S, F>(
        listeners: Vec<Vec<Listener>>,
        settings: &Settings,
        metrics: &EngineMetrics,
        shutdown: &Shutdown,
        factory: F,
    ) -> io::Result<Self>
    where
        S: Service,
        F: Fn(WorkerId) -> S + Send + Sync + 'static,
    {
        let factory = Arc::new(factory);
        let mut settings = settings.clone();
        settings.limits.connections = settings.limits.connections.div_ceil(listeners.len().max(1));
        let limits = &settings.limits;
        let clients = Clients::new(limits.connections_per_client, &limits.many_connections);
        let mut threads = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            let runtime = Arc::clone(&factory);
            let (settings, metrics, shutdown_here) = (settings.clone(), metrics.clone(), shutdown.clone());
            let clients = clients.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let id = WorkerId(number);
                if let Err(error) =
                    run(id, listeners, Worker::of(settings, metrics, clients), &shutdown_here, &*runtime)
                {
                    tracing::error!(worker = number, %error, "a worker failed; the server stops");
                    shutdown_here.drain();
                }
            });
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    shutdown.end();
                    return Err(error);
                }
            }
        }
        Ok(Self { threads, shutdown: shutdown.clone() })
    }

    /// The signal that stops this server.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Waits until all workers have ended, which they do when the signal was given. Blocks the thread.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            if thread.join().is_err() {
                result = Err(io::Error::other("a worker panicked"));
            }
        }
        result
    }
}

fn run<S: Service, F: Fn(WorkerId) -> S>(
    id: WorkerId,
    listeners: Vec<Listener>,
    worker: impl FnOnce() -> Worker,
    shutdown: &Shutdown,
    factory: &F,
) -> io::Result<()> {
    let runtime: LocalRuntime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listeners = listeners.into_iter().map(Accepting::new).collect::<io::Result<Vec<_>>>()?;
        serve_on(listeners, Rc::new(worker()), shutdown, Rc::new(factory(id))).await;
        Ok(())
    })
}

/// What the connections of one worker share.
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) metrics: EngineMetrics,
    pub(crate) watches: Watches,
    pub(crate) draining: Cell<bool>,
    pub(crate) draining_since_ms: Cell<u64>,
    clients: Option<Arc<Clients>>,
    /// The time of requests is over.
    http_over: Cell<bool>,
    http_end: Notify,
    /// The time of what left HTTP is over.
    tunnels_over: Cell<bool>,
    tunnels_end: Notify,
    buffers: RefCell<Vec<BytesMut>>,
}

/// Read buffers that wait for a connection to have bytes.
const SPARE_BUFFERS: usize = 256;
/// A buffer that grew beyond this is not kept.
const SPARE_BUFFER_BYTES: usize = 64 * 1024;

impl Worker {
    /// What makes a worker on its own thread.
    fn of(
        settings: Settings,
        metrics: EngineMetrics,
        clients: Option<Arc<Clients>>,
    ) -> impl FnOnce() -> Self {
        move || Self {
            settings,
            metrics,
            watches: Watches::new(),
            draining: Cell::new(false),
            draining_since_ms: Cell::new(0),
            clients,
            http_over: Cell::new(false),
            http_end: Notify::new(),
            tunnels_over: Cell::new(false),
            tunnels_end: Notify::new(),
            buffers: RefCell::default(),
        }
    }

    /// Takes a place for a connection of this client. `Err`: it has as many as it may, which was counted.
    pub(crate) fn enter(&self, client: Option<SocketAddr>) -> Result<Option<ClientPlace>, ()> {
        let (Some(clients), Some(client)) = (&self.clients, client) else { return Ok(None) };
        clients.enter(client.ip()).map_err(|_| self.metrics.client_refused.inc())
    }

    /// Runs what left HTTP on a connection, until it ends or its time is over while the server drains.
    pub(crate) async fn tunnel(&self, watch: &Watch, task: impl Future<Output = ()>) {
        let over = self.tunnels_end.notified();
        if self.tunnels_over.get() {
            return;
        }
        watch.tunnels.update(|tunnels| tunnels + 1);
        tokio::select! {
            () = task => {}
            () = over => {}
        }
        watch.tunnels.update(|tunnels| tunnels - 1);
    }

    /// Works on a request that shares its connection with others, until it is done or its time is over while the server
    /// drains: a tunnel beside it keeps the connection, and must not keep the request.
    pub(crate) async fn request<T>(&self, work: impl Future<Output = Option<T>>) -> Option<T> {
        let over = self.http_end.notified();
        if self.http_over.get() {
            return None;
        }
        tokio::select! {
            biased;
            done = work => done,
            () = over => None,
        }
    }

    /// While it drains: cuts off what takes too long. Never ends before all of it is cut off.
    async fn cut_off(&self) {
        let began = tokio::time::Instant::now();
        let http = self.settings.timeouts.drain;
        let tunnels = self.settings.timeouts.drain_tunnels.unwrap_or(http);
        let cut_tunnels = || {
            self.tunnels_over.set(true);
            self.tunnels_end.notify_waiters();
        };
        if tunnels < http {
            tokio::time::sleep_until(began + tunnels).await;
            cut_tunnels();
        }
        tokio::time::sleep_until(began + http).await;
        let cut = self.watches.cut_http();
        self.http_over.set(true);
        self.http_end.notify_waiters();
        if cut > 0 {
            tracing::warn!(connections = cut, "connections were still open at the end of the drain limit");
        }
        tokio::time::sleep_until(began + tunnels.max(http)).await;
        cut_tunnels();
    }

    pub(crate) fn take_buffer(&self) -> BytesMut {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_buffer(&self, mut buffer: BytesMut) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < SPARE_BUFFERS && (1..=SPARE_BUFFER_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    fn drain(&self) {
        self.watches.clock.refresh();
        self.draining_since_ms.set(self.watches.clock.now_ms());
        self.draining.set(true);
        self.watches.wake_all();
    }
}

/// Counts a request as in flight as long as it lives.
pub(crate) struct InFlight(Rc<Worker>);

impl InFlight {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.metrics.requests.inc();
        worker.metrics.in_flight.add(1);
        Self(Rc::clone(worker))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.add(-1);
    }
}

/// Counts a connection as open as long as it lives.
struct Open {
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    _place: Option<ClientPlace>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watch.cut.take();
        self.worker.metrics.open.add(-1);
    }
}

enum Accepting {
    Tcp(TcpListener),
    TcpWith(TcpListener, Rc<ListenerOptions>),
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    TcpWith(TcpStream, SocketAddr, Rc<ListenerOptions>),
    Unix(UnixStream),
}

impl Accepting {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(listener)?)
            }
            Listener::TcpWith(listener, options) => {
                listener.set_nonblocking(true)?;
                Self::TcpWith(TcpListener::from_std(listener)?, Rc::new(options))
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(listener)?)
            }
        })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, peer)| Accepted::Tcp(stream, peer))
            }
            Self::TcpWith(listener, options) => listener
                .poll_accept(cx)
                .map_ok(|(stream, peer)| Accepted::TcpWith(stream, peer, Rc::clone(options))),
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// After a failure to accept that is about this machine and not about one connection (no descriptors left).
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

async fn serve_on<S: Service>(
    listeners: Vec<Accepting>,
    worker: Rc<Worker>,
    shutdown: &Shutdown,
    service: Rc<S>,
) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    let ticker = Rc::clone(&worker);
    let mut ticks = JoinSet::new();
    ticks.spawn_local(async move { ticker.watches.run().await });
    tokio::select! {
        biased;
        () = shutdown.reached(Phase::Draining) => {}
        () = accept(&listeners, &worker, &service, &mut tasks) => {}
    }
    // Another process may share these sockets; closing ours takes no connection from it.
    drop(listeners);
    worker.drain();
    let finished = async {
        while let Some(ended) = tasks.join_next().await {
            note(&worker, ended);
        }
    };
    tokio::select! {
        () = finished => {}
        () = shutdown.reached(Phase::Ended) => {}
        () = worker.cut_off() => {}
    }
    tasks.shutdown().await;
    ticks.shutdown().await;
}

/// Accepts connections for ever.
async fn accept<S: Service>(
    listeners: &[Accepting],
    worker: &Rc<Worker>,
    service: &Rc<S>,
    tasks: &mut JoinSet<()>,
) {
    let most = worker.settings.limits.connections.max(1);
    let mut turn = 0;
    loop {
        let accepted = poll_fn(|cx| {
            while let Poll::Ready(Some(ended)) = tasks.poll_join_next(cx) {
                note(worker, ended);
            }
            turn += 1;
            for offset in 0..listeners.len() {
                if let Poll::Ready(accepted) = listeners[(turn + offset) % listeners.len()].poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await;
        match accepted {
            Ok(accepted) => {
                if tasks.len() >= most {
                    make_room(worker, tasks, most).await;
                }
                worker.metrics.accepted.inc();
                // Behind a PROXY header another client counts, who is not known yet.
                let client = match &accepted {
                    Accepted::Tcp(_, peer) => Some(*peer),
                    Accepted::TcpWith(_, peer, options) => {
                        Some(*peer).filter(|_| options.proxy_protocol.is_none())
                    }
                    Accepted::Unix(_) => None,
                };
                let Ok(place) = worker.enter(client) else { continue };
                worker.metrics.open.add(1);
                let watch = worker.watches.join();
                let open = Open { worker: Rc::clone(worker), watch: Rc::clone(&watch), _place: place };
                let watched = Rc::clone(&watch);
                let (worker, service) = (Rc::clone(worker), Rc::clone(service));
                let cut = match accepted {
                    Accepted::Tcp(stream, peer) => {
                        // Without it a response could wait for the acknowledgement of its head.
                        let _ = stream.set_nodelay(true);
                        let peer = Peer { address: Some(peer), local: stream.local_addr().ok(), tls: None };
                        tasks.spawn_local(connection(stream, peer, worker, watch, service, open))
                    }
                    Accepted::TcpWith(stream, peer, options) => {
                        let _ = stream.set_nodelay(true);
                        tasks.spawn_local(async move {
                            // What only a handshake needs is given back after it.
                            let opened = Box::pin(opening::open(stream, peer, &options, &worker, &watch));
                            let Some((opened, place)) = opened.await else { return };
                            let _place = place;
                            match opened {
                                Opened::Plain(stream, peer) => {
                                    connection(stream, peer, worker, watch, service, open).await;
                                }
                                Opened::Tls(stream, peer) if is_h2(&peer) => {
                                    let _open = open;
                                    let served =
                                        h2::serve(stream, BytesMut::new(), peer, worker, watch, service);
                                    Box::pin(served).await;
                                }
                                Opened::Tls(stream, peer) => {
                                    connection(stream, peer, worker, watch, service, open).await;
                                }
                            }
                        })
                    }
                    Accepted::Unix(stream) => {
                        tasks.spawn_local(connection(stream, Peer::default(), worker, watch, service, open))
                    }
                };
                watched.cut.replace(Some(cut));
            }
            Err(error) => {
                worker.metrics.accept_errors.inc();
                if !is_about_one_connection(&error) {
                    tracing::warn!(%error, "cannot accept connections; trying again shortly");
                    worker.watches.evict_idle();
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }
}

/// Waits until there is room for one more connection, asking idle ones to leave. Meanwhile new ones wait in the
/// socket's queue.
async fn make_room(worker: &Worker, tasks: &mut JoinSet<()>, most: usize) {
    worker.metrics.accept_paused.inc();
    while tasks.len() >= most {
        worker.watches.evict_idle();
        if let Ok(Some(ended)) = tokio::time::timeout(TICK, tasks.join_next()).await {
            note(worker, ended);
        }
    }
}

/// Whether the failure says nothing about the next connection (accept(2), "Error handling").
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

pub(crate) fn note(worker: &Worker, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        worker.metrics.panics.inc();
        tracing::error!(%error, "a connection was lost to a bug");
    }
}

fn is_h2(peer: &Peer) -> bool {
    peer.tls.as_ref().is_some_and(|tls| tls.alpn == Some(Alpn::H2))
}

async fn connection<T: Transport, S: Service>(
    stream: T,
    peer: Peer,
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    service: Rc<S>,
    _open: Open,
) {
    match serve::serve(stream, peer.clone(), Rc::clone(&worker), Rc::clone(&watch), Rc::clone(&service)).await
    {
        End::Closed => {}
        End::Http2(stream, read) => Box::pin(h2::serve(stream, read, peer, worker, watch, service)).await,
    }
}
