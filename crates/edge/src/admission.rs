//! How requests are let ahead to a group's upstreams when more come than they bear.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use crate::shed::{Admission, Next, Shed, Shedder, next_half_minute};

/// One worker's gate to one group.
pub(crate) struct Gate {
    /// Who waits is sent the place itself: whoever drops it, on either side, gives it back.
    shedder: RefCell<Shedder<oneshot::Sender<Admitted>>>,
}

/// A request that went ahead. Dropped, it lets the next one ahead.
pub(crate) struct Admitted {
    /// None once the place was given back by hand.
    gate: Option<Rc<Gate>>,
    /// How long its upstream took; the shedder learns from it.
    pub(crate) latency: Option<Duration>,
    /// When it ended, where someone has read the clock just before dropping it.
    pub(crate) ends: Option<Instant>,
}

impl Gate {
    pub(crate) fn new(queue: u32, longest_wait: Duration, seed: u64, now: Instant) -> Rc<Self> {
        let mut shedder = Shedder::new(queue as usize, longest_wait, seed, now);
        // All workers and edges learn anew at the same moment, whenever they were started.
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        shedder.learn_at(next_half_minute(wall, now));
        Rc::new(Self { shedder: RefCell::new(shedder) })
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
                go = &mut wait => return go.map_err(|_| Shed::QueueTime),
                () = tokio::time::sleep_until(due.into()) => self.pump(Instant::now()),
            }
        }
    }

    fn admitted(self: &Rc<Self>) -> Admitted {
        Admitted { gate: Some(Rc::clone(self)), latency: None, ends: None }
    }

    /// Lets ahead whom there is room for, and turns away whom there is not.
    fn pump(self: &Rc<Self>, now: Instant) {
        loop {
            let next = self.shedder.borrow_mut().next(now);
            match next {
                Some(Next::Go(go)) => {
                    if let Err(mut admitted) = go.send(self.admitted()) {
                        // Its client left meanwhile. Given back here and not by dropping it, which would pump within
                        // the pump, once for each client that left.
                        admitted.gate = None;
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
        let Some(gate) = self.gate.take() else { return };
        let now = self.ends.unwrap_or_else(Instant::now);
        gate.shedder.borrow_mut().finished(self.latency, now);
        gate.pump(now);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    use super::{Admitted, Gate};
    use crate::shed::Shed;

    fn full(queue: u32) -> (Rc<Gate>, Vec<Admitted>) {
        let gate = Gate::new(queue, Duration::from_mins(1), 1, Instant::now());
        let limit = gate.shedder.borrow().limit();
        let admitted = (0..limit).map(|_| now(&gate).unwrap()).collect();
        (gate, admitted)
    }

    /// Goes ahead at once.
    fn now(gate: &Rc<Gate>) -> Result<Admitted, Shed> {
        let mut admission = pin!(gate.admit());
        match admission.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(admitted) => admitted,
            std::task::Poll::Pending => panic!("it has to wait"),
        }
    }

    fn in_flight(gate: &Rc<Gate>) -> u32 {
        gate.shedder.borrow().in_flight()
    }

    #[tokio::test]
    async fn one_that_leaves_between_its_turn_and_hearing_of_it_gives_its_place_back() {
        let (gate, mut admitted) = full(10);
        let limit = in_flight(&gate);
        let mut waiting = Box::pin(gate.admit());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        // Its turn has come, but it is not polled any more.
        drop(admitted.pop());
        assert_eq!(in_flight(&gate), limit);
        drop(waiting);
        assert_eq!(in_flight(&gate), limit - 1);
        drop(admitted);
        assert_eq!(in_flight(&gate), 0);
    }

    #[tokio::test]
    async fn those_that_left_while_they_waited_are_passed_by() {
        let (gate, mut admitted) = full(1000);
        let mut waiting: Vec<_> = (0..1000).map(|_| Box::pin(gate.admit())).collect();
        for wait in &mut waiting {
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(gate.admit().await.err(), Some(Shed::QueueFull));
        let last = waiting.pop().unwrap();
        drop(waiting);
        drop(admitted.pop());
        drop(last.await.unwrap());
        drop(admitted);
        assert_eq!(in_flight(&gate), 0);
    }
}
