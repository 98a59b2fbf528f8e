//! One generation as the machine has it: started, watched, signalled, cleared away.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal as Sig, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::cgroup::GenerationGroup;
use crate::descriptors::watch;
use crate::procfs::{Identity, is_in_session, session_members, signal_each};
use crate::supervise::{Adopted, Event, Exit};
use crate::{Probe, Signal, probe, reload};

/// How often a generation that is ending is looked at.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A new generation whose probe the old one may answer has to live this long before it takes over.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What happened to which child.
pub(crate) type Told = (String, Event);

/// A generation that has, or had, a process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) identity: Identity,
    pub(crate) handle: Option<Arc<OwnedFd>>,
    pub(crate) group: Option<GenerationGroup>,
    pub(crate) since: jiff::Timestamp,
    /// What its record says: how far it has come, and of which order.
    pub(crate) recorded: (Adopted, u64),
    /// Set once it was asked to stop or killed by us.
    pub(crate) asked: bool,
    /// Why it is not ready yet. Guards a sentence; held only to set or to copy it.
    not_ready: Arc<Mutex<Option<String>>>,
    tasks: Vec<AbortHandle>,
    reloading: Option<AbortHandle>,
}

impl Running {
    pub(crate) fn new(
        identity: Identity,
        handle: Option<OwnedFd>,
        group: Option<GenerationGroup>,
        since: jiff::Timestamp,
        recorded: (Adopted, u64),
    ) -> Self {
        let handle = handle.map(Arc::new);
        Self {
            identity,
            handle,
            group,
            since,
            recorded,
            asked: false,
            not_ready: Arc::default(),
            tasks: Vec::new(),
            reloading: None,
        }
    }

