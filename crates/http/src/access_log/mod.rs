//! The access log: a JSON object per request.
//!
//! Workers write lines into buffers of their own and hand full ones (or, a few times a second, what there is) to one
//! [`writer`] thread. A disk that is too slow costs lines, which are counted, and never a request.

mod line;
mod writer;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use crate::metrics::Counter;

pub use line::{Balanced, Line};
pub use writer::{Writer, start};

/// A buffer of this size is handed over.
const BATCH_BYTES: usize = 32 * 1024;
/// How long a line waits at most until it is handed over.
const HOLD: Duration = Duration::from_millis(250);
/// Batches that wait for the writer.
const QUEUE: usize = 128;

/// A number of whole lines.
#[derive(Debug)]
pub struct Batch {
    text: Vec<u8>,
}

/// One worker's end of the log.
pub struct AccessLog {
    queue: SyncSender<Batch>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    clock: line::Clock,
    dropped: Counter,
}

impl AccessLog {
    /// Hands its lines to the writer; lines that it cannot take are counted in `dropped`.
    pub fn new(queue: SyncSender<Batch>, dropped: Counter) -> Rc<Self> {
        let log = Rc::new(Self {
            queue,
            buffer: RefCell::new(Vec::with_capacity(BATCH_BYTES + 4096)),
            lines: Cell::default(),
            clock: line::Clock::default(),
            dropped,
        });
        tokio::task::spawn_local(hand_over(Rc::downgrade(&log)));
        log
    }

    /// Adds a line.
    pub fn write(&self, line: &Line<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        line.put(&mut buffer, &self.clock);
        self.lines.set(self.lines.get() + 1);
        if buffer.len() >= BATCH_BYTES {
            drop(buffer);
            self.flush();
        }
    }

    fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            return;
        }
        let text = std::mem::replace(&mut *buffer, Vec::with_capacity(BATCH_BYTES + 4096));
        let lines = self.lines.take();
        match self.queue.try_send(Batch { text }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.add(lines),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

async fn hand_over(log: Weak<AccessLog>) {
    loop {
        tokio::time::sleep(HOLD).await;
        let Some(log) = log.upgrade() else { return };
        log.flush();
    }
}
