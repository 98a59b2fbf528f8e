//! A connection that packets go over: plain or TLS, with buffers of a bounded size and, towards clients, compression.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, BytesMut};
use mainstay_http::tls::{TlsStream, UpstreamTlsStream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::wire::compress::Compressed;
use crate::wire::packet::{HEADER, LONGEST, frame, header};

/// Bytes that are read at once.
const READ_BYTES: usize = 32 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES: usize = 256 << 10;

/// The transport.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A client over TLS.
    Server(Box<TlsStream<TcpStream>>),
    /// A server over TLS.
    Client(Box<UpstreamTlsStream<TcpStream>>),
    /// While it is being made into one over TLS.
    Gone,
}

/// Calls one method on whichever stream it is.
macro_rules! each {
    ($stream:expr, $it:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp($it) => $call,
            Stream::Unix($it) => $call,
            Stream::Server($it) => $call,
            Stream::Client($it) => $call,
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, it => Pin::new(it).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, it => Pin::new(it).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, it => Pin::new(it).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, it => Pin::new(it).poll_shutdown(cx))
    }
}

/// One command of a client: its payload, behind room for the header.
#[derive(Debug)]
pub(crate) struct Command {
    raw: BytesMut,
}

impl Command {
    /// A command that the router makes itself.
    pub(crate) fn new(kind: u8, rest: &[u8]) -> Self {
        let mut raw = BytesMut::with_capacity(HEADER + 1 + rest.len());
        raw.extend_from_slice(&[0; HEADER]);
        raw.extend_from_slice(&[kind]);
        raw.extend_from_slice(rest);
        Self { raw }
    }

    /// A statement as text.
    pub(crate) fn query(text: &str) -> Self {
        Self::new(crate::wire::command::QUERY, text.as_bytes())
    }

    pub(crate) fn kind(&self) -> u8 {
        self.raw.get(HEADER).copied().unwrap_or(0)
    }

    /// What follows the byte of the command.
    pub(crate) fn body(&self) -> &[u8] {
        self.raw.get(HEADER + 1..).unwrap_or_default()
    }

    pub(crate) fn body_mut(&mut self) -> &mut [u8] {
        self.raw.get_mut(HEADER + 1..).unwrap_or_default()
    }

    fn put(&mut self, out: &mut BytesMut) {
        let length = self.raw.len() - HEADER;
        if length < LONGEST {
            self.raw[..3].copy_from_slice(&(length as u32).to_le_bytes()[..3]);
            self.raw[3] = 0;
            out.extend_from_slice(&self.raw);
        } else {
            frame(&self.raw[HEADER..], 0, out);
        }
    }
}

/// A connection and its buffers.
pub(crate) struct Channel {
    stream: Stream,
    /// Plain bytes that were read.
    pub(crate) input: BytesMut,
    /// Plain bytes that are to be written.
    pub(crate) output: BytesMut,
    compressed: Option<Box<Packed>>,
}

#[derive(Debug, Default)]
struct Packed {
    codec: Compressed,
    input: BytesMut,
    output: BytesMut,
}

