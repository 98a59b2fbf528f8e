//! Who carries out what, and who waits for it: a change is answered when all workers have taken it over.

use std::time::{Duration, Instant};

use super::Changed;

/// How long a change may take to arrive at all workers.
const ADOPTION: Duration = Duration::from_secs(10);

/// How far each worker is.
pub(super) struct Adoption {
    /// The generation that each carries out.
    adopted: Vec<u64>,
    /// Who waits for all of them to carry out a generation, since when.
    waiting: Vec<(u64, Instant, Changed)>,
}

impl Adoption {
    /// So many workers, which all carry out this generation.
    pub(super) fn new(workers: usize, generation: u64) -> Self {
        Self { adopted: vec![generation; workers], waiting: Vec::new() }
    }

    /// Answers when all workers carry out this generation.
    pub(super) fn answer_at(&mut self, generation: u64, reply: Changed, now: Instant) {
        self.waiting.push((generation, now, reply));
        self.answer();
    }

    /// A worker carries out this generation.
    pub(super) fn reached(&mut self, worker: usize, generation: u64) {
        if let Some(adopted) = self.adopted.get_mut(worker) {
            *adopted = generation;
        }
        self.answer();
    }

    /// When a change will be late.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, since, _)| *since + ADOPTION).min()
    }

    /// Refuses what is late.
    pub(super) fn time_passed(&mut self, now: Instant) {
        for (_, _, reply) in self.waiting.extract_if(.., |(_, since, _)| now >= *since + ADOPTION) {
            let _ = reply.send(Err("a worker did not take the change over in time".to_owned()));
        }
    }

    fn answer(&mut self) {
        let all = self.adopted.iter().copied().min().unwrap_or(u64::MAX);
        for (_, _, reply) in self.waiting.extract_if(.., |(generation, _, _)| *generation <= all) {
            let _ = reply.send(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{self, error::TryRecvError};

    use super::*;

    #[test]
    fn a_change_is_done_when_the_last_worker_has_taken_it_over() {
        let mut adoption = Adoption::new(2, 1);
        let (reply, mut answer) = oneshot::channel();
        adoption.answer_at(2, reply, Instant::now());
        adoption.reached(0, 2);
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
        adoption.reached(1, 3);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_worker_that_hangs_makes_a_change_late() {
        let (now, mut adoption) = (Instant::now(), Adoption::new(1, 1));
        let (reply, mut answer) = oneshot::channel();
        adoption.answer_at(2, reply, now);
        assert_eq!(adoption.next_due(), Some(now + ADOPTION));
        adoption.time_passed(now + ADOPTION);
        assert!(answer.try_recv().unwrap().is_err());
        assert_eq!(adoption.next_due(), None);
    }
}
