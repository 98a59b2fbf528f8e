//! The byte streams that connections run over.

use std::fs::File;
use std::io;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};

/// A client's byte stream. TLS streams implement it with nothing but the defaults.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Whether the end of what is sent is a message of its own, without which the peer takes it for cut off.
    const SAYS_GOODBYE: bool = false;

    /// Sends up to `length` bytes of a file from `offset` on without passing through user space (sendfile(2));
    /// answers how many were taken. `None` where the stream cannot do that.
    fn poll_send_file(
        &self,
        _cx: &mut Context<'_>,
        _file: &File,
        _offset: u64,
        _length: u64,
    ) -> Option<Poll<io::Result<usize>>> {
        None
    }

    /// Writes bytes that something follows at once, so that both leave together (`MSG_MORE`). `None` where the stream
    /// cannot do that.
    fn poll_write_more(&self, _cx: &mut Context<'_>, _bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        None
    }
}

/// Bytes taken by one sendfile call at most: one connection must not hold its worker for long.
const SENDFILE_BYTES: u64 = 1 << 20;

impl Transport for TcpStream {
    fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        length: u64,
    ) -> Option<Poll<io::Result<usize>>> {
        Some(when_writable(
            || self.poll_write_ready(cx),
            || self.try_io(Interest::WRITABLE, || sendfile_once(self, file, offset, length)),
        ))
    }

    fn poll_write_more(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        Some(when_writable(
            || self.poll_write_ready(cx),
            || self.try_io(Interest::WRITABLE, || Ok(rustix::net::send(self, bytes, SendFlags::MORE)?)),
        ))
    }
}

impl Transport for UnixStream {
    fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        length: u64,
    ) -> Option<Poll<io::Result<usize>>> {
        Some(when_writable(
            || self.poll_write_ready(cx),
            || self.try_io(Interest::WRITABLE, || sendfile_once(self, file, offset, length)),
        ))
    }

    fn poll_write_more(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        Some(when_writable(
            || self.poll_write_ready(cx),
            || self.try_io(Interest::WRITABLE, || Ok(rustix::net::send(self, bytes, SendFlags::MORE)?)),
        ))
    }
}

fn sendfile_once(socket: impl std::os::fd::AsFd, file: &File, offset: u64, length: u64) -> io::Result<usize> {
    let mut offset = offset;
    let count = length.min(SENDFILE_BYTES) as usize;
    Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), count)?)
}

fn when_writable(
    mut ready: impl FnMut() -> Poll<io::Result<()>>,
    mut send: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(ready())?;
        match send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}
