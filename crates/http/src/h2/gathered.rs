//! Frames on their way out: bytes in memory, and parts of files between them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};

use super::files::Files;
use super::meter::FRAME_HEAD;
use crate::FileRange;
use crate::body::read_piece;
use crate::transport::Transport;

/// A buffer that has grown is given back when it is empty: idle connections hold little.
const KEPT_BYTES: usize = 8 * 1024;
/// From this size on a buffer is about to be filled again; giving it back each time would cost more than the writing.
const BUSY_BYTES: usize = 32 * 1024;
/// Pieces in one write.
const SLICES: usize = 32;

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Gathered {
    /// Bytes that were copied, of all pieces one after the other.
    bytes: Vec<u8>,
    written: usize,
    pieces: VecDeque<Piece>,
    length: usize,
    /// The stream cannot send files: they are read into memory.
    reads_files: bool,
}

enum Piece {
    /// The next so many of the copied bytes.
    Copied(usize),
    Read(Bytes),
    File(FileRange),
}

impl Gathered {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.length += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Copied(count)) => *count += bytes.len(),
            _ => self.pieces.push_back(Piece::Copied(bytes.len())),
        }
    }

    fn put_file(&mut self, range: FileRange) {
        self.length += range.length as usize;
        self.pieces.push_back(Piece::File(range));
    }

    /// Writes some of what waits; answers how much.
    pub(crate) fn poll_write<T: Transport>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.reads_files {
            self.read_files()?;
        }
        let count = match self.pieces.front() {
            Some(Piece::File(range)) => {
                let Some(sent) = io.poll_send_file(cx, &range.file, range.offset, range.length) else {
                    self.reads_files = true;
                    return self.poll_write(io, cx);
                };
                match ready!(sent)? {
                    // The file became shorter: the frames that were promised cannot be kept.
                    0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    count => count,
                }
            }
            _ => ready!(self.poll_write_memory(io, cx))?,
        };
        self.advance(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_memory<T: Transport>(&self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut at) = (0, self.written);
        for piece in self.pieces.iter().take(SLICES) {
            slices[count] = match piece {
                Piece::Copied(length) => {
                    let slice = IoSlice::new(&self.bytes[at..at + length]);
                    at += length;
                    slice
                }
                Piece::Read(bytes) => IoSlice::new(bytes),
                Piece::File(_) => break,
            };
            count += 1;
        }
        // A head goes out together with the part of a file that follows it.
        if let (1, Some(Piece::File(_))) = (count, self.pieces.get(1))
            && let Some(written) = io.poll_write_more(cx, &slices[0])
        {
            return written;
        }
        Pin::new(io).poll_write_vectored(cx, &slices[..count])
    }

    fn read_files(&mut self) -> io::Result<()> {
        for piece in &mut self.pieces {
            if let Piece::File(range) = piece {
                let wanted = range.length;
                let bytes = read_piece(range)?;
                if bytes.len() as u64 != wanted {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *piece = Piece::Read(bytes);
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let (step, left) = match piece {
                Piece::Copied(length) => {
                    let step = count.min(*length);
                    *length -= step;
                    self.written += step;
                    (step, *length)
                }
                Piece::Read(bytes) => {
                    let step = count.min(bytes.len());
                    bytes.advance(step);
                    (step, bytes.len())
                }
                Piece::File(range) => {
                    let step = count.min(range.length as usize);
                    range.offset += step as u64;
                    range.length -= step as u64;
                    (step, range.length as usize)
                }
            };
            count -= step;
            if left == 0 {
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            let is_busy = self.bytes.len() >= BUSY_BYTES;
            self.bytes.clear();
            self.written = 0;
            if !is_busy {
                self.bytes.shrink_to(KEPT_BYTES);
            }
        }
    }
}

/// Follows the frames that the `h2` crate writes, and puts files where they belong.
#[derive(Default)]
pub(crate) struct Frames {
    head: [u8; FRAME_HEAD],
    have: usize,
    payload_left: usize,
    /// The payload was replaced.
    replaced: bool,
}

impl Frames {
    pub(crate) fn put(&mut self, mut bytes: &[u8], files: &mut Files, out: &mut Gathered) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let (payload, rest) = bytes.split_at(self.payload_left.min(bytes.len()));
                self.payload_left -= payload.len();
                if !self.replaced {
                    out.copy(payload);
                }
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((FRAME_HEAD - self.have).min(bytes.len()));
            self.head[self.have..self.have + part.len()].copy_from_slice(part);
            self.have += part.len();
            out.copy(part);
            bytes = rest;
            if self.have == FRAME_HEAD {
                self.have = 0;
                self.begin_payload(files, out);
            }
        }
    }

    fn begin_payload(&mut self, files: &mut Files, out: &mut Gathered) {
        const DATA: u8 = 0;
        let [a, b, c, kind, _, stream @ ..] = self.head;
        self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.replaced = false;
        let stream = u32::from_be_bytes(stream);
        if kind == DATA
            && self.payload_left > 0
            && files.has(stream)
            && let Some(part) = files.take(stream, self.payload_left as u64)
        {
            self.replaced = true;
            out.put_file(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{RefCell, RefMut};
    use std::fs::File;
    use std::io::Write as _;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::{Frames, Gathered};
    use crate::FileRange;
    use crate::h2::files::{FileWire, Files, Lent};
    use crate::transport::Transport;

    struct Slow(tokio::io::DuplexStream);

    impl Transport for Slow {}

    impl tokio::io::AsyncRead for Slow {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl tokio::io::AsyncWrite for Slow {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(self: std::pin::Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: std::pin::Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct OneWire(RefCell<Files>);

    impl FileWire for OneWire {
        fn files(&self) -> RefMut<'_, Files> {
            self.0.borrow_mut()
        }
    }

    fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, stream]);
        bytes.extend(payload);
        bytes
    }

    proptest! {
        /// Stream 1 has a file, stream 3 bytes of its own; other frames lie between, and all is cut anywhere.
        #[test]
        fn a_file_takes_the_place_of_exactly_its_own_frames(
            plan in prop::collection::vec((prop::sample::select(vec![1_u8, 3, 200]), 0_usize..600), 1..40),
            cuts in prop::collection::vec(1_usize..700, 1..20),
        ) {
            let mut file = tempfile::tempfile().unwrap();
            let content: Vec<u8> = (0..40_000_u32).map(|at| (at % 251) as u8 + 1).collect();
            file.write_all(&content).unwrap();
            let length = plan.iter().filter(|(stream, _)| *stream == 1).map(|(_, length)| *length as u64).sum();
            let wire = OneWire::default();
            let file: Rc<File> = Rc::new(file);
            let lent = (length > 0)
                .then(|| Lent::new(&wire, 1, FileRange { file: Rc::clone(&file), offset: 7, length }));
            let (mut given, mut expected, mut at) = (Vec::new(), Vec::new(), 7);
            for (stream, length) in plan {
                let own = vec![0; length];
                if stream == 1 {
                    given.extend(frame(0, 1, &own));
                    expected.extend(frame(0, 1, &content[at..at + length]));
                    at += length;
                } else {
                    // A PING on stream 200 says nothing about a stream.
                    let bytes = frame(if stream == 200 { 6 } else { 0 }, stream, &own);
                    given.extend(&bytes);
                    expected.extend(&bytes);
                }
            }
            let (mut frames, mut gathered) = (Frames::default(), Gathered::default());
            let mut rest = &given[..];
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at((*cut).min(rest.len()));
                frames.put(part, &mut wire.files(), &mut gathered);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(gathered.len(), expected.len());
            let (inside, mut outside) = tokio::io::duplex(97);
            let (mut inside, mut got) = (Slow(inside), Vec::new());
            let mut cx = Context::from_waker(Waker::noop());
            while !gathered.is_empty() {
                if let Poll::Ready(wrote) = gathered.poll_write(&mut inside, &mut cx) {
                    wrote.unwrap();
                }
                let mut buffer = [0; 97];
                let mut room = tokio::io::ReadBuf::new(&mut buffer);
                let reading = std::pin::Pin::new(&mut outside);
                let _ = tokio::io::AsyncRead::poll_read(reading, &mut cx, &mut room);
                got.extend_from_slice(room.filled());
            }
            let _ = tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut inside.0), &mut cx);
            let mut room = [0; 4096];
            let mut room = tokio::io::ReadBuf::new(&mut room);
            let _ = tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut outside), &mut cx, &mut room);
            got.extend_from_slice(room.filled());
            prop_assert!(got == expected);
            prop_assert!(lent.is_none_or(|lent| lent.poll_done(&mut cx).is_ready()));
        }
    }
}
