//! The listening sockets of a role's process: those that it was started with, or, started by hand, its own.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use socket2::{Socket, Type};
use thiserror::Error;

use crate::SocketSpec;
use crate::descriptors::{InheritedError, inherited_descriptors};
use crate::sockets::{SocketError, Sockets};

/// Shares of an address, and so workers, that a role started by hand has at most.
const MOST_SHARES: usize = 64;

/// Why a role has no sockets to serve.
#[derive(Debug, Error)]
pub enum WorkerSocketsError {
    /// The sockets that were handed over cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] SocketError),
    /// Neither the plan nor the agent names an address.
    #[error("there is no address to listen on")]
    NoAddress,
    /// The operating system refused to share a socket between workers.
    #[error("a listening socket cannot be shared between workers: {0}")]
    System(#[source] io::Error),
}

/// A listening socket that this process serves.
#[derive(Debug)]
pub enum InheritedSocket {
    /// A TCP listener.
    Tcp {
        /// What it listens on.
        address: SocketAddr,
        /// The listener, not blocking.
        listener: TcpListener,
    },
    /// A UDP socket.
    Udp {
        /// What it listens on.
        address: SocketAddr,
        /// The socket, not blocking.
        socket: UdpSocket,
    },
    /// A Unix stream listener.
    Unix {
        /// Its path.
        path: PathBuf,
        /// The listener, not blocking.
        listener: UnixListener,
    },
}

/// The sockets of each worker of a role: those that the agent handed over, or, started by hand, those of `own`, in as
/// many shares as there are cores. Every socket is some worker's: a share that nobody serves would swallow its part of
/// the connections. A Unix socket has no shares; each worker accepts from it.
pub fn worker_sockets(
    own: impl FnOnce(u16) -> Vec<SocketSpec>,
) -> Result<Vec<Vec<InheritedSocket>>, WorkerSocketsError> {
    let inherited = inherited_sockets()?;
    let sockets = if inherited.is_empty() { open(&own(cores()))? } else { inherited };
    by_worker(sockets)
}

/// The listening sockets that this process was started with, in order, ready for an asynchronous runtime. Empty if
/// it was started by hand. Can be called once.
pub fn inherited_sockets() -> Result<Vec<InheritedSocket>, InheritedError> {
    inherited_descriptors()?
        .into_iter()
        .map(|(name, descriptor)| {
            typed(&name, descriptor).map_err(|source| InheritedError::Unusable { name, source })
        })
        .collect()
}

fn typed(name: &str, descriptor: OwnedFd) -> io::Result<InheritedSocket> {
    let socket = Socket::from(descriptor);
    socket.set_nonblocking(true)?;
    if let Some(path) = name.strip_prefix("unix|") {
        return Ok(InheritedSocket::Unix { path: path.into(), listener: socket.into() });
    }
    let local = || {
        let address = socket.local_addr()?;
        address.as_socket().ok_or_else(|| io::Error::other("it is no internet socket"))
    };
    match socket.r#type()? {
        Type::STREAM => Ok(InheritedSocket::Tcp { address: local()?, listener: socket.into() }),
        Type::DGRAM => Ok(InheritedSocket::Udp { address: local()?, socket: socket.into() }),
        _ => Err(io::Error::other("it is neither TCP nor UDP nor a Unix stream socket")),
    }
}

fn cores() -> u16 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_SHARES)) as u16
}

fn open(specs: &[SocketSpec]) -> Result<Vec<InheritedSocket>, WorkerSocketsError> {
    let mut sockets = Sockets::default();
    for spec in specs {
        sockets.open(spec)?;
    }
    let opened = sockets.of(specs)?.into_iter().map(|(name, descriptor)| {
        let descriptor = descriptor.try_clone_to_owned()?;
        typed(&name, descriptor)
    });
    opened.collect::<io::Result<_>>().map_err(WorkerSocketsError::System)
}

fn by_worker(sockets: Vec<InheritedSocket>) -> Result<Vec<Vec<InheritedSocket>>, WorkerSocketsError> {
    let mut workers: Vec<Vec<InheritedSocket>> = Vec::new();
    let mut next: HashMap<(SocketAddr, bool), usize> = HashMap::new();
    let mut unix = Vec::new();
    for socket in sockets {
        let address_and_is_udp = match &socket {
            InheritedSocket::Tcp { address, .. } => (*address, false),
            InheritedSocket::Udp { address, .. } => (*address, true),
            InheritedSocket::Unix { path, listener } => {
                unix.push((path.clone(), listener.try_clone().map_err(WorkerSocketsError::System)?));
                continue;
            }
        };
        let index = next.entry(address_and_is_udp).or_default();
        if workers.len() == *index {
            workers.push(Vec::new());
        }
        workers[*index].push(socket);
        *index += 1;
    }
    if workers.is_empty() && !unix.is_empty() {
        workers.push(Vec::new());
    }
    for (path, listener) in unix {
        for worker in &mut workers {
            let listener = listener.try_clone().map_err(WorkerSocketsError::System)?;
            worker.push(InheritedSocket::Unix { path: path.clone(), listener });
        }
    }
    if workers.is_empty() { Err(WorkerSocketsError::NoAddress) } else { Ok(workers) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn a_connection_made_before_anyone_accepts_is_served_by_who_comes_later() {
        let address = free_address();
        let spec = SocketSpec::Tcp { address, shares: 1 };
        let mut sockets = Sockets::default();
        sockets.open(&spec).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"early").unwrap();
        let (name, descriptor) = sockets.of(&[spec]).unwrap().remove(0);
        let inherited = typed(&name, descriptor.try_clone_to_owned().unwrap()).unwrap();
        let InheritedSocket::Tcp { listener, .. } = inherited else { panic!("not TCP") };
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(false).unwrap();
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"early");
    }

    #[test]
    fn every_share_of_every_address_is_some_workers() {
        let (one, two) = (free_address(), free_address());
        let specs = [
            SocketSpec::Tcp { address: one, shares: 2 },
            SocketSpec::Udp { address: one, shares: 2 },
            SocketSpec::Tcp { address: two, shares: 3 },
        ];
        let workers = by_worker(open(&specs).unwrap()).unwrap();
        assert_eq!(workers.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    }

    #[test]
    fn each_worker_accepts_from_a_unix_socket() {
        let folder = tempfile::Builder::new().prefix("mainstay-test-").tempdir().unwrap();
        let unix = || {
            let path = folder.path().join("role.sock");
            let listener = UnixListener::bind(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            InheritedSocket::Unix { path, listener }
        };
        assert_eq!(by_worker(vec![unix()]).unwrap().len(), 1);
        let mut sockets = vec![unix()];
        sockets.extend(open(&[SocketSpec::Tcp { address: free_address(), shares: 2 }]).unwrap());
        let workers = by_worker(sockets).unwrap();
        assert_eq!(workers.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        assert!(matches!(by_worker(Vec::new()), Err(WorkerSocketsError::NoAddress)));
    }
}
