//! Threads that accept connections and serve them until they are told to stop.

use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mainstay_http::{Phase, Shutdown};
use tokio::net::TcpListener;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::task::JoinSet;

use super::choose::Upstreams;
use super::connection;
use super::metrics::{ServiceMetrics, TcpMetrics};
use super::service::Live;

/// After a failure to accept (no descriptors left, or a connection that was gone already).
const BACK_OFF: Duration = Duration::from_millis(20);

/// A listening socket, and the service that is offered on it.
#[derive(Debug)]
pub struct Listening {
    /// One share of the address (`SO_REUSEPORT`).
    pub socket: StdListener,
    /// What is offered.
    pub service: Live,
}

/// Running services: their threads, and the signal that stops them.
#[derive(Debug)]
pub struct Server {
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts a thread for each element of `shares`, which are the sockets that it accepts on. `upstreams` makes what
    /// chooses among upstreams, on the thread that uses it. When told to drain, threads accept nothing more, and end when
    /// their connections have, or after `drain`.
    pub fn start<U, F>(
        shares: Vec<Vec<Listening>>,
        metrics: &TcpMetrics,
        drain: Duration,
        shutdown: &Shutdown,
        upstreams: F,
    ) -> io::Result<Self>
    where
        U: Upstreams,
        F: Fn(usize) -> U + Send + Sync + 'static,
    {
        let (upstreams, count) = (Arc::new(upstreams), shares.len());
        let mut threads = Vec::new();
        for (number, share) in shares.into_iter().enumerate() {
            let (upstreams, metrics, shutdown) = (Arc::clone(&upstreams), metrics.clone(), shutdown.clone());
            let thread = std::thread::Builder::new().name(format!("tcp-{number}")).spawn(move || {
                if let Err(error) = run(share, count, &metrics, drain, &shutdown, || upstreams(number)) {
                    tracing::error!(thread = number, %error, "TCP services failed; the server stops");
                    shutdown.drain();
                }
            });
            threads.push(thread?);
        }
        Ok(Self { threads })
    }

    /// Waits until all threads have ended, which they do when the signal was given. Blocks the thread.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            if thread.join().is_err() {
                result = Err(io::Error::other("a thread of TCP services panicked"));
            }
        }
        result
    }
}

fn run<U: Upstreams>(
    share: Vec<Listening>,
    shares: usize,
    metrics: &TcpMetrics,
    drain: Duration,
    shutdown: &Shutdown,
    upstreams: impl FnOnce() -> U,
) -> io::Result<()> {
    let runtime: LocalRuntime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let upstreams = Rc::new(upstreams());
        let mut services = JoinSet::new();
        for Listening { socket, service } in share {
            socket.set_nonblocking(true)?;
            let socket = TcpListener::from_std(socket)?;
            let metrics = Rc::new(metrics.of(&service.now().name));
            let (upstreams, shutdown) = (Rc::clone(&upstreams), shutdown.clone());
            services.spawn_local(offer(socket, service, shares, metrics, drain, shutdown, upstreams));
        }
        while let Some(ended) = services.join_next().await {
            ended.map_err(io::Error::other)?;
        }
        Ok(())
    })
}

/// Offers a service on a socket until the end of draining.
async fn offer<U: Upstreams>(
    socket: TcpListener,
    service: Live,
    shares: usize,
    metrics: Rc<ServiceMetrics>,
    drain: Duration,
    shutdown: Shutdown,
    upstreams: Rc<U>,
) {
    let mut tasks = JoinSet::new();
    tokio::select! {
        biased;
        () = shutdown.reached(Phase::Draining) => {}
        () = accept(&socket, &service, shares, &metrics, &upstreams, &mut tasks) => {}
    }
    // Another process may share the address; closing ours takes no connection from it.
    drop(socket);
    let finished = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = finished => {}
        () = shutdown.reached(Phase::Ended) => {}
        () = tokio::time::sleep(drain) => {
            tracing::warn!(service = service.now().name, "connections were still open at the end of the drain limit");
        }
    }
    for _ in 0..tasks.len() {
        metrics.error("cut off at the end of draining");
    }
    tasks.shutdown().await;
}

/// Accepts connections for ever.
async fn accept<U: Upstreams>(
    socket: &TcpListener,
    service: &Live,
    shares: usize,
    metrics: &Rc<ServiceMetrics>,
    upstreams: &Rc<U>,
    tasks: &mut JoinSet<()>,
) {
    loop {
        let most = service.now().connections.div_ceil(shares.max(1));
        if tasks.len() >= most {
            // Meanwhile new ones wait in the socket's queue.
            metrics.paused.inc();
            if let Some(ended) = tasks.join_next().await {
                note(&ended);
            }
        }
        let accepted = tokio::select! {
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                note(&ended);
                continue;
            }
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let open = Open::new(metrics);
                let (service, upstreams) = (service.now(), Rc::clone(upstreams));
                // Small messages are not held back: we do not know what waits for them.
                let _ = stream.set_nodelay(true);
                tasks.spawn_local(async move {
                    connection::serve(stream, peer, &service, &*upstreams, &open.0).await;
                });
            }
            Err(error) => {
                metrics.error("accept");
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn note(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a TCP connection was lost to a bug");
    }
}

/// Counts a connection as open as long as it lives.
struct Open(Rc<ServiceMetrics>);

impl Open {
    fn new(metrics: &Rc<ServiceMetrics>) -> Self {
        metrics.connections.inc();
        metrics.open.add(1);
        Self(Rc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.add(-1);
    }
}
