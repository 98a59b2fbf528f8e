//! Carries out what [`supervise`](crate::supervise) decides: one task that owns all children of a server.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ChildSpec;
use crate::account::{Account, AccountError};
use crate::adopt::{Found, Record, Records};
use crate::cgroup::Cgroups;
use crate::child::{Child, log_name, order_of};
use crate::descriptors::FIRST;
use crate::fdstore::Notifier;
use crate::files::{FilesError, make_folder, write_file};
use crate::launch::{Launch, Launcher};
use crate::logs::{LastWords, LogPipe, LogReader, Rotation, Source};
use crate::reload;
use crate::running::{Running, Told};
use crate::sockets::{SocketError, Sockets};
use crate::supervise::{Action, Adopted, Event, Exit, Machine, Phase, Report, State};
use crate::supervisor::{Change, Command, Error, Setup};

/// The descriptor that a child has its log pipe as.
const STDOUT: i32 = 1;

/// All children of a server, owned by one task.
pub(crate) struct Driver {
    launcher: Launcher,
    records: Records,
    records_path: PathBuf,
    logs: PathBuf,
    rotation: Rotation,
    server: String,
    cgroups: Option<Cgroups>,
    notifier: Option<Rc<Notifier>>,
    kept_logs: BTreeMap<String, OwnedFd>,
    sockets: Sockets,
    children: BTreeMap<String, Child>,
    tell: mpsc::Sender<Told>,
    publish: watch::Sender<BTreeMap<String, State>>,
}

/// Why a generation cannot be started. It is retried with back-off like any other fall.
#[derive(Debug, Error)]
enum StartError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("its control group cannot be made: {0}")]
    Cgroup(io::Error),
    #[error("it cannot be recorded: {0}")]
    Record(io::Error),
    #[error("the shim cannot be started: {0}")]
    Launch(io::Error),
}

