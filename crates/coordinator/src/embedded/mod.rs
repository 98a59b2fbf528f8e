//! The embedded coordinator, for a site whose coordinator is one server: a part of etcd's v3 API from one durable file.
//!
//! `api` reads what came in, `machine` decides, `writer` makes it durable (through `log`, the format, and `file`), `serve` is the
//! HTTP around it. Leases survive a restart with their full time again, as etcd's survive a change of its leader.

mod api;
mod file;
mod limits;
mod log;
mod machine;
mod record;
mod serve;
mod watch;
mod writer;

use std::convert::Infallible;
use std::path::Path;

use tokio::net::{TcpListener, UnixListener};

pub use file::OpenError;
pub use limits::Limits;
pub use log::Damage;

use crate::{Tls, TlsError};
use serve::Server;
use writer::Handle;

/// A store that is open. Clones are the same store, which is closed when the last of them and all their servers are gone.
#[derive(Debug, Clone)]
pub struct Embedded {
    handle: Handle,
}

/// Where the embedded coordinator is to be reached.
#[derive(Debug)]
pub enum Listener {
    /// Plain TCP, for whoever may reach it: tests.
    Tcp(TcpListener),
    /// TLS, for whoever shows a certificate of the authority.
    Tls(TcpListener, Tls),
    /// A Unix socket, for whoever may open it.
    Unix(UnixListener),
}

impl Embedded {
    /// Opens the store in `file`, or makes an empty one. Beside it lie `file.lock`, and `file.new` while it is begun anew.
    pub fn open(file: &Path) -> Result<Self, OpenError> {
        Self::open_with(file, Limits::default())
    }

    /// The same with other bounds.
    pub fn open_with(file: &Path, limits: Limits) -> Result<Self, OpenError> {
        Ok(Self { handle: writer::start(file, limits)? })
    }

    /// Serves connections until it is dropped, and ends them then. May be called for several listeners.
    pub async fn serve(&self, listener: Listener) -> Result<Infallible, TlsError> {
        Server::new(self.handle.clone()).run(listener).await
    }
}

/// Reads a request as a stranger may send it, as far as that goes without a store: for fuzzing.
#[doc(hidden)]
pub fn read_request(path: &str, body: &[u8]) -> bool {
    let Ok(api::Incoming::Request(request)) = api::read(path, body) else { return false };
    // Whatever it asks for: it is answered, and what it changed is the same when it is read again.
    let mut machine = machine::Machine::new(1, Limits::default());
    let mut again = machine.clone();
    let (answer, record) = machine.handle(request, std::time::Duration::ZERO);
    if let Some(record) = record {
        again.replay(record).expect("what has just happened can happen");
        assert_eq!(machine, again);
    }
    answer.is_ok()
}

/// Reads a store's file: for fuzzing. What can be read can be written and read again.
#[doc(hidden)]
pub fn read_store(file: &[u8]) -> bool {
    let Ok(loaded) = log::read(file, Limits::default()) else { return false };
    assert!(loaded.sound_bytes <= file.len());
    let (_, text) = log::Log::begin([7; 16], loaded.log.id(), &loaded.machine);
    let again = log::read(&text, Limits::default()).expect("what was written can be read");
    assert_eq!(again.machine, loaded.machine);
    true
}

/// A file with these lines of records, with checksums as they should be: for fuzzing.
#[doc(hidden)]
pub fn seal_store(lines: &[&[u8]]) -> Vec<u8> {
    log::seal([7; 16], lines)
}
