//! Listening sockets: opened once by the agent, given to every generation of a role, and kept across the agent's own end.
//!
//! A connection waits in the queue of the socket that the kernel chose for it. With `SO_REUSEPORT` each share has a queue
//! of its own, so a share that nobody accepts on is a black hole: a role has exactly as many workers as it is handed
//! shares. A share is closed only when its address is given up: where a plan asks for fewer, all that are open are
//! still handed over.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thiserror::Error;

use crate::SocketSpec;
use crate::account::{self, Account, AccountError};
use crate::fdstore::Notifier;

/// Connections that may wait in one queue; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Bytes that a UDP socket may hold, so that a burst of questions is not lost while a role is replaced.
const UDP_BUFFER_BYTES: usize = 1 << 20;

/// Why a socket cannot be opened.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The address cannot be listened on.
    #[error("{name} cannot be opened: {source}{}", remedy(source))]
    Open {
        /// The socket.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The owner of a Unix socket does not exist.
    #[error("{name} cannot be opened: {source}")]
    Owner {
        /// The socket.
        name: String,
        /// Why.
        source: AccountError,
    },
    /// The supervisor was asked for a socket that it does not hold.
    #[error("{name} is not open")]
    NotOpen {
        /// The socket.
        name: String,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: find it with `ss -ltnup` and stop it",
        io::ErrorKind::AddrNotAvailable => "; this server has no such address: compare with `ip address`",
        _ => "",
    }
}

impl SocketSpec {
    /// The name that its descriptors have: `tcp|10.10.0.11|80`, `unix|/run/mainstay/app-shop/app.sock`. A name
    /// of descriptors may hold no `:`, so `|` stands for it.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp { address, .. } => format!("tcp:{address}").replace(':', "|"),
            Self::Udp { address, .. } => format!("udp:{address}").replace(':', "|"),
            Self::Unix { path, .. } => format!("unix|{}", path.display()),
        }
    }

    /// How many descriptors it stands for.
    pub fn count(&self) -> usize {
        match self {
            Self::Tcp { shares, .. } | Self::Udp { shares, .. } => usize::from(*shares),
            Self::Unix { .. } => 1,
        }
    }
}

/// The listening sockets of one server.
#[derive(Debug, Default)]
pub struct Sockets {
    held: BTreeMap<String, Vec<OwnedFd>>,
    notifier: Option<Rc<Notifier>>,
}

impl Sockets {
    /// Begins with what was kept across the end of an earlier supervisor. New ones are given to `notifier` to keep.
    pub fn new(kept: Vec<(String, OwnedFd)>, notifier: Option<Rc<Notifier>>) -> Self {
        let mut held: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (name, descriptor) in kept {
            held.entry(name).or_default().push(descriptor);
        }
        Self { held, notifier }
    }

    /// Opens what is missing of `spec`. Queues that hold connections stay as they are.
    pub fn open(&mut self, spec: &SocketSpec) -> Result<(), SocketError> {
        let name = spec.name();
        let missing = spec.count().saturating_sub(self.held.get(&name).map_or(0, Vec::len));
        let failed = |source| SocketError::Open { name: name.clone(), source };
        for _ in 0..missing {
            let descriptor = match spec {
                SocketSpec::Tcp { address, .. } => tcp(*address).map_err(failed)?,
                SocketSpec::Udp { address, .. } => udp(*address).map_err(failed)?,
                SocketSpec::Unix { path, user, group } => {
                    let owned = |source| SocketError::Owner { name: name.clone(), source };
                    let uid = Account::of(user).map_err(owned)?.uid;
                    let gid = account::group(group).map_err(owned)?;
                    unix(path, uid, gid).map_err(failed)?
                }
            };
            self.keep(&name, descriptor);
        }
        Ok(())
    }

    /// Takes a socket over that a running child holds, after an agent ended that had nowhere to keep it.
    pub fn recover(&mut self, spec: &SocketSpec, descriptor: OwnedFd) {
        let name = spec.name();
        if self.held.get(&name).map_or(0, Vec::len) < spec.count() && is_of(spec, &descriptor) {
            self.keep(&name, descriptor);
        }
    }

    fn keep(&mut self, name: &str, descriptor: OwnedFd) {
        if let Some(notifier) = &self.notifier
            && let Err(error) = notifier.keep(name, &[descriptor.as_fd()])
        {
            tracing::warn!(socket = name, %error, "the socket cannot be kept across the end of this agent");
        }
        self.held.entry(name.to_owned()).or_default().push(descriptor);
    }