impl Driver {
    pub(crate) fn new(
        setup: Setup,
        tell: mpsc::Sender<Told>,
        publish: watch::Sender<BTreeMap<String, State>>,
    ) -> Result<Self, Error> {
        let records = Records::open(&setup.records)
            .map_err(|source| Error::Records { path: setup.records.clone(), source })?;
        let notifier = setup.notifier.map(Rc::new);
        let (logs, sockets): (Vec<_>, Vec<_>) =
            setup.kept.into_iter().partition(|(name, _)| name.starts_with("log|"));
        Ok(Self {
            launcher: setup.launcher,
            records,
            records_path: setup.records,
            logs: setup.logs,
            rotation: setup.rotation,
            server: setup.server,
            cgroups: setup.cgroups,
            sockets: Sockets::new(sockets, notifier.clone()),
            notifier,
            kept_logs: logs.into_iter().collect(),
            children: BTreeMap::new(),
            tell,
            publish,
        })
    }

    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut told: mpsc::Receiver<Told>) {
        loop {
            let wake = self.children.values().filter_map(|child| child.machine.wake_at()).min();
            let wake = wake.map(tokio::time::Instant::from_std);
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What happened comes before what is wanted.
                biased;
                Some((name, event)) = told.recv() => self.handle(&name, event),
                command = inbox.recv() => match command {
                    None | Some(Command::Leave) => return,
                    Some(command) => self.obey(command),
                },
                () = sleep => {
                    let names: Vec<String> = self.children.keys().cloned().collect();
                    for name in names {
                        self.handle(&name, Event::Tick);
                    }
                }
            }
            self.publish();
        }
    }

    pub(crate) fn publish(&self) {
        let states: BTreeMap<String, State> =
            self.children.iter().map(|(name, child)| (name.clone(), child.machine.state())).collect();
        self.publish.send_if_modified(|old| {
            let changed = *old != states;
            *old = states;
            changed
        });
    }

    /// Answers that nobody waits for any more are dropped: the one who asked has gone.
    fn obey(&mut self, command: Command) {
        match command {
            Command::OpenSockets(specs, reply) => {
                let result = specs.iter().try_for_each(|spec| self.sockets.open(spec));
                let _ = reply.send(result);
            }
            Command::ReleaseSocketsBut(specs) => self.sockets.release_all_but(&specs),
            Command::Run(spec, reply) => {
                let _ = reply.send(self.run_child(*spec));
            }
            Command::Restart(name, reply) => {
                let result = match self.children.get_mut(&name) {
                    Some(child) => {
                        let order = child.restart();
                        self.handle(&name, Event::Replace(order));
                        Ok(())
                    }
                    None => Err(Error::NoChild { name }),
                };
                let _ = reply.send(result);
            }
            Command::Stop(name, forget, reply) => {
                // Without such a child the reply is dropped with `Ok`: it does not run, as asked.
                let Some(child) = self.children.get_mut(&name) else {
                    let _ = reply.send(());
                    return;
                };
                child.forget |= forget;
                child.stopping.push(reply);
                self.handle(&name, Event::Stop);
                self.finish_stop(&name);
            }
            Command::Status(reply) => {
                let status = self.children.iter().map(|(name, child)| {
                    let group = self.cgroups.as_ref().map(|groups| groups.role_without_limits(name));
                    child.status(name, group.as_ref())
                });
                let _ = reply.send(status.collect());
            }
            Command::Leave => {}
        }
    }

    fn run_child(&mut self, spec: ChildSpec) -> Result<Change, Error> {
        let name = spec.name.clone();
        let failed = |source| Error::Folder { name: name.clone(), source };
        spec.folders.iter().try_for_each(make_folder).map_err(failed)?;
        spec.sockets.iter().try_for_each(|socket| self.sockets.open(socket))?;
        if !self.children.contains_key(&name) {
            self.clear_unknown(&name);
            let child = self.make_child(spec, 1, None)?;
            self.children.insert(name.clone(), child);
            self.handle(&name, Event::Start);
            return Ok(Change::Started);
        }
        let Some(child) = self.children.get_mut(&name) else { return Err(Error::NoChild { name }) };
        child.forget = false;
        let was_stopped = matches!(child.machine.state(), State::Stopped | State::Draining);
        let mut change = if was_stopped { Change::Started } else { Change::Unchanged };
        if *child.spec() != spec {
            let account =
                Account::of(&spec.user).map_err(|source| Error::Account { name: name.clone(), source })?;
            if let Err(source) = child.pipe.give_to(account.uid, account.gid) {
                return Err(Error::Log { name, source });
            }
            let order = child.order(spec);
            self.handle(&name, Event::Replace(order));
            change = if was_stopped { Change::Started } else { Change::Replaced };
        }
        self.handle(&name, Event::Start);
        Ok(change)
    }

    fn make_child(
        &mut self,
        spec: ChildSpec,
        first_generation: u64,
        held_by_child: Option<OwnedFd>,
    ) -> Result<Child, Error> {
        let name = spec.name.clone();
        let account =
            Account::of(&spec.user).map_err(|source| Error::Account { name: name.clone(), source })?;
        let failed = |source| Error::Log { name: name.clone(), source };
        let kept = self.kept_logs.remove(&log_name(&name)).and_then(LogPipe::from_kept);
        let pipe = if let Some(pipe) = kept {
            pipe
        } else {
            let held = held_by_child.and_then(LogPipe::from_kept).map(Ok);
            let pipe = held.unwrap_or_else(|| LogPipe::new(account.uid, account.gid)).map_err(failed)?;
            self.keep(&log_name(&name), pipe.as_fd());
            pipe
        };
        let words = LastWords::default();
        let source = Source { server: self.server.clone(), role: name.clone() };
        let reader =
            LogReader::new(&pipe, &self.logs, source, self.rotation, words.clone()).map_err(failed)?;
        let (reading, end) = oneshot::channel();
        tokio::spawn(reader.run(end));
        let order = order_of(1, &spec);
        Ok(Child {
            machine: Machine::new(order, first_generation),
            specs: BTreeMap::from([(1, spec)]),
            next_order: 2,
            running: BTreeMap::new(),
            pipe,
            words,
            _reading: reading,
            last_exit: None,
            forget: false,
            stopping: Vec::new(),
        })
    }

    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        if let Some(notifier) = &self.notifier
            && let Err(error) = notifier.keep(name, &[descriptor])
        {
            tracing::warn!(name, %error, "this descriptor cannot be kept across the end of this agent");
        }
    }

    /// Takes over what an earlier supervisor left running.
    pub(crate) fn adopt(&mut self) -> Result<(), Error> {
        let found = self
            .records
            .find()
            .map_err(|source| Error::Records { path: self.records_path.clone(), source })?;
        for one in found {
            let name = one.record.spec.name.clone();
            let generation = one.record.generation;
            if let Err(error) = self.adopt_one(one) {
                tracing::error!(child = name, generation, %error, "a running child cannot be adopted");
            }
        }
        let names: Vec<String> = self.children.keys().cloned().collect();
        for name in names {
            self.clear_unknown(&name);
            self.handle(&name, Event::Tick);
        }
        Ok(())
    }

    fn adopt_one(&mut self, found: Found) -> Result<(), Error> {
        let Found { record, identity, handle } = found;
        let (name, generation) = (record.spec.name.clone(), record.generation);
        if let Some(handle) = &handle {
            self.recover_sockets(&record.spec, handle.as_fd());
        }
        if !self.children.contains_key(&name) {
            let held = handle.as_ref().and_then(|handle| taken_from(handle.as_fd(), STDOUT));
            let child = self.make_child(record.spec.clone(), generation, held)?;
            self.children.insert(name.clone(), child);
        }
        let tell = self.tell.clone();
        let groups = self.cgroups.as_ref().map(|groups| groups.role_without_limits(&name));
        let Some(child) = self.children.get_mut(&name) else { return Err(Error::NoChild { name }) };
        let known = child.specs.iter().find(|(_, spec)| **spec == record.spec).map(|(id, _)| *id);
        let order = match known {
            Some(id) => order_of(id, &record.spec),
            None => child.order(record.spec.clone()),
        };
        let group = groups
            .map(|group| group.generation(generation))
            .filter(|group| !group.members().is_empty() || handle.is_none());
        let since = i64::try_from(record.since).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        let is_alive = handle.is_some();
        let recorded = (record.phase, order.id);
        let mut running = Running::new(identity, handle, group, since.unwrap_or_default(), recorded);
        if let Err(source) = running.watch(&name, generation, tell) {
            return Err(Error::Records { path: self.records_path.clone(), source });
        }
        tracing::info!(child = name, generation, pid = identity.pid, is_alive, "adopted");
        child.running.insert(generation, running);
        let actions = child.machine.adopt(generation, order, record.phase, Instant::now());
        self.act(&name, actions, &mut VecDeque::new());
        if !is_alive {
            self.handle(&name, Event::Exited { generation, exit: Exit::Unknown });
        }
        Ok(())
    }

    /// Gets the listening sockets back out of a running child, where nobody kept them.
    fn recover_sockets(&mut self, spec: &ChildSpec, handle: BorrowedFd<'_>) {
        let specs = spec.sockets.iter().flat_map(|socket| std::iter::repeat_n(socket, socket.count()));
        for (number, socket) in (FIRST..).zip(specs) {
            if self.sockets.of(std::slice::from_ref(socket)).is_err()
                && let Some(descriptor) = taken_from(handle, number)
            {
                self.sockets.recover(socket, descriptor);
            }
        }
    }

    /// Ends processes in a role's groups that no record tells of.
    fn clear_unknown(&self, name: &str) {
        let Some(groups) = &self.cgroups else { return };
        let group = groups.role_without_limits(name);
        for number in group.generations() {
            let is_known = self.children.get(name).is_some_and(|child| child.running.contains_key(&number));
            if !is_known {
                let unknown = group.generation(number);
                unknown.kill();
                // Busy for a moment longer; the next start of this role takes it along.
                let _ = unknown.remove();
            }
        }
    }

    fn handle(&mut self, name: &str, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(child) = self.children.get_mut(name) else { return };
            let cleared = match &event {
                Event::Exited { generation, exit } => {
                    child.note_exit(*generation, *exit);
                    None
                }
                Event::Cleared { generation } | Event::SpawnFailed { generation, .. } => Some(*generation),
                _ => None,
            };
            let actions = child.machine.handle(event, Instant::now());
            if let Some(generation) = cleared {
                self.clear_away(name, generation);
            }
            self.act(name, actions, &mut events);
        }
        self.write_phases(name);
        self.finish_stop(name);
        if let Some(child) = self.children.get_mut(name) {
            let machine = &child.machine;
            child.specs.retain(|id, _| machine.needs_order(*id));
        }
    }

    fn clear_away(&mut self, name: &str, generation: u64) {
        if let Some(child) = self.children.get_mut(name)
            && let Some(running) = child.running.remove(&generation)
            && let Some(group) = &running.group
            && let Err(error) = group.remove()
        {
            tracing::debug!(child = name, generation, %error, "its control group stays for now");
        }
        if let Err(error) = self.records.remove(name, generation) {
            tracing::error!(child = name, generation, %error, "its record cannot be removed");
        }
    }

    fn act(&mut self, name: &str, actions: Vec<Action>, events: &mut VecDeque<Event>) {
        for action in actions {
            match action {
                Action::Spawn { generation, order } => {
                    if let Err(error) = self.start(name, generation, order) {
                        events.push_back(Event::SpawnFailed { generation, reason: error.to_string() });
                    }
                }
                Action::Report(report) => self.report(name, &report),
                Action::Probe { generation } => {
                    let tell = self.tell.clone();
                    let others = self.children.get(name).is_some_and(|child| {
                        child.machine.generations().iter().any(|g| matches!(g.phase, Phase::Ready { .. }))
                    });
                    self.with(name, generation, |running, spec| {
                        let is_shared = others && !spec.sockets.is_empty();
                        running.probe(name, generation, spec.ready.clone(), is_shared, tell);
                    });
                }
                Action::Reload { generation, order } => {
                    if let Err(reason) = self.reload(name, generation, order) {
                        events.push_back(Event::ReloadRefused { generation, order, reason });
                    }
                }
                Action::AskToStop { generation } => {
                    self.with(name, generation, |running, spec| running.ask_to_stop(spec.stop.signal));
                }
                Action::Kill { generation } => self.with(name, generation, |running, _| running.kill()),
                Action::EndOrphans { generation } => {
                    let tell = self.tell.clone();
                    self.with(name, generation, |running, spec| {
                        running.end_orphans(name, generation, spec.stop.signal, tell);
                    });
                }
            }
        }
    }

    /// Does something with a generation that was started; one that could not be is told of by `SpawnFailed`.
    fn with(&mut self, name: &str, generation: u64, act: impl FnOnce(&mut Running, &ChildSpec)) {
        let Some(child) = self.children.get_mut(name) else { return };
        let order = child.machine.generations().iter().find(|g| g.number == generation).map(|g| g.order.id);
        let Some(spec) = order.and_then(|id| child.specs.get(&id)) else { return };
        if let Some(running) = child.running.get_mut(&generation) {
            act(running, spec);
        }
    }

    /// Writes the files of an order and lets a running generation read them.
    fn reload(&mut self, name: &str, generation: u64, order: u64) -> Result<(), String> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let spec = child.specs[&order].clone();
        let told = spec.folders.iter().try_for_each(make_folder);
        told.and_then(|()| spec.files.iter().try_for_each(write_file)).map_err(|error| error.to_string())?;
        let question =
            reload::Question::of(&spec).ok_or("nothing tells whether it has taken a change over")?;
        let tell = self.tell.clone();
        if let Some(running) = child.running.get_mut(&generation) {
            running.reload(name, generation, order, question, tell);
        }
        Ok(())
    }

    fn start(&mut self, name: &str, generation: u64, order: u64) -> Result<(), StartError> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let spec = child.specs[&order].clone();
        let account = Account::of(&spec.user)?;
        spec.folders.iter().try_for_each(make_folder)?;
        spec.files.iter().try_for_each(write_file)?;
        let role = self.cgroups.as_ref().map(|groups| groups.role(name, spec.memory, spec.processes));
        let role = role.transpose().map_err(StartError::Cgroup)?;
        let group = role.map(|role| role.make_generation(generation));
        let group = group.transpose().map_err(StartError::Cgroup)?;
        let now = jiff::Timestamp::now();
        let record = Record {
            generation,
            phase: Adopted::Starting,
            since: now.as_second().try_into().unwrap_or_default(),
            spec: spec.clone(),
        };
        self.records.write(&record).map_err(StartError::Record)?;
        let sockets = self.sockets.of(&spec.sockets)?;
        let launch = Launch {
            program: spec.program.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            directory: spec.directory.clone(),
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            capabilities: spec.capabilities.clone(),
            cgroups: group.iter().flat_map(crate::cgroup::GenerationGroup::procs_files).collect(),
            descriptor_names: sockets.iter().map(|(name, _)| name.clone()).collect(),
            identity_file: Some(self.records.identity_file(name, generation)),
        };
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, descriptor)| *descriptor).collect();
        let process =
            self.launcher.start(&launch, &descriptors, child.pipe.as_fd()).map_err(StartError::Launch)?;
        let pid = process.id().cast_signed();
        let recorded = (Adopted::Starting, order);
        let running = Running::begin(name, generation, process, group, now, recorded, self.tell.clone())
            .map_err(StartError::Launch)?;
        child.running.insert(generation, running);
        tracing::info!(child = name, generation, pid, "started");
        Ok(())
    }

    fn report(&self, name: &str, report: &Report) {
        match report {
            Report::Ready { generation, after } => {
                tracing::info!(child = name, generation, after_ms = after.as_millis() as u64, "ready");
            }
            Report::Fell { generation, failure, falls, restart_in } => {
                let child = self.children.get(name);
                let said = child.map(|child| child.words.lines()).unwrap_or_default();
                let not_ready = child
                    .and_then(|child| child.running.get(generation))
                    .and_then(Running::not_ready)
                    .unwrap_or_default();
                let restart_in_ms = restart_in.as_millis() as u64;
                tracing::warn!(child = name, generation, %failure, not_ready, falls, restart_in_ms, ?said, "fell");
            }
            Report::Rejected(rejected) => {
                let failure = &rejected.failure;
                tracing::error!(child = name, %failure, "the changed role did not get ready; what ran before runs on");
            }
            Report::Reloaded { generation, after } => {
                let after_ms = after.as_millis() as u64;
                tracing::info!(child = name, generation, after_ms, "has taken the change over");
            }
            Report::ReloadRefused { generation, reason } => {
                tracing::info!(
                    child = name,
                    generation,
                    reason,
                    "does not take the change over; a new process does"
                );
            }
            Report::Killed { generation } => {
                tracing::warn!(child = name, generation, "did not stop when asked and is killed");
            }
            Report::Stopped => tracing::info!(child = name, "stopped"),
        }
    }

    /// Keeps the records true.
    fn write_phases(&mut self, name: &str) {
        let Some(child) = self.children.get_mut(name) else { return };
        for generation in child.machine.generations() {
            let phase = match generation.phase {
                Phase::Starting { .. } => Adopted::Starting,
                Phase::Ready { .. } => Adopted::Ready,
                Phase::Draining { .. } | Phase::Killed { .. } | Phase::Clearing { .. } => Adopted::Draining,
            };
            let Some(running) = child.running.get_mut(&generation.number) else { continue };
            // One that fell is not drained by the next supervisor either: it finds the process gone.
            let known = (phase, generation.order.id);
            if running.recorded == known || matches!(generation.phase, Phase::Clearing { .. }) {
                continue;
            }
            running.recorded = known;
            let record = Record {
                generation: generation.number,
                phase,
                since: running.since.as_second().try_into().unwrap_or_default(),
                spec: child.specs[&generation.order.id].clone(),
            };
            if let Err(error) = self.records.write(&record) {
                tracing::error!(child = name, %error, "its record cannot be written");
            }
        }
    }

    fn finish_stop(&mut self, name: &str) {
        let Some(child) = self.children.get_mut(name) else { return };
        if !child.machine.is_stopped() {
            return;
        }
        for waiting in child.stopping.drain(..) {
            let _ = waiting.send(());
        }
        if child.forget {
            self.children.remove(name);
            if let Some(notifier) = &self.notifier
                && let Err(error) = notifier.drop_kept(&log_name(name))
            {
                tracing::warn!(child = name, %error, "its log pipe is still kept outside this agent");
            }
            if let Some(groups) = &self.cgroups
                && let Err(error) = groups.role_without_limits(name).remove()
            {
                tracing::debug!(child = name, %error, "its control group stays for now");
            }
        }
    }
}

/// A copy of a descriptor of another process.
fn taken_from(process: BorrowedFd<'_>, number: i32) -> Option<OwnedFd> {
    pidfd_getfd(process, number, PidfdGetfdFlags::empty()).ok()
}
