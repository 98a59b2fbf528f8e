//! What children write: one pipe per role, whose lines become JSON lines in `LOG/NAME.log`.
//!
//! The pipe is one descriptor, open for reading and for writing. A child that inherits it holds both ends, so it is never killed
//! by a broken pipe, and nothing is lost while no agent runs: what it writes waits in the pipe for the next one. The
//! agent reads through a descriptor of its own, because `O_NONBLOCK` would otherwise reach the children too.

mod line;
mod rotate;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::descriptors::watch;
pub use line::{Lines, Source, entry};
pub use rotate::{RotatingFile, Rotation};

/// Bytes that wait in the pipe while nobody reads; less where the machine allows less.
const PIPE_BYTES: usize = 1 << 20;
/// Bytes taken at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Lines kept in memory, to say what a child said last.
const LAST_LINES: usize = 5;

/// A role's pipe.
#[derive(Debug)]
pub struct LogPipe {
    both_ends: OwnedFd,
}

impl LogPipe {
    /// A new pipe that a child of this user and group may also open by its name (`/dev/stderr`).
    pub fn new(uid: u32, gid: u32) -> io::Result<Self> {
        let (_reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let both_ends = reopen(writer.as_fd(), OFlags::RDWR | OFlags::CLOEXEC)?;
        // The limit of an unprivileged user may be lower; then the default has to do.
        let _ = rustix::pipe::fcntl_setpipe_size(&both_ends, PIPE_BYTES);
        let pipe = Self { both_ends };
        pipe.give_to(uid, gid)?;
        Ok(pipe)
    }

    /// A pipe that was kept, or that a running child holds.
    pub fn from_kept(both_ends: OwnedFd) -> Option<Self> {
        let stat = rustix::fs::fstat(&both_ends).ok()?;
        let is_pipe = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo;
        is_pipe.then_some(Self { both_ends })
    }

    /// Lets a child of this user and group open the pipe by its name.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::fchown(&self.both_ends, Some(uid), Some(gid))
    }

    /// What a child gets as its output, and what is kept.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.both_ends.as_fd()
    }

    fn reader(&self) -> io::Result<OwnedFd> {
        reopen(self.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)
    }
}

fn reopen(descriptor: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// What a child said last, and what could not be written.
#[derive(Debug, Clone, Default)]
pub struct LastWords {
    /// Guards a few short lines; held only to push or to copy them.
    inner: Arc<Mutex<Said>>,
}

#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<String>,
    dropped: u64,
}

impl LastWords {
    /// The last lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.with(|said| said.lines.iter().cloned().collect())
    }

    /// Lines that could not be written, for instance because the disk was full.
    pub fn dropped(&self) -> u64 {
        self.with(|said| said.dropped)
    }

    fn push(&self, line: String) {
        self.with(|said| {
            if said.lines.len() == LAST_LINES {
                said.lines.pop_front();
            }
            said.lines.push_back(line);
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut Said) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Reads a role's pipe into its log.
pub struct LogReader {
    reader: AsyncFd<OwnedFd>,
    lines: Lines,
    file: RotatingFile,
    source: Source,
    words: LastWords,
    chunk: Vec<u8>,
    in_trouble: bool,
}

impl LogReader {
    /// Begins to read; the log is `folder/ROLE.log`.
    pub fn new(
        pipe: &LogPipe,
        folder: &Path,
        source: Source,
        rotation: Rotation,
        words: LastWords,
    ) -> io::Result<Self> {
        let file = RotatingFile::new(&folder.join(format!("{}.log", source.role)), rotation);
        Ok(Self {
            reader: watch(pipe.reader()?)?,
            lines: Lines::default(),
            file,
            source,
            words,
            chunk: vec![0; CHUNK_BYTES],
            in_trouble: false,
        })
    }

    /// Reads on. When the other end of `end` goes, what is in the pipe by then is still read.
    pub async fn run(mut self, mut end: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                guard = self.reader.readable() => match guard {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return,
                },
                _ = &mut end => return self.drain(),
            }
            self.drain();
            // A child that never pauses must not keep everyone else from running.
            tokio::task::yield_now().await;
        }
    }

    /// Takes what is in the pipe.
    fn drain(&mut self) {
        // At most one pipe's worth, so that this ends even if someone writes faster than we read.
        for _ in 0..=PIPE_BYTES / CHUNK_BYTES {
            match rustix::io::read(self.reader.get_ref(), &mut self.chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => self.write(count),
            }
        }
    }

    fn write(&mut self, count: usize) {
        let mut entries = Vec::with_capacity(count * 2);
        let mut lines = 0;
        for line in self.lines.push(&self.chunk[..count]) {
            let now = jiff::Timestamp::now();
            let (entry, message) = entry(&line, &self.source, now);
            entries.extend_from_slice(entry.as_bytes());
            entries.push(b'\n');
            self.words.push(message);
            lines += 1;
        }
        match self.file.write(&entries) {
            Ok(()) => self.in_trouble = false,
            Err(error) => {
                self.words.with(|said| said.dropped += lines);
                // Once per trouble: a full disk is no reason to write more.
                if !std::mem::replace(&mut self.in_trouble, true) {
                    tracing::error!(child = self.source.role, %error, "the role's log cannot be written; its lines are dropped");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn lines_written_while_nobody_reads_are_in_the_log_once_someone_does() {
        let folder = tempfile::tempdir().unwrap();
        let pipe =
            LogPipe::new(rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()).unwrap();
        rustix::io::write(pipe.as_fd(), b"first\nsecond\n").unwrap();
        let source = Source { server: "server1".into(), role: "web".into() };
        let words = LastWords::default();
        let reader =
            LogReader::new(&pipe, folder.path(), source, Rotation::default(), words.clone()).unwrap();
        let (reading, end) = oneshot::channel();
        let task = tokio::spawn(reader.run(end));
        let deadline = Instant::now() + Duration::from_secs(5);
        while words.lines().len() < 2 {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        rustix::io::write(pipe.as_fd(), b"last\n").unwrap();
        drop(reading);
        task.await.unwrap();
        let log = std::fs::read_to_string(folder.path().join("web.log")).unwrap();
        assert_eq!(log.lines().count(), 3);
        assert!(log.contains(r#""message":"second""#), "{log}");
        assert_eq!(words.lines(), ["first", "second", "last"]);
    }
}
