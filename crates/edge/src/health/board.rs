//! Where workers read which upstreams are fit.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether an upstream should get requests, as its health goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fitness {
    /// It should not.
    Unfit = 0,
    /// It should get exactly one, to see whether it is well again.
    Probe = 1,
    /// It should.
    Fit = 2,
}

/// The fitness of each upstream of a group, by its index in the plan. Written when it changes, read for every request;
/// a plan with other upstreams gets a board of its own.
#[derive(Debug)]
pub struct Board {
    fitness: Box<[AtomicU8]>,
}

impl Board {
    /// A board of so many upstreams, all unfit.
    pub fn new(upstreams: usize) -> Self {
        Self { fitness: (0..upstreams).map(|_| AtomicU8::new(Fitness::Unfit as u8)).collect() }
    }

    /// Writes down what changed. Indexes that the board does not have are passed over.
    pub fn publish(&self, fitness: impl IntoIterator<Item = Fitness>) {
        for (place, fitness) in self.fitness.iter().zip(fitness) {
            place.store(fitness as u8, Ordering::Relaxed);
        }
    }

    /// Whether an upstream is fit. One that the board does not have is not.
    pub fn fitness(&self, index: usize) -> Fitness {
        match self.fitness.get(index).map(|place| place.load(Ordering::Relaxed)) {
            Some(2) => Fitness::Fit,
            Some(1) => Fitness::Probe,
            _ => Fitness::Unfit,
        }
    }

    /// Takes the right to send the one request that an upstream on probation gets. Whoever gets `true` sends it, and
    /// reports it as [`Event::ProbeStarted`](super::Event) and [`Event::ProbeEnded`](super::Event).
    pub fn claim_probe(&self, index: usize) -> bool {
        let claim = |place: &AtomicU8| {
            let (from, to) = (Fitness::Probe as u8, Fitness::Unfit as u8);
            place.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        self.fitness.get(index).is_some_and(claim)
    }
}
