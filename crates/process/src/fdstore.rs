//! Descriptors that outlive a service: systemd's file descriptor store, both ends of it.
//!
//! A service sends descriptors to its manager with [`Notifier::keep`]; when the service is started again, however
//! it ended, the manager hands them back as inherited descriptors 3, 4, ... with their names (`sd_notify(3)`,
//! `sd_pid_notify_with_fds(3)`). On a real server the manager is systemd; in the lab it is the server's PID 1,
//! which uses [`FdStore`].

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::descriptors::FIRST;

/// Descriptors in one message; the kernel allows 253.
const DESCRIPTORS_PER_MESSAGE: usize = 64;
/// Bytes in one message.
const MESSAGE_BYTES: usize = 4096;
/// A manager whose queue stays full for this long does not get the message.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// systemd's limit for a name.
const NAME_BYTES: usize = 255;

/// Whether a text may name a descriptor: printable ASCII without `:`, at most 255 bytes.
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_BYTES
        && text.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b':')
}

/// The way to whoever started this service.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// The notifier that `NOTIFY_SOCKET` names; none if nobody listens for notifications.
    pub fn from_environment() -> io::Result<Option<Self>> {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(path) if !path.is_empty() => Self::to(Path::new(&path)).map(Some),
            _ => Ok(None),
        }
    }

    /// A notifier to a socket; a path that starts with `@` is an abstract name.
    pub fn to(path: &Path) -> io::Result<Self> {
        let text = path.as_os_str().as_encoded_bytes();
        let address = match text.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_WITHIN))?;
        Ok(Self { socket, address })
    }

    /// Sends lines such as `READY=1`.
    pub fn notify(&self, lines: &str) -> io::Result<()> {
        self.socket.send_to_addr(lines.as_bytes(), &self.address).map(drop)
    }

    /// Asks to keep descriptors under one name, in this order.
    pub fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if !is_name(name) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} cannot name a descriptor"),
            ));
        }
        // FDPOLL=0: a listening socket or a pipe that is quiet must not be dropped for what poll says of it.
        let message = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
        for part in descriptors.chunks(DESCRIPTORS_PER_MESSAGE) {
            self.send_with(message.as_bytes(), part)?;
        }
        Ok(())
    }

    /// Asks to drop the descriptors of this name.
    pub fn drop_kept(&self, name: &str) -> io::Result<()> {
        self.notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"))
    }

    fn send_with(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
        }
        // Connecting each time, for the manager may have made its socket anew.
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_WITHIN))?;
        socket.connect_addr(&self.address)?;
        rustix::net::sendmsg(&socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// What a service said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// It is ready.
    Ready,
    /// It is about to stop.
    Stopping,
    /// Descriptors were taken in.
    Kept(usize),
    /// Descriptors were not taken in, for the store is full or their name is wrong. They are closed.
    Refused(usize),
    /// Descriptors were dropped.
    Dropped(usize),
    /// Something that this manager has no use for.
    Other,
}

/// The manager's side: keeps a service's descriptors until it starts again.
#[derive(Debug)]
pub struct FdStore {
    socket: UnixDatagram,
    path: PathBuf,
    kept: Vec<(String, OwnedFd)>,
    most: usize,
}

impl FdStore {
    /// Listens on `path`, which becomes the service's `NOTIFY_SOCKET` (mode 0600), and keeps at most `most` descriptors.
    pub fn listen(path: &Path, most: usize) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned(), kept: Vec::new(), most })
    }

    /// The descriptor to wait on until [`Self::receive`] has something.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one message in; none if there is none.
    pub fn receive(&mut self) -> io::Result<Option<Notification>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; MESSAGE_BYTES];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received =
            match rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        Ok(Some(self.take(&String::from_utf8_lossy(&bytes[..received]), descriptors)))
    }

    fn take(&mut self, message: &str, descriptors: Vec<OwnedFd>) -> Notification {
        let value = |key: &str| {
            message.lines().find_map(|line| line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')))
        };
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTOREREMOVE") == Some("1") {
            let before = self.kept.len();
            self.kept.retain(|(kept, _)| kept != name);
            Notification::Dropped(before - self.kept.len())
        } else if value("FDSTORE") == Some("1") {
            let count = descriptors.len();
            if !is_name(name) || self.kept.len() + count > self.most {
                return Notification::Refused(count);
            }
            self.kept.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
            Notification::Kept(count)
        } else if value("READY") == Some("1") {
            Notification::Ready
        } else if value("STOPPING") == Some("1") {
            Notification::Stopping
        } else {
            Notification::Other
        }
    }

    /// How many descriptors are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Forgets all descriptors; for a service that was stopped for good.
    pub fn clear(&mut self) {
        self.kept.clear();
    }

    /// Lets `command` inherit the kept descriptors, and tells it where to send notifications. `LISTEN_PID` is not set: the number
    /// is not known before the start, and a receiver takes its absence as "for you".
    pub fn hand_over(&self, command: &mut Command) -> io::Result<()> {
        let mut mappings = Vec::new();
        for (number, (_, descriptor)) in (FIRST..).zip(&self.kept) {
            mappings.push(FdMapping { parent_fd: descriptor.try_clone()?, child_fd: number });
        }
        let names: Vec<&str> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env_remove("LISTEN_PID");
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(most: usize) -> (tempfile::TempDir, FdStore, Notifier) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let store = FdStore::listen(&path, most).unwrap();
        let notifier = Notifier::to(&path).unwrap();
        (folder, store, notifier)
    }

    #[test]
    fn kept_descriptors_keep_name_and_order_and_are_dropped_by_name() {
        let (_folder, mut store, notifier) = pair(10);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        notifier.keep("log|web", &[reader.as_fd(), writer.as_fd()]).unwrap();
        notifier.notify("READY=1\nSTATUS=fine").unwrap();
        notifier.drop_kept("log|web").unwrap();
        assert_eq!(store.receive().unwrap(), Some(Notification::Kept(2)));
        rustix::io::write(&store.kept[1].1, b"through").unwrap();
        let mut bytes = [0; 7];
        rustix::io::read(&reader, &mut bytes).unwrap();
        assert_eq!(&bytes, b"through");
        assert_eq!(store.receive().unwrap(), Some(Notification::Ready));
        assert_eq!(store.receive().unwrap(), Some(Notification::Dropped(2)));
        assert_eq!(store.receive().unwrap(), None);
    }

    #[test]
    fn a_full_store_refuses_and_a_wrong_name_is_never_sent() {
        let (_folder, mut store, notifier) = pair(1);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        notifier.keep("two", &[reader.as_fd(), writer.as_fd()]).unwrap();
        assert_eq!(store.receive().unwrap(), Some(Notification::Refused(2)));
        assert!(store.is_empty());
        assert!(notifier.keep("a:b", &[reader.as_fd()]).is_err());
        assert!(!is_name(&"x".repeat(256)));
    }

    #[test]
    fn a_started_program_inherits_what_was_kept() {
        let (_folder, mut store, notifier) = pair(10);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        notifier.keep("first", &[reader.as_fd()]).unwrap();
        notifier.keep("second", &[writer.as_fd()]).unwrap();
        while store.receive().unwrap().is_some() {}
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo $LISTEN_FDS $LISTEN_FDNAMES >&4; readlink /proc/self/fd/3 >&4"]);
        store.hand_over(&mut command).unwrap();
        assert!(command.status().unwrap().success());
        let mut bytes = [0; 200];
        let read = rustix::io::read(&reader, &mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..read]);
        assert!(text.starts_with("2 first:second\npipe:"), "{text}");
    }
}