impl Channel {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new(), output: BytesMut::new(), compressed: None }
    }

    /// Whether nobody on the way can read along.
    pub(crate) fn is_private(&self) -> bool {
        !matches!(self.stream, Stream::Tcp(_))
    }

    /// Takes the transport out, to make it into one over TLS.
    pub(crate) fn take_stream(&mut self) -> Stream {
        std::mem::replace(&mut self.stream, Stream::Gone)
    }

    pub(crate) fn set_stream(&mut self, stream: Stream) {
        self.stream = stream;
    }

    /// The socket once more, to cut the connection from elsewhere.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        let socket = match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Client(stream) => stream.get_ref().0.as_fd(),
            Stream::Server(_) | Stream::Gone => return Err(io::ErrorKind::Unsupported.into()),
        };
        socket.try_clone_to_owned()
    }

    /// From now on everything travels compressed.
    pub(crate) fn compress(&mut self) {
        self.compressed = Some(Box::default());
    }

    /// Reads more into the input; 0 at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = BytesMut::new();
        }
        let Some(packed) = &mut self.compressed else {
            self.input.reserve(READ_BYTES);
            return self.stream.read_buf(&mut self.input).await;
        };
        loop {
            let before = self.input.len();
            let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            if packed.codec.take(&mut packed.input, &mut self.input).map_err(malformed)? {
                return Ok(self.input.len() - before);
            }
            packed.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut packed.input).await? == 0 {
                return Ok(0);
            }
        }
    }

    /// The next command of a client; `None` at the end of the stream. One of more than `most` bytes is refused.
    pub(crate) async fn command(&mut self, most: usize) -> io::Result<Option<Command>> {
        loop {
            if let Some((length, _)) = header(&self.input)
                && length < LONGEST
                && self.input.len() >= HEADER + length
            {
                if length > most {
                    return Err(too_long());
                }
                return Ok(Some(Command { raw: self.input.split_to(HEADER + length) }));
            }
            if let Some((LONGEST, _)) = header(&self.input) {
                return self.long_command(most).await.map(Some);
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn long_command(&mut self, most: usize) -> io::Result<Command> {
        let mut raw = BytesMut::zeroed(HEADER);
        loop {
            let (payload, _) = self.packet_of(LONGEST).await?;
            if raw.len() + payload.len() > most + HEADER {
                return Err(too_long());
            }
            raw.extend_from_slice(&payload);
            if payload.len() < LONGEST {
                return Ok(Command { raw });
            }
        }
    }

    /// One packet in full: payload and sequence number. Bounded by `most` bytes.
    pub(crate) async fn packet_of(&mut self, most: usize) -> io::Result<(BytesMut, u8)> {
        loop {
            if let Some((length, sequence)) = header(&self.input) {
                if length > most {
                    return Err(too_long());
                }
                if self.input.len() >= HEADER + length {
                    self.input.advance(HEADER);
                    return Ok((self.input.split_to(length), sequence));
                }
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// One packet, and not a byte more: what follows it may be for TLS.
    pub(crate) async fn lone_packet(&mut self, most: usize) -> io::Result<(BytesMut, u8)> {
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head).await?;
        let (length, sequence) = header(&head).ok_or(io::ErrorKind::InvalidData)?;
        if length > most {
            return Err(too_long());
        }
        let mut payload = BytesMut::zeroed(length);
        self.stream.read_exact(&mut payload).await?;
        Ok((payload, sequence))
    }

    /// Puts a payload into the output.
    pub(crate) fn put(&mut self, payload: &[u8], sequence: u8) -> u8 {
        frame(payload, sequence, &mut self.output)
    }

    /// Puts a command into the output.
    pub(crate) fn put_command(&mut self, command: &mut Command) {
        command.put(&mut self.output);
    }

    /// Writes the output.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        if let Some(packed) = &mut self.compressed {
            packed.codec.put(&self.output, &mut packed.output);
            self.output.clear();
            self.stream.write_all(&packed.output).await?;
            packed.output.clear();
        } else {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
            if self.output.capacity() > KEPT_BYTES {
                self.output = BytesMut::new();
            }
        }
        // TLS keeps what it has until it is told.
        self.stream.flush().await
    }

    /// Writes bytes behind the output, without a copy where that is possible.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.compressed.is_some() || !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return self.flush().await;
        }
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Whether the other side closed the connection, or sent what nobody asked for, as far as is known without waiting.
    pub(crate) fn is_stale(&mut self) -> bool {
        if !self.input.is_empty() {
            return true;
        }
        let mut byte = [0; 1];
        let mut buf = ReadBuf::new(&mut byte);
        // Usually this asks no one: the runtime knows whether anything came.
        let read = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        !matches!(read, Poll::Pending)
    }

    pub(crate) async fn close(&mut self) {
        // It is over either way.
        let _ = self.stream.shutdown().await;
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a packet is longer than is allowed")
}
