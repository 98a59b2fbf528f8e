//! How requests are let ahead to a group's upstreams when more come than they bear.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::shed::{Admission, Next, Shed, Shedder};

/// One worker's gate to one group.
pub(crate) struct Gate {
    shedder: RefCell<Shedder<oneshot::Sender<()>>>,
}

/// A request that went ahead. Dropped, it lets the next one ahead.
pub(crate) struct Admitted {
    gate: Rc<Gate>,
    /// How long its upstream took; the shedder learns from it.
    pub(crate) latency: Option<Duration>,
}

impl Gate {
    pub(crate) fn new(queue: u32, longest_wait: Duration, seed: u64, now: Instant) -> Rc<Self> {
        Rc::new(Self { shedder: RefCell::new(Shedder::new(queue as usize, longest_wait, seed, now)) })
    }

    /// Waits until the request may go ahead, or says why it may not.
    pub(crate) async fn admit(self: &Rc<Self>) -> Result<Admitted, Shed> {
        if self.shedder.borrow_mut().admit() == Admission::Go {
            return Ok(self.admitted());
        }
        let (go, mut wait) = oneshot::channel();
        self.shedder.borrow_mut().wait(go, Instant::now()).map_err(|_| Shed::QueueFull)?;
        loop {
            let due = self.shedder.borrow().next_due();
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_millis(100));
            tokio::select! {
                biased;
                go = &mut wait => return go.map(|()| self.admitted()).map_err(|_| Shed::QueueTime),
                () = tokio::time::sleep_until(due.into()) => self.pump(Instant::now()),
            }
        }
    }

    fn admitted(self: &Rc<Self>) -> Admitted {
        Admitted { gate: Rc::clone(self), latency: None }
    }

    /// Lets ahead whom there is room for, and turns away whom there is not.
    fn pump(&self, now: Instant) {
        loop {
            let next = self.shedder.borrow_mut().next(now);
            match next {
                Some(Next::Go(go)) => {
                    if go.send(()).is_err() {
                        // Its client left meanwhile.
                        self.shedder.borrow_mut().finished(None, now);
                    }
                }
                // Dropped: whoever waits hears that nothing will come.
                Some(Next::Shed(_)) => {}
                None => return,
            }
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let now = Instant::now();
        self.gate.shedder.borrow_mut().finished(self.latency, now);
        self.gate.pump(now);
    }
}
