//! Connections to an upstream that speaks h2: each carries many requests at once.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::Notify;

use super::io::UpstreamIo;
use super::{ClientError, PoolSettings, Waiting};
use crate::tls::Alpn;

/// Between two looks at whether a connection with requests still answers: so often within the time that a response may
/// take, and how often at least and at most.
const PINGS_PER_RESPONSE: u32 = 3;
const PING_SOONEST: Duration = Duration::from_secs(1);
const PING_LATEST: Duration = Duration::from_secs(20);
/// Streams that the upstream reset, and that we reset because of what it did, before the connection is given up.
const MOST_RESETS: usize = 256;
/// Bytes of request bodies that wait in memory, per stream.
const SEND_BUFFER: usize = 256 * 1024;

/// All connections of one worker to one upstream.
#[derive(Default)]
pub(super) struct Shared {
    connections: RefCell<Vec<Rc<SharedConnection>>>,
    /// Connections that are being opened.
    opening: Cell<usize>,
    waiting: Cell<usize>,
    changed: Rc<Notify>,
    /// How often opening failed, and how the last time: whoever waited for it need not fail for itself.
    failures: Cell<u64>,
    last_failure: Cell<Option<io::ErrorKind>>,
}

/// A connection.
struct SharedConnection {
    send: SendRequest<Bytes>,
    scheme: &'static str,
    requests: Cell<usize>,
    idle_since: Cell<Instant>,
    /// It takes no more requests.
    leaving: Cell<bool>,
    /// It answered no PING for so long, and was given up.
    silent: Cell<Option<Duration>>,
}

/// A place on a connection, for one request.
pub(super) struct Place {
    connection: Rc<SharedConnection>,
    changed: Rc<Notify>,
    /// Others had used the connection before, so that the upstream may just be closing it.
    pub(super) reused: bool,
}

impl Place {
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.send.clone()
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.connection.scheme
    }

    /// For how long the upstream answered no PING, where that ended the connection.
    pub(super) fn silent(&self) -> Option<Duration> {
        self.connection.silent.get()
    }

    /// The connection takes no more requests.
    pub(super) fn give_up(&self) {
        self.connection.leaving.set(true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.requests.set(connection.requests.get() - 1);
        connection.idle_since.set(Instant::now());
        self.changed.notify_one();
    }
}

/// What a place is waited for with.
struct Opening<'a>(&'a Shared);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
        self.0.changed.notify_waiters();
    }
}

impl Shared {
    /// Connections that are open or being opened, those of them without a request, and requests.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let connections = self.connections.borrow();
        let idle = connections.iter().filter(|connection| connection.requests.get() == 0).count();
        let requests = connections.iter().map(|connection| connection.requests.get()).sum();
        (connections.len() + self.opening.get(), idle, requests)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Closes connections without requests; the others take no new ones.
    pub(super) fn close(&self) {
        for connection in self.connections.borrow_mut().drain(..) {
            connection.leaving.set(true);
        }
    }

    /// Closes connections that were idle for too long.
    pub(super) fn sweep(&self, limit: Duration) {
        self.connections.borrow_mut().retain(|connection| {
            let idle = connection.requests.get() == 0 && connection.idle_since.get().elapsed() >= limit;
            !idle && !connection.leaving.get()
        });
    }

    /// A place on a connection. Opens one where all are full, as far as the settings allow; else waits.
    pub(super) async fn place<F: Future<Output = Result<UpstreamIo, ClientError>>>(
        &self,
        settings: &PoolSettings,
        connect: impl Fn() -> F,
    ) -> Result<Place, ClientError> {
        if let Some(place) = self.free(settings) {
            return Ok(place);
        }
        if self.waiting.get() >= settings.waiting {
            return Err(ClientError::Busy);
        }
        let waiting = Waiting::new(&self.waiting);
        let failures = self.failures.get();
        let deadline = tokio::time::sleep(settings.wait);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            let changed = self.changed.notified();
            if let Some(place) = self.free(settings) {
                return Ok(place);
            }
            if self.failures.get() != failures {
                let kind = self.last_failure.get().unwrap_or(io::ErrorKind::NotConnected);
                return Err(ClientError::Connect(kind.into()));
            }
            // Those who wait are to find a place on connections that are being opened already.
            let provided = self.opening.get() * settings.streams.max(1);
            let open = self.connections.borrow().len() + self.opening.get();
            if provided < self.waiting.get() && open < settings.connections {
                let connection = self.open(settings, connect()).await?;
                drop(waiting);
                return Ok(self.take(connection, false));
            }
            tokio::select! {
                () = changed => {}
                () = &mut deadline => return Err(ClientError::WaitTimedOut(settings.wait)),
            }
        }
    }

    /// A connection that only one request uses.
    pub(super) async fn own_place<F: Future<Output = Result<UpstreamIo, ClientError>>>(
        &self,
        settings: &PoolSettings,
        connect: F,
    ) -> Result<Place, ClientError> {
        let connection = handshake(connect.await?, settings, &self.changed).await?;
        Ok(self.take(connection, false))
    }

    async fn open<F: Future<Output = Result<UpstreamIo, ClientError>>>(
        &self,
        settings: &PoolSettings,
        connect: F,
    ) -> Result<Rc<SharedConnection>, ClientError> {
        self.opening.set(self.opening.get() + 1);
        let _opening = Opening(self);
        let opened = async { handshake(connect.await?, settings, &self.changed).await }.await;
        match opened {
            Ok(connection) => {
                self.connections.borrow_mut().push(Rc::clone(&connection));
                Ok(connection)
            }
            Err(error) => {
                self.failures.set(self.failures.get() + 1);
                self.last_failure.set(Some(match &error {
                    ClientError::Connect(error) => error.kind(),
                    _ => io::ErrorKind::TimedOut,
                }));
                Err(error)
            }
        }
    }

    /// A place on the fullest connection that has one, so that the others can become idle.
    fn free(&self, settings: &PoolSettings) -> Option<Place> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| connection.is_usable());
        let connection = connections
            .iter()
            .filter(|connection| connection.requests.get() < connection.most(settings))
            .max_by_key(|connection| connection.requests.get())
            .map(Rc::clone)?;
        drop(connections);
        Some(self.take(connection, true))
    }

    fn take(&self, connection: Rc<SharedConnection>, reused: bool) -> Place {
        connection.requests.set(connection.requests.get() + 1);
        Place { connection, changed: Rc::clone(&self.changed), reused }
    }
}