    /// A generation that has just been started. If it cannot be watched it is killed: nothing runs unwatched.
    pub(crate) fn begin(
        name: &str,
        generation: u64,
        mut process: std::process::Child,
        group: Option<GenerationGroup>,
        since: jiff::Timestamp,
        recorded: (Adopted, u64),
        tell: mpsc::Sender<Told>,
    ) -> io::Result<Self> {
        // It is not reaped yet, so its number is its own even if it has ended.
        let begin = || {
            let identity = Identity::of(process.id().cast_signed())?;
            let handle = identity.pin()?;
            let watched = watch(handle.try_clone()?)?;
            Ok((identity, handle, watched))
        };
        match begin() {
            Ok((identity, handle, watched)) => {
                let mut running = Self::new(identity, Some(handle), group, since, recorded);
                running.tell_end(name, generation, watched, Some(process), tell);
                Ok(running)
            }
            Err(error) => {
                // If killing fails too, it has ended by itself.
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// Tells when the main process of an adopted generation ends.
    pub(crate) fn watch(&mut self, name: &str, generation: u64, tell: mpsc::Sender<Told>) -> io::Result<()> {
        if let Some(handle) = &self.handle {
            let watched = watch(handle.try_clone()?)?;
            self.tell_end(name, generation, watched, None, tell);
        }
        Ok(())
    }

    /// `child` is given where it is ours to reap.
    fn tell_end(
        &mut self,
        name: &str,
        generation: u64,
        watched: AsyncFd<OwnedFd>,
        child: Option<std::process::Child>,
        tell: mpsc::Sender<Told>,
    ) {
        let name = name.to_owned();
        let task = tokio::spawn(async move {
            let exit = match (watched.readable().await, child) {
                // The process has ended, so this does not wait.
                (Ok(_), Some(mut child)) => child.wait().map_or(Exit::Unknown, exit_of),
                _ => Exit::Unknown,
            };
            // Without a receiver the supervisor is gone, and the next one watches.
            let _ = tell.send((name, Event::Exited { generation, exit })).await;
        });
        self.tasks.push(task.abort_handle());
    }

    /// Tells when it is ready.
    ///
    /// `is_shared` says that an older generation answers on the same sockets, so that the probe may reach either. Then the
    /// new one has to live for [`SETTLED_AFTER`] besides: programs that cannot run as they are told end sooner.
    pub(crate) fn probe(
        &mut self,
        name: &str,
        generation: u64,
        probe: Probe,
        is_shared: bool,
        tell: mpsc::Sender<Told>,
    ) {
        let name = name.to_owned();
        let pid = self.identity.pid;
        let not_ready = self.not_ready.clone();
        let task = tokio::spawn(async move {
            if is_shared && !matches!(probe, Probe::OwnHttp { .. }) {
                tokio::time::sleep(SETTLED_AFTER).await;
            }
            match probe {
                Probe::Started => until_started(pid).await,
                other => {
                    let hear = |reason: &probe::NotReady| *locked(&not_ready) = Some(reason.to_string());
                    probe::until_ready(&other, pid, hear).await;
                }
            }
            *locked(&not_ready) = None;
            let _ = tell.send((name, Event::Ready { generation })).await;
        });
        self.tasks.push(task.abort_handle());
    }

    /// Lets it read its files again, and tells what comes of it.
    pub(crate) fn reload(
        &mut self,
        name: &str,
        generation: u64,
        order: u64,
        question: reload::Question,
        tell: mpsc::Sender<Told>,
    ) {
        if let Some(handle) = &self.handle {
            // It may have ended already; its end is told elsewhere.
            let _ = pidfd_send_signal(handle.as_ref(), Sig::HUP);
        }
        let (name, pid) = (name.to_owned(), self.identity.pid);
        let task = tokio::spawn(async move {
            let event = match question.until_answered(pid).await {
                Ok(()) => Event::Reloaded { generation, order },
                Err(reason) => Event::ReloadRefused { generation, order, reason },
            };
            let _ = tell.send((name, event)).await;
        });
        // Of an earlier change nothing is wanted any more.
        if let Some(earlier) = self.reloading.replace(task.abort_handle()) {
            earlier.abort();
        }
    }

    /// Why it is not ready yet; none when it is, or was never asked.
    pub(crate) fn not_ready(&self) -> Option<String> {
        locked(&self.not_ready).clone()
    }

    /// Asks the main process to stop.
    pub(crate) fn ask_to_stop(&mut self, signal: Signal) {
        self.asked = true;
        if let Some(handle) = &self.handle {
            // It may have ended already; its end is told elsewhere.
            let _ = pidfd_send_signal(handle.as_ref(), number_of(signal));
        }
    }

    /// Kills every process of the generation.
    pub(crate) fn kill(&mut self) {
        self.asked = true;
        if let Some(handle) = &self.handle {
            let _ = pidfd_send_signal(handle.as_ref(), Sig::KILL);
        }
        match &self.group {
            Some(group) => group.kill(),
            None => self.signal_session(Sig::KILL),
        }
    }

    /// Asks what is left of the generation to stop, and tells when nothing is.
    pub(crate) fn end_orphans(
        &mut self,
        name: &str,
        generation: u64,
        signal: Signal,
        tell: mpsc::Sender<Told>,
    ) {
        if !self.members().is_empty() {
            match &self.group {
                Some(group) => group.signal(number_of(signal)),
                None => self.signal_session(number_of(signal)),
            }
        }
        let name = name.to_owned();
        let left = self.left();
        let task = tokio::spawn(async move {
            while !left.members().is_empty() {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            }
            let _ = tell.send((name, Event::Cleared { generation })).await;
        });
        self.tasks.push(task.abort_handle());
    }

    /// The processes of the generation.
    pub(crate) fn members(&self) -> Vec<i32> {
        self.left().members()
    }

    fn left(&self) -> Left {
        Left { group: self.group.clone(), session: self.identity.pid }
    }

    fn signal_session(&self, signal: Sig) {
        let session = self.identity.pid;
        signal_each(&self.members(), signal, |pid| is_in_session(pid, session));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.reloading) {
            task.abort();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the processes of a generation are found.
struct Left {
    group: Option<GenerationGroup>,
    session: i32,
}

impl Left {
    fn members(&self) -> Vec<i32> {
        match &self.group {
            Some(group) => group.members(),
            // Without `/proc` nothing can be told, and nothing could have been started either.
            None => session_members(self.session).unwrap_or_default(),
        }
    }
}

/// The shim gives its description up for `/dev/null` as the last thing before it becomes the program.
async fn until_started(pid: i32) {
    let input = format!("/proc/{pid}/fd/0");
    while std::fs::read_link(&input).is_ok_and(|input| input.as_os_str() != "/dev/null") {
        tokio::time::sleep(LOOK_AGAIN_AFTER / 10).await;
    }
}

fn number_of(signal: Signal) -> Sig {
    match signal {
        Signal::Terminate => Sig::TERM,
        Signal::Quit => Sig::QUIT,
        Signal::Interrupt => Sig::INT,
    }
}

fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}
