//! Files as bodies of h2 responses, without passing through user space.
//!
//! The `h2` crate frames and paces bytes in memory. For a file it is given zeros in its place, as many as the file has
//! bytes. When the frames come out, those of a stream that stands here get the file's bytes instead: the payload of each
//! DATA frame is the next part of the file, however the frames were cut.

use std::cell::RefMut;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::FileRange;

/// What the `h2` crate frames in place of a file.
static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];
const ZEROS_BYTES: usize = 64 * 1024;

/// A piece that stands for as many bytes of a file, up to 64 KiB.
pub(crate) fn stand_in(length: usize) -> Bytes {
    Bytes::from_static(&ZEROS[..length.min(ZEROS_BYTES)])
}

/// The files that wait for their frames, by stream.
#[derive(Default)]
pub(crate) struct Files(HashMap<u32, Waiting>);

struct Waiting {
    rest: FileRange,
    done: Option<Waker>,
}

impl Files {
    pub(crate) fn has(&self, stream: u32) -> bool {
        self.0.contains_key(&stream)
    }

    /// The next part of a stream's file; shorter than asked for only if the file's range is at its end.
    pub(crate) fn take(&mut self, stream: u32, length: u64) -> Option<FileRange> {
        let waiting = self.0.get_mut(&stream)?;
        let rest = &mut waiting.rest;
        let length = length.min(rest.length);
        let part = FileRange { file: Rc::clone(&rest.file), offset: rest.offset, length };
        rest.offset += length;
        rest.length -= length;
        if rest.length == 0
            && let Some(Waiting { done: Some(done), .. }) = self.0.remove(&stream)
        {
            done.wake();
        }
        Some(part)
    }
}

/// Whoever has files that wait.
pub(crate) trait FileWire {
    fn files(&self) -> RefMut<'_, Files>;
}

/// A file of which something still waits for its frames. It stops waiting when this is dropped.
pub(crate) struct Lent<'a> {
    wire: &'a dyn FileWire,
    stream: u32,
}

impl<'a> Lent<'a> {
    pub(crate) fn new(wire: &'a dyn FileWire, stream: u32, file: FileRange) -> Self {
        wire.files().0.insert(stream, Waiting { rest: file, done: None });
        Self { wire, stream }
    }

    /// Ready when all of the file has found its frames.
    pub(crate) fn poll_done(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.wire.files().0.get_mut(&self.stream) {
            None => Poll::Ready(()),
            Some(waiting) => {
                waiting.done = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.wire.files().0.remove(&self.stream);
    }
}
