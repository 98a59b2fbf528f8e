//! How requests are let ahead to a group's upstreams when more come than they bear.

use std::cell::{Cell, RefCell};
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
    pause: Option<Rc<Pause>>,
}

/// Gives the place of a request back for as long as it waits for its own client: a client that is slow to send a body
/// says nothing of what upstreams bear, and must not keep others from them. A request that goes on takes its place again
/// in any case, as its upstream has it already.
pub(crate) struct Pause {
    gate: Rc<Gate>,
    waits: Cell<Waits>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Not yet.
    Never,
    Now,
    /// It did, and does not.
    Before,
    /// The place is given back for good.
    Over,
}

impl Pause {
    /// Whether the client is waited for.
    pub(crate) fn set(&self, waiting: bool) {
        match (self.waits.get(), waiting) {
            (Waits::Never | Waits::Before, true) => {
                self.waits.set(Waits::Now);
                self.gate.shedder.borrow_mut().pause();
                self.gate.pump(Instant::now());
            }
            (Waits::Now, false) => {
                self.waits.set(Waits::Before);
                self.gate.shedder.borrow_mut().resume();
            }
            _ => {}
        }
    }
}

impl Gate {
    pub(crate) fn new(queue: u32, longest_wait: Duration, seed: u64, now: Instant) -> Rc<Self> {
        let mut shedder = Shedder::new(queue as usize, longest_wait, seed, now);
        // All workers and edges learn anew at the same moment, whenever they were started.
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        shedder.learn_at(next_half_minute(wall, now));
        Rc::new(Self { shedder: RefCell::new(shedder) })
    }

    /// Takes over new bounds of the queue; those who wait go on waiting.
    pub(crate) fn set_bounds(&self, queue: u32, longest_wait: Duration) {
        self.shedder.borrow_mut().set_bounds(queue as usize, longest_wait);
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
        Admitted { gate: Some(Rc::clone(self)), latency: None, ends: None, pause: None }
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

impl Admitted {
    /// What gives its place back while its client is waited for.
    pub(crate) fn pause(&mut self, gate: &Rc<Gate>) -> Rc<Pause> {
        let pause = Pause { gate: Rc::clone(gate), waits: Cell::new(Waits::Never) };
        Rc::clone(self.pause.insert(Rc::new(pause)))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else { return };
        let waits = self.pause.take().map_or(Waits::Never, |pause| pause.waits.replace(Waits::Over));
        if waits == Waits::Now {
            return;
        }
        let now = self.ends.unwrap_or_else(Instant::now);
        // The time of one that waited is also its client's.
        let latency = self.latency.filter(|_| waits == Waits::Never);
        gate.shedder.borrow_mut().finished(latency, now);
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
    async fn one_that_waits_for_its_client_has_no_place_meanwhile() {
        let (gate, mut admitted) = full(10);
        let limit = in_flight(&gate);
        let mut waiting = Box::pin(gate.admit());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut slow = admitted.pop().unwrap();
        let pause = slow.pause(&gate);
        pause.set(true);
        let other = waiting.await.unwrap();
        assert_eq!(in_flight(&gate), limit);
        // It goes on, whether there is room or not.
        pause.set(false);
        assert_eq!(in_flight(&gate), limit + 1);
        pause.set(true);
        assert_eq!(in_flight(&gate), limit);
        drop(slow);
        // What comes after its end is nobody's place.
        pause.set(false);
        pause.set(true);
        assert_eq!(in_flight(&gate), limit);
        drop((other, admitted));
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