    /// The descriptors of these sockets with their names, in order: every open share, even where a spec asks for fewer.
    pub fn of(&self, specs: &[SocketSpec]) -> Result<Vec<(String, BorrowedFd<'_>)>, SocketError> {
        let mut all = Vec::new();
        for spec in specs {
            let name = spec.name();
            let held = self.held.get(&name).map_or(&[][..], Vec::as_slice);
            if held.len() < spec.count() {
                return Err(SocketError::NotOpen { name });
            }
            all.extend(held.iter().map(|descriptor| (name.clone(), descriptor.as_fd())));
        }
        Ok(all)
    }

    /// Closes every socket that none of these asks for.
    pub fn release_all_but(&mut self, wanted: &[SocketSpec]) {
        let names: Vec<String> = wanted.iter().map(SocketSpec::name).collect();
        let gone: Vec<String> = self.held.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.held.remove(&name);
            if let Some(notifier) = &self.notifier
                && let Err(error) = notifier.drop_kept(&name)
            {
                tracing::warn!(socket = name, %error, "the socket is still kept outside this agent");
            }
            if let Some(path) = name.strip_prefix("unix|") {
                // Someone else may have put a socket of his own there; a missing file is what we want.
                let _ = std::fs::remove_file(path);
            }
            tracing::info!(socket = name, "no longer listening");
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Binds under another name and renames into place, so that the path never leads nowhere and a stale socket is replaced.
fn unix(path: &Path, uid: u32, gid: u32) -> io::Result<OwnedFd> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&fresh)?)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660))?;
    std::os::unix::fs::chown(&fresh, Some(uid), Some(gid))?;
    socket.listen(BACKLOG)?;
    std::fs::rename(&fresh, path)?;
    Ok(socket.into())
}

fn is_of(spec: &SocketSpec, descriptor: &OwnedFd) -> bool {
    let Ok(socket) = descriptor.try_clone().map(Socket::from) else { return false };
    let (Ok(kind), Ok(local)) = (socket.r#type(), socket.local_addr()) else { return false };
    match spec {
        SocketSpec::Tcp { address, .. } => kind == Type::STREAM && local.as_socket() == Some(*address),
        SocketSpec::Udp { address, .. } => kind == Type::DGRAM && local.as_socket() == Some(*address),
        // The kernel still tells the name that it was bound under, before the rename.
        SocketSpec::Unix { path, .. } => {
            let bound = path
                .with_file_name(format!("{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
            kind == Type::STREAM && local.as_pathname().is_some_and(|local| local == path || local == bound)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn names_of_sockets_are_names_that_a_descriptor_may_have() {
        let address = "[fd10::11]:80".parse().unwrap();
        let spec = SocketSpec::Tcp { address, shares: 2 };
        assert_eq!(spec.name(), "tcp|[fd10||11]|80");
        assert!(crate::fdstore::is_name(&spec.name()));
    }

    #[test]
    fn opening_twice_opens_once_and_more_shares_leave_the_open_ones() {
        let address = free_address();
        let mut sockets = Sockets::default();
        sockets.open(&SocketSpec::Tcp { address, shares: 1 }).unwrap();
        let first = format!("{:?}", sockets.held.values().next().unwrap()[0]);
        let two = SocketSpec::Tcp { address, shares: 2 };
        sockets.open(&two).unwrap();
        sockets.open(&two).unwrap();
        assert_eq!(sockets.of(std::slice::from_ref(&two)).unwrap().len(), 2);
        assert_eq!(format!("{:?}", sockets.held.values().next().unwrap()[0]), first);
        sockets.release_all_but(&[]);
        assert!(matches!(sockets.of(&[two]), Err(SocketError::NotOpen { .. })));
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_released_one_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        drop(UnixListener::bind(&path).unwrap());
        let spec = SocketSpec::Unix { path: path.clone(), user: "root".into(), group: "root".into() };
        let mut sockets = Sockets::default();
        sockets.open(&spec).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        sockets.release_all_but(&[]);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_socket_of_the_same_address_is_recovered() {
        let address = free_address();
        let spec = SocketSpec::Tcp { address, shares: 1 };
        let mut other = Sockets::default();
        other.recover(&spec, TcpListener::bind("127.0.0.1:0").unwrap().into());
        assert!(other.of(std::slice::from_ref(&spec)).is_err());
        other.recover(&spec, TcpListener::bind(address).unwrap().into());
        assert!(other.of(&[spec]).is_ok());
    }
}
