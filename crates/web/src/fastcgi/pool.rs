//! Connections to one php-fpm: kept open, and never more of all workers together than it has processes.
//!
//! A php-fpm process serves one connection until that is closed, so a connection beyond their number would wait for
//! ever, and an idle one of a worker can keep the others waiting. So each connection, idle or not, holds a permit that
//! all workers share; whoever finds none makes the workers give up their idle ones.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use mainstay_http::unix_path::SocketPath;
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// How long a request waits for a connection at most.
pub(crate) const QUEUE_WAIT: Duration = Duration::from_secs(10);
/// Requests of one worker that wait.
const QUEUE_LENGTH: usize = 1024;
/// How long a connection is kept without a request. A php-fpm that is replaced or stopped waits for it, so not for long: a
/// new one costs some microseconds.
const IDLE: Duration = Duration::from_secs(2);
/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// The first pause after php-fpm took no connection; it doubles up to [`MOST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(5);
const MOST_PAUSE: Duration = Duration::from_millis(100);

/// What the workers share: the right to connect.
#[derive(Debug)]
pub(crate) struct Permits {
    free: Arc<Semaphore>,
    /// Requests that wait, of all workers.
    waiting: AtomicUsize,
    wanted: Notify,
}

impl Permits {
    pub(crate) fn new(connections: u32) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(connections.max(1) as usize)),
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
        })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConnection {
    /// Too many wait already.
    #[error("too many requests wait for the app")]
    Busy,
    /// None became free in time.
    #[error("the app did not become free within {0:?}")]
    WaitTimedOut(Duration),
    /// php-fpm is not there.
    #[error("the app takes no connection: {0}")]
    Refused(io::Error),
}

/// A connection with its permit.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) reused: bool,
    /// What was read and not looked at yet; empty between requests. Kept for its memory.
    pub(crate) input: BytesMut,
    /// The right to be connected; given back when the connection closes.
    _permit: OwnedSemaphorePermit,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One worker's connections to one php-fpm.
pub(crate) struct Pool {
    socket: PathBuf,
    shared: Arc<Permits>,
    idle: RefCell<Vec<Idle>>,
    /// Requests of this worker that wait.
    queue: RefCell<VecDeque<oneshot::Sender<Connection>>>,
    turn: Cell<bool>,
    sweeping: Cell<bool>,
    /// Whether connections are kept at all.
    keeps: Cell<bool>,
}

impl Pool {
    pub(crate) fn new(socket: PathBuf, shared: Arc<Permits>) -> Rc<Self> {
        Rc::new(Self {
            socket,
            shared,
            idle: RefCell::default(),
            queue: RefCell::default(),
            turn: Cell::default(),
            sweeping: Cell::default(),
            keeps: Cell::new(true),
        })
    }

    /// A connection, kept or new. While php-fpm takes none (it restarts) it is tried again until `patience` is over.
    pub(crate) async fn connection(self: &Rc<Self>, patience: Duration) -> Result<Connection, NoConnection> {
        while let Some(idle) = self.idle.borrow_mut().pop() {
            if is_open(&idle.connection.stream) {
                return Ok(Connection { reused: true, ..idle.connection });
            }
        }
        let permit = match Arc::clone(&self.shared.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match self.wait().await? {
                Given::Connection(connection) => return Ok(connection),
                Given::Permit(permit) => permit,
            },
        };
        let stream = self.connect(patience).await.map_err(NoConnection::Refused)?;
        Ok(Connection { stream, reused: false, input: BytesMut::new(), _permit: permit })
    }

    async fn wait(&self) -> Result<Given, NoConnection> {
        if self.queue.borrow().len() >= QUEUE_LENGTH {
            return Err(NoConnection::Busy);
        }
        let _waiting = Waiting::new(&self.shared);
        let (give, given) = oneshot::channel();
        self.queue.borrow_mut().push_back(give);
        let permit = Arc::clone(&self.shared.free).acquire_owned();
        tokio::select! {
            biased;
            Ok(connection) = given => Ok(Given::Connection(connection)),
            Ok(permit) = permit => Ok(Given::Permit(permit)),
            () = tokio::time::sleep(QUEUE_WAIT) => Err(NoConnection::WaitTimedOut(QUEUE_WAIT)),
        }
    }

    async fn connect(&self, patience: Duration) -> io::Result<UnixStream> {
        let deadline = Instant::now() + patience;
        let mut pause = PAUSE;
        loop {
            // A full backlog is EAGAIN for a Unix socket.
            let error = match SocketPath::new(&self.socket) {
                Ok(path) => match UnixStream::connect(path.as_path()).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let passing = matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
            );
            if !passing || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    /// Takes back a connection whose request is over and that is clean.
    pub(crate) fn keep(self: &Rc<Self>, mut connection: Connection) {
        // Of several workers whose requests wait, none may serve itself alone.
        self.queue.borrow_mut().retain(|waiting| !waiting.is_closed());
        let others = self.shared.waiting.load(Ordering::Relaxed) > self.queue.borrow().len();
        let turn = self.turn.replace(!self.turn.get());
        if others && turn {
            return;
        }
        connection.reused = true;
        loop {
            let Some(waiting) = self.queue.borrow_mut().pop_front() else { break };
            match waiting.send(connection) {
                Ok(()) => return,
                Err(unwanted) => connection = unwanted,
            }
        }
        if others || !self.keeps.get() {
            return;
        }
        self.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self), Arc::clone(&self.shared)));
        }
    }

    /// Gives up all idle connections, now and from now on.
    pub(crate) fn close_idle(&self) {
        self.keeps.set(false);
        self.idle.borrow_mut().clear();
    }
}

enum Given {
    Connection(Connection),
    Permit(OwnedSemaphorePermit),
}

/// Counts one who waits, as long as it lives.
struct Waiting<'a>(&'a Permits);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Permits) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        shared.wanted.notify_waiters();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes idle connections that are old, or that others wait for; ends when there are none left.
async fn sweep(pool: Weak<Pool>, shared: Arc<Permits>) {
    loop {
        tokio::select! {
            () = shared.wanted.notified() => {}
            () = tokio::time::sleep(SWEEP) => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        let wanted = shared.waiting.load(Ordering::Relaxed) > 0;
        let mut idle = pool.idle.borrow_mut();
        idle.retain(|idle| !wanted && idle.since.elapsed() < IDLE && is_open(&idle.connection.stream));
        if idle.is_empty() {
            pool.sweeping.set(false);
            return;
        }
    }
}

/// Whether the other side has neither closed nor said anything.
fn is_open(stream: &UnixStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
