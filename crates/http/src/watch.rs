//! The connections of one worker, their deadlines, and the one tick that serves them all.
//!
//! A request sets deadlines by storing a number. Nothing is registered or cancelled: the tick walks all connections
//! ten times a second and wakes those whose time is up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::date::{self, HttpDate};
use crate::settings::TICK;

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// The worker's idea of the time, as old as the last tick.
pub(crate) struct Clock {
    start: Instant,
    now_ms: Cell<u64>,
    second: Cell<u64>,
    date: Cell<HttpDate>,
}

impl Clock {
    fn new() -> Self {
        let second = date::wall_seconds();
        Self {
            start: Instant::now(),
            now_ms: Cell::new(0),
            second: Cell::new(second),
            date: Cell::new(date::format(second)),
        }
    }

    /// Reads the real clocks.
    pub(crate) fn refresh(&self) {
        self.now_ms.set(self.start.elapsed().as_millis() as u64);
        let second = date::wall_seconds();
        if second != self.second.replace(second) {
            self.date.set(date::format(second));
        }
    }

    /// Milliseconds since the worker's start.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// The point in time that lies `after` from now.
    pub(crate) fn after(&self, after: Duration) -> u64 {
        self.now_ms.get().saturating_add(u64::try_from(after.as_millis()).unwrap_or(NEVER))
    }

    /// For the `Date` field.
    pub(crate) fn date(&self) -> HttpDate {
        self.date.get()
    }
}

/// What the tick knows of one connection.
pub(crate) struct Watch {
    /// When the client must have sent something.
    pub(crate) read_by: Cell<u64>,
    /// When the client must have taken something.
    pub(crate) write_by: Cell<u64>,
    /// Whether it waits for a next request: such a connection may be closed to make room.
    pub(crate) idle: Cell<bool>,
    /// How much on it left HTTP: the connection itself, or streams of h2.
    pub(crate) tunnels: Cell<u32>,
    /// Cuts it off, as long as it is open.
    pub(crate) cut: RefCell<Option<AbortHandle>>,
    task: RefCell<Option<Waker>>,
    body: RefCell<Option<Waker>>,
}

impl Watch {
    /// The connection's own task, which every deadline wakes.
    pub(crate) fn set_task(&self, cx: &Context<'_>) {
        set(&self.task, cx);
    }

    /// Whoever reads the request's body, perhaps another task.
    pub(crate) fn set_body_reader(&self, cx: &Context<'_>) {
        set(&self.body, cx);
    }

    fn wake(&self) {
        for slot in [&self.task, &self.body] {
            if let Some(waker) = slot.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

fn set(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut slot = slot.borrow_mut();
    match &mut *slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// All connections of one worker.
pub(crate) struct Watches {
    pub(crate) clock: Clock,
    entries: RefCell<Vec<Rc<Watch>>>,
    joined: Notify,
}

impl Watches {
    pub(crate) fn new() -> Self {
        Self { clock: Clock::new(), entries: RefCell::default(), joined: Notify::new() }
    }

    /// Adds a connection. It leaves by [`Watches::leave`].
    pub(crate) fn join(&self) -> Rc<Watch> {
        let watch = Rc::new(Watch {
            read_by: Cell::new(NEVER),
            write_by: Cell::new(NEVER),
            idle: Cell::new(false),
            tunnels: Cell::new(0),
            cut: RefCell::default(),
            task: RefCell::default(),
            body: RefCell::default(),
        });
        if self.entries.borrow().is_empty() {
            self.clock.refresh();
            self.joined.notify_one();
        }
        self.entries.borrow_mut().push(Rc::clone(&watch));
        watch
    }

    /// Ticks for ever; sleeps while there is no connection.
    pub(crate) async fn run(&self) {
        loop {
            if self.entries.borrow().is_empty() {
                self.joined.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.tick();
        }
    }

    /// Reads the clock and wakes every connection whose time is up. Those that are gone (no one else holds their
    /// watch) are forgotten here.
    fn tick(&self) {
        self.clock.refresh();
        let now = self.clock.now_ms();
        self.entries.borrow_mut().retain(|watch| {
            if watch.read_by.get() <= now || watch.write_by.get() <= now {
                watch.wake();
            }
            Rc::strong_count(watch) > 1
        });
    }

    /// Wakes every connection, to look at what changed for the whole worker.
    pub(crate) fn wake_all(&self) {
        for watch in self.entries.borrow().iter() {
            watch.wake();
        }
    }

    /// Cuts off all connections on which there is only HTTP. Answers how many.
    pub(crate) fn cut_http(&self) -> usize {
        let entries = self.entries.borrow();
        let http = entries.iter().filter(|watch| watch.tunnels.get() == 0);
        http.filter_map(|watch| watch.cut.take()).inspect(AbortHandle::abort).count()
    }

    /// Asks one idle connection to close. Answers whether there was one.
    pub(crate) fn evict_idle(&self) -> bool {
        for watch in self.entries.borrow().iter() {
            if watch.idle.replace(false) {
                watch.read_by.set(0);
                watch.wake();
                return true;
            }
        }
        false
    }
}

/// Time that a peer has left, refilled by what it moves: below the minimum rate it runs out, even if the peer moves
/// a byte now and then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    full_ms: u64,
    left_ms: u64,
    bytes_per_second: u64,
}

impl Pace {
    pub(crate) fn new(full: Duration, bytes_per_second: u64) -> Self {
        let full_ms = full.as_millis() as u64;
        Self { full_ms, left_ms: full_ms, bytes_per_second: bytes_per_second.max(1) }
    }

    /// Begins to wait, if it does not already: the slot holds the deadline.
    pub(crate) fn wait(&self, slot: &Cell<u64>, now_ms: u64) {
        if slot.get() == NEVER {
            slot.set(now_ms.saturating_add(self.left_ms));
        }
    }

    /// Bytes moved: stops the wait.
    pub(crate) fn moved(&mut self, bytes: usize, slot: &Cell<u64>, now_ms: u64) {
        let deadline = slot.replace(NEVER);
        if deadline != NEVER {
            self.left_ms = deadline.saturating_sub(now_ms);
        }
        let earned = (bytes as u64).saturating_mul(1000) / self.bytes_per_second;
        self.left_ms = self.left_ms.saturating_add(earned).min(self.full_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::{NEVER, Pace};

    #[test]
    fn a_peer_below_the_minimum_rate_runs_out_of_time() {
        let (mut pace, slot) = (Pace::new(Duration::from_secs(10), 100), Cell::new(NEVER));
        let mut now = 0;
        for _ in 0..20 {
            pace.wait(&slot, now);
            now += 1000;
            if slot.get() <= now {
                return;
            }
            pace.moved(10, &slot, now);
        }
        panic!("a tenth of the rate was enough");
    }

    #[test]
    fn a_peer_above_the_minimum_rate_never_does() {
        let (mut pace, slot) = (Pace::new(Duration::from_secs(10), 100), Cell::new(NEVER));
        for now in (0..1_000_000).step_by(1000) {
            pace.wait(&slot, now);
            assert!(slot.get() > now + 1000);
            pace.moved(100, &slot, now + 1000);
        }
    }
}