impl SharedConnection {
    fn is_usable(&self) -> bool {
        if !self.leaving.get() {
            let mut send = self.send.clone();
            let gone =
                matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)));
            self.leaving.set(gone);
        }
        !self.leaving.get()
    }

    /// Requests at once: as many as both sides allow.
    fn most(&self, settings: &PoolSettings) -> usize {
        settings.streams.max(1).min(self.send.current_max_send_streams())
    }
}

async fn handshake(
    io: UpstreamIo,
    settings: &PoolSettings,
    changed: &Rc<Notify>,
) -> Result<Rc<SharedConnection>, ClientError> {
    let scheme = io.scheme();
    if scheme == "https" && io.negotiated() != Some(Alpn::H2) {
        let error = io::Error::new(io::ErrorKind::Unsupported, "the upstream does not speak HTTP/2");
        return Err(ClientError::Connect(error));
    }
    let window = settings.stream_window.clamp(1, (1 << 31) - 1);
    let streams = u32::try_from(settings.streams).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        // Nothing is sent before the upstream has said how many it takes, and whether it knows extended CONNECT.
        .initial_max_send_streams(0)
        .initial_window_size(window)
        // Large enough that a client who reads nothing holds up no one else's response.
        .initial_connection_window_size(window.saturating_mul(streams.saturating_add(1)).min((1 << 31) - 1))
        .max_header_list_size(u32::try_from(settings.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(MOST_RESETS))
        .max_concurrent_reset_streams(64);
    let shaken = tokio::time::timeout(settings.connect, builder.handshake(io)).await;
    let (send, connection) = match shaken {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => {
            let error = error.into_io().unwrap_or_else(|| io::ErrorKind::InvalidData.into());
            return Err(ClientError::Connect(error));
        }
        Err(_) => return Err(ClientError::ConnectTimedOut(settings.connect)),
    };
    let shared = Rc::new(SharedConnection {
        send,
        scheme,
        requests: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        leaving: Cell::new(false),
        silent: Cell::new(None),
    });
    // It ends by itself: when the upstream closes, or when no one can send on it any more.
    let every = (settings.first_byte / PINGS_PER_RESPONSE).clamp(PING_SOONEST, PING_LATEST);
    tokio::task::spawn_local(drive(connection, every, Rc::downgrade(&shared), Rc::clone(changed)));
    let greeted = async {
        loop {
            let changed = changed.notified();
            if shared.send.current_max_send_streams() > 0 || !shared.is_usable() {
                return;
            }
            changed.await;
        }
    };
    match tokio::time::timeout(settings.connect, greeted).await {
        Ok(()) if shared.is_usable() => Ok(shared),
        Ok(()) => Err(ClientError::Connect(io::ErrorKind::ConnectionReset.into())),
        Err(_) => Err(ClientError::ConnectTimedOut(settings.connect)),
    }
}

/// Moves a connection's frames until its end.
async fn drive(
    mut connection: Connection<UpstreamIo, Bytes>,
    ping_every: Duration,
    shared: std::rc::Weak<SharedConnection>,
    changed: Rc<Notify>,
) {
    let pings = connection.ping_pong();
    let mut streams = 0;
    let frames = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        let allowed = connection.max_concurrent_send_streams();
        if allowed != std::mem::replace(&mut streams, allowed) {
            changed.notify_waiters();
        }
        ended
    });
    let busy = || shared.upgrade().is_some_and(|shared| shared.requests.get() > 0);
    tokio::select! {
        ended = frames => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an h2 connection to an upstream broke");
            }
        }
        () = silence(pings, ping_every, busy) => {
            tracing::debug!("an h2 connection to an upstream answers no more");
            if let Some(shared) = shared.upgrade() {
                shared.silent.set(Some(ping_every / 2));
            }
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.leaving.set(true);
    }
    changed.notify_waiters();
}

/// Ends when a connection that has requests does not answer a PING in half of the time between two.
async fn silence(pings: Option<PingPong>, every: Duration, busy: impl Fn() -> bool) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every).await;
        if busy() && !matches!(tokio::time::timeout(every / 2, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}
