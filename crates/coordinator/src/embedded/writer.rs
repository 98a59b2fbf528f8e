//! The thread that owns the machine and its file.
//!
//! It takes all requests that wait, lets the machine decide on them in their order, writes what changed with one sync, and only
//! then hands out the answers: what anyone sees is durable, and many writers share a sync.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::api::{Request, Response, failure};
use super::file::{OpenError, StoreFile};
use super::limits::Limits;
use super::machine::Machine;
use super::record::Record;
use crate::wire::{Failure, Int64};

/// Requests that wait for the thread; more are refused.
const WAITING_MOST: usize = 1024;

/// Requests that share a sync.
const BATCH_MOST: usize = 256;

/// How long a store that could not be written rests before the next attempt to read it.
const BROKEN_PAUSE: Duration = Duration::from_millis(500);

struct Job {
    request: Request,
    reply: oneshot::Sender<Result<Response, Failure>>,
}

/// The way to the thread, which ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    jobs: SyncSender<Job>,
    revision: watch::Receiver<i64>,
}

impl Handle {
    /// Asks the machine.
    pub(super) async fn ask(&self, request: Request) -> Result<Response, Failure> {
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Job { request, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(failure(8, "etcdserver: too many requests")),
            Err(TrySendError::Disconnected(_)) => return Err(stopped()),
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The revision that is durable, and its changes.
    pub(super) fn revision(&self) -> watch::Receiver<i64> {
        self.revision.clone()
    }
}

fn stopped() -> Failure {
    failure(14, "the coordinator's store has stopped")
}

/// Opens a store and starts its thread.
pub(super) fn start(path: &Path, limits: Limits) -> Result<Handle, OpenError> {
    let (file, machine) = StoreFile::open(path, limits)?;
    let (jobs, waiting) = sync_channel(WAITING_MOST);
    let (revision_sender, revision) = watch::channel(machine.revision());
    let writer = Writer { file, machine: Ok(machine), origin: Instant::now(), revision: revision_sender };
    std::thread::Builder::new()
        .name("coordinator".to_owned())
        .spawn(move || writer.run(&waiting))
        .map_err(|error| OpenError::Io { path: path.to_owned(), error })?;
    Ok(Handle { jobs, revision })
}

struct Writer {
    file: StoreFile,
    /// The machine; or since when the file could not be written.
    machine: Result<Machine, Instant>,
    /// Where the machine's clock stood at zero.
    origin: Instant,
    revision: watch::Sender<i64>,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Job>) {
        loop {
            let first = match waiting.recv_timeout(self.patience()) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let batch = first.into_iter().chain(waiting.try_iter()).take(BATCH_MOST).collect();
            self.work(batch);
        }
    }

    /// How long until a lease ends.
    fn patience(&self) -> Duration {
        let idle = Duration::from_mins(1);
        match &self.machine {
            Ok(machine) => {
                machine.next_end().map_or(idle, |end| end.saturating_sub(self.origin.elapsed()).min(idle))
            }
            Err(_) => BROKEN_PAUSE,
        }
    }

    fn work(&mut self, batch: Vec<Job>) {
        let machine = match &mut self.machine {
            Ok(machine) => machine,
            Err(since) => {
                if since.elapsed() >= BROKEN_PAUSE {
                    self.recover();
                }
                return refuse(batch);
            }
        };
        let now = self.origin.elapsed();
        let mut records: Vec<Record> = machine.expire(now);
        let mut answers = Vec::with_capacity(batch.len());
        for Job { request, reply } in batch {
            let (mut answer, record) = machine.handle(request, now);
            if let Ok(Response::Status(status)) = &mut answer {
                status.db_size = Int64::from(self.file.bytes());
            }
            records.extend(record);
            answers.push((answer, reply));
        }
        if !records.is_empty()
            && let Err(error) = self.file.append(&records)
        {
            tracing::error!(%error, "the coordinator's store cannot be written");
            for (_, reply) in answers {
                let _ = reply.send(Err(cannot_write()));
            }
            self.recover();
            return;
        }
        let revision = machine.revision();
        for (answer, reply) in answers {
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        }
        self.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
        if let Err(error) = self.file.rewrite_if_due(machine) {
            // The old file may have lost its name by now, so what is on disk decides.
            tracing::error!(%error, "the coordinator's store cannot be begun anew");
            self.recover();
        }
    }

    /// Goes back to what is durable. Nobody was told of more.
    fn recover(&mut self) {
        match self.file.reload() {
            Ok(machine) => {
                self.origin = Instant::now();
                self.machine = Ok(machine);
            }
            Err(error) => {
                tracing::error!(%error, "the coordinator's store cannot be read again");
                self.machine = Err(Instant::now());
            }
        }
    }
}

fn refuse(batch: Vec<Job>) {
    for job in batch {
        let _ = job.reply.send(Err(cannot_write()));
    }
}

/// It may have reached the disk all the same, so this is not one of the errors that say "not done".
fn cannot_write() -> Failure {
    failure(14, "the coordinator's store cannot be written; its log says why")
}
